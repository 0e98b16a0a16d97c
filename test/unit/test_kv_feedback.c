/* test_kv_feedback.c - K rounded in the metric of the queries, V in that of their attention: against GPTQ in double precision, written as its paper
 * has it (inverse and Cholesky factor of the inverse), with the row's range searched again; bytes that depend on no instruction set or compiler;
 * queries and keys of any content. */
#include "../../runtime/kv/encode.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const kvi_kv_code codes[] = {KVI_KV_Q4, KVI_KV_Q3, KVI_KV_Q2};
static const uint32_t head_dims[] = {16, 48, 64, 80, 128, 192, 256, 512};
#define N_CODES (sizeof codes / sizeof codes[0])
#define N_DIMS (sizeof head_dims / sizeof head_dims[0])
static const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED};

static uint32_t lcg;
static double uniform(void) { return lcg = lcg * 1664525u + 1013904223u, (double)(lcg >> 8) / 16777216.0; }
static double normal(void) { return uniform() + uniform() + uniform() + uniform() - 2; }

typedef struct bench {
    uint32_t d, n_rows;           /* query rows of each page */
    float *rows, *keys, *scratch; /* keys: where rows are values */
    int8_t *queries;              /* of the page, then of its successor */
    uint8_t *plain, *side, *other;
    kvi_kv_queries of;
} bench;

/* Keys about a mean; queries that lie near a few directions, as those of trained models do. */
static bench open_bench(uint32_t d, uint32_t n_rows, uint32_t seed)
{
    bench b = {.d = d, .n_rows = n_rows};
    b.rows = malloc(d * 512), b.keys = malloc(d * 512), b.scratch = malloc(kvi_kv_encode_scratch(d) * 4),
    b.queries = malloc((size_t)2 * n_rows * d);
    b.plain = malloc(d * 512), b.side = malloc(d * 512), b.other = malloc(d * 512);
    float *directions = malloc(d * 6 * 4), *q = malloc(d * 4);
    assert_true(b.rows && b.keys && b.scratch && b.queries && b.plain && b.side && b.other && directions && q);
    lcg = seed;
    for (uint32_t i = 0; i < d * 128; i++) b.rows[i] = (float)(normal() * (1 + i / d % 3) + (i % d % 7 == 2 ? 3 : 0));
    for (uint32_t i = 0; i < d * 6; i++) directions[i] = (float)normal();
    for (uint32_t r = 0; r < 2 * n_rows; r++) {
        for (uint32_t i = 0; i < d; i++) q[i] = (float)(0.3 * normal());
        for (uint32_t k = 0; k < 6; k++) {
            const float weight = (float)normal() * (k ? 1 : 4);
            for (uint32_t i = 0; i < d; i++) q[i] += weight * directions[k * d + i];
        }
        kvi_kv_encoder_portable.query(q, d, b.queries + (size_t)r * d);
    }
    for (uint32_t i = 0; i < d * 128; i++) /* some tokens are looked at together */
        b.keys[i] = (float)normal() + 0.4f * directions[(i / d * 7 + i / d / 9) % 6 * d + i % d];
    free(directions), free(q);
    b.of = (kvi_kv_queries){{b.queries, b.queries + (size_t)n_rows * d}, {n_rows, n_rows}, b.keys};
    return b;
}

static void close_bench(bench *b)
{
    free(b->rows), free(b->keys), free(b->scratch), free(b->queries), free(b->plain), free(b->side), free(b->other);
}

/* Damped second moment of the queries, (d, d). */
static double *hessian(const kvi_kv_queries *queries, uint32_t d)
{
    double *h = calloc((size_t)d * d, sizeof *h), mean = 0;
    assert_non_null(h);
    for (int page = 0; page < 2; page++)
        for (uint32_t r = 0; r < queries->n_rows[page]; r++)
            for (uint32_t i = 0; i < d; i++)
                for (uint32_t j = 0; j < d; j++)
                    h[i * d + j] += (double)queries->rows[page][r * d + i] * queries->rows[page][r * d + j];
    for (uint32_t i = 0; i < d; i++) mean += h[i * d + i] / d;
    for (uint32_t i = 0; i < d; i++) h[i * d + i] += 0.25 * mean;
    return h;
}

