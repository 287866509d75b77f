/* Pooled bags in integers, with a proof that their float32 is the one of the specification.
 *
 * The factors f of up to 256 rows become integers F = rint(f * k) of 48 bits, written with six signed bytes; the sums
 * of these times the codes are exact in int32, which 256 * 255 * 128, times 256, just fits. So sum(f * c), with
 * c = code - 128, is known to within
 *
 *   64 * rows / k, as |F - f * k| <= 1/2 and |c| <= 128, and
 *   (10 + chunks) * 2^-53 * 128 * sum|f|, for what is rounded on the way from these sums to the value.
 *
 * The specified sum of n rows has two roundings a row and perhaps one more: it is within (n + 3) * 2^-53 * 128 *
 * sum|f|. With an `error` larger than all of that, it lies between value - error and value + error. Rounding to
 * float32 is monotonic: where both give the same bits, these are the ones. Where they do not, which happens in one
 * of 300 blocks of 64 columns of 40 random rows, the specified way is taken.
 *
 * The two ends are never both 0, nor is a product lost to underflow: for factors that are all tiny, for huge ones
 * and where one is not finite, the specified way is taken. 163,840 rows of 128 in bags of 40, all in the second-level
 * cache, take 1.6 ms, and 2.5 ms that way (Zen 4). */
#include "pool.h"

#if QSTORE_X86

enum {
    QUAD = 4,
    DIGITS = 6,
    BLOCK = 64,      /* columns whose sums are in registers */
    LANES = 2 * QUAD /* registers of totals that a block has */
};

#define LARGEST_INTEGER 0x1.fcp46 /* six digits from -128 to 127 hold it */

typedef struct {
    pool_chunk given;
    int32_t digits[POOL_CHUNK / QUAD][8]; /* of four rows each, least significant first */
} chunk;

/* Four integers become eight int32: one for each digit, the digits of the four rows in its bytes. */
static ALWAYS_INLINE TARGET_VNNI void write_digits(__m256i integers, int32_t *digits)
{
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    const __m256i half = _mm256_set1_epi64x(0x808080808080);
    /* bytes of integer + 128 * (1 + 256 + ...), less 128 each, are signed digits */
    const __m256i bytes = _mm256_xor_si256(_mm256_add_epi64(integers, half), half);
    const __m256i paired = _mm256_shuffle_epi8(bytes, pairs);
    const __m128i first = _mm256_castsi256_si128(paired), last = _mm256_extracti128_si256(paired, 1);
    _mm_storeu_si128((__m128i *)digits, _mm_unpacklo_epi16(first, last));
    _mm_storeu_si128((__m128i *)(digits + 4), _mm_unpackhi_epi16(first, last));
}

/* Makes integers of the factors; 0 if the proof does not hold for them. */
static ALWAYS_INLINE TARGET_VNNI int make_integers(chunk *some)
{
    __m256d largest = _mm256_setzero_pd(), magnitude = _mm256_setzero_pd();
    for (size_t q = 0; q < some->given.rows / QUAD; q++) {
        const __m256d absolute = _mm256_andnot_pd(_mm256_set1_pd(-0.0), _mm256_load_pd(some->given.factors + QUAD * q));
        largest = _mm256_max_pd(largest, absolute);
        magnitude = _mm256_add_pd(magnitude, absolute);
    }
    const double most = _mm512_reduce_max_pd(_mm512_zextpd256_pd512(largest));
    some->given.magnitude = _mm512_reduce_add_pd(_mm512_zextpd256_pd512(magnitude));
    if (!(most >= 0x1p-80 && some->given.magnitude <= 0x1p80)) /* nor if there is a NaN: the sum is one, too */
        return 0;
    const double k = LARGEST_INTEGER / most;
    __m256i sum = _mm256_setzero_si256();
    for (size_t q = 0; q < some->given.rows / QUAD; q++) {
        const __m256d scaled = _mm256_mul_pd(_mm256_load_pd(some->given.factors + QUAD * q), _mm256_set1_pd(k));
        const __m256i integers = _mm256_cvtpd_epi64(scaled);
        sum = _mm256_add_epi64(sum, integers);
        write_digits(integers, some->digits[q]);
    }
    some->given.unit = 1.0 / k;
    some->given.zero_point = 128.0 * (double)_mm512_reduce_add_epi64(_mm512_zextsi256_si512(sum));
    return 1;
}

