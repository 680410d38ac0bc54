// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Fulfillment, PackedRequest, Request, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceConsumer} from "../../src/interfaces/IInferenceConsumer.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {BombConsumer, BurningConsumer, QuietConsumer, RecordingConsumer, RevertingConsumer} from "../utils/Consumers.sol";
import {World} from "../utils/World.sol";

/// @title What the oracle promises the dispute game: rules P18 to P22
contract DisputeTest is World {
    bytes internal output = abi.encode(keccak256("a lie"));
    bytes internal input;
    RequestId internal constant ID = RequestId.wrap(1);

    function setUp() public override {
        super.setUp();
        input = plainArgs().input;
    }

    function result(QuietConsumer consumer, Delivery delivery) internal returns (PackedRequest memory r, Fulfillment memory f) {
        IInferenceOracle.RequestArgs memory args = callbackArgs(delivery);
        vm.recordLogs();
        vm.prank(alice);
        consumer.ask{value: costOf(args)}(oracle, args);
        r = lastRequest();
        f = post(r, output);
    }

    function plainResult() internal returns (PackedRequest memory r, Fulfillment memory f) {
        r = ask();
        f = post(r, output);
    }

    function test_dispute_onlyTheGame() external {
        (PackedRequest memory r, Fulfillment memory f) = plainResult();
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.NotDisputeGame.selector, address(this)));
        oracle.openDispute(r, f);
        game.open(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.NotDisputeGame.selector, address(this)));
        oracle.upholdResult(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.NotDisputeGame.selector, address(this)));
        oracle.rejectResult(r, f, input);
    }

    function test_dispute_opensInsideTheWindowOnly() external {
        (PackedRequest memory r, Fulfillment memory f) = plainResult();
        uint256 until = block.timestamp + WINDOW;
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WindowClosed.selector, ID, until));
        game.open(r, f);
        vm.warp(until - 1);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.DisputeOpened(ID, operator);
        game.open(r, f);
        assertStatus(ID, RequestStatus.Disputed, CallbackStatus.None, "status");
    }

    function test_dispute_holdsTheResultBeyondItsWindow() external {
        (PackedRequest memory r, Fulfillment memory f) = plainResult();
        game.open(r, f);
        skip(10 * WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, ID, RequestStatus.Disputed));
        oracle.finalize(IInferenceOracle.Settlement(r, f, ""));
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.ResultUpheld(ID, operator);
        game.uphold(r, f);
        settle(r, f, "");
        assertEq(oracle.creditOf(operator), PRICE, "paid");
    }

    function test_dispute_upheldEarlyStillWaitsForItsWindow() external {
        (PackedRequest memory r, Fulfillment memory f) = plainResult();
        uint256 until = block.timestamp + WINDOW;
        game.open(r, f);
        game.uphold(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WindowOpen.selector, ID, until));
        oracle.finalize(IInferenceOracle.Settlement(r, f, ""));
        game.open(r, f);
        game.reject(r, f, input);
    }

    function test_dispute_movesNeedTheRightStateAndResult() external {
        (PackedRequest memory r, Fulfillment memory f) = plainResult();
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, ID, RequestStatus.Fulfilled));
        game.uphold(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, ID, RequestStatus.Fulfilled));
        game.reject(r, f, input);
        Fulfillment memory forged = abi.decode(abi.encode(f), (Fulfillment));
        forged.operator = rival;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, ID));
        game.open(r, forged);
        game.open(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, ID, RequestStatus.Disputed));
        game.open(r, f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, ID));
        game.reject(r, forged, input);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, ID));
        game.reject(r, f, "another input");
    }

    function test_reject_slashesReopensAndKeepsTheMoneyWhole() external {
        vm.txGasPrice(GAS_PRICE);
        (PackedRequest memory r, Fulfillment memory f) = result(new RecordingConsumer(), Delivery.Optimistic);
        assertTrue(f.callbackCost > 0, "some allowance was used");
        skip(30 minutes);
        game.open(r, f);
        skip(5 hours);
        vm.recordLogs();
        uint256 slashed = game.reject(r, f, input);
        PackedRequest memory again = lastRequest();

        assertEq(slashed, SLICE, "slashed");
        assertEq(address(game).balance, SLICE, "to the game");
        (uint256 stake,,,) = operators.stakeOf(operator);
        assertEq(stake, 10 ether - SLICE, "stake");
        assertEq(oracle.openResultsOf(operator), 0, "unlocked");
        assertEq(oracle.creditOf(operator), 0, "not paid");
        assertEq(address(oracle).balance, costOf(callbackArgs(Delivery.Optimistic)), "escrow whole");

        Request memory before = oracle.unpack(r);
        Request memory after_ = oracle.unpack(again);
        assertEq(after_.attempt, 1, "attempt");
        assertEq(after_.operator, address(0), "open to all");
        assertEq(after_.deadline, vm.getBlockTimestamp() + TIMEOUT, "a new deadline");
        assertEq(after_.fee, before.fee, "fee");
        assertEq(after_.seed, before.seed, "seed");
        assertEq(after_.requester, before.requester, "requester");
        assertEq(after_.callbackGasLimit, before.callbackGasLimit, "gas limit");
        assertEq(after_.callbackGasPrice, before.callbackGasPrice, "gas price");
        assertEq(after_.inputHash, before.inputHash, "input");
        assertEq(lastEvent(IInferenceOracle.Requested.selector), abi.encode(again, input), "event has the input");
        assertStatus(ID, RequestStatus.Requested, CallbackStatus.None, "status");

        // The honest answer, by another operator, with nothing to wait for, and with the whole allowance.
        join(rival, rivalKey, 10 ether, PRICE);
        f = post(again, "the truth", rivalKey);
        passWindow();
        settle(again, f, "");
        assertEq(oracle.creditOf(rival), PRICE + f.callbackCost, "paid in full");
    }

    function test_reject_thirdAttemptHasTheSameTimeAgain() external {
        (PackedRequest memory r, Fulfillment memory f) = plainResult();
        for (uint32 attempt = 1; attempt <= 3; ++attempt) {
            game.open(r, f);
            skip(1 days);
            vm.recordLogs();
            game.reject(r, f, input);
            r = lastRequest();
            assertEq(oracle.unpack(r).attempt, attempt, "attempt");
            assertEq(oracle.unpack(r).deadline, vm.getBlockTimestamp() + TIMEOUT, "deadline");
            if (attempt < 3) f = post(r, output);
        }
        skip(TIMEOUT + 1);
        oracle.cancel(r);
        assertEq(oracle.creditOf(alice), PRICE, "refunded in the end");
    }

    function test_reject_tellsWhoWasGivenTheResult() external {
        RecordingConsumer consumer = new RecordingConsumer();
        (PackedRequest memory r, Fulfillment memory f) = result(consumer, Delivery.Optimistic);
        game.open(r, f);
        vm.recordLogs();
        game.reject(r, f, input);
        assertEq(consumer.revocations(), 1, "told");
        assertTrue(consumer.gasSeen() <= REVOCATION_GAS && consumer.gasSeen() > REVOCATION_GAS - 1_000, "with its gas");
        (CallbackStatus status,,) = abi.decode(lastEvent(IInferenceOracle.RevocationExecuted.selector), (CallbackStatus, uint256, bytes));
        assertTrue(status == CallbackStatus.Delivered, "recorded");
        post(lastRequest(), "the truth");
        assertEq(consumer.results(), 2, "and given the next one");
    }

    function test_reject_tellsNobodyWhoWasNotGivenIt() external {
        RecordingConsumer consumer = new RecordingConsumer();
        (PackedRequest memory r, Fulfillment memory f) = result(consumer, Delivery.Final);
        game.open(r, f);
        game.reject(r, f, input);
        assertEq(consumer.revocations(), 0, "never had it");

        RevertingConsumer failing = new RevertingConsumer();
        (r, f) = result(failing, Delivery.Optimistic);
        game.open(r, f);
        vm.expectCall(address(failing), abi.encodeCall(IInferenceConsumer.onInferenceRevoked, (RequestId.wrap(2))), 0);
        game.reject(r, f, input);
    }

    function test_reject_doesNotDependOnTheConsumer() external {
        QuietConsumer[2] memory hostile = [QuietConsumer(new BurningOnRevocation()), new BombOnRevocation()];
        for (uint256 i = 0; i < 2; ++i) {
            (PackedRequest memory r, Fulfillment memory f) = result(hostile[i], Delivery.Optimistic);
            game.open(r, f);
            vm.recordLogs();
            game.reject(r, f, input);
            (CallbackStatus status, uint256 gasUsed, bytes memory data) =
                abi.decode(lastEvent(IInferenceOracle.RevocationExecuted.selector), (CallbackStatus, uint256, bytes));
            assertTrue(status == CallbackStatus.Failed, "recorded");
            assertTrue(gasUsed <= REVOCATION_GAS + 1_000, "bounded gas");
            assertTrue(data.length <= 128, "bounded data");
        }
        assertEq(address(game).balance, 2 * SLICE, "slashed all the same");
    }

    function test_reject_revertsForTooLittleGasToTell() external {
        (PackedRequest memory r, Fulfillment memory f) = result(new RecordingConsumer(), Delivery.Optimistic);
        game.open(r, f);
        (bool success, bytes memory data) = address(game).call{gas: 210_000}(abi.encodeCall(game.reject, (r, f, input)));
        assertFalse(success, "reverts");
        assertTrue(bytes4(data) == IInferenceOracle.NotEnoughGas.selector, "says why");
    }

    function test_dispute_noRetryWhileDisputed() external {
        RevertingConsumer consumer = new RevertingConsumer();
        (PackedRequest memory r, Fulfillment memory f) = result(consumer, Delivery.Optimistic);
        game.open(r, f);
        consumer.setWilling(true);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, ID, RequestStatus.Disputed));
        oracle.retryCallback(r, f, output);
        game.uphold(r, f);
        oracle.retryCallback(r, f, output);
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.Delivered, "delivered after all");
    }
}

/// @notice Takes the result, and burns what it gets when it is revoked.
contract BurningOnRevocation is QuietConsumer {
    function onInferenceRevoked(RequestId) external pure override {
        while (true) {}
    }
}

/// @notice Takes the result, and answers its revocation with a bomb.
contract BombOnRevocation is QuietConsumer {
    function onInferenceRevoked(RequestId) external pure override {
        assembly ("memory-safe") {
            revert(0, 100000)
        }
    }
}
