/* The calls of a ring that are short, holding the GIL, and their waits, without it: what corelane.shm.Ring inherits from.
 *
 * Whatever else there is (no side taken yet, the end of the time, an error) is left to a method of the Python class:
 * `_put_later`, `_get_later`, which takes the side or raises. So what is fast is here, and what is said is there.
 *
 * The GIL keeps the threads of this process from being two producers. Where it is let go, for a long copy, or does not keep
 * them (a free-threaded Python), `busy` says so: the others wait for it. It also says that memory is reserved, or looked at,
 * by the program: then the others are refused.
 *
 * So what gives a side to this process, takes it away or opens its bell is here, too. Two threads that both took a side would
 * both succeed, as the lease is the process's, and the later one would set the side back to where the first began. If a side
 * was left in the midst of a put, that could end after another process has taken it; and ring a bell by a number that is
 * another file's by then. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"
#include "fast_object.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

typedef struct ring_object {
    cl__fast_object base;
    PyObject *kept; /* the type of fast_kept.c */
    int never_waits; /* the policy of its producer is another one than to wait */
    _Atomic int busy[CL_RING_SIDES];
    _Atomic unsigned long holder[CL_RING_SIDES]; /* the thread that HELD_BY_THE_PROGRAM came from */
} ring_object;

enum { FREE = 0, IN_A_CALL = 1, HELD_BY_THE_PROGRAM = 2 };
enum { COPY_WITHOUT_GIL = 1 << 17, NAP_NS = 20000 };

/* ---- one thread at a time ------------------------------------------------------------------------------------------- */

