// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../interfaces/IStepVerifier.sol";

// What a proof of one step opens: the format of `proof` in IStepVerifier. The Rust SDK builds these (`sdk/src/proof`); docs/verifier.md explains them.
//
// Every opening ends in something that the challenger did not choose: the model's roots, the request's hashes, or the root of the operator's own trace. A
// path is as long as the tree is high (P-45); a weight or vocabulary tree, whose size is nowhere else, is opened with its number of leaves (P-46).

/// @notice Opens one step. `proof = abi.encode(StepProof)`.
struct StepProof {
    IStepVerifier.NodeOpening node; // the disputed node, in the program
    OperandOpening[] operands; // each operand of the node, in the order of the descriptor: what it is, not what is in it
    LeafOpening[] reads; // what the step reads, in the order of `Model::step`: of a partial its part, else what is added to the partials or everything
    DataOpening data; // where a step reads the request's input, the claimed tokens, or an entry of the vocabulary
    uint64 hint; // Argmax: an index that ranks before the claimed one. Detokenise: the token that the byte lies in
}

/// @notice What an operand is.
struct OperandOpening {
    bytes descriptor; // a node: its descriptor. A weight: four words, rows, columns, storage, root (P-49). A constant: nothing
    bytes32[] path; // of the descriptor, in the program or among the tensors. Of a weight that does not exist: the root over the tensors, alone
    uint64 count; // a weight: how many tensors there are
}

/// @notice Consecutive leaves of one row of an operand; of a constant nothing.
struct LeafOpening {
    bytes data; // one after the other
    bytes32[] path; // to the tensor's root, and of a node from there to `run.claim.root`. Of several leaves, per level: the sibling to the left of the
    // leftmost, if that is a right child, then the sibling to the right of the rightmost, if that is a left child
}

/// @notice Bytes that are not in a tensor.
struct DataOpening {
    bytes data;
    bytes32[] path; // an entry of the vocabulary: its path. Of one that does not exist: the root over the entries, alone
    uint64 count; // an entry of the vocabulary: how many there are
}

/// @notice Opens what a claim is measured against. `proof = abi.encode(ClaimProof)`.
struct ClaimProof {
    IStepVerifier.NodeOpening node; // node 0, the input
    bytes tokens; // the claimed ones, four bytes big-endian each; their keccak256 is `run.claim.tokensHash`
}