/* Damped second moment of the attention of the successor's queries, (128, 128): at most 64 of them, spread evenly, with logits of deviation 2. */
static double *attention_hessian(const bench *b)
{
    const uint32_t n = b->of.n_rows[1], stride = n > 64 ? n / 64 : 1, d = b->d;
    double *h = calloc(128 * 128, sizeof *h), trace = 0;
    assert_non_null(h);
    for (uint32_t r = 0; r < n / stride; r++) {
        double p[128], mean = 0, squares = 0, sum = 0;
        for (uint32_t t = 0; t < 128; t++) {
            p[t] = 0;
            for (uint32_t c = 0; c < d; c++)
                p[t] += (double)b->keys[t * d + c] * (double)b->of.rows[1][(size_t)r * stride * d + c];
            mean += p[t] / 128;
        }
        for (uint32_t t = 0; t < 128; t++) squares += (p[t] - mean) * (p[t] - mean) / 128;
        for (uint32_t t = 0; t < 128; t++) sum += p[t] = squares > 0 ? exp(2 * (p[t] - mean) / sqrt(squares)) : 1;
        for (uint32_t i = 0; i < 128; i++)
            for (uint32_t j = 0; j < 128; j++) h[i * 128 + j] += p[i] / sum * (p[j] / sum);
    }
    for (uint32_t i = 0; i < 128; i++) trace += h[i * 129];
    for (uint32_t i = 0; i < 128; i++) h[i * 129] += trace / 128;
    return h;
}

/* In place: h becomes the upper Cholesky factor of its inverse. */
static void inverse_factor(double *h, uint32_t d)
{
    double *a = calloc((size_t)d * d, sizeof *a);
    assert_non_null(a);
    for (uint32_t i = 0; i < d; i++) a[i * d + i] = 1;
    for (uint32_t p = 0; p < d; p++) { /* Gauss-Jordan; positive definite: no pivoting */
        const double pivot = h[p * d + p];
        for (uint32_t j = 0; j < d; j++) h[p * d + j] /= pivot, a[p * d + j] /= pivot;
        for (uint32_t i = 0; i < d; i++) {
            const double f = h[i * d + p];
            for (uint32_t j = 0; i != p && j < d; j++)
                h[i * d + j] -= f * h[p * d + j], a[i * d + j] -= f * a[p * d + j];
        }
    }
    memset(h, 0, (size_t)d * d * sizeof *h);
    for (uint32_t i = 0; i < d; i++) /* a = L L^T; h = L^T */
        for (uint32_t j = 0; j <= i; j++) {
            double sum = a[i * d + j];
            for (uint32_t k = 0; k < j; k++) sum -= h[k * d + i] * h[k * d + j];
            h[j * d + i] = i == j ? sqrt(sum) : sum / h[j * d + j];
        }
    free(a);
}

/* The rows of codes of a side: K's are channels, V's tokens. */
typedef struct shape {
    bool is_v;
    uint32_t d, n_rows, n_cols, bits;
    kvi_kv_code code;
    kvi_kv_side at;
} shape;
static shape shape_of(bool is_v, kvi_kv_code code, uint32_t d)
{
    return (shape){is_v,
                   d,
                   is_v ? 128 : d,
                   is_v ? d : 128,
                   kvi_kv_code_bits(code),
                   code,
                   is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d)};
}
static double original(const bench *b, const shape *s, uint32_t i, uint32_t j)
{
    return (double)(s->is_v ? b->rows[i * s->d + j] : b->rows[j * s->d + i]);
}
static double decoded(const uint8_t *side, const shape *s, uint32_t i, uint32_t j)
{
    return (double)(s->is_v ? kvi_kv_decode_v(side, s->code, s->d, i, j) : kvi_kv_decode_k(side, s->code, s->d, j, i));
}

