//! GGUF files of the Llama, Qwen2 and Qwen3 architectures, version 2 or 3, little-endian.
//!
//! The header is read here, by a parser that compares every length with what is left of the file before it believes it.
//! f32, f16, bf16 and q8_0 tensors are kept as they are. The other types are decoded by candle's own code and become f16,
//! which is said in the notes of the import: such a model is the one that a Hugging Face folder of the decoded weights
//! makes, not one that computes in those types.

use super::ImportError;
use super::decoder::{DecoderConfig, DecoderFamily, RopeScaling};
use super::tensors::{Elements, Entry, FileBytes, Slice, Tensors, fault};
use super::vocabulary::{Kind, Spelling, Vocabulary};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candor_sdk::program::WeightType;
use half::f16;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What the file is called in messages.
const NAME: &str = "gguf";

/// Everything of a file that makes a model.
pub(super) struct Contents {
    pub(super) config: DecoderConfig,
    pub(super) tensors: Tensors,
    pub(super) vocabulary: Option<Vocabulary>,
    /// What was converted.
    pub(super) notes: Vec<String>,
}

/// Whether a file begins as GGUF does.
pub(super) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}

/// A tensor of quantised blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    dtype: GgmlDType,
    slice: Slice,
}

impl Blocks {
    /// The elements as f16, nearest even.
    pub(super) fn to_f16(&self, name: &str) -> Result<Vec<u8>, ImportError> {
        // Some blocks at a time: the f32 that candle makes of them are many times as large.
        const BLOCKS: usize = 4096;
        let bytes = self.slice.as_ref();
        let block_bytes = self.dtype.type_size();
        let mut result = Vec::with_capacity(bytes.len() / block_bytes * self.dtype.block_size() * 2);
        for part in bytes.chunks(BLOCKS * block_bytes) {
            let elements = part.len() / block_bytes * self.dtype.block_size();
            for value in self
                .decode(part, elements)
                .map_err(|e| ImportError::Tensor { name: name.to_string(), problem: format!("candle: {e}") })?
            {
                let half = f16::from_f32(value);
                if !half.is_finite() {
                    let element = result.len() / 2;
                    return fault(name, format!("element {element} is {value}, which is no finite f16"));
                }
                result.extend_from_slice(&half.to_le_bytes());
            }
        }
        Ok(result)
    }

    fn decode(&self, bytes: &[u8], elements: usize) -> candle_core::Result<Vec<f32>> {
        // candle reads blocks in place, so they must lie as its types want them.
        const ALIGNMENT: usize = 8;
        let mut aligned = vec![0u8; bytes.len() + ALIGNMENT];
        let start = aligned.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        aligned[start..start + bytes.len()].copy_from_slice(bytes);
        let blocks = Cow::Borrowed(&aligned[start..start + bytes.len()]);
        let storage = QStorage::from_data(blocks, &Device::Cpu, self.dtype)?;
        QTensor::new(storage, elements)?.dequantize(&Device::Cpu)?.to_vec1()
    }
}

/// Types whose elements candle can decode, by their code in the file.
fn decodable(code: u32) -> Option<GgmlDType> {
    Some(match code {
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        _ => return None,
    })
}

/// A value of the metadata. Arrays stay where they are until somebody asks for them.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Whole(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Array { kind: u32, count: usize, range: Range<usize> },
}

/// A place in the file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn damaged<T>(problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Damaged { file: NAME.to_string(), problem: problem.into() })
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ImportError> {
        match self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += count;
                Ok(bytes)
            }
            None => damaged(format!(
                "ends at byte {}; {count} more bytes were to come at byte {}",
                self.bytes.len(),
                self.at
            )),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ImportError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, ImportError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn length(&mut self) -> Result<usize, ImportError> {
        let length = u64::from_le_bytes(self.array()?);
        // A length is of something that follows, so it is no longer than the file.
        match usize::try_from(length) {
            Ok(length) if length <= self.bytes.len() => Ok(length),
            _ => damaged(format!("says {length} at byte {}, and has {} bytes", self.at - 8, self.bytes.len())),
        }
    }

    fn text(&mut self) -> Result<String, ImportError> {
        let length = self.length()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value, ImportError> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(u32::from_le_bytes(self.array()?).into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => {
                let (kind, count) = (self.u32()?, self.length()?);
                let start = self.at;
                for _ in 0..count {
                    match kind {
                        9 => return damaged(format!("an array of arrays at byte {start}")),
                        8 => drop(self.length().and_then(|length| self.take(length))?),
                        kind => drop(self.value(kind)?),
                    }
                }
                Value::Array { kind, count, range: start..self.at }
            }
            10 => Value::Whole(u64::from_le_bytes(self.array()?).into()),
            11 => Value::Whole(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return damaged(format!("a value of unknown type {other} at byte {}", self.at)),
        })
    }
}

