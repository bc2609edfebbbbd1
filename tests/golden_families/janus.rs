//! Janus: a picture drawn code by code with guidance, and pictures judged through the understanding path.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use maquette::generator::Generator;
use maquette::model::janus::{Janus, JanusConfig, JanusSession};
use maquette::model::llava::{JudgeOptions, TraceStage};
use maquette::model::raster::{Given, PrefixPair, RasterOptions};
use maquette::model::resize::Resizer;
use maquette::model::vq::Blank;
use maquette::model::weights::{DType, WeightSource};
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::ops::conv::{pixel_value, to_bytes};
use maquette::ops::sample::{GuideShape, softmax_row};
use maquette::{CandidateId, ImageBatch, ImageSize, Prompt, Result};

use crate::Case;
use crate::magvit::{channels_first, channels_last, read};

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let mut config = JanusConfig::from_json(&case.config)?;
    config.layouts.questions = ["<image> a", "<image> a", "<image> a", "a"].into();
    config.layouts.draw = "{prompt}".into();
    config.layouts.plan = "{prompt}".into();
    let source = case.source();
    let load = |config| Janus::load(Arc::clone(device), config, &source, case.format);
    let model = Arc::new(load(config.clone())?);
    for (name, _) in case.json["runs"].as_object().into_iter().flatten() {
        pictures(case, &model, name)?;
    }
    if case.wants("out.plan.tokens") {
        config.max_plan_len = case.shape("out.plan.tokens")[0];
        plan(case, &Arc::new(load(config.clone())?))?;
    }
    if case.has_input("in.gen.tokens") {
        full_passes(case, device, &model)?;
        steps(case, &model)?;
        pixels(case, &model)?;
    }
    if case.has_input("in.vq.image") {
        let plain = case.transformers.then(|| {
            // That library's encoder compares latents and entries as they are.
            config.vq.codebook_l2_norm = false;
            load(config)
        });
        encode(case, device, &model, plain.transpose()?.as_ref())?;
    }
    if case.has_input("in.und.input_ids") {
        understanding(case, &model, &source)?;
    }
    Ok(())
}

fn session<B: Backend>(
    model: &Arc<Janus<B>>,
    options: RasterOptions,
) -> Result<JanusSession<B, Words>> {
    let mut words: Vec<String> = (0..model.config().text.vocab)
        .map(|id| id.to_string())
        .collect();
    words[134] = "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>".into();
    model.draw(Words::new(&words.join("\n"))?, options)
}

/// A candidate from the fixture's prompt.
fn start<B: Backend>(case: &Case, session: &mut JanusSession<B, Words>) -> Result<CandidateId> {
    let [conditional, unconditional] = prompts(case);
    let pair = PrefixPair {
        conditional,
        unconditional,
    };
    let mut id = [CandidateId::default()];
    session.start_prefixes(&pair, None, &[0], &mut id)?;
    Ok(id[0])
}

fn small<T: TryFrom<i64>>(id: i64) -> T
where
    T::Error: core::fmt::Debug,
{
    T::try_from(id).unwrap()
}

/// The prompt's tokens; with every inner token a pad for the unconditional half.
fn prompts(case: &Case) -> [Vec<u32>; 2] {
    let tokens: Vec<u32> = case
        .whole("in.gen.prompt_ids")
        .1
        .into_iter()
        .map(small)
        .collect();
    let mut unconditional = tokens.clone();
    let inner = 1..tokens.len() - 1;
    unconditional[inner].fill(small(case.json["pad_id"].as_i64().unwrap()));
    [tokens, unconditional]
}

