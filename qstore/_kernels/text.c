/* Word vectors as text; the specification is qstore.sources.words.text, which is asked about all that is declined here.
 *
 * A number is the nearest float64, rounded to float32. Up to 19 digits are one whole number w, and the value is
 * w * 10^q: by one exact division or product where both are exact in float64 (Clinger), else by w times 128 bits of
 * 5^q (Eisel and Lemire, "Number Parsing at a Gigabyte per Second", Software: Practice and Experience 51, 2021). Only
 * the powers that can give a float32 other than 0 and infinity are in the table: all of these are normal float64. */
#include "text.h"

#include <stdlib.h>

#define EXACT_INTEGER ((uint64_t)1 << 53)
#define MOST_EXACT_POWER 22
#define MOST_DIGITS 19
#define LEAST_POWER (-65)
#define MOST_POWER 38
/* Exponents beyond are taken for this one: no line has digits to make up for it. */
#define HUGE_EXPONENT ((int64_t)1 << 40)
/* Bytes behind the text that may be looked at. */
enum { PADDING = 8 };

static const double EXACT_POWERS[MOST_EXACT_POWER + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

/* The first 128 bits of 5^q, high and low half; of q below 0 rounded up. */
static const uint64_t POWERS[MOST_POWER - LEAST_POWER + 1][2] = {
    {0x86ccbb52ea94baea, 0x98e947129fc2b4e9}, {0xa87fea27a539e9a5, 0x3f2398d747b36224},
    {0xd29fe4b18e88640e, 0x8eec7f0d19a03aad}, {0x83a3eeeef9153e89, 0x1953cf68300424ac},
    {0xa48ceaaab75a8e2b, 0x5fa8c3423c052dd7}, {0xcdb02555653131b6, 0x3792f412cb06794d},
    {0x808e17555f3ebf11, 0xe2bbd88bbee40bd0}, {0xa0b19d2ab70e6ed6, 0x5b6aceaeae9d0ec4},
    {0xc8de047564d20a8b, 0xf245825a5a445275}, {0xfb158592be068d2e, 0xeed6e2f0f0d56712},
    {0x9ced737bb6c4183d, 0x55464dd69685606b}, {0xc428d05aa4751e4c, 0xaa97e14c3c26b886},
    {0xf53304714d9265df, 0xd53dd99f4b3066a8}, {0x993fe2c6d07b7fab, 0xe546a8038efe4029},
    {0xbf8fdb78849a5f96, 0xde98520472bdd033}, {0xef73d256a5c0f77c, 0x963e66858f6d4440},
    {0x95a8637627989aad, 0xdde7001379a44aa8}, {0xbb127c53b17ec159, 0x5560c018580d5d52},
    {0xe9d71b689dde71af, 0xaab8f01e6e10b4a6}, {0x9226712162ab070d, 0xcab3961304ca70e8},
    {0xb6b00d69bb55c8d1, 0x3d607b97c5fd0d22}, {0xe45c10c42a2b3b05, 0x8cb89a7db77c506a},
    {0x8eb98a7a9a5b04e3, 0x77f3608e92adb242}, {0xb267ed1940f1c61c, 0x55f038b237591ed3},
    {0xdf01e85f912e37a3, 0x6b6c46dec52f6688}, {0x8b61313bbabce2c6, 0x2323ac4b3b3da015},
    {0xae397d8aa96c1b77, 0xabec975e0a0d081a}, {0xd9c7dced53c72255, 0x96e7bd358c904a21},
    {0x881cea14545c7575, 0x7e50d64177da2e54}, {0xaa242499697392d2, 0xdde50bd1d5d0b9e9},
    {0xd4ad2dbfc3d07787, 0x955e4ec64b44e864}, {0x84ec3c97da624ab4, 0xbd5af13bef0b113e},
    {0xa6274bbdd0fadd61, 0xecb1ad8aeacdd58e}, {0xcfb11ead453994ba, 0x67de18eda5814af2},
    {0x81ceb32c4b43fcf4, 0x80eacf948770ced7}, {0xa2425ff75e14fc31, 0xa1258379a94d028d},
    {0xcad2f7f5359a3b3e, 0x096ee45813a04330}, {0xfd87b5f28300ca0d, 0x8bca9d6e188853fc},
    {0x9e74d1b791e07e48, 0x775ea264cf55347e}, {0xc612062576589dda, 0x95364afe032a819e},
    {0xf79687aed3eec551, 0x3a83ddbd83f52205}, {0x9abe14cd44753b52, 0xc4926a9672793543},
    {0xc16d9a0095928a27, 0x75b7053c0f178294}, {0xf1c90080baf72cb1, 0x5324c68b12dd6339},
    {0x971da05074da7bee, 0xd3f6fc16ebca5e04}, {0xbce5086492111aea, 0x88f4bb1ca6bcf585},
    {0xec1e4a7db69561a5, 0x2b31e9e3d06c32e6}, {0x9392ee8e921d5d07, 0x3aff322e62439fd0},
    {0xb877aa3236a4b449, 0x09befeb9fad487c3}, {0xe69594bec44de15b, 0x4c2ebe687989a9b4},
    {0x901d7cf73ab0acd9, 0x0f9d37014bf60a11}, {0xb424dc35095cd80f, 0x538484c19ef38c95},
    {0xe12e13424bb40e13, 0x2865a5f206b06fba}, {0x8cbccc096f5088cb, 0xf93f87b7442e45d4},
    {0xafebff0bcb24aafe, 0xf78f69a51539d749}, {0xdbe6fecebdedd5be, 0xb573440e5a884d1c},
    {0x89705f4136b4a597, 0x31680a88f8953031}, {0xabcc77118461cefc, 0xfdc20d2b36ba7c3e},
    {0xd6bf94d5e57a42bc, 0x3d32907604691b4d}, {0x8637bd05af6c69b5, 0xa63f9a49c2c1b110},
    {0xa7c5ac471b478423, 0x0fcf80dc33721d54}, {0xd1b71758e219652b, 0xd3c36113404ea4a9},
    {0x83126e978d4fdf3b, 0x645a1cac083126ea}, {0xa3d70a3d70a3d70a, 0x3d70a3d70a3d70a4},
    {0xcccccccccccccccc, 0xcccccccccccccccd}, {0x8000000000000000, 0x0000000000000000},
    {0xa000000000000000, 0x0000000000000000}, {0xc800000000000000, 0x0000000000000000},
    {0xfa00000000000000, 0x0000000000000000}, {0x9c40000000000000, 0x0000000000000000},
    {0xc350000000000000, 0x0000000000000000}, {0xf424000000000000, 0x0000000000000000},
    {0x9896800000000000, 0x0000000000000000}, {0xbebc200000000000, 0x0000000000000000},
    {0xee6b280000000000, 0x0000000000000000}, {0x9502f90000000000, 0x0000000000000000},
    {0xba43b74000000000, 0x0000000000000000}, {0xe8d4a51000000000, 0x0000000000000000},
    {0x9184e72a00000000, 0x0000000000000000}, {0xb5e620f480000000, 0x0000000000000000},
    {0xe35fa931a0000000, 0x0000000000000000}, {0x8e1bc9bf04000000, 0x0000000000000000},
    {0xb1a2bc2ec5000000, 0x0000000000000000}, {0xde0b6b3a76400000, 0x0000000000000000},
    {0x8ac7230489e80000, 0x0000000000000000}, {0xad78ebc5ac620000, 0x0000000000000000},
    {0xd8d726b7177a8000, 0x0000000000000000}, {0x878678326eac9000, 0x0000000000000000},
    {0xa968163f0a57b400, 0x0000000000000000}, {0xd3c21bcecceda100, 0x0000000000000000},
    {0x84595161401484a0, 0x0000000000000000}, {0xa56fa5b99019a5c8, 0x0000000000000000},
    {0xcecb8f27f4200f3a, 0x0000000000000000}, {0x813f3978f8940984, 0x4000000000000000},
    {0xa18f07d736b90be5, 0x5000000000000000}, {0xc9f2c9cd04674ede, 0xa400000000000000},
    {0xfc6f7c4045812296, 0x4d00000000000000}, {0x9dc5ada82b70b59d, 0xf020000000000000},
    {0xc5371912364ce305, 0x6c28000000000000}, {0xf684df56c3e01bc6, 0xc732000000000000},
    {0x9a130b963a6c115c, 0x3c7f400000000000}, {0xc097ce7bc90715b3, 0x4b9f100000000000},
    {0xf0bdc21abb48db20, 0x1e86d40000000000}, {0x96769950b50d88f4, 0x1314448000000000},
};

typedef struct {
    uint64_t high, low;
} product;

static ALWAYS_INLINE product multiply(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
    const unsigned __int128 whole = (unsigned __int128)a * b;
    return (product){(uint64_t)(whole >> 64), (uint64_t)whole};
#else
    const uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    const uint64_t middle = ah * bl + (al * bl >> 32), cross = al * bh + (uint32_t)middle;
    return (product){ah * bh + (middle >> 32) + (cross >> 32), a * b};
#endif
}

/* w * 10^q to the nearest float64, ties to even, as float32; w is not 0. */
static float scaled(uint64_t w, int64_t q)
{
    if (q < LEAST_POWER)
        return 0.0f;
    if (q > MOST_POWER)
        return INFINITY;
    const uint64_t *power = POWERS[q - LEAST_POWER];
    const int zeros = __builtin_clzll(w);
    w <<= zeros;
    product found = multiply(w, power[0]);
    if ((found.high & 0x1ff) == 0x1ff) {
        const uint64_t more = multiply(w, power[1]).high;
        found.low += more;
        found.high += found.low < more;
    }
    const int upper = (int)(found.high >> 63), shift = upper + 9;
    uint64_t mantissa = found.high >> shift;
    /* Half-way between two, exactly: only these powers can be. */
    if (found.low <= 1 && q >= -4 && q <= 23 && (mantissa & 3) == 1 && mantissa << shift == found.high)
        mantissa &= ~(uint64_t)1;
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    int64_t exponent = ((217706 * q) >> 16) + 63 + upper - zeros + 1023;
    if (mantissa == EXACT_INTEGER) {
        mantissa >>= 1;
        exponent++;
    }
    const uint64_t bits = (mantissa & (EXACT_INTEGER / 2 - 1)) | (uint64_t)exponent << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
}

static ALWAYS_INLINE float power_of_ten_times(uint64_t w, int64_t q)
{
    if (w <= EXACT_INTEGER && q <= 0 && q >= -MOST_EXACT_POWER)
        return (float)((double)w / EXACT_POWERS[-q]);
    if (w <= EXACT_INTEGER && q > 0 && q <= MOST_EXACT_POWER)
        return (float)((double)w * EXACT_POWERS[q]);
    return w == 0 ? 0.0f : scaled(w, q);
}

static ALWAYS_INLINE int is_digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static const uint64_t POWERS_OF_TEN[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

/* The digits at p behind those of *w; where they end. Eight bytes at once: all may be looked at. */
static ALWAYS_INLINE const char *digits(const char *p, uint64_t *w)
{
    for (;;) {
        uint64_t bytes;
        memcpy(&bytes, p, sizeof bytes);
        bytes ^= 0x3030303030303030;
        /* The uppermost bit of each byte that is no digit; behind the first one, of others, too. */
        const uint64_t others = (bytes | (bytes + 0x7676767676767676)) & 0x8080808080808080;
        const int count = others ? __builtin_ctzll(others) >> 3 : 8;
        if (count == 0)
            return p;
        bytes <<= 8 * (8 - count); /* what is shifted in stands for zeros before them */
        bytes = bytes * 10 + (bytes >> 8);
        bytes = ((bytes & 0x000000ff000000ff) * (100 + ((uint64_t)1000000 << 32)) +
                 (bytes >> 16 & 0x000000ff000000ff) * (1 + ((uint64_t)10000 << 32))) >> 32;
        *w = *w * POWERS_OF_TEN[count] + bytes;
        p += count;
        if (count < 8)
            return p;
    }
}
#else
static ALWAYS_INLINE const char *digits(const char *p, uint64_t *w)
{
    for (; is_digit(*p); p++)
        *w = *w * 10 + (uint64_t)(*p - '0');
    return p;
}
#endif

/* The value of more than 19 digits, a point among them or not, the last of which counts 10^q; NAN: not known. */
static float of_many_digits(const char *p, const char *end, int64_t q)
{
    uint64_t w = 0;
    int count = 0, more = 0;
    for (; p < end && (*p == '0' || *p == '.'); p++)
        ;
    for (; p < end && count < MOST_DIGITS; p++)
        if (*p != '.') {
            w = w * 10 + (uint64_t)(*p - '0');
            count++;
        }
    for (; p < end; p++)
        if (*p != '.') {
            q++;
            more |= *p != '0';
        }
    const float found = power_of_ten_times(w, q);
    return !more || found == power_of_ten_times(w + 1, q) ? found : NAN;
}

static ALWAYS_INLINE int begins_with(const char *p, const char *letters)
{
    for (; *letters; p++, letters++)
        if ((*p | 0x20) != *letters)
            return 0;
    return 1;
}

static const char *not_finite(const char *p, float *value)
{
    if (begins_with(p, "nan")) {
        *value = NAN;
        return p + 3;
    }
    *value = INFINITY;
    if (!begins_with(p, "inf"))
        return NULL;
    return p + (begins_with(p + 3, "inity") ? 8 : 3);
}

/* The number at p, and where it ends; NULL: none is there. *unknown is set where its value is. The text ends in a line
 * feed. */
static ALWAYS_INLINE const char *number_at(const char *p, char *result, int *unknown)
{
    const int minus = *p == '-';
    p += minus | (*p == '+');
    const char *begin = p;
    uint64_t w = 0;
    float value;
    while (is_digit(*p))
        w = w * 10 + (uint64_t)(*p++ - '0');
    int64_t q = 0, count = p - begin;
    if (*p == '.') {
        const char *point = ++p;
        p = digits(p, &w);
        q = point - p;
        count -= q;
    }
    if (count == 0) {
        if (p != begin || (p = not_finite(begin, &value)) == NULL)
            return NULL;
    } else {
        const char *end = p;
        if ((*p | 0x20) == 'e') {
            const int down = *++p == '-';
            p += down | (*p == '+');
            if (!is_digit(*p))
                return NULL;
            int64_t exponent = 0;
            for (; is_digit(*p); p++)
                if (exponent < HUGE_EXPONENT)
                    exponent = exponent * 10 + (*p - '0');
            q += down ? -exponent : exponent;
        }
        value = count <= MOST_DIGITS ? power_of_ten_times(w, q) : of_many_digits(begin, end, q);
        *unknown |= value != value;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits |= (uint32_t)minus << 31;
    memcpy(result, &bits, sizeof bits);
    return p;
}

static ALWAYS_INLINE int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Whether `dim` numbers stand at p, single spaces (or tabs) between them, up to `end`. */
static ALWAYS_INLINE int numbers_at(const char *p, const char *end, size_t dim, int tabs, char *values)
{
    int unknown = 0;
    for (size_t j = 0; j < dim; j++) {
        p = number_at(p, values + j * sizeof(float), &unknown);
        if (p == NULL || (j + 1 < dim && *p != ' ' && !(tabs && *p == '\t')))
            return 0;
        p++;
    }
    return p == end + 1 && !unknown;
}

/* Where the vector of a line begins whose word holds spaces; NULL: nowhere. */
static const char *behind_odd_word(const char *line, const char *end, size_t dim)
{
    const char *p = end;
    char value[sizeof(float)];
    int unknown = 0;
    for (size_t found = 0; found < dim; found++)
        do
            if (p == line)
                return NULL;
        while (*--p != ' ');
    if (p == line || p[-1] == ' ')
        return NULL;
    const char *field = p;
    while (field > line && field[-1] != ' ')
        field--;
    /* Behind a number, nothing tells where the word ends; a first space is where one that holds none would. */
    return field == line || number_at(field, value, &unknown) == p ? NULL : p + 1;
}

/* Whether the line up to `end`, blanks at its end left out, is a word and `dim` numbers; its word's end in *word. */
static int line_is_row(const char *line, const char *end, size_t dim, int tabs, char *values, const char **word)
{
    const char *p = memchr(line, tabs ? '\t' : ' ', (size_t)(end - line));
    if (p == NULL)
        return 0;
    *word = p;
    if (numbers_at(p + 1, end, dim, tabs, values))
        return 1;
    if (tabs || (p = behind_odd_word(line, end, dim)) == NULL)
        return 0;
    *word = p - 1;
    return numbers_at(p, end, dim, 0, values);
}

typedef struct {
    size_t begin, end;
} span;

/* Whether the text, each line of which ends in a line feed, is exactly so many rows. */
static int parse_rows(const char *text, size_t size, int tabs, span *words, matrix values)
{
    const char *line = text, *stop = text + size;
    for (size_t i = 0; i < values.rows; i++) {
        if (line == stop)
            return 0;
        const char *feed = memchr(line, '\n', (size_t)(stop - line)), *end = feed, *word;
        while (end > line && is_blank(end[-1]))
            end--;
        if (!line_is_row(line, end, values.dim, tabs, row_of(&values, i), &word))
            return 0;
        words[i] = (span){(size_t)(line - text), (size_t)(word - text)};
        line = feed + 1;
    }
    return line == stop;
}

static PyObject *listed_words(const char *text, const span *words, size_t rows)
{
    PyObject *list = PyList_New((Py_ssize_t)rows);
    for (size_t i = 0; list != NULL && i < rows; i++) {
        PyObject *word = PyBytes_FromStringAndSize(text + words[i].begin, (Py_ssize_t)(words[i].end - words[i].begin));
        if (word == NULL || PyList_SetItem(list, (Py_ssize_t)i, word) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static int text_argument(held_buffers *held, PyObject *object, vector *text)
{
    if (vector_argument(held, object, "text", &CODES, 0, -1, text, NULL) < 0)
        return -1;
    if (text->length <= 1 || text->stride == 1)
        return 0;
    PyErr_Format(PyExc_ValueError, "text must be contiguous, got a stride of %zd bytes", (Py_ssize_t)text->stride);
    return -1;
}

/* The words of as many rows as there are in `values`, which is filled; None: declined. */
static PyObject *parsed_words(vector text, int tabs, matrix values)
{
    char *copy = malloc(text.length + 1 + PADDING);
    span *words = malloc((values.rows + 1) * sizeof(span));
    PyObject *result = NULL;
    if (copy == NULL || words == NULL) {
        PyErr_NoMemory();
    } else {
        PyThreadState *state = PyEval_SaveThread();
        memcpy(copy, text.data, text.length);
        memset(copy + text.length, '\n', 1 + PADDING);
        const int known = parse_rows(copy, text.length + 1, tabs, words, values);
        PyEval_RestoreThread(state);
        if (known)
            result = listed_words(copy, words, values.rows);
        else {
            result = Py_None;
            Py_INCREF(result);
        }
    }
    free(copy);
    free(words);
    return result;
}

PyObject *parse_rows_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("parse_rows", 3, nargs) < 0)
        return NULL;
    const int tabs = PyObject_IsTrue(args[1]);
    if (tabs < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    vector text;
    matrix values;
    PyObject *result = NULL;
    if (text_argument(&held, args[0], &text) == 0 &&
        matrix_argument(&held, args[2], "values", &SINGLES, 1, -1, -1, &values, NULL) == 0) {
        if (values.dim == 0)
            PyErr_SetString(PyExc_ValueError, "values must have 1 column or more");
        else
            result = parsed_words(text, tabs, values);
    }
    release_buffers(&held);
    return result;
}

/* How many lines there are, and which is the first of nothing but blanks: -1 where none is. */
static void survey_lines(const char *text, size_t size, Py_ssize_t *lines, Py_ssize_t *blank)
{
    const char *line = text, *stop = text + size;
    *blank = -1;
    for (*lines = 0;; line++) {
        const char *feed = line == stop ? NULL : memchr(line, '\n', (size_t)(stop - line));
        if (feed == NULL)
            feed = stop;
        while (line < feed && is_blank(*line))
            line++;
        if (line == feed && *blank < 0)
            *blank = *lines;
        ++*lines;
        if (feed == stop)
            return;
        line = feed;
    }
}

PyObject *count_lines_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (count_arguments("count_lines", 1, nargs) < 0)
        return NULL;
    held_buffers held;
    held.count = 0;
    vector text;
    PyObject *result = NULL;
    if (text_argument(&held, args[0], &text) == 0) {
        Py_ssize_t lines, blank;
        PyThreadState *state = PyEval_SaveThread();
        survey_lines(text.data, text.length, &lines, &blank);
        PyEval_RestoreThread(state);
        result = Py_BuildValue("nn", lines, blank);
    }
    release_buffers(&held);
    return result;
}
