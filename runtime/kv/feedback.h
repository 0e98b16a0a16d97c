/* feedback.h - K rounded with feedback in the metric of the queries, V in the metric of their attention. Included by encode_body.h.
 *
 * What attention sees of an error e of a key are its products with queries, whose mean square is e^T H e with H = sum of q q^T. Plain rounding makes
 * e^T e small. Here the channels of a token are rounded one after the other, and what the earlier ones lost is made good by the later ones: with
 * H = U D U^T, U unit upper triangular, e^T H e = sum over j of D[j] (e[j] + sum over i < j of U[i][j] e[i])^2, so that channel j is rounded of
 * x[j] + sum over i < j of U[i][j] e[i]. That is LDLQ (QuIP, arXiv 2307.13304), the rounding of GPTQ without an inverse.
 *
 * What it sees of the errors of values is their sum over tokens, weighted by a query's probabilities p: H = sum of p p^T, and tokens are rounded one
 * after the other. Tokens that are looked at together make good each other's errors. Of p all is taken from what pages keep for K: the directions of
 * the successor's queries and the page's keys; the logits of a query are brought to a deviation of KVI_KV_LOGITS over the page.
 *
 * A row's range is that of the numbers to be rounded, made-good errors included: of KVI_KV_FITS grids the one whose codes make the least angle with
 * them, then scaled without bias (search_angle), so that the product of the row's error is least. Record and decoder stay those of plain rounding.
 *
 * One order of summation: the moments of K are whole numbers below 2^24, exact in f32 in any order; all other sums run serially along a column or
 * a row, a vector of columns, or of grids, at a time. */
#ifndef KVI_KV_FEEDBACK_H
#define KVI_KV_FEEDBACK_H

#define QUERY_BLOCK 32u /* query rows that are widened at once */

/* h (width, width), lower triangle, what stands right of it is of no meaning: plus the sum of z z^T over n rows z. */
static void add_moments(const float *rows, uint32_t n, uint32_t width, float *h)
{
    for (uint32_t i = 0; i < width; i += 4)
        for (uint32_t j = 0; j < i + 4; j += VW) {
            vf sum[4];
            for (uint32_t a = 0; a < 4; a++) sum[a] = load(h + (size_t)(i + a) * width + j);
            for (uint32_t t = 0; t < n; t++) {
                const float *z = rows + (size_t)t * width;
                const vf row = load(z + j);
                for (uint32_t a = 0; a < 4; a++) sum[a] += splat(z[i + a]) * row;
            }
            for (uint32_t a = 0; a < 4; a++) store(h + (size_t)(i + a) * width + j, sum[a]);
        }
}

/* h (d, d) = sum of z z^T over all query rows z, as add_moments leaves it; block: (QUERY_BLOCK, d) scratch. */
static void second_moments(const kvi_kv_queries *queries, uint32_t d, float *block, float *h)
{
    memset(h, 0, (size_t)d * d * sizeof *h);
    for (uint32_t page = 0; page < 2; page++)
        for (uint32_t first = 0; first < queries->n_rows[page]; first += QUERY_BLOCK) {
            const int8_t *rows = queries->rows[page] + (size_t)first * d;
            const uint32_t left = queries->n_rows[page] - first, n = left < QUERY_BLOCK ? left : QUERY_BLOCK;
            for (uint32_t i = 0; i < n * d; i++) block[i] = (float)rows[i];
            add_moments(block, n, d, h);
        }
}

/* Keys may be anything: what is no number is 0, and squares are finite. */
INLINE vf tame_logits(vf x)
{
    const vf y = least(most(x, splat(-KVI_KV_MOST_LOGIT)), splat(KVI_KV_MOST_LOGIT));
    return choose(x == x, y, splat(0.0f));
}

