/* synthetic.h - weights without a model, for measurements: random codes with scales of an ordinary size. */
#ifndef KVI_SYNTHETIC_H
#define KVI_SYNTHETIC_H
#include "weight_form.h"

/* Groups and type of scales of a synthetic matrix whose form and sizes are set. False: a plain one, which a matrix becomes (F16) whose rows are
 * no whole blocks or groups. */
bool kvi_synthetic_shape(kvi_weight_desc *desc);
/* `bytes` of a part of any such matrix. Plain numbers lie around zero, without structure. */
void kvi_synthetic_fill(kvi_weight_form form, kvi_weight_part part, unsigned char *memory, uint64_t bytes);
#endif
