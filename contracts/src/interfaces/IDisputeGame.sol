// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Fulfillment, PackedRequest} from "../Types.sol";
import {IInferenceOracle} from "./IInferenceOracle.sol";
import {IModelRegistry} from "./IModelRegistry.sol";
import {IStepVerifier} from "./IStepVerifier.sol";

/// @notice Number of a dispute, counted from 1.
type DisputeId is uint64;

/// @notice Whose move it is, and which. The operator's: Claim, Reveal, RevealLeaf, RevealPartials; the challenger's: Select, SelectElement, Prove.
///
///     Claim --> Select <--> Reveal          down the tree of nodes, then down the tree of one tensor
///                 |
///                 v
///            RevealLeaf --> SelectElement --> RevealPartials --> Prove
///
/// From `Select` on the challenger may also prove that the claim itself or its output is wrong, and from `SelectElement` on that an element without
/// partials is.
enum Turn {
    None,
    Claim,
    Select,
    Reveal,
    RevealLeaf,
    SelectElement,
    RevealPartials,
    Prove
}

/// @notice How a dispute ended.
enum Outcome {
    None,
    Upheld, // the challenger ran out of time
    Rejected, // the result was proven wrong, or the operator ran out of time
    Moot // another dispute over the same result had already been won
}

/// @title Disputes over results: challenge, narrow down, let the chain recompute one piece
/// @notice
/// 1. `challenge` a result inside its window, with a bond. Any number of challengers, each with a dispute of its own.
/// 2. The operator `claim`s once for all of them: what the run was, the root of its trace, the generated tokens, the first hashes below the root.
/// 3. Down the tree of the nodes, then down the tree of one node's tensor: the challenger `select`s the first subtree that differs from its own trace, the
///    operator `reveal`s the hashes some levels below it, until one leaf of 128 elements is left, which the operator reveals whole (`revealLeaf`).
/// 4. The challenger proves one element wrong. If that is a sum of more than one block it names the element (`selectElement`), the operator reveals
///    the partials (`revealPartials`), and the challenger proves one of them, or their sum, wrong (`prove`).
/// 5. Whoever runs out of time loses (`timeout`, by anybody). Time runs on chess clocks: what is left of the budget, plus an increment per move; nobody's
///    turn is shorter than the extension.
/// Nothing that is hashed is believed: what an operator reveals must hash to what it revealed before, and everything to the left of a selected subtree
/// is agreed, so the challenger can open it against the operator's own root.
/// @dev The game keeps one word a dispute, the hash of its `Dispute`; whoever moves brings the struct as the last event gave it. So a move names, by its
/// preimage, the chain's whole view of the dispute: replayed, reordered or made after a reorganisation it finds another word and reverts with `Stale`.
/// The claim is made once for all disputes over a result, so it changes no dispute's word: one whose word says `Claim` is read, once the claim is there, as
/// `currentOf` gives it, and its next move still brings what the event gave. Rules: docs/protocol.md, P26 and following.
interface IDisputeGame {
    /// @notice A dispute as it stands. The game stores its hash.
    struct Dispute {
        DisputeId id;
        bytes32 result; // `resultHash` of what is disputed
        address operator;
        address challenger;
        Turn turn;
        uint32 moves; // made so far, by both
        uint64 since; // unix seconds: when this turn began
        uint32 operatorTime; // seconds left on the clock when the turn began
        uint32 challengerTime;
        uint96 operatorGas; // wei laid out for moves so far
        uint96 challengerGas;
        bool inTensor; // whether the descent has left the tree of nodes
        uint32 node; // which node, once that is so
        uint64 count; // leaves of the tree that the descent is in
        uint64 index; // number of the selected subtree at its level
        uint8 height; // levels below it; 0: a leaf
        bytes32 hash; // of that subtree; from `Prove` on, keccak256 of the partials
        uint32 element; // in the leaf, from `RevealPartials` on
        uint32 parts; // partials of that element
        bytes32 leaf; // hash of the leaf, from `SelectElement` on
    }

    /// @notice What is proven wrong.
    enum Fault {
        Claim, // `data`: the input
        Output, // `data`: the output
        Element, // `data`: the leaf. `index`: the element
        Partial, // `data`: the partials. `index`: which
        Sum // `data`: abi.encode(bytes leaf, bytes partials)
    }

