//! Codebooks.

use cudarc::driver::PushKernelArg;

use super::faults::Check;
use super::memory::Buffer;
use super::module::Family::Vq;
use super::{Device, along, failed, grid, words};
use crate::error::Result;
use crate::ops::vq::{GatherShape, LfqShape, NearestShape};

impl Device {
    pub(super) fn gathered(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "gather";
        s.check(index.len, table.len, out.len)?;
        self.owns(KERNEL, &[table, out])?;
        index.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[s.rows, s.width])? else {
            return Ok(());
        };
        let [rows, width, table_rows] = words(KERNEL, [s.rows, s.width, s.table_rows])?;
        let f = self.function(Vq, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&index.data).arg(&table.data);
        args.arg(&rows).arg(&width).arg(&table_rows);
        // SAFETY: gather(out, index, table, rows, width, table_rows). `check` proved all three lengths; the kernel
        // compares each index with table_rows, and threads past the last element leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn lfq_latents(
        &self,
        s: LfqShape,
        codes: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "lfq_lookup";
        s.check(codes.len, out.len)?;
        self.owns(KERNEL, &[out])?;
        codes.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[s.n, s.bits])? else {
            return Ok(());
        };
        let [n, bits] = words(KERNEL, [s.n, s.bits])?;
        let f = self.function(Vq, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&codes.data).arg(&n).arg(&bits);
        // SAFETY: lfq_lookup(out, codes, n, bits). `check` proved that codes hold n and out n · bits elements and that
        // bits are at most 31; threads past the last element leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn lfq_signs(
        &self,
        s: LfqShape,
        latents: &Buffer<f32>,
        codes: &mut Buffer<u32>,
    ) -> Result<()> {
        const KERNEL: &str = "lfq_codes";
        s.check(codes.len, latents.len)?;
        self.owns(KERNEL, &[latents])?;
        codes.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[s.n])? else {
            return Ok(());
        };
        let [n, bits] = words(KERNEL, [s.n, s.bits])?;
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Lfq)?;
        let f = self.function(Vq, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut codes.data).arg(&mut bad).arg(&latents.data);
        args.arg(&n).arg(&bits);
        // SAFETY: lfq_codes(codes, bad, latents, n, bits). As lfq_lookup; bad is a word.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn nearest_codes(
        &self,
        s: NearestShape,
        latents: &Buffer<f32>,
        codebook: &Buffer<f32>,
        codes: &mut Buffer<u32>,
    ) -> Result<()> {
        const KERNEL: &str = "nearest";
        s.check(latents.len, codebook.len, codes.len)?;
        self.owns(KERNEL, &[latents, codebook])?;
        codes.belongs(KERNEL, &self.stream)?;
        if s.n == 0 {
            return Ok(());
        }
        if s.width <= super::nearest::WIDTH && s.entries <= super::nearest::ENTRIES {
            return self.nearest_narrow(s, latents, codebook, codes);
        }
        let [width, entries] = words(KERNEL, [s.width, s.entries])?;
        let normalise = u32::from(s.normalise);
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Nearest)?;
        let f = self.function(Vq, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut codes.data).arg(&mut bad);
        args.arg(&latents.data).arg(&codebook.data);
        args.arg(&width).arg(&entries).arg(&normalise);
        // SAFETY: nearest(codes, bad, latents, codebook, width, entries, normalise), a block for each latent. `check`
        // proved that latents hold n · width and the codebook entries · width elements, and codes n.
        unsafe { args.launch(grid(KERNEL, s.n, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
