//! Examples for generators that unmask their codes: pairs for preference training, the steps of a drawn picture.

use alloc::vec::Vec;

use rand_core::Rng;

use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers};
use crate::model::learner::{Example, Scope};
use crate::model::show_o::ShowOConfig;
use crate::prompt::TokenId;
use crate::rng::{Stream, open_unit};

/// How the pictures of a pair are masked, and their text left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Masks {
    /// Each picture has a mask and a draw for its text of its own, as in the released code.
    #[default]
    Own,
    /// One mask and one draw for both, so that they do not add to the difference of the scores: not in the released code.
    Shared,
}

/// Two pictures of one prompt, of which one is better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    /// Text rows of the prompt, task token first.
    pub text: Vec<TokenId>,
    /// The better picture.
    pub chosen: Vec<Code>,
    /// The other one.
    pub rejected: Vec<Code>,
}

/// How pairs become examples.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PairConfig {
    /// The masks.
    pub masks: Masks,
    /// How often the text is left out: 0.1 in the released training.
    pub p_drop: f32,
    /// Of every draw, together with the pair's number.
    pub seed: u64,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            masks: Masks::Own,
            p_drop: 0.1,
            seed: 10086,
        }
    }
}

impl PairConfig {
    /// Other masks.
    #[must_use]
    pub const fn with_masks(mut self, masks: Masks) -> Self {
        self.masks = masks;
        self
    }

    /// Leaves the text out so often.
    #[must_use]
    pub const fn with_p_drop(mut self, p_drop: f32) -> Self {
        self.p_drop = p_drop;
        self
    }

    /// Other draws.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// Which of `n` places are masked: t uniform, ρ = cos(π t / 2), max(1, round(ρ n)) places, all sets alike.
///
/// ```
/// use maquette::align::masked::draw_mask;
/// use maquette::rng::Stream;
/// let mask = draw_mask(256, &mut Stream::new(3));
/// assert!(mask.len() == 256 && mask.contains(&true));
/// ```
///
/// # Source
/// `training/prompting_utils.py` of the released code; training as in Chang et al., "MaskGIT", arXiv 2202.04200.
pub fn draw_mask(n: usize, stream: &mut Stream) -> Vec<bool> {
    let t = f64::from(open_unit(stream.next_u32()));
    let share = libm::cos(core::f64::consts::FRAC_PI_2 * t);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and n"
    )]
    let count = (libm::rint(share * n as f64) as usize).clamp(1, n.max(1));
    // The places with the smallest of random keys; equal keys go by place.
    let mut keys: Vec<(u64, usize)> = (0..n).map(|i| (stream.next_u64(), i)).collect();
    keys.sort_unstable();
    let mut mask = alloc::vec![false; n];
    for &(_, place) in keys.iter().take(count) {
        mask[place] = true;
    }
    mask
}

impl ShowOConfig {
    /// A picture with some places masked, as one example of preference training: its labels are the masked codes and
    /// the frame of the picture, each on its own row, among all tokens.
    ///
    /// # Errors
    /// As [`example`](Self::example), or a mask of another size.
    pub fn masked_example(
        &self,
        text: &[TokenId],
        codes: &[Code],
        mask: &[bool],
    ) -> Result<Example> {
        covers("example", "mask", mask.len(), codes.len())?;
        let (mut shown, mut labels) = (Vec::from(codes), Vec::from([self.soi()]));
        let mut rows = Vec::from([row(text.len())?]);
        for (place, (code, _)) in shown
            .iter_mut()
            .zip(mask)
            .enumerate()
            .filter(|(_, (_, m))| **m)
        {
            rows.push(row(text.len() + 1 + place)?);
            labels.push(self.code_token(*code)?);
            *code = UNKNOWN;
        }
        rows.push(row(text.len() + 1 + codes.len())?);
        labels.push(self.eoi());
        Ok(Example {
            rows,
            labels,
            ..self.example(text, &shown, Scope::Vocabulary)?
        })
    }

