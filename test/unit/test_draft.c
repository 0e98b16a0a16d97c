/* test_draft.c - speculation: whatever is guessed, what the host sees is what it sees without guesses, to the last bit of every log probability, and so
 * is the session afterwards. Guesses by look-up against a naive search. Distributions: test_draft_samples.c. */
#include "crowd.h"
#include "golden_model.h"
#include "../../runtime/base/lcg.h"
#include "../../runtime/engine/look_ahead.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static kvrt_engine open_golden(const char *name, const char *const *pairs)
{
    golden_model m;
    if (strcmp(name, "tiny") == 0) return golden_open_tiny(pairs);
    assert_true(golden_load(name, &m));
    kvrt_engine engine = golden_open(&m, pairs);
    golden_free(&m);
    return engine;
}

/* -------------------------------------------------------------------------------------------------------- look-up --- */
/* The longest end of the list that stands earlier too, by trying every length and place. */
static uint32_t naive(const int32_t *t, uint32_t n, uint32_t most, int32_t *out)
{
    for (uint32_t len = 16; len >= 2; len--)
        for (uint32_t end = n; end-- > len;)
            if (n >= len && memcmp(t + end - len, t + n - len, len * sizeof *t) == 0) {
                for (uint32_t i = 0; i < most; i++) out[i] = end + i < n ? t[end + i] : out[i - (n - end)];
                return most;
            }
    return 0;
}

static void lookups_are_those_of_a_naive_search(void **state)
{
    int32_t t[80], a[8], b[8];
    uint64_t lcg = 7;
    uint32_t found = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        const uint32_t n = (uint32_t)(kvi_lcg(&lcg) >> 33) % 80, letters = 2 + round % 9;
        for (uint32_t i = 0; i < n; i++) t[i] = (int32_t)((kvi_lcg(&lcg) >> 33) % letters);
        const uint32_t most = 1 + round % 7, got = kvi_draft_lookup(t, n, most, a), need = naive(t, n, most, b);
        if (got != need || memcmp(a, b, got * sizeof *a) != 0)
            fail_msg("round %u: %u tokens, need %u", round, got, need);
        found += got > 0;
    }
    assert_true(found > 5000 && found < 19900);
}

/* ------------------------------------------------------------------------------------------------------ same bits --- */
typedef struct seen {
    crowd_member m;
    kvrt_session_info info;
    float *logits; /* behind some tokens more */
    uint32_t n_vocab;
} seen;

typedef struct play {
    const char *options[12]; /* beside those of guessing */
    uint32_t n_prompt;
    crowd_act act;
    uint32_t act_at, calls; /* 0: one */
    bool free;              /* to say any token */
} play;

static seen perform(kvrt_engine engine, const play *p, const char *type, const char *max)
{
    static const int32_t more[3] = {5, 9, 7};
    seen out = {.m = {.options = {"draft.type", type, "draft.max", max},
                      .story = 3,
                      .n_prompt = p->n_prompt,
                      .act = p->act,
                      .act_at = p->act_at}};
    /* A random model of 92 tokens never says anything twice; of three, some guesses come true and some do not. */
    static const char *const few[] = {"5=40", "9=40", "7=40"};
    uint32_t n = 4;
    for (; p->options[n - 4]; n++) out.m.options[n] = p->options[n - 4];
    for (unsigned i = 0; i < 3 && !p->free; i++) out.m.options[n++] = "sample.logit_bias", out.m.options[n++] = few[i];
    crowd_join(engine, &out.m);
    for (uint32_t i = 0; i < (p->calls ? p->calls : 1); i++) crowd_alone(&out.m);
    out.info = golden_session_info(out.m.handle);
    kvrt_engine_info info = {.size = sizeof info};
    assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
    out.n_vocab = info.vocab_size;
    out.logits = calloc(info.vocab_size, sizeof(float));
    if (out.info.n_tokens + 3 <= out.info.ctx_size)
        assert_int_equal(kvrt_session_eval(out.m.handle, more, 3, NULL, 1, out.logits, NULL), KVRT_OK);
    return out;
}

static void end(seen *s)
{
    kvrt_session_close(s->m.handle, NULL);
    free(s->logits);
}

/* How many guesses came true; everything else must be the same. */
static uint64_t same(kvrt_engine engine, const play *p, const char *type, const char *max, const char *what)
{
    seen off = perform(engine, p, "off", max), on = perform(engine, p, type, max);
    crowd_same(&off.m, &on.m, what);
    if (off.info.n_tokens != on.info.n_tokens || off.info.n_cached != on.info.n_cached ||
        off.info.n_pages != on.info.n_pages || off.info.n_packed_pages != on.info.n_packed_pages ||
        off.info.kv_bytes != on.info.kv_bytes)
        fail_msg("%s: %u of %u tokens cached, %u pages (%u packed); need %u of %u, %u (%u)", what, on.info.n_cached,
                 on.info.n_tokens, on.info.n_pages, on.info.n_packed_pages, off.info.n_cached, off.info.n_tokens,
                 off.info.n_pages, off.info.n_packed_pages);
    if (memcmp(off.logits, on.logits, off.n_vocab * sizeof(float)) != 0) fail_msg("%s: other bits afterwards", what);
    assert_true(off.info.n_drafted == 0 && off.m.result.n_drafted == 0);
    assert_true(on.info.n_accepted <= on.info.n_drafted && on.m.result.n_drafted <= on.info.n_drafted);
    const uint64_t n = on.info.n_accepted;
    end(&off), end(&on);
    return n;
}

