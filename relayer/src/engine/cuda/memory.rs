//! Memory of a device: buffers that give themselves back, and tensors in them.

use super::driver::{Arg, DeviceError, Driver, Kernel, Recording};
use candor_sdk::program::DType;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

type Result<T> = std::result::Result<T, DeviceError>;

/// Steps between two powers of two in which sizes of buffers grow: an eighth may be wasted, and few sizes are kept.
const STEPS: usize = 8;
/// The smallest buffer.
const SMALLEST: usize = 512;

/// A device in use by one thread.
#[derive(Clone)]
pub struct Device(Rc<State>);

struct State {
    driver: RefCell<Box<dyn Driver>>,
    /// Buffers that nobody uses, by size. The device works in order, so a buffer may be used again at once.
    spare: RefCell<HashMap<usize, Vec<u64>>>,
    /// While launches are recorded: the buffers that the recording uses, and those of them that nobody holds.
    recording: RefCell<Option<Private>>,
    exact: bool,
    multiprocessors: usize,
    /// Bytes of shared memory that a block can have.
    shared: u32,
}

#[derive(Default)]
struct Private {
    all: Vec<(u64, usize)>,
    spare: HashMap<usize, Vec<u64>>,
}

/// Bytes on the device; given back when the last clone is dropped.
pub struct Buffer {
    device: Device,
    address: u64,
    bytes: usize,
    /// A recording uses it, and gives it back when it is forgotten.
    private: bool,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let state = &self.device.0;
        if !self.private {
            state.give_back(self.address, self.bytes);
        } else if let Some(private) = state.recording.borrow_mut().as_mut().filter(|_| !state.exact) {
            private.spare.entry(self.bytes).or_default().push(self.address);
        }
    }
}

impl State {
    fn give_back(&self, address: u64, bytes: usize) {
        if self.exact {
            self.driver.borrow_mut().release(address, bytes);
        } else {
            self.spare.borrow_mut().entry(bytes).or_default().push(address);
        }
    }
}

/// Launches to do again, and the memory that they use.
pub struct Recorded {
    device: Device,
    recording: Recording,
    buffers: Vec<(u64, usize)>,
}

impl Recorded {
    /// Does them.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn replay(&self) -> Result<()> {
        self.device.0.driver.borrow_mut().replay(self.recording)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.device.0.driver.borrow_mut().forget(self.recording);
        self.buffers.drain(..).for_each(|(address, bytes)| self.device.0.give_back(address, bytes));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let driver = self.driver.get_mut();
        for (bytes, addresses) in self.spare.get_mut().drain() {
            addresses.into_iter().for_each(|address| driver.release(address, bytes));
        }
    }
}

impl Device {
    /// Takes a driver over.
    pub fn new(driver: Box<dyn Driver>) -> Self {
        let (exact, about) = (driver.exact(), driver.describe());
        Self(Rc::new(State {
            driver: RefCell::new(driver),
            spare: RefCell::default(),
            recording: RefCell::default(),
            exact,
            multiprocessors: (about.multiprocessors as usize).max(1),
            shared: about.shared,
        }))
    }

    /// Multiprocessors of the device.
    pub(super) fn multiprocessors(&self) -> usize {
        self.0.multiprocessors
    }

    /// Bytes of shared memory that a block of threads can have.
    pub(super) fn shared(&self) -> u32 {
        self.0.shared
    }

    /// The driver, for what is not memory.
    pub fn with<T>(&self, f: impl FnOnce(&mut dyn Driver) -> T) -> T {
        f(self.0.driver.borrow_mut().as_mut())
    }

