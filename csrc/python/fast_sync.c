/* What of locks, semaphores, events and barriers never blocks, holding the GIL: what their Python classes inherit from.
 *
 * A call that cannot be done at once is left to a method of the Python class: `_wait_later` waits until another try is worth it,
 * `_refused` raises. Neither of them claims anything: a claim is made here, as the last thing before the return. So a signal's
 * exception, which Python raises between any two steps of its own, comes before the claim, or after the `with` block has begun:
 *
 *     Python: waits, claims     signal: KeyboardInterrupt     the with block never begins, nobody releases
 *
 * For the same reason the `__enter__` and `__exit__` of locks and semaphores are C, and all of a barrier's wait; see fast.c.
 *
 * Joining and leaving are kept away from the calls by the GIL, or a lock, as in fast_queue.c. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"
#include "fast_object.h"

#include <errno.h>
#include <pthread.h>

#ifdef Py_GIL_DISABLED
static pthread_rwlock_t leaving = PTHREAD_RWLOCK_INITIALIZER;
#define BEGIN() pthread_rwlock_rdlock(&leaving)
#define BEGIN_ALONE() pthread_rwlock_wrlock(&leaving)
#define END() pthread_rwlock_unlock(&leaving)
#else
#define BEGIN() ((void)0)
#define BEGIN_ALONE() ((void)0)
#define END() ((void)0)
#endif

static PyObject *refuse(PyObject *self, int64_t rc)
{
    return cl__fast_later(self, "_refused", rc, Py_None, Py_None);
}

/* None, or what `_refused` raises. */
static PyObject *none_or_refuse(PyObject *self, int64_t rc)
{
    if (rc < 0)
        return refuse(self, rc);
    Py_RETURN_NONE;
}

/* ---- what waits --------------------------------------------------------------------------------------------------------- */

typedef int64_t attempt(cl_sync *sync, int32_t waits);

/* 0, or -1 and an exception. `_wait_later(rc, timeout, state)` returns the state that it is called with next. */
static int try_and_wait(PyObject *self, attempt *attempt, PyObject *timeout)
{
    PyObject *state = Py_None;
    cl_sync *sync = cl__fast_core(self);
    int64_t rc = -EINVAL;
    Py_INCREF(state);
    while (sync && state) {
        BEGIN();
        rc = attempt(sync, 1);
        END();
        if (rc >= 0)
            break;
        PyObject *next = cl__fast_later(self, "_wait_later", rc, timeout, state);
        Py_DECREF(state);
        state = next;
    }
    Py_XDECREF(state);
    return rc < 0 ? -1 : 0;
}

static PyObject *acquire_with(PyObject *self, attempt *attempt, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None;
    if (((count || names) && cl__fast_timeout("acquire", args, count, names, 0, &timeout) < 0) ||
        cl__fast_check_timeout(self, timeout) < 0 || try_and_wait(self, attempt, timeout) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *try_with(PyObject *self, attempt *attempt)
{
    cl_sync *sync = cl__fast_core(self);
    if (!sync)
        return NULL;
    BEGIN();
    int64_t rc = attempt(sync, 0);
    END();
    if (rc >= 0)
        Py_RETURN_TRUE;
    if (rc == -EAGAIN || rc == -EDEADLK)
        Py_RETURN_FALSE;
    return refuse(self, rc);
}

static PyObject *enter_with(PyObject *self, attempt *attempt)
{
    if (try_and_wait(self, attempt, Py_None) < 0)
        return NULL;
    Py_INCREF(self);
    return self;
}

/* ---- locks -------------------------------------------------------------------------------------------------------------- */

static PyObject *lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return acquire_with(self, cl_lock_try, args, count, names);
}

static PyObject *lock_try_acquire(PyObject *self, PyObject *unused)
{
    (void)unused;
    return try_with(self, cl_lock_try);
}

static PyObject *lock_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return enter_with(self, cl_lock_try);
}

static PyObject *release_lock(PyObject *self, int keeps)
{
    cl_lock *lock = cl__fast_core(self);
    if (!lock)
        return NULL;
    BEGIN();
    int64_t rc = cl_lock_release(lock, keeps);
    END();
    return none_or_refuse(self, rc);
}

static PyObject *lock_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    return release_lock(self, 0);
}

/* __exit__(type, value, trace) */
static PyObject *lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    return release_lock(self, count > 0 && args[0] != Py_None);
}

/* ---- semaphores --------------------------------------------------------------------------------------------------------- */

