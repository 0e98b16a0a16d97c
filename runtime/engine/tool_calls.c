/* tool_calls.c - see tool_calls.h. */
#include "generation_parts.h"
#include "../base/options.h"
#include "../grammar/call_grammar.h"
#include "../template/chat_template.h"

#include <string.h>

kvi_call_format kvi_tool_calls_format(const kvi_engine *e)
{
    static const struct {
        const char *token;
        kvi_call_format format;
    } by_token[] = {
        {"<|tool_call>", KVI_CALLS_GEMMA}, {"[TOOL_CALLS]", KVI_CALLS_MISTRAL}, {"<tool_call>", KVI_CALLS_TAG}};
    if (!e->tokenizer) return KVI_CALLS_NONE;
    if (e->channels.on && e->channels.message >= 0) return KVI_CALLS_HARMONY;
    for (size_t i = 0; i < sizeof by_token / sizeof *by_token; i++)
        if (kvi_tokenizer_token_to_id(e->tokenizer, by_token[i].token, strlen(by_token[i].token)) >= 0)
            return by_token[i].format;
    if (e->chat && kvi_chat_template_mentions(e->chat, "<tool_call>")) return KVI_CALLS_TAG;
    if (kvi_tokenizer_token_to_id(e->tokenizer, "<|python_tag|>", 14) >= 0) return KVI_CALLS_LLAMA;
    return KVI_CALLS_TAG;
}

kvi_call_style kvi_tool_calls_style(const kvi_engine *e)
{
    switch (e->call_format) {
    case KVI_CALLS_LLAMA: return KVI_CALL_STYLE_LLAMA;
    case KVI_CALLS_GEMMA: return KVI_CALL_STYLE_GEMMA;
    case KVI_CALLS_HARMONY: return KVI_CALL_STYLE_HARMONY;
    case KVI_CALLS_MISTRAL:
        return kvi_tokenizer_token_to_id(e->tokenizer, "[ARGS]", 6) >= 0 ? KVI_CALL_STYLE_ARGS : KVI_CALL_STYLE_LIST;
    default: break;
    }
    if (e->chat && kvi_chat_template_mentions(e->chat, "<function=")) return KVI_CALL_STYLE_FUNCTION;
    if (e->chat && kvi_chat_template_mentions(e->chat, "<arg_key>")) return KVI_CALL_STYLE_ARG_KEY;
    return KVI_CALL_STYLE_JSON;
}

kvrt_status kvi_tool_calls_read(const kvrt_options *o, kvi_arena *arena, const kvi_json_value **tools,
                                kvrt_error *error)
{
    const char *text = kvi_options_string(o, "gen.tools");
    kvi_json_value *root;
    *tools = NULL;
    kvi_arena_init(arena, 1u << 12);
    if (!*text) return KVRT_OK;
    kvrt_error why = {.size = sizeof why};
    kvrt_status status = kvi_json_tree(text, strlen(text), "option gen.tools", arena, &root, &why);
    if (status == KVRT_GRAMMAR) status = kvi_error_set(error, KVRT_ARG, "%s", why.message);
    else if (status < KVRT_OK) (void)kvi_error_hand_on(error, &why);
    if (status >= KVRT_OK && root->type != KVI_JSON_ARRAY)
        status = kvi_error_set(error, KVRT_ARG, "option gen.tools: need a JSON array of tools");
    for (const kvi_json_value *t = status >= KVRT_OK ? root->first : NULL; t && status >= KVRT_OK; t = t->next) {
        const kvi_json_value *f = kvi_json_get(t, "function"), *name = kvi_json_get(f ? f : t, "name");
        if (!name || name->type != KVI_JSON_STRING)
            status = kvi_error_set(error, KVRT_ARG, "option gen.tools: tool %u has no name", t->index);
    }
    if (status < KVRT_OK) kvi_arena_free(arena);
    else *tools = root;
    return status;
}

static void tell(void *user, kvi_call_news news, const char *text, size_t len, uint32_t call)
{
    static const int32_t types[] = {KVRT_EVENT_TEXT, KVRT_EVENT_TOOL_CALL, KVRT_EVENT_TOOL_ARGUMENTS,
                                    KVRT_EVENT_TOOL_END};
    kvi_session *s = user;
    kvi_buf *out = &s->gen.tools.out;
    kvi_buf_clear(out);
    kvi_buf_append(out, text, len);
    if (out->failed) return; /* whoever pushed looks at it */
    kvi_generation_ask(s, (kvrt_event){.type = types[news],
                                       .text = len ? out->data : "",
                                       .text_len = len,
                                       .done = news == KVI_CALL_TEXT ? 0 : call});
}

void kvi_tool_calls_begin(kvi_session *s, kvi_arena *arena, const kvi_json_value *tools, bool goes_on)
{
    kvi_tool_calls *t = &s->gen.tools;
    kvi_arena_free(&t->arena);
    t->arena = *arena;
    if (!goes_on || !t->on) kvi_calls_reset(&t->calls);
    t->on = tools != NULL;
    t->calls.tools = tools;
    t->calls.format = s->engine->call_format;
    t->calls.fn = tell, t->calls.user = s;
}

void kvi_tool_calls_free(kvi_tool_calls *t)
{
    kvi_calls_free(&t->calls);
    kvi_buf_free(&t->out);
    kvi_arena_free(&t->arena);
}

void kvi_tool_calls_mark(const kvi_session *s, int32_t id, const char **bytes, size_t *len)
{
    size_t n;
    const char *text = kvi_tokenizer_token_text(s->engine->tokenizer, id, &n);
    for (size_t i = 0; text && i < KVI_CALL_HEADERS; i++)
        if (strlen(kvi_call_marks[i]) == n && memcmp(kvi_call_marks[i], text, n) == 0) *bytes = text, *len = n;
}

bool kvi_tool_calls_header(kvi_session *s)
{
    static const char to[] = "to=functions.";
    const kvi_channel_state *c = &s->gen.channel;
    kvi_calls *calls = &s->gen.tools.calls;
    if (calls->format != KVI_CALLS_HARMONY) return true;
    if (c->header) return kvi_calls_close(calls);
    for (uint32_t i = 0; i + sizeof to <= c->n_header + 1u; i++) {
        if (memcmp(c->text + i, to, sizeof to - 1) != 0) continue;
        const char *name = c->text + i + sizeof to - 1;
        size_t n = 0;
        while (name + n < c->text + c->n_header && name[n] != ' ' && name[n] != '<') n++;
        return kvi_calls_open(calls, name, n);
    }
    return true;
}
