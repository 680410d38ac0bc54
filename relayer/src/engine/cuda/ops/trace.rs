//! Merkle trees of traces.

use super::{Result, blocks_for, kernel, short};
use crate::engine::cuda::driver::Arg;
use crate::engine::cuda::memory::{Device, Tensor};
use candor_sdk::program::DType;

impl Device {
    /// The root over the leaves of a tensor, as the trace defines it, left on the device; `None` for a tensor without
    /// elements.
    pub(crate) fn tensor_root(&self, x: &Tensor) -> Result<Option<Tensor>> {
        /// Elements of a leaf.
        const LEAF: usize = 128;
        if x.is_empty() {
            return Ok(None);
        }
        let size = x.dtype.size();
        let per_row = x.cols.div_ceil(LEAF);
        let mut count = x.rows * per_row;
        let mut level = self.tensor(DType::U8, count, 32)?;
        let args = args![&level, x, count as u64, short(per_row)?, (x.cols * size) as u64, short(LEAF * size)?];
        self.launch(kernel::hash_leaves, blocks_for(count, 128)?, 128, args)?;
        while count > 1 {
            let parents = self.tensor(DType::U8, count.div_ceil(2), 32)?;
            let args = args![&parents, &level, count as u64];
            self.launch(kernel::hash_pairs, blocks_for(parents.rows, 128)?, 128, args)?;
            count = parents.rows;
            level = parents;
        }
        Ok(Some(level))
    }
}
