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

#endif
