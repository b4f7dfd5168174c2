/* What of a queue never blocks, holding the GIL: what corelane.shm.Queue inherits from.
 *
 * A call that cannot be done at once (full, empty, closed, an error) is left to a method of the Python class, `_put_later` or
 * `_get_later`, which waits, drops or raises. So what is fast is here, and what is said is there.
 *
 * The core's calls are for any thread. What must not happen beside them, joining and leaving the queue, is kept away by the
 * GIL, as each call here holds it from begin to end (so a claim is here, too: one that comes after leave() has looked at its
 * slot would be nobody's); and on a free-threaded Python by a lock, which has no second user elsewhere. */
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

/* -1: an exception; else 0 and the core's answer. */
static int put_object(PyObject *self, PyObject *data, int64_t *rc)
{
    cl_queue *queue = cl__fast_core(self);
    Py_buffer view;
    char *bytes;
    Py_ssize_t size;
    if (!queue)
        return -1;
    if (PyBytes_Check(data)) {
        PyBytes_AsStringAndSize(data, &bytes, &size);
        BEGIN();
        *rc = cl_queue_try_put(queue, bytes, size);
        END();
        return 0;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    BEGIN();
    *rc = cl_queue_try_put(queue, view.buf, view.len);
    END();
    PyBuffer_Release(&view);
    return 0;
}

/* NULL: an exception, or the core's answer in *rc. */
static PyObject *get_object(cl_queue *queue, int64_t *rc)
{
    cl_queue_claim claim;
    BEGIN();
    *rc = cl_queue_peek(queue, &claim);
    PyObject *bytes = NULL;
    if (*rc >= 0) {
        bytes = PyBytes_FromStringAndSize((const char *)claim.data, (Py_ssize_t)claim.size);
        if (bytes)
            cl_queue_release(queue, &claim);
        else
            cl_queue_give_back(queue, &claim); /* there is no memory for it: it is for somebody else */
    }
    END();
    return bytes;
}

/* ---- the calls ---------------------------------------------------------------------------------------------------------- */

static PyObject *put(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None;
    int64_t rc;
    if (((count != 1 || names) && cl__fast_timeout("put", args, count, names, 1, &timeout) < 0) ||
        cl__fast_check_timeout(self, timeout) < 0 || put_object(self, args[0], &rc) < 0)
        return NULL;
    if (rc == 0)
        Py_RETURN_NONE;
    return cl__fast_later(self, "_put_later", rc, args[0], timeout);
}

static PyObject *put_nowait(PyObject *self, PyObject *data)
{
    int64_t rc;
    if (put_object(self, data, &rc) < 0)
        return NULL;
    if (rc == 0)
        Py_RETURN_NONE;
    return cl__fast_later(self, "_put_later", rc, data, Py_False);
}

/* Here and not in Python, whose part would be most of what a waiter costs. NULL: an exception, or what ended it in *rc. */
static PyObject *wait_and_get(cl_queue *queue, int64_t deadline, int64_t *rc)
{
    PyObject *bytes = NULL;
    int64_t began = cl__fast_now();
    do {
        Py_BEGIN_ALLOW_THREADS
        *rc = cl_queue_wait(queue, CL_QUEUE_FOR_RECORD, deadline);
        Py_END_ALLOW_THREADS
        if (*rc >= 0)
            bytes = get_object(queue, rc);
    } while (!bytes && !PyErr_Occurred() && (*rc == -EAGAIN || (*rc == -EINTR && PyErr_CheckSignals() == 0)));
    cl_queue_note_wait(queue, CL_QUEUE_FOR_RECORD, cl__fast_now() - began);
    return bytes;
}

static PyObject *get(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None;
    cl_queue *queue = cl__fast_core(self);
    int64_t rc, deadline = -1;
    if (!queue || ((count || names) && (cl__fast_timeout("get", args, count, names, 0, &timeout) < 0 ||
                                        cl__fast_deadline(self, timeout, &deadline) < 0)))
        return NULL;
    PyObject *bytes = get_object(queue, &rc);
    if (!bytes && !PyErr_Occurred() && rc == -EAGAIN)
        bytes = wait_and_get(queue, deadline, &rc);
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_get_later", rc, Py_None, Py_None);
}

static PyObject *get_nowait(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_queue *queue = cl__fast_core(self);
    int64_t rc;
    PyObject *bytes = queue ? get_object(queue, &rc) : NULL;
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_get_later", rc, Py_None, Py_None);
}

/* _put_some(items, first): as cl__fast_put_some. */
static PyObject *put_some(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    return cl__fast_put_some(self, args, count, put_object);
}

/* _get_some(most) -> a list of at least one, or the core's answer. */
static PyObject *get_some(PyObject *self, PyObject *argument)
{
    cl_queue *queue = cl__fast_core(self);
    Py_ssize_t most = PyLong_AsSsize_t(argument);
    PyObject *list = queue && !PyErr_Occurred() ? PyList_New(0) : NULL;
    int64_t rc = 0;
    if (!list)
        return NULL;
    while (PyList_Size(list) < most) {
        PyObject *bytes = get_object(queue, &rc);
        int failed = !bytes || PyList_Append(list, bytes) < 0;
        Py_XDECREF(bytes);
        if (failed)
            break;
    }
    if (PyList_Size(list) > 0) {
        PyErr_Clear(); /* what was got is not thrown away; it comes up again */
        return list;
    }
    Py_DECREF(list);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(rc);
}

/* ---- records of one size, as they lie in an array: a piece at a time, as the others wait for the GIL ------------------------ */

enum { PIECE_BYTES = 1 << 17, PIECE_RECORDS = 512 };

static int64_t piece_of(Py_ssize_t count, Py_ssize_t size)
{
    Py_ssize_t most = PIECE_BYTES / size < PIECE_RECORDS ? PIECE_BYTES / size + 1 : PIECE_RECORDS;
    return count < most ? count : most;
}

/* (buffer, size, first): from the first-th on. The core's queue, or NULL and an exception. */
static cl_queue *parse_records(PyObject *self, PyObject *const *args, Py_ssize_t count, int flags, Py_buffer *view, Py_ssize_t *size,
                               Py_ssize_t *first)
{
    cl_queue *queue = cl__fast_core(self);
    if (!queue)
        return NULL;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "a buffer, a size and an index are needed");
        return NULL;
    }
    *size = PyLong_AsSsize_t(args[1]);
    *first = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], view, flags) < 0)
        return NULL;
    if (*size > 0 && *first >= 0 && *first < view->len / *size)
        return queue;
    PyErr_SetString(PyExc_IndexError, "there is no such record");
    PyBuffer_Release(view);
    return NULL;
}

