/* fuzz_api.c - bytes as a sequence of calls of the API over two engines and three sessions: closed and foreign handles, NULL, wrong sizes, calls from
 * callbacks, cancels, pauses, rewinds, evaluations, forks, snapshots (whole, damaged, of other engines), pages that go away, submitted requests in
 * steps, suspended engines, contexts that drop their middle, failing allocations. What must hold after every call:
 *   - a failure has a code and a message, a success leaves the record alone;
 *   - a session has the tokens that the calls gave it (`shadow`), however they ended, and never more cached than it has;
 *   - a pool holds no more than it is;
 *   - the same prompt and options in a new session give the same tokens as ever before, and again after a rewind;
 *   - when everything is closed, memory is what it was. */
#include "../../runtime/kvrt.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "fuzz_api.c:%d: %s; last error: %s\n", __LINE__, #condition, error.message);               \
            __builtin_trap();                                                                                          \
        }                                                                                                              \
    } while (0)

enum {
    ENGINES = 2,
    SESSIONS = 3,
    MODELS = 3,
    FORMATS = 6,
    MOST_CTX = 400,
    MOST_CALLS = 40,
    VOCAB = 96,
    PROMPTS = 4,
    SAMPLES = 6
};
static const char *const models[MODELS] = {"llama_gqa2", "mistral_window", "qwen3"};
static const char *const formats[FORMATS] = {"f16", "k4v4", "i8", "f32", "k2v2", "elastic"};

typedef struct engine_slot {
    kvrt_engine handle; /* kept after close */
    int open, model, format, memo, suspended;
} engine_slot;
typedef struct session_slot {
    kvrt_session handle;
    int open, engine;
    uint32_t n, ctx;
    int32_t tokens[MOST_CTX]; /* the shadow */
    int submitted;            /* a request may be running: tokens may have followed */
} session_slot;

static const uint8_t *input, *input_end;
static engine_slot engines[ENGINES];
static session_slot sessions[SESSIONS];
static kvrt_error error; /* of the last call */
static kvrt_options *options;
static uint8_t saved[1 << 20]; /* the last snapshot, and its tokens */
static uint64_t n_saved;
static session_slot of_saved;
static uint32_t failing; /* this allocation of a call, counted from 1; 0: none */
/* Tokens that a prompt was answered with, for every way of opening; -1: not yet. */
static int32_t memo[MODELS * FORMATS * 4][PROMPTS][2][SAMPLES];

static uint32_t byte(void) { return input < input_end ? *input++ : 0; }
static uint32_t below(uint32_t n) { return byte() % n; }

static kvrt_status told(kvrt_status status)
{
    kvrt_debug_fail_alloc(0);
    CHECK(error.code == (status < KVRT_OK ? status : 0) && (error.message[0] != 0) == (status < KVRT_OK));
    return status;
}
#define TOLD(call) (error = (kvrt_error){.size = sizeof error}, kvrt_debug_fail_alloc(failing), told(call))

/* ------------------------------------------------------------------------------------------------------- engines --- */
static void open_engine(engine_slot *slot)
{
    static const char *const contexts[] = {"200", "400"}, *const chunks[] = {"16", "512"};
    char path[512];
    if (slot->open) return;
    slot->model = (int)below(MODELS), slot->format = (int)below(FORMATS);
    const uint32_t ctx = below(2), chunk = below(2);
    slot->memo = (slot->model * FORMATS + slot->format) * 4 + (int)(ctx * 2 + chunk);
    snprintf(path, sizeof path, "%s/golden/models/%s", KVRT_TEST_DIR, models[slot->model]);
    kvrt_options *o;
    CHECK(kvrt_options_create(&o, NULL) == KVRT_OK);
    const char *const pairs[] = {"model.path",
                                 path,
                                 "device.backend",
                                 "cpu",
                                 "cpu.threads",
                                 "1",
                                 "mem.limit",
                                 "32MiB",
                                 "kv.format",
                                 formats[slot->format],
                                 "ctx.size",
                                 contexts[ctx],
                                 "ctx.chunk",
                                 chunks[chunk],
                                 "kv.tail",
                                 "0",
                                 "ctx.sessions",
                                 below(2) ? "1" : "3",
                                 "kv.spill",
                                 below(2) ? "memory" : "",
                                 "gen.max_tokens",
                                 "6",
                                 "sample.temperature",
                                 "0"};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i += 2)
        CHECK(kvrt_options_set_text(o, pairs[i], pairs[i + 1], NULL) == KVRT_OK);
    const kvrt_status status = TOLD(kvrt_engine_open(o, NULL, NULL, &slot->handle, &error));
    kvrt_options_destroy(o);
    CHECK(status == KVRT_OK || status == KVRT_NOMEM_HOST); /* an allocation may be told to fail */
    slot->open = status == KVRT_OK;
    slot->suspended = 0;
}

