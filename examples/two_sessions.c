/* two_sessions.c - two characters who know the same story: two_sessions MODEL. What both read is computed and stored once; each session tells what it
 * computed and what it took from the other. Both answer in the same steps. */
#include <kvrt.h>
#include <stdio.h>
#include <string.h>

static const char lore[] =
    "Once upon a time there was a village by a river. A miller lived there, and a fox who could speak. Every morning "
    "the fox came to the "
    "mill, sat down on the cold stone and asked for bread. The miller gave it to him, for he was lonely, and the fox "
    "told him what he had "
    "seen in the forest at night: lights under the old oak, a door in the hill, and a girl with a silver bell. ";
static const char *const parts[2] = {"The fox said:", "The girl with the bell said:"};

int main(int argc, char **argv)
{
    if (argc != 2) return fprintf(stderr, "usage: two_sessions MODEL\n"), 2;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session sessions[2] = {NULL, NULL};
    uint64_t requests[2] = {0, 0};
    static char answers[2][4096];

    int32_t status = kvrt_options_create(&options, &error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", argv[1], -1, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "ctx.sessions", 2, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", 40, &error);
    if (status >= 0) status = kvrt_options_set_f64(options, "sample.temperature", 0, &error);
    if (status >= 0) status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
    for (int i = 0; i < 2 && status >= 0; i++) {
        char text[2048];
        int32_t ids[1024];
        uint64_t n = 0;
        snprintf(text, sizeof text, "%s%s", lore, parts[i]);
        status = kvrt_tokenize(engine, text, -1, KVRT_TOKENIZE_ADD_SPECIAL, ids, 1024, &n, &error);
        if (status >= 0) status = kvrt_session_create(engine, NULL, &sessions[i], &error);
        if (status >= 0) status = kvrt_session_sync(sessions[i], ids, n, NULL, &error);
        if (status >= 0) status = kvrt_submit(sessions[i], NULL, &requests[i], &error);
    }
    while (status >= 0 && status != KVRT_DONE) {
        kvrt_event event = {.size = sizeof event};
        status = kvrt_step(engine, 10000, &error);
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK)
            for (int i = 0; i < 2; i++)
                if (event.request == requests[i] && (event.type == KVRT_EVENT_TEXT || event.type == KVRT_EVENT_DONE))
                    strncat(answers[i], event.text, sizeof answers[i] - strlen(answers[i]) - 1);
    }
    for (int i = 0; i < 2 && status >= 0; i++) {
        kvrt_session_info info = {.size = sizeof info};
        (void)kvrt_session_get_info(sessions[i], &info, NULL);
        printf("%s%s\n  (%llu tokens computed, %llu taken from the other; %u of %u pages shared)\n", parts[i],
               answers[i], (unsigned long long)info.n_computed, (unsigned long long)info.n_found, info.n_shared_pages,
               info.n_pages);
    }
    if (status < 0) fprintf(stderr, "two_sessions: %s\n", error.message);
    (void)kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(options);
    return status < 0;
}
