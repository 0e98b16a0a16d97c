/* snapshot.c - the header of a snapshot, and fingerprints. Whoever adds a field adds it at the end of `fields` and raises the version. */
#include "snapshot.h"
#include "../base/checksum.h"

#include <string.h>

static const char magic[8] = {'K', 'V', 'R', 'T', 'S', 'N', 'A', 'P'};

/* The numbers of the header, in their order: one list for both directions. */
#define FIELD(name)                                                                                                    \
    {                                                                                                                  \
        offsetof(kvi_snapshot, name), sizeof(((kvi_snapshot *)NULL)->name)                                             \
    }
static const struct {
    size_t offset, size;
} fields[] = {FIELD(version),    FIELD(model),       FIELD(tokenizer),      FIELD(cache),      FIELD(vocab_size),
              FIELD(n_tokens),   FIELD(n_cached),    FIELD(n_text),         FIELD(n_pages),    FIELD(tail),
              FIELD(body),       FIELD(plain),       FIELD(elastic),        FIELD(goes_on),    FIELD(reasoning),
              FIELD(n_held),     FIELD(n_tail),      FIELD(decode_started), FIELD(n_stripped), FIELD(luck_begun),
              FIELD(luck_given), FIELD(seed),        FIELD(random[0]),      FIELD(random[1]),  FIELD(random[2]),
              FIELD(random[3]),  FIELD(total_bytes), FIELD(ahead),          FIELD(n_dropped),  FIELD(history[0]),
              FIELD(history[1]), FIELD(whole_from),  FIELD(n_pure)};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static void put(uint8_t **at, uint64_t value, size_t n)
{
    for (size_t i = 0; i < n; i++) *(*at)++ = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t **at, size_t n)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value |= (uint64_t) * (*at)++ << (8 * i);
    return value;
}

void kvi_snapshot_put(const kvi_snapshot *s, uint8_t bytes[KVI_SNAPSHOT_HEADER])
{
    uint8_t *at = bytes;
    memset(bytes, 0, KVI_SNAPSHOT_HEADER);
    memcpy(at, magic, sizeof magic);
    at += sizeof magic;
    for (size_t i = 0; i < N_FIELDS; i++) {
        const char *field = (const char *)s + fields[i].offset;
        uint64_t wide = 0;
        uint32_t narrow = 0;
        memcpy(&wide, field, fields[i].size == 8 ? 8 : 0);
        memcpy(&narrow, field, fields[i].size == 4 ? 4 : 0);
        put(&at, fields[i].size == 8 ? wide : narrow, fields[i].size);
    }
    at = bytes + KVI_SNAPSHOT_HEADER - 8;
    put(&at, kvi_checksum(bytes, KVI_SNAPSHOT_HEADER - 8, 0), 8);
}

kvrt_status kvi_snapshot_get(const uint8_t *bytes, uint64_t n, kvi_snapshot *s, kvrt_error *error)
{
    const uint8_t *at = bytes + sizeof magic, *sum = bytes + KVI_SNAPSHOT_HEADER - 8;
    if (n && n < KVI_SNAPSHOT_HEADER)
        return kvi_error_set(error, KVRT_SNAPSHOT_CORRUPT, "snapshot: %llu bytes, a header has %u",
                             (unsigned long long)n, KVI_SNAPSHOT_HEADER);
    if (memcmp(bytes, magic, sizeof magic) != 0)
        return kvi_error_set(error, KVRT_SNAPSHOT_CORRUPT, "snapshot: does not begin with KVRTSNAP");
    if (get(&sum, 8) != kvi_checksum(bytes, KVI_SNAPSHOT_HEADER - 8, 0))
        return kvi_error_set(error, KVRT_SNAPSHOT_CORRUPT, "snapshot: the header is damaged");
    for (size_t i = 0; i < N_FIELDS; i++) {
        const uint64_t wide = get(&at, fields[i].size);
        const uint32_t narrow = (uint32_t)wide;
        memcpy((char *)s + fields[i].offset, fields[i].size == 8 ? (const void *)&wide : &narrow, fields[i].size);
    }
    if (s->version != KVI_SNAPSHOT_VERSION)
        return kvi_error_set(error, KVRT_SNAPSHOT_MISMATCH, "snapshot: version %u, need %u", s->version,
                             KVI_SNAPSHOT_VERSION);
    if (n ? s->total_bytes != n : s->total_bytes < KVI_SNAPSHOT_HEADER)
        return kvi_error_set(error, KVRT_SNAPSHOT_CORRUPT, "snapshot: %llu bytes, its header says %llu",
                             (unsigned long long)n, (unsigned long long)s->total_bytes);
    return KVRT_OK;
}

