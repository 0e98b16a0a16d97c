/* weight_form.h - what a weight is made of: its form, the parts a form has, and the size of each. One source of truth for the checkpoint,
 * the kernels, device code and the tests, as kv/layout.h is for the cache. Pure arithmetic. What the numbers mean: weight_codec.h.
 *
 *   weight = n_experts matrices (n_out, n_in), each stored row by row along n_in, in up to eight parts:
 *
 *     CODES        (n_out, blocks of a row)                 a block is `block` neighbours of a row in `bytes` bytes
 *     SCALES       (n_out / group_rows, n_in / group)       both rounded up; one scale for that many rows and neighbours
 *     ZEROS        like SCALES, a byte each                 the code that means zero; absent: the middle
 *     GLOBAL       one f32                                  multiplies every scale, or divides it (global_divides)
 *     GROUPS       uint32 (n_in)                            column k belongs to group GROUPS[k]; absent: to group k / group
 *     MINS         like SCALES                              what code 0 means
 *     SCALE_MAP    256 f32                                  SCALES are bytes then: a scale is SCALE_MAP[byte] * SCALE_SCALES[i / scale_group] +
 *     SCALE_SCALES f32, one for scale_group SCALES          scale_add, i counting all scales of the matrix (bitsandbytes' double quantization)
 *
 * A part of expert e follows that of expert e - 1, unless the experts have places of their own (`experts`). Numbers are little-endian and may
 * stand at any address. GGUF blocks bring their scales inside the block and have CODES alone.
 *
 * A weight may be some of the rows of a tensor that files keep in one piece (q, k and v in one; head by head; gate and up one row after the
 * other): then the parts above are those of the whole tensor of `rows.of` rows, and the weight's rows are runs of `run` neighbours there, `step`
 * apart: row r is its row first + r / run * step + r % run.
 *
 * Integers (I4, I8) are read where other libraries put them, so their parts may lie in another order than the one above (kvi_part_order):
 *
 *     codes of GPTQ   words (n_in / 8, n_out)     a word holds 8 neighbours of a row,     lowest bits first
 *     codes of AWQ    words (n_in, n_out / 8)     a word holds 8 neighbours of a column,  in the order 0 2 4 6 1 3 5 7
 *     their zeros     words (groups, n_out / 8)   likewise along a column; their scales (groups, n_out) */
#ifndef KVI_WEIGHT_FORM_H
#define KVI_WEIGHT_FORM_H
#include "../base/element.h"
#include <stdbool.h>

typedef enum kvi_weight_part {
    KVI_PART_CODES,
    KVI_PART_SCALES,
    KVI_PART_ZEROS,
    KVI_PART_GLOBAL,
    KVI_PART_GROUPS,
    KVI_PART_MINS,
    KVI_PART_SCALE_MAP,
    KVI_PART_SCALE_SCALES,
    KVI_WEIGHT_PARTS
} kvi_weight_part;

/* What a scale is stored as. */
typedef enum kvi_scale_kind {
    KVI_SCALE_NONE,  /* the form has none beside its codes */
    KVI_SCALE_PLAIN, /* a number of desc.scale_type */
    KVI_SCALE_E8M0,  /* a byte e: 2^(e - 127) */
    KVI_SCALE_E4M3   /* a byte, as the codes of F8_E4M3 */
} kvi_scale_kind;

