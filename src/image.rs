//! Pictures as bytes.

use crate::error::{Result, covers, product};

/// Height and width of a picture.
///
/// ```
/// use maquette::ImageSize;
/// assert_eq!(ImageSize::new(256, 384).len_bytes(), 256 * 384 * 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: u32,
    /// Columns of pixels.
    pub width: u32,
}

impl ImageSize {
    /// A size from its rows and columns.
    #[must_use]
    pub const fn new(height: u32, width: u32) -> Self {
        Self { height, width }
    }

    /// Bytes of one picture, three a pixel; the largest number for a size that no memory holds.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        (self.height as usize)
            .saturating_mul(self.width as usize)
            .saturating_mul(3)
    }
}

/// Pictures of one size: RGB8, `[n, height, width, 3]`, borrowed.
///
/// ```
/// use maquette::{ImageBatch, ImageSize};
/// let bytes = [0, 0, 0, 255, 255, 255];
/// let dots = ImageBatch::new(2, ImageSize::new(1, 1), &bytes)?;
/// assert_eq!((dots.len(), dots.picture(1)), (2, Some(&[255, 255, 255][..])));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ImageBatch<'a> {
    size: ImageSize,
    pixels: &'a [u8],
}

impl<'a> ImageBatch<'a> {
    /// Reads the first `n` pictures of `pixels`.
    ///
    /// # Errors
    /// Fewer bytes than `n` pictures have.
    pub fn new(n: usize, size: ImageSize, pixels: &'a [u8]) -> Result<Self> {
        let want = product(
            "image batch",
            &[n, size.height as usize, size.width as usize, 3],
        )?;
        covers("image batch", "pixels", pixels.len(), want)?;
        Ok(Self {
            size,
            pixels: &pixels[..want],
        })
    }

    /// Size of each picture.
    #[must_use]
    pub const fn size(&self) -> ImageSize {
        self.size
    }

    /// Number of pictures.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.size.len_bytes() {
            0 => 0,
            bytes => self.pixels.len() / bytes,
        }
    }

    /// Whether the batch is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// All bytes, picture after picture.
    #[must_use]
    pub const fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// The `i`-th picture.
    #[must_use]
    pub fn picture(&self, i: usize) -> Option<&'a [u8]> {
        self.pixels
            .chunks_exact(self.size.len_bytes().max(1))
            .nth(i)
    }
}
