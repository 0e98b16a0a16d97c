/* run_cpu.c - runs operations of the program one after the other, and times them. Products stand in linear.c, rows in
 * rows_cpu.c, the rest in files of their own: rope_append.c, attention.c, experts.c, conv_state.c, delta.c. */
#include "device_cpu.h"
#include "../../runtime/base/log.h"

#include <math.h>
#include <string.h>

bool kvi_cpu_tasks(kvi_device *device, kvi_task_fn fn, void *arg, uint32_t n_tasks)
{
    kvi_cpu_piece *piece = &device->piece;
    const uint32_t n = device->n_threads, base = piece->passed, n_rounds = (n_tasks + n - 1) / n,
                   from = piece->first > base ? piece->first - base : 0,
                   left = piece->end > base ? piece->end - base : 0, to = left < n_rounds ? left : n_rounds;
    piece->passed += n_rounds;
    if (from < to) {
        const uint32_t last = to == n_rounds ? n_tasks : to * n;
        kvi_workers_run_from(device->workers, fn, arg, from * n, last - from * n);
        piece->n_run += to - from;
    }
    return kvi_cpu_is_over(device);
}

typedef struct embed_task {
    kvi_device *device;
    const kvi_op *op;
} embed_task;

static void embed_row(void *arg, uint32_t task, uint32_t thread)
{
    const embed_task *t = arg;
    const kvi_weight *table = t->op->weights[0];
    float *out = t->device->buffers[t->op->out] + (size_t)task * table->desc.n_in;
    (void)thread;
    kvi_cpu_weight_row(t->device, table, (uint32_t)t->device->step.ids[task], out);
    if (t->op->scale != 1.0f) t->device->v->scale(out, t->op->scale, table->desc.n_in);
}

/* Softcap and multiplier of a range of logits. */
static void finish_logits(kvi_device *device, const kvi_op *op)
{
    for (uint32_t r = 0; r < device->step.n_logit_rows; r++) {
        float *y = device->buffers[op->out] + (size_t)r * device->program->buffers[op->out].cols + op->first_out;
        if (op->scale != 1.0f) device->v->scale(y, op->scale, op->n_out);
        if (op->softcap > 0) device->v->softcap(y, op->softcap, op->n_out);
    }
}

/* out = act(out, side): the gate stands in `out`. */
static void activate_rows(kvi_device *device, const kvi_op *op)
{
    const kvi_buffer_desc *buffers = device->program->buffers;
    const uint32_t cols = buffers[op->out].cols, beside = buffers[op->side].cols;
    for (uint32_t r = 0; r < device->step.n_rows; r++)
        kvi_cpu_activate(device->v, op->activation, op->limit, device->buffers[op->out] + (size_t)r * cols,
                         device->buffers[op->side] + (size_t)r * beside + op->side_first, cols);
}

static void join_row(void *arg, uint32_t row, uint32_t thread)
{
    const embed_task *t = arg;
    const kvi_op *op = t->op;
    const kvi_buffer_desc *buffers = t->device->program->buffers;
    const uint32_t first = buffers[op->in].cols, second = buffers[op->side].cols;
    float *out = t->device->buffers[op->out] + (size_t)row * (first + second);
    (void)thread;
    kvi_cpu_norm(t->device, &op->norm, t->device->buffers[op->in] + (size_t)row * first, first, out);
    kvi_cpu_norm(t->device, &op->post_norm, t->device->buffers[op->side] + (size_t)row * second, second, out + first);
}

static void last_row(kvi_device *device, const kvi_op *op)
{
    const size_t cols = device->program->buffers[op->in].cols;
    memmove(device->buffers[op->out], device->buffers[op->in] + (device->step.n_rows - 1) * cols, cols * 4);
}

