/* tiles_cuda.c - quantized weights: their tile form on the device, and which kernel multiplies by them. */
#include "device_cuda.h"
#include "../../runtime/model/weight_codec.h"

#include <string.h>

#define GEMV_WARPS 4u
#define SHARED_MOST (48u << 10)

/* ------------------------------------------------------------------------------------------------------- kernels --- */
static const struct tile_kernels {
    kvi_cuda_kernel_id gemv, gemm_m32, gemm_m64;
} kernels[] = {
#define CODES(name)                                                                                                    \
    {                                                                                                                  \
        KVI_CUDA_K_gemv_##name, KVI_CUDA_K_gemm_##name##_m32, KVI_CUDA_K_gemm_##name##_m64                             \
    }
    CODES(u2),
    CODES(u3),
    CODES(u4),
    CODES(u5),
    CODES(u6),
    CODES(u8),
    CODES(table4),
    CODES(numbers4),
    CODES(e4m3),
    CODES(e5m2),
#undef CODES
    {KVI_CUDA_K_gemv_e2m1, KVI_CUDA_K_gemm_table4_m32, KVI_CUDA_K_gemm_table4_m64},
};

/* Which of them. */
static uint32_t kernels_of(const kvi_tile *t)
{
    switch (t->values) {
    case KVI_TILE_IQ4: return 6;
    case KVI_TILE_E2M1: return 10;
    case KVI_TILE_NF4:
    case KVI_TILE_BNB_FP4: return 7;
    case KVI_TILE_OF_E4M3: return 8;
    case KVI_TILE_OF_E5M2: return 9;
    default: return t->bits == 8 ? 5 : t->bits - 2u;
    }
}

/* --------------------------------------------------------------------------------------------------------- form --- */
static void fill_tables(kvi_cuda_tile *t)
{
    static const float nf4[16] = {KVI_NF4_VALUES}, fp4[16] = {KVI_BNB_FP4_VALUES};
    uint8_t bytes[64] = {0};
    for (uint32_t code = 0; code < 16u; code++) {
        if (t->form.values == KVI_TILE_IQ4) bytes[code] = (uint8_t)(128.0f + kvi_gguf_iq4(code));
        if (t->form.values == KVI_TILE_E2M1) bytes[code] = (uint8_t)(12.0f + kvi_gguf_e2m1(code));
        if (t->form.values == KVI_TILE_NF4 || t->form.values == KVI_TILE_BNB_FP4) {
            const float value = 1024.0f * (t->form.values == KVI_TILE_NF4 ? nf4[code] : fp4[code]);
            const uint16_t high = kvi_f32_to_f16(value), rest = kvi_f32_to_f16(value - kvi_f16_to_f32(high));
            bytes[code] = (uint8_t)high, bytes[16u + code] = (uint8_t)(high >> 8);
            bytes[32u + code] = (uint8_t)rest, bytes[48u + code] = (uint8_t)(rest >> 8);
        }
    }
    memcpy(t->tables, bytes, sizeof t->tables);
}

/* What tile_gemv.cu has no way to read as it lies. */
static bool opens(const kvi_tile *t)
{
    const bool sixteen = t->group == 16u, mins = t->offset == KVI_TILE_MINS;
    if (t->whole_row || t->global || t->offset == KVI_TILE_ZEROS) return true;
    if (t->values == KVI_TILE_E2M1) return sixteen || (t->scale != KVI_TILE_E8M0 && t->scale != KVI_TILE_MX);
    if (t->scale == KVI_TILE_SUB) {
        const bool have_mins = t->values == KVI_TILE_INTEGER && KVI_CUDA_SUBS_HAVE_MINS(t->bits);
        return t->bits == 8u || t->values >= KVI_TILE_FLOATS || sixteen != KVI_CUDA_SUBS_OF_16(t->bits) ||
               mins != have_mins;
    }
    return t->scale != KVI_TILE_F16 || sixteen;
}

bool kvi_cuda_tile_of(const kvi_weight_desc *desc, kvi_cuda_tile *out)
{
    kvi_weight_desc whole = *desc;
    whole.looked_up = false; /* the device reads no map: an embedding is laid as any other matrix */
    memset(out, 0, sizeof *out);
    if (!kvi_tile_of(&whole, &out->form)) return false;
    const kvi_tile *t = &out->form;
    const uint32_t last = (t->n_in - 1u) / KVI_TILE_BLOCK * KVI_TILE_BLOCK;
    out->first_block = (uint32_t)kvi_tile_block_at(t, 0);
    out->block_bytes = (uint32_t)kvi_tile_block_bytes(t, 0);
    out->side = kvi_tile_block_side(t, 0);
    out->groups = kvi_tile_block_groups(t, 0);
    out->last_block = last;
    out->last_side = kvi_tile_block_side(t, last);
    out->last_groups = kvi_tile_block_groups(t, last);
    out->flush = t->whole_row ? KVI_TILE_BLOCK / 16u : t->group / 16u;
    out->stage_bytes = out->block_bytes; /* the last block is the first one or shorter */
    out->opens = opens(t);
    fill_tables(out);
    return true;
}

