//! The `sequential` model folder (`config.json` and `model.safetensors`), built, run and stored with candle alone.
//!
//! Training runs the very description that is shipped, so config and weights cannot disagree. This is candle's float
//! arithmetic: the last bits depend on the machine. The relayer's engine imports the same two files into the
//! arithmetic in which every bit is defined.

use super::random::Random;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, path::Path};

/// `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) architecture: String,
    pub(crate) name: String,
    pub(crate) input: Input,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output: Vec<Output>,
}

/// The bytes of a request: one value per element, row-major.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) kind: InputKind,
    pub(crate) shape: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InputKind {
    /// f32, big-endian.
    F32be,
    /// 0 to 255.
    U8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Layer {
    Scale { by: f32 },
    Features { numeric: Vec<Numeric>, categorical: Vec<Categorical> },
    Conv2d { weight: String, bias: String, stride: usize, padding: usize },
    Linear { weight: String, bias: String },
    MaxPool2d { size: usize },
    Flatten,
    Relu,
    Sigmoid,
    Softmax,
}

/// One column: `(x - mean) * scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Numeric {
    pub(crate) column: usize,
    pub(crate) mean: f32,
    pub(crate) scale: f32,
}

/// One column per code: 1 where the input is that code, else 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Categorical {
    pub(crate) column: usize,
    pub(crate) codes: Vec<u32>,
}

/// What the output bytes hold, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Output {
    /// The index of the largest value.
    Argmax {
        #[serde(rename = "as")]
        format: String,
    },
    /// All values of the last layer.
    F32be,
}

/// Weights to be trained: the shape of a tensor and how it starts.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) shape: Vec<usize>,
}

/// Kaiming-uniform weights and zero biases, from the seeded generator.
pub(crate) fn initial(parameters: &[Parameter], random: &mut Random) -> Result<Vec<(String, Var)>> {
    parameters
        .iter()
        .map(|Parameter { name, shape }| {
            let fan_in: usize = shape.iter().skip(1).product();
            let bound = if shape.len() > 1 { (6.0 / fan_in as f32).sqrt() } else { 0.0 };
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.between(-bound, bound)).collect();
            Ok((name.to_string(), Var::from_vec(values, shape.as_slice(), &Device::Cpu)?))
        })
        .collect()
}

/// A config with its weights (f32, on the CPU).
pub(crate) struct Sequential {
    pub(crate) config: Config,
    tensors: HashMap<String, Tensor>,
    training: bool,
}

impl Sequential {
    fn new(config: Config, tensors: HashMap<String, Tensor>) -> Result<Self> {
        ensure!(config.architecture == "sequential", "architecture is {:?}, not \"sequential\"", config.architecture);
        let used: Vec<&String> = config
            .layers
            .iter()
            .flat_map(|layer| match layer {
                Layer::Conv2d { weight, bias, .. } | Layer::Linear { weight, bias } => vec![weight, bias],
                _ => vec![],
            })
            .collect();
        for name in &used {
            ensure!(tensors.contains_key(*name), "config.json names tensor {name:?}, which the weights do not have");
        }
        for name in tensors.keys() {
            ensure!(used.contains(&name), "the weights have tensor {name:?}, which config.json does not name");
        }
        Ok(Self { config, tensors, training: false })
    }

    /// With variables: the forward pass then records what the optimiser needs.
    pub(crate) fn trainable(config: Config, vars: &[(String, Var)]) -> Result<Self> {
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        Ok(Self { training: true, ..Self::new(config, tensors)? })
    }

    /// Reads a model folder. Half-precision weights are widened, which is exact.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = serde_json::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
        let path = folder.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("cannot read {}", path.display()))?
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
            .collect::<Result<_>>()?;
        Self::new(config, tensors)
    }

    /// Writes the model folder: weights in `dtype`, sorted by name, so equal weights give equal bytes.
    pub(crate) fn save(&self, folder: &Path, dtype: DType) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let tensors = self
            .tensors
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), tensor.detach().to_dtype(dtype)?)))
            .collect::<Result<HashMap<_, _>>>()?;
        let path = folder.join("model.safetensors");
        candle_core::safetensors::save(&tensors, &path).with_context(|| format!("cannot write {}", path.display()))?;
        super::report::write(&folder.join("config.json"), &(serde_json::to_string_pretty(&self.config)? + "\n"))
    }

    pub(crate) fn parameters(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// The request bytes of a batch as a tensor [batch, ...shape].
    pub(crate) fn decode(&self, requests: &[Vec<u8>]) -> Result<Tensor> {
        let Input { kind, shape } = &self.config.input;
        let elements: usize = shape.iter().product();
        let width = match kind {
            InputKind::F32be => 4,
            InputKind::U8 => 1,
        };
        let mut values = Vec::with_capacity(requests.len() * elements);
        for bytes in requests {
            ensure!(bytes.len() == elements * width, "a request has {} bytes, not {}", bytes.len(), elements * width);
            values.extend(bytes.chunks_exact(width).map(|bytes| match *bytes {
                [a, b, c, d] => f32::from_be_bytes([a, b, c, d]),
                _ => f32::from(bytes[0]),
            }));
        }
        let mut dims = vec![requests.len()];
        dims.extend(shape);
        Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
    }

    /// All layers.
    pub(crate) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.config.layers.iter().try_fold(input.clone(), |x, layer| self.layer(layer, &x))
    }

    /// All layers but a closing sigmoid or softmax, which the losses have built in.
    pub(crate) fn logits(&self, input: &Tensor) -> Result<Tensor> {
        let layers = match self.config.layers.as_slice() {
            [layers @ .., Layer::Sigmoid | Layer::Softmax] => layers,
            layers => layers,
        };
        layers.iter().try_fold(input.clone(), |x, layer| self.layer(layer, &x))
    }

    fn layer(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        Ok(match layer {
            Layer::Scale { by } => (x * f64::from(*by))?,
            Layer::Features { numeric, categorical } => features(x, numeric, categorical)?,
            Layer::Conv2d { weight, bias, stride, padding } => {
                let (weight, bias) = (&self.tensors[weight], &self.tensors[bias]);
                let out = if self.training && (*stride, *padding) == (1, 0) {
                    super::unfold::conv2d(x, weight)?
                } else {
                    x.conv2d(weight, *padding, *stride, 1, 1)?
                };
                out.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?)?
            }
            Layer::Linear { weight, bias } => {
                x.matmul(&self.tensors[weight].t()?)?.broadcast_add(&self.tensors[bias])?
            }
            Layer::MaxPool2d { size } => x.max_pool2d(*size)?,
            Layer::Flatten => x.flatten_from(1)?,
            Layer::Relu => x.relu()?,
            Layer::Sigmoid => candle_nn::ops::sigmoid(x)?,
            Layer::Softmax => candle_nn::ops::softmax(x, D::Minus1)?,
        })
    }
}

fn features(x: &Tensor, numeric: &[Numeric], categorical: &[Categorical]) -> Result<Tensor> {
    let mut columns = Vec::new();
    for Numeric { column, mean, scale } in numeric {
        columns.push(((x.narrow(1, *column, 1)? - f64::from(*mean))? * f64::from(*scale))?);
    }
    for Categorical { column, codes } in categorical {
        let value = x.narrow(1, *column, 1)?;
        for code in codes {
            columns.push(value.eq(f64::from(*code))?.to_dtype(DType::F32)?);
        }
    }
    if columns.is_empty() {
        bail!("the features layer selects no column");
    }
    Ok(Tensor::cat(&columns, 1)?)
}
