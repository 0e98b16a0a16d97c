/* weights_cpu.c - weights of the CPU backend: what each takes, and how it becomes what the kernels read. */
#include "device_cpu.h"
#include "../../runtime/model/quantize.h"
#include "../../runtime/model/weight_codec.h"

#include <stdio.h>
#include <string.h>

static uint64_t round16(uint64_t bytes) { return (bytes + 15) & ~(uint64_t)15; }
/* Bytes that a gemv asks for in advance. Intel's cores (Sapphire Rapids) read 73% of their bandwidth without, 80 to 90% with 1.5 to 4 KiB. AMD's
 * (Zen 4) follow the one stream of a tile by themselves, unless the lines of a run are read out of order: then two lines in advance are enough
 * (Q4_0, Q8_0: 31 and 32 GB/s; 30 and 27 without, 25 and 20 with 1 KiB). Codes of six bits, whose last two lines are read for each half of a run,
 * want more (one thread: 20 GB/s with 128 bytes, 23 with 2 KiB), and so do several rows of activations, which leave a stream alone for so long that
 * it is given up, scales as well (eight rows: 120 GMAC/s of Q4_0 without, 164 with 2 to 3 KiB; of Q6_K 93, 120, 123). Of the eight streams of plain
 * rows, which begin a power of two apart and so fall into one set of L1, they read 19 GB/s with 1 to 3 KiB and 28 with 256 to 384 bytes. */
#define AHEAD 3072u
#define AHEAD_AMD_TILES 128u
#define AHEAD_AMD_SIX 2048u /* bits */
#define AHEAD_AMD_ROWS 384u
#define TILE_ALIGN 64u /* of panels within the arena */

/* Panels; rows of a weight that is rounded and has no tile form. */
uint64_t kvi_cpu_kept_bytes(const kvi_weight_desc *desc)
{
    kvi_tile tile;
    if (desc->n_out == 1) return 0;
    return kvi_tile_of(desc, &tile) ? kvi_tile_bytes(&tile) : desc->source ? kvi_weight_bytes(desc) : 0;
}

const void *kvi_cpu_kept_form(const kvi_weight *weight)
{
    return weight->tile.bits ? weight->panels : weight->own_rows;
}

/* What is made, and what it needs beside it. */
static uint64_t tile_bytes(const kvi_weight_desc *desc)
{
    kvi_tile tile;
    const bool tiles = kvi_tile_of(desc, &tile);
    const uint64_t order = tiles && desc->parts[KVI_PART_GROUPS] ? (uint64_t)desc->n_in * 4 : 0,
                   made = desc->made ? 0 : kvi_cpu_kept_bytes(desc);
    return (made ? round16(made + (tiles ? TILE_ALIGN : 0)) : 0) +
           round16(order * (desc->n_experts > 1 ? desc->n_experts : 1));
}

kvrt_status kvi_cpu_weight_bytes(const kvi_weight_desc *desc, uint64_t *bytes, kvrt_error *error)
{
    (void)error; /* no form is refused: what has no kernel is decoded */
    *bytes = round16(sizeof(kvi_weight)) + (desc->n_out == 1 ? round16((uint64_t)desc->n_in * 4) : tile_bytes(desc));
    return KVRT_OK;
}

kvrt_status kvi_cpu_weights_reserve(kvi_device *device, uint64_t bytes, kvrt_error *error)
{
    return kvi_arena_reserve(&device->arena, bytes) ? KVRT_OK : kvi_error_nomem(error, bytes, "weight handles");
}

typedef struct lay_task {
    kvi_weight *weight;
    uint8_t *panels;
} lay_task;

static void lay_panel(void *arg, uint32_t task, uint32_t thread)
{
    const lay_task *t = arg;
    const kvi_tile *tile = &t->weight->tile;
    const uint32_t expert = task / kvi_tile_panels(tile), panel = task % kvi_tile_panels(tile);
    const uint32_t *order = t->weight->order ? t->weight->order + (size_t)expert * tile->n_in : NULL;
    (void)thread;
    kvi_tile_lay(tile, &t->weight->desc, expert, panel, order, t->panels + task * tile->panel_bytes);
}

/* ----------------------------------------------------------------------------------------------------- rounding --- */
typedef struct round_task {
    kvi_weight *weight; /* desc: with its source */
    uint8_t *panels;    /* NULL: rows go where the weight's parts are */
    float *scratch;     /* (threads, scratch_floats) */
    size_t scratch_floats;
} round_task;

