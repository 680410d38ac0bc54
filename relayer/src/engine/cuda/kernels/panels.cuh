// Contractions of few rows, whatever the weights. A warp takes a panel of 32 outputs and a block of 128 columns at a time,
// its lanes the outputs; grid: panels x splits of the blocks x groups of M rows. A block's partial is a number by itself and
// goes to `partials` [group of rows][block][M][panels * 32]; the block of threads that finishes a panel last adds them in
// ascending order (C2). `counters` [group of rows][panel] are zero before and after.
#pragma once

#include "weights.cuh"

namespace arithmetic {

// Warps of a block of threads.
constexpr u32 WARPS = 8;

// Where this lane's partials begin: that of row `r` of block `b` is `(b * M + r) * panels * PANEL` further.
template <u32 M> DEVICE float *own_partials(float *partials, u32 blocks) {
    return partials + ((u64)blockIdx.z * blocks * M * gridDim.x + blockIdx.x) * PANEL + lane_index();
}

template <u32 M> DEVICE u64 partial_at(u32 block, u32 row) { return ((u64)block * M + row) * gridDim.x * PANEL; }

// Whether all partials of this panel are there and nobody else will add them. Every thread must ask.
DEVICE bool last_of_panel(u32 *counters) {
    SHARED u32 before;
    u32 *counter = counters + blockIdx.z * gridDim.x + blockIdx.x;
    __threadfence(); // what this thread wrote is there before the counter says so
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(counter, 1u);
    __syncthreads();
    if (before != gridDim.y - 1) return false;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0;
    return true;
}

// Sums of a panel's partials, a warp to each row and a lane to each output.
template <u32 M>
DEVICE void add_partials(float *out, const float *mine, const float *bias, u32 first_row, u32 rows, u32 n, u32 blocks,
                         u32 then) {
    u32 column = blockIdx.x * PANEL + lane_index();
    for (u32 row = warp_index(); row < rows; row += WARPS) {
        float sum = 0.0f;
        for (u32 block = 0; block < blocks; block++) sum = add(sum, load_shared_result(mine + partial_at<M>(block, row)));
        if (column < n) out[(u64)(first_row + row) * n + column] = finish(sum, bias, column, then);
    }
}

} // namespace arithmetic
