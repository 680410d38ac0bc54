// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Fulfillment, ModelId, PackedRequest, Request, RequestId, RequestStatus} from "../Types.sol";
import {IInferenceConsumer} from "../interfaces/IInferenceConsumer.sol";
import {IInferenceOracle} from "../interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../interfaces/IModelRegistry.sol";
import {IOperatorRegistry} from "../interfaces/IOperatorRegistry.sol";
import {BoundedCall} from "../lib/BoundedCall.sol";

/// @title An oracle for the unit tests of a consumer
/// @notice Takes requests as the real one does, for a price that the test sets, and answers when the test says so and with what it says. There is no
/// operator, no signature, no stake and no window.
///
///     MockInferenceOracle oracle = new MockInferenceOracle(0.001 ether);
///     RequestId id = desk.submit{value: 1 ether}(...);
///     oracle.answer(id, hex"3e4ccccd");         // delivered, with the gas that was paid for
///     oracle.revoke(id);                        // onInferenceRevoked
///     oracle.answer(id, "");                    // an empty output
///     oracle.answerWithGas(id, output, 1_000);  // a callback that runs out of gas
///     oracle.expire(id);                        // nobody answered: the money is the requester's credit
/// Every answer tells whether the consumer took it, and with what it reverted otherwise; neither makes the test revert.
contract MockInferenceOracle is IInferenceOracle {
    using BoundedCall for address;

    struct Asked {
        address requester;
        RequestArgs args;
        uint256 paid;
        RequestStatus status;
        CallbackStatus callback;
        bytes32 inputHash;
        string uri; // empty: the input is in `args`
    }

    /// Gas that `onInferenceRevoked` gets.
    uint32 public constant revocationGas = 200_000;

    uint96 public price;
    uint64 public requestCount;
    mapping(RequestId => Asked) private _asked;
    mapping(address => uint256) public creditOf;

    /// The mock has nothing to do with operators, results on chain or disputes.
    error NotInMock();

    constructor(uint96 price_) {
        price = price_;
    }

    // ---------------------------------------------------------------- what a test does

    function setPrice(uint96 price_) external {
        price = price_;
    }

    /// @notice What was asked.
    function askedOf(RequestId id) external view returns (Asked memory) {
        return _asked[id];
    }

    /// @notice Delivers an output with the gas that the request paid for.
    function answer(RequestId id, bytes calldata output) external returns (bool delivered, bytes memory returnData) {
        return _answer(id, output, _asked[id].args.callbackGasLimit);
    }

    /// @notice Delivers an output with the gas given here.
    function answerWithGas(RequestId id, bytes calldata output, uint256 gasLimit)
        external
        returns (bool delivered, bytes memory returnData)
    {
        return _answer(id, output, gasLimit);
    }

    /// @notice Takes a delivered answer back; the request can be answered again.
    function revoke(RequestId id) external returns (bool delivered, bytes memory returnData) {
        Asked storage asked = _asked[id];
        if (asked.status != RequestStatus.Fulfilled) revert WrongStatus(id, asked.status);
        asked.status = RequestStatus.Requested;
        asked.callback = CallbackStatus.None;
        bytes memory data = abi.encodeCall(IInferenceConsumer.onInferenceRevoked, (id));
        (delivered,, returnData) = asked.requester.boundedCall(revocationGas, data);
    }

    /// @notice Ends a request that nobody answered.
    function expire(RequestId id) external {
        Asked storage asked = _asked[id];
        if (asked.status != RequestStatus.Requested) revert WrongStatus(id, asked.status);
        asked.status = RequestStatus.Cancelled;
        creditOf[asked.requester] += asked.paid;
        emit Cancelled(id, asked.paid);
    }

    function _answer(RequestId id, bytes calldata output, uint256 gasLimit) private returns (bool delivered, bytes memory returnData) {
        Asked storage asked = _asked[id];
        if (asked.status != RequestStatus.Requested) revert WrongStatus(id, asked.status);
        asked.status = RequestStatus.Fulfilled;
        uint256 required = BoundedCall.gasRequired(gasLimit);
        if (gasleft() < required) revert NotEnoughGas(gasleft(), required);
        uint256 gasUsed;
        bytes memory data = abi.encodeCall(IInferenceConsumer.onInferenceResult, (id, output));
        (delivered, gasUsed, returnData) = asked.requester.boundedCall(gasLimit, data);
        asked.callback = delivered ? CallbackStatus.Delivered : CallbackStatus.Failed;
        emit CallbackExecuted(id, asked.callback, gasUsed, returnData);
    }

    // ---------------------------------------------------------------- what a consumer calls

    /// @inheritdoc IInferenceOracle
    function request(RequestArgs calldata args) external payable returns (RequestId) {
        return _ask(args, keccak256(args.input), "");
    }

    /// @inheritdoc IInferenceOracle
    function requestByUri(RequestArgs calldata args, bytes32 inputHash, uint32, string calldata uri) external payable returns (RequestId) {
        if (bytes(uri).length == 0 || bytes(uri).length > 2048) revert InvalidUri(bytes(uri).length, 2048);
        if (args.input.length != 0) revert TwoInputs();
        return _ask(args, inputHash, uri);
    }

    function _ask(RequestArgs calldata args, bytes32 inputHash, string memory uri) private returns (RequestId id) {
        if (args.maxFee < price) revert IOperatorRegistry.FeeTooLow(args.maxFee, price);
        uint256 total = uint256(price) + uint256(args.callbackGasLimit) * args.callbackGasPrice;
        uint256 available = msg.value + creditOf[msg.sender];
        if (available < total) revert InsufficientPayment(available, total);
        creditOf[msg.sender] = available - total;
        id = RequestId.wrap(++requestCount);
        _asked[id] = Asked(msg.sender, args, total, RequestStatus.Requested, CallbackStatus.None, inputHash, uri);
    }

    /// @inheritdoc IInferenceOracle
    function quote(ModelId, uint32 callbackGasLimit, uint64 callbackGasPrice) external view returns (uint96, uint256) {
        return (price, uint256(price) + uint256(callbackGasLimit) * callbackGasPrice);
    }

    /// @inheritdoc IInferenceOracle
    function statusOf(RequestId id) external view returns (RequestStatus, CallbackStatus) {
        return (_asked[id].status, _asked[id].callback);
    }

    /// @inheritdoc IInferenceOracle
    function depositCredit(address account) external payable {
        creditOf[account] += msg.value;
        emit CreditDeposited(account, msg.sender, msg.value);
    }

    /// @inheritdoc IInferenceOracle
    function withdrawCredit(address to, uint256 amount) external {
        if (creditOf[msg.sender] < amount) revert InsufficientCredit(creditOf[msg.sender], amount);
        creditOf[msg.sender] -= amount;
        emit CreditWithdrawn(msg.sender, to, amount);
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert TransferFailed(to, amount);
    }

    // ---------------------------------------------------------------- what only the real one does

    function cancel(PackedRequest calldata) external pure {
        revert NotInMock();
    }

    function fulfill(Answer calldata) external pure {
        revert NotInMock();
    }

    function fulfillBatch(Answer[] calldata) external pure {
        revert NotInMock();
    }

    function finalize(Settlement calldata) external pure {
        revert NotInMock();
    }

    function finalizeBatch(Settlement[] calldata) external pure {
        revert NotInMock();
    }

    function retryCallback(PackedRequest calldata, Fulfillment calldata, bytes calldata) external pure {
        revert NotInMock();
    }

    function openDispute(PackedRequest calldata, Fulfillment calldata) external pure {
        revert NotInMock();
    }

    function upholdResult(PackedRequest calldata, Fulfillment calldata) external pure {
        revert NotInMock();
    }

    function rejectResult(PackedRequest calldata, Fulfillment calldata, bytes calldata) external pure returns (uint256) {
        revert NotInMock();
    }

    function syncSigner(address, address) external pure {
        revert NotInMock();
    }

    function syncStake(address, uint256) external pure {
        revert NotInMock();
    }

    function syncOffer(ModelId, address, uint96) external pure returns (bool) {
        revert NotInMock();
    }

    function syncOfferRemoved(ModelId, address) external pure {
        revert NotInMock();
    }

    function isFinal(PackedRequest calldata, Fulfillment calldata) external pure returns (bool) {
        revert NotInMock();
    }

    function unpack(PackedRequest calldata) external pure returns (Request memory) {
        revert NotInMock();
    }

    function requestHash(PackedRequest calldata) external pure returns (bytes32) {
        revert NotInMock();
    }

    function fulfillmentDigest(PackedRequest calldata, bytes32, uint32) external pure returns (bytes32) {
        revert NotInMock();
    }

    function domainSeparator() external pure returns (bytes32) {
        revert NotInMock();
    }

    function openResultsOf(address) external pure returns (uint256) {
        revert NotInMock();
    }

    function lockedStakeOf(address) external pure returns (uint256) {
        revert NotInMock();
    }

    function operatorOf(address) external pure returns (address) {
        revert NotInMock();
    }

    function offers(ModelId, uint256, uint256) external pure returns (IOperatorRegistry.Offer[] memory, uint256) {
        revert NotInMock();
    }

    function offerOf(ModelId, address) external pure returns (bool, uint96) {
        revert NotInMock();
    }

    function cheapestOffer(ModelId) external view returns (uint96) {
        return price;
    }

    function draw(ModelId, bytes32, uint256) external pure returns (address, uint96) {
        revert NotInMock();
    }

    function models() external pure returns (IModelRegistry) {
        revert NotInMock();
    }

    function operators() external pure returns (IOperatorRegistry) {
        revert NotInMock();
    }

    function disputeGame() external pure returns (address) {
        revert NotInMock();
    }

    function challengeWindow() external pure returns (uint64) {
        revert NotInMock();
    }

    function exclusivePeriod() external pure returns (uint64) {
        revert NotInMock();
    }

    function stakePerResult() external pure returns (uint256) {
        revert NotInMock();
    }

    function minTimeout() external pure returns (uint32) {
        revert NotInMock();
    }

    function maxTimeout() external pure returns (uint32) {
        revert NotInMock();
    }

    function maxCallbackGas() external pure returns (uint32) {
        revert NotInMock();
    }
}
