/* dots_quantize.h - activations to codes of 8 bits, as dots.h says. Part of dots_body.h and dots_amx.c, behind variant_numbers.h. */
typedef int8_t vb __attribute__((vector_size(VB / 4)));

/* Codes of n <= KVI_TILE_STEP numbers; returns the scale; *code_sum: of the codes. x is read, and codes are written, to the next multiple of VW. */
INLINE float quantize_step(const float *x, uint32_t n, uint8_t *codes, int32_t *code_sum)
{
    vf most = {0}, wrong = {0}; /* wrong: NaN where x is NaN or infinite, so that the result is NaN too */
    for (uint32_t i = 0; i < n; i += VW) {
        const vf v = load(x + i);
        const vi sign_off = (vi)v & 0x7fffffff;
        const vf size = (vf)sign_off;
        const vi more = size > most;
        most = (vf)(((vi)size & more) | ((vi)most & ~more));
        wrong += v - v;
    }
    const v4 four_most = fold_most(most);
    float top = four_most[0];
    for (uint32_t i = 1; i < 4u; i++) top = four_most[i] > top ? four_most[i] : top;
    const float scale = top < 1e-30f ? 0.0f : top / 127.0f, inverse = top < 1e-30f ? 0.0f : 127.0f / top;
    vi total = {0};
    for (uint32_t i = 0; i < n; i += VW) {
        /* Adding 1.5 * 2^23 rounds to a whole number, to nearest even, in the low bits. */
        const vf moved = load(x + i) * inverse + 12582912.0f;
        const vb bytes = __builtin_convertvector((vi)((vu)moved - 0x4b400000u), vb);
        total += __builtin_convertvector(bytes, vi);
        memcpy(codes + i, &bytes, sizeof bytes);
    }
    *code_sum = (int32_t)(sum(__builtin_convertvector(total, vf)));
    return scale + sum(wrong);
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
