/* encode_trellis.cuh - the encoder of T2 and T3, with the bytes of normal_form.h: a warp searches the codes of a row, two of the 64 states to a
 * lane. Of V and of K that is rounded plainly all warps have rows; with feedback the channels come one after the other, and one warp searches. */
#ifndef KVI_ENCODE_TRELLIS_CUH
#define KVI_ENCODE_TRELLIS_CUH
#include "encode_feedback.cuh"

#define AROUND 16u          /* numbers on either side of a ring's cut that decide its bits */
#define FAR 1e30f           /* cost of what may not be */
#define LOUDEST 65536.0f    /* levels */
#define ANY_START 16u       /* no condition on the ends of a path */
#define CHUNKS (MOST / 32u) /* of a row's numbers, 32 each: one to a lane */

/* One number of the search. best: of lane L the least cost of a path that ends with the high bits L / width of a state, before and after. Returns
 * by which low bits these came, `bits` (T3: four) to each, the same for all lanes. A cost's lowest bits are those of its state, so that the lesser
 * cost brings its own. */
template <uint32_t bits> KVI_DEV uint32_t advance(float number, const float *levels, uint32_t lane, float &best)
{
    constexpr uint32_t groups = KVI_KV_STATES >> bits, width = 32u / groups, branches = 1u << bits;
    float least = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        const uint32_t s = 2u * lane + k;
        const float error = number - levels[s], sum = kvi_shfl(best, (s & (groups - 1u)) * width) + error * error;
        const float cost = kvi_bits_f32((kvi_f32_to_bits(sum) & ~(branches - 1u)) | (s & (branches - 1u)));
        least = k && !(cost < least) ? least : cost;
    }
#pragma unroll
    for (uint32_t mask = 1; mask < width; mask *= 2) {
        const float other = kvi_shfl_xor(least, mask);
        least = other < least ? other : least;
    }
    best = least;
    const uint32_t came = kvi_f32_to_bits(least);
    if (bits == 2) return (kvi_ballot(came & 1u) & 0x55555555u) | (kvi_ballot(came & 2u) & 0x55555555u) << 1;
    return (kvi_ballot(came & 1u) & 0x11111111u) | (kvi_ballot(came & 2u) & 0x11111111u) << 1 |
           (kvi_ballot(came & 4u) & 0x11111111u) << 2;
}

/* The path of n numbers that errs least: row[(first + i) % length] of i = 0 .. n - 1. start: high bits of the state before the first number and of
 * the last one, or ANY_START. Lane L has the states of numbers 32 k + L in states[k]; the return value is that of number n - n_wanted. */
template <uint32_t bits, uint32_t chunks>
KVI_DEV uint32_t search_path(const float *row, uint32_t length, uint32_t first, uint32_t n, uint32_t start,
                             uint32_t n_wanted, const float *levels, uint32_t lane, uint32_t (&states)[chunks])
{
    constexpr uint32_t groups = KVI_KV_STATES >> bits, width = 32u / groups, wide = bits == 2 ? 2u : 4u;
    uint32_t group = start, wanted = 0; /* states: at first by which low bits a number's states came */
    float best = start < groups && lane / width != start ? FAR : 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < chunks; k++) {
        states[k] = 0;
#pragma unroll 1
        for (uint32_t i = 32u * k; i < n && i < 32u * k + 32u; i++) {
            const uint32_t at = first + i < length ? first + i : first + i - length,
                           word = advance<bits>(row[at], levels, lane, best);
            if (i % 32u == lane) states[k] = word;
        }
    }
    if (start == ANY_START) {
        float least = kvi_shfl(best, 0);
        group = 0;
        for (uint32_t g = 1; g < groups; g++) {
            const float other = kvi_shfl(best, g * width);
            if (other < least) least = other, group = g;
        }
    }
