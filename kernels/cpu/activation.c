/* activation.c - y = act(gate) * up on the CPU. All but GELU by erf, which few models have, are vector loops (variant_rows.h). */
#include "device_cpu.h"

#include <math.h>

static float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

void kvi_cpu_activate(const kvi_cpu_variant *v, kvi_activation activation, float limit, float *gate, const float *up,
                      uint32_t n)
{
    switch (activation) {
    case KVI_ACT_SILU: v->silu_mul(gate, up, n); break;
    case KVI_ACT_GELU:
        for (uint32_t i = 0; i < n; i++) gate[i] = gelu(gate[i]) * up[i];
        break;
    case KVI_ACT_GELU_TANH: v->gelu_tanh_mul(gate, up, n); break;
    case KVI_ACT_SWIGLU_OAI: v->swiglu_oai_mul(gate, up, limit, n); break;
    }
}
