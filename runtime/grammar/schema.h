/* schema.h - JSON Schema (2020-12, and what older drafts write otherwise) to a grammar of the JSON texts that satisfy it.
 * Owns: what the keywords mean together. Refuses: keywords that a grammar cannot express, by name and place; README.md has the table.
 * The one thing to know: the grammar fixes what JSON leaves open. Properties come in the order of the schema, behind them those that it does not
 * name; white space is as JSON printers write it (README.md). */
#ifndef KVI_SCHEMA_H
#define KVI_SCHEMA_H
#include "grammar.h"

/* A finished grammar. Errors: GRAMMAR: not JSON (line and column), keyword and JSON pointer; NOMEM_HOST. */
kvrt_status kvi_schema_compile(const char *text, size_t len, kvi_grammar_limits limits, kvi_grammar **out,
                               kvrt_error *error);

#endif
