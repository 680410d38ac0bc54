// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OneStepVerifier} from "../../src/verifier/OneStepVerifier.sol";
import {ContractionStep} from "../../src/verifier/step/ContractionStep.sol";
import {ElementwiseStep} from "../../src/verifier/step/ElementwiseStep.sol";
import {FunctionStep} from "../../src/verifier/step/FunctionStep.sol";
import {IndexStep} from "../../src/verifier/step/IndexStep.sol";
import {InputStep} from "../../src/verifier/step/InputStep.sol";
import {QuantisedStep} from "../../src/verifier/step/QuantisedStep.sol";
import {ReductionStep} from "../../src/verifier/step/ReductionStep.sol";
import {SamplingStep} from "../../src/verifier/step/SamplingStep.sol";
import {TextStep} from "../../src/verifier/step/TextStep.sol";

/// The families, each a contract of its own.
function deployFamilies() returns (OneStepVerifier.Families memory) {
    return OneStepVerifier.Families({
        input: address(new InputStep()),
        index: address(new IndexStep()),
        elementwise: address(new ElementwiseStep()),
        functions: address(new FunctionStep()),
        contraction: address(new ContractionStep()),
        quantised: address(new QuantisedStep()),
        reduction: address(new ReductionStep()),
        sampling: address(new SamplingStep()),
        text: address(new TextStep())
    });
}
