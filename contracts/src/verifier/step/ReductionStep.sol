// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32, INFINITY_BITS, SIGN, ZERO} from "../F32.sol";
import {CHUNK, LANES, _tree, chunkMaximum, chunkSum, chunkSumSquares, rank} from "../F32Reduction.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32, TYPE_U32, ceilDiv} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of RowSum, RowSumSquares, RowMax and Argmax
/// @notice A partial is one chunk of 1024 elements. Reads: the chunk; of Argmax the claimed element and the one that `hint` says
/// ranks before it. No other reading of an argmax is needed: one that is right has nothing before it.
contract ReductionStep is StepFamily {
    uint256 private constant SUM = 0x30;
    uint256 private constant SUM_SQUARES = 0x31;
    uint256 private constant MAXIMUM = 0x32;
    uint256 private constant ARGMAX = 0x33;

    function _check(Step memory s) internal pure override {
        unchecked {
            uint256 operation = s.header.operation;
            bool attribute = operation == SUM || operation == MAXIMUM;
            _form(s, 1, attribute ? 1 : 0, operation == ARGMAX ? TYPE_U32 : TYPE_F32);
            Tensor memory x = s.x[0];
            _demand(s, operation >= SUM && operation <= ARGMAX && x.dtype == TYPE_F32 && x.cols <= MAX_PARTIALS * CHUNK);
            if (attribute) _number(s, 0);
            _shape(s, x.rows, 1);
        }
    }

    /// How many elements of its row the element is made of.
    function _extent(Step memory s) private pure returns (uint256 cols) {
        unchecked {
            cols = s.x[0].cols;
            if (s.header.operation == SUM_SQUARES) return cols;
            uint256 causal = _word(s, 0);
            return causal == 0 ? cols : _least(cols, s.row / causal + 1);
        }
    }

    function _parts(Step memory s) internal pure override returns (uint256) {
        return s.header.operation == ARGMAX ? 1 : ceilDiv(_extent(s), CHUNK);
    }

    function _partial(Step memory s, uint256 part) internal pure override returns (F32) {
        unchecked {
            Tensor memory x = s.x[0];
            uint256 first = part * CHUNK;
            uint256 count = _least(CHUNK, _extent(s) - first);
            bytes calldata data = _read(s, 0, x, s.row, first, count);
            uint256 operation = s.header.operation;
            if (x.storage_ != STORED_F32) return _chunk(operation, x, data, count);
            data = data[:4 * count];
            if (operation == SUM) return chunkSum(data);
            return operation == SUM_SQUARES ? chunkSumSquares(data) : chunkMaximum(data);
        }
    }

    /// R1 to R3 for elements that are not stored as f32.
    function _chunk(uint256 operation, Tensor memory x, bytes calldata data, uint256 count) private pure returns (F32) {
        unchecked {
            F32[LANES] memory lane;
            F32 most = F32.wrap(SIGN | INFINITY_BITS);
            for (uint256 k = 0; k < count; ++k) {
                F32 e = F32.wrap(_bits(x, data, k));
                if (operation == MAXIMUM) most = most.maximum(e);
                else lane[k % LANES] = operation == SUM ? lane[k % LANES] + e : e.fma(e, lane[k % LANES]);
            }
            return operation == MAXIMUM ? most : _tree(lane);
        }
    }

    function _none(Step memory s) internal pure override returns (F32) {
        return s.header.operation == MAXIMUM ? F32.wrap(SIGN | INFINITY_BITS) : ZERO;
    }

    function _join(Step memory s, F32 sum, F32 partial_) internal pure override returns (F32) {
        return s.header.operation == MAXIMUM ? sum.maximum(partial_) : sum + partial_;
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        if (s.header.operation == ARGMAX) return _argmax(s);
        return F32.unwrap(_join(s, _none(s), _partial(s, 0)));
    }

    /// R4: the claimed index, unless it is none or the hinted one comes before it.
    function _argmax(Step memory s) private pure returns (uint256) {
        Tensor memory x = s.x[0];
        (uint256 claimed, uint256 hint) = (s.claimed, _proof(s).hint);
        if (claimed >= x.cols) _undefined(s);
        if (hint >= x.cols) revert IStepVerifier.InvalidOpening("hint");
        int256 ours = rank(F32.wrap(_one(s, 0, x, s.row, claimed)));
        int256 other = rank(F32.wrap(_one(s, 1, x, s.row, hint)));
        return other > ours || (other == ours && hint < claimed) ? hint : claimed;
    }
}