/* 64 columns: 4 * m to 4 * m + 3 of each sixteen in register m. GCC does not keep arrays in registers here. */
typedef struct {
    __m512i m0, m1, m2, m3;
} block;

/* Of four rows, the four bytes of a column side by side. */
static ALWAYS_INLINE TARGET_VNNI block interleave(const uint8_t *const *rows, size_t column)
{
    const __m512i a = _mm512_loadu_si512(rows[0] + column), b = _mm512_loadu_si512(rows[1] + column);
    const __m512i c = _mm512_loadu_si512(rows[2] + column), d = _mm512_loadu_si512(rows[3] + column);
    const __m512i low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
    const __m512i low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
    return (block){_mm512_unpacklo_epi16(low_ab, low_cd), _mm512_unpackhi_epi16(low_ab, low_cd),
                   _mm512_unpacklo_epi16(high_ab, high_cd), _mm512_unpackhi_epi16(high_ab, high_cd)};
}

/* Eight of sixteen int32. */
static ALWAYS_INLINE TARGET_VNNI __m512d half_as_doubles(__m512i n, int half)
{
    return _mm512_cvtepi32_pd(half ? _mm512_extracti64x4_epi64(n, 1) : _mm512_castsi512_si256(n));
}

/* Adds four rows, times one digit each. */
static ALWAYS_INLINE TARGET_VNNI void add_digits(block *sums, block codes, int32_t digits)
{
    const __m512i all = _mm512_set1_epi32(digits);
    sums->m0 = _mm512_dpbusd_epi32(sums->m0, codes.m0, all);
    sums->m1 = _mm512_dpbusd_epi32(sums->m1, codes.m1, all);
    sums->m2 = _mm512_dpbusd_epi32(sums->m2, codes.m2, all);
    sums->m3 = _mm512_dpbusd_epi32(sums->m3, codes.m3, all);
}

/* Sums of 64 columns for each digit. GCC keeps them in registers if they are only stored in the end. */
static __attribute__((noinline)) TARGET_VNNI void sum_block(const chunk *some, size_t column, const pool_job *ahead,
                                                            size_t first, block sums[DIGITS])
{
    const __m512i none = _mm512_setzero_si512();
    const block zero = {none, none, none, none};
    block s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero;
    for (size_t q = 0; q < some->given.rows / QUAD; q++) {
        if (ahead)
            for (size_t i = 0; i < QUAD; i++)
                prefetch_ahead(ahead, first + QUAD * q + i);
        const block codes = interleave(some->given.codes + QUAD * q, column);
        const int32_t *digits = some->digits[q];
        add_digits(&s0, codes, digits[0]);
        add_digits(&s1, codes, digits[1]);
        add_digits(&s2, codes, digits[2]);
        add_digits(&s3, codes, digits[3]);
        add_digits(&s4, codes, digits[4]);
        add_digits(&s5, codes, digits[5]);
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3, sums[4] = s4, sums[5] = s5;
}

/* upper * 256 + lower */
static ALWAYS_INLINE TARGET_VNNI __m512i two_digits(__m512i upper, __m512i lower)
{
    return _mm512_add_epi32(_mm512_slli_epi32(upper, 8), lower);
}

/* Adds some rows to sixteen totals. */
static ALWAYS_INLINE TARGET_VNNI void add_sums(const chunk *some, __m512i low, __m512i middle, __m512i high,
                                               __m512d totals[2])
{
    const __m512d zero_point = _mm512_set1_pd(some->given.zero_point), unit = _mm512_set1_pd(some->given.unit);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m512d sum = half_as_doubles(low, half);
        sum = _mm512_fmadd_pd(half_as_doubles(middle, half), _mm512_set1_pd(0x1p16), sum);
        sum = _mm512_fmadd_pd(half_as_doubles(high, half), _mm512_set1_pd(0x1p32), sum);
        totals[half] = _mm512_fmadd_pd(_mm512_sub_pd(sum, zero_point), unit, totals[half]);
    }
}

