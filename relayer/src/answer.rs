//! What the bytes of an answer mean, for people.
use crate::engine::import::{
    Family,
    config::{Config, Output},
};

/// Reads an answer of a model of this family.
pub fn describe(family: &Family, output: &[u8]) -> String {
    match family {
        Family::Sequential { config, .. } => numbers(config, output),
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

fn numbers(config: &Config, output: &[u8]) -> String {
    match (config.output.as_slice(), output) {
        ([Output::Argmax { .. }, Output::F32be], [a, b, c, d, probabilities @ ..]) => {
            let class = u32::from_be_bytes([*a, *b, *c, *d]);
            match floats(probabilities).nth(class as usize) {
                Some(sure) => format!("{class}, {} sure", percent(sure)),
                None => format!("{class}"),
            }
        }
        ([Output::F32be], [_, _, _, _]) => {
            let value = floats(output).next().unwrap_or_default();
            if config.name == "credit" { format!("{} risk of default", percent(value)) } else { value.to_string() }
        }
        ([Output::F32be], [_, ..]) if output.len() <= 64 && output.len().is_multiple_of(4) => {
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
