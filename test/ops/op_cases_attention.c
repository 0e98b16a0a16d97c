/* op_cases_attention.c - ROPE_APPEND and ATTENTION against double-precision formulas. Attention is computed from K and
 * V as the pool holds them, so that the error of a kernel and the rounding of a cache format stay apart. Every byte of
 * the pool that no operation wrote is a NaN pattern: a kernel that looks at a position it must not see shows it. */
#include "op_cases.h"
#include "oracle.h"
#include "runtime/kv/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct attention_case {
    uint32_t dim, n_kv, per_kv, window, start, tokens, chunk, n_seqs;
    kvi_kv_code plain;
    bool rotate, qk_norm;
    uint32_t rope_dims; /* 0: no RoPE */
} attention_case;

/* What single families add. */
typedef struct attention_extra {
    bool interleaved, sinks, gated;
    double softcap;
    bool norm_whole, v_norm, keys_as_values, queries_only;
    double growth;  /* of queries, every 64 positions */
    uint32_t ahead; /* RoPE turns by so much more; the second sequence by twice as much */
} attention_extra;
static const attention_extra no_extra;

#define F32 KVI_KV_F32
#define F16 KVI_KV_F16
#define BF16 KVI_KV_BF16
/* clang-format off */
static const attention_case cases[] = {
    /* dim kv per win start tokens chunk seqs plain rotate qk_norm rope */
    {16, 2, 1, 0, 0, 1, 1, 1, F32, false, false, 16},      {16, 1, 8, 0, 0, 20, 7, 1, F16, true, false, 16},
    {32, 2, 2, 0, 0, 127, 127, 1, F32, false, true, 32},   {32, 1, 4, 0, 0, 128, 128, 1, F16, false, false, 32},
    {32, 1, 4, 0, 0, 129, 129, 1, BF16, true, false, 32},  {64, 1, 4, 0, 120, 20, 1, 1, F16, false, false, 64},
    {64, 1, 3, 0, 100, 60, 8, 1, F32, true, true, 64},     {64, 2, 4, 0, 0, 260, 64, 1, F16, false, false, 64},
    {80, 1, 2, 0, 0, 40, 16, 1, F16, true, false, 80},     {96, 1, 2, 0, 250, 12, 5, 1, F16, true, false, 96},
    {96, 1, 1, 0, 0, 33, 33, 1, F32, false, true, 48},     {128, 1, 4, 0, 126, 5, 1, 1, BF16, true, false, 128},
    {128, 1, 7, 0, 0, 140, 70, 1, F32, true, false, 128},  {192, 1, 2, 0, 127, 10, 3, 1, F16, true, false, 64},
    {256, 1, 2, 0, 0, 30, 30, 1, F32, true, true, 256},    {256, 1, 1, 0, 255, 3, 1, 1, F16, false, false, 128},
    {32, 1, 2, 1, 0, 20, 9, 1, F32, false, false, 32},     {32, 1, 2, 100, 0, 300, 50, 1, F32, false, false, 32},
    {32, 1, 2, 128, 200, 140, 33, 1, F16, true, false, 32}, {32, 2, 2, 129, 380, 6, 1, 1, F16, false, false, 32},
    {64, 1, 1, 100, 131000, 80, 40, 1, F32, false, false, 64}, {64, 1, 4, 0, 0, 10, 4, 1, F16, false, false, 0},
    {32, 1, 2, 0, 0, 1, 1, 2, F16, false, false, 32},      {32, 2, 2, 0, 90, 50, 25, 2, F32, true, false, 32},
    {80, 2, 3, 0, 120, 20, 1, 1, F16, true, true, 80},     {80, 1, 4, 70, 90, 90, 45, 1, BF16, true, false, 32},
    {112, 1, 4, 0, 120, 20, 1, 1, F16, true, false, 112},  {112, 2, 1, 0, 0, 150, 75, 1, F32, true, true, 28},
    {192, 1, 5, 100, 90, 80, 40, 1, F16, true, true, 192}, {96, 1, 17, 0, 125, 9, 2, 1, F16, true, false, 72},
    {512, 1, 3, 0, 126, 4, 1, 1, F16, true, true, 512},    {512, 1, 2, 0, 0, 40, 40, 1, F32, true, true, 128},
    {512, 2, 1, 40, 100, 24, 12, 1, BF16, false, false, 512}, {512, 1, 1, 0, 126, 40, 36, 1, F16, true, true, 512},
};
/* What single families add, each alone and together, short and in several splits, decode and prefill. */
static const struct {
    attention_case c;
    attention_extra extra;
} special_cases[] = {
    {{32, 1, 4, 0, 100, 60, 8, 1, F16, true, false, 32}, {.softcap = 1.5}},
    {{64, 2, 2, 0, 0, 200, 100, 1, F16, true, false, 64}, {.softcap = 0.5}},
    {{64, 1, 8, 128, 130, 40, 4, 1, F32, false, false, 64}, {.sinks = true}},
    {{64, 2, 2, 0, 0, 150, 75, 1, F16, true, false, 64}, {.sinks = true}},
    {{16, 1, 2, 0, 4500, 5, 1, 1, F16, true, false, 16}, {.sinks = true}},
    {{64, 1, 2, 0, 60, 30, 1, 1, F16, true, true, 16}, {.gated = true}},
    {{64, 1, 2, 0, 0, 140, 140, 1, F32, true, true, 16}, {.gated = true}},
    {{64, 2, 1, 0, 20, 40, 20, 1, F32, false, false, 64}, {.interleaved = true}},
    {{64, 2, 2, 0, 100, 50, 25, 1, F16, true, false, 64}, {.interleaved = true}},
    {{128, 1, 2, 0, 70, 40, 1, 1, F16, true, true, 32}, {.interleaved = true}},
    {{32, 1, 2, 40, 90, 60, 6, 2, F32, true, true, 16}, {.interleaved = true, .sinks = true, .gated = true, .softcap = 2}},
    {{80, 1, 4, 60, 100, 60, 8, 1, F16, true, false, 80}, {.sinks = true, .softcap = 1.5}},
    {{96, 2, 2, 0, 0, 140, 70, 1, F16, true, false, 96}, {.sinks = true, .softcap = 1}},
    {{112, 1, 2, 0, 4200, 3, 1, 1, F16, true, false, 112}, {.sinks = true, .softcap = 1.5}},
    {{192, 1, 3, 0, 120, 40, 20, 1, F32, true, true, 64}, {.sinks = true, .gated = true, .softcap = 0.5}},
    {{256, 1, 2, 100, 90, 60, 30, 1, F16, true, true, 256}, {.sinks = true, .softcap = 3}},
    {{512, 1, 2, 0, 120, 12, 1, 1, F16, true, true, 512}, {.sinks = true, .softcap = 3}},
    {{512, 1, 2, 0, 100, 60, 30, 1, F32, true, false, 512}, {.sinks = true, .gated = true, .softcap = 1}},
    {{48, 2, 3, 0, 60, 20, 1, 1, F16, true, true, 48}, {.norm_whole = true}},
    {{64, 2, 4, 0, 100, 80, 40, 1, F16, true, true, 64}, {.sinks = true, .gated = true, .softcap = 1}},
    {{128, 1, 4, 100, 130, 20, 4, 1, F16, true, true, 64}, {.gated = true, .softcap = 2}},
    {{64, 2, 3, 0, 60, 80, 40, 1, F16, true, true, 64}, {.norm_whole = true}},
    {{128, 2, 2, 70, 60, 45, 9, 1, F16, true, true, 128}, {.queries_only = true, .v_norm = true}},
    {{64, 2, 2, 0, 200, 40, 8, 1, F16, true, true, 32}, {.queries_only = true, .norm_whole = true, .growth = 0.5}},
    {{32, 3, 1, 50, 0, 140, 35, 2, F32, false, true, 32}, {.norm_whole = true, .growth = 0.5}},
    {{32, 1, 2, 0, 60, 20, 5, 1, F32, true, true, 32}, {.v_norm = true}},
    {{64, 2, 2, 0, 100, 40, 20, 1, F16, true, true, 64}, {.v_norm = true, .keys_as_values = true}},
    {{32, 2, 1, 0, 0, 20, 1, 1, F32, true, true, 32}, {.keys_as_values = true}},
    {{32, 2, 2, 70, 60, 90, 9, 1, F16, true, true, 16}, {.queries_only = true, .v_norm = true}},
    {{64, 1, 3, 0, 0, 80, 1, 1, F32, true, true, 64}, {.queries_only = true, .growth = 0.1}},
    {{32, 2, 2, 0, 0, 80, 40, 1, F32, true, true, 32}, {.queries_only = true, .norm_whole = true}},
    {{32, 1, 2, 0, 50, 100, 11, 1, F32, true, false, 32}, {.growth = 0.7}},
    {{64, 1, 2, 0, 130000, 140, 70, 1, F16, true, false, 64}, {.growth = 0.1}},
    {{64, 1, 4, 0, 100, 60, 1, 1, F16, true, false, 64}, {.ahead = 1000}},
    {{64, 2, 2, 0, 0, 140, 70, 2, F16, true, true, 64}, {.ahead = 65539}},
    {{128, 1, 4, 0, 120, 20, 4, 2, F16, true, false, 128}, {.ahead = 1}},
    {{32, 1, 2, 100, 120, 40, 20, 2, F32, true, true, 16}, {.ahead = 1000000, .growth = 0.3, .interleaved = true}},
};
static const attention_case long_cases[] = {
    {16, 1, 2, 0, 4090, 10, 1, 1, F16, false, false, 16},   {16, 1, 4, 0, 8300, 3, 3, 1, F32, true, false, 16},
    {16, 2, 1, 5000, 12500, 2, 1, 1, F16, false, false, 16}, {32, 1, 1, 0, 4300, 30, 30, 1, F16, false, false, 32},
};
/* clang-format on */
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* -------------------------------------------------------------------------------------------------------- setup --- */
typedef struct attention_rig {
    op_rig rig;
    attention_case c;
    attention_extra extra;
    uint32_t n_heads, cols, n_pages, first_page;       /* pages below first_page are outside every window */
    op_matrix in, shared, q_gain, k_gain, sinks, gate; /* shared: queries of a layer that has no keys of its own */
    double *inv_freq;
    kvi_page_ref *pages[2];
    kvi_op *attention;
    double *kv[2]; /* (n_kv, 2, positions from first_page * 128, dim) as stored */
} attention_rig;

