/* bench_together.c - `kvrt bench --together N`: what sessions that share a prefix gain from one another, and what they cost one another. All
 * figures are ratios or medians of rounds within one run, as machines drift: first one session alone, then all, then one again. */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST 16u
#define MOST_GAPS 4096u

typedef struct together {
    kvrt_engine engine;
    kvrt_session sessions[MOST];
    uint64_t first_request; /* of the session that is listened to */
    uint32_t vocab, n_gaps;
    uint64_t last_us;
    double gaps_ms[MOST_GAPS]; /* between its tokens */
} together;

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double at_share(double *values, uint32_t n, double share)
{
    qsort(values, n, sizeof *values, by_value);
    return n ? values[(uint32_t)(share * (n - 1) + 0.5)] : 0;
}

/* The first n sessions are at `depth` again, behind one prefix that they share. */
static int32_t begin_anew(together *t, uint32_t n, uint32_t depth, kvrt_error *error)
{
    int32_t status = kvrt_session_rewind(t->sessions[0], 0, error);
    if (status >= 0) status = kvrt_measure_fill(t->sessions[0], depth, 1, error);
    for (uint32_t i = 1; i < n && status >= 0; i++) {
        status = kvrt_session_close(t->sessions[i], error);
        t->sessions[i] = NULL;
        if (status >= 0) status = kvrt_session_fork(t->sessions[0], &t->sessions[i], error);
    }
    return status;
}

static int32_t submit(together *t, uint32_t i, uint32_t n_gen, uint64_t *request, kvrt_error *error)
{
    kvrt_options *o = NULL;
    int32_t status = kvrt_options_create(&o, error);
    if (status >= 0) status = kvrt_options_set_i64(o, "gen.max_tokens", n_gen, error);
    if (status >= 0) status = kvrt_options_set_bool(o, "gen.ignore_eos", 1, error);
    if (status >= 0) status = kvrt_options_set_bool(o, "gen.token_events", 1, error);
    if (status >= 0) status = kvrt_options_set_f64(o, "sample.temperature", 0, error);
    if (status >= 0) status = kvrt_submit(t->sessions[i], o, request, error);
    kvrt_options_destroy(o);
    return status;
}

/* Until all requests are over. Gaps between tokens of first_request are noted. */
static int32_t run(together *t, uint64_t budget_us, kvrt_error *error)
{
    int32_t status = KVRT_MORE;
    while (status == KVRT_MORE || status == KVRT_PARTIAL) {
        kvrt_event event = {.size = sizeof event};
        status = kvrt_step(t->engine, budget_us, error);
        while (status >= 0 && kvrt_poll(t->engine, &event, error) == KVRT_OK) {
            if (event.type == KVRT_EVENT_ERROR) return event.status;
            if (event.type != KVRT_EVENT_TOKEN || event.request != t->first_request) continue;
            const uint64_t now = now_us();
            if (t->last_us && t->n_gaps < MOST_GAPS) t->gaps_ms[t->n_gaps++] = (double)(now - t->last_us) / 1e3;
            t->last_us = now;
        }
        if (command_interrupted) return KVRT_CANCELLED;
    }
    return status;
}

/* Tokens per second of the first n sessions together. */
static int32_t decode(together *t, uint32_t n, uint32_t depth, uint32_t n_gen, double *tps, kvrt_error *error)
{
    int32_t status = begin_anew(t, n, depth, error);
    for (uint32_t i = 0; i < n && status >= 0; i++) status = submit(t, i, n_gen, NULL, error);
    const uint64_t start = now_us();
    if (status >= 0) status = run(t, 1000000, error);
    *tps = (double)n * n_gen * 1e6 / (double)(now_us() - start + 1);
    return status;
}

/* The first session decodes while the others read prompts, none of which another has read. */
static int32_t beside_prompts(together *t, uint32_t n, uint32_t depth, uint32_t n_prompt, uint32_t n_gen,
                              kvrt_error *error)
{
    int32_t *ids = malloc(n_prompt * sizeof *ids), status = ids ? begin_anew(t, 1, depth, error) : KVRT_NOMEM_HOST;
    t->last_us = 0, t->n_gaps = 0;
    if (status >= 0) status = submit(t, 0, n_gen, &t->first_request, error);
    for (uint32_t i = 1; i < n && status >= 0; i++) {
        for (uint32_t k = 0; k < n_prompt; k++) ids[k] = (int32_t)((k * 2654435761u + i * 97u) % t->vocab);
        status = kvrt_session_rewind(t->sessions[i], 0, error);
        if (status >= 0) status = kvrt_session_sync(t->sessions[i], ids, n_prompt, NULL, error);
        if (status >= 0) status = submit(t, i, 1, NULL, error);
    }
    free(ids);
    if (status >= 0) status = run(t, 1000, error); /* a little at a time, so that tokens are heard when they come */
    t->first_request = 0;
    return status;
}

