/* states.c - see states.h. */
#include "states.h"

#include <string.h>

void kvi_states_init(kvi_states *states, kvi_store *store, uint64_t state_bytes)
{
    memset(states, 0, sizeof *states);
    states->store = store;
    states->units = kvi_state_units(state_bytes);
    states->live = states->spare = KVI_NO_PAGE;
}

static bool is_there(const kvi_states *states, const kvi_checkpoint_slot *slot)
{
    return kvi_store_recall(states->store, slot->memo) != KVI_NO_PAGE;
}

void kvi_states_free(kvi_states *states)
{
    if (!states->store) return;
    kvi_states_cut(states, 0);
    kvi_states_give_back(states);
    if (states->live != KVI_NO_PAGE) kvi_store_drop(states->store, states->live);
    states->live = KVI_NO_PAGE;
}

static uint32_t take(kvi_states *states)
{
    (void)kvi_store_free_cached(states->store, states->units);
    return kvi_store_take(states->store, KVI_MAX_GROUPS, 0, states->units, false);
}

bool kvi_states_begin(kvi_states *states)
{
    if (states->units && states->live == KVI_NO_PAGE) states->live = take(states);
    return !states->units || states->live != KVI_NO_PAGE;
}

static uint32_t unit_of(const kvi_states *states, uint32_t id)
{
    return id == KVI_NO_PAGE ? 0 : states->store->pages[id].unit;
}

uint32_t kvi_states_unit(const kvi_states *states) { return unit_of(states, states->live); }

uint32_t kvi_states_borrowed_unit(const kvi_states *states) { return unit_of(states, states->spare); }

/* How much a checkpoint is missed when it goes, with the sequence at `end`: the way from the one before it to the one behind, which a return in
 * between would then compute. So they lie about evenly along a text of any length. */
static uint32_t worth(const kvi_states *states, const kvi_checkpoint_slot *slot, uint32_t end)
{
    uint32_t before = 0, behind = end;
    if (slot->position == states->kept) return UINT32_MAX;
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        const uint32_t at = states->slots[i].position;
        if (at < slot->position && at > before) before = at;
        if (at > slot->position && at < behind) behind = at;
    }
    return behind - before;
}

/* Among those that are there. */
static kvi_checkpoint_slot *least_missed(kvi_states *states, uint32_t end)
{
    kvi_checkpoint_slot *best = NULL;
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++)
        if (is_there(states, &states->slots[i]) &&
            (!best || worth(states, &states->slots[i], end) < worth(states, best, end)))
            best = &states->slots[i];
    return best;
}

/* Where a checkpoint of `position` goes: its old place, else an empty one, else that which is missed least. */
static kvi_checkpoint_slot *slot_for(kvi_states *states, uint32_t position)
{
    kvi_checkpoint_slot *empty = NULL;
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        kvi_checkpoint_slot *slot = &states->slots[i];
        if (!is_there(states, slot)) memset(slot, 0, sizeof *slot); /* the store took it away */
        if (slot->position == position) return slot;
        if (!slot->position && !empty) empty = slot;
    }
    return empty ? empty : least_missed(states, position);
}

bool kvi_states_save(kvi_states *states, uint32_t position, kvi_extent_copy *copy)
{
    kvi_store *store = states->store;
    *copy = (kvi_extent_copy){0, 0, 0};
    if (states->live == KVI_NO_PAGE || position == 0) return false;
    kvi_checkpoint_slot *slot = slot_for(states, position);
    uint32_t id = is_there(states, slot) ? KVI_NO_PAGE : take(states);
    if (id == KVI_NO_PAGE) { /* overwrites one of its own */
        if (!is_there(states, slot)) slot = least_missed(states, position);
        if (!slot) return false;
        id = kvi_store_take_back(store, slot->memo);
        kvi_store_renew(store, id); /* whoever knew it otherwise */
    }
    *copy = (kvi_extent_copy){store->pages[states->live].unit, store->pages[id].unit, states->units};
    *slot = (kvi_checkpoint_slot){position, kvi_store_remember(store, id, false)};
    kvi_store_drop(store, id);
    return true;
}