static uint32_t format_of(const attention_case *c) { return KVI_KV_FORMAT(c->plain, c->plain); }

static void name_case(const attention_case *c, const char *what, char text[200])
{
    snprintf(
        text, 200,
        "%s (dim %u, %u x %u heads, window %u, %u + %u tokens by %u, %u seqs, code %d, rotate %d, norm %d, rope %u)",
        what, c->dim, c->n_kv, c->per_kv, c->window, c->start, c->tokens, c->chunk, c->n_seqs, (int)c->plain, c->rotate,
        c->qk_norm, c->rope_dims);
}

/* Extents in descending order, so that nothing depends on pages being neighbours. */
static uint64_t place_pages(attention_rig *a)
{
    const attention_case *c = &a->c;
    const uint32_t units =
        (uint32_t)((kvi_group_page_bytes(&a->rig.group, (kvi_kv_format)format_of(c)) + KVI_KV_UNIT - 1) / KVI_KV_UNIT);
    a->n_pages = (c->start + c->tokens + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    a->first_page = c->window && c->start + 1 > c->window ? (c->start + 1 - c->window) / KVI_KV_PAGE : 0;
    uint32_t unit = units * c->n_seqs * (a->n_pages - a->first_page);
    const uint64_t pool = (uint64_t)unit * KVI_KV_UNIT;
    for (uint32_t s = 0; s < c->n_seqs; s++) {
        a->pages[s] = op_rig_memory(&a->rig, a->n_pages * sizeof *a->pages[s]);
        for (uint32_t p = 0; p < a->n_pages; p++) {
            bool gone = p < a->first_page;
            if (!gone) unit -= units;
            a->pages[s][p] = (kvi_page_ref){gone ? KVI_KV_NO_EXTENT : unit, format_of(c)};
        }
    }
    return pool;
}

static bool open_case(attention_rig *a, const op_target *target, const attention_case *c, const attention_extra *extra,
                      bool attend)
{
    memset(a, 0, sizeof *a);
    a->c = *c;
    a->extra = *extra;
    a->n_heads = c->n_kv * c->per_kv;
    a->cols = (a->n_heads + 2 * c->n_kv) * c->dim;
    op_rig *rig = &a->rig;
    op_rig_open(rig, target);
    rig->group = (kvi_cache_group){
        .shape = {2, c->n_kv, c->dim, 0}, .window = c->window, .rotate = c->rotate, .plain = c->plain};
    if (target->backend->rounds_by_queries) rig->group.n_queries = kvi_kv_query_rows(c->dim, c->per_kv);
    kvi_buffer qkv = op_rig_buffer(rig, a->cols, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    a->in = op_rig_input(rig, qkv, c->tokens * c->n_seqs);
    kvi_buffer gate = qkv;
    if (a->extra.gated) {
        gate = op_rig_buffer(rig, a->n_heads * c->dim, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        a->gate = op_rig_input(rig, gate, c->tokens * c->n_seqs);
    }
    kvi_op *op = op_rig_op(rig, KVI_OP_ROPE_APPEND, qkv, qkv);
    op->n_heads = a->n_heads;
    op->group_layer = 1;
    op->norm_whole = extra->norm_whole;
    op->keys_as_values = extra->keys_as_values;
    op->q_growth = (float)extra->growth;
    op->q_growth_ctx = 64;
    if (extra->v_norm) op->v_norm = (kvi_norm){KVI_NORM_BARE, NULL, 1e-5f};
    if (c->qk_norm) {
        const uint32_t times_q = extra->norm_whole ? a->n_heads : 1, times_k = extra->norm_whole ? c->n_kv : 1;
        a->q_gain = op_rig_matrix(rig, 1, c->dim * times_q, KVI_F32, 1, 0.3, 0);
        a->k_gain = op_rig_matrix(rig, 1, c->dim * times_k, KVI_F32, 1, 0.3, 0);
        op->q_norm = (kvi_norm){KVI_NORM_GAIN, a->q_gain.weight, 1e-5f};
        op->k_norm = (kvi_norm){KVI_NORM_GAIN, a->k_gain.weight, 1e-5f};
    }
    if (c->rope_dims) {
        a->inv_freq = op_rig_memory(rig, c->rope_dims / 2 * sizeof(double));
        for (uint32_t i = 0; i < c->rope_dims / 2; i++) a->inv_freq[i] = pow(10000, -2.0 * i / c->rope_dims);
        /* A second set behind a first one that nobody uses. */
        rig->ropes[0] = (kvi_rope){.n_dims = 2, .inv_freq = a->inv_freq, .magnitude = 3.0f};
        rig->ropes[1] = (kvi_rope){.n_dims = c->rope_dims,
                                   .interleaved = a->extra.interleaved,
                                   .inv_freq = a->inv_freq,
                                   .magnitude = c->dim == 96 ? 1.25f : 1.0f};
        rig->program.n_ropes = 2;
        op->rope = &rig->ropes[1];
    }
    kvi_buffer out = qkv;
    if (extra->queries_only) {
        out = op_rig_buffer(rig, a->n_heads * c->dim, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
        a->shared = op_rig_input(rig, out, c->tokens * c->n_seqs);
        kvi_op *second = op_rig_op(rig, KVI_OP_ROPE_APPEND, out, out);
        *second = *op;
        second->in = second->out = out;
        second->queries_only = true;
    }
    const kvi_buffer queries = out;
    if (attend) {
        out = op_rig_buffer(rig, a->n_heads * c->dim, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
        op = a->attention = op_rig_op(rig, KVI_OP_ATTENTION, queries, out);
        op->n_heads = a->n_heads;
        op->group_layer = 1;
        op->scale = (float)(1 / sqrt(c->dim));
        op->softcap = (float)a->extra.softcap;
        if (a->extra.sinks) {
            a->sinks = op_rig_matrix(rig, 1, a->n_heads, KVI_F32, 1, 2, 0);
            op->sinks = a->sinks.weight;
        }
        if (a->extra.gated) op->gated = true, op->gate = gate;
    }
    op_rig_output(rig, out);
    const uint64_t pool = place_pages(a);
    return op_rig_load(rig, c->chunk * c->n_seqs, c->n_seqs, c->start + c->tokens, pool);
}

/* Byte offset of one row of K (side 0) or V (side 1) in the pool. */
static uint64_t row_at(const attention_rig *a, uint32_t s, uint32_t kv_head, uint32_t side, uint32_t pos)
{
    const uint64_t row = (uint64_t)a->c.dim * kvi_kv_code_bits(a->c.plain) / 8;
    return (uint64_t)a->pages[s][pos / KVI_KV_PAGE].unit * KVI_KV_UNIT +
           kvi_kv_record_off(format_of(&a->c), &a->rig.group.shape, 1, kv_head) +
           (side * KVI_KV_PAGE + pos % KVI_KV_PAGE) * row;
}

/* NaN everywhere, then random rows for the positions before `start`. */
static void fill_pool(attention_rig *a)
{
    const kvi_backend *backend = a->rig.target->backend;
    const attention_case *c = &a->c;
    unsigned char *bytes = malloc((size_t)a->rig.limits.pool_bytes), row[KVI_KV_MAX_HEAD_DIM * 4];
    assert_non_null(bytes);
    memset(bytes, 0xff, (size_t)a->rig.limits.pool_bytes);
    op_seed = 99; /* the first sequence is the same whether or not there is a second */
    for (uint32_t s = 0; s < c->n_seqs; s++)
        for (uint32_t pos = a->first_page * KVI_KV_PAGE; pos < c->start; pos++)
            for (uint32_t i = 0; i < 2 * c->n_kv; i++) {
                for (uint32_t k = 0; k < c->dim; k++) {
                    float value = (float)op_normal();
                    uint16_t h = c->plain == KVI_KV_F16 ? kvi_f32_to_f16(value) : kvi_f32_to_bf16(value);
                    if (c->plain == KVI_KV_F32) memcpy(row + 4 * k, &value, 4);
                    else memcpy(row + 2 * k, &h, 2);
                }
                memcpy(bytes + row_at(a, s, i / 2, i % 2, pos), row, (size_t)c->dim * kvi_kv_code_bits(c->plain) / 8);
            }
    assert_true(backend->pool_write(a->rig.device, 0, bytes, a->rig.limits.pool_bytes, NULL) >= KVRT_OK);
    free(bytes);
}

/* Runs all tokens of all sequences; out (n_seqs * tokens, logits). */
static void run_case(attention_rig *a, float *out)
{
    const attention_case *c = &a->c;
    const uint32_t vocab = a->rig.program.vocab_size, most = c->chunk * c->n_seqs;
    float *rows = calloc((size_t)most * vocab, sizeof *rows);
    int32_t *ids = calloc(most, sizeof *ids);
    assert_true(rows && ids);
    for (uint32_t done = 0; done < c->tokens; done += c->chunk) {
        const uint32_t n = c->tokens - done < c->chunk ? c->tokens - done : c->chunk;
        const kvi_page_ref *tables[2] = {a->pages[0], a->pages[1]};
        kvi_seq seqs[2];
        for (uint32_t s = 0; s < c->n_seqs; s++) {
            seqs[s] = (kvi_seq){.first_row = s * n,
                                .n_rows = n,
                                .pos = c->start + done,
                                .ahead = a->extra.ahead * (s + 1),
                                .pages = &tables[s]};
            for (uint32_t i = 0; i < n; i++) ids[s * n + i] = (int32_t)(s * c->tokens + done + i);
        }
        op_rig_step(&a->rig, &(kvi_step){.ids = ids, .n_rows = n * c->n_seqs, .seqs = seqs, .n_seqs = c->n_seqs},
                    done % 2, rows);
        for (uint32_t s = 0; s < c->n_seqs; s++)
            memcpy(out + ((size_t)s * c->tokens + done) * vocab, rows + (size_t)s * n * vocab,
                   (size_t)n * vocab * sizeof *rows);
    }
    free(rows);
    free(ids);
}

/* ----------------------------------------------------------------------------------------------------- formulas --- */
/* Head `head` (counted over q | k | v) of input row `id` at `pos`, as ROPE_APPEND defines it. */
static void head_at(const attention_rig *a, uint32_t id, uint32_t head, uint32_t pos, double *h)
{
    const uint32_t ahead = a->extra.ahead * (1 + id / a->c.tokens);
    const attention_case *c = &a->c;
    const bool is_v = head >= a->n_heads + c->n_kv, is_q = head < a->n_heads;
    const op_matrix *in = is_q && a->extra.queries_only ? &a->shared : &a->in;
    const uint32_t first_of_kind = is_q ? 0 : is_v ? a->n_heads + c->n_kv : a->n_heads;
    const uint32_t from = is_v && a->extra.keys_as_values ? head - c->n_kv : head;
    const double *row = in->values + (size_t)id * in->n_in, *gain = is_q ? a->q_gain.values : a->k_gain.values;
    memcpy(h, row + (size_t)from * c->dim, c->dim * sizeof *h);
    if (is_v && a->extra.v_norm) oracle_rmsnorm(h, NULL, (double)1e-5f, c->dim, h);
    if (!is_v && gain && !a->extra.norm_whole) oracle_rmsnorm(h, gain, (double)1e-5f, c->dim, h);
    if (!is_v && gain && a->extra.norm_whole) {
        const uint32_t n = (is_q ? a->n_heads : c->n_kv) * c->dim, at = (head - first_of_kind) * c->dim;
        double *whole = malloc(n * sizeof *whole);
        assert_non_null(whole);
        oracle_rmsnorm(row + (size_t)first_of_kind * c->dim, gain, (double)1e-5f, n, whole);
        memcpy(h, whole + at, c->dim * sizeof *h);
        free(whole);
    }
    const uint32_t half = c->rope_dims / 2;
    for (uint32_t i = 0; !is_v && i < half; i++) {
        const uint32_t first = a->extra.interleaved ? 2 * i : i, second = a->extra.interleaved ? 2 * i + 1 : i + half;
        double angle = a->inv_freq[i] * (pos + ahead), x = h[first], y = h[second],
               magnitude = (double)a->rig.ropes[1].magnitude;
        h[first] = magnitude * (x * cos(angle) - y * sin(angle));
        h[second] = magnitude * (y * cos(angle) + x * sin(angle));
    }
    for (uint32_t i = 0; is_q && i < c->dim; i++)
        h[i] *= 1 + (double)(float)a->extra.growth * log(1 + floor((double)pos / 64));
    if (c->rotate) oracle_rotate(h, c->dim);
}

/* Everything the sequence has in the pool, as double; largest |v| in the return value. */
static double read_pool(attention_rig *a)
{
    const attention_case *c = &a->c;
    const uint32_t base = a->first_page * KVI_KV_PAGE, n = c->start + c->tokens - base;
    unsigned char *bytes = malloc((size_t)a->rig.limits.pool_bytes);
    double largest = 0;
    assert_non_null(bytes);
    assert_true(a->rig.target->backend->pool_read(a->rig.device, 0, bytes, a->rig.limits.pool_bytes, NULL) >= KVRT_OK);
    for (uint32_t s = 0; s < c->n_seqs; s++) {
        double *to = a->kv[s] = op_rig_memory(&a->rig, (size_t)c->n_kv * 2 * n * c->dim * sizeof *to);
        for (uint32_t i = 0; i < 2 * c->n_kv; i++)
            for (uint32_t pos = base; pos < base + n; pos++)
                for (uint32_t k = 0; k < c->dim; k++, to++) {
                    const unsigned char *at = bytes + row_at(a, s, i / 2, i % 2, pos);
                    float f;
                    uint16_t u;
                    memcpy(&f, at + 4 * (c->plain == KVI_KV_F32 ? k : 0), 4);
                    memcpy(&u, at + 2 * (size_t)k, 2);
                    *to = c->plain == KVI_KV_F32 ? f : c->plain == KVI_KV_F16 ? kvi_f16_to_f32(u) : kvi_bf16_to_f32(u);
                    if (i % 2 && fabs(*to) > largest) largest = fabs(*to);
                }
    }
    free(bytes);
    return largest;
}

static void attend(const attention_rig *a, uint32_t s, uint32_t head, uint32_t pos, const double *q, double *out)
{
    const attention_case *c = &a->c;
    const uint32_t base = a->first_page * KVI_KV_PAGE, n = c->start + c->tokens - base;
    const double *k = a->kv[s] + (size_t)(head / c->per_kv) * 2 * n * c->dim, *v = k + (size_t)n * c->dim;
    const uint32_t first = c->window && pos + 1 > c->window ? pos + 1 - c->window : base;
    oracle_attention(k, v, c->dim, first - base, pos - base, q, (double)a->attention->scale, a->extra.softcap,
                     a->extra.sinks ? a->sinks.values[head] : -INFINITY, out);
    if (c->rotate) oracle_rotate(out, c->dim);
}

/* ------------------------------------------------------------------------------------------------------- checks --- */
static double norm_of(const double *h, uint32_t n)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += h[i] * h[i];
    return sqrt(squares);
}

/* What the page keeps of the queries of a position: directions, 127 for the largest number. */
static void check_queries(const attention_rig *a, uint32_t s, uint32_t t)
{
    const attention_case *c = &a->c;
    const uint32_t pos = c->start + t, at = pos % KVI_KV_PAGE, n = a->rig.group.n_queries;
    const double rotary = a->rig.target->rotary;
    char text[200];
    int8_t row[KVI_KV_MAX_HEAD_DIM];
    double h[KVI_KV_MAX_HEAD_DIM];
    name_case(c, "rope_append, queries", text);
    for (uint32_t kv = 0; kv < c->n_kv; kv++)
        for (uint32_t r = 0; r < n; r++) {
            /* Every second position, every one, or two rows of every one. */
            if (n < KVI_KV_PAGE ? 2 * r + 1 != at : r / (n / KVI_KV_PAGE) != at) continue;
            const uint64_t from = (uint64_t)a->pages[s][pos / KVI_KV_PAGE].unit * KVI_KV_UNIT +
                                  kvi_kv_page_bytes(format_of(c), &a->rig.group.shape) +
                                  ((uint64_t)(c->n_kv + kv) * n + r) * c->dim; /* layer 1 of 2 */
            double top = 0;
            assert_true(a->rig.target->backend->pool_read(a->rig.device, from, row, c->dim, NULL) >= KVRT_OK);
            head_at(a, s * c->tokens + t, kv * c->per_kv + r % c->per_kv, pos, h);
            for (uint32_t i = 0; i < c->dim; i++) top = fmax(top, fabs(h[i]));
            for (uint32_t i = 0; i < c->dim; i++)
                op_check(a->rig.target, text, t, i, row[i], h[i] / top * 127,
                         0.5 + 1e-4 + 2 * 127 * rotary * norm_of(h, c->dim) / top);
        }
}

static void check_append(const attention_rig *a, const float *out)
{
    const attention_case *c = &a->c;
    const op_target *target = a->rig.target;
    const double ulp = c->plain == KVI_KV_F32 ? 0 : c->plain == KVI_KV_F16 ? 1.0 / 2048 : 1.0 / 256;
    const uint32_t n = c->start + c->tokens - a->first_page * KVI_KV_PAGE, vocab = a->rig.program.vocab_size;
    char text[200];
    double h[KVI_KV_MAX_HEAD_DIM];
    name_case(c, "rope_append", text);
    for (uint32_t s = 0; s < c->n_seqs; s++)
        for (uint32_t t = 0; t < c->tokens; t++) {
            /* With queries_only, the page keeps those of the layer that appended. */
            if (a->rig.group.n_queries && !a->extra.queries_only) check_queries(a, s, t);
            for (uint32_t head = 0; head < a->n_heads + 2 * c->n_kv; head++) {
                const uint32_t pos = c->start + t, kv = head - a->n_heads, side = kv / c->n_kv,
                               at = pos - a->first_page * KVI_KV_PAGE;
                head_at(a, s * c->tokens + t, head, pos, h);
                const double rotary = target->rotary * norm_of(h, c->dim);
                const double *stored = a->kv[s] + ((size_t)(kv % c->n_kv * 2 + side) * n + at) * c->dim;
                for (uint32_t i = 0; i < c->dim; i++)
                    if (head < a->n_heads)
                        op_check(target, text, t, head * c->dim + i,
                                 (double)out[((size_t)s * c->tokens + t) * vocab + head * c->dim + i], h[i], rotary);
                    else
                        op_check(target, text, t, head * c->dim + i, stored[i], h[i], rotary + ulp * fabs(h[i]) + 6e-8);
            }
        }
}

static void check_attention(const attention_rig *a, const float *out, double largest)
{
    const attention_case *c = &a->c;
    char text[200];
    double q[KVI_KV_MAX_HEAD_DIM], want[KVI_KV_MAX_HEAD_DIM];
    name_case(c, "attention", text);
    for (uint32_t s = 0; s < c->n_seqs; s++)
        for (uint32_t t = 0; t < c->tokens; t++)
            for (uint32_t head = 0; head < a->n_heads; head++) {
                const uint32_t id = s * c->tokens + t;
                head_at(a, id, head, c->start + t, q);
                attend(a, s, head, c->start + t, q, want);
                for (uint32_t i = 0; a->extra.gated && i < c->dim; i++)
                    want[i] /= 1 + exp(-a->gate.values[((size_t)id * a->n_heads + head) * c->dim + i]);
                for (uint32_t i = 0; i < c->dim; i++)
                    op_check(a->rig.target, text, t, head * c->dim + i,
                             (double)out[(((size_t)s * c->tokens + t) * a->n_heads + head) * c->dim + i], want[i],
                             a->rig.target->attention * largest);
            }
}

static float *run_plain(const op_target *target, const attention_case *c, const attention_extra *extra, bool attend_too,
                        bool check, size_t *n_out)
{
    attention_rig *a = calloc(1, sizeof *a);
    assert_non_null(a);
    float *out = NULL;
    if (open_case(a, target, c, extra, attend_too)) {
        *n_out = (size_t)c->n_seqs * c->tokens * a->rig.program.vocab_size;
        out = calloc(*n_out, sizeof *out);
        assert_non_null(out);
        fill_pool(a);
        run_case(a, out);
        double largest = read_pool(a);
        if (check && attend_too) check_attention(a, out, largest);
        else if (check) check_append(a, out);
    }
    op_rig_close(&a->rig);
    free(a);
    return out;
}

/* A device without f32 pages gets the same case with f16. */
static float *run_on(const op_target *target, const attention_case *c, const attention_extra *extra, bool attend_too,
                     bool check, size_t *n_out)
{
    const uint64_t seed = op_seed;
    float *out = run_plain(target, c, extra, attend_too, check, n_out);
    attention_case half = *c;
    if (out || c->plain != F32) return out;
    half.plain = F16;
    op_seed = seed;
    return run_plain(target, &half, extra, attend_too, check, n_out);
}

static void check_all(const op_target *target, const attention_case *list, size_t n, bool attend_too)
{
    size_t n_out;
    for (size_t i = 0; i < n; i++) free(run_on(target, &list[i], &no_extra, attend_too, true, &n_out));
}

void op_case_rope_append(const op_target *target)
{
    size_t n_out;
    check_all(target, cases, COUNT(cases), false);
    for (size_t i = 0; i < COUNT(special_cases); i++)
        free(run_on(target, &special_cases[i].c, &special_cases[i].extra, false, true, &n_out));
}
void op_case_attention_special(const op_target *target)
{
    size_t n_out;
    for (size_t i = 0; i < COUNT(special_cases); i++)
        free(run_on(target, &special_cases[i].c, &special_cases[i].extra, true, true, &n_out));
}
void op_case_attention(const op_target *target) { check_all(target, cases, COUNT(cases), true); }
void op_case_long_context(const op_target *target) { check_all(target, long_cases, COUNT(long_cases), true); }

void op_case_attention_bits(const op_target *a, const op_target *b)
{
    for (size_t i = 0; i < COUNT(cases) + COUNT(long_cases); i++) {
        const attention_case *c = i < COUNT(cases) ? &cases[i] : &long_cases[i - COUNT(cases)];
        size_t n_a = 0, n_b = 0;
        op_seed = i + 1;
        float *first = run_on(a, c, &no_extra, true, false, &n_a);
        op_seed = i + 1;
        float *second = run_on(b, c, &no_extra, true, false, &n_b);
        assert_int_equal(n_a, n_b);
        if (first && second) assert_memory_equal(first, second, n_a * sizeof *first);
        free(first);
        free(second);
    }
}

/* Two sequences in one step: the first has the bits that it has alone, as long as both steps are on the same side of
 * the small-step limit. */
void op_case_batch(const op_target *target)
{
    static const attention_case together[] = {{32, 2, 2, 0, 120, 20, 1, 2, F16, true, false, 32},
                                              {64, 1, 4, 0, 4200, 2, 1, 2, F16, false, false, 64},
                                              {32, 1, 2, 0, 0, 300, 50, 2, F32, false, false, 32}};
    for (size_t i = 0; i < COUNT(together); i++) {
        size_t n_both = 0, n_one = 0;
        attention_case alone = together[i];
        alone.n_seqs = 1;
        op_seed = 3;
        float *both = run_on(target, &together[i], &no_extra, true, true, &n_both);
        op_seed = 3; /* the input table of one is the first half of the table of both */
        float *one = run_on(target, &alone, &no_extra, true, true, &n_one);
        if (both && one) assert_memory_equal(both, one, n_one * sizeof *one);
        free(both);
        free(one);
    }
}
