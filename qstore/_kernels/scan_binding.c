/* The binding of scan(): checks what it is given. */
#include "arguments.h"

/* Room for all that is found, and what has been found so far. */
static int found_arguments(held_buffers *held, PyObject *const *args, scan_job *job)
{
    const Py_ssize_t count = (Py_ssize_t)job->score.count;
    Py_ssize_t best = -1, room = -1, one = 1;
    job->heaps = (double *)dense_argument(held, args[6], "heaps", &SCALES, 1, count, &best);
    if (job->heaps == NULL)
        return -1;
    job->found_rows = (int64_t *)dense_argument(held, args[7], "rows", &NUMBERS, 1, count, &room);
    if (job->found_rows == NULL)
        return -1;
    job->found_upper = (double *)dense_argument(held, args[8], "uppers", &SCALES, 1, count, &room);
    if (job->found_upper == NULL)
        return -1;
    job->found = (int64_t *)dense_argument(held, args[9], "found", &NUMBERS, 1, count, &one);
    if (job->found == NULL)
        return -1;
    job->best = (size_t)best;
    job->room = (size_t)room;
    int good = best > 0;
    for (Py_ssize_t q = 0; q < count; q++)
        good &= job->found[q] >= 0 && job->found[q] <= room - TILE_ROWS;
    if (!good)
        PyErr_Format(PyExc_ValueError, "heaps must have columns, and rows must have room for %d more", TILE_ROWS);
    return good ? 0 : -1;
}

static int query_arguments(held_buffers *held, PyObject *const *args, scan_job *job, matrix *queries)
{
    Py_ssize_t count = -1;
    const Py_ssize_t width = (Py_ssize_t)(job->score.codes.dim + 63) / 64 * 64;
    if (matrix_argument(held, args[2], "queries", &QUANTIZED, 0, -1, width, queries, NULL) < 0)
        return -1;
    count = (Py_ssize_t)queries->rows;
    const double *bounds = (const double *)dense_argument(held, args[3], "bounds", &SCALES, 0, 4, &count);
    if (bounds == NULL)
        return -1;
    job->bounds.factors = bounds;
    job->bounds.errors = bounds + count;
    job->bounds.slacks = bounds + 2 * count;
    job->bounds.most = bounds + 3 * count;
    job->score.count = (size_t)count;
    job->score.width = (size_t)width;
    return 0;
}

static int number_arguments(PyObject *const *args, scan_job *job)
{
    const long number = PyLong_AsLong(args[4]);
    job->first_number = PyLong_AsLongLong(args[5]);
    if (PyErr_Occurred())
        return -1;
    job->metric = (metric)number;
    if (number >= 0 && number < METRICS)
        return 0;
    PyErr_Format(PyExc_ValueError, "there is no metric number %ld", number);
    return -1;
}

static PyObject *scanned(scan_job *job, matrix queries)
{
    ptrdiff_t bad, done = 0;
    Py_BEGIN_ALLOW_THREADS
    bad = find_bad_scale(job->scales);
    if (bad == ALL_GOOD)
        done = scan_rows(job, queries);
    Py_END_ALLOW_THREADS
    if (done == OUT_OF_MEMORY)
        return PyErr_NoMemory();
    return PyLong_FromSsize_t(bad == ALL_GOOD ? done : -1 - bad);
}

PyObject *scan_function(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    held_buffers held;
    held.count = 0;
    scan_job job = {0};
    matrix queries;
    PyObject *result = NULL;
    if (count_arguments("scan", 10, nargs) < 0 || number_arguments(args, &job) < 0)
        return NULL;
    matrix *codes = &job.score.codes;
    if (matrix_argument(&held, args[0], "codes", &CODES, 0, -1, -1, codes, NULL) == 0 &&
        vector_argument(&held, args[1], "scales", &SCALES, 0, (Py_ssize_t)codes->rows, &job.scales, NULL) == 0 &&
        query_arguments(&held, args, &job, &queries) == 0 && found_arguments(&held, args, &job) == 0)
        result = scanned(&job, queries);
    release_buffers(&held);
    return result;
}
