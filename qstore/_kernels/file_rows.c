/* Rows of a file, read without mapping them: those that are in memory first, then those that are not, all of which
 * have been asked for by then, so that a disk works on many at a time.
 *
 * Asking whether bytes are in memory and copying them is one call, preadv2(RWF_NOWAIT): 1.2 us a scattered row where
 * a fault that maps it takes 2 to 8 (Zen 4, virtual). Where system or file system have no such call, all rows are
 * asked for and read. posix_fadvise() reads the pages asked for and no others, each once. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "file_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

/* As many are under way at a time, at least where so many are missing. */
enum { IN_FLIGHT = 512, MOST_PIECES = 2 };

/* What a fault maps lies within one of these: a page table has no more, nor has a folio that is mapped as a whole. */
#define WINDOW_BITS 21

/* What there is of each row: `size` bytes at offset + row * stride. */
typedef struct {
    int64_t offset, stride;
    size_t size;
    matrix out; /* without data: only ask */
} piece;

typedef struct {
    int fd, knows; /* whether the system tells what is in memory */
    size_t count;
    piece pieces[MOST_PIECES];
    const char *mapped; /* the file, or NULL: nothing is read from a map */
    size_t mapped_size;
    vector windows, left; /* which may be mapped, and how many more */
} row_source;

static void ask(int fd, int64_t at, size_t size)
{
#ifdef POSIX_FADV_WILLNEED
    (void)posix_fadvise(fd, at, (off_t)size, POSIX_FADV_WILLNEED);
#else
    (void)fd, (void)at, (void)size;
#endif
}

/* Copy what is in memory: 0 unless it is. */
static int copy_now(row_source *from, int64_t at, char *to, size_t size)
{
#ifdef RWF_NOWAIT
    if (!from->knows)
        return 0;
    struct iovec one = {to, size};
    ssize_t got = preadv2(from->fd, &one, 1, at, RWF_NOWAIT);
    if (got < 0 && errno != EAGAIN && errno != EINTR)
        from->knows = 0;
    return got == (ssize_t)size;
#else
    from->knows = 0;
    (void)at, (void)to, (void)size;
    return 0;
#endif
}

/* 0, or the error. */
static int copy_then(int fd, int64_t at, char *to, size_t size)
{
    while (size > 0) {
        ssize_t got = pread(fd, to, size, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EIO; /* the file has been cut off */
        at += got, to += got, size -= (size_t)got;
    }
    return 0;
}

/* Whether these bytes may be read from the map. Threads share the windows: two that take the same one at the same
 * time count it twice. */
static int may_map(const row_source *from, int64_t at, size_t size)
{
    if (from->mapped == NULL || (size_t)at + size > from->mapped_size)
        return 0;
    for (size_t k = (size_t)at >> WINDOW_BITS; k <= ((size_t)at + size - 1) >> WINDOW_BITS; k++) {
        char *window = from->windows.data + k;
        if (__atomic_load_n(window, __ATOMIC_RELAXED))
            continue;
        int64_t *left = (int64_t *)from->left.data;
        if (__atomic_load_n(left, __ATOMIC_RELAXED) <= 0)
            return 0;
        if (__atomic_sub_fetch(left, 1, __ATOMIC_RELAXED) < 0) {
            __atomic_add_fetch(left, 1, __ATOMIC_RELAXED);
            return 0;
        }
        __atomic_store_n(window, 1, __ATOMIC_RELAXED);
    }
    return 1;
}

static int64_t place_of(const piece *one, vector rows, size_t i, size_t total)
{
    return one->offset + (int64_t)row_number(&rows, i, total) * one->stride;
}

/* Rows are in range. `missing` counts pieces that were not in memory; 0, or the error. */
static int read_all(row_source *from, vector rows, size_t total, size_t *missing)
{
    size_t later[IN_FLIGHT];
    size_t waiting = 0;
    for (size_t i = 0, begin = 0; i < rows.length; i++) {
        for (size_t k = 0; k < from->count; k++) {
            const piece *one = &from->pieces[k];
            const int64_t at = place_of(one, rows, i, total);
            if (one->out.data == NULL) {
                ask(from->fd, at, one->size);
                continue;
            }
            char *to = row_of(&one->out, i);
            if (may_map(from, at, one->size)) {
                memcpy(to, from->mapped + at, one->size);
            } else if (!copy_now(from, at, to, one->size)) {
                ask(from->fd, at, one->size);
                later[waiting++] = (i - begin) * from->count + k;
            }
        }
        if (waiting + from->count <= IN_FLIGHT && i + 1 < rows.length)
            continue;
        for (size_t j = waiting; j-- > 0;) { /* the last one first: when it is there most of the others are */
            const piece *one = &from->pieces[later[j] % from->count];
            const size_t row = begin + later[j] / from->count;
            int error = copy_then(from->fd, place_of(one, rows, row, total), row_of(&one->out, row), one->size);
            if (error)
                return error;
        }
        *missing += waiting;
        waiting = 0;
        begin = i + 1;
    }
    return 0;
}

/* A tuple: offset, stride, size, and an array of as many bytes a row, or None. */
static int piece_argument(held_buffers *held, PyObject *object, size_t rows, size_t total, piece *found)
{
    PyObject *out;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(object, "LLnO", &found->offset, &found->stride, &size, &out))
        return -1;
    const int64_t most = INT64_MAX / 4;
    if (found->offset < 0 || found->stride < 0 || size < 0 || found->offset > most || size > most ||
        (total > 0 && found->stride > most / (int64_t)total)) {
        PyErr_SetString(PyExc_ValueError, "offset, stride and size of a piece must lie within a file");
        return -1;
    }
    found->size = (size_t)size;
    found->out.data = NULL;
    return out == Py_None ? 0 : matrix_argument(held, out, "out", &CODES, 1, (Py_ssize_t)rows, size, &found->out, NULL);
}

