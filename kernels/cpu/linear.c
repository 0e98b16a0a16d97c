/* linear.c - y = x W^T on the CPU: gemv for a few rows, packed panels or tiles for many. Work is divided by output
 * rows into tasks of a fixed size, so results do not depend on the number of threads. */
#include "device_cpu.h"
#include "../../runtime/model/weight_codec.h"

#include <string.h>

#define GEMV_ROWS 256u                  /* most rows of a gemv task */
#define TILES_TASK_BYTES (512u * 1024u) /* weights of a task on tiles: stay in L2 while all tokens pass */

typedef struct linear_task {
    kvi_device *device;
    const kvi_linear *job;
    uint32_t rows_per_task;
    uint32_t first_task[4]; /* of each weight; [n_weights]: number of tasks */
    uint32_t first_col[3];  /* of each weight in y */
} linear_task;

static uint32_t out_rows(const kvi_linear *job, uint32_t w)
{
    return job->n_out ? job->n_out : job->weights[w]->desc.n_out;
}

void kvi_cpu_weight_row(const kvi_device *device, const kvi_weight *w, uint32_t row, float *out)
{
    const kvi_weight_desc *desc = &w->desc;
    if (kvi_form_is_plain(desc->form) && kvi_weight_rows_are_neighbours(desc))
        device->v->widen(kvi_cpu_plain_row(desc, 0, row), kvi_form_dtype(desc->form), desc->n_in, out);
    else (void)kvi_weight_decode(desc, 0, row, 0, desc->n_in, out);
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

/* Results of rows [first, first + n) of weight w for all inputs into block (n_rows, GEMV_ROWS). */
static void gemv_block(const linear_task *t, uint32_t w, uint32_t first, uint32_t n, float *block)
{
    const kvi_linear *job = t->job;
    const kvi_weight *weight = job->weights[w];
    for (uint32_t r = 0; r < job->n_rows; r += 4) {
        uint32_t n_x = job->n_rows - r < 4 ? job->n_rows - r : 4;
        weight->kernel->gemv(&weight->desc, 0, job->first_out + first, n, job->x + (size_t)r * job->n_in, n_x,
                             job->n_in, block + (size_t)r * GEMV_ROWS, GEMV_ROWS);
    }
    if (!job->biases[w]) return;
    for (uint32_t r = 0; r < job->n_rows; r++)
        for (uint32_t i = 0; i < n; i++) block[r * GEMV_ROWS + i] += job->biases[w]->f32[first + i];
}

static void gemv_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    const kvi_linear *job = t->job;
    float block[KVI_DECODE_ROWS * GEMV_ROWS], second[KVI_DECODE_ROWS * GEMV_ROWS];
    uint32_t first, n;
    (void)thread;
    bool gated = job->epilogue == KVI_GATE_UP;
    uint32_t w = locate(t, gated ? 1 : job->n_weights, task, &first, &n);
    gemv_block(t, w, first, n, block);
    if (gated) gemv_block(t, 1, first, n, second);
    for (uint32_t r = 0; r < job->n_rows; r++) {
        float *y = job->y + r * job->ldy + t->first_col[w] + job->first_out + first, *b = block + r * GEMV_ROWS;
        if (gated) kvi_cpu_activate(t->device->v, job->activation, job->limit, b, second + r * GEMV_ROWS, n);
        if (job->epilogue == KVI_ADD)
            for (uint32_t i = 0; i < n; i++) y[i] += b[i];
        else memcpy(y, b, (size_t)n * 4);
    }
}

/* One packed panel of weights against every row. */
static void panel_into(kvi_device *device, const kvi_linear *job, uint32_t w, uint32_t first, uint32_t n, bool add,
                       float *y, size_t ldy, uint32_t thread)
{
    const kvi_cpu_variant *v = device->v;
    const kvi_weight *weight = job->weights[w];
    float *panel = device->thread_scratch + thread * device->scratch_floats;
    for (uint32_t k = 0; k < job->n_in; k += KVI_CPU_KC) {
        uint32_t n_k = job->n_in - k < KVI_CPU_KC ? job->n_in - k : KVI_CPU_KC;
        weight->kernel->pack(&weight->desc, 0, job->first_out + first, n, k, n_k, panel);
        v->panel_mac(job->x + k, job->n_in, job->n_rows, n_k, panel, y, ldy, n, add || k > 0);
    }
    if (!job->biases[w]) return;
    for (uint32_t r = 0; r < job->n_rows; r++)
        for (uint32_t i = 0; i < n; i++) y[r * ldy + i] += job->biases[w]->f32[first + i];
}

