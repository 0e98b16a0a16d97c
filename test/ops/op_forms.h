/* op_forms.h - random weights of every form, with their values in double by a reading of the formats of its own: nothing of weight_codec.h. */
#ifndef OP_FORMS_H
#define OP_FORMS_H
#include "op_rig.h"

/* What a random weight is to be like. */
typedef struct op_form {
    kvi_weight_form form;
    uint32_t group, group_rows;
    kvi_dtype scale_type;
    bool zeros, global, permuted;
    uint32_t misalign; /* bytes that every part stands off alignment */
    double size;       /* of scales, times some 0.05; 0: 1 */
} op_form;

/* Fills desc, whose n_out, n_in and n_experts are set; parts and values live as long as the rig. values (n_experts, n_out, n_in). */
double *op_form_fill(op_rig *rig, const op_form *form, kvi_weight_desc *desc);

#endif
