// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDisputeGame, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {Descent} from "../../src/dispute/Descent.sol";
import {Merkle} from "../../src/lib/Merkle.sol";
import {GameWorld} from "../dispute/GameWorld.sol";
import {Traces} from "../dispute/Traces.sol";

/// @title What a dispute costs, in whole transactions
/// @notice Whole disputes about one element of traces in the shapes of real models, at sizes nobody would build for a test: of the trace there are only one
/// leaf and made-up hashes beside the way up from it. The verifier is the toy, given proofs as long as real ones: this is what the game itself costs. What
/// the real verifier adds to three of the moves is in docs/gas.md.
contract DisputeGasTest is GameWorld {
    string private constant GROUP = "dispute";
    uint256 private constant MOST_MOVES = 8;
    uint256 private constant MOST_GAS = 2_000_000;
    uint256 private constant MOST_GAS_OF_ONE = 3_000_000;

    /// A program, and where in it the lie is.
    struct Shape {
        string name;
        uint32 nodes;
        uint32 node;
        uint64 leaves;
        uint32 leafSize; // bytes of the disputed leaf
        uint32 parts; // partials of the disputed element; 0: none
    }

    struct Stage {
        bytes32[] hashes;
        uint256 position;
    }

    struct Bill {
        uint256 operatorMoves;
        uint256 challengerMoves;
        uint256 operatorGas;
        uint256 challengerGas;
        uint256 largest;
    }

    uint256 private _height; // of the tree of nodes
    uint256 private _tensorHeight; // of the disputed node
    uint256 private _leafSize;
    bool private _withLeaves;

    function openingOf(uint32 node) internal view override returns (IStepVerifier.NodeOpening memory) {
        return IStepVerifier.NodeOpening(toy.descriptor(node), abi.decode(abi.encode(0x20, _height, noise(32 * _height)), (bytes32[])));
    }

    /// Bytes of which none is zero.
    function noise(uint256 size) private pure returns (bytes memory data) {
        data = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            data[i] = bytes1(uint8(1 + uint256(keccak256(abi.encode(i))) % 255));
        }
    }

    function padding() internal view override returns (bytes memory) {
        // Paths of a node, two operands, and of a leaf of each; descriptors, offsets and lengths are nearly all zero.
        uint256 hashes = 3 * _height + (_withLeaves ? _height + 2 * _tensorHeight : 0);
        return bytes.concat(noise(32 * hashes + (_withLeaves ? 2 * _leafSize : 0)), new bytes(_withLeaves ? 32 * 48 : 32 * 32));
    }

    // ---------------------------------------------------------------- a trace of which there is one way up

    /// The reveals that lead to number `index` of `count` leaves, whose hash is `hash`, from the root down.
    function _stages(bytes32 hash, uint256 index, uint256 count) private pure returns (Stage[] memory stages, bytes32 root) {
        uint256 height = Merkle.height(count);
        uint256 reveals = 0;
        for (uint256 left = height; left != 0; ++reveals) {
            left -= Descent.levelsOf(left);
        }
        stages = new Stage[](reveals);
        uint256[] memory heights = new uint256[](reveals + 1);
        heights[0] = height;
        for (uint256 i = 0; i < reveals; ++i) {
            heights[i + 1] = heights[i] - Descent.levelsOf(heights[i]);
        }
        for (uint256 i = reveals; i != 0; --i) {
            uint256 levels = heights[i - 1] - heights[i];
            uint256 place = index >> heights[i];
            uint256 first = (place >> levels) << levels;
            uint256 width = ((count - 1) >> heights[i]) + 1 - first;
            bytes32[] memory hashes = new bytes32[](width < 1 << levels ? width : 1 << levels);
            for (uint256 k = 0; k < hashes.length; ++k) {
                hashes[k] = first + k == place ? hash : keccak256(abi.encode(count, i, first + k));
            }
            stages[i - 1] = Stage(hashes, place - first);
            for (uint256 level = 0; level < levels; ++level) {
                hashes = Traces.parents(hashes);
            }
            hash = hashes[0];
        }
        root = hash;
    }

    // ---------------------------------------------------------------- a dispute

    function _dispute(Shape memory shape, bool eachMove) private {
        toy.shape(shape.nodes, 1);
        toy.setLeaves(shape.node, shape.leaves);
        toy.setLeafSize(shape.leafSize);
        if (shape.parts != 0) toy.setParts(shape.node, shape.parts);
        uint64 leaf = shape.leaves / 3;
        _height = Merkle.height(shape.nodes);
        _tensorHeight = Merkle.height(shape.leaves);
        _leafSize = shape.leafSize;
        bytes memory shown = toy.leafOf(shape.node, leaf);
        shown[0] ^= 0x10;
        bytes32 hash = keccak256(abi.encodePacked(Merkle.TRACE_LEAF, shown));
        (Stage[] memory inner, bytes32 tensor) = _stages(hash, leaf, shape.leaves);
        (Stage[] memory outer, bytes32 root) = _stages(tensor, shape.node, shape.nodes);
        string memory each = eachMove ? shape.name : "";

        Bill memory bill;
        Play memory p = posted("a lie");
        challenge(p, carol);
        _challengers(bill, each, "challenge");
        IStepVerifier.Claim memory c = IStepVerifier.Claim(1, 1, uint32(input().length), 0, shape.nodes, root, keccak256(""));
        claim(p, c, outer[0].hashes);
        _operators(bill, each, "claim");
        for (uint256 i = 0; i < outer.length; ++i) {
            if (i != 0) {
                reveal(p, outer[i].hashes);
                _operators(bill, each, "reveal");
            }
            select(p, outer[i].position);
            _challengers(bill, each, i + 1 == outer.length ? "selectNode" : "select");
        }
        for (uint256 i = 0; i < inner.length; ++i) {
            reveal(p, inner[i].hashes);
            _operators(bill, each, "reveal");
            select(p, inner[i].position);
            _challengers(bill, each, "select");
        }
        revealLeaf(p, shown);
        _operators(bill, each, "revealLeaf");
        _withLeaves = shape.parts == 0;
        if (shape.parts == 0) {
            prove(p, refuteElement(p, 0));
        } else {
            selectElement(p, 0);
            _challengers(bill, each, "selectElement");
            bytes memory partials = toy.partialsFor(shape.node, leaf, 0);
            partials[0] ^= 0x10;
            _withLeaves = true;
            revealPartials(p, partials);
            _operators(bill, each, "revealPartials");
            prove(p, refutePartial(p, 0));
        }
        _challengers(bill, each, "prove");
        reject(p);
        _challengers(bill, each, "reject");
        _note(shape.name, "moves, operator", bill.operatorMoves);
        _note(shape.name, "moves, challenger", bill.challengerMoves);
        _note(shape.name, "gas, operator", bill.operatorGas);
        _note(shape.name, "gas, challenger", bill.challengerGas);
        _note(shape.name, "gas, both", bill.operatorGas + bill.challengerGas);
        _note(shape.name, "gas, largest", bill.largest);
        vm.assertLe(bill.operatorMoves, MOST_MOVES, "the operator's moves");
        vm.assertLe(bill.operatorGas + bill.challengerGas, MOST_GAS, "gas in all");
        vm.assertLe(bill.largest, MOST_GAS_OF_ONE, "gas of one");
    }

    function _note(string memory shape, string memory what, uint256 value) private {
        vm.snapshotValue(GROUP, string.concat(shape, ": ", what), value);
    }

    function _operators(Bill memory bill, string memory each, string memory move) private {
        bill.operatorMoves += 1;
        bill.operatorGas += moveGas;
        _move(bill, each, move);
    }

    function _challengers(Bill memory bill, string memory each, string memory move) private {
        bill.challengerMoves += 1;
        bill.challengerGas += moveGas;
        _move(bill, each, move);
    }

    function _move(Bill memory bill, string memory each, string memory move) private {
        if (moveGas > bill.largest) bill.largest = moveGas;
        if (bytes(each).length != 0) _note(each, move, moveGas);
    }

    // ---------------------------------------------------------------- shapes
    // Nodes as the importers of this repository make them: 12 and 25 for the embedded models; 26 + 35 a layer for a BERT, 19 + 33 a layer for a Llama.

    function test_gas_disputeCredit() external {
        _dispute(Shape("credit, a linear layer", 12, 7, 1, 4 * 16, 0), false);
    }

    function test_gas_disputeDigits() external {
        _dispute(Shape("digits, a convolution", 25, 4, 576, 4 * 8, 0), false);
    }

    function test_gas_disputeMiniLM() external {
        _dispute(Shape("MiniLM, 128 tokens, a feed-forward layer", 236, 150, 128 * 12, 4 * 128, 3), false);
    }

    function test_gas_disputeSmolLM2() external {
        _dispute(Shape("SmolLM2-135M, 256 tokens, the logits", 1009, 1000, 256 * 384, 4 * 128, 5), false);
    }

    function test_gas_dispute1B() external {
        _dispute(Shape("Llama 1B, 1024 tokens, the logits", 547, 538, 1024 * 1002, 4 * 128, 16), true);
    }

    function test_gas_dispute8B() external {
        _dispute(Shape("Llama 8B, 1024 tokens, the logits", 1075, 1066, 1024 * 1002, 4 * 128, 32), false);
    }
}
