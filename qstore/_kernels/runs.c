/* What Parquet's pages are made of beside plain values: levels and places in a dictionary, as runs of one value or as
 * bits behind each other (https://parquet.apache.org/docs/file-format/data-pages/encodings/). Only what has no nulls,
 * and as many values in each row, is taken: qstore.sources.containers.parquet_pages leaves the rest to pyarrow. */
#include "runs.h"

enum { MOST_BITS = 32 };

typedef struct {
    const uint8_t *p, *end;
    unsigned width;
} run_reader;

/* Some values: all the same, where `bits` is NULL, or packed there, one after the other from the lowest bit on. */
typedef struct {
    size_t count;
    uint32_t value;
    const uint8_t *bits;
} run;

/* The next run, of at most `most` values; 0: there is none, or it is cut off. */
static int next_run(run_reader *from, size_t most, run *found)
{
    uint64_t header = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (from->p == from->end || shift > 35)
            return 0;
        header |= (uint64_t)(*from->p & 0x7f) << shift;
        if (!(*from->p++ & 0x80))
            break;
    }
    const size_t left = (size_t)(from->end - from->p), items = (size_t)(header >> 1);
    if (items == 0)
        return 0;
    const size_t bytes = header & 1 ? items * from->width : (from->width + 7) / 8;
    if (bytes > left)
        return 0;
    *found = (run){header & 1 ? items * 8 : items, 0, header & 1 ? from->p : NULL};
    for (size_t i = 0; !(header & 1) && i < bytes; i++)
        found->value |= (uint32_t)from->p[i] << 8 * i;
    if (found->count > most)
        found->count = most;
    from->p += bytes;
    return 1;
}

static ALWAYS_INLINE uint32_t packed_value(const run_reader *from, const uint8_t *bits, size_t i)
{
    const size_t place = i * from->width;
    const uint8_t *p = bits + place / 8;
    uint64_t window = 0;
    if (from->end - p >= 8)
        memcpy(&window, p, 8); /* little-endian: the caller has seen to that */
    else
        for (ptrdiff_t k = 0; k < from->end - p; k++)
            window |= (uint64_t)p[k] << 8 * k;
    return (uint32_t)(window >> place % 8 & (((uint64_t)1 << from->width) - 1));
}

/* Whether `count` levels are 0 where a row of `row` values begins (of 0: nowhere), and else `level`; the first one is
 * that of value number `place` of its row. */
static int levels_are(run_reader from, size_t count, uint32_t level, size_t row, size_t place)
{
    run found;
    while (count > 0) {
        if (!next_run(&from, count, &found))
            return 0;
        count -= found.count;
        if (found.bits == NULL && found.value == level && (row == 0 || (place > 0 && found.count <= row - place))) {
            place = row == 0 ? 0 : (place + found.count) % row;
            continue;
        }
        for (size_t i = 0; i < found.count; i++) {
            const uint32_t value = found.bits == NULL ? found.value : packed_value(&from, found.bits, i);
            if (value != (row > 0 && place == 0 ? 0 : level))
                return 0;
            place = row == 0 || place + 1 == row ? 0 : place + 1;
        }
    }
    return 1;
}

static ALWAYS_INLINE int look_up(run_reader from, vector table, vector out, size_t size)
{
    run found;
    for (size_t done = 0; done < out.length; done += found.count) {
        if (!next_run(&from, out.length - done, &found))
            return 0;
        char *to = out.data + done * size;
        for (size_t i = 0; i < found.count; i++) {
            const uint32_t number = found.bits == NULL ? found.value : packed_value(&from, found.bits, i);
            if (number >= table.length)
                return 0;
            memcpy(to + i * size, table.data + number * size, size);
        }
    }
    return 1;
}

static int runs_argument(held_buffers *held, PyObject *data, PyObject *width, run_reader *runs)
{
    vector bytes;
    const Py_ssize_t bits = PyLong_AsSsize_t(width);
    if ((bits < 0 || bits > MOST_BITS) && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "width must be 0 to %d bits, got %zd", MOST_BITS, bits);
    if (PyErr_Occurred() || vector_argument(held, data, "data", &CODES, 0, -1, &bytes, NULL) < 0)
        return -1;
    if (bytes.length > 1 && bytes.stride != 1) {
        PyErr_Format(PyExc_ValueError, "data must be contiguous, got a stride of %zd bytes", (Py_ssize_t)bytes.stride);
        return -1;
    }
    *runs = (run_reader){(const uint8_t *)bytes.data, (const uint8_t *)bytes.data + bytes.length, (unsigned)bits};
    return 0;
}

PyObject *levels_are_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("levels_are", 6, nargs) < 0)
        return NULL;
    size_t numbers[4]; /* count, level, row, place */
    for (int i = 0; i < 4; i++) {
        numbers[i] = PyLong_AsSize_t(args[2 + i]);
        if (PyErr_Occurred())
            return NULL;
    }
    if (numbers[2] > 0 && numbers[3] >= numbers[2])
        return PyErr_Format(PyExc_ValueError, "place must be in a row of %zu values, got %zu", numbers[2], numbers[3]);
    held_buffers held;
    held.count = 0;
    run_reader runs;
    PyObject *result = NULL;
    if (runs_argument(&held, args[0], args[1], &runs) == 0) {
        PyThreadState *state = PyEval_SaveThread();
        const int same = levels_are(runs, numbers[0], (uint32_t)numbers[1], numbers[2], numbers[3]);
        PyEval_RestoreThread(state);
        result = PyBool_FromLong(same);
    }
    release_buffers(&held);
    return result;
}

PyObject *look_up_runs_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("look_up_runs", 4, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    run_reader runs;
    vector table, out;
    element_type type, same;
    PyObject *result = NULL;
    if (runs_argument(&held, args[0], args[1], &runs) == 0 &&
        vector_argument(&held, args[2], "table", &ANY_FLOAT, 0, -1, &table, &type) == 0 &&
        vector_argument(&held, args[3], "out", &ANY_FLOAT, 1, -1, &out, &same) == 0) {
        const size_t size = element_size(type);
        if (same != type || (table.length > 1 && table.stride != (ptrdiff_t)size) ||
            (out.length > 1 && out.stride != (ptrdiff_t)size))
            PyErr_SetString(PyExc_ValueError, "table and out must be contiguous and of one type");
        else {
            PyThreadState *state = PyEval_SaveThread();
            const int known = size == 4 ? look_up(runs, table, out, 4) : look_up(runs, table, out, size);
            PyEval_RestoreThread(state);
            result = PyBool_FromLong(known);
        }
    }
    release_buffers(&held);
    return result;
}
