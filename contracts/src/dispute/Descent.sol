// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDisputeGame} from "../interfaces/IDisputeGame.sol";
import {Merkle} from "../lib/Merkle.sol";

/// @title The way down a tree
/// @notice P33 to P35. The dispute stands at a subtree: `index` at its level, `height` levels above the leaves of a tree that has `count` of them, with a
/// hash that binds the operator. The operator reveals the hashes some levels below; the challenger points at one of them, and the dispute stands there.
library Descent {
    using Merkle for bytes32;
    using Merkle for bytes32[];

    /// Hashes a reveal has at most: 2^6. Fewer moves with more, less gas with fewer; measured in docs/gas.md.
    uint256 private constant MOST_LEVELS = 6;

    /// @notice See `IDisputeGame.levelsOf`.
    function levelsOf(uint256 height) internal pure returns (uint256) {
        unchecked {
            if (height == 0) return 0;
            uint256 reveals = (height + MOST_LEVELS - 1) / MOST_LEVELS;
            return (height + reveals - 1) / reveals;
        }
    }

    /// @notice How many of the hashes `levels` below the dispute's subtree there are; the others are beyond the end of the tree.
    function width(IDisputeGame.Dispute memory d, uint256 levels) internal pure returns (uint256) {
        unchecked {
            uint256 above = d.height - levels;
            uint256 all = (uint256(d.count) + (1 << above) - 1) >> above;
            uint256 left = all - (uint256(d.index) << levels);
            return left < 1 << levels ? left : 1 << levels;
        }
    }

    /// @notice Checks what an operator shows of the subtree.
    function checkRevealed(IDisputeGame.Dispute memory d, bytes32[] calldata hashes) internal pure {
        uint256 levels = levelsOf(d.height);
        uint256 expected = width(d, levels);
        // INVARIANT: one subtree has one reveal. Nothing stands beyond the end of a tree that could differ without being wrong.
        if (hashes.length != expected) revert IDisputeGame.WrongCount(hashes.length, expected);
        bytes32 root = hashes.rootOf(levels);
        // INVARIANT: nobody can take back what he has shown.
        if (root != d.hash) revert IDisputeGame.HashMismatch(d.hash, root);
    }

    /// @notice Steps down to the hash number `position` of those that were revealed.
    function step(IDisputeGame.Dispute memory d, uint256 position, bytes32 hash, bytes32[] calldata path) internal pure {
        uint256 levels = levelsOf(d.height);
        if (path.length != levels) revert IDisputeGame.WrongCount(path.length, levels);
        uint256 present = width(d, levels);
        // INVARIANT: no operator is asked for what is beyond the end of a tree.
        if (position >= present) revert IDisputeGame.OutOfRange(position, present);
        bytes32 root = hash.fold(position, path);
        // INVARIANT: what is selected is what was revealed.
        if (root != d.hash) revert IDisputeGame.HashMismatch(d.hash, root);
        unchecked {
            // forge-lint: disable-start(unsafe-typecast) below `count`; less than it was
            d.index = uint64(uint256(d.index) << levels | position);
            d.height = uint8(d.height - levels);
            // forge-lint: disable-end(unsafe-typecast)
        }
        d.hash = hash;
    }

    /// @notice Starts at the root of a tree.
    function enter(IDisputeGame.Dispute memory d, bytes32 root, uint64 count) internal pure {
        d.hash = root;
        d.count = count;
        d.index = 0;
        // forge-lint: disable-next-line(unsafe-typecast) at most 64
        d.height = uint8(Merkle.height(count));
    }
}
