/* chat.h - what the files of `kvrt chat` share: the conversation, its tokens, the terminal. To know: the session's
 * tokens are the truth. Ids that were generated stay; of each new rendering only the text behind what the session
 * already spells is tokenized. When a template rewrites earlier turns, all is tokenized again and the common prefix is
 * reused. */
#ifndef KVRT_CHAT_H
#define KVRT_CHAT_H
#include "command.h"

#include <stdlib.h>

/* Growable text, always NUL-terminated; out of memory ends the command (it is a program, not the library). */
typedef struct chat_text {
    char *data;
    size_t len, cap;
} chat_text;
void chat_append(chat_text *t, const char *data, size_t len);
void chat_append_str(chat_text *t, const char *text);
void chat_append_json(chat_text *t, const char *text, size_t len); /* as a JSON string */
void chat_clear(chat_text *t);
void chat_free(chat_text *t);

typedef struct chat_message {
    char role[12]; /* "system", "user", "assistant" */
    chat_text content;
    bool partial; /* an answer that was cut off */
} chat_message;

/* ---- chat_messages.c: the conversation as messages and as tokens */
typedef struct chat_conversation {
    chat_message *messages;
    size_t n, cap;
    const char *tools; /* JSON array for the template; NULL: none. Not owned */
    bool thinking;     /* variable enable_thinking */
    /* What the session holds: its text (template output and answers), and how much of it ends before a final EOS. */
    chat_text held;
    int32_t *ids; // (n_ids) scratch
    uint64_t n_ids, cap_ids;
    size_t held_plain;  /* bytes of `held` without the EOS */
    uint64_t ids_plain; /* session tokens without the EOS */
} chat_conversation;
void chat_add_message(chat_conversation *c, const char *role, const char *text, size_t len);
void chat_drop_last(chat_conversation *c);
void chat_reset(chat_conversation *c); /* keeps the system message */
void chat_set_system(chat_conversation *c, const char *text);
void chat_conversation_free(chat_conversation *c);
/* All messages as a JSON array. */
void chat_to_json(const chat_conversation *c, chat_text *out);
void chat_to_markdown(const chat_conversation *c, chat_text *out);
/* Renders messages (JSON) and leaves the ids in c->ids, the text in *text; `from`: ids of the text from this byte
 * on. Status. */
int32_t chat_render(chat_conversation *c, kvrt_engine engine, const char *messages, uint64_t from, chat_text *text,
                    kvrt_error *error);
/* Writes a rendering to stdout as it is; on a terminal with a newline behind it. False when the reader has gone. */
bool chat_print_rendering(const chat_text *text);
/* Makes the session ready to answer. *n_new: tokens that were tokenized anew. */
int32_t chat_prepare(chat_conversation *c, kvrt_engine engine, kvrt_session session, uint64_t *n_new,
                     kvrt_error *error);
/* Notes what a generation added to the session. */
void chat_note_answer(chat_conversation *c, kvrt_engine engine, kvrt_session session, const char *answer, size_t len,
                      int32_t finish);

/* ---- chat_wrap.c: rows that end between words */
typedef struct chat_wrap {
    unsigned column;
    chat_text gap, word, out; /* spaces before the held word; the word; what is to be written */
    unsigned width;           /* of the word */
    uint32_t before;          /* its last character */
    bool begun;               /* its beginning is on the screen already */
} chat_wrap;
/* False when the reader has gone. The last word stays held until it ends, or until the flush. */
bool chat_wrap_text(chat_wrap *w, const char *text, size_t len);
bool chat_wrap_write(chat_wrap *w);
bool chat_wrap_flush(chat_wrap *w);
void chat_wrap_free(chat_wrap *w);

/* ---- chat_view.c: the answer on the screen */
typedef struct chat_view {
    bool wraps; /* on a terminal */
    chat_wrap wrap;
    bool colour, hide_thinking, in_thinking, closed, dim;
    chat_text pending; /* could become a marker */
    command_progress progress;
} chat_view;
void chat_view_start(chat_view *v, bool in_thinking);
void chat_view_text(chat_view *v, const char *text, size_t len);
void chat_view_end(chat_view *v);

/* ---- chat_input.c: the line editor */
typedef struct chat_input chat_input;
typedef enum chat_read { CHAT_LINE, CHAT_END, CHAT_INTERRUPT } chat_read;
chat_input *chat_input_open(const char *program);
void chat_input_close(chat_input *in);
/* One message: a line, or several between triple quotes; pasted text is whole. */
chat_read chat_input_read(chat_input *in, const char *prompt, chat_text *out);

/* ---- chat_signal.c: Ctrl-C. Twice within a second leaves with 130 and the terminal as it was. */
void chat_signal_install(void);
void chat_signal_session(kvrt_session session); /* whose generation Ctrl-C stops; NULL: none */
typedef enum chat_wait { CHAT_WAIT_READY, CHAT_WAIT_INTERRUPT, CHAT_WAIT_RESIZE } chat_wait;
chat_wait chat_signal_wait(int fd); /* until fd can be read (or is at its end), Ctrl-C, or a new window size */
bool chat_signal_take(void);        /* true once after each Ctrl-C */
bool chat_signal_resized(void);
/* Holds what is typed: it is not shown, and waits for the next prompt as it is. Let go before reading. */
void chat_signal_hold(bool hold);

/* ---- chat_save.c: files of conversations, and conversations beside this one */
typedef struct chat_branch {
    char name[32];
    kvrt_session session;
    chat_conversation conversation;
} chat_branch;
struct chat;
/* Writes the conversation and its session; says what went wrong. */
bool chat_save(struct chat *c, const char *path);
/* Makes this conversation the saved one. A status; IO: that has been said already. */
int32_t chat_load(struct chat *c, const char *path, kvrt_error *error);
void chat_save_command(struct chat *c, const char *argument, bool load);
void chat_fork(struct chat *c, const char *name);
void chat_switch(struct chat *c, const char *name);
void chat_free_branches(struct chat *c);

/* ---- chat_commands.c */
typedef struct chat {
    command_line line;
    kvrt_options *defaults; /* of the model folder */
    kvrt_engine engine;
    kvrt_session session;
    chat_conversation conversation;
    chat_view view;
    chat_text answer;
    kvrt_result last;
    uint64_t last_new;
    unsigned long long n_shifted; /* tokens that a full context dropped, not told yet */
    int warned;                   /* 0, 80, 95 */
    chat_branch *branches;        // (n_branches)
    size_t n_branches;
} chat;
typedef enum chat_action { CHAT_NOTHING, CHAT_ANSWER, CHAT_QUIT } chat_action;
extern const char *const chat_command_names[]; /* NULL at the end */
/* A file name as it was typed: quotes around it are taken off, ~/ is the home folder. */
void chat_path(const char *typed, char *out, size_t cap);
/* Runs "/name argument". */
chat_action chat_command(chat *c, const char *line);
void chat_show_stats(chat *c);

extern const command chat_command_about;
int chat_main(int argc, char **argv);

#endif
