/* Python arguments to checked views: nothing behind this file can be reached with a wrong shape, type or stride. */
#include "arguments.h"

/* What the buffer protocol may call each element type. bfloat16 and float8 come as the unsigned integers that
 * hold them. "l" and "q" are both 64 bits wide or told apart by their size. */
static const struct {
    const char *name, *formats;
} ELEMENTS[ELEMENT_TYPES] = {
    [FLOAT32] = {"float32", "f"},
    [FLOAT16] = {"float16", "e"},
    [BFLOAT16] = {"bfloat16", "H"},
    [FLOAT8_E4M3FN] = {"float8_e4m3fn", "B"},
    [FLOAT8_E5M2] = {"float8_e5m2", "B"},
    [INT8] = {"int8", "b"},
    [UINT8] = {"uint8", "B"},
    [INT16] = {"int16", "h"},
    [UINT16] = {"uint16", "H"},
    [FLOAT64] = {"float64", "d"},
    [INT32] = {"int32", "il"},
    [UINT32] = {"uint32", "IL"},
    [INT64] = {"int64", "lq"},
    [UINT64] = {"uint64", "LQ"},
};

const accepted_types ANY_FLOAT = {"float32, float64 or float16", 3, {FLOAT32, FLOAT64, FLOAT16}};
const accepted_types WIDE_FLOAT = {"float32 or float64", 2, {FLOAT32, FLOAT64}};
const accepted_types SINGLES = {"float32", 1, {FLOAT32}};
const accepted_types CODES = {"uint8", 1, {UINT8}};
const accepted_types SCALES = {"float64", 1, {FLOAT64}};
const accepted_types PLACES = {"uint16", 1, {UINT16}};
const accepted_types NUMBERS = {"int64", 1, {INT64}};
const accepted_types HASHES = {"uint64", 1, {UINT64}};
const accepted_types QUANTIZED = {"int16", 1, {INT16}};

void release_buffers(held_buffers *held)
{
    for (int i = 0; i < held->count; i++)
        PyBuffer_Release(&held->buffers[i]);
}

int count_arguments(const char *function, Py_ssize_t expected, Py_ssize_t found)
{
    if (expected == found)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", function, expected, found);
    return -1;
}

static const char *format_of(const Py_buffer *view)
{
    const char *format = view->format == NULL ? "B" : view->format;
    /* '=' and '@' say native; '<' does on a little-endian machine. */
    const int little = *(const uint8_t *)&(const uint16_t){1};
    if (*format == '=' || *format == '@' || (*format == '<' && little))
        format++;
    return format;
}

int has_type(const Py_buffer *view, element_type type)
{
    const char *format = format_of(view);
    return format[0] != '\0' && format[1] == '\0' && strchr(ELEMENTS[type].formats, format[0]) != NULL &&
           view->itemsize == (Py_ssize_t)element_size(type);
}

/* A view of an array of an accepted type and this rank, held from now on; NULL with an error set. */
static Py_buffer *array_argument(held_buffers *held, PyObject *object, const char *name,
                                 const accepted_types *accepted, int writable, int ndim, element_type *found)
{
    if (held->count == MAX_BUFFERS) {
        PyErr_SetString(PyExc_SystemError, "too many buffers");
        return NULL;
    }
    Py_buffer *view = &held->buffers[held->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT) < 0)
        return NULL;
    held->count++;
    int type = 0;
    while (type < accepted->count && !has_type(view, accepted->types[type]))
        type++;
    if (type == accepted->count) {
        PyErr_Format(PyExc_TypeError, "%s must be an array of %s, got buffer format '%s'", name, accepted->names,
                     view->format == NULL ? "B" : view->format);
        return NULL;
    }
    if (view->ndim != ndim) {
        PyErr_Format(PyExc_ValueError, "%s must have %d dimensions, got %d", name, ndim, view->ndim);
        return NULL;
    }
    if (writable && view->readonly) {
        PyErr_Format(PyExc_ValueError, "%s must be writable, got a read-only array", name);
        return NULL;
    }
    if (found != NULL)
        *found = accepted->types[type];
    return view;
}

static int has_length(const char *name, const char *axis, Py_ssize_t expected, Py_ssize_t found)
{
    if (expected < 0 || expected == found)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s must have %zd %s, got %zd", name, expected, axis, found);
    return 0;
}

int matrix_argument(held_buffers *held, PyObject *object, const char *name, const accepted_types *accepted,
                    int writable, Py_ssize_t rows, Py_ssize_t dim, matrix *result, element_type *found)
{
    Py_buffer *view = array_argument(held, object, name, accepted, writable, 2, found);
    if (view == NULL || !has_length(name, "rows", rows, view->shape[0]) ||
        !has_length(name, "columns", dim, view->shape[1]))
        return -1;
    if (view->shape[1] > 1 && view->strides[1] != view->itemsize) {
        PyErr_Format(PyExc_ValueError, "%s must have contiguous rows, got a stride of %zd bytes", name,
                     view->strides[1]);
        return -1;
    }
    *result = (matrix){view->buf, view->strides[0], (size_t)view->shape[0], (size_t)view->shape[1]};
    return 0;
}

int vector_argument(held_buffers *held, PyObject *object, const char *name, const accepted_types *accepted,
                    int writable, Py_ssize_t length, vector *result, element_type *found)
{
    Py_buffer *view = array_argument(held, object, name, accepted, writable, 1, found);
    if (view == NULL || !has_length(name, "items", length, view->shape[0]))
        return -1;
    *result = (vector){view->buf, view->strides[0], (size_t)view->shape[0], NULL};
    return 0;
}

int scales_argument(held_buffers *held, PyObject *object, Py_ssize_t length, vector *result)
{
    if (!PyTuple_Check(object) || PyTuple_Size(object) != 2)
        return vector_argument(held, object, "scales", &SCALES, 0, length, result, NULL);
    vector values;
    if (vector_argument(held, PyTuple_GetItem(object, 0), "places of scales", &PLACES, 0, length, result, NULL) < 0 ||
        vector_argument(held, PyTuple_GetItem(object, 1), "values of scales", &SCALES, 0, PACKED_VALUES, &values,
                        NULL) < 0)
        return -1;
    if (values.stride != 8) {
        PyErr_SetString(PyExc_ValueError, "values of scales must be contiguous");
        return -1;
    }
    result->values = values.data;
    return 0;
}

char *dense_argument(held_buffers *held, PyObject *object, const char *name, const accepted_types *accepted,
                     int writable, Py_ssize_t rows, Py_ssize_t *columns)
{
    matrix found;
    const Py_ssize_t size = (Py_ssize_t)element_size(accepted->types[0]);
    if (matrix_argument(held, object, name, accepted, writable, rows, *columns, &found, NULL) < 0)
        return NULL;
    *columns = (Py_ssize_t)found.dim;
    if ((found.rows > 1 && found.stride != *columns * size) || (uintptr_t)found.data % (size_t)size != 0) {
        PyErr_Format(PyExc_ValueError, "%s must be C-contiguous and aligned", name);
        return NULL;
    }
    return found.data;
}

int element_type_argument(PyObject *object, accepted_types *result)
{
    const char *name = PyUnicode_AsUTF8AndSize(object, NULL);
    if (name == NULL)
        return -1;
    for (int i = 0; i < ELEMENT_TYPES; i++) {
        if (strcmp(name, ELEMENTS[i].name) == 0) {
            *result = (accepted_types){ELEMENTS[i].name, 1, {(element_type)i}};
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "unknown element type '%s'", name);
    return -1;
}
