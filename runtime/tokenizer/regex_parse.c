/* regex_parse.c - Oniguruma's syntax to the program of regex_impl.h. Owns: every construct and what it means in Ruby's
 * dialect ($ before any newline, {n,m}+ repeats the repeat, [..&&[^..]], (?m) lets the dot take newlines). To know: the
 * parser goes down recursively and appends to the program; what turns out to be repeated or one of several branches is
 * moved to make room for the instruction before it, which relative jumps allow. */
#include "regex_impl.h"
#include "../base/utf8.h"
#include "../text/unicode.h"

#include <string.h>

#define DEPTH_MAX 80
#define CODE_MAX 60000
#define CLASSES_MAX 200
#define LENGTH_MAX 1000000

typedef struct parser {
    kvi_regex *regex;
    const char *p, *end;
    const char *why;
    unsigned depth;
    bool fold, dot_all; /* options in force: (?i), (?m) */
    bool named;         /* the pattern has named groups, so plain ones capture nothing */
    int32_t groups[10]; /* register of capture group n */
    int32_t n_groups;
    struct { /* the character just before, under (?i): for folding that changes the length */
        uint32_t last;
        bool set;
    } before;
} parser;

/* What a parsed piece may match, in code points. */
typedef struct extent {
    int32_t min, max; /* max: LENGTH_MAX stands for any number */
} extent;

static bool refuse(parser *s, const char *why)
{
    if (!s->why) s->why = why;
    return false;
}
static bool no_memory(parser *s) { return refuse(s, ""); }

static bool at(const parser *s, size_t offset, char c) { return (size_t)(s->end - s->p) > offset && s->p[offset] == c; }
static int32_t clamp(int64_t n) { return n > LENGTH_MAX ? LENGTH_MAX : (int32_t)n; }

/* ----------------------------------------------------------------------------------------------------- program --- */
/* Makes room for an instruction at `where`; what is there moves up. */
static bool insert(parser *s, size_t where, kvi_inst inst)
{
    kvi_regex *r = s->regex;
    void *data = r->code;
    if (r->n_code >= CODE_MAX) return refuse(s, "a program of more than 60000 instructions");
    if (!kvi_mem_grow(&data, &r->code_cap, r->n_code + 1, sizeof *r->code)) return no_memory(s);
    r->code = data;
    memmove(r->code + where + 1, r->code + where, (r->n_code - where) * sizeof *r->code);
    r->code[where] = inst;
    r->n_code++;
    return true;
}

static bool append(parser *s, kvi_inst inst) { return insert(s, s->regex->n_code, inst); }

static bool take_registers(parser *s, int32_t n, int32_t *out)
{
    *out = s->regex->n_registers;
    if (*out + n > KVI_REGEX_REGISTERS) return refuse(s, "too many groups and loops");
    s->regex->n_registers += n;
    return true;
}

/* The class of a set, an old one when it is the same; the set is tidied and stays the caller's. */
static bool make_class(parser *s, kvi_set *set, int32_t *out)
{
    kvi_regex *r = s->regex;
    kvi_set_tidy(set);
    if (set->failed) return no_memory(s);
    for (size_t i = 0; i < r->n_classes; i++) {
        const kvi_class *c = &r->classes[i];
        if (c->n != set->n || (set->n && memcmp(c->items, set->items, set->n * sizeof *set->items) != 0)) continue;
        *out = (int32_t)i;
        return true;
    }
    if (r->n_classes == CLASSES_MAX) return refuse(s, "more than 200 different character classes");
    void *data = r->classes;
    if (!kvi_mem_grow(&data, &r->classes_cap, r->n_classes + 1, sizeof *r->classes)) return no_memory(s);
    r->classes = data;
    kvi_class *c = &r->classes[r->n_classes++];
    *c = (kvi_class){.low = kvi_mem_zalloc(8192, 1), .items = kvi_mem_alloc((set->n + 1) * sizeof *set->items)};
    if (!c->low || !c->items) return no_memory(s);
    if (set->n) memcpy(c->items, set->items, set->n * sizeof *set->items);
    c->n = set->n;
    for (size_t i = 0; i < set->n; i++) {
        kvi_range item = set->items[i];
        if (item.last < 0x10000) c->first_high = i + 1;
        for (uint32_t cp = item.first; cp <= item.last && cp < 0x10000;) {
            bool whole = (cp & 7) == 0 && item.last - cp >= 7;
            c->low[cp >> 3] = (uint8_t)(c->low[cp >> 3] | (whole ? 0xff : 1u << (cp & 7)));
            cp += whole ? 8 : 1;
        }
    }
    *out = (int32_t)(r->n_classes - 1);
    return true;
}

