/* best.cu - the sampling head: the 64 most likely tokens of a row of logits and the sum of all exponentials, so that a decode step
 * reads back half a kilobyte instead of the vocabulary.
 *
 * A key is a logit whose bits order like integers, then the id inverted: one comparison orders by logit, of equals the lower id first, and no
 * two keys are equal. best_part sorts its 2,048 keys in runs of 64 (bitonic), then halves the number of runs until one is left: of two
 * descending runs a and b the larger of a[i] and b[63 - i] are the best 64 of both, and bitonic, so that six steps sort them. best_merge does the
 * same with the runs of the blocks. Every order of summation is fixed, and so are the bits.
 *
 * Unproven: no card has timed these kernels. By count, 56 steps with a barrier each, once for the blocks together and once for the merge. */
#include "best_params.h"
#include "warp.cuh"

#define RUN KVI_CUDA_BEST_RUN
#define RUNS (KVI_CUDA_BEST_PART / RUN)
#define THREADS 256u
#define WARPS (THREADS / 32u)
#define LOG2_E 1.4426950408889634f

KVI_DEV uint64_t key_of(float logit, uint32_t id)
{
    const uint32_t bits = kvi_f32_to_bits(logit);
    return (uint64_t)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | ~id;
}
KVI_DEV float logit_of(uint64_t key)
{
    const uint32_t bits = (uint32_t)(key >> 32);
    return kvi_bits_f32(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/* One step over the first n keys: pairs `stride` apart, the larger first in blocks of `size` whose place within a run is even. */
KVI_DEV void order(uint64_t *keys, uint32_t n, uint32_t size, uint32_t stride)
{
    for (uint32_t pair = threadIdx.x; pair < n / 2u; pair += THREADS) {
        const uint32_t i = pair / stride * 2u * stride + pair % stride;
        const uint64_t a = keys[i], b = keys[i + stride];
        const bool descending = (i % RUN & size) == 0u;
        if (descending ? a < b : a > b) keys[i] = b, keys[i + stride] = a;
    }
    kvi_sync_block();
}

KVI_DEV void sort_runs(uint64_t *keys)
{
    for (uint32_t size = 2; size <= RUN; size *= 2u)
        for (uint32_t stride = size / 2u; stride; stride /= 2u) order(keys, RUNS * RUN, size, stride);
}

/* Runs that are bitonic become descending. */
KVI_DEV void settle(uint64_t *keys, uint32_t n_runs)
{
    for (uint32_t stride = RUN / 2u; stride; stride /= 2u) order(keys, n_runs * RUN, RUN, stride);
}

KVI_DEV void merge_runs(uint64_t *keys)
{
    for (uint32_t half = RUNS / 2u; half; half /= 2u) {
        for (uint32_t i = threadIdx.x; i < half * RUN; i += THREADS) {
            const uint64_t other = keys[half * RUN + i / RUN * RUN + (RUN - 1u - i % RUN)];
            if (keys[i] < other) keys[i] = other;
        }
        kvi_sync_block();
        settle(keys, half);
    }
}

/* Largest and sum over the block. part: shared, (WARPS); free again on return. */
KVI_DEV float block_max(float v, float *part)
{
    v = warp_max(v);
    if (threadIdx.x % 32u == 0u) part[threadIdx.x / 32u] = v;
    kvi_sync_block();
    v = part[0];
    for (uint32_t i = 1; i < WARPS; i++) v = kvi_max(v, part[i]);
    kvi_sync_block();
    return v;
}
KVI_DEV float block_sum(float v, float *part)
{
    v = warp_sum(v);
    if (threadIdx.x % 32u == 0u) part[threadIdx.x / 32u] = v;
    kvi_sync_block();
    v = part[0];
    for (uint32_t i = 1; i < WARPS; i++) v += part[i];
    kvi_sync_block();
    return v;
}

/* exp(v - top), 0 where nothing is finite. */
KVI_DEV float relative(float v, float top) { return top == NEGATIVE_INFINITY ? 0.0f : kvi_exp2((v - top) * LOG2_E); }

/* A block per 2,048 logits. */
KVI_KERNEL(best_part, kvi_cuda_best_params, 256, 4)
{
    KVI_SHARED(uint64_t, keys); /* (RUNS, RUN), then WARPS floats */
    float *part = (float *)(keys + RUNS * RUN);
    const float *logits = (const float *)p.logits;
    const uint32_t first = blockIdx.x * KVI_CUDA_BEST_PART;
    float top = NEGATIVE_INFINITY, sum = 0.0f, bad = 0.0f;
    for (uint32_t i = threadIdx.x; i < KVI_CUDA_BEST_PART; i += THREADS) {
        const uint32_t id = first + i;
        const float v = id < p.n ? logits[id] : NEGATIVE_INFINITY;
        keys[i] = id < p.n ? key_of(v, id) : 0u; /* below every key of a number */
        if (!(v <= 3.402823466e38f)) bad = 1.0f;
        top = kvi_max(top, v);
    }
    top = block_max(top, part);
    for (uint32_t i = threadIdx.x; i < KVI_CUDA_BEST_PART && first + i < p.n; i += THREADS)
        sum += relative(logits[first + i], top);
    sum = block_sum(sum, part);
    bad = block_max(bad, part);
    sort_runs(keys);
    merge_runs(keys);
    uint64_t *run = (uint64_t *)p.runs + (uint64_t)blockIdx.x * RUN;
    for (uint32_t i = threadIdx.x; i < RUN; i += THREADS) run[i] = keys[i];
    if (threadIdx.x == 0u) {
        kvi_cuda_best_sum *out = (kvi_cuda_best_sum *)p.sums + blockIdx.x;
        out->top = top;
        out->sum = sum;
        out->bad = bad != 0.0f;
    }
}

/* One block. */
KVI_KERNEL(best_merge, kvi_cuda_best_params, 256, 4)
{
    KVI_SHARED(uint64_t, keys);
    float *part = (float *)(keys + RUNS * RUN);
    const uint64_t *runs = (const uint64_t *)p.runs;
    const kvi_cuda_best_sum *sums = (const kvi_cuda_best_sum *)p.sums;
    for (uint32_t i = threadIdx.x; i < RUNS * RUN; i += THREADS) keys[i] = i < p.n_parts * RUN ? runs[i] : 0u;
    kvi_sync_block();
    for (uint32_t from = RUNS; from < p.n_parts; from += RUNS) { /* vocabularies beyond 65,536 */
        const uint32_t here = p.n_parts - from < RUNS ? p.n_parts - from : RUNS;
        for (uint32_t i = threadIdx.x; i < here * RUN; i += THREADS) {
            const uint64_t other = runs[from * RUN + i / RUN * RUN + (RUN - 1u - i % RUN)];
            if (keys[i] < other) keys[i] = other;
        }
        kvi_sync_block();
        settle(keys, RUNS); /* runs that nothing was added to stay as they are */
    }
    merge_runs(keys);
    float top = NEGATIVE_INFINITY, sum = 0.0f, bad = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.n_parts; i += THREADS) {
        top = kvi_max(top, sums[i].top);
        if (sums[i].bad) bad = 1.0f;
    }
    top = block_max(top, part);
    for (uint32_t i = threadIdx.x; i < p.n_parts; i += THREADS) sum += sums[i].sum * relative(sums[i].top, top);
    sum = block_sum(sum, part);
    bad = block_max(bad, part);
    kvi_cuda_best *out = (kvi_cuda_best *)p.out;
    for (uint32_t i = threadIdx.x; i < RUN; i += THREADS) {
        out->logits[i] = keys[i] ? logit_of(keys[i]) : NEGATIVE_INFINITY;
        out->ids[i] = keys[i] ? (int32_t) ~(uint32_t)keys[i] : -1;
    }
    if (threadIdx.x == 0u) {
        out->sum = sum;
        out->bad = bad != 0.0f;
    }
}
