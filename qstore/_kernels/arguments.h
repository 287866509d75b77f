/* Python arguments to checked views. */
#ifndef QSTORE_ARGUMENTS_H
#define QSTORE_ARGUMENTS_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

/* Buffers of one call, the first `count` acquired. */
enum { MAX_BUFFERS = 8 };
typedef struct {
    Py_buffer buffers[MAX_BUFFERS];
    int count;
} held_buffers;

void release_buffers(held_buffers *held);

/* The types an argument may have, and how a message calls them. */
typedef struct {
    const char *names;
    int count;
    element_type types[3];
} accepted_types;

extern const accepted_types ANY_FLOAT, WIDE_FLOAT, SINGLES, CODES, SCALES, PLACES, NUMBERS, HASHES, QUANTIZED;

/* 0, or -1 with TypeError or ValueError set, which call the argument `name`. `rows`, `dim` or `length` of -1
 * mean any. `found` is the type, and may be NULL. */
int matrix_argument(held_buffers *held, PyObject *object, const char *name, const accepted_types *accepted,
                    int writable, Py_ssize_t rows, Py_ssize_t dim, matrix *result, element_type *found);
int vector_argument(held_buffers *held, PyObject *object, const char *name, const accepted_types *accepted,
                    int writable, Py_ssize_t length, vector *result, element_type *found);

/* Scales of scattered rows: float64, or packed, a tuple of places in values and these. */
int scales_argument(held_buffers *held, PyObject *object, Py_ssize_t length, vector *result);

/* Whether the items of a buffer are of this type. */
int has_type(const Py_buffer *view, element_type type);

/* The data of a C-contiguous, aligned matrix of this shape, or of this many rows, whose columns are then told. */
char *dense_argument(held_buffers *held, PyObject *object, const char *name, const accepted_types *accepted,
                     int writable, Py_ssize_t rows, Py_ssize_t *columns);

/* Type of this name, in `result` as the only one accepted. */
int element_type_argument(PyObject *object, accepted_types *result);

/* Below this much work the lock is kept: releasing it costs about as much as a row, and with several threads
 * asking for single rows every release is a hand-over. */
#define SMALL_WORK 16384

static inline PyThreadState *leave_python(size_t rows, size_t dim)
{
    return dim > 0 && rows > SMALL_WORK / dim ? PyEval_SaveThread() : NULL;
}

static inline void return_to_python(PyThreadState *state)
{
    if (state != NULL)
        PyEval_RestoreThread(state);
}

int count_arguments(const char *function, Py_ssize_t expected, Py_ssize_t found);

/* scan_binding.c */
PyObject *scan_function(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
