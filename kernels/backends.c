/* backends.c - the backends of this build, in order of preference. */
#include "backend.h"
#include <stddef.h>

#if defined(KVRT_HAVE_CUDA)
extern const kvi_backend kvi_backend_cuda;
#endif

const kvi_backend *kvi_backend_at(uint32_t index)
{
    static const kvi_backend *const backends[] = {
#if defined(KVRT_HAVE_CUDA)
        &kvi_backend_cuda,
#endif
        &kvi_backend_cpu};
    return index < sizeof backends / sizeof backends[0] ? backends[index] : NULL;
}
