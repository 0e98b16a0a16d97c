/* latent.cu - around latent attention (MLA; program.h, LATENT_APPEND and
 * ATTENTION_LATENT): what is appended, queries that have absorbed W_K, and W_V
 * behind the merged sums. The attention itself is latent_attend.cu.
 * Both products are of a head's own small matrices, read element by element in
 * whatever form they have, on plain cores: by count a decode step of
 * DeepSeek-V2-Lite spends 2 us in each, and 512 rows of a prompt 50 us, a tenth
 * of what its attention over 4k positions takes. Unproven: no card has timed
 * these kernels. */
#include "latent.cuh"
#include "turns.cuh"

/* A warp per part of a row: c, k, and the roped part of every head of q. */
KVI_KERNEL(latent_append, kvi_cuda_latent_append_params, 128, 6)
{
    KVI_SHARED(float, shared); /* (4, KVI_LATENT_RANK) */
    const uint32_t lane = threadIdx.x % 32u, row = blockIdx.x, part = blockIdx.y * 4u + threadIdx.x / 32u;
    if (row >= ((const kvi_cuda_step *)p.step.step)->n_rows || part >= 2u + p.n_heads)
        return; /* whole warps, and there is no block barrier */
    float *x = shared + threadIdx.x / 32u * KVI_LATENT_RANK;
    const uint32_t rank = p.latent.rank, rope = p.latent.rope, s = ((const uint32_t *)p.step.row_seq)[row];
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[s];
    const uint32_t pos = seq.pos + row - seq.first_row, n = part == 0u ? rank : rope;
    const kvi_dptr from = part < 2u ? p.kv : p.q;
    const uint32_t type = part < 2u ? p.kv_type : p.q_type;
    const uint64_t at = part == 0u   ? (uint64_t)row * p.kv_pitch
                        : part == 1u ? (uint64_t)row * p.kv_pitch + rank
                                     : (uint64_t)row * p.q_pitch + (part - 2u) * (p.key_dim + rope) + p.key_dim;
    float squares = 0.0f;
    for (uint32_t i = lane; i < n; i += 32u) {
        x[i] = kvi_value_at(from, type, at + i);
        squares = kvi_fma(x[i], x[i], squares);
    }
    squares = warp_sum(squares);
    if (part == 0u && p.norm) {
        const float inv = kvi_div_rn(1.0f, kvi_sqrt_rn(squares / (float)rank + p.eps));
        for (uint32_t i = lane; i < n; i += 32u) x[i] *= inv * (p.gain ? ((const float *)p.gain)[i] : 1.0f);
    }
    kvi_sync_warp();
    if (part && p.turns)
        turn_row(x, (const double *)p.turns, p.n_dims, p.next, p.apart, pos + seq.ahead, p.magnitude, lane);
    kvi_sync_warp();
    if (p.latent.rotate) kvi_rotate_row(x, n, lane);
    if (part >= 2u) {
        for (uint32_t i = lane; i < n; i += 32u) kvi_put_value(from, type, at + i, x[i]);
        return;
    }
    const kvi_page_ref page =
        ((const kvi_page_ref *)p.step
             .pages)[((uint64_t)s * p.step.n_groups + p.latent.group) * p.step.max_pages + (pos >> KVI_KV_PAGE_SHIFT)];
    uint16_t *record = (uint16_t *)(p.latent.pool + (uint64_t)page.unit * KVI_KV_UNIT +
                                    kvi_cuda_latent_record(&p.latent, page.format));
    record += (part ? KVI_KV_PAGE * rank : 0u) + (pos & (KVI_KV_PAGE - 1u)) * n;
    for (uint32_t i = lane; i < n; i += 32u)
        record[i] = kvi_narrow_to(x[i], p.latent.bf16 ? KVI_CUDA_BF16 : KVI_CUDA_F16);
}

/* ------------------------------------------------------------------------------------------------
 * latent_absorb --- */
/* y (ROWS, rank) += q W_K, W_K above W_V: a thread has four columns of the
 * latent and every fourth row of W_K, all rows of q. */
