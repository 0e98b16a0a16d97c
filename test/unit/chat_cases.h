/* chat_cases.h - template cases of a JSON file: {"contexts": {name: {...}}, "special": {...}, "templates": {name:
 * text} (or files of a folder), "cases": [{template, case, output, error}]}. Shared by the tests that render them. */
#ifndef CHAT_CASES_H
#define CHAT_CASES_H
#include "runtime/template/chat_template_impl.h"

typedef struct chat_slice {
    const char *text;
    size_t len;
} chat_slice;

typedef struct chat_case {
    char *template_name, *context_name, *output, *error; /* error or output is NULL */
    size_t output_len;
} chat_case;

/* Whole file, NUL-terminated; NULL when absent. */
char *chat_read_file(const char *path, size_t *len);
/* Value of a key of the object `json`; len 0 when absent. */
chat_slice chat_member(chat_slice json, const char *key);
/* Unescaped copy of a JSON string; NULL when it is not a string. */
char *chat_string(chat_slice json, size_t *len);
/* Calls fn for each element of an array. */
void chat_each(chat_slice array, void (*fn)(chat_slice item, void *user), void *user);

/* The first n elements of an array. */
void chat_items(chat_slice array, chat_slice *out, size_t n);

/* Renders with `context` (messages, tools, add_generation_prompt, others) as the cases were made: 2025-07-10
 * 12:00:00, tokens <s> </s>. */
kvrt_status chat_render(kvi_chat_template *t, chat_slice context, kvi_chat_text *out, kvrt_error *error);

#endif
