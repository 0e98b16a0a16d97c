/* pretokenize_regex.h - the regular expressions of tokenizer.json, run by PCRE2 with Oniguruma's meaning.
 * Owns: the translation of the Ruby dialect (\s, \w, \h, \v, ^, $, {n,m}+), step limits, memory through base/mem.h.
 * Refuses: class set operations and negated nested classes (PCRE2 10.42 misreads [..&&[^..]] without a word), (?x), \K,
 * callouts. To know: no JIT (it maps executable memory in the host's process). Subjects are well-formed UTF-8. */
#ifndef KVI_PRETOKENIZE_REGEX_H
#define KVI_PRETOKENIZE_REGEX_H
#include "../base/mem.h"
#include "../base/status.h"

typedef struct kvi_regex kvi_regex;

/* `owner` and the pattern appear in messages. Errors: UNSUPPORTED, NOMEM_HOST. */
kvrt_status kvi_regex_compile(const char *pattern, size_t len, const char *owner, kvi_regex **out, kvrt_error *error);
void kvi_regex_free(kvi_regex *regex);
/* List link, so that a tokenizer can free all of its expressions. */
kvi_regex **kvi_regex_next(kvi_regex *regex);

/* The pattern as PCRE2 gets it; false with *why (static text) when it is refused. */
bool kvi_regex_translate(const char *pattern, size_t len, kvi_buf *out, const char **why);

/* Memory of one thread's matches; start from {0}. */
typedef struct kvi_regex_scratch {
    void *match; /* pcre2_match_data */
} kvi_regex_scratch;
void kvi_regex_scratch_free(kvi_regex_scratch *scratch);

/* Leftmost match at or after `from`. KVRT_OK with *found, or NOMEM_HOST, or UNSUPPORTED beyond the step limit. */
kvrt_status kvi_regex_find(const kvi_regex *regex, kvi_regex_scratch *scratch, const char *text, size_t len,
                           size_t from, bool *found, size_t *start, size_t *end, kvrt_error *error);

#endif
