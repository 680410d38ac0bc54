// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Delivery, ModelId, RequestId} from "../Types.sol";
import {InferenceConsumer} from "../consumer/InferenceConsumer.sol";
import {Tensor} from "../consumer/Tensor.sol";
import {IInferenceOracle} from "../interfaces/IInferenceOracle.sol";

/// @title A contract that reads handwritten digits
/// @notice Takes an image of 28 x 28 bytes, and stores which digit the model sees in it and how sure it is.
contract DigitReader is InferenceConsumer {
    struct Reading {
        address reader;
        bool known;
        uint8 digit;
        uint64 confidence; // probability of that digit, in WAD
    }

    uint256 public constant IMAGE_BYTES = 28 * 28;
    uint256 public constant CLASSES = 10;

    ModelId public immutable model;

    mapping(RequestId => Reading) public readings;

    event ImageSent(RequestId indexed id, address indexed reader, Delivery delivery);
    event DigitRead(RequestId indexed id, address indexed reader, uint8 digit, uint64 confidence);
    event ReadingRevoked(RequestId indexed id, address indexed reader);

    error ImageSize(uint256 size);
    error OutputSize(uint256 size);
    error NotADigit(uint32 class);
    error NotAProbability(int256 wad);
    error UnexpectedResult(RequestId id);

    constructor(IInferenceOracle oracle_, ModelId model_) InferenceConsumer(oracle_) {
        model = model_;
    }

    /// @notice Money for requests that the contract pays itself.
    receive() external payable {}

    /// @notice Has an image read: 784 bytes, row by row, 0 is background.
    function read(bytes calldata image, Delivery delivery) external payable returns (RequestId id) {
        if (image.length != IMAGE_BYTES) revert ImageSize(image.length);
        IInferenceOracle.RequestArgs memory args = _defaults(model, image);
        args.delivery = delivery;
        id = _request(args);
        readings[id].reader = msg.sender;
        emit ImageSent(id, msg.sender, delivery);
    }

    /// The output: the class as u32, then ten probabilities as f32.
    function _onInferenceResult(RequestId id, bytes calldata output) internal override {
        Reading storage reading = readings[id];
        if (reading.reader == address(0) || reading.known) revert UnexpectedResult(id);
        if (output.length != 4 + 4 * CLASSES) revert OutputSize(output.length);
        uint32 class = Tensor.u32At(output, 0);
        if (class >= CLASSES) revert NotADigit(class);
        int256 confidence = Tensor.f32At(output, 4 + 4 * uint256(class));
        if (confidence < 0 || confidence > 1e18) revert NotAProbability(confidence);

        reading.known = true;
        // forge-lint: disable-next-line(unsafe-typecast) below ten
        reading.digit = uint8(class);
        // forge-lint: disable-next-line(unsafe-typecast) between zero and one WAD
        reading.confidence = uint64(uint256(confidence));
        emit DigitRead(id, reading.reader, reading.digit, reading.confidence);
    }

    function _onInferenceRevoked(RequestId id) internal override {
        Reading storage reading = readings[id];
        (reading.known, reading.digit, reading.confidence) = (false, 0, 0);
        emit ReadingRevoked(id, reading.reader);
    }
}
