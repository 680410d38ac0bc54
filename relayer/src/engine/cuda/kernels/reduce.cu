// Reductions of rows and the norms. The order of a sum is that of R1, which is a warp's own: see rows.cuh.
#include "groups.cuh"
#include "rows.cuh"

namespace arithmetic {

template <u32 KIND, bool WIDE>
DEVICE void reduce(float *out, const float *x, u32 lines, u32 rows, u32 cols, u32 causal, float (&partials)[1024]) {
    // A warp to each row, or a block if rows are long.
    u32 each = WIDE ? 1 : blockDim.x / WARP;
    u32 line = blockIdx.x * each + (WIDE ? 0 : warp_index());
    if (line >= lines) return; // whole warps, or the whole block
    const float *row = x + (u64)line * cols;
    u32 length = extent(causal, line % rows, cols);
    auto element = [row](u32 i) { return row[i]; };
    float result = WIDE ? reduce_by_block<KIND>(element, length, partials) : reduce_by_warp<KIND>(element, length);
    if (WIDE ? threadIdx.x == 0 : lane_index() == 0) out[line] = canonical(result);
}

template <bool WIDE>
DEVICE void reduce_any(float *out, const float *x, u32 lines, u32 rows, u32 cols, u32 causal, u32 kind,
                       float (&partials)[1024]) {
    if (kind == SUM) reduce<SUM, WIDE>(out, x, lines, rows, cols, causal, partials);
    if (kind == SUM_SQUARES) reduce<SUM_SQUARES, WIDE>(out, x, lines, rows, cols, causal, partials);
    if (kind == MAXIMUM) reduce<MAXIMUM, WIDE>(out, x, lines, rows, cols, causal, partials);
}

KERNEL(reduce_narrow, 256, float *out, const float *x, u32 lines, u32 rows, u32 cols, u32 causal, u32 kind) {
    SHARED float unused[1024];
    reduce_any<false>(out, x, lines, rows, cols, causal, kind, unused);
}

KERNEL(reduce_wide, 512, float *out, const float *x, u32 lines, u32 rows, u32 cols, u32 causal, u32 kind) {
    SHARED float partials[1024];
    reduce_any<true>(out, x, lines, rows, cols, causal, kind, partials);
}

// R4. Threads look at columns of their own, then the best of each are compared. Equal ranks are decided by the index, so
// the result does not depend on who meets whom when.
KERNEL(argmax_rows, 1024, u32 *out, const float *x, u32 cols) {
    SHARED i32 ranks[1024];
    SHARED u32 indices[1024];
    const float *row = x + (u64)blockIdx.x * cols;
    i32 best = (i32)0x80000000;
    u32 index = 0xffffffffu;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        i32 mine = rank(row[i]);
        if (index == 0xffffffffu || mine > best) {
            best = mine;
            index = i;
        }
    }
    ranks[threadIdx.x] = best;
    indices[threadIdx.x] = index;
    __syncthreads();
    for (u32 s = blockDim.x / 2; s > 0; s /= 2) {
        if (threadIdx.x < s) {
            i32 other = ranks[threadIdx.x + s];
            u32 place = indices[threadIdx.x + s];
            if (other > ranks[threadIdx.x] || (other == ranks[threadIdx.x] && place < indices[threadIdx.x])) {
                ranks[threadIdx.x] = other;
                indices[threadIdx.x] = place;
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = indices[0];
}

// The number that a row is scaled by (N3), from its sum of squares.
DEVICE float inverse_deviation(float squares, u32 cols, float epsilon) {
    return rsqrt(add(div(squares, from_u32(cols)), epsilon));
}

// A row of what is normed: that of `x`, or with `y` the sum of both, which `sum` gets.
struct Normed {
    bool two;
    const float *x, *y;
    float *sum;

    MEMBER Normed(const float *x, const float *y, float *sum, u32 cols)
        : two(y), x(x + (u64)blockIdx.x * cols), y((y ? y : x) + (u64)blockIdx.x * cols), sum(sum + (u64)blockIdx.x * cols) {}
    // Without a branch, so that many elements can be asked for at once.
    MEMBER float at(u32 i) const {
        float a = x[i], b = y[i];
        return two ? canonical(add(a, b)) : a;
    }
    // The end of it: `result` is column `i` of the row of `out`.
    MEMBER void keep(float *out, u32 cols, u32 i, float result) const {
        out[(u64)blockIdx.x * cols + i] = result;
        if (two) sum[i] = at(i);
    }
};

// N3, one block to a row.
KERNEL(rms_norm, 1024, float *out, float *sum, const float *x, const float *y, const float *weight, u32 cols, float epsilon,
       GROUP_PARAMETERS) {
    SHARED float partials[1024];
    Normed row(x, y, sum, cols);
    auto element = [&row](u32 i) { return row.at(i); };
    float r = inverse_deviation(reduce_by_block<SUM_SQUARES>(element, cols, partials), cols, epsilon);
    auto normed = [&](u32 i) { return canonical(mul(mul(row.at(i), r), weight[i])); };
    GROUPS(cols).make_all(blockIdx.x, 0, cols, normed, [&](u32 i, float result) { row.keep(out, cols, i, result); });
}

// N4, one block to a row. The centred row is computed anew where it is needed: the same bits each time.
KERNEL(layer_norm, 1024, float *out, float *sum, const float *x, const float *y, const float *weight, const float *bias,
       u32 cols, float epsilon, GROUP_PARAMETERS) {
    SHARED float partials[1024];
    Normed row(x, y, sum, cols);
    float mean = div(reduce_by_block<SUM>([&row](u32 i) { return row.at(i); }, cols, partials), from_u32(cols));
    auto centred = [&row, mean](u32 i) { return sub(row.at(i), mean); };
    float r = inverse_deviation(reduce_by_block<SUM_SQUARES>(centred, cols, partials), cols, epsilon);
    auto normed = [&](u32 i) { return canonical(fma(mul(centred(i), r), weight[i], bias[i])); };
    GROUPS(cols).make_all(blockIdx.x, 0, cols, normed, [&](u32 i, float result) { row.keep(out, cols, i, result); });
}

// N1, one block to a row.
KERNEL(softmax, 512, float *out, const float *x, u32 cols) {
    SHARED float partials[1024];
    const float *row = x + (u64)blockIdx.x * cols;
    float *result = out + (u64)blockIdx.x * cols;
    float most = reduce_by_block<MAXIMUM>([row](u32 i) { return row[i]; }, cols, partials);
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) result[i] = exp(sub(row[i], most));
    __syncthreads();
    float sum = reduce_by_block<SUM>([result](u32 i) { return result[i]; }, cols, partials);
    __syncthreads();
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) result[i] = canonical(div(result[i], sum));
}

} // namespace arithmetic
