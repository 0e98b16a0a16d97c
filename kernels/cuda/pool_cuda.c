/* pool_cuda.c - the memory of the KV pool. Usually one allocation. Where its size may change (kvi_limits.pool_grain) it is a range of addresses for
 * the largest size, behind whose beginning memory stands in pieces of one grain, each a block of its own to the driver, so that any number of them
 * can go from the end. Addresses never change: graphs and kernels have them. A piece's handle is given back as soon as it is mapped; the mapping
 * keeps it. */
#include "memory_cuda.h"

static kvi_cu_memory_kind kind_of(const kvi_device *d)
{
    return (kvi_cu_memory_kind){.type = KVI_CU_MEMORY_PINNED, .location = {KVI_CU_LOCATION_DEVICE, d->ordinal}};
}

/* Memory behind [from, to) of the pool, or nothing. */
static kvrt_status map(kvi_device *d, uint64_t from, uint64_t to, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint64_t grain = d->limits.pool_grain;
    const kvi_cu_memory_kind kind = kind_of(d);
    const kvi_cu_memory_access access = {kind.location, KVI_CU_ACCESS_READ_WRITE};
    kvi_cu_result result = KVI_CU_SUCCESS;
    uint64_t end = from;
    while (end < to && result == KVI_CU_SUCCESS) {
        kvi_cu_memory piece;
        result = cu->memory_create(&piece, grain, &kind, 0);
        if (result != KVI_CU_SUCCESS) break;
        result = cu->memory_map(d->pool + end, grain, 0, piece, 0);
        (void)cu->memory_release(piece);
        if (result == KVI_CU_SUCCESS) end += grain;
    }
    if (result == KVI_CU_SUCCESS && to > from) result = cu->memory_access(d->pool + from, to - from, &access, 1);
    if (result == KVI_CU_SUCCESS) return KVRT_OK;
    if (end > from) (void)cu->memory_unmap(d->pool + from, end - from);
    return result == KVI_CU_OUT_OF_MEMORY ? kvi_cuda_no_memory(d, "KV pool", to - from, error)
                                          : kvi_cuda_check(cu, result, "memory of the KV pool", error);
}

static kvrt_status reserve(kvi_device *d, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint64_t grain = d->limits.pool_grain;
    const kvi_cu_memory_kind kind = kind_of(d);
    int has = 0;
    size_t own = 0;
    if (cu->device_attribute(&has, KVI_CU_ATTR_VIRTUAL_MEMORY, d->ordinal) != KVI_CU_SUCCESS || !has)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "mem.most: %s cannot change its KV pool: the driver has no virtual memory for it",
                             d->text);
    KVI_TRY(kvi_cuda_check(cu, cu->memory_grain(&own, &kind, KVI_CU_GRAIN_LEAST), "KV pool", error));
    if (own == 0 || grain % own != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "mem.most: %s takes memory in pieces of %zu KiB, found no way to pieces of %llu KiB",
                             d->text, own >> 10, (unsigned long long)(grain >> 10));
    const uint64_t most =
        d->limits.pool_most_bytes > d->limits.pool_bytes ? d->limits.pool_most_bytes : d->limits.pool_bytes;
    const kvi_cu_result result = cu->address_reserve(&d->pool, most, grain, 0, 0);
    if (result != KVI_CU_SUCCESS) d->pool = 0;
    else d->pool_reserved = most;
    return result == KVI_CU_OUT_OF_MEMORY ? kvi_cuda_no_memory(d, "KV pool", most, error)
                                          : kvi_cuda_check(cu, result, "addresses of the KV pool", error);
}

kvrt_status kvi_cuda_pool_open(kvi_device *d, kvrt_error *error)
{
    const uint64_t bytes = d->limits.pool_bytes;
    if (!bytes) return KVRT_OK;
    if (d->limits.pool_grain) {
        KVI_TRY(reserve(d, error));
        KVI_TRY(map(d, 0, bytes, error));
    } else KVI_TRY(kvi_cuda_allocate(d, bytes, "KV pool", &d->pool, error));
    d->pool_bytes = bytes;
    return KVRT_OK;
}

kvrt_status kvi_cuda_pool_resize(kvi_device *d, uint64_t bytes, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint64_t before = d->pool_bytes;
    if (bytes % d->limits.pool_grain != 0 || bytes > d->pool_reserved)
        return kvi_error_set(error, KVRT_INTERNAL, "KV pool: %llu bytes, of at most %llu in pieces of %llu",
                             (unsigned long long)bytes, (unsigned long long)d->pool_reserved,
                             (unsigned long long)d->limits.pool_grain);
    if (bytes > before) KVI_TRY(map(d, before, bytes, error));
    if (bytes < before) { /* nothing that runs may still look there */
        KVI_TRY(kvi_cuda_check(cu, cu->stream_wait(d->stream), "device", error));
        KVI_TRY(kvi_cuda_check(cu, cu->memory_unmap(d->pool + bytes, before - bytes), "memory of the KV pool", error));
    }
    d->pool_bytes = d->limits.pool_bytes = bytes;
    return KVRT_OK;
}

void kvi_cuda_pool_close(kvi_device *d)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    if (!d->pool) return;
    if (!d->pool_reserved) (void)cu->mem_free(d->pool);
    if (d->pool_reserved && d->pool_bytes) (void)cu->memory_unmap(d->pool, d->pool_bytes);
    if (d->pool_reserved) (void)cu->address_free(d->pool, d->pool_reserved);
    d->pool = 0;
    d->pool_reserved = d->pool_bytes = 0;
}
