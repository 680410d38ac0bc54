// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {Merkle} from "../../src/lib/Merkle.sol";
import {OneStepVerifier} from "../../src/verifier/OneStepVerifier.sol";
import {StepProof} from "../../src/verifier/StepProof.sol";
import {Test} from "../utils/Test.sol";
import {deployFamilies} from "./Steps.sol";

/// @dev The cheatcodes that only this test uses.
interface VmFiles {
    function readFile(string calldata path) external view returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function toString(uint256 value) external pure returns (string memory);
}

/// @title The step verifier, compiled from its sources
/// @notice One question about each operation with its answer (tests/vectors/steps*.json, made by the reference), and what is asked of a run as a whole. That
/// the verdicts are those of the reference is tested at length in `sdk/tests/verifier_evm`, on the frozen bytecode.
contract OneStepVerifierTest is Test {
    VmFiles private constant files = VmFiles(address(vm));

    OneStepVerifier private verifier = new OneStepVerifier(deployFamilies());

    // ---------------------------------------------------------------- every operation

    function test_steps_rightAndWrongOfEveryOperation() external view {
        (uint256 asked, uint256 flipped) = compare("tests/vectors/steps.json");
        (uint256 more, uint256 moreFlipped) = compare("tests/vectors/steps_generation.json");
        assertTrue(asked + more >= 30 && flipped + moreFlipped >= 28, "questions");
    }

    function compare(string memory path) private view returns (uint256 asked, uint256 flipped) {
        string memory json = files.readFile(path);
        for (; files.keyExistsJson(json, key(asked, "calldata")); ++asked) {
            bytes memory call = files.parseJsonBytes(json, key(asked, "calldata"));
            uint256 claimed = files.parseJsonUint(json, key(asked, "claimed"));
            bool wrong = files.parseJsonUint(json, key(asked, "wrong")) == 1;
            string memory name = files.parseJsonString(json, key(asked, "operation"));
            assertTrue(ask(call) == wrong, name);
            if (claimed == 0) continue;
            for (uint256 bit = 0; bit < 8; ++bit) {
                bytes1 right = call[claimed];
                call[claimed] = right ^ bytes1(uint8(1 << bit));
                assertTrue(ask(call), name);
                call[claimed] = right;
            }
            ++flipped;
        }
    }

    function ask(bytes memory call) private view returns (bool) {
        (bool answered, bytes memory answer) = address(verifier).staticcall(call);
        assertTrue(answered, "refused");
        return abi.decode(answer, (bool));
    }

    function key(uint256 i, string memory field) private pure returns (string memory) {
        return string.concat(".steps[", files.toString(i), "].", field);
    }

    // ---------------------------------------------------------------- the run as a whole

    /// A program of one node: bytes in, the same bytes out. Its trace has one tensor.
    function echo(bytes memory text) private pure returns (IStepVerifier.Run memory run, bytes memory descriptor) {
        uint256 kindBytes = 1;
        uint256 dimensionB = 1 << 128;
        descriptor = abi.encode(uint256((2 << 24) | (2 << 8) | 1), uint256(1 << 224), dimensionB, kindBytes, uint256(0));
        run.model.graphRoot = Merkle.counted(1, keccak256(abi.encodePacked(Merkle.NODE, descriptor)));
        run.model.limits.minInputBytes = 1;
        run.model.limits.maxInputBytes = 100;
        run.model.limits.maxOutputBytes = 100;
        run.inputHash = keccak256(text);
        // forge-lint: disable-next-line(unsafe-typecast) a short text
        run.claim.inputBytes = uint32(text.length);
        run.claim.prompt = run.claim.inputBytes;
        run.claim.sequence = run.claim.inputBytes;
        run.claim.nodes = 1;
        run.claim.root = keccak256(abi.encodePacked(Merkle.TRACE_LEAF, text));
        run.claim.tokensHash = keccak256("");
    }

    function opening(bytes memory descriptor) private pure returns (IStepVerifier.NodeOpening memory o) {
        o.descriptor = descriptor;
    }

    function proofOf(bytes memory descriptor, bytes memory data) private pure returns (bytes memory) {
        StepProof memory p;
        p.node = opening(descriptor);
        p.data.data = data;
        return abi.encode(p);
    }

    function test_claim_isMeasuredAgainstTheInput() external view {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        bytes memory proof = abi.encode(opening(descriptor), bytes(""));
        // As abi.encode of the struct has it: the place of the struct first.
        proof = bytes.concat(abi.encode(uint256(32)), proof);
        assertFalse(verifier.isClaimWrong(run, "hello", proof), "a right claim");
        ++run.claim.inputBytes;
        assertTrue(verifier.isClaimWrong(run, "hello", proof), "a byte more than there is");
        --run.claim.inputBytes;
        run.model.limits.minInputBytes = 6;
        assertTrue(verifier.isClaimWrong(run, "hello", proof), "a request without an answer");
    }

    function test_claim_ofAnotherInputIsRefused() external {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        bytes memory proof = bytes.concat(abi.encode(uint256(32)), abi.encode(opening(descriptor), bytes("")));
        vm.expectRevert(abi.encodeWithSelector(IStepVerifier.InvalidOpening.selector, bytes32("input")));
        verifier.isClaimWrong(run, "hallo", proof);
    }

    function test_output_isTheLastNode() external {
        (IStepVerifier.Run memory run,) = echo("hello");
        bytes memory proof = abi.encode(run.claim.root, new bytes32[](0));
        assertFalse(verifier.isOutputWrong(run, "hello", proof), "the right output");
        assertTrue(verifier.isOutputWrong(run, "hallo", proof), "another output");
        assertTrue(verifier.isOutputWrong(run, "", proof), "no output");
        proof = abi.encode(bytes32(0), new bytes32[](0));
        vm.expectRevert(abi.encodeWithSelector(IStepVerifier.InvalidOpening.selector, bytes32("output")));
        verifier.isOutputWrong(run, "hello", proof);
    }

    function test_nodes_areThoseOfTheProgram() external view {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        bytes32 root = keccak256(abi.encodePacked(Merkle.NODE, descriptor));
        assertTrue(verifier.hasNodes(run.model, 1, root), "one node");
        assertFalse(verifier.hasNodes(run.model, 2, root), "not two");
        IModelRegistry.ModelDescriptor memory empty;
        empty.graphRoot = Merkle.counted(0, 0);
        assertFalse(verifier.hasNodes(empty, 0, 0), "never none");
    }

    function test_leaves_followFromTheDescriptor() external view {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        (bool defined, uint64 leaves) = verifier.leavesOf(run, 0, opening(descriptor));
        assertTrue(defined && leaves == 1, "one leaf");
        run.claim.inputBytes = 300;
        (defined, leaves) = verifier.leavesOf(run, 0, opening(descriptor));
        assertTrue(defined && leaves == 3, "300 bytes take three");
        run.claim.inputBytes = 0;
        (defined, leaves) = verifier.leavesOf(run, 0, opening(descriptor));
        assertFalse(defined, "a tensor without columns");
        (defined, leaves) = verifier.leavesOf(run, 1, opening(descriptor));
        assertFalse(defined, "a node that does not exist");
    }

    // ---------------------------------------------------------------- one element

    function test_element_ofTheInput() external view {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        bytes memory proof = proofOf(descriptor, "hello");
        IStepVerifier.Element memory e;
        for (; e.index < 5; ++e.index) {
            assertFalse(verifier.isElementWrong(run, e, "hello", proof), "a right byte");
            assertTrue(verifier.isElementWrong(run, e, "HELLO", proof), "a wrong one");
        }
    }

    function test_element_ofMalformedClaimsIsWrong() external view {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        bytes memory proof = proofOf(descriptor, "");
        IStepVerifier.Element memory e;
        assertTrue(verifier.isElementWrong(run, e, "hell", proof), "a leaf that is too short");
        assertTrue(verifier.isElementWrong(run, e, "hello!", proof), "one that is too long");
        e.leaf = 1;
        assertTrue(verifier.isElementWrong(run, e, "hello", proof), "a leaf beyond the last");
        e = IStepVerifier.Element(1, 0, 0);
        assertTrue(verifier.isElementWrong(run, e, "hello", proof), "a node beyond the last");
    }

    function test_element_ofAnUnknownOperationIsWrong() external view {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        descriptor[31] = 0x77;
        run.model.graphRoot = Merkle.counted(1, keccak256(abi.encodePacked(Merkle.NODE, descriptor)));
        bytes memory proof = proofOf(descriptor, "");
        IStepVerifier.Element memory e;
        assertTrue(verifier.isElementWrong(run, e, "hello", proof), "element");
        assertTrue(verifier.isPartialWrong(run, e, "", 0, proof), "partial");
        assertTrue(verifier.isSumWrong(run, e, "hello", "", proof), "sum");
        assertEq(uint256(verifier.partialsOf(run, e, proof)), 0, "partials");
    }

    function test_element_withAnotherDescriptorIsRefused() external {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        IStepVerifier.Element memory e;
        for (uint256 i = 0; i < 2; ++i) {
            // An operation that exists, and one that does not.
            descriptor[31] = i == 0 ? bytes1(0x53) : bytes1(0x77);
            bytes memory proof = proofOf(descriptor, "hello");
            vm.expectRevert(abi.encodeWithSelector(IStepVerifier.InvalidOpening.selector, bytes32("node")));
            verifier.isElementWrong(run, e, "hello", proof);
        }
    }

    function test_element_withoutPartialsHasNone() external {
        (IStepVerifier.Run memory run, bytes memory descriptor) = echo("hello");
        bytes memory proof = proofOf(descriptor, "hello");
        IStepVerifier.Element memory e;
        assertEq(uint256(verifier.partialsOf(run, e, proof)), 0, "partials");
        vm.expectRevert(abi.encodeWithSelector(IStepVerifier.InvalidOpening.selector, bytes32("partials")));
        verifier.isPartialWrong(run, e, "", 0, proof);
    }

    // ---------------------------------------------------------------- deployment

    function test_families_areContracts() external {
        OneStepVerifier.Families memory families = verifier.families();
        assertTrue(families.input.code.length != 0 && families.text.code.length != 0, "code");
        families.reduction = address(0xdead);
        vm.expectRevert(abi.encodeWithSelector(OneStepVerifier.NoCode.selector, address(0xdead)));
        new OneStepVerifier(families);
    }

    /// EIP-170 and EIP-3860.
    function test_families_areSmallEnough() external view {
        OneStepVerifier.Families memory f = verifier.families();
        address[9] memory all = [f.input, f.index, f.elementwise, f.functions, f.contraction, f.quantised, f.reduction, f.sampling, f.text];
        for (uint256 i = 0; i < all.length; ++i) {
            assertTrue(all[i].code.length <= 24_576, "EIP-170");
        }
        assertTrue(address(verifier).code.length <= 24_576, "EIP-170");
    }
}
