// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {RequestStatus} from "../../src/Types.sol";
import {IDisputeGame, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {GameWorld} from "../dispute/GameWorld.sol";
import {Trace, Traces} from "../dispute/Traces.sol";

/// @title Honest and dishonest operators and challengers, any number of disputes at once, in any order
/// @notice A handler never reverts and always does something: where nothing is in the state it needs, it first brings something there. The honest answer at
/// once, whoever made them move: `operator` has right results only, `carol` challenges wrong results only. `rival` has wrong results and defends them by its
/// own trace; `dave` challenges anything and points at anything. What the game should hold is counted here independently of it.
contract DisputeHandler is GameWorld {
    using Traces for Trace;
    using Traces for bytes32[][];

    /// A result.
    struct Item {
        bytes play; // `Play`, without a dispute
        uint256 lie; // where it is; 0: the result is right
        bool claimed;
        bool fallen;
        bool rejected;
        bool settled;
        uint256 open;
        uint256 purse; // wei for the gas of those whose disputes are moot
    }

    /// A dispute.
    struct Dispute {
        bytes play;
        uint256 item;
        bool ended;
    }

    Item[] private _items;
    Dispute[] private _disputes;
    address[] public accounts;
    uint256 public bonds; // in the game
    uint256 public purses;
    uint256 public challengesOfCarol;
    uint256 public withdrawnByCarol;
    uint256 public lossesOfTheHonest;

    mapping(bytes4 => uint256) public calls;

    function setUp() public override {
        super.setUp();
        // No offer of the rival's: requests are the operator's for two minutes and anybody's from then on.
        vm.startPrank(rival);
        operators.deposit{value: 500 ether}(rival);
        operators.addSigner(rivalSigner, consent(rival, rivalKey));
        vm.stopPrank();
        accounts = [operator, rival, carol, dave];
        vm.deal(carol, 1_000_000 ether);
        vm.deal(dave, 1_000_000 ether);
    }

    function selectors() external pure returns (bytes4[] memory list) {
        list = new bytes4[](9);
        list[0] = this.challengeOne.selector;
        list[1] = this.challengeTheSame.selector;
        list[2] = this.liarMoves.selector;
        list[3] = this.falseChallengerMoves.selector;
        list[4] = this.runOutOfTime.selector;
        list[5] = this.rejectOne.selector;
        list[6] = this.closeOne.selector;
        list[7] = this.fetchCredit.selector;
        list[8] = this.settleOne.selector;
    }

    // ---------------------------------------------------------------- handlers

    function challengeOne(uint256 seed) external {
        _open(_post(seed), seed >> 128 & 1 == 0);
        calls[msg.sig] += 1;
    }

    function challengeTheSame(uint256 pick, bool byCarol) external {
        uint256 k = _some(pick, false, _isOpen);
        uint256 i = _disputes[k].item;
        if (_inWindow(i)) _open(i, byCarol);
        else _open(_post(pick), byCarol);
        calls[msg.sig] += 1;
    }

    function liarMoves(uint256 pick) external {
        uint256 k = _some(pick, true, _isLiarsTurn);
        Play memory p = _play(k);
        Trace memory trace = _traceOf(_disputes[k].item);
        if (current(p).turn == Turn.Claim) _claim(_disputes[k].item, trace);
        else defend(p, trace, Partials(pick & 1));
        _keep(k, p);
        _respondAll(_disputes[k].item);
        calls[msg.sig] += 1;
    }

    function falseChallengerMoves(uint256 pick, uint256 choice) external {
        uint256 k = _some(pick, true, _isFalseChallengersTurn);
        Play memory p = _play(k);
        IDisputeGame.Dispute memory d = current(p);
        if (d.turn == Turn.Select) {
            select(p, choice % p.revealed.length);
        } else if (d.turn == Turn.SelectElement && toy.partsOf(d.node, 1) != 0) {
            selectElement(p, uint32(choice % 4));
        } else {
            // Nothing to be proven, or nothing that it could tell: its time runs out.
            vm.warp(_later(disputes.deadlineOf(p.d) + 1));
            timeout(p);
        }
        _keep(k, p);
        _respondAll(_disputes[k].item);
        calls[msg.sig] += 1;
    }

    function runOutOfTime(uint256 pick) external {
        uint256 k = _some(pick, true, _isOpen);
        Play memory p = _play(k);
        vm.warp(_later(disputes.deadlineOf(p.d) + 1));
        timeout(p);
        _keep(k, p);
        calls[msg.sig] += 1;
    }

    function rejectOne(uint256 pick) external {
        _reject(_fallen(pick));
        calls[msg.sig] += 1;
    }

    function closeOne(uint256 pick) external {
        (bool found, uint256 k) = _find(pick, _isMoot);
        if (!found) {
            // One result with two challengers, of whom one wins by time.
            uint256 i = _post(pick | 1 << 64);
            k = _open(i, false);
            uint256 other = _open(i, false);
            if (!_items[i].fallen) _timeOut(other);
            if (_disputes[k].ended) k = other;
        }
        if (!_items[_disputes[k].item].rejected) _reject(_disputes[k].item);
        _close(k);
        calls[msg.sig] += 1;
    }

    function fetchCredit(uint256 who, uint256 amount) external {
        address account = accounts[who % accounts.length];
        if (disputes.creditOf(account) == 0) {
            account = dave;
            if (disputes.creditOf(dave) == 0) {
                uint256 i = _post(who | 1 << 64);
                _timeOut(_open(i, false));
                _reject(i);
            }
        }
        amount = bound(amount, 1, disputes.creditOf(account));
        vm.prank(account);
        disputes.withdrawCredit(account, amount);
        if (account == carol) withdrawnByCarol += amount;
        calls[msg.sig] += 1;
    }

    /// A result that stands becomes final after its window.
    function settleOne(uint256 seed) external {
        uint256 i = _post(seed & ~(uint256(1) << 64));
        _timeOut(_open(i, false));
        assertTrue(!_items[i].fallen, "a right result stands");
        _settle(i);
        calls[msg.sig] += 1;
    }

    // ---------------------------------------------------------------- what to compare with

    function theGame() external view returns (address) {
        return address(disputes);
    }

    function credits() external view returns (uint256 sum) {
        for (uint256 i = 0; i < accounts.length; ++i) {
            sum += disputes.creditOf(accounts[i]);
        }
    }

    /// Every dispute's word is there as long as it has not ended, and every result is as it was left.
    function statesAgree() external view returns (bool) {
        for (uint256 k = 0; k < _disputes.length; ++k) {
            Play memory p = _play(k);
            bytes32 word = _disputes[k].ended ? bytes32(0) : keccak256(abi.encode(p.d));
            if (disputes.stateOf(p.d.id) != word) return false;
        }
        for (uint256 i = 0; i < _items.length; ++i) {
            Play memory p = abi.decode(_items[i].play, (Play));
            (uint32 open,,,, bool fallen, bool rejected) = disputes.resultOf(disputes.resultHash(p.r, p.f));
            if (open != _items[i].open || fallen != _items[i].fallen || rejected != _items[i].rejected) return false;
        }
        return true;
    }

    /// What the honest operator has at stake.
    function honestStake() external view returns (uint256 stake) {
        (stake,,,) = operators.stakeOf(operator);
    }

    /// Ends whatever has not ended, by time alone, and pays everybody out.
    function endEverything() external {
        for (uint256 k = 0; k < _disputes.length; ++k) {
            if (_disputes[k].ended) continue;
            if (!_items[_disputes[k].item].fallen) _timeOut(k);
        }
        for (uint256 i = 0; i < _items.length; ++i) {
            if (_items[i].fallen && !_items[i].rejected) _reject(i);
        }
        for (uint256 k = 0; k < _disputes.length; ++k) {
            if (!_disputes[k].ended) _close(k);
        }
        for (uint256 i = 0; i < _items.length; ++i) {
            if (!_items[i].fallen && !_items[i].settled) _settle(i);
        }
        for (uint256 i = 0; i < accounts.length; ++i) {
            uint256 credit = disputes.creditOf(accounts[i]);
            vm.prank(accounts[i]);
            disputes.withdrawCredit(accounts[i], credit);
            if (accounts[i] == carol) withdrawnByCarol += credit;
        }
    }

    // ---------------------------------------------------------------- inside

    function _later(uint256 time) private view returns (uint256) {
        uint256 now_ = vm.getBlockTimestamp();
        return time > now_ ? time : now_;
    }

    function _traceOf(uint256 i) private view returns (Trace memory trace) {
        trace = Traces.truth(toy);
        uint256 lie = _items[i].lie;
        if (lie != 0) {
            uint256 node = lie % 11;
            trace.lie(node, (lie >> 8) % toy.leavesOf(uint32(node)), (lie >> 16) % 4);
        }
    }

    /// A fresh result: of the operator, right; or of the rival, wrong.
    function _post(uint256 seed) private returns (uint256 i) {
        _items.push();
        i = _items.length - 1;
        Play memory p;
        p.r = seed >> 32 & 1 == 0 ? ask() : askByUri();
        if (seed >> 64 & 1 == 1) {
            _items[i].lie = 1 + (seed >> 65) % type(uint64).max;
            skip(EXCLUSIVE);
            p.output = "a lie";
            p.f = post(p.r, p.output, rivalKey);
        } else {
            p.output = rightOutput();
            p.f = post(p.r, p.output);
        }
        _items[i].play = abi.encode(p);
    }

    function _inWindow(uint256 i) private view returns (bool) {
        Play memory p = abi.decode(_items[i].play, (Play));
        return !_items[i].fallen && vm.getBlockTimestamp() < p.f.fulfilledAt + WINDOW;
    }

    /// Carol challenges what is wrong, Dave anything. Whoever is honest answers.
    function _open(uint256 i, bool byCarol) private returns (uint256 k) {
        if (_items[i].lie == 0) byCarol = false;
        Play memory p = abi.decode(_items[i].play, (Play));
        challenge(p, byCarol ? carol : dave);
        if (byCarol) challengesOfCarol += 1;
        bonds += 1;
        _items[i].open += 1;
        _disputes.push();
        k = _disputes.length - 1;
        _disputes[k].item = i;
        _disputes[k].play = abi.encode(p);
        _respondAll(i);
    }

    function _claim(uint256 i, Trace memory trace) private {
        Play memory p = abi.decode(_items[i].play, (Play));
        if (oracle.unpack(p.r).inputByUri) showInput(p);
        claim(p, trace);
        _items[i].claimed = true;
        _items[i].play = abi.encode(p);
    }

    function _play(uint256 k) private view returns (Play memory p) {
        p = abi.decode(_disputes[k].play, (Play));
        // What everybody knows since the claim.
        if (p.c.nodes == 0) {
            Play memory template = abi.decode(_items[_disputes[k].item].play, (Play));
            see(p, template.c, template.revealed);
        }
    }

    /// After a move: the dispute as it is now, or its end.
    function _keep(uint256 k, Play memory p) private {
        _disputes[k].play = abi.encode(p);
        if (disputes.stateOf(p.d.id) != 0) return;
        Item storage item = _items[_disputes[k].item];
        _disputes[k].ended = true;
        item.open -= 1;
        bool carols = p.d.challenger == carol;
        if (isFallen(p)) {
            item.fallen = true; // the winner's bond stays until it is rejected
            if (item.lie == 0) lossesOfTheHonest += 1;
        } else {
            bonds -= 1;
            if (carols) lossesOfTheHonest += 1;
        }
    }

    function _isHonestsTurn(uint256 k, Turn turn) private view returns (bool) {
        bool challengers = turn == Turn.Select || turn == Turn.SelectElement || turn == Turn.Prove;
        if (!challengers) return _items[_disputes[k].item].lie == 0;
        return abi.decode(_disputes[k].play, (Play)).d.challenger == carol;
    }

    /// The honest make their moves, in all disputes about a result, until nobody honest is to move.
    function _respondAll(uint256 i) private {
        Trace memory right = Traces.truth(toy);
        for (uint256 k = 0; k < _disputes.length; ++k) {
            while (_disputes[k].item == i && !_disputes[k].ended && !_items[i].fallen) {
                Play memory p = _play(k);
                Turn turn = current(p).turn;
                if (!_isHonestsTurn(k, turn)) break;
                if (turn == Turn.Claim) _claim(i, right);
                else if (p.d.challenger == carol) attack(p, right);
                else defend(p, right, Partials.Right);
                _keep(k, p);
            }
        }
    }

    function _timeOut(uint256 k) private {
        Play memory p = _play(k);
        vm.warp(_later(disputes.deadlineOf(p.d) + 1));
        timeout(p);
        _keep(k, p);
    }

    function _reject(uint256 i) private {
        Play memory p = abi.decode(_items[i].play, (Play));
        uint256 before;
        for (uint256 k = 0; k < accounts.length; ++k) {
            before += disputes.creditOf(accounts[k]);
        }
        reject(p);
        _items[i].rejected = true;
        bonds -= 1;
        uint256 paid;
        for (uint256 k = 0; k < accounts.length; ++k) {
            paid += disputes.creditOf(accounts[k]);
        }
        paid -= before + BOND;
        if (_items[i].open != 0) {
            _items[i].purse = SLICE / 2 - paid;
            purses += _items[i].purse;
        }
    }

    function _close(uint256 k) private {
        Play memory p = _play(k);
        Item storage item = _items[_disputes[k].item];
        uint256 before = disputes.creditOf(p.d.challenger);
        disputes.close(p.d);
        uint256 repaid = disputes.creditOf(p.d.challenger) - before - BOND;
        _disputes[k].ended = true;
        bonds -= 1;
        item.open -= 1;
        purses -= item.open == 0 ? item.purse : repaid;
        item.purse -= item.open == 0 ? item.purse : repaid;
    }

    function _settle(uint256 i) private {
        Play memory p = abi.decode(_items[i].play, (Play));
        vm.warp(_later(p.f.fulfilledAt + WINDOW));
        settle(p.r, p.f, "");
        _items[i].settled = true;
    }

    function _fallen(uint256 pick) private returns (uint256 i) {
        for (uint256 n = 0; n < _items.length; ++n) {
            i = (pick % _items.length + n) % _items.length;
            if (_items[i].fallen && !_items[i].rejected) return i;
        }
        i = _post(pick | 1 << 64);
        _timeOut(_open(i, pick & 1 == 0));
    }

    // ---------------------------------------------------------------- finding something to do

    function _isOpen(uint256 k) private view returns (bool) {
        return !_disputes[k].ended && !_items[_disputes[k].item].fallen;
    }

    function _isMoot(uint256 k) private view returns (bool) {
        return !_disputes[k].ended && _items[_disputes[k].item].fallen;
    }

    function _isLiarsTurn(uint256 k) private view returns (bool) {
        if (!_isOpen(k) || _items[_disputes[k].item].lie == 0) return false;
        Play memory p = _play(k);
        Turn turn = current(p).turn;
        if (turn == Turn.Select || turn == Turn.SelectElement || turn == Turn.Prove) return false;
        return vm.getBlockTimestamp() <= disputes.deadlineOf(p.d);
    }

    function _isFalseChallengersTurn(uint256 k) private view returns (bool) {
        if (!_isOpen(k)) return false;
        Play memory p = _play(k);
        Turn turn = current(p).turn;
        if (p.d.challenger == carol || (turn != Turn.Select && turn != Turn.SelectElement && turn != Turn.Prove)) return false;
        return vm.getBlockTimestamp() <= disputes.deadlineOf(p.d);
    }

    function _find(uint256 pick, function(uint256) view returns (bool) wanted) private view returns (bool, uint256) {
        uint256 size = _disputes.length;
        for (uint256 n = 0; n < size; ++n) {
            uint256 k = (pick % size + n) % size;
            if (wanted(k)) return (true, k);
        }
        return (false, 0);
    }

    /// A dispute in this state: one that is there, or a fresh one, over a wrong result by Carol or a right one by Dave.
    function _some(uint256 pick, bool any, function(uint256) view returns (bool) wanted) private returns (uint256 k) {
        bool found;
        (found, k) = _find(pick, wanted);
        if (found) return k;
        k = _open(_post(pick | 1 << 64), any && pick & 1 == 0);
        if (wanted(k)) return k;
        k = _open(_post(pick & ~(uint256(1) << 64)), false);
        assertTrue(wanted(k), "something to do");
    }
}