uint64_t kvi_cuda_tile_bytes(const kvi_weight_desc *desc, const kvi_cuda_tile *tile)
{
    const uint32_t n_experts = desc->n_experts > 1 ? desc->n_experts : 1;
    return kvi_cuda_round(kvi_tile_bytes(&tile->form)) +
           (desc->parts[KVI_PART_GROUPS] ? kvi_cuda_round((uint64_t)desc->n_in * 4 * n_experts) : 0);
}

/* ------------------------------------------------------------------------------------------------------- import --- */
/* Order of the columns of all experts; *gathers: any of them needs it. */
static kvrt_status sort_columns(const kvi_weight_desc *desc, uint32_t *order, bool *gathers, kvrt_error *error)
{
    kvi_tile_order found;
    KVI_TRY(kvi_tile_sort_columns(desc, order, &found, error));
    *gathers = found == KVI_TILE_ORDER_GATHERS;
    return found != KVI_TILE_ORDER_UNEVEN
               ? KVRT_OK
               : kvi_error_set(
                     error, KVRT_UNSUPPORTED,
                     "tensor %s: form %s with groups of different sizes, which the CUDA backend does not have",
                     desc->name, kvi_form(desc->form)->name);
}

/* A code that is no number would be a number in the device's arithmetic (tiles.cuh). Lines hold nothing but codes. */
static bool has_nan(const kvi_cuda_tile *t, const uint8_t *panel)
{
    for (uint32_t k = 0; k < t->form.n_in; k += KVI_TILE_BLOCK) {
        const uint8_t *codes = panel + kvi_tile_block_at(&t->form, k) + kvi_tile_block_side(&t->form, k);
        const uint64_t n = kvi_tile_block_bytes(&t->form, k) - kvi_tile_block_side(&t->form, k);
        for (uint64_t i = 0; i < n; i++)
            if ((codes[i] & 127u) == 127u) return true;
    }
    return false;
}

kvrt_status kvi_cuda_tile_send(kvi_device *d, const kvi_weight_desc *desc, kvi_weight *w, kvrt_error *error)
{
    const kvi_cuda_tile *t = w->tile;
    const uint32_t n_panels = kvi_tile_panels(&t->form), n_experts = desc->n_experts > 1 ? desc->n_experts : 1;
    const uint64_t bytes = t->form.panel_bytes;
    uint32_t *order = NULL;
    float *scratch = NULL; /* of a weight that is rounded */
    bool gathers = false;
    if (bytes > KVI_CUDA_STAGING)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "tensor %s: %u columns, more than the CUDA backend has room for",
                             desc->name, desc->n_in);
    if (desc->parts[KVI_PART_GROUPS]) {
        order = kvi_mem_alloc((uint64_t)desc->n_in * n_experts * sizeof *order);
        if (!order) return kvi_error_nomem(error, (uint64_t)desc->n_in * n_experts * 4, desc->name);
    }
    if (desc->source) {
        scratch = kvi_mem_alloc(kvi_tile_round_scratch(desc) * sizeof *scratch);
        if (!scratch) {
            kvi_mem_free(order);
            return kvi_error_nomem(error, kvi_tile_round_scratch(desc) * sizeof *scratch, desc->name);
        }
    }
    kvrt_status status = order ? sort_columns(desc, order, &gathers, error) : KVRT_OK;
    if (gathers) w->order = w->data.codes + kvi_cuda_round(kvi_tile_bytes(&t->form));
    if (status >= KVRT_OK && gathers)
        status = kvi_cuda_upload(d, w->order, order, (uint64_t)desc->n_in * n_experts * 4, error);
    const uint32_t most = (uint32_t)(KVI_CUDA_STAGING / bytes), all = n_panels * n_experts;
    for (uint32_t i = 0, n; i < all && status >= KVRT_OK; i += n) {
        uint8_t *block;
        n = all - i < most ? all - i : most;
        status = kvi_cuda_staging_take(d, &block, error);
        for (uint32_t j = 0; j < n && status >= KVRT_OK; j++) {
            uint8_t *panel = block + j * bytes;
            const uint32_t expert = (i + j) / n_panels, at = (i + j) % n_panels;
            if (scratch) kvi_tile_round(&t->form, desc, expert, at, scratch, panel);
            else kvi_tile_lay(&t->form, desc, expert, at, gathers ? order + (size_t)expert * desc->n_in : NULL, panel);
            if (t->form.values == KVI_TILE_OF_E4M3 && has_nan(t, panel))
                status = kvi_error_set(error, KVRT_FORMAT, "tensor %s: form %s with a code that is no number",
                                       desc->name, kvi_form(desc->form)->name);
        }
        if (status >= KVRT_OK) status = kvi_cuda_staging_send(d, w->data.codes + i * bytes, n * bytes, error);
    }
    kvi_mem_free(order);
    kvi_mem_free(scratch);
    return status;
}

