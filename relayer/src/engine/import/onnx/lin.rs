//! Whole numbers that may depend on the length of a request: `constant + s * S`. Dimensions are such numbers, and so is
//! what ONNX graphs compute from dimensions.

use candor_sdk::program::Dim;
use std::fmt;

/// `constant + s * S`, with S at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lin {
    pub(super) constant: i64,
    pub(super) s: i64,
}

impl Lin {
    pub(super) const ONE: Self = Self::of(1);
    /// The length of the sequence.
    pub(super) const S: Self = Self { constant: 0, s: 1 };

    pub(super) const fn of(constant: i64) -> Self {
        Self { constant, s: 0 }
    }

    /// The number, if it is the same for every request.
    pub(super) fn known(self) -> Option<i64> {
        (self.s == 0).then_some(self.constant)
    }

    /// A size that is the same for every request.
    pub(super) fn size(self) -> Option<usize> {
        self.known().and_then(|n| usize::try_from(n).ok())
    }

    pub(super) fn is_one(self) -> bool {
        self == Self::ONE
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        Some(Self { constant: self.constant.checked_add(other.constant)?, s: self.s.checked_add(other.s)? })
    }

    pub(super) fn sub(self, other: Self) -> Option<Self> {
        Some(Self { constant: self.constant.checked_sub(other.constant)?, s: self.s.checked_sub(other.s)? })
    }

    /// The product, if one of the two is known.
    pub(super) fn mul(self, other: Self) -> Option<Self> {
        let (form, factor) = match (self.known(), other.known()) {
            (Some(factor), _) => (other, factor),
            (_, Some(factor)) => (self, factor),
            _ => return None,
        };
        Some(Self { constant: form.constant.checked_mul(factor)?, s: form.s.checked_mul(factor)? })
    }

    /// The quotient, if it leaves no remainder for any length.
    pub(super) fn exact_div(self, other: Self) -> Option<Self> {
        let divides = |a: i64, b: i64| a.checked_rem(b) == Some(0);
        match other.known() {
            Some(n) => (divides(self.constant, n) && divides(self.s, n))
                .then(|| Self { constant: self.constant / n, s: self.s / n }),
            None => {
                let ratio = divides(self.s, other.s).then(|| self.s / other.s)?;
                (other.mul(Self::of(ratio))? == self).then_some(Self::of(ratio))
            }
        }
    }

    /// How it compares with 0, if that is the same for every length.
    pub(super) fn sign(self) -> Option<std::cmp::Ordering> {
        match (self.s, self.constant.checked_add(self.s)) {
            (0, _) => Some(self.constant.cmp(&0)),
            // Above 0 at S = 1, and growing.
            (1.., Some(1..)) => Some(std::cmp::Ordering::Greater),
            (..0, Some(..0)) => Some(std::cmp::Ordering::Less),
            _ => None,
        }
    }

    /// As a program has it.
    pub(super) fn dim(self) -> Option<Dim> {
        Some(Dim { constant: i32::try_from(self.constant).ok()?, s: i32::try_from(self.s).ok()?, ..Dim::ZERO })
    }
}

impl fmt::Display for Lin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.s, self.constant) {
            (0, constant) => write!(f, "{constant}"),
            (1, 0) => write!(f, "S"),
            (s, 0) => write!(f, "{s}S"),
            (1, constant) => write!(f, "S{constant:+}"),
            (s, constant) => write!(f, "{s}S{constant:+}"),
        }
    }
}

/// Dimensions for a message.
pub(super) fn show(dims: &[Lin]) -> String {
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    #[test]
    fn what_is_so_for_every_length() {
        let form = |constant, s| Lin { constant, s };
        assert_eq!(form(4, 8).exact_div(Lin::of(4)), Some(form(1, 2)));
        assert_eq!(form(4, 8).exact_div(form(1, 2)), Some(Lin::of(4)));
        assert_eq!(form(4, 8).exact_div(form(1, 1)), None);
        assert_eq!(Lin::of(4).exact_div(Lin::of(0)), None);
        assert_eq!(Lin::S.mul(Lin::S), None);
        assert_eq!(Lin::S.sign(), Some(Ordering::Greater));
        assert_eq!(form(-1, 1).sign(), None);
        assert_eq!(form(-5, -1).sign(), Some(Ordering::Less));
        assert_eq!(Lin::of(i64::MAX).add(Lin::ONE), None);
        assert_eq!(form(-1, 2).to_string(), "2S-1");
    }
}
