// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, PackedRequest, RequestStatus} from "../../src/Types.sol";
import {IDisputeGame} from "../../src/interfaces/IDisputeGame.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {GameWorld} from "./GameWorld.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title Disputes about inputs that are at a URI: rules P47 and P48
contract DisputeByUriTest is GameWorld {
    using Traces for Trace;
    using Traces for bytes32[][];

    function accused(bytes memory output) internal returns (Play memory p) {
        p = postedByUri(output);
        challenge(p, carol);
    }

    function claimCall(Play memory p, Trace memory trace) internal view returns (bytes memory) {
        bytes32[] memory hashes = trace.top.revealed(trace.top.length - 1, 0);
        return abi.encodeCall(disputes.claim, (p.r, p.f, theModel(), claimOf(trace), theModel().graphRoot, "", hashes));
    }

    function assertRejected(Play memory p) internal {
        vm.recordLogs();
        vm.prank(carrier);
        disputes.reject(p.r, p.f, "");
        PackedRequest memory again = lastRequest();
        assertEq(oracle.unpack(again).attempt, 1, "attempt");
        assertTrue(oracle.unpack(again).inputByUri, "still at its URI");
        assertStatus(oracle.unpack(p.r).id, RequestStatus.Requested, CallbackStatus.None, "open again");
        assertTrue(disputes.creditOf(carol) >= BOND + REWARD, "bond and reward");
    }

    /// The input is on chain before the challenger has to say anything about the run.
    function test_byUri_theInputIsShownBeforeTheClaim() external {
        Play memory p = accused("a lie");
        Trace memory liar = Traces.truth(toy).lie(0, 0, 2);
        bytes memory call = claimCall(p, liar);
        vm.prank(operator);
        (bool done, bytes memory reason) = address(disputes).call(call);
        assertFalse(done, "no claim about an input that nobody was shown");
        assertEq(reason, abi.encodeWithSelector(IDisputeGame.InputNotShown.selector, p.d.result), "and that is why");

        vm.expectEmit(address(disputes));
        emit IDisputeGame.InputShown(p.d.result, input());
        showInput(p);
        claim(p, liar);
    }

    /// A lie at the input node: the bytes that convict come from the operator itself.
    function test_byUri_aLieAboutTheInputLoses() external {
        Play memory p = accused("a lie");
        showInput(p);
        Trace memory right = Traces.truth(toy);
        play(p, right.copy().lie(0, 0, 2), right, Partials.AddUp);
        assertRejected(p);
    }

    function test_byUri_aClaimThatDoesNotFitTheInputLoses() external {
        Play memory p = accused(rightOutput());
        showInput(p);
        Trace memory right = Traces.truth(toy);
        IStepVerifier.Claim memory c = claimOf(right);
        c.inputBytes += 4;
        claim(p, c, right.top.revealed(right.top.length - 1, 0));
        prove(p, refuteClaim());
        assertRejected(p);
    }

    /// An operator that answered and withholds the input loses by time, and whoever convicts it needs no input.
    function test_byUri_whoeverWithholdsTheInputLoses() external {
        Play memory p = accused(rightOutput());
        bytes memory call = claimCall(p, Traces.truth(toy));
        vm.prank(operator);
        (bool done,) = address(disputes).call(call);
        assertFalse(done, "the claim alone does not do");
        runOut(p);
        assertTrue(isFallen(p), "fallen");
        assertRejected(p);
    }

    /// An honest operator shows the input, and is repaid for that from the bond of who made it.
    function test_byUri_anHonestOperatorWins() external {
        Play memory p = accused(rightOutput());
        vm.txGasPrice(1 gwei);
        showInput(p);
        claim(p, Traces.truth(toy));
        runOut(p);
        assertStatus(oracle.unpack(p.r).id, RequestStatus.Fulfilled, CallbackStatus.None, "goes on");
        uint256 withInput = disputes.creditOf(operator);

        Play memory q = posted(rightOutput());
        challenge(q, carol);
        claim(q, Traces.truth(toy));
        runOut(q);
        uint256 without = disputes.creditOf(operator) - withInput;
        assertTrue(withInput > without + 10_000 * 1 gwei, "what showing costs is counted");
        assertEq(disputes.creditOf(carol), 0, "nothing for the challenger");
    }

    function test_byUri_repaymentIsBounded() external {
        vm.txGasPrice(MAX_GAS_PRICE);
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = "";
        bytes memory long = new bytes(4096);
        vm.recordLogs();
        vm.prank(alice);
        oracle.requestByUri{value: PRICE}(args, keccak256(long), 4096, "ipfs://long");
        Play memory p;
        p.r = lastRequestByUri();
        p.f = post(p.r, "a lie");
        challenge(p, carol);
        vm.prank(signer); // a key of the operator's does as well
        disputes.showInput(p.r, p.f, long);
        claim(p, Traces.truth(toy));
        runOut(p);
        assertTrue(disputes.creditOf(operator) <= GAS_ALLOWANCE, "at most the allowance");
    }

    function test_byUri_oneShowingIsForAllDisputes() external {
        Play memory p = accused("a lie");
        Play memory q = another(p, dave);
        showInput(p);
        Trace memory right = Traces.truth(toy);
        play(p, right.copy().lie(4, 0, 0), right, Partials.AddUp);
        assertRejected(p);
        disputes.close(q.d);
        assertTrue(disputes.creditOf(dave) >= BOND, "the other bond comes back");
    }

    // ---------------------------------------------------------------- what showing refuses

    function test_byUri_showsNothingElse() external {
        Play memory p = accused("a lie");
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.HashMismatch.selector, p.r.inputHash, keccak256("another input")));
        disputes.showInput(p.r, p.f, "another input");
    }

    function test_byUri_showsOnceAndInTime() external {
        Play memory p = accused("a lie");
        bytes memory input_ = input();
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotYours.selector, carol));
        vm.prank(carol);
        disputes.showInput(p.r, p.f, input_);
        showInput(p);
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NothingToShow.selector, p.d.result));
        disputes.showInput(p.r, p.f, input_);
        claim(p, Traces.truth(toy));
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.AlreadyClaimed.selector, p.d.result));
        disputes.showInput(p.r, p.f, input_);

        Play memory late = accused("a lie");
        uint256 until = disputes.deadlineOf(late.d);
        vm.warp(until + 1);
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TimeOver.selector, until));
        disputes.showInput(late.r, late.f, input_);
    }

    function test_byUri_showsOnlyWhatIsAtAUriAndChallenged() external {
        bytes memory input_ = input();
        Play memory p = posted("a lie");
        challenge(p, carol);
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NothingToShow.selector, p.d.result));
        disputes.showInput(p.r, p.f, input_);

        Play memory q = postedByUri("a lie");
        bytes32 result = disputes.resultHash(q.r, q.f);
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.UnknownResult.selector, result));
        disputes.showInput(q.r, q.f, input_);

        challenge(q, carol);
        runOut(q);
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.ResultFell.selector, result));
        disputes.showInput(q.r, q.f, input_);
    }
}