/* The error of a side in the metric h of its rows, columns divided by their scales. */
static double error_of(const bench *b, const uint8_t *side, const shape *s, const double *h)
{
    double sum = 0, *e = malloc(s->n_rows * sizeof *e);
    for (uint32_t j = 0; j < s->n_cols; j++) {
        const double o = (double)kvi_kv_side_value(side, s->at.o_off, j);
        for (uint32_t i = 0; i < s->n_rows; i++) e[i] = (original(b, s, i, j) - decoded(side, s, i, j)) / o;
        for (uint32_t i = 0; i < s->n_rows; i++)
            for (uint32_t k = 0; k < s->n_rows; k++) sum += e[i] * h[i * s->n_rows + k] * e[k];
    }
    free(e);
    return sum;
}

/* Whether step a and offset z are those of the grid, among four widths in four places, whose codes make the least angle with x: they keep the row's
 * mean and its length along itself. A grid that is as good but for a thousandth will do. */
static bool fits(const double *x, uint32_t n, uint32_t bits, double a, double z)
{
    const double top = (1 << bits) - 1, narrower = bits == 4 ? 0.06 : bits == 3 ? 0.04 : 0.08;
    double low = x[0], high = x[0], mean = 0, length = 0, least = INFINITY, angle[16], step[16], offset[16];
    for (uint32_t i = 0; i < n; i++) low = fmin(low, x[i]), high = fmax(high, x[i]), mean += x[i] / n;
    for (uint32_t i = 0; i < n; i++) length += (x[i] - mean) * (x[i] - mean);
    for (uint32_t k = 0; k < 16; k++) {
        const double width = (high - low) * (1 - narrower * (k / 4)), s = width / top,
                     from = (low + high - width) / 2 + s * (0.25 * (k % 4) - 0.375);
        double sum = 0, squares = 0, dot = 0;
        for (uint32_t i = 0; i < n; i++) {
            const double q = fmin(fmax(nearbyint((x[i] - from) / s), 0), top);
            sum += q, squares += q * q, dot += q * (x[i] - mean);
        }
        angle[k] = (squares - sum * sum / n) / (dot * dot);
        step[k] = length / dot;
        offset[k] = mean - step[k] * sum / n;
        least = fmin(least, angle[k]);
    }
    for (uint32_t k = 0; k < 16; k++)
        if (angle[k] <= least * 1.005 && fabs(step[k] / a - 1) < 2e-3 &&
            fabs(offset[k] - z) < 2e-3 * (fabs(z) + a * top))
            return true;
    return false;
}

/* other gets the scales of `side` and codes of its own. Returns how many codes are the same; unfit: how many rows have a range that is not theirs. */
static uint32_t gptq(const bench *b, const uint8_t *side, const shape *s, const double *factor, uint8_t *other,
                     uint32_t *unfit)
{
    const uint32_t n = s->n_rows, m = s->n_cols, row_bytes = m / 8 * s->bits;
    double *w = malloc((size_t)n * m * sizeof *w);
    uint32_t same = 0;
    *unfit = 0;
    memset(other, 0, s->at.codes_bytes);
    memcpy(other + s->at.codes_bytes, side + s->at.codes_bytes, s->at.bytes - s->at.codes_bytes);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < m; j++)
            w[i * m + j] = original(b, s, i, j) / (double)kvi_kv_side_value(side, s->at.o_off, j);
    for (uint32_t i = 0; i < n; i++) {
        const double a = (double)kvi_kv_side_value(side, s->at.a_off, i),
                     z = (double)kvi_kv_side_value(side, s->at.z_off, i);
        *unfit += !fits(w + i * m, m, s->bits, a, z);
        for (uint32_t j = 0; j < m; j++) {
            const uint32_t theirs = kvi_kv_get_code(side + i * row_bytes, j, s->bits);
            const double q = fmin(fmax(nearbyint((w[i * m + j] - z) / a), 0), (1u << s->bits) - 1);
            kvi_kv_put_code(other + i * row_bytes, j, s->bits, (uint32_t)q);
            same += (uint32_t)q == theirs;
            /* Rows behind are made of the encoder's codes, so that one tie does not change all of them. */
            const double lost = (w[i * m + j] - (theirs * a + z)) / factor[i * n + i];
            for (uint32_t k = i + 1; k < n; k++) w[k * m + j] -= lost * factor[i * n + k];
        }
    }
    free(w);
    return same;
}

