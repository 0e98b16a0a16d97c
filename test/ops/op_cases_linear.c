/* op_cases_linear.c - EMBED, NORM_LINEAR, LINEAR_ADD, NORM_GATE_UP and HEAD against double-precision formulas. */
#include "op_cases.h"
#include "oracle.h"
#include "tolerance.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MAX_COLS 1200u

typedef struct linear_case {
    uint32_t rows, n_in, n_weights, n_out[3];
    kvi_dtype dtype;
    bool bias;
    uint32_t misalign; /* bytes */
} linear_case;

/* Edges: vectors of 4, 8, 16; panels of 8, 16, 32; 8 streams; row blocks 4, 6, 12; 8 rows between the two kernels;
 * depth 256; AMX 32. */
static const uint32_t ins[] = {8, 16, 24, 32, 40, 64, 96, 248, 256, 264, 512},
                      outs[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257},
                      row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 17, 31, 32, 33, 48};
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))

/* Beyond the walk: the tiles of 32 and 128 rows, 64 and 128 outputs, 32 columns of tensor-core products, one below, at and above. */
static const linear_case tiles[] = {
    {65, 40, 2, {72, 57, 0}, KVI_F16, false, 0},  {64, 64, 1, {64, 0, 0}, KVI_F16, true, 0},
    {127, 24, 1, {129, 0, 0}, KVI_BF16, true, 1}, {128, 96, 3, {16, 8, 104}, KVI_F16, true, 0},
    {129, 72, 1, {127, 0, 0}, KVI_F16, false, 2},
};
#define MAX_ROWS 129u

/* Case i of a fixed walk: every edge of each table appears several times, combined differently. */
static bool nth_case(uint32_t i, linear_case *c)
{
    const uint32_t walk = 3 * COUNT(row_counts) * 2;
    if (i >= walk + COUNT(tiles)) return false;
    if (i >= walk) {
        *c = tiles[i - walk];
        return true;
    }
    *c = (linear_case){
        .rows = row_counts[i % COUNT(row_counts)],
        .n_in = ins[(i * 7 + i / 17) % COUNT(ins)],
        .n_weights = 1 + i % 3,
        .n_out = {outs[i % COUNT(outs)], outs[(i * 5 + 3) % COUNT(outs)], outs[(i * 11 + 6) % COUNT(outs)]},
        .dtype = (kvi_dtype)(i / 2 % 3),
        .bias = i % 4 == 1,
        .misalign = i % 5 == 2   ? 1
                    : i % 5 == 4 ? 2
                                 : 0};
    if (i % 6 == 5) /* what AMX takes: BF16, multiples of 32, more than 8 rows */
        *c = (linear_case){.rows = 9 + i % 40,
                           .n_in = 32 * (1 + i % 9),
                           .n_weights = 2,
                           .n_out = {32 * (1 + i % 9), 288},
                           .dtype = KVI_BF16,
                           .bias = i % 4 == 1,
                           .misalign = i % 3};
    return true;
}

/* w[o] . x (+ bias) and in *size what the error is measured against. */
static double dot(const op_matrix *w, uint32_t o, const double *x, const op_matrix *bias, double *size)
{
    double total = bias ? bias->values[o] : 0;
    *size = fabs(total);
    for (uint32_t k = 0; k < w->n_in; k++) {
        double p = w->values[(size_t)o * w->n_in + k] * x[k];
        total += p;
        *size += fabs(p);
    }
    *size += fabs(total);
    return total;
}

static double linear_limit(const op_target *target, kvi_dtype dtype)
{
    return dtype == KVI_BF16 ? target->linear : target->linear_f16 > 0 ? target->linear_f16 : OPS_LINEAR_F32;
}

static void name_case(const char *op, const linear_case *c, char text[160])
{
    snprintf(text, 160, "%s (%u x %u, dtype %d, out %u %u %u of %u%s, %u bytes off)", op, c->rows, c->n_in,
             (int)c->dtype, c->n_out[0], c->n_out[1], c->n_out[2], c->n_weights, c->bias ? ", bias" : "", c->misalign);
}

