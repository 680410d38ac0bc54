// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CallbackStatus, Delivery, Fulfillment, ModelId, PackedRequest, Params, Request, RequestId, RequestStatus} from "../Types.sol";
import {IModelRegistry} from "./IModelRegistry.sol";
import {IOperatorRegistry} from "./IOperatorRegistry.sol";

/// @title A contract asks a neural network, and acts on the answer
/// @notice
/// 1. `request` escrows the operator's fee and the callback's gas, draws an operator and emits everything a relayer needs.
/// 2. `fulfill` takes an output with a registered key's EIP-712 signature and locks a slice of that operator's stake. The operator drawn is alone
///    until `exclusiveUntil`; then anybody may answer, until `deadline`.
/// 3. For `challengeWindow` seconds the dispute game may stop the result.
/// 4. `finalize` frees the stake and pays. Nobody's permission is needed for any step.
/// 5. After `deadline` without an answer, `cancel` gives everything back.
/// The consumer is called at step 2 or at step 4, as the requester chose.
interface IInferenceOracle {
    /// @notice What a requester says.
    struct RequestArgs {
        ModelId modelId;
        bytes input;
        Params params;
        Delivery delivery;
        uint32 callbackGasLimit; // 0: no callback
        uint64 callbackGasPrice; // wei per gas, at most, paid for the callback; less than 2^48
        uint96 maxFee; // wei, at most, for the operator
        uint32 timeout; // seconds until the request can be cancelled
    }

    /// @notice One posted result in a batch.
    struct Answer {
        PackedRequest request;
        bytes output;
        bytes signature;
    }

    /// @notice One result to finalize. `output` is needed only where it is yet to be delivered to the consumer; empty otherwise.
    struct Settlement {
        PackedRequest request;
        Fulfillment fulfillment;
        bytes output;
    }

    /// @notice A request was made, or (`attempt` > 0) opened again. With `input`, all that is needed to answer it; a request by URI that is opened again
    /// may come without (see `rejectResult`).
    event Requested(RequestId indexed id, ModelId indexed modelId, address indexed operator, PackedRequest request, bytes input);

    /// @notice A request was made whose input, of so many bytes, is at a URI. What is there counts only if its keccak256 is the request's `inputHash`.
    event RequestedByUri(
        RequestId indexed id, ModelId indexed modelId, address indexed operator, PackedRequest request, uint32 inputSize, string uri
    );

    /// @notice A result was posted. It becomes final at `fulfillment.fulfilledAt + challengeWindow` if nobody disputes it.
    event Fulfilled(RequestId indexed id, address indexed operator, Fulfillment fulfillment, bytes output);

    /// @notice The consumer was called. `returnData` is what it reverted with, at most 128 bytes; empty on success.
    event CallbackExecuted(RequestId indexed id, CallbackStatus status, uint256 gasUsed, bytes returnData);

    /// @notice A consumer that had been given a result was told that it was wrong. What came of that changes nothing else.
    event RevocationExecuted(RequestId indexed id, CallbackStatus status, uint256 gasUsed, bytes returnData);

    /// @notice A result became final: `paid` wei to `operator`, `refunded` wei of the callback allowance back to the requester's credit.
    event Finalized(RequestId indexed id, address indexed operator, uint256 paid, uint256 refunded);

    /// @notice Nobody answered in time; `refunded` wei are the requester's credit.
    event Cancelled(RequestId indexed id, uint256 refunded);

    /// @notice An item of a batch was left out because its request was not in the state the batch needs (somebody was faster, or it is too early).
    event Skipped(RequestId indexed id, RequestStatus status);

    /// @notice The dispute game holds the result.
    event DisputeOpened(RequestId indexed id, address indexed operator);

    /// @notice The result was upheld and goes on as it was.
    event ResultUpheld(RequestId indexed id, address indexed operator);

    /// @notice The result was proven wrong: `slashed` wei of the operator's stake went to the dispute game; the request is open again.
    event ResultRejected(RequestId indexed id, address indexed operator, uint256 slashed);

    event CreditDeposited(address indexed account, address indexed by, uint256 amount);
    event CreditWithdrawn(address indexed account, address indexed to, uint256 amount);

