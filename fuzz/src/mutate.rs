//! Changes of inputs: of bytes, and of the tokens of a text.

/// A small generator, so that a run repeats.
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below a bound that is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Numbers at which parsers go wrong.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Tokens at which parsers of JSON go wrong.
const TOKENS: [&str; 24] = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1e400",
    "1e-400",
    "4294967295",
    "4294967296",
    "2147483648",
    "9223372036854775808",
    "18446744073709551616",
    "null",
    "true",
    "false",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "[1]",
    "[[[[]]]]",
    "{\"a\":1}",
    "\"\\ud800\"",
    "3.0000001",
];

/// A changed input.
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>], text: bool) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    for _ in 0..=random.below(4) {
        if text && random.below(4) > 0 {
            token(random, &mut input);
        } else {
            byte(random, &mut input, corpus);
        }
    }
    input
}

fn byte(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    // Headers are where files lie: half of all changes are near the start.
    let span = if random.below(2) == 0 { input.len().min(1024) } else { input.len() };
    let at = random.below(span.max(1));
    match random.below(9) {
        0 | 1 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        2 if !input.is_empty() => input[at] = random.bits() as u8,
        3 => input.truncate(at),
        4 => {
            let end = (at + 1 + random.below(16)).min(input.len());
            input.drain(at.min(end)..end);
        }
        5 => {
            let count = 1 + random.below(8);
            let new: Vec<u8> = (0..count).map(|_| random.bits() as u8).collect();
            let at = at.min(input.len());
            input.splice(at..at, new);
        }
        6 => {
            let value = random.pick(&NUMBERS).to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            for (place, byte) in input.iter_mut().skip(at).zip(&value[..width]) {
                *place = *byte;
            }
        }
        7 => {
            // A part of itself once more.
            let end = (at + random.below(64)).min(input.len());
            let part = input[at.min(end)..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, part);
        }
        _ => {
            let other = random.pick(corpus);
            let from = random.below(other.len().max(1));
            let end = (from + random.below(128)).min(other.len());
            let at = at.min(input.len());
            let until = (at + end - from.min(end)).min(input.len());
            input.splice(at..until, other[from.min(end)..end].to_vec());
        }
    }
}

/// Replaces, removes or repeats one token of a JSON text: a number, a word, a string, or a bracket.
fn token(random: &mut Random, input: &mut Vec<u8>) {
    let mut tokens: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let start = at;
        match input[at] {
            b'"' => {
                at += 1;
                while at < input.len() && input[at] != b'"' {
                    at += if input[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(input.len());
            }
            b if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.') => {
                while at < input.len() && (input[at].is_ascii_alphanumeric() || matches!(input[at], b'-' | b'+' | b'.'))
                {
                    at += 1;
                }
            }
            b if b.is_ascii_whitespace() || matches!(b, b',' | b':') => {
                at += 1;
                continue;
            }
            _ => at += 1,
        }
        tokens.push((start, at));
    }
    if tokens.is_empty() {
        return;
    }
    let (start, end) = tokens[random.below(tokens.len())];
    match random.below(6) {
        0 => drop(input.drain(start..end)),
        1 => {
            let part = input[start..end].to_vec();
            input.splice(start..start, part);
        }
        2 => {
            // The value of another place.
            let (other, until) = tokens[random.below(tokens.len())];
            let part = input[other..until].to_vec();
            input.splice(start..end, part);
        }
        _ => {
            let new = random.pick(&TOKENS).as_bytes().to_vec();
            input.splice(start..end, new);
        }
    }
}
