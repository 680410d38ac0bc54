//! The command line of a training program.

use std::path::PathBuf;

/// Trains one embedded model from public data, or checks the committed one.
#[derive(Debug, clap::Parser)]
#[command(about)]
pub(crate) struct Options {
    /// Folder with the data that relayer/models/fetch.sh downloads.
    #[arg(long, value_name = "DIR", default_value = "target/data")]
    pub(crate) data: PathBuf,

    /// Folder for the trained model [default: target/train/<model>; the committed one is in relayer/models/<model>].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Seed of the split, the initial weights and the order of the examples.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Train nothing: score the committed weights on all held-out data and fail unless the recorded scores come out.
    #[arg(long)]
    pub(crate) check: bool,
}

impl Options {
    /// Where the committed model of this name is.
    pub(crate) fn committed(model: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(model)
    }

    /// Where this run writes its model.
    pub(crate) fn out(&self, model: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("target/train").join(model))
    }
}
