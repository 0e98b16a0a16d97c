/* op_cases_forms.c - products, embeddings and experts with weights of every form that is implemented, against double precision. A backend
 * that lacks a form says so by name instead. */
#include "op_cases.h"
#include "op_forms.h"
#include "tolerance.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MAX_IN 640u
#define MAX_OUT 70u
#define MAX_ROWS 33u
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))

/* Edges: pieces of 256, blocks of 32, words of 8 codes; groups that end with the row and groups that do not; one scale for all, for a row,
 * for some rows. */
static const struct form_case {
    op_form form;
    uint32_t n_in;
} forms[] = {
    {{KVI_FORM_F32, .misalign = 1}, 257},
    {{KVI_FORM_F16, .misalign = 3}, 255},
    {{KVI_FORM_BF16, .misalign = 1}, 512},
    {{KVI_FORM_F64, .misalign = 5}, 300},
    {{KVI_FORM_F8_E4M3, .group_rows = MAX_OUT, .scale_type = KVI_F32}, 33},
    {{KVI_FORM_F8_E4M3, .scale_type = KVI_BF16, .misalign = 1}, 256},
    {{KVI_FORM_F8_E4M3, .group = 128, .group_rows = 16, .scale_type = KVI_F32, .global = true, .misalign = 3}, 300},
    {{KVI_FORM_I8, .scale_type = KVI_F16}, 257},
    {{KVI_FORM_I8, .group = 32, .scale_type = KVI_F32, .zeros = true, .misalign = 1}, 640},
    {{KVI_FORM_I8, .group = 7, .scale_type = KVI_BF16, .zeros = true, .scattered = true}, 100},
    {{KVI_FORM_I4, .group = 128, .scale_type = KVI_F16}, 384},
    {{KVI_FORM_I4, .group = 32, .scale_type = KVI_F16, .zeros = true, .misalign = 1}, 296},
    {{KVI_FORM_I4, .group = 128, .scale_type = KVI_BF16, .zeros = true, .scattered = true, .misalign = 3}, 264},
    {{KVI_FORM_I4, .scale_type = KVI_F32}, 13},
    {{KVI_FORM_I4, .group = 32, .scale_type = KVI_F16, .zeros = true, .lay = OP_LAY_GPTQ, .misalign = 2}, 296},
    {{KVI_FORM_I4, .group = 64, .scale_type = KVI_BF16, .zeros = true, .lay = OP_LAY_GPTQ_V1, .scattered = true}, 256},
    {{KVI_FORM_I4, .scale_type = KVI_F16, .lay = OP_LAY_GPTQ}, 264},
    {{KVI_FORM_I8, .group = 32, .scale_type = KVI_F16, .zeros = true, .is_unsigned = true, .lay = OP_LAY_GPTQ_V1}, 260},
    {{KVI_FORM_I4, .group = 128, .scale_type = KVI_F16, .zeros = true, .lay = OP_LAY_AWQ, .misalign = 1}, 300},
    {{KVI_FORM_I4, .group = 32, .scale_type = KVI_F16, .zeros = true, .lay = OP_LAY_GEMV}, 288},
    {{KVI_FORM_I4, .group = 32, .scale_type = KVI_BF16, .zeros = true, .lay = OP_LAY_PACKED, .misalign = 1}, 320},
    {{KVI_FORM_I8, .group = 64, .scale_type = KVI_BF16, .zeros = true, .is_unsigned = true, .lay = OP_LAY_PACKED}, 256},
    {{KVI_FORM_I8, .group = 64, .scale_type = KVI_BF16, .is_unsigned = true}, 192},
    {{KVI_FORM_Q4_0, .misalign = 1}, 32},
    {{KVI_FORM_Q4_0, .misalign = 2}, 288},
    {{KVI_FORM_Q4_1, .misalign = 1}, 256},
    {{KVI_FORM_Q4_1, .misalign = 2}, 544},
    {{KVI_FORM_Q8_0, .misalign = 1}, 224},
    {{KVI_FORM_Q8_0, .misalign = 2}, 512},
};

