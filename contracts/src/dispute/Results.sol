// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @notice How a result stands with the game: decided against by one dispute, and that carried out by `reject`.
enum Standing {
    Open,
    Fallen,
    Rejected
}

/// @title What the game keeps of a disputed result
/// @notice Four slots, of which a dispute without a claim never touches the middle two.
struct Result {
    uint32 open; // disputes that have not ended
    uint40 claimBy; // unix seconds: the last for the claim; 0: never challenged
    uint40 claimedAt; // unix seconds; 0: no claim yet
    uint32 nodes; // of the claimed trace
    Standing standing;
    bool shown; // whether the operator has shown an input that is at a URI
    uint96 claimGas; // wei that the claim cost, until an upheld dispute has repaid it
    bytes32 claimHash; // keccak256(abi.encode(requestHash, claim))
    bytes32 root; // of the claimed trace
    address winner; // once it has fallen
    uint96 purse; // wei: what the winner's gas cost, until it is rejected; then what is left for the gas of the others
}
