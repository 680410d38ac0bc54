//! Generation: a causal graph run a few rows at a time, with the keys and values of earlier rows kept.
//!
//! The graph is one pass over the whole sequence. Its rows can be computed as their tokens become known if each depends on
//! its own position only, except that attention reads the keys and values of the positions before. That is a property of
//! the graph, found here once, at load:
//!
//! - a node has a *form*: `per` rows for each position from `first` on, or none if it cannot be shown to have one;
//! - operations on rows (linear layers, functions, norms, rotary embedding, lookup, sampling) pass the form of their operands
//!   on; a view does if, of position `p`, it moves elements within the rows of position `p`;
//! - causal attention over three nodes of one row per position is of that form too.
//!
//! If the samples have a form, so has everything that leads to them, and running new rows only gives the bits of one pass:
//! no kernel's result for a row depends on which other rows it is computed with. What the output reads besides is computed
//! at the end. A graph whose samples have no form is run whole for every token, as the interpreter does.

use super::ops::attention::{Cache, attend_cached};
use super::ops::{Extent, index, tokens};
use super::plan::{Plan, Step};
use super::run::{Now, Rows, Run, Shapes, prompt};
use super::{Context, InferError, LoadedModel};
use candle_core::{Error, Result, Tensor};
use candor_sdk::program::{Dim, Model, Node, Op, Operand, Program, Request, Symbols, View};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// Requests that share a pass, at most.
pub(super) const SESSIONS: usize = 32;

/// How the rows of a node belong to positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The same for every request, and computed once.
    Fixed,
    /// `per` rows for each position from `first` on; the last position is the last but one of the sequence.
    Rows { per: usize, first: Dim },
}

/// A view that moves elements within the rows of a position.
#[derive(Clone, Debug)]
pub(super) struct Moves {
    /// Rows of the source for each position.
    pub(super) per: usize,
    /// The position of the source that position 0 of the view's rows reads.
    pub(super) skip: Dim,
    /// Where the elements of a position come from; `None` if they stay where they are.
    pub(super) table: Option<index::IndexMap>,
}

/// How a model's tokens are generated.
pub(super) struct Generator {
    pub(super) plan: Plan,
    pub(super) forms: Vec<Option<Form>>,
    pub(super) moves: Vec<Option<Moves>>,
    pub(super) stop: Vec<u32>,
    /// Nodes that the output reads, all rows of which are kept; the samples come first.
    pub(super) kept: Vec<usize>,
    /// What is left to do when all tokens are known.
    pub(super) tail: Plan,
    pub(super) fixed: Plan,
    constants: OnceLock<Vec<(usize, Tensor)>>,
    pub(super) shapes: Arc<Shapes>,
}

/// One request being answered.
struct Session<'a> {
    /// Its place in the batch.
    index: usize,
    request: &'a Request,
    symbols: Symbols,
    tokens: Vec<u32>,
    /// Positions whose rows are computed.
    done: usize,
    /// One for each attention step.
    caches: Vec<Cache>,
    /// Parts of the nodes that are kept.
    kept: Vec<Vec<Tensor>>,
}

impl Generator {
    /// The generator of a model, if its graph can be run row by row.
    pub(super) fn new(model: &Model) -> Option<Self> {
        let program = &model.program;
        let generation = program.generation()?;
        let samples = generation.samples as usize;
        let plan = Plan::leading_to(program, &[samples]);
        let mut forms = vec![None; program.nodes.len()];
        let mut moves = vec![None; program.nodes.len()];
        for step in &plan.steps {
            let (form, moved) = form(model, step, &forms)?;
            forms[step.yields] = Some(form);
            moves[step.yields] = moved;
        }
        // The row that predicts the first token is that of the prompt's last position.
        let expected = Form::Rows { per: 1, first: Dim::P - Dim::ONE };
        if forms[samples] != Some(expected) {
            return None;
        }
        let mut kept = vec![samples];
        let mut wanted = vec![false; program.nodes.len()];
        let mut open = vec![program.nodes.len() - 1];
        while let Some(node) = open.pop() {
            let by_rows = matches!(forms[node], Some(Form::Rows { .. })) && node != 0;
            if by_rows && !kept.contains(&node) {
                kept.push(node);
            }
            if by_rows || node == 0 || std::mem::replace(&mut wanted[node], true) {
                continue;
            }
            open.extend(program.nodes[node].inputs.iter().filter_map(|operand| match operand {
                Operand::Node(node) => Some(*node as usize),
                _ => None,
            }));
        }
        let tail = Plan::of_nodes(program, |node| wanted[node]);
        let fixed = Plan::of_nodes(program, |node| forms[node] == Some(Form::Fixed));
        let longest = model.limits.max_input_bytes;
        let symbols = Symbols { sequence: longest / 4 + 1, prompt: longest / 4, input_bytes: longest, output_bytes: 0 };
        let shapes = Arc::new(Shapes::new(model, symbols).ok()?);
        let stop = generation.stop;
        Some(Self { plan, forms, moves, stop, kept, tail, fixed, constants: OnceLock::new(), shapes })
    }

