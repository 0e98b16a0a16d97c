/* snapshot_save.c - writing a snapshot: to a file that is replaced as a whole, to memory, to the host's callback. Piece after piece, so that nothing
 * of the size of the cache is held, and so that it fits between the steps of others (transfer.h). */
#include "drive.h"
#include "seat.h"
#include "snapshot.h"
#include "../base/checksum.h"

#include <string.h>

static kvrt_status to_file(kvi_sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    return kvi_os_replace_write(out->user, bytes, n, error);
}

/* Counts what does not fit. */
static kvrt_status to_memory(kvi_sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    (void)error;
    if (out->n < out->cap) memcpy((uint8_t *)out->user + out->n, bytes, n < out->cap - out->n ? n : out->cap - out->n);
    out->n += n;
    return KVRT_OK;
}

static kvrt_status to_host(kvi_sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    if (out->fn(out->user, bytes, n) == 0) return KVRT_OK;
    return kvi_error_set(error, KVRT_IO, "snapshot: the host's write function refused %llu bytes",
                         (unsigned long long)n);
}

/* A part and its checksum. */
static kvrt_status write_part(kvi_sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    uint8_t sum[8];
    out->sum = kvi_checksum(bytes, n, out->sum);
    for (int i = 0; i < 8; i++) sum[i] = (uint8_t)(out->sum >> (8 * i));
    KVI_TRY(out->write(out, bytes, n, error));
    return out->write(out, sum, sizeof sum, error);
}

/* Every page that is written, then the state, into saving->pages, where there is room for them: counts otherwise. *bytes: what they take. */
static void list_page(kvi_saving *w, uint32_t id, uint32_t g, uint32_t p, uint64_t *bytes)
{
    const kvi_page *page = &w->session->engine->store.pages[id];
    const uint64_t n = (uint64_t)page->units * KVI_KV_UNIT;
    if (w->pages) w->pages[w->n_pages] = (kvi_snapshot_page){g, p, page->format, page->units};
    w->n_pages++;
    *bytes += n + (n + KVI_SNAPSHOT_PIECE - 1) / KVI_SNAPSHOT_PIECE * 8;
}

static uint64_t list_pages(kvi_saving *w)
{
    const kvi_session *s = w->session;
    const uint32_t n_pages = (s->n_cached + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    uint64_t bytes = 0;
    w->n_pages = 0;
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = 0; p < n_pages; p++)
            if (s->pages.ids[g][p] != KVI_NO_PAGE) list_page(w, s->pages.ids[g][p], g, p, &bytes);
    if (s->states.live != KVI_NO_PAGE && s->n_cached) list_page(w, s->states.live, KVI_MAX_GROUPS, 0, &bytes);
    return bytes;
}

static uint64_t text_bytes(const kvi_generation *gen)
{
    return gen->sections.n_held + gen->stream.n_tail + gen->stream.pending.len;
}

static kvi_snapshot describe(kvi_session *s, bool tokens_only, uint32_t n_pages, uint64_t page_bytes)
{
    const kvi_generation *gen = &s->gen;
    const kvi_fingerprints *f = kvi_engine_fingerprints(s->engine);
    kvi_snapshot out = {.version = KVI_SNAPSHOT_VERSION,
                        .model = f->model,
                        .tokenizer = f->tokenizer,
                        .cache = f->cache,
                        .vocab_size = s->engine->config.vocab_size,
                        .n_tokens = s->n_tokens,
                        .n_cached = tokens_only ? 0 : s->n_cached,
                        .n_text = (uint32_t)text_bytes(gen),
                        .n_pages = n_pages,
                        .tail = s->pages.tail,
                        .body = s->pages.body,
                        .plain = s->pages.groups->plain,
                        .elastic = s->pages.elastic,
                        .goes_on = gen->goes_on || gen->state != KVI_DONE,
                        .reasoning = gen->sections.reasoning,
                        .n_held = gen->sections.n_held,
                        .n_tail = gen->stream.n_tail,
                        .decode_started = gen->decode.started,
                        .n_stripped = gen->decode.n_stripped,
                        .luck_begun = gen->luck.begun,
                        .luck_given = gen->luck.given,
                        .seed = gen->luck.seed};
    out.ahead = tokens_only ? 0 : s->shift.ahead;
    out.whole_from = tokens_only ? 0 : s->shift.whole_from;
    out.n_dropped = s->shift.n_dropped;
    out.n_pure = tokens_only ? 0 : s->n_pure;
    out.history[0] = s->shift.history.low, out.history[1] = s->shift.history.high;
    memcpy(out.random, gen->luck.random.state, sizeof out.random);
    out.total_bytes = KVI_SNAPSHOT_HEADER + (uint64_t)s->n_tokens * 4 + 8 + out.n_text + 8;
    if (!tokens_only) out.total_bytes += (uint64_t)n_pages * sizeof(kvi_snapshot_page) + 8 + page_bytes;
    return out;
}

