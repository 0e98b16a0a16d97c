/* encode_cuda.c - pages converted on the device, and bytes of the pool moved. All records of up to 64 pages are one launch of kv_convert, so that
 * a single page, too, is work for the whole device. A page that is converted in place takes two steps, as its front becomes the place of its
 * first records while later ones are still to be read: a *wave* of records is converted to staging, then copied. A record is never longer
 * than its source, so that a wave's place ends where the sources of the next begin, or before. */
#include "device_cuda.h"
#include "encode_params.h"
#include "../../runtime/kv/trellis.h"

#define LEVELS (2u * KVI_KV_STATES * sizeof(float))

struct kvi_cuda_encode {
    kvi_dptr scratch, staging, levels;
    uint64_t scratch_bytes; /* per block */
    uint32_t blocks;
    uint64_t staging_bytes;
};

static uint64_t scratch_of(const kvi_program *program)
{
    uint64_t most = 0;
    for (uint32_t g = 0; g < program->n_groups; g++) {
        const uint64_t bytes =
            kvi_cuda_convert_scratch(program->groups[g].shape.head_dim, program->groups[g].n_queries > 0);
        if (bytes > most) most = bytes;
    }
    return kvi_cuda_round(most);
}

static uint32_t blocks_of(const kvi_program *program)
{
    const uint64_t scratch = scratch_of(program), n = scratch ? KVI_CONVERT_ROOM / scratch : KVI_CONVERT_MOST_BLOCKS;
    return n > KVI_CONVERT_MOST_BLOCKS    ? KVI_CONVERT_MOST_BLOCKS
           : n < KVI_CONVERT_LEAST_BLOCKS ? KVI_CONVERT_LEAST_BLOCKS
                                          : (uint32_t)n;
}

/* As many of the largest packed records as there are blocks. */
static uint64_t staging_of(const kvi_program *program, const kvi_limits *limits)
{
    uint64_t most = 0;
    for (uint32_t g = 0; g < program->n_groups; g++)
        for (uint32_t code = KVI_KV_F8; code < KVI_KV_CODES; code++) {
            const uint64_t bytes = kvi_kv_shape_record_bytes(KVI_KV_FORMAT(code, code), &program->groups[g].shape);
            if ((limits->page_formats >> code & 1) && bytes > most) most = bytes;
        }
    return kvi_cuda_round(blocks_of(program) * most);
}

uint64_t kvi_cuda_encode_bytes(const kvi_program *program, const kvi_limits *limits)
{
    return blocks_of(program) * scratch_of(program) + staging_of(program, limits) + kvi_cuda_round(LEVELS);
}

kvrt_status kvi_cuda_encode_prepare(kvi_device *device, kvi_dptr memory, kvrt_error *error)
{
    struct kvi_cuda_encode *e = kvi_arena_alloc(&device->arena, sizeof *e);
    if (!e) return kvi_error_nomem(error, sizeof *e, "encoder");
    if (device->program->n_groups > KVI_CONVERT_GROUPS)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "page conversion: %u cache groups, the CUDA backend has room for %u",
                             device->program->n_groups, KVI_CONVERT_GROUPS);
    const uint64_t scratch = scratch_of(device->program);
    const uint32_t blocks = blocks_of(device->program);
    *e = (struct kvi_cuda_encode){.scratch = memory,
                                  .staging = memory + blocks * scratch,
                                  .levels = memory + blocks * scratch + staging_of(device->program, &device->limits),
                                  .scratch_bytes = scratch,
                                  .blocks = blocks,
                                  .staging_bytes = staging_of(device->program, &device->limits)};
    device->encode = e;
    for (uint32_t bits = 2; bits <= 3; bits++)
        KVI_TRY(kvi_cuda_upload(device, e->levels + (bits - 2) * KVI_KV_STATES * sizeof(float), kvi_kv_levels(bits),
                                KVI_KV_STATES * sizeof(float), error));
    return KVRT_OK;
}

static bool in_place(const kvi_page_job *job) { return job->from.unit == job->to.unit; }

static uint32_t records_of(const kvi_cuda_convert_params *p, uint32_t job)
{
    return p->shapes[p->groups[job]].n_layers * p->shapes[p->groups[job]].n_kv_heads;
}

static uint64_t place_bytes(const kvi_cuda_convert_params *p, uint32_t job)
{
    return kvi_kv_shape_record_bytes(p->to[job].format, &p->shapes[p->groups[job]]);
}

/* The part of a job that lies in the wave: records [*first, *first + n). */
static uint32_t part_of(const kvi_cuda_convert_params *p, uint32_t job, uint32_t *first)
{
    const uint32_t begin = p->first_task[job], end = begin + records_of(p, job),
                   from = begin > p->first ? begin : p->first,
                   to = end < p->first + p->n_tasks ? end : p->first + p->n_tasks;
    *first = from - begin;
    return from < to ? to - from : 0;
}

