// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32} from "../F32.sol";
import {BLOCK, partialBF16, partialF16, partialF32} from "../F32Contraction.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32, ceilDiv} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of Linear, AttentionScores and AttentionMix
/// @notice A partial is one block of 128 products, whatever the model. Reads: of a block the left factors and the right ones; then the bias, if
/// there is one.
contract ContractionStep is StepFamily {
    uint256 private constant LINEAR = 0x20;
    uint256 private constant SCORES = 0x21;
    uint256 private constant MIX = 0x22;

    /// Where the factors of an element begin, and how many there are.
    struct Factors {
        uint256 xRow;
        uint256 xFirst;
        uint256 wRow;
        uint256 wFirst;
        uint256 length;
    }

    function _check(Step memory s) internal pure override {
        uint256 operation = s.header.operation;
        if (operation == LINEAR) _checkLinear(s);
        else if (operation == SCORES) _checkScores(s);
        else if (operation == MIX) _checkMix(s);
        else _undefined(s);
    }

    function _checkLinear(Step memory s) private pure {
        uint256 count = s.header.operands;
        _demand(s, count == 2 || count == 3);
        _form(s, count, 0, TYPE_F32);
        (Tensor memory x, Tensor memory w) = (s.x[0], s.x[1]);
        _demand(s, w.kind == KIND_WEIGHT && w.storage_ <= STORED_BF16);
        _demand(s, x.dtype == TYPE_F32 && w.cols == x.cols && x.cols <= MAX_PARTIALS * BLOCK);
        if (count == 3) _demand(s, s.x[2].dtype == TYPE_F32 && s.x[2].rows == 1 && s.x[2].cols == w.rows);
        _shape(s, x.rows, w.rows);
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
            // forge-lint: disable-next-line(divide-before-multiply) it divides without rest
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
            if (operation == LINEAR) return Factors(row, 0, col, 0, s.x[0].cols);
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

    function _partial(Step memory s, uint256 part) internal pure override returns (F32) {
        unchecked {
            Factors memory f = _factors(s);
            uint256 first = part * BLOCK;
            uint256 count = _least(BLOCK, f.length - first);
            (Tensor memory x, Tensor memory w) = (s.x[0], s.x[1]);
            (uint256 xFirst, uint256 wFirst) = (f.xFirst + first, f.wFirst + first);
            return
                _dot(
                    x,
                    _read(s, 0, x, f.xRow, xFirst, count),
                    xFirst % BLOCK,
                    w,
                    _read(s, 1, w, f.wRow, wFirst, count),
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

    function _finish(Step memory s, F32 sum, uint256 slot) internal pure override returns (F32) {
        unchecked {
            if (s.header.operation == SCORES) return sum * F32.wrap(_word(s, 2));
            if (s.header.operands == 2) return sum;
            return sum + F32.wrap(_one(s, slot, s.x[2], 0, s.col));
        }
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        if (_parts(s) == 0) return 0;
        return F32.unwrap(_finish(s, F32.wrap(0) + _partial(s, 0), 2));
    }
}
