/* linear.c - y = x W^T on the CPU: gemv for a few rows, packed panels or tiles for many. Work is divided by output
 * rows into tasks, each of which makes whole sums, so results do not depend on the number of threads. */
#include "device_cpu.h"
#include "../../runtime/model/weight_codec.h"

#include <string.h>

#define BF16_TASK_BYTES (512u * 1024u) /* BF16 weights of a task: stay in L2 while all tokens pass */

typedef struct linear_task {
    kvi_device *device;
    const kvi_linear *job;
    const kvi_cpu_dots *dots;
    bool integers; /* every weight takes codes */
    bool few;      /* rows: gemv. Integers have the same bits in both ways, numbers in the form of the step */
    uint32_t rows_per_task;
    uint32_t first_task[4];   /* of each weight; [n_weights]: number of tasks */
    uint32_t first_col[3];    /* of each weight in y */
    kvi_dots_input inputs[3]; /* activations as codes, for weights in tile form; codes NULL: the weight takes f32 */
    uint32_t made[3], n_made; /* weights whose inputs are made; the others share one of theirs */
} linear_task;

static uint32_t out_rows(const kvi_linear *job, uint32_t w)
{
    return job->n_out ? job->n_out : job->weights[w]->desc.n_out;
}

void kvi_cpu_weight_row(const kvi_device *device, const kvi_weight *w, uint32_t row, float *out)
{
    const kvi_weight_desc *desc = &w->desc;
    if (!desc->parts[KVI_PART_CODES]) kvi_tile_read_row(&w->tile, w->panels, row, out);
    else if (kvi_form_is_plain(desc->form) && !desc->transposed)
        device->v->widen(kvi_cpu_plain_row(desc, 0, row), kvi_form_dtype(desc->form), desc->n_in, out);
    else (void)kvi_weight_read(desc, 0, row, 0, desc->n_in, out);
}

static void plan_tasks(linear_task *t, uint32_t n_weights)
{
    uint32_t tasks = 0, col = 0;
    for (uint32_t w = 0; w < n_weights; w++) {
        t->first_task[w] = tasks;
        t->first_col[w] = col;
        tasks += (out_rows(t->job, w) + t->rows_per_task - 1) / t->rows_per_task;
        col += out_rows(t->job, w);
    }
    t->first_task[n_weights] = tasks;
}

/* Weight and row range of a task. */
static uint32_t locate(const linear_task *t, uint32_t n_weights, uint32_t task, uint32_t *first, uint32_t *n)
{
    uint32_t w = 0;
    while (w + 1 < n_weights && task >= t->first_task[w + 1]) w++;
    *first = (task - t->first_task[w]) * t->rows_per_task;
    uint32_t left = out_rows(t->job, w) - *first;
    *n = left < t->rows_per_task ? left : t->rows_per_task;
    return w;
}

/* ------------------------------------------------------------------------------------------------- activations --- */
bool kvi_cpu_takes_same_codes(const kvi_weight *a, const kvi_weight *b)
{
    const kvi_tile *s = &a->tile, *t = &b->tile;
    return s->step == t->step && s->bits == t->bits && s->values == t->values && s->offset == t->offset &&
           s->zero == t->zero && !a->order && !b->order;
}

/* Places for the activations of every weight that is multiplied in integers; equal ones are one. */
static void plan_inputs(linear_task *t)
{
    const kvi_linear *job = t->job;
    for (uint32_t w = 0; w < job->n_weights; w++) {
        const kvi_weight *weight = job->weights[w];
        if (!kvi_cpu_multiplies_integers(t->device, weight)) continue;
        uint32_t same = 0;
        while (same < w && !(t->inputs[same].codes && kvi_cpu_takes_same_codes(job->weights[same], weight))) same++;
        if (same < w) {
            t->inputs[w] = t->inputs[same];
            continue;
        }
        uint8_t *memory = t->device->dots_codes + t->n_made * kvi_dots_input_bytes(job->n_in, job->n_rows);
        t->inputs[w] = kvi_dots_input_at(&weight->tile, job->n_rows, t->few, memory);
        t->made[t->n_made++] = w;
    }
}

static void quantize_task(void *arg, uint32_t task, uint32_t thread)
{
    const linear_task *t = arg;
    const kvi_linear *job = t->job;
    const uint32_t w = t->made[task % t->n_made];
    (void)thread;
    t->dots->quantize(&job->weights[w]->tile, job->x, job->n_in, job->n_rows, job->weights[w]->order, task / t->n_made,
                      &t->inputs[w]);
}

