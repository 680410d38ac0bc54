// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, Fulfillment, ModelId, PackedRequest, RequestId, RequestStatus} from "../../src/Types.sol";
import {InferenceConsumer} from "../../src/consumer/InferenceConsumer.sol";
import {MockInferenceOracle} from "../../src/consumer/MockInferenceOracle.sol";
import {DigitReader} from "../../src/examples/DigitReader.sol";
import {LoanDesk} from "../../src/examples/LoanDesk.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {World} from "../utils/World.sol";

/// @title The consumer's side, as a consumer's author would test it: against the mock
contract ConsumerTest is World {
    MockInferenceOracle private mock;
    LoanDesk private desk;
    DigitReader private reader;

    bytes private constant LIKELY = hex"3f400000"; // 0.75
    bytes private constant UNLIKELY = hex"3e4ccccd"; // 0.2

    function setUp() public override {
        super.setUp();
        mock = new MockInferenceOracle(PRICE);
        desk = new LoanDesk(mock, model, 0.5e18);
        reader = new DigitReader(mock, model);
        vm.deal(address(desk), 1 ether);
        vm.deal(address(reader), 1 ether);
    }

    function submit(Delivery delivery) internal returns (RequestId) {
        int256[20] memory numbers;
        (numbers[0], numbers[19]) = (1, -3);
        vm.prank(alice);
        return desk.submit(numbers, delivery);
    }

    function decisionOf(RequestId id) internal view returns (LoanDesk.Decision decision) {
        (, decision,) = desk.applications(id);
    }

    // ---------------------------------------------------------------- loans

    function test_desk_asksWhatWasStated() external {
        RequestId id = submit(Delivery.Final);
        MockInferenceOracle.Asked memory asked = mock.askedOf(id);
        assertEq(asked.requester, address(desk), "requester");
        assertEq(asked.args.input.length, 80, "twenty floats");
        assertEq(uint256(uint32(bytes4(asked.args.input))), 0x3f800000, "the first");
        assertEq(uint256(uint8(asked.args.input[76])) << 8 | uint8(asked.args.input[77]), 0xc040, "the last");
        assertTrue(asked.args.delivery == Delivery.Final, "delivery");
        assertTrue(decisionOf(id) == LoanDesk.Decision.Pending, "pending");
    }

    function test_desk_decidesByItsThreshold() external {
        RequestId good = submit(Delivery.Final);
        RequestId bad = submit(Delivery.Final);
        vm.expectEmit(address(desk));
        emit LoanDesk.Decided(good, alice, true, 200000002980232239);
        mock.answer(good, UNLIKELY);
        mock.answer(bad, LIKELY);
        assertTrue(decisionOf(good) == LoanDesk.Decision.Approved, "approved");
        assertTrue(decisionOf(bad) == LoanDesk.Decision.Denied, "denied");
        RequestId edge = submit(Delivery.Final);
        mock.answer(edge, hex"3f000000");
        assertTrue(decisionOf(edge) == LoanDesk.Decision.Approved, "the threshold itself is approved");
    }

    function test_desk_undoesWhatIsRevokedAndDecidesAgain() external {
        RequestId id = submit(Delivery.Optimistic);
        mock.answer(id, UNLIKELY);
        mock.revoke(id);
        assertTrue(decisionOf(id) == LoanDesk.Decision.Revoked, "revoked");
        mock.answer(id, LIKELY);
        assertTrue(decisionOf(id) == LoanDesk.Decision.Denied, "decided again");
    }

    function test_desk_refusesNonsense() external {
        bytes[6] memory nonsense = [bytes(""), hex"3f0000", hex"3f00000000", hex"7fc00000", hex"bf000000", hex"3f800001"];
        for (uint256 i = 0; i < nonsense.length; ++i) {
            RequestId id = submit(Delivery.Final);
            (bool delivered, bytes memory why) = mock.answer(id, nonsense[i]);
            assertFalse(delivered, "refused");
            assertTrue(why.length >= 4, "with a reason");
            assertTrue(decisionOf(id) == LoanDesk.Decision.Pending, "nothing decided");
        }
    }

    function test_desk_failureForWantOfGasDecidesNothing() external {
        RequestId id = submit(Delivery.Final);
        (bool delivered, bytes memory why) = mock.answerWithGas(id, UNLIKELY, 5_000);
        assertFalse(delivered, "out of gas");
        assertEq(why.length, 0, "which says nothing");
        assertTrue(decisionOf(id) == LoanDesk.Decision.Pending, "nothing decided");
    }

    function test_consumer_listensToItsOracleOnly() external {
        RequestId id = submit(Delivery.Optimistic);
        vm.expectRevert(abi.encodeWithSelector(InferenceConsumer.NotOracle.selector, address(this)));
        desk.onInferenceResult(id, UNLIKELY);
        vm.expectRevert(abi.encodeWithSelector(InferenceConsumer.NotOracle.selector, address(this)));
        desk.onInferenceRevoked(id);
    }

    function test_consumer_paysFromCreditFirstThenFromItsBalance() external {
        uint256 cost = PRICE + 200_000 * uint256(2 * uint64(block.basefee) + 1 gwei);
        mock.depositCredit{value: cost - 1}(address(desk));
        submit(Delivery.Final);
        assertEq(mock.creditOf(address(desk)), 0, "credit used");
        assertEq(address(desk).balance, 1 ether - 1, "one wei from the balance");
        vm.deal(address(desk), 1);
        int256[20] memory numbers;
        vm.expectRevert(abi.encodeWithSelector(InferenceConsumer.CannotPay.selector, 1, cost));
        desk.submit(numbers, Delivery.Final);
    }

    function test_mock_expiryRefundsAndRefusalsAreThoseOfTheRealOne() external {
        RequestId id = submit(Delivery.Final);
        uint256 cost = mock.askedOf(id).paid;
        mock.expire(id);
        assertEq(mock.creditOf(address(desk)), cost, "refund");
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.WrongStatus.selector, id, RequestStatus.Cancelled));
        mock.answer(id, UNLIKELY);
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.maxFee = PRICE - 1;
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.FeeTooLow.selector, PRICE - 1, PRICE));
        mock.request{value: PRICE}(args);
        args.maxFee = PRICE;
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InsufficientPayment.selector, 1, PRICE));
        mock.request{value: 1}(args);
        vm.expectRevert(MockInferenceOracle.NotInMock.selector);
        mock.disputeGame();
    }

    function test_mock_creditCanBeTakenOut() external {
        mock.depositCredit{value: 3}(alice);
        vm.startPrank(alice);
        vm.expectRevert(abi.encodeWithSelector(IInferenceOracle.InsufficientCredit.selector, 3, 4));
        mock.withdrawCredit(rival, 4);
        mock.withdrawCredit(rival, 3);
        vm.stopPrank();
        assertEq(rival.balance, 1_000 ether + 3, "paid out");
    }

    // ---------------------------------------------------------------- digits

    function test_reader_storesClassAndConfidence() external {
        vm.prank(alice);
        RequestId id = reader.read(new bytes(784), Delivery.Optimistic);
        bytes memory output = abi.encodePacked(uint32(3), new bytes(12), hex"3f400000", new bytes(24));
        mock.answer(id, output);
        (address by, bool known, uint8 digit, uint64 confidence) = reader.readings(id);
        assertEq(by, alice, "reader");
        assertTrue(known, "known");
        assertEq(digit, 3, "digit");
        assertEq(confidence, 0.75e18, "confidence");
        mock.revoke(id);
        (, known, digit, confidence) = reader.readings(id);
        assertTrue(!known && digit == 0 && confidence == 0, "undone");
    }

    function test_reader_refusesNonsense() external {
        vm.expectRevert(abi.encodeWithSelector(DigitReader.ImageSize.selector, 783));
        reader.read(new bytes(783), Delivery.Final);
        RequestId id = reader.read(new bytes(784), Delivery.Final);
        bytes[3] memory nonsense = [
            abi.encodePacked(uint32(10), new bytes(40)),
            abi.encodePacked(uint32(0), hex"7f800000", new bytes(36)),
            abi.encodePacked(uint32(0), new bytes(36))
        ];
        for (uint256 i = 0; i < nonsense.length; ++i) {
            (bool delivered,) = mock.answer(id, nonsense[i]);
            assertFalse(delivered, "refused");
            id = reader.read(new bytes(784), Delivery.Final);
        }
    }

    // ---------------------------------------------------------------- against the real oracle

    function test_desk_withTheRealOracleFromQuestionToDecision() external {
        desk = new LoanDesk(oracle, model, 0.5e18);
        int256[20] memory numbers;
        vm.recordLogs();
        vm.prank(alice);
        RequestId id = desk.submit{value: 0.1 ether}(numbers, Delivery.Final);
        PackedRequest memory r = lastRequest();
        Fulfillment memory f = post(r, UNLIKELY);
        passWindow();
        settle(r, f, UNLIKELY);
        assertTrue(decisionOf(id) == LoanDesk.Decision.Approved, "approved");
    }

    /// Both oracles answer the same question about price with the same numbers.
    function testFuzz_mock_quotesAsTheRealOne(uint32 gasLimit, uint64 gasPrice) external view {
        (uint96 price, uint256 total) = oracle.quote(model, gasLimit, gasPrice);
        (uint96 mockPrice, uint256 mockTotal) = mock.quote(model, gasLimit, gasPrice);
        assertEq(price, mockPrice, "price");
        assertEq(total, mockTotal, "total");
    }
}
