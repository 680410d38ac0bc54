//! Language models of the Llama kind (Llama, SmolLM2, Qwen2, Qwen3) as one causal graph: token ids in, generated text out.
//!
//! The families differ in three places, all of them fields of [`DecoderConfig`]: biases on queries, keys and values
//! (Qwen2), norms on the heads of queries and keys (Qwen3), and how the size of a head is given.

use super::check::Weights;
use super::fields::Fields;
use super::tensors::Tensors;
use super::vocabulary::Vocabulary;
use super::{ImportError, Options};
use candle_core::{Device, Result as CandleResult, Tensor};
use candle_transformers::models::{llama, qwen2, qwen3};
use candor_sdk::arithmetic::reduction;
use candor_sdk::program::{
    Attention, EncodeKind, Limits, Model, Operand, ProgramBuilder, UnaryFunction, Value, WeightTensor,
};
use serde_json::json;

/// What `config.json`, or the metadata of a GGUF file, says.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Which family.
    pub family: DecoderFamily,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Columns of a hidden state.
    pub hidden: u32,
    /// Columns of the feed-forward layer.
    pub intermediate: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Columns of a head.
    pub head_dim: u32,
    /// Positions that the model was made for.
    pub positions: u32,
    /// Epsilon of the norms.
    pub epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the embedding table is also the last layer.
    pub tied: bool,
    /// Whether queries, keys and values have biases.
    pub biases: bool,
    /// Tokens that end generation.
    pub stop: Vec<u32>,
}

/// The families of language models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderFamily {
    /// Llama 2 and 3, SmolLM2, TinyLlama, Mistral and others.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3, the dense models.
    Qwen3,
}

impl DecoderFamily {
    /// The name that files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The family of that name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Llama, Self::Qwen2, Self::Qwen3].into_iter().find(|family| family.name() == name)
    }

    /// The family that `model_type` names. Mistral without its window is Llama by another name.
    pub(super) fn from_model_type(name: &str) -> Option<Self> {
        Self::from_name(if name == "mistral" { "llama" } else { name })
    }

    fn architectures(self) -> &'static [&'static str] {
        match self {
            Self::Llama => &["LlamaForCausalLM", "MistralForCausalLM"],
            Self::Qwen2 => &["Qwen2ForCausalLM"],
            Self::Qwen3 => &["Qwen3ForCausalLM"],
        }
    }
}

/// How the frequencies of the rotary embedding are changed for longer sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// As Llama 3.1 does: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Wavelengths above `original / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original / high` are high frequencies.
        high: f64,
        /// The context length that training began with.
        original: u32,
    },
}

