/* chat_template.c - see chat_template.h. Finding templates in a folder is chat_template_load.c. */
#include "chat_template_impl.h"

#include <string.h>

#define MAX_SOURCE (1u << 20)
#define BASE_BYTES ((uint64_t)52 << 20)
#define BASE_STEPS 600000u

kvrt_status kvi_chat_template_parse(const char *source, size_t len, const char *name, kvi_chat_template **out,
                                    kvrt_error *error)
{
    if (len > MAX_SOURCE)
        return kvi_error_set(error, KVRT_TEMPLATE, "%s: the template has %zu bytes, at most %u are accepted", name, len,
                             MAX_SOURCE);
    kvi_chat_template *t = kvi_mem_zalloc(1, sizeof *t);
    if (!t) return kvi_error_nomem(error, sizeof *t, "chat template");
    t->first.size = sizeof t->first;
    t->name = kvi_mem_strndup(name, strlen(name));
    t->source = kvi_mem_strndup(source, len);
    kvi_arena_init(&t->ctx.arena, 16u << 10);
    t->ctx.max_bytes = BASE_BYTES;
    t->ctx.max_steps = 8u * BASE_STEPS;
    t->ctx.error = &t->first;
    t->ctx.name = t->name ? t->name : "chat template";
    kvi_jinja_tokens tokens = {0};
    const bool copied = t->name && t->source;
    if (copied && kvi_jinja_lex(&t->ctx, source, len, &tokens)) t->body = kvi_jinja_parse(&t->ctx, &tokens, &t->names);
    if (!copied || t->ctx.failed) {
        kvrt_status code = copied ? (kvrt_status)t->first.code : kvi_error_nomem(error, len, "chat template");
        if (copied) kvi_error_set(error, code, "%s", t->first.message);
        kvi_chat_template_free(t);
        return code;
    }
    t->takes_parts = kvi_chat_takes_parts(t->body);
    *out = t;
    return KVRT_OK;
}

bool kvi_chat_template_mentions(const kvi_chat_template *t, const char *text)
{
    return strstr(t->source, text) != NULL;
}

void kvi_chat_template_free(kvi_chat_template *t)
{
    if (!t) return;
    kvi_chat_template_free(t->tool_use);
    kvi_arena_free(&t->ctx.arena);
    kvi_mem_free(t->name);
    kvi_mem_free(t->missing);
    for (size_t i = 0; i < t->n_tokens; i++) {
        kvi_mem_free(t->tokens[i].name);
        kvi_mem_free(t->tokens[i].text);
    }
    kvi_mem_free(t->tokens);
    kvi_mem_free(t->source);
    kvi_mem_free(t);
}

bool kvi_chat_template_set_token(kvi_chat_template *t, const char *name, const char *text, size_t len)
{
    size_t i = 0;
    while (i < t->n_tokens && strcmp(t->tokens[i].name, name) != 0) i++;
    char *copy = text ? kvi_mem_strndup(text, len) : NULL;
    if (text && !copy) return false;
    if (i == t->n_tokens) {
        char *own = text ? kvi_mem_strndup(name, strlen(name)) : NULL;
        if (!own || !kvi_mem_grow((void **)&t->tokens, &t->cap_tokens, i + 1, sizeof *t->tokens)) {
            kvi_mem_free(own);
            kvi_mem_free(copy);
            return !text;
        }
        t->tokens[t->n_tokens++] = (kvi_chat_token){own, NULL};
    }
    kvi_mem_free(t->tokens[i].text);
    t->tokens[i].text = copy;
    return true;
}

/* ---------------------------------------------------------------------------------------------------------- input
 * --- */
static kvrt_status bad_message(kvi_jinja_ctx *ctx, kvrt_status code, size_t i, const char *what, const char *detail)
{
    ctx->failed = true;
    return kvi_error_set(ctx->error, code, "message %zu: %s%s", i, what, detail);
}

/* Fresh values of a parsed message, not shared with anything: their tags may still change. */
static void allow_special(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    if (value.type == KVI_JINJA_STR) ((kvi_jinja_str *)(uintptr_t)value.u.s)->tag = KVI_JINJA_LITERAL;
    if (value.type == KVI_JINJA_SEQ)
        for (size_t i = 0; i < value.u.seq->n; i++) allow_special(ctx, value.u.seq->items[i]);
    if (value.type == KVI_JINJA_DICT)
        for (size_t i = 0; i < value.u.dict->n; i++) {
            allow_special(ctx, value.u.dict->keys[i]);
            allow_special(ctx, value.u.dict->values[i]);
        }
}

/* A plain word can spell no special token by itself, and templates build tokens from roles: '<|' + role + '|>'. */
static bool plain_word(const kvi_jinja_str *s)
{
    for (size_t i = 0; i < s->len; i++) {
        char c = s->data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-'))
            return false;
    }
    return s->len > 0 && s->len <= 32;
}

