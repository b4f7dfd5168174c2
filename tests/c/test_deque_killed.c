/* As killed.h, of deques: an owner, a thief, a successor, or one who recovers what another held, is killed at every
 * instruction of what it does: nobody hangs, no slot is lost, no record is torn, what was pushed is taken, and once unless
 * somebody died over it. CORELANE_FULL, CORELANE_KILL_OFFSET, CORELANE_TELL: see there. */
#include "deque_cases.h"

#define OBJECT_OF(handle) ((handle)->deque)
#include "killed.h"
