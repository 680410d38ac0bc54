//! Keccak-256 of several messages of one length at once, one message in each lane of a SIMD register.
//!
//! Hashing the weights of a model is what its import waits for, and leaves are independent: eight of them fill the
//! eight 64-bit lanes of an AVX-512 register, four those of an AVX2 register. Elsewhere messages are hashed one by one.

use alloy_primitives::B256;

use super::{Domain, hash};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::{
            __m256i, __m512i, _mm256_andnot_si256, _mm256_or_si256, _mm256_set1_epi64x, _mm256_sllv_epi64,
            _mm256_srlv_epi64, _mm256_xor_si256, _mm512_rolv_epi64, _mm512_set1_epi64, _mm512_ternarylogic_epi64,
            _mm512_xor_si512,
        },
        mem::transmute,
    };

    use super::{B256, Domain};

    /// Bytes absorbed between two permutations.
    const RATE: usize = 136;

    const ROUND_CONSTANTS: [u64; 24] = [
        0x0000_0000_0000_0001,
        0x0000_0000_0000_8082,
        0x8000_0000_0000_808a,
        0x8000_0000_8000_8000,
        0x0000_0000_0000_808b,
        0x0000_0000_8000_0001,
        0x8000_0000_8000_8081,
        0x8000_0000_0000_8009,
        0x0000_0000_0000_008a,
        0x0000_0000_0000_0088,
        0x0000_0000_8000_8009,
        0x0000_0000_8000_000a,
        0x0000_0000_8000_808b,
        0x8000_0000_0000_008b,
        0x8000_0000_0000_8089,
        0x8000_0000_0000_8003,
        0x8000_0000_0000_8002,
        0x8000_0000_0000_0080,
        0x0000_0000_0000_800a,
        0x8000_0000_8000_000a,
        0x8000_0000_8000_8081,
        0x8000_0000_0000_8080,
        0x0000_0000_8000_0001,
        0x8000_0000_8000_8008,
    ];

    /// Left rotation of lane `x + 5 y`.
    const ROTATIONS: [u32; 25] =
        [0, 1, 62, 28, 27, 36, 44, 6, 55, 20, 3, 10, 43, 25, 39, 41, 45, 15, 21, 8, 18, 2, 61, 56, 14];

    /// Defines `$name`, which hashes `$lanes` messages of one length, and the permutation under it. `$xor3` is the exclusive
    /// or of three vectors and `$chi` is `a ^ (!b & c)`; the loops have constant bounds and are unrolled.
    macro_rules! define_lanes {
        ($name:ident, $permute:ident, $lanes:literal, $feature:literal, $vector:ty, $splat:path, $xor:path, $xor3:expr,
     $chi:expr, $rotate:expr) => {
            #[target_feature(enable = $feature)]
            fn $permute(state: &mut [$vector; 25]) {
                for constant in ROUND_CONSTANTS {
                    // Theta
                    let mut parity = [$splat(0); 5];
                    for x in 0..5 {
                        let upper = $xor3(state[x], state[x + 5], state[x + 10]);
                        parity[x] = $xor3(upper, state[x + 15], state[x + 20]);
                    }
                    let mut mix = parity;
                    for x in 0..5 {
                        mix[x] = $xor(parity[(x + 4) % 5], $rotate(parity[(x + 1) % 5], 1));
                    }
                    // Rho and pi: lane (x, y) goes to (y, 2x + 3y).
                    let mut moved = *state;
                    for y in 0..5 {
                        for x in 0..5 {
                            let from = x + 5 * y;
                            moved[y + 5 * ((2 * x + 3 * y) % 5)] = $rotate($xor(state[from], mix[x]), ROTATIONS[from]);
                        }
                    }
                    // Chi
                    for y in 0..5 {
                        for x in 0..5 {
                            let (b, c) = (moved[(x + 1) % 5 + 5 * y], moved[(x + 2) % 5 + 5 * y]);
                            state[x + 5 * y] = $chi(moved[x + 5 * y], b, c);
                        }
                    }
                    // Iota
                    state[0] = $xor(state[0], $splat(constant as i64));
                }
            }

            #[target_feature(enable = $feature)]
            fn $name(domain: Domain, messages: &[&[u8]; $lanes]) -> [B256; $lanes] {
                let mut state = [$splat(0); 25];
                let mut block = [[0u8; RATE]; $lanes];
                for number in 0..blocks(messages[0].len()) {
                    for (block, message) in block.iter_mut().zip(messages) {
                        fill(block, number, domain, message);
                    }
                    for (i, word) in state.iter_mut().take(RATE / 8).enumerate() {
                        let mut lanes = [0u64; $lanes];
                        for (lane, block) in lanes.iter_mut().zip(&block) {
                            let bytes = block[8 * i..].first_chunk().expect("a block is a whole number of words");
                            *lane = u64::from_le_bytes(*bytes);
                        }
                        // SAFETY: an array of as many u64 as the vector has lanes; any bits are a vector.
                        *word = $xor(*word, unsafe { transmute::<[u64; $lanes], $vector>(lanes) });
                    }
                    $permute(&mut state);
                }
                let mut digests = [[0u8; 32]; $lanes];
                for (i, word) in state.iter().take(4).enumerate() {
                    // SAFETY: as above, the other way.
                    let lanes = unsafe { transmute::<$vector, [u64; $lanes]>(*word) };
                    for (digest, lane) in digests.iter_mut().zip(lanes) {
                        digest[8 * i..8 * i + 8].copy_from_slice(&lane.to_le_bytes());
                    }
                }
                digests.map(B256::new)
            }
        };
    }

    /// Blocks that a message takes with its domain byte and at least one byte of padding.
    fn blocks(length: usize) -> usize {
        (length + 1) / RATE + 1
    }

    /// Block `number` of the domain byte, the message and the padding.
    #[inline]
    fn fill(block: &mut [u8; RATE], number: usize, domain: Domain, message: &[u8]) {
        // The message starts at byte 1 of what is absorbed.
        let from = (number * RATE).max(1) - 1;
        let to = ((number + 1) * RATE - 1).min(message.len());
        let at = from + 1 - number * RATE;
        block[0] = domain as u8;
        let part = message.get(from..to).unwrap_or_default();
        block[at..at + part.len()].copy_from_slice(part);
        let padding = &mut block[at + part.len()..];
        if let Some(first) = padding.first_mut() {
            *first = 0x01;
            padding[1..].fill(0);
            block[RATE - 1] |= 0x80;
        }
    }

    define_lanes!(
        hash_eight,
        permute_eight,
        8,
        "avx512f",
        __m512i,
        _mm512_set1_epi64,
        _mm512_xor_si512,
        |a, b, c| _mm512_ternarylogic_epi64::<0x96>(a, b, c),
        |a, b, c| _mm512_ternarylogic_epi64::<0xd2>(a, b, c),
        |x, by: u32| _mm512_rolv_epi64(x, _mm512_set1_epi64(i64::from(by)))
    );

    define_lanes!(
        hash_four,
        permute_four,
        4,
        "avx2",
        __m256i,
        _mm256_set1_epi64x,
        _mm256_xor_si256,
        |a, b, c| _mm256_xor_si256(_mm256_xor_si256(a, b), c),
        |a, b, c| _mm256_xor_si256(a, _mm256_andnot_si256(b, c)),
        |x, by: u32| {
            let (left, right) = (_mm256_set1_epi64x(i64::from(by)), _mm256_set1_epi64x(64 - i64::from(by)));
            // A shift by 64 gives 0, as a rotation by 0 needs.
            _mm256_or_si256(_mm256_sllv_epi64(x, left), _mm256_srlv_epi64(x, right))
        }
    );

    /// Hashes eight messages of one length, on a processor that has AVX-512F.
    pub(super) fn eight(domain: Domain, messages: &[&[u8]; 8]) -> Option<[B256; 8]> {
        // SAFETY: the processor has what the function needs.
        is_x86_feature_detected!("avx512f").then(|| unsafe { hash_eight(domain, messages) })
    }

    /// Hashes four messages of one length, on a processor that has AVX2.
    pub(super) fn four(domain: Domain, messages: &[&[u8]; 4]) -> Option<[B256; 4]> {
        // SAFETY: the processor has what the function needs.
        is_x86_feature_detected!("avx2").then(|| unsafe { hash_four(domain, messages) })
    }
}

