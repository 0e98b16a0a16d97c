/* test_kv_room.c - the plan's promise about the KV pool, by filling it: every planned position fits, whatever the shape, format, tail and
 * the steps' sizes, with one session and with several; a pool one unit smaller does not hold them; bytes per token as told, held and
 * computed agree; what a page holds survives being moved; states of recurrent layers fit beside them, and a rewind finds the right one. */
#include "golden_model.h"
#include "../../runtime/engine/session.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t random_state = 1;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* ------------------------------------------------------------------------------------------------ a marking backend --- */
enum { SESSIONS = 3 };
typedef struct rig {
    kvi_engine engine;
    kvi_session sessions[SESSIONS];
    uint32_t n_sessions, n_moved;
    uint8_t *bytes; /* the pool; NULL: contents are not kept */
} rig;
static rig r;

/* The first and last word of every unit tell whose it is. */
static uint32_t word_of(uint32_t session, uint32_t group, uint32_t page, uint32_t unit)
{
    return (session << 28) | (group << 26) | (page << 10) | (unit & 1023);
}
static void mark(uint32_t session, uint32_t group, uint32_t page, const kvi_page_ref *ref)
{
    for (uint32_t u = 0; r.bytes && u < kvi_kv_page_units(ref->format, &r.engine.program.groups[group].shape); u++) {
        const uint32_t word = word_of(session, group, page, u);
        memcpy(r.bytes + (uint64_t)(ref->unit + u) * KVI_KV_UNIT, &word, 4);
        memcpy(r.bytes + (uint64_t)(ref->unit + u) * KVI_KV_UNIT + KVI_KV_UNIT - 4, &word, 4);
    }
}
/* Every word of a state tells whose and of which position it is. */
static void mark_state(uint32_t session)
{
    const kvi_states *states = &r.sessions[session].states;
    for (uint32_t u = 0; r.bytes && u < states->units * KVI_KV_UNIT; u += 4) {
        const uint32_t word = session << 28 | r.sessions[session].n_cached;
        memcpy(r.bytes + (uint64_t)kvi_states_unit(states) * KVI_KV_UNIT + u, &word, 4);
    }
}
static void check_state(uint32_t session, uint32_t unit, uint32_t position)
{
    for (uint32_t u = 0; u < r.sessions[session].states.units * KVI_KV_UNIT; u += 4) {
        uint32_t word;
        memcpy(&word, r.bytes + (uint64_t)unit * KVI_KV_UNIT + u, 4);
        if (word != (session << 28 | position))
            fail_msg("session %u: %x stands in the state of position %u", session, word, position);
    }
}
static uint64_t check_states(uint32_t session)
{
    const kvi_session *s = &r.sessions[session];
    uint64_t units = 0;
    if (s->states.live == KVI_NO_PAGE) return 0;
    if (s->n_cached) check_state(session, kvi_states_unit(&s->states), s->n_cached);
    for (uint32_t i = 0; i < KVI_STATE_CHECKPOINTS; i++) {
        const uint32_t id = kvi_store_recall(&r.engine.store, s->states.slots[i].memo);
        if (id == KVI_NO_PAGE) continue;
        check_state(session, r.engine.store.pages[id].unit, s->states.slots[i].position);
        units += s->states.units;
    }
    return (units + s->states.units) * KVI_KV_UNIT;
}

static void check_marks(void)
{
    uint64_t held = 0;
    for (uint32_t i = 0; i < r.n_sessions; i++) {
        const kvi_pages *pages = &r.sessions[i].pages;
        held += kvi_pages_bytes(pages) + check_states(i);
        for (uint32_t g = 0; g < pages->n_groups; g++)
            for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
                const kvi_page_ref at = kvi_pages_at(pages, g, p), *ref = &at;
                if (ref->unit == KVI_KV_NO_EXTENT) continue;
                for (uint32_t u = 0; u < kvi_kv_page_units(ref->format, &r.engine.program.groups[g].shape); u++)
                    for (uint32_t end = 0; end < 2; end++) {
                        uint32_t word;
                        memcpy(&word, r.bytes + (uint64_t)(ref->unit + u) * KVI_KV_UNIT + end * (KVI_KV_UNIT - 4), 4);
                        if (word != word_of(i, g, p, u))
                            fail_msg("session %u, group %u, page %u, unit %u holds %x", i, g, p, u, word);
                    }
            }
    }
    assert_int_equal(kvi_pool_used_bytes(&r.engine.store.pool), held);
}