/* --------------------------------------------------------------------------------------------------------- runs --- */
bool kvi_cuda_same_tile(const kvi_weight *a, const kvi_weight *b)
{
    kvi_tile x, y;
    if (!a->tile || !b->tile || a->order != b->order) return false;
    x = a->tile->form, y = b->tile->form;
    x.n_out = y.n_out;
    return memcmp(&x, &y, sizeof x) == 0;
}

uint32_t kvi_cuda_tile_warps(const kvi_cuda_tile *t)
{
    uint32_t warps = GEMV_WARPS;
    while (warps > 1 && warps * (kvi_cuda_tile_warp_bytes(t) + KVI_TILE_SUM_BYTES) > SHARED_MOST) warps /= 2;
    return warps;
}

kvrt_status kvi_cuda_tile_product(kvi_device *d, const kvi_op *op, uint32_t first, uint32_t n,
                                  const kvi_cuda_linear_params *linear, uint32_t tile_rows, uint32_t blocks,
                                  const char **name, kvrt_error *error)
{
    const kvi_cuda_tile *t = op->weights[first]->tile;
    const struct tile_kernels *of = &kernels[kernels_of(&t->form)];
    const bool pair = linear->action == KVI_CUDA_GATED;
    kvi_cuda_tile_params p = {.l = *linear, .tile = *t, .first_panel = linear->first_out / KVI_TILE_ROWS};
    uint32_t end = 0;
    for (uint32_t i = 0; i < 3; i++) {
        if (i < n) {
            const kvi_weight *w = op->weights[first + i];
            const uint32_t n_out = linear->end[i] - (i ? linear->end[i - 1] : 0),
                           last = (i ? n_out : linear->first_out + n_out) + KVI_TILE_ROWS - 1;
            p.panels[i] = w->data.codes;
            end += last / KVI_TILE_ROWS - (i ? 0 : p.first_panel);
        }
        p.panel_end[i] = end;
    }
    const uint32_t n_panels = pair ? p.panel_end[0] : end;
    if (tile_rows == KVI_DECODE_ROWS) {
        const uint32_t warps = kvi_cuda_tile_warps(t);
        *name = kvi_cuda_kernel_name(of->gemv);
        return kvi_cuda_launch(d, of->gemv, p.l.rows_first ? blocks : n_panels, p.l.rows_first ? n_panels : blocks, 1,
                               32 * warps, warps * (kvi_cuda_tile_warp_bytes(t) + KVI_TILE_SUM_BYTES), &p, error);
    }
    const bool wide = tile_rows > 32;
    const uint32_t panels = wide ? 8 : 4, outputs = panels * KVI_TILE_ROWS;
    const uint32_t slots = pair ? panels / 2 : panels;
    const kvi_cuda_kernel_id kernel = wide ? of->gemm_m64 : of->gemm_m32;
    *name = kvi_cuda_kernel_name(kernel);
    return kvi_cuda_launch(d, kernel, blocks, (n_panels + slots - 1) / slots, 1, 2 * outputs,
                           3 * (tile_rows * 64 + panels * t->form.bits * KVI_TILE_LINE + 16 * outputs), &p, error);
}

kvrt_status kvi_cuda_tile_embed(kvi_device *d, const kvi_op *op, uint32_t rows, const char **name, kvrt_error *error)
{
    const kvi_weight *table = op->weights[0];
    const kvi_cuda_buffer *out = &d->buffers[op->out];
    const kvi_cuda_embed_tile_params p = {.step = d->map,
                                          .tile = *table->tile,
                                          .panels = table->data.codes,
                                          .order = table->order,
                                          .y = out->data,
                                          .n_cols = out->cols,
                                          .y_pitch = out->pitch,
                                          .y_type = (uint32_t)out->dtype,
                                          .scale = op->scale};
    *name = kvi_cuda_kernel_name(KVI_CUDA_K_embed_tile);
    return kvi_cuda_launch(d, KVI_CUDA_K_embed_tile, rows, 1, 1, 128, 0, &p, error);
}
