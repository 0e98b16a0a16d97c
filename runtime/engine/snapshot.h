/* snapshot.h - a session as bytes: the same on every device. Everything is little-endian and has a checksum (XXH3, chained from part to part, so
 * that whole parts in a wrong order are found too); pages are as they stand in the pool (kv/layout.h).
 *
 *   header      fixed, KVI_SNAPSHOT_HEADER bytes; its last 8 are its checksum
 *   tokens      n_tokens x 4, then 8 bytes of checksum
 *   text        what waits of the text in progress, n_text, then 8 bytes of checksum
 *   directory   n_pages x 16: {group, index, format, bytes / KVI_KV_UNIT}, then 8 bytes of checksum
 *   pages       one after the other, in pieces of KVI_SNAPSHOT_PIECE bytes, the last of a page shorter: bytes, then 8 bytes of checksum
 *
 * A snapshot of tokens alone ends after the text and has n_cached = 0.
 * A recurrent state is a "page" of group KVI_MAX_GROUPS. Loading looks at every byte before it changes the session. */
#ifndef KVI_SNAPSHOT_H
#define KVI_SNAPSHOT_H
#include "session.h"

#define KVI_SNAPSHOT_VERSION 3u
#define KVI_SNAPSHOT_PIECE                                                                                             \
    (256u << 10) /* what is written or read at once: a tenth of a millisecond, where the medium keeps up */
#define KVI_SNAPSHOT_HEADER 256u

typedef struct kvi_snapshot {
    uint32_t version;
    uint64_t model, tokenizer, cache; /* fingerprints; 0: none (a synthetic shape has no tokenizer) */
    uint32_t vocab_size, n_tokens, n_cached, n_text, n_pages, tail, body, plain, elastic;
    /* The text and the random numbers. */
    uint32_t goes_on, reasoning, n_held, n_tail, decode_started, n_stripped, luck_begun, luck_given;
    uint64_t seed, random[4];
    uint64_t total_bytes; /* of the snapshot */
    /* What a full context has dropped (shift.c). */
    uint32_t ahead, n_dropped;
    uint64_t history[2];
    uint32_t whole_from;
    uint32_t n_pure; /* leading positions whose pages are what any session has for these tokens (session.h) */
} kvi_snapshot;

/* What stands behind the held bytes of the sections and the incomplete code point in the text part: the pending text. */
typedef struct kvi_snapshot_page {
    uint32_t group, index, format, units;
} kvi_snapshot_page;

void kvi_snapshot_put(const kvi_snapshot *snapshot, uint8_t bytes[KVI_SNAPSHOT_HEADER]);
/* Of a snapshot of n bytes; 0: the header alone is there. SNAPSHOT_CORRUPT, or SNAPSHOT_MISMATCH for another version: tells which. */
kvrt_status kvi_snapshot_get(const uint8_t *bytes, uint64_t n, kvi_snapshot *out, kvrt_error *error);

/* WRITING, a piece at a time. */
typedef struct kvi_sink {
    kvrt_status (*write)(struct kvi_sink *sink, const void *bytes, uint64_t n, kvrt_error *error);
    void *user;
    kvrt_write_fn fn;
    uint64_t n, cap; /* in memory: written, room */
    uint64_t sum;    /* of all parts so far */
} kvi_sink;
typedef struct kvi_saving {
    kvi_session *session;
    kvi_sink out;
    kvi_snapshot_page *pages; /* (n_pages) all that are written; NULL: tokens alone */
    uint32_t n_pages;
    uint8_t *scratch; /* text, then pieces */
    uint64_t total_bytes;
    uint32_t page; /* that is next, from `offset` on */
    uint64_t offset;
} kvi_saving;
/* Writes all but the pages. Until it is freed the session must not change. */
kvrt_status kvi_saving_begin(kvi_saving *saving, kvi_session *session, uint32_t flags, kvi_sink out, kvrt_error *error);
/* The next piece. MORE: there are others. */
kvrt_status kvi_saving_go(kvi_saving *saving, kvrt_error *error);
void kvi_saving_free(kvi_saving *saving); /* zeroes are fine */
kvi_sink kvi_sink_file(kvi_os_writer *writer);

/* READING, likewise: looks at every byte, then takes the session's pages from it and gives it others, then fills these. Until it is taken nothing has
 * changed, and whatever fails leaves it so; behind it only the device can fail. */
typedef struct kvi_reading {
    const uint8_t *bytes;
    uint64_t n, at;
    uint64_t sum; /* of all parts so far */
    kvi_snapshot head;
    const uint8_t *tokens, *text, *directory, *pages;
} kvi_reading;
typedef struct kvi_loading {
    kvi_session *session;
    kvi_reading r;
    uint32_t flags;
    enum { KVI_LOADING_LOOKS, KVI_LOADING_TAKES, KVI_LOADING_FILLS } stage;
    bool *known;        /* (n_pages) found in the store */
    kvi_page_key *keys; /* (n_keys) of the whole pages of the file's first n_pure tokens */
    uint32_t n_keys;
    uint32_t page; /* that is next, from `offset` on */
    uint64_t offset;
} kvi_loading;
kvrt_status kvi_loading_begin(kvi_loading *loading, kvi_session *session, const void *bytes, uint64_t n, uint32_t flags,
                              kvrt_error *error);
/* The next piece. MORE: there are others. At KVI_LOADING_TAKES pages may move: no step may be under way. */
kvrt_status kvi_loading_go(kvi_loading *loading, kvrt_error *error);
void kvi_loading_free(kvi_loading *loading); /* zeroes are fine */
kvrt_status kvi_snapshot_check_flags(uint32_t flags, bool loading, kvrt_error *error);

/* Computed when they are first asked for. */
/* That of the model alone. */
uint64_t kvi_engine_model_fingerprint(const kvi_engine *engine);
const kvi_fingerprints *kvi_engine_fingerprints(kvi_engine *engine);

#endif
