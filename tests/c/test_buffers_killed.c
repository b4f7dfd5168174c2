/* A participant is killed at every instruction of what it does, and so is the one who recovers what it held: nobody hangs, every
 * block comes free, none is two's at once, and what a survivor holds or has sent stays as it was.
 *
 * How: see killed.h; CORELANE_FULL, CORELANE_KILL_OFFSET and CORELANE_TELL mean the same. test_buffers_faults.c does it
 * without ptrace. */
#include "buffers_cases.h"

#define OBJECT_OF(handle) ((handle)->pool)
#include "killed.h"