static bool append_class(parser *s, kvi_set *set, extent *out)
{
    int32_t id = 0;
    bool ok = make_class(s, set, &id) && append(s, (kvi_inst){.op = KVI_OP_CLASS, .x = id});
    kvi_set_free(set);
    *out = (extent){1, 1};
    s->before.set = false;
    return ok;
}

/* --------------------------------------------------------------------------------------------------- characters --- */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool read_hex(parser *s, size_t min, size_t max, uint32_t *out)
{
    size_t n = 0;
    *out = 0;
    while (n < max && s->p < s->end && hex_value(*s->p) >= 0) {
        *out = *out << 4 | (uint32_t)hex_value(*s->p++);
        n++;
    }
    return n >= min && *out <= KVI_CP_MAX && !(*out >= 0xd800 && *out < 0xe000);
}

/* After "\x": one or two digits, or up to eight in braces. */
static bool read_x(parser *s, uint32_t *cp)
{
    if (!at(s, 0, '{')) return read_hex(s, 1, 2, cp) || refuse(s, "\\x without hexadecimal digits");
    s->p++;
    if (!read_hex(s, 1, 8, cp) || !at(s, 0, '}')) return refuse(s, "\\x{} without one code point");
    s->p++;
    return true;
}

/* After a backslash: an escape that stands for one code point. False without `why`: it is not one. */
static bool read_char_escape(parser *s, uint32_t *cp)
{
    static const char from[] = "nrtfvae", to[] = "\n\r\t\f\v\a\x1b";
    char c = *s->p;
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        *cp = (unsigned char)to[simple - from];
        s->p++;
        return true;
    }
    if (c == 'x') {
        s->p++;
        return read_x(s, cp);
    }
    if (c == 'u') {
        s->p++;
        return read_hex(s, 4, 4, cp) || refuse(s, "\\u needs four hexadecimal digits");
    }
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return false;
    s->p += kvi_utf8_decode(s->p, (size_t)(s->end - s->p), cp);
    return true;
}

/* After a backslash: an escape that stands for a set. False without `why`: it is not one. `in_brackets` matters to \w. */
static bool read_set_escape(parser *s, bool in_brackets, kvi_set *set)
{
    char c = *s->p, small = (char)(c | 32);
    if (small == 'd') kvi_set_add_categories(set, "Nd");
    else if (small == 's') kvi_set_add_space(set);
    else if (small == 'w') kvi_set_add_word(set, in_brackets);
    else if (small == 'h') kvi_set_add_posix(set, "xdigit", 6);
    else if (small == 'p') {
        if (!at(s, 1, '{')) return refuse(s, "a property without braces");
        const char *name = s->p + 2, *stop = memchr(name, '}', (size_t)(s->end - name));
        if (!stop) return refuse(s, "unterminated property");
        bool negated = *name == '^';
        size_t n = (size_t)(stop - name) - negated;
        bool word = n == 4 && in_brackets && (name[negated] | 32) == 'w'; /* \p{Word} is \w, there and here */
        if (word) kvi_set_add_word(set, true);
        else if (!kvi_set_add_property(set, name + negated, n)) return refuse(s, "a property that is not known here");
        if (negated) kvi_set_complement(set);
        s->p = stop;
    } else return false;
    if (c != small) kvi_set_complement(set);
    s->p++;
    return true;
}

/* Under (?i) some characters match as longer sequences too, and the other way round: sharp s and "ss". kvi_unicode_fold_long has runs of
 * such characters: how many follow, the first and the second character of the sequence of the first one. */
