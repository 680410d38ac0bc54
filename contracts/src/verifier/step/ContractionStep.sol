// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32, fromBits} from "../F32.sol";
import {BLOCK, elementF32, partialBF16, partialF16, partialF32, partialQ80, partialQ8128, quantisedScale} from "../F32Contraction.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32, TYPE_I8, ceilDiv} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of Linear, AttentionScores, AttentionMix and QuantLinear
/// @notice A partial is one block of 128 products, whatever the model. Reads: of a block the left factors, the right ones, and for QuantLinear the
/// magnitudes of the left; then the bias, if there is one.
contract ContractionStep is StepFamily {
    uint256 private constant LINEAR = 0x20;
    uint256 private constant SCORES = 0x21;
    uint256 private constant MIX = 0x22;
    uint256 private constant QUANT_LINEAR = 0x25;

    /// Where the factors of an element begin, and how many there are.
    struct Factors {
        uint256 xRow;
        uint256 xFirst;
        uint256 wRow;
        uint256 wFirst;
        uint256 length;
    }

    function _check(Step memory s, IStepVerifier.Run calldata, StepProof calldata) internal pure override {
        uint256 operation = s.header.operation;
        if (operation == LINEAR) _checkLinear(s, 1);
        else if (operation == QUANT_LINEAR) _checkLinear(s, 2);
        else if (operation == SCORES) _checkScores(s);
        else if (operation == MIX) _checkMix(s);
        else _undefined(s);
    }

    /// The weights are operand `w`; behind them there may be a bias.
    function _checkLinear(Step memory s, uint256 w) private pure {
        unchecked {
            uint256 count = s.header.operands;
            _demand(s, count == w + 1 || count == w + 2);
            _form(s, count, 0, TYPE_F32);
            (Tensor memory x, Tensor memory weights) = (s.x[0], s.x[w]);
            _demand(s, weights.kind == KIND_WEIGHT && weights.cols == x.cols && x.cols <= MAX_PARTIALS * BLOCK);
            if (w == 1) {
                _demand(s, x.dtype == TYPE_F32 && weights.storage_ <= STORED_BF16);
            } else {
                _demand(s, x.dtype == TYPE_I8 && (weights.storage_ == STORED_Q8_0 || weights.storage_ == STORED_Q8_128));
                Tensor memory magnitudes = s.x[1];
                _demand(
                    s, magnitudes.dtype == TYPE_F32 && magnitudes.rows == x.rows && magnitudes.cols == ceilDiv(x.cols, _blockOf(weights))
                );
            }
            if (count == w + 2) {
                Tensor memory bias = s.x[w + 1];
                _demand(s, bias.dtype == TYPE_F32 && bias.rows == 1 && bias.cols == weights.rows);
            }
            _shape(s, x.rows, weights.rows);
        }
    }

    function _checkScores(Step memory s) private pure {
        unchecked {
            _form(s, 2, 4, TYPE_F32);
            (Tensor memory x, Tensor memory y) = (s.x[0], s.x[1]);
            (uint256 heads, uint256 group) = _heads(s);
            _demand(s, _isCanonical(_number(s, 2)));
            bool causal = _code(s, 3, 2) == 1;
            _demand(s, x.dtype == TYPE_F32 && y.dtype == TYPE_F32 && x.cols % heads == 0);
            uint256 width = x.cols / heads;
            _demand(s, y.cols == heads / group * width && (!causal || x.rows == y.rows) && width <= MAX_PARTIALS * BLOCK);
            _shape(s, x.rows * heads, y.rows);
        }
    }

    function _checkMix(Step memory s) private pure {
        unchecked {
            _form(s, 2, 3, TYPE_F32);
            (Tensor memory x, Tensor memory y) = (s.x[0], s.x[1]);
            (uint256 heads, uint256 group) = _heads(s);
            bool causal = _code(s, 2, 2) == 1;
            _demand(s, x.dtype == TYPE_F32 && y.dtype == TYPE_F32 && x.rows % heads == 0 && y.rows % (heads / group) == 0);
            uint256 queries = x.rows / heads;
            _demand(s, x.cols == y.cols && (!causal || queries == x.cols) && x.cols <= MAX_PARTIALS * BLOCK);
            _shape(s, queries, y.rows / (heads / group) * heads);
        }
    }

    function _heads(Step memory s) private pure returns (uint256 heads, uint256 group) {
        (heads, group) = (_number(s, 0), _number(s, 1));
        _demand(s, heads != 0 && group != 0 && heads % group == 0);
    }

    function _factors(Step memory s) private pure returns (Factors memory f) {
        unchecked {
            uint256 operation = s.header.operation;
            (uint256 row, uint256 col) = (s.row, s.col);
            if (operation == LINEAR || operation == QUANT_LINEAR) return Factors(row, 0, col, 0, s.x[0].cols);
            (uint256 heads, uint256 group) = (_word(s, 0), _word(s, 1));
            if (operation == SCORES) {
                uint256 width = s.x[0].cols / heads;
                f = Factors(row / heads, row % heads * width, col, row % heads / group * width, width);
                // P-33: beyond a causal row there is nothing to multiply.
                if (_word(s, 3) == 1 && col > f.xRow) f.length = 0;
            } else {
                uint256 width = s.header.cols / heads;
                uint256 head = col / width;
                // P-34: a causal sum ends at its own position.
                f = Factors(row * heads + head, 0, head / group * width + col % width, 0, _word(s, 2) == 1 ? row + 1 : s.x[0].cols);
            }
        }
    }

    function _parts(Step memory s) internal pure override returns (uint256) {
        return ceilDiv(_factors(s).length, BLOCK);
    }

    function _partial(Step memory s, IStepVerifier.Run calldata run, StepProof calldata p, uint256 part)
        internal
        pure
        override
        returns (F32)
    {
        unchecked {
            Factors memory f = _factors(s);
            uint256 first = part * BLOCK;
            uint256 count = _least(BLOCK, f.length - first);
            (Tensor memory x, Tensor memory w) = (s.x[0], s.x[1]);
            (uint256 xFirst, uint256 wFirst) = (f.xFirst + first, f.wFirst + first);
            if (s.header.operation == QUANT_LINEAR) {
                w = s.x[2];
                bytes calldata q = _read(s, run, p, 0, x, f.xRow, first, count);
                return _quantised(s, run, p, q, _read(s, run, p, 1, w, f.wRow, first, count), first);
            }
            return _dot(
                x,
                _read(s, run, p, 0, x, f.xRow, xFirst, count),
                xFirst % BLOCK,
                w,
                _read(s, run, p, 1, w, f.wRow, wFirst, count),
                wFirst % BLOCK,
                count
            );
        }
    }

    /// C1 and C3: the partial of `count` elements of leaves, from element `i` and `j` on.
    function _dot(Tensor memory x, bytes calldata xs, uint256 i, Tensor memory w, bytes calldata ws, uint256 j, uint256 count)
        private
        pure
        returns (F32 sum)
    {
        unchecked {
            if (x.storage_ == STORED_F32) {
                bytes calldata block_ = xs[4 * i:4 * (i + count)];
                if (w.storage_ == STORED_F32) return partialF32(block_, ws[4 * j:4 * (j + count)]);
                if (w.storage_ == STORED_F16) return partialF16(block_, ws[2 * j:2 * (j + count)]);
                if (w.storage_ == STORED_BF16) return partialBF16(block_, ws[2 * j:2 * (j + count)]);
            }
            for (uint256 k = 0; k < count; ++k) {
                sum = F32.wrap(_bits(x, xs, i + k)).fma(F32.wrap(_bits(w, ws, j + k)), sum);
            }
        }
    }

    /// Q6: the partial of one block of quantised factors, from column `first` on.
    function _quantised(
        Step memory s,
        IStepVerifier.Run calldata run,
        StepProof calldata p,
        bytes calldata q,
        bytes calldata w,
        uint256 first
    ) private pure returns (F32) {
        unchecked {
            Tensor memory magnitudes = s.x[1];
            uint256 group = _blockOf(s.x[2]);
            uint256 count = ceilDiv(q.length, group);
            first /= group;
            bytes calldata data = _read(s, run, p, 2, magnitudes, s.row, first, count);
            F32[] memory scales = new F32[](count);
            for (uint256 g = 0; g < count; ++g) {
                scales[g] = quantisedScale(F32.wrap(_bits(magnitudes, data, first % BLOCK + g)));
            }
            return group == 32 ? partialQ80(q, scales, w) : partialQ8128(q, scales[0], w);
        }
    }

    function _blockOf(Tensor memory w) private pure returns (uint256) {
        return w.storage_ == STORED_Q8_0 ? 32 : 128;
    }

    function _finish(Step memory s, IStepVerifier.Run calldata run, StepProof calldata p, F32 sum, uint256 slot)
        internal
        pure
        override
        returns (F32)
    {
        unchecked {
            uint256 operation = s.header.operation;
            if (operation == SCORES) return sum * F32.wrap(_word(s, 2));
            if (operation == MIX) return sum;
            uint256 bias = operation == LINEAR ? 2 : 3;
            if (s.header.operands == bias) return sum;
            return sum + F32.wrap(_one(s, run, p, slot, s.x[bias], 0, s.col));
        }
    }

    function _element(Step memory s, IStepVerifier.Run calldata run, StepProof calldata p) internal pure override returns (uint256) {
        if (_parts(s) == 0) return 0;
        F32 sum = F32.wrap(0) + _partial(s, run, p, 0);
        return F32.unwrap(_finish(s, run, p, sum, s.header.operation == QUANT_LINEAR ? 3 : 2));
    }
}
