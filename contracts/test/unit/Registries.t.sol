// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Limits, ModelId, PackedRequest} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {World} from "../utils/World.sol";

/// @title Models
contract ModelRegistryTest is World {
    function test_model_idIsTheHashOfTheDescriptor() external {
        IModelRegistry.ModelDescriptor memory d = descriptor("new", limits());
        ModelId id = ModelId.wrap(
            keccak256(abi.encode(uint256(1), d.graphRoot, d.weightsRoot, d.vocabRoot, uint32(1), uint32(4096), uint32(4096), uint32(16)))
        );
        assertFalse(models.isRegistered(id), "not yet");
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelRegistered(id, d);
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelAnnounced(id, alice, "https://example.org/model");
        vm.prank(alice);
        assertTrue(models.register(d, "https://example.org/model") == id, "id");
        assertTrue(models.idOf(d) == id, "idOf");
        assertTrue(models.isRegistered(id), "registered");
        assertEq(keccak256(abi.encode(models.descriptorOf(id))), ModelId.unwrap(id), "descriptor");
        assertEq(models.limitsOf(id).maxOutputBytes, 4096, "limits");
    }

    function test_model_registeringAgainIsHarmless() external {
        vm.recordLogs();
        models.register(descriptor("model", limits()), "");
        assertEq(vm.getRecordedLogs().length, 0, "no event twice");
    }

    function test_model_anybodyAnnouncesWhatExists() external {
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelAnnounced(model, rival, "ipfs://elsewhere");
        vm.prank(rival);
        models.announce(model, "ipfs://elsewhere");
        ModelId unknown = ModelId.wrap(bytes32(uint256(1)));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, unknown));
        models.announce(unknown, "");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, unknown));
        models.limitsOf(unknown);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, unknown));
        models.descriptorOf(unknown);
    }

    function test_model_refusesImpossibleLimitsAndOtherArithmetic() external {
        Limits[4] memory bad = [Limits(5, 4, 1, 0), Limits(0, 64 * 1024 + 1, 1, 0), Limits(0, 4, 0, 0), Limits(0, 4, 64 * 1024 + 1, 0)];
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IModelRegistry.InvalidLimits.selector, bad[i]));
            models.register(descriptor("bad", bad[i]), "");
        }
        IModelRegistry.ModelDescriptor memory d = descriptor("bad", limits());
        for (uint256 version = 0; version < 4; version += 2) {
            d.arithmeticVersion = version;
            vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnsupportedArithmetic.selector, version));
            models.register(d, "");
        }
    }
}

