/* small_chat.c - a conversation: small_chat MODEL_FOLDER [TEMPERATURE], then one message per line. The session
 * keeps what it has computed: each turn computes only what is new. Messages are JSON, open at the end so that an answer grows in it. */
#include <kvrt.h>
#include <stdio.h>
#include <string.h>
static char messages[1 << 20] = "[{\"role\": \"user\", \"content\": \"", line[4096];
static int32_t ids[65536];
static void append(const char *text, size_t len)
{
    for (char *at = messages + strlen(messages); len-- && at < messages + sizeof messages - 256; text++)
        at += sprintf(at, (*text & 0xe0) == 0 || strchr("\"\\", *text) ? "\\u%04x" : "%c", *text);
}
static int32_t on_event(const kvrt_event *event, void *user)
{
    if (event->type == KVRT_EVENT_TEXT) append(event->text, event->text_len), fputs(event->text, user), fflush(user);
    return KVRT_CONTINUE;
}
int main(int argc, char **argv)
{
    kvrt_error e = {.size = sizeof e, .message = "usage: small_chat MODEL_FOLDER [TEMPERATURE]"};
    kvrt_options *o = NULL;
    kvrt_engine engine = NULL;
    kvrt_session chat = NULL;
    kvrt_chat_input in = {.size = sizeof in, .add_generation_prompt = 1, .messages = messages, .messages_len = -1};
    int ok = argc > 1 && !kvrt_options_create(&o, &e) && !kvrt_options_set_string(o, "model.path", argv[1], -1, &e) &&
             (argc == 2 || !kvrt_options_set_text(o, "sample.temperature", argv[2], &e)) &&
             !kvrt_options_set_i64(o, "gen.max_tokens", 256, &e) && /* an answer leaves room for the next ones */
             !kvrt_engine_open(o, NULL, NULL, &engine, &e) && !kvrt_session_create(engine, NULL, &chat, &e);
    for (uint64_t n; ok && fgets(line, sizeof line, stdin); puts("")) {
        append(line, strcspn(line, "\n")), strcat(messages, "\"}]");
        ok = !kvrt_chat_render(engine, &in, ids, 65536, &n, NULL, 0, NULL, &e);
        strcpy(strrchr(messages, ']'), ", {\"role\": \"assistant\", \"content\": \"");
        ok = ok && !kvrt_session_sync(chat, ids, n, NULL, &e) && !kvrt_generate(chat, NULL, on_event, stdout, NULL, &e);
        strcat(messages, "\"}, {\"role\": \"user\", \"content\": \"");
    }
    if (!ok) fprintf(stderr, "%s\n", e.message);
    (void)kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(o);
    return !ok;
}
