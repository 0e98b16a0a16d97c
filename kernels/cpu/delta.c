/* delta.c - DELTA of the CPU, the gated delta rule, by its contract in program.h. Every token goes through the recurrence, in prompts too
 * (variant_state.h says why that is also the fastest way), and heads have nothing to do with one another:
 *   wide    a task is a sequence and a head. Tokens are taken in blocks of TOKENS: first their queries and keys are normalized, then the state is
 *           walked some columns at a time through the whole block, in a copy that the first cache holds.
 *   narrow  a task is a run of heads, token by token in place. While one head is computed, the next one's state is on its way from memory:
 *           without that a thread waits for memory half of the time.
 * Both do the same sums in the same order, so that the result of a token does not depend on where steps are cut, nor on its form. A state is
 * changed in place: a step that is left half-way leaves states half-way, and the engine then goes back to a checkpoint. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

#define TOKENS 64u           /* of a block of the wide form */
#define TASKS_OF_A_THREAD 4u /* in the narrow form: fewer wait for the last one, more lose what was fetched ahead */
#define HEADS_OF_A_PIECE 8u  /* most of such a task where the operation is cut: half a megabyte of states */

typedef struct delta {
    kvi_device *device;
    const kvi_op *op;
    uint32_t cols, out_cols; /* of `in` and `out` */
    uint32_t keys;           /* columns of all keys */
    uint32_t n_heads;        /* of all sequences; heads of a narrow task */
    uint32_t run;
} delta;

/* What the recurrence needs of a token and head. */
typedef struct token {
    const float *v;
    float *o, *gate; /* gate (dv): NULL, or of the row */
    float decay, beta;
} token;

size_t kvi_cpu_delta_scratch(const kvi_op *op)
{
    return (size_t)TOKENS * (2u * op->key_dim + 2u) + op->value_dim + (size_t)op->key_dim * KVI_CPU_MOST_PANEL;
}

static void normalized(const float *x, uint32_t n, float scale, float *y)
{
    float squares[16] = {0}, sum = 0; /* that many, so that it is done in vectors */
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (uint32_t j = 0; j < 16; j++) squares[j] += x[i + j] * x[i + j];
    for (; i < n; i++) sum += x[i] * x[i];
    for (uint32_t j = 0; j < 16; j++) sum += squares[j];
    const float factor = scale / sqrtf(sum + 1e-6f);
    for (i = 0; i < n; i++) y[i] = x[i] * factor;
}

/* log(1 + exp(x)) without overflow; above 20 the two differ by less than f32 tells. */
static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* Row `row` of head h; its query and key, normalized, go to q and k (dk). */
static token token_of(const delta *t, uint32_t row, uint32_t h, float *q, float *k)
{
    const kvi_op *op = t->op;
    const uint32_t dk = op->key_dim, dv = op->value_dim;
    const uint32_t key_head = op->tiled_heads ? h % op->n_kv_heads : h / (op->n_heads / op->n_kv_heads);
    const float *in = t->device->buffers[op->in] + (size_t)row * t->cols;
    const float *side = t->device->buffers[op->side] + (size_t)row * 2 * op->n_heads;
    const float rate = op->weights[0] ? expf(op->weights[0]->f32[h]) : 0.0f, shift = op->weights[1]->f32[h];
    normalized(in + key_head * dk, dk, 1.0f / sqrtf((float)dk), q);
    normalized(in + t->keys + key_head * dk, dk, 1.0f, k);
    return (token){
        .v = in + 2 * t->keys + h * dv,
        .o = t->device->buffers[op->out] + (size_t)row * t->out_cols + h * dv,
        .gate = op->gated ? t->device->buffers[op->gate] + (size_t)row * t->out_cols + h * dv : NULL,
        .decay = expf(-rate * softplus(side[op->n_heads + h] + shift)),
        .beta = 1.0f / (1.0f + expf(-side[h])),
    };
}

/* o = q_norm(o) * silu(gate); scratch (dv). */
static void finish(const delta *t, const token *at, float *scratch)
{
    const uint32_t dv = t->op->value_dim;
    kvi_cpu_norm(t->device, &t->op->q_norm, at->o, dv, at->o);
    if (!at->gate) return;
    memcpy(scratch, at->gate, dv * sizeof *scratch);
    t->device->v->silu_mul(scratch, at->o, dv);
    memcpy(at->o, scratch, dv * sizeof *scratch);
}

