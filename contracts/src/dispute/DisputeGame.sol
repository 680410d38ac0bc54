// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Fulfillment, PackedRequest} from "../Types.sol";
import {DisputeId, IDisputeGame, Outcome, Turn} from "../interfaces/IDisputeGame.sol";
import {IInferenceOracle} from "../interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../interfaces/IStepVerifier.sol";
import {Merkle} from "../lib/Merkle.sol";
import {PackedRequests} from "../lib/PackedRequests.sol";
import {Clock} from "./Clock.sol";
import {Credits} from "./Credits.sol";
import {Descent} from "./Descent.sol";
import {Result, Standing} from "./Results.sol";
import {Words} from "./Words.sol";

/// @title Dispute game
/// @notice See `IDisputeGame` for the game and docs/protocol.md for its rules, which the comments here cite as P26, P27, ... Immutable, owned by nobody.
/// @dev It knows no arithmetic: what a run is and whether a piece of it is wrong is the verifier's affair. Here is whose turn it is, how long, what binds whom,
/// and who pays.
contract DisputeGame is Credits {
    using PackedRequests for PackedRequest;
    using PackedRequests for bytes32;
    using Words for Dispute;
    using Words for IStepVerifier.Claim;
    using Words for IModelRegistry.ModelDescriptor;
    using Clock for Dispute;
    using Descent for Dispute;

    /// No clock, increment or extension is longer, so that no sum of them overflows and no dispute outlasts its purpose.
    uint256 private constant LONGEST = 30 days;

    // P42: what a transaction costs that it cannot count itself, because it comes before or after: itself, a dispute's word, the event.
    uint256 private constant CHALLENGE_GAS = 54_000;
    uint256 private constant CLAIM_GAS = 10_000;
    uint256 private constant SHOW_GAS = 10_000;
    uint256 private constant MOVE_GAS = 32_000;
    uint256 private constant CONVICTION_GAS = 47_000;
    /// A byte of calldata: between the price of a zero and that of another, as structs are mostly zeros.
    uint256 private constant CALLDATA_GAS = 10;
    /// What a byte costs beyond that which an operator shows: it is not zero, counts double in a transaction that does little else, and is in the event.
    uint256 private constant SHOWN_GAS = 14;

    /// @inheritdoc IDisputeGame
    IInferenceOracle public immutable oracle;
    /// @inheritdoc IDisputeGame
    IStepVerifier public immutable verifier;

    address private immutable _registry;
    uint64 private immutable _window;
    uint96 private immutable _stake;
    uint96 private immutable _bond;
    uint96 private immutable _reward;
    uint96 private immutable _gasAllowance;
    uint64 private immutable _maxGasPrice;
    uint32 private immutable _clock;
    uint32 private immutable _increment;
    uint32 private immutable _extension;

    /// @inheritdoc IDisputeGame
    uint64 public disputeCount;
    mapping(DisputeId => bytes32) private _words;
    mapping(bytes32 result => Result) private _results;

    /// @param oracle_ The oracle that names this game; deployed before it, with the address that this will have.
    constructor(IInferenceOracle oracle_, IStepVerifier verifier_, Terms memory terms_) {
        uint256 stake = oracle_.stakePerResult();
        // INVARIANT: half of what is slashed, and half of a lost bond, is never paid to anybody. Whoever plays both sides loses that, whatever it makes gas
        // cost (P43).
        if (
            oracle_.disputeGame() != address(this) || address(verifier_).code.length == 0 || stake > type(uint96).max
                || stake < 2 * (uint256(terms_.reward) + terms_.gasAllowance) || terms_.bond == 0
                || terms_.bond < 2 * uint256(terms_.gasAllowance) || terms_.clock == 0 || terms_.clock > LONGEST
                || terms_.increment > LONGEST || terms_.extension == 0 || terms_.extension > LONGEST
        ) revert InvalidTerms();
        oracle = oracle_;
        verifier = verifier_;
        _registry = address(oracle_.operators());
        _window = oracle_.challengeWindow();
        // forge-lint: disable-next-line(unsafe-typecast) checked above
        _stake = uint96(stake);
        _bond = terms_.bond;
        _reward = terms_.reward;
        _gasAllowance = terms_.gasAllowance;
        _maxGasPrice = terms_.maxGasPrice;
        _clock = terms_.clock;
        _increment = terms_.increment;
        _extension = terms_.extension;
    }

    /// Slashed stake. Nothing else belongs here that does not come with a challenge.
    receive() external payable {
        if (msg.sender != _registry) revert NotOperatorRegistry(msg.sender);
    }

    // ---------------------------------------------------------------- opening

    /// @inheritdoc IDisputeGame
    function challenge(PackedRequest calldata request, Fulfillment calldata fulfillment)
        external
        payable
        notReentered
        returns (DisputeId id)
    {
        uint256 gasBefore = gasleft();
        // INVARIANT: every dispute has its bond in the game.
        if (msg.value != _bond) revert WrongBond(msg.value, _bond);
        bytes32 result = resultHash(request, fulfillment);
        Result storage r = _results[result];
        if (r.standing != Standing.Open) revert ResultFell(result);
        if (r.open == 0) {
            // The oracle checks that this is its result, and inside its window.
            oracle.openDispute(request, fulfillment);
        } else {
            uint256 until = fulfillment.fulfilledAt + _window;
            // INVARIANT: no dispute opens after the window, so all of them together end (P28).
            if (block.timestamp >= until) revert WindowClosed(until);
        }
        // forge-lint: disable-next-line(unsafe-typecast) unix seconds
        if (r.claimBy == 0) r.claimBy = uint40(Clock.deadline(block.timestamp, _clock, _extension));
        ++r.open;
        id = DisputeId.wrap(++disputeCount);

        Dispute memory d;
        d.id = id;
        d.result = result;
        d.operator = fulfillment.operator;
        d.challenger = msg.sender;
        d.turn = Turn.Claim;
        d.since = uint64(block.timestamp);
        d.operatorTime = _clock;
        d.challengerTime = _clock;
        d.challengerGas = _plusGas(0, gasBefore, CHALLENGE_GAS);
        _words[id] = d.word();
        emit Challenged(id, result, msg.sender, d, request, fulfillment);
    }

    // ---------------------------------------------------------------- the operator's moves

    /// @inheritdoc IDisputeGame
    function showInput(PackedRequest calldata request, Fulfillment calldata fulfillment, bytes calldata input) external notReentered {
        uint256 gasBefore = gasleft();
        (bytes32 result, Result storage r) = _beforeClaim(request.hash(), fulfillment);
        // INVARIANT: an operator is made to show an input once, and none that the chain has already (P48).
        if (!request.inputByUri() || r.shown) revert NothingToShow(result);
        _requireHash(request.inputHash, keccak256(input));
        r.shown = true;
        emit InputShown(result, input);
        r.claimGas = _plusGas(r.claimGas, gasBefore, SHOW_GAS + SHOWN_GAS * input.length);
    }

    /// @inheritdoc IDisputeGame
    function claim(
        PackedRequest calldata request,
        Fulfillment calldata fulfillment,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        bytes32 programRoot,
        bytes calldata tokens,
        bytes32[] calldata hashes
    ) external notReentered {
        uint256 gasBefore = gasleft();
        bytes32 requestHash = request.hash();
        (bytes32 result, Result storage r) = _beforeClaim(requestHash, fulfillment);
        // INVARIANT: who has to find out what is wrong has the input, wherever it is (P48).
        if (request.inputByUri() && !r.shown) revert InputNotShown(result);

        IStepVerifier.Claim memory c = claim_;
        if (
            model.idOf() != request.modelId || c.nodes == 0 || keccak256(tokens) != c.tokensHash
                || !verifier.hasNodes(model, c.nodes, programRoot)
        ) revert InvalidClaim();
        Dispute memory top;
        top.enter(c.root, c.nodes);
        top.checkRevealed(hashes);

        // forge-lint: disable-next-line(unsafe-typecast) unix seconds
        r.claimedAt = uint40(block.timestamp);
        r.nodes = c.nodes;
        r.claimHash = c.bind(requestHash);
        r.root = c.root;
        bytes32 traceRoot = keccak256(
            abi.encodePacked(Merkle.TRACE, uint256(c.sequence), uint256(c.prompt), uint256(c.inputBytes), uint256(c.outputBytes), c.root)
        );
        emit Claimed(result, traceRoot, c, tokens, hashes);
        r.claimGas = _plusGas(r.claimGas, gasBefore, CLAIM_GAS + SHOWN_GAS * (0x20 * hashes.length + tokens.length));
    }

    /// @inheritdoc IDisputeGame
    function reveal(Dispute calldata dispute, bytes32[] calldata hashes) external notReentered {
        uint256 gasBefore = gasleft();
        Dispute memory d = _operatorMoves(dispute, Turn.Reveal);
        d.checkRevealed(hashes);
        d.turn = Turn.Select;
        _operatorMoved(d, gasBefore, abi.encode(hashes));
    }

    /// @inheritdoc IDisputeGame
    function revealLeaf(Dispute calldata dispute, bytes calldata leaf) external notReentered {
        uint256 gasBefore = gasleft();
        Dispute memory d = _operatorMoves(dispute, Turn.RevealLeaf);
        _requireHash(d.hash, Merkle.leaf(Merkle.TRACE_LEAF, leaf));
        d.leaf = d.hash;
        d.turn = Turn.SelectElement;
        _operatorMoved(d, gasBefore, leaf);
    }

    /// @inheritdoc IDisputeGame
    function revealPartials(Dispute calldata dispute, bytes calldata partials) external notReentered {
        uint256 gasBefore = gasleft();
        Dispute memory d = _operatorMoves(dispute, Turn.RevealPartials);
        uint256 size = 4 * uint256(d.parts);
        if (partials.length != size) revert WrongCount(partials.length, size);
        d.hash = keccak256(partials);
        d.turn = Turn.Prove;
        _operatorMoved(d, gasBefore, partials);
    }

    // ---------------------------------------------------------------- the challenger's moves

    /// @inheritdoc IDisputeGame
    function select(Dispute calldata dispute, uint32 position, bytes32 hash, bytes32[] calldata path) external notReentered {
        uint256 gasBefore = gasleft();
        (Dispute memory d,) = _challengerMoves(dispute, Turn.Select);
        d.step(position, hash, path);
        if (d.height != 0) d.turn = Turn.Reveal;
        else if (d.inTensor) d.turn = Turn.RevealLeaf;
        else revert WrongHeight(0);
        _challengerMoved(d, gasBefore);
    }

    /// @inheritdoc IDisputeGame
    function selectNode(
        Dispute calldata dispute,
        PackedRequest calldata request,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        uint32 position,
        bytes32 hash,
        bytes32[] calldata path,
        IStepVerifier.NodeOpening calldata opening
    ) external notReentered {
        uint256 gasBefore = gasleft();
        (Dispute memory d, Result storage r) = _challengerMoves(dispute, Turn.Select);
        d.step(position, hash, path);
        if (d.height != 0 || d.inTensor) revert WrongHeight(d.height);

        // forge-lint: disable-next-line(unsafe-typecast) below the number of nodes
        d.node = uint32(d.index);
        (bool defined, uint64 leaves) = verifier.leavesOf(_run(d.result, r, request, model, claim_), d.node, opening);
        // P36: a node whose shape is undefined is wrong, whatever was claimed of it; so is one with leaves and no root, or a root and no leaves.
        if (!defined || (leaves == 0) != (hash == 0)) return _convict(d, r, gasBefore);
        // INVARIANT: nothing right is convicted. Of a tensor without elements there is nothing to show.
        if (leaves == 0) revert NotWrong();
        d.inTensor = true;
        d.enter(hash, leaves);
        d.turn = d.height == 0 ? Turn.RevealLeaf : Turn.Reveal;
        _challengerMoved(d, gasBefore);
    }

    /// @inheritdoc IDisputeGame
    function selectElement(
        Dispute calldata dispute,
        PackedRequest calldata request,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        uint32 element,
        bytes calldata proof
    ) external notReentered {
        uint256 gasBefore = gasleft();
        (Dispute memory d, Result storage r) = _challengerMoves(dispute, Turn.SelectElement);
        d.element = element;
        d.parts = verifier.partialsOf(_run(d.result, r, request, model, claim_), _element(d, element), proof);
        // INVARIANT: no operator is asked for partials that there are not.
        if (d.parts == 0) revert NoPartials();
        d.turn = Turn.RevealPartials;
        _challengerMoved(d, gasBefore);
    }

    /// @inheritdoc IDisputeGame
    function prove(
        Dispute calldata dispute,
        PackedRequest calldata request,
        Fulfillment calldata fulfillment,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        Refutation calldata refutation
    ) external notReentered {
        uint256 gasBefore = gasleft();
        (Dispute memory d, Result storage r) = _challengerMoves(dispute, Turn.None);
        _requireResult(d.result, request, fulfillment);
        IStepVerifier.Run memory run = _run(d.result, r, request, model, claim_);
        // INVARIANT: a result falls only because the verifier found a piece of it wrong, or because its operator was silent.
        if (!_isWrong(d, run, fulfillment.outputHash, refutation)) revert NotWrong();
        _convict(d, r, gasBefore);
    }

    // ---------------------------------------------------------------- ends

    /// @inheritdoc IDisputeGame
    function timeout(Dispute calldata dispute, PackedRequest calldata request, Fulfillment calldata fulfillment) external notReentered {
        (Dispute memory d, Result storage r) = _current(dispute);
        if (r.standing != Standing.Open) revert ResultFell(d.result);
        _requireResult(d.result, request, fulfillment);
        uint256 until = _deadline(d, r);
        // INVARIANT: nobody loses by time who has time left.
        if (block.timestamp <= until) revert TimeLeft(until);
        if (Clock.isOperators(d.turn)) return _fall(d, r);

        // P41: the bond of a lost challenge repays the operator's gas; the rest burns.
        uint256 paid = _atMost(uint256(d.operatorGas) + r.claimGas, _gasAllowance);
        r.claimGas = 0;
        delete _words[d.id];
        --r.open;
        _credit(d.operator, paid);
        emit Resolved(d.id, d.result, Outcome.Upheld, d.operator, paid);
        if (r.open == 0) oracle.upholdResult(request, fulfillment);
        _burn(_bond - paid);
    }

    /// @inheritdoc IDisputeGame
    function reject(PackedRequest calldata request, Fulfillment calldata fulfillment, bytes calldata input) external notReentered {
        bytes32 result = resultHash(request, fulfillment);
        Result storage r = _results[result];
        if (r.standing != Standing.Fallen) revert NotFallen(result);
        r.standing = Standing.Rejected;
        // P43: of one half, the winner's reward and gas; what is left of it is for the gas of those whose disputes are moot. The other half burns.
        uint256 paid = uint256(_reward) + r.purse;
        uint256 left = r.open == 0 ? 0 : _stake / 2 - paid;
        // forge-lint: disable-next-line(unsafe-typecast) less than the stake
        r.purse = uint96(left);
        _credit(r.winner, _bond + paid);
        _calling = true;
        uint256 slashed = oracle.rejectResult(request, fulfillment, input);
        _calling = false;
        // INVARIANT: what is credited here is in the game.
        assert(slashed == _stake);
        emit Rejected(result, slashed);
        _burn(slashed - paid - left);
    }

    /// @inheritdoc IDisputeGame
    function close(Dispute calldata dispute) external notReentered {
        (Dispute memory d, Result storage r) = _current(dispute);
        if (r.standing != Standing.Rejected) revert NotRejected(d.result);
        delete _words[d.id];
        --r.open;
        uint256 purse = r.purse;
        uint256 repaid = _atMost(d.challengerGas, purse);
        uint256 left = purse - repaid;
        // P44: the bond comes back, and as much of the gas as there is.
        _credit(d.challenger, _bond + repaid);
        emit Resolved(d.id, d.result, Outcome.Moot, d.challenger, _bond + repaid);
        bool last = r.open == 0;
        // forge-lint: disable-next-line(unsafe-typecast) less than it was
        r.purse = last ? 0 : uint96(left);
        if (last) _burn(left);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IDisputeGame
    function stateOf(DisputeId id) external view returns (bytes32) {
        return _words[id];
    }

    /// @inheritdoc IDisputeGame
    function resultOf(bytes32 result)
        external
        view
        returns (uint32 open, uint64 claimBy, bytes32 claimHash, uint64 claimedAt, bool fallen, bool rejected)
    {
        Result storage r = _results[result];
        return (r.open, r.claimBy, r.claimHash, r.claimedAt, r.standing != Standing.Open, r.standing == Standing.Rejected);
    }

    /// @inheritdoc IDisputeGame
    function currentOf(Dispute calldata dispute) external view returns (Dispute memory d) {
        (d,) = _current(dispute);
    }

    /// @inheritdoc IDisputeGame
    function deadlineOf(Dispute calldata dispute) external view returns (uint256) {
        (Dispute memory d, Result storage r) = _current(dispute);
        return _deadline(d, r);
    }

    /// @inheritdoc IDisputeGame
    function resultHash(PackedRequest calldata request, Fulfillment calldata fulfillment) public pure returns (bytes32) {
        return request.hash().hashResult(fulfillment);
    }

    /// @inheritdoc IDisputeGame
    function levelsOf(uint256 height) external pure returns (uint256) {
        return Descent.levelsOf(height);
    }

    /// @inheritdoc IDisputeGame
    function terms() external view returns (Terms memory) {
        return Terms(_bond, _reward, _gasAllowance, _maxGasPrice, _clock, _increment, _extension);
    }

    // ---------------------------------------------------------------- moving

    /// The dispute as it is to be read now (P30), if it is the one given that the game keeps.
    function _current(Dispute calldata dispute) private view returns (Dispute memory d, Result storage r) {
        DisputeId id = dispute.id;
        d = dispute.copy();
        // INVARIANT: whoever moves has seen all moves before (P29). From here on `d` is what the game itself once hashed.
        if (_words[id] != d.word()) revert Stale(id);
        r = _results[d.result];
        uint256 claimedAt = r.claimedAt;
        if (d.turn == Turn.Claim && claimedAt != 0) {
            if (claimedAt > d.since) d.press(claimedAt, _increment);
            d.turn = Turn.Select;
            d.enter(r.root, r.nodes);
        }
    }

    function _deadline(Dispute memory d, Result storage r) private view returns (uint256) {
        return d.turn == Turn.Claim ? r.claimBy : d.deadline(_extension);
    }

    /// A result that waits for its operator's claim, and is its operator's to move.
    function _beforeClaim(bytes32 requestHash, Fulfillment calldata fulfillment) private view returns (bytes32 result, Result storage r) {
        result = requestHash.hashResult(fulfillment);
        r = _results[result];
        if (r.claimBy == 0) revert UnknownResult(result);
        if (r.standing != Standing.Open) revert ResultFell(result);
        // INVARIANT: an operator has one word about its run, the same for all challengers (P30).
        if (r.claimedAt != 0) revert AlreadyClaimed(result);
        if (block.timestamp > r.claimBy) revert TimeOver(r.claimBy);
        _requireOperator(fulfillment.operator);
    }

    /// Checks turn and time, and presses the clock. The caller checks whose move it is.
    function _move(Dispute calldata dispute, Turn turn) private view returns (Dispute memory d, Result storage r) {
        (d, r) = _current(dispute);
        if (r.standing != Standing.Open) revert ResultFell(d.result);
        // `None` stands for any turn of the challenger's.
        if (turn == Turn.None ? Clock.isOperators(d.turn) : d.turn != turn) revert WrongTurn(d.turn);
        uint256 until = _deadline(d, r);
        // INVARIANT: a move after its time is no move (P31).
        if (block.timestamp > until) revert TimeOver(until);
        d.press(block.timestamp, _increment);
        unchecked {
            ++d.moves;
        }
    }

    function _operatorMoves(Dispute calldata dispute, Turn turn) private view returns (Dispute memory d) {
        (d,) = _move(dispute, turn);
        _requireOperator(d.operator);
    }

    function _challengerMoves(Dispute calldata dispute, Turn turn) private view returns (Dispute memory d, Result storage r) {
        (d, r) = _move(dispute, turn);
        // INVARIANT: a dispute is played by who opened it (P29).
        if (msg.sender != d.challenger) revert NotYours(msg.sender);
    }

    function _operatorMoved(Dispute memory d, uint256 gasBefore, bytes memory data) private {
        d.operatorGas = _plusGas(d.operatorGas, gasBefore, MOVE_GAS + SHOWN_GAS * data.length);
        _moved(d, data);
    }

    function _challengerMoved(Dispute memory d, uint256 gasBefore) private {
        d.challengerGas = _plusGas(d.challengerGas, gasBefore, MOVE_GAS);
        _moved(d, "");
    }

    function _moved(Dispute memory d, bytes memory data) private {
        _words[d.id] = d.word();
        emit Moved(d.id, msg.sender, d, data);
    }

    /// P42: what was laid out so far and with this move, at most what is repaid.
    function _plusGas(uint256 spent, uint256 gasBefore, uint256 besides) private view returns (uint96) {
        unchecked {
            uint256 used = gasBefore - gasleft() + besides + CALLDATA_GAS * msg.data.length;
            // forge-lint: disable-next-line(unsafe-typecast) at most the allowance
            return uint96(_atMost(spent + used * _atMost(tx.gasprice, _maxGasPrice), _gasAllowance));
        }
    }

    // ---------------------------------------------------------------- deciding

    /// By a move of the challenger's.
    function _convict(Dispute memory d, Result storage r, uint256 gasBefore) private {
        d.challengerGas = _plusGas(d.challengerGas, gasBefore, CONVICTION_GAS);
        _fall(d, r);
    }

    /// Decides for the challenger of this dispute, and with it for all who challenged this result.
    function _fall(Dispute memory d, Result storage r) private {
        delete _words[d.id];
        // INVARIANT: a result falls once.
        r.standing = Standing.Fallen;
        --r.open;
        r.winner = d.challenger;
        r.purse = d.challengerGas;
        emit Resolved(d.id, d.result, Outcome.Rejected, d.challenger, uint256(_bond) + _reward + d.challengerGas);
    }

    function _isWrong(Dispute memory d, IStepVerifier.Run memory run, bytes32 outputHash, Refutation calldata refutation)
        private
        view
        returns (bool)
    {
        bytes calldata data = refutation.data;
        Fault fault = refutation.fault;
        if (fault == Fault.Claim) return verifier.isClaimWrong(run, data, refutation.proof);
        if (fault == Fault.Output) {
            _requireHash(outputHash, keccak256(data));
            return verifier.isOutputWrong(run, data, refutation.proof);
        }
        if (fault == Fault.Element) {
            if (d.turn != Turn.SelectElement) revert WrongTurn(d.turn);
            _requireHash(d.leaf, Merkle.leaf(Merkle.TRACE_LEAF, data));
            return verifier.isElementWrong(run, _element(d, refutation.index), data, refutation.proof);
        }
        if (d.turn != Turn.Prove) revert WrongTurn(d.turn);
        IStepVerifier.Element memory element = _element(d, d.element);
        if (fault == Fault.Partial) {
            _requireHash(d.hash, keccak256(data));
            if (refutation.index >= d.parts) revert OutOfRange(refutation.index, d.parts);
            return verifier.isPartialWrong(run, element, data, refutation.index, refutation.proof);
        }
        (bytes memory leaf, bytes memory partials) = abi.decode(data, (bytes, bytes));
        _requireHash(d.leaf, keccak256(bytes.concat(bytes1(Merkle.TRACE_LEAF), leaf)));
        _requireHash(d.hash, keccak256(partials));
        return verifier.isSumWrong(run, element, leaf, partials, refutation.proof);
    }

    /// What the verifier has to know, all of it bound by the claim's hash and the model's id.
    function _run(
        bytes32 result,
        Result storage r,
        PackedRequest calldata request,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_
    ) private view returns (IStepVerifier.Run memory) {
        IStepVerifier.Claim memory c = claim_;
        // INVARIANT: what is judged is what the operator has claimed, of the request it has claimed it of.
        if (c.bind(request.hash()) != r.claimHash || model.idOf() != request.modelId) revert ResultMismatch(result);
        return IStepVerifier.Run(model, request.inputHash, request.seed, request.unpackParams(), c);
    }

    function _element(Dispute memory d, uint32 index) private pure returns (IStepVerifier.Element memory) {
        return IStepVerifier.Element(d.node, d.index, index);
    }

    function _requireOperator(address operator) private view {
        // INVARIANT: nobody else makes an operator's moves (P29).
        if (msg.sender != operator && oracle.operatorOf(msg.sender) != operator) revert NotYours(msg.sender);
    }

    function _requireResult(bytes32 result, PackedRequest calldata request, Fulfillment calldata fulfillment) private pure {
        if (resultHash(request, fulfillment) != result) revert ResultMismatch(result);
    }

    function _requireHash(bytes32 expected, bytes32 actual) private pure {
        // INVARIANT: what was shown once is what is looked at.
        if (actual != expected) revert HashMismatch(expected, actual);
    }

    function _atMost(uint256 value, uint256 most) private pure returns (uint256) {
        return value < most ? value : most;
    }
}
