//! Generation on a device. What it means to run a few rows at a time is worked out by `engine/generate.rs` once for all
//! devices; here are the caches, the tables that say which rows a pass computes, and the recording of passes in which
//! every request gets one more token.
//!
//! Such a pass launches the same kernels with the same parameters as the one before, because all that changes lies in
//! tables on the device. So it is recorded once for each set of requests and replayed for each token.

use super::driver::DeviceError;
use super::memory::{Buffer, Recorded, Tensor};
use super::model::DeviceModel;
use super::ops::{AttentionRows, Readers, Result, short};
use super::run::{Now, RowTables, Run, greedy, heads, sampling};
use crate::engine::generate::{Form, Generator, Moves, SESSIONS, rows_of, share_out};
use crate::engine::ops::Extent;
use crate::engine::ops::index::IndexMap;
use crate::engine::plan::Step;
use crate::engine::run::prompt;
use candor_sdk::program::{DType, Dim, Op, Request, Symbols};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Passes of one token each before they are recorded: a recording costs about as much as a pass.
const UNRECORDED: usize = 2;

/// Keys and values of one request and layer, `[capacity][width]` each.
struct Cache {
    keys: Rc<Buffer>,
    values: Rc<Buffer>,
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
    /// Positions there can be.
    capacity: usize,
    /// One for each attention step.
    caches: Vec<Cache>,
    /// Rows so far of the samples.
    samples: Vec<u32>,
    /// Parts of the other nodes that are kept.
    kept: Vec<Vec<Tensor>>,
}

/// What became of a request: the tokens, and the nodes that its output reads.
pub(super) type Generated = Result<(Vec<u32>, Vec<(usize, Tensor)>)>;

/// Tables of a pass, on the device.
struct Tables {
    /// Requests that the pass is about, and rows of each.
    members: Vec<(usize, usize)>,
    tokens: Rc<Buffer>,
    /// Of each form that rows have: its rows.
    forms: Vec<(usize, Dim, RowTables)>,
    /// Of each row its position and how many positions it sees.
    positions: Rc<Buffer>,
    extents: Rc<Buffer>,
    layers: Vec<Layer>,
}

struct Layer {
    rows: AttentionRows,
    /// Cache of each row.
    keys: Rc<Buffer>,
    values: Rc<Buffer>,
}

/// A recorded pass, the tables it reads and what it yields.
struct RecordedPass {
    samples: Tensor,
    recorded: Recorded,
    tables: Tables,
}

/// What a pass yields.
struct Yield {
    samples: Option<Tensor>,
    /// Of the other nodes that are kept.
    kept: Vec<Option<Tensor>>,
}

