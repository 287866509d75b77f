/* Pooled bags of rows ("embedding bag"): weighted sums or means without materializing the rows. Which way is taken. */
#include "pool.h"

#if QSTORE_X86

TARGET_AVX2 void pool_avx2(const pool_job *job, size_t start, size_t stop, char *out)
{
    if (suits_pairs(job, stop - start))
        pool_pairs(job, start, stop, out);
    else
        pool_float64_avx2(job, start, stop, out);
}

TARGET_AVX512 void pool_avx512(const pool_job *job, size_t start, size_t stop, char *out)
{
    if (suits_vnni(job, stop - start))
        pool_vnni(job, start, stop, out);
    else
        pool_float64_avx512(job, start, stop, out);
}

#endif

/* Place of the first offset that is below the one before it, or past the last row; the first must be 0. */
ptrdiff_t find_bad_offset(vector offsets, size_t rows)
{
    int64_t previous = 0;
    for (size_t i = 0; i < offsets.length; i++) {
        int64_t offset = load_int64(offsets.data + (ptrdiff_t)i * offsets.stride);
        if (offset < previous || offset > (int64_t)rows || (i == 0 && offset != 0))
            return (ptrdiff_t)i;
        previous = offset;
    }
    return ALL_GOOD;
}

void pool_rows(const pool_job *job, vector offsets, matrix out)
{
    pool_bag *pool = active_kernels->pool;
    for (size_t bag = 0; bag < offsets.length; bag++) {
        const char *offset = offsets.data + (ptrdiff_t)bag * offsets.stride;
        size_t start = (size_t)load_int64(offset);
        size_t stop = bag + 1 < offsets.length ? (size_t)load_int64(offset + offsets.stride) : job->rows.length;
        pool(job, start, stop, row_of(&out, bag));
    }
}
