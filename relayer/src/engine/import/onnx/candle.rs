//! The same file run by candle: candle-onnx does each operation that it has; what it lacks, or has for some attributes only,
//! is written here with candle's tensor operations. What the importer's result is compared with.

use super::{OnnxInput, OnnxModel};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_onnx::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use prost::Message;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A file as candle runs it.
pub(in crate::engine::import) struct CandleGraph<'a> {
    model: &'a OnnxModel,
    graph: GraphProto,
    constants: HashMap<String, Tensor>,
    opset: i64,
}

impl<'a> CandleGraph<'a> {
    pub(in crate::engine::import) fn load(model: &'a OnnxModel) -> Result<Self> {
        let proto = ModelProto::decode(model.file.as_slice()).map_err(candle_core::Error::wrap)?;
        let standard = proto.opset_import.iter().filter(|opset| super::proto::is_standard(&opset.domain));
        let opset = standard.map(|opset| opset.version).next_back().unwrap_or_default();
        let Some(mut graph) = proto.graph else { bail!("no graph") };
        let mut constants = HashMap::new();
        for tensor in std::mem::take(&mut graph.initializer) {
            constants.insert(tensor.name.clone(), constant(&tensor)?);
        }
        Ok(Self { model, graph, constants, opset })
    }

    /// The output that is compared, for a request.
    pub(in crate::engine::import) fn run(&self, request: &[u8]) -> Result<Vec<f32>> {
        let OnnxModel { config, input, fixed, output, .. } = self.model;
        let sequence = request.len() / 4;
        let shape =
            |dims: &[i64]| -> Vec<usize> { dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(sequence)).collect() };
        let numbers: Vec<f32> = match &config.input {
            OnnxInput::F32be { .. } => request.as_chunks::<4>().0.iter().map(|b| f32::from_be_bytes(*b)).collect(),
            OnnxInput::U8 { .. } => request.iter().map(|&b| f32::from(b)).collect(),
            OnnxInput::Tokens { .. } => {
                request.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b) as f32).collect()
            }
            OnnxInput::Ends { first, last, padding, .. } => {
                let (first, last) = (*first as usize, *last as usize);
                let mut numbers = vec![*padding as f32; first + last];
                let (head, tail) = (first.min(request.len()), last.min(request.len()));
                for (number, byte) in numbers.iter_mut().zip(&request[..head]) {
                    *number = f32::from(*byte);
                }
                for (number, byte) in numbers[first + last - tail..].iter_mut().zip(&request[request.len() - tail..]) {
                    *number = f32::from(*byte);
                }
                numbers
            }
        };
        let mut values = self.constants.clone();
        let own = Tensor::from_vec(numbers, shape(&input.dims), &Device::Cpu)?.to_dtype(dtype(input.dtype))?;
        values.insert(input.name.clone(), own);
        for (input, value) in fixed {
            let full = Tensor::full(*value as f32, shape(&input.dims), &Device::Cpu)?.to_dtype(dtype(input.dtype))?;
            values.insert(input.name.clone(), full);
        }
        let wanted = self.needed(output);
        for (node, _) in self.graph.node.iter().zip(&wanted).filter(|(_, wanted)| **wanted) {
            let results = self.node(node, &values)?;
            for (name, result) in node.output.iter().zip(results) {
                values.insert(name.clone(), result);
            }
        }
        match values.get(output) {
            Some(found) => found.to_dtype(DType::F32)?.flatten_all()?.to_vec1(),
            None => bail!("{output:?} is not computed"),
        }
    }

    /// Which nodes an output is computed from.
    fn needed(&self, output: &str) -> Vec<bool> {
        let mut names: std::collections::HashSet<&str> = [output].into();
        let mut needed = vec![false; self.graph.node.len()];
        for (node, needed) in self.graph.node.iter().zip(&mut needed).rev() {
            *needed = node.output.iter().any(|name| names.contains(name.as_str()));
            if *needed {
                names.extend(node.input.iter().map(String::as_str));
            }
        }
        needed
    }

    fn node(&self, node: &NodeProto, values: &HashMap<String, Tensor>) -> Result<Vec<Tensor>> {
        let own = Own { node, values, opset: self.opset };
        // candle-onnx panics where it has not got a case; that is no reason to.
        let run = || match own.run()? {
            Some(result) => Ok(result),
            None => own.candle(),
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result.map_err(|error| error.context(format!("{} {:?}", node.op_type, node.name))),
            Err(_) => bail!("candle-onnx cannot run {} {:?}", node.op_type, node.name),
        }
    }
}

