/* variant_rows.h - what is done to a row of numbers: norm, activation, softmax, rotation, rounding. Part of variant_body.h. */
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

/* g / (1 + exp(minus)) * u */
static inline vf gated_vec(vf g, vf minus, vf u)
{
    const vf top = splat(88.0f);
    vi big = minus > top;
    minus = (vf)(((vi)minus & ~big) | ((vi)top & big));
    return g / (splat(1.0f) + vexp(minus, -87.0f)) * u;
}
static inline vf silu_vec(vf g, vf u) { return gated_vec(g, -g, u); }
/* (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)), which cancels nothing */
static inline vf gelu_tanh_vec(vf g, vf u)
{
    return gated_vec(g, splat(-1.5957691216f) * (g + splat(0.044715f) * g * g * g), u);
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) store(gate + i, silu_vec(load(gate + i), load(up + i)));
    if (i < n) store_part(gate + i, n - i, silu_vec(load_part(gate + i, n - i, 0), load_part(up + i, n - i, 0)));
}

static void gelu_tanh_mul(float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) store(gate + i, gelu_tanh_vec(load(gate + i), load(up + i)));
    if (i < n) store_part(gate + i, n - i, gelu_tanh_vec(load_part(gate + i, n - i, 0), load_part(up + i, n - i, 0)));
}

/* x or `limit`, whichever is less; NaN stays. */
static inline vf at_most(vf x, vf limit)
{
    const vi over = x > limit;
    return (vf)(((vi)x & ~over) | ((vi)limit & over));
}

static void swiglu_oai_mul(float *gate, const float *up, float limit, uint32_t n)
{
    const vf most = splat(limit);
    for (uint32_t i = 0; i < n; i += VW) {
        const bool whole = i + VW <= n;
        const vf g = at_most(whole ? load(gate + i) : load_part(gate + i, n - i, 0), most),
                 u = -at_most(-at_most(whole ? load(up + i) : load_part(up + i, n - i, 0), most), most),
                 y = gated_vec(g, splat(-1.702f) * g, u + splat(1.0f));
        if (whole) store(gate + i, y);
        else store_part(gate + i, n - i, y);
    }
}

/* tanh(z), relative error below 3e-7: z times a polynomial in z^2 below 0.625 (Cephes coefficients), where the quotient would cancel. */
static inline vf vtanh(vf z)
{
    const vi sign = (vi)z & (vi)(splat(-0.0f));
    const vf size = (vf)((vi)z ^ sign), square = z * z, e = vexp(splat(-2.0f) * size, -87.0f);
    const vi small = size < splat(0.625f);
    vf p = splat(-5.70498872745e-3f);
    p = fma_vec(p, square, splat(2.06390887954e-2f));
    p = fma_vec(p, square, splat(-5.37397155531e-2f));
    p = fma_vec(p, square, splat(1.33314422036e-1f));
    p = fma_vec(p, square, splat(-3.33332819422e-1f));
    const vf near = fma_vec(p * square, z, z), far = (splat(1.0f) - e) / (splat(1.0f) + e);
    return (vf)(((vi)near & small) | (((vi)far | sign) & ~small));
}

static void softcap(float *x, float cap, uint32_t n)
{
    const vf top = splat(cap), part = splat(1.0f / cap);
    uint32_t i = 0;
    for (; i + VW <= n; i += VW) store(x + i, top * vtanh(load(x + i) * part));
    if (i < n) store_part(x + i, n - i, top * vtanh(load_part(x + i, n - i, 0) * part));
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
