/* json.c - the bounded pull reader of json.h. */
#include "json.h"
#include "os.h"
#include "utf8.h"

#include <math.h>
#include <string.h>

static bool fail_at(kvi_json *r, size_t pos, const char *message)
{
    if (!r->error) {
        r->error = message;
        r->error_pos = pos;
    }
    return false;
}

void kvi_json_init(kvi_json *r, const char *text, size_t len)
{
    memset(r, 0, sizeof *r);
    r->text = text;
    r->len = len;
}

static void skip_space(kvi_json *r)
{
    while (r->pos < r->len) {
        char c = r->text[r->pos];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return;
        r->pos++;
    }
}

kvi_json_type kvi_json_peek(kvi_json *r)
{
    if (r->error) return KVI_JSON_NONE;
    skip_space(r);
    if (r->pos >= r->len) {
        fail_at(r, r->pos, "text ends where a value is needed");
        return KVI_JSON_NONE;
    }
    switch (r->text[r->pos]) {
    case '{': return KVI_JSON_OBJECT;
    case '[': return KVI_JSON_ARRAY;
    case '"': return KVI_JSON_STRING;
    case 't': return KVI_JSON_TRUE;
    case 'f': return KVI_JSON_FALSE;
    case 'n': return KVI_JSON_NULL;
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': return KVI_JSON_NUMBER;
    case 'N':
    case 'I':
        if (r->python) return KVI_JSON_NUMBER;
        break;
    }
    const bool bom = r->pos == 0 && r->len >= 3 && memcmp(r->text, "\xef\xbb\xbf", 3) == 0;
    fail_at(r, r->pos, bom ? "a byte order mark, need UTF-8 without one," : "unexpected character");
    return KVI_JSON_NONE;
}

bool kvi_json_expect(kvi_json *r, kvi_json_type container)
{
    kvi_json_type type = kvi_json_peek(r);
    if (r->error) return false;
    if (type != container) return fail_at(r, r->pos, container == KVI_JSON_OBJECT ? "need an object" : "need an array");
    if (r->depth == KVI_JSON_DEPTH) return fail_at(r, r->pos, "nested too deeply");
    r->closer[r->depth] = container == KVI_JSON_OBJECT ? '}' : ']';
    r->has_items[r->depth] = 0;
    r->depth++;
    r->pos++;
    return true;
}

/* Steps to the next item of the innermost container; false at its end (consumed) or on error. */
static bool next_in(kvi_json *r, char closer)
{
    if (r->error) return false;
    if (r->depth == 0 || r->closer[r->depth - 1] != (uint8_t)closer)
        return fail_at(r, r->pos, "reader is not in this container");
    skip_space(r);
    if (r->pos >= r->len) return fail_at(r, r->pos, "text ends inside an object or array");
    char c = r->text[r->pos];
    if (c == closer) {
        r->pos++;
        r->depth--;
        return false;
    }
    if (r->has_items[r->depth - 1]) {
        if (c != ',') return fail_at(r, r->pos, "need ',' or the end of the container");
        r->pos++;
        skip_space(r);
        if (r->pos < r->len && r->text[r->pos] == closer) return fail_at(r, r->pos, "trailing comma");
    }
    r->has_items[r->depth - 1] = 1;
    return true;
}

bool kvi_json_next_item(kvi_json *r) { return next_in(r, ']'); }

/* Length of the valid UTF-8 sequence at p, or 0. */
static size_t utf8_len(const char *p, size_t left)
{
    uint32_t cp;
    return kvi_utf8_decode(p, left, &cp);
}

static int hex4(const char *p)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Checks the escape at pos (just after the backslash) and steps over it. */
static bool scan_escape(kvi_json *r)
{
    if (r->pos >= r->len) return fail_at(r, r->pos, "text ends inside a string");
    char c = r->text[r->pos++];
    if (c != 'u') return (c != 0 && strchr("\"\\/bfnrt", c)) ? true : fail_at(r, r->pos - 1, "unknown escape");
    int unit = r->len - r->pos >= 4 ? hex4(r->text + r->pos) : -1;
    if (unit < 0) return fail_at(r, r->pos, "need four hexadecimal digits");
    r->pos += 4;
    if (unit >= 0xdc00 && unit < 0xe000) return fail_at(r, r->pos - 4, "lone low surrogate");
    if (unit >= 0xd800 && unit < 0xdc00) {
        bool pair = r->len - r->pos >= 6 && r->text[r->pos] == '\\' && r->text[r->pos + 1] == 'u';
        int low = pair ? hex4(r->text + r->pos + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff) return fail_at(r, r->pos - 4, "lone high surrogate");
        r->pos += 6;
    }
    return true;
}