static void round_panel(void *arg, uint32_t task, uint32_t thread)
{
    const round_task *t = arg;
    const kvi_weight_desc *desc = &t->weight->desc;
    const uint32_t n_panels = (desc->n_out + KVI_TILE_ROWS - 1) / KVI_TILE_ROWS, expert = task / n_panels,
                   first = task % n_panels * KVI_TILE_ROWS,
                   n = desc->n_out - first < KVI_TILE_ROWS ? desc->n_out - first : KVI_TILE_ROWS;
    float *scratch = t->scratch + thread * t->scratch_floats;
    if (!t->panels) {
        const uint64_t row = (uint64_t)expert * desc->n_out + first;
        kvi_quantize_rows(desc, expert, first, n, scratch,
                          (uint8_t *)(uintptr_t)desc->parts[KVI_PART_CODES] +
                              row * kvi_weight_row_bytes(desc->form, desc->n_in),
                          (uint8_t *)(uintptr_t)desc->parts[KVI_PART_SCALES] +
                              row * kvi_weight_groups(desc) * kvi_weight_scale_bytes(desc));
        return;
    }
    const kvi_tile *tile = &t->weight->tile;
    kvi_tile_round(tile, desc, expert, task % n_panels, scratch, t->panels + task * tile->panel_bytes);
}

