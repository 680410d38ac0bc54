//! The graph of a `sequential` model.
//!
//! A row of features is `[1, n]`; an image is a value of the builder's own kind. Every number of the config that decides
//! about sizes is checked here, so that the error names its field; the builder and the model's validation come after.

use super::config::{Categorical, Config, InputKind, Layer, Numeric, Output};
use super::tensors::Tensors;
use super::{ImportError, MAX_ELEMENTS};
use candor_sdk::program::{
    BinaryFunction, ConcatAxis, EncodeKind, Image, InputKind as Kind, Limits, Model, Operand, ProgramBuilder,
    UnaryFunction, Value, Window,
};
use std::collections::HashMap;

/// What a layer works on.
#[derive(Clone, Copy, Debug)]
enum Shaped {
    /// `[1, n]`
    Row(Value, u32),
    /// `[channels, height, width]`
    Image(Image),
}

/// Builds the model; also says which node is the last layer.
pub(super) fn build(config: &Config, tensors: Tensors) -> Result<(Model, u32), ImportError> {
    let mut builder = Builder { graph: ProgramBuilder::new(), tensors, values: HashMap::new(), path: String::new() };
    let (mut value, input_bytes) = builder.input(config)?;
    for (index, layer) in config.layers.iter().enumerate() {
        builder.path = format!("layers[{index}]");
        value = builder.layer(layer, value)?;
    }
    let (last, output_bytes) = builder.output(config, value)?;
    builder.tensors.finish(|_| false, "is not named in config.json")?;
    let limits = Limits {
        min_input_bytes: input_bytes,
        max_input_bytes: input_bytes,
        max_output_bytes: output_bytes,
        max_tokens: 0,
    };
    Ok((builder.graph.finish(limits, Vec::new())?, last))
}

fn field<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::field(field, problem))
}

struct Builder {
    graph: ProgramBuilder,
    tensors: Tensors,
    /// Tensors that are weights already: layers may share them.
    values: HashMap<String, Value>,
    /// The current layer.
    path: String,
}

impl Builder {
    /// An error at a field of the current layer.
    fn wrong<T>(&self, name: &str, problem: impl Into<String>) -> Result<T, ImportError> {
        field(format!("{}.{name}", self.path), problem)
    }

    fn input(&mut self, config: &Config) -> Result<(Shaped, u32), ImportError> {
        let shape = &config.input.shape;
        let (kind, width) = match config.input.kind {
            InputKind::F32be => (Kind::F32Be, 4u32),
            InputKind::U8 => (Kind::U8, 1),
        };
        let elements = shape.iter().try_fold(1u32, |product, &dim| product.checked_mul(dim)).filter(|&n| n > 0);
        let Some((elements, bytes)) = elements.and_then(|n| Some((n, n.checked_mul(width)?))) else {
            return field("input.shape", format!("{shape:?} has no elements or too many"));
        };
        let value = self.graph.within("input", |graph| {
            let bytes = graph.input(kind, 1, elements);
            graph.convert(bytes)
        });
        match shape[..] {
            [n] => Ok((Shaped::Row(value, n), bytes)),
            [channels, height, width] => Ok((Shaped::Image(Image::planar(value, channels, height, width)), bytes)),
            _ => field("input.shape", format!("{shape:?} is neither [features] nor [channels, height, width]")),
        }
    }

    fn layer(&mut self, layer: &Layer, x: Shaped) -> Result<Shaped, ImportError> {
        match layer {
            Layer::Relu => Ok(self.unary(UnaryFunction::Relu, "relu", x)),
            Layer::Sigmoid => Ok(self.unary(UnaryFunction::Sigmoid, "sigmoid", x)),
            Layer::Tanh => Ok(self.unary(UnaryFunction::Tanh, "tanh", x)),
            Layer::Silu => Ok(self.unary(UnaryFunction::Silu, "silu", x)),
            Layer::Gelu => Ok(self.unary(UnaryFunction::GeluErf, "gelu", x)),
            Layer::GeluTanh => Ok(self.unary(UnaryFunction::GeluTanh, "gelu_tanh", x)),
            Layer::Scale { by } => {
                let by = self.graph.constant(by.0);
                Ok(self.each("scale", x, |graph, x| graph.mul(x, by)))
            }
            Layer::Features { numeric, categorical } => self.features(numeric, categorical, x),
            Layer::Linear { weight, bias } => self.linear(weight, bias.as_deref(), x),
            Layer::Conv2d { weight, bias, stride, padding } => {
                self.conv2d(weight, bias.as_deref(), (*stride, *padding), x)
            }
            Layer::MaxPool2d { size } => self.max_pool2d(*size, x),
            Layer::Flatten => Ok(self.flatten(x)),
            Layer::Softmax => {
                let (x, n) = self.row("softmax", x)?;
                Ok(Shaped::Row(self.within("softmax", |graph| graph.softmax(x)), n))
            }
        }
    }

