// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, ModelId, RequestId} from "../Types.sol";
import {InferenceConsumer} from "../consumer/InferenceConsumer.sol";
import {Tensor} from "../consumer/Tensor.sol";
import {IInferenceOracle} from "../interfaces/IInferenceOracle.sol";

/// @title A loan desk that asks a credit model
/// @notice An applicant states twenty numbers; the model says how likely the loan is to go bad; the desk approves below its threshold.
/// @dev An example: what is stated is believed, and no money is lent.
contract LoanDesk is InferenceConsumer {
    enum Decision {
        None,
        Pending,
        Approved,
        Denied,
        Revoked // was decided on an answer that proved wrong; another will follow
    }

    struct Application {
        address applicant;
        Decision decision;
        int256 risk; // probability of default, in WAD
    }

    /// @notice What the model reads: the columns of the German Credit data, in their order.
    uint256 public constant FEATURES = 20;

    ModelId public immutable model;

    /// @notice The highest probability of default that is approved, in WAD.
    int256 public immutable threshold;

    mapping(RequestId => Application) public applications;

    event Applied(RequestId indexed id, address indexed applicant, Delivery delivery);
    event Decided(RequestId indexed id, address indexed applicant, bool approved, int256 risk);
    event DecisionRevoked(RequestId indexed id, address indexed applicant);

    error NotAProbability(int256 wad);
    error UnexpectedResult(RequestId id);
    error OutputSize(uint256 size);

    constructor(IInferenceOracle oracle_, ModelId model_, int256 threshold_) InferenceConsumer(oracle_) {
        model = model_;
        threshold = threshold_;
    }

    /// @notice Money for requests that the desk pays itself.
    receive() external payable {}

    /// @notice Applies. What is sent goes to the oracle with whatever the desk has there already.
    /// @param numbers_ The twenty numbers.
    /// @param delivery Optimistic: decided at once, and revoked if the answer is proven wrong. Final: decided after the challenge window.
    function submit(int256[FEATURES] calldata numbers_, Delivery delivery) external payable returns (RequestId id) {
        int256[] memory numbers = new int256[](FEATURES);
        for (uint256 i = 0; i < FEATURES; ++i) {
            numbers[i] = numbers_[i];
        }
        IInferenceOracle.RequestArgs memory args = _defaults(model, Tensor.f32FromInts(numbers));
        args.delivery = delivery;
        id = _request(args);
        applications[id] = Application(msg.sender, Decision.Pending, 0);
        emit Applied(id, msg.sender, delivery);
    }

    function _onInferenceResult(RequestId id, bytes calldata output) internal override {
        Application storage application = applications[id];
        if (application.decision != Decision.Pending && application.decision != Decision.Revoked) {
            revert UnexpectedResult(id);
        }
        if (output.length != 4) revert OutputSize(output.length);
        int256 risk = Tensor.f32At(output, 0);
        if (risk < 0 || risk > 1e18) revert NotAProbability(risk);

        bool approved = risk <= threshold;
        application.decision = approved ? Decision.Approved : Decision.Denied;
        application.risk = risk;
        emit Decided(id, application.applicant, approved, risk);
    }

    function _onInferenceRevoked(RequestId id) internal override {
        applications[id].decision = Decision.Revoked;
        emit DecisionRevoked(id, applications[id].applicant);
    }
}