/// The metadata, taken key by key.
struct Metadata<'a> {
    bytes: &'a [u8],
    values: BTreeMap<String, Value>,
}

fn wrong<T>(key: &str, problem: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Field { file: NAME.to_string(), field: key.to_string(), problem: problem.into() })
}

impl Metadata<'_> {
    fn maybe_u32(&mut self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::Whole(n)) if u32::try_from(n).is_ok() => Ok(u32::try_from(n).ok()),
            Some(_) => wrong(key, "is not a whole number below 2^32"),
        }
    }

    fn size(&mut self, key: &str) -> Result<u32, ImportError> {
        match self.maybe_u32(key)? {
            None => wrong(key, "is missing"),
            Some(0) => wrong(key, "is 0"),
            Some(n) => Ok(n),
        }
    }

    fn maybe_float(&mut self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(number)),
            Some(_) => wrong(key, "is not a number with a fraction"),
        }
    }

    fn maybe_text(&mut self, key: &str) -> Result<Option<String>, ImportError> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => wrong(key, "is not a text"),
        }
    }

    /// The elements of an array, each read by `element`.
    fn maybe_array<T>(
        &mut self,
        key: &str,
        element: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ImportError> {
        let (kind, count, range) = match self.values.remove(key) {
            None => return Ok(None),
            Some(Value::Array { kind, count, range }) => (kind, count, range),
            Some(_) => return wrong(key, "is not an array"),
        };
        let mut cursor = Cursor { bytes: self.bytes, at: range.start };
        let mut elements = Vec::new();
        for index in 0..count {
            match element(cursor.value(kind)?) {
                Some(value) => elements.push(value),
                None => return wrong(key, format!("element {index} is of another type")),
            }
        }
        Ok(Some(elements))
    }

    fn config(&mut self, vocabulary: u32, tied: bool) -> Result<DecoderConfig, ImportError> {
        let Some(name) = self.maybe_text("general.architecture")? else {
            return wrong("general.architecture", "is missing");
        };
        let Some(family) = DecoderFamily::from_name(&name) else {
            return wrong("general.architecture", format!("{name:?} is not understood, only llama, qwen2 and qwen3"));
        };
        let key = |key: &str| format!("{name}.{key}");
        let (hidden, heads) = (self.size(&key("embedding_length"))?, self.size(&key("attention.head_count"))?);
        let head_dim = match self.maybe_u32(&key("attention.key_length"))? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return wrong(&key("attention.head_count"), format!("{hidden} columns do not divide among {heads}"));
            }
        };
        for same in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.maybe_u32(&key(same))?.filter(|other| *other != head_dim) {
                return wrong(&key(same), format!("{other}, and heads have {head_dim} columns"));
            }
        }
        if let Some(other) = self.maybe_u32(&key("vocab_size"))?.filter(|other| *other != vocabulary) {
            return wrong(&key("vocab_size"), format!("{other}, and the table of embeddings has {vocabulary} rows"));
        }
        if let Some(other) = self.maybe_text(&key("rope.scaling.type"))?.filter(|kind| kind != "none") {
            return wrong(&key("rope.scaling.type"), format!("{other:?} is not understood"));
        }
        let epsilon = self.maybe_float(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(0.0) as f32;
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return wrong(&key("attention.layer_norm_rms_epsilon"), format!("{epsilon} is not above 0"));
        }
        let mut stop = Vec::new();
        for end in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            stop.extend(self.maybe_u32(end)?);
        }
        let config = DecoderConfig {
            family,
            vocabulary,
            hidden,
            intermediate: self.size(&key("feed_forward_length"))?,
            layers: self.size(&key("block_count"))?,
            heads,
            kv_heads: self.maybe_u32(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            positions: self.size(&key("context_length"))?,
            epsilon,
            rope_theta: self.maybe_float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: RopeScaling::None,
            tied,
            biases: family == DecoderFamily::Qwen2,
            stop,
        };
        if let Some(unknown) = self.values.keys().find(|other| other.starts_with(&key(""))) {
            return wrong(unknown, "is not understood and may change what the model computes");
        }
        config.check()?;
        Ok(config)
    }

    fn vocabulary(&mut self) -> Result<Option<Vocabulary>, ImportError> {
        let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
        let Some(tokens) = self.maybe_array("tokenizer.ggml.tokens", text)? else { return Ok(None) };
        let spelling = match self.maybe_text("tokenizer.ggml.model")?.as_deref() {
            Some("gpt2") => Spelling::ByteLevel,
            Some("llama") => Spelling::SentencePiece,
            other => {
                let problem = format!("{:?} is not understood, only gpt2 and llama", other.unwrap_or("nothing"));
                return wrong("tokenizer.ggml.model", problem);
            }
        };
        let whole = |value| if let Value::Whole(n) = value { Some(n) } else { None };
        let kinds = self.maybe_array("tokenizer.ggml.token_type", whole)?.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            let problem = format!("has {} entries for {} tokens", kinds.len(), tokens.len());
            return wrong("tokenizer.ggml.token_type", problem);
        }
        let mut vocabulary = Vocabulary::new(NAME);
        for ((id, token), kind) in (0u32..).zip(&tokens).zip(kinds) {
            let kind = match kind {
                1 | 6 => Kind::Ordinary, // a byte is spelled as one
                4 => Kind::Literal,
                2 | 3 | 5 => Kind::Special, // unknown, control, unused
                other => return wrong("tokenizer.ggml.token_type", format!("token {id} has the type {other}")),
            };
            vocabulary.add(id, token, kind, spelling)?;
        }
        Ok(Some(vocabulary))
    }
}