static PyObject *semaphore_acquire(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return acquire_with(self, cl_semaphore_try, args, count, names);
}

static PyObject *semaphore_try_acquire(PyObject *self, PyObject *unused)
{
    (void)unused;
    return try_with(self, cl_semaphore_try);
}

static PyObject *semaphore_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return enter_with(self, cl_semaphore_try);
}

static PyObject *semaphore_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_semaphore *semaphore = cl__fast_core(self);
    if (!semaphore)
        return NULL;
    BEGIN();
    int64_t rc = cl_semaphore_release(semaphore);
    END();
    return none_or_refuse(self, rc);
}

static PyObject *semaphore_exit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)args, (void)count;
    return semaphore_release(self, NULL);
}

/* ---- events ------------------------------------------------------------------------------------------------------------- */

static PyObject *change_event(PyObject *self, int64_t (*change)(cl_event *))
{
    cl_event *event = cl__fast_core(self);
    if (!event)
        return NULL;
    BEGIN();
    int64_t rc = change(event);
    END();
    return none_or_refuse(self, rc);
}

static PyObject *event_set(PyObject *self, PyObject *unused)
{
    (void)unused;
    return change_event(self, cl_event_set);
}

static PyObject *event_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    return change_event(self, cl_event_clear);
}

static PyObject *event_is_set(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_event *event = cl__fast_core(self);
    return event ? PyBool_FromLong(cl_event_now(event) & 1) : NULL;
}

/* ---- barriers ----------------------------------------------------------------------------------------------------------- */

/* Whatever ends the wait, no arrival is left behind for which nobody waits. `_wait_on(generation, timeout, state)` returns the
 * state that it is called with next; False: the time is over. */
static PyObject *barrier_wait(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None, *state = Py_None, *type, *value, *trace;
    cl_barrier_ticket ticket = {0};
    cl_barrier *barrier = cl__fast_core(self);
    if (!barrier || ((count || names) && cl__fast_timeout("wait", args, count, names, 0, &timeout) < 0) ||
        cl__fast_check_timeout(self, timeout) < 0)
        return NULL;
    BEGIN();
    int64_t rc = cl_barrier_arrive(barrier, &ticket);
    END();
    if (rc < 0)
        return refuse(self, rc);
    Py_INCREF(state);
    while (state && state != Py_False && (rc = cl_barrier_look(barrier, ticket.generation)) == 0) {
        PyObject *next = cl__fast_later(self, "_wait_on", (int64_t)ticket.generation, timeout, state);
        Py_DECREF(state);
        state = next;
    }
    int is_late = state == Py_False;
    Py_XDECREF(state);
    if (rc == 0) {
        PyErr_Fetch(&type, &value, &trace);
        BEGIN();
        rc = cl_barrier_give_up(barrier, &ticket) ? 1 : is_late ? -ETIMEDOUT : -EPIPE;
        END();
        PyErr_Restore(type, value, trace);
    }
    if (PyErr_Occurred())
        return NULL;
    return rc == 1 ? PyLong_FromLongLong(ticket.index) : refuse(self, rc);
}

/* ---- joining and leaving, and its one bell (corelane.shm.looping), whose number is 0 and not looked at ------------------ */

static PyObject *alone(PyObject *self, int64_t (*call)(cl_sync *))
{
    cl_sync *sync = cl__fast_core(self);
    if (!sync)
        return NULL;
    BEGIN_ALONE();
    int64_t rc = call(sync);
    END();
    return PyLong_FromLongLong(rc);
}

/* _join() -> our index, or the core's answer. */
static PyObject *join(PyObject *self, PyObject *unused)
{
    (void)unused;
    return alone(self, cl_sync_join);
}

/* _leave() -> None. */
static PyObject *leave(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_sync *sync = cl__fast_core(self);
    if (!sync)
        return NULL;
    BEGIN_ALONE();
    cl_sync_leave(sync);
    END();
    Py_RETURN_NONE;
}

/* _bell(0) -> the descriptor, or the core's answer. */
static PyObject *bell(PyObject *self, PyObject *number)
{
    (void)number;
    return alone(self, cl_sync_poll_fd);
}

/* _arm(0) -> 0, or the core's answer. */
static PyObject *arm(PyObject *self, PyObject *number)
{
    (void)number;
    return alone(self, cl_sync_arm);
}

/* _silence(0) -> 0. */
static PyObject *silence(PyObject *self, PyObject *number)
{
    (void)number;
    return alone(self, cl_sync_silence);
}

