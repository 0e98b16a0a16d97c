/* chat_save.c - conversations that outlive the command (/save, /load, --session) or stand beside one another (/fork, /switch). A file is what the
 * messages are, then the session as kvrt_session_save_to writes it:
 *
 *   "KVRTCHAT"  bytes of the messages' part (8), its FNV-1a (8), the part, the snapshot
 *
 * It is written beside its name and then renamed, so that there is the old one or the new one. */
#define _POSIX_C_SOURCE 200809L
#include "chat.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = {'K', 'V', 'R', 'T', 'C', 'H', 'A', 'T'};
enum { HEAD = 24 };

/* ------------------------------------------------------------------------------------------------------- messages --- */
static void put(chat_text *t, uint64_t value)
{
    char bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (char)(value >> (8 * i));
    chat_append(t, bytes, sizeof bytes);
}

static uint64_t get(const char *bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value |= (uint64_t)(unsigned char)bytes[i] << (8 * i);
    return value;
}

static uint64_t fnv(const char *bytes, size_t len)
{
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < len; i++) sum = (sum ^ (unsigned char)bytes[i]) * 1099511628211u;
    return sum;
}

static void write_messages(const chat_conversation *v, chat_text *out)
{
    put(out, v->n);
    for (size_t i = 0; i < v->n; i++) {
        const chat_message *m = &v->messages[i];
        chat_append(out, m->role, sizeof m->role);
        put(out, m->partial);
        put(out, m->content.len);
        chat_append(out, m->content.data, m->content.len);
    }
    put(out, v->held.len);
    chat_append(out, v->held.data ? v->held.data : "", v->held.len);
    put(out, v->held_plain);
    put(out, v->ids_plain);
}

typedef struct reading {
    const char *at, *end;
    bool bad;
} reading;

static const char *take(reading *r, uint64_t n)
{
    const char *at = r->at;
    if (n > (uint64_t)(r->end - r->at)) r->bad = true;
    if (r->bad) return "\0\0\0\0\0\0\0\0\0\0\0";
    r->at += n;
    return at;
}

static bool read_messages(const char *bytes, size_t len, chat_conversation *v)
{
    reading r = {bytes, bytes + len, false};
    const uint64_t n = get(take(&r, 8));
    for (uint64_t i = 0; i < n && !r.bad; i++) {
        char role[sizeof v->messages->role];
        memcpy(role, take(&r, sizeof role), sizeof role);
        role[sizeof role - 1] = 0;
        const bool partial = get(take(&r, 8)) != 0;
        const uint64_t n_content = get(take(&r, 8));
        const char *content = take(&r, n_content);
        if (r.bad) break;
        chat_add_message(v, role, content, n_content);
        v->messages[v->n - 1].partial = partial;
    }
    const uint64_t n_held = get(take(&r, 8));
    const char *held = take(&r, n_held);
    if (!r.bad) chat_append(&v->held, held, n_held);
    v->held_plain = get(take(&r, 8));
    v->ids_plain = get(take(&r, 8));
    return !r.bad && r.at == r.end && v->held_plain <= v->held.len;
}

/* ---------------------------------------------------------------------------------------------------------- files --- */
static int32_t to_file(void *file, const void *bytes, uint64_t n) { return fwrite(bytes, 1, n, file) != n; }

static int32_t write_all(const chat *c, FILE *file, kvrt_error *error)
{
    chat_text part = {0}, head = {0};
    write_messages(&c->conversation, &part);
    chat_append(&head, magic, sizeof magic);
    put(&head, part.len);
    put(&head, fnv(part.data, part.len));
    const bool written = !to_file(file, head.data, head.len) && !to_file(file, part.data, part.len);
    chat_free(&part);
    chat_free(&head);
    return written ? kvrt_session_save_to(c->session, 0, to_file, file, error) : KVRT_IO;
}

bool chat_save(chat *c, const char *path)
{
    char beside[4200];
    kvrt_error error = command_error();
    snprintf(beside, sizeof beside, "%s.%ld.part", path, (long)getpid());
    FILE *file = fopen(beside, "wb");
    int32_t status = file ? write_all(c, file, &error) : KVRT_IO;
    int why = errno;
    if (file) {
        if (status >= 0 && (fflush(file) != 0 || fsync(fileno(file)) != 0)) status = KVRT_IO, why = errno;
        if (fclose(file) != 0 && status >= 0) status = KVRT_IO, why = errno;
        if (status >= 0 && rename(beside, path) != 0) status = KVRT_IO, why = errno;
        if (status < 0) (void)unlink(beside);
    }
    if (status >= 0) return true;
    if (status == KVRT_IO) fprintf(stderr, "%s: cannot be written: %s\n", path, strerror(why));
    else fprintf(stderr, "%s\n", error.message);
    return false;
}

