//! Where the time of a search goes: PARM beside its parts, each part alone at the batch size that suits it best.
//!
//! `cargo run --release --example search_report --all-features`
//!
//! Searches run with all calls timed; between them steps, decodings and questions are timed alone in batches of several
//! sizes. What PARM takes beyond the sum of its parts at their best is what the search itself costs. Other models than the
//! bundled ones are opened as by `generate`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use maquette::generator::{self, Needs, Partial, Views};
use maquette::reward::{Ask, ViewKey};
use maquette::rng::Stream;
use maquette::search::{Cost, Parm, SearchStrategy};
use maquette::{
    CandidateId, Code, CodeGrid, Flow, Generator, ImageBatch, ImageSize, Judgement, Prompt, Result,
    RewardModel, Verdict,
};
use support::open;
use support::say;

/// Prompts of searches.
const SEARCHED: [&str; 3] = [
    "a photo of a red car",
    "a photo of two cups",
    "a photo of a boat left of a kite",
];

/// Prompts of parts alone: more than a session keeps, so that each is read anew when its turn comes again.
const ALONE: [&str; 5] = [
    "a photo of a blue book",
    "a photo of a pizza and a bottle",
    "a photo of three donuts",
    "a photo of an umbrella above a bus",
    "a photo of a yellow cup and a blue kite",
];

/// Searches PARM and times its parts.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    settings: open::Settings,
    /// Candidates of a search.
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=64))]
    candidates: u32,
    /// Searches, one a prompt.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    searches: u32,
}

fn main() -> ExitCode {
    open::ended(run(&Cli::parse()))
}

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// A prompt is read and its text rows computed.
    Start,
    /// The step of this number.
    Step(u32),
    Decode,
    Clarity,
    Potential,
    Outcome,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "prompts",
            Self::Step(_) => "steps",
            Self::Decode => "decodings",
            Self::Clarity => "clarity",
            Self::Potential => "potential",
            Self::Outcome => "outcome",
        })
    }
}

/// Calls of one kind: how many, for how many candidates, how long.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    calls: u32,
    items: u32,
    seconds: f64,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.items += other.items;
        self.seconds += other.seconds;
    }

    fn each(&self) -> f64 {
        self.seconds / f64::from(self.items.max(1))
    }
}

/// What was spent on each part.
#[derive(Debug, Default)]
struct Ledger(BTreeMap<Part, Spent>);

impl Ledger {
    fn call<T>(&mut self, part: Part, items: usize, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let result = call()?;
        self.0.entry(part).or_default().add(Spent {
            calls: 1,
            items: u32::try_from(items).unwrap_or(u32::MAX),
            seconds: begin.elapsed().as_secs_f64(),
        });
        Ok(result)
    }
}

/// A generator whose calls are timed.
struct TimedGenerator {
    inner: Box<dyn Generator>,
    ledger: Ledger,
}

impl Generator for TimedGenerator {
    fn steps(&self) -> u32 {
        self.inner.steps()
    }

    fn grid(&self) -> CodeGrid {
        self.inner.grid()
    }

    fn image_size(&self) -> ImageSize {
        self.inner.image_size()
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        let inner = &mut self.inner;
        self.ledger
            .call(Part::Start, 1, || inner.start(prompt, seeds, out))
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        self.inner.resume(prompt, from, seeds, out)
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        self.inner.save(id, codes)
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.inner.fork(parent, seeds, out)
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        let inner = &mut self.inner;
        let step = ids.first().map_or(Ok(0), |id| inner.taken(*id))?;
        self.ledger
            .call(Part::Step(step), ids.len(), || inner.step(ids))
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        self.inner.taken(id)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        let inner = &mut self.inner;
        self.ledger
            .call(Part::Decode, ids.len(), || inner.observe(ids, needs, out))
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.inner.prune(ids)
    }

    fn multiply_adds(&self) -> Option<generator::Spent> {
        self.inner.multiply_adds()
    }
}

/// A judge whose calls are timed.
struct TimedJudge {
    inner: Box<dyn RewardModel>,
    ledger: Ledger,
}

impl RewardModel for TimedJudge {
    fn needs(&self, ask: Judgement) -> Needs {
        self.inner.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let part = match ask.judgement {
            Judgement::Clarity => Part::Clarity,
            Judgement::Potential => Part::Potential,
            _ => Part::Outcome,
        };
        let inner = &mut self.inner;
        self.ledger
            .call(part, ask.keys.len(), || inner.judge(ask, out))
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.inner.multiply_adds()
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.inner.forget(keys);
    }
}

/// The batch sizes that are tried.
fn sizes(most: u32) -> Vec<usize> {
    let sizes = [1, 2, 4, 6, 8, 12, 16, 20, 32, 64];
    let most = most as usize;
    let mut sizes: Vec<usize> = sizes.into_iter().filter(|&n| n < most).collect();
    sizes.push(most);
    sizes
}