static kvrt_status fake_convert(kvi_device *device, const kvi_page_job *jobs, uint32_t n,
                                const kvi_encode_params *params, kvrt_error *error)
{
    (void)device, (void)params, (void)error;
    for (uint32_t i = 0; r.bytes && i < n; i++) {
        uint32_t word;
        memcpy(&word, r.bytes + (uint64_t)jobs[i].from.unit * KVI_KV_UNIT, 4);
        assert_int_equal(word >> 26 & 3, jobs[i].group);
        mark(word >> 28, word >> 26 & 3, word >> 10 & 0xffff, &jobs[i].to);
    }
    return KVRT_OK;
}
static kvrt_status fake_move(kvi_device *device, uint32_t from, uint32_t to, uint32_t units, kvrt_error *error)
{
    (void)device, (void)error;
    r.n_moved++;
    assert_true(units > 0 && (to < from || from + units <= to)); /* down, or apart */
    if (r.bytes)
        memmove(r.bytes + (uint64_t)to * KVI_KV_UNIT, r.bytes + (uint64_t)from * KVI_KV_UNIT,
                (uint64_t)units * KVI_KV_UNIT);
    return KVRT_OK;
}
static const kvi_backend fake = {.name = "fake", .convert_pages = fake_convert, .pool_move = fake_move};

typedef struct room_case {
    kvi_kv_format body;
    uint32_t chunk, tail, ctx, n_sessions, window, full; /* full, windowed layers: 0: no such group */
    uint32_t state_bytes;
} room_case;

static uint64_t open_rig(const room_case *c, uint64_t less_units, bool contents)
{
    memset(&r, 0, sizeof r);
    kvi_cache_group groups[2];
    kvi_program *program = &r.engine.program.program;
    if (c->full) groups[program->n_groups++] = (kvi_cache_group){.shape = {c->full, 2, 64, 0}, .plain = KVI_KV_F16};
    if (c->window)
        groups[program->n_groups++] =
            (kvi_cache_group){.shape = {3, 2, 64, 0}, .plain = KVI_KV_F16, .window = c->window};
    for (uint32_t g = 0; g < program->n_groups; g++) kvi_group_measure(&groups[g]);
    memcpy(r.engine.program.groups, groups, program->n_groups * sizeof groups[0]);
    program->groups = r.engine.program.groups;
    program->state_bytes = c->state_bytes;
    const kvi_plan_input plan = {.program = program,
                                 .format = {c->body, KVI_KV_F16, false},
                                 .chunk = c->chunk,
                                 .tail = c->tail,
                                 .n_sessions = c->n_sessions};
    const uint64_t bytes = c->n_sessions * kvi_plan_session_bytes(&plan, c->ctx) - less_units * KVI_KV_UNIT;
    r.n_sessions = c->n_sessions;
    r.engine.backend = &fake;
    if (contents) r.bytes = calloc(bytes / KVI_KV_UNIT, KVI_KV_UNIT);
    assert_int_equal(kvi_store_init(&r.engine.store, bytes, 4000, NULL), KVRT_OK);
    for (uint32_t i = 0; i < c->n_sessions; i++) {
        kvi_session *s = &r.sessions[i];
        s->engine = &r.engine;
        kvi_states_init(&s->states, &r.engine.store, c->state_bytes);
        s->next = r.engine.sessions;
        r.engine.sessions = s;
        assert_int_equal(kvi_pages_init(&s->pages, &r.engine.store, program->groups, program->n_groups, 1u << 16,
                                        c->body, c->tail, NULL),
                         KVRT_OK);
    }
    return bytes;
}
static void close_rig(void)
{
    for (uint32_t i = 0; i < r.n_sessions; i++) {
        kvi_pages_free(&r.sessions[i].pages);
        kvi_states_free(&r.sessions[i].states);
    }
    assert_int_equal(kvi_pool_used_bytes(&r.engine.store.pool), 0);
    kvi_store_free(&r.engine.store);
    free(r.bytes);
}

