/* op_cases_packed.c - quantized pages on any backend: attention against double precision on the dequantized values (what is measured is the
 * kernel's error alone; what a format loses is measured by `kvrt eval`), page conversion against the encoder, and moves, byte for byte. */
#include "op_cases.h"
#include "oracle.h"
#include "runtime/kv/encode.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct packed_case {
    uint32_t d, n_kv, per_kv, window, n_ctx, n_rows; /* n_rows queries at the end of n_ctx positions */
    bool rotate;
    const char *formats[8]; /* of pages 0, 1, ...; the last one repeats */
} packed_case;

/* clang-format off */
static const packed_case cases[] = {
    {64, 1, 4, 0, 384, 1, false, {"f16", "k4v4", "f16"}},
    {64, 2, 4, 0, 257, 1, true, {"f16", "k4v4", "f16"}},
    {64, 2, 1, 0, 512 + 77, 1, false, {"f16", "k4v2", "k4v2", "k4v2", "f16"}},
    {64, 1, 8, 0, 640 + 127, 3, false, {"f16", "i8", "k4v4", "k4v2", "k4v4", "f16"}},
    {64, 3, 5, 0, 700, 2, false, {"i8", "i8", "k4v2", "k4v4", "i8", "f16"}},
    {64, 1, 8, 0, 384, 8, false, {"f16", "k4v4", "f16"}},
    {128, 2, 4, 0, 900, 1, false, {"f16", "k4v4", "k4v2", "i8", "i8", "f16"}},
    {128, 1, 7, 0, 700, 6, true, {"f16", "k4v4", "k4v4", "i8", "k4v2", "f16"}},
    {128, 1, 1, 0, 130, 1, false, {"k4v2", "f16"}},
    {256, 1, 4, 0, 500, 1, false, {"f16", "k4v2", "k4v4", "f16"}},
    {256, 2, 2, 0, 500, 2, true, {"f16", "i8", "k4v4", "f16"}},
    {64, 1, 4, 200, 700, 1, false, {"f16", "k4v4", "k4v4", "k4v4", "k4v4", "f16"}},
    {64, 1, 4, 129, 700, 7, false, {"f16", "k4v4", "k4v2", "k4v4", "i8", "f16"}},
    {64, 1, 4, 0, 128 * 40, 1, false, {"f16", "k4v4"}}, /* split over pages; packed pages are always complete */
    {64, 1, 2, 0, 640 + 1, 1, false, {"f16", "f8", "k3v3", "k8v4", "k16v4", "f16"}},
    {64, 1, 2, 0, 640 + 128, 1, false, {"f16", "k4v16", "k3v2", "k2v4", "k8v2", "f16"}},
    {80, 1, 2, 0, 500, 1, false, {"f16", "k4v4", "k2v2", "f16"}},
    {80, 2, 4, 0, 770, 3, true, {"f16", "k4v4", "k3v3", "i8", "f8", "k4v2", "f16"}},
    {96, 1, 3, 100, 700, 2, true, {"f16", "k4v2", "k4v4", "k4v4", "i8", "f16"}},
    {96, 1, 20, 0, 700, 1, true, {"f16", "k4v4", "i8", "k3v3", "k2v2", "f16"}}, /* staged, for its many heads */
    {112, 2, 2, 0, 770, 4, true, {"f16", "i8", "k4v4", "k3v3", "k2v2", "k8v4", "f16"}},
    {192, 1, 5, 0, 900, 2, true, {"f16", "k4v4", "k2v2", "f8", "i8", "k3v2", "f16"}},
    {64, 1, 2, 0, 640 + 9, 1, false, {"f16", "t3", "t2", "k4vt2", "kt3v4", "f16"}},
    {96, 1, 20, 0, 700, 1, true, {"f16", "t3", "t2", "t2", "t3", "f16"}},
    {512, 1, 1, 0, 400, 1, true, {"f16", "k4v4", "i8", "f16"}},
    {512, 2, 2, 130, 770, 2, true, {"f16", "k4v2", "k3v3", "f8", "k2v2", "k4v4", "f16"}},
    {512, 1, 17, 0, 400, 1, true, {"f16", "k4v4", "i8", "f16"}},
};
static const packed_case prompts[] = {
    {64, 2, 4, 0, 700, 70, false, {"f16", "k4v4", "i8", "k4v2", "k4v4", "f16"}},
    {128, 1, 3, 0, 600, 100, true, {"f16", "k4v4", "k4v2", "f16"}},
    {64, 1, 4, 129, 700, 20, false, {"f16", "k4v4", "k4v2", "k4v4", "i8", "f16"}}, /* few enough rows to be split like decode on CUDA */
    {64, 1, 4, 150, 700, 33, false, {"f16", "k4v4", "k4v2", "k4v4", "i8", "f16"}}, /* one more than that */
    {256, 1, 2, 0, 420, 34, true, {"f16", "k4v4", "i8", "f16"}},
    {256, 1, 1, 0, 300, 40, false, {"k4v2", "k4v2", "f16"}},
    {80, 1, 3, 0, 500, 50, true, {"f16", "k4v4", "k3v3", "f16"}},
    {96, 2, 2, 140, 600, 40, true, {"f16", "k4v4", "i8", "k2v2", "f16"}},
    {112, 1, 4, 0, 500, 40, true, {"f16", "k4v2", "f8", "f16"}},
    {192, 1, 2, 0, 500, 40, true, {"f16", "k4v4", "k3v3", "f16"}},
    {512, 1, 2, 0, 500, 20, true, {"f16", "k4v4", "i8", "f16"}},
    {512, 1, 1, 200, 600, 40, true, {"f16", "k2v2", "f8", "k4v4", "f16"}},
};
/* The same with a sink for each head (gpt-oss has them in heads of 64). */
static const packed_case cases_with_sinks[] = {
    {64, 1, 8, 128, 700, 1, true, {"f16", "k4v4", "k4v4", "k4v2", "i8", "f16"}}, /* gpt-oss */
    {80, 1, 2, 0, 520, 3, true, {"f16", "k4v4", "k2v2", "f16"}},
    {96, 2, 3, 100, 700, 1, true, {"f16", "k4v2", "k4v4", "i8", "f8", "f16"}},
    {112, 1, 4, 0, 500, 2, true, {"f16", "i8", "k3v3", "f16"}},
    {192, 1, 5, 0, 500, 1, true, {"f16", "k4v4", "i8", "f16"}},
    {256, 2, 2, 130, 600, 8, true, {"f16", "k4v4", "k4v2", "i8", "f16"}},
    {512, 1, 2, 0, 400, 1, true, {"f16", "k4v4", "i8", "f16"}},
};
static const packed_case prompts_with_sinks[] = {
    {64, 1, 8, 128, 500, 40, true, {"f16", "k4v4", "i8", "f16"}},
    {80, 1, 3, 0, 400, 50, true, {"f16", "k4v4", "f16"}},
    {96, 1, 2, 140, 500, 40, true, {"f16", "k4v4", "i8", "f16"}},
    {112, 1, 2, 0, 300, 20, true, {"f16", "k4v2", "f16"}},
    {192, 1, 2, 0, 400, 20, true, {"f16", "k4v4", "k3v3", "f16"}},
    {256, 1, 2, 0, 420, 20, true, {"f16", "k4v4", "i8", "f16"}},
    {512, 1, 1, 0, 400, 20, true, {"f16", "i8", "k4v4", "f16"}},
};
/* clang-format on */

