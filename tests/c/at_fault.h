/* At a fault point of one, others do something: interleavings, each as it is told. For programs whose core is built with
 * faults.h. */
#ifndef AT_FAULT_H
#define AT_FAULT_H

#include <stddef.h>

static int hook_point, hook_passes, hook_calls;
static void (*hook)(void);

void cl_fault(int point);
void cl_fault(int point)
{
    if (!hook || point != hook_point || hook_passes-- > 0)
        return;
    void (*work)(void) = hook;
    hook = NULL; /* once, and not in itself */
    work();
    hook_calls++;
}

static void at(int point, void (*work)(void))
{
    hook_point = point;
    hook_passes = hook_calls = 0;
    hook = work;
}

#endif
