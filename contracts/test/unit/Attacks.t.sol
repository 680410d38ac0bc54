// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {InferenceOracle} from "../../src/InferenceOracle.sol";
import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {OperatorRegistry} from "../../src/OperatorRegistry.sol";
import {CallbackStatus, Delivery, Fulfillment, PackedRequest, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {QuietConsumer, ReenteringConsumer} from "../utils/Consumers.sol";
import {World} from "../utils/World.sol";

/// @title Attacks, by name
contract AttacksTest is World {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    bytes internal output = abi.encode(keccak256("output"));

    /// A signature that says something else recovers to a stranger, or to nobody.
    function assertRefused(IInferenceOracle target, IInferenceOracle.Answer memory answer, string memory message) internal {
        (bool success, bytes memory data) = address(target).call(abi.encodeCall(target.fulfill, (answer)));
        assertFalse(success, message);
        bytes4 why = bytes4(data);
        assertTrue(why == IInferenceOracle.UnknownSigner.selector || why == IInferenceOracle.InvalidSignature.selector, message);
    }

    // ---------------------------------------------------------------- replay

    function test_attack_replayAcrossRequests() external {
        IInferenceOracle.Answer memory first = answerOf(ask(), output, signerKey);
        IInferenceOracle.Answer memory second = IInferenceOracle.Answer(ask(), output, first.signature);
        assertRefused(oracle, second, "same input, same output, another request");
    }

    function test_attack_replayAcrossAttempts() external {
        PackedRequest memory r = ask();
        IInferenceOracle.Answer memory answer = answerOf(r, output, signerKey);
        Fulfillment memory f = post(r, output);
        game.open(r, f);
        vm.recordLogs();
        game.reject(r, f, plainArgs().input);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, RequestId.wrap(1)));
        oracle.fulfill(answer);
        answer.request = lastRequest();
        assertRefused(oracle, answer, "the signature of a rejected attempt");
    }

    function test_attack_replayAcrossContracts() external {
        IInferenceOracle first = oracle;
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        // Another deployment, with the same operator, key, model and request number.
        deploy();
        models.register(descriptor("model", limits()), "");
        join(operator, signerKey, 10 ether, PRICE);
        answer.request = ask();
        assertRefused(oracle, answer, "a signature for another oracle");
        assertTrue(address(first) != address(oracle), "two oracles");
    }

    function test_attack_replayAcrossChains() external {
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        vm.chainId(8453);
        assertRefused(oracle, answer, "a signature for another chain");
    }

    function test_attack_forkKeepsOldSignaturesOutAndLetsNewOnesIn() external {
        bytes32 before = oracle.domainSeparator();
        PackedRequest memory r = ask();
        vm.chainId(987_654);
        assertTrue(oracle.domainSeparator() != before, "another domain");
        post(r, output);
    }

    function test_attack_consentOfAKeyReplayedByAnotherOperator() external {
        bytes memory proof = consent(rival, rivalKey);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotYourSigner.selector, rivalSigner));
        vm.prank(carrier);
        operators.addSigner(rivalSigner, proof);
    }

    // ---------------------------------------------------------------- signatures

    function test_attack_malleableSignature() external {
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        (bytes32 r, bytes32 s, uint8 v) = split(answer.signature);
        answer.signature = abi.encodePacked(r, bytes32(ORDER - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(IInferenceOracle.InvalidSignature.selector);
        oracle.fulfill(answer);
    }

    function test_attack_otherEncodingsOfASignature() external {
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        (bytes32 r, bytes32 s, uint8 v) = split(answer.signature);
        bytes[6] memory forms = [
            abi.encodePacked(r, uint256(s) | (v == 28 ? 1 << 255 : 0)), // 64 bytes, EIP-2098
            abi.encodePacked(r, s, v, uint8(0)), // 66 bytes
            abi.encodePacked(r, s, v - 27), // v of 0 or 1
            abi.encodePacked(bytes32(0), s, v),
            abi.encodePacked(r, bytes32(0), v),
            bytes("")
        ];
        for (uint256 i = 0; i < forms.length; ++i) {
            answer.signature = forms[i];
            vm.expectRevert(IInferenceOracle.InvalidSignature.selector);
            oracle.fulfill(answer);
        }
    }

    function testFuzz_attack_anyChangedByteOfASignature(uint256 index, uint8 change) external {
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        index = bound(index, 0, 64);
        answer.signature[index] = bytes1(uint8(answer.signature[index]) ^ uint8(bound(change, 1, 255)));
        assertRefused(oracle, answer, "changed signature");
    }

    function test_attack_anotherOutputUnderTheSameSignature() external {
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        answer.output = abi.encode(keccak256("other"));
        assertRefused(oracle, answer, "changed output");
    }

    function test_attack_removedSigner() external {
        IInferenceOracle.Answer memory answer = answerOf(ask(), output, signerKey);
        vm.prank(operator);
        operators.removeSigner(signer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.UnknownSigner.selector, signer));
        oracle.fulfill(answer);
    }

    /// Copying a pending answer gains nothing: it is still the answer of the one who signed it.
    function test_attack_copyingAPendingAnswer() external {
        PackedRequest memory r = ask();
        IInferenceOracle.Answer memory answer = answerOf(r, output, signerKey);
        vm.recordLogs();
        vm.prank(rival);
        oracle.fulfill(answer);
        Fulfillment memory f = lastFulfillment();
        assertEq(f.operator, operator, "the signer's");
        passWindow();
        vm.prank(rival);
        oracle.finalize(IInferenceOracle.Settlement(r, f, ""));
        assertEq(oracle.creditOf(rival), 0, "nothing for the copier");
    }

    // ---------------------------------------------------------------- authority

    function test_attack_syncByAnybodyElse() external {
        bytes memory refused = abi.encodeWithSelector(IInferenceOracle.NotOperatorRegistry.selector, address(this));
        vm.expectRevert(refused);
        oracle.syncSigner(rivalSigner, rival);
        vm.expectRevert(refused);
        oracle.syncStake(rival, 100 ether);
        vm.expectRevert(refused);
        oracle.syncOffer(model, rival, 1);
        vm.expectRevert(refused);
        oracle.syncOfferRemoved(model, operator);
    }

    function test_attack_slashByAnybodyElse() external {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotOracle.selector, address(this)));
        operators.slash(operator, SLICE, address(this));
    }

    // ---------------------------------------------------------------- stake

    function test_attack_stakeWithdrawnWhileLocked() external {
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, output);
        vm.startPrank(operator);
        operators.removeOffer(model);
        operators.requestWithdrawal(10 ether);
        skip(WINDOW - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IOperatorRegistry.WithdrawalNotReady.selector, vm.getBlockTimestamp() - (WINDOW - 1) + DELAY)
        );
        operators.withdraw(operator);
        vm.stopPrank();
        game.open(r, f);

        // The delay passes while the dispute goes on: all but the locked slice may go.
        skip(DELAY);
        vm.startPrank(operator);
        operators.withdraw(operator);
        (uint256 stake, uint256 unbonding,,) = operators.stakeOf(operator);
        assertEq(stake, SLICE, "the slice stays");
        assertEq(unbonding, SLICE, "still announced");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, SLICE, SLICE));
        operators.withdraw(operator);
        vm.stopPrank();

        game.reject(r, f, plainArgs().input);
        assertEq(address(game).balance, SLICE, "and is slashed");
        vm.expectRevert(IOperatorRegistry.NoWithdrawalPending.selector);
        vm.prank(operator);
        operators.withdraw(operator);
    }

    /// A liar asks itself through a contract of its own, and has that contract take the stake away when its lie is revoked.
    function test_attack_stakeWithdrawnFromInsideTheRevocation() external {
        LateReenterer consumer = new LateReenterer();
        // The consumer is the operator.
        operators.deposit{value: MIN_STAKE}(address(consumer));
        bytes memory proof = consent(address(consumer), rivalKey);
        vm.prank(address(consumer));
        operators.addSigner(rivalSigner, proof);
        PackedRequest memory bait = askBy(consumer, Delivery.Optimistic);
        skip(EXCLUSIVE);
        Fulfillment memory posted = post(bait, output, rivalKey);
        vm.prank(address(consumer));
        operators.requestWithdrawal(MIN_STAKE);
        game.open(bait, posted);
        skip(DELAY);
        consumer.prepare(address(operators), abi.encodeCall(operators.withdraw, (address(consumer))), 0);
        game.reject(bait, posted, plainArgs().input);
        assertEq(address(game).balance, SLICE, "slashed all the same");
        (uint256 stake,,,) = operators.stakeOf(address(consumer));
        assertEq(stake + address(consumer).balance, MIN_STAKE - SLICE, "only the rest is left");
    }

    // ---------------------------------------------------------------- reentrancy

    /// Everything that changes a request or pays, tried from inside.
    function hostileCalls(PackedRequest memory r, Fulfillment memory f, PackedRequest memory open)
        internal
        view
        returns (bytes[] memory calls)
    {
        IInferenceOracle.Answer[] memory answers = new IInferenceOracle.Answer[](1);
        answers[0] = answerOf(open, output, signerKey);
        IInferenceOracle.Settlement[] memory settlements = new IInferenceOracle.Settlement[](1);
        settlements[0] = IInferenceOracle.Settlement(r, f, output);
        calls = new bytes[](7);
        calls[0] = abi.encodeCall(oracle.fulfill, (answers[0]));
        calls[1] = abi.encodeCall(oracle.fulfillBatch, (answers));
        calls[2] = abi.encodeCall(oracle.finalize, (settlements[0]));
        calls[3] = abi.encodeCall(oracle.finalizeBatch, (settlements));
        calls[4] = abi.encodeCall(oracle.cancel, (open));
        calls[5] = abi.encodeCall(oracle.retryCallback, (r, f, output));
        calls[6] = abi.encodeCall(oracle.withdrawCredit, (address(this), 1));
    }

    function assertShutOut(ReenteringConsumer consumer) internal view {
        assertTrue(consumer.tried(), "tried");
        assertFalse(consumer.succeeded(), "shut out");
        assertTrue(bytes4(consumer.answer()) == IInferenceOracle.Reentered.selector, "by the lock");
    }

    function askBy(QuietConsumer consumer, Delivery delivery) internal returns (PackedRequest memory) {
        IInferenceOracle.RequestArgs memory args = callbackArgs(delivery);
        // Enough to remember a long call and its answer.
        args.callbackGasLimit = 2_000_000;
        uint256 value = costOf(args);
        vm.recordLogs();
        vm.prank(alice);
        consumer.ask{value: value}(oracle, args);
        return lastRequest();
    }

    function test_attack_reenteringFromAnOptimisticResult() external {
        (PackedRequest memory r, Fulfillment memory f, PackedRequest memory open) = reentrancyStage();
        bytes[] memory calls = hostileCalls(r, f, open);
        for (uint256 i = 0; i < calls.length; ++i) {
            ReenteringConsumer consumer = new ReenteringConsumer();
            PackedRequest memory bait = askBy(consumer, Delivery.Optimistic);
            consumer.prepare(address(oracle), calls[i], 0);
            post(bait, output);
            assertShutOut(consumer);
        }
    }

    function test_attack_reenteringFromAFinalResult() external {
        (PackedRequest memory r, Fulfillment memory f, PackedRequest memory open) = reentrancyStage();
        bytes[] memory calls = hostileCalls(r, f, open);
        for (uint256 i = 0; i < calls.length; ++i) {
            ReenteringConsumer consumer = new ReenteringConsumer();
            PackedRequest memory bait = askBy(consumer, Delivery.Final);
            Fulfillment memory posted = post(bait, output);
            passWindow();
            consumer.prepare(address(oracle), calls[i], 0);
            settle(bait, posted, output);
            assertShutOut(consumer);
        }
    }

    function test_attack_reenteringFromARetry() external {
        (PackedRequest memory r, Fulfillment memory f, PackedRequest memory open) = reentrancyStage();
        bytes[] memory calls = hostileCalls(r, f, open);
        FussyReenterer consumer = new FussyReenterer();
        PackedRequest memory bait = askBy(consumer, Delivery.Optimistic);
        Fulfillment memory posted = post(bait, output);
        for (uint256 i = 0; i < calls.length; ++i) {
            consumer.prepare(address(oracle), calls[i], 0);
            vm.recordLogs();
            oracle.retryCallback(bait, posted, output);
            (CallbackStatus status,, bytes memory data) =
                abi.decode(lastEvent(IInferenceOracle.CallbackExecuted.selector), (CallbackStatus, uint256, bytes));
            assertTrue(status == CallbackStatus.Failed, "nothing delivered");
            assertEq(data, abi.encodeWithSelector(FussyReenterer.Tried.selector, false, IInferenceOracle.Reentered.selector), "shut out");
        }
        // Its own retry, from inside its retry: delivered once all the same.
        consumer.prepare(address(oracle), abi.encodeCall(oracle.retryCallback, (bait, posted, output)), 0);
        consumer.relent();
        oracle.retryCallback(bait, posted, output);
        assertShutOut(consumer);
    }

    function test_attack_reenteringFromARevocation() external {
        (PackedRequest memory r, Fulfillment memory f, PackedRequest memory open) = reentrancyStage();
        bytes[] memory calls = hostileCalls(r, f, open);
        for (uint256 i = 0; i < calls.length; ++i) {
            LateReenterer consumer = new LateReenterer();
            PackedRequest memory bait = askBy(consumer, Delivery.Optimistic);
            Fulfillment memory posted = post(bait, output);
            game.open(bait, posted);
            vm.expectCall(address(oracle), calls[i], 1);
            consumer.prepare(address(oracle), calls[i], 0);
            game.reject(bait, posted, plainArgs().input);
            assertTrue(consumer.shutOut(), "shut out by the lock");
        }
    }

    function test_attack_reenteringFromAPayout() external {
        (PackedRequest memory r, Fulfillment memory f, PackedRequest memory open) = reentrancyStage();
        bytes[] memory calls = hostileCalls(r, f, open);
        PayeeByReceive payee = new PayeeByReceive();
        oracle.depositCredit{value: 1 ether}(address(payee));
        for (uint256 i = 0; i < calls.length; ++i) {
            payee.prepare(address(oracle), calls[i], 0);
            payee.withdraw(oracle, address(payee), 0.1 ether);
            assertShutOut(payee);
        }
    }

    function test_attack_reenteringFromAStakeWithdrawal() external {
        PayeeByReceive payee = new PayeeByReceive();
        operators.deposit{value: 2 ether}(address(payee));
        operators.deposit{value: 5 ether}(rival);
        vm.prank(address(payee));
        operators.requestWithdrawal(2 ether);
        skip(DELAY);
        payee.prepare(address(operators), abi.encodeCall(operators.withdraw, (address(payee))), 0);
        vm.prank(address(payee));
        operators.withdraw(address(payee));
        assertTrue(payee.tried() && !payee.succeeded(), "nothing more to take");
        assertTrue(bytes4(payee.answer()) == IOperatorRegistry.NoWithdrawalPending.selector, "says why");
        assertEq(address(payee).balance, 2 ether, "paid once");
    }

    /// A consumer may ask the next question from inside an answer: that only adds.
    function test_consumerMayAskAgainFromItsCallback() external {
        ReenteringConsumer consumer = new ReenteringConsumer();
        PackedRequest memory bait = askBy(consumer, Delivery.Optimistic);
        vm.deal(address(consumer), 1 ether);
        consumer.prepare(address(oracle), abi.encodeCall(oracle.request, (plainArgs())), PRICE);
        post(bait, output);
        assertTrue(consumer.succeeded(), "asked");
        assertEq(oracle.requestCount(), 2, "two requests");
        assertStatus(RequestId.wrap(2), RequestStatus.Requested, CallbackStatus.None, "open");
    }

    // ---------------------------------------------------------------- configuration

    function test_config_oracleRefusesWhatCannotWork() external {
        InferenceOracle.Config[11] memory bad;
        for (uint256 i = 0; i < bad.length; ++i) {
            bad[i] = config(address(game));
        }
        bad[0].challengeWindow = 0;
        bad[1].challengeWindow = 366 days;
        bad[2].minTimeout = uint32(EXCLUSIVE);
        bad[3].maxTimeout = bad[3].minTimeout - 1;
        bad[4].stakePerResult = 0;
        bad[5].stakePerResult = MIN_STAKE + 1;
        bad[6].maxCallbackGas = 8_000_001;
        bad[7].revocationGas = 8_000_001;
        bad[8].models = new ModelRegistry();
        bad[9].operators = new OperatorRegistry(address(1), models, MIN_STAKE, DELAY);
        bad[10].operators = OperatorRegistry(address(1));
        for (uint256 i = 0; i < bad.length; ++i) {
            // A registry that waits for this very oracle, so that nothing but the fault is at fault.
            if (i < 9) {
                address next = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
                bad[i].operators = new OperatorRegistry(next, models, MIN_STAKE, DELAY);
            }
            vm.expectRevert(IInferenceOracle.InvalidConfig.selector);
            new InferenceOracle(bad[i]);
        }
    }

    function test_config_registryRefusesWhatCannotWork() external {
        vm.expectRevert(IOperatorRegistry.InvalidConfig.selector);
        new OperatorRegistry(address(0), models, MIN_STAKE, DELAY);
        vm.expectRevert(IOperatorRegistry.InvalidConfig.selector);
        new OperatorRegistry(address(oracle), ModelRegistry(address(1)), MIN_STAKE, DELAY);
        vm.expectRevert(IOperatorRegistry.InvalidConfig.selector);
        new OperatorRegistry(address(oracle), models, 0, DELAY);
        vm.expectRevert(IOperatorRegistry.InvalidConfig.selector);
        new OperatorRegistry(address(oracle), models, MIN_STAKE, 366 days);
    }

    function test_config_isReadable() external view {
        assertEq(address(oracle.models()), address(models), "models");
        assertEq(address(oracle.operators()), address(operators), "operators");
        assertEq(oracle.disputeGame(), address(game), "game");
        assertEq(oracle.challengeWindow(), WINDOW, "window");
        assertEq(oracle.exclusivePeriod(), EXCLUSIVE, "exclusive");
        assertEq(oracle.stakePerResult(), SLICE, "slice");
        assertEq(oracle.minTimeout(), 5 minutes, "min timeout");
        assertEq(oracle.maxTimeout(), 7 days, "max timeout");
        assertEq(oracle.maxCallbackGas(), MAX_CALLBACK_GAS, "callback gas");
        assertEq(oracle.revocationGas(), REVOCATION_GAS, "revocation gas");
        assertEq(operators.oracle(), address(oracle), "oracle");
        assertEq(address(operators.models()), address(models), "models of the registry");
        assertEq(operators.minStake(), MIN_STAKE, "min stake");
        assertEq(operators.withdrawalDelay(), DELAY, "delay");
    }

    // ---------------------------------------------------------------- helpers

    /// A posted result (request 1) and an open request (2) for the re-entering calls to be about.
    function reentrancyStage() internal returns (PackedRequest memory r, Fulfillment memory f, PackedRequest memory open) {
        r = ask();
        f = post(r, output);
        open = ask();
    }

    function split(bytes memory signature) internal pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
            v := byte(0, mload(add(signature, 0x60)))
        }
    }
}

/// @notice Re-enters and then reverts with what came of it, so that its callback can be retried; until it relents.
contract FussyReenterer is ReenteringConsumer {
    error Tried(bool success, bytes4 why);

    bool private _relented;

    function relent() external {
        _relented = true;
    }

    function onInferenceResult(RequestId, bytes calldata) external override {
        if (_relented) return _reenter();
        (bool success, bytes memory data) = target.call(call);
        revert Tried(success, bytes4(data));
    }
}

/// @notice Takes its result quietly, and re-enters from its revocation; remembers in one bit, for the gas is short.
contract LateReenterer is ReenteringConsumer {
    bool public shutOut;

    function onInferenceResult(RequestId, bytes calldata) external override {}

    function onInferenceRevoked(RequestId) external override {
        (bool success, bytes memory data) = target.call(call);
        shutOut = !success && bytes4(data) == IInferenceOracle.Reentered.selector;
    }
}

/// @notice Re-enters from `receive`.
contract PayeeByReceive is ReenteringConsumer {
    receive() external payable override {
        _reenter();
    }
}
