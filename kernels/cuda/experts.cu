/* experts.cu - what a mixture of experts needs beside its products: choosing experts, sorting the pairs (token, choice) by expert, adding what the
 * experts of a token say. The products themselves are those of dense layers, over tiles of pairs (linear_params.h, kvi_cuda_mixture).
 * The pairs of an expert stand in the order in which threads met them. That shows nowhere: a row of a product has the
 * same bits whatever stands beside it.
 * Unproven: no card has timed these kernels. A token's experts are read once per projection, whatever these few kilobytes take. */
#include "linear.cuh"
#include "warp.cuh"

/* -------------------------------------------------------------------------------------------------------- route --- */
/* The larger value and, of equals, the lower index. */
KVI_DEV void take_better(float &value, uint32_t &index, float other, uint32_t other_index)
{
    if (!(other > value || (other == value && other_index < index))) return;
    value = other, index = other_index;
}

/* Index of the largest of c (n); every lane gets it. */
KVI_DEV uint32_t best_of(const float *c, uint32_t n, uint32_t lane)
{
    float value = NEGATIVE_INFINITY;
    uint32_t index = lane < n ? lane : 0xffffffffu;
    for (uint32_t i = lane; i < n; i += 32u)
        if (c[i] > value) value = c[i], index = i;
#pragma unroll
    for (uint32_t mask = 16; mask; mask /= 2)
        take_better(value, index, kvi_shfl_xor(value, mask), kvi_shfl_xor(index, mask));
    return kvi_shfl(index, 0);
}

/* Experts of all runs but the best ones can be chosen no more. A run stays when fewer than top_groups are better, of equals the earlier. */
KVI_DEV void keep_best_groups(const kvi_cuda_route_params &p, float *c, float *worth, uint32_t lane)
{
    const uint32_t size = p.n_experts / p.n_groups;
    for (uint32_t g = lane; g < p.n_groups; g += 32u) {
        float first = NEGATIVE_INFINITY, second = NEGATIVE_INFINITY;
        for (uint32_t i = g * size; i < (g + 1u) * size; i++) {
            if (c[i] > first) second = first, first = c[i];
            else if (c[i] > second) second = c[i];
        }
        worth[g] = p.group_best > 1u && size > 1u ? first + second : first;
    }
    kvi_sync_warp();
    for (uint32_t i = lane; i < p.n_experts; i += 32u) {
        const uint32_t own = i / size;
        uint32_t better = 0;
        for (uint32_t g = 0; g < p.n_groups; g++)
            better += worth[g] > worth[own] || (worth[g] == worth[own] && g < own);
        if (better >= p.top_groups) c[i] = NEGATIVE_INFINITY;
    }
    kvi_sync_warp();
}

/* x = softmax(x), over a warp's row of n in shared memory. */
KVI_DEV void softmax(float *x, uint32_t n, uint32_t lane)
{
    float top = NEGATIVE_INFINITY, sum = 0.0f;
    for (uint32_t i = lane; i < n; i += 32u) top = kvi_max(top, x[i]);
    top = warp_max(top);
    for (uint32_t i = lane; i < n; i += 32u) {
        x[i] = kvi_exp(x[i] - top);
        sum += x[i];
    }
    sum = warp_sum(sum);
    for (uint32_t i = lane; i < n; i += 32u) x[i] = kvi_div_rn(x[i], sum);
    kvi_sync_warp();
}

