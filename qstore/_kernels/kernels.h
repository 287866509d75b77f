/* What the kernels share: views, the table of one dispatch level, and memory access that may be unaligned. */
#ifndef QSTORE_KERNELS_H
#define QSTORE_KERNELS_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "qstore's kernels must give the same bits everywhere: build them without -ffast-math"
#endif
#if FLT_EVAL_METHOD != 0
#error "qstore's kernels need floating point without excess precision (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define QSTORE_X86 1
#include <immintrin.h>
/* -ffp-contract=off goes with these: a contracted multiply-add rounds once where the specification rounds twice. */
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#else
#define QSTORE_X86 0
#endif

/* A matrix whose rows are contiguous; the stride between rows is in bytes and may be negative. */
typedef struct {
    char *data;
    ptrdiff_t stride;
    size_t rows, dim;
} matrix;

/* Of packed scales the items are uint16, places in `values`, which are PACKED_VALUES of float64; NULL for all else. */
enum { PACKED_VALUES = 65536 };
typedef struct {
    char *data;
    ptrdiff_t stride;
    size_t length;
    const char *values;
} vector;

/* In the order of ELEMENT_NAMES in module.c. Up to INT16 every value is exact in float32. */
typedef enum {
    FLOAT32, FLOAT16, BFLOAT16, FLOAT8_E4M3FN, FLOAT8_E5M2, INT8, UINT8, INT16, UINT16,
    FLOAT64, INT32, UINT32, INT64, UINT64,
    ELEMENT_TYPES
} element_type;

typedef enum { OUT_FLOAT32, OUT_FLOAT64, OUT_FLOAT16, OUT_TYPES } output_type;

/* The output type of an element type that is one. */
static ALWAYS_INLINE output_type output_of(element_type type)
{
    return type == FLOAT32 ? OUT_FLOAT32 : type == FLOAT64 ? OUT_FLOAT64 : OUT_FLOAT16;
}

typedef void dequantize_row(const uint8_t *codes, size_t dim, double scale, char *out);

/* Quantized blocks of ggml, in the order of LAYOUTS in gguf.c. */
typedef enum {
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4,
    BLOCK_TYPES
} block_type;

/* The values of `count` blocks that lie one after the other. */
typedef void unpack_blocks(block_type type, const uint8_t *x, size_t count, float *out);

/* What all bags share; weights.data is NULL for none. The row numbers have been checked. */
typedef struct {
    matrix codes;
    vector scales;
    vector rows;
    vector weights;
    int weights_are_float64;
    int mean;
    output_type type;
} pool_job;

/* The bag of rows[start] to before rows[stop]. */
typedef void pool_bag(const pool_job *job, size_t start, size_t stop, char *out);

/* What a survey of rows adds up; the specification is qstore.survey. */
typedef struct {
    matrix codes;
    vector scales;
    matrix rows;    /* int64, (2, codes.rows): squares and hashes, written */
    matrix columns; /* float64, (2, codes.dim): sums and energies, added to */
    vector peaks, histogram; /* int64, added to */
} survey_job;

/* Rows that are surveyed together, 64 columns at a time, and what has been found of them so far: lanes of their
 * hashes, parts of their sums of squares; and how often codes occur. The peaks of a column fit a byte. */
enum { SURVEY_ROWS = 128, SURVEY_STRIPE = 64, SURVEY_LANES = 8, SURVEY_SQUARES = 16, SURVEY_TABLES = 4 };
typedef struct {
    _Alignas(64) uint64_t lanes[SURVEY_ROWS][SURVEY_LANES];
    int32_t squares[SURVEY_ROWS][SURVEY_SQUARES];
    uint64_t counts[SURVEY_TABLES][256];
    double scales[SURVEY_ROWS];
    matrix codes;
} survey_tile;

/* Columns `column` to before `column` + n of a tile, added to n sums, energies and peaks, and to the tile. */
typedef void survey_stripe(survey_tile *tile, size_t column, size_t n, double *sums, double *energies,
                           uint8_t *peaks);

enum { ROW_FIGURES = 9 }; /* that qstore.engine.row_errors keeps of a row */

/* What is found of a row and of its errors, and the sums of products of both, each multiplied by a power of two. */
typedef struct {
    double largest, largest_error; /* magnitudes */
    size_t filled, zeroed;         /* values that are not 0, and those of them that are read as 0 */
} row_extent;
typedef struct {
    double error_square, value_square, along;
} row_sums;

enum { TILE_ROWS = 32 }; /* how many rows a level scores at a time, at most */

/* Of a quantized query: the sum of what score_tile() multiplies with codes that are not centred, if it does; and the
 * sum of squares of what it leaves out. */
