/* best_cuda.c - the most likely tokens of a row of logits, by best_part and best_merge: the sampling head of a step. */
#include "device_cuda.h"
#include "best_params.h"

#include <string.h>

#define THREADS 256u
#define SHARED (KVI_CUDA_BEST_PART * 8u + THREADS / 32u * 4u)

static uint32_t parts_of(uint32_t vocab_size) { return (vocab_size + KVI_CUDA_BEST_PART - 1) / KVI_CUDA_BEST_PART; }

static uint64_t carve(kvi_cuda_space *space, uint32_t vocab_size, kvi_cuda_best_params *p)
{
    p->n_parts = parts_of(vocab_size);
    p->runs = kvi_cuda_carve(space, (uint64_t)p->n_parts * KVI_CUDA_BEST_RUN * 8);
    p->sums = kvi_cuda_carve(space, (uint64_t)p->n_parts * sizeof(kvi_cuda_best_sum));
    p->out = kvi_cuda_carve(space, sizeof(kvi_cuda_best));
    return space->used;
}

uint64_t kvi_cuda_best_bytes(const kvi_program *program)
{
    kvi_cuda_space space = {0, 0};
    kvi_cuda_best_params p;
    return carve(&space, program->vocab_size, &p);
}

kvrt_status kvi_cuda_best_run(kvi_device *d, uint32_t logit_row, kvi_best *out, const char **kernel, kvrt_error *error)
{
    const kvi_cuda_buffer *logits = &d->buffers[d->program->logits];
    kvi_cuda_space space = {d->best, 0};
    kvi_cuda_best_params p = {.logits = logits->data + (uint64_t)logit_row * logits->pitch * 4,
                              .n = d->program->vocab_size};
    kvi_cuda_best found;
    (void)carve(&space, p.n, &p);
    *kernel = kvi_cuda_kernel_name(KVI_CUDA_K_best_part);
    KVI_TRY(kvi_cuda_launch(d, KVI_CUDA_K_best_part, p.n_parts, 1, 1, THREADS, SHARED, &p, error));
    KVI_TRY(kvi_cuda_launch(d, KVI_CUDA_K_best_merge, 1, 1, 1, THREADS, SHARED, &p, error));
    KVI_TRY(kvi_cuda_download(d, &found, p.out, sizeof found, error));
    out->bad = found.bad != 0;
    out->n = p.n < KVI_BEST_MAX ? p.n : KVI_BEST_MAX;
    out->sum = found.sum;
    memcpy(out->logits, found.logits, sizeof out->logits);
    memcpy(out->ids, found.ids, sizeof out->ids);
    return KVRT_OK;
}
