/* experts.c - EXPERTS on the CPU: the feed-forward part of a mixture of experts, by the contract of program.h.
 * The (row, choice) pairs of a step are sorted by expert, and every used expert's weights are walked once for all pairs that chose it:
 *
 *   pairs sorted by expert   | e0 e0 e0 | e3 | e7 e7 |         `first` says where each run begins
 *   phase 1, gate and up     a task is a run and a block of the expert's rows:  act (pairs, width) = act(x G^T, x U^T)
 *   phase 2, down            a task is a run and a block of output rows:        y (pairs, hidden) = act D^T
 *   phase 3, sum             a task is a row or two: its pairs in ROUTE's order
 *
 * Blocks have the same number of rows whatever the step is, tasks are handed out as threads come, and a pair's numbers do not depend on its
 * neighbours in the run: neither threads nor the other rows of a step show in the result. Experts that nobody chose are not read.
 * Narrow steps use the gemv of the weights' form, wide ones its packed panels, as dense products do (linear.c). Weights in tile form take
 * activations as codes: those of wide steps are made before a phase, of narrow ones by every task for itself. */
#include "device_cpu.h"

#include <string.h>

#define INTEGER_ROWS 64u    /* of a wide task on integers */
#define CUT_WEIGHTS 131072u /* of a wide task on integers, where the operation is cut */
#define GATHERED 16u        /* pairs of a task that only copies */
#define SUMMED 2u        /* rows of a task that only adds: what one thread does at once is not worth waking another */
#define PAIRS_BLOCK 256u /* pairs that a packed panel is used for at once; more than that pack it again */

typedef struct expert_step {
    kvi_device *device;
    const kvi_op *op;
    const float *rows; /* (rows, hidden) normed */
    const float *x;    /* these; wide: (pairs, hidden) sorted by expert */
    bool wide;
    const kvi_cpu_dots *dots;
    uint32_t hidden, top_k, n_pairs;
    uint32_t gate_rows, down_rows;     /* rows of a task */
    uint32_t gate_blocks, down_blocks; /* tasks of a run */
} expert_step;

/* A thread's scratch: an expanded panel and results of up; or rows side by side. Behind them activations as codes. */
static size_t codes_at(bool wide, uint32_t widest)
{
    return wide ? (KVI_CPU_KC + PAIRS_BLOCK) * KVI_CPU_MOST_PANEL : (4u * (size_t)widest + 15u) / 16u * 16u;
}

static uint32_t widest_of(const kvi_op *op, uint32_t hidden)
{
    return hidden > op->expert_width ? hidden : op->expert_width;
}

size_t kvi_cpu_experts_scratch(const kvi_op *op, uint32_t hidden)
{
    const uint32_t widest = widest_of(op, hidden);
    const size_t narrow = codes_at(false, widest) + kvi_dots_input_bytes(widest, 4) / 4u,
                 wide = codes_at(true, widest) + kvi_dots_input_bytes(widest, PAIRS_BLOCK) / 4u;
    return (narrow > wide ? narrow : wide) + 16u;
}

/* ------------------------------------------------------------------------------------------------------- sorting --- */
static uint32_t chosen(const expert_step *t, uint32_t pair)
{
    const float *ids = t->device->buffers[t->op->side] + (size_t)(pair / t->top_k) * 2 * t->top_k;
    return (uint32_t)ids[pair % t->top_k];
}

