/* pretokenize_dialect.c - Oniguruma's Ruby dialect, which tokenizer.json is written in, to PCRE2's.
 * Owns: every construct whose meaning differs between the two. Refuses what it cannot carry over, instead of letting
 * PCRE2 read it as something else. To know: one pass, output positions of open groups and of the last atom are kept,
 * because {n,m}+ is "repeat the repeat" in Ruby and possessive in PCRE2, so that the atom has to be wrapped after the
 * fact. */
#include "pretokenize_regex.h"
#include "../base/utf8.h"

#include <string.h>

#define MAX_DEPTH 200
/* White_Space; PCRE2's own \s also takes U+180E. */
#define SPACE_SET                                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE_SET                                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Alphabetic, M, Nd, Pc; PCRE2 10.42's own \w lacks marks and connectors. Outside classes Oniguruma also takes
 * superscript digits and fractions of Latin-1 for word characters, inside it does not. */
#define WORD_SET                                                                                                       \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}\\p{L}\\p{M}\\p{Nl}\\p{Nd}"     \
    "\\p{Pc}"
#define WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" WORD_SET

typedef struct dialect {
    const char *p, *end;
    kvi_buf *out;
    const char *why;
    size_t groups[MAX_DEPTH];    /* output position of each open '(' */
    size_t depth, atom;          /* output position of the last atom */
    bool has_atom, has_not_word; /* has_not_word: \W was in the class being read */
} dialect;

static bool refuse(dialect *d, const char *why)
{
    if (!d->why) d->why = why;
    return false;
}

static bool at(const dialect *d, size_t offset, char c)
{
    return (size_t)(d->end - d->p) > offset && d->p[offset] == c;
}
static bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool is_alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static void begin_atom(dialect *d)
{
    d->atom = d->out->len;
    d->has_atom = true;
}

/* Copies one code point, escaped when PCRE2 could read it as syntax. */
static void copy_char(dialect *d)
{
    uint32_t cp;
    size_t n = kvi_utf8_decode(d->p, (size_t)(d->end - d->p), &cp);
    if (n == 0) n = 1;
    kvi_buf_append(d->out, d->p, n);
    d->p += n;
}

/* After "\u": four digits. */
static bool copy_u(dialect *d)
{
    for (size_t i = 0; i < 4; i++)
        if ((size_t)(d->end - d->p) <= i || !is_hex(d->p[i])) return refuse(d, "\\u needs four hexadecimal digits");
    kvi_buf_append_str(d->out, "\\x{");
    kvi_buf_append(d->out, d->p, 4);
    kvi_buf_append_str(d->out, "}");
    d->p += 4;
    return true;
}

/* After "\x": two digits, or any number of them in braces. */
static bool copy_x(dialect *d)
{
    size_t n = 0, left = (size_t)(d->end - d->p), start = at(d, 0, '{') ? 1 : 0;
    while (start + n < left && is_hex(d->p[start + n]) && (start || n < 2)) n++;
    if (n == 0 || n > 8 || (start ? !at(d, start + n, '}') : n != 2))
        return refuse(d, "\\x needs two hexadecimal digits or braces");
    kvi_buf_append_str(d->out, "\\x{");
    kvi_buf_append(d->out, d->p + start, n);
    kvi_buf_append_str(d->out, "}");
    d->p += start + n + start;
    return true;
}

/* After "\p" or "\P": the property in braces, as it stands. */
static bool copy_property(dialect *d, char letter)
{
    char head[3] = {'\\', letter, 0};
    kvi_buf_append_str(d->out, head);
    if (!at(d, 0, '{')) return refuse(d, "a property needs braces");
    while (d->p < d->end && *d->p != '}') kvi_buf_append_byte(d->out, *d->p++);
    if (d->p == d->end) return refuse(d, "unterminated property");
    kvi_buf_append_byte(d->out, *d->p++);
    return true;
}

