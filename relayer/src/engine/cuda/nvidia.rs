//! An NVIDIA GPU, through the driver's own interface as cudarc declares it (candle's dependency, re-exported by it). cuBLAS
//! and the rest of the toolkit are not used: a machine that serves needs NVIDIA's driver and nothing else.

use super::driver::{Arg, Description, DeviceError, Driver, Kernel, Recording};
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Bytes that small uploads pass through on their way, in memory that the device reads by itself.
const STAGING: usize = 1 << 20;
/// The least compute capability: `ARCHITECTURE` of build.rs.
const LEAST: (i32, i32) = (8, 0);

/// A GPU, used by the thread that opened it.
pub(super) struct Nvidia {
    ordinal: usize,
    device: sys::CUdevice,
    stream: sys::CUstream,
    staging: *mut u8,
    /// Bytes of it that the device may still have to read.
    staged: usize,
    recording: bool,
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
        | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | Code::CUDA_ERROR_CONTAINED
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

/// Has the driver translate PTX; what its compiler complains of is in the error.
fn load(name: &str, ptx: &str) -> Result<sys::CUmodule, DeviceError> {
    use sys::CUjit_option_enum as Choice;
    let text = CString::new(ptx).map_err(|_| DeviceError::Failed(format!("kernels/{name}.cu has a zero")))?;
    let mut log = vec![0u8; 4096];
    let mut options = [Choice::CU_JIT_ERROR_LOG_BUFFER, Choice::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The size stands where a pointer would.
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
    let mut module = ptr::null_mut();
    // SAFETY: text that ends in a zero, and two options with their values, all of which outlive the call.
    let loaded = unsafe {
        let image = text.as_ptr().cast();
        sys::cuModuleLoadDataEx(&raw mut module, image, 2, options.as_mut_ptr(), values.as_mut_ptr()).result()
    };
    loaded.map(|()| module).map_err(|error| match meaning(error, 0) {
        DeviceError::Failed(code) => {
            let (major, minor) = Nvidia::version();
            let version = ptx.lines().find_map(|line| line.strip_prefix(".version ")).unwrap_or("unknown");
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            DeviceError::Failed(format!(
                "kernels/{name}.cu does not load ({code}); its PTX is of version {version}, the driver for CUDA \
                 {major}.{minor}. {}",
                log.trim()
            ))
        }
        other => other,
    })
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
        // SAFETY: a device that exists; its primary context is released when `gpu` is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(absent)?;
        let mut gpu = Self {
            ordinal,
            device,
            stream: ptr::null_mut(),
            staging: ptr::null_mut(),
            staged: 0,
            recording: false,
            modules: HashMap::new(),
            functions: HashMap::new(),
            recordings: HashMap::new(),
            next: 0,
        };
        let capability = gpu.capability();
        if capability < LEAST {
            return Err(DeviceError::Absent(format!(
                "cuda:{ordinal} has compute capability {}.{}, and {}.{} is the least that this candor has kernels for",
                capability.0, capability.1, LEAST.0, LEAST.1
            )));
        }
        // SAFETY: the context just retained.
        unsafe { result::ctx::set_current(context) }.map_err(absent)?;
        gpu.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(absent)?;
        // SAFETY: given back when `gpu` is dropped.
        gpu.staging = unsafe { result::malloc_host(STAGING, 0) }.map_err(absent)?.cast();
        Ok(gpu)
    }

    fn capability(&self) -> (i32, i32) {
        use sys::CUdevice_attribute_enum as Attribute;
        (
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
    }

    /// The version of CUDA that the driver is for; 0.0 if it does not say.
    fn version() -> (i32, i32) {
        let mut version = 0;
        // SAFETY: a place for the number.
        let known = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        if known == sys::cudaError_enum::CUDA_SUCCESS { (version / 1000, version % 1000 / 10) } else { (0, 0) }
    }

    /// Waits until all is done that was asked for.
    fn wait(&mut self) -> Result<(), DeviceError> {
        // SAFETY: our stream.
        or(unsafe { result::stream::synchronize(self.stream) })?;
        self.staged = 0;
        Ok(())
    }

    /// What can't be recorded would be done anew with each replay, from memory that is long gone.
    fn not_while_recording(&self, what: &str) -> Result<(), DeviceError> {
        if self.recording { Err(DeviceError::Failed(format!("{what} can't be recorded"))) } else { Ok(()) }
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
                let module = load(kernel.module, ptx)?;
                self.modules.insert(kernel.module, module);
                module
            }
        };
        let name = CString::new(kernel.name).map_err(|_| DeviceError::Failed("a name with a zero".to_string()))?;
        // SAFETY: a module that is loaded.
        let function = or(unsafe { result::module::get_function(module, name) })?;
        if kernel.shared > 0 {
            // More than 48 KiB are only for those who ask.
            let bytes = i32::try_from(kernel.shared).unwrap_or(i32::MAX);
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function that is loaded.
            or(unsafe { result::function::set_function_attribute(function, attribute, bytes) })?;
        }
        self.functions.insert(kernel, function);
        Ok(function)
    }
}

