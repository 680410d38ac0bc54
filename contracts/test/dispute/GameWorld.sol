// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {InferenceOracle} from "../../src/InferenceOracle.sol";
import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {OperatorRegistry} from "../../src/OperatorRegistry.sol";
import {Fulfillment, PackedRequest} from "../../src/Types.sol";
import {DisputeGame} from "../../src/dispute/DisputeGame.sol";
import {DisputeId, IDisputeGame, Turn} from "../../src/interfaces/IDisputeGame.sol";
import {IInferenceOracle} from "../../src/interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IStepVerifier} from "../../src/interfaces/IStepVerifier.sol";
import {World} from "../utils/World.sol";
import {ToyVerifier} from "./ToyVerifier.sol";
import {Trace, Traces} from "./Traces.sol";

/// @title The deployed system with the dispute game and the toy verifier; both players
/// @notice An operator answers by its trace, a challenger by its own: both are functions of what the last event said.
abstract contract GameWorld is World {
    using Traces for Trace;

    uint96 internal constant BOND = 0.02 ether;
    uint96 internal constant REWARD = 0.03 ether;
    uint96 internal constant GAS_ALLOWANCE = 0.01 ether;
    uint64 internal constant MAX_GAS_PRICE = 3 gwei;
    uint32 internal constant CLOCK = 40 minutes;
    uint32 internal constant INCREMENT = 2 minutes;
    uint32 internal constant EXTENSION = 10 minutes;

    DisputeGame internal disputes;
    ToyVerifier internal toy;
    address internal carol; // challenges
    address internal dave; // challenges too
    address internal erin; // challenges too

    /// All that the players of one dispute know.
    struct Play {
        PackedRequest r;
        Fulfillment f;
        IStepVerifier.Claim c;
        IDisputeGame.Dispute d;
        bytes output;
        bytes32[] revealed; // the last reveal
        bytes leaf; // as the operator revealed it
        bytes partials; // the same
    }

    function setUp() public virtual override {
        super.setUp();
        carol = account_("carol");
        dave = account_("dave");
        erin = account_("erin");
        vm.txGasPrice(1 gwei);
    }

    function deploy() internal virtual override {
        uint256 nonce = vm.getNonce(address(this));
        models = new ModelRegistry();
        operators = new OperatorRegistry(vm.computeCreateAddress(address(this), nonce + 2), models, MIN_STAKE, DELAY);
        oracle = new InferenceOracle(config(vm.computeCreateAddress(address(this), nonce + 4)));
        toy = new ToyVerifier(11, 5);
        disputes = new DisputeGame(oracle, toy, terms());
    }

    function terms() internal pure returns (IDisputeGame.Terms memory) {
        return IDisputeGame.Terms(BOND, REWARD, GAS_ALLOWANCE, MAX_GAS_PRICE, CLOCK, INCREMENT, EXTENSION);
    }

    // ---------------------------------------------------------------- opening

    /// The output that the run has: the last node's bytes.
    function rightOutput() internal view returns (bytes memory) {
        return toy.leafOf(toy.nodes() - 1, 0);
    }

    function input() internal view returns (bytes memory) {
        return plainArgs().input;
    }

    function theModel() internal pure returns (IModelRegistry.ModelDescriptor memory) {
        return descriptor("model", limits());
    }

    /// A posted result, before anybody has challenged it.
    function posted(bytes memory output) internal returns (Play memory p) {
        p.r = ask();
        p.output = output;
        p.f = post(p.r, output);
    }

    /// The same for a request whose input is at a URI.
    function postedByUri(bytes memory output) internal returns (Play memory p) {
        p.r = askByUri();
        p.output = output;
        p.f = post(p.r, output);
    }

    function askByUri() internal returns (PackedRequest memory) {
        IInferenceOracle.RequestArgs memory args = plainArgs();
        args.input = "";
        vm.recordLogs();
        vm.prank(alice);
        oracle.requestByUri{value: PRICE}(args, keccak256(input()), uint32(input().length), "https://example.org/input");
        return lastRequestByUri();
    }

    function showInput(Play memory p) internal {
        vm.prank(p.f.operator);
        disputes.showInput(p.r, p.f, input());
        measure();
    }

    function challenge(Play memory p, address who) internal {
        vm.recordLogs();
        vm.prank(who);
        disputes.challenge{value: BOND}(p.r, p.f);
        measure();
        (p.d,,) = abi.decode(lastEvent(IDisputeGame.Challenged.selector), (IDisputeGame.Dispute, PackedRequest, Fulfillment));
    }

    /// The same result in another dispute.
    function another(Play memory p, address who) internal returns (Play memory q) {
        q = abi.decode(abi.encode(p), (Play));
        challenge(q, who);
    }

    function claimOf(Trace memory trace) internal view returns (IStepVerifier.Claim memory) {
        return IStepVerifier.Claim({
            sequence: 1,
            prompt: 1,
            inputBytes: uint32(input().length),
            outputBytes: 0,
            nodes: uint32(trace.leaves.length),
            root: trace.root(),
            tokensHash: keccak256("")
        });
    }

    function claim(Play memory p, Trace memory trace) internal {
        claim(p, claimOf(trace), trace.top.revealed(trace.top.length - 1, 0));
    }

    function claim(Play memory p, IStepVerifier.Claim memory c, bytes32[] memory hashes) internal {
        vm.prank(p.f.operator);
        disputes.claim(p.r, p.f, theModel(), c, theModel().graphRoot, "", hashes);
        measure();
        see(p, c, hashes);
    }

    /// What everybody knows from the event.
    function see(Play memory p, IStepVerifier.Claim memory c, bytes32[] memory hashes) internal pure {
        p.c = c;
        p.revealed = hashes;
    }

    using Traces for bytes32[][];
    using Traces for bytes32[];

    // ---------------------------------------------------------------- moves

    /// Gas of the last move; of a whole transaction where each call is one.
    uint256 internal moveGas;

    function measure() private {
        moveGas = vm.lastCallGas().gasTotalUsed;
    }

    function openingOf(uint32 node) internal view virtual returns (IStepVerifier.NodeOpening memory) {
        return IStepVerifier.NodeOpening(toy.descriptor(node), new bytes32[](0));
    }

    /// What follows the words that the toy looks at.
    function padding() internal view virtual returns (bytes memory) {
        return "";
    }

    /// The dispute after the last move.
    function moved(Play memory p) internal returns (bytes memory data) {
        (p.d, data) = abi.decode(lastEvent(IDisputeGame.Moved.selector), (IDisputeGame.Dispute, bytes));
    }

    function current(Play memory p) internal view returns (IDisputeGame.Dispute memory) {
        return disputes.currentOf(p.d);
    }

    function reveal(Play memory p, bytes32[] memory hashes) internal {
        vm.recordLogs();
        vm.prank(p.f.operator);
        disputes.reveal(p.d, hashes);
        measure();
        p.revealed = abi.decode(moved(p), (bytes32[]));
    }

    function revealLeaf(Play memory p, bytes memory leaf) internal {
        vm.recordLogs();
        vm.prank(p.f.operator == operator ? signer : rivalSigner); // a key of the operator's does as well
        disputes.revealLeaf(p.d, leaf);
        measure();
        p.leaf = moved(p);
    }

    function revealPartials(Play memory p, bytes memory partials) internal {
        vm.recordLogs();
        vm.prank(p.f.operator);
        disputes.revealPartials(p.d, partials);
        measure();
        p.partials = moved(p);
    }

    function select(Play memory p, uint256 position) internal {
        IDisputeGame.Dispute memory d = current(p);
        uint256 levels = disputes.levelsOf(d.height);
        bytes32[] memory path = p.revealed.pathOf(position, levels);
        vm.recordLogs();
        if (d.inTensor || d.height != levels) {
            vm.prank(d.challenger);
            disputes.select(p.d, uint32(position), p.revealed[position], path);
            measure();
        } else {
            uint32 node = uint32(uint256(d.index) << levels | position);
            IStepVerifier.NodeOpening memory opening = openingOf(node);
            vm.prank(d.challenger);
            disputes.selectNode(p.d, p.r, theModel(), p.c, uint32(position), p.revealed[position], path, opening);
            measure();
            if (disputes.stateOf(p.d.id) == 0) return; // decided at once
        }
        moved(p);
    }

    function selectElement(Play memory p, uint32 index) internal {
        bytes memory proof = abi.encodePacked(toy.proofOf(IStepVerifier.Element(p.d.node, p.d.index, index)), padding());
        vm.recordLogs();
        vm.prank(p.d.challenger);
        disputes.selectElement(p.d, p.r, theModel(), p.c, index, proof);
        measure();
        moved(p);
    }

    function prove(Play memory p, IDisputeGame.Refutation memory refutation) internal {
        vm.prank(p.d.challenger);
        disputes.prove(p.d, p.r, p.f, theModel(), p.c, refutation);
        measure();
    }

    function refuteElement(Play memory p, uint32 index) internal view returns (IDisputeGame.Refutation memory) {
        bytes memory proof = abi.encodePacked(toy.proofOf(IStepVerifier.Element(p.d.node, p.d.index, index)), padding());
        return IDisputeGame.Refutation(IDisputeGame.Fault.Element, index, p.leaf, proof);
    }

    function refutePartial(Play memory p, uint32 part) internal view returns (IDisputeGame.Refutation memory) {
        bytes memory proof = abi.encodePacked(toy.proofOf(IStepVerifier.Element(p.d.node, p.d.index, p.d.element), part), padding());
        return IDisputeGame.Refutation(IDisputeGame.Fault.Partial, part, p.partials, proof);
    }

    function refuteSum(Play memory p) internal view returns (IDisputeGame.Refutation memory) {
        bytes memory proof = abi.encodePacked(toy.proofOf(IStepVerifier.Element(p.d.node, p.d.index, p.d.element)), padding());
        return IDisputeGame.Refutation(IDisputeGame.Fault.Sum, 0, abi.encode(p.leaf, p.partials), proof);
    }

    function refuteClaim() internal view returns (IDisputeGame.Refutation memory) {
        return IDisputeGame.Refutation(IDisputeGame.Fault.Claim, 0, input(), "claim");
    }

    function refuteOutput(Play memory p, Trace memory operators_) internal pure returns (IDisputeGame.Refutation memory) {
        bytes32[] memory roots = operators_.top[0];
        uint256 last = roots.length - 1;
        bytes memory proof = abi.encode(roots[last], roots.pathOf(last, operators_.top.length - 1));
        return IDisputeGame.Refutation(IDisputeGame.Fault.Output, 0, p.output, proof);
    }

    function timeout(Play memory p) internal {
        vm.prank(carrier);
        disputes.timeout(p.d, p.r, p.f);
        measure();
    }

    /// Lets the time of whoever's turn it is run out.
    function runOut(Play memory p) internal {
        vm.warp(disputes.deadlineOf(p.d) + 1);
        timeout(p);
    }

    function reject(Play memory p) internal {
        vm.recordLogs();
        vm.prank(carrier);
        disputes.reject(p.r, p.f, input());
        measure();
    }

    // ---------------------------------------------------------------- players

    function isFallen(Play memory p) internal view returns (bool fallen) {
        (,,,, fallen,) = disputes.resultOf(disputes.resultHash(p.r, p.f));
    }

    /// What a liar shows of a sum: partials of its own making, which add up to what it claims, or the right ones.
    enum Partials {
        AddUp,
        Right
    }

    /// The operator's next move, by its trace.
    function defend(Play memory p, Trace memory trace, Partials partials) internal {
        IDisputeGame.Dispute memory d = current(p);
        if (d.turn == Turn.Claim) return claim(p, trace);
        if (d.turn == Turn.RevealLeaf) return revealLeaf(p, trace.leaves[d.node][d.index]);
        if (d.turn == Turn.RevealPartials) {
            bytes memory shown = toy.partialsFor(d.node, d.index, d.element);
            uint8 difference;
            unchecked {
                difference = uint8(trace.leaves[d.node][d.index][d.element]) - toy.element(d.node, d.index, d.element);
                if (partials == Partials.AddUp) shown[4] = bytes1(uint8(shown[4]) + difference);
            }
            return revealPartials(p, shown);
        }
        bytes32[][] memory levels = d.inTensor ? trace.tensors[d.node] : trace.top;
        reveal(p, levels.revealed(d.height, d.index));
    }

    /// The challenger's next move against an operator with a wrong trace, by its own.
    function attack(Play memory p, Trace memory trace) internal {
        IDisputeGame.Dispute memory d = current(p);
        if (d.turn == Turn.Select) {
            bytes32[][] memory levels = d.inTensor ? trace.tensors[d.node] : trace.top;
            bytes32[] memory own = levels.revealed(d.height, d.index);
            for (uint256 i = 0; i < own.length; ++i) {
                if (own[i] != p.revealed[i]) return select(p, i);
            }
            revert("nothing differs");
        }
        if (d.turn == Turn.SelectElement) {
            for (uint32 i = 0; i < toy.leafSize(); ++i) {
                if (p.leaf.length == toy.leafSize() && p.leaf[i] == trace.leaves[d.node][d.index][i]) continue;
                if (toy.partsOf(d.node, i) == 0) prove(p, refuteElement(p, i));
                else selectElement(p, i);
                return;
            }
            revert("nothing differs in the leaf");
        }
        for (uint32 part = 0; part < d.parts; ++part) {
            if (toy.read(p.partials, part) != toy.partial_(d.node, d.index, d.element, part)) return prove(p, refutePartial(p, part));
        }
        prove(p, refuteSum(p));
    }

    /// Both play on until the result has fallen.
    function play(Play memory p, Trace memory operators_, Trace memory challengers, Partials partials) internal returns (uint256 moves) {
        for (; !isFallen(p); ++moves) {
            Turn turn = current(p).turn;
            if (turn == Turn.Select || turn == Turn.SelectElement || turn == Turn.Prove) attack(p, challengers);
            else defend(p, operators_, partials);
            skip(1 minutes);
        }
    }
}
