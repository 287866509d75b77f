/* Word vectors as text: bindings, for the table of methods in module.c. */
#ifndef QSTORE_TEXT_H
#define QSTORE_TEXT_H

#include "arguments.h"

PyObject *parse_rows_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *count_lines_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
