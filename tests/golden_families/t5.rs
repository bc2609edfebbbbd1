//! The T5 encoder: kinds of distance, and the features of prompts of different lengths.

use std::sync::Arc;

use maquette::Result;
use maquette::model::t5::{T5, T5Config};
use maquette::ops::Backend;

use crate::Case;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let config = T5Config::from_json(&case.config)?;
    let model = T5::load(Arc::clone(device), config, &case.source(), case.format)?;
    let count = i64::try_from(case.shape("out.buckets")[0]).unwrap();
    let buckets: Vec<i64> = (-(count / 2)..=count / 2)
        .map(|distance| i64::try_from(config.bucket(distance)).unwrap())
        .collect();
    case.exact("out.buckets", &buckets);
    let (shape, ids) = case.whole("in.input_ids");
    let (_, mask) = case.whole("in.attention_mask");
    let mut scratch = model.scratch(shape[1])?;
    let rows = ids.chunks(shape[1]).zip(mask.chunks(shape[1]));
    for (i, (ids, mask)) in rows.enumerate() {
        // The reference runs the pads, too, and masks them.
        let tokens: Vec<u32> = ids
            .iter()
            .zip(mask)
            .filter(|(_, m)| **m == 1)
            .map(|(&id, _)| u32::try_from(id).unwrap())
            .collect();
        let mut out = device.zeros(tokens.len() * config.d_model)?;
        model.encode(&mut scratch, &tokens, &mut out)?;
        let mut features = vec![0.0; tokens.len() * config.d_model];
        device.read(&out, 0, &mut features)?;
        case.compare(&format!("out.features.{i}"), &features);
    }
    Ok(())
}
