// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32, canonical} from "../F32.sol";
import {StepProof} from "../StepProof.sol";
import {Header, TYPE_F32, TYPE_U32, TYPE_U8} from "./Descriptor.sol";
import "./StepFamily.sol";

// P-30
uint256 constant INPUT_F32 = 0;
uint256 constant INPUT_U8 = 1;
uint256 constant INPUT_UTF8 = 2;
uint256 constant INPUT_TOKENS = 3;
uint256 constant INPUT_KINDS = 4;

/// @title Steps of Input and Encode
/// @notice Where bytes become elements, and elements bytes. Input reads the request's input (`data`), or of a generated position the claimed tokens; Encode one
/// element.
contract InputStep is StepFamily {
    uint256 private constant INPUT = 0x01;
    uint256 private constant ENCODE = 0x53;

    /// P-39: f32, u32, bytes.
    uint256 private constant ENCODE_F32 = 0;
    uint256 private constant ENCODE_U32 = 1;
    uint256 private constant ENCODE_KINDS = 3;

    function _check(Step memory s) internal pure override {
        Header memory h = s.header;
        if (h.operation == INPUT) {
            // P-4
            _demand(s, s.node == 0 && h.operands == 0 && h.attributes == 2);
            _demand(s, isInputFormed(h, _word(s, 0), _word(s, 1), _run(s).claim));
        } else {
            _demand(s, h.operation == ENCODE);
            _form(s, 1, 1, TYPE_U8);
            uint256 kind = _code(s, 0, ENCODE_KINDS);
            Tensor memory x = s.x[0];
            _demand(s, x.kind != KIND_WEIGHT && x.dtype == (kind == ENCODE_F32 ? TYPE_F32 : kind == ENCODE_U32 ? TYPE_U32 : TYPE_U8));
            _shape(s, 1, x.rows * x.cols * _width(kind));
        }
    }

    function _width(uint256 kind) private pure returns (uint256) {
        return kind == ENCODE_F32 || kind == ENCODE_U32 ? 4 : 1;
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        if (s.header.operation == INPUT) return _input(s);
        unchecked {
            uint256 width = _width(_word(s, 0));
            Tensor memory x = s.x[0];
            uint256 element = s.col / width;
            uint256 bits = _one(s, 0, x, element / x.cols, element % x.cols);
            // P-39: big-endian.
            return (bits >> (8 * (width - 1 - s.col % width))) & 0xff;
        }
    }

    /// P-30
    function _input(Step memory s) private pure returns (uint256) {
        unchecked {
            uint256 kind = _word(s, 0);
            bytes calldata data = _proof(s).data.data;
            uint256 place = s.row * s.header.cols + s.col;
            bool generated = kind == INPUT_TOKENS && place >= _run(s).claim.prompt;
            if (keccak256(data) != (generated ? _run(s).claim.tokensHash : _run(s).inputHash)) revert IStepVerifier.InvalidOpening("data");
            if (generated) place -= _run(s).claim.prompt;
            if (kind == INPUT_U8 || kind == INPUT_UTF8) {
                // P-15: where the bytes are no text, there is no right element.
                _demand(s, place < data.length && (kind == INPUT_U8 || isUtf8At(data, place)));
                return uint8(data[place]);
            }
            // Fewer bytes than the symbols say.
            _demand(s, 4 * place + 4 <= data.length);
            uint256 bits = uint32(bytes4(data[4 * place:4 * place + 4]));
            if (kind == INPUT_F32) return F32.unwrap(canonical(F32.wrap(bits)));
            _demand(s, bits < _word(s, 1));
            return bits;
        }
    }
}

/// P-10, P-30: whether node 0 with these attributes has the shape that the input fills.
function isInputFormed(Header memory h, uint256 kind, uint256 bound, IStepVerifier.Claim calldata claim) pure returns (bool) {
    unchecked {
        if (kind >= INPUT_KINDS || bound >> 32 != 0) return false;
        if (kind == INPUT_TOKENS) return h.dtype == TYPE_U32 && bound != 0 && h.cols == 1 && h.rows == claim.sequence;
        uint256 width = kind == INPUT_F32 ? 4 : 1;
        return h.dtype == (kind == INPUT_F32 ? TYPE_F32 : TYPE_U8) && bound == 0 && h.rows * h.cols * width == claim.inputBytes;
    }
}

/// Whether byte `place`, which must exist, is part of a well-formed character. Bytes are valid UTF-8 exactly if this holds for each.
function isUtf8At(bytes calldata text, uint256 place) pure returns (bool) {
    unchecked {
        uint256 first = place;
        while (uint8(text[first]) & 0xc0 == 0x80) {
            if (first == 0 || place - first == 3) return false;
            --first;
        }
        uint256 lead = uint8(text[first]);
        if (lead < 0x80) return first == place;
        if (lead < 0xc2 || lead > 0xf4) return false;
        uint256 size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        if (place - first >= size || first + size > text.length) return false;
        for (uint256 i = 1; i < size; ++i) {
            if (uint8(text[first + i]) & 0xc0 != 0x80) return false;
        }
        // Neither longer than it need be, nor a surrogate, nor beyond the last code point.
        uint256 second = uint8(text[first + 1]);
        if (lead == 0xe0) return second >= 0xa0;
        if (lead == 0xed) return second < 0xa0;
        if (lead == 0xf0) return second >= 0x90;
        return lead != 0xf4 || second < 0x90;
    }
}