    /// Generates for several requests at once: a pass has the next rows of each, as they arrive.
    pub(super) fn answer(
        &self,
        engine: &LoadedModel,
        requests: &[(usize, &Request, Symbols)],
        mut done: impl FnMut(usize, Result<(Vec<u32>, Vec<Tensor>)>),
    ) {
        let layers = self.plan.steps.iter().filter(|step| step.attention.is_some()).count();
        let mut waiting: VecDeque<_> = requests.iter().collect();
        let mut live: Vec<Session<'_>> = Vec::new();
        loop {
            while live.len() < SESSIONS
                && let Some(&(index, request, symbols)) = waiting.pop_front()
            {
                live.push(Session {
                    index,
                    request,
                    symbols,
                    tokens: prompt(&engine.model, request),
                    done: 0,
                    caches: (0..layers).map(|_| Cache::default()).collect(),
                    kept: vec![Vec::new(); self.kept.len()],
                });
            }
            if live.is_empty() {
                return;
            }
            let spans = share_out(&mut live, engine.prefill, |session| (session.done, session.tokens.len()));
            if let Err(error) = self.pass(engine, &mut live[..spans.len()], &spans) {
                let message = error.to_string();
                live.drain(..spans.len()).for_each(|session| done(session.index, Err(Error::msg(&message))));
                continue;
            }
            let mut keep = Vec::with_capacity(live.len());
            for (at, mut session) in live.into_iter().enumerate() {
                if at < spans.len() && session.done == session.tokens.len() {
                    match self.next(engine, &mut session) {
                        Ok(false) => {}
                        Ok(true) => {
                            let kept =
                                session.kept.iter().map(|parts| Tensor::cat(parts, 0)).collect::<Result<Vec<_>>>();
                            let generated = session.tokens.split_off(session.symbols.prompt as usize);
                            done(session.index, kept.map(|kept| (generated, kept)));
                            continue;
                        }
                        Err(error) => {
                            done(session.index, Err(error));
                            continue;
                        }
                    }
                }
                keep.push(session);
            }
            live = keep;
        }
    }

    /// Appends the token that was sampled last; true if it is the last.
    fn next(&self, engine: &LoadedModel, session: &mut Session<'_>) -> Result<bool> {
        let sampled = session.kept[0].last().map(tokens::integers).transpose()?;
        let token = sampled.and_then(|rows| rows.last().copied()).ok_or_else(|| Error::msg("sampled nothing"))?;
        session.tokens.push(token);
        let generated = session.tokens.len() - session.symbols.prompt as usize;
        Ok(self.ends(&engine.model, session.request, generated, token))
    }

    /// Whether `token` is the last one of a request, of which `generated` are there now.
    pub(super) fn ends(&self, model: &Model, request: &Request, generated: usize, token: u32) -> bool {
        generated >= model.token_limit(&request.params) as usize || self.stop.contains(&token)
    }

    /// The output of a run whose tokens are known, from the nodes that were kept.
    pub(super) fn output(
        &self,
        engine: &LoadedModel,
        context: &Context<'_>,
        kept: Vec<Tensor>,
    ) -> Result<Option<Tensor>> {
        let mut known: Vec<(usize, Tensor)> = self.kept.iter().copied().zip(kept).collect();
        let all = &context.sequences[0];
        known.push((0, Tensor::from_slice(all, (all.len(), 1), &engine.candle)?));
        engine.run(context).execute(&self.tail, known, |_, _| Ok(()))
    }