static int begin_slow(ring_object *self, int side)
{
    for (;;) {
        int expected = FREE;
        if (atomic_compare_exchange_strong(&self->busy[side], &expected, IN_A_CALL))
            return 0;
        if (expected == HELD_BY_THE_PROGRAM) {
            PyErr_SetString(PyExc_RuntimeError, side == CL_RING_PRODUCER
                                                    ? "a reserved record was not committed yet: leave its `with` block first"
                                                    : "a record is being looked at: leave its `with` block first");
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS
        struct timespec nap = {0, NAP_NS};
        nanosleep(&nap, NULL);
        Py_END_ALLOW_THREADS /* no look for signals: it is a copy's length, and an exception here means one thing */
    }
}

#ifdef Py_GIL_DISABLED
#define BEGIN(self, side) begin_slow(self, side)
#define END(self, side) atomic_store(&(self)->busy[side], FREE)
/* For a while in which the GIL is let go. Here nothing changes: we have been alone since BEGIN, and stay it until END. */
#define KEEP_OUT(self, side) ((void)0)
#define LET_IN(self, side) ((void)0)
#else
/* Plain loads and stores would do: nobody else runs. */
#define BEGIN(self, side) \
    (atomic_load_explicit(&(self)->busy[side], memory_order_relaxed) == FREE ? 0 : begin_to_end(self, side))
#define END(self, side) ((void)0)
#define KEEP_OUT(self, side) atomic_store(&(self)->busy[side], IN_A_CALL)
#define LET_IN(self, side) atomic_store(&(self)->busy[side], FREE)
static int begin_to_end(ring_object *self, int side)
{
    if (begin_slow(self, side) < 0)
        return -1;
    atomic_store(&self->busy[side], FREE); /* the GIL does the rest */
    return 0;
}
#endif

/* The same, but beside what the program holds: what was there, for end_beside. */
static int begin_beside(ring_object *self, int side)
{
    int seen = FREE;
    while (!atomic_compare_exchange_strong(&self->busy[side], &seen, IN_A_CALL) && seen != HELD_BY_THE_PROGRAM) {
        Py_BEGIN_ALLOW_THREADS
        struct timespec nap = {0, NAP_NS};
        nanosleep(&nap, NULL);
        Py_END_ALLOW_THREADS
        seen = FREE;
    }
    return seen;
}

static void end_beside(ring_object *self, int side, int seen)
{
    if (seen == FREE)
        atomic_store(&self->busy[side], FREE);
}

static cl_ring *ring_of(const ring_object *self)
{
    return self->base.core;
}

static int is_bound(ring_object *self)
{
    return cl__fast_core((PyObject *)self) != NULL;
}

/* ---- arguments -------------------------------------------------------------------------------------------------------- */

typedef struct bytes_of {
    const void *data;
    Py_ssize_t size;
    Py_buffer view;
    int has_view;
} bytes_of;

static int open_bytes(PyObject *object, bytes_of *out)
{
    char *data;
    out->has_view = 0;
    if (PyBytes_Check(object)) {
        PyBytes_AsStringAndSize(object, &data, &out->size);
        out->data = data;
        return 0;
    }
    if (PyObject_GetBuffer(object, &out->view, PyBUF_SIMPLE) < 0)
        return -1;
    out->has_view = 1;
    out->data = out->view.buf;
    out->size = out->view.len;
    return 0;
}

static void close_bytes(bytes_of *bytes)
{
    if (bytes->has_view)
        PyBuffer_Release(&bytes->view);
}

/* After `rc`, which put or get has met. 1: try again; 0: Python is to say what it means; -1: a signal's exception. */
static int wait_after(ring_object *self, int side, int64_t size, int64_t rc, int64_t deadline)
{
    if (rc != -EAGAIN)
        return 0;
    do {
        Py_BEGIN_ALLOW_THREADS
        rc = cl_ring_wait(ring_of(self), side, size, deadline);
        Py_END_ALLOW_THREADS
        if (rc == -EINTR && PyErr_CheckSignals() < 0)
            return -1;
    } while (rc == -EINTR);
    return rc == 1;
}

/* ---- putting ---------------------------------------------------------------------------------------------------------- */

static int64_t put_bytes(ring_object *self, const bytes_of *bytes)
{
    if (bytes->size < COPY_WITHOUT_GIL)
        return cl_ring_try_put(ring_of(self), bytes->data, bytes->size);
    int64_t rc;
    KEEP_OUT(self, CL_RING_PRODUCER);
    Py_BEGIN_ALLOW_THREADS
    rc = cl_ring_try_put(ring_of(self), bytes->data, bytes->size);
    Py_END_ALLOW_THREADS
    LET_IN(self, CL_RING_PRODUCER);
    return rc;
}

/* -1 and an exception, or 0 and the ring's answer. */
static int put_object(ring_object *self, PyObject *data, Py_ssize_t *size, int64_t *rc)
{
    bytes_of bytes;
    if (!is_bound(self) || open_bytes(data, &bytes) < 0)
        return -1;
    if (BEGIN(self, CL_RING_PRODUCER) < 0) {
        close_bytes(&bytes);
        return -1;
    }
    *size = bytes.size;
    *rc = put_bytes(self, &bytes);
    END(self, CL_RING_PRODUCER);
    close_bytes(&bytes);
    return 0;
}

static PyObject *put(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    ring_object *self = (ring_object *)object;
    PyObject *timeout = Py_None;
    int64_t rc, deadline = -1;
    int again = 1;
    if ((count != 1 || names) &&
        (cl__fast_timeout("put", args, count, names, 1, &timeout) < 0 || cl__fast_deadline(object, timeout, &deadline) < 0))
        return NULL;
    while (again > 0) {
        Py_ssize_t size = 0;
        if (put_object(self, args[0], &size, &rc) < 0)
            return NULL;
        if (rc == 0)
            Py_RETURN_NONE;
        again = self->never_waits ? 0 : wait_after(self, CL_RING_PRODUCER, size, rc, deadline);
    }
    PyObject *left = again < 0 ? NULL : cl__fast_left(deadline);
    PyObject *done = left ? cl__fast_later(object, "_put_later", rc, args[0], left) : NULL;
    Py_XDECREF(left);
    return done;
}

static PyObject *put_nowait(PyObject *self, PyObject *data)
{
    Py_ssize_t size;
    int64_t rc;
    if (put_object((ring_object *)self, data, &size, &rc) < 0)
        return NULL;
    if (rc == 0)
        Py_RETURN_NONE;
    return cl__fast_later(self, "_put_later", rc, data, Py_False);
}

/* As many of a list's items from `first` on as fit, in one commit: their number, or what the first one of them met. It ends
 * before one that is not plain. */
static int64_t add_all(ring_object *self, PyObject *items, Py_ssize_t first)
{
    Py_ssize_t i, count = PyList_Size(items);
    int64_t rc = 0;
    for (i = first; i < count && i < PyList_Size(items); i++) {
        bytes_of bytes;
        uint8_t *out;
        PyObject *item = PyList_GetItem(items, i);
        if (!cl__fast_is_plain(item))
            break;
        Py_INCREF(item);
        int opened = open_bytes(item, &bytes);
        rc = opened < 0 ? -EFAULT : cl_ring_reserve(ring_of(self), bytes.size, &out);
        if (rc == 0) {
            memcpy(out, bytes.data ? bytes.data : "", (size_t)bytes.size);
            cl_ring_add(ring_of(self), bytes.size);
        }
        if (opened == 0)
            close_bytes(&bytes);
        Py_DECREF(item);
        if (rc < 0)
            break;
    }
    /* What comes before a bad one is put; the exception is about that one, and says where it is. */
    int64_t done = cl_ring_commit(ring_of(self));
    return done > 0 ? done : rc;
}

/* 1, or the ring's answer. Its buffer is asked for before we begin, and given back after we have ended. */
static PyObject *put_one(ring_object *self, PyObject *item)
{
    Py_ssize_t size;
    int64_t rc;
    Py_INCREF(item); /* it may be taken out of its list meanwhile */
    int failed = put_object(self, item, &size, &rc) < 0;
    Py_DECREF(item);
    return failed ? NULL : PyLong_FromLongLong(rc == 0 ? 1 : rc);
}

/* _put_some(items, first) -> how many, at least 1, or the ring's answer. */
static PyObject *put_some(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ring_object *self = (ring_object *)object;
    if (count != 2 || !PyList_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "_put_some() takes a list and an index");
    Py_ssize_t first = PyLong_AsSsize_t(args[1]);
    if ((first == -1 && PyErr_Occurred()) || !is_bound(self))
        return NULL;
    PyObject *item = first >= 0 && first < PyList_Size(args[0]) ? PyList_GetItem(args[0], first) : NULL;
    if (item && !cl__fast_is_plain(item))
        return put_one(self, item);
    if (BEGIN(self, CL_RING_PRODUCER) < 0)
        return NULL;
    int64_t rc = add_all(self, args[0], first);
    END(self, CL_RING_PRODUCER);
    if (PyErr_Occurred()) {
        if (rc < 0)
            return NULL;
        PyErr_Clear(); /* it comes up again, as the first one of the next call */
    }
    return PyLong_FromLongLong(rc);
}

/* _put_records(buffer, size, first) -> how many of the buffer's records, from the first-th on. */
static PyObject *put_records(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ring_object *self = (ring_object *)object;
    bytes_of bytes;
    if (count != 3 || !is_bound(self))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "_put_records() takes a buffer, a size and an index");
    Py_ssize_t size = PyLong_AsSsize_t(args[1]), first = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || open_bytes(args[0], &bytes) < 0)
        return NULL;
    Py_ssize_t all = size > 0 ? bytes.size / size : 0;
    int64_t rc = -EINVAL;
    if (first >= 0 && first < all && begin_slow(self, CL_RING_PRODUCER) == 0) {
        Py_BEGIN_ALLOW_THREADS
        rc = cl_ring_try_put_many(ring_of(self), (const char *)bytes.data + first * size, size, all - first);
        Py_END_ALLOW_THREADS
        atomic_store(&self->busy[CL_RING_PRODUCER], FREE);
    }
    close_bytes(&bytes);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(rc);
}

