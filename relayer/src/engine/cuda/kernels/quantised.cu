// Quantised activations, and their contractions of few rows (Q1 to Q6); those of many rows are in quantised_tiles.cu. The
// integer sum of a group is exact, so any instruction may compute it in any order; what follows it is three operations on
// f32 in the order of Q6, and the partials of 128 are added in ascending order.
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

} // namespace arithmetic
