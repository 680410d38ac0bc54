//! Follows the requests of the demo from question to payment: puts what the relayer reports together with what the chain shows, and tells it.
use super::{
    consumers::{Consumer, Question},
    event::Event,
    narrator::Narrator,
    world::{TREASURY, WINDOW, World},
};
use crate::{answer, pipeline::Progress};
use alloy::{
    eips::BlockId,
    network::ReceiptResponse,
    primitives::{B256, U256},
    providers::{DynProvider, Provider},
    rpc::types::TransactionReceipt,
    sol_types::SolEvent,
};
use anyhow::Context as _;
use candor_sdk::{
    bindings::{CallbackStatus, Delivery, IInferenceOracle},
    client::Client,
    ids::RequestId,
    request::Request,
};
use std::{
    collections::{HashMap, HashSet},
    io::Write,
};

/// One request, as far as it has come.
struct Thread {
    consumer: Consumer,
    fee: U256,
    callback_allowance: U256,
    final_at: Option<u64>,
    /// A delivery that was reported before the result that it delivers: in the block it comes first.
    held: Option<Progress>,
    window_passed: bool,
    ended: bool,
    finalized: bool,
}

/// Everything told so far, and the money that moved.
pub(super) struct Story<'a, W> {
    narrator: &'a mut Narrator<W>,
    world: &'a World,
    threads: HashMap<RequestId, Thread>,
    /// Reports about requests whose question was not told yet: the relayer can be faster than the receipt.
    early: Vec<Progress>,
    /// Ranges of blocks overlap, so the same thing can be reported more than once.
    told: HashSet<(RequestId, &'static str)>,
    receipts: HashMap<B256, TransactionReceipt>,
    paid_in: U256,
    earned: U256,
    gas_spent: U256,
    paid_out: Option<U256>,
}

impl<'a, W: Write> Story<'a, W> {
    pub(super) fn new(narrator: &'a mut Narrator<W>, world: &'a World) -> Self {
        Self {
            narrator,
            world,
            threads: HashMap::new(),
            early: Vec::new(),
            told: HashSet::new(),
            receipts: HashMap::new(),
            paid_in: U256::ZERO,
            earned: U256::ZERO,
            gas_spent: U256::ZERO,
            paid_out: None,
        }
    }

