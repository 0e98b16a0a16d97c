/* test_same_bits.c - rule 8 of kvrt.h: what bits depend on, and what they do not. Generating again from a prompt, narrow rows one by one or
 * together, wide rows in any steps, a session that went further and came back against a fresh one, and the host's mode of arithmetic. Every
 * comparison is of all bits of the logits of a token that is appended at the end, which sees everything before it. */
#include "golden_model.h"
#include "../../runtime/base/os.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { MOST = 5000, VOCAB = 4096, TAIL = 128 };
static golden_model model;
static const char *weights = "auto"; /* i8: prompts and their last token in one step */

typedef struct setting {
    const char *kv, *isa, *amx, *chunk;
} setting;

static int32_t token(uint32_t pos) { return (int32_t)(2 + (pos * 31 + pos / 90 * 7) % 90); }

static kvrt_engine open_with(const setting *set, const char *ctx)
{
    const char *const pairs[] = {GOLDEN_WEIGHTS(weights),
                                 "cpu.threads",
                                 "1",
                                 "kv.format",
                                 set->kv,
                                 "cpu.isa",
                                 set->isa,
                                 "cpu.amx",
                                 set->amx,
                                 "ctx.chunk",
                                 set->chunk,
                                 "ctx.size",
                                 ctx,
                                 "ctx.sessions",
                                 "2",
                                 NULL};
    return golden_open(&model, pairs);
}

static kvrt_session session_on(kvrt_engine engine)
{
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    return s;
}

static void sync_to(kvrt_session s, uint32_t n)
{
    static int32_t ids[MOST];
    for (uint32_t i = 0; i < n; i++) ids[i] = token(i);
    assert_int_equal(kvrt_session_sync(s, ids, n, NULL, NULL), KVRT_OK);
}

/* n tokens from where the session is, computed `step` at a time; the logits of all of them, or none. */
static void feed(kvrt_session s, uint32_t from, uint32_t n, uint32_t step, float *logits)
{
    kvrt_error error = {.size = sizeof error};
    for (uint32_t at = 0, k; at < n; at += k) {
        int32_t ids[1024];
        uint32_t rows[1024];
        k = n - at < step ? n - at : step;
        for (uint32_t i = 0; i < k; i++) ids[i] = token(from + at + i), rows[i] = i;
        if (kvrt_session_eval(s, ids, k, rows, logits ? k : 0, logits ? logits + (size_t)at * model.vocab : NULL,
                              &error) < KVRT_OK)
            fail_msg("%s", error.message);
    }
}