static void rounds_as_gptq_does(void **state)
{
    (void)state;
    for (size_t h = 0; h < N_DIMS; h++)
        for (size_t c = 0; c < N_CODES; c++)
            for (uint32_t n = 64; n <= 512; n = n == 64 ? 512 : n + 1)
                for (int is_v = 0; is_v < 2; is_v++) {
                    const uint32_t d = head_dims[h];
                    if (n == 512 && d > 80) continue; /* the double-precision sum takes its time */
                    bench b = open_bench(d, n, 11 * d + n + (uint32_t)c);
                    const shape s = shape_of(is_v, codes[c], d);
                    double *metric = is_v ? attention_hessian(&b) : hessian(&b.of, d),
                           *factor = is_v ? attention_hessian(&b) : hessian(&b.of, d);
                    inverse_factor(factor, s.n_rows);
                    uint32_t unfit;
                    if (is_v) {
                        kvi_kv_encoder_portable.v(codes[c], b.rows, d, &params, NULL, b.scratch, b.plain);
                        kvi_kv_encoder_portable.v(codes[c], b.rows, d, &params, &b.of, b.scratch, b.side);
                    } else {
                        kvi_kv_encoder_portable.k(codes[c], b.rows, d, &params, NULL, b.scratch, b.plain);
                        kvi_kv_encoder_portable.k(codes[c], b.rows, d, &params, &b.of, b.scratch, b.side);
                    }
                    assert_memory_equal(b.plain + s.at.o_off, b.side + s.at.o_off, 2 * s.n_cols);
                    const double same = gptq(&b, b.side, &s, factor, b.other, &unfit) / (128.0 * d);
                    const double plain = error_of(&b, b.plain, &s, metric), got = error_of(&b, b.side, &s, metric);
                    if (!(same > 0.998) || unfit * 50 > s.n_rows || !(got < (is_v ? 0.92 : 0.7) * plain))
                        fail_msg("%s, D %u, code %d, %u queries: error %.4g, of plain rounding %.4g; %.2f%% of "
                                 "the codes are GPTQ's; %u of %u rows have a range that is not theirs",
                                 is_v ? "V" : "K", d, codes[c], n, got, plain, 100 * same, unfit, s.n_rows);
                    free(metric), free(factor);
                    close_bench(&b);
                }
}

/* A page without a successor is rounded by its own queries; without queries, or with none but zeros, plainly. */
static void queries_may_be_few(void **state)
{
    (void)state;
    bench b = open_bench(64, 64, 5);
    const uint32_t bytes = kvi_kv_k_side(KVI_KV_Q4, 64).bytes;
    const kvi_kv_queries alone = {{b.queries, NULL}, {64, 0}, b.keys}, twice = {{b.queries, b.queries}, {64, 64}, NULL},
                         none = {{NULL, NULL}, {0, 0}, b.keys};
    kvi_kv_encode_k(KVI_KV_Q4, b.rows, 64, &params, b.scratch, b.plain);
    kvi_kv_encoder_portable.k(KVI_KV_Q4, b.rows, 64, &params, &alone, b.scratch, b.side);
    kvi_kv_encoder_portable.k(KVI_KV_Q4, b.rows, 64, &params, &twice, b.scratch, b.other);
    assert_memory_equal(b.side, b.other, bytes); /* the same metric, doubled */
    assert_memory_not_equal(b.side, b.plain, bytes);
    kvi_kv_encoder_portable.k(KVI_KV_Q4, b.rows, 64, &params, &none, b.scratch, b.other);
    assert_memory_equal(b.plain, b.other, bytes);
    /* V: no successor, no keys, no queries. */
    const uint32_t v_bytes = kvi_kv_v_side(KVI_KV_Q4, 64).bytes;
    kvi_kv_encode_v(KVI_KV_Q4, b.rows, 64, &params, b.scratch, b.side);
    const kvi_kv_queries *plainly[] = {&alone, &twice, &none};
    for (int i = 0; i < 3; i++) {
        kvi_kv_encoder_portable.v(KVI_KV_Q4, b.rows, 64, &params, plainly[i], b.scratch, b.other);
        assert_memory_equal(b.side, b.other, v_bytes);
    }
    kvi_kv_encoder_portable.v(KVI_KV_Q4, b.rows, 64, &params, &b.of, b.scratch, b.other);
    assert_memory_not_equal(b.side, b.other, v_bytes);
    /* What the published procedure does is not ours to improve. */
    const kvi_encode_params paper = {KVI_VARNORM_PAPER, KVI_RANGE_MINMAX};
    kvi_kv_encode_k(KVI_KV_Q4, b.rows, 64, &paper, b.scratch, b.plain);
    kvi_kv_encoder_portable.k(KVI_KV_Q4, b.rows, 64, &paper, &alone, b.scratch, b.other);
    assert_memory_equal(b.plain, b.other, bytes);
    memset(b.queries, 0, 2 * 64 * 64);
    kvi_kv_encode_k(KVI_KV_Q4, b.rows, 64, &params, b.scratch, b.plain);
    kvi_kv_encoder_portable.k(KVI_KV_Q4, b.rows, 64, &params, &b.of, b.scratch, b.other);
    assert_memory_equal(b.plain, b.other, bytes);
    close_bench(&b);
}

