//! The contract of a generator: candidates that grow step by step.

use core::fmt;

use crate::codes::{Code, CodeGrid};
use crate::error::{Error, Result};
use crate::image::ImageSize;
use crate::prompt::Prompt;

/// Names one candidate of one generator. Never used again after it is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CandidateId(
    /// The candidate's number, counted from 0 in the order of starting.
    pub u64,
);

/// Which views of a candidate somebody wants to see.
///
/// ```
/// use maquette::generator::Needs;
/// let both = Needs::PIXELS.or(Needs::CODES);
/// assert!(both.pixels && both.codes && !both.hidden);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Needs {
    /// RGB8 pixels of the picture as the model predicts it now.
    pub pixels: bool,
    /// Codes of that prediction.
    pub codes: bool,
    /// Hidden rows of the last step, one a place of the grid.
    pub hidden: bool,
}

impl Needs {
    /// Nothing at all.
    pub const NOTHING: Self = Self {
        pixels: false,
        codes: false,
        hidden: false,
    };
    /// The pixels alone.
    pub const PIXELS: Self = Self {
        pixels: true,
        codes: false,
        hidden: false,
    };
    /// The codes alone.
    pub const CODES: Self = Self {
        pixels: false,
        codes: true,
        hidden: false,
    };
    /// The hidden rows alone.
    pub const HIDDEN: Self = Self {
        pixels: false,
        codes: false,
        hidden: true,
    };

    /// What either of two asks for.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            pixels: self.pixels || other.pixels,
            codes: self.codes || other.codes,
            hidden: self.hidden || other.hidden,
        }
    }
}

/// Where [`Generator::observe`] writes. A view that was asked for must have its buffer.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Views<'a> {
    /// `[n, height, width, 3]` bytes.
    pub pixels: Option<&'a mut [u8]>,
    /// `[n, rows · cols]` codes of the full prediction.
    pub codes: Option<&'a mut [Code]>,
    /// `[n, rows · cols, width]` hidden rows.
    pub hidden: Option<&'a mut [f32]>,
}

impl<'a> Views<'a> {
    /// Only pixels.
    #[must_use]
    pub fn pixels(pixels: &'a mut [u8]) -> Self {
        Self {
            pixels: Some(pixels),
            ..Self::default()
        }
    }

    /// Only codes.
    #[must_use]
    pub fn codes(codes: &'a mut [Code]) -> Self {
        Self {
            codes: Some(codes),
            ..Self::default()
        }
    }

    /// Only hidden rows.
    #[must_use]
    pub fn hidden(hidden: &'a mut [f32]) -> Self {
        Self {
            hidden: Some(hidden),
            ..Self::default()
        }
    }
}

/// A candidate's state between two steps, enough to go on from elsewhere or later.
///
/// ```
/// use maquette::testing::ScriptedGenerator;
/// use maquette::{CandidateId, Generator, Prompt};
///
/// let (prompt, mut id) = (Prompt::new("a red car"), [CandidateId::default()]);
/// let mut here = ScriptedGenerator::new(6);
/// here.start(&prompt, &[7], &mut id)?;
/// here.step(&id)?;
/// let mut codes = vec![0; here.grid().len()];
/// let state = here.save(id[0], &mut codes)?;
///
/// let mut there = ScriptedGenerator::new(6);
/// there.resume(&prompt, &state, &[7], &mut id)?;
/// assert_eq!(there.taken(id[0])?, 1);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Partial<'a> {
    /// Steps already taken.
    pub step: u32,
    /// Settled codes, [`UNKNOWN`](crate::codes::UNKNOWN) where none is.
    pub codes: &'a [Code],
    /// Whether a masked generator's mask choice is annealed with noise for this candidate.
    pub anneal: bool,
}

impl<'a> Partial<'a> {
    /// State after `step` steps.
    #[must_use]
    pub const fn new(step: u32, codes: &'a [Code]) -> Self {
        Self {
            step,
            codes,
            anneal: true,
        }
    }

    /// Says whether the mask choice is annealed (see the temperature policies of masked generators).
    #[must_use]
    pub const fn with_anneal(mut self, anneal: bool) -> Self {
        self.anneal = anneal;
        self
    }
}

/// Multiply-adds of a generator since it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Spent {
    /// Of drawing: prompts, steps, plans.
    pub drawing: u64,
    /// Of making views visible.
    pub decoding: u64,
}

impl Spent {
    /// So much of each.
    #[must_use]
    pub const fn new(drawing: u64, decoding: u64) -> Self {
        Self { drawing, decoding }
    }
}

