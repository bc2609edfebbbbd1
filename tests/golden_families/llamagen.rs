//! LlamaGen: caption layers, rotary table, mask, keys and values of the plain form, guided decoding of the session.

use std::sync::Arc;

use maquette::model::linear::Linear;
use maquette::model::llamagen::{
    Condition, LlamaGen, LlamaGenConfig, LlamaGenPrompts, LlamaGenSession, rotary_table,
};
use maquette::model::raster::{Given, GivenCode, PrefixPair, RasterOptions};
use maquette::model::transformer::Stage;
use maquette::model::weights::Loader;
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::{CandidateId, Generator, Result};

use crate::Case;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let config = LlamaGenConfig::from_json(&case.config)?;
    let source = case.source();
    let model = Arc::new(LlamaGen::load(
        Arc::clone(device),
        config,
        &source,
        case.format,
    )?);
    if case.wants("out.rope_table") {
        rotary(case, &config)?;
    }
    let prompts = if case.has_input("in.classes") {
        classes(case, &model)?
    } else {
        captions(case, device, &model)?
    };
    if case.has_input("in.tokens") {
        forced(case, &model, &prompts)?;
    }
    for name in case.json["runs"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        whole(case, &model, &prompts, name)?;
    }
    Ok(())
}

fn rotary(case: &Case, config: &LlamaGenConfig) -> Result<()> {
    let table = rotary_table(config)?;
    let (head, pairs) = (config.head_dim(), config.head_dim() / 2);
    let mut rows = table.chunks_exact(head);
    let prefix = rows.next_back().unwrap();
    let whole = std::iter::repeat_n(prefix, config.prefix_limit()).chain(rows);
    let out: Vec<f32> = whole
        .flat_map(|row| (0..pairs).flat_map(|j| [row[j], row[pairs + j]]))
        .collect();
    case.compare("out.rope_table", &out);
    Ok(())
}

fn classes<B: Backend>(case: &Case, model: &LlamaGen<B>) -> Result<Vec<PrefixPair>> {
    let (_, classes) = case.whole("in.classes");
    classes
        .iter()
        .map(|&c| LlamaGenPrompts::<B, Words>::class(model, u32::try_from(c).unwrap()))
        .collect()
}