static void close_engine(engine_slot *slot)
{
    const kvrt_status status = TOLD(kvrt_engine_close(slot->handle, &error));
    CHECK(status == (slot->open ? KVRT_OK : KVRT_HANDLE));
    slot->open = 0;
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].open && &engines[sessions[i].engine] == slot) sessions[i].open = 0;
}

/* ------------------------------------------------------------------------------------------------------ sessions --- */
static void create_session(session_slot *slot)
{
    kvrt_session_info info = {.size = sizeof info};
    if (slot->open) return;
    slot->engine = (int)below(ENGINES);
    const kvrt_status status =
        TOLD(kvrt_session_create(engines[slot->engine].handle, below(4) ? NULL : options, &slot->handle, &error));
    slot->open = status == KVRT_OK;
    slot->n = 0;
    slot->submitted = 0;
    if (!slot->open) return;
    CHECK(engines[slot->engine].open && kvrt_session_get_info(slot->handle, &info, NULL) == KVRT_OK);
    slot->ctx = info.ctx_size;
}

static void close_session(session_slot *slot)
{
    CHECK(TOLD(kvrt_session_close(slot->handle, &error)) == (slot->open ? KVRT_OK : KVRT_HANDLE));
    slot->open = 0;
}

static uint64_t dropped(const session_slot *slot)
{
    kvrt_session_info info = {.size = sizeof info};
    return kvrt_session_get_info(slot->handle, &info, NULL) == KVRT_OK ? info.n_dropped : 0;
}

/* The shadow becomes what the session says. */
static void look(session_slot *slot)
{
    uint64_t n = 0;
    CHECK(kvrt_session_tokens(slot->handle, slot->tokens, MOST_CTX, &n, NULL) == KVRT_OK);
    slot->n = (uint32_t)n;
}

/* Ids that are mostly in the vocabulary. */
static uint32_t some_ids(int32_t ids[MOST_CTX + 8])
{
    const uint32_t n = below(3) ? below(20) : below(2) ? 120 + below(20) : byte() * 2;
    const int32_t first = (int32_t)byte(), step = (int32_t)below(7);
    for (uint32_t i = 0; i < n && i < MOST_CTX + 8; i++) ids[i] = (first + step * (int32_t)i) % VOCAB;
    if (n && byte() < 8) ids[below(n < 255 ? n : 255)] = byte() & 1 ? VOCAB : -1;
    return n < MOST_CTX + 8 ? n : MOST_CTX + 8;
}

static void sync_session(session_slot *slot)
{
    int32_t ids[MOST_CTX + 8];
    uint64_t reused = 0;
    const uint32_t n = some_ids(ids);
    if (TOLD(kvrt_session_sync(slot->handle, byte() < 4 ? NULL : ids, n, &reused, &error)) < KVRT_OK) return;
    CHECK(slot->open && n > 0 && reused <= n); /* more than it held, where another session has it */
    for (uint32_t i = 0; i < n; i++) CHECK(ids[i] >= 0 && ids[i] < VOCAB);
    if (dropped(slot)) { /* some of the list may be gone: its beginning and end are not */
        look(slot);
        CHECK(slot->n <= n && slot->tokens[0] == ids[0] && slot->tokens[slot->n - 1] == ids[n - 1]);
        return;
    }
    CHECK(n <= slot->ctx);
    memcpy(slot->tokens, ids, n * sizeof *ids);
    slot->n = n;
}

static void rewind_session(session_slot *slot)
{
    const uint64_t n = below(2) ? byte() : slot->n ? slot->n - byte() % slot->n : 0;
    if (TOLD(kvrt_session_rewind(slot->handle, n, &error)) < KVRT_OK) return;
    CHECK(slot->open && n <= slot->n);
    slot->n = (uint32_t)n;
}

