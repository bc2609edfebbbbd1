//! Gradients of the rotary embedding and of attention.

use cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg};

use crate::cuda::memory::Buffer;
use crate::cuda::module::gradients;
use crate::cuda::{Device, along, failed, grid, words};
use crate::error::{Error, Result, product};
use crate::ops::attention::RotaryShape;
use crate::ops::backward::attention::SelfAttentionShape;

/// Query rows of a block, and its threads: see `kernels/backward_attention.cu`.
const ROWS: usize = 4;
const THREADS: u32 = 128;
/// Keys, and columns of a head, of a block of the second kernel.
const SIDE: usize = 64;
/// Widest head: 4 rows of q, of dy and of sums lie in shared memory.
const MOST_HEAD_DIM: usize = 512;
/// Bytes of probabilities, and of their gradients with them, of the query rows that are gone over at once.
const PORTION_BYTES: usize = 32 << 20;
/// Blocks of threads that a large GPU runs at once: as many go over query rows where there is memory for it.
const BLOCKS: usize = 512;

/// A portion of the work: one head of each group, and some query rows.
#[derive(Debug, Clone, Copy)]
struct Portion {
    member: usize,
    first: usize,
    count: usize,
}

impl Device {
    pub(super) fn rotate_dx(
        &self,
        s: RotaryShape,
        d: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "rotary_dx";
        s.check(d.len, positions.len, table.len)?;
        self.owns(KERNEL, &[d, table])?;
        positions.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[s.rows, s.heads, s.rotary_dim / 2])? else {
            return Ok(());
        };
        let sizes = [s.rows, s.heads, s.head_dim, s.rotary_dim];
        let [rows, heads, head_dim, rotary_dim] = words(KERNEL, sizes)?;
        let [stride, offset, table_rows] = words(KERNEL, [s.stride, s.offset, s.positions])?;
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut d.data).arg(&positions.data).arg(&table.data);
        args.arg(&rows).arg(&heads).arg(&head_dim).arg(&rotary_dim);
        args.arg(&stride).arg(&offset).arg(&table_rows);
        // SAFETY: rotary_dx(d, positions, table, rows, heads, head_dim, rotary_dim, stride, offset, table_rows). As rotary:
        // `check` proved that heads lie inside a row and rotated pairs inside a head; the kernel compares each position with
        // the table's rows, and threads past the last pair leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn attend_dx(
        &self,
        s: SelfAttentionShape,
        qkv: &Buffer<f32>,
        dy: &Buffer<f32>,
        dqkv: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "attention_dx";
        s.check(qkv.len, dy.len, dqkv.len)?;
        self.owns(OP, &[qkv, dy, dqkv])?;
        if s.head_dim > MOST_HEAD_DIM {
            return Err(Error::Range {
                op: OP,
                arg: "head_dim",
                got: s.head_dim as u64,
                min: 1,
                max: MOST_HEAD_DIM as u64,
            });
        }
        if s.rows == 0 {
            return Ok(());
        }
        // Portions are whole blocks of query rows, at least one.
        let row_bytes = product(OP, &[s.n_kv_heads, s.rows, size_of::<f32>()])?;
        let blocks = (BLOCKS / s.n_kv_heads).min(PORTION_BYTES / 2 / row_bytes / ROWS);
        let portion = (blocks.max(1) * ROWS).min(s.rows);
        let bytes = product(OP, &[portion, row_bytes])?;
        let mut work = [self.bytes(OP, bytes)?, self.bytes(OP, bytes)?];
        for member in 0..s.n_heads / s.n_kv_heads {
            for first in (0..s.rows).step_by(portion) {
                let own = Portion {
                    member,
                    first,
                    count: portion.min(s.rows - first),
                };
                self.rows_dx((s, own), qkv, dy, dqkv, &mut work)?;
                self.keys_dx((s, own), qkv, dy, dqkv, &work)?;
            }
        }
        Ok(())
    }

    /// The gradient of a portion's queries; leaves its probabilities and their gradients.
    fn rows_dx(
        &self,
        (s, own): (SelfAttentionShape, Portion),
        qkv: &Buffer<f32>,
        dy: &Buffer<f32>,
        dqkv: &mut Buffer<f32>,
        [p, ds]: &mut [CudaSlice<u8>; 2],
    ) -> Result<()> {
        const KERNEL: &str = "attention_dx_rows";
        let sizes = [s.rows, s.n_heads, s.n_kv_heads, s.head_dim, s.causal];
        let [rows, n_heads, n_kv_heads, head_dim, causal] = words(KERNEL, sizes)?;
        let [member, first, count] = words(KERNEL, [own.member, own.first, own.count])?;
        let [shared_mem_bytes] = words(KERNEL, [3 * ROWS * s.head_dim * size_of::<f32>()])?;
        let shape = LaunchConfig {
            shared_mem_bytes,
            ..grid(KERNEL, own.count.div_ceil(ROWS), s.n_kv_heads, THREADS)?
        };
        let f = self.gradient(gradients::ATTENTION, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dqkv.data).arg(p).arg(ds);
        args.arg(&qkv.data).arg(&dy.data);
        args.arg(&rows).arg(&n_heads).arg(&n_kv_heads);
        args.arg(&head_dim).arg(&causal);
        args.arg(&member).arg(&first).arg(&count);
        // SAFETY: attention_dx_rows(dqkv, p, ds, qkv, dy, rows, n_heads, n_kv_heads, head_dim, causal, member, first, count).
        // `check` proved that qkv and dqkv hold rows of all heads and dy rows of n_heads; p and ds hold n_kv_heads · count ·
        // rows elements; member lies in a group and first + count below rows. Shared memory holds three times 4 heads.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    /// Adds a portion's part of the gradients of keys and values; the first portion begins them.
    fn keys_dx(
        &self,
        (s, own): (SelfAttentionShape, Portion),
        qkv: &Buffer<f32>,
        dy: &Buffer<f32>,
        dqkv: &mut Buffer<f32>,
        [p, ds]: &[CudaSlice<u8>; 2],
    ) -> Result<()> {
        const KERNEL: &str = "attention_dx_keys";
        let sizes = [s.rows, s.n_heads, s.n_kv_heads, s.head_dim, s.causal];
        let [rows, n_heads, n_kv_heads, head_dim, causal] = words(KERNEL, sizes)?;
        let [member, first, count] = words(KERNEL, [own.member, own.first, own.count])?;
        let squares = product(KERNEL, &[s.rows.div_ceil(SIDE), s.head_dim.div_ceil(SIDE)])?;
        let shape = grid(KERNEL, squares, product(KERNEL, &[2, s.n_kv_heads])?, 256)?;
        let f = self.gradient(gradients::ATTENTION, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dqkv.data).arg(p).arg(ds);
        args.arg(&qkv.data).arg(&dy.data);
        args.arg(&rows).arg(&n_heads).arg(&n_kv_heads);
        args.arg(&head_dim).arg(&causal);
        args.arg(&member).arg(&first).arg(&count);
        // SAFETY: attention_dx_keys(dqkv, p, ds, qkv, dy, rows, n_heads, n_kv_heads, head_dim, causal, member, first, count).
        // As attention_dx_rows, which made p and ds for the keys that a row sees; the kernel reads no others, and reads and
        // writes below rows and head_dim.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
