/* op_cases_special.c - what single families add to the plain transformer, against double-precision formulas: activations, post-norm,
 * multiplier, gate and softcap of products; routing and experts; convolution and delta rule with their states. */
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

#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))
#define SPECIAL_LIMIT                                                                                                  \
    2e-5 /* sums of some hundred f32 products through one or two smooth functions, relative to the largest result */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double act(kvi_activation activation, double limit, double g, double u)
{
    if (activation == KVI_ACT_SILU) return g * sigmoid(g) * u;
    if (activation == KVI_ACT_GELU) return g / 2 * (1 + erf(g / sqrt(2))) * u;
    if (activation == KVI_ACT_GELU_TANH)
        return g / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g))) * u;
    g = fmin(g, limit);
    u = fmax(fmin(u, limit), -limit);
    return (u + 1) * g * sigmoid(1.702 * g);
}

/* y (n_out) = W x + b */
static void product(const double *w, const double *b, uint32_t n_out, uint32_t n_in, const double *x, double *y)
{
    for (uint32_t o = 0; o < n_out; o++) {
        y[o] = b ? b[o] : 0;
        for (uint32_t i = 0; i < n_in; i++) y[o] += w[(size_t)o * n_in + i] * x[i];
    }
}

static double largest_of(const double *x, uint32_t n)
{
    double most = 1e-3;
    for (uint32_t i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    return most;
}

static void check_row(const op_target *target, const char *what, uint32_t row, const float *got, const double *want,
                      uint32_t n)
{
    const double limit = fmax(SPECIAL_LIMIT, 4 * target->linear) * largest_of(want, n);
    for (uint32_t i = 0; i < n; i++) op_check(target, what, row, i, (double)got[i], want[i], limit);
}

/* ------------------------------------------------------------------------------------------------------ products --- */
#define WIDTH 64u
#define FFN 96u
#define MOST_ROWS 20u
#define MOST_WIDTH 72u /* of an expert */

typedef struct product_case {
    const char *name;
    uint32_t rows;
    kvi_activation activation;
    bool post_norm, bare_norm, gated;
    float scale, cap;
} product_case;

static const product_case products[] = {
    {"silu", 3, KVI_ACT_SILU, false, false, false, 1, 0},
    {"gelu", 5, KVI_ACT_GELU, true, false, false, 1, 0},
    {"gelu_tanh", 20, KVI_ACT_GELU_TANH, true, true, false, 0.5f, 3},
    {"swiglu_oai", 8, KVI_ACT_SWIGLU_OAI, false, false, true, 2, 0},
    {"swiglu_oai", 9, KVI_ACT_SWIGLU_OAI, false, true, true, 1, 0.5f},
};

/* x += scale * post_norm( act( norm(x) G^T + bg, norm(x) U^T + bu ) D^T + bd ) * sigmoid(gate), then a head with softcap and multiplier. */
static void run_product(const op_target *target, const product_case *c)
{
    op_rig rig;
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const kvi_buffer y = op_rig_buffer(&rig, FFN, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    const kvi_buffer gate = op_rig_buffer(&rig, 1, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, c->rows), gates = op_rig_input(&rig, gate, c->rows);
    const op_matrix gain = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0),
                    post = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0);
    const op_matrix g = op_rig_matrix(&rig, FFN, WIDTH, KVI_F32, 0, 0.4, 0),
                    u = op_rig_matrix(&rig, FFN, WIDTH, KVI_F32, 0, 0.4, 0);
    const op_matrix bg = op_rig_matrix(&rig, 1, FFN, KVI_F32, 0, 1, 0),
                    bu = op_rig_matrix(&rig, 1, FFN, KVI_F32, 0, 1, 0);
    const op_matrix d = op_rig_matrix(&rig, WIDTH, FFN, KVI_F32, 0, 0.2, 0),
                    bd = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 0, 1, 0);
    const kvi_norm norm = {c->bare_norm ? KVI_NORM_BARE : KVI_NORM_GAIN, gain.weight, 1e-5f};
    *op_rig_op(&rig, KVI_OP_NORM_GATE_UP, x, y) = (kvi_op){.kind = KVI_OP_NORM_GATE_UP,
                                                           .in = x,
                                                           .out = y,
                                                           .norm = norm,
                                                           .n_weights = 2,
                                                           .scale = 1,
                                                           .weights = {g.weight, u.weight},
                                                           .biases = {bg.weight, bu.weight},
                                                           .activation = c->activation,
                                                           .limit = 1.5f};
    *op_rig_op(&rig, KVI_OP_LINEAR_ADD, y, x) =
        (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                 .in = y,
                 .out = x,
                 .n_weights = 1,
                 .weights = {d.weight},
                 .biases = {bd.weight},
                 .scale = c->scale,
                 .gated = c->gated,
                 .gate = gate,
                 .post_norm = {c->post_norm ? KVI_NORM_GAIN : KVI_NORM_NONE, post.weight, 1e-5f}};
    op_rig_output(&rig, x);
    rig.ops[rig.program.n_ops - 1].softcap = c->cap;
    rig.ops[rig.program.n_ops - 1].scale = c->scale;
    if (op_rig_load(&rig, MOST_ROWS, 1, 128, 0)) {
        float out[MOST_ROWS * WIDTH];
        op_rig_rows(&rig, c->rows, false, out);
        for (uint32_t r = 0; r < c->rows; r++) {
            double n[WIDTH], a[FFN], b[FFN], sum[WIDTH];
            oracle_rmsnorm(in.values + (size_t)r * WIDTH, c->bare_norm ? NULL : gain.values, (double)1e-5f, WIDTH, n);
            product(g.values, bg.values, FFN, WIDTH, n, a);
            product(u.values, bu.values, FFN, WIDTH, n, b);
            for (uint32_t i = 0; i < FFN; i++) a[i] = act(c->activation, 1.5, a[i], b[i]);
            product(d.values, bd.values, WIDTH, FFN, a, sum);
            if (c->post_norm) oracle_rmsnorm(sum, post.values, (double)1e-5f, WIDTH, sum);
            const double factor = (double)c->scale * (c->gated ? sigmoid(gates.values[r]) : 1), cap = (double)c->cap;
            for (uint32_t i = 0; i < WIDTH; i++) {
                sum[i] = (double)c->scale * (in.values[(size_t)r * WIDTH + i] + factor * sum[i]);
                if (cap > 0) sum[i] = cap * tanh(sum[i] / cap);
            }
            check_row(target, c->name, r, out + (size_t)r * WIDTH, sum, WIDTH);
        }
    }
    op_rig_close(&rig);
}

