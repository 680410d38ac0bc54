//! Tells what happens to requests, as it happens: in colour on a terminal, plainly into a file, or one JSON object a line for machines.

use super::event::Event;
use crate::{
    input::picture::{self, Shades},
    readable::{grouped, money, short, short_hash},
};
use alloy::primitives::{B256, U256};
use candor_sdk::ids::RequestId;
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For eyes, in colour.
    Colour(Shades),
    /// For eyes, without.
    Plain,
    /// For machines.
    Json,
}

impl Style {
    /// What suits where the output goes.
    pub fn detect(json: bool) -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        if json {
            Self::Json
        } else if !io::stdout().is_terminal() || !variable("NO_COLOR").is_empty() || variable("TERM") == "dumb" {
            Self::Plain
        } else if matches!(variable("COLORTERM").as_str(), "truecolor" | "24bit") {
            Self::Colour(Shades::Full)
        } else {
            Self::Colour(Shades::Palette)
        }
    }
}

/// Tells.
#[derive(Debug)]
pub struct Narrator<W> {
    out: W,
    style: Style,
    started: Instant,
}

impl<W: Write> Narrator<W> {
    /// Tells from now on.
    pub fn new(out: W, style: Style) -> Self {
        Self { out, style, started: Instant::now() }
    }

    /// Tells one thing.
    pub fn tell(&mut self, event: &Event) -> io::Result<()> {
        self.tell_at(event, self.started.elapsed())
    }

    fn tell_at(&mut self, event: &Event, at: Duration) -> io::Result<()> {
        match self.style {
            Style::Json => {
                #[derive(Serialize)]
                struct Line<'a> {
                    at_ms: u64,
                    #[serde(flatten)]
                    event: &'a Event,
                }
                let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
                serde_json::to_writer(&mut self.out, &Line { at_ms, event })?;
                self.out.write_all(b"\n")?;
            }
            Style::Plain => self.write(event, at, None)?,
            Style::Colour(shades) => self.write(event, at, Some(shades))?,
        }
        self.out.flush()
    }

    fn write(&mut self, event: &Event, at: Duration, colour: Option<Shades>) -> io::Result<()> {
        let Line { request, verb, tone, text } = describe(event);
        let time = format!("{:6.1}s", at.as_secs_f64());
        let number = request.map(|request| request.to_string()).unwrap_or_default();
        let out = &mut self.out;
        match (colour, request) {
            (None, _) => {
                let line = format!("{time}  {number:>4}  {verb:<13} {text}");
                writeln!(out, "{}", line.trim_end())?;
            }
            (Some(_), request) => {
                // Each request in a colour of its own, so that the eye can follow one through the others.
                let hue = request.map_or(0, |request| HUES[(request.0 as usize) % HUES.len()]);
                let bold = if tone == GREY { "" } else { "\x1b[1m" };
                writeln!(
                    out,
                    "\x1b[90m{time}\x1b[0m  \x1b[{hue}m{number:>4}\x1b[0m  {bold}\x1b[{tone}m{verb:<13}\x1b[0m {text}"
                )?;
            }
        }
        if let Event::Asked { picture: Some(digit), .. } = event {
            for line in picture::draw(digit, colour.unwrap_or(Shades::Letters)) {
                writeln!(out, "{}", format!("{:29}{line}", "").trim_end())?;
            }
        }
        Ok(())
    }
}

/// Colours of requests: the six that are neither black nor white, then their bright forms.
const HUES: [u8; 12] = [36, 33, 35, 32, 34, 31, 96, 93, 95, 92, 94, 91];

const GREY: u8 = 90;
const BLUE: u8 = 34;
const CYAN: u8 = 36;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const RED: u8 = 31;

struct Line {
    request: Option<RequestId>,
    verb: &'static str,
    tone: u8,
    text: String,
}

