/* pattern.c - see pattern.h. A recursive descent whose depth is bounded; every piece becomes an expression at once. */
#include "pattern.h"
#include "../base/utf8.h"
#include "../tokenizer/regex_set.h"

#include <string.h>

#define PATTERN_DEPTH 60u
#define REPEAT_MOST 100000u
#define AHEAD_MOST 16u

typedef struct parser {
    kvi_exprs *pool;
    const char *begin, *p, *end;
    const char *why;
    size_t why_at;
    kvi_pattern_text text;
    unsigned depth, n_ahead;
    bool fold, dot_all;
    kvi_expr around; /* what may stand before and behind a match */
} parser;

static kvi_expr refuse(parser *s, const char *why)
{
    if (!s->why && !s->pool->why) s->why = why, s->why_at = (size_t)(s->p - s->begin);
    return KVI_EXPR_NONE;
}
static bool failed(const parser *s) { return s->why || s->pool->why; }
static bool at(const parser *s, size_t offset, char c) { return (size_t)(s->end - s->p) > offset && s->p[offset] == c; }
static bool starts(const parser *s, const char *text)
{
    const size_t n = strlen(text);
    return (size_t)(s->end - s->p) >= n && memcmp(s->p, text, n) == 0;
}

/* ------------------------------------------------------------------------------------------------------ characters --- */
/* What JSON makes of the code points that must be escaped. */
static kvi_expr json_escape(kvi_exprs *pool, uint32_t cp)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char *simple = cp ? strchr(from, (int)cp) : NULL;
    if (simple) return kvi_expr_text(pool, (char[]){'\\', to[simple - from]}, 2);
    return kvi_expr_text(pool, (char[]){'\\', 'u', '0', '0', hex[cp >> 4], hex[cp & 15]}, 6);
}

static bool is_escaped(uint32_t cp) { return cp < 0x20 || cp == '"' || cp == '\\'; }

kvi_expr kvi_pattern_characters(kvi_exprs *pool, uint32_t first, uint32_t last, kvi_pattern_text text)
{
    if (text == KVI_PATTERN_PLAIN) return kvi_expr_code_points(pool, first, last);
    kvi_expr_union e = {{0}};
    uint32_t from = first;
    for (uint32_t cp = first; cp <= last && cp <= '\\'; cp++) {
        if (!is_escaped(cp)) continue;
        if (cp > from) kvi_expr_union_add(pool, &e, kvi_expr_code_points(pool, from, cp - 1));
        kvi_expr_union_add(pool, &e, json_escape(pool, cp));
        from = cp + 1;
    }
    if (from <= last) kvi_expr_union_add(pool, &e, kvi_expr_code_points(pool, from, last));
    return kvi_expr_union_all(pool, &e);
}

kvi_expr kvi_pattern_anything(kvi_exprs *pool, kvi_pattern_text text)
{
    return kvi_expr_repeat(pool, kvi_pattern_characters(pool, 0, KVI_CP_MAX, text), 0, KVI_EXPR_MANY);
}

kvi_expr kvi_pattern_literal(kvi_exprs *pool, const char *bytes, size_t len, kvi_pattern_text text)
{
    kvi_expr e = KVI_EXPR_VOID;
    for (size_t i = len; i-- > 0;) {
        const uint8_t b = (uint8_t)bytes[i];
        const bool escaped = text == KVI_PATTERN_JSON && is_escaped(b);
        e = kvi_expr_then(pool, escaped ? json_escape(pool, b) : kvi_expr_bytes(pool, b, b), e);
    }
    return e;
}

static kvi_expr set_to_expr(parser *s, kvi_set *set)
{
    if (s->fold) kvi_set_close_case(set);
    kvi_set_tidy(set);
    kvi_expr_union e = {{0}};
    if (set->failed) (void)kvi_expr_fail(s->pool, "");
    for (size_t i = 0; i < set->n && !s->pool->why; i++)
        kvi_expr_union_add(s->pool, &e,
                           kvi_pattern_characters(s->pool, set->items[i].first, set->items[i].last, s->text));
    kvi_set_free(set);
    return kvi_expr_union_all(s->pool, &e);
}

static bool read_hex(parser *s, size_t n, uint32_t *cp)
{
    *cp = 0;
    for (size_t i = 0; i < n; i++, s->p++) {
        const char c = s->p < s->end ? *s->p : 0;
        const char *digits = "0123456789abcdefABCDEF", *d = c ? strchr(digits, c) : NULL;
        if (!d) return refuse(s, "an escape lacks hexadecimal digits"), false;
        *cp = *cp << 4 | (uint32_t)(d - digits >= 16 ? d - digits - 6 : d - digits);
    }
    return true;
}

