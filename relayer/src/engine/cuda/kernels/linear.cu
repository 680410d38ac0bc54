// Linear layers over f32, f16 and bf16 weights (C1 to C3).
//
// A block of 128 products is a chain of `fma` in ascending order, owned by one thread from end to end; the partials of an
// output are added in ascending order by one thread. Which warp computes which block, and when, has no part in the result.
#include "panels.cuh"

namespace arithmetic {

// Few rows: memory-bound (panels.cuh). Weights are asked for a batch ahead: before the activations are staged, then while
// the batch before is multiplied.
template <u32 TYPE, u32 M>
DEVICE void linear_few(const Layer &layer, u32 panel, const float *x, float *partials, u32 m, u32 k) {
    constexpr u32 EACH = Element<TYPE>::PER_STEP, AHEAD = 8;
    SHARED ALIGNED(16) float activations[WARPS][M][BLOCK];
    u32 lane = lane_index(), warp = warp_index();
    u32 first_row = blockIdx.z * M, rows = m - first_row < M ? m - first_row : M;
    u32 steps = (k + EACH - 1) / EACH, blocks = (k + BLOCK - 1) / BLOCK;
    float *mine = own_partials<M>(partials, blocks);
    float(*xs)[BLOCK] = activations[warp];

    for (u32 block = blockIdx.y * WARPS + warp; block < blocks; block += gridDim.y * WARPS) {
        u32 start = block * BLOCK, length = k - start < BLOCK ? k - start : BLOCK;
        const u8 *weights = layer.w + (((u64)panel * steps + start / EACH) * PANEL + lane) * 16;
        u32 whole = length / EACH, done = 0;
        Quad ahead[AHEAD];
        auto fetch = [&](u32 step) {
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) ahead[i] = stream16(weights + (u64)(step + i) * PANEL * 16);
        };
        if (AHEAD <= whole) fetch(0);
        __syncwarp(); // the activations of the block before have been read
        for (u32 row = 0; row < M; row++) {
            for (u32 i = lane; i < BLOCK; i += WARP) {
                xs[row][i] = row < rows && i < length ? x[(u64)(first_row + row) * k + start + i] : 0.0f;
            }
        }
        __syncwarp();

        float p[M];
#pragma unroll
        for (u32 row = 0; row < M; row++) p[row] = 0.0f;
        for (; done + AHEAD <= whole; done += AHEAD) {
            Quad now[AHEAD];
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) now[i] = ahead[i];
            if (done + 2 * AHEAD <= whole) fetch(done + AHEAD);
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
#pragma unroll
                for (u32 e = 0; e < EACH; e++) {
                    float weight = Element<TYPE>::of(now[i], e);
#pragma unroll
                    for (u32 row = 0; row < M; row++) p[row] = fma(xs[row][(done + i) * EACH + e], weight, p[row]);
                }
            }
        }
        for (u32 column = done * EACH; column < length; column++) {
            Quad quad = load16(weights + (u64)(column / EACH) * PANEL * 16);
            float weight = Element<TYPE>::of(quad, column % EACH);
#pragma unroll
            for (u32 row = 0; row < M; row++) p[row] = fma(xs[row][column], weight, p[row]);
        }
#pragma unroll
        for (u32 row = 0; row < M; row++) mine[partial_at<M>(block, row)] = p[row];
    }
    if (last_of_panel(layer, panel)) add_partials<M>(layer, panel, mine, first_row, rows, blocks);
}

#define LINEAR_FEW(name, type, rows)                                                                                      \
    KERNEL(name, 256, const float *x, float *partials, u32 m, u32 k, LAYER_PARAMETERS(0), LAYER_PARAMETERS(1),            \
           LAYER_PARAMETERS(2)) {                                                                                         \
        u32 panel;                                                                                                        \
        Layer layer = own_layer(LAYER(0), LAYER(1), LAYER(2), panel);                                                     \
        linear_few<type, rows>(layer, panel, x, partials, m, k);                                                          \
    }

LINEAR_FEW(linear_f32_1, F32, 1)
LINEAR_FEW(linear_f32_2, F32, 2)
LINEAR_FEW(linear_f32_4, F32, 4)
LINEAR_FEW(linear_f32_8, F32, 8)
LINEAR_FEW(linear_f16_1, F16, 1)
LINEAR_FEW(linear_f16_2, F16, 2)
LINEAR_FEW(linear_f16_4, F16, 4)
LINEAR_FEW(linear_f16_8, F16, 8)
LINEAR_FEW(linear_bf16_1, BF16, 1)
LINEAR_FEW(linear_bf16_2, BF16, 2)
LINEAR_FEW(linear_bf16_4, BF16, 4)
LINEAR_FEW(linear_bf16_8, BF16, 8)

