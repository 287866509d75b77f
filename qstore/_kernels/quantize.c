/* Rows of any element type to codes and scales. */
#include "kernels.h"

#include <stdlib.h>

/* Rows whose largest magnitude lies below this go through float64: 1/scale overflows float32 under 3.74e-37. */
#define SMALLEST_FLOAT32_ROW 1e-36f

static int all_finite_float64(uint64_t largest) { return largest < 0x7ff0000000000000u; }

static double from_bits64(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float from_bits32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Scale and codes of a row in float64; the column of its first value that is not finite, or -1. `scratch` is
 * room for a row, and may be the row. */
static ptrdiff_t quantize_float64(const char *row, size_t dim, int zero_nonfinite, double *scratch, uint8_t *codes,
                                  double *scale)
{
    const kernels *k = active_kernels;
    uint64_t largest = k->largest_float64(row, dim);
    if (!all_finite_float64(largest)) {
        for (size_t j = 0; j < dim; j++) {
            double value = load_float64(row + 8 * j);
            if (!isfinite(value) && !zero_nonfinite)
                return (ptrdiff_t)j;
            scratch[j] = isfinite(value) ? value : 0.0;
        }
        row = (const char *)scratch;
        largest = k->largest_float64(row, dim);
    }
    *scale = from_bits64(largest) / 127.0;
    if (*scale == 0.0)
        memset(codes, 128, dim);
    else
        k->codes_float64(row, dim, *scale, codes);
    return -1;
}

/* True if the row could be done in float32 lanes. */
static int quantize_float32(const char *row, size_t dim, uint8_t *codes, double *scale)
{
    const kernels *k = active_kernels;
    uint32_t largest = k->largest_float32(row, dim);
    float magnitude = from_bits32(largest);
    if (largest == 0) {
        *scale = 0.0;
        memset(codes, 128, dim);
        return 1;
    }
    if (largest >= 0x7f800000u || magnitude < SMALLEST_FLOAT32_ROW)
        return 0;
    *scale = (double)magnitude / 127.0;
    k->codes_float32(row, dim, *scale, codes);
    return 1;
}

/* As quantize_float64, the fast way where there is one. */
static ptrdiff_t quantize_row(const char *row, element_type type, size_t dim, int zero_nonfinite, double *scratch,
                              uint8_t *codes, double *scale)
{
    if (type < FLOAT64) { /* exact in float32 */
        const char *narrow = row;
        if (type != FLOAT32) {
            widen_to_float32(type, row, dim, (float *)scratch);
            narrow = (const char *)scratch;
        }
        if (quantize_float32(narrow, dim, codes, scale))
            return -1;
    }
    if (type != FLOAT64) {
        widen_to_float64(type, row, dim, scratch);
        row = (const char *)scratch;
    }
    return quantize_float64(row, dim, zero_nonfinite, scratch, codes, scale);
}

ptrdiff_t quantize_rows(matrix values, element_type type, matrix codes, vector scales, int zero_nonfinite)
{
    const size_t dim = values.dim;
    double *scratch = dim < PTRDIFF_MAX / sizeof(double) - 1 ? malloc((dim + 1) * sizeof *scratch) : NULL;
    if (scratch == NULL)
        return OUT_OF_MEMORY;
    ptrdiff_t result = ALL_GOOD;
    for (size_t i = 0; i < values.rows && result == ALL_GOOD; i++) {
        double scale = 0.0;
        ptrdiff_t column = quantize_row(row_of(&values, i), type, dim, zero_nonfinite, scratch,
                                        (uint8_t *)row_of(&codes, i), &scale);
        if (column >= 0)
            result = (ptrdiff_t)(i * dim) + column;
        memcpy(scales.data + (ptrdiff_t)i * scales.stride, &scale, sizeof scale);
    }
    free(scratch);
    return result;
}
