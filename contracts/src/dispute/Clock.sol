// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDisputeGame, Turn} from "../interfaces/IDisputeGame.sol";

/// @title Chess clocks
/// @notice P31: each side has a budget of seconds for all its moves, gains some with each move, and in every turn has at least the extension.
library Clock {
    /// @notice Whether the turn is the operator's.
    function isOperators(Turn turn) internal pure returns (bool) {
        return turn == Turn.Claim || turn == Turn.Reveal || turn == Turn.RevealLeaf || turn == Turn.RevealPartials;
    }

    /// @notice The last second of a turn that began at `since` with `left` seconds on the clock.
    function deadline(uint256 since, uint256 left, uint256 extension) internal pure returns (uint256) {
        unchecked {
            return since + (left < extension ? extension : left);
        }
    }

    /// @notice The last second of this turn.
    function deadline(IDisputeGame.Dispute memory dispute, uint256 extension) internal pure returns (uint256) {
        return deadline(dispute.since, isOperators(dispute.turn) ? dispute.operatorTime : dispute.challengerTime, extension);
    }

    /// @notice What a clock shows after a move that took `elapsed` seconds.
    function charged(uint32 left, uint256 elapsed, uint256 increment) internal pure returns (uint32) {
        unchecked {
            // forge-lint: disable-next-line(unsafe-typecast) at most what there was and 30 days a move
            return uint32((left > elapsed ? left - elapsed : 0) + increment);
        }
    }

    /// @notice Stops the clock of whoever has moved at `time`, and starts the other's.
    function press(IDisputeGame.Dispute memory dispute, uint256 time, uint256 increment) internal pure {
        unchecked {
            uint256 elapsed = time - dispute.since;
            if (isOperators(dispute.turn)) dispute.operatorTime = charged(dispute.operatorTime, elapsed, increment);
            else dispute.challengerTime = charged(dispute.challengerTime, elapsed, increment);
        }
        // forge-lint: disable-next-line(unsafe-typecast) unix seconds
        dispute.since = uint64(time);
    }
}
