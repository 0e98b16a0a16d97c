/* variant_attention.h - attention of a few queries over plain rows of a page, read in place. Part of variant_body.h. */
#define AHEAD 2048u /* bytes: K and V of a page are two sequential runs */

/* The sums of four vectors. */
static inline v4 sum4(vf a, vf b, vf c, vf d)
{
    v4 p = fold(a), q = fold(b), r = fold(c), s = fold(d);
    v4 pq = __builtin_shufflevector(p, q, 0, 4, 1, 5) + __builtin_shufflevector(p, q, 2, 6, 3, 7);
    v4 rs = __builtin_shufflevector(r, s, 0, 4, 1, 5) + __builtin_shufflevector(r, s, 2, 6, 3, 7);
    return __builtin_shufflevector(pq, rs, 0, 1, 4, 5) + __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
}

#if VB > 16
#if VB == 64
#define SHUFFLE(a, b, i, j, k, l)                                                                                      \
    __builtin_shufflevector(a, b, i, j, k, l, 4 + i, 4 + j, 4 + k, 4 + l, 8 + i, 8 + j, 8 + k, 8 + l, 12 + i, 12 + j,  \
                            12 + k, 12 + l)
/* [a, b, c, d], each folded to four numbers. */
INLINE vf fold4(vf a, vf b, vf c, vf d)
{
    const vf p = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31),
             q = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 __builtin_shufflevector(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    return __builtin_shufflevector(p, q, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(p, q, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
#define FOLDED(acc, j, r) fold4(acc[r], acc[4 + r], acc[8 + r], acc[12 + r])
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l, 4 + i, 4 + j, 4 + k, 4 + l)
/* [a, b], each folded to four numbers. */
INLINE vf fold2(vf a, vf b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
#define FOLDED(acc, j, r) fold2(acc[4 * (j) + r], acc[4 * (j) + 4 + r])
#endif

/* Sums of acc[4 j + r] to scores[j * ld + r], with the additions of sum4. A tree for all of them takes two shuffles for an addition of whole
 * vectors: 45 instructions instead of 100 with 512 bits, where the products of heads of 64 are 64 more. */
INLINE void sum16(const vf *acc, float *scores, size_t ld)
{
    for (uint32_t j = 0; j < 4; j += VW / 4) {
        const vf a = FOLDED(acc, j, 0), b = FOLDED(acc, j, 1), c = FOLDED(acc, j, 2), d = FOLDED(acc, j, 3);
        const vf ab = SHUFFLE(a, b, 0, 1, VW, VW + 1) + SHUFFLE(a, b, 2, 3, VW + 2, VW + 3),
                 cd = SHUFFLE(c, d, 0, 1, VW, VW + 1) + SHUFFLE(c, d, 2, 3, VW + 2, VW + 3),
                 total = SHUFFLE(ab, cd, 0, 2, VW, VW + 2) + SHUFFLE(ab, cd, 1, 3, VW + 1, VW + 3);
        const v4 first = __builtin_shufflevector(total, total, 0, 1, 2, 3),
                 second = __builtin_shufflevector(total, total, 4, 5, 6, 7);
        memcpy(scores + j * ld, &first, sizeof first);
        memcpy(scores + (j + 1) * ld, &second, sizeof second);
#if VB == 64
        const v4 third = __builtin_shufflevector(total, total, 8, 9, 10, 11),
                 fourth = __builtin_shufflevector(total, total, 12, 13, 14, 15);
        memcpy(scores + 2 * ld, &third, sizeof third);
        memcpy(scores + 3 * ld, &fourth, sizeof fourth);
#endif
    }
}
#endif

/* Four rows of K from t on against n_q queries, scores[q * ld + t]; n_q and dtype are constants at every call. */
INLINE void score_rows(const unsigned char *k, kvi_dtype dtype, uint32_t d, const float *q, uint32_t n_q, float *scores,
                       size_t ld)
{
    const size_t row = (size_t)d * (dtype == KVI_F32 ? 4u : 2u);
    vf acc[16];
    for (uint32_t i = 0; i < 16; i++) acc[i] = (vf){0};
    for (uint32_t c = 0; c < d; c += VW) {
        vf x[4];
        for (uint32_t j = 0; j < n_q; j++) x[j] = load(q + j * d + c);
        for (uint32_t r = 0; r < 4; r++) {
            vf w = load_as(k + r * row + (size_t)c * (dtype == KVI_F32 ? 4u : 2u), dtype);
            for (uint32_t j = 0; j < n_q; j++) acc[4 * j + r] = fma_vec(w, x[j], acc[4 * j + r]);
        }
    }
#if VB > 16
    if (n_q == 4) {
        sum16(acc, scores, ld);
        return;
    }
#endif
    for (uint32_t j = 0; j < n_q; j++) {
        v4 total = sum4(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]);
        memcpy(scores + j * ld, &total, sizeof total);
    }
}

INLINE void score_typed(const unsigned char *k, kvi_dtype dtype, uint32_t n, uint32_t d, const float *q, uint32_t n_q,
                        float *scores, size_t ld)
{
    const size_t row = (size_t)d * (dtype == KVI_F32 ? 4u : 2u);
    for (uint32_t t = 0; t < n;
         t += 4) { /* rows past n, up to the next multiple of 4, are inside the page; their scores are not used */
        for (size_t at = 0; at < 4 * row; at += 64) __builtin_prefetch(k + t * row + at + AHEAD);
        for (uint32_t j = 0; j < n_q; j += 4) {
            const float *x = q + (size_t)j * d;
            float *to = scores + j * ld + t;
            if (n_q - j >= 4) score_rows(k + t * row, dtype, d, x, 4, to, ld);
            else if (n_q - j == 3) score_rows(k + t * row, dtype, d, x, 3, to, ld);
            else if (n_q - j == 2) score_rows(k + t * row, dtype, d, x, 2, to, ld);
            else score_rows(k + t * row, dtype, d, x, 1, to, ld);
        }
    }
}

static void score(const void *k, kvi_dtype dtype, uint32_t n, uint32_t d, const float *q, uint32_t n_q, float *scores,
                  size_t ld)
{
    if (dtype == KVI_F16) score_typed(k, KVI_F16, n, d, q, n_q, scores, ld);
    else if (dtype == KVI_BF16) score_typed(k, KVI_BF16, n, d, q, n_q, scores, ld);
    else score_typed(k, KVI_F32, n, d, q, n_q, scores, ld);
}

#define BLEND (VB == 64 ? 4u : 2u) /* vectors of V that stay in registers for four queries */

/* n_v vectors of V's columns for n_q queries; n_q, n_v and dtype are constants at every call. */
INLINE void blend_tile(const unsigned char *v, kvi_dtype dtype, uint32_t n, uint32_t d, const float *p, size_t ld,
                       uint32_t n_q, uint32_t n_v, float *acc)
{
    const uint32_t size = dtype == KVI_F32 ? 4u : 2u;
    const size_t row = (size_t)d * size;
    vf sums[16];
    for (uint32_t j = 0; j < n_q; j++)
        for (uint32_t c = 0; c < n_v; c++) sums[j * n_v + c] = load(acc + j * d + c * VW);
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t at = 0; at < n_v * VW * size; at += 64) __builtin_prefetch(v + t * row + at + AHEAD);
        vf x[4];
        for (uint32_t c = 0; c < n_v; c++) x[c] = load_as(v + t * row + (size_t)c * VW * size, dtype);
        for (uint32_t j = 0; j < n_q; j++)
            for (uint32_t c = 0; c < n_v; c++)
                sums[j * n_v + c] = fma_vec(splat(p[j * ld + t]), x[c], sums[j * n_v + c]);
    }
    for (uint32_t j = 0; j < n_q; j++)
        for (uint32_t c = 0; c < n_v; c++) store(acc + j * d + c * VW, sums[j * n_v + c]);
}

