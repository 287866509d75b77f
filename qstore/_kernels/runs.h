/* Levels and dictionaries of Parquet: bindings, for the table of methods in module.c. */
#ifndef QSTORE_RUNS_H
#define QSTORE_RUNS_H

#include "arguments.h"

PyObject *levels_are_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *look_up_runs_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
