/* test_kv_trellis.c - the codes T2 and T3: a ring is read as its bits say, and by the kernels as by the codec; the search finds the best path
 * that its cut allows, and the cut costs next to nothing, against a double-precision search over all cuts; the normal form keeps means and
 * lengths, in the metric of queries too; bytes are the same everywhere; bad values do not spread. */
#include "../../runtime/kv/encode.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define N KVI_KV_PAGE
#define STATES 64u
static const kvi_kv_code codes[2] = {KVI_KV_T2, KVI_KV_T3};
static const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED};
static const uint32_t head_dims[] = {16, 32, 48, 64, 80, 112, 128, 192, 256, 512};
#define N_DIMS (sizeof head_dims / sizeof head_dims[0])

static uint64_t random_state = 1;
static double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(random_state >> 11) + 0.5) / 9007199254740992.0;
}
static double gaussian(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

typedef struct bench {
    uint32_t d;
    float *rows, *back, *scratch;
    uint8_t *side, *other;
    int8_t *queries; /* (2, 64, d) */
    kvi_kv_queries of;
} bench;

/* Rows with a mean and a scale of every channel, and a scale of every token; queries that look mostly one way. */
static bench bench_open(uint32_t d)
{
    bench b = {.d = d,
               .rows = malloc(d * N * sizeof(float)),
               .back = malloc(d * N * sizeof(float)),
               .scratch = malloc(kvi_kv_encode_scratch(d) * sizeof(float)),
               .side = malloc(d * N * 2),
               .other = malloc(d * N * 2),
               .queries = malloc(2 * 64 * d)};
    for (uint32_t t = 0; t < N; t++) {
        const double loud = exp(0.3 * gaussian());
        for (uint32_t c = 0; c < d; c++)
            b.rows[t * d + c] = (float)(loud * (1 + 0.5 * (c % 3)) * gaussian() + 2 * cos(c));
    }
    for (uint32_t r = 0; r < 128; r++) {
        float q[512];
        const double common = 3 * gaussian();
        for (uint32_t c = 0; c < d; c++) q[c] = (float)(gaussian() + common * sin(1 + c));
        kvi_kv_encoder_portable.query(q, d, b.queries + (size_t)r * d);
    }
    b.of = (kvi_kv_queries){
        {b.queries, b.queries + (size_t)64 * d}, {64, 64}, b.rows}; /* of V: keys that are the values */
    return b;
}
static void bench_close(bench *b)
{
    free(b->rows), free(b->back), free(b->scratch), free(b->side), free(b->other), free(b->queries);
}

static void encode(const kvi_kv_encoder *encoder, const bench *b, kvi_kv_code code, bool is_v,
                   const kvi_kv_queries *queries, uint8_t *side)
{
    if (is_v) encoder->v(code, b->rows, b->d, &params, queries, b->scratch, side);
    else encoder->k(code, b->rows, b->d, &params, queries, b->scratch, side);
}
static kvi_kv_side side_of(kvi_kv_code code, bool is_v, uint32_t d)
{
    return is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
}

/* Bit by bit: the six that begin at i b, round the ring. */
static uint32_t state_by_bits(const uint8_t *row, uint32_t n_bits, uint32_t i, uint32_t bits)
{
    uint32_t state = 0;
    for (uint32_t k = 0; k < 6; k++) {
        const uint32_t at = (i * bits + k) % n_bits;
        state |= (uint32_t)(row[at / 8] >> (at % 8) & 1) << k;
    }
    return state;
}
static double level(uint32_t state, uint32_t bits)
{
    static const int table[2][STATES] = {{KVI_KV_T2_LEVELS}, {KVI_KV_T3_LEVELS}};
    return table[bits - 2][state];
}

/* --------------------------------------------------------------------------------------------------------- reading --- */
static void a_ring_is_read_as_its_bits_say(void **state)
{
    (void)state;
    for (uint32_t bits = 2; bits <= 3; bits++)
        for (uint32_t n = 16; n <= 512; n += 16)
            for (uint32_t round = 0; round < 8; round++) {
                uint8_t row[512 * 3 / 8 + 1];
                for (uint32_t i = 0; i < n * bits / 8; i++) row[i] = (uint8_t)(uniform() * 256);
                row[n * bits / 8] = 0xff;
                for (uint32_t i = 0; i < n; i++)
                    assert_int_equal(kvi_kv_state(row, n * bits / 8, i, bits), state_by_bits(row, n * bits, i, bits));
            }
    for (uint32_t bits = 2; bits <= 3; bits++)
        for (uint32_t s = 0; s < STATES; s++) {
            assert_true(kvi_kv_level(s, bits) == (float)level(s, bits));
            assert_true(level(s, bits) == -level(STATES - 1 - s, bits)); /* a stream and its complement */
        }
}

/* (level row) col + mean, each step rounded to f32, from a side of random contents. */
static void sides_are_read_as_the_formula_says(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < N_DIMS; h++)
        for (uint32_t c = 0; c < 2; c++)
            for (int is_v = 0; is_v < 2; is_v++) {
                const uint32_t d = head_dims[h], bits = kvi_kv_code_bits(codes[c]), cols = is_v ? d : N;
                bench b = bench_open(d);
                const kvi_kv_side at = side_of(codes[c], is_v, d);
                for (uint32_t i = 0; i < at.codes_bytes; i++) b.side[i] = (uint8_t)(uniform() * 256);
                for (uint32_t i = at.codes_bytes; i < at.bytes; i += 2)
                    kvi_kv_store16(b.side + i, kvi_f32_to_f16((float)gaussian()));
                kvi_kv_decode_rows(b.side, codes[c], is_v, d, b.back);
                for (uint32_t t = 0; t < N; t++)
                    for (uint32_t ch = 0; ch < d; ch++) {
                        const uint32_t r = is_v ? t : ch, i = is_v ? ch : t;
                        const double l =
                            level(state_by_bits(b.side + (size_t)r * (cols / 8 * bits), cols * bits, i, bits), bits);
                        const float product = (float)(l * (double)kvi_kv_side_value(b.side, at.a_off, r)),
                                    scaled = (float)((double)product * (double)kvi_kv_side_value(b.side, at.o_off, i));
                        const float want = (float)((double)scaled + (double)kvi_kv_side_value(b.side, at.z_off, ch));
                        if (!(b.back[t * d + ch] == want))
                            fail_msg("T%u V %d, D %u, token %u, channel %u: %g, need %g", bits, is_v, d, t, ch,
                                     (double)b.back[t * d + ch], (double)want);
                    }
                bench_close(&b);
            }
}