static int map_arguments(held_buffers *held, PyObject *const *args, row_source *from)
{
    from->mapped = NULL;
    if (args[0] == Py_None)
        return 0;
    vector mapped;
    if (vector_argument(held, args[0], "mapped", &CODES, 0, -1, &mapped, NULL) < 0)
        return -1;
    const size_t windows = (mapped.length >> WINDOW_BITS) + 1;
    if (vector_argument(held, args[1], "windows", &CODES, 1, (Py_ssize_t)windows, &from->windows, NULL) < 0 ||
        vector_argument(held, args[2], "left", &NUMBERS, 1, 1, &from->left, NULL) < 0)
        return -1;
    if (from->windows.stride != 1 || mapped.stride != 1 || (uintptr_t)from->left.data % sizeof(int64_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "mapped, windows and left must be contiguous and aligned");
        return -1;
    }
    from->mapped = mapped.data;
    from->mapped_size = mapped.length;
    return 0;
}

PyObject *read_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("read_rows", 7, nargs) < 0)
        return NULL;
    row_source from;
    from.knows = 1;
    from.fd = (int)PyLong_AsLong(args[0]);
    Py_ssize_t total = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (total < 0 || !PyTuple_Check(args[3]) || PyTuple_Size(args[3]) < 1 || PyTuple_Size(args[3]) > MOST_PIECES) {
        PyErr_Format(PyExc_ValueError, "expected a number of rows and a tuple of 1 to %d pieces", MOST_PIECES);
        return NULL;
    }
    from.count = (size_t)PyTuple_Size(args[3]);
    held_buffers held;
    held.count = 0;
    vector rows;
    PyObject *result = NULL;
    int failed = vector_argument(&held, args[1], "rows", &NUMBERS, 0, -1, &rows, NULL) < 0 ||
                 map_arguments(&held, args + 4, &from) < 0;
    for (size_t k = 0; k < from.count && !failed; k++)
        failed = piece_argument(&held, PyTuple_GetItem(args[3], (Py_ssize_t)k), rows.length, (size_t)total,
                                &from.pieces[k]) < 0;
    if (!failed) {
        size_t missing = 0;
        int error = 0;
        PyThreadState *state = PyEval_SaveThread(); /* it may wait */
        ptrdiff_t bad = find_bad_row(rows, (size_t)total);
        if (bad == ALL_GOOD)
            error = read_all(&from, rows, (size_t)total, &missing);
        PyEval_RestoreThread(state);
        if (bad != ALL_GOOD) {
            PyErr_Format(PyExc_IndexError, "row number %zd is out of range", (Py_ssize_t)bad);
        } else if (error) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
        } else {
            result = PyLong_FromSsize_t(from.knows ? (Py_ssize_t)missing : -1);
        }
    }
    release_buffers(&held);
    return result;
}
