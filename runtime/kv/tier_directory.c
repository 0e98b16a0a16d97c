/* tier_directory.c - objects as files: see tier.h. Nothing of it is kept in memory: what is there is what the directory has. Files of one call
 * are asked for together before the first is read, so that the disk always has something to do. */
#include "tier.h"
#include "../base/mem.h"
#include "../base/os.h"

#include <stdio.h>
#include <string.h>

enum { PATH = 4096 };
typedef struct directory {
    kvi_tier tier;
    char path[PATH];
} directory;

static void name_file(const directory *d, kvi_tier_name name, char path[PATH + 40])
{
    snprintf(path, PATH + 40, "%s/%016llx%016llx", d->path, (unsigned long long)name.high,
             (unsigned long long)name.low);
}

static kvrt_status exists(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    char path[PATH + 40];
    (void)error;
    for (uint32_t i = 0; i < count; i++) {
        name_file((const directory *)tier, objects[i].name, path);
        objects[i].there = kvi_os_file_is(path, objects[i].n);
    }
    return KVRT_OK;
}

static void expect(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count)
{
    char path[PATH + 40];
    for (uint32_t i = 0; i < count; i++) {
        name_file((const directory *)tier, objects[i].name, path);
        kvi_os_file_expect(path);
    }
}

static kvrt_status get(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    char path[PATH + 40];
    (void)error;
    expect(tier, objects, count);
    for (uint32_t i = 0; i < count; i++) {
        name_file((const directory *)tier, objects[i].name, path);
        objects[i].there = kvi_os_file_get(path, objects[i].bytes, objects[i].n);
    }
    return KVRT_OK;
}

static void drop(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count)
{
    char path[PATH + 40];
    for (uint32_t i = 0; i < count; i++) {
        name_file((const directory *)tier, objects[i].name, path);
        kvi_os_file_remove(path);
    }
}

static kvrt_status set(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    char path[PATH + 40];
    for (uint32_t i = 0; i < count; i++) {
        name_file((const directory *)tier, objects[i].name, path);
        if (kvi_os_file_is(path, objects[i].n)) continue;
        const kvrt_status status = kvi_os_file_put(path, objects[i].bytes, objects[i].n, error);
        if (status >= KVRT_OK) continue;
        drop(tier, objects, i);
        return status;
    }
    return KVRT_OK;
}

/* The folder goes when nothing is in it. */
static void close_it(kvi_tier *tier)
{
    if (tier) kvi_os_folder_remove(((directory *)tier)->path);
    kvi_mem_free(tier);
}

static const kvi_tier_kind kind = {"directory", exists, get, set, drop, expect, close_it};

kvrt_status kvi_tier_directory(const char *path, uint64_t name_space, kvi_tier **out, kvrt_error *error)
{
    if (strlen(path) > PATH - 32)
        return kvi_error_set(error, KVRT_ARG, "kv.spill: a path of %zu bytes, need at most %d", strlen(path),
                             PATH - 32);
    directory *d = kvi_mem_zalloc(1, sizeof *d);
    if (!d) return kvi_error_nomem(error, sizeof *d, "pages in a directory");
    d->tier.kind = &kind;
    kvrt_status status = kvi_os_folder_make(path, error);
    snprintf(d->path, sizeof d->path, "%s/%016llx", path, (unsigned long long)name_space);
    if (status >= KVRT_OK) status = kvi_os_folder_make(d->path, error);
    if (status >= KVRT_OK) *out = &d->tier;
    else kvi_mem_free(d);
    return status;
}
