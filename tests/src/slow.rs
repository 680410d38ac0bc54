//! A model that takes its time, and answers as the one behind it does.

use candor_relayer::pipeline::{Infer, InferError, InferRequest, Settings};
use std::{sync::Arc, time::Duration};

/// The model. It takes nothing of this machine's processors, as one on a machine of its own.
#[derive(Debug)]
pub struct Slow {
    model: Arc<dyn Infer>,
    batch: Duration,
    each: Duration,
}

impl Slow {
    /// Has all models of a relayer take so long for a batch, and so much longer for each request in it.
    pub fn down(settings: &mut Settings, batch: Duration, each: Duration) {
        for served in settings.operator.iter_mut().flat_map(|operator| operator.models.values_mut()) {
            served.model = Arc::new(Self { model: served.model.clone(), batch, each });
        }
    }
}

impl Infer for Slow {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        std::thread::sleep(self.batch + self.each * u32::try_from(batch.len()).unwrap_or(u32::MAX));
        self.model.infer(batch)
    }

    fn device(&self) -> String {
        self.model.device()
    }
}
