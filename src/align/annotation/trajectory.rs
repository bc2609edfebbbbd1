//! Pictures with what led to them.

use alloc::vec::Vec;

use super::OP;
use crate::codes::Code;
use crate::error::{Error, Result, covers};
use crate::generator::{CandidateId, Generator, Needs, Partial, Views};
use crate::prompt::Prompt;

/// How one picture came about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trajectory {
    /// Before each step, the codes that were settled, [`UNKNOWN`](crate::codes::UNKNOWN) where none was.
    pub states: Vec<Vec<Code>>,
    /// After each step, the codes of the whole picture as the model predicted it; the last are the picture.
    pub previews: Vec<Vec<Code>>,
}

impl Trajectory {
    /// The codes of the finished picture.
    #[must_use]
    pub fn codes(&self) -> &[Code] {
        self.previews.last().map_or(&[], |codes| codes)
    }
}

/// What sees the candidates after a step: the generator, the candidates, and the steps that they have taken.
pub type Look<'a, G> = dyn FnMut(&mut G, &[CandidateId], u32) -> Result<()> + 'a;

/// What says of finished candidates whether each is right.
pub type Ends<'a, G> = dyn FnMut(&mut G, &[CandidateId]) -> Result<Vec<bool>> + 'a;

/// Draws one picture a seed, all in one batch, and keeps what led to them. After each step `look` may observe and fork the
/// candidates, which are pruned at the end.
///
/// ```
/// use maquette::Prompt;
/// use maquette::align::annotation::draw;
/// use maquette::testing::ScriptedGenerator;
///
/// let mut generator = ScriptedGenerator::new(3);
/// let drawn = draw(&mut generator, &Prompt::new("a cup"), &[1, 2], &mut |_, _, _| Ok(()))?;
/// assert_eq!((drawn.len(), drawn[0].states.len(), generator.alive()), (2, 3, 0));
/// assert_eq!(drawn[1].codes(), drawn[1].previews[2]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// What the generator or `look` returns; then nothing is left alive.
pub fn draw<G: Generator + ?Sized>(
    generator: &mut G,
    prompt: &Prompt<'_>,
    seeds: &[u64],
    look: &mut Look<'_, G>,
) -> Result<Vec<Trajectory>> {
    let mut ids = alloc::vec![CandidateId::default(); seeds.len()];
    generator.start(prompt, seeds, &mut ids)?;
    let drawn = follow(generator, &ids, 0, look);
    let pruned = generator.prune(&ids);
    let drawn = drawn?;
    pruned.map(|()| drawn)
}

/// As [`draw`], from a state: some codes of a picture, to be made one of another prompt.
///
/// ```
/// use maquette::{Generator, Prompt, generator::Partial};
/// use maquette::align::annotation::{draw, edit};
/// use maquette::testing::ScriptedGenerator;
///
/// let mut generator = ScriptedGenerator::new(3);
/// let drawn = draw(&mut generator, &Prompt::new("a cup"), &[1], &mut |_, _, _| Ok(()))?;
/// let begun = Partial::new(1, &drawn[0].states[1]);
/// let edited = edit(&mut generator, &Prompt::new("a bus"), &begun, &[1, 2], &mut |_, _, _| Ok(()))?;
/// assert_eq!((edited.len(), edited[0].states.len(), generator.alive()), (2, 2, 0));
/// assert_eq!(edited[1].states[0], drawn[0].states[1]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// As [`draw`], or a state that does not fit the generator.
pub fn edit<G: Generator + ?Sized>(
    generator: &mut G,
    prompt: &Prompt<'_>,
    from: &Partial<'_>,
    seeds: &[u64],
    look: &mut Look<'_, G>,
) -> Result<Vec<Trajectory>> {
    let mut ids = alloc::vec![CandidateId::default(); seeds.len()];
    generator.resume(prompt, from, seeds, &mut ids)?;
    let drawn = follow(generator, &ids, from.step, look);
    let pruned = generator.prune(&ids);
    let drawn = drawn?;
    pruned.map(|()| drawn)
}

fn follow<G: Generator + ?Sized>(
    generator: &mut G,
    ids: &[CandidateId],
    taken: u32,
    look: &mut Look<'_, G>,
) -> Result<Vec<Trajectory>> {
    let grid = generator.grid();
    let cells = grid.len();
    let mut drawn = alloc::vec![Trajectory::default(); ids.len()];
    let mut codes = alloc::vec![0; cells.max(1) * ids.len()];
    for step in taken.saturating_add(1)..=generator.steps() {
        for (id, one) in ids.iter().zip(&mut drawn) {
            let mut state = alloc::vec![0; cells];
            generator.save(*id, &mut state)?;
            one.states.push(state);
        }
        generator.step(ids)?;
        generator.observe(ids, Needs::CODES, &mut Views::codes(&mut codes))?;
        for (codes, one) in codes.chunks_exact(cells.max(1)).zip(&mut drawn) {
            one.previews.push(codes.into());
        }
        look(generator, ids, step)?;
    }
    Ok(drawn)
}

/// Goes on from a candidate once a seed and says of each end whether it is right; the candidate itself stays where it is.
/// A label of the step is whether any is.
///
/// ```
/// use maquette::align::annotation::rollouts;
/// use maquette::testing::ScriptedGenerator;
/// use maquette::{CandidateId, Generator, Prompt};
///
/// let (mut generator, mut ids) = (ScriptedGenerator::new(3), [CandidateId::default()]);
/// generator.start(&Prompt::new("a cup"), &[1], &mut ids)?;
/// generator.step(&ids)?;
/// let ends = rollouts(&mut generator, ids[0], &[7, 8], &mut |_, ids| Ok(vec![true; ids.len()]))?;
/// assert_eq!((ends.len(), generator.alive(), generator.taken(ids[0])?), (2, 1, 1));
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// What the generator or `judge` returns, or verdicts of another number than the seeds; then no copy is left alive.
pub fn rollouts<G: Generator + ?Sized>(
    generator: &mut G,
    from: CandidateId,
    seeds: &[u64],
    judge: &mut Ends<'_, G>,
) -> Result<Vec<bool>> {
    if seeds.is_empty() {
        return Err(Error::Example {
            op: OP,
            at: 0,
            problem: "is missing: there are no rollouts",
        });
    }
    let left = generator.steps().saturating_sub(generator.taken(from)?);
    let mut ids = alloc::vec![CandidateId::default(); seeds.len()];
    generator.fork(from, seeds, &mut ids)?;
    let ends = (0..left)
        .try_for_each(|_| generator.step(&ids))
        .and_then(|()| judge(generator, &ids));
    let pruned = generator.prune(&ids);
    let ends = ends?;
    covers(OP, "verdicts", ends.len(), seeds.len())?;
    covers(OP, "seeds", seeds.len(), ends.len())?;
    pruned.map(|()| ends)
}
