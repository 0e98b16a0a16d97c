/* test_cuts.c - operations that are run in pieces (backend.h, run_some): wherever one is cut, and however often, the logits are to the bit those of
 * whole operations. Models whose layers are mixtures of experts, have a state, or a latent instead of keys and values; numbers and integers. */
#include "golden_model.h"
#include "../../runtime/engine/drive.h"
#include "../../runtime/engine/seat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { VOCAB = 512, WIDE = 21, NARROW = 3, ROWS = WIDE + NARROW + 1, MOST_CUTS = 2000 };

static golden_model model;
static kvi_backend pieces;
static const kvi_program *program;
static struct {
    uint32_t first, then;                 /* rounds of the first piece of an operation, of the others */
    uint32_t longest;                     /* rounds of the longest operation */
    uint32_t n_rounds[KVI_OP_KIND_COUNT]; /* most of one of that kind */
} cuts;

static kvrt_status run_pieces(kvi_device *device, uint32_t first, uint32_t n, kvrt_error *error)
{
    for (uint32_t op = first; op < first + n; op++) {
        const kvi_op_kind kind = program->ops[op].kind;
        uint32_t done = 0, n_run;
        for (bool over = false; !over; done += n_run) {
            const kvrt_status status =
                kvi_backend_cpu.run_some(device, op, done, done ? cuts.then : cuts.first, &n_run, &over, error);
            if (status < KVRT_OK) return status;
            assert_in_range(n_run, 1, done ? cuts.then : cuts.first);
        }
        if (done > cuts.longest) cuts.longest = done;
        if (done > cuts.n_rounds[kind]) cuts.n_rounds[kind] = done;
    }
    return KVRT_OK;
}

static kvi_engine *inside(kvrt_engine handle)
{
    kvi_engine *e;
    assert_int_equal(kvi_engine_enter(handle, KVI_LOOK, &e, NULL), KVRT_OK);
    kvi_engine_leave(e, KVI_LOOK);
    return e;
}

static int32_t token(uint32_t pos) { return (int32_t)(2 + (pos * 31 + pos / 90 * 7) % 90); }

static void eval(kvrt_session s, uint32_t from, uint32_t n, float *logits)
{
    kvrt_error error = {.size = sizeof error};
    int32_t ids[WIDE];
    uint32_t rows[WIDE];
    for (uint32_t i = 0; i < n; i++) ids[i] = token(from + i), rows[i] = i;
    if (kvrt_session_eval(s, ids, n, rows, n, logits, &error) < KVRT_OK) fail_msg("%s", error.message);
}

/* A text of `past` tokens computed whole; behind it a wide step, a narrow one and one of a token, whole or in pieces. */
static void compute(kvrt_engine engine, uint32_t past, bool in_pieces, float *logits)
{
    static int32_t ids[4096];
    kvi_engine *e = inside(engine);
    kvrt_session s = golden_session(engine);
    for (uint32_t i = 0; i < past; i++) ids[i] = token(i);
    assert_int_equal(kvrt_session_sync(s, ids, past, NULL, NULL), KVRT_OK);
    eval(s, past, 1, logits); /* computes the text too */
    if (in_pieces) e->backend = &pieces;
    eval(s, past + 1, WIDE, logits);
    eval(s, past + 1 + WIDE, NARROW, logits + (size_t)WIDE * model.vocab);
    eval(s, past + 1 + WIDE + NARROW, 1, logits + (size_t)(WIDE + NARROW) * model.vocab);
    e->backend = &kvi_backend_cpu;
    assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
}

typedef struct cut_case {
    const char *name, *weights, *kv, *exact;
    uint32_t past;
} cut_case;

static void check(const cut_case *c, const char *threads)
{
    static float whole[ROWS * VOCAB], cut[ROWS * VOCAB];
    assert_true(golden_load(c->name, &model) && model.vocab <= VOCAB);
    const char *pairs[] = {"cpu.threads",  threads,        "kv.format", c->kv,      "ctx.chunk",
                           "64",           "ctx.sessions", "2",         "ctx.size", "2000",
                           "weights.type", c->weights,     "cpu.exact", c->exact,   NULL};
    kvrt_engine engine = golden_open(&model, pairs);
    const size_t bytes = (size_t)ROWS * model.vocab * sizeof *whole;
    pieces = kvi_backend_cpu;
    pieces.run = run_pieces;
    program = &inside(engine)->program.program;
    memset(&cuts, 0, sizeof cuts);
    compute(engine, c->past, false, whole);
    /* One, two, three rounds at a time; then one cut, behind every round that there is. */
    for (uint32_t first = 1, then = 1; first <= 3 || first - 3 < cuts.longest; first++) {
        cuts.first = first <= 3 ? first : first - 3;
        cuts.then = first <= 3 ? first : UINT32_MAX;
        memset(cut, 0xff, bytes);
        compute(engine, c->past, true, cut);
        if (memcmp(whole, cut, bytes) != 0)
            fail_msg("%s, %s, %s, %s threads: in pieces of %u and %u rounds other bits", c->name, c->weights, c->kv,
                     threads, cuts.first, cuts.then);
        then = first;
        assert_true(then < MOST_CUTS);
    }
    /* What computes has more than one round of a thread, but for a few channels. */
    for (uint32_t op = 0; op < program->n_step && *threads == '1'; op++) {
        const kvi_op *o = &program->ops[op];
        const bool one = o->kind == KVI_OP_EMBED || o->kind == KVI_OP_ROPE_APPEND || o->kind == KVI_OP_LATENT_APPEND ||
                         (o->kind == KVI_OP_CONV_STATE && program->buffers[o->in].cols <= 256);
        if (one ? cuts.n_rounds[o->kind] != 1 : cuts.n_rounds[o->kind] < 2)
            fail_msg("%s: %u rounds of %s", c->name, cuts.n_rounds[o->kind], kvi_op_name(o->kind));
    }
    kvrt_engine_close(engine, NULL);
    golden_free(&model);
}

static void a_cut_anywhere_changes_nothing(void **state)
{
    static const cut_case cases[] = {
        {"llama_gqa2", "auto", "k4v4", "false", 300},     {"qwen3_moe", "auto", "k4v4", "true", 300},
        {"qwen3_moe_d64", "i4", "f16", "false", 300},     {"qwen3_moe_d64", "i8", "f16", "false", 140},
        {"gpt_oss", "auto", "f16", "true", 300},          {"gpt_oss_mxfp4_d64", "auto", "k4v4", "false", 140},
        {"gemma4_moe", "auto", "f16", "true", 140},       {"glm4_moe", "auto", "f16", "true", 140},
        {"granite4", "auto", "f16", "true", 300},         {"qwen3_next", "auto", "k4v4", "true", 300},
        {"qwen3_5_moe_d64", "auto", "f16", "false", 140}, {"deepseek_v2", "auto", "f16", "true", 300},
        {"deepseek_v3", "auto", "f16", "true", 1200},     {"glm4_moe_lite", "auto", "k4v4", "false", 1200},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i], "1");
    for (unsigned i = 1; i < sizeof cases / sizeof *cases; i += 2) check(&cases[i], "3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_cut_anywhere_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