/* kvi_kv_exp_near of a vector */
INLINE vf exp_near(vf x)
{
    const vf y = x * splat(1.44269504f), n = nearest(y), r = y - n;
    vf p = splat(KVI_KV_EXP2_5);
    p = p * r + splat(KVI_KV_EXP2_4);
    p = p * r + splat(KVI_KV_EXP2_3);
    p = p * r + splat(KVI_KV_EXP2_2);
    p = p * r + splat(KVI_KV_EXP2_1);
    p = p * r + splat(1.0f);
    const vi bits = (__builtin_convertvector(n, vi) + 127) << 23;
    vf power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* p (128, QUERY_BLOCK), by query a column: its logits to probabilities. */
static void probabilities(float *p)
{
    const vf count = splat((float)KVI_KV_PAGE);
    for (uint32_t r = 0; r < QUERY_BLOCK; r += VW) {
        vf mean = splat(0.0f), squares = mean, sum = mean, inverse = mean;
        for (uint32_t t = 0; t < KVI_KV_PAGE; t++) mean += load(p + t * QUERY_BLOCK + r);
        mean /= count;
        for (uint32_t t = 0; t < KVI_KV_PAGE; t++) {
            const vf x = load(p + t * QUERY_BLOCK + r) - mean;
            squares += x * x;
        }
        squares /= count;
        for (uint32_t k = 0; k < VW; k++)
            inverse[k] = squares[k] > 0 ? KVI_KV_LOGITS / sqrtf(squares[k]) : 0.0f; /* all alike: one probability */
        for (uint32_t t = 0; t < KVI_KV_PAGE; t++) {
            const vf e = exp_near((load(p + t * QUERY_BLOCK + r) - mean) * inverse);
            sum += e;
            store(p + t * QUERY_BLOCK + r, e);
        }
        sum = splat(1.0f) / sum;
        for (uint32_t t = 0; t < KVI_KV_PAGE; t++) store(p + t * QUERY_BLOCK + r, load(p + t * QUERY_BLOCK + r) * sum);
    }
}

/* h (128, 128) = sum of p p^T over at most KVI_KV_VALUE_QUERIES of the successor's queries; turned: (d, QUERY_BLOCK), rows: (QUERY_BLOCK, 128)
 * scratch. False: nothing is known of attention. */
static bool attention_moments(const kvi_kv_queries *queries, uint32_t d, float *turned, float *rows, float *h)
{
    if (!queries || !queries->keys || !queries->n_rows[1]) return false;
    const uint32_t stride = kvi_kv_value_stride(queries->n_rows[1]), n_all = queries->n_rows[1] / stride;
    float p[KVI_KV_PAGE * QUERY_BLOCK];
    memset(h, 0, KVI_KV_PAGE * KVI_KV_PAGE * sizeof *h);
    for (uint32_t first = 0; first < n_all; first += QUERY_BLOCK) {
        const uint32_t n = n_all - first < QUERY_BLOCK ? n_all - first : QUERY_BLOCK;
        memset(turned, 0, (size_t)d * QUERY_BLOCK * sizeof *turned);
        for (uint32_t r = 0; r < n; r++) {
            const int8_t *z = queries->rows[1] + (size_t)(first + r) * stride * d;
            for (uint32_t c = 0; c < d; c++) turned[c * QUERY_BLOCK + r] = (float)z[c];
        }
        for (uint32_t t = 0; t < KVI_KV_PAGE; t += 2) {
            const float *key = queries->keys + (size_t)t * d;
            vf sum[2][QUERY_BLOCK / VW];
            for (uint32_t r = 0; r < QUERY_BLOCK / VW; r++) sum[0][r] = sum[1][r] = splat(0.0f);
            for (uint32_t c = 0; c < d; c++)
                for (uint32_t r = 0; r < QUERY_BLOCK / VW; r++) {
                    const vf z = load(turned + c * QUERY_BLOCK + r * VW);
                    for (uint32_t a = 0; a < 2; a++) sum[a][r] += splat(key[a * d + c]) * z;
                }
            for (uint32_t a = 0; a < 2; a++)
                for (uint32_t r = 0; r < QUERY_BLOCK / VW; r++)
                    store(p + (t + a) * QUERY_BLOCK + r * VW, tame_logits(sum[a][r]));
        }
        probabilities(p);
        transpose(p, KVI_KV_PAGE, QUERY_BLOCK, rows);
        add_moments(rows, n, KVI_KV_PAGE, h);
    }
    return true;
}

/* Damps H, in the lower triangle of h (d, d), by `share` of the mean of its diagonal, and puts U there: row j, left of the diagonal, is column j of
 * U, the diagonal D. False: there is no query. */
static bool factor(float *h, uint32_t d, float share)
{
    float trace = 0;
    for (uint32_t i = 0; i < d; i++) trace += h[(size_t)i * d + i];
    if (!(trace > 0)) return false;
    const float damping = trace / (float)d * share;
    for (uint32_t i = 0; i < d; i++) h[(size_t)i * d + i] += damping;
    for (uint32_t j = d - 1; j > 0; j--) {
        float *row = h + (size_t)j * d;
        const float pivot = row[j], inverse = pivot > 0 ? 1.0f / pivot : 0.0f;
        for (uint32_t i = 0; i < j; i++) {
            float *to = h + (size_t)i * d;
            const vf u = splat(row[i] * inverse);
            for (uint32_t k = 0; k <= i; k += VW) store(to + k, load(to + k) - u * load(row + k));
        }
        for (uint32_t i = 0; i < j; i++) row[i] *= inverse;
    }
    return true;
}

/* Eight codes of a row, LSB first. */
static void put_eight(const uint8_t *codes, uint32_t bits, uint8_t *out)
{
    uint32_t packed = 0;
    for (uint32_t k = 0; k < 8; k++) packed |= (uint32_t)codes[k] << (k * bits);
    for (uint32_t b = 0; b < bits; b++) out[b] = (uint8_t)(packed >> (8 * b));
}

/* want (n_cols) = x of row j + the sum over i < j of u[i] times what row i lost; lost (j, n_cols). */
static void add_owed(const float *x, const float *u, uint32_t j, const float *lost, uint32_t n_cols, float *want)
{
    for (uint32_t c = 0; c < n_cols;) {
        const bool wide = n_cols - c >= 4 * VW;
        vf sum[4];
        for (uint32_t b = 0; b < 4; b++) sum[b] = load(x + (wide ? c + b * VW : c));
        for (uint32_t i = 0; i < j; i++) {
            const vf weight = splat(u[i]);
            const float *row = lost + (size_t)i * n_cols + c;
            if (wide)
                for (uint32_t b = 0; b < 4; b++) sum[b] += weight * load(row + b * VW);
            else sum[0] += weight * load(row);
        }
        for (uint32_t b = 0; b < (wide ? 4u : 1u); b++) store(want + c + b * VW, sum[b]);
        c += wide ? 4 * VW : VW;
    }
}

/* Step and offset of a row of n numbers: of the grids the one whose codes make the least angle with the row, a grid to a lane. */
static void fit_range(const float *x, uint32_t n, uint32_t bits, float *step, float *low)
{
    enum { GROUPS = KVI_KV_FITS / VW };
    const float top = (float)((1u << bits) - 1u), count = (float)n;
    vf least_of = load(x), most_of = least_of;
    for (uint32_t c = VW; c < n; c += VW) least_of = least(load(x + c), least_of), most_of = most(load(x + c), most_of);
    float bottom = least_of[0], high = most_of[0];
    for (uint32_t k = 1; k < VW; k++) {
        bottom = least_of[k] < bottom ? least_of[k] : bottom;
        high = most_of[k] > high ? most_of[k] : high;
    }
    const float middle = 0.5f * (bottom + high), half = 0.5f * (high - bottom);
    vf from[GROUPS], inverse[GROUPS], sum[GROUPS], squares[GROUPS], dot[GROUPS];
    for (uint32_t g = 0; g < GROUPS; g++) {
        for (uint32_t k = 0; k < VW; k++) {
            float l, s;
            kvi_kv_fit(g * VW + k, bits, half, &l, &s);
            from[g][k] = l, inverse[g][k] = s;
        }
        inverse[g] = splat(1.0f) / inverse[g];
        sum[g] = squares[g] = dot[g] = splat(0.0f);
    }
    float total = 0, length = 0;
    for (uint32_t c = 0; c < n; c++) {
        const float v = x[c] - middle;
        total += v;
        length += v * v;
        for (uint32_t g = 0; g < GROUPS; g++) {
            const vf q = to_code((splat(v) - from[g]) * inverse[g], top);
            sum[g] += q;
            squares[g] += q * q;
            dot[g] += q * splat(v);
        }
    }
    length -= total * total / count;
    float along[KVI_KV_FITS], angle[KVI_KV_FITS], smallest = INFINITY;
    for (uint32_t g = 0; g < GROUPS; g++) {
        const vf of = dot[g] - sum[g] * splat(total) / splat(count);
        store(along + g * VW, of);
        store(angle + g * VW,
              choose(of > splat(0.0f), (squares[g] - sum[g] * sum[g] / splat(count)) / (of * of), splat(INFINITY)));
    }
    uint32_t best = KVI_KV_FITS;
    for (uint32_t k = 0; k < KVI_KV_FITS; k++)
        if (angle[k] < smallest) smallest = angle[k], best = k;
    *step = 2.0f * half / top, *low = bottom + 0.0f; /* one sign of zero */
    if (best == KVI_KV_FITS) return;
    *step = length / along[best];
    *low = middle + (total / count - *step * (sum[best / VW][best % VW] / count));
}

/* x (n_rows, n_cols) to codes, a step and an offset of each row; u as `factor` leaves it; lost: (n_rows, n_cols) scratch. */
static void round_with_feedback(const float *x, uint32_t n_rows, uint32_t n_cols, const float *u, uint32_t bits,
                                float *lost, uint8_t *codes, uint8_t *a_out, uint8_t *z_out)
{
    const float top = (float)((1u << bits) - 1u);
    float want[KVI_KV_MAX_HEAD_DIM];
    uint8_t line[KVI_KV_MAX_HEAD_DIM];
    for (uint32_t j = 0; j < n_rows; j++) {
        const float *row = x + (size_t)j * n_cols;
        float step, low;
        add_owed(row, u + (size_t)j * n_rows, j, lost, n_cols, want);
        fit_range(want, n_cols, bits, &step, &low);
        const uint16_t a16 = side_f16(step), z16 = side_f16(low);
        kvi_kv_store16(a_out + 2 * j, a16);
        kvi_kv_store16(z_out + 2 * j, z16);
        step = kvi_f16_to_f32(a16);
        const vf a = splat(step), z = splat(kvi_f16_to_f32(z16)), inverse = splat(step > 0 ? 1.0f / step : 0.0f);
        for (uint32_t c = 0; c < n_cols; c += VW) {
            const vf q = to_code((load(want + c) - z) * inverse, top);
            store(lost + (size_t)j * n_cols + c, load(row + c) - (q * a + z));
            store_bytes(line + c, q);
        }
        for (uint32_t k = 0; k < n_cols; k += 8)
            put_eight(line + k, bits, codes + (size_t)j * (n_cols / 8 * bits) + k / 8 * bits);
    }
}

#endif
