/* test_cuda_shapes.c - CUDA's attention and products on the shapes that people run: 33,000 positions of every page format and head size that has
 * kernels, a mix of all in one cache, one to eight rows and a prompt; rows of weights as long as an 8B model's. On a card whole (8 KV heads, all outputs);
 * on the emulated device a sample of the heads and outputs, with the same lengths and the same work per block. No case may be skipped. */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "op_rig.h"
#include "oracle.h"
#include "tolerance.h"
#include "runtime/kv/encode.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { PATTERNS = 5, MAX_CTX = 33100, MAX_PAGES = MAX_CTX / 128 + 1, WEIGHT_ROWS = 251 };

static op_target target;
static bool on_card, first_packed; /* first_packed: page 0 is no F16 page either */
static uint32_t n_done;

/* ------------------------------------------------------------------------------------------------------ attention --- */
typedef struct shape_case {
    uint32_t d, n_ctx, n_rows;
    const char *body[4]; /* formats of the pages between the first and the last two, in turn */
} shape_case;

static const shape_case attention_cases[] = {
    {64, 33000, 1, {"f16"}},
    {64, 33000, 1, {"i8"}},
    {64, 33000, 1, {"k4v4"}},
    {64, 33000, 1, {"k4v2"}},
    {128, 33000, 1, {"f16"}},
    {128, 33000, 1, {"i8"}},
    {128, 33000, 1, {"k4v4"}},
    {128, 33000, 1, {"k4v2"}},
    {256, 33000, 1, {"f16"}},
    {256, 33000, 1, {"i8"}},
    {256, 33000, 1, {"k4v4"}},
    {256, 33000, 1, {"k4v2"}},
    {128, 33024, 1, {"k4v4", "k4v2", "i8", "f16"}},
    {128, 33025, 4, {"k4v4"}},
    {128, 33000, 8, {"k4v4", "f16"}},
    {128, 5000, 5, {"k4v4", "i8"}}, /* a block's third group of columns is not full, a fourth is not there */
    {64, 4225, 3, {"k4v4", "f16"}}, /* two groups, the second half full */
    {64, 32769, 8, {"k4v2", "i8"}},
    {256, 8193, 2, {"k4v4", "k4v2", "i8", "f16"}},
};
/* A prompt's rows: on a card a chunk behind a long context. */
static const shape_case prompts[] = {
    {128, 33000, 512, {"k4v4"}},
    {64, 33000, 512, {"k4v4", "i8"}},
    {256, 33000, 512, {"f16", "k4v2"}},
    {128, 33000, 512, {"k3v3", "f8", "k16v4", "kt3vt2"}}, /* any format: attn_prefill_any_* */
    {64, 33001, 512, {"kt2vt3", "k4v4", "k2v16", "i8"}},
    {256, 32897, 512, {"k2v2", "k8v3", "f16", "kt3vt3"}}};

typedef struct shape_rig {
    op_rig rig;
    uint32_t n_kv, per_kv, n_heads, n_pages;
    op_matrix in;
    kvi_page_ref pages[MAX_PAGES];
    kvi_kv_format known[5]; /* formats that occur, F16 among them */
    uint32_t n_known;
    double *patterns[5][2]; /* [format][K, V]: (PATTERNS, 128, d) dequantized */
} shape_rig;

/* Which of the contents the record of a page and KV head has: neighbours differ. */
static uint32_t pattern_of(uint32_t page, uint32_t head) { return (page * 2 + head * 3 + page / 7) % PATTERNS; }

static uint32_t known(shape_rig *b, const char *name)
{
    kvi_kv_format f = 0;
    assert_true(kvi_kv_format_parse(name, strlen(name), &f));
    for (uint32_t i = 0; i < b->n_known; i++)
        if (b->known[i] == f) return i;
    b->known[b->n_known] = f;
    return b->n_known++;
}

