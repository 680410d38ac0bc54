//! The models of the benchmark: trained ones from a folder, or made-up weights in their shapes; and candle's own models of
//! the same files.

use crate::paired::noise;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, llama, qwen2};
use candor_relayer::engine::import::Files;
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Positions that candle makes tables for.
const POSITIONS: usize = 1024;

/// Says what the whole models are.
pub(crate) fn announce() {
    match folder() {
        Some(folder) => println!("Models from {}.\n", folder.display()),
        None => println!("NO TRAINED MODELS: CANDOR_MODELS is not set; weights are made up in the same shapes.\n"),
    }
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("CANDOR_MODELS").map(PathBuf::from)
}

/// The files of a model, and its description.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) files: Files,
    config: Value,
}

impl Source {
    /// A sentence encoder.
    pub(crate) fn minilm() -> Self {
        Self::trained("MiniLM", &["minilm"]).unwrap_or_else(|| Self::made("MiniLM", made_bert()))
    }

    /// A language model of 135 million parameters.
    pub(crate) fn smollm2() -> Self {
        Self::trained("SmolLM2-135M", &["smollm2/hf", "smollm2"])
            .unwrap_or_else(|| Self::made("SmolLM2-135M", made_llama()))
    }

    /// A language model of half a thousand million parameters, if it is there.
    pub(crate) fn qwen() -> Option<Self> {
        Self::trained("Qwen2.5-0.5B", &["qwen05/hf", "qwen05"])
    }

    fn trained(name: &'static str, places: &[&str]) -> Option<Self> {
        let root = folder()?;
        let path = places.iter().map(|place| root.join(place)).find(|path| path.join("config.json").exists());
        let Some(path) = path else {
            eprintln!("{name} IS NOT IN {}", root.display());
            return None;
        };
        Some(Self::read(name, &path))
    }

    fn read(name: &'static str, path: &Path) -> Self {
        let mut files = Files::read(path, |_, _| ()).expect("a model's files");
        let mut config: Value = serde_json::from_str(&files.config).expect("config.json");
        // Nothing ends an answer before it has the tokens that were asked for.
        if let Some(config) = config.as_object_mut() {
            config.remove("eos_token_id");
        }
        (files.config, files.generation) = (config.to_string(), None);
        Self { name, files, config }
    }

    fn made(name: &'static str, (config, weights): (Value, Vec<u8>)) -> Self {
        let weights = vec![("model.safetensors".to_string(), Arc::new(weights))];
        let files = Files { name: name.to_string(), config: config.to_string(), weights, ..Files::default() };
        Self { name, files, config }
    }

    /// Bytes of the weights as stored.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.weights.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// The same model with all weights in f32.
    pub(crate) fn widened(&self) -> Files {
        self.in_f32(|x| x)
    }

    /// The same with numbers that no narrower type holds.
    pub(crate) fn nudged(&self) -> Files {
        self.in_f32(|x| f32::from_bits(x.to_bits() | 1))
    }

    fn in_f32(&self, number: fn(f32) -> f32) -> Files {
        let mut files = self.files.clone();
        for (_, bytes) in &mut files.weights {
            let tensors = safetensors::SafeTensors::deserialize(bytes).expect("safetensors");
            let wide = |view: TensorView<'_>| match view.dtype() {
                Dtype::F16 => {
                    let halves = view.data().as_chunks::<2>().0.iter();
                    halves.flat_map(|pair| number(f16::from_le_bytes(*pair).to_f32()).to_le_bytes()).collect()
                }
                _ => view.data().to_vec(),
            };
            let all = tensors.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), wide(view)));
            *bytes = Arc::new(serialised(all.collect()));
        }
        files
    }

    /// A width of the config.
    pub(crate) fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{key} in config.json")) as usize
    }

    fn var_builder(&self, dtype: DType) -> Result<VarBuilder<'static>> {
        let (_, bytes) = &self.files.weights[0];
        VarBuilder::from_buffered_safetensors(bytes.to_vec(), dtype, &Device::Cpu)
    }

    /// candle's encoder.
    pub(crate) fn candle_encoder(&self) -> Result<CandleEncoder> {
        let config = bert::Config {
            vocab_size: self.size("vocab_size"),
            hidden_size: self.size("hidden_size"),
            num_hidden_layers: self.size("num_hidden_layers"),
            num_attention_heads: self.size("num_attention_heads"),
            intermediate_size: self.size("intermediate_size"),
            ..bert::Config::default()
        };
        Ok(CandleEncoder(bert::BertModel::load(self.var_builder(DType::F32)?, &config)?))
    }

    /// candle's language model.
    pub(crate) fn candle_decoder(&self, dtype: DType) -> Result<CandleDecoder> {
        let config = llama::Config {
            hidden_size: self.size("hidden_size"),
            intermediate_size: self.size("intermediate_size"),
            vocab_size: self.size("vocab_size"),
            num_hidden_layers: self.size("num_hidden_layers"),
            num_attention_heads: self.size("num_attention_heads"),
            num_key_value_heads: self.size("num_key_value_heads"),
            use_flash_attn: false,
            rms_norm_eps: self.config["rms_norm_eps"].as_f64().unwrap_or(1e-5),
            rope_theta: self.config["rope_theta"].as_f64().unwrap_or(10_000.0) as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: POSITIONS,
            tie_word_embeddings: true,
        };
        if self.config["model_type"] == "llama" {
            let cache = llama::Cache::new(true, dtype, &config, &Device::Cpu)?;
            return Ok(CandleDecoder::Llama(llama::Llama::load(self.var_builder(dtype)?, &config)?, cache));
        }
        let config = qwen2::Config {
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            max_position_embeddings: POSITIONS,
            sliding_window: POSITIONS,
            max_window_layers: config.num_hidden_layers,
            tie_word_embeddings: true,
            rope_theta: f64::from(config.rope_theta),
            rms_norm_eps: config.rms_norm_eps,
            use_sliding_window: false,
            hidden_act: candle_nn::Activation::Silu,
        };
        Ok(CandleDecoder::Qwen2(qwen2::ModelForCausalLM::new(&config, self.var_builder(dtype)?)?))
    }
}

