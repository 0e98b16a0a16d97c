/* selftest.h - the bench of the self-test: the driver functions with failures that end the case. */
#ifndef SELFTEST_H
#define SELFTEST_H
#include "../../../kernels/cuda/cuda_api.h"
#include "../emu_control.h"
#include "selftest_params.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <vector>

#define SELFTEST_DECLARE(member, symbol, parameters) extern "C" kvi_cu_result symbol parameters;
KVI_CU_FUNCTIONS(SELFTEST_DECLARE)
#undef SELFTEST_DECLARE

/* Ends the process with code 2 and the text, when a call fails that should not. */
void must(kvi_cu_result result, const char *what);
#define MUST(call) must(call, #call)

void device_open();
void device_close();
kvi_cu_dptr device_take(size_t bytes);
void device_give(kvi_cu_dptr at);
kvi_cu_dptr device_put(const void *data, size_t bytes); /* a new block with a copy */
void device_get(void *to, kvi_cu_dptr from, size_t bytes);
kvi_cu_function device_kernel(const char *name);
kvi_cu_result device_launch(const char *name, uint32_t blocks, uint32_t threads, uint32_t shared,
                            const selftest_params &params);

template <class T> kvi_cu_dptr device_put(const std::vector<T> &v)
{
    return device_put(v.data(), v.size() * sizeof(T));
}
template <class T> std::vector<T> device_get(kvi_cu_dptr from, size_t n)
{
    std::vector<T> v(n);
    device_get(v.data(), from, n * sizeof(T));
    return v;
}

/* A case: true when everything came out as it should. */
struct test_case {
    const char *name;
    bool (*run)();
    /* What each build must say of it. nullptr: nothing, and the result is right. "wrong": the result is wrong with at least one seed of
     * 0 to 3. "": this build cannot tell. Else a text on stderr, with every seed. */
    const char *plain, *asan, *tsan;
};
extern const test_case good_cases[], kernel_cases[], driver_cases[]; /* end with a NULL name */

#endif
