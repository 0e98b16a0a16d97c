/* op_cases.h - every operation against its formula in double precision, for any backend. Each function is one test: it
 * fails through cmocka, and visits tables of shapes that stand one below, at and one above every tile edge. */
#ifndef OP_CASES_H
#define OP_CASES_H
#include "op_rig.h"

void op_case_embed(const op_target *target);
void op_case_norm_linear(const op_target *target);
void op_case_linear_add(const op_target *target);
void op_case_norm_gate_up(const op_target *target);
void op_case_head(const op_target *target); /* chosen rows, vocabulary cut into ranges */
void op_case_best(
    const op_target *target); /* the 64 best logits, ties, the sum; nothing where the target has no such entry */
void op_case_rope_append(const op_target *target);       /* q as left behind, K and V as stored */
void op_case_attention(const op_target *target);         /* head sizes, groups, windows, chunks, page edges */
void op_case_attention_special(const op_target *target); /* softcap, sinks, gate, interleaved RoPE, several RoPEs */
void op_case_long_context(const op_target *target);
void op_case_batch(const op_target *target); /* several sequences at once give what each gives alone */

/* What families add to products: activations, post-norm, multiplier, gate, softcap, norms without gains. */
void op_case_linear_special(const op_target *target);
void op_case_route(const op_target *target);      /* every score, groups, correction, ties */
void op_case_experts(const op_target *target);    /* one to all experts, biases, activations, post-norm */
void op_case_conv_state(const op_target *target); /* any cut into steps, several sequences */
void op_case_delta(const op_target *target);      /* the same, and decays near 0 and 1 */
void op_case_delta_long(const op_target *target); /* 4,096 tokens against the chunked form */
void op_case_ahead(const op_target *target);      /* what multi-token prediction does to rows */
void op_case_latent(const op_target *target);     /* latent attention: plain and quantized pages, runs, chunks */

/* Weights of every form: products, embeddings, experts. A backend without a form refuses it by name. */
void op_case_forms(const op_target *target);
void op_case_form_experts(const op_target *target);
void op_case_mixed_forms(const op_target *target); /* weights of several forms in one operation, biases, gate and up */

void op_case_packed(
    const op_target *target);               /* attention over quantized pages, every mix of formats the target reads */
void op_case_tail(const op_target *target); /* every offset of the open page behind a quantized one */
void op_case_convert(const op_target *target); /* pages converted by the device have the bytes of runtime/kv/encode.c */
void op_case_move(const op_target *target);    /* bytes of the pool moved by the device, over themselves too */

/* The same bits: results of two targets (thread counts) and of programs run whole or operation by operation. */
void op_case_same_bits(const op_target *a, const op_target *b);
void op_case_attention_bits(const op_target *a, const op_target *b);
void op_case_experts_bits(const op_target *a, const op_target *b);
void op_case_form_bits(const op_target *a, const op_target *b);
void op_case_latent_bits(const op_target *a, const op_target *b);

/* The cases that every backend passes, for a test of each. */
/* clang-format off */
#define OP_CASES(X)                                                                        \
    X(embed) X(norm_linear) X(linear_add) X(norm_gate_up) X(head) X(rope_append)           \
    X(attention) X(attention_special) X(long_context) X(batch) X(packed) X(tail)           \
    X(linear_special) X(route) X(experts) X(conv_state) X(delta) X(delta_long) X(latent)   \
    X(ahead)                                                                               \
    X(convert) X(move) X(forms) X(form_experts) X(mixed_forms)
/* clang-format on */
/* static test_NAME: the case on every one of `targets`. */
#define OP_CASE_TEST(op)                                                                                               \
    static void test_##op(void **state)                                                                                \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        for (uint32_t i = 0; i < n_targets; i++) op_seed = 7, op_case_##op(&targets[i]);                               \
        op_tally(#op);                                                                                                 \
    }
#define OP_CASE_ENTRY(op) cmocka_unit_test(test_##op),

#endif
