/* chat.c - kvrt_chat_render: messages through the model's template to ids. */
#include "engine.h"
#include "seat.h"
#include "../template/chat_template.h"

#include <string.h>

static size_t length(const char *text, int64_t len) { return !text ? 0 : len < 0 ? strlen(text) : (size_t)len; }

/* Drops the first bytes; a segment may be cut. */
static void skip_text(kvi_chat_text *text, uint64_t from)
{
    size_t first = 0;
    while (first < text->n_segments && from >= text->segments[first].len) from -= text->segments[first++].len;
    text->n_segments -= first;
    memmove(text->segments, text->segments + first, text->n_segments * sizeof *text->segments);
    if (!text->n_segments) return;
    text->segments[0].text += from;
    text->segments[0].len -= (size_t)from;
}

static kvrt_status render(kvi_engine *e, const kvrt_chat_input *input, kvi_chat_text *text, kvi_ids *ids,
                          kvrt_error *error)
{
    kvi_chat_template *own = NULL;
    if (!e->tokenizer) return kvi_error_set(error, KVRT_UNSUPPORTED, "engine: a synthetic shape has no chat template");
    /* Not loaded at open: loading again says why. */
    if (!e->chat) KVI_TRY(kvi_model_files_template(&e->files, &own, error));
    kvi_chat_input in = {.messages = input->messages,
                         .messages_len = length(input->messages, input->messages_len),
                         .tools = input->tools,
                         .tools_len = length(input->tools, input->tools_len),
                         .extra = input->variables,
                         .extra_len = length(input->variables, input->variables_len),
                         .add_generation_prompt = input->add_generation_prompt != 0,
                         .now = input->local_time};
    kvrt_status status = kvi_chat_template_render(e->chat ? e->chat : own, &in, text, error);
    if (status >= KVRT_OK && input->text_from > text->text.len)
        status = kvi_error_set(error, KVRT_ARG, "kvrt_chat_render: text_from is %llu, the text has %zu bytes",
                               (unsigned long long)input->text_from, text->text.len);
    if (status >= KVRT_OK && input->text_from) skip_text(text, input->text_from);
    if (status >= KVRT_OK) status = kvi_chat_text_encode(text, e->tokenizer, ids, error);
    kvi_chat_template_free(own);
    return status;
}

kvrt_status kvrt_chat_render(kvrt_engine handle, const kvrt_chat_input *given, int32_t *ids, uint64_t cap, uint64_t *n,
                             char *text, uint64_t text_cap, uint64_t *text_len, kvrt_error *error)
{
    kvi_engine *e;
    kvrt_chat_input input;
    KVI_TRY(kvi_struct_check(given, "kvrt_chat_input", error));
    kvi_struct_read(&input, sizeof input, given);
    if (!input.messages || !n || (cap && !ids) || (text_cap && !text))
        return kvi_error_set(error, KVRT_ARG, "kvrt_chat_render: messages, n, ids or text is NULL");
    KVI_TRY(kvi_engine_enter(handle, KVI_LOOK, &e, error));
    kvi_chat_text rendered = {0};
    kvi_ids list = {0};
    kvrt_status status = render(e, &input, &rendered, &list, error);
    if (status >= KVRT_OK) {
        size_t n_ids = list.len < cap ? list.len : cap,
               n_bytes = rendered.text.len < text_cap ? rendered.text.len : text_cap;
        if (n_ids) memcpy(ids, list.data, n_ids * sizeof *ids);
        if (n_bytes) memcpy(text, rendered.text.data, n_bytes);
        *n = list.len;
        if (text_len) *text_len = rendered.text.len;
        /* A caller that asks for no text does not want to hear that it did not fit. */
        status = list.len > cap || (text_cap && rendered.text.len > text_cap) ? KVRT_PARTIAL : KVRT_OK;
    }
    kvi_ids_free(&list);
    kvi_chat_text_free(&rendered);
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}
