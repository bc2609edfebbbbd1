//! Plain generation: one candidate, no judge.

use rand_core::Rng;

use super::run::{Progress, Run};
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::Result;
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::RewardModel;

/// Draws one candidate to the end and asks nobody.
///
/// ```
/// use maquette::search::{Flow, Plain, SearchStrategy};
/// use maquette::testing::{ScriptedGenerator, ScriptedReward};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(4), ScriptedReward::seeded(0));
/// let found = Plain.search(
///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert_eq!(found.cost.steps, 4);
/// assert_eq!(found.cost.judged(), 0);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Plain {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let mut run = Run::new(generator, reward, prompt, on_event, 1, &[])?;
        let outcome = draw_one(&mut run, rng);
        run.conclude(outcome)
    }
}

fn draw_one<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    run: &mut Run<'_, G, R>,
    rng: &mut dyn Rng,
) -> Progress<CandidateId> {
    run.start(rng, 1)?;
    let id = run.latest().first().copied().unwrap_or_default();
    run.complete(&[id])?;
    Ok(id)
}
