//! The ABI of the on-chain system, from the text of the Solidity interfaces.
//!
//! This is the one place in Rust that knows it. `cargo build` needs no forge; `tests/abi.rs` holds every selector, topic and error here to what
//! the compiler made of `contracts/src` (the frozen files in `sdk/artifacts`). Documentation of each item is where it is normative: in the
//! natspec of `contracts/src/interfaces`.
#![allow(missing_docs, clippy::too_many_arguments)] // generated items; their documentation is the natspec

use alloy_sol_types::sol;

sol! {
    #[derive(Debug, PartialEq, Eq, Hash)]
    enum RequestStatus { None, Requested, Fulfilled, Disputed, Finalized, Cancelled }

    #[derive(Debug, PartialEq, Eq, Hash)]
    enum Delivery { Optimistic, Final }

    #[derive(Debug, PartialEq, Eq, Hash)]
    enum CallbackStatus { None, Delivered, Failed }

    #[derive(Debug, Copy, Default, PartialEq, Eq, Hash)]
    struct Params { uint32 maxTokens; uint32 temperature; uint32 minP; }

    #[derive(Debug, Copy, Default, PartialEq, Eq, Hash)]
    struct Limits { uint32 minInputBytes; uint32 maxInputBytes; uint32 maxOutputBytes; uint32 maxTokens; }

    #[derive(Debug, Copy, PartialEq, Eq)]
    struct PackedRequest { bytes32 head; bytes32 modelId; bytes32 inputHash; bytes32 seed; bytes32 payment; bytes32 terms; }

    #[derive(Debug, PartialEq, Eq)]
    struct Fulfillment {
        address operator;
        uint64 fulfilledAt;
        uint96 callbackCost;
        bytes32 outputHash;
    }

    #[derive(Debug, PartialEq, Eq)]
    struct ModelDescriptor {
        uint256 arithmeticVersion;
        bytes32 graphRoot;
        bytes32 weightsRoot;
        bytes32 vocabRoot;
        Limits limits;
    }

    #[derive(Debug, PartialEq, Eq)]
    struct RequestArgs {
        bytes32 modelId;
        bytes input;
        Params params;
        Delivery delivery;
        uint32 callbackGasLimit;
        uint64 callbackGasPrice;
        uint96 maxFee;
        uint32 timeout;
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Answer { PackedRequest request; bytes output; bytes signature; }

    #[derive(Debug, PartialEq, Eq)]
    struct Settlement { PackedRequest request; Fulfillment fulfillment; bytes output; }

    #[derive(Debug, PartialEq, Eq)]
    struct Offer { address operator; uint96 price; }

    /// What `InferenceOracle.unpack` gives: the contracts' own reading of a packed request.
    #[derive(Debug, PartialEq, Eq)]
    struct UnpackedRequest {
        uint64 id;
        uint32 attempt;
        address requester;
        bytes32 modelId;
        bytes32 inputHash;
        bytes32 seed;
        Params params;
        bool inputByUri;
        Delivery delivery;
        uint32 callbackGasLimit;
        uint64 callbackGasPrice;
        uint96 fee;
        address operator;
        uint64 exclusiveUntil;
        uint64 deadline;
    }

    #[derive(Debug, PartialEq, Eq)]
    interface IInferenceOracle {
        event Requested(uint64 indexed id, bytes32 indexed modelId, address indexed operator, PackedRequest request, bytes input);
        event RequestedByUri(uint64 indexed id, bytes32 indexed modelId, address indexed operator, PackedRequest request, uint32 inputSize, string uri);
        event Fulfilled(uint64 indexed id, address indexed operator, Fulfillment fulfillment, bytes output);
        event CallbackExecuted(uint64 indexed id, CallbackStatus status, uint256 gasUsed, bytes returnData);
        event Finalized(uint64 indexed id, address indexed operator, uint256 paid, uint256 refunded);
        event Cancelled(uint64 indexed id, uint256 refunded);
        event Skipped(uint64 indexed id, RequestStatus status);
        event DisputeOpened(uint64 indexed id, address indexed operator);
        event ResultUpheld(uint64 indexed id, address indexed operator);
        event ResultRejected(uint64 indexed id, address indexed operator, uint256 slashed);
        event RevocationExecuted(uint64 indexed id, CallbackStatus status, uint256 gasUsed, bytes returnData);
        event CreditDeposited(address indexed account, address indexed by, uint256 amount);
        event CreditWithdrawn(address indexed account, address indexed to, uint256 amount);

        error WrongStatus(uint64 id, RequestStatus actual);
        error RequestMismatch(uint64 id);
        error InputSize(uint256 size, uint256 min, uint256 max);
        error InvalidUri(uint256 length, uint256 max);
        error TwoInputs();
        error TooManyTokens(uint256 asked, uint256 max);
        error InvalidTimeout(uint256 timeout, uint256 min, uint256 max);
        error InsufficientPayment(uint256 available, uint256 required);
        error DeadlinePassed(uint64 id, uint256 deadline);
        error DeadlineNotPassed(uint64 id, uint256 deadline);
        error ExclusiveToOperator(uint64 id, address operator, uint256 until);
        error InvalidSignature();
        error UnknownSigner(address signer);
        error InsufficientStake(address operator, uint256 available, uint256 required);
        error WindowClosed(uint64 id, uint256 until);
        error CallbackGasPriceTooHigh(uint256 asked, uint256 max);
        error CallbackGasTooHigh(uint256 asked, uint256 max);
        error NotOperatorRegistry(address caller);
        error InvalidConfig();
        error UnknownModel(bytes32 modelId);
        error NoOperators(bytes32 modelId);
        error NoOffer(bytes32 modelId, address operator);
        error FeeTooLow(uint256 offered, uint256 cheapest);
        error WindowOpen(uint64 id, uint256 until);
        error OutputMismatch(uint64 id);
        error NothingToDeliver(uint64 id);
        error NotEnoughGas(uint256 available, uint256 required);
        error NotDisputeGame(address caller);
        error InsufficientCredit(uint256 available, uint256 required);
        error Reentered();
        error TransferFailed(address to, uint256 amount);

        function request(RequestArgs calldata args) external payable returns (uint64 id);
        function requestByUri(RequestArgs calldata args, bytes32 inputHash, uint32 inputSize, string calldata uri) external payable returns (uint64 id);
        function quote(bytes32 modelId, uint32 callbackGasLimit, uint64 callbackGasPrice) external view returns (uint96 price, uint256 total);
        function cancel(PackedRequest calldata request_) external;
        function fulfill(Answer calldata answer) external;
        function fulfillBatch(Answer[] calldata answers) external;
        function finalize(Settlement calldata settlement) external;
        function finalizeBatch(Settlement[] calldata settlements) external;
        function retryCallback(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata output) external;
        function openDispute(PackedRequest calldata request_, Fulfillment calldata fulfillment) external;
        function upholdResult(PackedRequest calldata request_, Fulfillment calldata fulfillment) external;
        function rejectResult(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata input) external returns (uint256 slashed);
        function syncOffer(bytes32 modelId, address operator, uint96 price) external returns (bool added);
        function syncOfferRemoved(bytes32 modelId, address operator) external;
        function syncSigner(address signer, address operator) external;
        function syncStake(address operator, uint256 available) external;
        function depositCredit(address account) external payable;
        function withdrawCredit(address to, uint256 amount) external;
        function statusOf(uint64 id) external view returns (RequestStatus status, CallbackStatus callback);
        function isFinal(PackedRequest calldata request_, Fulfillment calldata fulfillment) external view returns (bool);
        function unpack(PackedRequest calldata request_) external pure returns (UnpackedRequest memory);
        function operatorOf(address signer) external view returns (address operator);
        function offers(bytes32 modelId, uint256 from, uint256 count) external view returns (Offer[] memory page, uint256 total);
        function offerOf(bytes32 modelId, address operator) external view returns (bool serves, uint96 price);
        function cheapestOffer(bytes32 modelId) external view returns (uint96 price);
        function draw(bytes32 modelId, bytes32 seed, uint256 maxFee) external view returns (address operator, uint96 price);
        function requestHash(PackedRequest calldata request_) external pure returns (bytes32);
        function fulfillmentDigest(PackedRequest calldata request_, bytes32 outputHash, uint32 outputSize) external view returns (bytes32);
        function domainSeparator() external view returns (bytes32);
        function requestCount() external view returns (uint64);
        function creditOf(address account) external view returns (uint256);
        function openResultsOf(address operator) external view returns (uint256);
        function lockedStakeOf(address operator) external view returns (uint256);
        function models() external view returns (address);
        function operators() external view returns (address);
        function disputeGame() external view returns (address);
        function challengeWindow() external view returns (uint64);
        function exclusivePeriod() external view returns (uint64);
        function stakePerResult() external view returns (uint256);
        function minTimeout() external view returns (uint32);
        function maxTimeout() external view returns (uint32);
        function maxCallbackGas() external view returns (uint32);
        function revocationGas() external view returns (uint32);
    }

    #[derive(Debug, PartialEq, Eq)]
    interface IModelRegistry {
        event ModelRegistered(bytes32 indexed modelId, ModelDescriptor descriptor);
        event ModelAnnounced(bytes32 indexed modelId, address indexed by, string uri);

        error UnknownModel(bytes32 modelId);
        error InvalidLimits(Limits limits);
        error UnsupportedArithmetic(uint256 version);

        function register(ModelDescriptor calldata descriptor, string calldata uri) external returns (bytes32);
        function announce(bytes32 modelId, string calldata uri) external;
        function idOf(ModelDescriptor calldata descriptor) external pure returns (bytes32);
        function limitsOf(bytes32 modelId) external view returns (Limits memory);
        function descriptorOf(bytes32 modelId) external view returns (ModelDescriptor memory);
        function ARITHMETIC_VERSION() external view returns (uint256);
        function MAX_BYTES() external view returns (uint32);
        function isRegistered(bytes32 modelId) external view returns (bool);
    }

    #[derive(Debug, PartialEq, Eq)]
    interface IOperatorRegistry {
        event StakeDeposited(address indexed operator, address indexed by, uint256 amount, uint256 stake);
        event WithdrawalRequested(address indexed operator, uint256 amount, uint256 availableAt);
        event WithdrawalCancelled(address indexed operator, uint256 amount);
        event StakeWithdrawn(address indexed operator, address indexed to, uint256 amount);
        event SignerAdded(address indexed operator, address indexed signer);
        event SignerRemoved(address indexed operator, address indexed signer);
        event OfferSet(bytes32 indexed modelId, address indexed operator, uint96 price);
        event OfferRemoved(bytes32 indexed modelId, address indexed operator);
        event Slashed(address indexed operator, uint256 amount, address indexed recipient);

        error NotOracle(address caller);
        error StakeTooLow(address operator, uint256 stake, uint256 required);
        error StakeLocked(address operator, uint256 stake, uint256 locked);
        error WithdrawalPending(uint256 amount, uint256 availableAt);
        error NoWithdrawalPending();
        error WithdrawalNotReady(uint256 availableAt);
        error OffersRemain(uint256 offers);
        error SignerTaken(address signer, address operator);
        error NotYourSigner(address signer);
        error NoOffer(bytes32 modelId, address operator);
        error NoOperators(bytes32 modelId);
        error FeeTooLow(uint256 offered, uint256 cheapest);
        error StillStaked(address operator);
        error ZeroAmount();
        error InvalidConfig();
        error TransferFailed(address to, uint256 amount);

        function deposit(address operator) external payable;
        function requestWithdrawal(uint256 amount) external;
        function cancelWithdrawal() external;
        function withdraw(address to) external;
        function addSigner(address signer, bytes calldata proof) external;
        function removeSigner(address signer) external;
        function setOffer(bytes32 modelId, uint96 price) external;
        function removeOffer(bytes32 modelId) external;
        function evict(bytes32 modelId, address operator) external;
        function slash(address operator, uint256 amount, address recipient) external;
        function signerStake(address signer) external view returns (address operator, uint256 available);
        function cheapest(bytes32 modelId) external view returns (uint96 price);
        function offers(bytes32 modelId, uint256 from, uint256 count) external view returns (Offer[] memory page, uint256 total);
        function offerOf(bytes32 modelId, address operator) external view returns (bool serves, uint96 price);
        function stakeOf(address operator) external view returns (uint256 stake, uint256 unbonding, uint256 availableAt, uint256 offersCount);
        function operatorOf(address signer) external view returns (address operator);
        function domainSeparator() external view returns (bytes32);
        function oracle() external view returns (address);
        function models() external view returns (address);
        function minStake() external view returns (uint256);
        function withdrawalDelay() external view returns (uint256);
    }

    #[derive(Debug, Copy, Default, PartialEq, Eq, Hash)]
    struct Claim {
        uint32 sequence;
        uint32 prompt;
        uint32 inputBytes;
        uint32 outputBytes;
        uint32 nodes;
        bytes32 root;
        bytes32 tokensHash;
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Run { ModelDescriptor model; bytes32 inputHash; bytes32 seed; Params params; Claim claim; }

    #[derive(Debug, PartialEq, Eq)]
    struct NodeOpening { bytes descriptor; bytes32[] path; }

    #[derive(Debug, Copy, PartialEq, Eq, Hash)]
    struct Element { uint32 node; uint64 leaf; uint32 index; }

    #[derive(Debug, PartialEq, Eq)]
    interface IStepVerifier {
        error InvalidOpening(bytes32 what);

        function hasNodes(ModelDescriptor calldata model, uint32 nodes, bytes32 programRoot) external view returns (bool);
        function leavesOf(Run calldata run, uint32 node, NodeOpening calldata opening) external view returns (bool defined, uint64 leaves);
        function partialsOf(Run calldata run, Element calldata element, bytes calldata proof) external view returns (uint32);
        function isClaimWrong(Run calldata run, bytes calldata input, bytes calldata proof) external view returns (bool);
        function isOutputWrong(Run calldata run, bytes calldata output, bytes calldata proof) external view returns (bool);
        function isElementWrong(Run calldata run, Element calldata element, bytes calldata leaf, bytes calldata proof) external view returns (bool);
        function isPartialWrong(Run calldata run, Element calldata element, bytes calldata partials, uint32 part, bytes calldata proof) external view returns (bool);
        function isSumWrong(Run calldata run, Element calldata element, bytes calldata leaf, bytes calldata partials, bytes calldata proof) external view returns (bool);
    }

    #[derive(Debug, PartialEq, Eq, Hash)]
    enum Turn { None, Claim, Select, Reveal, RevealLeaf, SelectElement, RevealPartials, Prove }

    #[derive(Debug, PartialEq, Eq, Hash)]
    enum Outcome { None, Upheld, Rejected, Moot }

    #[derive(Debug, PartialEq, Eq, Hash)]
    enum Fault { Claim, Output, Element, Partial, Sum }

    #[derive(Debug, PartialEq, Eq)]
    struct Dispute {
        uint64 id;
        bytes32 result;
        address operator;
        address challenger;
        Turn turn;
        uint32 moves;
        uint64 since;
        uint32 operatorTime;
        uint32 challengerTime;
        uint96 operatorGas;
        uint96 challengerGas;
        bool inTensor;
        uint32 node;
        uint64 count;
        uint64 index;
        uint8 height;
        bytes32 hash;
        uint32 element;
        uint32 parts;
        bytes32 leaf;
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Refutation { Fault fault; uint32 index; bytes data; bytes proof; }

    #[derive(Debug, Copy, PartialEq, Eq)]
    struct Terms {
        uint96 bond;
        uint96 reward;
        uint96 gasAllowance;
        uint64 maxGasPrice;
        uint32 clock;
        uint32 increment;
        uint32 extension;
    }

    #[derive(Debug, PartialEq, Eq)]
    interface IDisputeGame {
        event Challenged(uint64 indexed id, bytes32 indexed result, address indexed challenger, Dispute dispute, PackedRequest request, Fulfillment fulfillment);
        event Claimed(bytes32 indexed result, bytes32 traceRoot, Claim claim, bytes tokens, bytes32[] hashes);
        event InputShown(bytes32 indexed result, bytes input);
        event Moved(uint64 indexed id, address indexed by, Dispute dispute, bytes data);
        event Resolved(uint64 indexed id, bytes32 indexed result, Outcome outcome, address winner, uint256 paid);
        event Rejected(bytes32 indexed result, uint256 slashed);
        event Burned(uint256 amount);
        event CreditWithdrawn(address indexed account, address indexed to, uint256 amount);

        error Stale(uint64 id);
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

        function challenge(PackedRequest calldata request, Fulfillment calldata fulfillment) external payable returns (uint64);
        function showInput(PackedRequest calldata request, Fulfillment calldata fulfillment, bytes calldata input) external;
        function claim(PackedRequest calldata request, Fulfillment calldata fulfillment, ModelDescriptor calldata model, Claim calldata claim_, bytes32 programRoot, bytes calldata tokens, bytes32[] calldata hashes) external;
        function select(Dispute calldata dispute, uint32 position, bytes32 hash, bytes32[] calldata path) external;
        function selectNode(Dispute calldata dispute, PackedRequest calldata request, ModelDescriptor calldata model, Claim calldata claim_, uint32 position, bytes32 hash, bytes32[] calldata path, NodeOpening calldata opening) external;
        function reveal(Dispute calldata dispute, bytes32[] calldata hashes) external;
        function revealLeaf(Dispute calldata dispute, bytes calldata leaf) external;
        function selectElement(Dispute calldata dispute, PackedRequest calldata request, ModelDescriptor calldata model, Claim calldata claim_, uint32 element, bytes calldata proof) external;
        function revealPartials(Dispute calldata dispute, bytes calldata partials) external;
        function prove(Dispute calldata dispute, PackedRequest calldata request, Fulfillment calldata fulfillment, ModelDescriptor calldata model, Claim calldata claim_, Refutation calldata refutation) external;
        function timeout(Dispute calldata dispute, PackedRequest calldata request, Fulfillment calldata fulfillment) external;
        function reject(PackedRequest calldata request, Fulfillment calldata fulfillment, bytes calldata input) external;
        function close(Dispute calldata dispute) external;
        function withdrawCredit(address to, uint256 amount) external;
        function stateOf(uint64 id) external view returns (bytes32);
        function resultOf(bytes32 result) external view returns (uint32 open, uint64 claimBy, bytes32 claimHash, uint64 claimedAt, bool fallen, bool rejected);
        function currentOf(Dispute calldata dispute) external view returns (Dispute memory);
        function resultHash(PackedRequest calldata request, Fulfillment calldata fulfillment) external pure returns (bytes32);
        function levelsOf(uint256 height) external pure returns (uint256);
        function deadlineOf(Dispute calldata dispute) external view returns (uint256);
        function terms() external view returns (Terms memory);
        function creditOf(address account) external view returns (uint256);
        function disputeCount() external view returns (uint64);
        function oracle() external view returns (address);
        function verifier() external view returns (address);
    }
}
