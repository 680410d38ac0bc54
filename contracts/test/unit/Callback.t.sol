// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Fulfillment, PackedRequest, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceConsumer} from "../../src/interfaces/IInferenceConsumer.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {BoundedCall} from "../../src/lib/BoundedCall.sol";
import {
    BombConsumer,
    BurningConsumer,
    QuietConsumer,
    ReenteringConsumer,
    RecordingConsumer,
    RevertingConsumer
} from "../utils/Consumers.sol";
import {World} from "../utils/World.sol";

/// @title Calling the consumer: when, with how much gas, for how much money, and what becomes of a failure: rules P13 to P16
contract CallbackTest is World {
    bytes internal output = abi.encode(keccak256("output"));
    RequestId internal constant ID = RequestId.wrap(1);

    function askBy(QuietConsumer consumer, IInferenceOracle.RequestArgs memory args) internal returns (PackedRequest memory) {
        uint256 value = costOf(args);
        vm.recordLogs();
        vm.prank(alice);
        consumer.ask{value: value}(oracle, args);
        return lastRequest();
    }

    // ---------------------------------------------------------------- delivery

    function test_callback_optimisticIsAtOnce() external {
        RecordingConsumer consumer = new RecordingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Optimistic));
        Fulfillment memory f = post(r, output);
        assertEq(consumer.results(), 1, "called");
        assertEq(consumer.output(), output, "output");
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.Delivered, "status");
        passWindow();
        settle(r, f, "");
        assertEq(consumer.results(), 1, "once");
        assertStatus(ID, RequestStatus.Finalized, CallbackStatus.Delivered, "status at the end");
    }

    function test_callback_finalIsAtFinality() external {
        RecordingConsumer consumer = new RecordingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Final));
        Fulfillment memory f = post(r, output);
        assertEq(consumer.results(), 0, "not yet");
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.None, "status");
        passWindow();
        settle(r, f, output);
        assertEq(consumer.results(), 1, "called");
        assertEq(consumer.output(), output, "output");
        assertStatus(ID, RequestStatus.Finalized, CallbackStatus.Delivered, "status at the end");
    }

    function test_callback_finalNeedsTheOutputThatWasPosted() external {
        PackedRequest memory r = askBy(new RecordingConsumer(), callbackArgs(Delivery.Final));
        Fulfillment memory f = post(r, output);
        passWindow();
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.OutputMismatch.selector, ID));
        oracle.finalize(IInferenceOracle.Settlement(r, f, "another"));
    }

    function test_callback_noneAskedForNoneMade() external {
        RecordingConsumer consumer = new RecordingConsumer();
        PackedRequest memory r = askBy(consumer, plainArgs());
        Fulfillment memory f = post(r, output);
        passWindow();
        settle(r, f, "");
        assertEq(consumer.results(), 0, "not called");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.NothingToDeliver.selector, ID));
        oracle.retryCallback(r, f, output);
    }

    /// An account without code cannot take a result; that is its affair, not the operator's.
    function test_callback_accountWithoutCodeIsAFailure() external {
        PackedRequest memory r = ask(alice, callbackArgs(Delivery.Optimistic));
        Fulfillment memory f = post(r, output);
        assertEq(f.callbackCost, 0, "nothing was called");
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.Failed, "recorded");
        passWindow();
        settle(r, f, "");
        assertEq(oracle.creditOf(alice), allowanceOf(callbackArgs(Delivery.Optimistic)), "allowance back");
    }

    // ---------------------------------------------------------------- gas

    /// The consumer gets what was paid for, however much or little the carrier brings; too little brings nothing about.
    function testFuzz_callback_exactGasOrNothing(uint256 gasProvided, bool optimistic) external {
        gasProvided = bound(gasProvided, 30_000, 600_000);
        RecordingConsumer consumer = new RecordingConsumer();
        IInferenceOracle.RequestArgs memory args = callbackArgs(optimistic ? Delivery.Optimistic : Delivery.Final);
        args.callbackGasLimit = 150_000;
        PackedRequest memory r = askBy(consumer, args);
        bytes memory call;
        if (optimistic) {
            call = abi.encodeCall(oracle.fulfill, (answerOf(r, output, signerKey)));
        } else {
            Fulfillment memory f = post(r, output);
            passWindow();
            call = abi.encodeCall(oracle.finalize, (IInferenceOracle.Settlement(r, f, output)));
        }
        (bool success, bytes memory data) = address(oracle).call{gas: gasProvided}(call);
        if (success) {
            assertEq(consumer.results(), 1, "delivered");
            // What is missing from 150000 is the consumer's own dispatch.
            assertTrue(consumer.gasSeen() <= 150_000 && consumer.gasSeen() > 149_000, "exact gas");
        } else {
            assertEq(consumer.results(), 0, "not delivered");
            assertTrue(data.length == 0 || bytes4(data) == IInferenceOracle.NotEnoughGas.selector, "for want of gas");
            (RequestStatus status,) = oracle.statusOf(ID);
            assertTrue(status == (optimistic ? RequestStatus.Requested : RequestStatus.Fulfilled), "nothing changed");
        }
        if (gasProvided > 400_000) assertTrue(success, "enough is enough");
    }

    /// The least gas with which posting succeeds at all gives the consumer as much as plenty does: not one unit is taken from its share by the 63/64
    /// rule.
    function test_callback_leastGasThatWorksGivesTheWholeShare() external {
        RecordingConsumer consumer = new RecordingConsumer();
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        args.callbackGasLimit = 1_000_000;
        PackedRequest memory r = askBy(consumer, args);
        bytes memory call = abi.encodeCall(oracle.fulfill, (answerOf(r, output, signerKey)));
        uint256 before = vm.snapshotState();
        (bool success,) = address(oracle).call{gas: 3_000_000}(call);
        assertTrue(success, "plenty");
        uint256 share = consumer.gasSeen();

        (uint256 fails, uint256 works) = (900_000, 3_000_000);
        while (works - fails > 1) {
            uint256 middle = (fails + works) / 2;
            vm.revertToState(before);
            before = vm.snapshotState();
            (success,) = address(oracle).call{gas: middle}(call);
            if (success) works = middle;
            else fails = middle;
        }
        vm.revertToState(before);
        (success,) = address(oracle).call{gas: works}(call);
        assertTrue(success, "just enough");
        assertEq(consumer.gasSeen(), share, "the same share");
    }

    function test_callback_revertsForTooLittleGasBeforeTheCall() external {
        RecordingConsumer consumer = new RecordingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Optimistic));
        bytes memory call = abi.encodeCall(oracle.fulfill, (answerOf(r, output, signerKey)));
        (bool success, bytes memory data) = address(oracle).call{gas: 160_000}(call);
        assertFalse(success, "reverts");
        assertTrue(bytes4(data) == IInferenceOracle.NotEnoughGas.selector, "says why");
    }

    function test_callback_burningConsumerCostsItsLimitAndNoMore() external {
        BurningConsumer consumer = new BurningConsumer();
        vm.txGasPrice(GAS_PRICE);
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        PackedRequest memory r = askBy(consumer, args);
        Fulfillment memory f = post(r, output);
        assertEq(f.callbackCost, allowanceOf(args), "whole allowance");
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.Failed, "recorded");
        passWindow();
        settle(r, f, "");
        assertEq(oracle.creditOf(operator), costOf(args), "operator has it all");
        assertEq(oracle.creditOf(address(consumer)), 0, "no refund");
    }

    // ---------------------------------------------------------------- failures

    function test_callback_revertIsRecordedWithItsReason() external {
        RevertingConsumer consumer = new RevertingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Optimistic));
        post(r, output);
        (CallbackStatus status,, bytes memory data) =
            abi.decode(lastEvent(IInferenceOracle.CallbackExecuted.selector), (CallbackStatus, uint256, bytes));
        assertTrue(status == CallbackStatus.Failed, "failed");
        assertEq(data, abi.encodeWithSelector(RevertingConsumer.NotToday.selector, 7), "reason");
    }

    function test_callback_returnBombIsCutOff() external {
        BombConsumer consumer = new BombConsumer();
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        PackedRequest memory r = askBy(consumer, args);
        IInferenceOracle.Answer memory answer = answerOf(r, output, signerKey);
        vm.recordLogs();
        uint256 before = gasleft();
        oracle.fulfill(answer);
        uint256 used = before - gasleft();
        (,, bytes memory data) = abi.decode(lastEvent(IInferenceOracle.CallbackExecuted.selector), (CallbackStatus, uint256, bytes));
        assertEq(data.length, BoundedCall.MAX_RETURN_DATA, "capped");
        assertTrue(used < 200_000, "the carrier does not pay for the bomb");
    }

    function test_callback_failureNeverBlocksSettlement() external {
        QuietConsumer[4] memory consumers =
            [QuietConsumer(new RevertingConsumer()), new BurningConsumer(), new BombConsumer(), new ReenteringConsumer()];
        for (uint256 i = 0; i < 4; ++i) {
            for (uint256 j = 0; j < 2; ++j) {
                PackedRequest memory r = askBy(consumers[i], callbackArgs(Delivery(j)));
                Fulfillment memory f = post(r, output);
                passWindow();
                settle(r, f, j == 0 ? bytes("") : output);
                assertTrue(oracle.isFinal(r, f), "final");
            }
        }
        assertEq(oracle.openResultsOf(operator), 0, "nothing locked");
    }

    // ---------------------------------------------------------------- retries

    function test_retry_deliversExactlyOnce() external {
        RevertingConsumer consumer = new RevertingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Optimistic));
        Fulfillment memory f = post(r, output);
        oracle.retryCallback(r, f, output);
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.Failed, "still failed");
        consumer.setWilling(true);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.OutputMismatch.selector, ID));
        oracle.retryCallback(r, f, "another");
        oracle.retryCallback(r, f, output);
        assertStatus(ID, RequestStatus.Fulfilled, CallbackStatus.Delivered, "delivered");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.NothingToDeliver.selector, ID));
        oracle.retryCallback(r, f, output);
        assertEq(consumer.results(), 1, "once");
        passWindow();
        settle(r, f, "");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.NothingToDeliver.selector, ID));
        oracle.retryCallback(r, f, output);
    }

    function test_retry_afterFinality() external {
        RevertingConsumer consumer = new RevertingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Final));
        Fulfillment memory f = post(r, output);
        passWindow();
        settle(r, f, output);
        consumer.setWilling(true);
        oracle.retryCallback(r, f, output);
        assertEq(consumer.results(), 1, "delivered");
        assertTrue(oracle.isFinal(r, f), "still final");
    }

    function test_retry_givesAtLeastTheGasThatWasPaidFor() external {
        RevertingConsumer consumer = new RevertingConsumer();
        PackedRequest memory r = askBy(consumer, callbackArgs(Delivery.Optimistic));
        Fulfillment memory f = post(r, output);
        consumer.setWilling(true);
        bytes memory call = abi.encodeCall(oracle.retryCallback, (r, f, output));
        (bool success, bytes memory data) = address(oracle).call{gas: 170_000}(call);
        assertFalse(success, "too little");
        assertTrue(bytes4(data) == IInferenceOracle.NotEnoughGas.selector, "says why");
        (success,) = address(oracle).call{gas: 250_000}(call);
        assertTrue(success, "enough");
    }

    function test_retry_revertsForForgedOrUnpostedResults() external {
        PackedRequest memory r = askBy(new RevertingConsumer(), callbackArgs(Delivery.Optimistic));
        Fulfillment memory f;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, ID, RequestStatus.Requested));
        oracle.retryCallback(r, f, output);
        f = post(r, output);
        f.callbackCost += 1;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, ID));
        oracle.retryCallback(r, f, output);
    }

    // ---------------------------------------------------------------- money

    /// Fee and spent gas to whoever is owed them, the rest back, for every gas price on either side.
    function testFuzz_callback_everyWeiOfTheAllowanceIsAccountedFor(uint48 asked, uint64 charged, bool optimistic) external {
        RecordingConsumer consumer = new RecordingConsumer();
        IInferenceOracle.RequestArgs memory args = callbackArgs(optimistic ? Delivery.Optimistic : Delivery.Final);
        args.callbackGasPrice = uint48(bound(asked, 0, 1_000 gwei));
        vm.txGasPrice(bound(charged, 0, 2_000 gwei));
        PackedRequest memory r = askBy(consumer, args);
        Fulfillment memory f = post(r, output);
        passWindow();
        vm.recordLogs();
        settle(r, f, optimistic ? bytes("") : output);
        (uint256 paid, uint256 refunded) = abi.decode(lastEvent(IInferenceOracle.Finalized.selector), (uint256, uint256));
        uint256 toCarrier = oracle.creditOf(carrier);
        uint256 price = charged < args.callbackGasPrice ? tx.gasprice : args.callbackGasPrice;
        if (tx.gasprice < price) price = tx.gasprice;

        assertEq(oracle.creditOf(operator), paid, "operator");
        assertEq(oracle.creditOf(address(consumer)), refunded, "requester");
        assertEq(paid + refunded + toCarrier, costOf(args), "all of it");
        uint256 spent = optimistic ? f.callbackCost : toCarrier;
        assertEq(optimistic ? toCarrier : f.callbackCost, 0, "to one of them only");
        if (price != 0) {
            assertEq(spent % price, 0, "a whole number of units of gas");
            assertTrue(spent / price > 20_000 && spent / price <= args.callbackGasLimit, "what was used");
        } else {
            assertEq(spent, 0, "free");
        }
    }
}
