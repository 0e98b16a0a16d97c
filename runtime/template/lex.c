/* lex.c - see lex.h. The rules are those of Jinja2's lexer: which whitespace goes depends on what stands
 * before a tag on its line, on the sign inside the tag, and on one newline after a block. */
#include "../base/json.h"
#include "lex.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>

#define MAX_TOKENS 400000u
#define MAX_BRACKETS 200u

typedef struct lexer {
    kvi_jinja_ctx *ctx;
    kvi_jinja_tokens *out;
    char *s; /* source, newlines normalized */
    size_t len, at;
    size_t counted; /* line and column are known for this position */
    uint32_t line, column;
    bool line_starting; /* the last token ended with a newline */
} lexer;

/* Line and column (in characters) of byte `at`; positions only move forward. */
static void locate(lexer *l, size_t at)
{
    for (; l->counted < at; l->counted++) {
        if (l->s[l->counted] == '\n') l->line++, l->column = 1;
        else if (((unsigned char)l->s[l->counted] & 0xc0) != 0x80) l->column++;
    }
    l->ctx->line = l->line;
    l->ctx->column = l->column;
}

static kvi_jinja_token *push(lexer *l, kvi_jinja_token_type type, size_t at, const char *text, size_t len)
{
    static kvi_jinja_token none;
    kvi_jinja_tokens *t = l->out;
    locate(l, at);
    if (!kvi_jinja_charge(l->ctx, 1)) return &none;
    if (t->n == MAX_TOKENS) return kvi_jinja_fail(l->ctx, "more than %u tokens", MAX_TOKENS), &none;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        kvi_jinja_token *data = kvi_jinja_alloc(l->ctx, cap * sizeof *data);
        if (!data) return &none;
        if (t->n) memcpy(data, t->data, t->n * sizeof *data);
        t->data = data;
        t->cap = cap;
    }
    kvi_jinja_token *token = &t->data[t->n++];
    *token = (kvi_jinja_token){type, l->line, l->column, text, len, {0}};
    return token;
}

static size_t skip_space(const lexer *l, size_t at)
{
    uint32_t cp;
    size_t n;
    while (at < l->len && (n = kvi_utf8_decode(l->s + at, l->len - at, &cp)) && kvi_jinja_is_space(cp)) at += n;
    return at;
}

static size_t strip_right(const lexer *l, size_t from, size_t to)
{
    uint32_t cp;
    while (to > from) {
        size_t before = kvi_utf8_prev(l->s, to);
        if (before < from || !kvi_utf8_decode(l->s + before, to - before, &cp) || !kvi_jinja_is_space(cp)) break;
        to = before;
    }
    return to;
}

static bool starts(const lexer *l, size_t at, const char *text)
{
    size_t n = strlen(text);
    return l->len - at >= n && memcmp(l->s + at, text, n) == 0;
}

/* Text [from, to) before a tag at `to`; kind is '%', '#' or '{', sign '-', '+' or 0. */
static void data_before(lexer *l, size_t from, size_t to, char kind, char sign)
{
    size_t end = to;
    if (sign == '-') end = strip_right(l, from, to);
    else if (sign != '+' && kind != '{') {
        size_t start = to;
        while (start > from && l->s[start - 1] != '\n') start--;
        if ((start > from || l->line_starting) && skip_space(l, start) >= to) end = start;
    }
    if (end > from) push(l, KVI_JINJA_T_DATA, from, l->s + from, end - from);
}

/* Moves past the end of a block or comment: "-" eats whitespace, otherwise one newline goes unless "+" keeps it. */
static size_t after_tag(lexer *l, size_t at, char sign, bool trims)
{
    size_t end = at;
    if (sign == '-') end = skip_space(l, at);
    else if (trims && sign != '+' && at < l->len && l->s[at] == '\n') end = at + 1;
    l->line_starting = end > 0 && l->s[end - 1] == '\n';
    return end;
}

static char end_sign(const lexer *l, size_t close, bool plus_counts)
{
    char c = close ? l->s[close - 1] : 0;
    return c == '-' || (c == '+' && plus_counts) ? c : 0;
}

