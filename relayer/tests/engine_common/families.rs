//! Hugging Face folders made up for tests: a few thousand random weights in the shapes of real families.

use super::{Random, files::Tensors};
use candor_relayer::engine::import::Files;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::sync::Arc;

/// Tokens of the made-up language models.
pub(crate) const VOCABULARY: usize = 96;

/// A description and the tensors that go with it, both still open to damage.
#[derive(Clone, Default)]
pub(crate) struct Made {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<(String, Dtype, Vec<usize>, Vec<f32>)>,
    pub(crate) tokenizer: Option<String>,
}

impl Made {
    fn add(&mut self, r: &mut Random, name: &str, dtype: Dtype, dims: &[usize]) {
        // Norms are around 1, biases small, and matrices keep the size of what they multiply.
        let norm = name.contains("norm") || name.contains("Norm");
        let values = r.vector(dims.iter().product(), |r| match dims {
            [_] if norm && !name.ends_with("bias") => 1.0 + 0.2 * r.ordinary(),
            [_] => 0.1 * r.ordinary(),
            _ if name.contains("embed") => r.ordinary(),
            dims => 2.0 * r.ordinary() / (dims[1] as f32).sqrt(),
        });
        self.tensors.push((name.to_string(), dtype, dims.to_vec(), values));
    }

    /// The files.
    pub(crate) fn files(&self) -> Files {
        let mut tensors = Tensors::default();
        for (name, dtype, dims, values) in &self.tensors {
            tensors.add(name, *dtype, dims, values);
        }
        Files {
            name: "made-up".to_string(),
            config: self.config.to_string(),
            weights: vec![("model.safetensors".to_string(), Arc::new(tensors.file()))],
            tokenizer: self.tokenizer.clone(),
            ..Files::default()
        }
    }

    /// Replaces a tensor's dimensions and values.
    pub(crate) fn replace(&mut self, name: &str, dims: &[usize], value: f32) {
        let entry = self.tensors.iter_mut().find(|(found, ..)| found == name).expect("a tensor of that name");
        entry.2 = dims.to_vec();
        entry.3 = vec![value; dims.iter().product()];
    }
}

/// A sentence encoder of two layers.
pub(crate) fn bert(seed: u64, dtype: Dtype) -> Made {
    let (hidden, intermediate, layers, positions) = (24, 40, 2, 20);
    let r = &mut Random(seed);
    let mut made = Made {
        config: json!({
            "model_type": "bert", "architectures": ["BertModel"], "vocab_size": VOCABULARY, "hidden_size": hidden,
            "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": 3,
            "max_position_embeddings": positions, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1, "_name_or_path": "somewhere", "pad_token_id": 0,
        }),
        ..Made::default()
    };
    let mut linear = |made: &mut Made, name: &str, out: usize, cols: usize| {
        made.add(r, &format!("{name}.weight"), dtype, &[out, cols]);
        made.add(r, &format!("{name}.bias"), dtype, &[out]);
    };
    for layer in 0..layers {
        let part = |part: &str| format!("encoder.layer.{layer}.{part}");
        for name in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            linear(&mut made, &part(name), hidden, hidden);
        }
        linear(&mut made, &part("intermediate.dense"), intermediate, hidden);
        linear(&mut made, &part("output.dense"), hidden, intermediate);
    }
    linear(&mut made, "pooler.dense", hidden, hidden);
    for (table, rows) in [("word", VOCABULARY), ("position", positions), ("token_type", 2)] {
        made.add(r, &format!("embeddings.{table}_embeddings.weight"), dtype, &[rows, hidden]);
    }
    let mut norms = vec!["embeddings".to_string()];
    for layer in 0..layers {
        norms.extend([format!("encoder.layer.{layer}.attention.output"), format!("encoder.layer.{layer}.output")]);
    }
    for name in norms {
        for part in ["weight", "bias"] {
            made.add(r, &format!("{name}.LayerNorm.{part}"), dtype, &[hidden]);
        }
    }
    made
}

