//! Group norm: sums of parts by many blocks, their totals by a block a group, then the pixels.

use cudarc::driver::{CudaSlice, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::GroupNorm;
use super::{Device, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::norm::GroupNormShape;

/// Pixels of a part.
const PIXELS: usize = 64;
/// Threads of a block that sums parts, and of the others.
const PART_THREADS: usize = 128;
const THREADS: usize = 256;

impl Device {
    pub(super) fn norm_groups(
        &self,
        s: GroupNormShape,
        x: &Buffer<f32>,
        [weight, bias]: [&Buffer<f32>; 2],
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "group_norm";
        s.check(x.len, weight.len, bias.len, y.len)?;
        self.owns(OP, &[x, weight, bias, y])?;
        if s.images == 0 {
            return Ok(());
        }
        let float = size_of::<f32>();
        let parts = product(OP, &[s.images, s.pixels.div_ceil(PIXELS), s.channels])?;
        let mut statistics = self.bytes(OP, product(OP, &[s.images, s.groups, 2, float])?)?;
        let mut sums = self.bytes(OP, product(OP, &[parts, float])?)?;
        for squares in [false, true] {
            self.group_parts(s, x, &statistics, &mut sums, (parts, squares))?;
            self.group_totals(s, &sums, &mut statistics, squares)?;
        }
        let four = s.channels.is_multiple_of(4) && (s.channels / s.groups).is_multiple_of(4);
        let (kernel, each) = if four {
            ("group_apply_4", 4)
        } else {
            ("group_apply", 1)
        };
        // A picture's elements are numbered in 32 bits, those of threads past the last one included.
        let numbers = product(OP, &[s.pixels, s.channels])?;
        words(OP, [numbers.saturating_add(each * THREADS)])?;
        let [pixels, channels, groups] = words(OP, [s.pixels, s.channels, s.groups])?;
        let swish = u32::from(s.swish);
        let shape = grid(OP, numbers.div_ceil(each * THREADS), s.images, 256)?;
        let f = self.function(GroupNorm, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut y.data).arg(&x.data);
        args.arg(&weight.data).arg(&bias.data).arg(&statistics);
        args.arg(&pixels).arg(&channels).arg(&groups).arg(&swish);
        // SAFETY: group_apply*(y, x, weight, bias, statistics, pixels, channels, groups, swish), a row of blocks for each
        // image. `check` proved that the groups divide the channels and that all lengths are there; `group_totals` has
        // written two numbers for each group. Four channels at a time lie in one group, at multiples of 16 bytes.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    /// The sums of every 64 pixels of a channel; of squares, once the means are there.
    fn group_parts(
        &self,
        s: GroupNormShape,
        x: &Buffer<f32>,
        statistics: &CudaSlice<u8>,
        sums: &mut CudaSlice<u8>,
        (parts, squares): (usize, bool),
    ) -> Result<()> {
        let kernel = ["group_parts", "group_squares"][usize::from(squares)];
        words(kernel, [parts.saturating_add(PART_THREADS)])?;
        let shape = grid(kernel, parts.div_ceil(PART_THREADS), 1, 128)?;
        let sizes = [s.images, s.pixels, s.channels, s.groups];
        let [images, pixels, channels, groups] = words(kernel, sizes)?;
        let f = self.function(GroupNorm, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(sums).arg(&x.data).arg(statistics);
        args.arg(&images).arg(&pixels).arg(&channels).arg(&groups);
        // SAFETY: group_parts and group_squares(parts, x, statistics, images, pixels, channels, groups), a thread for each
        // part: sums hold a number for each; threads past the last image's leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    /// The mean of every group, or what its differences from it are multiplied by.
    fn group_totals(
        &self,
        s: GroupNormShape,
        sums: &CudaSlice<u8>,
        statistics: &mut CudaSlice<u8>,
        squares: bool,
    ) -> Result<()> {
        const KERNEL: &str = "group_totals";
        let shape = grid(KERNEL, product(KERNEL, &[s.images, s.groups])?, 1, 256)?;
        let [pixels, channels, groups] = words(KERNEL, [s.pixels, s.channels, s.groups])?;
        let squares = u32::from(squares);
        let f = self.function(GroupNorm, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(statistics).arg(sums);
        args.arg(&pixels).arg(&channels).arg(&groups);
        args.arg(&s.eps).arg(&squares);
        // SAFETY: group_totals(statistics, parts, pixels, channels, groups, eps, squares), a block for each group of each
        // image; the parts are those that `group_parts` has written, statistics hold two numbers for each group.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