/* Held bytes, incomplete code point, pending text. */
static void collect_text(const kvi_generation *gen, uint8_t *text)
{
    memcpy(text, gen->sections.held, gen->sections.n_held);
    memcpy(text + gen->sections.n_held, gen->stream.tail, gen->stream.n_tail);
    if (gen->stream.pending.len)
        memcpy(text + gen->sections.n_held + gen->stream.n_tail, gen->stream.pending.data, gen->stream.pending.len);
}

static kvrt_status write_front(kvi_saving *w, bool tokens_only, uint64_t page_bytes, kvrt_error *error)
{
    kvi_sink *out = &w->out;
    kvi_session *s = w->session;
    uint8_t header[KVI_SNAPSHOT_HEADER];
    const kvi_snapshot snapshot = describe(s, tokens_only, w->n_pages, page_bytes);
    w->total_bytes = snapshot.total_bytes;
    kvi_snapshot_put(&snapshot, header);
    KVI_TRY(out->write(out, header, sizeof header, error));
    out->sum = kvi_checksum(header, sizeof header, 0);
    KVI_TRY(write_part(out, s->tokens, (uint64_t)s->n_tokens * 4, error));
    collect_text(&s->gen, w->scratch);
    KVI_TRY(write_part(out, w->scratch, snapshot.n_text, error));
    return tokens_only ? KVRT_OK : write_part(out, w->pages, (uint64_t)w->n_pages * sizeof *w->pages, error);
}

kvrt_status kvi_saving_begin(kvi_saving *w, kvi_session *s, uint32_t flags, kvi_sink out, kvrt_error *error)
{
    const bool tokens_only = flags & KVRT_SNAPSHOT_TOKENS;
    *w = (kvi_saving){.session = s, .out = out};
    KVI_TRY(kvi_snapshot_check_flags(flags, false, error));
    const uint64_t page_bytes = tokens_only ? 0 : list_pages(w), text = text_bytes(&s->gen),
                   room = text > KVI_SNAPSHOT_PIECE ? text : KVI_SNAPSHOT_PIECE;
    w->scratch = kvi_mem_alloc(room);
    if (!tokens_only) w->pages = kvi_mem_zalloc(w->n_pages, sizeof *w->pages);
    if (!w->scratch || (!tokens_only && !w->pages)) return kvi_error_nomem(error, room, "snapshot");
    if (!tokens_only) (void)list_pages(w);
    return write_front(w, tokens_only, page_bytes, error);
}

kvrt_status kvi_saving_go(kvi_saving *w, kvrt_error *error)
{
    kvi_engine *e = w->session->engine;
    const kvi_session *s = w->session;
    if (w->page == w->n_pages) return KVRT_OK;
    const kvi_snapshot_page *page = &w->pages[w->page];
    const uint32_t id = page->group == KVI_MAX_GROUPS ? s->states.live : s->pages.ids[page->group][page->index];
    const uint64_t all = (uint64_t)page->units * KVI_KV_UNIT, left = all - w->offset,
                   n = left < KVI_SNAPSHOT_PIECE ? left : KVI_SNAPSHOT_PIECE;
    const uint64_t from = (uint64_t)e->store.pages[id].unit * KVI_KV_UNIT + w->offset;
    KVI_TRY(kvi_engine_noted(e, e->backend->pool_read(e->device, from, w->scratch, n, error)));
    KVI_TRY(write_part(&w->out, w->scratch, n, error));
    w->offset += n;
    if (w->offset == all) w->page++, w->offset = 0;
    return w->page == w->n_pages ? KVRT_OK : KVRT_MORE;
}

