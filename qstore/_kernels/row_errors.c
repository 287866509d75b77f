/* Errors of rows, and more: two passes over a row that stays in the first-level cache.
 *
 * The specification is qstore.engine.row_errors. Sums are NumPy's of a contiguous row: fewer than 8 values in order, up
 * to 128 in eight sums that are added in pairs, more in halves of a multiple of 8. Products and sums round each. */
#include "kernels.h"

#include <stdlib.h>

#define PIECE 128
#define ALL_WHOLE 0x1p52

/* The second one where one is NaN. */
static ALWAYS_INLINE double larger(double a, double b) { return a > b ? a : b; }

static ALWAYS_INLINE int is_whole(double x)
{
    const double size = fabs(x);
    return size >= ALL_WHOLE || (size + ALL_WHOLE) - ALL_WHOLE == size;
}

static ALWAYS_INLINE double eight(const double *r)
{
    return ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
}

static ALWAYS_INLINE void add_rest(const double *given, const double *errors, size_t j, size_t n, double factor,
                                   double error_factor, row_sums *sums)
{
    for (; j < n; j++) {
        const double value = given[j] * factor, error = errors[j] * error_factor;
        sums->error_square += error * error;
        sums->value_square += value * value;
        sums->along += error * value;
    }
}

/* Two lanes of any machine. */
typedef double pair __attribute__((vector_size(16)));
typedef int64_t pair_bits __attribute__((vector_size(16)));

static ALWAYS_INLINE pair load_pair(const double *p)
{
    pair value;
    memcpy(&value, p, sizeof value);
    return value;
}

static ALWAYS_INLINE void store_pair(double *p, pair value) { memcpy(p, &value, sizeof value); }

static ALWAYS_INLINE pair choose(pair_bits chosen, pair a, pair b)
{
    return (pair)(((pair_bits)a & chosen) | ((pair_bits)b & ~chosen));
}

static ALWAYS_INLINE unsigned bits_of(pair_bits equal) { return (unsigned)((equal[0] & 1) | (equal[1] & 2)); }

#define LEVEL(name) name##_baseline
#define TARGET
#define LANES 2
#define V pair
#define BITS pair_bits
#define LOAD(p) load_pair(p)
#define STORE(p, v) store_pair(p, v)
#define SPREAD(x) ((pair){x, x})
#define WIDEN(p) ((pair){(double)load_float32(p), (double)load_float32(p + 4)})
#define MAGNITUDE(v) ((pair)((pair_bits)(v) & INT64_MAX))
#define LARGER(a, b) choose((a) > (b), a, b)
#define LESSER(a, b) choose((a) < (b), a, b)
#define EQUAL(a, b) bits_of((a) == (b))
#include "row_errors_body.h"

#if QSTORE_X86

typedef int64_t int64x4 __attribute__((vector_size(32)));
typedef int64_t int64x8 __attribute__((vector_size(64)));

#define LEVEL(name) name##_avx2
#define TARGET TARGET_AVX2
#define LANES 4
#define V __m256d
#define BITS int64x4
#define LOAD(p) _mm256_loadu_pd(p)
#define STORE(p, v) _mm256_storeu_pd(p, v)
#define SPREAD(x) _mm256_set1_pd(x)
#define WIDEN(p) _mm256_cvtps_pd(_mm_loadu_ps((const float *)(p)))
#define MAGNITUDE(v) _mm256_andnot_pd(_mm256_set1_pd(-0.0), v)
#define LARGER(a, b) _mm256_max_pd(a, b)
#define LESSER(a, b) _mm256_min_pd(a, b)
#define EQUAL(a, b) ((unsigned)_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_EQ_OQ)))
#include "row_errors_body.h"

#define LEVEL(name) name##_avx512
#define TARGET TARGET_AVX512
#define LANES 8
#define V __m512d
#define BITS int64x8
#define LOAD(p) _mm512_loadu_pd(p)
#define STORE(p, v) _mm512_storeu_pd(p, v)
#define SPREAD(x) _mm512_set1_pd(x)
#define WIDEN(p) _mm512_cvtps_pd(_mm256_loadu_ps((const float *)(p)))
#define MAGNITUDE(v) _mm512_andnot_pd(_mm512_set1_pd(-0.0), v)
#define LARGER(a, b) _mm512_max_pd(a, b)
#define LESSER(a, b) _mm512_min_pd(a, b)
#define EQUAL(a, b) ((unsigned)_mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ))
#include "row_errors_body.h"

