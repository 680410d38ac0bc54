//! Whole games of strategy against strategy, in the real contracts: every node of every model, and operators that lie in every other way.
//!
//!     CANDOR_SEEDS=1000 cargo test --release -p candor-sdk --test dispute random -- --nocapture

use crate::{
    evm::{Answered, Evm, GAS_PRICE, Key, Result, STAKE, WINDOW, terms},
    liars::{self, Lie},
    models::{self, Numbers},
};
use alloy_primitives::{Address, U256, keccak256};
use candor_sdk::{
    bindings::{
        Claim, Fault, IDisputeGame, IInferenceOracle, IOperatorRegistry, ModelDescriptor, Outcome, PackedRequest,
        Params, RequestStatus,
    },
    dispute::{
        Accusation, Case, MemoryTrace, Move, Opinion, PlayError, Screening, Trace, challenge, defend, evidence, screen,
        undefined,
    },
    program::{Interpreter, Model, Op, Request, Run, Tensor, TensorData},
    proof::ModelTrees,
    request::Request as OnChain,
};

/// Ends a test with what is wrong.
macro_rules! ensure {
    ($right:expr) => {
        if !$right {
            return Err(concat!("not so: ", stringify!($right)).into());
        }
    };
    ($right:expr, $($text:tt)+) => {
        if !$right {
            return Err(format!($($text)+).into());
        }
    };
}

/// Says where something went wrong.
trait Context<T> {
    fn context(self, place: impl std::fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Option<T> {
    fn context(self, place: impl std::fmt::Display) -> Result<T> {
        self.ok_or_else(|| place.to_string().into())
    }
}

impl<T> Context<T> for Result<T> {
    fn context(self, place: impl std::fmt::Display) -> Result<T> {
        self.map_err(|error| format!("{place}: {error}").into())
    }
}

/// A model with what its id commits to.
struct Known {
    name: &'static str,
    model: Model,
    descriptor: ModelDescriptor,
    trees: ModelTrees,
    ask: Request,
}

fn known() -> Vec<Known> {
    let (wide, request) = liars::wide();
    let all = models::all().into_iter().chain([("wide", wide, request)]);
    all.map(|(name, model, ask)| {
        let (descriptor, trees) = ((&model.descriptor()).into(), ModelTrees::new(&model));
        Known { name, model, descriptor, trees, ask }
    })
    .collect()
}

/// Two players and a chain.
struct Table<'a> {
    evm: Evm,
    known: &'a Known,
    operator: Key,
    challenger: Key,
    /// The request as the chain made it: its seed is the chain's.
    request: Request,
    packed: PackedRequest,
}

/// Gas of each side of a game, and moves.
#[derive(Debug, Default, Clone, Copy)]
struct Bill {
    operator: u64,
    challenger: u64,
    largest: u64,
    moves: usize,
}

impl<'a> Table<'a> {
    fn new(known: &'a Known, ask: &Request) -> Result<Self> {
        let mut evm = Evm::new()?;
        let (operator, challenger) = (Key::new(1), Key::new(2));
        evm.register(&known.descriptor)?;
        evm.operator(&operator, 4, &known.descriptor)?;
        evm.fund(challenger.address());
        let params =
            Params { maxTokens: ask.params.max_tokens, temperature: ask.params.temperature, minP: ask.params.min_p };
        let packed = evm.ask(&known.descriptor, &ask.input, params)?;
        let request = Request { seed: packed.seed.0, ..ask.clone() };
        Ok(Self { evm, known, operator, challenger, request, packed })
    }

    fn answer(&mut self, output: &[u8]) -> Result<Answered> {
        self.evm.answer(&self.operator, self.packed, &self.request.input, output)
    }

    fn case(&self, id: u64) -> Result<Case> {
        self.evm.docket.case(id).cloned().context("no such dispute")
    }

    /// What an honest challenger thinks of a claim.
    fn opinion(&self, case: &Case) -> Result<Opinion<MemoryTrace>> {
        let claimed = case.claim.as_ref().context("no claim")?;
        let model = &self.known.model;
        Ok(match screen(model, &self.request, claimed) {
            Screening::WrongClaim => Opinion::WrongClaim,
            Screening::Undefined(place) => Opinion::NoRun(place),
            Screening::Replay(tokens) => {
                let trace = MemoryTrace::new(Interpreter::new(model).replay(&self.request, &tokens)?);
                let undefined = undefined(model, &claimed.claim, &trace);
                Opinion::Run { trace, undefined }
            }
        })
    }

