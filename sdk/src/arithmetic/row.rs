//! Functions of a whole row: softmax and the norms (rules N1 to N4).

use super::{
    functions::{exp, rsqrt},
    reduction::{maximum, sum, sum_squares},
    scalar::{add, div, fma, from_u32, mul, sub},
};

/// N1: the numerators of a softmax and their sum: `e_j = exp(sub(x_j, max))` and `z = sum(e)`.
///
/// Attention uses these as they are: it mixes the values with the `e_j` and divides the mix by `z` (N2).
pub fn softmax_parts(x: &[f32]) -> (Vec<f32>, f32) {
    let max = maximum(x);
    let e: Vec<f32> = x.iter().map(|&x| exp(sub(x, max))).collect();
    let z = sum(&e);
    (e, z)
}

/// N1: `softmax(x)_j = div(e_j, z)`.
pub fn softmax(x: &[f32]) -> Vec<f32> {
    let (e, z) = softmax_parts(x);
    e.iter().map(|&e| div(e, z)).collect()
}

/// N3: the number that a row is scaled by: `rsqrt(add(div(sum_squares, n), epsilon))`.
fn inverse_deviation(x: &[f32], epsilon: f32) -> f32 {
    rsqrt(add(div(sum_squares(x), length(x)), epsilon))
}

fn length(x: &[f32]) -> f32 {
    from_u32(u32::try_from(x.len()).expect("rows are far shorter than 2^32"))
}

/// N3: RMS norm: `mul(mul(x_j, r), weight_j)` with `r = rsqrt(add(div(sum_squares(x), n), epsilon))`.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    assert_eq!(x.len(), weight.len(), "a norm has one weight for each element");
    let r = inverse_deviation(x, epsilon);
    x.iter().zip(weight).map(|(&x, &w)| mul(mul(x, r), w)).collect()
}

/// N4: layer norm: the row is centred, `c_j = sub(x_j, div(sum(x), n))`, scaled by `r` of N3 taken over `c`, and
/// given its weight and bias by `fma(mul(c_j, r), weight_j, bias_j)`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    assert!(x.len() == weight.len() && x.len() == bias.len(), "a norm has one weight and one bias for each element");
    let mean = div(sum(x), length(x));
    let c: Vec<f32> = x.iter().map(|&x| sub(x, mean)).collect();
    let r = inverse_deviation(&c, epsilon);
    c.iter().zip(weight.iter().zip(bias)).map(|(&c, (&w, &b))| fma(mul(c, r), w, b)).collect()
}
