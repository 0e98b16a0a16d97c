/* emu_image.cpp - what the driver says of an image of kernels: any that is for the device will do, since the kernels are this library's own.
 * The interpreter of machine code (test/sass) has another image_take in its place. */
#include "emu_driver.h"

namespace kvi_emu
{
kvi_cu_result image_take(const void *image)
{
    const uint32_t arch = image_architecture(image), own = driver().set.capability;
    if (arch && (arch / 10 != own / 10 || arch > own)) return KVI_CU_NO_BINARY_FOR_GPU;
    return KVI_CU_SUCCESS;
}
} // namespace kvi_emu