/* _put_records(buffer, size, first) -> how many of the buffer's records, or the core's answer. */
static PyObject *put_records(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view;
    Py_ssize_t size, first;
    cl_queue *queue = parse_records(self, args, count, PyBUF_SIMPLE, &view, &size, &first);
    if (!queue)
        return NULL;
    BEGIN();
    int64_t rc = cl_queue_put_records(queue, (const char *)view.buf + first * size, size, piece_of(view.len / size - first, size));
    END();
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(rc);
}

/* _get_records(buffer, size, first) -> how many were copied into the buffer, or the core's answer. */
static PyObject *get_records(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view;
    Py_ssize_t size, first;
    int64_t needs = 0;
    cl_queue *queue = parse_records(self, args, count, PyBUF_WRITABLE, &view, &size, &first);
    if (!queue)
        return NULL;
    BEGIN();
    int64_t rc = cl_queue_get_records(queue, (char *)view.buf + first * size, size, piece_of(view.len / size - first, size), &needs);
    END();
    PyBuffer_Release(&view);
    if (rc == -EMSGSIZE)
        return PyErr_Format(PyExc_ValueError, "the next record has %lld bytes, not the %zd of the dtype: get() it instead",
                            (long long)needs, size);
    return PyLong_FromLongLong(rc);
}

/* ---- claims: each takes the address of a cl_queue_claim, and returns the core's answer ---------------------------------- */

static PyObject *with_claim(PyObject *self, PyObject *address, int64_t (*call)(cl_queue *, cl_queue_claim *))
{
    cl_queue *queue = cl__fast_core(self);
    cl_queue_claim *claim = queue ? PyLong_AsVoidPtr(address) : NULL;
    if (!claim)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "the claim's address is 0");
    BEGIN();
    int64_t rc = call(queue, claim);
    END();
    return PyLong_FromLongLong(rc);
}

static PyObject *reserve(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_queue_reserve);
}

static PyObject *cancel(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_queue_cancel);
}

static PyObject *peek(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_queue_peek);
}

static PyObject *release(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_queue_release);
}

static PyObject *give_back(PyObject *self, PyObject *address)
{
    return with_claim(self, address, cl_queue_give_back);
}

