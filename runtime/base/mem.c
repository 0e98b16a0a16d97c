/* mem.c - the only caller of malloc and free in the library. Each block carries a 16-byte header with its size, so that the
 * counters are exact and tests can prove "no leak" and "a step allocates nothing". */
#include "mem.h"
#include "os.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef union block_header {
    size_t bytes;
    max_align_t align;
    unsigned char pad[16];
} block_header;

static _Atomic uint64_t live_bytes, live_blocks, total_allocations, fail_countdown;

/* True when the failure hook hits this allocation. */
static bool must_fail(void)
{
    uint64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left > 0)
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) return left == 1;
    return false;
}

static void count_in(size_t bytes)
{
    atomic_fetch_add_explicit(&live_bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&total_allocations, 1, memory_order_relaxed);
}

static void count_out(size_t bytes)
{
    atomic_fetch_sub_explicit(&live_bytes, bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
}

void *kvi_mem_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX - sizeof(block_header) || must_fail()) return NULL;
    block_header *header = malloc(sizeof *header + bytes);
    if (!header) return NULL;
    header->bytes = bytes;
    count_in(bytes);
    return header + 1;
}

void *kvi_mem_zalloc(size_t count, size_t size)
{
    uint64_t bytes;
    if (!kvi_mul_u64(count, size, &bytes)) return NULL;
    void *block = kvi_mem_alloc((size_t)bytes);
    if (block) memset(block, 0, (size_t)bytes);
    return block;
}

void *kvi_mem_realloc(void *block, size_t bytes)
{
    if (!block) return kvi_mem_alloc(bytes);
    if (bytes > SIZE_MAX - sizeof(block_header) || must_fail()) return NULL;
    block_header *header = (block_header *)block - 1;
    size_t old = header->bytes;
    header = realloc(header, sizeof *header + bytes);
    if (!header) return NULL;
    header->bytes = bytes;
    count_in(bytes);
    count_out(old);
    return header + 1;
}

void kvi_mem_free(void *block)
{
    if (!block) return;
    block_header *header = (block_header *)block - 1;
    count_out(header->bytes);
    free(header);
}

/* Aligned blocks: 64 bytes before the pointer hold the size; from 1 MiB on, whole pages from the system. */
#define ALIGNED_HEADER 64u
#define PAGES_FROM (1u << 20)

void *kvi_mem_alloc_aligned(size_t bytes)
{
    if (bytes > SIZE_MAX / 2 || must_fail()) return NULL;
    size_t total = ((bytes + 63) & ~(size_t)63) + ALIGNED_HEADER;
    unsigned char *base = total >= PAGES_FROM ? kvi_os_pages_alloc(total) : aligned_alloc(64, total);
    if (!base) return NULL;
    if (total < PAGES_FROM) memset(base, 0, total);
    memcpy(base, &bytes, sizeof bytes);
    count_in(bytes);
    return base + ALIGNED_HEADER;
}

void kvi_mem_free_aligned(void *block)
{
    if (!block) return;
    unsigned char *base = (unsigned char *)block - ALIGNED_HEADER;
    size_t bytes;
    memcpy(&bytes, base, sizeof bytes);
    size_t total = ((bytes + 63) & ~(size_t)63) + ALIGNED_HEADER;
    count_out(bytes);
    if (total >= PAGES_FROM) kvi_os_pages_free(base, total);
    else free(base);
}

char *kvi_mem_strndup(const char *text, size_t len)
{
    char *copy = len < SIZE_MAX ? kvi_mem_alloc(len + 1) : NULL;
    if (!copy) return NULL;
    if (len) memcpy(copy, text, len);
    copy[len] = 0;
    return copy;
}

void kvi_mem_fail_nth(uint64_t nth) { atomic_store(&fail_countdown, nth); }

void kvi_mem_stats(uint64_t *bytes, uint64_t *blocks, uint64_t *allocations)
{
    if (bytes) *bytes = atomic_load(&live_bytes);
    if (blocks) *blocks = atomic_load(&live_blocks);
    if (allocations) *allocations = atomic_load(&total_allocations);
}

