// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Limits, ModelId, PackedRequest, Params, Request, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {World} from "../utils/World.sol";

/// @title Asking and cancelling: rules P1 to P6, P24
contract RequestTest is World {
    function test_request_storesWhatWasAskedAndTellsEverything() external {
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Final);
        args.params = Params(7, 0x3f800000, 0x3d4ccccd);
        PackedRequest memory packed = ask(alice, args);
        Request memory r = oracle.unpack(packed);

        assertEq(RequestId.unwrap(r.id), 1, "id");
        assertEq(r.attempt, 0, "attempt");
        assertEq(r.requester, alice, "requester");
        assertEq(ModelId.unwrap(r.modelId), ModelId.unwrap(model), "model");
        assertEq(r.inputHash, keccak256(args.input), "input hash");
        assertEq(r.params.maxTokens, 7, "max tokens");
        assertEq(r.params.temperature, 0x3f800000, "temperature");
        assertEq(r.params.minP, 0x3d4ccccd, "min p");
        assertEq(uint256(r.delivery), uint256(Delivery.Final), "delivery");
        assertEq(r.callbackGasLimit, 150_000, "gas limit");
        assertEq(r.callbackGasPrice, GAS_PRICE, "gas price");
        assertEq(r.fee, PRICE, "fee");
        assertEq(r.operator, operator, "operator");
        assertEq(r.exclusiveUntil, block.timestamp + EXCLUSIVE, "exclusive until");
        assertEq(r.deadline, block.timestamp + TIMEOUT, "deadline");
        assertEq(address(oracle).balance, costOf(args), "escrow");
        assertEq(oracle.creditOf(alice), 0, "no credit");
        assertStatus(r.id, RequestStatus.Requested, CallbackStatus.None, "status");
        assertEq(oracle.requestHash(packed), keccak256(abi.encode(packed)), "hash");
    }

    /// The hand-made log is the log that `emit` would make.
    function testFuzz_request_eventIsTheAbiEncoding(bytes memory input) external {
        vm.assume(input.length > 0 && input.length <= 4096);
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = input;
        PackedRequest memory packed = ask(alice, args);
        assertEq(lastEvent(IInferenceOracle.Requested.selector), abi.encode(packed, input), "event data");

        vm.recordLogs();
        vm.prank(alice);
        vm.expectEmit(true, true, true, false, address(oracle));
        emit IInferenceOracle.Requested(RequestId.wrap(2), model, operator, packed, input);
        oracle.request{value: PRICE}(args);
    }

    function test_request_numbersFromOneWithoutHoles() external {
        for (uint256 i = 1; i <= 5; ++i) {
            assertEq(RequestId.unwrap(oracle.unpack(ask()).id), i, "id");
            assertEq(oracle.requestCount(), i, "count");
        }
    }

    function test_request_seedsDiffer() external {
        bytes32 first = ask().seed;
        bytes32 second = ask().seed;
        assertTrue(first != second, "same block, same requester");
        vm.prevrandao(keccak256("other"));
        assertTrue(ask().seed != first && first != 0, "randao");
    }

    function test_request_overpaymentBecomesCredit() external {
        vm.prank(alice);
        oracle.request{value: PRICE + 5}(plainArgs());
        assertEq(oracle.creditOf(alice), 5, "credit");
    }

    function test_request_paysFromCreditWhatIsMissing() external {
        oracle.depositCredit{value: PRICE}(alice);
        vm.prank(alice);
        oracle.request{value: 1}(plainArgs());
        assertEq(oracle.creditOf(alice), 1, "credit left");
    }

    function test_request_revertsWhenPaymentAndCreditAreTooLittle() external {
        oracle.depositCredit{value: 10}(alice);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InsufficientPayment.selector, 15, uint256(PRICE)));
        vm.prank(alice);
        oracle.request{value: 5}(plainArgs());
    }

    function test_request_chargesThePriceNotTheMaximum() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.maxFee = 1 ether;
        vm.recordLogs();
        vm.prank(alice);
        oracle.request{value: PRICE}(args);
        assertEq(oracle.unpack(lastRequest()).fee, PRICE, "fee");
    }

    function test_request_revertsForFeeTooLow() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.maxFee = PRICE - 1;
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.FeeTooLow.selector, PRICE - 1, PRICE));
        oracle.request{value: PRICE}(args);
    }

    function test_request_revertsForUnknownModel() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.modelId = ModelId.wrap(keccak256("nothing"));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, args.modelId));
        oracle.request{value: PRICE}(args);
    }

    function test_request_revertsForModelNobodyServes() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.modelId = models.register(descriptor("lonely", limits()), "");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NoOperators.selector, args.modelId));
        oracle.request{value: PRICE}(args);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NoOperators.selector, args.modelId));
        oracle.quote(args.modelId, 0, 0);
    }

    function test_request_revertsForInputSize() external {
        ModelId picky = models.register(descriptor("picky", Limits(4, 8, 1, 0)), "");
        vm.prank(operator);
        operators.setOffer(picky, PRICE);
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.modelId = picky;
        args.input = hex"010203";
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InputSize.selector, 3, 4, 8));
        oracle.request{value: PRICE}(args);
        args.input = hex"010203040506070809";
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InputSize.selector, 9, 4, 8));
        oracle.request{value: PRICE}(args);
        args.input = hex"01020304";
        oracle.request{value: PRICE}(args);
        args.input = hex"0102030405060708";
        oracle.request{value: PRICE}(args);
    }

    function test_request_revertsForTooManyTokens() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.params.maxTokens = 17;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.TooManyTokens.selector, 17, 16));
        oracle.request{value: PRICE}(args);
    }

    function test_request_revertsForTimeoutOutOfRange() external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.timeout = 5 minutes - 1;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InvalidTimeout.selector, args.timeout, 5 minutes, 7 days));
        oracle.request{value: PRICE}(args);
        args.timeout = 7 days + 1;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InvalidTimeout.selector, args.timeout, 5 minutes, 7 days));
        oracle.request{value: PRICE}(args);
    }

    function test_request_revertsForCallbackTooLargeOrTooDear() external {
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Final);
        args.callbackGasLimit = MAX_CALLBACK_GAS + 1;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.CallbackGasTooHigh.selector, args.callbackGasLimit, MAX_CALLBACK_GAS));
        oracle.request{value: 1 ether}(args);
        args = callbackArgs(Delivery.Final);
        args.callbackGasPrice = uint64(type(uint48).max) + 1;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.CallbackGasPriceTooHigh.selector, args.callbackGasPrice, type(uint48).max));
        oracle.request{value: 1 ether}(args);
    }

    function test_quote_isWhatARequestCosts() external view {
        (uint96 price, uint256 total) = oracle.quote(model, 100_000, GAS_PRICE);
        assertEq(price, PRICE, "price");
        assertEq(total, uint256(PRICE) + 100_000 * uint256(GAS_PRICE), "total");
    }

    /// Every field survives packing, at every size it may have.
    function testFuzz_request_packingLosesNothing(
        Params memory params,
        uint32 gasLimit,
        uint48 gasPrice,
        uint96 maxFee,
        uint32 timeout,
        bool final_
    ) external {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.params = Params(uint32(bound(params.maxTokens, 0, 16)), params.temperature, params.minP);
        args.callbackGasLimit = uint32(bound(gasLimit, 0, MAX_CALLBACK_GAS));
        args.callbackGasPrice = gasPrice;
        args.maxFee = uint96(bound(maxFee, PRICE, type(uint96).max));
        args.timeout = uint32(bound(timeout, 5 minutes, 7 days));
        args.delivery = final_ ? Delivery.Final : Delivery.Optimistic;
        vm.deal(alice, type(uint128).max);
        Request memory r = oracle.unpack(ask(alice, args));
        assertEq(r.params.maxTokens, args.params.maxTokens, "max tokens");
        assertEq(r.params.temperature, args.params.temperature, "temperature");
        assertEq(r.params.minP, args.params.minP, "min p");
        assertEq(r.callbackGasLimit, args.callbackGasLimit, "gas limit");
        assertEq(r.callbackGasPrice, args.callbackGasPrice, "gas price");
        assertEq(r.fee, PRICE, "fee");
        assertEq(uint256(r.delivery), uint256(args.delivery), "delivery");
        assertEq(r.deadline, block.timestamp + args.timeout, "deadline");
        assertEq(r.exclusiveUntil, block.timestamp + EXCLUSIVE, "exclusive until");
    }

    // ---------------------------------------------------------------- cancelling

    function test_cancel_refundsEverythingAfterTheDeadline() external {
        IInferenceOracle.RequestArgs memory args = callbackArgs(Delivery.Optimistic);
        PackedRequest memory r = ask(alice, args);
        RequestId id = oracle.unpack(r).id;
        vm.warp(block.timestamp + TIMEOUT + 1);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.Cancelled(id, costOf(args));
        vm.prank(carrier);
        oracle.cancel(r);
        assertEq(oracle.creditOf(alice), costOf(args), "refund");
        assertStatus(id, RequestStatus.Cancelled, CallbackStatus.None, "status");

        vm.prank(alice);
        oracle.withdrawCredit(alice, costOf(args));
        assertEq(alice.balance, 1_000 ether, "all of it");
        assertEq(address(oracle).balance, 0, "nothing left");
    }

    function test_cancel_revertsUpToTheDeadline() external {
        PackedRequest memory r = ask();
        RequestId id = oracle.unpack(r).id;
        uint256 deadline = block.timestamp + TIMEOUT;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.DeadlineNotPassed.selector, id, deadline));
        oracle.cancel(r);
    }

    function test_cancel_revertsForAnotherStateOrRequest() external {
        PackedRequest memory r = ask();
        RequestId id = oracle.unpack(r).id;
        vm.warp(block.timestamp + TIMEOUT + 1);
        PackedRequest memory forged = ask();
        forged.head = r.head;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.RequestMismatch.selector, id));
        oracle.cancel(forged);
        oracle.cancel(r);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, id, RequestStatus.Cancelled));
        oracle.cancel(r);
    }

    // ---------------------------------------------------------------- credit

    function test_credit_depositAndWithdraw() external {
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.CreditDeposited(alice, carrier, 3 ether);
        vm.prank(carrier);
        oracle.depositCredit{value: 3 ether}(alice);
        vm.expectEmit(address(oracle));
        emit IInferenceOracle.CreditWithdrawn(alice, rival, 2 ether);
        vm.prank(alice);
        oracle.withdrawCredit(rival, 2 ether);
        assertEq(oracle.creditOf(alice), 1 ether, "left");
        assertEq(rival.balance, 1_002 ether, "received");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InsufficientCredit.selector, 1 ether, 1 ether + 1));
        vm.prank(alice);
        oracle.withdrawCredit(alice, 1 ether + 1);
    }

    function test_credit_withdrawalThatIsNotTakenReverts() external {
        oracle.depositCredit{value: 1 ether}(alice);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.TransferFailed.selector, address(models), 1 ether));
        vm.prank(alice);
        oracle.withdrawCredit(address(models), 1 ether);
    }
}