/* A few short rows are not worth waking anybody for: below 10 us. Eight of 8,192 columns take 100. */
static void make_inputs(linear_task *t)
{
    const uint32_t tasks = t->n_made * ((t->job->n_rows + KVI_DOTS_ROWS - 1u) / KVI_DOTS_ROWS);
    if (t->job->n_rows * t->job->n_in > 8192u) kvi_workers_run(t->device->workers, quantize_task, t, tasks);
    else
        for (uint32_t task = 0; task < tasks; task++) quantize_task(t, task, 0);
}

/* -------------------------------------------------------------------------------------------------- products --- */
/* Rows [first, first + n) of weight w against every row of x: y (n_rows, rows_per_task). */
static void rows_into(const linear_task *t, uint32_t w, uint32_t first, uint32_t n, float *y)
{
    const kvi_linear *job = t->job;
    const kvi_weight *weight = job->weights[w];
    const size_t ldy = t->rows_per_task;
    if (t->inputs[w].codes) {
        t->dots->gemv(&weight->tile, weight->panels, job->first_out + first, n, &t->inputs[w], 0, job->n_rows, y, ldy);
        return;
    }
    for (uint32_t r = 0; r < job->n_rows; r += 4) /* the second four find the weights in the cache */
        weight->kernel->gemv(weight, 0, job->first_out + first, n, job->x + (size_t)r * job->n_in,
                             job->n_rows - r < 4 ? job->n_rows - r : 4, job->n_in, y + r * ldy, ldy);
}

/* The same through panels that are expanded once for all rows. */
static void panel_into(const linear_task *t, uint32_t w, uint32_t first, uint32_t n, float *y, uint32_t thread)
{
    kvi_device *device = t->device;
    const kvi_linear *job = t->job;
    const kvi_weight *weight = job->weights[w];
    const size_t ldy = t->rows_per_task;
    float *panel = device->thread_scratch + thread * device->scratch_floats;
    if (t->inputs[w].codes) {
        t->dots->gemm(&weight->tile, weight->panels, job->first_out + first, n, &t->inputs[w], job->n_rows, panel, y,
                      ldy);
        return;
    }
    for (uint32_t k = 0; k < job->n_in; k += KVI_CPU_KC) {
        uint32_t n_k = job->n_in - k < KVI_CPU_KC ? job->n_in - k : KVI_CPU_KC;
        weight->kernel->pack(weight, 0, job->first_out + first, n, k, n_k, panel);
        device->v->panel_mac(job->x + k, job->n_in, job->n_rows, n_k, panel, y, ldy, n, k > 0);
    }
}

static void products_into(const linear_task *t, uint32_t w, uint32_t first, uint32_t n, float *y, uint32_t thread)
{
    const kvi_linear *job = t->job;
    if (t->few) rows_into(t, w, first, n, y);
    else panel_into(t, w, first, n, y, thread);
    if (!job->biases[w]) return;
    for (uint32_t r = 0; r < job->n_rows; r++)
        for (uint32_t i = 0; i < n; i++) y[r * t->rows_per_task + i] += job->biases[w]->f32[first + i];
}

/* Products of a task of this thread: room for one of every row, or two of few. */
static float *products_of(const linear_task *t, uint32_t thread)
{
    return t->device->products + thread * kvi_cpu_products(t->device->limits.max_rows);
}

/* Sums are made where their rows are neighbours and go to y once: rows of y are a power of two apart in most models, so that a column of them
 * falls into a few sets of the cache, which every pass over the columns of a long weight would wait for. */
static void products_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    const kvi_linear *job = t->job;
    const size_t ld = t->rows_per_task;
    uint32_t first, n;
    bool gated = job->epilogue == KVI_GATE_UP;
    uint32_t w = locate(t, gated ? 1 : job->n_weights, task, &first, &n);
    float *from = products_of(t, thread), *up = from + job->n_rows * ld;
    float *y = job->y + t->first_col[w] + job->first_out + first;
    products_into(t, w, first, n, from, thread);
    if (gated) products_into(t, 1, first, n, up, thread);
    for (uint32_t r = 0; r < job->n_rows; r++, from += ld, up += ld, y += job->ldy) {
        if (gated) kvi_cpu_activate(t->device->v, job->activation, job->limit, from, up, n);
        if (job->epilogue == KVI_ADD)
            for (uint32_t i = 0; i < n; i++) y[i] += from[i];
        else memcpy(y, from, n * sizeof *y);
    }
}

