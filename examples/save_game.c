/* save_game.c - a conversation in a save game: save_game MODEL FILE. The first run begins a story and saves it; each further run goes on where the
 * last one stopped, without computing a token again. */
#include <kvrt.h>
#include <stdio.h>

static int32_t on_event(const kvrt_event *event, void *user)
{
    (void)user;
    if (event->type == KVRT_EVENT_TEXT) fwrite(event->text, 1, event->text_len, stdout);
    return KVRT_CONTINUE;
}

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: save_game MODEL FILE\n"), 2;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session session = NULL;
    kvrt_session_info info = {.size = sizeof info};
    int32_t ids[256];
    uint64_t n = 0;

    int32_t status = kvrt_options_create(&options, &error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", argv[1], -1, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", 30, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "sample.seed", 7, &error);
    if (status >= 0) status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
    if (status >= 0) status = kvrt_session_create(engine, NULL, &session, &error);
    if (status >= 0) {
        const int32_t loaded = kvrt_session_load(session, argv[2], 0, &error);
        if (loaded == KVRT_IO) { /* there is none yet */
            status = kvrt_tokenize(engine, "Once upon a time", -1, KVRT_TOKENIZE_ADD_SPECIAL, ids, 256, &n, &error);
            if (status >= 0) status = kvrt_session_sync(session, ids, n, NULL, &error);
        } else status = loaded;
    }
    if (status >= 0) status = kvrt_session_get_info(session, &info, &error);
    if (status >= 0) fprintf(stderr, "%u tokens, %u of them cached\n", info.n_tokens, info.n_cached);
    if (status >= 0) status = kvrt_generate(session, NULL, on_event, NULL, NULL, &error);
    if (status >= 0) status = kvrt_session_save(session, argv[2], 0, &error);
    if (status < 0) fprintf(stderr, "save_game: %s\n", error.message);
    (void)kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(options);
    return status < 0;
}
