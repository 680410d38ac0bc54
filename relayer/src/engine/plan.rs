//! The order of work: which nodes are computed together and when a tensor is no longer needed.

use super::kernels::attention::Heads;
use candor_sdk::program::{BinaryFunction, Dim, Op, Operand, Program, UnaryFunction, View, ViewAxis};

/// One kernel call.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The node whose operation and operands these are.
    pub(super) node: usize,
    /// A view that the first operand is read through instead of being made.
    pub(super) through: Option<usize>,
    /// A whole attention layer, of which `node` is the last.
    pub(super) attention: Option<Attention>,
    /// A function applied to the result while it is in cache: that of node `yields`.
    pub(super) then: Option<UnaryFunction>,
    /// The node whose tensor results.
    pub(super) yields: usize,
    /// Nodes that nothing after this step reads.
    pub(super) release: Vec<usize>,
}

/// Scores, softmax, mix and division as one step. Operands are nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// Not transposed.
    pub(super) values: usize,
    pub(super) causal: bool,
    heads: u32,
    group: u32,
    scale: u32,
    /// The nodes that the step stands for, besides the last.
    inner: [usize; 7],
}

impl Attention {
    /// The heads, for queries and values with so many columns.
    pub(super) fn heads(&self, queries: usize, values: usize) -> Heads {
        let (heads, group) = (self.heads as usize, self.group as usize);
        Heads {
            heads,
            group,
            key_width: queries / heads,
            value_width: values / (heads / group),
            scale: f32::from_bits(self.scale),
            causal: self.causal,
        }
    }

    /// The attention layer, as `ProgramBuilder::attention` writes it, that ends in a division of a mix by its sums; if
    /// nothing else reads what is in between.
    fn ending_at(program: &Program, readers: &[usize], last: usize) -> Option<Self> {
        let nodes = &program.nodes;
        let node = |operand: &Operand| match operand {
            Operand::Node(node) => Some((*node as usize, nodes.get(*node as usize)?)),
            _ => None,
        };
        let Op::Binary { function: BinaryFunction::Div, causal: 0 } = nodes[last].op else { return None };
        let [mix, joined] = nodes[last].inputs.as_slice() else { return None };
        let ((mix_at, mix), (joined_at, joined)) = (node(mix)?, node(joined)?);
        let (Op::AttentionMix { heads, group, causal }, [e, values]) = (&mix.op, mix.inputs.as_slice()) else {
            return None;
        };
        let (heads, group, causal) = (*heads, *group, *causal);
        let ragged = if causal { heads } else { 0 };
        let (Op::View(join), [sums]) = (&joined.op, joined.inputs.as_slice()) else { return None };
        let ((sums_at, sums), (e_at, e), (transposed_at, transposed)) = (node(sums)?, node(e)?, node(values)?);
        let e_operand = Operand::Node(e_at as u32);
        let same = matches!(sums.op, Op::RowSum { causal } if causal == ragged) && sums.inputs == [e_operand];
        let (Op::Binary { function: BinaryFunction::ExpSub, causal: extent }, [scores, max]) =
            (&e.op, e.inputs.as_slice())
        else {
            return None;
        };
        let ((scores_at, scores), (max_at, max)) = (node(scores)?, node(max)?);
        let scores_operand = Operand::Node(scores_at as u32);
        let same = same
            && *extent == ragged
            && matches!(max.op, Op::RowMax { causal } if causal == ragged)
            && max.inputs == [scores_operand];
        let Op::AttentionScores { heads: h, group: g, scale, causal: c } = scores.op else { return None };
        let (Op::View(transpose), [values]) = (&transposed.op, transposed.inputs.as_slice()) else { return None };
        let [queries, keys] = scores.inputs.as_slice() else { return None };
        let (values_at, values) = node(values)?;
        let ((queries_at, _), (keys_at, _)) = (node(queries)?, node(keys)?);
        let views = *transpose == transposition(values.rows, values.cols) && *join == join_columns(mix.rows, heads);
        let read =
            [(mix_at, 1), (joined_at, 1), (sums_at, 1), (e_at, 2), (transposed_at, 1), (scores_at, 2), (max_at, 1)];
        let unseen = read.iter().all(|&(node, count)| readers[node] == count);
        (same && (h, g, c) == (heads, group, causal) && views && unseen && nodes[last].cols == mix.cols).then_some(
            Self {
                queries: queries_at,
                keys: keys_at,
                values: values_at,
                causal,
                heads,
                group,
                scale,
                inner: read.map(|(node, _)| node),
            },
        )
    }
}