/* _commit(address, size). */
static PyObject *commit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    cl_queue *queue = cl__fast_core(self);
    cl_queue_claim *claim = queue && count == 2 ? PyLong_AsVoidPtr(args[0]) : NULL;
    Py_ssize_t size = claim ? PyLong_AsSsize_t(args[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    if (!claim)
        return PyErr_Format(PyExc_TypeError, "_commit() takes a claim's address and a size");
    BEGIN();
    int64_t rc = cl_queue_commit(queue, claim, size);
    END();
    return PyLong_FromLongLong(rc);
}

/* ---- joining and leaving --------------------------------------------------------------------------------------------------- */

/* _join() -> our index, or the core's answer. */
static PyObject *join(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_queue *queue = cl__fast_core(self);
    if (!queue)
        return NULL;
    BEGIN_ALONE();
    int64_t rc = cl_queue_join(queue);
    END();
    return PyLong_FromLongLong(rc);
}

static PyObject *with_what(PyObject *self, PyObject *argument, int64_t (*call)(cl_queue *, int32_t))
{
    cl_queue *queue = cl__fast_core(self);
    long what = PyLong_AsLong(argument);
    if (!queue || PyErr_Occurred())
        return NULL;
    BEGIN_ALONE();
    int64_t rc = call(queue, (int32_t)what);
    END();
    return PyLong_FromLongLong(rc);
}

/* _bell(what), _silence(what), _arm(what) -> the core's answer. Here, as leaving closes what they use. */
static PyObject *bell(PyObject *self, PyObject *what)
{
    return with_what(self, what, cl_queue_poll_fd);
}

static PyObject *silence(PyObject *self, PyObject *what)
{
    return with_what(self, what, cl_queue_silence);
}

static PyObject *arm(PyObject *self, PyObject *what)
{
    return with_what(self, what, cl_queue_arm);
}

/* _leave() -> None. */
static PyObject *leave(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_queue *queue = cl__fast_core(self);
    if (!queue)
        return NULL;
    BEGIN_ALONE();
    cl_queue_leave(queue);
    END();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"put", CL__FAST_CALL(put), METH_FASTCALL | METH_KEYWORDS,
     "put(data, timeout=None)\n\nPut one record, bytes or any buffer of them. What a full queue means is its policy: \"block\" "
     "waits, for `timeout`\nseconds at most.\n\nRaises:\n    QueueFull: the time is over, or at once with \"fail\". "
     "Closed: somebody has shut the queue. ValueError: it is larger than\n        a slot."},
    {"put_nowait", put_nowait, METH_O, "put_nowait(data)\n\nAs put, but never waits: with \"block\", QueueFull at once."},
    {"get", CL__FAST_CALL(get), METH_FASTCALL | METH_KEYWORDS,
     "get(timeout=None)\n\nThe next record, as bytes; wait until there is one, for `timeout` seconds at most.\n\n"
     "Raises:\n    QueueEmpty: the time is over. Closed: the queue is shut, and all was got."},
    {"get_nowait", get_nowait, METH_NOARGS, "get_nowait()\n\nThe next record, or raise QueueEmpty at once."},
    {"_put_some", CL__FAST_CALL(put_some), METH_FASTCALL, NULL},
    {"_get_some", get_some, METH_O, NULL},
    {"_put_records", CL__FAST_CALL(put_records), METH_FASTCALL, NULL},
    {"_get_records", CL__FAST_CALL(get_records), METH_FASTCALL, NULL},
    {"_reserve", reserve, METH_O, NULL},
    {"_commit", CL__FAST_CALL(commit), METH_FASTCALL, NULL},
    {"_cancel", cancel, METH_O, NULL},
    {"_peek", peek, METH_O, NULL},
    {"_release", release, METH_O, NULL},
    {"_give_back", give_back, METH_O, NULL},
    {"_bell", bell, METH_O, NULL},
    {"_silence", silence, METH_O, NULL},
    {"_arm", arm, METH_O, NULL},
    {"_join", join, METH_NOARGS, NULL},
    {"_leave", leave, METH_NOARGS, NULL},
    {"_bind", CL__FAST_CALL(cl__fast_bind), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_dealloc, cl__fast_dealloc},
    {Py_tp_doc, (void *)"The calls of a queue that do not wait."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "corelane._fast.QueueCalls",
    .basicsize = sizeof(cl__fast_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int cl__fast_add_queue(PyObject *module)
{
    return cl__fast_add_type(module, "QueueCalls", &spec);
}