/// Parts of a tensor's name in GGUF and with Hugging Face.
const PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Names outside the layers.
const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// The Hugging Face name of a GGUF tensor; other names stay as they are, and nothing will ask for them.
fn to_hugging_face(name: &str) -> String {
    if let Some((_, theirs)) = WHOLE.iter().find(|(ours, _)| *ours == name) {
        return (*theirs).to_string();
    }
    let renamed = name.strip_prefix("blk.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        let (part, kind) = rest.split_once('.')?;
        let (_, theirs) = PARTS.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("model.layers.{layer}.{theirs}.{kind}"))
    });
    renamed.unwrap_or_else(|| name.to_string())
}

/// The reverse, for messages.
fn to_gguf(name: &str) -> String {
    if let Some((ours, _)) = WHOLE.iter().find(|(_, theirs)| *theirs == name) {
        return (*ours).to_string();
    }
    let renamed = name.strip_prefix("model.layers.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (ours, _) = PARTS.iter().find(|(_, theirs)| *theirs == part)?;
        Some(format!("blk.{layer}.{ours}.{kind}"))
    });
    renamed.unwrap_or_else(|| name.to_string())
}

/// A line of the table of tensors.
struct Listed {
    name: String,
    dims: Vec<usize>,
    dtype: u32,
    offset: usize,
}