    fn within<T>(&mut self, name: &str, build: impl FnOnce(&mut ProgramBuilder) -> T) -> T {
        self.graph.within(format!("{}.{name}", self.path), build)
    }

    fn each(&mut self, name: &str, x: Shaped, f: impl FnOnce(&mut ProgramBuilder, Value) -> Value) -> Shaped {
        self.within(name, |graph| match x {
            Shaped::Row(x, n) => Shaped::Row(f(graph, x), n),
            Shaped::Image(image) => Shaped::Image(image.map(|x| f(graph, x))),
        })
    }

    fn unary(&mut self, function: UnaryFunction, name: &str, x: Shaped) -> Shaped {
        self.each(name, x, |graph, x| graph.unary(function, x))
    }

    fn row(&self, layer: &str, x: Shaped) -> Result<(Value, u32), ImportError> {
        match x {
            Shaped::Row(x, n) => Ok((x, n)),
            Shaped::Image(_) => self.wrong(layer, "of an image; flatten it first"),
        }
    }

    fn image(&self, layer: &str, x: Shaped) -> Result<Image, ImportError> {
        match x {
            Shaped::Image(image) => Ok(image),
            Shaped::Row(..) => self.wrong(layer, "needs [channels, height, width], not a row of features"),
        }
    }

    fn features(&mut self, numeric: &[Numeric], categorical: &[Categorical], x: Shaped) -> Result<Shaped, ImportError> {
        let (x, n) = self.row("features", x)?;
        let mut columns = numeric.iter().map(|n| n.column).chain(categorical.iter().map(|c| c.column));
        if let Some(column) = columns.find(|&column| column >= n) {
            return self.wrong("column", format!("{column} of an input of {n}"));
        }
        let codes: Vec<(u32, u32)> =
            categorical.iter().flat_map(|c| c.codes.iter().map(|&code| (c.column, code))).collect();
        if let Some((column, code)) = codes.iter().find(|(_, code)| *code > 1 << 24) {
            return self.wrong("codes", format!("{code} of column {column} is beyond the integers of f32"));
        }
        let Some(width) = u32::try_from(numeric.len() + codes.len()).ok().filter(|&width| width > 0) else {
            return self.wrong("features", "selects no column");
        };
        let path = self.path.clone();
        let result = self.within("features", |graph| {
            let mut parts = Vec::new();
            if !numeric.is_empty() {
                let pick: Vec<u32> = numeric.iter().map(|n| n.column).collect();
                let mean: Vec<f32> = numeric.iter().map(|n| n.mean.0).collect();
                let scale: Vec<f32> = numeric.iter().map(|n| n.scale.0).collect();
                let pick = graph.indices(&format!("{path}.numeric.column"), &pick);
                let mean = graph.row(&format!("{path}.numeric.mean"), &mean);
                let scale = graph.row(&format!("{path}.numeric.scale"), &scale);
                let taken = graph.take(x, pick);
                let centred = graph.sub(taken, mean);
                parts.push(graph.mul(centred, scale));
            }
            if !codes.is_empty() {
                let pick: Vec<u32> = codes.iter().map(|(column, _)| *column).collect();
                let code: Vec<f32> = codes.iter().map(|(_, code)| *code as f32).collect();
                let pick = graph.indices(&format!("{path}.categorical.column"), &pick);
                let code = graph.row(&format!("{path}.categorical.code"), &code);
                let taken = graph.take(x, pick);
                parts.push(graph.binary(BinaryFunction::Equal, taken, code));
            }
            if let [one] = parts[..] { one } else { graph.concat(ConcatAxis::Cols, &parts) }
        });
        Ok(Shaped::Row(result, width))
    }