static bool folds_longer(const kvi_set *before, const kvi_set *now) /* closed under case */
{
    for (size_t i = 0; i < kvi_unicode_fold_long_n; i += 4) {
        const uint32_t *run = kvi_unicode_fold_long + i;
        for (uint32_t k = 0; k < run[1]; k++)
            if (kvi_set_has(now, run[0] + k) || (kvi_set_has(before, run[2] + k) && kvi_set_has(now, run[3])))
                return true;
    }
    return false;
}

static bool append_char(parser *s, uint32_t cp, extent *out)
{
    *out = (extent){1, 1};
    if (s->fold) {
        kvi_set set = {0}, before = {0};
        kvi_set_add(&set, cp, cp);
        kvi_set_close_case(&set);
        if (s->before.set) kvi_set_add(&before, s->before.last, s->before.last);
        kvi_set_close_case(&before);
        bool longer = folds_longer(&before, &set), failed = set.failed || before.failed;
        kvi_set_free(&before);
        if (!failed && !longer && (set.n != 1 || set.items[0].first != set.items[0].last)) {
            bool ok = append_class(s, &set, out);
            s->before.set = true;
            s->before.last = cp;
            return ok;
        }
        kvi_set_free(&set);
        if (failed) return no_memory(s);
        if (longer) return refuse(s, "letters under (?i) whose folding changes the length (ss, fi, ..)");
    }
    char bytes[4];
    size_t n = kvi_utf8_encode(bytes, cp), where = s->regex->pool.len;
    kvi_buf_append(&s->regex->pool, bytes, n);
    s->before.set = s->fold;
    s->before.last = cp;
    return append(s, (kvi_inst){.op = KVI_OP_BYTES, .x = (int32_t)where, .y = (int32_t)n});
}

/* ------------------------------------------------------------------------------------------------------ classes --- */
static bool parse_class(parser *s, bool inner, kvi_set *out);

/* "[:name:]" or "[:^name:]" at p; false without `why`: only a bracket. */
static bool read_posix(parser *s, kvi_set *set)
{
    const char *name = s->p + 2, *stop = name;
    bool negated = at(s, 2, '^');
    name += negated;
    for (stop = name; stop < s->end && *stop >= 'a' && *stop <= 'z';) stop++;
    if (s->end - stop < 2 || stop[0] != ':' || stop[1] != ']') return false;
    if (!kvi_set_add_posix(set, name, (size_t)(stop - name))) return refuse(s, "a POSIX class that is not known");
    if (negated) kvi_set_complement(set);
    s->p = stop + 2;
    return true;
}

/* One code point of a class; false without `why`: a set, which was added to *set. */
static bool class_char(parser *s, kvi_set *set, uint32_t *cp)
{
    kvi_set part = {0};
    bool is_char = false;
    if (at(s, 0, '[')) {
        bool posix = at(s, 1, ':') && read_posix(s, &part);
        if (!posix && !s->why) parse_class(s, true, &part);
    } else if (at(s, 0, '\\')) {
        s->p++;
        if (s->p == s->end) refuse(s, "a pattern that ends after a backslash");
        else if (*s->p == 'b') {
            *cp = 8;
            s->p++;
            is_char = true;
        } else if (!read_set_escape(s, true, &part) && !s->why) {
            is_char = read_char_escape(s, cp);
            if (!is_char) refuse(s, "an escape that is not known in a class");
        }
    } else {
        s->p += kvi_utf8_decode(s->p, (size_t)(s->end - s->p), cp);
        is_char = true;
    }
    if (!is_char) kvi_set_add_set(set, &part);
    kvi_set_free(&part);
    return is_char && !s->why;
}

