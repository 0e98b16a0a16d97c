/* serve_segments.c - conversations to and from the store (serve_store.h). Writing has a thread of its own, with a short list of what waits: when
 * the store is slower than the answers, the oldest are left out. Reading is done by the request that needs it, outside all locks. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"
#include "serve_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0x31676573747672u /* "rvtseg1" */
#define LEAST_PART 1024u        /* bytes: smaller ones stand in the list */
#define BATCH 16u
#define BATCH_BYTES (32u << 20)
#define WAITING 8u              /* conversations to be written */
#define MOST_BYTES (1ull << 34) /* of a session that is believed */
#define ALONE_MS 2000u          /* that a store which failed is left alone */
#define TURNS_BACK 3u           /* answers of the prompt before which an earlier turn is looked for */

typedef struct part {
    uint64_t len;
    store_name name; /* 0, 0: its bytes stand in the list */
} part;
typedef struct head {
    uint64_t magic, total; /* bytes of the whole list */
    store_name sum;        /* of what follows this field */
    int64_t seed;
    uint64_t n_ids, n_prompt, prompt_len, pieces_len, n_parts, inline_len, session_len;
} head; /* then prompt, pieces, uint64_t ends (n_ids - n_prompt), parts (n_parts), inline bytes */

typedef struct serve_segment { /* a conversation on its way to the store */
    serve_text session;
    part *parts; /* (n_parts), without names */
    size_t n_parts, cap_parts;
    serve_text prompt, pieces;
    uint64_t *ends;
    store_name key;
    int64_t seed;
    size_t n_ids, n_prompt;
    bool failed, done, waited; /* waited: somebody waits for it, and frees it */
    struct serve_segment *next;
} segment;

typedef struct serve_store {
    const store_kind *kind;
    void *reader, *writer;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_mutex_t reading;
    pthread_cond_t changed;
    segment *first;
    unsigned n_waiting;
    bool ends;
    uint64_t down_until_ms;
    serve_store_counts counts;
} serve_store;

/* ------------------------------------------------------------------------------------------------------- health --- */
static bool is_down(serve_store *st)
{
    pthread_mutex_lock(&st->lock);
    const bool down = serve_now_ms() < st->down_until_ms;
    pthread_mutex_unlock(&st->lock);
    return down;
}

static bool note(serve_store *st, bool ok)
{
    if (ok) return true;
    pthread_mutex_lock(&st->lock);
    if (serve_now_ms() >= st->down_until_ms) fprintf(stderr, "kvrt serve: the store failed; left alone for a while\n");
    st->down_until_ms = serve_now_ms() + ALONE_MS;
    st->counts.errors++;
    pthread_mutex_unlock(&st->lock);
    return false;
}

static void count(serve_store *st, uint64_t *what, uint64_t n)
{
    pthread_mutex_lock(&st->lock);
    *what += n;
    pthread_mutex_unlock(&st->lock);
}

serve_store_counts serve_store_get_counts(serve_server *s)
{
    serve_store_counts counts = {0};
    if (!s->store) return counts;
    pthread_mutex_lock(&s->store->lock);
    counts = s->store->counts;
    pthread_mutex_unlock(&s->store->lock);
    return counts;
}

/* ------------------------------------------------------------------------------------------------------ writing --- */
static store_name key_of(const serve_text *text, const int32_t *ids, size_t n)
{
    const store_name of_text = {1, 1}, of_ids = {2, 2};
    return text->len ? store_hash(text->data, text->len, of_text) : store_hash(ids, n * sizeof *ids, of_ids);
}

static void segment_free(segment *g)
{
    if (!g) return;
    serve_text_free(&g->session);
    serve_text_free(&g->prompt);
    serve_text_free(&g->pieces);
    free(g->parts);
    free(g->ends);
    free(g);
}

static int32_t collect(void *user, const void *bytes, uint64_t n)
{
    segment *g = user;
    if (g->n_parts == g->cap_parts) {
        const size_t cap = g->cap_parts * 2 + 64;
        part *grown = realloc(g->parts, cap * sizeof *grown);
        if (!grown) return 1;
        g->parts = grown;
        g->cap_parts = cap;
    }
    g->parts[g->n_parts++] = (part){.len = n};
    serve_put(&g->session, bytes, n);
    return g->session.failed;
}

