/* test_shift.c - a full context that drops its middle. The oracle does to the cache by hand what the definition says: it drops pages, and turns
 * the keys that stay back by as many positions, in double; logits over that cache must be those of a session that shifted. Then what the host
 * sees, and that company, budgets, forks and snapshots change nothing. */
#include "crowd.h"
#include "golden_model.h"
#include "../../runtime/engine/seat.h"
#include "../../runtime/engine/step.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { SINK = 128, CTX = 512 };
static golden_model model;

static kvrt_engine open_engine(const char *format, const char *sessions, const char *rotate)
{
    const char *pairs[] = {
        "cpu.threads",    "1",      "kv.format",          format, "kv.tail",  "64",    "ctx.chunk", "64",
        "ctx.sessions",   sessions, "ctx.size",           "512",  "ctx.full", "shift", "kv.rotate", rotate,
        "gen.ignore_eos", "true",   "sample.temperature", "0",    NULL};
    return golden_open(&model, pairs);
}

static kvi_session *inside(kvrt_session handle)
{
    kvi_session *s;
    assert_int_equal(kvi_session_enter(handle, KVI_LOOK, &s, NULL), KVRT_OK);
    kvi_session_leave(s, KVI_LOOK);
    return s;
}

static void story(int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) ids[i] = crowd_token(5, i);
}

static void eval(kvrt_session s, const int32_t *ids, uint32_t n, float *logits)
{
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_eval(s, ids, n, NULL, logits ? 1 : 0, logits, &error) < KVRT_OK) fail_msg("%s", error.message);
}

/* -------------------------------------------------------------------------------------------------------- the oracle --- */
/* The operation that appended the keys of a layer of a group. */
static const kvi_op *appended_by(const kvi_program *program, uint32_t group, uint32_t layer)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        const bool appends = (op->kind == KVI_OP_ROPE_APPEND && !op->queries_only) || op->kind == KVI_OP_LATENT_APPEND;
        if (appends && op->group == group && op->group_layer == layer) return op;
    }
    fail_msg("no operation appends to layer %u of group %u", layer, group);
    return NULL;
}

static void turn_back(const kvi_rope *rope, float *key, uint32_t positions)
{
    const uint32_t half = rope->n_dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        float *a = key + (rope->interleaved ? 2 * i : i), *b = key + (rope->interleaved ? 2 * i + 1 : i + half);
        const double angle = -rope->inv_freq[i] * positions, x = (double)*a, y = (double)*b;
        *a = (float)(x * cos(angle) - y * sin(angle));
        *b = (float)(y * cos(angle) + x * sin(angle));
    }
}

/* Page `to` of b becomes page `from` of a, its keys turned back. */
static void put_page(kvi_session *a, kvi_session *b, uint32_t g, uint32_t from, uint32_t to)
{
    const kvi_engine *e = a->engine;
    const kvi_cache_group *group = &a->pages.groups[g];
    const kvi_page_ref source = kvi_pages_at(&a->pages, g, from), target = kvi_pages_at(&b->pages, g, to);
    const uint64_t n = (uint64_t)kvi_group_units(group, kvi_group_plain(group)) * KVI_KV_UNIT;
    if (source.unit == KVI_KV_NO_EXTENT || target.unit == KVI_KV_NO_EXTENT) return;
    assert_int_equal(group->plain, KVI_KV_F32);
    uint8_t *bytes = malloc(n);
    assert_int_equal(e->backend->pool_read(e->device, (uint64_t)source.unit * KVI_KV_UNIT, bytes, n, NULL), KVRT_OK);
    for (uint32_t layer = 0; layer < group->shape.n_layers; layer++) {
        const kvi_op *op = appended_by(&e->program.program, g, layer);
        for (uint32_t h = 0; h < group->shape.n_kv_heads; h++)
            for (uint32_t t = 0; t < KVI_KV_PAGE && op->rope; t++) {
                /* A latent group keeps its keys on the V side. */
                const uint32_t d = group->shape.head_dim, rd = group->shape.rope_dim;
                float *record = (float *)(void *)(bytes + kvi_kv_record_off(source.format, &group->shape, layer, h));
                turn_back(op->rope, rd ? record + KVI_KV_PAGE * d + t * rd : record + t * d, (from - to) * KVI_KV_PAGE);
            }
    }
    assert_int_equal(e->backend->pool_write(e->device, (uint64_t)target.unit * KVI_KV_UNIT, bytes, n, NULL), KVRT_OK);
    free(bytes);
}

