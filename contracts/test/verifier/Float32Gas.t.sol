// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {dotI8, partialBF16, partialF16, partialF32, partialQ80, partialQ8128} from "../../src/verifier/F32Contraction.sol";
import {erf, exp, geluErf, geluTanh, log, rsqrt, sigmoid, silu, tanh} from "../../src/verifier/F32Functions.sol";
import {argmax, chunkMaximum, chunkSum, chunkSumSquares} from "../../src/verifier/F32Reduction.sol";
import {F32, fromF16, fromI32} from "../../src/verifier/F32.sol";
import {Test} from "../utils/Test.sol";

/// @title What the float operations cost
/// @notice The average over operands of ordinary size, the call of the function included, frozen in contracts/snapshots/float32.json; the table of
/// docs/float32.md is made of it. Measured within one call: nothing here pays for a transaction or for calldata.
contract Float32GasTest is Test {
    string private constant GROUP = "float32";
    uint256 private constant ROUNDS = 64;

    uint256 private sink;

    /// Takes the gas since `start` for the next name; `slot` counts the operations of a round.
    function lap(uint256[40] memory sums, uint256 slot, uint256 start, F32 r) private view returns (uint256) {
        sums[slot] += start - gasleft();
        sums[39] ^= F32.unwrap(r);
        return slot + 1;
    }

    function test_gas_operations() external {
        string[22] memory label = [
            "",
            "add",
            "sub",
            "mul",
            "div",
            "fma",
            "sqrt",
            "maximum",
            "less than",
            "roundToI32",
            "fromI32",
            "fromF16",
            "fma, product zero",
            "exp",
            "log",
            "tanh",
            "sigmoid",
            "silu",
            "erf",
            "geluErf",
            "geluTanh",
            "rsqrt"
        ];
        uint256[40] memory sums;
        for (uint256 i = 0; i < ROUNDS; ++i) {
            F32 a = F32.wrap(ordinary(3 * i));
            F32 b = F32.wrap(ordinary(3 * i + 1));
            F32 c = F32.wrap(ordinary(3 * i + 2));
            uint256 k;
            uint256 g = gasleft();
            k = lap(sums, k, g, a);
            g = gasleft();
            k = lap(sums, k, g, a + b);
            g = gasleft();
            k = lap(sums, k, g, a - b);
            g = gasleft();
            k = lap(sums, k, g, a * b);
            g = gasleft();
            k = lap(sums, k, g, a / b);
            g = gasleft();
            k = lap(sums, k, g, a.fma(b, c));
            a = a.abs();
            g = gasleft();
            k = lap(sums, k, g, a.sqrt());
            a = F32.wrap(ordinary(3 * i));
            g = gasleft();
            k = lap(sums, k, g, a.maximum(b));
            g = gasleft();
            k = lap(sums, k, g, F32.wrap(a < b ? 1 : 0));
            g = gasleft();
            // forge-lint: disable-next-line(unsafe-typecast) only kept from being optimised away
            k = lap(sums, k, g, F32.wrap(uint256(a.roundToI32())));
            // forge-lint: disable-next-line(unsafe-typecast) small
            int256 integer = int256(i * i * i) - 1000;
            g = gasleft();
            k = lap(sums, k, g, fromI32(integer));
            uint256 half = 0x2000 + 97 * i;
            g = gasleft();
            k = lap(sums, k, g, fromF16(half));
            b = F32.wrap(0);
            g = gasleft();
            k = lap(sums, k, g, a.fma(b, c));
            functionsOf(sums, k, a);
        }
        for (uint256 k = 1; k < label.length; ++k) {
            vm.snapshotValue(GROUP, label[k], (sums[k] - sums[0]) / ROUNDS);
        }
        sink = sums[39];
        vm.assertLe((sums[5] - sums[0]) / ROUNDS, 500, "fma");
    }

    function functionsOf(uint256[40] memory sums, uint256 k, F32 a) private view {
        uint256 g = gasleft();
        k = lap(sums, k, g, exp(a));
        F32 positive = a.abs();
        g = gasleft();
        k = lap(sums, k, g, log(positive));
        g = gasleft();
        k = lap(sums, k, g, tanh(a));
        g = gasleft();
        k = lap(sums, k, g, sigmoid(a));
        g = gasleft();
        k = lap(sums, k, g, silu(a));
        g = gasleft();
        k = lap(sums, k, g, erf(a));
        g = gasleft();
        k = lap(sums, k, g, geluErf(a));
        g = gasleft();
        k = lap(sums, k, g, geluTanh(a));
        g = gasleft();
        k = lap(sums, k, g, rsqrt(positive));
    }

    function test_gas_blocks() external {
        bytes memory x = floats(128);
        bytes memory halves = new bytes(256);
        for (uint256 i = 0; i < 256; i += 2) {
            // forge-lint: disable-next-line(unsafe-typecast) one byte
            (halves[i], halves[i + 1]) = (bytes1(uint8(i * 7)), bytes1(uint8(0x2c + (i & 0x8c))));
        }
        bytes memory q = random(128, 7);
        block_("partialF32, 128", this.f32Block(x, floats(256, 128)), 55_000);
        block_("partialF32, 128, half of x zero", this.f32Block(halfZero(x), floats(256, 128)), 100_000);
        block_("partialF16, 128", this.f16Block(x, halves), 55_000);
        block_("partialBF16, 128", this.bf16Block(x, halves), 55_000);
        block_("dotI8, 128", this.i8Block(q, random(128, 6)), 2_000);
        block_("partialQ80, 128", this.q80Block(q, q80Weights()), 10_000);
        block_("partialQ8128, 128", this.q8128Block(q, bytes.concat(hex"0000003c", random(128, 9))), 5_000);
        block_("chunkSum, 1024", this.sumChunk(floats(1024)), 250_000);
        block_("chunkSum, 1024, one infinite", this.sumChunk(bytes.concat(floats(1023), hex"0000807f")), 800_000);
        block_("chunkSumSquares, 1024", this.squaresChunk(floats(1024)), 250_000);
        block_("chunkMaximum, 1024", this.maximumChunk(floats(1024)), 400_000);
        block_("argmax, 1024", this.argmaxChunk(floats(1024)), 320_000);
    }

    function block_(string memory name, uint256 gas, uint256 budget) private {
        vm.snapshotValue(GROUP, name, gas);
        vm.assertLe(gas, budget, name);
    }

    function f32Block(bytes calldata x, bytes calldata w) external returns (uint256 g) {
        g = gasleft();
        F32 r = partialF32(x, w);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function f16Block(bytes calldata x, bytes calldata w) external returns (uint256 g) {
        g = gasleft();
        F32 r = partialF16(x, w);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function bf16Block(bytes calldata x, bytes calldata w) external returns (uint256 g) {
        g = gasleft();
        F32 r = partialBF16(x, w);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function i8Block(bytes calldata x, bytes calldata w) external returns (uint256 g) {
        g = gasleft();
        int256 r = dotI8(x, w);
        g -= gasleft();
        // forge-lint: disable-next-line(unsafe-typecast) only kept from being optimised away
        sink = uint256(r);
    }

    function q80Block(bytes calldata x, bytes calldata w) external returns (uint256 g) {
        F32[] memory s = new F32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            s[i] = F32.wrap(0x3c123456 + i);
        }
        g = gasleft();
        F32 r = partialQ80(x, s, w);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function q8128Block(bytes calldata x, bytes calldata w) external returns (uint256 g) {
        F32 s = F32.wrap(0x3c123456);
        g = gasleft();
        F32 r = partialQ8128(x, s, w);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function sumChunk(bytes calldata x) external returns (uint256 g) {
        g = gasleft();
        F32 r = chunkSum(x);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function squaresChunk(bytes calldata x) external returns (uint256 g) {
        g = gasleft();
        F32 r = chunkSumSquares(x);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function maximumChunk(bytes calldata x) external returns (uint256 g) {
        g = gasleft();
        F32 r = chunkMaximum(x);
        g -= gasleft();
        sink = F32.unwrap(r);
    }

    function argmaxChunk(bytes calldata x) external returns (uint256 g) {
        g = gasleft();
        uint256 r = argmax(x);
        g -= gasleft();
        sink = r;
    }

    /// Magnitudes from 2^-7 to 2, either sign.
    function ordinary(uint256 i) private pure returns (uint256) {
        uint256 h = uint256(keccak256(abi.encode(i)));
        return (h & 0x83ffffff) | 0x3c000000;
    }

    function floats(uint256 count) private pure returns (bytes memory) {
        return floats(0, count);
    }

    function floats(uint256 first, uint256 count) private pure returns (bytes memory x) {
        x = new bytes(4 * count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 e = ordinary(first + i);
            for (uint256 j = 0; j < 4; ++j) {
                // forge-lint: disable-next-line(unsafe-typecast) one byte
                x[4 * i + j] = bytes1(uint8(e >> (8 * j)));
            }
        }
    }

    function halfZero(bytes memory x) private pure returns (bytes memory y) {
        y = bytes.concat(x);
        for (uint256 i = 0; i < y.length; i += 8) {
            for (uint256 j = 0; j < 4; ++j) {
                y[i + j] = 0;
            }
        }
    }

    function q80Weights() private pure returns (bytes memory w) {
        w = random(136, 8);
        for (uint256 i = 1; i < w.length; i += 34) {
            w[i] = 0x2c; // a scale of about 1/16
        }
    }

    function random(uint256 length, uint256 seed) private pure returns (bytes memory x) {
        x = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            x[i] = bytes1(uint8(uint256(keccak256(abi.encode(seed, i)))));
        }
    }
}
