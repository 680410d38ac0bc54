// Tiles of contractions of f32 (C1, C2): 16 x 16 threads, each with A x B outputs, so 16 A rows x 16 B outputs. Columns go
// through shared memory 16 at a time, the next while the last are used; 16 divides 128, so a block of products never ends
// inside such a slice, and the chain of a block lives in registers from slice to slice. The last slice stops where the
// columns do: nothing is padded.
#pragma once

#include "arithmetic.cuh"

namespace arithmetic {

constexpr u32 SLICE = 16;

// Sixteen columns of 16 S rows or outputs in shared memory.
template <u32 S> using Side = float[SLICE][16 * S + 4];

// Where number `i` of a thread lies along a side of the tile: groups of four, so that four are loaded at once.
DEVICE u32 place(u32 thread, u32 i) { return i / 4 * 64 + thread * 4 + i % 4; }

// One product for each output of a thread, of a column of rows and a column of outputs.
template <u32 A, u32 B> DEVICE void multiply(float (&p)[A][B], const float *rows, const float *outputs) {
    float a[A], b[B];
#pragma unroll
    for (u32 i = 0; i < A; i += 4) {
        Quad quad = *(const Quad *)&rows[place(threadIdx.x / 16, i)];
#pragma unroll
        for (u32 j = 0; j < 4; j++) a[i + j] = from_bits(quad.word[j]);
    }
#pragma unroll
    for (u32 i = 0; i < B; i += 4) {
        Quad quad = *(const Quad *)&outputs[place(threadIdx.x % 16, i)];
#pragma unroll
        for (u32 j = 0; j < 4; j++) b[i + j] = from_bits(quad.word[j]);
    }
#pragma unroll
    for (u32 i = 0; i < A; i++) {
#pragma unroll
        for (u32 j = 0; j < B; j++) p[i][j] = fma(a[i], b[j], p[i][j]);
    }
}

// 16 S rows of f32 on their way into shared memory: a thread takes S consecutive columns of a row.
template <u32 S> struct Rows {
    const float *row; // none: there is no such row
    u32 columns;
    float x[S];

    // Which row is this thread's.
    static MEMBER u32 own() { return threadIdx.x / (SLICE / S); }
    static MEMBER u32 first() { return threadIdx.x % (SLICE / S) * S; }
    MEMBER void fetch(u32 slice) {
        u32 column = slice * SLICE + first();
        if (columns % 4 == 0) {
#pragma unroll
            for (u32 i = 0; i < S; i += 4) {
                Quad quad = {{0, 0, 0, 0}};
                if (row && column + i < columns) quad = load16(row + column + i);
#pragma unroll
                for (u32 j = 0; j < 4; j++) x[i + j] = from_bits(quad.word[j]);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < S; i++) x[i] = row && column + i < columns ? row[column + i] : 0.0f;
        }
    }
    MEMBER void stage(Side<S> &to) const {
#pragma unroll
        for (u32 i = 0; i < S; i++) to[first() + i][own()] = x[i];
    }
};

// The dot products of a tile over so many columns. `rows` and `outputs` fetch a slice and stage what they fetched.
template <u32 A, u32 B, class L, class R> DEVICE void contract(float (&sum)[A][B], L rows, R outputs, u32 columns) {
    SHARED ALIGNED(16) Side<A> left[2];
    SHARED ALIGNED(16) Side<B> right[2];
    float p[A][B];
#pragma unroll
    for (u32 i = 0; i < A * B; i++) sum[i / B][i % B] = p[i / B][i % B] = 0.0f;
    u32 slices = (columns + SLICE - 1) / SLICE;
    if (slices > 0) {
        rows.fetch(0);
        outputs.fetch(0);
    }
    for (u32 slice = 0; slice < slices; slice++) {
        u32 buffer = slice % 2;
        rows.stage(left[buffer]);
        outputs.stage(right[buffer]);
        __syncthreads();
        if (slice + 1 < slices) {
            rows.fetch(slice + 1);
            outputs.fetch(slice + 1);
        }
        if ((slice + 1) * SLICE <= columns) {
#pragma unroll
            for (u32 column = 0; column < SLICE; column++) multiply(p, left[buffer][column], right[buffer][column]);
        } else {
            for (u32 column = 0; column < columns - slice * SLICE; column++) {
                multiply(p, left[buffer][column], right[buffer][column]);
            }
        }
        if ((slice + 1) * SLICE % BLOCK == 0 || slice + 1 == slices) {
#pragma unroll
            for (u32 i = 0; i < A * B; i++) {
                sum[i / B][i % B] = add(sum[i / B][i % B], p[i / B][i % B]);
                p[i / B][i % B] = 0.0f;
            }
        }
    }
}

} // namespace arithmetic
