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

/* Whole numbers that stand where floats do. */
INLINE vi load_whole(const float *p)
{
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE vi splat_whole(const float *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return x - (vi){0};
}

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

/* h (d, d) = sum of z z^T over all query rows z, as add_moments leaves it, by whole numbers: two rows at a time, one in the lower and one in the
 * upper half of 32 bits. block: (QUERY_BLOCK, d) scratch. */
static void second_moments(const kvi_kv_queries *queries, uint32_t d, float *block, float *h)
{
    memset(h, 0, (size_t)d * d * sizeof *h);
    for (uint32_t page = 0; page < 2; page++)
        for (uint32_t first = 0; first < queries->n_rows[page]; first += 2 * QUERY_BLOCK) {
            const int8_t *rows = queries->rows[page] + (size_t)first * d;
            const uint32_t left = queries->n_rows[page] - first, n = left < 2 * QUERY_BLOCK ? left : 2 * QUERY_BLOCK;
            for (uint32_t t = 0; t < n; t += 2) {
                const int8_t *low = rows + (size_t)t * d, *high = low + (t + 1 < n ? d : 0);
                const int32_t two = t + 1 < n ? 65536 : 0;
                for (uint32_t i = 0; i < d; i++) {
                    const int32_t pair = (low[i] & 0xffff) + high[i] * two;
                    memcpy(block + (size_t)(t / 2) * d + i, &pair, sizeof pair);
                }
            }
            for (uint32_t i = 0; i < d; i += 4)
                for (uint32_t j = 0; j < i + 4; j += VW) {
                    vi sum[4];
                    for (uint32_t a = 0; a < 4; a++) sum[a] = load_whole(h + (size_t)(i + a) * d + j);
                    for (uint32_t t = 0; t < (n + 1) / 2; t++) {
                        const float *z = block + (size_t)t * d;
                        const vi row = load_whole(z + j);
                        for (uint32_t a = 0; a < 4; a++) sum[a] += pair_products(splat_whole(z + i + a), row);
                    }
                    for (uint32_t a = 0; a < 4; a++) memcpy(h + (size_t)(i + a) * d + j, &sum[a], sizeof sum[a]);
                }
        }
    for (uint32_t i = 0; i < d * d; i += VW) store(h + i, __builtin_convertvector(load_whole(h + i), vf));
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
 * U, the diagonal D. False: there is no query. Four columns are eliminated in one pass, each number by one after the other. */
static bool factor(float *h, uint32_t d, float share)
{
    float trace = 0;
    for (uint32_t i = 0; i < d; i++) trace += h[(size_t)i * d + i];
    if (!(trace > 0)) return false;
    const float damping = trace / (float)d * share;
    for (uint32_t i = 0; i < d; i++) h[(size_t)i * d + i] += damping;
    for (uint32_t first = d; first > 0;) {
        float *row[4], inverse[4];
        first -= 4;
        for (uint32_t a = 0; a < 4; a++) row[a] = h + (size_t)(first + a) * d;
        for (uint32_t a = 4; a-- > 0;) {
            const float pivot = row[a][first + a];
            inverse[a] = pivot > 0 ? 1.0f / pivot : 0.0f;
            for (uint32_t b = 0; b < a; b++) {
                const vf u = splat(row[a][first + b] * inverse[a]);
                for (uint32_t k = 0; k <= first + b; k += VW)
                    store(row[b] + k, load(row[b] + k) - u * load(row[a] + k));
            }
        }
        for (uint32_t i = 0; i < first; i += 2) {
            float *to[2] = {h + (size_t)i * d, h + (size_t)(i + 1) * d};
            vf u[2][4];
            for (uint32_t b = 0; b < 2; b++)
                for (uint32_t a = 0; a < 4; a++) u[b][a] = splat(row[a][i + b] * inverse[a]);
            for (uint32_t k = 0; k <= i + 1; k += VW) {
                vf sum[2] = {load(to[0] + k), load(to[1] + k)};
                for (uint32_t a = 4; a-- > 0;) {
                    const vf pivots = load(row[a] + k);
                    for (uint32_t b = 0; b < 2; b++) sum[b] -= u[b][a] * pivots;
                }
                for (uint32_t b = 0; b < 2; b++) store(to[b] + k, sum[b]);
            }
        }
        for (uint32_t a = 0; a < 4; a++)
            for (uint32_t i = 0; i < first + a; i++) row[a][i] *= inverse[a];
    }
    return true;
}

/* Eight codes of a row, LSB first. */
static void put_eight(const uint8_t *codes, uint32_t bits, uint8_t *out)
{
    uint64_t x;
    memcpy(&x, codes, sizeof x);
    x = (x | x >> (8 - bits)) & 0x00ff00ff00ff00ffu;
    x = (x | x >> (16 - 2 * bits)) & 0x0000ffff0000ffffu;
    x |= x >> (32 - 4 * bits);
    for (uint32_t b = 0; b < bits; b++) out[b] = (uint8_t)(x >> (8 * b));
}

/* want (n, n_cols), n rows: x + the sum over `from` <= i < `to` of u[i] times what row i lost; u: (n, n_rows), lost: (n_rows, n_cols). */
INLINE void owed_of(uint32_t n, const float *x, const float *u, uint32_t n_rows, uint32_t from, uint32_t to,
                    const float *lost, uint32_t n_cols, float *want)
{
    for (uint32_t c = 0; c < n_cols;) {
        const bool wide = n_cols - c >= 2 * VW;
        vf sum[4][2];
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < 2; b++) sum[a][b] = load(x + (size_t)a * n_cols + (wide ? c + b * VW : c));
        for (uint32_t i = from; i < to; i++) {
            const float *row = lost + (size_t)i * n_cols + c;
            const vf first = load(row), second = wide ? load(row + VW) : first;
            for (uint32_t a = 0; a < n; a++) {
                const vf weight = splat(u[(size_t)a * n_rows + i]);
                sum[a][0] += weight * first;
                sum[a][1] += weight * second;
            }
        }
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < (wide ? 2u : 1u); b++) store(want + (size_t)a * n_cols + c + b * VW, sum[a][b]);
        c += wide ? 2 * VW : VW;
    }
}

