//! A strategy over a set of prompts: pictures drawn on several threads, marked by the evaluating detector, and kept in a
//! result file that can be gone on with.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::rng::Stream;
use maquette::search::MultiplyAdds;
use maquette::{Decision, Flow, Generator, Prompt, RewardModel};
use serde_json::{Value, json};

use crate::checker::Checker;
use crate::choice::{Effort, Search, Strategy};
use crate::layout;
use crate::memory::{Memory, Remembering, RememberingJudge};
use crate::open::{Models, Res, Settings, picture_seed, told};
use crate::png_file::{Picture, writable_folder};
use crate::results::{Lines, Results};
use crate::rules::Request;
use crate::shard::Shard;
use crate::world::detector::Detector;
use crate::{requests, scorer};

/// Which pictures of which prompts.
#[derive(Debug, Clone, Args)]
pub struct Set {
    /// GenEval records, one a line; or plain prompts, one a line of a .txt file whose name is their category; or a folder of
    /// such files, as T2I-CompBench's.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/eval_prompts.jsonl"))]
    pub prompts: PathBuf,
    /// Pictures of each prompt.
    #[arg(long, default_value_t = 4)]
    pub images: u32,
    #[arg(long, default_value_t = 1234)]
    pub seed: u64,
    /// Only so many prompts, spread evenly over the set.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Pictures drawn at the same time; changes no result. [default: all cores, shared with other ranks of this machine; 1
    /// on a GPU]
    #[arg(long)]
    jobs: Option<usize>,
    /// Draw every so many-th prompt alone: rank of this process. [default: as torchrun, mpirun, srun, Kubernetes indexed
    /// jobs and GNU parallel tell it]
    #[arg(long, requires = "world")]
    rank: Option<u64>,
    /// Number of processes.
    #[arg(long, requires = "rank")]
    world: Option<u64>,
}

/// The records of a set, with their lines and their places: JSON lines, or files of plain prompts.
pub fn records(path: &Path) -> Res<Vec<(usize, Request, String)>> {
    let mut records = Vec::new();
    for file in requests::files(path)? {
        for (request, line) in requests::lines(&file)? {
            records.push((records.len(), request, line));
        }
    }
    Ok(records)
}

/// What this process does of a set.
#[derive(Debug)]
pub struct Share {
    /// The prompts of all processes together.
    pub kept: Vec<(usize, Request, String)>,
    pub shard: Shard,
    pub jobs: usize,
}

impl Set {
    /// Reads the prompts and finds this process's part of the work.
    pub fn share(&self, settings: &Settings) -> Res<Share> {
        let all = records(&self.prompts)?;
        let given = self.rank.zip(self.world);
        let shard = Shard::find(given, |name| std::env::var(name).ok())?;
        let jobs = self.jobs.unwrap_or_else(|| settings.jobs(shard.local));
        let (n, jobs) = (all.len(), jobs.max(1));
        let keep = self.limit.unwrap_or(n).min(n);
        let wanted = |i: usize| (0..keep).any(|k| k * n / keep == i);
        let kept: Vec<_> = all.into_iter().filter(|(i, ..)| wanted(*i)).collect();
        if kept.is_empty() || self.images == 0 {
            return Err("nothing to draw: no prompts or no images".into());
        }
        Ok(Share { kept, shard, jobs })
    }
}

/// The evaluating detector, if it can read the pictures and knows what they should show.
pub fn detector(models: &Models, share: &Share) -> Res<Detector<Cpu>> {
    let size = models.generator(1)?.image_size();
    let requests: Vec<&Request> = share.kept.iter().map(|(_, request, _)| request).collect();
    scorer::detector(size, &requests, "eval")
}

/// One evaluation.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    pub set: &'a Set,
    pub share: &'a Share,
    pub models: &'a Models,
    pub strategy: Strategy,
    pub effort: &'a Effort,
    pub checker: Option<&'a dyn Checker>,
    /// Where the official scorer's folders go.
    pub pictures: Option<&'a Path>,
}

/// One picture to draw.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub prompt: usize,
    pub image: u32,
    pub request: &'a Request,
    raw: &'a str,
}

impl Task<'_> {
    /// Its place in a result file.
    pub fn key(&self) -> (u64, u64) {
        (self.prompt as u64, u64::from(self.image))
    }
}

/// What came of an evaluation.
pub struct Drawn {
    pub lines: Lines,
    /// Pictures that were drawn now.
    pub new: usize,
}

/// A bar over pictures, with a name before it.
pub fn bar(name: &str, quiet: bool) -> Res<ProgressBar> {
    let bar = ProgressBar::new(0).with_prefix(name.to_owned());
    if quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(ProgressStyle::with_template(
        "{prefix}{bar:40} {pos}/{len} pictures  {msg}  {eta} left",
    )?);
    Ok(bar)
}

