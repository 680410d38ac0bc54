// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, RequestStatus} from "../../src/Types.sol";
import {IDisputeGame, Outcome, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {GameWorld} from "./GameWorld.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title Whole games: the honest side wins, wherever the lie is and however the liar plays
contract GamesTest is GameWorld {
    using Traces for Trace;
    using Traces for bytes32[][];

    /// Played to the end and carried out: the request is open again, the honest challenger has its bond and a reward.
    function convict(Play memory p, Trace memory liar, Trace memory right, Partials partials) internal {
        play(p, liar, right, partials);
        assertConvicted(p);
    }

    function assertConvicted(Play memory p) internal {
        assertTrue(isFallen(p), "fallen");
        uint256 credit = disputes.creditOf(p.d.challenger);
        reject(p);
        assertStatus(oracle.unpack(p.r).id, RequestStatus.Requested, CallbackStatus.None, "open again");
        assertTrue(disputes.creditOf(p.d.challenger) - credit >= BOND + REWARD, "bond and reward");
    }

    function accused(bytes memory output) internal returns (Play memory p) {
        p = posted(output);
        challenge(p, carol);
    }

    /// A lie at this element of the trace.
    function convictLie(uint256 node, uint256 leaf, uint256 index, Partials partials) internal {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(node, leaf, index);
        convict(accused(liar.leaves[liar.leaves.length - 1][0]), liar, right, partials);
    }

    // ---------------------------------------------------------------- liars

    function test_games_liarAtEveryNode() external {
        for (uint256 node = 0; node < 11; ++node) {
            convictLie(node, 0, node % 4, Partials.AddUp);
        }
    }

    function test_games_liarAtFirstMiddleAndLastLeafAndElement() external {
        toy.shape(9, 100);
        for (uint256 leaf = 0; leaf < 100; leaf += 33) {
            for (uint256 index = 0; index < 4; ++index) {
                convictLie(4, leaf, index, Partials.AddUp);
            }
        }
    }

    function test_games_liarWithRightPartials() external {
        convictLie(2, 4, 0, Partials.Right);
        convictLie(8, 0, 3, Partials.Right);
    }

    /// 256 random programs and lies, in one element and in a hundred.
    function test_games_anyLiar(uint256 seed) external {
        uint32 nodes = uint32(bound(seed, 1, 40));
        toy.shape(nodes, uint64(bound(seed >> 16, 1, 20)));
        for (uint256 i = 0; i < 4; ++i) {
            uint32 some = uint32(bound(seed >> (24 + 8 * i), 0, nodes - 1));
            if (some != nodes - 1) toy.setLeaves(some, uint64(bound(seed >> (64 + 8 * i), 0, 70)));
        }
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy();
        uint256 lies = bound(seed >> 96, 0, 3) ** 4;
        for (uint256 i = 0; i <= lies; ++i) {
            uint256 pick = uint256(keccak256(abi.encode(seed, i)));
            bytes[] memory leaves = liar.leaves[pick % nodes];
            if (leaves.length == 0) leaves = liar.leaves[nodes - 1];
            leaves[(pick >> 32) % leaves.length][(pick >> 64) % 4] ^= bytes1(uint8(1 + (pick >> 72) % 255));
        }
        liar.build();
        if (liar.root() == right.root()) liar.lie(nodes - 1, 0, 0); // two lies at one place undid each other
        convict(accused("a lie"), liar, right, Partials(seed >> 248 & 1));
    }

    /// The trace is right; what was answered is not its last node.
    function test_games_outputIsNotTheLastNode() external {
        Trace memory right = Traces.truth(toy);
        Play memory p = accused("a lie");
        claim(p, right);
        prove(p, refuteOutput(p, right));
        assertConvicted(p);
    }

    /// What the operator says of the run does not fit the request.
    function test_games_claimDoesNotFitTheRequest() external {
        Trace memory right = Traces.truth(toy);
        Play memory p = accused(rightOutput());
        IStepVerifier.Claim memory c = claimOf(right);
        c.inputBytes += 4;
        claim(p, c, right.top.revealed(right.top.length - 1, 0));
        prove(p, refuteClaim());
        assertConvicted(p);
    }

    /// Claim and output can still be refuted when the descent has begun, in each of the challenger's turns.
    function test_games_outputCanBeRefutedAtAnyTime() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(5, 3, 1);
        Turn[3] memory turns = [Turn.Select, Turn.SelectElement, Turn.Prove];
        for (uint256 i = 0; i < 3; ++i) {
            Play memory p = accused("a lie");
            while (current(p).turn != turns[i] || p.d.moves < 2) {
                Turn turn = current(p).turn;
                if (turn == Turn.Select || turn == Turn.SelectElement) attack(p, right);
                else defend(p, liar, Partials.AddUp);
            }
            prove(p, refuteOutput(p, liar));
            assertConvicted(p);
        }
    }

    function test_games_silentLiarAtEveryTurn() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(5, 3, 1);
        Turn[4] memory turns = [Turn.Claim, Turn.Reveal, Turn.RevealLeaf, Turn.RevealPartials];
        for (uint256 i = 0; i < 4; ++i) {
            Play memory p = accused("a lie");
            while (current(p).turn != turns[i]) {
                Turn turn = current(p).turn;
                if (turn == Turn.Select || turn == Turn.SelectElement) attack(p, right);
                else defend(p, liar, Partials.AddUp);
            }
            runOut(p);
            assertConvicted(p);
        }
    }

    // ---------------------------------------------------------------- malformed

    /// Leaves that are too short, too long, or empty.
    function test_games_malformedLeaf() external {
        Trace memory right = Traces.truth(toy);
        uint256[3] memory sizes = [uint256(3), 5, 0];
        for (uint256 i = 0; i < 3; ++i) {
            Trace memory liar = right.copy();
            liar.leaves[4][2] = new bytes(sizes[i]);
            liar.build();
            convict(accused("a lie"), liar, right, Partials.Right);
        }
    }

    /// A tensor with too many or too few leaves is cut as the shape says: the operator cannot show what it has not hashed.
    function test_games_tensorOfAnotherSize() external {
        Trace memory right = Traces.truth(toy);
        uint256[4] memory counts = [uint256(0), 1, 4, 6];
        for (uint256 i = 0; i < 4; ++i) {
            Trace memory liar = right.copy();
            liar.leaves[4] = new bytes[](counts[i]);
            for (uint256 k = 0; k < counts[i]; ++k) {
                liar.leaves[4][k] = k < 5 ? right.leaves[4][k] : bytes("more");
            }
            liar.build();
            Play memory p = accused("a lie");
            claim(p, liar);
            select(p, 4);
            if (counts[i] == 0) {
                // P36: leaves, but no root.
                assertTrue(isFallen(p), "decided at once");
            } else {
                bytes32[] memory shown = new bytes32[](counts[i] < 5 ? counts[i] : 5);
                for (uint256 k = 0; k < shown.length; ++k) {
                    shown[k] = liar.tensors[4][0][k];
                }
                vm.expectRevert();
                vm.prank(operator);
                disputes.reveal(p.d, shown);
                runOut(p);
            }
            assertConvicted(p);
        }
    }

    /// A root where there are no leaves.
    function test_games_rootOfNothing() external {
        toy.setLeaves(4, 0);
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy();
        liar.leaves[4] = new bytes[](1);
        liar.leaves[4][0] = "something";
        liar.build();
        Play memory p = accused("a lie");
        claim(p, liar);
        select(p, 4);
        assertConvicted(p);
    }

    /// A node that is malformed is wrong whatever was claimed of it; whoever answers for such a model cannot defend the answer.
    function test_games_undefinedNode() external {
        toy.setUndefined(4);
        Trace memory right = Traces.truth(toy);
        Play memory p = accused(rightOutput());
        claim(p, right);
        select(p, 4);
        assertConvicted(p);
    }

    /// What stands beyond the end of a tree is not there: an operator that has hashed something there cannot show it, and loses.
    function test_games_junkBeyondTheEnd() external {
        Trace memory right = Traces.truth(toy);
        bytes32[] memory roots = new bytes32[](12);
        for (uint256 i = 0; i < 11; ++i) {
            roots[i] = right.top[0][i];
        }
        roots[11] = keccak256("junk");
        IStepVerifier.Claim memory c = claimOf(right);
        c.root = Traces.root(Traces.tree(roots));
        Play memory p = accused(rightOutput());
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 12, 11));
        this.claimOutside(p, c, roots);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        this.claimOutside(p, c, right.top[0]);
        runOut(p);
        assertConvicted(p);

        // In a tensor: five leaves and one more.
        Trace memory liar = right.copy();
        bytes32[] memory hashes = new bytes32[](6);
        for (uint256 i = 0; i < 5; ++i) {
            hashes[i] = right.tensors[4][0][i];
        }
        hashes[5] = keccak256("junk");
        roots = liar.top[0];
        roots[4] = Traces.root(Traces.tree(hashes));
        liar.top = Traces.tree(roots);
        p = accused("a lie");
        claim(p, liar);
        attack(p, right);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        vm.prank(operator);
        disputes.reveal(p.d, right.tensors[4][0]);
        runOut(p);
        assertConvicted(p);
    }

    function claimOutside(Play calldata p, IStepVerifier.Claim calldata c, bytes32[] calldata hashes) external {
        Play memory q = p;
        claim(q, c, hashes);
    }

    /// A zero word in place of something: nothing hashes to it, so it can be selected and not be revealed.
    function test_games_zeroInPlaceOfSomething() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy();
        bytes32[] memory hashes = liar.tensors[4][0];
        hashes[2] = 0;
        liar.tensors[4] = Traces.tree(hashes);
        bytes32[] memory roots = liar.top[0];
        roots[4] = Traces.root(liar.tensors[4]);
        liar.top = Traces.tree(roots);
        Play memory p = accused("a lie");
        claim(p, liar);
        attack(p, right);
        defend(p, liar, Partials.Right);
        attack(p, right);
        assertEq(p.d.hash, 0, "the zero word is selected");
        runOut(p);
        assertConvicted(p);
    }

    // ---------------------------------------------------------------- edges of trees

    function test_games_programsOfOneAndTwoNodes() external {
        for (uint32 nodes = 1; nodes <= 2; ++nodes) {
            toy.shape(nodes, 1);
            convictLie(0, 0, 3, Partials.Right);
        }
        toy.shape(1, 1);
        toy.setLeaves(0, 7);
        convictLie(0, 6, 0, Partials.Right);
    }

    /// Two nodes side by side without elements: their zero words are hashed like any others.
    function test_games_neighboursWithoutElements() external {
        toy.setLeaves(4, 0);
        toy.setLeaves(5, 0);
        toy.setLeaves(9, 0);
        convictLie(6, 0, 0, Partials.Right);
        Trace memory right = Traces.truth(toy);
        Play memory p = accused(rightOutput());
        claim(p, right);
        // Nothing is wrong with them.
        vm.expectRevert(IDisputeGame.NotWrong.selector);
        this.selectOutside(p, 4);
    }

    function selectOutside(Play calldata p, uint256 position) external {
        Play memory q = p;
        select(q, position);
    }

    // ---------------------------------------------------------------- an honest operator

    /// Whatever a false challenger points at, it proves nothing; its time runs out and its bond is gone.
    function test_games_honestOperatorBeatsAnyChallenger(uint256 seed) external {
        toy.shape(uint32(bound(seed, 1, 20)), uint64(bound(seed >> 16, 1, 20)));
        Trace memory right = Traces.truth(toy);
        Play memory p = accused(rightOutput());
        for (uint256 round = 0;; ++round) {
            Turn turn = current(p).turn;
            if (turn != Turn.Select && turn != Turn.SelectElement && turn != Turn.Prove) {
                defend(p, right, Partials.Right);
                continue;
            }
            uint256 pick = uint256(keccak256(abi.encode(seed, round)));
            if (turn == Turn.Select) nothingProven(p, refuteOutput(p, right));
            if (turn == Turn.Select) nothingProven(p, refuteClaim());
            // Now and then it gives up.
            if (pick % 8 == 0) break;
            if (turn == Turn.Select) {
                select(p, (pick >> 8) % p.revealed.length);
            } else if (turn == Turn.SelectElement) {
                uint32 index = uint32(pick >> 8) % 4;
                if (toy.partsOf(p.d.node, index) != 0) {
                    selectElement(p, index);
                } else {
                    for (uint32 i = 0; i < 4; ++i) {
                        if (toy.partsOf(p.d.node, i) == 0) nothingProven(p, refuteElement(p, i));
                    }
                    break;
                }
            } else {
                for (uint32 part = 0; part < p.d.parts; ++part) {
                    nothingProven(p, refutePartial(p, part));
                }
                nothingProven(p, refuteSum(p));
                break;
            }
        }
        runOut(p);
        assertFalse(isFallen(p), "it stands");
        assertEq(disputes.creditOf(carol), 0, "the bond is gone");
        assertTrue(disputes.creditOf(operator) > 0 || p.d.moves == 0, "the operator's gas is repaid");
        passWindow();
        settle(p.r, p.f, "");
        assertEq(oracle.creditOf(operator), PRICE, "and it is paid");
    }

    function nothingProven(Play memory p, IDisputeGame.Refutation memory refutation) internal {
        vm.expectRevert(IDisputeGame.NotWrong.selector);
        prove(p, refutation);
    }

    function test_games_silentChallengerAtEveryTurn() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(5, 3, 1);
        Turn[3] memory turns = [Turn.Select, Turn.SelectElement, Turn.Prove];
        for (uint256 i = 0; i < 3; ++i) {
            Play memory p = accused("a lie");
            while (current(p).turn != turns[i]) {
                Turn turn = current(p).turn;
                if (turn == Turn.Select || turn == Turn.SelectElement) attack(p, right);
                else defend(p, liar, Partials.AddUp);
            }
            runOut(p);
            assertStatus(oracle.unpack(p.r).id, RequestStatus.Fulfilled, CallbackStatus.None, "it goes on as it was");
        }
    }

    // ---------------------------------------------------------------- many challengers

    /// Three at once: a weak one that loses protects nothing, an honest one wins, the others get theirs back.
    function test_games_threeChallengersAtOnce() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(5, 3, 1);
        Play memory weak = accused("a lie");
        Play memory honest = another(weak, dave);
        Play memory slow = another(weak, erin);
        claim(weak, liar);
        see(honest, weak.c, weak.revealed);
        see(slow, weak.c, weak.revealed);
        attack(slow, right);
        play(honest, liar, right, Partials.AddUp);
        assertTrue(isFallen(weak), "for all of them");

        bytes memory fell = abi.encodeWithSelector(IDisputeGame.ResultFell.selector, weak.d.result);
        vm.warp(disputes.deadlineOf(weak.d) + 1);
        vm.expectRevert(fell);
        timeout(weak);
        bytes32[] memory shown = liar.tensors[5].revealed(3, 0);
        vm.expectRevert(fell);
        vm.prank(operator);
        disputes.reveal(slow.d, shown);
        vm.expectRevert(fell);
        this.selectOutside(weak, 0);
        vm.expectRevert(fell);
        vm.prank(carol);
        disputes.challenge{value: BOND}(weak.r, weak.f);

        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotRejected.selector, weak.d.result));
        disputes.close(weak.d);
        assertConvicted(honest);
        vm.expectEmit(true, true, false, false, address(disputes));
        emit IDisputeGame.Resolved(weak.d.id, weak.d.result, Outcome.Moot, carol, 0);
        disputes.close(weak.d);
        disputes.close(slow.d);
        assertTrue(disputes.creditOf(carol) >= BOND && disputes.creditOf(erin) >= BOND, "bonds");
    }

    /// The challenger that loses first does not make the result final, nor end the others' disputes.
    function test_games_aPlantedLoserProtectsNothing() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(1, 1, 1);
        Play memory planted = accused("a lie");
        Play memory honest = another(planted, dave);
        skip(1 minutes);
        claim(planted, liar);
        see(honest, planted.c, planted.revealed);
        attack(honest, right);
        runOut(planted);
        assertStatus(oracle.unpack(planted.r).id, RequestStatus.Disputed, CallbackStatus.None, "still disputed");
        play(honest, liar, right, Partials.AddUp);
        assertConvicted(honest);
    }

    /// After a lost challenge the result can be challenged again inside its window, on the claim that was made.
    function test_games_challengedAgainInsideTheWindow() external {
        Trace memory right = Traces.truth(toy);
        Trace memory liar = right.copy().lie(1, 1, 1);
        Play memory p = accused("a lie");
        claim(p, liar);
        runOut(p);
        assertStatus(oracle.unpack(p.r).id, RequestStatus.Fulfilled, CallbackStatus.None, "upheld");
        Play memory q = another(p, dave);
        assertEq(uint256(current(q).turn), uint256(Turn.Select), "the claim is there already");
        play(q, liar, right, Partials.AddUp);
        assertConvicted(q);
    }
}
