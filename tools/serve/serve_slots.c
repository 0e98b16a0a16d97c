/* serve_slots.c - sessions by their number, as llama-server has them: which there are, and one of them to a file and back (--slot-save-path). A slot
 * is a seat; one that is in use answers 409. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int serve_slots(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_text out = {0};
    (void)body, (void)len;
    serve_puts(&out, "[");
    pthread_mutex_lock(&s->engine_lock);
    for (unsigned i = 0; i < s->n_seats; i++)
        serve_putf(&out, "%s{\"id\":%u,\"n_ctx\":%u,\"is_processing\":%s,\"n_tokens\":%zu,\"n_prompt\":%zu}",
                   i ? "," : "", i, s->info.ctx_size, s->seats[i].taken ? "true" : "false", s->seats[i].n_ids,
                   s->seats[i].n_prompt);
    pthread_mutex_unlock(&s->engine_lock);
    serve_puts(&out, "]");
    return serve_reply(s, connection, 200, "application/json", &out);
}

/* A name of a file, not a path. */
static bool is_name(const char *name)
{
    static const char can[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return *name && *name != '.' && strlen(name) < 200 && name[strspn(name, can)] == 0;
}

static unsigned long long size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (unsigned long long)st.st_size : 0;
}

typedef struct slot_work {
    unsigned id;
    char session[4096], text[4096], name[256];
    kvrt_error error;
} slot_work;

/* Under engine_lock: an HTTP status, and with 200 the answer in out. */
static int save(serve_server *s, slot_work *w, serve_text *out)
{
    const serve_seat *seat = &s->seats[w->id];
    const uint64_t begun = serve_now_ms();
    if (!serve_keep_can(seat)) return snprintf(w->error.message, sizeof w->error.message, "the slot is empty"), 400;
    if (serve_keep_save_seat(seat, w->session, w->text, &w->error) < 0) return 500;
    serve_putf(out,
               "{\"id_slot\":%u,\"filename\":\"%s\",\"n_saved\":%zu,\"n_written\":%llu,\"timings\":{\"save_ms\":%llu}}",
               w->id, w->name, seat->n_ids, size_of(w->session) + size_of(w->text),
               (unsigned long long)(serve_now_ms() - begun));
    return 200;
}

static int restore(serve_server *s, slot_work *w, serve_text *out)
{
    serve_seat *seat = &s->seats[w->id];
    const uint64_t begun = serve_now_ms();
    if (access(w->session, R_OK) != 0)
        return snprintf(w->error.message, sizeof w->error.message, "filename: there is no %s", w->name), 400;
    serve_seat_forget(seat);
    if (serve_keep_load_seat(s, seat, w->session, w->text, &w->error) < 0) {
        serve_seat_forget(seat);
        return 400;
    }
    seat->used = ++s->clock;
    serve_putf(
        out,
        "{\"id_slot\":%u,\"filename\":\"%s\",\"n_restored\":%zu,\"n_read\":%llu,\"timings\":{\"restore_ms\":%llu}}",
        w->id, w->name, seat->n_ids, size_of(w->session) + size_of(w->text),
        (unsigned long long)(serve_now_ms() - begun));
    return 200;
}

static int erase(serve_server *s, const slot_work *w, serve_text *out)
{
    serve_putf(out, "{\"id_slot\":%u,\"n_erased\":%zu}", w->id, s->seats[w->id].n_ids);
    serve_seat_forget(&s->seats[w->id]);
    return 200;
}

/* The file's name out of the body. */
static bool read_name(serve_server *s, slot_work *w, const char *body, size_t len)
{
    serve_json json;
    serve_text name = {0};
    if (serve_json_read(&json, body, len))
        serve_json_string(&json, serve_json_get(&json, json.nodes, "filename"), &name);
    serve_json_free(&json);
    const bool ok = name.len && strlen(name.data) == name.len && is_name(name.data);
    if (ok) {
        snprintf(w->name, sizeof w->name, "%s", name.data);
        snprintf(w->session, sizeof w->session, "%s/%s.session", s->slots_folder, w->name);
        snprintf(w->text, sizeof w->text, "%s/%s.text", s->slots_folder, w->name);
    }
    serve_text_free(&name);
    return ok;
}

int serve_slot(serve_server *s, struct MHD_Connection *connection, const char *number, const char *body, size_t len)
{
    slot_work *w = calloc(1, sizeof *w);
    const char *action = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "action");
    char *end;
    const unsigned long id = strtoul(number, &end, 10); /* which takes blanks and signs, too */
    const bool saves = action && strcmp(action, "save") == 0, restores = action && strcmp(action, "restore") == 0,
               erases = action && strcmp(action, "erase") == 0;
    serve_text out = {0};
    int code = 400;
    if (!w) return MHD_NO;
    w->error.size = sizeof w->error;
    w->id = (unsigned)id;
    char *why = w->error.message;
    const size_t cap = sizeof w->error.message;
    if (*number < '0' || *number > '9' || *end || id >= s->n_seats)
        snprintf(why, cap, "slot: need 0..%u", s->n_seats - 1), code = 404;
    else if (!saves && !restores && !erases) snprintf(why, cap, "action: need save, restore or erase");
    else if (!erases && !s->slots_folder) snprintf(why, cap, "slots are not saved here (--slot-save-path)"), code = 501;
    else if (!erases && !read_name(s, w, body, len))
        snprintf(why, cap, "filename: need letters, digits, '.', '_', '-', and no '.' at its beginning");
    else {
        pthread_mutex_lock(&s->engine_lock);
        if (s->seats[id].taken) snprintf(why, cap, "the slot is in use"), code = 409;
        else code = saves ? save(s, w, &out) : restores ? restore(s, w, &out) : erase(s, w, &out);
        pthread_mutex_unlock(&s->engine_lock);
    }
    const int result = code == 200 ? serve_reply(s, connection, 200, "application/json", &out)
                                   : serve_reply_error(s, connection, NULL, code, NULL, NULL, why);
    free(w);
    return result;
}
