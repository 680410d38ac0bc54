// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ModelId} from "../Types.sol";
import {IDisputeGame} from "../interfaces/IDisputeGame.sol";
import {IModelRegistry} from "../interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../interfaces/IStepVerifier.sol";

/// @title Structs of whole words, hashed as they lie there
/// @notice All fields of these structs are static, so calldata and memory are their ABI encoding: what is hashed is `abi.encode` of them.
library Words {
    uint256 private constant DISPUTE_SIZE = 20 * 0x20;
    uint256 private constant CLAIM_SIZE = 7 * 0x20;
    uint256 private constant MODEL_SIZE = 8 * 0x20;

    /// @notice A copy as it is. Whoever takes it checks its hash against one that was made from clean fields before looking at any of them.
    function copy(IDisputeGame.Dispute calldata dispute) internal pure returns (IDisputeGame.Dispute memory d) {
        assembly ("memory-safe") {
            d := mload(0x40)
            mstore(0x40, add(d, DISPUTE_SIZE))
            calldatacopy(d, dispute, DISPUTE_SIZE)
        }
    }

    /// @notice keccak256(abi.encode(dispute))
    function word(IDisputeGame.Dispute memory dispute) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            hash := keccak256(dispute, DISPUTE_SIZE)
        }
    }

    /// @notice keccak256(abi.encode(requestHash, claim)): the claim, for this request and no other.
    function bind(IStepVerifier.Claim memory claim, bytes32 requestHash) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, requestHash)
            mcopy(add(free, 0x20), claim, CLAIM_SIZE)
            hash := keccak256(free, add(CLAIM_SIZE, 0x20))
        }
    }

    /// @notice keccak256(abi.encode(model)): its id.
    function idOf(IModelRegistry.ModelDescriptor calldata model) internal pure returns (ModelId id) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, model, MODEL_SIZE)
            id := keccak256(free, MODEL_SIZE)
        }
    }
}
