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
    function counted(uint256 leaves, bytes32 root_) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(0x00, COUNTED)
            mstore(0x01, leaves)
            mstore(0x21, root_)
            hash := keccak256(0x00, 0x41)
            mstore(0x40, free)
        }
    }

    /// @notice Something of which the tree has one.
    function leaf(uint8 domain, bytes calldata data) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(free, domain)
            calldatacopy(add(free, 1), data.offset, data.length)
            hash := keccak256(free, add(data.length, 1))
        }
    }

    /// @notice Levels above the leaves: `ceil(log2 leaves)`; 0 for one leaf and for none.
    function height(uint256 leaves) internal pure returns (uint256 levels) {
        assembly ("memory-safe") {
            levels := mul(sub(256, clz(sub(leaves, 1))), gt(leaves, 1))
        }
    }

    /// @notice The root above the node number `index` of a level, by its siblings from below.
    function fold(bytes32 hash, uint256 index, bytes32[] calldata path) internal pure returns (bytes32 root) {
        assembly ("memory-safe") {
            root := hash
            let free := mload(0x40)
            mstore8(0x00, INNER)
            let end := add(path.offset, shl(5, path.length))
            for { let at := path.offset } lt(at, end) { at := add(at, 0x20) } {
                // The node goes to the side that its index says, the sibling to the other.
                let side := shl(5, and(index, 1))
                mstore(add(0x01, side), root)
                mstore(sub(0x21, side), calldataload(at))
                root := keccak256(0x00, 0x41)
                index := shr(1, index)
            }
            mstore(0x40, free)
        }
    }

    /// @notice The root above consecutive leaves, from number `first` on, `levels` below it. Their array is overwritten.
    /// @param path Per level: the sibling to the left of the leftmost, if that is a right child, then the sibling to the right of the rightmost, if that is a
    /// left child. Reverts if there are fewer.
    /// @return root The root.
    /// @return used How many siblings that took.
    function foldRange(bytes32[] memory leaves, uint256 first, uint256 levels, bytes32[] calldata path)
        internal
        pure
        returns (bytes32 root, uint256 used)
    {
        unchecked {
            uint256 count = leaves.length;
            for (; levels != 0; --levels) {
                uint256 from; // of the children: the next that has no parent yet
                uint256 parents;
                if (first & 1 == 1) {
                    leaves[0] = pair(path[used++], leaves[0]);
                    (from, parents) = (1, 1);
                }
                for (; from + 1 < count; from += 2) {
                    leaves[parents++] = pair(leaves[from], leaves[from + 1]);
                }
                if (from < count) leaves[parents++] = pair(leaves[from], path[used++]);
                count = parents;
                first >>= 1;
            }
            root = leaves[0];
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
