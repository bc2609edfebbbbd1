//! A file's table: entries by name.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::error::{Error, Name, Result};

/// Longest name of a tensor, in bytes.
pub(super) const MAX_NAME: usize = 1 << 10;

/// Entries sorted by name, each name once.
#[derive(Debug)]
pub(super) struct Table<'a, T> {
    entries: Vec<(Cow<'a, str>, T)>,
}

impl<'a, T> Table<'a, T> {
    /// Sorts the entries.
    ///
    /// # Errors
    /// A name that stands twice or is too long.
    pub(super) fn new(format: &'static str, mut entries: Vec<(Cow<'a, str>, T)>) -> Result<Self> {
        let wrong = |name: &str, problem| Error::FormatEntry {
            format,
            entry: Name::owned(name),
            problem,
        };
        // Before they are sorted: some formats can name many entries by one long text.
        if let Some((name, _)) = entries.iter().find(|(name, _)| name.len() > MAX_NAME) {
            return Err(wrong(name, "has a name of more than 1024 bytes"));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(wrong(&pair[0].0, "stands twice")),
            None => Ok(Self { entries }),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&T> {
        let at = self.entries.binary_search_by(|entry| (*entry.0).cmp(name));
        at.ok().and_then(|at| self.entries.get(at)).map(|e| &e.1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|(name, entry)| (&**name, entry))
    }

    pub(super) fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.iter().for_each(|(name, _)| visit(name));
    }
}

/// The second of two ranges that lie over each other, if there are any: `(start, end, whose)`. Equal ranges count
/// only where `equal` does not allow them; empty ones never do.
#[cfg(any(feature = "torch", feature = "gguf"))]
pub(super) fn overlap<W: Copy + Ord>(
    ranges: &mut Vec<(usize, usize, W)>,
    equal: bool,
) -> Option<W> {
    ranges.retain(|(start, end, _)| start < end);
    ranges.sort_unstable();
    let over = |pair: &[(usize, usize, W)]| {
        let same = (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1);
        pair[1].0 < pair[0].1 && !(equal && same)
    };
    // Sorted by start: were any two over each other, so were some neighbours.
    ranges
        .windows(2)
        .find(|pair| over(pair))
        .map(|pair| pair[1].2)
}

/// Appends, or says that there is no memory.
pub(super) fn push<T>(what: &'static str, list: &mut Vec<T>, entry: T) -> Result<()> {
    list.try_reserve(1).map_err(|_| Error::OutOfMemory {
        what,
        bytes: size_of::<T>(),
    })?;
    list.push(entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let entries = |names: &[&'static str]| {
            names
                .iter()
                .map(|&n| (Cow::Borrowed(n), ()))
                .collect::<Vec<_>>()
        };
        let table = Table::new("x", entries(&["b", "a"])).unwrap();
        assert!(table.find("a").is_some() && table.find("c").is_none());
        assert!(Table::new("x", entries(&["b", "a", "b"])).is_err());
    }

    #[cfg(any(feature = "torch", feature = "gguf"))]
    #[test]
    fn ranges_that_lie_over_each_other_are_found() {
        let find = |ranges: &[(usize, usize, u8)], equal| overlap(&mut ranges.to_vec(), equal);
        assert_eq!(find(&[(4, 8, 1), (0, 4, 0)], false), None);
        assert_eq!(find(&[(3, 8, 1), (0, 4, 0)], false), Some(1));
        assert_eq!(find(&[(0, 9, 0), (2, 3, 1), (4, 5, 2)], false), Some(1));
        assert_eq!(find(&[(1, 2, 0), (1, 2, 1)], true), None);
        assert_eq!(find(&[(1, 2, 0), (1, 2, 1)], false), Some(1));
        assert_eq!(find(&[(1, 2, 0), (1, 2, 1), (1, 3, 2)], true), Some(2));
        assert_eq!(find(&[(1, 1, 0), (0, 3, 1)], false), None);
    }
}
