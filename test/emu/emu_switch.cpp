/* emu_switch.cpp - stacks for CUDA threads. See emu_switch.h. */
#include "emu_switch.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
/* Saves what a call must preserve, changes the stack, restores. It ends in ret, not jmp: lanes of a warp wait at the same place, so the
 * CPU's return predictor is right nearly always. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl kvi_emu_switch\n"
        ".hidden kvi_emu_switch\n"
        ".type kvi_emu_switch,@function\n"
        "kvi_emu_switch:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp,(%rdi)\n"
        "    mov %rsi,%rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size kvi_emu_switch,.-kvi_emu_switch\n");
#endif

namespace kvi_emu
{

#if defined(KVRT_EMU_ASAN) || defined(KVRT_EMU_TSAN) || !defined(__OPTIMIZE__)
static const size_t stack_bytes = 256u << 10; /* red zones make frames several times larger */
#else
static const size_t stack_bytes = 64u << 10;
#endif
static const size_t guard_bytes = 1u << 20; /* unreadable, wide enough for a frame that oversteps it in one go */

stack *stack_create(uint32_t index, void (*entry)())
{
    stack *s = static_cast<stack *>(calloc(1, sizeof *s));
    void *memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!s || memory == MAP_FAILED) abort();
    s->memory = static_cast<unsigned char *>(memory);
    if (mprotect(memory, guard_bytes, PROT_NONE) != 0) abort();
    /* Equal offsets in every stack would meet in the same few sets of the first-level cache. */
    s->start.fiber = nullptr;
#if defined(KVRT_EMU_TSAN)
    s->fiber = __tsan_create_fiber(0);
    s->start.fiber = s->fiber;
#endif
#if defined(__x86_64__)
    uintptr_t top = ((uintptr_t)s->memory + guard_bytes + stack_bytes - 64u - (index * 576u) % 4096u) & ~(uintptr_t)15;
    s->start.sp = reinterpret_cast<void *>(top - 64u);
#else
    (void)index;
#endif
    stack_rewind(s, entry);
    return s;
}

void stack_rewind(stack *s, void (*entry)())
{
#if defined(__x86_64__)
    void **frame = static_cast<void **>(s->start.sp);
    for (int i = 0; i < 6; i++) frame[i] = nullptr;
    frame[6] = reinterpret_cast<void *>(entry); /* entered as if called: the stack is 8 off a multiple of 16 */
    frame[7] = nullptr;                         /* where backtraces end */
#else
    getcontext(&s->start.context);
    s->start.context.uc_stack.ss_sp = s->memory + guard_bytes;
    s->start.context.uc_stack.ss_size = stack_bytes;
    s->start.context.uc_link = nullptr;
    makecontext(&s->start.context, entry, 0);
#endif
}

} // namespace kvi_emu
