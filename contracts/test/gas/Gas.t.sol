// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, Fulfillment, PackedRequest} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {World} from "../utils/World.sol";
import {Vm} from "../utils/Vm.sol";

contract GasTest is World {
    function setUp() public override {
        super.setUp();
        PackedRequest memory r = ask();
        Fulfillment memory f = post(r, abi.encode(1));
        passWindow();
        settle(r, f, "");
    }

    event log_named_uint(string k, uint256 v);

    function test_gas_single() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        vm.recordLogs();
        vm.prank(alice);
        oracle.request{value: PRICE}(args);
        emit log_named_uint("request", vm.lastCallGas().gasTotalUsed);
        PackedRequest memory r = lastRequest();
        IInferenceOracle.Answer memory a = answerOf(r, abi.encode(keccak256("x")), signerKey);
        vm.recordLogs();
        vm.prank(carrier);
        oracle.fulfill(a);
        emit log_named_uint("fulfill", vm.lastCallGas().gasTotalUsed);
        Fulfillment memory f = lastFulfillment();
        passWindow();
        IInferenceOracle.Settlement memory s = IInferenceOracle.Settlement(r, f, "");
        vm.prank(carrier);
        oracle.finalize(s);
        emit log_named_uint("finalize", vm.lastCallGas().gasTotalUsed);
        emit log_named_uint("calldata", gasOfCalldata(abi.encodeCall(oracle.finalize, (s))));
    }
    function gasOfCalldata(bytes memory d) internal pure returns (uint256 g) {
        for (uint256 i; i < d.length; i++) g += d[i] == 0 ? 4 : 16;
    }
}
