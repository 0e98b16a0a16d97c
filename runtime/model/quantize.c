/* quantize.c - see quantize.h: scales, nearest codes, storage. */
#include "quantize.h"
#include "weight_codec.h"
#include "../kv/half.h"

#include <math.h>
#include <string.h>

static float rounded(float scale, kvi_dtype type)
{
    if (type == KVI_F16) return kvi_f16_to_f32(kvi_f32_to_f16(scale));
    return type == KVI_BF16 ? kvi_bf16_to_f32(kvi_f32_to_bf16(scale)) : scale;
}

static int32_t code_of(float w, float inverse, int32_t top)
{
    const float q = rintf(w * inverse);
    return q > (float)top ? top : q < (float)(-top - 1) ? -top - 1 : (int32_t)q;
}

/* Squared error of a group with this scale; the least-squares scale of the codes in *better. */
static double error_of(const float *w, const float *importance, uint32_t n, float scale, int32_t top, float *better)
{
    double error = 0, wq = 0, qq = 0;
    const float inverse = scale != 0 ? 1 / scale : 0;
    for (uint32_t i = 0; i < n; i++) {
        const float q = (float)code_of(w[i], inverse, top), e = w[i] - q * scale, c = importance ? importance[i] : 1;
        error += (double)(c * e * e);
        wq += (double)(c * w[i] * q);
        qq += (double)(c * q * q);
    }
    *better = qq > 0 ? (float)(wq / qq) : scale;
    return error;
}

static float scale_of(const kvi_quantize_args *args, const float *w, const float *importance, uint32_t n)
{
    const int32_t top = (1 << (args->bits - 1)) - 1;
    float most = 0, other;
    for (uint32_t i = 0; i < n; i++) most = fabsf(w[i]) > most ? fabsf(w[i]) : most;
    const float plain = rounded(most / ((float)top + 0.5f), args->scale_type);
    if (args->method == KVI_QUANTIZE_RTN || plain == 0) return plain;
    float best = plain;
    double least = error_of(w, importance, n, plain, top, &other);
    /* From where nothing is cut off down to where a third is, and of each the scale that its codes would rather have. */
    for (uint32_t step = 0; step < 24; step++) {
        float scale =
            rounded(most / (float)top * (1 - (float)step / (args->bits == 4 ? 48.0f : 400.0f)), args->scale_type);
        for (uint32_t round = 0; round < 2 && scale > 0; round++) {
            const double error = error_of(w, importance, n, scale, top, &other);
            if (error < least) least = error, best = scale;
            scale = rounded(other, args->scale_type);
        }
    }
    return best;
}

void kvi_quantize_scales(const kvi_quantize_args *args, const float *w, const float *importance, uint32_t n_in,
                         float *scales)
{
    const uint32_t group = args->group ? args->group : n_in;
    for (uint32_t k = 0; k < n_in; k += group)
        scales[k / group] =
            scale_of(args, w + k, importance ? importance + k : NULL, n_in - k < group ? n_in - k : group);
}

void kvi_quantize_round(const kvi_quantize_args *args, const float *w, const float *scales, uint32_t n_in,
                        int8_t *codes)
{
    const uint32_t group = args->group ? args->group : n_in;
    const int32_t top = (1 << (args->bits - 1)) - 1;
    for (uint32_t k = 0; k < n_in; k++) {
        const float scale = scales[k / group];
        codes[k] = (int8_t)code_of(w[k], scale != 0 ? 1 / scale : 0, top);
    }
}

void kvi_quantize_pack(const kvi_quantize_args *args, const int8_t *codes, uint32_t n_in, uint8_t *out)
{
    if (args->bits == 8) {
        for (uint32_t k = 0; k < n_in; k++) out[k] = (uint8_t)(codes[k] + 128);
        return;
    }
    memset(out, 0x88, (size_t)kvi_weight_row_bytes(KVI_FORM_I4, n_in));
    for (uint32_t k = 0; k < n_in; k++) {
        const uint32_t shift = k % 2 * 4;
        out[k / 2] = (uint8_t)((out[k / 2] & ~(15u << shift)) | (uint32_t)(codes[k] + 8) << shift);
    }
}

void kvi_put_scale(uint8_t *to, kvi_dtype type, float scale)
{
    const uint16_t half = type == KVI_F16 ? kvi_f32_to_f16(scale) : kvi_f32_to_bf16(scale);
    memcpy(to, type == KVI_F32 ? (const void *)&scale : (const void *)&half, kvi_dtype_bytes(type));
}

uint64_t kvi_quantize_scratch(const kvi_weight_desc *weight)
{
    return (uint64_t)weight->n_in + kvi_weight_groups(weight) + (weight->n_in + 3u) / 4u;
}

void kvi_quantize_rows(const kvi_weight_desc *weight, uint32_t expert, uint32_t first, uint32_t n, float *scratch,
                       uint8_t *codes, uint8_t *scales)
{
    const uint32_t n_in = weight->n_in, groups = kvi_weight_groups(weight),
                   scale_bytes = kvi_dtype_bytes(weight->scale_type);
    const uint64_t row_bytes = kvi_weight_row_bytes(weight->form, n_in);
    const kvi_quantize_args args = {.bits = weight->form == KVI_FORM_I4 ? 4 : 8,
                                    .group = weight->group,
                                    .scale_type = weight->scale_type,
                                    .method = KVI_QUANTIZE_RTN};
    float *w = scratch, *s = w + n_in;
    int8_t *q = (int8_t *)(s + groups);
    for (uint32_t r = 0; r < n; r++) {
        (void)kvi_weight_read(weight->source, expert, first + r, 0, n_in, w);
        kvi_quantize_scales(&args, w, NULL, n_in, s);
        kvi_quantize_round(&args, w, s, n_in, q);
        kvi_quantize_pack(&args, q, n_in, codes + r * row_bytes);
        for (uint32_t g = 0; g < groups; g++)
            kvi_put_scale(scales + ((size_t)r * groups + g) * scale_bytes, args.scale_type, s[g]);
    }
}
