// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {F32, INFINITY, NAN, ONE, ZERO, fromBF16, fromBits, fromF16, fromI32, fromU32} from "../../src/verifier/F32.sol";
import {erf, exp, geluErf, geluTanh, log, rsqrt, sigmoid, silu, tanh} from "../../src/verifier/F32Functions.sol";
import {rank} from "../../src/verifier/F32Reduction.sol";
import {Test} from "../utils/Test.sol";

/// @title What IEEE 754 says in so many words, and facts that hold to the bit for all operands
/// @notice Bits are compared with golden vectors in Float32Vectors.t.sol, and with the reference over millions of operands by sdk/tests/float32_evm.rs.
contract Float32Test is Test {
    uint256 private constant MINUS_ZERO = 0x80000000;
    uint256 private constant INF = 0x7f800000;
    uint256 private constant MINUS_INF = 0xff800000;
    uint256 private constant THE_NAN = 0x7fc00000;
    uint256 private constant SMALLEST = 0x00000001;
    uint256 private constant SMALLEST_NORMAL = 0x00800000;
    uint256 private constant LARGEST = 0x7f7fffff;

    function same(F32 got, uint256 want, string memory message) private pure {
        assertEq(F32.unwrap(got), want, message);
    }

    function f(uint256 x) private pure returns (F32) {
        return F32.wrap(x);
    }

    // ---------------------------------------------------------------- special values, by the tables of the standard

    function test_add_specialValues() external pure {
        same(f(0) + f(MINUS_ZERO), 0, "+0 + -0");
        same(f(MINUS_ZERO) + f(MINUS_ZERO), MINUS_ZERO, "-0 + -0");
        same(f(MINUS_ZERO) - f(0), MINUS_ZERO, "-0 - +0");
        same(ONE - ONE, 0, "x - x");
        same(-ONE + ONE, 0, "-x + x");
        same(INFINITY + f(MINUS_INF), THE_NAN, "inf - inf");
        same(INFINITY + INFINITY, INF, "inf + inf");
        same(f(MINUS_INF) + f(LARGEST), MINUS_INF, "-inf + x");
        same(f(LARGEST) + f(LARGEST), INF, "overflow");
        same(f(LARGEST) + f(0x73000000), INF, "half of the last place: a tie that goes up");
        same(f(LARGEST) + f(0x72ffffff), LARGEST, "less than half of it");
        same(f(SMALLEST) + f(SMALLEST), 2, "subnormals");
        same(f(0x007fffff) + f(SMALLEST), SMALLEST_NORMAL, "into the normal numbers");
        same(f(SMALLEST_NORMAL) - f(SMALLEST), 0x007fffff, "and out of them");
        same(ONE + f(0x33800000), 0x3f800000, "1 + 2^-24: a tie, to even");
        same(f(0x3f800001) + f(0x33800000), 0x3f800002, "its neighbour: a tie, to even");
        same(ONE + f(0x33800001), 0x3f800001, "above the tie");
        same(ONE - f(0x33000000), 0x3f800000, "1 - 2^-25: a tie below a power of two");
        same(ONE - f(0x33000001), 0x3f7fffff, "beyond it");
        same(ONE + f(SMALLEST), 0x3f800000, "as far apart as can be");
        same(ONE - f(SMALLEST), 0x3f800000, "as far apart as can be, down");
        same(f(LARGEST) - f(SMALLEST), LARGEST, "further");
    }

    function test_mul_specialValues() external pure {
        same(f(0) * f(MINUS_INF), THE_NAN, "0 * inf");
        same(f(MINUS_ZERO) * f(0x40400000), MINUS_ZERO, "-0 * 3");
        same(f(MINUS_ZERO) * f(MINUS_ZERO), 0, "-0 * -0");
        same(INFINITY * f(0xc0400000), MINUS_INF, "inf * -3");
        same(f(LARGEST) * f(0xc0000000), MINUS_INF, "overflow");
        same(f(SMALLEST) * f(0x3f000000), 0, "half of the smallest: a tie, to even");
        same(f(SMALLEST) * f(0x3f000001), SMALLEST, "more than half");
        same(f(0x80000003) * f(0x3f000000), 0x80000002, "three halves: a tie, to even");
        same(f(SMALLEST_NORMAL) * f(0x3f7fffff), SMALLEST_NORMAL, "rounds up into the normal numbers");
        same(f(SMALLEST_NORMAL) * f(0x3f7ffffe), 0x007fffff, "stays below");
    }

    function test_div_specialValues() external pure {
        same(f(0) / f(MINUS_ZERO), THE_NAN, "0 / 0");
        same(INFINITY / INFINITY, THE_NAN, "inf / inf");
        same(ONE / f(MINUS_ZERO), MINUS_INF, "1 / -0");
        same(f(MINUS_ZERO) / ONE, MINUS_ZERO, "-0 / 1");
        same(ONE / f(MINUS_INF), MINUS_ZERO, "1 / -inf");
        same(f(MINUS_INF) / f(SMALLEST), MINUS_INF, "-inf / x");
        same(INFINITY / f(0), INF, "inf / 0");
        same(ONE / f(SMALLEST), INF, "overflow");
        same(ONE / f(LARGEST), 0x00200000, "1 / largest is subnormal");
        same(ONE / f(0x40400000), 0x3eaaaaab, "1 / 3");
        same(f(SMALLEST) / f(SMALLEST), 0x3f800000, "smallest / smallest");
    }

    function test_fma_specialValues() external pure {
        same(f(0).fma(INFINITY, f(0x7f800001)), THE_NAN, "0 * inf + NaN");
        same(f(0).fma(INFINITY, ONE), THE_NAN, "0 * inf + 1");
        same(INFINITY.fma(ONE, f(MINUS_INF)), THE_NAN, "inf - inf");
        same(INFINITY.fma(ONE, INFINITY), INF, "inf + inf");
        same(f(LARGEST).fma(f(LARGEST), f(MINUS_INF)), MINUS_INF, "a product beyond the range is finite beside an infinity");
        same(f(LARGEST).fma(f(0x40000000), f(0xff7fffff)), LARGEST, "and comes back into it");
        same(ONE.fma(ONE, -ONE), 0, "exact cancellation");
        same(f(0).fma(-ONE, f(MINUS_ZERO)), MINUS_ZERO, "-0 + -0");
        same(f(0).fma(-ONE, f(0)), 0, "-0 + +0");
        same(f(0).fma(f(0xc0000000), f(SMALLEST)), SMALLEST, "zero product");
        // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, whose last term a rounded product would not have.
        same(f(0x3f800800).fma(f(0x3f800800), f(0xbf801000)), 0x33800000, "one rounding");
        same(f(SMALLEST).fma(f(SMALLEST), ONE), 0x3f800000, "2^-298 beside 1");
        same(f(SMALLEST).fma(f(SMALLEST), f(0x80000001)), 0x80000001, "2^-298 beside the smallest");
        same(f(SMALLEST).fma(f(SMALLEST), f(0)), 0, "2^-298 alone");
        same(f(SMALLEST).fma(f(0x80000001), f(0)), MINUS_ZERO, "and below zero");
    }

    function test_sqrt_specialValues() external pure {
        same(f(MINUS_ZERO).sqrt(), MINUS_ZERO, "-0");
        same(f(0).sqrt(), 0, "+0");
        same(INFINITY.sqrt(), INF, "inf");
        same((-ONE).sqrt(), THE_NAN, "-1");
        same(f(MINUS_INF).sqrt(), THE_NAN, "-inf");
        same(f(0x80000001).sqrt(), THE_NAN, "a negative subnormal");
        same(f(0x40800000).sqrt(), 0x40000000, "4");
        same(f(0x40000000).sqrt(), 0x3fb504f3, "2");
        same(f(SMALLEST).sqrt(), 0x1a3504f3, "2^-149");
        same(f(LARGEST).sqrt(), 0x5f7fffff, "largest");
    }

    function test_order_specialValues() external pure {
        F32 minusZero = f(MINUS_ZERO);
        assertTrue(ZERO == minusZero && !(ZERO < minusZero) && ZERO <= minusZero && ZERO >= minusZero, "the zeros are equal");
        same(ZERO.maximum(minusZero), 0, "maximum of the zeros");
        same(minusZero.maximum(ZERO), 0, "and the other way round");
        same(ZERO.minimum(minusZero), MINUS_ZERO, "minimum of the zeros");
        same(minusZero.minimum(ZERO), MINUS_ZERO, "and the other way round");
        same(NAN.maximum(INFINITY), THE_NAN, "maximum with NaN");
        same(ONE.minimum(f(0xffffffff)), THE_NAN, "minimum with NaN");
        assertTrue(!(NAN == NAN) && NAN != NAN && !(NAN < ONE) && !(ONE <= NAN) && !(NAN > ONE) && !(NAN >= NAN), "NaN has no order");
        assertTrue(f(MINUS_INF) < f(0xff7fffff) && f(0xff7fffff) < minusZero && f(0x80000001) < ZERO && ZERO < f(SMALLEST), "the line");
        assertTrue(f(LARGEST) < INFINITY && ONE > f(0xc0000000), "and its upper half");
        assertTrue(rank(NAN) > rank(INFINITY) && rank(f(0xff800001)) == rank(NAN), "rank: NaN is above all");
        assertTrue(rank(ZERO) == rank(minusZero) && rank(f(MINUS_INF)) < rank(f(0xff7fffff)), "rank: zeros, -inf");
    }

    function test_integers_specialValues() external pure {
        uint256[5] memory halves = [uint256(0x3f000000), 0x3fc00000, 0x40200000, 0xbf000000, 0xbfc00000];
        int256[5] memory rounded = [int256(0), 2, 2, 0, -2];
        for (uint256 i = 0; i < 5; ++i) {
            assertEq(f(halves[i]).roundToI32(), rounded[i], "ties to even");
        }
        assertEq(INFINITY.roundToI32(), int256(2 ** 31 - 1), "inf");
        assertEq(f(MINUS_INF).roundToI32(), -int256(2 ** 31), "-inf");
        assertEq(f(0xcf000000).roundToI32(), -int256(2 ** 31), "-2^31");
        assertEq(f(0x4f000000).roundToI32(), int256(2 ** 31 - 1), "2^31");
        assertEq(NAN.roundToI32(), int256(0), "NaN");
        assertEq(f(0x4f7fffff).roundToU32(), 0xffffff00, "largest below 2^32");
        assertEq(f(0x4f800000).roundToU32(), 0xffffffff, "2^32");
        assertEq((-ONE).roundToU32(), 0, "-1");
        assertEq(NAN.roundToU32(), 0, "NaN as unsigned");
        same(fromI32(0), 0, "0");
        same(fromI32(-(2 ** 31)), 0xcf000000, "-2^31");
        same(fromI32(16_777_217), 0x4b800000, "2^24 + 1: a tie, to even");
        same(fromI32(-16_777_219), 0xcb800002, "-(2^24 + 3): a tie, to even");
        same(fromU32(0xffffffff), 0x4f800000, "2^32 - 1");
    }

    /// A8: all 65536 of both formats.
    function test_widening_exhaustive() external pure {
        unchecked {
            for (uint256 h = 0; h < 65536; ++h) {
                uint256 e = (h >> 10) & 31;
                uint256 m = h & 0x3ff;
                uint256 want = e == 31
                    ? (m == 0 ? INF | (h & 0x8000) << 16 : THE_NAN)
                    : F32.unwrap((e == 0 ? fromU32(m) : fromU32(m + 1024)) * f((e == 0 ? 103 : e + 102) << 23)) | (h & 0x8000) << 16;
                require(F32.unwrap(fromF16(h)) == want, "f16");
                want = h << 16;
                require(F32.unwrap(fromBF16(h)) == (want & 0x7fffffff > INF ? THE_NAN : want), "bf16");
            }
        }
    }

    /// Every NaN that goes into any operation comes out as the one NaN.
    function testFuzz_oneNaN(uint32 payload, uint32 other) external pure {
        F32 x = fromBits(payload | 0x7f800001);
        F32 y = fromBits(other);
        F32[20] memory all = [
            x + y,
            y - x,
            x * y,
            y / x,
            x.fma(y, y),
            y.fma(x, y),
            y.fma(y, x),
            x.sqrt(),
            x.abs(),
            -x,
            x.maximum(y),
            y.minimum(x),
            exp(x),
            log(x),
            tanh(x),
            sigmoid(x),
            silu(x),
            erf(x),
            geluErf(x),
            geluTanh(x)
        ];
        for (uint256 i = 0; i < all.length; ++i) {
            same(all[i], THE_NAN, "NaN");
        }
        same(rsqrt(x), THE_NAN, "rsqrt");
    }

    // ---------------------------------------------------------------- facts

    function testFuzz_add_commutes(uint32 x, uint32 y) external pure {
        same(fromBits(x) + fromBits(y), F32.unwrap(fromBits(y) + fromBits(x)), "x + y = y + x");
        same(fromBits(x) * fromBits(y), F32.unwrap(fromBits(y) * fromBits(x)), "x * y = y * x");
    }

    /// An fma whose product or sum is trivial is the other operation: the straight and the general paths meet.
    function testFuzz_fma_containsAddAndMul(uint32 a, uint32 b) external pure {
        F32 x = fromBits(a);
        F32 y = fromBits(b);
        same(x.fma(ONE, y), F32.unwrap(x + y), "x * 1 + y");
        same(ONE.fma(y, x), F32.unwrap(x + y), "1 * y + x");
        same(x.fma(y, f((a ^ b) & MINUS_ZERO)), F32.unwrap(x * y), "x * y + 0 of its sign");
        // Rounding to nearest is the same on both sides of zero; only exact cancellation gives +0 on both.
        F32 r = x.fma(y, x);
        if (r != ZERO) same((-x).fma(y, -x), F32.unwrap(-r), "-x * y - x");
    }

    /// Sterbenz: the difference of numbers within a factor of two is exact, so adding it back gives the number.
    function testFuzz_sub_exactWhenNear(uint32 a, uint32 b) external pure {
        uint256 e = bound(a >> 23 & 0xff, 1, 253);
        F32 x = f(e << 23 | a & 0x7fffff);
        F32 y = f(b % 2 == 0 ? e << 23 | b & 0x7fffff & a : e << 23 | b & 0x7fffff | 0x400000);
        vm.assume(y <= x + x && x <= y + y);
        F32 d = x - y;
        same(y + d, F32.unwrap(x), "y + (x - y)");
        same(x - d, F32.unwrap(y), "x - (x - y)");
    }

    /// The error of a product is a float, and fma finds it: x * y = p + e exactly, so e is -(the error of the negated).
    function testFuzz_fma_findsTheErrorOfAProduct(uint32 a, uint32 b) external pure {
        F32 x = f(a & 0x807fffff | bound(a >> 23 & 0xff, 64 + 12, 190) << 23);
        F32 y = f(b & 0x807fffff | bound(b >> 23 & 0xff, 64 + 12, 190) << 23);
        F32 p = x * y;
        F32 e = x.fma(y, -p);
        // 48 bits of a product, against the integers.
        uint256 m = (F32.unwrap(x) & 0x7fffff | 0x800000) * (F32.unwrap(y) & 0x7fffff | 0x800000);
        same(x.fma(y, -e), F32.unwrap(p), "p = x y - e");
        if (m % (1 << 24) == 0) same(e, 0, "an exact product has no error");
        assertTrue(e.abs() <= p.abs() * f(0x33800000), "at most half of the last place");
    }

    /// Division and root undo what is exact.
    function testFuzz_div_sqrt_undo(uint32 a, uint16 b) external pure {
        F32 x = f(a & 0x807fffff | bound(a >> 23 & 0xff, 30, 220) << 23);
        F32 n = f(uint256(b & 0xf) + 120 << 23);
        same(x * n / n, F32.unwrap(x), "a power of two");
        F32 small = fromU32(uint256(a & 0xfff));
        same((small * small).sqrt(), F32.unwrap(small), "a square");
        if (small != ZERO) same(small * x / (small * x), 0x3f800000, "x / x");
    }

    function testFuzz_order_isTotalOnNumbers(uint32 a, uint32 b) external pure {
        F32 x = fromBits(a);
        F32 y = fromBits(b);
        vm.assume(!x.isNaN() && !y.isNaN());
        uint256 true_ = (x < y ? 1 : 0) + (x == y ? 1 : 0) + (x > y ? 1 : 0);
        assertEq(true_, 1, "one of three");
        assertTrue((x <= y) == !(y < x) && (x >= y) == !(x < y) && (x != y) == !(x == y), "negations");
        F32 d = x - y;
        if (!d.isNaN()) assertTrue((d < ZERO) == (x < y), "the sign of the difference: subnormals are kept");
        same(x.maximum(y), F32.unwrap(-((-x).minimum(-y))), "maximum is minimum upside down");
        assertTrue(x.maximum(y) == x || x.maximum(y) == y, "one of the two");
    }

    function testFuzz_integers_roundTrip(int32 i, uint32 u) external pure {
        int256 small = int256(i) >> 7;
        assertEq(fromI32(small).roundToI32(), small, "25 bits with the sign are exact");
        assertEq(fromU32(u >> 8).roundToU32(), u >> 8, "24 bits are exact");
    }

    /// F12
    function testFuzz_functions_symmetry(uint32 bits) external pure {
        F32 x = fromBits(bits);
        vm.assume(!x.isNaN());
        same(tanh(-x), F32.unwrap(-tanh(x)), "tanh is odd");
        same(erf(-x), F32.unwrap(-erf(x)), "erf is odd");
        assertTrue(tanh(x).abs() <= ONE && erf(x).abs() <= ONE && sigmoid(x) <= ONE && sigmoid(x) >= ZERO, "ranges");
    }

    function test_functions_points() external pure {
        same(exp(f(MINUS_ZERO)), 0x3f800000, "exp(-0)");
        same(exp(INFINITY), INF, "exp(inf)");
        same(exp(f(MINUS_INF)), 0, "exp(-inf)");
        same(log(ONE), 0, "log(1)");
        same(log(ZERO), MINUS_INF, "log(0)");
        same(log(f(MINUS_ZERO)), MINUS_INF, "log(-0)");
        same(log(INFINITY), INF, "log(inf)");
        same(log(f(0x80000001)), THE_NAN, "log below zero");
        same(log(f(MINUS_INF)), THE_NAN, "log(-inf)");
        same(tanh(f(MINUS_ZERO)), MINUS_ZERO, "tanh(-0)");
        same(tanh(f(MINUS_INF)), 0xbf800000, "tanh(-inf)");
        same(erf(f(MINUS_ZERO)), MINUS_ZERO, "erf(-0)");
        same(erf(INFINITY), 0x3f800000, "erf(inf)");
        same(sigmoid(f(MINUS_ZERO)), 0x3f000000, "sigmoid(-0)");
        same(sigmoid(INFINITY), 0x3f800000, "sigmoid(inf)");
        same(sigmoid(f(MINUS_INF)), 0, "sigmoid(-inf)");
        same(silu(f(MINUS_INF)), MINUS_ZERO, "silu(-inf)");
        same(geluErf(f(MINUS_INF)), MINUS_ZERO, "geluErf(-inf)");
        same(geluTanh(f(MINUS_INF)), MINUS_ZERO, "geluTanh(-inf)");
        same(silu(f(MINUS_ZERO)), MINUS_ZERO, "silu(-0)");
        same(geluErf(f(MINUS_ZERO)), MINUS_ZERO, "geluErf(-0)");
        same(geluTanh(f(MINUS_ZERO)), MINUS_ZERO, "geluTanh(-0)");
        same(rsqrt(f(MINUS_ZERO)), MINUS_INF, "rsqrt(-0)");
        same(rsqrt(INFINITY), 0, "rsqrt(inf)");
        same(rsqrt(-ONE), THE_NAN, "rsqrt(-1)");
    }
}