/// Checks what comes before the blocks and the plain form; the prefixes of the captions.
fn captions<B: Backend>(
    case: &Case,
    device: &Arc<B>,
    model: &LlamaGen<B>,
) -> Result<Vec<PrefixPair>> {
    let c = model.config();
    let Condition::Text { tokens, width } = c.condition else {
        panic!("{}: captions for classes", case.name)
    };
    let (shape, features) = case.input("in.caption_features");
    let (_, mask) = case.whole("in.caption_mask");
    let mut prompts = Vec::new();
    let mut seen = Vec::new();
    for (features, mask) in features.chunks(tokens * width).zip(mask.chunks(tokens)) {
        let n = mask.iter().filter(|&&m| m == 1).count();
        prompts.push(LlamaGenPrompts::<B, Words>::features(
            model,
            &features[..n * width],
        )?);
        seen.push(n);
    }
    if !case.wants("out.prefix_embeddings") {
        return Ok(prompts);
    }
    let (_, padded) = case.input("in.caption_features_left_padded");
    let conditional = embedded(device, model, &padded)?;
    case.compare("out.prefix_embeddings", &conditional);
    let source = case.source();
    let same = |name: &str| name.to_owned();
    let loader = Loader::new(&**device, &source, case.format, &same);
    let null = loader.floats("cls_embedding.uncond_embedding", &[tokens, width])?;
    let null = embedded(device, model, &null)?;
    case.compare("out.null_prefix_embeddings", &null);

    let (_, codes) = case.whole("in.tokens");
    let count = codes.len() / shape[0];
    let head = Linear::load(&loader, "output", c.vocab_size, c.dim, false)?;
    let (mut keys, mut values, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    let mut logits = vec![Vec::new(); count];
    for half in 0..2 {
        for (i, &n) in seen.iter().enumerate() {
            let prefix = match half {
                0 => &conditional[i * tokens * c.dim..][..tokens * c.dim],
                _ => &null,
            };
            let codes: Vec<u32> = codes[i * count..][..count]
                .iter()
                .map(|&code| u32::try_from(code).unwrap())
                .collect();
            // The last code is never fed.
            let codes = &codes[..count - 1];
            let rows = tokens + codes.len();
            let hidden = model.forward_full(prefix, n, codes, &mut |layer, stage, x| {
                if (layer, stage) == (1, Stage::Rotated) {
                    let mut qkv = vec![0.0; rows * 3 * c.dim];
                    device.read(x, 0, &mut qkv)?;
                    let (k, v) = heads(c, rows, &qkv);
                    keys.extend(k);
                    values.extend(v);
                }
                Ok(())
            })?;
            let mut x = device.zeros(hidden.len())?;
            device.write(&mut x, 0, &hidden)?;
            let mut y = device.zeros(rows * c.vocab_size)?;
            head.apply(device, rows, &x, &mut y)?;
            let mut all = vec![0.0; rows * c.vocab_size];
            device.read(&y, 0, &mut all)?;
            for (logits, row) in logits
                .iter_mut()
                .zip(all.chunks(c.vocab_size).skip(tokens - 1))
            {
                logits.extend_from_slice(row);
            }
            let len = tokens + count;
            for [from, seen] in LlamaGen::<B>::visible_rows(tokens, n, len) {
                let range = from as usize..(from + seen) as usize;
                mask.extend((0..len).map(|k| i64::from(range.contains(&k))));
            }
        }
    }
    case.compare("out.layer1.k_cache", &keys);
    case.compare("out.layer1.v_cache", &values);
    case.exact("out.attention_mask", &mask);
    case.compare("out.logits_both", &logits.concat());
    Ok(prompts)
}

/// Keys and values of each head, heads outermost; keys with their pairs side by side again.
fn heads(c: &LlamaGenConfig, rows: usize, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (head, half) = (c.head_dim(), c.head_dim() / 2);
    let at = |r: usize, part: usize, h: usize, i: usize| qkv[(r * 3 + part) * c.dim + h * head + i];
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for h in 0..c.n_head {
        for r in 0..rows {
            keys.extend((0..head).map(|i| at(r, 1, h, i / 2 + i % 2 * half)));
            values.extend((0..head).map(|i| at(r, 2, h, i)));
        }
    }
    (keys, values)
}

fn embedded<B: Backend>(
    device: &Arc<B>,
    model: &LlamaGen<B>,
    features: &[f32],
) -> Result<Vec<f32>> {
    let Condition::Text { width, .. } = model.config().condition else {
        return Ok(Vec::new());
    };
    let (rows, dim) = (features.len() / width, model.config().dim);
    let mut input = device.zeros(features.len())?;
    device.write(&mut input, 0, features)?;
    let (mut inner, mut x) = (device.zeros(rows * dim)?, device.zeros(rows * dim)?);
    model.embed_features(rows, &input, &mut inner, &mut x)?;
    let mut out = vec![0.0; rows * dim];
    device.read(&x, 0, &mut out)?;
    Ok(out)
}

/// Settings of a run, under the names of the released scripts.
#[expect(clippy::cast_possible_truncation, reason = "settings of a fixture")]
fn options(model: &LlamaGenConfig, settings: &serde_json::Value) -> RasterOptions {
    let float = |key: &str| settings[key].as_f64().unwrap() as f32;
    let whole = |key: &str| settings[key].as_u64().unwrap();
    let mut options = model.options();
    options.guidance_scale = float("cfg_scale");
    options.filter.temperature = float("temperature");
    options.filter.top_k = usize::try_from(whole("top_k")).unwrap();
    options.filter.top_p = float("top_p");
    options.guidance_interval = settings["cfg_interval"]
        .as_i64()
        .and_then(|k| u32::try_from(k).ok());
    options.tokens_per_step = Some(1);
    options
}

fn begin<B: Backend>(
    model: &Arc<LlamaGen<B>>,
    prompts: &[PrefixPair],
    options: RasterOptions,
) -> Result<(LlamaGenSession<B, Words>, Vec<CandidateId>)> {
    let reader = LlamaGenPrompts::new(Arc::clone(model), None, Words::new("word")?)?;
    let mut session = LlamaGenSession::new(Arc::clone(model), None, reader, options)?;
    let mut ids = vec![CandidateId::default(); prompts.len()];
    for (prompt, id) in prompts.iter().zip(ids.chunks_mut(1)) {
        session.start_prefixes(prompt, None, &[0], id)?;
    }
    Ok((session, ids))
}

/// Feeds given codes and compares what is predicted.
fn forced<B: Backend>(case: &Case, model: &Arc<LlamaGen<B>>, prompts: &[PrefixPair]) -> Result<()> {
    let (shape, codes) = case.whole("in.tokens");
    let count = shape[1];
    let run = |options: RasterOptions| -> Result<Vec<Vec<GivenCode>>> {
        let (mut session, ids) = begin(model, prompts, options)?;
        (0..count)
            .map(|place| {
                let steps = ids.iter().enumerate().map(|(i, &id)| {
                    let code = u32::try_from(codes[i * count + place]).unwrap();
                    Ok(session.step_given(id, &[Given::Code(code)])?.remove(0))
                });
                steps.collect()
            })
            .collect()
    };
    let all = |steps: &[Vec<GivenCode>], part: fn(&GivenCode) -> &[f32]| -> Vec<f32> {
        steps.iter().flatten().flat_map(part).copied().collect()
    };
    let interval = options(model.config(), &case.json["sampling"]);
    let mut guided = interval;
    guided.guidance_interval = None;
    let steps = run(guided)?;
    let both: Vec<f32> = steps
        .iter()
        .flat_map(|step| {
            let halves = [
                |c: &GivenCode| c.conditional.clone(),
                |c: &GivenCode| c.unconditional.clone(),
            ];
            halves.map(|half| step.iter().flat_map(half).collect::<Vec<_>>())
        })
        .flatten()
        .collect();
    case.compare("out.logits_both", &both);
    case.compare("out.logits_guided", &all(&steps, |c| &c.guided));
    if case.wants("out.filtered_probs") {
        let shown = case.shape("out.filtered_probs")[0];
        case.compare("out.filtered_probs", &all(&steps[..shown], |c| &c.p));
    }
    case.compare(
        "out.interval.logits_used",
        &all(&run(interval)?, |c| &c.guided),
    );
    let mut plain = guided;
    plain.guidance_scale = 1.0;
    case.compare("out.no_guidance.logits", &all(&run(plain)?, |c| &c.guided));
    Ok(())
}

/// Draws whole pictures with the noise of the reference, or greedily where it has none.
fn whole<B: Backend>(
    case: &Case,
    model: &Arc<LlamaGen<B>>,
    prompts: &[PrefixPair],
    name: &str,
) -> Result<()> {
    let settings = &case.json["runs"][name];
    let mut options = options(model.config(), settings);
    let noise = format!("in.{name}.exponential");
    let noise = case.has_input(&noise).then(|| case.input(&noise).1);
    if noise.is_none() {
        options.filter.top_k = 1;
    }
    let (places, v) = (model.config().places(), model.config().vocab_size);
    let (mut session, ids) = begin(model, prompts, options)?;
    let mut logits = Vec::new();
    for place in 0..places {
        for (i, &id) in ids.iter().enumerate() {
            match &noise {
                Some(noise) => {
                    let noise = &noise[(place * ids.len() + i) * v..][..v];
                    let code = session.step_given(id, &[Given::Noise(noise)])?.remove(0);
                    logits.extend(code.guided);
                }
                None => session.step(&[id])?,
            }
        }
    }
    let mut codes = vec![0; places * ids.len()];
    for (codes, &id) in codes.chunks_mut(places).zip(&ids) {
        session.save(id, codes)?;
    }
    case.exact(&format!("out.{name}.codes"), &codes);
    let out = format!("out.{name}.logits_used");
    if case.wants(&out) {
        case.compare(&out, &logits);
    }
    Ok(())
}
