/* Integer scores with AVX2 and with VNNI, from the upper bits of the queries.
 *
 * Both levels multiply unsigned by signed bytes: codes as they are, and a query as UPPER * high + low. A tile is
 * scored by the high bytes, which lie before the low ones; few rows are so near the best that the low ones matter.
 * What the zero point adds, 128 * sum(high), is taken off. All is exact: in int32 up to 2^10 columns, then in double. */
#include "vnni.h"

#if QSTORE_X86

enum {
    CHUNK = 1024,
    QUAD = 4,
    UPPER_AVX2 = 128, /* |high| <= 64: maddubs adds two products, 2 * 255 * 64, in an int16 */
    UPPER_VNNI = 64
};

/* Some columns of four rows. */
typedef struct {
    const uint8_t *rows[QUAD];
    size_t columns;
} quad;

static ALWAYS_INLINE laid_query split_query(const char *values, size_t width, char *out, int upper)
{
    int64_t sum = 0, left_out = 0;
    for (size_t j = 0; j < width; j++) {
        const int value = load_int16(values + 2 * j), nearest = (value + upper / 2) >> __builtin_ctz((unsigned)upper);
        const int high = nearest > INT8_MAX ? INT8_MAX : nearest, low = value - upper * high;
        out[j] = (char)high;
        out[width + j] = (char)low;
        sum += high;
        left_out += low * low;
    }
    return (laid_query){upper * (double)sum, (double)left_out};
}

static ALWAYS_INLINE double sum_of_low(const score_job *job, size_t query, size_t row)
{
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

/* Adds to the sums of eight rows for one query, and to their squares; and to those of four rows for a group. */
typedef void score_first(const quad codes[2], const char *query, double *sums, double *squares);
typedef void score_group(const score_job *job, const quad *codes, size_t q, size_t start, double *sums);

/* One chunk of a tile. The first query reads the codes from memory; the bytes of a group of queries stay in the
 * first-level cache for all rows of the tile. */
static ALWAYS_INLINE void score_chunk(const score_job *job, size_t first, size_t rows, size_t start, double *sums,
                                      double *squares, score_first *one, score_group *some, size_t group)
{
    quad quads[TILE_ROWS / QUAD];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const size_t row = first + (r < rows ? r : rows - 1); /* past the last one, it once more */
        quads[r / QUAD].rows[r % QUAD] = (const uint8_t *)row_of(&job->codes, row) + start;
        quads[r / QUAD].columns = job->codes.dim - start < CHUNK ? job->codes.dim - start : CHUNK;
    }
    for (size_t r = 0; r < rows; r += 2 * QUAD)
        one(&quads[r / QUAD], job->queries + start, sums + r, squares + r);
    for (size_t q = 1; q < job->count; q += group)
        for (size_t r = 0; r < rows; r += QUAD)
            some(job, &quads[r / QUAD], q, start, sums + r);
}

static ALWAYS_INLINE void score_tile(const score_job *job, size_t first, size_t rows, double *sums, double *squares,
                                     score_first *one, score_group *some, size_t group)
{
    for (size_t q = 0; q < job->count; q++)
        for (size_t r = 0; r < TILE_ROWS; r++)
            sums[q * TILE_ROWS + r] -= 128.0 * job->laid[q].sum;
    for (size_t start = 0; start < job->codes.dim; start += CHUNK)
        score_chunk(job, first, rows, start, sums, squares, one, some, group);
}

/* The high bytes of some queries from the q-th on; where there are fewer, the last one once more. */
static ALWAYS_INLINE size_t group_of(const score_job *job, size_t q, size_t start, size_t group, const char **queries)
{
    const size_t n = job->count - q < group ? job->count - q : group;
    for (size_t i = 0; i < group; i++)
        queries[i] = job->queries + 2 * (q + (i < n ? i : n - 1)) * job->width + start;
    return n;
}

/* Adds upper * n to four doubles. */
static ALWAYS_INLINE TARGET_AVX2 void add_upper(__m128i n, int upper, double *sums)
{
    const __m256d more = _mm256_mul_pd(_mm256_cvtepi32_pd(n), _mm256_set1_pd(upper));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), more));
}

/* AVX2 ------------------------------------------------------------------------------------------------------------ */

enum { PAIR = 2 };