typedef struct packed_rig {
    op_rig rig;
    op_matrix in, sinks;
    kvi_page_ref pages[64];
    uint32_t n_pages;
    double *k, *v; /* (n_kv, positions, d) dequantized */
} packed_rig;

static kvi_kv_format format_of(const packed_case *c, uint32_t page)
{
    kvi_kv_format f = 0;
    const char *name = NULL;
    for (uint32_t i = 0; i <= page && i < 8 && c->formats[i]; i++) name = c->formats[i];
    assert_true(kvi_kv_format_parse(name, strlen(name), &f));
    return f;
}

static void store_plain(const float *rows, kvi_kv_code code, uint32_t n, uint8_t *to)
{
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h = code == KVI_KV_F16 ? kvi_f32_to_f16(rows[i]) : kvi_f32_to_bf16(rows[i]);
        if (code == KVI_KV_F32) memcpy(to + 4u * i, &rows[i], 4);
        else memcpy(to + 2u * i, &h, 2);
    }
}

/* Random pages in the pool, and what they decode to. Bytes that no record owns are NaN patterns. */
static void fill_pages(packed_rig *b, const packed_case *c)
{
    const uint32_t d = c->d;
    const uint64_t pool = b->rig.limits.pool_bytes;
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH};
    float *rows = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
    uint8_t *bytes = malloc(pool);
    assert_true(rows && scratch && bytes);
    memset(bytes, 0xff, pool);
    for (uint32_t p = 0; p < b->n_pages; p++) {
        const kvi_kv_format f = (kvi_kv_format)b->pages[p].format;
        for (uint32_t h = 0; h < c->n_kv; h++) {
            uint8_t *side =
                bytes + (uint64_t)b->pages[p].unit * KVI_KV_UNIT + kvi_kv_record_off(f, &b->rig.group.shape, 1, h);
            for (int is_v = 0; is_v < 2; is_v++) {
                const kvi_kv_code code = is_v ? KVI_KV_V_CODE(f) : KVI_KV_K_CODE(f);
                double *out = (is_v ? b->v : b->k) + ((size_t)h * b->n_pages + p) * KVI_KV_PAGE * d;
                for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++)
                    rows[i] = (float)op_normal() * (float)(1 + (i / d) % 3) * 0.5f + (i % d == 3 ? 2.0f : 0.0f);
                if (kvi_kv_code_is_plain(code)) store_plain(rows, code, d * KVI_KV_PAGE, side);
                else if (is_v) kvi_kv_encode_v(code, rows, d, &params, scratch, side);
                else kvi_kv_encode_k(code, rows, d, &params, scratch, side);
                for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
                    for (uint32_t e = 0; e < d; e++)
                        out[t * d + e] = (double)(is_v ? kvi_kv_decode_v(side, code, d, t, e)
                                                       : kvi_kv_decode_k(side, code, d, t, e));
                if (kvi_kv_code_is_plain(code) &&
                    p * KVI_KV_PAGE + KVI_KV_PAGE > c->n_ctx) /* rows behind the last position */
                    memset(side + (size_t)(c->n_ctx % KVI_KV_PAGE) * d * 2, 0xff,
                           (size_t)(KVI_KV_PAGE - c->n_ctx % KVI_KV_PAGE) * d * 2);
                side += is_v ? 0 : kvi_kv_k_side(code, d).bytes;
            }
        }
    }
    assert_true(b->rig.target->backend->pool_write(b->rig.device, 0, bytes, pool, NULL) >= KVRT_OK);
    free(rows), free(scratch), free(bytes);
}

