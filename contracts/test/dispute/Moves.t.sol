// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Fulfillment, PackedRequest} from "../../src/Types.sol";
import {DisputeId, IDisputeGame, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {GameWorld} from "./GameWorld.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title Move by move: whose, when, with what. Rules P26 to P38
contract MovesTest is GameWorld {
    using Traces for Trace;
    using Traces for bytes32[][];
    using Traces for bytes32[];

    uint32 private constant NODE = 65; // made of sums; in the second half of the tree
    uint32 private constant LEAF = 97; // the last but two of its leaves

    function setUp() public override {
        super.setUp();
        toy.shape(70, 1);
        toy.setLeaves(NODE, 100);
    }

    function right() private view returns (Trace memory) {
        return Traces.truth(toy);
    }

    function wrong() private view returns (Trace memory) {
        return right().lie(NODE, LEAF, 1);
    }

    /// A dispute about that lie, brought to this turn; with `moves` the first such turn after so many.
    function arrive(Turn turn, uint32 moves) private returns (Play memory p) {
        p = posted("a lie");
        challenge(p, carol);
        skip(1 minutes);
        Trace memory honest = right();
        Trace memory liar = wrong();
        while (current(p).turn != turn || p.d.moves < moves) {
            Turn now_ = current(p).turn;
            if (now_ == Turn.Select || now_ == Turn.SelectElement || now_ == Turn.Prove) attack(p, honest);
            else defend(p, liar, Partials.AddUp);
        }
    }

    function arrive(Turn turn) private returns (Play memory) {
        return arrive(turn, 0);
    }

    // ---------------------------------------------------------------- the whole way

    function test_moves_theWholeWayDown() external {
        Play memory p = posted("a lie");
        Trace memory honest = right();
        Trace memory liar = wrong();
        challenge(p, carol);
        Turn[14] memory turns = [
            Turn.Claim, // 4 of 7 levels
            Turn.Select,
            Turn.Reveal, // 3 levels
            Turn.Select, // the node
            Turn.Reveal, // 4 of 7 levels
            Turn.Select,
            Turn.Reveal, // 3 levels
            Turn.Select, // the leaf
            Turn.RevealLeaf,
            Turn.SelectElement,
            Turn.RevealPartials,
            Turn.Prove,
            Turn.None,
            Turn.None
        ];
        for (uint256 i = 0; turns[i] != Turn.None; ++i) {
            IDisputeGame.Dispute memory d = current(p);
            assertEq(uint256(d.turn), uint256(turns[i]), "turn");
            assertEq(p.d.moves, i < 2 ? 0 : i - 1, "moves without the claim");
            bool challengers = d.turn == Turn.Select || d.turn == Turn.SelectElement || d.turn == Turn.Prove;
            if (challengers) attack(p, honest);
            else defend(p, liar, Partials.AddUp);
        }
        assertTrue(isFallen(p), "fallen");
        assertEq(disputes.stateOf(p.d.id), 0, "ended");
    }

    function test_moves_everyDisputeHasItsNumberAndItsWord() external {
        Play memory p = posted("a lie");
        challenge(p, carol);
        Play memory q = another(p, dave);
        assertEq(DisputeId.unwrap(p.d.id), 1, "first");
        assertEq(DisputeId.unwrap(q.d.id), 2, "second");
        assertEq(disputes.disputeCount(), 2, "count");
        assertEq(disputes.stateOf(p.d.id), keccak256(abi.encode(p.d)), "word");
        assertEq(disputes.stateOf(q.d.id), keccak256(abi.encode(q.d)), "word");
        (uint32 open, uint64 claimBy,, uint64 claimedAt, bool fallen, bool rejected) = disputes.resultOf(p.d.result);
        assertEq(open, 2, "open");
        assertEq(claimBy, vm.getBlockTimestamp() + CLOCK, "claim by");
        assertTrue(claimedAt == 0 && !fallen && !rejected, "nothing else");
        assertEq(p.d.result, keccak256(abi.encode(oracle.requestHash(p.r), p.f)), "result hash");
    }

    // ---------------------------------------------------------------- wrong turns

    /// Calls one of the moves, with arguments that would do in its own turn.
    function attempt(Play memory p, Turn move) private {
        bytes32[] memory none = new bytes32[](0);
        IStepVerifier.NodeOpening memory opening;
        IDisputeGame.Refutation memory refutation;
        refutation.fault = IDisputeGame.Fault.Element;
        address who = move == Turn.Reveal || move == Turn.RevealLeaf || move == Turn.RevealPartials ? operator : carol;
        vm.prank(who);
        if (move == Turn.Reveal) disputes.reveal(p.d, none);
        else if (move == Turn.RevealLeaf) disputes.revealLeaf(p.d, "");
        else if (move == Turn.RevealPartials) disputes.revealPartials(p.d, "");
        else if (move == Turn.Select) disputes.select(p.d, 0, 0, none);
        else if (move == Turn.Claim) disputes.selectNode(p.d, p.r, theModel(), p.c, 0, 0, none, opening);
        else if (move == Turn.SelectElement) disputes.selectElement(p.d, p.r, theModel(), p.c, 0, "");
        else disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);
    }

    function test_moves_noneOutOfTurn() external {
        uint256 refused = 0;
        for (uint256 state = uint256(Turn.Claim); state <= uint256(Turn.Prove); ++state) {
            uint256 snapshot = vm.snapshotState();
            Play memory p = arrive(Turn(state));
            bool challengers = state == uint256(Turn.Select) || state == uint256(Turn.SelectElement) || state == uint256(Turn.Prove);
            for (uint256 move = uint256(Turn.Claim); move <= uint256(Turn.Prove); ++move) {
                // `Claim` stands for selectNode here. A proof may be tried in each of the challenger's turns; of an element in one.
                bool own = move == state || (move == uint256(Turn.Claim) && state == uint256(Turn.Select))
                    || (move == uint256(Turn.Prove) && state == uint256(Turn.SelectElement));
                if (own && state != uint256(Turn.Claim)) continue;
                if (move == uint256(Turn.Prove) && challengers && state == uint256(Turn.Prove)) continue;
                vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongTurn.selector, Turn(state)));
                this.attemptOutside(p, Turn(move));
                ++refused;
            }
            vm.revertToState(snapshot);
        }
        assertEq(refused, 7 * 7 - 8, "combinations tried");
    }

    function attemptOutside(Play calldata p, Turn move) external {
        Play memory q = p;
        attempt(q, move);
    }

    function test_moves_aProofBelongsToItsTurn() external {
        Play memory p = arrive(Turn.Prove);
        IDisputeGame.Refutation memory refutation = refuteElement(p, 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongTurn.selector, Turn.Prove));
        vm.prank(carol);
        disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);

        p = arrive(Turn.SelectElement);
        refutation.fault = IDisputeGame.Fault.Partial;
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongTurn.selector, Turn.SelectElement));
            vm.prank(carol);
            disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);
            refutation.fault = IDisputeGame.Fault.Sum;
        }
    }

    // ---------------------------------------------------------------- whose

    function test_moves_onlyByWhoseTheyAre() external {
        Turn[3] memory operators_ = [Turn.Reveal, Turn.RevealLeaf, Turn.RevealPartials];
        for (uint256 i = 0; i < 3; ++i) {
            Play memory p = arrive(operators_[i]);
            address[3] memory others = [carol, rival, address(this)];
            for (uint256 k = 0; k < 3; ++k) {
                vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotYours.selector, others[k]));
                vm.prank(others[k]);
                if (i == 0) disputes.reveal(p.d, p.revealed);
                else if (i == 1) disputes.revealLeaf(p.d, "");
                else disputes.revealPartials(p.d, "");
            }
        }
        IStepVerifier.NodeOpening memory opening;
        IDisputeGame.Refutation memory refutation;
        bytes32[] memory none = new bytes32[](0);
        address[3] memory strangers = [operator, dave, address(this)];
        for (uint256 k = 0; k < 3; ++k) {
            bytes memory reason = abi.encodeWithSelector(IDisputeGame.NotYours.selector, strangers[k]);
            Play memory p = arrive(Turn.Select);
            vm.startPrank(strangers[k]);
            vm.expectRevert(reason);
            disputes.select(p.d, 0, 0, none);
            vm.expectRevert(reason);
            disputes.selectNode(p.d, p.r, theModel(), p.c, 0, 0, none, opening);
            vm.expectRevert(reason);
            disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);
            vm.stopPrank();
            p = arrive(Turn.SelectElement);
            vm.expectRevert(reason);
            vm.prank(strangers[k]);
            disputes.selectElement(p.d, p.r, theModel(), p.c, 0, "");
        }
    }

    function test_moves_byAKeyOfTheOperatorAsLongAsItIsOne() external {
        Play memory p = arrive(Turn.RevealLeaf);
        bytes memory leaf = wrong().leaves[NODE][LEAF];
        vm.prank(operator);
        operators.removeSigner(signer);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotYours.selector, signer));
        vm.prank(signer);
        disputes.revealLeaf(p.d, leaf);
        vm.prank(operator);
        disputes.revealLeaf(p.d, leaf);
    }

    // ---------------------------------------------------------------- stale

    function test_moves_anOldViewIsRefused() external {
        Play memory p = arrive(Turn.Reveal, 1);
        IDisputeGame.Dispute memory before = abi.decode(abi.encode(p.d), (IDisputeGame.Dispute));
        defend(p, wrong(), Partials.AddUp);
        // The same move once more, and an older view in every other.
        bytes memory stale = abi.encodeWithSelector(IDisputeGame.Stale.selector, p.d.id);
        vm.startPrank(operator);
        vm.expectRevert(stale);
        disputes.reveal(before, p.revealed);
        vm.stopPrank();
        vm.expectRevert(stale);
        disputes.timeout(before, p.r, p.f);
        vm.expectRevert(stale);
        disputes.close(before);
        vm.expectRevert(stale);
        disputes.currentOf(before);
        vm.expectRevert(stale);
        disputes.deadlineOf(before);
    }

    /// No field of a dispute can be anything but what the game holds.
    function test_moves_everyFieldIsBound(uint256 field, uint256 bit) external {
        Play memory p = arrive(Turn.SelectElement);
        bytes memory encoded = abi.encode(p.d);
        field = bound(field, 0, encoded.length / 32 - 1);
        bit = bound(bit, 0, 255);
        bytes memory forged = abi.encodePacked(encoded);
        forged[field * 32 + bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        (bool success,) = address(disputes).staticcall(abi.encodePacked(disputes.currentOf.selector, encoded));
        assertTrue(success, "as it is");
        (success,) = address(disputes).staticcall(abi.encodePacked(disputes.currentOf.selector, forged));
        assertFalse(success, "with one bit changed");
    }

    // ---------------------------------------------------------------- challenge

    function test_challenge_takesExactlyTheBond() external {
        Play memory p = posted("a lie");
        uint256[3] memory bad = [uint256(BOND) - 1, uint256(BOND) + 1, 0];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongBond.selector, bad[i], BOND));
            vm.prank(carol);
            disputes.challenge{value: bad[i]}(p.r, p.f);
        }
    }

    function test_challenge_insideTheWindowOnly() external {
        Play memory p = posted("a lie");
        Play memory late = posted("a lie");
        uint256 until = vm.getBlockTimestamp() + WINDOW;
        challenge(p, carol);
        vm.warp(until - 1);
        Play memory q = another(p, dave);
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WindowClosed.selector, until));
        vm.prank(erin);
        disputes.challenge{value: BOND}(q.r, q.f);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WindowClosed.selector, oracle.unpack(late.r).id, until));
        vm.prank(erin);
        disputes.challenge{value: BOND}(late.r, late.f);
    }

    function test_challenge_ofWhatTheOracleHoldsOnly() external {
        Play memory p = posted("a lie");
        challenge(p, carol);
        p.f.outputHash = keccak256("something else");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, oracle.unpack(p.r).id, 3));
        vm.prank(dave);
        disputes.challenge{value: BOND}(p.r, p.f);
        PackedRequest memory open = ask();
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, oracle.unpack(open).id, 1));
        vm.prank(dave);
        disputes.challenge{value: BOND}(open, p.f);
    }

    // ---------------------------------------------------------------- claim

    struct ClaimArguments {
        Play p;
        IModelRegistry.ModelDescriptor model;
        IStepVerifier.Claim c;
        bytes32 programRoot;
        bytes tokens;
        bytes32[] hashes;
    }

    function claimArguments(Play memory p) private view returns (ClaimArguments memory) {
        Trace memory trace = right();
        return ClaimArguments(p, theModel(), claimOf(trace), theModel().graphRoot, "", trace.top.revealed(7, 0));
    }

    function tryClaim(ClaimArguments memory a, bytes memory reason) private {
        if (reason.length != 0) vm.expectRevert(reason);
        vm.prank(operator);
        disputes.claim(a.p.r, a.p.f, a.model, a.c, a.programRoot, a.tokens, a.hashes);
    }

    function test_claim_hasToBeWhatItSays() external {
        Play memory p = posted("a lie");
        bytes memory invalid = abi.encodeWithSelector(IDisputeGame.InvalidClaim.selector);
        ClaimArguments memory a = claimArguments(p);
        tryClaim(a, abi.encodeWithSelector(IDisputeGame.UnknownResult.selector, disputes.resultHash(p.r, p.f)));
        challenge(p, carol);

        a.model.graphRoot = keccak256("another model");
        a.programRoot = a.model.graphRoot;
        tryClaim(a, invalid);
        a = claimArguments(p);
        a.tokens = hex"00000001";
        tryClaim(a, invalid);
        a = claimArguments(p);
        a.c.nodes = 71;
        tryClaim(a, invalid);
        a = claimArguments(p);
        a.c.nodes = 0;
        tryClaim(a, invalid);
        a = claimArguments(p);
        a.programRoot = keccak256("another program");
        tryClaim(a, invalid);
        a = claimArguments(p);
        a.hashes = right().top[4];
        tryClaim(a, abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 5, 9));
        a = claimArguments(p);
        a.hashes[8] ^= bytes32(uint256(1));
        tryClaim(a, abi.encodeWithSelector(IDisputeGame.HashMismatch.selector, a.c.root, claimRootOf(a.hashes)));
        a = claimArguments(p);
        a.c.tokensHash = keccak256(hex"00000001");
        a.tokens = hex"00000001";
        tryClaim(a, "");
        tryClaim(a, abi.encodeWithSelector(IDisputeGame.AlreadyClaimed.selector, p.d.result));
    }

    function claimRootOf(bytes32[] memory hashes) private pure returns (bytes32) {
        return Traces.root(Traces.tree(hashes));
    }

    function test_claim_byTheOperatorInItsTime() external {
        Play memory p = posted("a lie");
        challenge(p, carol);
        uint256 first = vm.getBlockTimestamp();
        ClaimArguments memory a = claimArguments(p);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotYours.selector, carol));
        vm.prank(carol);
        disputes.claim(a.p.r, a.p.f, a.model, a.c, a.programRoot, a.tokens, a.hashes);

        // A later dispute does not give it more time.
        skip(30 minutes);
        Play memory q = another(p, dave);
        assertEq(disputes.deadlineOf(q.d), first + CLOCK, "claim by");
        vm.warp(first + CLOCK + 1);
        tryClaim(a, abi.encodeWithSelector(IDisputeGame.TimeOver.selector, first + CLOCK));
        vm.warp(first + CLOCK);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TimeLeft.selector, first + CLOCK));
        timeout(q);
        tryClaim(a, "");
    }

    function test_claim_goesForAllDisputesOfTheResult() external {
        Trace memory trace = right();
        Play memory p = posted("a lie");
        challenge(p, carol);
        skip(10 minutes);
        Play memory q = another(p, dave);
        skip(5 minutes);
        vm.recordLogs();
        claim(p, trace);
        (bytes32 traceRoot, IStepVerifier.Claim memory c, bytes memory tokens, bytes32[] memory hashes) =
            abi.decode(lastEvent(IDisputeGame.Claimed.selector), (bytes32, IStepVerifier.Claim, bytes, bytes32[]));
        assertEq(traceRoot, keccak256(abi.encodePacked(uint8(7), uint256(1), uint256(1), uint256(32), uint256(0), trace.root())), "P-55");
        assertEq(tokens.length, 0, "tokens");
        see(q, c, hashes);
        uint64 claimedAt = uint64(vm.getBlockTimestamp());
        skip(5 minutes);
        Play memory late = another(p, erin);
        see(late, c, hashes);

        Play[3] memory plays = [p, q, late];
        uint32[3] memory operatorTime = [CLOCK - 15 minutes + INCREMENT, CLOCK - 5 minutes + INCREMENT, CLOCK];
        for (uint256 i = 0; i < 3; ++i) {
            IDisputeGame.Dispute memory d = current(plays[i]);
            assertEq(uint256(d.turn), uint256(Turn.Select), "the challenger's turn");
            assertEq(d.hash, trace.root(), "at the root");
            assertEq(d.height, 7, "height");
            assertEq(d.count, 70, "nodes");
            assertEq(d.since, i == 2 ? claimedAt + 5 minutes : claimedAt, "since");
            assertEq(d.operatorTime, operatorTime[i], "the operator's clock");
            assertEq(d.challengerTime, CLOCK, "the challenger's clock stood");
            select(plays[i], 8);
        }
        (,, bytes32 claimHash,,,) = disputes.resultOf(p.d.result);
        assertEq(claimHash, keccak256(abi.encode(oracle.requestHash(p.r), c)), "claim hash");
    }

    // ---------------------------------------------------------------- down the tree

    function test_reveal_hasToBeAllThatIsThere() external {
        // The last subtree: nodes 64 to 69, six of eight; with the lie among them.
        Play memory p = arrive(Turn.Reveal);
        bytes32[] memory shown = wrong().top.revealed(3, 8);
        assertEq(shown.length, 6, "six are there");
        vm.startPrank(operator);
        bytes32[] memory padded = new bytes32[](8);
        bytes32[] memory cut = new bytes32[](5);
        for (uint256 i = 0; i < 6; ++i) {
            padded[i] = shown[i];
            if (i < 5) cut[i] = shown[i];
        }
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 8, 6));
        disputes.reveal(p.d, padded);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 5, 6));
        disputes.reveal(p.d, cut);
        shown[2] ^= bytes32(uint256(1));
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        disputes.reveal(p.d, shown);
        vm.stopPrank();
    }

    function test_select_isWhatWasRevealed() external {
        Play memory p = arrive(Turn.Select); // nine hashes, four levels
        bytes32[] memory path = p.revealed.pathOf(3, 4);
        vm.startPrank(carol);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        disputes.select(p.d, 3, p.revealed[4], path);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        disputes.select(p.d, 2, p.revealed[3], path);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.OutOfRange.selector, 9, 9));
        disputes.select(p.d, 9, bytes32(0), path);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.OutOfRange.selector, type(uint32).max, 9));
        disputes.select(p.d, type(uint32).max, bytes32(0), path);
        bytes32[] memory short = new bytes32[](3);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 3, 4));
        disputes.select(p.d, 3, p.revealed[3], short);
        IStepVerifier.NodeOpening memory opening;
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongHeight.selector, 3));
        disputes.selectNode(p.d, p.r, theModel(), p.c, 3, p.revealed[3], path, opening);
        vm.stopPrank();
        select(p, 8);
        reveal(p, wrong().top.revealed(3, 8));
        path = p.revealed.pathOf(1, 3);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongHeight.selector, 0));
        vm.prank(carol);
        disputes.select(p.d, 1, p.revealed[1], path);
    }

    function test_select_bringsTheRightRequestModelAndClaim() external {
        Play memory p = arrive(Turn.Select, 2); // at the nodes
        uint32 position = NODE - 64;
        bytes32[] memory path = p.revealed.pathOf(position, 3);
        IStepVerifier.NodeOpening memory opening = IStepVerifier.NodeOpening(toy.descriptor(NODE), path);
        bytes memory mismatch = abi.encodeWithSelector(IDisputeGame.ResultMismatch.selector, p.d.result);
        IModelRegistry.ModelDescriptor memory other = theModel();
        other.weightsRoot = keccak256("other weights");
        PackedRequest memory foreign = ask();
        IStepVerifier.Claim memory c = abi.decode(abi.encode(p.c), (IStepVerifier.Claim));
        c.inputBytes += 1;
        vm.startPrank(carol);
        vm.expectRevert(mismatch);
        disputes.selectNode(p.d, foreign, theModel(), p.c, position, p.revealed[position], path, opening);
        vm.expectRevert(mismatch);
        disputes.selectNode(p.d, p.r, other, p.c, position, p.revealed[position], path, opening);
        vm.expectRevert(mismatch);
        disputes.selectNode(p.d, p.r, theModel(), c, position, p.revealed[position], path, opening);
        opening.descriptor = "of another node";
        vm.expectRevert(abi.encodeWithSelector(IStepVerifier.InvalidOpening.selector, bytes32("toy")));
        disputes.selectNode(p.d, p.r, theModel(), p.c, position, p.revealed[position], path, opening);
        vm.stopPrank();

        p = arrive(Turn.SelectElement);
        mismatch = abi.encodeWithSelector(IDisputeGame.ResultMismatch.selector, p.d.result);
        bytes memory proof = toy.proofOf(IStepVerifier.Element(NODE, LEAF, 1));
        IDisputeGame.Refutation memory refutation = refuteElement(p, 1);
        Fulfillment memory f = abi.decode(abi.encode(p.f), (Fulfillment));
        f.outputHash = keccak256("another output");
        vm.startPrank(carol);
        vm.expectRevert(mismatch);
        disputes.selectElement(p.d, foreign, theModel(), p.c, 1, proof);
        vm.expectRevert(mismatch);
        disputes.selectElement(p.d, p.r, other, p.c, 1, proof);
        vm.expectRevert(mismatch);
        disputes.selectElement(p.d, p.r, theModel(), c, 1, proof);
        vm.expectRevert(mismatch);
        disputes.prove(p.d, foreign, p.f, theModel(), p.c, refutation);
        vm.expectRevert(mismatch);
        disputes.prove(p.d, p.r, f, theModel(), p.c, refutation);
        vm.expectRevert(mismatch);
        disputes.prove(p.d, p.r, p.f, other, p.c, refutation);
        vm.expectRevert(mismatch);
        disputes.prove(p.d, p.r, p.f, theModel(), c, refutation);
        vm.stopPrank();
    }

    // ---------------------------------------------------------------- the leaf

    function test_leaf_isTheOneThatWasSelected() external {
        Play memory p = arrive(Turn.RevealLeaf);
        bytes memory leaf = right().leaves[NODE][LEAF];
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        vm.prank(operator);
        disputes.revealLeaf(p.d, leaf);
    }

    function test_element_hasPartialsOrIsProvenAsItIs() external {
        Play memory p = arrive(Turn.SelectElement);
        assertEq(p.d.leaf, keccak256(abi.encodePacked(uint8(2), p.leaf)), "leaf");
        IDisputeGame.Refutation memory refutation = refuteElement(p, 1);
        refutation.data = right().leaves[NODE][LEAF];
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        vm.prank(carol);
        disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);

        // A node without sums: nothing to reveal.
        Trace memory honest = right();
        Trace memory liar = right().lie(64, 0, 2);
        p = posted("a lie");
        challenge(p, carol);
        while (current(p).turn != Turn.SelectElement) {
            if (current(p).turn == Turn.Select) attack(p, honest);
            else defend(p, liar, Partials.AddUp);
        }
        bytes memory proof = toy.proofOf(IStepVerifier.Element(64, 0, 2));
        vm.expectRevert(IDisputeGame.NoPartials.selector);
        vm.prank(carol);
        disputes.selectElement(p.d, p.r, theModel(), p.c, 2, proof);
        // And of what is right nothing can be proven.
        refutation = refuteElement(p, 3);
        vm.expectRevert(IDisputeGame.NotWrong.selector);
        prove(p, refutation);
        prove(p, refuteElement(p, 2));
        assertTrue(isFallen(p), "fallen");
    }

    function test_partials_areAsManyAsThereAre() external {
        Play memory p = arrive(Turn.RevealPartials);
        assertEq(p.d.parts, 3, "parts");
        vm.startPrank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 8, 12));
        disputes.revealPartials(p.d, new bytes(8));
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongCount.selector, 13, 12));
        disputes.revealPartials(p.d, new bytes(13));
        vm.stopPrank();
    }

    function test_partials_areWhatIsJudged() external {
        Play memory p = arrive(Turn.Prove);
        IDisputeGame.Refutation memory refutation = refutePartial(p, 1);
        refutation.data = abi.encodePacked(p.partials);
        refutation.data[0] ^= 0x01;
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        prove(p, refutation);
        refutation = refutePartial(p, 3);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.OutOfRange.selector, 3, 3));
        prove(p, refutation);
        refutation = refutePartial(p, 0);
        vm.expectRevert(IDisputeGame.NotWrong.selector);
        prove(p, refutation);
        refutation = refuteSum(p); // they add up
        vm.expectRevert(IDisputeGame.NotWrong.selector);
        prove(p, refutation);
        bytes memory other = abi.encodePacked(p.leaf);
        other[0] ^= 0x01;
        refutation.data = abi.encode(other, p.partials);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        prove(p, refutation);
        other = abi.encodePacked(p.partials);
        other[0] ^= 0x01;
        refutation.data = abi.encode(p.leaf, other);
        vm.expectPartialRevert(IDisputeGame.HashMismatch.selector);
        prove(p, refutation);
        prove(p, refutePartial(p, 1));
    }

    // ---------------------------------------------------------------- clocks

    function test_clocks_countWhatASideUses() external {
        Play memory p = arrive(Turn.Reveal);
        assertEq(p.d.operatorTime, CLOCK + INCREMENT - 1 minutes, "the claim took a minute");
        assertEq(p.d.challengerTime, CLOCK + INCREMENT, "nor did the selection");
        skip(25 minutes);
        defend(p, wrong(), Partials.AddUp);
        assertEq(p.d.operatorTime, CLOCK + 2 * INCREMENT - 26 minutes, "25 minutes less, an increment more");
        assertEq(p.d.challengerTime, CLOCK + INCREMENT, "the other clock stood");
        assertEq(p.d.since, vm.getBlockTimestamp(), "a new turn");
        skip(40 minutes);
        attack(p, right());
        assertEq(p.d.challengerTime, 4 minutes, "used up but for its increments");
        assertEq(p.d.operatorTime, CLOCK + 2 * INCREMENT - 26 minutes, "and this one stood");
    }

    function test_clocks_everyTurnHasAtLeastTheExtension() external {
        Play memory p = arrive(Turn.Reveal);
        Trace memory liar = wrong();
        // To the last second of the clock: nothing is left but the increment, but the next turn has the extension.
        vm.warp(p.d.since + p.d.operatorTime);
        defend(p, liar, Partials.AddUp);
        assertEq(p.d.operatorTime, INCREMENT, "only the increment");
        attack(p, right());
        uint256 since = vm.getBlockTimestamp();
        assertEq(disputes.deadlineOf(p.d), since + EXTENSION, "the extension");
        vm.warp(since + EXTENSION + 1);
        bytes32[] memory shown = liar.tensors[NODE].revealed(7, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TimeOver.selector, since + EXTENSION));
        vm.prank(operator);
        disputes.reveal(p.d, shown);
        vm.warp(since + EXTENSION);
        defend(p, liar, Partials.AddUp);
        assertEq(p.d.operatorTime, INCREMENT, "never below the increment");
    }

    function test_clocks_timeoutOneSecondAfterTheLast() external {
        for (uint256 state = uint256(Turn.Claim); state <= uint256(Turn.Prove); ++state) {
            Play memory p = arrive(Turn(state));
            uint256 until = disputes.deadlineOf(p.d);
            vm.warp(until);
            vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TimeLeft.selector, until));
            timeout(p);
            vm.warp(until + 1);
            PackedRequest memory foreign = ask();
            vm.expectRevert(abi.encodeWithSelector(IDisputeGame.ResultMismatch.selector, p.d.result));
            disputes.timeout(p.d, foreign, p.f);
            timeout(p);
            bool challengers = state == uint256(Turn.Select) || state == uint256(Turn.SelectElement) || state == uint256(Turn.Prove);
            assertEq(isFallen(p) ? 0 : 1, challengers ? 1 : 0, "against whose turn it was");
            assertEq(disputes.stateOf(p.d.id), 0, "ended");
        }
    }

    function test_clocks_noChallengersMoveAfterItsTime() external {
        Turn[3] memory turns = [Turn.Select, Turn.SelectElement, Turn.Prove];
        for (uint256 i = 0; i < 3; ++i) {
            Play memory p = arrive(turns[i]);
            uint256 until = disputes.deadlineOf(p.d);
            IDisputeGame.Refutation memory refutation = refuteClaim();
            vm.warp(until + 1);
            vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TimeOver.selector, until));
            prove(p, refutation);
        }
    }

    // ---------------------------------------------------------------- pure

    function test_levels_fewestRevealsOfEqualSize() external view {
        assertEq(disputes.levelsOf(0), 0, "nothing to reveal");
        for (uint256 height = 1; height <= 64; ++height) {
            uint256 left = height;
            uint256 reveals = 0;
            uint256 most = 0;
            uint256 least = 64;
            while (left != 0) {
                uint256 levels = disputes.levelsOf(left);
                assertTrue(levels >= 1 && levels <= 6, "at most 64 hashes");
                most = levels > most ? levels : most;
                least = levels < least ? levels : least;
                left -= levels;
                ++reveals;
            }
            assertEq(reveals, (height + 5) / 6, "as few as can be");
            assertTrue(most - least <= 1, "of about the same size");
        }
    }
}
