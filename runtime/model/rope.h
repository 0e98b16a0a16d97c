/* rope.h - inverse frequencies of rotary embeddings in double, with the scalings of config.h applied. */
#ifndef KVI_ROPE_H
#define KVI_ROPE_H
#include "config.h"
/* inv_freq (n_dims / 2), radians per position.
 * linear: f / factor.  llama3 (Meta, as in transformers): wavelengths above original/low_freq_factor are divided by factor, those below
 * original/high_freq_factor stay, between them the two are blended linearly in original/wavelength.
 * yarn (arXiv 2309.00071): d(b) = n_dims log(original / (2 pi b)) / (2 log theta) is the dimension that turns b times within the original
 * context; those below d(beta_fast) stay, those above d(beta_slow) are divided, linearly between them.
 * proportional (Gemma 4): theta^(-2i/n_dims) / factor for the first n_turning, 0 for the rest.  divisors: f / divisor, each its own. */
void kvi_rope_frequencies(const kvi_rope_spec *rope, double *inv_freq);
#endif
