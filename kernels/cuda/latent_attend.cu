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
 * A pair's bits do not depend on its neighbours. Unproven: no card has timed
 * this kernel. */
#include "latent_params.h"
#include "ptx.cuh"
#include "warp.cuh"

#define COLUMNS (KVI_LATENT_RANK / KVI_LATENT_WARPS)
#define ROPED (KVI_LATENT_ROPE / KVI_LATENT_WARPS)
#define STEPS (COLUMNS / 16u)
#define TILES (COLUMNS / 8u)

/* Where the walk over the pages of a block stands: sixteen tokens of a page. */
struct latent_walk {
    uint32_t page, token; /* token: of the page */
};

struct latent_attend_block {
    const kvi_cuda_latent_attend_params &p;
    const kvi_page_ref *pages;
    uint32_t end; /* positions that are there */
    uint32_t warp, lane;
    unsigned char *stages; /* of this warp */

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
        const uint32_t rank = p.latent.rank, rope = p.latent.rope;
        const unsigned char *record =
            (const unsigned char *)p.latent.pool + (uint64_t)pages[at.page].unit * KVI_KV_UNIT + p.latent.record;
        const uint32_t left = end - at.page * KVI_KV_PAGE; /* tokens of the page that are there, or more */
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

    KVI_DEV latent_walk behind(latent_walk at) const
    {
        at.token += KVI_LATENT_TOKENS;
        if (at.token == KVI_KV_PAGE) at.token = 0, at.page += p.n_splits;
        return at;
    }
};

/* Block: sixteen pairs, split, sequence. */
KVI_KERNEL(latent_attend, kvi_cuda_latent_attend_params, 128, 2)
{
    KVI_SHARED(unsigned char, shared);                                      /* (warps, 2, STAGE), then (2, EXCHANGE) */
    if (blockIdx.z >= ((const kvi_cuda_step *)p.step.step)->n_seqs) return; /* the whole block */
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[blockIdx.z];
    const uint32_t n_pairs = seq.n_rows * p.n_heads, first = blockIdx.x * 16u, split = blockIdx.y;
    if (first >= n_pairs) return; /* the whole block */
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
    const uint32_t last = first + 16u < n_pairs ? first + 15u : n_pairs - 1u, end = seq.pos + seq.n_rows;
    const uint32_t seen = p.causal ? seq.pos + last / p.n_heads + 1u : end; /* positions that any pair sees */
    const latent_attend_block b = {
        p,
        (const kvi_page_ref *)p.step.pages + ((uint64_t)blockIdx.z * p.step.n_groups + p.latent.group) * p.step.max_pages,
        end,
        warp,
        lane,
        shared + warp * 2u * KVI_LATENT_STAGE};
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
