// Quantised contractions of many rows (Q1 to Q6), on the int8 tensor cores. One trip of the loop is exactly one block of 128
// columns of the arithmetic: its integer sums are exact in any order, its partial is finished by three operations on f32 in
// the order of Q6, and added, before the next begins. Rows of activations are a multiple of 16 bytes.
//
// What bounds such a loop on large GPUs is, close to each other, the matrix instruction, the four operations on f32 for each
// output and block, shared memory, and the cache that tiles come from. So a warp computes 64 outputs of up to 64 rows, which
// reads each byte of shared memory once for all of them; tiles are as large as registers allow; and the blocks that follow
// are on their way into shared memory, past the registers, while one is multiplied.
#include "bands.cuh"
#include "weights.cuh"

namespace arithmetic {

constexpr u32 STEPS = BLOCK / 16;
// Outputs of a warp, and tiles of 8 outputs in them, as the matrix instruction has them.
constexpr u32 WIDE = 64, EIGHTS = WIDE / 8;

// A block of 128 columns in shared memory.
template <u32 ROWS, u32 OUTPUTS, u32 GROUPS> struct ALIGNED(16) Stage {
    // Step `s` of row `r` is at [r][s ^ r % 8]: neither eight rows of a step, which the matrix instruction is given, nor
    // eight steps of a row, which a copy brings, share a bank.
    Quad left[ROWS][STEPS];
    // As in memory.
    Quad right[OUTPUTS / PANEL][STEPS][PANEL];
    float right_scales[OUTPUTS / PANEL][GROUPS][PANEL];
    float left_scales[GROUPS][ROWS];
};

// Two warps one below the other and `ACROSS` beside each other, each with `TALL` tiles of 16 rows. `AHEAD` blocks are on
// their way while one is multiplied.
//
// The integer accumulator starts at the bits of 1.5 * 2^23: as an f32 it is then 1.5 * 2^23 plus the sum, exactly, because
// the sum of at most 128 products is below 2^22 in magnitude; one subtraction gives the f32 that `from_i32` would.
template <u32 TYPE, u32 TALL, u32 ACROSS, u32 AHEAD>
DEVICE void quantised_many(float *out, const i8 *q, const float *magnitudes, const u8 *w, const float *scales,
                           const float *bias, u32 m, u32 n, u32 k, u32 then) {
    constexpr u32 THREADS = 2 * ACROSS * WARP, ROWS = 2 * TALL * 16, OUTPUTS = ACROSS * WIDE;
    constexpr u32 GROUP = TYPE == Q8_0 ? 32 : 128, GROUPS = BLOCK / GROUP, STAGES = AHEAD + 1;
    constexpr i32 MAGIC = 0x4b400000;
    static_assert(ROWS <= THREADS, "a thread has the scales of a row");
    typedef Stage<ROWS, OUTPUTS, GROUPS> Block;
    Block *stages = launch_shared<Block, STAGES>();
    u32 thread = threadIdx.x, lane = lane_index(), warp = warp_index();
    u32 steps = (k + 15) / 16, groups = (k + GROUP - 1) / GROUP, blocks = (k + BLOCK - 1) / BLOCK;
    u32 panels = (n + PANEL - 1) / PANEL;

    u32 first_row, first_output;
    own_tile<ROWS, OUTPUTS>(m, n, first_row, first_output);

    // What a thread copies of a block: a step of every `THREADS / STEPS`th row, one step or two of each panel of weights, and
    // four of their scales. The addresses walk along from block to block.
    static_assert(OUTPUTS * GROUPS / 4 <= THREADS && STEPS * PANEL % THREADS == 0, "no thread has more");
    u32 first_panel = first_output / PANEL, panels_left = panels - first_panel;
    u32 copy_row = thread / STEPS, copy_step = thread % STEPS, rows_there = 0;
#pragma unroll
    for (u32 i = 0; i < ROWS * STEPS / THREADS; i++) {
        rows_there |= (u32)(first_row + copy_row + i * (THREADS / STEPS) < m) << i;
    }
    u32 scale_panel = 4 * thread / (GROUPS * PANEL), scale_group = 4 * thread / PANEL % GROUPS, scale_lane = 4 * thread % PANEL;
    bool has_scales = 4 * thread < OUTPUTS * GROUPS, scales_there = scale_panel < panels_left;
    const i8 *left_from = q + (u64)(first_row + copy_row) * k + copy_step * 16;
    const u8 *right_from = w + (((u64)first_panel * steps + warp) * PANEL + lane) * 16;
    const float *scales_from = scales + ((u64)(first_panel + scale_panel) * groups + scale_group) * PANEL + scale_lane;
    u64 row_step = (u64)(THREADS / STEPS) * k, panel_step = (u64)steps * PANEL * 16;
    auto fetch = [&](u32 block) {
        Block &stage = stages[block % STAGES];
        u32 steps_left = steps - block * STEPS;
        u32 there = copy_step < steps_left ? rows_there : 0;
        const i8 *row = left_from;
#pragma unroll
        for (u32 i = 0; i < ROWS * STEPS / THREADS; i++) {
            copy16(&stage.left[copy_row + i * (THREADS / STEPS)][copy_step ^ copy_row % STEPS], row, there >> i & 1);
            row += row_step;
        }
        const u8 *panel = right_from;
#pragma unroll
        for (u32 i = 0; i < OUTPUTS / PANEL; i++) {
#pragma unroll
            for (u32 first = 0; first < STEPS; first += THREADS / WARP) {
                bool inside = i < panels_left && first + warp < steps_left;
                copy16(&stage.right[i][first + warp][lane], panel + first * PANEL * 16, inside);
            }
            panel += panel_step;
        }
        if (has_scales) {
            bool inside = scales_there && (GROUPS == 1 || block * GROUPS + scale_group < groups);
            copy16(&stage.right_scales[scale_panel][scale_group][scale_lane], scales_from, inside);
        }
        left_from += BLOCK;
        right_from += STEPS * PANEL * 16;
        scales_from += GROUPS * PANEL;
    };
    // The magnitudes of a thread's row become scales on their way, so they pass through registers.
    bool has_row = thread < ROWS && first_row + thread < m;
    const float *magnitudes_from = magnitudes + (u64)(first_row + thread) * groups;
    float mine[GROUPS];
    auto load_magnitudes = [&](u32 block) {
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) {
            bool there = has_row && (GROUPS == 1 || block * GROUPS + g < groups);
            mine[g] = there ? magnitudes_from[block * GROUPS + g] : 0.0f;
        }
    };

