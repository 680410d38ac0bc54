//! Operations on each element by itself. The operations and functions are the reference's own (`sdk::arithmetic`), inlined
//! into loops that are compiled once per instruction set; there is no second copy of any formula.

use super::isa::{Isa, per_isa};
use candor_sdk::arithmetic::{functions, scalar};
use candor_sdk::program::{BinaryFunction, UnaryFunction};

/// `out[i] = f(x[i])`.
pub fn unary(isa: Isa, f: UnaryFunction, x: &[f32], out: &mut [f32]) {
    use UnaryFunction as F;
    match f {
        F::Neg => map(isa, scalar::neg, x, out),
        F::Abs => map(isa, scalar::abs, x, out),
        F::Relu => map(isa, relu, x, out),
        F::Sqrt => map(isa, scalar::sqrt, x, out),
        F::Rsqrt => map(isa, functions::rsqrt, x, out),
        F::Exp => map(isa, functions::exp, x, out),
        F::Log => map(isa, functions::log, x, out),
        F::Tanh => map(isa, functions::tanh, x, out),
        F::Sigmoid => map(isa, functions::sigmoid, x, out),
        F::Silu => map(isa, functions::silu, x, out),
        F::Erf => map(isa, functions::erf, x, out),
        F::GeluErf => map(isa, functions::gelu_erf, x, out),
        F::GeluTanh => map(isa, functions::gelu_tanh, x, out),
    }
}

/// `x[i] = f(x[i])`.
pub fn unary_in_place(isa: Isa, f: UnaryFunction, x: &mut [f32]) {
    use UnaryFunction as F;
    match f {
        F::Neg => update(isa, scalar::neg, x),
        F::Abs => update(isa, scalar::abs, x),
        F::Relu => update(isa, relu, x),
        F::Sqrt => update(isa, scalar::sqrt, x),
        F::Rsqrt => update(isa, functions::rsqrt, x),
        F::Exp => update(isa, functions::exp, x),
        F::Log => update(isa, functions::log, x),
        F::Tanh => update(isa, functions::tanh, x),
        F::Sigmoid => update(isa, functions::sigmoid, x),
        F::Silu => update(isa, functions::silu, x),
        F::Erf => update(isa, functions::erf, x),
        F::GeluErf => update(isa, functions::gelu_erf, x),
        F::GeluTanh => update(isa, functions::gelu_tanh, x),
    }
}

/// `out[i] = f(a[i], b[i])`, where an operand of length 1 stands for as many equal elements as `out` has.
pub fn binary(isa: Isa, f: BinaryFunction, a: &[f32], b: &[f32], out: &mut [f32]) {
    use BinaryFunction as F;
    match f {
        F::Add => broadcast(isa, scalar::add, a, b, out),
        F::Sub => broadcast(isa, scalar::sub, a, b, out),
        F::Mul => broadcast(isa, scalar::mul, a, b, out),
        F::Div => broadcast(isa, scalar::div, a, b, out),
        F::Maximum => broadcast(isa, scalar::maximum, a, b, out),
        F::Minimum => broadcast(isa, scalar::minimum, a, b, out),
        F::ExpSub => broadcast(isa, |a, b| functions::exp(scalar::sub(a, b)), a, b, out),
        F::Equal => broadcast(isa, |a, b| truth(a == b), a, b, out),
        F::Less => broadcast(isa, |a, b| truth(a < b), a, b, out),
        F::LessEqual => broadcast(isa, |a, b| truth(a <= b), a, b, out),
    }
}

/// Makes every NaN the one NaN.
pub fn canonicalize(isa: Isa, x: &mut [f32]) {
    update(isa, scalar::canonical, x);
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    scalar::maximum(x, 0.0)
}

#[inline(always)]
fn truth(holds: bool) -> f32 {
    if holds { 1.0 } else { 0.0 }
}

