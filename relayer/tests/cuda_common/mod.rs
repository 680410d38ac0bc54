//! The emulated device: builds the kernels with the C++ compiler of this machine and runs them on it.
//!
//! See `emulation.hpp` for what that shows and what it can't.

#![allow(dead_code)] // each test program uses its part

use candor_relayer::engine::cuda::{Arg, Description, DeviceError, Driver, Kernel, Recording, Worker};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Launch =
    unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *mut *mut c_void, *const u32, u32, u64) -> c_int;

/// The compiled kernels.
pub(crate) struct Library {
    launch: Launch,
    message: unsafe extern "C" fn() -> *const c_char,
    name: unsafe extern "C" fn(u32) -> *const c_char,
}

impl Library {
    /// Builds and loads them, once.
    pub(crate) fn get() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let path = CString::new(build().to_str().expect("a path in UTF-8")).expect("no zero in a path");
            // SAFETY: the library was just built from our sources; nothing runs when it is loaded but constructors of
            // its kernel table.
            let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            assert!(!handle.is_null(), "{path:?} can't be loaded");
            let symbol = |name: &CStr| {
                // SAFETY: a handle that was opened and is never closed.
                let symbol = unsafe { libc::dlsym(handle, name.as_ptr()) };
                assert!(!symbol.is_null(), "{name:?} is missing");
                symbol
            };
            // SAFETY: these are the signatures in emulation.cpp.
            unsafe {
                Self {
                    launch: std::mem::transmute::<*mut c_void, Launch>(symbol(c"emulated_launch")),
                    message: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_char>(symbol(
                        c"emulated_message",
                    )),
                    name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> *const c_char>(symbol(
                        c"emulated_name",
                    )),
                }
            }
        })
    }

    /// Names of all kernels.
    pub(crate) fn names(&self) -> Vec<String> {
        (0..)
            // SAFETY: the function takes any number.
            .map(|i| unsafe { (self.name)(i) })
            .take_while(|name| !name.is_null())
            // SAFETY: a string constant of the library.
            .map(|name| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
            .collect()
    }
}

fn sources() -> (PathBuf, PathBuf) {
    let relayer = Path::new(env!("CARGO_MANIFEST_DIR"));
    (relayer.join("src/engine/cuda/kernels"), relayer.join("tests/cuda_common"))
}

/// Compiles every kernel file and the scheduler into one library, unless that is done already.
fn build() -> PathBuf {
    let (kernels, common) = sources();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulation");
    std::fs::create_dir_all(&folder).expect("a folder for what is built");
    let mut files: Vec<PathBuf> = [&kernels, &common]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("sources"))
        .map(|entry| entry.expect("a source").path())
        .filter(|path| path.extension().is_some_and(|end| ["cu", "cuh", "cpp", "hpp"].iter().any(|e| end == *e)))
        .collect();
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325u64; // FNV-1a over names and contents
    for file in &files {
        let contents = std::fs::read(file).expect("a source");
        for byte in file.to_string_lossy().bytes().chain(contents) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    let library = folder.join(format!("kernels-{hash:016x}.so"));
    if library.exists() {
        return library;
    }
    let target = env!("CANDOR_TARGET");
    let compiler = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .target(target)
        .host(target)
        .opt_level(2)
        .debug(false)
        .pic(true)
        .cargo_metadata(false)
        .cargo_output(false)
        .warnings(true)
        .extra_warnings(true)
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        .flag("-U_FORTIFY_SOURCE") // fibers leave stack frames by longjmp
        .flag("-Wno-unknown-pragmas")
        .flag("-Werror")
        .include(&common)
        .get_compiler();
    let private = folder.join(format!("build-{}", std::process::id()));
    std::fs::create_dir_all(&private).expect("a folder for objects");
    let mut running = Vec::new();
    let mut objects = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "cu" || end == "cpp")) {
        let object = private.join(file.file_stem().expect("a name")).with_extension("o");
        let mut command: Command = compiler.to_command();
        // Where the processor has the instruction, `fma` is that and not a call.
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("fma") {
            command.arg("-mfma");
        }
        command.args(["-c", "-x", "c++"]).arg(file).arg("-o").arg(&object);
        running.push((file.clone(), command.spawn().expect("a C++ compiler")));
        objects.push(object);
    }
    for (file, mut compiler) in running {
        assert!(compiler.wait().expect("the compiler").success(), "{} does not compile", file.display());
    }
    let linked = private.join("kernels.so");
    let status = compiler.to_command().arg("-shared").args(&objects).arg("-o").arg(&linked).status();
    assert!(status.expect("a linker").success(), "the kernels do not link");
    // Whoever builds at the same time builds the same.
    std::fs::rename(&linked, &library).expect("to put the library in its place");
    let _ = std::fs::remove_dir_all(&private);
    library
}

