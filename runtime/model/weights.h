/* weights.h - binds the tensors of a checkpoint (or synthetic ones) to the places of a model, and hands them to a backend.
 * Owns the checks of shapes and forms: a model that passes here has every tensor it needs, in a form that the backend computes with. A place
 * is one weight and one or several tensors: its codes, and what belongs to them (scales). */
#ifndef KVI_WEIGHTS_H
#define KVI_WEIGHTS_H
#include "fewer_bits.h"
#include "checkpoint.h"
#include "weight_cache.h"
#include "../../kernels/backend.h"

typedef struct kvi_model_weights {
    const kvi_weight *embed; /* (vocab, hidden) */
    const kvi_weight *norm;  /* (hidden) */
    const kvi_weight *head;  /* (vocab, hidden); equals embed when tied and not stored with other values */
    const kvi_weight *input_embed, *input_projection, *input_norm; /* of layer_input (places.h), or NULL */
    kvi_layer_weights *layers;                                     /* (n_layers + n_ahead) */
    kvi_ahead_weights ahead;                                       /* of n_ahead */
    uint64_t bytes;                                                /* of all tensors bound */
    uint64_t
        read_bytes; /* read per decoded token: all but the embedding rows, the experts it does not choose, and n_ahead */
    uint64_t expert_bytes; /* of `bytes`: experts that are chosen among */
    uint64_t n_params;
    kvi_weight_form form;       /* of most bytes */
    kvi_weight_form embed_form; /* of embed, as stored */
    uint64_t own_bytes;         /* of `bytes`: rounded at open, so that they lie in no file */
    uint64_t facts;             /* checksum of names, forms and shapes: the same for the same kernel forms */
    uint64_t kept_bytes;        /* of the kernel forms that a cache would keep */
    uint64_t taken_bytes;       /* by the backend for the imports */
    uint64_t memory_bytes;      /* of the memory behind synthetic weights, converted ones and tables of experts */
    void *memory;               /* that memory; NULL without a device */
} kvi_model_weights;

/* Called after each tensor; false cancels. */
typedef bool (*kvi_progress_fn)(void *user, uint64_t done, uint64_t total);

/* "bf16" and the other names of kvi_form_info; NONE for any other text. */
kvi_weight_form kvi_form_named(const char *name);

/* The tensor of that name ("model.norm.weight"), also behind the prefixes that stand before a text model: alone, without its head, inside a
 * model that also sees. NULL when absent. */
const kvi_tensor *kvi_weights_find(const kvi_checkpoint *checkpoint, const char *name);

typedef void (*kvi_weight_fn)(void *user, const kvi_weight_desc *desc);

/* What weights are to be: those of a model in the bits they have or in fewer, synthetic ones of a form. */
typedef struct kvi_weight_wish {
    kvi_weight_form form; /* of synthetic matrices */
    bool has_group;       /* synthetic I4 and I8: fewer.group counts */
    kvi_fewer_bits fewer;
    kvi_weight_fn fn; /* called with every weight as it would be imported; NULL: nobody */
    void *user;
    kvi_weight_cache *cache; /* its forms are imported, and written into it where it has none; NULL: no cache */
} kvi_weight_wish;

/* Binds and imports. With checkpoint == NULL the weights are synthetic: small values, different in every row. Without `device` it only checks and
 * counts (the plan); without `backend` not even what an import would take (inspect). */
kvrt_status kvi_weights_bind(const kvi_model_config *config, const kvi_checkpoint *checkpoint,
                             const kvi_weight_wish *wish, const kvi_backend *backend, kvi_device *device,
                             kvi_progress_fn progress, void *user, kvi_model_weights *out, kvrt_error *error);
/* Calls fn for every weight of the model as it is stored; nothing is imported. Errors as kvi_weights_bind. */
kvrt_status kvi_weights_each(const kvi_model_config *config, const kvi_checkpoint *checkpoint, kvi_weight_fn fn,
                             void *user, kvrt_error *error);
/* Frees the tables and the memory; handles belong to the device, which must be closed first. */
void kvi_weights_free(kvi_model_weights *weights);

#endif
