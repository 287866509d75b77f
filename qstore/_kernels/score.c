/* Integer scores: sums of (code - 128) * query over a tile of rows, at every dispatch level; and squared norms.
 *
 * All is exact. With |code - 128| <= 128 and |query| <= 2^13 a chunk of 2^10 columns adds up to at most 2^30, within
 * int32 in whatever order; chunks add up in double, exactly up to 2^53, which is 2^33 columns. */
#include "kernels.h"

enum { CHUNK = 1024, FEW_ROWS = 8 };

static ALWAYS_INLINE int32_t product_sum(const int16_t *x, const int16_t *y, size_t n)
{
    int32_t sum = 0;
    for (size_t j = 0; j < n; j++) /* pmaddwd */
        sum += (int32_t)x[j] * y[j];
    return sum;
}

/* Centred codes from `start` on, zeros past the last column. */
static ALWAYS_INLINE void centre_codes(const uint8_t *codes, size_t dim, size_t start, size_t n, int16_t *out)
{
    const size_t there = dim - start < n ? dim - start : n;
    for (size_t j = 0; j < there; j++)
        out[j] = (int16_t)(codes[start + j] - 128);
    for (size_t j = there; j < n; j++)
        out[j] = 0;
}

static ALWAYS_INLINE void score_few(const score_job *job, size_t first, size_t rows, size_t start, double *sums,
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

static ALWAYS_INLINE void score_body(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    for (size_t r = 0; r < rows; r += FEW_ROWS)
        for (size_t start = 0; start < job->width; start += CHUNK)
            score_few(job, first + r, rows - r < FEW_ROWS ? rows - r : FEW_ROWS, start, sums + r, squares + r);
}

void lay_out_query_baseline(const char *values, size_t width, char *out)
{
    memcpy(out, values, width * sizeof(int16_t));
}

void score_tile_baseline(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    score_body(job, first, rows, sums, squares);
}

#if QSTORE_X86

void lay_out_query_avx2(const char *values, size_t width, char *out)
{
    lay_out_query_baseline(values, width, out);
}

TARGET_AVX2 void score_tile_avx2(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    score_body(job, first, rows, sums, squares);
}

#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))

static int has_vnni(void)
{
    return __builtin_cpu_supports("avx512vnni");
}

/* VNNI multiplies unsigned by signed bytes, 64 at a time, and adds up four at a time in int32: codes as they are, and
 * a query as 256 * high + low, whose 64 bytes each follow one another. What the zero point adds, 128 * sum(query),
 * is taken off at the end. */
void lay_out_query_avx512(const char *values, size_t width, char *out)
{
    if (!has_vnni()) {
        lay_out_query_baseline(values, width, out);
        return;
    }
    for (size_t j = 0; j < width; j++) {
        const int16_t value = load_int16(values + 2 * j);
        const int8_t high = (int8_t)((value + 128) >> 8), low = (int8_t)(value - 256 * high);
        char *place = out + j / 64 * 128 + j % 64;
        memcpy(place, &high, 1);
        memcpy(place + 64, &low, 1);
    }
}

enum { QUAD = 4 };

/* Some columns of four rows: at most 2^10, so that 256 * high + low is below 255 * 2^13 * 2^10 < 2^31. */
typedef struct {
    const uint8_t *rows[QUAD];
    size_t columns;
} quad;

/* The sums of the lanes of four registers. */
static ALWAYS_INLINE TARGET_VNNI void sum_lanes(const __m512i x[QUAD], int32_t sums[QUAD])
{
    __m128i part[QUAD];
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++) {
        __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(x[r]), _mm512_extracti64x4_epi64(x[r], 1));
        part[r] = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    }
    __m128i all = _mm_hadd_epi32(_mm_hadd_epi32(part[0], part[1]), _mm_hadd_epi32(part[2], part[3]));
    _mm_storeu_si128((__m128i *)sums, all);
}

static ALWAYS_INLINE TARGET_VNNI __m512i high_and_low(__m512i high, __m512i low)
{
    return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

static ALWAYS_INLINE TARGET_VNNI void add_columns(__m512i high[QUAD], __m512i low[QUAD], const quad *codes, size_t j,
                                                  __mmask64 mask, const char *query)
{
    const __m512i h = _mm512_loadu_si512(query + 2 * j), l = _mm512_loadu_si512(query + 2 * j + 64);
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++) {
        const __m512i some = _mm512_maskz_loadu_epi8(mask, codes->rows[r] + j);
        high[r] = _mm512_dpbusd_epi32(high[r], some, h);
        low[r] = _mm512_dpbusd_epi32(low[r], some, l);
    }
}

