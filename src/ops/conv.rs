//! Convolutions of the pixel encoders and decoders, and the way between bytes and numbers. Images are NHWC.
//!
//! ```
//! use maquette::ops::conv::{PatchShape, patchify, pixel_value};
//! // Two pixels become two patches of one pixel, channel by channel.
//! let s = PatchShape { images: 1, height: 1, width: 2, patch: 1 };
//! let mut out = [0.0; 6];
//! patchify(s, &[255, 0, 0, 0, 0, 255], &mut out)?;
//! assert_eq!(out, [1.0, -1.0, -1.0, -1.0, -1.0, 1.0]);
//! assert_eq!(pixel_value(255), 1.0);
//! # Ok::<(), maquette::Error>(())
//! ```

mod pixels;

pub use pixels::{PatchShape, Rounding, patchify, pixel_value, to_bytes};

use crate::error::{Error, Result, covers, product};
use crate::ops::counted;
use crate::ops::gemm::{Activations, GemmShape, gemm};
use crate::ops::norm::nonzero;
use crate::quant::{A8_BLOCK, QuantMatrix};

/// Largest `kernel · kernel · c_in` that the reference handles on its stack.
const PATCH_MAX: usize = 9 * 1024;

/// Shape of a convolution. The weight matrix is `[c_out, kernel · kernel · c_in]`, its columns ordered
/// (kernel row, kernel column, input channel).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Number of images.
    pub images: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels of the input.
    pub c_in: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Distance between outputs, in input pixels.
    pub stride: usize,
    /// Distance between kernel taps, in input pixels.
    pub dilation: usize,
    /// Zeros before the first row and column.
    pub pad_before: usize,
    /// Zeros after the last row and column.
    pub pad_after: usize,
    /// Whether every input pixel counts twice in both directions first (nearest upsampling).
    pub upsample: bool,
    /// Whether the result is added to what `y` holds.
    pub accumulate: bool,
    /// The arithmetic. A convolution is multiplied in floats unless its input channels are whole blocks of 32.
    pub activations: Activations,
}

impl ConvShape {
    /// A convolution with stride 1 that keeps the size.
    #[must_use]
    pub const fn same(
        images: usize,
        size: [usize; 2],
        c_in: usize,
        c_out: usize,
        kernel: usize,
    ) -> Self {
        Self {
            images,
            height: size[0],
            width: size[1],
            c_in,
            c_out,
            kernel,
            stride: 1,
            dilation: 1,
            pad_before: kernel / 2,
            pad_after: kernel / 2,
            upsample: false,
            accumulate: false,
            activations: Activations::F32,
        }
    }

    /// Inputs of one output: columns of the weight matrix.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.kernel
            .saturating_mul(self.kernel)
            .saturating_mul(self.c_in)
    }

    /// Rows and columns of the output; zero where the kernel does not fit, and for a shape that [`check`](Self::check) refuses
    /// for its kernel or stride.
    #[must_use]
    pub const fn output(&self) -> [usize; 2] {
        [self.along(self.height), self.along(self.width)]
    }

    const fn along(&self, size: usize) -> usize {
        if self.kernel == 0 || self.stride == 0 {
            return 0;
        }
        let size = size.saturating_mul(if self.upsample { 2 } else { 1 });
        let padded = size
            .saturating_add(self.pad_before)
            .saturating_add(self.pad_after);
        let between = self.dilation.saturating_mul(self.kernel - 1);
        if padded <= between {
            0
        } else {
            (padded - between - 1) / self.stride + 1
        }
    }

    /// Multiply-adds of the convolution of a shape that [`check`](Self::check) accepts; those that meet the padding count
    /// like the others.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        let taps = [self.kernel, self.kernel, self.c_in, self.c_out];
        let [rows, cols] = self.output();
        counted(&taps).saturating_mul(counted(&[self.images, rows, cols]))
    }

    /// Checks the lengths of x, bias and y.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, bias: usize, y: usize) -> Result<()> {
        const OP: &str = "conv2d";
        for (arg, size) in [
            ("c_in", self.c_in),
            ("c_out", self.c_out),
            ("kernel", self.kernel),
            ("stride", self.stride),
            ("dilation", self.dilation),
        ] {
            nonzero(OP, arg, size)?;
        }
        // Bounds every sum and product below: no real picture or kernel comes near.
        for (arg, size) in [
            ("height", self.height),
            ("width", self.width),
            ("c_in", self.c_in),
            ("kernel", self.kernel),
            ("dilation", self.dilation),
            ("pad", self.pad_before.max(self.pad_after)),
        ] {
            if size > 1 << 20 {
                return Err(Error::Range {
                    op: OP,
                    arg,
                    got: size as u64,
                    min: 0,
                    max: 1 << 20,
                });
            }
        }
        product(OP, &[self.kernel, self.kernel, self.c_in])?;
        covers(
            OP,
            "x",
            x,
            product(OP, &[self.images, self.height, self.width, self.c_in])?,
        )?;
        covers(OP, "bias", bias, self.c_out)?;
        let [rows, cols] = self.output();
        covers(
            OP,
            "y",
            y,
            product(OP, &[self.images, rows, cols, self.c_out])?,
        )
    }

    /// The input pixel behind one kernel tap of one output along an axis of `size` pixels, or none where it is padding.
    #[inline]
    #[must_use]
    pub const fn tap(&self, output: usize, tap: usize, size: usize) -> Option<usize> {
        let at = output * self.stride + tap * self.dilation;
        if at < self.pad_before {
            return None;
        }
        let at = if self.upsample {
            (at - self.pad_before) / 2
        } else {
            at - self.pad_before
        };
        if at < size { Some(at) } else { None }
    }

    /// The product that one output pixel is.
    #[must_use]
    pub const fn product(&self, pixels: usize) -> GemmShape {
        GemmShape {
            accumulate: self.accumulate,
            activations: if self.c_in.is_multiple_of(A8_BLOCK) {
                self.activations
            } else {
                Activations::F32
            },
            ..GemmShape::new(pixels, self.c_out, self.k())
        }
    }
}

