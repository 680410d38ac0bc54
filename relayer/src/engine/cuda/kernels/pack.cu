// From the bytes of a weight, row after row, to the panels of weights.cuh. Nothing is rounded.
#include "weights.cuh"

// A thread to each sixteen bytes of panels. `raw` holds rows `first .. first + rows`, `first` a multiple of 32.
KERNEL(pack_floats, 256, Quad *out, const u8 *raw, u64 quads, u32 first, u32 rows, u32 cols, u32 type) {
    u32 each = per_step(type), size = 16 / each, steps = (cols + each - 1) / each;
    for (u64 i = first_index(); i < quads; i += index_step()) {
        u32 row = (u32)(i / PANEL / steps) * PANEL + (u32)(i % PANEL), column = (u32)(i / PANEL % steps) * each;
        Quad quad = {{0, 0, 0, 0}};
        for (u32 e = 0; e < each; e++) {
            if (row >= rows || column + e >= cols) continue;
            const u8 *at = raw + ((u64)row * cols + column + e) * size;
            if (size == 4) quad.word[e] = *(const u32 *)at;
            if (size == 2) quad.word[e / 2] |= (u32) * (const u16 *)at << (e % 2 * 16);
        }
        out[(u64)first * steps + i] = quad;
    }
}

// Bytes of a stored row of quantised weights.
DEVICE u64 row_bytes(u32 type, u32 cols) { return cols + (u64)((cols + group_of(type) - 1) / group_of(type)) * (type == Q8_0 ? 2 : 4); }

DEVICE u32 word_at(const u8 *bytes, u32 size) {
    u32 word = 0;
    for (u32 i = 0; i < size; i++) word |= (u32)bytes[i] << (8 * i); // stored rows begin anywhere
    return word;
}

// The same for quantised weights: bytes to panels, scales beside them, widened.
KERNEL(pack_quantised, 256, Quad *out, float *scales, const u8 *raw, u64 quads, u32 first, u32 rows, u32 cols, u32 type) {
    u32 group = group_of(type), scale_size = type == Q8_0 ? 2 : 4, steps = (cols + 15) / 16, groups = (cols + group - 1) / group;
    for (u64 i = first_index(); i < quads; i += index_step()) {
        u32 row = (u32)(i / PANEL / steps) * PANEL + (u32)(i % PANEL), column = (u32)(i / PANEL % steps) * 16;
        u32 block = column / group;
        const u8 *stored = raw + row * row_bytes(type, cols) + (u64)block * (group + scale_size);
        Quad quad = {{0, 0, 0, 0}};
        for (u32 e = 0; e < 16; e++) {
            if (row >= rows || column + e >= cols) continue;
            quad.word[e / 4] |= (u32)stored[scale_size + column % group + e] << (e % 4 * 8);
        }
        out[(u64)first * steps + i] = quad;
        if (column % group == 0) {
            u32 word = row < rows ? word_at(stored, scale_size) : 0;
            float scale = type == Q8_0 ? arithmetic::widen_f16((u16)word) : arithmetic::from_bits(word);
            scales[scale_at(first + row, block, groups)] = arithmetic::canonical(scale);
        }
    }
}

// Any element of a weight as an f32, row after row: for weights that other operations read.
KERNEL(widen_floats, 256, float *out, const u8 *raw, u64 count, u32 type) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        float x = type == F32   ? ((const float *)raw)[i]
                  : type == F16 ? arithmetic::widen_f16(((const u16 *)raw)[i])
                                : arithmetic::widen_bf16(((const u16 *)raw)[i]);
        out[i] = arithmetic::canonical(x);
    }
}

KERNEL(widen_quantised, 256, float *out, const u8 *raw, u64 count, u32 cols, u32 type) {
    u32 group = group_of(type), scale_size = type == Q8_0 ? 2 : 4;
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 row = (u32)(i / cols), column = (u32)(i - (u64)row * cols);
        const u8 *stored = raw + row * row_bytes(type, cols) + (u64)(column / group) * (group + scale_size);
        u32 word = word_at(stored, scale_size);
        float scale = type == Q8_0 ? arithmetic::widen_f16((u16)word) : arithmetic::from_bits(word);
        i32 q = (i8)stored[scale_size + column % group];
        out[i] = arithmetic::canonical(arithmetic::mul(arithmetic::from_i32(q), scale));
    }
}
