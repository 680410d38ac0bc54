//! What operators lie about: in every family of operations, at the first, a middle and the last node, in the input's copy, the answer's bytes, the tokens, the
//! partials, the words of the claim, and in what is shown of what was hashed. Each liar is a real relayer with an engine that lies, each watcher a real
//! relayer; all rows of a table play at once, on one chain.
//!
//! After every table: each liar was slashed once for each lie, each request was answered right by an honest operator (or refunded where there is no
//! answer), and all balances add up to the wei.
//!
//!     CANDOR_SEEDS=100 cargo test --workspace --test dispute_lies -- --ignored --nocapture

use anyhow::{Context, Result, ensure};
use candor_relayer::engine::InferRequest;
use candor_sdk::{
    bindings::{Outcome, Turn},
    dispute::Case,
    ids::RequestId,
    program::Op,
};
use candor_tests::{
    Court, Running,
    liars::{FAMILIES, Lie, LyingEngine, SmallModel, Story, family},
    world::{ether, out_of_time},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

/// How many questions are tried for a node that a lie about is to change the answer of.
const QUESTIONS: usize = 4;
/// Operations that no lie about changes the answer of a right run by: checks.
const CHECKS: [&str; 2] = ["CheckGenerated", "CheckLength"];

/// A lie, and how it ends.
struct Row {
    name: String,
    model: usize,
    question: InferRequest,
    lie: Lie,
    /// Whether the liar gets stuck: it can't show what it hashed, and loses by time.
    stuck: bool,
}

/// Numbers for questions, another one each time.
struct Questions(u64);

impl Questions {
    fn ask(&mut self, small: &SmallModel) -> InferRequest {
        self.0 += 1;
        small.question(self.0)
    }
}

impl Row {
    fn new(name: impl Into<String>, model: usize, question: InferRequest, lie: Lie) -> Self {
        Self { name: name.into(), model, question, lie, stuck: false }
    }
}

/// How a lie went.
struct Went {
    row: Row,
    id: RequestId,
    case: Case,
    story: Arc<Story>,
}

/// Everybody lies at once; what came of it.
async fn trial(court: &mut Court, rows: Vec<Row>) -> Result<Vec<Went>> {
    let started = Instant::now();
    let models: BTreeSet<usize> = rows.iter().map(|row| row.model).collect();
    let (mut liars, mut relayers, mut watchers) = (HashMap::new(), Vec::new(), HashMap::new());
    for &model in &models {
        let small = court.small[model].clone();
        let lies = rows.iter().filter(|row| row.model == model);
        let lies: HashMap<_, _> = lies.map(|row| (row.question.input.clone(), row.lie.clone())).collect();
        ensure!(lies.len() == rows.iter().filter(|row| row.model == model).count(), "two rows ask the same");
        let engine = Arc::new(LyingEngine::new(&small, lies));
        let operator = court.world.operator_for(ether(10), &[small.id]).await?;
        let served = HashMap::from([(small.id, small.served(engine.clone()))]);
        relayers.push(court.operator(&format!("liar of {}", small.name), &operator, served).await?);
        let account = court.world.account().await?;
        let served = HashMap::from([(small.id, small.honest())]);
        relayers.push(court.watcher(&format!("watcher of {}", small.name), &account, served, ether(10)).await?);
        liars.insert(model, engine);
        watchers.insert(model, account.address());
    }
    let all: Vec<&Running> = relayers.iter().collect();
    let mut ids = Vec::new();
    for row in &rows {
        let asked = court.ask(court.small[row.model].id, &row.question).await;
        ids.push(asked.with_context(|| row.name.clone())?);
    }
    let (stuck, caught): (Vec<_>, Vec<_>) = rows.iter().zip(&ids).partition(|(row, _)| row.stuck);
    let caught: Vec<RequestId> = caught.into_iter().map(|(_, id)| *id).collect();
    court.convicted(&caught, &all).await?;
    for (row, id) in stuck {
        // It is its turn, and it has nothing to show.
        let look = async || {
            let cases = court.cases(*id).await?;
            let stands =
                |case: &Case| matches!(case.turn(), Turn::Reveal | Turn::RevealLeaf) && case.dispute().inTensor;
            Ok(cases.iter().any(stands).then_some(()))
        };
        court.wait(&format!("{}: the liar is stuck", row.name), &all, look).await?;
    }
    if rows.iter().any(|row| row.stuck) {
        court.world.pass(out_of_time()).await?;
        court.convicted(&ids, &all).await?;
    }
    court.over(&all).await?;
    println!("{} lies convicted in {:.1?}", rows.len(), started.elapsed());
    court.answer(&ids, &all).await?;
    let mut went = Vec::new();
    for (row, id) in rows.into_iter().zip(ids) {
        let mut cases = court.cases(id).await?;
        ensure!(cases.len() == 1, "{}: {} disputes", row.name, cases.len());
        let case = cases.remove(0);
        let ended = case.ended.context("it goes on")?;
        ensure!(ended.outcome == Outcome::Rejected, "{}: {:?}", row.name, ended.outcome);
        ensure!(ended.winner == watchers[&row.model], "{}: won by {}", row.name, ended.winner);
        let operator = case.moves.iter().filter(|made| made.by == case.opened.operator).count() + 1;
        ensure!(operator <= 8, "{}: {operator} moves of the operator", row.name);
        let question = court.question(id).await?;
        let (story, _) = liars[&row.model].story(&question)?.context("no story")?;
        if let Some(node) = story.node {
            let place = case.dispute();
            ensure!(place.inTensor && place.node == node, "{}: convicted at node {}, not {node}", row.name, place.node);
        }
        went.push(Went { row, id, case, story });
    }
    for relayer in relayers {
        relayer.stop().await?;
    }
    court.close_books(went.len()).await?;
    println!("answered right, and all balances add up, after {:.1?}", started.elapsed());
    Ok(went)
}

fn print(court: &Court, went: &[Went]) {
    for Went { row, id, case, story } in went {
        let small = &court.small[row.model];
        let op = story.node.map_or("", |node| small.model.program.nodes[node as usize].op.name());
        let moves = case.moves.len() + usize::from(case.claim.is_some());
        println!("request {id:>3}  {:<11} {:<44} {op:<16} {moves:>2} moves", small.name, row.name);
    }
}

fn find(court: &Court, name: &str) -> Result<usize> {
    court.small.iter().position(|small| small.name == name).with_context(|| format!("no model {name}"))
}

/// The first node of a model with such an operation.
fn node_of(court: &Court, model: usize, wanted: impl Fn(&Op) -> bool) -> Result<u32> {
    let nodes = &court.small[model].model.program.nodes;
    Ok(u32::try_from(nodes.iter().position(|node| wanted(&node.op)).context("no such node")?)?)
}

/// Of each model the first, a middle and the last node; of each operation the first node of the first model that has it, unless it was among those.
fn nodes(court: &Court, questions: &mut Questions) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut covered = BTreeSet::new();
    let mut row = |model: usize, node: u32, op: &Op, place: &str, covered: &mut BTreeSet<_>| -> Result<bool> {
        let mut question = questions.ask(&court.small[model]);
        if matches!(op, Op::Detokenise) {
            // What is sampled may have no text, and it is the chain that draws the seed.
            (question.params.temperature, question.params.min_p) = (0, 0);
        }
        let lie = Lie::Node(node, u64::from(node));
        // Of some nodes no lie changes the answer: the check of a right token, say.
        if Story::of(&court.small[model].model, &question, &lie).is_err() {
            return Ok(false);
        }
        covered.insert(op.name());
        rows.push(Row::new(format!("{place} node, {} ({})", op.name(), family(op)), model, question, lie));
        Ok(true)
    };
    for (model, small) in court.small.iter().enumerate() {
        let nodes = small.nodes(&small.question(0))?;
        for (place, from) in [("first", 0), ("a middle", nodes.len() / 2), ("last", nodes.len() - 1)] {
            for &(node, op) in &nodes[from..] {
                if row(model, node, op, place, &mut covered)? {
                    break;
                }
            }
        }
    }
    for (model, small) in court.small.iter().enumerate() {
        for (node, op) in (0u32..).zip(small.model.program.nodes.iter().map(|node| &node.op)) {
            for _ in 0..QUESTIONS {
                if !covered.contains(op.name()) {
                    row(model, node, op, "a", &mut covered)?;
                }
            }
        }
    }
    Ok(rows)
}