/* ---- getting ---------------------------------------------------------------------------------------------------------- */

static void copy_without_gil(ring_object *self, char *to, const uint8_t *from, int64_t size)
{
    KEEP_OUT(self, CL_RING_CONSUMER);
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, (size_t)size);
    Py_END_ALLOW_THREADS
    LET_IN(self, CL_RING_CONSUMER);
}

/* The next record, looked at but not released. NULL: an exception, or *rc. */
static PyObject *next_bytes(ring_object *self, int64_t *rc)
{
    const uint8_t *data;
    int64_t size;
    *rc = cl_ring_peek(ring_of(self), &data, &size);
    if (*rc < 0)
        return NULL;
    if (size < COPY_WITHOUT_GIL)
        return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes)
        copy_without_gil(self, PyBytes_AsString(bytes), data, size);
    return bytes;
}

static PyObject *get_object(ring_object *self, int64_t *rc)
{
    *rc = 0;
    if (!is_bound(self) || BEGIN(self, CL_RING_CONSUMER) < 0)
        return NULL;
    PyObject *bytes = next_bytes(self, rc);
    if (bytes)
        cl_ring_release(ring_of(self));
    else
        cl_ring_rewind(ring_of(self)); /* there was no memory for it: it stays */
    END(self, CL_RING_CONSUMER);
    return bytes;
}