void kvi_states_publish(kvi_states *states, uint32_t position, kvi_page_key key)
{
    kvi_store *store = states->store;
    kvi_checkpoint_slot *slot = NULL;
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++)
        if (states->slots[i].position == position && is_there(states, &states->slots[i])) slot = &states->slots[i];
    if (!slot) return;
    const uint32_t id = slot->memo.id, known = kvi_store_publish(store, id, key);
    if (known == id) return;
    kvi_store_share(store, known);
    (void)kvi_store_forget(store, slot->memo);
    slot->memo = kvi_store_remember(store, known, false);
    kvi_store_drop(store, known);
}

void kvi_states_adopt(kvi_states *states, uint32_t id, uint32_t position, kvi_extent_copy *copy)
{
    kvi_store *store = states->store;
    kvi_checkpoint_slot *slot = slot_for(states, position);
    kvi_store_share(store, id);
    if (is_there(states, slot)) (void)kvi_store_forget(store, slot->memo);
    *slot = (kvi_checkpoint_slot){position, kvi_store_remember(store, id, false)};
    kvi_store_drop(store, id);
    *copy = (kvi_extent_copy){store->pages[id].unit, store->pages[states->live].unit, states->units};
}

void kvi_states_share(kvi_states *to, const kvi_states *from, kvi_extent_copy *copy)
{
    kvi_store *store = to->store;
    *copy = (kvi_extent_copy){0, 0, 0};
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        const uint32_t id = kvi_store_recall(store, from->slots[i].memo);
        if (id == KVI_NO_PAGE) continue;
        to->slots[i] = from->slots[i];
        to->slots[i].memo = kvi_store_remember(store, id, false);
    }
    to->kept = from->kept;
    if (from->live == KVI_NO_PAGE || to->live == KVI_NO_PAGE) return;
    *copy = (kvi_extent_copy){store->pages[from->live].unit, store->pages[to->live].unit, to->units};
}

static kvi_checkpoint_slot *nearest(const kvi_states *states, uint32_t n)
{
    const kvi_checkpoint_slot *best = NULL;
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        const kvi_checkpoint_slot *slot = &states->slots[i];
        if (slot->position <= n && (!best || slot->position > best->position) && is_there(states, slot)) best = slot;
    }
    return (kvi_checkpoint_slot *)(uintptr_t)best;
}

uint32_t kvi_states_nearest(const kvi_states *states, uint32_t n)
{
    const kvi_checkpoint_slot *slot = nearest(states, n);
    return slot ? slot->position : 0;
}

void kvi_states_restore(kvi_states *states, uint32_t position, kvi_extent_copy *copy)
{
    kvi_store *store = states->store;
    kvi_checkpoint_slot *slot = position ? nearest(states, position) : NULL;
    *copy = (kvi_extent_copy){0, 0, 0};
    if (!slot || states->live == KVI_NO_PAGE) return;
    const uint32_t id = kvi_store_recall(store, slot->memo);
    kvi_store_share(store, id); /* used now: the last to go */
    kvi_store_drop(store, id);
    *copy = (kvi_extent_copy){store->pages[id].unit, store->pages[states->live].unit, states->units};
}

void kvi_states_drop_middle(kvi_states *states, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        kvi_checkpoint_slot *slot = &states->slots[i];
        if (slot->position >= first + n) {
            slot->position -= n;
        } else if (slot->position) {
            (void)kvi_store_forget(states->store, slot->memo);
            memset(slot, 0, sizeof *slot);
        }
    }
    states->kept = states->kept >= first + n ? states->kept - n : 0;
}

bool kvi_states_borrow(kvi_states *states)
{
    if (states->units && states->spare == KVI_NO_PAGE) states->spare = take(states);
    return !states->units || states->spare != KVI_NO_PAGE;
}

void kvi_states_swap(kvi_states *states)
{
    const uint32_t live = states->live;
    states->live = states->spare;
    states->spare = live;
}

void kvi_states_give_back(kvi_states *states)
{
    if (states->spare != KVI_NO_PAGE) kvi_store_drop(states->store, states->spare);
    states->spare = KVI_NO_PAGE;
}

void kvi_states_cut(kvi_states *states, uint32_t n)
{
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        kvi_checkpoint_slot *slot = &states->slots[i];
        if (slot->position <= n) continue;
        (void)kvi_store_forget(states->store, slot->memo);
        memset(slot, 0, sizeof *slot);
    }
}
