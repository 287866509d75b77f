/* Scattered rows of a matrix that lies in several parts, such as the mapped files of a sharded store.
 *
 * Sorting rows by part and gathering part after part would cost more than the gathering. Here each row is
 * looked up once, and then read as from one matrix, in the order of the output. */
#include "parts.h"

/* As in gather.c. */
#define BYTES_AHEAD 4096
#define PREFETCHED_BYTES 4096

/* Where a row lies. */
typedef struct {
    const char *codes, *scale;
} place;

typedef struct {
    matrix codes;
    vector scales;
} part;

/* The parts of one call, and the number of the first row of each. */
typedef struct {
    part *parts;
    Py_buffer *buffers; /* held, two a part */
    int64_t total;      /* rows of the whole matrix, for negative numbers */
    vector firsts;
    size_t count, held;
} part_table;

static ALWAYS_INLINE int64_t first_of(const vector *firsts, size_t k)
{
    return load_int64(firsts->data + (ptrdiff_t)k * firsts->stride);
}

/* The last part that begins at or before `row`; firsts[0] does. Parts are mostly of one size, so where the row
 * would be then is tried first. */
static ALWAYS_INLINE size_t find_part(const vector *firsts, double parts_a_row, int64_t row)
{
    size_t low = 0, high = firsts->length;
    double guessed = (double)(row - first_of(firsts, 0)) * parts_a_row;
    size_t guess = guessed < (double)(high - 1) ? (size_t)guessed : high - 1;
    if (first_of(firsts, guess) <= row) {
        low = guess;
        if (guess + 1 == high || first_of(firsts, guess + 1) > row)
            return guess;
    } else {
        high = guess;
    }
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (first_of(firsts, middle) <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static double parts_a_row(const vector *firsts, int64_t total)
{
    int64_t spread = total - first_of(firsts, 0);
    return spread > 0 ? (double)firsts->length / (double)spread : 0.0;
}

static int firsts_argument(held_buffers *held, PyObject *object, vector *firsts, int64_t total)
{
    if (vector_argument(held, object, "firsts", &NUMBERS, 0, -1, firsts, NULL) < 0)
        return -1;
    int64_t previous = 0;
    for (size_t k = 0; k < firsts->length; k++) {
        int64_t first = first_of(firsts, k);
        if (first < previous || first > total) {
            PyErr_Format(PyExc_ValueError, "firsts must not fall, and lie within the rows: number %zd does not",
                         (Py_ssize_t)k);
            return -1;
        }
        previous = first;
    }
    return 0;
}

static int total_argument(PyObject *object, int64_t *total)
{
    Py_ssize_t found = PyLong_AsSsize_t(object);
    if (found == -1 && PyErr_Occurred())
        return -1;
    if (found < 0) {
        PyErr_SetString(PyExc_ValueError, "total must not be negative");
        return -1;
    }
    *total = found;
    return 0;
}

PyObject *touch_parts(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t total;
    if (count_arguments("touch_parts", 4, nargs) < 0 || total_argument(args[1], &total) < 0)
        return NULL;
    static const accepted_types BYTES = {"uint8", 1, {UINT8}};
    held_buffers held;
    held.count = 0;
    vector firsts, rows, touched;
    PyObject *result = NULL;
    if (firsts_argument(&held, args[0], &firsts, total) == 0 &&
        vector_argument(&held, args[2], "rows", &NUMBERS, 0, -1, &rows, NULL) == 0 &&
        vector_argument(&held, args[3], "touched", &BYTES, 1, (Py_ssize_t)firsts.length, &touched, NULL) == 0) {
        ptrdiff_t bad = find_bad_row(rows, (size_t)total);
        if (bad == ALL_GOOD && rows.length > 0 && (firsts.length == 0 || first_of(&firsts, 0) != 0)) {
            PyErr_SetString(PyExc_ValueError, "firsts must begin with 0");
        } else {
            double guess = bad == ALL_GOOD && rows.length > 0 ? parts_a_row(&firsts, total) : 0.0;
            for (size_t i = 0; bad == ALL_GOOD && i < rows.length; i++)
                touched.data[(ptrdiff_t)find_part(&firsts, guess, (int64_t)row_number(&rows, i, (size_t)total)) *
                             touched.stride] = 1;
            result = PyLong_FromSsize_t(bad);
        }
    }
    release_buffers(&held);
    return result;
}

static void release_parts(part_table *table)
{
    for (size_t k = 0; k < table->held; k++)
        PyBuffer_Release(&table->buffers[k]);
    PyMem_Free(table->buffers);
    PyMem_Free(table->parts);
}

/* The buffers of one part move from `one` to the table. */
static int part_argument(part_table *table, PyObject *codes, PyObject *scales, size_t k, size_t dim)
{
    held_buffers one;
    one.count = 0;
    part *found = &table->parts[k];
    if (codes == NULL || scales == NULL ||
        matrix_argument(&one, codes, "codes", &CODES, 0, -1, (Py_ssize_t)dim, &found->codes, NULL) < 0 ||
        scales_argument(&one, scales, (Py_ssize_t)found->codes.rows, &found->scales) < 0) {
        release_buffers(&one);
        return -1;
    }
    memcpy(table->buffers + table->held, one.buffers, (size_t)one.count * sizeof(Py_buffer));
    table->held += (size_t)one.count;
    return 0;
}

static int parts_arguments(held_buffers *held, part_table *table, PyObject *const *args, size_t dim)
{
    if (total_argument(args[1], &table->total) < 0 ||
        firsts_argument(held, args[0], &table->firsts, table->total) < 0)
        return -1;
    Py_ssize_t count = (Py_ssize_t)table->firsts.length;
    if (!PyTuple_Check(args[2]) || !PyTuple_Check(args[3]) || PyTuple_Size(args[2]) != count ||
        PyTuple_Size(args[3]) != count) {
        PyErr_Format(PyExc_ValueError, "codes and scales must be tuples of %zd arrays", count);
        return -1;
    }
    table->count = (size_t)count;
    table->parts = PyMem_Calloc((size_t)count + 1, sizeof *table->parts);
    table->buffers = PyMem_Calloc(3 * (size_t)count + 1, sizeof *table->buffers);
    if (table->parts == NULL || table->buffers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++)
        if (part_argument(table, PyTuple_GetItem(args[2], k), PyTuple_GetItem(args[3], k), (size_t)k, dim) < 0)
            return -1;
    return 0;
}

/* Look up all rows: the place of the first one that is in none of the parts, or ALL_GOOD. */
static ptrdiff_t find_places(const part_table *table, vector rows, place *places)
{
    if (rows.length == 0)
        return ALL_GOOD;
    if (table->count == 0)
        return 0;
    const double guess = parts_a_row(&table->firsts, table->total);
    const int64_t lowest = first_of(&table->firsts, 0);
    for (size_t i = 0; i < rows.length; i++) {
        int64_t row = load_int64(rows.data + (ptrdiff_t)i * rows.stride);
        row = row < 0 ? row + table->total : row;
        if (row < lowest || row >= table->total)
            return (ptrdiff_t)i;
        size_t k = find_part(&table->firsts, guess, row);
        const part *found = &table->parts[k];
        size_t local = (size_t)(row - first_of(&table->firsts, k));
        if (local >= found->codes.rows)
            return (ptrdiff_t)i;
        places[i].codes = row_of(&found->codes, local);
        places[i].scale = scale_place(&found->scales, local);
    }
    return ALL_GOOD;
}

static ALWAYS_INLINE void prefetch_place(const place *at, size_t bytes)
{
    __builtin_prefetch(at->scale, 0, INTO_L2);
    for (size_t j = 0; j < bytes; j += 64)
        __builtin_prefetch(at->codes + j, 0, INTO_L2);
    __builtin_prefetch(at->codes + bytes - 1, 0, INTO_L2);
}

/* Row after row from its place; with `copied`, codes and scales as they are. */
static void gather_places(const place *places, size_t count, matrix out, output_type type, const vector *copied)
{
    const size_t dim = out.dim;
    if (dim == 0)
        return;
    const int streamed = copied == NULL && is_streamed(&out, type);
    dequantize_row *dequantize = (streamed ? active_kernels->stream : active_kernels->dequantize)[type];
    const size_t bytes = dim < PREFETCHED_BYTES ? dim : PREFETCHED_BYTES;
    const size_t ahead = BYTES_AHEAD / dim < 2 ? 2 : BYTES_AHEAD / dim > 64 ? 64 : BYTES_AHEAD / dim;
    for (size_t i = 1; i < count && i < ahead; i++)
        prefetch_place(&places[i], bytes);
    for (size_t i = 0; i < count; i++) {
        if (i + ahead < count)
            prefetch_place(&places[i + ahead], bytes);
        if (copied == NULL) {
            dequantize((const uint8_t *)places[i].codes, dim, load_float64(places[i].scale), row_of(&out, i));
        } else {
            memcpy(row_of(&out, i), places[i].codes, dim);
            memcpy(copied->data + (ptrdiff_t)i * copied->stride, places[i].scale, sizeof(double));
        }
    }
    if (streamed)
        end_streaming();
}

static PyObject *run(const part_table *table, vector rows, matrix out, output_type type, const vector *copied)
{
    const size_t most = (size_t)PY_SSIZE_T_MAX / sizeof(place) - 1;
    place *places = rows.length > most ? NULL : PyMem_Malloc(rows.length * sizeof *places + 1);
    if (places == NULL)
        return PyErr_NoMemory();
    PyThreadState *state = PyEval_SaveThread();
    ptrdiff_t bad = find_places(table, rows, places);
    if (bad == ALL_GOOD)
        gather_places(places, rows.length, out, type, copied);
    PyEval_RestoreThread(state);
    PyMem_Free(places);
    return PyLong_FromSsize_t(bad);
}

PyObject *gather_parts(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("gather_parts", 6, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    part_table table = {0};
    vector rows;
    matrix out;
    element_type type;
    PyObject *result = NULL;
    if (vector_argument(&held, args[4], "rows", &NUMBERS, 0, -1, &rows, NULL) == 0 &&
        matrix_argument(&held, args[5], "out", &ANY_FLOAT, 1, (Py_ssize_t)rows.length, -1, &out, &type) == 0 &&
        parts_arguments(&held, &table, args, out.dim) == 0)
        result = run(&table, rows, out, output_of(type), NULL);
    release_parts(&table);
    release_buffers(&held);
    return result;
}

PyObject *copy_parts(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("copy_parts", 7, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    part_table table = {0};
    vector rows, scales;
    matrix out;
    PyObject *result = NULL;
    if (vector_argument(&held, args[4], "rows", &NUMBERS, 0, -1, &rows, NULL) == 0 &&
        matrix_argument(&held, args[5], "out", &CODES, 1, (Py_ssize_t)rows.length, -1, &out, NULL) == 0 &&
        vector_argument(&held, args[6], "out_scales", &SCALES, 1, (Py_ssize_t)rows.length, &scales, NULL) == 0 &&
        parts_arguments(&held, &table, args, out.dim) == 0)
        result = run(&table, rows, out, OUT_FLOAT32, &scales);
    release_parts(&table);
    release_buffers(&held);
    return result;
}
