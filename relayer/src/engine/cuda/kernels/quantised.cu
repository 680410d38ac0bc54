// Quantised contractions (Q1 to Q6). The integer sum of a group is exact, so any instruction may compute it in any order;
// what follows it is three operations on f32 in the order of Q6, and the partials of 128 are added in ascending order.
#include "groups.cuh"
#include "panels.cuh"

namespace arithmetic {

// Rows that were made by something that does not quantise them.
KERNEL(quantise_groups, 256, const float *x, u64 rows, u32 cols, GROUP_PARAMETERS) {
    GROUPS(cols).make_rows(rows, [x](u64 at) { return x[at]; }, [](u64, float) {});
}

// Bytes of elements whose magnitudes are another node's, for requests that share either.
KERNEL(quantise_all, 256, i8 *q, const float *x, const float *magnitudes, u64 count, u32 rows, u32 cols, u32 group,
       u64 x_request, u64 magnitudes_request) {
    u32 each = (cols + group - 1) / group;
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / cols), column = (u32)(i - (u64)line * cols), request = line / rows, row = line % rows;
        float most = magnitudes[request * magnitudes_request + (u64)row * each + column / group];
        q[i] = quantise(x[request * x_request + (u64)row * cols + column], most);
    }
}

// Few rows: memory-bound (panels.cuh). All weights of a block are asked for before its activations are staged.
template <u32 TYPE, u32 M>
DEVICE void quantised_few(const Layer &layer, u32 panel, const i8 *q, const float *magnitudes, float *partials, u32 m, u32 k) {
    constexpr u32 EACH = 16, GROUP = TYPE == Q8_0 ? 32 : 128, GROUPS = BLOCK / GROUP, STEPS = BLOCK / EACH;
    SHARED ALIGNED(16) u32 activations[WARPS][M][BLOCK / 4];
    SHARED float own_scales[WARPS][M][GROUPS];
    u32 lane = lane_index(), warp = warp_index();
    u32 first_row = blockIdx.z * M, rows = m - first_row < M ? m - first_row : M;
    u32 steps = (k + EACH - 1) / EACH, blocks = (k + BLOCK - 1) / BLOCK, groups = (k + GROUP - 1) / GROUP;
    float *mine = own_partials<M>(partials, blocks);
    u32(*xs)[BLOCK / 4] = activations[warp];
    float(*ss)[GROUPS] = own_scales[warp];

    for (u32 block = blockIdx.y * WARPS + warp; block < blocks; block += gridDim.y * WARPS) {
        u32 start = block * BLOCK, length = k - start < BLOCK ? k - start : BLOCK;
        u32 some = (length + EACH - 1) / EACH, block_groups = (length + GROUP - 1) / GROUP;
        const u8 *weights = layer.w + (((u64)panel * steps + start / EACH) * PANEL + lane) * 16;
        Quad ahead[STEPS];
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) {
            ahead[i] = {{0, 0, 0, 0}};
            if (i < some) ahead[i] = stream16(weights + (u64)i * PANEL * 16);
        }
        __syncwarp(); // the activations of the block before have been read
        for (u32 row = 0; row < M; row++) {
            const i8 *source = q + (u64)(first_row + row) * k + start;
            // Bytes beyond the row are zero: a product of integers that adds nothing.
            u32 word = 0;
            if (k % 4 == 0) {
                if (row < rows && lane * 4 < length) word = ((const u32 *)source)[lane];
            } else {
                for (u32 byte = 0; byte < 4; byte++) {
                    u32 i = lane * 4 + byte;
                    if (row < rows && i < length) word |= (u32)(u8)source[i] << (8 * byte);
                }
            }
            xs[row][lane] = word;
            if (lane < GROUPS) {
                u64 at = (u64)(first_row + row) * groups + start / GROUP + lane;
                ss[row][lane] = row < rows && lane < block_groups ? div(magnitudes[at], 127.0f) : 0.0f;
            }
        }
        __syncwarp();

        float p[M];
#pragma unroll
        for (u32 row = 0; row < M; row++) p[row] = 0.0f;
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) {
            if (g < block_groups) {
                float scale = layer.scales[((u64)panel * groups + start / GROUP + g) * PANEL + lane];
#pragma unroll
                for (u32 row = 0; row < M; row++) {
                    i32 sum = 0;
#pragma unroll
                    for (u32 i = g * (GROUP / EACH); i < (g + 1) * (GROUP / EACH); i++) {
                        Quad x = *(const Quad *)&xs[row][i * 4];
#pragma unroll
                        for (u32 word = 0; word < 4; word++) sum = __dp4a((i32)x.word[word], (i32)ahead[i].word[word], sum);
                    }
                    p[row] = fma(from_i32(sum), mul(ss[row][g], scale), p[row]);
                }
            }
        }
