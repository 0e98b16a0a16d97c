/* checkpoint.c - which reader a path is for. */
#include "checkpoint.h"
#include "safetensors.h"

kvrt_status kvi_checkpoint_open(const char *path, bool copy, kvi_checkpoint **out, kvrt_error *error)
{
    return kvi_safetensors_open(path, copy, out, error);
}