/* Makes a weight of fewer bits from its source with all threads: panel by panel, so that no copy of it stands beside the tiles. */
static kvrt_status round_weight(kvi_device *device, kvi_weight *weight, uint8_t *panels, kvrt_error *error)
{
    kvi_weight_desc *desc = &weight->desc;
    const uint32_t n_experts = desc->n_experts > 1 ? desc->n_experts : 1;
    round_task t = {weight, panels, NULL, kvi_tile_round_scratch(desc)};
    if (!panels) {
        const uint8_t *rows = desc->made ? desc->made : kvi_arena_alloc(&device->arena, kvi_weight_bytes(desc));
        if (!rows) return kvi_error_nomem(error, kvi_weight_bytes(desc), desc->name);
        weight->own_rows = desc->parts[KVI_PART_CODES] = rows;
        desc->parts[KVI_PART_SCALES] = rows + n_experts * kvi_weight_part_bytes(desc, KVI_PART_CODES);
        if (desc->made) return KVRT_OK;
    }
    t.scratch = kvi_mem_alloc(t.scratch_floats * device->n_threads * sizeof(float));
    if (!t.scratch) return kvi_error_nomem(error, t.scratch_floats * device->n_threads * sizeof(float), desc->name);
    kvi_workers_run(device->workers, round_panel, &t, (desc->n_out + KVI_TILE_ROWS - 1) / KVI_TILE_ROWS * n_experts);
    kvi_mem_free(t.scratch);
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- laying --- */
/* Sorts the columns of all experts by group, if they need it. Uneven groups leave the weight without tiles. */
static kvrt_status sort_columns(kvi_device *device, kvi_weight *weight, kvrt_error *error)
{
    const kvi_weight_desc *desc = &weight->desc;
    const uint32_t n_experts = desc->n_experts > 1 ? desc->n_experts : 1;
    if (!desc->parts[KVI_PART_GROUPS]) return KVRT_OK;
    uint32_t *order = kvi_arena_alloc(&device->arena, (size_t)desc->n_in * n_experts * 4);
    if (!order) return kvi_error_nomem(error, (uint64_t)desc->n_in * n_experts * 4, desc->name);
    kvi_tile_order found;
    KVI_TRY(kvi_tile_sort_columns(desc, order, &found, error));
    if (found == KVI_TILE_ORDER_UNEVEN) weight->tile.bits = 0;
    if (found == KVI_TILE_ORDER_GATHERS) weight->order = order;
    return KVRT_OK;
}

/* Lays a matrix anew, with all threads. */
static kvrt_status lay_tiles(kvi_device *device, kvi_weight *weight, kvrt_error *error)
{
    const kvi_weight_desc *desc = &weight->desc;
    kvi_tile *tile = &weight->tile;
    uint8_t *room = desc->made ? NULL : kvi_arena_alloc(&device->arena, kvi_tile_bytes(tile) + TILE_ALIGN);
    if (!room && !desc->made) return kvi_error_nomem(error, kvi_tile_bytes(tile), desc->name);
    KVI_TRY(sort_columns(device, weight, error));
    if (!tile->bits) return KVRT_OK;
    tile->ahead = !device->cpu.amd ? AHEAD : tile->bits == 6 ? AHEAD_AMD_SIX : AHEAD_AMD_TILES;
    tile->ahead_of_several = AHEAD;
    lay_task t = {weight, room ? room + (TILE_ALIGN - (uintptr_t)room % TILE_ALIGN) % TILE_ALIGN : NULL};
    if (desc->made) {
    } else if (desc->source) KVI_TRY(round_weight(device, weight, t.panels, error));
    else
        kvi_workers_run(device->workers, lay_panel, &t,
                        kvi_tile_panels(tile) * (desc->n_experts > 1 ? desc->n_experts : 1));
    weight->panels = desc->made ? desc->made : t.panels;
    /* f32 activations stay in their order, and rows of a weight that wants another are decoded from the source. */
    weight->kernel = weight->order ? &device->v->decoded : &device->v->tiled;
    return KVRT_OK;
}

/* Panels are packed from neighbouring rows. */
static bool walks_rows(const kvi_weight_desc *desc)
{
    return kvi_form_is_plain(desc->form) && !desc->transposed && desc->rows.run % KVI_CPU_MOST_PANEL == 0;
}

bool kvi_cpu_kernel_of(const kvi_weight_desc *desc, const kvi_device_options *options, char *text, uint64_t cap)
{
    kvi_cpu cpu;
    kvi_tile tile;
    kvi_os_cpu(&cpu);
    const kvi_cpu_variant *v = kvi_cpu_choose(&cpu, options->isa ? options->isa : "auto");
    if (!v) {
        (void)snprintf(text, cap, "this CPU does not have %s", options->isa);
        return false;
    }
    const bool tiles = kvi_tile_of(desc, &tile), integers = tiles && tile.values < KVI_TILE_FLOATS && !options->exact,
               amx = options->amx && v->tiles && cpu.amx_bf16 && cpu.amx_int8;
    const char *how = desc->looked_up    ? "single rows"
                      : integers         ? "tiles"
                      : tiles            ? "tiles, f32 activations"
                      : walks_rows(desc) ? "rows"
                                         : "decoded row by row";
    const bool bf16 = desc->form == KVI_FORM_BF16 && !desc->looked_up;
    const char *wide = amx && ((integers && !desc->looked_up) || bf16)             ? " and AMX"
                       : bf16 && kvi_cpu_bf16_for(v, &cpu, options->exact) != NULL ? " and AVX-512-BF16"
                                                                                   : "";
    (void)snprintf(text, cap, "%s, %s%s", how, integers ? kvi_cpu_dots_for(v, &cpu)->name : v->name, wide);
    return true;
}

static void name_kernels(const kvi_device *device, kvi_weight *weight)
{
    const bool integers = kvi_cpu_multiplies_integers(device, weight), decoded = weight->kernel == &device->v->decoded;
    const char *form = kvi_form(weight->desc.form)->name, *way = integers ? device->dots->name : device->v->name,
               *how = integers                              ? ""
                      : decoded                             ? "decoded_"
                      : weight->kernel == &device->v->tiled ? "exact_"
                                                            : "";
    (void)snprintf(weight->gemv_name, sizeof weight->gemv_name, "gemv_%s_%s%s", form, how, way);
    if (integers) way = device->wide_dots->name;
    (void)snprintf(weight->gemm_name, sizeof weight->gemm_name, "gemm_%s_%s%s", form, how, way);
}

/* Matrices of plain forms alias the map; vectors (gains, biases) are widened once, they are small and used by every kernel as f32. */
kvrt_status kvi_cpu_weight_import(kvi_device *device, const kvi_weight_desc *desc, kvi_weight **out, kvrt_error *error)
{
    uint64_t bytes = 0;
    KVI_TRY(kvi_cpu_weight_bytes(desc, &bytes, error));
    kvi_weight *weight = kvi_arena_alloc(&device->arena, sizeof *weight);
    if (!weight) return kvi_error_nomem(error, sizeof *weight, desc->name);
    weight->desc = *desc;
    weight->streams = device->cpu.amd ? 4 : 8, weight->ahead = device->cpu.amd ? AHEAD_AMD_ROWS : AHEAD;
    weight->kernel = walks_rows(desc) ? &device->v->plain[kvi_form_dtype(desc->form)] : &device->v->decoded;
    if (desc->n_out == 1) {
        float *f32 = kvi_arena_alloc(&device->arena, (size_t)desc->n_in * 4);
        if (!f32) return kvi_error_nomem(error, (uint64_t)desc->n_in * 4, desc->name);
        kvi_weight_read(desc, 0, 0, 0, desc->n_in, f32);
        for (uint32_t i = 0; desc->add != 0.0f && i < desc->n_in; i++) f32[i] += desc->add;
        weight->f32 = f32;
    } else if (kvi_tile_of(desc, &weight->tile)) KVI_TRY(lay_tiles(device, weight, error));
    else if (desc->source) KVI_TRY(round_weight(device, weight, NULL, error));
    weight->desc.source = NULL;
    name_kernels(device, weight);
    *out = weight;
    return KVRT_OK;
}
