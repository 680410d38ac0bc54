// Attention (N2) of few queries: of a token that is generated, whose positions are what can be shared out. Three launches:
// scores and the maxima of each 128 positions; numerators and the mix of each 128 positions; sums. A thread owns a chain of
// products from its first to its last.
#include "attention.cuh"
#include "groups.cuh"

namespace arithmetic {

constexpr u32 SIDE = 32;
constexpr u32 QUERIES = 8;
// Values that a thread asks for at once.
constexpr u32 AHEAD = 32;
// Rows of SIDE columns that a block of threads brings at once.
constexpr u32 ROWS = BLOCK / SIDE;

// grid: shared heads x blocks of positions x tiles. `extents[row]` positions are seen by a row. With `fill` what a row does
// not see is +0, up to `stride`.
KERNEL(attention_scores, 128, float *scores, float *maxima, const float *queries, const Tile *tiles, const u32 *extents,
       u32 heads, u32 group, u32 width, u32 stride, u32 base, float scale, u32 fill) {
    SHARED float keys[BLOCK][SIDE + 1];
    SHARED ALIGNED(16) float qs[SIDE][QUERIES];
    SHARED float tops[QUERIES][BLOCK / WARP];
    Heads shape = {heads, group, base};
    Tile tile = tiles[blockIdx.z];
    u32 kv = blockIdx.x, thread = threadIdx.x, first = blockIdx.y * BLOCK, position = first + thread;
    u32 last = extents[tile.first_row + tile.rows - 1], count = tile.rows * group;
    if (first >= last && !fill) return;
    // What a thread brings: a column of every fourth position and query.
    u32 own_column = thread % SIDE, own_row = thread / SIDE, step = shape.shared() * width;

    for (u32 start = 0; start < count; start += QUERIES) {
        float p[QUERIES], sum[QUERIES];
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) p[i] = sum[i] = 0.0f;
        for (u32 column = 0; column < width; column += SIDE) {
            // All are asked for before any is stored, because memory takes long to answer. What lies beyond the last row,
            // query or column is the last one again, of which nothing is kept.
            u32 end = width - column < SIDE ? width - column : SIDE;
            u32 from = column + (own_column < end ? own_column : end - 1);
            float key[BLOCK / ROWS], query[QUERIES / ROWS];
#pragma unroll
            for (u32 i = 0; i < BLOCK / ROWS; i++) {
                u32 at = first + i * ROWS + own_row;
                key[i] = tile.keys[(u64)(at < last ? at : last - 1) * step + kv * width + from];
            }
#pragma unroll
            for (u32 i = 0; i < QUERIES / ROWS; i++) {
                u32 at = start + i * ROWS + own_row;
                query[i] = queries[(u64)shape.place(tile, kv, at < count ? at : count - 1) * width + from];
            }
            __syncthreads(); // what is staged has been used
#pragma unroll
            for (u32 i = 0; i < BLOCK / ROWS; i++) keys[i * ROWS + own_row][own_column] = key[i];
#pragma unroll
            for (u32 i = 0; i < QUERIES / ROWS; i++) qs[own_column][i * ROWS + own_row] = query[i];
            __syncthreads();
            for (u32 c = 0; c < end; c++) {
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) p[i] = fma(qs[c][i], keys[thread][c], p[i]);
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
            if (start + i >= count) break; // all threads
            float top = from_bits(0xff800000u);
            u64 line = shape.line(tile, kv, start + i);
            if (position < extents[shape.row(tile, start + i)]) {
                top = canonical(mul(sum[i], scale));
                scores[line * stride + position] = top;
            } else if (fill && position < stride) {
                scores[line * stride + position] = 0.0f;
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
    SHARED ALIGNED(16) float es[BLOCK][QUERIES];
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
        // Positions that each query sees, and the fewest and the most of those that see any.
        u32 seen[QUERIES], least = BLOCK, most = 0;
        float score[QUERIES];
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            seen[i] = 0;
            if (start + i < count) {
                u32 extent = extents[shape.row(tile, start + i)];
                seen[i] = extent < first ? 0 : extent - first < BLOCK ? extent - first : BLOCK;
            }
            if (seen[i] > 0 && seen[i] < least) least = seen[i];
            most = seen[i] > most ? seen[i] : most;
        }
        least = least < most ? least : most; // none, if nobody sees any
        // All scores are asked for before any numerator is stored.
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            if (thread < seen[i]) score[i] = scores[(u64)shape.line(tile, kv, start + i) * stride + position];
        }
#pragma unroll
        for (u32 i = 0; i < QUERIES; i++) {
            if (thread < seen[i]) {
                es[thread][i] = score[i] = exp(sub(score[i], tops[i]));
                scores[(u64)shape.line(tile, kv, start + i) * stride + position] = score[i];
            }
        }
        __syncthreads();
        for (u32 column = thread; column < width; column += blockDim.x) {
            float p[QUERIES];
#pragma unroll
            for (u32 i = 0; i < QUERIES; i++) p[i] = 0.0f;
            const float *values = tile.values + ((u64)first * shape.shared() + kv) * width + column;
            u64 step = (u64)shape.shared() * width;
            // Values are asked for several at once, because memory takes long to answer; those beyond the end are the last
            // one again. Of queries that see none nothing is kept.
            for (u32 j = 0; j < least; j += AHEAD) {
                float value[AHEAD];
#pragma unroll
                for (u32 a = 0; a < AHEAD; a++) value[a] = values[(j + a < least ? j + a : least - 1) * step];
#pragma unroll
                for (u32 a = 0; a < AHEAD; a++) {
                    if (j + a < least) {
#pragma unroll
                        for (u32 i = 0; i < QUERIES; i++) p[i] = fma(es[j + a][i], value[a], p[i]);
                    }
                }
            }
            for (u32 j = least; j < most; j++) {
                float value = values[j * step];
#pragma unroll
                for (u32 i = 0; i < QUERIES; i++) {
                    if (j < seen[i]) p[i] = fma(es[j][i], value, p[i]);
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

// A block of threads to each `together` heads of a row: the sums of the numerators (R1, chunks of 1024 positions), the sums
// of the mixes in ascending order of their blocks, and their quotients. The columns of heads that go together are whole
// groups, if the row is quantised.
KERNEL(attention_quotients, 128, float *out, const float *mixes, const float *scores, const u32 *extents, u32 heads,
       u32 width, u32 stride, u32 base, u32 together, GROUP_PARAMETERS) {
    SHARED float partials[1024];
    SHARED float sums[SPAN];
    u32 parts = (heads + together - 1) / together, row = blockIdx.x / parts, first = blockIdx.x % parts * together;
    u32 end = first + together < heads ? first + together : heads;
    u32 extent = extents[base + row], blocks = blocks_of(extent);
    for (u32 head = first; head < end; head++) {
        const float *numerators = scores + ((u64)row * heads + head) * stride;
        float sum = reduce_by_block<SUM>([numerators](u32 i) { return numerators[i]; }, extent, partials);
        if (threadIdx.x == 0) sums[head - first] = sum;
    }
    __syncthreads();
    u64 place = base + row;
    float *result = out + place * heads * width;
    for (u32 i = first * width + threadIdx.x; i < end * width; i += blockDim.x) {
        u32 head = i / width;
        const float *mix = mixes + ((u64)row * heads + head) * blocks_of(stride) * width + i % width;
        float total = ascending_sum(blocks, [mix, width](u32 block) { return mix[(u64)block * width]; });
        result[i] = canonical(div(total, sums[head - first]));
    }
    Groups groups = GROUPS(heads * width);
    if (!groups.q) return;
    __syncthreads(); // a group is the work of many threads
    groups.make_all(place, first * width, end * width, [result](u32 i) { return result[i]; }, [](u32, float) {});
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