#define COMMON \
    {"_join", join, METH_NOARGS, NULL}, {"_leave", leave, METH_NOARGS, NULL}, {"_bell", bell, METH_O, NULL}, \
        {"_arm", arm, METH_O, NULL}, {"_silence", silence, METH_O, NULL}, \
        {"_bind", CL__FAST_CALL(cl__fast_bind), METH_FASTCALL, NULL}, {NULL, NULL, 0, NULL}

static PyMethodDef lock_methods[] = {
    {"acquire", CL__FAST_CALL(lock_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire(timeout=None)\n\nTake it; wait for it, for `timeout` seconds at most. True.\n\nRaises:\n    ShmTimeout: the time is "
     "over; it names the holder. AlreadyHeld: this thread has it: it would wait for itself."},
    {"try_acquire", lock_try_acquire, METH_NOARGS, "try_acquire()\n\nTake it, if it is free: whether it was."},
    {"release", lock_release, METH_NOARGS,
     "release()\n\nGive it on. If it was a dead one's, what it protects is in order again: the next one is told of nothing.\n\n"
     "Raises:\n    NotHeld: this thread does not have it."},
    {"__enter__", lock_enter, METH_NOARGS, "Acquire it."},
    {"__exit__", CL__FAST_CALL(lock_exit), METH_FASTCALL,
     "Release it. If the block raised, the next holder is told of a death that this one was told of."},
    COMMON};

static PyMethodDef semaphore_methods[] = {
    {"acquire", CL__FAST_CALL(semaphore_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire(timeout=None)\n\nTake a permit; wait for one, for `timeout` seconds at most. True.\n\nRaises:\n    ShmTimeout: the "
     "time is over."},
    {"try_acquire", semaphore_try_acquire, METH_NOARGS, "try_acquire()\n\nTake a permit, if there is one: whether there was."},
    {"release", semaphore_release, METH_NOARGS,
     "release()\n\nGive a permit of this handle's back.\n\nRaises:\n    NotHeld: it has none."},
    {"__enter__", semaphore_enter, METH_NOARGS, "Take a permit."},
    {"__exit__", CL__FAST_CALL(semaphore_exit), METH_FASTCALL, "Give it back."},
    COMMON};

static PyMethodDef event_methods[] = {
    {"set", event_set, METH_NOARGS, "set()\n\nAll who wait go on, and all who come, until it is cleared."},
    {"clear", event_clear, METH_NOARGS, "clear()\n\nWho comes from now on waits; who waited when it was set goes on."},
    {"is_set", event_is_set, METH_NOARGS, "is_set()\n\nWhether it is set."},
    COMMON};

static PyMethodDef barrier_methods[] = {
    {"wait", CL__FAST_CALL(barrier_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait(timeout=None)\n\nCome, and wait until all parties have. Who waits no longer, after `timeout` seconds or for an exception, "
     "has broken it.\n\nReturns:\n    In which place it came, from 0: another one for each party.\n\nRaises:\n    ShmTimeout: the "
     "time is over. BrokenBarrier: somebody died waiting, or waited no longer."},
    COMMON};

#define TYPE(name_, methods_, doc_) \
    static PyType_Slot name_##_slots[] = { \
        {Py_tp_methods, methods_}, {Py_tp_dealloc, cl__fast_dealloc}, {Py_tp_doc, (void *)doc_}, {0, NULL}}; \
    static PyType_Spec name_##_spec = { \
        .name = "corelane._fast." #name_, \
        .basicsize = sizeof(cl__fast_object), \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, \
        .slots = name_##_slots, \
    }

TYPE(LockCalls, lock_methods, "The calls of a lock.");
TYPE(SemaphoreCalls, semaphore_methods, "The calls of a semaphore.");
TYPE(EventCalls, event_methods, "The calls of an event that do not wait.");
TYPE(BarrierCalls, barrier_methods, "The calls of a barrier.");

int cl__fast_add_sync(PyObject *module)
{
    if (cl__fast_add_type(module, "LockCalls", &LockCalls_spec) < 0 ||
        cl__fast_add_type(module, "SemaphoreCalls", &SemaphoreCalls_spec) < 0 ||
        cl__fast_add_type(module, "EventCalls", &EventCalls_spec) < 0)
        return -1;
    return cl__fast_add_type(module, "BarrierCalls", &BarrierCalls_spec);
}