/// Whether tests run on a real GPU.
pub(crate) fn real() -> bool {
    std::env::var("CANDOR_TEST_DEVICE").as_deref() == Ok("cuda")
}

/// The GPU that tests run on: emulated, or with `CANDOR_TEST_DEVICE=cuda` the first of this machine. One for a process.
pub(crate) fn worker() -> Arc<Worker> {
    static WORKER: OnceLock<Arc<Worker>> = OnceLock::new();
    let start = || match std::env::var("CANDOR_TEST_DEVICE").as_deref() {
        Err(_) | Ok("emulated") => Worker::start("emulated", || Ok(Box::new(Emulated::new(1)))).expect("the emulation"),
        Ok("cuda") => candor_relayer::engine::cuda::worker(0).expect("a GPU"),
        Ok(other) => panic!("CANDOR_TEST_DEVICE={other}: `emulated` and `cuda` are devices"),
    };
    WORKER.get_or_init(start).clone()
}

/// What a launch or copy was, in a recording.
enum Recorded {
    Launch(Kernel, [u32; 3], u32, Vec<Arg>),
    Copy(u64, u64, usize),
    Clear(u64, usize),
}

/// A device in this machine's memory. Every buffer ends where a page without access begins.
pub(crate) struct Emulated {
    library: &'static Library,
    buffers: HashMap<u64, (usize, usize)>,
    recording: Option<Vec<Recorded>>,
    recordings: HashMap<u64, Vec<Recorded>>,
    launches: u64,
    /// Draws the order of threads and blocks.
    seed: u64,
    /// Whether buffers are allocated in their exact size and given back at once; else as on a real device.
    pub(crate) exact: bool,
    /// Bytes there are.
    pub(crate) memory: Arc<AtomicUsize>,
    used: usize,
    /// Names of the kernels that this device launched, in order.
    pub(crate) log: Arc<Mutex<Vec<&'static str>>>,
    /// How often there was no room for a buffer of a recording.
    pub(crate) unrecorded: Arc<AtomicUsize>,
    /// The device is lost when this many launches more have been made; never if it is negative.
    pub(crate) lost_in: Arc<AtomicI64>,
    /// A bit that turns over in everything that is copied from the device.
    pub(crate) broken_bit: Option<usize>,
}

/// Names of the kernels that were launched in this process.
static LAUNCHED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Names of the kernels that were launched so far.
pub(crate) fn launched() -> BTreeSet<&'static str> {
    LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Emulated {
    /// A device whose threads run in an order drawn by `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            library: Library::get(),
            buffers: HashMap::new(),
            recording: None,
            recordings: HashMap::new(),
            launches: 0,
            seed,
            exact: true,
            memory: Arc::new(AtomicUsize::new(1 << 30)),
            used: 0,
            log: Arc::default(),
            unrecorded: Arc::default(),
            lost_in: Arc::new(AtomicI64::new(-1)),
            broken_bit: None,
        }
    }

    fn check(&self) -> Result<(), DeviceError> {
        match self.lost_in.load(Ordering::SeqCst) {
            0 => Err(DeviceError::Lost("pulled out".to_string())),
            _ => Ok(()),
        }
    }

    fn run(&mut self, kernel: Kernel, grid: [u32; 3], threads: u32, args: &[Arg]) -> Result<(), DeviceError> {
        self.check()?;
        if self.lost_in.load(Ordering::SeqCst) > 0 {
            self.lost_in.fetch_sub(1, Ordering::SeqCst);
            self.check()?;
        }
        LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel.name);
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(kernel.name);
        self.launches += 1;
        let name = CString::new(kernel.name).expect("no zero in a name");
        let mut values: Vec<u64> = args.iter().map(|arg| arg.bits()).collect();
        let sizes: Vec<u32> = args.iter().map(|arg| arg.size() as u32).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        // SAFETY: a name, three dimensions, and as many pointers and sizes as `sizes.len()`, all alive during the call.
        // What kernels read and write through the addresses they are given is what the tests are about.
        let failed = unsafe {
            (self.library.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                threads,
                kernel.shared,
                pointers.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len() as u32,
                self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.launches),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        // SAFETY: a string in the library, this thread's own.
        let message = unsafe { CStr::from_ptr((self.library.message)()) }.to_string_lossy().into_owned();
        Err(DeviceError::Failed(message))
    }
}

