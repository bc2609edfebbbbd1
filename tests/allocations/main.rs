//! In the steady state nothing is allocated and nothing freed, by any thread: after one run of a kind, the same again
//! never calls the allocator. Before it, an allocator that refuses is an error (`refused`).
//!
//! Nor does memory grow over thousands of lives: `MAQUETTE_CYCLES=10000` makes the models live as many as the fakes.
//!
//! One test, since all threads of the program are counted.

#[path = "../bundled"]
mod bundled {
    pub mod drawing;
    pub mod files;
    pub mod janus;
    pub mod judging;
}
mod counter;
mod refused;
#[path = "../tiny_janus/mod.rs"]
mod tiny_janus;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bundled::drawing::Drawing;
use bundled::judging::Judging;
use counter::Count;
use maquette::combine::{Cached, Cascade, Mean};
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llamagen::{LlamaGen, LlamaGenConfig, LlamaGenPrompts, LlamaGenSession};
use maquette::model::llava::{JudgeOptions, Reader};
use maquette::model::raster::RasterOptions;
use maquette::model::resize::Resizer;
use maquette::model::show_o::ShowOOptions;
use maquette::model::t5::{T5, T5Config};
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::quant::Format;
use maquette::reward::{Ask, RewardModel, ViewKey};
use maquette::rng::Stream;
use maquette::search::{BestOfN, Parm, ParmForm, Plain, Prm, SearchStrategy};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward};
use maquette::{
    CandidateId, Event, Flow, Generator, ImageBatch, ImageSize, Judgement, Prompt, Verdict,
};

const PROMPT: &str = "a photo of a red car";
const QUESTIONS: [Judgement; 4] = [
    Judgement::Clarity,
    Judgement::Potential,
    Judgement::Outcome,
    Judgement::Process,
];

/// What called the allocator, to be told all at once.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    /// Does it once to warm up, then again, counted. A busy machine may let a worker thread begin, which allocates, as
    /// late as that; whatever else allocates does it every time.
    fn check(&mut self, name: &str, mut run: impl FnMut() -> Count) {
        run();
        let mut count = run();
        for _ in 0..2 {
            if count.calls > 0 {
                count = run();
            }
        }
        if count.calls > 0 {
            let Count { calls, first } = count;
            self.0
                .push(format!("{name}: {calls} calls, first\n{first}"));
        }
    }
}

/// `n` candidates to the end, looked at on the way, and one that is forked off and pruned.
fn drawn(g: &mut impl Generator, prompt: &str, n: usize) -> Count {
    let seeds: Vec<u64> = (0..n as u64).collect();
    let mut ids = vec![CandidateId::default(); n + 1];
    let mut pixels = vec![0; (n + 1) * g.image_size().len_bytes()];
    let mut codes = vec![0; (n + 1) * g.grid().len()];
    let needs = match g.image_size().len_bytes() {
        0 => Needs::CODES,
        _ => Needs::CODES.or(Needs::PIXELS),
    };
    g.start(&Prompt::new(prompt), &seeds, &mut ids[..n])
        .unwrap();
    counter::begin();
    for step in 0..g.steps() {
        let alive = if (2..5).contains(&step) { n + 1 } else { n };
        if step == 2 {
            let [parent, .., child] = &mut ids[..] else {
                break;
            };
            g.fork(*parent, &[99], core::slice::from_mut(child))
                .unwrap();
        }
        g.step(&ids[..alive]).unwrap();
        if step == 3 {
            let mut views = Views::codes(&mut codes);
            views.pixels = Some(&mut pixels);
            g.observe(&ids[..alive], needs, &mut views).unwrap();
        }
        if step == 4 {
            g.prune(&ids[n..]).unwrap();
        }
    }
    g.prune(&ids[..n]).unwrap();
    counter::end()
}