/* A step of n positions: room, rows, acceptance, encoding. */
static bool step(uint32_t session, uint32_t n)
{
    kvi_session *s = &r.sessions[session];
    uint32_t before[KVI_MAX_GROUPS];
    memcpy(before, s->pages.n_pages, sizeof before);
    const uint64_t held = kvi_pages_bytes(&s->pages);
    const kvrt_status status = kvi_session_reserve(s, s->n_cached + n, NULL);
    if (status < KVRT_OK) {
        assert_int_equal(status, KVRT_CTX_FULL);
        assert_memory_equal(before, s->pages.n_pages, sizeof before);
        assert_int_equal(kvi_pages_bytes(&s->pages), held);
        return false;
    }
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = before[g]; p < s->pages.n_pages[g]; p++) {
            const kvi_page_ref ref = kvi_pages_at(&s->pages, g, p);
            mark(session, g, p, &ref);
        }
    s->n_cached += n;
    mark_state(session);
    assert_int_equal(kvi_session_settle(s, NULL), KVRT_OK);
    return true;
}

static const kvi_kv_format bodies[] = {KVI_KV_FMT_F32,  KVI_KV_FMT_F16,  KVI_KV_FMT_I8,   KVI_KV_FMT_F8,
                                       KVI_KV_FMT_K4V4, KVI_KV_FMT_K4V2, KVI_KV_FMT_K3V3, KVI_KV_FMT_K2V2,
                                       KVI_KV_FMT_T3,   KVI_KV_FMT_T2};
#define N_BODIES (sizeof bodies / sizeof bodies[0])

static room_case random_case(unsigned round)
{
    static const uint32_t chunks[] = {1, 2, 64, 100, 127, 128, 129, 200, 256, 512, 1000},
                          tails[] = {0, 1, 64, 127, 128, 129, 300, 1024};
    static const uint32_t windows[] = {1, 100, 128, 129, 512, 700, 1024};
    room_case c = {bodies[round % N_BODIES], chunks[below(11)], tails[below(8)], 1 + below(9000),
                   1 + below(SESSIONS),      windows[below(7)], 1 + below(3),    0};
    if (round % 3 == 1) c.state_bytes = 1 + below(20000);
    if (below(3) == 0) c.window = 0;
    else if (below(4) == 0) c.full = 0;
    if (c.body == KVI_KV_FMT_F32) c.body = KVI_KV_FMT_F16; /* the groups' plain type */
    return c;
}

static void planned_positions_fit(void **state)
{
    unsigned moved = 0;
    for (unsigned round = 0; round < 1500; round++) {
        const room_case c = random_case(round);
        open_rig(&c, 0, round % 10 == 0);
        /* Sessions take turns at random; steps are whole chunks after a first one of any size, single tokens, or anything in between. */
        const uint32_t style = below(3);
        for (uint32_t done = 0; done < c.n_sessions;) {
            const uint32_t i = below(c.n_sessions), left = c.ctx - r.sessions[i].n_cached;
            if (left == 0) continue;
            uint32_t n = style == 0 && r.sessions[i].n_cached ? c.chunk : style == 1 ? 1 : 1 + below(c.chunk);
            if (n > left) n = left;
            if (!step(i, n))
                fail_msg("round %u: format %x, chunk %u, tail %u, %u full layers, window %u, session %u of %u: no room "
                         "at %u + %u of %u",
                         round, c.body, c.chunk, c.tail, c.full, c.window, i, c.n_sessions, r.sessions[i].n_cached, n,
                         c.ctx);
            if (r.bytes && below(50) == 0) check_marks();
            done += r.sessions[i].n_cached == c.ctx;
        }
        if (r.bytes) check_marks();
        moved += r.n_moved > 0;
        close_rig();
    }
    assert_true(moved > 30); /* free bytes that lay apart were joined */
}

