/* regex_set.c - see regex_set.h. */
#include "regex_set.h"
#include "../text/unicode.h"

#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------------------------------------------- operations --- */
void kvi_set_free(kvi_set *set)
{
    kvi_mem_free(set->items);
    *set = (kvi_set){0};
}

void kvi_set_add(kvi_set *set, uint32_t first, uint32_t last)
{
    void *data = set->items;
    if (first > last) return;
    if (!kvi_mem_grow(&data, &set->cap, set->n + 1, sizeof *set->items)) {
        set->failed = true;
        return;
    }
    set->items = data;
    set->items[set->n++] = (kvi_range){first, last};
}

void kvi_set_add_set(kvi_set *set, const kvi_set *other)
{
    for (size_t i = 0; i < other->n; i++) kvi_set_add(set, other->items[i].first, other->items[i].last);
    set->failed |= other->failed;
}

static int by_first(const void *a, const void *b)
{
    const kvi_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

void kvi_set_tidy(kvi_set *set)
{
    size_t kept = 0;
    bool sorted = true;
    for (size_t i = 1; i < set->n; i++) sorted = sorted && set->items[i - 1].first <= set->items[i].first;
    if (!sorted) qsort(set->items, set->n, sizeof *set->items, by_first);
    for (size_t i = 0; i < set->n; i++) {
        kvi_range item = set->items[i];
        if (kept > 0 && item.first <= set->items[kept - 1].last + 1) {
            if (item.last > set->items[kept - 1].last) set->items[kept - 1].last = item.last;
        } else {
            set->items[kept++] = item;
        }
    }
    set->n = kept;
}

static void replace(kvi_set *set, kvi_set *by)
{
    by->failed |= set->failed;
    kvi_mem_free(set->items);
    *set = *by;
}

void kvi_set_complement(kvi_set *set)
{
    kvi_set out = {0};
    uint32_t next = 0;
    kvi_set_tidy(set);
    for (size_t i = 0; i < set->n; i++) {
        if (set->items[i].first > next) kvi_set_add(&out, next, set->items[i].first - 1);
        next = set->items[i].last + 1;
    }
    if (next <= KVI_CP_MAX) kvi_set_add(&out, next, KVI_CP_MAX);
    replace(set, &out);
}

/* Both sets are tidy. */
void kvi_set_intersect(kvi_set *set, const kvi_set *other)
{
    kvi_set out = {.failed = other->failed};
    for (size_t i = 0, k = 0; i < set->n && k < other->n;) {
        kvi_range a = set->items[i], b = other->items[k];
        kvi_set_add(&out, a.first > b.first ? a.first : b.first, a.last < b.last ? a.last : b.last);
        if (a.last < b.last) i++;
        else k++;
    }
    replace(set, &out);
}

bool kvi_set_has(const kvi_set *set, uint32_t cp)
{
    size_t low = 0, high = set->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > set->items[middle].last) low = middle + 1;
        else high = middle;
    }
    return low < set->n && cp >= set->items[low].first;
}

void kvi_set_close_case(kvi_set *set)
{
    /* Folding maps to representatives: first add those of the members, then all that share one. */
    kvi_set_tidy(set);
    for (int pass = 0; pass < 2; pass++) {
        kvi_set more = {0};
        for (size_t i = 0; i < kvi_unicode_fold_n; i += 4) {
            const uint32_t *run = kvi_unicode_fold + i;
            for (uint32_t cp = run[0]; cp <= run[1]; cp += run[2]) {
                uint32_t to = cp + run[3];
                if (pass == 0 && kvi_set_has(set, cp)) kvi_set_add(&more, to, to);
                if (pass == 1 && kvi_set_has(set, to)) kvi_set_add(&more, cp, cp);
            }
        }
        kvi_set_add_set(set, &more);
        kvi_set_free(&more);
        kvi_set_tidy(set);
    }
}

/* -------------------------------------------------------------------------------------------------- properties --- */
static void add_ranges(kvi_set *set, const uint32_t *ranges, size_t n)
{
    for (size_t i = 0; i < n; i += 2) kvi_set_add(set, ranges[i], ranges[i + 1]);
}

