// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Limits, ModelId} from "./Types.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";

/// @notice What the oracle knows of a model, in one word. From the top: one bit (the model is known), 63 of nothing, 64 bits
/// number of offers, then the four limits of 32 bits each in the order of `Limits`.
type Market is uint256;

using {offersIn, minInputBytes, maxInputBytes, maxTokens, isKnown, withOffers} for Market global;

function packMarket(Limits memory limits) pure returns (Market) {
    return Market.wrap(
        1 << 255 | uint256(limits.minInputBytes) << 96 | uint256(limits.maxInputBytes) << 64 | uint256(limits.maxOutputBytes) << 32
            | limits.maxTokens
    );
}

function isKnown(Market market) pure returns (bool) {
    return Market.unwrap(market) >> 255 == 1;
}

function offersIn(Market market) pure returns (uint256) {
    return uint64(Market.unwrap(market) >> 128);
}

function withOffers(Market market, uint256 count) pure returns (Market) {
    return Market.wrap(Market.unwrap(market) & ~(uint256(type(uint64).max) << 128) | count << 128);
}

function minInputBytes(Market market) pure returns (uint256) {
    return uint32(Market.unwrap(market) >> 96);
}

function maxInputBytes(Market market) pure returns (uint256) {
    return uint32(Market.unwrap(market) >> 64);
}

function maxTokens(Market market) pure returns (uint256) {
    return uint32(Market.unwrap(market));
}

/// @title Who serves which model at what price
/// @notice The part of the oracle that a request reads: two slots, whatever the number of offers. Written on the operator registry's word.
abstract contract OfferBook {
    /// Offers that a draw looks at, at most: what a request costs must not grow with the number of operators.
    uint256 private constant MAX_PROBES = 8;

    /// One word for all that a request needs to know of a model: see `Market`.
    mapping(ModelId => Market) private _markets;
    mapping(ModelId => mapping(uint256 index => IOperatorRegistry.Offer)) private _offers;
    /// One more than the index of an operator's offer; zero where there is none.
    mapping(ModelId => mapping(address operator => uint256)) private _position;

    function _models() internal view virtual returns (IModelRegistry);

    /// Adds an offer or changes its price.
    function _setOffer(ModelId modelId, address operator, uint96 price) internal returns (bool added) {
        Market market = _markets[modelId];
        if (!market.isKnown()) market = packMarket(_models().limitsOf(modelId));
        uint256 position = _position[modelId][operator];
        if (position != 0) {
            _offers[modelId][position - 1].price = price;
            return false;
        }
        uint256 index = market.offersIn();
        _markets[modelId] = market.withOffers(index + 1);
        _offers[modelId][index] = IOperatorRegistry.Offer(operator, price);
        _position[modelId][operator] = index + 1;
        return true;
    }

    /// Removes an offer; the last one takes its place.
    function _removeOffer(ModelId modelId, address operator) internal {
        uint256 position = _position[modelId][operator];
        if (position == 0) revert IOperatorRegistry.NoOffer(modelId, operator);
        Market market = _markets[modelId];
        uint256 last = market.offersIn() - 1;
        if (position - 1 != last) {
            IOperatorRegistry.Offer memory moved = _offers[modelId][last];
            _offers[modelId][position - 1] = moved;
            _position[modelId][moved.operator] = position;
        }
        delete _offers[modelId][last];
        delete _position[modelId][operator];
        _markets[modelId] = market.withOffers(last);
    }

    /// See `IInferenceOracle.draw`.
    function _draw(ModelId modelId, uint256 seed, uint256 maxFee) internal view returns (address operator, uint96 price, Market market) {
        market = _markets[modelId];
        uint256 count = market.offersIn();
        if (count == 0) revert IOperatorRegistry.NoOperators(_checked(modelId));
        mapping(uint256 => IOperatorRegistry.Offer) storage book = _offers[modelId];
        uint256 lowest = type(uint256).max;
        unchecked {
            uint256 index = seed % count;
            for (uint256 probes = count < MAX_PROBES ? count : MAX_PROBES; probes != 0; --probes) {
                IOperatorRegistry.Offer storage offer = book[index];
                (operator, price) = (offer.operator, offer.price);
                if (price <= maxFee) return (operator, price, market);
                if (price < lowest) lowest = price;
                if (++index == count) index = 0;
            }
        }
        if (count <= MAX_PROBES) revert IOperatorRegistry.FeeTooLow(maxFee, lowest);
        // forge-lint: disable-next-line(unsafe-typecast) below a price, so it fits
        return (address(0), uint96(maxFee), market);
    }

    function _cheapest(ModelId modelId) internal view returns (uint96 price) {
        uint256 count = _markets[modelId].offersIn();
        if (count == 0) revert IOperatorRegistry.NoOperators(_checked(modelId));
        price = type(uint96).max;
        for (uint256 i = 0; i < count; ++i) {
            uint96 offered = _offers[modelId][i].price;
            if (offered < price) price = offered;
        }
    }

    function _page(ModelId modelId, uint256 from, uint256 count)
        internal
        view
        returns (IOperatorRegistry.Offer[] memory page, uint256 total)
    {
        total = _markets[modelId].offersIn();
        if (from > total) from = total;
        if (count > total - from) count = total - from;
        page = new IOperatorRegistry.Offer[](count);
        for (uint256 i = 0; i < count; ++i) {
            page[i] = _offers[modelId][from + i];
        }
    }

    function _offerOf(ModelId modelId, address operator) internal view returns (bool serves, uint96 price) {
        uint256 position = _position[modelId][operator];
        if (position != 0) (serves, price) = (true, _offers[modelId][position - 1].price);
    }

    /// `modelId`, if there is such a model: an unknown model is another mistake than one that nobody serves.
    function _checked(ModelId modelId) private view returns (ModelId) {
        if (!_models().isRegistered(modelId)) revert IModelRegistry.UnknownModel(modelId);
        return modelId;
    }
}
