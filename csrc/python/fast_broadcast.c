/* What of a broadcast never blocks, holding the GIL: what corelane.shm.Broadcast inherits from.
 *
 * A call that cannot be done at once (nothing there, a reader in the way, no role yet, an error) is left to a method of the
 * Python class, `_put_later` or `_get_later`. So what is fast is here, and what is said is there.
 *
 * The core wants one thread at a time in a handle. That is the GIL's doing, but where it is let go for a long copy, or does not
 * keep threads apart (a free-threaded Python): there `busy` says so, and the others wait. It also says that a record is reserved,
 * or looked at, by the program: then the others are refused. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"
#include "fast_object.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

typedef struct broadcast_object {
    cl__fast_object base;
    _Atomic int busy;
} broadcast_object;

enum { FREE = 0, IN_A_CALL = 1, HELD_BY_THE_PROGRAM = 2 };
enum { WITHOUT_GIL = 1 << 17, NAP_NS = 20000, TRIES = 64 };

/* ---- one thread at a time ------------------------------------------------------------------------------------------- */

/* What `busy` was: FREE, and it is ours now; or HELD_BY_THE_PROGRAM. */
static int begin_beside(broadcast_object *self)
{
    int seen = FREE;
    while (!atomic_compare_exchange_strong(&self->busy, &seen, IN_A_CALL) && seen != HELD_BY_THE_PROGRAM) {
        Py_BEGIN_ALLOW_THREADS
        struct timespec nap = {0, NAP_NS};
        nanosleep(&nap, NULL);
        Py_END_ALLOW_THREADS /* no look for signals: it is a copy's length, and an exception here means one thing */
        seen = FREE;
    }
    return seen;
}

static cl_broadcast *begin(PyObject *object)
{
    cl_broadcast *core = cl__fast_core(object);
    if (!core || begin_beside((broadcast_object *)object) == FREE)
        return core;
    PyErr_SetString(PyExc_RuntimeError, "a record of this handle is reserved, or being looked at: leave its `with` block first");
    return NULL;
}

static void end(PyObject *object)
{
    atomic_store(&((broadcast_object *)object)->busy, FREE);
}

/* ---- putting ---------------------------------------------------------------------------------------------------------- */

/* -1: an exception; else 0 and the core's answer. */
static int put_object(PyObject *self, PyObject *data, int64_t *rc)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    cl_broadcast *core = begin(self);
    if (core && view.len < WITHOUT_GIL) {
        *rc = cl_broadcast_try_put(core, view.buf, view.len);
    } else if (core) {
        Py_BEGIN_ALLOW_THREADS
        *rc = cl_broadcast_try_put(core, view.buf, view.len);
        Py_END_ALLOW_THREADS
    }
    if (core)
        end(self);
    PyBuffer_Release(&view);
    return core ? 0 : -1;
}

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

/* _put_some(items, first): as cl__fast_put_some. */
static PyObject *put_some(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    return cl__fast_put_some(self, args, count, put_object);
}

/* _put_records(buffer, size, first) -> how many of the buffer's records, from the first-th on, or the core's answer. */
static PyObject *put_records(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "_put_records() takes a buffer, a size and an index");
    Py_ssize_t size = PyLong_AsSsize_t(args[1]), first = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t all = size > 0 ? view.len / size : 0;
    int64_t rc = -EINVAL;
    cl_broadcast *core = first >= 0 && first < all ? begin(self) : NULL;
    if (core) {
        Py_BEGIN_ALLOW_THREADS
        rc = cl_broadcast_put_many(core, (const char *)view.buf + first * size, size, all - first);
        Py_END_ALLOW_THREADS
        end(self);
    }
    PyBuffer_Release(&view);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(rc);
}

/* ---- getting ---------------------------------------------------------------------------------------------------------- */

