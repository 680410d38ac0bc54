// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ModelId} from "../Types.sol";
import {IModelRegistry} from "./IModelRegistry.sol";

/// @title Who answers: stake, signing keys, prices
/// @notice An operator is an account with stake. It names signing keys, whose signatures bind it, and states a price for each model it serves.
/// What is at risk with each result is locked by the oracle; only the oracle can slash, and only on the word of the dispute game.
interface IOperatorRegistry {
    /// @notice One operator's price for one model.
    struct Offer {
        address operator;
        uint96 price; // wei per request, without the callback
    }

    event StakeDeposited(address indexed operator, address indexed by, uint256 amount, uint256 stake);
    event WithdrawalRequested(address indexed operator, uint256 amount, uint256 availableAt);
    event WithdrawalCancelled(address indexed operator, uint256 amount);
    event StakeWithdrawn(address indexed operator, address indexed to, uint256 amount);
    event SignerAdded(address indexed operator, address indexed signer);
    event SignerRemoved(address indexed operator, address indexed signer);
    event OfferSet(ModelId indexed modelId, address indexed operator, uint96 price);
    event OfferRemoved(ModelId indexed modelId, address indexed operator);
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
    error NoOffer(ModelId modelId, address operator);
    error NoOperators(ModelId modelId);
    error FeeTooLow(uint256 offered, uint256 cheapest);
    error StillStaked(address operator);
    error ZeroAmount();
    error InvalidConfig();
    error TransferFailed(address to, uint256 amount);

    /// @notice Adds stake for `operator`. Anybody may; only the operator can take it out.
    function deposit(address operator) external payable;

    /// @notice Announces a withdrawal. From now on that stake backs no new result; it can still be slashed until it is withdrawn.
    function requestWithdrawal(uint256 amount) external;

    /// @notice Takes the announcement back.
    function cancelWithdrawal() external;

    /// @notice Pays the announced amount out to `to` after the delay, as far as no unfinished result needs it.
    function withdraw(address to) external;

    /// @notice Names a key whose signatures bind the caller. A key serves one operator at a time. `proof` is the key's own EIP-712 signature over
    /// `SignerConsent(address operator)`, so nobody can claim a key that is not theirs.
    function addSigner(address signer, bytes calldata proof) external;

    /// @notice Withdraws the key at once, for results posted from then on.
    function removeSigner(address signer) external;

    /// @notice States the caller's price for a model, or changes it. Needs `minStake`.
    function setOffer(ModelId modelId, uint96 price) external;

    /// @notice Stops serving a model.
    function removeOffer(ModelId modelId) external;

    /// @notice Removes the offer of an operator that was slashed below `minStake`. Anybody may.
    function evict(ModelId modelId, address operator) external;

    /// @notice Takes `amount` of an operator's stake and sends it to `recipient`. Only the oracle.
    function slash(address operator, uint256 amount, address recipient) external;

    /// @notice The operator a signing key speaks for (zero: none) and the stake that can back new results.
    function signerStake(address signer) external view returns (address operator, uint256 available);

    /// @notice The lowest price among the offers for a model. Reverts with `UnknownModel` or `NoOperators`.
    function cheapest(ModelId modelId) external view returns (uint96 price);

    /// @notice Offers `from` .. `from + count` for a model, and how many there are.
    function offers(ModelId modelId, uint256 from, uint256 count) external view returns (Offer[] memory page, uint256 total);

    function offerOf(ModelId modelId, address operator) external view returns (bool serves, uint96 price);

    function stakeOf(address operator) external view returns (uint256 stake, uint256 unbonding, uint256 availableAt, uint256 offersCount);

    function operatorOf(address signer) external view returns (address operator);

    function oracle() external view returns (address);
    function models() external view returns (IModelRegistry);
    function minStake() external view returns (uint256);
    function withdrawalDelay() external view returns (uint256);
}
