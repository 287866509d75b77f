/* Codes of one row to float32, float64 and float16, at every dispatch level; and the loop over rows.
 *
 * Why float32 lanes give the float64 product rounded to float32, bit for bit
 * ---------------------------------------------------------------------------
 * Let c = code - 128, |c| <= 128, and s the scale, 2^-80 <= s <= 2^80; the specification is fl32(fl64(c * s)).
 * Cut s = high + rest, where high is its first 17 bits, so that 0 <= rest < 2^-16 s, and take
 *
 *   below = fl32(rest - 2^-39 s), above = fl32(rest + 2^-39 s).
 *
 * Rounding moves them by at most 2^-24 * 1.01 * 2^-16 s < 2^-39.9 s, so high + below < s(1 - 2^-41) and
 * high + above > s(1 + 2^-41). c * high has 17 + 7 bits (or high's 17, for c = -128): exact in float32. So
 *
 *   fl32(c * high + c * below) and fl32(c * high + c * above),
 *
 * a fused multiply-add each, are numbers on either side of c * s, and of fl64(c * s), which is within 2^-53 of it,
 * rounded once. Rounding is monotonic: where the two are equal, fl32(fl64(c * s)) is the same number. No result
 * overflows or is subnormal, what might underflow in `below` is far smaller than the margin, and c = 0 gives +0.
 *
 * A row has one scale, and doubling c doubles all of these numbers: where the two are equal for the 64 odd numbers
 * up to 127, the first of them is right for every code. That is looked at once a row. Where they are not, which is
 * one row in some 300, the float64 way is taken. Half as many registers as in float64, and no conversions: a row of
 * 768 in the cache takes 52 ns, and 90 ns that way (Zen 4).
 *
 * A scale that is a float32 itself, as other libraries store them, would often lead to ties. But then c * s is
 * exact in float64 and fl32(c * s) is asked for: high = s and below = above = 0 give it.
 *
 * All in float32 without the check would be wrong: in the last bit often, at the edges by 100 %.
 */
#include "half.h"
#include "shifted.h"

static ALWAYS_INLINE double value_of(uint8_t code, double scale)
{
    return (double)((int32_t)code - 128) * scale;
}

static ALWAYS_INLINE void float32_body(const uint8_t *codes, size_t dim, double scale, char *out)
{
    for (size_t j = 0; j < dim; j++) {
        float value = (float)value_of(codes[j], scale);
        memcpy(out + 4 * j, &value, sizeof value);
    }
}

static ALWAYS_INLINE void float64_body(const uint8_t *codes, size_t dim, double scale, char *out)
{
    for (size_t j = 0; j < dim; j++) {
        double value = value_of(codes[j], scale);
        memcpy(out + 8 * j, &value, sizeof value);
    }
}

static ALWAYS_INLINE void float16_body(const uint8_t *codes, size_t dim, double scale, char *out)
{
    for (size_t j = 0; j < dim; j++) {
        uint16_t value = half_from_float64(value_of(codes[j], scale));
        memcpy(out + 2 * j, &value, sizeof value);
    }
}

void dequantize_float32_baseline(const uint8_t *codes, size_t dim, double scale, char *out)
{
    float32_body(codes, dim, scale, out);
}

void dequantize_float64_baseline(const uint8_t *codes, size_t dim, double scale, char *out)
{
    float64_body(codes, dim, scale, out);
}

void dequantize_float16_baseline(const uint8_t *codes, size_t dim, double scale, char *out)
{
    float16_body(codes, dim, scale, out);
}

void stream_float32_baseline(const uint8_t *codes, size_t dim, double scale, char *out)
{
    float32_body(codes, dim, scale, out);
}

void stream_float64_baseline(const uint8_t *codes, size_t dim, double scale, char *out)
{
    float64_body(codes, dim, scale, out);
}

void stream_float16_baseline(const uint8_t *codes, size_t dim, double scale, char *out)
{
    float16_body(codes, dim, scale, out);
}

