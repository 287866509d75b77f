/* The extension module qstore._native: bindings. */
#include "arguments.h" /* Python.h, before all of the system */
#include "crc32.h"
#include "file_rows.h"
#include "gguf.h"
#include "keys_module.h"
#include "parts.h"
#include "room.h"
#include "runs.h"
#include "table.h"
#include "text.h"

static int table_arguments(held_buffers *held, PyObject *const *args, matrix *codes, vector *scales)
{
    if (matrix_argument(held, args[0], "codes", &CODES, 0, -1, -1, codes, NULL) < 0)
        return -1;
    return vector_argument(held, args[1], "scales", &SCALES, 0, (Py_ssize_t)codes->rows, scales, NULL);
}

/* The same for scattered rows, whose scales may be packed. */
static int row_arguments(held_buffers *held, PyObject *const *args, matrix *codes, vector *scales)
{
    if (matrix_argument(held, args[0], "codes", &CODES, 0, -1, -1, codes, NULL) < 0)
        return -1;
    return scales_argument(held, args[1], (Py_ssize_t)codes->rows, scales);
}

static PyObject *quantize(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    accepted_types accepted;
    if (count_arguments("quantize", 5, nargs) < 0 || element_type_argument(args[1], &accepted) < 0)
        return NULL;
    int zero_nonfinite = PyObject_IsTrue(args[4]);
    if (zero_nonfinite < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    matrix values, codes;
    vector scales;
    PyObject *result = NULL;
    if (matrix_argument(&held, args[0], "values", &accepted, 0, -1, -1, &values, NULL) == 0 &&
        matrix_argument(&held, args[2], "codes", &CODES, 1, (Py_ssize_t)values.rows, (Py_ssize_t)values.dim, &codes,
                        NULL) == 0 &&
        vector_argument(&held, args[3], "scales", &SCALES, 1, (Py_ssize_t)values.rows, &scales, NULL) == 0) {
        PyThreadState *state = leave_python(values.rows, values.dim);
        ptrdiff_t bad = quantize_rows(values, accepted.types[0], codes, scales, zero_nonfinite);
        return_to_python(state);
        result = bad == OUT_OF_MEMORY ? PyErr_NoMemory() : PyLong_FromSsize_t(bad);
    }
    release_buffers(&held);
    return result;
}

static PyObject *dequantize(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("dequantize", 3, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    matrix codes, out;
    vector scales;
    element_type type;
    PyObject *result = NULL;
    if (table_arguments(&held, args, &codes, &scales) == 0 &&
        matrix_argument(&held, args[2], "out", &ANY_FLOAT, 1, (Py_ssize_t)codes.rows, (Py_ssize_t)codes.dim, &out,
                        &type) == 0) {
        PyThreadState *state = leave_python(codes.rows, codes.dim);
        dequantize_rows(codes, scales, out, output_of(type));
        return_to_python(state);
        result = Py_None;
        Py_INCREF(result);
    }
    release_buffers(&held);
    return result;
}

static int factors_argument(held_buffers *held, PyObject *object, matrix codes, size_t width, matrix *factors)
{
    if (matrix_argument(held, object, "factors", &SINGLES, 0, -1, -1, factors, NULL) < 0)
        return -1;
    if ((factors->rows == 1 || factors->rows == codes.rows) && factors->dim == (codes.dim + width - 1) / width)
        return 0;
    PyErr_Format(PyExc_ValueError, "factors are %zu rows of %zu, expected 1 or %zu rows of one for %zu columns",
                 factors->rows, factors->dim, codes.rows, width);
    return -1;
}

static PyObject *look_up(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("look_up", 5, nargs) < 0)
        return NULL;
    Py_ssize_t width = PyLong_AsSsize_t(args[3]);
    if (width < 1) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_SetString(PyExc_ValueError, "width must be a number of columns, and at least 1");
        return NULL;
    }
    held_buffers held;
    held.count = 0;
    matrix codes, factors, out;
    vector table;
    PyObject *result = NULL;
    if (matrix_argument(&held, args[0], "codes", &CODES, 0, -1, -1, &codes, NULL) == 0 &&
        vector_argument(&held, args[1], "table", &SINGLES, 0, 256, &table, NULL) == 0 &&
        factors_argument(&held, args[2], codes, (size_t)width, &factors) == 0 &&
        matrix_argument(&held, args[4], "out", &SINGLES, 1, (Py_ssize_t)codes.rows, (Py_ssize_t)codes.dim, &out,
                        NULL) == 0) {
        PyThreadState *state = leave_python(codes.rows, codes.dim);
        look_up_codes(codes, table, factors, (size_t)width, out);
        return_to_python(state);
        result = Py_None;
        Py_INCREF(result);
    }
    release_buffers(&held);
    return result;
}

