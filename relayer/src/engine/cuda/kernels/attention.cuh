// What attention reads: keys and values that lie row after row, `[position][heads of keys][width]`, as layers yield them and
// caches keep them. 128 positions are a block of the arithmetic (C4: counted from position 0, whatever was computed before).
// Rows of scores end where the row's extent ends: nothing is padded and nothing beyond is read.
#pragma once

#include "rows.cuh"

namespace arithmetic {

// Consecutive rows of queries that read the same keys and values.
struct Tile {
    const float *keys, *values;
    u32 first_row, rows;
};

// The heads of a layer: `group` heads of queries share one of keys. Scores and mixes begin with row `base`.
struct Heads {
    u32 heads, group, base;

    MEMBER u32 shared() const { return heads / group; }
    // Query `i` of a tile that reads shared head `kv`: its row, its place among all [row][head], and among those since
    // `base`.
    MEMBER u32 row(const Tile &tile, u32 i) const { return tile.first_row + i / group; }
    MEMBER u32 place(const Tile &tile, u32 kv, u32 i) const { return row(tile, i) * heads + kv * group + i % group; }
    MEMBER u32 line(const Tile &tile, u32 kv, u32 i) const { return place(tile, kv, i) - base * heads; }
};

DEVICE u32 blocks_of(u32 positions) { return (positions + BLOCK - 1) / BLOCK; }

} // namespace arithmetic