/// Every step of the fed pictures at once, without a cache.
fn full_passes<B: Backend>(case: &Case, device: &Arc<B>, model: &Janus<B>) -> Result<()> {
    let (shape, codes) = case.whole("in.gen.tokens");
    let (pictures, n) = (shape[0], shape[1]);
    let (d, v) = (model.config().text.width, model.config().vq.codebook_size);
    let mut hidden = vec![0.0; n * 2 * pictures * d];
    let mut embeds = vec![0.0; n * pictures * d];
    let mut logits = [vec![0.0; n * pictures * v], vec![0.0; n * pictures * v]];
    for (p, codes) in codes.chunks(n).enumerate() {
        let codes: Vec<u32> = codes.iter().map(|&c| small(c)).collect();
        for (half, tokens) in prompts(case).iter().enumerate() {
            let full = model.forward_full(tokens, &codes)?;
            for i in 0..n {
                let at = (i * 2 * pictures + 2 * p + half) * d;
                hidden[at..at + d].copy_from_slice(&full.hidden[i * d..][..d]);
                let at = (i * pictures + p) * v;
                logits[half][at..at + v].copy_from_slice(&full.logits[i * v..][..v]);
                let at = (i * pictures + p) * d;
                embeds[at..at + d].copy_from_slice(&full.rows[i * d..][..d]);
            }
        }
    }
    case.compare("out.gen.hidden", &hidden);
    case.compare("out.gen.logits_cond", &logits[0]);
    case.compare("out.gen.logits_uncond", &logits[1]);
    case.compare("out.gen.token_embeds", &embeds);
    let rows = n * pictures;
    let mut guided = device.zeros(2 * rows * v)?;
    device.write(&mut guided, 0, &logits[0])?;
    device.write(&mut guided, rows * v, &logits[1])?;
    let scale = case.config.float("cfg_weight")?;
    device.guide(
        GuideShape {
            rows,
            width: v,
            scale,
        },
        &mut guided,
    )?;
    let mut probs = vec![0.0; rows * v];
    device.read(&guided, 0, &mut probs)?;
    for row in probs.chunks_mut(v) {
        assert!(softmax_row(row));
    }
    case.compare("out.gen.probs", &probs);
    Ok(())
}

/// The fed pictures code by code, through the cache.
fn steps<B: Backend>(case: &Case, model: &Arc<Janus<B>>) -> Result<()> {
    let mut options = model.config().options();
    options.guidance_scale = case.config.float("cfg_weight")?;
    options.filter.temperature = case.config.float("temperature")?;
    options.tokens_per_step = Some(1);
    let mut session = session(model, options)?;
    let (shape, codes) = case.whole("in.gen.tokens");
    let (pictures, n) = (shape[0], shape[1]);
    let mut ids = Vec::new();
    for _ in 0..pictures {
        ids.push(start(case, &mut session)?);
    }
    let mut seen: [Vec<f32>; 3] = Default::default();
    for i in 0..n {
        for (p, &id) in ids.iter().enumerate() {
            let code = Given::Code(small(codes[p * n + i]));
            let step = session.step_given(id, &[code])?.remove(0);
            seen[0].extend(step.conditional);
            seen[1].extend(step.unconditional);
            seen[2].extend(step.p);
        }
    }
    case.compare("out.gen.logits_cond", &seen[0]);
    case.compare("out.gen.logits_uncond", &seen[1]);
    case.compare("out.gen.probs", &seen[2]);
    Ok(())
}

