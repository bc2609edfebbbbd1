//! Rows of a cache that go to another place of it.

use crate::error::{Error, Result, covers, product};

/// Rows of every head of a cache, `[heads, head_stride]`, that are copied to another place of their head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveShape {
    /// Heads.
    pub heads: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
    /// First element of the rows in their head.
    pub from: usize,
    /// First element of the place that they are copied to.
    pub to: usize,
    /// Elements that are copied of each head.
    pub len: usize,
}

impl MoveShape {
    /// Checks the length of the cache.
    ///
    /// # Errors
    /// See [`Error`]; rows that overlap where they are copied to are refused.
    pub fn check(&self, cache: usize) -> Result<()> {
        const OP: &str = "move_rows";
        let (from, to) = (self.from, self.to);
        for end in [from, to] {
            covers(
                OP,
                "head_stride",
                self.head_stride,
                end.saturating_add(self.len),
            )?;
        }
        if from.abs_diff(to) < self.len {
            return Err(Error::Config {
                key: "rows",
                problem: "overlap the place that they are copied to",
            });
        }
        covers(
            OP,
            "cache",
            cache,
            product(OP, &[self.heads, self.head_stride])?,
        )
    }
}

/// cache\[h, to ..\] = cache\[h, from ..\] for every head.
///
/// # Errors
/// See [`MoveShape::check`].
pub fn move_rows<T: Copy>(s: MoveShape, cache: &mut [T]) -> Result<()> {
    s.check(cache.len())?;
    if s.head_stride > 0 {
        for head in cache.chunks_exact_mut(s.head_stride).take(s.heads) {
            head.copy_within(s.from..s.from + s.len, s.to);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_moved_by_hand() {
        let s = MoveShape {
            heads: 2,
            head_stride: 4,
            from: 2,
            to: 0,
            len: 2,
        };
        let mut cache = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        move_rows(s, &mut cache).unwrap();
        assert_eq!(cache, [2, 3, 2, 3, 6, 7, 6, 7, 8]);
        for wrong in [
            MoveShape { len: 3, ..s },
            MoveShape { to: 1, ..s },
            MoveShape { to: 3, ..s },
            MoveShape { heads: 3, ..s },
            MoveShape {
                from: usize::MAX,
                ..s
            },
        ] {
            assert!(move_rows(wrong, &mut cache).is_err(), "{wrong:?}");
        }
    }
}
