// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Params} from "../Types.sol";
import {IModelRegistry} from "./IModelRegistry.sol";

/// @title The judge of a dispute: whether one piece of a claimed run is wrong
/// @notice Everything is decided from a model id, a request and what the operator itself has claimed, by recomputing one element, or one block of one. The
/// rules are those of docs/arithmetic.md and docs/program.md; what a proof opens is the last column of the table of operations there.
/// @dev Three outcomes, never confused: `true`, the piece is wrong (which includes one whose step is undefined, P-61); `false`, it is right; a revert, the
/// proof opens something else than what is asked for. Nothing that a challenger brings is believed unless it leads to a root in `Run`.
interface IStepVerifier {
    /// @notice What an operator says a run was. The trace root is `H(07, sequence || prompt || inputBytes || outputBytes || root)` (P-55).
    struct Claim {
        uint32 sequence; // S: positions
        uint32 prompt; // P: positions of the prompt
        uint32 inputBytes; // B
        uint32 outputBytes; // O: bytes of the generated text; 0 if there is none
        uint32 nodes; // of the program
        bytes32 root; // of the tree over the roots of the nodes
        bytes32 tokensHash; // keccak256 of the generated tokens, four bytes big-endian each
    }

    /// @notice All that determines the right value of every element.
    struct Run {
        IModelRegistry.ModelDescriptor model;
        bytes32 inputHash;
        bytes32 seed;
        Params params;
        Claim claim;
    }

    /// @notice A node's descriptor and its path in the program (P-50).
    struct NodeOpening {
        bytes descriptor;
        bytes32[] path;
    }

    /// @notice One element of the trace, as the descent arrived at it.
    struct Element {
        uint32 node;
        uint64 leaf; // number of the leaf in its tensor (P-47)
        uint32 index; // in the leaf
    }

    error InvalidOpening(bytes32 what);

    /// @notice Whether the program of `model` has so many nodes: `programRoot` is the root of the tree over their descriptors.
    function hasNodes(IModelRegistry.ModelDescriptor calldata model, uint32 nodes, bytes32 programRoot) external view returns (bool);

    /// @notice How many leaves a node's tensor has. `defined` is false where the node does not exist, or descriptor or shape are malformed: then whatever was
    /// claimed of it is wrong.
    function leavesOf(Run calldata run, uint32 node, NodeOpening calldata opening) external view returns (bool defined, uint64 leaves);

    /// @notice How many partials an operator must reveal of an element; 0 if it can be recomputed in one go, or is wrong whatever it is.
    /// @param proof `abi.encode(StepProof)` with the node and its operands; how long a sum is stands in the descriptors of these.
    function partialsOf(Run calldata run, Element calldata element, bytes calldata proof) external view returns (uint32);

    /// @notice Whether the claim is not one that the request allows: symbols that do not follow from input and tokens (P-63), or a request without an answer
    /// (P-15) as far as that shows without looking at an element.
    /// @param input The request's input; its keccak256 is `run.inputHash`, which the verifier checks.
    /// @param proof `abi.encode(ClaimProof)`
    function isClaimWrong(Run calldata run, bytes calldata input, bytes calldata proof) external view returns (bool);

    /// @notice Whether the last node of the claimed trace is not `output`.
    /// @param proof `abi.encode(bytes32 root, bytes32[] path)`: the claimed root of the last node and its path to `run.claim.root`.
    function isOutputWrong(Run calldata run, bytes calldata output, bytes calldata proof) external view returns (bool);

    /// @notice Whether an element without partials is wrong.
    /// @param leaf The bytes of its leaf, as the operator revealed them; the caller has checked their hash.
    /// @param proof Here and below `abi.encode(StepProof)`, see StepProof.sol.
    function isElementWrong(Run calldata run, Element calldata element, bytes calldata leaf, bytes calldata proof)
        external
        view
        returns (bool);

    /// @notice Whether partial number `part` of an element is wrong.
    /// @param partials As the operator revealed them: four bytes little-endian each.
    function isPartialWrong(Run calldata run, Element calldata element, bytes calldata partials, uint32 part, bytes calldata proof)
        external
        view
        returns (bool);

    /// @notice Whether the partials do not make up the element that the operator revealed.
    function isSumWrong(Run calldata run, Element calldata element, bytes calldata leaf, bytes calldata partials, bytes calldata proof)
        external
        view
        returns (bool);
}