static void copy_state(kvi_session *a, kvi_session *b)
{
    if (!a->states.units) return;
    const kvi_extent_copy copy = {kvi_states_unit(&a->states), kvi_states_unit(&b->states), a->states.units};
    assert_int_equal(kvi_session_copy(b, &copy, NULL), KVRT_OK);
}

/* Logits of 40 more tokens after 500, of which a shift drops [128, 128 + 128 times). */
static void check_model(const char *name, uint32_t times)
{
    int32_t ids[CTX * 2], kept[CTX];
    kvrt_error error = {.size = sizeof error};
    golden_free(&model);
    if (!golden_load(name, &model)) fail_msg("no golden model %s", name);
    kvrt_engine engine = open_engine("f32", "4", "false");
    kvrt_session a = golden_session(engine), before, b = golden_session(engine);
    float *got = malloc(model.vocab * sizeof *got), *want = malloc(model.vocab * sizeof *want);
    const uint32_t n = 500, dropped = times * KVI_KV_PAGE;
    story(ids, CTX * 2);
    eval(a, ids, n, NULL);
    assert_int_equal(kvrt_session_fork(a, &before, NULL), KVRT_OK);
    eval(a, ids + n, dropped - 12 - (times - 1) * 32, NULL); /* more than there is room for */
    eval(a, ids + 600, 3, got);
    assert_int_equal(golden_session_info(a).n_dropped, dropped);
    const kvi_pages *pages = &inside(a)->pages;
    for (uint32_t g = 0; g < pages->n_groups; g++) /* a window holds nothing that it does not reach */
        if (pages->first_page[g] > 0) assert_int_equal(pages->ids[g][0], KVI_NO_PAGE);

    memcpy(kept, ids, SINK * sizeof *kept);
    memcpy(kept + SINK, ids + SINK + dropped, (n - SINK - dropped) * sizeof *kept);
    eval(b, kept, n - dropped, NULL);
    kvi_session *from = inside(before), *to = inside(b);
    for (uint32_t g = 0; g < from->pages.n_groups; g++)
        for (uint32_t p = 0; p * KVI_KV_PAGE < n - dropped; p++) put_page(from, to, g, p ? p + times : 0, p);
    copy_state(from, to);
    eval(b, ids + n, dropped - 12 - (times - 1) * 32, NULL);
    if (kvrt_session_eval(b, ids + 600, 3, NULL, 1, want, &error) < KVRT_OK) fail_msg("%s", error.message);
    double worst = 0, spread = 0;
    for (uint32_t i = 0; i < model.vocab; i++) {
        const double off = fabs((double)got[i] - (double)want[i]);
        if (!(off <= worst)) worst = off;
        spread = fmax(spread, fabs((double)want[i]));
    }
    if (!(worst <= GOLDEN_F32_CACHE * fmax(1, spread)))
        fail_msg("%s, %u pages dropped: logits are %g off, of %g", name, times, worst, spread);
    free(got);
    free(want);
    kvrt_engine_close(engine, NULL);
}

static void positions_are_those_in_the_cache(void **state)
{
    (void)state;
    static const char *const names[] = {"llama_gqa2", "qwen3",       "phi3",       "llama_yarn", "mistral_window",
                                        "gemma3",     "deepseek_v3", "qwen3_next", "smollm3"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) check_model(names[i], 1);
}

