//! The nearest code of narrow latents: approximate distances by tensor cores, exact ones of what is left.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg};

use super::faults::Check;
use super::memory::Buffer;
use super::module::Family::Nearest;
use super::{Device, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::vq::NearestShape;

/// Widest latent, and most entries: a grid has no more rows of blocks.
pub(super) const WIDTH: usize = 8;
pub(super) const ENTRIES: usize = GROUP * 65_535;
/// Latents and entries of a warp, warps of a block of threads, and minima that a warp leaves of a latent.
const LATENTS: usize = 128;
const GROUP: usize = 512;
const WARPS: usize = 4;
const PARTS: usize = 4;
/// Latents of a portion, and bytes of their minima: those of more would fill the memory.
const PORTION: usize = 16_384;
const MINIMA_BYTES: usize = 64 << 20;
/// Warps of a block that finishes.
const FINISHERS: usize = 8;
/// Threads of both.
const SCREEN_THREADS: u32 = 128;
const FINISH_THREADS: u32 = 256;

/// Rows as they are and as sums of two short floats, padded, and a number of each.
struct Prepared {
    exact: CudaSlice<u8>,
    short: CudaSlice<u8>,
    sides: CudaSlice<u8>,
}

impl Device {
    /// The codes of latents up to 8 wide, whose lengths have been checked.
    pub(super) fn nearest_narrow(
        &self,
        s: NearestShape,
        latents: &Buffer<f32>,
        codebook: &Buffer<f32>,
        codes: &mut Buffer<u32>,
    ) -> Result<()> {
        const OP: &str = "nearest";
        let groups = s.entries.div_ceil(GROUP);
        let mut most = self.zero_bytes(OP, size_of::<f32>())?;
        let all = codebook.part(OP, "codebook", 0, s.entries * s.width)?;
        let size = [s.entries, s.width, product(OP, &[groups, GROUP])?];
        let entries = self.prepared(size, &all, &mut most, None)?;
        let fitting = MINIMA_BYTES / (groups * PARTS * size_of::<f32>()).max(1);
        let portion = (fitting / LATENTS * LATENTS).clamp(LATENTS, PORTION);
        for first in (0..s.n).step_by(portion) {
            let some = portion.min(s.n - first);
            let rows = latents.part(OP, "latents", first * s.width, some * s.width)?;
            let size = [some, s.width, some.next_multiple_of(LATENTS)];
            let rows = self.prepared(size, &rows, &mut most, Some(s.normalise))?;
            let minima = product(OP, &[size[2], groups, PARTS, size_of::<f32>()])?;
            let mut least = self.bytes(OP, minima)?;
            self.screened(&rows, &entries, &mut least, [size[2], groups])?;
            let mut to = codes.part_mut(OP, "codes", 0, s.n)?;
            let sizes = [some, groups, s.entries, first];
            self.finished([&rows, &entries], [&least, &most], &mut to, sizes)?;
        }
        Ok(())
    }

    /// Entries, or latents and whether they are brought to length 1.
    fn prepared(
        &self,
        [rows, width, padded]: [usize; 3],
        source: &CudaView<'_, u8>,
        most: &mut CudaSlice<u8>,
        latents: Option<bool>,
    ) -> Result<Prepared> {
        const KERNEL: &str = "nearest_prepare";
        let floats =
            |count| self.bytes(KERNEL, product(KERNEL, &[padded, count, size_of::<f32>()])?);
        let mut to = Prepared {
            exact: floats(WIDTH)?,
            short: floats(WIDTH)?,
            sides: floats(1)?,
        };
        let shape = elements(KERNEL, padded)?;
        let [rows, width, padded] = words(KERNEL, [rows, width, padded])?;
        let (is_latents, normalise) = (
            u32::from(latents.is_some()),
            u32::from(latents == Some(true)),
        );
        let f = self.function(Nearest, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut to.exact)
            .arg(&mut to.short)
            .arg(&mut to.sides)
            .arg(most)
            .arg(source);
        args.arg(&rows).arg(&width).arg(&padded);
        args.arg(&is_latents).arg(&normalise);
        // SAFETY: nearest_prepare(exact, table, side, most, source, rows, width, padded, latents, normalise). The source
        // holds rows · width floats, width at most 8; the others have 8, 8 and 1 for each of padded rows, and one word.
        // Entries are padded to whole blocks of threads, whose warps meet at shuffles.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(to)
    }

    /// The least approximate distance of every part of the entries from every latent.
    fn screened(
        &self,
        latents: &Prepared,
        entries: &Prepared,
        least: &mut CudaSlice<u8>,
        [padded, groups]: [usize; 2],
    ) -> Result<()> {
        const KERNEL: &str = "nearest_screen";
        let shape = grid(
            KERNEL,
            padded.div_ceil(LATENTS * WARPS),
            groups,
            SCREEN_THREADS,
        )?;
        let [groups, padded] = words(KERNEL, [groups, padded])?;
        let f = self.function(Nearest, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(least)
            .arg(&latents.short)
            .arg(&entries.short)
            .arg(&entries.sides);
        args.arg(&groups).arg(&padded);
        // SAFETY: nearest_screen(least, latents, entries, squares, groups, padded). Latents are padded to those of whole warps,
        // entries to whole groups; warps behind the last latents leave; least holds a number for each part of each.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    /// The codes of the latents from `first` on.
    fn finished(
        &self,
        [latents, entries]: [&Prepared; 2],
        [least, most]: [&CudaSlice<u8>; 2],
        codes: &mut CudaViewMut<'_, u8>,
        [some, groups, count, first]: [usize; 4],
    ) -> Result<()> {
        const KERNEL: &str = "nearest_finish";
        words(KERNEL, [first.saturating_add(some)])?;
        let shape = grid(KERNEL, some.div_ceil(FINISHERS), 1, FINISH_THREADS)?;
        let [some, groups, count, first] = words(KERNEL, [some, groups, count, first])?;
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Nearest)?;
        let f = self.function(Nearest, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(codes).arg(&mut bad).arg(least);
        args.arg(&latents.exact).arg(&latents.sides);
        args.arg(&entries.exact).arg(most);
        args.arg(&some).arg(&groups).arg(&count).arg(&first);
        // SAFETY: nearest_finish(codes, bad, least, latents, lengths, entries, most, n, groups, count, first). The others
        // are what `prepared` and `screened` made for these sizes; codes hold first + n words, and warps from n on leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