/// The view that `ProgramBuilder::transpose` makes of `rows x cols`.
fn transposition(rows: Dim, cols: Dim) -> View {
    let axis = |size, steps: [i32; 2], row_weight, col_weight| ViewAxis {
        size,
        offset: Dim::ZERO,
        steps: steps.to_vec(),
        row_weight,
        col_weight,
    };
    let axes = vec![axis(rows, [0, 1], Dim::ONE, Dim::ZERO), axis(cols, [1, 0], Dim::ZERO, Dim::ONE)];
    View { row_digits: vec![cols], col_digits: vec![rows], axes, fill: 0 }
}

/// The view that `ProgramBuilder::join_rows` makes of a column: each `count` consecutive rows side by side.
fn join_columns(rows: Dim, count: u32) -> View {
    let axis = |size, steps: [i32; 3], row_weight, col_weight| ViewAxis {
        size,
        offset: Dim::ZERO,
        steps: steps.to_vec(),
        row_weight,
        col_weight,
    };
    let axes = vec![
        axis(rows, [1, 0, 0], count.into(), Dim::ZERO),
        axis(count.into(), [0, 1, 0], Dim::ONE, Dim::ZERO),
        axis(Dim::ONE, [0, 0, 1], Dim::ZERO, Dim::ONE),
    ];
    View { row_digits: vec![rows], col_digits: vec![count.into(), Dim::ONE], axes, fill: 0 }
}

/// Steps in topological order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

/// What a plan may merge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    Everything,
    /// All but views, which a partial run sees row by row.
    AllButViews,
}

impl Plan {
    /// Every node by itself and kept for whoever watches: what a trace needs.
    pub(super) fn traced(program: &Program) -> Self {
        Self::of_nodes(program, |_| true)
    }

    /// The nodes that are `wanted`, each by itself.
    pub(super) fn of_nodes(program: &Program, wanted: impl Fn(usize) -> bool) -> Self {
        let nodes = (0..program.nodes.len()).filter(|&node| wanted(node));
        let mut plan = Self { steps: nodes.map(|node| Step { node, yields: node, ..Step::default() }).collect() };
        plan.place_releases(program);
        plan
    }

    /// As few passes over memory as possible.
    pub(super) fn fused(program: &Program) -> Self {
        let mut plan = Self::merged(program, Merge::Everything);
        plan.place_releases(program);
        plan
    }

    /// The same for some rows at a time, and only what leads to `goals`.
    pub(super) fn leading_to(program: &Program, goals: &[usize]) -> Self {
        let mut plan = Self::merged(program, Merge::AllButViews);
        let mut wanted = vec![false; program.nodes.len()];
        goals.iter().for_each(|&goal| wanted[goal] = true);
        for step in plan.steps.iter().rev() {
            if wanted[step.yields] {
                step.reads(program).into_iter().for_each(|node| wanted[node] = true);
            }
        }
        plan.steps.retain(|step| wanted[step.yields]);
        plan.place_releases(program);
        plan
    }

    fn merged(program: &Program, merge: Merge) -> Self {
        let nodes = &program.nodes;
        let mut readers = vec![0usize; nodes.len()];
        for operand in nodes.iter().flat_map(|node| &node.inputs) {
            if let Operand::Node(node) = operand {
                readers[*node as usize] += 1;
            }
        }
        let mut merged = vec![false; nodes.len()];
        let mut steps: Vec<Step> = Vec::with_capacity(nodes.len());
        let attention: Vec<Option<Attention>> =
            (0..nodes.len()).map(|last| Attention::ending_at(program, &readers, last)).collect();
        attention.iter().flatten().flat_map(|layer| layer.inner).for_each(|node| merged[node] = true);

        // A view that only one contraction or maximum reads.
        let reads_view = |index: usize| match (&nodes[index].op, nodes[index].inputs.first()) {
            (Op::Linear | Op::RowMax { causal: 0 }, Some(Operand::Node(view))) if merge == Merge::Everything => {
                let view = *view as usize;
                (readers[view] == 1 && matches!(nodes[view].op, Op::View(_))).then_some(view)
            }
            _ => None,
        };
        let through: Vec<Option<usize>> = (0..nodes.len()).map(reads_view).collect();
        through.iter().flatten().for_each(|&view| merged[view] = true);

        for (index, node) in nodes.iter().enumerate() {
            if merged[index] {
                continue;
            }
            if let (Op::Unary(function), [Operand::Node(from)]) = (&node.op, node.inputs.as_slice()) {
                let from = *from as usize;
                let producer = steps.iter_mut().rfind(|step| step.yields == from);
                if let Some(step) = producer
                    && step.then.is_none()
                    && readers[from] == 1
                    && matches!(nodes[step.node].op, Op::Linear | Op::QuantLinear)
                {
                    step.then = Some(*function);
                    step.yields = index;
                    continue;
                }
            }
            steps.push(Step {
                node: index,
                through: through[index],
                attention: attention[index],
                then: None,
                yields: index,
                release: Vec::new(),
            });
        }
        Self { steps }
    }

