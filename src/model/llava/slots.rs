//! Which views a session remembers, and how far.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::image::ImageSize;
use crate::model::session::{made, reserved};
use crate::prompt::TokenId;
use crate::reward::ViewKey;

/// A fingerprint of a picture: the same key with other bytes, as from another generator, is another view.
pub(super) fn fingerprint(size: ImageSize, picture: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |h: u64, word: u64| {
        let h = (h ^ word).wrapping_mul(K);
        h ^ (h >> 29)
    };
    let mut h = mix(K, u64::from(size.height) << 32 | u64::from(size.width));
    for part in picture.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        h = mix(h, u64::from_le_bytes(word));
    }
    h
}

/// One remembered view: keys and values of its image rows, then of these tokens.
#[derive(Debug)]
struct Slot {
    key: Option<ViewKey>,
    picture: u64,
    tokens: Vec<TokenId>,
    used: u64,
}

/// All remembered views.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    clock: u64,
}

impl Slots {
    /// `n` free slots of up to `limit` tokens.
    pub(super) fn reserve(n: usize, limit: usize) -> Result<Self> {
        let slot = || {
            Ok(Slot {
                key: None,
                picture: 0,
                tokens: reserved(limit)?,
                used: 0,
            })
        };
        Ok(Self {
            slots: made(n, slot)?,
            clock: 0,
        })
    }

    /// Begins a batch: slots it takes are not taken again before the next one.
    pub(super) fn begin(&mut self) {
        self.clock += 1;
    }

    /// The slot of a view, and how many of `tokens` it already holds (never the last, whose row is wanted), or none
    /// of its rows at all. An unknown view takes the slot that was unused longest.
    pub(super) fn take(
        &mut self,
        key: ViewKey,
        picture: u64,
        tokens: &[TokenId],
    ) -> Result<(usize, Option<usize>)> {
        let clock = self.clock;
        let known = self.slots.iter().position(|s| s.key == Some(key));
        let oldest = || {
            let free = self
                .slots
                .iter()
                .enumerate()
                .filter(|(_, s)| s.used != clock);
            free.min_by_key(|(_, s)| (s.key.is_some(), s.used))
                .map(|(i, _)| i)
        };
        let at = known.or_else(oldest).ok_or(Error::Full {
            what: "remembered views",
            limit: self.slots.len(),
        })?;
        let slot = &mut self.slots[at];
        slot.used = clock;
        if known.is_some() && slot.picture == picture {
            let same = slot
                .tokens
                .iter()
                .zip(tokens)
                .take_while(|(a, b)| a == b)
                .count();
            let same = same.min(tokens.len().saturating_sub(1));
            slot.tokens.truncate(same);
            return Ok((at, Some(same)));
        }
        slot.key = None;
        Ok((at, None))
    }

    /// The rows of a slot were computed.
    pub(super) fn keep(&mut self, at: usize, key: ViewKey, picture: u64, tokens: &[TokenId]) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.key = Some(key);
            slot.picture = picture;
            slot.tokens.clear();
            slot.tokens.extend_from_slice(tokens);
        }
    }

    /// Frees slots.
    pub(super) fn forget(&mut self, mut which: impl FnMut(ViewKey) -> bool) {
        for slot in &mut self.slots {
            if slot.key.is_some_and(&mut which) {
                slot.key = None;
            }
        }
    }

    /// Frees one slot.
    pub(super) fn clear(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.key = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::CandidateId;

    const fn key(candidate: u64) -> ViewKey {
        ViewKey {
            candidate: CandidateId(candidate),
            step: 1,
        }
    }

    #[test]
    fn the_oldest_view_makes_room_and_never_a_batch_mate() {
        let mut slots = Slots::reserve(2, 4).unwrap();
        for (batch, keys) in [[0, 1], [1, 2]].iter().enumerate() {
            slots.begin();
            for &k in keys {
                let (at, shared) = slots.take(key(k), 7, &[1, 2]).unwrap();
                assert_eq!(shared, (batch == 1 && k == 1).then_some(1));
                slots.keep(at, key(k), 7, &[1, 2]);
            }
            assert!(slots.take(key(9), 7, &[1]).is_err());
        }
        slots.begin();
        assert_eq!(slots.take(key(0), 7, &[1, 2]).unwrap().1, None);
    }

    #[test]
    fn only_rows_of_the_same_picture_and_text_are_shared() {
        let mut slots = Slots::reserve(1, 4).unwrap();
        let mut ask = |picture, tokens: &[u32]| {
            slots.begin();
            let (at, shared) = slots.take(key(0), picture, tokens).unwrap();
            slots.keep(at, key(0), picture, tokens);
            shared
        };
        assert_eq!(ask(7, &[1, 2]), None);
        assert_eq!(ask(7, &[1, 2, 3, 4]), Some(2));
        assert_eq!(ask(7, &[1, 9]), Some(1));
        assert_eq!(ask(7, &[1]), Some(0));
        assert_eq!(ask(8, &[1]), None);
    }

    #[test]
    fn other_bytes_or_another_size_are_another_picture() {
        let size = ImageSize::new(1, 3);
        let a = fingerprint(size, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_ne!(a, fingerprint(size, &[1, 2, 3, 4, 5, 6, 7, 8, 10]));
        assert_ne!(
            a,
            fingerprint(ImageSize::new(3, 1), &[1, 2, 3, 4, 5, 6, 7, 8, 9])
        );
    }
}