static void evaluate(session_slot *slot)
{
    static float logits[4 * VOCAB];
    int32_t ids[MOST_CTX + 8];
    const uint32_t n = some_ids(ids), n_rows = below(5), rows[4] = {below(4), below(16), below(32), byte()};
    const uint32_t *which = byte() < 32 ? NULL : rows;
    if (TOLD(kvrt_session_eval(slot->handle, ids, n, which, n_rows, byte() < 8 ? NULL : logits, &error)) < KVRT_OK)
        return;
    CHECK(slot->open);
    for (uint32_t i = 0; i < n_rows * VOCAB; i++) CHECK(logits[i] > -1e6f && logits[i] < 1e6f);
    if (dropped(slot)) {
        look(slot);
        return;
    }
    CHECK(slot->n + n <= slot->ctx);
    memcpy(slot->tokens + slot->n, ids, n * sizeof *ids);
    slot->n += n;
}

/* ---------------------------------------------------------------------------------------------------- generation --- */
/* A host that calls back: what drives the engine is refused, the rest works. */
static int32_t on_event(const kvrt_event *event, void *user)
{
    session_slot *slot = user;
    kvrt_session other;
    kvrt_error inside = {.size = sizeof inside};
    int32_t ids[8];
    uint64_t n;
    CHECK(event->size >= sizeof *event && event->text[event->text_len] == 0 && event->request > 0);
    const kvrt_engine engine = engines[slot->engine].handle;
    switch (below(12)) {
    case 0: CHECK(kvrt_session_create(engine, NULL, &other, &inside) == KVRT_REENTRANT); break;
    case 1: CHECK(kvrt_engine_close(engine, &inside) == KVRT_REENTRANT); break;
    case 2: CHECK(kvrt_session_close(slot->handle, &inside) == KVRT_REENTRANT); break;
    case 3: CHECK(kvrt_session_rewind(slot->handle, 0, &inside) == KVRT_REENTRANT); break;
    case 4: CHECK(kvrt_generate(slot->handle, NULL, NULL, NULL, NULL, &inside) == KVRT_REENTRANT); break;
    case 5: (void)kvrt_tokenize(engine, "ab", 2, 0, ids, 8, &n, &inside); break;
    case 6: kvrt_cancel(slot->handle); break;
    case 7: kvrt_cancel_request(slot->handle, event->request); break;
    case 8: return KVRT_STOP;
    case 9: return KVRT_PAUSE;
    default: break;
    }
    return KVRT_CONTINUE;
}

/* The session's tokens begin with the shadow; those that follow were generated. */
static void follow(session_slot *slot)
{
    int32_t ids[MOST_CTX];
    uint64_t n = 0;
    if (dropped(slot)) {
        look(slot);
        return;
    }
    CHECK(kvrt_session_tokens(slot->handle, ids, MOST_CTX, &n, NULL) == KVRT_OK);
    CHECK(n >= slot->n && n <= slot->ctx && memcmp(ids, slot->tokens, slot->n * sizeof *ids) == 0);
    for (uint64_t i = slot->n; i < n; i++) CHECK(ids[i] >= 0 && ids[i] < VOCAB);
    memcpy(slot->tokens, ids, n * sizeof *ids);
    slot->n = (uint32_t)n;
}

/* Its request may have gone on since. */
static void follow_running(session_slot *slot)
{
    if (slot->submitted) follow(slot);
}

static void generate(session_slot *slot)
{
    kvrt_result result = {.size = sizeof result};
    const kvrt_status status =
        TOLD(kvrt_generate(slot->handle, below(2) ? options : NULL, below(3) ? on_event : NULL, slot, &result, &error));
    if (!slot->open) {
        CHECK(status == KVRT_HANDLE);
        return;
    }
    if (status >= KVRT_OK)
        CHECK(result.finish != KVRT_FINISH_NONE && (status == KVRT_PAUSED) == (result.finish == KVRT_FINISH_PAUSED));
    follow(slot);
}

