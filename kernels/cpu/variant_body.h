/* variant_body.h - the source of every variant, compiled once per instruction set by variant_*.c, which define
 *   VARIANT       suffix of the table's name          VB        bytes of a vector (16, 32, 64)
 *   MR            rows of a panel_mac tile            widen_f16, narrow_f16, widen_u8: VW values at a time
 *   fma_vec       a * b + c, fused where the instruction set has it
 * Vectors are the compilers' vector extension, so one text serves all. Contraction is off (-ffp-contract=off), so that
 * the compiler's choices do not change results; where a product is fused, fma_vec says so. */
#include "variants.h"
#include "../../runtime/kv/codec.h"

#include <math.h>
#include <string.h>

typedef float vf __attribute__((vector_size(VB)));
typedef float v4 __attribute__((vector_size(16)));
#if VB == 64
typedef float v8 __attribute__((vector_size(32)));
#endif
typedef int32_t vi __attribute__((vector_size(VB)));
typedef uint32_t vu __attribute__((vector_size(VB)));
typedef uint16_t vh __attribute__((vector_size(VB / 2)));
#define VW ((uint32_t)(VB / 4))
#define PANEL (2u * VW)

static inline vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vf splat(float x) { return x - (vf){0}; }
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

/* ------------------------------------------------------------------------------------------------- 16-bit types --- */
static inline vf fma_vec(vf a, vf b, vf c);
static inline vf widen_f16(const uint16_t *p);
static inline void narrow_f16(vf v, uint16_t *p);
static inline vf widen_u8(const uint8_t *p);

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
static inline __attribute__((always_inline)) vf load_as(const unsigned char *p, kvi_dtype dtype)
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

/* --------------------------------------------------------------------------------------------------------- gemv --- */
#define STREAMS 8u
#define PREFETCH_BYTES 3072u /* decode of the 1B shape: 73% of the bandwidth without, 80..90% with 1.5 to 4 KiB */

/* n_w rows `stride` bytes apart times n_x inputs; n_w, n_x and dtype are constants at every call. */
static inline __attribute__((always_inline)) void dot_block(const unsigned char *w, size_t stride, kvi_dtype dtype,
                                                            uint32_t n_in, uint32_t n_w, const float *x, uint32_t n_x,
                                                            size_t ldx, float *y, size_t y_stride, size_t ldy)
{
    const uint32_t size = dtype == KVI_F32 ? 4u : 2u;
    vf acc[STREAMS * 2u];
    for (uint32_t i = 0; i < n_w * n_x; i++) acc[i] = (vf){0};
    uint32_t k = 0;
    for (; k + VW <= n_in; k += VW) {
        /* The rows of a stream are contiguous, so a fixed distance ahead is right across row ends too. */
        if (n_w == STREAMS && n_x == 1)
            for (uint32_t i = 0; i < n_w; i++) __builtin_prefetch(w + i * stride + (size_t)k * size + PREFETCH_BYTES);
        vf xs[4];
        for (uint32_t j = 0; j < n_x; j++) xs[j] = load(x + j * ldx + k);
        for (uint32_t i = 0; i < n_w; i++) {
            vf ws = load_as(w + i * stride + (size_t)k * size, dtype);
            for (uint32_t j = 0; j < n_x; j++) acc[i * n_x + j] = fma_vec(ws, xs[j], acc[i * n_x + j]);
        }
    }
    for (uint32_t i = 0; i < n_w; i++)
        for (uint32_t j = 0; j < n_x; j++) {
            float total = sum(acc[i * n_x + j]);
            for (uint32_t t = k; t < n_in; t++)
                total += scalar_as(w + i * stride + (size_t)t * size, dtype) * x[j * ldx + t];
            y[j * ldy + i * y_stride] = total;
        }
}

/* Rows are split into STREAMS equal runs, walked side by side. */
static inline __attribute__((always_inline)) void gemv_typed(const unsigned char *w, kvi_dtype dtype, uint32_t n_rows,
                                                             uint32_t n_in, const float *x, uint32_t n_x, size_t ldx,
                                                             float *y, size_t ldy)
{
    const size_t row = (size_t)n_in * (dtype == KVI_F32 ? 4u : 2u);
    const uint32_t run = n_rows / STREAMS;
    for (uint32_t r = 0; r < run; r++) {
        const unsigned char *at = w + r * row;
        if (n_x == 1) dot_block(at, run * row, dtype, n_in, 8, x, 1, ldx, y + r, run, ldy);
        else if (n_x == 2) dot_block(at, run * row, dtype, n_in, 8, x, 2, ldx, y + r, run, ldy);
        else
            for (uint32_t half = 0; half < 2; half++) {
                const unsigned char *from = at + half * 4u * run * row;
                float *to = y + r + half * 4u * run;
                if (n_x == 3) dot_block(from, run * row, dtype, n_in, 4, x, 3, ldx, to, run, ldy);
                else dot_block(from, run * row, dtype, n_in, 4, x, 4, ldx, to, run, ldy);
            }
    }
    for (uint32_t r = run * STREAMS; r < n_rows; r++)
        for (uint32_t j = 0; j < n_x; j++)
            dot_block(w + r * row, row, dtype, n_in, 1, x + j * ldx, 1, ldx, y + r + j * ldy, 1, ldy);
}

