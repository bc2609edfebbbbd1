//! A search within a search.

use alloc::vec::Vec;

use rand_core::Rng;

use super::run::{Halt, Member, Progress, Run, tell};
use super::{Event, Flow, SearchStrategy};
use crate::error::Error;
use crate::generator::{CandidateId, Generator};
use crate::reward::{Judgement, RewardModel, Verdict};

/// What an inner search found.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) winner: CandidateId,
    /// Its outcome verdict, if that question was put.
    pub(super) outcome: Option<Verdict>,
}

/// A candidate of the inner search, and what was said of its outcome.
type Guest = (CandidateId, Option<Verdict>);

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> Run<'_, G, R> {
    /// Runs a whole search and takes its winner in. The listener hears everything but its end, and that everybody who
    /// lost is rejected; a candidate of this search that it chooses meanwhile ends both.
    pub(super) fn nested<S: SearchStrategy<G, R> + ?Sized>(
        &mut self,
        strategy: &mut S,
        rng: &mut dyn Rng,
    ) -> Progress<Found> {
        let mut guests: Vec<Guest> = Vec::new();
        let mut halt = None;
        let (members, listener) = (&self.members, &mut *self.listener);
        let mut hear = |event: Event<'_>| {
            match event {
                Event::Chosen { .. } => return Flow::Continue,
                Event::Started { ids, .. } => {
                    if guests.try_reserve(ids.len()).is_err() {
                        let bytes = size_of_val(ids);
                        let what = "search";
                        halt = Some(Halt::Fail(Error::OutOfMemory { what, bytes }));
                        return Flow::Stop;
                    }
                    guests.extend(ids.iter().map(|&id| (id, None)));
                }
                Event::Rejected { id, parked: false } => guests.retain(|guest| guest.0 != id),
                Event::Judged {
                    key,
                    judgement: Judgement::Outcome,
                    verdict,
                } => {
                    for guest in guests.iter_mut().filter(|guest| guest.0 == key.candidate) {
                        guest.1 = Some(verdict);
                    }
                }
                _ => {}
            }
            let flow = listener(event);
            match flow {
                Flow::Continue => {}
                Flow::Stop => halt = Some(Halt::Stop),
                Flow::Choose(id) => {
                    halt = Some(Halt::Choose(id));
                    if members.iter().any(|member| member.id == id) {
                        return Flow::Stop;
                    }
                }
            }
            flow
        };
        let found = strategy.search(self.generator, self.reward, self.prompt, rng, &mut hear)?;
        self.cost += found.cost;
        self.stopped |= found.stopped;
        let winner = found.winner;
        let outcome = guests.iter().find(|guest| guest.0 == winner);
        let outcome = outcome.and_then(|guest| guest.1);
        self.members.push(Member {
            id: winner,
            taken: 0,
            last: outcome.or(found.verdict),
            rejected: false,
            fallback: found.fallback,
        });
        let taken = self.generator.taken(winner)?;
        if let Some(verdict) = &outcome {
            verdict.check(0)?;
        }
        let early = halt.is_some() && taken < self.steps() && self.members.len() > 1;
        if let Some(member) = self.members.last_mut() {
            // An unfinished picture is no match for a finished one.
            (member.taken, member.rejected) = (taken, early);
        }
        if let Some(halt) = halt {
            return Err(halt);
        }
        for (id, _) in guests.into_iter().filter(|guest| guest.0 != winner) {
            tell(self.listener, Event::Rejected { id, parked: false })?;
        }
        Ok(Found { winner, outcome })
    }
}