/// candle-transformers' BERT.
pub(crate) struct CandleEncoder(bert::BertModel);

impl CandleEncoder {
    /// Unit vectors for a batch of sequences of one length.
    pub(crate) fn embed(&self, batch: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let ids = Tensor::from_vec(batch.concat(), (batch.len(), batch[0].len()), &Device::Cpu)?;
        let means = self.0.forward(&ids, &ids.zeros_like()?, None)?.mean(1)?;
        means.broadcast_div(&means.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?.to_vec2()
    }
}

/// candle-transformers' Llama with a cache that has seen nothing, or its Qwen2.
pub(crate) enum CandleDecoder {
    Llama(llama::Llama, llama::Cache),
    Qwen2(qwen2::ModelForCausalLM),
}

impl CandleDecoder {
    /// Greedy tokens.
    pub(crate) fn generate(&mut self, prompt: &[u32], tokens: usize) -> Result<Vec<u32>> {
        let mut cache = match self {
            Self::Llama(_, empty) => Some(empty.clone()),
            Self::Qwen2(model) => {
                model.clear_kv_cache();
                None
            }
        };
        let (mut next, mut at, mut generated) = (prompt.to_vec(), 0, Vec::new());
        for _ in 0..tokens {
            let ids = Tensor::from_slice(&next, (1, next.len()), &Device::Cpu)?;
            let logits = match (&mut *self, &mut cache) {
                (Self::Llama(model, _), Some(cache)) => model.forward(&ids, at, cache)?,
                (Self::Qwen2(model), _) => model.forward(&ids, at)?,
                (Self::Llama(..), None) => candle_core::bail!("a Llama without a cache"),
            };
            let token = logits.flatten_all()?.argmax(0)?.to_scalar::<u32>()?;
            at += next.len();
            generated.push(token);
            next = vec![token];
        }
        Ok(generated)
    }
}

fn serialised(tensors: Vec<(String, Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let elements: usize = shape.iter().product();
        let dtype = if bytes.len() == 4 * elements { Dtype::F32 } else { Dtype::F16 };
        (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).expect("a tensor"))
    });
    safetensors::serialize(views, None).expect("safetensors")
}

/// Random f16 weights by name: norms are 1, biases 0.
#[derive(Default)]
struct Made(Vec<(String, Vec<usize>, Vec<u8>)>);

impl Made {
    fn add(&mut self, name: &str, shape: &[usize]) {
        let len = shape.iter().product();
        let constant = match name {
            name if name.ends_with("bias") => Some(0.0),
            _ if shape.len() == 1 => Some(1.0),
            _ => None,
        };
        let values = constant.map_or_else(|| noise(len, self.0.len() as u64), |value| vec![value; len]);
        let scale = if constant.is_some() { 1.0 } else { 0.05 };
        let bytes = values.into_iter().flat_map(|x| f16::from_f32(scale * x).to_le_bytes()).collect();
        self.0.push((name.to_string(), shape.to_vec(), bytes));
    }

    fn layer(&mut self, name: &str, out: usize, cols: usize) {
        self.add(&format!("{name}.weight"), &[out, cols]);
        self.add(&format!("{name}.bias"), &[out]);
    }
}

/// all-MiniLM-L6-v2.
fn made_bert() -> (Value, Vec<u8>) {
    let (vocabulary, hidden, intermediate, layers) = (30522, 384, 1536, 6);
    let mut made = Made::default();
    for (table, rows) in [("word", vocabulary), ("position", 512), ("token_type", 2)] {
        made.add(&format!("embeddings.{table}_embeddings.weight"), &[rows, hidden]);
    }
    let norm = |made: &mut Made, name: &str| {
        made.add(&format!("{name}.LayerNorm.weight"), &[hidden]);
        made.add(&format!("{name}.LayerNorm.bias"), &[hidden]);
    };
    norm(&mut made, "embeddings");
    for layer in 0..layers {
        let part = |part: &str| format!("encoder.layer.{layer}.{part}");
        for name in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            made.layer(&part(name), hidden, hidden);
        }
        norm(&mut made, &part("attention.output"));
        made.layer(&part("intermediate.dense"), intermediate, hidden);
        made.layer(&part("output.dense"), hidden, intermediate);
        norm(&mut made, &part("output"));
    }
    let config = json!({
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": 12,
        "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    });
    (config, serialised(made.0))
}

/// SmolLM2-135M.
fn made_llama() -> (Value, Vec<u8>) {
    let (vocabulary, hidden, intermediate, layers, kv) = (49152, 576, 1536, 30, 192);
    let mut made = Made::default();
    made.add("model.embed_tokens.weight", &[vocabulary, hidden]);
    for layer in 0..layers {
        let part = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for (name, out, cols) in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", intermediate, hidden),
            ("mlp.up_proj", intermediate, hidden),
            ("mlp.down_proj", hidden, intermediate),
        ] {
            made.add(&part(name), &[out, cols]);
        }
        made.add(&part("input_layernorm"), &[hidden]);
        made.add(&part("post_attention_layernorm"), &[hidden]);
    }
    made.add("model.norm.weight", &[hidden]);
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": 9,
        "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0,
        "hidden_act": "silu", "tie_word_embeddings": true,
    });
    (config, serialised(made.0))
}