/* X(NAME, text, block, bytes of a block, kind of scale, parts needed beside codes, parts allowed) */
#define KVI_WEIGHT_FORMS(X)                                                                                            \
    X(F32, "f32", 1, 4, NONE, 0, 0)                                                                                    \
    X(F16, "f16", 1, 2, NONE, 0, 0)                                                                                    \
    X(BF16, "bf16", 1, 2, NONE, 0, 0)                                                                                  \
    X(F64, "f64", 1, 8, NONE, 0, 0)                                                                                    \
    X(F8_E4M3, "f8_e4m3", 1, 1, PLAIN, KVI_HAS_SCALES, KVI_HAS_GLOBAL)                                                 \
    X(F8_E5M2, "f8_e5m2", 1, 1, PLAIN, KVI_HAS_SCALES, KVI_HAS_GLOBAL)                                                 \
    X(MXFP8, "mxfp8", 1, 1, E8M0, KVI_HAS_SCALES, 0)                                                                   \
    X(I8, "i8", 1, 1, PLAIN, KVI_HAS_SCALES, KVI_HAS_ZEROS | KVI_HAS_GROUPS)                                           \
    X(I4, "i4", 8, 4, PLAIN, KVI_HAS_SCALES, KVI_HAS_ZEROS | KVI_HAS_GROUPS)                                           \
    X(A2, "a2", 8, 2, PLAIN, KVI_HAS_SCALES | KVI_HAS_MINS, 0)                                                         \
    X(A3, "a3", 8, 3, PLAIN, KVI_HAS_SCALES | KVI_HAS_MINS, 0)                                                         \
    X(A4, "a4", 8, 4, PLAIN, KVI_HAS_SCALES | KVI_HAS_MINS, 0)                                                         \
    X(A5, "a5", 8, 5, PLAIN, KVI_HAS_SCALES | KVI_HAS_MINS, 0)                                                         \
    X(A6, "a6", 8, 6, PLAIN, KVI_HAS_SCALES | KVI_HAS_MINS, 0)                                                         \
    X(A8, "a8", 8, 8, PLAIN, KVI_HAS_SCALES | KVI_HAS_MINS, 0)                                                         \
    X(NF4, "nf4", 2, 1, PLAIN, KVI_HAS_SCALES, KVI_HAS_NESTED)                                                         \
    X(BNB_FP4, "bnb_fp4", 2, 1, PLAIN, KVI_HAS_SCALES, KVI_HAS_NESTED)                                                 \
    X(BNB_I8, "bnb_i8", 1, 1, PLAIN, KVI_HAS_SCALES, 0)                                                                \
    X(MXFP4, "mxfp4", 2, 1, E8M0, KVI_HAS_SCALES, 0)                                                                   \
    X(NVFP4, "nvfp4", 2, 1, E4M3, KVI_HAS_SCALES | KVI_HAS_GLOBAL, 0)                                                  \
    X(Q4_0, "q4_0", 32, 18, NONE, 0, 0)                                                                                \
    X(Q4_1, "q4_1", 32, 20, NONE, 0, 0)                                                                                \
    X(Q5_0, "q5_0", 32, 22, NONE, 0, 0)                                                                                \
    X(Q5_1, "q5_1", 32, 24, NONE, 0, 0)                                                                                \
    X(Q8_0, "q8_0", 32, 34, NONE, 0, 0)                                                                                \
    X(Q2_K, "q2_k", 256, 84, NONE, 0, 0)                                                                               \
    X(Q3_K, "q3_k", 256, 110, NONE, 0, 0)                                                                              \
    X(Q4_K, "q4_k", 256, 144, NONE, 0, 0)                                                                              \
    X(Q5_K, "q5_k", 256, 176, NONE, 0, 0)                                                                              \
    X(Q6_K, "q6_k", 256, 210, NONE, 0, 0)                                                                              \
    X(IQ4_NL, "iq4_nl", 32, 18, NONE, 0, 0)                                                                            \
    X(IQ4_XS, "iq4_xs", 256, 136, NONE, 0, 0)                                                                          \
    X(MXFP4_BLOCK, "mxfp4_block", 32, 17, NONE, 0, 0)                                                                  \
    X(NVFP4_BLOCK, "nvfp4_block", 64, 36, NONE, 0, 0)

