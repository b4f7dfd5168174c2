/* Blocks of a pool of buffers: what corelane.shm.BufferPool and its Block inherit from.
 *
 * A Hold has one reference to a block, and gives it back when it goes: when nobody has the Block, nor a memoryview or an array
 * over it, as those are over the Hold (and so a Block is no buffer itself). So what is read through a view is never another's by then; and no exception, wherever it
 * comes, leaves a block held that nobody knows of: the Hold is there before the block is claimed.
 *
 * The collector of cycles is not told what a Hold or a Block holds: see fast_kept.c.
 *
 * A token is 32 bytes: which segment it is of, the block's generation and index, who has sent it (0: nobody, it is a handle). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../corelane.h"
#include "fast_object.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

/* The Hold of a Block, which another thread may release. */
#ifdef Py_GIL_DISABLED
static pthread_mutex_t holds = PTHREAD_MUTEX_INITIALIZER;
#define BEGIN() pthread_mutex_lock(&holds)
#define END() pthread_mutex_unlock(&holds)
#else
#define BEGIN() ((void)0)
#define END() ((void)0)
#endif

typedef struct token {
    uint64_t device, inode, generation;
    uint32_t index;
    uint16_t sender, version;
} token;

enum { TOKEN_VERSION = 0xb10c };

typedef struct pool_object {
    cl__fast_object base;
    PyTypeObject *block_type;
    uint64_t device, inode;
    Py_ssize_t block_size;
} pool_object;

typedef struct hold_object {
    PyObject_HEAD
    cl_buffers *core;
    PyObject *owner; /* of `core` */
    Py_ssize_t size;
    cl_buffers_ref ref;
} hold_object;

typedef struct block_object {
    PyObject_HEAD
    PyObject *pool;
    hold_object *hold; /* NULL: released */
    PyObject *view;    /* or NULL */
} block_object;

static PyTypeObject *hold_type;

static PyObject *allocate(PyTypeObject *type)
{
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

static void deallocate(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* ---- Hold ---------------------------------------------------------------------------------------------------------- */

static int hold_buffer(PyObject *object, Py_buffer *view, int flags)
{
    hold_object *self = (hold_object *)object;
    return PyBuffer_FillInfo(view, object, self->ref.data, self->size, 0, flags);
}

static void hold_dealloc(PyObject *object)
{
    hold_object *self = (hold_object *)object;
    if (self->ref.epoch) /* in the child of a fork it is refused: it is the parent's */
        cl_buffers_release(self->core, &self->ref);
    Py_XDECREF(self->owner);
    deallocate(object);
}

/* ---- Block --------------------------------------------------------------------------------------------------------- */

/* One that has no block yet. */
static block_object *new_block(pool_object *pool, cl_buffers *core)
{
    if (!pool->block_type)
        return (block_object *)PyErr_Format(PyExc_ValueError, "this pool was never opened");
    block_object *block = (block_object *)allocate(pool->block_type);
    hold_object *hold = block ? (hold_object *)allocate(hold_type) : NULL;
    if (!hold) {
        Py_XDECREF((PyObject *)block);
        return NULL;
    }
    Py_INCREF(pool->base.owner);
    hold->owner = pool->base.owner;
    hold->core = core;
    hold->size = pool->block_size;
    Py_INCREF((PyObject *)pool);
    block->pool = (PyObject *)pool;
    block->hold = hold;
    return block;
}

/* A new reference; or NULL and an exception: it was released. */
static hold_object *hold_of(PyObject *object)
{
    block_object *self = (block_object *)object;
    BEGIN();
    hold_object *hold = self->hold;
    Py_XINCREF((PyObject *)hold);
    END();
    if (hold && hold->ref.epoch)
        return hold;
    Py_XDECREF((PyObject *)hold);
    PyErr_SetString(PyExc_ValueError, "this block was released: acquire or open it again");
    return NULL;
}

static void block_dealloc(PyObject *object)
{
    block_object *self = (block_object *)object;
    Py_XDECREF(self->view);
    Py_XDECREF((PyObject *)self->hold);
    Py_XDECREF(self->pool);
    deallocate(object);
}

static PyObject *block_release(PyObject *object, PyObject *unused)
{
    block_object *self = (block_object *)object;
    (void)unused;
    BEGIN();
    PyObject *view = self->view, *hold = (PyObject *)self->hold;
    self->view = NULL;
    self->hold = NULL;
    END();
    if (view) {
        PyObject *done = PyObject_CallMethod(view, "release", NULL);
        if (!done)
            PyErr_Clear(); /* somebody has a view of it, and so the block */
        Py_XDECREF(done);
        Py_DECREF(view);
    }
    Py_XDECREF(hold);
    Py_RETURN_NONE;
}

static PyObject *block_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_INCREF(self);
    return self;
}

static PyObject *block_exit(PyObject *self, PyObject *unused)
{
    (void)unused;
    return block_release(self, NULL);
}

static PyObject *get_view(PyObject *object, void *unused)
{
    block_object *self = (block_object *)object;
    (void)unused;
    hold_object *hold = hold_of(object);
    PyObject *made = hold ? PyMemoryView_FromObject((PyObject *)hold) : NULL;
    if (made) {
        BEGIN();
        PyObject *spare = self->view || !self->hold ? NULL : made;
        PyObject *view = self->view ? self->view : made;
        if (spare)
            self->view = view;
        Py_INCREF(view);
        END();
        if (!spare)
            Py_DECREF(made);
        made = view;
    }
    Py_XDECREF((PyObject *)hold);
    return made;
}

static PyObject *get_released(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!((block_object *)object)->hold);
}

