/* hello.c - the smallest streaming program: open a model folder, give it a prompt, print the text as it comes. */
#include <kvrt.h>
#include <stdio.h>

static int32_t on_event(const kvrt_event *event, void *user)
{
    (void)user;
    if (event->type == KVRT_EVENT_TEXT) fwrite(event->text, 1, event->text_len, stdout), fflush(stdout);
    return KVRT_CONTINUE;
}

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: hello MODEL PROMPT\n"), 2;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session session = NULL;
    int32_t ids[512];
    uint64_t n = 0;

    int32_t status = kvrt_options_create(&options, &error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", argv[1], -1, &error);
    if (status >= 0) status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
    if (status >= 0) status = kvrt_tokenize(engine, argv[2], -1, KVRT_TOKENIZE_ADD_SPECIAL, ids, 512, &n, &error);
    if (status >= 0) status = kvrt_session_create(engine, NULL, &session, &error);
    if (status >= 0) status = kvrt_session_sync(session, ids, n < 512 ? n : 512, NULL, &error);
    if (status >= 0) status = kvrt_generate(session, NULL, on_event, NULL, NULL, &error);
    if (status < 0) fprintf(stderr, "hello: %s\n", error.message);

    (void)kvrt_session_close(session, NULL);
    (void)kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(options);
    return status < 0;
}
