/* convert_cpu.c - pages from one format to another on the CPU: the first encoding of a page and its demotion. */
#include "device_cpu.h"
#include "../../runtime/kv/encode.h"

#include <string.h>

#define MOST_JOBS 64u

/* One record from any format to any other, through f32 rows in the thread's scratch. Queries stand behind all records of a page, where a
 * conversion in place, which never grows, writes nothing: page and successor may be converted at the same time. */
typedef struct convert_task {
    kvi_device *device;
    const kvi_page_job *jobs;
    const kvi_encode_params *params;
    uint32_t first_record[MOST_JOBS],
        first_task[MOST_JOBS]; /* of each job: where the run of records begins that is under way */
    uint32_t n_jobs;
} convert_task;

/* queries: NULL: rounded plainly */
static void encode_side(kvi_kv_code kind, bool is_v, const float *rows, uint32_t d, const kvi_encode_params *params,
                        float fixed, const kvi_kv_queries *queries, float *scratch, const kvi_cpu_variant *v,
                        uint8_t *side)
{
    if (kvi_kv_code_is_plain(kind)) v->narrow(rows, kvi_kv_plain_dtype(kind), d * KVI_KV_PAGE, side);
    else if (fixed > 0 && (kind == KVI_KV_F8 || kind == KVI_KV_I8))
        kvi_kv_encode_fixed(kind, is_v, rows, d, fixed, side);
    else if (is_v) v->encoder->v(kind, rows, d, params, queries, scratch, side);
    else v->encoder->k(kind, rows, d, params, queries, scratch, side);
}

/* What a page and its successor keep for a record. False: nothing, as the page has been encoded before, or the cache rounds plainly. */
static bool queries_of(const kvi_device *device, const kvi_page_job *job, uint32_t index, kvi_kv_queries *out)
{
    const kvi_cache_group *group = &device->program->groups[job->group];
    const uint32_t n_heads = group->shape.n_kv_heads;
    const uint64_t at = kvi_group_queries_off(group, index / n_heads, index % n_heads);
    const bool followed = job->next.unit != KVI_KV_NO_EXTENT;
    if (!group->n_queries || job->from.format != kvi_group_plain(group)) return false;
    *out = (kvi_kv_queries){
        .rows = {(const int8_t *)device->pool + (uint64_t)job->from.unit * KVI_KV_UNIT + at,
                 followed ? (const int8_t *)device->pool + (uint64_t)job->next.unit * KVI_KV_UNIT + at : NULL},
        .n_rows = {group->n_queries, followed ? group->n_queries : 0}};
    return true;
}

static void decode_side(const uint8_t *side, kvi_kv_code kind, bool is_v, uint32_t d, const kvi_cpu_variant *v,
                        float *rows)
{
    if (kvi_kv_code_is_plain(kind)) v->widen(side, kvi_kv_plain_dtype(kind), d * KVI_KV_PAGE, rows);
    else kvi_kv_decode_rows(side, kind, is_v, d, rows);
}

/* The fixed scale of a record's K (side 0) or V (1); 0: its rows have their own. */
static float fixed_scale(const kvi_device *device, const kvi_page_job *job, uint32_t index, uint32_t side)
{
    const float *scales = device->program->groups[job->group].scales;
    return scales ? scales[2 * index + side] : 0.0f;
}

static void convert_record(const convert_task *t, const kvi_page_job *job, uint32_t index, uint32_t thread)
{
    kvi_device *device = t->device;
    const kvi_kv_shape *shape = &device->program->groups[job->group].shape;
    const uint32_t d = shape->head_dim, d_v = kvi_kv_v_dim(shape);
    float *k = device->thread_scratch + thread * device->scratch_floats, *v = k + d * KVI_KV_PAGE,
          *scratch = v + d_v * KVI_KV_PAGE;
    const kvi_kv_code from_k = KVI_KV_K_CODE(job->from.format), from_v = KVI_KV_V_CODE(job->from.format);
    kvi_kv_queries queries;
    const bool known = queries_of(device, job, index, &queries);
    const kvi_kv_code to_k = KVI_KV_K_CODE(job->to.format), to_v = KVI_KV_V_CODE(job->to.format);
    const uint8_t *from = device->pool + (uint64_t)job->from.unit * KVI_KV_UNIT +
                          (uint64_t)index * kvi_kv_shape_record_bytes(job->from.format, shape);
    uint8_t *to = device->pool + (uint64_t)job->to.unit * KVI_KV_UNIT +
                  (uint64_t)index * kvi_kv_shape_record_bytes(job->to.format, shape);
    /* A side whose code stays is copied: it would lose a second time otherwise. In place, `to` is at or before `from`, so that reading V
     * before anything is written, and K before V is written, is enough. */
    if (from_v != to_v) decode_side(from + kvi_kv_k_side(from_k, d).bytes, from_v, true, d_v, device->v, v);
    else memcpy(v, from + kvi_kv_k_side(from_k, d).bytes, kvi_kv_v_side(from_v, d_v).bytes);
    const float k_scale = fixed_scale(device, job, index, 0), v_scale = fixed_scale(device, job, index, 1);
    const bool of_v = known && shape->rope_dim == 0 && from_v != to_v && queries.n_rows[1];
    if (from_k != to_k || of_v) decode_side(from, from_k, false, d, device->v, k);
    queries.keys = of_v ? k : NULL;
    if (from_k != to_k) {
        encode_side(to_k, false, k, d, t->params, k_scale, known ? &queries : NULL, scratch, device->v, to);
    } else memmove(to, from, kvi_kv_k_side(from_k, d).bytes);
    to += kvi_kv_k_side(to_k, d).bytes;
    if (from_v != to_v)
        encode_side(to_v, true, v, d_v, t->params, v_scale, of_v ? &queries : NULL, scratch, device->v, to);
    else memcpy(to, v, kvi_kv_v_side(to_v, d_v).bytes);
}

