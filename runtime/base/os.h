/* os.h - the seam to the operating system: files, mapping, clock, threads, CPU features. One file per platform (os_posix.c);
 * nothing outside it calls the system. Paths are UTF-8 and NUL-terminated. */
#ifndef KVI_OS_H
#define KVI_OS_H
#include <fenv.h>
#include <stdbool.h>
#include <stddef.h>
#include "status.h"

typedef struct kvi_map {
    const uint8_t *data; /* NULL when empty */
    uint64_t len;
    void (*free)(void *data); /* of a copy; NULL: a mapping */
} kvi_map;
/* Where copies go. This file knows of no other memory than the system's (mem.h has kvi_mem_copies). */
typedef struct kvi_os_memory {
    void *(*alloc)(size_t bytes);
    void (*free)(void *data);
} kvi_os_memory;

/* Calls fn with the name of every entry of a directory, in no particular order; none when it cannot be read. */
void kvi_os_list(const char *dir, void (*fn)(const char *name, void *user), void *user);
/* OTHER: neither file nor folder, or not to be reached (a link to nothing, a folder without permission). */
typedef enum kvi_os_kind { KVI_OS_ABSENT, KVI_OS_FILE, KVI_OS_DIRECTORY, KVI_OS_OTHER } kvi_os_kind;
kvi_os_kind kvi_os_path_kind(const char *path);
/* Bytes of a file and when it was changed last, in nanoseconds; false when it is not there. */
bool kvi_os_file_stamp(const char *path, uint64_t *bytes, uint64_t *changed_ns);
/* Maps a regular file read-only; the length is the one at open. With `copies` it is read into memory of theirs instead. */
kvrt_status kvi_os_map(const char *path, const kvi_os_memory *copies, kvi_map *out, kvrt_error *error);
void kvi_os_unmap(kvi_map *map);
/* A regular file, read a part at a time from its beginning. `n` is its length when it was opened. IO. */
typedef struct kvi_os_reader {
    int32_t file; /* descriptor + 1; 0: none */
    uint64_t n;
} kvi_os_reader;
kvrt_status kvi_os_read_begin(kvi_os_reader *reader, const char *path, kvrt_error *error);
kvrt_status kvi_os_read_next(kvi_os_reader *reader, void *bytes, uint64_t n, kvrt_error *error); /* all n */
void kvi_os_read_end(kvi_os_reader *reader);
/* A file of the folder whose name ends so, into name (cap); false when there is none. */
bool kvi_os_find_suffix(const char *dir, const char *suffix, char *name, uint64_t cap);

/* A file that is replaced as a whole or not at all: written beside `path` under a name of its own, brought to the disk, renamed. The writer is
 * {0} before begin; kvi_os_replace_end with `keep` false, or any failure, leaves the old file and removes the new one. A process that is killed
 * may leave the new one beside it. Errors: IO with errno (ENOSPC: the disk is full). */
typedef struct kvi_os_writer {
    int32_t file; /* descriptor + 1 */
    char path[4096], beside[4096 + 32];
} kvi_os_writer;
kvrt_status kvi_os_replace_begin(kvi_os_writer *writer, const char *path, kvrt_error *error);
kvrt_status kvi_os_replace_write(kvi_os_writer *writer, const void *bytes, uint64_t n, kvrt_error *error);
kvrt_status kvi_os_replace_end(kvi_os_writer *writer, bool keep, kvrt_error *error);
/* What was written may start on its way to the disk, so that the end has less to wait for. */
void kvi_os_replace_hurry(kvi_os_writer *writer);
/* For tests: what writes, instead of the system's write. */
extern int64_t (*kvi_os_write_hook)(int32_t file, const void *bytes, uint64_t n);

/* A file that may be lost and need not survive the machine (kv/tier.h). */
typedef struct kvi_os_file {
    int32_t file; /* descriptor + 1; 0: none */
} kvi_os_file;
/* To write to it, made if it is not there, for this user alone; or to read it, mostly from its beginning to its end. IO. */
kvrt_status kvi_os_file_open(kvi_os_file *file, const char *path, bool writes, kvrt_error *error);
void kvi_os_file_close(kvi_os_file *file);
kvrt_status kvi_os_file_write(kvi_os_file file, const char *path, uint64_t at, const void *bytes, uint64_t n,
                              kvrt_error *error);                              /* IO */