KVI_DEV void absorb_rows(const kvi_cuda_latent_absorb_params &p, uint32_t head, const float *q, float *y)
{
    const uint32_t quads = (p.rank + 3u) / 4u, first = head * (p.key_dim + p.value_dim), share = threadIdx.x / 128u;
    for (uint32_t chunk = 0; chunk < quads; chunk += 128u) {
        const uint32_t quad = chunk + threadIdx.x % 128u;
        float sum[KVI_LATENT_ROWS][4] = {};
        for (uint32_t i = share; quad < quads && i < p.key_dim; i += 4u) {
            float w[4];
            kvi_quad_of(p.w, p.tile, first + i, 4u * quad, w);
#pragma unroll
            for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++)
#pragma unroll
                for (uint32_t e = 0; e < 4u; e++) sum[r][e] = kvi_fma(q[r * p.key_dim + i], w[e], sum[r][e]);
        }
        for (uint32_t turn = 0; turn < 4u; turn++) { /* the shares of a column one after the other */
            kvi_sync_block();
            if (turn != share || quad >= quads) continue;
#pragma unroll
            for (uint32_t e = 0; e < 4u; e++) {
                if (4u * quad + e >= p.rank) continue;
                const uint32_t c = kvi_column_of(p.w, 4u * quad + e);
#pragma unroll
                for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++)
                    y[r * p.rank + c] = turn ? y[r * p.rank + c] + sum[r][e] : sum[r][e];
            }
        }
    }
}

/* The products of one row of a matrix with n rows of x (n, ld), by a warp;
 * every lane gets them. */
KVI_DEV void row_products(const kvi_cuda_any_matrix &m, const kvi_cuda_tile &tile, uint32_t row, const float *x,
                          uint32_t ld, uint32_t n, uint32_t lane, float (&sum)[KVI_LATENT_ROWS])
{
#pragma unroll
    for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++) sum[r] = 0.0f;
    for (uint32_t k = 4u * lane; k < m.n_in; k += 128u) {
        float w[4];
        kvi_quad_of(m, tile, row, k, w);
#pragma unroll
        for (uint32_t e = 0; e < 4u; e++) {
            const uint32_t c = k + e < m.n_in ? kvi_column_of(m, k + e) : 0u; /* w is zero there */
#pragma unroll
            for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++)
                if (r < n) sum[r] = kvi_fma(w[e], x[r * ld + c], sum[r]);
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++)
        if (r < n) sum[r] = warp_sum(sum[r]); /* n is the same for all lanes */
}

/* A block per head and eight rows. */
KVI_KERNEL(latent_absorb, kvi_cuda_latent_absorb_params, 512, 1)
{
    KVI_SHARED(float, y); /* (ROWS, rank), then q (ROWS, key_dim) */
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, head = blockIdx.x,
                   first = blockIdx.y * KVI_LATENT_ROWS, own = p.key_dim + p.rope;
    const uint32_t n_rows = ((const kvi_cuda_step *)p.step.step)->n_rows;
    if (first >= n_rows) return; /* the whole block */
    const uint32_t n = n_rows - first < KVI_LATENT_ROWS ? n_rows - first : KVI_LATENT_ROWS;
    float *q = y + KVI_LATENT_ROWS * p.rank;
    for (uint32_t i = threadIdx.x; i < KVI_LATENT_ROWS * p.key_dim; i += blockDim.x) {
        const uint32_t r = i / p.key_dim;
        q[i] =
            r < n ? kvi_value_at(p.q, p.q_type, (uint64_t)(first + r) * p.q_pitch + head * own + i % p.key_dim) : 0.0f;
    }
    kvi_sync_block();
    if (!p.by_columns) absorb_rows(p, head, q, y);
    else
        for (uint32_t c = warp; c < p.rank; c += blockDim.x / 32u) {
            float sum[KVI_LATENT_ROWS];
            row_products(p.w, p.tile, head * p.rank + c, q, p.key_dim, n, lane, sum);
#pragma unroll
            for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++)
                if (lane == r && r < n) y[r * p.rank + c] = sum[r];
        }
    kvi_sync_block();
    if (warp >= n) return; /* a warp per row from here on */
    float *mine = y + warp * p.rank;
    if (p.rotate) kvi_rotate_row(mine, p.rank, lane);
    const uint64_t roped = (uint64_t)(first + warp) * p.q_pitch + head * own + p.key_dim;
    uint16_t *to = (uint16_t *)p.queries + ((uint64_t)(first + warp) * p.n_heads + head) * KVI_LATENT_WIDTH;
    for (uint32_t i = lane; i < KVI_LATENT_RANK; i += 32u)
        to[i] = i < p.rank ? kvi_narrow_to(p.scale * mine[i], KVI_CUDA_F16) : 0u;
    for (uint32_t i = lane; i < KVI_LATENT_ROPE; i += 32u)
        to[KVI_LATENT_RANK + i] =
            i < p.rope ? kvi_narrow_to(p.scale * kvi_value_at(p.q, p.q_type, roped + i), KVI_CUDA_F16) : 0u;
}

/* -------------------------------------------------------------------------------------------------
 * latent_leave --- */