/* Imports; NULL when the backend does not have the form and says so. */
static const kvi_weight *import(op_rig *rig, const kvi_weight_desc *desc)
{
    const kvi_backend *backend = rig->target->backend;
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight = NULL;
    uint64_t bytes = 0;
    if (backend->weight_bytes(desc, &bytes, &error) == KVRT_UNSUPPORTED) {
        assert_false(kvi_form_is_plain(desc->form));
        assert_true(strstr(error.message, desc->name) && strstr(error.message, kvi_form(desc->form)->name));
        assert_int_equal(backend->weight_import(rig->device, desc, &weight, &error), KVRT_UNSUPPORTED);
        op_refused(rig->target, &error);
        return NULL;
    }
    if (backend->weight_import(rig->device, desc, &weight, &error) < KVRT_OK) fail_msg("%s", error.message);
    return weight;
}

static kvi_weight_desc matrix(uint32_t n_experts, uint32_t n_out, uint32_t n_in)
{
    return (kvi_weight_desc){.name = "test.form", .n_out = n_out, .n_in = n_in, .n_experts = n_experts};
}

/* What a product may be off by, as a part of the sum of its terms' sizes. */
static double limit_of(const op_target *target, const op_form *form)
{
    const bool bf16 = form->form == KVI_FORM_BF16;
    return bf16 ? target->linear : target->linear_f16 > 0 ? target->linear_f16 : OPS_LINEAR_F32;
}

/* What rounding activations to 8 bits may add: half a step of each, with the row's largest for all its steps, times the weights. 0 where nothing
 * is rounded. */
static double rounding_of(const op_target *target, kvi_weight_form form, const double *w, const double *x, uint32_t n)
{
    double most = 0, sum = 0;
    if (!target->integers || kvi_form_is_plain(form) || form == KVI_FORM_F64 || form == KVI_FORM_F8_E4M3) return 0;
    for (uint32_t k = 0; k < n; k++) {
        most = fmax(most, fabs(x[k]));
        sum += fabs(w[k]);
    }
    return 0.5 * most / 127 * sum * 1.001;
}

/* --------------------------------------------------------------------------------------------------------- products --- */
static void product(const op_target *target, uint32_t index, uint32_t rows, uint32_t n_out)
{
    const struct form_case *c = &forms[index];
    op_rig rig;
    char text[120];
    float out[MAX_ROWS * MAX_OUT];
    snprintf(text, sizeof text, "form case %u (%s), %u rows, %u of %u", index, kvi_form(c->form.form)->name, rows,
             n_out, c->n_in);
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, c->n_in, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND),
                     y = op_rig_buffer(&rig, n_out, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, rows), before = op_rig_input(&rig, y, rows);
    kvi_weight_desc desc = matrix(1, n_out, c->n_in);
    const double *w = op_form_fill(&rig, &c->form, &desc);
    kvi_op *op = op_rig_op(&rig, KVI_OP_LINEAR_ADD, x, y);
    op->n_weights = 1;
    op->weights[0] = import(&rig, &desc);
    if (op->weights[0]) op_rig_output(&rig, y);
    const bool there = op->weights[0] && op_rig_load(&rig, rows, 1, 128, 0);
    if (there) op_rig_rows(&rig, rows, false, out);
    for (uint32_t r = 0; there && r < rows; r++)
        for (uint32_t o = 0; o < n_out; o++) {
            double want = before.values[(size_t)r * n_out + o], size = fabs(want);
            for (uint32_t k = 0; k < c->n_in; k++) {
                const double p = w[(size_t)o * c->n_in + k] * in.values[(size_t)r * c->n_in + k];
                want += p;
                size += fabs(p);
            }
            op_check(target, text, r, o, (double)out[(size_t)r * n_out + o], want,
                     (size + fabs(want)) * limit_of(target, &c->form) +
                         rounding_of(target, c->form.form, w + (size_t)o * c->n_in, in.values + (size_t)r * c->n_in,
                                     c->n_in));
        }
    op_rig_close(&rig);
}

static void embedding(const op_target *target, uint32_t index)
{
    const struct form_case *c = &forms[index];
    op_rig rig;
    float out[5 * MAX_IN];
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, c->n_in, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    kvi_weight_desc desc = matrix(1, 37, c->n_in);
    const double *table = op_form_fill(&rig, &c->form, &desc);
    kvi_op *op = op_rig_op(&rig, KVI_OP_EMBED, x, x);
    op->n_weights = 1;
    op->weights[0] = import(&rig, &desc);
    rig.n_ids = desc.n_out;
    if (op->weights[0]) op_rig_output(&rig, x);
    if (op->weights[0] && op_rig_load(&rig, 5, 1, 128, 0)) {
        const int32_t ids[5] = {36, 0, 17, 1, 35};
        const kvi_seq seq = {.n_rows = 5};
        op_rig_step(&rig, &(kvi_step){.ids = ids, .n_rows = 5, .seqs = &seq, .n_seqs = 1}, false, out);
        for (uint32_t r = 0; r < 5; r++)
            for (uint32_t k = 0; k < c->n_in; k++) {
                const double want = table[(size_t)ids[r] * c->n_in + k];
                /* (code - zero) * scale is two roundings, d q + m is one more of each */
                op_check(target, "embedding", r, k, (double)out[r * c->n_in + k], want,
                         target->copy * fabs(want) + 1e-7);
            }
    }
    op_rig_close(&rig);
}

