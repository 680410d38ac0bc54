// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, ModelId, Params, RequestId} from "../Types.sol";
import {IInferenceConsumer} from "../interfaces/IInferenceConsumer.sol";
import {IInferenceOracle} from "../interfaces/IInferenceOracle.sol";

/// @title Base of a contract that asks
/// @notice Inherit, call `_request`, implement `_onInferenceResult`. The result comes in a later transaction, from somebody else.
///
///     contract Judge is InferenceConsumer {
///         constructor(IInferenceOracle oracle) InferenceConsumer(oracle) {}
///         function ask(string calldata text) external payable { _request(MODEL, Tensor.utf8(text)); }
///         function _onInferenceResult(RequestId id, bytes calldata output) internal override { ... }
///     }
///
/// What to know:
/// - The short `_request` asks for delivery at finality: the result comes after the challenge window, once, and is never taken back.
/// - With `Delivery.Optimistic` it comes at once and may be taken back: implement `_onInferenceRevoked`, and undo there. The same request may then be
///   answered again.
/// - The callback gets the gas that was paid for and not more. A revert in it is recorded; anybody can have it tried again.
/// - The output is what the operator says the model said. Its form is yours to check: a callback that reverts on nonsense is a good callback.
/// - Unspent callback gas and refunds come back as this contract's credit at the oracle; the next request uses it first.
abstract contract InferenceConsumer is IInferenceConsumer {
    /// @notice Enough for a callback that decodes a small output, stores a few words and emits an event.
    uint32 internal constant DEFAULT_CALLBACK_GAS = 200_000;

    /// @notice Long enough for several operators to try.
    uint32 internal constant DEFAULT_TIMEOUT = 1 hours;

    /// @notice The oracle this contract asks, and the only one it listens to.
    IInferenceOracle public immutable oracle;

    error NotOracle(address caller);
    error CannotPay(uint256 available, uint256 required);

    constructor(IInferenceOracle oracle_) {
        oracle = oracle_;
    }

    /// @inheritdoc IInferenceConsumer
    function onInferenceResult(RequestId id, bytes calldata output) external {
        _onlyOracle();
        _onInferenceResult(id, output);
    }

    /// @inheritdoc IInferenceConsumer
    function onInferenceRevoked(RequestId id) external {
        _onlyOracle();
        _onInferenceRevoked(id);
    }

    /// @notice The answer to a request of this contract.
    function _onInferenceResult(RequestId id, bytes calldata output) internal virtual;

    /// @notice An answer delivered optimistically was wrong. Undo what was done with it. Never called for requests with delivery at finality.
    function _onInferenceRevoked(RequestId id) internal virtual {}

    /// @notice Asks a model, at the price of its cheapest operator, for delivery at finality.
    /// @dev Looks at all offers for the model. Where there are hundreds, give the price yourself in the long form.
    function _request(ModelId modelId, bytes memory input) internal returns (RequestId) {
        return _request(_defaults(modelId, input));
    }

    /// @notice Asks, with everything said. Paid from this contract's credit first, then from its balance.
    function _request(IInferenceOracle.RequestArgs memory args) internal returns (RequestId) {
        return oracle.request{value: _toPay(args)}(args);
    }

    /// @notice Asks about an input that is at a URI (`https:`, `ipfs:`, `data:`) and does not travel on chain, as the short `_request` does.
    /// @dev For inputs that you or somebody you trust has published. Where the one who asks chooses hash and URI, it may choose an input that nobody
    /// else can get at, and then nobody checks the answer of its own accord: see `IInferenceOracle.requestByUri`.
    function _requestByUri(ModelId modelId, bytes32 inputHash, uint32 inputSize, string memory uri) internal returns (RequestId) {
        return _requestByUri(_defaults(modelId, ""), inputHash, inputSize, uri);
    }

    /// @notice The same with everything said; `args.input` stays empty.
    function _requestByUri(IInferenceOracle.RequestArgs memory args, bytes32 inputHash, uint32 inputSize, string memory uri)
        internal
        returns (RequestId)
    {
        return oracle.requestByUri{value: _toPay(args)}(args, inputHash, inputSize, uri);
    }

    /// What is to be sent with a request: what the credit at the oracle does not cover.
    function _toPay(IInferenceOracle.RequestArgs memory args) private view returns (uint256 value) {
        uint256 total = uint256(args.maxFee) + uint256(args.callbackGasLimit) * args.callbackGasPrice;
        uint256 credit = oracle.creditOf(address(this));
        value = total > credit ? total - credit : 0;
        if (value > address(this).balance) revert CannotPay(address(this).balance + credit, total);
    }

    /// @notice What the short `_request` says; change what you need and give it to the long one.
    function _defaults(ModelId modelId, bytes memory input) internal view returns (IInferenceOracle.RequestArgs memory) {
        (uint96 price,) = oracle.quote(modelId, 0, 0);
        return IInferenceOracle.RequestArgs({
            modelId: modelId,
            input: input,
            params: Params(0, 0, 0),
            delivery: Delivery.Final,
            callbackGasLimit: DEFAULT_CALLBACK_GAS,
            callbackGasPrice: _callbackGasPrice(),
            maxFee: price,
            timeout: DEFAULT_TIMEOUT
        });
    }

    /// @notice Twice today's base fee and a tip, at most, for gas that is used some time later. What is not needed comes back.
    function _callbackGasPrice() internal view virtual returns (uint64) {
        uint256 price = 2 * block.basefee + 1 gwei;
        // forge-lint: disable-next-line(unsafe-typecast) compared just before
        return price < type(uint48).max ? uint64(price) : type(uint48).max;
    }

    /// @notice Takes this contract's credit out of the oracle.
    function _withdrawCredit(address to, uint256 amount) internal {
        oracle.withdrawCredit(to, amount);
    }

    function _onlyOracle() private view {
        // INVARIANT: a result is believed from the oracle only.
        if (msg.sender != address(oracle)) revert NotOracle(msg.sender);
    }
}
