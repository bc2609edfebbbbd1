//! The bundled demo family's world: draws pictures, writes the training sets, asks questions and marks readings.
//!
//! Everything that knows about the world is here; the trainers under `train/` only read what this program writes.

mod janus;

use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use support::png_file::{Picture, write_whole};
use support::world::prompts::{Ask, TAGS, words};
use support::world::scene::{Scene, Seen, questions, satisfies};
use support::world::{COLOURS, KINDS, Painter, Rng, SIDE};
use support::{open, say};

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "The demo world: pictures, prompts, questions, marks")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write `OUT.npy` (u8, N×64×64×3) and `OUT.jsonl` (one line a picture).
    Draw {
        #[arg(value_enum)]
        set: Set,
        #[arg(long, default_value_t = 1000)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write a PNG sheet of a set for the eye.
    Sheet {
        #[arg(value_enum)]
        set: Set,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the held-out evaluation prompts as GenEval records.
    EvalPrompts {
        #[arg(long)]
        out: PathBuf,
    },
    /// Write training-split prompts as GenEval records.
    Prompts {
        #[arg(long)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the generator's and the judge's word lists and the names of kinds and colours.
    Words {
        #[arg(long)]
        out: PathBuf,
    },
    /// Mark detector readings (`{"prompt", "seen": [[kind, colour, x, y, size], …]}` a line) and print scores by task.
    Score {
        #[arg(long)]
        readings: PathBuf,
        /// One 0 or 1 a line, in order.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Write questions with answers for detector readings.
    Questions {
        #[arg(long)]
        readings: PathBuf,
        #[arg(long, default_value_t = 8)]
        each: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Draw codes with a Janus folder.
    Collect(janus::Collect),
}

#[derive(Clone, Copy, ValueEnum)]
enum Set {
    /// Every kind in every colour, one a picture (sheets only).
    Kinds,
    /// Scenes that answer training prompts.
    Train,
    /// Half coloured task scenes, half anything with scraps: for the tokenizer and the detectors.
    Mixed,
    /// Training scenes, nearly half of them damaged, with questions.
    Judge,
}

#[derive(Serialize)]
struct Line {
    prompt: String,
    objects: Vec<[usize; 5]>,
    questions: Vec<(String, u8)>,
    plan: String,
}

#[derive(Deserialize)]
struct Reading {
    prompt: String,
    seen: Vec<(usize, usize, f32, f32, f32)>,
}

fn make(set: Set, index: usize, rng: &mut Rng) -> (Ask, Scene, usize) {
    let ask = Ask::random_for_training(rng);
    match set {
        Set::Kinds => {
            let mut ask = Ask::of_task(3, rng);
            ask.kinds[0] = index / COLOURS.len() % KINDS.len();
            ask.colours[0] = index % COLOURS.len();
            (ask, Scene::answering(&ask, rng), 0)
        }
        Set::Train => (ask, Scene::answering(&ask, rng), 0),
        Set::Mixed => {
            let scene = if rng.chance(0.5) {
                Scene::anything(rng)
            } else {
                Scene::answering(&ask, rng)
            };
            (ask, scene, 0)
        }
        Set::Judge => {
            let mut scene = Scene::answering(&ask, rng);
            if rng.chance(0.45) {
                scene.damage(rng);
            }
            (ask, scene, 8)
        }
    }
}

/// The header of the .npy format, padded so that the data begin at byte 128 and ends in a newline.
fn npy_header(file: &mut impl Write, kind: &str, shape: &str) -> std::io::Result<()> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&118u16.to_le_bytes())?;
    writeln!(file, "{header:<117}")
}

fn draw(set: Set, count: usize, seed: u64, out: &Path) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut painter = Painter::new();
    let mut pixels = BufWriter::new(File::create(out.with_extension("npy"))?);
    let mut lines = BufWriter::new(File::create(out.with_extension("jsonl"))?);
    npy_header(&mut pixels, "|u1", &format!("{count}, {SIDE}, {SIDE}, 3"))?;
    for index in 0..count {
        let (ask, scene, asked) = make(set, index, &mut rng);
        pixels.write_all(&painter.draw(scene.page, &scene.objects, &scene.scraps))?;
        let seen: Vec<Seen> = scene.objects.iter().map(|&o| o.into()).collect();
        let asked = if asked > 0 {
            questions(&ask, &seen, asked, &mut rng)
        } else {
            Vec::new()
        };
        let line = Line {
            prompt: ask.text(),
            plan: scene.plan(&ask),
            objects: scene
                .objects
                .iter()
                .map(|o| [o.kind, o.colour, o.size, o.x, o.y])
                .collect(),
            questions: asked
                .into_iter()
                .map(|(text, yes)| (text, u8::from(yes)))
                .collect(),
        };
        serde_json::to_writer(&mut lines, &line)?;
        lines.write_all(b"\n")?;
    }
    pixels.flush()?;
    Ok(lines.flush()?)
}

fn sheet(set: Set, seed: u64, out: &Path) -> Outcome {
    const ACROSS: usize = 16;
    const DOWN: usize = 6;
    const STEP: usize = SIDE + 2;
    let (width, height) = (ACROSS * STEP, DOWN * STEP);
    let mut rng = Rng::new(seed);
    let mut painter = Painter::new();
    let mut page = vec![128u8; width * height * 3];
    for i in 0..ACROSS * DOWN {
        let (_, scene, _) = make(set, i, &mut rng);
        let picture = painter.draw(scene.page, &scene.objects, &scene.scraps);
        for (row, line) in picture.chunks_exact(SIDE * 3).enumerate() {
            let at = ((i / ACROSS * STEP + row) * width + i % ACROSS * STEP) * 3;
            page[at..at + SIDE * 3].copy_from_slice(line);
        }
    }
    let pixels = &page;
    let picture = Picture {
        width,
        height,
        pixels,
    };
    write_whole(out, &picture.png()?)
}

fn write_records(asks: &[Ask], out: &Path) -> Outcome {
    let mut file = BufWriter::new(File::create(out)?);
    for ask in asks {
        serde_json::to_writer(&mut file, &ask.record())?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

fn eval_prompts(out: &Path) -> Outcome {
    const AT_MOST: usize = 110;
    let mut rng = Rng::new(553);
    let mut chosen = Vec::new();
    for (task, tag) in TAGS.iter().enumerate() {
        let mut asks = Ask::all(task);
        if task > 0 {
            asks.retain(Ask::is_held_out);
        }
        while asks.len() > AT_MOST {
            asks.swap_remove(rng.below(asks.len()));
        }
        eprintln!("{tag}: {}", asks.len());
        chosen.append(&mut asks);
    }
    write_records(&chosen, out)
}

/// A request and what a detector saw in a picture made for it.
type Read = (Ask, Vec<Seen>);

fn readings(path: &Path) -> Result<Vec<Read>, Box<dyn Error>> {
    let mut out = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let reading: Reading = serde_json::from_str(&line?)?;
        let ask = Ask::parse(&reading.prompt)
            .ok_or_else(|| format!("not a prompt of this world: {}", reading.prompt))?;
        let seen = reading
            .seen
            .into_iter()
            .map(|(kind, colour, x, y, size)| Seen {
                kind,
                colour,
                x,
                y,
                size,
            });
        out.push((ask, seen.collect()));
    }
    Ok(out)
}

fn score(path: &Path, out: Option<&Path>) -> Outcome {
    let mut sums = [(0usize, 0usize); TAGS.len()];
    let mut marks = String::new();
    for (ask, seen) in readings(path)? {
        let right = satisfies(&ask, &seen);
        sums[ask.task].0 += usize::from(right);
        sums[ask.task].1 += 1;
        marks.push_str(if right { "1\n" } else { "0\n" });
    }
    let (mut total, mut told) = (0.0, String::new());
    for (tag, (right, all)) in TAGS.iter().zip(sums) {
        let share = right as f64 / all.max(1) as f64;
        total += share / TAGS.len() as f64;
        told += &format!("{tag} {share:.3} ({all})  ");
    }
    say!("{told}overall {total:.3}");
    if let Some(out) = out {
        std::fs::write(out, marks)?;
    }
    Ok(())
}

fn write_questions(path: &Path, each: usize, seed: u64, out: &Path) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut file = BufWriter::new(File::create(out)?);
    for (ask, seen) in readings(path)? {
        let asked: Vec<(String, u8)> = questions(&ask, &seen, each, &mut rng)
            .into_iter()
            .map(|(text, yes)| (text, u8::from(yes)))
            .collect();
        serde_json::to_writer(&mut file, &asked)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

fn write_words(out: &Path) -> Outcome {
    std::fs::create_dir_all(out)?;
    let words = words();
    let list = |extra: &[&str]| {
        words
            .iter()
            .map(String::as_str)
            .chain(extra.iter().copied())
            .collect::<Vec<_>>()
            .join("\n")
            + "\n"
    };
    std::fs::write(out.join("show-o.txt"), list(&["<|endoftext|>"]))?;
    std::fs::write(
        out.join("judge.txt"),
        list(&["match", "process", "clear", "potential", "?", "yes", "no"]),
    )?;
    std::fs::write(
        out.join("janus.txt"),
        list(&[
            "match",
            "process",
            "clear",
            "potential",
            "plan",
            "?",
            "yes",
            "no",
            "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>",
            "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
            "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>",
            "<begin_of_image>",
            "<end_of_image>",
            "<|User|>",
            "<|Assistant|>",
        ]),
    )?;
    std::fs::write(
        out.join("names.json"),
        serde_json::json!({ "kinds": KINDS, "colours": COLOURS, "tags": TAGS }).to_string(),
    )?;
    Ok(())
}

fn main() -> ExitCode {
    open::ended(run(Cli::parse().command))
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Draw {
            set,
            count,
            seed,
            out,
        } => draw(set, count, seed, &out),
        Command::Sheet { set, seed, out } => sheet(set, seed, &out),
        Command::EvalPrompts { out } => eval_prompts(&out),
        Command::Prompts { count, seed, out } => {
            let mut rng = Rng::new(seed);
            let asks: Vec<Ask> = (0..count)
                .map(|_| Ask::random_for_training(&mut rng))
                .collect();
            write_records(&asks, &out)
        }
        Command::Words { out } => write_words(&out),
        Command::Score { readings, out } => score(&readings, out.as_deref()),
        Command::Questions {
            readings,
            each,
            seed,
            out,
        } => write_questions(&readings, each, seed, &out),
        Command::Collect(collect) => collect.run(),
    }
}
