/* test_kv_codec.c - packing, reconstruction and encoder of the KV codec: exact round trips, record sizes, the published golden vector, bad
 * values, and bytes that must not change between compilers. */
#include "../../runtime/kv/encode.h"
#include "../../runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const kvi_kv_code packed_codes[] = {KVI_KV_F8, KVI_KV_I8, KVI_KV_Q4, KVI_KV_Q3, KVI_KV_Q2};
static const uint32_t head_dims[] = {16,  32,  48,  64,  80,  96,  112, 128, 144, 160,
                                     176, 192, 208, 224, 240, 256, 272, 384, 512};

/* ------------------------------------------------------------------------------------------------------- packing --- */
static void codes_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 2; bits <= 8; bits = bits == 4 ? 8 : bits + 1) {
        uint8_t row[256];
        memset(row, 0, sizeof row);
        for (uint32_t i = 0; i < 128; i++) kvi_kv_put_code(row, i, bits, (i * 37u + 11u) & ((1u << bits) - 1u));
        for (uint32_t i = 0; i < 128; i++)
            assert_int_equal(kvi_kv_get_code(row, i, bits), (i * 37u + 11u) & ((1u << bits) - 1u));
    }
}

/* Sizes as published for the reference layout (and the formula, for D = 64). */
static void record_sizes(void **state)
{
    (void)state;
    static const struct {
        uint32_t d;
        kvi_kv_format f;
        uint32_t bytes;
    } rows[] = {{64, KVI_KV_FMT_K4V2, 7296},   {128, KVI_KV_FMT_K2V2, 9728},  {128, KVI_KV_FMT_K4V2, 13824},
                {128, KVI_KV_FMT_K4V4, 17920}, {256, KVI_KV_FMT_K4V2, 26880}, {256, KVI_KV_FMT_K4V4, 35072},
                {128, KVI_KV_FMT_F16, 65536},  {64, KVI_KV_FMT_F32, 65536}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(kvi_kv_record_bytes(rows[i].f, rows[i].d), rows[i].bytes);
    /* Inside the record of the golden table: K codes 0, AK 16384, ZK 16896, TK 17408, V codes 17664, CV 25856, AV 26368, ZV 26624. */
    kvi_kv_side k = kvi_kv_k_side(KVI_KV_Q4, 256), v = kvi_kv_v_side(KVI_KV_Q2, 256);
    assert_int_equal(k.a_off, 16384);
    assert_int_equal(k.z_off, 16896);
    assert_int_equal(k.o_off, 17408);
    assert_int_equal(k.bytes, 17664);
    assert_int_equal(k.bytes + v.o_off, 25856);
    assert_int_equal(k.bytes + v.a_off, 26368);
    assert_int_equal(k.bytes + v.z_off, 26624);
}

static void format_names(void **state)
{
    (void)state;
    static const char *const names[] = {"f32",  "f16",   "bf16",  "f8",   "i8", "k4v4", "k4v2",  "k3v3",   "k2v2",
                                        "k8v4", "k16v4", "k4v16", "k3v2", "t3", "t2",   "k4vt2", "kt3v16", "kt3vt2"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        kvi_kv_format f;
        char buffer[8];
        assert_true(kvi_kv_format_parse(names[i], strlen(names[i]), &f));
        assert_string_equal(kvi_kv_format_name(f, buffer), names[i]);
    }
    static const char *const bad[] = {"",     "k",    "k4",   "k4v",  "k5v5",  "q4_0",  "k4v44",
                                      "f",    "k1v1", "f162", "x4v4", "k4x4",  "k4v4 ", "v4k4",
                                      "k16v", "t4",   "t",    "t22",  "kt4v2", "ktv2",  "k4vt"};
    char text[8];
    assert_string_equal(kvi_kv_format_name(0xff, text), "k?v?");
    assert_string_equal(kvi_kv_format_name(KVI_KV_FORMAT(KVI_KV_T2, KVI_KV_CODES), text), "kt2v?");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        kvi_kv_format f;
        assert_false(kvi_kv_format_parse(bad[i], strlen(bad[i]), &f));
    }
}

