/* weight_cache.c - see weight_cache.h. */
#include "weight_cache.h"
#include "../base/checksum.h"
#include "../base/log.h"
#include "../base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define EDGE 64u /* of header and footer, and what forms begin at multiples of */
#define MOST_THREADS 64u
static const char magic[8] = {'K', 'V', 'R', 'T', 'L', 'A', 'I', 'D'};

static void put(uint8_t *at, uint64_t value)
{
    for (uint32_t i = 0; i < 8; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *at)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < 8; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* Of everything that the files hold. */
static uint64_t content_of(const kvi_checkpoint *checkpoint)
{
    uint64_t sum = 1;
    for (uint64_t i = 0; checkpoint && i < checkpoint->n_tensors; i++) {
        const kvi_tensor *t = kvi_checkpoint_at(checkpoint, i);
        sum += kvi_checksum(t->data, t->bytes, kvi_checksum(t->name, strlen(t->name), t->form));
    }
    return sum;
}

/* Of size and time of change of the files, and of how many there are. */
static uint64_t stamp_of(const char *model, const kvi_checkpoint *checkpoint)
{
    uint64_t sum = 1;
    const char *slash = strrchr(model, '/');
    const bool is_file = kvi_os_path_kind(model) == KVI_OS_FILE; /* GGUF, perhaps the first of several */
    const int folder = !is_file ? (int)strlen(model) : slash ? (int)(slash - model) : 1;
    for (uint32_t i = 0; checkpoint && i < checkpoint->n_files; i++) {
        char path[4096];
        uint64_t facts[2] = {0, 0};
        (void)snprintf(path, sizeof path, "%.*s/%s", folder, is_file && !slash ? "." : model,
                       kvi_checkpoint_file(checkpoint, i));
        (void)kvi_os_file_stamp(path, &facts[0], &facts[1]);
        sum = kvi_checksum(facts, sizeof facts, sum);
    }
    return sum;
}

/* ------------------------------------------------------------------------------------------------------ reading --- */
static const uint8_t *entry(const kvi_weight_cache *c, uint64_t i)
{
    return c->map.data + get(c->map.data + c->map.len - EDGE + 8) + 24 * i;
}

/* Why the file cannot be used; NULL: header, table and footer are whole. */
static const char *tables_problem(kvi_weight_cache *c)
{
    const uint8_t *data = c->map.data, *footer = data + c->map.len - EDGE;
    if (c->map.len < 2 * EDGE || memcmp(data, magic, 8) != 0) return "does not begin with KVRTLAID";
    if (memcmp(footer + EDGE - 8, magic, 8) != 0) return "does not end with KVRTLAID";
    const uint64_t n = get(footer), table = get(footer + 8), room = c->map.len - 2 * EDGE;
    if (n > room / 24 || table < EDGE || table > c->map.len - EDGE || c->map.len - EDGE - table != 24 * n)
        return "its table lies outside of it";
    uint64_t sum = kvi_checksum(data, EDGE, 1);
    sum = kvi_checksum(footer, 16, kvi_checksum(data + table, 24 * n, sum));
    if (sum != get(footer + 16)) return "header or table are damaged";
    if (get(data + 8) != c->key) return "another key";
    c->n_forms = n;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t at = get(entry(c, i)), bytes = get(entry(c, i) + 8);
        if (at % EDGE || at < EDGE || at > table || bytes > table - at) return "a form lies outside of it";
    }
    return NULL;
}

typedef struct check_all {
    const kvi_weight_cache *cache;
    atomic_uint_fast64_t next;
    atomic_bool damaged;
} check_all;

static void check_forms(void *arg)
{
    check_all *all = arg;
    for (uint64_t i; (i = atomic_fetch_add(&all->next, 1)) < all->cache->n_forms && !atomic_load(&all->damaged);) {
        const uint8_t *e = entry(all->cache, i);
        if (kvi_checksum(all->cache->map.data + get(e), get(e + 8), i) != get(e + 16))
            atomic_store(&all->damaged, true);
    }
}

static bool forms_are_whole(const kvi_weight_cache *c, uint32_t n_threads)
{
    check_all all = {.cache = c};
    kvi_thread threads[MOST_THREADS];
    uint32_t n = 0;
    if (n_threads > MOST_THREADS) n_threads = MOST_THREADS;
    while (n + 1 < n_threads && kvi_thread_start(&threads[n], check_forms, &all, NULL) >= KVRT_OK) n++;
    check_forms(&all);
    while (n) kvi_thread_join(&threads[--n]);
    return !atomic_load(&all.damaged);
}

