// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Fulfillment, PackedRequest, Request, RequestId, RequestStatus} from "../../src/Types.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {BurningConsumer, QuietConsumer, RevertingConsumer} from "../utils/Consumers.sol";
import {World} from "../utils/World.sol";

/// @title Everybody, doing anything that is allowed, in any order
/// @notice A handler never reverts and always does something: where nothing is in the state it needs, it first brings something there. `calls` counts what
/// was really done. What the oracle should hold is kept here independently of it.
contract Handler is World {
    struct Item {
        PackedRequest request_;
        Fulfillment fulfillment;
        bytes output;
        RequestStatus status;
    }

    bytes private constant INPUT = "an input";

    Item[] private _items;
    address[] private _requesters;
    address[] public accounts; // whose credit is counted
    address[] public staked; // whose stake is counted

    /// Wei in escrow for requests that are neither final nor cancelled.
    uint256 public escrow;

    mapping(bytes4 => uint256) public calls;

    function setUp() public override {
        super.setUp();
        join(rival, rivalKey, 10 ether, PRICE * 2);
        _requesters.push(alice);
        _requesters.push(address(new QuietConsumer()));
        _requesters.push(address(new RevertingConsumer()));
        _requesters.push(address(new BurningConsumer()));
        for (uint256 i = 0; i < _requesters.length; ++i) {
            accounts.push(_requesters[i]);
        }
        accounts.push(operator);
        accounts.push(rival);
        accounts.push(carrier);
        staked.push(operator);
        staked.push(rival);
        vm.txGasPrice(GAS_PRICE);
    }

    receive() external payable {}

    function selectors() external pure returns (bytes4[] memory list) {
        list = new bytes4[](16);
        list[0] = this.ask_.selector;
        list[1] = this.fulfill.selector;
        list[2] = this.fulfillMany.selector;
        list[3] = this.finalize.selector;
        list[4] = this.finalizeMany.selector;
        list[5] = this.cancel.selector;
        list[6] = this.openDispute.selector;
        list[7] = this.uphold.selector;
        list[8] = this.reject.selector;
        list[9] = this.retry.selector;
        list[10] = this.depositCredit.selector;
        list[11] = this.withdrawCredit.selector;
        list[12] = this.addStake.selector;
        list[13] = this.takeStakeOut.selector;
        list[14] = this.changeOffer.selector;
        list[15] = this.letTimePass.selector;
    }

    // ---------------------------------------------------------------- requests

    function ask_(uint256 who, uint256 terms, uint256 excess) external {
        _ask(who, terms, bound(excess, 0, 1 ether));
        calls[msg.sig] += 1;
    }

    function fulfill(uint256 pick, bool byRival) external {
        _fulfill(_some(RequestStatus.Requested, pick), byRival);
        calls[msg.sig] += 1;
    }

    function fulfillMany(uint256 pick, bool byRival) external {
        uint256[2] memory chosen = [_some(RequestStatus.Requested, pick), 0];
        chosen[1] = _ask(pick >> 8, pick >> 16, 0);
        IInferenceOracle.Answer[] memory answers = new IInferenceOracle.Answer[](3);
        for (uint256 i = 0; i < 2; ++i) {
            answers[i] = _answer(chosen[i], byRival);
        }
        answers[2] = answers[0]; // already answered when its turn comes: skipped
        vm.recordLogs();
        vm.prank(carrier);
        oracle.fulfillBatch(answers);
        Fulfillment[] memory posted = fulfillmentsRecorded(2);
        for (uint256 i = 0; i < 2; ++i) {
            _posted(chosen[i], posted[i], answers[i].output);
        }
        calls[msg.sig] += 1;
    }

    function finalize(uint256 pick) external {
        uint256 i = _some(RequestStatus.Fulfilled, pick);
        passWindow();
        IInferenceOracle.Settlement memory settlement = _settlement(i);
        vm.prank(carrier);
        oracle.finalize(settlement);
        calls[msg.sig] += 1;
    }

    function finalizeMany(uint256 pick) external {
        IInferenceOracle.Settlement[] memory settlements = new IInferenceOracle.Settlement[](3);
        uint256 first = _some(RequestStatus.Fulfilled, pick);
        passWindow();
        settlements[0] = _settlement(first);
        settlements[1] = settlements[0]; // already final when its turn comes: skipped
        uint256 late = _ask(pick >> 8, pick >> 16, 0);
        _fulfill(late, pick & 1 == 0);
        settlements[2] = IInferenceOracle.Settlement(_items[late].request_, _items[late].fulfillment, ""); // too early: skipped
        vm.prank(carrier);
        oracle.finalizeBatch(settlements);
        calls[msg.sig] += 1;
    }

    function cancel(uint256 pick) external {
        Item storage item = _items[_some(RequestStatus.Requested, pick)];
        Request memory r = oracle.unpack(item.request_);
        vm.warp(r.deadline + 1 > vm.getBlockTimestamp() ? r.deadline + 1 : vm.getBlockTimestamp());
        oracle.cancel(item.request_);
        item.status = RequestStatus.Cancelled;
        escrow -= _total(r);
        calls[msg.sig] += 1;
    }

    // ---------------------------------------------------------------- disputes

    function openDispute(uint256 pick) external {
        _open(pick);
        calls[msg.sig] += 1;
    }

    function uphold(uint256 pick) external {
        Item storage item = _items[_some(RequestStatus.Disputed, pick)];
        game.uphold(item.request_, item.fulfillment);
        item.status = RequestStatus.Fulfilled;
        calls[msg.sig] += 1;
    }

    function reject(uint256 pick) external {
        Item storage item = _items[_some(RequestStatus.Disputed, pick)];
        vm.recordLogs();
        // Of an input that is at a URI nothing need be brought.
        bool without = oracle.unpack(item.request_).inputByUri && pick & 1 == 0;
        game.reject(item.request_, item.fulfillment, without ? bytes("") : INPUT);
        item.request_ = lastRequest();
        item.status = RequestStatus.Requested;
        calls[msg.sig] += 1;
    }

    function retry(uint256 pick) external {
        // A result whose delivery failed at once: the reverting consumer's.
        uint256 i = _ask(2, 1 | pick << 1, 0);
        _fulfill(i, false);
        oracle.retryCallback(_items[i].request_, _items[i].fulfillment, _items[i].output);
        calls[msg.sig] += 1;
    }

    // ---------------------------------------------------------------- money

    function depositCredit(uint256 who, uint256 amount) external {
        oracle.depositCredit{value: bound(amount, 0, 1 ether)}(accounts[who % accounts.length]);
        calls[msg.sig] += 1;
    }

    function withdrawCredit(uint256 who, uint256 amount) external {
        address account = accounts[who % accounts.length];
        oracle.depositCredit{value: 1}(account);
        amount = bound(amount, 1, oracle.creditOf(account));
        vm.prank(account);
        oracle.withdrawCredit(account, amount);
        calls[msg.sig] += 1;
    }

    function addStake(uint256 who, uint256 amount) external {
        operators.deposit{value: bound(amount, 1, 2 ether)}(staked[who % staked.length]);
        calls[msg.sig] += 1;
    }

    /// As much as is wanted, as early as it is allowed, whatever is locked.
    function takeStakeOut(uint256 who, uint256 amount, bool changeOfMind) external {
        address account = staked[who % staked.length];
        operators.deposit{value: MIN_STAKE + SLICE}(account);
        (uint256 stake, uint256 unbonding,,) = operators.stakeOf(account);
        if (unbonding == 0) {
            vm.prank(account);
            operators.requestWithdrawal(bound(amount, 1, stake - MIN_STAKE));
        }
        if (changeOfMind) {
            vm.prank(account);
            operators.cancelWithdrawal();
        } else if (amount % 4 != 0) {
            skip(DELAY);
            // The deposit above is more than nothing beyond what is locked; unless results were posted on stake that is on its way out.
            if (stake > oracle.lockedStakeOf(account)) {
                vm.prank(account);
                operators.withdraw(account);
            }
        }
        calls[msg.sig] += 1;
    }

    function changeOffer(uint256 price, bool remove) external {
        (bool serves,) = operators.offerOf(model, rival);
        (uint256 stake, uint256 unbonding,,) = operators.stakeOf(rival);
        if (remove && serves) {
            vm.prank(rival);
            operators.removeOffer(model);
        } else {
            if (stake - unbonding < MIN_STAKE) operators.deposit{value: MIN_STAKE}(rival);
            vm.prank(rival);
            operators.setOffer(model, uint96(bound(price, 1, 2 * PRICE)));
        }
        calls[msg.sig] += 1;
    }

    function letTimePass(uint256 time) external {
        skip(bound(time, 1, 3 hours));
        calls[msg.sig] += 1;
    }

    // ---------------------------------------------------------------- what to compare with

    function oracleCredits() external view returns (uint256 sum) {
        for (uint256 i = 0; i < accounts.length; ++i) {
            sum += oracle.creditOf(accounts[i]);
        }
    }

    function stakes() external view returns (uint256 sum) {
        for (uint256 i = 0; i < staked.length; ++i) {
            (uint256 stake,,,) = operators.stakeOf(staked[i]);
            sum += stake;
        }
    }

    function stakedCount() external view returns (uint256) {
        return staked.length;
    }

    function stakeAndUnbonding(address account) external view returns (uint256 stake, uint256 unbonding) {
        (stake, unbonding,,) = operators.stakeOf(account);
    }

    function openResultsHere(address account) external view returns (uint256 open) {
        for (uint256 i = 0; i < _items.length; ++i) {
            RequestStatus status = _items[i].status;
            bool posted = status == RequestStatus.Fulfilled || status == RequestStatus.Disputed;
            if (posted && _items[i].fulfillment.operator == account) ++open;
        }
    }

    /// Every request stands where it was brought, and nowhere else.
    function statusesAgree() external view returns (bool) {
        for (uint256 i = 0; i < _items.length; ++i) {
            (RequestStatus status,) = oracle.statusOf(RequestId.wrap(uint64(i + 1)));
            if (status != _items[i].status) return false;
            if ((status == RequestStatus.Finalized) != oracle.isFinal(_items[i].request_, _items[i].fulfillment)) return false;
        }
        return oracle.requestCount() == _items.length;
    }

    function theOracle() external view returns (address) {
        return address(oracle);
    }

    function theRegistry() external view returns (address) {
        return address(operators);
    }

    function lockedStakeOf(address account) external view returns (uint256) {
        return oracle.lockedStakeOf(account);
    }

    // ---------------------------------------------------------------- inside

    /// An item in this state: one that is there, or one that is brought there.
    function _some(RequestStatus status, uint256 pick) private returns (uint256) {
        uint256 size = _items.length;
        for (uint256 k = 0; k < size; ++k) {
            uint256 i = (pick % size + k) % size;
            if (_items[i].status != status) continue;
            if (status != RequestStatus.Requested || _isLive(i)) return i;
        }
        if (status == RequestStatus.Disputed) return _open(pick);
        uint256 fresh = _ask(pick, pick >> 8, 0);
        if (status == RequestStatus.Fulfilled) _fulfill(fresh, pick & 1 == 0);
        return fresh;
    }

    function _isLive(uint256 i) private view returns (bool) {
        return oracle.unpack(_items[i].request_).deadline >= vm.getBlockTimestamp();
    }

    function _ask(uint256 who, uint256 terms, uint256 excess) private returns (uint256) {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = INPUT;
        args.maxFee = 2 * PRICE;
        args.delivery = Delivery(1 - (terms & 1));
        args.callbackGasLimit = terms & 2 == 0 && who % 4 != 2 ? 0 : 50_000;
        args.callbackGasPrice = uint64(bound(terms >> 2, 0, 2 * GAS_PRICE));
        address requester = _requesters[who % _requesters.length];
        vm.deal(requester, 100 ether);
        // Half of them prepaid; never more than needed is asked for, never less is there.
        uint256 needed = uint256(args.maxFee) + allowanceOf(args);
        if (terms & 4 == 0) oracle.depositCredit{value: needed}(requester);
        vm.recordLogs();
        bool byUri = terms & 8 != 0;
        if (byUri) args.input = "";
        uint256 value = terms & 4 == 0 ? excess : needed + excess;
        vm.prank(requester);
        if (byUri) oracle.requestByUri{value: value}(args, keccak256(INPUT), uint32(INPUT.length), "ipfs://input");
        else oracle.request{value: value}(args);
        _items.push();
        Item storage item = _items[_items.length - 1];
        item.request_ = byUri ? lastRequestByUri() : lastRequest();
        item.status = RequestStatus.Requested;
        escrow += _total(oracle.unpack(item.request_));
        return _items.length - 1;
    }

    function _answer(uint256 i, bool byRival) private returns (IInferenceOracle.Answer memory) {
        Request memory r = oracle.unpack(_items[i].request_);
        if (r.operator == operator) byRival = false;
        if (r.operator == rival) byRival = true;
        address who = byRival ? rival : operator;
        // Stake for two more, however much is locked or leaving.
        (uint256 stake, uint256 unbonding,,) = operators.stakeOf(who);
        uint256 needed = oracle.lockedStakeOf(who) + 2 * SLICE;
        if (stake - unbonding < needed) operators.deposit{value: needed - (stake - unbonding)}(who);
        return answerOf(_items[i].request_, abi.encode("output", i), byRival ? rivalKey : signerKey);
    }

    function _fulfill(uint256 i, bool byRival) private {
        IInferenceOracle.Answer memory answer = _answer(i, byRival);
        vm.recordLogs();
        vm.prank(carrier);
        oracle.fulfill(answer);
        _posted(i, lastFulfillment(), answer.output);
    }

    function _posted(uint256 i, Fulfillment memory fulfillment, bytes memory output) private {
        _items[i].fulfillment = fulfillment;
        _items[i].output = output;
        _items[i].status = RequestStatus.Fulfilled;
    }

    /// Inside its window: a fresh one.
    function _open(uint256 pick) private returns (uint256 i) {
        i = _ask(pick, pick >> 8, 0);
        _fulfill(i, pick & 1 == 0);
        game.open(_items[i].request_, _items[i].fulfillment);
        _items[i].status = RequestStatus.Disputed;
    }

    function _settlement(uint256 i) private returns (IInferenceOracle.Settlement memory) {
        Item storage item = _items[i];
        Request memory r = oracle.unpack(item.request_);
        item.status = RequestStatus.Finalized;
        escrow -= _total(r);
        bool deliver = r.delivery == Delivery.Final && r.callbackGasLimit != 0;
        return IInferenceOracle.Settlement(item.request_, item.fulfillment, deliver ? item.output : bytes(""));
    }

    function _total(Request memory r) private pure returns (uint256) {
        return uint256(r.fee) + uint256(r.callbackGasLimit) * r.callbackGasPrice;
    }
}
