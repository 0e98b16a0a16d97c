/* test_prefill_attention.c - attention of many rows on the CPU against double precision on the dequantized values: every plain type and packed
 * formats, mixed pages, windows, two sequences, head dimensions that fill no tile, every instruction set. And to the last bit: the same
 * for one and two threads, and for a prompt cut anywhere into steps of more than eight rows. */
#include "kernels/cpu/device_cpu.h"
#include "oracle.h"
#include "runtime/kv/encode.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOL_F32_L2 1e-5 /* relative L2 of an output row */
#define TOL_AMX_L2 3e-2 /* Q, K, V and p in BF16, 2^-9 each; 1.6e-2 is the worst row, where the values nearly cancel */

typedef struct prefill_case {
    uint32_t d, n_kv, per_kv, window, pos, n_rows, n_seqs;
    const char *formats[5]; /* of pages 0, 1, ...; the last one repeats; pages that the step writes are plain */
    kvi_kv_code plain;
} prefill_case;

static const prefill_case cases[] = {
    {64, 2, 4, 0, 0, 9, 1, {"f16"}, KVI_KV_F16},
    {64, 1, 4, 0, 0, 300, 1, {"f16"}, KVI_KV_F16},
    {64, 2, 4, 0, 517, 100, 1, {"f16", "k4v4", "k4v4", "k4v2"}, KVI_KV_F16},
    {64, 1, 8, 0, 640, 130, 1, {"f16", "i8", "k4v4", "k2v2", "k4v2"}, KVI_KV_F16},
    {64, 1, 1, 0, 700, 127, 2, {"f16", "f8", "k3v3", "k16v4", "k8v4"}, KVI_KV_F16},
    {64, 1, 2, 0, 512, 129, 2, {"f16", "k4v16", "k3v2", "k8v2"}, KVI_KV_F16},
    {64, 2, 2, 200, 700, 100, 1, {"f16", "k4v4"}, KVI_KV_F16},
    {64, 1, 3, 129, 300, 260, 2, {"f16", "k4v2", "k4v4"}, KVI_KV_F16},
    {64, 1, 1, 10, 100, 200, 1, {"f16"}, KVI_KV_BF16},
    {128, 1, 7, 0, 256, 70, 1, {"bf16", "k4v4"}, KVI_KV_BF16},
    {128, 2, 1, 0, 130, 33, 1, {"f32", "f32"}, KVI_KV_F32},
    {16, 1, 2, 0, 390, 140, 1, {"f16", "k4v4", "k2v2"}, KVI_KV_F16},
    {32, 2, 1, 0, 384, 12, 3, {"f16", "k3v3", "k4v2"}, KVI_KV_F16},
    {48, 1, 2, 0, 270, 50, 1, {"f16", "i8"}, KVI_KV_F16},
    {80, 1, 2, 0, 384, 65, 1, {"f16", "k4v4", "k2v2"}, KVI_KV_F16},
    {96, 1, 3, 100, 384, 40, 1, {"f16", "k4v2", "i8"}, KVI_KV_F16},
    {192, 1, 2, 0, 256, 31, 1, {"f16", "k4v4"}, KVI_KV_F16},
    {256, 1, 4, 0, 256, 40, 1, {"f16", "k4v2"}, KVI_KV_F16},
    {64, 1, 4, 0, 517, 100, 1, {"f16", "t3", "t2", "k4vt2", "kt3v4"}, KVI_KV_F16},
    {16, 1, 2, 0, 390, 40, 1, {"f16", "t2", "t3"}, KVI_KV_F16},
    {48, 1, 2, 0, 390, 40, 1, {"f16", "t3", "t2"}, KVI_KV_F16},
    {80, 1, 2, 0, 384, 65, 1, {"f16", "t2", "t3"}, KVI_KV_F16},
    {128, 1, 7, 0, 390, 70, 1, {"f16", "t3", "t2"}, KVI_KV_F16},
    {256, 1, 2, 200, 384, 31, 1, {"f16", "t2", "t3"}, KVI_KV_F16},
    {8, 1, 2, 0, 200, 60, 1, {"f16"}, KVI_KV_F16},
    {24, 2, 1, 0, 0, 150, 1, {"f32"}, KVI_KV_F32},
};
#define N_CASES (sizeof cases / sizeof cases[0])
#define MAX_PAGES 12u

static uint32_t random_state;
static double uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) / 16777216.0;
}
static float normal(void) { return (float)(uniform() + uniform() + uniform() + uniform() - 2) * 1.7f; }

