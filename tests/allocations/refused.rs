//! Every call of the allocator is refused once, while sessions are made and while they search: each time an error comes
//! back, nothing is left behind, and the next search of the same sessions chooses what it always does.
//!
//! In a program of its own, since a call that must not fail ends it. `MAQUETTE_REFUSE=all` refuses every call, else every
//! one of a session's making and one in some of a search.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use maquette::combine::{Cached, Cascade, Mean};
use maquette::cpu::Cpu;
use maquette::generator::Needs;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llamagen::{LlamaGen, LlamaGenConfig, LlamaGenPrompts, LlamaGenSession};
use maquette::model::llava::{JudgeOptions, LlavaSession};
use maquette::model::raster::RasterOptions;
use maquette::model::show_o::{ShowOOptions, ShowOSession};
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::reward::Ask;
use maquette::rng::Stream;
use maquette::search::{
    Adaptive, BestOfN, Budget, Correction, Halving, Parm, ParmForm, Plain, Prm, Reflect,
    SearchStrategy,
};
use maquette::testing::ScriptedGenerator;
use maquette::{Error, Flow, Generator, Judgement, Prompt, Result, RewardModel, Verdict};

use crate::bundled::drawing::Drawing;
use crate::bundled::files::text;
use crate::bundled::judging::{self, Judging};
use crate::{counter, tiny_janus};

/// Set in the program that refuses: the scene and the call where it begins, and whether it tells of that one alone.
const BEGIN: &str = "MAQUETTE_REFUSE_FROM";
/// Set to refuse every call.
const ALL: &str = "MAQUETTE_REFUSE";
/// One call in so many is refused otherwise.
const STRIDE: usize = 17;
/// Places of the largest grid.
const PLACES: usize = 256;
/// Calls that end the program before the rest is left alone.
const FAULTS: usize = 20;

/// Goes through scenes and their calls of the allocator.
struct Walk {
    scene: usize,
    begin: (usize, usize, bool),
    stride: usize,
    refused: usize,
}

impl Walk {
    /// Whether the next scene is looked at.
    const fn comes(&self) -> bool {
        let (next, (first, _, once)) = (self.scene + 1, self.begin);
        next >= first && !(once && next > first)
    }

    /// Refuses one call in some of `f`, which says whether it failed and whether it made so many calls.
    fn each(&mut self, name: &str, f: impl FnMut(usize) -> (bool, bool)) {
        self.every(self.stride, name, f);
    }

    /// Refuses one call in `stride`.
    fn every(&mut self, stride: usize, name: &str, mut f: impl FnMut(usize) -> (bool, bool)) {
        let comes = self.comes();
        self.scene += 1;
        let (scene, from, once) = self.begin;
        if !comes {
            return;
        }
        let first = if self.scene == scene {
            from
        } else {
            1 + self.scene % stride
        };
        for n in (first..).step_by(stride) {
            say(&format!("{} {n} {name}", self.scene));
            let before = counter::own();
            let (failed, reached) = f(n);
            assert_eq!(counter::own(), before, "{name}: call {n}");
            self.refused += usize::from(failed);
            if !reached || once {
                break;
            }
        }
    }
}