static ALWAYS_INLINE TARGET_VNNI void add_block(const chunk *some, size_t column, const pool_job *ahead, size_t first,
                                                __m512d totals[LANES])
{
    block s[DIGITS];
    sum_block(some, column, ahead, first, s);
    add_sums(some, two_digits(s[1].m0, s[0].m0), two_digits(s[3].m0, s[2].m0), two_digits(s[5].m0, s[4].m0), totals);
    add_sums(some, two_digits(s[1].m1, s[0].m1), two_digits(s[3].m1, s[2].m1), two_digits(s[5].m1, s[4].m1), totals + 2);
    add_sums(some, two_digits(s[1].m2, s[0].m2), two_digits(s[3].m2, s[2].m2), two_digits(s[5].m2, s[4].m2), totals + 4);
    add_sums(some, two_digits(s[1].m3, s[0].m3), two_digits(s[3].m3, s[2].m3), two_digits(s[5].m3, s[4].m3), totals + 6);
}

/* Writes 64 values, factor * total, if all are certain. */
static ALWAYS_INLINE TARGET_VNNI int write_certain(const __m512d totals[LANES], double factor, double error,
                                                   char *out)
{
    const __m512d scale = _mm512_set1_pd(factor), margin = _mm512_set1_pd(error);
    __m256i uncertain = _mm256_setzero_si256();
    __m512 values[QUAD];
#pragma GCC unroll 4
    for (int m = 0; m < QUAD; m++) {
        __m256 most[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m512d total = totals[2 * m + half];
            const __m256 least = _mm512_cvtpd_ps(_mm512_fmsub_pd(total, scale, margin));
            most[half] = _mm512_cvtpd_ps(_mm512_fmadd_pd(total, scale, margin));
            const __m256i other = _mm256_xor_si256(_mm256_castps_si256(least), _mm256_castps_si256(most[half]));
            uncertain = _mm256_or_si256(uncertain, other);
        }
        values[m] = _mm512_insertf32x8(_mm512_castps256_ps512(most[0]), most[1], 1);
    }
    if (!_mm256_testz_si256(uncertain, uncertain))
        return 0;
    /* a transposition, of sixteen bytes each */
    const __m512 a = _mm512_shuffle_f32x4(values[0], values[1], 0x44);
    const __m512 b = _mm512_shuffle_f32x4(values[2], values[3], 0x44);
    const __m512 c = _mm512_shuffle_f32x4(values[0], values[1], 0xee);
    const __m512 d = _mm512_shuffle_f32x4(values[2], values[3], 0xee);
    _mm512_storeu_ps(out, _mm512_shuffle_f32x4(a, b, 0x88));
    _mm512_storeu_ps(out + 64, _mm512_shuffle_f32x4(a, b, 0xdd));
    _mm512_storeu_ps(out + 128, _mm512_shuffle_f32x4(c, d, 0x88));
    _mm512_storeu_ps(out + 192, _mm512_shuffle_f32x4(c, d, 0xdd));
    return 1;
}

#define TARGET TARGET_VNNI
#define VECTOR __m512d
#define ZERO _mm512_setzero_pd()
#define POOL_BLOCK(job, start, stop, out, column) pool_columns_avx512(job, start, stop, out, column, BLOCK)
#include "pool_stripes_body.h"

TARGET_VNNI void pool_vnni(const pool_job *job, size_t start, size_t stop, char *out)
{
    pool_by_stripes(job, start, stop, out);
}

#endif
