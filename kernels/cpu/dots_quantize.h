/* dots_quantize.h - activations to codes of 8 bits, as dots.h says. Part of dots_body.h and dots_amx.c, behind variant_numbers.h. */
/* The largest of all lanes. */
INLINE int32_t largest(vi v)
{
#if VB == 64
    typedef int32_t v8i __attribute__((vector_size(32)));
    const v8i a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
              b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), half = MOST(a, b);
#elif VB == 32
    const vi half = v;
#endif
    typedef int32_t v4i __attribute__((vector_size(16)));
#if VB >= 32
    const v4i c = __builtin_shufflevector(half, half, 0, 1, 2, 3), d = __builtin_shufflevector(half, half, 4, 5, 6, 7),
              four = MOST(c, d);
#else
    const v4i four = v;
#endif
    const v4i e = __builtin_shufflevector(four, four, 2, 3, 0, 1), two = MOST(four, e);
    return two[0] > two[1] ? two[0] : two[1];
}

/* Codes of n <= KVI_TILE_STEP numbers; returns the scale, NaN where one of x is infinite or NaN; *code_sum: of the codes. x is read, and codes are
 * written, to the next multiple of VW. Sizes are compared as their bits, which order them, with infinity and NaN above all numbers. */
INLINE float quantize_step(const float *x, uint32_t n, uint8_t *codes, int32_t *code_sum)
{
    vi most = {0};
    for (uint32_t i = 0; i < n; i += VW) {
        const vi size = (vi)load(x + i) & 0x7fffffff;
        most = MOST(size, most);
    }
    const int32_t bits = largest(most);
    float top;
    memcpy(&top, &bits, 4);
    if (top - top != 0.0f) {
        memset(codes, 0, (n + VW - 1u) / VW * VW);
        *code_sum = 0;
        return top - top;
    }
    const float scale = top < 1e-30f ? 0.0f : top / 127.0f, inverse = top < 1e-30f ? 0.0f : 127.0f / top;
    vi total = {0};
    for (uint32_t i = 0; i < n; i += VW) {
        /* Adding 1.5 * 2^23 rounds to a whole number, to nearest even, in the low bits. */
        const vf moved = load(x + i) * inverse + 12582912.0f;
        const vi code = (vi)((vu)moved - 0x4b400000u);
        total += code;
        store_bytes(codes + i, code);
    }
    *code_sum = (int32_t)(sum(__builtin_convertvector(total, vf)));
    return scale;
}

/* Codes of the step of a row that begins at place k, zeros up to the next multiple of VW; its scale, and what integer sums start with. `bias`:
 * what the product subtracts from the weight's codes anyway. Returns how many places there are. */
INLINE uint32_t quantize_places(const kvi_tile *t, const float *row, const uint32_t *order, uint32_t k, uint32_t bias,
                                uint8_t *codes, float *scale, int32_t *start)
{
    const uint32_t n = t->n_in - k < t->step ? t->n_in - k : t->step;
    const bool copied = order || n % VW; /* the last vector of a row ends with zeros */
    float places[KVI_TILE_STEP];
    if (copied) memset(places, 0, sizeof places);
    for (uint32_t i = 0; copied && i < n; i++) places[i] = row[order ? order[k + i] : k + i];
    int32_t sum_of_codes;
    *scale = quantize_step(copied ? places : row + k, n, codes, &sum_of_codes);
    const float scaled = *scale * (float)sum_of_codes;
    const int32_t centred = sum_of_codes * ((int32_t)bias - (int32_t)t->zero);
    memcpy(start, t->offset == KVI_TILE_CENTRED ? (const void *)&centred : &scaled, 4);
    return n;
}
