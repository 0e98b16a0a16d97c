/* attention_prefill.cu - attention for many query rows, in one pass over the context: 128 columns (query row * heads per KV head + head) by a
 * block, 16 by a warp, their sums in registers; tokens pass through shared memory in stages of 8,192 / D, as F16, two stages deep.
 *
 * Packed pages become F16 on their way into shared memory: a thread expands 16 codes of K and 16 of V per stage, whose loads were issued before
 * the products of the stage in front. For 128 columns that is about 160 instructions of a thread against 2,000 to 4,000 cycles of its
 * tensor core, so no dequantized copy of the context, or of a window of it, is kept.
 * attn_prefill_any_* read every format, either side on its own (expand.cuh): codes are carried over the products, their scales are read behind them.
 * K of packed pages stands as (channel, token), as its codes do, K of F16 pages as (token, channel): two ways of ldmatrix.
 * The output leaves divided and rotated back: channel 8 i + 2 t + e of a query is register (i, e) of lane t, so that most butterflies are local. */
#include "attention_params.h"
#include "expand.cuh"
#include "ptx.cuh"
#include "rotation.cuh"
#include "warp.cuh"

#define WARPS 8
#define THREADS 256u
#define COLS 128u

template <int D> struct shape {
    static constexpr uint32_t tokens = 4096u / D; /* of a stage */
    static constexpr uint32_t pitch = D + 8u,
                              turned = tokens + 8u; /* halves; 8 rows of either fall into different banks */
    static constexpr uint32_t k_halves = pitch * tokens > turned *D ? pitch *tokens : turned *D;
    static constexpr uint32_t halves = k_halves + pitch * tokens; /* of one stage */
};

/* What a thread carries from the loads of a stage to its expansion: 16 codes of K of one channel, 16 of V of one token. */
struct cargo {
    uint4 k, v;           /* codes, 2 to 16 bytes each */
    uint4 k_o[2], v_o[2]; /* factors of the 16 tokens (K), of the 16 channels (V) */
    float k_a, k_z, v_a, v_z;
    uint32_t format;
    const uint8_t *record;
};

KVI_DEV float side_value(const uint8_t *side, uint32_t off, uint32_t i)
{
    return kvi_f16_lo(*(const uint16_t *)(side + off + 2u * i));
}
KVI_DEV uint32_t word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/* 16 values (code * a + z) * o as F16 pairs. */
template <int bits> KVI_DEV void expand(const uint4 &codes, float a, float z, const uint4 (&o)[2], uint32_t (&out)[8])
{
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const uint32_t word = word_of(codes, 2 * e * bits / 32), shift = 2 * e * bits % 32, mask = (1u << bits) - 1u;
        const float lo = kvi_bits_f32(0x4b000000u | (word >> shift & mask)) - 8388608.0f,
                    hi = kvi_bits_f32(0x4b000000u | (word >> (shift + bits) & mask)) - 8388608.0f;
        const uint32_t factor = word_of(o[e / 4], e % 4);
        out[e] = kvi_pack_f16((lo * a + z) * kvi_f16_lo(factor), (hi * a + z) * kvi_f16_hi(factor));
    }
}

KVI_DEV bool is_plain(kvi_kv_code code) { return code == KVI_KV_F16 || code == KVI_KV_BF16; }

