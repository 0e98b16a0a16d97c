/* mem.c - the only caller of malloc and free in the library. Each block carries a header with its size and its account, so that the
 * counters are exact and tests can prove "no leak" and "a step allocates nothing". */
#include "mem.h"
#include "os.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct block_note {
    size_t bytes;
    kvi_account *account; /* NULL: nobody's */
} block_note;
typedef union block_header {
    block_note note;
    max_align_t align;
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

/* ---------------------------------------------------------------------------------------------------- accounts --- */
struct kvi_account {
    _Atomic uint64_t bytes, peak, limit, refused;
    _Atomic uint64_t holds; /* blocks, and one while it is open */
};
static _Thread_local kvi_account *in_use;

static void let_go(kvi_account *account)
{
    if (atomic_fetch_sub(&account->holds, 1) == 1) kvi_mem_free(account);
}

kvi_account *kvi_account_open(void)
{
    kvi_account *before = kvi_account_use(NULL); /* belongs to itself, which the header cannot say */
    kvi_account *account = kvi_mem_zalloc(1, sizeof *account);
    (void)kvi_account_use(before);
    if (!account) return NULL;
    atomic_store(&account->bytes, sizeof *account);
    atomic_store(&account->peak, sizeof *account);
    atomic_store(&account->holds, 1);
    return account;
}

void kvi_account_close(kvi_account *account)
{
    if (account) let_go(account);
}

kvi_account *kvi_account_use(kvi_account *next)
{
    kvi_account *before = in_use;
    in_use = next;
    return before;
}

void kvi_account_limit(kvi_account *account, uint64_t bytes) { atomic_store(&account->limit, bytes); }
uint64_t kvi_account_bytes(const kvi_account *account) { return atomic_load(&account->bytes); }
uint64_t kvi_account_peak(const kvi_account *account) { return atomic_load(&account->peak); }
uint64_t kvi_account_refused(const kvi_account *account) { return atomic_load(&account->refused); }

/* Whether the thread's account has room for so much more. */
static bool has_room(size_t bytes)
{
    if (!in_use) return true;
    const uint64_t limit = atomic_load(&in_use->limit), then = atomic_load(&in_use->bytes) + bytes;
    if (!limit || then <= limit) return true;
    atomic_store(&in_use->refused, then);
    return false;
}

/* -------------------------------------------------------------------------------------------------------- blocks --- */
static void count_bytes(size_t bytes, kvi_account *account)
{
    atomic_fetch_add_explicit(&live_bytes, bytes, memory_order_relaxed);
    if (!account) return;
    const uint64_t now = atomic_fetch_add(&account->bytes, bytes) + bytes;
    uint64_t peak = atomic_load(&account->peak);
    while (now > peak && !atomic_compare_exchange_weak(&account->peak, &peak, now)) {
    }
}

static block_note count_in(size_t bytes, kvi_account *account)
{
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&total_allocations, 1, memory_order_relaxed);
    if (account) atomic_fetch_add(&account->holds, 1);
    count_bytes(bytes, account);
    return (block_note){bytes, account};
}

static void count_out(block_note note)
{
    atomic_fetch_sub_explicit(&live_bytes, note.bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    if (!note.account) return;
    atomic_fetch_sub(&note.account->bytes, note.bytes);
    let_go(note.account);
}

void *kvi_mem_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX - sizeof(block_header) || must_fail() || !has_room(bytes)) return NULL;
    block_header *header = malloc(sizeof *header + bytes);
    if (!header) return NULL;
    header->note = count_in(bytes, in_use);
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
    if (bytes > SIZE_MAX - sizeof(block_header) || must_fail() || !has_room(bytes)) return NULL;
    block_header *header = (block_header *)block - 1;
    const block_note old = header->note;
    header = realloc(header, sizeof *header + bytes);
    if (!header) return NULL;
    header->note = count_in(bytes, old.account); /* both count for a moment, as they may exist for one */
    count_out(old);
    return header + 1;
}

void kvi_mem_free(void *block)
{
    if (!block) return;
    block_header *header = (block_header *)block - 1;
    const block_note note = header->note;
    free(header);
    count_out(note);
}

/* Aligned blocks: 64 bytes before the pointer hold the note; from 1 MiB on, whole pages from the system. */
#define ALIGNED_HEADER 64u
#define PAGES_FROM (1u << 20)
typedef struct aligned_note {
    block_note block;
    size_t n_pages_bytes; /* of the system's pages; 0: of the heap */
} aligned_note;
_Static_assert(sizeof(aligned_note) <= ALIGNED_HEADER, "what stands before an aligned block");

