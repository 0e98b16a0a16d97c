/* lex.h - a template's text as tokens, whitespace control already applied (trim_blocks and lstrip_blocks are on,
 * as Hugging Face sets them). Refuses: unclosed tags, unknown characters. To know: the token list is made whole before
 * parsing starts. */
#ifndef KVI_JINJA_LEX_H
#define KVI_JINJA_LEX_H
#include "value.h"

typedef enum kvi_jinja_token_type {
    KVI_JINJA_T_DATA,
    KVI_JINJA_T_BLOCK_BEGIN,
    KVI_JINJA_T_BLOCK_END,
    KVI_JINJA_T_PRINT_BEGIN,
    KVI_JINJA_T_PRINT_END,
    KVI_JINJA_T_NAME,
    KVI_JINJA_T_STRING,
    KVI_JINJA_T_INT,
    KVI_JINJA_T_FLOAT,
    KVI_JINJA_T_OP, /* text holds it: "==", "|", ... */
    KVI_JINJA_T_END
} kvi_jinja_token_type;

typedef struct kvi_jinja_token {
    kvi_jinja_token_type type;
    uint32_t line, column;
    const char *text; /* of data, names, operators, and of strings with escapes resolved; in the arena */
    size_t len;
    kvi_jinja_value number;
} kvi_jinja_token;

typedef struct kvi_jinja_tokens {
    kvi_jinja_token *data;
    size_t n, cap;
} kvi_jinja_tokens;

/* False after an error, which names line and column. */
bool kvi_jinja_lex(kvi_jinja_ctx *ctx, const char *source, size_t len, kvi_jinja_tokens *out);

#endif