/* One item: a character, a range, or a set. */
static bool class_item(parser *s, kvi_set *set)
{
    uint32_t first = 0, last = 0;
    if (!class_char(s, set, &first)) return !s->why;
    last = first;
    if (at(s, 0, '-') && s->p + 1 < s->end && s->p[1] != ']' && !(at(s, 1, '&') && at(s, 2, '&'))) {
        const char *hyphen = s->p;
        s->p++;
        kvi_set ignored = {0};
        bool is_char = !at(s, 0, '[') && class_char(s, &ignored, &last);
        kvi_set_free(&ignored);
        if (!is_char) { /* [a-\d], [a-[b]]: the hyphen is one of the characters */
            if (s->why) return false;
            s->p = hyphen + 1;
            kvi_set_add(set, '-', '-');
            last = first;
        }
        if (last < first) return refuse(s, "a range of characters whose end is before its start");
    }
    kvi_set_add(set, first, last);
    return true;
}

/* (?i) closes what the outermost brackets hold, once: after intersections and inner negations, before their own negation. */
static bool fold_class(parser *s, bool negated, kvi_set *all)
{
    kvi_set_close_case(all);
    return negated || !folds_longer(&(kvi_set){0}, all) ||
           refuse(s, "a class under (?i) with a letter whose folding changes the length (ss, fi, ..)");
}

/* From the bracket at p to its partner. inner: it stands in another class. */
static bool parse_class(parser *s, bool inner, kvi_set *out)
{
    kvi_set all = {0}, part = {0};
    bool any = false, ok = true;
    if (++s->depth > DEPTH_MAX) return refuse(s, "classes nested too deeply");
    s->p++;
    bool negated = at(s, 0, '^');
    s->p += negated;
    if (at(s, 0, ']')) { /* a bracket that stands first is one of the characters */
        kvi_set_add(&part, ']', ']');
        s->p++;
    }
    while (ok && s->p < s->end && *s->p != ']') {
        if (at(s, 0, '&') && at(s, 1, '&')) {
            kvi_set_tidy(&part);
            if (any) kvi_set_intersect(&all, &part);
            else kvi_set_add_set(&all, &part);
            kvi_set_free(&part);
            any = true;
            s->p += 2;
        } else ok = class_item(s, &part);
    }
    ok = ok && (s->p < s->end || refuse(s, "unterminated character class"));
    kvi_set_tidy(&part);
    if (any) kvi_set_intersect(&all, &part);
    else kvi_set_add_set(&all, &part);
    if (ok && s->fold && !inner) ok = fold_class(s, negated, &all);
    if (negated) kvi_set_complement(&all);
    kvi_set_add_set(out, &all);
    kvi_set_tidy(out);
    kvi_set_free(&all);
    kvi_set_free(&part);
    s->p += ok;
    s->depth--;
    return ok;
}

/* ------------------------------------------------------------------------------------------------------- groups --- */
static bool parse_branches(parser *s, bool behind, extent *out);

/* "(?imx-imx)" and "(?imx-imx:", at the first letter. *whole: the options reach to the end of the group around. */
static bool read_options(parser *s, bool *whole)
{
    bool on = true;
    for (; s->p < s->end && *s->p != ':' && *s->p != ')'; s->p++) {
        if (*s->p == '-') on = false;
        else if (*s->p == 'i') s->fold = on;
        else if (*s->p == 'm') s->dot_all = on;
        else if (*s->p != 'x' || on) return refuse(s, "a group option other than i and m");
    }
    if (s->p == s->end) return refuse(s, "unterminated group");
    *whole = *s->p++ == ')';
    return true;
}

/* The parenthesis that ends a group, and with it the options set inside. */
static bool close_group(parser *s, bool fold, bool dot_all)
{
    if (!at(s, 0, ')')) return refuse(s, "unterminated group");
    s->p++;
    s->fold = fold;
    s->dot_all = dot_all;
    s->before.set = false;
    return true;
}

/* The rest of a group and its closing parenthesis. */
static bool parse_inside(parser *s, bool behind, extent *out)
{
    bool fold = s->fold, dot_all = s->dot_all;
    if (!parse_branches(s, behind, out)) return false;
    return close_group(s, fold, dot_all);
}

