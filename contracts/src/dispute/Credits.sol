// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDisputeGame} from "../interfaces/IDisputeGame.sol";

/// @title Whose money is whose
/// @notice P40 to P44. Nobody is paid by force: what somebody is due is credit, and is fetched.
abstract contract Credits is IDisputeGame {
    /// Where burned money goes: nobody has its key.
    address private constant NOBODY = address(0);

    /// @inheritdoc IDisputeGame
    mapping(address account => uint256) public creditOf;

    /// Held while a contract that is not ours may run.
    bool internal transient _calling;

    /// Nothing of the game runs while a foreign contract does.
    modifier notReentered() {
        if (_calling) revert Reentered();
        _;
    }

    /// @inheritdoc IDisputeGame
    function withdrawCredit(address to, uint256 amount) external notReentered {
        uint256 credit = creditOf[msg.sender];
        // INVARIANT: nobody takes more than is theirs.
        if (amount > credit) revert InsufficientCredit(credit, amount);
        unchecked {
            creditOf[msg.sender] = credit - amount;
        }
        emit CreditWithdrawn(msg.sender, to, amount);
        _calling = true;
        (bool sent,) = to.call{value: amount}("");
        _calling = false;
        if (!sent) revert TransferFailed(to, amount);
    }

    /// @dev `amount` are wei that the game holds.
    function _credit(address account, uint256 amount) internal {
        unchecked {
            creditOf[account] += amount;
        }
    }

    function _burn(uint256 amount) internal {
        if (amount == 0) return;
        emit Burned(amount);
        (bool sent,) = NOBODY.call{value: amount}("");
        if (!sent) revert TransferFailed(NOBODY, amount);
    }
}
