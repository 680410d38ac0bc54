//! Runs the ONNX project's own tests through the importer and the engine: `onnx_suite DIR...`, folders of tests as the PyPI
//! package `onnx` has them (`onnx/backend/test/data/*`) and makes them (`python -m onnx.backend.test.cmd_tools generate-data -o
//! DIR`): each a `model.onnx`, tensors that go in and tensors that have to come out.
//!
//! A test counts as *right* if every number is within 1e-3 of what is wanted, relative to the largest one, as *refused* if
//! the importer says what it does not understand, as *no request* if nothing in it depends on floats, and as *wrong* otherwise.
//! The first float input is the request; other inputs become constants of the graph.

use anyhow::{Context, Result, bail};
use candle_onnx::onnx::{ModelProto, TensorProto};
use candor_relayer::engine::import::{self, Files, Options};
use candor_relayer::engine::{Device, InferRequest, LoadedModel};
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::Arc;

enum Outcome {
    Right(f32),
    Refused(String),
    NoRequest,
    Wrong(String),
}

fn main() -> Result<()> {
    let (mut right, mut none) = (Vec::new(), 0);
    let (mut refused, mut wrong) = (Vec::new(), Vec::new());
    for folder in std::env::args().skip(1) {
        let mut tests: Vec<PathBuf> =
            std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        tests.sort();
        for test in tests.iter().filter(|test| test.join("model.onnx").exists()) {
            let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match run(test).unwrap_or_else(|error| Outcome::Wrong(format!("{error:#}"))) {
                Outcome::Right(error) => right.push((name, error)),
                Outcome::Refused(why) => refused.push((name, why)),
                Outcome::NoRequest => none += 1,
                Outcome::Wrong(why) => wrong.push((name, why)),
            }
        }
    }
    for (name, error) in &right {
        println!("right    {name}: off by {error:.1e}");
    }
    for (name, why) in &refused {
        println!("refused  {name}: {why}");
    }
    for (name, why) in &wrong {
        println!("WRONG    {name}: {why}");
    }
    println!("{} right, {} refused, {} wrong, {none} without a request", right.len(), refused.len(), wrong.len());
    Ok(())
}

fn tensors(folder: &Path, kind: &str) -> Result<Vec<TensorProto>> {
    let mut found = Vec::new();
    while let Ok(bytes) = std::fs::read(folder.join(format!("{kind}_{}.pb", found.len()))) {
        found.push(TensorProto::decode(bytes.as_slice())?);
    }
    Ok(found)
}

fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    let raw = || tensor.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (tensor.data_type == 1).then(|| if tensor.raw_data.is_empty() { tensor.float_data.clone() } else { raw() })
}

fn run(test: &Path) -> Result<Outcome> {
    let mut model = ModelProto::decode(std::fs::read(test.join("model.onnx"))?.as_slice())?;
    let graph = model.graph.as_mut().context("no graph")?;
    let data = test.join("test_data_set_0");
    let (inputs, outputs) = match (tensors(&data, "input"), tensors(&data, "output")) {
        (Ok(inputs), Ok(outputs)) => (inputs, outputs),
        _ => return Ok(Outcome::NoRequest), // sequences and the like
    };
    let Some(place) = inputs.iter().position(|tensor| floats(tensor).is_some_and(|values| !values.is_empty())) else {
        return Ok(Outcome::NoRequest);
    };
    let constants: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let names: Vec<String> =
        graph.input.iter().map(|info| info.name.clone()).filter(|name| !constants.contains(&name.as_str())).collect();
    let Some(wanted) = outputs.first().and_then(floats) else { return Ok(Outcome::NoRequest) };
    for (index, (name, tensor)) in names.iter().zip(&inputs).enumerate() {
        if index != place {
            graph.input.retain(|info| info.name != *name);
            graph.initializer.push(TensorProto { name: name.clone(), ..tensor.clone() });
        }
    }
    if let Some(info) = graph.input.iter_mut().find(|info| info.name == names[place]) {
        use candle_onnx::onnx::tensor_shape_proto::dimension::Value;
        use candle_onnx::onnx::type_proto;
        if let Some(type_proto::Value::TensorType(kind)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
            for (dim, size) in kind.shape.iter_mut().flat_map(|shape| &mut shape.dim).zip(&inputs[place].dims) {
                dim.value = Some(Value::DimValue(*size));
            }
        }
    }
    let output = graph.output.first().context("no output")?.name.clone();
    let config = serde_json::json!({
        "architecture": "onnx", "input": { "kind": "f32be", "name": names[place] },
        "output": [{ "kind": "f32be", "name": output }],
    });
    let files = Files { config: config.to_string(), onnx: Some(Arc::new(model.encode_to_vec())), ..Files::default() };
    let imported = match import::files(&files, &Options::default()) {
        Ok(imported) => imported,
        Err(error) => return Ok(Outcome::Refused(error.to_string())),
    };
    let request: Vec<u8> = floats(&inputs[place]).unwrap_or_default().iter().flat_map(|x| x.to_be_bytes()).collect();
    let engine = LoadedModel::load(imported.model.clone(), Device::Cpu)?;
    let request = InferRequest { input: request, ..InferRequest::default() };
    let answer = engine.infer(std::slice::from_ref(&request)).pop().context("no answer")??;
    if imported.model.interpret(&request)?.output != answer {
        bail!("the engine and the interpreter disagree");
    }
    let found: Vec<f32> = answer.as_chunks::<4>().0.iter().map(|bytes| f32::from_be_bytes(*bytes)).collect();
    if found.len() != wanted.len() {
        return Ok(Outcome::Wrong(format!("{} numbers, not {}", found.len(), wanted.len())));
    }
    let scale = wanted.iter().filter(|x| x.is_finite()).fold(1f32, |most, x| most.max(x.abs()));
    let off = |(a, b): (&f32, &f32)| match a == b || (a.is_nan() && b.is_nan()) {
        true => 0.0,
        false => ((a - b) / scale).abs(),
    };
    let error =
        found.iter().zip(&wanted).map(off).fold(0f32, |most, e| if e.is_nan() { f32::INFINITY } else { most.max(e) });
    Ok(if error <= 1e-3 { Outcome::Right(error) } else { Outcome::Wrong(format!("off by {error:e}")) })
}
