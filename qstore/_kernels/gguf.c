/* Rows in the quantized blocks of ggml to float32; the specification is qstore.engine.ggml_blocks.
 *
 * Each block is unpacked to small whole numbers, which stay in registers or in the first-level cache, and these are
 * multiplied and added to group by group, in the order of the specification and each step rounded by itself
 * (-ffp-contract=off). The loops are plain C that the compiler vectorizes at every level; only what looks numbers up
 * in tables of 16 needs more words. */
#include "gguf.h"

#include "half.h"

typedef struct {
    const char *name;
    size_t values, bytes; /* of a block */
} block_layout;

enum { LONGEST_BLOCK = 256 };

/* In the order of block_type. */
static const block_layout LAYOUTS[BLOCK_TYPES] = {
    [Q4_0] = {"Q4_0", 32, 18},     [Q4_1] = {"Q4_1", 32, 20},     [Q5_0] = {"Q5_0", 32, 22},
    [Q5_1] = {"Q5_1", 32, 24},     [Q8_0] = {"Q8_0", 32, 34},     [Q2_K] = {"Q2_K", 256, 84},
    [Q3_K] = {"Q3_K", 256, 110},   [Q4_K] = {"Q4_K", 256, 144},   [Q5_K] = {"Q5_K", 256, 176},
    [Q6_K] = {"Q6_K", 256, 210},   [IQ4_NL] = {"IQ4_NL", 32, 18}, [IQ4_XS] = {"IQ4_XS", 256, 136},
    [TQ1_0] = {"TQ1_0", 256, 54},  [TQ2_0] = {"TQ2_0", 256, 66},  [MXFP4] = {"MXFP4", 32, 17},
    [NVFP4] = {"NVFP4", 64, 36},
};

static const int8_t LEVELS_OF_IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* Twice the values of E2M1. */
static const int8_t LEVELS_OF_FP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float half_of_unsigned_e4m3[256];

void make_block_tables(void)
{
    for (int code = 0; code < 256; code++) {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        float value = exponent ? ldexpf(8.0f + mantissa, exponent - 11) : ldexpf(mantissa, -10);
        half_of_unsigned_e4m3[code] = code == 127 ? 0.0f : value;
    }
}

static ALWAYS_INLINE float half_at(const uint8_t *x)
{
    return float32_from_half((uint16_t)(x[0] | x[1] << 8));
}

/* The lowest two bits of 32 bytes, then the next two, and so on. */
static ALWAYS_INLINE void pairs_of_bits(const uint8_t *restrict x, int8_t *restrict q)
{
    for (int k = 0; k < 4; k++)
        for (size_t j = 0; j < 32; j++)
            q[32 * k + j] = (int8_t)(x[j] >> 2 * k & 3);
}

static ALWAYS_INLINE void minus(int8_t *q, size_t n, int zero)
{
    for (size_t j = 0; j < n; j++)
        q[j] = (int8_t)(q[j] - zero);
}

/* What compilers make little of, on n numbers or bytes, a multiple of 16: the lower halves of bytes, then their upper
 * ones; table[q] in the place of q; d * q; d * q + m. */
typedef struct {
    void (*nibbles)(const uint8_t *x, size_t n, int8_t *q);
    void (*looked_up)(const int8_t *table, int8_t *q, size_t n);
    void (*scaled)(const int8_t *q, size_t n, float d, float *out);
    void (*moved)(const int8_t *q, size_t n, float d, float m, float *out);
} lanes;

static ALWAYS_INLINE void nibbles_baseline(const uint8_t *restrict x, size_t n, int8_t *restrict q)
{
    for (size_t j = 0; j < n; j++) {
        q[j] = (int8_t)(x[j] & 15);
        q[n + j] = (int8_t)(x[j] >> 4);
    }
}

static ALWAYS_INLINE void looked_up_baseline(const int8_t *table, int8_t *q, size_t n)
{
    for (size_t j = 0; j < n; j++)
        q[j] = table[q[j]];
}

