/* tier_directory.c - objects as files: see tier.h. What is there is what the directory has. Files of one call
 * are asked for together before the first is read, so that the disk always has something to do. What is dropped is not removed: that takes
 * a disk longer than reading it (0.6 to 6 ms a file on ext4 with discard), and somebody waits for the session. Its file stays, out of date, until an
 * object of its size is written over it, an object of another size needs the room, or the tier is closed. So the directory never has more bytes than
 * were needed at a time. */
#include "tier.h"
#include "../base/mem.h"
#include "../base/os.h"

#include <stdio.h>
#include <string.h>

enum { PATH = 4096 };
typedef struct directory {
    kvi_tier tier;
    char path[PATH];
    struct old_file {
        kvi_tier_name name;
        uint64_t n;
    } * old; /* (n_old) files that nobody needs */
    size_t n_old, cap_old;
    bool fails; /* the last object could not be written: the disk may be full, and nothing is kept on it in vain */
} directory;

static void name_file(const directory *d, kvi_tier_name name, char path[PATH + 40])
{
    snprintf(path, PATH + 40, "%s/%016llx%016llx", d->path, (unsigned long long)name.high,
             (unsigned long long)name.low);
}

static void forget_old(directory *d, size_t i) { d->old[i] = d->old[--d->n_old]; }

/* The object is needed, again. */
static void is_needed(directory *d, kvi_tier_name name)
{
    for (size_t i = d->n_old; i-- > 0;)
        if (d->old[i].name.low == name.low && d->old[i].name.high == name.high) forget_old(d, i);
}

/* A file of n bytes to write over, into path; or none, and others of as many bytes are gone. */
static bool take_old(directory *d, uint64_t n, char path[PATH + 40])
{
    for (size_t i = d->n_old; i-- > 0;)
        if (d->old[i].n == n) {
            name_file(d, d->old[i].name, path);
            forget_old(d, i);
            return true;
        }
    for (uint64_t freed = 0; freed < n && d->n_old > 0; freed += d->old[d->n_old].n) {
        name_file(d, d->old[--d->n_old].name, path);
        kvi_os_file_remove(path);
    }
    return false;
}

static kvrt_status exists(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    char path[PATH + 40];
    (void)error;
    for (uint32_t i = 0; i < count; i++) {
        name_file((const directory *)tier, objects[i].name, path);
        objects[i].there = kvi_os_file_is(path, objects[i].n);
        if (objects[i].there) is_needed((directory *)tier, objects[i].name);
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
    directory *d = (directory *)tier;
    for (uint32_t i = 0; i < count; i++) {
        char path[PATH + 40];
        void *old = d->old;
        is_needed(d, objects[i].name); /* it is in the list once */
        const bool listed = !d->fails && kvi_mem_grow(&old, &d->cap_old, d->n_old + 1, sizeof *d->old);
        d->old = old;
        if (listed) {
            d->old[d->n_old++] = (struct old_file){objects[i].name, objects[i].n};
            continue;
        }
        name_file(d, objects[i].name, path);
        kvi_os_file_remove(path);
    }
}

static kvrt_status set(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    directory *d = (directory *)tier;
    char path[PATH + 40], old[PATH + 40];
    for (uint32_t i = 0; i < count; i++) {
        name_file(d, objects[i].name, path);
        is_needed(d, objects[i].name);
        if (kvi_os_file_is(path, objects[i].n)) continue;
        const bool over = take_old(d, objects[i].n, old);
        const kvrt_status status = kvi_os_file_put(path, objects[i].bytes, objects[i].n, over ? old : NULL, error);
        d->fails = status < KVRT_OK;
        if (!d->fails) continue;
        (void)take_old(d, UINT64_MAX, old);
        drop(tier, objects, i);
        return status;
    }
    return KVRT_OK;
}

/* The folder goes when nothing is in it. */
static void close_it(kvi_tier *tier)
{
    directory *d = (directory *)tier;
    char path[PATH + 40];
    if (!d) return;
    (void)take_old(d, UINT64_MAX, path);
    kvi_os_folder_remove(d->path);
    kvi_mem_free(d->old);
    kvi_mem_free(d);
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
