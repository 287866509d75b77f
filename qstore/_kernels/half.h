/* IEEE 754 binary16 in integer arithmetic, for machines and levels without F16C. */
#ifndef QSTORE_HALF_H
#define QSTORE_HALF_H

#include "kernels.h"

static ALWAYS_INLINE uint32_t bits_of_float32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static ALWAYS_INLINE float float32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* float32 that keeps, in its last bit, whether the float64 lay off it ("round to odd"). Rounding that to
 * nearest with at most 22 bits then gives what rounding the float64 itself would give; going through the
 * nearest float32 would round twice, and wrongly for one value in some thousands. */
static ALWAYS_INLINE uint32_t odd_float32_bits(double x)
{
    float nearest = (float)x;
    double back = nearest;
    uint32_t inexact = back != x;
    uint32_t too_far = fabs(back) > fabs(x); /* also infinity for a finite x: one below it is FLT_MAX */
    return (bits_of_float32(nearest) - too_far) | inexact;
}

/* Nearest binary16 of the float32 with these bits, ties to even. */
static ALWAYS_INLINE uint16_t half_from_float32_bits(uint32_t bits)
{
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN */
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* below 2^-14: adding 0.5 leaves the multiples of 2^-24 in the low bits */
        return (uint16_t)(sign | (bits_of_float32(float32_of_bits(magnitude) + 0.5f) - 0x3f000000u));
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
    return (uint16_t)(sign | (rounded >> 13));
}

static ALWAYS_INLINE uint16_t half_from_float64(double x)
{
    return half_from_float32_bits(odd_float32_bits(x));
}

/* Shifted into place, the pattern of a binary16 is that of a float32 2^-112 times as large, subnormals included. */
static ALWAYS_INLINE float float32_from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t finite = bits_of_float32(float32_of_bits(magnitude) * 0x1p112f);
    return float32_of_bits((magnitude >= 0x0f800000u ? magnitude + (224u << 23) : finite) | sign);
}

#endif