/// Hashes messages of one length, each with the domain byte before it, and hands over the hashes in order. Messages of
/// different lengths are hashed one by one.
pub(super) fn hash_all(domain: Domain, messages: &[&[u8]], mut visit: impl FnMut(B256)) {
    let mut rest = messages;
    #[cfg(target_arch = "x86_64")]
    if messages.iter().all(|message| message.len() == messages[0].len()) {
        while let Some((group, after)) = rest.split_first_chunk::<8>() {
            let Some(hashes) = x86::eight(domain, group) else { break };
            hashes.into_iter().for_each(&mut visit);
            rest = after;
        }
        while let Some((group, after)) = rest.split_first_chunk::<4>() {
            let Some(hashes) = x86::four(domain, group) else { break };
            hashes.into_iter().for_each(&mut visit);
            rest = after;
        }
    }
    rest.iter().for_each(|message| visit(hash(domain, &[message])));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every padding case, against the one-message hasher.
    #[test]
    fn lanes_hash_like_one() {
        for length in (0..140).chain([255, 256, 270, 271, 272, 273, 511, 512, 513, 543, 544, 545]) {
            let messages: Vec<Vec<u8>> =
                (0..13u8).map(|l| (0..length).map(|i| l.wrapping_mul(37) ^ (i as u8)).collect()).collect();
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let expected: Vec<B256> = slices.iter().map(|m| hash(Domain::WeightLeaf, &[m])).collect();
            // 13 are eight, four and one; 4 and 3 leave the wider vectors out.
            for count in [13, 4, 3, 0] {
                let mut hashes = Vec::new();
                hash_all(Domain::WeightLeaf, &slices[..count], |hash| hashes.push(hash));
                assert_eq!(hashes, expected[..count], "{count} messages of {length} bytes");
            }
        }
    }

    #[test]
    fn messages_of_different_lengths_too() {
        let messages: Vec<Vec<u8>> = (0..20).map(|n| vec![n; usize::from(n % 7) * 50]).collect();
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let mut hashes = Vec::new();
        hash_all(Domain::TraceLeaf, &slices, |hash| hashes.push(hash));
        let expected: Vec<B256> = slices.iter().map(|m| hash(Domain::TraceLeaf, &[m])).collect();
        assert_eq!(hashes, expected);
    }
}
