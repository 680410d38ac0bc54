//! The thread that owns a device. Everybody else sends it what is to be done and waits.
//!
//! A device that is lost takes everything on it along. The thread drops it all, and opens the device and places the models
//! anew when it is next asked for something: until then, and while that fails, requests get an error that says that
//! trying again may help.

use super::driver::{Description, DeviceError, Driver};
use super::memory::Device;
use super::model::{Answers, DeviceModel, Traced};
use super::selftest::{self, SelfTest};
use crate::engine::{InferError, InferRequest, LoadError, Visit};
use candor_sdk::program::{Model, RequestError, Symbols, Tensor as TraceTensor};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// Opens a device.
type Open = dyn Fn() -> Result<Box<dyn Driver>, DeviceError> + Send;
/// Something to do on the thread that owns a device.
type Command = Box<dyn FnOnce(&mut Owner) + Send>;

/// Tensors of a trace that wait for whoever looks at them.
const WAITING: usize = 4;

/// A device and the thread that owns it. The thread ends when the last handle is dropped.
pub struct Worker {
    name: String,
    description: Description,
    commands: mpsc::Sender<Command>,
    next: AtomicU64,
}

/// What the thread owns.
struct Owner {
    open: Box<Open>,
    device: Option<Device>,
    models: HashMap<u64, Placed>,
}

/// A model that is to be on the device.
struct Placed {
    model: Arc<Model>,
    prefill: usize,
    /// Unless it is yet to be placed, again after the device was lost.
    here: Option<Rc<DeviceModel>>,
}

impl Worker {
    /// Starts the thread, opens the device and has it compute the golden vectors: a device that gets one bit wrong does
    /// not serve.
    ///
    /// # Errors
    /// If the device does not open, or fails its test.
    pub fn start(
        name: impl Into<String>,
        open: impl Fn() -> Result<Box<dyn Driver>, DeviceError> + Send + 'static,
    ) -> Result<Arc<Self>, DeviceError> {
        let name = name.into();
        let (commands, inbox) = mpsc::channel::<Command>();
        let (opened, result) = mpsc::channel();
        thread::Builder::new()
            .name(format!("candor {name}"))
            .spawn(move || {
                let mut owner = Owner { open: Box::new(open), device: None, models: HashMap::new() };
                let started = owner.device().and_then(|device| {
                    let test = selftest::run(&device)?;
                    let description = device.with(|driver| driver.describe());
                    test.result().map(|()| description)
                });
                let failed = started.is_err();
                if opened.send(started).is_err() || failed {
                    return;
                }
                for command in inbox {
                    command(&mut owner);
                }
            })
            .map_err(|error| DeviceError::Failed(format!("no thread: {error}")))?;
        let gone = |_| DeviceError::Lost("its thread ended".to_string());
        let description = result.recv().map_err(gone)??;
        Ok(Arc::new(Self { name, description, commands, next: AtomicU64::new(0) }))
    }

    /// What the device is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The golden vectors, computed by the device once more.
    ///
    /// # Errors
    /// If the device fails. Wrong bits are in the result.
    pub fn self_test(&self) -> Result<SelfTest, DeviceError> {
        self.ask(|owner| owner.device().and_then(|device| selftest::run(&device)))?
    }

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// If the device fails.
    pub fn free_memory(&self) -> Result<u64, DeviceError> {
        self.ask(|owner| owner.device().and_then(|device| device.with(|driver| driver.free_memory())))?
    }