static bool scan_string(kvi_json *r)
{
    size_t start = ++r->pos;
    r->str_escaped = false;
    while (r->pos < r->len) {
        unsigned char c = (unsigned char)r->text[r->pos];
        if (c == '"') {
            r->str = r->text + start;
            r->str_len = r->pos - start;
            r->pos++;
            return true;
        }
        if (c < 0x20) return fail_at(r, r->pos, "control character in a string");
        if (c == '\\') {
            r->str_escaped = true;
            r->pos++;
            if (!scan_escape(r)) return false;
        } else if (c < 0x80) {
            r->pos++;
        } else {
            size_t n = utf8_len(r->text + r->pos, r->len - r->pos);
            if (n == 0) return fail_at(r, r->pos, "invalid UTF-8");
            r->pos += n;
        }
    }
    return fail_at(r, r->pos, "text ends inside a string");
}

bool kvi_json_string(kvi_json *r)
{
    r->str = "";
    r->str_len = 0;
    r->str_escaped = false;
    kvi_json_type type = kvi_json_peek(r);
    if (r->error) return false;
    if (type != KVI_JSON_STRING) return fail_at(r, r->pos, "need a string");
    return scan_string(r);
}

bool kvi_json_next_key(kvi_json *r)
{
    if (!next_in(r, '}')) return false;
    skip_space(r);
    if (r->pos >= r->len || r->text[r->pos] != '"') return fail_at(r, r->pos, "need a key in quotes");
    if (!scan_string(r)) return false;
    skip_space(r);
    if (r->pos >= r->len || r->text[r->pos] != ':') return fail_at(r, r->pos, "need ':' after a key");
    r->pos++;
    return true;
}

/* Extent of a number in JSON grammar starting at p; 0 if it is none. */
static size_t number_len(const char *p, size_t left)
{
    size_t i = 0;
#define DIGIT(k) ((k) < left && p[k] >= '0' && p[k] <= '9')
    if (i < left && p[i] == '-') i++;
    if (!DIGIT(i)) return 0;
    if (p[i] == '0') i++;
    else
        while (DIGIT(i)) i++;
    if (i < left && p[i] == '.') {
        if (!DIGIT(i + 1)) return 0;
        for (i++; DIGIT(i); i++) {
        }
    }
    if (i < left && (p[i] == 'e' || p[i] == 'E')) {
        size_t j = i + 1;
        if (j < left && (p[j] == '+' || p[j] == '-')) j++;
        if (!DIGIT(j)) return 0;
        for (i = j; DIGIT(i); i++) {
        }
    }
#undef DIGIT
    return i;
}

/* Value of a number known to be well formed. Up to 19 significant digits in an integer, then one scaling by a power of ten: exact to
 * within an ulp for the exponents that occur in model files, exact when both parts are exactly representable. long double has 64
 * bits of mantissa on x86, which makes up to 17 digits correctly rounded for |exponent| <= 27. */
static double number_value(const char *p, size_t len)
{
    size_t i = 0;
    bool negative = len > 0 && p[0] == '-';
    if (negative) i++;
    uint64_t mantissa = 0;
    int exponent = 0;
    bool fraction = false;
    for (; i < len && p[i] != 'e' && p[i] != 'E'; i++) {
        if (p[i] == '.') {
            fraction = true;
            continue;
        }
        if (mantissa < 1000000000000000000u) {
            mantissa = mantissa * 10 + (uint64_t)(p[i] - '0');
            if (fraction) exponent--;
        } else if (!fraction) {
            exponent++;
        }
    }
    if (i < len) {
        bool minus = p[++i] == '-';
        if (p[i] == '+' || p[i] == '-') i++;
        int e = 0;
        for (; i < len; i++)
            if (e < 100000) e = e * 10 + (p[i] - '0');
        exponent += minus ? -e : e;
    }
    fenv_t host; /* options are parsed outside of any call on an engine */
    kvi_os_arithmetic_enter(&host);
    long double value = (long double)mantissa;
    if (mantissa != 0) {
        if (exponent > 400) value = HUGE_VALL;
        else if (exponent < -400) value = 0;
        else {
            long double power = 1, base = 10;
            for (int e = exponent < 0 ? -exponent : exponent; e; e >>= 1, base *= base)
                if (e & 1) power *= base;
            value = exponent < 0 ? value / power : value * power;
        }
    }
    const double result = (double)(negative ? -value : value);
    kvi_os_arithmetic_leave(&host);
    return result;
}

