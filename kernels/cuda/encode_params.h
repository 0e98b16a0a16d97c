/* encode_params.h - parameters of kv_convert, the tile encoder and page converter. Shared by C and device code. */
#ifndef KVI_CUDA_ENCODE_PARAMS_H
#define KVI_CUDA_ENCODE_PARAMS_H
#include "params.h"

#define KVI_CONVERT_JOBS 64u /* pages per launch */
#define KVI_CONVERT_GROUPS 8u
#define KVI_CONVERT_THREADS 512u
#define KVI_CONVERT_BLOCKS 128u /* blocks that scratch is planned for, and records that are converted at once */
#define KVI_CONVERT_SHARED (10u * 256u * 4u + 8u * 256u * 4u)

/* Bytes of scratch per block for head dimension d: a tile by rows, the same by columns (f32). */
static inline uint64_t kvi_cuda_convert_scratch(uint32_t d) { return (uint64_t)d * KVI_KV_PAGE * (4u + 4u); }

/* A task is a record. Tasks [first, first + n_tasks) of all jobs are converted by one launch. */
typedef struct kvi_cuda_convert_params {
    kvi_dptr pool, scratch;
    uint64_t scratch_bytes; /* per block */
    uint32_t n_jobs, first, n_tasks;
    uint32_t varnorm, range; /* kvi_varnorm, kvi_range */
    kvi_kv_shape shapes[KVI_CONVERT_GROUPS];
    uint32_t first_task[KVI_CONVERT_JOBS]; /* by job */
    uint32_t groups[KVI_CONVERT_JOBS];
    kvi_dptr staged[KVI_CONVERT_JOBS]; /* in place: where the job's records of this launch go, one after the other */
    kvi_page_ref from[KVI_CONVERT_JOBS], to[KVI_CONVERT_JOBS];
} kvi_cuda_convert_params;

#endif