/* \u{...}, \uXXXX, and two of the latter that are a surrogate pair. */
static bool read_u(parser *s, uint32_t *cp)
{
    if (at(s, 0, '{')) {
        const char *close = memchr(s->p, '}', (size_t)(s->end - s->p));
        const size_t n = close ? (size_t)(close - s->p) - 1 : 0;
        s->p++;
        if (n < 1 || n > 6 || !read_hex(s, n, cp)) return refuse(s, "\\u{} without one code point"), false;
        s->p++;
    } else if (!read_hex(s, 4, cp)) return false;
    if (*cp >= 0xd800 && *cp < 0xdc00 && starts(s, "\\u")) {
        uint32_t low;
        s->p += 2;
        if (!read_hex(s, 4, &low)) return false;
        if (low >= 0xdc00 && low < 0xe000) *cp = 0x10000 + ((*cp - 0xd800) << 10) + (low - 0xdc00);
    }
    if (*cp > KVI_CP_MAX || (*cp >= 0xd800 && *cp < 0xe000)) return refuse(s, "an escape is no code point"), false;
    return true;
}

/* Behind a backslash: a character class into `set`, else one code point. */
static bool read_escape(parser *s, kvi_set *set, bool *is_set, uint32_t *cp)
{
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    if (s->p >= s->end) return refuse(s, "it ends in a backslash"), false;
    const char c = *s->p, small = (char)(c | 32);
    const char *simple = strchr(from, c);
    *is_set = true;
    if (small == 'd') kvi_set_add(set, '0', '9');
    else if (small == 'w') {
        kvi_set_add(set, '0', '9'), kvi_set_add(set, 'A', 'Z'), kvi_set_add(set, '_', '_'), kvi_set_add(set, 'a', 'z');
    } else if (small == 's') {
        kvi_set_add_space(set);
        kvi_set_add(set, 0xfeff, 0xfeff);
    } else if (small == 'p') {
        const char *close = at(s, 1, '{') ? memchr(s->p, '}', (size_t)(s->end - s->p)) : NULL;
        if (!close) return refuse(s, "\\p without {name}"), false;
        const char *name = s->p + 2, *equals = memchr(name, '=', (size_t)(close - name));
        if (equals) name = equals + 1;
        if (!kvi_set_add_property(set, name, (size_t)(close - name))) return refuse(s, "an unknown property"), false;
        s->p = close;
    } else *is_set = false;
    if (*is_set) {
        if (c != small) kvi_set_complement(set);
        s->p++;
        return true;
    }
    s->p++;
    if (simple && c) *cp = (uint8_t)to[simple - from];
    else if (c == 'x') return read_hex(s, 2, cp);
    else if (c == 'u') return read_u(s, cp);
    else if (c == 'c' && s->p < s->end) *cp = (uint32_t)*s->p++ & 31;
    else if (c >= '1' && c <= '9') return refuse(s, "backreferences are not supported"), false;
    else if (c == 'b' || c == 'B') return refuse(s, "word boundaries are not supported"), false;
    else if ((small >= 'a' && small <= 'z') || c == 0) return refuse(s, "an unknown escape"), false;
    else s->p += kvi_utf8_decode(s->p - 1, (size_t)(s->end - s->p) + 1, cp) - 1;
    return true;
}

/* One member of [...]: a class, or a code point. */
static bool read_member(parser *s, kvi_set *set, bool *is_set, uint32_t *cp)
{
    *is_set = false;
    if (!at(s, 0, '\\')) {
        s->p += kvi_utf8_decode(s->p, (size_t)(s->end - s->p), cp);
        return true;
    }
    s->p++;
    if (at(s, 0, 'b')) return s->p++, *cp = 8, true;
    return read_escape(s, set, is_set, cp);
}