enum {
    KVI_HAS_SCALES = 1 << KVI_PART_SCALES,
    KVI_HAS_ZEROS = 1 << KVI_PART_ZEROS,
    KVI_HAS_GLOBAL = 1 << KVI_PART_GLOBAL,
    KVI_HAS_GROUPS = 1 << KVI_PART_GROUPS,
    KVI_HAS_MINS = 1 << KVI_PART_MINS,
    KVI_HAS_NESTED = 1 << KVI_PART_SCALE_MAP | 1 << KVI_PART_SCALE_SCALES
};

/* Numbers of its own: neither kvi_dtype nor kvi_kv_code. NONE is what no weight can be (integers, booleans). */
typedef enum kvi_weight_form {
#define KVI_FORM_ENUM(NAME, text, block, bytes, scale, need, may) KVI_FORM_##NAME,
    KVI_WEIGHT_FORMS(KVI_FORM_ENUM)
#undef KVI_FORM_ENUM
        KVI_FORM_COUNT,
    KVI_FORM_NONE = KVI_FORM_COUNT
} kvi_weight_form;
#define KVI_MAX_FORM_BLOCK 256u

/* Where the integers of a part lie. */
typedef enum kvi_packing {
    KVI_PACK_NONE,         /* row by row without gaps, codes as blocks of the form, zeros as bytes */
    KVI_PACK_ALONG_ROW,    /* in 32-bit words of neighbours of a row, lowest bits first */
    KVI_PACK_ALONG_COLUMN, /* in words of neighbours of a column, lowest bits first */
    KVI_PACK_AWQ           /* in words of 8 neighbours of a column, which stand there in the order 0 2 4 6 1 3 5 7 */
} kvi_packing;

/* How far the next one of each direction is, in words (scales: in scales). Both 0: row by row without gaps. */
typedef struct kvi_part_order {
    kvi_packing packing; /* zeros have as many bits as codes */
    uint32_t row, column;
} kvi_part_order;

/* Which rows of a tensor a weight is; all zero: the whole tensor. */
typedef struct kvi_weight_rows {
    uint32_t first, run, step, of; /* run 0: all are neighbours; of 0: n_out */
} kvi_weight_rows;

/* Where the parts of one expert begin. */
typedef struct kvi_expert_parts {
    const void *parts[KVI_WEIGHT_PARTS];
} kvi_expert_parts;

/* A weight as it lies in memory, or, where `source` is set, as a backend makes it of another one on import. What `parts` and `experts` point to
 * outlives the weight that a backend makes of it, unless that copies. */
typedef struct kvi_weight_desc {
    const char *name; /* for messages; outlives the weight */
    kvi_weight_form form;
    uint32_t n_out;       /* rows; 1 for a vector */
    uint32_t n_in;        /* columns */
    uint32_t n_experts;   /* 0 or 1: one matrix */
    uint32_t group;       /* neighbours of a row that share a scale; 0: the whole row */
    uint32_t group_rows;  /* rows that share scales; 0 or 1: every row has its own */
    kvi_dtype scale_type; /* of SCALES and MINS, where the form does not say */
    bool global_divides;  /* a scale is divided by GLOBAL, as compressed-tensors has it */
    bool is_unsigned;     /* I8: codes are 0..255, and 128 is the middle; else they are signed bytes */
    bool signed_zeros;    /* zeros that are bytes count from the middle; else as the codes do */
    kvi_part_order code_order, scale_order, zero_order;
    uint32_t scale_group; /* of SCALE_SCALES */
    float scale_add;      /* where there is a SCALE_MAP */
    uint32_t zero_add;    /* added to every word of packed zeros (GPTQ's first format stores them less one) */
    float add;            /* vectors: added to every element on import (1 where a family stores gains as w - 1) */
    const void *parts[KVI_WEIGHT_PARTS]; /* NULL: absent. With `experts`: those of the first one */
    kvi_weight_rows rows;
    bool looked_up;  /* single rows are read and nothing is multiplied by it: an embedding that is not the head too */
    bool transposed; /* plain forms: CODES of an expert are (n_in, rows.of), column after column */
    const kvi_expert_parts *experts; /* (n_experts), when they are tensors of their own; NULL: one behind the other */
    const void *
        made; /* the form that the backend would make of it, made before (backend.h, kept_bytes); outlives the weight; NULL: none */
    const struct kvi_weight_desc
        *source; /* no parts: rows are to be rounded from it, by kvi_quantize_rows; valid during the import */
} kvi_weight_desc;

