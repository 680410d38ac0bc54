// Linear layers over f32, f16 and bf16 weights (C1 to C3).
//
// A block of 128 products is a chain of `fma` in ascending order, owned by one thread from end to end; the partials of an
// output are added in ascending order by one thread. Which warp computes which block, and when, has no part in the result.
#include "bands.cuh"
#include "float_tiles.cuh"
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

// 16 S outputs of packed weights on their way into shared memory, widened there.
template <u32 TYPE, u32 S> struct Outputs {
    static constexpr u32 EACH = Element<TYPE>::PER_STEP, STEPS = SLICE / EACH;
    static constexpr u32 QUADS = 16 * S * STEPS, MINE = (QUADS + 255) / 256;
    const u8 *w;
    u32 first_panel, panels, steps;
    Quad x[MINE];

    MEMBER void fetch(u32 slice) {
#pragma unroll
        for (u32 i = 0; i < MINE; i++) {
            u32 quad = threadIdx.x + i * 256, lane = quad % PANEL, step = slice * STEPS + quad / PANEL % STEPS;
            u32 panel = first_panel + quad / PANEL / STEPS;
            x[i] = {{0, 0, 0, 0}};
            if (quad < QUADS && panel < panels && step < steps) x[i] = load16(w + (((u64)panel * steps + step) * PANEL + lane) * 16);
        }
    }
    MEMBER void stage(Side<S> &to) const {
#pragma unroll
        for (u32 i = 0; i < MINE; i++) {
            u32 quad = threadIdx.x + i * 256, step = quad / PANEL % STEPS;
            u32 output = quad / PANEL / STEPS * PANEL + quad % PANEL;
            if (quad < QUADS) {
#pragma unroll
                for (u32 e = 0; e < EACH; e++) to[step * EACH + e][output] = Element<TYPE>::of(x[i], e);
            }
        }
    }
};

// Many rows: tiles of 16 S rows x 16 S outputs (float_tiles.cuh).
template <u32 TYPE, u32 S>
DEVICE void linear_many(float *out, const float *x, const u8 *w, const float *bias, u32 m, u32 n, u32 k, u32 then) {
    u32 first_row, first_output;
    own_tile<16 * S, 16 * S>(m, n, first_row, first_output);
    u32 own = first_row + Rows<S>::own();
    Rows<S> rows = {own < m ? x + (u64)own * k : nullptr, k, {}};
    u32 each = Element<TYPE>::PER_STEP;
    Outputs<TYPE, S> outputs = {w, first_output / PANEL, (n + PANEL - 1) / PANEL, (k + each - 1) / each, {}};
    float sum[S][S];
    contract(sum, rows, outputs, k);
#pragma unroll
    for (u32 i = 0; i < S; i++) {
#pragma unroll
        for (u32 j = 0; j < S; j++) {
            u32 row = first_row + place(threadIdx.x / 16, i), output = first_output + place(threadIdx.x % 16, j);
            if (row < m && output < n) out[(u64)row * n + output] = finish(sum[i][j], bias, output, then);
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