static int64_t copy(cl_broadcast *core, cl_broadcast_claim *claim, char *to)
{
    int64_t rc;
    if (claim->size < WITHOUT_GIL)
        return cl_broadcast_copy(core, claim, to);
    Py_BEGIN_ALLOW_THREADS
    rc = cl_broadcast_copy(core, claim, to);
    Py_END_ALLOW_THREADS
    return rc;
}

/* NULL: an exception, or the core's answer in *rc. */
static PyObject *get_object(PyObject *self, int64_t *rc)
{
    cl_broadcast_claim claim;
    cl_broadcast *core = begin(self);
    if (!core)
        return NULL;
    PyObject *bytes = NULL;
    int tries = 0;
    do {
        *rc = tries++ < TRIES ? cl_broadcast_peek(core, &claim) : -EAGAIN;
        if (*rc < 0)
            break;
        bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)claim.size);
        if (!bytes) {
            cl_broadcast_keep(core, &claim);
            break;
        }
        *rc = copy(core, &claim, PyBytes_AsString(bytes));
        if (*rc < 0)
            Py_CLEAR(bytes);
    } while (*rc == -EOVERFLOW); /* it was overwritten in between: the next one, or be told of it */
    end(self);
    return bytes;
}

static PyObject *get(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None;
    int64_t rc = 0;
    if (((count || names) && cl__fast_timeout("get", args, count, names, 0, &timeout) < 0) ||
        cl__fast_check_timeout(self, timeout) < 0)
        return NULL;
    PyObject *bytes = get_object(self, &rc);
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_get_later", rc, timeout, Py_None);
}

static PyObject *get_nowait(PyObject *self, PyObject *unused)
{
    (void)unused;
    int64_t rc = 0;
    PyObject *bytes = get_object(self, &rc);
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_get_later", rc, Py_False, Py_None);
}

/* _get_some(most) -> a list of at least one, or the core's answer. */
static PyObject *get_some(PyObject *self, PyObject *argument)
{
    Py_ssize_t most = PyLong_AsSsize_t(argument);
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    int64_t rc = 0;
    if (!list)
        return NULL;
    while (PyList_Size(list) < most) {
        PyObject *bytes = get_object(self, &rc);
        int failed = !bytes || PyList_Append(list, bytes) < 0;
        Py_XDECREF(bytes);
        if (failed)
            break;
    }
    if (PyList_Size(list) > 0) {
        PyErr_Clear(); /* what was got is not thrown away; it comes up again */
        if (rc == -EOVERFLOW)
            cl_broadcast_tell_again(((broadcast_object *)self)->base.core);
        return list;
    }
    Py_DECREF(list);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(rc);
}

/* _get_records(buffer, size) -> how many of that size were written to the buffer, or the core's answer. */
static PyObject *get_records(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view;
    Py_ssize_t size = count == 2 ? PyLong_AsSsize_t(args[1]) : 0;
    if (size < 1)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "_get_records() takes a buffer and a size");
    if (PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0)
        return NULL;
    int64_t rc = 0;
    cl_broadcast *core = begin(self);
    if (core) {
        Py_BEGIN_ALLOW_THREADS
        rc = cl_broadcast_get_many(core, view.buf, size, view.len / size);
        Py_END_ALLOW_THREADS
        end(self);
    }
    PyBuffer_Release(&view);
    return core ? PyLong_FromLongLong(rc) : NULL;
}

/* ---- claims: each takes the address of a cl_broadcast_claim, and returns the core's answer -------------------------------- */

static cl_broadcast_claim *claim_at(PyObject *address)
{
    cl_broadcast_claim *claim = PyLong_AsVoidPtr(address);
    if (!claim && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "the claim's address is 0");
    return claim;
}

static PyObject *begin_claim(PyObject *self, PyObject *address, int64_t (*call)(cl_broadcast *, cl_broadcast_claim *))
{
    cl_broadcast_claim *claim = claim_at(address);
    cl_broadcast *core = claim ? begin(self) : NULL;
    if (!core)
        return NULL;
    int64_t rc = call(core, claim);
    atomic_store(&((broadcast_object *)self)->busy, rc < 0 ? FREE : HELD_BY_THE_PROGRAM);
    return PyLong_FromLongLong(rc);
}

