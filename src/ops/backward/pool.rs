//! Gradients of pooled rows.

use crate::error::{Result, covers};
use crate::math;
use crate::ops::norm::lane_sum;
use crate::ops::reward_head::{PoolShape, largest_score};

impl PoolShape {
    /// Checks the lengths of x (and its gradient) and of the pooled rows' gradient.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub fn check_dx(&self, x: usize, dy: usize, dx: usize) -> Result<()> {
        self.check(x, dy)?;
        let [view, _] = self.view();
        covers("pool_rows_dx", "dx", dx, self.views * view)
    }
}

/// With a = softmax_r(x\[v, r, h\]) and g_r = Σ_i dy\[v, h, i\] · x\[v, r, H + h · d + i\]: the gradient of a score is
/// a_r · (g_r − Σ_q a_q · g_q), that of a value a_r · dy\[v, h, i\].
///
/// # Errors
/// See [`PoolShape::check_dx`].
pub fn pool_rows_dx(s: PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    s.check_dx(x.len(), dy.len(), dx.len())?;
    let [view, pooled] = s.view();
    let views = x.chunks_exact(view).zip(dy.chunks_exact(pooled));
    for ((x, dy), dx) in views.zip(dx.chunks_exact_mut(view)).take(s.views) {
        pool_view_dx(&s, x, dy, dx);
    }
    Ok(())
}

/// The gradient of one view.
#[inline(always)]
pub(crate) fn pool_view_dx(s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (d, width) = (s.head_dim, s.heads * (1 + s.head_dim));
    for (h, dy) in dy.chunks_exact(d).enumerate() {
        let (largest, at) = (largest_score(x, width, h), s.heads + h * d);
        // The scores' places hold the weights on the way.
        let (mut total, mut mean) = (0.0, 0.0);
        for (x, dx) in x.chunks_exact(width).zip(dx.chunks_exact_mut(width)) {
            dx[h] = math::exp(x[h] - largest);
            total += dx[h];
        }
        for (x, dx) in x.chunks_exact(width).zip(dx.chunks_exact_mut(width)) {
            let weight = dx[h] / total;
            let (x, values) = (&x[at..at + d], &mut dx[at..at + d]);
            for ((to, x), dy) in values.iter_mut().zip(x).zip(dy) {
                *to = dy * x;
            }
            mean += weight * lane_sum(values, |v| v);
        }
        for dx in dx.chunks_exact_mut(width) {
            let weight = dx[h] / total;
            let values = &mut dx[at..at + d];
            let along = lane_sum(values, |v| v);
            for (to, dy) in values.iter_mut().zip(dy) {
                *to = weight * dy;
            }
            dx[h] = weight * (along - mean);
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the case is exact")]
mod tests {
    use super::*;

    #[test]
    fn gradients_worked_by_hand() {
        let s = PoolShape {
            views: 1,
            rows: 2,
            heads: 1,
            head_dim: 2,
        };
        // Equal scores: both weights are one half. g is 1 · 2 + 2 · 0 = 2 and 1 · 4 + 2 · 1 = 6, their mean 4.
        let x = [0.5, 2.0, 0.0, 0.5, 4.0, 1.0];
        let mut dx = [9.0; 6];
        pool_rows_dx(s, &x, &[1.0, 2.0], &mut dx).unwrap();
        assert_eq!(dx, [-1.0, 0.5, 1.0, 1.0, 0.5, 1.0]);
        assert!(pool_rows_dx(s, &x, &[1.0], &mut dx).is_err());
    }
}