/// Every part alone, in batches of `size`: pictures from start to end, then looked at and asked about.
fn alone(
    size: usize,
    at: u64,
    generator: &mut TimedGenerator,
    judge: &mut TimedJudge,
) -> std::result::Result<(), Box<dyn Error>> {
    let prompt = Prompt::new(ALONE[(at % ALONE.len() as u64) as usize]);
    let seeds: Vec<u64> = (0..size as u64).map(|i| at * 1000 + i).collect();
    let mut ids = vec![CandidateId::default(); size];
    generator.start(&prompt, &seeds, &mut ids)?;
    for _ in 0..generator.steps() {
        generator.step(&ids)?;
    }
    let image = generator.image_size();
    let mut pixels = vec![0; size * image.len_bytes()];
    generator.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
    generator.prune(&ids)?;
    let step = generator.steps();
    let keys: Vec<ViewKey> = ids
        .iter()
        .map(|&candidate| ViewKey { candidate, step })
        .collect();
    let mut verdicts = vec![Verdict::malformed(); size];
    for judgement in [Judgement::Clarity, Judgement::Potential, Judgement::Outcome] {
        // Potential goes on where clarity ended; the outcome question comes about a view of its own.
        if judgement == Judgement::Outcome {
            judge.forget(&keys);
        }
        let shown = ImageBatch::new(size, image, &pixels)?;
        judge.judge(
            &Ask::new(judgement, &prompt, &keys).with_pixels(shown),
            &mut verdicts,
        )?;
    }
    judge.forget(&keys);
    Ok(())
}

fn run(cli: &Cli) -> open::Res<()> {
    let models = open::Models::load(&cli.settings, true)?;
    let n = cli.candidates;
    let mut generator = TimedGenerator {
        inner: models.generator(n)?,
        ledger: Ledger::default(),
    };
    let mut judge = TimedJudge {
        inner: models.judge(n)?,
        ledger: Ledger::default(),
    };
    // Memory that was never touched costs extra the first time.
    alone(n as usize, 7, &mut generator, &mut judge)?;
    let take = |generator: &mut TimedGenerator, judge: &mut TimedJudge| {
        let mut all = core::mem::take(&mut generator.ledger.0);
        all.append(&mut judge.ledger.0);
        all
    };
    take(&mut generator, &mut judge);

    // A search, then its parts alone, in turns: what slows the machine for a while slows both.
    let (mut wall, mut cost) = (0.0, Cost::default());
    let mut searched = BTreeMap::new();
    let mut tried: BTreeMap<(Part, usize), Spent> = BTreeMap::new();
    let mut at = 0;
    for search in 0..cli.searches {
        let prompt = Prompt::new(SEARCHED[search as usize % SEARCHED.len()]);
        let mut rng = Stream::new(open::picture_seed(0, search, 0));
        let begin = Instant::now();
        let found =
            Parm::new(n).search(&mut generator, &mut judge, &prompt, &mut rng, &mut |_| {
                Flow::Continue
            })?;
        wall += begin.elapsed().as_secs_f64();
        cost += found.cost;
        generator.prune(&[found.winner])?;
        for (part, spent) in take(&mut generator, &mut judge) {
            searched
                .entry(part)
                .or_insert_with(Spent::default)
                .add(spent);
        }
        for size in sizes(n) {
            at += 1;
            alone(size, at, &mut generator, &mut judge)?;
            for (part, spent) in take(&mut generator, &mut judge) {
                tried.entry((part, size)).or_default().add(spent);
            }
        }
    }
    let mut best: BTreeMap<Part, (usize, f64)> = BTreeMap::new();
    for ((part, size), spent) in tried {
        let each = spent.each();
        let known = best.entry(part).or_insert((size, each));
        if each < known.1 {
            *known = (size, each);
        }
    }
    say!("{}, {}", models.describe(), models.device());
    report(cli, wall, &searched, &best);
    let work = cost.multiply_adds;
    let parts = [work.total(), work.generator, work.decoder, work.judge];
    if let [Some(all), Some(generator), Some(decoder), Some(judge)] =
        parts.map(|part| part.map(|n| n as f64 / 1e9))
    {
        say!(
            "10^9 multiply-adds: {all:.2}, generator {generator:.2}, decoder {decoder:.2}, judge {judge:.2}; {:.1} a second",
            all / wall
        );
    }
    Ok(())
}

/// A line of the table: what the parts of one name came to.
#[derive(Debug, Default)]
struct Line {
    searched: Spent,
    at_best: f64,
    sizes: Vec<usize>,
}

fn report(
    cli: &Cli,
    wall: f64,
    searched: &BTreeMap<Part, Spent>,
    best: &BTreeMap<Part, (usize, f64)>,
) {
    let mut lines: Vec<(String, Line)> = Vec::new();
    for (part, spent) in searched {
        let name = part.to_string();
        if lines.last().is_none_or(|(last, _)| *last != name) {
            lines.push((name, Line::default()));
        }
        let (Some((_, line)), Some(&(size, each))) = (lines.last_mut(), best.get(part)) else {
            continue;
        };
        line.searched.add(*spent);
        line.at_best += f64::from(spent.items) * each;
        line.sizes.push(size);
    }
    say!("PARM of {}, {} searches\n", cli.candidates, cli.searches);
    say!(
        "| part | items | calls | in the search, s | share | alone at best, s | best batch | ratio |"
    );
    say!("|---|---|---|---|---|---|---|---|");
    let (mut inside, mut sum) = (0.0, 0.0);
    for (name, line) in &lines {
        let Spent {
            calls,
            items,
            seconds,
        } = line.searched;
        inside += seconds;
        sum += line.at_best;
        let [least, most] = [line.sizes.iter().min(), line.sizes.iter().max()];
        let sizes = match (least, most) {
            (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
            (Some(one), _) => one.to_string(),
            _ => String::new(),
        };
        say!(
            "| {name} | {items} | {calls} | {seconds:.3} | {:.3} | {:.3} | {sizes} | {:.2} |",
            seconds / wall,
            line.at_best,
            seconds / line.at_best,
        );
    }
    let own = wall - inside;
    say!(
        "| the search itself | | | {own:.3} | {:.3} | | | |",
        own / wall
    );
    say!(
        "| all | | | {wall:.3} | 1 | {sum:.3} | | {:.2} |",
        wall / sum
    );
}
