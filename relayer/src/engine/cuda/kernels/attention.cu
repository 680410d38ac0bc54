// Attention (N2) of few queries: of a token that is generated, whose positions are what can be shared out. Three launches:
// scores and the maxima of each 128 positions; numerators and the mix of each 128 positions; sums. A thread owns a chain of
// products from its first to its last.
#include "attention.cuh"

namespace arithmetic {

constexpr u32 SIDE = 32;
constexpr u32 QUERIES = 8;

// grid: shared heads x blocks of positions x tiles. `extents[row]` positions are seen by a row. With `fill` what a row does
// not see is +0, up to `stride`.
KERNEL(attention_scores, 128, float *scores, float *maxima, const float *queries, const Tile *tiles, const u32 *extents,
       u32 heads, u32 group, u32 width, u32 stride, u32 base, float scale, u32 fill) {
    SHARED float keys[BLOCK][SIDE + 1];
    SHARED float qs[QUERIES][SIDE];
    SHARED float tops[QUERIES][BLOCK / WARP];
    Heads shape = {heads, group, base};
    Tile tile = tiles[blockIdx.z];
    u32 kv = blockIdx.x, thread = threadIdx.x, first = blockIdx.y * BLOCK, position = first + thread;
    u32 last = extents[tile.first_row + tile.rows - 1], count = tile.rows * group;
    if (first >= last && !fill) return;

    for (u32 start = 0; start < count; start += QUERIES) {
        float p[QUERIES], sum[QUERIES];
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) p[i] = sum[i] = 0.0f;
        for (u32 column = 0; column < width; column += SIDE) {
            __syncthreads(); // what is staged has been used
            for (u32 i = thread; i < BLOCK * SIDE; i += blockDim.x) {
                u32 at = first + i / SIDE, c = column + i % SIDE;
                bool exists = at < last && c < width;
                keys[i / SIDE][i % SIDE] = exists ? tile.keys[((u64)at * shape.shared() + kv) * width + c] : 0.0f;
            }
            for (u32 i = thread; i < QUERIES * SIDE; i += blockDim.x) {
                u32 query = start + i / SIDE, c = column + i % SIDE;
                bool exists = query < count && c < width;
                qs[i / SIDE][i % SIDE] = exists ? queries[(u64)shape.place(tile, kv, query) * width + c] : 0.0f;
            }
            __syncthreads();
            u32 end = width - column < SIDE ? width - column : SIDE;
            for (u32 c = 0; c < end; c++) {
                float key = keys[thread][c];
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) p[i] = fma(qs[i][c], key, p[i]);
            }
            if ((column + SIDE) % BLOCK == 0 || column + SIDE >= width) {
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) {
                    sum[i] = add(sum[i], p[i]);
                    p[i] = 0.0f;
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            float top = from_bits(0xff800000u);
            if (start + i < count) {
                u64 line = shape.line(tile, kv, start + i);
                if (position < extents[shape.row(tile, start + i)]) {
                    top = canonical(mul(sum[i], scale));
                    scores[line * stride + position] = top;
                } else if (fill && position < stride) {
                    scores[line * stride + position] = 0.0f;
                }
            }
            top = tree<MAXIMUM>(top);
            if (lane_index() == 0) tops[i][warp_index()] = top;
        }
        __syncthreads();
        if (maxima && thread < QUERIES && start + thread < count) {
            float top = tops[thread][0];
            for (u32 warp = 1; warp < BLOCK / WARP; warp++) top = maximum(top, tops[thread][warp]);
            maxima[(u64)shape.line(tile, kv, start + thread) * blocks_of(stride) + blockIdx.y] = top;
        }
    }
}