static PyObject *get_pool(PyObject *object, void *unused)
{
    (void)unused;
    PyObject *pool = ((block_object *)object)->pool;
    if (!pool)
        return PyErr_Format(PyExc_ValueError, "this block is of no pool: acquire or open one");
    Py_INCREF(pool);
    return pool;
}

static PyObject *get_size(PyObject *object, void *unused)
{
    (void)unused;
    pool_object *pool = (pool_object *)((block_object *)object)->pool;
    return PyLong_FromSsize_t(pool ? pool->block_size : 0);
}

enum { INDEX, GENERATION, OFFSET };

static PyObject *get_number(PyObject *object, void *which)
{
    hold_object *hold = hold_of(object);
    if (!hold)
        return NULL;
    int64_t found = which == (void *)INDEX ? hold->ref.index : hold->ref.offset;
    PyObject *made = which == (void *)GENERATION ? PyLong_FromUnsignedLongLong(hold->ref.generation) : PyLong_FromLongLong(found);
    Py_DECREF((PyObject *)hold);
    return made;
}

/* The address of its cl_buffers_ref, for the core to fill in; also of one that has no block yet. */
static PyObject *get_address(PyObject *object, void *unused)
{
    (void)unused;
    block_object *self = (block_object *)object;
    return self->hold ? PyLong_FromVoidPtr(&self->hold->ref) : PyErr_Format(PyExc_ValueError, "this block was released");
}

static PyObject *token_of(const pool_object *pool, const cl_buffers_ref *ref)
{
    token made = {pool->device, pool->inode, ref->generation, (uint32_t)ref->index, 0, TOKEN_VERSION};
    return PyBytes_FromStringAndSize((const char *)&made, sizeof made);
}

static PyObject *get_handle(PyObject *object, void *unused)
{
    (void)unused;
    hold_object *hold = hold_of(object);
    PyObject *made = hold ? token_of((pool_object *)((block_object *)object)->pool, &hold->ref) : NULL;
    Py_XDECREF((PyObject *)hold);
    return made;
}

/* _send() -> bytes, or the core's answer. The bytes are there before the token is on its way; and then the Block is released. */
static PyObject *block_send(PyObject *object, PyObject *unused)
{
    hold_object *hold = hold_of(object);
    PyObject *made = hold ? token_of((pool_object *)((block_object *)object)->pool, &hold->ref) : NULL;
    if (made) {
        int64_t rc = cl_buffers_send(hold->core, &hold->ref);
        uint16_t sender = (uint16_t)rc;
        if (rc > 0) {
            memcpy(PyBytes_AsString(made) + offsetof(token, sender), &sender, sizeof sender);
        } else {
            Py_DECREF(made);
            made = PyLong_FromLongLong(rc);
        }
        if (rc > 0)
            Py_DECREF(block_release(object, unused));
    }
    Py_XDECREF((PyObject *)hold);
    return made;
}

/* ---- the pool ------------------------------------------------------------------------------------------------------ */