static kvi_expr parse_brackets(parser *s)
{
    kvi_set set = {0};
    const bool negated = at(s, 1, '^');
    s->p += negated ? 2 : 1;
    while (!failed(s) && s->p < s->end && *s->p != ']') {
        kvi_set part = {0}, other = {0};
        uint32_t first = 0, last = 0;
        bool is_set, other_is_set = false;
        bool ok = read_member(s, &part, &is_set, &first);
        last = first;
        if (ok && at(s, 0, '-') && s->end - s->p > 1 && s->p[1] != ']') {
            s->p++;
            ok = read_member(s, &other, &other_is_set, &last);
            if (ok && (is_set || other_is_set)) { /* [\w-.]: the hyphen is one of them */
                kvi_set_add(&set, '-', '-');
                if (!other_is_set) kvi_set_add(&set, last, last);
                last = first;
            } else if (ok && last < first) (void)refuse(s, "a range of characters is upside down");
        }
        if (ok && !is_set) kvi_set_add(&set, first, last);
        kvi_set_add_set(&set, &part);
        kvi_set_add_set(&set, &other);
        kvi_set_free(&part);
        kvi_set_free(&other);
    }
    if (s->p >= s->end) (void)refuse(s, "[ without ]");
    else s->p++;
    if (s->fold) kvi_set_close_case(&set); /* before the complement: [^a] takes no A either */
    kvi_set_tidy(&set);
    if (negated) kvi_set_complement(&set);
    const bool fold = s->fold;
    s->fold = false;
    const kvi_expr e = set_to_expr(s, &set);
    s->fold = fold;
    return e;
}

static kvi_expr parse_character(parser *s)
{
    kvi_set set = {0};
    uint32_t cp = 0;
    bool is_set = false;
    if (*s->p == '.') {
        s->p++;
        kvi_set_add(&set, '\n', '\n');
        if (!s->dot_all) kvi_set_add(&set, '\r', '\r'), kvi_set_add(&set, 0x2028, 0x2029);
        if (s->dot_all) kvi_set_free(&set), set = (kvi_set){0};
        kvi_set_tidy(&set);
        kvi_set_complement(&set);
        return set_to_expr(s, &set);
    }
    if (*s->p == '\\') {
        s->p++;
        if (!read_escape(s, &set, &is_set, &cp)) return kvi_set_free(&set), KVI_EXPR_NONE;
    } else s->p += kvi_utf8_decode(s->p, (size_t)(s->end - s->p), &cp);
    if (!is_set) kvi_set_add(&set, cp, cp);
    return set_to_expr(s, &set);
}

/* ------------------------------------------------------------------------------------------------------- structure --- */
static kvi_expr parse_choice(parser *s);

static kvi_expr parse_group(parser *s)
{
    if (starts(s, "(?:")) s->p += 3;
    else if (starts(s, "(?<=") || starts(s, "(?<!")) return refuse(s, "lookbehind is not supported");
    else if (starts(s, "(?=") || starts(s, "(?!"))
        return refuse(s, "lookahead is supported in front of the rest of the pattern only");
    else if (starts(s, "(?<") || starts(s, "(?P<")) {
        const char *close = memchr(s->p, '>', (size_t)(s->end - s->p));
        if (!close) return refuse(s, "a group's name without >");
        s->p = close + 1;
    } else if (starts(s, "(?")) return refuse(s, "an unknown kind of group");
    else s->p++;
    if (++s->depth > PATTERN_DEPTH) return refuse(s, "it nests too deeply");
    const kvi_expr e = parse_choice(s);
    s->depth--;
    if (!at(s, 0, ')')) return refuse(s, "( without )");
    s->p++;
    return e;
}