impl Driver for Nvidia {
    fn describe(&self) -> Description {
        use sys::CUdevice_attribute_enum as Attribute;
        let ((major, minor), capability) = (Self::version(), self.capability());
        let multiprocessors = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let shared = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        // SAFETY: a device that exists.
        let memory = unsafe { result::device::total_mem(self.device) }.unwrap_or(0);
        Description {
            name: result::device::get_name(self.device).unwrap_or_else(|_| format!("cuda:{}", self.ordinal)),
            driver: format!("{major}.{minor}"),
            capability: format!("{}.{}", capability.0, capability.1),
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(0),
            memory: memory as u64,
            shared: u32::try_from(shared).unwrap_or(0),
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
        self.not_while_recording("an upload")?;
        // The device may read the bytes after the call has returned: they wait in memory that stays, or we wait.
        if bytes.len() > STAGING {
            // SAFETY: room for the bytes, which stay where they are until the device has them.
            or(unsafe { result::memcpy_htod_async(to, bytes, self.stream) })?;
            return self.wait();
        }
        if self.staged + bytes.len() > STAGING {
            self.wait()?;
        }
        // SAFETY: the part of `staging` from `staged` on has room for the bytes, and nothing that was asked for reads it.
        let staged = unsafe {
            let place = self.staging.add(self.staged);
            ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            std::slice::from_raw_parts(place, bytes.len())
        };
        self.staged += bytes.len().next_multiple_of(64).min(STAGING - self.staged);
        // SAFETY: room for the bytes, which nobody touches before `wait`.
        or(unsafe { result::memcpy_htod_async(to, staged, self.stream) })
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.not_while_recording("a download")?;
        // SAFETY: as many bytes are there, and the slice outlives the wait.
        or(unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) })?;
        self.wait()
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
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| ptr::from_mut(value).cast()).collect();
        let [x, y, z] = grid;
        // SAFETY: `ops.rs` launches kernels with the parameters that they have, which the emulation checks one by one;
        // addresses are those of buffers that are held until the device has done what was asked before.
        or(unsafe {
            result::launch_kernel(function, (x, y, z), (threads, 1, 1), kernel.shared, self.stream, &mut pointers)
        })
    }

    fn begin_recording(&mut self) -> Result<(), DeviceError> {
        // Relaxed: memory may be allocated meanwhile.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: our stream.
        or(unsafe { result::stream::begin_capture(self.stream, mode) })?;
        self.recording = true;
        Ok(())
    }

    fn end_recording(&mut self) -> Result<Recording, DeviceError> {
        self.recording = false;
        // SAFETY: our stream, which is recording.
        let graph = or(unsafe { result::stream::end_capture(self.stream) })?;
        let mut ready: sys::CUgraphExec = ptr::null_mut();
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
            if !self.staging.is_null() {
                let _ = result::free_host(self.staging.cast());
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
