/* What the ways of pooling share. */
#ifndef QSTORE_POOL_H
#define QSTORE_POOL_H

#include "vnni.h"

/* Rows asked for ahead of use, across the ends of bags. */
#define ROWS_AHEAD 64
#define PREFETCHED_BYTES 1024

static ALWAYS_INLINE double factor_of(const pool_job *job, size_t i, size_t row)
{
    double scale = scale_of(&job->scales, row);
    const char *weight = job->weights.data + (ptrdiff_t)i * job->weights.stride;
    if (job->weights.data == NULL)
        return scale;
    return (job->weights_are_float64 ? load_float64(weight) : (double)load_float32(weight)) * scale;
}

static ALWAYS_INLINE void prefetch_ahead(const pool_job *job, size_t i)
{
    size_t dim = job->codes.dim;
    if (i + ROWS_AHEAD < job->rows.length)
        prefetch_row(&job->codes, &job->scales, row_number(&job->rows, i + ROWS_AHEAD, job->codes.rows),
                     dim < PREFETCHED_BYTES ? dim : PREFETCHED_BYTES);
}

#if QSTORE_X86

/* The specified way: a whole bag, and columns `column` to before `column` + n of it. */
void pool_float64_avx512(const pool_job *job, size_t start, size_t stop, char *out);
void pool_columns_avx512(const pool_job *job, size_t start, size_t stop, char *out, size_t column, size_t n);

/* A bag in integers; where these leave a value uncertain, it is made the specified way. */
void pool_vnni(const pool_job *job, size_t start, size_t stop, char *out);

/* Whether pool_vnni() is worth it: what it needs for each bag and block takes as long as 12 rows. */
static ALWAYS_INLINE int suits_vnni(const pool_job *job, size_t rows)
{
    return rows >= 12 && job->codes.dim >= 64 && job->type == OUT_FLOAT32 && has_vnni();
}

#endif
#endif
