// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {RequestId} from "../Types.sol";

/// @title What a contract that asks implements
/// @notice Called by the oracle with exactly the gas that was paid for. A revert is recorded, never retried by itself, and changes nothing
/// about the request: settlement does not depend on the consumer.
interface IInferenceConsumer {
    /// @notice The answer to a request of this contract.
    /// @dev With `Delivery.Optimistic` the answer is not final yet: act on it only as far as you can undo it in `onInferenceRevoked`.
    function onInferenceResult(RequestId id, bytes calldata output) external;

    /// @notice An answer delivered optimistically was proven wrong. A new one will follow, or a refund.
    function onInferenceRevoked(RequestId id) external;
}
