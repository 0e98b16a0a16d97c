/* pattern.h - regular expressions as people write them (ECMA-262, which JSON Schema means) to expressions over bytes.
 * Owns: the syntax. Refuses, by name: backreferences, lookbehind, word boundaries, lookahead anywhere but in front of the rest of a pattern.
 * The one thing to know: \d and \w are ASCII, as ECMA-262 has them; \s is white space of Unicode; the dot takes no line end. */
#ifndef KVI_PATTERN_H
#define KVI_PATTERN_H
#include "expr.h"

typedef enum kvi_pattern_text {
    KVI_PATTERN_PLAIN, /* bytes are the text */
    KVI_PATTERN_JSON /* bytes are what stands for the text between the quotes of a JSON string: what must be escaped is, nothing else */
} kvi_pattern_text;

/* What a pattern matches: with `whole` the texts that are all of it one match, else those in which it is found somewhere. On an error pool->why
 * tells,
 * and *at is the byte where. */
kvi_expr kvi_pattern_parse(kvi_exprs *pool, const char *pattern, size_t len, kvi_pattern_text text, bool whole,
                           size_t *at);
/* One code point of [first, last], and any number of any. */
kvi_expr kvi_pattern_characters(kvi_exprs *pool, uint32_t first, uint32_t last, kvi_pattern_text text);
kvi_expr kvi_pattern_anything(kvi_exprs *pool, kvi_pattern_text text);
/* What stands for this text. */
kvi_expr kvi_pattern_literal(kvi_exprs *pool, const char *bytes, size_t len, kvi_pattern_text text);

#endif
