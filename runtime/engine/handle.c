/* handle.c - see handle.h. A fixed table: 1,024 slots, generation in the upper bits, so a value is not reused for 2^40 opens of a slot. */
#include "handle.h"
#include "../base/os.h"

#include <stdatomic.h>

#define N_SLOTS 1024u
#define INDEX_BITS 12u
#define KIND_BITS 4u

typedef struct handle_slot {
    void *object;
    _Atomic uint64_t key; /* value of the open handle, 0 when free */
    uint64_t generation;
    uint32_t users;
    atomic_bool cancel;
} handle_slot;

static handle_slot slots[N_SLOTS];

/* Slot of an open handle, or NULL. Lock-free: also called from kvrt_cancel. */
static handle_slot *find(const void *handle)
{
    uint64_t key = (uint64_t)(uintptr_t)handle;
    handle_slot *slot = &slots[key & (N_SLOTS - 1)];
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
    for (uint64_t i = 0; i < N_SLOTS; i++) {
        handle_slot *slot = &slots[i];
        if (atomic_load(&slot->key)) continue;
        slot->object = object;
        slot->users = 0;
        atomic_store(&slot->cancel, false);
        uint64_t key = (++slot->generation << (INDEX_BITS + KIND_BITS)) | ((uint64_t)kind << INDEX_BITS) | i;
        atomic_store(&slot->key, key);
        value = (void *)(uintptr_t)key;
        break;
    }
    kvi_global_unlock();
    return value;
}

void *kvi_handle_enter(const void *handle, kvi_handle_kind kind)
{
    void *object = NULL;
    kvi_global_lock();
    handle_slot *slot = find(handle);
    if (slot && kind_is(handle, kind)) {
        slot->users++;
        object = slot->object;
    }
    kvi_global_unlock();
    return object;
}

void kvi_handle_leave(const void *handle)
{
    kvi_global_lock();
    handle_slot *slot = find(handle);
    if (slot && slot->users) slot->users--;
    kvi_global_unlock();
}

kvrt_status kvi_handle_close(const void *handle, kvi_handle_kind kind, void **object)
{
    kvrt_status status = KVRT_OK;
    kvi_global_lock();
    handle_slot *slot = find(handle);
    if (!slot || !kind_is(handle, kind)) status = KVRT_HANDLE;
    else if (slot->users) status = KVRT_BUSY;
    else {
        *object = slot->object;
        slot->object = NULL;
        atomic_store(&slot->key, 0);
    }
    kvi_global_unlock();
    return status;
}

void kvi_handle_cancel(const void *handle, bool cancel)
{
    handle_slot *slot = find(handle);
    if (slot) atomic_store(&slot->cancel, cancel);
}

bool kvi_handle_cancelled(const void *handle)
{
    handle_slot *slot = find(handle);
    return slot && atomic_load_explicit(&slot->cancel, memory_order_relaxed);
}
