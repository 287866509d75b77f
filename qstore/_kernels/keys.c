/* Searches in a mapped index that may hold anything: whatever it says, they end and stay inside it. */
#include "keys.h"


/* FNV-1a, then MurmurHash3's last step, which makes the high bits as good as the others: hashes are evenly spread,
 * and interpolation finds them. */
static uint64_t hash_text(text key)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < key.size; i++)
        hash = (hash ^ (uint8_t)key.data[i]) * UINT64_C(0x100000001b3);
    hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ hash >> 33;
}

static ALWAYS_INLINE int64_t int64_at(const vector *v, size_t i)
{
    return load_int64(v->data + (ptrdiff_t)i * v->stride);
}

static ALWAYS_INLINE void set_int64(const vector *v, size_t i, int64_t value)
{
    memcpy(v->data + (ptrdiff_t)i * v->stride, &value, sizeof value);
}

/* Text number i of `bytes`; 0 where the offsets lie. */
static int text_at(const vector *offsets, const vector *bytes, size_t i, text *found)
{
    int64_t start = int64_at(offsets, i), stop = int64_at(offsets, i + 1);
    if (start < 0 || stop < start || (uint64_t)stop > bytes->length)
        return 0;
    *found = (text){bytes->data + start, (size_t)(stop - start)};
    return 1;
}

ptrdiff_t hash_texts(vector bytes, vector offsets, vector out)
{
    for (size_t i = 0; i < out.length; i++) {
        text key;
        if (!text_at(&offsets, &bytes, i, &key))
            return (ptrdiff_t)i;
        set_int64(&out, i, (int64_t)hash_text(key));
    }
    return ALL_GOOD;
}

/* Values in ascending order, compared without a sign: `flip` is the sign bit where they have one. They are taken
 * to be spread evenly from `first` to `last`. */
typedef struct {
    vector values;
    uint64_t flip, first, last;
} ordered;

static ALWAYS_INLINE uint64_t value_at(const ordered *in, size_t i)
{
    return load_uint64(in->values.data + (ptrdiff_t)i * in->values.stride) ^ in->flip;
}

/* Where `wanted` should be; there is one value at least. */
static size_t guess(const ordered *in, uint64_t wanted)
{
    const size_t length = in->values.length;
    if (wanted <= in->first)
        return 0;
    if (wanted >= in->last)
        return length - 1;
    double share = (double)(wanted - in->first) / (double)(in->last - in->first);
    size_t place = (size_t)(share * (double)length);
    return place < length ? place : length - 1;
}

/* The same from a value that has been seen: of 10 million evenly spread ones the first guess is some 1,500 places
 * wrong, this one 40. */
static size_t better_guess(const ordered *in, size_t place, uint64_t wanted)
{
    const double length = (double)in->values.length, range = (double)(in->last - in->first);
    const uint64_t seen = value_at(in, place);
    if (!(range > 0))
        return place;
    double away = (wanted > seen ? (double)(wanted - seen) : -(double)(seen - wanted)) / range * length;
    double better = (double)place + away;
    return better <= 0 ? 0 : better >= length - 1 ? in->values.length - 1 : (size_t)better;
}

/* Place of the first value that is not below `wanted`, begun at `place`: steps that double, then halves. */
static size_t lower_bound(const ordered *in, size_t place, uint64_t wanted)
{
    size_t low = 0, high = in->values.length, step = 8;
    place = better_guess(in, place, wanted);
    if (value_at(in, place) < wanted) {
        low = place + 1;
        for (; high - low > step && value_at(in, low + step - 1) < wanted; step *= 2)
            low += step;
        if (high - low > step)
            high = low + step - 1;
    } else {
        high = place;
        for (; high > step && value_at(in, high - step) >= wanted; step *= 2)
            high -= step;
        if (high > step)
            low = high - step + 1;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (value_at(in, middle) < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Texts of equal hashes lie behind one another: the first of them, from `place` on, that is the key. */
static int64_t row_of_text(const text_index *index, size_t place, uint64_t hash, text key)
{
    for (; place < index->hashes.length && (uint64_t)int64_at(&index->hashes, place) == hash; place++) {
        int64_t row = int64_at(&index->rows, place);
        text found;
        if (row < 0 || (uint64_t)row >= index->rows.length ||
            !text_at(&index->offsets, &index->bytes, (size_t)row, &found))
            return CORRUPT;
        if (found.size == key.size && (key.size == 0 || memcmp(found.data, key.data, key.size) == 0))
            return row;
    }
    return MISSING;
}

/* Keys under way together: what one waits for from memory is fetched while the others are worked at. */
enum { GROUP = 32 };

static ptrdiff_t find_group(const text_index *index, const ordered *in, const text *keys, size_t count,
                            vector out, size_t start)
{
    uint64_t hashes[GROUP];
    size_t places[GROUP];
    for (size_t i = 0; i < count; i++) {
        hashes[i] = hash_text(keys[i]);
        places[i] = guess(in, hashes[i]);
        __builtin_prefetch(in->values.data + (ptrdiff_t)places[i] * in->values.stride);
    }
    for (size_t i = 0; i < count; i++) {
        places[i] = lower_bound(in, places[i], hashes[i]);
        if (places[i] < index->rows.length)
            __builtin_prefetch(index->rows.data + (ptrdiff_t)places[i] * index->rows.stride);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t row = places[i] < index->rows.length ? (uint64_t)int64_at(&index->rows, places[i]) : UINT64_MAX;
        if (row < index->rows.length)
            __builtin_prefetch(index->offsets.data + (ptrdiff_t)row * index->offsets.stride);
    }
    for (size_t i = 0; i < count; i++) {
        int64_t row = row_of_text(index, places[i], hashes[i], keys[i]);
        if (row == CORRUPT)
            return (ptrdiff_t)(start + i);
        set_int64(&out, start + i, row);
    }
    return ALL_GOOD;
}

ptrdiff_t find_texts(const text_index *index, const text *keys, size_t count, vector out)
{
    const ordered in = {index->hashes, 0, 0, UINT64_MAX};
    if (index->hashes.length == 0) {
        for (size_t i = 0; i < count; i++)
            set_int64(&out, i, MISSING);
        return ALL_GOOD;
    }
    for (size_t start = 0; start < count; start += GROUP) {
        size_t held = count - start < GROUP ? count - start : GROUP;
        ptrdiff_t bad = find_group(index, &in, keys + start, held, out, start);
        if (bad != ALL_GOOD)
            return bad;
    }
    return ALL_GOOD;
}

ptrdiff_t find_ids(vector sorted, vector rows, vector keys, vector out)
{
    const uint64_t sign = UINT64_C(1) << 63;
    ordered in = {sorted, sign, 0, 0};
    if (sorted.length > 0) {
        in.first = value_at(&in, 0);
        in.last = value_at(&in, sorted.length - 1);
    }
    for (size_t i = 0; i < keys.length; i++) {
        uint64_t wanted = (uint64_t)int64_at(&keys, i) ^ sign;
        size_t place = sorted.length > 0 ? lower_bound(&in, guess(&in, wanted), wanted) : 0;
        int64_t row = MISSING;
        if (place < sorted.length && value_at(&in, place) == wanted) {
            row = int64_at(&rows, place);
            if (row < 0 || (uint64_t)row >= rows.length)
                return (ptrdiff_t)i;
        }
        set_int64(&out, i, row);
    }
    return ALL_GOOD;
}
