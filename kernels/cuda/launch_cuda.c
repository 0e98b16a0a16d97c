/* launch_cuda.c - the one place where a kernel is launched: at once on the device's stream, or as a node of the graph being recorded. */
#include "device_cuda.h"
#include "../../runtime/base/log.h"

#include <stddef.h>
#include <string.h>

static const char *const names[] = {
#define KERNEL(name, registers) #name,
#include "kernel_list.h"
#undef KERNEL
};
const char *kvi_cuda_kernel_name(kvi_cuda_kernel_id id) { return names[id]; }

kvrt_status kvi_cuda_launch(kvi_device *d, kvi_cuda_kernel_id id, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z,
                            uint32_t threads, uint32_t shared_bytes, const void *params, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    void *list[1];
    *(const void **)list = params; /* the driver's prototype lacks the const; it only reads */
    if (!d->recording && kvi_log_on(KVI_LOG_KERNELS))
        kvi_log(KVI_LOG_KERNELS, "    launch %s: grid %u x %u x %u, %u threads, %u bytes of shared memory", names[id],
                grid_x, grid_y, grid_z, threads, shared_bytes);
    if (!d->recording)
        return kvi_cuda_check(
            cu, cu->launch(d->kernels[id], grid_x, grid_y, grid_z, threads, 1, 1, shared_bytes, d->stream, list, NULL),
            names[id], error);
    const kvi_cu_kernel_node node = {.function = d->kernels[id],
                                     .grid_x = grid_x,
                                     .grid_y = grid_y,
                                     .grid_z = grid_z,
                                     .block_x = threads,
                                     .block_y = 1,
                                     .block_z = 1,
                                     .shared_bytes = shared_bytes,
                                     .params = list};
    kvi_cu_node added = NULL;
    KVI_TRY(kvi_cuda_check(cu, cu->graph_add_kernel(&added, d->recording, d->n_last ? d->last : NULL, d->n_last, &node),
                           names[id], error));
    if (d->branching) {
        d->siblings[d->n_siblings++] = added;
    } else {
        d->last[0] = added;
        d->n_last = 1;
    }
    return KVRT_OK;
}

void kvi_cuda_siblings_begin(kvi_device *d)
{
    d->branching = d->recording != NULL;
    d->n_siblings = 0;
}
void kvi_cuda_siblings_end(kvi_device *d)
{
    d->branching = false;
    if (!d->n_siblings) return;
    memcpy(d->last, d->siblings, sizeof d->last);
    d->n_last = d->n_siblings;
    d->n_siblings = 0;
}

uint32_t kvi_cuda_bucket(uint32_t n_rows)
{
    if (n_rows > KVI_BATCH_ROWS) return n_rows;
    return n_rows <= 2 ? n_rows : n_rows <= 4 ? 4 : n_rows <= KVI_DECODE_ROWS ? KVI_DECODE_ROWS : KVI_BATCH_ROWS;
}