/* ------------------------------------------------------------------------------------------------------ 16 and 8 bit --- */
static void halves_are_exact(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f16 = kvi_f16_to_f32((uint16_t)h), bf16 = kvi_bf16_to_f32((uint16_t)h);
        if (f16 == f16) assert_int_equal(kvi_f32_to_f16(f16), h);
        else assert_true(isnan(kvi_f16_to_f32(kvi_f32_to_f16(f16))));
        if (bf16 == bf16) assert_int_equal(kvi_f32_to_bf16(bf16), h);
        /* Halfway between neighbours goes to the even one; a hair above goes up. */
        if ((h & 0x7fff) < 0x7bff) {
            double next = kvi_f16_to_f32((uint16_t)(h + 1)), middle = ((double)f16 + next) / 2;
            assert_int_equal(kvi_f32_to_f16((float)middle), h & 1 ? h + 1 : h);
            assert_int_equal(kvi_f32_to_f16(nextafterf((float)middle, (float)next)), h + 1);
        }
    }
    assert_int_equal(kvi_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(kvi_f32_to_f16(65520.0f), 0x7c00);
}

static void e4m3_is_exact(void **state)
{
    (void)state;
    for (uint32_t e = 0; e < 256; e++) {
        float f = kvi_e4m3_to_f32((uint8_t)e);
        if (f == f) assert_int_equal(kvi_f32_to_e4m3(f), e);
        if ((e & 0x7f) < 0x7e) {
            float next = kvi_e4m3_to_f32((uint8_t)(e + 1)), middle = (f + next) / 2;
            assert_int_equal(kvi_f32_to_e4m3(middle), e & 1 ? e + 1 : e);
            assert_int_equal(kvi_f32_to_e4m3(nextafterf(middle, next)), e + 1);
        }
    }
    assert_int_equal(kvi_f32_to_e4m3(NAN), 0);
    assert_int_equal(kvi_f32_to_e4m3(1e9f), 0x7e);
    assert_int_equal(kvi_f32_to_e4m3(-INFINITY), 0xfe);
}

/* -------------------------------------------------------------------------------------------------------- the tile --- */
/* The golden tile of the published procedure: a 32-bit LCG, token 17 four times louder, channel 5 with an offset. */
static void golden_tile(double x[128][128])
{
    uint32_t state = 12345;
#define UNIFORM() (state = state * 1664525u + 1013904223u, (double)((state >> 8) & 0xffffff) / 16777216.0)
    for (int t = 0; t < 128; t++) {
        double g = 0.5 + 2 * UNIFORM();
        if (t == 17) g *= 4;
        for (int d = 0; d < 128; d++) {
            double z = UNIFORM();
            z += UNIFORM();
            z += UNIFORM();
            z += UNIFORM();
            x[t][d] = g * ((z - 2) * (1 + 0.25 * (d % 8)) + (d == 5 ? 6 : 0));
        }
    }
#undef UNIFORM
}

static void rotate_tile(double x[128][128])
{
    for (int t = 0; t < 128; t++) {
        for (int half = 1; half < 128; half *= 2)
            for (int i = 0; i < 128; i += 2 * half)
                for (int j = i; j < i + half; j++) {
                    double a = x[t][j], b = x[t][j + half];
                    x[t][j] = a + b;
                    x[t][j + half] = a - b;
                }
        for (int d = 0; d < 128; d++) x[t][d] /= sqrt(128.0);
    }
}

static void near(double found, double want, double tolerance, const char *what)
{
    if (!(fabs(found - want) <= tolerance * fmax(1, fabs(want)))) fail_msg("%s: %.7g, need %.7g", what, found, want);
}

