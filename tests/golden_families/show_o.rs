//! Show-o: every stage of one forward pass, and the masked loop with given draws.

use std::collections::BTreeMap;
use std::sync::Arc;

use maquette::codes::UNKNOWN;
use maquette::generator::Partial;
use maquette::model::linear::Linear;
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::transformer::Stage;
use maquette::model::weights::Loader;
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::{CandidateId, Result};

use crate::Case;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let config = ShowOConfig::from_json(&case.config)?;
    let model = Arc::new(ShowO::load(
        Arc::clone(device),
        config,
        &case.source(),
        case.format,
    )?);
    if case.has_input("in.input_ids") {
        forward(case, device, &model)?;
    }
    for name in case.json["runs"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        masked_loop(case, &model, name)?;
    }
    Ok(())
}

fn sequences(case: &Case, name: &str) -> Vec<Vec<u32>> {
    let (shape, ids) = case.whole(name);
    ids.chunks(shape[1])
        .map(|row| row.iter().map(|&id| u32::try_from(id).unwrap()).collect())
        .collect()
}

/// Columns `from .. from + take` of each head, heads outermost: `[heads, rows, take]`.
fn heads(
    qkv: &[f32],
    rows: usize,
    from: usize,
    (count, dim, take): (usize, usize, usize),
) -> Vec<f32> {
    let stride = qkv.len() / rows;
    (0..count)
        .flat_map(|h| (0..rows).flat_map(move |r| &qkv[r * stride + from + h * dim..][..take]))
        .copied()
        .collect()
}

fn forward<B: Backend>(case: &Case, device: &Arc<B>, model: &ShowO<B>) -> Result<()> {
    let c = model.config().clone();
    let source = case.source();
    let rename = |name: &str| name.to_owned();
    let loader = Loader::new(&**device, &source, case.format, &rename);
    let embedding = loader.floats(
        "showo.model.embed_tokens.weight",
        &[c.vocab_size, c.hidden_size],
    )?;
    let head = Linear::load(&loader, "showo.lm_head", c.vocab_size, c.hidden_size, true)?;
    let head_dim = c.hidden_size / c.num_attention_heads;
    let rotary_dim = case.config.size("rotary_dim")?;
    let mut seen: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut allowed = Vec::new();
    for tokens in sequences(case, "in.input_ids") {
        let rows = tokens.len();
        for [from, len] in model.visible_rows(&tokens) {
            allowed.extend(
                (0..rows).map(|k| i64::from((from as usize..(from + len) as usize).contains(&k))),
            );
        }
        let mut before: Vec<f32> = tokens
            .iter()
            .flat_map(|&t| &embedding[t as usize * c.hidden_size..][..c.hidden_size])
            .copied()
            .collect();
        let hidden = model.forward_full(&tokens, &mut |layer, stage, x| {
            let mut put = |name: &str, data: Vec<f32>| {
                seen.entry(format!("out.layer{layer}.{name}"))
                    .or_default()
                    .extend(data);
            };
            let width = match stage {
                Stage::HeadNorm | Stage::Rotated => 3 * c.hidden_size,
                _ => c.hidden_size,
            };
            let mut data = vec![0.0; rows * width];
            device.read(x, 0, &mut data)?;
            let (whole, part) = (
                (c.num_attention_heads, head_dim, head_dim),
                (c.num_attention_heads, head_dim, rotary_dim),
            );
            match stage {
                Stage::Norm => put("input_layernorm", data),
                Stage::HeadNorm => {
                    put("q_layernorm", heads(&data, rows, 0, whole));
                    put("k_layernorm", heads(&data, rows, c.hidden_size, whole));
                }
                Stage::Rotated => {
                    put("q_rotated_part", heads(&data, rows, 0, part));
                    put("k_rotated_part", heads(&data, rows, c.hidden_size, part));
                }
                Stage::Context => put("attn_context", data),
                // The block adds its two branches to the rows one after the other: each is what the rows gained.
                Stage::Mlp => {
                    put(
                        "mlp",
                        data.iter()
                            .zip(&before)
                            .map(|(after, before)| after - before)
                            .collect(),
                    );
                    before = data;
                }
                Stage::Output => {
                    put(
                        "attn_dense",
                        data.iter()
                            .zip(&before)
                            .map(|(after, before)| after - before)
                            .collect(),
                    );
                    put("output", data.clone());
                    before = data;
                }
                _ => {}
            }
            Ok(())
        })?;
        let mut x = device.zeros(hidden.len())?;
        device.write(&mut x, 0, &hidden)?;
        let mut logits = device.zeros(rows * c.vocab_size)?;
        head.apply(device, rows, &x, &mut logits)?;
        let mut out = vec![0.0; rows * c.vocab_size];
        device.read(&logits, 0, &mut out)?;
        seen.entry("out.final_layernorm".into())
            .or_default()
            .extend(hidden);
        seen.entry("out.logits".into()).or_default().extend(out);
    }
    case.exact("out.attention_mask_allow", &allowed);
    for (name, data) in seen.iter().filter(|(name, _)| case.wants(name)) {
        case.compare(name, data);
    }
    Ok(())
}