    // Of each of TALL x 8 tiles of 16 rows x 8 outputs a thread holds four elements: rows `quad_row` and 8 below, outputs
    // `2 * quad_column` and the next.
    u32 warp_row = warp % 2 * TALL * 16, warp_panel = warp / 2 * (WIDE / PANEL);
    u32 quad_row = lane / 4, quad_column = lane % 4;
    float sum[TALL][EIGHTS][4];
#pragma unroll
    for (u32 i = 0; i < TALL * EIGHTS * 4; i++) sum[i / (EIGHTS * 4)][i / 4 % EIGHTS][i % 4] = 0.0f;

#pragma unroll
    for (u32 block = 0; block < AHEAD; block++) {
        if (block < blocks) fetch(block);
        end_copies();
    }
    load_magnitudes(0);
    for (u32 block = 0; block < blocks; block++) {
        Block &stage = stages[block % STAGES];
        if (thread < ROWS) {
#pragma unroll
            for (u32 g = 0; g < GROUPS; g++) stage.left_scales[g][thread] = div(mine[g], 127.0f);
        }
        wait_for_copies<AHEAD - 1>();
        // What all threads copied is there, and the block before has been multiplied: its place is free.
        __syncthreads();
        if (block + AHEAD < blocks) fetch(block + AHEAD);
        end_copies();
        if (block + 1 < blocks) load_magnitudes(block + 1);

        u32 a[TALL][STEPS / 2][4];
#pragma unroll
        for (u32 tile = 0; tile < TALL; tile++) {
#pragma unroll
            for (u32 pair = 0; pair < STEPS / 2; pair++) {
                u32 row = warp_row + tile * 16 + lane % 16, step = 2 * pair + lane / 16;
                load_matrices(a[tile][pair], &stage.left[row][step ^ lane % 8]);
            }
        }
        auto left_scale = [&](u32 group, u32 tile, u32 below) {
            return stage.left_scales[group][warp_row + tile * 16 + quad_row + 8 * below];
        };
        float row_scales[TALL][2]; // of the one group, if there is one
#pragma unroll
        for (u32 i = 0; i < 2 * TALL; i++) row_scales[i / 2][i % 2] = left_scale(0, i / 2, i % 2);
        u32 block_groups = groups - block * GROUPS < GROUPS ? groups - block * GROUPS : GROUPS;
#pragma unroll
        for (u32 eight = 0; eight < EIGHTS; eight++) {
            u32 panel = warp_panel + eight / 4, column = eight % 4 * 8;
            u32 b[STEPS];
#pragma unroll
            for (u32 step = 0; step < STEPS; step += 4) {
                load_matrices(b + step, &stage.right[panel][step + lane / 8][column + lane % 8]);
            }
            float p[TALL][4];
            i32 d[TALL][4];
#pragma unroll
            for (u32 i = 0; i < TALL * 4; i++) {
                p[i / 4][i % 4] = 0.0f;
                d[i / 4][i % 4] = MAGIC;
            }
#pragma unroll
            for (u32 pair = 0; pair < STEPS / 2; pair++) {
#pragma unroll
                for (u32 tile = 0; tile < TALL; tile++) mma_i8(d[tile], a[tile][pair], b + 2 * pair);
                u32 group = pair * 32 / GROUP;
                if ((pair + 1) * 32 % GROUP != 0 || (GROUPS > 1 && group >= block_groups)) continue;
                const float *weight = &stage.right_scales[panel][group][column + quad_column * 2];
#pragma unroll
                for (u32 tile = 0; tile < TALL; tile++) {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        float row_scale = GROUPS == 1 ? row_scales[tile][i / 2] : left_scale(group, tile, i / 2);
                        float exact = sub(from_bits((u32)d[tile][i]), from_bits((u32)MAGIC));
                        p[tile][i] = fma(exact, mul(row_scale, weight[i % 2]), p[tile][i]);
                        d[tile][i] = MAGIC;
                    }
                }
            }
#pragma unroll
            for (u32 i = 0; i < TALL * 4; i++) {
                float &total = sum[i / 4][eight][i % 4];
                total = add(total, p[i / 4][i % 4]);
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < TALL * EIGHTS * 4; i++) {
        u32 row = first_row + warp_row + i / (EIGHTS * 4) * 16 + quad_row + (i % 4 < 2 ? 0 : 8);
        u32 column = first_output + warp_panel * PANEL + i / 4 % EIGHTS * 8 + quad_column * 2 + i % 2;
        if (row < m && column < n) {
            out[(u64)row * n + column] = finish(sum[i / (EIGHTS * 4)][i / 4 % EIGHTS][i % 4], bias, column, then);
        }
    }
}

#define QUANTISED_MANY(name, threads, type, tall, across, ahead)                                                          \
    KERNEL(name, threads, float *out, const i8 *q, const float *magnitudes, const u8 *w, const float *scales,             \
           const float *bias, u32 m, u32 n, u32 k, u32 then) {                                                            \
        quantised_many<type, tall, across, ahead>(out, q, magnitudes, w, scales, bias, m, n, k, then);                    \
    }

// Tiles of 64 x 128, 128 x 128 and 128 x 256. A binary with groups of 32 is not bound by copies, and its stages are larger.
QUANTISED_MANY(quantised_q8_0_tile64, 128, Q8_0, 2, 2, 1)
QUANTISED_MANY(quantised_q8_0_tile128, 128, Q8_0, 4, 2, 1)
QUANTISED_MANY(quantised_q8_0_tile256, 256, Q8_0, 4, 4, 1)
QUANTISED_MANY(quantised_q8_128_tile64, 128, Q8_128, 2, 2, 2)
QUANTISED_MANY(quantised_q8_128_tile128, 128, Q8_128, 4, 2, 2)
QUANTISED_MANY(quantised_q8_128_tile256, 256, Q8_128, 4, 4, 2)

} // namespace arithmetic
