/* fuzz_safetensors.c - any bytes as a safetensors file: an error or a valid directory, never a bad access. */
#include "../../runtime/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kvrt_error error = {.size = sizeof error};
    uint64_t n;
    (void)kvi_safetensors_check(data, size, "fuzz.safetensors", &n, &error);
    return 0;
}
