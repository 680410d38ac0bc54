//! The BERT family as a sentence encoder: token ids in, one embedding out.
//!
//! `config.json` with `model_type: "bert"`, tensors by their Hugging Face names, and the pooling that sentence-transformers
//! describes beside them: mean or first token, then usually unit length. Without such a description it is mean pooling and
//! unit length, which is what most published sentence encoders of this family want.

use super::check::Weights;
use super::fields::Fields;
use super::tensors::Tensors;
use super::{Files, ImportError, Options};
use candle_core::{D, Device, IndexOp, Result as CandleResult, Tensor};
use candle_transformers::models::bert as candle_bert;
use candor_sdk::program::{
    Attention, BinaryFunction, Dim, EncodeKind, Limits, Model, Operand, ProgramBuilder, UnaryFunction, Value,
};
use serde_json::json;

/// What `config.json` and the pooling files say.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Columns of a hidden state.
    pub hidden: u32,
    /// Columns of the feed-forward layer.
    pub intermediate: u32,
    /// Layers.
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Positions that have an embedding.
    pub positions: u32,
    /// Segments that have an embedding; requests are all of the first.
    pub segments: u32,
    /// Epsilon of the layer norms.
    pub epsilon: f32,
    /// The activation of the feed-forward layer.
    pub activation: UnaryFunction,
    /// How hidden states become one vector.
    pub pooling: Pooling,
    /// Whether that vector is scaled to unit length.
    pub normalise: bool,
}

/// How hidden states become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all positions.
    Mean,
    /// The first position.
    First,
}

/// Keys that say nothing about the computation.
const HARMLESS: &[&str] = &[
    "architectures",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "directionality",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "label2id",
    "output_past",
    "pad_token_id",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Shortest vector that is divided by its length, as sentence-transformers has it.
const SHORTEST: f32 = 1e-12;

impl BertConfig {
    pub(super) fn parse(mut fields: Fields, files: &Files) -> Result<Self, ImportError> {
        fields.only("architectures", &[json!(["BertModel"])])?;
        fields.only("position_embedding_type", &[json!("absolute")])?;
        fields.only("is_decoder", &[json!(false)])?;
        fields.only("add_cross_attention", &[json!(false)])?;
        fields.only("output_hidden_states", &[json!(false)])?;
        fields.only("output_attentions", &[json!(false)])?;
        let activation = match fields.text("hidden_act")?.as_deref() {
            None | Some("gelu") => UnaryFunction::GeluErf,
            Some("gelu_new" | "gelu_pytorch_tanh") => UnaryFunction::GeluTanh,
            Some("relu") => UnaryFunction::Relu,
            Some(other) => {
                return fields
                    .wrong("hidden_act", format!("{other:?} is not understood, only gelu, gelu_new and relu"));
            }
        };
        let (pooling, normalise) = pooling(files)?;
        let config = Self {
            vocabulary: fields.size("vocab_size")?,
            hidden: fields.size("hidden_size")?,
            intermediate: fields.size("intermediate_size")?,
            layers: fields.size("num_hidden_layers")?,
            heads: fields.size("num_attention_heads")?,
            positions: fields.size("max_position_embeddings")?,
            segments: fields.maybe_u32("type_vocab_size")?.unwrap_or(2),
            epsilon: fields.positive("layer_norm_eps")?,
            activation,
            pooling,
            normalise,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            let problem = format!("{} columns do not divide among {}", config.hidden, config.heads);
            return fields.wrong("num_attention_heads", problem);
        }
        fields.finish(HARMLESS)?;
        Ok(config)
    }
}

/// What `modules.json` and `1_Pooling/config.json` say.
fn pooling(files: &Files) -> Result<(Pooling, bool), ImportError> {
    let mut normalise = true;
    if let Some(text) = &files.modules {
        let file = "modules.json";
        let damaged = |problem: String| ImportError::Damaged { file: file.to_string(), problem };
        let modules: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        let kinds: Vec<&str> = modules
            .iter()
            .map(|module| module["type"].as_str().unwrap_or("nothing").rsplit('.').next().unwrap_or_default())
            .collect();
        normalise = match kinds[..] {
            ["Transformer", "Pooling"] => false,
            ["Transformer", "Pooling", "Normalize"] => true,
            _ => return Err(damaged(format!("modules {kinds:?}; understood is Transformer, Pooling, Normalize"))),
        };
    }
    let Some(text) = &files.pooling else { return Ok((Pooling::Mean, normalise)) };
    let mut fields = Fields::parse("1_Pooling/config.json", text)?;
    let mean = fields.bool("pooling_mode_mean_tokens", false)?;
    let first = fields.bool("pooling_mode_cls_token", false)?;
    for key in ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"] {
        fields.only(&format!("pooling_mode_{key}"), &[json!(false)])?;
    }
    let pooling = match (mean, first) {
        (true, false) => Pooling::Mean,
        (false, true) => Pooling::First,
        _ => return fields.wrong("pooling_mode_mean_tokens", "exactly one of mean and cls is understood"),
    };
    fields.finish(&["word_embedding_dimension", "include_prompt"])?;
    Ok((pooling, normalise))
}

