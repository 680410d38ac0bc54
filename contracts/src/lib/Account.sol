// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title The one word that the oracle keeps of an account
/// @notice From the top: 64 bits capacity (so many results at once can be backed by the account's stake, as the registry tells it), 64 bits number of
/// open results (posted, and neither final nor rejected), 128 bits credit in wei. More wei than 128 bits hold do not exist, and all credit is backed.
type Account is uint256;

using {credit, openResults, capacity, plusCredit, minusCredit, withOneMore, withOneLess, withCapacity} for Account global;

uint256 constant CREDIT_BITS = 128;
uint256 constant ONE_RESULT = 1 << CREDIT_BITS;

function credit(Account account) pure returns (uint256) {
    return Account.unwrap(account) & type(uint128).max;
}

function openResults(Account account) pure returns (uint256) {
    return (Account.unwrap(account) >> CREDIT_BITS) & type(uint64).max;
}

function capacity(Account account) pure returns (uint256) {
    return Account.unwrap(account) >> 192;
}

/// @dev `amount` are wei that exist.
function plusCredit(Account account, uint256 amount) pure returns (Account) {
    unchecked {
        return Account.wrap(Account.unwrap(account) + amount);
    }
}

/// @dev The caller has checked that there is as much.
function minusCredit(Account account, uint256 amount) pure returns (Account) {
    unchecked {
        return Account.wrap(Account.unwrap(account) - amount);
    }
}

/// @dev The caller has checked that there is capacity.
function withOneMore(Account account) pure returns (Account) {
    unchecked {
        return Account.wrap(Account.unwrap(account) + ONE_RESULT);
    }
}

/// @dev The caller holds a result that was counted.
function withOneLess(Account account) pure returns (Account) {
    unchecked {
        return Account.wrap(Account.unwrap(account) - ONE_RESULT);
    }
}

function withCapacity(Account account, uint256 results) pure returns (Account) {
    if (results > type(uint64).max) results = type(uint64).max;
    return Account.wrap(Account.unwrap(account) & type(uint192).max | results << 192);
}