    /// Computes the rows of positions `spans[i].0 .. spans[i].1` of each session.
    fn pass(&self, engine: &LoadedModel, sessions: &mut [Session<'_>], spans: &[(usize, usize)]) -> Result<()> {
        let program = &engine.model.program;
        let requests: Vec<&Request> = sessions.iter().map(|session| session.request).collect();
        let prompts: Vec<Symbols> = sessions.iter().map(|session| session.symbols).collect();
        let context = Context { shapes: self.shapes.clone(), requests: &requests, sequences: &[] };
        let run = engine.run(&context);
        let mut tensors: Vec<Option<Tensor>> = vec![None; program.nodes.len()];
        let mut extents = self.shapes.extents.clone();
        for (node, tensor) in self.constants(engine)? {
            tensors[*node] = Some(tensor.clone());
        }
        let mut layer = 0;
        for step in &self.plan.steps {
            let Some(Form::Rows { per, first }) = self.forms[step.yields] else { continue };
            let mut rows = rows_of(per, first, spans, &prompts);
            let total: usize = rows.iter().map(|(_, count)| count).sum();
            let cols = self.shapes.extents[step.node].cols;
            for node in [step.node, step.yields] {
                extents[node] = Extent { shared: true, rows: total, cols };
            }
            let tensor = if total == 0 {
                None
            } else if step.node == 0 {
                let all = sessions.iter().zip(spans).flat_map(|(session, &(from, to))| &session.tokens[from..to]);
                Some(Tensor::from_iter(all.copied(), &engine.candle)?.reshape((total, 1))?)
            } else if let Some(moves) = &self.moves[step.yields] {
                Some(self.moved(&run, step, moves, &rows, &tensors, spans, &prompts)?)
            } else if let Some(parts) = &step.attention {
                let tensor = |node: usize| {
                    tensors[node].as_ref().ok_or_else(|| Error::msg(format!("node {node} was not computed")))
                };
                let operands = [tensor(parts.queries)?, tensor(parts.keys)?, tensor(parts.values)?];
                let heads = parts.heads(operands[0].dim(1)?, operands[2].dim(1)?);
                let at = layer;
                layer += 1;
                let caches = sessions.iter_mut().map(|session| &mut session.caches[at]);
                let spans = spans.iter().map(|(from, to)| to - from).zip(caches);
                Some(attend_cached(engine.isa, &heads, operands, spans)?)
            } else {
                let now = Now { extents: &extents, batch: 1, rows: Rows::Some(&rows) };
                Some(run.step(step, &tensors, &now)?)
            };
            if let (Some(at), Some(tensor)) = (self.kept.iter().position(|&node| node == step.yields), &tensor) {
                let mut start = 0;
                for (session, (_, count)) in sessions.iter_mut().zip(rows.drain(..)) {
                    if count > 0 {
                        session.kept[at].push(tensor.narrow(0, start, count)?);
                        start += count;
                    }
                }
            }
            tensors[step.yields] = tensor;
            for &node in &step.release {
                tensors[node] = None;
            }
        }
        for (session, &(_, to)) in sessions.iter_mut().zip(spans) {
            session.done = to;
        }
        Ok(())
    }

    /// The new rows of a view.
    #[allow(clippy::too_many_arguments)] // the state of a pass
    fn moved(
        &self,
        run: &Run<'_>,
        step: &Step,
        moves: &Moves,
        rows: &[(usize, usize)],
        tensors: &[Option<Tensor>],
        spans: &[(usize, usize)],
        prompts: &[Symbols],
    ) -> Result<Tensor> {
        let node = &run.model.program.nodes[step.node];
        let Some(Form::Rows { per, .. }) = self.forms[step.yields] else {
            return Err(Error::msg("a view without a form"));
        };
        let now = Now { extents: &self.shapes.extents, batch: 1, rows: Rows::Whole };
        let (source, _) = run.operand(node.inputs.first(), tensors, &now)?;
        let cols = source.dim(1)?;
        let parts = self.parts(node.inputs.first(), (per, moves), rows, spans, prompts).map_err(Error::msg)?;
        let parts = parts.into_iter().map(|(first, rows)| source.narrow(0, first, rows));
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let source = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? };
        let total = source.dim(0)? / moves.per;
        let out = Extent { shared: false, rows: per, cols: self.shapes.extents[step.node].cols };
        match (&moves.table, &node.op) {
            (Some(map), Op::View(view)) => {
                let source_extent = Extent { shared: false, rows: moves.per, cols };
                let op = index::View { map: map.clone(), fill: view.fill, batch: total, out, source: source_extent };
                source.apply_op1_no_bwd(&op)
            }
            _ => source.reshape((total * per, out.cols)),
        }
    }

