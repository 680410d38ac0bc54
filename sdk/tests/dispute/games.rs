//! Who wins.

use crate::{
    liars::{self, Lie},
    models::{self, Numbers},
    toy::Toy,
};
use candor_sdk::{
    bindings::{Fault, Turn},
    dispute::{
        Accusation, MemoryTrace, Move, Opinion, PlayError, Screening, Trace, challenge, defend, screen, undefined,
    },
    program::{Interpreter, Model, Request, Run},
};

/// What an honest challenger thinks of a claim.
pub(crate) fn opinion(model: &Model, request: &Request, toy: &Toy<'_>) -> Option<Opinion<MemoryTrace>> {
    let claimed = toy.case().claim.as_ref()?;
    Some(match screen(model, request, claimed) {
        Screening::WrongClaim => Opinion::WrongClaim,
        Screening::Undefined(place) => Opinion::NoRun(place),
        Screening::Replay(tokens) => {
            let trace = MemoryTrace::new(Interpreter::new(model).replay(request, &tokens).expect("it was screened"));
            let undefined = undefined(model, &claimed.claim, &trace);
            Opinion::Run { trace, undefined }
        }
    })
}

/// How a game ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The operator was convicted of this.
    Convicted(Accusation),
    /// The challenger had no move, or only ones that the contracts refuse: it runs out of time.
    ChallengerStuck,
}