/* What Gemma 4 makes of these: t = scale * post_norm over runs ( act( norm(x) G^T, side ) D^T ), then x = factor * ( x + post_norm(t) ). */
static void run_beside(const op_target *target, uint32_t rows)
{
    enum { RUN = 8, FIRST = 5 };
    op_rig rig;
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     t = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     side = op_rig_buffer(&rig, FFN + 2 * FIRST, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     y = op_rig_buffer(&rig, FFN, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    const op_matrix in = op_rig_input(&rig, x, rows), beside = op_rig_input(&rig, side, rows);
    (void)op_rig_input(&rig, t, rows); /* what `fresh` must not see */
    const op_matrix gain = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0),
                    run_gain = op_rig_matrix(&rig, 1, RUN, KVI_F32, 1, 0.3, 0),
                    post = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0),
                    factor = op_rig_matrix(&rig, 1, 1, KVI_F32, 0.6, 0.1, 0);
    const op_matrix g = op_rig_matrix(&rig, FFN, WIDTH, KVI_F32, 0, 0.4, 0),
                    d = op_rig_matrix(&rig, WIDTH, FFN, KVI_F32, 0, 0.2, 0);
    kvi_op *op = op_rig_op(&rig, KVI_OP_NORM_GATE_UP, x, y);
    op->norm = (kvi_norm){KVI_NORM_GAIN, gain.weight, 1e-5f};
    op->n_weights = 1, op->weights[0] = g.weight, op->activation = KVI_ACT_GELU_TANH;
    op->side = side, op->side_first = FIRST;
    op = op_rig_op(&rig, KVI_OP_LINEAR_ADD, y, t);
    op->n_weights = 1, op->weights[0] = d.weight;
    op->fresh = true, op->scale = 0.7f, op->post_group = RUN;
    op->post_norm = (kvi_norm){KVI_NORM_GAIN, run_gain.weight, 1e-5f};
    op = op_rig_op(&rig, KVI_OP_LINEAR_ADD, t, x);
    op->post_norm = (kvi_norm){KVI_NORM_GAIN, post.weight, 1e-5f};
    op->out_gain = factor.weight;
    op_rig_output(&rig, x);
    if (op_rig_load(&rig, MOST_ROWS, 1, 128, 0)) {
        float out[MOST_ROWS * WIDTH];
        op_rig_rows(&rig, rows, false, out);
        for (uint32_t r = 0; r < rows; r++) {
            double n[WIDTH], a[FFN], sum[WIDTH];
            const double none[FFN > WIDTH ? FFN : WIDTH] = {0};
            oracle_rmsnorm(in.values + (size_t)r * WIDTH, gain.values, (double)1e-5f, WIDTH, n);
            product(g.values, none, FFN, WIDTH, n, a);
            for (uint32_t i = 0; i < FFN; i++)
                a[i] = act(KVI_ACT_GELU_TANH, 0, a[i], beside.values[(size_t)r * (FFN + 2 * FIRST) + FIRST + i]);
            product(d.values, none, WIDTH, FFN, a, sum);
            for (uint32_t i = 0; i < WIDTH; i += RUN)
                oracle_rmsnorm(sum + i, run_gain.values, (double)1e-5f, RUN, sum + i);
            for (uint32_t i = 0; i < WIDTH; i++) sum[i] *= (double)0.7f;
            oracle_rmsnorm(sum, post.values, (double)1e-5f, WIDTH, sum);
            for (uint32_t i = 0; i < WIDTH; i++)
                sum[i] = factor.values[0] * (in.values[(size_t)r * WIDTH + i] + sum[i]);
            check_row(target, "sums beside the residual", r, out + (size_t)r * WIDTH, sum, WIDTH);
        }
    }
    op_rig_close(&rig);
}

void op_case_linear_special(const op_target *target)
{
    for (uint32_t i = 0; i < COUNT(products); i++) run_product(target, &products[i]);
    run_beside(target, 1);
    run_beside(target, 13);
}

/* ------------------------------------------------------------------------------------------------------- routing --- */
#define MOST_EXPERTS 24u

typedef struct route_case {
    uint32_t rows, n_experts;
    kvi_route route;
    bool bias, correction, ties;
    bool scaled; /* logits, and each expert's weight by a gain of its own */
} route_case;

static const route_case routes[] = {
    {1, 8, {KVI_ROUTE_SOFTMAX, 2, .renormalize = true, .scale = 1}, false, false, false, false},
    {9, 24, {KVI_ROUTE_SOFTMAX, 8, .scale = 1}, false, false, false, false},
    {5, 16, {KVI_ROUTE_SIGMOID, 4, 4, 2, 2, .renormalize = true, .scale = 2.5f}, false, true, false, false},
    {5, 16, {KVI_ROUTE_SIGMOID, 3, 4, 1, 1, .scale = 1.8f}, true, true, false, false},
    {12, 24, {KVI_ROUTE_SOFTMAX, 6, 8, 3, 1, .scale = 1}, false, false, false, false},
    {4, 12, {KVI_ROUTE_LOGITS, 4, .softmax_chosen = true, .scale = 1}, true, false, false, false},
    {3, 1, {KVI_ROUTE_SOFTMAX, 1, .renormalize = true, .scale = 1}, false, false, false, false},
    {4, 6, {KVI_ROUTE_SIGMOID, 6, .renormalize = true, .scale = 1}, true, true, false, false},
    {2, 8, {KVI_ROUTE_SOFTMAX, 3, .scale = 1}, false, false, true, false},          /* all logits equal: ids 0, 1, 2 */
    {2, 8, {KVI_ROUTE_SIGMOID, 2, 4, 1, 1, .scale = 1}, false, false, true, false}, /* and the first run of equals */
    {7, 12, {KVI_ROUTE_SOFTMAX, 3, .renormalize = true, .scale = 1}, false, false, false, true}, /* Gemma 4 */
    {3, 9, {KVI_ROUTE_SOFTMAX, 2, .scale = 1}, true, false, false, true},
};

