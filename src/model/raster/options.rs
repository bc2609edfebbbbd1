//! Settings of a raster session.

use crate::error::{Error, Result};
use crate::ops::attention::KvFormat;
use crate::ops::conv::Rounding;
use crate::ops::sample::Filter;

/// What stands where no code is drawn yet when a picture is looked at.
///
/// Measured on the bundled Janus, tuned on all four alike: the chance that its potential question ranks a picture that ends
/// right above one that ends wrong, on 390 drawings of 33 training-split prompts that it was not tuned on. Up to row 5
/// of 8 no way tells more than chance (.31 to .62); after that the default leads, within what so few prompts can tell.
///
/// | | row 6 | row 7 |
/// |---|---|---|
/// | `RepeatRow` | .638 | .831 |
/// | `Mean` | .654 | .792 |
/// | `Zeros` | .562 | .809 |
/// | `Grey` | .563 | .730 |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preview {
    /// Each place takes the last code drawn in its column; in the first row, the last code drawn.
    #[default]
    RepeatRow,
    /// The mean of the codebook.
    Mean,
    /// A latent of zeros.
    Zeros,
    /// Decoded as [`RepeatRow`](Self::RepeatRow), then painted over in grey.
    Grey,
}

/// Settings of a raster session. Those that a model was published with are its configuration's, `LlamaGenConfig::options`
/// and `JanusConfig::options`.
///
/// ```
/// use maquette::model::janus::JanusConfig;
/// use maquette::model::raster::Preview;
/// let options = JanusConfig::janus_pro_1b().options().with_candidates(20).with_preview(Preview::Mean);
/// assert_eq!((options.guidance_scale, options.candidates), (5.0, 20));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RasterOptions {
    /// Guidance scale s of uncond + s · (cond − uncond); 1 turns guidance off.
    pub guidance_scale: f32,
    /// Guidance ends after code number k + 1, counted from 0: LlamaGen's `cfg_interval` k. None guides every code.
    pub guidance_interval: Option<u32>,
    /// Temperature, top-k and top-p of the draw. A top-k of 1 draws greedily.
    pub filter: Filter,
    /// Codes drawn in a step; none is a row of the grid. It changes no code.
    pub tokens_per_step: Option<usize>,
    /// What is seen where no code is drawn yet.
    pub preview: Preview,
    /// How pixels become bytes.
    pub rounding: Rounding,
    /// Whether hidden rows are kept for judges that look at them.
    pub hidden: bool,
    /// How keys and values are kept. In 8 bits they take 0.28 of the room (heads of 64), in halves of floats half of it,
    /// and a step reads less; logits move a little.
    pub kv: KvFormat,
    /// Candidates that can be alive at once.
    pub candidates: usize,
    /// Pages of keys and values for all candidates, [`PAGE_ROWS`] codes each; none are as many as they can ever need: the
    /// whole grid each, twice with guidance. Those that were forked share the pages of the codes they have in common, so a
    /// search that forks can do with fewer. A step for which too few are left is [`Error::Full`]: nobody has moved, and
    /// pruning gives pages back.
    ///
    /// [`PAGE_ROWS`]: crate::ops::attention::PAGE_ROWS
    pub pages: Option<usize>,
    /// Candidates that go through the model in one batch; more are taken in turns with the same result.
    pub batch: usize,
    /// Prompts whose prefixes are kept.
    pub prompts: usize,
    /// Pictures that are decoded at once; more are taken in turns.
    pub pictures: usize,
}

impl Default for RasterOptions {
    fn default() -> Self {
        Self {
            guidance_scale: 1.0,
            guidance_interval: None,
            filter: Filter::default(),
            tokens_per_step: None,
            preview: Preview::RepeatRow,
            rounding: Rounding::Truncate,
            hidden: false,
            kv: KvFormat::F32,
            candidates: 8,
            pages: None,
            batch: 8,
            prompts: 4,
            pictures: 1,
        }
    }
}

impl RasterOptions {
    /// Another guidance scale; 1 turns guidance off.
    #[must_use]
    pub const fn with_guidance_scale(mut self, guidance_scale: f32) -> Self {
        self.guidance_scale = guidance_scale;
        self
    }

    /// Guides codes up to number k + 1 alone, counted from 0.
    #[must_use]
    pub const fn with_guidance_interval(mut self, k: u32) -> Self {
        self.guidance_interval = Some(k);
        self
    }

    /// Another temperature, top-k and top-p.
    #[must_use]
    pub const fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Draws so many codes in a step.
    #[must_use]
    pub const fn with_tokens_per_step(mut self, codes: usize) -> Self {
        self.tokens_per_step = Some(codes);
        self
    }

    /// Shows something else where no code is drawn yet.
    #[must_use]
    pub const fn with_preview(mut self, preview: Preview) -> Self {
        self.preview = preview;
        self
    }

    /// Makes bytes of pixels in another way.
    #[must_use]
    pub const fn with_rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = rounding;
        self
    }

    /// Whether hidden rows are kept for judges that look at them.
    #[must_use]
    pub const fn with_hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }

    /// Keeps keys and values in another way.
    #[must_use]
    pub const fn with_kv(mut self, kv: KvFormat) -> Self {
        self.kv = kv;
        self
    }

    /// Room for so many candidates at once.
    #[must_use]
    pub const fn with_candidates(mut self, candidates: usize) -> Self {
        self.candidates = candidates;
        self
    }

    /// So many pages of keys and values for all candidates.
    #[must_use]
    pub const fn with_pages(mut self, pages: usize) -> Self {
        self.pages = Some(pages);
        self
    }

    /// So many candidates in one batch.
    #[must_use]
    pub const fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Keeps the prefixes of so many prompts.
    #[must_use]
    pub const fn with_prompts(mut self, prompts: usize) -> Self {
        self.prompts = prompts;
        self
    }

    /// Decodes so many pictures at once.
    #[must_use]
    pub const fn with_pictures(mut self, pictures: usize) -> Self {
        self.pictures = pictures;
        self
    }

    /// Fails if a setting is out of range.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::NotFinite`] with the setting at fault.
    pub fn check(&self) -> Result<()> {
        for (arg, got) in [
            ("candidates", self.candidates),
            ("batch", self.batch),
            ("prompts", self.prompts),
            ("pictures", self.pictures),
            ("tokens_per_step", self.tokens_per_step.unwrap_or(1)),
        ] {
            if got == 0 || got > 1 << 16 {
                return Err(Error::Range {
                    op: "session",
                    arg,
                    got: got as u64,
                    min: 1,
                    max: 1 << 16,
                });
            }
        }
        for (arg, v) in [
            ("guidance_scale", self.guidance_scale),
            ("temperature", self.filter.temperature),
            ("top_p", self.filter.top_p),
        ] {
            if !v.is_finite() {
                return Err(Error::NotFinite {
                    op: "session",
                    arg,
                    row: 0,
                });
            }
        }
        Ok(())
    }

    /// Sequences a candidate: one, or two with guidance.
    pub(super) fn halves(&self) -> usize {
        if (self.guidance_scale - 1.0).abs() > f32::EPSILON {
            2
        } else {
            1
        }
    }

    /// Whether the code at `place` is guided.
    pub(super) fn guides(&self, place: usize) -> bool {
        let within = |k: u32| place <= (k as usize).saturating_add(1);
        self.halves() == 2 && self.guidance_interval.is_none_or(within)
    }
}