    /// Sends a move; what the contract says to it.
    fn make(
        &mut self,
        from: Address,
        case: &Case,
        next: &Move,
        opinion: Option<&Opinion<MemoryTrace>>,
        output: &[u8],
    ) -> Result<Result<u64, String>> {
        let known = self.known;
        let proof = match opinion {
            Some(opinion) => evidence(case, &known.model, &known.trees, &self.request, output, opinion, next)?,
            None => None,
        };
        let data = next.calldata(case, &known.descriptor, proof).context("a move without a call")?;
        let game = self.evm.game;
        self.evm.now += 1;
        Ok(self.evm.try_send(from, game, U256::ZERO, data)?.map(|receipt| receipt.gas))
    }

    /// A game of an operator with this trace against a challenger that has an opinion. `bend` may change the operator's moves; `None`: it is silent.
    fn play(
        &mut self,
        result: &Answered,
        id: u64,
        trace: &MemoryTrace,
        bend: &dyn Fn(Move) -> Option<Move>,
        opinion: Option<&Opinion<MemoryTrace>>,
    ) -> Result<(Bill, Option<Accusation>)> {
        let (operator, challenger) = (self.operator.address(), self.challenger.address());
        let mut bill = Bill::default();
        let mut own = opinion.cloned();
        for _ in 0..60 {
            let case = self.case(id)?;
            if case.ended.is_some() {
                return Ok((bill, None));
            }
            if case.is_operators_turn() {
                let next = defend(&case, &self.known.model, &result.input, trace)?
                    .context("the operator's turn without a move")?;
                let Some(next) = bend(next) else { return Ok((bill, None)) };
                match self.make(operator, &case, &next, None, &result.output)? {
                    Ok(gas) => {
                        bill.operator += gas;
                        bill.largest = bill.largest.max(gas);
                        bill.moves += 1;
                    }
                    Err(_) => return Ok((bill, None)), // refused: it runs out of time
                }
                continue;
            }
            let own = match &own {
                Some(own) => own,
                None => own.insert(self.opinion(&case)?),
            };
            let next = match challenge(&case, &self.known.model, own) {
                Ok(Some(next)) => next,
                Ok(None) | Err(PlayError::NothingDiffers(_)) => return Ok((bill, None)),
                Err(error) => return Err(error.into()),
            };
            match self.make(challenger, &case, &next, Some(own), &result.output)? {
                Ok(gas) => {
                    bill.challenger += gas;
                    bill.largest = bill.largest.max(gas);
                }
                Err(_) if opinion.is_some() => return Ok((bill, None)), // a false challenger, refused
                Err(reason) => return Err(format!("{}: {reason}: {next:?}", self.known.name).into()),
            }
            if let Move::Prove(accusation) = next {
                return Ok((bill, Some(accusation)));
            }
        }
        Err("a game without end".into())
    }

    /// The operator's clock runs out, if the game is not over.
    fn expire(&mut self, result: &Answered, id: u64) -> Result<()> {
        let case = self.case(id)?;
        if case.ended.is_none() {
            self.evm.now += 2_000;
            let call = IDisputeGame::timeoutCall {
                dispute: case.dispute().clone(),
                request: result.request,
                fulfillment: result.fulfillment.clone(),
            };
            let (game, anybody) = (self.evm.game, self.challenger.address());
            self.evm.send(anybody, game, U256::ZERO, &call)?;
        }
        Ok(())
    }

    /// The result fell: it is slashed, the challenger is paid, and everything adds up.
    fn convicted(&mut self, result: &Answered, id: u64) -> Result<()> {
        let case = self.case(id)?;
        let ended = case.ended.context("the dispute goes on")?;
        ensure!(ended.outcome == Outcome::Rejected, "{:?}", ended.outcome);
        let (game, challenger) = (self.evm.game, self.challenger.address());
        let input = result.input.clone().into();
        let call = IDisputeGame::rejectCall { request: result.request, fulfillment: result.fulfillment.clone(), input };
        let before = self.stake()?;
        self.evm.send(challenger, game, U256::ZERO, &call)?;
        ensure!(before - self.stake()? == U256::from(STAKE), "the stake was not slashed");
        let credit = self.evm.credit(challenger)?;
        ensure!(credit == ended.paid && credit > U256::from(terms().bond) + U256::from(terms().reward), "{credit}");
        self.solvent()?;
        let id = OnChain::unpack(&result.request)?.id.0;
        let status = self.evm.view(self.evm.oracle, IInferenceOracle::statusOfCall { id })?.status;
        ensure!(status == RequestStatus::Requested, "the request is {status:?}, not open again");
        Ok(())
    }

