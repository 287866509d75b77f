/* Codes of one row, and the largest magnitude in it, at every dispatch level.
 *
 * Why float32 lanes give the codes of the float64 specification, bit for bit
 * -------------------------------------------------------------------------
 * Let e be a value of the row, s its float64 scale, t = e/s exactly (so |t| <= 127(1 + 2^-53)), u = 2^-24.
 *
 *   specification  w = fl64(fl64(fl64(e/s) + 128) + 0.5), code = floor(w).
 *                  |w - (t + 128.5)| <= 127 * 2^-53 + 2 * 2^-46 < 5e-14.
 *   reciprocal     r = fl32(fl64(1/s)) = (1/s)(1 + a), |a| <= u + 2^-52, as long as 1/s is a normal float32:
 *                  max|row| <= FLT_MAX gives 1/s > 3.7e-37, max|row| >= 1e-36 gives 1/s <= 1.3e38.
 *
 * Lanes with a fused multiply-add (x86-64 with AVX2 or AVX-512). M = 2^23 + 128.
 *   v = fl32(e * r + M), one rounding: M - 128 < v < M + 128 have a last place of 1, so v = M + n where n is an
 *   integer nearest to p = e * r, and the low byte of v's bits is n + 128.
 *   d = fl32(e * r - n), one rounding: |d - (p - n)| <= 2^-26 as |p - n| <= 0.5; p = t(1 + a), so
 *   |d - (t - n)| <= 127.001 * (u + 2^-52) + 2^-26 < 7.6e-6 < 2^-16 = TIE_FUSED.
 *   If |d| <= 0.5 - TIE_FUSED then |t - n| < 0.5 - 7.6e-6, and floor(w) = n + 128.
 *
 * Lanes without (plain C).
 *   p = fl32(e * r) = t(1 + a)(1 + b) + c, |b| <= u, |c| <= 2^-150 (a subnormal product), so
 *   |p - t| <= 127.001 * (2u + 2^-51) < 1.5142e-5.
 *   v = fl32(p + 128.5): 1.49 < v < 255.51, so its last place is worth at most 2^-16 and
 *   |v - w| < 1.5142e-5 + 2^-17 + 5e-14 < 2.28e-5 < 2^-15 = TIE.
 *   f = v - floor(v) is exact. If TIE <= f <= 1 - TIE then v and w lie between the same two integers. The test
 *   is |f - 0.5| <= 0.5 - TIE; f - 0.5 may round, by 2^-25 at most, which the gap between 2.28e-5 and TIE covers.
 *
 * Lanes that fail the test are done again in float64, as specified: of random rows 0.003 % and 0.006 %.
 * No clipping: scales in this range make |t| <= 127(1 + 2^-53), and w lies in [1.5 - 5e-14, 255.5 + 5e-14].
 */
#include "half.h"

#define TIE 0x1p-15f
#define TIE_FUSED 0x1p-16f

/* One at a time, as specified. Clipping to integers before flooring is the same as after it, and then the
 * conversion, which truncates, floors. */
static ALWAYS_INLINE uint8_t exact_code(double x, double scale)
{
    double code = ((x / scale) + 128.0) + 0.5;
    code = code < 1.0 ? 1.0 : code;
    code = code > 255.0 ? 255.0 : code;
    return (uint8_t)(int32_t)code;
}

static ALWAYS_INLINE void exact_codes(const char *x, size_t n, double scale, uint8_t *codes)
{
    for (size_t j = 0; j < n; j++)
        codes[j] = exact_code(load_float32(x + 4 * j), scale);
}

static ALWAYS_INLINE uint32_t largest_float32_body(const char *x, size_t n)
{
    /* Bit patterns of magnitudes order as the magnitudes do, and NaN comes out on top. Signed: SSE2 compares
     * no others. */
    int32_t largest = 0;
    for (size_t j = 0; j < n; j++) {
        int32_t bits = load_int32(x + 4 * j) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return (uint32_t)largest;
}

static ALWAYS_INLINE uint64_t largest_float64_body(const char *x, size_t n)
{
    int64_t largest = 0;
    for (size_t j = 0; j < n; j++) {
        int64_t bits = load_int64(x + 8 * j) & INT64_MAX;
        largest = bits > largest ? bits : largest;
    }
    return (uint64_t)largest;
}

static ALWAYS_INLINE void codes_float32_body(const char *x, size_t n, double scale, uint8_t *codes)
{
    enum { LANES = 32 };
    const float inverse = (float)(1.0 / scale);
    size_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        int32_t near_tie = 0;
        for (size_t k = 0; k < LANES; k++) {
            float v = load_float32(x + 4 * (j + k)) * inverse + 128.5f;
            int32_t code = (int32_t)v;
            near_tie |= fabsf((v - (float)code) - 0.5f) > 0.5f - TIE;
            codes[j + k] = (uint8_t)code;
        }
        if (near_tie)
            exact_codes(x + 4 * j, LANES, scale, codes + j);
    }
    exact_codes(x + 4 * j, n - j, scale, codes + j);
}