/* Sums of one (row, head) over its splits warp, warp + step, .., as 2^(score -
 * top): 16 columns of each lane, and l. */
KVI_DEV float merge_splits(const kvi_cuda_latent_leave_params &p, uint64_t pair, uint32_t from, uint32_t step,
                           uint32_t lane, float *to)
{
    const float2 *ml = (const float2 *)p.ml + pair * p.n_splits;
    const float *acc = (const float *)p.acc + pair * p.n_splits * KVI_LATENT_RANK;
    float top = NEGATIVE_INFINITY, l = 0.0f, sum[KVI_LATENT_RANK / 32u];
    for (uint32_t i = lane; i < p.n_splits; i += 32u)
        if (ml[i].y != 0.0f) top = kvi_max(top, ml[i].x);
    top = warp_max(top);
#pragma unroll
    for (uint32_t k = 0; k < KVI_LATENT_RANK / 32u; k++) sum[k] = 0.0f;
    for (uint32_t i = from; i < p.n_splits; i += step) {
        const float2 part = ml[i];
        if (part.y == 0.0f) continue; /* nothing seen; NaN goes on */
        const float factor = kvi_exp2(part.x - top);
        l = kvi_fma(factor, part.y, l);
#pragma unroll
        for (uint32_t k = 0; k < KVI_LATENT_RANK / 32u; k++)
            sum[k] = kvi_fma(factor, acc[(uint64_t)i * KVI_LATENT_RANK + lane + 32u * k], sum[k]);
    }
#pragma unroll
    for (uint32_t k = 0; k < KVI_LATENT_RANK / 32u; k++) to[lane + 32u * k] = sum[k];
    return l;
}

/* A block per head and eight rows. */
KVI_KERNEL(latent_leave, kvi_cuda_latent_leave_params, 256, 3)
{
    KVI_SHARED(float, o); /* (ROWS, RANK), then (warps, RANK), then (ROWS, warps) */
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, warps = blockDim.x / 32u, head = blockIdx.x,
                   first = blockIdx.y * KVI_LATENT_ROWS;
    const uint32_t n_rows = ((const kvi_cuda_step *)p.step.step)->n_rows;
    if (first >= n_rows) return; /* the whole block */
    const uint32_t n = n_rows - first < KVI_LATENT_ROWS ? n_rows - first : KVI_LATENT_ROWS;
    float *parts = o + KVI_LATENT_ROWS * KVI_LATENT_RANK, *ls = parts + warps * KVI_LATENT_RANK;
    if (p.n_splits == 1u) {
        if (warp < n) {
            const float l =
                merge_splits(p, (uint64_t)(first + warp) * p.n_heads + head, 0, 1, lane, o + warp * KVI_LATENT_RANK);
            if (lane == 0u) ls[warp * warps] = l;
        }
    } else
        for (uint32_t r = 0; r < n; r++) {
            const float l = merge_splits(p, (uint64_t)(first + r) * p.n_heads + head, warp, warps, lane,
                                         parts + warp * KVI_LATENT_RANK);
            if (lane == 0u) ls[r * warps + warp] = l;
            kvi_sync_block();
            for (uint32_t c = threadIdx.x; c < KVI_LATENT_RANK; c += blockDim.x) {
                float sum = 0.0f;
                for (uint32_t w = 0; w < warps; w++) sum += parts[w * KVI_LATENT_RANK + c];
                o[r * KVI_LATENT_RANK + c] = sum;
            }
            kvi_sync_block();
        }
    kvi_sync_block();
    if (warp < n) {
        float l = 0.0f, *mine = o + warp * KVI_LATENT_RANK;
        for (uint32_t w = 0; w < (p.n_splits == 1u ? 1u : warps); w++) l += ls[warp * warps + w];
        const float inv = kvi_div_rn(1.0f, l);
        for (uint32_t i = lane; i < KVI_LATENT_RANK; i += 32u) mine[i] *= inv;
        if (p.rotate) kvi_rotate_row(mine, p.rank, lane);
    }
    kvi_sync_block();
    for (uint32_t v = warp; v < p.value_dim; v += warps) {
        float sum[KVI_LATENT_ROWS];
        row_products(p.w, p.tile, p.first_row + head * p.head_rows + v, o, KVI_LATENT_RANK, n, lane, sum);
#pragma unroll
        for (uint32_t r = 0; r < KVI_LATENT_ROWS; r++)
            if (lane == r && r < n)
                kvi_put_value(p.out, p.out_type, (uint64_t)(first + r) * p.out_pitch + head * p.value_dim + v, sum[r]);
    }
}
