/* driver.c - loads the CUDA driver by name, checks that it can run our kernels, and turns its result codes into ours.
 * One thing to know: a machine without a driver is the usual case, so a missing library is an answer, not a failure. */
#include "driver.h"
#include "../../runtime/base/os.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------- images --- */
#if defined(KVRT_CUDA_IMAGES) /* the build compiled kernels: images.c of the build folder has the table */
extern const kvi_cuda_image kvi_cuda_images[];
const kvi_cuda_image *kvi_cuda_image_at(uint32_t index)
{
    return kvi_cuda_images[index].data ? &kvi_cuda_images[index] : NULL;
}
bool kvi_cuda_has_kernels(const char **why)
{
    *why = "";
    return true;
}
#define NEED_VERSION (KVRT_CUDA_TOOLKIT / 1000 * 1000) /* machine code runs on every driver of its major version */
#else
const kvi_cuda_image *kvi_cuda_image_at(uint32_t index)
{
    static const kvi_cuda_image placeholder[] = {{"placeholder", KVI_CU_PLACEHOLDER_IMAGE, 0}, {NULL, NULL, 0}};
    return index == 0 ? placeholder : NULL;
}
bool kvi_cuda_has_kernels(const char **why)
{
#if defined(KVRT_CUDA_NOTE)
    *why = KVRT_CUDA_NOTE;
#else
    *why = "neither nvcc nor NVRTC found";
#endif
    return false;
}
#define NEED_VERSION 12000 /* cuLibraryLoadData and kernel nodes of version 2 */
#endif

const kvi_cuda_image *kvi_cuda_image_for(const kvi_cuda_image *first, uint32_t capability, const kvi_cuda_image **next)
{
    const kvi_cuda_image *best = NULL, *ptx = NULL, *i = first;
    for (; i->data && strcmp(i->name, first->name) == 0; i++) {
        if (i->arch == 0) ptx = i;
        else if (i->arch / 10 == capability / 10 && i->arch <= capability && (!best || i->arch > best->arch)) best = i;
    }
    *next = i->data ? i : NULL;
    return best ? best : ptx;
}

/* ------------------------------------------------------------------------------------------------------- result --- */
static bool is_lost(kvi_cu_result result)
{
    switch (result) {
    case KVI_CU_ECC_UNCORRECTABLE:
    case KVI_CU_ILLEGAL_ADDRESS:
    case KVI_CU_LAUNCH_TIMEOUT:
    case KVI_CU_ASSERT:
    case KVI_CU_HARDWARE_STACK_ERROR:
    case KVI_CU_ILLEGAL_INSTRUCTION:
    case KVI_CU_MISALIGNED_ADDRESS:
    case KVI_CU_LAUNCH_FAILED:
    case KVI_CU_CONTAINED:
    case KVI_CU_UNKNOWN: return true;
    default: return result > KVI_CU_MISALIGNED_ADDRESS && result < KVI_CU_LAUNCH_FAILED; /* 717, 718: address spaces */
    }
}

kvrt_status kvi_cuda_check(const kvi_cu_driver *cu, kvi_cu_result result, const char *what, kvrt_error *error)
{
    const char *name = NULL, *text = NULL;
    if (result == KVI_CU_SUCCESS) return KVRT_OK;
    (void)cu->error_name(result, &name);
    (void)cu->error_text(result, &text);
    kvrt_status code = result == KVI_CU_OUT_OF_MEMORY ? KVRT_NOMEM_DEVICE
                       : is_lost(result)              ? KVRT_DEVICE_LOST
                                                      : KVRT_INTERNAL;
    return kvi_error_set(error, code, "cuda, %s: %s (%d, %s)", what, name ? name : "unknown result", result,
                         text ? text : "no text");
}

/* --------------------------------------------------------------------------------------------------------- open --- */
static kvrt_status find_functions(kvi_cuda_driver *driver, const char *path, kvrt_error *error)
{
    static const struct {
        const char *symbol;
        size_t member;
    } functions[] = {
#define KVI_CU_ENTRY(member, symbol, parameters) {#symbol, offsetof(kvi_cu_driver, member)},
        KVI_CU_FUNCTIONS(KVI_CU_ENTRY)
#undef KVI_CU_ENTRY
    };
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *address = kvi_os_library_symbol(driver->library, functions[i].symbol);
        if (!address)
            return kvi_error_set(error, KVRT_DRIVER_TOO_OLD,
                                 "cuda: driver %s has no %s; need a driver for CUDA %d.%d or newer", path,
                                 functions[i].symbol, NEED_VERSION / 1000, NEED_VERSION % 1000 / 10);
        memcpy((unsigned char *)&driver->cu + functions[i].member, &address, sizeof address);
    }
    return KVRT_OK;
}

static const char *release_hint(void) { return NEED_VERSION >= 13000 ? "580" : "525"; }

static kvrt_status start(kvi_cuda_driver *driver, const char *path, kvrt_error *error)
{
    KVI_TRY(find_functions(driver, path, error));
    kvi_cu_result result = driver->cu.driver_version(&driver->version);
    if (result == KVI_CU_SUCCESS && driver->version < NEED_VERSION)
        return kvi_error_set(
            error, KVRT_DRIVER_TOO_OLD,
            "cuda: the driver is too old: found CUDA %d.%d, need CUDA %d.%d (driver release %s or newer)",
            driver->version / 1000, driver->version % 1000 / 10, NEED_VERSION / 1000, NEED_VERSION % 1000 / 10,
            release_hint());
    if (result == KVI_CU_SUCCESS) result = driver->cu.init(0);
    if (result == KVI_CU_SUCCESS) return KVRT_OK;
    const char *name = NULL;
    (void)driver->cu.error_name(result, &name);
    return kvi_error_set(error, KVRT_NO_DEVICE, "cuda: driver %s found, but no usable device: %s (%d)", path,
                         name ? name : "unknown result", result);
}

kvrt_status kvi_cuda_driver_open(const char *path, kvi_cuda_driver *out, kvrt_error *error)
{
    char reason[200];
    const char *why;
    memset(out, 0, sizeof *out);
    /* Only the emulated driver, which is asked for by name, runs without our images. */
    if (!path && !kvi_cuda_has_kernels(&why))
        return kvi_error_set(error, KVRT_NO_DEVICE, "cuda: this build has no CUDA kernels: %s", why);
    if (!path) path = "libcuda.so.1";
    out->library = kvi_os_library_open(path, reason, sizeof reason);
    if (!out->library) return kvi_error_set(error, KVRT_NO_DEVICE, "cuda: no driver: %s", reason);
    kvrt_status status = start(out, path, error);
    if (status < KVRT_OK) kvi_cuda_driver_close(out);
    return status;
}

/* The library itself stays mapped: drivers have threads and exit handlers of their own, and unmapping under them ends badly. */
void kvi_cuda_driver_close(kvi_cuda_driver *driver) { memset(driver, 0, sizeof *driver); }
