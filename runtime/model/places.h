/* places.h - which weights a model has: of each its shape, where it may stand in a checkpoint, the keys of config.json that say so, and
 * where its handle goes. Binding (weights.c) walks this list and knows no model.
 * Names are kvrt's own: those of Llama's files, and for what Llama has not, of the first family that has it. families.c says what else a
 * family calls them, gguf_tensors.c what llama.cpp does. */
#ifndef KVI_PLACES_H
#define KVI_PLACES_H
#include "config.h"
#include "../../kernels/backend.h"

/* A gated feed-forward part, or all experts of one: (ffn, hidden), (ffn, hidden), (hidden, ffn); biases or NULL. */
typedef struct kvi_mlp_weights {
    const kvi_weight *gate, *up, *down;
    const kvi_weight *gate_bias, *up_bias, *down_bias;
} kvi_mlp_weights;

/* Handles of a layer; NULL where the layer has no such weight. Shapes are (n_out, n_in). */
typedef struct kvi_layer_weights {
    const kvi_weight *input_norm, *post_norm;          /* (hidden) before the mixer, before the feed-forward part */
    const kvi_weight *mixer_post_norm, *ffn_post_norm; /* (hidden) behind them */
    /* attention */
    const kvi_weight *q, *k, *v;                            /* (heads * D, hidden) */
    const kvi_weight *q_bias, *k_bias, *v_bias;             /* (heads * D) */
    const kvi_weight *q_norm, *k_norm;                      /* (D), or (heads * D) */
    const kvi_weight *attention_gate, *attention_gate_bias; /* (heads * D, hidden) */
    const kvi_weight *sinks;                                /* (heads) */
    const kvi_weight *o, *o_bias;                           /* (hidden, n_heads * D) */
    /* latent attention: a latent of C and a roped key of P, N and V of a head; q (H (N + P), hidden or q_rank) and o (hidden, H V) as above */
    const kvi_weight *q_a, *q_a_bias, *q_a_norm;    /* (q_rank, hidden), (q_rank) twice */
    const kvi_weight *kv_a, *kv_a_bias, *kv_a_norm; /* (C + P, hidden), (C + P), (C) */
    const kvi_weight *kv_b;                         /* (H (N + V), C), or with `split` */
    const kvi_weight *k_b, *v_b;                    /* (H C, N), (H V, C) */
    /* gated delta rule: K key heads of dk, V value heads of dv */
    const kvi_weight *delta_q, *delta_k, *delta_v; /* (K dk, hidden) twice, (V dv, hidden) */
    const kvi_weight *delta_z;                     /* (V dv, hidden) */
    const kvi_weight *delta_b, *delta_a;           /* (V, hidden) */
    const kvi_weight *conv;                        /* (2 K dk + V dv, taps) */
    const kvi_weight *decay, *decay_shift;         /* (V): A_log, dt_bias */
    const kvi_weight *delta_norm, *delta_out;      /* (dv); (hidden, V dv) */
    /* feed-forward part */
    kvi_mlp_weights mlp, shared, experts;
    const kvi_weight *shared_gate;                       /* (1, hidden) */
    const kvi_weight *router, *router_bias, *correction; /* (n_experts, hidden), (n_experts) twice */
    /* Gemma 4 */
    const kvi_weight *layer_scalar; /* (1) */
    const kvi_weight *input_gate, *input_projection,
        *input_norm_after;                        /* (layer_input, hidden), (hidden, layer_input), (hidden) */
    const kvi_weight *router_norm, *expert_scale; /* (hidden), (n_experts) */
    const kvi_weight *dense_post_norm, *experts_norm, *experts_post_norm; /* (hidden) */
} kvi_layer_weights;

/* Of the layer that looks one token further (record_ahead.c), beside those of every layer. */
typedef struct kvi_ahead_weights {
    const kvi_weight *projection;                      /* (hidden, 2 hidden) */
    const kvi_weight *embed_norm, *hidden_norm, *norm; /* (hidden) */
} kvi_ahead_weights;

/* A tensor that a weight may come from. */
typedef struct kvi_place_source {
    const char *name;     /* within its layer; NULL: none */
    kvi_weight_rows rows; /* which of its rows the weight is (of vectors: which elements); zero: all */
    bool per_expert; /* one tensor for each expert, `name` has a %u; else all experts are one tensor (n_experts, ...) */
    bool transposed; /* (n_in, rows) */
    uint32_t stacked; /* above 1: its rows are so many matrices, (stacked, rows / stacked, n_in) */
    bool minus_exp;   /* vectors: x stands there as -exp(x) */
} kvi_place_source;

/* Matrices are small numbers around zero. Vectors: */
typedef enum kvi_synthetic { KVI_SYNTHETIC_GAIN /* around one */, KVI_SYNTHETIC_BIAS /* around zero */ } kvi_synthetic;

#define KVI_PLACE_SOURCES 4u
typedef struct kvi_place {
    const char *name;                            /* what messages about synthetic weights call it */
    uint32_t n_out, n_in;                        /* of one matrix; n_in 0: a vector of n_out */
    uint32_t n_experts, n_used;                  /* so many matrices, of which a token needs n_used; 0: one */
    const char *why;                             /* the keys of config.json that the shape comes from */
    float add;                                   /* vectors: files store them without it */
    bool looked_up;                              /* see kvi_weight_desc */
    uint32_t n_in_beside;                        /* of the experts' other matrices, which are rounded alike; 0: none */
    bool keeps_bits;                             /* too small or too delicate to be rounded (fewer_bits.h) */
    kvi_synthetic synthetic;                     /* what synthetic weights have here */
    size_t slot;                                 /* offset of the handle in kvi_layer_weights */
    kvi_place_source sources[KVI_PLACE_SOURCES]; /* the first that the checkpoint has counts */
} kvi_place;

/* The places of a layer, into out (KVI_MAX_PLACES); returns how many. */
#define KVI_MAX_PLACES 64u
uint32_t kvi_layer_places(const kvi_model_config *config, uint32_t layer, kvi_place *out);

/* Those outside the layers; their slots mean nothing. */
kvi_place kvi_embed_place(const kvi_model_config *config);
kvi_place kvi_norm_place(const kvi_model_config *config);
kvi_place kvi_head_place(const kvi_model_config *config);
/* Of layer_input: the embeddings of all layers side by side (vocab, n_layers * layer_input), what they get from the hidden ones
 * (n_layers * layer_input, hidden), its norm (layer_input). */
kvi_place kvi_input_embed_place(const kvi_model_config *config);
kvi_place kvi_input_projection_place(const kvi_model_config *config);
kvi_place kvi_input_norm_place(const kvi_model_config *config);

/* Of kvi_ahead_weights; their slots are offsets in it. Returns how many. */
#define KVI_AHEAD_PLACES 4u
uint32_t kvi_ahead_places(const kvi_model_config *config, kvi_place *out);

/* Parameters of the model, from its shape alone. */
uint64_t kvi_config_params(const kvi_model_config *config);

#define KVI_NAME_EMBED "model.embed_tokens.weight"
#define KVI_NAME_NORM "model.norm.weight"
#define KVI_NAME_HEAD "lm_head.weight"
#define KVI_NAME_LAYER "model.layers.%u.%s" /* layer, name of a source */
#define KVI_NAME_AHEAD "mtp.layers.%u.%s"   /* the same of layers behind the last */

#endif
