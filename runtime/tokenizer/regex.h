/* regex.h - the regular expressions of tokenizer.json, with the meaning that Oniguruma (the reference library's engine)
 * gives them. Owns: parsing, classes as bitmaps, a backtracking matcher without recursion whose every step is counted.
 * Refuses, by name: what no tokenizer is known to need (subroutine calls, conditionals, (?x), lookbehind of varying
 * length, \X, case folding that changes the length). To know: subjects are well-formed UTF-8. */
#ifndef KVI_REGEX_H
#define KVI_REGEX_H
#include "../base/mem.h"
#include "../base/status.h"

/* What one call may still spend; see tokenizer_impl.h for how much a call gets. */
typedef struct kvi_budget {
    uint64_t steps; /* of regular expressions, of walking tries, bytes produced */
    size_t bytes;   /* the longest text a step may produce, and memory of a regular expression's choices */
} kvi_budget;
/* Takes n steps; false when they are not there any more. */
static inline bool kvi_budget_take(kvi_budget *budget, uint64_t n)
{
    bool enough = n <= budget->steps;
    budget->steps = enough ? budget->steps - n : 0;
    return enough;
}

typedef struct kvi_regex kvi_regex;

/* `owner` and the pattern appear in messages. Errors: UNSUPPORTED, NOMEM_HOST. */
kvrt_status kvi_regex_compile(const char *pattern, size_t len, const char *owner, kvi_regex **out, kvrt_error *error);
void kvi_regex_free(kvi_regex *regex);
/* List link, so that a tokenizer can free all of its expressions. */
kvi_regex **kvi_regex_next(kvi_regex *regex);

/* Memory of one thread's matches; start from {0}. */
typedef struct kvi_regex_scratch {
    struct kvi_choice *choices; // (cap)
    size_t cap;
} kvi_regex_scratch;
void kvi_regex_scratch_free(kvi_regex_scratch *scratch);

/* Leftmost match at or after `from`. KVRT_OK with *found, or NOMEM_HOST, or UNSUPPORTED when the budget is spent. */
kvrt_status kvi_regex_find(const kvi_regex *regex, kvi_regex_scratch *scratch, kvi_budget *budget, const char *text,
                           size_t len, size_t from, bool *found, size_t *start, size_t *end, kvrt_error *error);

#endif
