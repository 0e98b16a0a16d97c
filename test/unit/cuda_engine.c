/* cuda_engine.c - see cuda_engine.h. */
#include "cuda_engine.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

char cuda_driver_path[1024];
struct cuda_emu cuda_emu;
static void *library;

static void no_seed(uint32_t seed) { (void)seed; }
static uint64_t no_count(const char *what)
{
    (void)what;
    return 0;
}

bool cuda_find_driver(void)
{
    const char *build = getenv("KVRT_BUILD_DIR");
    cuda_emu = (struct cuda_emu){.seed = no_seed, .count = no_count};
    if (getenv("KVRT_TEST_CARD")) {
        library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        return library != NULL;
    }
    snprintf(cuda_driver_path, sizeof cuda_driver_path, "%s/libkvrt-emu-cuda.so", build ? build : "build");
    library = dlopen(cuda_driver_path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        printf("skipped: %s\n", dlerror());
        return false;
    }
    *(void **)&cuda_emu.seed = dlsym(library, "kvrt_emu_seed");
    *(void **)&cuda_emu.break_nth = dlsym(library, "kvrt_emu_fail");
    *(void **)&cuda_emu.count = dlsym(library, "kvrt_emu_count");
    return cuda_emu.seed && cuda_emu.break_nth && cuda_emu.count;
}

void *cuda_symbol(const char *name)
{
    void *address = dlsym(library, name);
    if (!address) fail_msg("the driver has no %s", name);
    return address;
}

kvrt_options *cuda_options(const char *dir, const char *const *pairs)
{
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_string(o, "model.path", dir, -1, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(o, "debug.cuda_driver", cuda_driver_path, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(o, "mem.reserve", "0", NULL), KVRT_OK);
    for (; pairs && *pairs; pairs += 2)
        if (kvrt_options_set_text(o, pairs[0], pairs[1], &error) < 0) fail_msg("%s", error.message);
    return o;
}

kvrt_status cuda_open(const char *dir, const char *const *pairs, kvrt_engine *out, kvrt_error *error)
{
    kvrt_options *o = cuda_options(dir, pairs);
    kvrt_status status = kvrt_engine_open(o, NULL, NULL, out, error);
    kvrt_options_destroy(o);
    return status;
}

const char *cuda_bundled_model(void)
{
    static char dir[1024];
    snprintf(dir, sizeof dir, "%s/../examples/models/storyteller-tiny", KVRT_TEST_DIR);
    return dir;
}