bool kvi_os_file_read(kvi_os_file file, uint64_t at, void *bytes, uint64_t n); /* all n, or false */
void kvi_os_file_cut(const char *path, uint64_t n);                            /* to its first n bytes; 0: it is gone */
kvrt_status kvi_os_folder_make(const char *path, kvrt_error *error);           /* OK too when it is there. IO */
void kvi_os_folder_remove(const char *path);                                   /* if nothing is in it */

/* Anonymous zeroed pages with a huge-page hint, for pools and workspaces; NULL when memory is out. */
void *kvi_os_pages_alloc(uint64_t bytes);
void kvi_os_pages_free(void *pages, uint64_t bytes);

/* Whole pages within go back to the system, and read as zero from then on. */
void kvi_os_pages_discard(void *bytes, uint64_t n);
/* Addresses alone: nothing may be read or written there until it is committed. Freed by kvi_os_pages_free. */
void *kvi_os_pages_reserve(uint64_t bytes);
/* The pages that [bytes, bytes + n) touches may be used; false when the system has none. The other way: whole pages within go back, and are
 * addresses alone again. */
bool kvi_os_pages_commit(void *bytes, uint64_t n);
void kvi_os_pages_uncommit(void *bytes, uint64_t n);

uint64_t kvi_os_now_us(void);           /* monotonic */
uint64_t kvi_os_memory_available(void); /* bytes, 0 if unknown */
uint32_t kvi_os_cpu_count(void);        /* cores this process may use */
uint64_t kvi_os_process(void);          /* this process's number; another in a fork */
uint64_t kvi_os_random(void);           /* from the system's generator; for seeds, not for secrets */

/* The arithmetic of the library: to nearest, denormal numbers kept, no traps, whatever mode the host's thread is in; else bits of a result would
 * depend on it, and on which thread had which part. Enter saves the host's mode, leave puts it back with its flags. Threads that are started
 * below are in it from the beginning. */
void kvi_os_arithmetic_enter(fenv_t *host);
void kvi_os_arithmetic_leave(const fenv_t *host);

/* Threads: thin names over the platform's. */
typedef union kvi_thread {
    uint64_t align;
    unsigned char bytes[32];
} kvi_thread; /* stays where it is until joined */
kvrt_status kvi_thread_start(kvi_thread *thread, void (*fn)(void *), void *arg,
                             kvrt_error *error); /* takes no signals */
void kvi_thread_join(kvi_thread *thread);
typedef union kvi_mutex {
    uint64_t align;
    unsigned char bytes[64];
} kvi_mutex;
typedef union kvi_cond {
    uint64_t align;
    unsigned char bytes[64];
} kvi_cond;
void kvi_mutex_init(kvi_mutex *mutex);
void kvi_mutex_destroy(kvi_mutex *mutex);
void kvi_mutex_lock(kvi_mutex *mutex);
void kvi_mutex_unlock(kvi_mutex *mutex);
void kvi_cond_init(kvi_cond *cond);
void kvi_cond_destroy(kvi_cond *cond);
void kvi_cond_wait(kvi_cond *cond, kvi_mutex *mutex);
void kvi_cond_wait_for(kvi_cond *cond, kvi_mutex *mutex, uint64_t us); /* at most so long */
void kvi_cond_broadcast(kvi_cond *cond);
/* A process-wide lock that needs no initialization (handle table, log). The child of a fork has one of its own, free. */
void kvi_global_lock(void);
void kvi_global_unlock(void);

/* Shared libraries opened at run time, by file name or path. NULL and a reason in `why` when there is none; the symbols of a library stay
 * its own (RTLD_LOCAL). */
void *kvi_os_library_open(const char *path, char *why, uint64_t why_cap);
void *kvi_os_library_symbol(void *library, const char *name); /* NULL: absent */
void kvi_os_library_close(void *library);                     /* NULL is fine */

/* CPU features that the operating system has enabled for this process. */
typedef struct kvi_cpu {
    bool avx2, fma, f16c, avx_vnni;
    bool amd;    /* of that maker */
    bool avx512; /* F, BW, DQ, VL, CD */
    bool avx512_vnni, avx512_bf16, avx512_fp16, avx512_vbmi;
    bool amx_bf16, amx_int8; /* present; permission comes from kvi_os_amx_enable */
    char name[64];
} kvi_cpu;
void kvi_os_cpu(kvi_cpu *out);
/* Asks the kernel for AMX state, process-wide (ARCH_REQ_XCOMP_PERM). It enlarges signal frames, so only on request. */
bool kvi_os_amx_enable(void);

#endif
