// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IStepVerifier} from "../../interfaces/IStepVerifier.sol";
import {Merkle} from "../../lib/Merkle.sol";
import {F32, NAN_BITS, fromBF16, fromBits, fromF16, fromI32} from "../F32.sol";
import {element16, elementF32} from "../F32Contraction.sol";
import {LeafOpening, OperandOpening, StepProof} from "../StepProof.sol";
import {Header, LEAF, MAX_DIM, TYPE_F32, TYPE_I8, TYPE_U32, TYPE_U8, ceilDiv, header} from "./Descriptor.sol";

/// What an operand is.
struct Tensor {
    uint256 kind;
    uint256 index; // of the node or the weight; of a constant its bits
    uint256 rows;
    uint256 cols;
    uint256 dtype;
    uint256 storage_; // how its elements lie in a leaf
    bytes32 root; // of a weight
}

/// The step under judgement.
struct Step {
    uint256 undefined; // what the call returns if the step turns out to be undefined. First, see `_undefined`
    uint256 run; // where in calldata it begins
    uint256 proof; // likewise
    uint256 node;
    Header header;
    uint256 attributes; // likewise
    uint256 row;
    uint256 col;
    uint256 claimed; // the bits of the element
    Tensor[] x; // the operands
}

uint256 constant KIND_NODE = 0;
uint256 constant KIND_WEIGHT = 1;
uint256 constant KIND_CONSTANT = 2;

// P-48, and how elements that are not of these types lie in a leaf.
uint256 constant STORED_F32 = 0;
uint256 constant STORED_F16 = 1;
uint256 constant STORED_BF16 = 2;
uint256 constant STORED_Q8_0 = 3;
uint256 constant STORED_Q8_128 = 4;
uint256 constant STORED_U8 = 5;
uint256 constant STORED_U32 = 6;
uint256 constant STORED_I8 = 7;
uint256 constant STORED_CONSTANT = 8;

// P-21: blocks of a contraction, chunks of a row.
uint256 constant MAX_PARTIALS = 1024;