/* The contract of ROUTE for one row, in double precision: chosen ids and weights. */
static void route_row(const route_case *c, const double *logits, const double *correction, uint32_t *ids,
                      double *weights)
{
    const kvi_route *r = &c->route;
    const uint32_t n = c->n_experts, size = r->n_groups > 1 ? n / r->n_groups : n;
    double p[MOST_EXPERTS], choice[MOST_EXPERTS], top = -INFINITY, sum = 0;
    bool alive[MOST_EXPERTS];
    for (uint32_t i = 0; i < n; i++) top = fmax(top, logits[i]);
    for (uint32_t i = 0; i < n; i++) sum += exp(logits[i] - top);
    for (uint32_t i = 0; i < n; i++) {
        p[i] = r->score == KVI_ROUTE_SOFTMAX   ? exp(logits[i] - top) / sum
               : r->score == KVI_ROUTE_SIGMOID ? sigmoid(logits[i])
                                               : logits[i];
        choice[i] = p[i] + (correction ? correction[i] : 0);
        alive[i] = true;
    }
    if (r->n_groups > 1)
        for (uint32_t g = 0; g < r->n_groups; g++) { /* a run stays when fewer than top_groups are better */
            uint32_t better = 0;
            double worth[MOST_EXPERTS];
            for (uint32_t k = 0; k < r->n_groups; k++) {
                double first = -INFINITY, second = -INFINITY;
                for (uint32_t i = k * size; i < (k + 1) * size; i++) {
                    if (choice[i] > first) second = first, first = choice[i];
                    else second = fmax(second, choice[i]);
                }
                worth[k] = first + (r->group_best > 1 ? second : 0);
            }
            for (uint32_t k = 0; k < r->n_groups; k++) better += worth[k] > worth[g] || (worth[k] == worth[g] && k < g);
            for (uint32_t i = g * size; i < (g + 1) * size; i++) alive[i] = better < r->top_groups;
        }
    for (uint32_t j = 0; j < r->top_k; j++) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++)
            if (alive[i] && (best == n || choice[i] > choice[best])) best = i;
        alive[best] = false;
        ids[j] = best;
        weights[j] = r->softmax_chosen ? exp(logits[best]) : p[best];
    }
    sum = 0;
    for (uint32_t j = 0; j < r->top_k; j++) sum += weights[j];
    for (uint32_t j = 0; j < r->top_k; j++)
        weights[j] *= (double)r->scale / (r->renormalize || r->softmax_chosen ? sum : 1);
}

void op_case_route(const op_target *target)
{
    for (uint32_t i = 0; i < COUNT(routes); i++) {
        const route_case *c = &routes[i];
        const uint32_t k = c->route.top_k, n = c->n_experts;
        op_rig rig;
        char text[80];
        snprintf(text, sizeof text, "route, case %u", i);
        op_rig_open(&rig, target);
        const kvi_buffer x = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const kvi_buffer y = op_rig_buffer(&rig, 2 * k, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const op_matrix in = op_rig_input(&rig, x, c->rows);
        const op_matrix gain = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0);
        const op_matrix w = op_rig_experts(&rig, 1, n, WIDTH, KVI_F32);
        const op_matrix b = op_rig_matrix(&rig, 1, n, KVI_F32, 0, 1, 0),
                        correction = op_rig_matrix(&rig, 1, n, KVI_F32, 0, 0.3, 0),
                        gains = op_rig_matrix(&rig, 1, n, KVI_F32, 1, 0.4, 0);
        const double scale = c->scaled ? (double)0.37f : 1;
        if (c->ties) {
            const op_matrix zero = op_rig_matrix(&rig, n, WIDTH, KVI_F32, 0, 0, 0);
            ((op_matrix *)(uintptr_t)&w)->weight = zero.weight;
            memset(w.values, 0, (size_t)n * WIDTH * sizeof *w.values);
        }
        kvi_op *op = op_rig_op(&rig, KVI_OP_ROUTE, x, y);
        *op = (kvi_op){.kind = KVI_OP_ROUTE,
                       .in = x,
                       .out = y,
                       .scale = (float)scale,
                       .norm = {KVI_NORM_GAIN, gain.weight, 1e-5f},
                       .n_experts = n,
                       .route = c->route,
                       .n_weights = 1,
                       .weights = {w.weight, c->correction ? correction.weight : NULL, c->scaled ? gains.weight : NULL},
                       .biases = {c->bias ? b.weight : NULL}};
        op_rig_output(&rig, y);
        float out[MOST_ROWS * 2 * MOST_EXPERTS];
        const bool there = op_rig_load(&rig, MOST_ROWS, 1, 128, 0);
        if (there) op_rig_rows(&rig, c->rows, false, out);
        for (uint32_t r = 0; there && r < c->rows; r++) {
            double normed[WIDTH], logits[MOST_EXPERTS], weights[MOST_EXPERTS], want[2 * MOST_EXPERTS];
            uint32_t ids[MOST_EXPERTS];
            oracle_rmsnorm(in.values + (size_t)r * WIDTH, gain.values, (double)1e-5f, WIDTH, normed);
            product(w.values, NULL, n, WIDTH, normed, logits);
            for (uint32_t e = 0; e < n; e++) logits[e] = scale * logits[e] + (c->bias ? b.values[e] : 0);
            route_row(c, logits, c->correction ? correction.values : NULL, ids, weights);
            for (uint32_t j = 0; j < k; j++)
                want[j] = ids[j], want[k + j] = weights[j] * (c->scaled ? gains.values[ids[j]] : 1);
            for (uint32_t j = 0; j < 2 * k; j++)
                op_check(target, text, r, j, (double)out[(size_t)r * 2 * k + j], want[j],
                         j < k ? 1e-3 : (1e-5 + target->copy) * fmax(1, fabs(want[j])));
        }
        op_rig_close(&rig);
    }
}

/* ------------------------------------------------------------------------------------------------------- experts --- */
#define MOST_PAIRS_ROWS 260u /* one more pair than a packed panel is used for at once, and a few */

