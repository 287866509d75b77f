/* qstore._native.Table: codes and scales whose buffers are held, for reads so small that asking for these counts. */
#include "table.h"

typedef struct {
    PyObject_HEAD
    held_buffers held;
    matrix codes;
    vector scales;
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
    if (made != NULL && (matrix_argument(&made->held, codes, "codes", &CODES, 0, -1, -1, &made->codes, NULL) < 0 ||
                         vector_argument(&made->held, scales, "scales", &SCALES, 0, (Py_ssize_t)made->codes.rows,
                                         &made->scales, NULL) < 0)) {
        Py_DECREF(made);
        return NULL;
    }
    return (PyObject *)made;
}

static void drop(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release_buffers(&((table *)self)->held);
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
                                                        float64_of(&from->scales, (size_t)place), out.data);
            result = Py_None;
            Py_INCREF(result);
        }
    }
    release_buffers(&held);
    return result;
}

static PyMethodDef METHODS[] = {
    {"row", (PyCFunction)(void (*)(void))row, METH_FASTCALL,
     "row(number, out, /)\n--\n\nAs qstore.engine.quantization.Table.row."},
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