/* Adds the runs whose value has its bit in `values`. */
static void add_runs(kvi_set *set, const uint32_t *runs, size_t n, const bool values[256])
{
    for (size_t i = 0; i < n; i++)
        if (values[runs[i] & 0xff]) kvi_set_add(set, runs[i] >> 8, i + 1 < n ? (runs[i + 1] >> 8) - 1 : KVI_CP_MAX);
}

void kvi_set_add_categories(kvi_set *set, const char *list)
{
    bool values[256] = {false};
    for (; *list; list += list[2] ? 3 : 2)
        for (size_t k = 0; k < 30; k++)
            if (memcmp(kvi_unicode_category_names[k][0], list, 2) == 0) values[k] = true;
    add_runs(set, kvi_unicode_categories, kvi_unicode_categories_n, values);
}

void kvi_set_add_space(kvi_set *set)
{
    static const uint32_t spaces[] = {0x9,    0xd,    0x20,   0x20,   0x85,   0x85,   0xa0,   0xa0,   0x1680, 0x1680,
                                      0x2000, 0x200a, 0x2028, 0x2029, 0x202f, 0x202f, 0x205f, 0x205f, 0x3000, 0x3000};
    add_ranges(set, spaces, sizeof spaces / sizeof *spaces);
}

static void add_alphabetic(kvi_set *set)
{
    kvi_set_add_categories(set, "Lu Ll Lt Lm Lo Nl");
    add_ranges(set, kvi_unicode_alphabetic, kvi_unicode_alphabetic_n);
}

void kvi_set_add_word(kvi_set *set, bool in_brackets)
{
    add_alphabetic(set);
    kvi_set_add_categories(set, "Mn Mc Me Nd Pc");
    if (in_brackets) return;
    kvi_set_add(set, 0xb2, 0xb3);
    kvi_set_add(set, 0xb9, 0xb9);
    kvi_set_add(set, 0xbc, 0xbe);
}

/* Assigned, and neither blank nor a control character. */
static void add_graph(kvi_set *set)
{
    kvi_set out = {0};
    kvi_set_add_categories(&out, "Cn Cc Cs");
    kvi_set_add_space(&out);
    kvi_set_complement(&out);
    kvi_set_add_set(set, &out);
    kvi_set_free(&out);
}

#define LETTERS "Lu Ll Lt Lm Lo"
#define MARKS "Mn Mc Me"
#define PUNCTUATION "Pc Pd Ps Pe Pi Pf Po"
#define SYMBOLS "Sm Sc Sk So"

/* The classes that POSIX brackets and properties share; in punctuation they differ. */
static bool add_common(kvi_set *set, const char *name)
{
    if (strcmp(name, "alpha") == 0) add_alphabetic(set);
    else if (strcmp(name, "alnum") == 0) add_alphabetic(set), kvi_set_add_categories(set, "Nd");
    else if (strcmp(name, "digit") == 0) kvi_set_add_categories(set, "Nd");
    else if (strcmp(name, "space") == 0) kvi_set_add_space(set);
    else if (strcmp(name, "blank") == 0) kvi_set_add_categories(set, "Zs"), kvi_set_add(set, 9, 9);
    else if (strcmp(name, "cntrl") == 0) kvi_set_add_categories(set, "Cc");
    else if (strcmp(name, "graph") == 0) add_graph(set);
    else if (strcmp(name, "print") == 0) add_graph(set), kvi_set_add_categories(set, "Zs");
    else if (strcmp(name, "ascii") == 0) kvi_set_add(set, 0, 0x7f);
    else if (strcmp(name, "xdigit") == 0)
        kvi_set_add(set, '0', '9'), kvi_set_add(set, 'A', 'F'), kvi_set_add(set, 'a', 'f');
    else if (strcmp(name, "upper") == 0)
        kvi_set_add_categories(set, "Lu"), add_ranges(set, kvi_unicode_uppercase, kvi_unicode_uppercase_n);
    else if (strcmp(name, "lower") == 0)
        kvi_set_add_categories(set, "Ll"), add_ranges(set, kvi_unicode_lowercase, kvi_unicode_lowercase_n);
    else return false;
    return true;
}

bool kvi_set_add_posix(kvi_set *set, const char *name, size_t len)
{
    char key[8] = "";
    if (len >= sizeof key) return false;
    memcpy(key, name, len);
    if (strcmp(key, "word") == 0) kvi_set_add_word(set, true);
    else if (strcmp(key, "punct") == 0) kvi_set_add_categories(set, PUNCTUATION " " SYMBOLS);
    else return add_common(set, key);
    return true;
}