bool kvi_parse_f64(const char *text, size_t len, double *out)
{
    size_t n = number_len(text, len);
    if (n == 0 || n != len) return false;
    *out = number_value(text, len);
    return isfinite(*out);
}

/* What Python writes for the numbers that JSON cannot say. */
static bool python_number(kvi_json *r, double *out)
{
    static const struct {
        const char *word;
        double value;
    } words[] = {{"NaN", NAN}, {"Infinity", HUGE_VAL}, {"-Infinity", -HUGE_VAL}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i].word);
        if (r->len - r->pos < n || memcmp(r->text + r->pos, words[i].word, n) != 0) continue;
        r->pos += n;
        *out = words[i].value;
        return true;
    }
    return false;
}

double kvi_json_f64(kvi_json *r)
{
    kvi_json_type type = kvi_json_peek(r);
    if (r->error) return 0;
    double special;
    if (r->python && python_number(r, &special)) return special;
    size_t n = type == KVI_JSON_NUMBER ? number_len(r->text + r->pos, r->len - r->pos) : 0;
    if (n == 0) {
        fail_at(r, r->pos, type == KVI_JSON_NUMBER ? "malformed number" : "need a number");
        return 0;
    }
    double value = number_value(r->text + r->pos, n);
    if (!isfinite(value) && !r->python) {
        fail_at(r, r->pos, "number out of range");
        return 0;
    }
    r->pos += n;
    return value;
}

int64_t kvi_json_i64(kvi_json *r)
{
    kvi_json_type type = kvi_json_peek(r);
    if (r->error) return 0;
    size_t start = r->pos;
    size_t n = type == KVI_JSON_NUMBER ? number_len(r->text + start, r->len - start) : 0;
    /* Plain integers exactly; other spellings ("1e3") through the double, which must be integral. */
    bool plain = n > 0;
    bool negative = plain && r->text[start] == '-';
    uint64_t magnitude = 0;
    for (size_t i = negative ? 1 : 0; i < n && plain; i++) {
        unsigned digit = (unsigned)(r->text[start + i] - '0');
        plain = digit <= 9;
        if (!plain) break;
        if (__builtin_mul_overflow(magnitude, 10u, &magnitude) ||
            __builtin_add_overflow(magnitude, digit, &magnitude) || magnitude > (uint64_t)INT64_MAX) {
            fail_at(r, start, "integer out of range");
            return 0;
        }
    }
    if (plain) {
        r->pos += n;
        return negative ? -(int64_t)magnitude : (int64_t)magnitude;
    }
    double value = kvi_json_f64(r);
    if (r->error) return 0;
    if (!(value == floor(value) && value >= -9007199254740992.0 && value <= 9007199254740992.0)) {
        fail_at(r, start, "need an integer");
        return 0;
    }
    return (int64_t)value;
}

static bool literal(kvi_json *r, const char *word)
{
    size_t n = strlen(word);
    if (r->len - r->pos < n || memcmp(r->text + r->pos, word, n) != 0) return fail_at(r, r->pos, "unknown word");
    r->pos += n;
    return true;
}

bool kvi_json_bool(kvi_json *r)
{
    kvi_json_type type = kvi_json_peek(r);
    if (type == KVI_JSON_TRUE) return literal(r, "true");
    if (type == KVI_JSON_FALSE) literal(r, "false");
    else if (!r->error) fail_at(r, r->pos, "need true or false");
    return false;
}

bool kvi_json_null(kvi_json *r) { return kvi_json_peek(r) == KVI_JSON_NULL && literal(r, "null"); }