/// @title Judges the steps of one family of operations
/// @notice What is the same for all: which node it is, where its element lies, what its operands are, and opening what it reads. A family says whether a node
/// is well formed and computes. Everything that is read leads to a root in `Run`; the rules are those of docs/program.md.
///
/// Two things can be wrong and must not be confused. What the model or the operator has committed to may be malformed: then the step is undefined, and the call
/// returns at once, by `_undefined`, that the element is wrong (P-61). What the challenger brings may open something else than is asked for: then the
/// call reverts. INVARIANT: nothing leads to `_undefined` that was not first hashed up to a root, but for the leaf and the partials, which the caller has hashed.
/// @dev Called by `OneStepVerifier` with its own calldata.
abstract contract StepFamily {
    // ---------------------------------------------------------------- the questions

    /// As `IStepVerifier.partialsOf`.
    function partialsOf(IStepVerifier.Run calldata run, IStepVerifier.Element calldata element, bytes calldata proof)
        external
        view
        returns (uint32)
    {
        Step memory s = _begin(run, element, proof, 0);
        if (element.index >= _place(s, element)) revert IStepVerifier.InvalidOpening("index");
        _operands(s);
        _check(s);
        uint256 parts = _parts(s);
        // forge-lint: disable-next-line(unsafe-typecast) at most MAX_PARTIALS
        return parts > 1 ? uint32(parts) : 0;
    }

    /// As `IStepVerifier.isElementWrong`.
    function isElementWrong(
        IStepVerifier.Run calldata run,
        IStepVerifier.Element calldata element,
        bytes calldata leaf,
        bytes calldata proof
    ) external view returns (bool) {
        Step memory s = _begin(run, element, proof, 1);
        _claim(s, element, leaf);
        _operands(s);
        _check(s);
        if (_parts(s) > 1) revert IStepVerifier.InvalidOpening("partials");
        return _element(s) != s.claimed;
    }

    /// As `IStepVerifier.isPartialWrong`.
    function isPartialWrong(
        IStepVerifier.Run calldata run,
        IStepVerifier.Element calldata element,
        bytes calldata partials,
        uint32 part,
        bytes calldata proof
    ) external view returns (bool) {
        Step memory s = _begin(run, element, proof, 1);
        if (element.index >= _place(s, element)) revert IStepVerifier.InvalidOpening("index");
        _operands(s);
        _check(s);
        uint256 parts = _countPartials(s, partials);
        if (part >= parts) revert IStepVerifier.InvalidOpening("part");
        return F32.unwrap(_partial(s, part)) != F32.unwrap(elementF32(partials, part));
    }

    /// As `IStepVerifier.isSumWrong`.
    function isSumWrong(
        IStepVerifier.Run calldata run,
        IStepVerifier.Element calldata element,
        bytes calldata leaf,
        bytes calldata partials,
        bytes calldata proof
    ) external view returns (bool) {
        Step memory s = _begin(run, element, proof, 1);
        _claim(s, element, leaf);
        _operands(s);
        _check(s);
        uint256 parts = _countPartials(s, partials);
        F32 sum = _none(s);
        unchecked {
            for (uint256 i = 0; i < parts; ++i) {
                sum = _join(s, sum, elementF32(partials, i));
            }
        }
        return F32.unwrap(_finish(s, sum, 0)) != s.claimed;
    }

    // ---------------------------------------------------------------- what a family says

    /// Whether operands, attributes and shape are as the operation demands (P-20, P-21); the step is undefined if not.
    function _check(Step memory s) internal view virtual;

    /// The right bits of the element. Only asked if it has no partials.
    function _element(Step memory s) internal view virtual returns (uint256);

    /// How many blocks or chunks the element is made of; 0 if of none.
    function _parts(Step memory) internal view virtual returns (uint256) {
        return 0;
    }

    /// One of them.
    function _partial(Step memory, uint256) internal view virtual returns (F32) {
        return F32.wrap(0);
    }

    /// What joining partials begins with.
    function _none(Step memory) internal view virtual returns (F32) {
        return F32.wrap(0);
    }

    /// Adds a partial to those before it.
    function _join(Step memory, F32 sum, F32 partial_) internal view virtual returns (F32) {
        return sum + partial_;
    }

    /// The element, once its partials are joined. What it reads besides begins at `slot` of the reads.
    function _finish(Step memory, F32 sum, uint256) internal view virtual returns (F32) {
        return sum;
    }

    // ---------------------------------------------------------------- the disputed node

    /// Opens the disputed node.
    /// @param undefined What the call returns if the step is undefined.
    function _begin(IStepVerifier.Run calldata run, IStepVerifier.Element calldata element, bytes calldata proof, uint256 undefined)
        internal
        pure
        returns (Step memory s)
    {
        (uint256 runPlace, uint256 proofPlace) = (0, 0);
        assembly ("memory-safe") {
            runPlace := run
            proofPlace := add(proof.offset, calldataload(proof.offset))
        }
        (s.undefined, s.run, s.proof, s.node) = (undefined, runPlace, proofPlace, element.node);
        if (s.node >= run.claim.nodes) _undefined(s);
        IStepVerifier.NodeOpening calldata o = _proof(s).node;
        bytes calldata descriptor = o.descriptor;
        openNode(run, s.node, descriptor, o.path);
        bool formed;
        (formed, s.header) = header(descriptor, run.claim);
        if (!formed) _undefined(s);
        unchecked {
            uint256 skip = 32 * (3 + s.header.operands);
            uint256 place;
            assembly ("memory-safe") {
                place := add(descriptor.offset, skip)
            }
            s.attributes = place;
        }
    }

    /// All that determines what is right.
    function _run(Step memory s) internal pure returns (IStepVerifier.Run calldata run) {
        uint256 place = s.run;
        assembly ("memory-safe") {
            run := place
        }
    }

    /// What the challenger brings.
    function _proof(Step memory s) internal pure returns (StepProof calldata p) {
        uint256 place = s.proof;
        assembly ("memory-safe") {
            p := place
        }
    }

    /// Row and column of the element; returns how many elements the leaf has.
    function _place(Step memory s, IStepVerifier.Element calldata element) internal pure returns (uint256 count) {
        unchecked {
            uint256 inRow = ceilDiv(s.header.cols, LEAF);
            uint256 number = element.leaf;
            if (number >= s.header.rows * inRow) _undefined(s);
            s.row = number / inRow;
            uint256 first = LEAF * (number % inRow);
            count = _least(LEAF, s.header.cols - first);
            s.col = first + element.index;
        }
    }

    /// Row, column and claimed bits of the element, out of the leaf that the operator revealed.
    function _claim(Step memory s, IStepVerifier.Element calldata element, bytes calldata leaf) internal pure {
        unchecked {
            uint256 count = _place(s, element);
            uint256 stored = _storedAs(s.header.dtype);
            if (leaf.length != _bytesOf(stored, count)) _undefined(s);
            if (element.index >= count) revert IStepVerifier.InvalidOpening("index");
            uint256 bits;
            if (stored == STORED_F32 || stored == STORED_U32) {
                bits = F32.unwrap(elementF32(leaf, element.index));
                // P-3: there is one NaN.
                if (s.header.dtype == TYPE_F32 && bits & 0x7fffffff > 0x7f800000 && bits != NAN_BITS) _undefined(s);
            } else {
                bits = uint8(leaf[element.index]);
            }
            s.claimed = bits;
        }
    }

    /// The number of partials that an operator must have revealed.
    function _countPartials(Step memory s, bytes calldata partials) internal view returns (uint256 parts) {
        parts = _parts(s);
        if (parts < 2) revert IStepVerifier.InvalidOpening("partials");
        if (partials.length != 4 * parts) _undefined(s);
    }

    // ---------------------------------------------------------------- attributes

    /// Word `i` of the attributes.
    function _word(Step memory s, uint256 i) internal pure returns (uint256 word) {
        uint256 place = s.attributes;
        assembly ("memory-safe") {
            word := calldataload(add(place, shl(5, i)))
        }
    }

    /// A number among the attributes.
    function _number(Step memory s, uint256 i) internal pure returns (uint256 n) {
        n = _word(s, i);
        if (n >> 32 != 0) _undefined(s);
    }

    /// A number below `bound` among the attributes.
    function _code(Step memory s, uint256 i, uint256 bound) internal pure returns (uint256 n) {
        n = _word(s, i);
        if (n >= bound) _undefined(s);
    }

    // ---------------------------------------------------------------- operands

    /// What the operands are.
    function _operands(Step memory s) internal pure {
        uint256 count = s.header.operands;
        if (_proof(s).operands.length != count) revert IStepVerifier.InvalidOpening("operands");
        s.x = new Tensor[](count);
        unchecked {
            for (uint256 i = 0; i < count; ++i) {
                _operand(s, s.x[i], i);
            }
        }
    }

    function _operand(Step memory s, Tensor memory x, uint256 i) private pure {
        unchecked {
            uint256 place = s.attributes - 32 * (s.header.operands - i);
            uint256 word;
            assembly ("memory-safe") {
                word := calldataload(place)
            }
            x.kind = word >> 32;
            x.index = word & 0xffffffff;
        }
        OperandOpening calldata o = _proof(s).operands[i];
        if (x.kind == KIND_NODE) {
            // INVARIANT: operands come before the node (P-2), so they are agreed when it is not.
            if (x.index >= s.node) _undefined(s);
            openNode(_run(s), x.index, o.descriptor, o.path);
            (bool formed, Header memory h) = header(o.descriptor, _run(s).claim);
            if (!formed) _undefined(s);
            (x.rows, x.cols, x.dtype, x.storage_) = (h.rows, h.cols, h.dtype, _storedAs(h.dtype));
        } else if (x.kind == KIND_WEIGHT) {
            _openTensor(s, x, o);
        } else if (x.kind == KIND_CONSTANT) {
            (x.rows, x.cols, x.dtype, x.storage_) = (1, 1, TYPE_F32, STORED_CONSTANT);
            if (!_isCanonical(x.index)) _undefined(s);
        } else {
            _undefined(s);
        }
    }

    /// P-49: what a weight is.
    function _openTensor(Step memory s, Tensor memory x, OperandOpening calldata o) private pure {
        if (_isBeyond(_run(s).model.weightsRoot, x.index, o.count, o.path)) _undefined(s);
        if (!_leadsTo(_run(s).model.weightsRoot, Merkle.leaf(Merkle.TENSOR, o.descriptor), x.index, o.count, o.path)) {
            revert IStepVerifier.InvalidOpening("tensor");
        }
        bytes calldata words = o.descriptor;
        if (words.length != 128) _undefined(s);
        unchecked {
            x.rows = uint256(bytes32(words[0:32]));
            x.cols = uint256(bytes32(words[32:64]));
            x.storage_ = uint256(bytes32(words[64:96]));
            x.root = bytes32(words[96:128]);
            if (x.rows - 1 >= MAX_DIM || x.cols - 1 >= MAX_DIM || x.storage_ > STORED_U32) _undefined(s);
            if (x.storage_ == STORED_Q8_0 && x.cols % 32 != 0) _undefined(s);
        }
        x.dtype = x.storage_ == STORED_U32 ? TYPE_U32 : x.storage_ == STORED_U8 ? TYPE_U8 : TYPE_F32;
    }

    // ---------------------------------------------------------------- reading

    /// The leaves that hold columns `first .. first + count - 1` of a row, which must exist, one after the other.
    function _read(Step memory s, uint256 slot, Tensor memory x, uint256 row, uint256 first, uint256 count)
        internal
        pure
        returns (bytes calldata data)
    {
        LeafOpening[] calldata reads = _proof(s).reads;
        if (slot >= reads.length) revert IStepVerifier.InvalidOpening("reads");
        LeafOpening calldata o = reads[slot];
        data = o.data;
        if (x.kind == KIND_CONSTANT) return data;
        unchecked {
            uint256 inRow = ceilDiv(x.cols, LEAF);
            uint256 full = _bytesOf(x.storage_, LEAF);
            uint256 last = (first + count - 1) / LEAF;
            first /= LEAF;
            uint256 size = full * (last - first) + _bytesOf(x.storage_, _least(LEAF, x.cols - LEAF * last));
            bool sized = data.length == size;
            uint256 levels = Merkle.height(x.rows * inRow);
            uint8 domain = x.kind == KIND_NODE ? Merkle.TRACE_LEAF : Merkle.WEIGHT_LEAF;
            bytes32 hash;
            uint256 used = levels;
            if (first == last) {
                if (o.path.length < levels) revert IStepVerifier.InvalidOpening("path");
                hash = Merkle.fold(Merkle.leaf(domain, data), row * inRow + first, o.path[:levels]);
            } else {
                if (!sized) revert IStepVerifier.InvalidOpening("leaf");
                bytes32[] memory leaves = new bytes32[](last - first + 1);
                for (uint256 i = 0; i < leaves.length; ++i) {
                    leaves[i] = Merkle.leaf(domain, data[i * full:_least(size, (i + 1) * full)]);
                }
                (hash, used) = Merkle.foldRange(leaves, row * inRow + first, levels, o.path);
            }
            if (x.kind == KIND_NODE) {
                if (o.path.length != used + Merkle.height(_run(s).claim.nodes) || !sized) revert IStepVerifier.InvalidOpening("leaf");
                if (Merkle.fold(hash, x.index, o.path[used:]) != _run(s).claim.root) revert IStepVerifier.InvalidOpening("leaf");
            } else {
                if (o.path.length != used || hash != x.root) revert IStepVerifier.InvalidOpening("weight");
                // A tensor whose leaves are not those of its shape is nobody's model.
                if (!sized) _undefined(s);
            }
        }
    }

    /// The bits of one element of an operand, which must exist.
    function _one(Step memory s, uint256 slot, Tensor memory x, uint256 row, uint256 col) internal pure returns (uint256) {
        return _bits(x, _read(s, slot, x, row, col, 1), col % LEAF);
    }

    /// Element `k` of leaves, which must exist: the bits of its f32 value (widened, or `q * scale`), or of the integer, without its sign.
    function _bits(Tensor memory x, bytes calldata data, uint256 k) internal pure returns (uint256) {
        unchecked {
            uint256 stored = x.storage_;
            if (stored == STORED_F32) return F32.unwrap(elementF32(data, k).canonical());
            if (stored == STORED_F16) return F32.unwrap(fromF16(element16(data, k)));
            if (stored == STORED_BF16) return F32.unwrap(fromBF16(element16(data, k)));
            if (stored == STORED_U32) return F32.unwrap(elementF32(data, k));
            if (stored == STORED_CONSTANT) return x.index;
            if (stored == STORED_Q8_0) {
                uint256 place = 34 * (k / 32);
                return F32.unwrap(_signed(uint8(data[place + 2 + k % 32])) * fromF16(element16(data, place / 2)));
            }
            if (stored == STORED_Q8_128) {
                uint256 place = 132 * (k / 128);
                return F32.unwrap(_signed(uint8(data[place + 4 + k % 128])) * elementF32(data, place / 4));
            }
            return uint8(data[k]);
        }
    }

    function _signed(uint256 byte_) internal pure returns (F32) {
        int256 value;
        assembly ("memory-safe") {
            value := signextend(0, byte_)
        }
        return fromI32(value);
    }

    // ---------------------------------------------------------------- small things

    /// Ends the call: the step is undefined (P-61).
    function _undefined(Step memory s) internal pure {
        assembly ("memory-safe") {
            mstore(0x00, mload(s))
            return(0x00, 0x20)
        }
    }

    /// The step is undefined if this does not hold.
    function _demand(Step memory s, bool condition) internal pure {
        if (!condition) _undefined(s);
    }

    /// The node has as many operands and attributes, and a result of this type.
    function _form(Step memory s, uint256 operands, uint256 attributes, uint256 dtype) internal pure {
        Header memory h = s.header;
        _demand(s, h.operands == operands && h.attributes == attributes && h.dtype == dtype);
    }

    /// The result has this shape.
    function _shape(Step memory s, uint256 rows, uint256 cols) internal pure {
        _demand(s, s.header.rows == rows && s.header.cols == cols);
    }

    /// A column of indices, from a node.
    function _isIndex(Tensor memory x) internal pure returns (bool) {
        return x.kind == KIND_NODE && x.cols == 1 && (x.dtype == TYPE_U32 || x.dtype == TYPE_U8);
    }

    /// P-3: not a NaN, or the one NaN.
    function _isCanonical(uint256 bits) internal pure returns (bool) {
        // forge-lint: disable-next-line(unsafe-typecast) bits of 32 bits
        return !fromBits(uint32(bits)).isNaN() || bits == NAN_BITS;
    }

    function _least(uint256 x, uint256 y) internal pure returns (uint256) {
        return x < y ? x : y;
    }

    /// How the elements of a node lie in a leaf (P-53).
    function _storedAs(uint256 dtype) internal pure returns (uint256) {
        if (dtype == TYPE_F32) return STORED_F32;
        if (dtype == TYPE_U32) return STORED_U32;
        return dtype == TYPE_I8 ? STORED_I8 : STORED_U8;
    }

    /// The bytes of `count` elements from the beginning of a leaf (P-48).
    function _bytesOf(uint256 stored, uint256 count) internal pure returns (uint256) {
        unchecked {
            if (stored == STORED_F32 || stored == STORED_U32) return 4 * count;
            if (stored == STORED_F16 || stored == STORED_BF16) return 2 * count;
            if (stored == STORED_Q8_0) return count / 32 * 34;
            return stored == STORED_Q8_128 ? count + 4 : count;
        }
    }

    /// P-46: whether number `index` is beyond the leaves of a counted root. `path` is then the root of the tree alone.
    function _isBeyond(bytes32 root, uint256 index, uint256 count, bytes32[] calldata path) internal pure returns (bool) {
        return index >= count && path.length == 1 && Merkle.counted(count, path[0]) == root;
    }

    /// P-46: whether this is number `index` of the leaves of a counted root.
    function _leadsTo(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata path) internal pure returns (bool) {
        return index < count && path.length == Merkle.height(count) && Merkle.counted(count, Merkle.fold(leaf, index, path)) == root;
    }
}

/// P-50: reverts if this is not node `index` of the program.
function openNode(IStepVerifier.Run calldata run, uint256 index, bytes calldata descriptor, bytes32[] calldata path) pure {
    uint256 nodes = run.claim.nodes;
    bytes32 leaf = Merkle.leaf(Merkle.NODE, descriptor);
    bool opens = index < nodes && path.length == Merkle.height(nodes)
        && Merkle.counted(nodes, Merkle.fold(leaf, index, path)) == run.model.graphRoot;
    if (!opens) revert IStepVerifier.InvalidOpening("node");
}
