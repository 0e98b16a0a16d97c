/* encode_tile.cuh - a tile on its way through the encoder, the block's vectors in shared memory, and what the steps of encode.cu,
 * encode_feedback.cuh and encode_trellis.cuh share. No operation contracts (-fmad=false), and every sum runs in the CPU's order: encode_body.h. */
#ifndef KVI_ENCODE_TILE_CUH
#define KVI_ENCODE_TILE_CUH
#include "encode_params.h"
#include "ptx.cuh"
#include "../../runtime/kv/codec.h"
#include "../../runtime/kv/elementary.h"

#define THREADS KVI_CONVERT_THREADS
#define MOST KVI_CONVERT_MOST

/* A tile of n_rows rows of codes: K transposed (channels x tokens), V as it is. */
struct tile {
    float *x, *xt; /* (n_rows, n_cols), (n_cols, n_rows) */
    float *metric; /* (d, d) or, where that is more, (128, 128): of encode_feedback.cuh; where pages keep queries */
    uint32_t n_rows, n_cols;
    const uint8_t *side; /* where its values come from */
    kvi_kv_code from;
    bool is_v;
    uint32_t d;
};
/* Shared memory, MOST floats each; errors: 8 MOST, of which the trellis makes rows of numbers; levels: (2, 64) of trellis.h. */
struct vectors {
    float *col, *row, *mean, *log_c, *log_r, *best_c, *best_r, *c, *r, *words, *errors, *levels;
};

/* Queries of a page and of its successor, in whose metric K and V are rounded; NULL: none. */
struct queries {
    const int8_t *rows[2];
    uint32_t n;          /* rows in each */
    const uint8_t *keys; /* of V: the page's K side */
    kvi_kv_code keys_code;
};

KVI_DEV float tame(float x) { return x != x ? 0.0f : x < -60000.0f ? -60000.0f : x > 60000.0f ? 60000.0f : x; }
KVI_DEV float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
KVI_DEV uint16_t side_f16(float x) { return kvi_f32_to_f16(clamp(x, -65504.0f, 65504.0f)); }
/* The CPU's round-then-clamp: the bounds are whole, so the order does not matter, and within them adding 1.5 * 2^23 rounds ties to even. */
KVI_DEV float to_code(float x, float top)
{
    const float y = clamp(x, 0.0f, top);
    return (y + 12582912.0f) - 12582912.0f;
}

/* Value (token, channel) of a side. */
KVI_DEV float decode(const uint8_t *side, kvi_kv_code code, uint32_t d, bool is_v, uint32_t token, uint32_t channel,
                     const float *levels)
{
    if (kvi_kv_code_is_trellis(code)) {
        const kvi_kv_side s = is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
        const uint32_t bits = kvi_kv_code_bits(code), row_bytes = (is_v ? d : KVI_KV_PAGE) / 8u * bits,
                       row = is_v ? token : channel, col = is_v ? channel : token;
        const uint32_t state = kvi_kv_state(side + row * row_bytes, row_bytes, col, bits);
        return kvi_kv_normal(levels[(bits - 2u) * KVI_KV_STATES + state], kvi_kv_side_value(side, s.a_off, row),
                             kvi_kv_side_value(side, s.o_off, col), kvi_kv_side_value(side, s.z_off, channel));
    }
    return is_v ? kvi_kv_decode_v(side, code, d, token, channel) : kvi_kv_decode_k(side, code, d, token, channel);
}

/* Value (row i, column j) as it was before anything was done to it. */
KVI_DEV float original(const tile &t, const vectors &v, uint32_t i, uint32_t j)
{
    return tame(decode(t.side, t.from, t.d, t.is_v, t.is_v ? i : j, t.is_v ? j : i, v.levels));
}

#endif