    /// Room for `bytes` bytes, with any contents.
    ///
    /// # Errors
    /// If there is none.
    pub fn allocate(&self, bytes: usize) -> Result<Rc<Buffer>> {
        let bytes = if self.0.exact { bytes.max(1) } else { size_class(bytes) };
        let private = self.0.recording.borrow_mut().as_mut().and_then(|private| private.spare.get_mut(&bytes)?.pop());
        if let Some(address) = private {
            return Ok(Rc::new(Buffer { device: self.clone(), address, bytes, private: true }));
        }
        let spare = self.0.spare.borrow_mut().get_mut(&bytes).and_then(Vec::pop);
        let address = match spare {
            Some(address) => address,
            None => self.allocate_anew(bytes)?,
        };
        let mut recording = self.0.recording.borrow_mut();
        let private = recording.is_some();
        if let Some(recording) = recording.as_mut() {
            recording.all.push((address, bytes));
        }
        Ok(Rc::new(Buffer { device: self.clone(), address, bytes, private }))
    }

    /// Memory from the driver; what is spare in other sizes is given back if that makes room. Not while launches are
    /// recorded: memory is given back when the device has done with it, which a recording can't wait for.
    fn allocate_anew(&self, bytes: usize) -> Result<u64> {
        let recording = self.0.recording.borrow().is_some();
        let mut driver = self.0.driver.borrow_mut();
        match driver.allocate(bytes) {
            Err(DeviceError::OutOfMemory { .. }) if !recording => {
                for (bytes, addresses) in self.0.spare.borrow_mut().drain() {
                    addresses.into_iter().for_each(|address| driver.release(address, bytes));
                }
                driver.allocate(bytes)
            }
            other => other,
        }
    }

    /// Records the launches that `f` asks for. Nothing is computed until they are replayed; what `f` returns is where the
    /// results of each replay will be.
    ///
    /// # Errors
    /// Those of `f`, or if the device has failed.
    pub fn record<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<(T, Recorded)> {
        self.0.driver.borrow_mut().begin_recording()?;
        *self.0.recording.borrow_mut() = Some(Private::default());
        let result = f();
        let recording = self.0.driver.borrow_mut().end_recording();
        let buffers = self.0.recording.borrow_mut().take().unwrap_or_default().all;
        let give_back = |buffers: Vec<(u64, usize)>| {
            buffers.into_iter().for_each(|(address, bytes)| self.0.give_back(address, bytes));
        };
        match (result, recording) {
            (Ok(result), Ok(recording)) => Ok((result, Recorded { device: self.clone(), recording, buffers })),
            (Err(error), recording) => {
                if let Ok(recording) = recording {
                    self.0.driver.borrow_mut().forget(recording);
                }
                give_back(buffers);
                Err(error)
            }
            (Ok(_), Err(error)) => {
                give_back(buffers);
                Err(error)
            }
        }
    }

    /// A buffer with these bytes.
    ///
    /// # Errors
    /// If there is no room, or the device has failed.
    pub fn upload(&self, bytes: &[u8]) -> Result<Rc<Buffer>> {
        let buffer = self.allocate(bytes.len())?;
        self.write(&buffer, bytes)?;
        Ok(buffer)
    }

    /// A buffer with these words.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn upload_words(&self, words: impl IntoIterator<Item = u32>) -> Result<Rc<Buffer>> {
        self.upload(&words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
    }

    /// Replaces the first bytes of a buffer.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn write(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        if bytes.len() > buffer.bytes {
            return Err(DeviceError::Failed(format!("{} bytes into a buffer of {}", bytes.len(), buffer.bytes)));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.driver.borrow_mut().upload(buffer.address, bytes)
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn zeros(&self, bytes: usize) -> Result<Rc<Buffer>> {
        let buffer = self.allocate(bytes)?;
        self.0.driver.borrow_mut().clear(buffer.address, buffer.bytes)?;
        Ok(buffer)
    }

    /// Launches a kernel.
    ///
    /// # Errors
    /// If the device refuses or has failed.
    pub fn launch(&self, kernel: Kernel, grid: [u32; 3], threads: u32, args: &[Arg]) -> Result<()> {
        self.0.driver.borrow_mut().launch(kernel, grid, threads, args)
    }

    /// A tensor of any contents.
    ///
    /// # Errors
    /// If there is no room.
    pub fn tensor(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let buffer = self.allocate(rows * cols * dtype.size())?;
        Ok(Tensor { buffer, offset: 0, dtype, rows, cols })
    }