static bool open_packed(packed_rig *b, const op_target *target, const packed_case *c, bool sinks)
{
    memset(b, 0, sizeof *b);
    op_rig *rig = &b->rig;
    op_rig_open(rig, target);
    rig->inputs = KVI_F16;
    rig->group = (kvi_cache_group){
        .shape = {2, c->n_kv, c->d, 0}, .window = c->window, .rotate = c->rotate, .plain = KVI_KV_F16};
    const uint32_t n_heads = c->n_kv * c->per_kv;
    kvi_buffer qkv = op_rig_buffer(rig, (n_heads + 2 * c->n_kv) * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    kvi_buffer out = op_rig_buffer(rig, n_heads * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    b->in = op_rig_input(rig, qkv, c->n_rows);
    kvi_op *op = op_rig_op(rig, KVI_OP_ATTENTION, qkv, out);
    op->n_heads = n_heads;
    op->group_layer = 1;
    op->scale = (float)(1 / sqrt(c->d));
    if (sinks) b->sinks = op_rig_matrix(rig, 1, n_heads, KVI_F32, 1, 2, 0), op->sinks = b->sinks.weight;
    op_rig_output(rig, out);
    b->n_pages = (c->n_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    uint32_t unit = 3;
    for (uint32_t p = b->n_pages; p-- > 0;) {
        const kvi_kv_format f = format_of(c, p);
        b->pages[p] = (kvi_page_ref){unit, f};
        unit += kvi_kv_page_units(f, &rig->group.shape);
        rig->page_codes |= 1u << KVI_KV_K_CODE(f) | 1u << KVI_KV_V_CODE(f);
    }
    b->k = op_rig_memory(rig, (size_t)c->n_kv * b->n_pages * KVI_KV_PAGE * c->d * sizeof(double));
    b->v = op_rig_memory(rig, (size_t)c->n_kv * b->n_pages * KVI_KV_PAGE * c->d * sizeof(double));
    if (!op_rig_load(rig, c->n_rows, 1, c->n_ctx, (uint64_t)unit * KVI_KV_UNIT)) return false;
    fill_pages(b, c);
    return true;
}

/* The contract's formula for one query. */
static void expected(const packed_rig *b, const packed_case *c, uint32_t head, uint32_t pos, const double *q,
                     double *out)
{
    const uint32_t d = c->d, h = head / c->per_kv, first = c->window && pos + 1 > c->window ? pos + 1 - c->window : 0;
    const double *k = b->k + (size_t)h * b->n_pages * KVI_KV_PAGE * d,
                 *v = b->v + (size_t)h * b->n_pages * KVI_KV_PAGE * d;
    oracle_attention(k, v, d, first, pos, q, 1 / sqrt(d), 0, b->sinks.weight ? b->sinks.values[head] : -INFINITY, out);
    if (c->rotate) oracle_rotate(out, d);
}

static void run_case(const op_target *target, const packed_case *c, bool sinks, uint32_t index)
{
    packed_rig *b = calloc(1, sizeof *b);
    assert_non_null(b);
    op_seed = 17 + index;
    if (open_packed(b, target, c, sinks)) {
        const uint32_t n_heads = c->n_kv * c->per_kv, width = n_heads * c->d;
        float *got = calloc((size_t)c->n_rows * width, sizeof *got);
        int32_t ids[128];
        double want[KVI_KV_MAX_HEAD_DIM];
        assert_non_null(got);
        for (uint32_t i = 0; i < c->n_rows; i++) ids[i] = (int32_t)i;
        const kvi_page_ref *tables[1] = {b->pages};
        const kvi_seq seq = {.n_rows = c->n_rows, .pos = c->n_ctx - c->n_rows, .pages = tables};
        op_rig_step(&b->rig, &(kvi_step){.ids = ids, .n_rows = c->n_rows, .seqs = &seq, .n_seqs = 1}, false, got);
        for (uint32_t r = 0; r < c->n_rows; r++)
            for (uint32_t head = 0; head < n_heads; head++) {
                double error = 0, norm = 0;
                expected(b, c, head, seq.pos + r, b->in.values + (size_t)r * b->in.n_in + (size_t)head * c->d, want);
                for (uint32_t e = 0; e < c->d; e++) {
                    error += pow((double)got[(size_t)r * width + head * c->d + e] - want[e], 2);
                    norm += want[e] * want[e];
                }
                if (!(sqrt(error / norm) <= target->attention))
                    fail_msg("%s, packed case %u, row %u, head %u: relative L2 %g, need at most %g", target->name,
                             index, r, head, sqrt(error / norm), target->attention);
            }
        free(got);
    }
    op_rig_close(&b->rig);
    free(b);
}

#define RUN_ALL(list, sinks, first)                                                                                    \
    for (uint32_t i = 0; i < sizeof(list) / sizeof(list)[0]; i++) run_case(target, &(list)[i], sinks, (first) + i)
void op_case_packed(const op_target *target)
{
    RUN_ALL(cases, false, 0);
    RUN_ALL(prompts, false, 50);
    RUN_ALL(cases_with_sinks, true, 100);
    RUN_ALL(prompts_with_sinks, true, 150);
}

void op_case_tail(const op_target *target)
{
    for (uint32_t tail = 1; tail <= KVI_KV_PAGE; tail += tail % 16 == 1 ? 1 : tail == 127 ? 1 : 5) {
        const packed_case c = {64, 1, 4, 0, 256 + tail, 1, false, {"f16", "k4v4", "f16"}};
        run_case(target, &c, false, 200 + tail);
    }
}

/* ---------------------------------------------------------------------------------------------------- conversion --- */
/* Rows of every temper: plain noise, channels with an offset, growing tokens, tiny values, constants, zeros, F16's extremes and NaN. */
static void difficult_rows(float *rows, uint32_t d, uint32_t kind)
{
    for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++) {
        const uint32_t t = i / d, c = i % d;
        float x = (float)op_normal();
        if (kind % 8 == 1) x = x * 0.3f + (c % 17 == 3 ? 40.0f : 0.0f);
        if (kind % 8 == 2) x *= (float)(1 + t % 7) * (c % 5 == 0 ? 8.0f : 0.2f);
        if (kind % 8 == 3) x *= 1e-4f;
        if (kind % 8 == 4) x = c % 3 == 0 ? 2.5f : t % 4 == 0 ? -1.0f : x;
        if (kind % 8 == 5) x = t % 2 ? 0.0f : x;
        if (kind % 8 == 6) x = i % 1001 == 0 ? NAN : i % 997 == 0 ? 65504.0f : i % 991 == 0 ? -INFINITY : x;
        if (kind % 8 == 7) x = 0.75f;
        rows[i] = x;
    }
}

static void encode_side(kvi_kv_code code, bool is_v, const float *rows, uint32_t d, const kvi_encode_params *params,
                        const kvi_kv_queries *queries, float *scratch, uint8_t *side)
{
    if (kvi_kv_code_is_plain(code)) store_plain(rows, code, d * KVI_KV_PAGE, side);
    else if (is_v) kvi_kv_encoder_portable.v(code, rows, d, params, queries, scratch, side);
    else kvi_kv_encoder_portable.k(code, rows, d, params, queries, scratch, side);
}

/* One record converted on the host; queries may be NULL. */
static void convert_record(const uint8_t *from, uint32_t from_format, uint8_t *to, uint32_t to_format,
                           const kvi_kv_shape *shape, const kvi_encode_params *params, const kvi_kv_queries *queries)
{
    const uint32_t d_k = shape->head_dim;
    float *rows = malloc(d_k * 512), *keys = malloc(d_k * 512), *scratch = malloc(kvi_kv_encode_scratch(d_k) * 4);
    assert_true(rows && keys && scratch);
    kvi_kv_queries known = queries ? *queries : (kvi_kv_queries){{NULL, NULL}, {0, 0}, NULL};
    known.keys = shape->rope_dim ? NULL : keys;
    kvi_kv_decode_rows(from, KVI_KV_K_CODE(from_format), false, d_k, keys);
    for (int is_v = 0; is_v < 2; is_v++) {
        const kvi_kv_code a = is_v ? KVI_KV_V_CODE(from_format) : KVI_KV_K_CODE(from_format);
        const uint32_t d = is_v ? kvi_kv_v_dim(shape) : d_k;
        const kvi_kv_code b = is_v ? KVI_KV_V_CODE(to_format) : KVI_KV_K_CODE(to_format);
        const uint32_t bytes = is_v ? kvi_kv_v_side(a, d).bytes : kvi_kv_k_side(a, d).bytes;
        if (a == b) memcpy(to, from, bytes);
        else {
            kvi_kv_decode_rows(from, a, is_v, d, rows);
            encode_side(b, is_v, rows, d, params, queries ? &known : NULL, scratch, to);
        }
        from += bytes;
        to += is_v ? 0 : kvi_kv_k_side(b, d_k).bytes;
    }
    free(rows), free(keys), free(scratch);
}

typedef struct convert_case {
    uint32_t d;
    const char *from, *to;
    kvi_encode_params params;
} convert_case;

/* in_place: bit set over the pages. n_queries: of each page and KV head. */
/* rope: width of the V side of latents; 0: d */
static void check_shape(const op_target *target, const convert_case *c, uint32_t rope, uint32_t layers,
                        uint32_t in_place, uint32_t n_queries)
{
    enum { PAGES = 3 };
    const uint32_t n_records = 2 * layers;
    packed_rig *b = calloc(1, sizeof *b);
    kvi_kv_format from = 0, to = 0;
    assert_true(b && kvi_kv_format_parse(c->from, strlen(c->from), &from) &&
                kvi_kv_format_parse(c->to, strlen(c->to), &to));
    op_rig *rig = &b->rig;
    op_rig_open(rig, target);
    rig->group = (kvi_cache_group){.shape = {layers, 2, c->d, rope}, .plain = KVI_KV_F16, .n_queries = n_queries};
    rig->page_codes = 1u << KVI_KV_I8 | 1u << KVI_KV_Q4 | 1u << KVI_KV_Q2;
    kvi_buffer qkv = op_rig_buffer(rig, 6 * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND),
               out = op_rig_buffer(rig, 2 * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    (void)op_rig_input(rig, qkv, 2);
    kvi_op *op = op_rig_op(rig, KVI_OP_ATTENTION, qkv, out);
    op->n_heads = 2;
    op_rig_output(rig, out);
    const uint32_t units = kvi_kv_page_units(KVI_KV_FMT_F32, &rig->group.shape),
                   from_bytes = kvi_kv_shape_record_bytes(from, &rig->group.shape),
                   to_bytes = kvi_kv_shape_record_bytes(to, &rig->group.shape), d_v = kvi_kv_v_dim(&rig->group.shape);
    const uint64_t pool = (uint64_t)2 * PAGES * units * KVI_KV_UNIT;
    if (!op_rig_load(rig, 1, 1, 256, pool)) {
        op_rig_close(rig);
        free(b);
        return;
    }
    uint8_t *bytes = calloc(1, pool), *want = calloc(1, pool), *got = calloc(1, pool);
    float *rows = malloc(c->d * 512), *scratch = malloc(kvi_kv_encode_scratch(c->d) * 4);
    assert_true(bytes && want && got && rows && scratch);
    kvi_page_job jobs[PAGES];
    for (uint64_t p = 0; p < PAGES; p++) /* queries of all pages, before any of them is encoded */
        for (uint64_t i = 0; i < (uint64_t)n_records * n_queries * c->d; i++)
            bytes[p * units * KVI_KV_UNIT + (uint64_t)n_records * from_bytes + i] = (uint8_t)(int8_t)(40 * op_normal());
    for (uint32_t p = 0; p < PAGES; p++) {
        const bool followed = n_queries && p + 1 < PAGES;
        jobs[p] = (kvi_page_job){.from = {p * units, from},
                                 .to = {(in_place >> p & 1 ? p : PAGES + p) * units, to},
                                 .next = {followed ? (p + 1) * units : KVI_KV_NO_EXTENT, from}};
        for (uint32_t i = 0; i < n_records; i++) {
            uint8_t *record = bytes + (uint64_t)p * units * KVI_KV_UNIT + (uint64_t)i * from_bytes;
            difficult_rows(rows, c->d, p * 4 + i);
            encode_side(KVI_KV_K_CODE(from), false, rows, c->d, &c->params, NULL, scratch, record);
            difficult_rows(rows, d_v, p * 4 + i);
            encode_side(KVI_KV_V_CODE(from), true, rows, d_v, &c->params, NULL, scratch,
                        record + kvi_kv_k_side(KVI_KV_K_CODE(from), c->d).bytes);
            /* Behind all records of a page, in their order. */
            const uint64_t at = (uint64_t)n_records * from_bytes + (uint64_t)i * n_queries * c->d;
            int8_t *own = (int8_t *)bytes + (uint64_t)p * units * KVI_KV_UNIT + at;
            const kvi_kv_queries queries = {
                {own, own + (uint64_t)units * KVI_KV_UNIT}, {n_queries, followed ? n_queries : 0}, NULL};
            convert_record(record, from, want + (uint64_t)jobs[p].to.unit * KVI_KV_UNIT + (uint64_t)i * to_bytes, to,
                           &rig->group.shape, &c->params, n_queries ? &queries : NULL);
        }
    }
    kvrt_error error = {.size = sizeof error};
    assert_true(target->backend->pool_write(rig->device, 0, bytes, pool, NULL) >= KVRT_OK);
    if (target->backend->convert_pages(rig->device, jobs, PAGES, &c->params, &error) < KVRT_OK)
        fail_msg("%s: %s", target->name, error.message);
    assert_true(target->backend->pool_read(rig->device, 0, got, pool, NULL) >= KVRT_OK);
    for (uint32_t p = 0; p < PAGES; p++)
        for (uint32_t i = 0; i < n_records * to_bytes; i++) {
            const uint64_t at = (uint64_t)jobs[p].to.unit * KVI_KV_UNIT + i;
            if (got[at] != want[at])
                fail_msg("%s, %s to %s, head_dim %u, varnorm %d, range %d%s: page %u, record %u, byte %u is 0x%02x, "
                         "need 0x%02x",
                         target->name, c->from, c->to, c->d, (int)c->params.varnorm, (int)c->params.range,
                         in_place >> p & 1 ? ", in place" : "", p, i / to_bytes, i % to_bytes, got[at], want[at]);
        }
    free(bytes), free(want), free(got), free(rows), free(scratch);
    op_rig_close(rig);
    free(b);
}

static void check_convert(const op_target *target, const convert_case *c, uint32_t layers, uint32_t in_place,
                          uint32_t n_queries)
{
    check_shape(target, c, 0, layers, in_place, n_queries);
}

void op_case_convert(const op_target *target)
{
    static const convert_case list[] = {
        {64, "f16", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {64, "f16", "k4v2", {KVI_VARNORM_OFF, KVI_RANGE_MINMAX}},
        {64, "f16", "k4v4", {KVI_VARNORM_PAPER, KVI_RANGE_MINMAX}},
        {64, "f16", "i8", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {128, "f16", "k4v2", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {128, "f16", "k4v4", {KVI_VARNORM_PAPER, KVI_RANGE_SEARCH}},
        {256, "f16", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_MINMAX}},
        {64, "k4v4", "f16", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {64, "f16", "k2v2", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {64, "f16", "k4v2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {128, "f16", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {64, "f16", "k4v4", {KVI_VARNORM_PAPER, KVI_RANGE_UNBIASED}},
        {80, "f16", "k4v3", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {112, "f16", "f8", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {192, "f16", "k3v4", {KVI_VARNORM_PAPER, KVI_RANGE_MINMAX}},
        {512, "f16", "k4v2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
    };
    /* Of one layer: an emulated device takes its time for each number's search. */
    static const convert_case trellis[] = {
        {64, "f16", "t2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {80, "f16", "kt3vt2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {272, "f16", "k16vt3", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {64, "t3", "t2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {96, "k8v4", "kt3v2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
    };
    static const convert_case demotions[] = {
        {64, "f16", "i8", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {64, "i8", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {64, "k4v4", "k4v2", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {128, "f16", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
    };
    static const convert_case shaped[] = {
        {64, "f16", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {128, "f16", "k2v2", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {256, "f16", "k3v3", {KVI_VARNORM_OFF, KVI_RANGE_MINMAX}},
        {64, "f16", "i8", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
    };
    static const convert_case shaped_trellis = {48, "f16", "kt2v4", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}};
    static const convert_case latents[] = {
        {64, "f16", "k4v4", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
        {512, "f16", "k4v2", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {96, "f16", "i8", {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH}},
        {48, "f16", "t3", {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED}},
    };
    static const uint32_t ropes[] = {16, 64, 32, 16};
    for (size_t i = 0; i < sizeof latents / sizeof latents[0]; i++) check_shape(target, &latents[i], ropes[i], 1, 5, 0);
    if (target->backend->rounds_by_queries) check_convert(target, &shaped_trellis, 1, 2, 64);
    for (size_t i = 0; i < sizeof trellis / sizeof trellis[0]; i++) check_convert(target, &trellis[i], 1, 5, 0);
    for (size_t i = 0; target->backend->rounds_by_queries && i < sizeof shaped / sizeof shaped[0]; i++) {
        const uint32_t n = kvi_kv_query_rows(shaped[i].d, 2);
        check_convert(target, &shaped[i], 3, 0, n);
        check_convert(target, &shaped[i], 3, 7, n);
        check_convert(target, &shaped[i], 3, 5, n);
    }
    /* More records than are converted at once, with a page beside in between too. */
    static const convert_case many = {64, "f16", "i8", {KVI_VARNORM_OFF, KVI_RANGE_MINMAX}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) check_convert(target, &list[i], 2, 0, 0);
    for (size_t i = 0; i < sizeof demotions / sizeof demotions[0]; i++) check_convert(target, &demotions[i], 2, 7, 0);
    check_convert(target, &demotions[0], 2, 1, 0);
    check_convert(target, &demotions[1], 2, 2, 0);
    check_convert(target, &demotions[2], 2, 6, 0);
    check_convert(target, &many, 22, 7, 0);
    check_convert(target, &many, 33, 5, 0);
}

/* -------------------------------------------------------------------------------------------------------------- moves --- */
/* Down by less and by more than the length, up without overlap, to the pool's ends, nothing at all; bytes beside stay. The second length and
 * way are beyond what a device may keep aside. */
void op_case_move(const op_target *target)
{
    enum { UNITS = 60000 };
    static const struct {
        uint32_t from, to, units;
    } moves[] = {{1, 0, 1},         {1, 0, 7},          {100, 99, 5000},     {5000, 4990, 9},   {5000, 4991, 9},
                 {5000, 4992, 9},   {10, 20, 10},       {0, UNITS - 50, 50}, {UNITS - 1, 0, 1}, {UNITS - 300, 17, 300},
                 {1, 0, UNITS - 1}, {40000, 50, 16000}, {38000, 2, 22000},   {300, 3, 59000},   {7, 7, 100},
                 {UNITS, UNITS, 0}};
    op_rig *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    op_rig_open(rig, target);
    rig->group = (kvi_cache_group){.shape = {2, 2, 64, 0}, .plain = KVI_KV_F16};
    kvi_buffer qkv = op_rig_buffer(rig, 6 * 64, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND),
               out = op_rig_buffer(rig, 2 * 64, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    (void)op_rig_input(rig, qkv, 2);
    op_rig_op(rig, KVI_OP_ATTENTION, qkv, out)->n_heads = 2;
    op_rig_output(rig, out);
    const uint64_t pool = (uint64_t)UNITS * KVI_KV_UNIT;
    if (op_rig_load(rig, 1, 1, 256, pool)) {
        uint32_t *want = malloc(pool), *got = malloc(pool);
        const kvi_backend *backend = target->backend;
        kvrt_error error = {.size = sizeof error};
        assert_true(want && got);
        for (uint64_t i = 0; i < pool / 4; i++) want[i] = (uint32_t)(i * 2654435761u);
        assert_true(backend->pool_write(rig->device, 0, want, pool, NULL) >= KVRT_OK);
        for (size_t i = 0; i < sizeof moves / sizeof moves[0]; i++) {
            if (backend->pool_move(rig->device, moves[i].from, moves[i].to, moves[i].units, &error) < KVRT_OK)
                fail_msg("%s, move %u: %s", target->name, (unsigned)i, error.message);
            memmove((uint8_t *)want + (uint64_t)moves[i].to * KVI_KV_UNIT,
                    (uint8_t *)want + (uint64_t)moves[i].from * KVI_KV_UNIT, (uint64_t)moves[i].units * KVI_KV_UNIT);
            assert_true(backend->pool_read(rig->device, 0, got, pool, NULL) >= KVRT_OK);
            for (uint64_t k = 0; k < pool / 4; k++)
                if (got[k] != want[k])
                    fail_msg("%s, move %u: byte %llu differs", target->name, (unsigned)i, (unsigned long long)k * 4);
        }
        assert_int_equal(backend->pool_move(rig->device, 1, 0, UNITS, NULL), KVRT_INTERNAL); /* beyond the end */
        assert_int_equal(backend->pool_move(rig->device, 0, UNITS - 1, 2, NULL), KVRT_INTERNAL);
        free(want), free(got);
    }
    op_rig_close(rig);
    free(rig);
}
