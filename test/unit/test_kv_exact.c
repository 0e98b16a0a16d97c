/* test_kv_exact.c - the arithmetic of the codec to the last bit: every code at every place of a row, read back by codec.h and by the kernels
 * of every instruction set; reconstruction and encoding as single roundings of the exact values; codes that survive being decoded and
 * encoded again; logarithm and exponential; sizes without padding. */
#include "../../kernels/cpu/variants.h"
#include "../../runtime/kv/elementary.h"
#include "../../runtime/kv/encode.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const kvi_kv_code packed_codes[] = {KVI_KV_F8, KVI_KV_I8, KVI_KV_Q4, KVI_KV_Q3, KVI_KV_Q2};
enum { N_CODES = 5 };

static uint64_t random_state = 1;
static uint32_t random32(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* ------------------------------------------------------------------------------------------------ instruction sets --- */
typedef struct instruction_set {
    const char *name;
    const kvi_cpu_variant *kernels;
    const kvi_kv_encoder *encoder;
} instruction_set;

static unsigned instruction_sets(instruction_set out[3])
{
    unsigned n = 0;
    out[n++] = (instruction_set){"portable", &kvi_cpu_portable, &kvi_kv_encoder_portable};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = (instruction_set){"avx2", &kvi_cpu_avx2, &kvi_kv_encoder_avx2};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        out[n++] = (instruction_set){"avx512", &kvi_cpu_avx512, &kvi_kv_encoder_avx512};
#endif
    return n;
}

/* --------------------------------------------------------------------------------------------------------- packing --- */
/* Code i of a row in which every place has another code than its neighbours, and each place has every code in one of the rounds. */
static uint32_t pattern(uint32_t i, uint32_t round, uint32_t bits)
{
    return (i * 0x9e3779b1u >> 7 ^ i ^ round) & ((1u << bits) - 1u);
}

static void every_code_at_every_place(void **state)
{
    for (uint32_t bits = 2; bits <= 8; bits = bits == 4 ? 8 : bits + 1)
        for (uint32_t n = 16; n <= 256; n += 16)
            for (uint32_t round = 0; round < 1u << bits; round++) {
                uint8_t row[258];
                memset(row, 0, sizeof row);
                row[n / 8 * bits] = 0xa5;
                for (uint32_t i = n; i-- > 0;) kvi_kv_put_code(row, i, bits, pattern(i, round, bits));
                for (uint32_t i = 0; i < n; i++)
                    if (kvi_kv_get_code(row, i, bits) != pattern(i, round, bits))
                        fail_msg("%u bits, code %u of %u, round %u", bits, i, n, round);
                assert_int_equal(row[n / 8 * bits], 0xa5); /* a row ends where it ends */
            }
}

static void kernels_read_what_the_codec_packs(void **state)
{
    instruction_set sets[3];
    const unsigned n_sets = instruction_sets(sets);
    uint8_t *codes = calloc(256 * 256 + 64, 1);
    float *out = calloc(256 * 320, sizeof *out);
    for (uint32_t c = 0; c < N_CODES; c++)
        for (uint32_t d = 16; d <= 256; d += 16)
            for (int is_v = 0; is_v < 2; is_v++) {
                const uint32_t bits = kvi_kv_code_bits(packed_codes[c]), rows = is_v ? KVI_KV_PAGE : d,
                               cols = is_v ? d : KVI_KV_PAGE;
                memset(codes, 0, rows * cols / 8 * bits);
                for (uint32_t r = 0; r < rows; r++)
                    for (uint32_t i = 0; i < cols; i++)
                        kvi_kv_put_code(codes + r * (cols / 8 * bits), i, bits, pattern(i, r * 3 + i / 7, bits));
                for (unsigned s = 0; s < n_sets; s++) {
                    const uint32_t panel = sets[s].kernels->panel;
                    memset(out, 0xff, 256 * 320 * sizeof *out);
                    sets[s].kernels->unpack(codes, packed_codes[c], rows, cols, out);
                    for (uint32_t r = 0; r < rows; r++)
                        for (uint32_t i = 0; i < cols; i++) {
                            const uint32_t code = pattern(i, r * 3 + i / 7, bits);
                            const float want =
                                packed_codes[c] == KVI_KV_F8 ? kvi_e4m3_to_f32((uint8_t)code) : (float)code;
                            const float got = out[(size_t)(i / panel * panel) * rows + (size_t)r * panel + i % panel];
                            if (!(got == want) && !(isnan(want) && isnan(got)))
                                fail_msg("%s, code %d, %u x %u: row %u, place %u reads %g, need %g", sets[s].name,
                                         packed_codes[c], rows, cols, r, i, (double)got, (double)want);
                        }
                }
            }
    free(codes), free(out);
}

/* Payload and three fp16 vectors per side (I8: one and two; F8: one and one; trellis codes: two by channel and one by token), nothing else: the published layout of records, for every dimension. */
static void sizes_have_no_padding(void **state)
{
    for (uint32_t d = 8; d <= 512; d += 8)
        for (uint32_t k = 0; k < KVI_KV_CODES; k++)
            for (uint32_t v = 0; v < KVI_KV_CODES; v++) {
                enum { N = KVI_KV_CODES };
                static const uint32_t bits[N] = {32, 16, 16, 8, 8, 4, 3, 2, 3, 2},
                                      k_d[N] = {0, 0, 0, 0, 0, 2, 2, 2, 2, 2}, k_t[N] = {0, 0, 0, 1, 1, 1, 1, 1, 1, 1},
                                      v_d[N] = {0, 0, 0, 0, 0, 1, 1, 1, 2, 2}, v_t[N] = {0, 0, 0, 1, 2, 2, 2, 2, 1, 1};
                const uint32_t want =
                    d * 128 / 8 * (bits[k] + bits[v]) + 2 * d * (k_d[k] + v_d[v]) + 2 * 128 * (k_t[k] + v_t[v]);
                const kvi_kv_format f = KVI_KV_FORMAT(k, v);
                const kvi_kv_shape shape = {5, 3, d, 0};
                assert_int_equal(kvi_kv_record_bytes(f, d), want);
                assert_int_equal(kvi_kv_page_bytes(f, &shape), 15 * want);
                assert_int_equal(kvi_kv_page_units(f, &shape), (15 * want + 255) / 256);
                assert_int_equal(kvi_kv_record_off(f, &shape, 4, 2), 14 * want);
                if (k >= KVI_KV_Q4 && v >= KVI_KV_Q4 && v < KVI_KV_T3)
                    assert_true(fabs(kvi_kv_bits_per_element(f, &shape) -
                                     ((bits[k] + bits[v]) / 2.0 + 24.0 * (d + 128) / (d * 128))) < 1e-12);
            }
    assert_int_equal(kvi_kv_record_bytes(KVI_KV_FMT_K4V2, 512), 52992);
    /* A latent of 512 and a roped key of 64 for all heads: DeepSeek's and GLM-4.7-Flash's 1,152 bytes of a token and layer. */
    const kvi_kv_shape latent = {2, 1, 512, 64};
    assert_int_equal(kvi_kv_page_bytes(KVI_KV_FMT_F16, &latent), 2 * 128 * 1152);
    assert_int_equal(kvi_kv_record_off(KVI_KV_FMT_K4V4, &latent, 1, 0),
                     kvi_kv_k_side(KVI_KV_Q4, 512).bytes + kvi_kv_v_side(KVI_KV_Q4, 64).bytes);
    assert_true(fabs(kvi_kv_bits_per_element(KVI_KV_FMT_F16, &latent) - 16) < 1e-12);
}

/* ---------------------------------------------------------------------------------------------------- reconstruction --- */
static double ulp(double x)
{
    int e;
    (void)frexp(x, &e);
    return ldexp(1, (e < -125 ? -125 : e) - 24);
}
static float finite_half(void)
{
    uint16_t h;
    do h = (uint16_t)random32();
    while ((h & 0x7c00) == 0x7c00);
    return kvi_f16_to_f32(h);
}

/* (q A + Z) O: product exact, sum and second product rounded once each. A fused multiply-add anywhere would show. */
static void reconstruction_rounds_twice(void **state)
{
    unsigned fused_would_differ = 0;
    for (uint32_t i = 0; i < 400000; i++) {
        const uint32_t q = random32() & 255u;
        float a = finite_half(), z = finite_half(), o = finite_half();
        if (i % 2)
            z = -(float)(random32() % 255u) * a * 0.9f, z = kvi_f16_to_f32(kvi_f32_to_f16(z)); /* near cancellation */
        if (!isfinite(z)) continue;
        const double product = (double)q * (double)a, exact = (product + (double)z) * (double)o;
        const float sum = (float)(product + (double)z), want = (float)((double)sum * (double)o),
                    got = kvi_kv_reconstruct(q, a, z, o);
        if (kvi_f32_bits(got) != kvi_f32_bits(want))
            fail_msg("(%u * %g + %g) * %g is %.9g, need %.9g", q, (double)a, (double)z, (double)o, (double)got,
                     (double)want);
        if (!(fabs((double)got - exact) <= 0.5 * ulp(sum) * fabs((double)o) + 0.5 * ulp(got)))
            fail_msg("(%u * %g + %g) * %g: two roundings exceeded", q, (double)a, (double)z, (double)o);
        fused_would_differ += want != (float)exact;
    }
    assert_true(fused_would_differ > 1000);
}

/* A side with random contents, read by kvi_kv_decode_* at every element. */
static void decoding_follows_the_formula(void **state)
{
    uint8_t *side = malloc(256 * 512);
    for (uint32_t c = 0; c < N_CODES; c++)
        for (uint32_t d = 16; d <= 256; d += 16)
            for (int is_v = 0; is_v < 2; is_v++) {
                const kvi_kv_code code = packed_codes[c];
                const kvi_kv_side s = is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
                const uint32_t bits = kvi_kv_code_bits(code), rows = is_v ? KVI_KV_PAGE : d,
                               cols = is_v ? d : KVI_KV_PAGE;
                for (uint32_t i = 0; i < s.codes_bytes; i++) side[i] = (uint8_t)random32();
                for (uint32_t i = s.codes_bytes; i < s.bytes; i += 2)
                    kvi_kv_store16(side + i, kvi_f32_to_f16(finite_half() / 256));
                for (uint32_t r = 0; r < rows; r++)
                    for (uint32_t i = 0; i < cols; i++) {
                        const uint32_t q = kvi_kv_get_code(side + r * (cols / 8 * bits), i, bits), t = is_v ? r : i,
                                       ch = is_v ? i : r;
                        /* K: A, Z by row, O by column, I8 (q - 128) O, F8 e O;  V: A, Z by row, O by column, I8 q A + Z, F8 e A */
                        double a = 1, z = 0, o = 1;
                        if (code >= KVI_KV_Q4 || is_v) a = (double)kvi_kv_side_value(side, s.a_off, r);
                        if (code >= KVI_KV_Q4 || (is_v && code == KVI_KV_I8))
                            z = (double)kvi_kv_side_value(side, s.z_off, r);
                        if (!is_v && code == KVI_KV_I8) z = -128;
                        if (code >= KVI_KV_Q4 || !is_v) o = (double)kvi_kv_side_value(side, s.o_off, i);
                        const double number = code == KVI_KV_F8 ? (double)kvi_e4m3_to_f32((uint8_t)q) : q;
                        const float want = (float)((double)(float)(number * a + z) * o);
                        const float got =
                            is_v ? kvi_kv_decode_v(side, code, d, t, ch) : kvi_kv_decode_k(side, code, d, t, ch);
                        if (!(got == want) && !(isnan(number) && isnan(got)))
                            fail_msg("code %d V %d, D %u, token %u, channel %u: %.9g, need %.9g", code, is_v, d, t, ch,
                                     (double)got, (double)want);
                    }
            }
    free(side);
}

/* ---------------------------------------------------------------------------------------------------------- encoding --- */
/* Values that are exactly representable in a format come back as the same codes, and as the same side vectors. */
static void codes_survive_encoding(void **state)
{
    instruction_set sets[3];
    const unsigned n_sets = instruction_sets(sets);
    const kvi_encode_params params = {KVI_VARNORM_OFF, KVI_RANGE_MINMAX};
    uint8_t *side = malloc(256 * 512), *again = malloc(256 * 512);
    float *rows = malloc(256 * 128 * 4), *scratch = malloc(kvi_kv_encode_scratch(256) * 4);
    for (uint32_t c = 0; c < N_CODES; c++)
        for (uint32_t d = 16; d <= 256; d += 16)
            for (int is_v = 0; is_v < 2; is_v++) {
                const kvi_kv_code code = packed_codes[c];
                const kvi_kv_side s = is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
                const uint32_t bits = kvi_kv_code_bits(code), top = (1u << bits) - 1, n_rows = is_v ? KVI_KV_PAGE : d,
                               n_cols = is_v ? d : KVI_KV_PAGE;
                memset(side, 0, s.bytes);
                for (uint32_t r = 0; r < n_rows; r++)
                    for (uint32_t i = 0; i < n_cols; i++) {
                        uint32_t q = pattern(i, random32(), bits);
                        /* Each range has its ends: of a row; of a token for K in 8 bits, which is a column. */
                        const uint32_t token = is_v ? r : i, place = is_v ? i : r;
                        if (code == KVI_KV_F8)
                            q = place == token % d ? 0x7e : (q & 0x7f) == 0x7f ? q ^ 1 : q; /* 448; no NaN */
                        else if (code == KVI_KV_I8 && !is_v) q = place == token % d ? 255 : q ? q : 1;
                        else if (i == r % n_cols) q = 0;
                        else if (i == (r + 5) % n_cols) q = top;
                        if (code == KVI_KV_F8 && (q & 0x7f) == 0) q = 1; /* -0 is 0 */
                        kvi_kv_put_code(side + r * (n_cols / 8 * bits), i, bits, q);
                    }
                /* Side vectors with few bits, so that every product and sum is exact: A = 2^e, Z a multiple of A, O = 1. */
                for (uint32_t r = 0; r < KVI_KV_PAGE; r++) {
                    const float step = ldexpf(1, (int)(random32() % 9) - 8);
                    if (code < KVI_KV_Q4)
                        kvi_kv_store16(side + (is_v ? s.a_off : s.o_off) + 2 * r, kvi_f32_to_f16(step));
                    if (code == KVI_KV_I8 && is_v)
                        kvi_kv_store16(side + s.z_off + 2 * r, kvi_f32_to_f16(step * -(float)(1 + random32() % 200)));
                }
                for (uint32_t r = 0; code >= KVI_KV_Q4 && r < n_rows; r++) {
                    const float step = ldexpf(1, (int)(random32() % 9) - 8);
                    kvi_kv_store16(side + s.a_off + 2 * r, kvi_f32_to_f16(step));
                    kvi_kv_store16(side + s.z_off + 2 * r, kvi_f32_to_f16(step * -(float)(1 + random32() % 20)));
                }
                for (uint32_t i = 0; code >= KVI_KV_Q4 && i < n_cols; i++)
                    kvi_kv_store16(side + s.o_off + 2 * i, kvi_f32_to_f16(1));
                kvi_kv_decode_rows(side, code, is_v, d, rows);
                for (unsigned k = 0; k < n_sets; k++) {
                    if (is_v) sets[k].encoder->v(code, rows, d, &params, NULL, scratch, again);
                    else sets[k].encoder->k(code, rows, d, &params, NULL, scratch, again);
                    for (uint32_t i = 0; i < s.bytes; i++)
                        if (side[i] != again[i])
                            fail_msg("%s, code %d V %d, D %u: byte %u of %u (codes: %u) is 0x%02x, was 0x%02x",
                                     sets[k].name, code, is_v, d, i, s.bytes, s.codes_bytes, again[i], side[i]);
                }
            }
    free(side), free(again), free(rows), free(scratch);
}

/* Ranges by extremes, in double precision: A and Z are the nearest fp16 numbers up to one step of fp16, codes are the nearest to what will be
 * read back; a quotient within 1e-5 of a half may go either way. */
static void encoding_follows_the_formula(void **state)
{
    const kvi_encode_params params = {KVI_VARNORM_OFF, KVI_RANGE_MINMAX};
    uint8_t *side = malloc(256 * 512);
    float *rows = malloc(256 * 128 * 4), *scratch = malloc(kvi_kv_encode_scratch(256) * 4);
    for (uint32_t c = 1; c < N_CODES; c++)
        for (uint32_t d = 16; d <= 256; d += 48)
            for (int is_v = 0; is_v < 2; is_v++) {
                const kvi_kv_code code = packed_codes[c];
                const kvi_kv_side s = is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
                const bool by_token = is_v || code == KVI_KV_I8;
                const uint32_t bits = kvi_kv_code_bits(code), top = (1u << bits) - 1,
                               n_rows = by_token ? KVI_KV_PAGE : d, n_cols = by_token ? d : KVI_KV_PAGE;
                for (uint32_t i = 0; i < d * 128; i++)
                    rows[i] = ldexpf((float)(int32_t)random32(), -31) * (float)(1 + i / d % 3) + 0.1f;
                (is_v ? kvi_kv_encode_v : kvi_kv_encode_k)(code, rows, d, &params, scratch, side);
                for (uint32_t r = 0; r < n_rows; r++) {
                    double low = INFINITY, high = -INFINITY, a, z;
                    for (uint32_t i = 0; i < n_cols; i++) {
                        const double x = (double)rows[by_token ? r * d + i : i * d + r];
                        low = fmin(low, x), high = fmax(high, x);
                    }
                    if (code == KVI_KV_I8 && !is_v) {
                        a = (double)kvi_kv_side_value(side, s.o_off, r), z = -128 * a;
                        if (!(fabs(a - fmax(fabs(low), fabs(high)) / 127) <= a / 1024))
                            fail_msg("I8 K: scale %g of %g..%g", a, low, high);
                    } else {
                        a = (double)kvi_kv_side_value(side, s.a_off, r),
                        z = (double)kvi_kv_side_value(side, s.z_off, r);
                        if (!(fabs(a - (high - low) / top) <= a / 1024) || !(fabs(z - low) <= fabs(low) / 1024 + 1e-7))
                            fail_msg("code %d V %d: A %g, Z %g of %g..%g", code, is_v, a, z, low, high);
                    }
                    for (uint32_t i = 0; i < n_cols; i++) {
                        const double x = (double)rows[by_token ? r * d + i : i * d + r],
                                     q = fmin(fmax((x - z) / a, code == KVI_KV_I8 && !is_v ? 1 : 0), top);
                        const uint32_t got = code == KVI_KV_I8 && !is_v
                                                 ? side[i * 128 + r]
                                                 : kvi_kv_get_code(side + r * (n_cols / 8 * bits), i, bits);
                        if (got != (uint32_t)rint(q) && !(fabs(fabs(q - got) - 0.5) < 1e-4))
                            fail_msg("code %d V %d, D %u, row %u, place %u: code %u for %g", code, is_v, d, r, i, got,
                                     q);
                    }
                }
            }
    free(side), free(rows), free(scratch);
}

/* The nearest float or its neighbour; errors are below 0.51 units in the last place everywhere. */
static void elementary_functions_are_nearest(void **state)
{
    double worst_log = 0, worst_exp = 0;
    for (uint32_t i = 0; i < 1000000; i++) {
        const float x = kvi_f32_from_bits(0x00800000u + random32() % 0x7e800000u),
                    y = ldexpf((float)(int32_t)random32(), -31) * 80.0f;
        const double want_log = log((double)x), want_exp = exp((double)y);
        const double e_log = fabs((double)kvi_kv_log(x) - want_log) / ulp(want_log),
                     e_exp = fabs((double)kvi_kv_exp(y) - want_exp) / ulp(want_exp);
        worst_log = e_log > worst_log ? e_log : worst_log;
        worst_exp = e_exp > worst_exp ? e_exp : worst_exp;
    }
    if (!(worst_log < 0.51 && worst_exp < 0.51)) fail_msg("errors of %g (log) and %g (exp) ulp", worst_log, worst_exp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_at_every_place),    cmocka_unit_test(kernels_read_what_the_codec_packs),
        cmocka_unit_test(sizes_have_no_padding),        cmocka_unit_test(reconstruction_rounds_twice),
        cmocka_unit_test(decoding_follows_the_formula), cmocka_unit_test(codes_survive_encoding),
        cmocka_unit_test(encoding_follows_the_formula), cmocka_unit_test(elementary_functions_are_nearest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
