/* value_json.c - JSON text to template values and back; writing as Python's json.dumps does (", " and ": ", keys in
 * order). To know: tojson loses the tag of what it writes, on purpose: its quotes come from neither template nor
 * message. */
#include "../base/json.h"
#include "value.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>

static kvi_jinja_value read_string(kvi_jinja_ctx *ctx, const kvi_json *r, int tag)
{
    char *text = kvi_jinja_alloc(ctx, r->str_len + 1);
    if (!text) return kvi_jinja_undefined(NULL);
    size_t len = kvi_json_str_unescape(r, text);
    return kvi_jinja_str_copy(ctx, text, len, tag);
}

static kvi_jinja_value read_number(kvi_jinja_ctx *ctx, kvi_json *r)
{
    size_t start = r->pos;
    kvi_json_skip(r);
    const char *text = r->text + start;
    size_t len = r->pos - start;
    while (len && (*text == ' ' || *text == '\n' || *text == '\r' || *text == '\t' || *text == ',' || *text == ':'))
        text++, len--;
    bool whole = true;
    for (size_t i = 0; i < len; i++) whole = whole && text[i] != '.' && text[i] != 'e' && text[i] != 'E';
    if (whole) {
        bool negative = len && text[0] == '-';
        return kvi_jinja_int_parse(ctx, text + negative, len - negative, 10, negative);
    }
    double f = 0;
    if (!kvi_parse_f64(text, len, &f)) kvi_json_set_error(r, "malformed number");
    return kvi_jinja_float(f);
}

static kvi_jinja_value read_value(kvi_jinja_ctx *ctx, kvi_json *r, int tag)
{
    kvi_jinja_value out = kvi_jinja_none();
    if (!kvi_jinja_charge(ctx, 1)) return out;
    switch (kvi_json_peek(r)) {
    case KVI_JSON_OBJECT: {
        kvi_jinja_dict *dict = kvi_jinja_dict_new(ctx);
        if (!dict || !kvi_json_expect(r, KVI_JSON_OBJECT)) return out;
        while (!ctx->failed && kvi_json_next_key(r)) {
            kvi_jinja_value key = read_string(ctx, r, tag);
            kvi_jinja_dict_set(ctx, dict, key, read_value(ctx, r, tag));
        }
        return (kvi_jinja_value){KVI_JINJA_DICT, {.dict = dict}};
    }
    case KVI_JSON_ARRAY: {
        kvi_jinja_seq *list = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
        if (!list || !kvi_json_expect(r, KVI_JSON_ARRAY)) return out;
        while (!ctx->failed && kvi_json_next_item(r)) kvi_jinja_seq_push(ctx, list, read_value(ctx, r, tag));
        return kvi_jinja_seq_value(list);
    }
    case KVI_JSON_STRING: return kvi_json_string(r) ? read_string(ctx, r, tag) : out;
    case KVI_JSON_NUMBER: return read_number(ctx, r);
    case KVI_JSON_TRUE:
    case KVI_JSON_FALSE: return kvi_jinja_bool(kvi_json_bool(r));
    case KVI_JSON_NULL: (void)kvi_json_null(r); return out;
    default: kvi_json_set_error(r, "a value is missing"); return out;
    }
}

kvi_jinja_value kvi_jinja_from_json(kvi_jinja_ctx *ctx, const char *json, size_t len, const char *what, int tag)
{
    kvi_json r;
    kvi_json_init(&r, json, len);
    kvi_jinja_value value = read_value(ctx, &r, tag);
    if (!ctx->failed && !r.error) (void)kvi_json_end(&r);
    if (!ctx->failed && r.error) {
        kvi_json_fail(&r, what, ctx->error);
        if (ctx->error) ctx->error->code = KVRT_ARG;
        ctx->failed = true;
    }
    return value;
}

/* -------------------------------------------------------------------------------------------------------- writing
 * --- */
typedef struct writer {
    kvi_jinja_ctx *ctx;
    kvi_jinja_builder *out;
    const kvi_jinja_json_style *style;
    unsigned level;
} writer;

static void put(writer *w, const char *text, size_t len) { kvi_jinja_add(w->ctx, w->out, text, len, KVI_JINJA_TEXT); }

static void put_u16(writer *w, uint32_t unit)
{
    static const char hex[] = "0123456789abcdef";
    char text[6] = {'\\', 'u', hex[unit >> 12 & 15], hex[unit >> 8 & 15], hex[unit >> 4 & 15], hex[unit & 15]};
    put(w, text, 6);
}

static void write_string(writer *w, const kvi_jinja_str *s)
{
    put(w, "\"", 1);
    size_t from = 0;
    for (size_t at = 0; at < s->len && !w->ctx->failed;) {
        uint32_t cp;
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        if (!n) n = 1, cp = 0xfffd;
        const char *escape = cp == '"'    ? "\\\""
                             : cp == '\\' ? "\\\\"
                             : cp == '\n' ? "\\n"
                             : cp == '\r' ? "\\r"
                             : cp == '\t' ? "\\t"
                             : cp == '\b' ? "\\b"
                             : cp == '\f' ? "\\f"
                                          : NULL;
        if (escape || cp < 0x20 || (w->style->ensure_ascii && cp >= 0x7f)) {
            bool del = cp == 0x7f;
            put(w, s->data + from, at - from);
            if (escape) put(w, escape, 2);
            else if (del) put(w, "\x7f", 1);
            else if (cp < 0x10000) put_u16(w, cp);
            else put_u16(w, 0xd800 + ((cp - 0x10000) >> 10)), put_u16(w, 0xdc00 + ((cp - 0x10000) & 0x3ff));
            from = at + n;
        }
        at += n;
    }
    put(w, s->data + from, s->len - from);
    put(w, "\"", 1);
}

