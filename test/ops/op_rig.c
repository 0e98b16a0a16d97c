/* op_rig.c - see op_rig.h. */
#include "op_rig.h"
#include "runtime/kv/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

uint64_t op_seed = 1;

double op_uniform(void)
{
    op_seed = op_seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = op_seed ^ (op_seed >> 29);
    return (double)((x * 0x9e3779b97f4a7c15u) >> 11) / 9007199254740992.0;
}

double op_normal(void) { return sqrt(-2 * log(1 - op_uniform())) * cos(6.283185307179586 * op_uniform()); }

void op_check(const op_target *target, const char *what, uint32_t row, uint32_t col, double got, double want,
              double limit)
{
    if (!(fabs(got - want) <= limit))
        fail_msg("%s, %s: row %u, column %u: found %.9g, need %.9g +- %.2g", target->name, what, row, col, got, want,
                 limit);
}

/* Cases of the running test. */
static struct {
    uint32_t ran, refused;
} tally;

void op_refused(const op_target *target, const kvrt_error *error)
{
    for (op_refusal *r = target->refusals; r && r->part; r++)
        if (strstr(error->message, r->part)) {
            r->count++;
            tally.refused++;
            return;
        }
    fail_msg("%s refuses what it is to serve: %s", target->name, error->message);
}

void op_tally(const char *test)
{
    const uint32_t ran = tally.ran;
    printf("%s: %u cases ran, %u refused\n", test, ran, tally.refused);
    memset(&tally, 0, sizeof tally);
    if (!ran) fail_msg("%s: no case ran", test);
}

bool op_refusals_met(const op_target *target)
{
    bool all = true;
    for (const op_refusal *r = target->refusals; r && r->part; r++) {
        printf("%s: %u cases refused with \"%s\": %s\n", target->name, r->count, r->part, r->reason);
        all = all && r->count;
    }
    if (!all) printf("%s: a refusal that no case meets is to leave the list\n", target->name);
    return all;
}

void *op_rig_memory(op_rig *rig, size_t bytes)
{
    assert_true(rig->n_blocks < sizeof rig->blocks / sizeof rig->blocks[0]);
    void *block = calloc(1, bytes ? bytes : 1);
    assert_non_null(block);
    return rig->blocks[rig->n_blocks++] = block;
}

static void must(const op_target *target, kvrt_status status, const kvrt_error *error)
{
    if (status < KVRT_OK) fail_msg("%s: %s", target->name, error->message);
}

void op_rig_open(op_rig *rig, const op_target *target)
{
    kvrt_error error = {.size = sizeof error};
    memset(rig, 0, sizeof *rig);
    rig->target = target;
    must(target, target->backend->open(&target->options, &rig->device, &error), &error);
    rig->program.ops = rig->ops;
    rig->program.buffers = rig->buffers;
    rig->program.n_layers = 1;
}

void op_rig_close(op_rig *rig)
{
    rig->target->backend->close(rig->device);
    for (uint32_t i = 0; i < rig->n_blocks; i++) free(rig->blocks[i]);
}

kvi_buffer op_rig_buffer(op_rig *rig, uint32_t cols, kvi_rows rows, kvi_precision precision)
{
    rig->buffers[rig->program.n_buffers] = (kvi_buffer_desc){"test", cols, rows, precision};
    return (kvi_buffer)rig->program.n_buffers++;
}

/* Stores value as dtype at element i and returns what was stored. */
static double put(unsigned char *data, size_t i, kvi_dtype dtype, double value)
{
    float f = (float)value;
    uint16_t h = dtype == KVI_F16 ? kvi_f32_to_f16(f) : kvi_f32_to_bf16(f);
    if (dtype == KVI_F32) memcpy(data + 4 * i, &f, 4);
    else memcpy(data + 2 * i, &h, 2);
    return dtype == KVI_F32 ? f : dtype == KVI_F16 ? kvi_f16_to_f32(h) : kvi_bf16_to_f32(h);
}

