//! Norms and softmaxes that a graph writes as several nodes, found again: one launch each, with the bits of the nodes
//! (rules N1, N3, N4). And maxima that only noise needs, which greedy requests do without.

use candor_sdk::program::{BinaryFunction, Model, Node, Op, Operand, Program, UnaryFunction, Weights};

/// A composition that one kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fused {
    /// RMS norm of node `x`; layer norm if there is a bias.
    Norm {
        x: usize,
        weight: Operand,
        bias: Option<Operand>,
        /// f32 bits.
        epsilon: u32,
    },
    /// Softmax of the rows of node `x`.
    Softmax { x: usize },
    /// Noise for the logits that are node `x`, and their maxima.
    Perturb { x: usize },
}

impl Fused {
    /// The node that is read.
    pub(super) fn reads(self) -> usize {
        match self {
            Self::Norm { x, .. } | Self::Softmax { x } | Self::Perturb { x } => x,
        }
    }
}

/// What is fused, by the last of its nodes, and which nodes are inside of something fused.
pub(super) struct Fusions {
    pub(super) last: Vec<Option<Fused>>,
    pub(super) inner: Vec<bool>,
}

impl Fusions {
    /// None: every node by itself.
    pub(super) fn none(program: &Program) -> Self {
        Self { last: vec![None; program.nodes.len()], inner: vec![false; program.nodes.len()] }
    }

    /// All that there are in a model.
    pub(super) fn find(model: &Model) -> Self {
        let program = &model.program;
        let mut fusions = Self::none(program);
        let mut readers = vec![0usize; program.nodes.len()];
        for operand in program.nodes.iter().flat_map(|node| &node.inputs) {
            if let Operand::Node(node) = operand {
                readers[*node as usize] += 1;
            }
        }
        let finder = Finder { nodes: &program.nodes, weights: &model.weights, readers: &readers };
        for last in 0..program.nodes.len() {
            let found = finder.norm(last).or_else(|| finder.softmax(last)).or_else(|| finder.perturb(last));
            if let Some((fused, inner)) = found {
                fusions.last[last] = Some(fused);
                inner.into_iter().for_each(|node| fusions.inner[node] = true);
            }
        }
        fusions
    }
}

struct Finder<'a> {
    nodes: &'a [Node],
    weights: &'a Weights,
    readers: &'a [usize],
}