/* By whoever holds it, so nobody else is in a call. Or by one that was refused, and is dropped: what is held is another's. */
static PyObject *end_claim(PyObject *self, PyObject *address, int64_t (*call)(cl_broadcast *, cl_broadcast_claim *))
{
    cl_broadcast *core = cl__fast_core(self);
    cl_broadcast_claim *claim = core ? claim_at(address) : NULL;
    if (!claim)
        return NULL;
    if (!claim->data)
        return PyLong_FromLongLong(-EINVAL);
    int64_t rc = call(core, claim);
    int held = HELD_BY_THE_PROGRAM;
    if (!claim->data)
        atomic_compare_exchange_strong(&((broadcast_object *)self)->busy, &held, FREE);
    return PyLong_FromLongLong(rc);
}

static PyObject *reserve(PyObject *self, PyObject *address)
{
    return begin_claim(self, address, cl_broadcast_reserve);
}

static PyObject *peek(PyObject *self, PyObject *address)
{
    return begin_claim(self, address, cl_broadcast_peek);
}

static PyObject *cancel(PyObject *self, PyObject *address)
{
    return end_claim(self, address, cl_broadcast_cancel);
}

static PyObject *release(PyObject *self, PyObject *address)
{
    return end_claim(self, address, cl_broadcast_release);
}

static PyObject *keep(PyObject *self, PyObject *address)
{
    return end_claim(self, address, cl_broadcast_keep);
}

/* _commit(address, size): the program's. */
static PyObject *commit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    cl_broadcast *core = count == 2 ? cl__fast_core(self) : NULL;
    cl_broadcast_claim *claim = core ? claim_at(args[0]) : NULL;
    Py_ssize_t size = claim ? PyLong_AsSsize_t(args[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    if (!claim)
        return PyErr_Format(PyExc_TypeError, "_commit() takes a claim's address and a size");
    if (!claim->data)
        return PyLong_FromLongLong(-EINVAL);
    int64_t rc = cl_broadcast_commit(core, claim, size);
    int held = HELD_BY_THE_PROGRAM;
    if (!claim->data)
        atomic_compare_exchange_strong(&((broadcast_object *)self)->busy, &held, FREE);
    return PyLong_FromLongLong(rc);
}

/* ---- roles ------------------------------------------------------------------------------------------------------------------ */

/* _subscribe(policy, reading). */
static PyObject *subscribe(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    long policy = count == 2 ? PyLong_AsLong(args[0]) : 0, reading = count == 2 ? PyLong_AsLong(args[1]) : 0;
    if (count != 2 || PyErr_Occurred())
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "_subscribe() takes two numbers");
    cl_broadcast *core = begin(self);
    if (!core)
        return NULL;
    int64_t rc = cl_broadcast_subscribe(core, (int32_t)policy, (int32_t)reading);
    end(self);
    return PyLong_FromLongLong(rc);
}

static PyObject *take(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_broadcast *core = begin(self);
    if (!core)
        return NULL;
    int64_t rc = cl_broadcast_take(core);
    end(self);
    return PyLong_FromLongLong(rc);
}

static PyObject *enroll(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_broadcast *core = begin(self);
    if (!core)
        return NULL;
    int64_t rc = cl_broadcast_register(core);
    end(self);
    return PyLong_FromLongLong(rc);
}

/* _forget(): in the child of a fork, what a thread of the parent was about, or its program held, is nobody's. */
static PyObject *forget(PyObject *self, PyObject *unused)
{
    (void)unused;
    end(self);
    Py_RETURN_NONE;
}

/* Also while the program holds a record: it will be told, when it comes to end that. */
static PyObject *leave(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_broadcast *core = cl__fast_core(self);
    if (!core)
        return NULL;
    int seen = begin_beside((broadcast_object *)self);
    cl_broadcast_close(core);
    if (seen == FREE)
        end(self);
    Py_RETURN_NONE;
}