typedef struct expert_case {
    uint32_t rows, n_experts, top_k, width;
    kvi_dtype dtype;
    kvi_activation activation;
    bool biases, post_norm;
    float scale;
    bool favoured; /* the same experts for every row, so that the others are unused */
} expert_case;

static const expert_case experts[] = {
    {1, 4, 2, 33, KVI_F32, KVI_ACT_SILU, false, false, 1, false},
    {7, 8, 8, 32, KVI_BF16, KVI_ACT_SILU, false, false, 1, false},
    {8, 5, 2, 31, KVI_F16, KVI_ACT_SILU, true, false, 1, true},
    {9, 1, 1, 64, KVI_F16, KVI_ACT_SILU, false, false, 0.5f, false},
    {9, 6, 1, 65, KVI_F32, KVI_ACT_SILU, true, false, 1, true},
    {20, 16, 4, 40, KVI_F32, KVI_ACT_SWIGLU_OAI, true, false, 1, false},
    {3, 6, 3, 16, KVI_F32, KVI_ACT_GELU_TANH, false, true, 1.5f, false},
    {64, 24, 24, 8, KVI_BF16, KVI_ACT_SILU, false, false, 1, false},
    {64, 24, 3, 72, KVI_BF16, KVI_ACT_SILU, false, false, 1, false},
    {MOST_PAIRS_ROWS, 2, 1, 33, KVI_F32, KVI_ACT_SILU, true, false, 1, true},
};

/* A row's numbers are the same alone and among others. */
static void check_alone(op_rig *rig, uint32_t n_rows, const float *out)
{
    for (uint32_t r = 0; r<n_rows; r += n_rows> 1 ? n_rows - 1 : 1) {
        float alone[WIDTH];
        const int32_t id = (int32_t)r;
        const kvi_seq seq = {.n_rows = 1};
        op_rig_step(rig,
                    &(kvi_step){.ids = &id, .n_rows = 1, .seqs = &seq, .n_seqs = 1, .wide = n_rows > KVI_DECODE_ROWS},
                    false, alone);
        assert_memory_equal(alone, out + (size_t)r * WIDTH, sizeof alone);
    }
}

/* out (rows, WIDTH) */
static void run_experts(const op_target *target, const expert_case *c, float *out)
{
    op_rig rig;
    op_rig_open(&rig, target);
    const uint32_t k = c->top_k, f = c->width;
    const kvi_buffer x = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const kvi_buffer chosen = op_rig_buffer(&rig, 2 * k, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, c->rows);
    const op_matrix gain = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0),
                    post = op_rig_matrix(&rig, 1, WIDTH, KVI_F32, 1, 0.3, 0);
    const op_matrix router = op_rig_experts(&rig, 1, c->n_experts, WIDTH, KVI_F32);
    const op_matrix g = op_rig_experts(&rig, c->n_experts, f, WIDTH, c->dtype),
                    u = op_rig_experts(&rig, c->n_experts, f, WIDTH, c->dtype);
    const op_matrix d = op_rig_experts(&rig, c->n_experts, WIDTH, f, c->dtype);
    const op_matrix bg = op_rig_matrix(&rig, 1, c->n_experts * f, KVI_F32, 0, 1, 0),
                    bu = op_rig_matrix(&rig, 1, c->n_experts * f, KVI_F32, 0, 1, 0);
    const op_matrix bd = op_rig_matrix(&rig, 1, c->n_experts * WIDTH, KVI_F32, 0, 1, 0);
    const kvi_norm norm = {KVI_NORM_GAIN, gain.weight, 1e-5f};
    const route_case rc = {c->rows, c->n_experts, {KVI_ROUTE_SOFTMAX, k, .renormalize = true, .scale = 1}, false, false,
                           false,   false};
    const op_matrix favour = op_rig_matrix(&rig, 1, c->n_experts, KVI_F32, 0, c->favoured ? 30 : 0, 0);
    *op_rig_op(&rig, KVI_OP_ROUTE, x, chosen) = (kvi_op){.kind = KVI_OP_ROUTE,
                                                         .in = x,
                                                         .out = chosen,
                                                         .scale = 1,
                                                         .norm = norm,
                                                         .n_experts = c->n_experts,
                                                         .route = rc.route,
                                                         .n_weights = 1,
                                                         .weights = {router.weight},
                                                         .biases = {favour.weight}};
    *op_rig_op(&rig, KVI_OP_EXPERTS, x, x) =
        (kvi_op){.kind = KVI_OP_EXPERTS,
                 .in = x,
                 .out = x,
                 .side = chosen,
                 .scale = c->scale,
                 .norm = norm,
                 .n_experts = c->n_experts,
                 .expert_width = f,
                 .route = rc.route,
                 .n_weights = 3,
                 .weights = {g.weight, u.weight, d.weight},
                 .biases = {c->biases ? bg.weight : NULL, c->biases ? bu.weight : NULL, c->biases ? bd.weight : NULL},
                 .activation = c->activation,
                 .limit = 1.5f,
                 .post_norm = {c->post_norm ? KVI_NORM_GAIN : KVI_NORM_NONE, post.weight, 1e-5f}};
    op_rig_output(&rig, x);
    const bool there = op_rig_load(&rig, MOST_PAIRS_ROWS, 1, 512, 0);
    if (there) op_rig_rows(&rig, c->rows, false, out);
    if (there) check_alone(&rig, c->rows, out);
    uint32_t used = 0;
    for (uint32_t r = 0; there && r < c->rows; r++) {
        double n[WIDTH], logits[MOST_EXPERTS], weights[MOST_EXPERTS], a[MOST_WIDTH], b[MOST_WIDTH], y[WIDTH],
            sum[WIDTH] = {0};
        uint32_t ids[MOST_EXPERTS];
        oracle_rmsnorm(in.values + (size_t)r * WIDTH, gain.values, (double)1e-5f, WIDTH, n);
        product(router.values, favour.values, c->n_experts, WIDTH, n, logits);
        route_row(&rc, logits, NULL, ids, weights);
        for (uint32_t j = 0; j < k; j++) {
            const uint32_t e = ids[j];
            used |= 1u << e;
            product(g.values + (size_t)e * f * WIDTH, c->biases ? bg.values + (size_t)e * f : NULL, f, WIDTH, n, a);
            product(u.values + (size_t)e * f * WIDTH, c->biases ? bu.values + (size_t)e * f : NULL, f, WIDTH, n, b);
            for (uint32_t i = 0; i < f; i++) a[i] = act(c->activation, 1.5, a[i], b[i]);
            product(d.values + (size_t)e * f * WIDTH, c->biases ? bd.values + (size_t)e * WIDTH : NULL, WIDTH, f, a, y);
            for (uint32_t i = 0; i < WIDTH; i++) sum[i] += weights[j] * y[i];
        }
        if (c->post_norm) oracle_rmsnorm(sum, post.values, (double)1e-5f, WIDTH, sum);
        for (uint32_t i = 0; i < WIDTH; i++) sum[i] = in.values[(size_t)r * WIDTH + i] + (double)c->scale * sum[i];
        check_row(target, "experts", r, out + (size_t)r * WIDTH, sum, WIDTH);
    }
    if (there && c->favoured) assert_true(used != (1u << c->n_experts) - 1u); /* somebody is unused */
    op_rig_close(&rig);
}

