// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {StepProof} from "../StepProof.sol";
import {MAX_DIM, TYPE_F32, TYPE_U32, dimension, length} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of View, Concat, Gather and Take
/// @notice An element of any of them is one element of a source, or a fill. Reads: of View and Concat that element, if there is one; of Gather and Take the
/// index, then the element.
contract IndexStep is StepFamily {
    uint256 private constant VIEW = 0x02;
    uint256 private constant CONCAT = 0x03;
    uint256 private constant GATHER = 0x04;
    uint256 private constant TAKE = 0x05;

    /// P-31
    uint256 private constant MAX_DIGITS = 8;
    uint256 private constant MAX_AXES = 8;
    /// Words of an axis: size, offset, row weight, column weight, steps.
    uint256 private constant AXIS = 5;

    function _check(Step memory s) internal pure override {
        uint256 operation = s.header.operation;
        if (operation == VIEW) {
            // The map itself is checked where it is followed.
            _demand(s, s.header.operands == 1);
            _form(s, 1, s.header.attributes, s.x[0].dtype);
        } else if (operation == CONCAT) {
            _checkConcat(s);
        } else if (operation == GATHER) {
            _demand(s, s.header.operands == 2);
            _form(s, 2, 0, s.x[1].dtype);
            _demand(s, _isIndex(s.x[0]));
            _shape(s, s.x[0].rows, s.x[1].cols);
        } else {
            _demand(s, operation == TAKE && s.header.operands == 2);
            _form(s, 2, 0, s.x[0].dtype);
            _demand(s, s.x[1].storage_ == STORED_U32 && s.x[1].kind == KIND_WEIGHT && s.x[1].rows == 1);
            _shape(s, s.x[0].rows, s.x[1].cols);
        }
    }

    function _checkConcat(Step memory s) private pure {
        unchecked {
            uint256 count = s.header.operands;
            _demand(s, count != 0);
            Tensor memory first = s.x[0];
            _form(s, count, 1, first.dtype);
            bool below = _code(s, 0, 2) == 0;
            (uint256 rows, uint256 cols) = (first.rows, first.cols);
            for (uint256 i = 1; i < count; ++i) {
                Tensor memory x = s.x[i];
                _demand(s, x.dtype == first.dtype);
                if (below) {
                    _demand(s, x.cols == cols);
                    rows += x.rows;
                } else {
                    _demand(s, x.rows == rows);
                    cols += x.cols;
                }
            }
            _shape(s, rows, cols);
        }
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        uint256 operation = s.header.operation;
        if (operation == VIEW) return _view(s);
        if (operation == CONCAT) return _concat(s);
        if (operation == GATHER) {
            uint256 id = _one(s, 0, s.x[0], s.row, 0);
            if (id >= s.x[1].rows) _undefined(s);
            return _one(s, 1, s.x[1], id, s.col);
        }
        uint256 column = _one(s, 0, s.x[1], 0, s.col);
        if (column >= s.x[0].cols) _undefined(s);
        return _one(s, 1, s.x[0], s.row, column);
    }

    function _concat(Step memory s) private pure returns (uint256) {
        unchecked {
            bool below = _word(s, 0) == 0;
            (uint256 row, uint256 col) = (s.row, s.col);
            uint256 i;
            // The operands add up to the result, so one of them has the element.
            for (;; ++i) {
                Tensor memory x = s.x[i];
                if (below) {
                    if (row < x.rows) break;
                    row -= x.rows;
                } else {
                    if (col < x.cols) break;
                    col -= x.cols;
                }
            }
            return _one(s, 0, s.x[i], row, col);
        }
    }

    // ---------------------------------------------------------------- views

    /// The digits of the element, and how far their radices go.
    struct Digits {
        uint256 rows; // how many are the row's
        uint256 count;
        uint256[MAX_DIGITS] digit;
        uint256[MAX_DIGITS] radix;
    }

    function _view(Step memory s) private pure returns (uint256) {
        unchecked {
            Tensor memory x = s.x[0];
            Digits memory d;
            d.rows = _code(s, 0, MAX_DIGITS + 1);
            d.count = d.rows + _code(s, 1, MAX_DIGITS + 1);
            uint256 axes = _code(s, 2, MAX_AXES + 1);
            uint256 fill = _number(s, 3);
            _demand(s, d.count <= MAX_DIGITS && s.header.attributes == 4 + d.count + AXIS * axes);
            _demand(s, x.dtype == TYPE_F32 ? _isCanonical(fill) : x.dtype == TYPE_U32 || fill < 256);
            _digits(s, d, 0, d.rows, s.header.rows, s.row);
            _digits(s, d, d.rows, d.count, s.header.cols, s.col);

            bool inside = true;
            uint256 row;
            uint256 col;
            uint256 lastRow;
            uint256 lastCol;
            uint256 place = 4 + d.count;
            for (uint256 i = 0; i < axes; ++i) {
                (bool formed, uint256 size) = length(_word(s, place), _run(s).claim);
                _demand(s, formed);
                int256 coordinate = _coordinate(s, d, place);
                uint256 rowWeight = _weight(s, place + 2);
                uint256 colWeight = _weight(s, place + 3);
                lastRow += (size - 1) * rowWeight;
                lastCol += (size - 1) * colWeight;
                // forge-lint: disable-start(unsafe-typecast) a negative coordinate is a large one
                if (uint256(coordinate) < size) {
                    row += uint256(coordinate) * rowWeight;
                    col += uint256(coordinate) * colWeight;
                } else {
                    inside = false;
                }
                // forge-lint: disable-end(unsafe-typecast)
                place += AXIS;
            }
            // INVARIANT: whatever the digits are, the map stays inside the source.
            _demand(s, lastRow < x.rows && lastCol < x.cols);
            return inside ? _one(s, 0, x, row, col) : fill;
        }
    }

    /// Writes `index` in the radices `from .. to - 1`, whose product is `size`.
    function _digits(Step memory s, Digits memory d, uint256 from, uint256 to, uint256 size, uint256 index) private pure {
        unchecked {
            uint256 product = 1; // of at most eight numbers of 31 bits
            while (to > from) {
                --to;
                (bool formed, uint256 radix) = length(_word(s, 4 + to), _run(s).claim);
                _demand(s, formed);
                d.radix[to] = radix;
                d.digit[to] = index % radix;
                index /= radix;
                product *= radix;
            }
            _demand(s, product == size);
        }
    }

    /// The coordinate on the axis whose words begin at `place`.
    function _coordinate(Step memory s, Digits memory d, uint256 place) private pure returns (int256) {
        unchecked {
            (bool formed, int256 coordinate) = dimension(_word(s, place + 1), _run(s).claim);
            _demand(s, formed && _magnitude(coordinate) <= MAX_DIM);
            uint256 steps = _word(s, place + 4);
            uint256 travel;
            for (uint256 k = 0; k < MAX_DIGITS; ++k) {
                // forge-lint: disable-start(unsafe-typecast) lanes and digits are small
                int256 step = int256(int32(uint32(steps >> (224 - 32 * k))));
                _demand(s, k < d.count || step == 0);
                if (k < d.count) {
                    coordinate += step * int256(d.digit[k]);
                    travel += _magnitude(step) * (d.radix[k] - 1);
                }
                // forge-lint: disable-end(unsafe-typecast)
            }
            _demand(s, travel <= MAX_DIM);
            return coordinate;
        }
    }

    /// A dimension that is not negative.
    function _weight(Step memory s, uint256 place) private pure returns (uint256) {
        (bool formed, int256 value) = dimension(_word(s, place), _run(s).claim);
        _demand(s, formed && value >= 0);
        // forge-lint: disable-next-line(unsafe-typecast) not negative
        return uint256(value);
    }

    function _magnitude(int256 x) private pure returns (uint256) {
        unchecked {
            // forge-lint: disable-next-line(unsafe-typecast) not negative
            return x < 0 ? uint256(-x) : uint256(x);
        }
    }
}
