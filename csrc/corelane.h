/* corelane's C core: everything a C program or the Python binding may call.
 *
 * Conventions, for every function below:
 *   - it returns >= 0, or -errno; objects come back through out-parameters;
 *   - cl_ is public, cl__ is private, a static helper has no prefix;
 *   - its comment says what it does, whether it blocks, and which threads may call it. */
#ifndef CORELANE_H
#define CORELANE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "api/system.h"
#include "api/spawn.h"
#include "api/process.h"
#include "api/run.h"
#include "api/batch.h"
#include "api/files.h"
#include "api/notify.h"
#include "api/measure.h"
#include "api/load.h"
#include "api/cpu.h"
#include "api/segment.h"
#include "api/wait.h"
#include "api/queue.h"
#include "api/broadcast.h"
#include "api/ring.h"
#include "api/eventfd.h"
#include "api/deque.h"
#include "api/buffers.h"
#include "api/sync.h"

#ifdef __cplusplus
}
#endif

#endif
