/* backends.c - the backends of this build, in order of preference. */
#include "backend.h"
#include <stddef.h>

const kvi_backend *kvi_backend_at(uint32_t index)
{
    static const kvi_backend *const backends[] = {&kvi_backend_cuda, &kvi_backend_cpu};
    return index < sizeof backends / sizeof backends[0] ? backends[index] : NULL;
}
