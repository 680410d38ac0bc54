//! Whole games of strategy against strategy, in the real contracts: every node of every model, and operators that lie in every other way.
//!
//!     CANDOR_SEEDS=1000 cargo test -p candor-tests --test dispute_games random -- --nocapture

#[path = "../../sdk/tests/program/models.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of programs")]
mod models;

#[path = "../../sdk/tests/dispute/liars.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of strategy")]
mod liars;

use alloy::{
    primitives::{Address, U256},
    signers::local::PrivateKeySigner,
};
use anyhow::{Context, Result, bail, ensure};
use candor_sdk::{
    bindings::{Fault, IDisputeGame, IInferenceOracle, ModelDescriptor, Outcome, Params, RequestStatus},
    dispute::{
        Accusation, Case, MemoryTrace, Move, Opinion, PlayError, Screening, Trace, challenge, defend, evidence, screen,
        undefined,
    },
    program::{Interpreter, Model, Op, Request, Run, Tensor, TensorData},
    proof::ModelTrees,
    request::Request as OnChain,
};
use candor_tests::evm::{Evm, GAS_PRICE, Result_, STAKE, WINDOW, key, terms};
use liars::Lie;
use models::Numbers;

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
    operator: PrivateKeySigner,
    challenger: PrivateKeySigner,
    /// The request as the chain made it: its seed is the chain's.
    request: Request,
    packed: candor_sdk::bindings::PackedRequest,
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
        let (operator, challenger) = (key(1), key(2));
        evm.register(&known.descriptor)?;
        evm.operator(&operator, 4, &known.descriptor)?;
        evm.fund(challenger.address());
        let params =
            Params { maxTokens: ask.params.max_tokens, temperature: ask.params.temperature, minP: ask.params.min_p };
        let packed = evm.ask(&known.descriptor, &ask.input, params)?;
        let request = Request { seed: packed.seed.0, ..ask.clone() };
        Ok(Self { evm, known, operator, challenger, request, packed })
    }

    fn answer(&mut self, output: &[u8]) -> Result<Result_> {
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
    fn make(&mut self, from: Address, case: &Case, next: &Move, opinion: Option<&Opinion<MemoryTrace>>, output: &[u8]) -> Result<Result<u64, String>> {
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
        result: &Result_,
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
                let next = defend(&case, &self.known.model, trace)?.context("the operator's turn without a move")?;
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
                Err(error) => bail!(error),
            };
            match self.make(challenger, &case, &next, Some(own), &result.output)? {
                Ok(gas) => {
                    bill.challenger += gas;
                    bill.largest = bill.largest.max(gas);
                }
                Err(_) if opinion.is_some() => return Ok((bill, None)), // a false challenger, refused
                Err(reason) => bail!("{}: {reason}: {next:?}", self.known.name),
            }
            if let Move::Prove(accusation) = next {
                return Ok((bill, Some(accusation)));
            }
        }
        bail!("a game without end")
    }

    /// The operator's clock runs out, if the game is not over.
    fn expire(&mut self, result: &Result_, id: u64) -> Result<()> {
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
    fn convicted(&mut self, result: &Result_, id: u64) -> Result<()> {
        let case = self.case(id)?;
        let ended = case.ended.context("the dispute goes on")?;
        ensure!(ended.outcome == Outcome::Rejected, "{:?}", ended.outcome);
        let (game, challenger) = (self.evm.game, self.challenger.address());
        let input = result.input.clone().into();
        let call =
            IDisputeGame::rejectCall { request: result.request, fulfillment: result.fulfillment.clone(), input };
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
        let call = candor_sdk::bindings::IOperatorRegistry::stakeOfCall { operator };
        Ok(self.evm.view(operators, call)?.stake)
    }

    /// The challenger's clock ran out: the bond is gone, the operator has its gas back, and everything adds up.
    fn upheld(&mut self, result: &Result_, id: u64) -> Result<()> {
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
    let (bill, accusation) = played.with_context(|| format!("{} {lie:?}", known.name))?;
    let accusation = accusation.with_context(|| format!("{} {lie:?}: nobody was accused", known.name))?;
    ensure!(accusation.place.node as usize == lie.node, "{} {lie:?}: {accusation:?}", known.name);
    table.convicted(&result, id).with_context(|| format!("{} {lie:?}", known.name))?;
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
