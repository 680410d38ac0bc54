// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Fulfillment, ModelId, PackedRequest, Request, RequestId, RequestStatus} from "./Types.sol";
import {Market, OfferBook} from "./OfferBook.sol";
import {IInferenceConsumer} from "./interfaces/IInferenceConsumer.sol";
import {IInferenceOracle} from "./interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {Account} from "./lib/Account.sol";
import {BoundedCall} from "./lib/BoundedCall.sol";
import {EIP712} from "./lib/EIP712.sol";
import {EventData, FulfillmentData, RequestData} from "./lib/EventData.sol";
import {PackedRequests} from "./lib/PackedRequests.sol";
import {RequestState, RequestStateLib} from "./lib/RequestState.sol";
import {Signature} from "./lib/Signature.sol";

/// @title Inference oracle
/// @notice Requests, results, callbacks, fees in escrow. See `IInferenceOracle` for the protocol and docs/protocol.md for its rules, which the comments
/// here cite as P1, P2, ...
/// @dev Of a request the oracle keeps one word (`RequestState`); everything else travels in calldata and events. Of an account it keeps one word too,
/// so that settling a result touches two slots. No owner, no upgrade, no setter.
contract InferenceOracle is IInferenceOracle, OfferBook, EIP712 {
    using BoundedCall for address;
    using PackedRequests for PackedRequest;
    using EventData for RequestData;
    using EventData for FulfillmentData;
    using PackedRequests for bytes32;

    /// @notice What a deployment fixes for ever.
    struct Config {
        IModelRegistry models;
        IOperatorRegistry operators;
        address disputeGame; // zero: this deployment has no disputes, and a result is worth its operator's word
        uint64 challengeWindow; // seconds
        uint64 exclusivePeriod; // seconds
        uint32 minTimeout; // seconds
        uint32 maxTimeout; // seconds
        uint256 stakePerResult; // wei
        uint32 maxCallbackGas;
        uint32 revocationGas;
    }

    bytes32 private constant FULFILLMENT_TYPEHASH = keccak256(
        "Fulfillment(uint64 requestId,bytes32 requestHash,bytes32 modelId,bytes32 inputHash,bytes32 outputHash,uint32 outputSize)"
    );

    /// A callback that cannot fit into a transaction beside its output could never be finalized. EIP-7825 caps a transaction at 2^24 gas.
    uint32 private constant CALLBACK_GAS_CEILING = 8_000_000;

    /// P45: enough for any address that a server takes; the rest of a request must not be drowned in it.
    uint256 private constant MAX_URI_BYTES = 2048;

    /// What is kept back from a retried callback to record its outcome.
    uint256 private constant RETRY_RESERVE = 30_000;

    /// @inheritdoc IInferenceOracle
    IModelRegistry public immutable models;
    /// @inheritdoc IInferenceOracle
    IOperatorRegistry public immutable operators;
    /// @inheritdoc IInferenceOracle
    address public immutable disputeGame;
    /// @inheritdoc IInferenceOracle
    uint64 public immutable challengeWindow;
    /// @inheritdoc IInferenceOracle
    uint64 public immutable exclusivePeriod;
    /// @inheritdoc IInferenceOracle
    uint256 public immutable stakePerResult;
    /// @inheritdoc IInferenceOracle
    uint32 public immutable minTimeout;
    /// @inheritdoc IInferenceOracle
    uint32 public immutable maxTimeout;
    /// @inheritdoc IInferenceOracle
    uint32 public immutable maxCallbackGas;
    /// @inheritdoc IInferenceOracle
    uint32 public immutable revocationGas;

    /// @inheritdoc IInferenceOracle
    uint64 public requestCount;
    mapping(RequestId => RequestState) private _states;
    mapping(address => Account) private _accounts;
    mapping(address signer => address operator) private _operatorOf;

    /// Held while a contract that is not ours runs.
    bool private transient _calling;

    /// What must not run while a foreign contract does. `request` and deposits may: they only add (P17).
    modifier notReentered() {
        if (_calling) revert Reentered();
        _;
    }

    modifier onlyDisputeGame() {
        // INVARIANT: nobody but the dispute game stops, upholds or rejects a result (P18).
        if (msg.sender != disputeGame) revert NotDisputeGame(msg.sender);
        _;
    }

    constructor(Config memory config) {
        if (
            address(config.models).code.length == 0 || address(config.operators).code.length == 0
                || config.operators.oracle() != address(this) || address(config.operators.models()) != address(config.models)
                || config.challengeWindow == 0 || config.challengeWindow > 365 days || config.minTimeout <= config.exclusivePeriod
                || config.maxTimeout < config.minTimeout || config.stakePerResult == 0
                || config.stakePerResult > config.operators.minStake() || config.maxCallbackGas > CALLBACK_GAS_CEILING
                || config.revocationGas > CALLBACK_GAS_CEILING
        ) revert InvalidConfig();
        models = config.models;
        operators = config.operators;
        disputeGame = config.disputeGame;
        challengeWindow = config.challengeWindow;
        exclusivePeriod = config.exclusivePeriod;
        minTimeout = config.minTimeout;
        maxTimeout = config.maxTimeout;
        stakePerResult = config.stakePerResult;
        maxCallbackGas = config.maxCallbackGas;
        revocationGas = config.revocationGas;
    }

    // ---------------------------------------------------------------- asking

    /// @inheritdoc IInferenceOracle
    function request(RequestArgs calldata args) external payable returns (RequestId id) {
        RequestData data = EventData.forRequest(args.input);
        address operator;
        (id, operator) = _ask(args, data, args.input.length, uint256(args.delivery));
        data.announce(id, args.modelId, operator);
    }

    /// @inheritdoc IInferenceOracle
    function requestByUri(RequestArgs calldata args, bytes32 inputHash, uint32 inputSize, string calldata uri)
        external
        payable
        returns (RequestId id)
    {
        uint256 length = bytes(uri).length;
        if (length == 0 || length > MAX_URI_BYTES) revert InvalidUri(length, MAX_URI_BYTES);
        // INVARIANT: a request has one input (P45).
        if (args.input.length != 0) revert TwoInputs();
        RequestData data = EventData.forRequestByUri(inputHash, inputSize, uri);
        address operator;
        (id, operator) = _ask(args, data, inputSize, uint256(args.delivery) | PackedRequests.BY_URI);
        data.announceByUri(id, args.modelId, operator);
    }

    /// All of a request but the announcement. The input's hash is in `data`.
    function _ask(RequestArgs calldata args, RequestData data, uint256 inputSize, uint256 deliveryBits)
        private
        returns (RequestId id, address operator)
    {
        uint256 timeout = args.timeout;
        uint256 gasLimit = args.callbackGasLimit;
        uint256 gasPrice = args.callbackGasPrice;
        if (timeout < minTimeout || timeout > maxTimeout) revert InvalidTimeout(timeout, minTimeout, maxTimeout);
        // INVARIANT: every callback that is promised can be made, so no result can be stuck behind one (P14).
        if (gasLimit > maxCallbackGas) revert CallbackGasTooHigh(gasLimit, maxCallbackGas);
        if (gasPrice > PackedRequests.MAX_CALLBACK_GAS_PRICE) {
            revert CallbackGasPriceTooHigh(gasPrice, PackedRequests.MAX_CALLBACK_GAS_PRICE);
        }
        ModelId modelId = args.modelId;
        unchecked {
            id = RequestId.wrap(++requestCount);
            // P3: fixed by the chain, and different for every request.
            bytes32 seed = keccak256(abi.encode(block.prevrandao, blockhash(block.number - 1), address(this), id, msg.sender));
            uint96 price;
            Market market;
            (operator, price, market) = _draw(modelId, uint256(seed), args.maxFee);
            _checkLimits(market, inputSize, args.params.maxTokens);

            data.write(
                PackedRequests.packHead(msg.sender, 0, id),
                modelId,
                seed,
                PackedRequests.packPayment(operator, price),
                PackedRequests.packTerms(
                    PackedRequests.packParams(args.params),
                    gasLimit,
                    gasPrice,
                    deliveryBits,
                    timeout - exclusivePeriod,
                    block.timestamp + timeout
                )
            );
            _collect(price + gasLimit * gasPrice);
            _states[id] = RequestStateLib.pack(data.hash(), RequestStatus.Requested, CallbackStatus.None);
        }
    }

    /// @inheritdoc IInferenceOracle
    function quote(ModelId modelId, uint32 callbackGasLimit, uint64 callbackGasPrice) external view returns (uint96 price, uint256 total) {
        price = _cheapest(modelId);
        total = uint256(price) + uint256(callbackGasLimit) * callbackGasPrice;
    }

    /// @inheritdoc IInferenceOracle
    function cancel(PackedRequest calldata request_) external notReentered {
        RequestId id = request_.id();
        RequestState state = _states[id];
        if (state.status() != RequestStatus.Requested) revert WrongStatus(id, state.status());
        _requireHolds(id, state, request_.hash());
        if (block.timestamp <= request_.deadline()) revert DeadlineNotPassed(id, request_.deadline());

        _states[id] = state.withStatus(RequestStatus.Cancelled);
        uint256 refunded = uint256(request_.fee()) + request_.allowance();
        _credit(request_.requester(), refunded);
        emit Cancelled(id, refunded);
    }

    // ---------------------------------------------------------------- answering

    /// @inheritdoc IInferenceOracle
    function fulfill(Answer calldata answer) external notReentered {
        RequestId id = answer.request.id();
        RequestState state = _states[id];
        if (state.status() != RequestStatus.Requested) revert WrongStatus(id, state.status());
        _fulfill(answer, state);
    }

    /// @inheritdoc IInferenceOracle
    function fulfillBatch(Answer[] calldata answers) external notReentered {
        for (uint256 i = 0; i < answers.length; ++i) {
            RequestId id = answers[i].request.id();
            RequestState state = _states[id];
            if (state.status() != RequestStatus.Requested) emit Skipped(id, state.status());
            else _fulfill(answers[i], state);
        }
    }

    function _fulfill(Answer calldata answer, RequestState state) private {
        PackedRequest calldata request_ = answer.request;
        RequestId id = request_.id();
        bytes32 hash = request_.hash();
        _requireHolds(id, state, hash);
        if (block.timestamp > request_.deadline()) revert DeadlinePassed(id, request_.deadline());

        (FulfillmentData data, bytes32 outputHash) = EventData.forFulfillment(hash, answer.output);
        address operator = _signedBy(request_, hash, outputHash, answer.output.length, answer.signature);
        // INVARIANT: until then nobody but the drawn operator answers (P8).
        if (operator != request_.operator() && block.timestamp < request_.exclusiveUntil()) {
            address drawn = request_.operator();
            if (drawn != address(0)) revert ExclusiveToOperator(id, drawn, request_.exclusiveUntil());
        }
        _lock(operator);

        data.write(operator);
        CallbackStatus callback = CallbackStatus.None;
        if (request_.callbackGasLimit() != 0 && request_.delivery() == Delivery.Optimistic) {
            // The consumer, while it runs, sees the result posted; what the callback cost is known only afterwards.
            _states[id] = RequestStateLib.pack(data.hash(), RequestStatus.Fulfilled, callback);
            uint256 cost;
            (callback, cost) = _deliver(request_, answer.output);
            data.writeCallbackCost(cost);
        }
        _states[id] = RequestStateLib.pack(data.hash(), RequestStatus.Fulfilled, callback);
        data.announce(id, operator);
    }

    /// @inheritdoc IInferenceOracle
    function finalize(Settlement calldata settlement) external notReentered {
        RequestId id = settlement.request.id();
        RequestState state = _states[id];
        if (state.status() != RequestStatus.Fulfilled) revert WrongStatus(id, state.status());
        uint256 until = settlement.fulfillment.fulfilledAt + challengeWindow;
        if (block.timestamp < until) revert WindowOpen(id, until);
        _finalize(settlement, state);
    }

    /// @inheritdoc IInferenceOracle
    function finalizeBatch(Settlement[] calldata settlements) external notReentered {
        for (uint256 i = 0; i < settlements.length; ++i) {
            Settlement calldata settlement = settlements[i];
            RequestId id = settlement.request.id();
            RequestState state = _states[id];
            bool ready =
                state.status() == RequestStatus.Fulfilled && block.timestamp >= settlement.fulfillment.fulfilledAt + challengeWindow;
            if (ready) _finalize(settlement, state);
            else emit Skipped(id, state.status());
        }
    }

    /// The caller has checked the status, and the window by what the settlement says; that it says the truth is checked here.
    function _finalize(Settlement calldata settlement, RequestState state) private {
        PackedRequest calldata request_ = settlement.request;
        Fulfillment calldata fulfillment = settlement.fulfillment;
        RequestId id = request_.id();
        _requireHolds(id, state, request_.hash().hashResult(fulfillment));

        // INVARIANT: paid once, because the status says so before anything else happens (P11).
        state = state.withStatus(RequestStatus.Finalized);
        _states[id] = state;
        address operator = fulfillment.operator;
        uint256 spent = fulfillment.callbackCost;
        uint256 refunded = 0;
        unchecked {
            uint256 paid = request_.fee() + spent;
            // INVARIANT: every open result was counted once when it was posted, and is uncounted once, here or when it is rejected.
            _accounts[operator] = _accounts[operator].withOneLess().plusCredit(paid);

            if (request_.callbackGasLimit() != 0) {
                refunded = request_.allowance() - spent;
                if (request_.delivery() == Delivery.Final) {
                    if (keccak256(settlement.output) != fulfillment.outputHash) revert OutputMismatch(id);
                    (CallbackStatus callback, uint256 cost) = _deliver(request_, settlement.output);
                    _states[id] = state.withCallback(callback);
                    _credit(msg.sender, cost);
                    refunded -= cost;
                }
                if (refunded != 0) _credit(request_.requester(), refunded);
            }
            emit Finalized(id, operator, paid, refunded);
        }
    }

    /// @inheritdoc IInferenceOracle
    function retryCallback(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata output) external notReentered {
        RequestId id = request_.id();
        RequestState state = _states[id];
        RequestStatus status = state.status();
        if (status != RequestStatus.Fulfilled && status != RequestStatus.Finalized) revert WrongStatus(id, status);
        _requireHolds(id, state, request_.hash().hashResult(fulfillment));
        // INVARIANT: a result is delivered once (P15).
        if (state.callback() != CallbackStatus.Failed) revert NothingToDeliver(id);
        if (keccak256(output) != fulfillment.outputHash) revert OutputMismatch(id);

        bytes memory data = abi.encodeCall(IInferenceConsumer.onInferenceResult, (id, output));
        uint256 required = BoundedCall.gasRequired(request_.callbackGasLimit()) + RETRY_RESERVE;
        uint256 available = gasleft();
        if (available < required) revert NotEnoughGas(available, required);
        // All that the caller brings: perhaps the callback failed for want of gas.
        (CallbackStatus callback,) = _call(id, request_.requester(), BoundedCall.gasAvailable(available - RETRY_RESERVE), data);
        _states[id] = state.withCallback(callback);
    }

    // ---------------------------------------------------------------- disputes

    /// @inheritdoc IInferenceOracle
    function openDispute(PackedRequest calldata request_, Fulfillment calldata fulfillment) external onlyDisputeGame notReentered {
        RequestId id = request_.id();
        RequestState state = _held(request_, fulfillment, RequestStatus.Fulfilled);
        uint256 until = fulfillment.fulfilledAt + challengeWindow;
        // INVARIANT: a result whose window has passed is final, whether or not somebody has finalized it yet (P19).
        if (block.timestamp >= until) revert WindowClosed(id, until);
        _states[id] = state.withStatus(RequestStatus.Disputed);
        emit DisputeOpened(id, fulfillment.operator);
    }

    /// @inheritdoc IInferenceOracle
    function upholdResult(PackedRequest calldata request_, Fulfillment calldata fulfillment) external onlyDisputeGame notReentered {
        RequestState state = _held(request_, fulfillment, RequestStatus.Disputed);
        _states[request_.id()] = state.withStatus(RequestStatus.Fulfilled);
        emit ResultUpheld(request_.id(), fulfillment.operator);
    }

    /// @inheritdoc IInferenceOracle
    function rejectResult(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata input)
        external
        onlyDisputeGame
        notReentered
        returns (uint256 slashed)
    {
        RequestId id = request_.id();
        RequestState state = _held(request_, fulfillment, RequestStatus.Disputed);

        // P21: open to all, for as long as the first attempt was in all; fee and callback allowance are whole.
        RequestData data = EventData.forRequest(input);
        if (data.inputHash() != request_.inputHash) {
            // P47: an input that is at a URI is not asked for: the operator that fell may be the only one that has it.
            if (!request_.inputByUri() || input.length != 0) revert RequestMismatch(id);
            data.writeInputHash(request_.inputHash);
        }
        data.write(
            PackedRequests.packHead(request_.requester(), uint256(request_.attempt()) + 1, id),
            request_.modelId,
            request_.seed,
            PackedRequests.packPayment(address(0), request_.fee()),
            PackedRequests.packTerms(
                request_.params(),
                request_.callbackGasLimit(),
                request_.callbackGasPrice(),
                request_.deliveryBits(),
                request_.openFor(),
                block.timestamp + exclusivePeriod + request_.openFor()
            )
        );
        _states[id] = RequestStateLib.pack(data.hash(), RequestStatus.Requested, CallbackStatus.None);

        slashed = stakePerResult;
        address operator = fulfillment.operator;
        emit ResultRejected(id, operator, slashed);
        data.announce(id, request_.modelId, address(0));

        // INVARIANT: stake >= locked, and a liar pays (P20): the slice is gone before any foreign contract runs, so nobody's consumer can help the stake away
        // between unlocking and slashing.
        _accounts[operator] = _accounts[operator].withOneLess();
        _calling = true;
        operators.slash(operator, slashed, msg.sender);
        _calling = false;
        if (state.callback() == CallbackStatus.Delivered) _revoke(id, request_.requester());
    }

    // ---------------------------------------------------------------- operators

    /// @inheritdoc IInferenceOracle
    function syncSigner(address signer, address operator) external {
        _requireRegistry();
        _operatorOf[signer] = operator;
    }

    /// @inheritdoc IInferenceOracle
    function syncOffer(ModelId modelId, address operator, uint96 price) external returns (bool added) {
        _requireRegistry();
        return _setOffer(modelId, operator, price);
    }

    /// @inheritdoc IInferenceOracle
    function syncOfferRemoved(ModelId modelId, address operator) external {
        _requireRegistry();
        _removeOffer(modelId, operator);
    }

    /// @inheritdoc IInferenceOracle
    function syncStake(address operator, uint256 available) external {
        _requireRegistry();
        _accounts[operator] = _accounts[operator].withCapacity(available / stakePerResult);
    }

    // ---------------------------------------------------------------- money

    /// @inheritdoc IInferenceOracle
    function depositCredit(address account) external payable {
        _credit(account, msg.value);
        emit CreditDeposited(account, msg.sender, msg.value);
    }

    /// @inheritdoc IInferenceOracle
    function withdrawCredit(address to, uint256 amount) external notReentered {
        Account account = _accounts[msg.sender];
        // INVARIANT: nobody takes more than is theirs.
        if (amount > account.credit()) revert InsufficientCredit(account.credit(), amount);
        _accounts[msg.sender] = account.minusCredit(amount);
        emit CreditWithdrawn(msg.sender, to, amount);
        _calling = true;
        (bool sent,) = to.call{value: amount}("");
        _calling = false;
        if (!sent) revert TransferFailed(to, amount);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IInferenceOracle
    function statusOf(RequestId id) external view returns (RequestStatus status, CallbackStatus callback) {
        RequestState state = _states[id];
        return (state.status(), state.callback());
    }

    /// @inheritdoc IInferenceOracle
    function isFinal(PackedRequest calldata request_, Fulfillment calldata fulfillment) external view returns (bool) {
        RequestState state = _states[request_.id()];
        return state.status() == RequestStatus.Finalized && state.holds(request_.hash().hashResult(fulfillment));
    }

    /// @inheritdoc IInferenceOracle
    function unpack(PackedRequest calldata request_) external pure returns (Request memory) {
        return request_.unpack();
    }

    /// @inheritdoc IInferenceOracle
    function requestHash(PackedRequest calldata request_) external pure returns (bytes32) {
        return request_.hash();
    }

    /// @inheritdoc IInferenceOracle
    function fulfillmentDigest(PackedRequest calldata request_, bytes32 outputHash, uint32 outputSize) external view returns (bytes32) {
        return _fulfillmentDigest(request_, request_.hash(), outputHash, outputSize);
    }

    /// @inheritdoc IInferenceOracle
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparator();
    }

    /// @inheritdoc IInferenceOracle
    function creditOf(address account) external view returns (uint256) {
        return _accounts[account].credit();
    }

    /// @inheritdoc IInferenceOracle
    function openResultsOf(address operator) external view returns (uint256) {
        return _accounts[operator].openResults();
    }

    /// @inheritdoc IInferenceOracle
    function lockedStakeOf(address operator) external view returns (uint256) {
        return _accounts[operator].openResults() * stakePerResult;
    }

    /// @inheritdoc IInferenceOracle
    function operatorOf(address signer) external view returns (address) {
        return _operatorOf[signer];
    }

    /// @inheritdoc IInferenceOracle
    function offers(ModelId modelId, uint256 from, uint256 count) external view returns (IOperatorRegistry.Offer[] memory, uint256) {
        return _page(modelId, from, count);
    }

    /// @inheritdoc IInferenceOracle
    function offerOf(ModelId modelId, address operator) external view returns (bool, uint96) {
        return _offerOf(modelId, operator);
    }

    /// @inheritdoc IInferenceOracle
    function cheapestOffer(ModelId modelId) external view returns (uint96) {
        return _cheapest(modelId);
    }

    /// @inheritdoc IInferenceOracle
    function draw(ModelId modelId, bytes32 seed, uint256 maxFee) external view returns (address operator, uint96 price) {
        (operator, price,) = _draw(modelId, uint256(seed), maxFee);
    }

    // ---------------------------------------------------------------- inside

    function _models() internal view override returns (IModelRegistry) {
        return models;
    }

    function _checkLimits(Market market, uint256 size, uint256 tokens) private pure {
        if (size < market.minInputBytes() || size > market.maxInputBytes()) {
            revert InputSize(size, market.minInputBytes(), market.maxInputBytes());
        }
        if (tokens > market.maxTokens()) revert TooManyTokens(tokens, market.maxTokens());
    }

    /// The operator that answers for a result by its signature.
    function _signedBy(PackedRequest calldata request_, bytes32 hash, bytes32 outputHash, uint256 outputSize, bytes calldata signature)
        private
        view
        returns (address operator)
    {
        address signer = Signature.recover(_fulfillmentDigest(request_, hash, outputHash, outputSize), signature);
        if (signer == address(0)) revert InvalidSignature();
        operator = _operatorOf[signer];
        if (operator == address(0)) revert UnknownSigner(signer);
    }

    /// P7: binds chain and contract by the domain; request, attempt and seed by the hash; model, input and output by name.
    function _fulfillmentDigest(PackedRequest calldata request_, bytes32 hash, bytes32 outputHash, uint256 outputSize)
        private
        view
        returns (bytes32)
    {
        return _digest(
            keccak256(abi.encode(FULFILLMENT_TYPEHASH, request_.id(), hash, request_.modelId, request_.inputHash, outputHash, outputSize))
        );
    }

    /// Holds a slice of the operator's stake until the result is final or rejected.
    function _lock(address operator) private {
        Account account = _accounts[operator];
        // INVARIANT: stake >= locked. A result that no stake answers for is not posted (P9).
        if (account.openResults() >= account.capacity()) {
            revert InsufficientStake(operator, account.capacity() * stakePerResult, (account.openResults() + 1) * stakePerResult);
        }
        _accounts[operator] = account.withOneMore();
    }

    /// The first call of the consumer: exactly the gas that was paid for, at the lower of the two gas prices (P14, P16).
    function _deliver(PackedRequest calldata request_, bytes calldata output) private returns (CallbackStatus status, uint256 cost) {
        uint256 gasLimit = request_.callbackGasLimit();
        bytes memory data = abi.encodeCall(IInferenceConsumer.onInferenceResult, (request_.id(), output));
        // INVARIANT: what the consumer gets does not depend on what the carrier provides; too little is no delivery at all (P14).
        uint256 required = BoundedCall.gasRequired(gasLimit);
        uint256 available = gasleft();
        if (available < required) revert NotEnoughGas(available, required);
        uint256 gasUsed;
        (status, gasUsed) = _call(request_.id(), request_.requester(), gasLimit, data);
        uint256 price = tx.gasprice < request_.callbackGasPrice() ? tx.gasprice : request_.callbackGasPrice();
        cost = (gasUsed < gasLimit ? gasUsed : gasLimit) * price;
    }

    function _revoke(RequestId id, address consumer) private {
        uint256 required = BoundedCall.gasRequired(revocationGas);
        uint256 available = gasleft();
        if (available < required) revert NotEnoughGas(available, required);
        bytes memory data = abi.encodeCall(IInferenceConsumer.onInferenceRevoked, (id));
        _calling = true;
        (bool success, uint256 gasUsed, bytes memory returnData) = consumer.boundedCall(revocationGas, data);
        _calling = false;
        emit RevocationExecuted(id, success ? CallbackStatus.Delivered : CallbackStatus.Failed, gasUsed, returnData);
    }

    function _call(RequestId id, address consumer, uint256 gasLimit, bytes memory data)
        private
        returns (CallbackStatus status, uint256 gasUsed)
    {
        bool success;
        bytes memory returnData;
        _calling = true;
        (success, gasUsed, returnData) = consumer.boundedCall(gasLimit, data);
        _calling = false;
        status = success ? CallbackStatus.Delivered : CallbackStatus.Failed;
        emit CallbackExecuted(id, status, gasUsed, returnData);
    }

    /// The state of a result, if it is the one given and stands where it should.
    function _held(PackedRequest calldata request_, Fulfillment calldata fulfillment, RequestStatus expected)
        private
        view
        returns (RequestState state)
    {
        RequestId id = request_.id();
        state = _states[id];
        if (state.status() != expected) revert WrongStatus(id, state.status());
        _requireHolds(id, state, request_.hash().hashResult(fulfillment));
    }

    function _requireHolds(RequestId id, RequestState state, bytes32 hash) private pure {
        // INVARIANT: what the caller says about a request is what was stored (P1).
        if (!state.holds(hash)) revert RequestMismatch(id);
    }

    function _requireRegistry() private view {
        // INVARIANT: who signs for whom, and on how much stake, is the registry's word only.
        if (msg.sender != address(operators)) revert NotOperatorRegistry(msg.sender);
    }

    /// Takes `total` from what was sent and, for the rest, from the sender's credit; what was sent beyond becomes credit.
    function _collect(uint256 total) private {
        if (msg.value > total) {
            uint256 excess = msg.value - total;
            _credit(msg.sender, excess);
            emit CreditDeposited(msg.sender, msg.sender, excess);
        } else if (msg.value < total) {
            Account account = _accounts[msg.sender];
            uint256 missing = total - msg.value;
            // INVARIANT: what is promised to operators is in escrow (P4).
            if (account.credit() < missing) revert InsufficientPayment(msg.value + account.credit(), total);
            _accounts[msg.sender] = account.minusCredit(missing);
        }
    }

    function _credit(address account, uint256 amount) private {
        _accounts[account] = _accounts[account].plusCredit(amount);
    }
}