    /// Has the thread do something with its device.
    pub(super) fn with_device<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Device) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<Result<T, DeviceError>, DeviceError> {
        self.ask(|owner| owner.device().and_then(|device| f(&device)))
    }

    /// Has the thread do something and waits for the result.
    fn ask<T: Send + 'static>(&self, f: impl FnOnce(&mut Owner) -> T + Send + 'static) -> Result<T, DeviceError> {
        let (reply, answer) = mpsc::channel();
        let gone = || DeviceError::Lost("its thread ended".to_string());
        let command: Command = Box::new(move |owner| {
            // Whoever asked may have left.
            let _ = reply.send(f(owner));
        });
        self.commands.send(command).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())
    }

    /// Places a model, which is valid.
    pub(in crate::engine) fn load(self: &Arc<Self>, model: Arc<Model>, prefill: usize) -> Result<Remote, LoadError> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let loaded = self.ask(move |owner| {
            owner.models.insert(key, Placed { model, prefill, here: None });
            let loaded = owner.model(key).map(|model| model.generates_by_rows());
            if loaded.is_err() {
                owner.models.remove(&key);
            }
            owner.after(loaded.as_ref().err());
            loaded
        });
        let failed = |error| LoadError::Cuda { device: self.to_string(), source: error };
        let by_rows = loaded.map_err(failed)?.map_err(failed)?;
        Ok(Remote { worker: self.clone(), key, by_rows })
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.description.name)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl Owner {
    /// The device, opened if it is not.
    fn device(&mut self) -> Result<Device, DeviceError> {
        match &self.device {
            Some(device) => Ok(device.clone()),
            None => {
                let device = Device::new((self.open)()?);
                self.device = Some(device.clone());
                Ok(device)
            }
        }
    }

    /// A model, placed on the device if it is not there.
    fn model(&mut self, key: u64) -> Result<Rc<DeviceModel>, DeviceError> {
        let device = self.device()?;
        let gone = || DeviceError::Failed("a model that was unloaded".to_string());
        let placed = self.models.get_mut(&key).ok_or_else(gone)?;
        if let Some(here) = &placed.here {
            return Ok(here.clone());
        }
        let here = Rc::new(DeviceModel::load(&device, placed.model.clone(), placed.prefill)?);
        placed.here = Some(here.clone());
        Ok(here)
    }

    /// Lets go of a device that is lost.
    fn after(&mut self, error: Option<&DeviceError>) {
        if matches!(error, Some(DeviceError::Lost(_))) {
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.models.values_mut().for_each(|placed| placed.here = None);
        self.device = None;
    }
}

/// A model on a device that another thread owns.
pub(in crate::engine) struct Remote {
    worker: Arc<Worker>,
    key: u64,
    by_rows: bool,
}

impl Remote {
    /// Where it runs.
    pub(in crate::engine) fn device(&self) -> String {
        self.worker.to_string()
    }

    /// Whether tokens are generated by computing new rows only.
    pub(in crate::engine) fn generates_by_rows(&self) -> bool {
        self.by_rows
    }

    /// The same model, prompts run in passes of at most `rows` positions.
    pub(in crate::engine) fn set_prefill(&self, rows: usize) {
        let key = self.key;
        // If it fails so will the next request, which says so.
        let _ = self.worker.ask(move |owner| {
            if let Some(placed) = owner.models.get_mut(&key) {
                placed.prefill = rows;
                placed.here = None;
            }
        });
    }

    fn failure(&self, error: DeviceError) -> InferError {
        super::failure(&self.device(), error)
    }

    /// Has the thread do something with the model. A lost device is let go of.
    fn ask<T: Send + 'static>(
        &self,
        f: impl FnOnce(&DeviceModel) -> (T, bool) + Send + 'static,
    ) -> Result<T, InferError> {
        let key = self.key;
        let answer = self.worker.ask(move |owner| match owner.model(key) {
            Err(error) => {
                owner.after(Some(&error));
                Err(error)
            }
            Ok(model) => {
                let (answer, lost) = f(&model);
                drop(model);
                if lost {
                    owner.reset();
                }
                Ok(answer)
            }
        });
        answer.and_then(|answer| answer).map_err(|error| self.failure(error))
    }

    /// See [`LoadedModel::infer`](crate::engine::LoadedModel::infer).
    pub(in crate::engine) fn infer(&self, batch: &[InferRequest]) -> Answers {
        let requests = batch.to_vec();
        let answers = self.ask(move |model| {
            let answers = model.infer(&requests);
            let lost = answers.iter().any(|answer| matches!(answer, Err(InferError::Lost { .. })));
            (answers, lost)
        });
        answers.unwrap_or_else(|error| batch.iter().map(|_| Err(error.again())).collect())
    }

    /// The tokens that the model generates for a request that has been checked.
    pub(in crate::engine) fn generate(&self, request: &InferRequest, symbols: Symbols) -> Result<Vec<u32>, InferError> {
        let request = request.clone();
        self.ask(move |model| {
            let tokens = model.generate(&request, symbols);
            let lost = matches!(tokens, Err(InferError::Lost { .. }));
            (tokens, lost)
        })?
    }

    /// The trace of a run over given tokens; tensors come here only if `visit` wants them.
    pub(in crate::engine) fn replay(
        &self,
        request: &InferRequest,
        symbols: Symbols,
        generated: &[u32],
        visit: Option<Visit<'_>>,
    ) -> Traced {
        let (request, generated) = (request.clone(), generated.to_vec());
        let Some(visit) = visit else {
            return self.ask(move |model| outcome(model.replay(&request, symbols, &generated, None)))?;
        };
        let (tensors, arriving) = mpsc::sync_channel(WAITING);
        thread::scope(|scope| {
            let asked = scope.spawn(move || {
                self.ask(move |model| {
                    let mut send = |node: u32, tensor: TraceTensor| {
                        // Whoever looked may have gone.
                        let _ = tensors.send((node, tensor));
                    };
                    outcome(model.replay(&request, symbols, &generated, Some(&mut send)))
                })
            });
            for (node, tensor) in arriving {
                visit(node, &tensor);
            }
            let ended = || Err(self.failure(DeviceError::Failed("the trace broke off".to_string())));
            asked.join().unwrap_or_else(|_| ended())?
        })
    }
}

fn outcome<T>(result: Result<T, InferError>) -> (Result<T, InferError>, bool) {
    let lost = matches!(result, Err(InferError::Lost { .. }));
    (result, lost)
}

impl Drop for Remote {
    fn drop(&mut self) {
        let key = self.key;
        let command: Command = Box::new(move |owner| {
            owner.models.remove(&key);
        });
        // A thread that has ended holds nothing any more.
        let _ = self.worker.commands.send(command);
    }
}

impl InferError {
    /// The same error for another request of the batch. Only failures of a device are shared.
    fn again(&self) -> Self {
        match self {
            Self::OutOfMemory { device, bytes } => Self::OutOfMemory { device: device.clone(), bytes: *bytes },
            Self::Lost { device, message } => Self::Lost { device: device.clone(), message: message.clone() },
            Self::Device { device, message } => Self::Device { device: device.clone(), message: message.clone() },
            Self::Request(error) => Self::Request(RequestError::clone(error)),
            Self::Model(error) => Self::Model(error.clone()),
            Self::Claim(problem) => Self::Claim(problem.clone()),
        }
    }
}
