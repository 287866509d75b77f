/* Bindings of keys.c. */
#include "keys_module.h"

/* Fewer keys than this need no memory of their own, and are found before another thread could have the lock. */
enum { FEW = 32 };

static int bytes_argument(held_buffers *held, PyObject *object, vector *bytes)
{
    if (vector_argument(held, object, "bytes", &CODES, 0, -1, bytes, NULL) < 0)
        return -1;
    if (bytes->length <= 1 || bytes->stride == 1)
        return 0;
    PyErr_Format(PyExc_ValueError, "bytes must be contiguous, got a stride of %zd bytes", (Py_ssize_t)bytes->stride);
    return -1;
}

PyObject *hash_texts_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("hash_texts", 3, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    vector bytes, offsets, out;
    PyObject *result = NULL;
    if (bytes_argument(&held, args[0], &bytes) == 0 &&
        vector_argument(&held, args[2], "out", &HASHES, 1, -1, &out, NULL) == 0 &&
        vector_argument(&held, args[1], "offsets", &NUMBERS, 0, (Py_ssize_t)out.length + 1, &offsets, NULL) == 0) {
        PyThreadState *state = PyEval_SaveThread();
        ptrdiff_t bad = hash_texts(bytes, offsets, out);
        PyEval_RestoreThread(state);
        result = PyLong_FromSsize_t(bad);
    }
    release_buffers(&held);
    return result;
}

/* The UTF-8 of each text of a tuple; it lives as long as the tuple. */
static int texts_argument(PyObject *tuple, size_t count, text *keys)
{
    for (size_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(tuple, (Py_ssize_t)i);
        Py_ssize_t size;
        if (!PyUnicode_Check(item)) {
            PyErr_Format(PyExc_TypeError, "a key must be a text (str), found %R", item);
            return -1;
        }
        keys[i].data = PyUnicode_AsUTF8AndSize(item, &size);
        if (keys[i].data == NULL)
            return -1;
        keys[i].size = (size_t)size;
    }
    return 0;
}

static PyObject *find_in(const text_index *index, PyObject *tuple, size_t count, vector out)
{
    text few[FEW];
    text *keys = count <= FEW ? few : PyMem_Malloc(count * sizeof(text));
    if (keys == NULL)
        return PyErr_NoMemory();
    PyObject *result = NULL;
    if (texts_argument(tuple, count, keys) == 0) {
        PyThreadState *state = count > FEW ? PyEval_SaveThread() : NULL;
        ptrdiff_t bad = find_texts(index, keys, count, out);
        if (state != NULL)
            PyEval_RestoreThread(state);
        result = PyLong_FromSsize_t(bad);
    }
    if (keys != few)
        PyMem_Free(keys);
    return result;
}

/* Hashes, rows, offsets and bytes. */
static int index_argument(held_buffers *held, PyObject *const *args, text_index *index)
{
    if (vector_argument(held, args[0], "hashes", &HASHES, 0, -1, &index->hashes, NULL) < 0)
        return -1;
    const Py_ssize_t count = (Py_ssize_t)index->hashes.length;
    if (vector_argument(held, args[1], "rows", &NUMBERS, 0, count, &index->rows, NULL) < 0 ||
        vector_argument(held, args[2], "offsets", &NUMBERS, 0, count + 1, &index->offsets, NULL) < 0)
        return -1;
    return bytes_argument(held, args[3], &index->bytes);
}

PyObject *find_texts_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("find_texts", 6, nargs) < 0)
        return NULL;
    PyObject *tuple = PySequence_Tuple(args[4]); /* ours: no other thread can take texts out of it */
    if (tuple == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_Size(tuple);
    held_buffers held;
    held.count = 0;
    text_index index;
    vector out;
    PyObject *result = NULL;
    if (index_argument(&held, args, &index) == 0 &&
        vector_argument(&held, args[5], "out", &NUMBERS, 1, count, &out, NULL) == 0)
        result = find_in(&index, tuple, (size_t)count, out);
    release_buffers(&held);
    Py_DECREF(tuple);
    return result;
}

PyObject *find_ids_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("find_ids", 4, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    vector sorted, rows, keys, out;
    PyObject *result = NULL;
    if (vector_argument(&held, args[0], "sorted", &NUMBERS, 0, -1, &sorted, NULL) == 0 &&
        vector_argument(&held, args[1], "rows", &NUMBERS, 0, (Py_ssize_t)sorted.length, &rows, NULL) == 0 &&
        vector_argument(&held, args[2], "keys", &NUMBERS, 0, -1, &keys, NULL) == 0 &&
        vector_argument(&held, args[3], "out", &NUMBERS, 1, (Py_ssize_t)keys.length, &out, NULL) == 0) {
        PyThreadState *state = keys.length > FEW ? PyEval_SaveThread() : NULL;
        ptrdiff_t bad = find_ids(sorted, rows, keys, out);
        if (state != NULL)
            PyEval_RestoreThread(state);
        result = PyLong_FromSsize_t(bad);
    }
    release_buffers(&held);
    return result;
}

/* qstore._native.TextFinder: an index whose buffers are held, for one key at a time. */
typedef struct {
    PyObject_HEAD
    held_buffers held;
    text_index index;
} text_finder;

static PyObject *make_finder(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *arrays[4];
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "TextFinder() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "TextFinder", 4, 4, &arrays[0], &arrays[1], &arrays[2], &arrays[3]))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    text_finder *made = (text_finder *)allocate(type, 0); /* zeroed: no buffer is held yet */
    if (made != NULL && index_argument(&made->held, arrays, &made->index) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return (PyObject *)made;
}

static void drop_finder(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release_buffers(&((text_finder *)self)->held);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *find(PyObject *self, PyObject *key)
{
    text wanted;
    Py_ssize_t size;
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a key must be a text (str), found %R", key);
        return NULL;
    }
    wanted.data = PyUnicode_AsUTF8AndSize(key, &size);
    if (wanted.data == NULL)
        return NULL;
    wanted.size = (size_t)size;
    int64_t row;
    const ptrdiff_t bad = find_texts(&((text_finder *)self)->index, &wanted, 1, (vector){(char *)&row, sizeof row, 1});
    return PyLong_FromLongLong(bad < 0 ? row : CORRUPT);
}

static PyMethodDef FINDER_METHODS[] = {
    {"find", find, METH_O, "find(key, /)\n--\n\nAs qstore.engine.key_search.TextFinder.find."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot FINDER_SLOTS[] = {
    {Py_tp_doc, "TextFinder(hashes, rows, offsets, bytes, /)\n--\n\nAs qstore.engine.key_search.TextFinder."},
    {Py_tp_new, (void *)make_finder},
    {Py_tp_dealloc, (void *)drop_finder},
    {Py_tp_methods, FINDER_METHODS},
    {0, NULL},
};

PyType_Spec text_finder_type = {"qstore._native.TextFinder", sizeof(text_finder), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, FINDER_SLOTS};