static size_t with_header(size_t bytes) { return ((bytes + 63) & ~(size_t)63) + ALIGNED_HEADER; }

static void *count_aligned(unsigned char *base, size_t bytes, size_t n_pages_bytes)
{
    const aligned_note note = {count_in(bytes, in_use), n_pages_bytes};
    memcpy(base, &note, sizeof note);
    return base + ALIGNED_HEADER;
}

void *kvi_mem_alloc_aligned(size_t bytes)
{
    if (bytes > SIZE_MAX / 2 || must_fail() || !has_room(bytes)) return NULL;
    const size_t total = with_header(bytes), of_pages = total >= PAGES_FROM ? total : 0;
    unsigned char *base = of_pages ? kvi_os_pages_alloc(total) : aligned_alloc(64, total);
    if (!base) return NULL;
    if (!of_pages) memset(base, 0, total);
    return count_aligned(base, bytes, of_pages);
}

void kvi_mem_free_aligned(void *block)
{
    if (!block) return;
    unsigned char *base = (unsigned char *)block - ALIGNED_HEADER;
    aligned_note note;
    memcpy(&note, base, sizeof note);
    count_out(note.block);
    if (note.n_pages_bytes) kvi_os_pages_free(base, note.n_pages_bytes);
    else free(base);
}

void *kvi_mem_alloc_reserved(size_t bytes, size_t most)
{
    if (bytes > most || most > SIZE_MAX / 2 || must_fail() || !has_room(bytes)) return NULL;
    const size_t total = with_header(most);
    unsigned char *base = kvi_os_pages_reserve(total);
    if (base && kvi_os_pages_commit(base, with_header(bytes))) return count_aligned(base, bytes, total);
    kvi_os_pages_free(base, total);
    return NULL;
}

bool kvi_mem_resize_reserved(void *block, size_t bytes)
{
    unsigned char *base = (unsigned char *)block - ALIGNED_HEADER;
    aligned_note note;
    memcpy(&note, base, sizeof note);
    const size_t before = note.block.bytes, from = with_header(before), to = with_header(bytes);
    if (to > note.n_pages_bytes) return false;
    if (bytes > before && (must_fail() || !has_room(bytes - before) || !kvi_os_pages_commit(base + from, to - from)))
        return false;
    if (to < from) kvi_os_pages_uncommit(base + to, from - to);
    if (bytes > before) count_bytes(bytes - before, note.block.account);
    else {
        atomic_fetch_sub_explicit(&live_bytes, before - bytes, memory_order_relaxed);
        if (note.block.account) atomic_fetch_sub(&note.block.account->bytes, before - bytes);
    }
    note.block.bytes = bytes;
    memcpy(base, &note, sizeof note);
    return true;
}

const kvi_os_memory kvi_mem_copies = {kvi_mem_alloc_aligned, kvi_mem_free_aligned};

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
_Static_assert(sizeof(struct kvi_arena_block) <= KVI_ARENA_HEADER, "what mem.h says of a block");

void kvi_arena_init(kvi_arena *arena, size_t block_bytes)
{
    memset(arena, 0, sizeof *arena);
    arena->block_bytes = block_bytes;
}

bool kvi_arena_reserve(kvi_arena *arena, size_t bytes)
{
    struct kvi_arena_block *block = bytes < SIZE_MAX / 2 ? kvi_mem_alloc_aligned(KVI_ARENA_HEADER + bytes) : NULL;
    if (!block) return false;
    *block = (struct kvi_arena_block){arena->head, bytes};
    arena->head = block;
    arena->used_bytes = 0;
    arena->total_bytes += bytes;
    return true;
}

void *kvi_arena_alloc(kvi_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + 15u) & ~(size_t)15u;
    if (!arena->head || arena->head->cap - arena->used_bytes < bytes) {
        size_t cap = bytes > arena->block_bytes ? bytes : arena->block_bytes;
        struct kvi_arena_block *block = kvi_mem_alloc_aligned(KVI_ARENA_HEADER + cap);
        if (!block) return NULL;
        block->cap = cap;
        arena->total_bytes += cap;
        /* An outsize block goes behind the head so that the rest of the head stays in use. */
        if (arena->head && bytes > arena->block_bytes) {
            block->next = arena->head->next;
            arena->head->next = block;
            return (unsigned char *)block + KVI_ARENA_HEADER;
        }
        block->next = arena->head;
        arena->head = block;
        arena->used_bytes = 0;
    }
    void *data = (unsigned char *)arena->head + KVI_ARENA_HEADER + arena->used_bytes;
    arena->used_bytes += bytes;
    return data; /* blocks are zeroed when they are taken */
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
        kvi_mem_free_aligned(block);
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
