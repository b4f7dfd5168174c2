/* A participant is killed at every instruction of what it does, and so is the one who recovers what it held: nobody hangs,
 * no slot is lost, no record is torn, none that was put comes to nobody, none comes twice unless its consumer died.
 *
 * How: see killed.h. test_queue_faults.c does the same without ptrace. */
#include "queue_cases.h"

#define OBJECT_OF(handle) ((handle)->queue)
#include "killed.h"