/// Keys that say nothing about the computation.
const HARMLESS: &[&str] = &[
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "initializer_range",
    "is_llama_config",
    "max_window_layers",
    "pad_token_id",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// The longest sequence that a model is made for, whatever the options say: its bytes fit the limits.
const MAX_CONTEXT: u32 = 1 << 20;
/// The largest head that a rotary table is made for: no model comes near.
const MAX_HEAD: u32 = 1 << 14;

impl DecoderConfig {
    pub(super) fn parse(
        family: DecoderFamily,
        mut fields: Fields,
        generation: Option<&str>,
    ) -> Result<Self, ImportError> {
        let architectures: Vec<_> = family.architectures().iter().map(|name| json!([name])).collect();
        fields.only("architectures", &architectures)?;
        fields.only("hidden_act", &[json!("silu")])?;
        fields.only("pretraining_tp", &[json!(1)])?;
        fields.only("mlp_bias", &[json!(false)])?;
        fields.only("attention_bias", &[json!(family == DecoderFamily::Qwen2)])?;
        fields.only("rope_interleaved", &[json!(false)])?;
        fields.only("use_sliding_window", &[json!(false)])?;
        fields.only("use_mrope", &[json!(false)])?;
        if let Some(kinds) = fields.take("layer_types") {
            let full = |kind: &serde_json::Value| kind == "full_attention";
            if !kinds.as_array().is_some_and(|kinds| kinds.iter().all(full)) {
                return fields.wrong("layer_types", "only layers of full_attention are understood");
            }
        }
        // A window means something only where it is used, which was just refused; Llama has none at all.
        match family {
            DecoderFamily::Llama => fields.only("sliding_window", &[])?,
            _ => drop(fields.take("sliding_window")),
        }
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let kv_heads = fields.maybe_u32("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match fields.maybe_u32("head_dim")? {
            Some(head_dim) => head_dim,
            // What it is by default does not follow from the other sizes.
            None if family == DecoderFamily::Qwen3 => return fields.wrong("head_dim", "is missing"),
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return fields.wrong("num_attention_heads", format!("{hidden} columns do not divide among {heads}"));
            }
        };
        let mut rope_scaling = fields.object("rope_scaling")?.map(stretched).transpose()?;
        let mut rope_theta = fields.maybe_f64("rope_theta")?;
        // Newer files have both in one place.
        if let Some(mut parameters) = fields.object("rope_parameters")? {
            let theta = parameters.maybe_f64("rope_theta")?;
            let scaling = stretched(parameters)?;
            if rope_theta.is_some_and(|other| theta != Some(other))
                || rope_scaling.is_some_and(|other| scaling != other)
            {
                return fields.wrong("rope_parameters", "says otherwise than rope_theta and rope_scaling");
            }
            (rope_theta, rope_scaling) = (theta, Some(scaling));
        }
        let mut stop = fields.tokens("eos_token_id")?;
        if let Some(text) = generation {
            stop.extend(Fields::parse("generation_config.json", text)?.tokens("eos_token_id")?);
        }
        let config = Self {
            family,
            vocabulary: fields.size("vocab_size")?,
            hidden,
            intermediate: fields.size("intermediate_size")?,
            layers: fields.size("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            positions: fields.size("max_position_embeddings")?,
            epsilon: fields.positive("rms_norm_eps")?,
            rope_theta: rope_theta.unwrap_or(10_000.0),
            rope_scaling: rope_scaling.unwrap_or(RopeScaling::None),
            tied: fields.bool("tie_word_embeddings", false)?,
            biases: family == DecoderFamily::Qwen2,
            stop,
        };
        fields.finish(HARMLESS)?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what no graph can be made of. The names are those of `config.json`.
    pub(super) fn check(&self) -> Result<(), ImportError> {
        let Self { hidden, heads, kv_heads, head_dim, vocabulary, rope_theta, .. } = *self;
        let wrong = |field: &str, problem: String| Err(ImportError::field(field, problem));
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return wrong("num_key_value_heads", format!("{heads} query heads do not divide among {kv_heads}"));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD {
            return wrong("head_dim", format!("{head_dim} is not an even number from 2 to {MAX_HEAD}"));
        }
        if heads.checked_mul(head_dim).is_none() {
            return wrong("num_attention_heads", format!("{heads} heads of {head_dim} columns"));
        }
        if self.family != DecoderFamily::Qwen3 && heads * head_dim != hidden {
            return wrong(
                "head_dim",
                format!("{heads} heads of {head_dim} are not the {hidden} columns of hidden_size"),
            );
        }
        if !(rope_theta.is_finite() && rope_theta >= 1.0) {
            return wrong("rope_theta", format!("{rope_theta} is not a finite number from 1"));
        }
        match self.stop.iter().find(|id| **id >= vocabulary) {
            Some(id) => wrong("eos_token_id", format!("{id} in a vocabulary of {vocabulary}")),
            None => Ok(()),
        }
    }

    /// How far a pair of columns turns from one position to the next.
    pub(super) fn frequency(&self, pair: u32, scaling: RopeScaling) -> f64 {
        let frequency = 1.0 / libm::pow(self.rope_theta, f64::from(2 * pair) / f64::from(self.head_dim));
        let RopeScaling::Llama3 { factor, low, high, original } = scaling else { return frequency };
        // How often the pair turns within the original context.
        let turns = f64::from(original) * frequency / (2.0 * std::f64::consts::PI);
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - kept) * (frequency / factor) + kept * frequency
    }

    /// How much of a context one request may fill: prompt and answer.
    fn context(&self, options: &Options) -> Result<(u32, u32), ImportError> {
        let context = self.positions.min(options.context).min(MAX_CONTEXT);
        let tokens = options.max_tokens.min(context / 2);
        if tokens == 0 {
            return Err(ImportError::field(
                "max_position_embeddings",
                format!("a context of {context} and {} tokens of answer leave no room", options.max_tokens),
            ));
        }
        Ok((context, tokens))
    }
}

fn stretched(mut fields: Fields) -> Result<RopeScaling, ImportError> {
    let kind = match fields.text("rope_type")? {
        Some(kind) => Some(kind),
        None => fields.text("type")?,
    };
    match kind.as_deref() {
        Some("default") => Ok(RopeScaling::None),
        Some("llama3") => {
            let mut number = |key: &str| match fields.maybe_f64(key)? {
                Some(number) if number.is_finite() && number > 0.0 => Ok(number),
                _ => fields.wrong(key, "is missing, or not above 0"),
            };
            let (factor, low, high) = (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                return fields.wrong("high_freq_factor", format!("{high} is not above low_freq_factor {low}"));
            }
            let original = fields.size("original_max_position_embeddings")?;
            fields.finish(&["type", "rope_type"])?;
            Ok(RopeScaling::Llama3 { factor, low, high, original })
        }
        other => fields.wrong(
            "rope_scaling",
            format!("{:?} is not understood, only default and llama3", other.unwrap_or("nothing")),
        ),
    }
}

/// Cosines and sines of every position and pair of columns, in binary64 by a library that is the same everywhere, rounded
/// to f32 once.
fn rope_tables(config: &DecoderConfig, positions: u32) -> Result<(WeightTensor, WeightTensor), ImportError> {
    let half = config.head_dim / 2;
    let frequencies: Vec<f64> = (0..half).map(|pair| config.frequency(pair, config.rope_scaling)).collect();
    let table = |name: &str, f: fn(f64) -> f64| {
        let angles = (0..positions).flat_map(|i| frequencies.iter().map(move |frequency| f64::from(i) * frequency));
        let values: Vec<f32> = angles.map(|angle| f(angle) as f32).collect();
        WeightTensor::from_f32(name, (positions, half), &values)
    };
    Ok((table("rope.cos", libm::cos)?, table("rope.sin", libm::sin)?))
}

/// Builds the model; also says which node holds the logits.
pub(super) fn build(
    config: &DecoderConfig,
    mut tensors: Tensors,
    vocabulary: Option<Vocabulary>,
    options: &Options,
) -> Result<(Model, u32), ImportError> {
    let (context, max_tokens) = config.context(options)?;
    let mut builder = Builder { graph: ProgramBuilder::new(), tensors: &mut tensors, config };
    let logits = builder.graph_of(vocabulary.is_some(), context - 1)?;
    let Builder { graph, .. } = builder;
    // Only now is it certain that there are as many tokens as the config says: the table of embeddings has that many rows.
    let (vocabulary, longest) = match vocabulary {
        Some(vocabulary) => {
            let entries = vocabulary.entries(config.vocabulary)?;
            let longest = entries.iter().map(Vec::len).max().unwrap_or(0);
            (entries, u32::try_from(longest).unwrap_or(u32::MAX).max(1))
        }
        None => (Vec::new(), 4),
    };
    // A copy of the table that is tied anyway, and tables that old files carry.
    let ignorable =
        |name: &str| config.tied && name == "lm_head.weight" || name.ends_with(".self_attn.rotary_emb.inv_freq");
    tensors.finish(ignorable, &format!("is not part of a {} model", config.family.name()))?;
    let limits = Limits {
        min_input_bytes: 4,
        max_input_bytes: 4 * (context - max_tokens),
        max_output_bytes: longest.saturating_mul(max_tokens),
        max_tokens,
    };
    Ok((graph.finish(limits, vocabulary)?, logits))
}

struct Builder<'a> {
    graph: ProgramBuilder,
    tensors: &'a mut Tensors,
    config: &'a DecoderConfig,
}