const PAGE: usize = 4096;

impl Driver for Emulated {
    fn describe(&self) -> Description {
        Description {
            name: "emulation".to_string(),
            driver: "none".to_string(),
            capability: "9.0".to_string(),
            multiprocessors: 4,
            memory: self.memory.load(Ordering::SeqCst) as u64,
            shared: 227 << 10,
        }
    }

    fn free_memory(&self) -> Result<u64, DeviceError> {
        Ok(self.memory.load(Ordering::SeqCst).saturating_sub(self.used) as u64)
    }

    fn exact(&self) -> bool {
        self.exact
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        self.check()?;
        if self.used + bytes > self.memory.load(Ordering::SeqCst) {
            self.unrecorded.fetch_add(usize::from(self.recording.is_some()), Ordering::SeqCst);
            return Err(DeviceError::OutOfMemory { bytes });
        }
        let body = bytes.next_multiple_of(PAGE);
        // SAFETY: a new mapping anywhere; the last page of it is made inaccessible.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(std::ptr::null_mut(), body + PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED, "memory for the emulated device");
            assert_eq!(libc::mprotect(base.byte_add(body), PAGE, libc::PROT_NONE), 0);
            std::ptr::write_bytes(base.cast::<u8>(), 0xff, body);
            base
        };
        let address = (base as usize + body - bytes.next_multiple_of(16)) as u64;
        self.buffers.insert(address, (base as usize, body + PAGE));
        self.used += bytes;
        Ok(address)
    }

    fn release(&mut self, address: u64, bytes: usize) {
        assert!(self.exact || self.recording.is_none(), "a recording can't wait for the device");
        let (base, mapped) = self.buffers.remove(&address).expect("a buffer of this device");
        self.used -= bytes;
        // SAFETY: the mapping made in `allocate`; whoever uses it afterwards is caught.
        assert_eq!(unsafe { libc::munmap(base as *mut c_void, mapped) }, 0);
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check()?;
        assert!(self.recording.is_none(), "an upload can't be recorded");
        // SAFETY: `to` is memory of this device with room for the bytes; a page without access follows if not.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check()?;
        assert!(self.recording.is_none(), "a download can't be recorded");
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        if let Some(bit) = self.broken_bit {
            let at = bit % (8 * bytes.len());
            bytes[at / 8] ^= 1 << (at % 8);
        }
        Ok(())
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        self.check()?;
        if let Some(recording) = &mut self.recording {
            recording.push(Recorded::Copy(to, from, bytes));
            return Ok(());
        }
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn clear(&mut self, at: u64, bytes: usize) -> Result<(), DeviceError> {
        self.check()?;
        if let Some(recording) = &mut self.recording {
            recording.push(Recorded::Clear(at, bytes));
            return Ok(());
        }
        // SAFETY: as in `upload`.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }

    fn launch(&mut self, kernel: Kernel, grid: [u32; 3], threads: u32, args: &[Arg]) -> Result<(), DeviceError> {
        if let Some(recording) = &mut self.recording {
            recording.push(Recorded::Launch(kernel, grid, threads, args.to_vec()));
            return Ok(());
        }
        self.run(kernel, grid, threads, args)
    }

    fn begin_recording(&mut self) -> Result<(), DeviceError> {
        self.check()?;
        self.recording = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&mut self) -> Result<Recording, DeviceError> {
        let recording = self.recording.take().expect("a recording that was begun");
        let name = self.recordings.len() as u64;
        self.recordings.insert(name, recording);
        Ok(Recording(name))
    }

    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError> {
        let recorded = self.recordings.remove(&recording.0).expect("a recording of this device");
        let mut result = Ok(());
        for item in &recorded {
            result = match item {
                Recorded::Launch(kernel, grid, threads, args) => self.run(*kernel, *grid, *threads, args),
                Recorded::Copy(to, from, bytes) => self.copy(*to, *from, *bytes),
                Recorded::Clear(at, bytes) => self.clear(*at, *bytes),
            };
            if result.is_err() {
                break;
            }
        }
        self.recordings.insert(recording.0, recorded);
        result
    }

    fn forget(&mut self, recording: Recording) {
        // The name stays taken: names are never given twice.
        self.recordings.insert(recording.0, Vec::new());
    }
}
