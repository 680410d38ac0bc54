// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Fulfillment, PackedRequest} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";

/// @title A dispute game in which the test decides
/// @notice Stands where the dispute game will stand, to exercise what the oracle promises it. It exists in tests only.
contract ToyGame {
    IInferenceOracle public oracle;

    receive() external payable {}

    function connect(IInferenceOracle oracle_) external {
        oracle = oracle_;
    }

    function open(PackedRequest calldata request_, Fulfillment calldata fulfillment) external {
        oracle.openDispute(request_, fulfillment);
    }

    function uphold(PackedRequest calldata request_, Fulfillment calldata fulfillment) external {
        oracle.upholdResult(request_, fulfillment);
    }

    function reject(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata input)
        external
        returns (uint256 slashed)
    {
        return oracle.rejectResult(request_, fulfillment, input);
    }
}
