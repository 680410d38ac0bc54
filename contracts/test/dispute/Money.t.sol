// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {DisputeGame} from "../../src/dispute/DisputeGame.sol";
import {IDisputeGame, Outcome} from "../../src/interfaces/IDisputeGame.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {GameWorld} from "./GameWorld.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title Bonds, gas, rewards, what burns: rules P40 to P44
contract MoneyTest is GameWorld {
    using Traces for Trace;
    using Traces for bytes32[][];

    address private constant NOBODY = address(0);

    function accused() private returns (Play memory p) {
        vm.deal(NOBODY, 0);
        p = posted("a lie");
        challenge(p, carol);
    }

    function right() private view returns (Trace memory) {
        return Traces.truth(toy);
    }

    function wrong() private view returns (Trace memory) {
        return right().lie(5, 3, 1);
    }

    /// What the last `Resolved` said.
    function resolved() private returns (Outcome outcome, address winner, uint256 paid) {
        return abi.decode(lastEvent(IDisputeGame.Resolved.selector), (Outcome, address, uint256));
    }

    // ---------------------------------------------------------------- a conviction

    function test_money_aConvictionPaysTheWinnerAndBurnsTheRest() external {
        Play memory p = accused();
        assertTrue(p.d.challengerGas > 0, "opening counts");
        vm.recordLogs();
        play(p, wrong(), right(), Partials.AddUp);
        (Outcome outcome, address winner, uint256 paid) = resolved();
        assertTrue(outcome == Outcome.Rejected, "outcome");
        assertEq(winner, carol, "winner");
        uint256 gas = paid - BOND - REWARD;
        assertTrue(gas > p.d.challengerGas && gas < GAS_ALLOWANCE, "its gas, the proof's too");
        assertEq(disputes.creditOf(carol), 0, "nothing before it is carried out");
        assertEq(address(disputes).balance, BOND, "only the bond is there");

        vm.expectEmit(address(disputes));
        emit IDisputeGame.Rejected(p.d.result, SLICE);
        vm.expectEmit(address(disputes));
        emit IDisputeGame.Burned(SLICE - REWARD - gas);
        vm.prank(carrier);
        disputes.reject(p.r, p.f, input());
        assertEq(disputes.creditOf(carol), paid, "bond, reward and gas");
        assertEq(disputes.creditOf(operator), 0, "nothing for the liar");
        assertEq(NOBODY.balance, SLICE - REWARD - gas, "the rest is burned");
        assertEq(address(disputes).balance, paid, "all that is left is credit");
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotFallen.selector, p.d.result));
        disputes.reject(p.r, p.f, input());
    }

    function test_money_rejectNeedsADecisionAndTheInput() external {
        Play memory p = accused();
        bytes memory notFallen = abi.encodeWithSelector(IDisputeGame.NotFallen.selector, p.d.result);
        vm.expectRevert(notFallen);
        disputes.reject(p.r, p.f, input());
        runOut(p);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, oracle.unpack(p.r).id));
        disputes.reject(p.r, p.f, "another input");
        reject(p);
    }

    /// The slice of stake is there, whatever its owner has done meanwhile.
    function test_money_theStakeIsThere() external {
        Play memory p = posted("a lie");
        vm.startPrank(operator);
        operators.removeOffer(model);
        operators.requestWithdrawal(10 ether);
        vm.stopPrank();
        vm.warp(p.f.fulfilledAt + WINDOW - 1);
        challenge(p, carol);
        skip(DELAY);
        vm.prank(operator);
        operators.withdraw(operator);
        (uint256 stake,,,) = operators.stakeOf(operator);
        assertEq(stake, SLICE, "all but the slice is gone");
        timeout(p);
        reject(p);
        (stake,,,) = operators.stakeOf(operator);
        assertEq(stake, 0, "and now that");
        assertTrue(disputes.creditOf(carol) >= BOND + REWARD, "paid");
    }

    // ---------------------------------------------------------------- a lost challenge

    function test_money_aLostBondRepaysTheOperatorAndBurns() external {
        Play memory p = accused();
        Trace memory trace = right();
        claim(p, trace);
        select(p, 5);
        defend(p, trace, Partials.Right);
        select(p, 0);
        defend(p, trace, Partials.Right);
        assertTrue(p.d.operatorGas > 0, "counted");
        vm.recordLogs();
        runOut(p);
        (Outcome outcome, address winner, uint256 paid) = resolved();
        assertTrue(outcome == Outcome.Upheld, "outcome");
        assertEq(winner, operator, "winner");
        assertTrue(paid > p.d.operatorGas && paid < GAS_ALLOWANCE, "its moves and the claim");
        assertEq(disputes.creditOf(operator), paid, "credit");
        assertEq(NOBODY.balance, BOND - paid, "the rest is burned");
        assertEq(address(disputes).balance, paid, "all that is left is credit");
    }

    /// The claim was made once, and is repaid once.
    function test_money_theClaimIsRepaidOnce() external {
        Play memory p = accused();
        Play memory q = another(p, dave);
        claim(p, right());
        runOut(p);
        uint256 first = disputes.creditOf(operator);
        assertTrue(first > 0, "the claim");
        timeout(q);
        assertEq(disputes.creditOf(operator), first, "no move was made in the second");
        assertEq(NOBODY.balance, 2 * BOND - first, "burned");
    }

    // ---------------------------------------------------------------- gas

    /// A transaction with calldata nobody needs.
    function paddedCall(address who, bytes memory data, uint256 padding_) private {
        vm.recordLogs();
        vm.prank(who);
        (bool success,) = address(disputes).call(bytes.concat(data, new bytes(padding_)));
        assertTrue(success, "padded");
    }

    function paddedChallenge(Play memory p, address who) private {
        vm.recordLogs();
        vm.prank(who);
        (bool success,) =
            address(disputes).call{value: BOND}(bytes.concat(abi.encodeCall(disputes.challenge, (p.r, p.f)), new bytes(400_000)));
        assertTrue(success, "padded");
        (p.d,,) = abi.decode(lastEvent(IDisputeGame.Challenged.selector), (IDisputeGame.Dispute, PackedRequestWords, FulfillmentWords));
    }

    struct PackedRequestWords {
        bytes32[6] words;
    }

    struct FulfillmentWords {
        bytes32[4] words;
    }

    function test_money_gasIsRepaidUpToTheAllowanceAndThePrice() external {
        vm.txGasPrice(1_000 gwei);
        Play memory p = accused();
        uint256 gas = p.d.challengerGas / MAX_GAS_PRICE;
        assertEq(gas * MAX_GAS_PRICE, p.d.challengerGas, "at the highest price that is repaid");
        assertTrue(gas > 80_000 && gas < 200_000, "gas of one move");
        Trace memory trace = right();
        claim(p, trace);
        select(p, 5);
        paddedCall(operator, abi.encodeCall(disputes.reveal, (p.d, trace.tensors[5].revealed(3, 0))), 400_000);
        moved(p);
        assertEq(p.d.operatorGas, GAS_ALLOWANCE, "no more than the allowance");
        runOut(p);
        assertEq(disputes.creditOf(operator), GAS_ALLOWANCE, "with the claim neither");
    }

    function test_money_gasIsFreeWhereItIsFree() external {
        vm.txGasPrice(0);
        Play memory p = accused();
        play(p, wrong(), right(), Partials.AddUp);
        reject(p);
        assertEq(disputes.creditOf(carol), BOND + REWARD, "nothing spent, nothing repaid");
    }

    /// What a transaction costs that makes this call: EIP-2028 and EIP-7623.
    function costOfCall(address who, bytes memory data, uint256 value) private returns (uint256) {
        uint256 tokens = 0;
        for (uint256 i = 0; i < data.length; ++i) {
            tokens += data[i] == 0 ? 1 : 4;
        }
        // As in a transaction of its own, where nothing has been touched yet.
        vm.cool(address(disputes));
        vm.cool(address(oracle));
        vm.recordLogs();
        vm.prank(who);
        (bool success,) = address(disputes).call{value: value}(data);
        assertTrue(success, "call");
        uint256 execution = vm.lastCallGas().gasTotalUsed;
        uint256 standard = 21_000 + 4 * tokens + execution;
        uint256 floor = 21_000 + 10 * tokens;
        return standard > floor ? standard : floor;
    }

    string private _bills; // of all moves, and whether one is wrong
    bool private _isOff;

    function compare(uint256 repaid, uint256 cost, string memory move) private {
        repaid /= 1 gwei;
        if (repaid * 100 < cost * 85 || repaid * 100 > cost * 115) _isOff = true;
        _bills = string.concat(_bills, move, " repays ", vm.toString(repaid), " of ", vm.toString(cost), "; ");
    }

    /// What an operator would be repaid that has made no move but the claim.
    function claimGas(Play memory p) private returns (uint256 gas) {
        uint256 snapshot = vm.snapshotState();
        runOut(p);
        gas = disputes.creditOf(operator);
        vm.revertToState(snapshot);
    }

    /// P42: what a move repays is what it cost, within 15 per cent.
    function test_money_repaidIsWhatAMoveCosts() external {
        toy.shape(64, 64);
        Trace memory liar = wrong();
        Play memory p = posted("a lie");
        uint256 cost = costOfCall(carol, abi.encodeCall(disputes.challenge, (p.r, p.f)), BOND);
        (p.d,,) = abi.decode(lastEvent(IDisputeGame.Challenged.selector), (IDisputeGame.Dispute, PackedRequestWords, FulfillmentWords));
        compare(p.d.challengerGas, cost, "challenge");
        uint256 before = p.d.challengerGas;

        bytes32[] memory roots = liar.top.revealed(6, 0);
        cost =
            costOfCall(operator, abi.encodeCall(disputes.claim, (p.r, p.f, theModel(), claimOf(liar), theModel().graphRoot, "", roots)), 0);
        see(p, claimOf(liar), roots);
        compare(claimGas(p), cost, "claim");
        IStepVerifier.NodeOpening memory opening = openingOf(5);
        bytes32[] memory path = Traces.pathOf(p.revealed, 5, 6);
        bytes memory data = abi.encodeCall(disputes.selectNode, (p.d, p.r, theModel(), p.c, 5, p.revealed[5], path, opening));
        cost = costOfCall(carol, data, 0);
        moved(p);
        compare(p.d.challengerGas - before, cost, "selectNode");

        cost = costOfCall(operator, abi.encodeCall(disputes.reveal, (p.d, liar.tensors[5].revealed(6, 0))), 0);
        p.revealed = abi.decode(moved(p), (bytes32[]));
        compare(p.d.operatorGas, cost, "reveal");

        before = p.d.challengerGas;
        path = Traces.pathOf(p.revealed, 3, 6);
        cost = costOfCall(carol, abi.encodeCall(disputes.select, (p.d, 3, p.revealed[3], path)), 0);
        moved(p);
        compare(p.d.challengerGas - before, cost, "select");

        before = p.d.operatorGas;
        cost = costOfCall(operator, abi.encodeCall(disputes.revealLeaf, (p.d, liar.leaves[5][3])), 0);
        p.leaf = moved(p);
        compare(p.d.operatorGas - before, cost, "revealLeaf");

        before = p.d.challengerGas;
        data = abi.encodeCall(disputes.selectElement, (p.d, p.r, theModel(), p.c, 1, toy.proofOf(IStepVerifier.Element(5, 3, 1))));
        cost = costOfCall(carol, data, 0);
        moved(p);
        compare(p.d.challengerGas - before, cost, "selectElement");

        before = p.d.operatorGas;
        cost = costOfCall(operator, abi.encodeCall(disputes.revealPartials, (p.d, toy.partialsFor(5, 3, 1))), 0);
        p.partials = moved(p);
        compare(p.d.operatorGas - before, cost, "revealPartials");

        before = p.d.challengerGas;
        data = abi.encodeCall(disputes.prove, (p.d, p.r, p.f, theModel(), p.c, refuteSum(p)));
        cost = costOfCall(carol, data, 0);
        (,, uint256 paid) = resolved();
        compare(paid - BOND - REWARD - before, cost, "prove");
        assertFalse(_isOff, _bills);
    }

    // ---------------------------------------------------------------- moot

    function test_money_mootChallengersGetBondAndGas() external {
        Play memory p = accused();
        Play memory second = another(p, dave);
        Play memory third = another(p, erin);
        Trace memory liar = wrong();
        claim(p, liar);
        see(second, p.c, p.revealed);
        attack(second, right());
        play(p, liar, right(), Partials.AddUp);
        reject(p);
        uint256 gas = disputes.creditOf(carol) - BOND - REWARD;
        uint256 purse = SLICE / 2 - REWARD - gas;
        assertEq(NOBODY.balance, SLICE - SLICE / 2, "half burns at once");
        assertEq(address(disputes).balance, 3 * BOND + REWARD + gas + purse, "the rest waits");

        vm.expectEmit(address(disputes));
        emit IDisputeGame.Resolved(second.d.id, second.d.result, Outcome.Moot, dave, BOND + second.d.challengerGas);
        disputes.close(second.d);
        assertEq(disputes.creditOf(dave), BOND + second.d.challengerGas, "bond and gas");
        disputes.close(third.d);
        assertEq(disputes.creditOf(erin), BOND + third.d.challengerGas, "bond and gas");
        assertEq(
            NOBODY.balance, SLICE - REWARD - gas - second.d.challengerGas - third.d.challengerGas, "what nobody needs burns with the last"
        );
        assertEq(
            address(disputes).balance,
            disputes.creditOf(carol) + disputes.creditOf(dave) + disputes.creditOf(erin),
            "all that is left is credit"
        );
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.Stale.selector, third.d.id));
        disputes.close(third.d);
    }

    /// Bonds come back whatever the others' gas was.
    function test_money_aPurseThatRunsOut() external {
        vm.txGasPrice(1_000 gwei);
        vm.deal(NOBODY, 0);
        Play memory p = posted("a lie");
        address[4] memory who = [carol, dave, erin, account_("frank")];
        Play[4] memory plays;
        for (uint256 i = 0; i < 4; ++i) {
            plays[i] = abi.decode(abi.encode(p), (Play));
            paddedChallenge(plays[i], who[i]);
            assertEq(plays[i].d.challengerGas, GAS_ALLOWANCE, "as dear as can be");
        }
        runOut(plays[0]);
        reject(p);
        assertEq(disputes.creditOf(carol), BOND + REWARD + GAS_ALLOWANCE, "the winner");
        for (uint256 i = 1; i < 4; ++i) {
            disputes.close(plays[i].d);
        }
        assertEq(disputes.creditOf(dave), BOND + GAS_ALLOWANCE, "the first to come");
        assertEq(disputes.creditOf(erin), BOND, "the bond in any case");
        assertEq(disputes.creditOf(who[3]), BOND, "the bond in any case");
        assertEq(NOBODY.balance, SLICE - SLICE / 2, "half is burned");
        assertEq(address(disputes).balance, 4 * BOND + REWARD + 2 * GAS_ALLOWANCE, "all that is left is credit");
    }

    // ---------------------------------------------------------------- playing both sides

    /// Whoever challenges himself and loses his own result has lost at least half of the slice, whatever gas is said to cost and however many he is.
    function test_money_convictingOneselfNeverPays(uint8 puppets, uint64 price, uint256 padding_) external {
        uint256 count = bound(puppets, 1, 6);
        vm.txGasPrice(price);
        Play memory p = posted("a lie");
        Play[] memory plays = new Play[](count);
        for (uint256 i = 0; i < count; ++i) {
            plays[i] = abi.decode(abi.encode(p), (Play));
            if (padding_ >> i & 1 == 0) challenge(plays[i], operator);
            else paddedChallenge(plays[i], operator);
        }
        runOut(plays[padding_ % count]);
        reject(p);
        for (uint256 i = 0; i < count; ++i) {
            if (i != padding_ % count) disputes.close(plays[i].d);
        }
        assertTrue(disputes.creditOf(operator) <= count * BOND + SLICE / 2, "at least half of the slice is lost");
        assertEq(address(disputes).balance, disputes.creditOf(operator), "nothing stays");
    }

    /// Whoever challenges himself and upholds his own result has lost at least half of the bond.
    function test_money_challengingOneselfInVainNeverPays(uint64 price, bool padded) external {
        vm.txGasPrice(price);
        Play memory p = posted(rightOutput());
        if (padded) paddedChallenge(p, operator);
        else challenge(p, operator);
        Trace memory trace = right();
        claim(p, trace);
        vm.recordLogs();
        vm.startPrank(operator);
        bytes32[] memory path = Traces.pathOf(p.revealed, 5, 4);
        disputes.selectNode(p.d, p.r, theModel(), p.c, 5, p.revealed[5], path, openingOf(5));
        vm.stopPrank();
        moved(p);
        paddedCall(operator, abi.encodeCall(disputes.reveal, (p.d, trace.tensors[5].revealed(3, 0))), padded ? 400_000 : 0);
        moved(p);
        runOut(p);
        assertTrue(disputes.creditOf(operator) <= BOND / 2, "at least half of the bond is lost");
    }

    // ---------------------------------------------------------------- credit

    function test_money_creditIsFetchedByItsOwner() external {
        Play memory p = accused();
        runOut(p);
        reject(p);
        uint256 credit = disputes.creditOf(carol);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.InsufficientCredit.selector, 0, 1));
        vm.prank(dave);
        disputes.withdrawCredit(dave, 1);
        vm.startPrank(carol);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.InsufficientCredit.selector, credit, credit + 1));
        disputes.withdrawCredit(carol, credit + 1);
        // A payee that takes no money costs its creditor nothing.
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TransferFailed.selector, address(toy), credit));
        disputes.withdrawCredit(address(toy), credit);
        uint256 before = erin.balance;
        vm.expectEmit(address(disputes));
        emit IDisputeGame.CreditWithdrawn(carol, erin, credit - 1);
        disputes.withdrawCredit(erin, credit - 1);
        disputes.withdrawCredit(erin, 1);
        vm.stopPrank();
        assertEq(erin.balance - before, credit, "paid");
        assertEq(address(disputes).balance, 0, "nothing stays");
    }

    function test_money_nobodySendsAnything() external {
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotOperatorRegistry.selector, address(this)));
        (bool sent,) = address(disputes).call{value: 1}("");
        assertTrue(sent, "expectRevert has taken the revert");
        assertEq(address(disputes).balance, 0, "nothing arrived");
    }

    // ---------------------------------------------------------------- terms

    function test_terms_areThoseOfTheDeployment() external view {
        assertEq(keccak256(abi.encode(disputes.terms())), keccak256(abi.encode(terms())), "terms");
        assertEq(address(disputes.oracle()), address(oracle), "oracle");
        assertEq(address(disputes.verifier()), address(toy), "verifier");
        assertEq(oracle.disputeGame(), address(disputes), "and the oracle knows it");
    }

    function test_terms_thatCannotWorkAreRefused() external {
        IDisputeGame.Terms[] memory bad = new IDisputeGame.Terms[](10);
        for (uint256 i = 0; i < 10; ++i) {
            bad[i] = terms();
        }
        bad[0].bond = 0;
        bad[0].gasAllowance = 0;
        bad[1].bond = 2 * GAS_ALLOWANCE - 1;
        bad[2].reward = uint96(SLICE / 2) - GAS_ALLOWANCE + 1;
        bad[3].reward = type(uint96).max;
        bad[4].clock = 0;
        bad[5].clock = 30 days + 1;
        bad[6].increment = 30 days + 1;
        bad[7].extension = 0;
        bad[8].extension = 30 days + 1;
        bad[9].gasAllowance = type(uint96).max;
        for (uint256 i = 0; i < 10; ++i) {
            address next = vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
            vm.mockCall(address(oracle), abi.encodeCall(oracle.disputeGame, ()), abi.encode(next));
            vm.expectRevert(IDisputeGame.InvalidTerms.selector);
            new DisputeGame(oracle, toy, bad[i]);
        }
        // These would do, with a verifier and where the oracle names it; a creation that reverts uses its nonce too.
        address here = vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
        vm.mockCall(address(oracle), abi.encodeCall(oracle.disputeGame, ()), abi.encode(here));
        vm.expectRevert(IDisputeGame.InvalidTerms.selector);
        new DisputeGame(oracle, IStepVerifier(carol), terms());
        here = vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
        vm.mockCall(address(oracle), abi.encodeCall(oracle.disputeGame, ()), abi.encode(here));
        new DisputeGame(oracle, toy, terms());
        vm.clearMockedCalls();
        vm.expectRevert(IDisputeGame.InvalidTerms.selector);
        new DisputeGame(oracle, toy, terms());
    }
}