    fn code_token(&self, code: Code) -> Result<TokenId> {
        if (code as usize) < self.codebook_size {
            return Ok(self.token_of(code));
        }
        Err(Error::Range {
            op: "example",
            arg: "code",
            got: u64::from(code),
            min: 0,
            max: self.codebook_size.saturating_sub(1) as u64,
        })
    }

    /// The examples of pair `at` of a set: the chosen picture, then the other one. They are the same whenever they are
    /// asked for.
    ///
    /// # Errors
    /// [`Error::Example`] for two pictures of the same codes, and as [`masked_example`](Self::masked_example).
    pub fn preference(
        &self,
        config: &PairConfig,
        at: usize,
        pair: &Preference,
    ) -> Result<[Example; 2]> {
        if pair.chosen == pair.rejected {
            return Err(Error::Example {
                op: "preference",
                at,
                problem: "has two pictures that are the same: none is preferred",
            });
        }
        let mut stream = draws(config, at);
        let first = self.draw_of(config, &mut stream);
        let second = match config.masks {
            Masks::Own => self.draw_of(config, &mut stream),
            Masks::Shared => first.clone(),
        };
        Ok([
            self.masked_as(&pair.text, &pair.chosen, &first)?,
            self.masked_as(&pair.text, &pair.rejected, &second)?,
        ])
    }

    /// Picture `at` of a set as an example of supervised training, masked as the chosen one of a
    /// [`preference`](Self::preference) is.
    ///
    /// # Errors
    /// As [`masked_example`](Self::masked_example).
    pub fn picture(
        &self,
        config: &PairConfig,
        at: usize,
        text: &[TokenId],
        codes: &[Code],
    ) -> Result<Example> {
        let draw = self.draw_of(config, &mut draws(config, at));
        self.masked_as(text, codes, &draw)
    }

    /// A mask, and whether the text is left out.
    fn draw_of(&self, config: &PairConfig, stream: &mut Stream) -> (Vec<bool>, bool) {
        let mask = draw_mask(self.num_vq_tokens, stream);
        (mask, open_unit(stream.next_u32()) < config.p_drop)
    }

    fn masked_as(
        &self,
        text: &[TokenId],
        codes: &[Code],
        (mask, dropped): &(Vec<bool>, bool),
    ) -> Result<Example> {
        if *dropped {
            self.masked_example(&self.text_tokens(&[]), codes, mask)
        } else {
            self.masked_example(text, codes, mask)
        }
    }

    /// The steps in which a picture came about: before each, the codes that were known; after the last, all are. The
    /// labels of a step are the codes that became known in it, among the codes alone.
    ///
    /// # Errors
    /// A known code that changes, a code that never becomes known, and as [`example`](Self::example).
    pub fn trajectory(
        &self,
        text: &[TokenId],
        states: &[Vec<Code>],
        codes: &[Code],
    ) -> Result<Vec<Example>> {
        let wrong = |at| Error::Example {
            op: "trajectory",
            at,
            problem: "forgets or changes a code that was known, or leaves one unknown",
        };
        let mut out = Vec::new();
        for (at, state) in states.iter().enumerate() {
            let after = states.get(at + 1).map_or(codes, |state| state);
            covers("trajectory", "codes", after.len(), state.len())?;
            let (mut rows, mut labels) = (Vec::new(), Vec::new());
            for (place, (&before, &after)) in state.iter().zip(after).enumerate() {
                if before == UNKNOWN && after != UNKNOWN {
                    rows.push(row(text.len() + 1 + place)?);
                    labels.push(after);
                } else if before != after {
                    return Err(wrong(at));
                }
            }
            if !rows.is_empty() {
                out.push(Example {
                    rows,
                    labels,
                    ..self.example(text, state, Scope::Codes)?
                });
            }
        }
        if codes.contains(&UNKNOWN) {
            return Err(wrong(states.len()));
        }
        Ok(out)
    }
}

