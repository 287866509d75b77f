/* Integer scores: sums of (code - 128) * query over a tile of rows, and squared norms.
 *
 * A level may leave out a part of each query, and tell its size, as long as it can add it later to any sum: see
 * score_split.c. This one does not. All is exact: with |code - 128| <= 128 and |query| <= 2^13 a chunk of 2^10 columns
 * adds up to at most 2^30, within int32 in whatever order; chunks add up in double, exactly up to 2^53. */
#include "kernels.h"

enum { CHUNK = 1024, FEW_ROWS = 8 };

static int32_t product_sum(const int16_t *x, const int16_t *y, size_t n)
{
    int32_t sum = 0;
    for (size_t j = 0; j < n; j++) /* pmaddwd */
        sum += (int32_t)x[j] * y[j];
    return sum;
}

/* Centred codes from `start` on, zeros past the last column. */
static void centre_codes(const uint8_t *codes, size_t dim, size_t start, size_t n, int16_t *out)
{
    const size_t there = dim - start < n ? dim - start : n;
    for (size_t j = 0; j < there; j++)
        out[j] = (int16_t)(codes[start + j] - 128);
    for (size_t j = there; j < n; j++)
        out[j] = 0;
}

static void score_few(const score_job *job, size_t first, size_t rows, size_t start, double *sums,
                                    double *squares)
{
    int16_t centred[FEW_ROWS][CHUNK];
    const size_t n = (job->width - start < CHUNK ? job->width - start : CHUNK) & ~(size_t)63;
    for (size_t r = 0; r < rows; r++) {
        centre_codes((const uint8_t *)row_of(&job->codes, first + r), job->codes.dim, start, n, centred[r]);
        squares[r] += product_sum(centred[r], centred[r], n);
    }
    for (size_t q = 0; q < job->count; q++) {
        const int16_t *query = (const int16_t *)job->queries + q * job->width + start;
        for (size_t r = 0; r < rows; r++)
            sums[q * TILE_ROWS + r] += product_sum(centred[r], query, n);
    }
}

laid_query lay_out_query_baseline(const char *values, size_t width, char *out)
{
    laid_query laid = {0.0, 0.0};
    memcpy(out, values, width * sizeof(int16_t));
    return laid;
}

double left_out_baseline(const score_job *job, size_t query, size_t row)
{
    (void)job, (void)query, (void)row;
    return 0.0;
}

void score_tile_baseline(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    for (size_t r = 0; r < rows; r += FEW_ROWS)
        for (size_t start = 0; start < job->width; start += CHUNK)
            score_few(job, first + r, rows - r < FEW_ROWS ? rows - r : FEW_ROWS, start, sums + r, squares + r);
}