static ALWAYS_INLINE void scaled_baseline(const int8_t *restrict q, size_t n, float d, float *restrict out)
{
    for (size_t j = 0; j < n; j++)
        out[j] = d * (float)q[j];
}

static ALWAYS_INLINE void moved_baseline(const int8_t *restrict q, size_t n, float d, float m, float *restrict out)
{
    for (size_t j = 0; j < n; j++)
        out[j] = d * (float)q[j] + m;
}

static const lanes lanes_baseline = {nibbles_baseline, looked_up_baseline, scaled_baseline, moved_baseline};

#if QSTORE_X86
static ALWAYS_INLINE TARGET_AVX2 void nibbles_avx2(const uint8_t *x, size_t n, int8_t *q)
{
    const __m128i low = _mm_set1_epi8(15);
    for (size_t j = 0; j < n; j += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(x + j));
        _mm_storeu_si128((__m128i *)(q + j), _mm_and_si128(bytes, low));
        _mm_storeu_si128((__m128i *)(q + n + j), _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
    }
}

static ALWAYS_INLINE TARGET_AVX2 void looked_up_avx2(const int8_t *table, int8_t *q, size_t n)
{
    const __m128i levels = _mm_loadu_si128((const __m128i *)table);
    for (size_t j = 0; j < n; j += 16) {
        __m128i numbers = _mm_loadu_si128((const __m128i *)(q + j));
        _mm_storeu_si128((__m128i *)(q + j), _mm_shuffle_epi8(levels, numbers));
    }
}

static ALWAYS_INLINE TARGET_AVX2 __m256 eight_avx2(const int8_t *q)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q)));
}

static ALWAYS_INLINE TARGET_AVX2 void scaled_avx2(const int8_t *q, size_t n, float d, float *out)
{
    for (size_t j = 0; j < n; j += 8)
        _mm256_storeu_ps(out + j, _mm256_mul_ps(_mm256_set1_ps(d), eight_avx2(q + j)));
}

static ALWAYS_INLINE TARGET_AVX2 void moved_avx2(const int8_t *q, size_t n, float d, float m, float *out)
{
    for (size_t j = 0; j < n; j += 8) {
        __m256 product = _mm256_mul_ps(_mm256_set1_ps(d), eight_avx2(q + j));
        _mm256_storeu_ps(out + j, _mm256_add_ps(product, _mm256_set1_ps(m)));
    }
}

static const lanes lanes_avx2 = {nibbles_avx2, looked_up_avx2, scaled_avx2, moved_avx2};

static ALWAYS_INLINE TARGET_AVX512 __m512 sixteen_avx512(const int8_t *q)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)q)));
}

static ALWAYS_INLINE TARGET_AVX512 void scaled_avx512(const int8_t *q, size_t n, float d, float *out)
{
    for (size_t j = 0; j < n; j += 16)
        _mm512_storeu_ps(out + j, _mm512_mul_ps(_mm512_set1_ps(d), sixteen_avx512(q + j)));
}

static ALWAYS_INLINE TARGET_AVX512 void moved_avx512(const int8_t *q, size_t n, float d, float m, float *out)
{
    for (size_t j = 0; j < n; j += 16) {
        __m512 product = _mm512_mul_ps(_mm512_set1_ps(d), sixteen_avx512(q + j));
        _mm512_storeu_ps(out + j, _mm512_add_ps(product, _mm512_set1_ps(m)));
    }
}

static const lanes lanes_avx512 = {nibbles_avx2, looked_up_avx2, scaled_avx512, moved_avx512};
#endif

static ALWAYS_INLINE void q8_0(const uint8_t *x, float *out, lanes by)
{
    by.scaled((const int8_t *)x + 2, 32, half_at(x), out);
}

static ALWAYS_INLINE void q4_0(const uint8_t *x, float *out, lanes by)
{
    int8_t q[32];
    by.nibbles(x + 2, 16, q);
    minus(q, 32, 8);
    by.scaled(q, 32, half_at(x), out);
}

static ALWAYS_INLINE void q4_1(const uint8_t *x, float *out, lanes by)
{
    int8_t q[32];
    by.nibbles(x + 4, 16, q);
    by.moved(q, 32, half_at(x), half_at(x + 2), out);
}

