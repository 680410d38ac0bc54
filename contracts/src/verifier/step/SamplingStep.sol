// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {F32, INFINITY_BITS, SIGN, ZERO, fromU32} from "../F32.sol";
import {log} from "../F32Functions.sol";
import {StepProof} from "../StepProof.sol";
import {TYPE_F32, TYPE_U32} from "./Descriptor.sol";
import "./StepFamily.sol";

/// @title Steps of Perturb, CheckGenerated and CheckLength
/// @notice How tokens are drawn, and whether the claimed ones are those. Reads: of Perturb the logit and its row's maximum; of CheckGenerated the token and the
/// sample; of CheckLength the end of the text.
contract SamplingStep is StepFamily {
    uint256 private constant PERTURB = 0x40;
    uint256 private constant CHECK_GENERATED = 0x41;
    uint256 private constant CHECK_LENGTH = 0x42;

    /// P-37
    uint256 private constant MAX_STOP = 64;

    function _check(Step memory s) internal pure override {
        unchecked {
            uint256 operation = s.header.operation;
            if (operation == PERTURB) {
                _form(s, 2, 0, TYPE_F32);
                (Tensor memory x, Tensor memory m) = (s.x[0], s.x[1]);
                _demand(s, x.dtype == TYPE_F32 && m.dtype == TYPE_F32 && m.rows == x.rows && m.cols == 1);
                _shape(s, x.rows, x.cols);
            } else if (operation == CHECK_GENERATED) {
                _checkGenerated(s);
            } else {
                _demand(s, operation == CHECK_LENGTH);
                _form(s, 1, 0, TYPE_U32);
                _demand(s, s.x[0].dtype == TYPE_U32 && s.x[0].cols == 1);
                _shape(s, 1, 1);
            }
        }
    }

    function _checkGenerated(Step memory s) private pure {
        unchecked {
            uint256 count = s.header.attributes;
            _form(s, 2, count, TYPE_U32);
            (Tensor memory tokens, Tensor memory samples) = (s.x[0], s.x[1]);
            _demand(s, tokens.index == 0 && _isIndex(tokens) && _isIndex(samples));
            _demand(s, tokens.dtype == TYPE_U32 && samples.dtype == TYPE_U32 && tokens.rows == _run(s).claim.sequence);
            _demand(s, _run(s).claim.sequence >= _run(s).claim.prompt && count <= MAX_STOP);
            for (uint256 i = 0; i < count; ++i) {
                _demand(s, (i == 0 || _word(s, i - 1) < _word(s, i)) && _word(s, i) >> 32 == 0);
            }
            uint256 generated = _run(s).claim.sequence - _run(s).claim.prompt;
            _demand(s, samples.rows == generated);
            _shape(s, generated, 1);
        }
    }

    function _element(Step memory s) internal pure override returns (uint256) {
        uint256 operation = s.header.operation;
        if (operation == PERTURB) return _perturb(s);
        // P-37: a check that does not hold has no right element, and one that does is 1.
        _demand(s, operation == CHECK_GENERATED ? _isGenerated(s) : _isLength(s));
        return 1;
    }

    function _isGenerated(Step memory s) private pure returns (bool) {
        unchecked {
            uint256 token = _one(s, 0, s.x[0], _run(s).claim.prompt + s.row, 0);
            uint256 sample = _one(s, 1, s.x[1], s.row, 0);
            bool stops = false;
            for (uint256 i = 0; i < s.header.attributes; ++i) {
                stops = stops || _word(s, i) == token;
            }
            bool last = s.row + 1 == s.header.rows;
            uint256 limit = _least(_run(s).params.maxTokens, _run(s).model.limits.maxTokens);
            return token == sample && (last ? stops || s.header.rows == limit : !stops);
        }
    }

    function _isLength(Step memory s) private pure returns (bool) {
        unchecked {
            return _one(s, 0, s.x[0], s.x[0].rows - 1, 0) == _run(s).claim.outputBytes;
        }
    }

    /// P-36, S5
    function _perturb(Step memory s) private pure returns (uint256) {
        F32 logit = F32.wrap(_one(s, 0, s.x[0], s.row, s.col));
        F32 temperature = F32.wrap(_run(s).params.temperature);
        if (!(temperature > ZERO)) return F32.unwrap(logit);
        F32 most = F32.wrap(_one(s, 1, s.x[1], s.row, 0));
        if (logit < most + temperature * log(F32.wrap(_run(s).params.minP))) return SIGN | INFINITY_BITS;
        return F32.unwrap(logit / temperature + _gumbel(uint256(_run(s).seed), s.row, s.col));
    }

    /// S3, S4
    function _gumbel(uint256 seed, uint256 step, uint256 token) private pure returns (F32) {
        F32 u = fromU32(((_random(seed, step, token) >> 9) << 1) | 1) * F32.wrap(0x33800000); // 2^-24
        return -log(-log(u));
    }

    /// S1, S2: the random word of a token: one of four words of Philox-4x32-10.
    function _random(uint256 seed, uint256 step, uint256 token) private pure returns (uint256 word) {
        unchecked {
            uint256 mask = 0xffffffff;
            uint256 c0 = token >> 2;
            uint256 c1 = step;
            uint256 c2 = (seed >> 160) & mask;
            uint256 c3 = (seed >> 128) & mask;
            uint256 k0 = seed >> 224;
            uint256 k1 = (seed >> 192) & mask;
            for (uint256 round = 0; round < 10; ++round) {
                uint256 a = c0 * 0xd2511f53;
                uint256 b = c2 * 0xcd9e8d57;
                (c0, c1, c2, c3) = ((b >> 32) ^ c1 ^ k0, b & mask, (a >> 32) ^ c3 ^ k1, a & mask);
                (k0, k1) = ((k0 + 0x9e3779b9) & mask, (k1 + 0xbb67ae85) & mask);
            }
            word = token & 3;
            return word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3;
        }
    }
}