/* Parts are objects; text parts have a text; others need a template that names their type, and then come out as
 * whatever it writes for them. */
static kvrt_status check_part(kvi_jinja_ctx *ctx, const kvi_chat_template *t, size_t i, kvi_jinja_value part)
{
    if (part.type != KVI_JINJA_DICT) return bad_message(ctx, KVRT_ARG, i, "a part of content is not an object", "");
    kvi_jinja_value *type = kvi_jinja_dict_get(part.u.dict, "type"), *text = kvi_jinja_dict_get(part.u.dict, "text");
    if (type && type->type == KVI_JINJA_STR && !kvi_jinja_str_is(type->u.s, "text")) {
        char shown[64];
        size_t n = type->u.s->len < sizeof shown - 1 ? type->u.s->len : sizeof shown - 1;
        memcpy(shown, type->u.s->data, n);
        shown[n] = 0;
        if (!kvi_jinja_charge(ctx, t->ctx.steps)) return KVRT_TEMPLATE; /* the tree is walked for each such part */
        if (t->takes_parts && n == type->u.s->len && kvi_chat_mentions(t->body, shown)) return KVRT_OK;
        return bad_message(ctx, KVRT_UNSUPPORTED, i, "only text parts are supported, found a part of type ", shown);
    }
    if (!text || text->type != KVI_JINJA_STR) return bad_message(ctx, KVRT_ARG, i, "a part of content has no text", "");
    return KVRT_OK;
}

/* [{"type": "text", "text": ...}] stays a list for a template that takes parts, and becomes one string for others. */
static kvrt_status read_parts(kvi_jinja_ctx *ctx, const kvi_chat_template *t, size_t i, kvi_jinja_value *content)
{
    kvi_jinja_builder b = {0};
    for (size_t k = 0; k < content->u.seq->n; k++) {
        kvi_jinja_value part = content->u.seq->items[k];
        KVI_TRY(check_part(ctx, t, i, part));
        if (!t->takes_parts) kvi_jinja_add_str(ctx, &b, kvi_jinja_dict_get(part.u.dict, "text")->u.s);
    }
    if (!t->takes_parts) *content = kvi_jinja_built(ctx, &b);
    return KVRT_OK;
}

static kvi_jinja_value without_key(kvi_jinja_ctx *ctx, const kvi_jinja_dict *dict, const char *key)
{
    kvi_jinja_dict *out = kvi_jinja_dict_new(ctx);
    for (size_t i = 0; out && i < dict->n; i++)
        if (!kvi_jinja_str_is(dict->keys[i].u.s, key)) kvi_jinja_dict_set(ctx, out, dict->keys[i], dict->values[i]);
    return (kvi_jinja_value){KVI_JINJA_DICT, {.dict = out}};
}

static kvrt_status check_message(kvi_jinja_ctx *ctx, const kvi_chat_template *t, size_t i, kvi_jinja_value *message)
{
    if (message->type != KVI_JINJA_DICT) return bad_message(ctx, KVRT_ARG, i, "not a JSON object", "");
    kvi_jinja_value *special = kvi_jinja_dict_get(message->u.dict, "allow_special");
    if (special) {
        if (special->type != KVI_JINJA_BOOL)
            return bad_message(ctx, KVRT_ARG, i, "allow_special is not true or false", "");
        if (special->u.b) allow_special(ctx, *message);
        *message = without_key(ctx, message->u.dict, "allow_special");
        if (ctx->failed) return KVRT_TEMPLATE;
    }
    kvi_jinja_value *role = kvi_jinja_dict_get(message->u.dict, "role"),
                    *content = kvi_jinja_dict_get(message->u.dict, "content");
    if (!role || role->type != KVI_JINJA_STR) return bad_message(ctx, KVRT_ARG, i, "no role", "");
    if (plain_word(role->u.s)) allow_special(ctx, *role);
    if (!content || content->type == KVI_JINJA_STR || content->type == KVI_JINJA_NONE) return KVRT_OK;
    if (content->type != KVI_JINJA_SEQ)
        return bad_message(ctx, KVRT_ARG, i, "content is neither a string nor a list of parts", "");
    return read_parts(ctx, t, i, content);
}

static void set_global(kvi_jinja_ctx *ctx, kvi_jinja_dict *globals, const char *name, kvi_jinja_value value)
{
    kvi_jinja_dict_set(ctx, globals, kvi_jinja_str_static(ctx, name), value);
}