static void published_golden_vector(void **state)
{
    (void)state;
    static double x[128][128];
    golden_tile(x);
    near(x[0][0], 0.056588, 1e-5, "X[0][0]");
    near(x[17][5], 19.938621, 1e-6, "X[17][5]");
    near(x[127][127], 0.522344, 1e-5, "X[127][127]");
    rotate_tile(x);
    near(x[0][0], 0.712872, 1e-5, "X'[0][0]");
    near(x[0][3], 0.234612, 1e-5, "X'[0][3]");
    float *rows = malloc(128 * 128 * 4), *tile = malloc(128 * 128 * 4), *work = malloc(kvi_kv_encode_scratch(128) * 4),
          c[128], r[128];
    for (int t = 0; t < 128; t++)
        for (int d = 0; d < 128; d++) {
            rows[t * 128 + d] = (float)x[t][d];
            tile[d * 128 + t] = (float)x[t][d];
        }
    int best;
    double imbalance[9];
    static const double want_k[9] = {7.816791, 2.233340, 2.174917, 2.219453, 2.299185,
                                     2.314392, 2.313531, 2.313415, 2.313405};
    static const double want_v[9] = {7.816791, 3.556078, 2.994452, 2.712423, 2.497943,
                                     2.323168, 2.183248, 2.073048, 2.121379};
    kvi_kv_varnorm_paper(tile, 128, 128, c, r, work, &best, imbalance);
    assert_int_equal(best, 2);
    for (int i = 0; i < 9; i++) near(imbalance[i], want_k[i], 1e-5, "K imbalance");
    near(c[0], 0.740818, 1e-5, "K O[0]");
    near(c[2], 2.146909, 1e-5, "K O[2]");
    near(c[17], 4.308311, 1e-5, "K O[17]");
    kvi_kv_varnorm_paper(rows, 128, 128, c, r, work, &best, imbalance);
    assert_int_equal(best, 7);
    for (int i = 0; i < 9; i++) near(imbalance[i], want_v[i], 1e-5, "V imbalance");
    near(c[0], 0.939709, 1e-5, "V O[0]");
    near(c[17], 0.805052, 1e-5, "V O[17]");

    const kvi_encode_params paper = {KVI_VARNORM_PAPER, KVI_RANGE_MINMAX};
    uint8_t *side = malloc(65536);
    float *scratch = malloc(kvi_kv_encode_scratch(128) * 4);
    kvi_kv_encode_k(KVI_KV_Q4, rows, 128, &paper, scratch, side);
    kvi_kv_side k = kvi_kv_k_side(KVI_KV_Q4, 128), v = kvi_kv_v_side(KVI_KV_Q2, 128);
    static const double k_a[4] = {0.277753, 0.298158, 0.255547, 0.278922},
                        k_z[4] = {-1.664819, -2.200447, -1.724673, -2.526161};
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 4; i++) { /* stored as fp16 */
        near(kvi_kv_side_value(side, k.a_off, i), k_a[i], 1e-3, "K A");
        near(kvi_kv_side_value(side, k.z_off, i), k_z[i], 1e-3, "K Z");
    }
    for (uint32_t d = 0; d < 128; d++)
        for (uint32_t t = 0; t < 128; t++) sum += kvi_kv_get_code(side + d * 64, t, 4);
    if (sum < 123833 - 12 || sum > 123833 + 12) fail_msg("K sum of codes %u, need 123833 within a handful", sum);
    kvi_kv_encode_v(KVI_KV_Q2, rows, 128, &(kvi_encode_params){KVI_VARNORM_PAPER, KVI_RANGE_MINMAX}, scratch, side);
    static const double v_a[4] = {1.184926, 2.205463, 3.631593, 2.353313};
    for (uint32_t i = 0; i < 4; i++) near(kvi_kv_side_value(side, v.a_off, i), v_a[i], 1e-3, "V A");
    sum = 0;
    for (uint32_t t = 0; t < 128; t++)
        for (uint32_t d = 0; d < 128; d++) sum += kvi_kv_get_code(side + t * 32, d, 2);
    if (sum < 24505 - 12 || sum > 24505 + 12) fail_msg("V sum of codes %u, need 24505 within a handful", sum);
    free(rows), free(tile), free(work), free(side), free(scratch);
}

/* ------------------------------------------------------------------------------------------------------- encoder --- */
static void random_rows(float *rows, uint32_t d, uint32_t seed, double scale)
{
    uint32_t s = seed * 2654435761u + 1;
    for (uint32_t i = 0; i < d * 128; i++) {
        double z = -2;
        for (int k = 0; k < 4; k++) s = s * 1664525u + 1013904223u, z += (double)(s >> 8) / 16777216.0;
        rows[i] = (float)(z * scale * (1 + (i / d) % 5));
    }
}

