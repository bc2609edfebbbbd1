//! A strategy of one's own: successive halving. Every few steps the worse half of the candidates goes.
//!
//! `cargo run --release --example custom_strategy --all-features -- "a photo of a red car"`
//!
//! It takes the models that `generate` takes: it is written against the two contracts alone.

#[path = "support/open/mod.rs"]
mod open;
#[path = "support/png_file.rs"]
mod png_file;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use maquette::generator::{Needs, Views};
use maquette::reward::{Ask, ViewKey};
use maquette::rng::Stream;
use maquette::search::{Cost, Decision, Event, SearchStrategy};
use maquette::{CandidateId, Flow, Generator, ImageBatch, Judgement, Prompt, RewardModel, Verdict};
use rand_core::Rng;

/// Starts `candidates`, and keeps the better half by process verdict every `every` steps.
struct Halving {
    candidates: usize,
    every: u32,
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Halving {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> maquette::Result<Decision> {
        let seeds: Vec<u64> = (0..self.candidates.max(1))
            .map(|_| rng.next_u64())
            .collect();
        let mut alive = vec![CandidateId::default(); seeds.len()];
        let mut cost = Cost::default();
        generator.start(prompt, &seeds, &mut alive)?;
        cost.candidates += alive.len() as u64;
        on_event(Event::Started {
            ids: &alive,
            parent: None,
        });
        let mut best = None;
        for step in 1..=generator.steps() {
            generator.step(&alive)?;
            cost.steps += alive.len() as u64;
            on_event(Event::Stepped { ids: &alive, step });
            if alive.len() == 1 || (!step.is_multiple_of(self.every) && step < generator.steps()) {
                continue;
            }
            let (size, n) = (generator.image_size(), alive.len());
            let mut pixels = vec![0; n * size.len_bytes()];
            generator.observe(&alive, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
            let keys: Vec<ViewKey> = alive
                .iter()
                .map(|&candidate| ViewKey { candidate, step })
                .collect();
            let shown = ImageBatch::new(n, size, &pixels)?;
            on_event(Event::Observed {
                keys: &keys,
                pixels: Some(shown),
            });
            let mut verdicts = vec![Verdict::malformed(); n];
            let ask = Ask::new(Judgement::Process, prompt, &keys).with_pixels(shown);
            reward.judge(&ask, &mut verdicts)?;
            reward.forget(&keys);
            cost.decodes += n as u64;
            cost.ask(Judgement::Process, n as u64);
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| verdicts[b].p_yes.total_cmp(&verdicts[a].p_yes));
            let keep = if step == generator.steps() {
                1
            } else {
                n.div_ceil(2)
            };
            let (kept, dropped) = order.split_at(keep);
            best = kept.first().map(|&i| verdicts[i]);
            let gone: Vec<CandidateId> = dropped.iter().map(|&i| alive[i]).collect();
            generator.prune(&gone)?;
            alive = kept.iter().map(|&i| alive[i]).collect();
        }
        let mut decision = Decision::new(alive[0], cost);
        decision.verdict = best;
        on_event(Event::Chosen {
            id: decision.winner,
        });
        Ok(decision)
    }
}

#[derive(Parser)]
struct Cli {
    #[arg(default_value = "a photo of a red car and a blue book")]
    prompt: String,
    #[command(flatten)]
    settings: open::Settings,
}

fn main() -> ExitCode {
    open::ended(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let models = open::Models::load(&cli.settings, true)?;
    let (mut generator, mut reward) = (models.generator(16)?, models.judge(16)?);
    let mut halving = Halving {
        candidates: 16,
        every: 3,
    };
    let mut rng = Stream::new(open::picture_seed(1234, 0, 0));
    let found = halving.search(
        &mut *generator,
        &mut *reward,
        &Prompt::new(&cli.prompt),
        &mut rng,
        &mut |_| Flow::Continue,
    )?;
    let size = generator.image_size();
    let mut pixels = vec![0; size.len_bytes()];
    generator.observe(
        &[found.winner],
        Needs::PIXELS,
        &mut Views::pixels(&mut pixels),
    )?;
    let picture = png_file::Picture {
        width: size.width as usize,
        height: size.height as usize,
        pixels: &pixels,
    };
    png_file::writable_folder(Path::new("out"))?;
    png_file::write_whole(Path::new("out/halving.png"), &picture.png()?)?;
    println!("out/halving.png: {:?}, {:?}", found.verdict, found.cost);
    println!("{} on {}", models.describe(), models.device());
    Ok(())
}
