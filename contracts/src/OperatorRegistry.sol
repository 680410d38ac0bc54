// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ModelId} from "./Types.sol";
import {IInferenceOracle} from "./interfaces/IInferenceOracle.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {EIP712} from "./lib/EIP712.sol";
import {Signature} from "./lib/Signature.sol";

/// @title Operator registry
/// @notice Holds the stake, and nothing else of value; decides who may offer, and whose keys bind whom. What the oracle reads with every request and
/// every result (offers, keys, how many results a stake can back) it keeps itself, on this contract's word, so that none of them costs a call. What is
/// locked is the oracle's to say.
contract OperatorRegistry is IOperatorRegistry, EIP712 {
    bytes32 private constant CONSENT_TYPEHASH = keccak256("SignerConsent(address operator)");

    /// @dev One slot. 96 bits of wei are more ether than there is.
    struct Account {
        uint96 stake;
        uint96 unbonding; // part of `stake` that is announced for withdrawal
        uint40 availableAt;
        uint24 offers;
    }

    /// @inheritdoc IOperatorRegistry
    address public immutable oracle;
    /// @inheritdoc IOperatorRegistry
    IModelRegistry public immutable models;
    /// @inheritdoc IOperatorRegistry
    uint256 public immutable minStake;
    /// @inheritdoc IOperatorRegistry
    uint256 public immutable withdrawalDelay;

    mapping(address operator => Account) private _accounts;

    /// @param oracle_ The oracle that locks and slashes; may be deployed after this contract, at an address known beforehand.
    constructor(address oracle_, IModelRegistry models_, uint256 minStake_, uint256 withdrawalDelay_) {
        if (
            oracle_ == address(0) || address(models_).code.length == 0 || minStake_ == 0 || minStake_ > type(uint96).max
                || withdrawalDelay_ > 365 days
        ) revert InvalidConfig();
        oracle = oracle_;
        models = models_;
        minStake = minStake_;
        withdrawalDelay = withdrawalDelay_;
    }

    // ---------------------------------------------------------------- stake

    /// @inheritdoc IOperatorRegistry
    function deposit(address operator) external payable {
        if (msg.value == 0) revert ZeroAmount();
        Account storage account = _accounts[operator];
        account.stake += uint96(msg.value);
        emit StakeDeposited(operator, msg.sender, msg.value, account.stake);
        _syncStake(operator, account);
    }

    /// @inheritdoc IOperatorRegistry
    function requestWithdrawal(uint256 amount) external {
        Account storage account = _accounts[msg.sender];
        if (amount == 0) revert ZeroAmount();
        if (account.unbonding != 0) revert WithdrawalPending(account.unbonding, account.availableAt);
        if (amount > account.stake) revert StakeTooLow(msg.sender, account.stake, amount);
        // INVARIANT: who makes offers has at least minStake that is not on its way out.
        if (account.offers != 0 && account.stake - amount < minStake) revert OffersRemain(account.offers);

        // forge-lint: disable-next-line(unsafe-typecast) at most the stake
        account.unbonding = uint96(amount);
        // forge-lint: disable-next-line(unsafe-typecast) a delay of at most a year
        account.availableAt = uint40(block.timestamp + withdrawalDelay);
        emit WithdrawalRequested(msg.sender, amount, account.availableAt);
        _syncStake(msg.sender, account);
    }

    /// @inheritdoc IOperatorRegistry
    function cancelWithdrawal() external {
        Account storage account = _accounts[msg.sender];
        uint256 amount = account.unbonding;
        if (amount == 0) revert NoWithdrawalPending();
        account.unbonding = 0;
        account.availableAt = 0;
        emit WithdrawalCancelled(msg.sender, amount);
        _syncStake(msg.sender, account);
    }

    /// @inheritdoc IOperatorRegistry
    function withdraw(address to) external {
        Account storage account = _accounts[msg.sender];
        uint256 amount = account.unbonding;
        if (amount == 0) revert NoWithdrawalPending();
        if (block.timestamp < account.availableAt) revert WithdrawalNotReady(account.availableAt);

        uint256 stake = account.stake;
        uint256 locked = IInferenceOracle(oracle).lockedStakeOf(msg.sender);
        // INVARIANT: stake >= locked. What an unfinished result needs stays here until the result is final.
        if (stake <= locked) revert StakeLocked(msg.sender, stake, locked);
        if (amount > stake - locked) amount = stake - locked;

        // forge-lint: disable-next-line(unsafe-typecast) at most the stake
        account.stake -= uint96(amount);
        // forge-lint: disable-next-line(unsafe-typecast) at most the stake
        account.unbonding -= uint96(amount);
        if (account.unbonding == 0) account.availableAt = 0;
        emit StakeWithdrawn(msg.sender, to, amount);
        _syncStake(msg.sender, account);
        _send(to, amount);
    }

    /// @inheritdoc IOperatorRegistry
    function slash(address operator, uint256 amount, address recipient) external {
        // INVARIANT: stake is taken on the oracle's word only.
        if (msg.sender != oracle) revert NotOracle(msg.sender);
        Account storage account = _accounts[operator];
        if (amount > account.stake) revert StakeTooLow(operator, account.stake, amount);
        // forge-lint: disable-next-line(unsafe-typecast) at most the stake
        account.stake -= uint96(amount);
        if (account.unbonding > account.stake) account.unbonding = account.stake;
        if (account.unbonding == 0) account.availableAt = 0;
        emit Slashed(operator, amount, recipient);
        _syncStake(operator, account);
        _send(recipient, amount);
    }

    // ---------------------------------------------------------------- keys

    /// @inheritdoc IOperatorRegistry
    function addSigner(address signer, bytes calldata proof) external {
        address holder = IInferenceOracle(oracle).operatorOf(signer);
        if (holder != address(0)) revert SignerTaken(signer, holder);
        // INVARIANT: a key binds an operator only if the key itself has said so; and the zero address is nobody's key.
        bytes32 digest = _digest(keccak256(abi.encode(CONSENT_TYPEHASH, msg.sender)));
        if (signer == address(0) || Signature.recover(digest, proof) != signer) revert NotYourSigner(signer);
        emit SignerAdded(msg.sender, signer);
        IInferenceOracle(oracle).syncSigner(signer, msg.sender);
    }

    /// @inheritdoc IOperatorRegistry
    function removeSigner(address signer) external {
        if (IInferenceOracle(oracle).operatorOf(signer) != msg.sender) revert NotYourSigner(signer);
        emit SignerRemoved(msg.sender, signer);
        IInferenceOracle(oracle).syncSigner(signer, address(0));
    }

    // ---------------------------------------------------------------- offers

    /// @inheritdoc IOperatorRegistry
    function setOffer(ModelId modelId, uint96 price) external {
        Account storage account = _accounts[msg.sender];
        uint256 available = account.stake - account.unbonding;
        if (available < minStake) revert StakeTooLow(msg.sender, available, minStake);

        if (IInferenceOracle(oracle).syncOffer(modelId, msg.sender, price)) account.offers += 1;
        emit OfferSet(modelId, msg.sender, price);
    }

    /// @inheritdoc IOperatorRegistry
    function removeOffer(ModelId modelId) external {
        _removeOffer(modelId, msg.sender);
    }

    /// @inheritdoc IOperatorRegistry
    function evict(ModelId modelId, address operator) external {
        Account storage account = _accounts[operator];
        if (account.stake - account.unbonding >= minStake) revert StillStaked(operator);
        _removeOffer(modelId, operator);
    }

    function _removeOffer(ModelId modelId, address operator) private {
        IInferenceOracle(oracle).syncOfferRemoved(modelId, operator);
        _accounts[operator].offers -= 1;
        emit OfferRemoved(modelId, operator);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IOperatorRegistry
    function signerStake(address signer) external view returns (address operator, uint256 available) {
        operator = IInferenceOracle(oracle).operatorOf(signer);
        Account storage account = _accounts[operator];
        available = account.stake - account.unbonding;
    }

    /// @inheritdoc IOperatorRegistry
    function cheapest(ModelId modelId) external view returns (uint96) {
        return IInferenceOracle(oracle).cheapestOffer(modelId);
    }

    /// @inheritdoc IOperatorRegistry
    function offers(ModelId modelId, uint256 from, uint256 count) external view returns (Offer[] memory, uint256) {
        return IInferenceOracle(oracle).offers(modelId, from, count);
    }

    /// @inheritdoc IOperatorRegistry
    function offerOf(ModelId modelId, address operator) external view returns (bool, uint96) {
        return IInferenceOracle(oracle).offerOf(modelId, operator);
    }

    /// @inheritdoc IOperatorRegistry
    function stakeOf(address operator) external view returns (uint256 stake, uint256 unbonding, uint256 availableAt, uint256 offersCount) {
        Account storage account = _accounts[operator];
        return (account.stake, account.unbonding, account.availableAt, account.offers);
    }

    /// @inheritdoc IOperatorRegistry
    function operatorOf(address signer) external view returns (address) {
        return IInferenceOracle(oracle).operatorOf(signer);
    }

    /// @notice The EIP-712 domain of `SignerConsent`.
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparator();
    }

    // ---------------------------------------------------------------- inside

    function _syncStake(address operator, Account storage account) private {
        IInferenceOracle(oracle).syncStake(operator, account.stake - account.unbonding);
    }

    function _send(address to, uint256 amount) private {
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert TransferFailed(to, amount);
    }
}
