/* weight_codec.c - the one copy of the codec for whoever is in no hurry. */
#include "weight_codec.h"

int kvi_weight_read(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t first, uint32_t n, float *out)
{
    return kvi_weight_decode(w, expert, row, first, n, out);
}
