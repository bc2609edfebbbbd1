//! Counter-based randomness: every draw is a function of (seed, step, slot, entry).
//!
//! # Source
//! Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011): Philox4x32-10.
//!
//! ```
//! use maquette::rng::{Purpose, block, exponential, race};
//! // Step 2, place 5 of the candidate with seed 7: the same code whenever and beside whomever it is drawn.
//! let p = [0.2, 0.5, 0.3];
//! let code = race(&p, |i| exponential(block(7, Purpose::Draw, 2, 5, 0)[i]));
//! assert!(code < 3);
//! ```

use core::convert::Infallible;

/// Where strategies draw their seeds from: every generator of `rand_core` is one, and so is [`Stream`]. Given here, so that a
/// strategy of one's own needs no dependency of the same version.
pub use rand_core::Rng;

use crate::math;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox4x32-10 block of one key and counter.
#[inline]
#[must_use]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let (mut k, mut c) = (key, counter);
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [high(b) ^ c[1] ^ k[0], low(b), high(a) ^ c[3] ^ k[1], low(a)];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
const fn low(x: u64) -> u32 {
    x as u32
}

#[inline]
const fn high(x: u64) -> u32 {
    low(x >> 32)
}

/// What a draw is for; draws of different purposes never share bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Purpose {
    /// The categorical draw of a code.
    Draw = 0,
    /// The noise of a masked generator's confidence.
    Confidence = 1,
    /// A judge that samples its answer.
    Answer = 2,
    /// A stream handed to other code.
    Stream = 3,
}

/// Four words for entries `4·block .. 4·block + 4` of one slot and step.
#[inline]
#[must_use]
pub fn block(seed: u64, purpose: Purpose, step: u32, slot: u32, block: u32) -> [u32; 4] {
    philox([low(seed), high(seed)], [block, slot, step, purpose as u32])
}

/// A number strictly between 0 and 1 from 23 bits of a word.
#[inline]
#[must_use]
pub fn open_unit(bits: u32) -> f32 {
    // 2^-23 · (k + 1/2): exact, and neither end can occur, so that its logarithm is finite and below 0.
    ((bits >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// A draw from the exponential distribution of mean 1.
#[inline]
#[must_use]
pub fn exponential(bits: u32) -> f32 {
    -math::ln(open_unit(bits))
}

/// The one categorical draw of the crate: the entry with the largest p/ε, the first of equals.
///
/// # Source
/// The exponential race: argmax of p/ε with ε exponential is distributed as p.
#[must_use]
pub fn race(p: &[f32], epsilon: impl Fn(usize) -> f32) -> usize {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (i, &p) in p.iter().enumerate() {
        let score = p / epsilon(i);
        if score > best {
            (best, at) = (score, i);
        }
    }
    at
}

/// An ordinary stream of random words, for code that wants an [`Rng`].
///
/// ```
/// use maquette::rng::{Rng, Stream};
/// assert_eq!(Stream::new(7).next_u64(), Stream::new(7).next_u64());
/// ```
#[derive(Debug, Clone)]
pub struct Stream {
    seed: u64,
    next: u64,
    words: [u32; 4],
}

impl Stream {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            next: 0,
            words: [0; 4],
        }
    }

    fn word(&mut self) -> u32 {
        let lane = (self.next % 4) as usize;
        if lane == 0 {
            let block_index = self.next / 4;
            self.words = philox(
                [low(self.seed), high(self.seed)],
                [
                    low(block_index),
                    high(block_index),
                    0,
                    Purpose::Stream as u32,
                ],
            );
        }
        self.next = self.next.wrapping_add(1);
        self.words[lane]
    }
}

impl rand_core::TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from(self.word()) | u64::from(self.word()) << 32)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(4) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of the Random123 distribution.
        assert_eq!(
            philox([0, 0], [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0xa409_3822, 0x299f_31d0],
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn open_unit_never_reaches_its_ends() {
        assert!(open_unit(0) > 0.0);
        assert!(open_unit(u32::MAX) < 1.0);
        assert!(exponential(u32::MAX) > 0.0);
    }

    #[test]
    fn race_draws_in_proportion() {
        let p = [0.1_f32, 0.6, 0.3];
        let mut seen = [0_u32; 3];
        for seed in 0..6000 {
            let bits = block(seed, Purpose::Draw, 0, 0, 0);
            seen[race(&p, |i| exponential(bits[i]))] += 1;
        }
        assert!(
            seen[0].abs_diff(600) < 90 && seen[1].abs_diff(3600) < 150,
            "{seen:?}"
        );
    }
}