    /// Which rows of its `source` the new rows of a view come from, as consecutive ranges.
    pub(super) fn parts(
        &self,
        source: Option<&Operand>,
        (per, moves): (usize, &Moves),
        rows: &[(usize, usize)],
        spans: &[(usize, usize)],
        prompts: &[Symbols],
    ) -> std::result::Result<Vec<(usize, usize)>, &'static str> {
        // The rows of a node begin where its own form says; those of a weight at the beginning.
        let begins = match source {
            Some(Operand::Node(from)) => match self.forms[*from as usize] {
                Some(Form::Rows { first, .. }) => Some(rows_of(moves.per, first, spans, prompts)),
                _ => None,
            },
            _ => None,
        };
        let mut parts: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
        let mut base = 0;
        for (i, &(start, count)) in rows.iter().enumerate() {
            let positions = count / per;
            let from = (start / per) as i64 + moves.skip.value(&prompts[i]);
            let from = usize::try_from(from).map_err(|_| "a row before the first")? * moves.per;
            let held = begins.as_ref().map_or((0, 0), |begins| begins[i]);
            if positions > 0 {
                let at = (base + from).checked_sub(held.0).ok_or("a row that is gone")?;
                match parts.last_mut() {
                    Some((first, rows)) if *first + *rows == at => *rows += positions * moves.per,
                    _ => parts.push((at, positions * moves.per)),
                }
            }
            base += held.1;
        }
        Ok(parts)
    }

    fn constants(&self, engine: &LoadedModel) -> Result<&[(usize, Tensor)]> {
        if let Some(constants) = self.constants.get() {
            return Ok(constants);
        }
        let request = Request::default();
        let context = Context { shapes: self.shapes.clone(), requests: &[&request], sequences: &[] };
        let mut constants = Vec::new();
        engine.run(&context).execute(&self.fixed, Vec::new(), |node, tensor| {
            constants.push((node, tensor.clone()));
            Ok(())
        })?;
        Ok(self.constants.get_or_init(|| constants))
    }
}

/// Shares the rows of a pass, `room` of them, out among requests: first come those that generate, with one row each; prompts
/// have what is left. Sorts the requests and returns, for as many of them as have a share, from which position to which.
/// `progress` of a request is how many positions it has computed and how many tokens it knows.
pub(super) fn share_out<S>(
    requests: &mut [S],
    mut room: usize,
    progress: impl Fn(&S) -> (usize, usize),
) -> Vec<(usize, usize)> {
    requests.sort_by_key(|request| {
        let (done, known) = progress(request);
        known - done
    });
    let mut spans = Vec::with_capacity(requests.len());
    for (done, known) in requests.iter().map(progress) {
        // A pass has a row, however little room there is.
        let count = (known - done).min(room.max(usize::from(spans.is_empty())));
        if count == 0 {
            break;
        }
        room = room.saturating_sub(count);
        spans.push((done, done + count));
    }
    spans
}

/// First row and number of rows, for each session, of a node of the given form.
pub(super) fn rows_of(per: usize, first: Dim, spans: &[(usize, usize)], prompts: &[Symbols]) -> Vec<(usize, usize)> {
    let rows = spans.iter().zip(prompts).map(|(&(from, to), symbols)| {
        let first = usize::try_from(first.value(symbols)).unwrap_or(0);
        let from = from.max(first);
        (per * (from - first), per * to.saturating_sub(from))
    });
    rows.collect()
}

