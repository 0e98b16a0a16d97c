/* attention_any.cu - attention over pages of every code and heads of every size, where attention_decode.cuh has no kernel of its own: partial
 * results of 16 columns (query row * heads per KV head + head) over a split of the context, which attn_combine_any merges.
 *
 * A block takes whole pages, page p being of block p mod splits; each of its four warps has a quarter of the tokens of every page, 16 at a time,
 * so that a short context is work for all of them. Such a stage of K, then of V, becomes F16 with its scales in the warp's own part of shared
 * memory (expand.cuh), 128 channels at a time, and is multiplied by tensor cores: columns are the 16 rows of the product. K of packed pages stands
 * as (channel, token), as its codes do, plain K as (token, channel). Nothing but the end waits for another warp.
 *
 * The output of a block is D channels. Heads with more have several blocks, each of which computes the scores and blends its own part of V
 * ("passes"). */
#include "attention_columns.cuh"
#include "expand.cuh"
#include "rotation.cuh"
#include "warp.cuh"

#define WARPS KVI_ANY_WARPS
#define COLS KVI_ANY_COLS
#define PIECE KVI_ANY_PIECE
#define TOKENS KVI_ANY_TOKENS
#define TURNED KVI_ANY_TURNED     /* halves from channel to channel of packed K */
#define STRAIGHT KVI_ANY_STRAIGHT /* halves from token to token of V and plain K */

