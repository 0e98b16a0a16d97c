/* handle.c - see handle.h. A fixed table: generation in the upper bits, so a value is not reused for 2^40 opens of a slot. */
#include "handle.h"
#include "../base/os.h"

#define INDEX_BITS 12u
#define KIND_BITS 4u

typedef struct handle_slot {
    void *object;
    _Atomic uint64_t key;     /* value of the open handle, 0 when free */
    _Atomic uint64_t process; /* that opened it */
    uint64_t generation;
    uint32_t users;
    kvi_requests requests;
} handle_slot;

static handle_slot slots[KVI_MAX_HANDLES];

/* Slot of an open handle, or NULL. Lock-free: also called from kvrt_cancel. */
static handle_slot *find(const void *handle)
{
    uint64_t key = (uint64_t)(uintptr_t)handle;
    handle_slot *slot = &slots[key & (KVI_MAX_HANDLES - 1)];
    return key && atomic_load(&slot->key) == key ? slot : NULL;
}

static bool kind_is(const void *handle, kvi_handle_kind kind)
{
    return (((uintptr_t)handle >> INDEX_BITS) & ((1u << KIND_BITS) - 1)) == (uintptr_t)kind;
}

void *kvi_handle_new(kvi_handle_kind kind, void *object)
{
    void *value = NULL;
    kvi_global_lock();
    for (uint64_t i = 0; i < KVI_MAX_HANDLES; i++) {
        handle_slot *slot = &slots[i];
        if (atomic_load(&slot->key)) continue;
        slot->object = object;
        slot->users = 0;
        kvi_requests_reset(&slot->requests);
        atomic_store(&slot->process, kvi_os_process());
        uint64_t key = (++slot->generation << (INDEX_BITS + KIND_BITS)) | ((uint64_t)kind << INDEX_BITS) | i;
        atomic_store(&slot->key, key);
        value = (void *)(uintptr_t)key;
        break;
    }
    kvi_global_unlock();
    return value;
}

kvrt_status kvi_handle_enter(const void *handle, kvi_handle_kind kind, void **object, kvrt_error *error)
{
    const char *what = kind == KVI_HANDLE_ENGINE ? "engine" : "session";
    handle_slot *slot = find(handle);
    *object = NULL;
    if (slot && kind_is(handle, kind) && atomic_load(&slot->process) != kvi_os_process())
        return kvi_error_set(error, KVRT_HANDLE,
                             "%s: opened by process %llu, this is a fork of it (%llu); open an engine after the fork",
                             what, (unsigned long long)atomic_load(&slot->process),
                             (unsigned long long)kvi_os_process());
    kvi_global_lock();
    slot = find(handle);
    if (slot && kind_is(handle, kind)) {
        slot->users++;
        *object = slot->object;
    }
    kvi_global_unlock();
    return *object ? KVRT_OK : kvi_error_set(error, KVRT_HANDLE, "%s: the handle is not open", what);
}

void kvi_handle_leave(const void *handle)
{
    kvi_global_lock();
    handle_slot *slot = find(handle);
    if (slot && slot->users) slot->users--;
    kvi_global_unlock();
}

bool kvi_handle_close(const void *const *handles, uint32_t n)
{
    bool idle = true;
    kvi_global_lock();
    for (uint32_t i = 0; i < n; i++) idle = idle && !find(handles[i])->users;
    for (uint32_t i = 0; idle && i < n; i++) {
        handle_slot *slot = find(handles[i]);
        slot->object = NULL;
        atomic_store(&slot->key, 0);
    }
    kvi_global_unlock();
    return idle;
}

kvi_requests *kvi_handle_requests(const void *handle)
{
    handle_slot *slot = find(handle);
    return slot ? &slot->requests : NULL;
}

void kvi_handle_cancel(const void *handle, uint64_t request)
{
    handle_slot *slot = find(handle);
    if (!slot || atomic_load(&slot->process) != kvi_os_process()) return;
    /* Reserved before current, as request.h demands. The numbers are read before the handle is looked at again: if its slot belongs to
     * another session by now, they are numbers that mean nothing there. */
    _Atomic uint64_t *const places[2] = {&slot->requests.reserved, &slot->requests.current};
    for (int i = 0; i < 2; i++) {
        const uint64_t number = request ? request : atomic_load(places[i]);
        if (find(handle) == slot) kvi_requests_cancel(&slot->requests, number);
    }
}

/* Numbers are unique in the process: where it is neither reserved nor current nothing happens. */
void kvi_handle_cancel_anywhere(uint64_t request)
{
    for (uint32_t i = 0; i < KVI_MAX_HANDLES; i++) {
        handle_slot *slot = &slots[i];
        if (atomic_load(&slot->key) && atomic_load(&slot->process) == kvi_os_process())
            kvi_requests_cancel(&slot->requests, request);
    }
}
