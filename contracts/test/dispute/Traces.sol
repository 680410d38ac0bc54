// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Descent} from "../../src/dispute/Descent.sol";
import {Merkle} from "../../src/lib/Merkle.sol";
import {ToyVerifier} from "./ToyVerifier.sol";

/// @notice What somebody holds the run for: the bytes of every leaf of every node, and the trees over them, from the leaves up.
struct Trace {
    bytes[][] leaves;
    bytes32[][][] tensors;
    bytes32[][] top;
}

/// @title Traces of the toy's run, as an operator and a challenger keep them
library Traces {
    /// The right one.
    function truth(ToyVerifier toy) internal view returns (Trace memory trace) {
        uint32 nodes = toy.nodes();
        trace.leaves = new bytes[][](nodes);
        for (uint32 node = 0; node < nodes; ++node) {
            uint64 count = toy.leavesOf(node);
            trace.leaves[node] = new bytes[](count);
            for (uint64 leaf = 0; leaf < count; ++leaf) {
                trace.leaves[node][leaf] = toy.leafOf(node, leaf);
            }
        }
        build(trace);
    }

    /// One bit of one byte is another.
    function lie(Trace memory trace, uint256 node, uint256 leaf, uint256 index) internal pure returns (Trace memory) {
        trace.leaves[node][leaf][index] ^= 0x10;
        return build(trace);
    }

    function copy(Trace memory trace) internal pure returns (Trace memory) {
        return abi.decode(abi.encode(trace), (Trace));
    }

    function build(Trace memory trace) internal pure returns (Trace memory) {
        uint256 nodes = trace.leaves.length;
        trace.tensors = new bytes32[][][](nodes);
        bytes32[] memory roots = new bytes32[](nodes);
        for (uint256 node = 0; node < nodes; ++node) {
            bytes32[] memory hashes = new bytes32[](trace.leaves[node].length);
            for (uint256 leaf = 0; leaf < hashes.length; ++leaf) {
                hashes[leaf] = keccak256(bytes.concat(bytes1(Merkle.TRACE_LEAF), trace.leaves[node][leaf]));
            }
            trace.tensors[node] = tree(hashes);
            roots[node] = root(trace.tensors[node]);
        }
        trace.top = tree(roots);
        return trace;
    }

    function root(Trace memory trace) internal pure returns (bytes32) {
        return root(trace.top);
    }

    // ---------------------------------------------------------------- trees

    /// P-45: all levels, from the leaves up.
    function tree(bytes32[] memory hashes) internal pure returns (bytes32[][] memory levels) {
        uint256 height = Merkle.height(hashes.length);
        levels = new bytes32[][](height + 1);
        levels[0] = hashes;
        for (uint256 level = 0; level < height; ++level) {
            levels[level + 1] = parents(levels[level]);
        }
    }

    function root(bytes32[][] memory levels) internal pure returns (bytes32) {
        bytes32[] memory highest = levels[levels.length - 1];
        return highest.length == 0 ? bytes32(0) : highest[0];
    }

    function parents(bytes32[] memory row) internal pure returns (bytes32[] memory above) {
        above = new bytes32[]((row.length + 1) / 2);
        for (uint256 i = 0; i < above.length; ++i) {
            above[i] = Merkle.pair(row[2 * i], 2 * i + 1 < row.length ? row[2 * i + 1] : bytes32(0));
        }
    }

    /// What a reveal shows below the subtree `index` that is `height` levels high.
    function revealed(bytes32[][] memory levels, uint256 height, uint256 index) internal pure returns (bytes32[] memory hashes) {
        uint256 deep = Descent.levelsOf(height);
        bytes32[] memory row = levels[height - deep];
        uint256 from = index << deep;
        uint256 count = row.length - from < 1 << deep ? row.length - from : 1 << deep;
        hashes = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            hashes[i] = row[from + i];
        }
    }

    /// From number `position` of the revealed hashes up to the subtree.
    function pathOf(bytes32[] memory hashes, uint256 position, uint256 levels) internal pure returns (bytes32[] memory path) {
        path = new bytes32[](levels);
        for (uint256 level = 0; level < levels; ++level) {
            uint256 sibling = position ^ 1;
            if (sibling < hashes.length) path[level] = hashes[sibling];
            hashes = parents(hashes);
            position >>= 1;
        }
    }
}