/// y\[i, r, c, :\] (+)= Σ over taps and channels of x · w + bias, each output pixel summed as in
/// [`gemm`].
///
/// # Errors
/// See [`ConvShape::check`]; [`Error::Range`] for more than 9216 inputs an output, which is the reference's bound.
pub fn conv2d(
    s: ConvShape,
    x: &[f32],
    w: &QuantMatrix<'_>,
    bias: &[f32],
    y: &mut [f32],
) -> Result<()> {
    s.check(x.len(), bias.len(), y.len())?;
    s.product(1).check_matrix(w.n(), w.k())?;
    let mut patch = [0.0; PATCH_MAX];
    if s.k() > PATCH_MAX {
        return Err(Error::Range {
            op: "conv2d",
            arg: "k",
            got: s.k() as u64,
            min: 1,
            max: PATCH_MAX as u64,
        });
    }
    let [rows, cols] = s.output();
    let mut out = y.chunks_exact_mut(s.c_out);
    for image in 0..s.images {
        for r in 0..rows {
            for c in 0..cols {
                for (t, part) in patch
                    .chunks_exact_mut(s.c_in)
                    .take(s.kernel * s.kernel)
                    .enumerate()
                {
                    let from = (
                        s.tap(r, t / s.kernel, s.height),
                        s.tap(c, t % s.kernel, s.width),
                    );
                    if let (Some(h), Some(w)) = from {
                        part.copy_from_slice(
                            &x[((image * s.height + h) * s.width + w) * s.c_in..][..s.c_in],
                        );
                    } else {
                        part.fill(0.0);
                    }
                }
                if let Some(y) = out.next() {
                    gemm(s.product(1), &patch[..s.k()], w, Some(bias), y)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_worked_by_hand() {
        let s = ConvShape::same(1, [2, 2], 1, 1, 3);
        let mut kernel = [0.0; 9];
        // The pixel itself and ten times its right neighbour.
        (kernel[4], kernel[5]) = (1.0, 10.0);
        let w = QuantMatrix::f32(1, 9, &kernel).unwrap();
        let mut y = [0.0; 4];
        conv2d(s, &[1.0, 2.0, 3.0, 4.0], &w, &[0.5], &mut y).unwrap();
        assert_eq!(y, [21.5, 2.5, 43.5, 4.5]);
        conv2d(
            ConvShape {
                accumulate: true,
                ..s
            },
            &[1.0, 2.0, 3.0, 4.0],
            &w,
            &[0.0],
            &mut y,
        )
        .unwrap();
        assert_eq!(y, [42.5, 4.5, 86.5, 8.5]);
    }

    #[test]
    fn upsampling_and_striding_back_is_the_identity() {
        let w = QuantMatrix::f32(1, 1, &[1.0]).unwrap();
        let up = ConvShape {
            upsample: true,
            ..ConvShape::same(1, [2, 3], 1, 1, 1)
        };
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut large = [0.0; 24];
        conv2d(up, &x, &w, &[0.0], &mut large).unwrap();
        assert_eq!(
            &large[..12],
            &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
        );
        let down = ConvShape {
            stride: 2,
            ..ConvShape::same(1, [4, 6], 1, 1, 1)
        };
        let mut y = [0.0; 6];
        conv2d(down, &large, &w, &[0.0], &mut y).unwrap();
        assert_eq!(y, x);
    }

    #[test]
    fn a_kernel_larger_than_the_image_gives_nothing() {
        let s = ConvShape {
            pad_before: 0,
            pad_after: 0,
            ..ConvShape::same(1, [2, 2], 1, 1, 3)
        };
        assert_eq!(s.output(), [0, 0]);
    }

    #[test]
    fn shapes_that_are_refused_have_sizes_all_the_same() {
        let s = ConvShape::same(1, [5, 5], 1, 1, 3);
        for s in [
            ConvShape { kernel: 0, ..s },
            ConvShape { stride: 0, ..s },
            ConvShape {
                dilation: usize::MAX,
                ..s
            },
        ] {
            assert_eq!(s.output(), [0; 2]);
            assert!(s.check(25, 1, 25).is_err());
        }
        let (kernel, height) = (usize::MAX, usize::MAX);
        assert_eq!(ConvShape { kernel, ..s }.k(), usize::MAX);
        assert_eq!(ConvShape { height, ..s }.output()[1], 5);
        let none = PatchShape {
            images: 1,
            height: 4,
            width: 4,
            patch: 0,
        };
        assert_eq!(none.grid(), [0; 2]);
        assert!(none.check(48, 48).is_err());
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let s = ConvShape::same(1, [2, 2], 1, 1, 3);
        assert!(s.check(3, 1, 4).is_err());
        assert!(s.check(4, 0, 4).is_err());
        assert!(s.check(4, 1, 3).is_err());
        assert!(ConvShape { c_in: 0, ..s }.check(4, 1, 4).is_err());
        assert!(
            ConvShape {
                height: usize::MAX,
                ..s
            }
            .check(4, 1, 4)
            .is_err()
        );
        assert!(
            PatchShape {
                images: 1,
                height: 2,
                width: 2,
                patch: 0
            }
            .check(12, 12)
            .is_err()
        );
    }
}
