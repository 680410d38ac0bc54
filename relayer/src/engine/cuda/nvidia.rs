//! An NVIDIA GPU, through the driver's own interface as cudarc declares it (candle's dependency, re-exported by it). cuBLAS
//! and the rest of the toolkit are not used: a machine that serves needs NVIDIA's driver and nothing else.

use super::driver::{Arg, Description, DeviceError, Driver, Kernel, Recording};
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// A GPU, used by the thread that opened it.
pub(super) struct Nvidia {
    ordinal: usize,
    device: sys::CUdevice,
    stream: sys::CUstream,
    /// Loaded when a kernel of them is first launched.
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<Kernel, sys::CUfunction>,
    recordings: HashMap<u64, sys::CUgraphExec>,
    next: u64,
}

/// What an error means to whoever waits for an answer.
fn meaning(error: DriverError, bytes: usize) -> DeviceError {
    use sys::cudaError_enum as Code;
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    match error.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes },
        Code::CUDA_ERROR_NO_DEVICE | Code::CUDA_ERROR_INVALID_DEVICE => DeviceError::Absent(name),
        // These leave nothing that works; the context has to be made anew.
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_LAUNCH_TIMEOUT
        | Code::CUDA_ERROR_ECC_UNCORRECTABLE
        | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
        | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | Code::CUDA_ERROR_DEINITIALIZED
        | Code::CUDA_ERROR_UNKNOWN => DeviceError::Lost(name),
        _ => DeviceError::Failed(name),
    }
}

fn or<T>(result: Result<T, DriverError>) -> Result<T, DeviceError> {
    result.map_err(|error| meaning(error, 0))
}

impl Nvidia {
    /// Opens GPU `ordinal` and makes it current on this thread.
    pub(super) fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let absent = |error: DriverError| {
            let name = match meaning(error, 0) {
                DeviceError::Absent(name) | DeviceError::Failed(name) | DeviceError::Lost(name) => name,
                DeviceError::OutOfMemory { .. } => "out of memory".to_string(),
            };
            DeviceError::Absent(format!(
                "cuda:{ordinal} can't be used ({name}): is there an NVIDIA GPU of this number, and a driver for CUDA 13 \
                 or newer? `nvidia-smi` tells; device = \"cpu\" needs neither"
            ))
        };
        result::init().map_err(absent)?;
        let number = i32::try_from(ordinal).map_err(|_| DeviceError::Absent(format!("cuda:{ordinal}")))?;
        let device = result::device::get(number).map_err(absent)?;
        // SAFETY: a device that exists; its primary context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(absent)?;
        // SAFETY: the context just retained.
        unsafe { result::ctx::set_current(context) }.map_err(absent)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(absent)?;
        Ok(Self {
            ordinal,
            device,
            stream,
            modules: HashMap::new(),
            functions: HashMap::new(),
            recordings: HashMap::new(),
            next: 0,
        })
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> i32 {
        // SAFETY: a device that exists.
        unsafe { result::device::get_attribute(self.device, attribute) }.unwrap_or(0)
    }

    fn function(&mut self, kernel: Kernel) -> Result<sys::CUfunction, DeviceError> {
        if let Some(function) = self.functions.get(&kernel) {
            return Ok(*function);
        }
        let module = match self.modules.get(kernel.module) {
            Some(module) => *module,
            None => {
                let missing = || DeviceError::Failed(format!("no kernels in {}", kernel.module));
                let (_, ptx) = MODULES.iter().find(|(name, _)| *name == kernel.module).ok_or_else(missing)?;
                let text = CString::new(*ptx).map_err(|_| missing())?;
                // SAFETY: PTX text that ends in a zero and lives as long as the call.
                let module = unsafe { result::module::load_data(text.as_ptr().cast()) };
                let module = module.map_err(|error| match meaning(error, 0) {
                    DeviceError::Failed(name) => {
                        DeviceError::Failed(format!("kernels/{}.cu does not load ({name})", kernel.module))
                    }
                    other => other,
                })?;
                self.modules.insert(kernel.module, module);
                module
            }
        };
        let name = CString::new(kernel.name).map_err(|_| DeviceError::Failed("a name with a zero".to_string()))?;
        // SAFETY: a module that is loaded.
        let function = or(unsafe { result::module::get_function(module, name) })?;
        self.functions.insert(kernel, function);
        Ok(function)
    }
}

