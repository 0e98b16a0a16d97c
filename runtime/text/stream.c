/* stream.c - see stream.h. The text that is not out yet lies in `pending`; each call scans it from the front and stops
 * at the first place where a stop string matches (done) or may still match (withheld from there on). */
#include "stream.h"
#include "../base/utf8.h"

#include <string.h>

kvrt_status kvi_stream_init(kvi_stream *stream, const kvi_stop *stops, size_t n_stops, kvrt_error *error)
{
    memset(stream, 0, sizeof *stream);
    stream->stopped_by = -1;
    size_t total = 0;
    for (size_t i = 0; i < n_stops; i++) {
        if (kvi_utf8_valid_prefix(stops[i].text, stops[i].len) != stops[i].len)
            return kvi_error_set(error, KVRT_ARG, "stop string %zu is not valid UTF-8", i);
        if (!__builtin_add_overflow(total, stops[i].len, &total)) continue;
        return kvi_error_set(error, KVRT_ARG, "stop strings are too long");
    }
    if (n_stops == 0) return KVRT_OK;
    stream->stop_bytes = kvi_mem_alloc(total);
    stream->stops = kvi_mem_zalloc(n_stops, sizeof *stream->stops);
    if (!stream->stop_bytes || !stream->stops) {
        kvi_stream_free(stream);
        return kvi_error_nomem(error, total, "stop strings");
    }
    size_t offset = 0;
    for (size_t i = 0; i < n_stops; i++) {
        stream->stops[i] = (struct kvi_stop_at){.offset = offset, .len = stops[i].len};
        if (stops[i].len == 0) continue;
        memcpy(stream->stop_bytes + offset, stops[i].text, stops[i].len);
        stream->begins[(unsigned char)stops[i].text[0]] = true;
        if (stops[i].len > stream->max_stop) stream->max_stop = stops[i].len;
        offset += stops[i].len;
    }
    stream->n_stops = n_stops;
    return KVRT_OK;
}

void kvi_stream_free(kvi_stream *stream)
{
    kvi_buf_free(&stream->pending);
    kvi_buf_free(&stream->out);
    kvi_mem_free(stream->stop_bytes);
    kvi_mem_free(stream->stops);
    memset(stream, 0, sizeof *stream);
    stream->stopped_by = -1;
}

void kvi_stream_reset(kvi_stream *stream)
{
    kvi_buf_clear(&stream->pending);
    kvi_buf_clear(&stream->out);
    stream->n_tail = 0;
    stream->stopped_by = -1;
}

kvrt_status kvi_stream_reserve(kvi_stream *stream, size_t max_bytes, kvrt_error *error)
{
    /* Each invalid byte becomes three; four more for the tail of the push before. */
    uint64_t need;
    if (!kvi_mul_u64((uint64_t)max_bytes + 4, 3, &need) || !kvi_add_u64(need, stream->max_stop + 1, &need))
        return kvi_error_nomem(error, max_bytes, "text stream");
    void *pending = stream->pending.data, *out = stream->out.data;
    bool ok = kvi_mem_grow(&pending, &stream->pending.cap, (size_t)need, 1);
    stream->pending.data = pending;
    ok = ok && kvi_mem_grow(&out, &stream->out.cap, (size_t)need, 1);
    stream->out.data = out;
    return ok ? KVRT_OK : kvi_error_nomem(error, need, "text stream");
}

/* --------------------------------------------------------------------------------------------- bytes to text --- */
/* Moves what is decided of the tail into the text: complete code points, and U+FFFD for what cannot become one. */
static void settle_tail(kvi_stream *stream)
{
    while (stream->n_tail > 0) {
        const char *tail = (const char *)stream->tail;
        uint32_t cp;
        size_t n = kvi_utf8_decode(tail, stream->n_tail, &cp);
        if (n > 0) {
            kvi_buf_append(&stream->pending, tail, n);
        } else {
            bool partial;
            n = kvi_utf8_bad_len(tail, stream->n_tail, &partial);
            if (partial) return;
            kvi_utf8_append(&stream->pending, 0xfffd);
        }
        stream->n_tail -= (uint32_t)n;
        memmove(stream->tail, stream->tail + n, stream->n_tail);
    }
}

static void add_bytes(kvi_stream *stream, const char *bytes, size_t len)
{
    for (size_t pos = 0; pos < len;) {
        if (stream->n_tail == 0) {
            size_t n = kvi_utf8_valid_prefix(bytes + pos, len - pos);
            kvi_buf_append(&stream->pending, bytes + pos, n);
            pos += n;
            if (pos == len) return;
        }
        stream->tail[stream->n_tail++] = (unsigned char)bytes[pos++];
        settle_tail(stream);
    }
}

/* ----------------------------------------------------------------------------------------------- stop strings --- */
typedef enum fit { FIT_NONE, FIT_MAYBE, FIT_WHOLE } fit;