/// @title Stake, keys, offers: rules P5, P9, P10, P24, P25
contract OperatorRegistryTest is World {
    // ---------------------------------------------------------------- stake

    function test_stake_depositForAnotherAndEvents() external {
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.StakeDeposited(rival, alice, 2 ether, 2 ether);
        vm.prank(alice);
        operators.deposit{value: 2 ether}(rival);
        (uint256 stake, uint256 unbonding, uint256 availableAt, uint256 offers) = operators.stakeOf(rival);
        assertEq(stake, 2 ether, "stake");
        assertEq(unbonding + availableAt + offers, 0, "nothing else");
        vm.expectRevert(IOperatorRegistry.ZeroAmount.selector);
        operators.deposit{value: 0}(rival);
    }

    function test_stake_withdrawalTakesItsTime() external {
        operators.deposit{value: 2 ether}(rival);
        vm.startPrank(rival);
        vm.expectRevert(IOperatorRegistry.NoWithdrawalPending.selector);
        operators.withdraw(rival);
        vm.expectRevert(IOperatorRegistry.NoWithdrawalPending.selector);
        operators.cancelWithdrawal();
        vm.expectRevert(IOperatorRegistry.ZeroAmount.selector);
        operators.requestWithdrawal(0);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeTooLow.selector, rival, 2 ether, 3 ether));
        operators.requestWithdrawal(3 ether);

        uint256 ready = block.timestamp + DELAY;
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.WithdrawalRequested(rival, 1.5 ether, ready);
        operators.requestWithdrawal(1.5 ether);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.WithdrawalPending.selector, 1.5 ether, ready));
        operators.requestWithdrawal(0.5 ether);
        vm.warp(ready - 1);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.WithdrawalNotReady.selector, ready));
        operators.withdraw(alice);
        vm.warp(ready);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.StakeWithdrawn(rival, alice, 1.5 ether);
        operators.withdraw(alice);
        vm.stopPrank();
        assertEq(alice.balance, 1_001.5 ether, "paid out");
        (uint256 stake, uint256 unbonding, uint256 availableAt,) = operators.stakeOf(rival);
        assertEq(stake, 0.5 ether, "rest");
        assertEq(unbonding + availableAt, 0, "nothing pending");
    }

    function test_stake_withdrawalCanBeCancelled() external {
        operators.deposit{value: 2 ether}(rival);
        vm.startPrank(rival);
        operators.requestWithdrawal(1 ether);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.WithdrawalCancelled(rival, 1 ether);
        operators.cancelWithdrawal();
        vm.stopPrank();
        (uint256 stake, uint256 unbonding,,) = operators.stakeOf(rival);
        assertEq(stake - unbonding, 2 ether, "all back");
    }

    function test_stake_withdrawalToWhoTakesNothingReverts() external {
        operators.deposit{value: 2 ether}(rival);
        vm.startPrank(rival);
        operators.requestWithdrawal(1 ether);
        skip(DELAY);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.TransferFailed.selector, address(models), 1 ether));
        operators.withdraw(address(models));
        vm.stopPrank();
    }

    function test_stake_whoOffersKeepsTheMinimum() external {
        vm.startPrank(operator);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OffersRemain.selector, 1));
        operators.requestWithdrawal(9 ether + 1);
        operators.requestWithdrawal(9 ether);
        vm.stopPrank();
    }

    // ---------------------------------------------------------------- keys

    function test_signer_addAndRemove() external {
        bytes memory proof = consent(rival, rivalKey);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.SignerAdded(rival, rivalSigner);
        vm.prank(rival);
        operators.addSigner(rivalSigner, proof);
        assertEq(operators.operatorOf(rivalSigner), rival, "registry");
        assertEq(oracle.operatorOf(rivalSigner), rival, "oracle");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotYourSigner.selector, rivalSigner));
        vm.prank(operator);
        operators.removeSigner(rivalSigner);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.SignerRemoved(rival, rivalSigner);
        vm.prank(rival);
        operators.removeSigner(rivalSigner);
        assertEq(operators.operatorOf(rivalSigner), address(0), "gone");
    }

    function test_signer_servesOneOperatorAndNeedsItsOwnConsent() external {
        bytes memory proof = consent(rival, signerKey);
        vm.startPrank(rival);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.SignerTaken.selector, signer, operator));
        operators.addSigner(signer, proof);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotYourSigner.selector, rivalSigner));
        operators.addSigner(rivalSigner, proof);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotYourSigner.selector, address(0)));
        operators.addSigner(address(0), hex"");
        vm.stopPrank();
    }

    function test_signer_stakeOfItsOperator() external {
        (address whose, uint256 available) = operators.signerStake(signer);
        assertEq(whose, operator, "operator");
        assertEq(available, 10 ether, "available");
        vm.prank(operator);
        operators.requestWithdrawal(4 ether);
        (, available) = operators.signerStake(signer);
        assertEq(available, 6 ether, "less what leaves");
        (whose, available) = operators.signerStake(rivalSigner);
        assertEq(whose, address(0), "nobody");
        assertEq(available, 0, "nothing");
    }

    // ---------------------------------------------------------------- offers

    function test_offer_setChangeAndRemove() external {
        vm.startPrank(operator);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.OfferSet(model, operator, 5);
        operators.setOffer(model, 5);
        (bool serves, uint96 price) = operators.offerOf(model, operator);
        assertTrue(serves && price == 5, "changed");
        (,,, uint256 count) = operators.stakeOf(operator);
        assertEq(count, 1, "still one");
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.OfferRemoved(model, operator);
        operators.removeOffer(model);
        (serves,) = operators.offerOf(model, operator);
        assertFalse(serves, "removed");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NoOffer.selector, model, operator));
        operators.removeOffer(model);
        vm.stopPrank();
    }

    function test_offer_needsStakeAndAModel() external {
        vm.startPrank(rival);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeTooLow.selector, rival, 0, MIN_STAKE));
        operators.setOffer(model, PRICE);
        operators.deposit{value: MIN_STAKE}(rival);
        operators.requestWithdrawal(1);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeTooLow.selector, rival, MIN_STAKE - 1, MIN_STAKE));
        operators.setOffer(model, PRICE);
        operators.cancelWithdrawal();
        ModelId unknown = ModelId.wrap(bytes32(uint256(1)));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, unknown));
        operators.setOffer(unknown, PRICE);
        vm.stopPrank();
    }

    function crowd(uint256 size, uint96 price) internal {
        for (uint256 i = 0; i < size; ++i) {
            address who = account_(string.concat("crowd ", vm.toString(i)));
            vm.startPrank(who);
            operators.deposit{value: MIN_STAKE}(who);
            operators.setOffer(model, price + uint96(i));
            vm.stopPrank();
        }
    }

    /// Removing any offer leaves all the others where they can be found.
    function testFuzz_offer_removalKeepsTheOthers(uint256 size, uint256 gone) external {
        size = bound(size, 1, 12);
        crowd(size, PRICE);
        gone = bound(gone, 0, size - 1);
        address leaver = vm.addr(uint256(keccak256(bytes(string.concat("crowd ", vm.toString(gone))))));
        vm.prank(leaver);
        operators.removeOffer(model);
        (IOperatorRegistry.Offer[] memory page, uint256 total) = operators.offers(model, 0, 100);
        assertEq(total, size, "one less, and the first operator");
        assertEq(page.length, size, "page");
        for (uint256 i = 0; i < page.length; ++i) {
            assertTrue(page[i].operator != leaver, "gone");
            (bool serves, uint96 price) = operators.offerOf(model, page[i].operator);
            assertTrue(serves && price == page[i].price, "found");
            for (uint256 j = 0; j < i; ++j) {
                assertTrue(page[i].operator != page[j].operator, "once");
            }
        }
        // And the last offer can be removed again by its owner, which needs its new position.
        vm.prank(page[0].operator);
        operators.removeOffer(model);
    }

    function test_offer_pages() external {
        crowd(5, PRICE);
        (IOperatorRegistry.Offer[] memory page, uint256 total) = operators.offers(model, 4, 10);
        assertEq(total, 6, "total");
        assertEq(page.length, 2, "what is left");
        (page,) = operators.offers(model, 99, 10);
        assertEq(page.length, 0, "nothing there");
    }

    function test_offer_cheapest() external {
        crowd(3, PRICE - 2);
        assertEq(operators.cheapest(model), PRICE - 2, "lowest");
        assertEq(oracle.cheapestOffer(model), PRICE - 2, "the oracle says the same");
        ModelId unknown = ModelId.wrap(bytes32(uint256(1)));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, unknown));
        operators.cheapest(unknown);
    }

    /// Up to eight offers: whoever is cheap enough is found, wherever the draw starts.
    function testFuzz_draw_findsTheOnlyCheapOne(bytes32 seed, uint256 size) external {
        size = bound(size, 0, 7);
        crowd(size, PRICE + 1);
        (address drawn, uint96 price) = oracle.draw(model, seed, PRICE);
        assertEq(drawn, operator, "operator");
        assertEq(price, PRICE, "price");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.FeeTooLow.selector, PRICE - 1, PRICE));
        oracle.draw(model, seed, PRICE - 1);
    }

    /// More than eight: a crowd of dear offers cannot shut a requester out.
    function test_draw_crowdOfDearOffersLeavesTheRequestOpen() external {
        crowd(40, PRICE + 1);
        uint256 openToAll = 0;
        for (uint256 i = 0; i < 41; ++i) {
            (address drawn, uint96 price) = oracle.draw(model, bytes32(i), PRICE);
            assertEq(price, PRICE, "never more than offered");
            if (drawn == address(0)) ++openToAll;
            else assertEq(drawn, operator, "the cheap one");
        }
        assertEq(openToAll, 41 - 8, "eight starts reach the cheap one");
        // An open request can be answered by any operator at once.
        vm.prevrandao(bytes32(uint256(3)));
        PackedRequest memory r = ask();
        while (oracle.unpack(r).operator != address(0)) {
            r = ask();
        }
        post(r, "answer");
    }

    function test_draw_spreadsOverOperators() external {
        crowd(3, PRICE - 10);
        uint256[4] memory times;
        for (uint256 i = 0; i < 400; ++i) {
            (address drawn, uint96 price) = oracle.draw(model, keccak256(abi.encode(i)), PRICE);
            if (drawn == operator) ++times[3];
            else ++times[price - (PRICE - 10)];
        }
        for (uint256 i = 0; i < 4; ++i) {
            assertTrue(times[i] > 60 && times[i] < 140, "about a quarter each");
        }
    }

    // ---------------------------------------------------------------- slashing

    function test_evict_whoWasSlashedBelowTheMinimum() external {
        join(rival, rivalKey, MIN_STAKE, PRICE);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StillStaked.selector, rival));
        operators.evict(model, rival);
        vm.prank(address(oracle));
        operators.slash(rival, SLICE, address(game));
        operators.evict(model, rival);
        (bool serves,) = operators.offerOf(model, rival);
        assertFalse(serves, "evicted");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NoOffer.selector, model, rival));
        operators.evict(model, rival);
    }

    function test_slash_takesFromWhatIsLeavingToo() external {
        operators.deposit{value: 2 ether}(rival);
        vm.prank(rival);
        operators.requestWithdrawal(2 ether);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Slashed(rival, 0.5 ether, address(game));
        vm.prank(address(oracle));
        operators.slash(rival, 0.5 ether, address(game));
        (uint256 stake, uint256 unbonding,,) = operators.stakeOf(rival);
        assertEq(stake, 1.5 ether, "stake");
        assertEq(unbonding, 1.5 ether, "no more than there is");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeTooLow.selector, rival, 1.5 ether, 2 ether));
        vm.prank(address(oracle));
        operators.slash(rival, 2 ether, address(game));
        vm.prank(address(oracle));
        operators.slash(rival, 1.5 ether, address(game));
        (stake, unbonding,,) = operators.stakeOf(rival);
        assertEq(stake + unbonding, 0, "nothing left");
    }
}
