/* turns.cuh - angles of RoPE: position times turns in double, the whole turns removed in double, then f32. */
#ifndef KVI_TURNS_CUH
#define KVI_TURNS_CUH
#include "ptx.cuh"

/* cos and sin of 2 pi x for |x| <= 1/2, error below 1e-7: Taylor on the nearest quarter turn. */
KVI_DEV void cos_sin_turns(float x, float *c, float *s)
{
    const int32_t quarter = kvi_round_to_int(4.0f * x);
    const float a = (x - 0.25f * (float)quarter) * 6.283185307179586f, a2 = a * a;
    const float sine =
        a + a * a2 * (-1.6666667e-1f + a2 * (8.3333333e-3f + a2 * (-1.9841270e-4f + a2 * 2.7557319e-6f)));
    const float cosine =
        1.0f + a2 * (-0.5f + a2 * (4.1666667e-2f + a2 * (-1.3888889e-3f + a2 * (2.4801587e-5f - a2 * 2.7557319e-7f))));
    const uint32_t q = (uint32_t)quarter & 3u;
    const float first = q & 1u ? sine : cosine, second = q & 1u ? cosine : sine;
    *c = q == 1u || q == 2u ? -first : first;
    *s = q >= 2u ? -second : second;
}

/* Rounds ties to even in double without an intrinsic; |x| < 2^51. */
KVI_DEV double whole(double x) { return (x + 6755399441055744.0) - 6755399441055744.0; }

/* RoPE of a row by a warp: the pairs i * next and i * next + apart of its first n_dims numbers, turned by pos * turns[i]. */
KVI_DEV void turn_row(float *x, const double *turns, uint32_t n_dims, uint32_t next, uint32_t apart, uint32_t pos,
                      float magnitude, uint32_t lane)
{
    for (uint32_t i = lane; i < n_dims / 2u; i += 32u) {
        const double angle = turns[i] * pos;
        float c, sine;
        cos_sin_turns((float)(angle - whole(angle)), &c, &sine);
        c *= magnitude, sine *= magnitude;
        const uint32_t first = i * next, second = first + apart;
        const float a = x[first], b = x[second];
        x[first] = a * c - b * sine;
        x[second] = b * c + a * sine;
    }
}

#endif
