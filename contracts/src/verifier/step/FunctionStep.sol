// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32, ZERO} from "../F32.sol";
import {erf, exp, geluErf, geluTanh, log, rsqrt, sigmoid, silu, tanh} from "../F32Functions.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of Unary
/// @notice Reads one element.
contract FunctionStep is StepFamily {
    uint256 private constant UNARY = 0x10;
    uint256 private constant UNARY_FUNCTIONS = 13;

    function _check(Step memory s) internal pure override {
        _demand(s, s.header.operation == UNARY);
        _form(s, 1, 1, TYPE_F32);
        _code(s, 0, UNARY_FUNCTIONS);
        Tensor memory x = s.x[0];
        _demand(s, x.dtype == TYPE_F32);
        _shape(s, x.rows, x.cols);
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        return F32.unwrap(_function(_word(s, 0), F32.wrap(_one(s, 0, s.x[0], s.row, s.col))));
    }

    function _function(uint256 f, F32 x) private pure returns (F32) {
        if (f == 0) return -x;
        if (f == 1) return x.abs();
        if (f == 2) return x.maximum(ZERO);
        if (f == 3) return x.sqrt();
        if (f == 4) return rsqrt(x);
        if (f == 5) return exp(x);
        if (f == 6) return log(x);
        if (f == 7) return tanh(x);
        if (f == 8) return sigmoid(x);
        if (f == 9) return silu(x);
        if (f == 10) return erf(x);
        return f == 11 ? geluErf(x) : geluTanh(x);
    }
}
