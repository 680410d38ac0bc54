// Merkle trees of traces (P-44 to P-54): a thread to each leaf, then to each pair, level by level.
#include "platform.cuh"

constexpr u32 RATE = 136;

DEVICE u64 rotate(u64 x, u32 by) { return by == 0 ? x : x << by | x >> (64 - by); }

// Keccak-f[1600].
DEVICE_CALL void permute(u64 (&s)[25]) {
    constexpr u64 ROUNDS[24] = {
        0x0000000000000001ull, 0x0000000000008082ull, 0x800000000000808aull, 0x8000000080008000ull, 0x000000000000808bull,
        0x0000000080000001ull, 0x8000000080008081ull, 0x8000000000008009ull, 0x000000000000008aull, 0x0000000000000088ull,
        0x0000000080008009ull, 0x000000008000000aull, 0x000000008000808bull, 0x800000000000008bull, 0x8000000000008089ull,
        0x8000000000008003ull, 0x8000000000008002ull, 0x8000000000000080ull, 0x000000000000800aull, 0x800000008000000aull,
        0x8000000080008081ull, 0x8000000000008080ull, 0x0000000080000001ull, 0x8000000080008008ull};
    constexpr u32 OFFSETS[25] = {0,  1,  62, 28, 27, 36, 44, 6,  55, 20, 3,  10, 43,
                                 25, 39, 41, 45, 15, 21, 8,  18, 2,  61, 56, 14};
    for (u32 round = 0; round < 24; round++) {
        u64 c[5], b[25];
#pragma unroll
        for (u32 x = 0; x < 5; x++) c[x] = s[x] ^ s[x + 5] ^ s[x + 10] ^ s[x + 15] ^ s[x + 20];
#pragma unroll
        for (u32 i = 0; i < 25; i++) {
            u64 lane = s[i] ^ c[(i + 4) % 5] ^ rotate(c[(i + 1) % 5], 1);
            b[i / 5 + (2 * (i % 5) + 3 * (i / 5)) % 5 * 5] = rotate(lane, OFFSETS[i]);
        }
#pragma unroll
        for (u32 i = 0; i < 25; i++) s[i] = b[i] ^ (~b[i / 5 * 5 + (i + 1) % 5] & b[i / 5 * 5 + (i + 2) % 5]);
        s[0] ^= ROUNDS[round];
    }
}

// Keccak-256 of `length` bytes; `byte(i)` is byte i.
template <class Byte> DEVICE void keccak256(u64 *digest, const Byte &byte, u32 length) {
    u64 state[25];
#pragma unroll
    for (u32 i = 0; i < 25; i++) state[i] = 0;
    u32 blocks = length / RATE + 1;
    for (u32 block = 0; block < blocks; block++) {
#pragma unroll
        for (u32 lane = 0; lane < RATE / 8; lane++) {
            u64 word = 0;
            for (u32 i = 0; i < 8; i++) {
                u32 at = block * RATE + lane * 8 + i;
                u64 value = at < length ? byte(at) : at == length ? 1 : 0;
                word |= value << (8 * i);
            }
            if (block + 1 == blocks && lane == RATE / 8 - 1) word |= 0x8000000000000000ull;
            state[lane] ^= word;
        }
        permute(state);
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) digest[i] = state[i];
}

// P-47, P-53: leaf `i` of rows of `row_bytes` bytes, `leaf_bytes` to a leaf, after the domain byte of a trace leaf.
KERNEL(hash_leaves, 128, u64 *digests, const u8 *data, u64 leaves, u32 per_row, u64 row_bytes, u32 leaf_bytes) {
    for (u64 leaf = (u64)blockIdx.x * blockDim.x + threadIdx.x; leaf < leaves; leaf += (u64)gridDim.x * blockDim.x) {
        u64 start = leaf % per_row * leaf_bytes, left = row_bytes - start;
        const u8 *bytes = data + leaf / per_row * row_bytes + start;
        u32 length = left < leaf_bytes ? (u32)left : leaf_bytes;
        keccak256(digests + 4 * leaf, [bytes](u32 i) { return i == 0 ? (u8)0x02 : bytes[i - 1]; }, length + 1);
    }
}

// P-45: parent `i` of two of `children`; the last of an odd level is paired with zeros.
KERNEL(hash_pairs, 128, u64 *parents, const u64 *digests, u64 children) {
    u64 count = (children + 1) / 2;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
        const u8 *pair = (const u8 *)(digests + 8 * i);
        u32 known = 2 * i + 1 < children ? 64 : 32;
        keccak256(parents + 4 * i, [pair, known](u32 at) { return at == 0 || at > known ? (u8)0 : pair[at - 1]; }, 65);
    }
}