static const char *const plays[][8] = {
    {"sample.temperature", "0", "gen.max_tokens", "180", NULL},
    {"sample.temperature", "0.6", "sample.seed", "4", "gen.max_tokens", "180", NULL},
    {"sample.temperature", "1", "sample.frequency_penalty", "0.3", "gen.max_tokens", "60", NULL}};

static play play_of(unsigned i, uint32_t n_prompt)
{
    play p = {.n_prompt = n_prompt};
    memcpy(p.options, plays[i], sizeof plays[i]);
    if (i == 2) p.options[6] = "sample.seed", p.options[7] = NULL;
    return p;
}

/* Families of every kind of cache, formats, prompts that end anywhere in a page. */
static void texts_and_caches_are_the_same(void **state)
{
    static const char *const models[] = {"tiny",   "llama_gqa4_d32", "qwen3_5", "mistral_window",
                                         "gemma3", "deepseek_v2",    "gpt_oss", "qwen3_next"};
    static const char *const formats[] = {"f16", "k4v4", "elastic"};
    for (unsigned m = 0; m < sizeof models / sizeof *models; m++)
        for (unsigned f = 0; f < 3; f++) {
            const char *pairs[] = {"kv.format", formats[f], "ctx.size", "512", "ctx.sessions", "2", "draft.type",
                                   "lookup",    "kv.tail",  "100",      NULL};
            if (strcmp(models[m], "deepseek_v2") == 0 && f > 0) continue; /* its latents are too narrow for codes */
            kvrt_engine engine = open_golden(models[m], pairs);
            uint64_t n_true = 0;
            static const char *const most[] = {"7", "1", "4"};
            for (unsigned i = 0; i < 2; i++) {
                const play p = play_of(i, i ? 127 : 210);
                char what[100];
                snprintf(what, sizeof what, "%s, %s, play %u", models[m], formats[f], i);
                n_true += same(engine, &p, "lookup", most[(m + f + i) % 3], what);
            }
            if (n_true == 0) fail_msg("%s, %s: no guess came true, so that nothing was tested", models[m], formats[f]);
            kvrt_engine_close(engine, NULL);
        }
}

/* A stop, a pause and a cancel at each token; requests of few tokens, one after the other. */
static void answers_and_calls_cut_nothing(void **state)
{
    static const char *const models[] = {"tiny", "qwen3_5"};
    static const crowd_act acts[] = {CROWD_STOP, CROWD_PAUSE, CROWD_CANCEL};
    for (unsigned m = 0; m < 2; m++) {
        const char *pairs[] = {"kv.format", "k4v4",       "ctx.size", "512", "ctx.sessions",
                               "2",         "draft.type", "lookup",   NULL};
        kvrt_engine engine = open_golden(models[m], pairs);
        uint64_t n_true = 0;
        for (unsigned a = 0; a < 3; a++)
            for (uint32_t at = 1; at < 40; at += 1 + at / 12) {
                if (acts[a] == CROWD_CANCEL && m == 1) continue; /* a cancel leaves a recurrent state half-way */
                play p = {.options = {"sample.temperature", "0", "gen.max_tokens", "40"},
                          .n_prompt = 100,
                          .act = acts[a],
                          .act_at = at,
                          .calls = acts[a] == CROWD_PAUSE || at % 2 ? 1 : 2};
                char what[100];
                snprintf(what, sizeof what, "%s, answer %d at token %u", models[m], acts[a], at);
                n_true += same(engine, &p, "lookup", "7", what);
            }
        for (uint32_t n = 1; n <= 9; n++) {
            char tokens[8], what[100];
            snprintf(tokens, sizeof tokens, "%u", n);
            snprintf(what, sizeof what, "%s, calls of %u tokens", models[m], n);
            const play p = {
                .options = {"sample.temperature", "0", "gen.max_tokens", tokens}, .n_prompt = 100, .calls = 60 / n};
            n_true += same(engine, &p, "lookup", "7", what);
        }
        assert_true(n_true > 100);
        kvrt_engine_close(engine, NULL);
    }
}