/* _bind(address, owner, block_type, device, inode, block_size) -> None. */
static PyObject *bind(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    pool_object *self = (pool_object *)object;
    if (count != 6 || !PyType_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "_bind() takes an address, an owner, a type and three numbers");
    uint64_t device = PyLong_AsUnsignedLongLong(args[3]), inode = PyLong_AsUnsignedLongLong(args[4]);
    Py_ssize_t size = PyLong_AsSsize_t(args[5]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *done = cl__fast_bind(object, args, 2);
    if (done) {
        self->device = device;
        self->inode = inode;
        self->block_size = size;
        Py_INCREF(args[2]);
        self->block_type = (PyTypeObject *)args[2];
    }
    return done;
}

static void pool_dealloc(PyObject *object)
{
    Py_XDECREF((PyObject *)((pool_object *)object)->block_type);
    cl__fast_dealloc(object);
}

static PyObject *acquire(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None;
    cl_buffers *core = cl__fast_core(self);
    if (!core || ((count || names) && cl__fast_timeout("acquire", args, count, names, 0, &timeout) < 0) ||
        cl__fast_check_timeout(self, timeout) < 0)
        return NULL;
    block_object *block = new_block((pool_object *)self, core);
    if (!block)
        return NULL;
    int64_t rc = cl_buffers_try_acquire(core, &block->hold->ref);
    if (rc == 0)
        return (PyObject *)block;
    PyObject *found = cl__fast_later(self, "_acquire_later", rc, (PyObject *)block, timeout);
    Py_DECREF((PyObject *)block);
    return found;
}

static PyObject *empty(PyObject *self, PyObject *unused)
{
    (void)unused;
    cl_buffers *core = cl__fast_core(self);
    return core ? (PyObject *)new_block((pool_object *)self, core) : NULL;
}

static int64_t open_token(const pool_object *pool, cl_buffers *core, PyObject *bytes, cl_buffers_ref *ref)
{
    token got;
    if (PyBytes_Size(bytes) != sizeof got)
        return -EBADMSG;
    memcpy(&got, PyBytes_AsString(bytes), sizeof got);
    if (got.version != TOKEN_VERSION)
        return -EBADMSG;
    if (got.device != pool->device || got.inode != pool->inode)
        return -EXDEV;
    return got.sender ? cl_buffers_take(core, got.index, got.generation, got.sender, ref)
                      : cl_buffers_hold(core, got.index, got.generation, ref);
}

static PyObject *open_block(PyObject *self, PyObject *bytes)
{
    pool_object *pool = (pool_object *)self;
    cl_buffers *core = cl__fast_core(self);
    if (!core)
        return NULL;
    if (!PyBytes_Check(bytes))
        return PyErr_Format(PyExc_TypeError, "open() takes the bytes of a handle or a token, not %R", bytes);
    block_object *block = new_block(pool, core);
    if (!block)
        return NULL;
    int64_t rc = open_token(pool, core, bytes, &block->hold->ref);
    if (rc == 0)
        return (PyObject *)block;
    Py_DECREF((PyObject *)block);
    return cl__fast_later(self, "_open_failed", rc, bytes, Py_None);
}

/* _recall(bytes) -> 1, 0, or the core's answer. */
static PyObject *recall(PyObject *self, PyObject *bytes)
{
    token got;
    cl_buffers *core = cl__fast_core(self);
    if (!core)
        return NULL;
    if (!PyBytes_Check(bytes) || PyBytes_Size(bytes) != sizeof got)
        return PyErr_Format(PyExc_TypeError, "recall() takes the bytes of a token");
    memcpy(&got, PyBytes_AsString(bytes), sizeof got);
    return PyLong_FromLongLong(cl_buffers_recall(core, got.index, got.generation));
}

static PyObject *with_core(PyObject *self, int64_t (*call)(cl_buffers *))
{
    cl_buffers *core = cl__fast_core(self);
    return core ? PyLong_FromLongLong(call(core)) : NULL;
}

static PyObject *join(PyObject *self, PyObject *unused)
{
    (void)unused;
    return with_core(self, cl_buffers_join);
}

static PyObject *leave(PyObject *self, PyObject *unused)
{
    (void)unused;
    return with_core(self, cl_buffers_leave);
}

/* For the event loop: there is one bell. */
static PyObject *bell(PyObject *self, PyObject *unused)
{
    (void)unused;
    return with_core(self, cl_buffers_poll_fd);
}

static PyObject *silence(PyObject *self, PyObject *unused)
{
    (void)unused;
    return with_core(self, cl_buffers_silence);
}

static PyObject *arm(PyObject *self, PyObject *unused)
{
    (void)unused;
    return with_core(self, cl_buffers_arm);
}

/* ---- the types ----------------------------------------------------------------------------------------------------- */

static PyMethodDef pool_methods[] = {
    {"acquire", CL__FAST_CALL(acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire(timeout=None)\n\nA free block; wait until there is one, for `timeout` seconds at most. Its bytes are those of whoever "
     "had it last.\n\nReturns:\n    The Block, held until its `with` block ends, or it is released or dropped.\n\nRaises:\n"
     "    PoolExhausted: the time is over. ShmFailed: the block was trimmed, and the system has no memory for it."},
    {"open", open_block, METH_O,
     "open(token)\n\nThe block of a handle, or of a token that `send` made: a reference of our own.\n\nRaises:\n    StaleBlock: it "
     "was freed since, or the token was taken or recalled, or its sender has died.\n        ValueError: it is none of this "
     "pool."},
    {"_empty", empty, METH_NOARGS, NULL},
    {"_recall", recall, METH_O, NULL},
    {"_bell", bell, METH_O, NULL},
    {"_silence", silence, METH_O, NULL},
    {"_arm", arm, METH_NOARGS, NULL},
    {"_join", join, METH_NOARGS, NULL},
    {"_leave_core", leave, METH_NOARGS, NULL},
    {"_bind", CL__FAST_CALL(bind), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef block_methods[] = {
    {"release", block_release, METH_NOARGS,
     "release()\n\nLet go of it. What has a view of it (a memoryview, an array) keeps it held until that is gone, too. Does nothing "
     "the\nsecond time."},
    {"_send", block_send, METH_NOARGS, NULL},
    {"__enter__", block_enter, METH_NOARGS, NULL},
    {"__exit__", block_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef block_getters[] = {
    {"view", get_view, NULL, "Its memory, a memoryview of `size` bytes. Invalid when the block is released.", NULL},
    {"handle", get_handle, NULL, "Bytes by which another process opens it, for as long as somebody holds it.", NULL},
    {"released", get_released, NULL, "Whether it was released.", NULL},
    {"pool", get_pool, NULL, "The pool it is of.", NULL},
    {"size", get_size, NULL, "Its bytes.", NULL},
    {"index", get_number, NULL, "Which block of the pool it is, from 0.", (void *)INDEX},
    {"generation", get_number, NULL, "Which use of that memory this is, from 1.", (void *)GENERATION},
    {"offset", get_number, NULL, "Where it begins in the data of `segment`, in bytes.", (void *)OFFSET},
    {"_address", get_address, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot pool_slots[] = {
    {Py_tp_methods, pool_methods},
    {Py_tp_dealloc, pool_dealloc},
    {Py_tp_doc, (void *)"The calls of a pool of buffers that do not wait."},
    {0, NULL},
};

static PyType_Slot block_slots[] = {
    {Py_tp_methods, block_methods},
    {Py_tp_getset, block_getters},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_doc, (void *)"A block of a pool, held until it is released."},
    {0, NULL},
};

static PyType_Slot hold_slots[] = {
    {Py_tp_dealloc, hold_dealloc},
    {Py_bf_getbuffer, hold_buffer},
    {Py_tp_doc, (void *)"A reference to a block, given back when this goes."},
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "corelane._fast.BufferPoolCalls",
    .basicsize = sizeof(pool_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = pool_slots,
};

static PyType_Spec block_spec = {
    .name = "corelane._fast.PoolBlock",
    .basicsize = sizeof(block_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = block_slots,
};

static PyType_Spec hold_spec = {
    .name = "corelane._fast.BlockHold",
    .basicsize = sizeof(hold_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = hold_slots,
};

int cl__fast_add_buffers(PyObject *module)
{
    hold_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &hold_spec, NULL);
    if (!hold_type || cl__fast_add_type(module, "BufferPoolCalls", &pool_spec) < 0)
        return -1;
    return cl__fast_add_type(module, "PoolBlock", &block_spec);
}