static bool read_number(parser *s, uint32_t *n)
{
    const char *from = s->p;
    for (*n = 0; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        if (*n <= REPEAT_MOST) *n = *n * 10 + (uint32_t)(*s->p - '0');
    return s->p > from;
}

/* {n}, {n,}, {n,m}; anything else is no repetition but braces, as browsers have it. */
static bool read_braces(parser *s, uint32_t *min, uint32_t *max)
{
    const char *from = s->p++;
    bool ok = read_number(s, min);
    *max = *min;
    if (ok && at(s, 0, ',')) {
        s->p++;
        *max = KVI_EXPR_MANY;
        if (!at(s, 0, '}')) ok = read_number(s, max);
    }
    ok = ok && at(s, 0, '}');
    if (ok) s->p++;
    else s->p = from;
    return ok;
}

static kvi_expr parse_repeated(parser *s)
{
    const char c = *s->p;
    kvi_expr e;
    if (c == '(') e = parse_group(s);
    else if (c == '[') e = parse_brackets(s);
    else if (c == '^' || c == '$') s->p++, e = kvi_expr_anchor(s->pool, c == '$');
    else if (c == '*' || c == '+' || c == '?') return refuse(s, "nothing to repeat");
    else e = parse_character(s);
    while (s->p < s->end && !failed(s)) {
        uint32_t min = 0, max = KVI_EXPR_MANY;
        if (*s->p == '{') {
            if (!read_braces(s, &min, &max)) break;
            if (min > max) return refuse(s, "a repetition is upside down");
            if (min > REPEAT_MOST || (max > REPEAT_MOST && max != KVI_EXPR_MANY))
                return refuse(s, "a repetition of more than 100000");
        } else if (*s->p == '*' || *s->p == '+' || *s->p == '?') {
            min = *s->p == '+';
            if (*s->p++ == '?') max = 1;
        } else break;
        e = kvi_expr_repeat(s->pool, e, min, max);
        if (at(s, 0, '?')) s->p++; /* lazy: the same texts */
        else if (at(s, 0, '+')) return refuse(s, "possessive repetition is not supported");
    }
    return e;
}

static kvi_expr parse_sequence(parser *s);

/* (?=...) and (?!...) with the rest of the sequence behind: both must hold of what follows. */
static kvi_expr parse_lookahead(parser *s)
{
    const bool negative = s->p[2] == '!';
    s->p += 3;
    if (++s->n_ahead > AHEAD_MOST) return refuse(s, "too many lookaheads");
    s->depth++;
    kvi_expr ahead = parse_choice(s);
    s->depth--;
    if (!at(s, 0, ')')) return refuse(s, "( without )");
    s->p++;
    const kvi_expr rest = parse_sequence(s); /* which ends where the pattern does: see below */
    const kvi_expr here = kvi_expr_anchor(s->pool, false);
    ahead = kvi_expr_search(s->pool, kvi_expr_then(s->pool, here, ahead), kvi_pattern_anything(s->pool, s->text));
    if (negative) ahead = kvi_expr_not(s->pool, ahead);
    const kvi_expr whole = kvi_expr_search(s->pool, kvi_expr_then(s->pool, here, rest), s->around);
    return kvi_expr_and2(s->pool, ahead, whole);
}

static kvi_expr parse_sequence(parser *s)
{
    const size_t base = s->pool->n_scratch;
    bool ahead = false;
    while (!failed(s) && !ahead && s->p < s->end && *s->p != '|' && *s->p != ')') {
        ahead = s->depth == 0 && (starts(s, "(?=") || starts(s, "(?!"));
        const kvi_expr e = ahead ? parse_lookahead(s) : parse_repeated(s);
        void *scratch = s->pool->scratch;
        if (!kvi_mem_grow(&scratch, &s->pool->cap_scratch, s->pool->n_scratch + 1, sizeof e))
            return kvi_expr_fail(s->pool, "");
        s->pool->scratch = scratch;
        s->pool->scratch[s->pool->n_scratch++] = e;
    }
    /* What a lookahead sees reaches to the end of the text: nothing may be put behind. */
    kvi_expr e = ahead ? kvi_expr_anchor(s->pool, true) : KVI_EXPR_VOID;
    while (s->pool->n_scratch > base) e = kvi_expr_then(s->pool, s->pool->scratch[--s->pool->n_scratch], e);
    return failed(s) ? KVI_EXPR_NONE : e;
}

static kvi_expr parse_choice(parser *s)
{
    kvi_expr e = parse_sequence(s);
    while (at(s, 0, '|') && !failed(s)) {
        s->p++;
        e = kvi_expr_or2(s->pool, e, parse_sequence(s));
    }
    return failed(s) ? KVI_EXPR_NONE : e;
}

kvi_expr kvi_pattern_parse(kvi_exprs *pool, const char *pattern, size_t len, kvi_pattern_text text, bool whole,
                           size_t *where)
{
    parser s = {.pool = pool, .begin = pattern, .p = pattern, .end = pattern + len, .text = text};
    s.around = whole ? KVI_EXPR_VOID : kvi_pattern_anything(pool, text);
    if (starts(&s, "(?i)")) s.p += 4, s.fold = true;
    else if (starts(&s, "(?s)")) s.p += 4, s.dot_all = true;
    if (kvi_utf8_valid_prefix(pattern, len) != len) (void)refuse(&s, "it is not UTF-8");
    const kvi_expr e = failed(&s) ? KVI_EXPR_NONE : parse_choice(&s);
    if (!failed(&s) && s.p < s.end) (void)refuse(&s, ") without (");
    *where = s.why ? s.why_at : (size_t)(s.p - s.begin);
    if (s.why) return kvi_expr_fail(pool, s.why);
    return kvi_expr_search(pool, e, s.around);
}
