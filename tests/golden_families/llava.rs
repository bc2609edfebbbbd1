//! The judge: preprocessing bit for bit, the image tower, the splice, the language model, the answer.

use std::sync::Arc;

use maquette::model::llava::{Aspect, JudgeOptions, Llava, LlavaConfig, LlavaSession, TraceStage};
use maquette::model::resize::{Resizer, TileMerge, best_resolution};
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::ops::conv::pixel_value;
use maquette::{ImageBatch, ImageSize, Result};

use crate::Case;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let mut config = LlavaConfig::from_json(&case.config)?;
    config.templates = ["<image> a", "<image> a", "<image> a", "a"].into();
    resizes(case)?;
    let model = Arc::new(Llava::load(
        Arc::clone(device),
        config,
        &case.source(),
        case.format,
    )?);
    let mut prefixes = Vec::new();
    if case.has_input("in.image_u8") {
        prefixes.push(String::new());
    }
    for i in 0.. {
        if !case.has_input(&format!("in.{i}.image_u8")) {
            break;
        }
        prefixes.push(format!("{i}."));
    }
    for prefix in prefixes {
        picture(case, &model, &prefix)?;
    }
    Ok(())
}

fn picture<B: Backend>(case: &Case, model: &Arc<Llava<B>>, prefix: &str) -> Result<()> {
    let (size, pixels) = image(case, &format!("in.{prefix}image_u8"));
    let views = views(case, model.config(), prefix, size, &pixels)?;
    let ids = case.whole("in.input_ids").1;
    let before = ids.iter().position(|&id| id == -200).unwrap();
    let (d, after) = (model.config().text.width, ids.len() - before - 1);
    let out = |name: &str| format!("out.{prefix}{name}");
    let tokenizer = Arc::new(Words::new("a")?);
    let options = JudgeOptions::default().with_views(1).with_tokens(64);
    let mut session = LlavaSession::new(Arc::clone(model), tokenizer, options)?;
    // Compared where the case stores them: the tiles case stores neither the tower nor most layers.
    let compare = |name: &str, data: &[f32]| {
        if case.wants(&out(name)) {
            case.compare(&out(name), data);
        }
    };
    let batch = ImageBatch::new(1, size, &pixels)?;
    let verdict = session.trace(&ids, batch, &mut |stage, data| {
        match stage {
            TraceStage::VisionEmbeddings => compare("vision.embeddings", data),
            TraceStage::VisionLayer(layer) => compare(&format!("vision.layer{layer}"), data),
            TraceStage::Projector => compare("projector", data),
            TraceStage::Embeds => {
                compare("inputs_embeds", data);
                let rows = data.len() / d - before - after;
                if case.wants(&out("image_features")) {
                    let rows = &data[before * d..][..rows * d];
                    case.compare_like(&out("image_features"), &out("inputs_embeds"), rows);
                }
                if case.wants(&out("image_tokens")) {
                    case.exact(&out("image_tokens"), &[i64::try_from(rows).unwrap()]);
                }
            }
            TraceStage::TextLayer(layer) => compare(&format!("lm.layer{layer}.last"), data),
            TraceStage::FinalNorm => compare("lm.final_norm.last", data),
            TraceStage::Logits => compare("logits_last", data),
            _ => {}
        }
        Ok(())
    })?;
    case.compare(&out("p_yes"), &[verdict.p_yes]);
    case.compare(&out("p_no"), &[verdict.p_no]);
    if case.wants("out.pixel_values") {
        let area = views.len() / 3;
        let values: Vec<f32> = (0..views.len())
            .map(|i| pixel_value(views[i % area * 3 + i / area]))
            .collect();
        case.compare("out.pixel_values", &values);
    }
    Ok(())
}

/// The square views, compared with what the case stores of the way to them.
fn views(
    case: &Case,
    config: &LlavaConfig,
    prefix: &str,
    size: ImageSize,
    pixels: &[u8],
) -> Result<Vec<u8>> {
    let side = u32::try_from(config.vision.image_size).unwrap();
    let view = ImageSize::new(side, side).len_bytes();
    let mut resizer = Resizer::new();
    let exact = |name: &str, bytes: &[u8]| {
        if case.wants(name) {
            case.exact(name, bytes);
        }
    };
    match &config.aspect {
        Aspect::AnyRes { pinpoints, max } => {
            let best = best_resolution(size, pinpoints).unwrap();
            case.exact(
                &format!("out.{prefix}best_resolution"),
                &[best.width, best.height],
            );
            let merge = TileMerge::plan(size, best, side, config.vision.grid(), *max)?;
            let mut views = vec![0; (1 + merge.tiles[0] * merge.tiles[1]) * view];
            resizer.tiles(pixels, size, best, side, &mut views)?;
            exact(&format!("out.{prefix}views_u8"), &views);
            Ok(views)
        }
        _ => {
            let longer = size.height.max(size.width);
            let mut padded = vec![0; ImageSize::new(longer, longer).len_bytes()];
            resizer.padded_square(pixels, size, longer, &mut padded)?;
            exact("out.padded_u8", &padded);
            let mut views = vec![0; view];
            resizer.padded_square(pixels, size, side, &mut views)?;
            exact("out.resized_u8", &views);
            Ok(views)
        }
    }
}

fn resizes(case: &Case) -> Result<()> {
    if case.wants("out.pixel_table") {
        case.compare(
            "out.pixel_table",
            &(0..=255).map(pixel_value).collect::<Vec<_>>(),
        );
    }
    for (i, [width, height]) in case.config.pairs("resize_targets")?.into_iter().enumerate() {
        let (from, src) = image(case, &format!("in.resize.{i}.src"));
        let to = ImageSize::new(
            u32::try_from(height).unwrap(),
            u32::try_from(width).unwrap(),
        );
        let mut out = vec![0; to.len_bytes()];
        Resizer::new().bicubic(&src, from, to, &mut out)?;
        case.exact(&format!("out.resize.{i}.dst"), &out);
    }
    Ok(())
}

fn image(case: &Case, name: &str) -> (ImageSize, Vec<u8>) {
    let (shape, pixels) = case.bytes(name);
    let side = |i: usize| u32::try_from(shape[i]).unwrap();
    (ImageSize::new(side(0), side(1)), pixels)
}
