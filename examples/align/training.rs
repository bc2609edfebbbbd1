//! A run on disk, whatever it learns: its trainer, its curves, its checkpoint, what it leaves.

use std::fs;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::align::lora::{adapter_config, write_adapters};
use maquette::align::{
    AdamWConfig, Engine, Kept, Limits, LoraConfig, Schedule, StepReport, Trained, Trainer,
    TrainerConfig,
};
use maquette::model::learner::Learner;
use maquette::ops::Backward;
use serde_json::{Map, Value, json};
use support::png_file::write_durably;
use support::{say, settings};

use crate::Res;
use crate::curves::Curves;
use crate::family::{Adapters, Home};
use crate::options::Args;

/// A step: what it told, and how it ended. An outer error is none of the step's own.
pub type Step<'a, B, L> = dyn FnMut(&mut Trainer<B, L>, &mut Map<String, Value>) -> Res<maquette::Result<StepReport>>
    + 'a;

/// A run.
pub struct Training<'a, B: Backward, L: Learner<B>> {
    args: &'a Args,
    pub trainer: Trainer<B, L>,
    pub lora: LoraConfig,
    curves: Curves,
    checkpoint: PathBuf,
    steps: u64,
}

impl<'a, B: Backward, L: Learner<B>> Training<'a, B, L> {
    /// Begins a run of so many steps, or goes on with it; `targets` are the layers that get adapters unless told
    /// otherwise.
    pub fn open(
        args: &'a Args,
        learner: L,
        limits: Limits,
        targets: &str,
        steps: u64,
    ) -> Res<Self> {
        let mut layers = args.targets.clone();
        if layers.is_empty() {
            layers = targets.split(',').map(str::to_owned).collect();
        }
        let lora = LoraConfig::new(args.rank, 2.0 * args.rank as f32, layers).with_seed(args.seed);
        let engine = Engine::new(learner, Trained::Adapters(lora.clone()), limits)?;
        let mut trainer = Trainer::new(
            engine,
            TrainerConfig::new(
                AdamWConfig::default().with_rate(args.rate),
                Schedule::Cosine {
                    warm_up: steps / 10,
                    steps,
                },
            )
            .with_clip(args.clip),
        )?;
        fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
        settings::same(
            &args.out.join("run.json"),
            &args.describe(steps, &lora.targets),
        )?;
        let checkpoint = args.out.join("run.bin");
        let resumed = trainer.resume_file(&checkpoint)?;
        if resumed && !args.quiet {
            say!("{} of {steps} steps are done", trainer.steps());
        }
        Ok(Self {
            curves: Curves::open(&args.out.join("curves.jsonl"), trainer.steps())?,
            args,
            trainer,
            lora,
            checkpoint,
            steps,
        })
    }

    /// Memory for what is kept of a sequence.
    pub fn kept(&self) -> Res<Kept<B>> {
        let engine = self.trainer.engine();
        Ok(if self.args.keep {
            engine.kept_whole()?
        } else {
            engine.kept()?
        })
    }

    /// Takes the steps that are left. One that fails was not taken: what stands before it is kept.
    pub fn take(&mut self, step: &mut Step<'_, B, L>) -> Res<()> {
        let bar = bar(self.args.quiet, self.steps, "steps")?;
        bar.set_position(self.trainer.steps());
        bar.reset_eta();
        while self.trainer.steps() < self.steps {
            let mut told = Map::new();
            let report = match step(&mut self.trainer, &mut told)? {
                Ok(report) => report,
                Err(error) => {
                    self.save()?;
                    return Err(error.into());
                }
            };
            let mut row = Map::new();
            row.insert("step".into(), json!(report.step + 1));
            row.insert("loss".into(), json!(report.loss));
            row.append(&mut told);
            row.insert("gradient".into(), json!(report.gradient));
            row.insert("rate".into(), json!(report.rate));
            bar.set_message(message(&row));
            self.curves.add(row)?;
            bar.inc(1);
            let taken = self.trainer.steps();
            if taken.is_multiple_of(self.args.save_every) || taken == self.steps {
                self.save()?;
            }
        }
        bar.abandon();
        self.curves.draw(&self.args.out.join("curves.png"))
    }

    /// What the steps that were taken told under a name.
    pub fn told(&self, name: &str) -> impl Iterator<Item = f64> {
        self.curves.told(name)
    }

    fn save(&self) -> Res<()> {
        self.curves.sync()?;
        Ok(self.trainer.save(&self.checkpoint)?)
    }

    /// What was learnt so far.
    pub fn adapters(&self) -> Adapters<'_> {
        (self.trainer.engine().parameters(), &self.lora)
    }

    /// Writes the adapters and, if it is wanted, the model with them in its weights.
    pub fn leave(&self, home: &Home<B>) -> Res<()> {
        let (out, adapters) = (&self.args.out, self.adapters());
        let bytes = write_adapters(adapters.0)?;
        write_durably(&out.join("adapter_model.safetensors"), &bytes)?;
        if self.args.merge {
            home.write_merged(adapters, &out.join("merged"))?;
        }
        Ok(())
    }

    /// Shows what a check said, and keeps it.
    pub fn checked(&self, text: &str) -> Res<()> {
        say!("{}", text.strip_suffix('\n').unwrap_or(text));
        write_durably(&self.args.out.join("check.txt"), text.as_bytes())
    }

    /// Writes the last file: the run is done.
    pub fn close(&self) -> Res<()> {
        let config = adapter_config(&self.lora);
        write_durably(
            &self.args.out.join("adapter_config.json"),
            config.as_bytes(),
        )
    }
}

/// Progress over `len` things.
pub fn bar(quiet: bool, len: u64, what: &str) -> Res<ProgressBar> {
    let bar = ProgressBar::new(len);
    if quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = format!("{{bar:30}} {{pos}}/{{len}} {what}  {{msg}}  {{eta}} left");
    bar.set_style(ProgressStyle::with_template(&template)?);
    Ok(bar)
}

/// The first numbers of a step.
fn message(row: &Map<String, Value>) -> String {
    let told = row
        .iter()
        .filter(|(name, _)| ["loss", "margin", "p_right", "reward"].contains(&name.as_str()));
    let told = told.map(|(name, value)| format!("{name} {:.3}", value.as_f64().unwrap_or(0.0)));
    told.collect::<Vec<_>>().join(", ")
}
