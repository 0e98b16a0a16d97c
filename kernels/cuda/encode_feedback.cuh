/* encode_feedback.cuh - K rounded with feedback in the metric of the queries, V in that of their attention: feedback.h, a column of the tile per
 * thread, a grid per lane. Sums of products of queries are whole numbers, the same in any order; all else has the CPU's order along rows. */
#ifndef KVI_ENCODE_FEEDBACK_CUH
#define KVI_ENCODE_FEEDBACK_CUH
#include "encode_tile.cuh"
#include "../../runtime/kv/ranges.h"

#define QUERY_BLOCK 32u

/* t.metric (width, width), lower triangle, damped, to U: row j, left of the diagonal, becomes column j of U, the diagonal D. False: there is no
 * query; the same for all threads. */
KVI_DEV bool factor(const tile &t, const vectors &v, uint32_t width, float share)
{
    const uint32_t me = threadIdx.x;
    if (me == 0) {
        float trace = 0.0f;
        for (uint32_t i = 0; i < width; i++) trace += t.metric[i * width + i];
        v.words[0] = trace;
    }
    kvi_sync_block();
    const float trace = v.words[0];
    kvi_sync_block();
    if (!(trace > 0.0f)) return false;
    const float damping = trace / (float)width * share;
    for (uint32_t i = me; i < width; i += THREADS) t.metric[i * width + i] += damping;
    kvi_sync_block();
    for (uint32_t j = width - 1u; j > 0; j--) {
        const float *row = t.metric + j * width;
        const float pivot = row[j], inverse = pivot > 0.0f ? 1.0f / pivot : 0.0f;
        /* Rows i and j - 1 - i together have j + 1 numbers to change. */
        for (uint32_t k = me; k < (j + 1u) / 2u * (j + 1u); k += THREADS) {
            const uint32_t pair = k / (j + 1u), at = k % (j + 1u), i = at <= pair ? pair : j - 1u - pair,
                           col = at <= pair ? at : at - pair - 1u;
            if (at > pair && i == pair) continue; /* the row in the middle, which has no partner */
            t.metric[i * width + col] -= row[i] * inverse * row[col];
        }
        kvi_sync_block();
        for (uint32_t i = me; i < j; i += THREADS) t.metric[j * width + i] *= inverse;
        kvi_sync_block();
    }
    return true;
}

KVI_DEV void query_moments(const tile &t, const queries &q)
{
    const uint32_t d = t.d;
    for (uint32_t k = threadIdx.x; k < d * d; k += THREADS) {
        const uint32_t i = k / d, j = k % d;
        int32_t sum = 0;
        if (j > i) continue;
        for (uint32_t page = 0; page < 2; page++) {
            const int8_t *z = q.rows[page];
            for (uint32_t r = 0; z && r < q.n; r++, z += d) sum += (int32_t)z[i] * (int32_t)z[j];
        }
        t.metric[k] = (float)sum;
    }
    kvi_sync_block();
}

/* Of the tile, which holds nothing yet, this makes scratch. */
KVI_DEV void attention_moments(const tile &t, const vectors &v, const queries &q)
{
    const uint32_t d = t.d, n = KVI_KV_PAGE, me = threadIdx.x, stride = kvi_kv_value_stride(q.n), n_all = q.n / stride;
    float *p = t.x; /* (128, QUERY_BLOCK): x and xt lie together */
    for (uint32_t k = me; k < n * n; k += THREADS) t.metric[k] = 0.0f;
    for (uint32_t first = 0; first < n_all; first += QUERY_BLOCK) {
        const uint32_t rows = n_all - first < QUERY_BLOCK ? n_all - first : QUERY_BLOCK;
        for (uint32_t k = me; k < n * QUERY_BLOCK; k += THREADS) {
            const uint32_t token = k / QUERY_BLOCK, r = k % QUERY_BLOCK;
            if (r >= rows) continue;
            const int8_t *z = q.rows[1] + (first + r) * stride * d;
            float sum = 0.0f;
            for (uint32_t c = 0; c < d; c++)
                sum += decode(q.keys, q.keys_code, d, false, token, c, v.levels) * (float)z[c];
            const float y = sum > -KVI_KV_MOST_LOGIT ? sum : -KVI_KV_MOST_LOGIT;
            p[k] = sum != sum ? 0.0f : y < KVI_KV_MOST_LOGIT ? y : KVI_KV_MOST_LOGIT;
        }
        kvi_sync_block();
        if (me < rows) {
            float mean = 0.0f, squares = 0.0f, sum = 0.0f;
            for (uint32_t i = 0; i < n; i++) mean += p[i * QUERY_BLOCK + me];
            mean /= (float)n;
            for (uint32_t i = 0; i < n; i++) {
                const float x = p[i * QUERY_BLOCK + me] - mean;
                squares += x * x;
            }
            squares /= (float)n;
            const float inverse = squares > 0.0f ? KVI_KV_LOGITS / kvi_sqrt_rn(squares) : 0.0f;
            for (uint32_t i = 0; i < n; i++) {
                const float e = kvi_kv_exp_near((p[i * QUERY_BLOCK + me] - mean) * inverse);
                sum += e;
                p[i * QUERY_BLOCK + me] = e;
            }
            sum = 1.0f / sum;
            for (uint32_t i = 0; i < n; i++) p[i * QUERY_BLOCK + me] *= sum;
        }
        kvi_sync_block();
        for (uint32_t k = me; k < n * n; k += THREADS) {
            const uint32_t i = k / n, j = k % n;
            if (j > i) continue;
            float sum = t.metric[k];
            for (uint32_t r = 0; r < rows; r++) sum += p[i * QUERY_BLOCK + r] * p[j * QUERY_BLOCK + r];
            t.metric[k] = sum;
        }
        kvi_sync_block();
    }
}

