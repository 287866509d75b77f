/* Scattered rows. */
#include "kernels.h"

/* How far ahead rows are asked for: enough to hide a memory access, little enough to stay in the cache. */
#define BYTES_AHEAD 8192

/* A row past this is the hardware prefetcher's: it has caught on by then. */
#define PREFETCHED_BYTES 4096

ptrdiff_t find_bad_row(vector rows, size_t total)
{
    const int64_t count = (int64_t)total;
    for (size_t i = 0; i < rows.length; i++) {
        int64_t row = load_int64(rows.data + (ptrdiff_t)i * rows.stride);
        if (row < -count || row >= count)
            return (ptrdiff_t)i;
    }
    return ALL_GOOD;
}

void gather_rows(matrix codes, vector scales, vector rows, matrix out, output_type type)
{
    const size_t dim = codes.dim;
    if (dim == 0)
        return;
    const int streamed = is_streamed(&out, type);
    dequantize_row *dequantize = (streamed ? active_kernels->stream : active_kernels->dequantize)[type];
    const size_t bytes = dim < PREFETCHED_BYTES ? dim : PREFETCHED_BYTES;
    const size_t ahead = BYTES_AHEAD / dim < 2 ? 2 : BYTES_AHEAD / dim > 64 ? 64 : BYTES_AHEAD / dim;
    for (size_t i = 1; i < rows.length && i < ahead; i++)
        prefetch_row(&codes, &scales, row_number(&rows, i, codes.rows), bytes);
    for (size_t i = 0; i < rows.length; i++) {
        if (i + ahead < rows.length)
            prefetch_row(&codes, &scales, row_number(&rows, i + ahead, codes.rows), bytes);
        size_t row = row_number(&rows, i, codes.rows);
        dequantize((const uint8_t *)row_of(&codes, row), dim, scale_of(&scales, row), row_of(&out, i));
    }
    if (streamed)
        end_streaming();
}
