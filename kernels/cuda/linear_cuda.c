/* linear_cuda.c - which kernel runs for EMBED, NORM_LINEAR, LINEAR_ADD, NORM_GATE_UP and HEAD, and with what parameters.
 * Up to 8 rows: one gemv, norm and epilogue fused. More rows: a norm into 16-bit operands, then a tensor-core product; F32 weights are
 * multiplied by gemv over groups of rows, exact and slow. Quantized weights: a norm into F16 operands, then tiles_cuda.c. */
#include "linear_cuda.h"

#include <string.h>

#define GEMV_THREADS 128u
#define GEMV_WARPS 4u

static bool normalizes(const kvi_op *op)
{
    return op->kind == KVI_OP_NORM_LINEAR || op->kind == KVI_OP_NORM_GATE_UP || op->kind == KVI_OP_HEAD;
}

kvrt_status kvi_cuda_linear_check(const kvi_program *program, kvrt_error *error)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind == KVI_OP_JOIN && program->buffers[op->in].cols % 8)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "join, layer %u: %u columns, the CUDA backend has multiples of 8", op->layer,
                                 program->buffers[op->in].cols);
        if (op->kind != KVI_OP_EMBED && op->kind != KVI_OP_LINEAR_ADD && !normalizes(op)) continue;
        if (op->n_weights > 3)
            return kvi_error_set(error, KVRT_UNSUPPORTED, "linear, layer %u: %u weights, need at most 3", op->layer,
                                 op->n_weights);
        for (uint32_t j = 0; j < op->n_weights; j++)
            if (op->weights[j] &&
                op->weights[j]->n_in != program->buffers[op->kind == KVI_OP_EMBED ? op->out : op->in].cols)
                return kvi_error_set(error, KVRT_INTERNAL, "linear, layer %u: weight %s has %u columns, the buffer %u",
                                     op->layer, op->weights[j]->name, op->weights[j]->n_in,
                                     program->buffers[op->in].cols);
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- memory --- */
/* Any input of a product may need a pass that makes its operand. */
static uint32_t normed_pitch(const kvi_program *program)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        const bool product =
            normalizes(op) || op->kind == KVI_OP_LINEAR_ADD || op->kind == KVI_OP_ROUTE || op->kind == KVI_OP_EXPERTS;
        if (product && program->buffers[op->in].cols > widest) widest = program->buffers[op->in].cols;
    }
    return (widest + 7) / 8 * 8;
}

static uint32_t normed_rows(const kvi_limits *limits)
{
    return limits->max_rows > limits->max_logit_rows ? limits->max_rows : limits->max_logit_rows;
}

/* What is added is more than a sum of products, so that a row has to be there as a whole. */
static bool adds_rows(const kvi_op *op)
{
    return op->kind == KVI_OP_LINEAR_ADD && (op->post_norm.kind || op->out_gain || op->gated || op->n_weights == 0);
}

static uint32_t sums_pitch(const kvi_program *program)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        const uint32_t cols = kvi_op_in_place(op)        ? 0
                              : adds_rows(op)            ? program->buffers[op->out].cols
                              : op->kind == KVI_OP_ROUTE ? op->n_experts
                              : op->kind == KVI_OP_DELTA ? op->n_heads * op->value_dim
                                                         : 0;
        if (cols > widest) widest = cols;
    }
    return kvi_cuda_pitch(widest);
}

static uint64_t normed_bytes(const kvi_program *program, const kvi_limits *limits)
{
    return kvi_cuda_round((uint64_t)normed_rows(limits) * normed_pitch(program) * 2);
}

uint64_t kvi_cuda_linear_bytes(const kvi_program *program, const kvi_limits *limits)
{
    return normed_bytes(program, limits) + kvi_cuda_round((uint64_t)limits->max_rows * sums_pitch(program) * 4);
}

