//! The files beside a model: `metrics.json`, and the part of `MODEL_CARD.md` that is generated from it.

use anyhow::{Context, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, fs, path::Path};

const BEGIN: &str = "<!-- begin: generated from metrics.json by the training program -->";
const END: &str = "<!-- end: generated -->";

/// Scores that can be written beside a model and printed into its card.
pub(crate) trait Metrics: Serialize + DeserializeOwned + PartialEq + Debug {
    /// The scores as Markdown.
    fn card(&self) -> String;
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads `metrics.json` of a model folder.
pub(crate) fn load<M: Metrics>(folder: &Path) -> Result<M> {
    let path = folder.join("metrics.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not valid", path.display()))
}

/// Writes `metrics.json`, and the generated part of the card where the folder has one.
pub(crate) fn save<M: Metrics>(folder: &Path, metrics: &M) -> Result<()> {
    write(&folder.join("metrics.json"), &(serde_json::to_string_pretty(metrics)? + "\n"))?;
    let card = folder.join("MODEL_CARD.md");
    if card.exists() {
        let text = fs::read_to_string(&card).with_context(|| format!("cannot read {}", card.display()))?;
        write(&card, &with_metrics(&text, metrics)?)?;
    }
    Ok(())
}

/// The card with its generated part made anew.
pub(crate) fn with_metrics<M: Metrics>(card: &str, metrics: &M) -> Result<String> {
    let (before, rest) = card.split_once(BEGIN).context("MODEL_CARD.md has no line that begins the generated part")?;
    let (_, after) = rest.split_once(END).context("MODEL_CARD.md has no line that ends the generated part")?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", metrics.card().trim()))
}

/// The end of `--check`.
pub(crate) fn compare<M: Metrics>(recorded: &M, found: &M) -> Result<()> {
    ensure!(
        recorded == found,
        "the committed weights do not give the recorded scores\nrecorded: {recorded:#?}\nfound: {found:#?}"
    );
    println!("check passed: the committed weights give exactly the scores in metrics.json");
    Ok(())
}

/// Whether a training run gave the committed model again: to the byte, or only in its scores.
pub(crate) fn against_committed<M: Metrics>(committed: &Path, out: &Path) -> Result<()> {
    if fs::canonicalize(committed).ok() == fs::canonicalize(out).ok() {
        return Ok(()); // this run made the committed model
    }
    let weights = |folder: &Path| {
        let path = folder.join("model.safetensors");
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    if weights(committed)? == weights(out)? {
        println!("the weights are the committed ones, byte for byte");
    } else {
        println!("the weights differ from the committed ones (candle's float sums depend on the machine)");
        println!("committed scores:\n\n{}", load::<M>(committed)?.card());
    }
    Ok(())
}