static void gemv(const void *w, kvi_dtype dtype, uint32_t n_rows, uint32_t n_in, const float *x, uint32_t n_x,
                 size_t ldx, float *y, size_t ldy)
{
    if (dtype == KVI_BF16) gemv_typed(w, KVI_BF16, n_rows, n_in, x, n_x, ldx, y, ldy);
    else if (dtype == KVI_F16) gemv_typed(w, KVI_F16, n_rows, n_in, x, n_x, ldx, y, ldy);
    else gemv_typed(w, KVI_F32, n_rows, n_in, x, n_x, ldx, y, ldy);
}

/* ------------------------------------------------------------------------------------------------------- panels --- */
static void widen(const void *src, kvi_dtype dtype, uint32_t n, float *dst)
{
    const unsigned char *p = src;
    const uint32_t size = kvi_dtype_bytes(dtype);
    uint32_t i = 0;
    if (dtype == KVI_BF16)
        for (; i + VW <= n; i += VW) store(dst + i, load_as(p + (size_t)i * 2, KVI_BF16));
    else if (dtype == KVI_F16)
        for (; i + VW <= n; i += VW) store(dst + i, load_as(p + (size_t)i * 2, KVI_F16));
    else memcpy(dst, src, (size_t)n * 4), i = n;
    for (; i < n; i++) dst[i] = scalar_as(p + (size_t)i * size, dtype);
}

static void pack(const void *w, kvi_dtype dtype, uint32_t n_rows, size_t n_in, uint32_t k0, uint32_t n_k, float *dst)
{
    enum { BLOCK = 64 };
    const size_t size = kvi_dtype_bytes(dtype);
    float rows[PANEL][BLOCK];
    if (n_rows < PANEL) memset(rows, 0, sizeof rows);
    for (uint32_t k = 0; k < n_k; k += BLOCK) {
        uint32_t n = n_k - k < BLOCK ? n_k - k : BLOCK;
        for (uint32_t r = 0; r < n_rows; r++)
            widen((const unsigned char *)w + (r * n_in + k0 + k) * size, dtype, n, rows[r]);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t r = 0; r < PANEL; r++) dst[(size_t)(k + i) * PANEL + r] = rows[r][i];
    }
}

static inline __attribute__((always_inline)) void mac_tile(const float *a, size_t lda, uint32_t m, uint32_t n_k,
                                                           const float *b, float *c, size_t ldc, uint32_t n_cols,
                                                           bool add)
{
    vf lo[MR], hi[MR];
    for (uint32_t r = 0; r < m; r++) lo[r] = hi[r] = (vf){0};
    for (uint32_t k = 0; k < n_k; k++) {
        vf b0 = load(b + (size_t)k * PANEL), b1 = load(b + (size_t)k * PANEL + VW);
        for (uint32_t r = 0; r < m; r++) {
            vf x = splat(a[r * lda + k]);
            lo[r] = fma_vec(x, b0, lo[r]);
            hi[r] = fma_vec(x, b1, hi[r]);
        }
    }
    for (uint32_t r = 0; r < m; r++) {
        float *out = c + r * ldc;
        if (n_cols == PANEL) {
            store(out, add ? load(out) + lo[r] : lo[r]);
            store(out + VW, add ? load(out + VW) + hi[r] : hi[r]);
        } else {
            float tile[PANEL];
            store(tile, lo[r]);
            store(tile + VW, hi[r]);
            for (uint32_t i = 0; i < n_cols; i++) out[i] = add ? out[i] + tile[i] : tile[i];
        }
    }
}

static void panel_mac(const float *a, size_t lda, uint32_t n_rows, uint32_t n_k, const float *b, float *c, size_t ldc,
                      uint32_t n_cols, bool add)
{
    uint32_t r = 0;
    for (; r + MR <= n_rows; r += MR) mac_tile(a + r * lda, lda, MR, n_k, b, c + r * ldc, ldc, n_cols, add);
    for (; r + 4 <= n_rows; r += 4) mac_tile(a + r * lda, lda, 4, n_k, b, c + r * ldc, ldc, n_cols, add);
    for (; r < n_rows; r++) mac_tile(a + r * lda, lda, 1, n_k, b, c + r * ldc, ldc, n_cols, add);
}

