/* tier_directory.c - objects in one file of a directory: see tier.h. What belongs together is written together, one object behind the other, and
 * read in that order, so that a disk does what it does best; a file for each object took twice as long to read and four times as long to write. Where
 * an object stands is known here alone. What is dropped is not removed, as giving room back takes a disk longer than reading (0.6 to 6 ms a
 * file on ext4 with discard), and somebody waits for the session: other objects are written over it. The file goes when the tier is closed. */
#include "tier.h"
#include "../base/mem.h"
#include "../base/os.h"

#include <stdio.h>
#include <string.h>

enum { PATH = 4096 };
typedef struct place {
    kvi_tier_name name;
    uint64_t at, n; /* bytes of the file */
} place;

typedef struct directory {
    kvi_tier tier;
    char path[PATH], file[PATH + 20];
    place *places; /* (n_places) by `at` */
    size_t n_places, cap_places;
    kvi_os_file reading; /* stays open from get to get, since the system reads ahead in an open file */
    bool fails; /* the last objects could not be written: the disk may be full, and nothing is kept on it in vain */
} directory;

static uint64_t end_of(const directory *d, size_t i) { return i > 0 ? d->places[i - 1].at + d->places[i - 1].n : 0; }

/* n_places: it has none. */
static size_t find(const directory *d, kvi_tier_name name)
{
    size_t i = 0;
    while (i < d->n_places && (d->places[i].name.low != name.low || d->places[i].name.high != name.high)) i++;
    return i;
}

/* Others may have cut the file, or removed it: bytes that are left. */
static uint64_t file_bytes(const directory *d)
{
    uint64_t bytes = 0, changed;
    return kvi_os_file_stamp(d->file, &bytes, &changed) ? bytes : 0;
}

/* Whether place i has the object, whole. */
static bool has(const directory *d, size_t i, const kvi_tier_object *object, uint64_t n_file)
{
    return i < d->n_places && d->places[i].n == object->n && end_of(d, i + 1) <= n_file;
}

static kvrt_status exists(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    const directory *d = (const directory *)tier;
    const uint64_t n_file = file_bytes(d);
    (void)error;
    for (uint32_t i = 0; i < count; i++) objects[i].there = has(d, find(d, objects[i].name), &objects[i], n_file);
    return KVRT_OK;
}

static kvrt_status get(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    directory *d = (directory *)tier;
    const bool is_open = d->reading.file || kvi_os_file_open(&d->reading, d->file, false, NULL) >= KVRT_OK;
    (void)error;
    for (uint32_t i = 0; i < count; i++) {
        const size_t p = find(d, objects[i].name);
        objects[i].there = is_open && p < d->n_places && d->places[p].n == objects[i].n &&
                           kvi_os_file_read(d->reading, d->places[p].at, objects[i].bytes, objects[i].n);
    }
    return KVRT_OK;
}

static void remove_at(directory *d, size_t i)
{
    memmove(d->places + i, d->places + i + 1, (d->n_places - i - 1) * sizeof *d->places);
    d->n_places--;
}

static void drop(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count)
{
    directory *d = (directory *)tier;
    kvi_os_file_close(&d->reading);
    for (uint32_t i = 0; i < count; i++) {
        const size_t p = find(d, objects[i].name);
        if (p < d->n_places) remove_at(d, p);
    }
    if (d->fails) kvi_os_file_cut(d->file, end_of(d, d->n_places));
}

/* Behind place `near` if there is room, else in the first gap. Its number; the caller has made room in the list. */
static size_t take(directory *d, const kvi_tier_object *object, size_t near)
{
    size_t i = near + 1;
    if (i > d->n_places || (i < d->n_places && d->places[i].at - end_of(d, i) < object->n))
        for (i = 0; i < d->n_places && d->places[i].at - end_of(d, i) < object->n;) i++;
    memmove(d->places + i + 1, d->places + i, (d->n_places - i) * sizeof *d->places);
    d->n_places++;
    d->places[i] = (place){object->name, end_of(d, i), object->n};
    return i;
}

static kvrt_status write_all(directory *d, kvi_os_file file, const kvi_tier_object *objects, uint32_t count,
                             kvrt_error *error)
{
    const uint64_t n_file = file_bytes(d);
    size_t at = d->n_places;
    for (uint32_t i = 0; i < count; i++) {
        const size_t old = find(d, objects[i].name);
        if (has(d, old, &objects[i], n_file)) continue;
        if (old < d->n_places) remove_at(d, old);
        at = take(d, &objects[i], at);
        KVI_TRY(kvi_os_file_write(file, d->file, d->places[at].at, objects[i].bytes, objects[i].n, error));
    }
    return KVRT_OK;
}

static kvrt_status set(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    directory *d = (directory *)tier;
    void *places = d->places;
    kvi_os_file file;
    if (count == 0) return KVRT_OK;
    kvi_os_file_close(&d->reading);
    const bool has_room = kvi_mem_grow(&places, &d->cap_places, d->n_places + count, sizeof *d->places);
    d->places = places;
    if (!has_room) return kvi_error_nomem(error, count * sizeof *d->places, "list of pages in a directory");
    KVI_TRY(kvi_os_file_open(&file, d->file, true, error));
    const kvrt_status status = write_all(d, file, objects, count, error);
    kvi_os_file_close(&file);
    d->fails = status < KVRT_OK;
    if (d->fails) drop(tier, objects, count);
    return status;
}

/* The folder goes when nothing is in it. */
static void close_it(kvi_tier *tier)
{
    directory *d = (directory *)tier;
    if (!d) return;
    kvi_os_file_close(&d->reading);
    kvi_os_file_cut(d->file, 0);
    kvi_os_folder_remove(d->path);
    kvi_mem_free(d->places);
    kvi_mem_free(d);
}

static const kvi_tier_kind kind = {"directory", exists, get, set, drop, close_it};

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
    snprintf(d->file, sizeof d->file, "%s/%016llx", d->path, (unsigned long long)kvi_os_random());
    if (status >= KVRT_OK) status = kvi_os_folder_make(d->path, error);
    if (status >= KVRT_OK) *out = &d->tier;
    else kvi_mem_free(d);
    return status;
}