/* Escapes that mean the same inside and outside classes. False without `why` when c is not one of them. */
static bool shared_escape(dialect *d, char c)
{
    char pair[3] = {'\\', c, 0};
    switch (c) {
    case 'd': kvi_buf_append_str(d->out, "\\p{Nd}"); return true;
    case 'D': kvi_buf_append_str(d->out, "\\P{Nd}"); return true;
    case 'v': kvi_buf_append_str(d->out, "\\x{b}"); return true;
    case 'u': return copy_u(d);
    case 'p':
    case 'P': return copy_property(d, c);
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'e':
    case 'a': kvi_buf_append_str(d->out, pair); return true;
    case 'x': return copy_x(d);
    default: break;
    }
    if (is_alnum(c)) return false;
    if ((unsigned char)c < 0x80) {
        kvi_buf_append_str(d->out, "\\");
        kvi_buf_append_byte(d->out, c);
    } else {
        d->p--; /* a letter of some script: the backslash means nothing */
        copy_char(d);
    }
    return true;
}

/* ----------------------------------------------------------------------------------------------------- classes --- */
/* True and *set when the item at p is an escape that stands for a set of characters. */
static bool class_set_escape(const dialect *d, const char **set)
{
    if (!at(d, 0, '\\') || d->end - d->p < 2) return false;
    switch (d->p[1]) {
    case 's': *set = SPACE_SET; return true;
    case 'S': *set = NOT_SPACE_SET; return true;
    case 'w': *set = WORD_SET; return true;
    case 'h': *set = "0-9a-fA-F"; return true;
    case 'd':
    case 'D':
    case 'p':
    case 'P': *set = NULL; return true;
    default: return false;
    }
}

static bool class_escape(dialect *d)
{
    char c = d->p[1];
    d->p += 2;
    if (c == 'b') {
        kvi_buf_append_str(d->out, "\\x{8}");
        return true;
    }
    if (c >= '0' && c <= '9') return refuse(d, "octal escape in a class");
    return shared_escape(d, c) || refuse(d, "escape that has no PCRE2 counterpart in a class");
}

static bool class_posix(dialect *d)
{
    kvi_buf_append_str(d->out, "[:");
    d->p += 2;
    while (d->p < d->end && (*d->p == '^' || is_alnum(*d->p))) kvi_buf_append_byte(d->out, *d->p++);
    if (!at(d, 0, ':') || !at(d, 1, ']')) return refuse(d, "malformed POSIX class");
    kvi_buf_append_str(d->out, ":]");
    d->p += 2;
    return true;
}

static bool class_item(dialect *d, bool *was_set, unsigned depth);

/* A class within a class is a union, so its brackets can go; a negated one cannot be written in place. */
static bool class_nested(dialect *d, bool *was_set, unsigned depth)
{
    d->p++;
    if (at(d, 0, '^')) return refuse(d, "nested negated character class");
    if (at(d, 0, ']') || depth == 4) return refuse(d, "nested character class of this form");
    while (d->p < d->end && *d->p != ']')
        if (!class_item(d, was_set, depth + 1)) return false;
    if (d->p == d->end) return refuse(d, "unterminated character class");
    d->p++;
    *was_set = true; /* a hyphen after it is a literal */
    return true;
}

/* One item of a class. *was_set: the item before it is a set, after which a hyphen is a literal in Ruby and an error in
 * PCRE2. */
static bool class_item(dialect *d, bool *was_set, unsigned depth)
{
    const char *set;
    if (class_set_escape(d, &set)) {
        *was_set = true;
        if (!set) return class_escape(d);
        kvi_buf_append_str(d->out, set);
        d->p += 2;
        return true;
    }
    if (at(d, 0, '\\') && at(d, 1, 'W') && depth == 0) {
        d->has_not_word = *was_set = true;
        d->p += 2;
        return true;
    }
    bool after_set = *was_set;
    *was_set = false;
    if (at(d, 0, '\\')) return d->end - d->p >= 2 ? class_escape(d) : refuse(d, "pattern ends after a backslash");
    if (at(d, 0, '[')) {
        if (!at(d, 1, ':')) return class_nested(d, was_set, depth);
        *was_set = true;
        return class_posix(d);
    }
    if (at(d, 0, '&') && at(d, 1, '&')) return refuse(d, "character class intersection (&&)");
    if (at(d, 0, '-')) {
        d->p++;
        bool before_set = class_set_escape(d, &set) || (at(d, 0, '[') && at(d, 1, ':'));
        kvi_buf_append_str(d->out, after_set || before_set || at(d, 0, '[') ? "\\-" : "-");
        return true;
    }
    copy_char(d);
    return true;
}

