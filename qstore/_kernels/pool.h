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

/* Some rows of a bag, for the ways in integers: past the last one, it once more, with a factor of 0. */
enum { POOL_CHUNK = 256 };
typedef struct {
    size_t rows; /* a multiple of four */
    const uint8_t *codes[POOL_CHUNK];
    _Alignas(64) double factors[POOL_CHUNK];
    double unit;       /* of the integers that the factors become */
    double zero_point; /* what codes that are not centred add: 128 * sum of these integers */
    double magnitude;  /* sum |factor| */
} pool_chunk;

static __attribute__((noinline, unused)) void take_rows(pool_chunk *some, const pool_job *job, size_t start, size_t n)
{
    some->rows = (n + 3) / 4 * 4;
    for (size_t i = 0; i < n; i++) {
        const size_t row = row_number(&job->rows, start + i, job->codes.rows);
        some->codes[i] = (const uint8_t *)row_of(&job->codes, row);
        some->factors[i] = factor_of(job, start + i, row);
    }
    for (size_t i = n; i < some->rows; i++) {
        some->codes[i] = some->codes[n - 1];
        some->factors[i] = 0.0;
    }
}

/* The specified way: a whole bag, and columns `column` to before `column` + n of it. */
void pool_float64_avx512(const pool_job *job, size_t start, size_t stop, char *out);
void pool_columns_avx512(const pool_job *job, size_t start, size_t stop, char *out, size_t column, size_t n);
void pool_float64_avx2(const pool_job *job, size_t start, size_t stop, char *out);
void pool_32_columns_avx2(const pool_job *job, size_t start, size_t stop, char *out, size_t column);

/* A bag in integers; where these leave a value uncertain, it is made the specified way. */
void pool_vnni(const pool_job *job, size_t start, size_t stop, char *out);
void pool_pairs(const pool_job *job, size_t start, size_t stop, char *out);

/* Whether pool_vnni() is worth it: what it needs for each bag and block takes as long as 12 rows. */
static ALWAYS_INLINE int suits_vnni(const pool_job *job, size_t rows)
{
    return rows >= 12 && job->codes.dim >= 64 && job->type == OUT_FLOAT32 && has_vnni();
}

static ALWAYS_INLINE int suits_pairs(const pool_job *job, size_t rows)
{
    return rows >= 8 && job->codes.dim >= 32 && job->type == OUT_FLOAT32;
}

#endif
#endif