/* Binary properties and groups of categories. */
static bool add_named(kvi_set *set, const char *key)
{
    static const char *const groups[][3] = {
        {"l", "letter", LETTERS},
        {"lc", "casedletter", "Lu Ll Lt"},
        {"m", "mark", MARKS},
        {"m", "combiningmark", MARKS},
        {"n", "number", "Nd Nl No"},
        {"p", "punctuation", PUNCTUATION},
        {"p", "punct", PUNCTUATION},
        {"s", "symbol", SYMBOLS},
        {"z", "separator", "Zs Zl Zp"},
        {"c", "other", "Cc Cf Cs Co Cn"},
        {"any", "any", LETTERS " " MARKS " " PUNCTUATION " " SYMBOLS " Nd Nl No Zs Zl Zp Cc Cf Cs Co Cn"},
        {"assigned", "assigned", LETTERS " " MARKS " " PUNCTUATION " " SYMBOLS " Nd Nl No Zs Zl Zp Cc Cf Cs Co"}};
    static const struct {
        const char *name, *common;
    } synonyms[] = {{"alphabetic", "alpha"}, {"whitespace", "space"}, {"uppercase", "upper"}, {"lowercase", "lower"}};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (strcmp(groups[i][0], key) != 0 && strcmp(groups[i][1], key) != 0) continue;
        kvi_set_add_categories(set, groups[i][2]);
        return true;
    }
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcmp(synonyms[i].name, key) == 0) return add_common(set, synonyms[i].common);
    const uint32_t *ranges = NULL;
    size_t n = 0;
    if (strcmp(key, "emoji") == 0) ranges = kvi_unicode_emoji, n = kvi_unicode_emoji_n;
    if (strcmp(key, "emojipresentation") == 0)
        ranges = kvi_unicode_emoji_presentation, n = kvi_unicode_emoji_presentation_n;
    if (strcmp(key, "extendedpictographic") == 0)
        ranges = kvi_unicode_extended_pictographic, n = kvi_unicode_extended_pictographic_n;
    if (strcmp(key, "ideographic") == 0) ranges = kvi_unicode_ideographic, n = kvi_unicode_ideographic_n;
    if (n > 0) add_ranges(set, ranges, n);
    return n > 0;
}

static bool add_script(kvi_set *set, const char *key)
{
    /* The codes of ISO 15924 that tokenizers are seen to use; the full names all work. */
    static const char *const codes[][2] = {
        {"hani", "han"},    {"latn", "latin"},     {"grek", "greek"},     {"cyrl", "cyrillic"}, {"arab", "arabic"},
        {"hebr", "hebrew"}, {"hira", "hiragana"},  {"kana", "katakana"},  {"hang", "hangul"},   {"deva", "devanagari"},
        {"zyyy", "common"}, {"zinh", "inherited"}, {"qaai", "inherited"}, {"zzzz", "unknown"}};
    bool values[256] = {false}, found = false;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(codes[i][0], key) == 0) key = codes[i][1];
    for (size_t i = 0; i < kvi_unicode_script_names_n; i++)
        if (strcmp(kvi_unicode_script_names[i], key) == 0) values[i] = found = true;
    if (strcmp(key, "unknown") == 0) values[255] = found = true;
    if (found) add_runs(set, kvi_unicode_scripts, kvi_unicode_scripts_n, values);
    return found;
}

bool kvi_set_add_property(kvi_set *set, const char *name, size_t len)
{
    char key[48];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (c == ' ' || c == '_' || c == '-') continue;
        if (n + 1 == sizeof key || (unsigned char)c >= 0x80) return false;
        key[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    key[n] = 0;
    if (strcmp(key, "word") == 0) {
        kvi_set_add_word(set, false);
        return true;
    }
    for (size_t k = 0; k < 30; k++) {
        const char *code = kvi_unicode_category_names[k][0];
        char small[3] = {(char)(code[0] + 32), code[1], 0};
        if (strcmp(key, small) != 0 && strcmp(key, kvi_unicode_category_names[k][1]) != 0) continue;
        kvi_set_add_categories(set, code);
        return true;
    }
    return add_common(set, key) || add_named(set, key) || add_script(set, key);
}