impl Builder<'_> {
    fn graph_of(&mut self, text: bool, positions: u32) -> Result<u32, ImportError> {
        let DecoderConfig { vocabulary, hidden, layers, epsilon, .. } = *self.config;
        let table = self.matrix("model.embed_tokens.weight", vocabulary, hidden)?;
        let (tokens, mut x) = self.graph.within("embedding", |graph| {
            let tokens = graph.tokens(vocabulary);
            let context = graph.context(tokens);
            (tokens, graph.gather(context, table))
        });
        // Before the rotary tables are made, the first layer has shown that its heads are as large as the config says.
        let mut rope = None;
        for layer in 0..layers {
            x = self.layer(&format!("model.layers.{layer}"), x, positions, &mut rope)?;
        }
        let norm = self.row("model.norm.weight", hidden)?;
        let head = if self.config.tied { table } else { self.matrix("lm_head.weight", vocabulary, hidden)? };
        let logits = self.graph.within("head", |graph| {
            let x = graph.predicting_rows(x);
            let x = graph.rms_norm(x, norm, epsilon);
            graph.linear(x, head, None)
        });
        let stop = &self.config.stop;
        self.graph.within("generate", |graph| {
            let generated = graph.generate(tokens, logits, stop);
            if text { graph.output_text(generated) } else { graph.output(EncodeKind::U32Be, generated) }
        });
        match logits.operand {
            Operand::Node(node) => Ok(node),
            _ => Err(ImportError::field("num_hidden_layers", "nothing is computed from the input")),
        }
    }

    fn layer(
        &mut self,
        name: &str,
        x: Value,
        positions: u32,
        rope: &mut Option<(Value, Value)>,
    ) -> Result<Value, ImportError> {
        let DecoderConfig { hidden, intermediate, heads, kv_heads, head_dim, epsilon, biases, .. } = *self.config;
        let part = |part: &str| format!("{name}.{part}");
        let norm = self.row(&part("input_layernorm.weight"), hidden)?;
        let query = self.linear(&part("self_attn.q_proj"), heads * head_dim, hidden, biases)?;
        let key = self.linear(&part("self_attn.k_proj"), kv_heads * head_dim, hidden, biases)?;
        let value = self.linear(&part("self_attn.v_proj"), kv_heads * head_dim, hidden, biases)?;
        let norms = match self.config.family {
            DecoderFamily::Qwen3 => Some((
                self.row(&part("self_attn.q_norm.weight"), head_dim)?,
                self.row(&part("self_attn.k_norm.weight"), head_dim)?,
            )),
            _ => None,
        };
        let mixed = self.matrix(&part("self_attn.o_proj.weight"), hidden, heads * head_dim)?;
        let fed_norm = self.row(&part("post_attention_layernorm.weight"), hidden)?;
        let gate = self.matrix(&part("mlp.gate_proj.weight"), intermediate, hidden)?;
        let up = self.matrix(&part("mlp.up_proj.weight"), intermediate, hidden)?;
        let down = self.matrix(&part("mlp.down_proj.weight"), hidden, intermediate)?;
        let (cos, sin) = match *rope {
            Some(tables) => tables,
            None => {
                let (cos, sin) = rope_tables(self.config, positions)?;
                *rope.insert((self.graph.weight(cos), self.graph.weight(sin)))
            }
        };
        let scale = (1.0 / f64::from(head_dim).sqrt()) as f32;
        let shape = Attention { heads, kv_heads, head_dim, scale, causal: true };
        Ok(self.graph.within(name, |graph| {
            let attended = graph.within("attention", |graph| {
                let h = graph.rms_norm(x, norm, epsilon);
                let [mut q, mut k, v] = [query, key, value].map(|(w, bias)| graph.linear(h, w, bias));
                if let Some((q_norm, k_norm)) = norms {
                    q = heads_norm(graph, q, q_norm, (heads, head_dim), epsilon);
                    k = heads_norm(graph, k, k_norm, (kv_heads, head_dim), epsilon);
                }
                let [q, k] = [q, k].map(|x| graph.rope(x, cos, sin, head_dim, head_dim));
                let mix = graph.attention(q, k, v, shape);
                graph.linear(mix, mixed, None)
            });
            let x = graph.add(attended, x);
            let fed = graph.within("feed_forward", |graph| {
                let h = graph.rms_norm(x, fed_norm, epsilon);
                let gate = graph.linear(h, gate, None);
                let gate = graph.unary(UnaryFunction::Silu, gate);
                let up = graph.linear(h, up, None);
                let h = graph.mul(gate, up);
                graph.linear(h, down, None)
            });
            graph.add(fed, x)
        }))
    }

    fn matrix(&mut self, name: &str, rows: u32, cols: u32) -> Result<Value, ImportError> {
        let tensor = self.tensors.take(name, &[rows as usize, cols as usize], (rows, cols))?;
        Ok(self.graph.weight(tensor))
    }

    fn row(&mut self, name: &str, cols: u32) -> Result<Value, ImportError> {
        let tensor = self.tensors.take(name, &[cols as usize], (1, cols))?;
        Ok(self.graph.weight(tensor))
    }

    fn linear(&mut self, name: &str, out: u32, cols: u32, bias: bool) -> Result<(Value, Option<Value>), ImportError> {
        let weight = self.matrix(&format!("{name}.weight"), out, cols)?;
        let bias = if bias { Some(self.row(&format!("{name}.bias"), out)?) } else { None };
        Ok((weight, bias))
    }
}

