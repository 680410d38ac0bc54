// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, Fulfillment, PackedRequest} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {QuietConsumer} from "../utils/Consumers.sol";
import {World} from "../utils/World.sol";

/// @title What the main path costs, in whole transactions
/// @notice Run with FOUNDRY_PROFILE=gas, where every call is a transaction: intrinsic gas and calldata are in the numbers. Steady state: the operator has
/// answered before, the requester has had a refund before; the request's own slot is new each time. Input and output have 32 bytes. The numbers are
/// frozen in contracts/snapshots; the targets are asserted here.
contract GasTest is World {
    uint256 private constant TARGET_SINGLE = 150_000;
    uint256 private constant TARGET_BATCHED = 35_000;
    string private constant GROUP = "gas";

    QuietConsumer private consumer;

    function setUp() public override {
        super.setUp();
        consumer = new QuietConsumer();
        vm.txGasPrice(GAS_PRICE / 2);
        _warmUp(Delivery.Optimistic, true);
        _warmUp(Delivery.Final, true);
        _warmUp(Delivery.Final, false);
    }

    function test_gas_single() external {
        uint256 total = _single("", Delivery.Final, false);
        vm.snapshotValue(GROUP, "request + fulfill + finalize", total);
        vm.assertLe(total, TARGET_SINGLE, "request + fulfill + finalize");
    }

    function test_gas_singleOptimisticCallback() external {
        _single(", callback at once", Delivery.Optimistic, true);
    }

    function test_gas_singleFinalCallback() external {
        _single(", callback at finality", Delivery.Final, true);
    }

    /// An input of any size, with an address of 64 bytes.
    function test_gas_requestByUri() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = "";
        args.delivery = Delivery.Final;
        uint256 value = costOf(args);
        vm.prank(alice);
        oracle.requestByUri{value: value}(
            args, keccak256("input"), 4096, "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbz"
        );
        vm.snapshotValue(GROUP, "request, input by URI", vm.lastCallGas().gasTotalUsed);
    }

    function test_gas_batch1() external {
        _batch(1, "", Delivery.Final, false);
    }

    function test_gas_batch10() external {
        _batch(10, "", Delivery.Final, false);
    }

    function test_gas_batch50() external {
        uint256 each = _batch(50, "", Delivery.Final, false);
        vm.assertLe(each, TARGET_BATCHED, "fulfill + finalize, each of 50");
    }

    function test_gas_batch50OptimisticCallback() external {
        _batch(50, ", callback at once", Delivery.Optimistic, true);
    }

    function test_gas_batch50FinalCallback() external {
        _batch(50, ", callback at finality", Delivery.Final, true);
    }

    function _single(string memory suffix, Delivery delivery, bool callback) private returns (uint256 total) {
        (PackedRequest memory request_, uint256 used) = _request(delivery, callback, 0);
        vm.snapshotValue(GROUP, string.concat("request", suffix), used);
        total = used;

        bytes memory output = abi.encode(keccak256("output"));
        IInferenceOracle.Answer memory answer = answerOf(request_, output, signerKey);
        vm.recordLogs();
        vm.prank(carrier);
        oracle.fulfill(answer);
        used = vm.lastCallGas().gasTotalUsed;
        vm.snapshotValue(GROUP, string.concat("fulfill", suffix), used);
        total += used;

        IInferenceOracle.Settlement memory settlement =
            IInferenceOracle.Settlement(request_, lastFulfillment(), delivery == Delivery.Final && callback ? output : bytes(""));
        passWindow();
        vm.prank(carrier);
        oracle.finalize(settlement);
        used = vm.lastCallGas().gasTotalUsed;
        vm.snapshotValue(GROUP, string.concat("finalize", suffix), used);
        total += used;
    }

    function _batch(uint256 size, string memory suffix, Delivery delivery, bool callback) private returns (uint256 each) {
        IInferenceOracle.Answer[] memory answers = new IInferenceOracle.Answer[](size);
        IInferenceOracle.Settlement[] memory settlements = new IInferenceOracle.Settlement[](size);
        for (uint256 i = 0; i < size; ++i) {
            (PackedRequest memory request_,) = _request(delivery, callback, i);
            answers[i] = answerOf(request_, abi.encode(keccak256(abi.encode("output", i))), signerKey);
        }
        vm.recordLogs();
        vm.prank(carrier);
        oracle.fulfillBatch(answers);
        uint256 fulfilled = vm.lastCallGas().gasTotalUsed;

        Fulfillment[] memory fulfillments = fulfillmentsRecorded(size);
        for (uint256 i = 0; i < size; ++i) {
            bytes memory output = delivery == Delivery.Final && callback ? answers[i].output : bytes("");
            settlements[i] = IInferenceOracle.Settlement(answers[i].request, fulfillments[i], output);
        }
        passWindow();
        vm.prank(carrier);
        oracle.finalizeBatch(settlements);
        uint256 finalized = vm.lastCallGas().gasTotalUsed;

        each = (fulfilled + finalized) / size;
        string memory tail = string.concat(", each of ", vm.toString(size), suffix);
        vm.snapshotValue(GROUP, string.concat("fulfill", tail), fulfilled / size);
        vm.snapshotValue(GROUP, string.concat("finalize", tail), finalized / size);
        vm.snapshotValue(GROUP, string.concat("fulfill + finalize", tail), each);
    }

    /// With a callback the consumer asks, and what it does itself is in the number; without one, an account does.
    function _request(Delivery delivery, bool callback, uint256 salt) private returns (PackedRequest memory request_, uint256 used) {
        IInferenceOracle.RequestArgs memory args = callback ? callbackArgs(delivery) : plainArgs();
        args.input = abi.encode(keccak256(abi.encode("input", salt)));
        args.delivery = delivery;
        uint256 value = costOf(args);
        vm.recordLogs();
        vm.prank(alice);
        if (callback) consumer.ask{value: value}(oracle, args);
        else oracle.request{value: value}(args);
        used = vm.lastCallGas().gasTotalUsed;
        request_ = lastRequest();
    }

    function _warmUp(Delivery delivery, bool callback) private {
        (PackedRequest memory request_,) = _request(delivery, callback, 0);
        bytes memory output = abi.encode(keccak256("output"));
        Fulfillment memory fulfillment = post(request_, output);
        passWindow();
        settle(request_, fulfillment, delivery == Delivery.Final && callback ? output : bytes(""));
    }
}