static void generate(kvrt_session s, uint32_t n, int64_t seed)
{
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_bool(o, "gen.ignore_eos", 1, NULL);
    kvrt_options_set_f64(o, "sample.temperature", 1, NULL);
    kvrt_options_set_i64(o, "sample.seed", seed, NULL);
    if (kvrt_generate(s, o, NULL, NULL, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
}

/* What a session is: its tokens, and the logits after one more. */
typedef struct state {
    int32_t ids[MOST];
    uint64_t n;
    float logits[VOCAB];
} state;
static void look(kvrt_session s, state *out)
{
    const int32_t id = 7;
    memset(out, 0, sizeof *out);
    assert_int_equal(kvrt_session_tokens(s, out->ids, MOST, &out->n, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(s, &id, 1, NULL, 1, out->logits, NULL), KVRT_OK);
}
static bool same(const state *a, const state *b) { return memcmp(a, b, sizeof *a) == 0; }

/* Instruction sets that this machine has; the last one with AMX where it is there. */
static unsigned settings(const char *kv, const char *chunk, setting out[4])
{
    kvi_cpu cpu;
    unsigned n = 0;
    kvi_os_cpu(&cpu);
    out[n++] = (setting){kv, "portable", "false", chunk};
    if (cpu.avx2 && cpu.fma) out[n++] = (setting){kv, "avx2", "false", chunk};
    if (cpu.avx512) out[n++] = (setting){kv, "avx512", "false", chunk};
    if (*weights == 'i') { /* in integers: the best one that mixes forms */
        out[0] = out[n - 1];
        return 1;
    }
    if (cpu.amx_bf16) out[n++] = (setting){kv, "auto", "true", chunk};
    return n;
}
#define NAMES "%s, %s, amx %s, chunk %s: "
#define NAMES_OF(s) (s)->kv, (s)->isa, (s)->amx, (s)->chunk

/* ----------------------------------------------------------------------------------------------------- generating --- */
static const char *const formats[] = {"f16", "i8", "k4v4", "k4v2", "elastic"};

enum { N_FORMATS = 5 };

/* Around the edges of pages, of chunks, of the limit between the forms, and of where a page is encoded (multiples of 128 from 384 on). */
static const uint32_t lengths[] = {1,   2,   3,   8,   9,   10,  16,  55,  63,  64,  65,  72,  73,  127,
                                   128, 129, 137, 191, 192, 193, 200, 255, 256, 257, 265, 319, 367, 372,
                                   380, 383, 384, 385, 393, 394, 449, 511, 512, 513, 514, 521, 522, 530,
                                   575, 576, 577, 639, 640, 641, 642, 650, 700, 768, 769, 778};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

static void regenerate_from(kvrt_engine engine, const setting *set, uint32_t len, uint32_t answer)
{
    static state want, got;
    kvrt_session s = session_on(engine);
    sync_to(s, len);
    generate(s, answer, 7);
    look(s, &want);
    for (unsigned again = 0; again < 2; again++) {
        if (again) assert_int_equal(kvrt_session_rewind(s, len, NULL), KVRT_OK);
        else sync_to(s, len);
        generate(s, 1, 8); /* another seed in between begins the stream of the first anew */
        assert_int_equal(kvrt_session_rewind(s, len, NULL), KVRT_OK);
        generate(s, answer, 7);
        look(s, &got);
        if (!same(&want, &got))
            fail_msg(NAMES "prompt of %u, answer of %u, %s: another text or other logits", NAMES_OF(set), len, answer,
                     again ? "rewind" : "sync");
    }
    kvrt_session_close(s, NULL);
}

/* The same text again, after a sync to the prompt and after a rewind; answers that end before a page is encoded, and long after. */
static void regenerate(void **unused)
{
    for (unsigned f = 0; f < N_FORMATS; f++)
        for (unsigned c = 0; c < 2; c++) {
            setting sets[4];
            const unsigned n = settings(formats[f], c ? "512" : "64", sets);
            for (unsigned i = f == 2 ? 0 : n - 1; i < n; i++) {
                kvrt_engine engine = open_with(&sets[i], "4000");
                for (unsigned l = c; l < N_LENGTHS; l += 2)
                    regenerate_from(engine, &sets[i], lengths[l], l % 10 < 2 ? 420 : 12);
                kvrt_engine_close(engine, NULL);
            }
        }
}

/* Evaluating the prompt before, in one call or by sync, does not matter to the text. */
static void evaluate_then_generate(void **unused)
{
    static state want, got;
    for (unsigned f = 0; f < N_FORMATS; f++) {
        setting sets[4];
        const setting *set = &sets[settings(formats[f], "64", sets) - 1];
        kvrt_engine engine = open_with(set, "1200");
        for (unsigned l = 4; l < N_LENGTHS; l += 2) {
            kvrt_session a = session_on(engine), b = session_on(engine);
            sync_to(a, lengths[l]);
            feed(b, 0, lengths[l], 1024, NULL);
            generate(a, 9, 3), generate(b, 9, 3);
            look(a, &want), look(b, &got);
            if (!same(&want, &got)) fail_msg(NAMES "prompt of %u: eval is not sync", NAMES_OF(set), lengths[l]);
            kvrt_session_close(a, NULL), kvrt_session_close(b, NULL);
        }
        kvrt_engine_close(engine, NULL);
    }
}

/* ---------------------------------------------------------------------------------------------------- the two forms --- */
/* Up to eight rows at once are what they are one by one: at page edges, where a page is encoded, where a long context is split anew. */
static void narrow_rows_together(void **unused)
{
    static const uint32_t starts[] = {1, 60, 124, 252, 380, 381, 509, 636, 1020, 4090};
    float *one = malloc(8 * (size_t)model.vocab * sizeof *one), *many = malloc(8 * (size_t)model.vocab * sizeof *many);
    for (unsigned f = 0; f < N_FORMATS; f++) {
        setting sets[4];
        const unsigned n = settings(formats[f], "512", sets);
        for (unsigned i = f == 2 ? 0 : n - 1; i < n; i++) {
            kvrt_engine engine = open_with(&sets[i], "4200");
            for (unsigned l = 0; l < 10; l++) {
                if ((starts[l] > 600 && i + 1 < n) || (starts[l] > 4000 && f)) continue; /* prompts that take seconds */
                kvrt_session a = session_on(engine);
                sync_to(a, starts[l]);
                feed(a, starts[l], 8, 1, one);
                for (uint32_t step = 2; step <= 8; step += 3) {
                    assert_int_equal(kvrt_session_rewind(a, starts[l], NULL), KVRT_OK);
                    feed(a, starts[l], 8, step, many);
                    if (memcmp(one, many, 8 * (size_t)model.vocab * sizeof *one))
                        fail_msg(NAMES "8 rows from %u, %u at once: not as alone", NAMES_OF(&sets[i]), starts[l], step);
                }
                kvrt_session_close(a, NULL);
            }
            kvrt_engine_close(engine, NULL);
        }
    }
    free(one), free(many);
}

/* A prompt in any chunks, f16; and of any format in pieces that end where a chunk does. */
static void wide_rows_in_any_steps(void **unused)
{
    static state want, got;
    static const char *const chunks[] = {"512", "64", "17", "9", "8", "3"};
    setting sets[4];
    for (unsigned i = settings("f16", chunks[0], sets); i-- > 0;)
        for (unsigned l = 3; l < N_LENGTHS; l += 5)
            for (unsigned c = 0; c < 6; c++) {
                setting set = sets[i];
                set.chunk = chunks[c];
                kvrt_engine engine = open_with(&set, "1200");
                kvrt_session s = session_on(engine);
                sync_to(s, lengths[l]);
                look(s, c ? &got : &want);
                if (c && !same(&want, &got))
                    fail_msg(NAMES "prompt of %u: the chunk shows", NAMES_OF(&set), lengths[l]);
                kvrt_engine_close(engine, NULL);
            }
    for (unsigned f = 0; f < N_FORMATS; f++) {
        const unsigned n = settings(formats[f], "64", sets);
        kvrt_engine engine = open_with(&sets[n - 1], "1200");
        for (unsigned piece = 1; piece <= 8; piece *= 2) {
            kvrt_session s = session_on(engine);
            feed(s, 0, 1024, 64 * piece, NULL);
            look(s, piece > 1 ? &got : &want);
            if (piece > 1 && !same(&want, &got)) fail_msg(NAMES "pieces of %u", NAMES_OF(&sets[n - 1]), 64 * piece);
            kvrt_session_close(s, NULL);
        }
        kvrt_engine_close(engine, NULL);
    }
}

/* --------------------------------------------------------------------------------------------------------- rewinding --- */
/* True when a page is encoded on the way from n to more positions. */
static bool encodes(uint32_t n, uint32_t more)
{
    for (uint32_t due = 2 * 128 + TAIL; due <= more; due += 128)
        if (due > n) return true;
    return false;
}

/* A session that read a longer prompt and came back is a fresh one: in f16 always, else as long as no page was encoded in between. */
static void rewound_is_fresh(void **unused)
{
    static state want, got;
    for (unsigned f = 0; f < N_FORMATS; f++)
        for (unsigned c = 0; c < 2; c++) {
            setting sets[4];
            const setting *set = &sets[settings(formats[f], c ? "512" : "64", sets) - 1];
            kvrt_engine engine = open_with(set, "1600");
            unsigned compared = 0;
            for (unsigned l = c; l < N_LENGTHS; l += 3)
                for (uint32_t more = 1; more <= 300; more += more < 20 ? 6 : 97) {
                    if (f && f < 4 && encodes(lengths[l] - 1, lengths[l] + more)) continue;
                    kvrt_session a = session_on(engine), b = session_on(engine);
                    sync_to(a, lengths[l]);
                    look(a, &want);
                    sync_to(b, lengths[l] + more);
                    look(b, &got);
                    sync_to(b, lengths[l]);
                    look(b, &got);
                    if (!same(&want, &got))
                        fail_msg(NAMES "%u tokens, back from %u: not a fresh session", NAMES_OF(set), lengths[l],
                                 lengths[l] + more);
                    compared++;
                    kvrt_session_close(a, NULL), kvrt_session_close(b, NULL);
                }
            assert_true(compared > 60);
            kvrt_engine_close(engine, NULL);
        }
}

/* Back into an answer: as if it had ended one token later, for the first 127 + kv.tail tokens of it and the formats that encode. */
static void rewound_into_the_answer(void **unused)
{
    static state want, got;
    for (unsigned f = 0; f < N_FORMATS; f++) {
        setting sets[4];
        const setting *set = &sets[settings(formats[f], "512", sets) - 1];
        kvrt_engine engine = open_with(set, "1600");
        for (unsigned l = 0; l < N_LENGTHS; l += 5)
            for (uint32_t keep = 1; keep < 250; keep += 83) {
                kvrt_session a = session_on(engine), b = session_on(engine);
                sync_to(a, lengths[l]), sync_to(b, lengths[l]);
                generate(a, keep + 1, 5); /* the last one is not computed yet */
                assert_int_equal(kvrt_session_rewind(a, lengths[l] + keep, NULL), KVRT_OK);
                generate(b, 127 + TAIL, 5); /* one more, and a page of the answer may be encoded */
                assert_int_equal(kvrt_session_rewind(b, lengths[l] + keep, NULL), KVRT_OK);
                look(a, &want), look(b, &got);
                if (!same(&want, &got))
                    fail_msg(NAMES "prompt of %u, back to token %u of the answer", NAMES_OF(set), lengths[l], keep);
                kvrt_session_close(a, NULL), kvrt_session_close(b, NULL);
            }
        kvrt_engine_close(engine, NULL);
    }
}

/* -------------------------------------------------------------------------------------------------------- arithmetic --- */
#if defined(__x86_64__)
typedef struct host {
    unsigned mode, seen, left;
    double number;
    const setting *set;
    state result;
} host;

static int32_t see_mode(const kvrt_event *event, void *user)
{
    host *h = user;
    if (event->type == KVRT_EVENT_TEXT && _mm_getcsr() != h->mode) h->seen = _mm_getcsr();
    return KVRT_CONTINUE;
}

static void *in_mode(void *arg)
{
    host *h = arg;
    kvrt_options *o;
    _mm_setcsr(h->mode);
    kvrt_engine engine = open_with(h->set, "600");
    kvrt_session s = session_on(engine);
    kvrt_options_create(&o, NULL);
    kvrt_options_set_text(o, "sample.temperature", "0.7", NULL);
    kvrt_options_get_f64(o, "sample.temperature", &h->number, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", 60, NULL);
    kvrt_options_set_i64(o, "sample.seed", 1, NULL);
    sync_to(s, 400);
    assert_int_equal(kvrt_generate(s, o, see_mode, h, NULL, NULL), KVRT_OK);
    look(s, &h->result);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
    h->left = _mm_getcsr();
    return NULL;
}

/* Rounding up, down or to zero, denormal numbers as zero, exceptions that trap: the host keeps its mode, and the bits are the same. */
static void mode_of_the_host(void **unused)
{
    static const unsigned modes[] = {0x1f80, 0x9fc0, 0x5f80, 0x3f80, 0x7f80, 0x0000};
    static host hosts[6];
    for (unsigned f = 0; f < 3; f += 2) {
        setting sets[4];
        const setting *set = &sets[settings(formats[f], "512", sets) - 1];
        for (unsigned i = 0; i < 6; i++) {
            pthread_t thread;
            hosts[i] = (host){.mode = modes[i], .set = set};
            pthread_create(&thread, NULL, in_mode, &hosts[i]);
            pthread_join(thread, NULL);
            assert_int_equal(hosts[i].left, modes[i]);
            assert_int_equal(hosts[i].seen, 0);
            assert_true(hosts[i].number == 0.7);
            if (!same(&hosts[0].result, &hosts[i].result))
                fail_msg(NAMES "MXCSR %04x changes the results", NAMES_OF(set), modes[i]);
        }
    }
}
#else
static void mode_of_the_host(void **unused) { skip(); }
#endif

static int setup(void **unused) { return golden_load("llama_gqa8_d64", &model) && model.vocab <= VOCAB ? 0 : -1; }
static int setup_integers(void **unused)
{
    weights = "i8";
    return 0;
}
static int teardown(void **unused)
{
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regenerate),           cmocka_unit_test(evaluate_then_generate),
        cmocka_unit_test(narrow_rows_together), cmocka_unit_test(wide_rows_in_any_steps),
        cmocka_unit_test(rewound_is_fresh),     cmocka_unit_test(rewound_into_the_answer),
        cmocka_unit_test(mode_of_the_host)};
    const struct CMUnitTest integers[] = {cmocka_unit_test(regenerate), cmocka_unit_test(evaluate_then_generate),
                                          cmocka_unit_test(rewound_is_fresh),
                                          cmocka_unit_test(rewound_into_the_answer)};
    const int n_failed = cmocka_run_group_tests_name("numbers", tests, setup, NULL);
    return n_failed + cmocka_run_group_tests_name("integers", integers, setup_integers, teardown);
}
