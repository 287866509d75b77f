/* The functions of every dispatch level, as levels.c puts them into tables. */
#ifndef QSTORE_LEVELS_H
#define QSTORE_LEVELS_H

#include "kernels.h"

#define DECLARE_LEVEL(level)                                                                                      \
    uint32_t largest_float32_##level(const char *x, size_t n);                                                    \
    uint64_t largest_float64_##level(const char *x, size_t n);                                                    \
    void codes_float32_##level(const char *x, size_t n, double scale, uint8_t *codes);                            \
    void codes_float64_##level(const char *x, size_t n, double scale, uint8_t *codes);                            \
    void widen_float16_##level(const char *x, size_t n, float *out);                                              \
    void widen_bfloat16_##level(const char *x, size_t n, float *out);                                             \
    dequantize_row dequantize_float32_##level, dequantize_float64_##level, dequantize_float16_##level;            \
    dequantize_row stream_float32_##level, stream_float64_##level, stream_float16_##level;                        \
    pool_bag pool_##level;                                                                                        \
    survey_stripe survey_stripe_##level;                                                                          \
    void measure_row_##level(const char *values, int narrow, size_t n, double *given, double *errors,             \
                             row_extent *found);                                                                  \
    int whole_range_##level(const double *given, size_t n, double *least, double *most);                          \
    row_sums sum_row_##level(const double *given, const double *errors, size_t n, double factor,                  \
                             double error_factor);                                                                \
    laid_query lay_out_query_##level(const char *values, size_t width, char *out);                                \
    void score_tile_##level(const score_job *job, size_t first, size_t rows, double *sums, double *squares);      \
    double left_out_##level(const score_job *job, size_t query, size_t row);                                      \
    void measure_tile_##level(const scan_job *job, tile *t);                                                      \
    int bound_tile_##level(const scan_job *job, const tile *t, size_t q, double *upper);

DECLARE_LEVEL(baseline)
#if QSTORE_X86
DECLARE_LEVEL(avx2)
DECLARE_LEVEL(avx512)
#endif

#endif