/* Sets p->n_tasks to what one launch can do from task p->first on: everything, but for what staging has no room for. */
static kvrt_status plan_wave(const struct kvi_cuda_encode *e, const kvi_page_job *jobs, kvi_cuda_convert_params *p,
                             kvrt_error *error)
{
    uint64_t used = 0;
    p->n_tasks = 0;
    for (uint32_t job = 0; job < p->n_jobs; job++) {
        const uint32_t end = p->first_task[job] + records_of(p, job), left = end - (p->first + p->n_tasks);
        if (end <= p->first) continue;
        const uint64_t bytes = place_bytes(p, job);
        const uint64_t room = in_place(&jobs[job]) ? (e->staging_bytes - used) / bytes : left;
        const uint32_t n = room < left ? (uint32_t)room : left;
        p->staged[job] = e->staging + used;
        p->n_tasks += n;
        if (in_place(&jobs[job])) used = kvi_cuda_round(used + n * bytes);
        if (used > e->staging_bytes) used = e->staging_bytes;
        if (n < left) break;
    }
    return p->n_tasks ? KVRT_OK
                      : kvi_error_set(error, KVRT_INTERNAL, "page conversion: a record longer than was planned for");
}

/* From staging to where they belong. */
static kvrt_status place_wave(kvi_device *d, const kvi_page_job *jobs, const kvi_cuda_convert_params *p,
                              kvrt_error *error)
{
    for (uint32_t job = 0; job < p->n_jobs; job++) {
        uint32_t first;
        const uint32_t n = part_of(p, job, &first);
        if (!in_place(&jobs[job]) || n == 0) continue;
        const uint64_t bytes = place_bytes(p, job);
        const kvi_dptr to = d->pool + (uint64_t)p->to[job].unit * KVI_KV_UNIT + first * bytes;
        KVI_TRY(kvi_cuda_check(&d->driver.cu, d->driver.cu.copy_on_device(to, p->staged[job], n * bytes, d->stream),
                               "page conversion", error));
    }
    return KVRT_OK;
}

/* At most KVI_CONVERT_JOBS pages. */
static kvrt_status convert_some(kvi_device *d, const kvi_page_job *jobs, uint32_t n_jobs,
                                const kvi_encode_params *params, kvrt_error *error)
{
    const struct kvi_cuda_encode *e = d->encode;
    uint32_t n_tasks = 0;
    kvi_cuda_convert_params p = {.pool = d->pool,
                                 .scratch = e->scratch,
                                 .levels = e->levels,
                                 .scratch_bytes = e->scratch_bytes,
                                 .n_jobs = n_jobs,
                                 .varnorm = params->varnorm,
                                 .range = params->range};
    for (uint32_t g = 0; g < d->program->n_groups; g++) {
        const kvi_cache_group *group = &d->program->groups[g];
        p.shapes[g] = group->shape;
        p.n_queries[g] = group->n_queries;
        p.queries_off[g] = kvi_group_queries_off(group, 0, 0);
        p.plain[g] = kvi_group_plain(group);
    }
    for (uint32_t i = 0; i < n_jobs; i++) {
        p.first_task[i] = n_tasks;
        p.groups[i] = jobs[i].group;
        p.from[i] = jobs[i].from;
        p.to[i] = jobs[i].to;
        p.next[i] = jobs[i].next.unit;
        n_tasks += records_of(&p, i);
    }
    for (; p.first < n_tasks; p.first += p.n_tasks) {
        KVI_TRY(plan_wave(e, jobs, &p, error));
        const uint32_t blocks = p.n_tasks < e->blocks ? p.n_tasks : e->blocks;
        KVI_TRY(kvi_cuda_launch(d, KVI_CUDA_K_kv_convert, blocks, 1, 1, KVI_CONVERT_THREADS, KVI_CONVERT_SHARED, &p,
                                error));
        KVI_TRY(place_wave(d, jobs, &p, error));
    }
    return KVRT_OK;
}

kvrt_status kvi_cuda_encode_run(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                const kvi_encode_params *params, const char **kernel, kvrt_error *error)
{
    *kernel = kvi_cuda_kernel_name(KVI_CUDA_K_kv_convert);
    for (uint32_t done = 0, n; done < n_jobs; done += n) {
        n = n_jobs - done < KVI_CONVERT_JOBS ? n_jobs - done : KVI_CONVERT_JOBS;
        KVI_TRY(convert_some(device, jobs + done, n, params, error));
    }
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------------------- moving --- */
static kvrt_status copy(kvi_device *d, kvi_dptr to, kvi_dptr from, uint64_t bytes, kvrt_error *error)
{
    return kvi_cuda_check(&d->driver.cu, d->driver.cu.copy_on_device(to, from, bytes, d->stream), "copy", error);
}

/* The driver's copy must not overlap. Pieces as long as the way are copied at once; where the way is short, longer ones pass through the scratch
 * of the encoder, which has its turn in the same stream. */
kvrt_status kvi_cuda_move(kvi_device *d, kvi_dptr from, kvi_dptr to, uint64_t bytes, kvrt_error *error)
{
    const struct kvi_cuda_encode *e = d->encode;
    const uint64_t scratch = e->blocks * e->scratch_bytes, way = from > to ? from - to : to - from;
    const bool direct = way >= bytes || way >= scratch;
    if (way == 0) return KVRT_OK;
    if (to > from && way < bytes) return kvi_error_set(error, KVRT_INTERNAL, "KV pool: a move up over its own source");
    for (uint64_t done = 0, n; done < bytes; done += n) {
        const uint64_t most = direct ? way : scratch;
        n = bytes - done < most ? bytes - done : most;
        if (!direct) KVI_TRY(copy(d, e->scratch, from + done, n, error));
        KVI_TRY(copy(d, to + done, direct ? from + done : e->scratch, n, error));
    }
    return KVRT_OK;
}
