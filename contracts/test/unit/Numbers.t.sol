// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Tensor} from "../../src/consumer/Tensor.sol";
import {Float32} from "../../src/verifier/Float32.sol";
import {Test} from "../utils/Test.sol";

/// @notice Library functions behind external calls, so that their reverts can be expected.
contract Numbers {
    function toWad(uint32 bits) external pure returns (int256) {
        return Float32.toWad(bits);
    }

    function fromWad(int256 wad) external pure returns (uint32) {
        return Float32.fromWad(wad);
    }

    function fromInt(int256 value) external pure returns (uint32) {
        return Float32.fromInt(value);
    }

    function u32At(bytes calldata output, uint256 offset) external pure returns (uint32) {
        return Tensor.u32At(output, offset);
    }

    function f32At(bytes calldata output, uint256 offset) external pure returns (int256) {
        return Tensor.f32At(output, offset);
    }

    function f32sAt(bytes calldata output, uint256 offset, uint256 count) external pure returns (int256[] memory) {
        return Tensor.f32sAt(output, offset, count);
    }
}

/// @title Float32 and Tensor: rules F1 to F4, checked against exact rationals
contract NumbersTest is Test {
    Numbers private numbers = new Numbers();

    uint32 private constant LARGEST = 0x7f7fffff;
    uint32 private constant INFINITY = 0x7f800000;

    // ---------------------------------------------------------------- known values

    function test_toWad_knownValues() external view {
        assertEq(numbers.toWad(0x00000000), 0, "+0");
        assertEq(numbers.toWad(0x80000000), 0, "-0");
        assertEq(numbers.toWad(0x3f800000), 1e18, "1");
        assertEq(numbers.toWad(0xbf800000), -1e18, "-1");
        assertEq(numbers.toWad(0x3f000000), 0.5e18, "1/2");
        assertEq(numbers.toWad(0x40490fdb), 3_141592741012573242, "pi: 3.14159274101257324218...");
        assertEq(numbers.toWad(0x3dcccccd), 100000001490116119, "0.1: 0.100000001490116119384...");
        assertEq(numbers.toWad(0x00000001), 0, "smallest subnormal");
        assertEq(numbers.toWad(0x00800000), 0, "smallest normal");
        assertEq(numbers.toWad(LARGEST), int256((2 ** 24 - 1) * 2 ** 104) * 1e18, "largest");
        // 2^-61 = 0.4336...e-18 and 2^-60 = 0.867...e-18
        assertEq(numbers.toWad(0x21000000), 0, "2^-61");
        assertEq(numbers.toWad(0x21800000), 1, "2^-60");
    }

    function test_fromWad_knownValues() external view {
        assertEq(numbers.fromWad(0), 0x00000000, "0");
        assertEq(numbers.fromWad(1e18), 0x3f800000, "1");
        assertEq(numbers.fromWad(-1e18), 0xbf800000, "-1");
        assertEq(numbers.fromWad(0.1e18), 0x3dcccccd, "0.1");
        assertEq(numbers.fromWad(3_141592653589793238), 0x40490fdb, "pi");
        assertEq(numbers.fromWad(1), 0x219392ef, "1e-18");
        assertEq(numbers.fromWad(16777217e18), 0x4b800000, "2^24 + 1: a tie, to even");
        assertEq(numbers.fromWad(16777219e18), 0x4b800002, "2^24 + 3: a tie, to even");
        assertEq(numbers.fromWad(16777217e18 + 1), 0x4b800001, "just above the tie");
        assertEq(numbers.fromWad(16777219e18 - 1), 0x4b800001, "just below the tie");
    }

    function test_fromInt_knownValues() external view {
        assertEq(numbers.fromInt(0), 0, "0");
        assertEq(numbers.fromInt(1), 0x3f800000, "1");
        assertEq(numbers.fromInt(-7), 0xc0e00000, "-7");
        assertEq(numbers.fromInt(16777217), 0x4b800000, "tie to even");
        assertEq(numbers.fromInt(33554431), 0x4c000000, "carries into the exponent");
        assertEq(numbers.fromInt(int256((2 ** 24 - 1) * 2 ** 104)), LARGEST, "largest");
    }

    function test_conversions_refuseWhatHasNoValue() external {
        uint32[4] memory special = [INFINITY, INFINITY | 1 << 31, uint32(0x7fc00000), uint32(0xff800001)];
        for (uint256 i = 0; i < special.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Float32.NotFinite.selector, special[i]));
            numbers.toWad(special[i]);
        }
        // 2^128 - 2^103 is half way from the largest float to the next there would be; the tie would go up.
        int256 half = int256(2 ** 128 - 2 ** 103);
        vm.expectRevert(abi.encodeWithSelector(Float32.OutOfRange.selector, half));
        numbers.fromInt(half);
        assertEq(numbers.fromInt(half - 1), LARGEST, "just below");
        vm.expectRevert(abi.encodeWithSelector(Float32.OutOfRange.selector, -half * 1e18));
        numbers.fromWad(-half * 1e18);
        assertEq(numbers.fromWad(half * 1e18 - 1), LARGEST, "just below, as wad");
        vm.expectRevert(abi.encodeWithSelector(Float32.OutOfRange.selector, type(int256).min));
        numbers.fromWad(type(int256).min);
        vm.expectRevert(abi.encodeWithSelector(Float32.OutOfRange.selector, type(int256).max));
        numbers.fromInt(type(int256).max);
    }

    // ---------------------------------------------------------------- against exact rationals

    /// F1: |toWad(x) * 2^s - mantissa * 1e18| is at most half of 2^s, and at exactly half the result is even.
    function testFuzz_toWad_isTheNearestInteger(uint32 bits) external view {
        uint256 exponent = (bits >> 23) & 0xff;
        vm.assume(exponent != 0xff);
        int256 wad = numbers.toWad(bits);
        uint256 mantissa = (bits & 0x7fffff) | (exponent == 0 ? 0 : 0x800000);
        assertTrue(wad == 0 || (wad < 0) == (bits >> 31 == 1), "sign");
        uint256 magnitude = uint256(wad < 0 ? -wad : wad);
        if (exponent >= 150) {
            assertEq(magnitude, mantissa * 1e18 << (exponent - 150), "exact");
            return;
        }
        uint256 shift = 150 - (exponent == 0 ? 1 : exponent);
        uint256 exact = mantissa * 1e18;
        uint256 got = magnitude << shift;
        uint256 off = got > exact ? got - exact : exact - got;
        assertTrue(2 * off <= 1 << shift, "nearest");
        if (2 * off == 1 << shift) assertEq(magnitude & 1, 0, "even");
    }

    /// F2: no neighbour of fromWad(w) is nearer to w, and where one is as near the result is the even one.
    function testFuzz_fromWad_isTheNearestFloat(int256 wad, uint8 size) external view {
        wad = wad >> bound(size, 69, 255);
        vm.assume(wad != 0);
        uint32 bits = numbers.fromWad(wad);
        assertTrue((bits >> 31 == 1) == (wad < 0), "sign");
        uint256 magnitude = uint256(wad < 0 ? -wad : wad);
        uint32 positive = bits & 0x7fffffff;
        // Wads are fractions of small floats and large floats are whole numbers of wads: one scale would not fit into a word for both.
        uint256 scale = positive >> 23 > 152 ? 0 : 87;
        uint256 here = distance(positive, magnitude, scale);
        uint256 below = distance(positive - 1, magnitude, scale);
        uint256 above = distance(positive + 1, magnitude, scale);
        assertTrue(here <= below && here <= above, "nearest");
        if (here == below || here == above) assertEq(positive & 1, 0, "even");
    }

    function testFuzz_fromInt_isFromWadOfWholeNumbers(int256 value, uint8 size) external view {
        value = value >> bound(size, 131, 255);
        assertEq(numbers.fromInt(value), numbers.fromWad(value * 1e18), "same");
    }

    /// Every float of at least 2^-36 or so has more wad between it and the next than half a wad: it survives the way there and back.
    function testFuzz_roundTrip_floatsSurvive(uint32 bits) external view {
        uint32 exponent = uint32(bound((bits >> 23) & 0xff, 127 - 36, 254));
        bits = (bits & 0x807fffff) | (exponent << 23);
        assertEq(numbers.fromWad(numbers.toWad(bits)), bits, "there and back");
    }

    /// |value of a positive float * 1e18 - magnitude| * 2^scale; exponents of what fromWad gives are at least 127 - 60.
    function distance(uint32 positive, uint256 magnitude, uint256 scale) private pure returns (uint256) {
        uint256 exponent = positive >> 23;
        uint256 mantissa = (positive & 0x7fffff) | 0x800000;
        uint256 value = (mantissa * 1e18) << (exponent + scale - 150);
        uint256 other = magnitude << scale;
        return value > other ? value - other : other - value;
    }

    // ---------------------------------------------------------------- tensors

    function test_tensor_encodesBigEndianRows() external pure {
        int256[] memory values = new int256[](3);
        (values[0], values[1], values[2]) = (1, -2, 0);
        assertEq(Tensor.f32FromInts(values), hex"3f800000c000000000000000", "ints");
        (values[0], values[1], values[2]) = (0.5e18, -0.25e18, 1e18);
        assertEq(Tensor.f32FromWads(values), hex"3f000000be8000003f800000", "wads");
        uint8[] memory samples = new uint8[](2);
        (samples[0], samples[1]) = (255, 1);
        assertEq(Tensor.u8(samples), hex"ff01", "bytes");
        assertEq(Tensor.utf8("hi"), hex"6869", "text");
        assertEq(Tensor.f32FromInts(new int256[](0)), "", "nothing");
    }

    /// Writing an element touches no other.
    function testFuzz_tensor_elementsAreIndependent(int64[] memory raw) external view {
        int256[] memory values = new int256[](raw.length);
        for (uint256 i = 0; i < raw.length; ++i) {
            values[i] = raw[i];
        }
        bytes memory data = Tensor.f32FromInts(values);
        assertEq(data.length, 4 * raw.length, "length");
        for (uint256 i = 0; i < raw.length; ++i) {
            assertEq(numbers.u32At(data, 4 * i), numbers.fromInt(values[i]), "element");
        }
    }

    function test_tensor_decodes() external {
        bytes memory output = hex"000000073f800000bf000000";
        assertEq(numbers.u32At(output, 0), 7, "u32");
        assertEq(numbers.f32At(output, 4), 1e18, "f32");
        int256[] memory both = numbers.f32sAt(output, 4, 2);
        assertEq(both[1], -0.5e18, "second");
        vm.expectRevert(abi.encodeWithSelector(Tensor.OutOfBounds.selector, 9, 12));
        numbers.u32At(output, 9);
        vm.expectRevert(abi.encodeWithSelector(Tensor.OutOfBounds.selector, 0, 3));
        numbers.u32At(hex"010203", 0);
        vm.expectRevert(abi.encodeWithSelector(Tensor.OutOfBounds.selector, type(uint256).max, 12));
        numbers.u32At(output, type(uint256).max);
        vm.expectRevert(abi.encodeWithSelector(Tensor.OutOfBounds.selector, 12, 12));
        numbers.f32sAt(output, 4, 3);
    }
}
