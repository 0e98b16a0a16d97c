/* request.c - see request.h. */
#include "request.h"

static _Atomic uint64_t last_number;

static uint64_t next_number(void) { return atomic_fetch_add(&last_number, 1) + 1; }

void kvi_requests_reset(kvi_requests *r)
{
    atomic_store(&r->reserved, 0);
    atomic_store(&r->current, 0);
    atomic_store(&r->reserved_mark, 0);
    atomic_store(&r->mark, 0);
}

/* Marks `request` as long as it is the one in `place`. The mark is read before the place is looked at: a canceller that was held up until
 * another request was there and marked fails in the exchange, and does not undo that mark. */
static void set_mark(_Atomic uint64_t *mark, const _Atomic uint64_t *place, uint64_t request)
{
    uint64_t old = atomic_load(mark);
    while (atomic_load(place) == request && !atomic_compare_exchange_weak(mark, &old, request)) {
    }
}

uint64_t kvi_requests_reserve(kvi_requests *r)
{
    const uint64_t number = next_number();
    atomic_store(&r->reserved, number);
    return number;
}

uint64_t kvi_requests_begin(kvi_requests *r)
{
    uint64_t number = atomic_load(&r->reserved);
    if (!number) {
        number = next_number();
        atomic_store(&r->current, number);
        return number;
    }
    /* Current before it is reserved no more: at every moment a canceller finds it in one of the two places. */
    atomic_store(&r->current, number);
    if (atomic_load(&r->reserved_mark) == number) set_mark(&r->mark, &r->current, number);
    uint64_t used = number;
    (void)atomic_compare_exchange_strong(&r->reserved, &used, 0);
    return number;
}

void kvi_requests_begin_other(kvi_requests *r) { atomic_store(&r->current, next_number()); }

bool kvi_requests_cancelled(const kvi_requests *r) { return atomic_load(&r->mark) == atomic_load(&r->current); }

void kvi_requests_cancel(kvi_requests *r, uint64_t request)
{
    if (!request) return;
    set_mark(&r->reserved_mark, &r->reserved, request);
    set_mark(&r->mark, &r->current, request);
}
