/* memory_cuda.c - device memory: weights from the map through pinned staging, plain uploads and downloads, the planned workspace.
 * Owns what is allocated and when: weights at import, workspace and pool at load, nothing afterwards.
 * The one thing to know: staging is two pinned blocks that take turns, so that the copy from the map (which may wait for the disk)
 * overlaps the transfer of the block before; and the other way round. */
#include "memory_cuda.h"
#include "../../runtime/model/weight_codec.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------ staging --- */
kvrt_status kvi_cuda_staging_open(kvi_device *d, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    for (uint32_t i = 0; i < 2; i++) {
        void *block = NULL;
        if (cu->host_alloc(&block, KVI_CUDA_STAGING) != KVI_CU_SUCCESS)
            return kvi_error_nomem(error, KVI_CUDA_STAGING, "cuda: pinned staging memory");
        d->staging[i] = block;
        KVI_TRY(kvi_cuda_check(cu, cu->event_create(&d->staged[i], KVI_CU_EVENT_DISABLE_TIMING), "event", error));
    }
    return KVRT_OK;
}

void kvi_cuda_staging_close(kvi_device *d)
{
    for (uint32_t i = 0; i < 2; i++) {
        if (d->staged[i]) (void)d->driver.cu.event_destroy(d->staged[i]);
        if (d->staging[i]) (void)d->driver.cu.host_free(d->staging[i]);
        d->staged[i] = NULL;
        d->staging[i] = NULL;
    }
}

kvrt_status kvi_cuda_staging_take(kvi_device *d, uint8_t **out, kvrt_error *error)
{
    KVI_TRY(kvi_cuda_check(&d->driver.cu, d->driver.cu.event_wait(d->staged[d->next_staging]), "staging", error));
    *out = d->staging[d->next_staging];
    return KVRT_OK;
}

kvrt_status kvi_cuda_staging_send(kvi_device *d, kvi_dptr to, uint64_t bytes, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint32_t i = d->next_staging;
    d->next_staging = 1 - i;
    KVI_TRY(kvi_cuda_check(cu, cu->copy_to_device(to, d->staging[i], bytes, d->stream), "copy to the device", error));
    return kvi_cuda_check(cu, cu->event_record(d->staged[i], d->stream), "event", error);
}

kvrt_status kvi_cuda_upload(kvi_device *d, kvi_dptr to, const void *from, uint64_t bytes, kvrt_error *error)
{
    for (uint64_t done = 0; done < bytes;) {
        const uint64_t n = bytes - done < KVI_CUDA_STAGING ? bytes - done : KVI_CUDA_STAGING;
        uint8_t *block;
        KVI_TRY(kvi_cuda_staging_take(d, &block, error));
        memcpy(block, (const uint8_t *)from + done, n);
        KVI_TRY(kvi_cuda_staging_send(d, to + done, n, error));
        done += n;
    }
    return KVRT_OK;
}