/* ------------------------------------------------------------------------------------------- forks, bytes, pages away --- */
static void fork_session(session_slot *slot, session_slot *from)
{
    if (slot->open) return;
    const kvrt_status status = TOLD(kvrt_session_fork(from->handle, &slot->handle, &error));
    if (status < KVRT_OK) return;
    CHECK(from->open);
    const session_slot copy = {.handle = slot->handle, .open = 1, .engine = from->engine, .ctx = from->ctx};
    *slot = copy;
    look(slot);
    follow_running(from);
    CHECK(slot->n == from->n && memcmp(slot->tokens, from->tokens, slot->n * sizeof *slot->tokens) == 0);
}

static void save_session(session_slot *slot)
{
    uint64_t n = 0;
    const uint32_t flags = byte() < 64 ? KVRT_SNAPSHOT_TOKENS : 0;
    const kvrt_status status = TOLD(kvrt_session_save_bytes(slot->handle, flags, saved, sizeof saved, &n, &error));
    if (status < KVRT_OK) {
        n_saved = 0;
        return;
    }
    CHECK(slot->open && n > 0);
    follow_running(slot);
    n_saved = status == KVRT_OK ? n : 0;
    of_saved = *slot;
}

/* Whole, cut off, or with a bit turned. */
static void load_session(session_slot *slot)
{
    const uint32_t harm = byte();
    const uint64_t at = n_saved ? (byte() * 4099u) % n_saved : 0, n = harm < 32 ? at : n_saved;
    if (n_saved && harm >= 224) saved[at] ^= 1;
    const uint32_t flags = byte() < 64 ? KVRT_SNAPSHOT_TOKENS : 0; /* then pages are not looked at */
    const kvrt_status status = TOLD(kvrt_session_load_bytes(slot->handle, saved, n, flags, &error));
    if (n_saved && harm >= 224) saved[at] ^= 1;
    if (status < KVRT_OK) return;
    CHECK(slot->open && n == n_saved && (harm < 224 || flags));
    look(slot);
    CHECK(slot->n == of_saved.n && memcmp(slot->tokens, of_saved.tokens, slot->n * sizeof *slot->tokens) == 0);
}

static void send_away(session_slot *slot)
{
    uint64_t moved = 0;
    const kvrt_status status = TOLD(kvrt_session_spill(slot->handle, below(4) ? &moved : NULL, &error));
    CHECK(status < KVRT_OK || slot->open);
}

static void suspend_or_resume(engine_slot *slot)
{
    const kvrt_status status =
        below(2) ? TOLD(kvrt_suspend(slot->handle, &error)) : TOLD(kvrt_resume(slot->handle, &error));
    kvrt_memory memory = {.size = sizeof memory};
    CHECK(slot->open || status == KVRT_HANDLE);
    if (!slot->open) return;
    CHECK(kvrt_mem_info(slot->handle, &memory, NULL) == KVRT_OK);
    slot->suspended = memory.suspended;
}

/* --------------------------------------------------------------------------------------------------- submitted ones --- */
static void submit(session_slot *slot)
{
    const kvrt_status status = TOLD(kvrt_submit(slot->handle, below(2) ? options : NULL, NULL, &error));
    if (status >= KVRT_OK) slot->submitted = 1;
}

static void step_some(engine_slot *slot)
{
    static const uint64_t budgets[] = {0, 1, 200, 5000};
    kvrt_event event = {.size = sizeof event};
    const uint64_t budget = budgets[below(4)];
    const kvrt_status status = TOLD(kvrt_step(slot->handle, budget, &error));
    CHECK(slot->open || status == KVRT_HANDLE);
    for (uint32_t most = byte(); slot->open && most > 0 && kvrt_poll(slot->handle, &event, NULL) == KVRT_OK; most--)
        CHECK(event.type > 0 && event.request > 0);
    if (below(8) == 0) kvrt_cancel_id(event.request);
}

