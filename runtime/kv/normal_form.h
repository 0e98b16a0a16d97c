/* normal_form.h - the encoder of T2 and T3 (trellis.h). Included by encode_body.h, behind feedback.h.
 *
 *   x[t][c] = M[c] + O[t] A[c] level       M: the channel's mean;  A, O: deviations of channels and tokens;  levels by Viterbi's search
 *
 * K: a row of codes is a channel, and channels are rounded with feedback in the metric of the queries (feedback.h), the search being the
 * rounding. At last O is set anew so that a token keeps its length along itself in that metric, <k, H k'> = <k, H k> for k less the mean: errors
 * that shrink or stretch would not average out. V: a row is a token, O keeps its length along itself, and tokens are rounded with feedback in the
 * metric of attention. What each step is worth: README.md. */
#ifndef KVI_KV_NORMAL_FORM_H
#define KVI_KV_NORMAL_FORM_H
#include "trellis.h"

#define AROUND 16u      /* numbers on either side of a ring's cut that decide its bits */
#define FAR 1e30f       /* cost of what may not be */
#define LOUDEST 65536.f /* levels: an outlier's square stays finite */

#if VB == 64
INLINE vf evens(vf a, vf b)
{
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
INLINE vf odds(vf a, vf b)
{
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#elif VB == 32
INLINE vf evens(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
INLINE vf odds(vf a, vf b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#else
INLINE vf evens(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
INLINE vf odds(vf a, vf b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#endif

/* to (n / 2) = the lesser of each two neighbours of from (n); n below two vectors: repeated until a vector is full. */
INLINE void lesser(const float *from, uint32_t n, float *to)
{
    for (uint32_t i = 0; i < n; i += 2 * VW) {
        const vf a = load(from + i), b = n > VW ? load(from + i + VW) : a;
        store(to + i / 2, least(evens(a, b), odds(a, b)));
    }
}

/* One number of the search. best (16): the least cost of a path by the high bits of its last state, for T3 twice the eight; came (16): that
 * state's low bits. They stand in the lowest bits of a cost, so that the lesser cost brings its own. */
INLINE void advance(float number, uint32_t bits, const float *levels, vi low_bits, float *best, uint8_t *came)
{
    const int32_t branches = 1 << bits;
    float cost[KVI_KV_STATES], half[KVI_KV_STATES / 2], quarter[KVI_KV_STATES / 4];
    for (uint32_t s = 0; s < KVI_KV_STATES; s += VW) {
        const vf error = splat(number) - load(levels + s), sum = load(best + (s & 15u)) + error * error;
        vi packed;
        memcpy(&packed, &sum, sizeof packed);
        packed = (packed & -branches) | (low_bits + (int32_t)(s % (1u << bits)));
        memcpy(cost + s, &packed, sizeof packed);
    }
    lesser(cost, 64, half);
    lesser(half, 32, bits == 2 ? best : quarter);
    if (bits == 3) {
        lesser(quarter, 16, best);
        if (VW < 16) memcpy(best + 8, best, 8 * sizeof *best);
    }
    for (uint32_t g = 0; g < 16; g += VW) {
        vi packed;
        memcpy(&packed, best + g, sizeof packed);
        const vb bytes = __builtin_convertvector(packed & (branches - 1), vb);
        memcpy(came + g, &bytes, sizeof bytes);
    }
}

/* The path of n numbers of x that errs least; states: its last `n_wanted`. start: high bits of the state before the first number and of the
 * last one, or 16: any. */
INLINE void search_path(const float *x, uint32_t n, uint32_t bits, uint32_t start, uint32_t n_wanted, uint8_t *states)
{
    const uint32_t groups = KVI_KV_STATES >> bits;
    uint8_t came[KVI_KV_MAX_HEAD_DIM][16];
    float best[16];
    vi low_bits;
    for (uint32_t i = 0; i < VW; i++) low_bits[i] = (int32_t)(i & ((1u << bits) - 1u));
    for (uint32_t g = 0; g < 16; g++) best[g] = start < 16 && g % groups != start ? FAR : 0.0f;
    for (uint32_t i = 0; i < n; i++) advance(x[i], bits, kvi_kv_levels(bits), low_bits, best, came[i]);
    uint32_t group = start;
    if (start == 16) {
        group = 0;
        for (uint32_t g = 1; g < groups; g++)
            if (best[g] < best[group]) group = g;
    }
    for (uint32_t i = n; i-- > n - n_wanted;) {
        const uint32_t s = group << bits | came[i][group];
        states[i - (n - n_wanted)] = (uint8_t)s;
        group = s & (groups - 1u);
    }
}

/* One text for the search around the cut and for the row: inlined twice it would be much of the library. */
static __attribute__((noinline)) void search_2(const float *x, uint32_t n, uint32_t start, uint32_t n_wanted,
                                               uint8_t *states)
{
    search_path(x, n, 2, start, n_wanted, states);
}
static __attribute__((noinline)) void search_3(const float *x, uint32_t n, uint32_t start, uint32_t n_wanted,
                                               uint8_t *states)
{
    search_path(x, n, 3, start, n_wanted, states);
}

/* A row of n numbers, in levels, as a ring: codes, and the level of each. The bits at the cut are those that a search around it takes. */
static void code_ring(const float *x, uint32_t n, uint32_t bits, uint8_t *codes, float *levels)
{
    void (*const search)(const float *, uint32_t, uint32_t, uint32_t, uint8_t *) = bits == 2 ? search_2 : search_3;
    const float *table = kvi_kv_levels(bits);
    const uint32_t w = n / 2 < AROUND ? n / 2 : AROUND;
    float around[2 * AROUND];
    uint8_t states[KVI_KV_MAX_HEAD_DIM];
    memcpy(around, x + n - w, w * sizeof *x);
    memcpy(around + w, x, w * sizeof *x);
    search(around, 2 * w, 16, w, states);
    search(x, n, states[0] & ((KVI_KV_STATES >> bits) - 1u), n, states);
    for (uint32_t i = 0; i < n; i++) levels[i] = table[states[i]];
    for (uint32_t i = 0; i < n; i++) states[i] &= (uint8_t)((1u << bits) - 1u);
    for (uint32_t i = 0; i < n; i += 8) put_eight(states + i, bits, codes + i / 8 * bits);
}

/* A tile of d channels (t->n_rows) and 128 tokens, both sides alike: origin_t (128, d) are the rows, and become rows less the mean; x (d, 128)
 * is their transpose. r: A as it is stored; c: deviations of tokens; log_r: M. */
static void normal_form(const tile *t, uint8_t *a_out, uint8_t *m_out)
{
    const uint32_t d = t->n_rows, n = t->n_cols;
    float inverse[KVI_KV_MAX_HEAD_DIM], total = 0;
    for (uint32_t c = 0; c < d; c += VW) {
        vf sum = splat(0.0f), squares = sum;
        for (uint32_t i = 0; i < n; i++) sum += load(t->origin_t + (size_t)i * d + c);
        sum /= splat((float)n);
        for (uint32_t k = 0; k < VW; k++) {
            const uint16_t stored = side_f16(sum[k]);
            kvi_kv_store16(m_out + 2 * (c + k), stored);
            t->log_r[c + k] = kvi_f16_to_f32(stored);
        }
        const vf mean = load(t->log_r + c);
        for (uint32_t i = 0; i < n; i++) {
            const vf y = load(t->origin_t + (size_t)i * d + c) - mean;
            store(t->origin_t + (size_t)i * d + c, y);
            squares += y * y;
        }
        store(t->r + c, squares / splat((float)n));
    }
    for (uint32_t c = 0; c < d; c++) {
        total += t->r[c];
        t->r[c] = sqrtf(t->r[c]);
    }
    transpose(t->origin_t, n, d, t->x);
    const float quiet = sqrtf(total / (float)d) * 1e-3f;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t c = 0; c < d; c++) inverse[c] = 1.0f / (t->r[c] > quiet ? t->r[c] : quiet > 0 ? quiet : 1.0f);
        for (uint32_t i = 0; i < n; i += VW) {
            vf squares = splat(0.0f);
            for (uint32_t c = 0; c < d; c++) {
                const vf y = load(t->x + (size_t)c * n + i) * splat(inverse[c]);
                squares += y * y;
            }
            store(t->c + i, squares / splat((float)d));
        }
        for (uint32_t i = 0; i < n; i++) {
            const float o = sqrtf(t->c[i]);
            t->c[i] = o > 1e-3f ? o : 1e-3f;
        }
        if (pass) break;
        for (uint32_t c = 0; c < d; c += VW) {
            vf squares = splat(0.0f);
            for (uint32_t i = 0; i < n; i++) {
                const vf y = load(t->origin_t + (size_t)i * d + c) * splat(1.0f / t->c[i]);
                squares += y * y;
            }
            store(t->r + c, squares / splat((float)n));
        }
        for (uint32_t c = 0; c < d; c++) t->r[c] = sqrtf(t->r[c]);
    }
    for (uint32_t c = 0; c < d; c++) {
        const uint16_t stored = side_f16(t->r[c]);
        kvi_kv_store16(a_out + 2 * c, stored);
        t->r[c] = kvi_f16_to_f32(stored);
    }
}

/* 32 / A; 0 for a channel that does not change. */
static float levels_per_unit(float a) { return a > 0 ? 1.0f / (a * KVI_KV_LEVEL_UNIT) : 0.0f; }
INLINE vf within(vf x) { return least(most(x, splat(-LOUDEST)), splat(LOUDEST)); }

/* The scale of a token: what keeps <k, k'> at <k, k>, `length` over `dot`; where codes say nothing of the token, its deviation. */
static uint16_t token_scale(float length, float dot, float deviation)
{
    const float ratio = dot > 0 ? clamp(length / dot, 0.25f, 4.0f) : 1.0f;
    return side_f16(deviation * ratio * KVI_KV_LEVEL_UNIT);
}

/* K. queries: NULL, or those of the metric. With y a key less the mean over its deviation, y' what is read back, and U, D of feedback.h, the
 * products of the metric are <y, H y'> = sum over j of D[j] p[j] p'[j], where p[j] = y[j] + sum over i < j of U[i][j] y[i], and p' alike. */
static void encode_k_trellis(const tile *t, uint32_t bits, const kvi_kv_queries *queries, uint8_t *side, kvi_kv_side at)
{
    enum { N = KVI_KV_PAGE };
    const uint32_t d = t->n_rows;
    float want[N], rest[N], levels[N], inverse[N];
    float *lost = t->origin_t, *length = t->col, *dot = t->log_c;
    normal_form(t, side + at.a_off, side + at.z_off);
    bool feedback = queries != NULL;
    if (feedback) {
        second_moments(queries, d, t->queries, t->metric);
        feedback = factor(t->metric, d, KVI_KV_KEY_DAMPING);
    }
    for (uint32_t i = 0; i < N; i++) inverse[i] = 1.0f / t->c[i], length[i] = dot[i] = 0.0f;
    for (uint32_t j = 0; j < d; j++)
        for (uint32_t i = 0; i < N; i += VW) {
            float *y = t->x + (size_t)j * N + i;
            store(y, load(y) * load(inverse + i));
        }
    const debts owed = {.x = t->x, .u = t->metric, .lost = lost, .sums = t->queries, .n_rows = d, .n_cols = N};
    debts turned = owed; /* p */
    turned.lost = t->x, turned.sums += 4 * N;
    for (uint32_t j = 0; j < d; j++) {
        const float *x = t->x + (size_t)j * N, *due = feedback ? add_owed(&owed, j) : x,
                    *along = feedback ? add_owed(&turned, j) : x;
        const vf weight = splat(feedback ? t->metric[(size_t)j * d + j] : 1.0f),
                 to_levels = splat(levels_per_unit(t->r[j])), unit = splat(t->r[j] * KVI_KV_LEVEL_UNIT);
        for (uint32_t i = 0; i < N; i += VW) {
            store(rest + i, load(along + i) - load(due + i));
            store(want + i, within(load(due + i) * to_levels));
        }
        code_ring(want, N, bits, side + at.codes_off + (size_t)j * (N / 8 * bits), levels);
        for (uint32_t i = 0; i < N; i += VW) {
            const vf got = load(levels + i) * unit, p = weight * load(along + i);
            store(lost + (size_t)j * N + i, load(x + i) - got);
            store(length + i, load(length + i) + p * load(along + i));
            store(dot + i, load(dot + i) + p * (got + load(rest + i)));
        }
    }
    for (uint32_t i = 0; i < N; i++) kvi_kv_store16(side + at.o_off + 2 * i, token_scale(length[i], dot[i], t->c[i]));
}

/* V. queries: NULL, or of the metric. A token's scale is known when its row is, and later tokens make good what it lost. */
static void encode_v_trellis(const tile *t, uint32_t bits, const kvi_kv_queries *queries, uint8_t *side, kvi_kv_side at)
{
    enum { N = KVI_KV_PAGE };
    const uint32_t d = t->n_rows;
    float row[KVI_KV_MAX_HEAD_DIM], levels[KVI_KV_MAX_HEAD_DIM], *lost = t->xt;
    const bool feedback =
        attention_moments(queries, d, t->x, t->queries, t->metric) && factor(t->metric, N, KVI_KV_VALUE_DAMPING);
    normal_form(t, side + at.o_off, side + at.z_off);
    for (uint32_t c = 0; c < d; c++) t->log_c[c] = levels_per_unit(t->r[c]);
    const debts owed = {.x = t->origin_t, .u = t->metric, .lost = lost, .sums = t->queries, .n_rows = N, .n_cols = d};
    for (uint32_t i = 0; i < N; i++) {
        const float *y = t->origin_t + (size_t)i * d, *want = feedback ? add_owed(&owed, i) : y;
        float deviation = t->c[i], length = 0, dot = 0;
        if (feedback) {
            float squares = 0;
            for (uint32_t c = 0; c < d; c++) {
                const float x = want[c] * t->log_c[c] * KVI_KV_LEVEL_UNIT;
                squares += x * x;
            }
            deviation = sqrtf(squares / (float)d);
            deviation = deviation > 1e-3f ? deviation : 1e-3f;
        }
        for (uint32_t c = 0; c < d; c += VW)
            store(row + c, within(load(want + c) * load(t->log_c + c) * splat(1.0f / deviation)));
        code_ring(row, d, bits, side + at.codes_off + (size_t)i * (d / 8 * bits), levels);
        for (uint32_t c = 0; c < d; c++) {
            const float x = want[c] / deviation;
            length += x * x;
            dot += x * (levels[c] * (t->r[c] * KVI_KV_LEVEL_UNIT));
        }
        const uint16_t stored = token_scale(length, dot, deviation);
        kvi_kv_store16(side + at.a_off + 2 * i, stored);
        const vf scale = splat(kvi_f16_to_f32(stored));
        for (uint32_t c = 0; feedback && c < d; c += VW)
            store(lost + (size_t)i * d + c, load(y + c) - load(levels + c) * scale * load(t->r + c));
    }
}

#endif