kvrt_status kvi_weight_cache_open(kvi_weight_cache *c, const char *folder, const char *model, uint64_t key,
                                  const kvi_checkpoint *checkpoint, uint32_t check, kvrt_error *error)
{
    *c = (kvi_weight_cache){.key = key, .stamp = stamp_of(model, checkpoint), .checkpoint = checkpoint};
    const size_t len =
        (size_t)snprintf(c->path, sizeof c->path, "%s/%016llx.kvrt-weights", folder, (unsigned long long)key);
    if (len >= sizeof c->path)
        return kvi_error_set(error, KVRT_ARG, "option model.cache: %zu bytes, need at most 4000", strlen(folder));
    if (kvi_os_path_kind(c->path) == KVI_OS_ABSENT) return KVRT_OK;
    kvrt_error why = {.size = sizeof why};
    if (kvi_os_map(c->path, NULL, &c->map, &why) < KVRT_OK) {
        kvi_log(KVI_LOG_WARN, "model.cache: %s; the weights are laid anew", why.message);
        return KVRT_OK;
    }
    const char *problem = c->map.len ? tables_problem(c) : "is empty";
    if (!problem && get(c->map.data + 16) != c->stamp && (!check || get(c->map.data + 24) != content_of(checkpoint)))
        problem = "the model has changed";
    if (!problem && check && !forms_are_whole(c, check)) problem = "a form is damaged";
    if (!problem) return KVRT_OK;
    kvi_log(KVI_LOG_WARN, "model.cache: %s: %s; the weights are laid anew", c->path, problem);
    kvi_os_unmap(&c->map);
    c->map = (kvi_map){0};
    c->n_forms = 0;
    return KVRT_OK;
}

void kvi_weight_cache_close(kvi_weight_cache *c)
{
    kvi_weight_cache_end(c, false);
    kvi_os_unmap(&c->map);
    *c = (kvi_weight_cache){0};
}

const void *kvi_weight_cache_form(const kvi_weight_cache *c, uint64_t i, uint64_t bytes)
{
    if (!c->map.data || i >= c->n_forms || !bytes || get(entry(c, i) + 8) != bytes) return NULL;
    return c->map.data + get(entry(c, i));
}

/* ------------------------------------------------------------------------------------------------------ writing --- */
static void write_bytes(kvi_weight_cache *c, const void *bytes, uint64_t n)
{
    kvrt_error why = {.size = sizeof why};
    if (!c->writes) return;
    if (kvi_os_replace_write(&c->writer, bytes, n, &why) < KVRT_OK) {
        kvi_log(KVI_LOG_WARN, "model.cache: %s; the weights are not kept", why.message);
        c->failed = true;
        kvi_weight_cache_end(c, false);
    }
    c->at += n;
}

static void fill_header(const kvi_weight_cache *c, uint8_t header[EDGE])
{
    memset(header, 0, EDGE);
    memcpy(header, magic, 8);
    put(header + 8, c->key), put(header + 16, c->stamp), put(header + 24, c->content);
}

static void begin(kvi_weight_cache *c)
{
    kvrt_error why = {.size = sizeof why};
    uint8_t header[EDGE];
    char folder[sizeof c->path];
    memcpy(folder, c->path, sizeof folder);
    *strrchr(folder, '/') = 0;
    c->writes =
        kvi_os_folder_make(folder, &why) >= KVRT_OK && kvi_os_replace_begin(&c->writer, c->path, &why) >= KVRT_OK;
    c->failed = !c->writes;
    if (c->failed) kvi_log(KVI_LOG_WARN, "model.cache: %s; the weights are not kept", why.message);
    else c->content = content_of(c->checkpoint);
    c->at = c->n_sums = 0;
    fill_header(c, header);
    write_bytes(c, header, EDGE);
}

void kvi_weight_cache_put(kvi_weight_cache *c, const void *form, uint64_t bytes)
{
    static const uint8_t zeros[EDGE];
    if (!c->writes && !c->failed) begin(c);
    void *sums = c->sums;
    if (!c->writes) return;
    if (!kvi_mem_grow(&sums, &c->cap_sums, c->n_sums + 3, sizeof *c->sums)) {
        kvi_log(KVI_LOG_WARN, "model.cache: memory is out; the weights are not kept");
        c->failed = true;
        kvi_weight_cache_end(c, false);
        return;
    }
    c->sums = sums;
    put((uint8_t *)&c->sums[c->n_sums], c->at);
    put((uint8_t *)&c->sums[c->n_sums + 1], form ? bytes : 0);
    put((uint8_t *)&c->sums[c->n_sums + 2], kvi_checksum(form ? form : zeros, form ? bytes : 0, c->n_sums / 3));
    c->n_sums += 3;
    if (!form) return;
    write_bytes(c, form, bytes);
    write_bytes(c, zeros, (EDGE - bytes % EDGE) % EDGE);
}

void kvi_weight_cache_end(kvi_weight_cache *c, bool keep)
{
    kvrt_error why = {.size = sizeof why};
    if (c->writes && keep) {
        uint8_t header[EDGE], footer[EDGE] = {0};
        fill_header(c, header);
        put(footer, c->n_sums / 3), put(footer + 8, c->at);
        uint64_t sum = kvi_checksum(header, EDGE, 1);
        sum = kvi_checksum(footer, 16, kvi_checksum(c->sums, c->n_sums * 8, sum));
        put(footer + 16, sum);
        memcpy(footer + EDGE - 8, magic, 8);
        if (c->n_sums) write_bytes(c, c->sums, c->n_sums * 8);
        write_bytes(c, footer, EDGE);
    }
    if (c->writes && kvi_os_replace_end(&c->writer, keep, &why) < KVRT_OK)
        kvi_log(KVI_LOG_WARN, "model.cache: %s; the weights are not kept", why.message);
    c->writes = false;
    kvi_mem_free(c->sums);
    c->sums = NULL;
    c->n_sums = c->cap_sums = 0;
}