impl Driver for Nvidia {
    fn describe(&self) -> Description {
        use sys::CUdevice_attribute_enum as Attribute;
        let mut version = 0;
        // SAFETY: a place for the number.
        let known = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        let version = if known == sys::cudaError_enum::CUDA_SUCCESS { version } else { 0 };
        let major = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        let minor = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        let multiprocessors = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        // SAFETY: a device that exists.
        let memory = unsafe { result::device::total_mem(self.device) }.unwrap_or(0);
        Description {
            name: result::device::get_name(self.device).unwrap_or_else(|_| format!("cuda:{}", self.ordinal)),
            driver: format!("{}.{}", version / 1000, version % 1000 / 10),
            capability: format!("{major}.{minor}"),
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(0),
            memory: memory as u64,
        }
    }

    fn free_memory(&self) -> Result<u64, DeviceError> {
        or(result::mem_get_info()).map(|(free, _)| free as u64)
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        // SAFETY: the memory is used through its address only.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| meaning(error, bytes))
    }

    fn release(&mut self, address: u64, _bytes: usize) {
        // SAFETY: our stream; memory of `allocate`, given back once, when the work that uses it is done. If the device is
        // lost there is nothing to give back.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::free_sync(address);
        }
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: room for the bytes, which are pageable memory: the driver has taken them when it returns.
        or(unsafe { result::memcpy_htod_async(to, bytes, self.stream) })
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        // SAFETY: as many bytes are there, and the slice outlives the wait.
        or(unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) })?;
        // SAFETY: our stream.
        or(unsafe { result::stream::synchronize(self.stream) })
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: both ranges are memory of this device.
        or(unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
    }

    fn clear(&mut self, at: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the range is memory of this device.
        or(unsafe { result::memset_d8_async(at, 0, bytes, self.stream) })
    }

    fn launch(&mut self, kernel: Kernel, grid: [u32; 3], threads: u32, args: &[Arg]) -> Result<(), DeviceError> {
        let function = self.function(kernel)?;
        let mut values: Vec<u64> = args.iter().map(|arg| arg.bits()).collect();
        // A 32-bit parameter is the first half of its word on every machine that has such a GPU.
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let [x, y, z] = grid;
        // SAFETY: `ops.rs` launches kernels with the parameters that they have, which the emulation checks one by one;
        // addresses are those of buffers that are held until the device has done what was asked before.
        or(unsafe { result::launch_kernel(function, (x, y, z), (threads, 1, 1), 0, self.stream, &mut pointers) })
    }

    fn begin_recording(&mut self) -> Result<(), DeviceError> {
        // Relaxed: memory may be allocated meanwhile.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: our stream.
        or(unsafe { result::stream::begin_capture(self.stream, mode) })
    }

    fn end_recording(&mut self) -> Result<Recording, DeviceError> {
        // SAFETY: our stream, which is recording.
        let graph = or(unsafe { result::stream::end_capture(self.stream) })?;
        let mut ready: sys::CUgraphExec = std::ptr::null_mut();
        // SAFETY: a graph that was just recorded, and a place for what is made of it.
        let made = or(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0) }.result());
        // SAFETY: the graph; what was made of it does not need it.
        let _ = unsafe { result::graph::destroy(graph) };
        made?;
        self.next += 1;
        self.recordings.insert(self.next, ready);
        Ok(Recording(self.next))
    }

    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError> {
        let unknown = || DeviceError::Failed("a recording that was forgotten".to_string());
        let graph = *self.recordings.get(&recording.0).ok_or_else(unknown)?;
        // SAFETY: a graph that is kept, on our stream; its buffers are held by whoever replays it.
        or(unsafe { result::graph::launch(graph, self.stream) })
    }

    fn forget(&mut self, recording: Recording) {
        if let Some(graph) = self.recordings.remove(&recording.0) {
            // SAFETY: a graph of ours; the driver waits for it if it runs.
            let _ = unsafe { result::graph::exec_destroy(graph) };
        }
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: everything was made in `open` or since, is used by nobody any more, and is destroyed once. A device that
        // is lost refuses, and has nothing to give back.
        unsafe {
            for (_, graph) in self.recordings.drain() {
                let _ = result::graph::exec_destroy(graph);
            }
            for (_, module) in self.modules.drain() {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