/* Counting sort: pairs by expert, each expert's by row; then the runs of experts that somebody chose. */
static void sort_pairs(const expert_step *t)
{
    kvi_cpu_mixture *m = &t->device->mixture;
    const uint32_t n = t->op->n_experts;
    memset(m->first, 0, (n + 1) * sizeof *m->first);
    for (uint32_t p = 0; p < t->n_pairs; p++) m->first[chosen(t, p) + 1]++;
    for (uint32_t e = 0; e < n; e++) m->first[e + 1] += m->first[e];
    for (uint32_t p = 0; p < t->n_pairs; p++) {
        const uint32_t place = m->first[chosen(t, p)]++;
        m->place[p] = place;
        m->pair[place] = p;
    }
    m->n_used = 0;
    uint32_t begin = 0, groups = 0;
    for (uint32_t e = 0; e < n; e++) { /* first[e] is now the end of e's run */
        const uint32_t end = m->first[e];
        if (end > begin) m->used[m->n_used++] = (kvi_cpu_run_of){e, begin, end - begin, groups};
        groups += (end - begin + KVI_DOTS_ROWS - 1u) / KVI_DOTS_ROWS;
        begin = end;
    }
    m->n_groups = groups;
}

/* The rows of phase 1 in the order of the pairs: panels want them side by side. */
static void gather_pairs(void *arg, uint32_t task, uint32_t thread)
{
    const expert_step *t = arg;
    const uint32_t first = task * GATHERED, end = t->n_pairs - first < GATHERED ? t->n_pairs : first + GATHERED;
    (void)thread;
    for (uint32_t place = first; place < end; place++)
        memcpy(t->device->added + (size_t)place * t->hidden,
               t->rows + (size_t)(t->device->mixture.pair[place] / t->top_k) * t->hidden, t->hidden * sizeof *t->rows);
}

/* ------------------------------------------------------------------------------------------------------ products --- */
/* y[j * ldy + i] = W_e[first + i] . x[j], bias included, for a run's pairs. */
static void add_bias(const kvi_weight *bias, size_t at, uint32_t n_pairs, uint32_t n, float *y, size_t ldy)
{
    for (uint32_t j = 0; bias && j < n_pairs; j++)
        for (uint32_t i = 0; i < n; i++) y[j * ldy + i] += bias->f32[at + i];
}

static void panel_product(const expert_step *t, uint32_t w, uint32_t e, uint32_t first, uint32_t n, const float *x,
                          uint32_t n_pairs, float *y, size_t ldy, float *panel)
{
    const kvi_weight *weight = t->op->weights[w];
    const uint32_t n_in = weight->desc.n_in;
    for (uint32_t k = 0; k < n_in; k += KVI_CPU_KC) {
        const uint32_t n_k = n_in - k < KVI_CPU_KC ? n_in - k : KVI_CPU_KC;
        weight->kernel->pack(weight, e, first, n, k, n_k, panel);
        t->device->v->panel_mac(x + k, n_in, n_pairs, n_k, panel, y, ldy, n, k > 0);
    }
    add_bias(t->op->biases[w], (size_t)e * weight->desc.n_out + first, n_pairs, n, y, ldy);
}

static void gemv_product(const expert_step *t, uint32_t w, uint32_t e, uint32_t first, uint32_t n, const float *x,
                         uint32_t n_pairs, float *y, size_t ldy)
{
    const kvi_weight *weight = t->op->weights[w];
    weight->kernel->gemv(weight, e, first, n, x, n_pairs, weight->desc.n_in, y, ldy);
    add_bias(t->op->biases[w], (size_t)e * weight->desc.n_out + first, n_pairs, n, y, ldy);
}

/* The codes of a wide step that were made before: those of a run, from pair `from` of it on (a multiple of four). */
static kvi_dots_input codes_made(const expert_step *t, const kvi_weight *weight, const kvi_cpu_run_of *run,
                                 uint32_t from)
{
    const kvi_cpu_mixture *m = &t->device->mixture;
    kvi_dots_input in = kvi_dots_input_at(&weight->tile, m->n_groups * KVI_DOTS_ROWS, false, m->codes);
    const size_t row = (size_t)(run->group + from / KVI_DOTS_ROWS) * KVI_DOTS_ROWS;
    in.codes += row * in.n_words * 4u;
    in.scales += row * in.n_steps;
    in.starts += row * in.n_steps;
    return in;
}

