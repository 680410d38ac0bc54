//! A side of a dispute that is played by hand: move by move, right or bent, in time or not. Nobody says that an adversary runs our relayer.

use crate::{Court, world::TestClient};
use alloy::{
    network::TransactionBuilder,
    primitives::{Address, Bytes, U256},
    providers::Provider,
    signers::{SignerSync, local::PrivateKeySigner},
};
use anyhow::{Context, Result, ensure};
use candor_relayer::engine::InferRequest;
use candor_sdk::{
    bindings::{Answer, ModelDescriptor},
    client::Call,
    commitment::{Domain, signature_bytes},
    dispute::{Case, MemoryTrace, Move, Opinion, challenge, defend, evidence},
    ids::RequestId,
    program::Model,
    proof::ModelTrees,
    request::Request,
};
use std::{convert::Infallible, sync::Arc};

/// Gas of a transaction that is not simulated.
const GAS: u64 = 10_000_000;

/// An account, and the model it plays about.
pub struct Hand {
    court: Arc<Court>,
    client: TestClient,
    key: PrivateKeySigner,
    model: Arc<Model>,
    descriptor: ModelDescriptor,
    trees: ModelTrees,
}

impl Hand {
    /// One that plays about a model.
    pub async fn new(court: &Arc<Court>, key: &PrivateKeySigner, model: &Arc<Model>) -> Result<Self> {
        Ok(Self {
            court: court.clone(),
            client: court.world.client_of(key).await?,
            key: key.clone(),
            model: model.clone(),
            descriptor: (&model.descriptor()).into(),
            trees: ModelTrees::new(model),
        })
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Answers a request.
    pub async fn answer(&self, id: RequestId, output: &[u8]) -> Result<()> {
        let request = self.client.requested(id, 0).await?.context("no request")?.request;
        let domain = Domain { chain_id: self.client.chain_id, contract: self.client.oracle };
        let digest = domain.fulfillment_digest(&Request::unpack(&request)?, output);
        let signature = signature_bytes(&self.key.sign_hash_sync(&digest)?);
        let answer = Answer { request, output: output.to_vec().into(), signature };
        self.client.send(self.client.fulfill(vec![answer])).await?;
        Ok(())
    }

    /// The dispute as it stands.
    pub async fn case(&self, id: u64) -> Result<Case> {
        let case = self.court.see(|book| book.docket().case(id).cloned()).await?;
        case.with_context(|| format!("no dispute {id}"))
    }

    /// The operator's move in a dispute, from its story; none if it is not its turn.
    pub fn defence(&self, case: &Case, story: &MemoryTrace) -> Result<Option<Move>> {
        // The inputs of these requests came with them: there is none to show.
        Ok(defend(case, &self.model, &[], story)?)
    }

    /// The challenger's move in a dispute, from what it thinks, with what it opens; none if it is not its turn, or nothing is wrong.
    pub fn attack(
        &self,
        case: &Case,
        question: &InferRequest,
        output: &[u8],
        opinion: &Opinion<MemoryTrace>,
    ) -> Result<Option<(Move, Vec<u8>)>> {
        let Some(next) = challenge::<MemoryTrace>(case, &self.model, opinion)? else { return Ok(None) };
        let proof = evidence(case, &self.model, &self.trees, question, output, opinion, &next)
            .map_err(|error: candor_sdk::dispute::PlayError<Infallible>| error)?;
        let data = next.calldata(case, &self.descriptor, proof).context("a move without a call")?;
        Ok(Some((next, data)))
    }

    /// Makes a move of the operator's. Whether the game took it.
    pub async fn make(&self, case: &Case, next: &Move) -> Result<bool> {
        self.send(self.data(case, next)?).await
    }

    /// The call of a move of the operator's.
    pub fn data(&self, case: &Case, next: &Move) -> Result<Vec<u8>> {
        next.calldata(case, &self.descriptor, None).context("a move without a call")
    }

    /// Calls the game with whatever it is, without asking first whether that makes sense. Whether the game took it.
    pub async fn send(&self, data: impl Into<Bytes>) -> Result<bool> {
        let call = Call { to: self.court.world.deployment.game, value: U256::ZERO, data: data.into() };
        let transaction = call.into_transaction().with_gas_limit(GAS);
        let receipt = self.client.provider().send_transaction(transaction).await?.get_receipt().await?;
        Ok(receipt.status())
    }

    /// Plays the operator's moves as they come, until `upto` have been made. The challenger is somebody else.
    pub async fn defend_until(&self, id: u64, story: &MemoryTrace, upto: usize) -> Result<()> {
        let mut made = 0;
        while made < upto {
            let look = async || {
                let case = self.case(id).await?;
                Ok((case.is_operators_turn() || case.ended.is_some()).then_some(case))
            };
            let case = self.court.wait(&format!("the operator's turn in dispute {id}"), &[], look).await?;
            ensure!(case.ended.is_none(), "dispute {id} ended after {made} moves of the operator");
            let next = self.defence(&case, story)?.context("its turn, and no move")?;
            ensure!(self.make(&case, &next).await?, "dispute {id}: the game refused {}", next.name());
            made += 1;
        }
        Ok(())
    }

    /// Waits until it is the operator's turn.
    pub async fn operators_turn(&self, id: u64) -> Result<Case> {
        let look = async || {
            let case = self.case(id).await?;
            Ok(case.is_operators_turn().then_some(case))
        };
        self.court.wait(&format!("the operator's turn in dispute {id}"), &[], look).await
    }

    /// Waits until it is the challenger's turn.
    pub async fn challengers_turn(&self, id: u64) -> Result<Case> {
        let look = async || {
            let case = self.case(id).await?;
            Ok((!case.is_operators_turn() && case.ended.is_none()).then_some(case))
        };
        self.court.wait(&format!("the challenger's turn in dispute {id}"), &[], look).await
    }

    /// Some bytes that nobody meant.
    pub fn noise(&self, size: usize) -> Bytes {
        let word =
            |index: usize| alloy::primitives::keccak256([self.key.address().as_slice(), &index.to_be_bytes()].concat());
        let bytes = (0..size.div_ceil(32)).flat_map(|index| word(index).0);
        bytes.take(size).collect::<Vec<_>>().into()
    }
}