/// The encoder as a DistilBERT, names behind a prefix, and as the BERT that computes the same.
pub(crate) fn distilled(seed: u64, prefix: &str) -> (Made, Made) {
    let mut same = bert(seed, Dtype::F32);
    same.replace("embeddings.token_type_embeddings.weight", &[2, 24], 0.0);
    let mut made = same.clone();
    made.tensors.retain(|(name, ..)| !name.contains("token_type") && !name.contains("pooler"));
    for (name, ..) in &mut made.tensors {
        for (theirs, ours) in [
            ("encoder.layer", "transformer.layer"),
            ("attention.self.query", "attention.q_lin"),
            ("attention.self.key", "attention.k_lin"),
            ("attention.self.value", "attention.v_lin"),
            ("attention.output.dense", "attention.out_lin"),
            ("attention.output.LayerNorm", "sa_layer_norm"),
            ("intermediate.dense", "ffn.lin1"),
            ("output.dense", "ffn.lin2"),
            ("output.LayerNorm", "output_layer_norm"),
        ] {
            *name = name.replace(theirs, ours);
        }
        *name = format!("{prefix}{name}");
    }
    made.config = json!({
        "model_type": "distilbert", "architectures": ["DistilBertModel"], "vocab_size": VOCABULARY, "dim": 24,
        "hidden_dim": 40, "n_layers": 2, "n_heads": 3, "max_position_embeddings": 20, "activation": "gelu",
        "dropout": 0.1, "attention_dropout": 0.1, "sinusoidal_pos_embds": false, "tie_weights_": true, "pad_token_id": 0,
    });
    (made, same)
}

/// A language model of two layers with grouped heads: `llama`, `qwen2` or `qwen3`.
pub(crate) fn decoder(family: &str, seed: u64, dtype: Dtype, tied: bool) -> Made {
    let (hidden, intermediate, layers, heads, kv_heads) = (32, 64, 2, 4, 2);
    // Qwen3 alone has heads of another size than hidden / heads.
    let head_dim = if family == "qwen3" { 12 } else { 8 };
    let architecture = match family {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        _ => "Qwen3ForCausalLM",
    };
    let r = &mut Random(seed);
    let mut made = Made {
        config: json!({
            "model_type": family, "architectures": [architecture], "vocab_size": VOCABULARY, "hidden_size": hidden,
            "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": tied, "bos_token_id": 1,
            "eos_token_id": 2, "torch_dtype": "float16", "use_cache": true,
        }),
        tokenizer: Some(tokenizer()),
        ..Made::default()
    };
    if family == "qwen3" {
        made.config["head_dim"] = json!(head_dim);
        made.config["attention_bias"] = json!(false);
    }
    made.add(r, "model.embed_tokens.weight", dtype, &[VOCABULARY, hidden]);
    for layer in 0..layers {
        let part = |part: &str| format!("model.layers.{layer}.{part}");
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        made.add(r, &part("input_layernorm.weight"), dtype, &[hidden]);
        for (name, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
            made.add(r, &part(&format!("self_attn.{name}.weight")), dtype, &[out, hidden]);
            if family == "qwen2" {
                made.add(r, &part(&format!("self_attn.{name}.bias")), dtype, &[out]);
            }
        }
        if family == "qwen3" {
            made.add(r, &part("self_attn.q_norm.weight"), dtype, &[head_dim]);
            made.add(r, &part("self_attn.k_norm.weight"), dtype, &[head_dim]);
        }
        made.add(r, &part("self_attn.o_proj.weight"), dtype, &[hidden, q]);
        made.add(r, &part("post_attention_layernorm.weight"), dtype, &[hidden]);
        made.add(r, &part("mlp.gate_proj.weight"), dtype, &[intermediate, hidden]);
        made.add(r, &part("mlp.up_proj.weight"), dtype, &[intermediate, hidden]);
        made.add(r, &part("mlp.down_proj.weight"), dtype, &[hidden, intermediate]);
    }
    made.add(r, "model.norm.weight", dtype, &[hidden]);
    if !tied {
        made.add(r, "lm_head.weight", dtype, &[VOCABULARY, hidden]);
    }
    made
}

/// A byte-level vocabulary: token `i` is `wi ` for most, three are marks.
fn tokenizer() -> String {
    let vocab: serde_json::Map<String, Value> =
        (3..VOCABULARY).map(|id| (format!("\u{120}w{id}"), json!(id))).collect();
    let marks: Vec<Value> = ["<unk>", "<s>", "</s>"]
        .iter()
        .enumerate()
        .map(|(id, content)| json!({ "id": id, "content": content, "special": true }))
        .collect();
    json!({
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
        "added_tokens": marks,
        "decoder": { "type": "ByteLevel" },
    })
    .to_string()
}