/// Every question about `n` new views, the second one where the first ended.
fn judged(judge: &mut impl RewardModel, n: usize, next: &mut u64) -> Count {
    let size = ImageSize::new(64, 64);
    let pixels: Vec<u8> = (0..n * size.len_bytes())
        .map(|i| u8::try_from((i * 7 + *next as usize) % 251).unwrap())
        .collect();
    let codes = vec![1; n * 64];
    let keys: Vec<ViewKey> = (0..n as u64)
        .map(|i| ViewKey {
            candidate: CandidateId(*next + i),
            step: 3,
        })
        .collect();
    *next += n as u64;
    let mut out = vec![Verdict::malformed(); n];
    let prompt = Prompt::new(PROMPT);
    counter::begin();
    for judgement in QUESTIONS {
        let pixels = ImageBatch::new(n, size, &pixels).unwrap();
        let ask = Ask::new(judgement, &prompt, &keys)
            .with_pixels(pixels)
            .with_codes(&codes);
        judge.judge(&ask, &mut out).unwrap();
        if judgement != Judgement::Clarity {
            judge.forget(&keys);
        }
    }
    counter::end()
}

/// A strategy over any models: compiled once, not for each of them.
type Strategy = dyn SearchStrategy<dyn Generator, dyn RewardModel>;