    /// A weight matrix `[out, rest]` and its bias, and `out`.
    fn parameters(
        &mut self,
        weight: &str,
        bias: Option<&str>,
        dims: &[usize],
    ) -> Result<(Value, Option<Value>, u32), ImportError> {
        let size = |n: usize| u32::try_from(n).ok().filter(|&n| n > 0);
        let cols = dims[1..].iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)).and_then(size);
        let (Some(out), Some(cols)) = (size(dims[0]), cols) else {
            return Err(ImportError::Tensor { name: weight.into(), problem: format!("shape {dims:?} is absurd") });
        };
        let matrix = self.weight(weight, dims, (out, cols))?;
        let bias = bias.map(|bias| self.weight(bias, &dims[..1], (1, out))).transpose()?;
        Ok((matrix, bias, out))
    }

    fn weight(&mut self, name: &str, dims: &[usize], shape: (u32, u32)) -> Result<Value, ImportError> {
        // Taken again even if it is known: the second layer that uses it may want another shape.
        let tensor = self.tensors.take(name, dims, shape)?;
        let graph = &mut self.graph;
        Ok(*self.values.entry(name.to_string()).or_insert_with(|| graph.weight(tensor)))
    }

    fn linear(&mut self, weight: &str, bias: Option<&str>, x: Shaped) -> Result<Shaped, ImportError> {
        let (x, n) = self.row("linear", x)?;
        let out = self.tensors.dims(weight)?.first().copied().unwrap_or(0);
        let (weight, bias, out) = self.parameters(weight, bias, &[out, n as usize])?;
        Ok(Shaped::Row(self.within("linear", |graph| graph.linear(x, weight, bias)), out))
    }

    fn conv2d(
        &mut self,
        weight: &str,
        bias: Option<&str>,
        (stride, padding): (u32, u32),
        x: Shaped,
    ) -> Result<Shaped, ImportError> {
        let image = self.image("conv2d", x)?;
        let (channels, ..) = image.shape();
        let dims = self.tensors.dims(weight)?.to_vec();
        let [out, _, kernel_height, kernel_width] = dims[..] else {
            let problem = format!("shape {dims:?}, conv2d needs [out, in, height, width]");
            return Err(ImportError::Tensor { name: weight.into(), problem });
        };
        let (weight, bias, _) =
            self.parameters(weight, bias, &[out, channels as usize, kernel_height, kernel_width])?;
        // Below 2^32 each: `parameters` has just checked their product.
        let size = (kernel_height as u32, kernel_width as u32);
        self.check_window(image.shape(), size, stride, padding)?;
        let window = Window { size, stride: (stride, stride), padding: (padding, padding), dilation: (1, 1) };
        Ok(Shaped::Image(self.within("conv2d", |graph| graph.conv2d(image, weight, bias, window))))
    }

    fn max_pool2d(&mut self, size: u32, x: Shaped) -> Result<Shaped, ImportError> {
        let image = self.image("max_pool2d", x)?;
        self.check_window(image.shape(), (size, size), size, 0)?;
        Ok(Shaped::Image(self.within("max_pool2d", |graph| graph.max_pool2d(image, Window::square(size, size)))))
    }

    /// Refuses a window that does not fit, and one that fits so often that the windows are a bomb.
    fn check_window(
        &self,
        (channels, height, width): (u32, u32, u32),
        size: (u32, u32),
        stride: u32,
        padding: u32,
    ) -> Result<(), ImportError> {
        if size.0 == 0 || size.1 == 0 || stride == 0 {
            return self.wrong("stride", format!("a window of {size:?} cannot move by {stride}"));
        }
        let positions = |image: u32, window: u32| {
            let padded = u128::from(image) + 2 * u128::from(padding);
            padded.checked_sub(u128::from(window)).map(|room| room / u128::from(stride) + 1)
        };
        let (Some(down), Some(across)) = (positions(height, size.0), positions(width, size.1)) else {
            let image = (height, width);
            return self.wrong("size", format!("a window of {size:?} in an image of {image:?} with padding {padding}"));
        };
        let elements = (down * across)
            .saturating_mul(u128::from(channels))
            .saturating_mul(u128::from(size.0) * u128::from(size.1));
        if elements > u128::from(MAX_ELEMENTS) {
            let problem = format!("{down} x {across} windows of {size:?} have {elements} elements");
            return self.wrong("size", format!("{problem}; at most {MAX_ELEMENTS}"));
        }
        Ok(())
    }

    fn flatten(&mut self, x: Shaped) -> Shaped {
        match x {
            Shaped::Row(..) => x,
            Shaped::Image(image) => {
                let (channels, height, width) = image.shape();
                // Fits: the image is a node, or `finish` refuses it.
                let n = channels.saturating_mul(height).saturating_mul(width);
                Shaped::Row(self.within("flatten", |graph| graph.flatten(image)), n)
            }
        }
    }

    /// Adds the outputs; says which node they are made of and how many bytes they are.
    fn output(&mut self, config: &Config, x: Shaped) -> Result<(u32, u32), ImportError> {
        self.path = "output".to_string();
        let (x, n) = self.row("kind", x)?;
        let Operand::Node(last) = x.operand else { return field("layers", "nothing is computed from the input") };
        let mut bytes = 0u32;
        for output in &config.output {
            match output {
                Output::Argmax { .. } => {
                    bytes = bytes.saturating_add(4);
                    self.within("argmax", |graph| {
                        let index = graph.argmax(x);
                        graph.output(EncodeKind::U32Be, index);
                    });
                }
                Output::F32be => {
                    bytes = bytes.saturating_add(n.saturating_mul(4));
                    self.within("f32be", |graph| graph.output(EncodeKind::F32Be, x));
                }
            }
        }
        if bytes == 0 {
            return field("output", "is empty");
        }
        Ok((last, bytes))
    }
}
