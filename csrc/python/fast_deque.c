/* What of a deque never blocks, holding the GIL: what corelane.shm.Deque inherits from.
 *
 * A call that cannot be done at once (full, empty, not the owner yet, an error) is left to a method of the Python class:
 * `_push_later`, `_pop_later`, `_steal_later`, which becomes the owner, waits or raises. So what is fast is here, and what is
 * said is there.
 *
 * The owner's calls are for one thread at a time, and none of joining, leaving, owning may be beside a call. All of them hold the
 * GIL from begin to end; on a free-threaded Python there is a lock, which has no second user elsewhere. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"
#include "fast_object.h"

#include <errno.h>
#include <pthread.h>

#ifdef Py_GIL_DISABLED
static pthread_mutex_t alone_lock = PTHREAD_MUTEX_INITIALIZER;
#define BEGIN() pthread_mutex_lock(&alone_lock)
#define END() pthread_mutex_unlock(&alone_lock)
#else
#define BEGIN() ((void)0)
#define END() ((void)0)
#endif

typedef int64_t claimer(cl_deque *, cl_deque_claim *);

/* -1: an exception; else 0 and the core's answer. */
static int push_object(PyObject *self, PyObject *data, int64_t *rc)
{
    cl_deque *deque = cl__fast_core(self);
    Py_buffer view;
    char *bytes;
    Py_ssize_t size;
    if (!deque)
        return -1;
    if (PyBytes_Check(data)) {
        PyBytes_AsStringAndSize(data, &bytes, &size);
        BEGIN();
        *rc = cl_deque_push(deque, bytes, size);
        END();
        return 0;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    BEGIN();
    *rc = cl_deque_push(deque, view.buf, view.len);
    END();
    PyBuffer_Release(&view);
    return 0;
}

/* NULL: an exception, or the core's answer in *rc. */
static PyObject *take_object(cl_deque *deque, claimer *take, int64_t *rc)
{
    cl_deque_claim claim;
    PyObject *bytes = NULL;
    BEGIN();
    *rc = take(deque, &claim);
    if (*rc >= 0) {
        bytes = PyBytes_FromStringAndSize((const char *)claim.data, (Py_ssize_t)claim.size);
        if (bytes)
            cl_deque_release(deque, &claim);
        else
            cl_deque_give_back(deque, &claim); /* there is no memory for it: it is for somebody else */
    }
    END();
    return bytes;
}

/* ---- the calls ---------------------------------------------------------------------------------------------------------- */

static PyObject *push(PyObject *self, PyObject *data)
{
    int64_t rc;
    if (push_object(self, data, &rc) < 0)
        return NULL;
    if (rc == 0)
        Py_RETURN_NONE;
    return cl__fast_later(self, "_push_later", rc, data, Py_None);
}

static PyObject *pop(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_deque *deque = cl__fast_core(self);
    int64_t rc;
    PyObject *bytes = deque ? take_object(deque, cl_deque_claim_newest, &rc) : NULL;
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_pop_later", rc, Py_None, Py_None);
}

static PyObject *steal(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None;
    cl_deque *deque = cl__fast_core(self);
    int64_t rc;
    if (!deque || ((count || names) && cl__fast_timeout("steal", args, count, names, 0, &timeout) < 0) ||
        cl__fast_check_timeout(self, timeout) < 0)
        return NULL;
    PyObject *bytes = take_object(deque, cl_deque_claim_oldest, &rc);
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_steal_later", rc, timeout, Py_None);
}

static PyObject *steal_nowait(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_deque *deque = cl__fast_core(self);
    int64_t rc;
    PyObject *bytes = deque ? take_object(deque, cl_deque_claim_oldest, &rc) : NULL;
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_steal_later", rc, Py_False, Py_None);
}

/* _push_some(items, first): as cl__fast_put_some. */
static PyObject *push_some(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    return cl__fast_put_some(self, args, count, push_object);
}

/* _steal_some(most) -> a list of at least one, or the core's answer. */
static PyObject *steal_some(PyObject *self, PyObject *argument)
{
    cl_deque *deque = cl__fast_core(self);
    Py_ssize_t most = PyLong_AsSsize_t(argument);
    PyObject *list = deque && !PyErr_Occurred() ? PyList_New(0) : NULL;
    int64_t rc = 0;
    if (!list)
        return NULL;
    while (PyList_Size(list) < most) {
        PyObject *bytes = take_object(deque, cl_deque_claim_oldest, &rc);
        int failed = !bytes || PyList_Append(list, bytes) < 0;
        Py_XDECREF(bytes);
        if (failed)
            break;
    }
    if (PyList_Size(list) > 0) {
        PyErr_Clear(); /* what was taken is not thrown away; it comes up again */
        return list;
    }
    Py_DECREF(list);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(rc);
}

/* ---- claims: each takes the address of a cl_deque_claim, and returns the core's answer ---------------------------------- */

static PyObject *with_claim(PyObject *self, PyObject *address, claimer *call)
{
    cl_deque *deque = cl__fast_core(self);
    cl_deque_claim *claim = deque ? PyLong_AsVoidPtr(address) : NULL;
    if (!claim)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "the claim's address is 0");
    BEGIN();
    int64_t rc = call(deque, claim);
    END();
    return PyLong_FromLongLong(rc);
}

