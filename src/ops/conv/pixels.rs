//! The way between bytes and numbers.

use crate::error::{Error, Result, covers, product};
use crate::ops::norm::nonzero;

/// How a pixel in [-1, 1] becomes a byte. The released programs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// (x + 1) / 2 · 255, clamped and truncated: Show-o and Janus.
    #[default]
    Truncate,
    /// (x + 1) / 2 · 255 + 1/2, clamped and truncated: LlamaGen's scripts for single pictures.
    Nearest,
    /// 127.5 x + 128, clamped and truncated: LlamaGen's scripts for many processes.
    Shift,
}

impl Rounding {
    /// The byte of a pixel.
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=255; NaN becomes 0"
    )]
    pub fn byte(self, x: f32) -> u8 {
        match self {
            Self::Truncate => (((x + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0) as u8,
            Self::Nearest => ((x.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0 + 0.5) as u8,
            Self::Shift => (127.5 * x + 128.0).clamp(0.0, 255.0) as u8,
        }
    }
}

/// out = [`Rounding::byte`] of x, over `len` elements.
///
/// # Errors
/// Fewer elements than `len`, or a pixel that is not a number.
pub fn to_bytes(rounding: Rounding, len: usize, x: &[f32], out: &mut [u8]) -> Result<()> {
    covers("to_bytes", "x", x.len(), len)?;
    covers("to_bytes", "out", out.len(), len)?;
    for (i, (x, out)) in x.iter().zip(out).enumerate().take(len) {
        if x.is_nan() {
            return Err(Error::NotFinite {
                op: "to_bytes",
                arg: "x",
                row: i,
            });
        }
        *out = rounding.byte(*x);
    }
    Ok(())
}

/// The value of a byte for an image tower: byte / 255 in double precision, rounded, then (v − 0.5) / 0.5.
#[inline]
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to single precision is the definition"
)]
pub fn pixel_value(byte: u8) -> f32 {
    ((f64::from(byte) * (1.0 / 255.0)) as f32 - 0.5) / 0.5
}

/// Shape of cutting images into square patches; pixels at the right and bottom that fill no patch are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchShape {
    /// Number of images.
    pub images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Rows and columns of a patch.
    pub patch: usize,
}

impl PatchShape {
    /// Patches down and across one image; none of a patch without pixels.
    #[must_use]
    pub const fn grid(&self) -> [usize; 2] {
        match self.patch {
            0 => [0; 2],
            patch => [self.height / patch, self.width / patch],
        }
    }

    /// Checks the lengths of pixels and out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, pixels: usize, out: usize) -> Result<()> {
        const OP: &str = "patchify";
        nonzero(OP, "patch", self.patch)?;
        covers(
            OP,
            "pixels",
            pixels,
            product(OP, &[self.images, self.height, self.width, 3])?,
        )?;
        let [rows, cols] = self.grid();
        let patch = product(OP, &[3, self.patch, self.patch])?;
        covers(
            OP,
            "out",
            out,
            product(OP, &[self.images, rows, cols, patch])?,
        )
    }
}

/// out\[image, patch, (channel, row, column)\] = pixel_value(pixels), patches row by row.
///
/// # Errors
/// See [`PatchShape::check`].
pub fn patchify(s: PatchShape, pixels: &[u8], out: &mut [f32]) -> Result<()> {
    s.check(pixels.len(), out.len())?;
    let [rows, cols] = s.grid();
    let area = s.patch * s.patch;
    for image in 0..s.images {
        for patch in 0..rows * cols {
            let out = &mut out[(image * rows * cols + patch) * 3 * area..][..3 * area];
            for (i, out) in out.iter_mut().enumerate() {
                let (channel, r, c) = (i / area, i % area / s.patch, i % s.patch);
                let row = image * s.height + patch / cols * s.patch + r;
                let col = patch % cols * s.patch + c;
                *out = pixel_value(pixels[(row * s.width + col) * 3 + channel]);
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
    fn bytes_and_pixels_worked_by_hand() {
        let mut out = [0; 4];
        for (rounding, want) in [
            (Rounding::Truncate, [0, 0, 127, 255]),
            (Rounding::Nearest, [0, 0, 128, 255]),
            (Rounding::Shift, [0, 0, 128, 255]),
        ] {
            to_bytes(rounding, 4, &[-2.0, -1.0, 0.0, 1.0], &mut out).unwrap();
            assert_eq!(out, want);
        }
        // 190.9 and 191.4: the three forms part.
        let parts = |x| [Rounding::Truncate, Rounding::Nearest, Rounding::Shift].map(|r| r.byte(x));
        assert_eq!(parts(0.497_254_9), [190, 191, 191]);
        assert_eq!(parts(-0.996_5), [0, 0, 0]);
        assert_eq!(parts(-0.994_9), [0, 1, 1]);
        assert!(matches!(
            to_bytes(Rounding::Truncate, 1, &[f32::NAN], &mut out),
            Err(Error::NotFinite { row: 0, .. })
        ));
        assert_eq!((pixel_value(0), pixel_value(255)), (-1.0, 1.0));
    }

    #[test]
    fn patches_hold_channel_after_channel() {
        let s = PatchShape {
            images: 1,
            height: 2,
            width: 3,
            patch: 2,
        };
        let pixels: [u8; 18] = core::array::from_fn(|i| u8::try_from(i).unwrap());
        let mut out = [0.0; 12];
        patchify(s, &pixels, &mut out).unwrap();
        let want = [0, 3, 9, 12, 1, 4, 10, 13, 2, 5, 11, 14].map(pixel_value);
        assert_eq!(out, want);
    }
}
