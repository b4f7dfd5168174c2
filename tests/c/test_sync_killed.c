/* A participant is killed at every instruction of what it does with a lock, a semaphore, an event or a barrier, and so is the one who
 * recovers what it held: nobody hangs, no permit is lost, and who finds half done what a lock protects is told.
 *
 * How: see killed.h. */
#include "sync_cases.h"

#define OBJECT_OF(handle) ((handle)->sync)
#include "killed.h"