static void lex_comment(lexer *l, size_t body)
{
    size_t at = body;
    while (at + 1 < l->len && !(l->s[at] == '#' && l->s[at + 1] == '}')) at++;
    if (body == l->len) { /* "{#" at the very end is nothing, as in Jinja2 */
        l->at = body;
        return;
    }
    if (at + 1 >= l->len) {
        kvi_jinja_fail(l->ctx, "TemplateSyntaxError: a comment is not closed, need '#}'");
        return;
    }
    l->at = after_tag(l, at + 2, at > body ? end_sign(l, at, true) : 0, true);
}

/* {% raw %} ... {% endraw %}: `at` is behind "raw" and its tag. */
static void lex_raw(lexer *l, size_t at)
{
    for (size_t p = at; p + 1 < l->len; p++) {
        if (l->s[p] != '{' || l->s[p + 1] != '%') continue;
        size_t q = p + 2;
        char sign = q < l->len && (l->s[q] == '-' || l->s[q] == '+') ? l->s[q] : 0;
        q = skip_space(l, q + (sign != 0));
        if (!starts(l, q, "endraw")) continue;
        q = skip_space(l, q + 6);
        char end = q < l->len && (l->s[q] == '-' || l->s[q] == '+') ? l->s[q] : 0;
        if (!starts(l, q + (end != 0), "%}")) continue;
        data_before(l, at, p, '%', sign);
        l->at = after_tag(l, q + (end != 0) + 2, end, true);
        return;
    }
    if (at == l->len) l->at = at;
    else kvi_jinja_fail(l->ctx, "TemplateSyntaxError: Missing end of raw directive");
}

static bool begin_raw(lexer *l, size_t at)
{
    size_t q = skip_space(l, at);
    if (!starts(l, q, "raw")) return false;
    q = skip_space(l, q + 3);
    char sign = q < l->len && l->s[q] == '-' ? '-' : 0;
    if (!starts(l, q + (sign != 0), "%}")) return false;
    lex_raw(l, after_tag(l, q + (sign != 0) + 2, sign, false));
    return true;
}

/* ------------------------------------------------------------------------------------------------ inside of a tag
 * --- */
static uint32_t hex_value(const char *p, size_t n, bool *ok)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        uint32_t d = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                     : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                            : 16;
        if (d == 16) *ok = false;
        v = v << 4 | d;
    }
    return v;
}

/* One escape at p (behind the backslash); appends to dst, returns bytes read. Python's unicode-escape. */
static size_t unescape(lexer *l, const char *p, size_t left, char *dst, size_t *len)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *simple = p[0] ? strchr(from, p[0]) : NULL;
    if (simple) {
        dst[(*len)++] = to[simple - from];
        return 1;
    }
    if (p[0] == '\n') return 1;
    if (p[0] >= '0' && p[0] <= '7') {
        uint32_t v = 0;
        size_t n = 0;
        while (n < 3 && n < left && p[n] >= '0' && p[n] <= '7') v = v * 8 + (uint32_t)(p[n++] - '0');
        *len += kvi_utf8_encode(dst + *len, v);
        return n;
    }
    size_t digits = p[0] == 'x' ? 2 : p[0] == 'u' ? 4 : p[0] == 'U' ? 8 : 0;
    if (digits) {
        bool ok = left > digits;
        uint32_t v = ok ? hex_value(p + 1, digits, &ok) : 0;
        if (!ok || v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) {
            kvi_jinja_fail(l->ctx, "TemplateSyntaxError: malformed \\%c escape in a string", p[0]);
            return 1;
        }
        *len += kvi_utf8_encode(dst + *len, v);
        return 1 + digits;
    }
    if (p[0] == 'N') kvi_jinja_fail(l->ctx, "\\N{...} escapes are not supported");
    dst[(*len)++] = '\\'; /* Python keeps the backslash of escapes it does not know */
    return 0;
}

