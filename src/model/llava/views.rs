//! From pictures to the rows that stand for them in a question.

use super::Aspect;
use super::session::{Job, LlavaSession, index};
use crate::error::{Error, Result};
use crate::image::ImageSize;
use crate::model::resize::{TileMerge, best_resolution};
use crate::model::vision::VisionStage;
use crate::ops::Backend;

/// Looks at a stage of the image tower, for so many views.
type ViewsLook<'a, B> =
    &'a mut dyn FnMut(VisionStage, &<B as Backend>::Buffer<f32>, usize) -> Result<()>;

/// How this batch's pictures become rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// One view, its rows and the row that ends them, if there is one.
    One,
    Tiles {
        best: ImageSize,
        merge: TileMerge,
    },
}

impl<B: Backend> LlavaSession<B> {
    pub(super) fn plan(&self, size: ImageSize) -> Result<Plan> {
        let config = &self.model.config;
        let plan = match &config.aspect {
            Aspect::Pad | Aspect::Fit { .. } => Plan::One,
            Aspect::AnyRes { pinpoints, max } => {
                let side = index(config.vision.image_size)?;
                let none = Error::Config {
                    key: "image_grid_pinpoints",
                    problem: "has none",
                };
                let best = best_resolution(size, pinpoints).ok_or(none)?;
                Plan::Tiles {
                    best,
                    merge: TileMerge::plan(size, best, side, config.vision.grid(), *max)?,
                }
            }
        };
        let rows = self.rows_of(&plan);
        if rows > self.image_rows {
            return Err(Error::Range {
                op: "judge",
                arg: "rows of a picture",
                got: rows as u64,
                min: 1,
                max: self.image_rows as u64,
            });
        }
        Ok(plan)
    }

    pub(super) fn rows_of(&self, plan: &Plan) -> usize {
        match plan {
            Plan::One => {
                let ended = usize::from(!self.model.newline.is_empty());
                self.model.config.vision.patches() + ended
            }
            Plan::Tiles { merge, .. } => merge.len(),
        }
    }

    /// Image rows of new views into x: sequence `j` of `queries` rows gets them from row `at` on.
    #[expect(clippy::too_many_arguments, reason = "a private step with two callers")]
    pub(super) fn see<'a>(
        &mut self,
        plan: &Plan,
        jobs: &[Job],
        size: ImageSize,
        picture: &mut dyn FnMut(usize) -> Result<&'a [u8]>,
        at: usize,
        queries: usize,
        look: ViewsLook<'_, B>,
    ) -> Result<()> {
        let model = &*self.model;
        let (backend, d) = (&*model.backend, model.config.text.width);
        let (patches, side) = (
            model.config.vision.patches(),
            index(model.config.vision.image_size)?,
        );
        let view_bytes = ImageSize::new(side, side).len_bytes();
        match plan {
            Plan::One => {
                for (jobs, first) in jobs
                    .chunks(self.vision.views())
                    .zip((0..).step_by(self.vision.views()))
                {
                    for (job, view) in jobs.iter().zip(self.canvas.chunks_exact_mut(view_bytes)) {
                        let pixels = picture(job.view)?;
                        match model.config.aspect {
                            Aspect::Fit { min } => {
                                self.resizer.fitted_square(pixels, size, side, min, view)?;
                            }
                            _ => self.resizer.padded_square(pixels, size, side, view)?,
                        }
                    }
                    let n = jobs.len();
                    let pixels = &self.canvas[..n * view_bytes];
                    model.vision.forward(
                        backend,
                        n,
                        pixels,
                        &mut self.vision,
                        &mut |stage, x| look(stage, x, n),
                    )?;
                    for j in 0..n {
                        let to = ((first + j) * queries + at) * d;
                        backend.copy(
                            self.vision.out(),
                            j * patches * d,
                            &mut self.x,
                            to,
                            patches * d,
                        )?;
                        backend.write(&mut self.x, to + patches * d, &model.newline)?;
                    }
                }
            }
            Plan::Tiles { best, merge } => {
                let views = 1 + merge.tiles[0] * merge.tiles[1];
                for (j, job) in jobs.iter().enumerate() {
                    self.resizer
                        .tiles(picture(job.view)?, size, *best, side, &mut self.canvas)?;
                    for first in (0..views).step_by(self.vision.views()) {
                        let n = self.vision.views().min(views - first);
                        let pixels = &self.canvas[first * view_bytes..][..n * view_bytes];
                        model.vision.forward(
                            backend,
                            n,
                            pixels,
                            &mut self.vision,
                            &mut |stage, x| look(stage, x, n),
                        )?;
                        let features = &mut self.features[first * patches * d..][..n * patches * d];
                        backend.read(self.vision.out(), 0, features)?;
                    }
                    let merged = &mut self.merged[..merge.len() * d];
                    merge.merge(&self.features, &model.newline, merged)?;
                    backend.write(&mut self.x, (j * queries + at) * d, merged)?;
                }
            }
        }
        Ok(())
    }
}
