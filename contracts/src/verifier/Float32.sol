// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title IEEE 754 binary32 numbers, as their bits
/// @notice Converts between the 32 bits of a float and WAD integers (18 decimals). Stands alone: depends on nothing else of Candor.
///
/// Rules
/// F1. `toWad` gives the integer nearest to value * 1e18; an exact half goes to the even integer. Every finite float fits: the largest is about
///     3.4e38, times 1e18 less than 2^188. Floats smaller than half a wad become 0.
/// F2. `fromWad` gives the float nearest to wad / 1e18; an exact half goes to the one whose last bit is 0. What is too small for a normal
///     float cannot occur (1 wad is 1e-18); what rounds beyond the largest finite float is an error, never an infinity.
/// F3. Both zeros become 0; 0 becomes +0. NaN and the infinities have no WAD: they revert with `NotFinite`.
/// F4. `fromInt` is `fromWad` without the division, under the same rounding.
library Float32 {
    error NotFinite(uint32 bits);
    error OutOfRange(int256 value);

    uint256 private constant WAD = 1e18;

    /// @notice The float's value times 1e18, rounded to the nearest integer, ties to even.
    function toWad(uint32 bits) internal pure returns (int256) {
        uint256 exponent = (bits >> 23) & 0xff;
        uint256 mantissa = bits & 0x7fffff;
        if (exponent == 0xff) revert NotFinite(bits);
        // value = mantissa * 2^(exponent - 150), with the hidden bit where there is one
        if (exponent == 0) exponent = 1;
        else mantissa |= 0x800000;

        uint256 magnitude = mantissa * WAD; // < 2^84
        if (exponent >= 150) {
            magnitude <<= exponent - 150; // < 2^(84 + 104)
        } else {
            uint256 shift = 150 - exponent;
            // Beyond 85 bits all that is left is less than a half, so it rounds to 0.
            if (shift > 85) return 0;
            magnitude = _shiftRound(magnitude, shift);
        }
        // forge-lint: disable-next-line(unsafe-typecast) magnitude < 2^188
        return bits >> 31 == 0 ? int256(magnitude) : -int256(magnitude);
    }

    /// @notice The float nearest to `wad` / 1e18, ties to even.
    function fromWad(int256 wad) internal pure returns (uint32) {
        if (wad == 0) return 0;
        uint256 magnitude = _magnitude(wad);
        // Scaled so that the quotient has at least 26 bits, more than the 24 that are kept and the one that rounds; what the division leaves
        // over only says on which side of a tie the value lies, and is kept as the lowest bit.
        uint256 length = _bitLength(magnitude);
        uint256 scale = length < 87 ? 87 - length : 0; // magnitude << scale >= 2^86 > 2^26 * WAD
        magnitude <<= scale;
        uint256 quotient = magnitude / WAD;
        if (magnitude % WAD != 0) quotient |= 1;
        return _pack(wad, quotient, scale);
    }

    /// @notice The float nearest to an integer, ties to even.
    function fromInt(int256 value) internal pure returns (uint32) {
        if (value == 0) return 0;
        return _pack(value, _magnitude(value), 0);
    }

    /// The float of `sign(signed) * significand * 2^-scale`. If that is not exact, the lowest bit of a significand of at least 26 bits may stand for all
    /// that was cut off before.
    function _pack(int256 signed, uint256 significand, uint256 scale) private pure returns (uint32) {
        uint256 length = _bitLength(significand);
        // exponent of the leading bit, biased; at least 127 - 60, so the result is never subnormal
        uint256 exponent = 127 + length - 1 - scale;
        uint256 mantissa;
        if (length <= 24) {
            mantissa = significand << (24 - length);
        } else {
            mantissa = _shiftRound(significand, length - 24);
            if (mantissa == 0x1000000) {
                mantissa = 0x800000;
                exponent += 1;
            }
        }
        if (exponent > 254) revert OutOfRange(signed);
        // forge-lint: disable-next-line(unsafe-typecast) 1 + 8 + 23 bits
        return uint32((signed < 0 ? 1 << 31 : 0) | (exponent << 23) | (mantissa & 0x7fffff));
    }

    /// value / 2^shift, to nearest, ties to even; shift is 1 .. 255
    function _shiftRound(uint256 value, uint256 shift) private pure returns (uint256 result) {
        result = value >> shift;
        // forge-lint: disable-start(incorrect-shift) the arguments are in this order
        uint256 half = 1 << (shift - 1);
        uint256 rest = value & ((1 << shift) - 1);
        // forge-lint: disable-end(incorrect-shift)
        if (rest > half || (rest == half && result & 1 == 1)) result += 1;
    }

    function _magnitude(int256 value) private pure returns (uint256) {
        unchecked {
            // forge-lint: disable-next-line(unsafe-typecast) two's complement: right for the smallest one too
            return value < 0 ? 0 - uint256(value) : uint256(value);
        }
    }

    function _bitLength(uint256 value) private pure returns (uint256 length) {
        assembly ("memory-safe") {
            length := sub(256, clz(value))
        }
    }
}
