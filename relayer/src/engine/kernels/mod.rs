//! CPU kernels. Each computes what `docs/arithmetic.md` defines, element by element, to the last bit, and differs from the
//! reference only in how fast. The kernels know slices and lengths, no graphs and no tensors; `ops` hands them the storage
//! of candle tensors.

pub mod attention;
pub mod elementwise;
pub mod gemm;
pub mod isa;
pub mod quantised;
pub mod rows;
pub mod sampling;
mod tiles;

pub use isa::Isa;
pub use tiles::Weight;
