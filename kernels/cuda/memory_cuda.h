/* memory_cuda.h - what backend_cuda.c uses of memory_cuda.c and layout_cuda.c. */
#ifndef KVI_MEMORY_CUDA_H
#define KVI_MEMORY_CUDA_H
#include "device_cuda.h"

/* Memory of a pool that changes comes in pieces of that: what every card takes. */
#define KVI_CUDA_POOL_GRAIN (2u << 20)

/* `what` of so many bytes is NOMEM_DEVICE. */
kvrt_status kvi_cuda_no_memory(const kvi_device *device, const char *what, uint64_t bytes, kvrt_error *error);
/* Device memory, which the caller frees; of 0 bytes none, *out as it was. NOMEM_DEVICE, *out 0. */
kvrt_status kvi_cuda_allocate(const kvi_device *device, uint64_t bytes, const char *what, kvi_dptr *out,
                              kvrt_error *error);
kvrt_status kvi_cuda_staging_open(kvi_device *device, kvrt_error *error);
void kvi_cuda_staging_close(kvi_device *device);

bool kvi_cuda_kernel_of(const kvi_weight_desc *desc, const kvi_device_options *options, char *text, uint64_t cap);
kvrt_status kvi_cuda_weight_bytes(const kvi_weight_desc *desc, uint64_t *bytes, kvrt_error *error);
/* One block for the weights to come; without it each takes a block of its own. */
kvrt_status kvi_cuda_weights_reserve(kvi_device *device, uint64_t bytes, kvrt_error *error);
kvrt_status kvi_cuda_weight_import(kvi_device *device, const kvi_weight_desc *desc, kvi_weight **out,
                                   kvrt_error *error);

/* The pool of device->limits, at device->pool (pool_cuda.c). NOMEM_DEVICE; UNSUPPORTED: it has a grain, and the driver cannot. */
kvrt_status kvi_cuda_pool_open(kvi_device *device, kvrt_error *error);
kvrt_status kvi_cuda_pool_resize(kvi_device *device, uint64_t bytes,
                                 kvrt_error *error); /* on an error it is as before */
void kvi_cuda_pool_close(kvi_device *device);

/* Where everything of the workspace stands; addresses from `base` on. OPERAND buffers are given as F16. */
typedef struct kvi_cuda_layout {
    kvi_cuda_buffer buffers[KVI_CUDA_MAX_BUFFERS];
    kvi_cuda_step_map map;
    uint64_t step_bytes; /* from map.step to the end of map.pages */
    kvi_dptr best, linear, experts, latent, attention, encode;
} kvi_cuda_layout;
uint64_t kvi_cuda_workspace_layout(const kvi_program *program, const kvi_limits *limits, kvi_dptr base,
                                   kvi_cuda_layout *out);

#endif
