/* stream.h - bytes of tokens in, text for the host out: whole code points only, stop strings honoured.
 * Owns: the incomplete code point at the end, the withheld suffix that may become a stop string.
 * The one thing to know: what has been emitted is never taken back, and the concatenation of all emitted pieces is the
 * final text. A suffix is withheld only while it is an incomplete code point or a proper prefix of a stop string.
 * Invalid bytes become U+FFFD as Python's bytes.decode("utf-8", "replace") does (one per maximal invalid part). Of
 * several stop strings the match that begins earliest in the text wins; it is known only when none that begins before
 * it can still complete. So the final text does not depend on how the bytes were cut into tokens. */
#ifndef KVI_STREAM_H
#define KVI_STREAM_H
#include "../base/mem.h"
#include "../base/status.h"

typedef struct kvi_stop {
    const char *text;
    size_t len;
} kvi_stop;

typedef struct kvi_stream {
    kvi_buf pending;       /* valid UTF-8 not yet emitted: a proper prefix of a stop string */
    kvi_buf out;           /* what the last call released */
    unsigned char tail[4]; /* bytes of a code point that is not complete */
    uint32_t n_tail;
    char *stop_bytes; /* all stop strings, one after the other */
    struct kvi_stop_at {
        size_t offset, len;
    } * stops; // (n_stops)
    size_t n_stops;
    bool begins[256];   /* some stop string begins with this byte */
    int32_t stopped_by; /* index of the stop string that matched, -1 */
    size_t max_stop;    /* bytes of the longest stop string */
} kvi_stream;

/* Copies the stop strings; empty ones are ignored (their index stays). n_stops may be 0. Errors: ARG (a stop string
 * that is not UTF-8 could never match), NOMEM_HOST. */
kvrt_status kvi_stream_init(kvi_stream *stream, const kvi_stop *stops, size_t n_stops, kvrt_error *error);
void kvi_stream_free(kvi_stream *stream);
/* Forgets text and match, keeps the stop strings. */
void kvi_stream_reset(kvi_stream *stream);
/* Reserves room so that pushes of at most max_bytes each allocate nothing. */
kvrt_status kvi_stream_reserve(kvi_stream *stream, size_t max_bytes, kvrt_error *error);

/* Adds the bytes of one token. *text, *text_len (may be 0) is what can be emitted now; valid until the next call on the
 * stream. *stopped becomes true when a stop string is complete: the text before it is in *text, the rest is dropped,
 * and further pushes give nothing. */
kvrt_status kvi_stream_push(kvi_stream *stream, const char *bytes, size_t len, const char **text, size_t *text_len,
                            bool *stopped, kvrt_error *error);
/* End of the text: releases what was withheld; an incomplete code point becomes U+FFFD. May still find a stop string
 * (an earlier, shorter match that waited for a longer one). */
kvrt_status kvi_stream_finish(kvi_stream *stream, const char **text, size_t *text_len, bool *stopped,
                              kvrt_error *error);
/* What kvi_stream_finish would release after a push of `bytes`; the stream stays as it is. */
kvrt_status kvi_stream_peek(kvi_stream *stream, const char *bytes, size_t len, const char **text, size_t *text_len,
                            kvrt_error *error);
/* Goes on where another stream stands: takes what that one withholds, which may match other stop strings here. */
kvrt_status kvi_stream_take(kvi_stream *stream, const kvi_stream *from, kvrt_error *error);

#endif
