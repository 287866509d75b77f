/* Pooled bags as they are specified: sums in float64, at every level.
 *
 * Every column is added up in float64 in the order of the rows, a multiplication and an addition a row, never
 * fused. Columns are independent, so they are worked on in blocks whose sums stay in registers. */
#include "pool.h"
#include "shifted.h"

static ALWAYS_INLINE void store_sums(const pool_job *job, double *sums, size_t n, size_t rows, char *out,
                                     size_t column)
{
    if (job->mean && rows > 0) /* a division of each sum by 1 was a tenth of the time of a bag of 40 rows */
        for (size_t j = 0; j < n; j++)
            sums[j] /= (double)rows;
    for (size_t j = 0; j < n; j++) {
        double value = sums[j];
        if (job->type == OUT_FLOAT64) {
            memcpy(out + 8 * (column + j), &value, sizeof value);
        } else {
            float rounded = (float)value;
            memcpy(out + 4 * (column + j), &rounded, sizeof rounded);
        }
    }
}

/* Sums of n columns, from `column` on, of rows[start] to before rows[stop]. */
typedef void sum_columns(const pool_job *job, size_t start, size_t stop, size_t column, size_t n, double *sums);

static ALWAYS_INLINE void sum_columns_body(const pool_job *job, size_t start, size_t stop, size_t column, size_t n,
                                           double *sums)
{
    for (size_t j = 0; j < n; j++)
        sums[j] = 0.0;
    for (size_t i = start; i < stop; i++) {
        size_t row = row_number(&job->rows, i, job->codes.rows);
        const uint8_t *codes = (const uint8_t *)row_of(&job->codes, row) + column;
        double factor = factor_of(job, i, row);
        if (column == 0)
            prefetch_ahead(job, i);
        for (size_t j = 0; j < n; j++)
            sums[j] += factor * (double)((int32_t)codes[j] - 128);
    }
}

/* `wide` columns at a time, then what is left. */
static ALWAYS_INLINE void pool_body(const pool_job *job, size_t start, size_t stop, char *out, size_t wide,
                                    sum_columns *sum_wide, sum_columns *sum_rest)
{
    double sums[128];
    size_t dim = job->codes.dim;
    for (size_t column = 0; column < dim; column += wide) {
        size_t n = dim - column < wide ? dim - column : wide;
        (n == wide ? sum_wide : sum_rest)(job, start, stop, column, n, sums);
        store_sums(job, sums, n, stop - start, out, column);
    }
}

static void sum_64_baseline(const pool_job *job, size_t start, size_t stop, size_t column, size_t n, double *sums)
{
    (void)n;
    sum_columns_body(job, start, stop, column, 64, sums);
}

static void sum_rest_baseline(const pool_job *job, size_t start, size_t stop, size_t column, size_t n, double *sums)
{
    sum_columns_body(job, start, stop, column, n, sums);
}

void pool_baseline(const pool_job *job, size_t start, size_t stop, char *out)
{
    pool_body(job, start, stop, out, 64, sum_64_baseline, sum_rest_baseline);
}

#if QSTORE_X86

/* 8 sums a register; `groups` is a constant where this is inlined, so that the sums are registers. */
static ALWAYS_INLINE TARGET_AVX512 void sum_groups_avx512(const pool_job *job, size_t start, size_t stop,
                                                          size_t column, size_t groups, double *sums)
{
    __m512d sum[16];
    const __m512d one = _mm512_set1_pd(1.0), zero_point = _mm512_set1_pd(SHIFTED_ZERO_POINT);
#pragma GCC unroll 16
    for (size_t g = 0; g < groups; g++)
        sum[g] = _mm512_setzero_pd();
    for (size_t i = start; i < stop; i++) {
        size_t row = row_number(&job->rows, i, job->codes.rows);
        const char *codes = row_of(&job->codes, row) + column;
        const __m512d factor = _mm512_set1_pd(factor_of(job, i, row));
        if (column == 0)
            prefetch_ahead(job, i);
#pragma GCC unroll 16
        for (size_t g = 0; g < groups; g++) {
            __m512d shifted = shifted_codes_avx512(codes + 8 * g);
            /* the same difference, on the multiplier's ports for every other register */
            __m512d centred = g & 1 ? _mm512_fmsub_pd(shifted, one, zero_point) : _mm512_sub_pd(shifted, zero_point);
            sum[g] = _mm512_add_pd(sum[g], _mm512_mul_pd(factor, centred));
        }
    }
#pragma GCC unroll 16
    for (size_t g = 0; g < groups; g++)
        _mm512_storeu_pd(sums + 8 * g, sum[g]);
}

