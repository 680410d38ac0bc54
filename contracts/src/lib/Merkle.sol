// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Hashes of trees
/// @notice Rules P-44 to P-46 of docs/program.md: everything is hashed after a domain byte; a tree pairs neighbours level by level, the last of an odd level
/// with the zero word.
library Merkle {
    uint8 internal constant INNER = 0x00;
    uint8 internal constant WEIGHT_LEAF = 0x01;
    uint8 internal constant TRACE_LEAF = 0x02;
    uint8 internal constant NODE = 0x03;
    uint8 internal constant TENSOR = 0x04;
    uint8 internal constant TOKEN = 0x05;
    uint8 internal constant COUNTED = 0x06;
    uint8 internal constant TRACE = 0x07;

    /// @notice Two nodes of a tree.
    function pair(bytes32 left, bytes32 right) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            // 65 bytes in the scratch space and the first byte of the free memory pointer, which is put back.
            let free := mload(0x40)
            mstore8(0x00, INNER)
            mstore(0x01, left)
            mstore(0x21, right)
            hash := keccak256(0x00, 0x41)
            mstore(0x40, free)
        }
    }

    /// @notice A root and its number of leaves.
    function counted(uint256 leaves, bytes32 root_) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(COUNTED, leaves, root_));
    }

    /// @notice Something of which the tree has one.
    function leaf(uint8 domain, bytes calldata data) internal pure returns (bytes32) {
        return keccak256(bytes.concat(bytes1(domain), data));
    }

    /// @notice Levels above the leaves: `ceil(log2 leaves)`; 0 for one leaf and for none.
    function height(uint256 leaves) internal pure returns (uint256 levels) {
        unchecked {
            for (uint256 width = 1; width < leaves; width <<= 1) {
                ++levels;
            }
        }
    }

    /// @notice The root above the node number `index` of a level, by its siblings from below.
    function fold(bytes32 hash, uint256 index, bytes32[] calldata path) internal pure returns (bytes32) {
        unchecked {
            for (uint256 i; i < path.length; ++i) {
                hash = index & 1 == 0 ? pair(hash, path[i]) : pair(path[i], hash);
                index >>= 1;
            }
            return hash;
        }
    }

    /// @notice The root `levels` above nodes that stand side by side from the left edge of its subtree on; what is not given is beyond the end of the tree.
    /// @dev Absence is a matter of counting: a zero word among the given nodes is hashed like any other, and two absent nodes have an absent parent.
    function rootOf(bytes32[] calldata nodes, uint256 levels) internal pure returns (bytes32) {
        bytes32[] memory level = nodes;
        uint256 width = nodes.length;
        unchecked {
            for (; levels != 0; --levels) {
                uint256 pairs = width / 2;
                for (uint256 i; i < pairs; ++i) {
                    level[i] = pair(level[2 * i], level[2 * i + 1]);
                }
                if (width & 1 != 0) level[pairs] = pair(level[width - 1], bytes32(0));
                width = pairs + (width & 1);
            }
        }
        return level[0];
    }
}
