/* serve_json.c - see serve_json.h. */
#include "serve_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t serve_utf8_length(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    if (!len) return 0;
    if (s[0] < 0x80) return 1;
    const size_t n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
                     : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
                     : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                                   : 0;
    if (!n || n > len) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    /* Too long, surrogates, above U+10FFFF: all seen in the second byte. */
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return n;
}

/* ----------------------------------------------------------------------------------------------------- reading --- */
static bool fail(serve_json *j, const char *error)
{
    if (!j->error) j->error = error;
    return false;
}

static int peek(const serve_json *j) { return j->at < j->len ? (unsigned char)j->text[j->at] : -1; }

static void skip_space(serve_json *j)
{
    while (j->at < j->len && strchr(" \t\r\n", j->text[j->at]) && j->text[j->at]) j->at++;
}

static bool is_digit(int c) { return c >= '0' && c <= '9'; }

/* Four hexadecimal digits at `at`, or -1. */
static int hex4(const char *text, size_t len, size_t at)
{
    int value = 0;
    if (len - at < 4) return -1;
    for (size_t i = 0; i < 4; i++) {
        const char c = text[at + i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static bool read_escape(serve_json *j)
{
    const int c = peek(j);
    if (c < 0 || !strchr("\"\\/bfnrtu", c) || !c) return fail(j, "unknown escape");
    j->at++;
    if (c != 'u') return true;
    const int unit = hex4(j->text, j->len, j->at);
    if (unit < 0) return fail(j, "need four hexadecimal digits");
    j->at += 4;
    if (unit >= 0xdc00 && unit < 0xe000) return fail(j, "lone surrogate");
    if (unit < 0xd800 || unit >= 0xdc00) return true;
    if (j->len - j->at < 6 || j->text[j->at] != '\\' || j->text[j->at + 1] != 'u') return fail(j, "lone surrogate");
    const int low = hex4(j->text, j->len, j->at + 2);
    if (low < 0xdc00 || low >= 0xe000) return fail(j, "lone surrogate");
    j->at += 6;
    return true;
}

static bool read_string(serve_json *j)
{
    if (peek(j) != '"') return fail(j, "need a string");
    j->at++;
    for (int c; (c = peek(j)) != '"';) {
        if (c < 0) return fail(j, "string without end");
        if (c < 0x20) return fail(j, "control character in a string");
        if (c == '\\') {
            j->at++;
            if (!read_escape(j)) return false;
            continue;
        }
        const size_t n = serve_utf8_length(j->text + j->at, j->len - j->at);
        if (!n) return fail(j, "not UTF-8");
        j->at += n;
    }
    j->at++;
    return true;
}

static bool read_number(serve_json *j)
{
    if (peek(j) == '-') j->at++;
    if (!is_digit(peek(j))) return fail(j, "need a value");
    if (peek(j) == '0') j->at++;
    else
        while (is_digit(peek(j))) j->at++;
    if (peek(j) == '.') {
        j->at++;
        if (!is_digit(peek(j))) return fail(j, "need a digit");
        while (is_digit(peek(j))) j->at++;
    }
    if (peek(j) == 'e' || peek(j) == 'E') {
        j->at++;
        if (peek(j) == '+' || peek(j) == '-') j->at++;
        if (!is_digit(peek(j))) return fail(j, "need a digit");
        while (is_digit(peek(j))) j->at++;
    }
    return true;
}

static bool read_word(serve_json *j, const char *word)
{
    const size_t n = strlen(word);
    if (j->len - j->at < n || memcmp(j->text + j->at, word, n) != 0) return fail(j, "need a value");
    j->at += n;
    return true;
}

/* The index of a new node, 0 when there is no room. */
static uint32_t add_node(serve_json *j)
{
    if (j->n == SERVE_JSON_NODES) return (void)fail(j, "too many values"), 0;
    if (j->n == j->cap) {
        const uint32_t cap = j->cap ? j->cap * 2 : 32;
        serve_node *grown = realloc(j->nodes, cap * sizeof *grown);
        if (!grown) return (void)fail(j, "out of memory"), 0;
        j->nodes = grown;
        j->cap = cap;
    }
    j->nodes[j->n] = (serve_node){0};
    return j->n++;
}

static bool read_value(serve_json *j, uint32_t node, unsigned depth);

static bool read_members(serve_json *j, uint32_t node, unsigned depth, bool is_object)
{
    const char end = is_object ? '}' : ']';
    uint32_t last = 0;
    if (depth == SERVE_JSON_DEPTH) return fail(j, "nested too deep");
    j->at++;
    skip_space(j);
    if (peek(j) == end) return j->at++, true;
    for (;;) {
        const uint32_t child = add_node(j);
        if (!child) return false;
        skip_space(j);
        if (is_object) {
            const size_t key = j->at + 1;
            if (!read_string(j)) return false;
            j->nodes[child].key_start = (uint32_t)key;
            j->nodes[child].key_len = (uint32_t)(j->at - 1 - key);
            skip_space(j);
            if (peek(j) != ':') return fail(j, "need ':'");
            j->at++;
            skip_space(j);
        }
        if (!read_value(j, child, depth + 1)) return false;
        if (last) j->nodes[last].next = child;
        else j->nodes[node].child = child;
        last = child;
        skip_space(j);
        const int c = peek(j);
        if (c != ',' && c != end) return fail(j, is_object ? "need ',' or '}'" : "need ',' or ']'");
        j->at++;
        if (c == end) return true;
    }
}

static bool read_value(serve_json *j, uint32_t node, unsigned depth)
{
    const size_t start = j->at;
    const int c = peek(j);
    serve_json_type type = SERVE_NUMBER;
    bool ok;
    if (c == '{' || c == '[') {
        type = c == '{' ? SERVE_OBJECT : SERVE_ARRAY;
        ok = read_members(j, node, depth, c == '{');
    } else if (c == '"') type = SERVE_STRING, ok = read_string(j);
    else if (c == 't') type = SERVE_TRUE, ok = read_word(j, "true");
    else if (c == 'f') type = SERVE_FALSE, ok = read_word(j, "false");
    else if (c == 'n') type = SERVE_NULL, ok = read_word(j, "null");
    else ok = read_number(j);
    if (!ok) return false;
    j->nodes[node].type = type;
    j->nodes[node].start = (uint32_t)start;
    j->nodes[node].len = (uint32_t)(j->at - start);
    return true;
}

bool serve_json_read(serve_json *j, const char *text, size_t len)
{
    *j = (serve_json){.text = text, .len = len};
    if (len > UINT32_MAX / 2) return fail(j, "too long");
    (void)add_node(j);
    if (j->error) return false;
    skip_space(j);
    if (!read_value(j, 0, 0)) return false;
    skip_space(j);
    return j->at == len || fail(j, "more behind the value");
}

void serve_json_free(serve_json *j)
{
    free(j->nodes);
    *j = (serve_json){0};
}

/* ----------------------------------------------------------------------------------------------------- looking --- */
const serve_node *serve_json_child(const serve_json *j, const serve_node *of)
{
    return of && of->child ? &j->nodes[of->child] : NULL;
}

const serve_node *serve_json_next(const serve_json *j, const serve_node *of)
{
    return of->next ? &j->nodes[of->next] : NULL;
}

static size_t next_char(const serve_json *j, size_t *at, size_t end, char bytes[4]);

bool serve_json_key_is(const serve_json *j, const serve_node *node, const char *name)
{
    const size_t end = node->key_start + (size_t)node->key_len, n = strlen(name);
    size_t same = 0;
    char bytes[4];
    for (size_t at = node->key_start; at < end;) {
        const size_t k = next_char(j, &at, end, bytes);
        if (k > n - same || memcmp(name + same, bytes, k) != 0) return false;
        same += k;
    }
    return same == n;
}

const serve_node *serve_json_get(const serve_json *j, const serve_node *of, const char *name)
{
    const serve_node *found = NULL;
    if (!of || of->type != SERVE_OBJECT) return NULL;
    for (const serve_node *at = serve_json_child(j, of); at; at = serve_json_next(j, at))
        if (serve_json_key_is(j, at, name)) found = at;
    return found && found->type != SERVE_NULL ? found : NULL;
}

static size_t spell_utf8(unsigned c, char bytes[4])
{
    size_t n = 0;
    if (c < 0x80) bytes[n++] = (char)c;
    else if (c < 0x800) {
        bytes[n++] = (char)(0xc0 | (c >> 6));
        bytes[n++] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        bytes[n++] = (char)(0xe0 | (c >> 12));
        bytes[n++] = (char)(0x80 | ((c >> 6) & 63));
        bytes[n++] = (char)(0x80 | (c & 63));
    } else {
        bytes[n++] = (char)(0xf0 | (c >> 18));
        bytes[n++] = (char)(0x80 | ((c >> 12) & 63));
        bytes[n++] = (char)(0x80 | ((c >> 6) & 63));
        bytes[n++] = (char)(0x80 | (c & 63));
    }
    return n;
}

/* What the next byte or escape of a string stands for: its bytes; reading has seen that it is right. */
static size_t next_char(const serve_json *j, size_t *at, size_t end, char bytes[4])
{
    static const char escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
    char c = j->text[(*at)++];
    if (c != '\\') return *bytes = c, 1;
    c = j->text[(*at)++];
    if (c != 'u') {
        const char *known = strchr(escapes, c);
        return *bytes = known ? meant[known - escapes] : c, 1;
    }
    unsigned unit = (unsigned)hex4(j->text, end, *at);
    *at += 4;
    if (unit >= 0xd800 && unit < 0xdc00) { /* its other half follows */
        unit = 0x10000 + ((unit - 0xd800) << 10) + ((unsigned)hex4(j->text, end, *at + 2) - 0xdc00);
        *at += 6;
    }
    return spell_utf8(unit, bytes);
}

void serve_json_string(const serve_json *j, const serve_node *node, serve_text *out)
{
    char bytes[4];
    if (!node || node->type != SERVE_STRING) return;
    const size_t end = node->start + node->len - 1u;
    serve_put(out, "", 0);
    for (size_t at = node->start + 1u; at < end;) {
        const char *text = j->text + at, *slash = memchr(text, '\\', end - at);
        const size_t plain = slash ? (size_t)(slash - text) : end - at;
        serve_put(out, text, plain);
        at += plain;
        if (!slash) break;
        const size_t n = next_char(j, &at, end, bytes);
        serve_put(out, bytes, n);
    }
}

bool serve_json_is(const serve_json *j, const serve_node *node, const char *text)
{
    serve_text value = {0};
    if (!node || node->type != SERVE_STRING) return false;
    serve_json_string(j, node, &value);
    const bool same = !value.failed && value.len == strlen(text) && memcmp(value.data, text, value.len) == 0;
    serve_text_free(&value);
    return same;
}

bool serve_json_f64(const serve_json *j, const serve_node *node, double *out)
{
    char number[64];
    if (!node || node->type != SERVE_NUMBER || node->len >= sizeof number) return false;
    memcpy(number, j->text + node->start, node->len);
    number[node->len] = 0;
    *out = strtod(number, NULL); /* the command never sets a locale */
    return *out == *out && *out - *out == 0;
}

bool serve_json_i64(const serve_json *j, const serve_node *node, int64_t *out)
{
    char number[64], *end;
    double value;
    if (!serve_json_f64(j, node, &value)) return false;
    memcpy(number, j->text + node->start, node->len);
    number[node->len] = 0;
    errno = 0;
    const long long whole = strtoll(number, &end, 10);
    if (!*end) return *out = whole, errno == 0;
    if (!(value > -9e15 && value < 9e15) || value != (double)(int64_t)value) return false;
    return *out = (int64_t)value, true;
}

const char *serve_json_type_name(const serve_node *node)
{
    static const char *const names[] = {"null",     "a boolean", "a boolean", "a number",
                                        "a string", "an array",  "an object"};
    return node && node->type < sizeof names / sizeof names[0] ? names[node->type] : "nothing";
}
