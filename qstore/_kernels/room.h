/* The type qstore._native.Room. */
#ifndef QSTORE_ROOM_H
#define QSTORE_ROOM_H

#include "arguments.h"

extern PyType_Spec room_type;

#endif
