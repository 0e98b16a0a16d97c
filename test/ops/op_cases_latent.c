/* op_cases_latent.c - LATENT_APPEND and ATTENTION_LATENT against their formulas in double precision. What is appended is compared with the
 * formula; attention is computed from latents and roped keys as the pool holds them, plain and quantized, with keys and values of every head
 * expanded as the contract says, which a kernel that absorbs the matrices never does. */
#include "op_cases.h"
#include "op_forms.h"
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

#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))
#define MOST_PAGES 40u

typedef struct latent_case {
    uint32_t rank, rope, key, value, heads, start, tokens, chunk, n_seqs;
    bool rotate, halves;
    kvi_dtype weights;
    const char *formats[4]; /* of pages 0, 1, ...; the last one, which is plain, repeats */
    bool split;             /* W_K^T and W_V are weights of their own */
} latent_case;

/* clang-format off */
static const latent_case cases[] = {
    /* rank rope key value heads start tokens chunk seqs rotate halves weights formats */
    {16, 8, 8, 16, 1, 0, 1, 1, 1, false, false, KVI_F32, {"f32"}, false},
    {32, 8, 16, 24, 4, 0, 17, 7, 1, true, false, KVI_F32, {"f16"}, false},
    {32, 16, 16, 8, 3, 0, 131, 131, 1, false, true, KVI_BF16, {"f16"}, false},
    {40, 8, 12, 20, 5, 120, 20, 1, 1, false, false, KVI_F16, {"bf16"}, false},
    {64, 16, 24, 40, 9, 100, 60, 8, 1, true, false, KVI_F32, {"f32"}, false},
    {64, 32, 16, 16, 17, 250, 12, 5, 2, true, false, KVI_BF16, {"f16"}, false},
    {48, 16, 33, 35, 2, 126, 270, 135, 1, true, true, KVI_F32, {"f32"}, false},
    {96, 16, 16, 16, 2, 0, 257, 129, 2, true, false, KVI_F32, {"f16"}, false},
    {64, 16, 16, 16, 8, 4200, 3, 1, 1, false, false, KVI_F32, {"f16"}, false},  /* runs of pages are merged */
    {512, 64, 16, 16, 2, 130, 9, 9, 1, true, false, KVI_F32, {"f16"}, false},
    {512, 64, 128, 128, 2, 130, 2, 1, 1, true, false, KVI_BF16, {"f16"}, false},
    {64, 16, 16, 24, 4, 384, 10, 1, 1, true, false, KVI_F32, {"f16", "i8", "k4v4", "f16"}, false},
    {64, 16, 16, 24, 4, 390, 30, 30, 1, true, false, KVI_F32, {"k4v8", "f8", "k8v4", "f16"}, false},
    {512, 64, 32, 16, 2, 300, 12, 12, 1, true, false, KVI_F32, {"i8", "k4v4", "f16"}, false},
    {96, 48, 16, 24, 3, 390, 8, 4, 1, true, false, KVI_F32, {"k3v2", "k2v3", "t3", "f16"}, false},
    {80, 16, 16, 24, 5, 500, 9, 9, 2, true, false, KVI_F32, {"t2", "bf16", "k4v2", "f16"}, false},
    {512, 64, 32, 16, 2, 600, 3, 1, 1, true, false, KVI_BF16, {"k4v4", "t3", "t2", "f16"}, false},
    {128, 32, 32, 16, 4, 256, 33, 33, 1, true, false, KVI_BF16, {"f8", "i8", "bf16"}, false},
};
/* clang-format on */