static uint32_t format_index(shape_rig *b, const shape_case *c, uint32_t page)
{
    uint32_t n = 0;
    while (n < 4 && c->body[n]) n++;
    return known(b, (page == 0 && !first_packed) || page + 2 >= b->n_pages ? "f16" : c->body[page % n]);
}

/* The records of one format, once each, and what they decode to. */
static void make_patterns(shape_rig *b, uint32_t d, uint32_t index, uint8_t *records)
{
    const kvi_kv_format f = b->known[index];
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_MINMAX};
    const uint32_t bytes = kvi_kv_record_bytes(f, d);
    float *rows = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
    assert_true(rows && scratch);
    for (int is_v = 0; is_v < 2; is_v++)
        b->patterns[index][is_v] = op_rig_memory(&b->rig, (size_t)PATTERNS * KVI_KV_PAGE * d * sizeof(double));
    for (uint32_t n = 0; n < PATTERNS; n++)
        for (int is_v = 0; is_v < 2; is_v++) {
            const kvi_kv_code code = is_v ? KVI_KV_V_CODE(f) : KVI_KV_K_CODE(f);
            uint8_t *side = records + (size_t)n * bytes + (is_v ? kvi_kv_k_side(KVI_KV_K_CODE(f), d).bytes : 0);
            double *out = b->patterns[index][is_v] + (size_t)n * KVI_KV_PAGE * d;
            for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++) rows[i] = (float)(op_normal() * (1 + i % 3 * 0.5));
            if (code == KVI_KV_F16)
                for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++) {
                    const uint16_t h = kvi_f32_to_f16(rows[i]);
                    memcpy(side + 2 * i, &h, 2);
                }
            else if (is_v) kvi_kv_encode_v(code, rows, d, &params, scratch, side);
            else kvi_kv_encode_k(code, rows, d, &params, scratch, side);
            for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
                for (uint32_t e = 0; e < d; e++)
                    out[t * d + e] =
                        (double)(is_v ? kvi_kv_decode_v(side, code, d, t, e) : kvi_kv_decode_k(side, code, d, t, e));
        }
    free(rows), free(scratch);
}

/* The pool, page by page; behind the last position NaN. */
static void fill_pool(shape_rig *b, const shape_case *c)
{
    const kvi_kv_shape *shape = &b->rig.group.shape;
    uint8_t *records[5] = {NULL};
    kvrt_error error = {.size = sizeof error};
    for (uint32_t i = 0; i < b->n_known; i++) {
        records[i] = malloc((size_t)PATTERNS * kvi_kv_record_bytes(b->known[i], c->d));
        assert_non_null(records[i]);
        make_patterns(b, c->d, i, records[i]);
    }
    uint8_t *page = malloc(kvi_kv_page_bytes(KVI_KV_FMT_F16, shape) + KVI_KV_UNIT);
    assert_non_null(page);
    for (uint32_t p = 0; p < b->n_pages; p++) {
        const uint32_t i = format_index(b, c, p), bytes = kvi_kv_record_bytes(b->known[i], c->d);
        for (uint32_t h = 0; h < b->n_kv; h++) {
            memcpy(page + (size_t)h * bytes, records[i] + (size_t)pattern_of(p, h) * bytes, bytes);
            const uint32_t filled = c->n_ctx - p * KVI_KV_PAGE;
            if (filled >= KVI_KV_PAGE) continue;
            for (uint32_t is_v = 0; is_v < 2; is_v++) /* such a page is F16 */
                memset(page + (size_t)h * bytes + ((size_t)is_v * KVI_KV_PAGE + filled) * c->d * 2, 0xff,
                       (size_t)(KVI_KV_PAGE - filled) * c->d * 2);
        }
        if (target.backend->pool_write(b->rig.device, (uint64_t)b->pages[p].unit * KVI_KV_UNIT, page,
                                       (uint64_t)b->n_kv * bytes, &error) < KVRT_OK)
            fail_msg("%s", error.message);
    }
    for (uint32_t i = 0; i < b->n_known; i++) free(records[i]);
    free(page);
}