// Many rows: tiles of 16 R rows x 16 R outputs, a thread R x R of them. Columns go through shared memory 16 at a time, the
// next while the last are used; 16 divides 128, so a block of products never ends inside such a slice, and the chain of a
// block lives in registers from slice to slice. The last slice stops at K: nothing is padded.
template <u32 TYPE, u32 R>
DEVICE void linear_many(float *out, const float *x, const u8 *w, const float *bias, u32 m, u32 n, u32 k, u32 then) {
    constexpr u32 TILE = 16 * R, SLICE = 16, EACH = Element<TYPE>::PER_STEP;
    constexpr u32 QUADS = TILE * SLICE / EACH, MINE = (QUADS + 255) / 256, LOADS = TILE * SLICE / 256, GROUPS = R / 4;
    SHARED ALIGNED(16) float left[2][SLICE][TILE + 4];
    SHARED ALIGNED(16) float right[2][SLICE][TILE];
    u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    u32 steps = (k + EACH - 1) / EACH, panels = (n + PANEL - 1) / PANEL, slices = (k + SLICE - 1) / SLICE;
    // A thread loads LOADS consecutive columns of one row.
    u32 load_row = threadIdx.x / (SLICE / LOADS), load_column = threadIdx.x % (SLICE / LOADS) * LOADS;

    float xs[LOADS];
    Quad ws[MINE];
    auto fetch = [&](u32 slice) {
        u32 row = first_row + load_row, column = slice * SLICE + load_column;
        if (k % 4 == 0) {
#pragma unroll
            for (u32 i = 0; i < LOADS; i += 4) {
                Quad quad = {{0, 0, 0, 0}};
                if (row < m && column + i < k) quad = load16(x + (u64)row * k + column + i);
#pragma unroll
                for (u32 j = 0; j < 4; j++) xs[i + j] = from_bits(quad.word[j]);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < LOADS; i++) xs[i] = row < m && column + i < k ? x[(u64)row * k + column + i] : 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < MINE; i++) {
            u32 quad = threadIdx.x + i * 256, lane = quad % PANEL, step = quad / PANEL % (SLICE / EACH);
            u32 panel = first_column / PANEL + quad / PANEL / (SLICE / EACH), at = slice * (SLICE / EACH) + step;
            ws[i] = {{0, 0, 0, 0}};
            if (quad < QUADS && panel < panels && at < steps) ws[i] = load16(w + (((u64)panel * steps + at) * PANEL + lane) * 16);
        }
    };
    auto stage = [&](u32 buffer) {
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) left[buffer][load_column + i][load_row] = xs[i];
#pragma unroll
        for (u32 i = 0; i < MINE; i++) {
            u32 quad = threadIdx.x + i * 256, lane = quad % PANEL, step = quad / PANEL % (SLICE / EACH);
            u32 column = quad / PANEL / (SLICE / EACH) * PANEL + lane;
            if (quad < QUADS) {
#pragma unroll
                for (u32 e = 0; e < EACH; e++) right[buffer][step * EACH + e][column] = Element<TYPE>::of(ws[i], e);
            }
        }
    };

    float sum[R][R], p[R][R];
#pragma unroll
    for (u32 i = 0; i < R * R; i++) sum[i / R][i % R] = p[i / R][i % R] = 0.0f;
    // Where output i of a thread lies along a side of the tile: groups of four, so that four are loaded at once.
    auto place = [](u32 thread, u32 i) { return i / 4 * 64 + thread * 4 + i % 4; };
    auto multiply = [&](u32 buffer, u32 column) {
        float a[R], b[R];
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) {
            Quad qa = *(const Quad *)&left[buffer][column][place(ty, 4 * g)];
            Quad qb = *(const Quad *)&right[buffer][column][place(tx, 4 * g)];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                a[4 * g + i] = from_bits(qa.word[i]);
                b[4 * g + i] = from_bits(qb.word[i]);
            }
        }
#pragma unroll
        for (u32 i = 0; i < R; i++) {
#pragma unroll
            for (u32 j = 0; j < R; j++) p[i][j] = fma(a[i], b[j], p[i][j]);
        }
    };

    if (slices > 0) fetch(0);
    for (u32 slice = 0; slice < slices; slice++) {
        u32 buffer = slice % 2;
        stage(buffer);
        __syncthreads();
        if (slice + 1 < slices) fetch(slice + 1);
        if ((slice + 1) * SLICE <= k) {
#pragma unroll
            for (u32 column = 0; column < SLICE; column++) multiply(buffer, column);
        } else {
            for (u32 column = 0; column < k - slice * SLICE; column++) multiply(buffer, column);
        }
        if ((slice + 1) * SLICE % BLOCK == 0 || slice + 1 == slices) {
#pragma unroll
            for (u32 i = 0; i < R * R; i++) {
                sum[i / R][i % R] = add(sum[i / R][i % R], p[i / R][i % R]);
                p[i / R][i % R] = 0.0f;
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < R; i++) {
#pragma unroll
        for (u32 j = 0; j < R; j++) {
            u32 row = first_row + place(ty, i), column = first_column + place(tx, j);
            if (row < m && column < n) out[(u64)row * n + column] = finish(sum[i][j], bias, column, then);
        }
    }
}

#define LINEAR_MANY(name, type, side)                                                                                     \
    KERNEL(name, 256, float *out, const float *x, const u8 *w, const float *bias, u32 m, u32 n, u32 k, u32 then) {        \
        linear_many<type, side>(out, x, w, bias, m, n, k, then);                                                          \
    }

LINEAR_MANY(linear_f32_tile64, F32, 4)
LINEAR_MANY(linear_f32_tile128, F32, 8)
LINEAR_MANY(linear_f16_tile64, F16, 4)
LINEAR_MANY(linear_f16_tile128, F16, 8)
LINEAR_MANY(linear_bf16_tile64, BF16, 4)
LINEAR_MANY(linear_bf16_tile128, BF16, 8)

} // namespace arithmetic
