/* Element types to float32 (those that are exact in it) and to float64. */
#include "half.h"

static float float8_e4m3fn[256], float8_e5m2[256];

/* OCP 8-bit floating point 1.0. E5M2 is the upper byte of a binary16; E4M3FN has bias 7, no infinity, and one
 * NaN of either sign. */
void make_float8_tables(void)
{
    for (unsigned code = 0; code < 256; code++) {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        float value = exponent ? ldexpf(8.0f + mantissa, exponent - 10) : ldexpf(mantissa, -9);
        if ((code & 127) == 127)
            value = NAN;
        float8_e4m3fn[code] = code & 128 ? -value : value;
        float8_e5m2[code] = float32_from_half((uint16_t)(code << 8));
    }
}

size_t element_size(element_type type)
{
    static const uint8_t sizes[ELEMENT_TYPES] = {4, 2, 2, 1, 1, 1, 1, 2, 2, 8, 4, 4, 8, 8};
    return sizes[type];
}

#define WIDEN(name, type)                                                                                         \
    for (size_t j = 0; j < n; j++)                                                                                \
        out[j] = (type)load_##name(x + j * sizeof(load_##name(x)));                                               \
    break

static void look_up(const float *table, const char *x, size_t n, float *out)
{
    for (size_t j = 0; j < n; j++)
        out[j] = table[(uint8_t)x[j]];
}

void widen_to_float32(element_type type, const char *x, size_t n, float *out)
{
    switch (type) {
    case FLOAT32: memcpy(out, x, n * sizeof *out); break;
    case FLOAT16: active_kernels->widen_float16(x, n, out); break;
    case BFLOAT16: active_kernels->widen_bfloat16(x, n, out); break;
    case FLOAT8_E4M3FN: look_up(float8_e4m3fn, x, n, out); break;
    case FLOAT8_E5M2: look_up(float8_e5m2, x, n, out); break;
    case INT8: WIDEN(int8, float);
    case UINT8: WIDEN(uint8, float);
    case INT16: WIDEN(int16, float);
    case UINT16: WIDEN(uint16, float);
    default: break;
    }
}

void widen_to_float64(element_type type, const char *x, size_t n, double *out)
{
    switch (type) {
    case FLOAT64: memcpy(out, x, n * sizeof *out); break;
    case FLOAT32: WIDEN(float32, double);
    case INT32: WIDEN(int32, double);
    case UINT32: WIDEN(uint32, double);
    case INT64: WIDEN(int64, double);
    case UINT64: WIDEN(uint64, double);
    default: { /* in pieces: n values of a narrow type need no second buffer of n */
        float piece[256];
        for (size_t j = 0; j < n; j += 256) {
            size_t count = n - j < 256 ? n - j : 256;
            widen_to_float32(type, x + j * element_size(type), count, piece);
            for (size_t k = 0; k < count; k++)
                out[j + k] = piece[k];
        }
    }
    }
}
