/* small_chat.c - a conversation: small_chat MODEL_FOLDER, then one message per line. The session keeps what it
 * has computed: each turn computes only what is new. Messages are kept as JSON, as kvrt_chat_render wants them. */
#include <kvrt.h>

#include <stdio.h>
#include <string.h>

static char messages[1 << 20] = "[";
static int32_t ids[1 << 16];

/* Appends {"role": role, "content": text} without its end, so that an answer can grow in it. */
static void append(const char *text, size_t len)
{
    size_t at = strlen(messages);
    for (; len-- && at + 128 < sizeof messages; text++)
        if ((unsigned char)*text < ' ') at += (size_t)sprintf(messages + at, "\\u%04x", (unsigned)*text);
        else at += (size_t)sprintf(messages + at, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
}
static int32_t on_event(const kvrt_event *event, void *user)
{
    (void)user;
    if (event->type != KVRT_EVENT_TEXT) return KVRT_CONTINUE;
    append(event->text, event->text_len);
    return fputs(event->text, stdout) < 0 || fflush(stdout) ? KVRT_STOP : KVRT_CONTINUE;
}

int main(int argc, char **argv)
{
    kvrt_error e = {.size = sizeof e};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session session = NULL;
    char line[4096];
    int ok = argc == 2 && kvrt_options_create(&options, &e) >= 0 &&
             kvrt_options_set_string(options, "model.path", argv[1], -1, &e) >= 0 &&
             kvrt_engine_open(options, NULL, NULL, &engine, &e) >= 0 &&
             kvrt_session_create(engine, NULL, &session, &e) >= 0;
    for (uint64_t n; ok && fgets(line, sizeof line, stdin); putchar('\n')) {
        strcat(messages, strlen(messages) > 1 ? ", {\"role\": \"user\", \"content\": \""
                                              : "{\"role\": \"user\", \"content\": \"");
        append(line, strcspn(line, "\n"));
        strcat(messages, "\"}]");
        kvrt_chat_input in = {.size = sizeof in, .add_generation_prompt = 1, .messages = messages, .messages_len = -1};
        ok = kvrt_chat_render(engine, &in, ids, sizeof ids / sizeof *ids, &n, NULL, 0, NULL, &e) == KVRT_OK &&
             kvrt_session_sync(session, ids, n, NULL, &e) >= 0;
        strcpy(strrchr(messages, ']'), ", {\"role\": \"assistant\", \"content\": \"");
        ok = ok && kvrt_generate(session, NULL, on_event, NULL, NULL, &e) >= 0;
        strcat(messages, "\"}");
    }
    if (!ok) fprintf(stderr, "%s\n", argc == 2 ? e.message : "usage: small_chat MODEL_FOLDER");
    (void)kvrt_engine_close(engine);
    kvrt_options_destroy(options);
    return !ok;
}