static void open_shape(shape_rig *b, const shape_case *c)
{
    op_rig *rig = &b->rig;
    b->per_kv = 4;
    b->n_kv = on_card ? 8 : 2;
    b->n_heads = b->n_kv * b->per_kv;
    op_rig_open(rig, &target);
    rig->inputs = KVI_F16;
    rig->group = (kvi_cache_group){.shape = {1, b->n_kv, c->d, 0}, .rotate = true, .plain = KVI_KV_F16};
    kvi_buffer qkv = op_rig_buffer(rig, (b->n_heads + 2 * b->n_kv) * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    kvi_buffer out = op_rig_buffer(rig, b->n_heads * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    b->in = op_rig_input(rig, qkv, c->n_rows);
    kvi_op *op = op_rig_op(rig, KVI_OP_ATTENTION, qkv, out);
    op->n_heads = b->n_heads;
    op->scale = (float)(1 / sqrt(c->d));
    op_rig_output(rig, out);
    b->n_pages = (c->n_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    assert_true(b->n_pages <= MAX_PAGES);
    uint32_t unit = 1;
    for (uint32_t p = b->n_pages; p-- > 0;) {
        const kvi_kv_format f = b->known[format_index(b, c, p)];
        b->pages[p] = (kvi_page_ref){unit, f};
        unit += kvi_kv_page_units(f, &rig->group.shape);
        rig->page_codes |= 1u << KVI_KV_K_CODE(f) | 1u << KVI_KV_V_CODE(f);
    }
    assert_true(op_rig_load(rig, c->n_rows, 1, c->n_ctx, (uint64_t)unit * KVI_KV_UNIT));
    fill_pool(b, c);
}

static void check_head(shape_rig *b, const shape_case *c, uint32_t kv, const float *got)
{
    const uint32_t d = c->d, width = b->n_heads * d;
    const size_t n = (size_t)b->n_pages * KVI_KV_PAGE * d;
    double *k = malloc(n * sizeof *k), *v = malloc(n * sizeof *v), want[KVI_KV_MAX_HEAD_DIM];
    assert_true(k && v);
    for (uint32_t p = 0; p < b->n_pages; p++) {
        const uint32_t i = format_index(b, c, p);
        const size_t from = (size_t)pattern_of(p, kv) * KVI_KV_PAGE * d, to = (size_t)p * KVI_KV_PAGE * d;
        memcpy(k + to, b->patterns[i][0] + from, (size_t)KVI_KV_PAGE * d * sizeof *k);
        memcpy(v + to, b->patterns[i][1] + from, (size_t)KVI_KV_PAGE * d * sizeof *v);
    }
    const uint32_t step = c->n_rows > 8 ? c->n_rows / 3 : 1; /* rows of a prompt: four of them */
    for (uint32_t r = 0; r < c->n_rows; r = r + step < c->n_rows || r == c->n_rows - 1 ? r + step : c->n_rows - 1)
        for (uint32_t head = kv * b->per_kv; head < (kv + 1) * b->per_kv; head++) {
            const double *q = b->in.values + (size_t)r * b->in.n_in + (size_t)head * d;
            double error = 0, norm = 0;
            oracle_attention(k, v, d, 0, c->n_ctx - c->n_rows + r, q, 1 / sqrt(d), 0, -INFINITY, want);
            oracle_rotate(want, d);
            for (uint32_t e = 0; e < d; e++) {
                error += pow((double)got[(size_t)r * width + head * d + e] - want[e], 2);
                norm += want[e] * want[e];
            }
            if (!(sqrt(error / norm) <= target.attention))
                fail_msg("%s, head size %u, %u positions of %s, row %u of %u, head %u: relative L2 %g, need at most %g",
                         target.name, d, c->n_ctx, c->body[0], r, c->n_rows, head, sqrt(error / norm),
                         target.attention);
        }
    free(k), free(v);
}

/* Few rows are computed several at a time; each has the bits that it has alone. */
static void check_alone(shape_rig *b, const shape_case *c, const kvi_page_ref *const *tables, const float *got)
{
    const size_t width = (size_t)b->n_heads * c->d;
    float *alone = calloc(width, sizeof *alone);
    assert_non_null(alone);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        const int32_t id = (int32_t)r;
        const kvi_seq seq = {.n_rows = 1, .pos = c->n_ctx - c->n_rows + r, .pages = tables};
        const kvi_step step = {.ids = &id, .n_rows = 1, .seqs = &seq, .n_seqs = 1};
        op_rig_step(&b->rig, &step, false, alone);
        for (size_t i = 0; i < width; i++)
            if (memcmp(&alone[i], &got[r * width + i], sizeof *alone))
                fail_msg("head size %u, %u positions of %s: row %u of %u has other bits alone, at %zu: %.9g, %.9g",
                         c->d, c->n_ctx, c->body[0], r, c->n_rows, i, (double)alone[i], (double)got[r * width + i]);
    }
    free(alone);
}

static void run_shape(const shape_case *given, uint32_t index)
{
    shape_case c = *given;
    if (c.n_rows > 8 && !on_card) c.n_ctx = 2000 + c.n_ctx % 128, c.n_rows = 40;
    shape_rig *b = calloc(1, sizeof *b);
    assert_non_null(b);
    op_seed = 40 + index;
    open_shape(b, &c);
    float *got = calloc((size_t)c.n_rows * b->n_heads * c.d, sizeof *got), *again = NULL;
    int32_t *ids = calloc(c.n_rows, sizeof *ids);
    assert_true(got && ids);
    for (uint32_t i = 0; i < c.n_rows; i++) ids[i] = (int32_t)i;
    const kvi_page_ref *tables[1] = {b->pages};
    const kvi_seq seq = {.n_rows = c.n_rows, .pos = c.n_ctx - c.n_rows, .pages = tables};
    const kvi_step step = {.ids = ids, .n_rows = c.n_rows, .seqs = &seq, .n_seqs = 1};
    op_rig_step(&b->rig, &step, false, got);
    for (uint32_t kv = 0; kv < b->n_kv; kv++) check_head(b, &c, kv, got);
    /* The same bits a second time, and launched one by one. */
    again = calloc((size_t)c.n_rows * b->n_heads * c.d, sizeof *again);
    assert_non_null(again);
    for (int by_op = 0; by_op < (on_card ? 2 : 1); by_op++) {
        op_rig_step(&b->rig, &step, on_card ? by_op != 0 : true, again);
        assert_memory_equal(got, again, (size_t)c.n_rows * b->n_heads * c.d * sizeof *got);
    }
    if (c.n_rows > 1 && c.n_rows <= 8) check_alone(b, &c, tables, got);
    free(got), free(again), free(ids);
    op_rig_close(&b->rig);
    free(b);
    n_done++;
}

static void attention(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof attention_cases / sizeof attention_cases[0]; i++) run_shape(&attention_cases[i], i);
}

/* One multiprocessor: every warp has a hundred pages or fewer, and those of the one format are the last. */
static void pages_far_apart(void **state)
{
    (void)state;
    static const shape_case c = {64, 33000, 1, {"k4v4"}};
    setenv("KVRT_EMU_SMS", "1", 1);
    first_packed = true;
    run_shape(&c, 200);
    first_packed = false;
    unsetenv("KVRT_EMU_SMS");
}

static void prompt(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof prompts / sizeof prompts[0]; i++) run_shape(&prompts[i], 100 + i);
}

