// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Market, packMarket} from "../../src/OfferBook.sol";
import {CallbackStatus, Limits, RequestStatus} from "../../src/Types.sol";
import {Account} from "../../src/lib/Account.sol";
import {RequestState, RequestStateLib} from "../../src/lib/RequestState.sol";
import {Test} from "../utils/Test.sol";

/// @title The packed words of storage: no field touches another
contract WordsTest is Test {
    function testFuzz_account(uint120 credit, uint32 open, uint256 capacity, uint120 amount) external pure {
        Account account = Account.wrap(0).plusCredit(credit);
        for (uint256 i = 0; i < open % 5; ++i) {
            account = account.withOneMore();
        }
        account = account.withCapacity(capacity).plusCredit(amount);
        assertEq(account.credit(), uint256(credit) + amount, "credit");
        assertEq(account.openResults(), open % 5, "open results");
        assertEq(account.capacity(), capacity < type(uint64).max ? capacity : type(uint64).max, "capacity, saturated");
        account = account.minusCredit(credit).withOneMore().withCapacity(3).withOneLess();
        assertEq(account.credit(), amount, "credit after");
        assertEq(account.openResults(), open % 5, "open results after");
        assertEq(account.capacity(), 3, "capacity after");
    }

    function testFuzz_requestState(bytes32 hash, bytes32 other, uint8 status, uint8 callback) external pure {
        RequestStatus s = RequestStatus(status % 6);
        CallbackStatus c = CallbackStatus(callback % 3);
        RequestState state = RequestStateLib.pack(hash, s, c);
        assertTrue(state.status() == s && state.callback() == c && state.holds(hash), "packed");
        assertEq(state.holds(other) ? 1 : 0, uint256(hash) >> 8 == uint256(other) >> 8 ? uint256(1) : 0, "another hash");
        state = state.withStatus(RequestStatus.Finalized);
        assertTrue(state.status() == RequestStatus.Finalized && state.callback() == c && state.holds(hash), "status");
        state = state.withCallback(CallbackStatus.Failed);
        assertTrue(state.status() == RequestStatus.Finalized && state.callback() == CallbackStatus.Failed && state.holds(hash), "callback");
    }

    function testFuzz_market(Limits memory limits, uint64 first, uint64 second) external pure {
        Market market = packMarket(limits).withOffers(first);
        assertEq(market.offersIn(), first, "offers");
        market = market.withOffers(second);
        assertEq(market.offersIn(), second, "offers again");
        assertTrue(market.isKnown(), "known");
        assertEq(market.minInputBytes(), limits.minInputBytes, "min input");
        assertEq(market.maxInputBytes(), limits.maxInputBytes, "max input");
        assertEq(market.maxTokens(), limits.maxTokens, "max tokens");
        assertFalse(Market.wrap(0).isKnown(), "unknown");
    }
}
