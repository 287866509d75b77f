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
    if (vector_argument(&held, args[0], "hashes", &HASHES, 0, -1, &index.hashes, NULL) == 0 &&
        vector_argument(&held, args[1], "rows", &NUMBERS, 0, (Py_ssize_t)index.hashes.length, &index.rows, NULL) == 0 &&
        vector_argument(&held, args[2], "offsets", &NUMBERS, 0, (Py_ssize_t)index.hashes.length + 1, &index.offsets,
                        NULL) == 0 &&
        bytes_argument(&held, args[3], &index.bytes) == 0 &&
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