static PyObject *gather(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("gather", 4, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    matrix codes, out;
    vector scales, rows;
    element_type type;
    PyObject *result = NULL;
    if (row_arguments(&held, args, &codes, &scales) == 0 &&
        vector_argument(&held, args[2], "rows", &NUMBERS, 0, -1, &rows, NULL) == 0 &&
        matrix_argument(&held, args[3], "out", &ANY_FLOAT, 1, (Py_ssize_t)rows.length, (Py_ssize_t)codes.dim, &out,
                        &type) == 0) {
        PyThreadState *state = leave_python(rows.length, codes.dim);
        ptrdiff_t bad = find_bad_row(rows, codes.rows);
        if (bad == ALL_GOOD)
            gather_rows(codes, scales, rows, out, output_of(type));
        return_to_python(state);
        result = PyLong_FromSsize_t(bad);
    }
    release_buffers(&held);
    return result;
}

static PyObject *pack_scales_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("pack_scales", 4, nargs) < 0)
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(args[2]);
    if (count < 0 || count > PACKED_VALUES) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "count must be from 0 to %d", PACKED_VALUES);
        return NULL;
    }
    held_buffers held;
    held.count = 0;
    vector scales, values, places;
    PyObject *result = NULL;
    if (vector_argument(&held, args[0], "scales", &SCALES, 0, -1, &scales, NULL) == 0 &&
        vector_argument(&held, args[1], "values", &SCALES, 1, PACKED_VALUES, &values, NULL) == 0 &&
        vector_argument(&held, args[3], "places", &PLACES, 1, (Py_ssize_t)scales.length, &places, NULL) == 0) {
        if (values.stride != 8 || (places.stride != 2 && places.length > 1)) {
            PyErr_SetString(PyExc_ValueError, "values and places must be contiguous");
        } else {
            PyThreadState *state = leave_python(scales.length, 1);
            ptrdiff_t found = pack_scales(scales, (double *)values.data, (size_t)count, (uint16_t *)places.data);
            return_to_python(state);
            result = found == OUT_OF_MEMORY ? PyErr_NoMemory() : PyLong_FromSsize_t(found);
        }
    }
    release_buffers(&held);
    return result;
}

static int mode_argument(PyObject *object, int *mean)
{
    const char *mode = PyUnicode_AsUTF8AndSize(object, NULL);
    if (mode == NULL)
        return -1;
    *mean = strcmp(mode, "mean") == 0;
    if (*mean || strcmp(mode, "sum") == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "mode must be 'sum' or 'mean', got '%s'", mode);
    return -1;
}

static int weights_argument(held_buffers *held, PyObject *object, Py_ssize_t length, pool_job *job)
{
    element_type type;
    if (object == Py_None)
        return 0;
    if (vector_argument(held, object, "weights", &WIDE_FLOAT, 0, length, &job->weights, &type) < 0)
        return -1;
    job->weights_are_float64 = type == FLOAT64;
    return 0;
}

/* -1, or the place of the first row out of range; -2 with an error set. */
static ptrdiff_t checked_pool(const pool_job *job, vector offsets, matrix out)
{
    PyThreadState *state = leave_python(job->rows.length, job->codes.dim);
    ptrdiff_t bad_offset = find_bad_offset(offsets, job->rows.length);
    ptrdiff_t bad_row = find_bad_row(job->rows, job->codes.rows);
    if (bad_offset == ALL_GOOD && bad_row == ALL_GOOD)
        pool_rows(job, offsets, out);
    return_to_python(state);
    if (bad_offset == ALL_GOOD)
        return bad_row;
    PyErr_Format(PyExc_ValueError,
                 "offsets must start with 0, never fall, and not pass the %zd rows: offset number %zd does not",
                 (Py_ssize_t)job->rows.length, (Py_ssize_t)bad_offset);
    return -2;
}

