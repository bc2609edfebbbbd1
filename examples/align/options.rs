//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use support::open::device::Choice;
use support::scorer::Scorer;
use support::weights::Weights;

use crate::Res;

/// Trains adapters of a generator on preferences and rewards.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
pub struct Args {
    /// What is trained for.
    #[arg(long, value_enum, default_value_t = Objective::Dpo)]
    pub objective: Objective,
    /// Pairs, one a line; for dpo, guided, and supervised, which takes the chosen pictures.
    #[arg(long, value_delimiter = ',')]
    pub pairs: Vec<PathBuf>,
    /// GenEval records of prompts that the policy draws while it is trained; for guided and grpo.
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Folder that takes the run and, at its end, the adapters.
    #[arg(long)]
    pub out: PathBuf,
    /// Questions with their answers, one a line, as annotate's sets are: for judge; and for supervised, which takes the
    /// pictures of which the answer is yes.
    #[arg(long, value_delimiter = ',')]
    pub items: Vec<PathBuf>,
    /// Share of the items that is trained on; a smaller one is part of a larger one.
    #[arg(long, default_value_t = 1.0)]
    pub share: f64,
    /// Also teach the reasons that items have; the judge's vocabulary must spell them.
    #[arg(long)]
    pub reasons: bool,
    /// Folder of a Show-o, a Janus or a judge, with vocab.txt. [default: the bundled Show-o, or the bundled judge]
    #[arg(long)]
    pub model_dir: Option<PathBuf>,
    /// Folder of a Show-o's image tokenizer. [default: the bundled one]
    #[arg(long)]
    pub tokenizer_dir: Option<PathBuf>,
    /// Folder of the Show-o that draws for a judge's --check. [default: the bundled one]
    #[arg(long)]
    pub generator_dir: Option<PathBuf>,
    /// Folder of a Show-o's judge. [default: the bundled one; a Janus judges for itself]
    #[arg(long)]
    pub judge_dir: Option<PathBuf>,
    /// What the frozen weights are kept in.
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    pub format: Weights,
    /// Steps. [default: once through the pairs or items; of grpo 100]
    #[arg(long)]
    pub steps: Option<u64>,
    /// Go through pairs or pictures in an order drawn anew for every pass, not in that of the files.
    #[arg(long)]
    pub shuffle: bool,
    /// Let the tasks of pairs and of prompts take turns, each in an order drawn anew for every pass: rare ones come more
    /// often.
    #[arg(long, conflicts_with = "shuffle")]
    pub even: bool,
    /// Pairs, pictures or items of a step.
    #[arg(long, default_value_t = 10)]
    pub batch: usize,
    /// Largest rate; the first tenth of the steps leads up to it.
    #[arg(long, default_value_t = 1e-4)]
    pub rate: f64,
    /// How much a difference of scores counts. [default: 0.1; of grpo, the distance from the reference: 0.01]
    #[arg(long)]
    pub beta: Option<f64>,
    /// Factor of the cross-entropy of the chosen pictures.
    #[arg(long, default_value_t = 0.0)]
    pub supervised: f64,
    /// Longest gradient.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f64,
    /// Rank of the adapters; they count twice their product over the rank.
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// Ends of the names of the layers that get adapters. [default: all of the blocks]
    #[arg(long, value_delimiter = ',')]
    pub targets: Vec<String>,
    /// Whether both pictures of a pair are masked alike; Show-o alone.
    #[arg(long, value_enum, default_value_t = MaskKind::Own)]
    pub masks: MaskKind,
    /// How often the text is left out of a pair or a picture; Show-o alone.
    #[arg(long, default_value_t = 0.1)]
    pub drop: f32,
    /// How rewards of drawn pictures guide the pairs.
    #[arg(long, value_enum, default_value_t = Guide::Pairs)]
    pub guide: Guide,
    /// Factor of the reward term. [default: 0.1]
    #[arg(long, default_value_t = 0.1)]
    pub guide_factor: f64,
    /// Who rewards drawn pictures.
    #[arg(long, value_enum, default_value_t = Scorer::Judge)]
    pub scorer: Scorer,
    /// Prompts of a step that pictures are drawn of.
    #[arg(long, default_value_t = 2)]
    pub groups: u32,
    /// Pictures of each of them.
    #[arg(long, default_value_t = 8)]
    pub group: u32,
    /// Prompts that are tried for each group until its rewards differ.
    #[arg(long, default_value_t = 4)]
    pub tries: u32,
    /// Passes of a drawn picture that are trained on, drawn anew for each; 0 for all.
    #[arg(long, default_value_t = 0)]
    pub passes: usize,
    /// Guidance scale of drawn pictures. [default: the model's own, 3 for the bundled Show-o]
    #[arg(long)]
    pub guidance: Option<f32>,
    /// Write a plan before each picture, and train what is written as well; grpo of a Janus alone.
    #[arg(long)]
    pub plan: bool,
    /// Entropies of words and of codes to hold, in nats, by terms whose factors adapt; of grpo.
    #[arg(long, num_args = 2, value_names = ["WORDS", "CODES"])]
    pub entropy: Vec<f64>,
    /// Words that a plan may have before longer ones lose reward, the more the easier the prompt is.
    #[arg(long, requires = "plan")]
    pub plan_length: Option<f64>,
    /// Reward that a plan of twice those words loses where every picture is right.
    #[arg(long, default_value_t = 0.1)]
    pub length_factor: f64,
    /// Reward stages apart: a plan by so many pictures of it, and a picture also by so many others that go on from it
    /// halfway.
    #[arg(long, default_value_t = 0, requires = "plan")]
    pub stages: u32,
    /// Begin each picture as an edit of a right picture of another prompt, half of its steps taken back: items as for
    /// supervised; grpo of a Show-o alone.
    #[arg(long, value_delimiter = ',', conflicts_with = "plan")]
    pub edit: Vec<PathBuf>,
    /// GenEval records that are not trained on: pictures before and after are compared; for a judge, how well it tells right
    /// pictures from wrong ones by the evaluating detector.
    #[arg(long)]
    pub check: Option<PathBuf>,
    /// Pictures of each of them.
    #[arg(long, default_value_t = 4)]
    pub check_images: u32,
    /// File of the pictures that a judge is checked on: drawn once, and read by later runs. [default: one in --out]
    #[arg(long)]
    pub check_pictures: Option<PathBuf>,
    /// Records of the evaluation: `--prompts` with the same words are left out.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/eval_prompts.jsonl"))]
    pub evaluation: PathBuf,
    /// Also write the model with the adapters in its weights: where the next round begins.
    #[arg(long)]
    pub merge: bool,
    /// Of all draws.
    #[arg(long, default_value_t = 10086)]
    pub seed: u64,
    /// Keep the rows between the layers of all blocks, and compute no block twice: faster, with more memory. Changes no bit.
    #[arg(long)]
    pub keep: bool,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 10)]
    pub save_every: u64,
    /// Where it runs: `cpu`, `cuda` or `cuda:N`, `auto` for a GPU where there is one. Changes no bit.
    #[arg(long, default_value = "cpu")]
    pub device: Choice,
    /// Threads on the CPU; change no bit. [default: all cores]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Print nothing but the table and errors.
    #[arg(long)]
    pub quiet: bool,
}

