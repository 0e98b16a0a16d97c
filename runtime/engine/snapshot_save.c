/* snapshot_save.c - writing a snapshot: to a file that is replaced as a whole, to memory, to the host's callback. Page after page, so that nothing
 * of the size of the cache is held. */
#include "drive.h"
#include "seat.h"
#include "snapshot.h"
#include "../base/checksum.h"

#include <string.h>

/* Where the bytes go. */
typedef struct sink {
    kvrt_status (*write)(struct sink *sink, const void *bytes, uint64_t n, kvrt_error *error);
    void *user;
    kvrt_write_fn fn;
    uint64_t n, cap; /* in memory: written, room */
    uint64_t sum;    /* of all parts so far */
} sink;

static kvrt_status to_file(sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    return kvi_os_replace_write(out->user, bytes, n, error);
}

/* Counts what does not fit. */
static kvrt_status to_memory(sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    (void)error;
    if (out->n < out->cap) memcpy((uint8_t *)out->user + out->n, bytes, n < out->cap - out->n ? n : out->cap - out->n);
    out->n += n;
    return KVRT_OK;
}

static kvrt_status to_host(sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    if (out->fn(out->user, bytes, n) == 0) return KVRT_OK;
    return kvi_error_set(error, KVRT_IO, "snapshot: the host's write function refused %llu bytes",
                         (unsigned long long)n);
}

/* A part and its checksum. */
static kvrt_status write_part(sink *out, const void *bytes, uint64_t n, kvrt_error *error)
{
    uint8_t sum[8];
    out->sum = kvi_checksum(bytes, n, out->sum);
    for (int i = 0; i < 8; i++) sum[i] = (uint8_t)(out->sum >> (8 * i));
    KVI_TRY(out->write(out, bytes, n, error));
    return out->write(out, sum, sizeof sum, error);
}

/* Calls fn for every page that is written, then for the state; stops at a failure. */
static kvrt_status each_page(const kvi_session *s,
                             kvrt_status (*fn)(void *user, uint32_t id, uint32_t g, uint32_t p, kvrt_error *error),
                             void *user, kvrt_error *error)
{
    const uint32_t n_pages = (s->n_cached + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = 0; p < n_pages; p++)
            if (s->pages.ids[g][p] != KVI_NO_PAGE) KVI_TRY(fn(user, s->pages.ids[g][p], g, p, error));
    if (s->states.live != KVI_NO_PAGE && s->n_cached) return fn(user, s->states.live, KVI_MAX_GROUPS, 0, error);
    return KVRT_OK;
}

typedef struct page_list {
    const kvi_store *store;
    kvi_snapshot_page *pages; /* NULL: counts */
    uint32_t n, most_units;
    uint64_t bytes;
} page_list;

static kvrt_status list_page(void *user, uint32_t id, uint32_t g, uint32_t p, kvrt_error *error)
{
    page_list *list = user;
    const kvi_page *page = &list->store->pages[id];
    (void)error;
    if (list->pages) list->pages[list->n] = (kvi_snapshot_page){g, p, page->format, page->units};
    list->n++;
    list->bytes += (uint64_t)page->units * KVI_KV_UNIT + 8;
    if (page->units > list->most_units) list->most_units = page->units;
    return KVRT_OK;
}

typedef struct page_writer {
    kvi_engine *engine;
    sink *out;
    uint8_t *bytes; /* of the largest page */
} page_writer;

static kvrt_status write_page(void *user, uint32_t id, uint32_t g, uint32_t p, kvrt_error *error)
{
    page_writer *w = user;
    kvi_engine *e = w->engine;
    const kvi_page *page = &e->store.pages[id];
    const uint64_t n = (uint64_t)page->units * KVI_KV_UNIT;
    (void)g, (void)p;
    const kvrt_status status = e->backend->pool_read(e->device, (uint64_t)page->unit * KVI_KV_UNIT, w->bytes, n, error);
    KVI_TRY(kvi_engine_noted(e, status));
    return write_part(w->out, w->bytes, n, error);
}

static kvi_snapshot describe(kvi_session *s, bool tokens_only, const page_list *list)
{
    const kvi_generation *gen = &s->gen;
    const kvi_fingerprints *f = kvi_engine_fingerprints(s->engine);
    kvi_snapshot out = {.version = KVI_SNAPSHOT_VERSION,
                        .model = f->model,
                        .tokenizer = f->tokenizer,
                        .cache = f->cache,
                        .vocab_size = s->engine->config.vocab_size,
                        .n_tokens = s->n_tokens,
                        .n_cached = tokens_only ? 0 : s->n_cached,
                        .n_text = (uint32_t)(gen->sections.n_held + gen->stream.n_tail + gen->stream.pending.len),
                        .n_pages = list->n,
                        .tail = s->pages.tail,
                        .body = s->pages.body,
                        .plain = s->pages.groups->plain,
                        .elastic = s->pages.elastic,
                        .goes_on = gen->goes_on || gen->state != KVI_DONE,
                        .reasoning = gen->sections.reasoning,
                        .n_held = gen->sections.n_held,
                        .n_tail = gen->stream.n_tail,
                        .decode_started = gen->decode.started,
                        .n_stripped = gen->decode.n_stripped,
                        .luck_begun = gen->luck.begun,
                        .luck_given = gen->luck.given,
                        .seed = gen->luck.seed};
    out.ahead = tokens_only ? 0 : s->shift.ahead;
    out.n_dropped = s->shift.n_dropped;
    out.history[0] = s->shift.history.low, out.history[1] = s->shift.history.high;
    memcpy(out.random, gen->luck.random.state, sizeof out.random);
    out.total_bytes = KVI_SNAPSHOT_HEADER + (uint64_t)s->n_tokens * 4 + 8 + out.n_text + 8;
    if (!tokens_only) out.total_bytes += (uint64_t)list->n * sizeof(kvi_snapshot_page) + 8 + list->bytes;
    return out;
}

