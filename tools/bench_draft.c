/* bench_draft.c - `kvrt bench --draft TYPE`: what guesses are worth, and what they cost. Both ways make the same tokens, so that rounds are pairs. In
 * the copying task a text that has said everything before, several times, goes on greedily. In the other one tokens are drawn from twenty, each as
 * likely as the next: pairs of them have been seen, and what follows cannot be known. */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define MOST 64u
static const char text[] =
    "The ferry leaves the harbour at seven in the morning and comes back at noon. Tickets are sold on board, and "
    "children under six travel free. In winter the last boat sails before dark; look at the board by the pier. "
    "Bicycles go on the lower deck, dogs stay on a lead, and nobody may stand on the stairs while the ferry moves.\n\n";

typedef struct task {
    bool is_random;
    const char *name, *temperature;
    double off[MOST], on[MOST], ratio[MOST];
    uint32_t n_generated, n_drafted, n_accepted;
} task;

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The text again and again; of a shape without a tokenizer as many numbers. */
static int32_t make_prompt(kvrt_engine engine, uint32_t vocab, int32_t *ids, uint32_t n, kvrt_error *error)
{
    uint64_t len = 0;
    int32_t status = kvrt_tokenize(engine, text, -1, 0, ids, n, &len, error);
    if (status == KVRT_STATE) {
        len = 80, status = KVRT_OK;
        for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)((i % 80 * 2654435761u) % vocab);
    }
    for (uint64_t i = len; i < n && status >= 0; i++) ids[i] = ids[i - len];
    return status;
}

static int32_t generate(kvrt_session session, task *t, const char *type, const int32_t *ids, uint32_t n, uint32_t n_gen,
                        double *tps, kvrt_error *error)
{
    kvrt_options *o = NULL;
    kvrt_result result = {.size = sizeof result};
    int32_t status = kvrt_options_create(&o, error);
    if (status >= 0) status = kvrt_options_set_text(o, "draft.type", type, error);
    if (status >= 0) status = kvrt_options_set_i64(o, "gen.max_tokens", n_gen, error);
    if (status >= 0) status = kvrt_options_set_bool(o, "gen.ignore_eos", 1, error);
    if (status >= 0) status = kvrt_options_set_text(o, "sample.temperature", t->temperature, error);
    if (status >= 0) status = kvrt_options_set_text(o, "sample.top_k", "0", error);
    if (status >= 0) status = kvrt_options_set_text(o, "sample.top_p", "1", error);
    if (status >= 0) status = kvrt_options_set_text(o, "sample.min_p", "0", error);
    for (unsigned i = 0; i < 20 && t->is_random && status >= 0; i++) {
        char bias[32];
        snprintf(bias, sizeof bias, "%u=10000", 40 + i);
        status = kvrt_options_set_text(o, "sample.logit_bias", bias, error);
    }
    if (status >= 0) status = kvrt_session_sync(session, ids, n, NULL, error);
    /* The stream of random numbers begins anew with another seed alone. */
    for (int seed = 1; seed <= 2 && status >= 0; seed++) {
        status = kvrt_options_set_i64(o, "sample.seed", seed, error);
        if (status >= 0) status = kvrt_options_set_i64(o, "gen.max_tokens", seed == 1 ? 0 : n_gen, error);
        if (status >= 0) status = kvrt_generate(session, o, NULL, NULL, &result, error);
    }
    kvrt_options_destroy(o);
    if (status < 0) return status;
    *tps = result.n_generated > 1 && result.decode_us ? (result.n_generated - 1) * 1e6 / (double)result.decode_us : 0;
    t->n_generated = result.n_generated;
    if (strcmp(type, "off") != 0) t->n_drafted = result.n_drafted, t->n_accepted = result.n_accepted;
    return KVRT_OK;
}

static double middle(double *values, uint32_t n, double *low, double *high)
{
    qsort(values, n, sizeof *values, by_value);
    *low = values[0], *high = values[n - 1];
    return values[n / 2];
}

static void print(task *t, const char *type, uint32_t n_prompt, uint32_t n_reps, bool json, bool first)
{
    double low, high, unused;
    const double ratio = middle(t->ratio, n_reps, &low, &high), off = middle(t->off, n_reps, &unused, &unused),
                 on = middle(t->on, n_reps, &unused, &unused);
    if (json)
        printf(
            "%s{\"task\":\"%s\",\"draft\":\"%s\",\"n_prompt\":%u,\"n_gen\":%u,\"decode_tps\":%.2f,\"draft_tps\":%.2f,"
            "\"ratio\":%.3f,\"ratio_range\":[%.3f,%.3f],\"n_drafted\":%u,\"n_accepted\":%u}",
            first ? "" : ",", t->name, type, n_prompt, t->n_generated, off, on, ratio, low, high, t->n_drafted,
            t->n_accepted);
    else
        printf("%-10s off %8.2f tok/s   %s %8.2f tok/s   ratio %.2f (%.2f..%.2f)   %u of %u guesses came true, %u "
               "tokens\n",
               t->name, off, type, on, ratio, low, high, t->n_accepted, t->n_drafted, t->n_generated);
}

int bench_draft(const command_line *line, uint32_t n_prompt, uint32_t n_gen, uint32_t n_reps, bool json)
{
    static task tasks[] = {{.name = "copying", .temperature = "0"},
                           {.name = "random", .temperature = "100", .is_random = true}};
    kvrt_error error = command_error();
    kvrt_engine engine;
    kvrt_session session;
    kvrt_engine_info info = {.size = sizeof info};
    const char *type = "off";
    if (n_prompt < 2) n_prompt = 2;
    int32_t status = kvrt_options_get_string(line->options, "draft.type", &type, &error);
    if (status >= 0) status = kvrt_options_set_i64(line->options, "ctx.size", n_prompt + n_gen + 8, &error);
    if (status < 0) return command_fail(status, &error);
    const int code = command_open(line->options, &engine);
    if (code) return code;
    int32_t *ids = malloc(n_prompt * sizeof *ids);
    status = ids ? kvrt_engine_get_info(engine, &info, &error) : KVRT_NOMEM_HOST;
    if (status >= 0) status = make_prompt(engine, info.vocab_size, ids, n_prompt, &error);
    if (status >= 0) status = kvrt_session_create(engine, NULL, &session, &error);
    for (uint32_t r = 0; r < n_reps && status >= 0 && !command_interrupted; r++)
        for (unsigned t = 0; t < 2 && status >= 0; t++)
            for (unsigned i = 0; i < 2 && status >= 0; i++) {
                const bool on = i == r % 2; /* either is first in every second round */
                status = generate(session, &tasks[t], on ? type : "off", ids, n_prompt, n_gen,
                                  on ? &tasks[t].on[r] : &tasks[t].off[r], &error);
                if (i == 1) tasks[t].ratio[r] = tasks[t].off[r] > 0 ? tasks[t].on[r] / tasks[t].off[r] : 0;
            }
    if (status >= 0 && !command_interrupted) {
        if (json) printf("{\"rows\":[");
        for (unsigned t = 0; t < 2; t++) print(&tasks[t], type, n_prompt, n_reps, json, t == 0);
        if (json) printf("]}\n");
    }
    free(ids);
    (void)kvrt_engine_close(engine, NULL);
    if (command_interrupted) return EXIT_INTERRUPT;
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}