/* ---------------------------------------------------------------------------------------------------------- search --- */
/* The least squared error of a ring whose bits at the cut are `cut`. */
static double best_of_cut(const double *x, uint32_t n, uint32_t bits, uint32_t cut)
{
    const uint32_t groups = STATES >> bits;
    double best[STATES], next[STATES];
    for (uint32_t g = 0; g < groups; g++) best[g] = g == cut ? 0 : DBL_MAX / 4;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t g = 0; g < groups; g++) next[g] = DBL_MAX;
        for (uint32_t s = 0; s < STATES; s++) {
            const double cost = best[s % groups] + pow(x[i] - level(s, bits), 2);
            if (cost < next[s >> bits]) next[s >> bits] = cost;
        }
        memcpy(best, next, sizeof best);
    }
    return best[cut];
}

static void the_search_finds_the_best_path(void **state)
{
    (void)state;
    double found_in_all[2] = {0}, best_in_all[2] = {0}, numbers[2] = {0};
    for (uint32_t h = 0; h < N_DIMS; h++)
        for (uint32_t c = 0; c < 2; c++) {
            const uint32_t d = head_dims[h], bits = kvi_kv_code_bits(codes[c]), row_bytes = d / 8 * bits;
            bench b = bench_open(d);
            encode(&kvi_kv_encoder_portable, &b, codes[c], true, NULL, b.side);
            const kvi_kv_side at = side_of(codes[c], true, d);
            for (uint32_t t = 0; t < N; t++) {
                const uint8_t *row = b.side + (size_t)t * row_bytes;
                /* What the encoder gave the search: the row less the mean, over A and the token's deviation, which is that of its quotients. */
                double x[512], squares = 0, found = 0;
                for (uint32_t i = 0; i < d; i++) {
                    x[i] = ((double)b.rows[t * d + i] - (double)kvi_kv_side_value(b.side, at.z_off, i)) /
                           (double)kvi_kv_side_value(b.side, at.o_off, i);
                    squares += x[i] * x[i];
                }
                for (uint32_t i = 0; i < d; i++) {
                    x[i] *= 32 / sqrt(squares / d);
                    found += pow(x[i] - level(state_by_bits(row, d * bits, i, bits), bits), 2);
                }
                const uint32_t cut = state_by_bits(row, d * bits, 0, bits) % (STATES >> bits);
                const double of_cut = best_of_cut(x, d, bits, cut);
                double best = DBL_MAX;
                for (uint32_t k = 0; k < STATES >> bits; k++) best = fmin(best, best_of_cut(x, d, bits, k));
                if (!(found <= of_cut * (1 + 2e-2) + 2)) /* deviations are of A before its rounding */
                    fail_msg("T%u, D %u, token %u: squared error %g, this cut allows %g", bits, d, t, found, of_cut);
                found_in_all[c] += found, best_in_all[c] += best, numbers[c] += d;
            }
            bench_close(&b);
        }
    for (uint32_t c = 0; c < 2; c++) {
        /* Nearly Gaussian numbers: test/study/kv/trellis_levels.py says 0.0877 and 0.0252. */
        const double mean = found_in_all[c] / numbers[c] / 1024, most = c == 0 ? 0.091 : 0.0265;
        if (!(mean <= most)) fail_msg("T%u: mean squared error %g of Gaussian numbers, at most %g", c + 2, mean, most);
        if (!(found_in_all[c] <= best_in_all[c] * 1.004))
            fail_msg("T%u: the cut costs a factor of %g", c + 2, found_in_all[c] / best_in_all[c]);
    }
}

