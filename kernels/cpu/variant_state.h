/* variant_state.h - inner loops of layers that keep a state: a token of the gated delta rule, a row of a short convolution. Part of variant_body.h.
 *
 * Per value column the delta rule is a sum over dk, twice, and one update between; columns have nothing to do with one another. Sums have two
 * chains, of even and of odd rows of the state, whatever number of columns is walked at once, so that a column's bits do not depend on where it
 * stands. The state is read and written once from memory: the second walk finds it in the cache.
 *
 * No chunked form (arXiv 2412.06464, 3.3): a state of 128 x 128 fits the second cache, where this loop does 1.4 us a token and head on one core,
 * half of one percent of the products beside it in a prompt of a 27B model, and a chunk's results would depend on where it began. */
#if VB == 64
#define STATE_VECTORS 8u /* of columns at once: as many accumulators as there are registers for, twice */
#else
#define STATE_VECTORS 4u
#endif

/* n_v vectors of columns; s (dk, ld), v and o at those columns. A constant n_v at every call. */
INLINE void delta_columns(float *s, size_t ld, uint32_t dk, uint32_t n_v, const float *q, const float *k, float decay,
                          float beta, const float *v, float *o)
{
    vf even[STATE_VECTORS], odd[STATE_VECTORS], change[STATE_VECTORS];
    for (uint32_t j = 0; j < n_v; j++) even[j] = odd[j] = (vf){0};
    uint32_t i = 0;
    for (; i + 2 <= dk; i += 2)
        for (uint32_t j = 0; j < n_v; j++) {
            even[j] = fma_vec(splat(k[i]), load(s + i * ld + j * VW), even[j]);
            odd[j] = fma_vec(splat(k[i + 1]), load(s + (i + 1) * ld + j * VW), odd[j]);
        }
    for (uint32_t j = 0; i < dk && j < n_v; j++) even[j] = fma_vec(splat(k[i]), load(s + i * ld + j * VW), even[j]);
    for (uint32_t j = 0; j < n_v; j++) {
        change[j] = splat(beta) * (load(v + j * VW) - splat(decay) * (even[j] + odd[j]));
        even[j] = odd[j] = (vf){0};
    }
    for (i = 0; i < dk; i++)
        for (uint32_t j = 0; j < n_v; j++) {
            float *at = s + i * ld + j * VW;
            const vf next = fma_vec(splat(k[i]), change[j], load(at) * splat(decay));
            store(at, next);
            if (i % 2) odd[j] = fma_vec(splat(q[i]), next, odd[j]);
            else even[j] = fma_vec(splat(q[i]), next, even[j]);
        }
    for (uint32_t j = 0; j < n_v; j++) store(o + j * VW, even[j] + odd[j]);
}

static void delta(float *s, uint32_t dk, uint32_t dv, const float *q, const float *k, float decay, float beta,
                  const float *v, float *o)
{
    uint32_t c = 0;
    for (; c + STATE_VECTORS * VW <= dv; c += STATE_VECTORS * VW)
        delta_columns(s + c, dv, dk, STATE_VECTORS, q, k, decay, beta, v + c, o + c);
    for (; c + VW <= dv; c += VW) delta_columns(s + c, dv, dk, 1, q, k, decay, beta, v + c, o + c);
    for (; c < dv; c++) {
        float sum = 0, out = 0;
        for (uint32_t i = 0; i < dk; i++) sum += k[i] * s[(size_t)i * dv + c];
        const float change = beta * (v[c] - decay * sum);
        for (uint32_t i = 0; i < dk; i++) {
            float *at = s + (size_t)i * dv + c;
            *at = *at * decay + k[i] * change;
            out += q[i] * *at;
        }
        o[c] = out;
    }
}

static void conv_silu(const float *const *taps, uint32_t n_taps, const float *w, size_t ldw, const float *bias,
                      uint32_t n, float *out)
{
    uint32_t c = 0;
    for (; c < n; c += VW) {
        const uint32_t left = n - c;
        vf y = bias ? left >= VW ? load(bias + c) : load_part(bias + c, left, 0) : (vf){0};
        for (uint32_t j = 0; j < n_taps; j++) {
            const vf x = left >= VW ? load(taps[j] + c) : load_part(taps[j] + c, left, 0);
            y = fma_vec(load(w + j * ldw + c), x, y);
        }
        y = silu_vec(y, splat(1.0f));
        if (left >= VW) store(out + c, y);
        else store_part(out + c, left, y);
    }
}