static ALWAYS_INLINE void codes_float64_body(const char *x, size_t n, double scale, uint8_t *codes)
{
    for (size_t j = 0; j < n; j++)
        codes[j] = exact_code(load_float64(x + 8 * j), scale);
}

static ALWAYS_INLINE void widen_bfloat16_body(const char *x, size_t n, float *out)
{
    for (size_t j = 0; j < n; j++) {
        uint32_t bits = (uint32_t)load_uint16(x + 2 * j) << 16;
        memcpy(out + j, &bits, sizeof bits);
    }
}

static ALWAYS_INLINE void widen_float16_body(const char *x, size_t n, float *out)
{
    for (size_t j = 0; j < n; j++)
        out[j] = float32_from_half(load_uint16(x + 2 * j));
}


/* These are compiled for every level; the compiler vectorizes them. */
#define COMPILE_FOR(level, target)                                                                                \
    target uint64_t largest_float64_##level(const char *x, size_t n) { return largest_float64_body(x, n); }       \
    target void codes_float64_##level(const char *x, size_t n, double scale, uint8_t *codes)                      \
    {                                                                                                             \
        codes_float64_body(x, n, scale, codes);                                                                   \
    }

COMPILE_FOR(baseline, )

uint32_t largest_float32_baseline(const char *x, size_t n) { return largest_float32_body(x, n); }

void codes_float32_baseline(const char *x, size_t n, double scale, uint8_t *codes)
{
    codes_float32_body(x, n, scale, codes);
}

void widen_bfloat16_baseline(const char *x, size_t n, float *out) { widen_bfloat16_body(x, n, out); }

void widen_float16_baseline(const char *x, size_t n, float *out) { widen_float16_body(x, n, out); }

#if QSTORE_X86

COMPILE_FOR(avx2, TARGET_AVX2)
COMPILE_FOR(avx512, TARGET_AVX512)

static ALWAYS_INLINE TARGET_AVX2 __m256i larger_avx2(__m256i largest, const char *x)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    return _mm256_max_epi32(largest, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)x), magnitude));
}

/* Two chains, as below; the last eight overlap the ones before them. */
TARGET_AVX2 uint32_t largest_float32_avx2(const char *x, size_t n)
{
    if (n < 8)
        return largest_float32_body(x, n);
    __m256i even = _mm256_setzero_si256(), odd = even;
    size_t j = 0;
    for (; j + 32 <= n; j += 32) {
        even = larger_avx2(larger_avx2(even, x + 4 * j), x + 4 * j + 64);
        odd = larger_avx2(larger_avx2(odd, x + 4 * j + 32), x + 4 * j + 96);
    }
    for (; j + 8 <= n; j += 8)
        even = larger_avx2(even, x + 4 * j);
    even = _mm256_max_epi32(larger_avx2(even, x + 4 * (n - 8)), odd);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

/* Two chains: one could not take in 128 bytes a cycle. */
TARGET_AVX512 uint32_t largest_float32_avx512(const char *x, size_t n)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i even = _mm512_setzero_si512(), odd = even;
    size_t j = 0;
    for (; j + 32 <= n; j += 32) {
        even = _mm512_max_epu32(even, _mm512_and_si512(_mm512_loadu_si512(x + 4 * j), magnitude));
        odd = _mm512_max_epu32(odd, _mm512_and_si512(_mm512_loadu_si512(x + 4 * j + 64), magnitude));
    }
    for (; j < n; j += 16) {
        __mmask16 lanes = n - j < 16 ? (__mmask16)((1u << (n - j)) - 1) : (__mmask16)0xffff;
        even = _mm512_max_epu32(even, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes, x + 4 * j), magnitude));
    }
    return _mm512_reduce_max_epu32(_mm512_max_epu32(even, odd));
}

/* M in the proof above. */
#define MAGIC (0x1p23f + 128.0f)

/* Do the lanes of a mask over n values again as specified. Mostly it is one of 64; bfloat16 and small integers
 * tie more often, but doing all 64 again then took half of the time. */
static ALWAYS_INLINE void redo(uint64_t lanes, const char *x, size_t n, double scale, uint8_t *codes)
{
    if (__builtin_popcountll(lanes) > 12) {
        exact_codes(x, n, scale, codes);
        return;
    }
    for (; lanes != 0; lanes &= lanes - 1) {
        int lane = __builtin_ctzll(lanes);
        codes[lane] = exact_code(load_float32(x + 4 * lane), scale);
    }
}

/* Sixteen codes; returns the mask of the lanes near a tie. */
static ALWAYS_INLINE TARGET_AVX512 uint64_t sixteen_codes_avx512(const char *x, __m512 inverse, uint8_t *codes)
{
    const __m512 magic = _mm512_set1_ps(MAGIC);
    __m512 value = _mm512_loadu_ps(x);
    __m512 code = _mm512_fmadd_ps(value, inverse, magic);
    __m512 off = _mm512_fmsub_ps(value, inverse, _mm512_sub_ps(code, magic));
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(_mm512_castps_si512(code)));
    return _mm512_cmp_ps_mask(_mm512_abs_ps(off), _mm512_set1_ps(0.5f - TIE_FUSED), _CMP_GT_OQ);
}