kvrt_status kvi_cuda_linear_prepare(kvi_device *d, kvi_dptr memory, kvrt_error *error)
{
    (void)error;
    d->normed = (kvi_cuda_buffer){memory, d->operand, 0, normed_pitch(d->program)};
    d->sums = (kvi_cuda_buffer){memory + normed_bytes(d->program, &d->limits), KVI_F32, 0, sums_pitch(d->program)};
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- gemv --- */
/* Kernels of a form for 1, 2, up to 4, up to 8 rows, and the rows of each; more rows take several passes over the weights. */
static const struct gemv_kernels {
    struct {
        kvi_cuda_kernel_id id;
        uint32_t rows;
    } of[4];
} gemvs[KVI_FORM_COUNT] = {
    [KVI_FORM_F32] = {{{KVI_CUDA_K_gemv_f32_n1, 1},
                       {KVI_CUDA_K_gemv_f32_n4, 4},
                       {KVI_CUDA_K_gemv_f32_n4, 4},
                       {KVI_CUDA_K_gemv_f32_n4, 4}}},
    [KVI_FORM_F16] = {{{KVI_CUDA_K_gemv_f16_n1, 1},
                       {KVI_CUDA_K_gemv_f16_n2, 2},
                       {KVI_CUDA_K_gemv_f16_n4, 4},
                       {KVI_CUDA_K_gemv_f16_n8, 8}}},
    [KVI_FORM_BF16] = {{{KVI_CUDA_K_gemv_bf16_n1, 1},
                        {KVI_CUDA_K_gemv_bf16_n2, 2},
                        {KVI_CUDA_K_gemv_bf16_n4, 4},
                        {KVI_CUDA_K_gemv_bf16_n8, 8}}},
};

bool kvi_cuda_linear_has(kvi_weight_form form) { return form < KVI_FORM_COUNT && gemvs[form].of[0].rows; }

static uint32_t gemv_set(uint32_t rows) { return rows <= 1 ? 0 : rows == 2 ? 1 : rows <= 4 ? 2 : 3; }

static kvrt_status gemv(kvi_device *d, const kvi_cuda_linear_params *p, kvi_weight_form form, uint32_t each,
                        uint32_t blocks, const char **name, kvrt_error *error)
{
    const kvi_cuda_kernel_id kernel = gemvs[form].of[gemv_set(each)].id;
    const uint32_t tasks = p->action == KVI_CUDA_GATED ? p->end[0] : (p->end[2] + 1) / 2;
    *name = kvi_cuda_kernel_name(kernel);
    const uint32_t outputs = (tasks + GEMV_WARPS - 1) / GEMV_WARPS;
    return kvi_cuda_launch(d, kernel, p->rows_first ? blocks : outputs, p->rows_first ? outputs : blocks, 1,
                           GEMV_THREADS, 0, p, error);
}

/* --------------------------------------------------------------------------------------------------- parameters --- */
/* Parameters but for the weights, which may need several launches. */
kvi_cuda_linear_params kvi_cuda_linear_common(const kvi_device *d, const kvi_op *op)
{
    const kvi_cuda_buffer *in = &d->buffers[op->in], *out = &d->buffers[op->out];
    const bool head = op->kind == KVI_OP_HEAD;
    return (kvi_cuda_linear_params){.step = d->map,
                                    .x = in->data,
                                    .gain = op->norm.kind == KVI_NORM_GAIN ? op->norm.gain->data.codes : 0,
                                    .y = out->data,
                                    .n_in = in->cols,
                                    .x_pitch = in->pitch,
                                    .y_pitch = out->pitch,
                                    .x_type = (uint32_t)in->dtype,
                                    .y_type = (uint32_t)out->dtype,
                                    .action = op->kind == KVI_OP_LINEAR_ADD && !op->fresh ? KVI_CUDA_ADD
                                              : op->kind == KVI_OP_NORM_GATE_UP || op->kind == KVI_OP_EXPERTS
                                                  ? KVI_CUDA_GATED
                                                  : KVI_CUDA_STORE,
                                    .norm = op->norm.kind != KVI_NORM_NONE,
                                    .logits = head,
                                    .gather = head,
                                    .eps = op->norm.eps,
                                    .scale = head || op->kind == KVI_OP_LINEAR_ADD ? op->scale : 1.0f,
                                    .softcap = head ? op->softcap : 0.0f,
                                    .activation = (uint32_t)op->activation,
                                    .limit = op->limit};
}

bool kvi_cuda_side_by_side(const kvi_weight *a, const kvi_weight *b)
{
    return a->tile || b->tile ? kvi_cuda_same_tile(a, b) : a->form == b->form;
}

uint32_t kvi_cuda_linear_weights(kvi_cuda_linear_params *p, const kvi_op *op, uint32_t first, uint32_t behind)
{
    uint32_t n = 0, end = 0;
    memset(p->w, 0, sizeof p->w);
    memset(p->bias, 0, sizeof p->bias);
    for (; first + n < behind && kvi_cuda_side_by_side(op->weights[first + n], op->weights[first]); n++) {
        const kvi_weight *w = op->weights[first + n];
        p->w[n] = w->data;
        p->bias[n] = op->biases[first + n] ? op->biases[first + n]->data.codes : 0;
        end += op->kind == KVI_OP_HEAD ? op->n_out : w->n_out;
        p->end[n] = end;
    }
    for (uint32_t i = n; i < 3; i++) p->end[i] = end;
    p->first_out = op->kind == KVI_OP_HEAD ? op->first_out : 0;
    return n;
}

/* --------------------------------------------------------------------------------------------------------- gemm --- */
/* Turns parameters of a gemv into those of a product of operands of `type` in `order`, which are made unless x is that already. */
static kvrt_status make_operand(kvi_device *d, kvi_cuda_linear_params *p, uint32_t rows, uint32_t type, kvi_dptr order,
                                kvi_cuda_held *held, kvrt_error *error)
{
    const kvi_cuda_norm_params norm = {.step = d->map,
                                       .x = p->x,
                                       .gain = p->gain,
                                       .order = order,
                                       .y = d->normed.data,
                                       .n_cols = p->n_in,
                                       .x_pitch = p->x_pitch,
                                       .y_pitch = d->normed.pitch,
                                       .x_type = p->x_type,
                                       .y_type = type,
                                       .norm = p->norm,
                                       .logits = p->logits,
                                       .eps = p->eps};
    if (!p->norm && !p->gather && !order && p->x_type == type) return KVRT_OK;
    if (!held->any || held->type != type || held->order != order)
        KVI_TRY(kvi_cuda_launch(d, KVI_CUDA_K_norm_rows, rows, 1, 1, 256, 8 * sizeof(float), &norm, error));
    *held = (kvi_cuda_held){true, type, order};
    p->x = d->normed.data;
    p->x_pitch = d->normed.pitch;
    p->x_type = type;
    p->gain = p->norm = p->gather = 0;
    return KVRT_OK;
}

static kvrt_status gemm(kvi_device *d, const kvi_cuda_linear_params *p, uint32_t tile_m, uint32_t blocks,
                        const char **name, kvrt_error *error)
{
    const bool wide = tile_m > 32, bf16 = p->x_type == KVI_CUDA_BF16;
    const kvi_cuda_kernel_id kernel = wide   ? bf16 ? KVI_CUDA_K_gemm_bf16_m128 : KVI_CUDA_K_gemm_f16_m128
                                      : bf16 ? KVI_CUDA_K_gemm_bf16_m32
                                             : KVI_CUDA_K_gemm_f16_m32;
    const uint32_t tile_n = wide ? 128 : 64, stages = wide ? 3 : 4;
    *name = kvi_cuda_kernel_name(kernel);
    /* Tiles of the same outputs follow each other, so that their weights come from L2. */
    return kvi_cuda_launch(d, kernel, blocks, (p->end[2] + tile_n - 1) / tile_n, 1, wide ? 256 : 128,
                           stages * (tile_m + tile_n) * 32 * KVI_CUDA_OPERAND_BYTES, p, error);
}

/* ----------------------------------------------------------------------------------------------------- products --- */
static bool has_gemv(const kvi_weight *w, const kvi_cuda_rows *rows)
{
    return rows->narrow || (!w->tile && w->form == KVI_FORM_F32);
}

uint32_t kvi_cuda_linear_tile_rows(const kvi_weight *w, const kvi_cuda_rows *rows)
{
    if (has_gemv(w, rows)) return w->tile ? KVI_DECODE_ROWS : gemvs[w->form].of[gemv_set(rows->each)].rows;
    return rows->each <= 64 ? 32 : w->tile ? 64 : 128;
}

kvrt_status kvi_cuda_linear_operand(kvi_device *d, const kvi_weight *w, kvi_cuda_linear_params *p,
                                    const kvi_cuda_rows *rows, kvi_cuda_held *held, kvrt_error *error)
{
    if (w->tile) return make_operand(d, p, rows->step, KVI_CUDA_F16, p->mixture.list ? 0 : w->order, held, error);
    if (has_gemv(w, rows)) return KVRT_OK;
    return make_operand(d, p, rows->step, (uint32_t)kvi_form_dtype(w->form), 0, held, error);
}

kvrt_status kvi_cuda_linear_product(kvi_device *d, const kvi_op *op, uint32_t first, uint32_t n,
                                    const kvi_cuda_linear_params *p, const kvi_cuda_rows *rows, const char **name,
                                    kvrt_error *error)
{
    const kvi_weight *w = op->weights[first];
    const uint32_t tile_rows = kvi_cuda_linear_tile_rows(w, rows),
                   blocks = p->mixture.list ? p->mixture.max_tiles : (rows->each + tile_rows - 1) / tile_rows;
    kvi_cuda_linear_params own = *p;
    own.rows_first = !p->mixture.list && has_gemv(w, rows) && blocks > 1;
    if (w->tile) return kvi_cuda_tile_product(d, op, first, n, &own, tile_rows, blocks, name, error);
    if (has_gemv(w, rows)) return gemv(d, &own, w->form, rows->each, blocks, name, error);
    return gemm(d, &own, tile_rows, blocks, name, error);
}

/* ------------------------------------------------------------------------------------------------------- linear --- */
void kvi_cuda_gate_apart(kvi_cuda_linear_params *p, uint32_t weight)
{
    p->action = weight == 0 ? KVI_CUDA_STORE : KVI_CUDA_GATED_SIDE;
    p->side = p->y, p->side_type = p->y_type, p->side_pitch = p->y_pitch, p->side_first = p->y_first;
    p->side_is_gate = 1;
}

static void gate_of_side(const kvi_device *d, const kvi_op *op, kvi_cuda_linear_params *p)
{
    const kvi_cuda_buffer *side = &d->buffers[op->side];
    p->action = KVI_CUDA_GATED_SIDE;
    p->side = side->data, p->side_type = (uint32_t)side->dtype, p->side_pitch = side->pitch,
    p->side_first = op->side_first;
}

/* What stands in sums, or in the operation's input, to the residual. */
static kvrt_status add_rows(kvi_device *d, const kvi_op *op, uint32_t rows, const char **name, kvrt_error *error)
{
    const kvi_cuda_buffer *x = op->n_weights ? &d->sums : &d->buffers[op->in], *y = &d->buffers[op->out],
                          *gate = &d->buffers[op->gate];
    const kvi_cuda_add_params p = {.step = d->map,
                                   .x = x->data,
                                   .gain = op->post_norm.kind == KVI_NORM_GAIN ? op->post_norm.gain->data.codes : 0,
                                   .gate = op->gated ? gate->data : 0,
                                   .factor = op->out_gain ? op->out_gain->data.codes : 0,
                                   .y = y->data,
                                   .n_cols = y->cols,
                                   .run = op->post_group ? op->post_group : y->cols,
                                   .x_pitch = x->pitch,
                                   .x_type = (uint32_t)x->dtype,
                                   .y_pitch = y->pitch,
                                   .y_type = (uint32_t)y->dtype,
                                   .gate_pitch = gate->pitch,
                                   .gate_type = (uint32_t)gate->dtype,
                                   .norm = op->post_norm.kind != KVI_NORM_NONE,
                                   .fresh = op->fresh,
                                   .eps = op->post_norm.eps,
                                   .scale = op->scale};
    if (!op->n_weights) *name = kvi_cuda_kernel_name(KVI_CUDA_K_add_rows);
    return kvi_cuda_launch(d, KVI_CUDA_K_add_rows, rows, 1, 1, 256, 8 * sizeof(float), &p, error);
}

static kvrt_status linear(kvi_device *d, const kvi_op *op, uint32_t rows, const char **name, kvrt_error *error)
{
    const kvi_cuda_rows shape = {rows, rows, !d->wide};
    kvi_cuda_linear_params p = kvi_cuda_linear_common(d, op);
    kvi_cuda_held held = {0};
    if (adds_rows(op)) {
        p.y = d->sums.data, p.y_pitch = d->sums.pitch;
        p.action = KVI_CUDA_STORE;
        p.scale = 1.0f;
    }
    if (op->kind == KVI_OP_NORM_GATE_UP && op->n_weights == 1) gate_of_side(d, op, &p);
    p.y_first = op->kind == KVI_OP_HEAD ? op->first_out : 0;
    const bool apart = op->kind == KVI_OP_NORM_GATE_UP && op->n_weights == 2 &&
                       !kvi_cuda_side_by_side(op->weights[0], op->weights[op->n_weights - 1]);
    for (uint32_t first = 0, n; first < op->n_weights; first += n) {
        n = kvi_cuda_linear_weights(&p, op, first, op->n_weights);
        if (apart) kvi_cuda_gate_apart(&p, first);
        kvi_cuda_linear_params product = p;
        KVI_TRY(kvi_cuda_linear_operand(d, op->weights[first], &product, &shape, &held, error));
        KVI_TRY(kvi_cuda_linear_product(d, op, first, n, &product, &shape, name, error));
        p.y_first += apart ? 0 : p.end[2];
    }
    return adds_rows(op) ? add_rows(d, op, rows, name, error) : KVRT_OK;
}

static kvrt_status embed(kvi_device *d, const kvi_op *op, uint32_t rows, const char **name, kvrt_error *error)
{
    const kvi_weight *table = op->weights[0];
    const kvi_cuda_buffer *out = &d->buffers[op->out];
    if (table->tile) return kvi_cuda_tile_embed(d, op, rows, name, error);
    const kvi_cuda_embed_params p = {.step = d->map,
                                     .table = table->data,
                                     .y = out->data,
                                     .type = (uint32_t)kvi_form_dtype(table->form),
                                     .n_cols = out->cols,
                                     .y_pitch = out->pitch,
                                     .y_type = (uint32_t)out->dtype,
                                     .scale = op->scale};
    *name = kvi_cuda_kernel_name(KVI_CUDA_K_embed);
    return kvi_cuda_launch(d, KVI_CUDA_K_embed, rows, 1, 1, 256, 0, &p, error);
}

/* out = norm(in) | post_norm(side) */
static kvrt_status join(kvi_device *d, const kvi_op *op, uint32_t rows, const char **name, kvrt_error *error)
{
    const kvi_cuda_buffer *out = &d->buffers[op->out];
    uint32_t first = 0;
    for (uint32_t i = 0; i < 2; i++) {
        const kvi_cuda_buffer *in = &d->buffers[i ? op->side : op->in];
        const kvi_norm *norm = i ? &op->post_norm : &op->norm;
        const kvi_cuda_norm_params p = {.step = d->map,
                                        .x = in->data,
                                        .gain = norm->kind == KVI_NORM_GAIN ? norm->gain->data.codes : 0,
                                        .y = out->data + (uint64_t)first * KVI_CUDA_OPERAND_BYTES,
                                        .n_cols = in->cols,
                                        .x_pitch = in->pitch,
                                        .y_pitch = out->pitch,
                                        .x_type = (uint32_t)in->dtype,
                                        .y_type = (uint32_t)out->dtype,
                                        .norm = norm->kind != KVI_NORM_NONE,
                                        .eps = norm->eps};
        KVI_TRY(kvi_cuda_launch(d, KVI_CUDA_K_norm_rows, rows, 1, 1, 256, 8 * sizeof(float), &p, error));
        first += in->cols;
    }
    *name = kvi_cuda_kernel_name(KVI_CUDA_K_norm_rows);
    return KVRT_OK;
}

static kvrt_status last(kvi_device *d, const kvi_op *op, const char **name, kvrt_error *error)
{
    const kvi_cuda_buffer *in = &d->buffers[op->in], *out = &d->buffers[op->out];
    const uint32_t size = in->dtype == KVI_F32 ? 4 : 2;
    const kvi_cuda_last_params p = {
        .step = d->map, .x = in->data, .y = out->data, .row_bytes = in->cols * size, .pitch_bytes = in->pitch * size};
    *name = kvi_cuda_kernel_name(KVI_CUDA_K_last_row);
    return kvi_cuda_launch(d, KVI_CUDA_K_last_row, 1, 1, 1, 256, 0, &p, error);
}

kvrt_status kvi_cuda_linear_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    if (op->kind == KVI_OP_EMBED) return embed(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_JOIN) return join(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_LAST) return last(d, op, kernel, error);
    /* Rows of the head: as many as the step says; a decode step's launches are made for its bucket. */
    if (op->kind == KVI_OP_HEAD && d->wide && rows > KVI_DECODE_ROWS) rows = kvi_cuda_bucket(d->n_logit_rows);
    if (op->kind == KVI_OP_HEAD && rows > d->limits.max_logit_rows) rows = kvi_cuda_bucket(d->limits.max_logit_rows);
    return rows ? linear(d, op, rows, kernel, error) : KVRT_OK;
}
