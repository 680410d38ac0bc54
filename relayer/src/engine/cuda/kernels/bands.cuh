// Which tile of a contraction of many rows a block of threads computes.
#pragma once

#include "platform.cuh"

// Tiles of rows that are multiplied with the same weights at the same time, so that these stay in the cache.
constexpr u32 BAND = 16;

// Where the tile of this block begins. Blocks go down a band of rows, then to the outputs beside it, then to the next band.
template <u32 ROWS, u32 OUTPUTS> DEVICE void own_tile(u32 m, u32 n, u32 &first_row, u32 &first_output) {
    u32 row_tiles = (m + ROWS - 1) / ROWS, output_tiles = (n + OUTPUTS - 1) / OUTPUTS;
    u32 band = blockIdx.x / (BAND * output_tiles), within = blockIdx.x % (BAND * output_tiles);
    u32 rows_left = row_tiles - band * BAND, tall = rows_left < BAND ? rows_left : BAND;
    first_row = (band * BAND + within % tall) * ROWS;
    first_output = within / tall * OUTPUTS;
}
