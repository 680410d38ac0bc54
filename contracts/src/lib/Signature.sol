// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Who signed
/// @notice One signature has one encoding: 65 bytes r, s, v; s in the lower half of the group's order; v 27 or 28.
library Signature {
    /// Half of the order of secp256k1. With s and with order - s the same key signs the same digest; only the lower one counts.
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    /// @notice The signer of `digest`, or zero for anything that is not a well-formed signature.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address signer) {
        if (signature.length != 65) return address(0);
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        uint8 v = uint8(signature[64]);
        // INVARIANT: one digest and one key give one accepted signature; no second form of it can pass for another.
        if (uint256(s) > HALF_ORDER || (v != 27 && v != 28)) return address(0);
        return ecrecover(digest, v, r, s);
    }
}