/* U of the tile's side; false: nothing is known, and it is rounded plainly. The same for all threads. */
KVI_DEV bool factor_metric(const tile &t, const vectors &v, const queries &q)
{
    if (!q.n || (t.is_v && (!q.rows[1] || !q.keys))) return false;
    if (t.is_v) attention_moments(t, v, q);
    else query_moments(t, q);
    return factor(t, v, t.is_v ? KVI_KV_PAGE : t.d, t.is_v ? KVI_KV_VALUE_DAMPING : KVI_KV_KEY_DAMPING);
}

/* fit_range of feedback.h by the first warp: step and offset into words[48] and words[49]. */
KVI_DEV void fit_range(const float *x, uint32_t n, uint32_t bits, float *words, uint32_t lane)
{
    const float top = (float)((1u << bits) - 1u), count = (float)n;
    float bottom = x[lane % n], high = bottom;
    for (uint32_t c = lane; c < n; c += 32u) {
        bottom = x[c] < bottom ? x[c] : bottom;
        high = x[c] > high ? x[c] : high;
    }
#pragma unroll
    for (uint32_t mask = 1; mask < 32u; mask *= 2) {
        const float b = kvi_shfl_xor(bottom, mask), h = kvi_shfl_xor(high, mask);
        bottom = b < bottom ? b : bottom;
        high = h > high ? h : high;
    }
    const float middle = 0.5f * (bottom + high), half = 0.5f * (high - bottom);
    float from, step, total = 0.0f, length = 0.0f, sum = 0.0f, squares = 0.0f, dot = 0.0f;
    kvi_kv_fit(lane % KVI_KV_FITS, bits, half, &from, &step);
    const float inverse = 1.0f / step;
#pragma unroll 8
    for (uint32_t c = 0; c < n; c++) {
        const float y = x[c] - middle, q = to_code((y - from) * inverse, top);
        total += y;
        length += y * y;
        sum += q;
        squares += q * q;
        dot += q * y;
    }
    length -= total * total / count;
    const float along = dot - sum * total / count, angle = (squares - sum * sum / count) / (along * along);
    if (lane < KVI_KV_FITS) {
        words[lane] = along > 0.0f ? angle : kvi_bits_f32(0x7f800000u);
        words[KVI_KV_FITS + lane] = along;
        words[2u * KVI_KV_FITS + lane] = sum;
    }
    kvi_sync_warp();
    if (lane == 0) {
        float least = kvi_bits_f32(0x7f800000u), s = 2.0f * half / top, low = bottom + 0.0f;
        uint32_t best = KVI_KV_FITS;
        for (uint32_t k = 0; k < KVI_KV_FITS; k++)
            if (words[k] < least) least = words[k], best = k;
        if (best < KVI_KV_FITS) {
            s = length / words[KVI_KV_FITS + best];
            low = middle + (total / count - s * (words[2u * KVI_KV_FITS + best] / count));
        }
        words[3u * KVI_KV_FITS] = s;
        words[3u * KVI_KV_FITS + 1u] = low;
    }
}

/* t.x, balanced, to codes, a step and an offset of each row. t.xt holds what each code lost, as its content has been used up. */
KVI_DEV void round_with_feedback(const tile &t, const vectors &v, uint32_t bits, uint8_t *codes, uint8_t *a_out,
                                 uint8_t *z_out)
{
    const uint32_t me = threadIdx.x, n = t.n_cols;
    const float top = (float)((1u << bits) - 1u);
    float *want = v.errors;
    uint32_t *rounded = (uint32_t *)v.errors + MOST;
    for (uint32_t j = 0; j < t.n_rows; j++) {
        const float *u = t.metric + j * t.n_rows;
        if (me < n) {
            float sum = t.x[j * n + me];
#pragma unroll 8
            for (uint32_t i = 0; i < j; i++) sum += u[i] * t.xt[i * n + me];
            want[me] = sum;
        }
        kvi_sync_block();
        if (me < 32u) fit_range(want, n, bits, v.words, me);
        kvi_sync_block();
        const uint16_t a16 = side_f16(v.words[3u * KVI_KV_FITS]), z16 = side_f16(v.words[3u * KVI_KV_FITS + 1u]);
        if (me < n) {
            const float a = kvi_f16_to_f32(a16), z = kvi_f16_to_f32(z16), inverse = a > 0.0f ? 1.0f / a : 0.0f,
                        q = to_code((want[me] - z) * inverse, top);
            t.xt[j * n + me] = t.x[j * n + me] - (q * a + z);
            rounded[me] = (uint32_t)q;
        }
        if (me == 0) {
            kvi_kv_store16(a_out + 2u * j, a16);
            kvi_kv_store16(z_out + 2u * j, z16);
        }
        kvi_sync_block();
        if (me < n / 8u) {
            uint32_t packed = 0;
            for (uint32_t k = 0; k < 8u; k++) packed |= rounded[8u * me + k] << (k * bits);
            for (uint32_t b = 0; b < bits; b++) codes[(j * (n / 8u) + me) * bits + b] = (uint8_t)(packed >> (8u * b));
        }
    }
    kvi_sync_block();
}

#endif