/* While one block is copied to where it belongs the next one is on its way. Behind the last one all are there, without an event. */
kvrt_status kvi_cuda_download(kvi_device *d, void *to, kvi_dptr from, uint64_t bytes, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    uint32_t oldest = d->next_staging;
    for (uint64_t asked = 0, done = 0; done < bytes; oldest = 1 - oldest) {
        while (asked < bytes && asked - done <= KVI_CUDA_STAGING) {
            const uint64_t n = bytes - asked < KVI_CUDA_STAGING ? bytes - asked : KVI_CUDA_STAGING;
            const uint32_t i = d->next_staging;
            uint8_t *block;
            KVI_TRY(kvi_cuda_staging_take(d, &block, error));
            KVI_TRY(
                kvi_cuda_check(cu, cu->copy_to_host(block, from + asked, n, d->stream), "copy from the device", error));
            asked += n;
            if (asked < bytes) KVI_TRY(kvi_cuda_check(cu, cu->event_record(d->staged[i], d->stream), "event", error));
            d->next_staging = 1 - i;
        }
        const uint64_t n = bytes - done < KVI_CUDA_STAGING ? bytes - done : KVI_CUDA_STAGING;
        KVI_TRY(kvi_cuda_check(cu, asked < bytes ? cu->event_wait(d->staged[oldest]) : cu->stream_wait(d->stream),
                               "device", error));
        memcpy((uint8_t *)to + done, d->staging[oldest], n);
        done += n;
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------ weights --- */
/* Elements from row to row: kernels take eight at a time, from 16-byte aligned rows, whatever n_in is. */

/* A form that has neither rows of its own nor a tile form (F64, bitsandbytes' int8, groups that are no multiple of 16) is decoded to F16 rows. */
static bool decodes(const kvi_weight_desc *desc) { return desc->n_out > 1 && !kvi_cuda_linear_has(desc->form); }
static kvi_weight_form device_form(const kvi_weight_desc *desc)
{
    return desc->n_out == 1 ? KVI_FORM_F32 : decodes(desc) ? KVI_FORM_F16 : desc->form;
}

/* Bytes from row to row. */
static uint32_t row_pitch(const kvi_weight_desc *desc)
{
    return (uint32_t)kvi_weight_row_bytes(device_form(desc), kvi_cuda_pitch(desc->n_in));
}

kvrt_status kvi_cuda_weight_bytes(const kvi_weight_desc *desc, uint64_t *bytes, kvrt_error *error)
{
    kvi_cuda_tile tile;
    if (desc->n_out > 1 && kvi_cuda_tile_of(desc, &tile)) {
        *bytes = kvi_cuda_tile_bytes(desc, &tile);
        return KVRT_OK;
    }
    if (desc->source)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "tensor %s: rounding at open (weights.type) to a form that the CUDA backend does not have",
                             desc->name);
    const uint32_t n_experts = desc->n_experts > 1 ? desc->n_experts : 1;
    *bytes = kvi_cuda_round((uint64_t)desc->n_out * n_experts * row_pitch(desc));
    return KVRT_OK;
}

bool kvi_cuda_kernel_of(const kvi_weight_desc *desc, const kvi_device_options *options, char *text, uint64_t cap)
{
    kvrt_error error = {.size = sizeof error};
    kvi_cuda_tile tile;
    uint64_t bytes;
    (void)options;
    const bool has = kvi_cuda_weight_bytes(desc, &bytes, &error) >= KVRT_OK, tiles = kvi_cuda_tile_of(desc, &tile);
    (void)snprintf(text, cap, "%s",
                   !has                      ? "not on cuda"
                   : decodes(desc) && !tiles ? "decoded to f16 rows, tensor cores"
                                             : "rows, tensor cores");
    return has;
}

kvrt_status kvi_cuda_no_memory(const kvi_device *d, const char *what, uint64_t bytes, kvrt_error *error)
{
    size_t available = 0, total = 0;
    (void)d->driver.cu.mem_info(&available, &total);
    return kvi_error_memory(error, KVRT_NOMEM_DEVICE, bytes, available,
                            "%s: need %llu MiB on the device, %llu MiB are free", what,
                            (unsigned long long)(bytes >> 20), (unsigned long long)(available >> 20));
}

kvrt_status kvi_cuda_allocate(const kvi_device *d, uint64_t bytes, const char *what, kvi_dptr *out, kvrt_error *error)
{
    if (!bytes || d->driver.cu.mem_alloc(out, bytes) == KVI_CU_SUCCESS) return KVRT_OK;
    *out = 0;
    return kvi_cuda_no_memory(d, what, bytes, error);
}

kvrt_status kvi_cuda_weights_reserve(kvi_device *d, uint64_t bytes, kvrt_error *error)
{
    if (!bytes) return KVRT_OK;
    if (d->n_blocks == KVI_CUDA_MAX_BLOCKS)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "cuda: more than %u blocks of weights", KVI_CUDA_MAX_BLOCKS);
    kvi_cuda_block *block = &d->blocks[d->n_blocks];
    KVI_TRY(kvi_cuda_allocate(d, bytes, "weights", &block->data, error));
    block->bytes = bytes;
    block->used = 0;
    d->n_blocks++;
    return KVRT_OK;
}

/* From the last block while it lasts (an engine reserves one for all weights), else from a block of its own. */
static kvrt_status place(kvi_device *d, uint64_t bytes, kvi_dptr *out, kvrt_error *error)
{
    kvi_cuda_block *block = d->n_blocks ? &d->blocks[d->n_blocks - 1] : NULL;
    if (!block || block->bytes - block->used < bytes) {
        KVI_TRY(kvi_cuda_weights_reserve(d, bytes, error));
        block = &d->blocks[d->n_blocks - 1];
    }
    *out = block->data + block->used;
    block->used += bytes;
    return KVRT_OK;
}

/* Vectors (gains, biases) are widened once: they are small, and every kernel reads them as f32. */
static kvrt_status send_vector(kvi_device *d, const kvi_weight_desc *desc, const kvi_weight *w, kvrt_error *error)
{
    const uint32_t most = KVI_CUDA_STAGING / 4, n_padded = kvi_cuda_pitch(w->n_in);
    for (uint32_t done = 0; done < n_padded;) {
        const uint32_t n = n_padded - done < most ? n_padded - done : most;
        const uint32_t real = done >= w->n_in ? 0 : w->n_in - done < n ? w->n_in - done : n;
        uint8_t *block;
        KVI_TRY(kvi_cuda_staging_take(d, &block, error));
        float *values = (float *)(void *)block;
        memset(block, 0, (size_t)n * 4);
        (void)kvi_weight_read(desc, 0, 0, done, real, values);
        for (uint32_t i = 0; desc->add != 0.0f && i < real; i++) values[i] += desc->add;
        KVI_TRY(kvi_cuda_staging_send(d, w->data.codes + (uint64_t)done * 4, (uint64_t)n * 4, error));
        done += n;
    }
    return KVRT_OK;
}