/* 16 tokens from `token` on, n channels from `c0` on, of packed codes. A lane has one chunk of 16 columns, and four rows. */
template <kvi_kv_code code, bool is_v>
KVI_DEV void stage_codes(const uint8_t *side, uint32_t d, uint32_t token, uint32_t c0, uint32_t n, uint32_t lane,
                         const float *levels, uint16_t *to)
{
    const kvi_kv_side s = is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
    const uint32_t row_bytes = (is_v ? d : KVI_KV_PAGE) / 8u * kvi_bits(code);
    /* Of V two tokens of four chunks are the eight lanes that store together, which then meet in no bank. */
    const uint32_t part = (lane & 3u) + (lane >> 1 & 4u), chunk = is_v ? c0 / 16u + part : token / 16u;
    const uint32_t first = is_v ? (lane >> 2 & 1u) + (lane >> 4) * 2u : lane;
    constexpr uint32_t step = is_v ? 4u : 32u;
    constexpr uint32_t batch =
        kvi_bits(code) == 8u || kvi_trellis(code) ? 1u : 2u; /* rows in flight, by the registers that they take */
    if (is_v && 16u * part >= n) return;                     /* this lane; the barrier is the caller's */
    const kvi_column_scales c = kvi_scales_of_columns<code, is_v>(side, s, 16u * chunk);
#pragma unroll 1
    for (uint32_t done = first; done < first + 4u * step; done += batch * step) {
        uint4 w[batch];
        kvi_row_scales r[batch];
#pragma unroll
        for (uint32_t k = 0; k < batch; k++) {
            const uint32_t row = (is_v ? token : c0) + done + step * k;
            if (!is_v && done + step * k >= n) break;
            w[k] = kvi_codes16<code>(side + row * row_bytes, row_bytes, chunk);
            r[k] = kvi_scales_of_row<code, is_v>(side, s, row);
        }
#pragma unroll
        for (uint32_t k = 0; k < batch; k++) {
            if (!is_v && done + step * k >= n) break;
            uint32_t pairs[8];
            kvi_expand<code>(w[k], r[k], c, levels, pairs);
            uint4 *at = (uint4 *)(to + (done + step * k) * (is_v ? STRAIGHT : TURNED) + (is_v ? 16u * part : 0u));
            at[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            at[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
        }
    }
}

/* The same of a plain side: rows of tokens. Tokens from n_tokens of the page on hold what nobody wrote: zeros instead. */
KVI_DEV void stage_plain(const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t token, uint32_t n_tokens,
                         uint32_t c0, uint32_t n, uint32_t lane, uint16_t *to)
{
    const uint32_t at = lane % 16u * 8u;
    if (at >= n) return;
#pragma unroll 4
    for (uint32_t k = 0; k < TOKENS / 2u; k++) {
        const uint32_t row = lane / 16u + 2u * k;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (token + row < n_tokens) v = kvi_load128(side + ((token + row) * d + c0 + at) * 2u);
        *(uint4 *)(to + row * STRAIGHT + at) = kvi_plain8(v, code);
    }
}

/* Returns whether the stage stands turned. */
template <bool is_v>
KVI_DEV bool stage_side(const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t token, uint32_t n_tokens,
                        uint32_t c0, uint32_t n, uint32_t lane, const float *levels, uint16_t *to)
{
    d = kvi_anew(d), lane = kvi_anew(lane),
    token = kvi_anew(token); /* or the offsets of all codes would be kept in registers */
#define STAGE(of) stage_codes<of, is_v>(side, d, token, c0, n, lane, levels, to)
    KVI_BY_CODE(code, return (stage_plain(side, code, d, token, n_tokens, c0, n, lane, to), false), STAGE)
#undef STAGE
    return true;
}

/* Queries of the block's columns, (COLS, d + 8) F16; zeros behind the last column. */
KVI_DEV void stage_queries(const kvi_cuda_attention_params &p, const kvi_cuda_seq &seq, const kvi_columns &cols,
                           uint16_t *q)
{
    const uint32_t d = p.kv.head_dim, per_kv = p.n_heads / p.kv.n_kv_heads, each = d / 8u;
    for (uint32_t i = threadIdx.x; i < COLS * each; i += blockDim.x) {
        const uint32_t c = i / each, at = i % each * 8u, col = cols.first + c;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (col < cols.end) {
            const uint64_t row = seq.first_row + col / per_kv, head = blockIdx.y * per_kv + col % per_kv;
            v = *(const uint4 *)(p.q + 2u * (row * p.q_pitch + head * d + at));
            if (p.bf16) v = kvi_plain8(v, KVI_KV_BF16);
        }
        *(uint4 *)(q + c * (d + 8u) + at) = v;
    }
}

/* s (16 columns, 16 tokens) += q . K^T over n channels. */
KVI_DEV void multiply_keys(const uint16_t *q, uint32_t q_pitch, const uint16_t *k, bool turned, uint32_t n,
                           uint32_t lane, float (&s)[2][4])
{
    lane = kvi_anew(lane);
    const uint32_t row = lane % 8u, low = lane / 8u % 2u * 8u, high = lane / 16u * 8u;
#pragma unroll 1
    for (uint32_t i = 0; i < PIECE / 16u; i++) {
        if (16u * i >= n) break;
        uint32_t a[4], b[4];
        kvi_ldmatrix_x4(a, q + (row + low) * q_pitch + 16u * i + high);
        if (turned) kvi_ldmatrix_x4_trans(b, k + (16u * i + low + row) * TURNED + high);
        else kvi_ldmatrix_x4(b, k + (high + row) * STRAIGHT + 16u * i + low);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        kvi_mma_f16(s[0], a, first);
        kvi_mma_f16(s[1], a, second);
    }
}

/* acc (16 columns, n channels) += p V */
KVI_DEV void multiply_values(const uint16_t *v, const uint32_t (&p)[4], uint32_t n, uint32_t lane, float (*acc)[4])
{
    lane = kvi_anew(lane);
    const uint32_t row = lane % 8u, low = lane / 8u % 2u * 8u, high = lane / 16u * 8u;
#pragma unroll
    for (uint32_t i = 0; i < PIECE / 16u; i++) {
        if (16u * i >= n) break;
        uint32_t b[4];
        kvi_ldmatrix_x4_trans(b, v + (low + row) * STRAIGHT + 16u * i + high);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        kvi_mma_f16(acc[2 * i], p, first);
        kvi_mma_f16(acc[2 * i + 1], p, second);
    }
}

/* Scores in powers of two become probabilities relative to the new maximum; h = 0: column g, 1: column g + 8. `first`: position of the lane's
 * first. */
template <int D>
KVI_DEV void soften(const kvi_cuda_attention_params &p, const kvi_cuda_seq &seq, const kvi_columns &cols, uint32_t g,
                    uint32_t n_pos, uint32_t first, float (&s)[2][4], float (&m)[2], float (&l)[2],
                    float (&acc)[D / 8][4])
{
    const uint32_t per_kv = p.n_heads / p.kv.n_kv_heads;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t want = cols.first + g + 8u * h, col = want < cols.end ? want : cols.end - 1u;
        const uint32_t pos = seq.pos + col / per_kv, to = p.causal ? pos + 1u : n_pos,
                       from = p.kv.window && pos + 1u > p.kv.window ? pos + 1u - p.kv.window : 0u;
        float top = m[h];
#pragma unroll
        for (uint32_t j = 0; j < 2; j++)
#pragma unroll
            for (uint32_t e = 0; e < 2; e++) {
                const uint32_t at = first + 8u * j + e;
                float x = s[j][2u * h + e] * p.scale_log2;
                if (p.cap > 0.0f) x = kvi_capped_score(x, p.cap, p.cap_inv);
                if (at < from || at >= to) x = NEGATIVE_INFINITY;
                s[j][2u * h + e] = x;
                top = kvi_max(top, x);
            }
        top = kvi_max(top, kvi_shfl_xor(top, 1));
        top = kvi_max(top, kvi_shfl_xor(top, 2));
        const float base = top == NEGATIVE_INFINITY ? 0.0f : top, alpha = kvi_exp2(m[h] - base);
        m[h] = top;
        l[h] *= alpha;
#pragma unroll
        for (uint32_t j = 0; j < 2; j++)
#pragma unroll
            for (uint32_t e = 0; e < 2; e++) {
                s[j][2u * h + e] = kvi_exp2(s[j][2u * h + e] - base);
                l[h] += s[j][2u * h + e];
            }
#pragma unroll
        for (int i = 0; i < D / 8; i++) acc[i][2u * h] *= alpha, acc[i][2u * h + 1u] *= alpha;
    }
}

KVI_DEV bool is_mine(const kvi_cuda_attention_params &p, const kvi_page_ref &page)
{
    const uint32_t f = page.format;
    if (page.unit == KVI_KV_NO_EXTENT) return false;
    return p.format == KVI_CUDA_EVERY_FORMAT ||
           (f != KVI_KV_FMT_F16 && f != KVI_KV_FMT_I8 && f != KVI_KV_FMT_K4V4 && f != KVI_KV_FMT_K4V2);
}

/* The sums of the warps become one partial result per column. The warps add to the sums in turn, so the order is always the same. */
template <int D>
KVI_DEV void merge(const kvi_cuda_attention_params &p, const kvi_cuda_seq &seq, const kvi_columns &cols, uint32_t split,
                   uint32_t out0, uint32_t n_out, float *shared, const float (&acc)[D / 8][4], const float (&m)[2],
                   float (&l)[2])
{
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
    float *ml = shared, *sums = shared + 2u * WARPS * COLS; /* (WARPS, COLS, 2), (COLS, D + 8) */
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        l[h] += kvi_shfl_xor(l[h], 1);
        l[h] += kvi_shfl_xor(l[h], 2);
        if (t == 0) {
            ml[2u * (warp * COLS + g + 8u * h)] = m[h];
            ml[2u * (warp * COLS + g + 8u * h) + 1u] = l[h];
        }
    }
    kvi_sync_block();
    float factor[2];
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        float top = NEGATIVE_INFINITY;
        for (uint32_t w = 0; w < WARPS; w++) top = kvi_max(top, ml[2u * (w * COLS + g + 8u * h)]);
        factor[h] = m[h] == NEGATIVE_INFINITY ? 0.0f : kvi_exp2(m[h] - top);
    }
    for (uint32_t w = 0; w < WARPS; w++) {
        if (warp == w)
#pragma unroll
            for (uint32_t h = 0; h < 2; h++)
#pragma unroll
                for (int i = 0; i < D / 8; i++) {
                    float2 *at = (float2 *)(sums + (g + 8u * h) * (D + 8u) + 8u * i + 2u * t);
                    const float2 before = w ? *at : make_float2(0.0f, 0.0f);
                    *at =
                        make_float2(before.x + acc[i][2u * h] * factor[h], before.y + acc[i][2u * h + 1u] * factor[h]);
                }
        kvi_sync_block();
    }
    const uint32_t n_cols = cols.end - cols.first;
    for (uint32_t i = threadIdx.x; i < n_cols * n_out; i += blockDim.x) {
        const uint32_t c = i / n_out, at = i % n_out;
        const uint64_t slot = kvi_slot_of(p, seq, blockIdx.y, cols.first + c, split);
        ((float *)p.acc)[slot * p.kv.head_dim + out0 + at] = sums[c * (D + 8u) + at];
    }
    if (out0 == 0 && threadIdx.x < n_cols) {
        float top = NEGATIVE_INFINITY, total = 0.0f;
        for (uint32_t w = 0; w < WARPS; w++) top = kvi_max(top, ml[2u * (w * COLS + threadIdx.x)]);
        for (uint32_t w = 0; w < WARPS; w++) {
            const float *mine = ml + 2u * (w * COLS + threadIdx.x);
            total += mine[0] == NEGATIVE_INFINITY ? 0.0f : kvi_exp2(mine[0] - top) * mine[1];
        }
        float *to = (float *)p.ml + 2u * kvi_slot_of(p, seq, blockIdx.y, cols.first + threadIdx.x, split);
        to[0] = top;
        to[1] = total;
    }
}