/* ----------------------------------------------------------------------------------------------------- normal form --- */
static void means_and_lengths_stay(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < N_DIMS; h++)
        for (uint32_t c = 0; c < 2; c++)
            for (int is_v = 0; is_v < 2; is_v++) {
                const uint32_t d = head_dims[h];
                bench b = bench_open(d);
                const kvi_kv_side at = side_of(codes[c], is_v, d);
                encode(&kvi_kv_encoder_portable, &b, codes[c], is_v, NULL, b.side);
                kvi_kv_decode_rows(b.side, codes[c], is_v, d, b.back);
                for (uint32_t ch = 0; ch < d; ch++) {
                    double mean = 0;
                    for (uint32_t t = 0; t < N; t++) mean += b.rows[t * d + ch] / (double)N;
                    assert_true(fabs(kvi_kv_side_value(b.side, at.z_off, ch) - mean) <= 1e-3 * fabs(mean) + 1e-6);
                }
                for (uint32_t t = 0; t < N; t++) {
                    double length = 0, along = 0;
                    for (uint32_t ch = 0; ch < d; ch++) {
                        const double m = (double)kvi_kv_side_value(b.side, at.z_off, ch), x = b.rows[t * d + ch] - m,
                                     y = b.back[t * d + ch] - m;
                        length += x * x, along += x * y;
                    }
                    if (!(fabs(along / length - 1) < 2e-3))
                        fail_msg("%s T%u, D %u, token %u: %g of its length", is_v ? "V" : "K",
                                 kvi_kv_code_bits(codes[c]), d, t, along / length);
                }
                bench_close(&b);
            }
}

/* Sum over tokens of e^T H e of the error, H of the queries with the damping, and the length of each token along itself in it. */
static double error_in_metric(const bench *b, const kvi_kv_side *at, const uint8_t *side, kvi_kv_code code,
                              double *worst)
{
    const uint32_t d = b->d;
    double *h = calloc((size_t)d * d, sizeof *h), trace = 0, error = 0;
    for (uint32_t r = 0; r < 128; r++)
        for (uint32_t i = 0; i < d; i++)
            for (uint32_t j = 0; j < d; j++)
                h[i * d + j] += (double)b->queries[r * d + i] * (double)b->queries[r * d + j];
    for (uint32_t i = 0; i < d; i++) trace += h[i * d + i];
    for (uint32_t i = 0; i < d; i++) h[i * d + i] += 0.25 * trace / d;
    kvi_kv_decode_rows(side, code, false, d, b->back);
    *worst = 0;
    for (uint32_t t = 0; t < N; t++) {
        double length = 0, along = 0;
        for (uint32_t i = 0; i < d; i++) {
            double hx = 0, he = 0;
            for (uint32_t j = 0; j < d; j++) {
                hx += h[i * d + j] * ((double)b->rows[t * d + j] - (double)kvi_kv_side_value(side, at->z_off, j));
                he += h[i * d + j] * ((double)b->rows[t * d + j] - (double)b->back[t * d + j]);
            }
            const double m = (double)kvi_kv_side_value(side, at->z_off, i);
            length += hx * (b->rows[t * d + i] - m), along += hx * (b->back[t * d + i] - m);
            error += he * ((double)b->rows[t * d + i] - (double)b->back[t * d + i]);
        }
        *worst = fmax(*worst, fabs(along / length - 1));
    }
    free(h);
    return error;
}