/* One direction, one channel, the largest numbers everywhere, keys that are constant, infinite or not numbers: a record decodes to numbers, and the
 * error for the queries is never worse than a little more than plain rounding's. */
static void anything_may_come(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 6; kind++)
        for (size_t c = 0; c < N_CODES; c++)
            for (size_t h = 0; h < N_DIMS; h++) {
                const uint32_t d = head_dims[h];
                bench b = open_bench(d, 128, 3 + kind);
                for (uint32_t i = 0; i < 2 * 128 * d; i++) {
                    const uint32_t at = i % d;
                    if (kind == 0) b.queries[i] = (int8_t)(at % 2 ? 127 : -127);
                    if (kind == 1) b.queries[i] = at == d - 1 ? 127 : 0;
                    if (kind == 2) b.queries[i] = (int8_t)(i / d < at ? -128 : 127);
                }
                for (uint32_t i = 0; kind >= 3 && i < 128 * d; i++)
                    b.rows[i] = kind == 3      ? 2.5f
                                : i % 101 == 0 ? (kind == 4 ? NAN : -INFINITY)
                                : i % 97       ? b.rows[i]
                                               : 3e38f;
                kvi_kv_encoder_portable.k(codes[c], b.rows, d, &params, NULL, b.scratch, b.plain);
                kvi_kv_encoder_portable.k(codes[c], b.rows, d, &params, &b.of, b.scratch, b.side);
                for (uint32_t t = 0; t < 128; t++)
                    for (uint32_t i = 0; i < d; i++)
                        if (!isfinite(kvi_kv_decode_k(b.side, codes[c], d, t, i)))
                            fail_msg("kind %u, D %u, code %d: token %u, channel %u is no number", kind, d, codes[c], t,
                                     i);
                if (kind < 3) {
                    const shape s = shape_of(false, codes[c], d);
                    double *metric = hessian(&b.of, d);
                    const double plain = error_of(&b, b.plain, &s, metric), got = error_of(&b, b.side, &s, metric);
                    if (!(got <= 1.05 * plain))
                        fail_msg("kind %u, D %u, code %d: error %g, of plain rounding %g", kind, d, codes[c], got,
                                 plain);
                    free(metric);
                }
                memcpy(b.keys, b.rows, kind % 2 ? d * 512 : 0); /* of anything, for values of anything */
                for (size_t k = 0; k < N_CODES + 2; k++) {
                    const kvi_kv_code code = k < N_CODES ? codes[k] : k == N_CODES ? KVI_KV_T2 : KVI_KV_T3;
                    kvi_kv_encoder_portable.v(code, b.rows, d, &params, &b.of, b.scratch, b.side);
                    for (uint32_t i = 0; i < 128 * d; i++)
                        if (!isfinite(kvi_kv_decode_v(b.side, code, d, i / d, i % d)))
                            fail_msg("V, kind %u, D %u, code %d: token %u, channel %u is no number", kind, d, code,
                                     i / d, i % d);
                }
                close_bench(&b);
            }
}

