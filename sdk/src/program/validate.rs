//! Shapes for given symbols, and the refusal of graphs that must not be run (rules P-20 to P-26).
//!
//! [`Model::bind`] fixes the symbols and checks every node against its operands (`shapes.rs`); nothing downstream has to
//! check a shape again. [`Model::validate`] adds what does not depend on symbols and binds at the corners of what the limits
//! allow, so that a model that passes is sound for its shortest and longest requests. Requests in between are bound, and
//! so checked, one by one.

use super::{
    BoundView, DType, Dim, InputKind, Limits, MAX_DIM, Model, ModelError, Node, Op, Operand, Symbols, shapes::Fault,
};

/// Nodes a graph may have.
pub const MAX_NODES: usize = 1 << 16;
/// Operands a node may have.
pub const MAX_OPERANDS: usize = 16;
/// Elements a node may have.
pub const MAX_NODE_ELEMENTS: u64 = 1 << 31;
/// Partials an element may have: blocks of a contraction, chunks of a row. What an operator reveals for one element is
/// bounded by it.
pub const MAX_PARTIALS: usize = 1024;
/// Bytes of a vocabulary entry, at most: a step opens one whole.
pub const MAX_ENTRY_BYTES: usize = 4096;

/// A node for given symbols.
#[derive(Clone, Debug)]
pub struct BoundNode {
    /// Rows of its tensor.
    pub rows: usize,
    /// Columns of its tensor; 0 only for generated text that is empty.
    pub cols: usize,
    /// The index map of a view.
    pub view: Option<BoundView>,
    /// Elements are below this, where that is known without running (integers only).
    pub bound: Option<u64>,
}

/// A program for given symbols.
#[derive(Clone, Debug)]
pub struct BoundProgram {
    /// The symbols.
    pub symbols: Symbols,
    /// One entry per node.
    pub nodes: Vec<BoundNode>,
}