/* The same with W_K and W_V in forms that have no rows of plain numbers: panels, with heads that begin and end inside one. */
typedef struct quantized_case {
    latent_case c;
    op_form form;
} quantized_case;
/* clang-format off */
static const quantized_case quantized[] = {
    {{32, 16, 16, 16, 3, 0, 5, 1, 1, true, false, KVI_F32, {"f32"}, false}, {KVI_FORM_I4, .group = 32, .scale_type = KVI_F16}},
    {{512, 64, 48, 32, 2, 126, 9, 3, 1, true, false, KVI_F32, {"f16"}, false}, {KVI_FORM_I4, .group = 128, .scale_type = KVI_BF16, .zeros = true}},
    {{256, 16, 33, 20, 3, 100, 40, 40, 1, true, false, KVI_F32, {"f16"}, false}, {KVI_FORM_I8, .group = 64, .scale_type = KVI_F32}},
    {{256, 16, 20, 18, 3, 100, 6, 3, 1, true, false, KVI_F32, {"f16"}, false}, {KVI_FORM_I4, .group = 32, .scale_type = KVI_F16, .zeros = true, .scattered = true}},
    {{256, 16, 20, 18, 3, 0, 30, 30, 1, true, false, KVI_F32, {"f16"}, false}, {KVI_FORM_I4, .group = 32, .scale_type = KVI_F16, .zeros = true, .scattered = true}},
    {{288, 32, 24, 40, 5, 0, 140, 140, 1, false, true, KVI_F32, {"f16"}, false}, {KVI_FORM_Q8_0, .misalign = 1}},
    {{512, 16, 20, 17, 3, 250, 6, 2, 2, true, false, KVI_F32, {"f16"}, false}, {KVI_FORM_Q4_1, .misalign = 1}},
    {{96, 16, 65, 63, 2, 0, 20, 20, 2, true, false, KVI_F32, {"f32"}, false}, {KVI_FORM_F8_E4M3, .scale_type = KVI_F32}},
    {{96, 16, 65, 63, 2, 0, 7, 7, 1, true, false, KVI_F32, {"f32"}, false}, {KVI_FORM_F8_E4M3, .scale_type = KVI_F32}},
};
/* clang-format on */

typedef struct latent_rig {
    op_rig rig;
    latent_case c;
    uint32_t width, own, n_pages;                /* rank + rope, key + rope */
    op_matrix kv, q, gain, w, k_columns, v_rows; /* w, or with `split` the last two */
    double inv_freq[64];
    kvi_page_ref *pages[2];
    double *c_stored[2], *k_stored[2]; /* (positions, rank), (positions, rope), not rotated */
} latent_rig;

static kvi_kv_format format_of(const latent_case *c, uint32_t page)
{
    kvi_kv_format f = 0;
    const char *name = NULL;
    for (uint32_t i = 0; i <= page && i < 4 && c->formats[i]; i++) name = c->formats[i];
    assert_true(kvi_kv_format_parse(name, strlen(name), &f));
    return f;
}

static bool is_wide(const latent_case *c) { return c->chunk * c->n_seqs > KVI_DECODE_ROWS; }

/* Cases that begin at 2 mod 4 are of sequences that have dropped pages. */
static uint32_t ahead(const latent_case *c, uint32_t s) { return c->start % 4 == 2 ? 1280 * (s + 1) : 0; }

static void name_case(const latent_case *c, char text[160])
{
    snprintf(text, 160, "latent (%u + %u, heads %u of %u and %u, %u + %u tokens by %u, %u seqs, rotate %d, %s%s)",
             c->rank, c->rope, c->heads, c->key, c->value, c->start, c->tokens, c->chunk, c->n_seqs, c->rotate,
             c->formats[0], c->split ? ", split" : "");
}

/* W_K above W_V of every head, in that form. False: the target does not have it. */
static bool quantized_matrix(latent_rig *a, const op_form *form)
{
    const latent_case *c = &a->c;
    const kvi_backend *backend = a->rig.target->backend;
    kvi_weight_desc desc = {.name = "test.kv_b", .n_out = c->heads * (c->key + c->value), .n_in = c->rank};
    kvi_weight *weight = NULL;
    uint64_t bytes;
    /* Scales so that keys have the size that they have in other cases. */
    op_form sized = *form;
    double squares = 0;
    const double *values = op_form_fill(&a->rig, form, &desc);
    for (size_t i = 0; i < (size_t)desc.n_out * desc.n_in; i++) squares += values[i] * values[i];
    sized.size = sqrt(desc.n_out / squares);
    a->w = (op_matrix){.n_out = desc.n_out, .n_in = desc.n_in, .values = op_form_fill(&a->rig, &sized, &desc)};
    if (backend->weight_bytes(&desc, &bytes, NULL) == KVRT_UNSUPPORTED) return false;
    assert_true(backend->weight_import(a->rig.device, &desc, &weight, NULL) >= KVRT_OK);
    a->w.weight = weight;
    return true;
}