#pragma unroll
    for (uint32_t k = chunks; k-- > 0;) {
#pragma unroll 1
        for (uint32_t i = 32u * k + 32u; i-- > 32u * k;) {
            if (i >= n || i < n - n_wanted) continue; /* all lanes */
            const uint32_t s = group << bits | (kvi_shfl(states[k], i % 32u) >> (wide * group) & ((1u << bits) - 1u));
            if (i % 32u == lane) states[k] = s;
            group = s & (groups - 1u);
            wanted = s;
        }
    }
    return wanted;
}

/* A row of n numbers, in levels, as a ring: codes, and in the row the level of each. The bits at the cut are those that a search around it takes.
 * The row is the warp's, in shared memory. */
template <uint32_t bits>
KVI_DEV void code_ring(float *row, uint32_t n, uint8_t *codes, const float *levels, uint32_t lane)
{
    const uint32_t w = n / 2u < AROUND ? n / 2u : AROUND;
    uint32_t around[1], states[CHUNKS];
    const uint32_t cut = search_path<bits, 1>(row, n, n - w, 2u * w, ANY_START, w, levels, lane, around);
    (void)search_path<bits, CHUNKS>(row, n, 0, n, cut & ((KVI_KV_STATES >> bits) - 1u), n, levels, lane, states);
    kvi_sync_warp();
#pragma unroll
    for (uint32_t k = 0; k < CHUNKS; k++) {
        const uint32_t i = 32u * k + lane, code = states[k] & ((1u << bits) - 1u);
        if (32u * k >= n) break; /* all lanes */
        uint32_t packed = code << (bits * (lane % 8u));
        packed |= kvi_shfl_xor(packed, 1);
        packed |= kvi_shfl_xor(packed, 2);
        packed |= kvi_shfl_xor(packed, 4);
        if (i >= n) continue;
        row[i] = levels[states[k]];
        if (lane % 8u < bits) codes[i / 8u * bits + lane % 8u] = (uint8_t)(packed >> (8u * (lane % 8u)));
    }
    kvi_sync_warp();
}

KVI_DEV void code_row(uint32_t bits, float *row, uint32_t n, uint8_t *codes, const float *levels, uint32_t lane)
{
    if (bits == 2) code_ring<2>(row, n, codes, levels, lane);
    else code_ring<3>(row, n, codes, levels + KVI_KV_STATES, lane);
}

/* t.xt (128, d) are the rows, and become rows less the mean, t.x (d, 128) likewise. v.r: A as it is stored; v.c: deviations of tokens. */
KVI_DEV void normal_form(const tile &t, const vectors &v, uint8_t *a_out, uint8_t *m_out)
{
    const uint32_t d = t.d, n = KVI_KV_PAGE, me = threadIdx.x;
    if (me < d) {
        float sum = 0.0f, squares = 0.0f;
        for (uint32_t i = 0; i < n; i++) sum += t.xt[i * d + me];
        const uint16_t stored = side_f16(sum / (float)n);
        const float mean = kvi_f16_to_f32(stored);
        kvi_kv_store16(m_out + 2u * me, stored);
        for (uint32_t i = 0; i < n; i++) {
            const float y = t.xt[i * d + me] - mean;
            t.xt[i * d + me] = y;
            t.x[me * n + i] = y;
            squares += y * y;
        }
        v.r[me] = squares / (float)n;
    }
    kvi_sync_block();
    if (me == 0) {
        float total = 0.0f;
        for (uint32_t c = 0; c < d; c++) total += v.r[c];
        v.words[0] = kvi_sqrt_rn(total / (float)d) * 1e-3f;
    }
    kvi_sync_block();
    const float quiet = v.words[0];
    if (me < d) v.r[me] = kvi_sqrt_rn(v.r[me]);
    kvi_sync_block();
    for (uint32_t pass = 0; pass < 2; pass++) {
        if (me < d) v.mean[me] = 1.0f / (v.r[me] > quiet ? v.r[me] : quiet > 0.0f ? quiet : 1.0f);
        kvi_sync_block();
        if (me < n) {
            float squares = 0.0f;
            for (uint32_t c = 0; c < d; c++) {
                const float y = t.x[c * n + me] * v.mean[c];
                squares += y * y;
            }
            const float o = kvi_sqrt_rn(squares / (float)d);
            v.c[me] = o > 1e-3f ? o : 1e-3f;
        }
        kvi_sync_block();
        if (pass) break;
        if (me < d) {
            float squares = 0.0f;
            for (uint32_t i = 0; i < n; i++) {
                const float y = t.xt[i * d + me] * (1.0f / v.c[i]);
                squares += y * y;
            }
            v.r[me] = kvi_sqrt_rn(squares / (float)n);
        }
        kvi_sync_block();
    }
    if (me < d) {
        const uint16_t stored = side_f16(v.r[me]);
        kvi_kv_store16(a_out + 2u * me, stored);
        v.r[me] = kvi_f16_to_f32(stored);
    }
    kvi_sync_block();
}