typedef struct {
    double sum, left_out;
} laid_query;

/* Rows of codes against quantized queries, each laid out in 2 * width bytes as the level wants them; width is a
 * multiple of 64, and the columns past the last one are 0. */
typedef struct {
    matrix codes;
    const char *queries;
    const laid_query *laid;
    size_t count, width;
} score_job;

/* In the order of METRICS in qstore/scanning.py. */
typedef enum { METRIC_DOT, METRIC_COSINE, METRIC_L2, METRICS } metric;

/* One search over some rows: what it reads, and what it has found so far for each query: the `best` lower bounds, and
 * rows with their upper bounds, with room for `room` of them. */
typedef struct {
    score_job score;
    vector scales;
    metric metric;
    struct {
        const double *factors, *errors, *slacks, *most;
    } bounds;
    double *coarse_errors; /* with what score_tile() leaves out */
    int64_t first_number;
    double *heaps, *found_upper;
    int64_t *found_rows, *found;
    size_t best, room;
} scan_job;

/* A tile: what its rows have and what they score. For scalar products, a centre is factor * sum and a radius
 * reach * error + some * slack; all are 0 for rows that are zero. */
typedef struct {
    size_t rows;
    double scales[TILE_ROWS], squares[TILE_ROWS], norms[TILE_ROWS];
    double factors[TILE_ROWS], reaches[TILE_ROWS], some[TILE_ROWS];
    double *sums; /* TILE_ROWS for each query */
} tile;

/* The functions of one dispatch level. They work on one row (or bag) each: an indirect call that is always
 * predicted costs 1 to 2 ns, and the loops around them need no copies per level. */
typedef struct {
    const char *name;
    uint32_t (*largest_float32)(const char *x, size_t n); /* bit pattern of max |x|: at least 0x7f800000 means */
    uint64_t (*largest_float64)(const char *x, size_t n); /* that a value is not finite (0x7ff0... in float64) */
    void (*codes_float32)(const char *x, size_t n, double scale, uint8_t *codes);
    void (*codes_float64)(const char *x, size_t n, double scale, uint8_t *codes);
    void (*widen_float16)(const char *x, size_t n, float *out);
    void (*widen_bfloat16)(const char *x, size_t n, float *out);
    dequantize_row *dequantize[OUT_TYPES];
    dequantize_row *stream[OUT_TYPES]; /* the same values, past the caches where the level can */
    unpack_blocks *unpack_blocks;
    pool_bag *pool;
    survey_stripe *survey_stripe;
    /* Fills `given` (or, if not `narrow`, finds the values there), and takes it from what was read, in `errors`. */
    void (*measure_row)(const char *values, int narrow, size_t n, double *given, double *errors, row_extent *found);
    int (*whole_range)(const double *given, size_t n, double *least, double *most); /* 0: not all are whole numbers */
    row_sums (*sum_row)(const double *given, const double *errors, size_t n, double factor, double error_factor);
    laid_query (*lay_out_query)(const char *values, size_t width, char *out);
    /* Adds to sums[query * TILE_ROWS + row] and squares[row]. */
    void (*score_tile)(const score_job *job, size_t first, size_t rows, double *sums, double *squares);
    double (*left_out)(const score_job *job, size_t query, size_t row); /* what is missing in such a sum */
    void (*measure_tile)(const scan_job *job, tile *t); /* fills it in, from scales and squares */
    int (*bound_tile)(const scan_job *job, const tile *t, size_t q, double *upper); /* any not beaten yet? */
} kernels;

/* levels.c */
extern const kernels *active_kernels;
const kernels *find_level(const char *name); /* NULL: unknown, or this machine lacks it */
void choose_best_level(void);

/* widen.c */
size_t element_size(element_type type);
void make_float8_tables(void);
void widen_to_float32(element_type type, const char *x, size_t n, float *out);
void widen_to_float64(element_type type, const char *x, size_t n, double *out);

/* The loops. Those that return ptrdiff_t answer -1, or the place of what is wrong; quantize_rows and
 * measure_rows answer OUT_OF_MEMORY when they cannot have a row's worth of scratch space. */
