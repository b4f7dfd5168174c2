/* What the C side of an object in shared memory begins with: the core's object, and who keeps it. */
#ifndef CORELANE_FAST_OBJECT_H
#define CORELANE_FAST_OBJECT_H

#include "fast.h"

#include <stdint.h>

#define CL__FAST_CALL(function) ((PyCFunction)(void (*)(void))(function))

typedef struct cl__fast_object {
    PyObject_HEAD
    void *core;
    PyObject *owner; /* of `core`: freed when this object is, and not before */
} cl__fast_object;

/* _bind(address, owner) -> None, METH_FASTCALL. The collector of cycles is not told of `owner`: see fast_kept.c. */
PyObject *cl__fast_bind(PyObject *object, PyObject *const *args, Py_ssize_t count);
void cl__fast_dealloc(PyObject *object);

/* The core's object, or NULL and an exception. */
static inline void *cl__fast_core(PyObject *object)
{
    void *core = ((cl__fast_object *)object)->core;
    if (!core)
        PyErr_SetString(PyExc_ValueError, "this object was never opened: make it with create() or attach()");
    return core;
}

/* Make the type of a spec, and put it into the module: 0, or -1 and an exception. */
int cl__fast_add_type(PyObject *module, const char *name, PyType_Spec *spec);

/* The timeout of put(data, timeout=None) and get(timeout=None), a borrowed reference, as the argument after `fixed` others.
 * 0, or -1 and an exception. */
int cl__fast_timeout(const char *name, PyObject *const *args, Py_ssize_t count, PyObject *names, Py_ssize_t fixed,
                     PyObject **timeout);

/* Wrong ones are told of at once, not only when it would come to waiting. 0, or -1 and an exception. */
int cl__fast_check_timeout(PyObject *self, PyObject *timeout);

/* The same, as a time of CLOCK_MONOTONIC, ns; -1: none. And what is left until then: a number of seconds, or None. */
int cl__fast_deadline(PyObject *self, PyObject *timeout, int64_t *deadline);
PyObject *cl__fast_left(int64_t deadline);
int64_t cl__fast_now(void);

/* What cannot be done at once is left to a method of the Python class: method(rc, first, second). */
PyObject *cl__fast_later(PyObject *self, const char *method, int64_t rc, PyObject *first, PyObject *second);

/* Whether giving out its buffer runs no code of anybody's, which might let other threads in, or use this very object. */
int cl__fast_is_plain(PyObject *item);

/* Put one: 0 and the core's answer; -1: an exception. */
typedef int cl__fast_put(PyObject *self, PyObject *item, int64_t *rc);

/* (items, first), METH_FASTCALL -> how many of a list's items from `first` on, at least 1, or the core's answer. It ends
 * before one whose code may raise what would come up only once. */
PyObject *cl__fast_put_some(PyObject *self, PyObject *const *args, Py_ssize_t count, cl__fast_put *put);

#endif