/* VW codes of b bits that begin at p, b * VW a whole number of bytes. */
static inline __attribute__((always_inline)) vf unpack_vector(const uint8_t *p, uint32_t bits)
{
    vu lane;
    for (uint32_t i = 0; i < VW; i++) lane[i] = i;
    uint64_t word = 0;
    memcpy(&word, p, bits * VW / 8u);
    vu low = (uint32_t)word - (vu){0}, wide = low;
    if (bits == 4u && VW == 16u) { /* lanes 8.. read the upper word */
        vu upper = (uint32_t)(word >> 32) - (vu){0};
        vu take = (vu)(lane > 7u);
        wide = (low & ~take) | (upper & take);
    }
    vu codes = (wide >> ((lane * bits) & 31u)) & ((1u << bits) - 1u);
    return __builtin_convertvector((vi)codes, vf);
}

static inline __attribute__((always_inline)) void unpack_rows(const uint8_t *codes, uint32_t bits, uint32_t n_rows,
                                                              uint32_t n_cols, float *dst)
{
    const size_t row_bytes = n_cols / 8u * bits;
    for (uint32_t c = 0; c < n_cols; c += VW) {
        float *out = dst + (size_t)(c / PANEL * PANEL) * n_rows + c % PANEL;
        for (uint32_t r = 0; r < n_rows; r++)
            store(out + (size_t)r * PANEL, unpack_vector(codes + r * row_bytes + c * bits / 8u, bits));
    }
}

/* 8-bit codes, and 3-bit ones that cross bytes: one by one. */
static void unpack_scalar(const uint8_t *codes, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols, float *dst)
{
    const uint32_t bits = kvi_kv_code_bits(kind);
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t c = 0; c < n_cols; c++) {
            uint32_t code = kvi_kv_get_code(codes + (size_t)r * (n_cols / 8u * bits), c, bits);
            dst[(size_t)(c / PANEL * PANEL) * n_rows + (size_t)r * PANEL + c % PANEL] =
                kind == KVI_KV_F8 ? kvi_e4m3_to_f32((uint8_t)code) : (float)code;
        }
}

static void unpack(const uint8_t *codes, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols, float *dst)
{
    if (kind == KVI_KV_Q4) unpack_rows(codes, 4, n_rows, n_cols, dst);
    else if (kind == KVI_KV_Q2) unpack_rows(codes, 2, n_rows, n_cols, dst);
    else if (kind == KVI_KV_I8)
        for (uint32_t r = 0; r < n_rows; r++)
            for (uint32_t c = 0; c < n_cols; c += VW)
                store(dst + (size_t)(c / PANEL * PANEL) * n_rows + (size_t)r * PANEL + c % PANEL,
                      widen_u8(codes + (size_t)r * n_cols + c));
    else unpack_scalar(codes, kind, n_rows, n_cols, dst);
}

static void affine(float *x, uint32_t n_rows, const float *a, const float *z, const float *o)
{
    const vf o0 = load(o), o1 = load(o + VW);
    for (uint32_t r = 0; r < n_rows; r++, x += PANEL) {
        const vf gain = splat(a[r]), zero = splat(z[r]);
        store(x, (load(x) * gain + zero) * o0);
        store(x + VW, (load(x + VW) * gain + zero) * o1);
    }
}

/* -------------------------------------------------------------------------------------------------- elementwise --- */
static void narrow(const float *src, kvi_dtype dtype, uint32_t n, void *dst)
{
    uint16_t *out = dst;
    if (dtype == KVI_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    uint32_t i = 0;
    if (dtype == KVI_F16)
        for (; i + VW <= n; i += VW) narrow_f16(load(src + i), out + i);
    for (; i < n; i++) out[i] = dtype == KVI_F16 ? kvi_f32_to_f16(src[i]) : kvi_f32_to_bf16(src[i]);
}

static void rmsnorm(const float *x, const float *gain, float eps, uint32_t n, float *y)
{
    vf squares = (vf){0};
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) squares = fma_vec(load(x + i), load(x + i), squares);
    float total = sum(squares);
    for (; i < n; i++) total += x[i] * x[i];
    float factor = 1.0f / sqrtf(total / (float)n + eps);
    for (i = 0; i + VW <= n; i += VW) store(y + i, load(x + i) * splat(factor) * load(gain + i));
    for (; i < n; i++) y[i] = x[i] * factor * gain[i];
}