static size_t lex_string(lexer *l, size_t at)
{
    char quote = l->s[at];
    size_t end = at + 1;
    while (end < l->len && l->s[end] != quote) end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->len) {
        locate(l, at);
        kvi_jinja_fail(l->ctx, "TemplateSyntaxError: a string is not closed");
        return l->len;
    }
    char *text = kvi_jinja_alloc(l->ctx, end - at + 8);
    if (!text) return l->len;
    kvi_jinja_token *token = push(l, KVI_JINJA_T_STRING, at, text, 0);
    size_t len = 0;
    for (size_t i = at + 1; i < end && !l->ctx->failed;) {
        if (l->s[i] != '\\') text[len++] = l->s[i++];
        else i += 1 + unescape(l, l->s + i + 1, end - i - 1, text, &len);
    }
    token->len = len;
    return end + 1;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_base_digit(char c, unsigned base)
{
    bool ok = true;
    return hex_value(&c, 1, &ok) < base && ok;
}

static size_t digits_end(const lexer *l, size_t at)
{
    while (at < l->len && (is_digit(l->s[at]) || (l->s[at] == '_' && at + 1 < l->len && is_digit(l->s[at + 1])))) at++;
    return at;
}

static size_t lex_based(lexer *l, size_t at, unsigned base)
{
    size_t p = at + 2, n = 0;
    while (p < l->len && (l->s[p] == '_' || is_base_digit(l->s[p], base))) p++;
    char *digits = kvi_jinja_alloc(l->ctx, p - at);
    for (size_t i = at + 2; digits && i < p; i++)
        if (l->s[i] != '_') digits[n++] = l->s[i];
    kvi_jinja_value value = digits ? kvi_jinja_int_parse(l->ctx, digits, n, base, false) : kvi_jinja_none();
    push(l, KVI_JINJA_T_INT, at, l->s + at, p - at)->number = value;
    if (!n) kvi_jinja_fail(l->ctx, "TemplateSyntaxError: a number has no digits");
    return p;
}

static size_t lex_number(lexer *l, size_t at)
{
    char next = at + 1 < l->len ? (char)(l->s[at + 1] | 0x20) : 0;
    if (l->s[at] == '0' && (next == 'x' || next == 'o' || next == 'b') && at + 2 < l->len)
        return lex_based(l, at, next == 'x' ? 16 : next == 'o' ? 8 : 2);
    size_t end = digits_end(l, at), whole = end;
    bool after_dot = at > 0 && l->s[at - 1] == '.';
    if (!after_dot && end + 1 < l->len && l->s[end] == '.' && is_digit(l->s[end + 1])) end = digits_end(l, end + 1);
    if (!after_dot && end + 1 < l->len && (l->s[end] | 0x20) == 'e') {
        size_t e = end + 1 + (l->s[end + 1] == '+' || l->s[end + 1] == '-');
        if (e < l->len && is_digit(l->s[e])) end = digits_end(l, e);
    }
    char *text = kvi_jinja_alloc(l->ctx, end - at + 1);
    if (!text) return l->len;
    size_t n = 0;
    for (size_t i = at; i < end; i++)
        if (l->s[i] != '_') text[n++] = l->s[i];
    kvi_jinja_token *token = push(l, end > whole ? KVI_JINJA_T_FLOAT : KVI_JINJA_T_INT, at, text, n);
    while (n > 1 && text[0] == '0' && is_digit(text[1])) text++, n--;
    if (end > whole) {
        double f = 0;
        if (!kvi_parse_f64(text, n, &f)) f = HUGE_VAL; /* well formed, so it is too large */
        token->number = kvi_jinja_float(f);
    } else token->number = kvi_jinja_int_parse(l->ctx, text, n, 10, false);
    return end;
}

static bool is_name_byte(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80 ||
           (!first && is_digit(c));
}