static kvi_jinja_dict *read_globals(kvi_jinja_ctx *ctx, const kvi_chat_template *t, const kvi_chat_input *input)
{
    kvi_jinja_dict *globals = kvi_jinja_dict_new(ctx);
    kvi_jinja_value messages =
        kvi_jinja_from_json(ctx, input->messages, input->messages_len, "messages", KVI_JINJA_TEXT);
    if (!globals || ctx->failed) return NULL;
    if (messages.type != KVI_JINJA_SEQ) {
        ctx->failed = true;
        kvi_error_set(ctx->error, KVRT_ARG, "messages: need a JSON array of messages");
        return NULL;
    }
    for (size_t i = 0; i < messages.u.seq->n && !ctx->failed; i++)
        (void)check_message(ctx, t, i, &messages.u.seq->items[i]);
    set_global(ctx, globals, "messages", messages);
    if (input->tools)
        set_global(ctx, globals, "tools",
                   kvi_jinja_from_json(ctx, input->tools, input->tools_len, "tools", KVI_JINJA_TEXT));
    else if (!input->absent_is_undefined) set_global(ctx, globals, "tools", kvi_jinja_none());
    if (!input->absent_is_undefined) set_global(ctx, globals, "documents", kvi_jinja_none());
    set_global(ctx, globals, "add_generation_prompt", kvi_jinja_bool(input->add_generation_prompt));
    for (size_t i = 0; i < t->n_tokens; i++)
        if (t->tokens[i].text)
            set_global(ctx, globals, t->tokens[i].name,
                       kvi_jinja_str_copy(ctx, t->tokens[i].text, strlen(t->tokens[i].text), KVI_JINJA_LITERAL));
    kvi_jinja_value extra = kvi_jinja_none();
    if (input->extra)
        extra = kvi_jinja_from_json(ctx, input->extra, input->extra_len, "template variables", KVI_JINJA_TEXT);
    if (!ctx->failed && input->extra && extra.type != KVI_JINJA_DICT) {
        ctx->failed = true;
        kvi_error_set(ctx->error, KVRT_ARG, "template variables: need a JSON object");
    }
    for (size_t i = 0; !ctx->failed && input->extra && i < extra.u.dict->n; i++)
        kvi_jinja_dict_set(ctx, globals, extra.u.dict->keys[i], extra.u.dict->values[i]);
    return ctx->failed ? NULL : globals;
}

/* ------------------------------------------------------------------------------------------------------ rendering
 * --- */
static kvrt_status copy_out(const kvi_jinja_builder *b, kvi_chat_text *out, kvrt_error *error)
{
    kvi_buf_append(&out->text, b->len ? b->data : "", b->len);
    if (out->text.failed ||
        !kvi_mem_grow((void **)&out->segments, &out->cap_segments, b->n_runs + 1, sizeof *out->segments))
        return kvi_error_nomem(error, b->len + b->n_runs * sizeof *out->segments, "rendered chat");
    for (size_t i = 0, from = 0; i < b->n_runs; from = b->runs[i++].end)
        out->segments[out->n_segments++] =
            (kvi_segment){out->text.data + from, b->runs[i].end - from, b->runs[i].tag == KVI_JINJA_LITERAL};
    return KVRT_OK;
}

kvrt_status kvi_chat_template_render(const kvi_chat_template *t, const kvi_chat_input *input, kvi_chat_text *out,
                                     kvrt_error *error)
{
    bool has_tools = input->tools && !(input->tools_len == 4 && memcmp(input->tools, "null", 4) == 0);
    if (has_tools && t->tool_use) return kvi_chat_template_render(t->tool_use, input, out, error);
    if (t->missing) return kvi_error_set(error, KVRT_UNSUPPORTED, "%s", t->missing);
    uint64_t bytes =
        (uint64_t)input->messages_len + (input->tools ? input->tools_len : 0) + (input->extra ? input->extra_len : 0);
    kvrt_error own = {.size = sizeof own};
    kvi_jinja_names names =
        t->names; /* entries are shared, buckets are not: names met only now go to this rendering's arena */
    kvi_jinja_ctx ctx = {.name = t->name, .error = &own};
    ctx.max_steps = input->max_steps ? input->max_steps : BASE_STEPS + 64 * bytes;
    ctx.max_bytes = input->max_bytes ? (size_t)input->max_bytes : (size_t)(BASE_BYTES + 32 * bytes);
    kvi_arena_init(&ctx.arena, 64u << 10);
    kvi_jinja_builder b = {0};
    kvi_jinja_dict *globals = read_globals(&ctx, t, input);
    if (globals) kvi_jinja_run_template(&ctx, &names, t->body, globals, input->now, &b);
    kvrt_status status = KVRT_OK;
    if (ctx.failed) {
        status = own.code < 0 ? (kvrt_status)own.code : KVRT_TEMPLATE;
        kvi_error_set(error, status, "%s", own.message);
    } else status = copy_out(&b, out, error);
    kvi_arena_free(&ctx.arena);
    return status;
}

void kvi_chat_text_free(kvi_chat_text *text)
{
    kvi_buf_free(&text->text);
    kvi_mem_free(text->segments);
    memset(text, 0, sizeof *text);
}

kvrt_status kvi_chat_text_encode(const kvi_chat_text *text, const kvi_tokenizer *tok, kvi_ids *out, kvrt_error *error)
{
    return kvi_tokenizer_encode_segments(tok, text->segments, text->n_segments, 0, out, error);
}
