/* Rows by key: the index as it is mapped, and what is looked for. */
#ifndef QSTORE_KEYS_H
#define QSTORE_KEYS_H

#include "kernels.h"

typedef struct {
    const char *data;
    size_t size;
} text;

/* Hashes in order with their rows; by row, where each text begins in `bytes`, and where the last one ends. The
 * lengths belong together and `bytes` is contiguous; what they hold may be anything. */
typedef struct {
    vector hashes, rows, offsets, bytes;
} text_index;

/* In the place of a row: the index has none, or one that cannot be. */
enum { MISSING = -1, CORRUPT = -2 };

/* All answer -1, or the number of the first key or text whose entry in the index is impossible. */
ptrdiff_t hash_texts(vector bytes, vector offsets, vector out);
ptrdiff_t find_texts(const text_index *index, const text *keys, size_t count, vector out);
ptrdiff_t find_ids(vector sorted, vector rows, vector keys, vector out);

#endif