#if QSTORE_X86

/* Eight at a time. The last eight of a row overlap the ones before them, which then are written twice, the same. */
#define BY_EIGHTS(name, type, size, level, target)                                                                \
    static target void name(const uint8_t *codes, size_t dim, double scale, char *out)                            \
    {                                                                                                             \
        if (dim < 8) {                                                                                            \
            type##_body(codes, dim, scale, out);                                                                  \
            return;                                                                                               \
        }                                                                                                         \
        for (size_t j = 0; j + 8 <= dim; j += 8)                                                                  \
            eight_##type##_##level(codes + j, scale, out + size * j, 0);                                          \
        eight_##type##_##level(codes + dim - 8, scale, out + size * (dim - 8), 0);                                \
    }

/* The same past the caches: whole lines by streaming stores, what lies before and after them by plain ones. `line`
 * is the values of a line. */
#define STREAMED(name, type, size, level, target, line)                                                           \
    target void name(const uint8_t *codes, size_t dim, double scale, char *out)                                   \
    {                                                                                                             \
        size_t j = values_before_line(out, size);                                                                 \
        if (j + line > dim) {                                                                                     \
            by_eights_##type##_##level(codes, dim, scale, out);                                                   \
            return;                                                                                               \
        }                                                                                                         \
        by_eights_##type##_##level(codes, j, scale, out);                                                         \
        for (; j + line <= dim; j += line)                                                                        \
            for (size_t k = 0; k < line; k += 8)                                                                  \
                eight_##type##_##level(codes + j + k, scale, out + size * (j + k), 1);                            \
        by_eights_##type##_##level(codes + j, dim - j, scale, out + size * j);                                    \
    }

