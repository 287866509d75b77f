/* The quantized blocks of ggml: bindings, for the table of methods in module.c. */
#ifndef QSTORE_GGUF_H
#define QSTORE_GGUF_H

#include "arguments.h"

void make_block_tables(void);
PyObject *unpack_blocks_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