/* Back to anywhere: never beyond it, to a place that the pages reach and whose state is there, and on from there to the planned end. A checkpoint
 * is lost to nothing but newer ones: the plan has room for all. */
static void rewind_to_a_checkpoint(void **state)
{
    unsigned n_back = 0, n_anew = 0;
    for (unsigned round = 0; round < 300; round++) {
        room_case c = random_case(3 * round + 1);
        c.ctx = 1 + c.ctx % 3000, c.state_bytes = 1 + below(3000);
        open_rig(&c, 0, true);
        for (uint32_t done = 0, turns = 0; done < c.n_sessions; turns++) {
            const uint32_t i = below(c.n_sessions), left = c.ctx - r.sessions[i].n_cached;
            kvi_session *s = &r.sessions[i];
            if (left == 0) continue;
            const uint32_t to_page = KVI_KV_PAGE - s->n_cached % KVI_KV_PAGE,
                           n = to_page <= c.chunk && to_page <= left && below(4) ? to_page : 1 + below(c.chunk);
            assert_true(step(i, n < left ? n : left));
            done += s->n_cached == c.ctx;
            if (s->n_cached % KVI_KV_PAGE == 0)
                assert_int_equal(kvi_states_nearest(&s->states, UINT32_MAX), s->n_cached);
            if (turns < 2000 && s->n_cached < c.ctx && below(12) == 0) {
                const uint32_t wanted = s->n_cached - below(s->n_cached / 2 + 1), before = s->n_cached,
                               most = kvi_states_nearest(&s->states, wanted);
                kvi_session_cut_cache(s, wanted, wanted);
                if (wanted == before) assert_int_equal(s->n_cached, before);
                else assert_true(s->n_cached <= most);
                assert_int_equal(s->pages.n_pages[0], (s->n_cached + KVI_KV_PAGE - 1) / KVI_KV_PAGE);
                n_back += s->n_cached > 0 && wanted < before, n_anew += s->n_cached == 0;
                check_marks();
            }
        }
        check_marks();
        close_rig();
    }
    if (n_back < 200 || n_anew < 20) fail_msg("%u times back, %u times to the start", n_back, n_anew);
}

/* The plan asks for no unit more than the least favourable way to its last page needs. */
static void plan_is_tight(void **state)
{
    static const uint32_t chunks[] = {1, 2, 64, 127, 128, 129, 200, 512}, tails[] = {0, 1, 100, 127, 128, 129, 1024};
    for (unsigned b = 1; b < 8; b++)
        for (unsigned k = 0; k < 8; k++)
            for (unsigned t = 0; t < 7; t++) {
                const room_case c = {bodies[b], chunks[k], tails[t], 4096 + 1,
                                     1,         0,         2,        0}; /* the last page has one position */
                for (uint32_t less = 0; less < 2; less++) {
                    open_rig(&c, less, false);
                    bool room = true;
                    while (room && r.sessions[0].n_cached + c.chunk < c.ctx) room = step(0, 1);
                    assert_true(room);
                    if (step(0, c.chunk) == (less == 1))
                        fail_msg("format %x, chunk %u, tail %u: %u unit less and %s room", c.body, c.chunk, c.tail,
                                 less, less ? "still" : "no");
                    close_rig();
                }
            }
}

/* ---------------------------------------------------------------------------------------------------- whole engines --- */
static const char *const formats[] = {"f32",  "f16",  "bf16", "i8", "f8", "k4v4",
                                      "k4v2", "k3v3", "k2v2", "t3", "t2", "elastic"};

static bool plan_fits(kvrt_options *o, const char *format, uint32_t ctx)
{
    kvrt_plan_row row = {.size = sizeof row};
    uint64_t n;
    kvrt_options_set_i64(o, "ctx.size", ctx, NULL);
    assert_int_equal(kvrt_plan(o, format, NULL, &row, 1, &n, NULL), KVRT_OK);
    return row.fits;
}

