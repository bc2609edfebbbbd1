//! The nearest code: some latents a task.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::Cpu;
use crate::error::{Error, Result};
use crate::ops::vq::{NearestShape, nearest_entry, unit_scale};

impl Cpu {
    pub(super) fn nearest_codes(
        &self,
        s: NearestShape,
        latents: &[f32],
        codebook: &[f32],
        codes: &mut [u32],
    ) -> Result<()> {
        s.check(latents.len(), codebook.len(), codes.len())?;
        let bad = AtomicUsize::new(usize::MAX);
        let codebook = &codebook[..s.entries * s.width];
        let work = s.n.saturating_mul(codebook.len()) / 4;
        let tasks = latents.chunks_exact(s.width).zip(codes).enumerate();
        self.pool
            .each(work, tasks.take(s.n), |(row, (latent, code))| {
                self.vectorised(
                    #[inline(always)]
                    || {
                        let scale = if s.normalise { unit_scale(latent) } else { 1.0 };
                        match nearest_entry(scale, latent, codebook) {
                            Some(entry) => *code = entry,
                            None => {
                                bad.fetch_min(row, Ordering::Relaxed);
                            }
                        }
                    },
                );
            });
        match bad.into_inner() {
            usize::MAX => Ok(()),
            row => Err(Error::NotFinite {
                op: "nearest",
                arg: "latents",
                row,
            }),
        }
    }
}
