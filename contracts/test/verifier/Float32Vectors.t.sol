// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {F32} from "../../src/verifier/F32.sol";
import {quantise, quantisedScale} from "../../src/verifier/F32Contraction.sol";
import {log} from "../../src/verifier/F32Functions.sol";
import {Test} from "../utils/Test.sol";
import {Float32Blocks} from "./Float32Blocks.sol";
import {Float32Harness} from "./Float32Harness.sol";

/// @dev The cheatcodes that only this test uses.
interface VmFiles {
    function readFile(string calldata path) external view returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function toString(uint256 value) external pure returns (string memory);
}

/// @title The golden vectors of docs/arithmetic.md, those that CPU and CUDA kernels are compared with
/// @notice A tensor in a file is a string of 32-bit words, big-endian; a leaf is little-endian.
contract Float32VectorsTest is Test {
    VmFiles private constant files = VmFiles(address(vm));
    uint256 private constant BLOCK = 128;
    uint256 private constant CHUNK = 1024;

    Float32Harness private harness = new Float32Harness();
    Float32Blocks private blocks = new Float32Blocks();
    uint256 private compared;

    function test_vectors_scalar() external {
        string memory json = files.readFile("tests/vectors/scalar.json");
        column(json, "add", 0, 2);
        column(json, "sub", 1, 2);
        column(json, "mul", 2, 2);
        column(json, "div", 3, 2);
        column(json, "fma", 4, 3);
        column(json, "maximum", 6, 2);
        column(json, "minimum", 7, 2);
        assertTrue(compared >= 6000, "vectors");
    }

    function test_vectors_conversion() external {
        string memory json = files.readFile("tests/vectors/conversion.json");
        column(json, "sqrt", 5, 1);
        column(json, "roundToI32", 11, 1);
        column(json, "roundToU32", 12, 1);
        column(json, "fromI32", 13, 1);
        column(json, "fromU32", 14, 1);
        column(json, "f16ToF32", 15, 1);
        column(json, "bf16ToF32", 16, 1);
        assertTrue(compared >= 3000, "vectors");
    }

    function test_vectors_functions() external {
        string memory json = files.readFile("tests/vectors/functions.json");
        string[9] memory names = ["exp", "log", "tanh", "sigmoid", "silu", "erf", "geluErf", "geluTanh", "rsqrt"];
        for (uint256 i = 0; i < names.length; ++i) {
            column(json, names[i], 17 + i, 1);
        }
        assertTrue(compared >= 7500, "vectors");
    }

    function test_vectors_contraction() external view {
        string memory json = files.readFile("tests/vectors/contraction.json");
        uint256 cases;
        for (; files.keyExistsJson(json, key(cases, "x")); ++cases) {
            bytes32 format = keccak256(bytes(files.parseJsonString(json, key(cases, "weights"))));
            uint256 operation = format == keccak256("f32") ? 0 : format == keccak256("f16") ? 1 : 2;
            bytes memory x = files.parseJsonBytes(json, key(cases, "x"));
            bytes memory w = files.parseJsonBytes(json, key(cases, "w"));
            bytes memory partials = files.parseJsonBytes(json, key(cases, "partials"));
            for (uint256 b = 0; 4 * b < partials.length; ++b) {
                uint256 got = blocks.run(operation, leaf(x, b * BLOCK, BLOCK, 4), leaf(w, b * BLOCK, BLOCK, operation == 0 ? 4 : 2), "");
                expect(got, word(partials, b), key(cases, "partials"));
            }
            // C2
            expect(blocks.run(9, leaf(partials, 0, type(uint256).max / 8, 4), "", ""), scalar(json, cases, "out"), key(cases, "out"));
        }
        assertEq(cases, 37, "cases");
    }

    function test_vectors_quantised() external view {
        string memory json = files.readFile("tests/vectors/quantised.json");
        uint256 cases;
        for (; files.keyExistsJson(json, key(cases, "x")); ++cases) {
            bool group32 = keccak256(bytes(files.parseJsonString(json, key(cases, "format")))) == keccak256("q8_0");
            bytes memory values = files.parseJsonBytes(json, key(cases, "xValues"));
            bytes memory scales = files.parseJsonBytes(json, key(cases, "xScales"));
            bytes memory w = files.parseJsonBytes(json, key(cases, "w"));
            bytes memory partials = files.parseJsonBytes(json, key(cases, "partials"));
            activations(files.parseJsonBytes(json, key(cases, "x")), values, scales, group32 ? 32 : 128);
            for (uint256 b = 0; 4 * b < partials.length; ++b) {
                bytes memory stored = slice(w, b * (group32 ? 136 : 132), group32 ? 136 : 132);
                bytes memory s = group32 ? leaf(scales, 4 * b, 4, 4) : leaf(scales, b, 1, 4);
                uint256 got = blocks.run(group32 ? 3 : 4, slice(values, b * BLOCK, BLOCK), stored, s);
                expect(got, word(partials, b), key(cases, "partials"));
            }
            expect(blocks.run(9, leaf(partials, 0, type(uint256).max / 8, 4), "", ""), scalar(json, cases, "out"), key(cases, "out"));
        }
        assertEq(cases, 54, "cases");
    }

    /// Q2: the activations of a case are quantised as the file says.
    function activations(bytes memory x, bytes memory values, bytes memory scales, uint256 group) private pure {
        for (uint256 g = 0; 4 * g < scales.length; ++g) {
            F32 amax = F32.wrap(0);
            for (uint256 k = g * group; k < (g + 1) * group && 4 * k < x.length; ++k) {
                amax = amax.maximum(F32.wrap(word(x, k)).abs());
            }
            expect(F32.unwrap(quantisedScale(amax)), word(scales, g), "scale");
            for (uint256 k = g * group; k < (g + 1) * group && 4 * k < x.length; ++k) {
                int256 q = quantise(F32.wrap(word(x, k)), amax);
                // forge-lint: disable-next-line(unsafe-typecast) two's complement
                expect(uint256(q) & 0xff, uint8(values[k]), "value");
            }
        }
    }

    function test_vectors_reduction() external view {
        string memory json = files.readFile("tests/vectors/reduction.json");
        uint256 cases;
        for (; files.keyExistsJson(json, key(cases, "x")); ++cases) {
            bytes memory x = files.parseJsonBytes(json, key(cases, "x"));
            chunks(json, cases, x, 5, "sumPartials", "sum");
            chunks(json, cases, x, 6, "sumSquaresPartials", "sumSquares");
            bytes memory partials = files.parseJsonBytes(json, key(cases, "maximumPartials"));
            for (uint256 b = 0; 4 * b < partials.length; ++b) {
                expect(blocks.run(7, leaf(x, b * CHUNK, CHUNK, 4), "", ""), word(partials, b), key(cases, "maximumPartials"));
            }
            expect(blocks.run(7, leaf(partials, 0, CHUNK, 4), "", ""), scalar(json, cases, "maximum"), key(cases, "maximum"));
            uint256 index = files.parseJsonUint(json, key(cases, "argmax"));
            expect(blocks.run(8, leaf(x, 0, type(uint256).max / 8, 4), "", ""), index, key(cases, "argmax"));
        }
        assertEq(cases, 27, "cases");
    }

    function chunks(string memory json, uint256 n, bytes memory x, uint256 operation, string memory parts, string memory total)
        private
        view
    {
        bytes memory partials = files.parseJsonBytes(json, key(n, parts));
        for (uint256 b = 0; 4 * b < partials.length; ++b) {
            expect(blocks.run(operation, leaf(x, b * CHUNK, CHUNK, 4), "", ""), word(partials, b), key(n, parts));
        }
        expect(blocks.run(9, leaf(partials, 0, type(uint256).max / 8, 4), "", ""), scalar(json, n, total), key(n, total));
    }

    /// S3 and S4: the noise that sampling adds, which is two logarithms.
    function test_vectors_gumbel() external view {
        string memory json = files.readFile("tests/vectors/sampling.json");
        uint256 cases;
        for (; files.keyExistsJson(json, string.concat(".noise[", files.toString(cases), "]")); ++cases) {
            string memory prefix = string.concat(".noise[", files.toString(cases), "].");
            bytes memory uniform = files.parseJsonBytes(json, string.concat(prefix, "uniform"));
            bytes memory gumbel = files.parseJsonBytes(json, string.concat(prefix, "gumbel"));
            for (uint256 i = 0; 4 * i < uniform.length; ++i) {
                expect(F32.unwrap(-log(-log(F32.wrap(word(uniform, i))))), word(gumbel, i), prefix);
            }
        }
        assertEq(cases, 8, "cases");
    }

    // ---------------------------------------------------------------- files

    /// All vectors of one operation of the harness.
    function column(string memory json, string memory name, uint256 operation, uint256 operands) private {
        string memory prefix = string.concat(".", name, ".");
        bytes memory a = files.parseJsonBytes(json, string.concat(prefix, "a"));
        bytes memory b = operands > 1 ? files.parseJsonBytes(json, string.concat(prefix, "b")) : bytes("");
        bytes memory c = operands > 2 ? files.parseJsonBytes(json, string.concat(prefix, "c")) : bytes("");
        bytes memory want = files.parseJsonBytes(json, string.concat(prefix, "out"));
        bytes memory got = harness.run(operation, a, b, c);
        assertEq(got.length, want.length, name);
        for (uint256 i = 0; 4 * i < want.length; ++i) {
            expect(word(got, i), word(want, i), string.concat(name, ", vector ", files.toString(i)));
        }
        compared += want.length / 4;
    }

    function key(uint256 n, string memory name) private pure returns (string memory) {
        return string.concat(".cases[", files.toString(n), "].", name);
    }

    function scalar(string memory json, uint256 n, string memory name) private pure returns (uint256) {
        return word(files.parseJsonBytes(json, key(n, name)), 0);
    }

    function expect(uint256 got, uint256 want, string memory message) private pure {
        if (got != want) assertEq(got, want, message);
    }

    function word(bytes memory words, uint256 i) private pure returns (uint256 r) {
        require(4 * i + 4 <= words.length, "word behind the end");
        assembly ("memory-safe") {
            r := shr(224, mload(add(add(words, 32), shl(2, i))))
        }
    }

    /// The leaf of `count` elements of `size` bytes from `first` on, or as many as there are; an element is in the low end of its word.
    function leaf(bytes memory words, uint256 first, uint256 count, uint256 size) private pure returns (bytes memory r) {
        uint256 available = words.length / 4;
        if (first + count > available) count = available - first;
        r = new bytes(count * size);
        for (uint256 k = 0; k < count; ++k) {
            uint256 element = word(words, first + k);
            for (uint256 j = 0; j < size; ++j) {
                // forge-lint: disable-next-line(unsafe-typecast) one byte
                r[k * size + j] = bytes1(uint8(element >> (8 * j)));
            }
        }
    }

    function slice(bytes memory data, uint256 first, uint256 length) private pure returns (bytes memory r) {
        if (first + length > data.length) length = data.length - first;
        r = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            r[i] = data[first + i];
        }
    }
}