/// candle's type for elements of a code: all integers are i64.
fn dtype(code: u64) -> DType {
    match code {
        1 | 10 | 16 => DType::F32,
        9 => DType::U8,
        _ => DType::I64,
    }
}

/// A tensor of the file; read by our own reader, whose result the importer has used.
fn constant(tensor: &TensorProto) -> Result<Tensor> {
    let bytes = std::sync::Arc::new(tensor.encode_to_vec());
    let read = super::proto::TensorProto::read(&bytes).map_err(candle_core::Error::msg)?;
    let dims = read.dims.clone();
    match read.elements(&bytes).map_err(candle_core::Error::msg)? {
        super::proto::Elements::Float(dtype, slice) => {
            let dtype = match dtype {
                candor_sdk::program::WeightType::F16 => DType::F16,
                candor_sdk::program::WeightType::Bf16 => DType::BF16,
                _ => DType::F32,
            };
            Tensor::from_raw_buffer(slice.as_ref(), dtype, &dims, &Device::Cpu)?.to_dtype(DType::F32)
        }
        super::proto::Elements::Int(list) => Tensor::from_vec(list, dims, &Device::Cpu),
        super::proto::Elements::Bool(list) => Tensor::from_vec(list, dims, &Device::Cpu)?.to_dtype(DType::U8),
    }
}

/// One node.
struct Own<'a> {
    node: &'a NodeProto,
    values: &'a HashMap<String, Tensor>,
    opset: i64,
}

