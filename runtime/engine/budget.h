/* budget.h - several engines of a process under one limit (mem.shared): who holds how much of it. There is one sum per memory, the host's and the
 * cards', behind the process-wide lock; what an engine holds is its plan's total, and while it is suspended what is left of it. */
#ifndef KVI_BUDGET_H
#define KVI_BUDGET_H
#include "../base/status.h"
#include <stdbool.h>

typedef struct kvi_share {
    uint64_t bytes; /* held; 0: none */
    bool of_card;
} kvi_share;

/* What all engines hold of it. */
uint64_t kvi_shared_bytes(bool of_card);
/* The share becomes `bytes`. False: together with the others it would pass `limit`, and is as it was. Less is always possible. */
bool kvi_share_set(kvi_share *share, uint64_t bytes, uint64_t limit);

#endif
