/* What statistics need of every code, in one pass: a tile of rows at a time, so that each is read from memory once
 * and from the caches after that.
 *
 * Whole numbers are exact, and columns are added up in float64 in the order of the rows, a multiplication and an
 * addition each, never fused: the specification is qstore.survey. */
#include "kernels.h"
#include "shifted.h"

/* A tile stays in the second-level cache. */
#define TILE_BYTES 262144
#define STRIPE SURVEY_STRIPE
/* The sum of so many squares of up to 128 fits an int32. */
#define CHUNK_COLUMNS 65536

#define HASH_START 0x9E3779B97F4A7C15u
#define HASH_STEP 0x9E3779B1u
#define HASH_MIX 0xC2B2AE3D27D4EB4Fu

/* One step is a bijection of each lane: rows that differ in one word of 8 codes never meet here. */
static ALWAYS_INLINE void hash_stripe(const char *stripe, uint64_t *lanes)
{
    for (size_t k = 0; k < SURVEY_LANES; k++)
        lanes[k] = ((lanes[k] ^ (lanes[k] >> 47)) ^ load_uint64(stripe + 8 * k)) * HASH_STEP;
}

/* Neighbors often are alike: four tables, so that a count need not wait for the one before it. */
static ALWAYS_INLINE void count_codes(uint64_t eight, survey_tile *tile)
{
    for (int k = 0; k < 8; k++)
        tile->counts[k % SURVEY_TABLES][(eight >> (8 * k)) & 0xff]++;
}

static ALWAYS_INLINE void add_row(survey_tile *tile, const uint8_t *codes, double scale, size_t n, double *sums,
                                  double *energies, uint8_t *peaks)
{
    for (size_t j = 0; j < n; j++) {
        int32_t centred = (int32_t)codes[j] - 128;
        double value = scale * (double)centred;
        sums[j] += value;
        energies[j] += value * value;
        peaks[j] = (uint8_t)(peaks[j] + (centred >= 127 || centred <= -127));
    }
    size_t j = 0;
    for (; j + 8 <= n; j += 8)
        count_codes(load_uint64((const char *)codes + j), tile);
    for (; j < n; j++)
        tile->counts[0][codes[j]]++;
}

static ALWAYS_INLINE int32_t sum_of_squares(const uint8_t *codes, size_t n)
{
    int32_t sum = 0;
    for (size_t j = 0; j < n; j++) {
        int16_t centred = (int16_t)(codes[j] - 128);
        sum += (int32_t)centred * (int32_t)centred;
    }
    return sum;
}

static ALWAYS_INLINE void survey_stripe_body(survey_tile *tile, size_t column, size_t n, double *sums,
                                             double *energies, uint8_t *peaks)
{
    for (size_t i = 0; i < tile->codes.rows; i++) {
        const uint8_t *codes = (const uint8_t *)row_of(&tile->codes, i) + column;
        char padded[STRIPE] = {0};
        add_row(tile, codes, tile->scales[i], n, sums, energies, peaks);
        tile->squares[i][0] += sum_of_squares(codes, n);
        memcpy(padded, codes, n);
        hash_stripe(padded, tile->lanes[i]);
    }
}

#define COMPILE_FOR(level, target)                                                                                \
    target void survey_stripe_##level(survey_tile *tile, size_t column, size_t n, double *sums, double *energies, \
                                      uint8_t *peaks)                                                             \
    {                                                                                                             \
        if (n == STRIPE)                                                                                          \
            survey_stripe_body(tile, column, STRIPE, sums, energies, peaks);                                      \
        else                                                                                                      \
            survey_stripe_body(tile, column, n, sums, energies, peaks);                                           \
    }

COMPILE_FOR(baseline, )

#if QSTORE_X86

COMPILE_FOR(avx2, TARGET_AVX2)

static ALWAYS_INLINE TARGET_AVX512 void add_squares(int32_t *squares, __m512i centred)
{
    const __m512i low = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(centred));
    const __m512i high = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(centred, 1));
    const __m512i sum = _mm512_add_epi32(_mm512_madd_epi16(low, low), _mm512_madd_epi16(high, high));
    _mm512_storeu_si512(squares, _mm512_add_epi32(_mm512_loadu_si512(squares), sum));
}

static ALWAYS_INLINE TARGET_AVX512 void hash_stripe_avx512(__m512i stripe, uint64_t *lanes)
{
    const __m512i before = _mm512_loadu_si512(lanes), both = _mm512_xor_si512(before, stripe);
    const __m512i mixed = _mm512_xor_si512(both, _mm512_srli_epi64(before, 47));
    _mm512_storeu_si512(lanes, _mm512_mullo_epi64(mixed, _mm512_set1_epi64(HASH_STEP)));
}

/* All sums of the columns are registers. Counting codes fills the units that adding up leaves idle. */
static TARGET_AVX512 void survey_whole_stripe(survey_tile *tile, size_t column, double *sums, double *energies,
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
        const __m512i stripe = _mm512_loadu_si512(codes), centred = _mm512_xor_si512(stripe, sign);
        const __m512d scale = _mm512_set1_pd(tile->scales[i]);
        const __mmask64 is_peak = _mm512_cmpge_epu8_mask(_mm512_abs_epi8(centred), almost);
        peak = _mm512_mask_add_epi8(peak, is_peak, peak, one);
        add_squares(tile->squares[i], centred);
        hash_stripe_avx512(stripe, tile->lanes[i]);
#pragma GCC unroll 8
        for (size_t g = 0; g < 8; g++) {
            __m512d shifted = shifted_codes_avx512(codes + 8 * g);
            __m512d value = _mm512_mul_pd(scale, _mm512_sub_pd(shifted, zero_point));
            sum[g] = _mm512_add_pd(sum[g], value);
            energy[g] = _mm512_add_pd(energy[g], _mm512_mul_pd(value, value));
            count_codes(load_uint64(codes + 8 * g), tile);
        }
    }
