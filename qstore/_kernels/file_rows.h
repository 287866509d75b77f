/* Rows of a file, read without mapping them. */
#ifndef QSTORE_FILE_ROWS_H
#define QSTORE_FILE_ROWS_H

#include "arguments.h"

PyObject *read_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