typedef struct bench {
    kvi_device *device;
    kvi_program program;
    kvi_buffer_desc buffers[2];
    kvi_cache_group group;
    kvi_op op;
    kvi_page_ref pages[3][MAX_PAGES];
    uint32_t n_pages;
    double *k, *v; /* (n_seqs, n_kv, positions, d) dequantized */
    float *qkv;    /* (n_seqs * n_rows, cols) */
} bench;

static size_t index_of(const bench *b, const prefill_case *c, uint32_t seq, uint32_t head)
{
    return ((size_t)seq * c->n_kv + head) * b->n_pages * KVI_KV_PAGE * c->d;
}

static void fill_page(bench *b, const prefill_case *c, uint32_t seq, uint32_t p)
{
    const uint32_t d = c->d;
    const kvi_kv_format f = (kvi_kv_format)b->pages[seq][p].format;
    float *rows = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_MINMAX};
    for (uint32_t h = 0; h < c->n_kv; h++) {
        uint8_t *record = b->device->pool + (uint64_t)b->pages[seq][p].unit * KVI_KV_UNIT +
                          kvi_kv_record_off(f, &b->group.shape, 0, h);
        for (int is_v = 0; is_v < 2; is_v++) {
            const kvi_kv_code code = is_v ? KVI_KV_V_CODE(f) : KVI_KV_K_CODE(f);
            double *out = (is_v ? b->v : b->k) + index_of(b, c, seq, h) + (size_t)p * KVI_KV_PAGE * d;
            for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++)
                rows[i] = normal() * (float)(1 + (i / d) % 2) + (i % d == 3 ? 1.0f : 0.0f);
            if (kvi_kv_code_is_plain(code)) {
                b->device->v->narrow(rows, kvi_kv_plain_dtype(code), d * KVI_KV_PAGE, record);
                /* What lies behind the last position is anything: it must not be looked at. */
                const uint32_t end = c->pos + c->n_rows,
                               used = end - p * KVI_KV_PAGE < KVI_KV_PAGE ? end - p * KVI_KV_PAGE : KVI_KV_PAGE;
                memset(record + (size_t)used * d * kvi_kv_code_bits(code) / 8, 0xff,
                       (size_t)(KVI_KV_PAGE - used) * d * kvi_kv_code_bits(code) / 8);
            } else if (is_v) kvi_kv_encode_v(code, rows, d, &params, scratch, record);
            else kvi_kv_encode_k(code, rows, d, &params, scratch, record);
            for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
                for (uint32_t e = 0; e < d; e++)
                    out[t * d + e] = (double)(is_v ? kvi_kv_decode_v(record, code, d, t, e)
                                                   : kvi_kv_decode_k(record, code, d, t, e));
            record += is_v ? 0 : kvi_kv_k_side(code, d).bytes;
        }
    }
    free(rows), free(scratch);
}