template <int D> KVI_DEV void attn_any(const kvi_cuda_attention_params &p)
{
    KVI_SHARED(unsigned char, shared);
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
    const uint32_t d = p.kv.head_dim, group = blockIdx.x % p.col_groups, rest = blockIdx.x / p.col_groups;
    const uint32_t passes = (d + D - 1u) / D, out0 = rest % passes * D, split = rest / passes;
    const uint32_t n_out = d - out0 < D ? d - out0 : D;
    kvi_columns cols;
    if (!kvi_columns_of(p, COLS, group, cols)) return;
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[cols.seq];
    const kvi_page_ref *pages =
        (const kvi_page_ref *)p.step.pages + ((uint64_t)cols.seq * p.step.n_groups + p.kv.group) * p.step.max_pages;
    const uint32_t per_kv = p.n_heads / p.kv.n_kv_heads, low = seq.pos + cols.first / per_kv,
                   high = seq.pos + (cols.end - 1u) / per_kv; /* positions of the block's queries */
    const uint32_t n_pos = p.causal ? high + 1u : seq.pos + seq.n_rows;
    const uint32_t first_seen = p.kv.window && low + 1u > p.kv.window ? low + 1u - p.kv.window : 0u;
    const uint32_t end = (n_pos + KVI_KV_PAGE - 1u) / KVI_KV_PAGE, from = first_seen / KVI_KV_PAGE;
    uint32_t page = split;
    if (page < from) page += (from - page + p.n_splits - 1u) / p.n_splits * p.n_splits;

    uint32_t found = 0; /* every warp looks at all of the block's pages */
    for (uint32_t i = page + lane * p.n_splits; i < end; i += 32u * p.n_splits) found |= is_mine(p, pages[i]);
#pragma unroll
    for (uint32_t mask = 16; mask; mask /= 2) found |= kvi_shfl_xor(found, mask);
    if (!found) {
        if (out0 == 0 && cols.first + threadIdx.x < cols.end) {
            float *ml = (float *)p.ml + 2u * kvi_slot_of(p, seq, blockIdx.y, cols.first + threadIdx.x, split);
            ml[0] = NEGATIVE_INFINITY;
            ml[1] = 0.0f;
        }
        return;
    }
    uint16_t *q = (uint16_t *)(shared + KVI_ANY_LEVELS);
    uint16_t *stage = q + COLS * (d + 8u) + warp * KVI_ANY_STAGE;
    float *levels = (float *)shared;
    stage_queries(p, seq, cols, q);
    if (threadIdx.x < KVI_ANY_LEVELS / 4u) levels[threadIdx.x] = ((const float *)p.levels)[threadIdx.x];
    kvi_sync_block();

    float acc[D / 8][4], m[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, l[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < D / 8; i++) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = 0.0f;
    for (; page < end; page += p.n_splits) {
        const kvi_page_ref ref = pages[page];
        if (!is_mine(p, ref)) continue;
        const kvi_kv_code k_code = KVI_KV_K_CODE(ref.format), v_code = KVI_KV_V_CODE(ref.format);
        const uint8_t *side = (const uint8_t *)(p.kv.pool + (uint64_t)ref.unit * KVI_KV_UNIT +
                                                (uint64_t)(p.kv.layer * p.kv.n_kv_heads + blockIdx.y) *
                                                    kvi_kv_record_bytes(ref.format, d));
        const uint8_t *values = side + kvi_kv_k_side(k_code, d).bytes;
        const uint32_t first_pos = page * KVI_KV_PAGE,
                       n_tokens = n_pos - first_pos < KVI_KV_PAGE ? n_pos - first_pos : KVI_KV_PAGE;
        const uint32_t my_first = warp * (KVI_KV_PAGE / WARPS);
#pragma unroll 1
        for (uint32_t token = my_first; token < my_first + KVI_KV_PAGE / WARPS; token += TOKENS) {
            if (token >= n_tokens || first_pos + token + TOKENS <= first_seen) continue; /* the whole warp */
            float s[2][4] = {};
#pragma unroll 1
            for (uint32_t c0 = 0; c0 < d; c0 += PIECE) {
                const uint32_t n = d - c0 < PIECE ? d - c0 : PIECE;
                const bool turned = stage_side<false>(side, k_code, d, token, n_tokens, c0, n, lane, levels, stage);
                kvi_sync_warp();
                multiply_keys(q + c0, d + 8u, stage, turned, n, lane, s);
                kvi_sync_warp();
            }
            soften<D>(p, seq, cols, g, n_pos, first_pos + token + 2u * t, s, m, l, acc);
            const uint32_t a[4] = {kvi_pack_f16(s[0][0], s[0][1]), kvi_pack_f16(s[0][2], s[0][3]),
                                   kvi_pack_f16(s[1][0], s[1][1]), kvi_pack_f16(s[1][2], s[1][3])};
#pragma unroll
            for (uint32_t piece = 0; piece < D / PIECE; piece++) {
                if (piece * PIECE >= n_out) break;
                const uint32_t n = n_out - piece * PIECE < PIECE ? n_out - piece * PIECE : PIECE;
                (void)stage_side<true>(values, v_code, d, token, n_tokens, out0 + piece * PIECE, n, lane, levels,
                                       stage);
                kvi_sync_warp();
                multiply_values(stage, a, n, lane, &acc[piece * (PIECE / 8u)]);
                kvi_sync_warp();
            }
        }
    }
    kvi_sync_block(); /* queries and stages have been read */
    merge<D>(p, seq, cols, split, out0, n_out, (float *)shared, acc, m, l);
}

KVI_KERNEL(attn_any_d128, kvi_cuda_attention_params, KVI_ANY_WARPS * 32, KVI_ANY_BLOCKS) { attn_any<128>(p); }
KVI_KERNEL(attn_any_d256, kvi_cuda_attention_params, KVI_ANY_WARPS * 32, KVI_ANY_BLOCKS_256) { attn_any<256>(p); }