/// What the steps of one run have decided, step by step and sequence by sequence.
#[derive(Default)]
struct Run {
    logits: Vec<f32>,
    p: Vec<f32>,
    sampled: Vec<i64>,
    masked: Vec<i64>,
    masking: Vec<i64>,
    before: Vec<i64>,
    temperature: Vec<f32>,
}

fn masked_loop<B: Backend>(case: &Case, model: &Arc<ShowO<B>>, name: &str) -> Result<()> {
    let c = model.config();
    let setting = |key: &str| case.json["runs"][name][key].as_f64().unwrap();
    let mut options = ShowOOptions::default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small settings of a fixture"
    )]
    {
        options.steps = setting("timesteps") as u32;
        options.guidance_scale = 1.0 + setting("guidance") as f32;
        options.temperature = setting("temperature") as f32;
    }
    let ids = sequences(case, &format!("in.{name}.input_ids"));
    let unconditional = model.config().text_tokens(&[]);
    for row in sequences(case, &format!("in.{name}.uncond_input_ids")) {
        let text = row[..c.text_rows()]
            .iter()
            .copied()
            .filter(|&t| t != c.pad());
        assert_eq!(text.collect::<Vec<_>>(), unconditional);
    }
    let (shape, exponential) = case.input(&format!("in.{name}.exponential"));
    let (_, uniform) = case.input(&format!("in.{name}.uniform"));
    let (batch, n) = (shape[1], shape[2]);
    options.candidates = batch;
    let words = Words::new("word").unwrap();
    let mut session = ShowOSession::new(Arc::clone(model), None, words, options)?;
    let (offset, image) = (u32::try_from(c.image_offset()).unwrap(), c.text_rows() + 1);
    let code = |&t: &u32| if t == c.mask() { UNKNOWN } else { t - offset };
    let token = |&code: &u32| {
        i64::from(if code == UNKNOWN {
            c.mask()
        } else {
            offset + code
        })
    };
    let mut states: Vec<Vec<u32>> = ids
        .iter()
        .map(|row| row[image..image + n].iter().map(code).collect())
        .collect();
    let mut candidates = vec![CandidateId::default(); batch];
    for ((row, state), id) in ids.iter().zip(&states).zip(candidates.chunks_mut(1)) {
        let text: Vec<u32> = row[..c.text_rows()]
            .iter()
            .copied()
            .filter(|&t| t != c.pad())
            .collect();
        session.start_tokens(&text, Some(&Partial::new(0, state)), &[0], id)?;
    }
    let whole = |row: &[u32], state: &[u32]| -> Vec<i64> {
        let mut row: Vec<i64> = row.iter().map(|&t| i64::from(t)).collect();
        for (t, code) in row[image..].iter_mut().zip(state) {
            *t = token(code);
        }
        row
    };
    let mut run = Run::default();
    let noise = exponential
        .chunks(n * c.codebook_size)
        .zip(uniform.chunks(n));
    for (i, (exponential, uniform)) in noise.enumerate() {
        let b = i % batch;
        run.before.extend(whole(&ids[b], &states[b]));
        let step = session.step_given(candidates[b], exponential, uniform)?;
        run.logits.extend(step.logits);
        run.p.extend(step.p);
        run.sampled
            .extend(step.sampled.iter().map(|&c| i64::from(c)));
        run.masked.push(i64::try_from(step.masked).unwrap());
        run.masking
            .extend(step.state.iter().map(|&c| i64::from(c == UNKNOWN)));
        if b == 0 {
            run.temperature.push(step.temperature);
        }
        states[b] = step.state;
    }
    let finished: Vec<i64> = ids
        .iter()
        .zip(&states)
        .flat_map(|(row, state)| whole(row, state))
        .collect();
    let mut codes = Vec::new();
    for &id in &candidates {
        let mut state = vec![0; n];
        maquette::Generator::save(&session, id, &mut state)?;
        codes.extend(state.iter().map(|&c| i64::from(c)));
    }
    let out = |part: &str| format!("out.{name}.{part}");
    case.compare(&out("logits"), &run.logits);
    case.compare(&out("selected_probs"), &run.p);
    case.compare(&out("temperature"), &run.temperature);
    case.exact(&out("sampled_codes"), &run.sampled);
    case.exact(&out("mask_len"), &run.masked);
    case.exact(&out("masking"), &run.masking);
    case.exact(&out("input_ids_before"), &run.before);
    case.exact(&out("final_input_ids"), &finished);
    case.exact(&out("codes"), &codes);
    Ok(())
}