static const char *linear_op(kvi_device *device, const kvi_op *op)
{
    const kvi_program *program = device->program;
    const bool head = op->kind == KVI_OP_HEAD, special = op->kind == KVI_OP_LINEAR_ADD && kvi_cpu_adds_specially(op);
    const uint32_t n_rows = head ? device->step.n_logit_rows : device->step.n_rows;
    if (n_rows == 0) return "none";
    kvi_linear job = {.n_rows = n_rows,
                      .n_in = program->buffers[op->in].cols,
                      .n_weights = op->n_weights,
                      .y = special ? device->added : device->buffers[op->out],
                      .ldy = program->buffers[op->out].cols,
                      .x = kvi_cpu_norm_rows(device, op, head ? device->step.logit_rows : NULL, n_rows),
                      .activation = op->activation,
                      .limit = op->limit};
    for (uint32_t i = 0; i < op->n_weights; i++) {
        job.weights[i] = op->weights[i];
        job.biases[i] = op->biases[i];
    }
    if (op->kind == KVI_OP_LINEAR_ADD && !special) job.epilogue = KVI_ADD;
    if (op->kind == KVI_OP_NORM_GATE_UP) job.epilogue = KVI_GATE_UP;
    if (head) job.first_out = op->first_out, job.n_out = op->n_out;
    job.wide = kvi_step_is_wide(&device->step) && (!head || n_rows > KVI_DECODE_ROWS);
    if (op->n_weights == 0) {
        if (!kvi_op_in_place(op))
            memcpy(device->added, device->buffers[op->in], (size_t)n_rows * job.n_in * sizeof *device->added);
        kvi_cpu_add_rows(device, op);
        return "add";
    }
    const bool beside = op->kind == KVI_OP_NORM_GATE_UP && op->n_weights == 1;
    if (beside) job.epilogue = KVI_STORE;
    if (device->watch && !head && kvi_cpu_begins(device))
        device->watch(device->watch_user, op, job.x, n_rows, job.n_in);
    const char *kernel = kvi_cpu_linear(device, &job);
    if (!kvi_cpu_is_over(device)) return kernel;
    if (beside) activate_rows(device, op);
    if (special) kvi_cpu_add_rows(device, op);
    if (head) finish_logits(device, op);
    return kernel;
}

static const char *attend_rows(kvi_device *device, const kvi_op *op)
{
    if (op->kind == KVI_OP_ATTENTION_LATENT) return kvi_cpu_latent_attention(device, op);
    return kvi_step_is_wide(&device->step) ? kvi_cpu_prefill_attention(device, op) : kvi_cpu_attention(device, op);
}

/* Where a step has rows of both forms it is one of each to attention, one after the other. */
static const char *attend(kvi_device *device, const kvi_op *op)
{
    const kvi_step step = device->step;
    if (step.n_wide) {
        device->step.n_rows = step.n_wide;
        device->step.n_seqs = 1;
    }
    const char *kernel = attend_rows(device, op);
    if (step.n_wide && kvi_cpu_is_over(device)) {
        device->step.n_rows = step.n_rows - step.n_wide;
        device->step.seqs++;
        device->step.n_seqs = step.n_seqs - 1;
        device->step.wide = false, device->step.narrow = true;
        (void)attend_rows(device, op);
    }
    device->step = step;
    if (op->kind == KVI_OP_ATTENTION && kvi_cpu_is_over(device)) kvi_cpu_observe(device, op);
    return kernel;
}

static const char *run_op(kvi_device *device, const kvi_op *op)
{
    embed_task t = {device, op};
    switch (op->kind) {
    case KVI_OP_EMBED: kvi_workers_run(device->workers, embed_row, &t, device->step.n_rows); return "embed";
    case KVI_OP_ROPE_APPEND: kvi_cpu_rope_append(device, op); return "rope_append";
    case KVI_OP_ATTENTION:
    case KVI_OP_ATTENTION_LATENT: return attend(device, op);
    case KVI_OP_ROUTE: return kvi_cpu_route(device, op);
    case KVI_OP_EXPERTS: return kvi_cpu_experts(device, op);
    case KVI_OP_CONV_STATE: return kvi_cpu_conv_state(device, op);
    case KVI_OP_DELTA: return kvi_cpu_delta(device, op);
    case KVI_OP_LATENT_APPEND: return kvi_cpu_latent_append(device, op);
    case KVI_OP_JOIN: kvi_workers_run(device->workers, join_row, &t, device->step.n_rows); return "join";
    case KVI_OP_LAST: last_row(device, op); return "last";
    default: return linear_op(device, op);
    }
}