/* What stays is not touched: not a bit of the newest pages, in any format. */
static void newest_pages_stay(void **state)
{
    (void)state;
    static const char *const formats[] = {"f16", "i8", "k4v4", "k2v2", "elastic"};
    golden_free(&model);
    assert_true(golden_load("llama_gqa4_d32", &model));
    for (unsigned f = 0; f < 5; f++) {
        int32_t ids[CTX];
        kvrt_engine engine = open_engine(formats[f], "2", "true");
        kvrt_session a = golden_session(engine);
        kvi_session *s = inside(a);
        const kvi_engine *e = s->engine;
        story(ids, CTX);
        eval(a, ids, CTX, NULL);
        const kvi_page page = e->store.pages[s->pages.ids[0][2]];
        const uint64_t n = (uint64_t)page.units * KVI_KV_UNIT;
        uint8_t *was = malloc(n), *is = malloc(n);
        e->backend->pool_read(e->device, (uint64_t)page.unit * KVI_KV_UNIT, was, n, NULL);
        eval(a, ids, 1, NULL);
        const kvi_page now = e->store.pages[s->pages.ids[0][1]];
        assert_int_equal(s->n_tokens, CTX - 128 + 1);
        assert_int_equal(now.format, page.format);
        assert_int_equal(now.units, page.units);
        e->backend->pool_read(e->device, (uint64_t)now.unit * KVI_KV_UNIT, is, n, NULL);
        assert_memory_equal(was, is, n);
        free(was), free(is);
        kvrt_engine_close(engine, NULL);
    }
}

/* ------------------------------------------------------------------------------------------------ what the host sees --- */
typedef struct heard {
    uint32_t n_shifts, n_tokens;
    uint64_t dropped, total;
    int32_t answer;
} heard;

static int32_t listen(const kvrt_event *event, void *user)
{
    heard *h = user;
    if (event->type == KVRT_EVENT_TOKEN) h->n_tokens++;
    if (event->type != KVRT_EVENT_CTX_SHIFTED) return KVRT_CONTINUE;
    h->n_shifts++;
    h->dropped += event->done;
    h->total = event->total;
    return h->answer;
}