void op_case_experts(const op_target *target)
{
    float out[MOST_PAIRS_ROWS * WIDTH];
    for (uint32_t i = 0; i < COUNT(experts); i++) run_experts(target, &experts[i], out);
}

void op_case_experts_bits(const op_target *a, const op_target *b)
{
    float first[MOST_PAIRS_ROWS * WIDTH], second[MOST_PAIRS_ROWS * WIDTH];
    for (uint32_t i = 0; i < COUNT(experts); i++) {
        op_seed = i + 1;
        run_experts(a, &experts[i], first);
        op_seed = i + 1;
        run_experts(b, &experts[i], second);
        assert_memory_equal(first, second, (size_t)experts[i].rows * WIDTH * sizeof *first);
    }
}

/* ----------------------------------------------------------------------------------------------- recurrent layers --- */
#define STATE_ROWS 70u /* tokens of a sequence */
#define SEQS 2u

/* Sequences of n_tokens through the program in steps of `chunk` rows each; their states stand behind one another in a pool of NaNs. out (n_seqs,
 * n_tokens, cols). */
static void run_states(op_rig *rig, uint32_t n_seqs, uint32_t n_tokens, uint32_t chunk, uint32_t state_units,
                       float *out)
{
    const kvi_backend *backend = rig->target->backend;
    const uint32_t cols = rig->program.vocab_size;
    const size_t pool = (size_t)rig->limits.pool_bytes;
    unsigned char *nan = malloc(pool);
    float *rows = calloc((size_t)n_seqs * chunk * cols, sizeof *rows);
    int32_t *ids = calloc(n_seqs * chunk, sizeof *ids);
    assert_true(nan && rows && ids);
    memset(nan, 0xff, pool);
    assert_true(backend->pool_write(rig->device, 0, nan, pool, NULL) >= KVRT_OK);
    for (uint32_t done = 0; done < n_tokens; done += chunk) {
        const uint32_t n = n_tokens - done < chunk ? n_tokens - done : chunk;
        kvi_seq seqs[SEQS];
        for (uint32_t s = 0; s < n_seqs; s++) {
            seqs[s] = (kvi_seq){.first_row = s * n, .n_rows = n, .pos = done, .state_unit = s * state_units};
            for (uint32_t i = 0; i < n; i++) ids[s * n + i] = (int32_t)(s * n_tokens + done + i);
        }
        op_rig_step(rig, &(kvi_step){.ids = ids, .n_rows = n_seqs * n, .seqs = seqs, .n_seqs = n_seqs}, done % 2, rows);
        for (uint32_t s = 0; s < n_seqs; s++)
            memcpy(out + ((size_t)s * n_tokens + done) * cols, rows + (size_t)s * n * cols,
                   (size_t)n * cols * sizeof *out);
    }
    free(nan);
    free(rows);
    free(ids);
}

static uint32_t state_units(op_rig *rig, uint64_t bytes)
{
    rig->program.state_bytes = bytes;
    return (uint32_t)((bytes + KVI_KV_UNIT - 1) / KVI_KV_UNIT);
}

void op_case_conv_state(const op_target *target)
{
    static const uint32_t taps[] = {2, 4, 4, 8}, widths[] = {16, 64, 65, 130}, chunks[] = {1, 3, 64, 7};
    for (uint32_t i = 0; i < COUNT(taps); i++) {
        const uint32_t cols = widths[i], n_taps = taps[i];
        op_rig rig;
        op_rig_open(&rig, target);
        const kvi_buffer x = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const kvi_buffer y = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const op_matrix in = op_rig_input(&rig, x, SEQS * STATE_ROWS);
        const op_matrix w = op_rig_matrix(&rig, cols, n_taps, i % 2 ? KVI_BF16 : KVI_F32, 0, 0.5, 0),
                        b = op_rig_matrix(&rig, 1, cols, KVI_F32, 0, 1, 0);
        *op_rig_op(&rig, KVI_OP_CONV_STATE, x, y) = (kvi_op){.kind = KVI_OP_CONV_STATE,
                                                             .in = x,
                                                             .out = y,
                                                             .scale = 1,
                                                             .n_weights = 1,
                                                             .weights = {w.weight},
                                                             .biases = {i % 2 ? b.weight : NULL},
                                                             .state_off = 64};
        op_rig_output(&rig, y);
        const uint32_t units = state_units(&rig, 64 + (uint64_t)(n_taps - 1) * cols * 4);
        float *out = calloc((size_t)SEQS * STATE_ROWS * cols, sizeof *out);
        assert_non_null(out);
        if (op_rig_load(&rig, SEQS * chunks[i], SEQS, 256, (uint64_t)SEQS * units * KVI_KV_UNIT)) {
            run_states(&rig, SEQS, STATE_ROWS, chunks[i], units, out);
            for (uint32_t s = 0; s < SEQS; s++)
                for (uint32_t t = 0; t < STATE_ROWS; t++)
                    for (uint32_t c = 0; c < cols; c++) {
                        double sum = i % 2 ? b.values[c] : 0;
                        for (uint32_t j = 0; j < n_taps; j++)
                            if (t + j + 1 >= n_taps)
                                sum += w.values[(size_t)c * n_taps + j] *
                                       in.values[((size_t)s * STATE_ROWS + t + j + 1 - n_taps) * cols + c];
                        op_check(target, "conv_state", t, c, (double)out[((size_t)s * STATE_ROWS + t) * cols + c],
                                 sum * sigmoid(sum), 1e-5 + target->copy * fabs(sum));
                    }
        }
        free(out);
        op_rig_close(&rig);
    }
}