/* 32 / A; 0 for a channel that does not change. */
KVI_DEV float levels_per_unit(float a) { return a > 0.0f ? 1.0f / (a * KVI_KV_LEVEL_UNIT) : 0.0f; }
KVI_DEV float within(float x)
{
    const float y = x > -LOUDEST ? x : -LOUDEST;
    return y < LOUDEST ? y : LOUDEST;
}

/* The scale of a token: what keeps <k, k'> at <k, k>, `length` over `dot`; where codes say nothing of the token, its deviation. */
KVI_DEV void store_token_scale(float length, float dot, float deviation, uint8_t *out)
{
    const float ratio = dot > 0.0f ? clamp(length / dot, 0.25f, 4.0f) : 1.0f;
    kvi_kv_store16(out, side_f16(deviation * ratio * KVI_KV_LEVEL_UNIT));
}

/* K with feedback: channel after channel. t.x becomes keys over their deviation, t.xt what each code lost. */
KVI_DEV void encode_k_fed(const tile &t, const vectors &v, uint32_t bits, uint8_t *side, const kvi_kv_side &at)
{
    const uint32_t d = t.d, n = KVI_KV_PAGE, me = threadIdx.x;
    float *want = v.errors, length = 0.0f, dot = 0.0f;
    for (uint32_t j = 0; j < d; j++) {
        const float *u = t.metric + j * d;
        float y = 0.0f, along = 0.0f, rest = 0.0f;
        if (me < n) {
            y = t.x[j * n + me] * (1.0f / v.c[me]);
            float owed = y;
            along = y;
            t.x[j * n + me] = y;
            for (uint32_t k = 0; k < j; k++) {
                owed += u[k] * t.xt[k * n + me];
                along += u[k] * t.x[k * n + me];
            }
            rest = along - owed;
            want[me] = within(owed * levels_per_unit(v.r[j]));
        }
        kvi_sync_block();
        if (me < 32u) code_row(bits, want, n, side + at.codes_off + j * (n / 8u * bits), v.levels, me);
        kvi_sync_block();
        if (me < n) {
            const float got = want[me] * (v.r[j] * KVI_KV_LEVEL_UNIT), p = u[j] * along;
            t.xt[j * n + me] = y - got;
            length += p * along;
            dot += p * (got + rest);
        }
    }
    if (me < n) store_token_scale(length, dot, v.c[me], side + at.o_off + 2u * me);
}