/// Lies that are not one element of a run: about the answer, the claim, the tokens, the partials, what was hashed, and requests without an answer.
fn others(court: &Court, questions: &mut Questions) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (causal, wide, bert) = (find(court, "causal")?, find(court, "wide")?, find(court, "bert")?);
    let quantised = find(court, "quantised")?;
    for model in [find(court, "mlp")?, causal] {
        rows.push(Row::new(
            "another answer than the run gives",
            model,
            questions.ask(&court.small[model]),
            Lie::Answer,
        ));
    }
    for (name, lie) in [
        ("a claim of a longer input", Lie::Words(|symbols| symbols.input_bytes += 4)),
        ("a claim of another prompt", Lie::Words(|symbols| symbols.prompt += 1)),
        ("a claim of a longer sequence", Lie::Words(|symbols| symbols.sequence += 7)),
        ("a claim of a longer text", Lie::Words(|symbols| symbols.output_bytes += 1)),
        ("a token that was not sampled, admitted", Lie::Token { admitted: true }),
        ("a token that was not sampled, denied", Lie::Token { admitted: false }),
        ("a token that does not exist", Lie::UnknownToken),
    ] {
        rows.push(Row::new(name, causal, questions.ask(&court.small[causal]), lie));
    }
    // Greedy, for several tokens.
    let mut question = questions.ask(&court.small[causal]);
    (question.params.max_tokens, question.params.temperature, question.params.min_p) = (5, 0, 0);
    rows.push(Row::new("a token less than was generated", causal, question, Lie::Short));

    let linear = node_of(court, wide, |op| matches!(op, Op::Linear))?;
    let lie = |stuck, name, model: usize, lie, questions: &mut Questions| Row {
        stuck,
        ..Row::new(name, model, questions.ask(&court.small[model]), lie)
    };
    rows.push(lie(false, "a sum that its partials do not give", wide, Lie::Node(linear, 1), questions));
    rows.push(lie(false, "partials of other operands", wide, Lie::Partials(linear, 1), questions));
    let product = node_of(court, quantised, |op| matches!(op, Op::QuantLinear))?;
    rows.push(lie(false, "a quantised sum", quantised, Lie::Node(product, 1), questions));
    rows.push(lie(false, "quantised partials of other operands", quantised, Lie::Partials(product, 1), questions));
    rows.push(lie(true, "a leaf that was not hashed", wide, Lie::Shown(linear, 2), questions));
    let gathered = node_of(court, bert, |op| matches!(op, Op::Gather))?;
    rows.push(lie(true, "hashes that were not hashed", bert, Lie::Shown(gathered, 2), questions));

    for (name, model, input, alike) in [
        ("a request that is no text", quantised, b"gr\xff\xfen".to_vec(), b"green".to_vec()),
        (
            "a request with a token that does not exist",
            bert,
            vec![0, 0, 0, 99, 0, 0, 0, 1],
            vec![0, 0, 0, 9, 0, 0, 0, 1],
        ),
    ] {
        let question = |input| InferRequest { input, ..InferRequest::default() };
        rows.push(Row::new(name, model, question(input), Lie::Unanswerable(question(alike))));
    }
    Ok(rows)
}

