// Attention (N2) of many queries: of a prompt. Two launches over tiles of 64 lines, a line being a query of one head, that
// read the same keys and values. Scores are contractions like those of a layer; then the mix of a tile goes through its
// positions from first to last and needs no memory for what lies between.
#include "attention.cuh"
#include "float_tiles.cuh"

namespace arithmetic {

constexpr u32 LINES = 64;
// Positions that a warp turns into numerators at a time: as many as it has lanes, which are those of R1.
constexpr u32 STRIP = WARP;
// Lines of a warp then.
constexpr u32 OWN = LINES / 8;

// grid: shared heads x blocks of positions x tiles. `maxima` has the greatest score of each line and block.
KERNEL(attention_tile_scores, 256, float *scores, float *maxima, const float *queries, const Tile *tiles,
       const u32 *extents, u32 heads, u32 group, u32 width, u32 stride, u32 base, float scale) {
    Heads shape = {heads, group, base};
    Tile tile = tiles[blockIdx.z];
    u32 kv = blockIdx.x, first = blockIdx.y * BLOCK, count = tile.rows * group;
    u32 last = extents[tile.first_row + tile.rows - 1];
    if (first >= last) return;

    for (u32 start = 0; start < count; start += LINES) {
        u32 query = start + Rows<4>::own(), position = first + Rows<8>::own();
        Rows<4> lines = {query < count ? queries + (u64)shape.place(tile, kv, query) * width : nullptr, width, {}};
        Rows<8> keys = {position < last ? tile.keys + ((u64)position * shape.shared() + kv) * width : nullptr, width, {}};
        float sum[4][8];
        contract(sum, lines, keys, width);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 line = start + place(threadIdx.x / 16, i), extent = line < count ? extents[shape.row(tile, line)] : 0;
            float *row = scores + (u64)(extent > 0 ? shape.line(tile, kv, line) : 0) * stride;
            float top = from_bits(0xff800000u);
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                u32 at = first + place(threadIdx.x % 16, j);
                if (at < extent) {
                    float score = canonical(mul(sum[i][j], scale));
                    row[at] = score;
                    top = maximum(top, score);
                }
            }
            // Sixteen neighbours have a line together.
#pragma unroll
            for (u32 s = 8; s > 0; s /= 2) top = maximum(top, __shfl_xor_sync(ALL_LANES, top, s));
            if (first < extent && threadIdx.x % 16 == 0) {
                maxima[(u64)shape.line(tile, kv, line) * blocks_of(stride) + blockIdx.y] = top;
            }
        }
        __syncthreads(); // the last slice has been used
    }
}

// grid: shared heads x 128 columns of values x tiles.
KERNEL(attention_tile_mix, 256, float *out, const float *scores, const float *maxima, const Tile *tiles, const u32 *extents,
       u32 heads, u32 group, u32 width, u32 stride, u32 base) {
    SHARED ALIGNED(16) float numerators[STRIP][LINES + 4];
    SHARED ALIGNED(16) float values[STRIP][BLOCK];
    SHARED float tops[LINES], sums[LINES];
    SHARED u32 seen[LINES];
    Heads shape = {heads, group, base};
    Tile tile = tiles[blockIdx.z];
    u32 kv = blockIdx.x, first_column = blockIdx.y * BLOCK, count = tile.rows * group;
    u32 lane = lane_index(), warp = warp_index();
    u32 last = extents[tile.first_row + tile.rows - 1];

    for (u32 start = 0; start < count; start += LINES) {
        __syncthreads(); // what is known of the lines before has been used
        // For numerators a warp has eight lines, and a lane every 32nd of their positions, as R1 adds them.
        float lanes[OWN];
#pragma unroll
        for (u32 i = 0; i < OWN; i++) {
            u32 own = warp * OWN + i, line = start + own, extent = line < count ? extents[shape.row(tile, line)] : 0;
            const float *of_line = maxima + (u64)(extent > 0 ? shape.line(tile, kv, line) : 0) * blocks_of(stride);
            float top = from_bits(0xff800000u);
            for (u32 block = lane; block < blocks_of(extent); block += WARP) top = maximum(top, of_line[block]);
            top = tree<MAXIMUM>(top);
            if (lane == 0) {
                tops[own] = top;
                sums[own] = 0.0f;
                seen[own] = extent;
            }
            lanes[i] = 0.0f;
        }
        __syncthreads();
        // For the mix a thread has four lines and eight columns.
        u32 least = 0xffffffffu;
        float sum[4][8], p[4][8];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 extent = seen[place(threadIdx.x / 16, i)];
            least = extent < least ? extent : least;
        }
#pragma unroll
        for (u32 i = 0; i < 32; i++) sum[i / 8][i % 8] = p[i / 8][i % 8] = 0.0f;

        for (u32 first = 0; first < last; first += STRIP) {
            __syncthreads(); // the strip before has been used
            u32 end = first + STRIP;
#pragma unroll
            for (u32 i = 0; i < OWN; i++) {
                u32 own = warp * OWN + i;
                float e = 0.0f;
                if (first + lane < seen[own]) {
                    u64 line = shape.line(tile, kv, start + own);
                    e = exp(sub(scores[line * stride + first + lane], tops[own]));
                    lanes[i] = add(lanes[i], e);
                }
                numerators[lane][own] = e;
            }
            if (end % CHUNK == 0 || end >= last) {
#pragma unroll
                for (u32 i = 0; i < OWN; i++) {
                    u32 own = warp * OWN + i;
                    float partial = tree<SUM>(lanes[i]);
                    if (lane == 0 && first / CHUNK * CHUNK < seen[own]) sums[own] = add(sums[own], partial);
                    lanes[i] = 0.0f;
                }
            }
            for (u32 i = threadIdx.x; i < STRIP * BLOCK; i += blockDim.x) {
                u32 at = first + i / BLOCK, column = first_column + i % BLOCK;
                bool exists = at < last && column < width;
                values[i / BLOCK][i % BLOCK] = exists ? tile.values[((u64)at * shape.shared() + kv) * width + column] : 0.0f;
            }
            __syncthreads();
            if (end <= least) {
#pragma unroll 8
                for (u32 j = 0; j < STRIP; j++) multiply(p, numerators[j], values[j]);
            } else {
                for (u32 j = 0; j < STRIP; j++) {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        if (first + j >= seen[place(threadIdx.x / 16, i)]) continue;
                        float e = numerators[j][place(threadIdx.x / 16, i)];
#pragma unroll
                        for (u32 c = 0; c < 8; c++) p[i][c] = fma(e, values[j][place(threadIdx.x % 16, c)], p[i][c]);
                    }
                }
            }
            if (end % BLOCK == 0 || end >= last) {
#pragma unroll
                for (u32 i = 0; i < 32; i++) {
                    u32 extent = seen[place(threadIdx.x / 16, i / 8)];
                    if (first / BLOCK * BLOCK < extent) sum[i / 8][i % 8] = add(sum[i / 8][i % 8], p[i / 8][i % 8]);
                    p[i / 8][i % 8] = 0.0f;
                }
            }
        }
        __syncthreads(); // the sums are there
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 in_tile = place(threadIdx.x / 16, i);
            if (start + in_tile >= count) continue;
            float *line = out + (u64)shape.place(tile, kv, start + in_tile) * width;
#pragma unroll
            for (u32 c = 0; c < 8; c++) {
                u32 column = first_column + place(threadIdx.x % 16, c);
                if (column < width) line[column] = canonical(div(sum[i][c], sums[in_tile]));
            }
        }
    }
}

} // namespace arithmetic
