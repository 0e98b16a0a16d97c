/* quantize_items.h - what kvrt_quantize writes: the tensors of the new folder, under the names that transformers gives them, each with where its
 * numbers come from. A module is what has one name there: q, k and v of Phi-3 together, one matrix of one expert, even where the source keeps all
 * experts in one tensor. Refuses, by tensor, what compressed-tensors has no module for. */
#ifndef KVI_QUANTIZE_ITEMS_H
#define KVI_QUANTIZE_ITEMS_H
#include "engine.h"
#include "../model/quantize.h"
#include "../model/weights.h"

#define KVI_NO_LAYER UINT32_MAX
#define KVI_QUANTIZE_KINDS 32u
#define KVI_QUANTIZE_NAME 168u

/* A tensor of the new folder, or, rounded, the three that take its place. */
typedef struct kvi_quantize_item {
    const kvi_tensor *raw; /* goes as it is, under its own name or that of `module`; NULL: */
    kvi_weight_desc desc;  /* a matrix, of one expert and all rows of its tensor, or a vector */
    bool rounded;       /* to three tensors; else it is module.suffix in F32, or in its own type where that is plain */
    const char *suffix; /* "weight", "bias"; static */
    uint32_t turned;    /* kvi_quantize_gguf_turned */
    const kvi_weight
        *handle;    /* of a weight that it is or holds: that one's inputs are its own. NULL: nobody looks at them */
    uint32_t layer; /* or KVI_NO_LAYER */
    bool is_expert;
    uint32_t kind; /* how: index of `kinds` */
    char module[KVI_QUANTIZE_NAME];
} kvi_quantize_item;

/* Modules that are rounded alike. */
typedef struct kvi_quantize_kind {
    kvi_quantize_args args; /* scale_type is each item's own */
    uint64_t n_weights;
    bool has_experts;
} kvi_quantize_kind;

typedef struct kvi_quantize_items {
    kvi_quantize_item *items; /* layer after layer, the head, then what stays as it is */
    size_t n, cap;
    kvi_quantize_kind kinds[KVI_QUANTIZE_KINDS];
    uint32_t n_kinds;
    bool own_head;           /* shared embeddings, and a head that is rounded */
    const kvi_tensor *embed; /* stays, and is no Linear */
} kvi_quantize_items;

/* Errors: UNSUPPORTED, NOMEM_HOST. kvi_quantize_items_free also after one. */
kvrt_status kvi_quantize_items_find(kvi_engine *e, const kvrt_quantize_params *params, kvi_quantize_items *out,
                                    kvrt_error *error);
void kvi_quantize_items_free(kvi_quantize_items *items);

#endif