impl DeviceModel {
    /// Generates for several requests at once: a pass has the next rows of each, as they arrive.
    pub(super) fn generate_by_rows(
        &self,
        generator: &Generator,
        requests: &[(usize, &Request, Symbols)],
        mut done: impl FnMut(usize, Generated),
    ) {
        let mut waiting: VecDeque<_> = requests.iter().collect();
        let mut live: Vec<Session<'_>> = Vec::new();
        let mut recorded: Option<RecordedPass> = None;
        let (mut alike, mut room) = (0, true);
        loop {
            while live.len() < SESSIONS
                && let Some(&(index, request, symbols)) = waiting.pop_front()
            {
                match self.session(generator, index, request, symbols) {
                    Ok(session) => live.push(session),
                    // Others give their memory back when they are done.
                    Err(DeviceError::OutOfMemory { .. }) if !live.is_empty() => {
                        waiting.push_front(requests.iter().find(|known| known.0 == index).unwrap_or(&requests[0]));
                        break;
                    }
                    Err(error) => done(index, Err(error)),
                }
            }
            if live.is_empty() {
                return;
            }
            let spans = share_out(&mut live, self.prefill, |session| (session.done, session.tokens.len()));
            let members: Vec<(usize, usize)> =
                live.iter().zip(&spans).map(|(session, (from, to))| (session.index, to - from)).collect();
            // Every row of every node is there from the last position of the prompt on.
            let steady = generator.kept.len() == 1
                && live
                    .iter()
                    .zip(&spans)
                    .all(|(session, span)| span.1 - span.0 == 1 && span.0 + 1 >= session.symbols.prompt as usize);
            if recorded.as_ref().is_some_and(|recorded| !steady || recorded.tables.members != members) {
                recorded = None;
                alike = 0;
            }
            let sessions = &mut live[..spans.len()];
            let passed = if steady && room && alike >= UNRECORDED {
                match self.recorded_pass(generator, sessions, &spans, &mut recorded) {
                    // A recording has memory to itself, which passes share with each other.
                    Err(DeviceError::OutOfMemory { .. }) if recorded.is_none() => {
                        room = false;
                        self.pass(generator, sessions, &spans)
                    }
                    passed => passed,
                }
            } else {
                self.pass(generator, sessions, &spans)
            };
            alike = if steady { alike + 1 } else { 0 };
            if let Err(error) = passed {
                recorded = None;
                live.drain(..spans.len()).for_each(|session| done(session.index, Err(error.clone())));
                continue;
            }
            let mut keep = Vec::with_capacity(live.len());
            for (at, mut session) in live.into_iter().enumerate() {
                if at < spans.len() && session.done == session.tokens.len() {
                    match self.next(generator, &mut session) {
                        Ok(false) => {}
                        Ok(true) => {
                            alike = 0;
                            done(session.index, self.finish(generator, session));
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

    fn session<'a>(
        &self,
        generator: &Generator,
        index: usize,
        request: &'a Request,
        symbols: Symbols,
    ) -> Result<Session<'a>> {
        let tokens = prompt(&self.model, request);
        // The last token is never run.
        let capacity = tokens.len() + self.model.token_limit(&request.params) as usize;
        let width = |node: usize| generator.shapes.extents[node].cols;
        let attention = generator.plan.steps.iter().filter_map(|step| step.attention.as_ref());
        let caches = attention.map(|parts| {
            let room = |node: usize| self.device.allocate(4 * capacity * width(node));
            Ok(Cache { keys: room(parts.keys)?, values: room(parts.values)? })
        });
        Ok(Session {
            index,
            request,
            symbols,
            tokens,
            done: 0,
            capacity,
            caches: caches.collect::<Result<_>>()?,
            samples: Vec::new(),
            kept: vec![Vec::new(); generator.kept.len()],
        })
    }

    /// Appends the token that was sampled last; true if it is the last.
    fn next(&self, generator: &Generator, session: &mut Session<'_>) -> Result<bool> {
        let token = session.samples.last().copied();
        let token = token.ok_or_else(|| DeviceError::Failed("sampled nothing".to_string()))?;
        session.tokens.push(token);
        let generated = session.tokens.len() - session.symbols.prompt as usize;
        Ok(generator.ends(&self.model, session.request, generated, token))
    }

    fn finish(&self, generator: &Generator, mut session: Session<'_>) -> Generated {
        let samples = self.device.integers((session.samples.len(), 1), &session.samples)?;
        let mut kept = vec![(generator.kept[0], samples)];
        for (&node, parts) in generator.kept.iter().zip(&session.kept).skip(1) {
            kept.push((node, self.device.stacked(parts)?));
        }
        Ok((session.tokens.split_off(session.symbols.prompt as usize), kept))
    }

    /// A pass of one row for each request, recorded the first time.
    fn recorded_pass(
        &self,
        generator: &Generator,
        sessions: &mut [Session<'_>],
        spans: &[(usize, usize)],
        recorded: &mut Option<RecordedPass>,
    ) -> Result<()> {
        match recorded {
            Some(known) => self.refresh(&mut known.tables, sessions, spans)?,
            None => {
                let tables = self.tables(generator, sessions, spans)?;
                let (samples, recording) = self.device.record(|| {
                    let yields = self.compute(generator, sessions, spans, &tables)?;
                    yields.samples.ok_or_else(|| DeviceError::Failed("sampled nothing".to_string()))
                })?;
                *recorded = Some(RecordedPass { samples, recorded: recording, tables });
            }
        }
        let Some(known) = recorded else { return Ok(()) };
        known.recorded.replay()?;
        let words = known.samples.words()?;
        for ((session, &(_, to)), token) in sessions.iter_mut().zip(spans).zip(words) {
            session.samples.push(token);
            session.done = to;
        }
        Ok(())
    }

    /// Computes the rows of positions `spans[i].0 .. spans[i].1` of each session.
    fn pass(&self, generator: &Generator, sessions: &mut [Session<'_>], spans: &[(usize, usize)]) -> Result<()> {
        let tables = self.tables(generator, sessions, spans)?;
        let yields = self.compute(generator, sessions, spans, &tables)?;
        let prompts: Vec<Symbols> = sessions.iter().map(|session| session.symbols).collect();
        for (at, &node) in generator.kept.iter().enumerate() {
            let Some(Form::Rows { per, first }) = generator.forms[node] else { continue };
            let tensor = if at == 0 { &yields.samples } else { &yields.kept[at] };
            let Some(tensor) = tensor else { continue };
            let words = if at == 0 { tensor.words()? } else { Vec::new() };
            let mut start = 0;
            for (session, (_, count)) in sessions.iter_mut().zip(rows_of(per, first, spans, &prompts)) {
                if at == 0 {
                    session.samples.extend_from_slice(&words[start..start + count]);
                } else if count > 0 {
                    session.kept[at].push(tensor.narrowed(start, count)?);
                }
                start += count;
            }
        }
        for (session, &(_, to)) in sessions.iter_mut().zip(spans) {
            session.done = to;
        }
        Ok(())
    }

    /// Tables for a pass.
    fn tables(&self, generator: &Generator, sessions: &[Session<'_>], spans: &[(usize, usize)]) -> Result<Tables> {
        let device = &self.device;
        let rows: usize = spans.iter().map(|(from, to)| to - from).sum();
        let mut forms: Vec<(usize, Dim, RowTables)> = Vec::new();
        let prompts: Vec<Symbols> = sessions.iter().map(|session| session.symbols).collect();
        for form in generator.plan.steps.iter().filter_map(|step| generator.forms[step.yields]) {
            let Form::Rows { per, first } = form else { continue };
            if forms.iter().any(|(known, from, _)| (*known, *from) == (per, first)) {
                continue;
            }
            let count: usize = rows_of(per, first, spans, &prompts).iter().map(|(_, count)| count).sum();
            let positions = device.allocate(4 * count)?;
            let samplings = device.allocate(32 * count)?;
            let greedy = sessions.iter().all(|session| greedy(session.request));
            forms.push((per, first, RowTables { positions, samplings, greedy }));
        }
        // As many as there will be while rows come one by one; else as many as there are now.
        let single = spans.iter().all(|(from, to)| to - from == 1);
        let longest = sessions.iter().zip(spans).map(|(session, span)| if single { session.capacity } else { span.1 });
        let longest = longest.max().unwrap_or(0);
        let extents = device.allocate(4 * rows)?;
        let mut layers = Vec::new();
        let attention = generator.plan.steps.iter().filter_map(|step| step.attention.as_ref());
        for (layer, parts) in attention.enumerate() {
            let width = |node: usize| generator.shapes.extents[node].cols;
            let shape = heads(parts, width(parts.queries), width(parts.values));
            let readers: Vec<Readers> = sessions
                .iter()
                .zip(spans)
                .map(|(session, (from, to))| {
                    let Cache { keys, values } = &session.caches[layer];
                    Readers { keys: keys.address(), values: values.address(), rows: to - from }
                })
                .collect();
            let of = |cache: fn(&Readers) -> u64| {
                let addresses = readers.iter().flat_map(|reader| std::iter::repeat_n(cache(reader), reader.rows));
                device.upload(&addresses.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
            };
            layers.push(Layer {
                rows: AttentionRows::new(device, shape.group, &readers, extents.clone(), longest)?,
                keys: of(|reader| reader.keys)?,
                values: of(|reader| reader.values)?,
            });
        }
        let members = sessions.iter().zip(spans).map(|(session, (from, to))| (session.index, to - from)).collect();
        let tokens = device.allocate(4 * rows)?;
        let positions = device.allocate(4 * rows)?;
        let mut tables = Tables { members, tokens, forms, positions, extents, layers };
        self.refresh(&mut tables, sessions, spans)?;
        Ok(tables)
    }

    /// Writes what changes from pass to pass.
    fn refresh(&self, tables: &mut Tables, sessions: &[Session<'_>], spans: &[(usize, usize)]) -> Result<()> {
        let device = &self.device;
        let write = |buffer: &Buffer, words: Vec<u32>| {
            device.write(buffer, &words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        };
        let all = sessions.iter().zip(spans);
        let tokens = all.clone().flat_map(|(session, &(from, to))| session.tokens[from..to].iter().copied());
        write(&tables.tokens, tokens.collect())?;
        let positions = spans.iter().flat_map(|&(from, to)| from..to);
        write(&tables.positions, positions.clone().map(short).collect::<Result<_>>()?)?;
        write(&tables.extents, positions.map(|position| short(position + 1)).collect::<Result<_>>()?)?;
        let prompts: Vec<Symbols> = sessions.iter().map(|session| session.symbols).collect();
        for (per, first, rows) in &tables.forms {
            let held = rows_of(*per, *first, spans, &prompts);
            let held = held
                .iter()
                .zip(sessions)
                .flat_map(|(&(start, count), session)| (start..start + count).map(move |row| (session.request, row)));
            write(&rows.positions, held.clone().map(|(_, row)| short(row)).collect::<Result<_>>()?)?;
            if !rows.greedy {
                write(&rows.samplings, held.flat_map(|(request, row)| sampling(request, row)).collect())?;
            }
        }
        Ok(())
    }

    /// Launches all steps of a pass.
    fn compute(
        &self,
        generator: &Generator,
        sessions: &[Session<'_>],
        spans: &[(usize, usize)],
        tables: &Tables,
    ) -> Result<Yield> {
        let program = &self.model.program;
        let prompts: Vec<Symbols> = sessions.iter().map(|session| session.symbols).collect();
        let requests: Vec<&Request> = sessions.iter().map(|session| session.request).collect();
        let run = self.run(generator.shapes.clone(), &requests, &[]);
        let mut tensors: Vec<Option<Tensor>> = vec![None; program.nodes.len()];
        let mut extents = generator.shapes.extents.clone();
        for (node, tensor) in &self.constants {
            tensors[*node] = Some(tensor.clone());
        }
        let mut yields = Yield { samples: None, kept: vec![None; generator.kept.len()] };
        let mut ahead = HashMap::new();
        let mut layer = 0;
        for task in self.by_rows.tasks() {
            let step = task.step;
            let Some(Form::Rows { per, first }) = generator.forms[step.yields] else { continue };
            let rows = rows_of(per, first, spans, &prompts);
            let total: usize = rows.iter().map(|(_, count)| count).sum();
            let cols = generator.shapes.extents[step.node].cols;
            for node in [step.node, step.yields] {
                extents[node] = Extent { shared: true, rows: total, cols };
            }
            let tensor = if total == 0 {
                None
            } else if step.node == 0 {
                Some(Tensor::in_buffer(tables.tokens.clone(), DType::U32, total, 1))
            } else if let Some(moves) = &generator.moves[step.yields] {
                Some(self.moved(generator, &run, step, moves, &rows, &tensors, (spans, &prompts))?)
            } else if let Some(parts) = &step.attention {
                let tensor = |node: usize| {
                    let known = tensors[node].as_ref();
                    known.ok_or_else(|| DeviceError::Failed(format!("node {node} was not computed")))
                };
                let (q, k, v) = (tensor(parts.queries)?, tensor(parts.keys)?, tensor(parts.values)?);
                let tables_of = &tables.layers[layer];
                layer += 1;
                self.device.append_rows((&tables_of.keys, &tables_of.values), &tables.positions, (k, v))?;
                let shape = heads(parts, q.cols, v.cols);
                Some(task.made(self.device.attention(q, &shape, &tables_of.rows, task.group())?, &mut ahead))
            } else {
                let own = tables.forms.iter().find(|(known, from, _)| (*known, *from) == (per, first));
                let now = Now { extents: &extents, batch: 1, rows: own.map(|(_, _, rows)| rows) };
                Some(run.step(&task, &tensors, &now, &mut ahead)?)
            };
            if let (Some(at), Some(tensor)) = (generator.kept.iter().position(|&node| node == step.yields), &tensor) {
                if at == 0 {
                    yields.samples = Some(tensor.clone());
                } else {
                    yields.kept[at] = Some(tensor.clone());
                }
            }
            tensors[step.yields] = tensor;
            task.release.iter().for_each(|&node| tensors[node] = None);
        }
        Ok(yields)
    }

    /// The new rows of a view.
    #[allow(clippy::too_many_arguments)] // the state of a pass
    fn moved(
        &self,
        generator: &Generator,
        run: &Run<'_>,
        step: &Step,
        moves: &Moves,
        rows: &[(usize, usize)],
        tensors: &[Option<Tensor>],
        (spans, prompts): (&[(usize, usize)], &[Symbols]),
    ) -> Result<Tensor> {
        let node = &self.model.program.nodes[step.node];
        let failed = |what: &str| DeviceError::Failed(what.to_string());
        let Some(Form::Rows { per, .. }) = generator.forms[step.yields] else {
            return Err(failed("a view without a form"));
        };
        let now = Now { extents: &generator.shapes.extents, batch: 1, rows: None };
        let (source, _) = run.operand(node.inputs.first(), tensors, &now)?;
        let parts = generator.parts(node.inputs.first(), (per, moves), rows, spans, prompts).map_err(failed)?;
        let parts = parts.into_iter().map(|(first, rows)| source.narrowed(first, rows)).collect::<Result<Vec<_>>>()?;
        let source = self.device.stacked(&parts)?;
        let total = source.rows / moves.per;
        let cols = generator.shapes.extents[step.node].cols;
        match (&moves.table, &node.op) {
            (Some(IndexMap::Table(_)), Op::View(view)) => {
                let table = self.moves.get(&step.yields).ok_or_else(|| failed("a view without a table"))?;
                self.device.moved(table, view.fill, (total, per, cols), &source)
            }
            _ => source.reshaped(total * per, cols),
        }
    }
}
