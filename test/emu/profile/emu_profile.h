/* emu_profile.h - what the memory profile of emulated kernels counted; emu_profile.cpp says how. */
#ifndef KVRT_EMU_PROFILE_H
#define KVRT_EMU_PROFILE_H
#include <stdint.h>

namespace kvi_emu
{

/* Requests of warps. cost and least: sectors of 32 bytes in global memory, and those that the same bytes fill; in shared memory passes,
 * and one per phase, neighbouring accesses of a lane taken as the one wide access that nvcc makes of them (plain: without that). */
struct profile_requests {
    uint64_t requests, cost, least, plain;
};
struct profile_totals {
    profile_requests streamed, other[2] /* read, written */, shared;
    uint64_t footprint[2]; /* sectors of global memory that a launch touches, read and written; summed over launches */
};

/* An allocation that holds weights or pages: what kernels stream once, and are held to more closely. */
void profile_streamed(uintptr_t allocation);
void profile_forget_streamed();
/* What the launches of a kernel did since it was asked for last. */
profile_totals profile_take(const char *kernel);
/* With KVRT_EMU_PROFILE=FILE in the environment: what was counted by place, for profile_report.py. A process that ends by exit does so by itself. */
void profile_write();

} // namespace kvi_emu
#endif
