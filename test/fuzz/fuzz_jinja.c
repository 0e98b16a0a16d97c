/* fuzz_jinja.c - templates of any bytes: parsed and rendered within their limits, or refused. Input: template, byte 0, messages JSON. */
#include "runtime/template/chat_template.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char usual[] =
        "[{\"role\": \"user\", \"content\": \"hi <s>\"}, {\"role\": \"assistant\", \"content\": \"x\", \"n\": 1.5}]";
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - data) : size;
    kvi_chat_template *t = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_chat_template_parse((const char *)data, len, "fuzz", &t, &error) < 0) return 0;
    kvi_chat_input input = {.messages = usual,
                            .messages_len = sizeof usual - 1,
                            .add_generation_prompt = true,
                            .max_steps = 20000,
                            .max_bytes = 4u << 20};
    if (zero) input.messages = (const char *)zero + 1, input.messages_len = size - len - 1;
    kvi_chat_text text = {0};
    if (kvi_chat_template_render(t, &input, &text, &error) >= 0) {
        size_t n = 0;
        for (size_t i = 0; i < text.n_segments; i++) n += text.segments[i].len;
        if (n != text.text.len) __builtin_trap();
    }
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
    return 0;
}