static void bf16_pack_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    (void)thread;
    t->device->bf16->pack_block(t->job->x, t->job->n_rows, t->job->n_in, task, t->device->bf16_packed);
}

static void bf16_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    const kvi_linear *job = t->job;
    uint32_t first, n;
    void *scratch = t->device->thread_scratch + thread * t->device->scratch_floats;
    bool gated = job->epilogue == KVI_GATE_UP;
    uint32_t w = locate(t, gated ? 1 : job->n_weights, task, &first, &n);
    float *y = job->y + t->first_col[w] + job->first_out + first;
    const float *bias = job->biases[w] ? job->biases[w]->f32 + first : NULL;
    t->device->bf16->gemm(kvi_cpu_plain_row(&job->weights[w]->desc, 0, job->first_out + first), n, job->n_in,
                          t->device->bf16_packed, job->n_rows, bias, job->epilogue == KVI_ADD, scratch, y, job->ldy);
    if (!gated) return;
    float *up = products_of(t, thread);
    bias = job->biases[1] ? job->biases[1]->f32 + first : NULL;
    t->device->bf16->gemm(kvi_cpu_plain_row(&job->weights[1]->desc, 0, first), n, job->n_in, t->device->bf16_packed,
                          job->n_rows, bias, false, scratch, up, KVI_CPU_TASK_COLUMNS);
    for (uint32_t r = 0; r < job->n_rows; r++)
        kvi_cpu_activate(t->device->v, job->activation, job->limit, y + r * job->ldy, up + r * KVI_CPU_TASK_COLUMNS, n);
}

static bool fits_bf16(const kvi_device *device, const kvi_linear *job)
{
    if (!device->bf16 || job->n_in % KVI_CPU_BF16_STEP) return false;
    for (uint32_t w = 0; w < job->n_weights; w++) {
        const kvi_weight_desc *desc = &job->weights[w]->desc;
        if (desc->form != KVI_FORM_BF16 || out_rows(job, w) % KVI_CPU_BF16_STEP ||
            !kvi_weight_rows_are_neighbours(desc))
            return false;
    }
    return true;
}

/* Outputs of a task. A gemv's make long streams, and leave every thread some of a small matrix; those of many rows are a panel's. */
static uint32_t rows_of_task(const linear_task *t)
{
    const kvi_linear *job = t->job;
    if (!t->few) return t->integers ? t->dots->panels * KVI_TILE_ROWS : t->device->v->panel;
    const uint32_t unit = t->n_made ? KVI_TILE_ROWS : 8u;
    uint32_t rows = out_rows(job, 0) / 8u;
    if (rows > KVI_CPU_FEW_PRODUCTS / job->n_rows) rows = KVI_CPU_FEW_PRODUCTS / job->n_rows;
    if (rows > KVI_CPU_TASK_COLUMNS) rows = KVI_CPU_TASK_COLUMNS;
    rows = rows / unit * unit;
    return rows < 16u ? 16u : rows;
}

const char *kvi_cpu_linear(kvi_device *device, const kvi_linear *job)
{
    linear_task t = {.device = device, .job = job, .dots = job->wide ? device->wide_dots : device->dots};
    const uint32_t n_weights = job->epilogue == KVI_GATE_UP ? 1 : job->n_weights;
    t.integers = true;
    for (uint32_t w = 0; w < job->n_weights; w++)
        t.integers = t.integers && kvi_cpu_multiplies_integers(device, job->weights[w]);
    t.few = t.integers ? job->n_rows <= t.dots->few : !job->wide;
    plan_inputs(&t);
    if (kvi_cpu_begins(device)) make_inputs(&t);
    if (job->wide && fits_bf16(device, job)) {
        t.rows_per_task = BF16_TASK_BYTES / (job->n_in * 2u) / 32u * 32u;
        if (t.rows_per_task < 32u) t.rows_per_task = 32u;
        if (t.rows_per_task > KVI_CPU_TASK_COLUMNS) t.rows_per_task = KVI_CPU_TASK_COLUMNS;
        plan_tasks(&t, n_weights);
        if (kvi_cpu_tasks(device, bf16_pack_task, &t, (job->n_rows + 31) / 32 * 2))
            (void)kvi_cpu_tasks(device, bf16_task, &t, t.first_task[n_weights]);
        return device->bf16->name;
    }
    t.rows_per_task = rows_of_task(&t);
    plan_tasks(&t, n_weights);
    (void)kvi_cpu_tasks(device, products_task, &t, t.first_task[n_weights]);
    return t.few ? job->weights[0]->gemv_name : job->weights[0]->gemm_name;
}
