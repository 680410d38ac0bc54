//! What the engine needs of a device: memory, copies, launches, recorded sequences of launches.
//!
//! There are two implementations: `nvidia.rs` behind the feature `cuda`, and the emulation that the tests
//! bring (`tests/cuda_common`), which runs the same kernel sources on the host. Everything above this trait is the same
//! code for both.

use thiserror::Error;

/// A kernel: the source file it is in, its name there, and what it needs besides its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file, `kernels/<module>.cu`.
    pub module: &'static str,
    /// The function.
    pub name: &'static str,
    /// Bytes of shared memory that a launch brings for each block, besides what the kernel declares.
    pub shared: u32,
}

/// A kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// An address on the device, 0 for none.
    Address(u64),
    /// A 64-bit number.
    U64(u64),
    /// A 32-bit number.
    U32(u32),
    /// An f32.
    F32(f32),
}

impl Arg {
    /// Bytes it takes.
    pub const fn size(self) -> usize {
        match self {
            Self::Address(_) | Self::U64(_) => 8,
            Self::U32(_) | Self::F32(_) => 4,
        }
    }

    /// Its bits, the low ones if it is shorter.
    pub const fn bits(self) -> u64 {
        match self {
            Self::Address(bits) | Self::U64(bits) => bits,
            Self::U32(bits) => bits as u64,
            Self::F32(x) => x.to_bits() as u64,
        }
    }
}

/// A recorded sequence of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recording(pub u64);

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name: `NVIDIA H100 PCIe`.
    pub name: String,
    /// The driver's version: `13.0`.
    pub driver: String,
    /// Compute capability: `9.0`.
    pub capability: String,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of shared memory that a block can have.
    pub shared: u32,
}

/// What can go wrong on a device.
#[derive(Clone, Debug, Error)]
pub enum DeviceError {
    /// There is no such device, or nothing to talk to it with.
    #[error("{0}")]
    Absent(String),
    /// No room for this many bytes.
    #[error("out of memory: no room for {bytes} bytes")]
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The device, or the process's hold on it, is gone. What was on it is lost; it may come back.
    #[error("lost: {0}")]
    Lost(String),
    /// A launch or copy was refused, or the device computes wrong numbers. Trying again doesn't help.
    #[error("{0}")]
    Failed(String),
}

/// A device. Work is done in the order in which it is asked for; `download` waits for it.
pub trait Driver {
    /// What it is.
    fn describe(&self) -> Description;

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// If the device does not answer.
    fn free_memory(&self) -> Result<u64, DeviceError>;

    /// Whether memory is best asked for in the exact size and given back at once: slow, but reads beyond an end are
    /// noticed.
    fn exact(&self) -> bool {
        false
    }

    /// Memory with any contents, aligned to 16 bytes at least.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or if the device has failed.
    fn allocate(&mut self, bytes: usize) -> Result<u64, DeviceError>;

    /// Gives memory back; work that was asked for earlier may still use it.
    fn release(&mut self, address: u64, bytes: usize);

    /// Copies to the device.
    ///
    /// # Errors
    /// If the device has failed.
    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device, after all work so far.
    ///
    /// # Errors
    /// If any of that work has failed, or the device.
    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies within the device.
    ///
    /// # Errors
    /// If the device has failed.
    fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError>;

    /// Makes bytes zero.
    ///
    /// # Errors
    /// If the device has failed.
    fn clear(&mut self, at: u64, bytes: usize) -> Result<(), DeviceError>;

    /// Launches `threads` threads in each of `grid` blocks, which have the shared memory that the kernel needs.
    ///
    /// # Errors
    /// If the launch is refused, or the device has failed. A kernel that fails while it runs may show later.
    fn launch(&mut self, kernel: Kernel, grid: [u32; 3], threads: u32, args: &[Arg]) -> Result<(), DeviceError>;

    /// From here on launches and copies within the device are recorded instead of done.
    ///
    /// # Errors
    /// If the device has failed.
    fn begin_recording(&mut self) -> Result<(), DeviceError>;

    /// Ends a recording.
    ///
    /// # Errors
    /// If the device has failed, or something was asked for meanwhile that can't be recorded.
    fn end_recording(&mut self) -> Result<Recording, DeviceError>;

    /// Does what was recorded.
    ///
    /// # Errors
    /// If the device has failed.
    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError>;

    /// Forgets a recording.
    fn forget(&mut self, recording: Recording);
}