/// Builds the model; also says which node is the embedding.
pub(super) fn build(config: &BertConfig, mut tensors: Tensors, options: &Options) -> Result<(Model, u32), ImportError> {
    let prefix = if tensors.names().any(|name| name.starts_with("bert.")) { "bert." } else { "" };
    let mut graph = Builder { graph: ProgramBuilder::new(), tensors: &mut tensors, prefix, config };
    let states = graph.hidden_states()?;
    let embedding = graph.pool(states);
    let Builder { mut graph, .. } = graph;
    graph.output(EncodeKind::F32Be, embedding);
    // A head for another task, and a buffer that old files carry.
    let ignorable = |name: &str| {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        name == "embeddings.position_ids" || name.starts_with("pooler.dense.") || name.starts_with("cls.")
    };
    tensors.finish(ignorable, "is not part of a bert model")?;
    let positions = config.positions.min(options.context);
    let limits = Limits {
        min_input_bytes: 4,
        max_input_bytes: positions.saturating_mul(4),
        max_output_bytes: config.hidden.saturating_mul(4),
        max_tokens: 0,
    };
    let Operand::Node(last) = embedding.operand else {
        return Err(ImportError::field("num_hidden_layers", "nothing is computed from the input"));
    };
    Ok((graph.finish(limits, Vec::new())?, last))
}

struct Builder<'a> {
    graph: ProgramBuilder,
    tensors: &'a mut Tensors,
    prefix: &'static str,
    config: &'a BertConfig,
}

