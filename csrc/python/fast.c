/* The few calls that need the GIL, or to be C: cffi releases the GIL around every call. A second module in the shared
 * object of the cffi one, so that both share the core.
 *
 * make_enter(cls): an `__enter__` in C.
 *
 * capture_environ(address): setenv(3), which os.environ calls holding the GIL, may move the table while it is read. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"

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

static PyObject *make_enter(PyObject *self, PyObject *type)
{
    (void)self;
    if (!PyType_Check(type))
        return PyErr_Format(PyExc_TypeError, "__enter__ is made for a class");
    return PyDescr_NewMethod((PyTypeObject *)type, &enter_method);
}

static PyMethodDef methods[] = {
    {"make_enter", make_enter, METH_O, "make_enter(cls: type) -> method\n\nAn __enter__ that no signal interrupts."},
    {"capture_environ", capture_environ, METH_O,
     "capture_environ(address: int) -> None\n\nCopy the environment into the cl_environ at that address."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
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