static segment *take_segment(const serve_seat *seat)
{
    kvrt_error error = {.size = sizeof error};
    segment *g = calloc(1, sizeof *g);
    const size_t n = seat->n_ids - seat->n_prompt;
    if (!g) return NULL;
    *g = (segment){.key = key_of(&seat->prompt, seat->ids, seat->n_prompt),
                   .seed = seat->seed,
                   .n_ids = seat->n_ids,
                   .n_prompt = seat->n_prompt};
    serve_put(&g->prompt, seat->prompt.data ? seat->prompt.data : "", seat->prompt.len);
    serve_put(&g->pieces, seat->pieces.data ? seat->pieces.data : "", seat->pieces.len);
    g->ends = malloc((n + 1) * sizeof *g->ends);
    for (size_t i = 0; g->ends && i < n; i++) g->ends[i] = seat->ends[i];
    if (g->ends && !g->prompt.failed && !g->pieces.failed &&
        kvrt_session_save_to(seat->session, 0, collect, g, &error) >= 0)
        return g;
    segment_free(g);
    return NULL;
}

struct serve_segment *serve_store_take(serve_server *s, const serve_seat *seat)
{
    const bool writes = s->store && s->role != SERVE_DECODE && seat->n_ids && !is_down(s->store);
    return writes ? take_segment(seat) : NULL;
}

void serve_store_put(serve_server *s, segment *g)
{
    serve_store *st = s->store;
    segment *dropped = NULL;
    if (!g) return;
    const bool waits = s->role == SERVE_PREFILL; /* who is told that a prompt is computed may ask for it at once */
    g->waited = waits;
    pthread_mutex_lock(&st->lock);
    segment **last = &st->first;
    while (*last) last = &(*last)->next;
    *last = g;
    if (++st->n_waiting > WAITING && !waits) {
        dropped = st->first;
        st->first = dropped->next;
        st->n_waiting--;
        st->counts.dropped++;
    }
    pthread_cond_broadcast(&st->changed);
    while (waits && !g->done) pthread_cond_wait(&st->changed, &st->lock);
    pthread_mutex_unlock(&st->lock);
    segment_free(dropped);
    if (waits) segment_free(g);
}

/* Writes what is not there yet of up to BATCH objects. */
static bool write_batch(serve_store *st, store_object *objects, size_t n)
{
    store_object missing[BATCH];
    size_t n_missing = 0;
    uint64_t bytes = 0;
    if (!note(st, st->kind->exists(st->writer, objects, n))) return false;
    for (size_t i = 0; i < n; i++)
        if (!objects[i].there) missing[n_missing++] = objects[i], bytes += objects[i].len;
    if (n_missing && !note(st, st->kind->set(st->writer, missing, n_missing))) return false;
    count(st, &st->counts.written_bytes, bytes);
    return true;
}

static bool write_parts(serve_store *st, segment *g)
{
    store_object objects[BATCH];
    size_t n = 0, bytes = 0;
    char *at = g->session.data;
    bool ok = true;
    for (size_t i = 0; i < g->n_parts && ok; i++) {
        part *p = &g->parts[i];
        if (p->len >= LEAST_PART) {
            p->name = store_hash(at, p->len, (store_name){3, 3});
            objects[n++] = (store_object){.name = p->name, .bytes = at, .len = p->len};
            bytes += p->len;
        }
        at += p->len;
        if (n < BATCH && bytes < BATCH_BYTES) continue;
        ok = write_batch(st, objects, n);
        n = bytes = 0;
    }
    return ok && (n == 0 || write_batch(st, objects, n));
}

