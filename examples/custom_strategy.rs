//! A strategy of one's own: one path at a time, and at the gate the judge says whether it may pass.
//!
//! `cargo run --release --example custom_strategy --all-features -- "a photo of a red car"`
//!
//! It takes the models that `generate` takes: it is written against the two contracts alone.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use maquette::generator::{Needs, Views};
use maquette::reward::{Ask, ViewKey};
use maquette::rng::{Rng, Stream};
use maquette::search::{Cost, Decision, Event, MultiplyAdds, SearchStrategy};
use maquette::{CandidateId, Flow, Generator, ImageBatch, Judgement, Prompt, RewardModel, Verdict};
use support::say;
use support::{open, png_file};

/// Draws a path up to the step of the gate; one that the judge does not believe in by then makes room for another. The
/// last one allowed passes unasked. A single candidate is alive at any time.
struct Gate {
    tries: u32,
    step: u32,
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Gate {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> maquette::Result<Decision> {
        let mut cost = Cost::default();
        let before = MultiplyAdds::of(generator, reward);
        let mut left = self.tries;
        loop {
            left = left.saturating_sub(1);
            let mut ids = [CandidateId::default()];
            generator.start(prompt, &[rng.next_u64()], &mut ids)?;
            cost.candidates += 1;
            let mut walk = Walk {
                ids,
                gate: (left > 0).then_some(self.step),
                stopped: false,
                chosen: false,
                on_event: &mut *on_event,
                cost: &mut cost,
            };
            match walk.draw(generator, reward, prompt) {
                Ok(Some(mut decision)) => {
                    on_event(Event::Chosen { id: ids[0] });
                    cost.multiply_adds = MultiplyAdds::of(generator, reward).since(&before);
                    decision.cost = cost;
                    return Ok(decision);
                }
                // Whatever happened, nobody is left behind.
                Ok(None) => generator.prune(&ids)?,
                Err(error) => {
                    generator.prune(&ids)?;
                    return Err(error);
                }
            }
        }
    }
}

/// One path on its way.
struct Walk<'a> {
    ids: [CandidateId; 1],
    gate: Option<u32>,
    stopped: bool,
    chosen: bool,
    on_event: &'a mut dyn FnMut(Event<'_>) -> Flow,
    cost: &'a mut Cost,
}

impl Walk<'_> {
    /// Tells the listener; who chooses the only candidate there is opens the gate.
    fn tell(&mut self, event: Event<'_>) {
        match (self.on_event)(event) {
            Flow::Continue => {}
            Flow::Stop => self.stopped = true,
            Flow::Choose(_) => (self.gate, self.chosen) = (None, true),
        }
    }

    /// Draws to the end, or to the gate if that stays shut. A listener that stops the search gets what is there.
    fn draw<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
    ) -> maquette::Result<Option<Decision>> {
        let ids = self.ids;
        let ids = &ids[..];
        let mut decision = Decision::new(ids[0], Cost::default());
        self.tell(Event::Started {
            ids,
            parent: None,
            taken: 0,
        });
        for step in 1..=generator.steps() {
            if !self.stopped && !self.chosen {
                let spent = MultiplyAdds::of(generator, reward);
                self.tell(Event::Stepping { ids, spent });
            }
            if self.stopped {
                break;
            }
            generator.step(ids)?;
            self.cost.steps += 1;
            self.tell(Event::Stepped { ids, step });
            if self.gate == Some(step) {
                let verdict = self.judge(generator, reward, prompt, step)?;
                decision.verdict = verdict;
                // A search that ends now ends with this path, whatever the judge says.
                let ends = self.stopped || self.chosen;
                if verdict.is_some_and(|verdict| verdict.p_yes < 0.5) && !ends {
                    let id = ids[0];
                    self.tell(Event::Rejected { id, parked: false });
                    return Ok(None);
                }
            }
        }
        decision.stopped = self.stopped || self.chosen;
        Ok(Some(decision))
    }

    /// What the judge thinks of the path, unless the listener ends the search before it is asked.
    fn judge<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        step: u32,
    ) -> maquette::Result<Option<Verdict>> {
        let judgement = Judgement::Process;
        let key = ViewKey {
            candidate: self.ids[0],
            step,
        };
        let keys = &[key][..];
        let spent = MultiplyAdds::of(generator, reward);
        self.tell(Event::Asking {
            judgement,
            keys,
            spent,
        });
        if self.stopped || self.chosen {
            return Ok(None);
        }
        let size = generator.image_size();
        let mut pixels = vec![0; size.len_bytes()];
        generator.observe(&self.ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
        self.cost.decodes += 1;
        let shown = ImageBatch::new(1, size, &pixels)?;
        let pixels = Some(shown);
        self.tell(Event::Observed { keys, pixels });
        let mut verdicts = [Verdict::malformed()];
        let ask = Ask::new(judgement, prompt, keys).with_pixels(shown);
        let judged = reward.judge(&ask, &mut verdicts);
        reward.forget(keys);
        judged?;
        let [verdict] = verdicts;
        verdict.check(0)?;
        self.cost.ask(judgement, 1);
        self.tell(Event::Judged {
            key,
            judgement,
            verdict,
        });
        Ok(Some(verdict))
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
    let (mut generator, mut reward) = (models.generator(1)?, models.judge(1)?);
    let step = generator.steps().div_ceil(2);
    let mut gate = Gate { tries: 16, step };
    let mut rng = Stream::new(open::picture_seed(1234, 0, 0));
    let found = gate.search(
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
    png_file::write_whole(Path::new("out/gate.png"), &picture.png()?)?;
    say!("out/gate.png: {:?}, {:?}", found.verdict, found.cost);
    say!("{} on {}", models.describe(), models.device());
    Ok(())
}