/// Something that draws pictures step by step, many at a time.
///
/// ```
/// use maquette::generator::{Needs, Views};
/// use maquette::testing::ScriptedGenerator;
/// use maquette::{CandidateId, Generator, Prompt};
///
/// // Any other generator stands in its place: a `Box<dyn Generator>` is one, too.
/// let mut generator: Box<dyn Generator> = Box::new(ScriptedGenerator::new(6));
/// let mut ids = [CandidateId::default(); 2];
/// generator.start(&Prompt::new("a red car"), &[7, 8], &mut ids)?;
/// generator.step(&ids)?;
///
/// // The better one goes on in two ways: with its own seed as it would have gone, with another one elsewhere.
/// let mut forks = [CandidateId::default(); 2];
/// generator.fork(ids[0], &[7, 9], &mut forks)?;
/// generator.prune(&ids)?;
/// for _ in 1..generator.steps() {
///     generator.step(&forks)?;
/// }
/// let places = generator.grid().len();
/// let mut codes = vec![0; 2 * places];
/// generator.observe(&forks, Needs::CODES, &mut Views::codes(&mut codes))?;
/// assert_ne!(codes[..places], codes[places..]);
/// assert_eq!(generator.taken(forks[1])?, 6);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// Every later draw of a candidate derives from its seed and the absolute position of the draw, so that its
/// picture depends neither on its batch mates nor on who was pruned. A candidate that is not stepped keeps its state.
///
/// # Errors
/// All methods reject ids that are not alive, ids that stand twice in one call, and buffers that are too short;
/// after an error the generator is usable and no candidate was lost.
pub trait Generator {
    /// Steps from start to finished.
    fn steps(&self) -> u32;

    /// The grid of codes that is filled.
    fn grid(&self) -> CodeGrid;

    /// Size of the pictures that [`observe`](Self::observe) writes; zero where it shows codes alone.
    fn image_size(&self) -> ImageSize;

    /// Width of a hidden row, 0 where hidden rows cannot be seen.
    fn hidden_width(&self) -> usize {
        0
    }

    /// Starts one candidate per seed.
    ///
    /// # Errors
    /// A prompt that cannot be read, or no room for so many candidates; then none was started.
    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()>;

    /// Starts candidates from a state that was saved; the same seed goes on as if never interrupted.
    ///
    /// # Errors
    /// As [`start`](Self::start), or a state that does not fit this generator.
    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()>;

    /// Writes the settled codes of a candidate, and returns the rest of its state.
    ///
    /// # Errors
    /// See the trait.
    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>>;

    /// Copies a candidate once per seed. With its own seed a copy has the same future, with another one it parts.
    ///
    /// # Errors
    /// See the trait.
    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()>;

    /// Takes one step with each candidate, in one batch. Their prompts and steps may differ.
    ///
    /// # Errors
    /// A finished candidate, or logits that are not finite; then no candidate has moved.
    fn step(&mut self, ids: &[CandidateId]) -> Result<()>;

    /// Steps a candidate has taken.
    ///
    /// # Errors
    /// See the trait.
    fn taken(&self, id: CandidateId) -> Result<u32>;

    /// Writes what each candidate looks like now, as the model predicts the whole picture.
    ///
    /// # Errors
    /// A candidate that has taken no step, or a view that cannot be had.
    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()>;

    /// Frees candidates.
    ///
    /// # Errors
    /// See the trait; then none was freed.
    fn prune(&mut self, ids: &[CandidateId]) -> Result<()>;

    /// Multiply-adds that were really made so far, what was shared or remembered counted once; none from a generator that
    /// does not count.
    fn multiply_adds(&self) -> Option<Spent> {
        None
    }

    /// Writes a text plan for a prompt.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless overridden.
    fn plan(&mut self, prompt: &Prompt<'_>, seed: u64, out: &mut dyn fmt::Write) -> Result<()> {
        let _ = (prompt, seed, out);
        Err(Error::Unsupported {
            what: "writing a plan",
        })
    }
}

macro_rules! forwards {
    ($pointer:ty) => {
        impl<T: Generator + ?Sized> Generator for $pointer {
            fn steps(&self) -> u32 {
                (**self).steps()
            }
            fn grid(&self) -> CodeGrid {
                (**self).grid()
            }
            fn image_size(&self) -> ImageSize {
                (**self).image_size()
            }
            fn hidden_width(&self) -> usize {
                (**self).hidden_width()
            }
            fn start(
                &mut self,
                prompt: &Prompt<'_>,
                seeds: &[u64],
                out: &mut [CandidateId],
            ) -> Result<()> {
                (**self).start(prompt, seeds, out)
            }
            fn resume(
                &mut self,
                prompt: &Prompt<'_>,
                from: &Partial<'_>,
                seeds: &[u64],
                out: &mut [CandidateId],
            ) -> Result<()> {
                (**self).resume(prompt, from, seeds, out)
            }
            fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
                (**self).save(id, codes)
            }
            fn fork(
                &mut self,
                parent: CandidateId,
                seeds: &[u64],
                out: &mut [CandidateId],
            ) -> Result<()> {
                (**self).fork(parent, seeds, out)
            }
            fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
                (**self).step(ids)
            }
            fn taken(&self, id: CandidateId) -> Result<u32> {
                (**self).taken(id)
            }
            fn observe(
                &mut self,
                ids: &[CandidateId],
                needs: Needs,
                out: &mut Views<'_>,
            ) -> Result<()> {
                (**self).observe(ids, needs, out)
            }
            fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
                (**self).prune(ids)
            }
            fn multiply_adds(&self) -> Option<Spent> {
                (**self).multiply_adds()
            }
            fn plan(
                &mut self,
                prompt: &Prompt<'_>,
                seed: u64,
                out: &mut dyn fmt::Write,
            ) -> Result<()> {
                (**self).plan(prompt, seed, out)
            }
        }
    };
}

forwards!(&mut T);
#[cfg(feature = "alloc")]
forwards!(alloc::boxed::Box<T>);
