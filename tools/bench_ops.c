/* bench_ops.c - times per operation, as `kvrt bench --ops` prints them. */
#include "bench.h"

#include <stdio.h>

int32_t bench_take_ops(bench_ops *t, kvrt_engine engine, uint32_t n, kvrt_error *error)
{
    t->n_timed = n;
    for (t->n = 0; t->n < BENCH_MAX_OPS; t->n++) {
        kvrt_op_time *op = &t->ops[t->n];
        op->size = sizeof *op;
        if (kvrt_measure_op_at(engine, t->n, op, NULL) != KVRT_OK) break;
        snprintf(t->kernels[t->n], sizeof t->kernels[0], "%s", op->kernel);
        op->kernel = t->kernels[t->n];
    }
    return kvrt_measure_ops(engine, 0, error);
}

void bench_print_ops(const bench_ops *t, const char *unit, bool json)
{
    for (unsigned i = 0; i < t->n; i++) {
        const kvrt_op_time *op = &t->ops[i];
        const double us = (double)op->total_us / t->n_timed,
                     gbps = op->total_us ? (double)op->bytes / 1e3 / (double)op->total_us : 0;
        if (json)
            printf("%s{\"op\":\"%s\",\"kernel\":\"%s\",\"us_per_%s\":%.1f,\"gbps\":%.2f}", i ? "," : "", op->op,
                   op->kernel, unit, us, gbps);
        else printf("    %-16s %-26s %9.1f us/%s %8.2f GB/s\n", op->op, op->kernel, us, unit, gbps);
    }
}
