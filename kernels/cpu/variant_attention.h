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