/// RMS norm of each head by itself.
fn heads_norm(
    graph: &mut ProgramBuilder,
    x: Value,
    weight: Value,
    (heads, head_dim): (u32, u32),
    epsilon: f32,
) -> Value {
    let split = graph.split_rows(x, head_dim);
    let scaled = graph.rms_norm(split, weight, epsilon);
    graph.join_rows(scaled, x.rows, heads)
}

/// candle's model of the same weights, with a cache of keys and values.
pub(super) struct CandleDecoder {
    model: CandleModel,
    stop: Vec<u32>,
}

enum CandleModel {
    /// With a cache that has seen nothing, to start from.
    Llama(llama::Llama, Box<llama::Cache>, Box<llama::Cache>),
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
}

impl CandleModel {
    fn load(config: &DecoderConfig, weights: &Weights, positions: usize) -> CandleResult<Self> {
        let size = |n: u32| n as usize;
        let builder = weights.var_builder();
        let (vocab_size, hidden_size, num_hidden_layers) =
            (size(config.vocabulary), size(config.hidden), size(config.layers));
        let (num_attention_heads, num_key_value_heads) = (size(config.heads), size(config.kv_heads));
        let (intermediate_size, rms_norm_eps) = (size(config.intermediate), f64::from(config.epsilon));
        let (rope_theta, tie_word_embeddings) = (config.rope_theta, config.tied);
        match config.family {
            DecoderFamily::Llama => {
                let rope_scaling = match config.rope_scaling {
                    RopeScaling::None => None,
                    RopeScaling::Llama3 { factor, low, high, original } => Some(llama::Llama3RopeConfig {
                        factor: factor as f32,
                        low_freq_factor: low as f32,
                        high_freq_factor: high as f32,
                        original_max_position_embeddings: size(original),
                        rope_type: llama::Llama3RopeType::Llama3,
                    }),
                };
                let config = llama::Config {
                    hidden_size,
                    intermediate_size,
                    vocab_size,
                    num_hidden_layers,
                    num_attention_heads,
                    num_key_value_heads,
                    use_flash_attn: false,
                    rms_norm_eps,
                    rope_theta: rope_theta as f32,
                    bos_token_id: None,
                    eos_token_id: None,
                    rope_scaling,
                    max_position_embeddings: positions,
                    tie_word_embeddings,
                };
                let cache = llama::Cache::new(true, candle_core::DType::F32, &config, &Device::Cpu)?;
                let empty = Box::new(cache.clone());
                Ok(Self::Llama(llama::Llama::load(builder, &config)?, Box::new(cache), empty))
            }
            DecoderFamily::Qwen2 => {
                let config = qwen2::Config {
                    vocab_size,
                    hidden_size,
                    intermediate_size,
                    num_hidden_layers,
                    num_attention_heads,
                    num_key_value_heads,
                    max_position_embeddings: positions,
                    sliding_window: positions,
                    max_window_layers: num_hidden_layers,
                    tie_word_embeddings,
                    rope_theta,
                    rms_norm_eps,
                    use_sliding_window: false,
                    hidden_act: candle_nn::Activation::Silu,
                };
                Ok(Self::Qwen2(qwen2::ModelForCausalLM::new(&config, builder)?))
            }
            DecoderFamily::Qwen3 => {
                let config = qwen3::Config {
                    vocab_size,
                    hidden_size,
                    intermediate_size,
                    num_hidden_layers,
                    num_attention_heads,
                    head_dim: size(config.head_dim),
                    attention_bias: false,
                    num_key_value_heads,
                    max_position_embeddings: positions,
                    sliding_window: None,
                    max_window_layers: num_hidden_layers,
                    tie_word_embeddings,
                    rope_theta,
                    rms_norm_eps,
                    use_sliding_window: false,
                    hidden_act: candle_nn::Activation::Silu,
                };
                Ok(Self::Qwen3(qwen3::ModelForCausalLM::new(&config, builder)?))
            }
        }
    }

