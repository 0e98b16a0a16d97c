/* selftest_params.h - parameters of the self-test's kernels; shared by host and device code. */
#ifndef SELFTEST_PARAMS_H
#define SELFTEST_PARAMS_H
#include <stdint.h>

struct selftest_params {
    uint64_t in, in2, out; /* device addresses */
    uint32_t n, extra;
};

#endif