typedef struct delta_case {
    uint32_t heads, key_heads, dk, dv, chunk;
    double a_log, dt; /* decays: exp(-exp(a_log) softplus(a + dt)) */
    bool gated, tiled;
} delta_case;

static const delta_case deltas[] = {
    {2, 1, 16, 16, 1, 0, 0, false, false},
    {4, 2, 8, 24, 9, 0, 0, true, false},
    {2, 2, 32, 16, 70, 3, 4, true, false} /* decay near 0 */,
    {1, 1, 16, 8, 33, -9, 0, false, false} /* near 1 */,
    {6, 2, 16, 32, 64, -2, 1, true, false},
    {6, 2, 16, 32, 64, -2, 1, true, true} /* the other order of heads */,
    {2, 1, 128, 128, 8, -3, 0, true, false} /* as models have it */,
    {1, 1, 33, 127, 70, -1, 0, false, false} /* odd, and one below a vector */,
    {1, 1, 64, 129, 1, -1, 0, false, false},
    {1, 1, 129, 9, 9, -1, 0, false, false} /* one above the widest that models have */,
    {2, 1, 256, 16, 8, -2, 0, true, false},
    {2, 2, 7, 1, 5, 0, 0, true, false},
};

static void delta_reference(const delta_case *c, const double *in, const double *side, const double *z,
                            const double *rates, const double *dt, const double *gain, double *out)
{
    const uint32_t keys = c->key_heads * c->dk, cols = 2 * keys + c->heads * c->dv;
    double *s = calloc((size_t)c->dk * c->dv, sizeof *s), q[256], k[256], e[129];
    assert_non_null(s);
    for (uint32_t h = 0; h < c->heads; h++) {
        const uint32_t kh = c->tiled ? h % c->key_heads : h / (c->heads / c->key_heads);
        memset(s, 0, (size_t)c->dk * c->dv * sizeof *s);
        for (uint32_t t = 0; t < STATE_ROWS; t++) {
            const double *x = in + (size_t)t * cols, *ba = side + (size_t)t * 2 * c->heads,
                         *v = x + 2 * keys + h * c->dv;
            double qq = 0, kk = 0, *o = out + ((size_t)t * c->heads + h) * c->dv, squares = 0;
            for (uint32_t i = 0; i < c->dk; i++)
                qq += x[kh * c->dk + i] * x[kh * c->dk + i], kk += x[keys + kh * c->dk + i] * x[keys + kh * c->dk + i];
            for (uint32_t i = 0; i < c->dk; i++) {
                q[i] = x[kh * c->dk + i] / sqrt(qq + 1e-6) / sqrt(c->dk);
                k[i] = x[keys + kh * c->dk + i] / sqrt(kk + 1e-6);
            }
            const double beta = sigmoid(ba[h]), decay = exp(-exp(rates[h]) * log1p(exp(ba[c->heads + h] + dt[h])));
            for (uint32_t i = 0; i < c->dk * c->dv; i++) s[i] *= decay;
            for (uint32_t j = 0; j < c->dv; j++) {
                double old = 0;
                for (uint32_t i = 0; i < c->dk; i++) old += s[i * c->dv + j] * k[i];
                e[j] = beta * (v[j] - old);
            }
            for (uint32_t j = 0; j < c->dv; j++) {
                o[j] = 0;
                for (uint32_t i = 0; i < c->dk; i++) s[i * c->dv + j] += k[i] * e[j], o[j] += s[i * c->dv + j] * q[i];
                squares += o[j] * o[j];
            }
            for (uint32_t j = 0; j < c->dv; j++) {
                o[j] = o[j] / sqrt(squares / c->dv + (double)1e-6f) * gain[j];
                const double g = z[((size_t)t * c->heads + h) * c->dv + j];
                if (c->gated) o[j] *= g * sigmoid(g);
            }
        }
    }
    free(s);
}