    error WrongStatus(RequestId id, RequestStatus actual);
    error RequestMismatch(RequestId id);
    error InputSize(uint256 size, uint256 min, uint256 max);
    error InvalidUri(uint256 length, uint256 max);
    error TwoInputs();
    error TooManyTokens(uint256 asked, uint256 max);
    error InvalidTimeout(uint256 timeout, uint256 min, uint256 max);
    error InsufficientPayment(uint256 available, uint256 required);
    error DeadlinePassed(RequestId id, uint256 deadline);
    error DeadlineNotPassed(RequestId id, uint256 deadline);
    error ExclusiveToOperator(RequestId id, address operator, uint256 until);
    error InvalidSignature();
    error UnknownSigner(address signer);
    error InsufficientStake(address operator, uint256 available, uint256 required);
    error WindowOpen(RequestId id, uint256 until);
    error WindowClosed(RequestId id, uint256 since);
    error CallbackGasTooHigh(uint256 asked, uint256 max);
    error CallbackGasPriceTooHigh(uint256 asked, uint256 max);
    error OutputMismatch(RequestId id);
    error NothingToDeliver(RequestId id);
    error NotEnoughGas(uint256 available, uint256 required);
    error NotDisputeGame(address caller);
    error NotOperatorRegistry(address caller);
    error InvalidConfig();
    error InsufficientCredit(uint256 available, uint256 required);
    error Reentered();
    error TransferFailed(address to, uint256 amount);

    // ---------------------------------------------------------------- asking

    /// @notice Asks. Pays from `msg.value` and, for what is missing, from the caller's credit; what is too much becomes credit.
    /// @return id Number of the request; the caller is its requester and is called back.
    function request(RequestArgs calldata args) external payable returns (RequestId id);

    /// @notice Asks about an input that is at a URI and does not travel on chain: for inputs that many know or that are long.
    /// @dev Nobody is obliged to find it: if none of those who could answer can have it from there, the request expires and `cancel` gives everything
    /// back. Whoever gets to choose hash and URI for a contract can choose an input that only it and an operator have; what such a pair says is checked
    /// only if somebody challenges it, which makes the operator show the input (see docs/protocol.md, P48). Where a stranger chooses, let `request` take
    /// the bytes.
    /// @param args As for `request`, with an empty `input`.
    /// @param inputHash keccak256 of the input.
    /// @param inputSize Its bytes, inside the model's limits.
    /// @param uri Where it is: `https:`, `ipfs:`, `data:`; 1 to 2048 bytes.
    function requestByUri(RequestArgs calldata args, bytes32 inputHash, uint32 inputSize, string calldata uri)
        external
        payable
        returns (RequestId id);

    /// @notice What a request costs now at the cheapest operator: its price and the callback's gas.
    function quote(ModelId modelId, uint32 callbackGasLimit, uint64 callbackGasPrice) external view returns (uint96 price, uint256 total);

    /// @notice Gives everything back to the requester's credit, after the deadline of an unanswered request. Anybody may.
    function cancel(PackedRequest calldata request_) external;

    // ---------------------------------------------------------------- answering

    /// @notice Posts a result. Anybody may carry it; the signature says whose it is.
    function fulfill(Answer calldata answer) external;

    /// @notice Posts many. An item whose request is no longer open is skipped with an event; any other fault reverts the whole batch.
    function fulfillBatch(Answer[] calldata answers) external;

    /// @notice Settles a result whose window has passed.
    function finalize(Settlement calldata settlement) external;

    /// @notice Settles many. An item that is not ready or already settled is skipped with an event; any other fault reverts the whole batch.
    function finalizeBatch(Settlement[] calldata settlements) external;

    /// @notice Calls the consumer again whose callback failed, at the caller's expense and with at least the gas that was paid for.
    function retryCallback(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata output) external;

    // ---------------------------------------------------------------- disputes (only the dispute game)

    /// @notice Stops a result inside its window.
    function openDispute(PackedRequest calldata request_, Fulfillment calldata fulfillment) external;

    /// @notice Lets it go on. It is final no earlier than its window ends.
    function upholdResult(PackedRequest calldata request_, Fulfillment calldata fulfillment) external;

