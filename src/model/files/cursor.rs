//! Little-endian numbers from a slice, front to back.

/// What is left of a slice. A read that would pass the end gives `None` and takes nothing.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A cursor that starts at byte `at`.
    #[cfg(feature = "torch")]
    pub(super) fn at(bytes: &'a [u8], at: usize) -> Option<Self> {
        (at <= bytes.len()).then_some(Self { bytes, at })
    }

    /// Bytes taken so far.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 64-bit number that fits the machine's sizes.
    pub(super) fn size(&mut self) -> Option<usize> {
        usize::try_from(self.clone().u64()?).ok().inspect(|_| {
            self.at += 8;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_takes_nothing() {
        let mut c = Cursor::new(&[1, 0, 2, 0, 0, 0, 3]);
        assert_eq!((c.u16(), c.u32()), (Some(1), Some(2)));
        assert_eq!((c.u64(), c.take(usize::MAX), c.position()), (None, None, 6));
        assert_eq!((c.u8(), c.u8()), (Some(3), None));
    }

    #[cfg(feature = "torch")]
    #[test]
    fn a_cursor_starts_inside_its_bytes() {
        assert!(Cursor::at(&[0], 2).is_none());
        assert_eq!(Cursor::at(&[0, 7], 1).and_then(|mut c| c.u8()), Some(7));
    }
}
