//! Convolution for training: patches laid out as a matrix, then a matrix product.
//!
//! candle's own `conv2d` is fast forwards, but on a CPU its gradient is a plain loop, and an epoch takes many minutes.
//! Written as unfold and matmul the gradient is two matrix products and a fold, all of them fast. Answers are always
//! computed by `conv2d`; only training comes this way.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// The sizes of one convolution without padding, stride 1: `images` of `channels` x `height` x `width`, windows of
/// `kernel` x `kernel`.
#[derive(Debug, Clone, Copy)]
struct Window {
    images: usize,
    channels: usize,
    height: usize,
    width: usize,
    kernel: usize,
}

impl Window {
    fn out(&self) -> (usize, usize) {
        (self.height + 1 - self.kernel, self.width + 1 - self.kernel)
    }

    /// [channels * kernel * kernel, images * positions]
    fn unfolded(&self) -> (usize, usize) {
        let (rows, columns) = self.out();
        (self.channels * self.kernel * self.kernel, self.images * rows * columns)
    }

    fn folded(&self) -> (usize, usize, usize, usize) {
        (self.images, self.channels, self.height, self.width)
    }

    /// Calls `run(unfolded, folded, length)` for every run of elements that lie side by side in both layouts.
    fn for_each_run(&self, mut run: impl FnMut(usize, usize, usize)) {
        let (rows, columns) = self.out();
        let mut unfolded = 0;
        for channel in 0..self.channels {
            for dy in 0..self.kernel {
                for dx in 0..self.kernel {
                    for image in 0..self.images {
                        let plane = (image * self.channels + channel) * self.height;
                        for y in 0..rows {
                            run(unfolded, (plane + y + dy) * self.width + dx, columns);
                            unfolded += columns;
                        }
                    }
                }
            }
        }
    }
}

/// [images, channels, height, width] -> one column per window.
struct Unfold(Window);

/// The gradient of `Unfold`: every element gets the sum over the windows it lies in.
struct Fold(Window);

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("unfold and fold take contiguous tensors"),
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let source = contiguous(storage, layout)?;
        let (rows, columns) = self.0.unfolded();
        let mut out = vec![0.0; rows * columns];
        self.0.for_each_run(|unfolded, folded, n| {
            out[unfolded..unfolded + n].copy_from_slice(&source[folded..folded + n]);
        });
        Ok((CpuStorage::F32(out), Shape::from((rows, columns))))
    }

    fn bwd(&self, _input: &Tensor, _output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(&Fold(self.0))?))
    }
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let source = contiguous(storage, layout)?;
        let shape = Shape::from(self.0.folded());
        let mut out = vec![0.0; shape.elem_count()];
        self.0.for_each_run(|unfolded, folded, n| {
            for (out, value) in out[folded..folded + n].iter_mut().zip(&source[unfolded..unfolded + n]) {
                *out += value;
            }
        });
        Ok((CpuStorage::F32(out), shape))
    }
}

/// What `input.conv2d(weight, 0, 1, 1, 1)` computes, with a fast gradient.
pub(crate) fn conv2d(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = input.dims4()?;
    let (filters, _, kernel, _) = weight.dims4()?;
    let window = Window { images, channels, height, width, kernel };
    let (rows, columns) = window.out();
    let patches = input.contiguous()?.apply_op1(Unfold(window))?;
    let out = weight.flatten_from(1)?.matmul(&patches)?;
    out.reshape((filters, images, rows, columns))?.transpose(0, 1)?.contiguous()
}
