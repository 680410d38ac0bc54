// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Test} from "../utils/Test.sol";
import {Handler} from "./Handler.sol";

/// @title What holds whatever anybody does: rules P9, P11, P23
contract ProtocolInvariants is Test {
    Handler private handler;

    function setUp() external {
        handler = new Handler();
        vm.deal(address(handler), 1_000_000 ether);
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

    /// One sender, who owns nothing: forge gives those it makes up, which may be our own contracts, money of its own.
    function targetSenders() external pure returns (address[] memory senders) {
        senders = new address[](1);
        senders[0] = address(0xF0);
    }

    /// Every wei in the oracle is somebody's: in escrow for an open request, or credit.
    function invariant_oracleHoldsEscrowAndCredits() external view {
        assertEq(handler.theOracle().balance, handler.escrow() + handler.oracleCredits(), "oracle's balance");
    }

    /// Every wei in the registry is somebody's stake.
    function invariant_registryHoldsTheStakes() external view {
        assertEq(handler.theRegistry().balance, handler.stakes(), "registry's balance");
    }

    /// What answers for a result stays until the result is final; and each open result is counted once.
    function invariant_stakeCoversWhatIsLocked() external view {
        for (uint256 i = 0; i < handler.stakedCount(); ++i) {
            address operator = handler.staked(i);
            uint256 open = handler.openResultsHere(operator);
            assertEq(handler.lockedStakeOf(operator), open * 0.1 ether, "locked");
            (uint256 stake,) = handler.stakeAndUnbonding(operator);
            assertTrue(stake >= open * 0.1 ether, "stake >= locked");
        }
    }

    /// A request is where its history brought it.
    function invariant_statusesAreThoseOfTheHistory() external view {
        assertTrue(handler.statusesAgree(), "statuses");
    }

    /// The run above was no empty one.
    function afterInvariant() external view {
        bytes4[] memory selectors = handler.selectors();
        for (uint256 i = 0; i < selectors.length; ++i) {
            assertTrue(handler.calls(selectors[i]) > 0, "every handler did something");
        }
    }
}