/// Whole pictures drawn greedily or with the reference's noise, in steps of a row.
fn pictures<B: Backend>(case: &Case, model: &Arc<Janus<B>>, name: &str) -> Result<()> {
    let run = &case.json["runs"][name];
    #[expect(clippy::cast_possible_truncation, reason = "small settings")]
    let setting = |key: &str| run[key].as_f64().unwrap() as f32;
    let mut options = model.config().options();
    options.guidance_scale = setting("cfg_weight");
    options.filter.temperature = setting("temperature");
    let greedy = run["greedy"].as_bool().unwrap();
    options.filter.top_k = usize::from(greedy);
    let mut session = session(model, options)?;
    let shape = case.shape(&format!("out.{name}.codes"));
    let mut codes = vec![0; shape[0] * shape[1]];
    for (p, codes) in codes.chunks_mut(shape[1]).enumerate() {
        let id = start(case, &mut session)?;
        if greedy {
            while session.taken(id)? < session.steps() {
                session.step(&[id])?;
            }
        } else {
            let (noise_shape, noise) = case.input(&format!("in.{name}.exponential"));
            let v = noise_shape[2];
            let rows: Vec<_> = noise[p * shape[1] * v..][..shape[1] * v]
                .chunks(v)
                .map(Given::Noise)
                .collect();
            for draws in rows.chunks(model.config().side) {
                session.step_given(id, draws)?;
            }
        }
        session.save(id, codes)?;
        session.prune(&[id])?;
    }
    case.exact(&format!("out.{name}.codes"), &codes);
    Ok(())
}

/// Text that goes on from a prompt; each token's word is its number.
fn plan<B: Backend>(case: &Case, model: &Arc<Janus<B>>) -> Result<()> {
    let ids = case.whole("in.plan.prompt_ids").1;
    let words: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let mut text = String::new();
    let mut session = session(model, model.config().options())?;
    session.plan(&Prompt::new(&words.join(" ")), 0, &mut text)?;
    let tokens: Vec<i64> = text.split(' ').map(|id| id.parse().unwrap()).collect();
    case.exact("out.plan.tokens", &tokens);
    Ok(())
}

fn pixels<B: Backend>(case: &Case, model: &Janus<B>) -> Result<()> {
    let (shape, codes) = case.whole("in.gen.tokens");
    let codes: Vec<u32> = codes.into_iter().map(small).collect();
    let grid = [model.config().side; 2];
    let (s, stored) = channels_last(case.input("out.gen.decoded"));
    let (vq, n) = (model.pixels(), (shape[0], grid));
    let mut scratch = vq.scratch_for(codes.len())?;
    let mut decoded = vec![0.0; s.elements()?];
    vq.decode_f32(&mut scratch, n, &codes, Blank::Zeros, &mut decoded)?;
    case.compare("out.gen.decoded", &channels_first(s, &decoded));
    let rounding = model.config().options().rounding;
    let mut bytes = vec![0; stored.len()];
    to_bytes(rounding, stored.len(), &stored, &mut bytes)?;
    case.exact("out.gen.image_u8", &bytes);
    vq.decode(&mut scratch, n, &codes, Blank::Zeros, rounding, &mut bytes)?;
    case.within_one("out.gen.image_u8", &bytes);
    Ok(())
}

fn encode<B: Backend>(
    case: &Case,
    device: &Arc<B>,
    model: &Janus<B>,
    plain: Option<&Janus<B>>,
) -> Result<()> {
    let (s, pixels) = channels_last(case.input("in.vq.image"));
    let places = s.images * model.config().side.pow(2);
    let size = [s.height, s.width];
    let codes = |model: &Janus<B>| {
        let mut codes = vec![0; places];
        let mut scratch = model.pixels().scratch_for(places)?;
        model
            .pixels()
            .encode(&mut scratch, s.images, size, &pixels, &mut codes)?;
        Result::Ok(codes)
    };
    let mut scratch = model.pixels().scratch_for(places)?;
    let vq = model.pixels();
    vq.trace_encode(&mut scratch, size, &pixels, &mut |stage, x, s| {
        if stage.to_string() == "enc.latent" {
            case.compare("out.vq.latent", &channels_first(s, &read(device, x, s)?));
        }
        Ok(())
    })?;
    case.exact("out.vq.codes", &codes(model)?);
    if let Some(plain) = plain {
        case.exact("out.vq.codes_without_normalisation", &codes(plain)?);
    }
    Ok(())
}

