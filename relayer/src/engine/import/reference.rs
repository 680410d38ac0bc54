//! The same files run by candle alone: its arithmetic, whose last bits depend on the machine. What the importer's result
//! is compared with.

use super::config::{Config, InputKind, Layer};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::collections::HashMap;

/// A model as candle runs it, weights widened to f32.
pub struct CandleModel {
    config: Config,
    tensors: HashMap<String, Tensor>,
}

impl CandleModel {
    pub(super) fn new(config: &Config, weights: &[u8]) -> Result<Self> {
        let file = VarBuilder::from_slice_safetensors(weights, DType::F32, &Device::Cpu)?;
        let mut tensors = HashMap::new();
        for layer in &config.layers {
            if let Layer::Conv2d { weight, bias, .. } | Layer::Linear { weight, bias } = layer {
                for name in std::iter::once(weight).chain(bias) {
                    tensors.insert(name.clone(), file.get_unchecked(name)?);
                }
            }
        }
        Ok(Self { config: config.clone(), tensors })
    }

    /// The last layer of each request.
    ///
    /// # Errors
    /// What candle says.
    pub fn last_layer(&self, requests: &[Vec<u8>]) -> Result<Vec<Vec<f32>>> {
        let mut values = Vec::new();
        for request in requests {
            match self.config.input.kind {
                InputKind::U8 => values.extend(request.iter().map(|&byte| f32::from(byte))),
                InputKind::F32be => values.extend(request.as_chunks::<4>().0.iter().map(|b| f32::from_be_bytes(*b))),
            }
        }
        let mut dims = vec![requests.len()];
        dims.extend(self.config.input.shape.iter().map(|&dim| dim as usize));
        let mut x = Tensor::from_vec(values, dims, &Device::Cpu)?;
        for layer in &self.config.layers {
            x = apply(layer, &x, &self.tensors)?;
        }
        x.flatten_from(1)?.to_vec2()
    }
}

fn apply(layer: &Layer, x: &Tensor, tensors: &HashMap<String, Tensor>) -> Result<Tensor> {
    // `new` has loaded every tensor that a layer names.
    let bias = |name: &Option<String>| name.as_ref().map(|name| tensors[name].clone());
    match layer {
        Layer::Scale { by } => x.affine(f64::from(by.0), 0.0),
        Layer::Features { numeric, categorical } => {
            let column = |column: u32| x.narrow(1, column as usize, 1);
            let mut columns = Vec::new();
            for feature in numeric {
                let centred = (column(feature.column)? - f64::from(feature.mean.0))?;
                columns.push((centred * f64::from(feature.scale.0))?);
            }
            for feature in categorical {
                let value = column(feature.column)?;
                for &code in &feature.codes {
                    columns.push(value.eq(code as f32)?.to_dtype(DType::F32)?);
                }
            }
            if columns.is_empty() {
                bail!("no features")
            }
            Tensor::cat(&columns, 1)
        }
        Layer::Conv2d { weight, bias: bias_name, stride, padding } => {
            let out = x.conv2d(&tensors[weight], *padding as usize, *stride as usize, 1, 1)?;
            match bias(bias_name) {
                Some(bias) => out.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?),
                None => Ok(out),
            }
        }
        Layer::Linear { weight, bias: bias_name } => {
            candle_nn::Module::forward(&candle_nn::Linear::new(tensors[weight].clone(), bias(bias_name)), x)
        }
        Layer::MaxPool2d { size } => x.max_pool2d(*size as usize),
        Layer::Flatten => x.flatten_from(1),
        Layer::Relu => x.relu(),
        Layer::Sigmoid => candle_nn::ops::sigmoid(x),
        Layer::Tanh => x.tanh(),
        Layer::Silu => x.silu(),
        Layer::Gelu => x.gelu_erf(),
        Layer::GeluTanh => x.gelu(),
        Layer::Softmax => candle_nn::ops::softmax(x, D::Minus1),
    }
}