/* A warp per row. */
KVI_KERNEL(route, kvi_cuda_route_params, 128, 4)
{
    KVI_SHARED(float, shared);
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, row = blockIdx.x * KVI_ROUTE_WARPS + warp;
    if (row >= ((const kvi_cuda_step *)p.step.step)->n_rows) return; /* whole warps, and there is no block barrier */
    const uint32_t n = p.n_experts, k = p.top_k;
    float *logits = shared + warp * kvi_cuda_route_floats(n, p.n_groups, k), *c = logits + n, *worth = c + n,
          *weights = worth + p.n_groups;
    const float *given = (const float *)p.logits + (uint64_t)row * p.pitch, *bias = (const float *)p.bias,
                *correction = (const float *)p.correction, *gain = (const float *)p.gain;
    float *ids = (float *)p.chosen + (uint64_t)row * p.chosen_pitch;
    for (uint32_t i = lane; i < n; i += 32u) {
        const float s = given[i] + (bias ? bias[i] : 0.0f);
        logits[i] = s;
        c[i] = p.score == KVI_CUDA_ROUTE_SIGMOID ? kvi_sigmoid(s) : s;
    }
    kvi_sync_warp();
    if (p.score == KVI_CUDA_ROUTE_SOFTMAX) softmax(c, n, lane);
    /* Scores are what the chosen weigh; they take the place of the logits, unless those weigh. */
    for (uint32_t i = lane; i < n; i += 32u) {
        if (!p.softmax_chosen) logits[i] = c[i];
        if (correction) c[i] += correction[i];
    }
    kvi_sync_warp();
    if (p.n_groups > 1u) keep_best_groups(p, c, worth, lane);
    for (uint32_t j = 0; j < k; j++) {
        const uint32_t e = best_of(c, n, lane);
        kvi_sync_warp(); /* all have read c */
        if (lane == 0u) {
            ids[j] = (float)e;
            weights[j] = logits[e];
            c[e] = NEGATIVE_INFINITY;
        }
        kvi_sync_warp();
    }
    if (p.softmax_chosen) softmax(weights, k, lane);
    float sum = 0.0f;
    for (uint32_t j = lane; j < k; j += 32u) sum += weights[j];
    sum = warp_sum(sum);
    const float factor = p.renormalize ? kvi_div_rn(p.scale, sum + 1e-20f) : p.scale;
    for (uint32_t j = lane; j < k; j += 32u) ids[k + j] = weights[j] * factor * (gain ? gain[(uint32_t)ids[j]] : 1.0f);
}

/* --------------------------------------------------------------------------------------------------- sort_pairs --- */
/* An exclusive sum over n numbers of shared memory, in place, by one warp; the sum of all. */
KVI_DEV uint32_t exclusive_sum(uint32_t *x, uint32_t n, uint32_t lane)
{
    uint32_t before = 0;
    for (uint32_t first = 0; first < n; first += 32u) {
        const uint32_t own = first + lane < n ? x[first + lane] : 0u;
        uint32_t sum = own;
#pragma unroll
        for (uint32_t by = 1; by < 32u; by *= 2u) {
            const uint32_t other = kvi_shfl(sum, lane >= by ? lane - by : lane);
            if (lane >= by) sum += other;
        }
        if (first + lane < n) x[first + lane] = before + sum - own;
        before += kvi_shfl(sum, 31);
    }
    return before;
}

/* One block: counts, where each expert's run and tiles begin, then places. */
KVI_KERNEL(sort_pairs, kvi_cuda_sort_params, 256, 2)
{
    KVI_SHARED(
        uint32_t,
        shared); /* (3, n_experts): pairs of each; where they begin, then its next place; where its tiles begin */
    const uint32_t lane = threadIdx.x % 32u, n = p.n_experts;
    const uint32_t n_pairs = ((const kvi_cuda_step *)p.step.step)->n_rows * p.top_k;
    uint32_t *count = shared, *next = shared + n, *first_tile = shared + 2u * n;
    unsigned char *list = (unsigned char *)p.list;
    kvi_cuda_tile_pairs *tiles = (kvi_cuda_tile_pairs *)(list + KVI_CUDA_LIST_HEAD);
    uint32_t *pairs = (uint32_t *)(tiles + p.max_tiles);
    const float *chosen = (const float *)p.chosen;
    for (uint32_t e = threadIdx.x; e < n; e += blockDim.x) count[e] = 0u;
    kvi_sync_block();
    for (uint32_t i = threadIdx.x; i < n_pairs; i += blockDim.x)
        (void)kvi_atomic_inc(count + (uint32_t)chosen[(uint64_t)(i / p.top_k) * p.pitch + i % p.top_k]);
    kvi_sync_block();
    for (uint32_t e = threadIdx.x; e < n; e += blockDim.x) {
        next[e] = count[e];
        first_tile[e] = (count[e] + p.tile_rows - 1u) / p.tile_rows;
    }
    kvi_sync_block();
    if (threadIdx.x / 32u == 0u) (void)exclusive_sum(next, n, lane);
    if (threadIdx.x / 32u == 1u) {
        const uint32_t n_tiles = exclusive_sum(first_tile, n, lane);
        if (lane == 0u) *(uint32_t *)list = n_tiles;
    }
    kvi_sync_block();
    for (uint32_t e = threadIdx.x; e < n; e += blockDim.x)
        for (uint32_t done = 0, t = first_tile[e]; done < count[e]; done += p.tile_rows, t++) {
            const uint32_t left = count[e] - done;
            tiles[t] = kvi_cuda_tile_pairs{e, next[e] + done, left < p.tile_rows ? left : p.tile_rows, 0u};
        }
    kvi_sync_block();
    for (uint32_t i = threadIdx.x; i < n_pairs; i += blockDim.x) {
        const uint32_t e = (uint32_t)chosen[(uint64_t)(i / p.top_k) * p.pitch + i % p.top_k];
        pairs[kvi_atomic_inc(next + e)] = i;
    }
}