/* The sums of the lanes of four registers, in their order. */
static ALWAYS_INLINE TARGET_AVX2 __m128i sum_lanes_avx2(const __m256i x[QUAD])
{
    const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

static ALWAYS_INLINE TARGET_AVX2 __m256i load_32(const uint8_t *codes)
{
    return _mm256_loadu_si256((const __m256i *)codes);
}

/* The last columns, and zeros, which are 128. */
static ALWAYS_INLINE TARGET_AVX2 __m256i load_last(const uint8_t *codes, size_t columns)
{
    uint8_t padded[32];
    memset(padded, 128, sizeof padded);
    memcpy(padded, codes, columns);
    return load_32(padded);
}

static ALWAYS_INLINE TARGET_AVX2 __m256i add_products(__m256i sum, __m256i codes, __m256i query)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, query), _mm256_set1_epi16(1)));
}

/* Of a row, lane by lane: sums of products and of squares, and the largest distances from the zero point. */
typedef struct {
    __m256i products, squares, largest;
} row_lanes;

/* The distance of code 0 is 128, which is -128 where it is signed: its square comes out as -128^2. Two of these still
 * fit an int16, so each takes 2^15 from the sum. */
static ALWAYS_INLINE TARGET_AVX2 void add_first_avx2(row_lanes *row, __m256i codes, __m256i query)
{
    const __m256i distances = _mm256_abs_epi8(_mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80)));
    row->products = add_products(row->products, codes, query);
    row->squares = add_products(row->squares, distances, distances);
    row->largest = _mm256_max_epu8(row->largest, distances);
}

static __attribute__((noinline)) int32_t count_zeros(const uint8_t *codes, size_t columns)
{
    int32_t found = 0;
    for (size_t j = 0; j < columns; j++)
        found += codes[j] == 0;
    return found;
}

/* The first query also finds the squares. Row after row: memory is read faster so. */
static TARGET_AVX2 void score_first_avx2(const quad codes[2], const char *query, double *sums, double *squares)
{
    const size_t columns = codes->columns;
    for (size_t r = 0; r < 2 * QUAD; r += QUAD) {
        __m256i found[QUAD], found_squares[QUAD];
        int32_t missing[QUAD];
        for (size_t i = 0; i < QUAD; i++) {
            const uint8_t *row = codes[r / QUAD].rows[i];
            row_lanes some = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
            size_t j = 0;
            for (; j + 32 <= columns; j += 32)
                add_first_avx2(&some, load_32(row + j), load_32((const uint8_t *)query + j));
            if (j < columns)
                add_first_avx2(&some, load_last(row + j, columns - j), load_32((const uint8_t *)query + j));
            found[i] = some.products;
            found_squares[i] = some.squares;
            missing[i] = _mm256_movemask_epi8(some.largest) == 0 ? 0 : count_zeros(row, columns);
        }
        const __m128i all_missing = _mm_slli_epi32(_mm_loadu_si128((const __m128i *)missing), 15);
        add_upper(sum_lanes_avx2(found), UPPER_AVX2, sums + r);
        add_upper(_mm_add_epi32(sum_lanes_avx2(found_squares), all_missing), 1, squares + r);
    }
}

static ALWAYS_INLINE TARGET_AVX2 void add_columns_avx2(__m256i sums[PAIR * QUAD], const __m256i codes[QUAD],
                                                       const char *const queries[PAIR], size_t j)
{
#pragma GCC unroll 2
    for (int q = 0; q < PAIR; q++) {
        const __m256i high = load_32((const uint8_t *)queries[q] + j);
#pragma GCC unroll 4
        for (int r = 0; r < QUAD; r++)
            sums[QUAD * q + r] = add_products(sums[QUAD * q + r], codes[r], high);
    }
}

static TARGET_AVX2 void score_pair_avx2(const score_job *job, const quad *codes, size_t q, size_t start, double *sums)
{
    const char *queries[PAIR];
    const size_t n = group_of(job, q, start, PAIR, queries);
    __m256i found[PAIR * QUAD], some[QUAD];
    size_t j = 0;
#pragma GCC unroll 8
    for (int i = 0; i < PAIR * QUAD; i++)
        found[i] = _mm256_setzero_si256();
    for (; j + 32 <= codes->columns; j += 32) {
#pragma GCC unroll 4
        for (int r = 0; r < QUAD; r++)
            some[r] = load_32(codes->rows[r] + j);
        add_columns_avx2(found, some, queries, j);
    }
    if (j < codes->columns) {
        for (int r = 0; r < QUAD; r++)
            some[r] = load_last(codes->rows[r] + j, codes->columns - j);
        add_columns_avx2(found, some, queries, j);
    }
    for (size_t i = 0; i < n; i++)
        add_upper(sum_lanes_avx2(found + QUAD * i), UPPER_AVX2, sums + (q + i) * TILE_ROWS);
}

