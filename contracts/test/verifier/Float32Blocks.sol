// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {
    accumulate,
    dotI8,
    elementF32,
    partialBF16,
    partialF16,
    partialF32,
    partialQ80,
    partialQ8128
} from "../../src/verifier/F32Contraction.sol";
import {argmax, chunkMaximum, chunkSum, chunkSumSquares} from "../../src/verifier/F32Reduction.sol";
import {F32} from "../../src/verifier/F32.sol";

/// @title Contractions and reductions by number, for comparison with the reference
/// @notice Operands are leaves, little-endian; `s` holds the scales of quantised activations. Numbers are those of `Block` in sdk/tests/float32_evm.rs.
contract Float32Blocks {
    error UnknownOperation(uint256 operation);

    function run(uint256 operation, bytes calldata x, bytes calldata w, bytes calldata s) external pure returns (uint256) {
        if (operation == 0) return F32.unwrap(partialF32(x, w));
        if (operation == 1) return F32.unwrap(partialF16(x, w));
        if (operation == 2) return F32.unwrap(partialBF16(x, w));
        if (operation == 3) return F32.unwrap(partialQ80(x, elements(s), w));
        if (operation == 4) return F32.unwrap(partialQ8128(x, elementF32(s, 0), w));
        if (operation == 5) return F32.unwrap(chunkSum(x));
        if (operation == 6) return F32.unwrap(chunkSumSquares(x));
        if (operation == 7) return F32.unwrap(chunkMaximum(x));
        if (operation == 8) return argmax(x);
        if (operation == 9) return F32.unwrap(accumulate(elements(x)));
        if (operation == 10) return uint256(dotI8(x, w));
        revert UnknownOperation(operation);
    }

    function elements(bytes calldata s) private pure returns (F32[] memory r) {
        r = new F32[](s.length / 4);
        for (uint256 i = 0; i < r.length; ++i) {
            r[i] = elementF32(s, i);
        }
    }
}