    /// Forgets all tokens.
    fn forget(&mut self) {
        match self {
            Self::Llama(_, cache, empty) => cache.clone_from(empty),
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
        }
    }

    /// The logits after `tokens`, which follow `offset` tokens that it has seen.
    fn logits(&mut self, tokens: &[u32], offset: usize) -> CandleResult<Vec<f32>> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Llama(model, cache, _) => model.forward(&tokens, offset, cache)?,
            Self::Qwen2(model) => model.forward(&tokens, offset)?,
            Self::Qwen3(model) => model.forward(&tokens, offset)?,
        };
        logits.flatten_all()?.to_vec1()
    }
}

impl CandleDecoder {
    /// Loads a model for sequences of at most `positions` tokens.
    pub(super) fn load(config: &DecoderConfig, weights: &Weights, positions: usize) -> CandleResult<Self> {
        Ok(Self { model: CandleModel::load(config, weights, positions)?, stop: config.stop.clone() })
    }

    /// What candle generates greedily after a prompt, and the logits of each step.
    pub(super) fn generate(&mut self, prompt: &[u32], tokens: u32) -> CandleResult<(Vec<u32>, Vec<f32>)> {
        self.model.forget();
        let (mut generated, mut all): (Vec<u32>, Vec<f32>) = (Vec::new(), Vec::new());
        let mut logits = self.model.logits(prompt, 0)?;
        while let Some(token) = reduction::argmax(&logits).and_then(|token| u32::try_from(token).ok()) {
            all.append(&mut logits);
            generated.push(token);
            if generated.len() >= tokens as usize || self.stop.contains(&token) {
                break;
            }
            logits = self.model.logits(&[token], prompt.len() + generated.len() - 1)?;
        }
        Ok((generated, all))
    }
}
