/* crowd.c - see crowd.h. */
#include "crowd.h"
#include "../../runtime/engine/seat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

int32_t crowd_token(uint32_t story, uint32_t pos)
{
    return (int32_t)(2 + (pos * 31 + story * 17 + pos / 90 * story) % 90);
}

void crowd_join(kvrt_engine engine, crowd_member *m)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o;
    int32_t *ids = malloc(m->n_prompt * sizeof *ids);
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_text(o, "gen.token_events", "true", NULL);
    kvrt_options_set_text(o, "gen.ignore_eos", "true", NULL);
    for (const char *const *pair = m->options; *pair; pair += 2)
        if (kvrt_options_set_text(o, pair[0], pair[1], &error) < KVRT_OK) fail_msg("%s", error.message);
    if (kvrt_session_create(engine, o, &m->handle, &error) < KVRT_OK) fail_msg("%s", error.message);
    for (uint32_t i = 0; i < m->n_prompt; i++) ids[i] = crowd_token(m->story, i);
    if (kvrt_session_sync(m->handle, ids, m->n_prompt, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(kvi_session_enter(m->handle, KVI_LOOK, &m->session, NULL), KVRT_OK);
    kvi_session_leave(m->session, KVI_LOOK);
    kvrt_options_destroy(o);
    free(ids);
    m->digest = 1;
    m->n_tokens = m->n_demotions = 0;
    m->begun = false;
    m->status = KVRT_OK;
    m->result = (kvrt_result){.size = sizeof m->result};
}

static void add(crowd_member *m, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) m->digest = (m->digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
}

static int32_t listen(const kvrt_event *event, void *user)
{
    crowd_member *m = user;
    const int64_t fields[] = {event->type,          (int64_t)event->text_len,
                              (int64_t)event->done, (int64_t)event->total,
                              event->token,         event->finish,
                              event->status};
    add(m, fields, sizeof fields);
    add(m, event->text, event->text_len);
    add(m, &event->logprob, sizeof event->logprob);
    if (event->type == KVRT_EVENT_KV_DEMOTED) m->n_demotions++;
    if (event->type != KVRT_EVENT_TOKEN || ++m->n_tokens != m->act_at) return KVRT_CONTINUE;
    if (m->act == CROWD_CANCEL) kvrt_cancel(m->handle);
    return m->act == CROWD_PAUSE ? KVRT_PAUSE : m->act == CROWD_STOP ? KVRT_STOP : KVRT_CONTINUE;
}

void crowd_alone(crowd_member *m)
{
    do m->status = kvrt_generate(m->handle, NULL, listen, m, &m->result, NULL);
    while (m->status == KVRT_PAUSED);
}

static void begin(crowd_member *m)
{
    kvrt_error error = {.size = sizeof error};
    if (kvi_generation_begin(m->session, NULL, listen, m, &error) < KVRT_OK) fail_msg("%s", error.message);
    m->begun = true;
    m->rounds_paused = 0;
}

/* Requests begin with their round, or when nobody else has anything to do. Returns whether one did. */
static bool arrivals(crowd_member *members, uint32_t n, uint32_t round, bool idle)
{
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        crowd_member *m = &members[i];
        const bool paused = m->begun && m->session->gen.state == KVI_PAUSED;
        if (!m->begun ? !idle && m->arrives > round : !paused || (++m->rounds_paused < 3 && !idle)) continue;
        begin(m);
        any = true;
    }
    return any;
}

uint64_t crowd_together(kvrt_engine engine, crowd_member *members, uint32_t n,
                        void (*between)(uint32_t round, void *user), void *user)
{
    kvi_engine *e;
    kvi_session *sessions[CROWD_MOST];
    uint64_t allocations = 0, before, after;
    for (uint32_t i = 0; i < n; i++) sessions[i] = members[i].session;
    assert_int_equal(kvi_engine_enter(engine, KVI_DRIVE, &e, NULL), KVRT_OK);
    kvi_account *account = kvi_account_use(e->account);
    bool more = true;
    for (uint32_t round = 0; arrivals(members, n, round, !more) || more; round++) {
        if (between) between(round, user);
        kvrt_debug_mem(NULL, NULL, &before);
        more = kvi_drive_step(e, sessions, n);
        kvrt_debug_mem(NULL, NULL, &after);
        allocations += after - before;
    }
    (void)kvi_account_use(account);
    kvi_engine_leave(e, KVI_DRIVE);
    for (uint32_t i = 0; i < n; i++) {
        const kvi_generation *gen = &sessions[i]->gen;
        members[i].status = gen->status;
        members[i].result.finish = gen->finish;
        members[i].result.n_generated = gen->n_generated;
        members[i].result.n_reused = gen->n_reused;
    }
    return allocations;
}

void crowd_same(const crowd_member *a, const crowd_member *b, const char *what)
{
    if (a->status != b->status || a->result.finish != b->result.finish ||
        a->result.n_generated != b->result.n_generated)
        fail_msg("%s, story %u: alone %s, finish %d, %u tokens; together %s, finish %d, %u tokens", what, a->story,
                 kvrt_status_name(a->status), a->result.finish, a->result.n_generated, kvrt_status_name(b->status),
                 b->result.finish, b->result.n_generated);
    if (a->session->n_tokens != b->session->n_tokens ||
        memcmp(a->session->tokens, b->session->tokens, a->session->n_tokens * sizeof(int32_t)) != 0)
        fail_msg("%s, story %u: other tokens than alone", what, a->story);
    if (a->digest != b->digest || a->n_demotions != b->n_demotions)
        fail_msg("%s, story %u: the same tokens, but other events or bits than alone", what, a->story);
}