impl Own<'_> {
    fn has(&self, index: usize) -> bool {
        self.node.input.get(index).is_some_and(|name| !name.is_empty())
    }

    fn x(&self, index: usize) -> Result<&Tensor> {
        let name = self.node.input.get(index).map(String::as_str).unwrap_or_default();
        match self.values.get(name) {
            Some(value) => Ok(value),
            None => bail!("no input {index}"),
        }
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
    }

    fn float(&self, name: &str, otherwise: f32) -> f64 {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name);
        f64::from(found.map_or(otherwise, |attribute| attribute.f))
    }

    fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.ints.clone())
    }

    fn floats(&self, name: &str) -> Option<Result<Tensor>> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name)?;
        Some(Tensor::from_slice(&found.floats, found.floats.len(), &Device::Cpu))
    }

    fn text(&self, name: &str) -> String {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name);
        found.map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned()).unwrap_or_default()
    }

    fn list(&self, index: usize) -> Result<Vec<i64>> {
        self.x(index)?.flatten_all()?.to_vec1()
    }

    /// Axes from an input or an attribute, counted from the start.
    fn axes(&self, rank: usize) -> Result<Option<Vec<usize>>> {
        let axes = if self.has(1) { Some(self.list(1)?) } else { self.ints("axes") };
        let place = |axis: i64| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis });
        let axes = axes.map(|axes| axes.into_iter().map(place).collect::<std::result::Result<Vec<_>, _>>());
        let mut axes = axes.transpose().map_err(candle_core::Error::wrap)?;
        axes.iter_mut().for_each(|axes| axes.sort_unstable());
        Ok(axes)
    }

    /// A linear model of scikit-learn with what follows it.
    fn linear_model(&self) -> Result<Tensor> {
        let x = self.x(0)?;
        let Some(coefficients) = self.floats("coefficients") else { bail!("no coefficients") };
        let mut scores = x.matmul(&coefficients?.reshape(((), x.dim(1)?))?.t()?)?;
        if let Some(intercepts) = self.floats("intercepts") {
            scores = scores.broadcast_add(&intercepts?)?;
        }
        match self.text("post_transform").as_str() {
            "SOFTMAX" => candle_nn::ops::softmax(&scores, 1),
            "LOGISTIC" => candle_nn::ops::sigmoid(&scores),
            _ => Ok(scores),
        }
    }

    /// What candle-onnx makes of the node.
    fn candle(&self) -> Result<Vec<Tensor>> {
        let outputs: Vec<&String> = self.node.output.iter().filter(|name| !name.is_empty()).collect();
        let output =
            outputs.iter().map(|name| ValueInfoProto { name: (*name).clone(), ..Default::default() }).collect();
        let mut node = self.node.clone();
        // Types of integers that candle-onnx does not know are i64 here, everywhere.
        for attribute in &mut node.attribute {
            if attribute.name == "to" && matches!(attribute.i, 2..=7 | 12 | 13) {
                attribute.i = 7;
            }
            if attribute.name == "to" && matches!(attribute.i, 10 | 16) {
                attribute.i = 1;
            }
        }
        let graph = GraphProto { node: vec![node], output, ..Default::default() };
        let inputs = self.node.input.iter().filter_map(|name| Some((name.clone(), self.values.get(name)?.clone())));
        let model = ModelProto { graph: Some(graph), ..Default::default() };
        let mut found = candle_onnx::simple_eval(&model, inputs.collect())?;
        let mut results = Vec::new();
        for name in outputs {
            match found.remove(name) {
                Some(result) => results.push(result),
                None => bail!("no {name:?}"),
            }
        }
        Ok(results)
    }

    /// What candle-onnx does not do, or not for all attributes and inputs that the importer understands.
    fn run(&self) -> Result<Option<Vec<Tensor>>> {
        let folded = |f: fn(&Tensor, &Tensor) -> Result<Tensor>| {
            (1..self.node.input.len()).try_fold(self.x(0)?.clone(), |left, i| f(&left, self.x(i)?))
        };
        let op = self.node.op_type.as_str();
        let result = match op {
            "Max" => folded(Tensor::broadcast_maximum)?,
            "Min" => folded(Tensor::broadcast_minimum)?,
            "Sum" => folded(Tensor::broadcast_add)?,
            "Mean" => folded(Tensor::broadcast_add)?.affine(1.0 / self.node.input.len() as f64, 0.0)?,
            "And" => folded(Tensor::broadcast_mul)?,
            "Or" => folded(Tensor::broadcast_maximum)?,
            "Reciprocal" => self.x(0)?.recip()?,
            "Softsign" => self.x(0)?.broadcast_div(&self.x(0)?.abs()?.affine(1.0, 1.0)?)?,
            "PRelu" => {
                let x = self.x(0)?;
                (x.relu()? - x.neg()?.relu()?.broadcast_mul(self.x(1)?)?)?
            }
            "CastLike" => self.x(0)?.to_dtype(self.x(1)?.dtype())?,
            "Softplus" => (self.x(0)?.exp()? + 1.0)?.log()?,
            "ThresholdedRelu" => {
                let above = self.x(0)?.gt(f64::from(self.float("alpha", 1.0) as f32))?.to_dtype(DType::F32)?;
                (self.x(0)? * above)?
            }
            "Elu" => self.x(0)?.elu(self.float("alpha", 1.0))?,
            "HardSigmoid" => self.x(0)?.affine(self.float("alpha", 0.2), self.float("beta", 0.5))?.clamp(0f32, 1f32)?,
            "Gelu" if self.text("approximate") == "tanh" => self.x(0)?.gelu()?,
            "Gelu" => self.x(0)?.gelu_erf()?,
            "Pow" => {
                let exponent = self.x(1)?.to_dtype(DType::F32)?.flatten_all()?.get(0)?.to_scalar::<f32>()?;
                match exponent {
                    2.0 => self.x(0)?.sqr()?,
                    exponent => self.x(0)?.powf(f64::from(exponent))?,
                }
            }
            "Clip" if self.node.input.len() < 2 => {
                let (low, high) = (self.float("min", f32::MIN), self.float("max", f32::MAX));
                self.x(0)?.clamp(low, high)?
            }
            "Softmax" | "LogSoftmax" => {
                let x = self.x(0)?;
                let axis = self.int("axis").unwrap_or(if self.opset < 13 { 1 } else { -1 });
                let axis = if axis < 0 { axis + x.rank() as i64 } else { axis } as usize;
                let softmax = |x: &Tensor, axis| match op {
                    "Softmax" => candle_nn::ops::softmax(x, axis),
                    _ => candle_nn::ops::log_softmax(x, axis),
                };
                if self.opset < 13 {
                    softmax(&x.flatten_from(axis)?, axis)?.reshape(x.shape())?
                } else {
                    softmax(x, axis)?
                }
            }
            "Squeeze" => {
                let x = self.x(0)?;
                let axes = self.axes(x.rank())?;
                let kept = x.dims().iter().enumerate().filter(|(d, dim)| match &axes {
                    Some(axes) => !axes.contains(d),
                    None => **dim != 1,
                });
                x.reshape(kept.map(|(_, dim)| *dim).collect::<Vec<_>>())?
            }
            "Unsqueeze" => {
                let x = self.x(0)?;
                let count = if self.has(1) { self.list(1)?.len() } else { self.ints("axes").unwrap_or_default().len() };
                let axes = self.axes(x.rank() + count)?.unwrap_or_default();
                axes.iter().try_fold(x.clone(), |x, &axis| x.unsqueeze(axis))?
            }
            "Gather" => {
                let (x, indices) = (self.x(0)?, self.x(1)?.to_dtype(DType::I64)?);
                let axis = self.int("axis").unwrap_or(0);
                let axis = if axis < 0 { axis + x.rank() as i64 } else { axis } as usize;
                let size = x.dim(axis)? as i64;
                let places: Vec<i64> = indices.flatten_all()?.to_vec1()?;
                let places: Vec<i64> = places.into_iter().map(|i| if i < 0 { i + size } else { i }).collect();
                let count = places.len();
                let found = x.index_select(&Tensor::from_vec(places, count, &Device::Cpu)?, axis)?;
                let dims = [&x.dims()[..axis], indices.dims(), &x.dims()[axis + 1..]].concat();
                found.reshape(dims)?
            }
            "Slice" if self.node.input.len() < 2 => {
                let x = self.x(0)?;
                let (starts, ends) = (self.ints("starts").unwrap_or_default(), self.ints("ends").unwrap_or_default());
                let axes = self.ints("axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
                let mut result = x.clone();
                for ((start, end), axis) in starts.into_iter().zip(ends).zip(axes) {
                    let axis = if axis < 0 { axis + x.rank() as i64 } else { axis } as usize;
                    let size = x.dim(axis)? as i64;
                    let place = |at: i64| (if at < 0 { at + size } else { at }).clamp(0, size);
                    let (start, end) = (place(start), place(end));
                    result = result.narrow(axis, start as usize, (end - start).max(0) as usize)?;
                }
                result
            }
            "Pad" => self.pad()?,
            "MaxPool" | "AveragePool" => self.pool()?,
            "Gemm" if !self.has(2) => {
                let side = |i: usize, name: &str| match self.int(name) {
                    Some(1) => self.x(i)?.t(),
                    _ => self.x(i).cloned(),
                };
                let product = side(0, "transA")?.contiguous()?.matmul(&side(1, "transB")?.contiguous()?)?;
                product.affine(self.float("alpha", 1.0), 0.0)?
            }
            "Conv" if !self.is_plain_conv()? => self.conv()?,
            "ConvTranspose" => self.conv_transpose()?,
            "Resize" | "Upsample" => self.resize()?,
            "GlobalMaxPool" | "GlobalAveragePool" => {
                let x = self.x(0)?;
                let axes: Vec<usize> = (2..x.rank()).collect();
                if op == "GlobalMaxPool" { largest(x, &axes)? } else { x.mean_keepdim(axes)? }
            }
            "Scaler" => {
                let shifted = match self.floats("offset") {
                    Some(offset) => self.x(0)?.broadcast_sub(&offset?)?,
                    None => self.x(0)?.clone(),
                };
                match self.floats("scale") {
                    Some(scale) => shifted.broadcast_mul(&scale?)?,
                    None => shifted,
                }
            }
            "LinearRegressor" => self.linear_model()?,
            // The label is nothing that the importer reads.
            "LinearClassifier" => return Ok(Some(vec![self.linear_model()?; 2])),
            "Normalizer" => {
                let x = self.x(0)?;
                let last = x.rank() - 1;
                let norm = match self.text("norm").as_str() {
                    "L1" => x.abs()?.sum_keepdim(last)?,
                    _ => x.sqr()?.sum_keepdim(last)?.sqrt()?,
                };
                let norm = norm.eq(0f32)?.where_cond(&norm.ones_like()?, &norm)?;
                x.broadcast_div(&norm)?
            }
            "LayerNormalization" | "RMSNormalization" => {
                let x = self.x(0)?;
                let axis = self.int("axis").unwrap_or(-1);
                let axis = if axis < 0 { axis + x.rank() as i64 } else { axis } as usize;
                let axes: Vec<usize> = (axis..x.rank()).collect();
                let centred = match op {
                    "LayerNormalization" => x.broadcast_sub(&x.mean_keepdim(axes.clone())?)?,
                    _ => x.clone(),
                };
                let deviation = (centred.sqr()?.mean_keepdim(axes)? + self.float("epsilon", 1e-5))?.sqrt()?;
                let normal = centred.broadcast_div(&deviation)?;
                let scaled = if self.has(1) { normal.broadcast_mul(self.x(1)?)? } else { normal };
                if self.has(2) { scaled.broadcast_add(self.x(2)?)? } else { scaled }
            }
            "InstanceNormalization" => {
                let x = self.x(0)?;
                let axes: Vec<usize> = (2..x.rank()).collect();
                let centred = x.broadcast_sub(&x.mean_keepdim(axes.clone())?)?;
                let deviation = (centred.sqr()?.mean_keepdim(axes)? + self.float("epsilon", 1e-5))?.sqrt()?;
                let mut dims = vec![1; x.rank()];
                dims[1] = x.dim(1)?;
                let channels = |i: usize| self.x(i)?.reshape(dims.as_slice());
                centred.broadcast_div(&deviation)?.broadcast_mul(&channels(1)?)?.broadcast_add(&channels(2)?)?
            }
            "LpNormalization" => {
                let x = self.x(0)?;
                let axis = self.int("axis").unwrap_or(-1);
                let axis = if axis < 0 { axis + x.rank() as i64 } else { axis } as usize;
                let norm = match self.int("p") {
                    Some(1) => x.abs()?.sum_keepdim(axis)?,
                    _ => x.sqr()?.sum_keepdim(axis)?.sqrt()?,
                };
                let zero = norm.eq(0f64)?.to_dtype(DType::F32)?;
                x.broadcast_div(&(norm + zero)?)?
            }
            reduction if reduction.starts_with("Reduce") => self.reduce(&reduction["Reduce".len()..])?,
            _ => return Ok(None),
        };
        Ok(Some(vec![result]))
    }

    fn reduce(&self, name: &str) -> Result<Tensor> {
        let x = self.x(0)?;
        let axes = self.axes(x.rank())?.filter(|axes| !axes.is_empty());
        if axes.is_none() && self.int("noop_with_empty_axes") == Some(1) {
            return Ok(x.clone());
        }
        let axes = axes.unwrap_or_else(|| (0..x.rank()).collect());
        let kept = match name {
            "Sum" => x.sum_keepdim(axes.clone())?,
            "Mean" => x.mean_keepdim(axes.clone())?,
            "Max" => largest(x, &axes)?,
            "Min" => largest(&x.neg()?, &axes)?.neg()?,
            "SumSquare" => x.sqr()?.sum_keepdim(axes.clone())?,
            "L1" => x.abs()?.sum_keepdim(axes.clone())?,
            "L2" => x.sqr()?.sum_keepdim(axes.clone())?.sqrt()?,
            "LogSum" => x.sum_keepdim(axes.clone())?.log()?,
            "Prod" => {
                let product: i64 = x.flatten_all()?.to_vec1::<i64>()?.into_iter().product();
                Tensor::new(product, &Device::Cpu)?.reshape(vec![1; x.rank()])?
            }
            other => bail!("Reduce{other}"),
        };
        if self.int("keepdims").unwrap_or(1) == 1 {
            return Ok(kept);
        }
        let dims = kept.dims().iter().enumerate().filter(|(d, _)| !axes.contains(d)).map(|(_, dim)| *dim);
        kept.reshape(dims.collect::<Vec<_>>())
    }

    fn pad(&self) -> Result<Tensor> {
        let x = self.x(0)?;
        let pads = if self.has(1) { self.list(1)? } else { self.ints("pads").unwrap_or_default() };
        let fill = match self.has(2) {
            true => self.x(2)?.flatten_all()?.get(0)?.to_dtype(DType::F32)?.to_scalar::<f32>()?,
            false => self.float("value", 0.0) as f32,
        };
        let axes = if self.has(3) { self.list(3)? } else { (0..x.rank() as i64).collect() };
        let mut result = x.clone();
        for (i, axis) in axes.iter().enumerate() {
            let axis = if *axis < 0 { axis + x.rank() as i64 } else { *axis } as usize;
            result = around(&result, axis, (pads[i] as usize, pads[axes.len() + i] as usize), fill)?;
        }
        Ok(result)
    }

    /// Before and after each spatial dimension.
    fn pads(&self, lengths: &[usize], size: &[i64]) -> Vec<(usize, usize)> {
        let n = lengths.len();
        let pads = self.ints("pads").unwrap_or_else(|| vec![0; 2 * n]);
        let (strides, dilations) = (self.ints("strides").unwrap_or_else(|| vec![1; n]), self.ints("dilations"));
        let auto = self.text("auto_pad");
        (0..n)
            .map(|d| match auto.as_str() {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let reach = (size[d] - 1) * dilations.as_ref().map_or(1, |list| list[d]) + 1;
                    let length = lengths[d] as i64;
                    let steps = (length + strides[d] - 1) / strides[d];
                    let total = ((steps - 1) * strides[d] + reach - length).max(0) as usize;
                    if auto == "SAME_UPPER" { (total / 2, total - total / 2) } else { (total - total / 2, total / 2) }
                }
                "VALID" => (0, 0),
                _ => (pads[d] as usize, pads[n + d] as usize),
            })
            .collect()
    }

    /// Whether candle-onnx has this convolution: the same in both directions, on one or two dimensions.
    fn is_plain_conv(&self) -> Result<bool> {
        let even = |name: &str| self.ints(name).unwrap_or_default().windows(2).all(|pair| pair[0] == pair[1]);
        let auto = matches!(self.text("auto_pad").as_str(), "" | "NOTSET");
        Ok(auto && self.x(0)?.rank() <= 4 && even("strides") && even("dilations") && even("pads"))
    }

    /// A convolution one place of the window at a time, each a matrix product.
    fn conv(&self) -> Result<Tensor> {
        let w = self.x(1)?;
        let size: Vec<i64> = w.dims()[2..].iter().map(|&dim| dim as i64).collect();
        let (strides, dilations) = self.steps(size.len());
        let mut x = self.x(0)?.clone();
        let lengths = x.dims()[2..].to_vec();
        for (d, pads) in self.pads(&lengths, &size).into_iter().enumerate() {
            x = around(&x, d + 2, pads, 0.0)?;
        }
        let groups = self.int("group").unwrap_or(1) as usize;
        let (out, inner) = (w.dim(0)? / groups, w.dim(1)?);
        let w = w.flatten_from(2)?;
        let mut total: Option<Tensor> = None;
        for place in 0..size.iter().product::<i64>() {
            let part = at_place(&x, place, &size, &strides, &dilations)?;
            let flat = part.flatten_from(2)?;
            let weight = w.narrow(2, place as usize, 1)?.squeeze(2)?;
            let mut products = Vec::new();
            for group in 0..groups {
                let weight = weight.narrow(0, group * out, out)?.contiguous()?;
                products.push(weight.broadcast_matmul(&flat.narrow(1, group * inner, inner)?.contiguous()?)?);
            }
            let dims = [&[part.dim(0)?, out * groups], &part.dims()[2..]].concat();
            let product = Tensor::cat(&products, 1)?.reshape(dims)?;
            total = Some(match total {
                None => product,
                Some(total) => (total + product)?,
            });
        }
        let Some(total) = total else { bail!("no window") };
        if !self.has(2) {
            return Ok(total);
        }
        let mut dims = vec![1; total.rank()];
        dims[1] = out * groups;
        total.broadcast_add(&self.x(2)?.reshape(dims)?)
    }

    /// A transposed convolution whose windows do not overlap.
    fn conv_transpose(&self) -> Result<Tensor> {
        let (x, w) = (self.x(0)?, self.x(1)?);
        let stride = w.dim(2)?;
        let result = match *w.dims() {
            [_, _, _] => x.conv_transpose1d(w, 0, 0, stride, 1, 1)?,
            [_, _, height, width] if height == width => x.conv_transpose2d(w, 0, 0, stride, 1)?,
            _ => bail!("windows of {:?}", &w.dims()[2..]),
        };
        if !self.has(2) {
            return Ok(result);
        }
        let mut dims = vec![1; result.rank()];
        dims[1] = w.dim(1)?;
        result.broadcast_add(&self.x(2)?.reshape(dims)?)
    }

    /// Elements repeated a whole number of times.
    fn resize(&self) -> Result<Tensor> {
        let mut result = self.x(0)?.clone();
        let axes = self.ints("axes").unwrap_or_else(|| (0..result.rank() as i64).collect());
        let at = if self.node.op_type == "Upsample" || self.opset < 11 { 1 } else { 2 };
        let scaled = self.has(at) && self.x(at)?.elem_count() > 0;
        let scales: Vec<f32> = if scaled { self.x(at)?.flatten_all()?.to_vec1()? } else { Vec::new() };
        let sizes = if scaled { Vec::new() } else { self.list(3)? };
        for (i, &axis) in axes.iter().enumerate() {
            let axis = if axis < 0 { axis + result.rank() as i64 } else { axis } as usize;
            let length = result.dim(axis)? as i64;
            let factor = if scaled { scales[i] as i64 } else { sizes[i] / length };
            if factor > 1 {
                let places: Vec<i64> = (0..length * factor).map(|place| place / factor).collect();
                let count = places.len();
                result = result.contiguous()?.index_select(&Tensor::from_vec(places, count, &Device::Cpu)?, axis)?;
            }
        }
        Ok(result)
    }

    /// Strides and dilations of windows.
    fn steps(&self, n: usize) -> (Vec<i64>, Vec<i64>) {
        let list = |name: &str| self.ints(name).unwrap_or_else(|| vec![1; n]);
        (list("strides"), list("dilations"))
    }

    /// Windows one place at a time: each place is a strided slice of the padded image.
    fn pool(&self) -> Result<Tensor> {
        let x = self.x(0)?;
        let size = self.ints("kernel_shape").unwrap_or_default();
        let n = size.len();
        let pads = self.pads(&x.dims()[2..], &size);
        let (strides, dilations) = self.steps(n);
        let largest = self.node.op_type == "MaxPool";
        let inside = self.int("count_include_pad").unwrap_or(0) == 0;
        let (mut padded, mut ones) = (x.clone(), x.ones_like()?);
        for (d, pads) in pads.iter().copied().enumerate() {
            padded = around(&padded, d + 2, pads, if largest { f32::NEG_INFINITY } else { 0.0 })?;
            ones = around(&ones, d + 2, pads, if inside { 0.0 } else { 1.0 })?;
        }
        if self.int("ceil_mode") == Some(1) {
            // Windows that are cut off at the end, unless they begin behind the image.
            for d in 0..n {
                let (length, reach) = (padded.dim(d + 2)? as i64, (size[d] - 1) * dilations[d] + 1);
                let down = (length - reach) / strides[d] + 1;
                if (length - reach) % strides[d] > 0 && down * strides[d] < (x.dim(d + 2)? + pads[d].0) as i64 {
                    let missing = (down * strides[d] + reach - length) as usize;
                    padded = around(&padded, d + 2, (0, missing), if largest { f32::NEG_INFINITY } else { 0.0 })?;
                    ones = around(&ones, d + 2, (0, missing), 0.0)?;
                }
            }
        }
        let places: i64 = size.iter().product();
        let (mut total, mut count): (Option<Tensor>, Option<Tensor>) = (None, None);
        for place in 0..places {
            let at = |x: &Tensor| at_place(x, place, &size, &strides, &dilations);
            let part = (at(&padded)?, at(&ones)?);
            total = Some(match total {
                None => part.0,
                Some(total) if largest => total.maximum(&part.0)?,
                Some(total) => (total + part.0)?,
            });
            count = Some(match count {
                None => part.1,
                Some(count) => (count + part.1)?,
            });
        }
        match (total, count) {
            (Some(total), _) if largest => Ok(total),
            (Some(total), Some(count)) => total.div(&count),
            _ => bail!("no window"),
        }
    }
}