    /// @notice Rejects it: slashes the slice of stake to the caller, opens the request again and tells a consumer that was given the result.
    /// @param input Of the request, which is announced again with it. Of a request by URI it may be left out.
    /// @return slashed Wei sent to the caller.
    function rejectResult(PackedRequest calldata request_, Fulfillment calldata fulfillment, bytes calldata input)
        external
        returns (uint256 slashed);

    // ---------------------------------------------------------------- operators (only the operator registry)

    /// @notice From now on `signer`'s signatures bind `operator` (zero: nobody).
    function syncSigner(address signer, address operator) external;

    /// @notice `operator` serves a model at `price` from now on.
    /// @return added Whether it did not serve it before.
    function syncOffer(ModelId modelId, address operator, uint96 price) external returns (bool added);

    /// @notice `operator` serves a model no longer.
    function syncOfferRemoved(ModelId modelId, address operator) external;

    /// @notice `available` wei of `operator`'s stake can back results.
    function syncStake(address operator, uint256 available) external;

    // ---------------------------------------------------------------- money

    /// @notice Prepays for `account`. Anybody may.
    function depositCredit(address account) external payable;

    /// @notice Sends `amount` of the caller's credit (fees earned, refunds, prepaid) to `to`.
    function withdrawCredit(address to, uint256 amount) external;

    // ---------------------------------------------------------------- views

    function statusOf(RequestId id) external view returns (RequestStatus status, CallbackStatus callback);

    /// @notice Whether `fulfillment` of `request_` is what the oracle holds, and final.
    function isFinal(PackedRequest calldata request_, Fulfillment calldata fulfillment) external view returns (bool);

    /// @notice A request in readable form.
    function unpack(PackedRequest calldata request_) external pure returns (Request memory);

    /// @notice keccak256(abi.encode(request_)): what the oracle stores, and what an operator's key signs.
    function requestHash(PackedRequest calldata request_) external pure returns (bytes32);

    /// @notice The EIP-712 digest that an operator's key signs.
    function fulfillmentDigest(PackedRequest calldata request_, bytes32 outputHash, uint32 outputSize) external view returns (bytes32);

    function domainSeparator() external view returns (bytes32);
    function requestCount() external view returns (uint64);
    function creditOf(address account) external view returns (uint256);
    function openResultsOf(address operator) external view returns (uint256);

    /// @notice Wei of an operator's stake that its unfinished results hold.
    function lockedStakeOf(address operator) external view returns (uint256);

    /// @notice The operator a signing key binds; zero: none.
    function operatorOf(address signer) external view returns (address operator);

    /// @notice Offers `from` .. `from + count` for a model, and how many there are.
    function offers(ModelId modelId, uint256 from, uint256 count)
        external
        view
        returns (IOperatorRegistry.Offer[] memory page, uint256 total);

    function offerOf(ModelId modelId, address operator) external view returns (bool serves, uint96 price);

    /// @notice The lowest price among the offers for a model; looks at all of them. Reverts with `UnknownModel` or `NoOperators`.
    function cheapestOffer(ModelId modelId) external view returns (uint96 price);

    /// @notice The operator that a request with this seed would get, and its price.
    /// @dev At most 8 offers are looked at, from a random start. With more than 8 offers and none of the 8 cheap enough the request is open to all
    /// (`operator` zero, `price = maxFee`), so that no crowd of dear offers can shut a requester out.
    /// Reverts with `UnknownModel`, `NoOperators` or, when all offers were looked at, `FeeTooLow`.
    function draw(ModelId modelId, bytes32 seed, uint256 maxFee) external view returns (address operator, uint96 price);

    function models() external view returns (IModelRegistry);
    function operators() external view returns (IOperatorRegistry);
    function disputeGame() external view returns (address);
    function challengeWindow() external view returns (uint64);
    function exclusivePeriod() external view returns (uint64);
    function stakePerResult() external view returns (uint256);
    function minTimeout() external view returns (uint32);
    function maxTimeout() external view returns (uint32);
    function maxCallbackGas() external view returns (uint32);

    /// @notice Gas that `onInferenceRevoked` gets.
    function revocationGas() external view returns (uint32);
}