static PyObject *get(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    ring_object *self = (ring_object *)object;
    PyObject *timeout = Py_None;
    int64_t rc, deadline = -1;
    int again = 1;
    if ((count || names) &&
        (cl__fast_timeout("get", args, count, names, 0, &timeout) < 0 || cl__fast_deadline(object, timeout, &deadline) < 0))
        return NULL;
    while (again > 0) {
        PyObject *bytes = get_object(self, &rc);
        if (bytes || PyErr_Occurred())
            return bytes;
        again = wait_after(self, CL_RING_CONSUMER, 0, rc, deadline);
    }
    PyObject *left = again < 0 ? NULL : cl__fast_left(deadline);
    PyObject *bytes = left ? cl__fast_later(object, "_get_later", rc, left, Py_None) : NULL;
    Py_XDECREF(left);
    return bytes;
}

static PyObject *get_nowait(PyObject *self, PyObject *unused)
{
    int64_t rc;
    (void)unused;
    PyObject *bytes = get_object((ring_object *)self, &rc);
    return bytes || PyErr_Occurred() ? bytes : cl__fast_later(self, "_get_later", rc, Py_False, Py_None);
}

/* _get_some(most) -> a list of at least one, or the ring's answer. */
static PyObject *get_some(PyObject *object, PyObject *argument)
{
    ring_object *self = (ring_object *)object;
    Py_ssize_t most = PyLong_AsSsize_t(argument), done = 0;
    if ((most == -1 && PyErr_Occurred()) || !is_bound(self))
        return NULL;
    PyObject *list = PyList_New(0);
    if (!list || BEGIN(self, CL_RING_CONSUMER) < 0) {
        Py_XDECREF(list);
        return NULL;
    }
    int64_t rc = 0;
    for (; done < most; done++) {
        PyObject *bytes = next_bytes(self, &rc);
        int failed = !bytes || PyList_Append(list, bytes) < 0;
        Py_XDECREF(bytes);
        if (failed)
            break;
    }
    if (PyErr_Occurred())
        cl_ring_rewind(ring_of(self));
    else
        cl_ring_release(ring_of(self));
    END(self, CL_RING_CONSUMER);
    if (done > 0 && !PyErr_Occurred())
        return list;
    Py_DECREF(list);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(rc);
}