/* Reconstruction against its double-precision formula, and an error that shrinks with the bits. */
static void error_follows_bits(void **state)
{
    (void)state;
    for (size_t h = 0; h < sizeof head_dims / sizeof head_dims[0]; h++) {
        const uint32_t d = head_dims[h];
        float *rows = malloc(d * 512), *back = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
        uint8_t *side = malloc(d * 512 + 4096);
        random_rows(rows, d, d, 0.7);
        for (int varnorm = 0; varnorm < 3; varnorm++)
            for (int range = 0; range < 3; range++) {
                const kvi_encode_params params = {(kvi_varnorm)varnorm, (kvi_range)range};
                static const double most[] = {2e-3, 1e-4, 1.5e-2, 8e-2,
                                              4.2e-1}; /* relative squared error: F8, I8, 4, 3, 2 bits */
                for (int c = 0; c < 5; c++)
                    for (int is_v = 0; is_v < 2; is_v++) {
                        if (is_v) kvi_kv_encode_v(packed_codes[c], rows, d, &params, scratch, side);
                        else kvi_kv_encode_k(packed_codes[c], rows, d, &params, scratch, side);
                        kvi_kv_decode_rows(side, packed_codes[c], is_v, d, back);
                        double error = 0, total = 0;
                        for (uint32_t i = 0; i < d * 128; i++)
                            error += pow((double)back[i] - rows[i], 2), total += pow(rows[i], 2);
                        if (!(error / total <= most[c]))
                            fail_msg("D %u code %d V %d varnorm %d range %d: relative error %g", d, packed_codes[c],
                                     is_v, varnorm, range, error / total);
                    }
            }
        free(rows), free(back), free(scratch), free(side);
    }
}

/* NaN, infinities, zeros, constants, huge and tiny values: always finite, zero stays zero. */
static void bad_values_never_spread(void **state)
{
    (void)state;
    const uint32_t d = 64;
    float *rows = malloc(d * 512), *back = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
    uint8_t *side = malloc(d * 512 + 4096);
    for (int kind = 0; kind < 7; kind++)
        for (int varnorm = 0; varnorm < 3; varnorm++)
            for (int c = 0; c < 5; c++)
                for (int is_v = 0; is_v < 2; is_v++) {
                    const kvi_encode_params params = {(kvi_varnorm)varnorm,
                                                      is_v ? KVI_RANGE_SEARCH : KVI_RANGE_UNBIASED};
                    random_rows(rows, d, 5, kind == 4 ? 1e30 : kind == 5 ? 1e-30 : 1);
                    for (uint32_t i = 0; i < d * 128; i++) {
                        if (kind == 0) rows[i] = 0;
                        if (kind == 1) rows[i] = 3.25f;
                        if (kind == 2 && i % 7 == 0) rows[i] = NAN;
                        if (kind == 3 && i % 11 == 0) rows[i] = i % 2 ? INFINITY : -INFINITY;
                        if (kind == 6 && i / d == 9) rows[i] = 0;
                    }
                    if (is_v) kvi_kv_encode_v(packed_codes[c], rows, d, &params, scratch, side);
                    else kvi_kv_encode_k(packed_codes[c], rows, d, &params, scratch, side);
                    kvi_kv_decode_rows(side, packed_codes[c], is_v, d, back);
                    for (uint32_t i = 0; i < d * 128; i++) {
                        if (!isfinite(back[i]))
                            fail_msg("values %d code %d V %d varnorm %d: element %u decodes to %g", kind,
                                     packed_codes[c], is_v, varnorm, i, (double)back[i]);
                        if (kind == 0 && back[i] != 0) fail_msg("zeros come back as %g", (double)back[i]);
                        if (kind == 1) near(back[i], 3.25, 2e-2, "constant");
                    }
                }
    free(rows), free(back), free(scratch), free(side);
}

/* What range "unbiased" promises: every row of codes keeps its mean and its length along itself (least squares
 * shrinks it, the extremes inflate it), up to the rounding of the stored scale and offset, and lies at no larger
 * angle than with the extremes. */