static uint32_t records_of(const kvi_device *device, const kvi_page_job *job)
{
    const kvi_kv_shape *shape = &device->program->groups[job->group].shape;
    return shape->n_layers * shape->n_kv_heads;
}

static void convert_one(void *arg, uint32_t task, uint32_t thread)
{
    const convert_task *t = arg;
    uint32_t job = 0;
    while (job + 1 < t->n_jobs && task >= t->first_task[job + 1]) job++;
    convert_record(t, &t->jobs[job], t->first_record[job] + task - t->first_task[job], thread);
}

/* Records [first, end) can be converted at the same time. In place they shrink towards the front: what they become must end where they begin,
 * at the latest, or be one record alone, which is read whole before it is written. So each run of records is longer than the one before it. */
static uint32_t end_of_run(const kvi_device *device, const kvi_page_job *job, uint32_t first)
{
    const kvi_kv_shape *shape = &device->program->groups[job->group].shape;
    const uint32_t n = records_of(device, job);
    if (job->from.unit != job->to.unit) return n;
    const uint64_t end = (uint64_t)first * kvi_kv_shape_record_bytes(job->from.format, shape) /
                         kvi_kv_shape_record_bytes(job->to.format, shape);
    return first >= n ? n : end <= first ? first + 1 : end < n ? (uint32_t)end : n;
}

kvrt_status kvi_cpu_convert_pages(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                  const kvi_encode_params *params, kvrt_error *error)
{
    for (uint32_t i = 0; i < n_jobs; i++)
        KVI_TRY(kvi_page_job_check(device->program, &device->limits, &jobs[i], error));
    for (uint32_t done = 0; done < n_jobs;) {
        convert_task t = {.device = device, .jobs = jobs + done, .params = params};
        t.n_jobs = n_jobs - done < MOST_JOBS ? n_jobs - done : MOST_JOBS;
        for (uint32_t tasks = 1; tasks > 0;) {
            uint32_t end[MOST_JOBS];
            tasks = 0;
            for (uint32_t i = 0; i < t.n_jobs; i++) {
                end[i] = end_of_run(device, &t.jobs[i], t.first_record[i]);
                t.first_task[i] = tasks;
                tasks += end[i] - t.first_record[i];
            }
            kvi_workers_run(device->workers, convert_one, &t, tasks);
            memcpy(t.first_record, end, t.n_jobs * sizeof end[0]);
        }
        done += t.n_jobs;
    }
    return KVRT_OK;
}

kvrt_status kvi_cpu_convert_some(kvi_device *device, const kvi_page_job *job, const kvi_encode_params *params,
                                 uint32_t first, uint32_t n, uint32_t *n_run, bool *over, kvrt_error *error)
{
    KVI_TRY(kvi_page_job_check(device->program, &device->limits, job, error));
    convert_task t = {.device = device, .jobs = job, .n_jobs = 1, .params = params};
    const uint32_t n_records = records_of(device, job),
                   n_rounds = (n_records + device->n_threads - 1) / device->n_threads,
                   end = n < n_rounds - first ? first + n : n_rounds, from = first * device->n_threads;
    *n_run = end - first;
    *over = end == n_rounds;
    kvi_workers_run_from(device->workers, convert_one, &t, from, (*over ? n_records : end * device->n_threads) - from);
    return KVRT_OK;
}
