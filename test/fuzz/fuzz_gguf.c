/* fuzz_gguf.c - any bytes as a GGUF file: an error that says something, or directories whose every byte can be read. */
#include "../../runtime/model/gguf_model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned touch_tensors(const kvi_gguf *g)
{
    unsigned sum = 0;
    for (uint64_t i = 0; i < kvi_gguf_count(g); i++) {
        const kvi_gguf_tensor *t = kvi_gguf_tensor_at(g, i);
        if (kvi_gguf_tensor_find(g, t->name) != t) __builtin_trap();
        if (t->bytes) sum += t->data[0] + (unsigned)t->data[t->bytes - 1];
    }
    return sum;
}

static unsigned touch_words(const kvi_gguf *g)
{
    const kvi_gguf_value *words = NULL;
    unsigned sum = 0;
    if (kvi_gguf_array(g, "words", KVI_GGUF_KIND_STRING, KVI_GGUF_OPTIONAL, &words, NULL) < KVRT_OK || !words) return 0;
    const uint8_t *at = words->at;
    for (uint64_t i = 0; i < words->n; i++) {
        const kvi_gguf_text text = kvi_gguf_next_string(&at);
        for (size_t k = 0; k < text.len; k++) sum += (unsigned char)text.data[k];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kvi_gguf *g = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_gguf_parse(data, size, "fuzz.gguf", &g, &error) < KVRT_OK) {
        if (g || !error.message[0]) __builtin_trap();
        return 0;
    }
    kvi_model_config config;
    kvi_checkpoint *checkpoint = NULL;
    error.message[0] = 0;
    if (kvi_gguf_config(g, &config, &error) < KVRT_OK && !error.message[0]) __builtin_trap();
    if (kvi_gguf_checkpoint(g, &checkpoint, NULL) == KVRT_OK)
        (void)kvi_checkpoint_find(checkpoint, "model.layers.0.self_attn.q_proj.weight");
    kvi_checkpoint_close(checkpoint);
    volatile unsigned sum = touch_tensors(g) + touch_words(g);
    (void)sum;
    kvi_gguf_close(g);
    return 0;
}