/* Held bytes, incomplete code point, pending text. */
static void collect_text(const kvi_generation *gen, uint8_t *text)
{
    memcpy(text, gen->sections.held, gen->sections.n_held);
    memcpy(text + gen->sections.n_held, gen->stream.tail, gen->stream.n_tail);
    if (gen->stream.pending.len)
        memcpy(text + gen->sections.n_held + gen->stream.n_tail, gen->stream.pending.data, gen->stream.pending.len);
}

static kvrt_status write_all(kvi_session *s, bool tokens_only, page_list *list, uint8_t *scratch, sink *out,
                             kvrt_error *error)
{
    uint8_t header[KVI_SNAPSHOT_HEADER];
    const kvi_snapshot snapshot = describe(s, tokens_only, list);
    kvi_snapshot_put(&snapshot, header);
    KVI_TRY(out->write(out, header, sizeof header, error));
    out->sum = kvi_checksum(header, sizeof header, 0);
    KVI_TRY(write_part(out, s->tokens, (uint64_t)s->n_tokens * 4, error));
    collect_text(&s->gen, scratch);
    KVI_TRY(write_part(out, scratch, snapshot.n_text, error));
    if (tokens_only) return KVRT_OK;
    KVI_TRY(write_part(out, list->pages, (uint64_t)list->n * sizeof *list->pages, error));
    page_writer writer = {.engine = s->engine, .out = out, .bytes = scratch};
    return each_page(s, write_page, &writer, error);
}

static kvrt_status save(kvi_session *s, uint32_t flags, sink *out, kvrt_error *error)
{
    const bool tokens_only = flags & KVRT_SNAPSHOT_TOKENS;
    page_list list = {.store = &s->engine->store};
    if (flags & ~KVRT_SNAPSHOT_TOKENS)
        return kvi_error_set(error, KVRT_ARG, "snapshot: flags 0x%x, need 0 or KVRT_SNAPSHOT_TOKENS", flags);
    if (!tokens_only) (void)each_page(s, list_page, &list, NULL);
    const uint64_t text = s->gen.sections.n_held + s->gen.stream.n_tail + s->gen.stream.pending.len,
                   page = (uint64_t)list.most_units * KVI_KV_UNIT;
    uint8_t *scratch = kvi_mem_alloc(text > page ? text : page);
    list.pages = kvi_mem_zalloc(list.n, sizeof *list.pages);
    kvrt_status status = KVRT_OK;
    if (!scratch || !list.pages) status = kvi_error_nomem(error, text + page, "snapshot");
    list.n = list.most_units = 0, list.bytes = 0;
    if (status >= KVRT_OK && !tokens_only) (void)each_page(s, list_page, &list, NULL);
    if (status >= KVRT_OK) status = write_all(s, tokens_only, &list, scratch, out, error);
    kvi_mem_free(scratch);
    kvi_mem_free(list.pages);
    return status;
}

/* A session whose request runs is saved between two of its tokens. */
static kvrt_status enter(kvrt_session handle, kvi_session **out, kvrt_error *error)
{
    KVI_TRY(kvi_session_enter(handle, KVI_DRIVE, out, error));
    kvi_session *s = *out;
    kvi_drive_finish_of(s->engine, s);
    kvrt_status status = kvi_session_come_back(s, error);
    if (status >= KVRT_OK && s->shift.sink_is_behind) {
        kvi_drive_finish(s->engine);
        status = kvi_session_finish_sink(s, error);
    }
    if (status < KVRT_OK) kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_session_save(kvrt_session handle, const char *path, uint32_t flags, kvrt_error *error)
{
    kvi_session *s;
    kvi_os_writer writer = {.file = 0};
    if (!path) return kvi_error_set(error, KVRT_ARG, "kvrt_session_save: path is NULL");
    KVI_TRY(enter(handle, &s, error));
    sink out = {.write = to_file, .user = &writer};
    kvrt_status status = kvi_os_replace_begin(&writer, path, error);
    if (status >= KVRT_OK) status = save(s, flags, &out, error);
    const kvrt_status ended = kvi_os_replace_end(&writer, status >= KVRT_OK, error);
    kvi_session_leave(s, KVI_DRIVE);
    return status < KVRT_OK ? status : ended;
}

kvrt_status kvrt_session_save_bytes(kvrt_session handle, uint32_t flags, void *bytes, uint64_t cap, uint64_t *n,
                                    kvrt_error *error)
{
    kvi_session *s;
    if (!n || (cap && !bytes)) return kvi_error_set(error, KVRT_ARG, "kvrt_session_save_bytes: bytes or n is NULL");
    KVI_TRY(enter(handle, &s, error));
    sink out = {.write = to_memory, .user = bytes, .cap = cap};
    const kvrt_status status = save(s, flags, &out, error);
    kvi_session_leave(s, KVI_DRIVE);
    if (status < KVRT_OK) return status;
    *n = out.n;
    return out.n > cap ? KVRT_PARTIAL : KVRT_OK;
}

kvrt_status kvrt_session_save_to(kvrt_session handle, uint32_t flags, kvrt_write_fn fn, void *user, kvrt_error *error)
{
    kvi_session *s;
    if (!fn) return kvi_error_set(error, KVRT_ARG, "kvrt_session_save_to: fn is NULL");
    KVI_TRY(enter(handle, &s, error));
    sink out = {.write = to_host, .user = user, .fn = fn};
    const kvrt_status status = save(s, flags, &out, error);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}