fn describe(event: &Event) -> Line {
    let line = |request: Option<RequestId>, verb, tone, text| Line { request, verb, tone, text };
    match event {
        Event::Chain { kind, chain_id, url } => line(None, "chain", GREY, format!("{kind}, chain {chain_id}, {url}")),
        Event::Act { title } => line(None, "act two", YELLOW, title.clone()),
        Event::Dispute { request, by, what, text } => {
            let tone = match *by {
                "liar" => RED,
                "watcher" => BLUE,
                _ => GREEN,
            };
            line(Some(*request), what, tone, format!("{by}: {text}"))
        }
        Event::Deployed { oracle, challenge_window, .. } => line(
            None,
            "contracts",
            GREY,
            format!("oracle {oracle}; results can be challenged for {challenge_window} s"),
        ),
        Event::ModelRegistered { model, id, gas } => {
            line(None, "model", GREY, format!("{model} is {}, registered for {} gas", id.short(), grouped(*gas)))
        }
        Event::OperatorJoined { operator, stake, price, .. } => line(
            None,
            "operator",
            GREY,
            format!("{} with {} of stake, asks {} an answer", short(operator), money(*stake), money(*price)),
        ),
        Event::RelayerStarted { device, models } => {
            line(None, "relayer", GREY, format!("serves {} on {device}", models.join(" and ")))
        }
        Event::ConsumerDeployed { consumer, address, model } => {
            line(None, "consumer", GREY, format!("{consumer} at {} asks {model}", short(address)))
        }
        Event::Asked { request, consumer, question, delivery, fee, transaction, gas, .. } => {
            let when = if *delivery == "final" { "once it is final" } else { "at once" };
            let (fee, gas) = (money(*fee), grouped(*gas));
            let text = format!("{consumer}, {when}: {question} ({fee}, tx {}, {gas} gas)", short_hash(transaction));
            line(Some(*request), "asked", BLUE, text)
        }
        Event::PickedUp { request } => line(Some(*request), "picked up", CYAN, String::new()),
        Event::Inferred { request, device, took_us, batch, answer, .. } => {
            let company = if *batch > 1 { format!(" for {batch} together") } else { String::new() };
            let took = format!("{:.2} ms{company} on {device}", *took_us as f64 / 1_000.0);
            line(Some(*request), "inferred", CYAN, format!("{answer} ({took})"))
        }
        Event::Signed { request, signer } => line(Some(*request), "signed", CYAN, format!("by {}", short(signer))),
        Event::Posted { request, transaction, gas, results } => {
            line(Some(*request), "posted", YELLOW, transaction_text(transaction, *gas, *results))
        }
        Event::Answered { request, answer, final_at, .. } => {
            line(Some(*request), "answered", GREEN, format!("{answer}; can be challenged until unix second {final_at}"))
        }
        Event::Delivered { request, success: true, gas, stored } => {
            line(Some(*request), "delivered", GREEN, format!("the contract holds: {stored} ({} gas)", grouped(*gas)))
        }
        Event::Delivered { request, success: false, gas, .. } => line(
            Some(*request),
            "not delivered",
            RED,
            format!("the contract reverted after {} gas; anybody may retry", grouped(*gas)),
        ),
        Event::WindowPassed { request, seconds } => {
            line(Some(*request), "window passed", CYAN, format!("nobody challenged within {seconds} s"))
        }
        Event::Finalized { request, transaction, gas, results } => {
            line(Some(*request), "finalized", GREEN, transaction_text(transaction, *gas, *results))
        }
        Event::Paid { request, operator, fee, callback, refunded } => {
            let extra = if callback.is_zero() {
                String::new()
            } else {
                format!(" and {} for the callback's gas", about(*callback))
            };
            let back = about(*refunded);
            line(
                Some(*request),
                "paid",
                GREEN,
                format!("{}{extra} to {}; {back} back to the requester", money(*fee), short(operator)),
            )
        }
        Event::PaidOut { operator, to, amount, transaction } => {
            let (operator, to) = (short(operator), short(to));
            line(
                None,
                "paid out",
                GREEN,
                format!("{} of {operator} to {to} (tx {})", about(*amount), short_hash(transaction)),
            )
        }
        Event::Dropped { request, reason } => line(Some(*request), "not answered", RED, reason.clone()),
        Event::Balance { of, what, amount } => {
            line(None, "account", GREY, format!("{of:<12} {what:<34} {:>26}", money(*amount)))
        }
        Event::Sum { what, left, balanced: true, .. } => {
            line(None, "adds up", GREEN, format!("{what}: {}", money(*left)))
        }
        Event::Sum { what, left, right, balanced: false } => {
            line(None, "does not", RED, format!("{what}: {} is not {}", money(*left), money(*right)))
        }
        Event::Finished { requests, finalized, seconds } => {
            let tone = if requests == finalized { GREEN } else { RED };
            line(
                None,
                "finished",
                tone,
                format!("{finalized} of {requests} requests are final and paid, {seconds:.1} s after the first"),
            )
        }
        Event::Note { text } => line(None, "note", GREY, text.clone()),
    }
}

fn transaction_text(transaction: &B256, gas: u64, results: usize) -> String {
    let gas = grouped(gas);
    match results {
        0 | 1 => format!("tx {}, {gas} gas", short_hash(transaction)),
        n => format!("tx {}, {gas} gas for {n} results", short_hash(transaction)),
    }
}

