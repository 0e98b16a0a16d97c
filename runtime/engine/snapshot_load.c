/* snapshot_load.c - a session becomes what a snapshot says. Everything is looked at first: every length, id, format and checksum, whether it is of
 * this model, and whether the pool has room; what fails there changes nothing. Only then the session's own pages are given back. A piece at a
 * time, so that it fits between the steps of others (transfer.h). */
#include "drive.h"
#include "seat.h"
#include "snapshot.h"
#include "../base/checksum.h"

#include <string.h>

static kvrt_status corrupt(kvrt_error *error, const char *what)
{
    return kvi_error_set(error, KVRT_SNAPSHOT_CORRUPT, "snapshot: %s is damaged", what);
}

/* The next part of n bytes, whose checksum is right. */
static kvrt_status take_part(kvi_reading *r, uint64_t n, const char *what, const uint8_t **out, kvrt_error *error)
{
    uint64_t sum = 0;
    if (n > r->n - r->at || r->n - r->at - n < 8) return corrupt(error, what);
    *out = r->bytes + r->at;
    r->at += n + 8;
    r->sum = kvi_checksum(*out, n, r->sum);
    for (int i = 0; i < 8; i++) sum |= (uint64_t)(*out)[n + (uint64_t)i] << (8 * i);
    return sum == r->sum ? KVRT_OK : corrupt(error, what);
}