void kvrt_debug_fail_alloc(uint64_t nth) { kvi_mem_fail_nth(nth); }
void kvrt_debug_mem(uint64_t *bytes, uint64_t *blocks, uint64_t *allocations)
{
    kvi_mem_stats(bytes, blocks, allocations);
}

/* ------------------------------------------------------------------------------------------------------- arena --- */
struct kvi_arena_block {
    struct kvi_arena_block *next;
    size_t cap;
};
#define BLOCK_HEADER ((sizeof(struct kvi_arena_block) + 15u) & ~(size_t)15u)

void kvi_arena_init(kvi_arena *arena, size_t block_bytes)
{
    memset(arena, 0, sizeof *arena);
    arena->block_bytes = block_bytes;
}

void *kvi_arena_alloc(kvi_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + 15u) & ~(size_t)15u;
    if (!arena->head || arena->head->cap - arena->used_bytes < bytes) {
        size_t cap = bytes > arena->block_bytes ? bytes : arena->block_bytes;
        struct kvi_arena_block *block = kvi_mem_alloc(BLOCK_HEADER + cap);
        if (!block) return NULL;
        block->cap = cap;
        arena->total_bytes += cap;
        /* An outsize block goes behind the head so that the rest of the head stays in use. */
        if (arena->head && bytes > arena->block_bytes) {
            block->next = arena->head->next;
            arena->head->next = block;
            void *data = (unsigned char *)block + BLOCK_HEADER;
            memset(data, 0, bytes);
            return data;
        }
        block->next = arena->head;
        arena->head = block;
        arena->used_bytes = 0;
    }
    void *data = (unsigned char *)arena->head + BLOCK_HEADER + arena->used_bytes;
    arena->used_bytes += bytes;
    memset(data, 0, bytes);
    return data;
}

char *kvi_arena_strndup(kvi_arena *arena, const char *text, size_t len)
{
    char *copy = len < SIZE_MAX / 2 ? kvi_arena_alloc(arena, len + 1) : NULL;
    if (copy && len) memcpy(copy, text, len);
    return copy;
}

void kvi_arena_free(kvi_arena *arena)
{
    struct kvi_arena_block *block = arena->head;
    while (block) {
        struct kvi_arena_block *next = block->next;
        kvi_mem_free(block);
        block = next;
    }
    arena->head = NULL;
    arena->used_bytes = arena->total_bytes = 0;
}

/* ------------------------------------------------------------------------------------------------ growable data --- */
bool kvi_mem_grow(void **data, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t want = *cap ? *cap : 16;
    while (want < need) {
        if (want > SIZE_MAX / 2) return false;
        want *= 2;
    }
    uint64_t bytes;
    if (!kvi_mul_u64(want, size, &bytes)) return false;
    void *grown = kvi_mem_realloc(*data, (size_t)bytes);
    if (!grown) return false;
    *data = grown;
    *cap = want;
    return true;
}

void kvi_buf_append(kvi_buf *buf, const void *bytes, size_t len)
{
    if (buf->failed) return;
    void *data = buf->data;
    if (len > SIZE_MAX / 4 || (buf->max && buf->len + len > buf->max) ||
        !kvi_mem_grow(&data, &buf->cap, buf->len + len + 1, 1)) {
        buf->failed = true;
        return;
    }
    buf->data = data;
    if (len) memcpy(buf->data + buf->len, bytes, len);
    buf->len += len;
    buf->data[buf->len] = 0;
}

void kvi_buf_append_str(kvi_buf *buf, const char *text) { kvi_buf_append(buf, text, strlen(text)); }
void kvi_buf_append_byte(kvi_buf *buf, char byte) { kvi_buf_append(buf, &byte, 1); }

void kvi_buf_clear(kvi_buf *buf)
{
    buf->len = 0;
    buf->failed = false;
    if (buf->data) buf->data[0] = 0;
}

void kvi_buf_free(kvi_buf *buf)
{
    kvi_mem_free(buf->data);
    buf->data = NULL;
    buf->len = buf->cap = 0;
    buf->failed = false;
}