static void unbiased_rows_keep_mean_and_length(void **state)
{
    (void)state;
    for (size_t h = 0; h < sizeof head_dims / sizeof head_dims[0]; h++) {
        const uint32_t d = head_dims[h];
        float *rows = malloc(d * 512), *back = malloc(d * 512), *plain = malloc(d * 512),
              *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
        uint8_t *side = malloc(d * 512 + 4096);
        random_rows(rows, d, 9 + d, 1);
        for (uint32_t i = 0; i < d * 128; i++) rows[i] += 0.25f;
        for (int c = 2; c < 5; c++)
            for (int is_v = 0; is_v < 2; is_v++) {
                const kvi_encode_params unbiased = {KVI_VARNORM_OFF, KVI_RANGE_UNBIASED},
                                        minmax = {KVI_VARNORM_OFF, KVI_RANGE_MINMAX};
                (is_v ? kvi_kv_encode_v : kvi_kv_encode_k)(packed_codes[c], rows, d, &minmax, scratch, side);
                kvi_kv_decode_rows(side, packed_codes[c], is_v, d, plain);
                (is_v ? kvi_kv_encode_v : kvi_kv_encode_k)(packed_codes[c], rows, d, &unbiased, scratch, side);
                kvi_kv_decode_rows(side, packed_codes[c], is_v, d, back);
                const uint32_t n_rows = is_v ? 128 : d, n = is_v ? d : 128, from = is_v ? d : 1, step = is_v ? 1 : d;
                double total = 0, total_plain = 0;
                for (uint32_t r = 0; r < n_rows; r++) {
                    const float *x = rows + r * from, *y = back + r * from, *p = plain + r * from;
                    double mx = 0, my = 0, mp = 0, xx = 0, xy = 0, yy = 0, xp = 0, pp = 0;
                    for (uint32_t i = 0; i < n; i++)
                        mx += x[i * step] / (double)n, my += y[i * step] / (double)n, mp += p[i * step] / (double)n;
                    for (uint32_t i = 0; i < n; i++) {
                        const double a = x[i * step] - mx, b = y[i * step] - my, q = p[i * step] - mp;
                        xx += a * a, xy += a * b, yy += b * b, xp += a * q, pp += q * q;
                    }
                    near(xy / xx, 1, 2e-3, "length of a row along itself");
                    near(my, mx, 4e-3 * sqrt(xx / n) + 2e-3 * fabs(mx), "mean of a row");
                    total += yy * xx / (xy * xy), total_plain += pp * xx / (xp * xp);
                }
                if (!(total <= total_plain * (1 + 1e-3)))
                    fail_msg("D %u code %d V %d: angles grew from %g to %g", d, packed_codes[c], is_v, total_plain,
                             total);
            }
        free(rows), free(back), free(plain), free(scratch), free(side);
    }
}

static void encode_with(const kvi_kv_encoder *encoder, bool is_v, kvi_kv_code code, const float *rows, uint32_t d,
                        const kvi_encode_params *params, float *scratch, uint8_t *side)
{
    if (is_v) encoder->v(code, rows, d, params, NULL, scratch, side);
    else encoder->k(code, rows, d, params, NULL, scratch, side);
}

/* Every instruction set writes the bytes of the portable encoder. */
static void instruction_sets_agree(void **state)
{
    (void)state;
    const kvi_kv_encoder *others[2] = {NULL, NULL};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) others[0] = &kvi_kv_encoder_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        others[1] = &kvi_kv_encoder_avx512;