    fn stake(&mut self) -> Result<U256> {
        let (operators, operator) = (self.evm.operators, self.operator.address());
        let call = IOperatorRegistry::stakeOfCall { operator };
        Ok(self.evm.view(operators, call)?.stake)
    }

    /// The challenger's clock ran out: the bond is gone, the operator has its gas back, and everything adds up.
    fn upheld(&mut self, result: &Answered, id: u64) -> Result<()> {
        self.expire(result, id)?;
        let ended = self.case(id)?.ended.context("the dispute goes on")?;
        ensure!(ended.outcome == Outcome::Upheld, "{:?}", ended.outcome);
        let (operator, challenger) = (self.operator.address(), self.challenger.address());
        ensure!(self.evm.credit(challenger)?.is_zero() && self.evm.credit(operator)? == ended.paid);
        self.solvent()
    }

    /// The game holds what it owes: with no dispute open, the credits.
    fn solvent(&mut self) -> Result<()> {
        let (operator, challenger, game) = (self.operator.address(), self.challenger.address(), self.evm.game);
        let owed = self.evm.credit(operator)? + self.evm.credit(challenger)?;
        let held = self.evm.balance(game)?;
        ensure!(held == owed, "the game holds {held} wei and owes {owed}");
        Ok(())
    }
}

/// A run of the model on the request that the chain made.
fn run(table: &Table<'_>) -> Result<Run> {
    Ok(table.known.model.interpret(&table.request)?)
}

/// A whole game against a lie, with everything that follows.
fn convict(known: &Known, lie: impl Fn(&Run) -> Lie) -> Result<(Bill, Accusation)> {
    let mut table = Table::new(known, &known.ask)?;
    let run = run(&table)?;
    let lie = lie(&run);
    let tensors = liars::tensors(&known.model, &table.request, &run, lie);
    let liar = liars::trace(&run, tensors);
    let result = table.answer(liar.output())?;
    let id = table.evm.challenge(table.challenger.address(), &result)?;
    let played = table.play(&result, id, &liar, &Some, None);
    let (bill, accusation) = played.context(format!("{} {lie:?}", known.name))?;
    let accusation = accusation.context(format!("{} {lie:?}: nobody was accused", known.name))?;
    ensure!(accusation.place.node as usize == lie.node, "{} {lie:?}: {accusation:?}", known.name);
    table.convicted(&result, id).context(format!("{} {lie:?}", known.name))?;
    Ok((bill, accusation))
}

#[test]
fn a_lie_in_any_node_of_any_model_is_convicted() -> Result<()> {
    let mut n = Numbers::new(43);
    for known in &known() {
        let nodes = known.model.program.nodes.len();
        let mut largest = Bill::default();
        for node in 0..nodes {
            let element = n.next();
            let flip = 1 << (n.next() % 32);
            let lie = |run: &Run| {
                let elements = (run.tensors[node].rows() * run.tensors[node].cols()) as u64;
                Lie { node, element: (element % elements.max(1)) as usize, flip }
            };
            let run = known.model.interpret(&known.ask)?;
            if run.tensors[node].rows() * run.tensors[node].cols() == 0 {
                continue;
            }
            let (bill, _) = convict(known, lie)?;
            ensure!(bill.moves <= 8, "{} {node}: {} moves of the operator", known.name, bill.moves);
            if bill.operator + bill.challenger > largest.operator + largest.challenger {
                largest = bill;
            }
        }
        println!("{}: {nodes} nodes, dearest game {largest:?}", known.name);
    }
    Ok(())
}

/// Lies anywhere, in any bits.
#[test]
fn random_liars_lose() -> Result<()> {
    let seeds: u64 = match std::env::var("CANDOR_SEEDS") {
        Ok(text) => text.parse()?,
        Err(_) => 30,
    };
    let all = known();
    for seed in 0..seeds {
        let known = &all[(seed % all.len() as u64) as usize];
        let mut n = Numbers::new(seed);
        let pick = n.next();
        convict(known, |run| Lie::random(run, &mut Numbers::new(pick))).context(format!("seed {seed}"))?;
    }
    println!("{seeds} liars, all of them convicted, and all balances add up");
    Ok(())
}

/// An operator that is right against challengers that run another model: they lose their bond, whatever they point at.
#[test]
fn an_honest_operator_wins_against_every_false_challenger() -> Result<()> {
    let mut n = Numbers::new(44);
    for known in &known() {
        for _ in 0..4 {
            let mut table = Table::new(known, &known.ask)?;
            let run = run(&table)?;
            let honest = MemoryTrace::new(run.clone());
            let lie = Lie::random(&run, &mut n);
            let mistaken = liars::trace(&run, liars::tensors(&known.model, &table.request, &run, lie));
            let opinion = Opinion::Run { trace: mistaken, undefined: None };
            let result = table.answer(honest.output())?;
            let id = table.evm.challenge(table.challenger.address(), &result)?;
            let (_, accusation) = table.play(&result, id, &honest, &Some, Some(&opinion))?;
            ensure!(accusation.is_none(), "{} {lie:?}: convicted by {accusation:?}", known.name);
            table.upheld(&result, id).context(format!("{} {lie:?}", known.name))?;
        }
    }
    Ok(())
}

/// Silence and nonsense at every one of the operator's moves: it runs out of time.
#[test]
fn an_operator_that_stops_or_talks_nonsense_loses() -> Result<()> {
    let known = &known()[3];
    ensure!(known.name == "causal", "the model with the longest game");
    for stop in 0..6 {
        for silent in [true, false] {
            let mut table = Table::new(known, &known.ask)?;
            let run = run(&table)?;
            let node = models::find(&known.model, |op| matches!(op, Op::AttentionScores { .. }));
            let lie = Lie { node, element: 3, flip: 1 << 18 };
            let liar = liars::trace(&run, liars::tensors(&known.model, &table.request, &run, lie));
            let result = table.answer(liar.output())?;
            let id = table.evm.challenge(table.challenger.address(), &result)?;
            let made = std::cell::Cell::new(0);
            let bend = |next: Move| {
                let now = made.replace(made.get() + 1);
                match next {
                    _ if now < stop => Some(next),
                    _ if silent => None,
                    Move::Claim { mut claim, program_root, tokens, hashes } => {
                        claim.nodes += 1;
                        Some(Move::Claim { claim, program_root, tokens, hashes })
                    }
                    Move::Reveal(mut hashes) => {
                        hashes[0].0[0] ^= 1;
                        Some(Move::Reveal(hashes))
                    }
                    Move::RevealLeaf(leaf) => Some(Move::RevealLeaf(leaf[1..].to_vec().into())),
                    Move::RevealPartials(partials) => Some(Move::RevealPartials(partials[1..].to_vec().into())),
                    other => Some(other),
                }
            };
            table.play(&result, id, &liar, &bend, None)?;
            table.expire(&result, id)?;
            table.convicted(&result, id).context(format!("stopped after {stop} moves"))?;
        }
    }
    Ok(())
}

/// Partials that are wrong one way or another.
#[test]
fn wrong_partials_are_convicted() -> Result<()> {
    let all = known();
    let known = all.iter().find(|known| known.name == "wide").context("the model of three blocks")?;
    let node = models::find(&known.model, |op| matches!(op, Op::Linear));
    for (wrong, fault) in [(vec![], Fault::Sum), (vec![0], Fault::Partial), (vec![2], Fault::Partial)] {
        let mut table = Table::new(known, &known.ask)?;
        let run = run(&table)?;
        let lie = Lie { node, element: 1, flip: 1 << 20 };
        let liar = liars::trace(&run, liars::tensors(&known.model, &table.request, &run, lie));
        let result = table.answer(liar.output())?;
        let id = table.evm.challenge(table.challenger.address(), &result)?;
        let bend = |next: Move| match next {
            Move::RevealPartials(partials) => {
                let mut partials = partials.to_vec();
                wrong.iter().for_each(|part: &usize| partials[4 * part] ^= 1);
                Some(Move::RevealPartials(partials.into()))
            }
            next => Some(next),
        };
        let (_, accusation) = table.play(&result, id, &liar, &bend, None)?;
        ensure!(accusation.context("nobody was accused")?.fault == fault, "{wrong:?}: {accusation:?}");
        table.convicted(&result, id)?;
    }
    Ok(())
}

/// The trace is right, and the answer is another; a claim that no request allows; a sequence that was not generated, admitted or not.
#[test]
fn answers_and_claims_that_do_not_belong_to_the_run() -> Result<()> {
    for known in &known() {
        let mut table = Table::new(known, &known.ask)?;
        let run = run(&table)?;
        let honest = MemoryTrace::new(run.clone());
        let result = table.answer(b"another answer")?;
        let id = table.evm.challenge(table.challenger.address(), &result)?;
        let (bill, accusation) = table.play(&result, id, &honest, &Some, None)?;
        ensure!(accusation.context("nobody was accused")?.fault == Fault::Output && bill.moves == 1);
        table.convicted(&result, id)?;

        let bends: [fn(&mut Claim); 3] =
            [|claim| claim.inputBytes += 1, |claim| claim.prompt += 1, |claim| claim.sequence += 7];
        for bend in bends {
            let mut table = Table::new(known, &known.ask)?;
            let result = table.answer(honest.output())?;
            let id = table.evm.challenge(table.challenger.address(), &result)?;
            let bend = |next: Move| match next {
                Move::Claim { mut claim, program_root, tokens, hashes } => {
                    bend(&mut claim);
                    Some(Move::Claim { claim, program_root, tokens, hashes })
                }
                next => Some(next),
            };
            let (_, accusation) = table.play(&result, id, &honest, &bend, None)?;
            ensure!(accusation.context("nobody was accused")?.fault == Fault::Claim, "{}: {accusation:?}", known.name);
            table.convicted(&result, id)?;
        }
    }
    Ok(())
}

#[test]
fn sequences_that_were_not_generated_are_convicted() -> Result<()> {
    let known = &known()[3];
    let model = &known.model;
    for (kind, admits) in [
        ("other", true),
        ("other", false),
        ("short", true),
        ("short", false),
        ("long text", false),
        ("unknown token", false),
    ] {
        let mut table = Table::new(known, &known.ask)?;
        let right = run(&table)?;
        let mut tokens = right.generated.clone();
        match kind {
            "other" => tokens[0] = (tokens[0] + 1) % models::VOCABULARY,
            "short" => tokens.truncate(tokens.len() - 1),
            _ => {}
        }
        if tokens.is_empty() {
            continue; // the chain's seed gave a single token: nothing to leave out
        }
        let run = Interpreter::new(model).replay(&table.request, &tokens)?;
        let mut tensors = run.tensors.clone();
        if let (Some(check), false) = (run.failed_check, admits) {
            let rows = tensors[check.node as usize].rows();
            tensors[check.node as usize] = Tensor::new(rows, 1, TensorData::U32(vec![1; rows]));
        }
        let liar = liars::trace(&run, tensors);
        let result = table.answer(b"wrong")?;
        let id = table.evm.challenge(table.challenger.address(), &result)?;
        let bend = |next: Move| match next {
            Move::Claim { mut claim, program_root, tokens, hashes } => {
                let mut tokens = tokens.to_vec();
                if kind == "long text" {
                    claim.outputBytes += 1;
                }
                if kind == "unknown token" {
                    tokens[3] = 200;
                    claim.tokensHash = keccak256(&tokens);
                }
                Some(Move::Claim { claim, program_root, tokens: tokens.into(), hashes })
            }
            next => Some(next),
        };
        let (_, accusation) = table.play(&result, id, &liar, &bend, None).context(format!("{kind} {admits}"))?;
        let accusation = accusation.context(format!("{kind} {admits}: nobody was accused"))?;
        ensure!(accusation.fault == Fault::Element, "{kind} {admits}: {accusation:?}");
        let op = &model.program.nodes[accusation.place.node as usize].op;
        let expected = match kind {
            "long text" => matches!(op, Op::CheckLength),
            "unknown token" => matches!(op, Op::Input { .. }),
            _ => matches!(op, Op::CheckGenerated { .. }),
        };
        ensure!(expected, "{kind} {admits}: convicted at {op:?}");
        table.convicted(&result, id)?;
    }
    Ok(())
}

/// Requests without an answer that were answered all the same (P-15).
#[test]
fn whoever_answers_a_request_without_an_answer_is_convicted() -> Result<()> {
    let all = known();
    let find = |name: &str| all.iter().find(|known| known.name == name).context("no such model");
    let cases = [
        ("quantised", b"gr\xff\xfen".to_vec(), "text that is no UTF-8"),
        ("bert", models::u32_be(&[2, 17, 99, 4]), "a token that does not exist"),
        ("bert", vec![0, 0, 0, 2, 0], "half a token"),
    ];
    for (name, input, what) in cases {
        let known = find(name)?;
        let ask = Request { input, ..known.ask.clone() };
        let mut table = Table::new(known, &ask)?;
        // The liar claims a run of the right shape: that of a request that is as long and has an answer.
        let alike = match name {
            "quantised" => models::ask(vec![b'x'; ask.input.len()]),
            _ => models::ask(models::u32_be(&vec![1; ask.input.len().div_ceil(4)])),
        };
        let run = known.model.interpret(&alike)?;
        let liar = MemoryTrace::new(run);
        let result = table.answer(liar.output())?;
        let id = table.evm.challenge(table.challenger.address(), &result)?;
        let bend = |next: Move| match next {
            Move::Claim { mut claim, program_root, tokens, hashes } => {
                claim.inputBytes = ask.input.len() as u32;
                Some(Move::Claim { claim, program_root, tokens, hashes })
            }
            next => Some(next),
        };
        let (_, accusation) = table.play(&result, id, &liar, &bend, None).context(what)?;
        ensure!(accusation.is_some(), "{what}: nobody was accused");
        table.convicted(&result, id).context(what)?;
    }
    Ok(())
}

/// Three challengers at once, one of them the liar itself: one wins, the others have their bond back, and the liar gains nothing.
#[test]
fn several_challengers_and_the_liar_itself() -> Result<()> {
    let known = &known()[0];
    let mut table = Table::new(known, &known.ask)?;
    let run = run(&table)?;
    let lie = Lie { node: 3, element: 0, flip: 1 << 22 };
    let liar = liars::trace(&run, liars::tensors(&known.model, &table.request, &run, lie));
    let result = table.answer(liar.output())?;
    let (operator, honest, third) = (table.operator.address(), table.challenger.address(), Key::new(3).address());
    table.evm.fund(third);
    let own = table.evm.challenge(operator, &result)?;
    let before = table.evm.challenge(third, &result)?;
    let case = table.case(own)?;
    let claim = defend(&case, &known.model, &result.input, &liar)?.context("no claim")?;
    ensure!(table.make(operator, &case, &claim, None, &result.output)?.is_ok());
    // The last second of the window.
    table.evm.now = result.fulfillment.fulfilledAt + WINDOW - 1;
    let id = table.evm.challenge(honest, &result)?;
    let (_, accusation) = table.play(&result, id, &liar, &Some, None)?;
    ensure!(accusation.is_some());
    let call = IDisputeGame::rejectCall {
        request: result.request,
        fulfillment: result.fulfillment.clone(),
        input: result.input.clone().into(),
    };
    let game = table.evm.game;
    table.evm.send(honest, game, U256::ZERO, &call)?;
    for id in [own, before] {
        let dispute = table.case(id)?.dispute().clone();
        table.evm.send(honest, game, U256::ZERO, &IDisputeGame::closeCall { dispute })?;
    }
    let bond = U256::from(terms().bond);
    let allowance = U256::from(terms().gasAllowance);
    let credits = [operator, honest, third].map(|account| table.evm.credit(account));
    let [operator_credit, honest_credit, third_credit] = credits;
    let (operator_credit, honest_credit, third_credit) = (operator_credit?, honest_credit?, third_credit?);
    ensure!(honest_credit > bond + U256::from(terms().reward));
    for credit in [operator_credit, third_credit] {
        ensure!(credit >= bond && credit <= bond + allowance, "{credit}");
    }
    ensure!(table.evm.balance(game)? == operator_credit + honest_credit + third_credit);
    ensure!(GAS_PRICE > 0 && operator_credit < bond + U256::from(STAKE), "the liar gains nothing");
    Ok(())
}
