/* serve_tools.c - tools that a model may call and forms that its text must have, from the three APIs to the library's options. A form is
 * enforced, token by token; a schema with a keyword that the library does not know is refused, with the keyword's name. */
#include "serve.h"

#include <string.h>

static bool set_text(serve_call *call, const char *param, const char *key, const char *text, size_t len)
{
    kvrt_error error = {.size = sizeof error};
    const int32_t status = kvrt_options_set_string(call->options, key, text, (int64_t)len, &error);
    return status >= 0 || serve_fail_kvrt(call, status, param, &error);
}

static void put_raw(const serve_json *j, const serve_node *node, serve_text *out)
{
    serve_put(out, j->text + node->start, node->len);
}

/* ,"name":value of a member, if it is there. */
static void put_member(const serve_json *j, const serve_node *of, const char *name, const char *as, serve_text *out)
{
    const serve_node *node = serve_json_get(j, of, name);
    if (!node) return;
    serve_putf(out, ",\"%s\":", as);
    put_raw(j, node, out);
}

/* One tool in OpenAI's form, which templates know, of the members of `of`. */
static bool put_tool(serve_call *call, const serve_node *of, const char *schema, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *name = serve_json_get(j, of, "name");
    serve_text text = {0};
    if (!name || name->type != SERVE_STRING) return serve_fail(call, 400, "tools", "tools: a tool without a name");
    if (!serve_param_is(call, of, "description", SERVE_STRING, "tools") ||
        !serve_param_is(call, of, schema, SERVE_OBJECT, "tools") ||
        !serve_param_is(call, of, "strict", SERVE_TRUE, "tools"))
        return false;
    serve_json_string(j, name, &text);
    bool is_name = text.len > 0;
    for (size_t i = 0; i < text.len; i++) is_name = is_name && (unsigned char)text.data[i] >= ' ';
    serve_text_free(&text);
    if (!is_name) return serve_fail(call, 400, "tools", "tools: name: need text without control characters");
    serve_puts(out, out->len > 1 ? ",{\"type\":\"function\",\"function\":{\"name\":"
                                 : "{\"type\":\"function\",\"function\":{\"name\":");
    put_raw(j, name, out);
    put_member(j, of, "description", "description", out);
    put_member(j, of, schema, "parameters", out);
    put_member(j, of, "strict", "strict", out);
    serve_puts(out, "}}");
    return true;
}

/* tool_choice beside auto and none: required (Anthropic: any), or one tool by its name, which chat has in an object of its own. */
static bool choose_tool(serve_call *call, const serve_node *choice, const serve_node *word, serve_tools_of form)
{
    const serve_json *j = &call->json;
    const bool anthropic = form == SERVE_TOOLS_ANTHROPIC;
    serve_text name = {0};
    if (serve_json_is(j, word, anthropic ? "any" : "required"))
        return set_text(call, "tool_choice", "gen.tool_choice", "required", 8);
    const serve_node *of = form == SERVE_TOOLS_CHAT ? serve_json_get(j, choice, "function") : choice;
    const serve_node *node = serve_json_get(j, of, "name");
    if (choice->type != SERVE_OBJECT || !serve_json_is(j, word, anthropic ? "tool" : "function") || !node ||
        node->type != SERVE_STRING)
        return serve_fail(call, 400, "tool_choice", "tool_choice: need auto, none, %s, or a %s with its name",
                          anthropic ? "any" : "required", anthropic ? "tool" : "function");
    serve_puts(&name, "name:");
    serve_json_string(j, node, &name);
    const bool ok = !name.failed && set_text(call, "tool_choice", "gen.tool_choice", name.data, name.len);
    if (name.failed) (void)serve_fail(call, 500, NULL, "out of memory");
    serve_text_free(&name);
    call->one_call = true;
    return ok;
}

/* {"type": "allowed_tools", "mode": "auto" | "required", "tools": [...]}, which chat has in an object of its own; NULL: it is none. */
static const serve_node *allowed_tools(const serve_json *j, const serve_node *choice, const serve_node *word)
{
    if (!choice || choice->type != SERVE_OBJECT || !serve_json_is(j, word, "allowed_tools")) return NULL;
    const serve_node *of = serve_json_get(j, choice, "allowed_tools");
    return of ? of : choice;
}

