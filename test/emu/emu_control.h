/* emu_control.h - what libkvrt-emu-cuda.so exports beside the driver functions: tests find these by dlsym to inject failures and to
 * count. C and C++. */
#ifndef KVRT_EMU_CONTROL_H
#define KVRT_EMU_CONTROL_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Order of threads and blocks from now on: 0 natural, 1 backwards, others shuffled. */
void kvrt_emu_seed(uint32_t seed);

/* Makes the nth from now fail once, 1 the next, 0 none:
 *   "alloc"   cuMemAlloc, cuMemAllocHost, cuMemAddressReserve, cuMemCreate, cuMemMap, cuMemSetAccess: CUDA_ERROR_OUT_OF_MEMORY
 *   "launch"  cuLaunchKernel and cuGraphLaunch: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, nothing is lost
 *   "lost"    a copy, memset, launch or graph that the device executes: CUDA_ERROR_LAUNCH_FAILED from then on, for every call, until
 *             the last release of the primary context
 * and starts counting them again at 0. */
void kvrt_emu_fail(const char *what, uint64_t nth);

/* "alloc", "launch", "lost": seen since kvrt_emu_fail or the start. "kernels", "blocks", "switches": executed. "bytes": device memory
 * in use. "to_host": bytes copied to the host. "reports": bugs reported. "objects": live allocations, streams, events, libraries, graphs. */
uint64_t kvrt_emu_count(const char *what);

/* Reports so far, one or more lines each, the last kilobytes of them; forgetting them makes the exit code the program's own again. */
const char *kvrt_emu_reports(void);
void kvrt_emu_forget_reports(void);

#ifdef __cplusplus
}
#endif
#endif