fn broadcast<F: Fn(f32, f32) -> f32>(isa: Isa, f: F, a: &[f32], b: &[f32], out: &mut [f32]) {
    match (a, b) {
        _ if a.len() == out.len() && b.len() == out.len() => zip(isa, f, a, b, out),
        (_, &[b]) if a.len() == out.len() => map(isa, |a| f(a, b), a, out),
        (&[a], _) if b.len() == out.len() => map(isa, |b| f(a, b), b, out),
        (&[a], &[b]) => out.fill(f(a, b)),
        _ => panic!("operands of {} and {} elements for {}", a.len(), b.len(), out.len()),
    }
}

per_isa! {
    /// `out[i] = f(x[i])`.
    pub(super) fn map[F: Fn(f32) -> f32](isa, f: F, x: &[f32], out: &mut [f32]) = map_all(f, x, out)
}

#[inline(always)]
fn map_all<F: Fn(f32) -> f32>(f: F, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "operand and result of one length");
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
}

per_isa! {
    /// `x[i] = f(x[i])`.
    pub(super) fn update[F: Fn(f32) -> f32](isa, f: F, x: &mut [f32]) = update_all(f, x)
}

#[inline(always)]
fn update_all<F: Fn(f32) -> f32>(f: F, x: &mut [f32]) {
    for x in x {
        *x = f(*x);
    }
}

per_isa! {
    /// `out[i] = f(a[i], b[i])`.
    pub(super) fn zip[F: Fn(f32, f32) -> f32](isa, f: F, a: &[f32], b: &[f32], out: &mut [f32]) = zip_all(f, a, b, out)
}

#[inline(always)]
fn zip_all<F: Fn(f32, f32) -> f32>(f: F, a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = f(a, b);
    }
}

/// `out[i] = fma(x[i], y[i], z[i])`.
pub fn mul_add(isa: Isa, x: &[f32], y: &[f32], z: &[f32], out: &mut [f32]) {
    ternary(isa, scalar::fma, x, y, z, out);
}

/// `out[i] = x[i] != 0 ? y[i] : z[i]`.
pub fn select(isa: Isa, x: &[f32], y: &[f32], z: &[f32], out: &mut [f32]) {
    ternary(isa, |x, y, z| if x != 0.0 { y } else { z }, x, y, z, out);
}

per_isa! {
    /// `out[i] = f(x[i], y[i], z[i])`.
    fn ternary[F: Fn(f32, f32, f32) -> f32](isa, f: F, x: &[f32], y: &[f32], z: &[f32], out: &mut [f32]) =
        ternary_all(f, x, y, z, out)
}

#[inline(always)]
fn ternary_all<F: Fn(f32, f32, f32) -> f32>(f: F, x: &[f32], y: &[f32], z: &[f32], out: &mut [f32]) {
    for (((out, &x), &y), &z) in out.iter_mut().zip(x).zip(y).zip(z) {
        *out = f(x, y, z);
    }
}

per_isa! {
    /// `x[i] = add(x[i], b[i])`.
    pub(super) fn add_in_place(isa, x: &mut [f32], b: &[f32]) = add_all(x, b)
}

#[inline(always)]
fn add_all(x: &mut [f32], b: &[f32]) {
    for (x, &b) in x.iter_mut().zip(b) {
        *x = scalar::add(*x, b);
    }
}

/// What a contraction does to its outputs while they are still in cache: the nodes that follow it in the graph, each with
/// its own rounding, so fusing them saves memory traffic and changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub unary: Option<UnaryFunction>,
}

impl Epilogue<'_> {
    /// Panics unless the bias has one element per output.
    pub(super) fn check(&self, n: usize) {
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), n, "a bias for {n} outputs");
        }
    }

    /// Finishes the outputs from `column` on of one row.
    pub(super) fn apply(&self, isa: Isa, segment: &mut [f32], column: usize) {
        match self.bias {
            Some(bias) => add_in_place(isa, segment, &bias[column..column + segment.len()]),
            None => canonicalize(isa, segment),
        }
        if let Some(f) = self.unary {
            unary_in_place(isa, f, segment);
        }
    }
}
