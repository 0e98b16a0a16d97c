/* test_packed_attention.c - attention of the CPU backend over packed pages against double precision on the dequantized values: every format and
 * mix of sides, pages of different formats in one sequence, tails, windows, groups, decode and prefill, every instruction set. What is
 * measured here is the kernel's error alone; what a format loses is measured by `kvrt eval`. */
#include "kernels/cpu/attention_packed.h"
#include "kernels/cpu/device_cpu.h"
#include "oracle.h"
#include "tolerance.h"
#include "runtime/kv/encode.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOL_PACKED_L2 1e-5 /* relative L2 of the output rows */
#define TOL_BF16_L2 3e-2   /* on AMX, steps of more than eight rows round to BF16: see test_prefill_attention.c */

typedef struct packed_case {
    uint32_t d, n_kv, per_kv, window, n_ctx, n_rows; /* n_rows queries at the end of n_ctx positions */
    const char *formats[6];                          /* of pages 0, 1, ...; the last one repeats */
} packed_case;

static const packed_case cases[] = {
    {64, 1, 4, 0, 384, 1, {"f16", "k4v4", "f16"}},
    {64, 2, 4, 0, 257, 1, {"f16", "k4v4", "f16"}},
    {64, 2, 1, 0, 512 + 77, 1, {"f16", "k4v2", "k4v2", "k4v2", "f16"}},
    {64, 1, 8, 0, 640 + 127, 3, {"f16", "i8", "k4v4", "k4v2", "k2v2", "f16"}},
    {64, 1, 2, 0, 640 + 1, 1, {"f16", "f8", "k3v3", "k8v4", "k16v4", "f16"}},
    {64, 1, 2, 0, 640 + 128, 1, {"f16", "k4v16", "k3v2", "k2v4", "k8v2", "f16"}},
    {128, 2, 4, 0, 900, 1, {"f16", "k4v4", "k4v2", "k2v2", "i8", "f16"}},
    {128, 1, 7, 0, 700, 70, {"f16", "k4v4", "k4v4", "k4v4", "f16"}},
    {16, 1, 2, 0, 500, 2, {"f16", "k4v4", "k2v2", "f16"}},
    {32, 1, 1, 0, 500, 1, {"f16", "k3v3", "k4v2", "f16"}},
    {80, 1, 2, 0, 500, 1, {"f16", "k4v4", "k2v2", "f16"}},
    {96, 1, 3, 0, 500, 9, {"f16", "k4v2", "i8", "f16"}},
    {192, 1, 2, 0, 500, 1, {"f16", "k4v4", "f8", "f16"}},
    {256, 1, 4, 0, 500, 1, {"f16", "k4v2", "k3v3", "f16"}},
    {64, 1, 4, 0, 640 + 5, 1, {"f16", "t3", "t2", "k4vt2", "kt2v4", "f16"}},
    {64, 2, 3, 0, 640 + 5, 3, {"f16", "t2", "kt3v16", "k16vt3", "t3", "f16"}},
    {16, 1, 2, 0, 500, 2, {"f16", "t3", "t2", "f16"}},
    {32, 1, 2, 0, 500, 1, {"f16", "t2", "t3", "f16"}},
    {48, 1, 5, 0, 500, 1, {"f16", "t3", "t2", "f16"}},
    {80, 1, 2, 0, 500, 1, {"f16", "t2", "t3", "f16"}},
    {112, 1, 1, 0, 500, 1, {"f16", "t3", "t2", "f16"}},
    {128, 1, 18, 0, 500, 1, {"f16", "t2", "t3", "f16"}}, /* more query heads than packed kernels are for */
    {128, 2, 4, 300, 900, 70, {"f16", "t3", "t2", "t2", "t3", "f16"}},
    {256, 1, 4, 0, 500, 1, {"f16", "t3", "t2", "f16"}},
    {512, 1, 2, 0, 500, 2, {"f16", "t2", "t3", "f16"}},
    {64, 1, 4, 200, 700, 1, {"f16", "k4v4", "k4v4", "k4v4", "k4v4", "f16"}},
    {64, 1, 4, 129, 700, 20, {"f16", "k4v4", "k4v2", "k4v4", "k4v4", "f16"}},
    {64, 1, 4, 0, 128 * 40, 1, {"f16", "k4v4"}}, /* split over pages; packed pages are always complete */
};

static uint32_t random_state;
static double uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) / 16777216.0;
}
static float normal(void) { return (float)(uniform() + uniform() + uniform() + uniform() - 2); }

