// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32} from "../F32.sol";
import {BLOCK, partialQ80, partialQ8128, quantise, quantisedScale} from "../F32Contraction.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32, TYPE_I8, ceilDiv} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of BlockAbsMax, Quantise and QuantLinear
/// @notice Reads: of BlockAbsMax the block; of Quantise the element and the magnitude of its block; of a partial of QuantLinear, 128 products, the left factors,
/// the weights and the magnitudes of the left; then the bias, if there is one.
contract QuantisedStep is StepFamily {
    uint256 private constant BLOCK_ABS_MAX = 0x23;
    uint256 private constant QUANTISE = 0x24;
    uint256 private constant QUANT_LINEAR = 0x25;

    function _check(Step memory s) internal pure override {
        unchecked {
            uint256 operation = s.header.operation;
            if (operation == QUANT_LINEAR) {
                _checkLinear(s);
                return;
            }
            _demand(s, operation == BLOCK_ABS_MAX || operation == QUANTISE);
            if (operation == QUANTISE) _form(s, 2, 1, TYPE_I8);
            else _form(s, 1, 1, TYPE_F32);
            Tensor memory x = s.x[0];
            uint256 size = _number(s, 0);
            _demand(s, x.dtype == TYPE_F32 && (size == 32 || size == 128));
            if (operation == BLOCK_ABS_MAX) {
                _shape(s, x.rows, ceilDiv(x.cols, size));
            } else {
                _checkMagnitudes(s, size);
                _shape(s, x.rows, x.cols);
            }
        }
    }

    /// Operand 1 has a magnitude for each block of operand 0.
    function _checkMagnitudes(Step memory s, uint256 size) private pure {
        (Tensor memory x, Tensor memory magnitudes) = (s.x[0], s.x[1]);
        _demand(s, magnitudes.dtype == TYPE_F32 && magnitudes.rows == x.rows && magnitudes.cols == ceilDiv(x.cols, size));
    }

    function _checkLinear(Step memory s) private pure {
        uint256 count = s.header.operands;
        _demand(s, count == 3 || count == 4);
        _form(s, count, 0, TYPE_F32);
        (Tensor memory x, Tensor memory w) = (s.x[0], s.x[2]);
        _demand(s, w.kind == KIND_WEIGHT && (w.storage_ == STORED_Q8_0 || w.storage_ == STORED_Q8_128));
        _demand(s, x.dtype == TYPE_I8 && w.cols == x.cols && x.cols <= MAX_PARTIALS * BLOCK);
        _checkMagnitudes(s, _groupOf(w));
        if (count == 4) _demand(s, s.x[3].dtype == TYPE_F32 && s.x[3].rows == 1 && s.x[3].cols == w.rows);
        _shape(s, x.rows, w.rows);
    }

    /// Elements that share a scale.
    function _groupOf(Tensor memory w) private pure returns (uint256) {
        return w.storage_ == STORED_Q8_0 ? 32 : 128;
    }

    function _parts(Step memory s) internal pure override returns (uint256) {
        return s.header.operation == QUANT_LINEAR ? ceilDiv(s.x[0].cols, BLOCK) : 0;
    }

    /// Q6
    function _partial(Step memory s, uint256 part) internal pure override returns (F32) {
        unchecked {
            Tensor memory magnitudes = s.x[1];
            Tensor memory w = s.x[2];
            uint256 group = _groupOf(w);
            uint256 first = part * BLOCK;
            uint256 count = _least(BLOCK, s.x[0].cols - first);
            bytes calldata q = _read(s, 0, s.x[0], s.row, first, count);
            bytes calldata weights = _read(s, 1, w, s.col, first, count);
            first /= group;
            count = ceilDiv(count, group);
            bytes calldata data = _read(s, 2, magnitudes, s.row, first, count);
            F32[] memory scales = new F32[](count);
            for (uint256 g = 0; g < count; ++g) {
                scales[g] = quantisedScale(F32.wrap(_bits(magnitudes, data, first % LEAF + g)));
            }
            return group == 32 ? partialQ80(q, scales, weights) : partialQ8128(q, scales[0], weights);
        }
    }

    function _finish(Step memory s, F32 sum, uint256 slot) internal pure override returns (F32) {
        if (s.header.operands == 3) return sum;
        return sum + F32.wrap(_one(s, slot, s.x[3], 0, s.col));
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        uint256 operation = s.header.operation;
        if (operation == BLOCK_ABS_MAX) return _blockAbsMax(s);
        if (operation == QUANT_LINEAR) return F32.unwrap(_finish(s, F32.wrap(0) + _partial(s, 0), 3));
        F32 x = F32.wrap(_one(s, 0, s.x[0], s.row, s.col));
        F32 magnitude = F32.wrap(_one(s, 1, s.x[1], s.row, s.col / _word(s, 0)));
        // forge-lint: disable-next-line(unsafe-typecast) the byte of a number from -127 to 127
        return uint256(quantise(x, magnitude)) & 0xff;
    }

    /// Q2: the largest magnitude, from +0.
    function _blockAbsMax(Step memory s) private pure returns (uint256) {
        unchecked {
            Tensor memory x = s.x[0];
            uint256 size = _word(s, 0);
            uint256 first = s.col * size;
            uint256 count = _least(size, x.cols - first);
            bytes calldata data = _read(s, 0, x, s.row, first, count);
            F32 most;
            for (uint256 k = 0; k < count; ++k) {
                most = most.maximum(F32.wrap(_bits(x, data, first % LEAF + k)).abs());
            }
            return F32.unwrap(most);
        }
    }
}
