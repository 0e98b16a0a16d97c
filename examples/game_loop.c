/* game_loop.c - a model inside a game loop: game_loop MODEL [BUDGET_US [TOKENS]]. Each frame of 16.6 ms gives the model 2 ms; no thread of its own is
 * made. Prints how long the calls took beyond their budget; what operations take is learned within the first tokens. */
#define _POSIX_C_SOURCE 200809L
#include <kvrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void sleep_us(uint64_t us)
{
    const struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)};
    nanosleep(&t, NULL);
}

static int by_value(const void *a, const void *b)
{
    const unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc < 2) return fprintf(stderr, "usage: game_loop MODEL [BUDGET_US [TOKENS]]\n"), 2;
    const uint64_t frame_us = 16600, budget_us = argc > 2 ? strtoull(argv[2], NULL, 10) : 2000;
    static const unsigned edges[] = {0, 5, 10, 25, 50, 100, 200, 1000000}; /* percent of the budget */
    enum { MOST = 1 << 16 };
    static unsigned overs[MOST]; /* percent of the budget, of every frame */
    unsigned histogram[8] = {0}, frames = 0;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session npc = NULL;
    int32_t ids[256];
    uint64_t n = 0;

    int32_t status = kvrt_options_create(&options, &error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", argv[1], -1, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", argc > 3 ? atoi(argv[3]) : 60, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "cpu.threads", 1, &error); /* the others are the game's */
    if (status >= 0) status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
    if (status >= 0) status = kvrt_session_create(engine, NULL, &npc, &error);
    if (status >= 0)
        status = kvrt_tokenize(engine, "Once upon a time, a guard at the gate said:", -1, KVRT_TOKENIZE_ADD_SPECIAL,
                               ids, 256, &n, &error);
    if (status >= 0) status = kvrt_session_sync(npc, ids, n, NULL, &error);
    if (status >= 0) status = kvrt_submit(npc, NULL, NULL, &error);
    while (status >= 0 && status != KVRT_DONE) {
        kvrt_event event = {.size = sizeof event};
        const uint64_t start = now_us();
        status = kvrt_step(engine, budget_us, &error); /* the model's part of the frame */
        const uint64_t took = now_us() - start, over = took > budget_us ? (took - budget_us) * 100 / budget_us : 0;
        for (int i = 7; i >= 0; i--)
            if (over >= edges[i]) {
                histogram[i]++;
                break;
            }
        overs[frames++ % MOST] = (unsigned)(over < 1000000 ? over : 1000000);
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK)
            if (event.type == KVRT_EVENT_TEXT) fwrite(event.text, 1, event.text_len, stdout), fflush(stdout);
        if (took < frame_us) sleep_us(frame_us - took); /* the game's part */
    }
    if (status < 0) fprintf(stderr, "game_loop: %s\n", error.message);
    printf("\n%u frames of %llu us for the model\n", frames, (unsigned long long)budget_us);
    for (int i = 0; i < 7; i++) printf("  over by %3u%% to %u%% of it: %u\n", edges[i], edges[i + 1], histogram[i]);
    const unsigned n_kept = frames < MOST ? frames : MOST;
    qsort(overs, n_kept, sizeof *overs, by_value);
    if (n_kept)
        printf("  99 of 100 frames: over by at most %u%%\n", overs[n_kept * 99 / 100 - (n_kept * 99 / 100 > 0)]);
    (void)kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(options);
    return status < 0;
}
