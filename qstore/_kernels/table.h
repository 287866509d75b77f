/* The type qstore._native.Table. */
#ifndef QSTORE_TABLE_H
#define QSTORE_TABLE_H

#include "arguments.h"

/* 0, or -1 with an error set. */
int add_table_type(PyObject *module);

#endif
