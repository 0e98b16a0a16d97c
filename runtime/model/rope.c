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

/* The dimension that turns `turns` times within the original context. */
static double yarn_dim(const kvi_rope_spec *r, double turns)
{
    return r->n_dims * log(r->original_ctx / (turns * 6.283185307179586476925)) / (2 * log(r->theta));
}

static double yarn(const kvi_rope_spec *r, uint32_t i, double f)
{
    double low = yarn_dim(r, r->beta_fast), high = yarn_dim(r, r->beta_slow);
    if (r->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0), high = fmin(high, r->n_dims - 1.0);
    if (low == high) high += 0.001;
    const double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return f / r->factor * ramp + f * (1 - ramp);
}

void kvi_rope_frequencies(const kvi_rope_spec *r, double *inv_freq)
{
    for (uint32_t i = 0; i < r->n_dims / 2; i++) {
        double f = pow(r->theta, -2.0 * i / r->n_dims);
        switch (r->scaling) {
        case KVI_ROPE_LINEAR: inv_freq[i] = f / r->factor; break;
        case KVI_ROPE_LLAMA3: inv_freq[i] = llama3(r, f); break;
        case KVI_ROPE_YARN: inv_freq[i] = yarn(r, i, f); break;
        case KVI_ROPE_PROPORTIONAL: inv_freq[i] = i < r->n_turning ? f / r->factor : 0; break;
        case KVI_ROPE_DIVISORS: inv_freq[i] = f / (double)r->divisors[i]; break;
        default: inv_freq[i] = f;
        }
    }
}