static void open_bench(bench *b, const prefill_case *c, unsigned seed, const char *isa, uint32_t threads)
{
    const bool amx = strcmp(isa, "amx") == 0;
    const kvi_device_options options = {.n_threads = threads, .isa = amx ? "auto" : isa, .amx = amx};
    const uint32_t n_heads = c->n_kv * c->per_kv,
                   n_units = kvi_kv_page_units(KVI_KV_FMT_F32, &(kvi_kv_shape){1, c->n_kv, c->d, 0});
    memset(b, 0, sizeof *b);
    random_state = 17 + seed;
    b->n_pages = (c->pos + c->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    assert_true(b->n_pages <= MAX_PAGES);
    b->group =
        (kvi_cache_group){.shape = {1, c->n_kv, c->d, 0}, .window = c->window, .plain = c->plain, .rotate = c->d == 96};
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
    const kvi_limits limits = {.max_rows = c->n_rows * c->n_seqs,
                               .max_logit_rows = 1,
                               .max_seqs = c->n_seqs,
                               .max_ctx = b->n_pages * KVI_KV_PAGE,
                               .pool_bytes = (uint64_t)c->n_seqs * b->n_pages * n_units * KVI_KV_UNIT,
                               .page_formats = c->d % 16 ? 7 : (1u << KVI_KV_CODES) - 1u};
    assert_int_equal(kvi_backend_cpu.load(b->device, &b->program, &limits, NULL), KVRT_OK);
    b->k = malloc((size_t)c->n_seqs * c->n_kv * b->n_pages * KVI_KV_PAGE * c->d * sizeof(double));
    b->v = malloc((size_t)c->n_seqs * c->n_kv * b->n_pages * KVI_KV_PAGE * c->d * sizeof(double));
    for (uint32_t s = 0, unit = 0; s < c->n_seqs; s++)
        for (uint32_t p = 0; p < b->n_pages; p++, unit += n_units) {
            kvi_kv_format f = KVI_KV_FORMAT(c->plain, c->plain);
            const char *name = NULL;
            for (uint32_t i = 0; i <= p && i < 5 && c->formats[i]; i++) name = c->formats[i];
            if ((p + 1) * KVI_KV_PAGE <= c->pos) assert_true(kvi_kv_format_parse(name, strlen(name), &f));
            const bool gone =
                c->window && (p + 1) * KVI_KV_PAGE + c->window <= c->pos + 1; /* given back: must not be looked at */
            b->pages[s][p] = (kvi_page_ref){unit, f};
            fill_page(b, c, s, p);
            if (gone) b->pages[s][p].unit = KVI_KV_NO_EXTENT;
        }
    const size_t n = (size_t)c->n_seqs * c->n_rows * b->buffers[0].cols;
    b->qkv = malloc(n * sizeof *b->qkv);
    for (size_t i = 0; i < n; i++) b->qkv[i] = normal();
}

static void close_bench(bench *b)
{
    free(b->k), free(b->v), free(b->qkv);
    kvi_backend_cpu.close(b->device);
}

/* Rows in steps of at most `step`; out (n_seqs * n_rows, n_heads * d). */
static void run_steps(bench *b, const prefill_case *c, uint32_t step, float *out)
{
    const uint32_t in_cols = b->buffers[0].cols, out_cols = b->buffers[1].cols;
    int32_t ids[1024] = {0};
    for (uint32_t done = 0; done < c->n_rows;) {
        uint32_t n = c->n_rows - done < step ? c->n_rows - done : step;
        if (c->n_rows - done - n < 9) n = c->n_rows - done; /* no tail of a few rows: that is another kernel */
        const kvi_page_ref *tables[3] = {b->pages[0], b->pages[1], b->pages[2]};
        kvi_seq seqs[3];
        for (uint32_t s = 0; s < c->n_seqs; s++) {
            seqs[s] = (kvi_seq){.first_row = s * n, .n_rows = n, .pos = c->pos + done, .pages = &tables[s]};
            memcpy(b->device->buffers[0] + (size_t)s * n * in_cols, b->qkv + ((size_t)s * c->n_rows + done) * in_cols,
                   (size_t)n * in_cols * 4);
        }
        const kvi_step work = {.ids = ids, .n_rows = n * c->n_seqs, .seqs = seqs, .n_seqs = c->n_seqs};
        assert_int_equal(kvi_backend_cpu.step_begin(b->device, &work, NULL), KVRT_OK);
        assert_int_equal(kvi_backend_cpu.run(b->device, 0, 1, NULL), KVRT_OK);
        for (uint32_t s = 0; s < c->n_seqs; s++)
            memcpy(out + ((size_t)s * c->n_rows + done) * out_cols, b->device->buffers[1] + (size_t)s * n * out_cols,
                   (size_t)n * out_cols * 4);
        done += n;
    }
}

/* The contract's formula. */
static void expected(const bench *b, const prefill_case *c, uint32_t seq, uint32_t head, uint32_t pos, const float *q,
                     double *out)
{
    const uint32_t d = c->d, first = c->window && pos + 1 > c->window ? pos + 1 - c->window : 0;
    const double *k = b->k + index_of(b, c, seq, head), *v = b->v + index_of(b, c, seq, head);
    double wide[256];
    for (uint32_t e = 0; e < d; e++) wide[e] = (double)q[e];
    oracle_attention(k, v, d, first, pos, wide, (double)b->op.scale, 0, -INFINITY, out);
    if (b->group.rotate) oracle_rotate(out, d);
}

static double worst_of(const bench *b, const prefill_case *c, const float *out)
{
    double worst = 0, want[256];
    const uint32_t n_heads = c->n_kv * c->per_kv;
    for (uint32_t s = 0; s < c->n_seqs; s++)
        for (uint32_t r = 0; r < c->n_rows; r++)
            for (uint32_t h = 0; h < n_heads; h++) {
                const size_t row = (size_t)s * c->n_rows + r;
                double error = 0, norm = 0;
                expected(b, c, s, h / c->per_kv, c->pos + r, b->qkv + row * b->buffers[0].cols + (size_t)h * c->d,
                         want);
                for (uint32_t e = 0; e < c->d; e++) {
                    error += pow((double)out[(row * n_heads + h) * c->d + e] - want[e], 2);
                    norm += want[e] * want[e];
                }
                if (!(sqrt(error / norm) <= worst)) worst = isnan(error) ? INFINITY : sqrt(error / norm);
            }
    return worst;
}

static bool has(const char *isa)
{
    kvi_device *device = NULL;
    const bool amx = strcmp(isa, "amx") == 0;
    const kvi_device_options options = {.isa = amx ? "auto" : isa, .amx = amx, .n_threads = 1};
    bool there = kvi_backend_cpu.open(&options, &device, NULL) >= KVRT_OK && (!amx || device->tiles);
    if (device) kvi_backend_cpu.close(device);
    if (!there) print_message("skipped: this CPU has no %s\n", isa);
    return there;
}

static const char *const sets[] = {"portable", "avx2", "avx512", "amx"};

static void prefill_matches_double(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 4; k++) {
        double most = 0;
        if (!has(sets[k])) continue;
        for (unsigned i = 0; i < N_CASES; i++) {
            const prefill_case *c = &cases[i];
            bench b;
            open_bench(&b, c, i, sets[k], 2);
            float *out = malloc((size_t)c->n_seqs * c->n_rows * b.buffers[1].cols * sizeof *out);
            run_steps(&b, c, c->n_rows, out);
            const double worst = worst_of(&b, c, out),
                         limit = b.device->tiles && c->d % 16 == 0 ? TOL_AMX_L2 : TOL_F32_L2;
            if (!(worst <= limit)) fail_msg("case %u, %s: relative L2 %g, need at most %g", i, sets[k], worst, limit);
            most = worst > most ? worst : most;
            free(out);
            close_bench(&b);
        }
        print_message("%s: worst relative L2 %.2g\n", sets[k], most);
    }
}