/* V with feedback: token after token. t.x becomes what each lost, by token. */
KVI_DEV void encode_v_fed(const tile &t, const vectors &v, uint32_t bits, uint8_t *side, const kvi_kv_side &at)
{
    const uint32_t d = t.d, me = threadIdx.x;
    float *row = v.errors, *want = v.errors + MOST, *got = v.mean;
    for (uint32_t i = 0; i < KVI_KV_PAGE; i++) {
        const float *u = t.metric + i * KVI_KV_PAGE;
        if (me < d) {
            float sum = t.xt[i * d + me];
            for (uint32_t k = 0; k < i; k++) sum += u[k] * t.x[k * d + me];
            want[me] = sum;
            row[me] = sum * levels_per_unit(v.r[me]) * KVI_KV_LEVEL_UNIT;
        }
        kvi_sync_block();
        if (me == 0) {
            float squares = 0.0f;
            for (uint32_t c = 0; c < d; c++) squares += row[c] * row[c];
            const float deviation = kvi_sqrt_rn(squares / (float)d);
            v.words[0] = deviation > 1e-3f ? deviation : 1e-3f;
        }
        kvi_sync_block();
        const float deviation = v.words[0];
        if (me < d) row[me] = within(want[me] * levels_per_unit(v.r[me]) * (1.0f / deviation));
        kvi_sync_block();
        if (me < 32u) code_row(bits, row, d, side + at.codes_off + i * (d / 8u * bits), v.levels, me);
        kvi_sync_block();
        if (me < d) {
            want[me] /= deviation;
            got[me] = row[me] * (v.r[me] * KVI_KV_LEVEL_UNIT);
        }
        kvi_sync_block();
        if (me == 0) {
            float length = 0.0f, dot = 0.0f;
            for (uint32_t c = 0; c < d; c++) {
                length += want[c] * want[c];
                dot += want[c] * got[c];
            }
            store_token_scale(length, dot, deviation, side + at.a_off + 2u * i);
            v.words[1] = kvi_kv_side_value(side, at.a_off, i);
        }
        kvi_sync_block();
        if (me < d) t.x[i * d + me] = t.xt[i * d + me] - row[me] * v.words[1] * v.r[me];
        kvi_sync_block();
    }
}

/* Both sides. */
KVI_DEV void encode_trellis(const tile &t, const vectors &v, bool feedback, uint32_t bits, uint8_t *side,
                            const kvi_kv_side &at)
{
    const uint32_t d = t.d, n = KVI_KV_PAGE, me = threadIdx.x, lane = me % 32u, warp = me / 32u;
    normal_form(t, v, side + (t.is_v ? at.o_off : at.a_off), side + at.z_off);
    if (feedback) {
        if (t.is_v) encode_v_fed(t, v, bits, side, at);
        else encode_k_fed(t, v, bits, side, at);
        return;
    }
    const uint32_t n_rows = t.is_v ? n : d, n_cols = t.is_v ? d : n, room = n_cols > 256u ? 512u : 256u,
                   n_warps = 8u * MOST / room; /* as many as there are rows of numbers */
    float *row = v.errors + warp * room, *numbers = t.is_v ? t.xt : t.x;
    if (warp < n_warps)
        for (uint32_t i = warp; i < n_rows; i += n_warps) { /* levels take the place of the numbers */
            for (uint32_t k = lane; k < n_cols; k += 32u) {
                const uint32_t c = t.is_v ? k : i, token = t.is_v ? i : k;
                const float to_levels = levels_per_unit(v.r[c]), inverse = 1.0f / v.c[token],
                            y = numbers[i * n_cols + k];
                row[k] = within(t.is_v ? y * to_levels * inverse : y * inverse * to_levels);
            }
            kvi_sync_warp();
            code_row(bits, row, n_cols, side + at.codes_off + i * (n_cols / 8u * bits), v.levels, lane);
            for (uint32_t k = lane; k < n_cols; k += 32u) numbers[i * n_cols + k] = row[k];
            kvi_sync_warp();
        }
    kvi_sync_block();
    if (me < n) {
        float length = 0.0f, dot = 0.0f;
        for (uint32_t c = 0; c < d; c++) {
            const float whole = t.is_v ? t.x[c * n + me] : t.xt[me * d + c],
                        level = t.is_v ? t.xt[me * d + c] : t.x[c * n + me],
                        y = t.is_v ? whole / v.c[me] : whole * (1.0f / v.c[me]);
            length += y * y;
            dot += y * (level * (v.r[c] * KVI_KV_LEVEL_UNIT));
        }
        store_token_scale(length, dot, v.c[me], side + (t.is_v ? at.a_off : at.o_off) + 2u * me);
    }
}

#endif
