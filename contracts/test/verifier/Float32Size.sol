// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {erf, exp, geluErf, geluTanh, log, rsqrt, sigmoid, silu, tanh} from "../../src/verifier/F32Functions.sol";
import {F32} from "../../src/verifier/F32.sol";

/// @title All functions in one contract, to see their size: `contracts/tools/forge build --sizes contracts/test/verifier`
contract Float32Size {
    function run(uint256 f, F32 x) external pure returns (F32) {
        if (f == 0) return exp(x);
        if (f == 1) return log(x);
        if (f == 2) return tanh(x);
        if (f == 3) return sigmoid(x);
        if (f == 4) return silu(x);
        if (f == 5) return erf(x);
        if (f == 6) return geluErf(x);
        if (f == 7) return geluTanh(x);
        return rsqrt(x);
    }
}