/* \W cannot be spelled inside a class: [\W..] becomes an alternative, [^\W..] a condition. `body`: output position of
 * what is between the brackets. */
static void spell_not_word(dialect *d, size_t body, bool negated)
{
    kvi_buf rest = {0};
    kvi_buf_append(&rest, d->out->data + body, d->out->len - body);
    d->out->len = d->atom;
    if (rest.failed) d->out->failed = true;
    if (rest.len == 0) {
        kvi_buf_append_str(d->out, negated ? "[" WORD_SET "]" : "[^" WORD_SET "]");
    } else {
        kvi_buf_append_str(d->out, negated ? "(?:(?=[" WORD_SET "])[^" : "(?:[^" WORD_SET "]|[");
        kvi_buf_append(d->out, rest.data, rest.len);
        kvi_buf_append_str(d->out, "])");
    }
    kvi_buf_free(&rest);
}

static bool translate_class(dialect *d)
{
    begin_atom(d);
    kvi_buf_append_byte(d->out, *d->p++);
    bool negated = at(d, 0, '^');
    if (negated) kvi_buf_append_byte(d->out, *d->p++);
    size_t body = d->out->len;
    if (at(d, 0, ']')) {
        kvi_buf_append_str(d->out, "\\]");
        d->p++;
    }
    bool was_set = false;
    d->has_not_word = false;
    while (d->p < d->end && *d->p != ']')
        if (!class_item(d, &was_set, 0)) return false;
    if (d->p == d->end) return refuse(d, "unterminated character class");
    d->p++;
    if (d->out->failed) return true;
    if (d->has_not_word) spell_not_word(d, body, negated);
    else kvi_buf_append_byte(d->out, ']');
    return true;
}