/// What is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Objective {
    /// The pairs.
    Dpo,
    /// The pairs, and rewards of pictures that the policy draws now.
    Guided,
    /// Rewards of pictures that the policy draws now, against their group.
    Grpo,
    /// Cross-entropy of pictures that are right: the chosen ones of pairs, and those of items answered with yes.
    Supervised,
    /// Questions about drawn pictures; of a judge alone.
    Judge,
}

/// How rewards guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Guide {
    /// The best and the worst picture of a group are one more pair.
    Pairs,
    /// The score-function form.
    Score,
    /// As released: the rewards of a group's pictures are added to the loss that is shown, and teach nothing.
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MaskKind {
    /// As in the released code.
    Own,
    /// Less noise in the difference.
    Shared,
}

impl Args {
    /// Whether the policy draws while it is trained.
    pub fn draws(&self) -> bool {
        matches!(self.objective, Objective::Guided | Objective::Grpo)
    }

    /// β of the objective.
    pub fn beta(&self) -> f64 {
        let own = if self.objective == Objective::Grpo {
            0.01
        } else {
            0.1
        };
        self.beta.unwrap_or(own)
    }

    /// Fails for what does not go together.
    pub fn check(&self) -> Res<()> {
        if self.batch == 0 || self.save_every == 0 || self.check_images == 0 {
            return Err("--batch, --save-every and --check-images begin at 1".into());
        }
        if matches!(self.device, Choice::Cublaslt(_)) {
            return Err(
                "--device cublaslt is for drawing: its products change the run's bits".into(),
            );
        }
        let judge = self.objective == Objective::Judge;
        let supervised = self.objective == Objective::Supervised;
        if !supervised && self.items.is_empty() == judge {
            return Err("--items is needed for judge, and taken by supervised alone".into());
        }
        if !(0.0..=1.0).contains(&self.drop) {
            return Err("--drop is between zero and one".into());
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err("--share is above zero and at most one".into());
        }
        let paired = matches!(self.objective, Objective::Dpo | Objective::Guided);
        if !supervised && self.pairs.is_empty() == paired {
            return Err("--pairs is needed, except for supervised, grpo and judge".into());
        }
        if supervised && self.pairs.is_empty() && self.items.is_empty() {
            return Err("supervised needs --pairs or --items".into());
        }
        if self.prompts.is_none() == self.draws() {
            return Err("--prompts is needed for guided and grpo alone".into());
        }
        if self.even && !(paired || self.draws()) {
            return Err("--even is for dpo, guided and grpo alone".into());
        }
        let shaped = self.plan || !self.edit.is_empty() || !self.entropy.is_empty();
        if shaped && self.objective != Objective::Grpo {
            return Err("--plan, --edit and --entropy are for grpo alone".into());
        }
        if self.draws() && (self.group < 2 || self.groups == 0 || self.tries == 0) {
            return Err("--group begins at 2, --groups and --tries begin at 1".into());
        }
        Ok(())
    }

