//! The bindings are written by hand from the interfaces; here they are held to what the compiler made of the contracts.

use alloy_json_abi::JsonAbi;
use alloy_sol_types::{SolEventInterface, SolInterface};
use candor_sdk::bindings::{
    IDisputeGame::{IDisputeGameCalls, IDisputeGameErrors, IDisputeGameEvents},
    IInferenceOracle::{IInferenceOracleCalls, IInferenceOracleErrors, IInferenceOracleEvents},
    IModelRegistry::{IModelRegistryCalls, IModelRegistryErrors, IModelRegistryEvents},
    IOperatorRegistry::{IOperatorRegistryCalls, IOperatorRegistryErrors, IOperatorRegistryEvents},
    IStepVerifier::{IStepVerifierCalls, IStepVerifierErrors},
};
use std::collections::BTreeMap;

#[derive(serde::Deserialize)]
struct Artifact {
    abi: JsonAbi,
}

/// Signatures by selector.
type Selectors<const N: usize> = BTreeMap<[u8; N], String>;

/// Functions, errors and events of the compiled contract.
fn compiled(json: &str) -> (Selectors<4>, Selectors<4>, Selectors<32>) {
    let abi = serde_json::from_str::<Artifact>(json).expect("a frozen artifact").abi;
    (
        abi.functions().map(|function| (function.selector().0, function.signature())).collect(),
        abi.errors().map(|error| (error.selector().0, error.signature())).collect(),
        abi.events().map(|event| (event.selector().0, event.signature())).collect(),
    )
}

fn compare<K: Ord + std::fmt::Debug>(what: &str, bound: impl Iterator<Item = K>, mut compiled: BTreeMap<K, String>) {
    for selector in bound {
        assert!(
            compiled.remove(&selector).is_some(),
            "{what}: the bindings have {selector:02x?}, the contract does not"
        );
    }
    assert!(compiled.is_empty(), "{what}: the contract has {compiled:?}, the bindings do not");
}

macro_rules! hold {
    ($test:ident, $json:literal, $calls:ty, $errors:ty, $events:ty) => {
        #[test]
        fn $test() {
            let (functions, errors, events) = compiled(include_str!(concat!("../artifacts/", $json, ".json")));
            compare(concat!($json, " functions"), <$calls>::selectors(), functions);
            compare(concat!($json, " errors"), <$errors>::selectors(), errors);
            compare(concat!($json, " events"), <$events>::SELECTORS.iter().copied(), events);
            assert_eq!(<$events as SolEventInterface>::COUNT, <$events>::SELECTORS.len());
        }
    };
}

hold!(inference_oracle, "InferenceOracle", IInferenceOracleCalls, IInferenceOracleErrors, IInferenceOracleEvents);
hold!(model_registry, "ModelRegistry", IModelRegistryCalls, IModelRegistryErrors, IModelRegistryEvents);
hold!(operator_registry, "OperatorRegistry", IOperatorRegistryCalls, IOperatorRegistryErrors, IOperatorRegistryEvents);
hold!(dispute_game, "DisputeGame", IDisputeGameCalls, IDisputeGameErrors, IDisputeGameEvents);

/// The verifier has a constructor's worth more than its interface: which contracts it asks, and that they are contracts.
#[test]
fn step_verifier() {
    let (mut functions, mut errors, events) = compiled(include_str!("../artifacts/OneStepVerifier.json"));
    functions.retain(|_, signature| signature != "families()");
    errors.retain(|_, signature| signature != "NoCode(address)");
    compare("OneStepVerifier functions", IStepVerifierCalls::selectors(), functions);
    compare("OneStepVerifier errors", IStepVerifierErrors::selectors(), errors);
    assert!(events.is_empty());
}