INLINE void blend_typed(const unsigned char *v, kvi_dtype dtype, uint32_t n, uint32_t d, const float *p, size_t ld,
                        uint32_t n_q, float *acc)
{
    const uint32_t size = dtype == KVI_F32 ? 4u : 2u;
    for (uint32_t j = 0; j < n_q;) {
        const uint32_t take = n_q - j >= 4 ? 4 : 1;
        for (uint32_t c = 0; c < d;) {
            const bool wide = c + BLEND * VW <= d;
            const unsigned char *from = v + (size_t)c * size;
            if (take == 4 && wide) blend_tile(from, dtype, n, d, p + j * ld, ld, 4, BLEND, acc + (size_t)j * d + c);
            else if (take == 4) blend_tile(from, dtype, n, d, p + j * ld, ld, 4, 1, acc + (size_t)j * d + c);
            else if (wide) blend_tile(from, dtype, n, d, p + j * ld, ld, 1, BLEND, acc + (size_t)j * d + c);
            else blend_tile(from, dtype, n, d, p + j * ld, ld, 1, 1, acc + (size_t)j * d + c);
            c += wide ? BLEND * VW : VW;
        }
        j += take;
    }
}

static void blend(const void *v, kvi_dtype dtype, uint32_t n, uint32_t d, const float *p, size_t ld, uint32_t n_q,
                  float *acc)
{
    if (dtype == KVI_F16) blend_typed(v, KVI_F16, n, d, p, ld, n_q, acc);
    else if (dtype == KVI_BF16) blend_typed(v, KVI_BF16, n, d, p, ld, n_q, acc);
    else blend_typed(v, KVI_F32, n, d, p, ld, n_q, acc);
}