static bool parse_look(parser *s, bool behind, bool negative, extent *out)
{
    int32_t mark;
    if (!take_registers(s, 2, &mark) || !append(s, (kvi_inst){.op = KVI_OP_MARK, .x = mark})) return false;
    size_t split = s->regex->n_code;
    if (negative && !append(s, (kvi_inst){.op = KVI_OP_SPLIT, .x = 1})) return false;
    if (!parse_inside(s, behind, out)) return false;
    if (!append(s, (kvi_inst){.op = negative ? KVI_OP_FAIL : KVI_OP_AHEAD, .x = mark})) return false;
    if (negative) s->regex->code[split].y = (int32_t)(s->regex->n_code - split);
    *out = (extent){0, 0};
    return true;
}

static bool parse_atomic(parser *s, extent *out)
{
    int32_t mark;
    return take_registers(s, 2, &mark) && append(s, (kvi_inst){.op = KVI_OP_MARK, .x = mark}) &&
           parse_inside(s, false, out) && append(s, (kvi_inst){.op = KVI_OP_CUT, .x = mark});
}

static bool parse_capture(parser *s, extent *out)
{
    int32_t registers;
    if (s->n_groups >= 9) return parse_inside(s, false, out); /* nothing can refer to it */
    if (!take_registers(s, 2, &registers)) return false;
    s->groups[++s->n_groups] = registers;
    return append(s, (kvi_inst){.op = KVI_OP_SAVE, .x = registers}) && parse_inside(s, false, out) &&
           append(s, (kvi_inst){.op = KVI_OP_SAVE, .x = registers + 1});
}

/* "(?...": p stands after the question mark. */
static bool parse_special_group(parser *s, extent *out)
{
    char c = s->p < s->end ? *s->p : 0;
    char d = s->p + 1 < s->end ? s->p[1] : 0;
    s->p++;
    if (c == ':') return parse_inside(s, false, out);
    if (c == '=' || c == '!') return parse_look(s, false, c == '!', out);
    if (c == '>') return parse_atomic(s, out);
    if (c == '<' && (d == '=' || d == '!')) {
        s->p++;
        return parse_look(s, true, d == '!', out);
    }
    if (c == '<') {
        const char *stop = memchr(s->p, '>', (size_t)(s->end - s->p));
        if (!stop) return refuse(s, "unterminated group name");
        s->p = stop + 1;
        return parse_inside(s, false, out);
    }
    if (c == '#') {
        const char *stop = memchr(s->p, ')', (size_t)(s->end - s->p));
        if (!stop) return refuse(s, "unterminated comment");
        s->p = stop + 1;
        *out = (extent){0, 0};
        return true;
    }
    s->p--;
    if (c != 'i' && c != 'm' && c != 'x' && c != '-') return refuse(s, "a group of this kind");
    bool whole, fold = s->fold, dot_all = s->dot_all;
    if (!read_options(s, &whole)) return false;
    if (whole) return parse_branches(s, false, out); /* up to the parenthesis of the group around, which stays */
    if (!parse_branches(s, false, out)) return false;
    return close_group(s, fold, dot_all);
}

static bool parse_group(parser *s, extent *out)
{
    if (++s->depth > DEPTH_MAX) return refuse(s, "groups nested too deeply");
    s->p++;
    s->before.set = false;
    bool ok;
    if (at(s, 0, '*')) ok = refuse(s, "a group that begins with (*");
    else if (at(s, 0, '?')) {
        s->p++;
        ok = parse_special_group(s, out);
    } else ok = s->named ? parse_inside(s, false, out) : parse_capture(s, out);
    s->depth--;
    return ok;
}

/* -------------------------------------------------------------------------------------------------------- atoms --- */
static bool append_assertion(parser *s, kvi_assertion what, extent *out)
{
    *out = (extent){0, 0};
    if ((what == KVI_AT_WORD_EDGE || what == KVI_NOT_AT_WORD_EDGE) && s->regex->word < 0) {
        kvi_set set = {0};
        kvi_set_add_word(&set, false);
        bool ok = make_class(s, &set, &s->regex->word);
        kvi_set_free(&set);
        if (!ok) return false;
    }
    return append(s, (kvi_inst){.op = KVI_OP_ASSERT, .x = (int32_t)what});
}