/* form: of W_K and W_V; NULL: c->weights. */
static bool open_case(latent_rig *a, const op_target *target, const latent_case *c, const op_form *form)
{
    memset(a, 0, sizeof *a);
    a->c = *c;
    a->width = c->rank + c->rope, a->own = c->key + c->rope;
    a->n_pages = (c->start + c->tokens + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    assert_true(a->n_pages <= MOST_PAGES);
    op_rig *rig = &a->rig;
    op_rig_open(rig, target);
    const kvi_kv_format last = format_of(c, a->n_pages);
    rig->group =
        (kvi_cache_group){.shape = {2, 1, c->rank, c->rope}, .rotate = c->rotate, .plain = KVI_KV_K_CODE(last)};
    const kvi_buffer kv = op_rig_buffer(rig, a->width, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     q = op_rig_buffer(rig, c->heads * a->own, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     out = op_rig_buffer(rig, c->heads * c->value, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    a->kv = op_rig_input(rig, kv, c->tokens * c->n_seqs);
    a->q = op_rig_input(rig, q, c->tokens * c->n_seqs);
    a->gain = op_rig_matrix(rig, 1, c->rank, KVI_F32, 1, 0.3, 0);
    if (form) {
        if (!quantized_matrix(a, form)) return false;
    } else if (c->split) {
        a->k_columns = op_rig_matrix(rig, c->heads * c->rank, c->key, c->weights, 0, 1 / sqrt(c->rank), 0);
        a->v_rows = op_rig_matrix(rig, c->heads * c->value, c->rank, c->weights, 0, 1 / sqrt(c->rank), 0);
    } else a->w = op_rig_matrix(rig, c->heads * (c->key + c->value), c->rank, c->weights, 0, 1 / sqrt(c->rank), 0);
    for (uint32_t i = 0; i < c->rope / 2; i++) a->inv_freq[i] = pow(10000, -2.0 * i / c->rope);
    /* A second set behind a first one that nobody uses. */
    rig->ropes[0] = (kvi_rope){.n_dims = 2, .inv_freq = a->inv_freq, .magnitude = 3.0f};
    rig->ropes[1] = (kvi_rope){
        .n_dims = c->rope, .interleaved = !c->halves, .inv_freq = a->inv_freq, .magnitude = c->halves ? 1.25f : 1.0f};
    rig->program.n_ropes = 2;
    *op_rig_op(rig, KVI_OP_LATENT_APPEND, kv, kv) = (kvi_op){.kind = KVI_OP_LATENT_APPEND,
                                                             .in = kv,
                                                             .out = kv,
                                                             .side = q,
                                                             .scale = 1,
                                                             .k_norm = {KVI_NORM_GAIN, a->gain.weight, 1e-6f},
                                                             .rope = &rig->ropes[1],
                                                             .n_heads = c->heads,
                                                             .key_dim = c->key,
                                                             .value_dim = c->value,
                                                             .group_layer = 1};
    *op_rig_op(rig, KVI_OP_ATTENTION_LATENT, q, out) =
        (kvi_op){.kind = KVI_OP_ATTENTION_LATENT,
                 .in = q,
                 .out = out,
                 .n_weights = c->split ? 2 : 1,
                 .weights = {c->split ? a->k_columns.weight : a->w.weight, a->v_rows.weight},
                 .scale = (float)(1 / sqrt(a->own)),
                 .n_heads = c->heads,
                 .key_dim = c->key,
                 .value_dim = c->value,
                 .group_layer = 1,
                 .causal = true};
    op_rig_output(rig, out);
    uint32_t unit = 3;
    for (uint32_t s = 0; s < c->n_seqs; s++) {
        a->pages[s] = op_rig_memory(rig, a->n_pages * sizeof *a->pages[s]);
        for (uint32_t p = a->n_pages; p-- > 0;) { /* in descending order: pages need not be neighbours */
            const kvi_kv_format f = format_of(c, p);
            a->pages[s][p] = (kvi_page_ref){unit, f};
            unit += kvi_kv_page_units(f, &rig->group.shape);
            rig->page_codes |= 1u << KVI_KV_K_CODE(f) | 1u << KVI_KV_V_CODE(f);
        }
    }
    return op_rig_load(rig, c->chunk * c->n_seqs, c->n_seqs, c->start + c->tokens, (uint64_t)unit * KVI_KV_UNIT);
}

static void store_side(kvi_kv_code code, bool is_key, const float *rows, uint32_t d, uint32_t n, float *scratch,
                       uint8_t *side)
{
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_SEARCH};
    if (!kvi_kv_code_is_plain(code)) {
        (is_key ? kvi_kv_encode_v : kvi_kv_encode_k)(code, rows, d, &params, scratch, side);
        return;
    }
    for (uint32_t i = 0; i < n * d; i++) {
        const uint16_t h = code == KVI_KV_F16 ? kvi_f32_to_f16(rows[i]) : kvi_f32_to_bf16(rows[i]);
        if (code == KVI_KV_F32) memcpy(side + 4u * i, &rows[i], 4);
        else memcpy(side + 2u * i, &h, 2);
    }
}

/* NaN everywhere, then random rows for the positions before `start`. */
static void fill_pool(latent_rig *a)
{
    const latent_case *c = &a->c;
    const uint64_t pool = a->rig.limits.pool_bytes;
    float *rows = malloc((size_t)c->rank * KVI_KV_PAGE * sizeof *rows),
          *scratch = malloc(kvi_kv_encode_scratch(c->rank) * sizeof *scratch);
    uint8_t *bytes = malloc(pool);
    assert_true(rows && scratch && bytes);
    memset(bytes, 0xff, pool);
    for (uint32_t s = 0; s < c->n_seqs; s++)
        for (uint32_t p = 0; p * KVI_KV_PAGE < c->start; p++) {
            const uint32_t left = c->start - p * KVI_KV_PAGE, n = left < KVI_KV_PAGE ? left : KVI_KV_PAGE;
            const kvi_kv_format f = (kvi_kv_format)a->pages[s][p].format;
            uint8_t *side =
                bytes + (uint64_t)a->pages[s][p].unit * KVI_KV_UNIT + kvi_kv_record_off(f, &a->rig.group.shape, 1, 0);
            for (uint32_t i = 0; i < c->rank * KVI_KV_PAGE; i++) rows[i] = (float)op_normal();
            store_side(KVI_KV_K_CODE(f), false, rows, c->rank, n, scratch, side);
            for (uint32_t i = 0; i < c->rope * KVI_KV_PAGE; i++) rows[i] = (float)op_normal();
            store_side(KVI_KV_V_CODE(f), true, rows, c->rope, n, scratch,
                       side + kvi_kv_k_side(KVI_KV_K_CODE(f), c->rank).bytes);
        }
    assert_true(a->rig.target->backend->pool_write(a->rig.device, 0, bytes, pool, NULL) >= KVRT_OK);
    free(rows), free(scratch), free(bytes);
}

/* Everything the sequences have in the pool, turned back. */
static void read_pool(latent_rig *a)
{
    const latent_case *c = &a->c;
    const uint64_t pool = a->rig.limits.pool_bytes;
    const uint32_t n = c->start + c->tokens;
    uint8_t *bytes = malloc(pool);
    assert_non_null(bytes);
    assert_true(a->rig.target->backend->pool_read(a->rig.device, 0, bytes, pool, NULL) >= KVRT_OK);
    for (uint32_t s = 0; s < c->n_seqs; s++) {
        a->c_stored[s] = op_rig_memory(&a->rig, (size_t)n * c->rank * sizeof(double));
        a->k_stored[s] = op_rig_memory(&a->rig, (size_t)n * c->rope * sizeof(double));
        for (uint32_t t = 0; t < n; t++) {
            const kvi_page_ref *ref = &a->pages[s][t / KVI_KV_PAGE];
            const kvi_kv_code c_code = KVI_KV_K_CODE(ref->format), k_code = KVI_KV_V_CODE(ref->format);
            const uint8_t *side =
                bytes + (uint64_t)ref->unit * KVI_KV_UNIT + kvi_kv_record_off(ref->format, &a->rig.group.shape, 1, 0);
            double *latent = a->c_stored[s] + (size_t)t * c->rank, *key = a->k_stored[s] + (size_t)t * c->rope;
            for (uint32_t i = 0; i < c->rank; i++)
                latent[i] = (double)kvi_kv_decode_k(side, c_code, c->rank, t % KVI_KV_PAGE, i);
            side += kvi_kv_k_side(c_code, c->rank).bytes;
            for (uint32_t i = 0; i < c->rope; i++)
                key[i] = (double)kvi_kv_decode_v(side, k_code, c->rope, t % KVI_KV_PAGE, i);
            if (c->rotate) oracle_rotate(latent, c->rank), oracle_rotate(key, c->rope);
        }
    }
    free(bytes);
}

static void turn(const latent_rig *a, uint32_t pos, double *h)
{
    const uint32_t half = a->c.rope / 2;
    const double magnitude = (double)a->rig.ropes[1].magnitude;
    for (uint32_t i = 0; i < half; i++) {
        const uint32_t first = a->c.halves ? i : 2 * i, second = a->c.halves ? i + half : 2 * i + 1;
        const double angle = a->inv_freq[i] * pos, x = h[first], y = h[second];
        h[first] = magnitude * (x * cos(angle) - y * sin(angle));
        h[second] = magnitude * (y * cos(angle) + x * sin(angle));
    }
}

static void check_append(const latent_rig *a, uint32_t s, uint32_t t)
{
    const latent_case *c = &a->c;
    const kvi_kv_code plain = a->rig.group.plain;
    const double ulp = plain == KVI_KV_F32 ? 2e-6 : plain == KVI_KV_F16 ? 1.0 / 1024 : 1.0 / 128;
    const uint32_t pos = c->start + t;
    const double *in = a->kv.values + (size_t)(s * c->tokens + t) * a->width;
    double latent[512], key[128], size = 0;
    char text[160];
    name_case(c, text);
    oracle_rmsnorm(in, a->gain.values, (double)1e-6f, c->rank, latent);
    memcpy(key, in + c->rank, c->rope * sizeof *key);
    turn(a, pos + ahead(c, s), key);
    /* Rounding happens to rotated rows and is spread by turning them back: limits are of the whole row. */
    for (uint32_t i = 0; i < c->rank; i++) size = fmax(size, fabs(latent[i]));
    for (uint32_t i = 0; i < c->rope; i++) size = fmax(size, fabs(key[i]));
    for (uint32_t i = 0; i < c->rank; i++)
        op_check(a->rig.target, text, t, i, a->c_stored[s][(size_t)pos * c->rank + i], latent[i], ulp * size);
    for (uint32_t i = 0; i < c->rope; i++)
        op_check(a->rig.target, text, t, c->rank + i, a->k_stored[s][(size_t)pos * c->rope + i], key[i], ulp * size);
}

/* y (n_out) = rows [first, first + n_out) of w times x */
static void product(const op_matrix *w, uint32_t first, uint32_t n_out, const double *x, double *y)
{
    for (uint32_t o = 0; o < n_out; o++) {
        y[o] = 0;
        for (uint32_t i = 0; i < w->n_in; i++) y[o] += w->values[(size_t)(first + o) * w->n_in + i] * x[i];
    }
}

/* What a head makes of a latent: its key without RoPE, its value. */
static void key_of(const latent_rig *a, uint32_t head, const double *latent, double *key)
{
    const latent_case *c = &a->c;
    if (!c->split) {
        product(&a->w, head * (c->key + c->value), c->key, latent, key);
        return;
    }
    for (uint32_t i = 0; i < c->key; i++) {
        key[i] = 0;
        for (uint32_t r = 0; r < c->rank; r++)
            key[i] += a->k_columns.values[((size_t)head * c->rank + r) * c->key + i] * latent[r];
    }
}

static void value_of(const latent_rig *a, uint32_t head, const double *latent, double *value)
{
    const latent_case *c = &a->c;
    if (c->split) product(&a->v_rows, head * c->value, c->value, latent, value);
    else product(&a->w, head * (c->key + c->value) + c->key, c->value, latent, value);
}

/* One head of one row: keys and values of every visible position, expanded. */
static void check_attention(const latent_rig *a, uint32_t s, uint32_t t, uint32_t head, const float *got)
{
    const latent_case *c = &a->c;
    const uint32_t pos = c->start + t;
    double *k = malloc((size_t)(pos + 1) * a->own * sizeof *k), *score = malloc((pos + 1) * sizeof *score);
    double q[256], v[256], out[256] = {0}, top = -INFINITY, sum = 0, largest = 0;
    char text[160];
    assert_true(k && score);
    name_case(c, text);
    memcpy(q, a->q.values + ((size_t)(s * c->tokens + t) * c->heads + head) * a->own, a->own * sizeof *q);
    turn(a, pos + ahead(c, s), q + c->key);
    for (uint32_t i = 0; i <= pos; i++) {
        double *key = k + (size_t)i * a->own;
        key_of(a, head, a->c_stored[s] + (size_t)i * c->rank, key);
        memcpy(key + c->key, a->k_stored[s] + (size_t)i * c->rope, c->rope * sizeof *key);
        score[i] = 0;
        for (uint32_t e = 0; e < a->own; e++) score[i] += q[e] * key[e];
        score[i] /= sqrt(a->own);
        top = fmax(top, score[i]);
    }
    for (uint32_t i = 0; i <= pos; i++) {
        const double p = exp(score[i] - top);
        value_of(a, head, a->c_stored[s] + (size_t)i * c->rank, v);
        sum += p;
        for (uint32_t e = 0; e < c->value; e++) out[e] += p * v[e], largest = fmax(largest, fabs(v[e]));
    }
    for (uint32_t e = 0; e < c->value; e++)
        op_check(a->rig.target, text, t, head * c->value + e, (double)got[e], out[e] / sum,
                 fmax(OPS_ATTENTION_F32, a->rig.target->attention) * largest);
    free(k), free(score);
}

/* Runs all tokens; out (n_seqs * tokens, heads * value). False: the target refused. */
static bool run_case(const op_target *target, const latent_case *c, const op_form *form, bool check, float *out)
{
    latent_rig a;
    op_seed = 11;
    const bool there = open_case(&a, target, c, form);
    if (!there) {
        op_rig_close(&a.rig);
        return false;
    }
    const uint32_t cols = c->heads * c->value;
    float *rows = calloc((size_t)c->chunk * c->n_seqs * cols, sizeof *rows);
    int32_t *ids = calloc((size_t)c->chunk * c->n_seqs, sizeof *ids);
    assert_true(rows && ids);
    fill_pool(&a);
    for (uint32_t done = 0; done < c->tokens; done += c->chunk) {
        const uint32_t n = c->tokens - done < c->chunk ? c->tokens - done : c->chunk;
        const kvi_page_ref *tables[2] = {a.pages[0], a.pages[1]};
        kvi_seq seqs[2];
        for (uint32_t s = 0; s < c->n_seqs; s++) {
            seqs[s] = (kvi_seq){
                .first_row = s * n, .n_rows = n, .pos = c->start + done, .ahead = ahead(c, s), .pages = &tables[s]};
            for (uint32_t i = 0; i < n; i++) ids[s * n + i] = (int32_t)(s * c->tokens + done + i);
        }
        op_rig_step(
            &a.rig,
            &(kvi_step){.ids = ids, .n_rows = n * c->n_seqs, .seqs = seqs, .n_seqs = c->n_seqs, .wide = is_wide(c)},
            done % 2, rows);
        for (uint32_t s = 0; s < c->n_seqs; s++)
            memcpy(out + ((size_t)s * c->tokens + done) * cols, rows + (size_t)s * n * cols,
                   (size_t)n * cols * sizeof *out);
    }
    if (check) read_pool(&a);
    for (uint32_t s = 0; check && s < c->n_seqs; s++)
        for (uint32_t t = 0; t < c->tokens; t++) {
            check_append(&a, s, t);
            for (uint32_t h = 0; h < c->heads && (t % 13 == 0 || t + 1 == c->tokens); h++)
                check_attention(&a, s, t, h, out + ((size_t)s * c->tokens + t) * cols + h * c->value);
        }
    free(rows), free(ids);
    op_rig_close(&a.rig);
    return true;
}

static float *room_for(const latent_case *c)
{
    float *out = calloc((size_t)c->n_seqs * c->tokens * c->heads * c->value, sizeof *out);
    assert_non_null(out);
    return out;
}

/* A device without f32 pages gets the same case with f16. */
static void run_checked(const op_target *target, latent_case c, const op_form *form)
{
    float *out = room_for(&c);
    if (!run_case(target, &c, form, true, out) && strcmp(c.formats[0], "f32") == 0) {
        c.formats[0] = "f16";
        (void)run_case(target, &c, form, true, out);
    }
    free(out);
}

void op_case_latent(const op_target *target)
{
    for (uint32_t i = 0; i < 2 * COUNT(cases); i++) {
        latent_case c = cases[i / 2];
        c.split = i % 2;
        run_checked(target, c, NULL);
    }
    for (uint32_t i = 0; i < COUNT(quantized); i++) run_checked(target, quantized[i].c, &quantized[i].form);
}

/* The same bits on both targets, and however the tokens of a form are cut into steps. */
void op_case_latent_bits(const op_target *a, const op_target *b)
{
    for (uint32_t i = 0; i < 2 * COUNT(cases); i++) {
        latent_case c = cases[i / 2], other;
        c.split = i % 2;
        other = c;
        const size_t n = (size_t)c.n_seqs * c.tokens * c.heads * c.value;
        float *first = room_for(&c), *second = room_for(&c);
        other.chunk = is_wide(&c) ? (c.tokens + 2) / 3 + KVI_DECODE_ROWS : 3;
        if (run_case(a, &c, NULL, false, first) && run_case(b, &other, NULL, false, second))
            assert_memory_equal(first, second, n * sizeof *first);
        free(first), free(second);
    }
}