#pragma GCC unroll 8
    for (size_t g = 0; g < 8; g++) {
        _mm512_storeu_pd(sums + 8 * g, sum[g]);
        _mm512_storeu_pd(energies + 8 * g, energy[g]);
    }
    _mm512_storeu_si512(peaks, peak);
}

TARGET_AVX512 void survey_stripe_avx512(survey_tile *tile, size_t column, size_t n, double *sums, double *energies,
                                        uint8_t *peaks)
{
    if (n == STRIPE)
        survey_whole_stripe(tile, column, sums, energies, peaks);
    else
        survey_stripe_body(tile, column, n, sums, energies, peaks);
}

#endif

static void add_to(const vector *counts, size_t i, int64_t more)
{
    char *place = counts->data + (ptrdiff_t)i * counts->stride;
    int64_t count = load_int64(place) + more;
    memcpy(place, &count, sizeof count);
}

static void add_counts(const survey_tile *tile, const vector *histogram)
{
    for (size_t code = 0; code < 256; code++)
        for (size_t k = 0; k < SURVEY_TABLES; k++)
            add_to(histogram, code, (int64_t)tile->counts[k][code]);
}

static void survey_columns(const survey_job *job, survey_tile *tile, size_t column, size_t n)
{
    double sums[STRIPE], energies[STRIPE];
    uint8_t peaks[STRIPE] = {0};
    char *all_sums = row_of(&job->columns, 0) + column * sizeof *sums;
    char *all_energies = row_of(&job->columns, 1) + column * sizeof *energies;
    memcpy(sums, all_sums, n * sizeof *sums);
    memcpy(energies, all_energies, n * sizeof *energies);
    active_kernels->survey_stripe(tile, column, n, sums, energies, peaks);
    memcpy(all_sums, sums, n * sizeof *sums);
    memcpy(all_energies, energies, n * sizeof *energies);
    for (size_t j = 0; j < n; j++)
        add_to(&job->peaks, column + j, peaks[j]);
}

static void begin_rows(const survey_job *job, survey_tile *tile, size_t first)
{
    tile->codes.data = row_of(&job->codes, first);
    for (size_t i = 0; i < tile->codes.rows; i++) {
        const int64_t none = 0;
        tile->scales[i] = float64_of(&job->scales, first + i);
        memcpy(row_of(&job->rows, 0) + (first + i) * sizeof none, &none, sizeof none);
        for (size_t k = 0; k < SURVEY_LANES; k++)
            tile->lanes[i][k] = HASH_START * (k + 1);
    }
}

/* Squares of a chunk of columns, added to those of the row. */
static void add_row_squares(const survey_job *job, survey_tile *tile, size_t first)
{
    for (size_t i = 0; i < tile->codes.rows; i++) {
        char *place = row_of(&job->rows, 0) + (first + i) * sizeof(int64_t);
        int64_t square = load_int64(place);
        for (size_t k = 0; k < SURVEY_SQUARES; k++)
            square += tile->squares[i][k];
        memcpy(place, &square, sizeof square);
    }
    memset(tile->squares, 0, sizeof tile->squares);
}

/* The last stripe may be empty, and is hashed all the same. */
static void end_rows(const survey_job *job, survey_tile *tile, size_t first)
{
    const char empty[STRIPE] = {0};
    for (size_t i = 0; i < tile->codes.rows; i++) {
        uint64_t *lanes = tile->lanes[i], hash;
        if (tile->codes.dim % STRIPE == 0)
            hash_stripe(empty, lanes);
        memcpy(&hash, &tile->scales[i], sizeof hash);
        for (size_t k = 0; k < SURVEY_LANES; k++) {
            hash = (hash ^ lanes[k]) * HASH_MIX;
            hash ^= hash >> 32;
        }
        memcpy(row_of(&job->rows, 1) + (first + i) * sizeof hash, &hash, sizeof hash);
    }
}

static void survey_tile_rows(const survey_job *job, survey_tile *tile, size_t first)
{
    const size_t dim = job->codes.dim;
    begin_rows(job, tile, first);
    for (size_t chunk = 0; chunk < dim; chunk += CHUNK_COLUMNS) {
        const size_t end = dim - chunk < CHUNK_COLUMNS ? dim : chunk + CHUNK_COLUMNS;
        for (size_t column = chunk; column < end; column += STRIPE)
            survey_columns(job, tile, column, end - column < STRIPE ? end - column : STRIPE);
        add_row_squares(job, tile, first);
    }
    end_rows(job, tile, first);
}

void survey_rows(const survey_job *job)
{
    const size_t rows = job->codes.rows, dim = job->codes.dim;
    const size_t fitting = dim > 0 ? TILE_BYTES / dim : SURVEY_ROWS;
    const size_t step = fitting < 1 ? 1 : fitting < SURVEY_ROWS ? fitting : SURVEY_ROWS;
    survey_tile tile;
    memset(&tile, 0, sizeof tile);
    tile.codes = job->codes;
    for (size_t first = 0; first < rows; first += step) {
        tile.codes.rows = rows - first < step ? rows - first : step;
        survey_tile_rows(job, &tile, first);
    }
    add_counts(&tile, &job->histogram);
}