static void panel_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    const kvi_linear *job = t->job;
    uint32_t first, n;
    bool gated = job->epilogue == KVI_GATE_UP;
    uint32_t w = locate(t, gated ? 1 : job->n_weights, task, &first, &n);
    float *y = job->y + t->first_col[w] + job->first_out + first;
    panel_into(t->device, job, w, first, n, job->epilogue == KVI_ADD, y, job->ldy, thread);
    if (!gated) return;
    panel_into(t->device, job, 1, first, n, false, t->device->up + first, job->ldy, thread);
    for (uint32_t r = 0; r < job->n_rows; r++)
        kvi_cpu_activate(t->device->v, job->activation, job->limit, y + r * job->ldy,
                         t->device->up + first + r * job->ldy, n);
}

static void tiles_pack_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    (void)thread;
    t->device->tiles->pack_block(t->job->x, t->job->n_rows, t->job->n_in, task, t->device->tiles_packed);
}

static void tiles_task(void *arg, uint32_t task, uint32_t thread)
{
    linear_task *t = arg;
    const kvi_linear *job = t->job;
    uint32_t first, n;
    (void)thread;
    bool gated = job->epilogue == KVI_GATE_UP;
    uint32_t w = locate(t, gated ? 1 : job->n_weights, task, &first, &n);
    float *y = job->y + t->first_col[w] + job->first_out + first;
    const float *bias = job->biases[w] ? job->biases[w]->f32 + first : NULL;
    t->device->tiles->gemm(kvi_cpu_plain_row(&job->weights[w]->desc, 0, job->first_out + first), n, job->n_in,
                           t->device->tiles_packed, job->n_rows, bias, job->epilogue == KVI_ADD, y, job->ldy);
    if (!gated) return;
    float *up = t->device->up + first;
    bias = job->biases[1] ? job->biases[1]->f32 + first : NULL;
    t->device->tiles->gemm(kvi_cpu_plain_row(&job->weights[1]->desc, 0, first), n, job->n_in, t->device->tiles_packed,
                           job->n_rows, bias, false, up, job->ldy);
    for (uint32_t r = 0; r < job->n_rows; r++)
        kvi_cpu_activate(t->device->v, job->activation, job->limit, y + r * job->ldy, up + r * job->ldy, n);
}

static bool fits_tiles(const kvi_cpu_tiles *tiles, const kvi_linear *job)
{
    if (!tiles || job->n_in % tiles->step) return false;
    for (uint32_t w = 0; w < job->n_weights; w++) {
        const kvi_weight_desc *desc = &job->weights[w]->desc;
        if (desc->form != tiles->form || out_rows(job, w) % tiles->step || !kvi_weight_rows_are_neighbours(desc))
            return false;
    }
    return true;
}

const char *kvi_cpu_linear(kvi_device *device, const kvi_linear *job)
{
    linear_task t = {.device = device, .job = job};
    uint32_t n_weights = job->epilogue == KVI_GATE_UP ? 1 : job->n_weights;
    if (!job->wide) {
        /* Large tasks keep the streams long; small matrices still give every thread some. Depends on the shape alone.
         */
        t.rows_per_task = out_rows(job, 0) / 8u / 8u * 8u;
        if (t.rows_per_task > GEMV_ROWS) t.rows_per_task = GEMV_ROWS;
        if (t.rows_per_task < 16u) t.rows_per_task = 16u;
        plan_tasks(&t, n_weights);
        kvi_workers_run(device->workers, gemv_task, &t, t.first_task[n_weights]);
        return job->weights[0]->kernel->gemv_name;
    }
    if (fits_tiles(device->tiles, job)) {
        t.rows_per_task = TILES_TASK_BYTES / (job->n_in * 2u) / 32u * 32u;
        if (t.rows_per_task < 32u) t.rows_per_task = 32u;
        if (t.rows_per_task > 256u) t.rows_per_task = 256u;
        plan_tasks(&t, n_weights);
        kvi_workers_run(device->workers, tiles_pack_task, &t, (job->n_rows + 31) / 32 * 2);
        kvi_workers_run(device->workers, tiles_task, &t, t.first_task[n_weights]);
        return device->tiles->gemm_name;
    }
    t.rows_per_task = device->v->panel;
    plan_tasks(&t, n_weights);
    kvi_workers_run(device->workers, panel_task, &t, t.first_task[n_weights]);
    return job->weights[0]->kernel->gemm_name;
}