TARGET_AVX2 laid_query lay_out_query_avx2(const char *values, size_t width, char *out)
{
    return split_query(values, width, out, UPPER_AVX2);
}

TARGET_AVX2 double left_out_avx2(const score_job *job, size_t query, size_t row)
{
    return sum_of_low(job, query, row);
}

TARGET_AVX2 void score_tile_avx2(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    score_tile(job, first, rows, sums, squares, score_first_avx2, score_pair_avx2, PAIR);
}

/* VNNI: 64 products, added up four at a time ----------------------------------------------------------------------- */

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

static ALWAYS_INLINE TARGET_VNNI void add_columns(__m512i *sums, const quad *codes, size_t j, __mmask64 mask,
                                                  const char *const *queries, int count)
{
    __m512i some[QUAD];
#pragma GCC unroll 4
    for (int r = 0; r < QUAD; r++)
        some[r] = _mm512_maskz_loadu_epi8(mask, codes->rows[r] + j);
#pragma GCC unroll 4
    for (int q = 0; q < count; q++) {
        const __m512i high = _mm512_loadu_si512(queries[q] + j);
#pragma GCC unroll 4
        for (int r = 0; r < QUAD; r++)
            sums[QUAD * q + r] = _mm512_dpbusd_epi32(sums[QUAD * q + r], some[r], high);
    }
}

/* Sums of four rows for each of up to four queries. */
static ALWAYS_INLINE TARGET_VNNI __m512i quad_sums(const quad *codes, const char *const *queries, int count)
{
    __m512i sums[QUAD * QUAD];
    size_t j = 0;
#pragma GCC unroll 16
    for (int i = 0; i < QUAD * QUAD; i++)
        sums[i] = _mm512_setzero_si512();
    for (; j + 64 <= codes->columns; j += 64)
        add_columns(sums, codes, j, ~(__mmask64)0, queries, count);
    if (j < codes->columns)
        add_columns(sums, codes, j, columns_mask(codes->columns - j), queries, count);
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

static TARGET_VNNI void score_first_vnni(const quad codes[2], const char *query, double *sums, double *squares)
{
    const uint8_t *rows[2 * QUAD];
    memcpy(rows, codes[0].rows, sizeof codes[0].rows);
    memcpy(rows + QUAD, codes[1].rows, sizeof codes[1].rows);
    const __m512i found = first_sums(rows, codes->columns, query);
    const __m256i less = _mm512_extracti64x4_epi64(found, 1), all = _mm256_set1_epi32(128 * 128 * (int)codes->columns);
    const __m512d more = _mm512_cvtepi32_pd(_mm256_add_epi32(less, all));
    const __m512d high = _mm512_mul_pd(_mm512_cvtepi32_pd(_mm512_castsi512_si256(found)), _mm512_set1_pd(UPPER_VNNI));
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), high));
    _mm512_storeu_pd(squares, _mm512_add_pd(_mm512_loadu_pd(squares), more));
}

static TARGET_VNNI void score_four_vnni(const score_job *job, const quad *codes, size_t q, size_t start, double *sums)
{
    const char *queries[QUAD];
    int32_t found[QUAD * QUAD];
    const size_t n = group_of(job, q, start, QUAD, queries);
    _mm512_storeu_si512(found, n == 1 ? quad_sums(codes, queries, 1) : quad_sums(codes, queries, QUAD));
    for (size_t i = 0; i < n; i++)
        add_upper(_mm_loadu_si128((const __m128i *)(found + QUAD * i)), UPPER_VNNI, sums + (q + i) * TILE_ROWS);
}

TARGET_AVX512 laid_query lay_out_query_avx512(const char *values, size_t width, char *out)
{
    return split_query(values, width, out, has_vnni() ? UPPER_VNNI : UPPER_AVX2);
}

TARGET_AVX512 double left_out_avx512(const score_job *job, size_t query, size_t row)
{
    return sum_of_low(job, query, row);
}

TARGET_AVX512 void score_tile_avx512(const score_job *job, size_t first, size_t rows, double *sums, double *squares)
{
    if (has_vnni())
        score_tile(job, first, rows, sums, squares, score_first_vnni, score_four_vnni, QUAD);
    else
        score_tile(job, first, rows, sums, squares, score_first_avx2, score_pair_avx2, PAIR);
}

#endif
