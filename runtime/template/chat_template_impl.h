/* chat_template_impl.h - the inside of a parsed template, for the files chat_template*.c. */
#ifndef KVI_CHAT_TEMPLATE_IMPL_H
#define KVI_CHAT_TEMPLATE_IMPL_H
#include "chat_template.h"
#include "interpret.h"

struct kvi_chat_template {
    kvi_jinja_ctx ctx; /* its arena holds the tree */
    kvi_jinja_names names;
    kvi_jinja_node *body;
    kvrt_error first;
    char *name, *bos, *eos; /* bos and eos may be NULL */
};

#endif
