//! Before and after: pictures of prompts that are not trained on, marked by the detector that nothing is trained on.

use std::path::Path;
use std::sync::Arc;

use maquette::generator::{Needs, Views};
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::reward::{Ask, ViewKey};
use maquette::{CandidateId, Generator, ImageBatch, Judgement, Prompt, RewardModel, Verdict};
use serde_json::json;
use support::auc::{self, Scored};
use support::png_file::write_whole;
use support::rules::{Request, Rules};
use support::{requests, scorer};

use crate::family::{self, Adapters, Family, Home, JanusFamily, ShowOFamily};
use crate::online::seed;
use crate::options::Args;
use crate::training::bar;
use crate::{GUIDANCE, Res};

/// A session of the generator whose pictures are asked about.
fn generator(args: &Args, judge: &Home) -> Res<Box<dyn Generator>> {
    let own = args.generator_dir.is_none();
    let path = args.generator_dir.clone();
    let path = path.unwrap_or_else(|| family::bundled("show-o"));
    let home = Home {
        folder: ModelFolder::open(&path)?,
        words: family::words(&path)?,
        cpu: Arc::clone(&judge.cpu),
        format: maquette::quant::Format::F32,
        guidance: args.guidance.or(own.then_some(GUIDANCE)),
        path,
    };
    let n = args.check_images as usize;
    match home.folder.model {
        ModelType::ShowO => {
            ShowOFamily::open(home, args.tokenizer_dir.as_deref())?.session(None, n)
        }
        ModelType::Janus => JanusFamily::open(home)?.session(None, n),
        _ => Err(format!("{}: this is no Show-o and no Janus", home.path.display()).into()),
    }
}

/// P(yes) of the outcome question about pictures of one prompt.
fn asked(
    judge: &mut dyn RewardModel,
    request: &Request,
    images: ImageBatch<'_>,
) -> maquette::Result<Vec<f64>> {
    let keys: Vec<ViewKey> = (0..images.len() as u64)
        .map(|i| ViewKey {
            candidate: CandidateId(i),
            step: 0,
        })
        .collect();
    let prompt = Prompt::new(&request.prompt);
    let mut verdicts = vec![Verdict::malformed(); keys.len()];
    let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(images);
    judge.judge(&ask, &mut verdicts)?;
    judge.forget(&keys);
    for (row, verdict) in verdicts.iter().enumerate() {
        verdict.check(row)?;
    }
    Ok(verdicts.iter().map(|v| f64::from(v.p_yes)).collect())
}

/// Draws, marks, asks both judges, and says how well each tells right from wrong.
pub fn run(args: &Args, home: &Home, path: &Path, adapters: Adapters<'_>) -> Res<String> {
    let requests = requests::read(path)?;
    let mut generator = generator(args, home)?;
    let size = generator.image_size();
    let eye = scorer::detector(size, &requests.iter().collect::<Vec<_>>(), "eval")?;
    let mut judges = [
        super::session(home, None)?,
        super::session(home, Some(adapters))?,
    ];
    let n = args.check_images as usize;
    let mut pixels = vec![0; n * size.len_bytes()];
    let (mut pictures, mut told) = (Vec::new(), String::new());
    let bar = bar(args.quiet, requests.len() as u64, "prompts")?;
    for (at, request) in requests.iter().enumerate() {
        let place = u32::try_from(at)?;
        let seeds: Vec<u64> = (0..args.check_images)
            .map(|i| seed(args.seed, [i, place, 1]))
            .collect();
        let mut ids = vec![CandidateId::default(); n];
        generator.start(&Prompt::new(&request.prompt), &seeds, &mut ids)?;
        for _ in 0..generator.steps() {
            generator.step(&ids)?;
        }
        generator.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
        generator.prune(&ids)?;
        let images = ImageBatch::new(n, size, &pixels)?;
        let [before, after] = &mut judges;
        let before = asked(&mut **before, request, images)?;
        let after = asked(&mut **after, request, images)?;
        for (i, picture) in pixels.chunks_exact(size.len_bytes()).enumerate() {
            let verdict = Rules::bundled().decide(request, &eye.detect(picture)?);
            let one = Scored {
                prompt: at,
                right: verdict.is_ok(),
                scores: [before[i], after[i]],
            };
            let line = json!({
                "prompt": request.prompt, "tag": request.tag, "seed": seeds[i], "correct": one.right,
                "before": one.scores[0], "after": one.scores[1],
            });
            told += &format!("{line}\n");
            pictures.push(one);
        }
        bar.inc(1);
    }
    bar.abandon();
    write_whole(&args.out.join("check.jsonl"), told.as_bytes())?;
    let lines = auc::lines(&pictures).ok_or_else(|| {
        format!(
            "{}: all pictures are right, or all are wrong: nothing can be told apart",
            path.display()
        )
    })?;
    Ok(lines.join("\n") + "\n")
}
