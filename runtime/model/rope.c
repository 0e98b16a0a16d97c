/* rope.c - see rope.h. */
#include "rope.h"
#include <math.h>

static double llama3(const kvi_rope_spec *r, double f)
{
    double wavelength = 6.283185307179586476925 / f, original = r->original_ctx;
    if (wavelength < original / r->high_freq_factor) return f;
    if (wavelength > original / r->low_freq_factor) return f / r->factor;
    double smooth = (original / wavelength - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1 - smooth) * f / r->factor + smooth * f;
}

void kvi_rope_frequencies(const kvi_rope_spec *r, double *inv_freq)
{
    for (uint32_t i = 0; i < r->n_dims / 2; i++) {
        double f = pow(r->theta, -2.0 * i / r->n_dims);
        inv_freq[i] = r->scaling == KVI_ROPE_LINEAR     ? f / r->factor
                      : r->scaling == KVI_ROPE_LLAMA3   ? llama3(r, f)
                      : r->scaling == KVI_ROPE_DIVISORS ? f / (double)r->divisors[i]
                                                        : f;
    }
}