static uint32_t u32_at(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static kvi_snapshot_page page_at(const kvi_reading *r, uint32_t i)
{
    const uint8_t *at = r->directory + (uint64_t)i * sizeof(kvi_snapshot_page);
    return (kvi_snapshot_page){u32_at(at), u32_at(at + 4), u32_at(at + 8), u32_at(at + 12)};
}

/* ------------------------------------------------------------------------------------------------------- looking --- */
static kvrt_status mismatch(kvrt_error *error, const char *what)
{
    return kvi_error_set(error, KVRT_SNAPSHOT_MISMATCH, "snapshot: %s", what);
}

static kvrt_status check_belongs(const kvi_session *s, const kvi_snapshot *h, kvrt_error *error)
{
    const kvi_fingerprints *f = kvi_engine_fingerprints(s->engine);
    char found[8], need[8];
    if (h->tokenizer != f->tokenizer || h->vocab_size != s->engine->config.vocab_size)
        return mismatch(error, "of a model with another tokenizer");
    if (h->n_tokens > s->ctx_size)
        return kvi_error_set(error, KVRT_CTX_FULL, "snapshot: %u tokens, need at most %u (ctx.size)", h->n_tokens,
                             s->ctx_size);
    if (!h->n_cached) return KVRT_OK; /* tokens alone go with any weights and cache */
    if (h->model != f->model) return mismatch(error, "of other weights; its tokens alone may be loaded");
    if (h->body != s->pages.body || h->plain != s->pages.groups->plain || h->elastic != s->pages.elastic)
        return kvi_error_set(error, KVRT_SNAPSHOT_MISMATCH, "snapshot: pages in %s, the session has %s (kv.format)",
                             h->elastic ? "elastic" : kvi_kv_format_name((kvi_kv_format)h->body, found),
                             s->pages.elastic ? "elastic" : kvi_kv_format_name(s->pages.body, need));
    if (h->tail != s->pages.tail)
        return kvi_error_set(error, KVRT_SNAPSHOT_MISMATCH, "snapshot: kv.tail %u, the session has %u", h->tail,
                             s->pages.tail);
    if (h->cache != f->cache) return mismatch(error, "of a cache with other settings (kv.rotate, kv.round, kv.scales)");
    return KVRT_OK;
}

/* A page is one that the session may have there, and they come in order. */
static bool page_is_right(const kvi_session *s, const kvi_snapshot *h, const kvi_snapshot_page *page,
                          const kvi_snapshot_page *before)
{
    const uint32_t n_pages = (h->n_cached + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    if (page->group == KVI_MAX_GROUPS)
        return s->states.units && page->index == 0 && page->units == s->states.units && page->format == 0;
    if (page->group >= s->pages.n_groups || page->index >= n_pages || page->format > UINT8_MAX) return false;
    if (before && (page->group < before->group || (page->group == before->group && page->index <= before->index)))
        return false;
    const kvi_kv_format format = (kvi_kv_format)page->format;
    const kvi_cache_group *group = &s->pages.groups[page->group];
    const bool ours = format == kvi_group_plain(group) || (page->index > 0 && format == s->pages.body) ||
                      (s->pages.elastic && page->index > 0 && kvi_elastic_level(format) < KVI_ELASTIC_LEVELS);
    return ours && page->units == kvi_group_units(group, format);
}

/* What is not there was given back by a window: nothing that the next position sees. */
static bool pages_suffice(const kvi_session *s, const kvi_reading *r)
{
    const uint32_t n_pages = (r->head.n_cached + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    uint32_t i = 0;
    for (uint32_t g = 0; g < s->pages.n_groups; g++) {
        uint32_t n = 0, first = n_pages;
        for (; i < r->head.n_pages && page_at(r, i).group == g; i++, n++)
            if (n == 0) first = page_at(r, i).index;
        if (first > kvi_pages_first_at(&s->pages, g, r->head.n_cached) || n != n_pages - first) return false;
    }
    return !s->states.units || (i + 1 == r->head.n_pages && page_at(r, i).group == KVI_MAX_GROUPS);
}

static kvrt_status look_at_directory(const kvi_session *s, kvi_reading *r, kvrt_error *error)
{
    kvi_snapshot_page before = {0};
    KVI_TRY(take_part(r, (uint64_t)r->head.n_pages * sizeof(kvi_snapshot_page), "the directory", &r->directory, error));
    r->pages = r->bytes + r->at;
    for (uint32_t i = 0; i < r->head.n_pages; i++) {
        const kvi_snapshot_page page = page_at(r, i);
        if (!page_is_right(s, &r->head, &page, i ? &before : NULL)) return corrupt(error, "the directory");
        before = page;
    }
    return pages_suffice(s, r) ? KVRT_OK : corrupt(error, "the directory");
}

static kvrt_status look_at_end(const kvi_loading *l, kvrt_error *error)
{
    return l->flags & KVRT_SNAPSHOT_TOKENS || l->r.at == l->r.n ? KVRT_OK : corrupt(error, "the end");
}

/* All but the pages. */
static kvrt_status look(const kvi_session *s, kvi_reading *r, bool tokens_only, kvrt_error *error)
{
    kvi_snapshot *h = &r->head;
    if (r->n == 0)
        return kvi_error_set(error, KVRT_SNAPSHOT_CORRUPT, "snapshot: 0 bytes, a header has %u",
                             KVI_SNAPSHOT_HEADER); /* 0 would mean a header alone below */
    KVI_TRY(kvi_snapshot_get(r->bytes, r->n, h, error));
    if (tokens_only) h->n_cached = h->n_pages = 0;
    if (!h->n_cached) h->n_pages = 0;
    KVI_TRY(check_belongs(s, h, error));
    r->at = KVI_SNAPSHOT_HEADER;
    r->sum = kvi_checksum(r->bytes, KVI_SNAPSHOT_HEADER, 0);
    KVI_TRY(take_part(r, (uint64_t)h->n_tokens * 4, "the token list", &r->tokens, error));
    KVI_TRY(take_part(r, h->n_text, "the text", &r->text, error));
    for (uint32_t i = 0; i < h->n_tokens; i++)
        if (u32_at(r->tokens + 4 * (uint64_t)i) >= h->vocab_size) return corrupt(error, "the token list");
    if (h->n_cached > h->n_tokens || (h->n_cached && h->n_pure > h->n_cached) || h->n_held > KVI_MARK_BYTES ||
        h->n_tail > sizeof s->gen.stream.tail || (uint64_t)h->n_held + h->n_tail > h->n_text ||
        (h->ahead | h->n_dropped) % KVI_KV_PAGE)
        return corrupt(error, "the header");
    return h->n_cached ? look_at_directory(s, r, error) : KVRT_OK;
}

/* Bytes of the piece that begins at l->offset of a page. */
static uint64_t piece_of(const kvi_loading *l, const kvi_snapshot_page *page)
{
    const uint64_t left = (uint64_t)page->units * KVI_KV_UNIT - l->offset;
    return left < KVI_SNAPSHOT_PIECE ? left : KVI_SNAPSHOT_PIECE;
}

/* Goes past a piece. False: it was the last one of all. */
static bool next_piece(kvi_loading *l, const kvi_snapshot_page *page, uint64_t n)
{
    l->offset += n;
    if (l->offset == (uint64_t)page->units * KVI_KV_UNIT) l->page++, l->offset = 0;
    return l->page < l->r.head.n_pages;
}

static kvrt_status look_at_piece(kvi_loading *l, kvrt_error *error)
{
    const kvi_snapshot_page page = page_at(&l->r, l->page);
    const uint64_t n = piece_of(l, &page);
    const uint8_t *bytes;
    KVI_TRY(take_part(&l->r, n, "a page", &bytes, error));
    if (next_piece(l, &page, n)) return KVRT_MORE;
    l->stage = KVI_LOADING_TAKES, l->page = 0;
    KVI_TRY(look_at_end(l, error));
    return KVRT_MORE;
}

/* Pool units that the session alone holds: they are its to give back. */
static uint64_t own_units(const kvi_session *s)
{
    const kvi_store *store = &s->engine->store;
    uint64_t units = s->states.live == KVI_NO_PAGE ? 0 : s->states.units;
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = 0; p < s->pages.n_pages[g]; p++) {
            const uint32_t id = s->pages.ids[g][p];
            if (id != KVI_NO_PAGE && store->pages[id].refs == 1) units += store->pages[id].units;
        }
    return units;
}

/* ---------------------------------------------------------------------------------------------------- committing --- */
/* What the store has of the pages of a prompt is what the session would have computed itself: it is held, from now on, and not read from the file. */
static uint32_t known_id(const kvi_loading *l, uint32_t i)
{
    const kvi_session *s = l->session;
    const kvi_snapshot_page page = page_at(&l->r, i);
    const kvi_kv_format format = (kvi_kv_format)page.format;
    if (!s->shares || page.group == KVI_MAX_GROUPS) return KVI_NO_PAGE;
    const uint32_t key = kvi_pages_key_of(&s->pages, page.group, page.index, format);
    return key < l->n_keys ? kvi_store_find(&s->engine->store, page.group, format, l->keys[key]) : KVI_NO_PAGE;
}

static void make_keys(kvi_loading *l)
{
    for (uint32_t p = 0; p < l->n_keys; p++) {
        int32_t ids[KVI_KV_PAGE];
        for (uint32_t i = 0; i < KVI_KV_PAGE; i++)
            ids[i] = (int32_t)u32_at(l->r.tokens + 4 * ((uint64_t)p * KVI_KV_PAGE + i));
        l->keys[p] = kvi_key_next(p ? l->keys[p - 1] : l->session->seed, ids, KVI_KV_PAGE);
    }
}

static void put(kvi_session *s, uint32_t group, uint32_t index, uint32_t id)
{
    while (s->pages.n_pages[group] < index) kvi_pages_put(&s->pages, group, s->pages.n_pages[group], KVI_NO_PAGE);
    kvi_pages_put(&s->pages, group, index, id);
    kvi_store_drop(&s->engine->store, id); /* the table holds it */
}

/* The pool has room: whatever lies in the way moves. */
static kvrt_status make_page(kvi_session *s, const kvi_snapshot_page *page, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    KVI_TRY(kvi_session_gather(s, page->units, error));
    if (page->group == KVI_MAX_GROUPS) {
        bool made;
        KVI_TRY(kvi_session_begin_state(s, &made, error));
        if (made) return KVRT_OK;
    } else {
        const uint32_t id = kvi_store_take(&e->store, page->group, (kvi_kv_format)page->format, page->units,
                                           kvi_kv_format_is_plain(page->format));
        if (id != KVI_NO_PAGE) {
            put(s, page->group, page->index, id);
            return KVRT_OK;
        }
    }
    return kvi_error_set(error, KVRT_INTERNAL, "snapshot: no room where room was counted");
}

static void note_formats(kvi_session *s)
{
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = 0; p < s->pages.n_pages[g]; p++) {
            const uint32_t id = s->pages.ids[g][p];
            if (id == KVI_NO_PAGE) s->pages.first_page[g] = p + 1;
            else if (!kvi_kv_format_is_plain(s->engine->store.pages[id].format) && !s->pages.elastic)
                s->pages.n_encoded[g] = p + 1;
        }
}

static void fill_generation(kvi_generation *gen, const kvi_reading *r)
{
    const kvi_snapshot *h = &r->head;
    kvi_sections *sections = &gen->sections;
    memcpy(sections->held, r->text, h->n_held);
    sections->n_held = h->n_held;
    sections->reasoning = h->reasoning;
    memcpy(gen->stream.tail, r->text + h->n_held, h->n_tail);
    gen->stream.n_tail = h->n_tail;
    gen->decode = (kvi_decode_start){.started = h->decode_started, .n_stripped = h->n_stripped};
    gen->luck = (kvi_luck){.seed = h->seed, .begun = h->luck_begun, .given = h->luck_given};
    memcpy(gen->luck.random.state, h->random, sizeof h->random);
    gen->goes_on = h->goes_on;
}

/* What can fail for want of memory, before anything is given up. */
static kvrt_status prepare_text(const kvi_reading *r, kvi_stream *stream, kvrt_error *error)
{
    const uint64_t at = (uint64_t)r->head.n_held + r->head.n_tail, n = r->head.n_text - at;
    KVI_TRY(kvi_stream_init(stream, NULL, 0, error));
    kvi_buf_append(&stream->pending, r->text + at, n);
    return stream->pending.failed ? kvi_error_nomem(error, n, "text stream") : KVRT_OK;
}

/* Units that the file's pages take beside those that the store has, which are held. */
static uint64_t hold_known(kvi_loading *l, uint32_t *ids)
{
    kvi_session *s = l->session;
    uint64_t units = 0;
    for (uint32_t i = 0; i < l->r.head.n_pages; i++) {
        ids[i] = known_id(l, i);
        l->known[i] = ids[i] != KVI_NO_PAGE;
        if (l->known[i]) kvi_store_share(&s->engine->store, ids[i]);
        else units += page_at(&l->r, i).units;
    }
    return units;
}

static kvrt_status check_room(kvi_session *s, uint64_t units, kvrt_error *error)
{
    const kvi_engine *e = s->engine;
    uint64_t room;
    do room = e->store.pool.free_units + e->store.idle_units + own_units(s);
    while (units > room && kvi_spill_one(s->engine, s));
    if (units <= room) return KVRT_OK;
    return kvi_error_memory(error, KVRT_CTX_FULL, units * KVI_KV_UNIT, room * KVI_KV_UNIT,
                            "snapshot: its pages take %llu KiB, the KV pool has room for %llu KiB",
                            (unsigned long long)(units * KVI_KV_UNIT >> 10),
                            (unsigned long long)(room * KVI_KV_UNIT >> 10));
}

static void take_over(kvi_loading *l, kvi_stream *stream)
{
    kvi_session *s = l->session;
    const kvi_reading *r = &l->r;
    kvi_session_forget_away(s);
    kvi_generation_break(&s->gen, 0);
    kvi_session_cut_cache(s, 0, 0);
    kvi_session_cut_keys(s, 0);
    kvi_pages_mark(&s->pages, 0);
    s->n_tokens = r->head.n_tokens;
    for (uint32_t i = 0; i < s->n_tokens; i++) s->tokens[i] = (int32_t)u32_at(r->tokens + 4 * (uint64_t)i);
    s->shift.n_dropped = r->head.n_dropped;
    s->shift.n_untold = 0;
    s->shift.history = (kvi_page_key){r->head.history[0], r->head.history[1]};
    kvi_stream_free(&s->gen.stream);
    s->gen.stream = *stream;
    fill_generation(&s->gen, r);
    s->gen.n_settled = s->n_tokens;
}

/* Nothing is cached: after a failure of the device. */
static void give_up(kvi_session *s)
{
    (void)kvi_pages_rewind(&s->pages, 0, 0);
    s->n_cached = s->n_tokens = 0;
}

static kvrt_status make_pages(kvi_loading *l, const uint32_t *ids, kvrt_error *error)
{
    kvi_session *s = l->session;
    kvrt_status status = KVRT_OK;
    for (uint32_t i = 0; i < l->r.head.n_pages; i++) {
        const kvi_snapshot_page page = page_at(&l->r, i);
        if (l->known[i] && status >= KVRT_OK) put(s, page.group, page.index, ids[i]);
        else if (l->known[i]) kvi_store_drop(&s->engine->store, ids[i]);
        else if (status >= KVRT_OK) status = kvi_engine_noted(s->engine, make_page(s, &page, error));
    }
    return status;
}

static kvrt_status take(kvi_loading *l, uint32_t *ids, kvrt_error *error)
{
    kvi_session *s = l->session;
    kvi_stream stream = {0};
    const uint64_t units = hold_known(l, ids);
    kvrt_status status = check_room(s, units, error);
    if (status >= KVRT_OK) status = prepare_text(&l->r, &stream, error);
    if (status < KVRT_OK) {
        for (uint32_t i = 0; i < l->r.head.n_pages; i++)
            if (l->known[i]) kvi_store_drop(&s->engine->store, ids[i]);
        kvi_stream_free(&stream);
        return status;
    }
    take_over(l, &stream);
    status = make_pages(l, ids, error);
    if (status < KVRT_OK) {
        give_up(s);
        return status;
    }
    note_formats(s);
    s->n_cached = l->r.head.n_cached;
    s->shift.ahead = l->r.head.ahead;
    s->shift.whole_from = l->r.head.whole_from;
    if (!l->r.head.n_pages) return KVRT_OK;
    l->stage = KVI_LOADING_FILLS, l->page = 0, l->offset = 0, l->r.at = (uint64_t)(l->r.pages - l->r.bytes);
    return KVRT_MORE;
}

/* Only the device can fail now. */
static kvrt_status fill_piece(kvi_loading *l, kvrt_error *error)
{
    kvi_session *s = l->session;
    kvi_engine *e = s->engine;
    const kvi_snapshot_page page = page_at(&l->r, l->page);
    const uint32_t id = page.group == KVI_MAX_GROUPS ? s->states.live : s->pages.ids[page.group][page.index];
    const uint64_t n = piece_of(l, &page), to = (uint64_t)e->store.pages[id].unit * KVI_KV_UNIT + l->offset;
    kvrt_status status = KVRT_OK;
    if (!l->known[l->page])
        status = kvi_engine_noted(e, e->backend->pool_write(e->device, to, l->r.bytes + l->r.at, n, error));
    if (status < KVRT_OK) {
        give_up(s);
        return status;
    }
    l->r.at += n + 8;
    if (next_piece(l, &page, n)) return KVRT_MORE;
    /* Nobody but this session believes that the pages are of these tokens, unless the host says that the file is its own. */
    if (l->flags & KVRT_SNAPSHOT_OWN) kvi_session_publish_loaded(s, l->r.head.n_pure);
    return KVRT_OK;
}

kvrt_status kvi_loading_begin(kvi_loading *l, kvi_session *s, const void *bytes, uint64_t n, uint32_t flags,
                              kvrt_error *error)
{
    *l = (kvi_loading){.session = s, .r = {.bytes = bytes, .n = n}, .flags = flags};
    KVI_TRY(kvi_snapshot_check_flags(flags, true, error));
    KVI_TRY(look(s, &l->r, flags & KVRT_SNAPSHOT_TOKENS, error));
    l->n_keys = l->r.head.n_cached ? l->r.head.n_pure / KVI_KV_PAGE : 0;
    l->known = kvi_mem_zalloc(l->r.head.n_pages, sizeof *l->known);
    l->keys = kvi_mem_zalloc(l->n_keys, sizeof *l->keys);
    if (!l->known || !l->keys) return kvi_error_nomem(error, l->r.head.n_pages, "snapshot");
    make_keys(l);
    if (l->r.head.n_pages) return KVRT_OK;
    l->stage = KVI_LOADING_TAKES;
    return look_at_end(l, error);
}

kvrt_status kvi_loading_go(kvi_loading *l, kvrt_error *error)
{
    if (l->stage == KVI_LOADING_LOOKS) return look_at_piece(l, error);
    if (l->stage == KVI_LOADING_FILLS) return fill_piece(l, error);
    uint32_t *ids = kvi_mem_zalloc(l->r.head.n_pages, sizeof *ids);
    if (!ids) return kvi_error_nomem(error, l->r.head.n_pages * sizeof *ids, "snapshot");
    const kvrt_status status = take(l, ids, error);
    kvi_mem_free(ids);
    return status;
}

void kvi_loading_free(kvi_loading *l)
{
    kvi_mem_free(l->known);
    kvi_mem_free(l->keys);
    l->known = NULL, l->keys = NULL;
}

static kvrt_status load(kvi_session *s, const void *bytes, uint64_t n, uint32_t flags, kvrt_error *error)
{
    kvi_loading l;
    kvrt_status status = kvi_loading_begin(&l, s, bytes, n, flags, error);
    if (status >= KVRT_OK) status = KVRT_MORE;
    while (status == KVRT_MORE) status = kvi_loading_go(&l, error);
    kvi_loading_free(&l);
    return status;
}

static kvrt_status load_bytes(kvrt_session handle, const void *bytes, uint64_t n, uint32_t flags, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_snapshot_check_flags(flags, true, error));
    KVI_TRY(kvi_session_enter_still(handle, &s, error));
    kvi_drive_finish(s->engine); /* pages may move */
    kvi_account *before = kvi_account_use(s->engine->account);
    const kvrt_status status = load(s, bytes, n, flags, error);
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_session_load_bytes(kvrt_session handle, const void *bytes, uint64_t n, uint32_t flags,
                                    kvrt_error *error)
{
    if (n && !bytes) return kvi_error_set(error, KVRT_ARG, "kvrt_session_load_bytes: bytes is NULL");
    return load_bytes(handle, bytes, n, flags, error);
}

/* Read, not mapped: what another process does to the file meanwhile cannot be seen half. */
kvrt_status kvrt_session_load(kvrt_session handle, const char *path, uint32_t flags, kvrt_error *error)
{
    kvi_map map;
    if (!path) return kvi_error_set(error, KVRT_ARG, "kvrt_session_load: path is NULL");
    KVI_TRY(kvi_os_map(path, &kvi_mem_copies, &map, error));
    const kvrt_status status = load_bytes(handle, map.data, map.len, flags, error);
    kvi_os_unmap(&map);
    return status;
}

/* The header tells how much is to come. */
static kvrt_status read_all(kvrt_read_fn fn, void *user, uint8_t **bytes, uint64_t *n, kvrt_error *error)
{
    uint8_t header[KVI_SNAPSHOT_HEADER];
    kvi_snapshot head;
    if (fn(user, header, sizeof header) != 0)
        return kvi_error_set(error, KVRT_IO, "snapshot: the host's read function gave no header");
    KVI_TRY(kvi_snapshot_get(header, 0, &head, error));
    *n = head.total_bytes;
    *bytes = kvi_mem_alloc(head.total_bytes);
    if (!*bytes) return kvi_error_nomem(error, head.total_bytes, "snapshot");
    memcpy(*bytes, header, sizeof header);
    if (fn(user, *bytes + sizeof header, *n - sizeof header) == 0) return KVRT_OK;
    return kvi_error_set(error, KVRT_IO, "snapshot: the host's read function gave less than %llu bytes",
                         (unsigned long long)*n);
}

kvrt_status kvrt_session_load_from(kvrt_session handle, uint32_t flags, kvrt_read_fn fn, void *user, kvrt_error *error)
{
    uint8_t *bytes = NULL;
    uint64_t n = 0;
    if (!fn) return kvi_error_set(error, KVRT_ARG, "kvrt_session_load_from: fn is NULL");
    kvrt_status status = read_all(fn, user, &bytes, &n, error);
    if (status >= KVRT_OK) status = load_bytes(handle, bytes, n, flags, error);
    kvi_mem_free(bytes);
    return status;
}
