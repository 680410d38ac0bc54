//! GGUF files for tests, with every part of the header open to damage.

use super::families::Made;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use serde_json::Value;

#[derive(Clone)]
struct Entry {
    name: String,
    /// Fastest first, as in the file.
    dims: Vec<u64>,
    dtype: u32,
    /// What the header says instead of the truth.
    offset: Option<u64>,
    rows: usize,
    values: Vec<f32>,
}

/// A file in the making.
#[derive(Clone)]
pub(crate) struct Gguf {
    values: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<Entry>,
}

const NAMES: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

fn name_in_file(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".to_string(),
        "model.norm.weight" => "output_norm.weight".to_string(),
        "lm_head.weight" => "output.weight".to_string(),
        name => {
            let (theirs, ours) =
                NAMES.iter().find(|(theirs, _)| name.contains(&format!(".{theirs}."))).expect("a known tensor");
            name.replace("model.layers", "blk").replace(theirs, ours)
        }
    }
}

/// Rows of the two halves of each head, taken in turns.
fn interleave(values: &[f32], cols: usize, heads: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(cols).collect();
    let half = rows.len() / heads / 2;
    let order =
        (0..heads).flat_map(|head| (0..half).flat_map(move |i| [head * 2 * half + i, head * 2 * half + half + i]));
    order.flat_map(|row| rows[row].to_vec()).collect()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}

impl Gguf {
    /// The file of a made-up language model, all f32.
    pub(crate) fn of(made: &Made) -> Self {
        let config = &made.config;
        let number = |key: &str| config[key].as_u64().expect("a number") as u32;
        let family = config["model_type"].as_str().expect("a family");
        let heads = |name: &str| match name {
            name if family != "llama" || !name.contains("weight") => None,
            name if name.contains("q_proj") => Some(number("num_attention_heads") as usize),
            name if name.contains("k_proj") => Some(number("num_key_value_heads") as usize),
            _ => None,
        };
        let tensors = made.tensors.iter().map(|(name, _, dims, values)| {
            let cols = *dims.last().expect("a dimension");
            let values = heads(name).map_or_else(|| values.clone(), |heads| interleave(values, cols, heads));
            let reversed = dims.iter().rev().map(|dim| *dim as u64).collect();
            let rows = values.len() / cols;
            Entry { name: name_in_file(name), dims: reversed, dtype: 0, offset: None, rows, values }
        });
        let mut gguf = Self { values: Vec::new(), tensors: tensors.collect() };
        gguf = gguf.text("general.architecture", family).text("general.name", "made up");
        for (key, ours) in [
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("num_key_value_heads", "attention.head_count_kv"),
            ("max_position_embeddings", "context_length"),
        ] {
            gguf = gguf.u32(&format!("{family}.{ours}"), number(key));
        }
        if let Some(head_dim) = config["head_dim"].as_u64() {
            gguf = gguf.u32(&format!("{family}.attention.key_length"), head_dim as u32);
        }
        for (key, ours) in [("rms_norm_eps", "attention.layer_norm_rms_epsilon"), ("rope_theta", "rope.freq_base")] {
            let number = config[key].as_f64().expect("a number") as f32;
            gguf = gguf.set(&format!("{family}.{ours}"), 6, number.to_le_bytes().to_vec());
        }
        gguf.u32("tokenizer.ggml.eos_token_id", number("eos_token_id")).vocabulary(made)
    }

    fn vocabulary(self, made: &Made) -> Self {
        let Some(tokenizer) = &made.tokenizer else { return self };
        let tokenizer: Value = serde_json::from_str(tokenizer).expect("a tokenizer");
        let count = made.config["vocab_size"].as_u64().expect("a size") as usize;
        let mut tokens = vec![(String::new(), 3i32); count];
        for (token, id) in tokenizer["model"]["vocab"].as_object().expect("tokens") {
            tokens[id.as_u64().expect("an id") as usize] = (token.clone(), 1);
        }
        let array = |kind: u32, elements: Vec<u8>| {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend((count as u64).to_le_bytes());
            bytes.extend(elements);
            bytes
        };
        let texts = array(8, tokens.iter().flat_map(|(token, _)| text(token)).collect());
        let kinds = array(5, tokens.iter().flat_map(|(_, kind)| kind.to_le_bytes()).collect());
        let gguf = self.text("tokenizer.ggml.model", "gpt2");
        gguf.set("tokenizer.ggml.tokens", 9, texts).set("tokenizer.ggml.token_type", 9, kinds)
    }

    fn set(mut self, key: &str, kind: u32, bytes: Vec<u8>) -> Self {
        self = self.without(key);
        self.values.push((key.to_string(), kind, bytes));
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.set(key, 4, value.to_le_bytes().to_vec())
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.set(key, 8, text(value))
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.values.retain(|(found, ..)| found != key);
        self
    }

    fn change(mut self, tensor: &str, change: impl FnOnce(&mut Entry)) -> Self {
        change(self.tensors.iter_mut().find(|entry| entry.name == tensor).expect("a tensor of that name"));
        self
    }

    pub(crate) fn without_tensor(mut self, tensor: &str) -> Self {
        self.tensors.retain(|entry| entry.name != tensor);
        self
    }

    /// One more tensor, of one dimension, f32.
    pub(crate) fn with(mut self, name: &str, values: &[f32]) -> Self {
        let dims = vec![values.len() as u64];
        let (name, values) = (name.to_string(), values.to_vec());
        self.tensors.push(Entry { name, dims, dtype: 0, offset: None, rows: 1, values });
        self
    }

    /// Says other dimensions, without changing the data.
    pub(crate) fn dims(self, tensor: &str, dims: &[u64]) -> Self {
        self.change(tensor, |entry| entry.dims = dims.to_vec())
    }

    /// Says another type. Only those of [`Gguf::stored_as`] change the data too.
    pub(crate) fn dtype(self, tensor: &str, dtype: u32) -> Self {
        self.change(tensor, |entry| entry.dtype = dtype)
    }

    pub(crate) fn offset(self, tensor: &str, offset: u64) -> Self {
        self.change(tensor, |entry| entry.offset = Some(offset))
    }

    pub(crate) fn rename(self, tensor: &str, name: &str) -> Self {
        self.change(tensor, |entry| entry.name = name.to_string())
    }

    pub(crate) fn value(self, tensor: &str, element: usize, value: f32) -> Self {
        self.change(tensor, |entry| entry.values[element] = value)
    }

    /// Stores all matrices in a type, by its number; norms stay f32, as such files have them.
    pub(crate) fn stored_as(mut self, dtype: u32) -> Self {
        for entry in self.tensors.iter_mut().filter(|entry| entry.dims.len() == 2) {
            entry.dtype = dtype;
        }
        self
    }

    /// The bytes of the file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.values {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for entry in &self.tensors {
            bytes.extend(text(&entry.name));
            bytes.extend((entry.dims.len() as u32).to_le_bytes());
            bytes.extend(entry.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(entry.dtype.to_le_bytes());
            bytes.extend(entry.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(entry.data());
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }
}

impl Entry {
    fn data(&self) -> Vec<u8> {
        let quantised = match self.dtype {
            1 => return self.values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            30 => return self.values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            2 => GgmlDType::Q4_0,
            3 => GgmlDType::Q4_1,
            8 => GgmlDType::Q8_0,
            _ => return self.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let shape = (self.rows, self.values.len() / self.rows);
        let tensor = Tensor::from_slice(&self.values, shape, &Device::Cpu).expect("a tensor");
        let blocks = QTensor::quantize(&tensor, quantised).expect("whole blocks");
        blocks.data().expect("bytes").to_vec()
    }
}
