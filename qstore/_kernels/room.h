/* The type qstore._native.Room. */
#ifndef QSTORE_ROOM_H
#define QSTORE_ROOM_H

#include "arguments.h"

/* 0, or -1 with an error set. */
int add_room_type(PyObject *module);

#endif