/* Bytes an operation has to move: weights, the cache records it looks at, states. */
static uint64_t op_bytes(const kvi_device *device, const kvi_op *op)
{
    uint64_t bytes = 0;
    if (op->kind == KVI_OP_ATTENTION || op->kind == KVI_OP_ATTENTION_LATENT) {
        const kvi_cache_group *group = &device->program->groups[op->group];
        for (uint32_t s = 0; s < device->step.n_seqs; s++) {
            const kvi_seq *seq = &device->step.seqs[s];
            uint32_t end = (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
            uint32_t first =
                group->window && seq->pos + 1 > group->window ? (seq->pos + 1 - group->window) / KVI_KV_PAGE : 0;
            for (uint32_t p = first; p < end; p++)
                bytes += (uint64_t)group->shape.n_kv_heads *
                         kvi_kv_shape_record_bytes(seq->pages[op->group][p].format, &group->shape);
        }
        return bytes;
    }
    for (uint32_t i = 0; op->kind != KVI_OP_EMBED && i < op->n_weights; i++) {
        if (!op->weights[i]) continue; /* a router without a correction */
        const kvi_weight_desc *w = &op->weights[i]->desc;
        bytes += kvi_weight_bytes(w) / w->n_out * (op->n_out ? op->n_out : w->n_out);
    }
    if (op->kind == KVI_OP_DELTA) /* the states, read and written */
        bytes += 8ull * device->step.n_seqs * op->n_heads * op->key_dim * op->value_dim;
    /* Experts that nobody chose are not read. */
    return op->kind == KVI_OP_EXPERTS ? bytes / op->n_experts * device->mixture.n_used : bytes;
}

/* The operation, or the piece of it that the device is at. */
static const char *run_timed(kvi_device *device, const kvi_op *op)
{
    if (!device->timing) return run_op(device, op);
    struct cpu_op_time *time = &device->times[op->kind];
    const uint64_t start = kvi_os_now_us();
    time->kernel = run_op(device, op);
    time->us += kvi_os_now_us() - start;
    if (kvi_cpu_is_over(device)) {
        time->calls++;
        time->bytes += op_bytes(device, op);
    }
    return time->kernel;
}

kvrt_status kvi_cpu_run(kvi_device *device, uint32_t first_op, uint32_t n_ops, kvrt_error *error)
{
    KVI_TRY(kvi_program_range(device->program, first_op, n_ops, error));
    for (uint32_t i = first_op; i < first_op + n_ops; i++) {
        const kvi_op *op = &device->program->ops[i];
        device->piece = (kvi_cpu_piece){.end = UINT32_MAX};
        const char *kernel = run_timed(device, op);
        if (kvi_log_on(KVI_LOG_KERNELS))
            kvi_log(KVI_LOG_KERNELS, "layer %u: %s, %u rows", op->layer, kernel, device->step.n_rows);
    }
    return KVRT_OK;
}

/* What only looks up, turns or copies rows is one round. */
static bool may_be_cut(const kvi_op *op)
{
    return op->kind != KVI_OP_EMBED && op->kind != KVI_OP_ROPE_APPEND && op->kind != KVI_OP_LATENT_APPEND &&
           op->kind != KVI_OP_JOIN && op->kind != KVI_OP_LAST;
}

kvrt_status kvi_cpu_run_some(kvi_device *device, uint32_t op, uint32_t first, uint32_t n, uint32_t *n_run, bool *over,
                             kvrt_error *error)
{
    KVI_TRY(kvi_program_range(device->program, op, 1, error));
    const bool cut = may_be_cut(&device->program->ops[op]);
    device->piece = (kvi_cpu_piece){.first = first, .end = cut && n < UINT32_MAX - first ? first + n : UINT32_MAX};
    (void)run_timed(device, &device->program->ops[op]);
    *n_run = device->piece.n_run ? device->piece.n_run : 1;
    *over = kvi_cpu_is_over(device);
    return KVRT_OK;
}