static PyObject *pool(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    pool_job job = {0};
    if (count_arguments("pool", 7, nargs) < 0 || mode_argument(args[5], &job.mean) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    matrix out;
    vector offsets;
    element_type type;
    PyObject *result = NULL;
    if (row_arguments(&held, args, &job.codes, &job.scales) == 0 &&
        vector_argument(&held, args[2], "rows", &NUMBERS, 0, -1, &job.rows, NULL) == 0 &&
        vector_argument(&held, args[3], "offsets", &NUMBERS, 0, -1, &offsets, NULL) == 0 &&
        weights_argument(&held, args[4], (Py_ssize_t)job.rows.length, &job) == 0 &&
        matrix_argument(&held, args[6], "out", &WIDE_FLOAT, 1, (Py_ssize_t)offsets.length,
                        (Py_ssize_t)job.codes.dim, &out, &type) == 0) {
        job.type = output_of(type);
        ptrdiff_t bad = checked_pool(&job, offsets, out);
        result = bad == -2 ? NULL : PyLong_FromSsize_t(bad);
    }
    release_buffers(&held);
    return result;
}

static PyObject *crc32(PyObject *module, PyObject *data)
{
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyThreadState *state = leave_python((size_t)view.len, 1);
    uint32_t crc = crc32_of(view.buf, (size_t)view.len);
    return_to_python(state);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

static PyObject *crc32_is_fast(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return PyBool_FromLong(has_fast_crc32());
}

static PyObject *survey(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    survey_job job;
    if (count_arguments("survey", 6, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    PyObject *result = NULL;
    if (table_arguments(&held, args, &job.codes, &job.scales) == 0 &&
        matrix_argument(&held, args[2], "rows", &NUMBERS, 1, 2, (Py_ssize_t)job.codes.rows, &job.rows, NULL) == 0 &&
        matrix_argument(&held, args[3], "columns", &SCALES, 1, 2, (Py_ssize_t)job.codes.dim, &job.columns, NULL) ==
            0 &&
        vector_argument(&held, args[4], "peaks", &NUMBERS, 1, (Py_ssize_t)job.codes.dim, &job.peaks, NULL) == 0 &&
        vector_argument(&held, args[5], "histogram", &NUMBERS, 1, 256, &job.histogram, NULL) == 0) {
        PyThreadState *state = leave_python(job.codes.rows, job.codes.dim);
        survey_rows(&job);
        return_to_python(state);
        result = Py_None;
        Py_INCREF(result);
    }
    release_buffers(&held);
    return result;
}

static PyObject *row_errors(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    accepted_types accepted;
    if (count_arguments("row_errors", 5, nargs) < 0 || element_type_argument(args[1], &accepted) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    matrix values, codes, figures;
    vector scales;
    PyObject *result = NULL;
    if (matrix_argument(&held, args[0], "values", &accepted, 0, -1, -1, &values, NULL) == 0 &&
        matrix_argument(&held, args[2], "codes", &CODES, 0, (Py_ssize_t)values.rows, (Py_ssize_t)values.dim, &codes,
                        NULL) == 0 &&
        vector_argument(&held, args[3], "scales", &SCALES, 0, (Py_ssize_t)values.rows, &scales, NULL) == 0 &&
        matrix_argument(&held, args[4], "figures", &SCALES, 1, (Py_ssize_t)values.rows, ROW_FIGURES, &figures, NULL) ==
            0) {
        PyThreadState *state = leave_python(values.rows, values.dim);
        ptrdiff_t bad = measure_rows(values, accepted.types[0], codes, scales, figures);
        return_to_python(state);
        result = bad == OUT_OF_MEMORY ? PyErr_NoMemory() : Py_None;
        if (result != NULL)
            Py_INCREF(result);
    }
    release_buffers(&held);
    return result;
}

static PyObject *level(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return PyUnicode_FromString(active_kernels->name);
}

static PyObject *set_level(PyObject *module, PyObject *name)
{
    (void)module;
    const char *wanted = PyUnicode_AsUTF8AndSize(name, NULL);
    if (wanted == NULL)
        return NULL;
    const kernels *found = find_level(wanted);
    if (found == NULL)
        return PyErr_Format(PyExc_ValueError, "this machine has no level '%s'", wanted);
    active_kernels = found;
    Py_RETURN_NONE;
}

#define CALL(name, function, text) {#name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, text}
#define FAST(name, text) CALL(name, name, text)

static PyMethodDef METHODS[] = {
    FAST(quantize, "quantize(values, element_type, codes, scales, zero_nonfinite, /)\n--\n\n"
                   "As qstore.engine.quantization.quantize; the element type is named, and bfloat16 and float8 values "
                   "come as the unsigned integers that hold them."),
    FAST(dequantize, "dequantize(codes, scales, out, /)\n--\n\nAs qstore.engine.quantization.dequantize."),
    FAST(look_up, "look_up(codes, table, factors, width, out, /)\n--\n\nAs qstore.engine.code_tables.look_up."),
    FAST(gather, "gather(codes, scales, rows, out, /)\n--\n\nAs qstore.engine.quantization.gather."),
    CALL(pack_scales, pack_scales_call, "pack_scales(scales, values, count, places, /)\n--\n\n"
                                        "As qstore.engine.packed_scales.add_scales."),
    FAST(read_rows, "read_rows(fd, rows, total, pieces, mapped, windows, left, /)\n--\n\n"
                    "As qstore.engine.file_rows.read_rows."),
    FAST(pool, "pool(codes, scales, rows, offsets, weights, mode, out, /)\n--\n\nAs qstore.engine.quantization.pool."),
    FAST(touch_parts, "touch_parts(firsts, total, rows, touched, /)\n--\n\nAs qstore.engine.part_kernels.touch_parts."),
    FAST(gather_parts, "gather_parts(firsts, total, codes, scales, rows, out, /)\n--\n\n"
                       "As qstore.engine.part_kernels.gather_parts; codes and scales are tuples."),
    FAST(copy_parts, "copy_parts(firsts, total, codes, scales, rows, out, out_scales, /)\n--\n\n"
                     "As qstore.engine.part_kernels.copy_parts; codes and scales are tuples."),
    FAST(survey, "survey(codes, scales, rows, columns, peaks, histogram, /)\n--\n\nAs qstore.engine.stats_survey.survey."),
    FAST(row_errors, "row_errors(values, element_type, codes, scales, figures, /)\n--\n\n"
                     "As qstore.engine.row_errors.row_errors, into figures; values as for quantize."),
    CALL(unpack_blocks, unpack_blocks_call, "unpack_blocks(block_type, blocks, out, /)\n--\n\n"
                                            "As qstore.engine.ggml_blocks.unpack_blocks."),
    CALL(hash_texts, hash_texts_call, "hash_texts(bytes, offsets, out, /)\n--\n\nAs qstore.engine.key_search.hash_texts."),
    CALL(find_texts, find_texts_call, "find_texts(hashes, rows, offsets, bytes, keys, out, /)\n--\n\n"
                                      "As qstore.engine.key_search.find_texts."),
    CALL(find_ids, find_ids_call, "find_ids(sorted, rows, keys, out, /)\n--\n\nAs qstore.engine.key_search.find_ids."),
    CALL(parse_rows, parse_rows_call, "parse_rows(text, tabs, values, /)\n--\n\n"
                                      "The words of as many lines as there are rows of values, which are filled; None "
                                      "where they are not all words and numbers as qstore.sources.words.text reads them, "
                                      "or a number is too long to tell."),
    CALL(count_lines, count_lines_call, "count_lines(text, /)\n--\n\n"
                                        "As qstore.sources.words.text.count_lines, -1 for None."),
    CALL(levels_are, levels_are_call, "levels_are(data, width, count, level, row, place, /)\n--\n\n"
                                      "Whether Parquet's levels are 0 where rows of so many values begin (row 0: nowhere), "
                                      "and else that level; place is that of the first value in its row."),
    CALL(look_up_runs, look_up_runs_call, "look_up_runs(data, width, table, out, /)\n--\n\n"
                                          "Fill out with the values of a dictionary of Parquet; False: data is cut off, or "
                                          "leads out of the table."),
    {"crc32", crc32, METH_O, "crc32(data, /)\n--\n\nAs zlib.crc32."},
    {"crc32_is_fast", crc32_is_fast, METH_NOARGS, "crc32_is_fast()\n--\n\nWhether this machine has what makes it so."},
    {"scan", (PyCFunction)(void (*)(void))scan_function, METH_FASTCALL,
     "scan(codes, scales, queries, bounds, metric, first_number, heaps, rows, uppers, found, /)\n--\n\n"
     "As qstore.engine.search_scan.scan; the metric is a number."},
    {"level", level, METH_NOARGS, "level()\n--\n\nName of the instructions in use: avx512, avx2 or baseline."},
    {"set_level", set_level, METH_O, "set_level(name, /)\n--\n\nUse these instructions; ValueError without them. "
                                     "For tests: not while another thread computes."},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static int start(PyObject *module)
{
    make_float8_tables();
    make_block_tables();
    choose_best_level();
    PyType_Spec *const types[] = {&table_type, &room_type, &text_finder_type};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (add_type(module, types[i]) < 0)
            return -1;
    return 0;
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)start}, {0, NULL}};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "qstore._native", "The kernels in C; the specification is qstore.quantization.", 0,
    METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&MODULE);
}
