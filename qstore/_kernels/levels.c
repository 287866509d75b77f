/* Which instructions to use, decided once at import; tests set it. */
#include "levels.h"

#define TABLE_OF(level)                                                                                           \
    static const kernels level##_kernels = {                                                                      \
        #level, largest_float32_##level, largest_float64_##level, codes_float32_##level, codes_float64_##level,   \
        widen_float16_##level, widen_bfloat16_##level,                                                            \
        {dequantize_float32_##level, dequantize_float64_##level, dequantize_float16_##level},                     \
        {stream_float32_##level, stream_float64_##level, stream_float16_##level}, pool_##level,                   \
        survey_stripe_##level, measure_row_##level, whole_range_##level, sum_row_##level, lay_out_query_##level,  \
        score_tile_##level, left_out_##level, measure_tile_##level, bound_tile_##level}

TABLE_OF(baseline);
#if QSTORE_X86
TABLE_OF(avx2);
TABLE_OF(avx512);
#endif

const kernels *active_kernels = &baseline_kernels;

#if QSTORE_X86
static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const kernels *find_level(const char *name)
{
    if (strcmp(name, "baseline") == 0)
        return &baseline_kernels;
#if QSTORE_X86
    if (strcmp(name, "avx2") == 0 && has_avx2())
        return &avx2_kernels;
    if (strcmp(name, "avx512") == 0 && has_avx512())
        return &avx512_kernels;
#endif
    return NULL;
}

void choose_best_level(void)
{
    static const char *const names[] = {"avx512", "avx2", "baseline"};
    const kernels *found = NULL;
    for (size_t i = 0; found == NULL; i++)
        found = find_level(names[i]);
    active_kernels = found;
}
