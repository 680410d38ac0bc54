// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IModelRegistry} from "../interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../interfaces/IStepVerifier.sol";
import {Limits} from "../Types.sol";
import {Merkle} from "../lib/Merkle.sol";
import {ClaimProof, StepProof} from "./StepProof.sol";
import {Header, LEAF, ceilDiv, header} from "./step/Descriptor.sol";
import {INPUT_TOKENS, isInputFormed} from "./step/InputStep.sol";
import {openNode} from "./step/StepFamily.sol";

/// @title Recomputes one element of any node of any run
/// @notice Knows which family of operations judges a step and hands it the whole call; answers itself what is asked of no operation in particular. All
/// contracts are stateless, and the addresses fixed for good.
contract OneStepVerifier is IStepVerifier {
    /// The judges, by family.
    struct Families {
        address input;
        address index;
        address elementwise;
        address functions;
        address contraction;
        address quantised;
        address reduction;
        address sampling;
        address text;
    }

    uint256 private constant OPERATION_INPUT = 0x01;

    address private immutable INPUT;
    address private immutable INDEX;
    address private immutable ELEMENTWISE;
    address private immutable FUNCTIONS;
    address private immutable CONTRACTION;
    address private immutable QUANTISED;
    address private immutable REDUCTION;
    address private immutable SAMPLING;
    address private immutable TEXT;

    error NoCode(address family);

    constructor(Families memory families_) {
        INPUT = _withCode(families_.input);
        INDEX = _withCode(families_.index);
        ELEMENTWISE = _withCode(families_.elementwise);
        FUNCTIONS = _withCode(families_.functions);
        CONTRACTION = _withCode(families_.contraction);
        QUANTISED = _withCode(families_.quantised);
        REDUCTION = _withCode(families_.reduction);
        SAMPLING = _withCode(families_.sampling);
        TEXT = _withCode(families_.text);
    }

    /// @notice The contracts that judge.
    function families() external view returns (Families memory) {
        return Families(INPUT, INDEX, ELEMENTWISE, FUNCTIONS, CONTRACTION, QUANTISED, REDUCTION, SAMPLING, TEXT);
    }

    // ---------------------------------------------------------------- the run as a whole

    /// @inheritdoc IStepVerifier
    function hasNodes(IModelRegistry.ModelDescriptor calldata model, uint32 nodes, bytes32 programRoot) external pure returns (bool) {
        return nodes != 0 && Merkle.counted(nodes, programRoot) == model.graphRoot;
    }

    /// @inheritdoc IStepVerifier
    function leavesOf(Run calldata run, uint32 node, NodeOpening calldata opening) external view returns (bool defined, uint64 leaves) {
        if (node >= run.claim.nodes) return (false, 0);
        openNode(run, node, opening.descriptor, opening.path);
        Header memory h;
        (defined, h) = header(opening.descriptor, run.claim);
        if (!defined || _familyOf(h.operation) == address(0)) return (false, 0);
        unchecked {
            // forge-lint: disable-next-line(unsafe-typecast) at most MAX_ELEMENTS
            leaves = uint64(h.rows * ceilDiv(h.cols, LEAF));
        }
    }

    /// @inheritdoc IStepVerifier
    function isClaimWrong(Run calldata run, bytes calldata input, bytes calldata proof) external pure returns (bool) {
        ClaimProof calldata p;
        assembly ("memory-safe") {
            p := add(proof.offset, calldataload(proof.offset))
        }
        Claim calldata claim = run.claim;
        if (keccak256(input) != run.inputHash) revert InvalidOpening("input");
        if (keccak256(p.tokens) != claim.tokensHash) revert InvalidOpening("tokens");
        openNode(run, 0, p.node.descriptor, p.node.path);

        // P-4, P-30
        (bool formed, Header memory h) = header(p.node.descriptor, claim);
        if (!formed || h.operation != OPERATION_INPUT || h.operands != 0 || h.attributes != 2) return true;
        uint256 kind = uint256(bytes32(p.node.descriptor[96:128]));
        if (!isInputFormed(h, kind, uint256(bytes32(p.node.descriptor[128:160])), claim)) return true;

        // P-10, P-15
        Limits calldata limits = run.model.limits;
        uint256 size = input.length;
        if (claim.inputBytes != size || size < limits.minInputBytes || size > limits.maxInputBytes) return true;
        if (kind == INPUT_TOKENS) {
            if (size % 4 != 0 || claim.prompt != size / 4) return true;
        } else {
            if (claim.prompt != size) return true;
        }

        // P-13, P-14
        if (claim.sequence < claim.prompt) return true;
        unchecked {
            uint256 generated = claim.sequence - claim.prompt;
            if (p.tokens.length != 4 * generated) return true;
            if (limits.maxTokens == 0) return generated != 0;
            if (generated == 0 || generated > run.params.maxTokens || generated > limits.maxTokens) return true;
        }
        // As bits: finite and not negative; from +0 to 1.
        return run.params.temperature >= 0x7f800000 || run.params.minP > 0x3f800000;
    }

    /// @inheritdoc IStepVerifier
    function isOutputWrong(Run calldata run, bytes calldata output, bytes calldata proof) external pure returns (bool) {
        (bytes32 root, bytes32[] memory path) = abi.decode(proof, (bytes32, bytes32[]));
        unchecked {
            uint256 nodes = run.claim.nodes;
            if (path.length != Merkle.height(nodes)) revert InvalidOpening("output");
            bytes32 hash = root;
            for (uint256 i = 0; i < path.length; ++i) {
                hash = ((nodes - 1) >> i) & 1 == 0 ? Merkle.pair(hash, path[i]) : Merkle.pair(path[i], hash);
            }
            if (hash != run.claim.root) revert InvalidOpening("output");
        }
        return _rootOf(output) != root;
    }

    /// P-54: the root of one row of bytes.
    function _rootOf(bytes calldata output) private pure returns (bytes32) {
        unchecked {
            uint256 width = ceilDiv(output.length, LEAF);
            if (width == 0) return 0;
            bytes32[] memory level = new bytes32[](width);
            for (uint256 i = 0; i < width; ++i) {
                uint256 end = (i + 1) * LEAF;
                level[i] = Merkle.leaf(Merkle.TRACE_LEAF, output[i * LEAF:end < output.length ? end : output.length]);
            }
            for (; width > 1; width = (width + 1) / 2) {
                for (uint256 i = 0; i < width; i += 2) {
                    level[i / 2] = Merkle.pair(level[i], i + 1 < width ? level[i + 1] : bytes32(0));
                }
            }
            return level[0];
        }
    }

    // ---------------------------------------------------------------- one element

    /// @inheritdoc IStepVerifier
    function partialsOf(Run calldata run, Element calldata element, bytes calldata proof) external view returns (uint32) {
        address family = _family(run, element, proof);
        if (family == address(0)) return 0;
        _forward(family);
    }

    /// @inheritdoc IStepVerifier
    function isElementWrong(Run calldata run, Element calldata element, bytes calldata, bytes calldata proof) external view returns (bool) {
        address family = _family(run, element, proof);
        if (family == address(0)) return true;
        _forward(family);
    }

    /// @inheritdoc IStepVerifier
    function isPartialWrong(Run calldata run, Element calldata element, bytes calldata, uint32, bytes calldata proof)
        external
        view
        returns (bool)
    {
        address family = _family(run, element, proof);
        if (family == address(0)) return true;
        _forward(family);
    }

    /// @inheritdoc IStepVerifier
    function isSumWrong(Run calldata run, Element calldata element, bytes calldata, bytes calldata, bytes calldata proof)
        external
        view
        returns (bool)
    {
        address family = _family(run, element, proof);
        if (family == address(0)) return true;
        _forward(family);
    }

    /// Who judges the step; nobody if there is no such node or operation, so that the step is undefined.
    function _family(Run calldata run, Element calldata element, bytes calldata proof) private view returns (address family) {
        if (element.node >= run.claim.nodes) return address(0);
        StepProof calldata p;
        assembly ("memory-safe") {
            p := add(proof.offset, calldataload(proof.offset))
        }
        bytes calldata descriptor = p.node.descriptor;
        if (descriptor.length >= 32) family = _familyOf(uint8(descriptor[31]));
        // INVARIANT: that it is nobody is only believed of the node itself. A family opens it again.
        if (family == address(0)) openNode(run, element.node, descriptor, p.node.path);
    }

    function _familyOf(uint256 operation) private view returns (address) {
        if (operation == OPERATION_INPUT || operation == 0x53) return INPUT;
        if (operation >= 0x02 && operation <= 0x05) return INDEX;
        if (operation == 0x06 || (operation >= 0x11 && operation <= 0x14)) return ELEMENTWISE;
        if (operation == 0x10) return FUNCTIONS;
        if (operation >= 0x20 && operation <= 0x22) return CONTRACTION;
        if (operation >= 0x23 && operation <= 0x25) return QUANTISED;
        if (operation >= 0x30 && operation <= 0x33) return REDUCTION;
        if (operation >= 0x40 && operation <= 0x42) return SAMPLING;
        if (operation >= 0x50 && operation <= 0x52) return TEXT;
        return address(0);
    }

    /// Asks a family the same question, and returns or reverts as it does.
    function _forward(address family) private view {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, 0, calldatasize())
            let answered := staticcall(gas(), family, free, calldatasize(), 0, 0)
            returndatacopy(free, 0, returndatasize())
            if iszero(answered) { revert(free, returndatasize()) }
            return(free, returndatasize())
        }
    }

    function _withCode(address family) private view returns (address) {
        if (family.code.length == 0) revert NoCode(family);
        return family;
    }
}