static bool write_segment(serve_store *st, segment *g)
{
    serve_text out = {0};
    if (!write_parts(st, g)) return false;
    head h = {.magic = MAGIC,
              .seed = g->seed,
              .n_ids = g->n_ids,
              .n_prompt = g->n_prompt,
              .prompt_len = g->prompt.len,
              .pieces_len = g->pieces.len,
              .n_parts = g->n_parts,
              .session_len = g->session.len};
    for (size_t i = 0; i < g->n_parts; i++) h.inline_len += g->parts[i].len < LEAST_PART ? g->parts[i].len : 0;
    serve_put(&out, (const char *)&h, sizeof h);
    serve_put(&out, g->prompt.data, g->prompt.len);
    serve_put(&out, g->pieces.data, g->pieces.len);
    serve_put(&out, (const char *)g->ends, (g->n_ids - g->n_prompt) * sizeof *g->ends);
    serve_put(&out, (const char *)g->parts, g->n_parts * sizeof *g->parts);
    const char *at = g->session.data;
    for (size_t i = 0; i < g->n_parts; at += g->parts[i++].len)
        if (g->parts[i].len < LEAST_PART) serve_put(&out, at, g->parts[i].len);
    bool ok = !out.failed;
    if (ok) {
        head *first = (head *)(void *)out.data;
        first->total = out.len;
        const size_t from = offsetof(head, seed);
        first->sum = store_hash(out.data + from, out.len - from, (store_name){4, 4});
        const store_object list = {.name = g->key, .bytes = out.data, .len = out.len};
        ok = note(st, st->kind->set(st->writer, &list, 1));
        if (ok) count(st, &st->counts.written_bytes, out.len);
    }
    serve_text_free(&out);
    return ok;
}

