//! What a search computes, as generator and judge tell it.

use crate::generator::Generator;
use crate::reward::RewardModel;

/// Multiply-adds; a part is none where nobody counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub struct MultiplyAdds {
    /// Of drawing.
    pub generator: Option<u64>,
    /// Of making views visible.
    pub decoder: Option<u64>,
    /// Of judging.
    pub judge: Option<u64>,
}

impl MultiplyAdds {
    /// What these two have spent since they exist.
    #[must_use]
    pub fn of<G: Generator + ?Sized, R: RewardModel + ?Sized>(generator: &G, reward: &R) -> Self {
        let spent = generator.multiply_adds();
        Self {
            generator: spent.map(|spent| spent.drawing),
            decoder: spent.map(|spent| spent.decoding),
            judge: reward.multiply_adds(),
        }
    }

    /// What was spent after `before` was told by the same two.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let part = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Self {
            generator: part(self.generator, before.generator),
            decoder: part(self.decoder, before.decoder),
            judge: part(self.judge, before.judge),
        }
    }

    /// All parts together, if all are known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let drawn = self.generator?.saturating_add(self.decoder?);
        Some(drawn.saturating_add(self.judge?))
    }
}

impl core::ops::AddAssign for MultiplyAdds {
    /// Adds what is known: a part is unknown afterwards if it is in both.
    fn add_assign(&mut self, other: Self) {
        let add = |part: &mut Option<u64>, other: Option<u64>| {
            if let Some(n) = other {
                *part = Some(part.unwrap_or(0) + n);
            }
        };
        add(&mut self.generator, other.generator);
        add(&mut self.decoder, other.decoder);
        add(&mut self.judge, other.judge);
    }
}
