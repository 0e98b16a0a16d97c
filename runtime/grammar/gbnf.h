/* gbnf.h - grammars in llama.cpp's notation (GBNF), and plain regular expressions, as grammar.h has them.
 *   root ::= "yes" | [0-9]+ ("," [0-9]+)*   # literals, classes, . for any code point, groups, * + ? {n} {n,} {n,m}
 * Owns: the syntax. Refuses: rules that are missing, written twice or empty references, tokens by number or name (<[1]>, <think>).
 * The one thing to know: what has no recursion becomes one terminal, however many rules it is spread over. */
#ifndef KVI_GBNF_H
#define KVI_GBNF_H
#include "grammar.h"

/* Finished grammars. Errors: GRAMMAR with line and column, NOMEM_HOST. */
kvrt_status kvi_gbnf_compile(const char *text, size_t len, kvi_grammar_limits limits, kvi_grammar **out,
                             kvrt_error *error);
/* A text that is all of it what the expression matches. */
kvrt_status kvi_regex_grammar(const char *text, size_t len, kvi_grammar_limits limits, kvi_grammar **out,
                              kvrt_error *error);

#endif
