// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Limits, ModelId} from "./Types.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title Model registry
/// @notice What a model id commits to. The id is a hash of the model, so an entry cannot be wrong, only useless; hence no owner and no permission.
contract ModelRegistry is IModelRegistry {
    /// The arithmetic that this deployment's verifier knows.
    uint256 public constant ARITHMETIC_VERSION = 1;

    /// A request and an answer each travel in one transaction, and again in a dispute: beside a proof, to be slashed for, to be announced again. At 40 gas a
    /// byte (EIP-7623) this is 2.6M gas, so that none of them needs more than 3M.
    uint32 public constant MAX_BYTES = 64 * 1024;

    mapping(ModelId => ModelDescriptor) private _descriptors;

    /// @inheritdoc IModelRegistry
    function register(ModelDescriptor calldata descriptor, string calldata uri) external returns (ModelId modelId) {
        if (descriptor.arithmeticVersion != ARITHMETIC_VERSION) {
            revert UnsupportedArithmetic(descriptor.arithmeticVersion);
        }
        Limits calldata limits = descriptor.limits;
        if (
            limits.minInputBytes > limits.maxInputBytes || limits.maxInputBytes > MAX_BYTES || limits.maxOutputBytes == 0
                || limits.maxOutputBytes > MAX_BYTES
        ) revert InvalidLimits(limits);

        modelId = _idOf(descriptor);
        if (!_registered(modelId)) {
            _descriptors[modelId] = descriptor;
            emit ModelRegistered(modelId, descriptor);
        }
        if (bytes(uri).length != 0) emit ModelAnnounced(modelId, msg.sender, uri);
    }

    /// @inheritdoc IModelRegistry
    function announce(ModelId modelId, string calldata uri) external {
        if (!_registered(modelId)) revert UnknownModel(modelId);
        emit ModelAnnounced(modelId, msg.sender, uri);
    }

    /// @inheritdoc IModelRegistry
    function idOf(ModelDescriptor calldata descriptor) external pure returns (ModelId) {
        return _idOf(descriptor);
    }

    /// @inheritdoc IModelRegistry
    function limitsOf(ModelId modelId) external view returns (Limits memory) {
        if (!_registered(modelId)) revert UnknownModel(modelId);
        return _descriptors[modelId].limits;
    }

    /// @inheritdoc IModelRegistry
    function descriptorOf(ModelId modelId) external view returns (ModelDescriptor memory) {
        if (!_registered(modelId)) revert UnknownModel(modelId);
        return _descriptors[modelId];
    }

    /// @inheritdoc IModelRegistry
    function isRegistered(ModelId modelId) external view returns (bool) {
        return _registered(modelId);
    }

    function _registered(ModelId modelId) private view returns (bool) {
        return _descriptors[modelId].arithmeticVersion != 0;
    }

    function _idOf(ModelDescriptor calldata descriptor) private pure returns (ModelId) {
        return ModelId.wrap(keccak256(abi.encode(descriptor)));
    }
}
