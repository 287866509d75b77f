/* Rows of a matrix that lies in several parts: bindings, for the table of methods in module.c. */
#ifndef QSTORE_PARTS_H
#define QSTORE_PARTS_H

#include "arguments.h"

PyObject *touch_parts(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *gather_parts(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *copy_parts(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
