// How weights lie on the device: in panels of 32 rows (outputs), `[ceil(N / 32)][steps][32][16 bytes]`. A step is as many
// consecutive columns as sixteen bytes hold, so the 32 lanes of a warp, each with an output of its own, load 512
// consecutive bytes and walk the columns in the order that the arithmetic demands. What pads the last panel and the last
// step is zero and is never multiplied with a float.
#pragma once

#include "arithmetic.cuh"

// WeightType of the SDK.
enum Stored : u32 { F32 = 0, F16 = 1, BF16 = 2, Q8_0 = 3, Q8_128 = 4 };

constexpr u32 PANEL = 32;

template <u32 TYPE> struct Element;
template <> struct Element<F32> {
    static constexpr u32 PER_STEP = 4;
    static MEMBER float of(const Quad &quad, u32 i) { return arithmetic::from_bits(quad.word[i]); }
};
template <> struct Element<F16> {
    static constexpr u32 PER_STEP = 8;
    static MEMBER float of(const Quad &quad, u32 i) { return arithmetic::widen_f16((u16)(quad.word[i / 2] >> (i % 2 * 16))); }
};
template <> struct Element<BF16> {
    static constexpr u32 PER_STEP = 8;
    static MEMBER float of(const Quad &quad, u32 i) { return arithmetic::widen_bf16((u16)(quad.word[i / 2] >> (i % 2 * 16))); }
};

// Columns of a step.
DEVICE u32 per_step(u32 type) { return type == F32 ? 4 : type == F16 || type == BF16 ? 8 : 16; }

// Columns that share a scale.
DEVICE u32 group_of(u32 type) { return type == Q8_0 ? 32 : 128; }

// Byte at which element (row, column) of a packed weight with `cols` columns begins.
DEVICE u64 packed_at(u32 type, u32 row, u32 column, u32 cols) {
    u32 each = per_step(type), steps = (cols + each - 1) / each;
    u64 quad = ((u64)(row / PANEL) * steps + column / each) * PANEL + row % PANEL;
    return quad * 16 + column % each * (16 / each);
}

// Place of the scale of (row, group) among `[ceil(N / 32)][groups][32]`.
DEVICE u64 scale_at(u32 row, u32 group, u32 groups) { return ((u64)(row / PANEL) * groups + group) * PANEL + row % PANEL; }

// Element (row, column) as an f32, not yet canonical.
DEVICE float packed_element(const u8 *values, const float *scales, u32 type, u32 row, u32 column, u32 cols) {
    const u8 *at = values + packed_at(type, row, column, cols);
    switch (type) {
    case F32: return *(const float *)at;
    case F16: return arithmetic::widen_f16(*(const u16 *)at);
    case BF16: return arithmetic::widen_bf16(*(const u16 *)at);
    default: {
        u32 group = group_of(type);
        float scale = scales[scale_at(row, column / group, (cols + group - 1) / group)];
        return arithmetic::mul(arithmetic::from_i32(*(const i8 *)at), scale);
    }
    }
}