/* Queries by their direction: the largest number becomes 127, ties go to even. */
static void queries_become_directions(void **state)
{
    (void)state;
    float q[KVI_KV_MAX_HEAD_DIM];
    int8_t row[KVI_KV_MAX_HEAD_DIM];
    lcg = 9;
    for (size_t h = 0; h < N_DIMS; h++)
        for (int scale = -60; scale <= 60; scale += 30) {
            const uint32_t d = head_dims[h];
            float top = 0;
            for (uint32_t i = 0; i < d; i++) q[i] = ldexpf((float)normal(), scale), top = fmaxf(top, fabsf(q[i]));
            kvi_kv_encoder_portable.query(q, d, row);
            for (uint32_t i = 0; i < d; i++) assert_int_equal(row[i], (int)rintf(q[i] * (127.0f / top)));
        }
    for (uint32_t i = 0; i < 16; i++) q[i] = (float)i - 127.0f + 0.5f * (float)(i > 0);
    kvi_kv_encoder_portable.query(q, 16, row);
    assert_int_equal(row[0], -127);
    assert_int_equal(row[1], -126); /* -125.5 */
    assert_int_equal(row[2], -124); /* -124.5 */
    for (int bad = 0; bad < 3; bad++) {
        q[3] = bad == 0 ? NAN : bad == 1 ? INFINITY : 1e-38f;
        for (uint32_t i = 0; bad == 2 && i < 16; i++) q[i] = 1e-38f;
        kvi_kv_encoder_portable.query(q, 16, row);
        for (uint32_t i = 0; i < 16; i++) assert_true(bad ? row[i] == 0 : i == 3 ? row[i] == 0 : row[i] <= -112);
    }
}

static uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return digest;
}

/* One order of summation: every instruction set, compiler and level writes these bytes (test/rules/test_kv_compilers.sh). */
static void bytes_are_the_same_everywhere(void **state)
{
    (void)state;
    const kvi_kv_encoder *sets[3] = {&kvi_kv_encoder_portable, NULL, NULL};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[1] = &kvi_kv_encoder_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        sets[2] = &kvi_kv_encoder_avx512;
#endif
    for (int k = 0; k < 3; k++) {
        uint64_t digest = 14695981039346656037u;
        for (size_t h = 0; sets[k] && h < N_DIMS; h++)
            for (size_t c = 0; c < N_CODES; c++) {
                bench b = open_bench(head_dims[h], 64u << c, 7 + head_dims[h]);
                float q[KVI_KV_MAX_HEAD_DIM];
                for (uint32_t i = 0; i < b.d; i++) q[i] = (float)normal();
                sets[k]->query(q, b.d, b.queries + 5 * b.d);
                sets[k]->k(codes[c], b.rows, b.d, &params, &b.of, b.scratch, b.side);
                digest = digest_bytes(digest, b.side, kvi_kv_k_side(codes[c], b.d).bytes);
                sets[k]->v(codes[c], b.rows, b.d, &params, &b.of, b.scratch, b.side);
                digest = digest_bytes(digest, b.side, kvi_kv_v_side(codes[c], b.d).bytes);
                close_bench(&b);
            }
        if (!sets[k]) print_message("skipped: this CPU has no %s\n", k == 1 ? "AVX2" : "AVX-512");
        else if (digest != 0xd2d1819f3358f417u)
            fail_msg("%s: the sum of the records is 0x%llxu",
                     k == 0   ? "portable"
                     : k == 1 ? "AVX2"
                              : "AVX-512",
                     (unsigned long long)digest);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rounds_as_gptq_does), cmocka_unit_test(queries_may_be_few),
                                       cmocka_unit_test(anything_may_come), cmocka_unit_test(queries_become_directions),
                                       cmocka_unit_test(bytes_are_the_same_everywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
