/* serve_keep.c - conversations over a restart (--keep DIRECTORY): when the server ends, each seat's session goes to seat-N.session, as
 * kvrt_session_save writes it, and what the seat knows about it to seat-N.text; when it begins they come back. The two belong together when the
 * second's digest is that of the tokens in the first. What does not fit, is damaged or belongs to another model is left out, with a line that
 * says so: then that conversation is computed again. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x327461657372766bu /* "kvrseat2" */
#define MOST (1u << 28)           /* bytes of a text file that are believed */

typedef struct keep_header {
    uint64_t magic, digest, n_ids, n_prompt, prompt_len, pieces_len;
    int64_t seed;
} keep_header; /* then the prompt's bytes, the pieces', and where each ends: uint64_t (n_ids - n_prompt) */

static uint64_t digest(const int32_t *ids, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, over the bytes of the ids */
    const unsigned char *bytes = (const unsigned char *)ids;
    for (size_t i = 0; i < n * sizeof *ids; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static bool path_of(const serve_server *s, unsigned i, const char *end, char *path, size_t cap)
{
    const int n = snprintf(path, cap, "%s/seat-%u%s", s->keep, i, end);
    return n > 0 && (size_t)n < cap;
}

/* ------------------------------------------------------------------------------------------------------- saving --- */
static bool write_text(const serve_seat *seat, const char *path)
{
    const keep_header h = {
        MAGIC,     digest(seat->ids, seat->n_ids), seat->n_ids, seat->n_prompt, seat->prompt.len, seat->pieces.len,
        seat->seed};
    FILE *file = fopen(path, "wb");
    if (!file) return false;
    bool ok = fwrite(&h, sizeof h, 1, file) == 1;
    ok = ok && fwrite(seat->prompt.len ? seat->prompt.data : "", 1, seat->prompt.len, file) == seat->prompt.len;
    ok = ok && fwrite(seat->pieces.len ? seat->pieces.data : "", 1, seat->pieces.len, file) == seat->pieces.len;
    for (size_t i = 0; ok && i < seat->n_ids - seat->n_prompt; i++) {
        const uint64_t end = seat->ends[i];
        ok = fwrite(&end, sizeof end, 1, file) == 1;
    }
    return fclose(file) == 0 && ok;
}

int32_t serve_keep_save_seat(const serve_seat *seat, const char *session, const char *text, kvrt_error *error)
{
    (void)unlink(text); /* of the life before: without it the session is not believed */
    const int32_t status = kvrt_session_save(seat->session, session, 0, error);
    if (status < 0 || write_text(seat, text)) return status;
    snprintf(error->message, sizeof error->message, "%.300s: %s", text, strerror(errno));
    return KVRT_IO;
}

bool serve_keep_can(const serve_seat *seat)
{
    return seat->session && seat->n_ids && (seat->n_ids == seat->n_prompt || seat->ends);
}

void serve_keep_save(serve_server *s)
{
    char session[4096], text[4096];
    unsigned n = 0;
    if (s->keep) (void)mkdir(s->keep, 0700); /* somebody may have tidied up */
    for (unsigned i = 0; s->keep && i < s->n_seats; i++) {
        const serve_seat *seat = &s->seats[i];
        kvrt_error error = {.size = sizeof error};
        if (!path_of(s, i, ".session", session, sizeof session) || !path_of(s, i, ".text", text, sizeof text)) continue;
        if (!serve_keep_can(seat)) {
            (void)unlink(text);
            (void)unlink(session);
            continue;
        }
        if (serve_keep_save_seat(seat, session, text, &error) >= 0) n++;
        else fprintf(stderr, "kvrt serve: --keep: %s\n", error.message);
    }
    if (s->keep) fprintf(stderr, "kvrt serve: kept %u conversations in %s\n", n, s->keep);
}

/* ------------------------------------------------------------------------------------------------------ loading --- */
static bool take(FILE *file, serve_text *out, uint64_t len)
{
    char *data = len < MOST ? malloc(len + 1) : NULL;
    if (!data || fread(data, 1, len, file) != len) return free(data), false;
    serve_put(out, data, len);
    free(data);
    return !out->failed;
}

/* The seat as the file says it; its ids are the session's. */
static bool read_text(serve_seat *seat, const char *path)
{
    keep_header h;
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    bool ok = fread(&h, sizeof h, 1, file) == 1 && h.magic == MAGIC && h.n_ids == seat->n_ids && h.n_prompt &&
              h.n_prompt <= h.n_ids && h.digest == digest(seat->ids, seat->n_ids);
    const size_t n = ok ? (size_t)(h.n_ids - h.n_prompt) : 0;
    ok = ok && take(file, &seat->prompt, h.prompt_len) && take(file, &seat->pieces, h.pieces_len);
    seat->ends = ok ? malloc((n + 1) * sizeof *seat->ends) : NULL;
    ok = ok && seat->ends;
    uint64_t end = 0;
    for (size_t i = 0; ok && i < n; i++) {
        const uint64_t before = end;
        ok = fread(&end, sizeof end, 1, file) == 1 && end >= before && end <= h.pieces_len;
        seat->ends[i] = (size_t)end;
    }
    ok = ok && end == (n ? h.pieces_len : 0);
    if (ok) seat->n_prompt = (size_t)h.n_prompt, seat->seed = h.seed;
    (void)fclose(file);
    return ok;
}

int32_t serve_keep_load_seat(serve_server *s, serve_seat *seat, const char *session, const char *text,
                             kvrt_error *error)
{
    uint64_t n = 0;
    int32_t status = kvrt_session_create(s->engine, NULL, &seat->session, error);
    if (status >= 0) status = kvrt_session_load(seat->session, session, 0, error);
    if (status >= 0) status = kvrt_session_tokens(seat->session, NULL, 0, &n, error);
    if (status < 0) return status;
    seat->ids = malloc((n + 1) * sizeof *seat->ids);
    if (!seat->ids) return KVRT_NOMEM_HOST;
    status = kvrt_session_tokens(seat->session, seat->ids, n, &n, error);
    seat->n_ids = (size_t)n;
    if (status >= 0 && !read_text(seat, text)) {
        snprintf(error->message, sizeof error->message, "%.300s: not what belongs to the session beside it", text);
        status = KVRT_FORMAT;
    }
    return status;
}

bool serve_keep_load(serve_server *s)
{
    char session[4096], text[4096];
    unsigned n = 0;
    if (!s->keep) return true;
    if (mkdir(s->keep, 0700) != 0 && errno != EEXIST)
        return fprintf(stderr, "kvrt serve: --keep %s: %s\n", s->keep, strerror(errno)), false;
    for (unsigned i = 0; i < s->n_seats; i++) {
        kvrt_error error = {.size = sizeof error};
        if (!path_of(s, i, ".session", session, sizeof session) || !path_of(s, i, ".text", text, sizeof text)) continue;
        if (access(session, R_OK) != 0 || access(text, R_OK) != 0) continue;
        serve_seat *seat = &s->seats[i];
        if (serve_keep_load_seat(s, seat, session, text, &error) >= 0) {
            seat->used = ++s->clock;
            n++;
            continue;
        }
        fprintf(stderr, "kvrt serve: --keep: %s\n", error.message[0] ? error.message : "out of memory");
        serve_seat_forget(seat);
    }
    if (n) fprintf(stderr, "kvrt serve: %u conversations are back\n", n);
    return true;
}