    fn client(&self) -> &'a Client<DynProvider> {
        &self.world.asker
    }

    /// A question is on the chain.
    pub(super) async fn asked(
        &mut self,
        question: &Question,
        value: U256,
        receipt: TransactionReceipt,
    ) -> anyhow::Result<()> {
        let event = receipt.logs().iter().find_map(|log| IInferenceOracle::Requested::decode_log_data(log.data()).ok());
        let event = event.context("a question without a request")?;
        let request = Request::unpack(&event.request)?;
        self.paid_in += value;
        self.narrator.tell(&Event::Asked {
            request: request.id,
            consumer: question.consumer.name().to_owned(),
            model: question.consumer.model().to_owned(),
            question: question.text.clone(),
            delivery: if request.delivery == Delivery::Final { "final" } else { "optimistic" },
            fee: U256::from(request.fee),
            callback_allowance: request.callback_allowance(),
            transaction: receipt.transaction_hash,
            gas: receipt.gas_used,
            picture: question.picture.clone(),
        })?;
        let thread = Thread {
            consumer: question.consumer,
            fee: U256::from(request.fee),
            callback_allowance: request.callback_allowance(),
            final_at: None,
            held: None,
            window_passed: false,
            ended: false,
            finalized: false,
        };
        self.threads.insert(request.id, thread);
        for progress in std::mem::take(&mut self.early) {
            self.happened(progress).await?;
        }
        Ok(())
    }

    /// The relayer reports something.
    pub(super) async fn happened(&mut self, progress: Progress) -> anyhow::Result<()> {
        let (id, what) = match &progress {
            Progress::PickedUp { id, .. } => (*id, "picked up"),
            Progress::Inferred { id, .. } => (*id, "inferred"),
            Progress::Signed { id } => (*id, "signed"),
            Progress::Posted { id, .. } => (*id, "posted"),
            Progress::Delivered { id, .. } => (*id, "delivered"),
            Progress::Finalized { id, .. } => (*id, "finalized"),
            Progress::Dropped { id, .. } => (*id, "dropped"),
            Progress::Dispute(_) | Progress::Read { .. } | Progress::Sent { .. } => return Ok(()),
            Progress::Mined { transaction, .. } => {
                let receipt = self.receipt(*transaction).await?;
                self.gas_spent += U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price());
                return Ok(());
            }
            Progress::PaidOut { amount, transaction } => {
                self.paid_out = Some(self.paid_out.unwrap_or_default() + *amount);
                let (operator, to) = (self.world.operator.address(), TREASURY);
                self.narrator.tell(&Event::PaidOut { operator, to, amount: *amount, transaction: *transaction })?;
                return Ok(());
            }
        };
        let Some(thread) = self.threads.get_mut(&id) else {
            self.early.push(progress);
            return Ok(());
        };
        let consumer = thread.consumer;
        if what == "delivered" && thread.final_at.is_none() {
            thread.held = Some(progress);
            return Ok(());
        }
        if !self.told.insert((id, what)) {
            return Ok(());
        }
        self.tell(id, consumer, progress).await?;
        let held = self.threads.get_mut(&id).and_then(|thread| thread.held.take());
        match held {
            Some(held) if self.told.insert((id, "delivered")) => self.tell(id, consumer, held).await,
            _ => Ok(()),
        }
    }

    async fn tell(&mut self, request: RequestId, consumer: Consumer, progress: Progress) -> anyhow::Result<()> {
        let event = match progress {
            Progress::PickedUp { .. } => Event::PickedUp { request },
            Progress::Inferred { device, took, batch, output, .. } => {
                let family = &self.world.models[consumer.model()].imported().family;
                let answer = answer::describe(family, &output);
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                Event::Inferred { request, device, took_us, batch, output, answer }
            }
            Progress::Signed { .. } => Event::Signed { request, signer: self.world.signer.address() },
            Progress::Posted { transaction, .. } => {
                let receipt = self.receipt(transaction).await?;
                let results: Vec<_> = receipt
                    .logs()
                    .iter()
                    .filter_map(|log| IInferenceOracle::Fulfilled::decode_log_data(log.data()).ok())
                    .collect();
                let mine = results
                    .iter()
                    .find(|result| result.id == request.0)
                    .context("a result that its transaction does not have")?;
                if let Some(thread) = self.threads.get_mut(&request) {
                    thread.final_at = Some(mine.fulfillment.final_at(WINDOW));
                }
                Event::Posted { request, transaction, gas: receipt.gas_used, results: results.len() }
            }
            Progress::Delivered { status, gas_used, .. } => {
                let success = status == CallbackStatus::Delivered;
                let stored = if success { consumer.stored(self.client(), request).await? } else { String::new() };
                Event::Delivered { request, success, gas: gas_used.saturating_to(), stored }
            }
            Progress::Finalized { transaction, refunded, .. } => {
                self.tell_window(request)?;
                let receipt = self.receipt(transaction).await?;
                let results = receipt
                    .logs()
                    .iter()
                    .filter(|log| log.topic0() == Some(&IInferenceOracle::Finalized::SIGNATURE_HASH))
                    .count();
                self.narrator.tell(&Event::Finalized { request, transaction, gas: receipt.gas_used, results })?;
                let thread = self.threads.get_mut(&request).context("a request that nobody made")?;
                (thread.ended, thread.finalized) = (true, true);
                // What was escrowed and not given back went to who answered and to who carried the callback: here both are the operator.
                let callback = thread.callback_allowance.saturating_sub(refunded);
                let fee = thread.fee;
                self.earned += fee + callback;
                Event::Paid { request, operator: self.world.operator.address(), fee, callback, refunded }
            }
            Progress::Dropped { reason, .. } => {
                if let Some(thread) = self.threads.get_mut(&request) {
                    thread.ended = true;
                }
                Event::Dropped { request, reason }
            }
            Progress::Read { .. }
            | Progress::Sent { .. }
            | Progress::Mined { .. }
            | Progress::PaidOut { .. }
            | Progress::Dispute(_) => {
                return Ok(());
            }
        };
        Ok(self.narrator.tell(&event)?)
    }

    /// Looks at the chain's clock: windows pass without an event.
    pub(super) async fn look(&mut self) -> anyhow::Result<()> {
        let waiting = |thread: &Thread| thread.final_at.is_some() && !thread.window_passed;
        if !self.threads.values().any(waiting) {
            return Ok(());
        }
        let block = self.client().provider().get_block(BlockId::latest()).await?.context("the chain has no block")?;
        let passed = |thread: &Thread| thread.final_at.is_some_and(|at| block.header.timestamp >= at);
        let mut ids: Vec<RequestId> =
            self.threads.iter().filter(|(_, thread)| passed(thread)).map(|(id, _)| *id).collect();
        ids.sort();
        ids.into_iter().try_for_each(|id| self.tell_window(id))
    }

    fn tell_window(&mut self, request: RequestId) -> anyhow::Result<()> {
        match self.threads.get_mut(&request) {
            Some(thread) if !thread.window_passed => {
                thread.window_passed = true;
                Ok(self.narrator.tell(&Event::WindowPassed { request, seconds: WINDOW })?)
            }
            _ => Ok(()),
        }
    }

    /// Whether every request came to its end, and the earnings were taken out.
    pub(super) fn ended(&self, requests: usize) -> bool {
        let finalized = self.finalized();
        self.threads.len() == requests
            && self.threads.values().all(|thread| thread.ended)
            // Of requests that failed there is nothing to take out.
            && (self.paid_out.is_some() || finalized < requests)
    }

    pub(super) fn finalized(&self) -> usize {
        self.threads.values().filter(|thread| thread.finalized).count()
    }

    /// Who paid whom, and whether it adds up to the wei. True if it does.
    pub(super) async fn account(&mut self) -> anyhow::Result<bool> {
        let client = self.client();
        let (desk, reader) = (self.world.desk, self.world.reader);
        let operator = self.world.operator.address();
        let line = |of: &str, what: &str, amount| Event::Balance { of: of.to_owned(), what: what.to_owned(), amount };
        self.narrator.tell(&line("the askers", "sent with their questions", self.paid_in))?;
        let mut found = U256::ZERO;
        let mut owed = U256::ZERO;
        for consumer in [desk, reader] {
            let credit = client.credit(consumer.address()).await?;
            let left = client.provider().get_balance(consumer.address()).await?;
            self.narrator.tell(&line(consumer.name(), "has left over", left))?;
            self.narrator.tell(&line(consumer.name(), "got back, as credit in the oracle", credit))?;
            found += credit + left;
            owed += credit;
        }
        let credit = client.credit(operator).await?;
        self.narrator.tell(&line("the operator", "earned", self.earned))?;
        self.narrator.tell(&line("the operator", "spent on gas", self.gas_spent))?;
        let treasury = client.provider().get_balance(TREASURY).await?;
        self.narrator.tell(&line("the operator", "took out to its treasury", treasury))?;
        found += treasury + credit;
        owed += credit;

        let held = client.provider().get_balance(client.oracle).await?;
        let sums = [
            ("what was sent is what the others have", self.paid_in, found),
            ("what the oracle holds is what it owes", held, owed),
            ("what the operator earned is what it has", self.earned, treasury + credit),
        ];
        for (what, left, right) in sums {
            self.narrator.tell(&Event::Sum { what: what.to_owned(), left, right, balanced: left == right })?;
        }
        Ok(sums.iter().all(|(_, left, right)| left == right))
    }

    pub(super) fn finished(&mut self, requests: usize, seconds: f64) -> anyhow::Result<()> {
        let finalized = self.finalized();
        Ok(self.narrator.tell(&Event::Finished { requests, finalized, seconds })?)
    }

    async fn receipt(&mut self, transaction: B256) -> anyhow::Result<TransactionReceipt> {
        if let Some(receipt) = self.receipts.get(&transaction) {
            return Ok(receipt.clone());
        }
        let receipt = self.client().provider().get_transaction_receipt(transaction).await?;
        let receipt = receipt.with_context(|| format!("transaction {transaction} has no receipt"))?;
        self.receipts.insert(transaction, receipt.clone());
        Ok(receipt)
    }
}