static void *write_all(void *of)
{
    serve_store *st = of;
    pthread_mutex_lock(&st->lock);
    while (st->first || !st->ends) {
        segment *g = st->first;
        if (!g) {
            pthread_cond_wait(&st->changed, &st->lock);
            continue;
        }
        st->first = g->next;
        st->n_waiting--;
        pthread_mutex_unlock(&st->lock);
        const bool ok = !is_down(st) && write_segment(st, g);
        pthread_mutex_lock(&st->lock);
        st->counts.written += ok;
        g->done = true;
        if (!g->waited) segment_free(g);
        pthread_cond_broadcast(&st->changed);
    }
    pthread_mutex_unlock(&st->lock);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------ reading --- */
/* The list is what it says it is. */
static bool is_right(const store_object *o)
{
    const head *h = (const head *)(const void *)o->bytes;
    const size_t from = offsetof(head, seed);
    if (o->len < sizeof *h || h->magic != MAGIC || h->total != o->len) return false;
    const store_name sum = store_hash(o->bytes + from, o->len - from, (store_name){4, 4});
    if (sum.a != h->sum.a || sum.b != h->sum.b || h->n_prompt == 0 || h->n_prompt > h->n_ids) return false;
    uint64_t room = o->len - sizeof *h;
    const uint64_t need[] = {h->prompt_len, h->pieces_len, h->inline_len};
    for (size_t i = 0; i < 3; i++) {
        if (need[i] > room) return false;
        room -= need[i];
    }
    const uint64_t n_ends = h->n_ids - h->n_prompt;
    return n_ends <= room / 8 && h->n_parts <= room / sizeof(part) && n_ends * 8 + h->n_parts * sizeof(part) == room &&
           h->session_len <= MOST_BYTES;
}

/* The seat as the list tells it, without a session. Its text belongs to the seat. */
static bool seat_of(const store_object *o, serve_seat *seat)
{
    const head *h = (const head *)(const void *)o->bytes;
    const char *at = o->bytes + sizeof *h;
    const size_t n = (size_t)(h->n_ids - h->n_prompt);
    *seat = (serve_seat){.seed = h->seed, .n_ids = h->n_ids, .n_prompt = h->n_prompt};
    serve_put(&seat->prompt, at, h->prompt_len);
    serve_put(&seat->pieces, at + h->prompt_len, h->pieces_len);
    at += h->prompt_len + h->pieces_len;
    seat->ends = malloc((n + 1) * sizeof *seat->ends);
    bool ok = seat->ends && !seat->prompt.failed && !seat->pieces.failed;
    for (size_t i = 0, before = 0; ok && i < n; i++) {
        uint64_t end;
        memcpy(&end, at + i * sizeof end, sizeof end);
        ok = end >= before && end <= h->pieces_len;
        seat->ends[i] = before = (size_t)end;
    }
    return ok && (n == 0 || seat->ends[n - 1] == h->pieces_len);
}

/* Fetches the parts [*i, n) up to a batch and puts them at their places. */
static bool read_batch(serve_store *st, const part *parts, size_t n, size_t *i, char **to, const char **inlined)
{
    store_object objects[BATCH] = {0};
    char *places[BATCH];
    size_t n_objects = 0, bytes = 0;
    for (; *i < n && n_objects < BATCH && bytes < BATCH_BYTES; ++*i) {
        const part *p = &parts[*i];
        if (p->len < LEAST_PART) memcpy(*to, *inlined, p->len), *inlined += p->len;
        else {
            objects[n_objects] = (store_object){.name = p->name, .len = p->len};
            places[n_objects++] = *to;
            bytes += p->len;
        }
        *to += p->len;
    }
    bool ok = n_objects == 0 || note(st, st->kind->get(st->reader, objects, n_objects));
    for (size_t k = 0; k < n_objects; k++) {
        store_object *o = &objects[k];
        const store_name want = o->name;
        if (ok && o->there) {
            const store_name is = store_hash(o->bytes, o->len, (store_name){3, 3});
            o->there = is.a == want.a && is.b == want.b;
        }
        ok = ok && o->there;
        if (ok) memcpy(places[k], o->bytes, o->len);
        free(o->bytes);
    }
    count(st, &st->counts.read_bytes, ok ? bytes : 0);
    return ok;
}

/* All bytes of the session; NULL: some are lost, or are not what they were. */
static char *read_session(serve_store *st, const store_object *o)
{
    const head *h = (const head *)(const void *)o->bytes;
    const char *at = o->bytes + sizeof *h + h->prompt_len + h->pieces_len + (h->n_ids - h->n_prompt) * 8;
    part *parts = malloc((h->n_parts + 1) * sizeof *parts);
    uint64_t total = 0, inlined = 0;
    if (!parts) return NULL;
    memcpy(parts, at, h->n_parts * sizeof *parts);
    const char *inline_at = at + h->n_parts * sizeof *parts;
    for (size_t i = 0; i < h->n_parts && total <= h->session_len; i++) {
        if (parts[i].len > h->session_len) total = UINT64_MAX / 2;
        total += parts[i].len;
        inlined += parts[i].len < LEAST_PART ? parts[i].len : 0;
    }
    char *session = total == h->session_len && inlined == h->inline_len ? malloc(total + 1) : NULL, *to = session;
    bool ok = session != NULL;
    for (size_t i = 0; ok && i < h->n_parts;) ok = read_batch(st, parts, h->n_parts, &i, &to, &inline_at);
    free(parts);
    if (!ok) free(session);
    return ok ? session : NULL;
}

/* The prompts of earlier turns: this one up to its last answers, as the template spells them. */
static size_t earlier_keys(serve_server *s, const serve_prompt *prompt, store_name *keys, size_t most)
{
    serve_json j;
    uint32_t cuts[TURNS_BACK];
    size_t n = 0, n_keys = 0;
    if (!prompt->messages.len || !serve_json_read(&j, prompt->messages.data, prompt->messages.len)) return 0;
    for (const serve_node *m = serve_json_child(&j, j.nodes); m; m = serve_json_next(&j, m)) {
        if (m == serve_json_child(&j, j.nodes) || !serve_json_is(&j, serve_json_get(&j, m, "role"), "assistant"))
            continue;
        if (n == TURNS_BACK) memmove(cuts, cuts + 1, --n * sizeof *cuts);
        cuts[n++] = m->start;
    }
    while (n-- > 0 && n_keys < most) {
        serve_prompt earlier = {
            .variables = prompt->variables, .tools = prompt->tools, .local_time = prompt->local_time};
        kvrt_error error = {.size = sizeof error};
        size_t end = cuts[n], n_ids;
        int32_t *ids = NULL;
        while (end && prompt->messages.data[end - 1] != ',') end--;
        if (!end) break;
        serve_put(&earlier.messages, prompt->messages.data, end - 1);
        serve_puts(&earlier.messages, "]");
        if (!earlier.messages.failed && serve_render(s, &earlier, 0, &ids, &n_ids, &earlier.text, &error) >= 0 &&
            earlier.text.len)
            keys[n_keys++] = key_of(&earlier.text, NULL, 0);
        free(ids);
        serve_text_free(&earlier.messages);
        serve_text_free(&earlier.text);
    }
    serve_json_free(&j);
    return n_keys;
}

void serve_store_find(serve_server *s, const serve_prompt *prompt, size_t kept)
{
    serve_store *st = s->store;
    store_name keys[1 + TURNS_BACK];
    store_object lists[1 + TURNS_BACK] = {0};
    size_t best = SIZE_MAX, best_kept = kept;
    if (!st || s->role == SERVE_PREFILL || is_down(st)) return;
    keys[0] = key_of(&prompt->text, prompt->ids, prompt->n);
    const size_t n = 1 + (kept ? 0 : earlier_keys(s, prompt, keys + 1, TURNS_BACK));
    for (size_t i = 0; i < n; i++) lists[i].name = keys[i];
    pthread_mutex_lock(&st->reading);
    const bool ok = note(st, st->kind->get(st->reader, lists, n));
    serve_seat found = {0};
    for (size_t i = 0; ok && i < n; i++) {
        serve_seat seat = {0};
        const bool right = lists[i].there && is_right(&lists[i]) && seat_of(&lists[i], &seat);
        const size_t would = right ? serve_seat_would_keep(&seat, prompt) : 0;
        if (would > best_kept) {
            serve_seat_forget(&found);
            found = seat, best = i, best_kept = would;
        } else serve_seat_forget(&seat);
        if (lists[i].there && !right) count(st, &st->counts.damaged, 1);
    }
    char *session = best < n ? read_session(st, &lists[best]) : NULL;
    const uint64_t len = best < n ? ((const head *)(const void *)lists[best].bytes)->session_len : 0;
    pthread_mutex_unlock(&st->reading);
    const bool lost = best < n && !session;
    bool taken = false;
    if (session) taken = serve_seat_import(s, &found, session, len);
    else serve_seat_forget(&found);
    free(session);
    for (size_t i = 0; i < n; i++) free(lists[i].bytes);
    pthread_mutex_lock(&st->lock);
    st->counts.lookups++;
    st->counts.hits += taken;
    st->counts.tokens += taken ? best_kept - kept : 0;
    st->counts.damaged += lost;
    pthread_mutex_unlock(&st->lock);
}

/* ------------------------------------------------------------------------------------------------- begin and end --- */
/* What a session without tokens is written as has all that must be the same, and nothing else. */
static bool name_space(serve_server *s, store_name *out, kvrt_error *error)
{
    kvrt_session session = NULL;
    segment g = {0};
    int32_t status = kvrt_session_create(s->engine, NULL, &session, error);
    if (status >= 0) status = kvrt_session_save_to(session, 0, collect, &g, error);
    if (status >= 0) *out = store_hash(g.session.data, g.session.len, (store_name){5, sizeof(head)});
    if (session) (void)kvrt_session_close(session, NULL);
    serve_text_free(&g.session);
    free(g.parts);
    return status >= 0;
}

bool serve_store_start(serve_server *s)
{
    kvrt_error error = {.size = sizeof error};
    char why[200] = "out of memory";
    if (!s->store_where) return true;
    const bool remote = strncmp(s->store_where, "redis://", 8) == 0 || strncmp(s->store_where, "unix:", 5) == 0;
    store_settings settings = {.where = s->store_where, .ttl_s = s->store_ttl_s, .limit_bytes = s->store_limit};
    serve_store *st = calloc(1, sizeof *st);
    if (!st || !name_space(s, &settings.name_space, &error)) {
        free(st);
        return fprintf(stderr, "kvrt serve: --store: %s\n", error.message), false;
    }
    st->kind = remote ? &store_redis : &store_directory;
    st->reader = st->kind->open(&settings, why, sizeof why);
    st->writer = st->reader ? st->kind->open(&settings, why, sizeof why) : NULL;
    pthread_mutex_init(&st->lock, NULL);
    pthread_mutex_init(&st->reading, NULL);
    pthread_cond_init(&st->changed, NULL);
    if (st->writer && pthread_create(&st->thread, NULL, write_all, st) == 0) return s->store = st, true;
    fprintf(stderr, "kvrt serve: --store %s: %s\n", s->store_where, why);
    if (st->writer) st->kind->close(st->writer);
    if (st->reader) st->kind->close(st->reader);
    free(st);
    return false;
}

void serve_store_stop(serve_server *s)
{
    serve_store *st = s->store;
    if (!st) return;
    pthread_mutex_lock(&st->lock);
    st->ends = true;
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
    pthread_join(st->thread, NULL);
    st->kind->close(st->reader);
    st->kind->close(st->writer);
    pthread_cond_destroy(&st->changed);
    pthread_mutex_destroy(&st->reading);
    pthread_mutex_destroy(&st->lock);
    free(st);
    s->store = NULL;
}