/* One prompt in a new session, greedy or with a seed; then once more after a rewind. Short enough that no page is encoded or demoted on the way. */
static void repeat(const engine_slot *slot)
{
    static const uint32_t lengths[PROMPTS] = {1, 5, 40, 120};
    kvrt_session session;
    kvrt_options *o;
    int32_t ids[MOST_CTX];
    const uint32_t which = below(PROMPTS), n = lengths[which], seeded = below(2);
    uint64_t n_all;
    if (!slot->open || kvrt_session_create(slot->handle, NULL, &session, NULL) < KVRT_OK) return;
    CHECK(kvrt_options_create(&o, NULL) == KVRT_OK &&
          kvrt_options_set_text(o, "gen.ignore_eos", "true", NULL) == KVRT_OK);
    if (seeded) (void)kvrt_options_set_text(o, "sample.temperature", "1", NULL);
    int32_t *known = memo[slot->memo][which][seeded];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)((which * 31 + i * 7) % VOCAB);
    for (int pass = 0; pass < 2; pass++) {
        /* A stream of random numbers goes on over calls: another seed and back begins it again. */
        kvrt_status status = kvrt_session_sync(session, ids, n, NULL, NULL);
        if (seeded && pass) {
            (void)kvrt_options_set_i64(o, "sample.seed", 8, NULL);
            if (kvrt_generate(session, o, NULL, NULL, NULL, NULL) < KVRT_OK) break;
            status = kvrt_session_rewind(session, n, NULL);
        }
        if (seeded) (void)kvrt_options_set_i64(o, "sample.seed", 7, NULL);
        if (status < KVRT_OK || kvrt_generate(session, o, NULL, NULL, NULL, NULL) != KVRT_OK)
            break; /* no room beside others */
        CHECK(kvrt_session_tokens(session, ids, MOST_CTX, &n_all, NULL) == KVRT_OK);
        if (n_all != n + SAMPLES) break; /* the pool ended the text */
        if (known[0] < 0) memcpy(known, ids + n, SAMPLES * sizeof *ids);
        CHECK(memcmp(known, ids + n, SAMPLES * sizeof *ids) == 0);
    }
    kvrt_options_destroy(o);
    CHECK(kvrt_session_close(session, NULL) == KVRT_OK);
}

/* ------------------------------------------------------------------------------------------------- wrong arguments --- */
static void misuse(void)
{
    static const uintptr_t numbers[] = {0, 1, 4096, UINTPTR_MAX};
    const uint32_t i = below(SESSIONS);
    void *const handles[] = {(void *)numbers[below(4)], (void *)sessions[i].handle,
                             (void *)engines[i % ENGINES].handle};
    void *handle = handles[below(3)];
    unsigned char small[sizeof(kvrt_engine_info) + 8] = {0};
    uint32_t size = byte();
    uint64_t n;
    char text[8];
    int32_t ids[4];
    memcpy(small, &size, sizeof size);
    switch (below(9)) {
    case 0: (void)TOLD(kvrt_engine_get_info(handle, size < sizeof small ? (void *)small : NULL, &error)); break;
    case 1: (void)TOLD(kvrt_session_get_info(handle, size < sizeof small ? (void *)small : NULL, &error)); break;
    case 2:
        (void)TOLD(
            kvrt_tokenize(handle, "abc", (int64_t)below(4) - 1, byte(), ids, below(5), below(4) ? &n : NULL, &error));
        break;
    case 3:
        (void)TOLD(kvrt_detokenize(handle, (const int32_t[]){(int32_t)byte() - 8, VOCAB}, below(3), byte(), text,
                                   below(9), &n, &error));
        break;
    case 4: (void)TOLD(kvrt_request_reserve(handle, below(4) ? &n : NULL, &error)); break;
    case 5: kvrt_cancel(handle); break;
    case 6: kvrt_cancel_request(handle, byte()); break;
    case 7: {
        const char *messages = below(2) ? "[{\"role\": \"user\", \"content\": \"hi\"}]" : "[{";
        const kvrt_chat_input in = {
            .size = below(2) ? sizeof in : size, .messages = messages, .messages_len = -1, .text_from = byte()};
        (void)TOLD(kvrt_chat_render(handle, below(8) ? &in : NULL, ids, below(5), below(4) ? &n : NULL, text, below(9),
                                    NULL, &error));
        break;
    }
    default: (void)TOLD(kvrt_session_tokens(handle, below(4) ? ids : NULL, below(5), below(4) ? &n : NULL, &error));
    }
}

