/* Pooled bags in integers with AVX2, with a proof that their float32 is the one of the specification.
 *
 * The factors f of up to 256 rows become integers F = rint(f * k) of 48 bits, written with three signed words; the sums
 * of these times the codes are exact in int32, as 256 * 255 * 2^15 fits: two rows at a time, in one instruction for
 * eight columns. So sum(f * c), with c = code - 128, is known to within
 *
 *   64 * rows / k, as |F - f * k| <= 1/2 and |c| <= 128, and
 *   (7 + chunks) * 2^-53 * 128 * sum|f|, for what is rounded on the way from these sums to the value: sum(F * code),
 *   which may be twice as large, counts two; 128 * sum(F), their difference, 1 / k, 1 / rows and the ends one each,
 *   and each chunk's addition to the total one.
 *
 * The rest of the proof is that of pool_vnni.c: the specified sum of n rows is within (n + 3) * 2^-53 * 128 * sum|f|,
 * and where value - error and value + error round to the same float32, it is the specified one. Where they do not,
 * which happens in one of 550 blocks of 32 columns of 40 random rows, or where the factors do not suit, the specified
 * way is taken. Two words would leave one of four values uncertain, and nearly every block. */
#include "pool.h"

#if QSTORE_X86

enum {
    WORDS = 3,
    BLOCK = 32, /* columns whose sums are in registers */
    LANES = 8   /* registers of totals that a block has */
};

#define LARGEST_INTEGER 0x1.fffcp46 /* three words from -32768 to 32767 hold it */
#define MAGIC 0x1.8p52              /* with it added, the last place of a float64 is worth 1 */

typedef struct {
    const uint8_t *a, *b;
    int32_t words[WORDS + 1]; /* of both rows, least significant first; the last is 0 */
} pair;

typedef struct {
    pool_chunk given;
    pair pairs[POOL_CHUNK / 2];
} chunk;

static ALWAYS_INLINE TARGET_AVX2 double largest_of(__m256d x)
{
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

static ALWAYS_INLINE TARGET_AVX2 double sum_of(__m256d x)
{
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

static ALWAYS_INLINE TARGET_AVX2 int64_t integer_sum_of(__m256i x)
{
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
}

/* Four integers become the words of two pairs of rows. */
static ALWAYS_INLINE TARGET_AVX2 void write_words(__m256i integers, pair two[2])
{
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    const __m256i half = _mm256_set1_epi64x(0x800080008000);
    /* words of integer + 2^15 * (1 + 2^16 + 2^32), less 2^15 each, are signed ones */
    const __m256i all = _mm256_xor_si256(_mm256_add_epi64(integers, half), half);
    const __m256i words = _mm256_shuffle_epi8(all, pairs);
    _mm_storeu_si128((__m128i *)two[0].words, _mm256_castsi256_si128(words));
    _mm_storeu_si128((__m128i *)two[1].words, _mm256_extracti128_si256(words, 1));
}

/* Makes integers of the factors; 0 if the proof does not hold for them. */
static ALWAYS_INLINE TARGET_AVX2 int make_integers(chunk *some)
{
    const double *factors = some->given.factors;
    __m256d largest = _mm256_setzero_pd(), magnitude = _mm256_setzero_pd();
    for (size_t i = 0; i < some->given.rows; i += 4) {
        const __m256d absolute = _mm256_andnot_pd(_mm256_set1_pd(-0.0), _mm256_load_pd(factors + i));
        largest = _mm256_max_pd(largest, absolute);
        magnitude = _mm256_add_pd(magnitude, absolute);
    }
    const double most = largest_of(largest);
    some->given.magnitude = sum_of(magnitude);
    if (!(most >= 0x1p-80 && some->given.magnitude <= 0x1p80)) /* nor if there is a NaN: the sum is one, too */
        return 0;
    const double k = LARGEST_INTEGER / most;
    const __m256d magic = _mm256_set1_pd(MAGIC);
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < some->given.rows; i += 4) {
        const __m256d moved = _mm256_fmadd_pd(_mm256_load_pd(factors + i), _mm256_set1_pd(k), magic);
        const __m256i integers = _mm256_sub_epi64(_mm256_castpd_si256(moved), _mm256_castpd_si256(magic));
        sum = _mm256_add_epi64(sum, integers);
        pair *two = some->pairs + i / 2;
        two[0].a = some->given.codes[i], two[0].b = some->given.codes[i + 1];
        two[1].a = some->given.codes[i + 2], two[1].b = some->given.codes[i + 3];
        write_words(integers, two);
    }
    some->given.unit = 1.0 / k;
    some->given.zero_point = 128.0 * (double)integer_sum_of(sum);
    return 1;
}

/* Sixteen columns: of each eight the even and the odd ones. */
typedef struct {
    __m256i even, odd;
} half_block;

/* Adds two rows, times one word each. */
static ALWAYS_INLINE TARGET_AVX2 void add_products(half_block *sums, __m256i even, __m256i odd, int32_t words)
{
    const __m256i both = _mm256_set1_epi32(words);
    sums->even = _mm256_add_epi32(sums->even, _mm256_madd_epi16(even, both));
    sums->odd = _mm256_add_epi32(sums->odd, _mm256_madd_epi16(odd, both));
}

/* Sums for each word of the first or last eight of each sixteen columns of 32: for all there are too few registers. */
static ALWAYS_INLINE TARGET_AVX2 void sum_half(const chunk *some, size_t column, int last, const pool_job *ahead,
                                               size_t first, half_block sums[WORDS])
{
    const __m256i none = _mm256_setzero_si256(), low = _mm256_set1_epi16(255);
    half_block s0 = {none, none}, s1 = s0, s2 = s0;
    for (const pair *two = some->pairs, *end = two + some->given.rows / 2; two < end; two++) {
        if (ahead) {
            prefetch_ahead(ahead, first++);
            prefetch_ahead(ahead, first++);
        }
        const __m256i a = _mm256_loadu_si256((const __m256i *)(two->a + column));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(two->b + column));
        /* two columns of a, the same of b */
        const __m256i paired = last ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b);
        const __m256i even = _mm256_and_si256(paired, low), odd = _mm256_srli_epi16(paired, 8);
        add_products(&s0, even, odd, two->words[0]);
        add_products(&s1, even, odd, two->words[1]);
        add_products(&s2, even, odd, two->words[2]);
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2;
}

