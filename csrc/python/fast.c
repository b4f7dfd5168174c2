/* The few calls that need the GIL, or to be C: cffi releases the GIL around every call. A second module in the shared
 * object of the cffi one, so that both share the core.
 *
 * make_with(cls): `__enter__` and `__exit__` in C.
 *
 * capture_environ(address): setenv(3), which os.environ calls holding the GIL, may move the table while it is read. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"
#include "fast.h"

#include <errno.h>
#include <signal.h>

static PyObject *capture_environ(PyObject *self, PyObject *address)
{
    (void)self;
    cl_environ *snapshot = PyLong_AsVoidPtr(address);
    if (!snapshot)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "the snapshot's address is 0");
    if (cl_environ_capture(snapshot) < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Python looks for signals at the start of every function of its own. An exception there, in an `__enter__`, comes
 * after the object was made and before its `with` block knows of it: nobody would call `__exit__`. */
static PyObject *enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (PyObject_SetAttrString(self, "_kill_dropped", Py_True) < 0)
        return NULL;
    Py_INCREF(self);
    return self;
}

static PyMethodDef enter_method = {"__enter__", enter, METH_NOARGS, "The object itself, from now on killed if dropped."};

enum { WAITS = 8 };
#define REAP_NS 5000000000LL /* what SIGKILL has not ended by then is in uninterruptible sleep */

/* The scope of the first is that of all. It goes before anything is reaped: until then its number is its own. */
static void kill_and_reap(PyObject *self)
{
    PyObject *addresses = PyObject_GetAttrString(self, "_addresses");
    Py_ssize_t count = addresses ? PyTuple_Size(addresses) : 0;
    for (Py_ssize_t i = 0; i < 2 * count; i++) {
        cl_process *process = PyLong_AsVoidPtr(PyTuple_GetItem(addresses, i % count));
        Py_BEGIN_ALLOW_THREADS
        if (i < count) {
            cl_process_signal_scope(process, SIGKILL);
            cl_process_signal(process, SIGKILL);
        } else {
            for (int tries = 0; tries < WAITS && cl_process_wait(process, REAP_NS) == -EINTR; tries++)
                continue; /* a signal: Python looks at it after this */
        }
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(addresses);
}

/* The same at the other end: an exception at the start of an `__exit__` of Python's would leave it undone, and the child
 * running for as long as somebody keeps the object. */
static PyObject *leave(PyObject *self, PyObject *args)
{
    PyObject *type, *value, *trace;
    PyObject *method = PyObject_GetAttrString(self, "_leave");
    PyObject *result = method ? PyObject_CallObject(method, args) : NULL;
    Py_XDECREF(method);
    if (result)
        return result;
    PyErr_Fetch(&type, &value, &trace);
    kill_and_reap(self); /* nothing is done twice: what is gone is not signalled, nor waited for */
    PyErr_Restore(type, value, trace);
    return NULL;
}

static PyMethodDef leave_method = {"__exit__", leave, METH_VARARGS, "End it with its `with` block; see the class."};

static PyObject *make_with(PyObject *self, PyObject *type)
{
    (void)self;
    if (!PyType_Check(type))
        return PyErr_Format(PyExc_TypeError, "__enter__ is made for a class");
    PyObject *first = PyDescr_NewMethod((PyTypeObject *)type, &enter_method);
    PyObject *second = first ? PyDescr_NewMethod((PyTypeObject *)type, &leave_method) : NULL;
    PyObject *both = second ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return both;
}

static PyMethodDef methods[] = {
    {"make_with", make_with, METH_O,
     "make_with(cls: type) -> (__enter__, __exit__)\n\nMethods whose start no signal interrupts."},
    {"capture_environ", capture_environ, METH_O,
     "capture_environ(address: int) -> None\n\nCopy the environment into the cl_environ at that address."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, cl__fast_add_kept},
    {Py_mod_exec, cl__fast_add_queue},
    {Py_mod_exec, cl__fast_add_deque},
    {Py_mod_exec, cl__fast_add_broadcast},
    {Py_mod_exec, cl__fast_add_ring},
    {Py_mod_exec, cl__fast_add_buffers},
    {Py_mod_exec, cl__fast_add_sync},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "corelane._fast",
    .m_doc = "Calls into the core that keep the GIL.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__fast(void);
PyMODINIT_FUNC PyInit__fast(void)
{
    return PyModuleDef_Init(&module);
}
