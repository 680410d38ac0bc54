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

// Keccak-256 of the byte `domain` and `length` bytes after it. `word(i)` is eight of those bytes from `8 i` on, the first in
// the low bits; those beyond the end are zero.
template <class Word> DEVICE void keccak256(u64 *digest, u8 domain, const Word &word, u32 length) {
    u64 state[25];
#pragma unroll
    for (u32 i = 0; i < 25; i++) state[i] = 0;
    u32 end = length + 1, blocks = end / RATE + 1; // where the padding begins
    u64 carry = domain;                            // one byte of the message lies before each word
    for (u32 block = 0; block < blocks; block++) {
#pragma unroll
        for (u32 lane = 0; lane < RATE / 8; lane++) {
            u32 at = block * (RATE / 8) + lane;
            u64 next = word(at);
            u64 absorbed = carry | next << 8;
            carry = next >> 56;
            if (at == end / 8) absorbed |= 1ull << (end % 8 * 8);
            if (block + 1 == blocks && lane == RATE / 8 - 1) absorbed |= 0x8000000000000000ull;
            state[lane] ^= absorbed;
        }
        permute(state);
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) digest[i] = state[i];
}

// P-47, P-53: leaf `i` of rows of `row_bytes` bytes, `leaf_bytes` to a leaf, after the domain byte of a trace leaf. Elements
// of four bytes are read as such.
KERNEL(hash_leaves, 128, u64 *digests, const u8 *data, u64 leaves, u32 per_row, u64 row_bytes, u32 leaf_bytes) {
    bool whole = row_bytes % 4 == 0 && leaf_bytes % 4 == 0 && (u64)data % 4 == 0;
    for (u64 leaf = first_index(); leaf < leaves; leaf += index_step()) {
        u64 start = leaf % per_row * leaf_bytes, left = row_bytes - start;
        const u8 *bytes = data + leaf / per_row * row_bytes + start;
        u32 length = left < leaf_bytes ? (u32)left : leaf_bytes;
        if (whole) {
            const u32 *words = (const u32 *)bytes;
            u32 count = length / 4;
            auto word = [words, count](u32 i) {
                u64 low = 2 * i < count ? words[2 * i] : 0, high = 2 * i + 1 < count ? words[2 * i + 1] : 0;
                return low | high << 32;
            };
            keccak256(digests + 4 * leaf, 0x02, word, length);
        } else {
            auto word = [bytes, length](u32 i) {
                u64 all = 0;
                for (u32 byte = 0; byte < 8; byte++) {
                    u64 value = 8 * i + byte < length ? bytes[8 * i + byte] : 0;
                    all |= value << (8 * byte);
                }
                return all;
            };
            keccak256(digests + 4 * leaf, 0x02, word, length);
        }
    }
}

// P-45: parent `i` of two of `children`; the last of an odd level is paired with zeros.
KERNEL(hash_pairs, 128, u64 *parents, const u64 *digests, u64 children) {
    u64 count = (children + 1) / 2;
    for (u64 i = first_index(); i < count; i += index_step()) {
        const u64 *pair = digests + 8 * i;
        u32 known = 2 * i + 1 < children ? 8 : 4;
        keccak256(parents + 4 * i, 0x00, [pair, known](u32 at) { return at < known ? pair[at] : 0; }, 64);
    }
}
