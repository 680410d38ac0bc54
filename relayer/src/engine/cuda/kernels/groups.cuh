// Rows of activations, and the same quantised (Q1, Q2) in groups of 32 or 128 columns, the last of a row perhaps fewer. A
// warp takes 128 columns at a time, whatever kernel makes the row: the largest magnitude of a group is a maximum, whose
// order does not matter (R3), and a byte is a function of that and of one element.
#pragma once

#include "arithmetic.cuh"

namespace arithmetic {

// Columns that a warp takes at a time, and how many of them a lane does.
constexpr u32 SPAN = 128;
constexpr u32 EACH = SPAN / WARP;

DEVICE i8 quantise(float x, float most) {
    float inverse = most == 0.0f ? 0.0f : div(127.0f, most);
    i32 q = round_to_i32(mul(x, inverse));
    return (i8)(q < -127 ? -127 : q > 127 ? 127 : q);
}

// Where magnitudes `[rows][groups]` and bytes `[rows][cols]` of rows go, if they are quantised, in groups of `size` columns.
struct Groups {
    float *magnitudes;
    i8 *q;
    u32 cols, size;

    // Columns `first` to `first + SPAN` of row `row`, or to `end` if that is less; `first` begins a group. `element(i)` is the
    // element of column i, and `keep(i, x)` puts it where it belongs. All are asked for before any is kept, because memory
    // takes long to answer; those beyond the end are the last one again, of which nothing is kept.
    template <class Element, class Keep>
    MEMBER void make(u64 row, u32 first, u32 end, const Element &element, const Keep &keep) const {
        float x[EACH], most[EACH];
#pragma unroll
        for (u32 i = 0; i < EACH; i++) x[i] = element(column(first, i) < end ? column(first, i) : end - 1);
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            if (column(first, i) < end) keep(column(first, i), x[i]);
        }
        if (!q) return;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) most[i] = column(first, i) < end ? magnitude(x[i]) : 0.0f;
#pragma unroll
        for (u32 s = 16; s > 0; s /= 2) {
#pragma unroll
            for (u32 i = 0; i < EACH; i++) most[i] = maximum(most[i], __shfl_xor_sync(ALL_LANES, most[i], s));
        }
        float all = maximum(maximum(most[0], most[1]), maximum(most[2], most[3]));
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            u32 begin = first + i * WARP;
            float own = canonical(size == SPAN ? all : most[i]);
            if (lane_index() == 0 && begin < end && i * WARP % size == 0) {
                magnitudes[row * ((cols + size - 1) / size) + begin / size] = own;
            }
            if (column(first, i) < end) q[row * cols + column(first, i)] = quantise(x[i], own);
        }
    }

    // The same for all columns from `first` to `end`, by all warps of a block of threads.
    template <class Element, class Keep>
    MEMBER void make_all(u64 row, u32 first, u32 end, const Element &element, const Keep &keep) const {
        for (first += warp_index() * SPAN; first < end; first += blockDim.x / WARP * SPAN) make(row, first, end, element, keep);
    }

    // The same for all of so many rows, by all warps of a launch; elements are of a row and a column.
    template <class Element, class Keep> MEMBER void make_rows(u64 rows, const Element &element, const Keep &keep) const {
        u32 spans = (cols + SPAN - 1) / SPAN;
        for (u64 i = first_index() / WARP; i < rows * spans; i += index_step() / WARP) {
            u64 row = i / spans, start = row * cols;
            auto own = [&](u32 column) { return element(start + column); };
            auto put = [&](u32 column, float x) { keep(start + column, x); };
            make(row, (u32)(i % spans) * SPAN, cols, own, put);
        }
    }

    MEMBER static u32 column(u32 first, u32 i) { return first + i * WARP + lane_index(); }
};

// Parameters of a kernel that are groups of rows of `cols` columns, and the groups.
#define GROUP_PARAMETERS float *magnitudes, i8 *q, u32 group
#define GROUPS(cols) (Groups{magnitudes, q, cols, group})

} // namespace arithmetic
