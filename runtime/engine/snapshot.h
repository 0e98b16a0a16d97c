/* snapshot.h - a session as bytes: the same on every device. Everything is little-endian and has a checksum (XXH3, chained from part to part, so
 * that whole parts in a wrong order are found too); pages are as they stand in the pool (kv/layout.h).
 *
 *   header      fixed, KVI_SNAPSHOT_HEADER bytes; its last 8 are its checksum
 *   tokens      n_tokens x 4, then 8 bytes of checksum
 *   text        what waits of the text in progress, n_text, then 8 bytes of checksum
 *   directory   n_pages x 16: {group, index, format, bytes / KVI_KV_UNIT}, then 8 bytes of checksum
 *   pages       one after the other: bytes, then 8 bytes of checksum
 *
 * A snapshot of tokens alone ends after the text and has n_cached = 0.
 * A recurrent state is a "page" of group KVI_MAX_GROUPS. Loading looks at every byte before it changes the session. */
#ifndef KVI_SNAPSHOT_H
#define KVI_SNAPSHOT_H
#include "session.h"

#define KVI_SNAPSHOT_VERSION 2u
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
} kvi_snapshot;

/* What stands behind the held bytes of the sections and the incomplete code point in the text part: the pending text. */
typedef struct kvi_snapshot_page {
    uint32_t group, index, format, units;
} kvi_snapshot_page;

void kvi_snapshot_put(const kvi_snapshot *snapshot, uint8_t bytes[KVI_SNAPSHOT_HEADER]);
/* Of a snapshot of n bytes; 0: the header alone is there. SNAPSHOT_CORRUPT, or SNAPSHOT_MISMATCH for another version: tells which. */
kvrt_status kvi_snapshot_get(const uint8_t *bytes, uint64_t n, kvi_snapshot *out, kvrt_error *error);

/* Computed when they are first asked for. */
/* That of the model alone. */
uint64_t kvi_engine_model_fingerprint(const kvi_engine *engine);
const kvi_fingerprints *kvi_engine_fingerprints(kvi_engine *engine);

#endif
