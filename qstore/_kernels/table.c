/* qstore._native.Table: codes and scales whose buffers are held, for reads so small that asking for these counts. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime() */
#include "table.h"

#include <time.h>

/* Requests of more are left to Python, which splits them up, and is nothing beside them. */
enum { MOST_FEW_ROWS = 1023, MOST_FEW_VALUES = 1 << 18 };

typedef struct {
    PyObject_HEAD
    held_buffers held;
    matrix codes;
    vector scales;
    PyObject *array_type; /* numpy.ndarray */
} table;

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *codes, *scales;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Table() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "Table", 2, 2, &codes, &scales))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    table *made = (table *)allocate(type, 0); /* zeroed: no buffer is held yet */
    if (made == NULL)
        return NULL;
    PyObject *numpy = PyImport_ImportModule("numpy");
    made->array_type = numpy == NULL ? NULL : PyObject_GetAttrString(numpy, "ndarray");
    Py_XDECREF(numpy);
    if (made->array_type == NULL ||
        matrix_argument(&made->held, codes, "codes", &CODES, 0, -1, -1, &made->codes, NULL) < 0 ||
        scales_argument(&made->held, scales, (Py_ssize_t)made->codes.rows, &made->scales) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return (PyObject *)made;
}

static void drop(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release_buffers(&((table *)self)->held);
    Py_XDECREF(((table *)self)->array_type);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *row(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const table *from = (const table *)self;
    if (count_arguments("row", 2, nargs) < 0)
        return NULL;
    Py_ssize_t number = PyLong_AsSsize_t(args[0]);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    Py_ssize_t place = number < 0 ? number + (Py_ssize_t)from->codes.rows : number;
    if (place < 0 || place >= (Py_ssize_t)from->codes.rows)
        return PyErr_Format(PyExc_IndexError, "index %zd is out of bounds for axis 0 with size %zd", number,
                            (Py_ssize_t)from->codes.rows);
    held_buffers held;
    held.count = 0;
    vector out;
    element_type type;
    PyObject *result = NULL;
    if (vector_argument(&held, args[1], "out", &ANY_FLOAT, 1, (Py_ssize_t)from->codes.dim, &out, &type) == 0) {
        if (from->codes.dim > 1 && out.stride != (ptrdiff_t)element_size(type)) {
            PyErr_Format(PyExc_ValueError, "out must be contiguous, got a stride of %zd bytes", (Py_ssize_t)out.stride);
        } else {
            const uint8_t *codes = (const uint8_t *)row_of(&from->codes, (size_t)place);
            active_kernels->dequantize[output_of(type)](codes, from->codes.dim,
                                                        scale_of(&from->scales, (size_t)place), out.data);
            result = Py_None;
            Py_INCREF(result);
        }
    }
    release_buffers(&held);
    return result;
}

/* Row numbers of int64, or of int32 if `narrow`, counted from 0; 0 if one is out of range. A copy: no other thread,
 * and no `out` that shares memory with them, changes what has been checked. */
static int count_from_zero(const char *rows, int narrow, size_t count, size_t total, int64_t *places)
{
    const int64_t most = (int64_t)total;
    int64_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t row = narrow ? load_int32(rows + 4 * i) : load_int64(rows + 8 * i);
        wrong |= row < -most || row >= most;
        places[i] = row < 0 ? row + most : row;
    }
    return !wrong;
}

/* The rows asked for, and where they go; 0 where it is not as simple as that. `places` has room for MOST_FEW_ROWS. */
static int simple_request(const table *from, const Py_buffer *rows, const Py_buffer *out, int64_t *places,
                          vector *numbers, matrix *filled, output_type *type)
{
    const int narrow = has_type(rows, INT32);
    if (rows->ndim < 1 || out->ndim != rows->ndim + 1 || out->readonly || !(narrow || has_type(rows, INT64)))
        return 0;
    *type = has_type(out, FLOAT32) ? OUT_FLOAT32 : has_type(out, FLOAT64) ? OUT_FLOAT64 : OUT_FLOAT16;
    if (*type == OUT_FLOAT16 && !has_type(out, FLOAT16))
        return 0;
    for (int axis = 0; axis < rows->ndim; axis++)
        if (out->shape[axis] != rows->shape[axis])
            return 0;
    const size_t count = (size_t)(rows->len / rows->itemsize), dim = from->codes.dim;
    if (out->shape[rows->ndim] != (Py_ssize_t)dim || count > MOST_FEW_ROWS ||
        (dim > 0 && count > MOST_FEW_VALUES / dim) || !PyBuffer_IsContiguous(rows, 'C') ||
        !PyBuffer_IsContiguous(out, 'C'))
        return 0;
    *numbers = (vector){(char *)places, sizeof *places, count};
    *filled = (matrix){out->buf, (ptrdiff_t)(dim * (size_t)out->itemsize), count, dim};
    return count_from_zero(rows->buf, narrow, count, from->codes.rows, places);
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static PyObject *take(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const table *from = (const table *)self;
    if (count_arguments("take", 2, nargs) < 0)
        return NULL;
    int64_t spent = -1;
    held_buffers held;
    held.count = 0;
    for (int i = 0; i < 2 && (PyObject *)Py_TYPE(args[i]) == from->array_type; i++) {
        if (PyObject_GetBuffer(args[i], &held.buffers[i], PyBUF_STRIDES | PyBUF_FORMAT) < 0) {
            PyErr_Clear(); /* of a type that has no format, say: Python finds the words */
            break;
        }
        held.count++;
    }
    int64_t places[MOST_FEW_ROWS];
    vector rows;
    matrix out;
    output_type type;
    if (held.count == 2 && simple_request(from, &held.buffers[0], &held.buffers[1], places, &rows, &out, &type)) {
        PyThreadState *state = leave_python(rows.length, out.dim);
        int64_t begun = nanoseconds();
        gather_rows(from->codes, from->scales, rows, out, type);
        spent = nanoseconds() - begun;
        return_to_python(state);
    }
    release_buffers(&held);
    return PyLong_FromLongLong(spent);
}

static PyMethodDef METHODS[] = {
    {"row", (PyCFunction)(void (*)(void))row, METH_FASTCALL,
     "row(number, out, /)\n--\n\nAs qstore.engine.quantization.Table.row."},
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL,
     "take(rows, out, /)\n--\n\nAs qstore.engine.quantization.Table.take."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot SLOTS[] = {
    {Py_tp_doc, "Table(codes, scales, /)\n--\n\nAs qstore.engine.quantization.Table."},
    {Py_tp_new, (void *)make},
    {Py_tp_dealloc, (void *)drop},
    {Py_tp_methods, METHODS},
    {0, NULL},
};

PyType_Spec table_type = {"qstore._native.Table", sizeof(table), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                           SLOTS};