/* Options that later calls are given. */
static void change_options(void)
{
    static const char *const pairs[][2] = {{"sample.temperature", "0.9"}, {"sample.temperature", "0"},
                                           {"sample.top_k", "5"},         {"sample.seed", "3"},
                                           {"gen.max_tokens", "3"},       {"gen.max_tokens", "0"},
                                           {"gen.token_events", "true"},  {"gen.stop", "e"},
                                           {"gen.ignore_eos", "true"},    {"sample.repeat_penalty", "1.4"},
                                           {"sample.logit_bias", "5=2"},  {"sample.logit_bias", "96=1"},
                                           {"ctx.size", "150"},           {"kv.tail", "128"},
                                           {"ctx.full", "shift"},         {"ctx.full", "demote"},
                                           {"sched.priority", "3"},       {"kv.share", "false"},
                                           {"kv.format", "f16"},          {"ctx.chunk", "8"},
                                           {"sample.min_p", "2"},         {"no.such", "1"}};
    const uint32_t i = below(sizeof pairs / sizeof pairs[0]);
    if (below(3)) (void)TOLD(kvrt_options_set_text(options, pairs[i][0], pairs[i][1], &error));
    else (void)TOLD(kvrt_options_clear(options, pairs[i][0], &error));
}

/* -------------------------------------------------------------------------------------------------------- the run --- */
static void check_all(void)
{
    for (int i = 0; i < SESSIONS; i++) {
        session_slot *slot = &sessions[i];
        kvrt_session_info info = {.size = sizeof info};
        int32_t ids[MOST_CTX];
        uint64_t n = 0;
        const kvrt_status status = kvrt_session_get_info(slot->handle, &info, NULL);
        CHECK(status == (slot->open ? KVRT_OK : KVRT_HANDLE));
        if (!slot->open) continue;
        follow_running(slot);
        CHECK(info.n_tokens == slot->n && info.n_cached <= info.n_tokens && info.n_packed_pages <= info.n_pages);
        CHECK(kvrt_session_tokens(slot->handle, ids, MOST_CTX, &n, NULL) == KVRT_OK && n == slot->n);
        CHECK(memcmp(ids, slot->tokens, n * sizeof *ids) == 0);
    }
    for (int i = 0; i < ENGINES; i++) {
        kvrt_engine_info info = {.size = sizeof info};
        const kvrt_status status = kvrt_engine_get_info(engines[i].handle, &info, NULL);
        CHECK(status == (engines[i].open ? KVRT_OK : KVRT_HANDLE));
        if (engines[i].open)
            CHECK(info.kv_pool_used_bytes <= info.kv_pool_bytes && info.planned_bytes <= info.budget_bytes);
    }
}

static void one_call(void)
{
    session_slot *slot = &sessions[below(SESSIONS)];
    failing = byte() < 24 ? 1 + below(40) : 0;
    switch (below(22)) {
    case 0: open_engine(&engines[below(ENGINES)]); break;
    case 1: close_engine(&engines[below(ENGINES)]); break;
    case 2:
    case 3: create_session(slot); break;
    case 4: close_session(slot); break;
    case 5:
    case 6: sync_session(slot); break;
    case 7:
    case 8: generate(slot); break;
    case 9: rewind_session(slot); break;
    case 10: evaluate(slot); break;
    case 11: repeat(&engines[below(ENGINES)]); break;
    case 12: misuse(); break;
    case 14: fork_session(slot, &sessions[below(SESSIONS)]); break;
    case 15: save_session(slot); break;
    case 16: load_session(slot); break;
    case 17: send_away(slot); break;
    case 18: suspend_or_resume(&engines[below(ENGINES)]); break;
    case 19: submit(slot); break;
    case 20:
    case 21: step_some(&engines[below(ENGINES)]); break;
    default: change_options();
    }
    check_all();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t bytes, blocks, bytes_after, blocks_after;
    static int begun;
    if (!begun) memset(memo, -1, sizeof memo);
    begun = 1;
    n_saved = 0;
    kvrt_debug_mem(&bytes, &blocks, NULL);
    input = data, input_end = data + size;
    CHECK(kvrt_options_create(&options, NULL) == KVRT_OK);
    for (int i = 0; i < MOST_CALLS && input < input_end; i++) one_call();
    failing = 0;
    for (int i = 0; i < ENGINES; i++)
        if (engines[i].open) close_engine(&engines[i]);
    kvrt_options_destroy(options);
    kvrt_debug_mem(&bytes_after, &blocks_after, NULL);
    CHECK(bytes == bytes_after && blocks == blocks_after);
    return 0;
}
