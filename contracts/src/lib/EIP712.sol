// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title The signing domain of a Candor contract
/// @notice Name "Candor", version "1", this chain, this contract. A chain that splits off gets another domain at once: a signature made for one side
/// says nothing on the other.
abstract contract EIP712 {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("Candor");
    bytes32 private constant VERSION_HASH = keccak256("1");

    uint256 private immutable DEPLOYED_ON;
    bytes32 private immutable DEPLOYED_SEPARATOR;

    constructor() {
        DEPLOYED_ON = block.chainid;
        DEPLOYED_SEPARATOR = _computeSeparator();
    }

    function _domainSeparator() internal view returns (bytes32) {
        return block.chainid == DEPLOYED_ON ? DEPLOYED_SEPARATOR : _computeSeparator();
    }

    function _digest(bytes32 structHash) internal view returns (bytes32 digest) {
        bytes32 separator = _domainSeparator();
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, hex"1901")
            mstore(add(free, 0x02), separator)
            mstore(add(free, 0x22), structHash)
            digest := keccak256(free, 0x42)
        }
    }

    function _computeSeparator() private view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
    }
}
