/* Integer scores: sums of (code - 128) * query over a tile of rows, at every dispatch level; and squared norms.
 *
 * A level may leave out a part of each query, and tell its size, as long as it can add it later to any sum. All is
 * exact. With |code - 128| <= 128 and |query| <= 2^13 a chunk of 2^10 columns adds up to at most 2^30, within
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
    score_body(job, first, rows, sums, squares);
}

#if QSTORE_X86

laid_query lay_out_query_avx2(const char *values, size_t width, char *out)
{
    return lay_out_query_baseline(values, width, out);
}

double left_out_avx2(const score_job *job, size_t query, size_t row)
{
    return left_out_baseline(job, query, row);
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
 * a query as UPPER * high + low. A tile is scored by the high bytes, which lie before the low ones; few rows are so
 * near the best that the low ones matter. What the zero point adds, 128 * sum(high), is taken off. */
enum { UPPER = 64 };

TARGET_AVX512 laid_query lay_out_query_avx512(const char *values, size_t width, char *out)
{
    if (!has_vnni())
        return lay_out_query_baseline(values, width, out);
    int64_t sum = 0, left_out = 0;
    for (size_t j = 0; j < width; j++) {
        const int value = load_int16(values + 2 * j), nearest = (value + UPPER / 2) >> 6;
        const int high = nearest > INT8_MAX ? INT8_MAX : nearest, low = value - UPPER * high;
        out[j] = (char)high;
        out[width + j] = (char)low;
        sum += high;
        left_out += low * low;
    }
    return (laid_query){UPPER * (double)sum, (double)left_out};
}

TARGET_AVX512 double left_out_avx512(const score_job *job, size_t query, size_t row)
{
    if (!has_vnni())
        return 0.0;
    const uint8_t *codes = (const uint8_t *)row_of(&job->codes, row);
    const int8_t *low = (const int8_t *)job->queries + (2 * query + 1) * job->width;
    double total = 0.0;
    for (size_t start = 0; start < job->codes.dim; start += CHUNK) {
        const size_t n = job->codes.dim - start < CHUNK ? job->codes.dim - start : CHUNK;
        int32_t sum = 0;
        for (size_t j = start; j < start + n; j++)
            sum += (codes[j] - 128) * low[j];
        total += sum;
    }
    return total;
}

enum { QUAD = 4 };

/* Some columns of four rows: at most 2^10, so that sums are below 255 * 2^7 * 2^10. */
typedef struct {
    const uint8_t *rows[QUAD];
    size_t columns;
} quad;