static op_matrix gain_of(op_rig *rig, kvi_op *op, uint32_t n)
{
    op_matrix gain = op_rig_matrix(rig, 1, n, KVI_F32, 1, 0.3, 0);
    op->norm = (kvi_norm){KVI_NORM_GAIN, gain.weight, 1e-5f};
    return gain;
}

static void add_weights(op_rig *rig, kvi_op *op, const linear_case *c, op_matrix w[3], op_matrix b[3])
{
    op->n_weights = c->n_weights;
    for (uint32_t i = 0; i < c->n_weights; i++) {
        w[i] = op_rig_matrix(rig, c->n_out[i], c->n_in, c->dtype, 0, 0.2, c->misalign);
        op->weights[i] = w[i].weight;
        if (!c->bias) continue;
        b[i] = op_rig_matrix(rig, 1, c->n_out[i], c->dtype, 0, 1, c->misalign);
        op->biases[i] = b[i].weight;
    }
}

/* -------------------------------------------------------------------------------------------------------- embed --- */
void op_case_embed(const op_target *target)
{
    static const uint32_t cols[] = {8, 15, 16, 17, 33, 64};
    for (uint32_t i = 0; i < 3 * COUNT(cols); i++) {
        op_rig rig;
        op_rig_open(&rig, target);
        kvi_buffer x = op_rig_buffer(&rig, cols[i / 3], KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        op_matrix table = op_rig_matrix(&rig, 11, cols[i / 3], (kvi_dtype)(i % 3), 0, 1, i % 2);
        kvi_op *op = op_rig_op(&rig, KVI_OP_EMBED, x, x);
        op->n_weights = 1;
        op->weights[0] = table.weight;
        op->scale = i % 2 ? 1.0f : 5.5f;
        rig.n_ids = 11;
        op_rig_output(&rig, x);
        if (op_rig_load(&rig, 9, 1, 128, 0)) {
            float out[9 * 64];
            int32_t ids[9] = {10, 0, 3, 3, 7, 9, 1, 10, 5};
            const kvi_seq seq = {.n_rows = 9};
            op_rig_step(&rig, &(kvi_step){.ids = ids, .n_rows = 9, .seqs = &seq, .n_seqs = 1}, false, out);
            for (uint32_t r = 0; r < 9; r++)
                for (uint32_t k = 0; k < cols[i / 3]; k++) {
                    double want = (double)op->scale * table.values[(size_t)ids[r] * cols[i / 3] + k];
                    op_check(target, "embed", r, k, (double)out[r * cols[i / 3] + k], want, target->copy * fabs(want));
                }
        }
        op_rig_close(&rig);
    }
}

/* -------------------------------------------------------------------------------------------------- norm_linear --- */
static void norm_linear(const op_target *target, const linear_case *c, bool op_by_op, bool check, float *out)
{
    op_rig rig;
    op_matrix w[3], b[3];
    char text[160];
    double normed[MAX_COLS];
    const uint32_t cols = c->n_out[0] + (c->n_weights > 1 ? c->n_out[1] : 0) + (c->n_weights > 2 ? c->n_out[2] : 0);
    name_case("norm_linear", c, text);
    op_rig_open(&rig, target);
    kvi_buffer x = op_rig_buffer(&rig, c->n_in, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    kvi_buffer y = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    op_matrix in = op_rig_input(&rig, x, c->rows);
    kvi_op *op = op_rig_op(&rig, KVI_OP_NORM_LINEAR, x, y);
    op_matrix gain = gain_of(&rig, op, c->n_in);
    add_weights(&rig, op, c, w, b);
    op_rig_output(&rig, y);
    if (op_rig_load(&rig, c->rows, 1, 128, 0)) op_rig_rows(&rig, c->rows, op_by_op, out);
    else check = false;
    for (uint32_t r = 0; check && r < c->rows; r++) {
        oracle_rmsnorm(in.values + (size_t)r * c->n_in, gain.values, (double)op->norm.eps, c->n_in, normed);
        for (uint32_t j = 0, col = 0; j < c->n_weights; j++)
            for (uint32_t o = 0; o < c->n_out[j]; o++, col++) {
                double size, want = dot(&w[j], o, normed, c->bias ? &b[j] : NULL, &size);
                op_check(target, text, r, col, (double)out[(size_t)r * cols + col], want,
                         size * linear_limit(target, c->dtype));
            }
    }
    op_rig_close(&rig);
}

void op_case_norm_linear(const op_target *target)
{
    linear_case c;
    float *out = calloc(MAX_ROWS * MAX_COLS, sizeof *out);
    assert_non_null(out);
    for (uint32_t i = 0; nth_case(i, &c); i++) norm_linear(target, &c, false, true, out);
    free(out);
}

void op_case_same_bits(const op_target *a, const op_target *b)
{
    linear_case c;
    float *first = calloc(MAX_ROWS * MAX_COLS, sizeof *first), *second = calloc(MAX_ROWS * MAX_COLS, sizeof *second);
    assert_true(first && second);
    for (uint32_t i = 0; nth_case(i, &c); i++) {
        op_seed = i + 1;
        norm_linear(a, &c, false, false, first);
        op_seed = i + 1;
        norm_linear(b, &c, true, false, second);
        assert_memory_equal(first, second, MAX_ROWS * MAX_COLS * sizeof *first);
    }
    free(first);
    free(second);
}

/* --------------------------------------------------------------------------------------------------- linear_add --- */
static void linear_add(const op_target *target, const linear_case *c, float *out)
{
    op_rig rig;
    op_matrix w[3], b[3];
    char text[160];
    const uint32_t cols = c->n_out[0];
    name_case("linear_add", c, text);
    op_rig_open(&rig, target);
    kvi_buffer x = op_rig_buffer(&rig, c->n_in, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    kvi_buffer y = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    op_matrix in = op_rig_input(&rig, x, c->rows), residual = op_rig_input(&rig, y, c->rows);
    kvi_op *op = op_rig_op(&rig, KVI_OP_LINEAR_ADD, x, y);
    add_weights(&rig, op, c, w, b);
    op_rig_output(&rig, y);
    bool check = op_rig_load(&rig, c->rows, 1, 128, 0);
    if (check) op_rig_rows(&rig, c->rows, false, out);
    for (uint32_t r = 0; check && r < c->rows; r++)
        for (uint32_t o = 0; o < cols; o++) {
            double size, before = residual.values[(size_t)r * cols + o];
            double want = before + dot(&w[0], o, in.values + (size_t)r * c->n_in, c->bias ? &b[0] : NULL, &size);
            op_check(target, text, r, o, (double)out[(size_t)r * cols + o], want,
                     (size + fabs(before)) * linear_limit(target, c->dtype));
        }
    op_rig_close(&rig);
}

void op_case_linear_add(const op_target *target)
{
    linear_case c;
    float *out = calloc(MAX_ROWS * MAX_COLS, sizeof *out);
    assert_non_null(out);
    for (uint32_t i = 0; nth_case(i, &c); i++) {
        c.n_weights = 1;
        linear_add(target, &c, out);
    }
    free(out);
}

/* ------------------------------------------------------------------------------------------------- norm_gate_up --- */
static void norm_gate_up(const op_target *target, const linear_case *c, float *out)
{
    op_rig rig;
    op_matrix w[3], b[3];
    char text[160];
    double normed[MAX_COLS];
    const uint32_t cols = c->n_out[0];
    name_case("norm_gate_up", c, text);
    op_rig_open(&rig, target);
    kvi_buffer x = op_rig_buffer(&rig, c->n_in, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    kvi_buffer y = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    op_matrix in = op_rig_input(&rig, x, c->rows);
    kvi_op *op = op_rig_op(&rig, KVI_OP_NORM_GATE_UP, x, y);
    op_matrix gain = gain_of(&rig, op, c->n_in);
    add_weights(&rig, op, c, w, b);
    op_rig_output(&rig, y);
    bool check = op_rig_load(&rig, c->rows, 1, 128, 0);
    if (check) op_rig_rows(&rig, c->rows, false, out);
    for (uint32_t r = 0; check && r < c->rows; r++) {
        oracle_rmsnorm(in.values + (size_t)r * c->n_in, gain.values, (double)op->norm.eps, c->n_in, normed);
        for (uint32_t o = 0; o < cols; o++) {
            double size_a, size_b, a = dot(&w[0], o, normed, NULL, &size_a), u = dot(&w[1], o, normed, NULL, &size_b);
            double silu = a / (1 + exp(-a)), size = size_a * fabs(u) + size_b * fmax(fabs(silu), 1e-3);
            op_check(target, text, r, o, (double)out[(size_t)r * cols + o], silu * u,
                     OPS_GATED * size * linear_limit(target, c->dtype));
        }
    }
    op_rig_close(&rig);
}

void op_case_norm_gate_up(const op_target *target)
{
    linear_case c;
    float *out = calloc(MAX_ROWS * MAX_COLS, sizeof *out);
    assert_non_null(out);
    for (uint32_t i = 0; nth_case(i, &c); i++) {
        c.n_weights = 2;
        c.n_out[1] = c.n_out[0];
        c.bias = false;
        norm_gate_up(target, &c, out);
    }
    free(out);
}

/* --------------------------------------------------------------------------------------------------------- head --- */
void op_case_head(const op_target *target)
{
    static const uint32_t cuts[][2] = {
        {1, 64}, {3, 33}, {2, 32}, {3, 97}, {1, 31}}; /* pieces of a vocabulary of n * pieces + 1 */
    for (uint32_t i = 0; i < 3 * COUNT(cuts); i++) {
        const uint32_t pieces = cuts[i / 3][0], each = cuts[i / 3][1], vocab = pieces * each + 1, n_in = 64,
                       rows = i % 2 ? 21 : 5;
        const uint32_t chosen[] = {0, 2, 3, 4, 7, 8, 9, 11, 12, 13, 20}, n_chosen = i % 2 ? 11 : 4;
        const kvi_dtype dtype = (kvi_dtype)(i % 3);
        op_rig rig;
        op_rig_open(&rig, target);
        kvi_buffer x = op_rig_buffer(&rig, n_in, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        kvi_buffer logits = op_rig_buffer(&rig, vocab, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL);
        op_matrix in = op_rig_input(&rig, x, rows), w = op_rig_matrix(&rig, vocab, n_in, dtype, 0, 0.2, i % 2),
                  gain = {0};
        for (uint32_t p = 0; p < pieces; p++) {
            kvi_op *op = op_rig_op(&rig, KVI_OP_HEAD, x, logits);
            if (!p) gain = gain_of(&rig, op, n_in);
            op->norm = (kvi_norm){KVI_NORM_GAIN, gain.weight, 1e-5f};
            op->n_weights = 1;
            op->weights[0] = w.weight;
            op->first_out = p * each;
            op->n_out = each + (p + 1 == pieces);
        }
        rig.program.logits = logits;
        rig.program.vocab_size = vocab;
        if (op_rig_load(&rig, rows, 1, 128, 0)) {
            float out[11 * 300];
            double normed[64], size;
            int32_t ids[21];
            const kvi_seq seq = {.n_rows = rows};
            for (uint32_t r = 0; r < rows; r++) ids[r] = (int32_t)r;
            op_rig_step(&rig, &(kvi_step){ids, rows, &seq, 1, chosen, n_chosen, false, false, 0}, i % 2, out);
            for (uint32_t l = 0; l < n_chosen; l++) {
                oracle_rmsnorm(in.values + (size_t)chosen[l] * n_in, gain.values, 1e-5, n_in, normed);
                for (uint32_t o = 0; o < vocab; o++) {
                    double want = dot(&w, o, normed, NULL, &size);
                    op_check(target, "head", l, o, (double)out[(size_t)l * vocab + o], want,
                             size * linear_limit(target, dtype));
                }
            }
        }
        op_rig_close(&rig);
    }
}

/* --------------------------------------------------------------------------------------------------------- best --- */
/* The best of row l against its own logits: exact, ties by id; the sum to f32. */
static void check_best(op_rig *rig, uint32_t l, uint32_t vocab, float *logits)
{
    const kvi_backend *backend = rig->target->backend;
    kvrt_error error = {.size = sizeof error};
    kvi_best best;
    double sum = 0;
    if (backend->read_best(rig->device, l, &best, &error) < KVRT_OK)
        fail_msg("%s: %s", rig->target->name, error.message);
    assert_false(best.bad);
    assert_int_equal(best.n, vocab < KVI_BEST_MAX ? vocab : KVI_BEST_MAX);
    for (uint32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - (double)best.logits[0]);
    op_check(rig->target, "best: sum", l, vocab, (double)best.sum, sum, 1e-5 * sum);
    for (uint32_t i = 0; i < best.n; i++) {
        uint32_t top = 0;
        for (uint32_t id = 1; id < vocab; id++)
            if (logits[id] > logits[top]) top = id;
        if (best.ids[i] != (int32_t)top || best.logits[i] != logits[top])
            fail_msg("%s, best: vocabulary of %u, place %u: found %d (%g), need %u (%g)", rig->target->name, vocab, i,
                     best.ids[i], (double)best.logits[i], top, (double)logits[top]);
        logits[top] = -INFINITY;
    }
}

void op_case_best(const op_target *target)
{
    static const uint32_t vocabs[] = {2, 3, 63, 64, 65, 300, 2047, 2048, 2049, 4096, 65536, 65537, 70001};
    for (uint32_t i = 0; i < 2 * COUNT(vocabs); i++) {
        const uint32_t vocab = vocabs[i / 2], rows = vocab > 5000 ? 1 : 3;
        const bool bad = i % 2;
        if (bad && vocab > 5000) continue;
        float *logits = calloc(rows, vocab * sizeof *logits);
        op_rig rig;
        assert_non_null(logits);
        op_rig_open(&rig, target);
        kvi_buffer x = op_rig_buffer(&rig, 8, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        kvi_buffer out = op_rig_buffer(&rig, vocab, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL);
        op_rig_input(&rig, x, rows);
        if (bad) rig.ops[0].scale = INFINITY; /* NaN behind the norm */
        /* Weights of few values: among thousands of logits many are equal. */
        op_matrix w = op_rig_matrix(&rig, vocab, 8, KVI_F16, 0, vocab > 1000 ? 6e-8 : 0.3, 0);
        kvi_op *op = op_rig_op(&rig, KVI_OP_HEAD, x, out);
        gain_of(&rig, op, 8);
        op->n_weights = 1;
        op->weights[0] = w.weight;
        op->n_out = vocab;
        rig.program.logits = out;
        rig.program.vocab_size = vocab;
        if (op_rig_load(&rig, rows, 1, 128, 0)) {
            op_rig_rows(&rig, rows, false, logits);
            kvi_best best;
            for (uint32_t l = 0; l < rows && !bad; l++) check_best(&rig, l, vocab, logits + (size_t)l * vocab);
            if (bad) {
                assert_int_equal(target->backend->read_best(rig.device, rows - 1, &best, NULL), KVRT_OK);
                assert_true(best.bad);
            }
        }
        op_rig_close(&rig);
        free(logits);
    }
}
