// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {erf, exp, geluErf, geluTanh, log, rsqrt, sigmoid, silu, tanh} from "../../src/verifier/F32Functions.sol";
import {F32, fromBF16, fromF16, fromI32, fromU32} from "../../src/verifier/F32.sol";

/// @title Every operation on whole columns of operands, for comparison with the reference
/// @notice The input of `run` is the operation's number, how many operands it takes, and the columns one after the other, each a sequence of 32-bit
/// big-endian words; the output is the column of results. Numbers are those of `OPERATIONS` in sdk/tests/evm.
contract Float32Harness {
    error UnknownOperation(uint256 operation);

    function run(uint256 operation, bytes calldata a, bytes calldata b, bytes calldata c) external pure returns (bytes memory out) {
        out = new bytes(a.length);
        for (uint256 i = 0; i < a.length; i += 4) {
            uint256 r = F32.unwrap(apply1(operation, F32.wrap(word(a, i)), F32.wrap(word(b, i)), F32.wrap(word(c, i))));
            assembly ("memory-safe") {
                let at := add(add(out, 4), i)
                mstore(at, or(and(mload(at), not(0xffffffff)), r))
            }
        }
    }

    function apply1(uint256 operation, F32 a, F32 b, F32 c) internal pure virtual returns (F32) {
        if (operation == 0) return a + b;
        if (operation == 1) return a - b;
        if (operation == 2) return a * b;
        if (operation == 3) return a / b;
        if (operation == 4) return a.fma(b, c);
        if (operation == 5) return a.sqrt();
        if (operation == 6) return a.maximum(b);
        if (operation == 7) return a.minimum(b);
        if (operation == 8) return a.abs();
        if (operation == 9) return -a;
        if (operation == 10) return relations(a, b);
        if (operation == 11) return integer(a.roundToI32());
        if (operation == 12) return F32.wrap(a.roundToU32());
        if (operation == 13) return fromI32(signed(a));
        if (operation == 14) return fromU32(F32.unwrap(a));
        if (operation == 15) return fromF16(F32.unwrap(a) & 0xffff);
        if (operation == 16) return fromBF16(F32.unwrap(a) & 0xffff);
        if (operation == 17) return exp(a);
        if (operation == 18) return log(a);
        if (operation == 19) return tanh(a);
        if (operation == 20) return sigmoid(a);
        if (operation == 21) return silu(a);
        if (operation == 22) return erf(a);
        if (operation == 23) return geluErf(a);
        if (operation == 24) return geluTanh(a);
        if (operation == 25) return rsqrt(a);
        revert UnknownOperation(operation);
    }

    /// The six comparisons as bits.
    function relations(F32 a, F32 b) private pure returns (F32) {
        uint256 r = a == b ? 1 : 0;
        if (a != b) r |= 2;
        if (a < b) r |= 4;
        if (a <= b) r |= 8;
        if (a > b) r |= 16;
        if (a >= b) r |= 32;
        return F32.wrap(r);
    }

    function signed(F32 a) private pure returns (int256 r) {
        assembly ("memory-safe") {
            r := signextend(3, a)
        }
    }

    function integer(int256 x) private pure returns (F32 r) {
        assembly ("memory-safe") {
            r := and(x, 0xffffffff)
        }
    }

    /// Zero where the column ends: an operation of one operand gets empty columns for the rest.
    function word(bytes calldata data, uint256 offset) private pure returns (uint256 r) {
        if (offset >= data.length) return 0;
        assembly ("memory-safe") {
            r := shr(224, calldataload(add(data.offset, offset)))
        }
    }
}
