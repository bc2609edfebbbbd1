//! A generator, a judge and a search over fixed arrays: the contracts need no allocator.

use maquette::generator::{Needs, Partial, Views};
use maquette::reward::{Ask, ViewKey};
use maquette::rng::{Purpose, Stream, block};
use maquette::search::{Cost, Decision, Event, SearchStrategy};
use maquette::{
    CandidateId, CodeGrid, Error, Flow, Generator, ImageSize, Judgement, Prompt, Result,
    RewardModel, Verdict,
};
use rand_core::Rng;

const STEPS: u32 = 4;
const MOST: usize = 8;

#[derive(Clone, Copy)]
struct Candidate {
    seed: u64,
    step: u32,
    codes: [u32; STEPS as usize],
}

/// Draws one code a step.
#[derive(Default)]
struct Dots {
    candidates: [Option<Candidate>; MOST],
    next: usize,
}

impl Dots {
    fn of(&self, id: CandidateId) -> Result<&Candidate> {
        let found = self.candidates.get(id.0 as usize).and_then(Option::as_ref);
        found.ok_or(Error::UnknownCandidate {
            op: "dots",
            id: id.0,
        })
    }

    fn add(&mut self, candidate: Candidate) -> Result<CandidateId> {
        let place = self
            .candidates
            .get_mut(self.next)
            .ok_or(Error::Unsupported {
                what: "more candidates",
            })?;
        *place = Some(candidate);
        self.next += 1;
        Ok(CandidateId(self.next as u64 - 1))
    }
}

impl Generator for Dots {
    fn steps(&self) -> u32 {
        STEPS
    }
    fn grid(&self) -> CodeGrid {
        CodeGrid::new(2, 2, 256)
    }
    fn image_size(&self) -> ImageSize {
        ImageSize::new(2, 2)
    }
    fn start(&mut self, _: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        for (&seed, out) in seeds.iter().zip(out) {
            *out = self.add(Candidate {
                seed,
                step: 0,
                codes: [0; 4],
            })?;
        }
        Ok(())
    }
    fn resume(
        &mut self,
        _: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        for (&seed, out) in seeds.iter().zip(out) {
            let mut codes = [0; 4];
            codes.copy_from_slice(from.codes);
            *out = self.add(Candidate {
                seed,
                step: from.step,
                codes,
            })?;
        }
        Ok(())
    }
    fn save<'a>(&self, id: CandidateId, codes: &'a mut [u32]) -> Result<Partial<'a>> {
        let candidate = self.of(id)?;
        codes.copy_from_slice(&candidate.codes);
        Ok(Partial::new(candidate.step, codes))
    }
    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        let parent = *self.of(parent)?;
        for (&seed, out) in seeds.iter().zip(out) {
            *out = self.add(Candidate { seed, ..parent })?;
        }
        Ok(())
    }
    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        for &id in ids {
            let mut c = *self.of(id)?;
            let place = c.codes.get_mut(c.step as usize).ok_or(Error::Finished {
                id: id.0,
                steps: STEPS,
            })?;
            *place = block(c.seed, Purpose::Draw, c.step, 0, 0)[0] % 256;
            c.step += 1;
            self.candidates[id.0 as usize] = Some(c);
        }
        Ok(())
    }
    fn taken(&self, id: CandidateId) -> Result<u32> {
        Ok(self.of(id)?.step)
    }
    fn observe(&mut self, ids: &[CandidateId], _: Needs, out: &mut Views<'_>) -> Result<()> {
        if let Some(codes) = &mut out.codes {
            for (&id, out) in ids.iter().zip(codes.chunks_exact_mut(STEPS as usize)) {
                out.copy_from_slice(&self.of(id)?.codes);
            }
        }
        Ok(())
    }
    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        for &id in ids {
            self.of(id)?;
            self.candidates[id.0 as usize] = None;
        }
        Ok(())
    }
}

/// Likes large codes.
struct Sum;

impl RewardModel for Sum {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::CODES
    }
    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let codes = ask.codes.ok_or(Error::Unsupported {
            what: "judging without codes",
        })?;
        for (out, codes) in out.iter_mut().zip(codes.chunks_exact(STEPS as usize)) {
            let p = codes.iter().sum::<u32>() as f32 / 1024.0;
            *out = Verdict::new(p, 1.0 - p);
        }
        Ok(())
    }
}

/// Finishes as many candidates as there is room for, and keeps the best.
struct BestOfAll;

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for BestOfAll {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let mut ids = [CandidateId::default(); MOST];
        generator.start(
            prompt,
            &core::array::from_fn::<u64, MOST, _>(|_| rng.next_u64()),
            &mut ids,
        )?;
        let mut cost = Cost::default();
        for _ in 0..generator.steps() {
            generator.step(&ids)?;
            cost.steps += MOST as u64;
        }
        let (mut codes, mut verdicts) = ([0; MOST * STEPS as usize], [Verdict::malformed(); MOST]);
        generator.observe(&ids, Needs::CODES, &mut Views::codes(&mut codes))?;
        let keys = ids.map(|candidate| ViewKey {
            candidate,
            step: STEPS,
        });
        reward.judge(
            &Ask::new(Judgement::Outcome, prompt, &keys).with_codes(&codes),
            &mut verdicts,
        )?;
        cost.ask(Judgement::Outcome, MOST as u64);
        let mut best = 0;
        for i in 1..MOST {
            if verdicts[i].p_yes > verdicts[best].p_yes {
                best = i;
            }
        }
        for &id in ids.iter().filter(|&&id| id != ids[best]) {
            generator.prune(&[id])?;
        }
        on_event(Event::Chosen { id: ids[best] });
        Ok(Decision::new(ids[best], cost))
    }
}

/// Runs the search; 1 if the winner is the candidate with the largest sum, the cost is right and nobody else lives.
#[unsafe(no_mangle)]
pub extern "C" fn maquette_contracts(seed: u64) -> i32 {
    i32::from(run(seed).unwrap_or(false))
}

fn run(seed: u64) -> Result<bool> {
    let (mut dots, mut events) = (Dots::default(), 0);
    let prompt = Prompt::new("dots");
    let found = BestOfAll.search(
        &mut dots,
        &mut Sum,
        &prompt,
        &mut Stream::new(seed),
        &mut |_| {
            events += 1;
            Flow::Continue
        },
    )?;
    let mut stream = Stream::new(seed);
    let sum = |seed: u64| {
        (0..STEPS)
            .map(|s| block(seed, Purpose::Draw, s, 0, 0)[0] % 256)
            .sum::<u32>()
    };
    let best = (0..MOST)
        .map(|_| sum(stream.next_u64()))
        .max()
        .unwrap_or_default();
    let won = dots.of(found.winner)?.codes.iter().sum::<u32>() == best;
    let alive = dots.candidates.iter().flatten().count();
    Ok(won && alive == 1 && events == 1 && found.cost.steps == 32 && found.cost.judged() == 8)
}
