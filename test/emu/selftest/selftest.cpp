/* selftest.cpp - runs every case in a process of its own, for the seeds 0 to 3, and looks at what was said of it.
 *   emu_selftest_X             all cases; exit code 0 when each planted bug was found by its means and nothing else was
 *   emu_selftest_X CASE        one case in this process, seed from KVRT_EMU_SEED */
#include "selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------------- bench --- */
static kvi_cu_library library;

void must(kvi_cu_result result, const char *what)
{
    const char *name = "?";
    if (result == KVI_CU_SUCCESS) return;
    cuGetErrorName(result, &name);
    printf("failed: %s: %s\n", what, name);
    exit(2);
}
void device_open()
{
    kvi_cu_device device;
    kvi_cu_context context;
    MUST(cuInit(0));
    MUST(cuDeviceGet(&device, 0));
    MUST(cuDevicePrimaryCtxRetain(&context, device));
    MUST(cuCtxPushCurrent_v2(context));
    MUST(cuLibraryLoadData(&library, KVI_CU_PLACEHOLDER_IMAGE, NULL, NULL, 0, NULL, NULL, 0));
}
void device_close()
{
    MUST(cuLibraryUnload(library));
    MUST(cuCtxPopCurrent_v2(NULL));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
}
kvi_cu_dptr device_take(size_t bytes)
{
    kvi_cu_dptr at = 0;
    MUST(cuMemAlloc_v2(&at, bytes));
    return at;
}
void device_give(kvi_cu_dptr at) { MUST(cuMemFree_v2(at)); }
kvi_cu_dptr device_put(const void *data, size_t bytes)
{
    kvi_cu_dptr at = device_take(bytes);
    MUST(cuMemcpyHtoDAsync_v2(at, data, bytes, NULL));
    return at;
}
void device_get(void *to, kvi_cu_dptr from, size_t bytes) { MUST(cuMemcpyDtoHAsync_v2(to, from, bytes, NULL)); }
kvi_cu_function device_kernel(const char *name)
{
    kvi_cu_kernel kernel;
    kvi_cu_function function;
    MUST(cuLibraryGetKernel(&kernel, library, name));
    MUST(cuKernelGetFunction(&function, kernel));
    return function;
}
kvi_cu_result device_launch(const char *name, uint32_t blocks, uint32_t threads, uint32_t shared,
                            const selftest_params &params)
{
    void *list[1] = {const_cast<selftest_params *>(&params)};
    return cuLaunchKernel(device_kernel(name), blocks, 1, 1, threads, 1, 1, shared, NULL, list, NULL);
}

/* ---------------------------------------------------------------------------------------------------------- cases --- */
static const test_case *const lists[] = {good_cases, kernel_cases, driver_cases};

static int run_here(const char *name)
{
    for (const test_case *list : lists)
        for (const test_case *c = list; c->name; c++)
            if (strcmp(c->name, name) == 0) {
                if (c->run()) return 0;
                puts("the result is wrong");
                return 1;
            }
    fprintf(stderr, "no case %s\n", name);
    return 3;
}

struct outcome {
    int code; /* exit code, or 128 + signal */
    std::string text;
};
static outcome run_child(const char *name, uint32_t seed)
{
    int ends[2];
    outcome out = {0, ""};
    if (pipe(ends) != 0) abort();
    fflush(nullptr);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        setenv("KVRT_EMU_SEED", std::to_string(seed).c_str(), 1);
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
        setenv("UBSAN_OPTIONS", "print_stacktrace=0", 1);
        setenv("TSAN_OPTIONS", "atexit_sleep_ms=0", 1);
        execl("/proc/self/exe", "emu_selftest", name, (char *)nullptr);
        _exit(4);
    }
    close(ends[1]);
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) != 0;) {
        if (n > 0) out.text.append(part, (size_t)n);
        else if (errno != EINTR) break;
    }
    close(ends[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    out.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return out;
}

static const char *expectation(const test_case &c)
{
    return strcmp(SELFTEST_VARIANT, "plain") == 0 ? c.plain : strcmp(SELFTEST_VARIANT, "asan") == 0 ? c.asan : c.tsan;
}
static bool check(const test_case &c)
{
    const char *expected = expectation(c);
    if (expected && !*expected) {
        printf("        %-28s not for this build\n", c.name);
        return true;
    }
    const bool wants_wrong = expected && strcmp(expected, "wrong") == 0;
    bool wrong_once = false, good = true;
    outcome out;
    for (uint32_t seed = 0; seed < 4u && good; seed++) {
        out = run_child(c.name, seed);
        if (!expected) good = out.code == 0 && out.text.empty();
        else if (wants_wrong) good = out.code <= 1, wrong_once |= out.code == 1;
        else good = out.text.find(expected) != std::string::npos;
        if (!good) printf("seed %u: exit code %d\n%s", seed, out.code, out.text.substr(0, 3000).c_str());
    }
    if (wants_wrong && !wrong_once) good = false;
    const char *what = !expected ? "runs without a word" : wants_wrong ? "found by its result" : expected;
    printf("%s  %-28s %s\n", good ? "ok    " : "FAILED", c.name, what);
    return good;
}

int main(int argc, char **argv)
{
    if (argc > 1) return run_here(argv[1]);
    uint32_t n = 0, failed = 0;
    for (const test_case *list : lists)
        for (const test_case *c = list; c->name; c++, n++) failed += !check(*c);
    printf("%u cases, %u failed (%s)\n", n, failed, SELFTEST_VARIANT);
    return failed != 0;
}