    fn place_releases(&mut self, program: &Program) {
        let last = program.nodes.len().saturating_sub(1);
        let mut seen = vec![false; program.nodes.len()];
        for step in self.steps.iter_mut().rev() {
            for node in step.reads(program) {
                if node != last && !std::mem::replace(&mut seen[node], true) {
                    step.release.push(node);
                }
            }
        }
    }
}

impl Step {
    /// The nodes whose tensors it reads.
    pub(super) fn reads(&self, program: &Program) -> Vec<usize> {
        if let Some(Attention { queries, keys, values, .. }) = self.attention {
            return vec![queries, keys, values];
        }
        let inputs = &program.nodes[self.node].inputs;
        let view = self.through.map_or([].as_slice(), |view| &program.nodes[view].inputs);
        let nodes = inputs.iter().chain(view).filter_map(|operand| match operand {
            Operand::Node(node) if Some(*node as usize) != self.through => Some(*node as usize),
            _ => None,
        });
        nodes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candor_sdk::program::{DType, Node};

    fn node(op: Op, inputs: &[u32]) -> Node {
        let inputs = inputs.iter().map(|&i| Operand::Node(i)).collect();
        Node { op, inputs, dtype: DType::F32, rows: Dim::ONE, cols: Dim::ONE, label: String::new() }
    }

    fn yields(plan: &Plan) -> Vec<(usize, usize)> {
        plan.steps.iter().map(|step| (step.node, step.yields)).collect()
    }

    #[test]
    fn a_function_is_fused_only_if_nothing_else_reads_its_operand() {
        let input = Op::Input { kind: candor_sdk::program::InputKind::F32Be, bound: 0 };
        let relu = Op::Unary(UnaryFunction::Relu);
        let chain = Program {
            nodes: vec![
                node(input.clone(), &[]),
                node(Op::Linear, &[0]),
                node(relu.clone(), &[1]),
                node(relu.clone(), &[2]),
            ],
        };
        let plan = Plan::fused(&chain);
        assert_eq!(yields(&plan), [(0, 0), (1, 2), (3, 3)]);
        assert_eq!(plan.steps.iter().map(|s| s.release.clone()).collect::<Vec<_>>(), [vec![], vec![0], vec![2]]);
        assert_eq!(yields(&Plan::traced(&chain)), [(0, 0), (1, 1), (2, 2), (3, 3)]);

        let fork = Program {
            nodes: vec![node(input, &[]), node(Op::Linear, &[0]), node(relu.clone(), &[1]), node(relu, &[1])],
        };
        assert_eq!(yields(&Plan::fused(&fork)), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn a_view_is_read_through_only_if_nothing_else_reads_it() {
        let input = Op::Input { kind: candor_sdk::program::InputKind::F32Be, bound: 0 };
        let view = Op::View(View { row_digits: vec![], col_digits: vec![], axes: vec![], fill: 0 });
        let max = Op::RowMax { causal: 0 };
        let chain = Program {
            nodes: vec![
                node(input.clone(), &[]),
                node(view.clone(), &[0]),
                node(max.clone(), &[1]),
                node(max.clone(), &[2]),
            ],
        };
        let plan = Plan::fused(&chain);
        assert_eq!(yields(&plan), [(0, 0), (2, 2), (3, 3)]);
        assert_eq!(plan.steps[1].through, Some(1));
        assert_eq!(plan.steps.iter().map(|s| s.release.clone()).collect::<Vec<_>>(), [vec![], vec![0], vec![2]]);

        let fork =
            Program { nodes: vec![node(input, &[]), node(view, &[0]), node(max.clone(), &[1]), node(max, &[1])] };
        assert_eq!(yields(&Plan::fused(&fork)), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    }
}