static void keys_are_rounded_in_the_metric_of_queries(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < N_DIMS && head_dims[h] <= 256; h++)
        for (uint32_t c = 0; c < 2; c++) {
            bench b = bench_open(head_dims[h]);
            const kvi_kv_side at = side_of(codes[c], false, b.d);
            double worst, plain_worst;
            encode(&kvi_kv_encoder_portable, &b, codes[c], false, NULL, b.other);
            encode(&kvi_kv_encoder_portable, &b, codes[c], false, &b.of, b.side);
            const double plain = error_in_metric(&b, &at, b.other, codes[c], &plain_worst),
                         with = error_in_metric(&b, &at, b.side, codes[c], &worst);
            if (!(with < plain * 0.75))
                fail_msg("T%u, D %u: error in the metric %g, without feedback %g", c + 2, b.d, with, plain);
            if (!(worst < 4e-3))
                fail_msg("T%u, D %u: a token keeps its length in the metric but for %g", c + 2, b.d, worst);
            bench_close(&b);
        }
}

/* Sum over channels of e^T H e, H of the attention of the queries (test_kv_feedback.c's oracle has its numbers one by one). */
static double error_in_attention(const bench *b, const uint8_t *side, kvi_kv_code code)
{
    const uint32_t d = b->d;
    double error = 0;
    kvi_kv_decode_rows(side, code, true, d, b->back);
    for (uint32_t r = 0; r < 64; r++) {
        double p[N], mean = 0, squares = 0, sum = 0;
        for (uint32_t t = 0; t < N; t++) {
            p[t] = 0;
            for (uint32_t c = 0; c < d; c++) p[t] += (double)b->rows[t * d + c] * (double)b->of.rows[1][r * d + c];
            mean += p[t] / N;
        }
        for (uint32_t t = 0; t < N; t++) squares += (p[t] - mean) * (p[t] - mean) / N;
        for (uint32_t t = 0; t < N; t++) sum += p[t] = exp(2 * (p[t] - mean) / sqrt(squares));
        for (uint32_t c = 0; c < d; c++) {
            double e = 0;
            for (uint32_t t = 0; t < N; t++) e += p[t] / sum * (double)(b->rows[t * d + c] - b->back[t * d + c]);
            error += e * e;
        }
    }
    return error;
}

static void values_are_rounded_in_the_metric_of_attention(void **state)
{
    (void)state;
    double of_plain = 0;
    for (uint32_t h = 0; h < N_DIMS; h++)
        for (uint32_t c = 0; c < 2; c++) {
            bench b = bench_open(head_dims[h]);
            encode(&kvi_kv_encoder_portable, &b, codes[c], true, NULL, b.other);
            encode(&kvi_kv_encoder_portable, &b, codes[c], true, &b.of, b.side);
            const double plain = error_in_attention(&b, b.other, codes[c]),
                         with = error_in_attention(&b, b.side, codes[c]);
            if (!(with < plain))
                fail_msg("T%u, D %u: error of what attention sums %g, without feedback %g", c + 2, b.d, with, plain);
            of_plain += with / plain / (2 * N_DIMS);
            bench_close(&b);
        }
    if (!(of_plain < 0.88)) fail_msg("feedback leaves %g of the error of what attention sums", of_plain);
}

/* ------------------------------------------------------------------------------------------------------ everywhere --- */
static uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return digest;
}

/* As test_kv_codec's: the sums hold for every compiler, level and instruction set. */
static void bytes_are_the_same_everywhere(void **state)
{
    (void)state;
    const kvi_kv_encoder *encoders[3] = {&kvi_kv_encoder_portable};
    unsigned n = 1;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) encoders[n++] = &kvi_kv_encoder_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        encoders[n++] = &kvi_kv_encoder_avx512;
