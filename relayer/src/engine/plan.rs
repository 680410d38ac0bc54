//! The order of work: which nodes are computed together and when a tensor is no longer needed.

use candor_sdk::program::{Op, Operand, Program, UnaryFunction};

/// One kernel call.
#[derive(Debug)]
pub(super) struct Step {
    /// The node whose operation and operands these are.
    pub(super) node: usize,
    /// A view that the first operand is read through instead of being made.
    pub(super) through: Option<usize>,
    /// A function applied to the result while it is in cache: that of node `yields`.
    pub(super) then: Option<UnaryFunction>,
    /// The node whose tensor results.
    pub(super) yields: usize,
    /// Nodes that nothing after this step reads.
    pub(super) release: Vec<usize>,
}

/// Steps in topological order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// Every node by itself and kept for whoever watches: what a trace needs.
    pub(super) fn traced(program: &Program) -> Self {
        let steps = (0..program.nodes.len()).map(|node| Step {
            node,
            through: None,
            then: None,
            yields: node,
            release: Vec::new(),
        });
        let mut plan = Self { steps: steps.collect() };
        plan.place_releases(program);
        plan
    }

    /// As few passes over memory as possible.
    pub(super) fn fused(program: &Program) -> Self {
        let nodes = &program.nodes;
        let mut readers = vec![0usize; nodes.len()];
        for operand in nodes.iter().flat_map(|node| &node.inputs) {
            if let Operand::Node(node) = operand {
                readers[*node as usize] += 1;
            }
        }
        let mut steps: Vec<Step> = Vec::with_capacity(nodes.len());
        // A view that only one contraction or maximum reads.
        let reads_view = |index: usize| match (&nodes[index].op, nodes[index].inputs.first()) {
            (Op::Linear | Op::RowMax { causal: 0 }, Some(Operand::Node(view))) => {
                let view = *view as usize;
                (readers[view] == 1 && matches!(nodes[view].op, Op::View(_))).then_some(view)
            }
            _ => None,
        };
        let through: Vec<Option<usize>> = (0..nodes.len()).map(reads_view).collect();
        for (index, node) in nodes.iter().enumerate() {
            if through.contains(&Some(index)) {
                continue;
            }
            if let (Op::Unary(function), [Operand::Node(from)]) = (&node.op, node.inputs.as_slice()) {
                let from = *from as usize;
                let producer = steps.iter_mut().rfind(|step| step.yields == from);
                if let Some(step) = producer
                    && step.then.is_none()
                    && readers[from] == 1
                    && matches!(nodes[step.node].op, Op::Linear)
                {
                    step.then = Some(*function);
                    step.yields = index;
                    continue;
                }
            }
            steps.push(Step { node: index, through: through[index], then: None, yields: index, release: Vec::new() });
        }
        let mut plan = Self { steps };
        plan.place_releases(program);
        plan
    }

    fn place_releases(&mut self, program: &Program) {
        let last = program.nodes.len().saturating_sub(1);
        let mut seen = vec![false; program.nodes.len()];
        for step in self.steps.iter_mut().rev() {
            let view = step.through.map_or([].as_slice(), |view| &program.nodes[view].inputs);
            for operand in program.nodes[step.node].inputs.iter().chain(view) {
                if let Operand::Node(node) = operand {
                    let node = *node as usize;
                    if Some(node) != step.through && node != last && !std::mem::replace(&mut seen[node], true) {
                        step.release.push(node);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candor_sdk::program::{DType, Dim, Node, View};

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
