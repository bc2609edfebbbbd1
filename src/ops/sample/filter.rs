//! Temperature, top-k and top-p.

use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::norm::nonzero;

/// Temperature, top-k and top-p of a raster model's or a judge's draw. The default changes no logit.
///
/// ```
/// use maquette::ops::sample::Filter;
/// let filter = Filter::default().with_top_k(1000).with_top_p(0.9);
/// assert!(Filter::default().is_idle(16384) && !filter.is_idle(16384));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Filter {
    /// Logits are divided by it, at least 1e-5.
    pub temperature: f32,
    /// Entries kept, ties included; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept; 1 or more keeps all.
    pub top_p: f32,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
        }
    }
}

impl Filter {
    /// Divides logits by another temperature.
    #[must_use]
    pub const fn with_temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// Keeps so many entries; 0 keeps all.
    #[must_use]
    pub const fn with_top_k(mut self, top_k: usize) -> Self {
        self.top_k = top_k;
        self
    }

    /// Keeps so much of the probability; 1 or more keeps all.
    #[must_use]
    pub const fn with_top_p(mut self, top_p: f32) -> Self {
        self.top_p = top_p;
        self
    }

    /// Whether it leaves every logit as it is.
    #[must_use]
    #[expect(
        clippy::float_cmp,
        reason = "only a temperature of exactly 1 changes nothing"
    )]
    pub fn is_idle(&self, width: usize) -> bool {
        self.temperature == 1.0 && (self.top_k == 0 || self.top_k >= width) && self.top_p >= 1.0
    }
}

/// Rows of logits that are filtered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilterShape {
    /// Number of rows.
    pub rows: usize,
    /// Columns of a row.
    pub width: usize,
    /// The filter of every row.
    pub filter: Filter,
}

impl FilterShape {
    /// Checks the lengths of logits and order.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, logits: usize, order: usize) -> Result<()> {
        nonzero("filter", "width", self.width)?;
        let want = product("filter", &[self.rows, self.width])?;
        covers("filter", "logits", logits, want)?;
        covers("filter", "order", order, want)
    }
}

/// [`filter`] of each row; `order` is scratch.
///
/// # Errors
/// See [`FilterShape::check`]; [`Error::NotFinite`] for logits that are NaN.
pub fn filter_rows(s: FilterShape, logits: &mut [f32], order: &mut [u32]) -> Result<()> {
    s.check(logits.len(), order.len())?;
    let rows = logits
        .chunks_exact_mut(s.width)
        .zip(order.chunks_exact_mut(s.width));
    for (row, (logits, order)) in rows.enumerate().take(s.rows) {
        if !filter_row(s.filter, logits, order) {
            return Err(Error::NotFinite {
                op: "filter",
                arg: "logits",
                row,
            });
        }
    }
    Ok(())
}

/// Divides by the temperature and sets every entry outside top-k and top-p to −∞. `order` is scratch of equal length.
///
/// # Errors
/// `order` of another length, or logits that are NaN.
///
/// # Source
/// Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv 1904.09751 (top-p), in the released LlamaGen's
/// order of steps.
pub fn filter(f: Filter, logits: &mut [f32], order: &mut [u32]) -> Result<()> {
    covers("filter", "order", order.len(), logits.len())?;
    let order = &mut order[..logits.len()];
    if filter_row(f, logits, order) {
        Ok(())
    } else {
        Err(Error::NotFinite {
            op: "filter",
            arg: "logits",
            row: 0,
        })
    }
}

/// One row of [`filter`], with an `order` of its length; false if a logit is NaN.
#[must_use]
pub(crate) fn filter_row(f: Filter, logits: &mut [f32], order: &mut [u32]) -> bool {
    if logits.iter().any(|v| v.is_nan()) {
        return false;
    }
    if f.is_idle(logits.len()) {
        return true;
    }
    let temperature = f.temperature.max(1e-5);
    for v in logits.iter_mut() {
        *v /= temperature;
    }
    for (i, o) in (0..).zip(order.iter_mut()) {
        *o = i;
    }
    // Largest first, of equals the first one first.
    let falling = |logits: &[f32], a: u32, b: u32| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    };
    let mut kept = order.len();
    if f.top_k > 0 && f.top_k < kept {
        let (_, &mut last, _) =
            order.select_nth_unstable_by(f.top_k - 1, |&a, &b| falling(logits, a, b));
        let least = logits[last as usize];
        kept = 0;
        for (i, v) in (0..).zip(logits.iter_mut()) {
            if *v < least {
                *v = f32::NEG_INFINITY;
            } else {
                order[kept] = i;
                kept += 1;
            }
        }
    }
    let order = &mut order[..kept];
    if f.top_p < 1.0 {
        order.sort_unstable_by(|&a, &b| falling(logits, a, b));
        let Some(&first) = order.first() else {
            return true;
        };
        let largest = logits[first as usize];
        let total: f32 = order
            .iter()
            .map(|&i| math::exp(logits[i as usize] - largest))
            .sum();
        let mut mass = 0.0;
        for (rank, &i) in order.iter().enumerate() {
            let p = math::exp(logits[i as usize] - largest) / total;
            // An entry goes once the mass before it exceeds top_p; the first always stays.
            if rank > 0 && mass > f.top_p {
                logits[i as usize] = f32::NEG_INFINITY;
            }
            mass += p;
        }
    }
    true
}