    /// A tensor of the given bytes, elements little-endian.
    ///
    /// # Errors
    /// If there is no room, or the device has failed.
    pub fn tensor_of(&self, dtype: DType, (rows, cols): (usize, usize), bytes: &[u8]) -> Result<Tensor> {
        if bytes.len() != rows * cols * dtype.size() {
            return Err(DeviceError::Failed(format!("{} bytes for {rows} x {cols} {dtype:?}", bytes.len())));
        }
        Ok(Tensor { buffer: self.upload(bytes)?, offset: 0, dtype, rows, cols })
    }

    /// A tensor of f32.
    ///
    /// # Errors
    /// As [`Device::tensor_of`].
    pub fn floats(&self, shape: (usize, usize), values: &[f32]) -> Result<Tensor> {
        self.tensor_of(DType::F32, shape, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// A tensor of f32 with these bits.
    ///
    /// # Errors
    /// As [`Device::tensor_of`].
    pub fn float_bits(&self, shape: (usize, usize), bits: &[u32]) -> Result<Tensor> {
        self.tensor_of(DType::F32, shape, &bits.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// A tensor of u32.
    ///
    /// # Errors
    /// As [`Device::tensor_of`].
    pub fn integers(&self, shape: (usize, usize), values: &[u32]) -> Result<Tensor> {
        self.tensor_of(DType::U32, shape, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    }
}

/// The next size of which buffers are kept.
fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(SMALLEST);
    let step = (bytes.next_power_of_two() / 2 / STEPS).max(SMALLEST / STEPS);
    bytes.div_ceil(step) * step
}

impl Buffer {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }
}

/// The tensor of a node, for all requests of a batch, one below the other.
#[derive(Clone)]
pub struct Tensor {
    buffer: Rc<Buffer>,
    /// In bytes.
    offset: usize,
    /// Type of its elements.
    pub dtype: DType,
    /// Rows of all requests.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl Tensor {
    /// A tensor in a buffer.
    pub fn in_buffer(buffer: Rc<Buffer>, dtype: DType, rows: usize, cols: usize) -> Self {
        Self { buffer, offset: 0, dtype, rows, cols }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its elements.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Where its elements lie.
    pub fn address(&self) -> u64 {
        self.buffer.address + self.offset as u64
    }

    /// The same elements in other rows and columns.
    pub fn reshaped(&self, rows: usize, cols: usize) -> Result<Self> {
        if rows * cols != self.len() {
            return Err(DeviceError::Failed(format!("{} x {} as {rows} x {cols}", self.rows, self.cols)));
        }
        Ok(Self { rows, cols, ..self.clone() })
    }

    /// Some consecutive rows.
    pub fn narrowed(&self, first: usize, rows: usize) -> Result<Self> {
        if first + rows > self.rows {
            return Err(DeviceError::Failed(format!("rows {first}..{} of {}", first + rows, self.rows)));
        }
        let offset = self.offset + first * self.cols * self.dtype.size();
        Ok(Self { offset, rows, ..self.clone() })
    }

    /// Its elements, little-endian, in this machine's memory.
    ///
    /// # Errors
    /// If the device, or work it was given, has failed.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.byte_len()];
        if !bytes.is_empty() {
            self.buffer.device.0.driver.borrow_mut().download(self.address(), &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Its elements as 32-bit numbers; bytes are widened.
    ///
    /// # Errors
    /// As [`Tensor::bytes`].
    pub fn words(&self) -> Result<Vec<u32>> {
        let bytes = self.bytes()?;
        Ok(match self.dtype.size() {
            4 => bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
            _ => bytes.into_iter().map(u32::from).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn sizes_of_buffers_waste_an_eighth_at_most() {
        assert_eq!([0, 1, 512, 513].map(size_class), [512, 512, 512, 576]);
        for bytes in (1..5_000_000).step_by(4_093) {
            let (least, class) = (bytes.max(512), size_class(bytes));
            assert!(class >= least && 8 * (class - least) <= least, "{bytes}: {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