#endif

/* Squares of a row times 2^-exponent neither overflow nor vanish. */
static int exponent_of(double largest)
{
    int exponent = 0;
    if (isfinite(largest))
        (void)frexp(largest, &exponent);
    return exponent < -1000 ? -1000 : exponent > 1000 ? 1000 : exponent;
}

/* 1 - cosine of the angle, as in the specification. */
static double angle_of(double relative_square, double along)
{
    const double growth = 2 * along + relative_square, square = 1 + growth;
    const double length = sqrt(square < 0.0 ? 0.0 : square), turn = growth / (1 + length);
    const double angle = (relative_square - turn * turn) / (2 * length);
    if (isnan(angle))
        return 1.0;
    return angle > 0.0 ? (angle < 2.0 ? angle : 2.0) : 0.0;
}

static void zero_nonfinite(double *given, size_t n)
{
    for (size_t j = 0; j < n; j++)
        given[j] = isfinite(given[j]) ? given[j] : 0.0;
}

/* Scratch space for a row: in float64, its errors, and in float32 what is widened on the way. */
typedef struct {
    double *given, *errors;
    float *narrow;
} row_scratch;

static void measure(const char *values, int narrow, const char *codes, size_t dim, double scale, row_scratch at,
                    double *figures)
{
    const kernels *k = active_kernels;
    row_extent extent;
    row_sums sums;
    int exponent, error_exponent;
    for (;;) {
        k->dequantize[OUT_FLOAT64]((const uint8_t *)codes, dim, scale, (char *)at.errors);
        k->measure_row(values, narrow, dim, at.given, at.errors, &extent);
        exponent = exponent_of(extent.largest);
        error_exponent = exponent_of(extent.largest_error);
        sums = k->sum_row(at.given, at.errors, dim, ldexp(1.0, -exponent), ldexp(1.0, -error_exponent));
        if (isfinite(sums.value_square))
            break;
        zero_nonfinite(at.given, dim);
        narrow = 0;
    }
    const double ratio = ldexp(1.0, error_exponent - exponent);
    const double relative = sqrt(sums.error_square / sums.value_square) * ratio;
    const double along = sums.along / sums.value_square * ratio;
    figures[0] = ldexp(sums.error_square, 2 * error_exponent);
    figures[1] = ldexp(sums.value_square, 2 * exponent);
    figures[2] = isnan(sums.error_square) ? NAN : extent.largest_error; /* a scale that is not finite */
    figures[3] = relative;
    figures[4] = sums.value_square > 0 ? angle_of(relative * relative, along) : NAN;
    figures[5] = (double)extent.filled;
    figures[6] = (double)extent.zeroed;
    if (k->whole_range(at.given, dim, &figures[7], &figures[8])) {
        figures[7] += 0.0; /* no negative zeros */
        figures[8] += 0.0;
    } else
        figures[7] = figures[8] = NAN;
}

ptrdiff_t measure_rows(matrix values, element_type type, matrix codes, vector scales, matrix figures)
{
    const size_t dim = values.dim, each = 2 * sizeof(double) + sizeof(float);
    double *scratch = dim < PTRDIFF_MAX / each - 1 ? malloc((dim + 1) * each) : NULL;
    if (scratch == NULL)
        return OUT_OF_MEMORY;
    const row_scratch at = {scratch, scratch + dim, (float *)(scratch + 2 * dim)};
    for (size_t i = 0; i < values.rows; i++) {
        const char *row = row_of(&values, i);
        double found[ROW_FIGURES];
        if (type < FLOAT64 && type != FLOAT32) { /* exact in float32 */
            widen_to_float32(type, row, dim, at.narrow);
            row = (const char *)at.narrow;
        } else if (type != FLOAT32)
            widen_to_float64(type, row, dim, at.given);
        measure(row, type < FLOAT64, row_of(&codes, i), dim, float64_of(&scales, i), at, found);
        memcpy(row_of(&figures, i), found, sizeof found);
    }
    free(scratch);
    return ALL_GOOD;
}
