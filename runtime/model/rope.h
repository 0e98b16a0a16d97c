/* rope.h - inverse frequencies of rotary embeddings in double, with the scalings of config.h applied. */
#ifndef KVI_ROPE_H
#define KVI_ROPE_H
#include "config.h"
/* inv_freq (n_dims / 2), radians per position.
 * linear: f / factor.  llama3 (Meta, as in transformers): wavelengths above original/low_freq_factor are divided by factor, those below
 * original/high_freq_factor stay, between them the two are blended linearly in original/wavelength. */
void kvi_rope_frequencies(const kvi_rope_spec *rope, double *inv_freq);
#endif
