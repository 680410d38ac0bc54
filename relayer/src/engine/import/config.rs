//! `config.json` of a `sequential` model: layers one after the other. Nothing is guessed: an unknown key or operation, a
//! missing tensor name or a number that is not one is an error with the place in the file.

use serde::{Deserialize, Deserializer, de::Error as _};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Always `sequential`.
    pub architecture: Architecture,
    /// A name for people.
    pub name: String,
    /// What the bytes of a request are.
    pub input: Input,
    /// What is computed.
    pub layers: Vec<Layer>,
    /// What the bytes of the answer are, one after the other.
    pub output: Vec<Output>,
}

/// The one architecture this file describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Layers one after the other.
    Sequential,
}

/// The bytes of a request: one value per element, row-major.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What an element is.
    pub kind: InputKind,
    /// `[features]` or `[channels, height, width]`.
    pub shape: Vec<u32>,
}

/// What an element of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// f32, big-endian.
    F32be,
    /// A byte, 0 to 255.
    U8,
}

/// One layer. Tensors are named as in `model.safetensors`, with PyTorch's layouts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Every element times a constant.
    Scale {
        /// The constant: the f32 nearest to the decimal.
        by: Decimal,
    },
    /// Columns made from a row of raw numbers: first the numeric ones, then one 0/1 column per (column, code).
    Features {
        /// `(x - mean) * scale`.
        numeric: Vec<Numeric>,
        /// `x == code`.
        categorical: Vec<Categorical>,
    },
    /// Convolution with weights `[out, in, height, width]`.
    Conv2d {
        /// Name of the weights.
        weight: String,
        /// Name of the biases, `[out]`.
        bias: Option<String>,
        /// Distance between windows, in both directions.
        #[serde(default = "one")]
        stride: u32,
        /// Zeros on each side.
        #[serde(default)]
        padding: u32,
    },
    /// Fully connected layer with weights `[out, in]`.
    Linear {
        /// Name of the weights.
        weight: String,
        /// Name of the biases, `[out]`.
        bias: Option<String>,
    },
    /// Largest element of each window, windows side by side; what does not fill a window is dropped.
    MaxPool2d {
        /// Height and width of a window.
        size: u32,
    },
    /// `[channels, height, width]` becomes `[channels * height * width]`.
    Flatten,
    /// `max(x, 0)`
    Relu,
    /// Logistic function.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `x * sigmoid(x)`
    Silu,
    /// GELU with the error function.
    Gelu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// Softmax over all elements.
    Softmax,
}

/// One numeric feature.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numeric {
    /// Which element of the input.
    pub column: u32,
    /// Subtracted first.
    pub mean: Decimal,
    /// Multiplied by then.
    pub scale: Decimal,
}

/// One categorical feature.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Categorical {
    /// Which element of the input.
    pub column: u32,
    /// One column is made for each.
    pub codes: Vec<u32>,
}

/// A part of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Output {
    /// Index of the largest element of the last layer, the lowest among equals.
    Argmax {
        /// How it is written.
        #[serde(rename = "as")]
        format: IndexFormat,
    },
    /// All elements of the last layer, f32 big-endian.
    F32be,
}

/// How an index is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexFormat {
    /// u32, big-endian.
    U32be,
}

fn one() -> u32 {
    1
}

/// The f32 nearest to a decimal number of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decimal(pub f32);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // JSON numbers arrive as f64, a few units of its last place off at most. That settles the f32 unless the decimal
        // sits on the fence between two, which no number that was ever an f32 does.
        let value = f64::deserialize(deserializer)?;
        let slack = value.abs() * (4.0 * f64::EPSILON);
        let (low, high) = ((value - slack) as f32, (value + slack) as f32);
        if low != high {
            return Err(D::Error::custom(format!("{value:e} is halfway between two f32; write the one that is meant")));
        }
        let nearest = value as f32; // with the sign of a zero
        if !nearest.is_finite() {
            return Err(D::Error::custom(format!("{value:e} is beyond the range of f32")));
        }
        Ok(Self(nearest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    fn with_layer(layer: &str) -> String {
        format!(
            r#"{{"architecture":"sequential","name":"x","input":{{"kind":"u8","shape":[4]}},
                "layers":[{layer}],"output":[{{"kind":"argmax","as":"u32be"}}]}}"#
        )
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        assert!(parse(&with_layer(r#"{"op":"relu"}"#)).is_ok());
        for (layer, named) in [
            (r#"{"op":"lstm"}"#, "unknown variant `lstm`"),
            (r#"{"op":"linear","weight":"w","bais":"b"}"#, "unknown field `bais`"),
            (r#"{"op":"linear"}"#, "missing field `weight`"),
            (r#"{"op":"scale","by":"2"}"#, "invalid type: string \"2\""),
            (r#"{"op":"scale","by":1e300}"#, "beyond the range of f32"),
            (r#"{"op":"scale","by":1.000000059604644775390625}"#, "halfway between two f32"),
            (r#"{"op":"max_pool2d","size":-1}"#, "invalid value"),
        ] {
            let error = parse(&with_layer(layer)).expect_err(layer);
            assert!(error.contains(named), "{layer}: {error}");
        }
        let error = parse(&with_layer("").replace("sequential", "llama")).expect_err("another architecture");
        assert!(error.contains("unknown variant `llama`"), "{error}");
    }

    #[test]
    fn a_decimal_is_the_nearest_f32() {
        for (text, bits) in [
            ("0.1", 0x3dcc_cccd),
            ("0.003921568859368563", 0x3b80_8081),
            ("-0.0", 0x8000_0000),
            ("3", 0x4040_0000),
            ("1e-45", 1),
        ] {
            let Decimal(value) = serde_json::from_str(text).expect("a number");
            assert_eq!(value.to_bits(), bits, "{text}");
        }
    }
}