/* The end of a context, and beyond: to the last position, with and without dropping pages; a pool without room to spare. */
static void full_contexts_are_the_same(void **state)
{
    static const char *const models[] = {"tiny", "qwen3_5", "mistral_window"};
    static const char *const fulls[] = {"stop", "shift"};
    for (unsigned m = 0; m < 3; m++)
        for (unsigned f = 0; f < 2; f++) {
            const char *pairs[] = {"kv.format",  "k4v4",   "ctx.size",     "399", "ctx.full", fulls[f],
                                   "draft.type", "lookup", "ctx.sessions", "2",   NULL};
            kvrt_engine engine = open_golden(models[m], pairs);
            const play p = {.options = {"sample.temperature", "0", "gen.max_tokens", "500"}, .n_prompt = 200};
            assert_true(same(engine, &p, "lookup", "7", fulls[f]) > 20);
            kvrt_engine_close(engine, NULL);
        }
    const char *pairs[] = {"kv.format", "elastic", "ctx.size", "1000",       "ctx.chunk", "32", "kv.tail",
                           "0",         "kv.pool", "420KiB",   "draft.type", "lookup",    NULL};
    kvrt_engine engine = golden_open_tiny(pairs);
    const play p = {.options = {"sample.temperature", "0", "gen.max_tokens", "800"}, .n_prompt = 100};
    seen off = perform(engine, &p, "off", "7");
    end(&off);
    seen on = perform(engine, &p, "lookup", "7");
    off.m.session = on.m.session; /* its own is closed; tokens are in the digest */
    crowd_same(&off.m, &on.m, "elastic");
    if (!on.m.n_demotions || on.info.n_accepted < 20)
        fail_msg("%u demotions, %u guesses came true", on.m.n_demotions, (unsigned)on.info.n_accepted);
    end(&on);
    kvrt_engine_close(engine, NULL);
}

/* Several at once: as each alone without guesses; beyond four nobody guesses. Steps allocate nothing. */
static void streams_are_the_same(void **state)
{
    static const char *const models[] = {"tiny", "qwen3_5"};
    for (unsigned k = 0; k < 2; k++) {
        const char *pairs[] = {"kv.format", "k4v4",       "ctx.size", "400", "ctx.sessions",
                               "6",         "draft.type", "lookup",   NULL};
        kvrt_engine engine = open_golden(models[k], pairs);
        static crowd_member alone[6], together[6];
        for (uint32_t i = 0; i < 6; i++) {
            alone[i] = (crowd_member){.options = {"sample.temperature", i % 2 ? "0" : "0.7", "sample.seed", "9",
                                                  "gen.max_tokens", i < 3 ? "150" : "90", "draft.type", "off"},
                                      .story = i,
                                      .n_prompt = 60 + 30 * i};
            together[i] = alone[i];
            together[i].options[7] = "lookup";
            crowd_join(engine, &alone[i]);
            crowd_alone(&alone[i]);
            kvrt_session_close(alone[i].handle, NULL);
        }
        for (uint32_t n = 2; n <= 6; n++) {
            uint64_t n_true = 0, n_drafted = 0;
            for (uint32_t i = 0; i < n; i++) {
                crowd_join(engine, &together[i]);
                together[i].arrives = 0;
            }
            assert_int_equal(crowd_together(engine, together, n, NULL, NULL), 0);
            for (uint32_t i = 0; i < n; i++) {
                char what[60];
                const kvrt_session_info info = golden_session_info(together[i].handle);
                snprintf(what, sizeof what, "%s, %u streams", models[k], n);
                crowd_member was = alone[i];
                was.session = together[i].session; /* its own is closed; tokens are in the digest */
                crowd_same(&was, &together[i], what);
                n_true += info.n_accepted, n_drafted += info.n_drafted;
            }
            assert_true(n_true > 0 && n_true <= n_drafted);
            for (uint32_t i = 0; i < n; i++) kvrt_session_close(together[i].handle, NULL);
        }
        kvrt_engine_close(engine, NULL);
    }
}

/* Rows are shared out: eight for one session, two for each of four, and no guesses beyond. */
static void guesses_are_shared_out(void **state)
{
    static const uint32_t need[] = {0, 7, 3, 1, 1, 0, 0, 0}, row = 0;
    const char *pairs[] = {"ctx.size", "256", "draft.type", "lookup", NULL};
    kvrt_engine engine = golden_open_tiny(pairs);
    const play p = {
        .options = {"sample.temperature", "0", "gen.max_tokens", "9"}, .n_prompt = 30, .act = CROWD_STOP, .act_at = 9};
    seen s = perform(engine, &p, "lookup", "7");
    kvi_session *session = s.m.session;
    session->gen.max_tokens = INT64_MAX;
    for (uint32_t i = 0; i < session->n_tokens; i++) session->tokens[i] = 5; /* what follows is known */
    for (uint32_t streams = 1; streams < 8; streams++) {
        kvi_want want = {.first = session->n_tokens - 1, .n = 1, .logit_rows = &row, .n_logit_rows = 1};
        session->gen.draft = (kvi_draft){.type = KVI_DRAFT_LOOKUP, .most = 7, .depth = 7};
        session->n_cached = want.first;
        kvi_draft_add(session, &want, streams);
        if (want.n_draft != need[streams] || want.n != 1 + want.n_draft || want.n_logit_rows != want.n)
            fail_msg("%u streams: %u guesses, need %u", streams, want.n_draft, need[streams]);
    }
    end(&s);
    kvrt_engine_close(engine, NULL);
}

/* --------------------------------------------------------------------------------------------- in the midst of it --- */
static void drive_to_the_end(kvrt_engine engine)
{
    kvrt_event event = {.size = sizeof event};
    int32_t status;
    do {
        status = kvrt_step(engine, 1000000, NULL);
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
        }
    } while (status == KVRT_MORE || status == KVRT_PARTIAL);
    assert_int_equal(status, KVRT_DONE);
}

