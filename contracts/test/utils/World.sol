// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {InferenceOracle} from "../../src/InferenceOracle.sol";
import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {OperatorRegistry} from "../../src/OperatorRegistry.sol";
import {CallbackStatus, Delivery, Fulfillment, Limits, ModelId, Params, PackedRequest, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {Test} from "./Test.sol";
import {ToyGame} from "./ToyGame.sol";
import {Vm} from "./Vm.sol";

/// @title The deployed system, and the moves every test makes in it
/// @notice One model, two operators with a key each. What the oracle keeps only the hash of is read back from its events, as a relayer does.
abstract contract World is Test {
    uint64 internal constant WINDOW = 1 hours;
    uint64 internal constant EXCLUSIVE = 2 minutes;
    uint32 internal constant TIMEOUT = 1 hours;
    uint256 internal constant SLICE = 0.1 ether;
    uint256 internal constant MIN_STAKE = 1 ether;
    uint256 internal constant DELAY = 1 days;
    uint32 internal constant MAX_CALLBACK_GAS = 3_000_000;
    uint32 internal constant REVOCATION_GAS = 200_000;
    uint96 internal constant PRICE = 0.001 ether;
    uint64 internal constant GAS_PRICE = 2 gwei;

    ModelRegistry internal models;
    OperatorRegistry internal operators;
    InferenceOracle internal oracle;
    ToyGame internal game;
    ModelId internal model;

    address internal alice; // asks
    address internal carrier; // posts and finalizes, has no role
    address internal operator;
    address internal signer;
    uint256 internal signerKey;
    address internal rival; // another operator
    address internal rivalSigner;
    uint256 internal rivalKey;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        vm.roll(1_000);
        vm.prevrandao(keccak256("randao"));
        alice = account_("alice");
        carrier = account_("carrier");
        operator = account_("operator");
        rival = account_("rival");
        (signer, signerKey) = actor("signer");
        (rivalSigner, rivalKey) = actor("rival signer");

        deploy();
        model = models.register(descriptor("model", limits()), "ipfs://model");
        join(operator, signerKey, 10 ether, PRICE);
    }

    function deploy() internal virtual {
        game = new ToyGame();
        models = new ModelRegistry();
        // The registry is told the address that the oracle will have.
        address next = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        operators = new OperatorRegistry(next, models, MIN_STAKE, DELAY);
        oracle = new InferenceOracle(config(address(game)));
        game.connect(oracle);
    }

    function config(address disputeGame) internal view returns (InferenceOracle.Config memory) {
        return InferenceOracle.Config({
            models: models,
            operators: operators,
            disputeGame: disputeGame,
            challengeWindow: WINDOW,
            exclusivePeriod: EXCLUSIVE,
            minTimeout: 5 minutes,
            maxTimeout: 7 days,
            stakePerResult: SLICE,
            maxCallbackGas: MAX_CALLBACK_GAS,
            revocationGas: REVOCATION_GAS
        });
    }

    // ---------------------------------------------------------------- actors

    function limits() internal pure returns (Limits memory) {
        return Limits({minInputBytes: 1, maxInputBytes: 4096, maxOutputBytes: 4096, maxTokens: 16});
    }

    function descriptor(string memory name, Limits memory limits_) internal pure returns (IModelRegistry.ModelDescriptor memory) {
        return IModelRegistry.ModelDescriptor({
            arithmeticVersion: 1,
            graphRoot: keccak256(bytes(name)),
            weightsRoot: keccak256("weights"),
            vocabRoot: bytes32(0),
            limits: limits_
        });
    }

    function join(address who, uint256 key, uint256 stake, uint96 price) internal {
        vm.startPrank(who);
        operators.deposit{value: stake}(who);
        operators.setOffer(model, price);
        operators.addSigner(vm.addr(key), consent(who, key));
        vm.stopPrank();
    }

    function consent(address who, uint256 key) internal view returns (bytes memory) {
        bytes32 typehash = keccak256("SignerConsent(address operator)");
        bytes32 structHash = keccak256(abi.encode(typehash, who));
        return sign(key, keccak256(abi.encodePacked(hex"1901", operators.domainSeparator(), structHash)));
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    // ---------------------------------------------------------------- moves

    /// A request without a callback.
    function plainArgs() internal view returns (IInferenceOracle.RequestArgs memory) {
        return IInferenceOracle.RequestArgs({
            modelId: model,
            input: abi.encode(keccak256("an input of 32 bytes")),
            params: Params(0, 0, 0),
            delivery: Delivery.Optimistic,
            callbackGasLimit: 0,
            callbackGasPrice: 0,
            maxFee: PRICE,
            timeout: TIMEOUT
        });
    }

    function callbackArgs(Delivery delivery) internal view returns (IInferenceOracle.RequestArgs memory args) {
        args = plainArgs();
        args.delivery = delivery;
        args.callbackGasLimit = 150_000;
        args.callbackGasPrice = GAS_PRICE;
    }

    function costOf(IInferenceOracle.RequestArgs memory args) internal pure returns (uint256) {
        return uint256(PRICE) + allowanceOf(args);
    }

    function allowanceOf(IInferenceOracle.RequestArgs memory args) internal pure returns (uint256) {
        return uint256(args.callbackGasLimit) * args.callbackGasPrice;
    }

    function ask(address who, IInferenceOracle.RequestArgs memory args) internal returns (PackedRequest memory) {
        uint256 value = costOf(args);
        vm.recordLogs();
        vm.prank(who);
        oracle.request{value: value}(args);
        return lastRequest();
    }

    function ask() internal returns (PackedRequest memory) {
        return ask(alice, plainArgs());
    }

    /// The request of the last `Requested` event.
    function lastRequest() internal returns (PackedRequest memory request_) {
        bytes memory data = lastEvent(IInferenceOracle.Requested.selector);
        (request_,) = abi.decode(data, (PackedRequest, bytes));
    }

    /// The request of the last `RequestedByUri` event.
    function lastRequestByUri() internal returns (PackedRequest memory request_) {
        bytes memory data = lastEvent(IInferenceOracle.RequestedByUri.selector);
        (request_,,) = abi.decode(data, (PackedRequest, uint32, string));
    }

    /// For contracts that ask on a test's behalf.
    function theModelId() external view returns (ModelId) {
        return model;
    }

    function lastFulfillment() internal returns (Fulfillment memory fulfillment) {
        bytes memory data = lastEvent(IInferenceOracle.Fulfilled.selector);
        (fulfillment,) = abi.decode(data, (Fulfillment, bytes));
    }

    /// The fulfillments of the last `count` events `Fulfilled`, in their order.
    function fulfillmentsRecorded(uint256 count) internal returns (Fulfillment[] memory fulfillments) {
        fulfillments = new Fulfillment[](count);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 found = 0;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != IInferenceOracle.Fulfilled.selector) continue;
            (fulfillments[found++],) = abi.decode(logs[i].data, (Fulfillment, bytes));
        }
        assertEq(found, count, "Fulfilled events");
    }

    Vm.Log[] private _logs;

    /// The data of the last event of this kind since `recordLogs`. Asking for another kind afterwards sees the same events.
    function lastEvent(bytes32 topic) internal returns (bytes memory data) {
        Vm.Log[] memory fresh = vm.getRecordedLogs();
        if (fresh.length != 0) {
            delete _logs;
            for (uint256 i = 0; i < fresh.length; ++i) {
                _logs.push(fresh[i]);
            }
        }
        for (uint256 i = _logs.length; i > 0; --i) {
            if (_logs[i - 1].topics[0] == topic) return _logs[i - 1].data;
        }
        revert("no such event");
    }

    function answerOf(PackedRequest memory request_, bytes memory output, uint256 key)
        internal
        view
        returns (IInferenceOracle.Answer memory)
    {
        bytes32 digest = oracle.fulfillmentDigest(request_, keccak256(output), uint32(output.length));
        return IInferenceOracle.Answer(request_, output, sign(key, digest));
    }

    function post(PackedRequest memory request_, bytes memory output, uint256 key) internal returns (Fulfillment memory) {
        IInferenceOracle.Answer memory answer = answerOf(request_, output, key);
        vm.recordLogs();
        vm.prank(carrier);
        oracle.fulfill(answer);
        return lastFulfillment();
    }

    function post(PackedRequest memory request_, bytes memory output) internal returns (Fulfillment memory) {
        return post(request_, output, signerKey);
    }

    function settle(PackedRequest memory request_, Fulfillment memory fulfillment, bytes memory output) internal {
        vm.prank(carrier);
        oracle.finalize(IInferenceOracle.Settlement(request_, fulfillment, output));
    }

    function passWindow() internal {
        skip(WINDOW);
    }

    // ---------------------------------------------------------------- statements

    function assertStatus(RequestId id, RequestStatus status, CallbackStatus callback, string memory message) internal view {
        (RequestStatus actual, CallbackStatus actualCallback) = oracle.statusOf(id);
        assertEq(uint256(actual), uint256(status), message);
        assertEq(uint256(actualCallback), uint256(callback), message);
    }
}
