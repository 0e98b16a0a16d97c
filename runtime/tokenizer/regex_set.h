/* regex_set.h - sets of code points while a regular expression is read: ranges, properties by name, union, complement,
 * intersection, closure under letter case. */
#ifndef KVI_REGEX_SET_H
#define KVI_REGEX_SET_H
#include "../base/mem.h"

#define KVI_CP_MAX 0x10ffffu

typedef struct kvi_range {
    uint32_t first, last;
} kvi_range;
/* Start from {0}; sorted and without overlaps after kvi_set_tidy and after every operation but kvi_set_add. */
typedef struct kvi_set {
    kvi_range *items; // (n)
    size_t n, cap;
    bool failed; /* memory ran out */
} kvi_set;

void kvi_set_free(kvi_set *set);
void kvi_set_add(kvi_set *set, uint32_t first, uint32_t last);
void kvi_set_add_set(kvi_set *set, const kvi_set *other);
void kvi_set_tidy(kvi_set *set);
void kvi_set_complement(kvi_set *set);
void kvi_set_intersect(kvi_set *set, const kvi_set *other);
/* Adds whatever differs from a member in letter case alone (simple folding). */
void kvi_set_close_case(kvi_set *set);
bool kvi_set_has(const kvi_set *set, uint32_t cp);

/* Adds the property `name` as Oniguruma spells it: case, spaces, '_' and '-' do not count. False: no such property. */
bool kvi_set_add_property(kvi_set *set, const char *name, size_t len);
/* Adds a POSIX class, the name without brackets and colons. */
bool kvi_set_add_posix(kvi_set *set, const char *name, size_t len);
void kvi_set_add_space(kvi_set *set); /* White_Space */
/* \w: Alphabetic, M, Nd, Pc; outside of brackets Oniguruma takes six superscripts and fractions of Latin-1 too. */
void kvi_set_add_word(kvi_set *set, bool in_brackets);
void kvi_set_add_categories(kvi_set *set, const char *list); /* "Lu Ll ..." */

#endif
