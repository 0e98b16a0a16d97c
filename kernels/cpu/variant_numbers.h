/* variant_numbers.h - plain numbers to vectors, and sums over a vector: what the other parts of a variant are built from. Part of variant_body.h
 * and of dots_body.h. */
typedef float v4 __attribute__((vector_size(16)));
#if VB == 64
typedef float v8 __attribute__((vector_size(32)));
#endif
typedef uint16_t vh __attribute__((vector_size(VB / 2)));

/* Halves upon each other, in registers: through memory it costs as much as the loop that made the vector. */
static inline v4 fold(vf v)
{
#if VB == 64
    const v8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
#elif VB == 32
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    return v;
#endif
}
/* The same for the larger ones; no NaN comes here. */
#define MOST(a, b)                                                                                                     \
    ((__typeof__(a))(((__typeof__((a) > (b)))(a) & ((a) > (b))) | ((__typeof__((a) > (b)))(b) & ~((a) > (b)))))
static inline v4 fold_most(vf v)
{
#if VB == 64
    const v8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    const v8 b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), m = MOST(a, b);
    const v4 c = __builtin_shufflevector(m, m, 0, 1, 2, 3), d = __builtin_shufflevector(m, m, 4, 5, 6, 7);
    return MOST(c, d);
#elif VB == 32
    const v4 c = __builtin_shufflevector(v, v, 0, 1, 2, 3), d = __builtin_shufflevector(v, v, 4, 5, 6, 7);
    return MOST(c, d);
#else
    return v;
#endif
}
static inline float sum(vf v)
{
    const v4 x = fold(v);
    return (x[0] + x[2]) + (x[1] + x[3]);
}

static inline vf widen_bf16(const uint16_t *p)
{
    vh h;
    memcpy(&h, p, sizeof h);
    vu u = __builtin_convertvector(h, vu) << 16;
    vf v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* One vector of weights, by type; dtype is a constant at every call, so the switch folds. */
INLINE vf load_as(const unsigned char *p, kvi_dtype dtype)
{
    if (dtype == KVI_BF16) return widen_bf16((const uint16_t *)(const void *)p);
    if (dtype == KVI_F16) return widen_f16((const uint16_t *)(const void *)p);
    return load((const float *)(const void *)p);
}
static inline float scalar_as(const unsigned char *p, kvi_dtype dtype)
{
    uint16_t h;
    float f;
    if (dtype == KVI_F32) return memcpy(&f, p, 4), f;
    memcpy(&h, p, 2);
    return dtype == KVI_BF16 ? kvi_bf16_to_f32(h) : kvi_f16_to_f32(h);
}
