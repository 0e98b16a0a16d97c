/* activation.c - y = act(gate) * up on the CPU. SiLU and GELU by tanh, which most families have, have vector forms; the others are plain loops. */
#include "device_cpu.h"

#include <math.h>

static float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

/* As published with gpt-oss: both inputs clamped, a steeper sigmoid, one added to up. A NaN passes the clamps. */
static float swiglu_oai(float gate, float up, float limit)
{
    if (gate > limit) gate = limit;
    if (up > limit) up = limit;
    if (up < -limit) up = -limit;
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

void kvi_cpu_activate(const kvi_cpu_variant *v, kvi_activation activation, float limit, float *gate, const float *up,
                      uint32_t n)
{
    switch (activation) {
    case KVI_ACT_SILU: v->silu_mul(gate, up, n); break;
    case KVI_ACT_GELU:
        for (uint32_t i = 0; i < n; i++) gate[i] = gelu(gate[i]) * up[i];
        break;
    case KVI_ACT_GELU_TANH: v->gelu_tanh_mul(gate, up, n); break;
    case KVI_ACT_SWIGLU_OAI:
        for (uint32_t i = 0; i < n; i++) gate[i] = swiglu_oai(gate[i], up[i], limit);
        break;
    }
}