typedef struct bench {
    kvi_device *device;
    kvi_program program;
    kvi_buffer_desc buffers[2];
    kvi_cache_group group;
    kvi_op op;
    kvi_page_ref pages[64];
    double *k, *v; /* (n_kv, positions, d) dequantized */
} bench;

static void fill_pages(bench *b, const packed_case *c, uint32_t n_pages)
{
    const uint32_t d = c->d;
    float *rows = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH};
    uint32_t unit = 0;
    for (uint32_t p = 0; p < n_pages; p++) {
        kvi_kv_format f;
        const char *name = NULL;
        for (uint32_t i = 0; i <= p && i < 6 && c->formats[i]; i++) name = c->formats[i];
        assert_true(kvi_kv_format_parse(name, strlen(name), &f));
        b->pages[p] = (kvi_page_ref){unit, f};
        unit += kvi_kv_page_units(f, &b->group.shape);
        for (uint32_t h = 0; h < c->n_kv; h++) {
            uint8_t *record = b->device->pool + (uint64_t)b->pages[p].unit * KVI_KV_UNIT +
                              kvi_kv_record_off(f, &b->group.shape, 0, h);
            for (int is_v = 0; is_v < 2; is_v++) {
                const kvi_kv_code code = is_v ? KVI_KV_V_CODE(f) : KVI_KV_K_CODE(f);
                double *out = (is_v ? b->v : b->k) + ((size_t)h * n_pages + p) * KVI_KV_PAGE * d;
                for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++)
                    rows[i] = normal() * (float)(1 + (i / d) % 3) + (i % d == 3 ? 2.0f : 0.0f);
                if (kvi_kv_code_is_plain(code))
                    b->device->v->narrow(rows, kvi_kv_plain_dtype(code), d * KVI_KV_PAGE, record);
                else if (is_v) kvi_kv_encode_v(code, rows, d, &params, scratch, record);
                else kvi_kv_encode_k(code, rows, d, &params, scratch, record);
                for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
                    for (uint32_t e = 0; e < d; e++)
                        out[t * d + e] =
                            is_v ? kvi_kv_decode_v(record, code, d, t, e) : kvi_kv_decode_k(record, code, d, t, e);
                record += is_v ? 0 : kvi_kv_k_side(code, d).bytes;
            }
        }
    }
    free(rows), free(scratch);
}

/* "amx" and "exact" (which is without fixed point) are AVX-512 as well. */
static kvi_device_options options_of(const char *isa)
{
    const bool amx = strcmp(isa, "amx") == 0, exact = strcmp(isa, "exact") == 0;
    return (kvi_device_options){.n_threads = 2, .isa = amx || exact ? "avx512" : isa, .amx = amx, .exact = exact};
}

