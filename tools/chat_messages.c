/* chat_messages.c - the conversation: messages, their JSON and Markdown, and the tokens of the session. */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L
#include "chat.h"

#include <string.h>
#include <time.h>

void chat_append(chat_text *t, const char *data, size_t len)
{
    if (t->len + len + 1 > t->cap) {
        size_t cap = (t->len + len + 1) * 2;
        char *grown = realloc(t->data, cap);
        if (!grown) {
            fprintf(stderr, "kvrt chat: out of memory\n");
            exit(EXIT_RUN);
        }
        t->data = grown;
        t->cap = cap;
    }
    if (len) memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = 0;
}

void chat_append_str(chat_text *t, const char *text) { chat_append(t, text, strlen(text)); }
void chat_clear(chat_text *t)
{
    t->len = 0;
    chat_append(t, "", 0);
}
void chat_free(chat_text *t)
{
    free(t->data);
    *t = (chat_text){0};
}

void chat_append_json(chat_text *t, const char *text, size_t len)
{
    char *data = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&data, &size);
    if (!memory) return;
    command_json_string(memory, text, len);
    fclose(memory);
    chat_append(t, data, size);
    free(data);
}

/* ------------------------------------------------------------------------------------------------------- messages
 * --- */
void chat_add_message(chat_conversation *c, const char *role, const char *text, size_t len)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        chat_message *grown = realloc(c->messages, cap * sizeof *grown);
        if (!grown) {
            fprintf(stderr, "kvrt chat: out of memory\n");
            exit(EXIT_RUN);
        }
        c->messages = grown;
        c->cap = cap;
    }
    chat_message *m = &c->messages[c->n++];
    memset(m, 0, sizeof *m);
    snprintf(m->role, sizeof m->role, "%s", role);
    chat_append(&m->content, text, len);
}

void chat_drop_last(chat_conversation *c)
{
    if (c->n) chat_free(&c->messages[--c->n].content);
}

void chat_reset(chat_conversation *c)
{
    while (c->n && !(c->n == 1 && strcmp(c->messages[0].role, "system") == 0)) chat_drop_last(c);
}

void chat_set_system(chat_conversation *c, const char *text)
{
    bool has = c->n && strcmp(c->messages[0].role, "system") == 0;
    if (!has) {
        chat_add_message(c, "system", "", 0);
        chat_message system = c->messages[c->n - 1];
        memmove(c->messages + 1, c->messages, (c->n - 1) * sizeof *c->messages);
        c->messages[0] = system;
    }
    chat_clear(&c->messages[0].content);
    chat_append_str(&c->messages[0].content, text);
    if (*text) return;
    chat_free(&c->messages[0].content);
    memmove(c->messages, c->messages + 1, --c->n * sizeof *c->messages);
}

void chat_conversation_free(chat_conversation *c)
{
    while (c->n) chat_drop_last(c);
    free(c->messages);
    free(c->ids);
    chat_free(&c->held);
    memset(c, 0, sizeof *c);
}

void chat_to_json(const chat_conversation *c, chat_text *out)
{
    chat_append_str(out, "[");
    for (size_t i = 0; i < c->n; i++) {
        chat_append_str(out, i ? ",\n {\"role\": \"" : "{\"role\": \"");
        chat_append_str(out, c->messages[i].role);
        chat_append_str(out, "\", \"content\": ");
        chat_append_json(out, c->messages[i].content.data, c->messages[i].content.len);
        chat_append_str(out, "}");
    }
    chat_append_str(out, "]\n");
}

void chat_to_markdown(const chat_conversation *c, chat_text *out)
{
    for (size_t i = 0; i < c->n; i++) {
        chat_append_str(out, i ? "\n## " : "## ");
        chat_append_str(out, c->messages[i].role);
        chat_append_str(out, c->messages[i].partial ? " (cut off)\n\n" : "\n\n");
        chat_append(out, c->messages[i].content.data, c->messages[i].content.len);
        chat_append_str(out, "\n");
    }
}

/* --------------------------------------------------------------------------------------------------------- tokens
 * --- */
static int64_t local_time(void)
{
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    return (int64_t)now + tm.tm_gmtoff;
}

static bool reserve_ids(chat_conversation *c, uint64_t n)
{
    if (n <= c->cap_ids) return true;
    int32_t *grown = realloc(c->ids, n * 2 * sizeof *grown);
    if (!grown) return false;
    c->ids = grown;
    c->cap_ids = n * 2;
    return true;
}