static TARGET_AVX512 void sum_128_avx512(const pool_job *job, size_t start, size_t stop, size_t column, size_t n,
                                         double *sums)
{
    (void)n;
    sum_groups_avx512(job, start, stop, column, 16, sums);
}

/* Fewer than 128: 64 and 16 at a time, and the last few one by one. */
static TARGET_AVX512 void sum_rest_avx512(const pool_job *job, size_t start, size_t stop, size_t column, size_t n,
                                          double *sums)
{
    size_t j = 0;
    for (; j + 64 <= n; j += 64)
        sum_groups_avx512(job, start, stop, column + j, 8, sums + j);
    for (; j + 16 <= n; j += 16)
        sum_groups_avx512(job, start, stop, column + j, 2, sums + j);
    sum_columns_body(job, start, stop, column + j, n - j, sums + j);
}

TARGET_AVX512 void pool_columns_avx512(const pool_job *job, size_t start, size_t stop, char *out, size_t column,
                                       size_t n)
{
    double sums[128];
    sum_rest_avx512(job, start, stop, column, n, sums);
    store_sums(job, sums, n, stop - start, out, column);
}

TARGET_AVX512 void pool_float64_avx512(const pool_job *job, size_t start, size_t stop, char *out)
{
    pool_body(job, start, stop, out, 128, sum_128_avx512, sum_rest_avx512);
}

/* 4 sums a register, 8 registers: 16 there are. */
static TARGET_AVX2 void sum_32_avx2(const pool_job *job, size_t start, size_t stop, size_t column, size_t n,
                                    double *sums)
{
    (void)n;
    __m256d sum[8];
    const __m128i sign = _mm_set1_epi8((char)0x80);
#pragma GCC unroll 8
    for (size_t g = 0; g < 8; g++)
        sum[g] = _mm256_setzero_pd();
    for (size_t i = start; i < stop; i++) {
        size_t row = row_number(&job->rows, i, job->codes.rows);
        const char *codes = row_of(&job->codes, row) + column;
        const __m256d factor = _mm256_set1_pd(factor_of(job, i, row));
        if (column == 0)
            prefetch_ahead(job, i);
#pragma GCC unroll 4
        for (size_t g = 0; g < 4; g++) {
            __m128i bytes = _mm_xor_si128(_mm_loadl_epi64((const __m128i *)(codes + 8 * g)), sign);
            __m256i words = _mm256_cvtepi8_epi32(bytes);
            __m256d low = _mm256_cvtepi32_pd(_mm256_castsi256_si128(words));
            __m256d high = _mm256_cvtepi32_pd(_mm256_extracti128_si256(words, 1));
            sum[2 * g] = _mm256_add_pd(sum[2 * g], _mm256_mul_pd(factor, low));
            sum[2 * g + 1] = _mm256_add_pd(sum[2 * g + 1], _mm256_mul_pd(factor, high));
        }
    }
#pragma GCC unroll 8
    for (size_t g = 0; g < 8; g++)
        _mm256_storeu_pd(sums + 4 * g, sum[g]);
}

static TARGET_AVX2 void sum_rest_avx2(const pool_job *job, size_t start, size_t stop, size_t column, size_t n,
                                      double *sums)
{
    sum_columns_body(job, start, stop, column, n, sums);
}

TARGET_AVX2 void pool_32_columns_avx2(const pool_job *job, size_t start, size_t stop, char *out, size_t column)
{
    double sums[32];
    sum_32_avx2(job, start, stop, column, 32, sums);
    store_sums(job, sums, 32, stop - start, out, column);
}

TARGET_AVX2 void pool_float64_avx2(const pool_job *job, size_t start, size_t stop, char *out)
{
    pool_body(job, start, stop, out, 32, sum_32_avx2, sum_rest_avx2);
}

#endif
