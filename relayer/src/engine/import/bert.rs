//! The BERT family as a sentence encoder: token ids in, one embedding out.
//!
//! `config.json` with `model_type: "bert"` or that of a close relative ([`EncoderFamily`]), tensors by their Hugging Face names, and
//! the pooling that sentence-transformers describes beside them: mean or first token, then usually unit length. Without such a
//! description it is mean pooling and unit length, which is what most published sentence encoders of this family want.

use super::check::Weights;
use super::fields::Fields;
use super::tensors::Tensors;
use super::{Files, ImportError, Options};
use candle_core::{D, Device, IndexOp, Result as CandleResult, Tensor};
use candle_transformers::models::bert as candle_bert;
use candor_sdk::program::{
    Attention, BinaryFunction, Dim, EncodeKind, Limits, Model, Operand, ProgramBuilder, UnaryFunction, Value,
    WeightTensor, WeightType,
};
use serde_json::json;
use std::sync::Arc;

/// Encoders that compute alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFamily {
    /// BERT, MiniLM, bge, e5 and others.
    Bert,
    /// RoBERTa and XLM-RoBERTa: the rows of the table of positions begin behind that of the padding token.
    Roberta,
    /// DistilBERT: no segments, and other names.
    DistilBert,
}

impl EncoderFamily {
    /// The family that `model_type` names.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "bert" => Some(Self::Bert),
            "roberta" | "xlm-roberta" | "camembert" => Some(Self::Roberta),
            "distilbert" => Some(Self::DistilBert),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::DistilBert => "distilbert",
        }
    }

    /// The encoder alone, or with the head that it was trained with.
    fn architectures(self) -> &'static [&'static str] {
        match self {
            Self::Bert => &["BertModel", "BertForMaskedLM", "BertForPreTraining"],
            Self::Roberta => &[
                "RobertaModel",
                "RobertaForMaskedLM",
                "XLMRobertaModel",
                "XLMRobertaForMaskedLM",
                "CamembertModel",
                "CamembertForMaskedLM",
            ],
            Self::DistilBert => &["DistilBertModel", "DistilBertForMaskedLM"],
        }
    }

    /// The name of a tensor of a layer, given that of BERT.
    fn tensor(self, layer: u32, part: &str) -> String {
        let theirs = |(ours, theirs): &(&str, &'static str)| part.strip_prefix(ours).map(|rest| (*theirs, rest));
        match (self, DISTILLED.iter().find_map(theirs)) {
            (Self::DistilBert, Some((theirs, rest))) => format!("transformer.layer.{layer}.{theirs}{rest}"),
            _ => format!("encoder.layer.{layer}.{part}"),
        }
    }
}

/// Parts of names in BERT and in DistilBERT.
const DISTILLED: [(&str, &str); 8] = [
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
];

const POSITIONS: &str = "embeddings.position_embeddings.weight";
const SEGMENTS: &str = "embeddings.token_type_embeddings.weight";

/// What `config.json` and the pooling files say.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Which of the family.
    pub family: EncoderFamily,
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
    /// Rows of the table of positions.
    pub positions: u32,
    /// The row of the first position.
    pub first: u32,
    /// Segments that have an embedding; requests are all of the first. Some encoders have none.
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
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "directionality",
    "dropout",
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
    "qa_dropout",
    "seq_classif_dropout",
    "sinusoidal_pos_embds", // how the table began
    "tie_weights_",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Shortest vector that is divided by its length, as sentence-transformers has it.
const SHORTEST: f32 = 1e-12;

