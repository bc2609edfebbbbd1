//! The parts of a prompt, and a judge that has words because it asks about each of them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::error::{Error, Result};
use crate::generator::Needs;
use crate::prompt::Prompt;
use crate::reason::Fault;
use crate::reward::{Answer, Ask, Judgement, RewardModel, Verdict, ViewKey};

/// A part of what a prompt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part<'a> {
    /// The part as a prompt of its own.
    pub text: &'a str,
    /// What is wrong where a picture does not show it.
    pub fault: Fault<'a>,
}

impl<'a> Part<'a> {
    /// A part of this text, whose lack is this fault.
    #[must_use]
    pub const fn new(text: &'a str, fault: Fault<'a>) -> Self {
        Self { text, fault }
    }
}

/// Told of the parts of a prompt, one after the other.
pub type Tell<'a> = dyn FnMut(Part<'_>) -> Result<()> + 'a;

/// Knows the parts of prompts. What words mean is a matter of a family of prompts and of its judge's vocabulary, so every
/// application brings its own: a function is one.
///
/// Parts that build upon others come after them: first that there is a car, then that it is red. A part whose text is the
/// whole prompt says what is wrong where all others are there: a number, a relation.
///
/// ```
/// use maquette::parts::{Part, PromptParts, Tell};
/// use maquette::reason::Fault;
///
/// // One thing of one colour.
/// let mut parts = |prompt: &str, tell: &mut Tell<'_>| {
///     let Some((colour, object)) = prompt.split_once(' ') else { return Ok(()) };
///     tell(Part::new(object, Fault::Missing { object }))?;
///     tell(Part::new(prompt, Fault::Colour { object, wanted: Some(colour), found: None }))
/// };
/// let mut faults = Vec::new();
/// parts.each("red car", &mut |part| {
///     faults.push(part.fault.to_string());
///     Ok(())
/// })?;
/// assert_eq!(faults, ["car is missing", "car is not red"]);
/// # Ok::<(), maquette::Error>(())
/// ```
pub trait PromptParts {
    /// Tells the parts of a prompt, or none if it has none that could be asked for alone.
    ///
    /// # Errors
    /// What `tell` reports.
    fn each(&mut self, prompt: &str, tell: &mut Tell<'_>) -> Result<()>;
}

impl<F: FnMut(&str, &mut Tell<'_>) -> Result<()>> PromptParts for F {
    fn each(&mut self, prompt: &str, tell: &mut Tell<'_>) -> Result<()> {
        self(prompt, tell)
    }
}

/// No prompt has parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whole;

impl PromptParts for Whole {
    fn each(&mut self, _: &str, _: &mut Tell<'_>) -> Result<()> {
        Ok(())
    }
}

/// What stands between commas and `and`, for English prompts of any kind; `a photo of` and the like go before each part.
/// One thing alone is no part.
///
/// ```
/// use maquette::parts::{Conjuncts, PromptParts};
///
/// let mut parts = Vec::new();
/// Conjuncts.each("a photo of a red car and a blue book", &mut |part| {
///     parts.push((part.text.to_owned(), part.fault.to_string()));
///     Ok(())
/// })?;
/// let part = |text: &str, fault: &str| (text.to_owned(), fault.to_owned());
/// assert_eq!(parts, [
///     part("a photo of a red car", "red car is missing"),
///     part("a photo of a blue book", "blue book is missing"),
/// ]);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conjuncts;

impl PromptParts for Conjuncts {
    fn each(&mut self, prompt: &str, tell: &mut Tell<'_>) -> Result<()> {
        const PICTURES: [&str; 5] = ["photo", "photograph", "picture", "image", "painting"];
        let (head, body) = prompt
            .split_once(" of ")
            .filter(|(head, _)| {
                head.split(' ')
                    .next_back()
                    .is_some_and(|word| is_any(word, &PICTURES))
            })
            .unwrap_or(("", prompt));
        let parts = || {
            let commas = body.split(',').flat_map(|part| part.split(" and "));
            let parts = commas.map(|part| part.trim().trim_start_matches("and ").trim());
            parts.filter(|part| !part.is_empty())
        };
        if parts().nth(1).is_none() {
            return Ok(());
        }
        let mut text = String::new();
        for part in parts() {
            text.clear();
            if !head.is_empty() {
                write(&mut text, head)?;
                write(&mut text, " of ")?;
            }
            write(&mut text, part)?;
            let object = match part.split_once(' ') {
                Some((article, object)) if is_any(article, &["a", "an", "the"]) => object,
                _ => part,
            };
            tell(Part::new(&text, Fault::Missing { object }))?;
        }
        Ok(())
    }
}

/// Whether it is one of these words, in any case.
fn is_any(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Adds words, or fails where there is no memory for them.
pub(crate) fn write(text: &mut String, words: &str) -> Result<()> {
    text.try_reserve(words.len())
        .map_err(|_| Error::OutOfMemory {
            what: "parts of a prompt",
            bytes: words.len(),
        })?;
    text.push_str(words);
    Ok(())
}

/// A judge that can say yes and no, and says by that what is wrong: asked for its reasons, it answers the outcome
/// question about each part of the prompt alone, and names the faults of those that a picture does not show.
///
/// Of the parts that are about one object the first that fails is named, and the whole prompt only if nothing else
/// fails. The questions about parts count as the one explanation that they make, and their multiply-adds as the judge's.
///
/// # Source
/// Our own: the paper's reflection judge (arXiv 2501.13926, section 3.3) was trained to write its reasons. That parts of
/// a prompt are asked about one by one is common to the metrics that question pictures, as Hu et al., "TIFA" (arXiv
/// 2303.11897) does.
///
/// ```
/// use maquette::parts::{Conjuncts, Inspector};
/// use maquette::generator::Needs;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::{CandidateId, Prompt};
///
/// /// Says yes to cups alone.
/// struct Cups;
/// impl RewardModel for Cups {
///     fn needs(&self, _: Judgement) -> Needs {
///         Needs::NOTHING
///     }
///     fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> maquette::Result<()> {
///         let p = if ask.prompt.text().ends_with("cup") { 0.9 } else { 0.2 };
///         out.fill(Verdict::new(p, 1.0 - p));
///         Ok(())
///     }
/// }
/// let mut judge = Inspector::new(Cups, Conjuncts);
/// let (prompt, keys) = (Prompt::new("a book and a cup"), [ViewKey { candidate: CandidateId(0), step: 6 }]);
/// let mut reason = String::new();
/// judge.explain(&Ask::new(Judgement::Outcome, &prompt, &keys), &mut reason)?;
/// assert_eq!(reason, "book is missing");
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct Inspector<R, P> {
    judge: R,
    parts: P,
    /// Objects that something was said of.
    named: Vec<String>,
    verdicts: Vec<Verdict>,
}

impl<R: RewardModel, P: PromptParts> Inspector<R, P> {
    /// Asks `judge` about `parts`.
    #[must_use]
    pub const fn new(judge: R, parts: P) -> Self {
        Self {
            judge,
            parts,
            named: Vec::new(),
            verdicts: Vec::new(),
        }
    }
}

impl<R: RewardModel, P: PromptParts> RewardModel for Inspector<R, P> {
    fn needs(&self, ask: Judgement) -> Needs {
        self.judge.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        self.judge.judge(ask, out)
    }

    /// Writes the faults of the first view, with `; ` between them; nothing if all parts are there or there are none.
    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        let Self {
            judge,
            parts,
            named,
            verdicts,
        } = self;
        let n = ask.keys.len();
        let no_memory = |_| Error::OutOfMemory {
            what: "parts of a prompt",
            bytes: n.saturating_mul(size_of::<Verdict>()),
        };
        named.clear();
        verdicts.clear();
        verdicts.try_reserve(n).map_err(no_memory)?;
        let mut any = false;
        let whole = ask.prompt.text();
        parts.each(whole, &mut |part| {
            let object = part.fault.object();
            let known = object.is_some_and(|object| named.iter().any(|name| name == object));
            if known || (any && part.text == whole) {
                return Ok(());
            }
            verdicts.clear();
            verdicts.resize(n, Verdict::malformed());
            let prompt = Prompt::new(part.text);
            let question = Ask {
                judgement: Judgement::Outcome,
                prompt: &prompt,
                ..*ask
            };
            judge.judge(&question, verdicts)?;
            for (row, verdict) in verdicts.iter().enumerate() {
                verdict.check(row)?;
            }
            if verdicts
                .first()
                .is_none_or(|verdict| verdict.answer == Answer::Yes)
            {
                return Ok(());
            }
            if let Some(object) = object {
                let mut name = String::new();
                write(&mut name, object)?;
                named.try_reserve(1).map_err(no_memory)?;
                named.push(name);
            }
            let between = if any { "; " } else { "" };
            any = true;
            write!(out, "{between}{}", part.fault)
                .map_err(|_| Error::foreign("the reason could not be written"))
        })
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.judge.multiply_adds()
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.judge.forget(keys);
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn told(prompt: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let tell = &mut |part: Part<'_>| {
            all.push((part.text.to_string(), part.fault.to_string()));
            Ok(())
        };
        Conjuncts.each(prompt, tell).unwrap();
        all
    }

    #[test]
    fn heads_and_articles_are_known_in_any_case() {
        let part = |text: &str, fault: &str| (text.to_string(), fault.to_string());
        assert_eq!(
            told("Photo of a red car and a blue book"),
            [
                part("Photo of a red car", "red car is missing"),
                part("Photo of a blue book", "blue book is missing"),
            ]
        );
        assert_eq!(
            told("A red car, THE cup and ants"),
            [
                part("A red car", "red car is missing"),
                part("THE cup", "cup is missing"),
                part("ants", "ants is missing"),
            ]
        );
        assert_eq!(told("A Picture of one car"), []);
    }
}