static int32_t open_all(const command_line *line, together *t, uint32_t n, int *code, kvrt_error *error)
{
    kvrt_engine_info info = {.size = sizeof info};
    int32_t status = kvrt_options_set_i64(line->options, "ctx.sessions", n, error);
    if (status < 0) return status;
    *code = command_open(line->options, &t->engine);
    if (*code) return KVRT_OK;
    status = kvrt_engine_get_info(t->engine, &info, error);
    t->vocab = info.vocab_size;
    for (uint32_t i = 0; i < n && status >= 0; i++)
        status = kvrt_session_create(t->engine, NULL, &t->sessions[i], error);
    return status;
}

int bench_together(const command_line *line, uint32_t n, uint32_t depth, uint32_t n_prompt, uint32_t n_gen,
                   uint32_t n_reps, bool ops, bool json)
{
    static together t;
    static bench_ops times;
    double alone[64], all[64], ratio[64], quiet_ms = 0;
    kvrt_error error = command_error();
    int code = EXIT_OK;
    int32_t status = open_all(line, &t, n, &code, &error);
    double warm;
    if (code == EXIT_OK && status >= 0) status = decode(&t, n, depth, 4, &warm, &error);
    for (uint32_t r = 0; code == EXIT_OK && r < n_reps && status >= 0; r++) {
        double before = 0, after = 0;
        status = decode(&t, 1, depth, n_gen, &before, &error);
        if (status >= 0) status = decode(&t, n, depth, n_gen, &all[r], &error);
        if (status >= 0) status = decode(&t, 1, depth, n_gen, &after, &error);
        alone[r] = (before + after) / 2;
        ratio[r] = all[r] / alone[r];
    }
    if (code == EXIT_OK && status >= 0 && ops) {
        status = kvrt_measure_ops(t.engine, 1, &error);
        if (status >= 0) status = decode(&t, n, depth, n_gen, &warm, &error);
        if (status >= 0) status = bench_take_ops(&times, t.engine, n_gen, &error);
    }
    if (code == EXIT_OK && status >= 0 && n_prompt) status = beside_prompts(&t, n, depth, n_prompt, n_gen, &error);
    if (t.engine) (void)kvrt_engine_close(t.engine, NULL);
    if (code != EXIT_OK) return code;
    if (status < 0) return command_fail(status, &error);
    const double one = at_share(alone, n_reps, 0.5), together_tps = at_share(all, n_reps, 0.5);
    quiet_ms = 1e3 / one;
    const double typical = at_share(t.gaps_ms, t.n_gaps, 0.5), rare = at_share(t.gaps_ms, t.n_gaps, 0.99);
    const double middle = at_share(ratio, n_reps, 0.5);
    if (json) {
        printf("{\"sessions\":%u,\"depth\":%u,\"one_tps\":%.2f,\"all_tps\":%.2f,\"ratio\":%.3f,\"ratio_low\":%.3f,"
               "\"ratio_high\":%.3f,"
               "\"alone_ms\":%.4f,\"beside_prompts_ms\":%.4f,\"beside_prompts_p99_ms\":%.4f,\"ops\":[",
               n, depth, one, together_tps, middle, ratio[0], ratio[n_reps - 1], quiet_ms, typical, rare);
        bench_print_ops(&times, "step", true);
        printf("]}\n");
    } else {
        printf("one session      %9.2f tok/s\n%2u together      %9.2f tok/s in all, %.2f times one (%.2f to %.2f)\n",
               one, n, together_tps, middle, ratio[0], ratio[n_reps - 1]);
        if (n_prompt)
            printf("a token of one   %9.2f ms alone, %.2f ms beside %u prompts of %u tokens (99%%: %.2f ms)\n",
                   quiet_ms, typical, n - 1, n_prompt, rare);
        bench_print_ops(&times, "step", false);
    }
    return EXIT_OK;
}
