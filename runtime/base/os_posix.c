/* os_posix.c - the operating system seam for Linux and other POSIX systems. */
#define _GNU_SOURCE
#include "os.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* ------------------------------------------------------------------------------------------------------- files --- */
static bool dangling(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && stat(path, &st) != 0;
}

kvi_os_kind kvi_os_path_kind(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        bool nothing = errno == ENOENT || errno == ENOTDIR;
        return nothing && !dangling(path) ? KVI_OS_ABSENT : KVI_OS_OTHER;
    }
    if (S_ISREG(st.st_mode)) return KVI_OS_FILE;
    return S_ISDIR(st.st_mode) ? KVI_OS_DIRECTORY : KVI_OS_OTHER;
}

bool kvi_os_file_stamp(const char *path, uint64_t *bytes, uint64_t *changed_ns)
{
    struct stat st;
    if (stat(path, &st) != 0) return false;
    *bytes = (uint64_t)st.st_size;
    *changed_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    return true;
}

void kvi_os_list(const char *dir, void (*fn)(const char *name, void *user), void *user)
{
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) fn(entry->d_name, user);
    closedir(d);
}

static kvrt_status read_part(int fd, const char *path, void *bytes, uint64_t len, kvrt_error *error)
{
    for (uint64_t got = 0; got < len;) {
        const ssize_t n = read(fd, (uint8_t *)bytes + got, len - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return kvi_error_errno(error, KVRT_IO, n < 0 ? errno : EIO, "%s: read %llu of %llu bytes", path,
                                   (unsigned long long)got, (unsigned long long)len);
        got += (uint64_t)n;
    }
    return KVRT_OK;
}

static kvrt_status read_all(int fd, const char *path, uint64_t len, const kvi_os_memory *copies, kvi_map *out,
                            kvrt_error *error)
{
    uint8_t *data = copies->alloc(len);
    if (!data) return kvi_error_nomem(error, len, path);
    const kvrt_status status = read_part(fd, path, data, len, error);
    if (status >= KVRT_OK) *out = (kvi_map){.data = data, .len = len, .free = copies->free};
    else copies->free(data);
    return status;
}

/* A regular file's descriptor and length. */
static kvrt_status open_regular(const char *path, int *out, uint64_t *len, kvrt_error *error)
{
    /* O_NONBLOCK: opening a FIFO by mistake must not hang. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        const int code = errno;
        if (code == ENOENT && dangling(path))
            return kvi_error_set(error, KVRT_IO, "%s: is a link to a file that is not there, need a regular file",
                                 path);
        return kvi_error_errno(error, KVRT_IO, code, "%s: cannot open", path);
    }
    struct stat st;
    kvrt_status status = KVRT_OK;
    if (fstat(fd, &st) != 0) status = kvi_error_errno(error, KVRT_IO, errno, "%s: cannot stat", path);
    else if (!S_ISREG(st.st_mode))
        status = kvi_error_set(error, KVRT_IO, "%s: is %s, need a regular file", path,
                               S_ISDIR(st.st_mode)    ? "a directory"
                               : S_ISFIFO(st.st_mode) ? "a FIFO"
                                                      : "a special file");
    if (status < KVRT_OK) {
        (void)close(fd);
        return status;
    }
    *out = fd;
    *len = (uint64_t)st.st_size;
    return KVRT_OK;
}

kvrt_status kvi_os_map(const char *path, const kvi_os_memory *copies, kvi_map *out, kvrt_error *error)
{
    int fd;
    uint64_t len;
    kvrt_status status = KVRT_OK;
    *out = (kvi_map){0};
    KVI_TRY(open_regular(path, &fd, &len, error));
    if (len > 0 && copies) status = read_all(fd, path, len, copies, out, error);
    else if (len > 0) {
        void *data = mmap(NULL, (size_t)len, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            status = kvi_error_errno(error, KVRT_IO, errno, "%s: cannot map %llu bytes", path, (unsigned long long)len);
        else *out = (kvi_map){.data = data, .len = len};
    }
    (void)close(fd);
    return status;
}

kvrt_status kvi_os_read_begin(kvi_os_reader *reader, const char *path, kvrt_error *error)
{
    int fd;
    *reader = (kvi_os_reader){0};
    KVI_TRY(open_regular(path, &fd, &reader->n, error));
    reader->file = fd + 1;
    return KVRT_OK;
}

kvrt_status kvi_os_read_next(kvi_os_reader *reader, void *bytes, uint64_t n, kvrt_error *error)
{
    return read_part(reader->file - 1, "file", bytes, n, error);
}

void kvi_os_read_end(kvi_os_reader *reader)
{
    if (reader->file) (void)close(reader->file - 1);
    reader->file = 0;
}

void kvi_os_unmap(kvi_map *map)
{
    if (map->free) map->free((void *)(uintptr_t)map->data);
    else if (map->data) (void)munmap((void *)(uintptr_t)map->data, map->len);
    *map = (kvi_map){0};
}

bool kvi_os_find_suffix(const char *dir, const char *suffix, char *name, uint64_t cap)
{
    DIR *listing = opendir(dir);
    size_t n_suffix = strlen(suffix);
    bool found = false;
    for (struct dirent *entry; listing && !found && (entry = readdir(listing));) {
        size_t n = strlen(entry->d_name);
        found = n >= n_suffix && n < cap && strcmp(entry->d_name + n - n_suffix, suffix) == 0;
        if (found) memcpy(name, entry->d_name, n + 1);
    }
    if (listing) (void)closedir(listing);
    return found;
}

/* ------------------------------------------------------------------------------------------------ replacing a file --- */
int64_t (*kvi_os_write_hook)(int32_t file, const void *bytes, uint64_t n);

/* path + "." + 16 hexadecimal digits + ".part" */
static void name_beside(kvi_os_writer *w)
{
    static const char digits[] = "0123456789abcdef";
    const size_t len = strlen(w->path);
    uint64_t random = kvi_os_random();
    memcpy(w->beside, w->path, len);
    w->beside[len] = '.';
    for (int i = 0; i < 16; i++, random >>= 4) w->beside[len + 1 + (size_t)i] = digits[random & 15];
    memcpy(w->beside + len + 17, ".part", 6);
}

kvrt_status kvi_os_replace_begin(kvi_os_writer *w, const char *path, kvrt_error *error)
{
    const size_t len = strlen(path);
    w->file = 0;
    if (len == 0 || len >= sizeof w->path)
        return kvi_error_set(error, KVRT_ARG, "path: %zu bytes, need 1 to %zu", len, sizeof w->path - 1);
    memcpy(w->path, path, len + 1);
    name_beside(w);
    const int fd = open(w->beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return kvi_error_errno(error, KVRT_IO, errno, "%s: cannot create", w->beside);
    w->file = fd + 1;
    return KVRT_OK;
}

static kvrt_status write_part(int fd, const char *path, const void *bytes, uint64_t n, kvrt_error *error)
{
    for (uint64_t done = 0; done < n;) {
        const uint8_t *from = (const uint8_t *)bytes + done;
        const int64_t got =
            kvi_os_write_hook ? kvi_os_write_hook(fd, from, n - done) : (int64_t)write(fd, from, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return kvi_error_errno(error, KVRT_IO, got < 0 ? errno : EIO, "%s: wrote %llu of %llu bytes", path,
                                   (unsigned long long)done, (unsigned long long)n);
        done += (uint64_t)got;
    }
    return KVRT_OK;
}

kvrt_status kvi_os_replace_write(kvi_os_writer *w, const void *bytes, uint64_t n, kvrt_error *error)
{
    return write_part(w->file - 1, w->path, bytes, n, error);
}

/* The name is on the disk when its folder is. Not every file system lets a folder be opened for that: then it comes with time. */
static void sync_folder(kvi_os_writer *w)
{
    char *slash = strrchr(w->path, '/');
    if (slash) slash[slash == w->path] = 0;
    const int fd = open(slash ? w->path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    (void)close(fd);
}

kvrt_status kvi_os_replace_end(kvi_os_writer *w, bool keep, kvrt_error *error)
{
    if (!w->file) return KVRT_OK;
    kvrt_status status = KVRT_OK;
    if (keep && fsync(w->file - 1) != 0)
        status = kvi_error_errno(error, KVRT_IO, errno, "%s: cannot be brought to the disk", w->path);
    if (close(w->file - 1) != 0 && keep && status >= KVRT_OK)
        status = kvi_error_errno(error, KVRT_IO, errno, "%s: cannot be closed", w->path);
    w->file = 0;
    if (keep && status >= KVRT_OK && rename(w->beside, w->path) != 0)
        status = kvi_error_errno(error, KVRT_IO, errno, "%s: cannot be replaced", w->path);
    if (!keep || status < KVRT_OK) (void)unlink(w->beside);
    else sync_folder(w);
    return status;
}

void kvi_os_replace_hurry(kvi_os_writer *w)
{
#if defined(SYNC_FILE_RANGE_WRITE)
    (void)sync_file_range(w->file - 1, 0, 0, SYNC_FILE_RANGE_WRITE);
#else
    (void)w;
#endif
}

/* ------------------------------------------------------------------------------------------- files that may be lost --- */
kvrt_status kvi_os_file_open(kvi_os_file *file, const char *path, bool writes, kvrt_error *error)
{
    const int fd = open(path, (writes ? O_WRONLY | O_CREAT : O_RDONLY) | O_CLOEXEC, 0600);
    file->file = fd + 1;
    if (fd < 0) return kvi_error_errno(error, KVRT_IO, errno, "%s: cannot open", path);
    if (!writes) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* so that as much as possible is read ahead */
    return KVRT_OK;
}

void kvi_os_file_close(kvi_os_file *file)
{
    if (file->file) (void)close(file->file - 1);
    file->file = 0;
}

kvrt_status kvi_os_file_write(kvi_os_file file, const char *path, uint64_t at, const void *bytes, uint64_t n,
                              kvrt_error *error)
{
    if (lseek(file.file - 1, (off_t)at, SEEK_SET) < 0)
        return kvi_error_errno(error, KVRT_IO, errno, "%s: has no byte %llu", path, (unsigned long long)at);
    return write_part(file.file - 1, path, bytes, n, error);
}

bool kvi_os_file_read(kvi_os_file file, uint64_t at, void *bytes, uint64_t n)
{
    return lseek(file.file - 1, (off_t)at, SEEK_SET) >= 0 && read_part(file.file - 1, "", bytes, n, NULL) >= KVRT_OK;
}

void kvi_os_file_cut(const char *path, uint64_t n)
{
    if (n == 0) (void)unlink(path);
    else (void)!truncate(path, (off_t)n);
}

kvrt_status kvi_os_folder_make(const char *path, kvrt_error *error)
{
    struct stat st;
    if (mkdir(path, 0777) == 0) return KVRT_OK;
    const int why = errno;
    if (why == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return KVRT_OK;
    return kvi_error_errno(error, KVRT_IO, why, "%s: cannot be made a folder", path);
}

void kvi_os_folder_remove(const char *path) { (void)rmdir(path); }

/* ------------------------------------------------------------------------------------------------------ memory --- */
void *kvi_os_pages_alloc(uint64_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    (void)madvise(pages, bytes, MADV_HUGEPAGE);
#endif
    return pages;
}

void *kvi_os_pages_reserve(uint64_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    (void)madvise(pages, bytes, MADV_HUGEPAGE);
#endif
    return pages;
}

bool kvi_os_pages_commit(void *bytes, uint64_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)bytes / page * page,
                    to = ((uintptr_t)bytes + n + page - 1) / page * page;
    return n == 0 || mprotect((void *)from, to - from, PROT_READ | PROT_WRITE) == 0;
}

/* Whole pages within. */
static uintptr_t pages_within(void *bytes, uint64_t n, uintptr_t *from)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), to = ((uintptr_t)bytes + n) / page * page;
    *from = ((uintptr_t)bytes + page - 1) / page * page;
    return to > *from ? to - *from : 0;
}

void kvi_os_pages_discard(void *bytes, uint64_t n)
{
    uintptr_t from;
    const uintptr_t len = pages_within(bytes, n, &from);
    if (len) (void)madvise((void *)from, len, MADV_DONTNEED);
}

void kvi_os_pages_uncommit(void *bytes, uint64_t n)
{
    uintptr_t from;
    const uintptr_t len = pages_within(bytes, n, &from);
    kvi_os_pages_discard(bytes, n);
    if (len) (void)mprotect((void *)from, len, PROT_NONE);
}

void kvi_os_pages_free(void *pages, uint64_t bytes)
{
    if (pages) (void)munmap(pages, bytes);
}

uint64_t kvi_os_memory_available(void)
{
#if defined(__linux__)
    /* MemAvailable counts reclaimable page cache, which sysinfo() does not know. */
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        char text[2048];
        ssize_t n = read(fd, text, sizeof text - 1);
        (void)close(fd);
        if (n > 0) {
            text[n] = 0;
            const char *at = strstr(text, "MemAvailable:");
            if (at) {
                uint64_t kib = 0;
                for (at += 13; *at == ' '; at++) {
                }
                for (; *at >= '0' && *at <= '9'; at++) kib = kib * 10 + (uint64_t)(*at - '0');
                return kib * 1024;
            }
        }
    }
    struct sysinfo info;
    if (sysinfo(&info) == 0) return (uint64_t)info.freeram * info.mem_unit;
#endif
    return 0;
}

uint32_t kvi_os_cpu_count(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        int n = CPU_COUNT(&set);
        if (n > 0) return (uint32_t)n;
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

uint64_t kvi_os_process(void) { return (uint64_t)getpid(); }

uint64_t kvi_os_random(void)
{
    uint64_t value = 0;
#if defined(__linux__)
    if (getrandom(&value, sizeof value, GRND_NONBLOCK) == (ssize_t)sizeof value) return value;
#endif
    /* Early at boot, or an old system: what two calls rarely share, stirred (the finisher of splitmix64). */
    static _Atomic uint64_t calls;
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    value = ((uint64_t)ts.tv_sec << 30 ^ (uint64_t)ts.tv_nsec) + ((uint64_t)getpid() << 40) +
            ++calls * UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

uint64_t kvi_os_now_us(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* -------------------------------------------------------------------------------------------------- arithmetic --- */
void kvi_os_arithmetic_enter(fenv_t *host)
{
    (void)fegetenv(host);
    (void)fesetenv(FE_DFL_ENV);
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(
        0x1f80u); /* DAZ and FTZ are no part of C's environment; all masked, no flag set, to nearest */
#endif
}

void kvi_os_arithmetic_leave(const fenv_t *host) { (void)fesetenv(host); }

/* ----------------------------------------------------------------------------------------------------- threads --- */
typedef struct thread {
    pthread_t id;
    void (*fn)(void *);
    void *arg;
} thread;
_Static_assert(sizeof(thread) <= sizeof(kvi_thread), "kvi_thread too small");

static void *thread_main(void *arg)
{
    const thread *self = arg;
    fenv_t unused; /* a new thread has the mode of the one that started it */
    kvi_os_arithmetic_enter(&unused);
    self->fn(self->arg);
    return NULL;
}

/* The thread is started with every signal blocked: signals of the process belong to the host's own threads, whose
 * handlers and waits would miss one that a worker took. */
kvrt_status kvi_thread_start(kvi_thread *out, void (*fn)(void *), void *arg, kvrt_error *error)
{
    thread *self = (thread *)(void *)out;
    *self = (thread){.fn = fn, .arg = arg};
    sigset_t all, before;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const int code = pthread_create(&self->id, NULL, thread_main, self);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0 ? KVRT_OK : kvi_error_errno(error, KVRT_NOMEM_HOST, code, "cannot start a worker thread");
}

void kvi_thread_join(kvi_thread *out) { (void)pthread_join(((thread *)(void *)out)->id, NULL); }

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(kvi_mutex), "kvi_mutex too small");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(kvi_cond), "kvi_cond too small");

void kvi_mutex_init(kvi_mutex *mutex) { (void)pthread_mutex_init((pthread_mutex_t *)(void *)mutex, NULL); }
void kvi_mutex_destroy(kvi_mutex *mutex) { (void)pthread_mutex_destroy((pthread_mutex_t *)(void *)mutex); }
void kvi_mutex_lock(kvi_mutex *mutex) { (void)pthread_mutex_lock((pthread_mutex_t *)(void *)mutex); }
void kvi_mutex_unlock(kvi_mutex *mutex) { (void)pthread_mutex_unlock((pthread_mutex_t *)(void *)mutex); }
void kvi_cond_init(kvi_cond *cond)
{
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init((pthread_cond_t *)(void *)cond, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
}
void kvi_cond_destroy(kvi_cond *cond) { (void)pthread_cond_destroy((pthread_cond_t *)(void *)cond); }
void kvi_cond_wait(kvi_cond *cond, kvi_mutex *mutex)
{
    (void)pthread_cond_wait((pthread_cond_t *)(void *)cond, (pthread_mutex_t *)(void *)mutex);
}
void kvi_cond_wait_for(kvi_cond *cond, kvi_mutex *mutex, uint64_t us)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    const uint64_t ns = (uint64_t)until.tv_nsec + us % 1000000 * 1000;
    until.tv_sec += (time_t)(us / 1000000 + ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    (void)pthread_cond_timedwait((pthread_cond_t *)(void *)cond, (pthread_mutex_t *)(void *)mutex, &until);
}
void kvi_cond_broadcast(kvi_cond *cond) { (void)pthread_cond_broadcast((pthread_cond_t *)(void *)cond); }

static pthread_mutex_t global = PTHREAD_MUTEX_INITIALIZER;

/* A fork copies the lock as it is, held perhaps by a thread that the child does not have: a process begins with a fresh one. The number of
 * the process is complemented while one of its threads makes it. */
static void own_global(void)
{
    static _Atomic uint64_t owner;
    const uint64_t me = kvi_os_process();
    for (uint64_t seen = atomic_load(&owner); seen != me; seen = atomic_load(&owner)) {
        if (seen == ~me) (void)sched_yield();
        else if (atomic_compare_exchange_strong(&owner, &seen, ~me)) {
            (void)pthread_mutex_init(&global, NULL);
            atomic_store(&owner, me);
        }
    }
}

void kvi_global_lock(void)
{
    own_global();
    (void)pthread_mutex_lock(&global);
}
void kvi_global_unlock(void) { (void)pthread_mutex_unlock(&global); }

/* --------------------------------------------------------------------------------------------- shared libraries --- */
void *kvi_os_library_open(const char *path, char *why, uint64_t why_cap)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *reason = library ? "" : dlerror();
    size_t len = reason ? strlen(reason) : 0;
    if (!why_cap) return library;
    if (len >= why_cap) len = why_cap - 1;
    if (len) memcpy(why, reason, len);
    why[len] = 0;
    return library;
}
void *kvi_os_library_symbol(void *library, const char *name) { return dlsym(library, name); }
void kvi_os_library_close(void *library)
{
    if (library) (void)dlclose(library);
}

/* ------------------------------------------------------------------------------------------------ CPU features --- */
#if defined(__x86_64__)
static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static void cpu_name(char name[64])
{
    uint32_t regs[12] = {0};
    for (uint32_t i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2], &regs[4 * i + 3])) return;
    memcpy(name, regs, 48);
    name[48] = 0;
}

void kvi_os_cpu(kvi_cpu *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out->name, "x86-64", 7);
    uint32_t a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return;
    out->amd = c == 0x444d4163u; /* "cAMD", the end of AuthenticAMD */
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    cpu_name(out->name);
    bool osxsave = (c >> 27) & 1;
    uint64_t xcr0 = osxsave ? xgetbv0() : 0;
    bool ymm = (xcr0 & 0x6) == 0x6, zmm = (xcr0 & 0xe6) == 0xe6, tiles = (xcr0 & 0x60000) == 0x60000;
    out->fma = ymm && ((c >> 12) & 1);
    out->f16c = ymm && ((c >> 29) & 1);
    uint32_t a7, b7, c7, d7;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return;
    out->avx2 = ymm && ((b7 >> 5) & 1);
    out->avx512 =
        zmm && ((b7 >> 16) & 1) && ((b7 >> 30) & 1) && ((b7 >> 17) & 1) && ((b7 >> 31) & 1) && ((b7 >> 28) & 1);
    out->avx512_vnni = out->avx512 && ((c7 >> 11) & 1);
    out->avx512_vbmi = out->avx512 && ((c7 >> 1) & 1);
    out->avx512_fp16 = out->avx512 && ((d7 >> 23) & 1);
    out->amx_bf16 = tiles && ((d7 >> 24) & 1) && ((d7 >> 22) & 1);
    out->amx_int8 = tiles && ((d7 >> 24) & 1) && ((d7 >> 25) & 1);
    if (__get_cpuid_count(7, 1, &a7, &b7, &c7, &d7)) {
        out->avx_vnni = ymm && ((a7 >> 4) & 1);
        out->avx512_bf16 = out->avx512 && ((a7 >> 5) & 1);
    }
}
#else
void kvi_os_cpu(kvi_cpu *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out->name, "generic", 8);
}
#endif

bool kvi_os_amx_enable(void)
{
#if defined(__x86_64__) && defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    return cpu.amx_bf16 && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}
