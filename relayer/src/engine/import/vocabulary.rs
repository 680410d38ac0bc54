//! The bytes of each token, from `tokenizer.json` or from a GGUF file.
//!
//! A model's text is the concatenation of the entries of its tokens; nothing is trimmed or cleaned up afterwards. So a
//! word that begins with a space begins with one here too, and what ends generation, being special, is empty.

use super::ImportError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

/// How the spelling of a token says its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Every byte is one printable character (GPT-2 and its heirs).
    ByteLevel,
    /// `\u{2581}` is a space, `<0x0A>` a byte, everything else itself (SentencePiece).
    SentencePiece,
}

/// What a token is, which decides about its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Spelled.
    Ordinary,
    /// Text as it is.
    Literal,
    /// Not text: a mark for the model.
    Special,
}

/// Tokens by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vocabulary {
    file: &'static str,
    tokens: HashMap<u32, Vec<u8>>,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    decoder: Value,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Value,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

impl Vocabulary {
    /// An empty vocabulary that `file` will fill.
    pub(super) fn new(file: &'static str) -> Self {
        Self { file, tokens: HashMap::new() }
    }

    fn wrong<T>(&self, field: impl Into<String>, problem: impl Into<String>) -> Result<T, ImportError> {
        Err(ImportError::Field { file: self.file.to_string(), field: field.into(), problem: problem.into() })
    }

    /// Reads `tokenizer.json`.
    pub(super) fn parse(text: &str) -> Result<Self, ImportError> {
        const NAME: &str = "tokenizer.json";
        let damaged = |e: serde_json::Error| ImportError::Damaged { file: NAME.to_string(), problem: e.to_string() };
        let file: File = serde_json::from_str(text).map_err(damaged)?;
        let mut vocabulary = Self::new(NAME);
        let spelling = vocabulary.spelling(&file.decoder)?;
        match &file.model.vocab {
            Value::Object(vocab) => {
                for (token, id) in vocab {
                    let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                        return vocabulary.wrong("model.vocab", format!("{token:?} has the id {id}"));
                    };
                    vocabulary.add(id, token, Kind::Ordinary, spelling)?;
                }
            }
            Value::Array(vocab) => {
                for (id, entry) in (0u32..).zip(vocab) {
                    let Some(token) = entry.get(0).and_then(Value::as_str) else {
                        return vocabulary.wrong("model.vocab", format!("entry {id} has no text"));
                    };
                    vocabulary.add(id, token, Kind::Ordinary, spelling)?;
                }
            }
            _ => {
                let kind = file.model.kind.as_deref().unwrap_or("nothing");
                return vocabulary.wrong("model.vocab", format!("of a model of type {kind:?} is no list of tokens"));
            }
        }
        for Added { id, content, special } in file.added_tokens {
            vocabulary.tokens.remove(&id);
            let kind = if special { Kind::Special } else { Kind::Literal };
            vocabulary.add(id, &content, kind, spelling)?;
        }
        Ok(vocabulary)
    }

    fn spelling(&self, decoder: &Value) -> Result<Spelling, ImportError> {
        let steps = match decoder.get("decoders") {
            Some(Value::Array(steps)) => steps.as_slice(),
            _ => std::slice::from_ref(decoder),
        };
        let mut spelling = None;
        for step in steps {
            let space = |text: Option<&Value>| text.and_then(Value::as_str) == Some("\u{2581}");
            let meant = match step.get("type").and_then(Value::as_str) {
                Some("ByteLevel") => Spelling::ByteLevel,
                Some("ByteFallback") => Spelling::SentencePiece,
                Some("Metaspace") if space(step.get("replacement")) => Spelling::SentencePiece,
                Some("Replace")
                    if space(step.pointer("/pattern/String"))
                        && step.get("content").and_then(Value::as_str) == Some(" ") =>
                {
                    Spelling::SentencePiece
                }
                // Joining the tokens is what detokenising is; the first space belongs to a text, not to its continuation.
                Some("Fuse" | "Strip") => continue,
                other => {
                    return self.wrong("decoder", format!("{:?} is not understood", other.unwrap_or("nothing")));
                }
            };
            if *spelling.get_or_insert(meant) != meant {
                return self.wrong("decoder", "mixes byte-level and SentencePiece spelling");
            }
        }
        spelling.map_or_else(|| self.wrong("decoder", "does not say how tokens are spelled"), Ok)
    }

    /// Adds a token.
    pub(super) fn add(&mut self, id: u32, token: &str, kind: Kind, spelling: Spelling) -> Result<(), ImportError> {
        let bytes = match (kind, spelling) {
            (Kind::Special, _) => Vec::new(),
            (Kind::Literal, _) => token.as_bytes().to_vec(),
            (Kind::Ordinary, Spelling::ByteLevel) => match token.chars().map(byte_of).collect() {
                Some(bytes) => bytes,
                // Marks that never come out of the tokeniser's merges stand in some vocabularies as they are.
                None => token.as_bytes().to_vec(),
            },
            (Kind::Ordinary, Spelling::SentencePiece) => match byte_token(token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
        };
        match self.tokens.insert(id, bytes) {
            None => Ok(()),
            Some(_) => self.wrong("model.vocab", format!("two tokens have the id {id}")),
        }
    }

    /// The entries of ids below `count`; an id without a token has an empty one.
    pub(super) fn entries(mut self, count: u32) -> Result<Vec<Vec<u8>>, ImportError> {
        if let Some(id) = self.tokens.keys().filter(|id| **id >= count).min() {
            return self.wrong("model.vocab", format!("has the id {id}; the model knows {count} tokens"));
        }
        Ok((0..count).map(|id| self.tokens.remove(&id).unwrap_or_default()).collect())
    }
}

