/* The type qstore._native.Table. */
#ifndef QSTORE_TABLE_H
#define QSTORE_TABLE_H

#include "arguments.h"

extern PyType_Spec table_type;

#endif