/// The draws of example `at` of a set.
fn draws(config: &PairConfig, at: usize) -> Stream {
    Stream::new(config.seed ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn row(at: usize) -> Result<u32> {
    u32::try_from(at).map_err(|_| Error::Overflow { op: "example" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_released_mean_and_reach_both_ends() {
        let (mut stream, mut counts) = (Stream::new(1), Vec::new());
        for _ in 0..20000 {
            let mask = draw_mask(256, &mut stream);
            counts.push(mask.iter().filter(|m| **m).count());
        }
        let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        // 256 · 2 / π, with four standard errors.
        assert!((mean - 162.97).abs() < 2.3, "{mean}");
        assert!(counts.iter().all(|n| (1..=256).contains(n)));
        assert!(counts.contains(&256) && counts.iter().any(|&n| n < 4));
        assert_eq!(draw_mask(1, &mut stream), [true]);
    }

    fn config() -> ShowOConfig {
        ShowOConfig {
            vocab_size: 60 + 10 + 32 + 1,
            llm_vocab_size: 60,
            codebook_size: 32,
            num_vq_tokens: 16,
            max_text_len: 10,
            bos_id: 59,
            ..ShowOConfig::released()
        }
    }

    fn pair() -> Preference {
        Preference {
            text: Vec::from([65, 59, 7, 59]),
            chosen: (0..16).collect(),
            rejected: (16..32).collect(),
        }
    }

    #[test]
    fn shared_masks_cover_the_same_places() {
        let shared = PairConfig {
            masks: Masks::Shared,
            ..PairConfig::default()
        };
        let mut differ = 0;
        for at in 0..50 {
            let [a, b] = config().preference(&shared, at, &pair()).unwrap();
            assert_eq!((&a.rows, a.causal), (&b.rows, b.causal));
            let [a, b] = config()
                .preference(&PairConfig::default(), at, &pair())
                .unwrap();
            differ += usize::from(a.rows != b.rows);
        }
        assert!(differ > 40);
    }

    #[test]
    fn a_picture_is_masked_as_the_chosen_one_of_a_pair() {
        let (config, draws) = (config(), PairConfig::default());
        let mut dropped = 0;
        for at in 0..50 {
            let [chosen, _] = config.preference(&draws, at, &pair()).unwrap();
            let alone = config.picture(&draws, at, &pair().text, &pair().chosen);
            assert_eq!(alone.unwrap(), chosen);
            let kept = PairConfig {
                p_drop: 0.0,
                ..draws
            };
            let kept = config
                .picture(&kept, at, &pair().text, &pair().chosen)
                .unwrap();
            dropped += usize::from(kept.input != chosen.input);
        }
        assert!((1..20).contains(&dropped), "{dropped}");
    }

    #[test]
    fn labels_are_what_the_mask_hides_and_the_frame() {
        let mut mask = [false; 16];
        mask[3] = true;
        let example = config()
            .masked_example(&pair().text, &pair().chosen, &mask)
            .unwrap();
        assert_eq!(example.rows, [4, 8, 21]);
        assert_eq!(example.labels, [61, 73, 62]);
        assert_eq!((example.causal, example.positions[0]), (4, 7));
    }

    #[test]
    fn pairs_without_a_preference_and_broken_steps_are_errors() {
        let same = Preference {
            rejected: pair().chosen,
            ..pair()
        };
        let error = config()
            .preference(&PairConfig::default(), 5, &same)
            .unwrap_err();
        assert!(matches!(error, Error::Example { at: 5, .. }));
        let short = Preference {
            rejected: Vec::from([1]),
            ..pair()
        };
        assert!(
            config()
                .preference(&PairConfig::default(), 0, &short)
                .is_err()
        );
        let (blank, text) = (Vec::from([UNKNOWN; 16]), pair().text);
        let mut state = blank.clone();
        state[2] = 9;
        let steps = [blank.clone(), state.clone()];
        let codes: Vec<u32> = (0..16).map(|i| if i == 2 { 9 } else { 1 }).collect();
        let examples = config().trajectory(&text, &steps, &codes).unwrap();
        assert_eq!(examples[0].labels, [9]);
        assert_eq!(examples[1].labels.len(), 15);
        let changed = config().trajectory(&text, &steps, &[1; 16]);
        assert!(matches!(changed, Err(Error::Example { at: 1, .. })));
        assert!(config().trajectory(&text, &steps, &blank).is_err());
    }
}
