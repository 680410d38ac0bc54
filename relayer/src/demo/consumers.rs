//! The two example contracts that ask in the demo: how to call them, and what they hold afterwards.
use crate::input::{applicant::Applicant, picture::Digit};
use crate::readable::money;
use alloy::{
    primitives::{Address, Bytes, I256, U256},
    providers::Provider,
    sol_types::SolCall,
};
use anyhow::Context as _;
use candor_sdk::{
    bindings::Delivery,
    client::{Call, Client},
    ids::RequestId,
};

/// How they are called, as far as somebody from outside calls them.
pub mod abi {
    #![allow(missing_docs)]
    alloy::sol! {
        interface LoanDesk {
            function submit(int256[20] calldata numbers, uint8 delivery) external payable returns (uint64 id);
            function applications(uint64 id) external view returns (address applicant, uint8 decision, int256 risk);
        }
        interface DigitReader {
            function read(bytes calldata image, uint8 delivery) external payable returns (uint64 id);
            function readings(uint64 id) external view returns (address reader, bool known, uint8 digit, uint64 confidence);
        }
    }
}

/// One of the two, deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consumer {
    LoanDesk(Address),
    DigitReader(Address),
}

impl Consumer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LoanDesk(_) => "LoanDesk",
            Self::DigitReader(_) => "DigitReader",
        }
    }

    pub(super) fn address(self) -> Address {
        match self {
            Self::LoanDesk(address) | Self::DigitReader(address) => address,
        }
    }

    /// The model that it asks.
    pub(super) fn model(self) -> &'static str {
        match self {
            Self::LoanDesk(_) => "credit",
            Self::DigitReader(_) => "digits",
        }
    }

    /// What it holds about a request, in words.
    pub(super) async fn stored<P: Provider>(self, client: &Client<P>, id: RequestId) -> anyhow::Result<String> {
        match self {
            Self::LoanDesk(address) => {
                let held = client.view(address, abi::LoanDesk::applicationsCall { id: id.0 }).await?;
                // `Decision` of LoanDesk.sol.
                let decision = match held.decision {
                    0 => "nothing",
                    1 => "pending",
                    2 => "approved",
                    3 => "denied",
                    _ => "revoked",
                };
                let risk = u64::try_from(held.risk).context("a risk below zero")?;
                Ok(format!("{decision}, risk {}", wad_percent(risk)))
            }
            Self::DigitReader(address) => {
                let held = client.view(address, abi::DigitReader::readingsCall { id: id.0 }).await?;
                Ok(if held.known {
                    format!("digit {}, {} sure", held.digit, wad_percent(held.confidence))
                } else {
                    "nothing".to_owned()
                })
            }
        }
    }
}

/// A WAD probability for people.
fn wad_percent(wad: u64) -> String {
    format!("{:.1} %", wad as f64 / 1e16)
}

/// A question, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) consumer: Consumer,
    /// In words.
    pub(super) text: String,
    pub(super) picture: Option<Box<Digit>>,
    data: Bytes,
}

impl Question {
    pub(super) fn loan(
        desk: Consumer,
        applicant: &Applicant,
        text: String,
        delivery: Delivery,
    ) -> anyhow::Result<Self> {
        let numbers = applicant.numbers().iter().map(|number| I256::try_from(*number as i64));
        let numbers: Vec<I256> = numbers.collect::<Result<_, _>>().context("a number that no contract takes")?;
        let numbers = numbers.try_into().ok().context("a loan application has twenty numbers")?;
        let data = abi::LoanDesk::submitCall { numbers, delivery: delivery as u8 }.abi_encode().into();
        Ok(Self { consumer: desk, text, picture: None, data })
    }

    pub(super) fn digit(reader: Consumer, digit: &Digit, text: String, delivery: Delivery) -> Self {
        let call = abi::DigitReader::readCall { image: digit.to_vec().into(), delivery: delivery as u8 };
        let data = call.abi_encode().into();
        Self { consumer: reader, text, picture: Some(Box::new(*digit)), data }
    }

    /// The transaction that asks, with `value` for the fee and the callback.
    pub(super) fn call(&self, value: U256) -> Call {
        Call { to: self.consumer.address(), value, data: self.data.clone() }
    }
}

/// Names an amount that a consumer asks for, in errors.
pub(super) fn refused(question: &Question, value: U256) -> String {
    format!("{} refused a request that paid {}", question.consumer.name(), money(value))
}
