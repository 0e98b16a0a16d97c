/* latent_attend.cu - attention over latents on tensor cores: all heads share
 * the latent c and the roped key k of a position, so that the 16 rows of a
 * product are 16 (row, head) pairs of a sequence and its columns are tokens.
 *
 *     s = q' . (c | k)      m, l, acc as in any attention by blocks      acc +=
 * p c
 *
 * A warp owns a quarter of the latent, 128 columns, and of the roped key, 16:
 * it brings them for 16 tokens at a time through a stage of its own (cp.async,
 * two of them), multiplies its quarter of the scores, and exchanges them with
 * the three others, the one thing for which warps wait. Then all four have the
 * same scores, and each adds its own 128 columns of the values, which are the
 * columns that it has already. So a latent is read from memory once for 16
 * heads, and a query stays in registers.
 *
 *   stage of a warp: 16 tokens of 128 halves, chunk c (16 bytes) of token t at
 * place c ^ t % 8; 16 tokens of 16 halves, chunk at c ^ t / 4 % 2
 *
 * latent_attend_any takes pages of every format: those of F16 as above, of
 * others a warp turns its quarter of 16 tokens into F16 in the same places
 * (expand.cuh), codes of a latent lying channel by channel, those of a roped
 * key token by token.
 *
 * A pair's bits do not depend on its neighbours. Unproven: no card has timed
 * these kernels. */
#include "expand.cuh"
#include "latent_params.h"
#include "warp.cuh"

#define COLUMNS (KVI_LATENT_RANK / KVI_LATENT_WARPS)
#define ROPED (KVI_LATENT_ROPE / KVI_LATENT_WARPS)
#define STEPS (COLUMNS / 16u)
#define TILES (COLUMNS / 8u)

/* Where the walk over the pages of a block stands: sixteen tokens of a page. */
struct latent_walk {
    uint32_t page, token; /* token: of the page */
};

