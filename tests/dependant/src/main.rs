//! What a first user writes: a strategy and a judge of their own, the crate's strategies beside them, and its kernels.

use maquette::cpu::Cpu;
use maquette::generator::Needs;
use maquette::ops::Backend;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::quant::{Format, QuantMatrix};
use maquette::reward::Ask;
use maquette::rng::Stream;
use maquette::search::{BestOfN, Event, Parm, SearchStrategy};
use maquette::testing::ScriptedGenerator;
use maquette::{Decision, Flow, Generator, Judgement, Prompt, Result, RewardModel, Verdict};
use rand_core::Rng;

/// Likes pictures whose codes are small.
struct Small;

impl RewardModel for Small {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::CODES
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let codes = ask
            .codes
            .ok_or(maquette::Error::foreign("no codes are shown"))?;
        let each = codes.len() / out.len().max(1);
        for (codes, out) in codes.chunks_exact(each.max(1)).zip(out) {
            let mean = codes.iter().sum::<u32>() as f32 / codes.len() as f32;
            *out = Verdict::new(1.0 - mean / 16.0, mean / 16.0);
        }
        Ok(())
    }
}

/// PARM where the first candidates are few, best-of-N after it if nobody survived.
struct Cautious;

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Cautious {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let first = Parm::new(4).search(generator, reward, prompt, rng, on_event)?;
        if !first.fallback {
            return Ok(first);
        }
        generator.prune(&[first.winner])?;
        BestOfN::new(8).search(generator, reward, prompt, rng, on_event)
    }
}

fn main() -> Result<()> {
    let mut generator = ScriptedGenerator::new(6);
    let mut steps = 0;
    let found = Cautious.search(
        &mut generator,
        &mut Small,
        &Prompt::new("a red car"),
        &mut Stream::new(3),
        &mut |event| {
            steps += u64::from(matches!(event, Event::Stepped { .. }));
            Flow::Continue
        },
    )?;
    assert!(steps > 0 && generator.alive() == 1);

    let cpu = Cpu::with_threads(2)?;
    let weights: Vec<f32> = (0..64 * 32).map(|i| (i as f32 * 0.1).sin()).collect();
    let mut bytes = vec![0; Format::Q4_0.bytes(64, 32)?];
    Format::Q4_0.quantise(&weights, &mut bytes);
    let packed = cpu.pack(&QuantMatrix::from_bytes(Format::Q4_0, 64, 32, &bytes)?)?;
    let (mut x, mut y) = (cpu.zeros(32)?, cpu.zeros(64)?);
    cpu.write(&mut x, 0, &[0.5; 32])?;
    let mut shape = GemmShape::new(1, 64, 32);
    shape.activations = Activations::A8;
    cpu.gemm(shape, &x, &packed, None, &mut y)?;
    let mut out = [0.0; 64];
    cpu.read(&y, 0, &mut out)?;
    println!(
        "{:?} on {}, y[0] = {}",
        found.winner,
        cpu.instructions(),
        out[0]
    );
    Ok(())
}