/* Iterative: depth is bounded by the reader's own stack. */
void kvi_json_skip(kvi_json *r)
{
    uint32_t floor_depth = r->depth;
    do {
        if (r->depth > floor_depth) {
            bool more = r->closer[r->depth - 1] == '}' ? kvi_json_next_key(r) : kvi_json_next_item(r);
            if (!more) continue;
        }
        switch (kvi_json_peek(r)) {
        case KVI_JSON_OBJECT: kvi_json_expect(r, KVI_JSON_OBJECT); break;
        case KVI_JSON_ARRAY: kvi_json_expect(r, KVI_JSON_ARRAY); break;
        case KVI_JSON_STRING: scan_string(r); break;
        case KVI_JSON_NUMBER: (void)kvi_json_f64(r); break;
        case KVI_JSON_TRUE: literal(r, "true"); break;
        case KVI_JSON_FALSE: literal(r, "false"); break;
        case KVI_JSON_NULL: literal(r, "null"); break;
        case KVI_JSON_NONE: break;
        }
    } while (!r->error && r->depth > floor_depth);
}

bool kvi_json_end(kvi_json *r)
{
    if (r->error) return false;
    skip_space(r);
    return r->pos == r->len ? true : fail_at(r, r->pos, "text after the end of the document");
}

size_t kvi_json_str_unescape(const kvi_json *r, char *dst)
{
    if (!r->str_escaped) {
        if (r->str_len) memcpy(dst, r->str, r->str_len);
        return r->str_len;
    }
    size_t n = 0;
    for (size_t i = 0; i < r->str_len; i++) {
        char c = r->str[i];
        if (c != '\\') {
            dst[n++] = c;
            continue;
        }
        c = r->str[++i];
        if (c == 'u') {
            uint32_t cp = (uint32_t)hex4(r->str + i + 1);
            i += 4;
            if (cp >= 0xd800 && cp < 0xdc00) {
                cp = 0x10000 + ((cp - 0xd800) << 10) + ((uint32_t)hex4(r->str + i + 3) - 0xdc00);
                i += 6;
            }
            n += kvi_utf8_encode(dst + n, cp);
        } else {
            dst[n++] = c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
        }
    }
    return n;
}

bool kvi_json_str_is(const kvi_json *r, const char *text)
{
    size_t len = strlen(text);
    if (!r->str_escaped) return r->str_len == len && memcmp(r->str, text, len) == 0;
    /* A key with escapes is rare and its unescaped form never longer than this. */
    char small[256];
    if (r->str_len > sizeof small) return false;
    return kvi_json_str_unescape(r, small) == len && memcmp(small, text, len) == 0;
}

void kvi_json_str_copy(const kvi_json *r, kvi_buf *out)
{
    size_t start = out->len;
    kvi_buf_append(out, r->str, r->str_len);
    if (out->failed || !r->str_escaped) return;
    out->len = start + kvi_json_str_unescape(r, out->data + start);
    out->data[out->len] = 0;
}

void kvi_json_set_error(kvi_json *r, const char *message) { fail_at(r, r->pos, message); }

kvrt_status kvi_json_fail(const kvi_json *r, const char *object, kvrt_error *error)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < r->error_pos && i < r->len; i++) {
        column++;
        if (r->text[i] == '\n') line++, column = 1;
    }
    return kvi_error_set(error, KVRT_FORMAT, "%s: %s at byte %llu (line %llu, column %llu)", object,
                         r->error ? r->error : "malformed", (unsigned long long)r->error_pos, (unsigned long long)line,
                         (unsigned long long)column);
}

void kvi_json_write_string(kvi_buf *out, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    kvi_buf_append_byte(out, '"');
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)text[i];
        size_t n = c < 0x80 ? 1 : utf8_len(text + i, len - i);
        if (n == 0) {
            kvi_buf_append(out, "\xef\xbf\xbd", 3);
            i++;
            continue;
        }
        if (c == '"' || c == '\\') {
            char pair[2] = {'\\', (char)c};
            kvi_buf_append(out, pair, 2);
        } else if (c < 0x20 || c == 0x7f) {
            char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            if (c == '\n') kvi_buf_append(out, "\\n", 2);
            else if (c == '\t') kvi_buf_append(out, "\\t", 2);
            else if (c == '\r') kvi_buf_append(out, "\\r", 2);
            else kvi_buf_append(out, esc, 6);
        } else {
            kvi_buf_append(out, text + i, n);
        }
        i += n;
    }
    kvi_buf_append_byte(out, '"');
}
