/* Exact search, first part: which rows may be among the best k of each query. The specification, with the proof of
 * the bounds, is qstore/scanning.py. Of each query the k best lower bounds so far are kept in a heap: a row whose
 * upper bound is not above the least of them is beaten by k rows before it. */
#include <stdlib.h>

#include "kernels.h"

#define UNIT 0x1p-13 /* of the quantized queries */

/* The score is within `radius` of `centre`. */
typedef struct {
    double centre, radius;
} estimate;

static ALWAYS_INLINE estimate estimate_of(const scan_job *job, int is_l2, const tile *t, size_t q, size_t r,
                                          double sum, double error)
{
    const double slack = job->bounds.slacks[q];
    if (!is_l2)
        return (estimate){sum * t->factors[r], t->reaches[r] * error + t->some[r] * slack};
    const double scale = t->scales[r] * job->bounds.factors[q], square = scale * t->squares[r];
    const double centre = scale * (sum * (2.0 * UNIT) - square);
    const double radius = fabs(scale) * (2.0 * t->norms[r] * error) + fabs(scale * square) * 0x1p-48 + slack;
    return (estimate){t->some[r] == 0.0 ? 0.0 : centre, t->some[r] == 0.0 ? 0.0 : radius};
}

/* What is not a number must not hide a row. */
static ALWAYS_INLINE double upper_bound(estimate found, double most)
{
    const double bound = found.centre + found.radius, raised = bound < -most ? -most : bound;
    return raised == raised ? raised : (double)INFINITY;
}

static ALWAYS_INLINE double lower_bound(estimate found, double most)
{
    const double bound = found.centre - found.radius, cut = bound > most ? most : bound;
    return cut == cut ? cut : -(double)INFINITY;
}

/* By what score_tile() has found. */
static ALWAYS_INLINE int64_t bound_some(const scan_job *job, int is_l2, const tile *t, size_t q, double *upper)
{
    const double least = job->heaps[q * job->best], error = job->coarse_errors[q];
    int64_t any = 0;
    for (size_t r = 0; r < TILE_ROWS; r++) { /* a constant: rows past the last one are 0 */
        const estimate found = estimate_of(job, is_l2, t, q, r, t->sums[q * TILE_ROWS + r], error);
        upper[r] = upper_bound(found, job->bounds.most[q]);
        any |= -(int64_t)(upper[r] > least);
    }
    return any;
}

/* What does not depend on the query; norms to begin with, as there is a square root for several at a time. */
static ALWAYS_INLINE void measure_body(const scan_job *job, tile *t)
{
    const int is_dot = job->metric == METRIC_DOT;
    for (size_t r = 0; r < TILE_ROWS; r++)
        t->norms[r] = sqrt(t->squares[r]);
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const double scale = t->scales[r], norm = t->norms[r], factor = is_dot ? scale : copysign(1.0 / norm, scale);
        const double reach = is_dot ? fabs(scale) * norm : 1.0, some = scale * norm == 0.0 ? 0.0 : 1.0;
        t->some[r] = some;
        t->factors[r] = some == 0.0 ? 0.0 : factor * UNIT;
        t->reaches[r] = some == 0.0 ? 0.0 : reach;
    }
}

#define COMPILE_FOR(level, target)                                                                                \
    target void measure_tile_##level(const scan_job *job, tile *t)                                                \
    {                                                                                                             \
        measure_body(job, t);                                                                                     \
    }                                                                                                             \
    target int bound_tile_##level(const scan_job *job, const tile *t, size_t q, double *upper)                    \
    {                                                                                                             \
        return (job->metric == METRIC_L2 ? bound_some(job, 1, t, q, upper) : bound_some(job, 0, t, q, upper)) != 0; \
    }

COMPILE_FOR(baseline, )
#if QSTORE_X86
COMPILE_FOR(avx2, TARGET_AVX2)
COMPILE_FOR(avx512, TARGET_AVX512)
#endif