/* A row's bits depend on its sequence alone. */
static void cuts_and_threads_do_not_show(void **state)
{
    (void)state;
    static const uint32_t steps[] = {9, 33, 64, 100, 129};
    for (unsigned k = 0; k < 4; k++) {
        if (!has(sets[k])) continue;
        for (unsigned i = 0; i < N_CASES; i++) {
            const prefill_case *c = &cases[i];
            bench one, two;
            open_bench(&one, c, i, sets[k], 1);
            open_bench(&two, c, i, sets[k], 2);
            const size_t n = (size_t)c->n_seqs * c->n_rows * one.buffers[1].cols;
            float *whole = malloc(n * sizeof *whole), *parts = malloc(n * sizeof *parts);
            run_steps(&one, c, c->n_rows, whole);
            run_steps(&two, c, c->n_rows, parts);
            if (memcmp(whole, parts, n * sizeof *whole))
                fail_msg("case %u, %s: one and two threads differ", i, sets[k]);
            for (unsigned s = 0; s < sizeof steps / sizeof steps[0]; s++) {
                run_steps(&two, c, steps[s], parts);
                if (memcmp(whole, parts, n * sizeof *whole))
                    fail_msg("case %u, %s: steps of %u rows differ from one", i, sets[k], steps[s]);
            }
            free(whole), free(parts);
            close_bench(&one), close_bench(&two);
        }
    }
}

/* A number that is none in a visible key or value comes out; in one that nobody sees it does not. */
static void nan_comes_out(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 4; k++) {
        if (!has(sets[k])) continue;
        for (int is_v = 0; is_v < 2; is_v++) {
            const prefill_case c = {64, 1, 1, 0, 0, 40, 1, {"f16"}, KVI_KV_F16};
            bench b;
            open_bench(&b, &c, 3, sets[k], 1);
            float *out = malloc((size_t)c.n_rows * c.d * sizeof *out);
            const uint16_t nan = 0x7fff;
            memcpy(b.device->pool + (is_v ? KVI_KV_PAGE * c.d * 2 : 0) + 20 * c.d * 2, &nan, 2);
            run_steps(&b, &c, c.n_rows, out);
            /* Values of later positions have weight 0 in earlier rows, and 0 * NaN is NaN: only keys are judged there. */
            for (uint32_t r = 0; r < c.n_rows; r++)
                if (r >= 20 ? !isnan(out[r * c.d]) : !is_v && isnan(out[r * c.d]))
                    fail_msg("%s, row %u: %g", sets[k], r, (double)out[r * c.d]);
            free(out);
            close_bench(&b);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(prefill_matches_double),
                                       cmocka_unit_test(cuts_and_threads_do_not_show), cmocka_unit_test(nan_comes_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