/* Row `at` of a tensor that is stored column by column. */
static void turn_row(const kvi_weight_desc *desc, const uint8_t *codes, uint32_t at, uint8_t *to)
{
    const uint32_t of = desc->rows.of ? desc->rows.of : desc->n_out, size = kvi_form(desc->form)->block_bytes;
    for (uint32_t k = 0; k < desc->n_in; k++) memcpy(to + (size_t)k * size, codes + ((size_t)k * of + at) * size, size);
}

/* A row as F16, by pieces of whole blocks and words of codes. */
static kvrt_status decode_row(const kvi_weight_desc *desc, uint32_t expert, uint32_t row, uint8_t *to,
                              kvrt_error *error)
{
    float values[KVI_TILE_BLOCK];
    for (uint32_t k = 0, n; k < desc->n_in; k += n) {
        n = desc->n_in - k < KVI_TILE_BLOCK ? desc->n_in - k : KVI_TILE_BLOCK;
        if (!kvi_weight_read(desc, expert, row, k, n, values))
            return kvi_error_set(error, KVRT_FORMAT, "tensor %s: row %u has a code that means nothing", desc->name,
                                 row);
        for (uint32_t i = 0; i < n; i++) kvi_kv_store16(to + 2 * (size_t)(k + i), kvi_f32_to_f16(values[i]));
    }
    return KVRT_OK;
}

/* Rows of all experts one after the other, each with zeros up to its pitch. */
static kvrt_status send_matrix(kvi_device *d, const kvi_weight_desc *desc, const kvi_weight *w, kvrt_error *error)
{
    const uint64_t row = kvi_weight_row_bytes(w->form, w->n_in), pitch = w->data.pitch;
    const uint32_t n_rows = w->n_out * (desc->n_experts > 1 ? desc->n_experts : 1),
                   most = (uint32_t)(KVI_CUDA_STAGING / pitch);
    if (!most)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "tensor %s: %u columns, more than the CUDA backend has room for",
                             desc->name, desc->n_in);
    for (uint32_t done = 0, n; done < n_rows; done += n) {
        uint8_t *block;
        n = n_rows - done < most ? n_rows - done : most;
        KVI_TRY(kvi_cuda_staging_take(d, &block, error));
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t expert = (done + i) / w->n_out, at = kvi_weight_tensor_row(desc, (done + i) % w->n_out);
            const uint8_t *codes = kvi_weight_part_at(desc, KVI_PART_CODES, expert);
            if (decodes(desc)) KVI_TRY(decode_row(desc, expert, (done + i) % w->n_out, block + i * pitch, error));
            else if (desc->transposed) turn_row(desc, codes, at, block + i * pitch);
            else memcpy(block + i * pitch, codes + at * row, row);
            memset(block + i * pitch + row, 0, pitch - row);
        }
        KVI_TRY(kvi_cuda_staging_send(d, w->data.codes + done * pitch, n * pitch, error));
    }
    return KVRT_OK;
}

kvrt_status kvi_cuda_weight_import(kvi_device *d, const kvi_weight_desc *desc, kvi_weight **out, kvrt_error *error)
{
    uint64_t bytes = 0;
    KVI_TRY(kvi_cuda_weight_bytes(desc, &bytes, error));
    kvi_weight *w = kvi_arena_alloc(&d->arena, sizeof *w);
    if (!w) return kvi_error_nomem(error, sizeof *w, desc->name);
    w->name = desc->name;
    w->form = device_form(desc);
    w->n_out = desc->n_out;
    w->n_in = desc->n_in;
    kvi_cuda_tile tile;
    if (desc->n_out > 1 && kvi_cuda_tile_of(desc, &tile)) {
        kvi_cuda_tile *own = kvi_arena_alloc(&d->arena, sizeof *own);
        if (!own) return kvi_error_nomem(error, sizeof *own, desc->name);
        *own = tile;
        w->tile = own;
    } else w->data.pitch = row_pitch(desc);
    KVI_TRY(place(d, bytes, &w->data.codes, error));
    KVI_TRY(desc->n_out == 1 ? send_vector(d, desc, w, error)
            : w->tile        ? kvi_cuda_tile_send(d, desc, w, error)
                             : send_matrix(d, desc, w, error));
    *out = w;
    return KVRT_OK;
}