/* The state of a head, (dk, dv), zero where the text begins. */
static float *state_at(const delta *t, const kvi_seq *seq, uint32_t h)
{
    const size_t n = (size_t)t->op->key_dim * t->op->value_dim;
    float *s = kvi_cpu_state(t->device, t->op, seq) + h * n;
    if (seq->pos == 0) memset(s, 0, n * sizeof *s);
    return s;
}

static void wide_task(void *arg, uint32_t task, uint32_t thread)
{
    const delta *t = arg;
    const kvi_op *op = t->op;
    const kvi_cpu_variant *v = t->device->v;
    const kvi_seq *seq = &t->device->step.seqs[task / op->n_heads];
    const uint32_t dk = op->key_dim, h = task % op->n_heads;
    float *q = t->device->thread_scratch + thread * t->device->scratch_floats, *k = q + TOKENS * dk,
          *decay = k + TOKENS * dk, *beta = decay + TOKENS, *columns = beta + TOKENS,
          *gate = columns + dk * KVI_CPU_MOST_PANEL;
    float *s = state_at(t, seq, h);
    token tokens[TOKENS];
    for (uint32_t first = 0; first < seq->n_rows; first += TOKENS) {
        const uint32_t n = seq->n_rows - first < TOKENS ? seq->n_rows - first : TOKENS;
        for (uint32_t i = 0; i < n; i++) {
            tokens[i] = token_of(t, seq->first_row + first + i, h, q + i * dk, k + i * dk);
            decay[i] = tokens[i].decay, beta[i] = tokens[i].beta;
        }
        v->delta_block(s, dk, op->value_dim, n, q, k, decay, beta, tokens[0].v, t->cols, tokens[0].o, t->out_cols,
                       columns);
        for (uint32_t i = 0; i < n; i++) finish(t, &tokens[i], gate);
    }
}

static void narrow_task(void *arg, uint32_t task, uint32_t thread)
{
    const delta *t = arg;
    const kvi_op *op = t->op;
    const uint32_t dk = op->key_dim, dv = op->value_dim, n = op->n_heads;
    const uint32_t first = task * t->run, end = first + t->run < t->n_heads ? first + t->run : t->n_heads;
    float *q = t->device->thread_scratch + thread * t->device->scratch_floats, *k = q + dk, *gate = k + dk;
    for (uint32_t i = first; i < end; i++) {
        const kvi_seq *seq = &t->device->step.seqs[i / n];
        const float *next = i + 1 < end ? kvi_cpu_state(t->device, op, &t->device->step.seqs[(i + 1) / n]) +
                                              (size_t)((i + 1) % n) * dk * dv
                                        : NULL;
        float *s = state_at(t, seq, i % n);
        for (uint32_t r = 0; r < seq->n_rows; r++) {
            const token at = token_of(t, seq->first_row + r, i % n, q, k);
            t->device->v->delta(s, dk, dv, q, k, at.decay, at.beta, at.v, at.o, r == 0 && next ? next : s);
            finish(t, &at, gate);
        }
    }
}

const char *kvi_cpu_delta(kvi_device *device, const kvi_op *op)
{
    delta t = {.device = device,
               .op = op,
               .cols = device->program->buffers[op->in].cols,
               .out_cols = op->n_heads * op->value_dim,
               .keys = op->n_kv_heads * op->key_dim,
               .n_heads = device->step.n_seqs * op->n_heads};
    if (kvi_step_is_wide(&device->step)) {
        (void)kvi_cpu_tasks(device, wide_task, &t, t.n_heads);
        return "delta_prefill";
    }
    const uint32_t n_tasks = device->n_threads * TASKS_OF_A_THREAD;
    t.run = device->n_threads == 1 ? t.n_heads : (t.n_heads + n_tasks - 1) / n_tasks;
    if (kvi_cpu_is_cut(device) && t.run > HEADS_OF_A_PIECE) t.run = HEADS_OF_A_PIECE;
    (void)kvi_cpu_tasks(device, narrow_task, &t, (t.n_heads + t.run - 1) / t.run);
    return "delta_decode";
}
