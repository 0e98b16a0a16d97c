/* store_directory.c - objects as files DIRECTORY/NAMESPACE/NAME, written beside and renamed, so that nobody reads a part of one. A use renews a
 * file's time; now and then what is too old goes, and beyond the limit what was used longest ago. */
#define _POSIX_C_SOURCE 200809L
#include "serve_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATH 3800
#define TIDY_BYTES (64u << 20) /* written between two looks at all files */

typedef struct directory {
    char path[PATH];
    unsigned ttl_s;
    uint64_t limit, written;
    unsigned serial;
} directory;

typedef struct file {
    char name[40];
    time_t used;
    uint64_t bytes;
} file;

static void path_of(const directory *d, store_name name, char path[PATH + 48])
{
    snprintf(path, PATH + 48, "%s/%016llx%016llx", d->path, (unsigned long long)name.a, (unsigned long long)name.b);
}

static int by_use(const void *x, const void *y)
{
    const file *a = x, *b = y;
    return a->used < b->used ? -1 : a->used > b->used ? 1 : strcmp(a->name, b->name);
}

static file *list(const directory *d, size_t *n, uint64_t *bytes)
{
    DIR *dir = opendir(d->path);
    file *files = NULL;
    size_t cap = *n = 0;
    *bytes = 0;
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        char path[PATH + 300];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", d->path, e->d_name);
        if (strlen(e->d_name) >= sizeof files->name || stat(path, &st) != 0 || !S_ISREG(st.st_mode)) continue;
        if (*n == cap) {
            cap = cap * 2 + 256;
            file *grown = realloc(files, cap * sizeof *files);
            if (!grown) break;
            files = grown;
        }
        snprintf(files[*n].name, sizeof files->name, "%s", e->d_name);
        files[*n].used = st.st_mtime;
        files[(*n)++].bytes = (uint64_t)st.st_size;
        *bytes += (uint64_t)st.st_size;
    }
    if (dir) closedir(dir);
    return files;
}

static void tidy(directory *d)
{
    size_t n;
    uint64_t bytes;
    file *files = list(d, &n, &bytes);
    const time_t now = time(NULL);
    if (n) qsort(files, n, sizeof *files, by_use);
    for (size_t i = 0; i < n; i++) {
        char path[PATH + 48];
        const bool old = now - files[i].used > (time_t)d->ttl_s;
        if (!old && (!d->limit || bytes <= d->limit)) break;
        snprintf(path, sizeof path, "%s/%s", d->path, files[i].name);
        if (unlink(path) == 0) bytes -= files[i].bytes;
    }
    free(files);
    d->written = 0;
}

static bool make_folder(const char *path) { return mkdir(path, 0700) == 0 || errno == EEXIST; }

/* Both levels; somebody may tidy them away while the server runs. */
static bool make_folders(const directory *d)
{
    char top[PATH];
    snprintf(top, sizeof top, "%s", d->path);
    *strrchr(top, '/') = 0;
    return make_folder(top) && make_folder(d->path);
}

static void *open_it(const store_settings *settings, char *why, size_t cap)
{
    directory *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->ttl_s = settings->ttl_s;
    d->limit = settings->limit_bytes;
    const int n = snprintf(d->path, sizeof d->path, "%s/%016llx%016llx", settings->where,
                           (unsigned long long)settings->name_space.a, (unsigned long long)settings->name_space.b);
    if (n < 0 || (size_t)n >= sizeof d->path) snprintf(why, cap, "the path is too long");
    else if (!make_folders(d)) snprintf(why, cap, "%s", strerror(errno));
    else {
        tidy(d);
        return d;
    }
    free(d);
    return NULL;
}

static bool exists(void *store, store_object *objects, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char path[PATH + 48];
        struct stat st;
        path_of(store, objects[i].name, path);
        objects[i].there = stat(path, &st) == 0 && (uint64_t)st.st_size == objects[i].len;
        if (objects[i].there) (void)utimensat(AT_FDCWD, path, NULL, 0);
    }
    return true;
}

static bool read_file(const char *path, store_object *o)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = fstat(fd, &st) == 0 && st.st_size >= 0;
    o->len = ok ? (size_t)st.st_size : 0;
    o->bytes = ok ? malloc(o->len + 1) : NULL;
    ok = o->bytes != NULL;
    for (size_t at = 0; ok && at < o->len;) {
        const ssize_t n = read(fd, o->bytes + at, o->len - at);
        if (n > 0) at += (size_t)n;
        else ok = n < 0 && errno == EINTR;
    }
    if (!ok) free(o->bytes), o->bytes = NULL;
    (void)close(fd);
    return ok;
}

static bool get(void *store, store_object *objects, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char path[PATH + 48];
        path_of(store, objects[i].name, path);
        objects[i].there = read_file(path, &objects[i]);
        if (objects[i].there) (void)utimensat(AT_FDCWD, path, NULL, 0);
    }
    return true;
}

static bool write_file(directory *d, const store_object *o)
{
    char path[PATH + 48], part[PATH + 48];
    path_of(d, o->name, path);
    snprintf(part, sizeof part, "%s/.%ld-%u", d->path, (long)getpid(), d->serial++);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 && errno == ENOENT && make_folders(d)) fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0;
    for (size_t at = 0; ok && at < o->len;) {
        const ssize_t n = write(fd, o->bytes + at, o->len - at);
        if (n > 0) at += (size_t)n;
        else ok = n < 0 && errno == EINTR;
    }
    if (fd >= 0 && close(fd) != 0) ok = false;
    if (ok) ok = rename(part, path) == 0;
    if (!ok && fd >= 0) (void)unlink(part);
    d->written += o->len;
    return ok;
}

static bool set(void *store, const store_object *objects, size_t n)
{
    directory *d = store;
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) ok = write_file(d, &objects[i]);
    if (d->written > TIDY_BYTES || (d->limit && d->written > d->limit / 8)) tidy(d);
    return ok;
}

static void close_it(void *store) { free(store); }

const store_kind store_directory = {open_it, exists, get, set, close_it};
