//! A model's graph for people: its parts in the order in which they run, what each does, and where the parameters and the
//! multiply-adds are.

use candor_sdk::program::{InputKind, Model, Op, Operand, Symbols};
use std::fmt;

/// A part of the graph: nodes whose labels begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The common beginning, with layers counted together.
    pub name: String,
    /// How many layers are counted together; 1 for what is not a layer.
    pub repeated: usize,
    /// Nodes.
    pub nodes: usize,
    /// The operations of the nodes, each once, in the order in which they are first met.
    pub operations: Vec<&'static str>,
    /// Elements of the weights that it is the first to read.
    pub parameters: u64,
    /// Multiply-adds for one position of a sequence, or for a request of fixed size; attention over earlier positions is
    /// not counted.
    pub multiply_adds: u64,
}

/// The parts of a graph, in order. Its `Display` draws it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The parts.
    pub parts: Vec<Part>,
}

impl Outline {
    /// Takes the graph apart by the beginnings of its labels.
    pub fn of(model: &Model) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut layers: Vec<Vec<String>> = Vec::new();
        let mut seen = vec![false; model.weights.tensors().len()];
        let bound = model.bind(one_position(model));
        for (index, node) in model.program.nodes.iter().enumerate() {
            let (name, layer) = group(&node.label);
            let at = parts.iter().position(|part| part.name == name).unwrap_or_else(|| {
                parts.push(Part { name, ..Part::default() });
                layers.push(Vec::new());
                parts.len() - 1
            });
            let part = &mut parts[at];
            if !layers[at].contains(&layer) {
                layers[at].push(layer);
            }
            part.repeated = layers[at].len();
            part.nodes += 1;
            if !part.operations.contains(&node.op.name()) {
                part.operations.push(node.op.name());
            }
            let weights = node.inputs.iter().filter_map(|operand| match operand {
                Operand::Weight(weight) => Some(*weight),
                _ => None,
            });
            for (number, weight) in weights.enumerate() {
                let Some(tensor) = model.weights.get(weight) else { continue };
                let elements = tensor.rows() as u64 * tensor.cols() as u64;
                if !std::mem::replace(&mut seen[weight as usize], true) {
                    part.parameters += elements;
                }
                // The first weight of a linear layer is what it multiplies by, the second its bias.
                if matches!(node.op, Op::Linear | Op::QuantLinear)
                    && number == 0
                    && let Ok(bound) = &bound
                {
                    let rows = bound.nodes.get(index).map_or(0, |node| node.rows) as u64;
                    part.multiply_adds += rows * elements;
                }
            }
        }
        Self { parts }
    }

    /// Nodes of the graph.
    pub fn nodes(&self) -> usize {
        self.parts.iter().map(|part| part.nodes).sum()
    }
}

/// A run of one position: of a prompt of one token, or of the smallest input.
fn one_position(model: &Model) -> Symbols {
    let tokens = model.program.input_kind() == Some(InputKind::Tokens);
    let input_bytes = if tokens { 4 } else { model.limits.min_input_bytes };
    let prompt = if tokens { 1 } else { input_bytes };
    let sequence = prompt + u32::from(model.program.generation().is_some());
    Symbols { sequence, prompt, input_bytes, output_bytes: 0 }
}

/// `model.layers.3.attention` as `model.layers.*.attention` and the 3.
fn group(label: &str) -> (String, String) {
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let layer = label.split('.').find(number).unwrap_or_default();
    let name: Vec<&str> = label.split('.').map(|part| if number(&part) { "*" } else { part }).collect();
    (name.join("."), layer.to_string())
}

/// A large number in a few characters.
pub(super) fn short(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

/// How wide a part is drawn that does all the multiply-adds there are.
const BAR: u64 = 12;

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parameters, multiply_adds) = self.parts.iter().fold((0, 0), |(parameters, multiply_adds), part| {
            (parameters + part.parameters, multiply_adds + part.multiply_adds)
        });
        let (all, sum) = (short(parameters), short(multiply_adds));
        writeln!(f, "{} nodes, {all} parameters, {sum} multiply-adds a position", self.nodes())?;
        let width = self.parts.iter().map(|part| part.name.len()).max().unwrap_or(0).max(4);
        write!(f, "  {:<width$}  times  nodes  parameters  multiply-adds  {:<12}  operations", "part", "")?;
        for part in &self.parts {
            let name = if part.name.is_empty() { "-" } else { &part.name };
            let (repeated, nodes) = (part.repeated, part.nodes);
            let (parameters, ours) = (short(part.parameters), short(part.multiply_adds));
            let filled = (part.multiply_adds * BAR).div_ceil(multiply_adds.max(1)) as usize; // at most BAR
            let bar = "#".repeat(filled);
            let operations = part.operations.join(" ");
            write!(
                f,
                "\n  {name:<width$}  {repeated:>5}  {nodes:>5}  {parameters:>10}  {ours:>13}  {bar:<12}  {operations}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ModelSource, models::CatalogModel};

    #[test]
    fn every_node_parameter_and_product_is_in_one_part() {
        for name in ModelSource::BUILTIN {
            let loaded = CatalogModel::load(&ModelSource::Builtin(name)).expect("an embedded model");
            let model = &loaded.imported().model;
            let outline = Outline::of(model);
            assert_eq!(outline.nodes(), model.program.nodes.len());
            let elements = model.weights.tensors().iter().map(|tensor| (tensor.rows() * tensor.cols()) as u64);
            assert_eq!(outline.parts.iter().map(|part| part.parameters).sum::<u64>(), elements.sum::<u64>());
            let drawn = outline.to_string();
            assert_eq!(drawn.lines().count(), 2 + outline.parts.len(), "{drawn}");
            for (part, line) in outline.parts.iter().zip(drawn.lines().skip(2)) {
                assert_eq!(line.contains('#'), part.multiply_adds > 0, "{drawn}");
                assert!(part.operations.iter().all(|operation| line.contains(operation)), "{drawn}");
            }
        }
    }

    #[test]
    fn layers_are_counted_together() {
        assert_eq!(group("model.layers.3.attention"), ("model.layers.*.attention".to_owned(), "3".to_owned()));
        assert_eq!(group("embed"), ("embed".to_owned(), String::new()));
    }
}