/// `<0x0A>` as a byte.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character of the byte-level alphabet stands for: bytes that are printable in Latin-1 stand for
/// themselves, the others are numbered from U+0100 on, in ascending order.
fn byte_of(character: char) -> Option<u8> {
    let printable = |code: u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(character);
    if printable(code) {
        return u8::try_from(code).ok();
    }
    let index = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=255u8).filter(|byte| !printable(u32::from(*byte))).nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = std::collections::BTreeSet::new();
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of) {
                assert!(seen.insert(byte), "{byte} twice");
            }
        }
        assert_eq!(seen.len(), 256);
        for (character, byte) in [('A', b'A'), ('\u{120}', b' '), ('\u{10a}', b'\n'), ('\u{143}', 0xad)] {
            assert_eq!(byte_of(character), Some(byte));
        }
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('\u{144}'), None);
    }

    fn parse(decoder: &str, vocab: &str, added: &str) -> Result<Vec<Vec<u8>>, String> {
        let text =
            format!(r#"{{"model":{{"type":"BPE","vocab":{vocab}}},"added_tokens":{added},"decoder":{decoder}}}"#);
        Vocabulary::parse(&text).and_then(|v| v.entries(6)).map_err(|e| e.to_string())
    }

    const PIECES: &str = r#"{"type":"Sequence","decoders":[
        {"type":"Replace","pattern":{"String":"\u2581"},"content":" "},
        {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#;

    #[test]
    fn tokens_become_bytes() {
        let vocab = "{\"\u{120}caf\u{c3}\u{a9}\":0,\"x\":2,\"<end>\":4}";
        let added = r#"[{"id":4,"content":"<end>","special":true},{"id":5,"content":"caf\u00e9","special":false}]"#;
        let entries = parse(r#"{"type":"ByteLevel"}"#, vocab, added).expect("a vocabulary");
        let text = |bytes: &str| bytes.as_bytes().to_vec();
        assert_eq!(entries, [text(" caf\u{e9}"), vec![], text("x"), vec![], vec![], text("caf\u{e9}")]);

        let vocab = "{\"\u{2581}a\u{2581}\":0,\"<0xE2>\":1,\"<0x1>\":2}";
        let entries = parse(PIECES, vocab, "[]").expect("a vocabulary");
        assert_eq!(entries[..3], [text(" a "), vec![0xe2], text("<0x1>")]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let level = r#"{"type":"ByteLevel"}"#;
        for (decoder, vocab, added, named) in [
            (r#"{"type":"WordPiece"}"#, "{}", "[]", "\"WordPiece\" is not understood"),
            ("null", "{}", "[]", "\"nothing\" is not understood"),
            (r#"{"type":"Fuse"}"#, "{}", "[]", "does not say"),
            (level, r#"{"a":6}"#, "[]", "id 6; the model knows 6"),
            (level, r#"{"a":-1}"#, "[]", "\"a\" has the id -1"),
            (level, r#"{"a":1,"b":1}"#, "[]", "two tokens have the id 1"),
            (level, r#"[["a",0.5],[7]]"#, "[]", "entry 1 has no text"),
            (level, "3", "[]", "no list of tokens"),
            (level, "{}", r#"[{"id":7,"content":"x"}]"#, "id 7"),
            (level, "{}", r#"[{"content":"x"}]"#, "missing field `id`"),
        ] {
            let error = parse(decoder, vocab, added).expect_err(named);
            assert!(error.contains(named) && error.contains("tokenizer.json"), "{error} does not say {named}");
        }
    }
}