#endif
    static const uint64_t want = 0xabce2d03cb191390u, want_decoded = 0x1110945978c24beau;
    uint64_t digest[3], decoded = 14695981039346656037u;
    for (unsigned e = 0; e < n; e++) {
        digest[e] = 14695981039346656037u;
        random_state = 5; /* integers only from here: the same rows everywhere */
        for (uint32_t h = 0; h < N_DIMS; h++)
            for (uint32_t c = 0; c < 2; c++)
                for (uint32_t k = 0; k < 4; k++) {
                    bench b = bench_open(head_dims[h]);
                    for (uint32_t i = 0; i < b.d * N; i++)
                        b.rows[i] = (float)((int32_t)(uniform() * 65536) - 32768) / 16384.0f + (float)(i % b.d % 5);
                    for (uint32_t i = 0; i < 128 * b.d; i++) b.queries[i] = (int8_t)((int)(uniform() * 255) - 127);
                    encode(encoders[e], &b, codes[c], k >= 2, k % 2 ? &b.of : NULL, b.side);
                    digest[e] = digest_bytes(digest[e], b.side, side_of(codes[c], k >= 2, b.d).bytes);
                    if (e == 0) {
                        kvi_kv_decode_rows(b.side, codes[c], k >= 2, b.d, b.back);
                        decoded = digest_bytes(decoded, b.back, b.d * N * sizeof(float));
                    }
                    bench_close(&b);
                }
        if (e && digest[e] != digest[0]) fail_msg("instruction set %u writes other bytes than the portable encoder", e);
    }
    if (digest[0] != want || decoded != want_decoded)
        fail_msg("the sum of the records is 0x%llxu, of the decoded numbers 0x%llxu", (unsigned long long)digest[0],
                 (unsigned long long)decoded);
}

static void bad_values_never_spread(void **state)
{
    (void)state;
    for (int kind = 0; kind < 9; kind++)
        for (uint32_t c = 0; c < 2; c++)
            for (int how = 0; how < 3; how++) {
                bench b = bench_open(64);
                for (uint32_t i = 0; i < b.d * N; i++) {
                    if (kind == 0) b.rows[i] = 0;
                    if (kind == 1) b.rows[i] = 3.25f;
                    if (kind == 2 && i % 7 == 0) b.rows[i] = NAN;
                    if (kind == 3 && i % 11 == 0) b.rows[i] = i % 2 ? INFINITY : -INFINITY;
                    if (kind == 4) b.rows[i] *= 1e30f;
                    if (kind == 5) b.rows[i] *= 1e-30f;
                    if (kind == 6 && i / b.d == 9) b.rows[i] = 0;
                    if (kind == 7 && i % b.d == 3) b.rows[i] = 0;
                    if (kind == 8 && i / b.d == 9) b.rows[i] *= 1e4f;
                }
                encode(&kvi_kv_encoder_portable, &b, codes[c], how == 2, how == 1 ? &b.of : NULL, b.side);
                kvi_kv_decode_rows(b.side, codes[c], how == 2, b.d, b.back);
                for (uint32_t i = 0; i < b.d * N; i++) {
                    if (!isfinite(b.back[i]))
                        fail_msg("values %d, T%u: element %u decodes to %g", kind, c + 2, i, (double)b.back[i]);
                    if (kind == 0 && b.back[i] != 0) fail_msg("zeros come back as %g", (double)b.back[i]);
                    if (kind == 1 && !(fabs((double)b.back[i] - 3.25) < 2e-2))
                        fail_msg("a constant comes back as %g", (double)b.back[i]);
                    if (kind == 7 && i % b.d == 3 && !(fabs((double)b.back[i]) < 1e-2))
                        fail_msg("a silent channel comes back as %g", (double)b.back[i]);
                }
                bench_close(&b);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_ring_is_read_as_its_bits_say),
                                       cmocka_unit_test(sides_are_read_as_the_formula_says),
                                       cmocka_unit_test(the_search_finds_the_best_path),
                                       cmocka_unit_test(means_and_lengths_stay),
                                       cmocka_unit_test(keys_are_rounded_in_the_metric_of_queries),
                                       cmocka_unit_test(values_are_rounded_in_the_metric_of_attention),
                                       cmocka_unit_test(bytes_are_the_same_everywhere),
                                       cmocka_unit_test(bad_values_never_spread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