/// The form of what a step yields, and how it moves elements if it is a view; `None` if it has none.
fn form(model: &Model, step: &Step, forms: &[Option<Form>]) -> Option<(Form, Option<Moves>)> {
    let program = &model.program;
    let node = &program.nodes[step.node];
    let operand = |operand: &Operand| match operand {
        Operand::Node(node) => forms[*node as usize],
        Operand::Weight(_) | Operand::Constant(_) => Some(Form::Fixed),
    };
    if step.node == 0 {
        // The rows of the tokens go on to the last one, which is not known when its predecessors are run; whatever reads
        // them must stop before it.
        return (node.rows == Dim::S).then_some((Form::Rows { per: 1, first: Dim::ZERO }, None));
    }
    if let Some(parts) = &step.attention {
        let whole = Some(Form::Rows { per: 1, first: Dim::ZERO });
        let causal = parts.causal && [parts.queries, parts.keys, parts.values].iter().all(|&node| forms[node] == whole);
        return (causal && ends(node, 1, Dim::ZERO)).then_some((Form::Rows { per: 1, first: Dim::ZERO }, None));
    }
    let read: Vec<Form> = node.inputs.iter().map(operand).collect::<Option<_>>()?;
    let constant = node.rows.as_constant().is_some() && node.cols.as_constant().is_some();
    if constant && read.iter().all(|form| *form == Form::Fixed) && step.node == step.yields && !draws(&node.op) {
        return Some((Form::Fixed, None));
    }
    if let Op::View(view) = &node.op {
        let (per, first, moves) = moves(program, model, node, view, &read)?;
        return ends(node, per, first).then_some((Form::Rows { per, first }, Some(moves)));
    }
    // Operands that have rows of their own; the others are one row for all, or tables.
    let (rows, others): (Vec<usize>, &[usize]) = match &node.op {
        Op::Gather | Op::Take | Op::Rope { .. } | Op::Linear => (vec![0], &[]),
        Op::QuantLinear | Op::Quantise { .. } | Op::Perturb => (vec![0, 1], &[]),
        Op::Convert | Op::Unary(_) | Op::BlockAbsMax { .. } | Op::RowSumSquares | Op::Argmax => (vec![0], &[]),
        Op::RowSum { causal: 0 } | Op::RowMax { causal: 0 } => (vec![0], &[]),
        Op::Binary { causal: 0, .. } => (vec![], &[0, 1]),
        Op::MulAdd | Op::Select => (vec![], &[0, 1, 2]),
        Op::Concat { axis: candor_sdk::program::ConcatAxis::Cols } => ((0..read.len()).collect(), &[]),
        _ => return None,
    };
    // A broadcast operand has rows of its own unless it is one row.
    let one = |i: &usize| match node.inputs[*i] {
        Operand::Node(node) => program.nodes[node as usize].rows == Dim::ONE && read[*i] == Form::Fixed,
        Operand::Weight(weight) => model.weights.get(weight).is_some_and(|tensor| tensor.rows() == 1),
        Operand::Constant(_) => true,
    };
    let rows: Vec<Form> = rows.into_iter().chain(others.iter().copied().filter(|i| !one(i))).map(|i| read[i]).collect();
    let (Some(&Form::Rows { per, first }), true) = (rows.first(), rows.windows(2).all(|pair| pair[0] == pair[1]))
    else {
        return None;
    };
    // Tables and biases must be the same for every pass.
    let tables = match &node.op {
        Op::Gather | Op::Take => &read[1..2],
        Op::Rope { .. } => &read[1..3],
        Op::Linear => &read[1..],
        Op::QuantLinear => &read[2..],
        _ => &[],
    };
    let fixed = tables.iter().all(|form| *form == Form::Fixed);
    // A function that is fused has the shape of what it is applied to.
    (fixed && ends(node, per, first)).then_some((Form::Rows { per, first }, None))
}

/// Whether an operation depends on the request besides its operands.
fn draws(op: &Op) -> bool {
    matches!(op, Op::Perturb | Op::CheckGenerated { .. } | Op::CheckLength | Op::Input { .. })
}

/// Whether a node ends with the last position but one, and its columns are the same for all positions.
fn ends(node: &Node, per: usize, first: Dim) -> bool {
    let positions = Dim::S - Dim::ONE - first;
    node.cols.as_constant().is_some() && u32::try_from(per).is_ok_and(|per| node.rows == positions * per)
}

