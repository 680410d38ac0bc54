//! Attention and rotary embedding.

use super::{Extent, elements, for_each_row};
use crate::engine::kernels::Isa;
use crate::engine::kernels::attention::{Heads, Memory, attend, mixes, push_keys, scores};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, bail};
use candor_sdk::arithmetic::scalar::{add, mul, sub};

/// Scores of queries and keys: row `i * heads + h`, column `j`.
pub struct Scores {
    /// Kernels to use.
    pub isa: Isa,
    /// The heads; values have no width.
    pub heads: Heads,
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of the queries.
    pub queries: Extent,
    /// Shape of the keys.
    pub keys: Extent,
}

impl CustomOp2 for Scores {
    fn name(&self) -> &'static str {
        "attention scores"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, y: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (elements::<f32>(x, lx)?, elements::<f32>(y, ly)?);
        let (rows, length) = (self.queries.rows * self.heads.heads, self.keys.rows);
        let mut out = vec![0f32; self.batch * rows * length];
        for (request, out) in out.chunks_exact_mut(rows * length).enumerate() {
            let mut keys = Vec::new();
            push_keys(&mut keys, 0, self.keys.of(y, request), self.heads.shared(), self.heads.key_width);
            scores(
                self.isa,
                &self.heads,
                self.queries.of(x, request),
                Memory { keys: &keys, values: &[], length },
                out,
            );
        }
        Ok((CpuStorage::F32(out), (self.batch * rows, length).into()))
    }
}

/// Rows of weights times transposed values: row `i`, column `h * width + d`.
pub struct Mix {
    /// Kernels to use.
    pub isa: Isa,
    /// The heads; keys have no width.
    pub heads: Heads,
    /// Requests in the batch.
    pub batch: usize,
    /// Shape of the weights.
    pub weights: Extent,
    /// Shape of the values: one row for each column of a head, one column for each position.
    pub values: Extent,
}

impl CustomOp2 for Mix {
    fn name(&self) -> &'static str {
        "attention mix"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, y: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (elements::<f32>(x, lx)?, elements::<f32>(y, ly)?);
        let Heads { heads, value_width, .. } = self.heads;
        let (rows, cols) = (self.weights.rows / heads, heads * value_width);
        let (width, length) = (self.values.rows, self.values.cols);
        let mut out = vec![0f32; self.batch * rows * cols];
        for (request, out) in out.chunks_exact_mut(rows * cols).enumerate() {
            let transposed = self.values.of(y, request);
            let mut values = vec![0f32; width * length];
            for (d, row) in transposed.chunks_exact(length).enumerate() {
                for (position, &y) in row.iter().enumerate() {
                    values[position * width + d] = y;
                }
            }
            mixes(
                self.isa,
                &self.heads,
                self.weights.of(x, request),
                Memory { keys: &[], values: &values, length },
                out,
            );
        }
        Ok((CpuStorage::F32(out), (self.batch * rows, cols).into()))
    }
}

/// Scores, softmax numerators, mix and division in one: no row of scores leaves the cache.
pub struct Attention {
    /// Kernels to use.
    pub isa: Isa,
    /// The heads.
    pub heads: Heads,
    /// Requests in the batch.
    pub batch: usize,
    /// Shapes of queries, keys and values.
    pub operands: [Extent; 3],
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (elements::<f32>(q, lq)?, elements::<f32>(k, lk)?, elements::<f32>(v, lv)?);
        let [queries, keys, values] = &self.operands;
        let (rows, cols) = (queries.rows, self.heads.heads * self.heads.value_width);
        let mut out = vec![0f32; self.batch * rows * cols];
        for (request, out) in out.chunks_exact_mut(rows * cols).enumerate() {
            let mut panels = Vec::new();
            push_keys(&mut panels, 0, keys.of(k, request), self.heads.shared(), self.heads.key_width);
            let memory = Memory { keys: &panels, values: values.of(v, request), length: keys.rows };
            attend(self.isa, &self.heads, queries.of(q, request), 0, memory, out);
        }
        Ok((CpuStorage::F32(out), (self.batch * rows, cols).into()))
    }
}

/// Rotary embedding of the first `rotary` columns of each head.
pub struct Rope<'a> {
    /// Columns of a head.
    pub head: usize,
    /// Columns that turn.
    pub rotary: usize,
    /// The request and the position of a row of the tensor.
    pub position: &'a (dyn Fn(usize) -> (usize, usize) + Sync),
    /// Shapes of the tables.
    pub tables: [Extent; 2],
    /// Columns of the operand.
    pub cols: usize,
}

impl CustomOp3 for Rope<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        cos: &CpuStorage,
        lc: &Layout,
        sin: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (cos, sin) = (elements::<f32>(cos, lc)?, elements::<f32>(sin, ls)?);
        let half = self.rotary / 2;
        let mut out = elements::<f32>(x, lx)?.to_vec();
        for_each_row(&mut out, self.cols, self.cols, |i, out| {
            let (request, position) = (self.position)(i);
            let cos = self.tables[0].row_at(cos, request, position);
            let sin = self.tables[1].row_at(sin, request, position);
            for head in out.chunks_exact_mut(self.head) {
                let (low, high) = head[..self.rotary].split_at_mut(half);
                for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (x, y) = (*a, *b);
                    *a = sub(mul(x, cos), mul(y, sin));
                    *b = add(mul(y, cos), mul(x, sin));
                }
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

/// Keys and values of the positions before, of one request and layer.
#[derive(Debug, Default)]
pub struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
    length: usize,
}

impl Cache {
    /// Positions it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// The next rows of causal attention for several requests, one below the other in `q`, `k` and `v`: of each, as many as
/// `spans` says. Keys and values are appended to the caches.
pub fn attend_cached<'c>(
    isa: Isa,
    heads: &Heads,
    [q, k, v]: [&Tensor; 3],
    spans: impl Iterator<Item = (usize, &'c mut Cache)>,
) -> Result<Tensor> {
    let ((sq, lq), (sk, lk), (sv, lv)) = (q.storage_and_layout(), k.storage_and_layout(), v.storage_and_layout());
    let (Storage::Cpu(sq), Storage::Cpu(sk), Storage::Cpu(sv)) = (&*sq, &*sk, &*sv) else {
        bail!("attention: no kernel for this device");
    };
    let (mut q, mut k, mut v) = (elements::<f32>(sq, lq)?, elements::<f32>(sk, lk)?, elements::<f32>(sv, lv)?);
    let (query, key, value) =
        (heads.heads * heads.key_width, heads.shared() * heads.key_width, heads.shared() * heads.value_width);
    let cols = heads.heads * heads.value_width;
    let mut out = vec![0f32; q.len() / query * cols];
    let mut rest = out.as_mut_slice();
    for (count, cache) in spans {
        let (queries, keys, values);
        (queries, q) = q.split_at(count * query);
        (keys, k) = k.split_at(count * key);
        (values, v) = v.split_at(count * value);
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count * cols);
        rest = later;
        let first = cache.length;
        push_keys(&mut cache.keys, first, keys, heads.shared(), heads.key_width);
        cache.values.extend_from_slice(values);
        cache.length += count;
        attend(
            isa,
            heads,
            queries,
            first,
            Memory { keys: &cache.keys, values: &cache.values, length: cache.length },
            now,
        );
    }
    let rows = out.len() / cols;
    Tensor::from_vec(out, (rows, cols), &Device::Cpu)
}