/* Sixteen codes of a row of any packed side, as they lie. */
template <int D, bool is_v> KVI_DEV uint4 any_codes(const uint8_t *side, kvi_kv_code code, uint32_t row, uint32_t chunk)
{
    constexpr uint32_t columns = is_v ? D : KVI_KV_PAGE;
#define CODES(of) kvi_codes16<of>(side + row * (columns / 8u * kvi_bits(of)), columns / 8u * kvi_bits(of), chunk)
    switch (code) {
    case KVI_KV_F8:
    case KVI_KV_I8: return CODES(KVI_KV_I8);
    case KVI_KV_Q4: return CODES(KVI_KV_Q4);
    case KVI_KV_Q3: return CODES(KVI_KV_Q3);
    case KVI_KV_Q2: return CODES(KVI_KV_Q2);
    case KVI_KV_T3: return CODES(KVI_KV_T3);
    default: return CODES(KVI_KV_T2);
    }
#undef CODES
}
template <int D, kvi_kv_code code, bool is_v>
KVI_DEV void expand_codes(const uint8_t *side, uint32_t row, uint32_t chunk, const uint4 &w, const float *levels,
                          uint32_t (&pairs)[8])
{
    const kvi_kv_side s = is_v ? kvi_kv_v_side(code, D) : kvi_kv_k_side(code, D);
    kvi_expand<code>(w, kvi_scales_of_row<code, is_v>(side, s, row),
                     kvi_scales_of_columns<code, is_v>(side, s, 16u * chunk), levels, pairs);
}
template <int D, bool is_v>
KVI_DEV void any_expand(const uint8_t *side, kvi_kv_code code, uint32_t row, uint32_t chunk, const uint4 &w,
                        const float *levels, uint32_t (&pairs)[8])
{
#define EXPAND(of) expand_codes<D, of, is_v>(side, row, chunk, w, levels, pairs)
    switch (code) {
        KVI_PACKED_CASES(EXPAND)
    }
#undef EXPAND
}

