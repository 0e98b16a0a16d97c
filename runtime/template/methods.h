/* methods.h - what the files of string methods share. Each method takes the string and its bound arguments. */
#ifndef KVI_JINJA_METHODS_H
#define KVI_JINJA_METHODS_H
#include "args.h"

#define METHOD(name) kvi_jinja_value name(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
typedef METHOD((*kvi_jinja_method_fn));

typedef struct kvi_jinja_method_row {
    const char *name;
    kvi_jinja_method_fn fn;
    size_t n;                 /* parameters, at most 3 */
    const char *const *names; /* NULL: positional only */
} kvi_jinja_method_row;

/* methods_class.c: is...(); methods_text.c: padding, case, partition. NULL when the name is another's. */
const kvi_jinja_method_row *kvi_jinja_class_method(const char *name);
const kvi_jinja_method_row *kvi_jinja_text_method(const char *name);

#endif