/* _bell(what), _silence(what), _arm(what) -> the core's answer. Here, as leaving closes what they use; and also while the program
 * holds a record. */
static PyObject *with_what(PyObject *self, PyObject *what, int64_t (*call)(cl_broadcast *, int32_t))
{
    long which = PyLong_AsLong(what);
    cl_broadcast *core = PyErr_Occurred() ? NULL : cl__fast_core(self);
    if (!core)
        return NULL;
    int seen = begin_beside((broadcast_object *)self);
    int64_t rc = call(core, (int32_t)which);
    if (seen == FREE)
        end(self);
    return PyLong_FromLongLong(rc);
}

static PyObject *bell(PyObject *self, PyObject *what)
{
    return with_what(self, what, cl_broadcast_poll_fd);
}

static PyObject *silence(PyObject *self, PyObject *what)
{
    return with_what(self, what, cl_broadcast_silence);
}

static PyObject *arm(PyObject *self, PyObject *what)
{
    return with_what(self, what, cl_broadcast_arm);
}

static PyMethodDef methods[] = {
    {"put", CL__FAST_CALL(put), METH_FASTCALL | METH_KEYWORDS,
     "put(data, timeout=None)\n\nPut one record, bytes or any buffer of them. The first one makes this handle the writer. A lossy "
     "broadcast never\nwaits; a lossless one waits for readers that block, for `timeout` seconds at most.\n\nRaises:\n    "
     "ReaderBlocks, which is a QueueFull: the time is over; it names the reader. SideTaken: there is a writer.\n    ValueError: it is "
     "larger than a slot."},
    {"put_nowait", put_nowait, METH_O, "put_nowait(data)\n\nAs put, but never waits: ReaderBlocks at once."},
    {"get", CL__FAST_CALL(get), METH_FASTCALL | METH_KEYWORDS,
     "get(timeout=None)\n\nThe next record, as bytes; wait until there is one, for `timeout` seconds at most.\n\nRaises:\n    "
     "QueueEmpty: the time is over. Closed: the writer has closed, and all was got. PeerDied: it has died, and all was got.\n    "
     "RecordsLost: with on_loss=\"raise\". Evicted: by the policy of this reader."},
    {"get_nowait", get_nowait, METH_NOARGS, "get_nowait()\n\nThe next record, or raise QueueEmpty at once."},
    {"_put_some", CL__FAST_CALL(put_some), METH_FASTCALL, NULL},
    {"_put_records", CL__FAST_CALL(put_records), METH_FASTCALL, NULL},
    {"_get_some", get_some, METH_O, NULL},
    {"_get_records", CL__FAST_CALL(get_records), METH_FASTCALL, NULL},
    {"_reserve", reserve, METH_O, NULL},
    {"_commit", CL__FAST_CALL(commit), METH_FASTCALL, NULL},
    {"_cancel", cancel, METH_O, NULL},
    {"_peek", peek, METH_O, NULL},
    {"_release", release, METH_O, NULL},
    {"_keep", keep, METH_O, NULL},
    {"_subscribe", CL__FAST_CALL(subscribe), METH_FASTCALL, NULL},
    {"_take", take, METH_NOARGS, NULL},
    {"_enroll", enroll, METH_NOARGS, NULL},
    {"_forget", forget, METH_NOARGS, NULL},
    {"_leave", leave, METH_NOARGS, NULL},
    {"_bell", bell, METH_O, NULL},
    {"_silence", silence, METH_O, NULL},
    {"_arm", arm, METH_O, NULL},
    {"_bind", CL__FAST_CALL(cl__fast_bind), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_dealloc, cl__fast_dealloc},
    {Py_tp_doc, (void *)"The calls of a broadcast that do not wait."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "corelane._fast.BroadcastCalls",
    .basicsize = sizeof(broadcast_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int cl__fast_add_broadcast(PyObject *module)
{
    return cl__fast_add_type(module, "BroadcastCalls", &spec);
}
