//! How a search ends: with its strategy's choice, its listener's, or an error.

use super::run::{Halt, Member, Progress, Run, confidence};
use super::{Decision, Event, MultiplyAdds};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator};
use crate::reward::RewardModel;

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> Run<'_, G, R> {
    /// Ends the search as its strategy, its listener or an error wants it.
    pub(super) fn conclude(mut self, outcome: Progress<CandidateId>) -> Result<Decision> {
        let decision = match outcome {
            Ok(winner) => self.decide(winner, false),
            Err(halt) => self.obey(halt),
        };
        if decision.is_err() {
            self.abandon();
        }
        decision
    }

    fn obey(&mut self, mut halt: Halt) -> Result<Decision> {
        let mut favourite = None;
        let winner = loop {
            let wanted = match halt {
                Halt::Fail(error) => return Err(error),
                Halt::Stop => favourite.or_else(|| self.best_so_far()),
                Halt::Choose(id) => Some(id),
            };
            let id = wanted.unwrap_or_default();
            if self.member(id).is_none() {
                return Err(Error::UnknownCandidate {
                    op: "search",
                    id: id.0,
                });
            }
            if matches!(halt, Halt::Stop) {
                break id;
            }
            favourite = Some(id);
            match self.finish(id) {
                Ok(()) => break id,
                Err(again) => halt = again,
            }
        };
        self.decide(winner, true)
    }

    /// Steps a chosen candidate to its end. These steps are not announced: a listener that chose and chose again before
    /// each of them would never let the search end.
    fn finish(&mut self, id: CandidateId) -> Progress {
        while !self.finished(id) {
            self.advance(&[id])?;
        }
        Ok(())
    }

    /// The highest last "yes" among those still in the running, or among all if nobody is; the first of equals.
    fn best_so_far(&self) -> Option<CandidateId> {
        let anyone = self.members.iter().any(|member| !member.rejected);
        let mut best: Option<&Member> = None;
        for member in self
            .members
            .iter()
            .filter(|member| !(anyone && member.rejected))
        {
            let score = |member: &Member| member.last.as_ref().map(confidence);
            if best.is_none_or(|best| score(member) > score(best)) {
                best = Some(member);
            }
        }
        best.map(|member| member.id)
    }

    fn decide(&mut self, winner: CandidateId, stopped: bool) -> Result<Decision> {
        self.prune_others(&[winner])?;
        self.close();
        // The search is over: nothing the listener answers here could change it.
        let _ = (self.listener)(Event::Chosen { id: winner });
        // Nested searches are in it already.
        let now = MultiplyAdds::of(&*self.generator, &*self.reward);
        self.cost.multiply_adds = now.since(&self.before);
        let mut decision = Decision::new(winner, self.cost);
        if let Some(member) = self.member(winner) {
            (decision.verdict, decision.fallback) = (member.last, member.fallback);
        }
        decision.stopped = stopped || self.stopped;
        Ok(decision)
    }

    /// Frees whatever can be freed, in one call or one by one.
    fn abandon(&mut self) {
        self.close();
        self.ids.clear();
        self.ids.extend(self.members.iter().map(|member| member.id));
        if !self.ids.is_empty() && self.generator.prune(&self.ids).is_err() {
            for &id in &self.ids {
                // The error that ends the search is the one to report.
                let _ = self.generator.prune(&[id]);
            }
        }
    }
}