/* ------------------------------------------------------------------------------------------------------- products --- */
/* Outputs of `n_rows` rows by a weight whose rows repeat after WEIGHT_ROWS. */
static void product(uint32_t n_out, uint32_t n_in, uint32_t n_rows, kvi_dtype dtype)
{
    op_rig rig;
    if (!on_card) n_out = n_rows > 8 ? 200 : 333; /* three blocks of the product, dozens of the gemv */
    op_rig_open(&rig, &target);
    kvi_buffer x = op_rig_buffer(&rig, n_in, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
               y = op_rig_buffer(&rig, n_out, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL);
    op_matrix in = op_rig_input(&rig, x, n_rows), gain = op_rig_matrix(&rig, 1, n_in, KVI_F32, 1, 0.2, 0),
              few = op_rig_matrix(&rig, WEIGHT_ROWS, n_in, dtype, 0, 1 / sqrt(n_in), 0);
    uint16_t *data = op_rig_memory(&rig, (size_t)n_out * n_in * 2);
    for (size_t i = 0; i < (size_t)WEIGHT_ROWS * n_in && i < (size_t)n_out * n_in; i++) {
        const float f = (float)few.values[i];
        data[i] = dtype == KVI_F16 ? kvi_f32_to_f16(f) : kvi_f32_to_bf16(f);
    }
    for (uint32_t o = WEIGHT_ROWS; o < n_out; o++)
        memcpy(data + (size_t)o * n_in, data + (size_t)(o % WEIGHT_ROWS) * n_in, (size_t)n_in * 2);
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight = NULL;
    const kvi_weight_desc desc = {
        .name = "test.shape", .form = kvi_form_of_dtype(dtype), .n_out = n_out, .n_in = n_in, .parts = {data}};
    if (target.backend->weight_import(rig.device, &desc, &weight, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvi_op *op = op_rig_op(&rig, KVI_OP_HEAD, x, y);
    op->norm = (kvi_norm){KVI_NORM_GAIN, gain.weight, 1e-5f};
    op->n_weights = 1;
    op->weights[0] = weight;
    op->n_out = n_out;
    rig.program.logits = y;
    rig.program.vocab_size = n_out;
    assert_true(op_rig_load(&rig, n_rows, 1, 256, 0));
    float *out = calloc((size_t)n_rows * n_out, sizeof *out);
    double *normed = calloc(n_in, sizeof *normed);
    assert_true(out && normed);
    op_rig_rows(&rig, n_rows, false, out);
    for (uint32_t r = 0; r<n_rows; r += n_rows> 8 ? 13 : 1) {
        char text[80];
        snprintf(text, sizeof text, "product %u x %u, %u rows, type %d", n_out, n_in, n_rows, (int)dtype);
        oracle_rmsnorm(in.values + (size_t)r * n_in, gain.values, (double)1e-5f, n_in, normed);
        for (uint32_t m = 0; m < WEIGHT_ROWS && m < n_out; m++) {
            double want = 0, size = 0;
            for (uint32_t k = 0; k < n_in; k++) {
                const double p = few.values[(size_t)m * n_in + k] * normed[k];
                want += p, size += fabs(p);
            }
            for (uint32_t o = m; o < n_out; o += WEIGHT_ROWS)
                op_check(&target, text, r, o, (double)out[(size_t)r * n_out + o], want,
                         (size + fabs(want)) * (dtype == KVI_F16 ? target.linear_f16 : target.linear));
        }
    }
    free(out), free(normed);
    op_rig_close(&rig);
    n_done++;
}

/* The matrices of an 8B model: q | k | v, output, gate and up, down, head. */
static void products(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};
    for (uint32_t i = 0; i < 5; i++) {
        product(shapes[i][0], shapes[i][1], 1, KVI_BF16);
        if (i % 2) product(shapes[i][0], shapes[i][1], 8, KVI_BF16);
        if (i == 0) product(shapes[i][0], shapes[i][1], 1, KVI_F16);
        if (i == 3) product(shapes[i][0], shapes[i][1], on_card ? 512 : 40, KVI_BF16);
    }
}

/* -------------------------------------------------------------------------------------------------------- experts --- */
#define EXPERTS 128u
#define CHOSEN 8u
#define HIDDEN 2048u
#define WIDTH 64u /* of an expert; 768 in the model */

/* Row o of expert e is one of few. */
static uint32_t row_of(uint32_t e, uint32_t o) { return (o * 7 + e * 3) % WEIGHT_ROWS; }

static const kvi_weight *experts_of(op_rig *rig, const op_matrix *few, uint32_t n_out)
{
    const uint32_t n_in = few->n_in;
    uint16_t *data = op_rig_memory(rig, (size_t)EXPERTS * n_out * n_in * 2), *row = op_rig_memory(rig, n_in * 2);
    for (uint32_t m = 0; m < WEIGHT_ROWS; m++) {
        for (uint32_t k = 0; k < n_in; k++) row[k] = kvi_f32_to_bf16((float)few->values[(size_t)m * n_in + k]);
        for (uint32_t i = 0; i < EXPERTS * n_out; i++)
            if (row_of(i / n_out, i % n_out) == m) memcpy(data + (size_t)i * n_in, row, (size_t)n_in * 2);
    }
    kvi_weight *weight = NULL;
    kvrt_error error = {.size = sizeof error};
    const kvi_weight_desc desc = {.name = "test.experts",
                                  .form = KVI_FORM_BF16,
                                  .n_out = n_out,
                                  .n_in = n_in,
                                  .n_experts = EXPERTS,
                                  .parts = {data}};
    if (target.backend->weight_import(rig->device, &desc, &weight, &error) < KVRT_OK) fail_msg("%s", error.message);
    return weight;
}

/* few rows times x */
static void few_products(const op_matrix *few, const double *x, double *y)
{
    for (uint32_t m = 0; m < WEIGHT_ROWS; m++) {
        y[m] = 0;
        for (uint32_t k = 0; k < few->n_in; k++) y[m] += few->values[(size_t)m * few->n_in + k] * x[k];
    }
}

/* x + the experts of one row: softmax over all, eight of them, their weights made to sum to one. */
static void mixture_of(const op_matrix *router, const op_matrix few[3], const double *x, double *want)
{
    double score[EXPERTS], gate[WEIGHT_ROWS], up[WEIGHT_ROWS], part[WEIGHT_ROWS], act[WIDTH], total = 0;
    uint32_t ids[CHOSEN];
    for (uint32_t e = 0; e < EXPERTS; e++) {
        score[e] = 0;
        for (uint32_t k = 0; k < HIDDEN; k++) score[e] += router->values[(size_t)e * HIDDEN + k] * x[k];
        score[e] = exp(score[e]);
    }
    few_products(&few[0], x, gate), few_products(&few[1], x, up);
    for (uint32_t j = 0; j < CHOSEN; j++) {
        uint32_t best = 0;
        for (uint32_t e = 1; e < EXPERTS; e++) best = score[e] > score[best] ? e : best;
        ids[j] = best, total += act[j] = score[best], score[best] = -1;
    }
    double weights[CHOSEN];
    for (uint32_t j = 0; j < CHOSEN; j++) weights[j] = act[j] / total;
    memcpy(want, x, HIDDEN * sizeof *want);
    for (uint32_t j = 0; j < CHOSEN; j++) {
        for (uint32_t o = 0; o < WIDTH; o++) {
            const double g = gate[row_of(ids[j], o)];
            act[o] = g / (1 + exp(-g)) * up[row_of(ids[j], o)];
        }
        few_products(&few[2], act, part);
        for (uint32_t o = 0; o < HIDDEN; o++) want[o] += weights[j] * part[row_of(ids[j], o)];
    }
}

static void mixture(uint32_t n_rows)
{
    op_rig rig;
    op_rig_open(&rig, &target);
    const kvi_buffer x = op_rig_buffer(&rig, HIDDEN, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     chosen = op_rig_buffer(&rig, 2 * CHOSEN, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, n_rows),
                    router = op_rig_matrix(&rig, EXPERTS, HIDDEN, KVI_F32, 0, 1 / sqrt(HIDDEN), 0);
    op_matrix few[3] = {op_rig_matrix(&rig, WEIGHT_ROWS, HIDDEN, KVI_BF16, 0, 1 / sqrt(HIDDEN), 0),
                        op_rig_matrix(&rig, WEIGHT_ROWS, HIDDEN, KVI_BF16, 0, 1 / sqrt(HIDDEN), 0),
                        op_rig_matrix(&rig, WEIGHT_ROWS, WIDTH, KVI_BF16, 0, 1 / sqrt(WIDTH), 0)};
    const kvi_route route = {KVI_ROUTE_SOFTMAX, CHOSEN, .renormalize = true, .scale = 1};
    kvi_op *op = op_rig_op(&rig, KVI_OP_ROUTE, x, chosen);
    op->n_experts = EXPERTS, op->route = route, op->n_weights = 1, op->weights[0] = router.weight;
    op = op_rig_op(&rig, KVI_OP_EXPERTS, x, x);
    op->side = chosen, op->n_experts = EXPERTS, op->expert_width = WIDTH, op->route = route, op->n_weights = 3;
    for (uint32_t j = 0; j < 3; j++) op->weights[j] = experts_of(&rig, &few[j], j < 2 ? WIDTH : HIDDEN);
    op_rig_output(&rig, x);
    assert_true(op_rig_load(&rig, n_rows, 1, 256, 0));
    float *out = calloc((size_t)n_rows * HIDDEN, sizeof *out);
    double want[HIDDEN];
    assert_non_null(out);
    op_rig_rows(&rig, n_rows, false, out);
    for (uint32_t r = 0; r<n_rows; r += n_rows> 8 ? 7 : 1) {
        mixture_of(&router, few, in.values + (size_t)r * HIDDEN, want);
        for (uint32_t o = 0; o < HIDDEN; o++)
            op_check(&target, "128 experts", r, o, (double)out[(size_t)r * HIDDEN + o], want[o], 4 * target.linear);
    }
    free(out);
    op_rig_close(&rig);
    n_done++;
}

/* A layer of Qwen3-30B-A3B: decode, eight rows, a prompt. */
static void mixtures(void **state)
{
    (void)state;
    mixture(1), mixture(8), mixture(40);
}

static void nothing_was_skipped(void **state)
{
    (void)state;
    printf("%u cases\n", n_done);
    assert_int_equal(n_done,
                     sizeof attention_cases / sizeof attention_cases[0] + sizeof prompts / sizeof prompts[0] + 13);
}

int main(void)
{
    static char emulated[1024];
    char text[256];
    const char *build = getenv("KVRT_BUILD_DIR");
    snprintf(emulated, sizeof emulated, "%s/libkvrt-emu-cuda.so", build ? build : "build");
    on_card = getenv("KVRT_TEST_CARD") != NULL;
    target = (op_target){.name = on_card ? "cuda" : "emulated cuda",
                         .backend = &kvi_backend_cuda,
                         .options = {.cuda_driver = on_card ? NULL : emulated},
                         .linear = OPS_LINEAR_BF16,
                         .linear_f16 = OPS_LINEAR_F16,
                         .attention = OPS_ATTENTION_F16};
    if (!kvi_backend_cuda.probe(&target.options, text, sizeof text)) {
        printf("skipped: %s\n", text);
        return on_card ? 1 : 77; /* who asks for a card has one */
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(attention), cmocka_unit_test(pages_far_apart),
                                       cmocka_unit_test(prompt),    cmocka_unit_test(products),
                                       cmocka_unit_test(mixtures),  cmocka_unit_test(nothing_was_skipped)};
    return cmocka_run_group_tests_name("shapes, cuda", tests, NULL, NULL);
}