/* The sums of the 32-bit lanes of a and b, which take turns: ab ab ab ab. */
static ALWAYS_INLINE TARGET_VNNI __m512i merge_lanes(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

/* The sums of the lanes of sixteen registers, in their order. */
static ALWAYS_INLINE TARGET_VNNI __m512i sum_lanes(const __m512i x[QUAD * QUAD])
{
    __m512i four[QUAD], eight[2];
#pragma GCC unroll 4
    for (int i = 0; i < QUAD; i++) {
        const __m512i a = merge_lanes(x[4 * i], x[4 * i + 1]), b = merge_lanes(x[4 * i + 2], x[4 * i + 3]);
        four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        eight[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(four[2 * i], four[2 * i + 1], 0x88),
                                    _mm512_shuffle_i32x4(four[2 * i], four[2 * i + 1], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(eight[0], eight[1], 0x88),
                            _mm512_shuffle_i32x4(eight[0], eight[1], 0xdd));
}

/* Of the last 1 to 63 columns. */
static ALWAYS_INLINE __mmask64 columns_mask(size_t columns)
{
    return ~(__mmask64)0 >> (64 - columns);
}

static ALWAYS_INLINE TARGET_VNNI void add_columns(__m512i sums[QUAD * QUAD], const quad *codes, size_t j,
                                                  __mmask64 mask, const char *const queries[QUAD])
{
    __m512i some[QUAD];
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++)
        some[r] = _mm512_maskz_loadu_epi8(mask, codes->rows[r] + j);
#pragma GCC unroll 4
    for (int q = 0; q < QUAD; q++) {
        const __m512i high = _mm512_loadu_si512(queries[q] + j);
#pragma GCC unroll 4
        for (int r = 0; r < QUAD; r++)
            sums[QUAD * q + r] = _mm512_dpbusd_epi32(sums[QUAD * q + r], some[r], high);
    }
}

/* Sums of four rows for each of four queries. */
static TARGET_VNNI __m512i quad_sums(const quad *codes, const char *const queries[QUAD])
{
    __m512i sums[QUAD * QUAD];
    size_t j = 0;
#pragma GCC unroll 16
    for (int i = 0; i < QUAD * QUAD; i++)
        sums[i] = _mm512_setzero_si512();
    for (; j + 64 <= codes->columns; j += 64)
        add_columns(sums, codes, j, ~(__mmask64)0, queries);
    if (j < codes->columns)
        add_columns(sums, codes, j, columns_mask(codes->columns - j), queries);
    return sum_lanes(sums);
}

/* 64 codes that come from memory, which is read 10 % faster by halves than whole (Zen 4). */
static ALWAYS_INLINE TARGET_VNNI __m512i load_halves(const uint8_t *codes)
{
    const __m256i half = _mm256_loadu_si256((const __m256i *)codes);
    return _mm512_inserti64x4(_mm512_castsi256_si512(half), _mm256_loadu_si256((const __m256i *)(codes + 32)), 1);
}

/* Adds 64 codes of a row: their products, code * (code - 128), and -128 * code. */
static ALWAYS_INLINE TARGET_VNNI void add_first(__m512i sums[3], __m512i codes, const char *query)
{
    const __m512i least = _mm512_set1_epi8((char)0x80);
    sums[0] = _mm512_dpbusd_epi32(sums[0], codes, _mm512_loadu_si512(query));
    sums[1] = _mm512_dpbusd_epi32(sums[1], codes, _mm512_xor_si512(codes, least));
    sums[2] = _mm512_dpbusd_epi32(sums[2], codes, least);
}

/* Eight rows for the first query: the sums of products, and then those of squares less 128^2 a column. Row after row,
 * which is read faster than rows side by side, and without asking for them ahead of use: 200,000 rows of 768 took
 * 5.8 ms so, 7 with requests 2 to 4 KiB ahead, and reading them alone 5.1 (Zen 4). */
static TARGET_VNNI __m512i first_sums(const uint8_t *const rows[2 * QUAD], size_t columns, const char *query)
{
    __m512i sums[QUAD * QUAD];
#pragma GCC unroll 8
    for (int r = 0; r < 2 * QUAD; r++) {
        __m512i found[3] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
        size_t j = 0;
        for (; j + 64 <= columns; j += 64)
            add_first(found, load_halves(rows[r] + j), query + j);
        if (j < columns)
            add_first(found, _mm512_maskz_loadu_epi8(columns_mask(columns - j), rows[r] + j), query + j);
        sums[r] = found[0];
        sums[2 * QUAD + r] = _mm512_add_epi32(found[1], found[2]);
    }
    return sum_lanes(sums);
}

/* Adds UPPER * n to four doubles. */
static ALWAYS_INLINE TARGET_VNNI void add_upper(__m128i n, double *sums)
{
    _mm256_storeu_pd(sums, _mm256_fmadd_pd(_mm256_cvtepi32_pd(n), _mm256_set1_pd(UPPER), _mm256_loadu_pd(sums)));
}

static ALWAYS_INLINE TARGET_VNNI void score_first(const quad *codes, const char *query, double *sums, double *squares)
{
    const uint8_t *rows[2 * QUAD];
    memcpy(rows, codes[0].rows, sizeof codes[0].rows);
    memcpy(rows + QUAD, codes[1].rows, sizeof codes[1].rows);
    const __m512i found = first_sums(rows, codes->columns, query);
    const __m256i less = _mm512_extracti64x4_epi64(found, 1), all = _mm256_set1_epi32(128 * 128 * (int)codes->columns);
    const __m512d more = _mm512_cvtepi32_pd(_mm256_add_epi32(less, all));
    const __m512d high = _mm512_cvtepi32_pd(_mm512_castsi512_si256(found));
    _mm512_storeu_pd(sums, _mm512_fmadd_pd(high, _mm512_set1_pd(UPPER), _mm512_loadu_pd(sums)));
    _mm512_storeu_pd(squares, _mm512_add_pd(_mm512_loadu_pd(squares), more));
}

/* Four queries from the q-th on; where there are fewer, the last one once more. */
static ALWAYS_INLINE TARGET_VNNI void score_four(const score_job *job, const quad *codes, size_t q, size_t start,
                                                 double *sums)
{
    const size_t n = job->count - q < QUAD ? job->count - q : QUAD;
    const char *queries[QUAD];
    int32_t found[QUAD * QUAD];
    for (size_t i = 0; i < QUAD; i++)
        queries[i] = job->queries + 2 * (q + (i < n ? i : n - 1)) * job->width + start;
    _mm512_storeu_si512(found, quad_sums(codes, queries));
    for (size_t i = 0; i < n; i++)
        add_upper(_mm_loadu_si128((const __m128i *)(found + QUAD * i)), sums + (q + i) * TILE_ROWS);
}

/* One chunk of a tile. The bytes of four queries stay in the first-level cache for all rows of the tile. */
static TARGET_VNNI void score_chunk_vnni(const score_job *job, size_t first, size_t rows, size_t start, double *sums,
                                         double *squares)
{
    quad quads[TILE_ROWS / QUAD];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const size_t row = first + (r < rows ? r : rows - 1); /* past the last one, it once more */
        quads[r / QUAD].rows[r % QUAD] = (const uint8_t *)row_of(&job->codes, row) + start;
        quads[r / QUAD].columns = job->codes.dim - start < CHUNK ? job->codes.dim - start : CHUNK;
    }
    for (size_t r = 0; r < rows; r += 2 * QUAD)
        score_first(&quads[r / QUAD], job->queries + start, sums + r, squares + r);
    for (size_t q = 1; q < job->count; q += QUAD)
        for (size_t r = 0; r < rows; r += QUAD)
            score_four(job, &quads[r / QUAD], q, start, sums + r);
}

void score_tile_avx512(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    if (!has_vnni()) {
        score_tile_avx2(job, first, rows, sums, squares);
        return;
    }
    for (size_t q = 0; q < job->count; q++)
        for (size_t r = 0; r < TILE_ROWS; r++)
            sums[q * TILE_ROWS + r] -= 128.0 * job->laid[q].sum;
    for (size_t start = 0; start < job->codes.dim; start += CHUNK)
        score_chunk_vnni(job, first, rows, start, sums, squares);
}

#endif