/* _get_records(buffer, size) -> how many records of that size were copied into the buffer, or the ring's answer. */
static PyObject *get_records(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ring_object *self = (ring_object *)object;
    Py_buffer view;
    int64_t rc = 0, needs = 0;
    if (count != 2 || !is_bound(self))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "_get_records() takes a buffer and a size");
    Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0)
        return NULL;
    if (size > 0 && begin_slow(self, CL_RING_CONSUMER) == 0) {
        Py_BEGIN_ALLOW_THREADS
        rc = cl_ring_try_get_many(ring_of(self), view.buf, size, view.len / size, &needs);
        Py_END_ALLOW_THREADS
        atomic_store(&self->busy[CL_RING_CONSUMER], FREE);
    }
    PyBuffer_Release(&view);
    if (PyErr_Occurred())
        return NULL;
    if (rc == -EMSGSIZE)
        return PyErr_Format(PyExc_ValueError, "the next record has %lld bytes, not the %zd of the dtype: get() it instead",
                            (long long)needs, size);
    return PyLong_FromLongLong(rc);
}

/* ---- where it lies ------------------------------------------------------------------------------------------------------ */

static PyObject *view_of(ring_object *self, const void *data, int64_t size, int is_readonly)
{
    PyObject *kept = cl__fast_keep(self->kept, self->base.owner, (void *)data, (Py_ssize_t)size, is_readonly);
    PyObject *view = kept ? PyMemoryView_FromObject(kept) : NULL;
    Py_XDECREF(kept);
    return view;
}

/* The end of a call that has begun: the side is the program's, or free. */
static void hold(ring_object *self, int side, int is_held)
{
    atomic_store(&self->holder[side], PyThread_get_thread_ident());
    atomic_store(&self->busy[side], is_held ? HELD_BY_THE_PROGRAM : FREE); /* partner: the load in holds */
}

/* Before it is made: that may run the collector of cycles, and so anybody's `__del__`. One that puts into this very ring is
 * refused, as it would be a moment later; it cannot wait for us. NULL: none, and the side is the ring's again. */
static PyObject *lend(ring_object *self, int side, const void *data, int64_t size, void (*undo)(cl_ring *))
{
    hold(self, side, 1);
    PyObject *view = view_of(self, data, size, side == CL_RING_CONSUMER);
    if (!view) {
        undo(ring_of(self));
        hold(self, side, 0);
    }
    return view;
}

/* _reserve(size) -> a view of so much room, or the ring's answer. From a view on, the side is the program's, until _let_go. */
static PyObject *reserve(PyObject *object, PyObject *argument)
{
    ring_object *self = (ring_object *)object;
    uint8_t *data;
    Py_ssize_t size = PyLong_AsSsize_t(argument);
    if ((size == -1 && PyErr_Occurred()) || !is_bound(self) || begin_slow(self, CL_RING_PRODUCER) < 0)
        return NULL;
    int64_t rc = cl_ring_reserve(ring_of(self), size, &data);
    if (rc == 0)
        return lend(self, CL_RING_PRODUCER, data, size, cl_ring_abandon);
    hold(self, CL_RING_PRODUCER, 0);
    return PyLong_FromLongLong(rc);
}

/* _peek() -> a view of the next record, or the ring's answer; as _reserve. */
static PyObject *look_at(PyObject *object, PyObject *unused)
{
    ring_object *self = (ring_object *)object;
    const uint8_t *data;
    int64_t size;
    (void)unused;
    if (!is_bound(self) || begin_slow(self, CL_RING_CONSUMER) < 0)
        return NULL;
    int64_t rc = cl_ring_peek(ring_of(self), &data, &size);
    if (rc == 0)
        return lend(self, CL_RING_CONSUMER, data, size, cl_ring_rewind);
    hold(self, CL_RING_CONSUMER, 0);
    return PyLong_FromLongLong(rc);
}