typedef struct codes_task {
    const expert_step *t;
    const kvi_weight *weight;
    const float *x; /* (pairs, n_in) */
} codes_task;

static void make_codes(void *arg, uint32_t task, uint32_t thread)
{
    const codes_task *c = arg;
    const kvi_cpu_run_of *run = &c->t->device->mixture.used[task];
    const uint32_t n_in = c->weight->desc.n_in;
    const kvi_dots_input in = codes_made(c->t, c->weight, run, 0);
    (void)thread;
    for (uint32_t group = 0; group * KVI_DOTS_ROWS < run->n; group++)
        c->t->dots->quantize(&c->weight->tile, c->x + (size_t)run->first * n_in, n_in, run->n,
                             c->weight->order ? c->weight->order + (size_t)run->expert * n_in : NULL, group, &in);
}

/* Before a phase of a wide step whose first weight takes codes. False: the piece ends there. */
static bool make_all_codes(const expert_step *t, uint32_t w, const float *x)
{
    codes_task c = {t, t->op->weights[w], x};
    return !t->wide || !kvi_cpu_multiplies_integers(t->device, c.weight) ||
           kvi_cpu_tasks(t->device, make_codes, &c, t->device->mixture.n_used);
}

/* The codes of a run's pairs for a weight, in the thread's scratch. */
static kvi_dots_input codes_of(const expert_step *t, const kvi_weight *weight, uint32_t e, const float *x,
                               uint32_t n_pairs, float *scratch)
{
    const uint32_t n_in = weight->desc.n_in;
    const kvi_dots_input in =
        kvi_dots_input_at(&weight->tile, n_pairs, !t->wide, scratch + codes_at(t->wide, widest_of(t->op, t->hidden)));
    for (uint32_t group = 0; group * KVI_DOTS_ROWS < n_pairs; group++)
        t->dots->quantize(&weight->tile, x, n_in, n_pairs, weight->order ? weight->order + (size_t)e * n_in : NULL,
                          group, &in);
    return in;
}

static void integer_product(const expert_step *t, uint32_t w, uint32_t e, uint32_t first, uint32_t n,
                            const kvi_dots_input *in, uint32_t n_pairs, float *y, size_t ldy, float *panel)
{
    const kvi_weight *weight = t->op->weights[w];
    const uint8_t *panels = kvi_cpu_panels(weight, e);
    if (n_pairs <= t->dots->few) t->dots->gemv(&weight->tile, panels, first, n, in, 0, n_pairs, y, ldy);
    else t->dots->gemm(&weight->tile, panels, first, n, in, n_pairs, panel, y, ldy);
    add_bias(t->op->biases[w], (size_t)e * weight->desc.n_out + first, n_pairs, n, y, ldy);
}

/* y = W_e[first + i] . x[j] + bias, in the way of the weight. in: codes made for a weight before this one, which may do for it too; then of
 * this one. */
static void product(const expert_step *t, uint32_t w, uint32_t e, uint32_t first, uint32_t n, const float *x,
                    uint32_t n_pairs, float *y, size_t ldy, float *scratch, kvi_dots_input *in)
{
    const kvi_weight *weight = t->op->weights[w];
    if (kvi_cpu_multiplies_integers(t->device, weight)) {
        if (!in->codes || (w == 1 && !kvi_cpu_takes_same_codes(t->op->weights[0], weight)))
            *in = codes_of(t, weight, e, x, n_pairs, scratch);
        integer_product(t, w, e, first, n, in, n_pairs, y, ldy, scratch);
        return;
    }
    in->codes = NULL;
    if (t->wide) panel_product(t, w, e, first, n, x, n_pairs, y, ldy, scratch);
    else gemv_product(t, w, e, first, n, x, n_pairs, y, ldy);
}

