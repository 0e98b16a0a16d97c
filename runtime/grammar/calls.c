/* calls.c - see calls.h. What is inside of a call is read again from its beginning whenever more comes: calls are short, and so no state of a parser
 * has to be kept. */
#include "calls.h"

#include <string.h>

typedef struct scan {
    const char *name; /* NULL: not known yet */
    size_t name_len, used;
    bool complete, wrong;
} scan;

static const char *const opens[] = {NULL, "<tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "<|tool_call>", NULL};
static const char *const closes[] = {NULL, "</tool_call>", NULL, NULL, "<tool_call|>", NULL};

void kvi_calls_free(kvi_calls *c)
{
    kvi_buf_free(&c->held);
    kvi_buf_free(&c->arguments);
    kvi_buf_free(&c->name);
}

void kvi_calls_reset(kvi_calls *c)
{
    kvi_buf_clear(&c->held);
    kvi_buf_clear(&c->arguments);
    c->at = KVI_CALLS_OUTSIDE;
    c->told = 0;
    c->n = 0;
    c->begun = c->any_text = c->list = c->told_name = false;
}

const kvi_json_value *kvi_tool_parameters(const kvi_json_value *tools, const char *name, size_t len)
{
    for (const kvi_json_value *t = tools ? tools->first : NULL; t; t = t->next) {
        const kvi_json_value *f = kvi_json_get(t, "function"), *of = f ? f : t, *its = kvi_json_get(of, "name");
        if (its && its->type == KVI_JSON_STRING && its->len == len && memcmp(its->text, name, len) == 0)
            return kvi_json_get(of, "parameters");
    }
    return NULL;
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
static const char *skip_space(const char *p, const char *end)
{
    while (p < end && is_space(*p)) p++;
    return p;
}
static bool starts(const char *p, const char *end, const char *text)
{
    const size_t n = strlen(text);
    return (size_t)(end - p) >= n && memcmp(p, text, n) == 0;
}
/* What is there may become `text` once more comes. */
static bool may_start(const char *p, const char *end, const char *text)
{
    const size_t left = (size_t)(end - p), n = strlen(text);
    return left < n && memcmp(p, text, left) == 0;
}
static const char *find(const char *p, const char *end, const char *text)
{
    for (; p < end; p++)
        if (starts(p, end, text)) return p;
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------ JSON bodies --- */
/* The end of the JSON value at p, or `end` with *complete = false. Structure alone is looked at. */
static const char *value_end(const char *p, const char *end, bool *complete)
{
    int depth = 0;
    bool string = false;
    *complete = false;
    for (; p < end; p++) {
        if (string) {
            if (*p == '\\') p++;
            else if (*p == '"') string = false;
            if (p >= end) return end;
            if (!string && depth == 0) return *complete = true, p + 1;
            continue;
        }
        if (*p == '"') string = true;
        else if (*p == '{' || *p == '[') depth++;
        else if (*p == '}' || *p == ']') {
            if (depth == 0) return *complete = true, p; /* behind a number */
            if (--depth == 0) return *complete = true, p + 1;
        } else if (depth == 0 && (*p == ',' || is_space(*p))) return *complete = true, p;
    }
    return end;
}

/* A JSON text within a JSON string: its content. */
static void unquote(kvi_buf *out, const char *p, size_t len)
{
    kvi_json r;
    kvi_json_init(&r, p, len);
    if (kvi_json_string(&r)) kvi_json_str_copy(&r, out);
}

/* {"name": ..., "arguments" | "parameters": ...}; p is behind white space. */
static void scan_object(kvi_calls *c, const char *p, const char *end, scan *out)
{
    bool complete;
    const char *begin = p;
    if (p == end) return;
    if (*p != '{') {
        out->wrong = true;
        return;
    }
    for (p++;;) {
        p = skip_space(p, end);
        if (p < end && *p == ',') p = skip_space(p + 1, end);
        if (p == end) return;
        if (*p == '}') break;
        const char *key = p, *key_end = *p == '"' ? value_end(p, end, &complete) : p;
        if (key == key_end) {
            out->wrong = true;
            return;
        }
        if (!complete) return;
        p = skip_space(key_end, end);
        if (p == end) return;
        if (*p != ':') {
            out->wrong = true;
            return;
        }
        p = skip_space(p + 1, end);
        const char *value = p;
        p = value_end(p, end, &complete);
        if (key_end - key == 6 && memcmp(key, "\"name\"", 6) == 0) {
            if (!complete) return;
            kvi_buf_clear(&c->name);
            unquote(&c->name, value, (size_t)(p - value));
            out->name = c->name.data, out->name_len = c->name.len;
            out->wrong = c->name.len == 0;
            if (out->wrong) return;
        } else if ((starts(key, end, "\"arguments\"") || starts(key, end, "\"parameters\"")) && value < end) {
            kvi_buf_clear(&c->arguments);
            if (*value == '{') kvi_buf_append(&c->arguments, value, (size_t)(p - value));
            else if (*value == '"' && complete) unquote(&c->arguments, value, (size_t)(p - value));
        }
        if (!complete) return;
    }
    out->wrong = !out->name;
    out->complete = !out->wrong;
    out->used = (size_t)(p + 1 - begin);
}

/* ------------------------------------------------------------------------------------------------------ tag bodies --- */
/* A value without quotes: a string where the tool says so or where it is no JSON. */
static void append_value(kvi_calls *c, const scan *call, const char *key, size_t key_len, const char *value, size_t len)
{
    const kvi_json_value *schema =
        kvi_json_get(kvi_tool_parameters(c->tools, call->name, call->name_len), "properties");
    const kvi_json_value *type = kvi_json_get(kvi_json_get_n(schema, key, key_len), "type");
    kvi_json r;
    kvi_json_init(&r, value, len);
    kvi_json_skip(&r);
    const bool json = kvi_json_end(&r) && !kvi_json_is_text(type, "string");
    kvi_buf_append_str(&c->arguments, c->arguments.len > 1 ? ", " : "");
    kvi_json_write_string(&c->arguments, key, key_len);
    kvi_buf_append_str(&c->arguments, ": ");
    if (json) kvi_buf_append(&c->arguments, value, len);
    else kvi_json_write_string(&c->arguments, value, len);
}

/* Text from p to `mark`; NULL: the mark is not there yet. */
static const char *until(const char **p, const char *end, const char *mark)
{
    const char *found = find(*p, end, mark);
    if (found) *p = found + strlen(mark);
    return found;
}

/* <function=f> (<parameter=k> value </parameter>)* </function> */
static void scan_function(kvi_calls *c, const char *p, const char *end, scan *out)
{
    const char *begin = p, *stop;
    p += strlen("<function=");
    out->name = p;
    if (!(stop = until(&p, end, ">"))) {
        out->name = NULL;
        return;
    }
    out->name_len = (size_t)(stop - out->name);
    kvi_buf_append_byte(&c->arguments, '{');
    for (;;) {
        p = skip_space(p, end);
        if (starts(p, end, "</function>")) break;
        if (!starts(p, end, "<parameter=")) {
            out->wrong = !may_start(p, end, "<parameter=") && !may_start(p, end, "</function>");
            return;
        }
        p += strlen("<parameter=");
        const char *key = p, *key_end = until(&p, end, ">");
        const char *value = p, *value_stop = key_end ? until(&p, end, "</parameter>") : NULL;
        if (!value_stop) return;
        if (value < value_stop && *value == '\n') value++;
        if (value < value_stop && value_stop[-1] == '\n') value_stop--;
        append_value(c, out, key, (size_t)(key_end - key), value, (size_t)(value_stop - value));
    }
    kvi_buf_append_byte(&c->arguments, '}');
    out->complete = true;
    out->used = (size_t)(p + strlen("</function>") - begin);
}

/* f (<arg_key> k </arg_key> <arg_value> value </arg_value>)* </tool_call>, whose mark stays for whoever closes. */
static void scan_arg_keys(kvi_calls *c, const char *p, const char *end, scan *out)
{
    const char *begin = p, *name = p;
    while (p < end && *p != '<' && *p != '\n') p++;
    if (p == end) return;
    out->name = name;
    while (p > name && is_space(p[-1])) p--;
    out->name_len = (size_t)(p - name);
    out->wrong = out->name_len == 0 || memchr(name, '"', out->name_len) || memchr(name, ' ', out->name_len);
    if (out->wrong) return;
    kvi_buf_append_byte(&c->arguments, '{');
    for (;;) {
        p = skip_space(p, end);
        if (starts(p, end, "</tool_call>")) break;
        if (!starts(p, end, "<arg_key>")) {
            out->wrong = !may_start(p, end, "<arg_key>") && !may_start(p, end, "</tool_call>");
            return;
        }
        p += strlen("<arg_key>");
        const char *key = p, *key_end = until(&p, end, "</arg_key>");
        const char *value = key_end && until(&p, end, "<arg_value>") ? p : NULL;
        const char *value_stop = value ? until(&p, end, "</arg_value>") : NULL;
        if (!value_stop) return;
        append_value(c, out, key, (size_t)(key_end - key), value, (size_t)(value_stop - value));
    }
    kvi_buf_append_byte(&c->arguments, '}');
    out->complete = true;
    out->used = (size_t)(p - begin);
}

/* ---------------------------------------------------------------------------------------------------------- others --- */
/* call:f{k:v,...}: keys without quotes, strings between <|"|>. */
static void scan_gemma(kvi_calls *c, const char *p, const char *end, scan *out)
{
    static const char quote[] = "<|\"|>";
    const char *begin = p;
    int depth = 0;
    if (!starts(p, end, "call:")) {
        out->wrong = !may_start(p, end, "call:");
        return;
    }
    p += strlen("call:");
    const char *name = p;
    while (p < end && *p != '{') p++;
    if (p == end) return;
    out->name = name, out->name_len = (size_t)(p - name);
    out->wrong = out->name_len == 0;
    while (p < end && !out->wrong) {
        if (starts(p, end, quote)) {
            const char *text = p + strlen(quote), *stop = find(text, end, quote);
            if (!stop) return;
            kvi_json_write_string(&c->arguments, text, (size_t)(stop - text));
            p = stop + strlen(quote);
        } else if (may_start(p, end, quote)) return;
        else if (strchr("{}[],:", *p)) {
            depth += *p == '{' || *p == '[';
            depth -= *p == '}' || *p == ']';
            kvi_buf_append(&c->arguments, p++, 1);
            if (depth == 0) {
                out->complete = true;
                out->used = (size_t)(p - begin);
                return;
            }
        } else if (is_space(*p)) p++;
        else { /* a key, or a number, true, false, null */ const char *word = p;
            while (p < end && !strchr("{}[],:<", *p)) p++;
            if (p == end) return;
            if (*p == ':') kvi_json_write_string(&c->arguments, word, (size_t)(p - word));
            else kvi_buf_append(&c->arguments, word, (size_t)(p - word));
            out->wrong = p == word;
        }
    }
}

/* f[ARGS]{...}, with [CALL_ID]... before [ARGS] or not. */
static void scan_mistral(kvi_calls *c, const char *p, const char *end, scan *out)
{
    const char *begin = p;
    bool complete;
    while (p < end && *p != '[' && *p != '{') p++;
    if (p == end) return;
    out->name = begin, out->name_len = (size_t)(p - begin);
    while (out->name_len && is_space(begin[out->name_len - 1])) out->name_len--;
    out->wrong = out->name_len == 0;
    while (p < end && *p != '{') p++;
    const char *value = p;
    p = value_end(p, end, &complete);
    kvi_buf_append(&c->arguments, value, (size_t)(p - value));
    out->complete = complete;
    out->used = (size_t)(p - begin);
}

static void scan_call(kvi_calls *c, scan *out)
{
    const char *begin = c->held.data ? c->held.data : "", *end = begin + c->held.len, *p = skip_space(begin, end);
    kvi_buf_clear(&c->arguments);
    if (p == end) return;
    if (c->format == KVI_CALLS_GEMMA) scan_gemma(c, p, end, out);
    else if (c->format == KVI_CALLS_MISTRAL && !c->list && *p != '{') scan_mistral(c, p, end, out);
    else if (c->format != KVI_CALLS_TAG || *p == '{') scan_object(c, p, end, out);
    else if (starts(p, end, "<function=")) scan_function(c, p, end, out);
    else if (!may_start(p, end, "<function=")) scan_arg_keys(c, p, end, out);
    out->used += (size_t)(p - begin);
}

/* ---------------------------------------------------------------------------------------------------------- machine --- */
static void tell(kvi_calls *c, kvi_call_news news, const char *text, size_t len)
{
    if (news == KVI_CALL_TEXT && len == 0) return;
    c->fn(c->user, news, text ? text : "", len, c->n);
}

static void drop(kvi_calls *c, size_t n)
{
    if (n < c->held.len) memmove(c->held.data, c->held.data + n, c->held.len - n);
    c->held.len -= n;
}

static void tell_text(kvi_calls *c, size_t n)
{
    for (size_t i = 0; i < n && !c->any_text; i++) c->any_text = !is_space(c->held.data[i]);
    tell(c, KVI_CALL_TEXT, c->held.data, n);
    drop(c, n);
}

static void end_call(kvi_calls *c, const char *how)
{
    tell(c, KVI_CALL_ENDS, how, strlen(how));
    c->n++;
    c->told = 0;
    c->told_name = false;
    kvi_buf_clear(&c->arguments);
}

/* Outside: text up to a mark. True: a call may begin. */
static bool look_for_mark(kvi_calls *c)
{
    const char *mark = opens[c->format], *p = c->held.data, *end = p + c->held.len;
    const char *found = mark ? find(p, end, mark) : NULL;
    if (c->format == KVI_CALLS_LLAMA && !c->any_text &&
        c->n == 0) { /* the whole text may be a call, and others behind it */
        const char *first = skip_space(p, end);
        if (first == end) return false;
        if (*first == '{') {
            c->at = KVI_CALLS_INSIDE;
            return true;
        }
    }
    if (found) {
        tell_text(c, (size_t)(found - p));
        drop(c, strlen(mark));
        c->at = KVI_CALLS_INSIDE;
        c->list = false;
        c->begun = true;
        if (c->format == KVI_CALLS_MISTRAL) c->at = KVI_CALLS_BETWEEN;
        return true;
    }
    size_t keep = mark && strlen(mark) - 1 < c->held.len ? strlen(mark) - 1 : c->held.len;
    if (!mark) keep = 0;
    while (keep && !may_start(end - keep, end, mark)) keep--;
    tell_text(c, c->held.len - keep);
    return false;
}

/* Behind [TOOL_CALLS], and between calls of its list. True: go on. */
static bool look_between(kvi_calls *c)
{
    const char *p = c->held.data, *end = p + c->held.len, *first = skip_space(p, end);
    if (first == end) return false;
    if (*first == '[' && !c->list) {
        c->list = true;
        drop(c, (size_t)(first + 1 - p));
    } else if (*first == ']' && c->list) {
        drop(c, (size_t)(first + 1 - p));
        c->at = KVI_CALLS_OUTSIDE;
    } else if (*first == ',' && c->list) drop(c, (size_t)(first + 1 - p));
    else c->at = KVI_CALLS_INSIDE;
    return true;
}

/* It was no call: the text it was. */
static void give_back(kvi_calls *c)
{
    const char *mark = opens[c->format];
    if (c->begun && mark) tell(c, KVI_CALL_TEXT, mark, strlen(mark));
    c->any_text = true;
    tell_text(c, c->held.len);
    c->at = KVI_CALLS_OUTSIDE;
}

static bool look_inside(kvi_calls *c, bool final)
{
    scan s = {0};
    scan_call(c, &s);
    if (s.wrong && !c->told_name) {
        give_back(c);
        return false;
    }
    if (s.name && !c->told_name) {
        tell(c, KVI_CALL_BEGINS, s.name, s.name_len);
        c->told_name = true;
    }
    if (c->told_name && c->arguments.len > c->told) {
        tell(c, KVI_CALL_ARGUMENTS, c->arguments.data + c->told, c->arguments.len - c->told);
        c->told = c->arguments.len;
    }
    if (!s.complete) {
        if (final && c->told_name) {
            end_call(c, "cut");
            kvi_buf_clear(&c->held);
            c->at = KVI_CALLS_OUTSIDE;
        } else if (final) give_back(c);
        return false;
    }
    if (c->told == 0) tell(c, KVI_CALL_ARGUMENTS, "{}", 2);
    drop(c, s.used);
    end_call(c, "");
    c->at = c->list ? KVI_CALLS_BETWEEN : closes[c->format] ? KVI_CALLS_CLOSING : KVI_CALLS_OUTSIDE;
    return true;
}

/* White space and the closing mark are nobody's text. */
static bool look_for_close(kvi_calls *c, bool final)
{
    const char *p = c->held.data, *end = p + c->held.len, *first = skip_space(p, end), *mark = closes[c->format];
    if (!final && (first == end || may_start(first, end, mark))) return false;
    if (starts(first, end, mark)) drop(c, (size_t)(first - p) + strlen(mark));
    c->at = KVI_CALLS_OUTSIDE;
    return c->held.len > 0;
}

static bool work(kvi_calls *c, bool final)
{
    for (bool more = true; more && c->held.len && !c->held.failed && !c->arguments.failed;) {
        if (c->at == KVI_CALLS_OUTSIDE) more = look_for_mark(c);
        else if (c->at == KVI_CALLS_BETWEEN) more = look_between(c);
        else if (c->at == KVI_CALLS_INSIDE) more = look_inside(c, final);
        else more = look_for_close(c, final);
    }
    return !c->held.failed && !c->arguments.failed && !c->name.failed;
}

bool kvi_calls_push(kvi_calls *c, const char *text, size_t len)
{
    if (c->format == KVI_CALLS_HARMONY && c->at == KVI_CALLS_INSIDE) {
        if (len) tell(c, KVI_CALL_ARGUMENTS, text, len);
        c->told += len;
        return true;
    }
    kvi_buf_append(&c->held, text, len);
    return !c->held.failed && work(c, false);
}

bool kvi_calls_finish(kvi_calls *c)
{
    if (c->format == KVI_CALLS_HARMONY && c->at == KVI_CALLS_INSIDE) return kvi_calls_close(c);
    if (!work(c, true)) return false;
    if (c->at == KVI_CALLS_INSIDE && c->told_name) end_call(c, "cut");
    if (c->at == KVI_CALLS_INSIDE && c->begun) give_back(c);
    tell_text(c, c->at == KVI_CALLS_OUTSIDE ? c->held.len : 0);
    kvi_buf_clear(&c->held);
    return true;
}

bool kvi_calls_open(kvi_calls *c, const char *name, size_t len)
{
    if (c->at == KVI_CALLS_INSIDE && !kvi_calls_close(c)) return false;
    tell(c, KVI_CALL_BEGINS, name, len);
    c->at = KVI_CALLS_INSIDE;
    c->told = 0;
    return true;
}

bool kvi_calls_close(kvi_calls *c)
{
    if (c->at != KVI_CALLS_INSIDE) return true;
    if (c->told == 0) tell(c, KVI_CALL_ARGUMENTS, "{}", 2);
    end_call(c, "");
    c->at = KVI_CALLS_OUTSIDE;
    return true;
}