/* Whether a stop string stands at `pos`, or could once more text follows. */
static fit fit_at(const kvi_stream *stream, size_t pos, int32_t *which)
{
    const char *text = stream->pending.data + pos;
    size_t left = stream->pending.len - pos;
    fit best = FIT_NONE;
    if (!stream->begins[(unsigned char)text[0]]) return best;
    for (size_t i = 0; i < stream->n_stops; i++) {
        const char *stop = stream->stop_bytes + stream->stops[i].offset;
        size_t len = stream->stops[i].len;
        if (len == 0 || memcmp(text, stop, len < left ? len : left) != 0) continue;
        if (len <= left) {
            *which = (int32_t)i;
            return FIT_WHOLE;
        }
        best = FIT_MAYBE;
    }
    return best;
}

/* Copies to `out` the text before the first match or possible match; with `final` nothing more can come. */
static fit scan(kvi_stream *stream, bool final, int32_t *which)
{
    kvi_buf_clear(&stream->out);
    size_t pos = stream->n_stops ? 0 : stream->pending.len;
    fit found = FIT_NONE;
    for (; pos < stream->pending.len; pos++) {
        found = fit_at(stream, pos, which);
        if (found == FIT_WHOLE || (found == FIT_MAYBE && !final)) break;
        found = FIT_NONE;
    }
    kvi_buf_append(&stream->out, stream->pending.data, pos);
    return found;
}

static kvrt_status give(const kvi_stream *stream, const char **text, size_t *text_len, kvrt_error *error)
{
    if (stream->pending.failed || stream->out.failed) return kvi_error_nomem(error, stream->pending.len, "text stream");
    *text = stream->out.len ? stream->out.data : "";
    *text_len = stream->out.len;
    return KVRT_OK;
}

static kvrt_status release(kvi_stream *stream, bool final, const char **text, size_t *text_len, bool *stopped,
                           kvrt_error *error)
{
    const fit found = scan(stream, final, &stream->stopped_by);
    KVI_TRY(give(stream, text, text_len, error));
    const size_t pos = stream->out.len;
    stream->pending.len -= pos;
    if (stream->pending.len) memmove(stream->pending.data, stream->pending.data + pos, stream->pending.len);
    if (found == FIT_WHOLE) {
        *stopped = true;
        stream->pending.len = 0;
        stream->n_tail = 0;
    }
    return KVRT_OK;
}

kvrt_status kvi_stream_push(kvi_stream *stream, const char *bytes, size_t len, const char **text, size_t *text_len,
                            bool *stopped, kvrt_error *error)
{
    *text = "";
    *text_len = 0;
    *stopped = stream->stopped_by >= 0;
    if (*stopped) return KVRT_OK;
    add_bytes(stream, bytes, len);
    return release(stream, false, text, text_len, stopped, error);
}

kvrt_status kvi_stream_finish(kvi_stream *stream, const char **text, size_t *text_len, bool *stopped, kvrt_error *error)
{
    *text = "";
    *text_len = 0;
    *stopped = stream->stopped_by >= 0;
    if (*stopped) return KVRT_OK;
    if (stream->n_tail > 0) kvi_utf8_append(&stream->pending, 0xfffd); /* one maximal part, by construction */
    stream->n_tail = 0;
    return release(stream, true, text, text_len, stopped, error);
}

kvrt_status kvi_stream_peek(kvi_stream *stream, const char *bytes, size_t len, const char **text, size_t *text_len,
                            kvrt_error *error)
{
    unsigned char tail[sizeof stream->tail];
    const uint32_t n_tail = stream->n_tail;
    const size_t n_pending = stream->pending.len;
    int32_t which;
    *text = "";
    *text_len = 0;
    if (stream->stopped_by >= 0) return KVRT_OK;
    memcpy(tail, stream->tail, sizeof tail);
    add_bytes(stream, bytes, len);
    if (stream->n_tail > 0) kvi_utf8_append(&stream->pending, 0xfffd);
    (void)scan(stream, true, &which);
    const kvrt_status status = give(stream, text, text_len, error);
    stream->pending.len = n_pending;
    memcpy(stream->tail, tail, sizeof tail);
    stream->n_tail = n_tail;
    return status;
}

kvrt_status kvi_stream_take(kvi_stream *stream, const kvi_stream *from, kvrt_error *error)
{
    kvi_stream_reset(stream);
    if (from->stopped_by >= 0) return KVRT_OK;
    kvi_buf_append(&stream->pending, from->pending.data, from->pending.len);
    memcpy(stream->tail, from->tail, sizeof stream->tail);
    stream->n_tail = from->n_tail;
    return stream->pending.failed ? kvi_error_nomem(error, from->pending.len, "text stream") : KVRT_OK;
}