/* Four of eight int32. */
static ALWAYS_INLINE TARGET_AVX2 __m256d half_as_doubles(__m256i n, int half)
{
    return _mm256_cvtepi32_pd(half ? _mm256_extracti128_si256(n, 1) : _mm256_castsi256_si128(n));
}

/* Adds some rows to eight totals. */
static ALWAYS_INLINE TARGET_AVX2 void add_sums(const chunk *some, __m256i low, __m256i middle, __m256i high,
                                               __m256d totals[2])
{
    const __m256d zero_point = _mm256_set1_pd(some->given.zero_point), unit = _mm256_set1_pd(some->given.unit);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m256d sum = half_as_doubles(low, half);
        sum = _mm256_fmadd_pd(half_as_doubles(middle, half), _mm256_set1_pd(0x1p16), sum);
        sum = _mm256_fmadd_pd(half_as_doubles(high, half), _mm256_set1_pd(0x1p32), sum);
        totals[half] = _mm256_fmadd_pd(_mm256_sub_pd(sum, zero_point), unit, totals[half]);
    }
}

static ALWAYS_INLINE TARGET_AVX2 void add_block(const chunk *some, size_t column, const pool_job *ahead, size_t first,
                                                __m256d totals[LANES])
{
    half_block s[WORDS];
    sum_half(some, column, 0, ahead, first, s);
    add_sums(some, s[0].even, s[1].even, s[2].even, totals);
    add_sums(some, s[0].odd, s[1].odd, s[2].odd, totals + 2);
    sum_half(some, column, 1, NULL, first, s);
    add_sums(some, s[0].even, s[1].even, s[2].even, totals + 4);
    add_sums(some, s[0].odd, s[1].odd, s[2].odd, totals + 6);
}

/* Four totals and two registers of them: the even columns of eight, and of eight that are sixteen after them. */
static ALWAYS_INLINE TARGET_AVX2 __m256 round_pair(const __m256d totals[2], __m256d scale, __m256d margin,
                                                   __m128i *uncertain)
{
    __m128 most[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const __m128 least = _mm256_cvtpd_ps(_mm256_fmsub_pd(totals[half], scale, margin));
        most[half] = _mm256_cvtpd_ps(_mm256_fmadd_pd(totals[half], scale, margin));
        const __m128i other = _mm_xor_si128(_mm_castps_si128(least), _mm_castps_si128(most[half]));
        *uncertain = _mm_or_si128(*uncertain, other);
    }
    return _mm256_set_m128(most[1], most[0]);
}

static ALWAYS_INLINE TARGET_AVX2 void store_sixteen(__m256 even, __m256 odd, char *out)
{
    const __m256 first = _mm256_unpacklo_ps(even, odd), second = _mm256_unpackhi_ps(even, odd);
    _mm256_storeu_ps((float *)out, _mm256_permute2f128_ps(first, second, 0x20));
    _mm256_storeu_ps((float *)(out + 64), _mm256_permute2f128_ps(first, second, 0x31));
}

/* Writes 32 values, factor * total, if all are certain. */
static ALWAYS_INLINE TARGET_AVX2 int write_certain(const __m256d totals[LANES], double factor, double error, char *out)
{
    const __m256d scale = _mm256_set1_pd(factor), margin = _mm256_set1_pd(error);
    __m128i uncertain = _mm_setzero_si128();
    const __m256 even = round_pair(totals, scale, margin, &uncertain);
    const __m256 odd = round_pair(totals + 2, scale, margin, &uncertain);
    const __m256 late_even = round_pair(totals + 4, scale, margin, &uncertain);
    const __m256 late_odd = round_pair(totals + 6, scale, margin, &uncertain);
    if (!_mm_testz_si128(uncertain, uncertain))
        return 0;
    store_sixteen(even, odd, out);
    store_sixteen(late_even, late_odd, out + 32);
    return 1;
}

#define TARGET TARGET_AVX2
#define VECTOR __m256d
#define ZERO _mm256_setzero_pd()
#define POOL_BLOCK(job, start, stop, out, column) pool_32_columns_avx2(job, start, stop, out, column)
#include "pool_stripes_body.h"

TARGET_AVX2 void pool_pairs(const pool_job *job, size_t start, size_t stop, char *out)
{
    pool_by_stripes(job, start, stop, out);
}

#endif
