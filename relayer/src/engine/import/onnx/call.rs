//! A node of an ONNX graph with what its inputs stand for. Every attribute has to be asked for: one that nobody asked for may
//! change what the node computes.

use super::graph::Problem;
use super::item::{Ints, Item};
use super::lin::Lin;
use super::proto::{Attribute, Node, TensorProto};
use super::tensor::Tensor;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A node under import.
pub(super) struct Call<'a> {
    pub(super) node: &'a Node,
    inputs: Vec<Option<Item>>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(node: &'a Node, inputs: Vec<Option<Item>>) -> Self {
        Self { node, inputs, asked: RefCell::default() }
    }

    pub(super) fn op(&self) -> &'a str {
        &self.node.op
    }

    /// All inputs, which must all be there.
    pub(super) fn inputs(&self) -> Result<Vec<&Item>, Problem> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    pub(super) fn optional(&self, index: usize) -> Option<&Item> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    pub(super) fn input(&self, index: usize) -> Result<&Item, Problem> {
        self.optional(index).ok_or_else(|| format!("input {index} is missing"))
    }

    /// An input that is computed or a constant, but not integers that are known.
    pub(super) fn tensor(&self, index: usize) -> Result<&Tensor, Problem> {
        match self.input(index)? {
            Item::Tensor(tensor) => Ok(tensor),
            other => Err(format!("input {index} is {:?} {}, not a tensor of floats", other.kind(), other.describe())),
        }
    }

    /// An input of integers that are known at import.
    pub(super) fn ints(&self, index: usize) -> Result<&Ints, Problem> {
        match self.input(index)? {
            Item::Ints(ints) => Ok(ints),
            other => Err(format!("input {index} is {} and not known at import", other.describe())),
        }
    }

    /// The same, without any that depend on the length of the request.
    pub(super) fn known(&self, index: usize) -> Result<Vec<i64>, Problem> {
        let ints = self.ints(index)?;
        ints.known().ok_or_else(|| format!("input {index} depends on the length of the request"))
    }

    /// The same, as dimensions.
    pub(super) fn sizes(&self, index: usize) -> Result<Vec<Lin>, Problem> {
        Ok(self.ints(index)?.values.clone())
    }

    fn attribute(&self, name: &'static str) -> Option<&'a Attribute> {
        self.asked.borrow_mut().insert(name);
        self.node.attributes.get(name)
    }

    pub(super) fn int(&self, name: &'static str) -> Result<Option<i64>, Problem> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(other) => Err(format!("attribute {name} is {other:?}, not an integer")),
        }
    }

    pub(super) fn flag(&self, name: &'static str, default: bool) -> Result<bool, Problem> {
        match self.int(name)? {
            None => Ok(default),
            Some(value @ (0 | 1)) => Ok(value == 1),
            Some(other) => Err(format!("attribute {name} is {other}, neither 0 nor 1")),
        }
    }

    pub(super) fn float(&self, name: &'static str, default: f32) -> Result<f32, Problem> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) if value.is_finite() => Ok(*value),
            Some(other) => Err(format!("attribute {name} is {other:?}, not a finite number")),
        }
    }

    pub(super) fn list(&self, name: &'static str) -> Result<Option<&'a [i64]>, Problem> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(other) => Err(format!("attribute {name} is {other:?}, not a list of integers")),
        }
    }

    pub(super) fn floats(&self, name: &'static str) -> Result<Option<&'a [f32]>, Problem> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) if values.iter().all(|value| value.is_finite()) => Ok(Some(values)),
            Some(Attribute::Floats(_)) => Err(format!("attribute {name} has numbers that are not finite")),
            Some(other) => Err(format!("attribute {name} is {other:?}, not a list of floats")),
        }
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<&'a str>, Problem> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Text(text)) => Ok(Some(text)),
            Some(other) => Err(format!("attribute {name} is {other:?}, not a text")),
        }
    }

    pub(super) fn value(&self, name: &'static str) -> Result<Option<&'a TensorProto>, Problem> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(tensor)) => Ok(Some(tensor)),
            Some(other) => Err(format!("attribute {name} is {other:?}, not a tensor")),
        }
    }

    /// Constants of a Constant node that are not tensors.
    pub(super) fn plain(&self, name: &'static str) -> Option<&'a Attribute> {
        self.attribute(name)
    }

    /// An attribute that says nothing about the result.
    pub(super) fn ignore(&self, name: &'static str) {
        self.attribute(name);
    }

    /// A dimension by its number, which counts from the end if it is negative.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Problem> {
        let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        match from_start.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank) {
            Some(axis) => Ok(axis),
            None => Err(format!("axis {axis} of {rank} dimensions")),
        }
    }

    /// Several of them, ascending.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Problem> {
        let mut found = axes.iter().map(|&axis| self.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        match found.windows(2).all(|pair| pair[0] < pair[1]) {
            true => Ok(found),
            false => Err(format!("axes {axes:?} name one twice")),
        }
    }

    /// Axes that are an input from some version on and an attribute before. None if they are not said.
    pub(super) fn axes_given(&self, index: usize, rank: usize) -> Result<Option<Vec<usize>>, Problem> {
        let given = match (self.optional(index), self.list("axes")?) {
            (Some(_), _) => self.known(index)?,
            (None, Some(list)) => list.to_vec(),
            (None, None) => return Ok(None),
        };
        self.axes(&given, rank).map(Some)
    }

    /// Refuses attributes that nobody asked for.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        let asked = self.asked.borrow();
        match self.node.attributes.keys().find(|name| !asked.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => Err(format!("attribute {name:?} is not understood")),
        }
    }
}
