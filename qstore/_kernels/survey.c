/* What statistics need of every code, in one pass: a tile of rows at a time, so that each is read from memory once
 * and from the caches after that.
 *
 * Whole numbers are exact, and columns are added up in float64 in the order of the rows, a multiplication and an
 * addition each, never fused: the specification is qstore.survey. */
#include "kernels.h"
#include "shifted.h"

/* A tile stays in the first-level cache or close to it; the counts of a column fit a byte. */
#define TILE_BYTES 32768
#define BLOCK_COLUMNS 64
/* The sum of so many squares of up to 128 fits an int32. */
#define CHUNK_CODES 65536

#define HASH_LANES 8
#define HASH_STRIPE 64
#define HASH_START 0x9E3779B97F4A7C15u
#define HASH_STEP 0x9E3779B1u
#define HASH_MIX 0xC2B2AE3D27D4EB4Fu

static ALWAYS_INLINE int32_t sum_of_squares_body(const uint8_t *codes, size_t n)
{
    int32_t sum = 0;
    for (size_t j = 0; j < n; j++) {
        int16_t centred = (int16_t)(codes[j] - 128);
        sum += (int32_t)centred * (int32_t)centred;
    }
    return sum;
}

/* One step is a bijection of the lane: rows that differ in one word of 8 codes never meet here. */
static ALWAYS_INLINE void hash_stripes_body(const uint8_t *codes, size_t stripes, uint64_t *lanes)
{
    for (size_t i = 0; i < stripes; i++)
        for (size_t k = 0; k < HASH_LANES; k++) {
            uint64_t word = load_uint64((const char *)codes + HASH_STRIPE * i + 8 * k);
            lanes[k] = ((lanes[k] ^ (lanes[k] >> 47)) ^ word) * HASH_STEP;
        }
}

static ALWAYS_INLINE void count_codes(uint64_t eight, uint64_t (*tables)[256])
{
    /* Neighbors often are alike: four tables, so that a count need not wait for the one before it. */
    for (int k = 0; k < 8; k++)
        tables[k % SURVEY_TABLES][(eight >> (8 * k)) & 0xff]++;
}

static ALWAYS_INLINE void survey_columns_body(survey_tile *tile, size_t column, size_t n, double *sums,
                                              double *energies, uint8_t *peaks)
{
    for (size_t i = 0; i < tile->codes.rows; i++) {
        const uint8_t *codes = (const uint8_t *)row_of(&tile->codes, i) + column;
        const double scale = tile->scales[i];
        for (size_t j = 0; j < n; j++) {
            int32_t centred = (int32_t)codes[j] - 128;
            double value = scale * (double)centred;
            sums[j] += value;
            energies[j] += value * value;
            peaks[j] = (uint8_t)(peaks[j] + (centred >= 127 || centred <= -127));
        }
        size_t j = 0;
        for (; j + 8 <= n; j += 8)
            count_codes(load_uint64((const char *)codes + j), tile->tables);
        for (; j < n; j++)
            tile->tables[0][codes[j]]++;
    }
}

#define COMPILE_FOR(level, target)                                                                                \
    target int32_t sum_of_squares_##level(const uint8_t *codes, size_t n) { return sum_of_squares_body(codes, n); } \
    target void hash_stripes_##level(const uint8_t *codes, size_t stripes, uint64_t *lanes)                       \
    {                                                                                                             \
        hash_stripes_body(codes, stripes, lanes);                                                                 \
    }

#define COMPILE_COLUMNS_FOR(level, target)                                                                        \
    target void survey_columns_##level(survey_tile *tile, size_t column, size_t n, double *sums,            \
                                       double *energies, uint8_t *peaks)                                          \
    {                                                                                                             \
        survey_columns_body(tile, column, n, sums, energies, peaks);                                              \
    }

COMPILE_FOR(baseline, )
COMPILE_COLUMNS_FOR(baseline, )

#if QSTORE_X86

COMPILE_FOR(avx2, TARGET_AVX2)
COMPILE_FOR(avx512, TARGET_AVX512)
COMPILE_COLUMNS_FOR(avx2, TARGET_AVX2)

/* 64 columns: all their sums are registers. Counting codes fills the units that adding up leaves idle. */
static TARGET_AVX512 void survey_64_avx512(survey_tile *tile, size_t column, double *sums, double *energies,
                                           uint8_t *peaks)
{
    const __m512d zero_point = _mm512_set1_pd(SHIFTED_ZERO_POINT);
    const __m512i sign = _mm512_set1_epi8((char)0x80), almost = _mm512_set1_epi8(127), one = _mm512_set1_epi8(1);
    __m512d sum[8], energy[8];
    __m512i peak = _mm512_loadu_si512(peaks);
#pragma GCC unroll 8
    for (size_t g = 0; g < 8; g++) {
        sum[g] = _mm512_loadu_pd(sums + 8 * g);
        energy[g] = _mm512_loadu_pd(energies + 8 * g);
    }
    for (size_t i = 0; i < tile->codes.rows; i++) {
        const char *codes = row_of(&tile->codes, i) + column;
        const __m512d scale = _mm512_set1_pd(tile->scales[i]);
        __m512i magnitude = _mm512_abs_epi8(_mm512_xor_si512(_mm512_loadu_si512(codes), sign));
        peak = _mm512_mask_add_epi8(peak, _mm512_cmpge_epu8_mask(magnitude, almost), peak, one);
#pragma GCC unroll 8
        for (size_t g = 0; g < 8; g++) {
            __m512d shifted = shifted_codes_avx512(codes + 8 * g);
            __m512d value = _mm512_mul_pd(scale, _mm512_sub_pd(shifted, zero_point));
            sum[g] = _mm512_add_pd(sum[g], value);
            energy[g] = _mm512_add_pd(energy[g], _mm512_mul_pd(value, value));
            count_codes(load_uint64(codes + 8 * g), tile->tables);
        }
    }
#pragma GCC unroll 8
    for (size_t g = 0; g < 8; g++) {
        _mm512_storeu_pd(sums + 8 * g, sum[g]);
        _mm512_storeu_pd(energies + 8 * g, energy[g]);
    }
    _mm512_storeu_si512(peaks, peak);
}

