// Sums, sums of squares and maxima of a row, by a warp or by a block of warps (rules R1 to R3). The 32 lanes of the
// arithmetic are the 32 lanes of a warp: lane `l` takes the elements l, l + 32, ... of a chunk of 1024, one after the
// other, and the tree is the shuffle.
#pragma once

#include "arithmetic.cuh"

constexpr u32 CHUNK = 1024;

enum Reduction : u32 { SUM = 0, SUM_SQUARES = 1, MAXIMUM = 2 };

// Combines the lanes of a warp; the result is that of lane 0.
template <u32 KIND> DEVICE float tree(float lane) {
#pragma unroll
    for (u32 s = 16; s > 0; s /= 2) {
        float other = __shfl_down_sync(ALL_LANES, lane, s);
        lane = KIND == MAXIMUM ? arithmetic::maximum(lane, other) : arithmetic::add(lane, other);
    }
    return lane;
}

template <u32 KIND> DEVICE float start() { return KIND == MAXIMUM ? arithmetic::from_bits(0xff800000u) : 0.0f; }

template <u32 KIND> DEVICE float step(float lane, float x) {
    if (KIND == SUM) return arithmetic::add(lane, x);
    if (KIND == SUM_SQUARES) return arithmetic::fma(x, x, lane);
    return arithmetic::maximum(lane, x);
}

// The partial of the chunk that starts at element `first` of a row of `length`, in lane 0. `element(i)` is element i.
template <u32 KIND, class Element> DEVICE float chunk_partial(const Element &element, u32 first, u32 length) {
    // Elements are asked for several at once, because memory takes long to answer; those beyond the end are the last one
    // again, which takes no part.
    constexpr u32 AHEAD = 16;
    float lane = start<KIND>();
    u32 end = length - first < CHUNK ? length : first + CHUNK;
    for (u32 from = first + lane_index(); from < end; from += AHEAD * WARP) {
        float x[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) x[i] = element(from + i * WARP < end ? from + i * WARP : end - 1);
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            float next = step<KIND>(lane, x[i]);
            lane = from + i * WARP < end ? next : lane;
        }
    }
    return tree<KIND>(lane);
}

// The whole row by one warp; every lane gets the result.
template <u32 KIND, class Element> DEVICE float reduce_by_warp(const Element &element, u32 length) {
    float total = start<KIND>();
    for (u32 first = 0; first < length; first += CHUNK) {
        float partial = chunk_partial<KIND>(element, first, length);
        total = KIND == MAXIMUM ? arithmetic::maximum(total, partial) : arithmetic::add(total, partial);
    }
    return __shfl_sync(ALL_LANES, total, 0);
}

// The whole row by all warps of a block, a chunk to each in turn; every thread gets the result. Rows have at most 1024
// chunks (P-21). `partials` is shared memory for as many.
template <u32 KIND, class Element>
DEVICE float reduce_by_block(const Element &element, u32 length, float (&partials)[1024]) {
    u32 chunks = (length + CHUNK - 1) / CHUNK;
    __syncthreads(); // the partials of the row before have been read
    for (u32 chunk = warp_index(); chunk < chunks; chunk += blockDim.x / WARP) {
        float partial = chunk_partial<KIND>(element, chunk * CHUNK, length);
        if (lane_index() == 0) partials[chunk] = partial;
    }
    __syncthreads();
    float total = start<KIND>();
    for (u32 chunk = 0; chunk < chunks; chunk++) {
        total = KIND == MAXIMUM ? arithmetic::maximum(total, partials[chunk]) : arithmetic::add(total, partials[chunk]);
    }
    return total;
}

// Elements of row `row` of a causal node (docs/program.md): `row / causal + 1`, or all.
DEVICE u32 extent(u32 causal, u32 row, u32 cols) {
    if (causal == 0) return cols;
    u32 seen = row / causal + 1;
    return seen < cols ? seen : cols;
}
