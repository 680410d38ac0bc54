//! The same files run by candle alone: its arithmetic, whose last bits depend on the machine. What the importer's result
//! is compared with.

use super::config::{Config, InputKind, Layer};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

/// The last layer of each request, `[batch, n]`.
pub(super) fn forward(config: &Config, weights: &[u8], requests: &[Vec<u8>]) -> Result<Tensor> {
    let tensors = VarBuilder::from_slice_safetensors(weights, DType::F32, &Device::Cpu)?;
    let mut values = Vec::new();
    for request in requests {
        match config.input.kind {
            InputKind::U8 => values.extend(request.iter().map(|&byte| f32::from(byte))),
            InputKind::F32be => values.extend(request.as_chunks::<4>().0.iter().map(|b| f32::from_be_bytes(*b))),
        }
    }
    let mut dims = vec![requests.len()];
    dims.extend(config.input.shape.iter().map(|&dim| dim as usize));
    let mut x = Tensor::from_vec(values, dims, &Device::Cpu)?;
    for layer in &config.layers {
        x = apply(layer, &x, &tensors)?;
    }
    x.flatten_from(1)
}

fn apply(layer: &Layer, x: &Tensor, tensors: &VarBuilder<'_>) -> Result<Tensor> {
    let bias = |name: &Option<String>| name.as_ref().map(|name| tensors.get_unchecked(name)).transpose();
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
            let out = x.conv2d(&tensors.get_unchecked(weight)?, *padding as usize, *stride as usize, 1, 1)?;
            match bias(bias_name)? {
                Some(bias) => out.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?),
                None => Ok(out),
            }
        }
        Layer::Linear { weight, bias: bias_name } => {
            candle_nn::Module::forward(&candle_nn::Linear::new(tensors.get_unchecked(weight)?, bias(bias_name)?), x)
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
