// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, RequestStatus} from "../../src/Types.sol";
import {IDisputeGame, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {QuietConsumer, RecordingConsumer, ReenteringConsumer} from "../utils/Consumers.sol";
import {BombOnRevocation, BurningOnRevocation} from "../unit/Dispute.t.sol";
import {GameWorld} from "./GameWorld.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title Attacks on the dispute game, one by one; docs/threat-model.md says why each fails
contract DisputeAttacksTest is GameWorld {
    using Traces for Trace;
    using Traces for bytes32[][];
    using Traces for bytes32[];

    function right() private view returns (Trace memory) {
        return Traces.truth(toy);
    }

    function wrong() private view returns (Trace memory) {
        return right().lie(5, 3, 1);
    }

    function accused(bytes memory output) private returns (Play memory p) {
        p = posted(output);
        challenge(p, carol);
    }

    /// A wrong result that a contract asked for and was given at once.
    function delivered(QuietConsumer consumer) private returns (Play memory p) {
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        vm.recordLogs();
        vm.prank(alice);
        consumer.ask{value: costOf(args)}(oracle, args);
        p.r = lastRequest();
        p.output = "a lie";
        p.f = post(p.r, p.output);
        challenge(p, carol);
    }

    // ---------------------------------------------------------------- reentrancy

    /// All that can be called, with arguments that decode.
    function everyCall(Play memory p) private view returns (bytes[] memory calls) {
        bytes32[] memory none = new bytes32[](0);
        IStepVerifier.NodeOpening memory opening;
        IDisputeGame.Refutation memory refutation;
        calls = new bytes[](13);
        calls[0] = abi.encodeCall(disputes.challenge, (p.r, p.f));
        calls[1] = abi.encodeCall(disputes.claim, (p.r, p.f, theModel(), p.c, 0, "", none));
        calls[2] = abi.encodeCall(disputes.select, (p.d, 0, 0, none));
        calls[3] = abi.encodeCall(disputes.selectNode, (p.d, p.r, theModel(), p.c, 0, 0, none, opening));
        calls[4] = abi.encodeCall(disputes.reveal, (p.d, none));
        calls[5] = abi.encodeCall(disputes.revealLeaf, (p.d, ""));
        calls[6] = abi.encodeCall(disputes.selectElement, (p.d, p.r, theModel(), p.c, 0, ""));
        calls[7] = abi.encodeCall(disputes.revealPartials, (p.d, ""));
        calls[8] = abi.encodeCall(disputes.prove, (p.d, p.r, p.f, theModel(), p.c, refutation));
        calls[9] = abi.encodeCall(disputes.timeout, (p.d, p.r, p.f));
        calls[10] = abi.encodeCall(disputes.reject, (p.r, p.f, input()));
        calls[11] = abi.encodeCall(disputes.close, (p.d));
        calls[12] = abi.encodeCall(disputes.withdrawCredit, (alice, 0));
    }

    function test_attack_reenteringFromARevocation() external {
        ReenteringConsumer consumer = new ReenteringConsumer();
        Play memory p = delivered(consumer);
        runOut(p);
        bytes[] memory calls = everyCall(p);
        for (uint256 i = 0; i < calls.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            consumer.prepare(address(disputes), calls[i], i == 0 ? BOND : 0);
            vm.deal(address(consumer), BOND);
            reject(p);
            assertTrue(consumer.tried() && !consumer.succeeded(), "tried in vain");
            assertEq(consumer.answer(), abi.encodeWithSelector(IDisputeGame.Reentered.selector), "because it was reentered");
            vm.revertToState(snapshot);
        }
    }

    function test_attack_reenteringFromAPayout() external {
        ReenteringPayee payee = new ReenteringPayee();
        Play memory p = accused("a lie");
        runOut(p);
        reject(p);
        bytes[] memory calls = everyCall(p);
        for (uint256 i = 0; i < calls.length; ++i) {
            payee.prepare(address(disputes), calls[i], 0);
            vm.prank(carol);
            disputes.withdrawCredit(address(payee), 1);
            assertTrue(payee.tried() && !payee.succeeded(), "tried in vain");
            assertEq(payee.answer(), abi.encodeWithSelector(IDisputeGame.Reentered.selector), "because it was reentered");
        }
    }

    /// A consumer that is being called cannot have its own result disputed or upheld either: the oracle is closed to the game meanwhile.
    function test_attack_challengingFromACallback() external {
        ReenteringConsumer consumer = new ReenteringConsumer();
        Play memory other = posted("a lie");
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        args.callbackGasLimit = 500_000;
        vm.recordLogs();
        vm.prank(alice);
        consumer.ask{value: costOf(args)}(oracle, args);
        Play memory p;
        p.r = lastRequest();
        vm.deal(address(consumer), BOND);
        consumer.prepare(address(disputes), abi.encodeCall(disputes.challenge, (other.r, other.f)), BOND);
        post(p.r, "a lie");
        assertTrue(consumer.tried() && !consumer.succeeded(), "tried in vain");
        assertEq(consumer.answer(), abi.encodeWithSelector(IInferenceOracle.Reentered.selector), "because the oracle was at work");
    }

    // ---------------------------------------------------------------- consumers

    function test_attack_revocationsThatMisbehave() external {
        QuietConsumer[3] memory hostile = [QuietConsumer(new BurningOnRevocation()), new BombOnRevocation(), new RecordingConsumer()];
        for (uint256 i = 0; i < 3; ++i) {
            Play memory p = delivered(hostile[i]);
            runOut(p);
            reject(p);
            assertStatus(oracle.unpack(p.r).id, RequestStatus.Requested, CallbackStatus.None, "open again");
        }
        assertEq(RecordingConsumer(payable(address(hostile[2]))).revocations(), 1, "told");
        assertTrue(disputes.creditOf(carol) >= 3 * (BOND + REWARD), "paid");
    }

    /// Too little gas to tell the consumer is no way to reject behind its back; nothing has happened, and somebody brings more.
    function test_attack_rejectingWithTooLittleGas() external {
        Play memory p = delivered(new RecordingConsumer());
        runOut(p);
        (bool success,) = address(disputes).call{gas: 230_000}(abi.encodeCall(disputes.reject, (p.r, p.f, input())));
        assertFalse(success, "reverts");
        assertStatus(oracle.unpack(p.r).id, RequestStatus.Disputed, CallbackStatus.Delivered, "nothing happened");
        reject(p);
    }

    /// Whoever starves the verifier of gas decides nothing, in either direction.
    function test_attack_provingWithTooLittleGas() external {
        Play memory p = accused("a lie");
        claim(p, right());
        IDisputeGame.Refutation memory refutation = refuteOutput(p, right());
        bytes memory data = abi.encodeCall(disputes.prove, (p.d, p.r, p.f, theModel(), p.c, refutation));
        uint256 decided = 0;
        for (uint256 gas = 10_000; gas <= 150_000; gas += 2_500) {
            uint256 snapshot = vm.snapshotState();
            vm.prank(carol);
            (bool success,) = address(disputes).call{gas: gas}(data);
            assertEq(success ? 1 : 0, isFallen(p) ? 1 : 0, "all or nothing");
            if (success) ++decided;
            vm.revertToState(snapshot);
        }
        assertTrue(decided > 10 && decided < 50, "enough in some cases, too little in others");
    }

    // ---------------------------------------------------------------- reorganisations, replays

    /// A selection made against one claim does nothing against another that took its place: the word of a dispute that waits for a claim does not name the
    /// claim, but what is selected has to lead to its root.
    function test_attack_aReorganisationPutsAnotherClaimInPlace() external {
        Play memory p = accused("a lie");
        uint256 fork = vm.snapshotState();
        claim(p, wrong());
        bytes32[] memory path = p.revealed.pathOf(5, 4);
        bytes memory selection = abi.encodeCall(disputes.selectNode, (p.d, p.r, theModel(), p.c, 5, p.revealed[5], path, openingOf(5)));
        bytes memory proof = abi.encodeCall(disputes.prove, (p.d, p.r, p.f, theModel(), p.c, refuteOutput(p, wrong())));
        vm.revertToState(fork);
        claim(p, right());
        vm.startPrank(carol);
        (bool success, bytes memory reason) = address(disputes).call(selection);
        assertTrue(!success && bytes4(reason) == IDisputeGame.HashMismatch.selector, "not a part of this claim");
        (success, reason) = address(disputes).call(proof);
        assertTrue(!success && bytes4(reason) == IDisputeGame.ResultMismatch.selector, "not this claim");
        vm.stopPrank();
    }

    /// The same moves in blocks of other times are other disputes; what was signed for the one does nothing in the other.
    function test_attack_aReorganisationMovesAMove() external {
        Play memory p = accused("a lie");
        claim(p, wrong());
        IDisputeGame.Dispute memory opened = abi.decode(abi.encode(p.d), (IDisputeGame.Dispute));
        uint256 fork = vm.snapshotState();
        select(p, 5);
        bytes memory next = abi.encodeCall(disputes.reveal, (p.d, wrong().tensors[5].revealed(3, 0)));
        vm.revertToState(fork);
        p.d = opened;
        skip(12);
        select(p, 5);
        vm.prank(operator);
        (bool success, bytes memory reason) = address(disputes).call(next);
        assertTrue(!success && bytes4(reason) == IDisputeGame.Stale.selector, "another dispute");
    }

    /// A move of one dispute is none of another's, between the same two and over the same result.
    function test_attack_aMoveOfAnotherDispute() external {
        Play memory p = accused("a lie");
        Play memory q = another(p, carol);
        claim(p, wrong());
        see(q, p.c, p.revealed);
        select(p, 5);
        select(q, 4);
        bytes32[] memory shown = wrong().tensors[4].revealed(3, 0);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        vm.prank(operator);
        disputes.reveal(p.d, shown);
        IDisputeGame.Dispute memory mixed = abi.decode(abi.encode(q.d), (IDisputeGame.Dispute));
        mixed.id = p.d.id;
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.Stale.selector, p.d.id));
        vm.prank(operator);
        disputes.reveal(mixed, shown);
    }

    /// The same request answered again after a rejection is another result; nothing of the first touches it.
    function test_attack_replayAcrossAttempts() external {
        Play memory p = accused("a lie");
        claim(p, right());
        prove(p, refuteOutput(p, right()));
        reject(p);
        Play memory q;
        q.r = lastRequest();
        q.output = "a lie";
        q.f = post(q.r, q.output);
        challenge(q, carol);
        assertTrue(q.d.result != p.d.result, "another result");
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotFallen.selector, q.d.result));
        disputes.reject(q.r, q.f, input());
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotFallen.selector, p.d.result));
        disputes.reject(p.r, p.f, input());
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.ResultFell.selector, p.d.result));
        vm.prank(operator);
        disputes.claim(p.r, p.f, theModel(), p.c, theModel().graphRoot, "", p.revealed);
    }

    // ---------------------------------------------------------------- front-running

    /// Whoever copies a pending proof needs a dispute of its own that has come as far; a liar's own puppet that does it first saves the liar nothing.
    function test_attack_copyingAPendingProof() external {
        Play memory p = accused("a lie");
        claim(p, right());
        IDisputeGame.Refutation memory refutation = refuteOutput(p, right());
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotYours.selector, dave));
        vm.prank(dave);
        disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);

        Play memory puppet = another(p, operator);
        prove(puppet, refutation);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.ResultFell.selector, p.d.result));
        prove(p, refutation);
        reject(p);
        disputes.close(p.d);
        assertEq(disputes.creditOf(carol), BOND + p.d.challengerGas, "the honest challenger has lost nothing but the proof that failed");
        assertTrue(disputes.creditOf(operator) <= BOND + SLICE / 2, "the liar has lost at least half of its slice");
    }

    // ---------------------------------------------------------------- delay

    /// Opened in the last second and played as slowly as the clocks allow by both: the longest that a result can be held up.
    function test_attack_theLongestDispute() external {
        Trace memory honest = right();
        Trace memory liar = wrong();
        Play memory p = posted("a lie");
        vm.warp(p.f.fulfilledAt + WINDOW - 1);
        challenge(p, carol);
        uint256 began = vm.getBlockTimestamp();
        uint256 moves = 0;
        for (; !isFallen(p); ++moves) {
            vm.warp(disputes.deadlineOf(p.d));
            Turn turn = current(p).turn;
            if (turn == Turn.Select || turn == Turn.SelectElement || turn == Turn.Prove) attack(p, honest);
            else defend(p, liar, Partials.AddUp);
        }
        // P28: two clocks, and for each move the extension.
        assertTrue(vm.getBlockTimestamp() - began <= 2 * uint256(CLOCK) + moves * EXTENSION, "bounded");
        reject(p);
    }

    /// Any number of false challenges at once: the operator answers each, loses nothing, and is final after its window and the last of them.
    function test_attack_aCrowdOfFalseChallenges() external {
        Trace memory trace = right();
        Play memory p = posted(rightOutput());
        Play[] memory crowd = new Play[](20);
        for (uint256 i = 0; i < crowd.length; ++i) {
            crowd[i] = another(p, i % 2 == 0 ? carol : dave);
        }
        claim(crowd[0], trace);
        uint256 spent = 0;
        for (uint256 i = 0; i < crowd.length; ++i) {
            see(crowd[i], crowd[0].c, trace.top.revealed(4, 0));
            select(crowd[i], i % 11);
            defend(crowd[i], trace, Partials.Right);
            spent += crowd[i].d.operatorGas;
        }
        for (uint256 i = 0; i < crowd.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, oracle.unpack(p.r).id, RequestStatus.Disputed));
            settle(p.r, p.f, "");
            if (i == 0) runOut(crowd[i]);
            else timeout(crowd[i]);
        }
        passWindow();
        settle(p.r, p.f, "");
        assertTrue(disputes.creditOf(operator) > spent, "all its gas, the claim's too");
        assertEq(oracle.creditOf(operator), PRICE, "and its fee");
        assertEq(disputes.creditOf(carol) + disputes.creditOf(dave), 0, "and nothing for the crowd");
    }

    /// Blocks that are full up to somebody's deadline take nothing from a turn that has not begun: it has its extension.
    function test_attack_stuffedBlocks() external {
        Play memory p = accused("a lie");
        Trace memory honest = right();
        // The liar stuffs all blocks until the challenger has next to nothing left, then moves.
        vm.warp(disputes.deadlineOf(p.d));
        claim(p, wrong());
        vm.warp(disputes.deadlineOf(p.d));
        attack(p, honest);
        defend(p, wrong(), Partials.AddUp);
        assertTrue(p.d.challengerTime == INCREMENT, "used up");
        vm.warp(vm.getBlockTimestamp() + EXTENSION);
        attack(p, honest);
        play(p, wrong(), honest, Partials.AddUp);
        assertTrue(isFallen(p), "in time all the same");
    }

    // ---------------------------------------------------------------- shared accounts

    /// Another operator's key is no key of this one; a key that changed hands moves for its new operator only.
    function test_attack_aKeyOfAnotherOperator() external {
        Play memory p = accused("a lie");
        join(rival, rivalKey, 10 ether, PRICE);
        claim(p, wrong());
        select(p, 5);
        bytes32[] memory shown = wrong().tensors[5].revealed(3, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotYours.selector, rivalSigner));
        vm.prank(rivalSigner);
        disputes.reveal(p.d, shown);
        vm.prank(rival);
        operators.removeSigner(rivalSigner);
        bytes memory proof = consent(operator, rivalKey);
        vm.prank(operator);
        operators.addSigner(rivalSigner, proof);
        vm.prank(rivalSigner);
        disputes.reveal(p.d, shown);
    }
}

/// @notice Takes money, and calls what the test prepared.
contract ReenteringPayee is ReenteringConsumer {
    receive() external payable override {
        _reenter();
    }
}