impl Model {
    /// Refuses a model some step of which is undefined, unbounded or unverifiable.
    ///
    /// # Errors
    /// The first thing that is wrong, naming node and field.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.check_graph()?;
        for symbols in self.corners()? {
            let bound = self.bind(symbols)?;
            let (Some(last), Limits { max_output_bytes, .. }) = (bound.nodes.last(), self.limits) else { continue };
            if last.cols > max_output_bytes as usize {
                let problem = format!("the output can be {} bytes long, the limit is {max_output_bytes}", last.cols);
                return Err(ModelError::Limits { field: "max_output_bytes", problem });
            }
        }
        Ok(())
    }

    /// Fixes the symbols and checks every node.
    ///
    /// # Errors
    /// The first node that is malformed for these symbols.
    pub fn bind(&self, symbols: Symbols) -> Result<BoundProgram, ModelError> {
        let mut bound = BoundProgram { symbols, nodes: Vec::with_capacity(self.program.nodes.len()) };
        for (index, node) in self.program.nodes.iter().enumerate() {
            let checked = self.bind_node(index, node, &bound).map_err(|fault| node_error(index, node, fault))?;
            bound.nodes.push(checked);
        }
        Ok(bound)
    }

    /// What does not depend on symbols.
    fn check_graph(&self) -> Result<(), ModelError> {
        let nodes = &self.program.nodes;
        let Some(last) = nodes.last() else { return Err(ModelError::Graph("no nodes".to_string())) };
        if nodes.len() > MAX_NODES {
            return Err(ModelError::Graph(format!("{} nodes; at most {MAX_NODES}", nodes.len())));
        }
        let fault = |index: usize, fault: Fault| Err(node_error(index, &nodes[index], fault));
        if last.dtype != DType::U8 || last.rows != Dim::ONE {
            return fault(nodes.len() - 1, ("rows", "the last node is the output: one row of bytes".to_string()));
        }
        for (index, node) in nodes.iter().enumerate() {
            if (index == 0) != matches!(node.op, Op::Input { .. }) {
                return fault(index, ("op", "node 0 and only node 0 is the input".to_string()));
            }
        }
        let positions = |wanted: fn(&Op) -> bool| -> Vec<usize> {
            nodes.iter().enumerate().filter(|(_, node)| wanted(&node.op)).map(|(index, _)| index).collect()
        };
        let generated = positions(|op| matches!(op, Op::CheckGenerated { .. }));
        let lengths = positions(|op| matches!(op, Op::CheckLength));
        let texts = positions(|op| matches!(op, Op::Detokenise));
        for list in [&generated, &lengths, &texts] {
            if let [_, second, ..] = list[..] {
                return fault(second, ("op", "at most one of its kind in a graph".to_string()));
            }
        }
        // INVARIANT: the length of the text is a claim until something checks it, and only text has one.
        match (lengths.first(), texts.first()) {
            (None, None) => {
                if let Some(index) = nodes.iter().position(|node| node.rows.o != 0 || node.cols.o != 0) {
                    return fault(index, ("cols", "O without generated text".to_string()));
                }
            }
            (Some(&length), Some(&text)) => {
                let ends = nodes[length].inputs.first();
                if ends != nodes[text].inputs.get(1) {
                    return fault(length, ("inputs", "checks another length than that of the text".to_string()));
                }
                if !matches!(ends, Some(Operand::Node(_))) {
                    return fault(length, ("inputs", "not a node".to_string()));
                }
                // The run learns O from `ends`, and a wrong O is found out by its check: nothing up to there may depend on O.
                let depends = |node: &Node| {
                    node.rows.o != 0 || node.cols.o != 0 || matches!(node.op, Op::View(_)) && uses_o(node)
                };
                if let Some(index) = nodes.iter().take(length + 1).position(depends) {
                    return fault(index, ("cols", "depends on O before O is checked".to_string()));
                }
            }
            (Some(&index), None) | (None, Some(&index)) => {
                return fault(index, ("op", "Detokenise and CheckLength come together".to_string()));
            }
        }
        if generated.is_empty() != (self.limits.max_tokens == 0) {
            let problem = "is 0 exactly if the graph generates nothing".to_string();
            return Err(ModelError::Limits { field: "max_tokens", problem });
        }
        if self.vocabulary.len() > MAX_DIM as usize {
            return Err(ModelError::Vocabulary(format!("{} entries", self.vocabulary.len())));
        }
        if let Some(id) = self.vocabulary.iter().position(|entry| entry.len() > MAX_ENTRY_BYTES) {
            let length = self.vocabulary[id].len();
            return Err(ModelError::Vocabulary(format!("entry {id} has {length} bytes; at most {MAX_ENTRY_BYTES}")));
        }
        Ok(())
    }

    /// The extreme symbols that the limits allow.
    fn corners(&self) -> Result<Vec<Symbols>, ModelError> {
        let Limits { min_input_bytes, max_input_bytes, max_output_bytes, max_tokens } = self.limits;
        let fail = |field, problem: String| Err(ModelError::Limits { field, problem });
        if min_input_bytes == 0 || min_input_bytes > max_input_bytes {
            return fail("min_input_bytes", format!("{min_input_bytes} is 0 or above {max_input_bytes}"));
        }
        if max_input_bytes > MAX_DIM || max_output_bytes > MAX_DIM || max_output_bytes == 0 || max_tokens > MAX_DIM {
            return fail("max_input_bytes", format!("limits go from 1 to {MAX_DIM}"));
        }
        let tokens = self.program.input_kind() == Some(InputKind::Tokens);
        if tokens && (min_input_bytes % 4 != 0 || max_input_bytes % 4 != 0) {
            return fail("max_input_bytes", "token ids are four bytes each".to_string());
        }
        let mut corners = Vec::new();
        for input_bytes in [min_input_bytes, max_input_bytes] {
            let prompt = if tokens { input_bytes / 4 } else { input_bytes };
            let generated = if max_tokens == 0 { [0, 0] } else { [1, max_tokens] };
            for generated in generated {
                let Some(sequence) = prompt.checked_add(generated) else {
                    return fail("max_tokens", "prompt and generated tokens exceed 32 bits".to_string());
                };
                let shortest = Symbols { sequence, prompt, input_bytes, output_bytes: 0 };
                let longest = Symbols { output_bytes: self.longest_text(&shortest), ..shortest };
                corners.extend([shortest, longest]);
            }
        }
        corners.dedup();
        Ok(corners)
    }

    /// The most bytes that the text of a run can have: one longest entry for each of its tokens.
    fn longest_text(&self, symbols: &Symbols) -> u32 {
        let nodes = &self.program.nodes;
        let text = nodes.iter().find(|node| matches!(node.op, Op::Detokenise));
        let tokens = match text.and_then(|text| text.inputs.first()) {
            Some(Operand::Node(tokens)) => nodes.get(*tokens as usize).map_or(0, |node| node.rows.value(symbols)),
            _ => 0,
        };
        let entry = self.vocabulary.iter().map(Vec::len).max().unwrap_or(0) as u64;
        u32::try_from(entry.saturating_mul(tokens.unsigned_abs())).unwrap_or(u32::MAX)
    }
}

fn uses_o(node: &Node) -> bool {
    let Op::View(view) = &node.op else { return false };
    let axes = view.axes.iter().flat_map(|axis| [axis.size, axis.offset, axis.row_weight, axis.col_weight]);
    view.row_digits.iter().chain(&view.col_digits).copied().chain(axes).any(|dim| dim.o != 0)
}

fn node_error(index: usize, node: &Node, (field, problem): Fault) -> ModelError {
    let (op, label) = (node.op.name(), node.label.clone());
    ModelError::Node { node: u32::try_from(index).unwrap_or(u32::MAX), op, label, field, problem }
}
