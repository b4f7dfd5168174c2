/* The only vocabulary for memory orders. Each use names its partner in a comment. */
#ifndef CORELANE_ATOMIC_H
#define CORELANE_ATOMIC_H

#include <stdatomic.h>

#define cl__load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define cl__load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define cl__store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define cl__store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define cl__exchange_acq_rel(p, v) atomic_exchange_explicit((p), (v), memory_order_acq_rel)
#define cl__swap_if(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acq_rel, memory_order_acquire)
/* In one order with all others of these, in all threads and processes. */
#define cl__load(p) atomic_load_explicit((p), memory_order_seq_cst)
#define cl__exchange(p, v) atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define cl__or(p, v) atomic_fetch_or_explicit((p), (v), memory_order_seq_cst)
#define cl__add(p, v) atomic_fetch_add_explicit((p), (v), memory_order_seq_cst)
#define cl__and(p, v) atomic_fetch_and_explicit((p), (v), memory_order_seq_cst)

#define cl__swap_if_ordered(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_acquire)
/* Counts that nothing is ordered by; and one that says that what came before it is done. */
#define cl__add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define cl__add_release(p, v) atomic_fetch_add_explicit((p), (v), memory_order_release)

/* Between two looks at a word that another processor will write. */
#if defined(__x86_64__) || defined(__i386__)
#define cl__relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cl__relax() __asm__ __volatile__("isb" ::: "memory")
#else
#define cl__relax() __asm__ __volatile__("" ::: "memory")
#endif

/* What was loaded before is loaded before what comes after; the same for stores. In assembler, as ThreadSanitizer has no
 * fences: where a copy is looked at twice, and no load or store in it can carry an order of its own. `streams`: also before
 * stores that go by the cache, as memcpy's of much do on x86. */
#if defined(__x86_64__) || defined(__i386__)
#define cl__fence_loads() __asm__ __volatile__("" ::: "memory")
#define cl__fence_stores() __asm__ __volatile__("" ::: "memory")
#define cl__fence_streams() __asm__ __volatile__("sfence" ::: "memory")
#elif defined(__aarch64__)
#define cl__fence_loads() __asm__ __volatile__("dmb ishld" ::: "memory")
#define cl__fence_stores() __asm__ __volatile__("dmb ishst" ::: "memory")
#define cl__fence_streams() __asm__ __volatile__("dmb ishst" ::: "memory")
#else
#define cl__fence_loads() __sync_synchronize()
#define cl__fence_stores() __sync_synchronize()
#define cl__fence_streams() __sync_synchronize()
#endif

/* What is written before is before what comes after, as far as the compiler goes: the processor is made to by membarrier(2),
 * see wake.h. */
#define cl__fence_compiler() atomic_signal_fence(memory_order_seq_cst)

/* Whether ThreadSanitizer looks on: to it any two accesses that are no atomics are a race. */
#if defined(__SANITIZE_THREAD__)
enum { CL__UNDER_TSAN = 1 };
#else
enum { CL__UNDER_TSAN = 0 };
#endif

/* Before each atomic of the algorithms in shared memory: a test gives it a meaning, and ends the process there. */
#ifndef CL_FAULT
#define CL_FAULT(point) ((void)0)
#endif

#endif