typedef struct kvi_form_info {
    const char *name;            /* "q4_k" */
    uint16_t block, block_bytes; /* elements of a block of codes, and its bytes */
    kvi_scale_kind scale;
    uint32_t needs, allows; /* parts beside the codes, KVI_HAS_*: those it must have, those it may have */
} kvi_form_info;

KVI_HD static inline const kvi_form_info *kvi_form(kvi_weight_form form)
{
#define KVI_FORM_ROW(NAME, text, block, bytes, scale, need, may)                                                       \
    {text, block, bytes, KVI_SCALE_##scale, need, (need) | (may)},
    static const kvi_form_info forms[KVI_FORM_COUNT + 1] = {
        KVI_WEIGHT_FORMS(KVI_FORM_ROW){"none", 1, 0, KVI_SCALE_NONE, 0, 0}};
#undef KVI_FORM_ROW
    return &forms[form];
}

/* Forms whose elements are plain numbers of a kvi_dtype, so that any kernel for rows of numbers reads them. */
KVI_HD static inline int kvi_form_is_plain(kvi_weight_form form)
{
    return form == KVI_FORM_F32 || form == KVI_FORM_F16 || form == KVI_FORM_BF16;
}
KVI_HD static inline kvi_dtype kvi_form_dtype(kvi_weight_form plain)
{
    return plain == KVI_FORM_F16 ? KVI_F16 : plain == KVI_FORM_BF16 ? KVI_BF16 : KVI_F32;
}
static inline kvi_weight_form kvi_form_of_dtype(kvi_dtype dtype)
{
    return dtype == KVI_F16 ? KVI_FORM_F16 : dtype == KVI_BF16 ? KVI_FORM_BF16 : KVI_FORM_F32;
}

/* ------------------------------------------------------------------------------------------------------- sizes --- */
KVI_HD static inline uint64_t kvi_weight_row_bytes(kvi_weight_form form, uint32_t n_in)
{
    const kvi_form_info *info = kvi_form(form);
    return (n_in + info->block - 1u) / info->block * (uint64_t)info->block_bytes;
}
KVI_HD static inline uint32_t kvi_weight_groups(const kvi_weight_desc *w) /* scales of a row */
{
    return w->group ? (w->n_in + w->group - 1u) / w->group : 1u;
}
KVI_HD static inline uint32_t kvi_weight_scale_bytes(const kvi_weight_desc *w) /* of one scale */
{
    const kvi_scale_kind kind = kvi_form(w->form)->scale;
    if (w->parts[KVI_PART_SCALE_MAP]) return 1;
    return kind == KVI_SCALE_PLAIN ? kvi_dtype_bytes(w->scale_type) : kind != KVI_SCALE_NONE;
}
/* Rows of the tensor that the weight is of. */
KVI_HD static inline uint32_t kvi_weight_tensor_rows(const kvi_weight_desc *w)
{
    return w->rows.of ? w->rows.of : w->n_out;
}
/* Where row `row` of the weight stands in that tensor. */
KVI_HD static inline uint32_t kvi_weight_tensor_row(const kvi_weight_desc *w, uint32_t row)
{
    const kvi_weight_rows *rows = &w->rows;
    return rows->first + (rows->run ? row / rows->run * rows->step + row % rows->run : row);
}
/* How many rows from `row` on are neighbours in memory, so that a kernel may walk them; 0 where none are. */
KVI_HD static inline uint32_t kvi_weight_neighbours(const kvi_weight_desc *w, uint32_t row)
{
    if (w->transposed) return 0;
    return w->rows.run ? w->rows.run - row % w->rows.run : w->n_out - row;
}
KVI_HD static inline int kvi_weight_rows_are_neighbours(const kvi_weight_desc *w)
{
    return !w->transposed && !w->rows.run;
}
/* Bytes that `n_rows` rows of a part of one expert take, present or not. */
KVI_HD static inline uint64_t kvi_weight_rows_bytes(const kvi_weight_desc *w, kvi_weight_part part, uint32_t n_rows)
{
    const uint32_t rows = w->group_rows > 1u ? (n_rows + w->group_rows - 1u) / w->group_rows : n_rows;
    const uint64_t n_scales = (uint64_t)rows * kvi_weight_groups(w);
    switch (part) {
    case KVI_PART_CODES: return n_rows * kvi_weight_row_bytes(w->form, w->n_in);
    case KVI_PART_SCALES:
    case KVI_PART_MINS: return n_scales * kvi_weight_scale_bytes(w);
    case KVI_PART_ZEROS: return w->zero_order.packing && w->form == KVI_FORM_I4 ? (n_scales + 1u) / 2u : n_scales;
    case KVI_PART_GLOBAL: return 4;
    case KVI_PART_SCALE_MAP: return 1024;
    case KVI_PART_SCALE_SCALES: return w->scale_group ? (n_scales + w->scale_group - 1u) / w->scale_group * 4u : 0;
    default: return (uint64_t)w->n_in * 4u;
    }
}
/* Bytes of a part of one expert of the weight. */
KVI_HD static inline uint64_t kvi_weight_part_bytes(const kvi_weight_desc *w, kvi_weight_part part)
{
    return kvi_weight_rows_bytes(w, part, w->n_out);
}
/* Bytes of the whole weight: codes, what the form needs beside them, and what else is there. */
static inline uint64_t kvi_weight_bytes(const kvi_weight_desc *w)
{
    uint64_t bytes = kvi_weight_part_bytes(w, KVI_PART_CODES);
    for (int p = KVI_PART_CODES + 1; p < KVI_WEIGHT_PARTS; p++)
        if (w->parts[p] || (kvi_form(w->form)->needs >> p & 1u)) bytes += kvi_weight_part_bytes(w, (kvi_weight_part)p);
    return bytes * (w->n_experts > 1u ? w->n_experts : 1u);
}
/* Whether two weights differ in nothing but what their parts hold, so that they can be experts of one weight. */
static inline bool kvi_weight_same_layout(const kvi_weight_desc *a, const kvi_weight_desc *b)
{
    const kvi_part_order *const x[] = {&a->code_order, &a->scale_order, &a->zero_order}, *const y[] = {&b->code_order,
                                                                                                       &b->scale_order,
                                                                                                       &b->zero_order};
    bool same = a->form == b->form && a->n_out == b->n_out && a->n_in == b->n_in && a->group == b->group &&
                a->group_rows == b->group_rows && a->scale_type == b->scale_type && a->is_unsigned == b->is_unsigned &&
                a->signed_zeros == b->signed_zeros && a->zero_add == b->zero_add &&
                a->global_divides == b->global_divides && a->scale_group == b->scale_group &&
                a->scale_add == b->scale_add && a->transposed == b->transposed;
    for (int p = 0; p < KVI_WEIGHT_PARTS; p++) same = same && !a->parts[p] == !b->parts[p];
    for (int i = 0; i < 3; i++)
        same = same && x[i]->packing == y[i]->packing && x[i]->row == y[i]->row && x[i]->column == y[i]->column;
    return same;
}
/* Start of a part of one expert, of the tensor that the weight is of. */
KVI_HD static inline const uint8_t *kvi_weight_part_at(const kvi_weight_desc *w, kvi_weight_part part, uint32_t expert)
{
    if (w->experts) return (const uint8_t *)w->experts[expert].parts[part];
    return (const uint8_t *)w->parts[part] + expert * kvi_weight_rows_bytes(w, part, kvi_weight_tensor_rows(w));
}

#endif
