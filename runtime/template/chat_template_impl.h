/* chat_template_impl.h - the inside of a parsed template, for the files chat_template*.c. */
#ifndef KVI_CHAT_TEMPLATE_IMPL_H
#define KVI_CHAT_TEMPLATE_IMPL_H
#include "chat_template.h"
#include "interpret.h"

/* A special token by the name templates use: "bos_token". */
typedef struct kvi_chat_token {
    char *name, *text;
} kvi_chat_token;

struct kvi_chat_template {
    kvi_jinja_ctx ctx; /* its arena holds the tree */
    kvi_jinja_names names;
    kvi_jinja_node *body;
    bool takes_parts; /* lists of parts reach it as they are */
    kvrt_error first;
    char *name;
    char *missing;                      /* why there is nothing to render without tools, NULL: there is */
    struct kvi_chat_template *tool_use; /* rendered instead when tools are given; NULL: none */
    kvi_chat_token *tokens;             // (n_tokens)
    size_t n_tokens, cap_tokens;
    char *source; /* NUL-terminated, for kvi_chat_template_mentions */
};

/* A later text replaces an earlier one; NULL removes it. False: out of memory. */
bool kvi_chat_template_set_token(kvi_chat_template *t, const char *name, const char *text, size_t len);

/* chat_parts.c */
bool kvi_chat_takes_parts(const kvi_jinja_node *body);
bool kvi_chat_mentions(const kvi_jinja_node *body, const char *text); /* as a string constant */

#endif
