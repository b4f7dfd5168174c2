/* What all types of objects in shared memory have alike; see fast_object.h. */
#include "fast_object.h"

#include <time.h>

PyObject *cl__fast_bind(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    cl__fast_object *self = (cl__fast_object *)object;
    void *core = count == 2 ? PyLong_AsVoidPtr(args[0]) : NULL;
    if (!core || self->core)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "_bind() takes an address and an owner, once");
    Py_INCREF(args[1]);
    self->owner = args[1];
    self->core = core;
    Py_RETURN_NONE;
}

void cl__fast_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    Py_XDECREF(((cl__fast_object *)object)->owner);
    release(object);
    Py_DECREF(type);
}

int cl__fast_add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int rc = type ? PyModule_AddObjectRef(module, name, type) : -1;
    Py_XDECREF(type);
    return rc;
}

int cl__fast_timeout(const char *name, PyObject *const *args, Py_ssize_t count, PyObject *names, Py_ssize_t fixed,
                     PyObject **timeout)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    *timeout = Py_None;
    if (count < fixed || count + named > fixed + 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments and a timeout, not %zd", name, fixed, count + named);
        return -1;
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout") != 0) {
        PyErr_Format(PyExc_TypeError, "%s() has no argument %R", name, PyTuple_GetItem(names, 0));
        return -1;
    }
    if (count + named > fixed)
        *timeout = args[fixed];
    return 0;
}

int cl__fast_check_timeout(PyObject *self, PyObject *timeout)
{
    if (timeout == Py_None)
        return 0;
    PyObject *checked = PyObject_CallMethod(self, "_seconds", "O", timeout);
    Py_XDECREF(checked);
    return checked ? 0 : -1;
}

int64_t cl__fast_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int cl__fast_deadline(PyObject *self, PyObject *timeout, int64_t *deadline)
{
    *deadline = -1;
    if (timeout == Py_None)
        return 0;
    PyObject *checked = PyObject_CallMethod(self, "_seconds", "O", timeout);
    double seconds = checked ? PyFloat_AsDouble(checked) : -1;
    Py_XDECREF(checked);
    if (seconds < 0)
        return -1;
    *deadline = cl__fast_now() + (int64_t)(seconds * 1e9);
    return 0;
}

PyObject *cl__fast_left(int64_t deadline)
{
    if (deadline < 0)
        Py_RETURN_NONE;
    int64_t left = deadline - cl__fast_now();
    return PyFloat_FromDouble(left > 0 ? (double)left / 1e9 : 0.0);
}

PyObject *cl__fast_later(PyObject *self, const char *method, int64_t rc, PyObject *first, PyObject *second)
{
    return PyObject_CallMethod(self, method, "LOO", (long long)rc, first, second);
}

int cl__fast_is_plain(PyObject *item)
{
    return PyBytes_Check(item) || Py_TYPE(item) == &PyByteArray_Type || Py_TYPE(item) == &PyMemoryView_Type;
}

PyObject *cl__fast_put_some(PyObject *self, PyObject *const *args, Py_ssize_t count, cl__fast_put *put)
{
    if (count != 2 || !PyList_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "a list and an index are needed");
    Py_ssize_t first = PyLong_AsSsize_t(args[1]), i = first;
    if (first < 0)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_IndexError, "an index from 0 is needed");
    int64_t rc = 0;
    for (; rc == 0 && i < PyList_Size(args[0]); i += rc == 0) {
        PyObject *item = PyList_GetItem(args[0], i); /* borrowed, and its buffer may run code that takes it out */
        if (i > first && !cl__fast_is_plain(item))
            break;
        Py_INCREF(item);
        int failed = put(self, item, &rc) < 0;
        Py_DECREF(item);
        if (failed && i > first)
            PyErr_Clear(); /* it comes up again, as the first of the next call */
        if (failed)
            break;
    }
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(i > first ? i - first : rc);
}
