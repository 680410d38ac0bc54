//! Views: strided index maps from the elements of a result to the elements of a source.

use super::{Dim, Symbols};

/// Digits a view may split its rows and columns into, together: the lanes of one word.
pub const MAX_DIGITS: usize = 8;
/// Axes a view may give its source.
pub const MAX_AXES: usize = 8;

/// An index map.
///
/// Row `r` of the result is written in the mixed radix `row_digits` (most significant first), column `c` in
/// `col_digits`. Each axis of the source computes a coordinate from these digits; if every coordinate lies within its
/// axis, the element is `source[sum of coordinate * row_weight, sum of coordinate * col_weight]`, else it is `fill`.
///
/// Slices, transpositions, reshapes, repeats, convolution and pooling windows are all of this form, and the chain
/// checks an element of any of them by opening one element of the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Radices of the row index; their product is the number of rows.
    pub row_digits: Vec<Dim>,
    /// Radices of the column index; their product is the number of columns.
    pub col_digits: Vec<Dim>,
    /// Axes of the source.
    pub axes: Vec<ViewAxis>,
    /// The element where a coordinate is out of bounds: f32 bits or an integer, as the node's type says.
    pub fill: u32,
}

/// One axis of a view's source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewAxis {
    /// Coordinates from 0 to below this are in bounds.
    pub size: Dim,
    /// Coordinate where all digits are zero; may be negative (padding).
    pub offset: Dim,
    /// How far each digit moves the coordinate: row digits first, then column digits.
    pub steps: Vec<i32>,
    /// How far one step of the coordinate moves the row of the source.
    pub row_weight: Dim,
    /// How far one step of the coordinate moves the column of the source.
    pub col_weight: Dim,
}

/// A view for given symbols: plain numbers.
#[derive(Clone, Debug)]
pub struct BoundView {
    row_radices: Vec<u64>,
    col_radices: Vec<u64>,
    axes: Vec<BoundAxis>,
}

#[derive(Clone, Debug)]
struct BoundAxis {
    size: i64,
    offset: i64,
    steps: Vec<i64>,
    row_weight: i64,
    col_weight: i64,
}

impl View {
    /// Fixes the symbols and checks that the map is well formed: `rows` x `cols` elements, each of which is the fill or
    /// lies inside a source of `source_rows` x `source_cols`. The error is a field name and a sentence.
    pub fn bind(
        &self,
        symbols: &Symbols,
        (rows, cols): (usize, usize),
        (source_rows, source_cols): (usize, usize),
    ) -> Result<BoundView, (&'static str, String)> {
        let digits = self.row_digits.len() + self.col_digits.len();
        if digits > MAX_DIGITS {
            return Err(("digits", format!("{digits} digits; at most {MAX_DIGITS}")));
        }
        if self.axes.len() > MAX_AXES {
            return Err(("axes", format!("{} axes; at most {MAX_AXES}", self.axes.len())));
        }
        let radices = |field, dims: &[Dim], size: usize| {
            let mut product = 1u64;
            let mut radices = Vec::with_capacity(dims.len());
            for dim in dims {
                let radix =
                    dim.length(symbols).ok_or((field, format!("radix {dim} is {}", dim.value(symbols))))? as u64;
                product = product.saturating_mul(radix);
                radices.push(radix);
            }
            if product == size as u64 {
                Ok(radices)
            } else {
                Err((field, format!("radices make {product}, not {size}")))
            }
        };
        let row_radices = radices("row_digits", &self.row_digits, rows)?;
        let col_radices = radices("col_digits", &self.col_digits, cols)?;

        let (mut last_row, mut last_col) = (0i128, 0i128);
        let mut axes = Vec::with_capacity(self.axes.len());
        for axis in &self.axes {
            if axis.steps.len() != digits {
                return Err(("steps", format!("{} steps for {digits} digits", axis.steps.len())));
            }
            let size = axis.size.length(symbols).ok_or(("size", format!("axis of size {}", axis.size)))? as i64;
            let offset = axis.offset.value(symbols);
            let (row_weight, col_weight) = (axis.row_weight.value(symbols), axis.col_weight.value(symbols));
            if row_weight < 0 || col_weight < 0 {
                return Err(("weight", "negative weight".to_string()));
            }
            if offset.unsigned_abs() > u64::from(super::MAX_DIM) {
                return Err(("offset", format!("offset {offset} out of range")));
            }
            // A product of an i64 below 2^31 and an i64: i128 cannot overflow in at most eight of them.
            last_row += i128::from(size - 1) * i128::from(row_weight);
            last_col += i128::from(size - 1) * i128::from(col_weight);
            let steps: Vec<i64> = axis.steps.iter().map(|&s| i64::from(s)).collect();
            let travel: u128 = (steps.iter().zip(row_radices.iter().chain(&col_radices)))
                .map(|(step, radix)| u128::from(step.unsigned_abs()) * u128::from(radix - 1))
                .sum();
            if travel > u128::from(super::MAX_DIM) {
                return Err(("steps", format!("digits move a coordinate by up to {travel}")));
            }
            axes.push(BoundAxis { size, offset, steps, row_weight, col_weight });
        }
        if last_row >= source_rows as i128 || last_col >= source_cols as i128 {
            let reach = format!("reaches [{last_row}, {last_col}] of a source of {source_rows} x {source_cols}");
            return Err(("axes", reach));
        }
        Ok(BoundView { row_radices, col_radices, axes })
    }
}

impl BoundView {
    /// Where element (`r`, `c`) of the view lies in the source, or `None` for the fill. Both must be in range.
    pub fn source(&self, r: usize, c: usize) -> Option<(usize, usize)> {
        let mut digits = [0i64; MAX_DIGITS];
        let split = self.row_radices.len();
        digit(&mut digits[..split], &self.row_radices, r as u64);
        digit(&mut digits[split..split + self.col_radices.len()], &self.col_radices, c as u64);

        let (mut row, mut col) = (0i64, 0i64);
        for axis in &self.axes {
            // `bind` bounds the offset and what all digits together add to it by 2^31 each.
            let moved: i64 = axis.steps.iter().zip(&digits).map(|(step, digit)| step * digit).sum();
            let coordinate = axis.offset + moved;
            if coordinate < 0 || coordinate >= axis.size {
                return None;
            }
            row += coordinate * axis.row_weight;
            col += coordinate * axis.col_weight;
        }
        Some((row as usize, col as usize))
    }
}

/// Writes `index` in mixed radix, most significant digit first.
fn digit(digits: &mut [i64], radices: &[u64], mut index: u64) {
    for (digit, radix) in digits.iter_mut().zip(radices).rev() {
        *digit = (index % radix) as i64;
        index /= radix;
    }
}