TARGET_AVX512 void survey_columns_avx512(survey_tile *tile, size_t column, size_t n, double *sums,
                                         double *energies, uint8_t *peaks)
{
    if (n == BLOCK_COLUMNS)
        survey_64_avx512(tile, column, sums, energies, peaks);
    else
        survey_columns_body(tile, column, n, sums, energies, peaks);
}

#endif

static void add_to(const vector *counts, size_t i, int64_t more)
{
    char *place = counts->data + (ptrdiff_t)i * counts->stride;
    int64_t count = load_int64(place) + more;
    memcpy(place, &count, sizeof count);
}

static void add_tables(const survey_tile *tile, const vector *histogram)
{
    for (size_t code = 0; code < 256; code++)
        for (size_t k = 0; k < SURVEY_TABLES; k++)
            add_to(histogram, code, (int64_t)tile->tables[k][code]);
}

static int64_t square_of(const uint8_t *codes, size_t n)
{
    int64_t sum = 0;
    for (size_t start = 0; start < n; start += CHUNK_CODES)
        sum += active_kernels->sum_of_squares(codes + start, n - start < CHUNK_CODES ? n - start : CHUNK_CODES);
    return sum;
}

static uint64_t hash_of(const uint8_t *codes, size_t n, double scale)
{
    uint64_t lanes[HASH_LANES], hash;
    uint8_t last[HASH_STRIPE] = {0};
    const size_t stripes = n / HASH_STRIPE;
    for (size_t k = 0; k < HASH_LANES; k++)
        lanes[k] = HASH_START * (k + 1);
    active_kernels->hash_stripes(codes, stripes, lanes);
    memcpy(last, codes + HASH_STRIPE * stripes, n - HASH_STRIPE * stripes);
    active_kernels->hash_stripes(last, 1, lanes);
    memcpy(&hash, &scale, sizeof hash);
    for (size_t k = 0; k < HASH_LANES; k++) {
        hash = (hash ^ lanes[k]) * HASH_MIX;
        hash ^= hash >> 32;
    }
    return hash;
}

static void survey_block(const survey_job *job, survey_tile *tile, size_t column, size_t n)
{
    double sums[BLOCK_COLUMNS], energies[BLOCK_COLUMNS];
    uint8_t peaks[BLOCK_COLUMNS] = {0};
    char *all_sums = row_of(&job->columns, 0) + column * sizeof *sums;
    char *all_energies = row_of(&job->columns, 1) + column * sizeof *energies;
    memcpy(sums, all_sums, n * sizeof *sums);
    memcpy(energies, all_energies, n * sizeof *energies);
    active_kernels->survey_columns(tile, column, n, sums, energies, peaks);
    memcpy(all_sums, sums, n * sizeof *sums);
    memcpy(all_energies, energies, n * sizeof *energies);
    for (size_t j = 0; j < n; j++)
        add_to(&job->peaks, column + j, peaks[j]);
}

static void survey_each_row(const survey_job *job, const survey_tile *tile, size_t first)
{
    for (size_t i = 0; i < tile->codes.rows; i++) {
        const uint8_t *codes = (const uint8_t *)row_of(&tile->codes, i);
        int64_t square = square_of(codes, tile->codes.dim);
        uint64_t hash = hash_of(codes, tile->codes.dim, tile->scales[i]);
        memcpy(row_of(&job->rows, 0) + (first + i) * sizeof square, &square, sizeof square);
        memcpy(row_of(&job->rows, 1) + (first + i) * sizeof hash, &hash, sizeof hash);
    }
}

void survey_rows(const survey_job *job)
{
    survey_tile tile = {.codes = job->codes};
    const size_t rows = job->codes.rows, dim = job->codes.dim;
    const size_t fitting = dim > 0 ? TILE_BYTES / dim : SURVEY_ROWS;
    const size_t step = fitting < 1 ? 1 : fitting < SURVEY_ROWS ? fitting : SURVEY_ROWS;
    for (size_t first = 0; first < rows; first += step) {
        tile.codes.data = row_of(&job->codes, first);
        tile.codes.rows = rows - first < step ? rows - first : step;
        for (size_t i = 0; i < tile.codes.rows; i++)
            tile.scales[i] = float64_of(&job->scales, first + i);
        survey_each_row(job, &tile, first);
        for (size_t column = 0; column < dim; column += BLOCK_COLUMNS)
            survey_block(job, &tile, column, dim - column < BLOCK_COLUMNS ? dim - column : BLOCK_COLUMNS);
    }
    add_tables(&tile, &job->histogram);
}