static void scale(float *x, float factor, uint32_t n)
{
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) store(x + i, load(x + i) * splat(factor));
    for (; i < n; i++) x[i] *= factor;
}

/* exp(x) for x <= 88, relative error below 2e-7: 2^n times a degree-6 polynomial on [-ln2/2, ln2/2] (Cephes
 * coefficients). Below `least`, at least -87, the result is 0, -inf included; NaN stays NaN through the polynomial. */
static inline vf vexp(vf x, float least)
{
    const vf low = splat(least);
    const vi dead = x < low;
    const vf clamped = (vf)(((vi)x & ~dead) | ((vi)low & dead));
    vf t = fma_vec(clamped, splat(1.44269504088896341f),
                   splat(12582912.0f));                  /* 1.5 * 2^23: rounds to an integer n in the low bits */
    const vf power = (vf)(((vu)t << 23) + (127u << 23)); /* 2^n; the constant's bits are shifted out */
    t -= splat(12582912.0f);
    vf r = fma_vec(t, splat(2.12194440e-4f), fma_vec(t, splat(-0.693359375f), clamped));
    vf p = splat(1.9875691500e-4f);
    p = fma_vec(p, r, splat(1.3981999507e-3f));
    p = fma_vec(p, r, splat(8.3334519073e-3f));
    p = fma_vec(p, r, splat(4.1665795894e-2f));
    p = fma_vec(p, r, splat(1.6666665459e-1f));
    p = fma_vec(p, r, splat(5.0000001201e-1f));
    p = fma_vec(p * r, r, r) + splat(1.0f);
    return (vf)((vi)(p * power) & ~dead);
}

static inline vf load_part(const float *p, uint32_t n, float rest)
{
    float parts[VW];
    for (uint32_t i = 0; i < VW; i++) parts[i] = i < n ? p[i] : rest;
    return load(parts);
}
static inline void store_part(float *p, uint32_t n, vf v)
{
    float parts[VW];
    store(parts, v);
    for (uint32_t i = 0; i < n; i++) p[i] = parts[i];
}

static inline vf silu_vec(vf g, vf u)
{
    const vf top = splat(88.0f);
    vf minus = -g;
    vi big = minus > top;
    minus = (vf)(((vi)minus & ~big) | ((vi)top & big));
    return g / (splat(1.0f) + vexp(minus, -87.0f)) * u;
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) store(gate + i, silu_vec(load(gate + i), load(up + i)));
    if (i < n) store_part(gate + i, n - i, silu_vec(load_part(gate + i, n - i, 0), load_part(up + i, n - i, 0)));
}

/* Largest of s and `top`; NaNs are passed over. */
static float largest(const float *s, uint32_t n, float top)
{
    vf most = splat(top);
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf x = load(s + i);
        most = MOST(x, most);
    }
    for (; i < n; i++) top = s[i] > top ? s[i] : top;
    const v4 four = fold_most(most);
    for (uint32_t k = 0; k < 4; k++) top = four[k] > top ? four[k] : top;
    return top;
}

/* A weight below e^-60 = 9e-27 of the largest is none: too small to change any sum in f32, yet scaled once more it would be a denormal number,
 * and each product with one of those costs some 150 cycles (attention of i8 pages took twice as long where scores spread wide). */
#define LEAST_LOG (-60.0f)

static float softmax_step(float *s, uint32_t n, float *m, float *l)
{
    const float top = largest(s, n, *m);
    bool nothing = top == -INFINITY; /* a NaN must come out, not vanish: then exp(NaN) below makes the sum NaN */
    for (uint32_t i = 0; nothing && i < n; i++) nothing = s[i] == s[i];
    if (nothing) {
        memset(s, 0, (size_t)n * 4);
        return 1.0f;
    }
    vf total = (vf){0};
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf e = vexp(load(s + i) - splat(top), LEAST_LOG);
        total += e;
        store(s + i, e);
    }
    if (i < n) {
        vf e = vexp(load_part(s + i, n - i, -INFINITY) - splat(top), LEAST_LOG);
        total += e;
        store_part(s + i, n - i, e);
    }
    float factor = *m == top ? 1.0f : *m - top < LEAST_LOG ? 0.0f : expf(*m - top); /* NaN passes through */
    *l = *l * factor + sum(total);
    *m = top;
    return factor;
}

/* Walsh-Hadamard over blocks of the largest power of two that divides n. Stages of 1, 2 and 4 (and 8) apart stay inside
 * a vector. */
