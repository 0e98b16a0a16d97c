/* encode_params.h - parameters of kv_convert, the tile encoder and page converter. Shared by C and device code. */
#ifndef KVI_CUDA_ENCODE_PARAMS_H
#define KVI_CUDA_ENCODE_PARAMS_H
#include <stdbool.h>
#include "params.h"

#define KVI_CONVERT_JOBS 64u /* pages per launch */
#define KVI_CONVERT_GROUPS 8u
#define KVI_CONVERT_THREADS 512u
#define KVI_CONVERT_MOST 512u /* rows or columns of a tile, at most */
#define KVI_CONVERT_SHARED (18u * KVI_CONVERT_MOST * 4u + 2u * 64u * 4u)
/* Blocks, which are the records that are converted at once: as many as this much scratch is enough for, but no more than are of use, nor so few
 * that the device would idle. */
#define KVI_CONVERT_ROOM (24u << 20)
#define KVI_CONVERT_MOST_BLOCKS 128u
#define KVI_CONVERT_LEAST_BLOCKS 32u

/* Bytes of scratch per block for head dimension d, in f32: a tile by rows, the same by columns; the metric of the queries, where pages keep some. */
static inline uint64_t kvi_cuda_convert_scratch(uint32_t d, bool queries)
{
    const uint32_t metric = d < KVI_KV_PAGE ? KVI_KV_PAGE : d;
    return (uint64_t)d * KVI_KV_PAGE * (4u + 4u) + (queries ? (uint64_t)metric * metric * 4u : 0u);
}

/* A task is a record. Tasks [first, first + n_tasks) of all jobs are converted by one launch. */
typedef struct kvi_cuda_convert_params {
    kvi_dptr pool, scratch, levels; /* levels: f32 (2, 64) of trellis.h */
    uint64_t scratch_bytes;         /* per block */
    uint32_t n_jobs, first, n_tasks;
    uint32_t varnorm, range; /* kvi_varnorm, kvi_range */
    kvi_kv_shape shapes[KVI_CONVERT_GROUPS];
    /* Rows of queries that a plain page keeps of each record, from the start of the page, and the format that has them; 0: none. */
    uint64_t queries_off[KVI_CONVERT_GROUPS];
    uint32_t n_queries[KVI_CONVERT_GROUPS], plain[KVI_CONVERT_GROUPS];
    uint32_t first_task[KVI_CONVERT_JOBS]; /* by job */
    uint32_t groups[KVI_CONVERT_JOBS];
    kvi_dptr staged[KVI_CONVERT_JOBS]; /* in place: where the job's records of this launch go, one after the other */
    kvi_page_ref from[KVI_CONVERT_JOBS], to[KVI_CONVERT_JOBS];
    uint32_t next[KVI_CONVERT_JOBS]; /* unit of the page's successor; KVI_KV_NO_EXTENT: none */
} kvi_cuda_convert_params;

#endif