static const kvi_weight *import(op_rig *rig, uint32_t n_out, uint32_t n_in, kvi_dtype dtype, const void *data)
{
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight = NULL;
    kvi_weight_desc desc = {
        .name = "test.weight", .form = kvi_form_of_dtype(dtype), .n_out = n_out, .n_in = n_in, .parts = {data}};
    must(rig->target, rig->target->backend->weight_import(rig->device, &desc, &weight, &error), &error);
    return weight;
}

op_matrix op_rig_experts(op_rig *rig, uint32_t n_experts, uint32_t n_out, uint32_t n_in, kvi_dtype dtype)
{
    const size_t n = (size_t)n_experts * n_out * n_in;
    op_matrix m = {n_out, n_in, op_rig_memory(rig, n * sizeof(double)), NULL};
    unsigned char *data = op_rig_memory(rig, n * kvi_dtype_bytes(dtype));
    for (size_t i = 0; i < n; i++) m.values[i] = put(data, i, dtype, 0.2 * op_normal());
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight = NULL;
    const kvi_weight_desc desc = {.name = "test.experts",
                                  .form = kvi_form_of_dtype(dtype),
                                  .n_out = n_out,
                                  .n_in = n_in,
                                  .n_experts = n_experts,
                                  .parts = {data}};
    must(rig->target, rig->target->backend->weight_import(rig->device, &desc, &weight, &error), &error);
    m.weight = weight;
    return m;
}

op_matrix op_rig_matrix(op_rig *rig, uint32_t n_out, uint32_t n_in, kvi_dtype dtype, double mean, double std,
                        uint32_t misalign)
{
    const size_t n = (size_t)n_out * n_in;
    op_matrix m = {n_out, n_in, op_rig_memory(rig, n * sizeof(double)), NULL};
    unsigned char *data = (unsigned char *)op_rig_memory(rig, n * kvi_dtype_bytes(dtype) + misalign) + misalign;
    for (size_t i = 0; i < n; i++) m.values[i] = put(data, i, dtype, mean + std * op_normal());
    m.weight = import(rig, n_out, n_in, dtype, data);
    return m;
}

kvi_op *op_rig_op(op_rig *rig, kvi_op_kind kind, kvi_buffer in, kvi_buffer out)
{
    kvi_op *op = &rig->ops[rig->program.n_ops++];
    *op = (kvi_op){.kind = kind, .in = in, .out = out, .scale = 1, .causal = true};
    return op;
}

static const kvi_weight *identity_of(op_rig *rig, uint32_t n)
{
    uint16_t *identity = op_rig_memory(rig, (size_t)n * n * 2);
    for (uint32_t i = 0; i < n; i++) identity[(size_t)i * n + i] = 0x3c00; /* 1 in F16 */
    return import(rig, n, n, KVI_F16, identity);
}

/* Gives op the norm that does nothing. */
static void neutral_norm(op_rig *rig, kvi_op *op, uint32_t n)
{
    float *gain = op_rig_memory(rig, (size_t)n * 4);
    for (uint32_t i = 0; i < n; i++) gain[i] = 1e6f;
    op->norm = (kvi_norm){KVI_NORM_GAIN, import(rig, 1, n, KVI_F32, gain), 1e12f};
    op->n_weights = 1;
    op->weights[0] = identity_of(rig, n);
}

static op_matrix embed_into(op_rig *rig, kvi_buffer to, uint32_t n_ids, double std)
{
    op_matrix table = op_rig_matrix(rig, n_ids, rig->buffers[to].cols, rig->inputs, 0, std, 0);
    kvi_op *op = op_rig_op(rig, KVI_OP_EMBED, to, to);
    op->n_weights = 1;
    op->weights[0] = table.weight;
    rig->n_ids = n_ids;
    return table;
}

