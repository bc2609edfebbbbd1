//! Rows of candidates in pages of the cache: those that go on from the same codes hold the same pages until one of them
//! writes.

use alloc::vec::Vec;
use core::ops::Range;

use super::memory::word;
use crate::error::{Error, Result, product};
use crate::model::session::{filled, reserved};
use crate::ops::attention::PAGE_ROWS;

/// A page that a sequence is about to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Nobody else holds it.
    Own,
    /// The sequence has none there yet.
    Missing,
    /// Others hold it too.
    Shared(u32),
}

/// All pages, and those of each sequence.
#[derive(Debug)]
pub(super) struct Pages {
    /// Sequences that hold each page.
    holders: Vec<usize>,
    free: Vec<u32>,
    /// Pages of each sequence, `[sequences, most]`.
    tables: Vec<u32>,
    /// How many each has.
    held: Vec<usize>,
    most: usize,
}

impl Pages {
    /// So many pages for sequences of at most `most` pages each.
    pub(super) fn new(pages: usize, sequences: usize, most: usize) -> Result<Self> {
        let mut free = reserved(pages)?;
        free.extend((0..word(pages)).rev());
        Ok(Self {
            holders: filled(pages, 0)?,
            free,
            tables: filled(product("session", &[sequences, most])?, 0)?,
            held: filled(sequences, 0)?,
            most,
        })
    }

    /// Pages of a sequence.
    pub(super) fn of(&self, sequence: usize) -> &[u32] {
        &self.tables[sequence * self.most..][..self.held[sequence]]
    }

    /// What stands where a sequence is about to write.
    pub(super) fn target(&self, sequence: usize, index: usize) -> Target {
        match self.of(sequence).get(index) {
            None => Target::Missing,
            Some(&page) if self.holders[page as usize] == 1 => Target::Own,
            Some(&page) => Target::Shared(page),
        }
    }

    /// A page that nobody holds; it stays free until it is [put](Self::put) somewhere.
    pub(super) fn next(&self) -> Result<u32> {
        self.free.last().copied().ok_or(Error::Full {
            what: "pages of a session",
            limit: self.holders.len(),
        })
    }

    /// Gives a sequence the [next](Self::next) page, behind those it has or in place of one.
    pub(super) fn put(&mut self, sequence: usize, index: usize) -> Result<()> {
        let page = self.next()?;
        self.free.pop();
        self.holders[page as usize] = 1;
        let held = &mut self.held[sequence];
        let place = &mut self.tables[sequence * self.most + index];
        if index < *held {
            self.holders[*place as usize] -= 1;
        } else {
            *held = index + 1;
        }
        *place = page;
        Ok(())
    }

    /// Lets a sequence without pages hold those in which the first `rows` rows of another lie.
    pub(super) fn share(&mut self, from: usize, to: usize, rows: usize) {
        let count = rows.div_ceil(PAGE_ROWS).min(self.held[from]);
        let first = from * self.most;
        for i in first..first + count {
            self.holders[self.tables[i] as usize] += 1;
        }
        self.tables
            .copy_within(first..first + count, to * self.most);
        self.held[to] = count;
    }

    /// Takes all pages from a sequence.
    pub(super) fn release(&mut self, sequence: usize) {
        let held = core::mem::take(&mut self.held[sequence]);
        for &page in &self.tables[sequence * self.most..][..held] {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
    }
}

/// The pages in which rows lie, by their number in the sequence.
pub(super) const fn pages_of(rows: &Range<usize>) -> Range<usize> {
    if rows.start >= rows.end {
        return 0..0;
    }
    rows.start / PAGE_ROWS..rows.end.div_ceil(PAGE_ROWS)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    #[test]
    fn pages_go_from_hand_to_hand() {
        let mut pages = Pages::new(4, 3, 3).unwrap();
        assert_eq!(pages.target(0, 0), Target::Missing);
        pages.put(0, 0).unwrap();
        pages.put(0, 1).unwrap();
        assert_eq!((pages.of(0), pages.of(1)), (&[0, 1][..], &[][..]));
        // The second has the first 33 rows of the first, the third those of one page.
        pages.share(0, 1, 33);
        pages.share(0, 2, 32);
        assert_eq!((pages.of(1), pages.of(2)), (&[0, 1][..], &[0][..]));
        assert_eq!(pages.target(0, 1), Target::Shared(1));
        assert_eq!(pages.next().unwrap(), 2);
        pages.put(1, 1).unwrap();
        assert_eq!(pages.of(1), [0, 2]);
        assert_eq!(pages.target(0, 1), Target::Own);
        assert_eq!(pages.target(2, 1), Target::Missing);
        pages.put(2, 1).unwrap();
        let full = pages.next().unwrap_err().to_string();
        assert_eq!(full, "pages of a session: all 4 places are taken");
        // A page is free when the last one has let go of it.
        pages.release(0);
        assert_eq!((pages.of(0), pages.next().unwrap()), (&[][..], 1));
        pages.release(1);
        pages.release(2);
        pages.release(2);
        let mut free = pages.free.clone();
        free.sort_unstable();
        assert_eq!((free, pages.holders), (vec![0, 1, 2, 3], vec![0; 4]));
    }

    #[test]
    fn rows_lie_in_pages() {
        for (rows, want) in [(0..1, 0..1), (31..32, 0..1), (31..33, 0..2), (32..96, 1..3)] {
            assert_eq!(pages_of(&rows), want);
        }
        for none in [0..0, 41..41, 64..64] {
            assert!(pages_of(&none).is_empty());
        }
    }
}