static void tokens_of(kvrt_session session, int32_t *ids, uint64_t *n)
{
    assert_int_equal(kvrt_session_tokens(session, ids, 512, n, NULL), KVRT_OK);
}

/* A request that is stepped through by single operations: forked, saved, and its copies go on as it does; then rewound. */
static void forks_saves_and_rewinds_between_operations(void **state)
{
    static const char *const models[] = {"tiny", "qwen3_5"};
    for (unsigned m = 0; m < 2; m++) {
        const char *pairs[] = {"kv.format",
                               "k4v4",
                               "ctx.size",
                               "512",
                               "ctx.sessions",
                               "4",
                               "draft.type",
                               "lookup",
                               "sample.temperature",
                               "0",
                               "gen.ignore_eos",
                               "true",
                               "sample.logit_bias",
                               "5=40",
                               "sample.logit_bias",
                               "9=40",
                               "sample.logit_bias",
                               "7=40",
                               NULL};
        kvrt_engine engine = open_golden(models[m], pairs);
        const char *plain[] = {"draft.type", "off", "gen.max_tokens", "150", NULL},
                   *fast[] = {"gen.max_tokens", "150", NULL};
        kvrt_options *off = golden_options(plain), *on = golden_options(fast);
        int32_t prompt[100], want[512], got[512];
        uint64_t n, n_got;
        for (uint32_t i = 0; i < 100; i++) prompt[i] = crowd_token(3, i);
        kvrt_session a = golden_session(engine);
        assert_int_equal(kvrt_session_sync(a, prompt, 100, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(a, off, NULL, NULL, NULL, NULL), KVRT_OK);
        tokens_of(a, want, &n);
        assert_int_equal(n, 250);
        kvrt_session_close(a, NULL);

        kvrt_session b = golden_session(engine);
        assert_int_equal(kvrt_session_sync(b, prompt, 100, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_submit(b, on, NULL, NULL), KVRT_OK);
        static uint8_t bytes[4 << 20];
        uint32_t n_copies = 0;
        for (uint32_t i = 0; kvrt_step(engine, 1, NULL) == KVRT_MORE; i++) {
            kvrt_event event = {.size = sizeof event};
            while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
            }
            if (i % 23) continue;
            kvrt_session c;
            uint64_t len = 0;
            assert_int_equal(kvrt_session_fork(b, &c, NULL), KVRT_OK);
            if (n_copies % 2) {
                assert_int_equal(kvrt_session_save_bytes(b, 0, bytes, sizeof bytes, &len, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_load_bytes(c, bytes, len, 0, NULL), KVRT_OK);
            }
            tokens_of(c, got, &n_got);
            kvrt_options_set_text(on, "gen.max_tokens", "12", NULL);
            if (n_got < 238 && n_got > 100) {
                const uint64_t n_want = n_got + 12;
                kvi_session *s;
                assert_int_equal(kvi_session_enter(c, KVI_LOOK, &s, NULL), KVRT_OK);
                kvi_session_leave(s, KVI_LOOK);
                assert_int_equal(kvrt_submit(c, on, NULL, NULL), KVRT_OK);
                while (s->gen.state != KVI_DONE) {
                    assert_true(kvrt_step(engine, 200, NULL) >= KVRT_OK);
                    while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
                    }
                }
                tokens_of(c, got, &n_got);
                if (n_got != n_want || memcmp(got, want, sizeof *got * n_want) != 0)
                    fail_msg("%s, copy %u (%s) went another way", models[m], n_copies,
                             n_copies % 2 ? "saved" : "forked");
                n_copies++;
            }
            kvrt_session_close(c, NULL);
        }
        drive_to_the_end(engine);
        assert_true(n_copies >= 3);
        tokens_of(b, got, &n_got);
        assert_true(n_got == 250 && memcmp(got, want, sizeof *got * 250) == 0);
        assert_true(golden_session_info(b).n_accepted > 20);
        kvrt_options_set_text(on, "gen.max_tokens", "150", NULL);
        assert_int_equal(kvrt_session_rewind(b, 100, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(b, on, NULL, NULL, NULL, NULL), KVRT_OK);
        tokens_of(b, got, &n_got);
        assert_true(n_got == 250 && memcmp(got, want, sizeof *got * 250) == 0);
        kvrt_session_close(b, NULL);
        kvrt_options_destroy(on), kvrt_options_destroy(off);
        kvrt_engine_close(engine, NULL);
    }
}

/* A cancel while guesses are computed: what was lent for them is given back, and the text goes on as if nothing had been. */
static void a_cancelled_step_leaves_nothing(void **state)
{
    static const char *const models[] = {"tiny", "qwen3_5"};
    for (unsigned m = 0; m < 2; m++) {
        const char *pairs[] = {"kv.format",
                               "k4v4",
                               "ctx.size",
                               "512",
                               "draft.type",
                               "lookup",
                               "sample.temperature",
                               "0",
                               "gen.ignore_eos",
                               "true",
                               "sample.logit_bias",
                               "5=40",
                               "sample.logit_bias",
                               "9=40",
                               NULL};
        kvrt_engine engine = open_golden(models[m], pairs);
        const char *plain[] = {"draft.type", "off", "gen.max_tokens", "80", NULL},
                   *some[] = {"gen.max_tokens", "80", NULL};
        kvrt_options *off = golden_options(plain), *on = golden_options(some);
        int32_t prompt[100], want[512], got[512];
        uint64_t n, n_cancelled = 0;
        kvi_session *s;
        for (uint32_t i = 0; i < 100; i++) prompt[i] = crowd_token(3, i);
        kvrt_session session = golden_session(engine);
        assert_int_equal(kvi_session_enter(session, KVI_LOOK, &s, NULL), KVRT_OK);
        kvi_session_leave(s, KVI_LOOK);
        assert_int_equal(kvrt_session_sync(session, prompt, 100, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(session, off, NULL, NULL, NULL, NULL), KVRT_OK);
        tokens_of(session, want, &n);
        assert_int_equal(kvrt_session_rewind(session, 100, NULL), KVRT_OK);
        for (uint32_t round = 0; s->n_tokens < 170; round++) {
            kvrt_event event = {.size = sizeof event};
            int32_t status = kvrt_submit(session, on, NULL, NULL);
            for (uint32_t ops = 0; status >= KVRT_OK && s->gen.state != KVI_DONE; ops++) {
                status = kvrt_step(engine, 1, NULL);
                if (s->gen.draft.n && ops > 3 + round % 7) kvrt_cancel(session), n_cancelled++;
                while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
                }
            }
            assert_true(status >= KVRT_OK && s->states.spare == KVI_NO_PAGE);
            /* A token without guesses, so that there is a way on. */
            kvrt_options *one = golden_options((const char *[]){"draft.type", "off", "gen.max_tokens", "1", NULL});
            assert_int_equal(kvrt_generate(session, one, NULL, NULL, NULL, NULL), KVRT_OK);
            kvrt_options_destroy(one);
        }
        tokens_of(session, got, &n);
        assert_true(n_cancelled > 10 && memcmp(got, want, 170 * sizeof *got) == 0);
        kvrt_options_destroy(on), kvrt_options_destroy(off);
        kvrt_engine_close(engine, NULL);
    }
}

/* -------------------------------------------------------------------------------------------------------- grammar --- */
static void grammars_are_the_same(void **state)
{
    static const char *const grammars[] = {
        "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"name\":{\"enum\":[\"ann\",\"bob\"]},\"is "
        "it so\":{\"type\":\"boolean\"}},\"required\":[\"name\",\"is it so\"],\"additionalProperties\":false},"
        "\"minItems\":5,\"maxItems\":5}",
        "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":30},\"minItems\":20,"
        "\"maxItems\":"
        "20}"};
    const char *pairs[] = {"ctx.size", "512", "ctx.sessions", "2", NULL};
    kvrt_engine engine = golden_open_tiny(pairs);
    uint64_t n_true = 0;
    for (unsigned g = 0; g < 2; g++)
        for (unsigned seed = 1; seed <= 12; seed++) {
            char text[8];
            snprintf(text, sizeof text, "%u", seed);
            const play p = {.options = {"grammar.schema", grammars[g], "sample.seed", text, "sample.temperature",
                                        seed % 3 ? "1.5" : "0"},
                            .n_prompt = 40,
                            .free = true};
            n_true += same(engine, &p, "lookup", "7", grammars[g]);
        }
    assert_true(n_true > 50);
    kvrt_engine_close(engine, NULL);
    /* The layer of a model that says nothing sensible: what comes true is what the grammar forces. */
    const char *ahead[] = {"draft.type", "mtp", "kv.format", "k4v4", "ctx.size", "512", "ctx.sessions", "2", NULL};
    engine = open_golden("qwen3_5_mtp", ahead);
    n_true = 0;
    for (unsigned seed = 1; seed <= 6; seed++) {
        char text[8];
        snprintf(text, sizeof text, "%u", seed);
        const play p = {
            .options = {"grammar.schema", grammars[seed % 2], "sample.seed", text, "sample.temperature", "1"},
            .n_prompt = 40,
            .free = true};
        n_true += same(engine, &p, "mtp", "7", grammars[seed % 2]);
    }
    assert_true(n_true > 20);
    kvrt_engine_close(engine, NULL);
}

/* --------------------------------------------------------------------------------------------------- draft.model --- */
static const char small[] = KVRT_TEST_DIR "/../examples/models/storyteller-tiny";

/* A model that guesses for itself is right whatever is drawn, as it draws by the same numbers; for its own copy in four bits, mostly. Texts are the
 * same. */
static void a_smaller_model_guesses(void **state)
{
    static const char *const temperatures[] = {"0", "1"};
    for (unsigned self = 0; self < 2; self++) {
        const char *pairs[] = {"draft.model",
                               small,
                               "kv.format",
                               self ? "f16" : "k4v4",
                               "ctx.size",
                               "512",
                               "ctx.sessions",
                               "4",
                               "ctx.chunk",
                               "256",
                               "weights.type",
                               self ? "auto" : "i4",
                               "weights.group",
                               self ? "auto" : "64",
                               NULL};
        kvrt_engine engine = golden_open_tiny(pairs);
        for (unsigned t = 0; t < 2; t++) {
            const play p = {.options = {"sample.temperature", temperatures[t], "sample.seed", "5", "gen.max_tokens",
                                        "150", "sample.repeat_penalty", "1.1"},
                            .n_prompt = 200,
                            .free = true};
            seen off = perform(engine, &p, "off", "7"), on = perform(engine, &p, "model", "5");
            crowd_same(&off.m, &on.m, "model");
            assert_true(off.info.n_cached == on.info.n_cached && memcmp(off.logits, on.logits, off.n_vocab * 4) == 0);
            const double share = (double)on.info.n_accepted / (double)on.info.n_drafted;
            if (!(share > (self ? 0.97 : 0.15)) || on.info.n_accepted < 15 || (!self && share == 1))
                fail_msg("self %u, temperature %s: %u of %u guesses came true", self, temperatures[t],
                         (unsigned)on.info.n_accepted, (unsigned)on.info.n_drafted);
            /* Back, and on in a fork, whose guesses begin anew. */
            kvrt_session fork;
            assert_int_equal(kvrt_session_rewind(on.m.handle, 230, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_fork(on.m.handle, &fork, NULL), KVRT_OK);
            const char *greedy[] = {"sample.temperature", "0", "gen.max_tokens", "60", "gen.ignore_eos", "true", NULL};
            kvrt_options *o = golden_options(greedy);
            int32_t a[512], b[512];
            uint64_t n_a, n_b;
            kvrt_result back = {.size = sizeof back};
            assert_int_equal(kvrt_generate(on.m.handle, o, NULL, NULL, &back, NULL), KVRT_OK);
            assert_int_equal(kvrt_generate(fork, o, NULL, NULL, NULL, NULL), KVRT_OK);
            assert_true(!self || (back.n_drafted > 30 && back.n_accepted == back.n_drafted));
            tokens_of(on.m.handle, a, &n_a), tokens_of(fork, b, &n_b);
            assert_true(n_a == 290 && n_b == 290 && memcmp(a, b, 290 * sizeof *a) == 0);
            assert_true(golden_session_info(fork).n_accepted > 0);
            kvrt_options_destroy(o);
            kvrt_session_close(fork, NULL);
            end(&off), end(&on);
        }
        kvrt_engine_close(engine, NULL);
    }
}

/* Both engines are in the plan, in what an engine says it takes, and go and come back together. */
static void both_models_are_planned_and_suspended(void **state)
{
    kvrt_plan_row row = {.size = sizeof row};
    kvrt_error error = {.size = sizeof error};
    uint64_t n, planned[2], resident[2], bytes, blocks, before;
    kvrt_debug_mem(&before, &blocks, NULL);
    for (unsigned with = 0; with < 2; with++) {
        const char *pairs[] = {
            "model.path", small,        "ctx.size", "512", "mem.limit", "64MiB", with ? "draft.model" : NULL,
            small,        "draft.type", "model",    NULL};
        kvrt_options *o = golden_options(pairs);
        kvrt_engine engine;
        if (kvrt_plan(o, "k4v4", NULL, &row, 1, &n, &error) < KVRT_OK) fail_msg("%s", error.message);
        assert_int_equal(row.total_bytes, row.kv_bytes + row.weight_bytes + row.table_bytes + row.workspace_bytes +
                                              row.session_bytes + row.context_bytes + row.draft_bytes);
        assert_true((row.draft_bytes > 0) == (with > 0));
        if (kvrt_engine_open(o, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
        kvrt_session s = golden_session(engine);
        const int32_t prompt[4] = {10, 20, 30, 40};
        assert_int_equal(kvrt_session_sync(s, prompt, 4, NULL, NULL), KVRT_OK);
        const char *some[] = {
            "sample.temperature",      "0", "gen.max_tokens", "40", "gen.ignore_eos", "true", "draft.type",
            with ? "model" : "lookup", NULL};
        kvrt_options *call = golden_options(some);
        for (unsigned i = 0; i < 2; i++) {
            if (kvrt_generate(s, call, NULL, NULL, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
            kvrt_engine_info info = {.size = sizeof info};
            assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
            kvrt_debug_mem(&bytes, &blocks, NULL);
            assert_int_equal(info.planned_bytes, row.total_bytes);
            assert_true(info.resident_bytes <= info.planned_bytes && info.resident_bytes > row.draft_bytes);
            planned[with] = info.planned_bytes, resident[with] = info.resident_bytes;
            if (i == 1) break;
            assert_int_equal(kvrt_suspend(engine, NULL), KVRT_OK);
            assert_true(golden_memory(engine).host_bytes < info.resident_bytes / 2);
            assert_int_equal(kvrt_resume(engine, NULL), KVRT_OK);
        }
        if (with) assert_true(golden_session_info(s).n_accepted > 0);
        kvrt_options_destroy(call), kvrt_options_destroy(o);
        kvrt_engine_close(engine, NULL);
    }
    assert_true(planned[1] > planned[0] && resident[1] > resident[0]);
}

/* A model that guesses for itself sees the mask that its tokens will be drawn under, and what the grammar forces between: all its guesses come true, where
 * without the mask most would not fit. */
static void a_model_guesses_within_a_grammar(void **state)
{
    static const char *const grammars[] = {
        "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"name\":{\"enum\":[\"ann\",\"bob\","
        "\"anna\"]},"
        "\"it is "
        "so\":{\"type\":\"boolean\"},\"n\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":300}},\"required\":["
        "\"name\","
        "\"it is so\",\"n\"],\"additionalProperties\":false},\"minItems\":4,\"maxItems\":4}",
        "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"^[a-z]{3,8} "
        "[0-9]{2}$\"},\"minItems\":6,\"maxItems\":6}"};
    static const char *const tools =
        "[{\"name\":\"tell\",\"parameters\":{\"type\":\"object\",\"properties\":{\"to\":{\"enum\":[\"fox\",\"owl\"]},"
        "\"n\":{\"type\":"
        "\"integer\",\"minimum\":0,\"maximum\":99}},\"required\":[\"to\",\"n\"],\"additionalProperties\":false}}]";
    golden_model m = {0};
    snprintf(m.dir, sizeof m.dir, "%s", small);
    const char *pairs[] = {"draft.model", small, "kv.format", "f16", "ctx.size", "512", "ctx.sessions", "2", NULL};
    kvrt_engine engine = golden_open(&m, pairs);
    for (unsigned g = 0; g < 3; g++)
        for (unsigned seed = 1; seed <= 8; seed++) {
            char text[8];
            snprintf(text, sizeof text, "%u", seed);
            const play p = {.options = {g < 2 ? "grammar.schema" : "gen.tools", g < 2 ? grammars[g] : tools,
                                        "sample.seed", text, "sample.temperature", seed % 3 ? "1.2" : "0",
                                        "gen.tool_choice", g < 2 ? "auto" : "required"},
                            .n_prompt = 40,
                            .free = true};
            seen off = perform(engine, &p, "off", "7"), on = perform(engine, &p, "model", "7");
            crowd_same(&off.m, &on.m, g < 2 ? grammars[g] : tools);
            /* A text that a full context cuts may have computed more of what was forced at its end. */
            assert_true(on.info.n_cached >= off.info.n_cached && on.info.n_tokens == off.info.n_tokens);
            assert_memory_equal(off.logits, on.logits, off.n_vocab * 4);
            if (on.info.n_drafted < 8 || on.info.n_accepted + 2 < on.info.n_drafted)
                fail_msg("grammar %u, seed %u: %u of %u guesses came true", g, seed, (unsigned)on.info.n_accepted,
                         (unsigned)on.info.n_drafted);
            end(&off), end(&on);
        }
    kvrt_engine_close(engine, NULL);
}

static void refuse(const char *const *pairs, int32_t want, const char *name)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o = golden_options(pairs);
    kvrt_engine engine;
    uint64_t before, after;
    kvrt_debug_mem(NULL, &before, NULL);
    const int32_t status = kvrt_engine_open(o, NULL, NULL, &engine, &error);
    kvrt_debug_mem(NULL, &after, NULL);
    if (status != want || !strstr(error.message, name)) fail_msg("%s: %s", kvrt_status_name(status), error.message);
    assert_int_equal(before, after);
    kvrt_options_destroy(o);
}

static void what_cannot_guess_is_refused(void **state)
{
    const char *other[] = {"model.path", small, "draft.model", KVRT_TEST_DIR "/golden/models/llama_gqa4_d32",
                           "ctx.size",   "256", NULL},
               *recurrent[] = {"model.path",  KVRT_TEST_DIR "/golden/models/llama_gqa4_d32",
                               "draft.model", KVRT_TEST_DIR "/golden/models/qwen3_5",
                               "ctx.size",    "256",
                               NULL},
               *none[] = {"model.path", small, "draft.model", KVRT_TEST_DIR "/no/such/model", NULL},
               *ahead[] = {"model.path", small, "draft.type", "mtp", NULL};
    refuse(other, KVRT_UNSUPPORTED, "draft.model");
    refuse(recurrent, KVRT_UNSUPPORTED, "recurrent");
    refuse(none, KVRT_IO, "no/such/model");
    refuse(ahead, KVRT_UNSUPPORTED, "mtp");
    kvrt_engine engine = golden_open_tiny((const char *[]){"ctx.size", "256", NULL});
    kvrt_session s = golden_session(engine);
    static const char *const types[] = {"model", "mtp"};
    for (unsigned i = 0; i < 2; i++) {
        kvrt_error error = {.size = sizeof error};
        kvrt_options *o = golden_options((const char *[]){"draft.type", types[i], NULL});
        const int32_t id = 5;
        assert_int_equal(kvrt_session_sync(s, &id, 1, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, &error), KVRT_ARG);
        assert_non_null(strstr(error.message, "draft.type"));
        kvrt_options_destroy(o);
    }
    kvrt_engine_close(engine, NULL);
}

/* The layer of Qwen3.5 to 3.8 that looks ahead: of a random model its guesses are no better than chance, a third of which is true here. Nothing else
 * may change. */
static void the_layer_that_looks_ahead_guesses(void **state)
{
    static const char *const formats[] = {"f16", "k4v4"};
    uint64_t n_true = 0, n_looked_up = 0;
    for (unsigned f = 0; f < 2; f++) {
        const char *pairs[] = {"draft.type", "mtp",          "kv.format", formats[f], "ctx.size",
                               "512",        "ctx.sessions", "2",         NULL};
        kvrt_engine engine = open_golden("qwen3_5_mtp", pairs);
        for (unsigned i = 0; i < 2; i++) {
            const play p = play_of(i, i ? 127 : 210);
            n_true += same(engine, &p, "mtp", i ? "7" : "2", formats[f]);
            n_looked_up += same(engine, &p, "lookup", "7", formats[f]);
        }
        kvrt_engine_close(engine, NULL);
    }
    if (n_true < 20 || n_looked_up < 20)
        fail_msg("%u and %u guesses came true", (unsigned)n_true, (unsigned)n_looked_up);
}

/* What the layer predicts next, from where the request left the session. */
static void predict(kvrt_session session, float *logits)
{
    kvi_session *s;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvi_session_enter_compute(session, &s, NULL), KVRT_OK);
    if (kvi_ahead_draft(s, s->tokens[s->n_tokens - 1], &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(s->engine->backend->read_logits(s->engine->device, 0, logits, NULL), KVRT_OK);
    kvi_session_leave(s, KVI_DRIVE);
}

/* Behind steps with guesses the layer has seen the same as behind steps without: nothing else would show a wrong row, as guesses may be wrong. */
static void guesses_leave_the_layer_what_it_is(void **state)
{
    static float a[512], b[512];
    const char *pairs[] = {"draft.type", "mtp", "kv.format", "k4v4", "ctx.size", "512", "ctx.sessions", "2", NULL};
    kvrt_engine engine = open_golden("qwen3_5_mtp", pairs);
    for (unsigned free = 0; free < 2; free++)
        for (uint32_t n = 4; n < 90; n += 1 + n / 9) {
            char tokens[8];
            snprintf(tokens, sizeof tokens, "%u", n);
            play p = {.options = {"sample.temperature", "0", "gen.max_tokens", tokens, "sample.logit_bias", "8=1000"},
                      .n_prompt = 61 + n};
            if (free) p.options[4] = NULL;
            for (unsigned on = 0; on < 2; on++) {
                crowd_member m = {.options = {"draft.type", on ? "mtp" : "off"}, .story = 3, .n_prompt = p.n_prompt};
                for (unsigned i = 0; p.options[i]; i++) m.options[2 + i] = p.options[i];
                crowd_join(engine, &m);
                crowd_alone(&m);
                const kvrt_session_info info = golden_session_info(m.handle);
                if (on && !free) assert_true(info.n_accepted == info.n_drafted && info.n_accepted + 6 > n / 2);
                predict(m.handle, on ? b : a);
                kvrt_session_close(m.handle, NULL);
            }
            if (memcmp(a, b, sizeof a) != 0) fail_msg("%u tokens, free %u: the layer predicts otherwise", n, free);
        }
    kvrt_engine_close(engine, NULL);
}

/* ----------------------------------------------------------------------------------------------------------- memory --- */
/* Of recurrent layers a second state is planned, for engines that guess alone; without it sessions do not guess. */
static void a_second_state_is_planned(void **state)
{
    uint64_t kv[2];
    for (unsigned on = 0; on < 2; on++) {
        const char *pairs[] = {"ctx.size", "512", "kv.format", "k4v4", "draft.type", on ? "lookup" : "off", NULL};
        kvrt_engine engine = open_golden("qwen3_5", pairs);
        kvrt_engine_info info = {.size = sizeof info};
        assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
        kv[on] = info.kv_pool_bytes;
        const play p = {.options = {"sample.temperature", "0", "gen.max_tokens", "100"}, .n_prompt = 100};
        seen s = perform(engine, &p, "lookup", "7");
        assert_true((s.info.n_drafted > 0) == (on == 1));
        end(&s);
        kvrt_engine_close(engine, NULL);
    }
    assert_true(kv[1] > kv[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lookups_are_those_of_a_naive_search),
                                       cmocka_unit_test(texts_and_caches_are_the_same),
                                       cmocka_unit_test(answers_and_calls_cut_nothing),
                                       cmocka_unit_test(full_contexts_are_the_same),
                                       cmocka_unit_test(streams_are_the_same),
                                       cmocka_unit_test(guesses_are_shared_out),
                                       cmocka_unit_test(forks_saves_and_rewinds_between_operations),
                                       cmocka_unit_test(a_cancelled_step_leaves_nothing),
                                       cmocka_unit_test(grammars_are_the_same),
                                       cmocka_unit_test(a_model_guesses_within_a_grammar),
                                       cmocka_unit_test(a_second_state_is_planned),
                                       cmocka_unit_test(a_smaller_model_guesses),
                                       cmocka_unit_test(both_models_are_planned_and_suspended),
                                       cmocka_unit_test(what_cannot_guess_is_refused),
                                       cmocka_unit_test(the_layer_that_looks_ahead_guesses),
                                       cmocka_unit_test(guesses_leave_the_layer_what_it_is)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
