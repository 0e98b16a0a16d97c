/* bandwidth.c - read bandwidth of this machine: the limit that `kvrt bench` states its figures against. Best of one and
 * of eight streams per thread, because one sequential stream does not reach the machine's limit. */
#include "device_cpu.h"

struct kvrt_bandwidth {
    const kvi_cpu_variant *v;
    kvi_workers *workers;
    uint32_t n_threads, n_streams;
    uint8_t *data;
    uint64_t bytes; /* per thread */
    uint64_t sink;
    uint64_t process; /* whose worker threads these are */
};

kvrt_status kvrt_bandwidth_open(uint32_t n_threads, uint64_t bytes, kvrt_bandwidth **out, kvrt_error *error)
{
    if (!out) return kvi_error_set(error, KVRT_ARG, "kvrt_bandwidth_open: out is NULL");
    *out = NULL;
    kvrt_bandwidth *probe = kvi_mem_zalloc(1, sizeof *probe);
    if (!probe) return kvi_error_nomem(error, sizeof *probe, "bandwidth probe");
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    probe->v = kvi_cpu_choose(&cpu, "auto");
    probe->process = kvi_os_process();
    probe->n_threads = n_threads ? n_threads : kvi_os_cpu_count();
    probe->bytes = bytes / probe->n_threads / 4096 * 4096;
    probe->data = kvi_mem_alloc_aligned(probe->bytes * probe->n_threads);
    kvrt_status status = probe->data ? kvi_workers_open(probe->n_threads, &probe->workers, error)
                                     : kvi_error_nomem(error, bytes, "bandwidth probe");
    if (status < KVRT_OK) {
        kvrt_bandwidth_close(probe);
        return status;
    }
    /* Touch every page, or all reads would hit the one zero page. */
    for (uint64_t i = 0; i < probe->bytes * probe->n_threads; i += 64) probe->data[i] = (uint8_t)(i >> 6);
    *out = probe;
    return KVRT_OK;
}

static void read_task(void *arg, uint32_t task, uint32_t thread)
{
    kvrt_bandwidth *probe = arg;
    (void)thread;
    uint64_t total = probe->v->read_streams(probe->data + task * probe->bytes, probe->bytes, probe->n_streams);
    __atomic_fetch_add(&probe->sink, total, __ATOMIC_RELAXED);
}

double kvrt_bandwidth_read_gbps(kvrt_bandwidth *probe)
{
    double best = 0;
    if (probe->process != kvi_os_process()) return 0;
    for (uint32_t streams = 1; streams <= 8; streams *= 8) {
        probe->n_streams = streams;
        uint64_t start = kvi_os_now_us();
        kvi_workers_run(probe->workers, read_task, probe, probe->n_threads);
        double gbps = (double)(probe->bytes * probe->n_threads) / (double)(kvi_os_now_us() - start + 1) / 1e3;
        if (gbps > best) best = gbps;
    }
    return best;
}

void kvrt_bandwidth_close(kvrt_bandwidth *probe)
{
    if (!probe || probe->process != kvi_os_process()) return;
    kvi_workers_close(probe->workers);
    kvi_mem_free_aligned(probe->data);
    kvi_mem_free(probe);
}