impl Finder<'_> {
    /// An operand that is a node which `count` others read.
    fn node(&self, operand: &Operand, count: usize) -> Option<usize> {
        match operand {
            Operand::Node(node) => Some(*node as usize).filter(|&node| self.readers[node] == count),
            _ => None,
        }
    }

    /// The operands of a binary function.
    fn binary(&self, node: usize, wanted: BinaryFunction) -> Option<[&Operand; 2]> {
        match (&self.nodes[node].op, self.nodes[node].inputs.as_slice()) {
            (Op::Binary { function, causal: 0 }, [x, y]) if *function == wanted => Some([x, y]),
            _ => None,
        }
    }

    /// Whether an operand is one row of weights with as many columns as node `x`.
    fn row(&self, operand: &Operand, x: usize) -> bool {
        let Operand::Weight(weight) = operand else { return false };
        let cols = self.nodes[x].cols.as_constant().and_then(|cols| usize::try_from(cols).ok());
        self.weights.get(*weight).is_some_and(|tensor| tensor.rows() == 1 && Some(tensor.cols()) == cols)
    }

    /// `rsqrt(sum of squares of x / columns + epsilon)`: the node read, epsilon, the nodes inside.
    fn inverse_deviation(&self, r: usize) -> Option<(usize, u32, Vec<usize>)> {
        let Op::Unary(UnaryFunction::Rsqrt) = self.nodes[r].op else { return None };
        let shifted = self.node(self.nodes[r].inputs.first()?, 1)?;
        let [mean, Operand::Constant(epsilon)] = self.binary(shifted, BinaryFunction::Add)? else { return None };
        let mean = self.node(mean, 1)?;
        let [squares, Operand::Constant(count)] = self.binary(mean, BinaryFunction::Div)? else { return None };
        let squares = self.node(squares, 1)?;
        let (Op::RowSumSquares, [Operand::Node(x)]) = (&self.nodes[squares].op, self.nodes[squares].inputs.as_slice())
        else {
            return None;
        };
        let x = *x as usize;
        self.counts(x, *count).then_some((x, *epsilon, vec![r, shifted, mean, squares]))
    }

    /// Whether a constant is the number of columns of a node.
    fn counts(&self, x: usize, count: u32) -> bool {
        self.nodes[x].cols.as_constant().is_some_and(|cols| (cols as f32).to_bits() == count)
    }

    fn norm(&self, last: usize) -> Option<(Fused, Vec<usize>)> {
        // Layer norm: fma(mul(centred, r), weight, bias).
        if let (Op::MulAdd, [scaled, weight, bias]) = (&self.nodes[last].op, self.nodes[last].inputs.as_slice()) {
            let scaled = self.node(scaled, 1)?;
            let [centred, r] = self.binary(scaled, BinaryFunction::Mul)?;
            let (centred, r) = (self.node(centred, 2)?, self.node(r, 1)?);
            let (of, epsilon, mut inner) = self.inverse_deviation(r)?;
            let [Operand::Node(x), mean] = self.binary(centred, BinaryFunction::Sub)? else { return None };
            let (x, mean) = (*x as usize, self.node(mean, 1)?);
            let [sum, Operand::Constant(count)] = self.binary(mean, BinaryFunction::Div)? else { return None };
            let sum = self.node(sum, 1)?;
            let same = matches!(self.nodes[sum].op, Op::RowSum { causal: 0 })
                && self.nodes[sum].inputs == [Operand::Node(x as u32)]
                && of == centred
                && self.counts(x, *count)
                && self.row(weight, x)
                && self.row(bias, x)
                && self.alike(last, x);
            inner.extend([scaled, centred, mean, sum]);
            let fused = Fused::Norm { x, weight: *weight, bias: Some(*bias), epsilon };
            return same.then_some((fused, inner));
        }
        // RMS norm: mul(mul(x, r), weight).
        let [scaled, weight] = self.binary(last, BinaryFunction::Mul)?;
        let scaled = self.node(scaled, 1)?;
        let [Operand::Node(x), r] = self.binary(scaled, BinaryFunction::Mul)? else { return None };
        let (x, r) = (*x as usize, self.node(r, 1)?);
        let (of, epsilon, mut inner) = self.inverse_deviation(r)?;
        inner.push(scaled);
        let fused = Fused::Norm { x, weight: *weight, bias: None, epsilon };
        (of == x && self.row(weight, x) && self.alike(last, x)).then_some((fused, inner))
    }

    fn softmax(&self, last: usize) -> Option<(Fused, Vec<usize>)> {
        let [e, z] = self.binary(last, BinaryFunction::Div)?;
        let (e, z) = (self.node(e, 2)?, self.node(z, 1)?);
        let [Operand::Node(x), max] = self.binary(e, BinaryFunction::ExpSub)? else { return None };
        let (x, max) = (*x as usize, self.node(max, 1)?);
        let same = matches!(self.nodes[z].op, Op::RowSum { causal: 0 })
            && self.nodes[z].inputs == [Operand::Node(e as u32)]
            && matches!(self.nodes[max].op, Op::RowMax { causal: 0 })
            && self.nodes[max].inputs == [Operand::Node(x as u32)]
            && self.alike(last, x);
        same.then_some((Fused::Softmax { x }, vec![e, z, max]))
    }

    fn perturb(&self, last: usize) -> Option<(Fused, Vec<usize>)> {
        let (Op::Perturb, [Operand::Node(x), max]) = (&self.nodes[last].op, self.nodes[last].inputs.as_slice()) else {
            return None;
        };
        let (x, max) = (*x as usize, self.node(max, 1)?);
        let same =
            self.nodes[max].op == Op::RowMax { causal: 0 } && self.nodes[max].inputs == [Operand::Node(x as u32)];
        same.then_some((Fused::Perturb { x }, vec![max]))
    }

    /// Whether two nodes have one shape.
    fn alike(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.nodes[a], &self.nodes[b]);
        a.rows == b.rows && a.cols == b.cols
    }
}
