/* call_grammar.h - the grammar of a text in which tools may be called, or must be: text is free, a call's name is one of the tools', its arguments
 * satisfy that tool's schema. The formats are those of calls.h, as templates write them.
 * Owns: the spelling of tokens that are marks. Refuses: what schema.h refuses, of tools that say "strict": true; arguments of the others are held
 * to being an object then, with a warning.
 * The one thing to know: marks that are one token of the vocabulary (`single`) are in this grammar two bytes that no text has: KVI_CALL_MARK and a
 * number, so that text which merely spells a mark is never taken for it. In free text a spelled mark begins a call as well, as calls.c reads it. */
#ifndef KVI_CALL_GRAMMAR_H
#define KVI_CALL_GRAMMAR_H
#include "calls.h"
#include "grammar.h"

#define KVI_CALL_MARK 0xffu /* then 1 + the mark's number, or KVI_CALL_OTHER */
#define KVI_CALL_OTHER 0u   /* any other token without text */
#define KVI_CALL_MARKS 18u

/* The spelling of a mark; those from KVI_CALL_HEADERS on are gpt-oss' own. */
#define KVI_CALL_HEADERS 13u
extern const char *const kvi_call_marks[KVI_CALL_MARKS];

typedef enum kvi_call_style {
    KVI_CALL_STYLE_JSON,     /* <tool_call>{"name": ..., "arguments": ...}</tool_call> */
    KVI_CALL_STYLE_FUNCTION, /* <tool_call><function=f> ... */
    KVI_CALL_STYLE_ARG_KEY,  /* <tool_call>f<arg_key> ... */
    KVI_CALL_STYLE_LLAMA,
    KVI_CALL_STYLE_LIST, /* [TOOL_CALLS][{...}] */
    KVI_CALL_STYLE_ARGS, /* [TOOL_CALLS]f[ARGS]{...} */
    KVI_CALL_STYLE_GEMMA,
    KVI_CALL_STYLE_HARMONY /* the text is the stream of tokens with its headers; it begins in one */
} kvi_call_style;

typedef struct kvi_call_rules {
    kvi_call_style style;
    uint32_t single;  /* a bit per mark */
    bool required;    /* the text is one call or several, and nothing else (reasoning aside) */
    const char *only; /* (only_len) the one tool that is called, once; NULL: any */
    size_t only_len;
    kvi_json_value *tools;  /* an array; notes in it are changed */
    kvi_json_value *schema; /* that a text without calls must satisfy; NULL: any text */
} kvi_call_rules;

/* A finished grammar. Errors: ARG (no such tool), GRAMMAR by tool, place and keyword, NOMEM_HOST. */
kvrt_status kvi_call_grammar(const kvi_call_rules *rules, kvi_grammar_limits limits, kvi_grammar **out,
                             kvrt_error *error);

#endif