/// An amount to the nearest millionth of an ether, for lines that are glanced at.
fn about(amount: U256) -> String {
    let millionths = (amount + U256::from(500_000_000_000u64)) / U256::from(1_000_000_000_000u64);
    let whole = millionths / U256::from(1_000_000);
    let text = format!("{whole}.{:06}", (millionths % U256::from(1_000_000)).to::<u32>());
    format!("{} ether", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::Address;
    use candor_sdk::ids::ModelId;

    fn story() -> Vec<Event> {
        let request = RequestId(7);
        let transaction = B256::repeat_byte(0xab);
        let operator = Address::repeat_byte(0xcd);
        let ether = |thousandths: u64| U256::from(thousandths) * U256::from(10).pow(U256::from(15));
        let mut digit = [0; 784];
        for y in 4..24 {
            digit[y * 28 + 13] = 255;
            digit[y * 28 + 14] = 120;
        }
        vec![
            Event::Chain { kind: "anvil".into(), chain_id: 31337, url: "http://127.0.0.1:8545".into() },
            Event::Deployed { oracle: operator, operators: operator, models: operator, challenge_window: 5 },
            Event::ModelRegistered { model: "digits".into(), id: ModelId(transaction), gas: 123_456 },
            Event::OperatorJoined { operator, signer: operator, stake: ether(10_000), price: ether(1) },
            Event::RelayerStarted { device: "cpu avx2 x2".into(), models: vec!["credit".into(), "digits".into()] },
            Event::ConsumerDeployed { consumer: "DigitReader".into(), address: operator, model: "digits".into() },
            Event::Asked {
                request,
                consumer: "DigitReader".into(),
                model: "digits".into(),
                question: "which digit is this?".into(),
                delivery: "optimistic",
                fee: ether(1),
                callback_allowance: U256::from(42),
                transaction,
                gas: 91_234,
                picture: Some(Box::new(digit)),
            },
            Event::PickedUp { request },
            Event::Inferred {
                request,
                device: "cpu avx2 x2".into(),
                took_us: 1_234,
                batch: 3,
                output: vec![0, 0, 0, 1].into(),
                answer: "1, 99.9 % sure".into(),
            },
            Event::Signed { request, signer: operator },
            Event::Posted { request, transaction, gas: 61_000, results: 3 },
            Event::Answered {
                request,
                output: vec![0, 0, 0, 1].into(),
                answer: "1, 99.9 % sure".into(),
                final_at: 1_800_000_000,
            },
            Event::Delivered { request, success: true, gas: 30_000, stored: "digit 1".into() },
            Event::Delivered { request, success: false, gas: 200_000, stored: String::new() },
            Event::WindowPassed { request, seconds: 5 },
            Event::Finalized { request, transaction, gas: 40_000, results: 1 },
            Event::Paid {
                request,
                operator,
                fee: ether(1),
                callback: U256::from(37_841_347_112_348u64),
                refunded: U256::from(42),
            },
            Event::Dropped { request, reason: "a fee of 1 wei".into() },
            Event::Balance { of: "operator".into(), what: "credit in the oracle".into(), amount: ether(9) },
            Event::PaidOut { operator, to: operator, amount: ether(9), transaction },
            Event::Sum {
                what: "what was sent is what the others have".into(),
                left: ether(3),
                right: ether(3),
                balanced: true,
            },
            Event::Sum {
                what: "what was sent is what the others have".into(),
                left: ether(3),
                right: ether(4),
                balanced: false,
            },
            Event::Finished { requests: 6, finalized: 6, seconds: 12.34 },
            Event::Note { text: "anything".into() },
        ]
    }

    fn told(style: Style) -> String {
        let mut narrator = Narrator::new(Vec::new(), style);
        for (i, event) in story().iter().enumerate() {
            narrator.tell_at(event, Duration::from_millis(150 * i as u64)).unwrap();
        }
        String::from_utf8(narrator.out).unwrap()
    }

    #[test]
    fn plainly() {
        let text = told(Style::Plain);
        assert!(!text.contains('\x1b') && text.is_ascii());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn in_colour() {
        for shades in [Shades::Full, Shades::Palette] {
            let text = told(Style::Colour(shades));
            for line in text.lines() {
                let (starts, ends) = (line.matches('\x1b').count(), line.matches("\x1b[0m").count());
                assert!(starts > ends && ends > 0, "colours begin and end: {line:?}");
            }
            // Without its colours and the picture it says what the plain one says.
            let bare: String = text
                .split('\x1b')
                .enumerate()
                .map(|(i, part)| if i == 0 { part } else { part.split_once('m').expect("a colour ends with m").1 })
                .collect();
            let says = |text: &str| {
                text.lines()
                    .filter(|line| line.contains("s  "))
                    .map(|line| line.trim_end().to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(says(&bare), says(&told(Style::Plain)));
        }
    }

    #[test]
    fn for_machines() {
        let text = told(Style::Json);
        assert_eq!(text.lines().count(), story().len());
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["event"].is_string() && value["at_ms"].is_u64());
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn amounts_at_a_glance() {
        assert_eq!(about(U256::from(1_037_841_347_112_348u64)), "0.001038 ether");
        assert_eq!(about(U256::from(42)), "0 ether");
        assert_eq!(about(U256::from(2) * U256::from(10).pow(U256::from(18))), "2 ether");
    }
}