enum { ALL_GOOD = -1, OUT_OF_MEMORY = -2 };
ptrdiff_t quantize_rows(matrix values, element_type type, matrix codes, vector scales, int zero_nonfinite);
/* Factors are one row or as many as there are; each holds for `width` columns, which is not 0. */
void look_up_codes(matrix codes, vector table, matrix factors, size_t width, matrix out);
void dequantize_rows(matrix codes, vector scales, matrix out, output_type type);
ptrdiff_t find_bad_row(vector rows, size_t total);
void gather_rows(matrix codes, vector scales, vector rows, matrix out, output_type type);
ptrdiff_t pack_scales(vector scales, double *values, size_t count, uint16_t *places);
ptrdiff_t find_bad_offset(vector offsets, size_t rows);
void pool_rows(const pool_job *job, vector offsets, matrix out);
void survey_rows(const survey_job *job);
ptrdiff_t measure_rows(matrix values, element_type type, matrix codes, vector scales, matrix figures);
ptrdiff_t find_bad_scale(vector scales);
ptrdiff_t scan_rows(scan_job *job, matrix queries); /* rows done: not all where room runs out; or OUT_OF_MEMORY */

/* NumPy hands out views at any address (a tensor at an odd offset of a mapped file): memcpy compiles to a
 * plain load, where a dereference would be undefined. */
#define DEFINE_LOAD(name, type)                                                                                   \
    static ALWAYS_INLINE type load_##name(const char *p)                                                          \
    {                                                                                                             \
        type value;                                                                                               \
        memcpy(&value, p, sizeof value);                                                                          \
        return value;                                                                                             \
    }
DEFINE_LOAD(float32, float)
DEFINE_LOAD(float64, double)
DEFINE_LOAD(int8, int8_t)
DEFINE_LOAD(uint8, uint8_t)
DEFINE_LOAD(int16, int16_t)
DEFINE_LOAD(uint16, uint16_t)
DEFINE_LOAD(int32, int32_t)
DEFINE_LOAD(uint32, uint32_t)
DEFINE_LOAD(int64, int64_t)
DEFINE_LOAD(uint64, uint64_t)

static ALWAYS_INLINE double float64_of(const vector *v, size_t i)
{
    return load_float64(v->data + (ptrdiff_t)i * v->stride);
}

static ALWAYS_INLINE char *row_of(const matrix *m, size_t i)
{
    return m->data + (ptrdiff_t)i * m->stride;
}

/* Output of more bytes than this goes past the caches by streaming stores: it would not stay in them, and a plain
 * store first reads the line that it fills. 10,000 rows of 768 as float32: 1.96 ms for 2.94 ms (Zen 4). */
#define STREAMED_BYTES ((size_t)4 << 20)

/* Not at addresses between values (a view of bytes): no line there begins with a value. */
static ALWAYS_INLINE int is_streamed(const matrix *out, output_type type)
{
    const size_t size = type == OUT_FLOAT64 ? 8 : type == OUT_FLOAT32 ? 4 : 2;
    return out->dim > 0 && out->rows > STREAMED_BYTES / size / out->dim &&
           (((uintptr_t)out->data | (uintptr_t)out->stride) & (size - 1)) == 0;
}

/* Streaming stores are not ordered with others: what tells another thread that the output is there would
 * overtake them. */
static ALWAYS_INLINE void end_streaming(void)
{
#if QSTORE_X86
    _mm_sfence();
#endif
}

/* Row number i of `rows`, with negative numbers counted from the end; find_bad_row has passed it. */
static ALWAYS_INLINE size_t row_number(const vector *rows, size_t i, size_t total)
{
    int64_t row = load_int64(rows->data + (ptrdiff_t)i * rows->stride);
    return (size_t)(row < 0 ? row + (int64_t)total : row);
}

/* Into the second-level cache, not the first: its queue of outstanding misses is longer. Of a table of 2,000,000
 * rows 163,840 scattered ones took 3 ms this way and 10 ms with the other hint (Zen 4). */
#define INTO_L2 2

/* Where the scale of a row lies, packed or not. */
static ALWAYS_INLINE const char *scale_place(const vector *scales, size_t row)
{
    const char *place = scales->data + (ptrdiff_t)row * scales->stride;
    return scales->values == NULL ? place : scales->values + 8 * (size_t)load_uint16(place);
}

static ALWAYS_INLINE double scale_of(const vector *scales, size_t row)
{
    return load_float64(scale_place(scales, row));
}

/* Ask for the first `bytes` of a row, and its scale, ahead of use. */
static ALWAYS_INLINE void prefetch_row(const matrix *codes, const vector *scales, size_t row, size_t bytes)
{
    const uintptr_t start = (uintptr_t)row_of(codes, row), stop = start + bytes;
    __builtin_prefetch(scales->data + (ptrdiff_t)row * scales->stride, 0, INTO_L2);
    for (uintptr_t line = start & ~(uintptr_t)63; line < stop; line += 64)
        __builtin_prefetch((const void *)line, 0, INTO_L2);
}

#endif