/* ------------------------------------------------------------------------------------------------- gather_pairs --- */
/* A block of 256 per pair. The row passes through shared memory, so that it may be gathered in place. */
KVI_KERNEL(gather_pairs, kvi_cuda_gather_params, 256, 4)
{
    KVI_SHARED(uint16_t, row); /* (n_cols) */
    const uint32_t pair = blockIdx.x, token = pair / p.top_k, end = (p.n_cols + 7u) / 8u * 8u;
    if (token >= ((const kvi_cuda_step *)p.step.step)->n_rows) return; /* the whole block */
    const uint32_t expert = (uint32_t)((const float *)p.chosen)[(uint64_t)token * p.pitch + pair % p.top_k];
    const uint16_t *x = (const uint16_t *)p.x + (uint64_t)(pair / p.sharing) * p.x_pitch;
    const uint32_t *order = (const uint32_t *)p.order + (uint64_t)expert * p.n_cols;
    uint16_t *y = (uint16_t *)p.y + (uint64_t)pair * p.y_pitch;
    for (uint32_t i = threadIdx.x; i < p.n_cols; i += blockDim.x) row[i] = x[i];
    kvi_sync_block();
    for (uint32_t i = threadIdx.x; i < end; i += blockDim.x) y[i] = i < p.n_cols ? row[order[i]] : (uint16_t)0u;
}

/* ---------------------------------------------------------------------------------------------------- add_pairs --- */
/* A block of 256 per row; a thread has its columns in both passes. */
KVI_KERNEL(add_pairs, kvi_cuda_add_pairs_params, 256, 4)
{
    KVI_SHARED(float, part); /* (8) */
    const uint32_t r = blockIdx.x;
    if (r >= ((const kvi_cuda_step *)p.step.step)->n_rows) return; /* the whole block */
    float *x = (float *)p.x + (uint64_t)r * p.top_k * p.x_pitch, *y = (float *)p.y + (uint64_t)r * p.y_pitch;
    const float *weights = (const float *)p.chosen + (uint64_t)r * p.pitch + p.top_k, *gain = (const float *)p.gain;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.n_cols; i += blockDim.x) {
        float sum = 0.0f;
#pragma unroll 4
        for (uint32_t j = 0; j < p.top_k; j++) sum = kvi_fma(weights[j], x[(uint64_t)j * p.x_pitch + i], sum);
        squares = kvi_fma(sum, sum, squares);
        if (p.norm) x[i] = sum;
        else y[i] += p.scale * sum;
    }
    if (!p.norm) return; /* all of them */
    squares = warp_sum(squares);
    if (threadIdx.x % 32u == 0u) part[threadIdx.x / 32u] = squares;
    kvi_sync_block();
    squares = 0.0f;
    for (uint32_t i = 0; i < blockDim.x / 32u; i++) squares += part[i];
    const float inv = kvi_div_rn(1.0f, kvi_sqrt_rn(squares / (float)p.n_cols + p.eps));
    for (uint32_t i = threadIdx.x; i < p.n_cols; i += blockDim.x)
        y[i] += p.scale * (x[i] * inv * (gain ? gain[i] : 1.0f));
}