/* ------------------------------------------------------------------------------------------------ outside them --- */
static bool translate_escape(dialect *d)
{
    if (d->end - d->p < 2) return refuse(d, "pattern ends after a backslash");
    char c = d->p[1];
    d->p += 2;
    begin_atom(d);
    switch (c) {
    case 's': kvi_buf_append_str(d->out, "[" SPACE_SET "]"); return true;
    case 'S': kvi_buf_append_str(d->out, "[^" SPACE_SET "]"); return true;
    case 'w': kvi_buf_append_str(d->out, "[" WORD "]"); return true;
    case 'W': kvi_buf_append_str(d->out, "[^" WORD "]"); return true;
    case 'h': kvi_buf_append_str(d->out, "[0-9a-fA-F]"); return true;
    case 'H': kvi_buf_append_str(d->out, "[^0-9a-fA-F]"); return true;
    case 'b':
        kvi_buf_append_str(d->out, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
        return true;
    case 'B':
        kvi_buf_append_str(d->out, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
        return true;
    case 'A':
    case 'z':
    case 'Z':
    case 'G':
    case 'R':
    case 'X':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        kvi_buf_append_byte(d->out, '\\');
        kvi_buf_append_byte(d->out, c);
        return true;
    default: return shared_escape(d, c) || refuse(d, "escape that has no PCRE2 counterpart");
    }
}

/* "(?imx-imx:" or "(?imx-imx)": Ruby's m is PCRE2's s. */
static bool translate_options(dialect *d, bool at_front)
{
    while (d->p < d->end && *d->p != ':' && *d->p != ')') {
        char c = *d->p++;
        if (c != 'i' && c != 'm' && c != '-') return refuse(d, "group option other than i and m");
        kvi_buf_append_byte(d->out, c == 'm' ? 's' : c);
    }
    if (d->p == d->end) return refuse(d, "unterminated group");
    /* In mid-branch, Ruby lets the option reach over the following alternatives, PCRE2 does it differently. */
    if (*d->p == ')' && !at_front) return refuse(d, "group option in the middle of a branch");
    return true;
}

static bool translate_group(dialect *d)
{
    if (d->depth == MAX_DEPTH) return refuse(d, "groups nested too deeply");
    if (at(d, 1, '*')) return refuse(d, "group that begins with (*");
    bool at_front = d->out->len == 0;
    d->groups[d->depth++] = d->out->len;
    d->has_atom = false;
    kvi_buf_append_byte(d->out, *d->p++);
    if (!at(d, 0, '?')) return true;
    kvi_buf_append_byte(d->out, *d->p++);
    if (d->p == d->end) return refuse(d, "unterminated group");
    char c = *d->p;
    if (c == ':' || c == '=' || c == '!' || c == '>') {
        kvi_buf_append_byte(d->out, *d->p++);
        return true;
    }
    if (c == '<') {
        while (d->p < d->end && *d->p != '>' && *d->p != '=' && *d->p != '!') kvi_buf_append_byte(d->out, *d->p++);
        if (d->p == d->end) return refuse(d, "unterminated group name");
        kvi_buf_append_byte(d->out, *d->p++);
        return true;
    }
    if (c == 'i' || c == 'm' || c == 'x' || c == '-') {
        if (!translate_options(d, at_front)) return false;
        if (*d->p == ':') kvi_buf_append_byte(d->out, *d->p++);
        return true;
    }
    return refuse(d, "group of an unknown kind");
}

/* Length of a {n}, {n,}, {n,m} or {,m} at p; 0 when the brace is a literal. *fixed: {n}. */
static size_t interval_len(const dialect *d, bool *fixed)
{
    size_t i = 1, left = (size_t)(d->end - d->p), n_low = 0, n_high = 0;
    while (i < left && d->p[i] >= '0' && d->p[i] <= '9') i++, n_low++;
    *fixed = i < left && d->p[i] == '}';
    if (*fixed) return n_low ? i + 1 : 0;
    if (i >= left || d->p[i] != ',') return 0;
    for (i++; i < left && d->p[i] >= '0' && d->p[i] <= '9'; i++) n_high++;
    return i < left && d->p[i] == '}' && n_low + n_high > 0 ? i + 1 : 0;
}

static bool wrap_atom(dialect *d)
{
    size_t tail = d->out->len - d->atom;
    kvi_buf_append_str(d->out, "(?:)");
    if (d->out->failed) return true;
    char *atom = d->out->data + d->atom;
    memmove(atom + 3, atom, tail);
    memcpy(atom, "(?:", 3);
    atom[3 + tail] = ')';
    return true;
}

static bool translate_interval(dialect *d)
{
    bool fixed;
    size_t len = interval_len(d, &fixed);
    if (len == 0) {
        begin_atom(d);
        kvi_buf_append_str(d->out, "\\{");
        d->p++;
        return true;
    }
    if (!d->has_atom) return refuse(d, "repeat without something to repeat");
    kvi_buf_append_str(d->out, d->p[1] == ',' ? "{0" : "{");
    kvi_buf_append(d->out, d->p + 1, len - 1);
    d->p += len;
    if (at(d, 0, '+') || (fixed && at(d, 0, '?'))) return wrap_atom(d);
    return true;
}

bool kvi_regex_translate(const char *pattern, size_t len, kvi_buf *out, const char **why)
{
    dialect d = {.p = pattern, .end = pattern + len, .out = out};
    bool ok = true;
    while (ok && d.p < d.end) {
        char c = *d.p;
        if (c == '\\') ok = translate_escape(&d);
        else if (c == '[') ok = translate_class(&d);
        else if (c == '(') ok = translate_group(&d);
        else if (c == '{') ok = translate_interval(&d);
        else if (c == ')') {
            if (d.depth == 0) ok = refuse(&d, "unmatched closing parenthesis");
            else d.atom = d.groups[--d.depth];
            d.has_atom = true;
            kvi_buf_append_byte(out, c);
            d.p++;
        } else {
            bool is_atom = c != '*' && c != '+' && c != '?' && c != '|';
            if (is_atom) begin_atom(&d);
            if (c == '|') d.has_atom = false;
            copy_char(&d);
        }
    }
    if (ok && d.depth > 0) ok = refuse(&d, "unterminated group");
    *why = d.why;
    return ok;
}