op_matrix op_rig_input(op_rig *rig, kvi_buffer to, uint32_t n_ids)
{
    const uint32_t cols = rig->buffers[to].cols;
    if (n_ids < 2) n_ids = 2; /* a table of one row would be a vector */
    if (rig->buffers[to].precision == KVI_PRECISION_RESIDUAL) return embed_into(rig, to, n_ids, 1);
    kvi_buffer from = op_rig_buffer(rig, cols, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    op_matrix table = embed_into(rig, from, n_ids, 1);
    neutral_norm(rig, op_rig_op(rig, KVI_OP_NORM_LINEAR, from, to), cols);
    return table;
}

void op_rig_output(op_rig *rig, kvi_buffer from)
{
    const uint32_t n = rig->buffers[from].cols;
    if (rig->buffers[from].precision == KVI_PRECISION_OPERAND) {
        kvi_buffer sum = op_rig_buffer(rig, n, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        embed_into(rig, sum, rig->n_ids, 0);
        kvi_op *add = op_rig_op(rig, KVI_OP_LINEAR_ADD, from, sum);
        add->n_weights = 1;
        add->weights[0] = identity_of(rig, n);
        from = sum;
    }
    kvi_buffer logits = op_rig_buffer(rig, n, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL);
    kvi_op *op = op_rig_op(rig, KVI_OP_HEAD, from, logits);
    neutral_norm(rig, op, n);
    op->n_out = n;
    rig->program.logits = logits;
    rig->program.vocab_size = n;
}

bool op_rig_load(op_rig *rig, uint32_t max_rows, uint32_t max_seqs, uint32_t max_ctx, uint64_t pool_bytes)
{
    kvrt_error error = {.size = sizeof error};
    rig->program.ropes = rig->ropes;
    rig->program.groups = &rig->group;
    rig->program.n_groups = pool_bytes && rig->group.shape.n_layers ? 1 : 0;
    rig->limits = (kvi_limits){.max_rows = max_rows,
                               .max_logit_rows = max_rows,
                               .max_seqs = max_seqs,
                               .max_ctx = max_ctx,
                               .pool_bytes = (pool_bytes + KVI_KV_UNIT - 1) / KVI_KV_UNIT * KVI_KV_UNIT,
                               .page_formats = pool_bytes ? 1u << rig->group.plain | rig->page_codes : 0};
    kvrt_status status = rig->target->backend->load(rig->device, &rig->program, &rig->limits, &error);
    if (status == KVRT_UNSUPPORTED) {
        op_refused(rig->target, &error);
        return false;
    }
    must(rig->target, status, &error);
    tally.ran++;
    return true;
}

void op_rig_step(op_rig *rig, const kvi_step *step, bool op_by_op, float *out)
{
    const kvi_backend *backend = rig->target->backend;
    kvrt_error error = {.size = sizeof error};
    uint32_t *all = calloc(step->n_rows, sizeof *all);
    kvi_step copy = *step;
    assert_non_null(all);
    for (uint32_t i = 0; i < step->n_rows; i++) all[i] = i;
    if (!copy.logit_rows) copy.logit_rows = all, copy.n_logit_rows = step->n_rows;
    must(rig->target, backend->step_begin(rig->device, &copy, &error), &error);
    const uint32_t each = op_by_op ? 1 : rig->program.n_ops;
    for (uint32_t i = 0; i < rig->program.n_ops; i += each)
        must(rig->target, backend->run(rig->device, i, each, &error), &error);
    for (uint32_t i = 0; i < copy.n_logit_rows; i++)
        must(rig->target, backend->read_logits(rig->device, i, out + (size_t)i * rig->program.vocab_size, &error),
             &error);
    free(all);
}

void op_rig_rows(op_rig *rig, uint32_t n_rows, bool op_by_op, float *out)
{
    int32_t *ids = calloc(n_rows, sizeof *ids);
    assert_non_null(ids);
    for (uint32_t i = 0; i < n_rows; i++) ids[i] = (int32_t)i;
    const kvi_seq seq = {.n_rows = n_rows};
    op_rig_step(rig, &(kvi_step){.ids = ids, .n_rows = n_rows, .seqs = &seq, .n_seqs = 1}, op_by_op, out);
    free(ids);
}
