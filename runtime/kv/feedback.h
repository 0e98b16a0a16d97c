/* feedback.h - K rounded with feedback, in the metric of the queries. Included by encode_body.h.
 *
 * What attention sees of an error e of a key are its products with queries, whose mean square is e^T H e with H = sum of q q^T. Plain rounding makes
 * e^T e small. Here the channels of a token are rounded one after the other, and what the earlier ones lost is made good by the later ones: with
 * H = U D U^T, U unit upper triangular, e^T H e = sum over j of D[j] (e[j] + sum over i < j of U[i][j] e[i])^2, so that channel j is rounded of
 * x[j] + sum over i < j of U[i][j] e[i]. That is LDLQ (QuIP, arXiv 2307.13304), the rounding of GPTQ without an inverse. Ranges stay those of plain
 * rounding, and so do record and decoder.
 *
 * One order of summation: the moments are whole numbers below 2^24, exact in f32 in any order; the rest runs serially along j and i, a vector of
 * channels or tokens at a time. */
#ifndef KVI_KV_FEEDBACK_H
#define KVI_KV_FEEDBACK_H

#define QUERY_BLOCK 32u /* query rows that are widened at once */
/* Of the mean square of a channel. There are only about twice as many queries as channels, so that the small directions of H are chance: with 1% the
 * rounding trusts them, and attention differs by a fifth more (README.md). */
#define FEEDBACK_DAMPING 0.25f

/* Lower triangle of h (d, d) = sum of z z^T over all query rows z; what stands right of it is of no meaning. block: (QUERY_BLOCK, d) scratch. */
static void second_moments(const kvi_kv_queries *queries, uint32_t d, float *block, float *h)
{
    memset(h, 0, (size_t)d * d * sizeof *h);
    for (uint32_t page = 0; page < 2; page++)
        for (uint32_t first = 0; first < queries->n_rows[page]; first += QUERY_BLOCK) {
            const int8_t *rows = queries->rows[page] + (size_t)first * d;
            const uint32_t left = queries->n_rows[page] - first, n = left < QUERY_BLOCK ? left : QUERY_BLOCK;
            for (uint32_t i = 0; i < n * d; i++) block[i] = (float)rows[i];
            for (uint32_t i = 0; i < d; i += 4)
                for (uint32_t j = 0; j < i + 4; j += VW) {
                    vf sum[4];
                    for (uint32_t a = 0; a < 4; a++) sum[a] = load(h + (size_t)(i + a) * d + j);
                    for (uint32_t t = 0; t < n; t++) {
                        const float *z = block + (size_t)t * d;
                        const vf row = load(z + j);
                        for (uint32_t a = 0; a < 4; a++) sum[a] += splat(z[i + a]) * row;
                    }
                    for (uint32_t a = 0; a < 4; a++) store(h + (size_t)(i + a) * d + j, sum[a]);
                }
        }
}

/* Damps H, in the lower triangle of h, and puts U there: row j, left of the diagonal, is column j of U. False: there is no query. */
static bool factor(float *h, uint32_t d)
{
    float trace = 0;
    for (uint32_t i = 0; i < d; i++) trace += h[(size_t)i * d + i];
    if (!(trace > 0)) return false;
    const float damping = trace / (float)d * FEEDBACK_DAMPING;
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

/* x (n_rows channels, n_cols tokens) to codes of `step` and `low` per row; u as `factor` leaves it; lost: (n_rows, 4 VW) scratch. */
static void round_with_feedback(const float *x, uint32_t n_rows, uint32_t n_cols, const float *u, const float *step,
                                const float *low, uint32_t bits, float *lost, uint8_t *codes)
{
    const uint32_t width = 4 * VW, row_bytes = n_cols / 8 * bits;
    const float top = (float)((1u << bits) - 1u);
    for (uint32_t t = 0; t < n_cols; t += width)
        for (uint32_t j = 0; j < n_rows; j++) {
            uint8_t line[4 * VW];
            vf want[4];
            for (uint32_t b = 0; b < 4; b++) want[b] = load(x + (size_t)j * n_cols + t + b * VW);
            for (uint32_t i = 0; i < j; i++) {
                const vf weight = splat(u[(size_t)j * n_rows + i]);
                for (uint32_t b = 0; b < 4; b++) want[b] += weight * load(lost + (size_t)i * width + b * VW);
            }
            const vf a = splat(step[j]), inverse = splat(1.0f / step[j]), z = splat(low[j]);
            for (uint32_t b = 0; b < 4; b++) {
                const vf q = to_code((want[b] - z) * inverse, top);
                store(lost + (size_t)j * width + b * VW, load(x + (size_t)j * n_cols + t + b * VW) - (q * a + z));
                store_bytes(line + b * VW, q);
            }
            for (uint32_t k = 0; k < width; k += 8)
                put_eight(line + k, bits, codes + (size_t)j * row_bytes + (t + k) / 8 * bits);
        }
}

#endif