static ALWAYS_INLINE __mmask64 columns_mask(const quad *codes, size_t j)
{
    return codes->columns - j < 64 ? ~(__mmask64)0 >> (64 - (codes->columns - j)) : ~(__mmask64)0;
}

static TARGET_VNNI void quad_sums(const quad *codes, const char *query, int32_t sums[QUAD])
{
    __m512i high[QUAD], low[QUAD];
    size_t j = 0;
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++)
        high[r] = low[r] = _mm512_setzero_si512();
    for (; j + 64 <= codes->columns; j += 64)
        add_columns(high, low, codes, j, ~(__mmask64)0, query);
    if (j < codes->columns)
        add_columns(high, low, codes, j, columns_mask(codes, j), query);
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++)
        low[r] = high_and_low(high[r], low[r]);
    sum_lanes(low, sums);
}

/* Codes are asked for so many bytes ahead: a scan of 200,000 rows of 768 took 8 ms, and 11 ms without, where reading
 * them once takes 6 (Zen 4). */
#define BYTES_AHEAD 12288

/* The same for the first query, with sum((code - 128)^2), as sum(code * (code - 128)) - 128 * sum(code - 128). The
 * codes come from memory here: row after row, which is read faster than four rows side by side. */
static TARGET_VNNI void quad_sums_and_squares(const quad *codes, const char *query, int32_t sums[QUAD],
                                              int32_t squares[QUAD])
{
    const __m512i sign = _mm512_set1_epi8((char)0x80), one = _mm512_set1_epi8(1);
    __m512i product[QUAD], square[QUAD], plain[QUAD];
    int32_t plain_sums[QUAD];
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++) {
        __m512i high = _mm512_setzero_si512(), low = high;
        square[r] = plain[r] = high;
        for (size_t j = 0; j < codes->columns; j += 64) {
            const __m512i some = _mm512_maskz_loadu_epi8(columns_mask(codes, j), codes->rows[r] + j);
            __builtin_prefetch(codes->rows[r] + j + BYTES_AHEAD, 0, INTO_L2);
            high = _mm512_dpbusd_epi32(high, some, _mm512_loadu_si512(query + 2 * j));
            low = _mm512_dpbusd_epi32(low, some, _mm512_loadu_si512(query + 2 * j + 64));
            square[r] = _mm512_dpbusd_epi32(square[r], some, _mm512_xor_si512(some, sign));
            plain[r] = _mm512_dpbusd_epi32(plain[r], some, one);
        }
        product[r] = high_and_low(high, low);
    }
    sum_lanes(product, sums);
    sum_lanes(square, squares);
    sum_lanes(plain, plain_sums);
    for (int r = 0; r < QUAD; r++)
        squares[r] -= 128 * (plain_sums[r] - 128 * (int32_t)codes->columns);
}

/* One chunk of a tile. A query's bytes stay in the first-level cache for all rows of the tile. */
static TARGET_VNNI void score_chunk_vnni(const score_job *job, size_t first, size_t rows, size_t start, double *sums,
                                         double *squares)
{
    quad quads[TILE_ROWS / QUAD];
    int32_t found[QUAD], found_squares[QUAD];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const size_t row = first + (r < rows ? r : rows - 1); /* past the last one, it once more */
        quads[r / QUAD].rows[r % QUAD] = (const uint8_t *)row_of(&job->codes, row) + start;
        quads[r / QUAD].columns = job->codes.dim - start < CHUNK ? job->codes.dim - start : CHUNK;
    }
    for (size_t q = 0; q < job->count; q++) {
        const char *query = job->queries + 2 * (q * job->width + start);
        for (size_t r = 0; r < rows; r += QUAD) {
            const size_t n = rows - r < QUAD ? rows - r : QUAD;
            if (q == 0)
                quad_sums_and_squares(&quads[r / QUAD], query, found, found_squares);
            else
                quad_sums(&quads[r / QUAD], query, found);
            for (size_t i = 0; i < n; i++)
                sums[q * TILE_ROWS + r + i] += found[i];
            for (size_t i = 0; q == 0 && i < n; i++)
                squares[r + i] += found_squares[i];
        }
    }
}

void score_tile_avx512(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    if (!has_vnni()) {
        score_tile_avx2(job, first, rows, sums, squares);
        return;
    }
    for (size_t q = 0; q < job->count; q++)
        for (size_t r = 0; r < rows; r++)
            sums[q * TILE_ROWS + r] -= 128.0 * job->query_sums[q];
    for (size_t start = 0; start < job->codes.dim; start += CHUNK)
        score_chunk_vnni(job, first, rows, start, sums, squares);
}

#endif