/* Up to four pairs of a run side by side for the gemv: a single one stays where it is. */
static const float *narrow_rows(const expert_step *t, uint32_t place, uint32_t n, float *room)
{
    const uint32_t *pair = t->device->mixture.pair + place;
    if (n == 1) return t->x + (size_t)(pair[0] / t->top_k) * t->hidden;
    for (uint32_t j = 0; j < n; j++)
        memcpy(room + (size_t)j * t->hidden, t->x + (size_t)(pair[j] / t->top_k) * t->hidden, t->hidden * sizeof *room);
    return room;
}

/* What `product` begins with: the codes made before the phase whose first weight is w; none in narrow steps. */
static kvi_dots_input codes_before(const expert_step *t, uint32_t w, const kvi_cpu_run_of *run, uint32_t from)
{
    const kvi_weight *weight = t->op->weights[w];
    if (t->wide && kvi_cpu_multiplies_integers(t->device, weight)) return codes_made(t, weight, run, from);
    return (kvi_dots_input){.codes = NULL};
}

/* Run, rows [*first, *first + *n) of a task of `rows` rows out of `n_out`. */
static const kvi_cpu_run_of *locate(const expert_step *t, uint32_t task, uint32_t blocks, uint32_t rows, uint32_t n_out,
                                    uint32_t *first, uint32_t *n)
{
    *first = task % blocks * rows;
    *n = n_out - *first < rows ? n_out - *first : rows;
    return &t->device->mixture.used[task / blocks];
}

/* -------------------------------------------------------------------------------------------------------- phases --- */
static void gate_up(void *arg, uint32_t task, uint32_t thread)
{
    const expert_step *t = arg;
    kvi_device *device = t->device;
    const uint32_t width = t->op->expert_width, step = t->wide ? PAIRS_BLOCK : 4u;
    float *scratch = device->thread_scratch + thread * device->scratch_floats, up[4 * KVI_CPU_EXPERT_ROWS];
    uint32_t first, n;
    const kvi_cpu_run_of *run = locate(t, task, t->gate_blocks, t->gate_rows, width, &first, &n);
    for (uint32_t j = 0; j < run->n; j += step) {
        const uint32_t n_pairs = run->n - j < step ? run->n - j : step, place = run->first + j;
        float *gate = device->mixture.act + (size_t)place * width + first, *second = up;
        const float *x = t->wide ? t->x + (size_t)place * t->hidden : narrow_rows(t, place, n_pairs, scratch);
        kvi_dots_input in = codes_before(t, 0, run, j);
        if (t->wide) second = scratch + KVI_CPU_KC * KVI_CPU_MOST_PANEL;
        product(t, 0, run->expert, first, n, x, n_pairs, gate, width, scratch, &in);
        product(t, 1, run->expert, first, n, x, n_pairs, second, t->gate_rows, scratch, &in);
        for (uint32_t i = 0; i < n_pairs; i++)
            kvi_cpu_activate(device->v, t->op->activation, t->op->limit, gate + (size_t)i * width,
                             second + (size_t)i * t->gate_rows, n);
    }
}

static void down(void *arg, uint32_t task, uint32_t thread)
{
    const expert_step *t = arg;
    kvi_device *device = t->device;
    const uint32_t width = t->op->expert_width, step = t->wide ? PAIRS_BLOCK : 4u;
    float *panel = device->thread_scratch + thread * device->scratch_floats;
    uint32_t first, n;
    const kvi_cpu_run_of *run = locate(t, task, t->down_blocks, t->down_rows, t->hidden, &first, &n);
    for (uint32_t j = 0; j < run->n; j += step) {
        const uint32_t n_pairs = run->n - j < step ? run->n - j : step, place = run->first + j;
        const float *x = device->mixture.act + (size_t)place * width;
        float *y = device->added + (size_t)place * t->hidden + first;
        kvi_dots_input in = codes_before(t, 2, run, j);
        product(t, 2, run->expert, first, n, x, n_pairs, y, t->hidden, panel, &in);
    }
}