/* _never_wait() -> None: put leaves what finds no room to _put_later at once. */
static PyObject *never_wait(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((ring_object *)object)->never_waits = 1;
    Py_RETURN_NONE;
}

/* _let_go(side) -> None. */
static PyObject *let_go(PyObject *object, PyObject *argument)
{
    ring_object *self = (ring_object *)object;
    long side = PyLong_AsLong(argument);
    if (PyErr_Occurred() || side < 0 || side >= CL_RING_SIDES)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no such side");
    atomic_store(&self->busy[side], FREE);
    Py_RETURN_NONE;
}

/* _holds(side) -> whether this thread has got that side from _reserve or _peek, and it was not let go since. */
static PyObject *holds(PyObject *object, PyObject *argument)
{
    ring_object *self = (ring_object *)object;
    long side = PyLong_AsLong(argument);
    if (PyErr_Occurred() || side < 0 || side >= CL_RING_SIDES)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no such side");
    return PyBool_FromLong(atomic_load(&self->busy[side]) == HELD_BY_THE_PROGRAM && /* partner: the store in hold */
                           atomic_load(&self->holder[side]) == PyThread_get_thread_ident());
}

/* _commit(size) -> how many, or the ring's answer: for the reserved record; the side is the ring's again. */
static PyObject *commit(PyObject *object, PyObject *argument)
{
    ring_object *self = (ring_object *)object;
    Py_ssize_t size = PyLong_AsSsize_t(argument);
    if (PyErr_Occurred() || !is_bound(self))
        return NULL;
    atomic_store(&self->busy[CL_RING_PRODUCER], IN_A_CALL);
    int64_t rc = cl_ring_add(ring_of(self), size);
    rc = rc < 0 ? rc : cl_ring_commit(ring_of(self));
    atomic_store(&self->busy[CL_RING_PRODUCER], FREE);
    return PyLong_FromLongLong(rc);
}

/* _release() -> their number, or the ring's answer: for what is looked at; the side is the ring's again. */
static PyObject *release(PyObject *object, PyObject *unused)
{
    ring_object *self = (ring_object *)object;
    (void)unused;
    if (!is_bound(self))
        return NULL;
    atomic_store(&self->busy[CL_RING_CONSUMER], IN_A_CALL);
    int64_t rc = cl_ring_release(ring_of(self));
    atomic_store(&self->busy[CL_RING_CONSUMER], FREE);
    return PyLong_FromLongLong(rc);
}

/* ---- whose it is --------------------------------------------------------------------------------------------------------- */

static int parse_side(PyObject *argument)
{
    long side = PyLong_AsLong(argument);
    if (!PyErr_Occurred() && (side < 0 || side >= CL_RING_SIDES))
        PyErr_SetString(PyExc_ValueError, "no such side");
    return PyErr_Occurred() ? -1 : (int)side;
}

static PyObject *with_side(PyObject *object, PyObject *argument, int64_t (*call)(cl_ring *, int32_t))
{
    ring_object *self = (ring_object *)object;
    int side = parse_side(argument);
    if (side < 0 || !is_bound(self))
        return NULL;
    int seen = begin_beside(self, side);
    int64_t rc = call(ring_of(self), side);
    end_beside(self, side, seen);
    return PyLong_FromLongLong(rc);
}

/* _take_side(side), _bell(side), _silence(side) -> the ring's answer. */
static PyObject *take_side(PyObject *self, PyObject *side)
{
    return with_side(self, side, cl_ring_take);
}

static PyObject *bell(PyObject *self, PyObject *side)
{
    return with_side(self, side, cl_ring_poll_fd);
}

static PyObject *silence(PyObject *self, PyObject *side)
{
    return with_side(self, side, cl_ring_silence);
}

