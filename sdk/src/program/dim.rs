//! Shapes: rows and columns as linear forms in the few symbols that a request fixes.

use std::{
    fmt,
    ops::{Add, Mul, Sub},
};

use serde::{Deserialize, Serialize};

/// No dimension of a tensor exceeds this, whatever the request (rule P-11).
pub const MAX_DIM: u32 = i32::MAX as u32;

/// The symbols of one run (rule P-10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Symbols {
    /// `S`: length of the sequence, prompt and generated tokens together.
    pub sequence: u32,
    /// `P`: length of the prompt.
    pub prompt: u32,
    /// `B`: bytes of the request's input.
    pub input_bytes: u32,
    /// `O`: bytes of generated text; zero for a program that generates none.
    pub output_bytes: u32,
}

/// A dimension: `constant + s*S + p*P + b*B + o*O`.
///
/// Forms add, subtract and scale with the usual operators; coefficients saturate, and a saturated coefficient gives a
/// dimension that validation refuses.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Dim {
    /// The constant term.
    pub constant: i32,
    /// Coefficient of `S`.
    pub s: i32,
    /// Coefficient of `P`.
    pub p: i32,
    /// Coefficient of `B`.
    pub b: i32,
    /// Coefficient of `O`.
    pub o: i32,
}

impl Dim {
    /// The dimension 0, also the offset of a view that has none.
    pub const ZERO: Self = Self::of(0);
    /// The dimension 1.
    pub const ONE: Self = Self::of(1);
    /// The sequence length.
    pub const S: Self = Self { s: 1, ..Self::ZERO };
    /// The prompt length.
    pub const P: Self = Self { p: 1, ..Self::ZERO };
    /// The input's length in bytes.
    pub const B: Self = Self { b: 1, ..Self::ZERO };
    /// The generated text's length in bytes.
    pub const O: Self = Self { o: 1, ..Self::ZERO };

    /// A constant.
    pub const fn of(constant: i32) -> Self {
        Self { constant, s: 0, p: 0, b: 0, o: 0 }
    }

    /// The constant's value, if no symbol occurs.
    pub fn as_constant(self) -> Option<i32> {
        (self == Self::of(self.constant)).then_some(self.constant)
    }

    /// The value for given symbols, possibly negative (an offset may be).
    pub fn value(self, symbols: &Symbols) -> i64 {
        // At most five products of an i32 and a u32: |sum| < 5 * 2^63 would overflow i64, so sum in i128 and saturate.
        let sum = i128::from(self.constant)
            + i128::from(self.s) * i128::from(symbols.sequence)
            + i128::from(self.p) * i128::from(symbols.prompt)
            + i128::from(self.b) * i128::from(symbols.input_bytes)
            + i128::from(self.o) * i128::from(symbols.output_bytes);
        sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The value as a length: from 1 to [`MAX_DIM`].
    pub fn length(self, symbols: &Symbols) -> Option<usize> {
        let value = self.value(symbols);
        (1..=i64::from(MAX_DIM)).contains(&value).then_some(value as usize)
    }

    /// The five coefficients in the order of the encoding.
    pub(crate) const fn lanes(self) -> [i32; 5] {
        [self.constant, self.s, self.p, self.b, self.o]
    }

    pub(crate) const fn from_lanes([constant, s, p, b, o]: [i32; 5]) -> Self {
        Self { constant, s, p, b, o }
    }

    fn zip(self, other: Self, f: impl Fn(i32, i32) -> i32) -> Self {
        let (x, y) = (self.lanes(), other.lanes());
        Self::from_lanes(std::array::from_fn(|i| f(x[i], y[i])))
    }
}

impl From<u32> for Dim {
    fn from(value: u32) -> Self {
        Self::of(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

impl Add for Dim {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.zip(other, i32::saturating_add)
    }
}

impl Sub for Dim {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.zip(other, i32::saturating_sub)
    }
}

impl Mul<u32> for Dim {
    type Output = Self;
    fn mul(self, factor: u32) -> Self {
        let factor = i32::try_from(factor).unwrap_or(i32::MAX);
        self.zip(Self::ZERO, |x, _| x.saturating_mul(factor))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (coefficient, symbol) in self.lanes().into_iter().zip(["", "S", "P", "B", "O"]).skip(1) {
            if coefficient == 0 {
                continue;
            }
            let sign = if coefficient < 0 {
                "-"
            } else if first {
                ""
            } else {
                "+"
            };
            match coefficient.unsigned_abs() {
                1 => write!(f, "{sign}{symbol}")?,
                n => write!(f, "{sign}{n}{symbol}")?,
            }
            first = false;
        }
        match self.constant {
            c if first => write!(f, "{c}"),
            0 => Ok(()),
            c => write!(f, "{c:+}"),
        }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What the elements of a node are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DType {
    /// IEEE-754 binary32.
    F32 = 0,
    /// Unsigned 32-bit integers: token ids, indices, lengths.
    U32 = 1,
    /// Bytes.
    U8 = 2,
    /// Signed bytes: quantised activations.
    I8 = 3,
}

impl DType {
    /// Bytes per element in a trace leaf.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::U8 | Self::I8 => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::U32,
            2 => Self::U8,
            3 => Self::I8,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_evaluate_and_print() {
        let symbols = Symbols { sequence: 7, prompt: 3, input_bytes: 12, output_bytes: 0 };
        let generated = Dim::S - Dim::P;
        assert_eq!(generated.length(&symbols), Some(4));
        assert_eq!((generated * 4).to_string(), "4S-4P");
        assert_eq!((Dim::P - Dim::ONE).to_string(), "P-1");
        assert_eq!(Dim::of(-2).length(&symbols), None);
        assert_eq!(Dim::ZERO.length(&symbols), None);
        assert_eq!(Dim::ZERO.to_string(), "0");
        assert_eq!(Dim::of(5).as_constant(), Some(5));
        assert_eq!(Dim::S.as_constant(), None);
    }

    #[test]
    fn absurd_coefficients_saturate() {
        let symbols = Symbols { sequence: u32::MAX, prompt: u32::MAX, input_bytes: u32::MAX, output_bytes: u32::MAX };
        let huge = Dim::from_lanes([i32::MAX; 5]);
        assert_eq!(huge.value(&symbols), i64::MAX);
        assert_eq!((huge * u32::MAX).length(&symbols), None);
        assert_eq!((Dim::from(u32::MAX) + Dim::ONE).constant, i32::MAX);
    }
}
