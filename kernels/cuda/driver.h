/* driver.h - opening a CUDA driver library at run time. Owns the table of functions, the version check and the meaning of result
 * codes. Knows nothing of models. */
#ifndef KVI_CUDA_DRIVER_H
#define KVI_CUDA_DRIVER_H
#include "cuda_api.h"
#include "../../runtime/base/status.h"
#include <stdbool.h>

/* An image of kernels inside the library: machine code of one source for one architecture, PTX, or the placeholder of a build without
 * kernels. Images of one source stand together. */
typedef struct kvi_cuda_image {
    const char *name; /* of the source */
    const void *data;
    uint32_t
        arch; /* 86 is compute capability 8.6; 0: PTX, which the driver compiles for any card, and the placeholder */
} kvi_cuda_image;
/* NULL past the end. */
const kvi_cuda_image *kvi_cuda_image_at(uint32_t index);
/* Which of the images of one source that begin at `first` a card of that capability takes: machine code runs on its own major capability from
 * its minor on, and the largest is the best; else PTX; NULL: none fits. *next: where the next source's begin. */
const kvi_cuda_image *kvi_cuda_image_for(const kvi_cuda_image *first, uint32_t capability, const kvi_cuda_image **next);
/* Whether this build has kernels for real cards, and if not, why. */
bool kvi_cuda_has_kernels(const char **why);

typedef struct kvi_cuda_driver {
    kvi_cu_driver cu;
    void *library; /* never unloaded */
    int version;   /* as cuDriverGetVersion: 12040 is 12.4 */
} kvi_cuda_driver;

/* Loads `path` (NULL: libcuda.so.1) and initializes it. NO_DEVICE: no such library, or no card behind it; DRIVER_TOO_OLD: a function
 * is missing or the version is below what the kernels need. On failure nothing stays open but the mapped library. */
kvrt_status kvi_cuda_driver_open(const char *path, kvi_cuda_driver *out, kvrt_error *error);
void kvi_cuda_driver_close(kvi_cuda_driver *driver);

/* OK for success; else fills *error: "what: NAME (text)". NOMEM_DEVICE, DEVICE_LOST (the context is unusable from then on), else
 * INTERNAL. */
kvrt_status kvi_cuda_check(const kvi_cu_driver *cu, kvi_cu_result result, const char *what, kvrt_error *error);

#endif
