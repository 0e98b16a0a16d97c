/* run_cuda.c - runs a range of the program: as the graph that was recorded of it, or operation by operation, which can be timed and logged
 * and gives the same bits. */
#include "device_cuda.h"
#include "../../runtime/base/log.h"

const char *kvi_cuda_slot_name(uint32_t slot)
{
    return slot < KVI_OP_KIND_COUNT    ? kvi_op_name((kvi_op_kind)slot)
           : slot == KVI_OP_KIND_COUNT ? "convert_pages"
                                       : "best_tokens";
}

static uint64_t op_bytes(const kvi_device *d, const kvi_op *op)
{
    uint64_t bytes = 0;
    if (op->kind == KVI_OP_ATTENTION) return d->attention_bytes[op->group];
    if (op->kind == KVI_OP_ATTENTION_LATENT) bytes = d->attention_bytes[op->group];
    for (uint32_t i = 0; op->kind != KVI_OP_EMBED && i < op->n_weights; i++) {
        const kvi_weight *w = op->weights[i];
        if (w) bytes += (op->n_out ? op->n_out : w->n_out) * kvi_weight_row_bytes(w->form, w->n_in);
    }
    if (op->kind != KVI_OP_EXPERTS) return bytes;
    const uint64_t pairs = (uint64_t)d->n_rows * op->route.top_k; /* each of another expert, if there are so many */
    return bytes * (pairs < op->n_experts ? pairs : op->n_experts);
}

/* Nobody waits between operations: a host that waited would have the device idle while it launches the next one, and the first kernel's way there
 * would count as time of the operation. */
kvrt_status kvi_cuda_time_begin(kvi_device *d, kvrt_error *error)
{
    if (!d->timing) return KVRT_OK;
    if (d->n_timed == KVI_CUDA_TIMED) KVI_TRY(kvi_cuda_time_read(d, error));
    return kvi_cuda_check(&d->driver.cu, d->driver.cu.event_record(d->timed[d->n_timed].start, d->stream), "time",
                          error);
}

kvrt_status kvi_cuda_time_end(kvi_device *d, uint32_t slot, const char *kernel, uint64_t bytes, kvrt_error *error)
{
    if (!d->timing) return KVRT_OK;
    kvi_cuda_timed *timed = &d->timed[d->n_timed];
    KVI_TRY(kvi_cuda_check(&d->driver.cu, d->driver.cu.event_record(timed->end, d->stream), "time", error));
    timed->slot = slot;
    timed->kernel = kernel;
    timed->bytes = bytes;
    d->n_timed++;
    return KVRT_OK;
}

kvrt_status kvi_cuda_time_read(kvi_device *d, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint32_t n = d->n_timed;
    d->n_timed = 0;
    if (n) KVI_TRY(kvi_cuda_check(cu, cu->event_wait(d->timed[n - 1].end), "time", error));
    for (uint32_t i = 0; i < n; i++) {
        const kvi_cuda_timed *timed = &d->timed[i];
        float ms = 0;
        KVI_TRY(kvi_cuda_check(cu, cu->event_elapsed(&ms, timed->start, timed->end), "time", error));
        d->times[timed->slot].kernel = timed->kernel;
        d->times[timed->slot].calls++;
        d->times[timed->slot].bytes += timed->bytes;
        d->times[timed->slot].us += (double)ms * 1e3;
    }
    return KVRT_OK;
}

kvrt_status kvi_cuda_run_range(kvi_device *d, uint32_t first_op, uint32_t n_ops, kvrt_error *error)
{
    const bool seen =
        d->timing || kvi_log_on(KVI_LOG_KERNELS); /* operation by operation; the same kernels, the same bits */
    const kvi_cuda_graph *graph = seen ? NULL : kvi_cuda_graph_find(d, first_op, n_ops);
    if (graph) return kvi_cuda_check(&d->driver.cu, d->driver.cu.graph_launch(graph->exec, d->stream), "graph", error);
    const uint32_t rows = d->wide && d->n_rows > KVI_DECODE_ROWS ? d->n_rows : kvi_cuda_bucket(d->n_rows);
    for (uint32_t i = first_op; i < first_op + n_ops; i++) {
        const kvi_op *op = &d->program->ops[i];
        const char *kernel = "none";
        KVI_TRY(kvi_cuda_time_begin(d, error));
        KVI_TRY(kvi_cuda_op_run(d, op, rows, &kernel, error));
        KVI_TRY(kvi_cuda_time_end(d, (uint32_t)op->kind, kernel, op_bytes(d, op), error));
        if (kvi_log_on(KVI_LOG_KERNELS))
            kvi_log(KVI_LOG_KERNELS, "layer %u, %s: %s, %u rows", op->layer, kvi_op_name(op->kind), kernel, d->n_rows);
    }
    return kvi_cuda_time_read(d, error);
}