/// Makes a picture's lines for the result files that lack it, and tells each as soon as it is there.
pub type Make<'a> = dyn Fn(&Task<'_>, &[usize], &mut Tell<'_>) -> Res<()> + Sync + 'a;

/// Takes a line for one of the files.
pub type Tell<'a> = dyn FnMut(usize, Value) -> Res<()> + 'a;

/// Has pictures made that not all result files have which want them, on as many threads as there are jobs.
pub fn draw(
    share: &Share,
    tasks: &[Task<'_>],
    files: &mut [Results],
    wants: &dyn Fn(usize, &Task<'_>) -> bool,
    bar: &ProgressBar,
    make: &Make<'_>,
) -> Res<()> {
    let mut todo = Vec::new();
    for task in tasks {
        let lacks = |at: &usize| wants(*at, task) && !files[*at].lines.contains_key(&task.key());
        let lacking: Vec<usize> = (0..files.len()).filter(lacks).collect();
        if !lacking.is_empty() {
            todo.push((task, lacking));
        }
    }
    bar.set_length(tasks.len() as u64);
    bar.set_position((tasks.len() - todo.len()) as u64);
    bar.reset_eta();
    let next = AtomicUsize::new(0);
    let work = |send: &mpsc::Sender<Result<Option<(usize, Value)>, String>>| -> Res<()> {
        while let Some((task, lacking)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
            make(task, lacking, &mut |at, line| {
                Ok(send.send(Ok(Some((at, line))))?)
            })
            .map_err(|e| {
                let Request { prompt, .. } = task.request;
                format!("\"{prompt}\", image {}: {}", task.image, told(&*e))
            })?;
            send.send(Ok(None))?;
        }
        Ok(())
    };
    thread::scope(|scope| -> Res<()> {
        let (send, receive) = mpsc::channel();
        for _ in 0..share.jobs.min(todo.len()) {
            let (send, work) = (send.clone(), &work);
            scope.spawn(move || {
                if let Err(e) = work(&send) {
                    // Nobody listens any more once another job has failed.
                    let _ = send.send(Err(told(&*e)));
                }
            });
        }
        drop(send);
        for told in receive {
            match told.inspect_err(|_| next.store(usize::MAX / 2, Ordering::Relaxed))? {
                Some((at, line)) => files[at].add(line)?,
                None => {
                    bar.inc(1);
                    let right = files[0].lines.values().filter(|l| l["correct"] == true);
                    bar.set_message(format!("{} right", right.count()));
                }
            }
        }
        Ok(())
    })?;
    bar.abandon();
    files.iter().try_for_each(Results::finish)
}

impl<'a> Evaluation<'a> {
    /// The pictures of this process.
    pub fn tasks(&self) -> Vec<Task<'a>> {
        let own = self.share.kept.iter().enumerate();
        own.filter(|(i, _)| self.share.shard.has(*i))
            .flat_map(|(_, (prompt, request, raw))| {
                (0..self.set.images).map(move |image| Task {
                    prompt: *prompt,
                    image,
                    request,
                    raw,
                })
            })
            .collect()
    }

    /// Everything that decides what is drawn.
    fn header(&self) -> Res<Value> {
        let set = self.set;
        Ok(json!({
            "strategy": self.strategy.name(), "candidates": self.effort.candidates, "effort": self.effort.describe(),
            "images": set.images, "seed": set.seed, "pictures": self.share.kept.len() * set.images as usize,
            "prompts": set.prompts.file_name().map(|n| n.to_string_lossy()), "prompts_digest": requests::digest(&self.share.kept)?,
            "limit": set.limit,
            "models": self.models.describe(),
            "scored": self.checker.map_or(Value::Bool(false), Checker::describe),
        }))
    }

    /// Draws what the result file does not have yet.
    pub fn run(&self, out: &Path, bar: &ProgressBar) -> Res<Drawn> {
        if let Some(folder) = self.pictures {
            writable_folder(folder)?;
        }
        let tasks = self.tasks();
        let mut files = [self.open(out)?];
        let lacks = |task: &Task<'_>| !files[0].lines.contains_key(&task.key());
        let todo: Vec<Task<'_>> = tasks.iter().filter(|t| lacks(t)).copied().collect();
        draw(
            self.share,
            &tasks,
            &mut files,
            &|_, _| true,
            bar,
            &|task, _, tell| tell(0, self.picture(&mut self.hands()?, task)?),
        )?;
        if let Some(folder) = self.pictures {
            for task in tasks.iter().filter(|task| task.image == 0) {
                let touched = todo.iter().any(|other| other.prompt == task.prompt);
                if touched || !layout::has_grid(folder, task.prompt) {
                    layout::grid(folder, task.prompt, self.set.images)?;
                }
            }
        }
        let [file] = files;
        Ok(Drawn {
            new: todo.len(),
            lines: file.lines,
        })
    }

    /// Its result file, to go on with or to begin.
    pub fn open(&self, out: &Path) -> Res<Results> {
        Results::open(&self.share.shard.file(out), &self.header()?)
    }

    /// Sessions of one picture's own: what they remember is never another picture's, so that what it costs does not hang
    /// on who drew before it.
    pub fn hands(&self) -> Res<Hands> {
        self.hands_over(|generator| generator, |reward| reward)
    }

    /// The same, of searches that share what they draw. Models that answer differently have other names.
    pub fn sharing_hands(&self, memory: &Memory, name: u64) -> Res<Hands> {
        self.hands_over(
            |generator| Box::new(Remembering::new(generator, memory)),
            |reward| Box::new(RememberingJudge::new(reward, memory, name)),
        )
    }

    fn hands_over(
        &self,
        generators: impl Fn(Box<dyn Generator>) -> Box<dyn Generator>,
        rewards: impl Fn(Box<dyn RewardModel>) -> Box<dyn RewardModel>,
    ) -> Res<Hands> {
        let alive = self.effort.alive(self.strategy);
        let generator = self.models.generator(alive)?;
        Ok(Hands {
            reward: rewards(if self.effort.asks(self.strategy) {
                self.models.judge(alive)?
            } else {
                self.models.nobody()
            }),
            search: self
                .effort
                .build(self.strategy, generator.steps(), self.models.is_raster())?,
            generator: generators(generator),
        })
    }

    /// Draws a picture: its line of the result file.
    pub fn picture(&self, hands: &mut Hands, task: &Task<'_>) -> Res<Value> {
        let (seed, mut pixels) = (self.seed(task)?, Vec::new());
        let prompt = &task.request.prompt;
        let (decision, work) = hands.search(prompt, seed, &mut pixels, &mut |_| Flow::Continue)?;
        let size = hands.generator.image_size();
        let picture = Picture {
            width: size.width as usize,
            height: size.height as usize,
            pixels: &pixels,
        };
        if let Some(folder) = self.pictures {
            let place = [task.prompt, task.image as usize];
            layout::write(folder, place, task.raw, &picture)?;
        }
        let mark = self
            .checker
            .map(|checker| checker.check(task.request, task.raw, &picture))
            .transpose()?;
        let correct = mark.as_ref().map(|mark| mark.correct);
        let score = mark.as_ref().and_then(|mark| mark.score);
        let (reason, seen) = mark.map_or(("not scored".into(), Vec::new()), |mark| {
            (mark.reason, mark.seen)
        });
        let c = decision.cost;
        let mut line = json!({
            "prompt_index": task.prompt, "image": task.image, "seed": seed, "tag": task.request.tag,
            "prompt": prompt, "correct": correct, "reason": reason,
            "seen": seen, "p_yes": decision.verdict.map(|v| v.p_yes), "fallback": decision.fallback,
            "steps": c.steps, "decodes": c.decodes, "questions": c.judged(), "multiply_adds": multiply_adds(&work),
        });
        if let Some(score) = score {
            line["score"] = score.into();
        }
        Ok(line)
    }

    /// The seed of a task.
    pub fn seed(&self, task: &Task<'_>) -> Res<u64> {
        Ok(picture_seed(
            self.set.seed,
            u32::try_from(task.prompt)?,
            task.image,
        ))
    }
}

/// What draws, judges and decides.
pub struct Hands {
    pub generator: Box<dyn Generator>,
    pub reward: Box<dyn RewardModel>,
    search: Search<dyn Generator, dyn RewardModel>,
}

impl Hands {
    /// Searches for one picture, and leaves it in `pixels`.
    pub fn search(
        &mut self,
        prompt: &str,
        seed: u64,
        pixels: &mut Vec<u8>,
        hear: &mut dyn FnMut(maquette::Event<'_>) -> Flow,
    ) -> Res<(Decision, MultiplyAdds)> {
        let before = MultiplyAdds::of(&*self.generator, &*self.reward);
        let decision = self.search.search(
            &mut *self.generator,
            &mut *self.reward,
            &Prompt::new(prompt),
            &mut Stream::new(seed),
            hear,
        )?;
        pixels.clear();
        pixels.resize(self.generator.image_size().len_bytes(), 0);
        self.generator.observe(
            &[decision.winner],
            Needs::PIXELS,
            &mut Views::pixels(pixels),
        )?;
        self.generator.prune(&[decision.winner])?;
        let all = MultiplyAdds::of(&*self.generator, &*self.reward).since(&before);
        Ok((decision, all))
    }
}

/// Multiply-adds for result files.
pub fn multiply_adds(work: &MultiplyAdds) -> Value {
    json!({ "generator": work.generator, "decoder": work.decoder, "judge": work.judge })
}