#pragma unroll
        for (u32 row = 0; row < M; row++) mine[partial_at<M>(block, row)] = p[row];
    }

    if (last_of_panel(layer, panel)) add_partials<M>(layer, panel, mine, first_row, rows, blocks);
}

#define QUANTISED_FEW(name, type, rows)                                                                                   \
    KERNEL(name, 256, const i8 *q, const float *magnitudes, float *partials, u32 m, u32 k, LAYER_PARAMETERS(0),           \
           LAYER_PARAMETERS(1), LAYER_PARAMETERS(2)) {                                                                    \
        u32 panel;                                                                                                        \
        Layer layer = own_layer(LAYER(0), LAYER(1), LAYER(2), panel);                                                     \
        quantised_few<type, rows>(layer, panel, q, magnitudes, partials, m, k);                                           \
    }

QUANTISED_FEW(quantised_q8_0_1, Q8_0, 1)
QUANTISED_FEW(quantised_q8_0_2, Q8_0, 2)
QUANTISED_FEW(quantised_q8_0_4, Q8_0, 4)
QUANTISED_FEW(quantised_q8_0_8, Q8_0, 8)
QUANTISED_FEW(quantised_q8_128_1, Q8_128, 1)
QUANTISED_FEW(quantised_q8_128_2, Q8_128, 2)
QUANTISED_FEW(quantised_q8_128_4, Q8_128, 4)
QUANTISED_FEW(quantised_q8_128_8, Q8_128, 8)

// Many rows: int8 tensor cores. A block of 256 threads computes 128 rows x 128 outputs, a warp 64 x 32 of them, from 128
// columns at a time: exactly one block of the arithmetic, so a partial is finished and added before the next begins. The
// next 128 columns are on their way from memory meanwhile. Rows of activations are a multiple of 16 bytes.
//
// The integer accumulator starts at the bits of 1.5 * 2^23: as an f32 it is then 1.5 * 2^23 plus the sum, exactly, because
// the sum of at most 128 products is below 2^22 in magnitude; one subtraction gives the f32 that `from_i32` would.
template <u32 TYPE>
DEVICE void quantised_many(float *out, const i8 *q, const float *magnitudes, const u8 *w, const float *scales,
                           const float *bias, u32 m, u32 n, u32 k, u32 then) {
    constexpr u32 TILE = 128, GROUP = TYPE == Q8_0 ? 32 : 128, GROUPS = BLOCK / GROUP, STEPS = BLOCK / 16;
    constexpr i32 MAGIC = 0x4b400000;
    // [step of 16 columns][row]: the eight rows that a fragment needs lie side by side. One row more keeps the steps out
    // of each other's banks when rows are staged.
    SHARED ALIGNED(16) Quad left[STEPS][TILE + 1];
    SHARED ALIGNED(16) Quad right[STEPS][TILE];
    SHARED float left_scales[GROUPS][TILE], right_scales[GROUPS][TILE];
    u32 thread = threadIdx.x, lane = lane_index(), warp = warp_index();
    u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    u32 steps = (k + 15) / 16, groups = (k + GROUP - 1) / GROUP, blocks = (k + BLOCK - 1) / BLOCK;
    u32 panels = (n + PANEL - 1) / PANEL;
    u32 warp_row = warp / 4 * 64, warp_column = warp % 4 * 32, quad_row = lane / 4, quad_column = lane % 4;

    Quad xs[4], ws[4];
    float left_scale[2], right_scale[2];
    auto fetch = [&](u32 block) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 at = thread + i * 256, row = first_row + at / STEPS, step = block * STEPS + at % STEPS;
            xs[i] = {{0, 0, 0, 0}};
            if (row < m && step < steps) xs[i] = load16(q + (u64)row * k + step * 16);
            u32 panel = first_column / PANEL + at / (STEPS * PANEL), there = block * STEPS + at / PANEL % STEPS;
            ws[i] = {{0, 0, 0, 0}};
            if (panel < panels && there < steps) ws[i] = load16(w + (((u64)panel * steps + there) * PANEL + at % PANEL) * 16);
        }
#pragma unroll
        for (u32 i = 0; i < (GROUPS * TILE + 255) / 256; i++) {
            u32 at = thread + i * 256, group = block * GROUPS + at / TILE, row = first_row + at % TILE;
            u32 column = first_column + at % TILE;
            bool inside = at < GROUPS * TILE && group < groups;
            left_scale[i] = inside && row < m ? magnitudes[(u64)row * groups + group] : 0.0f;
            right_scale[i] = inside && column / PANEL < panels ? scales[scale_at(column, group, groups)] : 0.0f;
        }
    };
    auto stage = [&]() {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 at = thread + i * 256;
            left[at % STEPS][at / STEPS] = xs[i];
            right[at / PANEL % STEPS][at / (STEPS * PANEL) * PANEL + at % PANEL] = ws[i];
        }