void op_case_delta(const op_target *target)
{
    for (uint32_t i = 0; i < COUNT(deltas); i++) {
        const delta_case *c = &deltas[i];
        const uint32_t cols = 2 * c->key_heads * c->dk + c->heads * c->dv, out_cols = c->heads * c->dv;
        op_rig rig;
        char text[60];
        snprintf(text, sizeof text, "delta, case %u", i);
        op_rig_open(&rig, target);
        const kvi_buffer x = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const kvi_buffer side = op_rig_buffer(&rig, 2 * c->heads, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const kvi_buffer z = op_rig_buffer(&rig, out_cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const kvi_buffer y = op_rig_buffer(&rig, out_cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const op_matrix in = op_rig_input(&rig, x, SEQS * STATE_ROWS), ba = op_rig_input(&rig, side, SEQS * STATE_ROWS);
        const op_matrix gates = op_rig_input(&rig, z, SEQS * STATE_ROWS);
        const op_matrix rates = op_rig_matrix(&rig, 1, c->heads, KVI_F32, c->a_log, 0.3, 0),
                        dt = op_rig_matrix(&rig, 1, c->heads, KVI_F32, c->dt, 0.3, 0);
        const op_matrix gain = op_rig_matrix(&rig, 1, c->dv, KVI_F32, 1, 0.3, 0);
        *op_rig_op(&rig, KVI_OP_DELTA, x, y) = (kvi_op){.kind = KVI_OP_DELTA,
                                                        .in = x,
                                                        .out = y,
                                                        .side = side,
                                                        .gated = c->gated,
                                                        .gate = z,
                                                        .scale = 1,
                                                        .n_weights = 2,
                                                        .weights = {rates.weight, dt.weight},
                                                        .q_norm = {KVI_NORM_GAIN, gain.weight, 1e-6f},
                                                        .n_heads = c->heads,
                                                        .n_kv_heads = c->key_heads,
                                                        .key_dim = c->dk,
                                                        .value_dim = c->dv,
                                                        .tiled_heads = c->tiled};
        op_rig_output(&rig, y);
        const uint32_t units = state_units(&rig, (uint64_t)c->heads * c->dk * c->dv * 4);
        float *out = calloc((size_t)SEQS * STATE_ROWS * out_cols, sizeof *out);
        double *want = calloc((size_t)STATE_ROWS * out_cols, sizeof *want);
        assert_true(out && want);
        if (op_rig_load(&rig, SEQS * c->chunk, SEQS, 256, (uint64_t)SEQS * units * KVI_KV_UNIT)) {
            run_states(&rig, SEQS, STATE_ROWS, c->chunk, units, out);
            for (uint32_t s = 0; s < SEQS; s++) {
                const size_t first = (size_t)s * STATE_ROWS;
                delta_reference(c, in.values + first * cols, ba.values + first * 2 * c->heads,
                                gates.values + first * out_cols, rates.values, dt.values, gain.values, want);
                for (uint32_t t = 0; t < STATE_ROWS; t++)
                    for (uint32_t k = 0; k < out_cols; k++)
                        op_check(target, text, t, k, (double)out[(first + t) * out_cols + k],
                                 want[(size_t)t * out_cols + k],
                                 (3e-5 + target->copy) * fmax(1, fabs(want[(size_t)t * out_cols + k])));
            }
        }
        free(out);
        free(want);
        op_rig_close(&rig);
    }
}

/* ---- a long text ---- */
#define LONG_TOKENS 4096u
#define LONG_DIM 64u
#define LONG_BLOCK 64u

/* One head by the chunked form, which is another computation: with the decays G summed within a block and D[i][j] = exp(G[i] - G[j]) below the
 * diagonal, (I + L) U = beta V and (I + L) W = beta e^G K are solved for L = beta K K^T D, and
 *   V' = U - W S;   o = e^G Q S + (Q K^T D) V';   S = e^G[last] S + (e^(G[last] - G) K)^T V'.
 * q, k, v (LONG_TOKENS, LONG_DIM) normalized; g, beta (LONG_TOKENS); out like v. */
static void delta_in_blocks(const double *q, const double *k, const double *v, const double *g, const double *beta,
                            double *out)
{
    static double s[LONG_DIM][LONG_DIM], u[LONG_BLOCK][LONG_DIM], w[LONG_BLOCK][LONG_DIM], sum[LONG_BLOCK];
    memset(s, 0, sizeof s);
    for (uint32_t b = 0; b < LONG_TOKENS; b += LONG_BLOCK) {
        const double *qb = q + b * LONG_DIM, *kb = k + b * LONG_DIM, *vb = v + b * LONG_DIM;
        for (uint32_t i = 0; i < LONG_BLOCK; i++) sum[i] = g[b + i] + (i ? sum[i - 1] : 0);
        for (uint32_t i = 0; i < LONG_BLOCK; i++) {
            for (uint32_t d = 0; d < LONG_DIM; d++) {
                u[i][d] = beta[b + i] * vb[i * LONG_DIM + d];
                w[i][d] = beta[b + i] * exp(sum[i]) * kb[i * LONG_DIM + d];
            }
            for (uint32_t j = 0; j < i; j++) {
                double l = 0;
                for (uint32_t d = 0; d < LONG_DIM; d++) l += kb[i * LONG_DIM + d] * kb[j * LONG_DIM + d];
                l *= beta[b + i] * exp(sum[i] - sum[j]);
                for (uint32_t d = 0; d < LONG_DIM; d++) u[i][d] -= l * u[j][d], w[i][d] -= l * w[j][d];
            }
        }
        for (uint32_t i = 0; i < LONG_BLOCK; i++) /* u becomes V' */
            for (uint32_t d = 0; d < LONG_DIM; d++)
                for (uint32_t c = 0; c < LONG_DIM; c++) u[i][c] -= w[i][d] * s[d][c];
        for (uint32_t i = 0; i < LONG_BLOCK; i++) {
            double *o = out + (b + i) * LONG_DIM;
            memset(o, 0, LONG_DIM * sizeof *o);
            for (uint32_t d = 0; d < LONG_DIM; d++)
                for (uint32_t c = 0; c < LONG_DIM; c++) o[c] += exp(sum[i]) * qb[i * LONG_DIM + d] * s[d][c];
            for (uint32_t j = 0; j <= i; j++) {
                double a = 0;
                for (uint32_t d = 0; d < LONG_DIM; d++) a += qb[i * LONG_DIM + d] * kb[j * LONG_DIM + d];
                for (uint32_t c = 0; c < LONG_DIM; c++) o[c] += a * exp(sum[i] - sum[j]) * u[j][c];
            }
        }
        const double last = sum[LONG_BLOCK - 1];
        for (uint32_t d = 0; d < LONG_DIM; d++)
            for (uint32_t c = 0; c < LONG_DIM; c++) {
                s[d][c] *= exp(last);
                for (uint32_t i = 0; i < LONG_BLOCK; i++)
                    s[d][c] += exp(last - sum[i]) * kb[i * LONG_DIM + d] * u[i][c];
            }
    }
}

static void unit_row(const double *x, double scale, double *y)
{
    double squares = 0;
    for (uint32_t d = 0; d < LONG_DIM; d++) squares += x[d] * x[d];
    for (uint32_t d = 0; d < LONG_DIM; d++) y[d] = x[d] / sqrt(squares + 1e-6) * scale;
}

/* 4,096 tokens, heads whose decay is near one, in the middle and near nothing, against the chunked form in double: 1e-5 of
 * the length that rows of the head have. */
void op_case_delta_long(const op_target *target)
{
    enum { HEADS = 4, COLS = (2 + HEADS) * LONG_DIM, OUT = HEADS * LONG_DIM };
    static const float a_log[HEADS] = {-9, -2, 0, 3}, shift[HEADS] = {-2, 0, 0, 3};
    op_rig rig;
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, COLS, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const kvi_buffer side = op_rig_buffer(&rig, 2 * HEADS, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const kvi_buffer y = op_rig_buffer(&rig, OUT, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, LONG_TOKENS), ba = op_rig_input(&rig, side, LONG_TOKENS);
    kvi_weight *rates = NULL, *dt = NULL;
    kvi_weight_desc vector = {.name = "A", .form = KVI_FORM_F32, .n_out = 1, .n_in = HEADS, .parts = {a_log}};
    assert_true(target->backend->weight_import(rig.device, &vector, &rates, NULL) >= KVRT_OK);
    vector.parts[KVI_PART_CODES] = shift;
    assert_true(target->backend->weight_import(rig.device, &vector, &dt, NULL) >= KVRT_OK);
    *op_rig_op(&rig, KVI_OP_DELTA, x, y) = (kvi_op){.kind = KVI_OP_DELTA,
                                                    .in = x,
                                                    .out = y,
                                                    .side = side,
                                                    .scale = 1,
                                                    .n_weights = 2,
                                                    .weights = {rates, dt},
                                                    .n_heads = HEADS,
                                                    .n_kv_heads = 1,
                                                    .key_dim = LONG_DIM,
                                                    .value_dim = LONG_DIM};
    op_rig_output(&rig, y);
    const uint32_t units = state_units(&rig, (uint64_t)OUT * LONG_DIM * 4);
    float *out = calloc((size_t)LONG_TOKENS * OUT, sizeof *out);
    double *q = calloc((size_t)LONG_TOKENS * LONG_DIM * 4, sizeof *q), *k = q + LONG_TOKENS * LONG_DIM,
           *v = k + LONG_TOKENS * LONG_DIM, *want = v + LONG_TOKENS * LONG_DIM;
    double *g = calloc(2 * LONG_TOKENS, sizeof *g), *beta = g + LONG_TOKENS;
    assert_true(out && q && g);
    if (op_rig_load(&rig, 512, 1, LONG_TOKENS, (uint64_t)units * KVI_KV_UNIT)) {
        run_states(&rig, 1, LONG_TOKENS, 512, units, out);
        for (uint32_t h = 0; h < HEADS; h++) {
            for (uint32_t t = 0; t < LONG_TOKENS; t++) {
                const double *row = in.values + (size_t)t * COLS, *b = ba.values + (size_t)t * 2 * HEADS;
                unit_row(row, 1 / sqrt(LONG_DIM), q + t * LONG_DIM);
                unit_row(row + LONG_DIM, 1, k + t * LONG_DIM);
                memcpy(v + t * LONG_DIM, row + (2 + h) * LONG_DIM, LONG_DIM * sizeof *v);
                beta[t] = sigmoid(b[h]);
                g[t] = -exp((double)a_log[h]) * log1p(exp(b[HEADS + h] + (double)shift[h]));
            }
            delta_in_blocks(q, k, v, g, beta, want);
            double all = 0;
            for (uint32_t i = 0; i < LONG_TOKENS * LONG_DIM; i++) all += want[i] * want[i];
            for (uint32_t t = 0; t < LONG_TOKENS; t++) {
                double error = 0;
                for (uint32_t c = 0; c < LONG_DIM; c++) {
                    const double e = (double)out[(size_t)t * OUT + h * LONG_DIM + c] - want[t * LONG_DIM + c];
                    error += e * e;
                }
                op_check(target, "delta of a long text, head", h, t, sqrt(error / (all / LONG_TOKENS)), 0,
                         1e-5 + 4 * target->copy); /* q, k, v, gates and results are rounded */
            }
        }
    }
    free(out);
    free(q);
    free(g);
    op_rig_close(&rig);
}

/* --------------------------------------------------------------------------------------------------------- ahead --- */
/* The last row becomes the first; two rows side by side, each behind a norm of its own. */
static void last_row(const op_target *target, uint32_t rows)
{
    op_rig rig;
    float out[MOST_ROWS * WIDTH];
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, rows);
    op_rig_op(&rig, KVI_OP_LAST, x, x);
    op_rig_output(&rig, x);
    if (op_rig_load(&rig, MOST_ROWS, 1, 128, 0)) {
        op_rig_rows(&rig, rows, rows % 2, out);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t i = 0; i < WIDTH; i++) {
                const double want = in.values[(size_t)(r ? r : rows - 1) * WIDTH + i];
                op_check(target, "last", r, i, (double)out[r * WIDTH + i], want, target->copy * fabs(want) + 1e-7);
            }
    }
    op_rig_close(&rig);
}

static void join(const op_target *target, uint32_t rows, uint32_t left, bool norms)
{
    op_rig rig;
    float out[MOST_ROWS * WIDTH];
    double want[WIDTH];
    op_rig_open(&rig, target);
    const uint32_t right = WIDTH - left;
    const kvi_buffer a = op_rig_buffer(&rig, left, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND),
                     b = op_rig_buffer(&rig, right, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND),
                     both = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    const op_matrix in = op_rig_input(&rig, a, rows), side = op_rig_input(&rig, b, rows),
                    gain = op_rig_matrix(&rig, 1, left, KVI_F32, 1, 0.3, 0);
    kvi_op *op = op_rig_op(&rig, KVI_OP_JOIN, a, both);
    op->side = b;
    if (norms) op->norm = (kvi_norm){KVI_NORM_GAIN, gain.weight, 1e-5f};
    if (norms) op->post_norm = (kvi_norm){KVI_NORM_BARE, NULL, 1e-5f};
    op_rig_output(&rig, both);
    if (op_rig_load(&rig, MOST_ROWS, 1, 128, 0)) {
        op_rig_rows(&rig, rows, rows % 2, out);
        for (uint32_t r = 0; r < rows; r++) {
            memcpy(want, in.values + (size_t)r * left, left * sizeof *want);
            memcpy(want + left, side.values + (size_t)r * right, right * sizeof *want);
            if (norms) oracle_rmsnorm(want, gain.values, (double)1e-5f, left, want);
            if (norms) oracle_rmsnorm(want + left, NULL, (double)1e-5f, right, want + left);
            check_row(target, "join", r, out + r * WIDTH, want, WIDTH);
        }
    }
    op_rig_close(&rig);
}

void op_case_ahead(const op_target *target)
{
    static const uint32_t rows[] = {1, 2, 8, 9, 20};
    for (uint32_t i = 0; i < COUNT(rows); i++) {
        last_row(target, rows[i]);
        join(target, rows[i], i % 2 ? 40 : 8, i % 3);
    }
}
