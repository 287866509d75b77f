/* CRC-32 (zlib's) by carry-less multiplication, several times the speed of most zlibs.
 *
 * Gopal et al. 2009, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel white paper):
 * 64 bytes at a time are folded into the next 64 by multiplying with powers of x modulo the polynomial, and
 * what is left is reduced after Barrett. */
#include "crc32.h"

#if QSTORE_X86

#define TARGET_CLMUL __attribute__((target("pclmul,sse4.1")))

/* x^(512+32), x^(512-32); x^(128+32), x^(128-32); x^64; the polynomial and its Barrett factor. Bits reversed. */
static const uint64_t FOLD_64[2] = {0x154442bd4, 0x1c6e41596};
static const uint64_t FOLD_16[2] = {0x1751997d0, 0x0ccaa009e};
static const uint64_t FOLD_8[2] = {0x163cd6124, 0};
static const uint64_t BARRETT[2] = {0x1db710641, 0x1f7011641};

static ALWAYS_INLINE TARGET_CLMUL __m128i load(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static ALWAYS_INLINE TARGET_CLMUL __m128i fold(__m128i sum, __m128i factors, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(sum, factors, 0x00);
    __m128i high = _mm_clmulepi64_si128(sum, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

static TARGET_CLMUL uint32_t reduce(__m128i sum)
{
    const __m128i low_halves = _mm_setr_epi32(~0, 0, ~0, 0);
    __m128i folded = _mm_clmulepi64_si128(sum, load(FOLD_16), 0x10);
    sum = _mm_xor_si128(_mm_srli_si128(sum, 8), folded);
    folded = _mm_clmulepi64_si128(_mm_and_si128(sum, low_halves), load(FOLD_8), 0x00);
    sum = _mm_xor_si128(_mm_srli_si128(sum, 4), folded);
    folded = _mm_clmulepi64_si128(_mm_and_si128(sum, low_halves), load(BARRETT), 0x10);
    folded = _mm_clmulepi64_si128(_mm_and_si128(folded, low_halves), load(BARRETT), 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(sum, folded), 1);
}

/* At least 64 bytes, a multiple of 16; `crc` and the result are the register, not inverted. */
static TARGET_CLMUL uint32_t crc32_folded(const uint8_t *data, size_t size, uint32_t crc)
{
    __m128i sums[4];
    for (size_t k = 0; k < 4; k++)
        sums[k] = load(data + 16 * k);
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128((int)crc));
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64)
        for (size_t k = 0; k < 4; k++)
            sums[k] = fold(sums[k], load(FOLD_64), load(data + 16 * k));
    __m128i sum = sums[0];
    for (size_t k = 1; k < 4; k++)
        sum = fold(sum, load(FOLD_16), sums[k]);
    for (; size >= 16; data += 16, size -= 16)
        sum = fold(sum, load(FOLD_16), load(data));
    return reduce(sum);
}

int has_fast_crc32(void)
{
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

#else

static uint32_t crc32_folded(const uint8_t *data, size_t size, uint32_t crc)
{
    (void)data, (void)size;
    return crc;
}

int has_fast_crc32(void)
{
    return 0;
}

#endif

static uint32_t crc32_bitwise(const uint8_t *data, size_t size, uint32_t crc)
{
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return crc;
}

uint32_t crc32_of(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    size_t folded = size >= 64 && has_fast_crc32() ? size / 16 * 16 : 0;
    if (folded > 0)
        crc = crc32_folded(data, folded, crc);
    return ~crc32_bitwise(data + folded, size - folded, crc);
}
