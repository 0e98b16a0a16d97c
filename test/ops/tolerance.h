/* tolerance.h - the limits of the operation tests, each with its reason. A kernel that fails is fixed; these stay.
 * Linear operations: |error| <= TOL * (sum over k of |w_k x_k| + |bias| + |y|). Attention: |error| <= TOL * largest
 * |v|. */
#ifndef OPS_TOLERANCE_H
#define OPS_TOLERANCE_H

#define OPS_LINEAR_F32                                                                                                 \
    1e-6 /* f32 products and sums over up to a thousand terms; the norm in front of them included   \
                             */
#define OPS_LINEAR_AMX                                                                                                 \
    4e-3 /* activations rounded to BF16: at most 2^-9 of each product, 2^-8 once a norm's own rounding is added */
#define OPS_GATED 4.0          /* silu(a) * b passes on the errors of both products: times this */
#define OPS_ATTENTION_F32 1e-5 /* scores carry about 1e-6 absolute, the softmax passes it on */
#define OPS_ATTENTION_FIXED                                                                                            \
    5e-4 /* codes of 4 and 2 bits: 128 of p A, D of q A rounded by up to 2^-16 of the largest, which may be most of a sum: 1e-4 each */
#define OPS_ATTENTION_AMX                                                                                              \
    1e-2 /* more than eight rows: q, K, V and p rounded to BF16, 2^-9 each; scores carry some 5e-3 */
#define OPS_ROTARY_F32                                                                                                 \
    3e-6                  /* of the head's norm: angles exact to f32, then one rotation and up to 8 butterfly stages */
#define OPS_COPY_F32 4e-7 /* a value read back through the identity head: two f32 roundings */

/* CUDA: operands are 16-bit, rounded by at most 2^-11 (F16) or 2^-9 (BF16); products and sums are exact to f32. A value passes
 * at most two roundings on its way (input or norm, output) and a third where the bench reads it back through a norm:
 * sum |p| + 2 |y| roundings are within 1.5 times the measure; the rest is for what f32 adds. */
#define OPS_LINEAR_F16 7.6e-4  /* F16 and F32 weights: operands in F16 */
#define OPS_LINEAR_BF16 3.1e-3 /* BF16 weights: operands in BF16 */
#define OPS_ATTENTION_F16                                                                                              \
    4e-3                    /* q, p and the output rounded to F16: scores carry some 1e-3, the softmax passes it on */
#define OPS_ROTARY_F16 1e-3 /* of the head's norm: three roundings of one element, which is a part of the norm */
#define OPS_COPY_F16 5e-4   /* the bench's own rounding, 2^-11 */

#endif