/// The largest element over some dimensions, which stay with size 1.
fn largest(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    axes.iter().try_fold(x.clone(), |x, &axis| x.contiguous()?.max_keepdim(axis))
}

/// What all windows have at one of their places.
fn at_place(x: &Tensor, mut place: i64, size: &[i64], strides: &[i64], dilations: &[i64]) -> Result<Tensor> {
    let mut part = x.clone();
    for d in (0..size.len()).rev() {
        let offset = (place % size[d]) * dilations[d];
        place /= size[d];
        let positions = (x.dim(d + 2)? as i64 - (size[d] - 1) * dilations[d] - 1) / strides[d] + 1;
        let at: Vec<i64> = (0..positions).map(|i| offset + i * strides[d]).collect();
        part = part.index_select(&Tensor::from_vec(at, positions as usize, &Device::Cpu)?, d + 2)?;
    }
    Ok(part)
}

/// A tensor with `fill` before and after a dimension.
fn around(x: &Tensor, axis: usize, (before, after): (usize, usize), fill: f32) -> Result<Tensor> {
    let border = |size: usize| {
        let mut dims = x.dims().to_vec();
        dims[axis] = size;
        Tensor::full(fill, dims, &Device::Cpu)?.to_dtype(x.dtype())
    };
    let mut parts = Vec::new();
    if before > 0 {
        parts.push(border(before)?);
    }
    parts.push(x.clone());
    if after > 0 {
        parts.push(border(after)?);
    }
    Tensor::cat(&parts, axis)
}
