/* graph_cuda.c - an operation as launches, and the graphs of decode steps.
 * A graph is built node by node from the recorded program, never by stream capture, which would disturb other threads of the host.
 * It stays valid while the context grows, because all that changes from step to step stands in device memory; so a decode
 * step is one cuGraphLaunch. One graph per bucket of rows (1, 2, 4, 8, 16), with and without the head, for the page formats that a session of
 * the planned format has; where others may occur (elastic, sessions with a format of their own), one more for all of them. */
#include "device_cuda.h"

#include <stddef.h>

kvrt_status kvi_cuda_op_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    if (op->kind == KVI_OP_ROPE_APPEND) return kvi_cuda_rope_append_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_ATTENTION) return kvi_cuda_attention_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_ROUTE) return kvi_cuda_route_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_EXPERTS) return kvi_cuda_experts_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_LATENT_APPEND) return kvi_cuda_latent_append_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_ATTENTION_LATENT) return kvi_cuda_latent_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_CONV_STATE) return kvi_cuda_conv_run(d, op, rows, kernel, error);
    if (op->kind == KVI_OP_DELTA) return kvi_cuda_delta_run(d, op, rows, kernel, error);
    return kvi_cuda_linear_run(d, op, rows, kernel, error);
}

/* -------------------------------------------------------------------------------------------------------- graphs --- */
static kvrt_status record(kvi_device *d, kvi_cuda_graph *graph, kvrt_error *error)
{
    const char *kernel;
    for (uint32_t i = graph->first_op; i < graph->first_op + graph->n_ops; i++)
        KVI_TRY(kvi_cuda_op_run(d, &d->program->ops[i], graph->rows, &kernel, error));
    return kvi_cuda_check(&d->driver.cu, d->driver.cu.graph_instantiate(&graph->exec, d->recording, 0), "graph", error);
}

static kvrt_status build(kvi_device *d, uint32_t n_ops, uint32_t rows, uint32_t formats, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    kvi_cuda_graph *graph = &d->graphs[d->n_graphs];
    *graph = (kvi_cuda_graph){.n_ops = n_ops, .rows = rows, .formats = formats};
    KVI_TRY(kvi_cuda_check(cu, cu->graph_create(&d->recording, 0), "graph", error));
    d->formats = formats;
    d->n_last = 0;
    kvrt_status status = record(d, graph, error);
    (void)cu->graph_destroy(d->recording); /* the executable copy stays */
    d->recording = NULL;
    d->branching = false;
    if (status < KVRT_OK) return status;
    d->n_graphs++;
    /* Now, and not by the first token, which would also be the one to find that there is no memory for it. */
    return kvi_cuda_check(cu, cu->graph_upload(graph->exec, d->stream), "graph", error);
}

kvrt_status kvi_cuda_graphs_build(kvi_device *d, kvrt_error *error)
{
    const uint32_t sets[2] = {kvi_cuda_attention_usual(d), kvi_cuda_attention_possible(d)};
    const uint32_t n_step =
        d->program->n_step ? d->program->n_step : d->program->n_ops; /* what is behind looks ahead */
    uint32_t first_head = 0;
    while (first_head < n_step && d->program->ops[first_head].kind != KVI_OP_HEAD) first_head++;
    for (uint32_t i = 0; i < (sets[0] == sets[1] ? 1u : 2u); i++)
        for (uint32_t rows = 1; rows <= kvi_cuda_narrow_rows(&d->limits); rows *= 2) {
            if (kvi_cuda_bucket(d->limits.max_rows) < rows) break;
            KVI_TRY(build(d, n_step, rows, sets[i], error));
            if (first_head && first_head < n_step) KVI_TRY(build(d, first_head, rows, sets[i], error));
        }
    return KVRT_OK;
}

const kvi_cuda_graph *kvi_cuda_graph_find(const kvi_device *d, uint32_t first_op, uint32_t n_ops)
{
    const uint32_t rows = kvi_cuda_bucket(d->n_rows);
    for (uint32_t i = 0; !d->wide && i < d->n_graphs; i++) {
        const kvi_cuda_graph *graph = &d->graphs[i];
        if (graph->first_op == first_op && graph->n_ops == n_ops && graph->rows == rows &&
            (d->formats & ~graph->formats) == 0)
            return graph;
    }
    return NULL;
}

void kvi_cuda_graphs_free(kvi_device *d)
{
    for (uint32_t i = 0; i < d->n_graphs; i++) (void)d->driver.cu.graph_exec_destroy(d->graphs[i].exec);
    d->n_graphs = 0;
}