/// A whole search, from its candidates' start to its choice.
fn searched(
    strategy: &mut Strategy,
    generator: &mut (dyn Generator + 'static),
    judge: &mut (dyn RewardModel + 'static),
) -> Count {
    let mut count = None;
    let prompt = Prompt::new(PROMPT);
    let mut rng = Stream::new(5);
    let found = strategy.search(generator, judge, &prompt, &mut rng, &mut |event| {
        match event {
            Event::Started { .. } => counter::begin(),
            Event::Chosen { .. } => count = Some(counter::end()),
            _ => {}
        }
        Flow::Continue
    });
    generator.prune(&[found.unwrap().winner]).unwrap();
    count.unwrap()
}

fn every_strategy(
    faults: &mut Faults,
    name: &str,
    n: u32,
    generator: &mut (dyn Generator + 'static),
    judge: &mut (dyn RewardModel + 'static),
) {
    let released = Parm::new(n).with_form(ParmForm::Released);
    let strategies: [(&str, &mut Strategy); 5] = [
        ("plain", &mut Plain),
        ("best", &mut BestOfN::new(n)),
        ("prm", &mut Prm::new(n)),
        ("parm", &mut Parm::new(n)),
        ("released parm", &mut { released }),
    ];
    for (strategy, run) in strategies {
        let name = format!("{name}, {strategy} of {n}");
        faults.check(&name, || searched(run, generator, judge));
    }
}

/// Prompts in turn, more than a session keeps.
const PROMPTS: [&str; 6] = [
    "a photo of a red car",
    "a photo of a blue book",
    "a photo of two cups",
    "a photo of a green cup and a red book",
    "a photo of a book",
    "a photo of a car",
];
/// Cycles of the fakes.
const CYCLES: u64 = 10_000;

/// Cycles of a model.
fn few_cycles() -> u64 {
    let set = std::env::var("MAQUETTE_CYCLES").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(6)
}

/// Two candidates start, one forks, all are judged, one is pruned and one saved and resumed; the bytes that are allocated
/// after thousands of such lives are those after the first few.
fn cycles(
    faults: &mut Faults,
    name: &str,
    times: u64,
    g: &mut impl Generator,
    judge: &mut impl RewardModel,
) {
    let mut ids = [CandidateId::default(); 4];
    let mut pixels = vec![0; 3 * g.image_size().len_bytes()];
    let mut codes = vec![0; 3 * g.grid().len()];
    let mut cycle = |k: u64| {
        let prompt = Prompt::new(PROMPTS[usize::try_from(k).unwrap() % PROMPTS.len()]);
        let [a, b, child, again] = &mut ids;
        let mut pair = [*a, *b];
        g.start(&prompt, &[k, k + 1], &mut pair).unwrap();
        [*a, *b] = pair;
        g.step(&pair).unwrap();
        g.fork(*a, &[k + 2], core::slice::from_mut(child)).unwrap();
        let alive = [*a, *b, *child];
        g.step(&alive).unwrap();
        let mut views = Views::codes(&mut codes);
        views.pixels = Some(&mut pixels);
        g.observe(&alive, Needs::CODES.or(Needs::PIXELS), &mut views)
            .unwrap();
        let keys = alive.map(|candidate| ViewKey { candidate, step: 2 });
        let shown = ImageBatch::new(3, g.image_size(), &pixels).unwrap();
        let mut out = [Verdict::malformed(); 3];
        for judgement in QUESTIONS {
            let ask = Ask::new(judgement, &prompt, &keys)
                .with_pixels(shown)
                .with_codes(&codes);
            judge.judge(&ask, &mut out).unwrap();
        }
        judge.forget(&keys);
        g.prune(&alive[1..]).unwrap();
        let len = g.grid().len();
        let saved = g.save(*a, &mut codes[..len]).unwrap();
        g.resume(&prompt, &saved, &[k], core::slice::from_mut(again))
            .unwrap();
        g.step(&[*a, *again]).unwrap();
        g.prune(&[*a, *again]).unwrap();
    };
    // Until every slot has held every prompt.
    let warm = 4 * PROMPTS.len() as u64;
    (0..warm).for_each(&mut cycle);
    let mut grown = || {
        let before = counter::live();
        (warm..warm + times).for_each(&mut cycle);
        (before, counter::live())
    };
    let (mut before, mut after) = grown();
    // The harness's own thread may allocate once, as late as that; what leaks does it every time.
    if after != before {
        (before, after) = grown();
    }
    if after != before {
        faults.0.push(format!(
            "{name}: {before} bytes before {times} cycles, {after} after"
        ));
    }
}

fn show_o(faults: &mut Faults, threads: usize) {
    let drawing = Drawing::load(Cpu::with_threads(threads).unwrap(), Format::F32);
    let judging = Judging::load(Cpu::with_threads(threads).unwrap(), Format::F32);
    // More than a batch, and not a multiple of it.
    for (n, guidance) in [(1, 2.75), (3, 2.75), (3, 1.0)] {
        let mut options = ShowOOptions::default();
        (options.candidates, options.batch) = (n + 1, n.min(2));
        (options.steps, options.guidance_scale) = (6, guidance);
        let mut session = drawing.session(options);
        let name = format!("Show-o, {n} with guidance {guidance} on {threads}");
        faults.check(&name, || drawn(&mut session, PROMPT, n));
    }
    let mut next = 0;
    for (n, reader) in [
        (1, Reader::TwoRows),
        (4, Reader::TwoRows),
        (3, Reader::Upstream { seed: 1 }),
    ] {
        let options = JudgeOptions::default().with_views(n).with_tokens(32);
        let mut judge = judging.session(options.with_reader(reader));
        let name = format!("LLaVA, {n} with {reader:?} on {threads}");
        faults.check(&name, || judged(&mut judge, n, &mut next));
    }
    let mut options = ShowOOptions::default();
    (options.candidates, options.batch, options.steps) = (3, 3, 5);
    let mut judge = judging.session(JudgeOptions::default().with_views(3).with_tokens(32));
    let name = format!("Show-o on {threads}");
    let mut session = drawing.session(options);
    // A search asks no more of memory on one thread than on two.
    if threads > 1 {
        every_strategy(faults, &name, 2, &mut session, &mut judge);
        cycles(faults, &name, few_cycles(), &mut session, &mut judge);
    }
}

fn janus(faults: &mut Faults, threads: usize) {
    let model = bundled::janus::load(Cpu::with_threads(threads).unwrap());
    let words = bundled::janus::words();
    let session = |n: usize, guidance| {
        let mut options = model.config().options();
        (options.candidates, options.batch) = (n + 1, n.min(2));
        (options.guidance_scale, options.pictures) = (guidance, 4);
        model.draw(words.clone(), options).unwrap()
    };
    for (n, guidance) in [(1, 2.0), (3, 2.0), (3, 1.0)] {
        let name = format!("Janus, {n} with guidance {guidance} on {threads}");
        let mut session = session(n, guidance);
        faults.check(&name, || drawn(&mut session, PROMPT, n));
    }
    let judge = |n| {
        let options = JudgeOptions::default().with_views(n).with_tokens(32);
        model.judge(Arc::new(words.clone()), options).unwrap()
    };
    let mut next = 0;
    for n in [1, 4] {
        let (mut judge, name) = (judge(n), format!("Janus judging {n} on {threads}"));
        faults.check(&name, || judged(&mut judge, n, &mut next));
    }
    let name = format!("Janus on {threads}");
    let (mut session, mut judge) = (session(4, 2.0), judge(4));
    if threads > 1 {
        every_strategy(faults, &name, 2, &mut session, &mut judge);
        cycles(faults, &name, few_cycles(), &mut session, &mut judge);
    }
}

/// A random LlamaGen that draws classes.
fn llamagen(faults: &mut Faults, threads: usize) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llamagen-c2i");
    let json = JsonConfig::parse(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let source = SafetensorsSource::new(&weights).unwrap();
    let cpu = Arc::new(Cpu::with_threads(threads).unwrap());
    let config = LlamaGenConfig::from_json(&json).unwrap();
    let model = Arc::new(LlamaGen::load(cpu, config, &source, Format::F32).unwrap());
    for (n, guidance) in [(1, 2.0), (3, 2.0), (3, 1.0)] {
        let mut options = RasterOptions::default();
        (options.candidates, options.batch) = (n + 1, n.min(2));
        (
            options.guidance_scale,
            options.filter.top_k,
            options.filter.top_p,
        ) = (guidance, 30, 0.95);
        let words = Words::new("tench\ngoldfish").unwrap();
        let prompts = LlamaGenPrompts::new(Arc::clone(&model), None, words).unwrap();
        let mut session = LlamaGenSession::new(Arc::clone(&model), None, prompts, options).unwrap();
        let name = format!("LlamaGen, {n} with guidance {guidance} on {threads}");
        faults.check(&name, || drawn(&mut session, "1", n));
    }
}

/// Pictures of one size that are cut into tiles, and prompts of one encoder.
fn read(faults: &mut Faults) {
    let mut resizer = Resizer::new();
    let (size, best) = (ImageSize::new(30, 50), ImageSize::new(32, 64));
    let (picture, mut views) = (vec![9; size.len_bytes()], vec![0; 3 * 32 * 32 * 3]);
    faults.check("tiles", || {
        counter::begin();
        resizer.tiles(&picture, size, best, 32, &mut views).unwrap();
        counter::end()
    });
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t5-encoder");
    let json = JsonConfig::parse(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let (weights, config) = (
        fs::read(folder.join("model.safetensors")).unwrap(),
        T5Config::from_json(&json).unwrap(),
    );
    let source = SafetensorsSource::new(&weights).unwrap();
    let cpu = Arc::new(Cpu::with_threads(1).unwrap());
    let encoder = T5::load(Arc::clone(&cpu), config, &source, Format::F32).unwrap();
    let mut scratch = encoder.scratch(6).unwrap();
    let mut features = cpu.zeros(6 * config.d_model).unwrap();
    faults.check("T5", || {
        counter::begin();
        for tokens in [&[2, 3, 1][..], &[2, 3, 4, 5, 2, 1]] {
            encoder.encode(&mut scratch, tokens, &mut features).unwrap();
        }
        counter::end()
    });
}

/// Strategies and combined judges over fakes.
fn fakes(faults: &mut Faults) {
    let mut generator = ScriptedGenerator::new(6);
    let mut oracle = OracleReward::new(1);
    cycles(faults, "fakes", CYCLES, &mut generator, &mut oracle);
    for n in [1, 20] {
        let mut oracle = OracleReward::new(1).clear_from(3);
        every_strategy(faults, "oracle", n, &mut generator, &mut oracle);
        let mut scripted = ScriptedReward::seeded(7);
        every_strategy(faults, "script", n, &mut generator, &mut scripted);
        let mut mean = Mean::new(vec![ScriptedReward::seeded(7), ScriptedReward::seeded(8)]);
        every_strategy(faults, "mean", n, &mut generator, &mut mean);
        let mut cascade = Cascade::new(ScriptedReward::seeded(7), OracleReward::new(1), 0.5);
        every_strategy(faults, "cascade", n, &mut generator, &mut cascade);
        let mut cached = Cached::new(OracleReward::new(1).clear_from(3), 64).unwrap();
        every_strategy(faults, "cached", n, &mut generator, &mut cached);
    }
}

#[test]
fn the_steady_state_allocates_nothing() {
    if refused::ran() {
        return;
    }
    let refusing = refused::Running::start("the_steady_state_allocates_nothing");
    let mut faults = Faults::default();
    // The counter counts: what a test that cannot fail would not see.
    counter::begin();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(counter::end().calls, 2);
    fakes(&mut faults);
    read(&mut faults);
    for threads in [1, 2] {
        show_o(&mut faults, threads);
        janus(&mut faults, threads);
        llamagen(&mut faults, threads);
    }
    refused::check(refusing, &mut faults.0);
    assert!(faults.0.is_empty(), "{}", faults.0.join("\n\n"));
}