/* \R: any line break, a pair of carriage return and newline as one, for good. */
static bool append_line_break(parser *s, extent *out)
{
    static const char pattern[] = "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])";
    parser inner = *s;
    inner.p = pattern;
    inner.end = pattern + sizeof pattern - 1;
    bool ok = parse_group(&inner, out);
    s->why = inner.why;
    s->before.set = false;
    return ok;
}

static bool parse_escape(parser *s, extent *out)
{
    static const struct {
        char letter;
        kvi_assertion what;
    } assertions[] = {{'A', KVI_AT_TEXT_START},   {'z', KVI_AT_TEXT_END},  {'Z', KVI_AT_LAST_LINE_END},
                      {'G', KVI_AT_SEARCH_START}, {'b', KVI_AT_WORD_EDGE}, {'B', KVI_NOT_AT_WORD_EDGE}};
    s->p++;
    if (s->p == s->end) return refuse(s, "a pattern that ends after a backslash");
    char c = *s->p;
    for (size_t i = 0; i < sizeof assertions / sizeof *assertions; i++) {
        if (assertions[i].letter != c) continue;
        s->p++;
        s->before.set = false;
        return append_assertion(s, assertions[i].what, out);
    }
    if (c >= '1' && c <= '9') {
        if (c - '0' > s->n_groups || s->fold || (s->p + 1 < s->end && s->p[1] >= '0' && s->p[1] <= '9'))
            return refuse(s, "a reference to a group that is not there yet, or under (?i)");
        s->p++;
        *out = (extent){0, LENGTH_MAX};
        return append(s, (kvi_inst){.op = KVI_OP_REPEAT, .x = s->groups[c - '0']});
    }
    if (c == 'R') {
        s->p++;
        return append_line_break(s, out);
    }
    kvi_set set = {0};
    if (c == 'N' || c == 'O') {
        s->p++;
        kvi_set_add(&set, 0, c == 'N' ? '\n' - 1 : KVI_CP_MAX);
        if (c == 'N') kvi_set_add(&set, '\n' + 1, KVI_CP_MAX);
        return append_class(s, &set, out);
    }
    if (read_set_escape(s, false, &set)) return append_class(s, &set, out);
    kvi_set_free(&set);
    if (s->why) return false;
    uint32_t cp = 0;
    return read_char_escape(s, &cp) ? append_char(s, cp, out) : refuse(s, "an escape that is not known");
}

static bool parse_atom(parser *s, extent *out)
{
    kvi_set set = {0};
    uint32_t cp = 0;
    switch (*s->p) {
    case '(': return parse_group(s, out);
    case '[':
        if (parse_class(s, false, &set)) return append_class(s, &set, out);
        kvi_set_free(&set);
        return false;
    case '\\': return parse_escape(s, out);
    case '.':
        s->p++;
        kvi_set_add(&set, 0, s->dot_all ? KVI_CP_MAX : '\n' - 1);
        if (!s->dot_all) kvi_set_add(&set, '\n' + 1, KVI_CP_MAX);
        return append_class(s, &set, out);
    case '^':
    case '$':
        s->before.set = false;
        return append_assertion(s, *s->p++ == '^' ? KVI_AT_LINE_START : KVI_AT_LINE_END, out);
    case '*':
    case '+':
    case '?': return refuse(s, "a repeat without something to repeat");
    default: s->p += kvi_utf8_decode(s->p, (size_t)(s->end - s->p), &cp); return append_char(s, cp, out);
    }
}

/* ------------------------------------------------------------------------------------------------------ repeats --- */
typedef enum repeat_kind { GREEDY, LAZY, KEEP } repeat_kind;