/// Reads a file.
pub(super) fn read(file: &FileBytes) -> Result<Contents, ImportError> {
    let mut cursor = Cursor { bytes: file, at: 0 };
    if cursor.take(4)? != b"GGUF" {
        return damaged("does not begin with GGUF");
    }
    match cursor.u32()? {
        2 | 3 => {}
        other => return damaged(format!("version {other:#x}; 2 and 3 are understood, little-endian")),
    }
    let (tensor_count, value_count) = (cursor.length()?, cursor.length()?);
    let mut metadata = Metadata { bytes: file, values: BTreeMap::new() };
    for _ in 0..value_count {
        let (key, kind) = (cursor.text()?, cursor.u32()?);
        let value = cursor.value(kind)?;
        if metadata.values.insert(key.clone(), value).is_some() {
            return wrong(&key, "comes twice");
        }
    }
    let mut listed = Vec::new();
    for _ in 0..tensor_count {
        let name = cursor.text()?;
        let count = cursor.u32()?;
        if !(1..=4).contains(&count) {
            return fault(&name, format!("{count} dimensions; 1 to 4 are possible"));
        }
        // The fastest dimension comes first in the file, and last everywhere else.
        let mut dims = (0..count).map(|_| cursor.length()).collect::<Result<Vec<usize>, _>>()?;
        dims.reverse();
        let (dtype, offset) = (cursor.u32()?, cursor.length()?);
        listed.push(Listed { name, dims, dtype, offset });
    }
    let alignment = metadata.maybe_u32("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return wrong("general.alignment", format!("{alignment} is not a power of two"));
    }
    let data = cursor.at.next_multiple_of(alignment as usize);

    let rows = listed.iter().find(|tensor| tensor.name == "token_embd.weight").and_then(|tensor| tensor.dims.first());
    let vocabulary = match rows.map(|rows| u32::try_from(*rows)) {
        Some(Ok(rows)) => rows,
        _ => return fault("token_embd.weight", "is missing, or has too many rows"),
    };
    let tied = !listed.iter().any(|tensor| tensor.name == "output.weight");
    let mut config = metadata.config(vocabulary, tied)?;

    let mut tensors = Tensors::named_by(to_gguf);
    let mut decoded: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for Listed { name, dims, dtype, offset } in listed {
        if !names.insert(name.clone()) {
            return fault(&name, "comes twice");
        }
        if name == FACTORS && config.family == DecoderFamily::Llama {
            if dtype != 0 || dims != [config.head_dim as usize / 2] {
                return fault(&name, format!("shape {dims:?}; one f32 for each pair of a head's columns was to come"));
            }
            config.rope_scaling = stretched(&config, place(file, &name, &dims, (1, 4), data, offset)?.as_ref())?;
            continue;
        }
        let elements = match (dtype, decodable(dtype)) {
            (0, _) => Elements::Kept(WeightType::F32, place(file, &name, &dims, (1, 4), data, offset)?),
            (1, _) => Elements::Kept(WeightType::F16, place(file, &name, &dims, (1, 2), data, offset)?),
            (30, _) => Elements::Kept(WeightType::Bf16, place(file, &name, &dims, (1, 2), data, offset)?),
            (8, _) => Elements::Kept(WeightType::Q8_0, place(file, &name, &dims, (32, 34), data, offset)?),
            (_, Some(dtype)) => {
                *decoded.entry(format!("{dtype:?}")).or_default() += 1;
                let sizes = (dtype.block_size(), dtype.type_size());
                Elements::Blocks(Blocks { dtype, slice: place(file, &name, &dims, sizes, data, offset)? })
            }
            (other, None) => Elements::Unknown(format!("number {other} of GGUF")),
        };
        // Llama's rotary embedding is stored for neighbouring columns, the graph turns columns half a head apart.
        let part = name.rsplit_once('.').map_or("", |(name, _)| name);
        let interleaved_heads = match config.family {
            DecoderFamily::Llama if part.ends_with(".attn_q") => Some(config.heads as usize),
            DecoderFamily::Llama if part.ends_with(".attn_k") => Some(config.kv_heads as usize),
            _ => None,
        };
        tensors.add(&to_hugging_face(&name), Entry { dims, elements, interleaved_heads })?;
    }
    let notes = decoded.iter().map(|(dtype, count)| format!("{count} tensors of type {dtype} became f16")).collect();
    Ok(Contents { config, tensors, vocabulary: metadata.vocabulary()?, notes })
}

/// What the rotary frequencies are divided by, one number for each pair of columns. Metadata say nothing of it.
const FACTORS: &str = "rope_freqs.weight";

/// How frequencies are stretched, by what they are divided by. Llama 3.1 (and 3.3) and 3.2 are known; with their numbers the
/// frequencies are those of a Hugging Face folder, in which the factors were never rounded to f32.
fn stretched(config: &DecoderConfig, factors: &[u8]) -> Result<RopeScaling, ImportError> {
    let factors = factors.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let factors: Vec<f64> = factors.collect();
    let known = [8.0, 32.0].map(|factor| RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192 });
    let fits = |scaling: RopeScaling| {
        (0..).zip(&factors).all(|(pair, factor)| {
            let wanted = config.frequency(pair, RopeScaling::None) / config.frequency(pair, scaling);
            (factor / wanted - 1.0).abs() < 1e-5
        })
    };
    match [RopeScaling::None].into_iter().chain(known).find(|scaling| fits(*scaling)) {
        Some(scaling) => Ok(scaling),
        None => fault(FACTORS, "frequencies are stretched neither as Llama 3.1 does nor as Llama 3.2 does"),
    }
}

/// Where the elements of a tensor are, if they are within the file.
fn place(
    file: &FileBytes,
    name: &str,
    dims: &[usize],
    (block, block_bytes): (usize, usize),
    data: usize,
    offset: usize,
) -> Result<Slice, ImportError> {
    if !dims.last().is_some_and(|cols| cols.is_multiple_of(block)) {
        return fault(name, format!("shape {dims:?} in blocks of {block}"));
    }
    let elements = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    let bytes = elements.and_then(|elements| (elements / block).checked_mul(block_bytes));
    let range = bytes.and_then(|bytes| {
        let start = data.checked_add(offset)?;
        Some(start..start.checked_add(bytes)?)
    });
    match range.filter(|range| range.end <= file.len()) {
        Some(range) => Ok(Slice { file: file.clone(), range }),
        None => fault(name, format!("shape {dims:?} at byte {data} + {offset} ends beyond the {} bytes", file.len())),
    }
}
