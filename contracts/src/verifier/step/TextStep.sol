// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {Merkle} from "../../lib/Merkle.sol";
import {DataOpening, StepProof} from "../StepProof.sol";
import {TYPE_U32, TYPE_U8} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of TokenLength, PrefixSum and Detokenise
/// @notice Tokens as text. Reads: of TokenLength the token, and its entry of the vocabulary as `data`; of PrefixSum the summand, and the sum before it in the
/// node itself; of Detokenise, with `hint` the token that the byte lies in, where that token ends, the token, its entry, and where the one before it ends.
contract TextStep is StepFamily {
    uint256 private constant TOKEN_LENGTH = 0x50;
    uint256 private constant PREFIX_SUM = 0x51;
    uint256 private constant DETOKENISE = 0x52;

    /// P-41: the dimension O.
    // forge-lint: disable-next-line(incorrect-shift) the arguments are in this order
    uint256 private constant DIM_O = 1 << 96;

    function _check(Step memory s) internal pure override {
        uint256 operation = s.header.operation;
        if (operation == DETOKENISE) {
            _form(s, 2, 0, TYPE_U8);
            (Tensor memory tokens, Tensor memory ends) = (s.x[0], s.x[1]);
            _demand(s, _isIndex(tokens) && _isIndex(ends) && ends.dtype == TYPE_U32 && ends.rows == tokens.rows);
            unchecked {
                // The dimension before the two operands, which lie before the attributes.
                uint256 place = s.attributes - 96;
                uint256 cols;
                assembly ("memory-safe") {
                    cols := calldataload(place)
                }
                _demand(s, s.header.rows == 1 && cols == DIM_O);
            }
            return;
        }
        _form(s, 1, 0, TYPE_U32);
        Tensor memory x = s.x[0];
        if (operation == TOKEN_LENGTH) _demand(s, _isIndex(x));
        else _demand(s, operation == PREFIX_SUM && x.dtype == TYPE_U32 && x.cols == 1);
        _shape(s, x.rows, 1);
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        uint256 operation = s.header.operation;
        if (operation == DETOKENISE) return _detokenise(s);
        uint256 x = _one(s, 0, s.x[0], s.row, 0);
        if (operation == TOKEN_LENGTH) return _entry(s, x).length;
        if (s.row == 0) return x;
        unchecked {
            Tensor memory self;
            (self.index, self.rows, self.cols, self.dtype, self.storage_) = (s.node, s.header.rows, 1, TYPE_U32, STORED_U32);
            return (x + _one(s, 1, self, s.row - 1, 0)) & 0xffffffff;
        }
    }

    /// P-38
    function _detokenise(Step memory s) private pure returns (uint256) {
        unchecked {
            (Tensor memory tokens, Tensor memory ends) = (s.x[0], s.x[1]);
            uint256 t = _proof(s).hint;
            if (t >= ends.rows) revert IStepVerifier.InvalidOpening("hint");
            uint256 end = _one(s, 0, ends, t, 0);
            if (end <= s.col) {
                // Beyond the last token there is no text, whatever O says.
                if (t + 1 == ends.rows) _undefined(s);
                revert IStepVerifier.InvalidOpening("hint");
            }
            uint256 token = _one(s, 1, tokens, t, 0);
            bytes calldata entry = _entry(s, token);
            uint256 start = t == 0 ? 0 : _one(s, 3, ends, t - 1, 0);
            if (start > s.col) revert IStepVerifier.InvalidOpening("hint");
            if (s.col - start >= entry.length) _undefined(s);
            return uint8(entry[s.col - start]);
        }
    }

    /// P-51: the vocabulary's entry of a token.
    function _entry(Step memory s, uint256 token) private pure returns (bytes calldata entry) {
        DataOpening calldata o = _proof(s).data;
        entry = o.data;
        bytes32 root = _run(s).model.vocabRoot;
        if (root == 0 || _isBeyond(root, token, o.count, o.path)) _undefined(s);
        if (!_leadsTo(root, Merkle.leaf(Merkle.TOKEN, entry), token, o.count, o.path)) revert IStepVerifier.InvalidOpening("token");
    }
}
