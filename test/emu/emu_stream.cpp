/* emu_stream.cpp - streams, events, copies, launches. Work is queued and done when the host waits, so nothing is early by luck.
 * What a copy from pinned memory reads is read then; what a copy into pinned memory has not written yet is 0xff bytes.
 * The default stream orders itself before and after all blocking streams, as on the device. */
#include "emu_driver.h"

#include <stdlib.h>
#include <time.h>

using namespace kvi_emu;

struct kvi_cu_stream_t {
    unsigned int flags;
    std::deque<work> queue;
};
struct kvi_cu_event_t {
    unsigned int flags;
    kvi_cu_stream_t *stream; /* of the last record; NULL: the default one */
    uint64_t recorded, done;
    double ms;
};

namespace kvi_emu
{

static std::deque<work> &queue_of(kvi_cu_stream_t *stream) { return stream ? stream->queue : driver().default_queue; }

/* Nodes in an order that their edges allow; which one of several that may run is drawn from the seed. */
static kvi_cu_result run_nodes(const node_list &nodes)
{
    state &d = driver();
    std::vector<size_t> waiting_for(nodes.size(), 0), may_run;
    std::vector<std::vector<size_t>> before(nodes.size());
    for (size_t i = 0; i < nodes.size(); i++) {
        waiting_for[i] = nodes[i].after.size();
        for (size_t a : nodes[i].after) before[a].push_back(i);
        if (!waiting_for[i]) may_run.push_back(i);
    }
    uint32_t random = d.set.seed * 2654435761u + 1u;
    while (!may_run.empty()) {
        random = random * 1664525u + 1013904223u;
        size_t pick = d.set.seed == 0 ? 0 : d.set.seed == 1 ? may_run.size() - 1 : (random >> 8) % may_run.size();
        size_t next = may_run[pick];
        may_run.erase(may_run.begin() + (std::ptrdiff_t)pick);
        kvi_cu_result result = launch_run(nodes[next]);
        if (result != KVI_CU_SUCCESS) return result;
        for (size_t b : before[next])
            if (--waiting_for[b] == 0) may_run.push_back(b);
    }
    return KVI_CU_SUCCESS;
}
static void run(work &item)
{
    state &d = driver();
    if (item.kind == work::event) { /* events complete on a lost device as well, as far as anybody can see */
        timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        item.recorded->ms = (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
        item.recorded->done++;
        return;
    }
    if (d.lost) return;
    if (d.operations.strikes()) {
        d.lost = KVI_CU_LAUNCH_FAILED;
        return;
    }
    switch (item.kind) {
    case work::to_device: memcpy(item.to, item.snapshot.empty() ? item.from : item.snapshot.data(), item.bytes); break;
    case work::to_host:
        memcpy(item.to, item.from, item.bytes);
        d.to_host_bytes += item.bytes;
        break;
    case work::on_device: memmove(item.to, item.from, item.bytes); break;
    case work::set: memset(item.to, item.value, item.bytes); break;
    case work::kernels: {
        kvi_cu_result result = run_nodes(*item.nodes);
        if (result != KVI_CU_SUCCESS) d.lost = result;
        break;
    }
    case work::event: break;
    }
}
static void flush(std::deque<work> &queue)
{
    while (!queue.empty()) {
        work item = std::move(queue.front());
        queue.pop_front();
        run(item);
    }
}
static void flush_blocking()
{
    for (void *s : driver().streams) {
        kvi_cu_stream_t *stream = static_cast<kvi_cu_stream_t *>(s);
        if (!(stream->flags & KVI_CU_STREAM_NON_BLOCKING)) flush(stream->queue);
    }
}
void stream_flush_all()
{
    flush(driver().default_queue);
    for (void *s : driver().streams) flush(static_cast<kvi_cu_stream_t *>(s)->queue);
}

kvi_cu_result stream_enqueue(const char *call, kvi_cu_stream stream, work &&item)
{
    state &d = driver();
    if (stream && !d.streams.count(stream)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live stream", call);
    if (!stream) flush_blocking();
    else if (!(stream->flags & KVI_CU_STREAM_NON_BLOCKING)) flush(d.default_queue);
    queue_of(stream).push_back(std::move(item));
    return KVI_CU_SUCCESS;
}

} // namespace kvi_emu

/* ----------------------------------------------------------------------------------------------------------- copies --- */
KVRT_EMU_API kvi_cu_result cuMemcpyHtoDAsync_v2(kvi_cu_dptr to, const void *from, size_t bytes, kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    kvi_cu_result result = memory_check(__func__, to, bytes);
    if (result != KVI_CU_SUCCESS) return result;
    work item = {};
    item.kind = work::to_device;
    item.to = reinterpret_cast<unsigned char *>((uintptr_t)to);
    item.from = static_cast<const unsigned char *>(from);
    item.bytes = bytes;
    if (!memory_contains(driver().pinned, reinterpret_cast<uintptr_t>(from), bytes))
        item.snapshot.assign(item.from, item.from + bytes);
    return stream_enqueue(__func__, stream, std::move(item));
}
/* Into pageable memory the driver returns when the bytes are there. */
KVRT_EMU_API kvi_cu_result cuMemcpyDtoHAsync_v2(void *to, kvi_cu_dptr from, size_t bytes, kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    kvi_cu_result result = memory_check(__func__, from, bytes);
    if (result != KVI_CU_SUCCESS) return result;
    const bool is_pinned = memory_contains(driver().pinned, reinterpret_cast<uintptr_t>(to), bytes);
    work item = {};
    item.kind = work::to_host;
    item.to = static_cast<unsigned char *>(to);
    item.from = reinterpret_cast<const unsigned char *>((uintptr_t)from);
    item.bytes = bytes;
    if (is_pinned) memset(to, 0xff, bytes);
    result = stream_enqueue(__func__, stream, std::move(item));
    if (result == KVI_CU_SUCCESS && !is_pinned) {
        flush(queue_of(stream));
        result = driver().lost;
    }
    return result;
}
KVRT_EMU_API kvi_cu_result cuMemcpyDtoDAsync_v2(kvi_cu_dptr to, kvi_cu_dptr from, size_t bytes, kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    kvi_cu_result result = memory_check(__func__, to, bytes);
    if (result == KVI_CU_SUCCESS) result = memory_check(__func__, from, bytes);
    if (result != KVI_CU_SUCCESS) return result;
    if (to < from + bytes && from < to + bytes && bytes)
        return misuse(KVI_CU_INVALID_VALUE, "%s: the ranges overlap", __func__);
    work item = {};
    item.kind = work::on_device;
    item.to = reinterpret_cast<unsigned char *>((uintptr_t)to);
    item.from = reinterpret_cast<const unsigned char *>((uintptr_t)from);
    item.bytes = bytes;
    return stream_enqueue(__func__, stream, std::move(item));
}
KVRT_EMU_API kvi_cu_result cuMemsetD8Async(kvi_cu_dptr at, unsigned char value, size_t bytes, kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    kvi_cu_result result = memory_check(__func__, at, bytes);
    if (result != KVI_CU_SUCCESS) return result;
    work item = {};
    item.kind = work::set;
    item.to = reinterpret_cast<unsigned char *>((uintptr_t)at);
    item.bytes = bytes;
    item.value = value;
    return stream_enqueue(__func__, stream, std::move(item));
}

/* ---------------------------------------------------------------------------------------------------------- streams --- */
KVRT_EMU_API kvi_cu_result cuStreamCreate(kvi_cu_stream *stream, unsigned int flags)
{
    KVRT_EMU_ENTER(true);
    *stream = new kvi_cu_stream_t{flags, {}};
    driver().streams.insert(*stream);
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuStreamDestroy_v2(kvi_cu_stream stream)
{
    entry guard(__func__);
    state &d = driver();
    if (guard.result != KVI_CU_SUCCESS && !d.lost) return guard.result;
    if (!d.streams.count(stream)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live stream", __func__);
    flush(stream->queue);
    d.streams.erase(stream);
    delete stream;
    return d.lost;
}
KVRT_EMU_API kvi_cu_result cuStreamSynchronize(kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    if (stream && !driver().streams.count(stream))
        return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live stream", __func__);
    if (!stream) flush_blocking();
    flush(queue_of(stream));
    return driver().lost;
}

/* ----------------------------------------------------------------------------------------------------------- events --- */
KVRT_EMU_API kvi_cu_result cuEventCreate(kvi_cu_event *event, unsigned int flags)
{
    KVRT_EMU_ENTER(true);
    *event = new kvi_cu_event_t{flags, nullptr, 0, 0, 0.0};
    driver().events.insert(*event);
    return KVI_CU_SUCCESS;
}
static void wait_for(kvi_cu_event event)
{
    if (event->stream && !driver().streams.count(event->stream)) return; /* its work was done when the stream went */
    std::deque<work> &queue = queue_of(event->stream);
    while (event->done < event->recorded && !queue.empty()) {
        work item = std::move(queue.front());
        queue.pop_front();
        run(item);
    }
}
KVRT_EMU_API kvi_cu_result cuEventDestroy_v2(kvi_cu_event event)
{
    entry guard(__func__);
    state &d = driver();
    if (guard.result != KVI_CU_SUCCESS && !d.lost) return guard.result;
    if (!d.events.count(event)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live event", __func__);
    wait_for(event); /* the queue must not keep its address */
    d.events.erase(event);
    delete event;
    return d.lost;
}
KVRT_EMU_API kvi_cu_result cuEventRecord(kvi_cu_event event, kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    if (!driver().events.count(event)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live event", __func__);
    if (event->stream != stream) wait_for(event);
    work item = {};
    item.kind = work::event;
    item.recorded = event;
    kvi_cu_result result = stream_enqueue(__func__, stream, std::move(item));
    if (result != KVI_CU_SUCCESS) return result;
    event->stream = stream;
    event->recorded++;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuEventSynchronize(kvi_cu_event event)
{
    KVRT_EMU_ENTER(true);
    if (!driver().events.count(event)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live event", __func__);
    wait_for(event);
    return driver().lost;
}
KVRT_EMU_API kvi_cu_result cuEventElapsedTime(float *ms, kvi_cu_event start, kvi_cu_event end)
{
    KVRT_EMU_ENTER(true);
    state &d = driver();
    if (!d.events.count(start) || !d.events.count(end))
        return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live event", __func__);
    if ((start->flags | end->flags) & KVI_CU_EVENT_DISABLE_TIMING)
        return misuse(KVI_CU_INVALID_HANDLE, "%s: an event without timing", __func__);
    if (!start->recorded || !end->recorded)
        return misuse(KVI_CU_INVALID_HANDLE, "%s: an event that was never recorded", __func__);
    if (start->done < start->recorded || end->done < end->recorded) return KVI_CU_NOT_READY;
    *ms = (float)(end->ms - start->ms);
    return KVI_CU_SUCCESS;
}
