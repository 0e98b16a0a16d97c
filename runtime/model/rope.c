/* rope.c - see rope.h. */
#include "rope.h"
#include <math.h>

static double llama3(const kvi_model_config *c, double f)
{
    double wavelength = 6.283185307179586476925 / f, original = c->rope_original_ctx;
    if (wavelength < original / c->rope_high_freq_factor) return f;
    if (wavelength > original / c->rope_low_freq_factor) return f / c->rope_factor;
    double smooth =
        (original / wavelength - c->rope_low_freq_factor) / (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1 - smooth) * f / c->rope_factor + smooth * f;
}

void kvi_rope_frequencies(const kvi_model_config *c, double *inv_freq)
{
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        double f = pow(c->rope_theta, -2.0 * i / c->head_dim);
        inv_freq[i] = c->rope_scaling == KVI_ROPE_LINEAR     ? f / c->rope_factor
                      : c->rope_scaling == KVI_ROPE_LLAMA3   ? llama3(c, f)
                      : c->rope_scaling == KVI_ROPE_DIVISORS ? f / (double)c->rope_divisors[i]
                                                             : f;
    }
}
