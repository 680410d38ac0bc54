// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Limits, ModelId} from "../Types.sol";

/// @title Which models exist
/// @notice Content-addressed and permissionless: a model id is a hash of the model, nobody owns it, anybody may register it.
interface IModelRegistry {
    /// @notice What a model id commits to.
    struct ModelDescriptor {
        uint256 arithmeticVersion; // which arithmetic every operation obeys
        bytes32 graphRoot; // Merkle root of the node descriptors
        bytes32 weightsRoot; // Merkle root of the tensors
        bytes32 vocabRoot; // Merkle root of the vocabulary; zero where there is none
        Limits limits;
    }

    /// @notice A model was registered. Emitted once per model.
    event ModelRegistered(ModelId indexed modelId, ModelDescriptor descriptor);

    /// @notice Somebody says where a model can be downloaded. Whoever downloads checks the id, so a wrong place costs only time.
    event ModelAnnounced(ModelId indexed modelId, address indexed by, string uri);

    error UnknownModel(ModelId modelId);
    error InvalidLimits(Limits limits);
    error UnsupportedArithmetic(uint256 version);

    /// @notice Registers a model and, if `uri` is not empty, announces where it is. Registering again is harmless.
    function register(ModelDescriptor calldata descriptor, string calldata uri) external returns (ModelId);

    /// @notice Announces a place where a registered model can be downloaded.
    function announce(ModelId modelId, string calldata uri) external;

    /// @notice The id of a model: `keccak256(abi.encode(descriptor))`.
    function idOf(ModelDescriptor calldata descriptor) external pure returns (ModelId);

    /// @notice The limits of a registered model. Reverts with `UnknownModel` for another.
    function limitsOf(ModelId modelId) external view returns (Limits memory);

    /// @notice The whole descriptor of a registered model. Reverts with `UnknownModel` for another.
    function descriptorOf(ModelId modelId) external view returns (ModelDescriptor memory);

    function isRegistered(ModelId modelId) external view returns (bool);
}
