/* worker.c - a model beside an event loop: worker MODEL. The engine's own thread computes; its wakeup writes to an eventfd, which poll(2) waits for
 * together with standard input: a line is a question, an empty line cancels the answer that runs, the end of input leaves. */
#define _GNU_SOURCE
#include <kvrt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void wake(void *user)
{
    const uint64_t one = 1;
    if (write(*(int *)user, &one, sizeof one) < 0) return; /* it is full: the loop will wake anyway */
}

/* False when it ends a request. */
static int say(const kvrt_event *event)
{
    if (event->type == KVRT_EVENT_TEXT || event->type == KVRT_EVENT_DONE)
        fwrite(event->text, 1, event->text_len, stdout);
    if (event->type == KVRT_EVENT_ERROR) printf("(%s)", event->text);
    if (event->type != KVRT_EVENT_DONE && event->type != KVRT_EVENT_ERROR) return fflush(stdout), 1;
    printf("%s\n", event->finish == KVRT_FINISH_CANCELLED ? " (cancelled)" : "");
    return fflush(stdout), 0;
}

static int32_t ask(kvrt_engine engine, kvrt_session session, const char *text, uint64_t *request, kvrt_error *error)
{
    int32_t ids[512];
    uint64_t n = 0;
    int32_t status = kvrt_tokenize(engine, text, -1, KVRT_TOKENIZE_ADD_SPECIAL, ids, 512, &n, error);
    if (status >= 0) status = kvrt_session_sync(session, ids, n < 512 ? n : 512, NULL, error);
    return status < 0 ? status : kvrt_submit(session, NULL, request, error);
}

int main(int argc, char **argv)
{
    if (argc != 2) return fprintf(stderr, "usage: worker MODEL\n"), 2;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session session = NULL;
    char line[1024];
    uint64_t request = 0;
    int events = eventfd(0, EFD_NONBLOCK), open = 1, runs = 0;

    int32_t status = kvrt_options_create(&options, &error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", argv[1], -1, &error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", 60, &error);
    if (status >= 0) status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
    if (status >= 0) status = kvrt_session_create(engine, NULL, &session, &error);
    if (status >= 0) status = kvrt_worker_start(engine, wake, &events, &error);
    setvbuf(stdin, NULL, _IONBF, 0); /* so that poll sees every line */
    while (status >= 0 && (open || runs)) {
        struct pollfd fds[2] = {{.fd = events, .events = POLLIN}, {.fd = open ? 0 : -1, .events = POLLIN}};
        kvrt_event event = {.size = sizeof event};
        uint64_t count;
        if (poll(fds, 2, -1) < 0) break;
        if (fds[0].revents && read(events, &count, sizeof count) > 0)
            while (kvrt_poll(engine, &event, NULL) == KVRT_OK)
                if (!say(&event)) runs = 0;
        if (!fds[1].revents || (runs && fds[0].revents)) continue;
        if (!fgets(line, sizeof line, stdin)) open = 0;
        else if (line[0] == '\n') kvrt_cancel_id(request);
        else if (runs) printf("(one question at a time)\n");
        else runs = (status = ask(engine, session, line, &request, &error)) >= 0;
    }
    if (status < 0) fprintf(stderr, "worker: %s\n", error.message);
    (void)kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(options);
    (void)close(events);
    return status < 0;
}