static void sum_row(const expert_step *t, uint32_t row, float *sum)
{
    kvi_device *device = t->device;
    const float *weights = device->buffers[t->op->side] + (size_t)row * 2 * t->top_k + t->top_k;
    for (uint32_t j = 0; j < t->top_k; j++) {
        const float *y = device->added + (size_t)device->mixture.place[row * t->top_k + j] * t->hidden;
        for (uint32_t i = 0; i < t->hidden; i++) sum[i] = (j ? sum[i] : 0) + weights[j] * y[i];
    }
    kvi_cpu_add_row(device, t->op, row, sum);
}

static void sum_rows(void *arg, uint32_t task, uint32_t thread)
{
    const expert_step *t = arg;
    kvi_device *device = t->device;
    for (uint32_t row = task * SUMMED; row < (task + 1) * SUMMED && row < device->step.n_rows; row++)
        sum_row(t, row, device->thread_scratch + thread * device->scratch_floats);
}

static uint32_t clamp(uint32_t n, uint32_t unit, uint32_t low, uint32_t high)
{
    n = n / unit * unit;
    return n < low ? low : n > high ? high : n;
}

/* Rows of a task: of a gemv as many as keep the streams long (linear.c), of panels one panel. Where the operation is cut tasks of both phases are of
 * about one length, as costs are learned of the operation. Depends on shape and form alone. */
static uint32_t rows_of_task(const expert_step *t, const kvi_weight *weight, uint32_t n_out, uint32_t n_weights,
                             uint32_t most)
{
    const bool integers = kvi_cpu_multiplies_integers(t->device, weight);
    const uint32_t unit = t->dots->panels * KVI_TILE_ROWS;
    if (t->wide && !integers) return t->device->v->panel;
    if (t->wide && !kvi_cpu_is_cut(t->device)) return INTEGER_ROWS;
    if (t->wide) return clamp(CUT_WEIGHTS / n_weights / weight->desc.n_in, unit, unit, most);
    return clamp(n_out / 8u, integers ? KVI_TILE_ROWS : 8u, 16u, KVI_CPU_EXPERT_ROWS);
}

const char *kvi_cpu_experts(kvi_device *device, const kvi_op *op)
{
    const uint32_t hidden = device->program->buffers[op->out].cols, n_rows = device->step.n_rows;
    expert_step t = {.device = device,
                     .op = op,
                     .rows = kvi_cpu_norm_rows(device, op, NULL, n_rows),
                     .wide = kvi_step_is_wide(&device->step),
                     .hidden = hidden,
                     .top_k = op->route.top_k,
                     .n_pairs = n_rows * op->route.top_k};
    t.dots = t.wide ? device->wide_dots : device->dots;
    t.gate_rows = rows_of_task(&t, op->weights[0], op->expert_width, 2, INTEGER_ROWS);
    t.down_rows = rows_of_task(&t, op->weights[2], hidden, 1, KVI_CPU_EXPERT_ROWS);
    t.gate_blocks = (op->expert_width + t.gate_rows - 1) / t.gate_rows;
    t.down_blocks = (hidden + t.down_rows - 1) / t.down_rows;
    t.x = t.wide ? device->added : t.rows; /* phase 1 reads it, phase 2 writes its results there */
    if (kvi_cpu_begins(device)) sort_pairs(&t);
    const bool is_over = (!t.wide || kvi_cpu_tasks(device, gather_pairs, &t, (t.n_pairs + GATHERED - 1) / GATHERED)) &&
                         make_all_codes(&t, 0, t.x) &&
                         kvi_cpu_tasks(device, gate_up, &t, device->mixture.n_used * t.gate_blocks) &&
                         make_all_codes(&t, 2, device->mixture.act) &&
                         kvi_cpu_tasks(device, down, &t, device->mixture.n_used * t.down_blocks) &&
                         kvi_cpu_tasks(device, sum_rows, &t, (n_rows + SUMMED - 1) / SUMMED);
    (void)is_over;
    return t.wide ? op->weights[0]->gemm_name : op->weights[0]->gemv_name;
}