// The same grid. Scores become numerators; `mixes` is [row][head][block of positions][width], `width` that of values.
KERNEL(attention_mixes, 128, float *mixes, float *scores, const float *maxima, const Tile *tiles, const u32 *extents,
       u32 heads, u32 group, u32 width, u32 stride, u32 base) {
    SHARED float es[QUERIES][BLOCK];
    SHARED float tops[QUERIES];
    Heads shape = {heads, group, base};
    Tile tile = tiles[blockIdx.z];
    u32 kv = blockIdx.x, thread = threadIdx.x, first = blockIdx.y * BLOCK, position = first + thread;
    u32 count = tile.rows * group;
    if (first >= extents[tile.first_row + tile.rows - 1]) return;

    for (u32 start = 0; start < count; start += QUERIES) {
        __syncthreads(); // the numerators before have been used
        for (u32 i = warp_index(); i < QUERIES; i += BLOCK / WARP) {
            float top = from_bits(0xff800000u);
            if (start + i < count) {
                u32 blocks = blocks_of(extents[shape.row(tile, start + i)]);
                const float *tops_of = maxima + (u64)shape.line(tile, kv, start + i) * blocks_of(stride);
                for (u32 block = lane_index(); block < blocks; block += WARP) top = maximum(top, tops_of[block]);
            }
            top = tree<MAXIMUM>(top);
            if (lane_index() == 0) tops[i] = top;
        }
        __syncthreads();
        u32 seen[QUERIES];
        bool whole = true;
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            seen[i] = 0;
            if (start + i < count) {
                u32 extent = extents[shape.row(tile, start + i)];
                seen[i] = extent < first ? 0 : extent - first < BLOCK ? extent - first : BLOCK;
            }
            whole = whole && seen[i] == BLOCK;
            if (thread < seen[i]) {
                float *score = scores + (u64)shape.line(tile, kv, start + i) * stride + position;
                es[i][thread] = *score = exp(sub(*score, tops[i]));
            }
        }
        __syncthreads();
        for (u32 column = thread; column < width; column += blockDim.x) {
            float p[QUERIES];
#pragma unroll
            for (u32 i = 0; i < QUERIES; i++) p[i] = 0.0f;
            const float *values = tile.values + ((u64)first * shape.shared() + kv) * width + column;
            u64 step = (u64)shape.shared() * width;
            if (whole) {
#pragma unroll 4
                for (u32 j = 0; j < BLOCK; j++) {
                    float value = values[j * step];
#pragma unroll
                    for (u32 i = 0; i < QUERIES; i++) p[i] = fma(es[i][j], value, p[i]);
                }
            } else {
                u32 most = 0;
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) most = seen[i] > most ? seen[i] : most;
                for (u32 j = 0; j < most; j++) {
                    float value = values[j * step];
#pragma unroll
                    for (u32 i = 0; i < QUERIES; i++) {
                        if (j < seen[i]) p[i] = fma(es[i][j], value, p[i]);
                    }
                }
            }
#pragma unroll
            for (u32 i = 0; i < QUERIES; i++) {
                if (seen[i] > 0) {
                    u64 line = shape.line(tile, kv, start + i);
                    mixes[(line * blocks_of(stride) + blockIdx.y) * width + column] = p[i];
                }
            }
        }
    }
}

// A block of threads to each [row][head]: the sum of the numerators (R1, chunks of 1024 positions), the sum of the mixes
// in ascending order of their blocks, and their quotient.
KERNEL(attention_quotients, 128, float *out, const float *mixes, const float *scores, const u32 *extents, u32 heads,
       u32 width, u32 stride, u32 base) {
    SHARED float partials[1024];
    u64 line = blockIdx.x;
    u32 extent = extents[base + blockIdx.x / heads], blocks = blocks_of(extent);
    const float *row = scores + line * stride;
    float sum = reduce_by_block<SUM>([row](u32 i) { return row[i]; }, extent, partials);
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        const float *mix = mixes + line * blocks_of(stride) * width + column;
        float total = 0.0f;
        for (u32 block = 0; block < blocks; block++) total = add(total, mix[(u64)block * width]);
        out[((u64)base * heads + line) * width + column] = canonical(div(total, sum));
    }
}

// The mix by itself, of weights [row][head][positions] and transposed values [shared head][width][positions] (P-34): a
// thread to each element.
KERNEL(attention_mix_plain, 128, float *out, const float *weights, const float *values, u64 count, u32 rows, u32 heads,
       u32 group, u32 width, u32 positions, u32 causal, u64 weights_request, u64 values_request) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 column = (u32)(i % width), head = (u32)(i / width % heads), line = (u32)(i / width / heads);
        u32 request = line / rows, row = line % rows;
        u32 length = causal && row + 1 < positions ? row + 1 : positions;
        const float *x = weights + request * weights_request + ((u64)row * heads + head) * positions;
        const float *y = values + request * values_request + ((u64)head / group * width + column) * positions;
        float sum = 0.0f;
        for (u32 start = 0; start < length; start += BLOCK) {
            float p = 0.0f;
            u32 end = length - start < BLOCK ? length : start + BLOCK;
            for (u32 j = start; j < end; j++) p = fma(x[j], y[j], p);
            sum = add(sum, p);
        }
        out[i] = canonical(sum);
    }
}

// Appends new rows to the caches of their requests: row `r` of keys and of values becomes position `positions[r]` of
// `key_caches[r]` and `value_caches[r]`.
KERNEL(append_rows, 256, float *const *key_caches, float *const *value_caches, const u32 *positions, const float *keys,
       const float *values, u64 count, u32 key_width, u32 value_width) {
    u32 width = key_width + value_width;
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 row = (u32)(i / width), column = (u32)(i - (u64)row * width);
        u64 position = positions[row];
        if (column < key_width) {
            key_caches[row][position * key_width + column] = keys[(u64)row * key_width + column];
        } else {
            column -= key_width;
            value_caches[row][position * value_width + column] = values[(u64)row * value_width + column];
        }
    }
}

} // namespace arithmetic