static void hadamard(float *x, uint32_t n)
{
    const uint32_t block = n & (~n + 1u);
    for (uint32_t i = 0; i + 4 <= n && block >= 4; i += 4) {
        float a = x[i] + x[i + 1], b = x[i] - x[i + 1], c = x[i + 2] + x[i + 3], d = x[i + 2] - x[i + 3];
        x[i] = a + c, x[i + 1] = b + d, x[i + 2] = a - c, x[i + 3] = b - d;
    }
    for (uint32_t half = block >= 4 ? 4 : 1; half < block; half *= 2)
        for (uint32_t i = 0; i < n; i += 2 * half) {
            uint32_t j = i;
            for (; half >= VW && j < i + half; j += VW) {
                vf a = load(x + j), b = load(x + j + half);
                store(x + j, a + b);
                store(x + j + half, a - b);
            }
            for (; half >= 4 && j < i + half; j += 4) {
                v4 a, b, up, down;
                memcpy(&a, x + j, sizeof a);
                memcpy(&b, x + j + half, sizeof b);
                up = a + b, down = a - b;
                memcpy(x + j, &up, sizeof up);
                memcpy(x + j + half, &down, sizeof down);
            }
            for (; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
        }
    scale(x, 1.0f / sqrtf((float)block), n);
}

/* --------------------------------------------------------------------------------------- attention, few queries --- */
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
static inline __attribute__((always_inline)) void score_rows(const unsigned char *k, kvi_dtype dtype, uint32_t d,
                                                             const float *q, uint32_t n_q, float *scores, size_t ld)
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

static inline __attribute__((always_inline)) void score_typed(const unsigned char *k, kvi_dtype dtype, uint32_t n,
                                                              uint32_t d, const float *q, uint32_t n_q, float *scores,
                                                              size_t ld)
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
static inline __attribute__((always_inline)) void blend_tile(const unsigned char *v, kvi_dtype dtype, uint32_t n,
                                                             uint32_t d, const float *p, size_t ld, uint32_t n_q,
                                                             uint32_t n_v, float *acc)
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

static inline __attribute__((always_inline)) void blend_typed(const unsigned char *v, kvi_dtype dtype, uint32_t n,
                                                              uint32_t d, const float *p, size_t ld, uint32_t n_q,
                                                              float *acc)
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

/* ---------------------------------------------------------------------------------------------------- bandwidth --- */
/* n_streams is a constant at every call. Eight streams with a prefetch: 29 GB/s where one stream gets 27 and, without
 * prefetch, 24. */
static inline __attribute__((always_inline)) uint64_t read_parts(const unsigned char *base, uint64_t part,
                                                                 uint32_t n_streams)
{
    vu acc[8];
    for (uint32_t i = 0; i < 8; i++) acc[i] = (vu){0};
    for (uint64_t at = 0; at < part; at += 64)
        for (uint32_t s = 0; s < n_streams; s++) {
            __builtin_prefetch(base + s * part + at + (n_streams > 1 ? 2048 : 4096));
            for (uint32_t k = 0; k < 64; k += VB) {
                vu v;
                memcpy(&v, base + s * part + at + k, sizeof v);
                acc[s & 7] += v;
            }
        }
    uint64_t total = 0;
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t k = 0; k < VW; k++) total += acc[i][k];
    return total;
}

static uint64_t read_streams(const void *data, uint64_t bytes, uint32_t n_streams)
{
    return n_streams > 1 ? read_parts(data, bytes / 8 / 64 * 64, 8) : read_parts(data, bytes / 64 * 64, 1);
}

#define TABLE_NAME_(v) kvi_cpu_##v
#define TABLE_NAME(v) TABLE_NAME_(v)
#define TEXT_(v) #v
#define TEXT(v) TEXT_(v)
const kvi_cpu_variant TABLE_NAME(VARIANT) = {
    .name = TEXT(VARIANT),
    .panel = PANEL,
    .gemv_names = {"gemv_f32_" TEXT(VARIANT), "gemv_f16_" TEXT(VARIANT), "gemv_bf16_" TEXT(VARIANT)},
    .gemm_names = {"gemm_f32_" TEXT(VARIANT), "gemm_f16_" TEXT(VARIANT), "gemm_bf16_" TEXT(VARIANT)},
    .gemv = gemv,
    .pack = pack,
    .panel_mac = panel_mac,
    .score = score,
    .blend = blend,
    .unpack = unpack,
    .affine = affine,
    .widen = widen,
    .narrow = narrow,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .softmax_step = softmax_step,
    .scale = scale,
    .hadamard = hadamard,
    .read_streams = read_streams};
