// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Fulfillment, PackedRequest, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {World} from "../utils/World.sol";

/// @title Posting and finalizing results: rules P7 to P12
contract FulfillTest is World {
    bytes internal output = abi.encode(keccak256("output"));

    function test_fulfill_postsAndLocks() external {
        PackedRequest memory r = ask();
        RequestId id = oracle.unpack(r).id;
        Fulfillment memory f = post(r, output);
        assertEq(f.operator, operator, "operator");
        assertEq(f.fulfilledAt, block.timestamp, "time");
        assertEq(f.callbackCost, 0, "callback cost");
        assertEq(f.outputHash, keccak256(output), "output hash");
        assertEq(oracle.openResultsOf(operator), 1, "open results");
        assertEq(oracle.lockedStakeOf(operator), SLICE, "locked");
        assertStatus(id, RequestStatus.Fulfilled, CallbackStatus.None, "status");
        assertFalse(oracle.isFinal(r, f), "not final");
    }

    function testFuzz_fulfill_eventIsTheAbiEncoding(bytes memory any) external {
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, any);
        assertEq(lastEvent(IInferenceOracle.Fulfilled.selector), abi.encode(f, any), "event data");
        r = ask();
        IInferenceOracle.Answer memory answer = answerOf(r, any, signerKey);
        vm.expectEmit(true, true, false, true, address(oracle));
        emit IInferenceOracle.Fulfilled(RequestId.wrap(2), operator, f, any);
        oracle.fulfill(answer);
    }

    /// The digest, written out as EIP-712 says.
    function test_fulfill_digestIsEip712() external {
        PackedRequest memory r = ask();
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Candor"),
                keccak256("1"),
                block.chainid,
                address(oracle)
            )
        );
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "Fulfillment(uint64 requestId,bytes32 requestHash,bytes32 modelId,bytes32 inputHash,bytes32 outputHash,uint32 outputSize)"
                ),
                uint64(1),
                keccak256(abi.encode(r)),
                r.modelId,
                r.inputHash,
                keccak256(output),
                uint32(output.length)
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, structHash));
        assertEq(oracle.domainSeparator(), domain, "domain");
        assertEq(oracle.fulfillmentDigest(r, keccak256(output), uint32(output.length)), digest, "digest");
    }

    function test_fulfill_revertsAfterTheDeadlineOnly() external {
        PackedRequest memory r = ask();
        IInferenceOracle.Answer memory answer = answerOf(r, output, signerKey);
        uint256 deadline = block.timestamp + TIMEOUT;
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.DeadlinePassed.selector, RequestId.wrap(1), deadline));
        oracle.fulfill(answer);
        vm.warp(deadline);
        oracle.fulfill(answer);
    }

    function test_fulfill_drawnOperatorIsAloneUntilTheSecondSaid() external {
        join(rival, rivalKey, 10 ether, PRICE);
        PackedRequest memory r = ask();
        address drawn = oracle.unpack(r).operator;
        uint256 other = drawn == operator ? rivalKey : signerKey;
        IInferenceOracle.Answer memory answer = answerOf(r, output, other);
        uint256 until = block.timestamp + EXCLUSIVE;
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.ExclusiveToOperator.selector, RequestId.wrap(1), drawn, until));
        oracle.fulfill(answer);
        vm.warp(until);
        oracle.fulfill(answer);
        assertEq(oracle.openResultsOf(drawn == operator ? rival : operator), 1, "the other answered");
    }

    function test_fulfill_revertsForUnknownStateOrTwice() external {
        PackedRequest memory r = ask();
        IInferenceOracle.Answer memory answer = answerOf(r, output, signerKey);
        oracle.fulfill(answer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, RequestId.wrap(1), RequestStatus.Fulfilled));
        oracle.fulfill(answer);
        answer.request.head = bytes32(uint256(99));
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, RequestId.wrap(99), RequestStatus.None));
        oracle.fulfill(answer);
    }

    function test_fulfill_revertsForUnknownSigner() external {
        PackedRequest memory r = ask();
        IInferenceOracle.Answer memory answer = answerOf(r, output, rivalKey);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.UnknownSigner.selector, rivalSigner));
        oracle.fulfill(answer);
    }

    function test_fulfill_revertsWhenStakeIsUsedUp() external {
        join(rival, rivalKey, MIN_STAKE, PRICE);
        uint256 capacity = MIN_STAKE / SLICE;
        for (uint256 i = 0; i <= capacity; ++i) {
            PackedRequest memory r = ask();
            skip(EXCLUSIVE);
            IInferenceOracle.Answer memory answer = answerOf(r, output, rivalKey);
            if (i == capacity) {
                vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InsufficientStake.selector, rival, MIN_STAKE, MIN_STAKE + SLICE));
            }
            oracle.fulfill(answer);
        }
        assertEq(oracle.lockedStakeOf(rival), MIN_STAKE, "all locked");
    }

    function test_fulfill_stakeOnItsWayOutBacksNothing() external {
        PackedRequest memory r = ask();
        vm.startPrank(operator);
        operators.removeOffer(model);
        operators.requestWithdrawal(10 ether);
        vm.stopPrank();
        IInferenceOracle.Answer memory answer = answerOf(r, output, signerKey);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InsufficientStake.selector, operator, 0, SLICE));
        oracle.fulfill(answer);
        vm.prank(operator);
        operators.cancelWithdrawal();
        oracle.fulfill(answer);
    }

    function test_fulfillBatch_skipsWhatIsNoLongerOpen() external {
        IInferenceOracle.Answer[] memory answers = new IInferenceOracle.Answer[](3);
        for (uint256 i = 0; i < 3; ++i) {
            answers[i] = answerOf(ask(), output, signerKey);
        }
        oracle.fulfill(answers[1]);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.Skipped(RequestId.wrap(2), RequestStatus.Fulfilled);
        oracle.fulfillBatch(answers);
        assertEq(oracle.openResultsOf(operator), 3, "all posted once");
    }

    function test_fulfillBatch_anyOtherFaultRevertsAll() external {
        IInferenceOracle.Answer[] memory answers = new IInferenceOracle.Answer[](2);
        answers[0] = answerOf(ask(), output, signerKey);
        answers[1] = answerOf(ask(), output, rivalKey);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.UnknownSigner.selector, rivalSigner));
        oracle.fulfillBatch(answers);
        assertEq(oracle.openResultsOf(operator), 0, "none posted");
    }

    // ---------------------------------------------------------------- finalizing

    function test_finalize_paysAndUnlocksAfterTheWindow() external {
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, output);
        passWindow();
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.Finalized(RequestId.wrap(1), operator, PRICE, 0);
        settle(r, f, "");
        assertEq(oracle.creditOf(operator), PRICE, "paid");
        assertEq(oracle.openResultsOf(operator), 0, "unlocked");
        assertTrue(oracle.isFinal(r, f), "final");
        assertStatus(RequestId.wrap(1), RequestStatus.Finalized, CallbackStatus.None, "status");
        f.outputHash = keccak256("other");
        assertFalse(oracle.isFinal(r, f), "only what was posted is final");
    }

    function test_finalize_revertsInsideTheWindow() external {
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, output);
        uint256 until = block.timestamp + WINDOW;
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WindowOpen.selector, RequestId.wrap(1), until));
        oracle.finalize(IInferenceOracle.Settlement(r, f, ""));
    }

    function test_finalize_revertsTwice() external {
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, output);
        passWindow();
        settle(r, f, "");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, RequestId.wrap(1), RequestStatus.Finalized));
        oracle.finalize(IInferenceOracle.Settlement(r, f, ""));
    }

    /// Nothing in a settlement can be other than what was posted.
    function testFuzz_finalize_revertsForAnythingForged(uint256 field, uint256 change) external {
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, output);
        passWindow();
        IInferenceOracle.Settlement memory settlement = IInferenceOracle.Settlement(r, f, "");
        change = bound(change, 1, type(uint64).max >> 1);
        field = bound(field, 0, 9);
        if (field == 0) settlement.request.head = bytes32(uint256(r.head) ^ change << 64);
        if (field == 1) settlement.request.inputHash = bytes32(uint256(r.inputHash) ^ change);
        if (field == 2) settlement.request.seed = bytes32(uint256(r.seed) ^ change);
        if (field == 3) settlement.request.payment = bytes32(uint256(r.payment) ^ change);
        if (field == 4) settlement.request.payment = bytes32(uint256(r.payment) ^ change << 96);
        if (field == 5) settlement.request.terms = bytes32(uint256(r.terms) ^ change);
        if (field == 6) settlement.fulfillment.operator = address(uint160(f.operator) ^ uint160(change));
        if (field == 7) settlement.fulfillment.fulfilledAt = uint64(bound(change, 1, f.fulfilledAt - 1));
        if (field == 8) settlement.fulfillment.callbackCost = uint96(change);
        if (field == 9) settlement.fulfillment.outputHash = bytes32(uint256(f.outputHash) ^ change);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, RequestId.wrap(1)));
        oracle.finalize(settlement);
    }

    function test_finalizeBatch_skipsWhatIsNotReadyOrAlreadyDone() external {
        IInferenceOracle.Settlement[] memory settlements = new IInferenceOracle.Settlement[](3);
        for (uint256 i = 0; i < 2; ++i) {
            PackedRequest memory r = ask();
            settlements[i] = IInferenceOracle.Settlement(r, post(r, output), "");
        }
        passWindow();
        PackedRequest memory late = ask();
        settlements[2] = IInferenceOracle.Settlement(late, post(late, output), "");
        oracle.finalize(settlements[0]);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.Skipped(RequestId.wrap(1), RequestStatus.Finalized);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.Finalized(RequestId.wrap(2), operator, PRICE, 0);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.Skipped(RequestId.wrap(3), RequestStatus.Fulfilled);
        oracle.finalizeBatch(settlements);
        assertEq(oracle.creditOf(operator), 2 * uint256(PRICE), "two paid");
    }

    function test_finalizeBatch_forgedItemRevertsAll() external {
        IInferenceOracle.Settlement[] memory settlements = new IInferenceOracle.Settlement[](2);
        for (uint256 i = 0; i < 2; ++i) {
            PackedRequest memory r = ask();
            settlements[i] = IInferenceOracle.Settlement(r, post(r, output), "");
        }
        passWindow();
        settlements[1].fulfillment.operator = carrier;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, RequestId.wrap(2)));
        oracle.finalizeBatch(settlements);
        assertEq(oracle.creditOf(operator), 0, "none paid");
    }
}