#endif
    for (int e = 0; e < 2; e++) {
        if (!others[e]) print_message("skipped: this CPU has no %s\n", e ? "AVX-512" : "AVX2");
        for (size_t h = 0; others[e] && h < sizeof head_dims / sizeof head_dims[0]; h++) {
            const uint32_t d = head_dims[h];
            float *rows = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
            uint8_t *want = malloc(d * 512 + 4096), *got = malloc(d * 512 + 4096);
            random_rows(rows, d, 177 + d, 0.3);
            for (int c = 0; c < 5; c++)
                for (int k = 0; k < 18; k++) {
                    const bool is_v = k & 1;
                    const kvi_encode_params params = {(kvi_varnorm)(k / 2 % 3), (kvi_range)(k / 6)};
                    encode_with(&kvi_kv_encoder_portable, is_v, packed_codes[c], rows, d, &params, scratch, want);
                    encode_with(others[e], is_v, packed_codes[c], rows, d, &params, scratch, got);
                    if (memcmp(want, got,
                               is_v ? kvi_kv_v_side(packed_codes[c], d).bytes
                                    : kvi_kv_k_side(packed_codes[c], d).bytes) != 0)
                        fail_msg("%s: D %u code %d V %d varnorm %d range %d: other bytes than the portable encoder",
                                 e ? "AVX-512" : "AVX2", d, packed_codes[c], is_v, (int)params.varnorm,
                                 (int)params.range);
                }
            free(rows), free(scratch), free(want), free(got);
        }
    }
}

/* The bytes of a record are part of snapshots, and so are the numbers they stand for: these sums were computed with gcc -O3 and hold for every
 * compiler, level and instruction set (test/rules/test_kv_compilers.sh). A change of the encoder that is meant changes the rows it
 * concerns, never the last one. */
static uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return digest;
}

static void bytes_are_the_same_everywhere(void **state)
{
    (void)state;
    static const uint64_t want[3][3] =
        {/* [varnorm off, paper, kvrt][range minmax, search, unbiased] */
         {0xa1f8c635c71cf83fu, 0x52a1a3920a589d29u, 0x62e9ff6d2c1ecd9u},
         {0xe1786957d77860c5u, 0x28ef7aec837d780du, 0xe47f0dbf1d54e559u},
         {0xd3ab12ad87123cf6u, 0x3556aef15fcca2cu, 0x7bb14c6dd81c0dbbu}},
                          want_decoded = 0x9e86942f918a2656u;
    uint64_t decoded = 14695981039346656037u;
    bool same = true;
    float *rows = malloc(256 * 512), *scratch = malloc(kvi_kv_encode_scratch(256) * 4);
    uint8_t *side = malloc(256 * 512 + 4096);
    for (int varnorm = 0; varnorm < 3; varnorm++)
        for (int range = 0; range < 3; range++) {
            const kvi_encode_params params = {(kvi_varnorm)varnorm, (kvi_range)range};
            uint64_t digest = 14695981039346656037u;
            for (size_t h = 0; head_dims[h] <= 256; h++)
                for (int c = 0; c < 5; c++)
                    for (int is_v = 0; is_v < 2; is_v++) {
                        const uint32_t d = head_dims[h];
                        random_rows(rows, d, 77 + d, 0.3);
                        (is_v ? kvi_kv_encode_v : kvi_kv_encode_k)(packed_codes[c], rows, d, &params, scratch, side);
                        digest = digest_bytes(digest, side,
                                              is_v ? kvi_kv_v_side(packed_codes[c], d).bytes
                                                   : kvi_kv_k_side(packed_codes[c], d).bytes);
                        if (varnorm || range) continue;
                        kvi_kv_decode_rows(side, packed_codes[c], is_v, d, rows);
                        decoded = digest_bytes(decoded, rows, (size_t)d * 512);
                    }
            if (digest != want[varnorm][range])
                print_error("varnorm %d, range %d: the sum of the records is 0x%llxu\n", varnorm, range,
                            (unsigned long long)digest),
                    same = false;
        }
    if (decoded != want_decoded)
        print_error("the sum of the decoded numbers is 0x%llxu\n", (unsigned long long)decoded), same = false;
    free(rows), free(scratch), free(side);
    assert_true(same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(codes_round_trip),
                                       cmocka_unit_test(record_sizes),
                                       cmocka_unit_test(format_names),
                                       cmocka_unit_test(halves_are_exact),
                                       cmocka_unit_test(e4m3_is_exact),
                                       cmocka_unit_test(published_golden_vector),
                                       cmocka_unit_test(error_follows_bits),
                                       cmocka_unit_test(bad_values_never_spread),
                                       cmocka_unit_test(unbiased_rows_keep_mean_and_length),
                                       cmocka_unit_test(instruction_sets_agree),
                                       cmocka_unit_test(bytes_are_the_same_everywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
