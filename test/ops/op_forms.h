/* op_forms.h - random weights of every form, with their values in double by a reading of the formats of its own: nothing of weight_codec.h. */
#ifndef OP_FORMS_H
#define OP_FORMS_H
#include "op_rig.h"

/* Where the integers of I4 and I8 stand. */
typedef enum op_lay {
    OP_LAY_ROWS,
    OP_LAY_GPTQ,    /* codes in words along a row, words of a row n_out apart; zeros along a column, scales by group */
    OP_LAY_GPTQ_V1, /* zeros stored less one */
    OP_LAY_AWQ,     /* codes and zeros in words along a column with AWQ's order; scales by group */
    OP_LAY_GEMV,    /* codes by rows; zeros in words along a row, rows of zeros and scales padded */
    OP_LAY_PACKED   /* codes by rows, scales by rows; zeros in words along a column, of compressed-tensors */
} op_lay;

/* What a random weight is to be like. */
typedef struct op_form {
    kvi_weight_form form;
    uint32_t group, group_rows;
    kvi_dtype scale_type;
    bool zeros, global;
    bool scattered;    /* columns belong to groups in no order */
    bool is_unsigned;  /* I8 */
    op_lay lay;        /* one expert only */
    uint32_t misalign; /* bytes that every part stands off alignment */
    double size;       /* of scales, times some 0.05; 0: 1 */
} op_form;

/* Fills desc, whose n_out, n_in and n_experts are set; parts and values live as long as the rig. values (n_experts, n_out, n_in). */
double *op_form_fill(op_rig *rig, const op_form *form, kvi_weight_desc *desc);

#endif