#define COMPILE_FOR(level, target)                                                                                \
    target void dequantize_float64_##level(const uint8_t *codes, size_t dim, double scale, char *out)             \
    {                                                                                                             \
        by_eights_float64_##level(codes, dim, scale, out);                                                        \
    }                                                                                                             \
    target void dequantize_float16_##level(const uint8_t *codes, size_t dim, double scale, char *out)             \
    {                                                                                                             \
        by_eights_float16_##level(codes, dim, scale, out);                                                        \
    }                                                                                                             \
    target void dequantize_float32_##level(const uint8_t *codes, size_t dim, double scale, char *out)             \
    {                                                                                                             \
        /* not for short rows: what is done for the scale takes as long as 100 values */                          \
        cut_scale cut;                                                                                            \
        if (dim < 128 || !cut_up_##level(scale, &cut)) {                                                          \
            by_eights_float32_##level(codes, dim, scale, out);                                                    \
            return;                                                                                               \
        }                                                                                                         \
        for (size_t j = 0; j + 16 <= dim; j += 16)                                                                \
            sixteen_##level(codes + j, cut, out + 4 * j, 0);                                                      \
        if (dim % 16 != 0)                                                                                        \
            sixteen_##level(codes + dim - 16, cut, out + 4 * (dim - 16), 0);                                      \
    }                                                                                                             \
    STREAMED(stream_float64_##level, float64, 8, level, target, 8)                                                \
    STREAMED(stream_float16_##level, float16, 2, level, target, 32)                                               \
    static STREAMED(eights_streamed_##level, float32, 4, level, target, 16)                                       \
    target void stream_float32_##level(const uint8_t *codes, size_t dim, double scale, char *out)                 \
    {                                                                                                             \
        size_t j = values_before_line(out, 4);                                                                    \
        cut_scale cut;                                                                                            \
        if (j > dim || dim - j < 128 || !cut_up_##level(scale, &cut)) {                                           \
            eights_streamed_##level(codes, dim, scale, out);                                                      \
            return;                                                                                               \
        }                                                                                                         \
        by_eights_float32_##level(codes, j, scale, out);                                                          \
        for (; j + 16 <= dim; j += 16)                                                                            \
            sixteen_##level(codes + j, cut, out + 4 * j, 1);                                                      \
        by_eights_float32_##level(codes + j, dim - j, scale, out + 4 * j);                                        \
    }

/* How many values of this size lie before the first line of 64 bytes. */
static ALWAYS_INLINE size_t values_before_line(const char *out, size_t size)
{
    return (size_t)(-(uintptr_t)out & 63) / size;
}

static ALWAYS_INLINE TARGET_AVX512 void store_512(char *out, __m512i value, int streamed)
{
    if (streamed)
        _mm512_stream_si512((__m512i *)out, value);
    else
        _mm512_storeu_si512(out, value);
}

static ALWAYS_INLINE TARGET_AVX2 void store_256(char *out, __m256i value, int streamed)
{
    if (streamed)
        _mm256_stream_si256((__m256i *)out, value);
    else
        _mm256_storeu_si256((__m256i *)out, value);
}

static ALWAYS_INLINE TARGET_AVX2 void store_128(char *out, __m128i value, int streamed)
{
    if (streamed)
        _mm_stream_si128((__m128i *)out, value);
    else
        _mm_storeu_si128((__m128i *)out, value);
}

/* The scale as in the proof above. */
typedef struct {
    float high, below, above;
} cut_scale;

static ALWAYS_INLINE cut_scale cut_up(double scale)
{
    uint64_t bits;
    double high;
    if ((double)(float)scale == scale)
        return (cut_scale){(float)scale, 0.0f, 0.0f};
    memcpy(&bits, &scale, sizeof bits);
    bits &= ~((1ULL << 36) - 1);
    memcpy(&high, &bits, sizeof high);
    double rest = scale - high, margin = 0x1p-39 * scale;
    return (cut_scale){(float)high, (float)(rest - margin), (float)(rest + margin)};
}

static ALWAYS_INLINE TARGET_AVX512 __m512d eight_values_avx512(const uint8_t *codes, double scale)
{
    __m512d shifted = shifted_codes_avx512((const char *)codes);
    return _mm512_mul_pd(_mm512_sub_pd(shifted, _mm512_set1_pd(SHIFTED_ZERO_POINT)), _mm512_set1_pd(scale));
}

static ALWAYS_INLINE TARGET_AVX512 void eight_float64_avx512(const uint8_t *codes, double scale, char *out,
                                                            int streamed)
{
    store_512(out, _mm512_castpd_si512(eight_values_avx512(codes, scale)), streamed);
}

static ALWAYS_INLINE TARGET_AVX512 void eight_float32_avx512(const uint8_t *codes, double scale, char *out,
                                                            int streamed)
{
    store_256(out, _mm256_castps_si256(_mm512_cvtpd_ps(eight_values_avx512(codes, scale))), streamed);
}

/* As half_from_float64: round to odd on the way. Truncation never overflows, and its last bit is free to say
 * that something was cut off. */
static ALWAYS_INLINE TARGET_AVX512 void eight_float16_avx512(const uint8_t *codes, double scale, char *out,
                                                            int streamed)
{
    __m512d value = eight_values_avx512(codes, scale);
    __m256 truncated = _mm512_cvt_roundpd_ps(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __mmask8 inexact = _mm512_cmp_pd_mask(_mm512_cvtps_pd(truncated), value, _CMP_NEQ_UQ);
    __m256i bits = _mm256_castps_si256(truncated);
    bits = _mm256_mask_or_epi32(bits, inexact, bits, _mm256_set1_epi32(1));
    store_128(out, _mm256_cvtps_ph(_mm256_castsi256_ps(bits), _MM_FROUND_TO_NEAREST_INT), streamed);
}

typedef struct {
    __m256d low, high;
} eight_float64;

static ALWAYS_INLINE TARGET_AVX2 eight_float64 eight_values_avx2(const uint8_t *codes, double scale)
{
    __m128i centred = _mm_xor_si128(_mm_loadl_epi64((const __m128i *)codes), _mm_set1_epi8((char)0x80));
    __m256i words = _mm256_cvtepi8_epi32(centred);
    __m256d factor = _mm256_set1_pd(scale);
    return (eight_float64){_mm256_mul_pd(_mm256_cvtepi32_pd(_mm256_castsi256_si128(words)), factor),
                           _mm256_mul_pd(_mm256_cvtepi32_pd(_mm256_extracti128_si256(words, 1)), factor)};
}

static ALWAYS_INLINE TARGET_AVX2 void eight_float64_avx2(const uint8_t *codes, double scale, char *out,
                                                          int streamed)
{
    eight_float64 values = eight_values_avx2(codes, scale);
    store_256(out, _mm256_castpd_si256(values.low), streamed);
    store_256(out + 32, _mm256_castpd_si256(values.high), streamed);
}

static ALWAYS_INLINE TARGET_AVX2 void eight_float32_avx2(const uint8_t *codes, double scale, char *out,
                                                          int streamed)
{
    eight_float64 values = eight_values_avx2(codes, scale);
    store_128(out, _mm_castps_si128(_mm256_cvtpd_ps(values.low)), streamed);
    store_128(out + 16, _mm_castps_si128(_mm256_cvtpd_ps(values.high)), streamed);
}

/* As odd_float32_bits, four at a time. */
static ALWAYS_INLINE TARGET_AVX2 __m128i odd_float32_avx2(__m256d value)
{
    const __m256d sign = _mm256_set1_pd(-0.0);
    __m128 nearest = _mm256_cvtpd_ps(value);
    __m256d back = _mm256_cvtps_pd(nearest);
    __m256d too_far = _mm256_cmp_pd(_mm256_andnot_pd(sign, back), _mm256_andnot_pd(sign, value), _CMP_GT_OQ);
    __m256d inexact = _mm256_cmp_pd(back, value, _CMP_NEQ_UQ);
    /* the lower half of each 64-bit mask: -1 where true */
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    __m128i less = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(_mm256_castpd_si256(too_far), even));
    __m128i sticky = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(_mm256_castpd_si256(inexact), even));
    __m128i bits = _mm_add_epi32(_mm_castps_si128(nearest), less);
    return _mm_or_si128(bits, _mm_srli_epi32(sticky, 31));
}

static ALWAYS_INLINE TARGET_AVX2 void eight_float16_avx2(const uint8_t *codes, double scale, char *out,
                                                          int streamed)
{
    eight_float64 values = eight_values_avx2(codes, scale);
    __m256i bits = _mm256_set_m128i(odd_float32_avx2(values.high), odd_float32_avx2(values.low));
    store_128(out, _mm256_cvtps_ph(_mm256_castsi256_ps(bits), _MM_FROUND_TO_NEAREST_INT), streamed);
}

BY_EIGHTS(by_eights_float32_avx2, float32, 4, avx2, TARGET_AVX2)
BY_EIGHTS(by_eights_float64_avx2, float64, 8, avx2, TARGET_AVX2)
BY_EIGHTS(by_eights_float16_avx2, float16, 2, avx2, TARGET_AVX2)
BY_EIGHTS(by_eights_float32_avx512, float32, 4, avx512, TARGET_AVX512)
BY_EIGHTS(by_eights_float64_avx512, float64, 8, avx512, TARGET_AVX512)
BY_EIGHTS(by_eights_float16_avx512, float16, 2, avx512, TARGET_AVX512)

/* Cuts a scale up; 0 if fl32(c * high + c * below) is not certain for every code. See the proof above. */
static ALWAYS_INLINE TARGET_AVX512 int cut_up_avx512(double scale, cut_scale *cut)
{
    if (!(scale >= 0x1p-80 && scale <= 0x1p80))
        return 0;
    *cut = cut_up(scale);
    __m512 odd = _mm512_set_ps(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    __mmask16 different = 0;
    for (int i = 0; i < 4; i++) {
        __m512 coarse = _mm512_mul_ps(odd, _mm512_set1_ps(cut->high));
        __m512 one = _mm512_fmadd_ps(odd, _mm512_set1_ps(cut->below), coarse);
        __m512 other = _mm512_fmadd_ps(odd, _mm512_set1_ps(cut->above), coarse);
        different |= _mm512_cmp_ps_mask(one, other, _CMP_NEQ_OQ);
        odd = _mm512_add_ps(odd, _mm512_set1_ps(32));
    }
    return different == 0;
}

/* The codes become 32768 + code by the same shuffle as in shifted.h: in float32 that is 0x4700 in the upper two
 * bytes, and byte 1 counts ones. */
static ALWAYS_INLINE TARGET_AVX512 void sixteen_avx512(const uint8_t *codes, cut_scale cut, char *out, int streamed)
{
    const __m512i base = _mm512_castps_si512(_mm512_set1_ps(32768.0f));
    const __m512i places = _mm512_set_epi32(15 << 8, 14 << 8, 13 << 8, 12 << 8, 11 << 8, 10 << 8, 9 << 8, 8 << 8,
                                            7 << 8, 6 << 8, 5 << 8, 4 << 8, 3 << 8, 2 << 8, 1 << 8, 0);
    __m512i sixteen = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)codes));
    __m512i spread = _mm512_mask_shuffle_epi8(base, 0x2222222222222222u, sixteen, places);
    __m512 centred = _mm512_sub_ps(_mm512_castsi512_ps(spread), _mm512_set1_ps(32768.0f + 128.0f));
    __m512 coarse = _mm512_mul_ps(centred, _mm512_set1_ps(cut.high));
    store_512(out, _mm512_castps_si512(_mm512_fmadd_ps(centred, _mm512_set1_ps(cut.below), coarse)), streamed);
}