impl BertConfig {
    pub(super) fn parse(family: EncoderFamily, mut fields: Fields, files: &Files) -> Result<Self, ImportError> {
        let architectures: Vec<_> = family.architectures().iter().map(|name| json!([name])).collect();
        fields.only("architectures", &architectures)?;
        fields.only("position_embedding_type", &[json!("absolute")])?;
        fields.only("is_decoder", &[json!(false)])?;
        fields.only("add_cross_attention", &[json!(false)])?;
        fields.only("output_hidden_states", &[json!(false)])?;
        fields.only("output_attentions", &[json!(false)])?;
        let distilled = family == EncoderFamily::DistilBert;
        let named = |ours, theirs| if distilled { theirs } else { ours };
        let activation_key = named("hidden_act", "activation");
        let activation = match fields.text(activation_key)?.as_deref() {
            None | Some("gelu") => UnaryFunction::GeluErf,
            Some("gelu_new" | "gelu_pytorch_tanh") => UnaryFunction::GeluTanh,
            Some("relu") => UnaryFunction::Relu,
            Some(other) => {
                return fields
                    .wrong(activation_key, format!("{other:?} is not understood, only gelu, gelu_new and relu"));
            }
        };
        let (pooling, normalise) = pooling(files)?;
        let padding = fields.maybe_u32("pad_token_id")?;
        let config = Self {
            family,
            vocabulary: fields.size("vocab_size")?,
            hidden: fields.size(named("hidden_size", "dim"))?,
            intermediate: fields.size(named("intermediate_size", "hidden_dim"))?,
            layers: fields.size(named("num_hidden_layers", "n_layers"))?,
            heads: fields.size(named("num_attention_heads", "n_heads"))?,
            positions: fields.size("max_position_embeddings")?,
            first: match family {
                EncoderFamily::Roberta => padding.unwrap_or(1).saturating_add(1),
                _ => 0,
            },
            segments: if distilled { 0 } else { fields.maybe_u32("type_vocab_size")?.unwrap_or(2) },
            epsilon: if distilled { 1e-12 } else { fields.positive("layer_norm_eps")? },
            activation,
            pooling,
            normalise,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            let problem = format!("{} columns do not divide among {}", config.hidden, config.heads);
            return fields.wrong(named("num_attention_heads", "n_heads"), problem);
        }
        if config.first >= config.positions {
            return fields.wrong("max_position_embeddings", format!("none are left behind row {}", config.first - 1));
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
    let prefix = format!("{}.", config.family.name());
    let prefix = if tensors.names().any(|name| name.starts_with(&prefix)) { prefix.as_str() } else { "" };
    let mut graph = Builder { graph: ProgramBuilder::new(), tensors: &mut tensors, prefix, config };
    let states = graph.hidden_states()?;
    let embedding = graph.pool(states);
    let Builder { mut graph, .. } = graph;
    graph.output(EncodeKind::F32Be, embedding);
    // Heads for other tasks, and a buffer that old files carry.
    let ignorable = |name: &str| {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        let heads = match config.family {
            EncoderFamily::Bert => ["pooler.dense.", "cls."].as_slice(),
            EncoderFamily::Roberta => &["pooler.dense.", "lm_head."],
            EncoderFamily::DistilBert => &["vocab_transform.", "vocab_layer_norm.", "vocab_projector."],
        };
        name == "embeddings.position_ids" || heads.iter().any(|head| name.starts_with(head))
    };
    tensors.finish(ignorable, &format!("is not part of a {} model", config.family.name()))?;
    let positions = (config.positions - config.first).min(options.context);
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
    prefix: &'a str,
    config: &'a BertConfig,
}

impl Builder<'_> {
    fn hidden_states(&mut self) -> Result<Value, ImportError> {
        let BertConfig { family, vocabulary, hidden, intermediate, layers, heads, positions, .. } = *self.config;
        let BertConfig { first, segments, epsilon, .. } = *self.config;
        let words = self.matrix("embeddings.word_embeddings.weight", vocabulary, hidden)?;
        let places = self.matrix(POSITIONS, positions, hidden)?;
        let kinds = if segments == 0 { None } else { Some(self.matrix(SEGMENTS, segments, hidden)?) };
        let norm = self.norm("embeddings.LayerNorm")?;
        let mut x = self.graph.within("embeddings", |graph| {
            let tokens = graph.tokens(vocabulary);
            let word = graph.gather(tokens, words);
            let kind = kinds.map(|kinds| graph.slice_rows(kinds, Dim::ZERO, Dim::ONE));
            let place = graph.slice_rows(places, first, Dim::S);
            let sum = kind.map_or(word, |kind| graph.add(word, kind));
            let sum = graph.add(sum, place);
            graph.layer_norm(sum, norm.0, norm.1, epsilon)
        });
        let head_dim = hidden / heads;
        let scale = (1.0 / f64::from(head_dim).sqrt()) as f32;
        let shape = Attention { heads, kv_heads: heads, head_dim, scale, causal: false };
        for layer in 0..layers {
            let part = |part: &str| family.tensor(layer, part);
            let query = self.linear(&part("attention.self.query"), hidden, hidden)?;
            let key = self.linear(&part("attention.self.key"), hidden, hidden)?;
            let value = self.linear(&part("attention.self.value"), hidden, hidden)?;
            let mixed = self.linear(&part("attention.output.dense"), hidden, hidden)?;
            let mixed_norm = self.norm(&part("attention.output.LayerNorm"))?;
            let up = self.linear(&part("intermediate.dense"), intermediate, hidden)?;
            let down = self.linear(&part("output.dense"), hidden, intermediate)?;
            let norm = self.norm(&part("output.LayerNorm"))?;
            let activation = self.config.activation;
            x = self.graph.within(format!("encoder.layer.{layer}"), |graph| {
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

/// The tensors of a relative, as BERT has them: by its names, positions from the first row on, one segment that adds nothing.
fn as_bert(config: &BertConfig, weights: &Weights) -> Vec<WeightTensor> {
    let whole = |name: &str, tensor: &WeightTensor, first: u32| {
        let rows = tensor.rows() as u32 - first; // a tensor's dimensions are 32-bit
        let bytes = tensor.bytes()[first as usize * tensor.dtype().row_bytes(tensor.cols())..].to_vec();
        WeightTensor::new(name, (rows, tensor.cols() as u32), tensor.dtype(), Arc::new(bytes)).ok()
    };
    let mut tensors = Vec::new();
    for tensor in weights.tensors() {
        let name = tensor.name().strip_prefix(&format!("{}.", config.family.name())).unwrap_or(tensor.name());
        let renamed = name.strip_prefix("transformer.layer.").and_then(|rest| {
            let (layer, part) = rest.split_once('.')?;
            let (ours, rest) =
                DISTILLED.iter().find_map(|(ours, theirs)| Some((ours, part.strip_prefix(&format!("{theirs}."))?)))?;
            Some(format!("encoder.layer.{layer}.{ours}.{rest}"))
        });
        let first = if name == POSITIONS { config.first } else { 0 };
        tensors.extend(whole(renamed.as_deref().unwrap_or(name), tensor, first));
    }
    if config.segments == 0 {
        let nothing = Arc::new(vec![0u8; 4 * config.hidden as usize]);
        tensors.extend(WeightTensor::new(SEGMENTS, (1, config.hidden), WeightType::F32, nothing).ok());
    }
    tensors
}

/// candle's model of the same weights.
pub(super) struct CandleEncoder {
    model: candle_bert::BertModel,
    pooling: Pooling,
    normalise: bool,
}

impl CandleEncoder {
    /// Loads a model. Relatives of BERT are run as the BERT that they are with other tables or names: candle's own version of
    /// DistilBERT has another GELU, and its RoBERTa counts positions without padding tokens, which here are tokens like any other.
    pub(super) fn load(config: &BertConfig, weights: &Weights) -> CandleResult<Self> {
        let relative = Weights::from(as_bert(config, weights));
        let weights = if config.family == EncoderFamily::Bert { weights } else { &relative };
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
            max_position_embeddings: size(config.positions - config.first),
            type_vocab_size: size(config.segments.max(1)),
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
