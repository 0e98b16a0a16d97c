/* emu_switch.h - stacks, and the switch from one to another. A stack belongs to one machine (one host thread); nothing is locked.
 * x86-64 has its own switch (callee-saved registers, about 5 ns); every other CPU uses ucontext, which is slow and correct.
 * Under ThreadSanitizer a stack is also a fiber of it, so that every CUDA thread is a thread to the race detector. */
#ifndef KVRT_EMU_SWITCH_H
#define KVRT_EMU_SWITCH_H
#include <stddef.h>
#include <stdint.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(KVRT_EMU_TSAN)
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *at);
void __tsan_release(void *at);
}
#endif

namespace kvi_emu
{

/* Where a stopped thread goes on. */
struct resume_point {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
    void *fiber; /* of ThreadSanitizer */
};

struct stack {
    unsigned char *memory; /* guard, then stack_bytes */
    void *fiber;
    resume_point start;
};

/* A stack whose first resume calls entry(), which never returns. `index` spreads the hot lines of many stacks over the cache. */
stack *stack_create(uint32_t index, void (*entry)());
void stack_rewind(stack *s, void (*entry)()); /* to its first resume again; what was on it is dropped */

#if defined(__x86_64__)
extern "C" void kvi_emu_switch(void **save, void *load);
inline void switch_to(resume_point *from, resume_point *to)
{
#if defined(KVRT_EMU_TSAN)
    from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 1 /* orders nothing */);
#endif
    kvi_emu_switch(&from->sp, to->sp);
}
#else
inline void switch_to(resume_point *from, resume_point *to)
{
#if defined(KVRT_EMU_TSAN)
    from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 1);
#endif
    swapcontext(&from->context, &to->context);
}
#endif

/* What ThreadSanitizer is told of order; nothing otherwise. */
#if defined(KVRT_EMU_TSAN)
inline void released(void *token) { __tsan_release(token); }
inline void acquired(void *token) { __tsan_acquire(token); }
#else
inline void released(void *) {}
inline void acquired(void *) {}
#endif

} // namespace kvi_emu
#endif