static bool is_allowed(const serve_json *j, const serve_node *allowed, const serve_node *tool)
{
    serve_text name = {0};
    bool found = !allowed;
    serve_json_string(j, serve_json_get(j, tool, "name"), &name);
    for (const serve_node *t = allowed ? serve_json_child(j, serve_json_get(j, allowed, "tools")) : NULL; t && !found;
         t = serve_json_next(j, t)) {
        const serve_node *f = serve_json_get(j, t, "function");
        found = name.data && serve_json_is(j, serve_json_get(j, f ? f : t, "name"), name.data);
    }
    serve_text_free(&name);
    return found;
}

bool serve_tools(serve_call *call, serve_prompt *prompt, serve_tools_of form)
{
    const serve_json *j = &call->json;
    const serve_node *tools = serve_json_get(j, call->body, "tools"),
                     *choice = serve_json_get(j, call->body, "tool_choice");
    if (!serve_param_is(call, call->body, "tools", SERVE_ARRAY, "tools")) return false;
    bool several = true, single = false;
    if (!serve_param_bool(call, "parallel_tool_calls", &several)) return false;
    if (form == SERVE_TOOLS_ANTHROPIC) {
        const serve_node *node = serve_json_get(j, choice, "disable_parallel_tool_use");
        if (!serve_param_is(call, choice, "disable_parallel_tool_use", SERVE_TRUE, "tool_choice")) return false;
        single = node && node->type == SERVE_TRUE;
    }
    const serve_node *word = choice && choice->type == SERVE_OBJECT ? serve_json_get(j, choice, "type") : choice;
    if (!tools || !tools->child) {
        if (!choice || serve_json_is(j, word, "none") || serve_json_is(j, word, "auto")) return true;
        return serve_fail(call, 400, "tool_choice", "tool_choice: there are no tools");
    }
    call->one_call = single || !several;
    if (serve_json_is(j, word, "none")) return true;
    const serve_node *allowed = form == SERVE_TOOLS_ANTHROPIC ? NULL : allowed_tools(j, choice, word);
    if (allowed) word = serve_json_get(j, allowed, "mode");
    if (choice && !serve_json_is(j, word, "auto") && !choose_tool(call, choice, word, form)) return false;
    serve_text *out = &prompt->tools;
    serve_puts(out, "[");
    for (const serve_node *t = serve_json_child(j, tools); t; t = serve_json_next(j, t)) {
        if (!serve_is_item(call, t, "tools")) return false;
        const serve_node *type = serve_json_get(j, t, "type");
        const bool is_function = serve_json_is(j, type, "function");
        if (form == SERVE_TOOLS_RESPONSES && !is_function) continue; /* of the service, sent unasked */
        if (form == SERVE_TOOLS_ANTHROPIC ? type && !serve_json_is(j, type, "custom") : !is_function)
            return serve_fail(call, 400, "tools", "tools: a tool of a type that is not supported");
        const serve_node *of = form == SERVE_TOOLS_CHAT ? serve_json_get(j, t, "function") : t;
        if (!is_allowed(j, allowed, of)) continue;
        if (!put_tool(call, of, form == SERVE_TOOLS_ANTHROPIC ? "input_schema" : "parameters", out)) return false;
    }
    if (out->len == 1 && allowed)
        return serve_fail(call, 400, "tool_choice", "tool_choice: none of the tools is allowed");
    if (out->len == 1) { /* none of them was a function */
        if (word && !serve_json_is(j, word, "auto"))
            return serve_fail(call, 400, "tools",
                              "tools: tool_choice wants a call, but only type function is supported");
        serve_text_clear(out);
        return true;
    }
    serve_puts(out, "]");
    if (out->failed) return serve_fail(call, 500, NULL, "out of memory");
    return set_text(call, "tools", "gen.tools", out->data, out->len);
}

