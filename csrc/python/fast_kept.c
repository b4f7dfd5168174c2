/* Kept(owner, address=0, size=0, readonly=True): holds an object, and is a buffer of the memory that it owns.
 *
 * The collector of cycles is not told what a Kept holds (there is no traverse). What cffi's gc() makes has a finalizer, and
 * the collector runs the finalizers of all that is in a cycle in any order: memory would be unmapped before the `__del__` of
 * an object that reads it. As it is, the collector sees a reference to the owner from outside of the cycle; so that goes when
 * the last Kept does, which is after all finalizers. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fast.h"

typedef struct kept_object {
    PyObject_HEAD
    PyObject *owner;
    void *data;
    Py_ssize_t size;
    int is_readonly;
} kept_object;

PyObject *cl__fast_keep(PyObject *type, PyObject *owner, void *data, Py_ssize_t size, int is_readonly)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc);
    kept_object *self = (kept_object *)allocate((PyTypeObject *)type, 0);
    if (!self)
        return NULL;
    Py_INCREF(owner);
    self->owner = owner;
    self->data = data;
    self->size = size;
    self->is_readonly = is_readonly;
    return (PyObject *)self;
}

static PyObject *create(PyTypeObject *type, PyObject *args, PyObject *names)
{
    PyObject *owner, *address = NULL;
    Py_ssize_t size = 0;
    int is_readonly = 1;
    if (names)
        return PyErr_Format(PyExc_TypeError, "Kept() takes no named arguments");
    if (!PyArg_ParseTuple(args, "O|Onp:Kept", &owner, &address, &size, &is_readonly))
        return NULL;
    void *data = address ? PyLong_AsVoidPtr(address) : NULL;
    if (PyErr_Occurred())
        return NULL;
    if (size < 0 || (size && !data))
        return PyErr_Format(PyExc_ValueError, "there is no such memory");
    return cl__fast_keep((PyObject *)type, owner, data, size, is_readonly);
}

static int get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    kept_object *self = (kept_object *)object;
    return PyBuffer_FillInfo(view, object, self->data, self->size, self->is_readonly, flags);
}

static void dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    Py_XDECREF(((kept_object *)self)->owner);
    release(self);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_new, create},
    {Py_tp_dealloc, dealloc},
    {Py_bf_getbuffer, get_buffer},
    {Py_tp_doc, (void *)"Holds an object, unseen by the collector of cycles; a buffer of memory that it owns."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "corelane._fast.Kept",
    .basicsize = sizeof(kept_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

int cl__fast_add_kept(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    int rc = type ? PyModule_AddObjectRef(module, "Kept", type) : -1;
    Py_XDECREF(type);
    return rc;
}
