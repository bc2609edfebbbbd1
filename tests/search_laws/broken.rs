//! The conformance checks must be able to fail.

use maquette::codes::Code;
use maquette::generator::{Needs, Partial, Views};
use maquette::image::ImageSize;
use maquette::reward::{Ask, Verdict};
use maquette::testing::{ScriptedGenerator, ScriptedReward, conformance};
use maquette::{CandidateId, CodeGrid, Generator, Judgement, Prompt, Result, RewardModel};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Flaw {
    /// Batch mates change what is seen.
    Batch,
    /// A fork ignores its seed.
    Fork,
    /// A resumed candidate begins anew.
    Resume,
    /// Repeated ids are stepped once.
    Repeat,
    /// The same ids again and again.
    Ids,
    /// A failed step moves those that could move.
    HalfStep,
    /// Pruning one frees another seed's draws.
    Prune,
    /// Observing into a short buffer is silently cut.
    Short,
}

struct Flawed {
    inner: ScriptedGenerator,
    flaw: Flaw,
}

impl Generator for Flawed {
    fn steps(&self) -> u32 {
        self.inner.steps()
    }
    fn grid(&self) -> CodeGrid {
        self.inner.grid()
    }
    fn image_size(&self) -> ImageSize {
        self.inner.image_size()
    }
    fn hidden_width(&self) -> usize {
        self.inner.hidden_width()
    }
    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.inner.start(prompt, seeds, out)?;
        if self.flaw == Flaw::Ids {
            out.fill(out[0]);
        }
        Ok(())
    }
    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        if self.flaw == Flaw::Resume {
            let other: Vec<u64> = seeds.iter().map(|seed| seed + 1).collect();
            return self.inner.resume(prompt, from, &other, out);
        }
        self.inner.resume(prompt, from, seeds, out)
    }
    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        self.inner.save(id, codes)
    }
    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        if self.flaw == Flaw::Fork {
            return self.inner.fork(parent, &vec![7; seeds.len()], out);
        }
        self.inner.fork(parent, seeds, out)
    }
    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        match self.flaw {
            Flaw::Repeat => {
                let mut once = ids.to_vec();
                once.dedup();
                self.inner.step(&once)
            }
            Flaw::HalfStep if ids.first() != ids.get(1) => {
                ids.iter().try_for_each(|&id| self.inner.step(&[id]))
            }
            _ => self.inner.step(ids),
        }
    }
    fn taken(&self, id: CandidateId) -> Result<u32> {
        self.inner.taken(id)
    }
    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        if self.flaw == Flaw::Short
            && let Some(codes) = out.codes.as_deref_mut()
            && codes.len() < ids.len() * self.grid().len()
        {
            return Ok(());
        }
        self.inner.observe(ids, needs, out)?;
        if let (Flaw::Batch, Some(codes)) = (self.flaw, out.codes.as_deref_mut()) {
            codes[0] = ids.len() as u32;
        }
        Ok(())
    }
    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.inner.prune(ids)?;
        if self.flaw == Flaw::Prune && ids.len() > 1 {
            // A step too many for whoever is left.
            for id in (0..100).map(CandidateId) {
                let _ = self.inner.taken(id).and_then(|_| self.inner.step(&[id]));
            }
        }
        Ok(())
    }
}

#[test]
fn a_flawed_generator_is_found_out() {
    use Flaw::{Batch, Fork, HalfStep, Ids, Prune, Repeat, Resume, Short};
    for (flaw, law) in [
        (Batch, "a batch draws what each draws alone"),
        (Fork, "a fork with the same seed has the same future"),
        (Resume, "resuming equals going on"),
        (
            Repeat,
            "stepping a candidate twice in one batch is an error",
        ),
        (Ids, "ids of one start differ"),
        (HalfStep, "a failed call moves and frees nobody"),
        (Prune, "a call that the contract allows succeeds"),
        (Short, "observing into a short buffer is an error"),
    ] {
        let mut flawed = Flawed {
            inner: ScriptedGenerator::new(4),
            flaw,
        };
        let found = conformance::generator(&mut flawed, &Prompt::new("a red car")).unwrap_err();
        assert_eq!(found.law, law, "{flaw:?}");
    }
}

/// A judge that answers by place in the batch, takes any `out`, and does not miss what it needs.
struct Careless {
    by_place: bool,
    p: f32,
}

impl RewardModel for Careless {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::CODES
    }
    fn judge(&mut self, _: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        for (i, out) in out.iter_mut().enumerate() {
            *out = Verdict::new(
                if self.by_place {
                    i as f32 / 8.0
                } else {
                    self.p
                },
                0.2,
            );
        }
        Ok(())
    }
}

#[test]
fn a_flawed_judge_is_found_out() {
    let prompt = Prompt::new("a red car");
    for (by_place, p, law) in [
        (true, 0.0, "a batch is judged as each view alone"),
        (
            false,
            f32::NAN,
            "both probabilities of a verdict lie in [0, 1]",
        ),
        (false, 0.5, "an `out` of another length is an error"),
    ] {
        let mut generator = ScriptedGenerator::new(4);
        let mut judge = Careless { by_place, p };
        let found = conformance::reward(&mut judge, &mut generator, &prompt, Judgement::Process)
            .unwrap_err();
        assert_eq!(found.law, law);
    }
    let mut generator = ScriptedGenerator::new(4);
    let mut failing = ScriptedReward::seeded(1).failing_at(0);
    assert!(
        conformance::reward(&mut failing, &mut generator, &prompt, Judgement::Process).is_err()
    );
}
