/* encode.c - the encoder for every CPU, and what does not depend on the instruction set. See encode.h. */
#define ENCODER kvi_kv_encoder_portable
#define VB 16u
#include "encode_body.h"

void kvi_kv_varnorm_paper(const float *x, uint32_t n_rows, uint32_t n_cols, float *c, float *r, float *scratch,
                          int *best, double *imbalance)
{
    tile t = tile_in(scratch, n_rows, n_cols);
    t.c = c, t.r = r;
    transpose(x, n_rows, n_cols, t.origin_t);
    varnorm_paper(&t, best, imbalance);
}

void kvi_kv_decode_rows(const uint8_t *side, kvi_kv_code kind, bool is_v, uint32_t d, float *rows)
{
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
        for (uint32_t c = 0; c < d; c++)
            rows[t * d + c] = is_v ? kvi_kv_decode_v(side, kind, d, t, c) : kvi_kv_decode_k(side, kind, d, t, c);
}
