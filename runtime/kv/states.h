/* states.h - the states of one sequence: what its recurrent layers remember of all positions so far. Unlike pages, a state is overwritten by
 * every step, so that a sequence cannot go back unless it kept a copy. Hence one *live* state, which steps read and write, and *checkpoints*:
 * copies of it at a few positions. All are objects of the store (store.h), of one size, beside the pages.
 *
 *     position      0 ........ 128 ........ 256 ........ 300
 *     checkpoints              [id 5]       [id 9]             at most KVI_STATE_CHECKPOINTS, idle in the store
 *     live                                             [id 2]  one reference, for as long as the sequence has positions
 *
 * Places for checkpoints are few, so they lie about evenly along the text, and one is *kept*: that of the end of the prompt, where an answer is
 * begun anew.
 *
 * At position 0 a live state counts as zero, whatever stands there (kernels/program.h): nothing is saved or restored for it. A checkpoint is a
 * thing remembered, not held: the store may take it away when room is needed. Decisions only; the caller copies the bytes. */
#ifndef KVI_KV_STATES_H
#define KVI_KV_STATES_H
#include "store.h"

#define KVI_STATE_CHECKPOINTS 4u

typedef struct kvi_checkpoint_slot {
    uint32_t position; /* 0: empty */
    kvi_memo memo;
} kvi_checkpoint_slot;

typedef struct kvi_states {
    kvi_store *store;
    uint32_t units; /* of a state; 0: the model has no recurrent layers, and there is never one */
    uint32_t live;  /* KVI_NO_PAGE: none yet */
    uint32_t spare; /* borrowed; KVI_NO_PAGE: none */
    uint32_t kept;  /* position whose checkpoint makes no room for others; 0: none */
    kvi_checkpoint_slot slots[KVI_STATE_CHECKPOINTS];
} kvi_states;

static inline uint32_t kvi_state_units(uint64_t state_bytes)
{
    return (uint32_t)((state_bytes + KVI_KV_UNIT - 1) / KVI_KV_UNIT);
}

void kvi_states_init(kvi_states *states, kvi_store *store, uint64_t state_bytes);
void kvi_states_free(kvi_states *states); /* gives live state and checkpoints back */
/* The live state, taken when there is none yet. False: no room. */
bool kvi_states_begin(kvi_states *states);
uint32_t kvi_states_unit(const kvi_states *states); /* of the live state; 0 without one */

/* The live state is that of `position` > 0: *copy (units 0: none) saves it, in a free place, else in that of the checkpoint which is missed least.
 * False: no room for any, or no live state. */
bool kvi_states_save(kvi_states *states, uint32_t position, kvi_extent_copy *copy);
/* The last position <= n that a checkpoint is there for; 0 when there is none. */
uint32_t kvi_states_nearest(const kvi_states *states, uint32_t n);
/* Makes the live state that of a position which kvi_states_nearest named (units 0: position 0, nothing to copy). */
void kvi_states_restore(kvi_states *states, uint32_t position, kvi_extent_copy *copy);
/* Lets others find the checkpoint of a position under `key`; of two of one content one stays. */
void kvi_states_publish(kvi_states *states, uint32_t position, kvi_page_key key);
/* Makes a state that was found the live one, which there is, of `position` > 0, and remembers it as the checkpoint there. */
void kvi_states_adopt(kvi_states *states, uint32_t id, uint32_t position, kvi_extent_copy *copy);
/* Makes `to`, which has no checkpoints, remember those of `from`; *copy makes its live state, if there is one, that of `from`. */
void kvi_states_share(kvi_states *to, const kvi_states *from, kvi_extent_copy *copy);

/* Positions [first, first + n) are dropped, and those behind move down: so do checkpoints; those before and within are forgotten. */
void kvi_states_drop_middle(kvi_states *states, uint32_t first, uint32_t n);
/* A state to work in while the live one is not to be touched. False: no room. It stays until given back. */
bool kvi_states_borrow(kvi_states *states);
uint32_t kvi_states_borrowed_unit(const kvi_states *states); /* 0 without one */
void kvi_states_give_back(kvi_states *states);
void kvi_states_swap(kvi_states *states); /* what was borrowed is the live state now */

/* Drops checkpoints beyond position n: other tokens will stand there. */
void kvi_states_cut(kvi_states *states, uint32_t n);

#endif
