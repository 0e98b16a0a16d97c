/* shapes.h - well-known model shapes, for synthetic measurements and for the plan without a folder. */
#ifndef KVI_SHAPES_H
#define KVI_SHAPES_H
#include "config.h"
/* NULL past the end. */
const char *kvi_shape_name(uint32_t index);
/* `name`, or `name:N` for its first N layers. ARG, with the list of names, when unknown. */
kvrt_status kvi_shape_config(const char *name, kvi_model_config *out, kvrt_error *error);
#endif