static void fill_to_the_end(kvrt_session s, const char *name, uint32_t ctx)
{
    kvrt_error error = {.size = sizeof error};
    int32_t ids[200];
    for (int k = 0; k < 200; k++) ids[k] = 2 + k % 90;
    uint32_t at = ctx > 1500 ? ctx - 997 : ctx / 2 + 3; /* synthetic so far, the rest by steps of the plan's chunk */
    if (kvrt_measure_fill(s, at, 1, &error) < KVRT_OK) fail_msg("%s: %s", name, error.message);
    for (uint32_t n; at < ctx; at += n) {
        n = ctx - at < 200 ? ctx - at : 200;
        if (kvrt_session_eval(s, ids, n, NULL, 0, NULL, &error) < KVRT_OK)
            fail_msg("%s, at %u of %u: %s", name, at, ctx, error.message);
    }
    assert_int_equal(kvrt_session_eval(s, ids, 1, NULL, 0, NULL, &error), KVRT_CTX_FULL);
}

/* From a memory limit to the largest context that the plan allows; that many positions into the pool, and no page more. */
static void plan_is_reached_and_ends(void **state)
{
    static const char *const models[] = {"llama_gqa2", "qwen2_window"}; /* full attention; full and windowed layers */
    for (unsigned f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (unsigned m = 0; m < 2; m++) {
            char path[600], name[64];
            kvrt_error error = {.size = sizeof error};
            kvrt_engine_info info = {.size = sizeof info};
            kvrt_options *o;
            kvrt_engine engine = NULL;
            kvrt_session s;
            uint32_t low = 1, high = 4096; /* pages */
            snprintf(path, sizeof path, "%s/golden/models/%s", KVRT_TEST_DIR, models[m]);
            snprintf(name, sizeof name, "%s, %s", models[m], formats[f]);
            kvrt_options_create(&o, NULL);
            kvrt_options_set_string(o, "model.path", path, -1, NULL);
            kvrt_options_set_text(o, "device.backend", "cpu", NULL);
            kvrt_options_set_text(o, "cpu.threads", "1", NULL);
            kvrt_options_set_text(o, "kv.format", formats[f], NULL);
            kvrt_options_set_text(o, "ctx.chunk", "200", NULL);
            kvrt_options_set_i64(o, "mem.limit", 2700000 + 41000 * (int64_t)f, NULL);
            assert_true(plan_fits(o, formats[f], low * 128) && !plan_fits(o, formats[f], high * 128));
            while (high - low > 1) {
                const uint32_t middle = (low + high) / 2;
                if (plan_fits(o, formats[f], middle * 128)) low = middle;
                else high = middle;
            }
            assert_true(low >= 8);
            kvrt_options_set_i64(o, "ctx.size", high * 128, NULL);
            assert_int_equal(kvrt_engine_open(o, NULL, NULL, &engine, &error), KVRT_OVER_BUDGET);
            kvrt_options_set_i64(o, "ctx.size", low * 128, NULL);
            if (kvrt_engine_open(o, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s: %s", name, error.message);
            assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
            fill_to_the_end(s, name, low * 128);
            kvrt_engine_get_info(engine, &info, NULL);
            assert_int_equal(info.ctx_size, low * 128);
            assert_true(info.kv_pool_used_bytes <= info.kv_pool_bytes);
            print_message("%s: %u positions in %llu KiB\n", name, info.ctx_size,
                          (unsigned long long)(info.kv_pool_bytes >> 10));
            kvrt_engine_close(engine, NULL);
            kvrt_options_destroy(o);
        }
}

/* A second session in a pool for one: the message names the option that gives room. */
static void a_full_pool_says_what_gives_room(void **state)
{
    static const char *const cases[][2] = {{"k4v4", "ctx.sessions"}, {"f16", "ctx.sessions"}, {"elastic", "kv.pool"}};
    for (unsigned f = 0; f < sizeof cases / sizeof cases[0]; f++) {
        golden_model model;
        assert_true(golden_load("llama_gqa2", &model));
        const char *pairs[] = {"kv.format", cases[f][0], "ctx.size", "512", "cpu.threads", "1", NULL};
        kvrt_engine engine = golden_open(&model, pairs);
        kvrt_error error = {.size = sizeof error};
        int32_t ids[500];
        for (int i = 0; i < 500; i++) ids[i] = 2 + i % 90;
        kvrt_status status = KVRT_OK;
        for (int i = 0; i < 40 && status >= KVRT_OK; i++) {
            kvrt_session s;
            assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
            status = kvrt_session_eval(s, ids, 500, NULL, 0, NULL, &error);
        }
        assert_int_equal(status, KVRT_CTX_FULL);
        if (!strstr(error.message, "KV pool: no room") || !strstr(error.message, cases[f][1]))
            fail_msg("%s: '%s' lacks %s", cases[f][0], error.message, cases[f][1]);
        kvrt_engine_close(engine, NULL);
        golden_free(&model);
    }
}

/* What the engine tells (and `kvrt eval` prints), what the pool holds more after some pages, and the formula of the record. */
static void bytes_per_token_agree(void **state)
{
    static const struct {
        const char *name;
        double k_bits, v_bits;
        uint32_t k_vectors, v_vectors;
    } rows[] = {/* fp16 values per record: in D, in 128 */
                {"f32", 32, 32, 0, 0}, {"f16", 16, 16, 0, 0}, {"bf16", 16, 16, 0, 0}, {"i8", 8, 8, 0, 3},
                {"f8", 8, 8, 0, 2},    {"k4v4", 4, 4, 3, 3},  {"k4v2", 4, 2, 3, 3},   {"k3v3", 3, 3, 3, 3},
                {"k2v2", 2, 2, 3, 3},  {"k8v4", 8, 4, 1, 3}};
    for (unsigned f = 0; f < sizeof rows / sizeof rows[0]; f++) {
        golden_model model;
        assert_true(golden_load("llama_d128", &model));
        const char *pairs[] = {"kv.format", rows[f].name, "ctx.size", "4000", "cpu.threads", "1", NULL};
        kvrt_engine engine = golden_open(&model, pairs);
        kvrt_engine_info info = {.size = sizeof info}, more = {.size = sizeof more};
        kvrt_session s;
        assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
        assert_int_equal(kvrt_measure_fill(s, 1000, 1, NULL), KVRT_OK);
        kvrt_engine_get_info(engine, &info, NULL);
        assert_int_equal(kvrt_measure_fill(s, 10 * 128, 2, NULL),
                         KVRT_OK); /* ten pages more, all of them encoded: as many are still open */
        kvrt_engine_get_info(engine, &more, NULL);
        const double d = info.head_dim, held = (double)(more.kv_pool_used_bytes - info.kv_pool_used_bytes) / 1280;
        const double record =
            d * 128 * (rows[f].k_bits + rows[f].v_bits) / 8 + 2 * (rows[f].k_vectors * d + rows[f].v_vectors * 128);
        const double formula = record / 128 * info.n_layers * info.n_kv_heads;
        if (!(fabs(info.kv_bytes_per_token - formula) < 1e-9 * formula) ||
            !(held - formula >= 0 && held - formula < KVI_KV_UNIT / 128.0))
            fail_msg("%s: %g bytes per token told, %g held, %g by the formula", rows[f].name, info.kv_bytes_per_token,
                     held, formula);
        kvrt_engine_close(engine, NULL);
        golden_free(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(planned_positions_fit),
                                       cmocka_unit_test(rewind_to_a_checkpoint),
                                       cmocka_unit_test(plan_is_tight),
                                       cmocka_unit_test(plan_is_reached_and_ends),
                                       cmocka_unit_test(a_full_pool_says_what_gives_room),
                                       cmocka_unit_test(bytes_per_token_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