void op_case_forms(const op_target *target)
{
    static const uint32_t rows[] = {1, 3, 8, 9, 33}, outs[] = {2, 7, 33, 70, 16};
    for (uint32_t i = 0; i < COUNT(forms); i++) {
        for (uint32_t k = 0; k < COUNT(rows); k++) product(target, i, rows[k], outs[(i + k) % COUNT(outs)]);
        embedding(target, i);
    }
}

/* ------------------------------------------------------------------------------------------------------------ mixed --- */
#define MIXED_IN 416u
#define MIXED_COLS 160u

/* What stands side by side: weights whose activations are rounded alike, otherwise, in another order, and not at all. */
static const struct mixed_case {
    op_form forms[3];
    uint32_t n_out[3];
    bool gated, biased;
} mixed[] = {
    {.forms = {{.form = KVI_FORM_Q8_0},
               {.form = KVI_FORM_I4, .group = 128, .scale_type = KVI_F16},
               {.form = KVI_FORM_Q8_0}},
     .n_out = {64, 49, 33},
     .biased = true},
    {.forms = {{.form = KVI_FORM_I4, .group = 32, .scale_type = KVI_BF16, .zeros = true, .scattered = true},
               {.form = KVI_FORM_I4, .group = 32, .scale_type = KVI_BF16, .zeros = true, .scattered = true},
               {.form = KVI_FORM_BF16}},
     .n_out = {48, 80, 17}},
    {.forms = {{.form = KVI_FORM_F16}, {.form = KVI_FORM_Q4_1}, {.form = KVI_FORM_Q4_0}},
     .n_out = {20, 70, 70},
     .biased = true},
    {.forms = {{.form = KVI_FORM_Q4_0}, {.form = KVI_FORM_Q4_0}}, .n_out = {130, 130}, .gated = true, .biased = true},
    {.forms = {{.form = KVI_FORM_I8, .scale_type = KVI_F32}, {.form = KVI_FORM_Q4_1}},
     .n_out = {66, 66},
     .gated = true},
};