/* Numbers whose upper bits come first, 32 of them in 4 bytes. */
static ALWAYS_INLINE void five_bits(const uint8_t *x, int8_t *q, lanes by)
{
    by.nibbles(x + 4, 16, q);
    for (size_t k = 0; k < 4; k++)
        for (size_t j = 0; j < 8; j++)
            q[8 * k + j] = (int8_t)(q[8 * k + j] | (x[k] >> j & 1) << 4);
}

static ALWAYS_INLINE void q5_0(const uint8_t *x, float *out, lanes by)
{
    int8_t q[32];
    five_bits(x + 2, q, by);
    minus(q, 32, 16);
    by.scaled(q, 32, half_at(x), out);
}

static ALWAYS_INLINE void q5_1(const uint8_t *x, float *out, lanes by)
{
    int8_t q[32];
    five_bits(x + 4, q, by);
    by.moved(q, 32, half_at(x), half_at(x + 2), out);
}

static ALWAYS_INLINE void q2_k(const uint8_t *x, float *out, lanes by)
{
    int8_t q[256];
    const float d = half_at(x + 80), m = half_at(x + 82);
    pairs_of_bits(x + 16, q);
    pairs_of_bits(x + 48, q + 128);
    for (size_t k = 0; k < 16; k++)
        by.moved(q + 16 * k, 16, d * (float)(x[k] & 15), -(m * (float)(x[k] >> 4)), out + 16 * k);
}

static ALWAYS_INLINE void q3_k(const uint8_t *x, float *out, lanes by)
{
    int8_t q[256];
    const float d = half_at(x + 108);
    pairs_of_bits(x + 32, q);
    pairs_of_bits(x + 64, q + 128);
    for (int k = 0; k < 8; k++)
        for (size_t j = 0; j < 32; j++)
            q[32 * k + j] = (int8_t)(q[32 * k + j] - ((x[j] >> k & 1) ^ 1) * 4);
    for (size_t k = 0; k < 16; k++) {
        int low = x[96 + k % 8] >> 4 * (k / 8) & 15, high = x[104 + k % 4] >> 2 * (k / 4) & 3;
        by.scaled(q + 16 * k, 16, d * (float)((low | high << 4) - 32), out + 16 * k);
    }
}

/* Of eight groups, from two halves and twelve bytes: six bits each, the upper two of the last four apart. */
static ALWAYS_INLINE void factors_and_minima(const uint8_t *x, float *factors, float *minima)
{
    const float d = half_at(x), m = half_at(x + 2);
    for (size_t k = 0; k < 4; k++) {
        const uint8_t factor = x[4 + k], minimum = x[8 + k], rest = x[12 + k];
        factors[k] = d * (float)(factor & 63);
        minima[k] = -(m * (float)(minimum & 63));
        factors[4 + k] = d * (float)((rest & 15) | (factor >> 2 & 48));
        minima[4 + k] = -(m * (float)(rest >> 4 | (minimum >> 2 & 48)));
    }
}

static ALWAYS_INLINE void q4_k(const uint8_t *x, float *out, lanes by)
{
    float factors[8], minima[8];
    factors_and_minima(x, factors, minima);
    for (size_t k = 0; k < 8; k += 2) {
        int8_t q[64];
        by.nibbles(x + 16 + 16 * k, 32, q);
        by.moved(q, 32, factors[k], minima[k], out + 32 * k);
        by.moved(q + 32, 32, factors[k + 1], minima[k + 1], out + 32 * k + 32);
    }
}

static ALWAYS_INLINE void q5_k(const uint8_t *x, float *out, lanes by)
{
    float factors[8], minima[8];
    factors_and_minima(x, factors, minima);
    for (size_t k = 0; k < 8; k += 2) {
        int8_t q[64];
        by.nibbles(x + 48 + 16 * k, 32, q);
        for (size_t j = 0; j < 32; j++) {
            q[j] = (int8_t)(q[j] | (x[16 + j] >> k & 1) << 4);
            q[32 + j] = (int8_t)(q[32 + j] | (x[16 + j] >> (k + 1) & 1) << 4);
        }
        by.moved(q, 32, factors[k], minima[k], out + 32 * k);
        by.moved(q + 32, 32, factors[k + 1], minima[k + 1], out + 32 * k + 32);
    }
}