/* {n}, {n,}, {n,m}, {,m} at p; false: the brace is a character. */
static bool read_interval(parser *s, int32_t *min, int32_t *max, bool *fixed)
{
    const char *q = s->p + 1;
    int64_t n[2] = {0, 0};
    bool given[2] = {false, false};
    for (int k = 0; k < 2; k++) {
        for (; q < s->end && *q >= '0' && *q <= '9'; q++, given[k] = true)
            n[k] = n[k] < LENGTH_MAX ? n[k] * 10 + (*q - '0') : n[k];
        if (k == 0) {
            *fixed = q < s->end && *q == '}';
            if (*fixed || q == s->end || *q != ',') break;
            q++;
        }
    }
    if (q == s->end || *q != '}' || !(given[0] || given[1]) || (*fixed && !given[0])) return false;
    *min = clamp(n[0]);
    *max = *fixed ? *min : given[1] ? clamp(n[1]) : KVI_LOOP_MAX;
    s->p = q + 1;
    return true;
}

/* Appends a copy of the n instructions at `from`. */
static bool append_copy(parser *s, size_t from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!append(s, s->regex->code[from + i])) return false;
    return true;
}

/* x*: SPLIT over (ENTER x LEAVE JUMP back). The code to be repeated is at `from`, up to the end. */
static bool wrap_star(parser *s, size_t from, bool lazy, bool may_be_empty)
{
    int32_t reg = 0;
    if (may_be_empty && !take_registers(s, 1, &reg)) return false;
    if (may_be_empty && !insert(s, from, (kvi_inst){.op = KVI_OP_ENTER, .x = reg})) return false;
    if (may_be_empty && !append(s, (kvi_inst){.op = KVI_OP_LEAVE, .x = reg, .y = 2})) return false;
    if (!insert(s, from, (kvi_inst){.op = KVI_OP_SPLIT})) return false;
    int32_t n = (int32_t)(s->regex->n_code - from);
    if (!append(s, (kvi_inst){.op = KVI_OP_JUMP, .x = -n})) return false;
    s->regex->code[from].x = lazy ? n + 1 : 1;
    s->regex->code[from].y = lazy ? 1 : n + 1;
    return true;
}

/* Repeats the code at `from`: copies for what must be, options or a loop for what may be. */
static bool repeat_code(parser *s, size_t from, int32_t min, int32_t max, repeat_kind kind, extent body)
{
    kvi_regex *r = s->regex;
    size_t n = r->n_code - from;
    bool lazy = kind == LAZY, endless = max == KVI_LOOP_MAX;
    kvi_inst only = n == 1 ? r->code[from] : (kvi_inst){.op = KVI_OP_MATCH};
    if (only.op == KVI_OP_CLASS) {
        kvi_op op = kind == GREEDY ? KVI_OP_LOOP : lazy ? KVI_OP_LOOP_LAZY : KVI_OP_LOOP_KEEP;
        r->code[from] = (kvi_inst){.op = op, .x = only.x, .y = min, .z = max};
        return true;
    }
    int32_t mark = 0;
    if (kind == KEEP) {
        if (!take_registers(s, 2, &mark) || !insert(s, from, (kvi_inst){.op = KVI_OP_MARK, .x = mark})) return false;
        from++;
    }
    int64_t copies = endless ? min + 1 : max;
    if (copies * (int64_t)(n + 1) > CODE_MAX) return refuse(s, "a repeat of this size");
    for (int64_t i = 1; i < copies; i++)
        if (!append_copy(s, from, n)) return false;
    if (copies == 0) r->n_code = from; /* {0}: nothing at all */
    if (endless && !wrap_star(s, from + n * (size_t)min, lazy, body.min == 0)) return false;
    /* x{2,4}: after two copies, each further one is an option that skips all that follow. */
    for (int32_t i = max - 1; !endless && i >= min; i--) {
        size_t where = from + n * (size_t)i;
        if (!insert(s, where, (kvi_inst){.op = KVI_OP_SPLIT})) return false;
        int32_t over = (int32_t)(r->n_code - where);
        r->code[where].x = lazy ? over : 1;
        r->code[where].y = lazy ? 1 : over;
    }
    return kind != KEEP || append(s, (kvi_inst){.op = KVI_OP_CUT, .x = mark});
}

