/* test_generate.c - what kvrt_generate promises over several calls on one session: random choices, text that goes on, sections of
 * reasoning. */
#include "golden_model.h"
#include "../../runtime/engine/seat.h"
#include "../../runtime/engine/session.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MOST = 128 };
static golden_model model;
static const int32_t prompt[5] = {10, 20, 30, 40, 50};

typedef struct ids {
    int32_t id[MOST];
    uint64_t n;
} ids;

static ids tokens_of(kvrt_session s)
{
    ids out = {0};
    assert_int_equal(kvrt_session_tokens(s, out.id, MOST, &out.n, NULL), KVRT_OK);
    return out;
}

static kvrt_session session_with_prompt(kvrt_engine engine)
{
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, NULL), KVRT_OK);
    return s;
}

static bool same_ids(const ids *a, const ids *b)
{
    return a->n == b->n && memcmp(a->id, b->id, a->n * sizeof *a->id) == 0;
}

/* `n` tokens in calls of `per_call`, with sample.seed as text (NULL: not given). Returns the seed that the last call reports. */
static uint64_t go_on(kvrt_session s, int64_t n, int64_t per_call, const char *seed)
{
    kvrt_result result = {.size = sizeof result};
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "gen.max_tokens", per_call, NULL), KVRT_OK);
    if (seed) assert_int_equal(kvrt_options_set_text(o, "sample.seed", seed, NULL), KVRT_OK);
    for (int64_t i = 0; i < n; i += per_call)
        if (kvrt_generate(s, o, NULL, NULL, &result, &error) != KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return result.seed;
}

static const char *const flat[] = {"sample.temperature",
                                   "5",
                                   "sample.top_k",
                                   "0",
                                   "sample.top_p",
                                   "1",
                                   "sample.min_p",
                                   "0",
                                   "gen.ignore_eos",
                                   "true",
                                   NULL};

static void a_given_seed_goes_on_over_calls(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, flat);
    kvrt_session a = session_with_prompt(engine), b = session_with_prompt(engine);
    assert_int_equal(go_on(a, 32, 32, "7"), 7);
    assert_int_equal(go_on(b, 32, 1, "7"), 7);
    const ids whole = tokens_of(a), steps = tokens_of(b);
    assert_true(same_ids(&whole, &steps));
    /* Generating again advances the stream, after a rewind as after a sync. */
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(b, prompt, 5, NULL, NULL), KVRT_OK);
    assert_int_equal(go_on(a, 32, 32, "7"), 7);
    assert_int_equal(go_on(b, 32, 32, "7"), 7);
    const ids second = tokens_of(a), second_synced = tokens_of(b);
    assert_false(same_ids(&whole, &second));
    assert_true(same_ids(&second, &second_synced));
    /* Another seed begins the stream again; so does the first one after it. */
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    assert_int_equal(go_on(a, 32, 32, "8"), 8);
    const ids other = tokens_of(a);
    assert_false(same_ids(&whole, &other));
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    assert_int_equal(go_on(a, 32, 32, "7"), 7);
    const ids again = tokens_of(a);
    assert_true(same_ids(&whole, &again));
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void without_a_seed_every_text_is_new_and_can_be_repeated(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, flat);
    kvrt_session a = session_with_prompt(engine), b = session_with_prompt(engine);
    char text[32];
    const uint64_t seed = go_on(a, 32, 4, NULL); /* eight calls, one text: one seed */
    assert_true(seed < (UINT64_C(1) << 53));
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    assert_int_equal(go_on(b, 32, 32, text), seed);
    const ids first = tokens_of(a), repeated = tokens_of(b);
    assert_true(same_ids(&first, &repeated));
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    const uint64_t next = go_on(a, 32, 32, "auto");
    const ids second = tokens_of(a);
    assert_true(next != seed);
    assert_false(same_ids(&first, &second));
    /* A seed that was random before and is given now begins again. */
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    snprintf(text, sizeof text, "%llu", (unsigned long long)next);
    assert_int_equal(go_on(a, 32, 32, text), next);
    const ids given = tokens_of(a);
    assert_true(same_ids(&second, &given));
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* ------------------------------------------------------------------------------------------------ text over calls --- */
typedef struct said {
    char text[4096], reasoning[1024], rest[64]; /* rest: of the last DONE */
    size_t n_text, n_reasoning;
    int32_t answer; /* to TOKEN */
} said;

