/* checkpoint.c - which reader a path is for, and what belongs to a folder beside its tensors. */
#include "checkpoint.h"
#include "quantization/quantization.h"
#include "safetensors.h"

kvrt_status kvi_checkpoint_open(const char *path, bool copy, kvi_checkpoint **out, kvrt_error *error)
{
    KVI_TRY(kvi_safetensors_open(path, copy, out, error));
    const kvrt_status status = kvi_quantization_read(path, &(*out)->quantization, error);
    if (status < KVRT_OK) {
        kvi_checkpoint_close(*out);
        *out = NULL;
    }
    return status;
}

void kvi_checkpoint_close(kvi_checkpoint *checkpoint)
{
    if (!checkpoint) return;
    kvi_quantization_free(checkpoint->quantization);
    checkpoint->reader->close(checkpoint);
}
