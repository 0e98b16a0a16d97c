/* fuzz_config.c - any bytes as config.json. */
#include "../../runtime/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kvrt_error error = {.size = sizeof error};
    static kvi_model_config config;
    (void)kvi_config_parse((const char *)data, size, (const char *)data, size, &config, &error);
    return 0;
}
