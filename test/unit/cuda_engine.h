/* cuda_engine.h - engines on the CUDA backend for tests: on the emulated driver of the build, or, with KVRT_TEST_CARD set, on a card. */
#ifndef CUDA_ENGINE_H
#define CUDA_ENGINE_H
#include "../../runtime/kvrt.h"
#include <stdbool.h>

extern char cuda_driver_path[1024]; /* empty: the system's driver, a card */
static inline bool cuda_on_card(void) { return !cuda_driver_path[0]; }

/* The emulator's own functions (test/emu/emu_control.h); on a card seed does nothing and count says 0. */
extern struct cuda_emu {
    void (*seed)(uint32_t);
    void (*break_nth)(const char *, uint64_t);
    uint64_t (*count)(const char *);
} cuda_emu;

/* False: there is neither. */
bool cuda_find_driver(void);
/* A driver function or one of the emulator's; fails the test when it is not there. */
void *cuda_symbol(const char *name);

/* Options with key/value pairs, NULL-terminated, and an engine from them. */
kvrt_options *cuda_options(const char *dir, const char *const *pairs);
kvrt_status cuda_open(const char *dir, const char *const *pairs, kvrt_engine *out, kvrt_error *error);
const char *cuda_bundled_model(void);
#endif