/// Lies anywhere, in any model, in any bits.
fn random(court: &Court, questions: &mut Questions, seeds: std::ops::Range<u64>) -> Vec<Row> {
    let row = |seed: u64| {
        let model = (seed % court.small.len() as u64) as usize;
        Row::new(format!("seed {seed}"), model, questions.ask(&court.small[model]), Lie::Anywhere(seed))
    };
    seeds.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_in_every_operation_is_convicted() -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let rows = nodes(&court, &mut Questions(0))?;
    let went = trial(&mut court, rows).await?;
    print(&court, &went);
    let convicted = went.iter().filter_map(|went| {
        let node = went.story.node?;
        Some(&court.small[went.row.model].model.program.nodes[node as usize].op)
    });
    let mut families = BTreeMap::<_, BTreeSet<_>>::new();
    convicted.for_each(|op| _ = families.entry(family(op)).or_default().insert(op.name()));
    println!("{families:?}");
    for family in FAMILIES {
        ensure!(families.contains_key(family), "nobody lied about the {family} family");
    }
    let all = court.small.iter().flat_map(|small| &small.model.program.nodes).map(|node| node.op.name());
    let told: BTreeSet<_> = families.into_values().flatten().chain(CHECKS).collect();
    let untold: BTreeSet<_> = all.filter(|op| !told.contains(op)).collect();
    ensure!(untold.is_empty(), "nobody lied about {untold:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_answers_claims_tokens_partials_and_hashes_are_convicted() -> Result<()> {
    let mut court = Court::with_small_models().await?;
    let mut questions = Questions(0);
    let mut rows = others(&court, &mut questions)?;
    rows.extend(random(&court, &mut questions, 0..7));
    let went = trial(&mut court, rows).await?;
    print(&court, &went);
    Ok(())
}

#[ignore = "minutes; CANDOR_SEEDS liars (100)"]
#[tokio::test(flavor = "multi_thread")]
async fn random_liars_lose_everywhere() -> Result<()> {
    let seeds = std::env::var("CANDOR_SEEDS").map_or(Ok(100), |text| text.parse())?;
    let mut court = Court::with_small_models().await?;
    let rows = random(&court, &mut Questions(0), 0..seeds);
    let went = trial(&mut court, rows).await?;
    print(&court, &went);
    let moves: usize = went.iter().map(|went| went.case.moves.len() + 1).sum();
    println!("{seeds} liars, all of them convicted in {moves} moves, and all balances add up");
    Ok(())
}