/* out (rows, MIXED_COLS); checked where `check`. */
static void run_mixed(const op_target *target, const struct mixed_case *c, uint32_t rows, bool check, float *out)
{
    op_rig rig;
    const double *w[3];
    op_matrix bias[3];
    const uint32_t n = c->n_out[2] ? 3 : 2;
    const uint32_t cols = c->gated ? c->n_out[0] : c->n_out[0] + c->n_out[1] + c->n_out[2];
    op_rig_open(&rig, target);
    const kvi_buffer x = op_rig_buffer(&rig, MIXED_IN, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     y = op_rig_buffer(&rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
    const op_matrix in = op_rig_input(&rig, x, rows);
    kvi_op *op = op_rig_op(&rig, c->gated ? KVI_OP_NORM_GATE_UP : KVI_OP_NORM_LINEAR, x, y);
    bool all = true;
    op->n_weights = n;
    for (uint32_t i = 0; i < n; i++) {
        kvi_weight_desc desc = matrix(1, c->n_out[i], MIXED_IN);
        w[i] = op_form_fill(&rig, &c->forms[i], &desc);
        op->weights[i] = import(&rig, &desc);
        all = all && op->weights[i];
        if (c->biased)
            bias[i] = op_rig_matrix(&rig, 1, c->n_out[i], KVI_F32, 0, 0.3, 0), op->biases[i] = bias[i].weight;
    }
    if (all) op_rig_output(&rig, y);
    const bool there = all && op_rig_load(&rig, rows, 1, 128, 0);
    if (there) op_rig_rows(&rig, rows, false, out);
    for (uint32_t r = 0; there && check && r < rows; r++)
        for (uint32_t i = 0, col = 0; i < (c->gated ? 1 : n); col += c->n_out[i++])
            for (uint32_t o = 0; o < c->n_out[i]; o++) {
                double want[3], limit[3];
                for (uint32_t k = i; k < (c->gated ? 2 : i + 1); k++) {
                    const double *row = w[k] + (size_t)o * MIXED_IN, *v = in.values + (size_t)r * MIXED_IN;
                    double size = want[k] = c->biased ? bias[k].values[o] : 0;
                    for (uint32_t j = 0; j < MIXED_IN; j++) want[k] += row[j] * v[j], size += fabs(row[j] * v[j]);
                    limit[k] = (fabs(size) + fabs(want[k])) * limit_of(target, &c->forms[k]) +
                               rounding_of(target, c->forms[k].form, row, v, MIXED_IN);
                }
                const double gate = want[i], up = want[c->gated ? 1 : i];
                const double y0 = c->gated ? gate / (1 + exp(-gate)) * up : gate;
                /* silu passes on at most 1.1 of an error */
                const double e = c->gated ? 1.1 * limit[0] * (fabs(up) + limit[1]) +
                                                (fabs(gate) + limit[0]) * limit[1] + 1e-6 * fabs(y0)
                                          : limit[i] + 1e-6 * fabs(y0);
                op_check(target, "mixed forms", r, col + o, (double)out[(size_t)r * cols + col + o], y0, e + 1e-6);
            }
    op_rig_close(&rig);
}

void op_case_mixed_forms(const op_target *target)
{
    static const uint32_t rows[] = {1, 5, 8, 9, 33};
    static float out[MAX_ROWS * 2 * MIXED_COLS];
    for (uint32_t i = 0; i < COUNT(mixed); i++)
        for (uint32_t k = 0; k < COUNT(rows); k++) run_mixed(target, &mixed[i], rows[k], true, out);
}

/* The same bits on another number of threads. */
void op_case_form_bits(const op_target *a, const op_target *b)
{
    static const uint32_t rows[] = {1, 8, 33};
    static float first[MAX_ROWS * 2 * MIXED_COLS], second[MAX_ROWS * 2 * MIXED_COLS];
    for (uint32_t i = 0; i < COUNT(mixed); i++)
        for (uint32_t k = 0; k < COUNT(rows); k++) {
            op_seed = i + 1;
            run_mixed(a, &mixed[i], rows[k], false, first);
            op_seed = i + 1;
            run_mixed(b, &mixed[i], rows[k], false, second);
            assert_memory_equal(first, second, sizeof first);
        }
}

/* ---------------------------------------------------------------------------------------------------------- experts --- */
#define WIDTH 32u
#define N_EXPERTS 3u
#define EXPERT_ROWS 7u /* of activations: one group of four and a part of one */

/* By how much a product may be off beside f32 sums: activations are rounded to 8 bits, or to 16. */
static double operand_rounding(const op_target *target, kvi_weight_form form, const double *w, const double *x,
                               uint32_t n)
{
    double size = 0;
    for (uint32_t k = 0; k < n; k++) size += fabs(w[k] * x[k]);
    return rounding_of(target, form, w, x, n) + target->linear_f16 * size;
}

void op_case_form_experts(const op_target *target)
{
    static const op_form of[] = {
        {KVI_FORM_I4, .group = 16, .scale_type = KVI_F16, .zeros = true, .scattered = true, .size = 0.2},
        {KVI_FORM_I8, .group_rows = 8, .scale_type = KVI_F32, .size = 0.02},
        {KVI_FORM_F8_E4M3, .scale_type = KVI_F32, .global = true, .size = 0.02},
        {KVI_FORM_Q8_0, .misalign = 1, .size = 0.05}};
    for (uint32_t i = 0; i < COUNT(of); i++) {
        op_rig rig;
        op_rig_open(&rig, target);
        const kvi_buffer x = op_rig_buffer(&rig, WIDTH, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                         chosen = op_rig_buffer(&rig, 2 * N_EXPERTS, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        const op_matrix in = op_rig_input(&rig, x, EXPERT_ROWS),
                        router = op_rig_experts(&rig, 1, N_EXPERTS, WIDTH, KVI_F32);
        kvi_weight_desc desc[3];
        const double *values[3];
        const kvi_weight *weights[3];
        for (uint32_t j = 0; j < 3; j++) {
            desc[j] = matrix(N_EXPERTS, WIDTH, WIDTH);
            values[j] = op_form_fill(&rig, &of[i], &desc[j]);
            weights[j] = import(&rig, &desc[j]);
        }
        /* All experts, equally: softmax is not asked for, the router's logits are the weights. */
        const kvi_route route = {KVI_ROUTE_LOGITS, N_EXPERTS, .scale = 1};
        *op_rig_op(&rig, KVI_OP_ROUTE, x, chosen) = (kvi_op){.kind = KVI_OP_ROUTE,
                                                             .in = x,
                                                             .out = chosen,
                                                             .scale = 1,
                                                             .n_experts = N_EXPERTS,
                                                             .route = route,
                                                             .n_weights = 1,
                                                             .weights = {router.weight}};
        *op_rig_op(&rig, KVI_OP_EXPERTS, x, x) = (kvi_op){.kind = KVI_OP_EXPERTS,
                                                          .in = x,
                                                          .out = x,
                                                          .side = chosen,
                                                          .scale = 1,
                                                          .n_experts = N_EXPERTS,
                                                          .expert_width = WIDTH,
                                                          .route = route,
                                                          .n_weights = 3,
                                                          .weights = {weights[0], weights[1], weights[2]}};
        if (weights[0]) op_rig_output(&rig, x);
        float out[EXPERT_ROWS * WIDTH];
        const bool there = weights[0] && op_rig_load(&rig, EXPERT_ROWS, 1, 128, 0);
        int32_t ids[EXPERT_ROWS];
        for (uint32_t r = 0; r < EXPERT_ROWS; r++) ids[r] = (int32_t)r;
        const kvi_seq seq = {.n_rows = EXPERT_ROWS};
        for (int wide = 0; there && wide < 2; wide++) {
            op_rig_step(&rig, &(kvi_step){.ids = ids, .n_rows = EXPERT_ROWS, .seqs = &seq, .n_seqs = 1, .wide = wide},
                        false, out);
            for (uint32_t r = 0; there && r < EXPERT_ROWS; r++) {
                const double *n = in.values + (size_t)r * WIDTH;
                double want[WIDTH], rounded[WIDTH] = {0},
                                    size = 0; /* rounded: by how much 8-bit activations may be off */
                memcpy(want, n, sizeof want);
                for (uint32_t e = 0; e < N_EXPERTS; e++) {
                    double h[WIDTH], off[WIDTH], largest[WIDTH], weight = 0;
                    for (uint32_t k = 0; k < WIDTH; k++) weight += router.values[e * WIDTH + k] * n[k];
                    for (uint32_t o = 0; o < WIDTH; o++) {
                        const double *w_gate = values[0] + (e * WIDTH + o) * WIDTH,
                                     *w_up = values[1] + (e * WIDTH + o) * WIDTH;
                        const double gate_off = operand_rounding(target, of[i].form, w_gate, n, WIDTH),
                                     up_off = operand_rounding(target, of[i].form, w_up, n, WIDTH);
                        double gate = 0, up = 0;
                        for (uint32_t k = 0; k < WIDTH; k++) {
                            gate += w_gate[k] * n[k];
                            up += w_up[k] * n[k];
                        }
                        h[o] = gate / (1 + exp(-gate)) * up;
                        /* silu is nowhere steeper than 1.1 */
                        off[o] = 1.1 * gate_off * (fabs(up) + up_off) + fabs(gate / (1 + exp(-gate))) * up_off;
                        largest[o] = fabs(h[o]) + off[o];
                    }
                    for (uint32_t o = 0; o < WIDTH; o++) {
                        const double *w_down = values[2] + (e * WIDTH + o) * WIDTH;
                        rounded[o] += fabs(weight) * operand_rounding(target, of[i].form, w_down, largest, WIDTH);
                        for (uint32_t k = 0; k < WIDTH; k++) {
                            want[o] += weight * w_down[k] * h[k];
                            rounded[o] += fabs(weight * w_down[k]) * off[k];
                            size += fabs(weight * w_down[k] * h[k]) / WIDTH;
                        }
                    }
                }
                for (uint32_t o = 0; o < WIDTH; o++)
                    op_check(target, kvi_form(of[i].form)->name, r, o, (double)out[r * WIDTH + o], want[o],
                             4e-6 * (size + fabs(want[o])) + rounded[o] + target->linear_f16 * fabs(want[o]));
            }
        }
        op_rig_close(&rig);
    }
}