kvrt_status kvi_snapshot_check_flags(uint32_t flags, bool loading, kvrt_error *error)
{
    const uint32_t known = loading ? KVRT_SNAPSHOT_TOKENS | KVRT_SNAPSHOT_OWN : KVRT_SNAPSHOT_TOKENS;
    if (!(flags & ~known)) return KVRT_OK;
    return kvi_error_set(error, KVRT_ARG, "snapshot: flags 0x%x, need 0 or KVRT_SNAPSHOT_TOKENS%s", flags,
                         loading ? " or KVRT_SNAPSHOT_OWN" : "");
}

/* --------------------------------------------------------------------------------------------------- fingerprints --- */
#define SAMPLE 256u /* bytes of a tensor's middle: other weights of the same shapes differ there */

static uint64_t of_text(const char *text, uint64_t seed) { return kvi_checksum(text, strlen(text), seed); }

uint64_t kvi_engine_model_fingerprint(const kvi_engine *e)
{
    const kvi_model_config *c = &e->config;
    const uint32_t facts[] = {c->n_layers, c->hidden_size, c->vocab_size};
    uint64_t sum = kvi_checksum(facts, sizeof facts, 1);
    if (!e->checkpoint) return of_text(kvi_options_string(e->options, "model.shape"), sum);
    if (strcmp(kvi_options_string(e->options, "weights.type"), "auto") != 0 ||
        strcmp(kvi_options_string(e->options, "weights.head"), "auto") != 0 ||
        strcmp(kvi_options_string(e->options, "weights.embed"), "auto") != 0) { /* rounded at open: another model */
        const int64_t group = kvi_options_i64(e->options, "weights.group");
        sum = of_text(kvi_options_string(e->options, "weights.type"), kvi_checksum(&group, sizeof group, sum));
        sum = of_text(kvi_options_string(e->options, "weights.head"), sum);
        sum = of_text(kvi_options_string(e->options, "weights.embed"), sum);
    }
    for (uint64_t i = 0; i < e->checkpoint->n_tensors; i++) {
        const kvi_tensor *t = kvi_checkpoint_at(e->checkpoint, i);
        const uint64_t n = t->bytes < SAMPLE ? t->bytes : SAMPLE, from = (t->bytes - n) / 2;
        uint64_t one = of_text(t->name, t->form);
        one = kvi_checksum(t->shape, t->n_dims * sizeof *t->shape, one);
        sum += kvi_checksum(t->data + from, n, one); /* in whatever order the container lists them */
    }
    return sum ? sum : 1;
}

static uint64_t of_tokenizer(const kvi_tokenizer *tokenizer)
{
    uint64_t sum = 2;
    if (!tokenizer) return 0;
    const int32_t n = kvi_tokenizer_vocab_size(tokenizer);
    for (int32_t id = 0; id < n; id++) {
        const char *bytes = "";
        size_t len = 0;
        kvi_tokenizer_token_bytes(tokenizer, NULL, id, KVRT_DETOKENIZE_KEEP_SPECIAL, &bytes, &len);
        sum = kvi_checksum(bytes, len, sum);
    }
    return sum ? sum : 1;
}

/* Shapes, windows, rotation, queries kept: what a page's numbers stand for. */
static uint64_t of_cache(const kvi_engine *e)
{
    uint64_t sum = kvi_checksum(&e->program.program.state_bytes, sizeof e->program.program.state_bytes, 3);
    for (uint32_t g = 0; g < e->program.program.n_groups; g++) {
        const kvi_cache_group *group = &e->program.groups[g];
        const uint32_t facts[] = {group->shape.n_layers, group->shape.n_kv_heads, group->shape.head_dim,
                                  group->window,         group->rotate,           group->plain,
                                  group->n_queries};
        sum = kvi_checksum(facts, sizeof facts, sum);
    }
    return sum;
}

const kvi_fingerprints *kvi_engine_fingerprints(kvi_engine *e)
{
    kvi_fingerprints *f = &e->fingerprints;
    if (!f->are_known)
        *f = (kvi_fingerprints){.are_known = true,
                                .model = kvi_engine_model_fingerprint(e),
                                .tokenizer = of_tokenizer(e->tokenizer),
                                .cache = of_cache(e)};
    return f;
}