/* For rows in turn: want (n_cols) = x of row j + the sum over i < j of U[i][j] times what row i lost. Every fourth row begins the sums of four. */
typedef struct debts {
    const float *x, *u, *lost;
    float *sums; /* (4, n_cols) scratch */
    uint32_t n_rows, n_cols;
} debts;
static const float *add_owed(const debts *of, uint32_t j)
{
    const uint32_t first = j & ~3u, n = of->n_cols;
    const float *u = of->u + (size_t)j * of->n_rows;
    float *want = of->sums + (size_t)(j - first) * n;
    if (j == first) owed_of(4, of->x + (size_t)j * n, u, of->n_rows, 0, j, of->lost, n, of->sums);
    else owed_of(1, want, u, of->n_rows, first, j, of->lost, n, want);
    return want;
}

/* Extremes over the lanes of both; of what is equal one of the first, in both. */
INLINE void extremes(vf low, vf high, float *bottom, float *top)
{
    float a[4], b[4], lows[VW], highs[VW];
    store(lows, low), store(highs, high);
    for (uint32_t k = 0; k < 4; k++) a[k] = lows[k], b[k] = highs[k];
    for (uint32_t part = 4; part < VW; part += 4)
        for (uint32_t k = 0; k < 4; k++) {
            a[k] = lows[part + k] < a[k] ? lows[part + k] : a[k];
            b[k] = highs[part + k] > b[k] ? highs[part + k] : b[k];
        }
    for (uint32_t k = 0; k < 2; k++) a[k] = a[k + 2] < a[k] ? a[k + 2] : a[k], b[k] = b[k + 2] > b[k] ? b[k + 2] : b[k];
    *bottom = a[1] < a[0] ? a[1] : a[0], *top = b[1] > b[0] ? b[1] : b[0];
}

enum { FIT_GROUPS = KVI_KV_FITS / VW };
/* The grids of ranges.h, one to a lane. */
typedef struct grids {
    vf width[FIT_GROUPS], place[FIT_GROUPS];
} grids;
static grids grids_of(uint32_t bits)
{
    grids g;
    for (uint32_t k = 0; k < KVI_KV_FITS; k++)
        g.width[k / VW][k % VW] = kvi_kv_fit_width(k, bits), g.place[k / VW][k % VW] = kvi_kv_fit_place(k);
    return g;
}

