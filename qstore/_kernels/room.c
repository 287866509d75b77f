/* qstore._native.Room: memory for a large output, which the next one gets when this one is dropped.
 *
 * The kernel zeroes fresh pages, which takes longer than filling them: 10,000 rows of 1,024 take 6.6 ms into fresh
 * ones and 2.5 ms into used ones. Idle rooms are lent to the kernel meanwhile (MADV_FREE): it takes their pages if it
 * is short of memory, and nobody pays if it is not. The list of idle rooms is guarded by the GIL. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS and madvise() */
#include "room.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#define PAGE ((size_t)2 << 20) /* a large one */
#define MOST_IDLE ((size_t)256 << 20)

typedef struct {
    char *data;
    size_t size;
} block;

typedef struct {
    PyObject_HEAD
    block memory;
    Py_ssize_t length;
} room;

#ifdef __linux__

/* Whole large pages; data is NULL if there are none. */
static block map_block(size_t size)
{
    char *mapped = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        return (block){NULL, 0};
    const size_t before = (size_t)(-(uintptr_t)mapped & (PAGE - 1));
    if (before > 0)
        munmap(mapped, before);
    munmap(mapped + before + size, PAGE - before);
    madvise(mapped + before, size, MADV_HUGEPAGE); /* a refusal costs time only */
    return (block){mapped + before, size};
}

static void unmap_block(block memory)
{
    munmap(memory.data, memory.size);
}

/* Lets the kernel have the pages; 0 if it cannot be told. */
static int lend_block(block memory)
{
    return madvise(memory.data, memory.size, MADV_FREE) == 0;
}

#else

static block map_block(size_t size)
{
    char *data = PyMem_RawMalloc(size);
    return (block){data, size};
}

static void unmap_block(block memory)
{
    PyMem_RawFree(memory.data);
}

static int lend_block(block memory)
{
    (void)memory;
    return 0;
}

#endif

/* Oldest first. */
static block idle[8];
static size_t idle_count;

static block take_idle(size_t i)
{
    const block found = idle[i];
    idle_count--;
    memmove(idle + i, idle + i + 1, (idle_count - i) * sizeof *idle);
    return found;
}

/* One that is at most a quarter larger than asked for, or a new one. */
static block find_block(size_t size)
{
    for (size_t i = idle_count; i-- > 0;)
        if (idle[i].size >= size && idle[i].size - size <= size / 4)
            return take_idle(i);
    return map_block(size);
}

static void keep_block(block memory)
{
    if (memory.size > MOST_IDLE || !lend_block(memory)) {
        unmap_block(memory);
        return;
    }
    size_t total = memory.size;
    for (size_t i = 0; i < idle_count; i++)
        total += idle[i].size;
    while (total > MOST_IDLE || idle_count == sizeof idle / sizeof *idle) {
        const block oldest = take_idle(0);
        total -= oldest.size;
        unmap_block(oldest);
    }
    idle[idle_count++] = memory;
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Py_ssize_t length;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Room() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "n:Room", &length))
        return NULL;
    if (length < 1)
        return PyErr_Format(PyExc_ValueError, "a room has at least 1 byte, got %zd", length);
    if ((size_t)length > (size_t)PY_SSIZE_T_MAX - 2 * PAGE)
        return PyErr_NoMemory();
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    room *made = (room *)allocate(type, 0); /* zeroed: no memory yet */
    if (made == NULL)
        return NULL;
    made->length = length;
    made->memory = find_block(((size_t)length + PAGE - 1) & ~(PAGE - 1));
    if (made->memory.data == NULL) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    return (PyObject *)made;
}

static void drop(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    const block memory = ((room *)self)->memory;
    if (memory.data != NULL)
        keep_block(memory);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int lend_buffer(PyObject *self, Py_buffer *view, int flags)
{
    room *lender = (room *)self;
    return PyBuffer_FillInfo(view, self, lender->memory.data, lender->length, 0, flags);
}

static PyType_Slot SLOTS[] = {
    {Py_tp_doc, "Room(nbytes, /)\n--\n\nMemory of so many bytes, not initialized: a writable buffer."},
    {Py_tp_new, (void *)make},
    {Py_tp_dealloc, (void *)drop},
    {Py_bf_getbuffer, (void *)lend_buffer},
    {0, NULL},
};

PyType_Spec room_type = {"qstore._native.Room", sizeof(room), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, SLOTS};
