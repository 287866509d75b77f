/* A bag in integers, for pool_vnni.c and pool_pairs.c: stripe by stripe, and how wrong the sums may be.
 *
 * A way defines TARGET, BLOCK (columns), LANES and VECTOR (what the totals of a block are), ZERO,
 * POOL_BLOCK, which fills a block in the specified way, and make_integers(), add_block() and write_certain(). */

enum { BLOCKS = 16 }; /* those of a stripe share the integers of their rows */

/* Columns of a bag: sums so far, in the order of the registers, and by how much they may be wrong. */
typedef struct {
    size_t blocks;
    size_t columns[BLOCKS];
    VECTOR totals[BLOCKS][LANES];
    double error, magnitude;
} stripe;

/* Up to 16 blocks from this column on. The last one of all may overlap the one before it, and write the same. */
static ALWAYS_INLINE TARGET void begin_stripe(stripe *columns, size_t column, size_t dim)
{
    columns->error = columns->magnitude = 0.0;
    columns->blocks = 0;
    for (size_t at = column; at < dim && columns->blocks < BLOCKS; at += BLOCK) {
        columns->columns[columns->blocks] = at + BLOCK <= dim ? at : dim - BLOCK;
        for (int i = 0; i < LANES; i++)
            columns->totals[columns->blocks][i] = ZERO;
        columns->blocks++;
    }
}

/* Adds up the columns of a stripe; 0 if the proof does not hold. */
static ALWAYS_INLINE TARGET int add_rows(stripe *columns, const pool_job *job, size_t start, size_t stop)
{
    chunk some;
    for (size_t first = start; first < stop; first += POOL_CHUNK) {
        const size_t n = stop - first < POOL_CHUNK ? stop - first : POOL_CHUNK;
        take_rows(&some.given, job, first, n);
        if (!make_integers(&some))
            return 0;
        for (size_t b = 0; b < columns->blocks; b++) {
            const size_t column = columns->columns[b];
            add_block(&some, column, column == 0 ? job : NULL, first, columns->totals[b]);
        }
        columns->error += 65.0 * (double)n * some.given.unit;
        columns->magnitude += some.given.magnitude;
    }
    return 1;
}

static ALWAYS_INLINE TARGET void pool_by_stripes(const pool_job *job, size_t start, size_t stop, char *out)
{
    const double rows = (double)(stop - start), factor = job->mean ? 1.0 / rows : 1.0;
    stripe columns;
    for (size_t column = 0; column < job->codes.dim; column += BLOCK * BLOCKS) {
        begin_stripe(&columns, column, job->codes.dim);
        const int proven = add_rows(&columns, job, start, stop);
        const double error = factor * (columns.error + (rows + 16.0) * 0x1p-52 * 128.0 * columns.magnitude);
        for (size_t b = 0; b < columns.blocks; b++) {
            const size_t at = columns.columns[b];
            if (!proven || !write_certain(columns.totals[b], factor, error, out + 4 * at))
                POOL_BLOCK(job, start, stop, out, at);
        }
    }
}
