/* Exact search, first part: which rows may be among the best k of each query. The specification, with the proof of
 * the bounds, is qstore/scanning.py. Of each query the k best lower bounds so far are kept in a heap: a row whose
 * upper bound is not above the least of them is beaten by k rows before it. */
#include <stdlib.h>

#include "kernels.h"

#define UNIT 0x1p-13 /* of the quantized queries */

typedef struct {
    double scale, squares, norm;
} row_facts;

/* The score is within `radius` of `centre`. */
typedef struct {
    double centre, radius;
} estimate;

static ALWAYS_INLINE estimate estimate_of(const scan_job *job, row_facts row, double sum, size_t q)
{
    const double error = job->bounds.errors[q], slack = job->bounds.slacks[q];
    if (row.scale == 0.0 || row.squares == 0.0)
        return (estimate){0.0, 0.0};
    if (job->metric == METRIC_L2) {
        const double scale = row.scale * job->bounds.factors[q], square = scale * row.squares;
        return (estimate){scale * (sum * (2.0 * UNIT) - square),
                          fabs(scale) * (2.0 * row.norm * error) + fabs(scale * square) * 0x1p-48 + slack};
    }
    if (job->metric == METRIC_DOT)
        return (estimate){sum * (row.scale * UNIT), fabs(row.scale) * row.norm * error + slack};
    return (estimate){sum * copysign(UNIT / row.norm, row.scale), error + slack};
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

/* Upper bounds of one row for all queries; whether any is above its limit. */
static ALWAYS_INLINE int bound_row(const scan_job *job, row_facts row, const double *sums, const double *limits,
                                   double *upper)
{
    int any = 0;
    for (size_t q = 0; q < job->score.count; q++) {
        upper[q] = upper_bound(estimate_of(job, row, sums[q], q), job->bounds.most[q]);
        any |= upper[q] > limits[q];
    }
    return any;
}

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

/* Note a row for the queries where it may be among the best; whether there is little room left afterwards. */
static int note_row(const scan_job *job, size_t number, row_facts row, const double *sums, const double *upper,
                    double *limits)
{
    int full = 0;
    for (size_t q = 0; q < job->score.count; q++) {
        if (!(upper[q] > limits[q]))
            continue;
        double *heap = job->heaps + q * job->best;
        const double lower = lower_bound(estimate_of(job, row, sums[q], q), job->bounds.most[q]);
        if (lower > heap[0])
            replace_least(heap, job->best, lower);
        limits[q] = heap[0];
        const size_t place = q * job->room + (size_t)job->found[q]++;
        job->found_rows[place] = job->first_number + (int64_t)number;
        job->found_upper[place] = upper[q];
        if ((size_t)job->found[q] == job->room) {
            forget_beaten(job, q, limits[q]);
            full |= (size_t)job->found[q] > job->room / 2;
        }
    }
    return full;
}

typedef struct {
    double *sums, *limits, *upper, squares[TILE_ROWS];
} scratch;

/* The rows of one tile; how many were done. */
static size_t scan_tile(const scan_job *job, size_t first, size_t rows, scratch *s)
{
    const size_t count = job->score.count;
    memset(s->sums, 0, rows * count * sizeof(double));
    memset(s->squares, 0, sizeof s->squares);
    active_kernels->score_tile(&job->score, first, rows, s->sums, s->squares);
    for (size_t r = 0; r < rows; r++) {
        const double scale = float64_of(&job->scales, first + r);
        const row_facts row = {scale, s->squares[r], sqrt(s->squares[r])};
        if (bound_row(job, row, s->sums + r * count, s->limits, s->upper) &&
            note_row(job, first + r, row, s->sums + r * count, s->upper, s->limits))
            return r + 1;
    }
    return rows;
}

static void lay_out(scan_job *job, matrix queries, char *laid, double *sums)
{
    for (size_t q = 0; q < queries.rows; q++) {
        active_kernels->lay_out_query(row_of(&queries, q), queries.dim, laid + 2 * q * queries.dim);
        sums[q] = 0.0;
        for (size_t j = 0; j < queries.dim; j++)
            sums[q] += load_int16(row_of(&queries, q) + 2 * j);
    }
    job->score.queries = laid;
    job->score.query_sums = sums;
}

ptrdiff_t scan_rows(scan_job *job, matrix queries)
{
    const size_t count = queries.rows, rows = job->score.codes.rows;
    char *memory = malloc(count * ((TILE_ROWS + 3) * sizeof(double) + 2 * queries.dim) + 1);
    if (memory == NULL)
        return OUT_OF_MEMORY;
    double *numbers = (double *)memory;
    scratch s = {.sums = numbers, .limits = numbers + TILE_ROWS * count, .upper = numbers + (TILE_ROWS + 1) * count};
    lay_out(job, queries, memory + (TILE_ROWS + 3) * count * sizeof(double), numbers + (TILE_ROWS + 2) * count);
    for (size_t q = 0; q < count; q++)
        s.limits[q] = job->heaps[q * job->best];
    size_t done = 0;
    for (size_t wanted = 0, got = 0; done < rows && got == wanted; done += got) {
        wanted = rows - done < TILE_ROWS ? rows - done : TILE_ROWS;
        got = scan_tile(job, done, wanted, &s);
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
