//! The strategies by name.

use clap::ValueEnum;
use maquette::search::{BestOfN, Parm, ParmForm, Plain, Prm, SearchStrategy};
use maquette::{Generator, RewardModel};

/// A strategy of the crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// One candidate, no judge.
    Plain,
    /// Finish N, keep the best outcome.
    BestOfN,
    /// N continuations of every step, keep the best one.
    Prm,
    /// Drop paths without potential as soon as they are clear.
    Parm,
    /// PARM as released: paths without potential run to their end.
    ParmReleased,
}

impl Strategy {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::BestOfN => "best-of-n",
            Self::Prm => "prm",
            Self::Parm => "parm",
            Self::ParmReleased => "parm-released",
        }
    }

    /// Whether it asks a judge.
    pub fn asks(self) -> bool {
        self != Self::Plain
    }

    /// Candidates that are alive at once in a search over `n`.
    pub fn alive(self, n: u32) -> u32 {
        if self.asks() { n } else { 1 }
    }

    /// The strategy itself, over `n` candidates.
    pub fn build<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        self,
        n: u32,
    ) -> Box<dyn SearchStrategy<G, R>> {
        match self {
            Self::Plain => Box::new(Plain),
            Self::BestOfN => Box::new(BestOfN::new(n)),
            Self::Prm => Box::new(Prm::new(n)),
            Self::Parm => Box::new(Parm::new(n)),
            Self::ParmReleased => Box::new(Parm::new(n).with_form(ParmForm::Released)),
        }
    }
}
