//! Moves, and their calldata.

use super::{Case, Place};
use crate::bindings::{Claim, Fault, IDisputeGame, ModelDescriptor, NodeOpening, Refutation};
use alloy_primitives::{B256, Bytes};
use alloy_sol_types::SolCall;

/// What a challenger has the chain look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accusation {
    /// What is wrong.
    pub fault: Fault,
    /// Which element; for `Claim` and `Output` of no meaning.
    pub place: Place,
    /// Which partial of it, for `Partial`.
    pub part: u32,
}

impl Accusation {
    /// One of the claim as a whole.
    pub(super) fn of(fault: Fault) -> Self {
        Self { fault, place: Place { node: 0, leaf: 0, element: 0 }, part: 0 }
    }
}

/// The next move of one side of a dispute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// The operator shows an input that is at a URI.
    ShowInput(Bytes),
    /// The operator says what its run was.
    Claim {
        /// The claim.
        claim: Claim,
        /// Root of the tree over the node descriptors.
        program_root: B256,
        /// Generated tokens, four bytes big-endian each.
        tokens: Bytes,
        /// The first hashes below the root.
        hashes: Vec<B256>,
    },
    /// The challenger points at one of the revealed hashes.
    Select {
        /// Which, from the left.
        position: u32,
        /// The hash.
        hash: B256,
        /// Its path up to the subtree that was revealed.
        path: Vec<B256>,
        /// The node's descriptor, if it is a node's root.
        opening: Option<NodeOpening>,
    },
    /// The operator shows hashes.
    Reveal(Vec<B256>),
    /// The operator shows the elements of a leaf.
    RevealLeaf(Bytes),
    /// The challenger points at an element that is made of partials.
    SelectElement(Place),
    /// The operator shows partials.
    RevealPartials(Bytes),
    /// The challenger has the chain recompute a piece.
    Prove(Accusation),
}

impl Move {
    /// Name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ShowInput(_) => "show input",
            Self::Claim { .. } => "claim",
            Self::Select { opening: None, .. } => "select",
            Self::Select { opening: Some(_), .. } => "select node",
            Self::Reveal(_) => "reveal",
            Self::RevealLeaf(_) => "reveal leaf",
            Self::SelectElement(_) => "select element",
            Self::RevealPartials(_) => "reveal partials",
            Self::Prove(_) => "prove",
        }
    }

    /// The call of the game that makes this move. With [`Move::SelectElement`] and [`Move::Prove`] goes what they open, [`super::evidence`]; without it
    /// such a move has no call, and neither has a challenger's before the operator's claim.
    pub fn calldata(&self, case: &Case, model: &ModelDescriptor, evidence: Option<Refutation>) -> Option<Vec<u8>> {
        let (dispute, request, fulfillment) = (case.dispute().clone(), case.request, case.fulfillment.clone());
        let claimed = || case.claim.as_ref().map(|claimed| claimed.claim);
        let model = model.clone();
        Some(match self.clone() {
            Self::ShowInput(input) => IDisputeGame::showInputCall { request, fulfillment, input }.abi_encode(),
            Self::Claim { claim, program_root, tokens, hashes } => IDisputeGame::claimCall {
                request,
                fulfillment,
                model,
                claim_: claim,
                programRoot: program_root,
                tokens,
                hashes,
            }
            .abi_encode(),
            Self::Select { position, hash, path, opening: None } => {
                IDisputeGame::selectCall { dispute, position, hash, path }.abi_encode()
            }
            Self::Select { position, hash, path, opening: Some(opening) } => IDisputeGame::selectNodeCall {
                dispute,
                request,
                model,
                claim_: claimed()?,
                position,
                hash,
                path,
                opening,
            }
            .abi_encode(),
            Self::Reveal(hashes) => IDisputeGame::revealCall { dispute, hashes }.abi_encode(),
            Self::RevealLeaf(leaf) => IDisputeGame::revealLeafCall { dispute, leaf }.abi_encode(),
            Self::SelectElement(Place { element, .. }) => {
                let (claim_, proof) = (claimed()?, evidence?.proof);
                IDisputeGame::selectElementCall { dispute, request, model, claim_, element, proof }.abi_encode()
            }
            Self::RevealPartials(partials) => IDisputeGame::revealPartialsCall { dispute, partials }.abi_encode(),
            Self::Prove(_) => {
                let (claim_, refutation) = (claimed()?, evidence?);
                IDisputeGame::proveCall { dispute, request, fulfillment, model, claim_, refutation }.abi_encode()
            }
        })
    }
}