static ALWAYS_INLINE void q6_k(const uint8_t *x, float *out, lanes by)
{
    const float d = half_at(x + 208);
    for (size_t part = 0; part < 2; part++) {
        int8_t q[128], upper[128];
        by.nibbles(x + 64 * part, 64, q);
        pairs_of_bits(x + 128 + 32 * part, upper);
        for (size_t j = 0; j < 128; j++)
            q[j] = (int8_t)((q[j] | upper[j] << 4) - 32);
        for (size_t k = 0; k < 8; k++)
            by.scaled(q + 16 * k, 16, d * (float)(int8_t)x[192 + 8 * part + k], out + 128 * part + 16 * k);
    }
}

static ALWAYS_INLINE void iq4_nl(const uint8_t *x, float *out, lanes by)
{
    int8_t q[32];
    by.nibbles(x + 2, 16, q);
    by.looked_up(LEVELS_OF_IQ4, q, 32);
    by.scaled(q, 32, half_at(x), out);
}

static ALWAYS_INLINE void iq4_xs(const uint8_t *x, float *out, lanes by)
{
    const float d = half_at(x);
    for (size_t k = 0; k < 8; k++) {
        int low = x[4 + k / 2] >> 4 * (k % 2) & 15, high = x[2 + k / 4] >> 2 * (k % 4) & 3;
        int8_t q[32];
        by.nibbles(x + 8 + 16 * k, 16, q);
        by.looked_up(LEVELS_OF_IQ4, q, 32);
        by.scaled(q, 32, d * (float)((low | high << 4) - 32), out + 32 * k);
    }
}

/* n bytes of five (or fewer) numbers of three values each; bytes that are multiplied wrap around. */
static ALWAYS_INLINE void trits(const uint8_t *restrict x, size_t n, size_t count, int8_t *restrict q)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    for (size_t k = 0; k < count; k++)
        for (size_t j = 0; j < n; j++)
            q[n * k + j] = (int8_t)(((uint8_t)(x[j] * powers[k]) * 3 >> 8) - 1);
}

static ALWAYS_INLINE void tq1_0(const uint8_t *x, float *out, lanes by)
{
    int8_t q[256];
    trits(x, 32, 5, q);
    trits(x + 32, 16, 5, q + 160);
    trits(x + 48, 4, 4, q + 240);
    by.scaled(q, 256, half_at(x + 52), out);
}

static ALWAYS_INLINE void tq2_0(const uint8_t *x, float *out, lanes by)
{
    int8_t q[256];
    pairs_of_bits(x, q);
    pairs_of_bits(x + 32, q + 128);
    minus(q, 256, 1);
    by.scaled(q, 256, half_at(x + 64), out);
}

static ALWAYS_INLINE void mxfp4(const uint8_t *x, float *out, lanes by)
{
    int8_t q[32];
    /* Half of 2^(byte - 127); the two smallest are subnormal. */
    const uint32_t bits = x[0] < 2 ? (uint32_t)0x00200000 << x[0] : (uint32_t)(x[0] - 1) << 23;
    by.nibbles(x + 1, 16, q);
    by.looked_up(LEVELS_OF_FP4, q, 32);
    by.scaled(q, 32, float32_of_bits(bits), out);
}

static ALWAYS_INLINE void nvfp4(const uint8_t *x, float *out, lanes by)
{
    for (size_t k = 0; k < 4; k++) {
        int8_t q[16];
        nibbles_baseline(x + 4 + 8 * k, 8, q);
        by.looked_up(LEVELS_OF_FP4, q, 16);
        by.scaled(q, 16, half_of_unsigned_e4m3[x[k]], out + 16 * k);
    }
}

