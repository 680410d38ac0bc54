// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {Merkle} from "../../src/lib/Merkle.sol";

/// @title A judge without arithmetic: the run is a table of bytes
/// @notice A tensor has leaves of four bytes. Every third node is made of sums: its elements have two to five partials, which add up to them modulo 256.
/// A proof begins with the words that name what is proven, so a game that mixed two things up would be found out; what follows is not looked at.
contract ToyVerifier is IStepVerifier {
    using Merkle for bytes32;

    uint32 public leafSize = 4; // bytes
    uint32 public nodes;
    uint64 public leaves; // of a node that has no number of its own
    mapping(uint32 node => uint64) private _leaves; // plus 1
    mapping(uint32 node => uint32) private _parts; // of each element, where a node has a number of its own
    mapping(uint32 node => bool) public isUndefined;

    constructor(uint32 nodes_, uint64 leaves_) {
        shape(nodes_, leaves_);
    }

    /// The last node is the output: one leaf.
    function shape(uint32 nodes_, uint64 leaves_) public {
        (nodes, leaves) = (nodes_, leaves_);
        setLeaves(nodes_ - 1, 1);
    }

    function setLeaves(uint32 node, uint64 count) public {
        _leaves[node] = count + 1;
    }

    function setLeafSize(uint32 size) external {
        leafSize = size;
    }

    function setParts(uint32 node, uint32 parts) external {
        _parts[node] = parts;
    }

    function setUndefined(uint32 node) external {
        isUndefined[node] = true;
    }

    // ---------------------------------------------------------------- the truth

    function leavesOf(uint32 node) public view returns (uint64) {
        return _leaves[node] == 0 ? leaves : _leaves[node] - 1;
    }

    function partsOf(uint32 node, uint32 index) public view returns (uint32) {
        if (_parts[node] != 0) return _parts[node];
        return node % 3 == 2 ? index + 2 : 0;
    }

    function partial_(uint32 node, uint64 leaf, uint32 index, uint32 part) public pure returns (uint32) {
        return uint32(uint256(keccak256(abi.encode("partial", node, leaf, index, part))));
    }

    function element(uint32 node, uint64 leaf, uint32 index) public view returns (uint8 value) {
        uint32 parts = partsOf(node, index);
        if (parts == 0) return uint8(uint256(keccak256(abi.encode(node, leaf, index))));
        unchecked {
            for (uint32 part = 0; part < parts; ++part) {
                value += uint8(partial_(node, leaf, index, part));
            }
        }
    }

    function leafOf(uint32 node, uint64 leaf) external view returns (bytes memory data) {
        data = new bytes(leafSize);
        for (uint32 i = 0; i < data.length; ++i) {
            data[i] = bytes1(element(node, leaf, i));
        }
    }

    function partialsFor(uint32 node, uint64 leaf, uint32 index) external view returns (bytes memory data) {
        uint32 parts = partsOf(node, index);
        data = new bytes(4 * parts);
        for (uint32 part = 0; part < parts; ++part) {
            _write(data, part, partial_(node, leaf, index, part));
        }
    }

    function read(bytes memory partials, uint256 part) public pure returns (uint32 value) {
        for (uint256 i = 0; i < 4; ++i) {
            value |= uint32(uint8(partials[4 * part + i])) << uint32(8 * i);
        }
    }

    function _write(bytes memory partials, uint256 part, uint32 value) private pure {
        for (uint256 i = 0; i < 4; ++i) {
            partials[4 * part + i] = bytes1(uint8(value >> (8 * i)));
        }
    }

    // ---------------------------------------------------------------- proofs

    function descriptor(uint32 node) public pure returns (bytes memory) {
        return abi.encode("node", node);
    }

    function proofOf(Element memory e) public pure returns (bytes memory) {
        return abi.encode("element", e);
    }

    function proofOf(Element memory e, uint32 part) public pure returns (bytes memory) {
        return abi.encode("partial", e, part);
    }

    function _require(bool condition) private pure {
        if (!condition) revert InvalidOpening("toy");
    }

    function _requireProof(bytes calldata proof, bytes memory expected) private pure {
        _require(proof.length >= expected.length && keccak256(proof[:expected.length]) == keccak256(expected));
    }

    function _requireRun(Run calldata run) private view {
        _require(run.claim.nodes == nodes && run.model.arithmeticVersion == 1);
    }

    // ---------------------------------------------------------------- the judge

    function hasNodes(IModelRegistry.ModelDescriptor calldata model, uint32 nodes_, bytes32 programRoot) external view returns (bool) {
        return nodes_ == nodes && programRoot == model.graphRoot;
    }

    function leavesOf(Run calldata run, uint32 node, NodeOpening calldata opening) external view returns (bool, uint64) {
        _requireRun(run);
        _require(keccak256(opening.descriptor) == keccak256(descriptor(node)));
        if (isUndefined[node]) return (false, 0);
        return (true, leavesOf(node));
    }

    function partialsOf(Run calldata run, Element calldata e, bytes calldata proof) external view returns (uint32) {
        _requireRun(run);
        _requireProof(proof, proofOf(e));
        return partsOf(e.node, e.index);
    }

    function isClaimWrong(Run calldata run, bytes calldata input, bytes calldata proof) external view returns (bool) {
        _requireRun(run);
        _require(keccak256(input) == run.inputHash && keccak256(proof) == keccak256("claim"));
        return run.claim.inputBytes != input.length;
    }

    function isOutputWrong(Run calldata run, bytes calldata output, bytes calldata proof) external view returns (bool) {
        _requireRun(run);
        (bytes32 root,) = abi.decode(proof, (bytes32, bytes32[]));
        // The path is the second of two: its offset stands in the second word.
        bytes32[] calldata path;
        assembly ("memory-safe") {
            let at := add(proof.offset, calldataload(add(proof.offset, 0x20)))
            path.length := calldataload(at)
            path.offset := add(at, 0x20)
        }
        _require(root.fold(run.claim.nodes - 1, path) == run.claim.root);
        return Merkle.leaf(Merkle.TRACE_LEAF, output) != root;
    }

    function isElementWrong(Run calldata run, Element calldata e, bytes calldata leaf, bytes calldata proof) external view returns (bool) {
        _requireRun(run);
        _requireProof(proof, proofOf(e));
        if (leaf.length != leafSize || e.leaf >= leavesOf(e.node)) return true;
        _require(partsOf(e.node, e.index) == 0);
        return uint8(leaf[e.index]) != element(e.node, e.leaf, e.index);
    }

    function isPartialWrong(Run calldata run, Element calldata e, bytes calldata partials, uint32 part, bytes calldata proof)
        external
        view
        returns (bool)
    {
        _requireRun(run);
        _requireProof(proof, proofOf(e, part));
        return read(partials, part) != partial_(e.node, e.leaf, e.index, part);
    }

    function isSumWrong(Run calldata run, Element calldata e, bytes calldata leaf, bytes calldata partials, bytes calldata proof)
        external
        view
        returns (bool)
    {
        _requireRun(run);
        _requireProof(proof, proofOf(e));
        uint8 sum;
        unchecked {
            for (uint256 part = 0; part < partials.length / 4; ++part) {
                sum += uint8(read(partials, part));
            }
        }
        return uint8(leaf[e.index]) != sum;
    }
}