static size_t lex_operator(lexer *l, size_t at, unsigned *depth, char *stack)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->s[at];
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (starts(l, at, two[i])) return push(l, KVI_JINJA_T_OP, at, two[i], 2), at + 2;
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) {
        locate(l, at);
        kvi_jinja_fail(l->ctx, "TemplateSyntaxError: unexpected char '%.*s'", (int)((unsigned char)c < 0x80),
                       l->s + at);
        return l->len;
    }
    if (c == '(' || c == '[' || c == '{') {
        if (*depth == MAX_BRACKETS) return kvi_jinja_fail(l->ctx, "brackets are nested too deeply"), l->len;
        stack[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    }
    push(l, KVI_JINJA_T_OP, at, l->s + at, 1);
    if (c == ')' || c == ']' || c == '}') {
        if (!*depth) return kvi_jinja_fail(l->ctx, "TemplateSyntaxError: unexpected '%c'", c), l->len;
        if (stack[--*depth] != c)
            return kvi_jinja_fail(l->ctx, "TemplateSyntaxError: unexpected '%c', expected '%c'", c, stack[*depth]),
                   l->len;
    }
    return at + 1;
}

/* From behind the opening of a tag to behind its end. */
static void lex_tag(lexer *l, size_t at, bool block, size_t opened)
{
    unsigned depth = 0;
    char stack[MAX_BRACKETS];
    const char *close = block ? "%}" : "}}";
    push(l, block ? KVI_JINJA_T_BLOCK_BEGIN : KVI_JINJA_T_PRINT_BEGIN, opened, "", 0);
    while (!l->ctx->failed) {
        at = skip_space(l, at);
        if (at >= l->len) {
            locate(l, opened);
            kvi_jinja_fail(l->ctx, "TemplateSyntaxError: a tag is not closed, need '%s'", close);
            return;
        }
        char c = l->s[at];
        bool sign = (c == '-' || (c == '+' && block)) && starts(l, at + 1, close);
        if (!depth && (sign || starts(l, at, close))) {
            push(l, block ? KVI_JINJA_T_BLOCK_END : KVI_JINJA_T_PRINT_END, at, "", 0);
            l->at = after_tag(l, at + 2 + sign, sign ? c : 0, block);
            return;
        }
        if (c == '"' || c == '\'') at = lex_string(l, at);
        else if (is_digit(c)) at = lex_number(l, at);
        else if (is_name_byte(c, true)) {
            size_t end = at + 1;
            while (end < l->len && is_name_byte(l->s[end], false)) end++;
            push(l, KVI_JINJA_T_NAME, at, l->s + at, end - at);
            at = end;
        } else at = lex_operator(l, at, &depth, stack);
    }
}

static void normalize(lexer *l, const char *source, size_t len)
{
    l->s = kvi_jinja_alloc(l->ctx, len + 1);
    for (size_t i = 0; l->s && i < len; i++) {
        if (source[i] != '\r') l->s[l->len++] = source[i];
        else if (i + 1 >= len || source[i + 1] != '\n') l->s[l->len++] = '\n';
    }
    if (l->s && l->len && l->s[l->len - 1] == '\n') l->len--;
    if (l->s) l->s[l->len] = 0;
}

bool kvi_jinja_lex(kvi_jinja_ctx *ctx, const char *source, size_t len, kvi_jinja_tokens *out)
{
    lexer l = {.ctx = ctx, .out = out, .line = 1, .column = 1, .line_starting = true};
    if (kvi_utf8_valid_prefix(source, len) != len) return kvi_jinja_fail(ctx, "the template is not valid UTF-8"), false;
    normalize(&l, source, len);
    while (!ctx->failed && l.at < l.len) {
        size_t tag = l.at;
        while (tag + 1 < l.len &&
               !(l.s[tag] == '{' && (l.s[tag + 1] == '{' || l.s[tag + 1] == '%' || l.s[tag + 1] == '#')))
            tag++;
        if (tag + 1 >= l.len) {
            push(&l, KVI_JINJA_T_DATA, l.at, l.s + l.at, l.len - l.at);
            break;
        }
        char kind = l.s[tag + 1], sign = tag + 2 < l.len ? l.s[tag + 2] : 0;
        if (sign != '-' && sign != '+') sign = 0;
        size_t from = l.at, body = tag + 2 + (sign != 0);
        data_before(&l, from, tag, kind, sign);
        locate(&l, tag);
        if (kind == '#') lex_comment(&l, body);
        else if (kind == '{' || !begin_raw(&l, body)) lex_tag(&l, body, kind == '%', tag);
    }
    push(&l, KVI_JINJA_T_END, l.len, "", 0);
    return !ctx->failed;
}
