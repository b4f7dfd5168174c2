/* The parts of the module corelane._fast. */
#ifndef CORELANE_FAST_H
#define CORELANE_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* 0, or -1 and an exception. */
int cl__fast_add_kept(PyObject *module);
int cl__fast_add_queue(PyObject *module);
int cl__fast_add_deque(PyObject *module);
int cl__fast_add_broadcast(PyObject *module);
int cl__fast_add_ring(PyObject *module);
int cl__fast_add_buffers(PyObject *module);
int cl__fast_add_sync(PyObject *module);

/* fast_kept.c: a new Kept, without its arguments' being parsed. `type` is Kept. NULL: an exception. */
PyObject *cl__fast_keep(PyObject *type, PyObject *owner, void *data, Py_ssize_t size, int is_readonly);

#endif
