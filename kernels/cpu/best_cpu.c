/* best_cpu.c - the most likely tokens of a row of logits and the sum of all (kvi_best), by all threads. Of every block of logits there is the largest
 * and what the block's exponentials sum up to; only blocks whose largest is among the largest 64 can have one of the best 64. To copy the logits out
 * and go through them on one thread took a twentieth of a step of eight sessions. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

#define BLOCK 256u
#define TASK_BLOCKS 32u

typedef struct best_task {
    const kvi_cpu_variant *v;
    const float *logits;
    uint32_t vocab;
    float *tops, *sums; /* (blocks): largest logit, sum of exp(logit - it) */
} best_task;

static uint32_t blocks_of(uint32_t vocab) { return (vocab + BLOCK - 1u) / BLOCK; }
uint64_t kvi_cpu_best_bytes(uint32_t vocab) { return 2ull * blocks_of(vocab) * sizeof(float); }

static void sum_blocks(void *arg, uint32_t task, uint32_t thread)
{
    const best_task *t = arg;
    (void)thread;
    const uint32_t end = (task + 1u) * TASK_BLOCKS, n_blocks = blocks_of(t->vocab);
    for (uint32_t b = task * TASK_BLOCKS; b < end && b < n_blocks; b++) {
        float copy[BLOCK];
        const uint32_t left = t->vocab - b * BLOCK, n = left < BLOCK ? left : BLOCK;
        memcpy(copy, t->logits + (size_t)b * BLOCK, n * sizeof *copy);
        t->tops[b] = -INFINITY, t->sums[b] = 0;
        (void)t->v->softmax_step(copy, n, &t->tops[b], &t->sums[b]);
    }
}

/* Puts a value where it belongs among the best so far, largest first; of equals the one that came first stays. */
static void insert(kvi_best *best, float value, uint32_t id)
{
    if (best->n == KVI_BEST_MAX && !(value > best->logits[KVI_BEST_MAX - 1u])) return;
    uint32_t at = best->n < KVI_BEST_MAX ? best->n++ : KVI_BEST_MAX - 1u;
    for (; at > 0 && value > best->logits[at - 1u]; at--)
        best->logits[at] = best->logits[at - 1u], best->ids[at] = best->ids[at - 1u];
    best->logits[at] = value, best->ids[at] = (int32_t)id;
}

kvrt_status kvi_cpu_read_best(kvi_device *device, uint32_t logit_row, kvi_best *out, kvrt_error *error)
{
    if (logit_row >= device->step.n_logit_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "logits: row %u of %u", logit_row, device->step.n_logit_rows);
    const uint32_t vocab = device->program->vocab_size, n_blocks = blocks_of(vocab);
    const best_task t = {.v = device->v,
                         .logits = device->buffers[device->program->logits] + (size_t)logit_row * vocab,
                         .vocab = vocab,
                         .tops = device->bests,
                         .sums = device->bests + n_blocks};
    kvi_workers_run(device->workers, sum_blocks, (void *)&t, (n_blocks + TASK_BLOCKS - 1u) / TASK_BLOCKS);
    kvi_best tops = {.n = 0};
    for (uint32_t b = 0; b < n_blocks; b++) insert(&tops, t.tops[b], b);
    const float top = tops.logits[0], least = tops.logits[tops.n - 1u];
    *out = (kvi_best){.n = 0};
    for (uint32_t b = 0; b < n_blocks; b++) {
        out->sum += t.sums[b] * expf(t.tops[b] - top);
        if (tops.n == KVI_BEST_MAX && t.tops[b] < least) continue;
        const uint32_t end = (b + 1u) * BLOCK;
        for (uint32_t id = b * BLOCK; id < end && id < vocab; id++) insert(out, t.logits[id], id);
    }
    out->bad = !isfinite(out->sum) || top == INFINITY; /* a NaN or an infinity is in the sum of its block */
    return KVRT_OK;
}