static int32_t listen(const kvrt_event *event, void *user)
{
    said *to = user;
    assert_int_equal(event->text[event->text_len], 0); /* of every type */
    if (event->type == KVRT_EVENT_TEXT || event->type == KVRT_EVENT_REASONING) {
        char *at = event->type == KVRT_EVENT_TEXT ? to->text : to->reasoning;
        size_t *n = event->type == KVRT_EVENT_TEXT ? &to->n_text : &to->n_reasoning;
        memcpy(at + *n, event->text, event->text_len + 1);
        *n += event->text_len;
    }
    if (event->type == KVRT_EVENT_DONE) {
        assert_true(event->text_len < sizeof to->rest);
        memcpy(to->rest, event->text, event->text_len + 1);
    }
    return event->type == KVRT_EVENT_TOKEN ? to->answer : KVRT_CONTINUE;
}

static int32_t token_of_bytes(kvrt_engine engine, const char *bytes)
{
    kvrt_engine_info info = {.size = sizeof info};
    char text[64];
    uint64_t n;
    kvrt_engine_get_info(engine, &info, NULL);
    for (int32_t id = 0; id < (int32_t)info.vocab_size; id++)
        if (kvrt_detokenize(engine, &id, 1, 0, text, sizeof text, &n, NULL) == KVRT_OK && n == strlen(bytes) &&
            memcmp(text, bytes, n) == 0)
            return id;
    fail_msg("no token for '%s'", bytes);
    return -1;
}

static void bias(kvrt_options *o, int32_t id, int value)
{
    char item[32];
    snprintf(item, sizeof item, "%d=%d", id, value);
    assert_int_equal(kvrt_options_set_text(o, "sample.logit_bias", item, NULL), KVRT_OK);
}

