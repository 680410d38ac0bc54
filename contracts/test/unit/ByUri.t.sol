// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Fulfillment, PackedRequest, Request, RequestId, RequestStatus} from "../../src/Types.sol";
import {InferenceConsumer} from "../../src/consumer/InferenceConsumer.sol";
import {MockInferenceOracle} from "../../src/consumer/MockInferenceOracle.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {World} from "../utils/World.sol";

/// @notice Asks about inputs that others have published.
contract Reviewer is InferenceConsumer {
    bytes public answer;

    constructor(IInferenceOracle oracle_) InferenceConsumer(oracle_) {}

    receive() external payable {}

    function ask(World world, bytes32 inputHash, uint32 inputSize, string calldata uri) external returns (RequestId) {
        return _requestByUri(world.theModelId(), inputHash, inputSize, uri);
    }

    function _onInferenceResult(RequestId, bytes calldata output) internal override {
        answer = output;
    }
}

/// @title Inputs that are at a URI: rules P45 to P47
contract ByUriTest is World {
    bytes internal input = "an input that many know";
    string internal uri = "https://example.org/inputs/1";
    bytes internal output = abi.encode(keccak256("output"));

    function askByUri(IInferenceOracle.RequestArgs memory args, uint32 size, string memory uri_) internal returns (PackedRequest memory) {
        args.input = "";
        uint256 value = costOf(args);
        vm.recordLogs();
        vm.prank(alice);
        oracle.requestByUri{value: value}(args, keccak256(input), size, uri_);
        return lastRequestByUri();
    }

    function askByUri() internal returns (PackedRequest memory) {
        return askByUri(plainArgs(), uint32(input.length), uri);
    }

    // ---------------------------------------------------------------- asking

    function test_byUri_isARequestLikeAnyOther() external {
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Final);
        PackedRequest memory packed = askByUri(args, uint32(input.length), uri);
        Request memory r = oracle.unpack(packed);
        assertEq(RequestId.unwrap(r.id), 1, "id");
        assertEq(r.requester, alice, "requester");
        assertEq(r.inputHash, keccak256(input), "input hash");
        assertTrue(r.inputByUri, "by URI");
        assertTrue(r.delivery == Delivery.Final, "delivery");
        assertEq(r.callbackGasLimit, 150_000, "gas limit");
        assertEq(r.callbackGasPrice, GAS_PRICE, "gas price");
        assertEq(r.operator, operator, "operator");
        assertEq(r.deadline, block.timestamp + TIMEOUT, "deadline");
        assertEq(address(oracle).balance, costOf(args), "escrow");
        assertEq(oracle.requestHash(packed), keccak256(abi.encode(packed)), "hash");
        assertFalse(oracle.unpack(ask()).inputByUri, "the other kind");
    }

    /// The hand-made log is the log that `emit` would make.
    function testFuzz_byUri_eventIsTheAbiEncoding(bytes32 hash, uint32 size, string memory uri_) external {
        vm.assume(bytes(uri_).length > 0 && bytes(uri_).length <= 2048);
        size = uint32(bound(size, 1, 4096));
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = "";
        vm.recordLogs();
        vm.prank(alice);
        oracle.requestByUri{value: PRICE}(args, hash, size, uri_);
        PackedRequest memory packed = lastRequestByUri();
        assertEq(packed.inputHash, hash, "hash");
        assertEq(lastEvent(IInferenceOracle.RequestedByUri.selector), abi.encode(packed, size, uri_), "event data");

        vm.prank(alice);
        vm.expectEmit(true, true, true, false, address(oracle));
        emit IInferenceOracle.RequestedByUri(RequestId.wrap(2), model, operator, packed, size, uri_);
        oracle.requestByUri{value: PRICE}(args, hash, size, uri_);
    }

    function test_byUri_needsAUriOfReasonableLength() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = "";
        uint256[3] memory lengths = [uint256(0), 2049, 100_000];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InvalidUri.selector, lengths[i], 2048));
            oracle.requestByUri{value: PRICE}(args, keccak256(input), uint32(input.length), string(new bytes(lengths[i])));
        }
        oracle.requestByUri{value: PRICE}(args, keccak256(input), uint32(input.length), string(new bytes(2048)));
    }

    function test_byUri_hasOneInput() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        vm.expectRevert(IInferenceOracle.TwoInputs.selector);
        oracle.requestByUri{value: PRICE}(args, keccak256(input), uint32(input.length), uri);
    }

    /// The model's limits hold for what is said of the input.
    function test_byUri_sizeIsCheckedAtOnce() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = "";
        uint32[3] memory sizes = [uint32(0), 4097, type(uint32).max];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InputSize.selector, sizes[i], 1, 4096));
            oracle.requestByUri{value: PRICE}(args, keccak256(input), sizes[i], uri);
        }
        oracle.requestByUri{value: PRICE}(args, keccak256(input), 4096, uri);
    }

    /// What does not travel costs nothing.
    function test_byUri_costsTheSameForALongInput() external {
        oracle.depositCredit{value: 1 ether}(alice);
        askByUri();
        askByUri(plainArgs(), 1, uri);
        uint256 short = vm.lastCallGas().gasTotalUsed;
        askByUri(plainArgs(), 4096, uri);
        assertEq(vm.lastCallGas().gasTotalUsed, short, "gas");
    }

    // ---------------------------------------------------------------- what follows

    function test_byUri_isAnsweredAndSettled() external {
        PackedRequest memory r = askByUri();
        Fulfillment memory f = post(r, output);
        passWindow();
        settle(r, f, "");
        assertEq(oracle.creditOf(operator), PRICE, "paid");
        assertTrue(oracle.isFinal(r, f), "final");
    }

    /// A withheld input: nobody answers, and nobody loses.
    function test_byUri_isRefundedIfNobodyAnswers() external {
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        PackedRequest memory r = askByUri(args, uint32(input.length), "https://example.org/nothing-here");
        skip(TIMEOUT + 1);
        vm.prank(carrier);
        oracle.cancel(r);
        assertEq(oracle.creditOf(alice), costOf(args), "refund");
        (uint256 stake,,,) = operators.stakeOf(operator);
        assertEq(stake, 10 ether, "the operator's stake");
        assertEq(oracle.openResultsOf(operator), 0, "nothing locked");
    }

    /// The bit is part of what is hashed: nobody can make one kind of request the other.
    function test_byUri_cannotBeTakenForTheOtherKind() external {
        PackedRequest memory r = askByUri();
        PackedRequest memory forged = abi.decode(abi.encode(r), (PackedRequest));
        forged.terms = bytes32(uint256(r.terms) ^ uint256(0x80) << 72);
        assertFalse(oracle.unpack(forged).inputByUri, "without the bit");
        IInferenceOracle.Answer memory answer = answerOf(forged, output, signerKey);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, RequestId.wrap(1)));
        oracle.fulfill(answer);
    }

    // ---------------------------------------------------------------- a rejected result

    function rejected(bytes memory brought) internal returns (PackedRequest memory r, PackedRequest memory again) {
        r = askByUri(callbackArgs(Delivery.Final), uint32(input.length), uri);
        Fulfillment memory f = post(r, "a lie");
        game.open(r, f);
        vm.recordLogs();
        game.reject(r, f, brought);
        again = lastRequest();
        assertEq(lastEvent(IInferenceOracle.Requested.selector), abi.encode(again, brought), "announced with what was brought");
    }

    function assertOpenAgain(PackedRequest memory r, PackedRequest memory again) internal {
        Request memory a = oracle.unpack(r);
        Request memory b = oracle.unpack(again);
        assertEq(b.attempt, 1, "attempt");
        assertEq(b.inputHash, a.inputHash, "the same input");
        assertTrue(b.inputByUri, "still at its URI");
        assertTrue(b.delivery == a.delivery, "the same delivery");
        assertEq(again.seed, r.seed, "the same seed");
        Fulfillment memory f = post(again, output);
        assertEq(f.operator, operator, "answered");
    }

    /// Whoever has a result rejected may not have the input: the operator was silent.
    function test_byUri_isRejectedWithoutTheInput() external {
        (PackedRequest memory r, PackedRequest memory again) = rejected("");
        assertOpenAgain(r, again);
    }

    /// With the input it is announced with the input.
    function test_byUri_isRejectedWithTheInput() external {
        (PackedRequest memory r, PackedRequest memory again) = rejected(input);
        assertOpenAgain(r, again);
    }

    function test_byUri_isNotRejectedWithAnotherInput() external {
        PackedRequest memory r = askByUri();
        Fulfillment memory f = post(r, "a lie");
        game.open(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, RequestId.wrap(1)));
        game.reject(r, f, "another input");
        // The other kind is not rejected without its input.
        r = ask();
        f = post(r, "a lie");
        game.open(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, RequestId.wrap(2)));
        game.reject(r, f, "");
    }

    // ---------------------------------------------------------------- consumers

    function test_byUri_aConsumerAsks() external {
        Reviewer reviewer = new Reviewer(oracle);
        vm.deal(address(reviewer), 1 ether);
        vm.recordLogs();
        reviewer.ask(this, keccak256(input), uint32(input.length), uri);
        PackedRequest memory r = lastRequestByUri();
        assertEq(lastEvent(IInferenceOracle.RequestedByUri.selector), abi.encode(r, uint32(input.length), uri), "what was said");
        Fulfillment memory f = post(r, output);
        passWindow();
        settle(r, f, output);
        assertEq(reviewer.answer(), output, "told");
        assertStatus(RequestId.wrap(1), RequestStatus.Finalized, CallbackStatus.Delivered, "delivered");
    }

    function test_byUri_aConsumerIsTestedAgainstTheMock() external {
        MockInferenceOracle mock = new MockInferenceOracle(PRICE);
        Reviewer reviewer = new Reviewer(mock);
        vm.deal(address(reviewer), 1 ether);
        RequestId id = reviewer.ask(this, keccak256(input), uint32(input.length), uri);
        MockInferenceOracle.Asked memory asked = mock.askedOf(id);
        assertEq(asked.inputHash, keccak256(input), "hash");
        assertEq(asked.uri, uri, "uri");
        mock.answer(id, output);
        assertEq(reviewer.answer(), output, "told");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InvalidUri.selector, 0, 2048));
        reviewer.ask(this, keccak256(input), uint32(input.length), "");
    }
}
