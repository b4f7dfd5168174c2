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

#define cl__load_seq_cst(p) atomic_load_explicit((p), memory_order_seq_cst)
#define cl__exchange_seq_cst(p, v) atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define cl__swap_if_seq_cst(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_acquire)
#define cl__add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define cl__add_release(p, v) atomic_fetch_add_explicit((p), (v), memory_order_release)

/* Where a test may end the process: before each atomic of what lives in shared memory. In all other builds nothing. */
#ifdef CL__FAULTS
void cl__fault_at(int place) __attribute__((weak));
#define CL_FAULT(place) (cl__fault_at ? cl__fault_at(place) : (void)0)
#else
#define CL_FAULT(place) ((void)0)
#endif

#endif
