// Groups of activations that are quantised (Q1, Q2): 32 or 128 columns of a row, the last of a row perhaps fewer. A warp
// takes a group at a time, whatever kernel makes the row: the largest magnitude is a maximum, whose order does not matter
// (R3), and every byte is a function of that and of one element.
#pragma once

#include "arithmetic.cuh"

namespace arithmetic {

constexpr u32 MOST_OF_GROUP = 128;

DEVICE i8 quantise(float x, float most) {
    float inverse = most == 0.0f ? 0.0f : div(127.0f, most);
    i32 q = round_to_i32(mul(x, inverse));
    return (i8)(q < -127 ? -127 : q > 127 ? 127 : q);
}

// Where magnitudes `[rows][groups]` and bytes `[rows][cols]` go, if rows are quantised at all.
struct Groups {
    float *magnitudes;
    i8 *q;
    u32 cols, size;

    MEMBER u32 each() const { return (cols + size - 1) / size; }
    // Quantises group `g` of row `row`. `element(i)` is the element in column i of the row; it is asked for once, by one lane.
    template <class Element> MEMBER void make(u64 row, u32 g, const Element &element) const {
        u32 first = g * size, length = cols - first < size ? cols - first : size;
        float x[MOST_OF_GROUP / WARP], most = 0.0f;
#pragma unroll
        for (u32 i = 0; i < MOST_OF_GROUP / WARP; i++) {
            u32 at = i * WARP + lane_index();
            x[i] = at < length ? element(first + at) : 0.0f;
            most = maximum(most, magnitude(x[i]));
        }
#pragma unroll
        for (u32 s = 16; s > 0; s /= 2) most = maximum(most, __shfl_xor_sync(ALL_LANES, most, s));
        most = canonical(most);
        if (lane_index() == 0) magnitudes[row * each() + g] = most;
#pragma unroll
        for (u32 i = 0; i < MOST_OF_GROUP / WARP; i++) {
            u32 at = i * WARP + lane_index();
            if (at < length) q[row * cols + first + at] = quantise(x[i], most);
        }
    }
    // Quantises the groups of columns `first` to `end`, a group to each warp of a block of threads in turn.
    template <class Element> MEMBER void make_all(u64 row, u32 first, u32 end, const Element &element) const {
        for (u32 g = first / size + warp_index(); g * size < end; g += blockDim.x / WARP) make(row, g, element);
    }
};

// Parameters of a kernel that are groups of rows of `cols` columns, and the groups.
#define GROUP_PARAMETERS float *magnitudes, i8 *q, u32 group
#define GROUPS(cols) (Groups{magnitudes, q, cols, group})

} // namespace arithmetic