/* _arm(side, size) -> the ring's answer. */
static PyObject *arm(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ring_object *self = (ring_object *)object;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "_arm() takes a side and a size");
    int side = parse_side(args[0]);
    Py_ssize_t size = side < 0 ? 0 : PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred() || !is_bound(self))
        return NULL;
    int seen = begin_beside(self, side);
    int64_t rc = cl_ring_arm(ring_of(self), side, size);
    end_beside(self, side, seen);
    return PyLong_FromLongLong(rc);
}

/* _leave() -> None: of both sides, for good. */
static PyObject *leave(PyObject *object, PyObject *unused)
{
    ring_object *self = (ring_object *)object;
    int seen[CL_RING_SIDES];
    (void)unused;
    if (!is_bound(self))
        return NULL;
    for (int side = 0; side < CL_RING_SIDES; side++)
        seen[side] = begin_beside(self, side);
    cl_ring_close(ring_of(self));
    for (int side = 0; side < CL_RING_SIDES; side++)
        end_beside(self, side, seen[side]);
    Py_RETURN_NONE;
}

/* _bind(address, owner, Kept) -> None. */
static PyObject *bind(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ring_object *self = (ring_object *)object;
    PyObject *done = cl__fast_bind(object, args, count == 3 ? 2 : 0);
    if (!done)
        return NULL;
    Py_INCREF(args[2]);
    self->kept = args[2];
    return done;
}

static void dealloc(PyObject *object)
{
    Py_XDECREF(((ring_object *)object)->kept);
    cl__fast_dealloc(object);
}

static PyMethodDef methods[] = {
    {"put", CL__FAST_CALL(put), METH_FASTCALL | METH_KEYWORDS,
     "put(data, timeout=None)\n\nPut one record, bytes or any buffer of them; wait until it fits, for `timeout` seconds at most.\n\n"
     "Raises:\n    QueueFull: the time is over. Closed: the consumer has closed. PeerDied: it is full, and the consumer's process\n"
     "        has died. ValueError: it is larger than the ring."},
    {"put_nowait", put_nowait, METH_O, "put_nowait(data)\n\nPut one record, or raise QueueFull at once."},
    {"get", CL__FAST_CALL(get), METH_FASTCALL | METH_KEYWORDS,
     "get(timeout=None)\n\nThe next record, as bytes; wait until there is one, for `timeout` seconds at most.\n\n"
     "Raises:\n    QueueEmpty: the time is over. Closed: the producer has closed, and all was got. PeerDied: the same, but its\n"
     "        process has died."},
    {"get_nowait", get_nowait, METH_NOARGS, "get_nowait()\n\nThe next record, or raise QueueEmpty at once."},
    {"_put_some", CL__FAST_CALL(put_some), METH_FASTCALL, NULL},
    {"_put_records", CL__FAST_CALL(put_records), METH_FASTCALL, NULL},
    {"_get_some", get_some, METH_O, NULL},
    {"_get_records", CL__FAST_CALL(get_records), METH_FASTCALL, NULL},
    {"_reserve", reserve, METH_O, NULL},
    {"_peek", look_at, METH_NOARGS, NULL},
    {"_let_go", let_go, METH_O, NULL},
    {"_never_wait", never_wait, METH_NOARGS, NULL},
    {"_holds", holds, METH_O, NULL},
    {"_commit", commit, METH_O, NULL},
    {"_release", release, METH_NOARGS, NULL},
    {"_take_side", take_side, METH_O, NULL},
    {"_bell", bell, METH_O, NULL},
    {"_silence", silence, METH_O, NULL},
    {"_arm", CL__FAST_CALL(arm), METH_FASTCALL, NULL},
    {"_leave", leave, METH_NOARGS, NULL},
    {"_bind", CL__FAST_CALL(bind), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_dealloc, dealloc},
    {Py_tp_doc, (void *)"The calls of a ring that do not wait."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "corelane._fast.RingCalls",
    .basicsize = sizeof(ring_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int cl__fast_add_ring(PyObject *module)
{
    return cl__fast_add_type(module, "RingCalls", &spec);
}