/* Replace the least of a heap. */
static void replace_least(double *heap, size_t size, double value)
{
    size_t place = 0;
    for (size_t child = 1; child < size; child = 2 * place + 1) {
        if (child + 1 < size && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= value)
            break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = value;
}

/* Forget the rows of one query that are beaten by now; those that tie stay. */
static void forget_beaten(const scan_job *job, size_t q, double limit)
{
    int64_t *rows = job->found_rows + q * job->room, kept = 0;
    double *upper = job->found_upper + q * job->room;
    for (int64_t i = 0; i < job->found[q]; i++) {
        if (upper[i] >= limit) {
            rows[kept] = rows[i];
            upper[kept++] = upper[i];
        }
    }
    job->found[q] = kept;
}

/* Note a row, unless the whole sum shows that it is beaten. */
static void note_row(const scan_job *job, const tile *t, size_t q, size_t r, size_t row)
{
    const size_t place = q * job->room + (size_t)job->found[q];
    const double sum = t->sums[q * TILE_ROWS + r] + active_kernels->left_out(&job->score, q, row);
    const estimate found = estimate_of(job, job->metric == METRIC_L2, t, q, r, sum, job->bounds.errors[q]);
    const double lower = lower_bound(found, job->bounds.most[q]), upper = upper_bound(found, job->bounds.most[q]);
    double *heap = job->heaps + q * job->best;
    if (!(upper > heap[0]))
        return;
    if (lower > heap[0])
        replace_least(heap, job->best, lower);
    job->found_rows[place] = job->first_number + (int64_t)row;
    job->found_upper[place] = upper;
    job->found[q]++;
}

/* Note the rows of a tile that may be among the best of one query; whether there is room for another tile. */
static int note_rows(const scan_job *job, const tile *t, size_t q, size_t first)
{
    double upper[TILE_ROWS];
    const double *least = job->heaps + q * job->best;
    if (!active_kernels->bound_tile(job, t, q, upper))
        return 1;
    for (size_t r = 0; r < t->rows; r++)
        if (upper[r] > *least)
            note_row(job, t, q, r, first + r);
    if ((size_t)job->found[q] + TILE_ROWS > job->room)
        forget_beaten(job, q, *least);
    return (size_t)job->found[q] + TILE_ROWS <= job->room;
}

/* Whether there is room for another tile. */
static int scan_tile(const scan_job *job, size_t first, tile *t)
{
    int room = 1;
    memset(t->sums, 0, TILE_ROWS * job->score.count * sizeof(double));
    memset(t->squares, 0, sizeof t->squares);
    active_kernels->score_tile(&job->score, first, t->rows, t->sums, t->squares);
    for (size_t r = 0; r < TILE_ROWS; r++)
        t->scales[r] = r < t->rows ? float64_of(&job->scales, first + r) : 0.0;
    active_kernels->measure_tile(job, t);
    for (size_t q = 0; q < job->score.count; q++)
        room &= note_rows(job, t, q, first);
    return room;
}

/* A margin covers the rounding of the root. */
static void lay_out(scan_job *job, matrix queries, char *bytes, laid_query *laid)
{
    for (size_t q = 0; q < queries.rows; q++) {
        laid[q] = active_kernels->lay_out_query(row_of(&queries, q), queries.dim, bytes + 2 * q * queries.dim);
        job->coarse_errors[q] = job->bounds.errors[q] + sqrt(laid[q].left_out) * (UNIT * (1.0 + 1e-12));
    }
    job->score.queries = bytes;
    job->score.laid = laid;
}

/* Queries begin where cache lines do. */
static size_t aligned(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

ptrdiff_t scan_rows(scan_job *job, matrix queries)
{
    const size_t count = queries.rows, rows = job->score.codes.rows, bytes = 2 * count * queries.dim;
    char *memory = malloc(64 + bytes + count * ((TILE_ROWS + 1) * sizeof(double) + sizeof(laid_query)));
    if (memory == NULL)
        return OUT_OF_MEMORY;
    char *laid_bytes = (char *)aligned((uintptr_t)memory);
    tile t;
    t.sums = (double *)(laid_bytes + bytes);
    job->coarse_errors = t.sums + TILE_ROWS * count;
    lay_out(job, queries, laid_bytes, (laid_query *)(job->coarse_errors + count));
    size_t done = 0;
    for (int room = 1; room && done < rows; done += t.rows) {
        t.rows = rows - done < TILE_ROWS ? rows - done : TILE_ROWS;
        room = scan_tile(job, done, &t);
    }
    free(memory);
    return (ptrdiff_t)done;
}

/* Place of the first scale that is not finite: files may hold anything. */
ptrdiff_t find_bad_scale(vector scales)
{
    for (size_t i = 0; i < scales.length; i++)
        if (!isfinite(float64_of(&scales, i)))
            return (ptrdiff_t)i;
    return ALL_GOOD;
}