void kvi_saving_free(kvi_saving *w)
{
    kvi_mem_free(w->scratch);
    kvi_mem_free(w->pages);
    w->scratch = NULL, w->pages = NULL;
}

static kvrt_status save(kvi_session *s, uint32_t flags, kvi_sink *out, kvrt_error *error)
{
    kvi_saving saving;
    kvrt_status status = kvi_saving_begin(&saving, s, flags, *out, error);
    if (status >= KVRT_OK) status = KVRT_MORE;
    while (status == KVRT_MORE) status = kvi_saving_go(&saving, error);
    *out = saving.out;
    kvi_saving_free(&saving);
    return status;
}

kvi_sink kvi_sink_file(kvi_os_writer *writer) { return (kvi_sink){.write = to_file, .user = writer}; }

/* A session whose request runs is saved between two of its tokens. */
static kvrt_status enter(kvrt_session handle, kvi_session **out, kvrt_error *error)
{
    KVI_TRY(kvi_session_enter(handle, KVI_DRIVE, out, error));
    kvi_session *s = *out;
    kvrt_status status = KVRT_OK;
    if (s->transfer) status = kvi_error_set(error, KVRT_STATE, "session: it is being saved or loaded");
    if (status >= KVRT_OK) kvi_drive_finish_of(s->engine, s);
    if (status >= KVRT_OK) status = kvi_session_come_back(s, error);
    if (status >= KVRT_OK && s->shift.sink_is_behind) {
        kvi_drive_finish(s->engine);
        status = kvi_session_finish_sink(s, error);
    }
    if (status < KVRT_OK) kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_session_save(kvrt_session handle, const char *path, uint32_t flags, kvrt_error *error)
{
    kvi_session *s;
    kvi_os_writer writer = {.file = 0};
    if (!path) return kvi_error_set(error, KVRT_ARG, "kvrt_session_save: path is NULL");
    KVI_TRY(enter(handle, &s, error));
    kvi_sink out = kvi_sink_file(&writer);
    kvrt_status status = kvi_os_replace_begin(&writer, path, error);
    if (status >= KVRT_OK) status = save(s, flags, &out, error);
    const kvrt_status ended = kvi_os_replace_end(&writer, status >= KVRT_OK, error);
    kvi_session_leave(s, KVI_DRIVE);
    return status < KVRT_OK ? status : ended;
}

kvrt_status kvrt_session_save_bytes(kvrt_session handle, uint32_t flags, void *bytes, uint64_t cap, uint64_t *n,
                                    kvrt_error *error)
{
    kvi_session *s;
    if (!n || (cap && !bytes)) return kvi_error_set(error, KVRT_ARG, "kvrt_session_save_bytes: bytes or n is NULL");
    KVI_TRY(enter(handle, &s, error));
    kvi_sink out = {.write = to_memory, .user = bytes, .cap = cap};
    const kvrt_status status = save(s, flags, &out, error);
    kvi_session_leave(s, KVI_DRIVE);
    if (status < KVRT_OK) return status;
    *n = out.n;
    return out.n > cap ? KVRT_PARTIAL : KVRT_OK;
}

kvrt_status kvrt_session_save_to(kvrt_session handle, uint32_t flags, kvrt_write_fn fn, void *user, kvrt_error *error)
{
    kvi_session *s;
    if (!fn) return kvi_error_set(error, KVRT_ARG, "kvrt_session_save_to: fn is NULL");
    KVI_TRY(enter(handle, &s, error));
    kvi_sink out = {.write = to_host, .user = user, .fn = fn};
    const kvrt_status status = save(s, flags, &out, error);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}
