// Contractions of few rows, whatever the weights: up to three layers of the same activations in one launch, since small
// launches are what generating a token waits for. A warp takes a panel of 32 outputs and a block of 128 columns at a time,
// its lanes the outputs; grid: panels of all layers x splits of the blocks x groups of M rows. A block's partial is a number
// by itself and goes to `partials` [group of rows][block][M][panels * 32]; the block of threads that finishes a panel last
// adds them in ascending order (C2).
#pragma once

#include "weights.cuh"

namespace arithmetic {

// Warps of a block of threads.
constexpr u32 WARPS = 8;

// `counters` [group of rows][panel] are zero before and after. A layer that is not there has no outputs.
struct Layer {
    float *out;
    const u8 *w;
    const float *scales, *bias;
    u32 *counters, n, then;

    MEMBER u32 panels() const { return (n + PANEL - 1) / PANEL; }
};

// Parameters of a kernel that are a layer, and the layer.
#define LAYER_PARAMETERS(i)                                                                                               \
    float *out##i, const u8 *w##i, const float *scales##i, const float *bias##i, u32 *counters##i, u32 n##i, u32 then##i
#define LAYER(i) (Layer{out##i, w##i, scales##i, bias##i, counters##i, n##i, then##i})

// The layer that this block of threads works for, and which of its panels.
DEVICE Layer own_layer(const Layer &a, const Layer &b, const Layer &c, u32 &panel) {
    panel = blockIdx.x;
    if (panel < a.panels()) return a;
    panel -= a.panels();
    if (panel < b.panels()) return b;
    panel -= b.panels();
    return c;
}

// Where this lane's partials begin, and how far from there that of a row of a block is.
template <u32 M> DEVICE float *own_partials(float *partials, u32 blocks) {
    return partials + ((u64)blockIdx.z * blocks * M * gridDim.x + blockIdx.x) * PANEL + lane_index();
}
template <u32 M> DEVICE u64 partial_at(u32 block, u32 row) { return ((u64)block * M + row) * gridDim.x * PANEL; }

// Whether all partials of a panel are there and nobody else will add them. Every thread must ask.
DEVICE bool last_of_panel(const Layer &layer, u32 panel) {
    SHARED u32 before;
    u32 *counter = layer.counters + blockIdx.z * layer.panels() + panel;
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
template <u32 M> DEVICE void add_partials(const Layer &layer, u32 panel, const float *mine, u32 first_row, u32 rows, u32 blocks) {
    u32 column = panel * PANEL + lane_index();
    for (u32 row = warp_index(); row < rows; row += WARPS) {
        float sum = ascending_sum(blocks, [&](u32 block) { return load_shared_result(mine + partial_at<M>(block, row)); });
        if (column < layer.n) {
            layer.out[(u64)(first_row + row) * layer.n + column] = finish(sum, layer.bias, column, layer.then);
        }
    }
}

} // namespace arithmetic