/* The ids go to c->ids + n_ids. */
static int32_t render_at(chat_conversation *c, kvrt_engine engine, const char *messages, uint64_t from, chat_text *text,
                         kvrt_error *error)
{
    kvrt_chat_input input = {.size = sizeof input,
                             .add_generation_prompt = 1,
                             .messages = messages,
                             .messages_len = -1,
                             .tools = c->tools,
                             .tools_len = -1,
                             .variables = c->thinking ? NULL : "{\"enable_thinking\": false}",
                             .variables_len = -1,
                             .local_time = local_time(),
                             .text_from = from};
    for (;;) {
        uint64_t n = 0, n_text = 0, room = c->cap_ids - c->n_ids, text_room = text->cap ? text->cap - 1 : 0;
        int32_t status = kvrt_chat_render(engine, &input, c->ids ? c->ids + c->n_ids : NULL, room, &n, text->data,
                                          text_room, &n_text, error);
        if (status < 0) return status;
        bool fits = n <= room && n_text <= text_room;
        if (n_text > text_room) {
            chat_text bigger = {0};
            bigger.cap = n_text + 64;
            bigger.data = malloc(bigger.cap);
            if (!bigger.data) return KVRT_NOMEM_HOST;
            chat_free(text);
            *text = bigger;
        }
        if (!reserve_ids(c, c->n_ids + n + 1)) return KVRT_NOMEM_HOST;
        if (!fits) continue;
        text->len = n_text;
        if (text->data) text->data[n_text] = 0;
        c->n_ids += n;
        return KVRT_OK;
    }
}

int32_t chat_render(chat_conversation *c, kvrt_engine engine, const char *messages, uint64_t from, chat_text *text,
                    kvrt_error *error)
{
    c->n_ids = 0;
    return render_at(c, engine, messages, from, text, error);
}

bool chat_print_rendering(const chat_text *text)
{
    return command_write(text->data, text->len) && (!command_is_terminal(stdout) || command_write("\n", 1));
}

/* When the rendering begins with what the session spells, c->ids becomes the session's tokens and the tail alone
 * is tokenized. */
static int32_t continue_session(chat_conversation *c, kvrt_engine engine, kvrt_session session, const char *json,
                                const chat_text *whole, kvrt_error *error)
{
    uint64_t n = 0;
    size_t known = c->held.len;
    (void)kvrt_session_tokens(session, NULL, 0, &n, NULL);
    if (!c->held.len || !n) return KVRT_OK;
    bool all = whole->len >= known && memcmp(whole->data, c->held.data, known) == 0;
    if (!all) {
        known = c->held_plain; /* the template may not write the EOS that the model wrote */
        n = c->ids_plain;
        if (!known || whole->len < known || memcmp(whole->data, c->held.data, known) != 0) return KVRT_OK;
    }
    uint64_t needed = 0;
    chat_text scratch = {0};
    (void)kvrt_session_tokens(session, NULL, 0, &needed, NULL);
    if (!reserve_ids(c, needed + 1)) return KVRT_NOMEM_HOST;
    int32_t status = kvrt_session_tokens(session, c->ids, needed, &needed, error);
    c->n_ids = n;
    if (status >= 0) status = render_at(c, engine, json, known, &scratch, error);
    chat_free(&scratch);
    return status;
}

int32_t chat_prepare(chat_conversation *c, kvrt_engine engine, kvrt_session session, uint64_t *n_new, kvrt_error *error)
{
    chat_text json = {0}, whole = {0};
    chat_to_json(c, &json);
    int32_t status = chat_render(c, engine, json.data, 0, &whole, error);
    *n_new = c->n_ids;
    if (status >= 0) status = continue_session(c, engine, session, json.data, &whole, error);
    uint64_t reused = 0;
    if (status >= 0) status = kvrt_session_sync(session, c->ids, c->n_ids, &reused, error);
    kvrt_session_info info = {.size = sizeof info};
    if (status >= 0) status = kvrt_session_get_info(session, &info, error);
    if (status >= 0) {
        c->n_ids = info.n_tokens; /* fewer where a full context dropped some (ctx.full=shift) */
        *n_new = c->n_ids - reused;
        chat_clear(&c->held);
        chat_append(&c->held, whole.data, whole.len);
        c->held_plain = c->held.len;
        c->ids_plain = c->n_ids;
    }
    chat_free(&json);
    chat_free(&whole);
    return status;
}

void chat_note_answer(chat_conversation *c, kvrt_engine engine, kvrt_session session, const char *answer, size_t len,
                      int32_t finish)
{
    kvrt_session_info info = {.size = sizeof info};
    if (finish == KVRT_FINISH_STOP || kvrt_session_get_info(session, &info, NULL) < 0) {
        chat_clear(&c->held); /* the matched stop string is in the session, not in the text */
        return;
    }
    chat_append(&c->held, answer, len);
    c->held_plain = c->held.len;
    c->ids_plain = info.n_tokens;
    if (finish != KVRT_FINISH_EOS || !reserve_ids(c, info.n_tokens + 1u)) return;
    uint64_t n = 0, n_text = 0;
    char text[256];
    if (kvrt_session_tokens(session, c->ids, c->cap_ids, &n, NULL) != KVRT_OK || n == 0) return;
    if (kvrt_detokenize(engine, c->ids + n - 1, 1, KVRT_DETOKENIZE_KEEP_SPECIAL, text, sizeof text, &n_text, NULL) !=
        KVRT_OK)
        return;
    chat_append(&c->held, text, n_text);
    c->ids_plain = n - 1;
}