/// Shows that a view moves elements within positions: rows for each position, the first position, and the moves.
fn moves(program: &Program, model: &Model, node: &Node, view: &View, read: &[Form]) -> Option<(usize, Dim, Moves)> {
    let (source, source_cols) = match (read.first()?, node.inputs.first()?) {
        (Form::Rows { per, first }, Operand::Node(from)) => {
            (Some((*per, *first)), program.nodes[*from as usize].cols.as_constant()?)
        }
        (Form::Fixed, Operand::Node(from)) => (None, program.nodes[*from as usize].cols.as_constant()?),
        (_, Operand::Weight(weight)) => (None, i32::try_from(model.weights.get(*weight)?.cols()).ok()?),
        (_, Operand::Constant(_)) => (None, 1),
    };
    let length = |dim: &Dim| dim.as_constant().and_then(|n| usize::try_from(n).ok());
    let (leading, rest) = view.row_digits.split_first()?;
    let digits: Vec<usize> = rest.iter().chain(&view.col_digits).map(length).collect::<Option<_>>()?;
    let per: usize = digits[..rest.len()].iter().product();
    let cols: usize = digits[rest.len()..].iter().product();
    let (positions, others): (Vec<_>, Vec<_>) = view.axes.iter().partition(|axis| axis.steps.first() != Some(&0));
    let [axis] = positions.as_slice() else { return None };
    // The position's axis: one step for each position, from an offset that the prompt alone fixes, never out of bounds.
    let plain = axis.steps[0] == 1 && axis.steps[1..].iter().all(|&step| step == 0) && axis.col_weight == Dim::ZERO;
    let Dim { constant, s, p, b, o } = axis.offset;
    let inside = s == 0 && b == 0 && o == 0 && p >= 0 && i64::from(constant) + i64::from(p) >= 0;
    let spare = (axis.size - axis.offset - *leading).as_constant()?;
    let stride = length(&axis.row_weight)?;
    if !plain || !inside || spare < 0 || stride == 0 || source.is_some_and(|(per, _)| per != stride) {
        return None;
    }
    // All others: the same elements for every position, within its rows.
    let mut table = Vec::with_capacity(per * cols);
    for element in 0..per * cols {
        let mut digit = vec![0i64; digits.len()];
        let mut index = element;
        for (digit, &radix) in digit.iter_mut().zip(&digits).rev() {
            *digit = (index % radix) as i64;
            index /= radix;
        }
        let (mut row, mut col, mut exists) = (0i64, 0i64, true);
        for axis in &others {
            let moved: i64 = axis.steps[1..].iter().zip(&digit).map(|(&step, &digit)| i64::from(step) * digit).sum();
            let coordinate = i64::from(axis.offset.as_constant()?) + moved;
            exists &= (0..i64::from(axis.size.as_constant()?)).contains(&coordinate);
            row += coordinate * i64::from(axis.row_weight.as_constant()?);
            col += coordinate * i64::from(axis.col_weight.as_constant()?);
        }
        if exists && !(0..stride as i64).contains(&row) {
            return None;
        }
        let position = row * i64::from(source_cols) + col;
        table.push(if exists { u32::try_from(position).ok()? } else { index::IndexMap::FILL });
    }
    let stays =
        table.len() == stride * source_cols as usize && table.iter().enumerate().all(|(i, &at)| i == at as usize);
    let (first, skip) = match source {
        Some((_, first)) => (first + axis.offset, first + axis.offset - first),
        None => (Dim::ZERO, axis.offset),
    };
    let table = (!stays).then(|| index::IndexMap::Table(Arc::new(table)));
    Some((per, first, Moves { per: stride, skip, table }))
}

impl LoadedModel {
    /// Generates by running the whole graph for each token.
    pub(super) fn generate_plainly(
        &self,
        request: &Request,
        mut symbols: Symbols,
    ) -> std::result::Result<Vec<u32>, InferError> {
        let Some(generation) = self.model.program.generation() else { return Ok(Vec::new()) };
        let mut all = prompt(&self.model, request);
        let mut generated = Vec::new();
        for _ in 0..self.model.token_limit(&request.params) {
            // The last token is not known yet; nothing that leads to its sample reads it.
            symbols.sequence += 1;
            let sequence = [all.as_slice(), &[0]].concat();
            let shapes = Arc::new(Shapes::new(&self.model, symbols)?);
            let context = Context { shapes, requests: &[request], sequences: &[sequence] };
            let mut sampled = None;
            let run = self.run(&context).execute(&self.sampling, Vec::new(), |node, tensor| {
                if node == generation.samples as usize {
                    sampled = tokens::integers(tensor)?.last().copied();
                }
                Ok(())
            });
            run.map_err(|error| self.failure(&error))?;
            let token = sampled.ok_or_else(|| self.failure(&Error::msg("sampled nothing")))?;
            all.push(token);
            generated.push(token);
            if generation.stop.contains(&token) {
                break;
            }
        }
        Ok(generated)
    }
}
