//! ONNX files for tests, written field by field.

use super::Random;
use candle_onnx::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};
use candor_relayer::engine::import::{self, Files, ImportError, Imported, Options};
use prost::Message;
use serde_json::Value;
use std::sync::Arc;

pub(crate) const FLOAT: i32 = 1;
pub(crate) const INT64: i32 = 7;
pub(crate) const INT32: i32 = 6;

/// A graph being written.
#[derive(Clone)]
pub(crate) struct Graph {
    pub(crate) model: ModelProto,
    random: u64,
}

/// A dimension of an input: a number, or a name.
pub(crate) enum Size {
    Known(i64),
    Open(&'static str),
}

pub(crate) fn info(name: &str, kind: i32, dims: &[Size]) -> ValueInfoProto {
    let dim = |size: &Size| Dimension {
        value: Some(match size {
            Size::Known(n) => dimension::Value::DimValue(*n),
            Size::Open(name) => dimension::Value::DimParam((*name).to_string()),
        }),
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: kind, shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
    ValueInfoProto { name: name.to_string(), r#type, ..ValueInfoProto::default() }
}

pub(crate) fn known(dims: &[i64]) -> Vec<Size> {
    dims.iter().map(|&n| Size::Known(n)).collect()
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 2, i: value, ..AttributeProto::default() }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 1, f: value, ..AttributeProto::default() }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 7, ints: values.to_vec(), ..AttributeProto::default() }
}

pub(crate) fn floats(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 6, floats: values.to_vec(), ..AttributeProto::default() }
}

pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 3, s: value.as_bytes().to_vec(), ..AttributeProto::default() }
}

impl Graph {
    pub(crate) fn new(opset: i64, inputs: Vec<ValueInfoProto>) -> Self {
        let graph = GraphProto { input: inputs, ..GraphProto::default() };
        let opset_import = vec![OperatorSetIdProto { version: opset, ..OperatorSetIdProto::default() }];
        Self {
            model: ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() },
            random: 7,
        }
    }

    /// The same with other random numbers.
    pub(crate) fn seeded(self, random: u64) -> Self {
        Self { random, ..self }
    }

    /// One input of floats.
    pub(crate) fn floats(dims: &[i64]) -> Self {
        Self::new(17, vec![info("x", FLOAT, &known(dims))])
    }

    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().expect("a graph")
    }

    pub(crate) fn node(mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> Self {
        let inputs = inputs.iter().map(ToString::to_string).collect();
        let node = NodeProto {
            op_type: op.into(),
            name: format!("the {op}"),
            input: inputs,
            output: output.split(' ').map(str::to_string).collect(),
            attribute: attributes,
            ..NodeProto::default()
        };
        self.graph().node.push(node);
        self
    }

    /// A weight of random numbers.
    /// The last node is one of this domain.
    pub(crate) fn of_domain(mut self, domain: &str) -> Self {
        if let Some(node) = self.graph().node.last_mut() {
            node.domain = domain.into();
        }
        self
    }

    pub(crate) fn weight(mut self, name: &str, dims: &[i64]) -> Self {
        let mut random = Random(self.random);
        let count = dims.iter().product::<i64>();
        let values: Vec<f32> = (0..count).map(|_| random.ordinary()).collect();
        self.random += 1;
        self.constant(name, dims, &values)
    }

    pub(crate) fn constant(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: FLOAT,
            raw_data,
            ..TensorProto::default()
        };
        self.graph().initializer.push(tensor);
        self
    }

    pub(crate) fn ints(mut self, name: &str, values: &[i64]) -> Self {
        let dims = vec![values.len() as i64];
        let int64_data = values.to_vec();
        let tensor = TensorProto { name: name.into(), dims, data_type: INT64, int64_data, ..TensorProto::default() };
        self.graph().initializer.push(tensor);
        self
    }

    /// The file, with an output.
    pub(crate) fn file(mut self, output: &str) -> Vec<u8> {
        self.graph().output.push(info(output, FLOAT, &[]));
        self.model.encode_to_vec()
    }

    pub(crate) fn import(self, output: &str) -> Result<Imported, ImportError> {
        bytes(self.file(output), None)
    }

    pub(crate) fn import_as(self, output: &str, config: Value) -> Result<Imported, ImportError> {
        bytes(self.file(output), Some(config))
    }
}

pub(crate) fn bytes(file: Vec<u8>, config: Option<Value>) -> Result<Imported, ImportError> {
    let config = config.map(|config| config.to_string()).unwrap_or_default();
    import::files(
        &Files { name: "graph".into(), config, onnx: Some(Arc::new(file)), ..Files::default() },
        &Options::default(),
    )
}