template <bool any> struct latent_attend_block {
    const kvi_cuda_latent_attend_params &p;
    const kvi_page_ref *pages;
    uint32_t end; /* positions that are there */
    uint32_t warp, lane;
    unsigned char *stages; /* of this warp */
    const float *levels;

    KVI_DEV uint32_t c_place(uint32_t token, uint32_t chunk) const
    {
        return token * (COLUMNS * 2u) + ((chunk ^ token % 8u) * 16u);
    }
    KVI_DEV uint32_t k_place(uint32_t token, uint32_t chunk) const
    {
        return KVI_LATENT_TOKENS * COLUMNS * 2u + token * (ROPED * 2u) + ((chunk ^ token / 4u % 2u) * 16u);
    }

    KVI_DEV void fetch(const latent_walk &at, unsigned char *stage) const
    {
        const uint32_t format = any ? pages[at.page].format : (uint32_t)KVI_KV_FMT_F16;
        const unsigned char *record = (const unsigned char *)p.latent.pool +
                                      (uint64_t)pages[at.page].unit * KVI_KV_UNIT +
                                      kvi_cuda_latent_record(&p.latent, format);
        if (!any || format == KVI_KV_FMT_F16) {
            bring(at, record, stage);
            return;
        }
        const uint32_t left = end - at.page * KVI_KV_PAGE; /* tokens of the page that are there, or more */
        turn_latents(KVI_KV_K_CODE(format), record, at.token, left, stage);
        record += kvi_kv_k_side(KVI_KV_K_CODE(format), p.latent.rank).bytes;
        turn_keys(KVI_KV_V_CODE(format), record, at.token, left, stage);
    }

    /* F16 as it lies. */
    KVI_DEV void bring(const latent_walk &at, const unsigned char *record, unsigned char *stage) const
    {
        const uint32_t rank = p.latent.rank, rope = p.latent.rope;
        const uint32_t left = end - at.page * KVI_KV_PAGE;
#pragma unroll
        for (uint32_t i = 0; i < KVI_LATENT_TOKENS * COLUMNS / 8u / 32u; i++) {
            const uint32_t t = i * 32u / (COLUMNS / 8u) + lane / (COLUMNS / 8u), chunk = lane % (COLUMNS / 8u),
                           column = warp * COLUMNS + chunk * 8u, token = at.token + t;
            const bool there = token < left && column < rank;
            kvi_cp_async16_zfill(stage + c_place(t, chunk), there ? record + (token * rank + column) * 2u : record,
                                 there ? 16u : 0u);
        }
        const uint32_t t = lane / 2u, column = warp * ROPED + lane % 2u * 8u, token = at.token + t;
        const bool there = token < left && column < rope;
        kvi_cp_async16_zfill(stage + k_place(t, lane % 2u),
                             there ? record + (KVI_KV_PAGE * rank + token * rope + column) * 2u : record,
                             there ? 16u : 0u);
    }

    /* 16 tokens of a plain side, which rows of n columns are; `to` (token, chunk of eight) is where they go. */
    KVI_DEV void turn_plain(kvi_kv_code code, const unsigned char *side, uint32_t token, uint32_t left, bool keys,
                            unsigned char *stage) const
    {
        const uint32_t n = keys ? p.latent.rope : p.latent.rank, mine = keys ? ROPED : COLUMNS, each = mine / 8u;
        for (uint32_t i = lane; i < KVI_LATENT_TOKENS * each; i += 32u) {
            const uint32_t t = i / each, chunk = i % each, column = warp * mine + chunk * 8u;
            uint4 v = make_uint4(0, 0, 0, 0);
            if (token + t < left && column < n) v = kvi_load128(side + ((token + t) * n + column) * 2u);
            *(uint4 *)(stage + (keys ? k_place(t, chunk) : c_place(t, chunk))) = kvi_plain8(v, code);
        }
    }

    /* A lane has two neighbouring channels, 16 tokens of each, and 64 channels on two more. */
    template <kvi_kv_code code>
    KVI_DEV void turn_channels(const unsigned char *side, uint32_t token, unsigned char *stage) const
    {
        const uint32_t d = p.latent.rank, row_bytes = KVI_KV_PAGE / 8u * kvi_bits(code);
        const kvi_kv_side s = kvi_kv_k_side(code, d);
        const kvi_column_scales c = kvi_scales_of_columns<code, false>(side, s, token);
#pragma unroll 1
        for (uint32_t pair = lane; pair < COLUMNS / 2u; pair += 32u) {
            const uint32_t row = warp * COLUMNS + 2u * pair;
            uint32_t first[8] = {}, second[8] = {};
            if (row < d) {
                kvi_expand<code>(kvi_codes16<code>(side + row * row_bytes, row_bytes, token / 16u),
                                 kvi_scales_of_row<code, false>(side, s, row), c, levels, first);
                kvi_expand<code>(kvi_codes16<code>(side + (row + 1u) * row_bytes, row_bytes, token / 16u),
                                 kvi_scales_of_row<code, false>(side, s, row + 1u), c, levels, second);
            }
#pragma unroll
            for (uint32_t e = 0; e < 8u; e++) {
                const uint32_t at = pair % 4u * 4u, even = 2u * e, odd = even + 1u;
                *(uint32_t *)(stage + c_place(even, pair / 4u) + at) = (first[e] & 0xffffu) | second[e] << 16;
                *(uint32_t *)(stage + c_place(odd, pair / 4u) + at) = first[e] >> 16 | (second[e] & 0xffff0000u);
            }
        }
    }

    KVI_DEV void turn_latents(kvi_kv_code code, const unsigned char *side, uint32_t token, uint32_t left,
                              unsigned char *stage) const
    {
        token = kvi_anew(token); /* or the offsets of all codes would be kept in registers */
#define TURN(of) turn_channels<of>(side, token, stage)
        KVI_BY_CODE(code, turn_plain(code, side, token, left, false, stage), TURN)
#undef TURN
    }

    /* Half of the lanes have a token each, the 16 columns of this warp. */
    template <kvi_kv_code code>
    KVI_DEV void turn_tokens(const unsigned char *side, uint32_t token, unsigned char *stage) const
    {
        const uint32_t d = p.latent.rope, row_bytes = d / 8u * kvi_bits(code), row = token + lane;
        const kvi_kv_side s = kvi_kv_v_side(code, d);
        uint32_t pairs[8] = {};
        if (lane >= KVI_LATENT_TOKENS) return; /* the barrier is the caller's */
        if (warp * ROPED < d)
            kvi_expand<code>(kvi_codes16<code>(side + row * row_bytes, row_bytes, warp),
                             kvi_scales_of_row<code, true>(side, s, row),
                             kvi_scales_of_columns<code, true>(side, s, warp * ROPED), levels, pairs);
        *(uint4 *)(stage + k_place(lane, 0)) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        *(uint4 *)(stage + k_place(lane, 1)) = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }

    KVI_DEV void turn_keys(kvi_kv_code code, const unsigned char *side, uint32_t token, uint32_t left,
                           unsigned char *stage) const
    {
        token = kvi_anew(token);
#define TURN(of) turn_tokens<of>(side, token, stage)
        KVI_BY_CODE(code, turn_plain(code, side, token, left, true, stage), TURN)
#undef TURN
    }

    KVI_DEV latent_walk behind(latent_walk at) const
    {
        at.token += KVI_LATENT_TOKENS;
        if (at.token == KVI_KV_PAGE) at.token = 0, at.page += p.n_splits;
        return at;
    }
};

