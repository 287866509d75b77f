/* What the extension offers of keys.c; the specification is qstore.key_search. */
#ifndef QSTORE_KEYS_MODULE_H
#define QSTORE_KEYS_MODULE_H

#include "arguments.h"
#include "keys.h"

PyObject *hash_texts_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *find_texts_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *find_ids_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

extern PyType_Spec text_finder_type;

#endif