#define EACH(type, unpack)                                                                                        \
    case type:                                                                                                    \
        for (size_t i = 0; i < count; i++, x += LAYOUTS[type].bytes, out += LAYOUTS[type].values)                 \
            unpack;                                                                                               \
        break

#define COMPILE_FOR(level, target)                                                                                \
    target void unpack_blocks_##level(block_type type, const uint8_t *x, size_t count, float *out)                \
    {                                                                                                             \
        switch (type) {                                                                                           \
            EACH(Q4_0, q4_0(x, out, lanes_##level));                                                              \
            EACH(Q4_1, q4_1(x, out, lanes_##level));                                                              \
            EACH(Q5_0, q5_0(x, out, lanes_##level));                                                              \
            EACH(Q5_1, q5_1(x, out, lanes_##level));                                                              \
            EACH(Q8_0, q8_0(x, out, lanes_##level));                                                              \
            EACH(Q2_K, q2_k(x, out, lanes_##level));                                                              \
            EACH(Q3_K, q3_k(x, out, lanes_##level));                                                              \
            EACH(Q4_K, q4_k(x, out, lanes_##level));                                                              \
            EACH(Q5_K, q5_k(x, out, lanes_##level));                                                              \
            EACH(Q6_K, q6_k(x, out, lanes_##level));                                                              \
            EACH(IQ4_NL, iq4_nl(x, out, lanes_##level));                                                          \
            EACH(IQ4_XS, iq4_xs(x, out, lanes_##level));                                                          \
            EACH(TQ1_0, tq1_0(x, out, lanes_##level));                                                            \
            EACH(TQ2_0, tq2_0(x, out, lanes_##level));                                                            \
            EACH(MXFP4, mxfp4(x, out, lanes_##level));                                                            \
            EACH(NVFP4, nvfp4(x, out, lanes_##level));                                                            \
        default:                                                                                                  \
            break;                                                                                                \
        }                                                                                                         \
    }

COMPILE_FOR(baseline, )
#if QSTORE_X86
COMPILE_FOR(avx2, TARGET_AVX2)
COMPILE_FOR(avx512, TARGET_AVX512)
#endif

/* The layout of this name; NULL with an error set. */
static const block_layout *layout_argument(PyObject *object)
{
    const char *name = PyUnicode_AsUTF8AndSize(object, NULL);
    if (name == NULL)
        return NULL;
    for (size_t i = 0; i < BLOCK_TYPES; i++)
        if (strcmp(name, LAYOUTS[i].name) == 0)
            return &LAYOUTS[i];
    PyErr_Format(PyExc_ValueError, "unknown type of blocks '%s'", name);
    return NULL;
}

PyObject *unpack_blocks_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("unpack_blocks", 3, nargs) < 0)
        return NULL;
    const block_layout *layout = layout_argument(args[0]);
    if (layout == NULL)
        return NULL;
    held_buffers held;
    held.count = 0;
    matrix blocks;
    PyObject *result = NULL;
    if (matrix_argument(&held, args[1], "blocks", &CODES, 0, -1, -1, &blocks, NULL) == 0) {
        const Py_ssize_t rows = (Py_ssize_t)blocks.rows, in_row = (Py_ssize_t)(blocks.dim / layout->bytes);
        Py_ssize_t columns = in_row * (Py_ssize_t)layout->values;
        float *out = (float *)dense_argument(&held, args[2], "out", &SINGLES, 1, rows, &columns);
        if (out != NULL && blocks.dim % layout->bytes != 0)
            PyErr_Format(PyExc_ValueError, "blocks must have a multiple of %zd columns, got %zd",
                         (Py_ssize_t)layout->bytes, (Py_ssize_t)blocks.dim);
        else if (out != NULL) {
            PyThreadState *state = PyEval_SaveThread();
            for (size_t i = 0; i < blocks.rows; i++)
                active_kernels->unpack_blocks((block_type)(layout - LAYOUTS), (const uint8_t *)row_of(&blocks, i),
                                              (size_t)in_row, out + i * (size_t)columns);
            PyEval_RestoreThread(state);
            result = Py_None;
            Py_INCREF(result);
        }
    }
    release_buffers(&held);
    return result;
}