impl Builder<'_> {
    fn hidden_states(&mut self) -> Result<Value, ImportError> {
        let BertConfig { vocabulary, hidden, intermediate, layers, heads, positions, segments, epsilon, .. } =
            *self.config;
        let words = self.matrix("embeddings.word_embeddings.weight", vocabulary, hidden)?;
        let places = self.matrix("embeddings.position_embeddings.weight", positions, hidden)?;
        let kinds = self.matrix("embeddings.token_type_embeddings.weight", segments, hidden)?;
        let norm = self.norm("embeddings.LayerNorm")?;
        let mut x = self.graph.within("embeddings", |graph| {
            let tokens = graph.tokens(vocabulary);
            let word = graph.gather(tokens, words);
            let kind = graph.slice_rows(kinds, Dim::ZERO, Dim::ONE);
            let place = graph.slice_rows(places, Dim::ZERO, Dim::S);
            let sum = graph.add(word, kind);
            let sum = graph.add(sum, place);
            graph.layer_norm(sum, norm.0, norm.1, epsilon)
        });
        let head_dim = hidden / heads;
        let scale = (1.0 / f64::from(head_dim).sqrt()) as f32;
        let shape = Attention { heads, kv_heads: heads, head_dim, scale, causal: false };
        for layer in 0..layers {
            let name = format!("encoder.layer.{layer}");
            let part = |part: &str| format!("{name}.{part}");
            let query = self.linear(&part("attention.self.query"), hidden, hidden)?;
            let key = self.linear(&part("attention.self.key"), hidden, hidden)?;
            let value = self.linear(&part("attention.self.value"), hidden, hidden)?;
            let mixed = self.linear(&part("attention.output.dense"), hidden, hidden)?;
            let mixed_norm = self.norm(&part("attention.output.LayerNorm"))?;
            let up = self.linear(&part("intermediate.dense"), intermediate, hidden)?;
            let down = self.linear(&part("output.dense"), hidden, intermediate)?;
            let norm = self.norm(&part("output.LayerNorm"))?;
            let activation = self.config.activation;
            x = self.graph.within(name, |graph| {
                let attended = graph.within("attention", |graph| {
                    let [q, k, v] = [query, key, value].map(|(w, b)| graph.linear(x, w, Some(b)));
                    let mix = graph.attention(q, k, v, shape);
                    graph.linear(mix, mixed.0, Some(mixed.1))
                });
                let sum = graph.add(attended, x);
                let x = graph.layer_norm(sum, mixed_norm.0, mixed_norm.1, epsilon);
                let fed = graph.within("feed_forward", |graph| {
                    let h = graph.linear(x, up.0, Some(up.1));
                    let h = graph.unary(activation, h);
                    graph.linear(h, down.0, Some(down.1))
                });
                let sum = graph.add(fed, x);
                graph.layer_norm(sum, norm.0, norm.1, epsilon)
            });
        }
        Ok(x)
    }

    fn pool(&mut self, x: Value) -> Value {
        let (pooling, normalise) = (self.config.pooling, self.config.normalise);
        self.graph.within("pooling", |graph| {
            let pooled = match pooling {
                Pooling::Mean => graph.column_mean(x),
                Pooling::First => graph.slice_rows(x, Dim::ZERO, Dim::ONE),
            };
            if !normalise {
                return pooled;
            }
            let squares = graph.row_sum_squares(pooled);
            let length = graph.unary(UnaryFunction::Sqrt, squares);
            let shortest = graph.constant(SHORTEST);
            let length = graph.binary(BinaryFunction::Maximum, length, shortest);
            graph.div(pooled, length)
        })
    }

    fn matrix(&mut self, name: &str, rows: u32, cols: u32) -> Result<Value, ImportError> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.tensors.take(&name, &[rows as usize, cols as usize], (rows, cols))?;
        Ok(self.graph.weight(tensor))
    }

    fn row(&mut self, name: &str, cols: u32) -> Result<Value, ImportError> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.tensors.take(&name, &[cols as usize], (1, cols))?;
        Ok(self.graph.weight(tensor))
    }

    fn linear(&mut self, name: &str, out: u32, cols: u32) -> Result<(Value, Value), ImportError> {
        Ok((self.matrix(&format!("{name}.weight"), out, cols)?, self.row(&format!("{name}.bias"), out)?))
    }

    /// Weight and bias of a layer norm; files converted from TensorFlow call them gamma and beta.
    fn norm(&mut self, name: &str) -> Result<(Value, Value), ImportError> {
        let old = self.tensors.contains(&format!("{}{name}.gamma", self.prefix));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let hidden = self.config.hidden;
        Ok((self.row(&format!("{name}.{weight}"), hidden)?, self.row(&format!("{name}.{bias}"), hidden)?))
    }
}

/// candle's model of the same weights.
pub(super) struct CandleEncoder {
    model: candle_bert::BertModel,
    pooling: Pooling,
    normalise: bool,
}

impl CandleEncoder {
    /// Loads a model.
    pub(super) fn load(config: &BertConfig, weights: &Weights) -> CandleResult<Self> {
        let size = |n: u32| n as usize;
        let candle_config = candle_bert::Config {
            vocab_size: size(config.vocabulary),
            hidden_size: size(config.hidden),
            num_hidden_layers: size(config.layers),
            num_attention_heads: size(config.heads),
            intermediate_size: size(config.intermediate),
            hidden_act: match config.activation {
                UnaryFunction::GeluTanh => candle_bert::HiddenAct::GeluApproximate,
                UnaryFunction::Relu => candle_bert::HiddenAct::Relu,
                _ => candle_bert::HiddenAct::Gelu,
            },
            max_position_embeddings: size(config.positions),
            type_vocab_size: size(config.segments),
            layer_norm_eps: f64::from(config.epsilon),
            ..candle_bert::Config::default()
        };
        let model = candle_bert::BertModel::load(weights.var_builder(), &candle_config)?;
        Ok(Self { model, pooling: config.pooling, normalise: config.normalise })
    }

    /// The embedding of a request.
    pub(super) fn embed(&self, tokens: &[u32]) -> CandleResult<Vec<f32>> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let states = self.model.forward(&tokens, &tokens.zeros_like()?, None)?.i(0)?;
        let pooled = match self.pooling {
            Pooling::Mean => states.mean(0)?,
            Pooling::First => states.i(0)?,
        };
        if !self.normalise {
            return pooled.to_vec1();
        }
        let length = pooled.sqr()?.sum(D::Minus1)?.sqrt()?.to_scalar::<f32>()?.max(SHORTEST);
        pooled.affine(f64::from(1.0 / length), 0.0)?.to_vec1()
    }
}
