/* variant_state.h - inner loops of layers that keep a state: tokens of the gated delta rule, a row of a short convolution. Part of variant_body.h.
 *
 * Per value column the delta rule is a sum over dk, twice, and one update between; columns have nothing to do with one another. Sums have two
 * chains, of even and of odd rows of the state, whatever number of columns is walked at once, so that a column's bits do not depend on where it
 * stands, nor on which of the two functions computed it.
 *   delta        a token: the state is read and written once from memory, the second walk finds it in the second cache.
 *   delta_block  many tokens, some columns at a time, which the first cache holds: one walk per token makes its update, its result, and the
 *                sums that the next token begins with. 4 operations per element and token, 1.15 us a token for a head of 128 x 128 (one core of an
 *                EPYC 9004), which is all that the core's units can do; token by token 1.41 us.
 *
 * No chunked form (arXiv 2412.06464, 3.3), tried with the products of panel_mac on the same core: 1.33 us at 16 and 32 tokens a chunk, 1.63 at
 * 64. In a chunk of C an element costs 3 + 1/C operations, and 5/2 C/128 for what its tokens do to one another: more than 4 from C = 51 on, and
 * 3.3 at best (C = 8). Only matrix units of 16 bits would win by it, and lose the precision of the state. A chunk's results would also depend on
 * where it began, unless a state kept half a chunk beside it. */
#if VB == 64
#define STATE_VECTORS 8u /* of columns at once: as many accumulators as there are registers for, twice */
#define BLOCK_VECTORS                                                                                                  \
    2u /* the same in delta_block, four times; their rows are what the first cache holds beside the tokens */
#else
#define STATE_VECTORS 4u
#define BLOCK_VECTORS 1u
#endif

/* n_v vectors of columns; s (dk, ld), v and o at those columns; next: what is fetched on the way, like s. A constant n_v at every call. */
INLINE void delta_columns(float *s, size_t ld, uint32_t dk, uint32_t n_v, const float *q, const float *k, float decay,
                          float beta, const float *v, float *o, const float *next)
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
            if (j * VB % 64 == 0) __builtin_prefetch(next + i * ld + j * VW);
            const vf sum = fma_vec(splat(k[i]), change[j], load(at) * splat(decay));
            store(at, sum);
            if (i % 2) odd[j] = fma_vec(splat(q[i]), sum, odd[j]);
            else even[j] = fma_vec(splat(q[i]), sum, even[j]);
        }
    for (uint32_t j = 0; j < n_v; j++) store(o + j * VW, even[j] + odd[j]);
}

/* Columns from c on that are no vector. */
static void delta_tail(float *s, uint32_t dk, uint32_t dv, uint32_t c, const float *q, const float *k, float decay,
                       float beta, const float *v, float *o)
{
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

static void delta(float *s, uint32_t dk, uint32_t dv, const float *q, const float *k, float decay, float beta,
                  const float *v, float *o, const float *next)
{
    uint32_t c = 0;
    for (; c + STATE_VECTORS * VW <= dv; c += STATE_VECTORS * VW)
        delta_columns(s + c, dv, dk, STATE_VECTORS, q, k, decay, beta, v + c, o + c, next + c);
    for (; c + VW <= dv; c += VW) delta_columns(s + c, dv, dk, 1, q, k, decay, beta, v + c, o + c, next + c);
    delta_tail(s, dk, dv, c, q, k, decay, beta, v, o);
}

/* n tokens, n_v vectors of columns; s (dk, n_v * VW) lies by itself. */
INLINE void block_columns(float *s, uint32_t dk, uint32_t n_v, uint32_t n, const float *q, const float *k,
                          const float *decay, const float *beta, const float *v, size_t ldv, float *o, size_t ldo)
{
    vf k_even[BLOCK_VECTORS], k_odd[BLOCK_VECTORS], q_even[BLOCK_VECTORS], q_odd[BLOCK_VECTORS], change[BLOCK_VECTORS];
    const uint32_t ld = n_v * VW;
    uint32_t i = 0;
    for (uint32_t j = 0; j < n_v; j++) k_even[j] = k_odd[j] = (vf){0};
    for (; i < dk; i++)
        for (uint32_t j = 0; j < n_v; j++) {
            if (i % 2) k_odd[j] = fma_vec(splat(k[i]), load(s + i * ld + j * VW), k_odd[j]);
            else k_even[j] = fma_vec(splat(k[i]), load(s + i * ld + j * VW), k_even[j]);
        }
    for (uint32_t t = 0; t < n; t++, q += dk, k += dk, v += ldv, o += ldo) {
        const float *after = t + 1 < n ? k + dk : k; /* key of the next token */
        const vf keep = splat(decay[t]);
        for (uint32_t j = 0; j < n_v; j++) {
            change[j] = splat(beta[t]) * (load(v + j * VW) - keep * (k_even[j] + k_odd[j]));
            k_even[j] = k_odd[j] = q_even[j] = q_odd[j] = (vf){0};
        }
        float *at = s;
        for (i = 0; i + 2 <= dk; i += 2, at += 2 * ld)
            for (uint32_t j = 0; j < n_v; j++) {
                const vf a = fma_vec(splat(k[i]), change[j], load(at + j * VW) * keep),
                         b = fma_vec(splat(k[i + 1]), change[j], load(at + ld + j * VW) * keep);
                store(at + j * VW, a);
                store(at + ld + j * VW, b);
                q_even[j] = fma_vec(splat(q[i]), a, q_even[j]);
                k_even[j] = fma_vec(splat(after[i]), a, k_even[j]);
                q_odd[j] = fma_vec(splat(q[i + 1]), b, q_odd[j]);
                k_odd[j] = fma_vec(splat(after[i + 1]), b, k_odd[j]);
            }
        for (uint32_t j = 0; i < dk && j < n_v; j++) {
            const vf a = fma_vec(splat(k[i]), change[j], load(at + j * VW) * keep);
            store(at + j * VW, a);
            q_even[j] = fma_vec(splat(q[i]), a, q_even[j]);
            k_even[j] = fma_vec(splat(after[i]), a, k_even[j]);
        }
        for (uint32_t j = 0; j < n_v; j++) store(o + j * VW, q_even[j] + q_odd[j]);
    }
}

static void delta_block(float *s, uint32_t dk, uint32_t dv, uint32_t n, const float *q, const float *k,
                        const float *decay, const float *beta, const float *v, size_t ldv, float *o, size_t ldo,
                        float *columns)
{
    uint32_t c = 0;
    while (c + VW <= dv) {
        const uint32_t cols = c + BLOCK_VECTORS * VW <= dv ? BLOCK_VECTORS * VW : VW;
        for (uint32_t i = 0; i < dk; i++) memcpy(columns + i * cols, s + (size_t)i * dv + c, cols * sizeof *s);
        if (cols == BLOCK_VECTORS * VW)
            block_columns(columns, dk, BLOCK_VECTORS, n, q, k, decay, beta, v + c, ldv, o + c, ldo);
        else block_columns(columns, dk, 1, n, q, k, decay, beta, v + c, ldv, o + c, ldo);
        for (uint32_t i = 0; i < dk; i++) memcpy(s + (size_t)i * dv + c, columns + i * cols, cols * sizeof *s);
        c += cols;
    }
    for (uint32_t t = 0; c < dv && t < n; t++)
        delta_tail(s, dk, dv, c, q + (size_t)t * dk, k + (size_t)t * dk, decay[t], beta[t], v + t * ldv, o + t * ldo);
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
