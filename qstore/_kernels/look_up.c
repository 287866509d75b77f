/* Codes of 8 bits that stand for the floats of a table, scaled by groups of columns. The specification is
 * qstore.engine.code_tables. */
#include "kernels.h"

static void scale_group(const float *table, const uint8_t *codes, size_t n, float factor, char *out)
{
    for (size_t j = 0; j < n; j++) {
        float value = table[codes[j]] * factor;
        memcpy(out + j * sizeof value, &value, sizeof value);
    }
}

void look_up_codes(matrix codes, vector table, matrix factors, size_t width, matrix out)
{
    float values[256];
    for (size_t k = 0; k < 256; k++)
        values[k] = load_float32(table.data + (ptrdiff_t)k * table.stride);
    for (size_t i = 0; i < codes.rows; i++) {
        const uint8_t *row = (const uint8_t *)(codes.data + (ptrdiff_t)i * codes.stride);
        const char *scales = factors.data + (factors.rows == 1 ? 0 : (ptrdiff_t)i * factors.stride);
        char *to = out.data + (ptrdiff_t)i * out.stride;
        for (size_t j = 0; j < codes.dim; j += width, scales += sizeof(float)) {
            size_t n = codes.dim - j < width ? codes.dim - j : width;
            scale_group(values, row + j, n, load_float32(scales), to + j * sizeof(float));
        }
    }
}
