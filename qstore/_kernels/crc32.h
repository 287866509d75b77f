/* CRC-32. */
#ifndef QSTORE_CRC32_H
#define QSTORE_CRC32_H

#include "kernels.h"

int has_fast_crc32(void);

/* Slow where the machine lacks the instructions. */
uint32_t crc32_of(const uint8_t *data, size_t size);

#endif