static PyObject *reserve(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_deque_reserve);
}

static PyObject *cancel(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_deque_cancel);
}

static PyObject *claim_newest(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_deque_claim_newest);
}

static PyObject *claim_oldest(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_deque_claim_oldest);
}

static PyObject *release(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_deque_release);
}

static PyObject *give_back(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_deque_give_back);
}

/* _commit(address, size). */
static PyObject *commit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    cl_deque *deque = cl__fast_core(self);
    cl_deque_claim *claim = deque && count == 2 ? PyLong_AsVoidPtr(args[0]) : NULL;
    Py_ssize_t size = claim ? PyLong_AsSsize_t(args[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    if (!claim)
        return PyErr_Format(PyExc_TypeError, "_commit() takes a claim's address and a size");
    BEGIN();
    int64_t rc = cl_deque_commit(deque, claim, size);
    END();
    return PyLong_FromLongLong(rc);
}

/* ---- taking part --------------------------------------------------------------------------------------------------------- */

static PyObject *alone(PyObject *self, int64_t (*call)(cl_deque *))
{
    cl_deque *deque = cl__fast_core(self);
    if (!deque)
        return NULL;
    BEGIN();
    int64_t rc = call(deque);
    END();
    return PyLong_FromLongLong(rc);
}

static PyObject *join(PyObject *self, PyObject *unused)
{
    (void)unused;
    return alone(self, cl_deque_join);
}

static PyObject *own(PyObject *self, PyObject *unused)
{
    (void)unused;
    return alone(self, cl_deque_own);
}

static PyObject *disown(PyObject *self, PyObject *unused)
{
    (void)unused;
    return alone(self, cl_deque_disown);
}

/* _leave() -> None. */
static PyObject *leave(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_deque *deque = cl__fast_core(self);
    if (!deque)
        return NULL;
    BEGIN();
    cl_deque_leave(deque);
    END();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"push", push, METH_O,
     "push(data)\n\nPut one record, bytes or any buffer of them, on the owner's end; whoever has no owner's place yet takes it.\n\n"
     "Raises:\n    QueueFull: there is no room. SideTaken: another handle is the owner. Closed: somebody has shut the deque.\n"
     "        ValueError: it is larger than a slot."},
    {"pop", pop, METH_NOARGS,
     "pop()\n\nThe newest record, as bytes; for the owner.\n\n"
     "Raises:\n    QueueEmpty: there is none. SideTaken: another handle is the owner. Closed: the deque is shut and empty."},
    {"steal", CL__FAST_CALL(steal), METH_FASTCALL | METH_KEYWORDS,
     "steal(timeout=None)\n\nThe oldest record, as bytes; wait until there is one, for `timeout` seconds at most.\n\n"
     "Raises:\n    QueueEmpty: the time is over. Closed: the deque is shut and empty."},
    {"steal_nowait", steal_nowait, METH_NOARGS, "steal_nowait()\n\nThe oldest record, or raise QueueEmpty at once."},
    {"_push_some", CL__FAST_CALL(push_some), METH_FASTCALL, NULL},
    {"_steal_some", steal_some, METH_O, NULL},
    {"_reserve", reserve, METH_O, NULL},
    {"_commit", CL__FAST_CALL(commit), METH_FASTCALL, NULL},
    {"_cancel", cancel, METH_O, NULL},
    {"_claim_newest", claim_newest, METH_O, NULL},
    {"_claim_oldest", claim_oldest, METH_O, NULL},
    {"_release", release, METH_O, NULL},
    {"_give_back", give_back, METH_O, NULL},
    {"_join", join, METH_NOARGS, NULL},
    {"_leave", leave, METH_NOARGS, NULL},
    {"_own", own, METH_NOARGS, NULL},
    {"_disown", disown, METH_NOARGS, NULL},
    {"_bind", CL__FAST_CALL(cl__fast_bind), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_dealloc, cl__fast_dealloc},
    {Py_tp_doc, (void *)"The calls of a deque that do not wait."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "corelane._fast.DequeCalls",
    .basicsize = sizeof(cl__fast_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int cl__fast_add_deque(PyObject *module)
{
    return cl__fast_add_type(module, "DequeCalls", &spec);
}
