/* study_codec.c - what compare.py takes from C: the cache's own encoder, and Viterbi's search. Built by kvrt_codec.py. */
#include "../../../runtime/kv/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const kvi_kv_encoder *encoder(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return &kvi_kv_encoder_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kvi_kv_encoder_avx2;
#endif
    return &kvi_kv_encoder_portable;
}

/* n_tiles tiles (128, d) of rotated rows to what is read back; code: kvi_kv_code. queries: NULL, or (n_tiles, 2, n_rows, d) of the page and its
 * successor, which is missing where has_next is 0; keys: of V, its tiles' keys, or NULL. False: no memory. */
int study_encode(int code, int is_v, const float *rows, int n_tiles, int d, const int8_t *queries, int n_rows,
                 const uint8_t *has_next, const float *keys, float *out)
{
    const kvi_kv_code kind = (kvi_kv_code)code;
    const kvi_encode_params params = {.varnorm = KVI_VARNORM_KVRT, .range = KVI_RANGE_UNBIASED};
    const kvi_kv_side side = is_v ? kvi_kv_v_side(kind, (uint32_t)d) : kvi_kv_k_side(kind, (uint32_t)d);
    float *scratch = aligned_alloc(64, (kvi_kv_encode_scratch((uint32_t)d) * sizeof(float) + 63) / 64 * 64);
    uint8_t *bytes = malloc(side.bytes + 64);
    for (int i = 0; i < n_tiles && scratch && bytes; i++) {
        const float *tile = rows + (size_t)i * KVI_KV_PAGE * (size_t)d;
        const int8_t *q = queries ? queries + (size_t)i * 2 * (size_t)(n_rows * d) : NULL;
        const kvi_kv_queries metric = {{q, q + n_rows * d},
                                       {(uint32_t)n_rows, q && has_next[i] ? (uint32_t)n_rows : 0},
                                       keys ? keys + (size_t)i * KVI_KV_PAGE * (size_t)d : NULL};
        if (is_v) encoder()->v(kind, tile, (uint32_t)d, &params, q ? &metric : NULL, scratch, bytes);
        else encoder()->k(kind, tile, (uint32_t)d, &params, q ? &metric : NULL, scratch, bytes);
        kvi_kv_decode_rows(bytes, kind, is_v, (uint32_t)d, out + (size_t)i * KVI_KV_PAGE * (size_t)d);
    }
    const int done = scratch && bytes;
    free(scratch);
    free(bytes);
    return done;
}

/* n queries (d), rotated, as plain pages keep them. */
void study_queries(const float *q, int n, int d, int8_t *out)
{
    for (int i = 0; i < n; i++) encoder()->query(q + (size_t)i * (size_t)d, (uint32_t)d, out + (size_t)i * (size_t)d);
}

/* Rows x (n_rows, n) to the windows of the path that errs least. A window is a code of `bits` bits above `history` older bits, and table
 * (2^(history + bits)) its level. A row begins with history 0 and ends anywhere. False: no memory. */
int study_viterbi(const float *x, int n_rows, int n, int bits, int history, const float *table, int16_t *windows)
{
    const int states = 1 << history, branches = 1 << bits;
    float *cost = malloc(2 * (size_t)states * sizeof *cost);
    uint8_t *choice = malloc((size_t)n * (size_t)states);
    for (int r = 0; r < n_rows && cost && choice; r++) {
        float *old = cost, *best = cost + states;
        memset(old, 0, (size_t)states * sizeof *old);
        for (int i = n - 1; i >= 0; i--) { /* backwards, so that the codes are read off forwards */
            const float y = x[(size_t)r * (size_t)n + (size_t)i];
            uint8_t *take = choice + (size_t)i * (size_t)states;
            for (int s = 0; s < states; s++) best[s] = INFINITY;
            for (int j = 0; j < branches; j++)
                for (int s = 0; s < states; s++) {
                    const float e = y - table[s + states * j], c = e * e + old[(s + states * j) >> bits];
                    take[s] = c < best[s] ? (uint8_t)j : take[s];
                    best[s] = c < best[s] ? c : best[s];
                }
            float *swap = old;
            old = best, best = swap;
        }
        for (int i = 0, s = 0; i < n; i++) {
            const int w = s + states * choice[(size_t)i * (size_t)states + (size_t)s];
            windows[(size_t)r * (size_t)n + (size_t)i] = (int16_t)w;
            s = w >> bits;
        }
    }
    const int done = cost && choice;
    free(cost);
    free(choice);
    return done;
}
