// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32, ONE, ZERO, fromU32} from "../F32.sol";
import {exp} from "../F32Functions.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32, TYPE_I8} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of Convert, Binary, MulAdd, Select and Rope
/// @notice An element of any of them comes from the elements of its operands at the same place. Reads: one element of each operand, in their order; of Rope
/// the element, and in the part that turns the other of its pair, the cosine, the sine.
contract ElementwiseStep is StepFamily {
    uint256 private constant CONVERT = 0x06;
    uint256 private constant BINARY = 0x11;
    uint256 private constant MUL_ADD = 0x12;
    uint256 private constant SELECT = 0x13;
    uint256 private constant ROPE = 0x14;

    /// Functions of two elements.
    uint256 private constant BINARY_FUNCTIONS = 10;

    function _check(Step memory s) internal pure override {
        unchecked {
            uint256 operation = s.header.operation;
            if (operation == CONVERT) {
                _form(s, 1, 0, TYPE_F32);
                _demand(s, s.x[0].dtype != TYPE_F32);
                _shape(s, s.x[0].rows, s.x[0].cols);
            } else if (operation == BINARY) {
                _form(s, 2, 2, TYPE_F32);
                _code(s, 0, BINARY_FUNCTIONS);
                _number(s, 1);
                _checkBroadcast(s);
            } else if (operation == MUL_ADD || operation == SELECT) {
                _form(s, 3, 0, TYPE_F32);
                _checkBroadcast(s);
            } else {
                _demand(s, operation == ROPE);
                _checkRope(s);
            }
        }
    }

    /// An operand has the result's rows or one, and a number of columns that divides the result's.
    function _checkBroadcast(Step memory s) private pure {
        unchecked {
            for (uint256 i = 0; i < s.x.length; ++i) {
                Tensor memory x = s.x[i];
                _demand(s, x.dtype == TYPE_F32 && (x.rows == s.header.rows || x.rows == 1) && s.header.cols % x.cols == 0);
            }
        }
    }

    function _checkRope(Step memory s) private pure {
        unchecked {
            _form(s, 3, 2, TYPE_F32);
            (uint256 head, uint256 rotary) = (_number(s, 0), _number(s, 1));
            Tensor memory x = s.x[0];
            _demand(s, rotary >= 2 && rotary % 2 == 0 && rotary <= head && x.dtype == TYPE_F32 && x.cols % head == 0);
            for (uint256 i = 1; i < 3; ++i) {
                Tensor memory table = s.x[i];
                _demand(s, table.dtype == TYPE_F32 && table.cols == rotary / 2 && table.rows >= x.rows);
            }
            _shape(s, x.rows, x.cols);
        }
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        uint256 operation = s.header.operation;
        if (operation == CONVERT) return _convert(s);
        if (operation == BINARY) return F32.unwrap(_binary(s));
        if (operation == MUL_ADD) return F32.unwrap(_broadcast(s, 0).fma(_broadcast(s, 1), _broadcast(s, 2)));
        if (operation == SELECT) return F32.unwrap(_broadcast(s, _broadcast(s, 0) != ZERO ? 1 : 2));
        return F32.unwrap(_rope(s));
    }

    /// The element of operand `i` that belongs to the element of the result.
    function _broadcast(Step memory s, uint256 i) private pure returns (F32) {
        unchecked {
            Tensor memory x = s.x[i];
            return F32.wrap(_one(s, i, x, x.rows == 1 ? 0 : s.row, s.col / (s.header.cols / x.cols)));
        }
    }

    function _convert(Step memory s) private pure returns (uint256) {
        Tensor memory x = s.x[0];
        uint256 bits = _one(s, 0, x, s.row, s.col);
        return F32.unwrap(x.dtype == TYPE_I8 ? _signed(bits) : fromU32(bits));
    }

    function _binary(Step memory s) private pure returns (F32) {
        unchecked {
            uint256 f = _word(s, 0);
            uint256 causal = _word(s, 1);
            if (causal != 0 && s.col > s.row / causal) return ZERO;
            F32 x = _broadcast(s, 0);
            F32 y = _broadcast(s, 1);
            if (f == 0) return x + y;
            if (f == 1) return x - y;
            if (f == 2) return x * y;
            if (f == 3) return x / y;
            if (f == 4) return x.maximum(y);
            if (f == 5) return x.minimum(y);
            if (f == 6) return exp(x - y);
            return (f == 7 ? x == y : f == 8 ? x < y : x <= y) ? ONE : ZERO;
        }
    }

    /// P-32
    function _rope(Step memory s) private pure returns (F32) {
        unchecked {
            uint256 d = s.col % _word(s, 0);
            uint256 rotary = _word(s, 1);
            uint256 half = rotary / 2;
            F32 x = F32.wrap(_one(s, 0, s.x[0], s.row, s.col));
            if (d >= rotary) return x;
            bool low = d < half;
            F32 other = F32.wrap(_one(s, 1, s.x[0], s.row, low ? s.col + half : s.col - half));
            F32 cos = F32.wrap(_one(s, 2, s.x[1], s.row, d % half));
            F32 sin = F32.wrap(_one(s, 3, s.x[2], s.row, d % half));
            return low ? x * cos - other * sin : x * cos + other * sin;
        }
    }
}
