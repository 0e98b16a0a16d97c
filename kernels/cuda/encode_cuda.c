/* encode_cuda.c - pages encoded or converted by one launch of kv_convert per 64 pages, all layers and heads of each. */
#include "device_cuda.h"
#include "encode_params.h"

struct kvi_cuda_encode {
    kvi_dptr scratch;
    uint64_t scratch_bytes; /* per block */
};

static uint64_t scratch_of(const kvi_program *program)
{
    uint64_t most = 0;
    for (uint32_t g = 0; g < program->n_groups; g++) {
        const uint64_t bytes = kvi_cuda_convert_scratch(program->groups[g].shape.head_dim);
        if (bytes > most) most = bytes;
    }
    return kvi_cuda_round(most);
}

uint64_t kvi_cuda_encode_bytes(const kvi_program *program, const kvi_limits *limits)
{
    (void)limits;
    return KVI_CONVERT_BLOCKS * scratch_of(program);
}

kvrt_status kvi_cuda_encode_prepare(kvi_device *device, kvi_dptr memory, kvrt_error *error)
{
    struct kvi_cuda_encode *e = kvi_arena_alloc(&device->arena, sizeof *e);
    if (!e) return kvi_error_nomem(error, sizeof *e, "encoder");
    if (device->program->n_groups > KVI_CONVERT_GROUPS)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "page conversion: %u cache groups, the CUDA backend has room for %u",
                             device->program->n_groups, KVI_CONVERT_GROUPS);
    *e = (struct kvi_cuda_encode){memory, scratch_of(device->program)};
    device->encode = e;
    return KVRT_OK;
}

static kvrt_status check_job(const kvi_device *device, const kvi_page_job *job, kvrt_error *error)
{
    if (job->group >= device->program->n_groups)
        return kvi_error_set(error, KVRT_INTERNAL, "page conversion: group %u of %u", job->group,
                             device->program->n_groups);
    const kvi_kv_shape *shape = &device->program->groups[job->group].shape;
    if (job->from.unit == job->to.unit &&
        kvi_kv_record_bytes(job->to.format, shape->head_dim) > kvi_kv_record_bytes(job->from.format, shape->head_dim))
        return kvi_error_set(error, KVRT_INTERNAL, "page conversion: an extent cannot grow in place");
    const kvi_page_ref *refs[2] = {&job->from, &job->to};
    for (int i = 0; i < 2; i++)
        if ((uint64_t)refs[i]->unit * KVI_KV_UNIT + kvi_kv_page_bytes(refs[i]->format, shape) >
            device->limits.pool_bytes)
            return kvi_error_set(error, KVRT_INTERNAL, "page conversion: a page outside the pool");
    return KVRT_OK;
}

kvrt_status kvi_cuda_encode_run(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                const kvi_encode_params *params, const char **kernel, kvrt_error *error)
{
    const struct kvi_cuda_encode *e = device->encode;
    *kernel = kvi_cuda_kernel_name(KVI_CUDA_K_kv_convert);
    for (uint32_t done = 0; done < n_jobs;) {
        kvi_cuda_convert_params p = {.pool = device->pool,
                                     .scratch = e->scratch,
                                     .scratch_bytes = e->scratch_bytes,
                                     .varnorm = params->varnorm,
                                     .range = params->range};
        for (uint32_t g = 0; g < device->program->n_groups; g++) p.shapes[g] = device->program->groups[g].shape;
        for (; p.n_jobs < KVI_CONVERT_JOBS && done < n_jobs; done++, p.n_jobs++) {
            const kvi_page_job *job = &jobs[done];
            KVI_TRY(check_job(device, job, error));
            p.first_task[p.n_jobs] = p.n_tasks;
            p.groups[p.n_jobs] = job->group;
            p.from[p.n_jobs] = job->from;
            p.to[p.n_jobs] = job->to;
            p.n_tasks +=
                job->from.unit == job->to.unit ? 1 : p.shapes[job->group].n_layers * p.shapes[job->group].n_kv_heads;
        }
        const uint32_t blocks = p.n_tasks < KVI_CONVERT_BLOCKS ? p.n_tasks : KVI_CONVERT_BLOCKS;
        KVI_TRY(kvi_cuda_launch(device, KVI_CUDA_K_kv_convert, blocks, 1, 1, KVI_CONVERT_THREADS, KVI_CONVERT_SHARED,
                                &p, error));
    }
    return KVRT_OK;
}