static ALWAYS_INLINE TARGET_AVX2 int cut_up_avx2(double scale, cut_scale *cut)
{
    if (!(scale >= 0x1p-80 && scale <= 0x1p80))
        return 0;
    *cut = cut_up(scale);
    __m256 odd = _mm256_set_ps(15, 13, 11, 9, 7, 5, 3, 1), different = _mm256_setzero_ps();
    for (int i = 0; i < 8; i++) {
        __m256 coarse = _mm256_mul_ps(odd, _mm256_set1_ps(cut->high));
        __m256 one = _mm256_fmadd_ps(odd, _mm256_set1_ps(cut->below), coarse);
        __m256 other = _mm256_fmadd_ps(odd, _mm256_set1_ps(cut->above), coarse);
        different = _mm256_or_ps(different, _mm256_cmp_ps(one, other, _CMP_NEQ_OQ));
        odd = _mm256_add_ps(odd, _mm256_set1_ps(16));
    }
    return _mm256_movemask_ps(different) == 0;
}

static ALWAYS_INLINE TARGET_AVX2 void sixteen_avx2(const uint8_t *codes, cut_scale cut, char *out, int streamed)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m128i eight = _mm_loadl_epi64((const __m128i *)(codes + 8 * half));
        __m128i centred = _mm_xor_si128(eight, _mm_set1_epi8((char)0x80));
        __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(centred));
        __m256 coarse = _mm256_mul_ps(values, _mm256_set1_ps(cut.high));
        __m256 product = _mm256_fmadd_ps(values, _mm256_set1_ps(cut.below), coarse);
        store_256(out + 32 * half, _mm256_castps_si256(product), streamed);
    }
}

COMPILE_FOR(avx2, TARGET_AVX2)
COMPILE_FOR(avx512, TARGET_AVX512)
#endif

void dequantize_rows(matrix codes, vector scales, matrix out, output_type type)
{
    const int streamed = is_streamed(&out, type);
    dequantize_row *dequantize = (streamed ? active_kernels->stream : active_kernels->dequantize)[type];
    for (size_t i = 0; i < codes.rows; i++)
        dequantize((const uint8_t *)row_of(&codes, i), codes.dim, float64_of(&scales, i), row_of(&out, i));
    if (streamed)
        end_streaming();
}
