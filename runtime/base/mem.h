/* mem.h - the only door to the C heap (malloc/free are called in mem.c and nowhere else), arenas, growable arrays.
 * Every block is counted, so that tests can prove that nothing leaks and that a step allocates nothing, and the n-th
 * allocation can be made to fail. All functions are thread-safe; an arena is not. */
#ifndef KVI_MEM_H
#define KVI_MEM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "os.h"

/* NULL when memory is out, on overflow, or when the failure hook says so. Size 0 gives a unique pointer. */
void *kvi_mem_alloc(size_t bytes);
void *kvi_mem_zalloc(size_t count, size_t size);  /* zeroed; checks count * size */
void *kvi_mem_realloc(void *block, size_t bytes); /* on failure the old block stays */
void kvi_mem_free(void *block);                   /* NULL is fine */
/* 64-byte aligned and zeroed; whole pages with a huge-page hint from 1 MiB on. Freed by kvi_mem_free_aligned. */
void *kvi_mem_alloc_aligned(size_t bytes);
void kvi_mem_free_aligned(void *block);
/* The same with addresses for `most` bytes, of which `bytes` are taken and count; kvi_mem_resize_reserved changes how many, and gives what is behind
 * back to the system. False: memory is out, nothing has changed. */
void *kvi_mem_alloc_reserved(size_t bytes, size_t most);
bool kvi_mem_resize_reserved(void *block, size_t bytes);
/* The same pair for files that are read instead of mapped (os.h). */
extern const kvi_os_memory kvi_mem_copies;
char *kvi_mem_strndup(const char *text, size_t len); /* NUL-terminated copy */

/* An account tells what one owner holds. A block allocated by a thread that uses an account belongs to it until it is freed, whoever frees
 * it; so the sum over all accounts and what has none is kvi_mem_stats. With a limit, allocations that would pass it fail. */
typedef struct kvi_account kvi_account;
kvi_account *kvi_account_open(void);             /* NULL when memory is out; counts itself */
void kvi_account_close(kvi_account *account);    /* it lives on until its last block is freed; NULL is fine */
kvi_account *kvi_account_use(kvi_account *next); /* by this thread, NULL: none; returns the one used until now */
void kvi_account_limit(kvi_account *account, uint64_t bytes); /* 0: none */
uint64_t kvi_account_bytes(const kvi_account *account);       /* held now */
uint64_t kvi_account_peak(const kvi_account *account);        /* most held so far */
uint64_t kvi_account_refused(
    const kvi_account *account); /* what the last refused allocation would have led to; 0: none */

void kvi_mem_fail_nth(uint64_t nth); /* 1: the next allocation fails once; 0: off */
void kvi_mem_stats(uint64_t *bytes, uint64_t *blocks, uint64_t *allocations);

/* Arena: allocations that die together. Blocks of `block_bytes`, larger requests get a block of their own. */
typedef struct kvi_arena {
    struct kvi_arena_block *head;
    size_t block_bytes;
    size_t used_bytes; /* in the head block */
    size_t total_bytes;
} kvi_arena;
void kvi_arena_init(kvi_arena *arena, size_t block_bytes);
#define KVI_ARENA_HEADER 16u /* bytes of a block beside its room */
/* Room for `bytes` (a sum of multiples of 16) in one block; false when memory is out. */
bool kvi_arena_reserve(kvi_arena *arena, size_t bytes);
void *kvi_arena_alloc(kvi_arena *arena, size_t bytes); /* 16-byte aligned, zeroed; NULL when memory is out */
char *kvi_arena_strndup(kvi_arena *arena, const char *text, size_t len);
void kvi_arena_free(kvi_arena *arena); /* everything; the arena may be used again */

/* Growable byte buffer, always NUL-terminated once non-empty. `failed` sticks, so that callers check once at the end. */
typedef struct kvi_buf {
    char *data;
    size_t len, cap;
    size_t max; /* 0: no limit; beyond it appending fails */
    bool failed;
} kvi_buf;
void kvi_buf_append(kvi_buf *buf, const void *bytes, size_t len);
void kvi_buf_append_str(kvi_buf *buf, const char *text);
void kvi_buf_append_byte(kvi_buf *buf, char byte);
void kvi_buf_clear(kvi_buf *buf); /* keeps the memory */
void kvi_buf_free(kvi_buf *buf);

/* Makes room for `need` elements of `size` bytes in *data; false when memory is out (data unchanged). */
bool kvi_mem_grow(void **data, size_t *cap, size_t need, size_t size);

/* a * b and a + b that report overflow. */
static inline bool kvi_mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool kvi_add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

#endif
