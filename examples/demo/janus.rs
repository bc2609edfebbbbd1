//! Draws with a Janus folder, for the trainers: codes alone, since every preview of a picture is a function of them.

use super::{Outcome, npy_header};
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::weights::WeightSource;
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::{CandidateId, Generator, Prompt};
use serde::Deserialize;
use std::fs::{File, read_to_string};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Candidates that are drawn side by side.
const BATCH: usize = 64;

#[derive(clap::Args)]
pub(crate) struct Collect {
    /// Folder of the model: config.json, vocab.txt and weights.
    #[arg(long)]
    model: PathBuf,
    /// A line a prompt, as GenEval records.
    #[arg(long)]
    prompts: PathBuf,
    /// Pictures a prompt.
    #[arg(long, default_value_t = 10)]
    each: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Guidance scale s of uncond + s · (cond − uncond).
    #[arg(long, default_value_t = 2.0)]
    guidance: f32,
    /// Write a plan first, and draw with it.
    #[arg(long)]
    plan: bool,
    /// `OUT.npy` (u16, pictures × codes) and, with plans, `OUT.plans` (one a prompt).
    #[arg(long)]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
}

impl Collect {
    pub(crate) fn run(&self) -> Outcome {
        let folder = ModelFolder::open(&self.model)?;
        if folder.model != ModelType::Janus {
            return Err(format!("{}: not a Janus model", self.model.display()).into());
        }
        let words = Words::new(&read_to_string(self.model.join("vocab.txt"))?)?;
        let config = JanusConfig::from_json(&folder.config)?;
        let mut options = config.options();
        options.guidance_scale = self.guidance;
        (options.candidates, options.batch) = (BATCH, BATCH);
        let load = |source: &dyn WeightSource| {
            Janus::load(Arc::new(Cpu::with_threads(1)?), config, source, Format::F32)
        };
        let model = Arc::new(folder.weights.read(load)?);
        let lines: Vec<Line> = read_to_string(&self.prompts)?
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let at_once = (BATCH / self.each.max(1)).max(1);
        options.prompts = 2 * at_once + 2;
        let mut session = model.draw(words, options)?;
        let cells = session.grid().len();
        let mut file = BufWriter::new(File::create(self.out.with_extension("npy"))?);
        npy_header(
            &mut file,
            "<u2",
            &format!("{}, {cells}", lines.len() * self.each),
        )?;
        let mut plans = Vec::new();
        for line in &lines {
            let mut plan = String::new();
            if self.plan {
                session.plan(&Prompt::new(&line.prompt), self.seed, &mut plan)?;
            }
            plans.push(plan);
        }
        if self.plan {
            std::fs::write(self.out.with_extension("plans"), plans.join("\n") + "\n")?;
        }
        let mut codes = vec![0; BATCH * cells];
        let mut drawn = 0u64;
        for (lines, plans) in lines.chunks(at_once).zip(plans.chunks(at_once)) {
            let mut ids = Vec::new();
            for (line, plan) in lines.iter().zip(plans) {
                let mut prompt = Prompt::new(&line.prompt);
                if self.plan {
                    prompt = prompt.with_plan(plan);
                }
                let seeds: Vec<u64> = (drawn..drawn + self.each as u64)
                    .map(|i| self.seed << 32 | i)
                    .collect();
                drawn += self.each as u64;
                let mut started = vec![CandidateId(0); seeds.len()];
                session.start(&prompt, &seeds, &mut started)?;
                ids.append(&mut started);
            }
            for _ in 0..session.steps() {
                session.step(&ids)?;
            }
            session.observe(&ids, Needs::CODES, &mut Views::codes(&mut codes))?;
            session.prune(&ids)?;
            for &code in &codes[..ids.len() * cells] {
                file.write_all(&u16::try_from(code)?.to_le_bytes())?;
            }
        }
        Ok(file.flush()?)
    }
}