TARGET_AVX512 void codes_float32_avx512(const char *x, size_t n, double scale, uint8_t *codes)
{
    const __m512 inverse = _mm512_set1_ps((float)(1.0 / scale));
    if (n < 16) {
        exact_codes(x, n, scale, codes);
        return;
    }
    size_t j = 0;
    for (; j + 64 <= n; j += 64) {
        uint64_t near_tie = 0;
        for (size_t k = 0; k < 64; k += 16)
            near_tie |= sixteen_codes_avx512(x + 4 * (j + k), inverse, codes + j + k) << k;
        redo(near_tie, x + 4 * j, 64, scale, codes + j);
    }
    for (; j < n; j += 16) { /* the last sixteen overlap the ones before them */
        j = j + 16 <= n ? j : n - 16;
        redo(sixteen_codes_avx512(x + 4 * j, inverse, codes + j), x + 4 * j, 16, scale, codes + j);
    }
}

/* Eight codes in 32-bit lanes, and how far off they are. */
static ALWAYS_INLINE TARGET_AVX2 __m256i eight_codes_avx2(const char *x, __m256 inverse, __m256 *off)
{
    const __m256 magic = _mm256_set1_ps(MAGIC);
    __m256 value = _mm256_loadu_ps((const float *)x);
    __m256 code = _mm256_fmadd_ps(value, inverse, magic);
    __m256 difference = _mm256_fmsub_ps(value, inverse, _mm256_sub_ps(code, magic));
    *off = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), difference);
    return _mm256_and_si256(_mm256_castps_si256(code), _mm256_set1_epi32(255));
}

static ALWAYS_INLINE TARGET_AVX2 uint32_t near_tie_avx2(__m256 off)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(off, _mm256_set1_ps(0.5f - TIE_FUSED), _CMP_GT_OQ));
}

static ALWAYS_INLINE TARGET_AVX2 void thirty_two_codes_avx2(const char *x, __m256 inverse, double scale,
                                                            uint8_t *codes)
{
    __m256 off[4];
    __m256i first = eight_codes_avx2(x, inverse, off);
    __m256i second = eight_codes_avx2(x + 32, inverse, off + 1);
    __m256i third = eight_codes_avx2(x + 64, inverse, off + 2);
    __m256i fourth = eight_codes_avx2(x + 96, inverse, off + 3);
    __m256i packed = _mm256_packus_epi16(_mm256_packus_epi32(first, second), _mm256_packus_epi32(third, fourth));
    /* packing works within 128-bit halves: put the groups of four codes back in order */
    packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)codes, packed);
    if (near_tie_avx2(_mm256_max_ps(_mm256_max_ps(off[0], off[1]), _mm256_max_ps(off[2], off[3]))))
        redo(near_tie_avx2(off[0]) | near_tie_avx2(off[1]) << 8 | near_tie_avx2(off[2]) << 16 |
                 near_tie_avx2(off[3]) << 24,
             x, 32, scale, codes);
}

TARGET_AVX2 void codes_float32_avx2(const char *x, size_t n, double scale, uint8_t *codes)
{
    const __m256 inverse = _mm256_set1_ps((float)(1.0 / scale));
    if (n < 32) {
        exact_codes(x, n, scale, codes);
        return;
    }
    for (size_t j = 0; j + 32 <= n; j += 32)
        thirty_two_codes_avx2(x + 4 * j, inverse, scale, codes + j);
    thirty_two_codes_avx2(x + 4 * (n - 32), inverse, scale, codes + n - 32);
}

/* Eight at a time; the last ones of a row one by one. */
static ALWAYS_INLINE TARGET_AVX2 void widen_float16_by_8(const char *x, size_t n, float *out)
{
    size_t j = 0;
    for (; j + 8 <= n; j += 8)
        _mm256_storeu_ps(out + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + 2 * j))));
    widen_float16_body(x + 2 * j, n - j, out + j);
}

static ALWAYS_INLINE TARGET_AVX2 void widen_bfloat16_by_8(const char *x, size_t n, float *out)
{
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(x + 2 * j)));
        _mm256_storeu_si256((__m256i *)(out + j), _mm256_slli_epi32(halves, 16));
    }
    widen_bfloat16_body(x + 2 * j, n - j, out + j);
}

TARGET_AVX2 void widen_bfloat16_avx2(const char *x, size_t n, float *out) { widen_bfloat16_by_8(x, n, out); }

TARGET_AVX512 void widen_bfloat16_avx512(const char *x, size_t n, float *out) { widen_bfloat16_by_8(x, n, out); }

TARGET_AVX2 void widen_float16_avx2(const char *x, size_t n, float *out) { widen_float16_by_8(x, n, out); }

TARGET_AVX512 void widen_float16_avx512(const char *x, size_t n, float *out) { widen_float16_by_8(x, n, out); }

#endif
