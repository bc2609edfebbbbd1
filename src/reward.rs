//! The contract of a reward model: verdicts on views of candidates.

use core::fmt;
use core::str::FromStr;

use crate::codes::Code;
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Needs};
use crate::image::ImageBatch;
use crate::prompt::Prompt;

/// The question that is put to a judge.
///
/// # Source
/// Guo et al., "Can We Generate Images with CoT?", arXiv 2501.13926, sections 3 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Judgement {
    /// Does the finished picture show what the prompt asks for? (ORM)
    Outcome,
    /// Does this unfinished picture show what the prompt asks for? (PRM)
    Process,
    /// Can this unfinished picture be judged at all? (PARM, first question)
    Clarity,
    /// Can this unfinished picture still become what the prompt asks for? (PARM, second question)
    Potential,
}

impl Judgement {
    /// All questions.
    pub const ALL: &[Self] = &[Self::Outcome, Self::Process, Self::Clarity, Self::Potential];

    /// Its name, as [`Display`](fmt::Display) writes it and [`FromStr`] reads it.
    ///
    /// ```
    /// use maquette::Judgement;
    /// assert_eq!(Judgement::Potential.to_string(), "potential");
    /// assert_eq!("clarity".parse::<Judgement>()?, Judgement::Clarity);
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Process => "process",
            Self::Clarity => "clarity",
            Self::Potential => "potential",
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Judgement {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut known = Self::ALL.iter().copied();
        known
            .find(|judgement| judgement.name() == name)
            .ok_or(Error::Config {
                key: "question",
                problem: "is none of outcome, process, clarity and potential",
            })
    }
}

/// Names one view: what a candidate looked like after so many steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewKey {
    /// The candidate.
    pub candidate: CandidateId,
    /// Steps it had taken.
    pub step: u32,
}

/// One question about several views.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Ask<'a> {
    /// The question.
    pub judgement: Judgement,
    /// What the pictures should show.
    pub prompt: &'a Prompt<'a>,
    /// Names of the views, one a verdict.
    pub keys: &'a [ViewKey],
    /// Their pixels, if the judge needs them.
    pub pixels: Option<ImageBatch<'a>>,
    /// Their codes, `[n, rows · cols]`, if the judge needs them.
    pub codes: Option<&'a [Code]>,
    /// Their hidden rows, `[n, rows · cols, width]`, if the judge needs them.
    pub hidden: Option<&'a [f32]>,
}

impl<'a> Ask<'a> {
    /// A question that shows nothing yet.
    #[must_use]
    pub const fn new(judgement: Judgement, prompt: &'a Prompt<'a>, keys: &'a [ViewKey]) -> Self {
        Self {
            judgement,
            prompt,
            keys,
            pixels: None,
            codes: None,
            hidden: None,
        }
    }

    /// Shows the pixels.
    #[must_use]
    pub const fn with_pixels(mut self, pixels: ImageBatch<'a>) -> Self {
        self.pixels = Some(pixels);
        self
    }

    /// Shows the codes.
    #[must_use]
    pub const fn with_codes(mut self, codes: &'a [Code]) -> Self {
        self.codes = Some(codes);
        self
    }

    /// Shows the hidden rows.
    #[must_use]
    pub const fn with_hidden(mut self, hidden: &'a [f32]) -> Self {
        self.hidden = Some(hidden);
        self
    }
}

/// What a judge answered. Written out ([`fmt::Display`]) it is `yes`, `no` or `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Neither of the two.
    Other,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Other => "other",
        })
    }
}

/// A judge's verdict on one view. The two probabilities may sum to less than 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// Probability of "yes", in [0, 1].
    pub p_yes: f32,
    /// Probability of "no", in [0, 1].
    pub p_no: f32,
    /// The answer itself.
    pub answer: Answer,
}

impl Verdict {
    /// A verdict whose answer is the likelier of the two; "yes" needs strictly more.
    ///
    /// ```
    /// use maquette::reward::{Answer, Verdict};
    /// assert_eq!(Verdict::new(0.7, 0.3).answer, Answer::Yes);
    /// ```
    #[must_use]
    pub fn new(p_yes: f32, p_no: f32) -> Self {
        let answer = if p_yes > p_no {
            Answer::Yes
        } else {
            Answer::No
        };
        Self {
            p_yes,
            p_no,
            answer,
        }
    }

    /// An answer that is neither yes nor no.
    #[must_use]
    pub const fn malformed() -> Self {
        Self {
            p_yes: 0.0,
            p_no: 0.0,
            answer: Answer::Other,
        }
    }