/* any: pages of every format; else of F16, i8, k4v4 and k4v2. */
template <int D, bool any> struct stager {
    const kvi_cuda_attention_params &p;
    const kvi_page_ref *pages;
    uint32_t kv_head, n_pos;
    const float *levels; /* of the trellis, in shared memory */

    /* Starts the loads of the stage whose first token is `token`: F16 pages go to shared memory by themselves. */
    KVI_DEV void begin(uint32_t token, uint16_t *to, cargo &c) const
    {
        constexpr uint32_t n = shape<D>::tokens;
        const kvi_page_ref page = pages[token / KVI_KV_PAGE];
        const uint32_t first = token % KVI_KV_PAGE, me = threadIdx.x;
        const uint8_t *record =
            (const uint8_t *)(p.kv.pool + (uint64_t)page.unit * KVI_KV_UNIT +
                              (uint64_t)(p.kv.layer * p.kv.n_kv_heads + kv_head) * kvi_kv_record_bytes(page.format, D));
        c.format = page.format;
        if (page.format == KVI_KV_FMT_F16) {
            for (uint32_t i = me; i < n * D / 8u; i += THREADS) { /* rows behind the last position become zeros */
                const uint32_t row = i / (D / 8u), at = i % (D / 8u) * 8u, bytes = token + row < n_pos ? 16u : 0u;
                const uint8_t *from = record + ((first + (bytes ? row : 0u)) * D + at) * 2u;
                kvi_cp_async16_zfill(to + row * shape<D>::pitch + at, from, bytes);
                kvi_cp_async16_zfill(to + shape<D>::k_halves + row * shape<D>::pitch + at, from + 2u * D * KVI_KV_PAGE,
                                     bytes);
            }
            kvi_cp_commit();
            return;
        }
        c.record = record;
        if (D < 256) load(first, c); /* with sums of 128 registers there is no room to carry anything */
    }

    /* A side of any format: a thread's sixteen codes; plain ones are read behind the products. */
    template <bool is_v> KVI_DEV static uint4 load_any(const uint8_t *side, kvi_kv_code code, uint32_t first)
    {
        const uint32_t me = threadIdx.x;
        if (is_plain(code)) return make_uint4(0, 0, 0, 0);
        return is_v ? any_codes<D, true>(side, code, first + me / (D / 16u), me % (D / 16u))
                    : any_codes<D, false>(side, code, me % D, first / 16u + me / D);
    }
    template <bool is_v>
    KVI_DEV void end_any(const uint8_t *side, kvi_kv_code code, uint32_t token, uint16_t *to, const uint4 &w) const
    {
        const uint32_t me = threadIdx.x, first = token % KVI_KV_PAGE;
        if (is_plain(code)) {
            for (uint32_t i = me; i < shape<D>::tokens * D / 8u; i += THREADS) {
                const uint32_t row = i / (D / 8u), at = i % (D / 8u) * 8u;
                uint4 v = make_uint4(0, 0, 0, 0); /* behind the last position stands what nobody wrote */
                if (token + row < n_pos) v = kvi_plain8(kvi_load128(side + ((first + row) * D + at) * 2u), code);
                *(uint4 *)(to + row * shape<D>::pitch + at) = v;
            }
            return;
        }
        const uint32_t row = is_v ? first + me / (D / 16u) : me % D,
                       chunk = is_v ? me % (D / 16u) : first / 16u + me / D;
        uint32_t pairs[8];
        any_expand<D, is_v>(side, code, row, chunk, w, levels, pairs);
        uint4 *at = (uint4 *)(is_v ? to + me / (D / 16u) * shape<D>::pitch + chunk * 16u
                                   : to + row * shape<D>::turned + me / D * 16u);
        at[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        at[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }

    KVI_DEV void load(uint32_t first, cargo &c) const
    {
        if (any) {
            const kvi_kv_code k_code = KVI_KV_K_CODE(c.format);
            c.k = load_any<false>(c.record, k_code, first);
            c.v = load_any<true>(c.record + kvi_kv_k_side(k_code, D).bytes, KVI_KV_V_CODE(c.format), first);
            return;
        }
        const uint32_t me = threadIdx.x, channel = me % D, k_token = first + me / D * 16u,
                       v_token = first + me / (D / 16u), v_channel = me % (D / 16u) * 16u;
        const uint32_t v_code = v_token * D + v_channel;
        const kvi_kv_code kc = KVI_KV_K_CODE(c.format), vc = KVI_KV_V_CODE(c.format);
        const kvi_kv_side k = kvi_kv_k_side(kc, D), v = kvi_kv_v_side(vc, D);
        const uint8_t *values = c.record + k.bytes;
        c.k_o[0] = kvi_load128(c.record + k.o_off + 2u * k_token);
        c.k_o[1] = kvi_load128(c.record + k.o_off + 2u * k_token + 16u);
        c.v_a = side_value(values, v.a_off, v_token);
        c.v_z = side_value(values, v.z_off, v_token);
        if (kc == KVI_KV_I8) {
            c.k = kvi_load128(c.record + channel * KVI_KV_PAGE + k_token);
            c.v = kvi_load128(values + v_code);
            c.k_a = 1.0f, c.k_z = -128.0f;
            c.v_o[0] = c.v_o[1] = make_uint4(0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u);
            return;
        }
        const uint2 codes = kvi_load64(c.record + (channel * KVI_KV_PAGE + k_token) / 2u);
        c.k = make_uint4(codes.x, codes.y, 0, 0);
        if (vc == KVI_KV_Q4) {
            const uint2 four = kvi_load64(values + v_code / 2u);
            c.v = make_uint4(four.x, four.y, 0, 0);
        } else c.v = make_uint4(kvi_load32(values + v_code / 4u), 0, 0, 0);
        c.k_a = side_value(c.record, k.a_off, channel);
        c.k_z = side_value(c.record, k.z_off, channel);
        c.v_o[0] = kvi_load128(values + v.o_off + 2u * v_channel);
        c.v_o[1] = kvi_load128(values + v.o_off + 2u * v_channel + 16u);
    }

    /* Finishes the stage whose first token is `token`. */
    KVI_DEV void end(uint32_t token, uint16_t *to, cargo &c) const
    {
        if (c.format == KVI_KV_FMT_F16) {
            kvi_cp_wait<0>();
            return;
        }
        const uint32_t me = threadIdx.x;
        if (D == 256) load(token % KVI_KV_PAGE, c);
        if (any) {
            const kvi_kv_code k_code = KVI_KV_K_CODE(c.format);
            end_any<false>(c.record, k_code, token, to, c.k);
            end_any<true>(c.record + kvi_kv_k_side(k_code, D).bytes, KVI_KV_V_CODE(c.format), token,
                          to + shape<D>::k_halves, c.v);
            return;
        }
        uint32_t pairs[8];
        if (KVI_KV_K_CODE(c.format) == KVI_KV_I8) expand<8>(c.k, c.k_a, c.k_z, c.k_o, pairs);
        else expand<4>(c.k, c.k_a, c.k_z, c.k_o, pairs);
        uint4 *k = (uint4 *)(to + me % D * shape<D>::turned + me / D * 16u);
        k[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        k[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
        if (KVI_KV_V_CODE(c.format) == KVI_KV_I8) expand<8>(c.v, c.v_a, c.v_z, c.v_o, pairs);
        else if (KVI_KV_V_CODE(c.format) == KVI_KV_Q4) expand<4>(c.v, c.v_a, c.v_z, c.v_o, pairs);
        else expand<2>(c.v, c.v_a, c.v_z, c.v_o, pairs);
        uint4 *v = (uint4 *)(to + shape<D>::k_halves + me / (D / 16u) * shape<D>::pitch + me % (D / 16u) * 16u);
        v[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        v[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }
};

/* s (16 columns, tokens) = q . K^T */
template <int D>
KVI_DEV void scores(const uint16_t *k, bool turned, const uint32_t (&q)[D / 16][4], uint32_t lane,
                    float (&s)[shape<D>::tokens / 8][4])
{
    const uint32_t row = lane % 8u, low = lane / 8u % 2u * 8u, high = lane / 16u * 8u;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int j = 0; j < (int)shape<D>::tokens / 16; j++) {
            uint32_t b[4];
            if (turned) kvi_ldmatrix_x4_trans(b, k + (16u * i + low + row) * shape<D>::turned + 16u * j + high);
            else kvi_ldmatrix_x4(b, k + (16u * j + high + row) * shape<D>::pitch + 16u * i + low);
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            kvi_mma_f16(s[2 * j], q[i], first);
            kvi_mma_f16(s[2 * j + 1], q[i], second);
        }
}

/* Minus infinity where columns `col` and col + 8 must not look; `first`: position of the lane's first token. */
template <int D>
KVI_DEV void hide(const kvi_cuda_attention_params &p, const kvi_cuda_seq &seq, uint32_t per_kv, uint32_t col,
                  uint32_t last_col, uint32_t n_pos, uint32_t first, float (&s)[shape<D>::tokens / 8][4])
{
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t pos = seq.pos + (col + 8u * h <= last_col ? col + 8u * h : last_col) / per_kv,
                       to = p.causal ? pos + 1u : n_pos;
        const uint32_t from = p.kv.window && pos + 1u > p.kv.window ? pos + 1u - p.kv.window : 0u;
#pragma unroll
        for (int j = 0; j < (int)shape<D>::tokens / 8; j++)
#pragma unroll
            for (uint32_t e = 0; e < 2; e++)
                if (first + 8u * j + e < from || first + 8u * j + e >= to) s[j][2u * h + e] = NEGATIVE_INFINITY;
    }
}

/* acc (16 columns, D) += p V */
template <int D>
KVI_DEV void blend(const uint16_t *v, const float (&p)[shape<D>::tokens / 8][4], uint32_t lane, float (&acc)[D / 8][4])
{
    const uint32_t row = lane % 8u, low = lane / 8u % 2u * 8u, high = lane / 16u * 8u;
#pragma unroll
    for (int j = 0; j < (int)shape<D>::tokens / 16; j++) {
        const uint32_t a[4] = {kvi_pack_f16(p[2 * j][0], p[2 * j][1]), kvi_pack_f16(p[2 * j][2], p[2 * j][3]),
                               kvi_pack_f16(p[2 * j + 1][0], p[2 * j + 1][1]),
                               kvi_pack_f16(p[2 * j + 1][2], p[2 * j + 1][3])};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t b[4];
            kvi_ldmatrix_x4_trans(b, v + (16u * j + low + row) * shape<D>::pitch + 16u * i + high);
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            kvi_mma_f16(acc[2 * i], a, first);
            kvi_mma_f16(acc[2 * i + 1], a, second);
        }
    }
}

/* Both queries of a lane (h = 0: column g, 1: column g + 8) times the Hadamard matrix: channel 8 i + 2 t + e. */
template <int D> KVI_DEV void rotate_back(float (&acc)[D / 8][4], uint32_t t)
{
    const float scale = D == 64 ? 0.125f : D == 128 ? 0.08838834764831845f : 0.0625f;
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
        for (int h = 0; h < 4; h += 2) {
            const float a = acc[i][h], b = acc[i][h + 1];
            acc[i][h] = (a + b) * scale;
            acc[i][h + 1] = (a - b) * scale;
        }
#pragma unroll
    for (uint32_t bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (int i = 0; i < D / 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float other = kvi_shfl_xor(acc[i][e], bit);
                acc[i][e] = t & bit ? other - acc[i][e] : acc[i][e] + other;
            }
#pragma unroll
    for (int apart = 1; apart < D / 8; apart *= 2)
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            if (!(i & apart))
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float a = acc[i][e], b = acc[i + apart][e];
                    acc[i][e] = a + b;
                    acc[i + apart][e] = a - b;
                }
}

template <int D, bool any> KVI_DEV void attn_prefill(const kvi_cuda_attention_params &p)
{
    KVI_SHARED(uint16_t, shared);
    constexpr uint32_t n = shape<D>::tokens;
    const kvi_cuda_step *step = (const kvi_cuda_step *)p.step.step;
    if (blockIdx.z >= step->n_seqs) return;
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[blockIdx.z];
    const uint32_t per_kv = p.n_heads / p.kv.n_kv_heads, n_cols = seq.n_rows * per_kv, kv_head = blockIdx.y;
    const uint32_t first_col = (gridDim.x - 1u - blockIdx.x) * COLS; /* the longest first */
    if (first_col >= n_cols) return;
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
    const uint32_t last_col = first_col + COLS <= n_cols ? first_col + COLS - 1u : n_cols - 1u;
    const uint32_t low = seq.pos + first_col / per_kv, high = seq.pos + last_col / per_kv;
    const uint32_t n_pos = p.causal ? high + 1u : seq.pos + seq.n_rows;
    const uint32_t first_seen = p.kv.window && low + 1u > p.kv.window ? low + 1u - p.kv.window : 0u;

    uint32_t q[D / 16][4];
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t want = first_col + 16u * warp + g + 8u * h, col = want <= last_col ? want : last_col;
        const uint64_t at =
            (uint64_t)(seq.first_row + col / per_kv) * p.q_pitch + (kv_head * per_kv + col % per_kv) * D;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                uint32_t pair = *(const uint32_t *)(p.q + 2u * (at + 16u * i + 8u * k + 2u * t));
                if (p.bf16) pair = kvi_pack_f16(kvi_bf16_lo(pair), kvi_bf16_hi(pair));
                q[i][h + 2u * k] = pair;
            }
    }
    const uint64_t table = ((uint64_t)blockIdx.z * p.step.n_groups + p.kv.group) * p.step.max_pages;
    float *levels = (float *)(shared + 2u * shape<D>::halves);
    if (any) {
        if (threadIdx.x < KVI_ANY_LEVELS / 4u) levels[threadIdx.x] = ((const float *)p.levels)[threadIdx.x];
        kvi_sync_block();
    }
    const stager<D, any> stage = {p, (const kvi_page_ref *)p.step.pages + table, kv_head, n_pos, levels};
    float acc[D / 8][4], m[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, l[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < D / 8; i++) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = 0.0f;

    cargo c = {};
    uint32_t token = first_seen / n * n, now = 0;
    stage.begin(token, shared, c);
    stage.end(token, shared, c);
    kvi_sync_block();
    for (; token < n_pos; token += n, now ^= 1u) {
        const bool turned = any ? !is_plain(KVI_KV_K_CODE(c.format)) : c.format != KVI_KV_FMT_F16,
                   more = token + n < n_pos;
        const uint16_t *k = shared + now * shape<D>::halves;
        uint16_t *next = shared + (now ^ 1u) * shape<D>::halves;
        if (more) stage.begin(token + n, next, c);
        float s[n / 8][4];
#pragma unroll
        for (int j = 0; j < (int)n / 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
        if (turned) scores<D>(k, true, q, lane, s);
        else scores<D>(k, false, q, lane, s);
        if (p.cap > 0.0f) { /* the scale is multiplied by below */
            const float back = kvi_div_rn(1.0f, p.scale_log2);
#pragma unroll
            for (int j = 0; j < (int)n / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) s[j][e] = kvi_capped_score(s[j][e] * p.scale_log2, p.cap, p.cap_inv) * back;
        }
        const bool all = token + n <= (p.causal ? low + 1u : n_pos) && (!p.kv.window || token + p.kv.window > high);
        if (!all) hide<D>(p, seq, per_kv, first_col + 16u * warp + g, last_col, n_pos, token + 2u * t, s);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = m[h];
#pragma unroll
            for (int j = 0; j < (int)n / 8; j++)
                top = kvi_max(top, kvi_max(s[j][2 * h], s[j][2 * h + 1]) * p.scale_log2);
            top = kvi_max(top, kvi_shfl_xor(top, 1));
            top = kvi_max(top, kvi_shfl_xor(top, 2));
            const float base = top == NEGATIVE_INFINITY ? 0.0f : top, alpha = kvi_exp2(m[h] - base);
            m[h] = top;
            l[h] *= alpha;
#pragma unroll
            for (int j = 0; j < (int)n / 8; j++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    s[j][e] = kvi_exp2(s[j][e] * p.scale_log2 - base);
                    l[h] += s[j][e];
                }
#pragma unroll
            for (int i = 0; i < D / 8; i++) acc[i][2 * h] *= alpha, acc[i][2 * h + 1] *= alpha;
        }
        blend<D>(k + shape<D>::k_halves, s, lane, acc);
        if (more) stage.end(token + n, next, c);
        kvi_sync_block();
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        l[h] += kvi_shfl_xor(l[h], 1);
        l[h] += kvi_shfl_xor(l[h], 2);
        float inv = kvi_div_rn(1.0f, l[h]);
        if (p.sinks) { /* one more logit, which brings no value */
            const uint32_t col = first_col + 16u * warp + g + 8u * h, head = kv_head * per_kv + col % per_kv;
            const float sink = ((const float *)p.sinks)[head] * 1.4426950408889634f, top = kvi_max(m[h], sink),
                        own = kvi_exp2(m[h] - top);
            inv = kvi_div_rn(own, l[h] * own + kvi_exp2(sink - top));
        }
#pragma unroll
        for (int i = 0; i < D / 8; i++) acc[i][2 * h] *= inv, acc[i][2 * h + 1] *= inv;
    }
    if (p.kv.rotate) rotate_back<D>(acc, t);
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t col = first_col + 16u * warp + g + 8u * h, odd = t % 2u;
        uint16_t *out = (uint16_t *)p.out + (uint64_t)(seq.first_row + col / per_kv) * p.out_pitch +
                        (kv_head * per_kv + col % per_kv) * D;
        if (p.gate && col <= last_col) {
            const uint64_t at = (uint64_t)(seq.first_row + col / per_kv) * p.gate_pitch +
                                (kv_head * per_kv + col % per_kv) * D + 2u * t;
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                acc[i][2 * h] *= kvi_gate_of(p.gate, at + 8u * i, p.gate_type);
                acc[i][2 * h + 1] *= kvi_gate_of(p.gate, at + 8u * i + 1u, p.gate_type);
            }
        }
        /* Neighbours exchange halves of 16 channels, so that a row's four lanes store 32 bytes, a whole sector. */
#pragma unroll
        for (int i = 0; i < D / 8; i += 2) {
            uint32_t pair[2];
#pragma unroll
            for (int k = 0; k < 2; k++)
                pair[k] = (uint32_t)kvi_narrow(acc[i + k][2 * h], p.out_bf16) |
                          (uint32_t)kvi_narrow(acc[i + k][2 * h + 1], p.out_bf16) << 16;
            const uint32_t given = kvi_shfl_xor(odd ? pair[0] : pair[1], 1), low = odd ? given : pair[0],
                           top = odd ? pair[1] : given;
            if (col <= last_col) *(uint2 *)(out + 8u * (i + odd) + 2u * (t - odd)) = make_uint2(low, top);
        }
    }
}

KVI_KERNEL(attn_prefill_d64, kvi_cuda_attention_params, 256, 1) { attn_prefill<64, false>(p); }
KVI_KERNEL(attn_prefill_d128, kvi_cuda_attention_params, 256, 1) { attn_prefill<128, false>(p); }
KVI_KERNEL(attn_prefill_d256, kvi_cuda_attention_params, 256, 1) { attn_prefill<256, false>(p); }
KVI_KERNEL(attn_prefill_any_d64, kvi_cuda_attention_params, 256, 1) { attn_prefill<64, true>(p); }
KVI_KERNEL(attn_prefill_any_d128, kvi_cuda_attention_params, 256, 1) { attn_prefill<128, true>(p); }
KVI_KERNEL(attn_prefill_any_d256, kvi_cuda_attention_params, 256, 1) { attn_prefill<256, true>(p); }