fn understanding<B: Backend>(
    case: &Case,
    model: &Arc<Janus<B>>,
    source: &dyn WeightSource,
) -> Result<()> {
    let c = model.config();
    let side = u32::try_from(c.vision.image_size).unwrap();
    let (shape, ids) = case.whole("in.und.input_ids");
    let mask = case.whole("in.und.attention_mask").1;
    let (d, length, patches) = (c.text.width, shape[1], c.vision.patches());
    let seen: RefCell<BTreeMap<&str, Vec<f32>>> = RefCell::default();
    let put = |name, data: &[f32]| seen.borrow_mut().entry(name).or_default().extend(data);
    let mut views = Vec::new();
    for (i, (ids, mask)) in ids.chunks(length).zip(mask.chunks(length)).enumerate() {
        let (shape, pixels) = case.bytes(&format!("in.und.{i}.image_u8"));
        let size = ImageSize::new(shape[0].try_into().unwrap(), shape[1].try_into().unwrap());
        let mut view = vec![0; ImageSize::new(side, side).len_bytes()];
        let min = u32::try_from(c.min_size).unwrap();
        Resizer::new().fitted_square(&pixels, size, side, min, &mut view)?;
        views.extend(view);
        // Rows of padding are left out; they are seen by nobody and see nobody.
        let pads = mask.iter().filter(|&&m| m == 0).count();
        put("inputs_embeds", &embeddings(source, &ids[..pads], d));
        let at = ids
            .iter()
            .position(|&id| Some(id) == case.json["placeholder_id"].as_i64())
            .unwrap();
        let mut spliced = ids[pads..at].to_vec();
        spliced.push(-200);
        spliced.extend(&ids[at + patches..]);
        let options = JudgeOptions::default().with_views(1).with_tokens(length);
        let mut session = model.judge(Arc::new(Words::new("a")?), options)?;
        let batch = ImageBatch::new(1, size, &pixels)?;
        let verdict = session.trace(&spliced, batch, &mut |stage, data| {
            match stage {
                TraceStage::VisionEmbeddings => put("vision.embeddings", data),
                TraceStage::VisionLayer(0) => put("vision.block0", data),
                TraceStage::VisionLayer(1) => put("vision.block1", data),
                TraceStage::VisionFeatures => put("vision.features", data),
                TraceStage::Projector => put("aligned", data),
                TraceStage::Embeds => put("inputs_embeds", data),
                TraceStage::Logits => put("logits_last", data),
                _ => {}
            }
            Ok(())
        })?;
        put("p_yes", &[verdict.p_yes]);
        put("p_no", &[verdict.p_no]);
    }
    for (name, data) in seen.take() {
        case.compare(&format!("out.und.{name}"), &data);
    }
    case.exact("out.und.resized_u8", &views);
    let area = (side * side) as usize;
    let values: Vec<f32> = (0..views.len())
        .map(|i| {
            let (view, channel, pixel) = (i / (3 * area), i / area % 3, i % area);
            pixel_value(views[(view * area + pixel) * 3 + channel])
        })
        .collect();
    case.compare("out.und.pixel_values", &values);
    Ok(())
}

/// Rows of the text embedding as the checkpoint holds them.
fn embeddings(source: &dyn WeightSource, ids: &[i64], d: usize) -> Vec<f32> {
    let table = ["language_model.model", "model.language_model"]
        .iter()
        .find_map(|prefix| source.tensor(&format!("{prefix}.embed_tokens.weight")))
        .unwrap();
    let width = if table.dtype == DType::BF16 { 2 } else { 4 };
    let row = |&id: &i64| table.bytes.chunks_exact(width * d).nth(small(id)).unwrap();
    // The upper half of an F32 is a BF16.
    let float = |b: &[u8]| {
        let mut whole = [0; 4];
        whole[4 - width..].copy_from_slice(b);
        f32::from_le_bytes(whole)
    };
    ids.iter()
        .flat_map(|id| row(id).chunks_exact(width).map(float))
        .collect()
}
