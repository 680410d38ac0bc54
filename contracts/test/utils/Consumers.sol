// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {RequestId} from "../../src/Types.sol";
import {IInferenceConsumer} from "../../src/interfaces/IInferenceConsumer.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";

// Consumers as one meets them: quiet, curious, and hostile in every way a callback can be.

/// @notice Asks what it is told to; takes every call and does nothing.
contract QuietConsumer is IInferenceConsumer {
    receive() external payable virtual {}

    function ask(IInferenceOracle oracle, IInferenceOracle.RequestArgs calldata args) external payable returns (RequestId) {
        return oracle.request{value: msg.value}(args);
    }

    function withdraw(IInferenceOracle oracle, address to, uint256 amount) external {
        oracle.withdrawCredit(to, amount);
    }

    function onInferenceResult(RequestId, bytes calldata) external virtual {}

    function onInferenceRevoked(RequestId) external virtual {}
}

/// @notice Remembers what it was called with, and how much gas it had.
contract RecordingConsumer is QuietConsumer {
    uint256 public results;
    uint256 public revocations;
    uint256 public gasSeen;
    bytes public output;
    RequestId public lastId;

    function onInferenceResult(RequestId id, bytes calldata output_) external override {
        gasSeen = gasleft();
        results += 1;
        output = output_;
        lastId = id;
    }

    function onInferenceRevoked(RequestId id) external override {
        gasSeen = gasleft();
        revocations += 1;
        lastId = id;
    }
}

/// @notice Reverts until it is told not to.
contract RevertingConsumer is QuietConsumer {
    error NotToday(uint256 number);

    bool public willing;
    uint256 public results;

    function setWilling(bool willing_) external {
        willing = willing_;
    }

    function onInferenceResult(RequestId, bytes calldata) external override {
        if (!willing) revert NotToday(7);
        results += 1;
    }

    function onInferenceRevoked(RequestId) external pure override {
        revert NotToday(8);
    }
}

/// @notice Uses all the gas there is.
contract BurningConsumer is QuietConsumer {
    function onInferenceResult(RequestId, bytes calldata) external pure override {
        while (true) {}
    }

    function onInferenceRevoked(RequestId) external pure override {
        while (true) {}
    }
}

/// @notice Reverts with more data than its gas would pay the caller to copy.
contract BombConsumer is QuietConsumer {
    function onInferenceResult(RequestId, bytes calldata) external pure override {
        _bomb();
    }

    function onInferenceRevoked(RequestId) external pure override {
        _bomb();
    }

    function _bomb() private pure {
        assembly ("memory-safe") {
            mstore(0, not(0))
            revert(0, 50000)
        }
    }
}

/// @notice Calls back into a contract with calldata that the test prepared, and remembers how that went.
contract ReenteringConsumer is QuietConsumer {
    address public target;
    bytes public call;
    uint256 public value;
    bool public tried;
    bool public succeeded;
    bytes public answer;

    function prepare(address target_, bytes calldata call_, uint256 value_) external {
        (target, call, value) = (target_, call_, value_);
        tried = false;
    }

    function onInferenceResult(RequestId, bytes calldata) external virtual override {
        _reenter();
    }

    function onInferenceRevoked(RequestId) external virtual override {
        _reenter();
    }

    function _reenter() internal {
        tried = true;
        (succeeded, answer) = target.call{value: value}(call);
    }
}