/* Step and offset of a row of n numbers: of the grids the one whose codes make the least angle with the row. */
static void fit_range(const float *x, uint32_t n, uint32_t bits, const grids *grid, float *step, float *low)
{
    const float top = (float)((1u << bits) - 1u), count = (float)n;
    float line[KVI_KV_MAX_HEAD_DIM];
    vf least_of = load(x), most_of = least_of;
    for (uint32_t c = VW; c < n; c += VW) least_of = least(load(x + c), least_of), most_of = most(load(x + c), most_of);
    float bottom, high, smallest, largest;
    extremes(least_of, most_of, &bottom, &high);
    const float middle = 0.5f * (bottom + high), half = 0.5f * (high - bottom);
    for (uint32_t c = 0; c < n; c += VW) store(line + c, load(x + c) - splat(middle));
    vf from[FIT_GROUPS], inverse[FIT_GROUPS], sum[2][FIT_GROUPS], squares[2][FIT_GROUPS], dot[FIT_GROUPS];
    for (uint32_t g = 0; g < FIT_GROUPS; g++) {
        const vf width = splat(half) * grid->width[g], steps = splat(2.0f) * width / splat(top);
        from[g] = grid->place[g] * steps - width;
        inverse[g] = splat(1.0f) / steps;
        sum[0][g] = squares[0][g] = sum[1][g] = squares[1][g] = dot[g] = splat(0.0f);
    }
    float total = 0, length = 0;
    for (uint32_t c = 0; c < n; c += 2)
        for (uint32_t b = 0; b < 2; b++) { /* codes are whole numbers: their sums have no order */
            const float y = line[c + b];
            total += y;
            length += y * y;
            for (uint32_t g = 0; g < FIT_GROUPS; g++) {
                const vf v = splat(y), q = to_code((v - from[g]) * inverse[g], top);
                sum[b][g] += q;
                squares[b][g] = madd_whole(q, q, squares[b][g]);
                dot[g] += q * v;
            }
        }
    for (uint32_t g = 0; g < FIT_GROUPS; g++) sum[0][g] += sum[1][g], squares[0][g] += squares[1][g];
    length -= total * total / count;
    float along[KVI_KV_FITS], angle[KVI_KV_FITS];
    vf smallest_of = splat(INFINITY);
    for (uint32_t g = 0; g < FIT_GROUPS; g++) {
        const vf of = dot[g] - sum[0][g] * splat(total) / splat(count),
                 sine = (squares[0][g] - sum[0][g] * sum[0][g] / splat(count)) / (of * of);
        const vf known = choose((of > splat(0.0f)) & (sine < splat(INFINITY)), sine, splat(INFINITY));
        store(along + g * VW, of);
        store(angle + g * VW, known);
        smallest_of = least(known, smallest_of);
    }
    extremes(smallest_of, smallest_of, &smallest, &largest);
    *step = 2.0f * half / top, *low = bottom + 0.0f; /* one sign of zero */
    if (!(smallest < INFINITY)) return;
    uint32_t best = 0;
    for (uint32_t k = KVI_KV_FITS; k-- > 0;) best = angle[k] == smallest ? k : best;
    *step = length / along[best];
    *low = middle + (total / count - *step * (sum[0][best / VW][best % VW] / count));
}

/* x (n_rows, n_cols) to codes, a step and an offset of each row; u as `factor` leaves it; lost: (n_rows, n_cols), sums: (4, n_cols)
 * scratch. By itself: inlined, it makes plain rounding a quarter slower. */
static __attribute__((noinline)) void round_with_feedback(const float *x, uint32_t n_rows, uint32_t n_cols,
                                                          const float *u, uint32_t bits, float *lost, float *sums,
                                                          uint8_t *codes, uint8_t *a_out, uint8_t *z_out)
{
    const float top = (float)((1u << bits) - 1u);
    const grids grid = grids_of(bits);
    const debts owed = {.x = x, .u = u, .lost = lost, .sums = sums, .n_rows = n_rows, .n_cols = n_cols};
    uint8_t line[KVI_KV_MAX_HEAD_DIM];
    for (uint32_t j = 0; j < n_rows; j++) {
        const float *row = x + (size_t)j * n_cols, *want = add_owed(&owed, j);
        float step, low;
        fit_range(want, n_cols, bits, &grid, &step, &low);
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