static void newline(writer *w)
{
    if (w->style->indent < 0 && !w->style->indent_text) return;
    put(w, "\n", 1);
    for (unsigned i = 0; i < w->level && !w->ctx->failed; i++) {
        if (w->style->indent_text) put(w, w->style->indent_text, strlen(w->style->indent_text));
        else
            for (int k = 0; k < w->style->indent; k++) put(w, " ", 1);
    }
}

static void separate(writer *w)
{
    if (w->style->item_separator) put(w, w->style->item_separator->data, w->style->item_separator->len);
    else put(w, ", ", w->style->indent >= 0 || w->style->indent_text ? 1 : 2);
    newline(w);
}

static void write_value(writer *w, kvi_jinja_value value);

static void write_key(writer *w, kvi_jinja_value key)
{
    if (key.type == KVI_JINJA_STR) write_string(w, key.u.s);
    else if (key.type == KVI_JINJA_NONE || kvi_jinja_is_int(key) || key.type == KVI_JINJA_FLOAT) {
        put(w, "\"", 1);
        write_value(w, key);
        put(w, "\"", 1);
    } else
        kvi_jinja_fail(w->ctx, "TypeError: keys must be str, int, float, bool or None, not %s",
                       kvi_jinja_type_name(key));
    if (w->style->key_separator) put(w, w->style->key_separator->data, w->style->key_separator->len);
    else put(w, ": ", 2);
}

/* Index of the i-th key in writing order. Insertion sort: dictionaries of templates are small, and each step is
 * charged. */
static size_t *key_order(writer *w, const kvi_jinja_dict *dict)
{
    size_t *order = kvi_jinja_alloc(w->ctx, (dict->n + 1) * sizeof *order);
    if (!order) return NULL;
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = i;
        for (; w->style->sort_keys && at > 0 && !w->ctx->failed; at--) {
            if (kvi_jinja_order(w->ctx, dict->keys[order[at - 1]], dict->keys[i], "<") <= 0) break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return order;
}

static void write_dict(writer *w, const kvi_jinja_dict *dict)
{
    size_t *order = key_order(w, dict);
    put(w, "{", 1);
    w->level++;
    for (size_t i = 0; order && i < dict->n && !w->ctx->failed; i++) {
        if (i) separate(w);
        else newline(w);
        write_key(w, dict->keys[order[i]]);
        write_value(w, dict->values[order[i]]);
    }
    w->level--;
    if (dict->n) newline(w);
    put(w, "}", 1);
}

static void write_seq(writer *w, const kvi_jinja_seq *seq)
{
    put(w, "[", 1);
    w->level++;
    for (size_t i = 0; i < seq->n && !w->ctx->failed; i++) {
        if (i) separate(w);
        else newline(w);
        write_value(w, seq->items[i]);
    }
    w->level--;
    if (seq->n) newline(w);
    put(w, "]", 1);
}

static void write_float(writer *w, double f)
{
    char text[32];
    if (isnan(f)) put(w, "NaN", 3);
    else if (isinf(f)) put(w, f > 0 ? "Infinity" : "-Infinity", f > 0 ? 8 : 9);
    else put(w, text, kvi_jinja_float_repr(f, text));
}

static void write_big(writer *w, kvi_jinja_value value)
{
    char text[KVI_JINJA_INT_TEXT];
    put(w, text, kvi_jinja_int_digits(value, text));
}

static void write_value(writer *w, kvi_jinja_value value)
{
    char text[32];
    if (!kvi_jinja_charge(w->ctx, 1)) return;
    if (++w->ctx->depth > 100) kvi_jinja_fail(w->ctx, "a value is nested too deeply for tojson");
    if (!w->ctx->failed) switch (value.type) {
        case KVI_JINJA_NONE: put(w, "null", 4); break;
        case KVI_JINJA_BOOL: put(w, value.u.b ? "true" : "false", value.u.b ? 4 : 5); break;
        case KVI_JINJA_INT: put(w, text, kvi_jinja_int_text(value.u.i, text)); break;
        case KVI_JINJA_BIG: write_big(w, value); break;
        case KVI_JINJA_FLOAT: write_float(w, value.u.f); break;
        case KVI_JINJA_STR: write_string(w, value.u.s); break;
        case KVI_JINJA_DICT: write_dict(w, value.u.dict); break;
        case KVI_JINJA_SEQ:
            if (value.u.seq->kind <= KVI_JINJA_TUPLE) {
                write_seq(w, value.u.seq);
                break;
            }
            /* fall through */
        default:
            kvi_jinja_fail(w->ctx, "TypeError: Object of type %s is not JSON serializable", kvi_jinja_type_name(value));
            break;
        }
    w->ctx->depth--;
}

kvi_jinja_value kvi_jinja_to_json(kvi_jinja_ctx *ctx, kvi_jinja_value value, const kvi_jinja_json_style *style)
{
    kvi_jinja_builder out = {0};
    writer w = {ctx, &out, style, 0};
    write_value(&w, value);
    return kvi_jinja_built(ctx, &out);
}