    struct Refutation {
        Fault fault;
        uint32 index;
        bytes data;
        bytes proof; // as `IStepVerifier` wants it
    }

    /// @notice What the money and the clocks are. Immutable.
    struct Terms {
        uint96 bond; // wei a challenger puts up
        uint96 reward; // wei the winner gets of a slashed stake, besides bond and gas
        uint96 gasAllowance; // wei, at most, repaid to one side of one dispute for its gas
        uint64 maxGasPrice; // wei, at most, at which gas is repaid
        uint32 clock; // seconds each side starts with
        uint32 increment; // seconds gained with each move
        uint32 extension; // seconds that every turn has at least
    }

    /// @notice A dispute was opened.
    event Challenged(
        DisputeId indexed id,
        bytes32 indexed result,
        address indexed challenger,
        Dispute dispute,
        PackedRequest request,
        Fulfillment fulfillment
    );

    /// @notice The operator said what its run was; all disputes over the result go on from here. `hashes` are those at the depth of the first reveal.
    event Claimed(bytes32 indexed result, bytes32 traceRoot, IStepVerifier.Claim claim, bytes tokens, bytes32[] hashes);

    /// @notice The operator showed the input of a request by URI, so that everybody has it who plays.
    event InputShown(bytes32 indexed result, bytes input);

    /// @notice A move was made; `dispute` is what the next one has to bring. `data`: for `select` nothing, for `reveal` abi.encode(bytes32[] hashes), for
    /// `revealLeaf` the leaf, for `selectElement` nothing, for `revealPartials` the partials.
    event Moved(DisputeId indexed id, address indexed by, Dispute dispute, bytes data);

    /// @notice A dispute ended. `paid` wei are the credit of `winner`: at once, or, where the outcome is `Rejected`, by `reject`.
    event Resolved(DisputeId indexed id, bytes32 indexed result, Outcome outcome, address winner, uint256 paid);

    /// @notice A result fell: the oracle slashed `slashed` wei and opened the request again.
    event Rejected(bytes32 indexed result, uint256 slashed);

    event Burned(uint256 amount);
    event CreditWithdrawn(address indexed account, address indexed to, uint256 amount);

    error Stale(DisputeId id);
    error UnknownResult(bytes32 result);
    error ResultMismatch(bytes32 result);
    error WrongTurn(Turn actual);
    error NotYours(address caller);
    error WrongBond(uint256 sent, uint256 bond);
    error WindowClosed(uint256 since);
    error AlreadyClaimed(bytes32 result);
    error ResultFell(bytes32 result);
    error InvalidClaim();
    error InputNotShown(bytes32 result);
    error NothingToShow(bytes32 result);
    error HashMismatch(bytes32 expected, bytes32 actual);
    error WrongCount(uint256 actual, uint256 expected);
    error OutOfRange(uint256 index, uint256 count);
    error NotWrong();
    error TimeLeft(uint256 until);
    error TimeOver(uint256 since);
    error NotFallen(bytes32 result);
    error NotRejected(bytes32 result);
    error WrongHeight(uint256 height);
    error NoPartials();
    error Reentered();
    error NotOperatorRegistry(address caller);
    error InvalidTerms();
    error InsufficientCredit(uint256 available, uint256 required);
    error TransferFailed(address to, uint256 amount);

    // ---------------------------------------------------------------- moves

    /// @notice Opens a dispute over a result inside its challenge window. Exactly the bond is to be sent.
    function challenge(PackedRequest calldata request, Fulfillment calldata fulfillment) external payable returns (DisputeId);

    /// @notice The operator shows the input of a request by URI. Once a result, before the claim and in the same time; by the operator or a signer of it.
    function showInput(PackedRequest calldata request, Fulfillment calldata fulfillment, bytes calldata input) external;

    /// @notice The operator's word about its run; where the input is at a URI, after `showInput`. Once a result. By the operator or a signer of it, as all its moves.
    /// @param programRoot Root of the tree over the node descriptors, which shows how many there are.
    /// @param hashes The hashes `levelsOf(height)` levels below the root of the tree of nodes, from left to right; as many as there are, none for what is
    /// beyond the last node.
    function claim(
        PackedRequest calldata request,
        Fulfillment calldata fulfillment,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        bytes32 programRoot,
        bytes calldata tokens,
        bytes32[] calldata hashes
    ) external;

