/* drive.c - see drive.h. */
#include "drive.h"
#include "step.h"

/* Which forms are wanted. A request that ends without a step ends here. */
static void look(kvi_session *const *sessions, uint32_t n, bool *narrow, bool *wide)
{
    *narrow = *wide = false;
    for (uint32_t i = 0; i < n; i++) {
        const kvi_want want = kvi_generation_next(sessions[i]);
        if (!want.n) continue;
        *narrow = *narrow || !want.wide;
        *wide = *wide || want.wide;
    }
}

/* Wants of one form from *first on, until one does not fit. *first is then where to begin next time. */
static void collect(kvi_session *const *sessions, uint32_t n, bool wide, uint32_t *first, kvi_batch *batch)
{
    const uint32_t from = *first;
    for (uint32_t i = 0; i < n; i++) {
        kvi_session *s = sessions[(from + i) % n];
        const kvi_want want = kvi_generation_next(s);
        if (!want.n || want.wide != wide) continue;
        if (!kvi_batch_add(batch, s, &want, &s->gen.error)) return;
        *first = (from + i + 1) % n;
    }
}

static void lose(kvi_session *const *sessions, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (kvi_generation_next(sessions[i]).n)
            kvi_generation_take(sessions[i],
                                kvi_error_set(&sessions[i]->gen.error, KVRT_DEVICE_LOST,
                                              "engine: the device was lost while another session used it"),
                                0);
}

bool kvi_drive_step(kvi_engine *e, kvi_session *const *sessions, uint32_t n, kvi_turn *turn)
{
    kvi_batch batch = {.n_parts = 0};
    bool narrow, wide;
    if (atomic_load(&e->lost)) lose(sessions, n);
    look(sessions, n, &narrow, &wide);
    if (!narrow && !wide) return false;
    turn->was_wide = wide && !(narrow && turn->was_wide);
    collect(sessions, n, turn->was_wide, turn->was_wide ? &turn->wide : &turn->narrow, &batch);
    kvi_batch_run(e, &batch);
    for (uint32_t i = 0; i < batch.n_parts; i++)
        kvi_generation_take(batch.parts[i].session, batch.parts[i].status, batch.parts[i].logit_row);
    return true;
}

void kvi_engine_drive(kvi_engine *e, kvi_session *const *sessions, uint32_t n)
{
    kvi_turn turn = {.was_wide = false};
    while (kvi_drive_step(e, sessions, n, &turn)) {
    }
}