/// Prints at once, whatever becomes of the program.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Whether it failed, for want of memory alone.
fn out_of_memory<T>(result: &Result<T>) -> bool {
    match result {
        Ok(_) => false,
        Err(Error::OutOfMemory { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// A strategy that is looked at.
type Strategy<'a> = (
    &'a str,
    &'a mut dyn SearchStrategy<dyn Generator, dyn RewardModel>,
);

/// Searches, and prunes the winner. Compiled once, not for each of the models.
fn search(
    strategy: &mut dyn SearchStrategy<dyn Generator, dyn RewardModel>,
    generator: &mut (dyn Generator + 'static),
    judge: &mut (dyn RewardModel + 'static),
    prompt: &str,
    codes: &mut [u32; PLACES],
) -> Result<()> {
    let (prompt, mut rng) = (Prompt::new(prompt), Stream::new(5));
    let found = strategy.search(generator, judge, &prompt, &mut rng, &mut |_| Flow::Continue)?;
    generator.save(found.winner, codes)?;
    generator.prune(&[found.winner])
}

/// Makes sessions, then searches with each strategy.
fn scene<G: Generator + 'static, R: RewardModel + 'static>(
    walk: &mut Walk,
    name: &str,
    prompt: &str,
    make: &dyn Fn() -> Result<(G, R)>,
    strategies: &mut [Strategy<'_>],
) {
    // A device keeps the scratch that it once needed.
    if walk.comes() {
        drop(make().unwrap());
    }
    // Each of them: most are made one after the other, and few are alike.
    walk.every(1, name, |n| {
        let (made, reached) = counter::refusing(n, make);
        (out_of_memory(&made), reached)
    });
    for (strategy, run) in strategies {
        let mut want = [0; PLACES];
        if walk.comes() {
            let (mut generator, mut judge) = make().unwrap();
            search(&mut **run, &mut generator, &mut judge, prompt, &mut want).unwrap();
        }
        walk.each(&format!("{name}, {strategy}"), |n| {
            let mut codes = [0; PLACES];
            let (mut generator, mut judge) = make().unwrap();
            let mut run = || search(&mut **run, &mut generator, &mut judge, prompt, &mut codes);
            let (found, reached) = counter::refusing(n, &mut run);
            let failed = out_of_memory(&found);
            if failed {
                run().unwrap();
            }
            assert_eq!(codes, want, "call {n}");
            (failed, reached)
        });
    }
}

/// A random Janus that draws and judges, with every strategy.
fn janus(walk: &mut Walk) {
    let model = tiny_janus::load(Cpu::with_threads(1).unwrap(), tiny_janus::config());
    let words = Arc::new(tiny_janus::words());
    let judge = || {
        let options = JudgeOptions::default().with_views(3).with_tokens(32);
        model.judge(words.clone(), options)
    };
    let mut options = model.config().options();
    (options.candidates, options.prompts) = (3, 1);
    let generator = || model.draw(words.clone(), options);
    let prompt = " a photo of a red car\n";
    let rounds = Adaptive::new(BestOfN::new(2), 2).with_confidence(2.0);
    let tail = Correction::Tail { from: 1 };
    let released = Parm::new(2).with_form(ParmForm::Released);
    let halving = Halving::new(2, [1]).with_judgement(Judgement::Potential);
    let mut strategies: [Strategy<'_>; 9] = [
        ("plain", &mut Plain),
        ("best of n", &mut BestOfN::new(2)),
        ("prm", &mut Prm::new(2)),
        ("wide prm", &mut Prm::new(2).with_width(2)),
        ("parm", &mut Parm::new(2)),
        ("released parm", &mut { released }),
        ("halving", &mut { halving }),
        ("budget of rounds", &mut Budget::new(rounds).with_steps(54)),
        (
            "reflect",
            &mut Reflect::new(Plain, tail).with_confidence(1.0),
        ),
    ];
    let make = || Ok((generator()?, judge()?));
    scene(walk, "Janus", prompt, &make, &mut strategies);
    let make = || {
        let mut two = Vec::new();
        two.try_reserve_exact(2).map_err(|_| Error::OutOfMemory {
            what: "test",
            bytes: 0,
        })?;
        two.extend([judge()?, judge()?]);
        let judge = Cached::new(Cascade::new(judge()?, Mean::new(two), 0.5), 8)?;
        Ok((generator()?, judge))
    };
    let mut strategies: [Strategy<'_>; 1] = [("parm", &mut Parm::new(2))];
    scene(
        walk,
        "Janus, combined judges",
        prompt,
        &make,
        &mut strategies,
    );
    walk.each("Janus, a plan", |n| {
        let mut generator = generator().unwrap();
        let (written, reached) =
            counter::refusing(n, || generator.plan(&Prompt::new(prompt), 1, &mut Nowhere));
        (out_of_memory(&written), reached)
    });
}

/// Keeps nothing that is written.
struct Nowhere;

impl std::fmt::Write for Nowhere {
    fn write_str(&mut self, _: &str) -> std::fmt::Result {
        Ok(())
    }
}

/// The bundled Show-o and its judge.
fn show_o(walk: &mut Walk) {
    let drawing = Drawing::load(Cpu::with_threads(1).unwrap(), Format::F32);
    let judging = Judging::load(Cpu::with_threads(1).unwrap(), Format::F32);
    let words = Arc::new(Words::new(&text("show-o/vocab.txt")).unwrap());
    let judge_words = judging::words();
    let make = || {
        let mut options = ShowOOptions::default();
        (options.candidates, options.batch, options.steps) = (2, 2, 2);
        let (model, pixels) = (Arc::clone(&drawing.model), Arc::clone(&drawing.pixels));
        let generator = ShowOSession::new(model, pixels, Arc::clone(&words), options)?;
        let options = JudgeOptions::default().with_views(2).with_tokens(32);
        let judge = LlavaSession::new(Arc::clone(&judging.0), Arc::clone(&judge_words), options)?;
        Ok((generator, judge))
    };
    let mut strategies: [Strategy<'_>; 1] = [("parm", &mut Parm::new(2))];
    scene(
        walk,
        "Show-o",
        "a photo of a red car",
        &make,
        &mut strategies,
    );
}

/// Is never asked.
struct Silent;

impl RewardModel for Silent {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }

    fn judge(&mut self, _: &Ask<'_>, _: &mut [Verdict]) -> Result<()> {
        Err(Error::Unsupported { what: "judging" })
    }
}

/// A random LlamaGen that draws classes.
fn llamagen(walk: &mut Walk) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llamagen-c2i");
    let json = fs::read_to_string(folder.join("config.json")).unwrap();
    let config = LlamaGenConfig::from_json(&JsonConfig::parse(&json).unwrap()).unwrap();
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let source = SafetensorsSource::new(&weights).unwrap();
    let load = |cpu| Arc::new(LlamaGen::load(cpu, config, &source, Format::F32).unwrap());
    let words = Arc::new(Words::new("tench\ngoldfish").unwrap());
    let session = |model: &Arc<LlamaGen<Cpu>>| {
        let mut options = RasterOptions::default();
        (options.candidates, options.guidance_scale) = (2, 2.0);
        let prompts = LlamaGenPrompts::new(Arc::clone(model), None, Arc::clone(&words))?;
        let generator = LlamaGenSession::new(Arc::clone(model), None, prompts, options)?;
        Ok((generator, Silent))
    };
    let model = load(Arc::new(Cpu::with_threads(1).unwrap()));
    let mut strategies: [Strategy<'_>; 1] = [("plain", &mut Plain)];
    scene(
        walk,
        "LlamaGen",
        "goldfish",
        &|| session(&model),
        &mut strategies,
    );
    walk.each("LlamaGen on a device without scratch", |n| {
        let model = load(Arc::new(Cpu::with_threads(1).unwrap()));
        let (mut generator, mut judge) = session(&model).unwrap();
        drop(model);
        let mut codes = [0; PLACES];
        let (found, reached) = counter::refusing(n, || {
            search(
                &mut Plain,
                &mut generator,
                &mut judge,
                "goldfish",
                &mut codes,
            )
        });
        (out_of_memory(&found), reached)
    });
}

/// Says no, and why.
struct Critic;

impl RewardModel for Critic {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }

    fn judge(&mut self, _: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        out.fill(Verdict::new(0.1, 0.9));
        Ok(())
    }

    fn explain(&mut self, _: &Ask<'_>, out: &mut dyn std::fmt::Write) -> Result<()> {
        let words = ["the car is blue instead of red", "; ", "the cup is missing"];
        let said = words.into_iter().try_for_each(|word| out.write_str(word));
        said.map_err(|_| Error::foreign("no room for words"))
    }
}

/// A reason is kept as a search's own.
fn reasons(walk: &mut Walk) {
    walk.every(1, "reasons", |n| {
        let mut generator = ScriptedGenerator::new(3);
        let mut codes = [0; PLACES];
        let mut run = || {
            let mut corrected = Reflect::new(Plain, Correction::Prompted).with_rounds(1);
            search(
                &mut corrected,
                &mut generator,
                &mut Critic,
                "a red car",
                &mut codes,
            )
        };
        // The fake keeps the memory that it once needed.
        run().unwrap();
        let (found, reached) = counter::refusing(n, &mut run);
        (out_of_memory(&found), reached)
    });
}

/// What the other program does, if this is it.
pub fn ran() -> bool {
    let Ok(begin) = std::env::var(BEGIN) else {
        return false;
    };
    let mut numbers = begin.split(' ').map(|n| n.parse().unwrap());
    let begin = (
        numbers.next().unwrap(),
        numbers.next().unwrap(),
        numbers.next() == Some(1),
    );
    if begin.2 {
        counter::tell();
    }
    let all = std::env::var(ALL).is_ok_and(|which| which == "all");
    let mut walk = Walk {
        scene: 0,
        begin,
        stride: if all { 1 } else { STRIDE },
        refused: 0,
    };
    llamagen(&mut walk);
    janus(&mut walk);
    show_o(&mut walk);
    reasons(&mut walk);
    say(&format!("refused {}", walk.refused));
    true
}

/// The other program while it runs. It writes to files, so that nobody need read along and allocate for it.
pub struct Running {
    test: &'static str,
    child: Child,
}

const SAID: [&str; 2] = ["refused.out", "refused.err"];

impl Running {
    /// Begins with the first call.
    pub fn start(test: &'static str) -> Self {
        Self::from(test, "1 1 0")
    }

    fn from(test: &'static str, begin: &str) -> Self {
        let file = |name| File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).unwrap();
        let [out, err] = SAID.map(file);
        let child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(BEGIN, begin)
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap();
        Self { test, child }
    }

    /// Waits for its end: whether it went well, and what it printed.
    fn end(mut self) -> (bool, [String; 2]) {
        let done = self.child.wait().unwrap().success();
        let text = |name| {
            let bytes = fs::read(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (done, SAID.map(text))
    }
}

/// Waits for the other program, and runs it again behind each call that ended it.
pub fn check(mut running: Running, faults: &mut Vec<String>) {
    let test = running.test;
    for _ in 0..FAULTS {
        let (done, [said, why]) = running.end();
        // Where it is, unless it is over.
        let place = |line: &str| {
            let (scene, rest) = line.split_once(' ')?;
            let (n, _) = rest.split_once(' ')?;
            Some((scene.parse::<usize>().ok()?, n.parse::<usize>().ok()?))
        };
        let Some((at, (scene, n))) = said.lines().rev().find_map(|l| Some((l, place(l)?))) else {
            faults.push(format!("{said}\n{why}"));
            return;
        };
        if done {
            let refused = said.lines().find_map(|line| line.strip_prefix("refused "));
            if refused.is_none_or(|n| n.parse().unwrap_or(0) < 30) {
                faults.push(format!("too few calls were refused: {refused:?}"));
            }
            return;
        }
        let (_, [_, why]) = Running::from(test, &format!("{scene} {n} 1")).end();
        let own = |line: &&str| {
            [
                "maquette::",
                "memory allocation",
                "panicked",
                "left",
                "right",
            ]
            .iter()
            .any(|word| line.contains(word))
        };
        let why: Vec<&str> = why.lines().filter(own).collect();
        faults.push(format!("refused call {at}:\n{}", why.join("\n")));
        running = Running::from(test, &format!("{scene} {} 0", n + 1));
    }
}