/// A game of these two, and how many moves the operator made. `bend` may change the operator's moves.
pub(crate) fn play(
    model: &Model,
    request: &Request,
    toy: &mut Toy<'_>,
    operator: &MemoryTrace,
    challenger: &dyn Fn(&Toy<'_>) -> Opinion<MemoryTrace>,
    bend: &dyn Fn(Move) -> Move,
) -> (End, usize) {
    let mut moves = 0;
    for _ in 0..100 {
        if toy.case().is_operators_turn() {
            let next = bend(defend(toy.case(), model, &request.input, operator).expect("a move").expect("its turn"));
            toy.play(&next).unwrap_or_else(|error| panic!("{error}: {next:?}"));
            moves += 1;
            continue;
        }
        let next = match challenge(toy.case(), model, &challenger(toy)) {
            Ok(Some(next)) => next,
            Ok(None) | Err(PlayError::NothingDiffers(_)) => return (End::ChallengerStuck, moves),
            Err(error) => panic!("{error}"),
        };
        match (toy.play(&next), next) {
            (Ok(()), Move::Prove(accusation)) => {
                assert_eq!(toy.case().turn(), Turn::None);
                return (End::Convicted(accusation), moves);
            }
            (Ok(()), _) => {}
            (Err(_), _) => return (End::ChallengerStuck, moves),
        }
    }
    panic!("a game without end; request {request:?}");
}

/// A game of an honest challenger against a lie.
fn against(model: &Model, request: &Request, run: &Run, lie: Lie) -> (Accusation, usize) {
    let tensors = liars::tensors(model, request, run, lie);
    let liar = liars::trace(run, tensors.clone());
    let mut toy = Toy::new(model, request, &tensors, liar.output());
    let honest = |toy: &Toy<'_>| opinion(model, request, toy).expect("it was claimed");
    let end = play(model, request, &mut toy, &liar, &honest, &|next| next);
    let (End::Convicted(accusation), moves) = end else { panic!("{lie:?}: {end:?}") };
    if accusation.fault != Fault::Claim {
        assert_eq!(accusation.place.node as usize, lie.node, "{lie:?}: {accusation:?}");
    }
    (accusation, moves)
}

#[test]
fn a_lie_anywhere_is_narrowed_down_and_convicted() {
    let mut n = Numbers::new(41);
    for (name, model, request) in models::all() {
        let run = model.interpret(&request).expect("an answer");
        for node in 0..run.tensors.len() {
            let elements = run.tensors[node].rows() * run.tensors[node].cols();
            if elements == 0 {
                continue;
            }
            for element in [0, (n.next() % elements as u64) as usize, elements - 1] {
                let lie = Lie { node, element, flip: 1 << (n.next() % 32) };
                let (Accusation { fault, .. }, moves) = against(&model, &request, &run, lie);
                assert!(matches!(fault, Fault::Element | Fault::Sum), "{name} {node}: {fault:?}");
                assert!(moves <= 8, "{name} {node}: {moves} moves");
            }
        }
    }
}

/// An operator that is right wins against whatever a challenger points at: one that runs a model of its own invention.
#[test]
fn an_honest_operator_is_never_convicted() {
    let mut n = Numbers::new(42);
    for (name, model, request) in models::all() {
        let run = model.interpret(&request).expect("an answer");
        let honest = MemoryTrace::new(run.clone());
        for _ in 0..20 {
            let lie = Lie::random(&run, &mut n);
            let mistaken = liars::trace(&run, liars::tensors(&model, &request, &run, lie));
            let mut toy = Toy::new(&model, &request, &run.tensors, honest.output());
            let believes = |_: &Toy<'_>| Opinion::Run { trace: mistaken.clone(), undefined: None };
            let (end, _) = play(&model, &request, &mut toy, &honest, &believes, &|next| next);
            assert_eq!(end, End::ChallengerStuck, "{name} {lie:?}");
        }
        let mut toy = Toy::new(&model, &request, &run.tensors, honest.output());
        let right = |toy: &Toy<'_>| opinion(&model, &request, toy).expect("it was claimed");
        assert_eq!(play(&model, &request, &mut toy, &honest, &right, &|next| next).0, End::ChallengerStuck, "{name}");
    }
}

/// The trace is right, and what was answered is something else.
#[test]
fn another_answer_than_the_run_gives() {
    for (name, model, request) in models::all() {
        let run = model.interpret(&request).expect("an answer");
        let liar = MemoryTrace::new(run.clone());
        let mut toy = Toy::new(&model, &request, &run.tensors, b"another answer");
        let honest = |toy: &Toy<'_>| opinion(&model, &request, toy).expect("it was claimed");
        let (end, moves) = play(&model, &request, &mut toy, &liar, &honest, &|next| next);
        assert!(matches!(end, End::Convicted(Accusation { fault: Fault::Output, .. })), "{name}: {end:?}");
        assert_eq!(moves, 1, "the claim alone");
    }
}

/// The partials are wrong, first, last and all of them, and the element is right or wrong.
#[test]
fn partials_that_are_wrong() {
    let (model, request) = liars::wide();
    let run = model.interpret(&request).expect("an answer");
    let node = models::find(&model, |op| matches!(op, candor_sdk::program::Op::Linear));
    let lie = Lie { node, element: 1, flip: 1 << 20 };
    let tensors = liars::tensors(&model, &request, &run, lie);
    let liar = liars::trace(&run, tensors.clone());
    let honest = |toy: &Toy<'_>| opinion(&model, &request, toy).expect("it was claimed");
    for (wrong, fault, part) in [
        (vec![], Fault::Sum, 0),
        (vec![0], Fault::Partial, 0),
        (vec![2], Fault::Partial, 2),
        (vec![1, 2], Fault::Partial, 1),
    ] {
        let mut toy = Toy::new(&model, &request, &tensors, liar.output());
        let bend = |next| match next {
            Move::RevealPartials(partials) => {
                let mut partials = partials.to_vec();
                assert_eq!(partials.len(), 12);
                wrong.iter().for_each(|part: &usize| partials[4 * part] ^= 1);
                Move::RevealPartials(partials.into())
            }
            next => next,
        };
        let (end, _) = play(&model, &request, &mut toy, &liar, &honest, &bend);
        let End::Convicted(accusation) = end else { panic!("{wrong:?}: {end:?}") };
        assert_eq!((accusation.fault, accusation.part), (fault, part));
        assert_eq!(accusation.place.node as usize, node);
    }
}

/// A sequence of tokens that the model does not generate; one that ends elsewhere; one with a token that does not exist; text of another length.
#[test]
fn sequences_that_were_not_generated() {
    let model = models::causal();
    let request = models::ask_sampled(&[3, 1, 20, 9], 6, 0.75, 0.0625, 9);
    let run = model.interpret(&request).expect("an answer");
    let interpreter = Interpreter::new(&model);
    let honest = |toy: &Toy<'_>| opinion(&model, &request, toy).expect("it was claimed");
    let mut other = run.generated.clone();
    other[1] = (other[1] + 1) % models::VOCABULARY;
    let short = run.generated[..run.generated.len() - 1].to_vec();
    for tokens in [other, short] {
        let run = interpreter.replay(&request, &tokens).expect("it can be run");
        let check = run.failed_check.expect("a check fails");
        // Whether the liar writes down that its check failed or not.
        for admits in [true, false] {
            let mut tensors = run.tensors.clone();
            if !admits {
                let rows = tensors[check.node as usize].rows();
                let ones = candor_sdk::program::TensorData::U32(vec![1; rows]);
                tensors[check.node as usize] = candor_sdk::program::Tensor::new(rows, 1, ones);
            }
            let liar = liars::trace(&run, tensors.clone());
            let mut toy = Toy::new(&model, &request, &tensors, liar.output());
            let (mut claimed, mut moves, mut last) = (None, 0, None);
            while claimed.is_none() && moves < 40 {
                moves += 1;
                if toy.case().is_operators_turn() {
                    let next = defend(toy.case(), &model, &request.input, &liar).expect("a move").expect("its turn");
                    toy.play(&next).unwrap_or_else(|error| panic!("{error}"));
                } else {
                    let next = challenge(toy.case(), &model, &honest(&toy)).expect("a move").expect("it is wrong");
                    if let Move::Prove(accusation) = next {
                        claimed = Some(accusation);
                    } else {
                        toy.play(&next).unwrap_or_else(|error| panic!("{error}"));
                    }
                    last = Some(toy.case().turn());
                }
            }
            let accusation = claimed.unwrap_or_else(|| panic!("{tokens:?}: {last:?}"));
            assert_eq!(accusation.fault, Fault::Element);
            assert_eq!(
                (accusation.place.node, accusation.place.leaf),
                (check.node, check.row.into()),
                "{tokens:?} {admits}"
            );
        }
    }
}
