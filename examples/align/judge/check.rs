//! Before and after: pictures of prompts that are not trained on, marked by the detector that nothing is trained on.

use std::path::Path;
use std::sync::Arc;

use maquette::generator::{Needs, Views};
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::ops::Backward;
use maquette::quant::Format;
use maquette::reward::{Ask, ViewKey};
use maquette::{CandidateId, Code, Generator, ImageBatch, Judgement, Prompt, RewardModel, Verdict};
use serde_json::{Value, json};
use support::auc::{self, Scored};
use support::png_file::write_durably;
use support::results::Results;
use support::rules::{Request, Rules};
use support::scorer::Eye;
use support::{open, requests, scorer};

use super::lessons::Pictures;
use crate::Res;
use crate::family::{self, Adapters, Family, Home, ShowOFamily};
use crate::online::seed;
use crate::options::Args;
use crate::training::bar;

/// A session of the generator whose pictures are asked about.
fn generator<B: Backward + 'static>(args: &Args, judge: &Home<B>) -> Res<Box<dyn Generator>> {
    let path = args.generator_dir.clone();
    let path = path.unwrap_or_else(|| open::bundled("show-o"));
    let home = Home {
        folder: ModelFolder::open(&path)?,
        words: family::words(&path)?,
        device: Arc::clone(&judge.device),
        format: Format::F32,
        guidance: args.guidance.or(open::guidance(&path)),
        path,
    };
    if home.folder.model != ModelType::ShowO {
        return Err(format!("{}: this is no Show-o", home.path.display()).into());
    }
    let family = ShowOFamily::open(home, args.tokenizer_dir.as_deref())?;
    family.session(None, args.check_images as usize)
}

/// The pictures of a prompt that are missing, as lines.
fn draw<B: Backward>(
    generator: &mut dyn Generator,
    (eye, tokenizer): (&Eye, &mut Pictures<B>),
    (at, request): (usize, &Request),
    images: &[u32],
    of: u64,
) -> Res<Vec<Value>> {
    let place = u32::try_from(at)?;
    let seeds: Vec<u64> = images.iter().map(|&i| seed(of, [i, place, 1])).collect();
    let mut ids = vec![CandidateId::default(); seeds.len()];
    generator.start(&Prompt::new(&request.prompt), &seeds, &mut ids)?;
    for _ in 0..generator.steps() {
        generator.step(&ids)?;
    }
    let cells = generator.grid().len();
    let mut codes = vec![0; cells * ids.len()];
    generator.observe(&ids, Needs::CODES, &mut Views::codes(&mut codes))?;
    generator.prune(&ids)?;
    let all: Vec<&[Code]> = codes.chunks_exact(cells).collect();
    let (size, pixels) = tokenizer.decode(&all)?;
    let pictures = pixels.chunks_exact(size.len_bytes());
    let mut lines = Vec::new();
    for ((image, codes), (seed, picture)) in images.iter().zip(all).zip(seeds.iter().zip(pictures))
    {
        let verdict = Rules::bundled().decide(request, &eye.detect(picture)?);
        lines.push(json!({
            "prompt_index": at, "image": image, "seed": seed, "tag": request.tag, "prompt": request.prompt,
            "correct": verdict.is_ok(), "codes": codes,
        }));
    }
    Ok(lines)
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

/// The codes of a line, and whether they are right.
fn told(line: &Value) -> Option<(Vec<Code>, bool)> {
    let codes = line["codes"].as_array()?.iter();
    let codes = codes.map(|code| code.as_u64().and_then(|code| Code::try_from(code).ok()));
    Some((codes.collect::<Option<_>>()?, line["correct"].as_bool()?))
}

/// Draws what is missing, has it marked, asks both judges, and says how well each tells right from wrong.
pub fn run<B: Backward + 'static>(
    args: &Args,
    home: &Home<B>,
    path: &Path,
    adapters: Adapters<'_>,
) -> Res<String> {
    let requests = requests::read(path)?;
    let mut tokenizer = Pictures::open(args, &home.device)?;
    let drawn = args.check_pictures.clone();
    let drawn = drawn.unwrap_or_else(|| args.out.join("check-pictures.jsonl"));
    let header = json!({
        "prompts": path.file_name().map(|name| name.to_string_lossy()), "prompts_digest": requests::digest(&requests)?,
        "images": args.check_images,
        "seed": args.seed, "guidance": args.guidance, "detector": "eval",
        "generator": args.generator_dir.as_ref().map(|path| path.display().to_string()),
        "tokenizer": args.tokenizer_dir.as_ref().map(|path| path.display().to_string()),
    });
    let mut results = Results::open(&drawn, &header)?;
    let mut generator = generator(args, home)?;
    let asked_for: Vec<&Request> = requests.iter().collect();
    let eye = scorer::detector(tokenizer.size(), &asked_for, "eval")?;
    let progress = bar(args.quiet, requests.len() as u64, "prompts drawn")?;
    for (at, request) in requests.iter().enumerate() {
        let missing = |i: &u32| !results.lines.contains_key(&(at as u64, u64::from(*i)));
        let images: Vec<u32> = (0..args.check_images).filter(missing).collect();
        if !images.is_empty() {
            let (eye, one) = ((&eye, &mut tokenizer), (at, request));
            for line in draw(&mut *generator, eye, one, &images, args.seed)? {
                results.add(line)?;
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    results.finish()?;
    let mut judges = [
        super::session(home, None)?,
        super::session(home, Some(adapters))?,
    ];
    let (mut pictures, mut text) = (Vec::new(), String::new());
    for (at, request) in requests.iter().enumerate() {
        let keys = (0..args.check_images).map(|i| (at as u64, u64::from(i)));
        let own = keys.map(|key| results.lines.get(&key).and_then(told));
        let own: Vec<(Vec<Code>, bool)> = own
            .collect::<Option<_>>()
            .ok_or_else(|| format!("{}: a line without codes or verdict", drawn.display()))?;
        let codes: Vec<&[Code]> = own.iter().map(|one| &*one.0).collect();
        let (size, pixels) = tokenizer.decode(&codes)?;
        let images = ImageBatch::new(own.len(), size, pixels)?;
        let [before, after] = &mut judges;
        let before = asked(&mut **before, request, images)?;
        let after = asked(&mut **after, request, images)?;
        for (i, (_, right)) in own.iter().enumerate() {
            let scores = [before[i], after[i]];
            let line = json!({
                "prompt_index": at, "image": i, "tag": request.tag, "correct": right, "before": scores[0],
                "after": scores[1],
            });
            text += &format!("{line}\n");
            pictures.push(Scored {
                prompt: at,
                right: *right,
                scores,
            });
        }
    }
    write_durably(&args.out.join("check.jsonl"), text.as_bytes())?;
    let lines = auc::lines(&pictures).ok_or_else(|| {
        format!(
            "{}: all pictures are right, or all are wrong: nothing can be told apart",
            path.display()
        )
    })?;
    Ok(lines.join("\n") + "\n")
}
