//! What the bytes of an answer mean, for people.
use crate::engine::import::{
    Family,
    config::Output,
    onnx::{OnnxConfig, OnnxOutput},
};

/// Reads an answer of a model of this family.
pub fn describe(family: &Family, output: &[u8]) -> String {
    match family {
        Family::Sequential { config, .. } => {
            let parts: Vec<Part> = config.output.iter().map(Part::from).collect();
            match (config.name.as_str(), output) {
                ("credit", [a, b, c, d]) => {
                    format!("{} risk of default", percent(f32::from_be_bytes([*a, *b, *c, *d])))
                }
                _ => numbers(&parts, &[], output),
            }
        }
        Family::Onnx(model) => {
            let OnnxConfig { output: parts, labels, .. } = model.config();
            let parts: Vec<Part> = parts.iter().map(Part::from).collect();
            numbers(&parts, labels, output)
        }
        Family::Bert(_) if output.len().is_multiple_of(4) => format!("an embedding of {} numbers", output.len() / 4),
        Family::Decoder(_) => text(output),
        Family::Bert(_) => format!("{} bytes", output.len()),
    }
}

/// What a language model wrote, if it is text: one without a tokeniser answers with token ids.
fn text(output: &[u8]) -> String {
    match std::str::from_utf8(output) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c)) => format!("{text:?}"),
        _ => format!("{} bytes", output.len()),
    }
}

/// A part of an answer that is made of numbers.
enum Part {
    /// The place of the largest.
    Argmax,
    /// All of them.
    Floats,
}

impl From<&Output> for Part {
    fn from(output: &Output) -> Self {
        match output {
            Output::Argmax { .. } => Self::Argmax,
            Output::F32be => Self::Floats,
        }
    }
}

impl From<&OnnxOutput> for Part {
    fn from(output: &OnnxOutput) -> Self {
        match output {
            OnnxOutput::Argmax { .. } => Self::Argmax,
            OnnxOutput::F32be { .. } => Self::Floats,
        }
    }
}

fn numbers(parts: &[Part], labels: &[String], output: &[u8]) -> String {
    match (parts, output) {
        ([Part::Argmax] | [Part::Argmax, Part::Floats], [a, b, c, d, probabilities @ ..]) => {
            let class = u32::from_be_bytes([*a, *b, *c, *d]);
            let name = labels.get(class as usize).cloned().unwrap_or_else(|| class.to_string());
            match floats(probabilities).nth(class as usize) {
                Some(sure) => format!("{name}, {} sure", percent(sure)),
                None => name,
            }
        }
        ([Part::Floats], [_, _, _, _]) => floats(output).next().unwrap_or_default().to_string(),
        ([Part::Floats], [_, ..]) if output.len() <= 64 && output.len().is_multiple_of(4) => {
            let values: Vec<String> = floats(output).map(|value| value.to_string()).collect();
            format!("[{}]", values.join(", "))
        }
        _ => format!("{} bytes", output.len()),
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// A probability, with a digit more where it is close to certain.
fn percent(probability: f32) -> String {
    let percent = f64::from(probability) * 100.0;
    if !(0.1..=99.9).contains(&percent) { format!("{percent:.3} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ModelSource, models::CatalogModel};

    #[test]
    fn answers_of_the_embedded_models() {
        let family = |name| CatalogModel::load(&ModelSource::Builtin(name)).unwrap().imported().family.clone();
        let credit = family("credit");
        assert_eq!(describe(&credit, &0.123f32.to_be_bytes()), "12.3 % risk of default");
        assert_eq!(describe(&credit, &[1, 2, 3]), "3 bytes");
        let mut output = 7u32.to_be_bytes().to_vec();
        output.extend((0..10).flat_map(|i| if i == 7 { 0.9995f32 } else { 0.00005 }.to_be_bytes()));
        let digits = family("digits");
        assert_eq!(describe(&digits, &output), "7, 99.950 % sure");
        output[3] = 77;
        assert_eq!(describe(&digits, &output), "77", "a class that is none has no probability");
        assert_eq!(describe(&digits, &[]), "0 bytes");
        assert_eq!(text(" caf\u{e9}\n".as_bytes()), "\" caf\u{e9}\\n\"");
        assert_eq!(text(&[0, 0, 1, 2]), "4 bytes", "ids are not text");
        assert_eq!(text(&[0xc3]), "1 bytes");
    }
}