    /// @notice The challenger points at one of the revealed hashes.
    /// @param position Which, from the left.
    /// @param path From that hash up to the subtree that was revealed, zero where there is no sibling.
    function select(Dispute calldata dispute, uint32 position, bytes32 hash, bytes32[] calldata path) external;

    /// @notice The same where what it points at is a node: its descriptor says how its tensor is cut into leaves.
    function selectNode(
        Dispute calldata dispute,
        PackedRequest calldata request,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        uint32 position,
        bytes32 hash,
        bytes32[] calldata path,
        IStepVerifier.NodeOpening calldata opening
    ) external;

    /// @notice The operator shows the hashes `levelsOf(height)` levels below the selected subtree, as many as there are.
    function reveal(Dispute calldata dispute, bytes32[] calldata hashes) external;

    /// @notice The operator shows the elements of the selected leaf.
    function revealLeaf(Dispute calldata dispute, bytes calldata leaf) external;

    /// @notice The challenger points at an element that is made of partials.
    function selectElement(
        Dispute calldata dispute,
        PackedRequest calldata request,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        uint32 element,
        bytes calldata proof
    ) external;

    /// @notice The operator shows the partials of that element, four bytes little-endian each.
    function revealPartials(Dispute calldata dispute, bytes calldata partials) external;

    /// @notice The challenger has the chain recompute a piece. If it is wrong, the dispute and the result are decided; if not, this reverts.
    function prove(
        Dispute calldata dispute,
        PackedRequest calldata request,
        Fulfillment calldata fulfillment,
        IModelRegistry.ModelDescriptor calldata model,
        IStepVerifier.Claim calldata claim_,
        Refutation calldata refutation
    ) external;

    /// @notice Decides against whoever has no time left. Anybody may.
    function timeout(Dispute calldata dispute, PackedRequest calldata request, Fulfillment calldata fulfillment) external;

    /// @notice Carries out a decision against a result: slashes, and opens the request again. Anybody may; the winner is paid by it.
    /// @param input Of the request; of one by URI it may be left out.
    function reject(PackedRequest calldata request, Fulfillment calldata fulfillment, bytes calldata input) external;

    /// @notice Gives a challenger its bond and its gas back whose dispute became moot because another one was won. Anybody may.
    function close(Dispute calldata dispute) external;

    /// @notice Sends `amount` of the caller's credit to `to`.
    function withdrawCredit(address to, uint256 amount) external;

    // ---------------------------------------------------------------- views

    /// @notice What the game keeps of a dispute: the hash of its struct; zero once it has ended.
    function stateOf(DisputeId id) external view returns (bytes32);

    /// @notice What the game knows of a result: disputes that have not ended; the last second for the claim; `keccak256(abi.encode(requestHash, claim))`,
    /// zero before the claim, and when that was made; whether it was decided against; whether that has been carried out.
    function resultOf(bytes32 result)
        external
        view
        returns (uint32 open, uint64 claimBy, bytes32 claimHash, uint64 claimedAt, bool fallen, bool rejected);

    /// @notice A dispute as it is to be read now: itself, unless it waits for a claim that has been made. Reverts with `Stale` if it is not what is kept.
    function currentOf(Dispute calldata dispute) external view returns (Dispute memory);

    /// @notice `keccak256(abi.encode(requestHash, fulfillment))`.
    function resultHash(PackedRequest calldata request, Fulfillment calldata fulfillment) external pure returns (bytes32);

    /// @notice Levels that one reveal covers in a tree of which `height` levels are left: as few reveals as 64 hashes allow, of about the same size.
    function levelsOf(uint256 height) external pure returns (uint256);

    /// @notice The last second in which whoever's turn it is can move. Reverts with `Stale` if `dispute` is not what is kept.
    function deadlineOf(Dispute calldata dispute) external view returns (uint256);

    function terms() external view returns (Terms memory);
    function creditOf(address account) external view returns (uint256);
    function disputeCount() external view returns (uint64);
    function oracle() external view returns (IInferenceOracle);
    function verifier() external view returns (IStepVerifier);
}
