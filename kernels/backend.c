/* backend.c - checks of calls into a backend that are the same for every one of them. */
#include "backend.h"

kvrt_status kvi_pool_check(const kvi_limits *limits, uint64_t offset, uint64_t len, kvrt_error *error)
{
    if (offset <= limits->pool_bytes && len <= limits->pool_bytes - offset) return KVRT_OK;
    return kvi_error_set(error, KVRT_INTERNAL, "KV pool: range outside");
}

kvrt_status kvi_page_job_check(const kvi_program *program, const kvi_limits *limits, const kvi_page_job *job,
                               kvrt_error *error)
{
    if (job->group >= program->n_groups)
        return kvi_error_set(error, KVRT_INTERNAL, "page conversion: group %u of %u", job->group, program->n_groups);
    const kvi_cache_group *group = &program->groups[job->group];
    const uint64_t from = kvi_group_page_bytes(group, (kvi_kv_format)job->from.format),
                   to = kvi_group_page_bytes(group, (kvi_kv_format)job->to.format),
                   next = kvi_group_page_bytes(group, kvi_group_plain(group));
    if (job->from.unit == job->to.unit && to > from)
        return kvi_error_set(error, KVRT_INTERNAL, "page conversion: an extent cannot grow in place");
    if (kvi_pool_check(limits, (uint64_t)job->from.unit * KVI_KV_UNIT, from, NULL) < KVRT_OK ||
        kvi_pool_check(limits, (uint64_t)job->to.unit * KVI_KV_UNIT, to, NULL) < KVRT_OK)
        return kvi_error_set(error, KVRT_INTERNAL, "page conversion: a page outside the pool");
    if (!group->n_queries || job->next.unit == KVI_KV_NO_EXTENT) return KVRT_OK;
    if (job->next.format != kvi_group_plain(group) ||
        kvi_pool_check(limits, (uint64_t)job->next.unit * KVI_KV_UNIT, next, NULL) < KVRT_OK)
        return kvi_error_set(error, KVRT_INTERNAL,
                             "page conversion: a successor that is not plain, or outside the pool");
    return KVRT_OK;
}