/* Block: sixteen pairs, split, sequence. shared: (warps, 2, STAGE), then (2, EXCHANGE), then levels. */
template <bool any> KVI_DEV void attend(const kvi_cuda_latent_attend_params &p, unsigned char *shared)
{
    if (blockIdx.z >= ((const kvi_cuda_step *)p.step.step)->n_seqs) return; /* the whole block */
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[blockIdx.z];
    const uint32_t n_pairs = seq.n_rows * p.n_heads, first = blockIdx.x * 16u, split = blockIdx.y;
    if (first >= n_pairs) return; /* the whole block */
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
    const uint32_t last = first + 16u < n_pairs ? first + 15u : n_pairs - 1u, end = seq.pos + seq.n_rows;
    const uint32_t seen = p.causal ? seq.pos + last / p.n_heads + 1u : end; /* positions that any pair sees */
    float *levels = (float *)(shared + 2u * KVI_LATENT_WARPS * KVI_LATENT_STAGE + 2u * KVI_LATENT_EXCHANGE);
    if (any) {
        levels[threadIdx.x] = ((const float *)p.levels)[threadIdx.x];
        kvi_sync_block();
    }
    const latent_attend_block<any> b = {p,
                                        (const kvi_page_ref *)p.step.pages +
                                            ((uint64_t)blockIdx.z * p.step.n_groups + p.latent.group) *
                                                p.step.max_pages,
                                        end,
                                        warp,
                                        lane,
                                        shared + warp * 2u * KVI_LATENT_STAGE,
                                        levels};
    float *exchange = (float *)(shared + 2u * KVI_LATENT_WARPS * KVI_LATENT_STAGE);
    const uint64_t pair0 = (uint64_t)seq.first_row * p.n_heads + first;
    uint32_t limit[2]; /* positions that rows g and g + 8 see */
    uint32_t q[STEPS + 1u][4];
#pragma unroll
    for (uint32_t half = 0; half < 2u; half++) {
        const uint32_t i = g + 8u * half,
                       own = first + i < n_pairs ? i : 0u; /* pairs that are not there repeat the first, unused */
        const uint32_t *from = (const uint32_t *)p.queries + (pair0 + own) * (KVI_LATENT_WIDTH / 2u);
        limit[half] = p.causal ? seq.pos + (first + own) / p.n_heads + 1u : end;
#pragma unroll
        for (uint32_t s = 0; s <= STEPS; s++) {
            const uint32_t at = s < STEPS ? warp * (COLUMNS / 2u) + s * 8u : KVI_LATENT_RANK / 2u + warp * (ROPED / 2u);
            q[s][half] = from[at + t];
            q[s][2u + half] = from[at + 4u + t];
        }
    }
    float acc[TILES][4], m[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, l[2] = {0.0f, 0.0f};
#pragma unroll
    for (uint32_t j = 0; j < TILES; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.0f;

    latent_walk at = {split, 0u}, next = at;
#pragma unroll
    for (uint32_t i = 0; i < 2u; i++) {
        if (next.page * KVI_KV_PAGE + next.token < seen)
            b.fetch(next, b.stages + i * KVI_LATENT_STAGE), next = b.behind(next);
        kvi_cp_commit(); /* empty groups too: the wait counts groups */
    }
    uint32_t turn = 0;
    for (; at.page * KVI_KV_PAGE + at.token < seen; at = b.behind(at), turn ^= 1u) {
        unsigned char *stage = b.stages + turn * KVI_LATENT_STAGE;
        kvi_cp_wait<1>();
        kvi_sync_warp(); /* what other lanes brought */
        float s[2][4] = {};
#pragma unroll
        for (uint32_t k = 0; k <= STEPS; k++) {
            const uint32_t token = lane / 16u * 8u + lane % 8u, chunk = lane / 8u % 2u;
            uint32_t r[4];
            kvi_ldmatrix_x4(r, stage + (k < STEPS ? b.c_place(token, 2u * k + chunk) : b.k_place(token, chunk)));
            kvi_mma_f16(s[0], q[k], r);
            kvi_mma_f16(s[1], q[k], r + 2);
        }
        /* The scores of the four quarters: a lane has the same eight of each. */
        float *scores = exchange + turn * (KVI_LATENT_EXCHANGE / 4u);
#pragma unroll
        for (uint32_t i = 0; i < 2u; i++)
            *(float4 *)(scores + ((warp * 2u + i) * 32u + lane) * 4u) = make_float4(s[i][0], s[i][1], s[i][2], s[i][3]);
        kvi_sync_block(); /* the other buffer is written by who has passed the next
                         one */
#pragma unroll
        for (uint32_t i = 0; i < 2u; i++) {
            s[i][0] = s[i][1] = s[i][2] = s[i][3] = 0.0f;
#pragma unroll
            for (uint32_t w = 0; w < KVI_LATENT_WARPS; w++) {
                const float4 v = *(const float4 *)(scores + ((w * 2u + i) * 32u + lane) * 4u);
                s[i][0] += v.x, s[i][1] += v.y, s[i][2] += v.z, s[i][3] += v.w;
            }
        }
        const uint32_t pos = at.page * KVI_KV_PAGE + at.token + 2u * t;
        float factor[2];
        uint32_t weights[4];
#pragma unroll
        for (uint32_t half = 0; half < 2u; half++) {
            float top = m[half];
#pragma unroll
            for (uint32_t i = 0; i < 4u; i++) {
                float &v = s[i / 2u][2u * half + i % 2u];
                if (pos + i / 2u * 8u + i % 2u >= limit[half]) v = NEGATIVE_INFINITY;
                top = kvi_max(top, v);
            }
            top = kvi_max(top, kvi_shfl_xor(top, 1));
            top = kvi_max(top, kvi_shfl_xor(top, 2));
            const float base = top == NEGATIVE_INFINITY ? 0.0f : top; /* nothing seen yet */
            factor[half] = kvi_exp2(m[half] - base);
            m[half] = top;
            float sum = 0.0f, e[4];
#pragma unroll
            for (uint32_t i = 0; i < 4u; i++) {
                e[i] = kvi_exp2(s[i / 2u][2u * half + i % 2u] - base);
                sum += e[i];
            }
            l[half] = kvi_fma(l[half], factor[half], sum);
            weights[half] = kvi_pack_f16(e[0], e[1]);
            weights[2u + half] = kvi_pack_f16(e[2], e[3]);
        }
        if (factor[0] != 1.0f || factor[1] != 1.0f) {
#pragma unroll
            for (uint32_t j = 0; j < TILES; j++)
                acc[j][0] *= factor[0], acc[j][1] *= factor[0], acc[j][2] *= factor[1], acc[j][3] *= factor[1];
        }
        kvi_sync_warp();
#pragma unroll
        for (uint32_t j = 0; j < TILES; j += 2u) {
            uint32_t r[4];
            kvi_ldmatrix_x4_trans(r, stage + b.c_place(lane % 16u, j + lane / 16u));
            kvi_mma_f16(acc[j], weights, r);
            kvi_mma_f16(acc[j + 1u], weights, r + 2);
        }
        kvi_sync_warp(); /* all are done with the stage */
        if (next.page * KVI_KV_PAGE + next.token < seen) b.fetch(next, stage), next = b.behind(next);
        kvi_cp_commit();
    }
#pragma unroll
    for (uint32_t half = 0; half < 2u; half++) {
        const uint32_t i = g + 8u * half;
        l[half] += kvi_shfl_xor(l[half], 1);
        l[half] += kvi_shfl_xor(l[half], 2);
        if (first + i >= n_pairs) continue;
        const uint64_t part = (pair0 + i) * p.n_splits + split;
        if (warp == 0u && t == 0u) ((float2 *)p.ml)[part] = make_float2(m[half], l[half]);
        float *to = (float *)p.acc + part * KVI_LATENT_RANK + warp * COLUMNS + 2u * t;
#pragma unroll
        for (uint32_t j = 0; j < TILES; j++)
            *(float2 *)(to + 8u * j) = make_float2(acc[j][2u * half], acc[j][2u * half + 1u]);
    }
}

KVI_KERNEL(latent_attend, kvi_cuda_latent_attend_params, 128, 2)
{
    KVI_SHARED(unsigned char, shared);
    attend<false>(p, shared);
}
KVI_KERNEL(latent_attend_any, kvi_cuda_latent_attend_params, 128, 2)
{
    KVI_SHARED(unsigned char, shared);
    attend<true>(p, shared);
}