/* The repeats after an atom whose code begins at `from`. */
static bool parse_repeats(parser *s, size_t from, extent *e)
{
    while (s->p < s->end) {
        int32_t min = 0, max = KVI_LOOP_MAX;
        bool fixed = false, interval = *s->p == '{';
        if (interval) {
            if (!read_interval(s, &min, &max, &fixed)) return true;
            if (max < min) return refuse(s, "an interval whose end is below its start");
        } else if (*s->p == '*' || *s->p == '+' || *s->p == '?') {
            min = *s->p == '+';
            max = *s->p == '?' ? 1 : KVI_LOOP_MAX;
            s->p++;
        } else return true;
        repeat_kind kind = GREEDY;
        /* {n}? and {n,m}+ are repeats of the repeat in this dialect. */
        if (at(s, 0, '?') && !fixed) kind = LAZY;
        else if (at(s, 0, '+') && !interval) kind = KEEP;
        s->p += kind != GREEDY;
        if (!repeat_code(s, from, min, max, kind, *e)) return false;
        s->before.set = false;
        e->max = max == KVI_LOOP_MAX ? (e->max ? LENGTH_MAX : 0) : clamp((int64_t)e->max * max);
        e->min = clamp((int64_t)e->min * min);
    }
    return true;
}

/* ----------------------------------------------------------------------------------------------------- branches --- */
static bool parse_branch(parser *s, extent *out)
{
    *out = (extent){0, 0};
    while (s->p < s->end && *s->p != '|' && *s->p != ')') {
        size_t from = s->regex->n_code;
        extent e;
        if (!parse_atom(s, &e) || !parse_repeats(s, from, &e)) return false;
        out->min = clamp((int64_t)out->min + e.min);
        out->max = clamp((int64_t)out->max + e.max);
    }
    return true;
}

/* a|b|c up to a closing parenthesis or the end. `behind`: each branch begins by going back over its own length. */
static bool parse_branches(parser *s, bool behind, extent *out)
{
    kvi_regex *r = s->regex;
    if (++s->depth > DEPTH_MAX) return refuse(s, "groups nested too deeply");
    *out = (extent){LENGTH_MAX, 0};
    int32_t last_jump = -1; /* the jumps to the end: each holds the place of the one before it until that is known */
    for (;;) {
        size_t from = r->n_code;
        extent e;
        s->before.set = false;
        if (!parse_branch(s, &e)) return false;
        if (behind && e.min != e.max) return refuse(s, "a lookbehind of varying length");
        if (behind && !insert(s, from, (kvi_inst){.op = KVI_OP_BACK, .x = e.min})) return false;
        if (e.min < out->min) out->min = e.min;
        if (e.max > out->max) out->max = e.max;
        if (!at(s, 0, '|')) break;
        s->p++;
        if (!insert(s, from, (kvi_inst){.op = KVI_OP_SPLIT, .x = 1})) return false;
        if (!append(s, (kvi_inst){.op = KVI_OP_JUMP, .x = last_jump})) return false;
        last_jump = (int32_t)r->n_code - 1;
        r->code[from].y = (int32_t)(r->n_code - from);
    }
    while (last_jump >= 0) {
        kvi_inst *jump = &r->code[last_jump];
        int32_t previous = jump->x;
        jump->x = (int32_t)r->n_code - last_jump;
        last_jump = previous;
    }
    s->depth--;
    return true;
}

bool kvi_regex_parse(kvi_regex *regex, const char *pattern, size_t len, const char **why)
{
    parser s = {.regex = regex, .p = pattern, .end = pattern + len};
    regex->word = -1;
    for (size_t i = 0; i + 3 < len; i++)
        s.named |= memcmp(pattern + i, "(?<", 3) == 0 && pattern[i + 3] != '=' && pattern[i + 3] != '!';
    extent e;
    bool ok = parse_branches(&s, false, &e);
    if (ok && s.p < s.end) ok = refuse(&s, "an unmatched closing parenthesis");
    ok = ok && append(&s, (kvi_inst){.op = KVI_OP_MATCH});
    if (ok && regex->pool.failed) ok = no_memory(&s);
    *why = s.why && *s.why ? s.why : NULL;
    return ok;
}
