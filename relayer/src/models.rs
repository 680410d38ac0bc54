//! The models a relayer can answer for: those inside the binary, and folders or files of any kind that is imported.

use crate::{
    config::ModelSource,
    dispute::Retrace,
    engine::{
        Device, InferError, InferRequest, LoadError, LoadedModel,
        import::{self, ImportError, Imported},
    },
    pipeline::Infer,
};
use candor_sdk::{
    bindings,
    ids::ModelId,
    program::{Model, ModelDescriptor, Params, RunError},
};
use std::sync::Arc;

macro_rules! embedded {
    ($name:literal, $file:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $name, "/", $file)
    };
}

/// `config.json` and `model.safetensors` of an embedded model.
fn embedded(name: &str) -> Option<(&'static str, &'static [u8])> {
    match name {
        "credit" => Some((
            include_str!(embedded!("credit", "config.json")),
            include_bytes!(embedded!("credit", "model.safetensors")),
        )),
        "digits" => Some((
            include_str!(embedded!("digits", "config.json")),
            include_bytes!(embedded!("digits", "model.safetensors")),
        )),
        _ => None,
    }
}

/// Why a model can't be served.
#[derive(Debug, thiserror::Error)]
#[error("model {name}: {problem}")]
pub struct ModelError {
    /// The model as configured.
    pub name: String,
    /// What is wrong with it.
    #[source]
    pub problem: Box<ModelProblem>,
}

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelProblem {
    /// Its files are damaged or not a model.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The engine can't run it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This binary has no such model inside.
    #[error("not embedded in this binary")]
    NotEmbedded,
}

/// A model ready to answer, with its identity.
#[derive(Debug)]
pub struct CatalogModel {
    name: String,
    imported: Imported,
    descriptor: ModelDescriptor,
    id: ModelId,
    engine: Arc<LoadedModel>,
}

impl CatalogModel {
    /// Imports, hashes and loads a model on this machine's processor.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        Self::load_on(source, Device::Cpu)
    }

    /// The same on a device.
    pub fn load_on(source: &ModelSource, device: Device) -> Result<Self, ModelError> {
        let name = source.name();
        Self::load_as(&name, source, device).map_err(|problem| ModelError { name, problem: Box::new(problem) })
    }

    #[allow(clippy::result_large_err)] // boxed by the only caller
    fn load_as(name: &str, source: &ModelSource, device: Device) -> Result<Self, ModelProblem> {
        let mut imported = match source {
            ModelSource::Builtin(name) => {
                let (config, weights) = embedded(name).ok_or(ModelProblem::NotEmbedded)?;
                import::bytes(config, weights)?
            }
            ModelSource::Folder(path) => import::folder(path)?,
            ModelSource::Chosen(path, options) => import::folder_with(path, &(*options).into())?,
        };
        let descriptor = import::descriptor(&imported.model);
        let weights = std::mem::take(&mut imported.model.weights);
        let engine = Arc::new(LoadedModel::load(Model { weights, ..imported.model.clone() }, device)?);
        imported.model.weights = engine.model().weights.clone(); // where they are now: each is in memory once
        Ok(Self { name: name.to_owned(), imported, id: descriptor.model_id(), descriptor, engine })
    }

    /// Name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Content address.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// What the registry is told.
    pub fn descriptor(&self) -> bindings::ModelDescriptor {
        (&self.descriptor).into()
    }

    /// The imported files, with the check against candle's own run.
    pub fn imported(&self) -> &Imported {
        &self.imported
    }

    /// The engine's end.
    pub fn runner(&self) -> Arc<dyn Infer> {
        self.engine.clone()
    }

    /// What the plain interpreter of the SDK answers: the same bits, found another way.
    pub fn reference(&self, input: &[u8], params: &Params, seed: [u8; 32]) -> Result<Vec<u8>, RunError> {
        let request = InferRequest { input: input.to_vec(), params: *params, seed };
        Ok(self.imported.model.interpret(&request)?.output)
    }
}

impl Infer for LoadedModel {
    fn infer(&self, batch: &[InferRequest]) -> Vec<Result<Vec<u8>, InferError>> {
        Self::infer(self, batch)
    }

    fn device(&self) -> String {
        Self::device(self)
    }

    fn retrace(&self) -> Option<&dyn Retrace> {
        Some(self)
    }
}
