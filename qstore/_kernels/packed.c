/* Scales of which there are few different ones: a place in their values for each row. */
#include "kernels.h"

#include <stdlib.h>

enum { SLOT_BITS = 17, SLOTS = 1 << SLOT_BITS }; /* of an open table, filled to a half at most */

/* The slot of a bit pattern, or the empty one where it belongs; slots hold numbers of values plus one. */
static ALWAYS_INLINE size_t find_slot(const uint32_t *slots, const double *values, uint64_t bits)
{
    size_t slot = (size_t)(bits * 0x9E3779B97F4A7C15u >> (64 - SLOT_BITS));
    while (slots[slot] != 0 && load_uint64((const char *)(values + slots[slot] - 1)) != bits)
        slot = (slot + 1) % SLOTS;
    return slot;
}

/* Fills `places` and adds what is new to the first `count` values: how many there are then, or ALL_GOOD if they are
 * more than PACKED_VALUES. */
ptrdiff_t pack_scales(vector scales, double *values, size_t count, uint16_t *places)
{
    uint32_t *slots = calloc(SLOTS, sizeof *slots);
    if (slots == NULL)
        return OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++)
        slots[find_slot(slots, values, load_uint64((const char *)(values + i)))] = (uint32_t)i + 1;
    ptrdiff_t found = (ptrdiff_t)count;
    for (size_t i = 0; i < scales.length; i++) {
        const uint64_t bits = load_uint64(scales.data + (ptrdiff_t)i * scales.stride);
        const size_t slot = find_slot(slots, values, bits);
        if (slots[slot] == 0) {
            if (found == PACKED_VALUES) {
                found = -1;
                break;
            }
            memcpy(values + found, &bits, sizeof bits);
            slots[slot] = (uint32_t)++found;
        }
        places[i] = (uint16_t)(slots[slot] - 1);
    }
    free(slots);
    return found;
}