static void open_bench(bench *b, const packed_case *c, const char *isa, uint32_t n_pages)
{
    const kvi_device_options options = options_of(isa);
    const uint32_t n_heads = c->n_kv * c->per_kv;
    memset(b, 0, sizeof *b);
    b->group = (kvi_cache_group){.shape = {1, c->n_kv, c->d, 0}, .window = c->window, .plain = KVI_KV_F16};
    b->buffers[0] = (kvi_buffer_desc){"qkv", (n_heads + 2 * c->n_kv) * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    b->buffers[1] = (kvi_buffer_desc){"out", n_heads * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    b->op = (kvi_op){.kind = KVI_OP_ATTENTION,
                     .in = 0,
                     .out = 1,
                     .n_heads = n_heads,
                     .scale = (float)(1 / sqrt(c->d)),
                     .causal = true};
    b->program = (kvi_program){.ops = &b->op,
                               .n_ops = 1,
                               .buffers = b->buffers,
                               .n_buffers = 2,
                               .groups = &b->group,
                               .n_groups = 1,
                               .logits = 1,
                               .vocab_size = 1,
                               .n_layers = 1};
    assert_int_equal(kvi_backend_cpu.open(&options, &b->device, NULL), KVRT_OK);
    const kvi_limits limits = {.max_rows = 128,
                               .max_logit_rows = 1,
                               .max_seqs = 1,
                               .max_ctx = n_pages * KVI_KV_PAGE,
                               .pool_bytes =
                                   (uint64_t)n_pages * kvi_kv_page_units(KVI_KV_FMT_F32, &b->group.shape) * KVI_KV_UNIT,
                               .page_formats = (1u << KVI_KV_CODES) - 1u};
    assert_int_equal(kvi_backend_cpu.load(b->device, &b->program, &limits, NULL), KVRT_OK);
    b->k = malloc((size_t)c->n_kv * n_pages * KVI_KV_PAGE * c->d * sizeof(double));
    b->v = malloc((size_t)c->n_kv * n_pages * KVI_KV_PAGE * c->d * sizeof(double));
}

/* The contract's formula for one query. */
static void expected(const bench *b, const packed_case *c, uint32_t n_pages, uint32_t h, uint32_t pos, const float *q,
                     double *out)
{
    const uint32_t d = c->d, first = c->window && pos + 1 > c->window ? pos + 1 - c->window : 0;
    const double *k = b->k + (size_t)h * n_pages * KVI_KV_PAGE * d, *v = b->v + (size_t)h * n_pages * KVI_KV_PAGE * d;
    double wide[KVI_KV_MAX_HEAD_DIM];
    for (uint32_t e = 0; e < d; e++) wide[e] = (double)q[e];
    oracle_attention(k, v, d, first, pos, wide, (double)b->op.scale, 0, -INFINITY, out);
}

static void run_case(const packed_case *c, unsigned index, const char *isa)
{
    bench b;
    const uint32_t d = c->d, n_pages = (c->n_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE, n_heads = c->n_kv * c->per_kv;
    random_state = 17 + index;
    open_bench(&b, c, isa, n_pages);
    fill_pages(&b, c, n_pages);
    int32_t ids[128] = {0};
    const kvi_page_ref *tables[1] = {b.pages};
    const kvi_seq seq = {.n_rows = c->n_rows, .pos = c->n_ctx - c->n_rows, .pages = tables};
    const kvi_step step = {.ids = ids, .n_rows = c->n_rows, .seqs = &seq, .n_seqs = 1};
    assert_int_equal(kvi_backend_cpu.step_begin(b.device, &step, NULL), KVRT_OK);
    float *qkv = b.device->buffers[0];
    for (uint32_t i = 0; i < c->n_rows * b.buffers[0].cols; i++) qkv[i] = normal();
    assert_int_equal(kvi_backend_cpu.run(b.device, 0, 1, NULL), KVRT_OK);
    const bool narrow = c->n_rows <= KVI_DECODE_ROWS, amx = b.device->tiles;
    const double limit = amx                         ? narrow ? TOL_PACKED_L2 : TOL_BF16_L2
                         : narrow && b.device->fixed ? OPS_ATTENTION_FIXED
                                                     : TOL_PACKED_L2;
    double *want = malloc(d * sizeof *want);
    for (uint32_t r = 0; r < c->n_rows; r++)
        for (uint32_t head = 0; head < n_heads; head++) {
            const float *got = b.device->buffers[1] + ((size_t)r * n_heads + head) * d;
            double error = 0, norm = 0;
            expected(&b, c, n_pages, head / c->per_kv, seq.pos + r,
                     qkv + (size_t)r * b.buffers[0].cols + (size_t)head * d, want);
            for (uint32_t e = 0; e < d; e++) error += pow((double)got[e] - want[e], 2), norm += want[e] * want[e];
            if (!(sqrt(error / norm) <= limit))
                fail_msg("case %u, %s, row %u, head %u: relative L2 %g, need at most %g", index, isa, r, head,
                         sqrt(error / norm), limit);
        }
    free(want), free(b.k), free(b.v);
    kvi_backend_cpu.close(b.device);
}

static bool has_amx(void)
{
    kvi_device *device;
    const kvi_device_options options = {.isa = "auto", .amx = true};
    assert_int_equal(kvi_backend_cpu.open(&options, &device, NULL), KVRT_OK);
    const bool amx = device->tiles != NULL;
    kvi_backend_cpu.close(device);
    return amx;
}

static void packed_pages_match_double(void **state)
{
    (void)state;
    static const char *const sets[] = {"portable", "avx2", "avx512", "exact", "amx"};
    for (unsigned k = 0; k < 5; k++) {
        char text[256];
        const kvi_device_options options = options_of(sets[k]);
        if (options.amx && !has_amx()) {
            print_message("skipped: this CPU has no AMX\n");
            continue;
        }
        if (!kvi_backend_cpu.probe(&options, text, sizeof text)) {
            print_message("skipped: this CPU has no %s\n", sets[k]);
            continue;
        }
        for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) run_case(&cases[i], i, sets[k]);
    }
}

/* Every offset of the open page behind a packed one. */
static void every_tail_offset(void **state)
{
    (void)state;
    for (uint32_t tail = 1; tail <= KVI_KV_PAGE; tail++) {
        packed_case c = {64, 1, 4, 0, 256 + tail, 1, {"f16", "k4v4", "f16"}};
        run_case(&c, 100 + tail, "auto");
        if (has_amx()) run_case(&c, 100 + tail, "amx");
    }
}

/* Rings read by 64 numbers give the bits of those read by 16: so machines with VBMI test what machines without it run. */
static void rings_have_the_same_bits(void **state)
{
    (void)state;
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    if (!cpu.avx512_vbmi) skip();
#if defined(__x86_64__)
    static const uint32_t dims[] = {16, 48, 64, 80, 112, 128, 256, 512};
    static const kvi_kv_code codes[] = {KVI_KV_T2, KVI_KV_T3};
    static float q[9 * 512], out[2][9 * 512];
    static uint8_t record[1 << 17];
    static _Alignas(64) float scratch[KVI_CPU_PACKED_SCRATCH];
    for (uint32_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (uint32_t c = 0; c < 2; c++)
            for (uint32_t n_q = 1; n_q <= 9; n_q++) {
                const uint32_t d = dims[i], n_scores = n_q * KVI_KV_PAGE, n_acc = n_q * d;
                for (uint32_t k = 0; k < sizeof record; k += 2) { /* codes of all kinds; as scales finite halves */
                    const uint32_t half = (uint32_t)(uniform() * 0x3c00) | (uniform() < 0.5 ? 0x8000u : 0);
                    record[k] = (uint8_t)half, record[k + 1] = (uint8_t)(half >> 8);
                }
                for (uint32_t k = 0; k < 9 * 512; k++) q[k] = normal();
                const kvi_cpu_packed *const ways[2] = {&kvi_cpu_packed_avx512, &kvi_cpu_packed_avx512vbmi};
                for (uint32_t w = 0; w < 2; w++) ways[w]->score(record, codes[c], d, q, n_q, out[w], record, scratch);
                assert_memory_equal(out[0], out[1], n_scores * sizeof *q);
                for (uint32_t w = 0; w < 2; w++) {
                    memcpy(out[w], q, n_acc * sizeof *q);
                    ways[w]->blend(record, codes[c], d, q, n_q, out[w], record, scratch);
                }
                assert_memory_equal(out[0], out[1], n_acc * sizeof *q);
            }
#endif
}

/* A query that is no number makes its own row none and leaves the others as they are alone; one of zeros has a product of exactly zero. */
static void fixed_point_keeps_to_its_query(void **state)
{
    (void)state;
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    if (!cpu.avx512_vnni) skip();
#if defined(__x86_64__)
    enum { D = 80, N = 37, BAD = 5, ENDLESS = 6, ZERO = 33 };
    static const kvi_kv_code codes[] = {KVI_KV_Q4, KVI_KV_Q2};
    static float q[N * KVI_KV_PAGE], out[N * KVI_KV_PAGE], alone[KVI_KV_PAGE];
    static uint8_t record[1 << 14];
    static _Alignas(64) float scratch[KVI_CPU_PACKED_SCRATCH];
    const kvi_cpu_packed *kernel = &kvi_cpu_packed_avx512vnni;
    for (uint32_t k = 0; k < sizeof record; k += 2) record[k] = (uint8_t)(uniform() * 256), record[k + 1] = 0x33;
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t is_v = 0; is_v < 2; is_v++) {
            const uint32_t rows = is_v ? KVI_KV_PAGE : D, cols = is_v ? D : KVI_KV_PAGE;
            for (uint32_t i = 0; i < N * rows; i++) q[i] = i / rows == ZERO ? 0 : normal();
            q[BAD * rows + 7] = NAN, q[ENDLESS * rows + 9] = INFINITY;
            memset(out, 0, sizeof out);
            if (is_v) kernel->blend(record, codes[c], D, q, N, out, record, scratch);
            else kernel->score(record, codes[c], D, q, N, out, record, scratch);
            for (uint32_t i = 0; i < N; i++) {
                memset(alone, 0, sizeof alone);
                if (is_v) kernel->blend(record, codes[c], D, q + i * rows, 1, alone, record, scratch);
                else kernel->score(record, codes[c], D, q + i * rows, 1, alone, record, scratch);
                for (uint32_t e = 0; e < cols; e++) {
                    const float got = out[i * cols + e];
                    if (i == BAD || i == ENDLESS) assert_true(!isfinite(got) && !isfinite(alone[e]));
                    else assert_true(got == alone[e] && (i == ZERO ? got == 0 : isfinite(got)));
                }
            }
        }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(packed_pages_match_double), cmocka_unit_test(every_tail_offset),
                                       cmocka_unit_test(rings_have_the_same_bits),
                                       cmocka_unit_test(fixed_point_keeps_to_its_query)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
