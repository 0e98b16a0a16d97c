/* format.h - Python's ways to lay out a value: format(value, spec), str % args, str.format. To know: what comes out of
 * the format string or of a string argument keeps its tag; digits, signs and fill are TEXT. */
#ifndef KVI_JINJA_FORMAT_H
#define KVI_JINJA_FORMAT_H
#include "args.h"

/* [[fill]align][sign][z][#][0][width][,][.precision][type] */
typedef struct kvi_jinja_spec {
    char fill[4];
    size_t fill_len;
    char align; /* < > = ^, 0: as the type has it */
    char sign;  /* + - or space */
    bool no_negative_zero, alternate;
    int64_t width, precision; /* precision -1: not given */
    char group;               /* , or _ or 0 */
    char type;                /* 0: none */
} kvi_jinja_spec;

/* Appends format(value, spec). */
void kvi_jinja_format_value(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, const char *spec,
                            size_t len);
/* A string cut to the precision and padded to the width. */
void kvi_jinja_format_text(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s,
                           const kvi_jinja_spec *spec);
/* An integer by type d b o x X with at least `min_digits` digits; a float by type e f g % and their capitals, 0: repr. */
void kvi_jinja_format_int(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, size_t min_digits,
                          const kvi_jinja_spec *spec);
void kvi_jinja_format_float(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, double f, const kvi_jinja_spec *spec);
/* ascii(value): repr with everything beyond ASCII escaped. */
kvi_jinja_value kvi_jinja_ascii(kvi_jinja_ctx *ctx, kvi_jinja_value value);

kvi_jinja_value kvi_jinja_percent(kvi_jinja_ctx *ctx, const kvi_jinja_str *format, kvi_jinja_value args);
/* str.format(*args) and str.format_map(mapping), which is NULL for the former. */
kvi_jinja_value kvi_jinja_str_format(kvi_jinja_interp *in, const kvi_jinja_str *format, const kvi_jinja_args *args,
                                     const kvi_jinja_dict *mapping);

#endif