int32_t chat_load(chat *c, const char *path, kvrt_error *error)
{
    size_t len = 0;
    chat_conversation v = {.thinking = c->conversation.thinking};
    char *bytes = command_read_file(path, &len);
    if (!bytes) return KVRT_IO;
    int32_t status = KVRT_SNAPSHOT_CORRUPT;
    const uint64_t n = len >= HEAD ? get(bytes + 8) : 0;
    snprintf(error->message, sizeof error->message, "%s: not a saved conversation, or damaged", path);
    if (len >= HEAD && memcmp(bytes, magic, sizeof magic) == 0 && n <= len - HEAD &&
        get(bytes + 16) == fnv(bytes + HEAD, n) && read_messages(bytes + HEAD, n, &v))
        status = kvrt_session_load_bytes(c->session, bytes + HEAD + n, len - HEAD - n, 0, error);
    free(bytes);
    if (status < 0) {
        chat_conversation_free(&v);
        return status;
    }
    chat_conversation_free(&c->conversation);
    c->conversation = v;
    c->last = (kvrt_result){0};
    c->warned = 0;
    return status;
}

void chat_save_command(chat *c, const char *argument, bool load)
{
    char path[4096];
    kvrt_error error = command_error();
    kvrt_session_info info = {.size = sizeof info};
    if (!*argument) {
        fprintf(stderr, "/%s needs a file name\n", load ? "load" : "save");
        return;
    }
    chat_path(argument, path, sizeof path);
    if (load) {
        const int32_t status = chat_load(c, path, &error);
        if (status < 0) {
            if (status != KVRT_IO) fprintf(stderr, "%s\n", error.message); /* the reader has told */
            return;
        }
    } else if (!chat_save(c, path)) {
        return;
    }
    if (kvrt_session_get_info(c->session, &info, NULL) >= 0)
        fprintf(stderr,
                load ? "loaded %s: %u tokens, %u of them need not be computed again\n" : "wrote %s: %u tokens\n", path,
                info.n_tokens, info.n_cached);
}

/* ------------------------------------------------------------------------------------------------------- branches --- */
static chat_branch *branch_named(chat *c, const char *name)
{
    for (size_t i = 0; i < c->n_branches; i++)
        if (strcmp(c->branches[i].name, name) == 0) return &c->branches[i];
    return NULL;
}

static void copy_conversation(const chat_conversation *from, chat_conversation *to)
{
    *to = (chat_conversation){.thinking = from->thinking, .held_plain = from->held_plain, .ids_plain = from->ids_plain};
    for (size_t i = 0; i < from->n; i++) {
        const chat_message *m = &from->messages[i];
        chat_add_message(to, m->role, m->content.data, m->content.len);
        to->messages[i].partial = m->partial;
    }
    if (from->held.len) chat_append(&to->held, from->held.data, from->held.len);
}

static void list_branches(const chat *c)
{
    if (!c->n_branches) fprintf(stderr, "there is no other conversation (/fork NAME makes one)\n");
    for (size_t i = 0; i < c->n_branches; i++)
        fprintf(stderr, "%s: %zu messages\n", c->branches[i].name, c->branches[i].conversation.n);
}

void chat_fork(chat *c, const char *name)
{
    kvrt_error error = command_error();
    kvrt_session session;
    if (!*name || strlen(name) >= sizeof c->branches->name || branch_named(c, name)) {
        fprintf(stderr, "/fork needs a NAME that is not taken, of up to %zu bytes\n", sizeof c->branches->name - 1);
        return;
    }
    chat_branch *grown = realloc(c->branches, (c->n_branches + 1) * sizeof *grown);
    if (!grown) return;
    c->branches = grown;
    if (kvrt_session_fork(c->session, &session, &error) < 0) {
        fprintf(stderr, "%s\n", error.message);
        return;
    }
    chat_branch *branch = &c->branches[c->n_branches++];
    snprintf(branch->name, sizeof branch->name, "%s", name);
    branch->session = session;
    copy_conversation(&c->conversation, &branch->conversation);
    fprintf(stderr, "kept as %s; /switch %s goes back to here\n", name, name);
}

/* The two change places. */
void chat_switch(chat *c, const char *name)
{
    chat_branch *branch = branch_named(c, name);
    if (!branch) {
        if (*name) fprintf(stderr, "there is no conversation %s\n", name);
        list_branches(c);
        return;
    }
    const kvrt_session session = c->session;
    const chat_conversation conversation = c->conversation;
    c->session = branch->session, c->conversation = branch->conversation;
    branch->session = session, branch->conversation = conversation;
    c->last = (kvrt_result){0};
    c->warned = 0;
    fprintf(stderr, "here is %s, %zu messages; what was here is now called that\n", name, c->conversation.n);
}

void chat_free_branches(chat *c)
{
    for (size_t i = 0; i < c->n_branches; i++) chat_conversation_free(&c->branches[i].conversation);
    free(c->branches);
}