    /// The same verdict with another answer.
    #[must_use]
    pub const fn with_answer(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    /// Fails unless both probabilities are numbers in [0, 1].
    ///
    /// # Errors
    /// [`Error::NotFinite`] or [`Error::Probability`] with the verdict's place in its batch.
    ///
    /// ```
    /// use maquette::Error;
    /// use maquette::reward::Verdict;
    /// assert!(Verdict::new(0.7, 0.2).check(0).is_ok());
    /// assert!(matches!(Verdict::new(1.5, 0.0).check(3), Err(Error::Probability { row: 3, got: 1.5, .. })));
    /// assert!(matches!(Verdict::new(f32::NAN, 0.0).check(3), Err(Error::NotFinite { row: 3, .. })));
    /// ```
    pub fn check(&self, row: usize) -> Result<()> {
        let op = "judge";
        for (arg, got) in [("p_yes", self.p_yes), ("p_no", self.p_no)] {
            if !got.is_finite() {
                return Err(Error::NotFinite { op, arg, row });
            }
            if !(0.0..=1.0).contains(&got) {
                return Err(Error::Probability { op, arg, row, got });
            }
        }
        Ok(())
    }
}

/// Something that judges views of candidates, many at a time.
///
/// ```
/// use maquette::generator::Needs;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::{CandidateId, Error, Prompt, Result};
///
/// /// Likes pictures with many different codes.
/// struct Lively;
///
/// impl RewardModel for Lively {
///     fn needs(&self, _: Judgement) -> Needs {
///         Needs::CODES
///     }
///
///     fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
///         let codes = ask.codes.ok_or(Error::foreign("no codes are shown"))?;
///         if out.len() != ask.keys.len() {
///             return Err(Error::foreign("views and verdicts are of different number"));
///         }
///         let places = codes.len() / out.len().max(1);
///         for (codes, out) in codes.chunks_exact(places.max(1)).zip(out) {
///             let changes = codes.windows(2).filter(|pair| pair[0] != pair[1]).count();
///             let p_yes = changes as f32 / places as f32;
///             *out = Verdict::new(p_yes, 1.0 - p_yes);
///         }
///         Ok(())
///     }
/// }
///
/// let keys = [0, 1].map(|n| ViewKey { candidate: CandidateId(n), step: 6 });
/// let prompt = Prompt::new("a red car");
/// let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_codes(&[1, 1, 1, 1, 5, 2, 5, 9]);
/// let mut out = [Verdict::malformed(); 2];
/// Lively.judge(&ask, &mut out)?;
/// assert_eq!([out[0].p_yes, out[1].p_yes], [0.0, 0.75]);
/// # use maquette::testing::{ScriptedGenerator, conformance};
/// # conformance::reward(&mut Lively, &mut ScriptedGenerator::new(6), &prompt, Judgement::Outcome).unwrap();
/// # Ok::<(), maquette::Error>(())
/// ```
pub trait RewardModel {
    /// What it must see for a question.
    fn needs(&self, ask: Judgement) -> Needs;

    /// Answers one question about every view of `ask`.
    ///
    /// A judge may keep what it computed for a view under its key, and go on from there when the same view comes
    /// again with another question; [`forget`](Self::forget) says when it may drop it.
    ///
    /// # Errors
    /// A question it cannot answer, a view it needs and does not get, or `out` of another length.
    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()>;

    /// Says in words what is wrong with a view.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless overridden.
    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        let _ = (ask, out);
        Err(Error::Unsupported {
            what: "explaining a verdict",
        })
    }

    /// Multiply-adds that were really made so far, what was remembered counted once; none from a judge that does not count.
    fn multiply_adds(&self) -> Option<u64> {
        None
    }

    /// Drops what was kept for these views.
    fn forget(&mut self, keys: &[ViewKey]) {
        let _ = keys;
    }
}

macro_rules! forwards {
    ($pointer:ty) => {
        impl<T: RewardModel + ?Sized> RewardModel for $pointer {
            fn needs(&self, ask: Judgement) -> Needs {
                (**self).needs(ask)
            }
            fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
                (**self).judge(ask, out)
            }
            fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
                (**self).explain(ask, out)
            }
            fn multiply_adds(&self) -> Option<u64> {
                (**self).multiply_adds()
            }
            fn forget(&mut self, keys: &[ViewKey]) {
                (**self).forget(keys);
            }
        }
    };
}

forwards!(&mut T);
#[cfg(feature = "alloc")]
forwards!(alloc::boxed::Box<T>);
