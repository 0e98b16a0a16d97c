/* layout_cuda.c - where everything of the workspace stands: buffers, step, and what each family of operations asks for. It stands above the
 * families, which know nothing of one another. */
#include "memory_cuda.h"

#include <string.h>

static uint32_t rows_of(const kvi_buffer_desc *buffer, const kvi_limits *limits)
{
    return buffer->rows == KVI_ROWS_LOGIT ? limits->max_logit_rows : limits->max_rows;
}

static void carve_step(const kvi_program *program, const kvi_limits *limits, kvi_cuda_space *space,
                       kvi_cuda_step_map *map)
{
    /* In the order of the host copy: what is usually short last, so that one copy up to the last byte in use is enough. */
    map->n_groups = program->n_groups;
    map->max_pages = (limits->max_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    map->step = kvi_cuda_carve(space, sizeof(kvi_cuda_step));
    map->seqs = kvi_cuda_carve(space, (uint64_t)limits->max_seqs * sizeof(kvi_cuda_seq));
    map->ids = kvi_cuda_carve(space, (uint64_t)limits->max_rows * 4);
    map->row_seq = kvi_cuda_carve(space, (uint64_t)limits->max_rows * 4);
    map->logit_rows = kvi_cuda_carve(space, (uint64_t)limits->max_logit_rows * 4);
    map->pages =
        kvi_cuda_carve(space, (uint64_t)limits->max_seqs * map->n_groups * map->max_pages * sizeof(kvi_page_ref));
}

uint64_t kvi_cuda_workspace_layout(const kvi_program *program, const kvi_limits *limits, kvi_dptr base,
                                   kvi_cuda_layout *out)
{
    kvi_cuda_space space = {base, 0};
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < program->n_buffers && i < KVI_CUDA_MAX_BUFFERS; i++) {
        const kvi_buffer_desc *b = &program->buffers[i];
        const bool residual = b->precision == KVI_PRECISION_RESIDUAL;
        const uint32_t pitch = kvi_cuda_pitch(b->cols);
        out->buffers[i] =
            (kvi_cuda_buffer){kvi_cuda_carve(&space, (uint64_t)rows_of(b, limits) * pitch * (residual ? 4 : 2)),
                              residual ? KVI_F32 : KVI_F16, b->cols, pitch};
    }
    const uint64_t first = space.used;
    carve_step(program, limits, &space, &out->map);
    out->step_bytes = space.used - first;
    out->best = kvi_cuda_carve(&space, kvi_cuda_best_bytes(program));
    out->linear = kvi_cuda_carve(&space, kvi_cuda_linear_bytes(program, limits));
    out->experts = kvi_cuda_carve(&space, kvi_cuda_experts_bytes(program, limits));
    out->latent = kvi_cuda_carve(&space, kvi_cuda_latent_bytes(program, limits));
    out->attention = kvi_cuda_carve(&space, kvi_cuda_attention_bytes(program, limits));
    out->encode = kvi_cuda_carve(&space, kvi_cuda_encode_bytes(program, limits));
    return space.used;
}