static void generate(kvrt_session s, uint32_t n, heard *h, kvrt_result *result)
{
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    *result = (kvrt_result){.size = sizeof *result};
    if (kvrt_generate(s, o, h ? listen : NULL, h, result, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
}

static void sync_with(kvrt_session s, const int32_t *ids, uint32_t n, uint64_t *reused)
{
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_sync(s, ids, n, reused, &error) < KVRT_OK) fail_msg("%s", error.message);
}

/* An answer of more than two contexts; then the whole conversation, and the shorter list, mean the same. */
static void the_host_is_told(void **state)
{
    (void)state;
    enum { ANSWER = 1200 };
    int32_t whole[100 + ANSWER + 300], list[CTX], again[CTX];
    uint64_t n, reused, n_again;
    heard h = {0};
    kvrt_result result;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("k4v4", "2", "true");
    kvrt_session s = golden_session(engine);
    story(whole, 100);
    sync_with(s, whole, 100, NULL);
    for (uint32_t i = 0; i < ANSWER; i++) {
        generate(s, 1, &h, &result);
        assert_int_equal(kvrt_session_tokens(s, list, CTX, &n, NULL), KVRT_OK);
        whole[100 + i] = list[n - 1];
        assert_int_equal(result.finish, KVRT_FINISH_LENGTH);
    }
    assert_int_equal(h.dropped, h.total);
    assert_int_equal(h.total, golden_session_info(s).n_dropped);
    assert_int_equal(n + h.total, 100 + ANSWER);
    assert_int_equal(h.n_shifts, h.total / 128);
    assert_memory_equal(list, whole, SINK * sizeof *list);
    assert_memory_equal(list + SINK, whole + SINK + h.total, (n - SINK) * sizeof *list);

    /* The whole list, a little longer; then the shorter one. Nothing is lost of what was cached. */
    story(whole + 100 + ANSWER, 300);
    const uint32_t cached = golden_session_info(s).n_cached;
    sync_with(s, whole, 100 + ANSWER + 5, &reused);
    assert_true(reused + 1 >= cached);
    assert_int_equal(golden_session_info(s).n_tokens, n + 5);
    sync_with(s, list, (uint32_t)n, &reused);
    assert_true(reused + 2 >= cached);
    assert_int_equal(golden_session_info(s).n_dropped, h.total);

    /* A list that has no room drops more, and keeps the newest of what was there. */
    const uint32_t longer = CTX - (uint32_t)n + 60;
    assert_true(longer < 300);
    sync_with(s, whole, 100 + ANSWER + longer, &reused);
    const uint64_t more = golden_session_info(s).n_dropped - h.total;
    assert_true(more >= 128 && more % 128 == 0);
    assert_true(reused + 130 >= cached - more && reused > SINK);
    assert_int_equal(kvrt_session_tokens(s, again, CTX, &n_again, NULL), KVRT_OK);
    assert_int_equal(n_again + h.total + more, 100 + ANSWER + longer);
    assert_memory_equal(again + SINK, whole + SINK + h.total + more, (n_again - SINK) * sizeof *again);
    h.n_shifts = 0;
    generate(s, 3, &h, &result);
    assert_int_equal(h.n_shifts, 1); /* told with the next request */

    /* Another list is another list; so is what the session drops then. */
    whole[40] ^= 1;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_session_sync(s, whole, 100 + ANSWER, NULL, &error), KVRT_CTX_FULL);
    assert_int_equal(golden_session_info(s).n_tokens, n_again + 3);
    sync_with(s, whole, 100, NULL);
    assert_int_equal(golden_session_info(s).n_dropped, 0);
    generate(s, 600, NULL, &result);
    assert_int_equal(result.n_generated, 600);
    /* A way back into the first page begins anew; beyond it, not. */
    n = golden_session_info(s).n_dropped;
    assert_int_equal(kvrt_session_rewind(s, 200, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(s).n_dropped, n);
    assert_int_equal(kvrt_session_rewind(s, 128, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(s).n_dropped, 0);
    assert_int_equal(golden_session_info(s).n_cached, 0);
    kvrt_engine_close(engine, NULL);
}

static void answers_and_limits(void **state)
{
    (void)state;
    int32_t ids[CTX];
    kvrt_error error = {.size = sizeof error};
    kvrt_result result;
    kvrt_options *o;
    kvrt_session s, small;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("f16", "2", "true");
    s = golden_session(engine);
    story(ids, CTX);
    sync_with(s, ids, 500, NULL);
    heard h = {.answer = KVRT_STOP};
    generate(s, 100, &h, &result);
    assert_int_equal(result.finish, KVRT_FINISH_CALLBACK);
    assert_int_equal(h.n_shifts, 1);
    h.answer = KVRT_PAUSE;
    assert_int_equal(kvrt_session_rewind(s, 0, NULL), KVRT_OK); /* else the list is known, without what was dropped */
    sync_with(s, ids, 500, NULL);
    generate(s, 100, &h, &result);
    assert_int_equal(result.finish, KVRT_FINISH_PAUSED);
    generate(s, 100, NULL, &result);
    assert_int_equal(result.n_generated, 100);
    /* A full prompt is computed before anything of it goes. */
    assert_int_equal(kvrt_session_rewind(s, 0, NULL), KVRT_OK);
    sync_with(s, ids, CTX, NULL);
    generate(s, 1, NULL, &result);
    assert_int_equal(result.n_generated, 1);
    /* Too small a context has nothing to drop. */
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "ctx.size", 383, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, o, &small, NULL), KVRT_OK);
    sync_with(small, ids, 300, NULL);
    generate(small, 200, NULL, &result);
    assert_int_equal(result.finish, KVRT_FINISH_CTX_FULL);
    assert_int_equal(kvrt_session_close(small, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "ctx.size", 384, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, o, &small, NULL), KVRT_OK);
    sync_with(small, ids, 300, NULL);
    generate(small, 200, NULL, &result);
    assert_int_equal(result.finish, KVRT_FINISH_LENGTH);
    assert_int_equal(kvrt_session_close(small, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(o, "ctx.full", "demote", NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, o, &small, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "elastic"));
    assert_int_equal(kvrt_options_set_text(o, "ctx.full", "stop", NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, o, &small, NULL), KVRT_OK);
    sync_with(small, ids, 300, NULL);
    generate(small, 200, NULL, &result);
    assert_int_equal(result.finish, KVRT_FINISH_CTX_FULL);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
}

/* --------------------------------------------------------------------------------------------- nothing else matters --- */
static void company_changes_nothing(void **state)
{
    (void)state;
    static const char *const models[] = {"llama_gqa2", "qwen2_window", "qwen3_next"}, *const formats[] = {"f16",
                                                                                                          "k4v4"};
    for (unsigned m = 0; m < 3; m++)
        for (unsigned f = 0; f < 2; f++) {
            crowd_member alone[4], together[4];
            kvrt_engine engines[4];
            golden_free(&model);
            assert_true(golden_load(models[m], &model));
            for (uint32_t i = 0; i < 4; i++) {
                alone[i] = together[i] =
                    (crowd_member){.options = {"ctx.size", i % 2 ? "512" : "384", "gen.max_tokens", "330"},
                                   .story = i,
                                   .n_prompt = 200 + 40 * (i / 2),
                                   .arrives = i * 7};
                engines[i] = open_engine(formats[f], "4", "true");
                crowd_join(engines[i], &alone[i]);
                crowd_alone(&alone[i]);
                assert_int_equal(alone[i].result.n_generated, 330);
                assert_true(golden_session_info(alone[i].handle).n_dropped > 0);
            }
            kvrt_engine engine = open_engine(formats[f], "4", "true");
            for (uint32_t i = 0; i < 4; i++) crowd_join(engine, &together[i]);
            assert_int_equal(crowd_together(engine, together, 4, NULL, NULL), 0);
            for (uint32_t i = 0; i < 4; i++) crowd_same(&alone[i], &together[i], formats[f]);
            for (uint32_t i = 0; i < 4; i++) kvrt_session_close(together[i].handle, NULL);
            kvrt_engine_info info = {.size = sizeof info};
            assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
            assert_int_equal(info.kv_pool_used_bytes, 0);
            kvrt_engine_close(engine, NULL);
            for (uint32_t i = 0; i < 4; i++) kvrt_engine_close(engines[i], NULL);
        }
}

/* Pages of a session that has shifted are of no use to others: they saw what is gone. */
static void others_take_nothing_of_it(void **state)
{
    (void)state;
    int32_t ids[CTX * 2], list[CTX];
    kvrt_result result;
    uint64_t n, n_alone;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    story(ids, CTX * 2);
    kvrt_engine engine = open_engine("f16", "2", "true"), other = open_engine("f16", "2", "true");
    kvrt_session a = golden_session(engine), b = golden_session(engine), alone = golden_session(other);
    sync_with(a, ids, CTX, NULL);
    generate(a, 1, NULL, &result);
    assert_int_equal(kvrt_session_tokens(a, list, CTX, &n, NULL), KVRT_OK);
    assert_true(n < 400);
    assert_int_equal(kvrt_session_rewind(a, 200, NULL), KVRT_OK);
    sync_with(a, list, (uint32_t)n, NULL);
    generate(a, 60, NULL, &result);
    sync_with(b, list, (uint32_t)n, NULL);
    generate(b, 60, NULL, &result);
    assert_int_equal(golden_session_info(b).n_found, 0);
    sync_with(alone, list, (uint32_t)n, NULL);
    generate(alone, 60, NULL, &result);
    assert_int_equal(kvrt_session_tokens(b, ids, CTX, &n, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_tokens(alone, list, CTX, &n_alone, NULL), KVRT_OK);
    assert_int_equal(n, n_alone);
    assert_memory_equal(ids, list, n * sizeof *ids);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

/* A fork, a snapshot and a step of a microsecond at a time, at every moment around a shift. */
static void forks_and_snapshots_go_on(void **state)
{
    (void)state;
    static const char *const models[] = {"llama_gqa2", "mistral_window", "qwen3_next"};
    for (unsigned m = 0; m < 3; m++)
        for (uint32_t extra = 0; extra < 4; extra++) {
            int32_t ids[CTX], one[CTX], two[CTX];
            uint64_t n, n_two, size;
            kvrt_result result;
            kvrt_session fork;
            golden_free(&model);
            assert_true(golden_load(models[m], &model));
            kvrt_engine engine = open_engine("k4v4", "4", "true");
            kvrt_session s = golden_session(engine), loaded = golden_session(engine), stepped = golden_session(engine);
            story(ids, CTX);
            sync_with(s, ids, 500, NULL);
            generate(s, 11 + extra, NULL, &result); /* the context is full with the 12th */
            assert_int_equal(kvrt_session_fork(s, &fork, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_save_bytes(s, 0, NULL, 0, &size, NULL), KVRT_PARTIAL);
            void *bytes = malloc(size);
            assert_int_equal(kvrt_session_save_bytes(s, 0, bytes, size, &size, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_load_bytes(loaded, bytes, size, 0, NULL), KVRT_OK);
            free(bytes);
            assert_int_equal(golden_session_info(loaded).n_dropped, golden_session_info(s).n_dropped);
            generate(s, 150, NULL, &result);
            generate(fork, 150, NULL, &result);
            generate(loaded, 150, NULL, &result);
            assert_int_equal(kvrt_session_tokens(s, one, CTX, &n, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_tokens(fork, two, CTX, &n_two, NULL), KVRT_OK);
            assert_int_equal(n, n_two);
            assert_memory_equal(one, two, n * sizeof *one);
            assert_int_equal(kvrt_session_tokens(loaded, two, CTX, &n_two, NULL), KVRT_OK);
            assert_int_equal(n, n_two);
            assert_memory_equal(one, two, n * sizeof *one);
            /* And in slices. */
            kvrt_options *o;
            sync_with(stepped, ids, 500, NULL);
            assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
            kvrt_options_set_i64(o, "gen.max_tokens", 11 + extra + 150, NULL);
            assert_int_equal(kvrt_submit(stepped, o, NULL, NULL), KVRT_OK);
            kvrt_event event = {.size = sizeof event};
            for (kvrt_status status = KVRT_MORE; status == KVRT_MORE || status == KVRT_PARTIAL;) {
                status = kvrt_step(engine, 1, NULL);
                while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
                }
            }
            assert_int_equal(kvrt_session_tokens(stepped, two, CTX, &n_two, NULL), KVRT_OK);
            assert_int_equal(n, n_two);
            assert_memory_equal(one, two, n * sizeof *one);
            kvrt_options_destroy(o);
            kvrt_engine_close(engine, NULL);
        }
}

/* ------------------------------------------------------------------------------------------------ chosen by attention --- */
/* Pages of A as they are, to pages of B: their turns stay. */
static void copy_page(kvi_session *a, kvi_session *b, uint32_t g, uint32_t from, uint32_t to)
{
    const kvi_engine *e = a->engine;
    const kvi_extent_copy copy = {kvi_pages_at(&a->pages, g, from).unit, kvi_pages_at(&b->pages, g, to).unit,
                                  kvi_group_units(&a->pages.groups[g], kvi_group_plain(&a->pages.groups[g]))};
    assert_int_equal(e->backend->pool_move(e->device, copy.from_unit, copy.to_unit, copy.units, NULL), KVRT_OK);
}

static kvrt_engine open_policy(const char *policy, const char *keep, const char *ctx)
{
    const char *pairs[] = {"cpu.threads",  "1",  "kv.format",      "f32",  "ctx.chunk", "64",
                           "ctx.sessions", "4",  "ctx.size",       ctx,    "ctx.full",  policy,
                           "ctx.keep",     keep, "gen.ignore_eos", "true", NULL};
    return golden_open(&model, pairs);
}

/* The pages of least attention go, and what is computed next sees the others where they were in the whole text. */
static void least_attention_goes(const char *policy)
{
    enum { N = 900, CTX_HERE = 1024 };
    int32_t ids[CTX_HERE + 200], kept[CTX_HERE];
    kvrt_engine engine = open_policy(policy, "0", "1024");
    kvrt_session a = golden_session(engine), whole, b = golden_session(engine);
    float mass[8], *got = malloc(model.vocab * sizeof *got), *want = malloc(model.vocab * sizeof *want);
    bool gone[8] = {false};
    story(ids, CTX_HERE + 200);
    eval(a, ids, N, NULL);
    kvi_session *s = inside(a);
    memcpy(mass, s->mass, sizeof mass);
    double sum = 0;
    for (uint32_t p = 0; p < 8; p++) sum += (double)mass[p];
    const double rows = strcmp(policy, "h2o") == 0 ? N : 64, layers = s->engine->config.n_layers;
    if (!(fabs(sum / (rows * layers) - 1) < 1e-3)) fail_msg("%s: %g of %g observed", policy, sum, rows * layers);
    assert_int_equal(kvrt_session_fork(a, &whole, NULL), KVRT_OK);
    eval(a, ids + N, 150, got); /* no room: a quarter of 7 whole pages goes, at least the page that is lacking */
    const uint32_t n_gone = (uint32_t)golden_session_info(a).n_dropped / 128;
    assert_int_equal(n_gone, 1);
    for (uint32_t i = 0; i < n_gone; i++) {
        uint32_t least = 0;
        for (uint32_t p = 1; p < 6; p++)
            if (!gone[p] && (!least || mass[p] < mass[least])) least = p;
        gone[least] = true;
    }
    uint32_t n = 0;
    for (uint32_t p = 0; p < 8; p++)
        for (uint32_t t = p * 128; !gone[p] && t < p * 128 + 128 && t < N; t++) kept[n++] = ids[t];
    eval(b, kept, n, NULL);
    for (uint32_t p = 0, to = 0; p < 8; p++)
        if (!gone[p])
            for (uint32_t g = 0; g < s->pages.n_groups; g++, to += g == s->pages.n_groups)
                copy_page(inside(whole), inside(b), g, p, to);
    inside(b)->shift.ahead = n_gone * 128;
    eval(b, ids + N, 150, want);
    for (uint32_t i = 0; i < model.vocab; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 1e-5 * (1 + fabs((double)want[i]))))
            fail_msg("%s: logit %u is %g, need %g", policy, i, (double)got[i], (double)want[i]);
    /* A way back in front of the gap begins anew; behind it, it does not. */
    const uint32_t from = inside(a)->shift.whole_from, n_now = golden_session_info(a).n_tokens;
    assert_int_equal(kvrt_session_rewind(a, n_now - 3, NULL), KVRT_OK);
    assert_true(golden_session_info(a).n_cached > 0 && from > 0);
    assert_int_equal(kvrt_session_rewind(a, from - 1, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(a).n_cached, 0);
    free(got), free(want);
    kvrt_engine_close(engine, NULL);
}

static void attention_chooses(void **state)
{
    (void)state;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    least_attention_goes("h2o");
    least_attention_goes("snapkv");
    /* The end of a prompt cuts a session down, tells so, and what it saw is not counted twice. */
    kvrt_engine engine = open_policy("snapkv", "400", "1024");
    kvrt_session s = golden_session(engine);
    int32_t ids[900];
    heard h = {0};
    kvrt_result result;
    story(ids, 900);
    sync_with(s, ids, 900, NULL);
    generate(s, 300, &h, &result);
    assert_int_equal(result.n_generated, 300);
    assert_int_equal(h.n_shifts, 1);
    assert_int_equal(h.dropped, 384); /* 899 or 900 positions, of which at least 400 stay */
    assert_int_equal(golden_session_info(s).n_tokens, 900 - 384 + 300);
    kvrt_engine_close(engine, NULL);
    /* Latents tell nobody. */
    golden_free(&model);
    assert_true(golden_load("deepseek_v3", &model));
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    engine = open_policy("stop", "0", "512");
    kvrt_options_create(&o, NULL);
    kvrt_options_set_text(o, "ctx.full", "h2o", NULL);
    assert_int_equal(kvrt_session_create(engine, o, &s, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "ctx.full h2o"));
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_are_those_in_the_cache),
        cmocka_unit_test(newest_pages_stay),
        cmocka_unit_test(the_host_is_told),
        cmocka_unit_test(answers_and_limits),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(others_take_nothing_of_it),
        cmocka_unit_test(forks_and_snapshots_go_on),
        cmocka_unit_test(attention_chooses),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    golden_free(&model);
    return failed;
}
