/* The two passes over a row of row_errors.c, for one dispatch level: included once for each.
 *
 * A level defines LEVEL(name), TARGET, LANES and V, so many float64, and of these LOAD, STORE, SPREAD, WIDEN (so many
 * float32), MAGNITUDE, LARGER (the second one where one is NaN), LESSER, and EQUAL, a bit for each lane. */

enum { LEVEL(PARTS) = 8 / LANES };

/* Values to float64 (`narrow`: they are float32, else they are `given`), and what was read to errors. */
static ALWAYS_INLINE TARGET void LEVEL(measure)(const char *values, int narrow, size_t n, double *given,
                                                double *errors, row_extent *found)
{
    V largest = SPREAD(0.0), largest_error = SPREAD(0.0);
    BITS zeros = {0}, zeroed = {0};
    size_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        const V value = narrow ? WIDEN(values + 4 * j) : LOAD(given + j), read = LOAD(errors + j);
        const V error = read - value;
        const BITS zero = value == SPREAD(0.0), read_zero = read == SPREAD(0.0); /* -1 where it is so */
        if (narrow)
            STORE(given + j, value);
        STORE(errors + j, error);
        largest = LARGER(MAGNITUDE(value), largest);
        largest_error = LARGER(MAGNITUDE(error), largest_error);
        zeros -= zero;
        zeroed -= read_zero & ~zero;
    }
    double lanes[2][LANES];
    STORE(lanes[0], largest);
    STORE(lanes[1], largest_error);
    *found = (row_extent){lanes[0][0], lanes[1][0], n - (size_t)zeros[0], (size_t)zeroed[0]};
    for (size_t k = 1; k < LANES; k++) {
        found->largest = larger(lanes[0][k], found->largest);
        found->largest_error = larger(lanes[1][k], found->largest_error);
        found->filled -= (size_t)zeros[k];
        found->zeroed += (size_t)zeroed[k];
    }
    for (; j < n; j++) {
        const double value = narrow ? (double)load_float32(values + 4 * j) : given[j], read = errors[j];
        given[j] = value;
        errors[j] = read - value;
        found->largest = larger(fabs(value), found->largest);
        found->largest_error = larger(fabs(errors[j]), found->largest_error);
        found->filled -= value == 0.0;
        found->zeroed += read == 0.0 && value != 0.0;
    }
}

TARGET void LEVEL(measure_row)(const char *values, int narrow, size_t n, double *given, double *errors,
                               row_extent *found)
{
    if (narrow)
        LEVEL(measure)(values, 1, n, given, errors, found);
    else
        LEVEL(measure)(values, 0, n, given, errors, found);
}

/* Whether all are whole numbers, and the range of them; what is not ends it at once. */
TARGET int LEVEL(whole_range)(const double *given, size_t n, double *least, double *most)
{
    V low = SPREAD(INFINITY), high = SPREAD(-INFINITY);
    size_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        const V value = LOAD(given + j), size = MAGNITUDE(value), big = SPREAD(ALL_WHOLE);
        /* From 2^52 on float64 holds whole numbers alone; below that, the sum is rounded to one. */
        if ((EQUAL((size + big) - big, size) | EQUAL(LARGER(size, big), size)) != (1u << LANES) - 1)
            return 0;
        low = LESSER(value, low);
        high = LARGER(value, high);
    }
    double lanes[2][LANES];
    STORE(lanes[0], low);
    STORE(lanes[1], high);
    *least = INFINITY, *most = -INFINITY;
    for (size_t k = 0; k < LANES; k++) {
        *least = lanes[0][k] < *least ? lanes[0][k] : *least;
        *most = larger(lanes[1][k], *most);
    }
    for (; j < n; j++) {
        if (!is_whole(given[j]))
            return 0;
        *least = given[j] < *least ? given[j] : *least;
        *most = larger(given[j], *most);
    }
    return 1;
}

/* At least 8 values and at most 128: in eight sums, as NumPy has them. */
static ALWAYS_INLINE TARGET row_sums LEVEL(sum_piece)(const double *given, const double *errors, size_t n,
                                                      double factor, double error_factor)
{
    const V by = SPREAD(factor), error_by = SPREAD(error_factor);
    V sums[3][LEVEL(PARTS)];
    double lanes[3][8];
    size_t j = 0;
#pragma GCC unroll 3
    for (size_t s = 0; s < 3; s++)
#pragma GCC unroll 8
        for (size_t p = 0; p < LEVEL(PARTS); p++)
            sums[s][p] = SPREAD(0.0);
    for (; j + 8 <= n; j += 8) {
#pragma GCC unroll 8
        for (size_t p = 0; p < LEVEL(PARTS); p++) {
            const V value = LOAD(given + j + p * LANES) * by, error = LOAD(errors + j + p * LANES) * error_by;
            const V terms[3] = {error * error, value * value, error * value};
#pragma GCC unroll 3
            for (size_t s = 0; s < 3; s++)
                sums[s][p] += terms[s];
        }
    }
#pragma GCC unroll 3
    for (size_t s = 0; s < 3; s++)
#pragma GCC unroll 8
        for (size_t p = 0; p < LEVEL(PARTS); p++)
            STORE(lanes[s] + p * LANES, sums[s][p]);
    row_sums found = {eight(lanes[0]), eight(lanes[1]), eight(lanes[2])};
    add_rest(given, errors, j, n, factor, error_factor, &found);
    return found;
}

TARGET row_sums LEVEL(sum_row)(const double *given, const double *errors, size_t n, double factor,
                               double error_factor)
{
    row_sums found = {0.0, 0.0, 0.0};
    if (n < 8)
        add_rest(given, errors, 0, n, factor, error_factor, &found);
    else if (n <= PIECE)
        found = LEVEL(sum_piece)(given, errors, n, factor, error_factor);
    else {
        const size_t half = n / 2 - n / 2 % 8;
        const row_sums one = LEVEL(sum_row)(given, errors, half, factor, error_factor);
        const row_sums other = LEVEL(sum_row)(given + half, errors + half, n - half, factor, error_factor);
        found = (row_sums){one.error_square + other.error_square, one.value_square + other.value_square,
                           one.along + other.along};
    }
    return found;
}

#undef LEVEL
#undef TARGET
#undef LANES
#undef V
#undef BITS
#undef LOAD
#undef STORE
#undef SPREAD
#undef WIDEN
#undef MAGNITUDE
#undef LARGER
#undef LESSER
#undef EQUAL