bool serve_format(serve_call *call, const serve_node *format, const char *param)
{
    static const char any_object[] = "{\"type\":\"object\"}";
    const serve_json *j = &call->json;
    const serve_node *type = serve_json_get(j, format, "type");
    if (!format || serve_json_is(j, type, "text")) return true;
    const serve_node *own = serve_json_get(j, format, "schema"); /* of llama-server and others */
    if (serve_json_is(j, type, "json_object") && !own)
        return set_text(call, param, "grammar.schema", any_object, strlen(any_object));
    if (!serve_json_is(j, type, "json_schema") && !serve_json_is(j, type, "json_object"))
        return serve_fail(call, 400, param, "%s: type: need text, json_object or json_schema", param);
    const serve_node *inner = serve_json_get(j, format, "json_schema"),
                     *schema = serve_json_get(j, inner ? inner : format, "schema");
    if (!schema) return serve_fail(call, 400, param, "%s: json_schema without a schema", param);
    return set_text(call, param, "grammar.schema", j->text + schema->start, schema->len);
}

bool serve_grammar(serve_call *call)
{
    const serve_json *j = &call->json;
    const serve_node *grammar = serve_json_get(j, call->body, "grammar"),
                     *schema = serve_json_get(j, call->body, "json_schema");
    if (schema && !set_text(call, "json_schema", "grammar.schema", j->text + schema->start, schema->len)) return false;
    if (!grammar) return true;
    if (grammar->type != SERVE_STRING)
        return serve_fail(call, 400, "grammar", "grammar: need a string, found %s", serve_json_type_name(grammar));
    serve_text text = {0};
    serve_json_string(j, grammar, &text);
    const bool ok = text.failed ? serve_fail(call, 500, NULL, "out of memory")
                                : !text.len || set_text(call, "grammar", "grammar.gbnf", text.data, text.len);
    serve_text_free(&text);
    return ok;
}

bool serve_is_item(serve_call *call, const serve_node *item, const char *param)
{
    if (item->type != SERVE_OBJECT)
        return serve_fail(call, 400, param, "%s: need objects, found %s", param, serve_json_type_name(item));
    return serve_param_is(call, item, "type", SERVE_STRING, param);
}

bool serve_fail_type(serve_call *call, const char *param, const char *items, const serve_node *item)
{
    serve_text name = {0};
    serve_json_string(&call->json, serve_json_get(&call->json, item, "type"), &name);
    (void)serve_fail(call, 400, param, "%s: %s of type '%.40s' are not supported", param, items,
                     name.data ? name.data : "");
    serve_text_free(&name);
    return false;
}

/* Templates want the object of the arguments, two of the APIs have its text. Text that is none stays text: a model wrote it. */
bool serve_put_function(serve_call *call, const serve_node *of, const char *arguments, const char *param,
                        serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *name = serve_json_get(j, of, "name"), *node = serve_json_get(j, of, arguments);
    serve_text text = {0};
    serve_json inner = {0};
    if (!name || name->type != SERVE_STRING) return serve_fail(call, 400, param, "%s: a call without a name", param);
    if (node && node->type != SERVE_STRING && node->type != SERVE_OBJECT)
        return serve_fail(call, 400, param, "%s: %s: need an object, found %s", param, arguments,
                          serve_json_type_name(node));
    serve_puts(out, "{\"name\":");
    put_raw(j, name, out);
    serve_puts(out, ",\"arguments\":");
    serve_json_string(j, node, &text);
    if (text.failed) out->failed = true;
    if (text.len && serve_json_read(&inner, text.data, text.len)) serve_put(out, text.data, text.len);
    else if (node && (text.len || node->type == SERVE_OBJECT)) put_raw(j, node, out);
    else serve_puts(out, "{}");
    serve_puts(out, "}");
    serve_json_free(&inner);
    serve_text_free(&text);
    return true;
}

bool serve_put_calls(serve_call *call, const serve_node *calls, serve_text *out)
{
    const serve_json *j = &call->json;
    serve_puts(out, "[");
    for (const serve_node *c = serve_json_child(j, calls); c; c = serve_json_next(j, c)) {
        if (!serve_is_item(call, c, "messages: tool_calls") ||
            !serve_param_is(call, c, "id", SERVE_STRING, "messages: tool_calls"))
            return false;
        serve_puts(out, c == serve_json_child(j, calls) ? "{\"type\":\"function\"" : ",{\"type\":\"function\"");
        put_member(j, c, "id", "id", out);
        serve_puts(out, ",\"function\":");
        if (!serve_put_function(call, serve_json_get(j, c, "function"), "arguments", "messages: tool_calls", out))
            return false;
        serve_puts(out, "}");
    }
    serve_puts(out, "]");
    return true;
}