    /// Everything that decides the bits of the run.
    pub fn describe(&self, steps: u64, targets: &[String]) -> Value {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let paths = |paths: &[PathBuf]| -> Vec<String> {
            paths.iter().map(|p| p.display().to_string()).collect()
        };
        let mut told = json!({
            "objective": format!("{:?}", self.objective), "pairs": paths(&self.pairs), "prompts": path(&self.prompts),
            "model": path(&self.model_dir), "tokenizer": path(&self.tokenizer_dir), "judge": path(&self.judge_dir),
            "format": format!("{:?}", self.format), "steps": steps, "batch": self.batch, "rate": self.rate,
            "beta": self.beta(), "supervised": self.supervised, "clip": self.clip, "rank": self.rank, "targets": targets,
            "masks": format!("{:?}", self.masks), "guide": format!("{:?}", self.guide), "guide_factor": self.guide_factor,
            "scorer": self.scorer.name(), "groups": self.groups, "group": self.group, "tries": self.tries,
            "passes": self.passes, "guidance": self.guidance, "seed": self.seed, "shuffle": self.shuffle,
            "even": self.even, "drop": self.drop, "items": paths(&self.items), "plan": self.plan, "entropy": self.entropy, "plan_length": self.plan_length,
            "length_factor": self.length_factor, "stages": self.stages, "edit": paths(&self.edit),
        });
        if self.objective == Objective::Judge {
            told["share"] = json!(self.share);
            told["reasons"] = json!(self.reasons);
        }
        told
    }
}