#pragma unroll
        for (u32 i = 0; i < (GROUPS * TILE + 255) / 256; i++) {
            u32 at = thread + i * 256;
            if (at < GROUPS * TILE) {
                left_scales[at / TILE][at % TILE] = div(left_scale[i], 127.0f);
                right_scales[at / TILE][at % TILE] = right_scale[i];
            }
        }
    };

    // Of each of 4 x 4 tiles of 16 rows x 8 outputs a thread holds four elements: rows `quad_row` and 8 below, outputs
    // `2 * quad_column` and the next.
    float sum[4][4][4];
#pragma unroll
    for (u32 i = 0; i < 64; i++) sum[i / 16][i / 4 % 4][i % 4] = 0.0f;

    if (blocks > 0) fetch(0);
    for (u32 block = 0; block < blocks; block++) {
        __syncthreads(); // the block before has been multiplied
        stage();
        __syncthreads();
        if (block + 1 < blocks) fetch(block + 1);

        u32 block_groups = groups - block * GROUPS < GROUPS ? groups - block * GROUPS : GROUPS;
        // What all four tiles of 16 rows read of the weights is read once: shared memory is what limits this loop.
        u32 b[STEPS / 2][4][2];
#pragma unroll
        for (u32 pair = 0; pair < STEPS / 2; pair++) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                u32 column = warp_column + j * 8 + quad_row;
                b[pair][j][0] = right[2 * pair][column].word[quad_column];
                b[pair][j][1] = right[2 * pair + 1][column].word[quad_column];
            }
        }
#pragma unroll
        for (u32 tile = 0; tile < 4; tile++) {
            u32 row = warp_row + tile * 16 + quad_row;
            float p[4][4];
            i32 d[4][4];
#pragma unroll
            for (u32 i = 0; i < 16; i++) {
                p[i / 4][i % 4] = 0.0f;
                d[i / 4][i % 4] = MAGIC;
            }
#pragma unroll
            for (u32 pair = 0; pair < STEPS / 2; pair++) {
                u32 a[4] = {left[2 * pair][row].word[quad_column], left[2 * pair][row + 8].word[quad_column],
                            left[2 * pair + 1][row].word[quad_column], left[2 * pair + 1][row + 8].word[quad_column]};
#pragma unroll
                for (u32 j = 0; j < 4; j++) mma_i8(d[j], a, b[pair][j]);
                u32 group = pair * 32 / GROUP;
                if ((pair + 1) * 32 % GROUP == 0 && group < block_groups) {
                    float above = left_scales[group][row], below = left_scales[group][row + 8];
#pragma unroll
                    for (u32 j = 0; j < 4; j++) {
#pragma unroll
                        for (u32 i = 0; i < 4; i++) {
                            float weight = right_scales[group][warp_column + j * 8 + quad_column * 2 + i % 2];
                            float exact = sub(from_bits((u32)d[j][i]), from_bits((u32)MAGIC));
                            p[j][i] = fma(exact, mul(i < 2 ? above : below, weight), p[j][i]);
                            d[j][i] = MAGIC;
                        }
                    }
                }
            }
#pragma unroll
            for (u32 i = 0; i < 16; i++) sum[tile][i / 4][i % 4] = add(sum[tile][i / 4][i % 4], p[i / 4][i % 4]);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 64; i++) {
        u32 row = first_row + warp_row + i / 16 * 16 + quad_row + (i % 4 < 2 ? 0 : 8);
        u32 column = first_column + warp_column + i / 4 % 4 * 8 + quad_column * 2 + i % 2;
        if (row < m && column < n) {
            out[(u64)row * n + column] = finish(sum[i / 16][i / 4 % 4][i % 4], bias, column, then);
        }
    }
}

#define QUANTISED_MANY(name, type)                                                                                        \
    KERNEL(name, 256, float *out, const i8 *q, const float *magnitudes, const u8 *w, const float *scales,                 \
           const float *bias, u32 m, u32 n, u32 k, u32 then) {                                                            \
        quantised_many<type>(out, q, magnitudes, w, scales, bias, m, n, k, then);                                         \
    }

QUANTISED_MANY(quantised_q8_0_tile, Q8_0)
QUANTISED_MANY(quantised_q8_128_tile, Q8_128)

} // namespace arithmetic