/* A character of four byte tokens, over and over: penalties and biases make the order. */
static void multibyte_text_is_the_same_in_any_calls(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny((const char *const[]){"ctx.size", "256", NULL});
    kvrt_options *o;
    static const char *const bytes[4] = {"\xf0", "\x9f", "\x98", "\x80"};
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_f64(o, "sample.temperature", 0, NULL);
    kvrt_options_set_f64(o, "sample.presence_penalty", 100, NULL);
    kvrt_options_set_i64(o, "sample.repeat_last", 3, NULL);
    kvrt_options_set_bool(o, "gen.token_events", 1, NULL);
    for (int i = 0; i < 4; i++) bias(o, token_of_bytes(engine, bytes[i]), 1000 - 10 * i);
    for (int n = 37; n <= 40; n++) {
        char want[256] = "";
        for (int i = 0; i < n / 4; i++) strcat(want, "\xf0\x9f\x98\x80");
        for (int mode = 0; mode < 3; mode++) { /* one call, paused at every token, one token per call */
            static said heard;
            kvrt_session s = session_with_prompt(engine);
            kvrt_status status;
            memset(&heard, 0, sizeof heard);
            heard.answer = mode == 1 ? KVRT_PAUSE : KVRT_CONTINUE;
            kvrt_options_set_i64(o, "gen.max_tokens", mode == 2 ? 1 : n, NULL);
            for (int i = 0; i < (mode == 2 ? n : 1); i++) {
                int pauses = 0;
                while ((status = kvrt_generate(s, o, listen, &heard, NULL, NULL)) == KVRT_PAUSED)
                    assert_true(pauses++ <= n);
                assert_int_equal(status, KVRT_OK);
                /* A host that does what leaves the tokens as they are does not end the text. */
                const ids same = tokens_of(s);
                assert_int_equal(kvrt_session_rewind(s, same.n, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_sync(s, same.id, same.n, NULL, NULL), KVRT_OK);
            }
            assert_string_equal(heard.text, want);
            assert_string_equal(heard.rest, n % 4 ? "\xef\xbf\xbd" : "");
            kvrt_session_close(s, NULL);
        }
    }
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* The tokens of `text`, one character and one call each. Returns the last finish. */
static int32_t force(kvrt_engine engine, kvrt_session s, const char *text, const char *const *stops, said *heard)
{
    kvrt_result result = {.size = sizeof result};
    for (; *text; text++) {
        const char one[2] = {*text, 0};
        kvrt_options *o;
        assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
        kvrt_options_set_f64(o, "sample.temperature", 0, NULL);
        kvrt_options_set_i64(o, "gen.max_tokens", 1, NULL);
        for (int i = 0; stops && stops[i]; i++) kvrt_options_set_text(o, "gen.stop", stops[i], NULL);
        bias(o, token_of_bytes(engine, one), 1000);
        assert_int_equal(kvrt_generate(s, o, listen, heard, &result, NULL), KVRT_OK);
        kvrt_options_destroy(o);
        if (result.finish != KVRT_FINISH_LENGTH) break;
    }
    return result.finish;
}

static void stop_strings_are_found_over_calls(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, NULL);
    static const char *const stops[] = {"sea!and", NULL}, *const two[] = {"ab", "xabc", NULL};
    said heard = {.answer = KVRT_CONTINUE};
    kvrt_session s = session_with_prompt(engine);
    assert_int_equal(force(engine, s, "xsea!anysea!andy", stops, &heard), KVRT_FINISH_STOP);
    assert_string_equal(heard.text, "xsea!any");
    assert_string_equal(heard.rest, "");
    /* After a stop string a text begins anew; what waits is told by DONE, and a rewind forgets it. */
    heard = (said){.answer = KVRT_CONTINUE};
    assert_int_equal(force(engine, s, "ysea!", stops, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "y");
    assert_string_equal(heard.rest, "sea!");
    assert_int_equal(kvrt_session_rewind(s, tokens_of(s).n - 1, NULL), KVRT_OK);
    assert_int_equal(force(engine, s, "and", stops, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "yand");
    /* What waits may match other stop strings of a later call; what is out may not. */
    assert_int_equal(force(engine, s, "zxab", (const char *const[]){"xabd", NULL}, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "yandz");
    assert_int_equal(force(engine, s, "c", (const char *const[]){"zx", "abc", NULL}, &heard), KVRT_FINISH_STOP);
    assert_string_equal(heard.text, "yandzx");
    /* A shorter match that waits for a longer one: DONE has the text before it. */
    heard = (said){.answer = KVRT_CONTINUE};
    assert_int_equal(force(engine, s, "oxab", two, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "o");
    assert_string_equal(heard.rest, "x");
    assert_int_equal(force(engine, s, "c", two, &heard), KVRT_FINISH_STOP);
    assert_string_equal(heard.text, "o");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* ------------------------------------------------------------------------------------------------------- reasoning --- */
/* The golden tokenizer has single characters only: marks are given to the engine as a folder's template or vocabulary would. */
static void set_marks(kvrt_engine engine, kvi_marks marks)
{
    kvi_engine *e;
    assert_int_equal(kvi_engine_enter(engine, KVI_DRIVE, &e, NULL), KVRT_OK);
    e->marks = marks;
    kvi_engine_leave(e, KVI_DRIVE);
}

static void set_channels(kvrt_engine engine, kvi_channels channels)
{
    kvi_engine *e;
    assert_int_equal(kvi_engine_enter(engine, KVI_DRIVE, &e, NULL), KVRT_OK);
    e->marks = (kvi_marks){0};
    e->channels = channels;
    kvi_engine_leave(e, KVI_DRIVE);
}

static void sync_text(kvrt_engine engine, kvrt_session s, const char *text)
{
    ids all = {0};
    assert_int_equal(kvrt_tokenize(engine, text, -1, 0, all.id, MOST, &all.n, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_rewind(s, 0, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, all.id, all.n, NULL, NULL), KVRT_OK);
}

static void marks_in_the_bytes_make_sections(void **state)
{
    (void)state;
    static const char *const stops[] = {"b<t", "END", NULL};
    kvrt_engine engine = golden_open(&model, NULL);
    kvrt_session s = session_with_prompt(engine);
    said heard = {.answer = KVRT_CONTINUE};
    set_marks(engine, (kvi_marks){"<think>", "</think>", -1, -1});
    /* Cut into single characters, over as many calls; what only begins like a mark is text; the wrong mark is text too. */
    assert_int_equal(force(engine, s, "a<thin<think>b</thin<think></think>c</think>d<th", NULL, &heard),
                     KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "a<thinc</think>d");
    assert_string_equal(heard.reasoning, "b</thin<think>");
    assert_string_equal(heard.rest, "<th");
    /* A prompt that ends with the mark begins inside; one that only has it somewhere does not. */
    heard = (said){.answer = KVRT_CONTINUE};
    sync_text(engine, s, "hi<think>");
    assert_int_equal(force(engine, s, "b</think>c", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.reasoning, "b");
    assert_string_equal(heard.text, "c");
    heard = (said){.answer = KVRT_CONTINUE};
    sync_text(engine, s, "hi<think>x");
    assert_int_equal(force(engine, s, "b<think>cEND", stops, &heard),
                     KVRT_FINISH_STOP); /* no stop string across a mark */
    assert_string_equal(heard.text, "b");
    assert_string_equal(heard.reasoning, "c");
    /* A model without marks, and the option that turns sections off: text. */
    heard = (said){.answer = KVRT_CONTINUE};
    set_marks(engine, (kvi_marks){0});
    sync_text(engine, s, "hi<think>");
    assert_int_equal(force(engine, s, "b</think>c", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "b</think>c");
    assert_string_equal(heard.reasoning, "");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    engine = golden_open(&model, (const char *const[]){"gen.reasoning", "false", NULL});
    set_marks(engine, (kvi_marks){"<think>", "</think>", -1, -1});
    s = session_with_prompt(engine);
    heard = (said){.answer = KVRT_CONTINUE};
    assert_int_equal(force(engine, s, "<think>b</think>c", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "<think>b</think>c");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* Messages with headers, as gpt-oss writes them: { start, [ channel, ] message, } end. */
static void channels_make_sections(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, NULL);
    kvrt_session s = session_with_prompt(engine);
    said heard = {.answer = KVRT_CONTINUE};
    set_channels(engine, (kvi_channels){true, token_of_bytes(engine, "{"), token_of_bytes(engine, "["),
                                        token_of_bytes(engine, "]"), token_of_bytes(engine, "}")});
    sync_text(engine, s, "{user]hi}{assistant"); /* where templates leave off: inside a header */
    assert_int_equal(force(engine, s, "[analysis]think}{assistant[final]say", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.reasoning, "think");
    assert_string_equal(heard.text, "say");
    /* In the midst of a message the tokens tell which it is. */
    heard = (said){.answer = KVRT_CONTINUE};
    sync_text(engine, s, "{user]hi}{assistant[analysis]thi");
    assert_int_equal(force(engine, s, "nk}{assistant[final]say", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.reasoning, "nk");
    assert_string_equal(heard.text, "say");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    engine = golden_open(&model, (const char *const[]){"gen.reasoning", "false", NULL});
    set_channels(engine, (kvi_channels){true, token_of_bytes(engine, "{"), token_of_bytes(engine, "["),
                                        token_of_bytes(engine, "]"), token_of_bytes(engine, "}")});
    s = session_with_prompt(engine);
    heard = (said){.answer = KVRT_CONTINUE};
    sync_text(engine, s, "{assistant");
    assert_int_equal(force(engine, s, "[analysis]a", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "[analysis]a"); /* marks here are letters; in models they are special and vanish */
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void marks_that_are_tokens_make_sections(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, NULL);
    kvrt_session s = session_with_prompt(engine);
    said heard = {.answer = KVRT_CONTINUE};
    set_marks(engine, (kvi_marks){"<think>", "</think>", token_of_bytes(engine, "{"), token_of_bytes(engine, "}")});
    sync_text(engine, s, "hi");
    assert_int_equal(force(engine, s, "a{b}c<think>d", NULL, &heard), KVRT_FINISH_LENGTH); /* spelled out: no mark */
    assert_string_equal(heard.text, "ac<think>d");
    assert_string_equal(heard.reasoning, "b");
    /* The last mark of the tokens decides where a text begins. */
    heard = (said){.answer = KVRT_CONTINUE};
    sync_text(engine, s, "q{x}y{z");
    assert_int_equal(force(engine, s, "b}c", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.reasoning, "b");
    assert_string_equal(heard.text, "c");
    heard = (said){.answer = KVRT_CONTINUE};
    sync_text(engine, s, "q{x}y");
    assert_int_equal(force(engine, s, "b", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "b");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* A section does not reach over the end of a turn. */
static void an_end_of_text_ends_a_section(void **state)
{
    (void)state;
    const int32_t eos = 1; /* of the golden models */
    kvrt_engine engine = golden_open(&model, NULL);
    kvrt_session s = session_with_prompt(engine);
    said heard = {.answer = KVRT_CONTINUE};
    ids all = {0};
    set_marks(engine, (kvi_marks){"<think>", "</think>", token_of_bytes(engine, "{"), token_of_bytes(engine, "}")});
    all.id[0] = token_of_bytes(engine, "{"), all.id[1] = eos, all.id[2] = token_of_bytes(engine, "a"), all.n = 3;
    assert_int_equal(kvrt_session_sync(s, all.id, all.n, NULL, NULL), KVRT_OK);
    assert_int_equal(force(engine, s, "b", NULL, &heard), KVRT_FINISH_LENGTH);
    assert_string_equal(heard.text, "b");
    assert_string_equal(heard.reasoning, "");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* How much of a prompt was there already: all but its last token, which is always computed alone. */
static void only_the_last_token_is_computed_again(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(
        &model, (const char *const[]){"ctx.size", "64", "gen.ignore_eos", "true", "gen.max_tokens", "2", NULL});
    kvrt_session s = session_with_prompt(engine);
    kvrt_result result = {.size = sizeof result};
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, &result, NULL), KVRT_OK);
    assert_int_equal(result.n_prompt, 5);
    assert_int_equal(result.n_reused, 0);
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, &result, NULL), KVRT_OK);
    assert_int_equal(result.n_prompt, 7);
    assert_int_equal(result.n_reused, 6);
    assert_int_equal(kvrt_session_rewind(s, 5, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, &result, NULL), KVRT_OK);
    assert_int_equal(result.n_reused, 4);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static bool ran(kvrt_engine engine, const char *op)
{
    kvrt_op_time time = {.size = sizeof time};
    for (uint32_t i = 0; kvrt_measure_op_at(engine, i, &time, NULL) == KVRT_OK; i++)
        if (strcmp(time.op, op) == 0 && time.calls) return true;
    return false;
}

/* The head, of a small model its largest matrix, is for logits alone. */
static void no_logits_no_head(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, (const char *const[]){"ctx.size", "64", NULL});
    kvrt_session s;
    float *logits = malloc(model.vocab * sizeof *logits);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_measure_ops(engine, 1, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(s, prompt, 5, NULL, 0, NULL, NULL), KVRT_OK);
    assert_true(ran(engine, "attention"));
    assert_false(ran(engine, "head"));
    assert_int_equal(kvrt_session_eval(s, prompt, 5, NULL, 1, logits, NULL), KVRT_OK);
    assert_true(ran(engine, "head"));
    free(logits);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void biases_are_of_whole_ids(void **state)
{
    (void)state;
    static const char *const wrong[] = {"1.5=2", "-1=2",  "4294967297=1", "=1",  "5",
                                        "5=",    "5=inf", "x=1",          "96=1"}; /* 96 tokens */
    kvrt_engine engine = golden_open(&model, (const char *const[]){"ctx.size", "64", "gen.max_tokens", "1", NULL});
    kvrt_session s = session_with_prompt(engine);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        kvrt_error error = {.size = sizeof error};
        kvrt_options *o;
        kvrt_options_create(&o, NULL);
        kvrt_options_set_text(o, "sample.logit_bias", wrong[i], NULL);
        if (kvrt_generate(s, o, NULL, NULL, NULL, &error) != KVRT_ARG)
            fail_msg("sample.logit_bias=%s is accepted", wrong[i]);
        assert_non_null(strstr(error.message, "bias"));
        kvrt_options_destroy(o);
    }
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* ---------------------------------------------------------------------------------------------------- log probability --- */
static int32_t keep_logprob(const kvrt_event *event, void *user)
{
    if (event->type == KVRT_EVENT_TOKEN) *(float *)user = event->logprob;
    return KVRT_CONTINUE;
}

/* Of the raw logits, whatever penalties and biases made of them. */
static void logprob_is_of_the_raw_logits(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, NULL);
    float *logits = malloc(model.vocab * sizeof *logits), logprob = 1;
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(s, prompt, 5, NULL, 1, logits, NULL), KVRT_OK);
    kvrt_session_close(s, NULL);
    double sum = 0;
    for (uint32_t i = 0; i < model.vocab; i++) sum += exp((double)logits[i]);
    for (int round = 0; round < 3; round++) {
        const int32_t id = round ? 30 : -1; /* a token of the prompt, so that penalties touch it */
        kvrt_options *o;
        kvrt_options_create(&o, NULL);
        kvrt_options_set_bool(o, "gen.token_events", 1, NULL);
        kvrt_options_set_i64(o, "gen.max_tokens", 1, NULL);
        kvrt_options_set_f64(o, "sample.temperature", round == 2 ? 0.5 : 0, NULL);
        if (round) kvrt_options_set_f64(o, "sample.repeat_penalty", 3, NULL), bias(o, id, 1000);
        s = session_with_prompt(engine);
        assert_int_equal(kvrt_generate(s, o, keep_logprob, &logprob, NULL, NULL), KVRT_OK);
        const ids got = tokens_of(s);
        if (round) assert_int_equal(got.id[5], id);
        const double want = (double)logits[got.id[5]] - log(sum);
        if (!(fabs((double)logprob - want) <= 1e-4)) fail_msg("round %d: %g, need %g", round, (double)logprob, want);
        kvrt_options_destroy(o);
        kvrt_session_close(s, NULL);
    }
    free(logits);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* Pages are encoded between steps, so what a row sees depends on where steps end: at multiples of ctx.chunk, whatever was cached before. */
static void steps_end_where_a_new_session_ends_them(void **state)
{
    (void)state;
    kvrt_engine engine =
        golden_open(&model, (const char *const[]){"ctx.size", "320", "ctx.chunk", "64", "kv.format", "k2v2", "kv.tail",
                                                  "0", "ctx.sessions", "2", "gen.max_tokens", "1", "gen.token_events",
                                                  "true", "sample.temperature", "0", NULL});
    int32_t text[300];
    float logprob[2] = {1, 2};
    for (int i = 0; i < 300; i++) text[i] = 2 + i * 7 % 90;
    for (int k = 0; k < 2; k++) {
        kvrt_session s;
        assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
        if (k) assert_int_equal(kvrt_session_eval(s, text, 100, NULL, 0, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_sync(s, text, 300, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(s, NULL, keep_logprob, &logprob[k], NULL, NULL), KVRT_OK);
    }
    assert_memory_equal(&logprob[0], &logprob[1], sizeof logprob[0]);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* --------------------------------------------------------------------------------------------------------- options --- */
/* Every option of a wider scope is refused by name with another value, and taken with its owner's. */
static void options_that_cannot_vary_are_refused_by_name(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, (const char *const[]){"ctx.size", "64", NULL});
    kvrt_session s = session_with_prompt(engine), t;
    unsigned refused = 0;
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        kvrt_option_info info = {.size = sizeof info};
        kvrt_error error = {.size = sizeof error};
        kvrt_options *o;
        kvrt_option_at(i, &info, NULL);
        assert_true(info.scope >= KVRT_SCOPE_ENGINE && info.scope <= KVRT_SCOPE_CALL);
        if (info.type == KVRT_OPTION_LIST || info.type == KVRT_OPTION_F64)
            assert_int_equal(info.scope, KVRT_SCOPE_CALL);
        const bool of_call = strncmp(info.key, "gen.", 4) == 0 || strncmp(info.key, "sample.", 7) == 0;
        if (of_call) assert_int_equal(info.scope, KVRT_SCOPE_CALL);
        if (info.scope == KVRT_SCOPE_CALL) continue;
        kvrt_options_create(&o, NULL);
        if (info.type == KVRT_OPTION_BOOL) {
            int32_t now;
            kvrt_options_get_bool(o, info.key, &now, NULL);
            const bool opened = strcmp(info.key, "cpu.exact") == 0 ? !now : now; /* golden_open says so */
            kvrt_options_set_bool(o, info.key, !opened, NULL);
        } else if (info.type == KVRT_OPTION_CHOICE) { /* the last choice, or the one before */
            const char *last = strrchr(info.range, '|') + 1;
            char first[32] = "";
            memcpy(first, info.range, strcspn(info.range, "|"));
            const char *now = strcmp(info.key, "device.backend") == 0 ? "cpu" : info.defaults;
            assert_int_equal(kvrt_options_set_text(o, info.key, strcmp(last, now) ? last : first, NULL), KVRT_OK);
        } else if (info.type == KVRT_OPTION_STRING)
            kvrt_options_set_text(o, info.key, strcmp(info.key, "kv.format") ? "other" : "f16", NULL);
        else assert_int_equal(kvrt_options_set_i64(o, info.key, 33, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, &error), KVRT_ARG);
        if (!strstr(error.message, info.key)) fail_msg("%s: \"%s\"", info.key, error.message);
        if (info.scope == KVRT_SCOPE_ENGINE) {
            error.message[0] = 0;
            assert_int_equal(kvrt_session_create(engine, o, &t, &error), KVRT_ARG);
            if (!strstr(error.message, info.key)) fail_msg("%s: \"%s\"", info.key, error.message);
        }
        kvrt_options_destroy(o);
        refused++;
    }
    assert_true(refused > 20);
    /* The same values again are no change. */
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_text(o, "model.path", model.dir, NULL);
    kvrt_options_set_text(o, "kv.range", "unbiased", NULL);
    kvrt_options_set_i64(o, "ctx.size", 64, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", 2, NULL);
    assert_int_equal(kvrt_session_create(engine, o, &t, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, NULL), KVRT_OK);
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static int setup(void **state)
{
    (void)state;
    return golden_load("llama_gqa2", &model) ? 0 : -1;
}
static int teardown(void **state)
{
    (void)state;
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_given_seed_goes_on_over_calls),
                                       cmocka_unit_test(without_a_seed_every_text_is_new_and_can_be_repeated),
                                       cmocka_unit_test(multibyte_text_is_the_same_in_any_calls),
                                       cmocka_unit_test(stop_strings_are_found_over_calls),
                                       cmocka_unit_test(marks_in_the_bytes_make_sections),
                                       cmocka_unit_test(channels_make_sections),
                                       cmocka_unit_test(marks_that_are_tokens_make_sections),
                                       cmocka_unit_test(an_end_of_text_ends_a_section),
                                       cmocka_unit_test(only_the_last_token_is_computed_again),
                                       cmocka_unit_test(no_logits_no_head),
                                       cmocka_unit_test(biases_are_of_whole_ids),
                                       cmocka_unit_test(steps_end_where_a_new_session_ends_them),
                                       cmocka_unit_test(logprob_is_of_the_raw_logits),
                                       cmocka_unit_test(options_that_cannot_vary_are_refused_by_name)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
