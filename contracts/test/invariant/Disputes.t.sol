// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Test} from "../utils/Test.sol";
import {DisputeHandler} from "./DisputeHandler.sol";

/// @title What holds in the dispute game whatever anybody does: rules P27, P28, P40
/// forge-config: default.invariant.runs = 16
/// forge-config: default.invariant.depth = 64
contract DisputeInvariants is Test {
    DisputeHandler private handler;

    function setUp() external {
        handler = new DisputeHandler();
        handler.setUp();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), handler.selectors());
    }

    /// One sender, who owns nothing.
    function targetSenders() external pure returns (address[] memory senders) {
        senders = new address[](1);
        senders[0] = address(0xF0);
    }

    /// Every wei in the game is a bond of a dispute that has not been paid out, credit, or set aside for gas; to the wei.
    function invariant_gameHoldsBondsCreditsAndPurses() external view {
        uint256 bonds = handler.bonds() * 0.02 ether;
        assertEq(handler.theGame().balance, bonds + handler.credits() + handler.purses(), "the game's balance");
    }

    function invariant_disputesAreWhereTheirHistoryBroughtThem() external view {
        assertTrue(handler.statesAgree(), "states");
    }

    /// A right result never falls; whoever challenges a wrong one is never beaten.
    function invariant_theHonestNeverLose() external view {
        assertEq(handler.lossesOfTheHonest(), 0, "losses");
        assertEq(handler.honestStake(), 10 ether, "stake of the honest operator");
    }

    /// Whatever was going on can be ended by anybody, and everybody is paid; nothing stays. And the run was no empty one.
    function afterInvariant() external {
        bytes4[] memory selectors = handler.selectors();
        for (uint256 i = 0; i < selectors.length; ++i) {
            assertTrue(handler.calls(selectors[i]) > 0, "every handler did something");
        }
        handler.endEverything();
        assertEq(handler.lossesOfTheHonest(), 0, "losses");
        assertEq(handler.theGame().balance, 0, "nobody's money is stuck");
        assertTrue(handler.withdrawnByCarol() >= handler.challengesOfCarol() * 0.02 ether, "the honest challenger has its bonds");
    }
}
