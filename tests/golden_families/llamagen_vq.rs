//! The VQ tokenizer: every stage of encoder and decoder, codes, bytes, single blocks.

use std::sync::Arc;

use maquette::Result;
use maquette::model::vq::{Blank, Vq, VqConfig};
use maquette::model::vqgan::blocks::{Norm, NormSettings, Planes};
use maquette::model::weights::Loader;
use maquette::ops::Backend;
use maquette::ops::conv::{Rounding, to_bytes};

use crate::Case;
use crate::magvit::{blocks, channels_first, channels_last, codes, read};

/// Outputs of u8 pictures and how each is rounded.
const BYTES: [(&str, Rounding); 2] = [
    ("out.u8_single", Rounding::Nearest),
    ("out.u8_ddp", Rounding::Shift),
];

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let config = VqConfig::from_json(&case.config)?;
    let source = case.source();
    let same = |name: &str| name.to_owned();
    let loader = Loader::new(&**device, &source, case.format, &same);
    let model = Vq::read(Arc::clone(device), config, &loader)?;
    loader.finish(&|name| name == "quantize.codebook_used" || name.starts_with("blocks32."))?;
    if case.has_input("in.image") {
        encode(case, device, &model)?;
    }
    if case.has_input("in.codes") {
        decode(case, device, &model, &loader)?;
    }
    if case.has_input("in.codes_rect") {
        let (shape, codes) = codes(case, "in.codes_rect");
        let rect = case.config.sizes("rect_shape")?;
        let grid = [rect[0], rect[1]];
        let scale = model.config().scale();
        let s = Planes {
            images: shape[0],
            height: grid[0] * scale,
            width: grid[1] * scale,
            channels: 3,
        };
        let mut scratch = model.scratch_for(codes.len())?;
        let mut out = vec![0.0; s.elements()?];
        model.decode_f32(
            &mut scratch,
            (shape[0], grid),
            &codes,
            Blank::Zeros,
            &mut out,
        )?;
        case.compare("out.decoded_rect", &channels_first(s, &out));
    }
    if case.has_input("in.g32.x") {
        blocks(case, device, &source)?;
    }
    Ok(())
}

/// The entries of a grid of codes, channels first.
fn entries<B: Backend>(model: &Vq<B>, images: usize, codes: &[u32]) -> Result<Vec<f32>> {
    let side = (codes.len() / images).isqrt();
    let s = Planes {
        images,
        height: side,
        width: side,
        channels: model.config().codebook_embed_dim,
    };
    let mut out = vec![0.0; s.elements()?];
    model.entries(codes, &mut out)?;
    Ok(channels_first(s, &out))
}

fn encode<B: Backend>(case: &Case, device: &Arc<B>, model: &Vq<B>) -> Result<()> {
    let (s, pixels) = channels_last(case.input("in.image"));
    let scale = model.config().scale();
    let places = s.images * s.pixels() / (scale * scale);
    let mut scratch = model.scratch_for(places)?;
    let size = [s.height, s.width];
    model.trace_encode(&mut scratch, size, &pixels, &mut |stage, x, s| {
        case.compare(
            &format!("out.{stage}"),
            &channels_first(s, &read(device, x, s)?),
        );
        Ok(())
    })?;
    let mut codes = vec![0; places];
    model.encode(&mut scratch, s.images, size, &pixels, &mut codes)?;
    case.exact("out.codes", &codes);
    case.compare("out.quantised", &entries(model, s.images, &codes)?);
    Ok(())
}

fn decode<B: Backend>(
    case: &Case,
    device: &Arc<B>,
    model: &Vq<B>,
    loader: &Loader<'_, B>,
) -> Result<()> {
    let (shape, codes) = codes(case, "in.codes");
    let side = shape[1].isqrt();
    let grid = [side, side];
    case.compare("out.latent_of_codes", &entries(model, shape[0], &codes)?);
    let mut scratch = model.scratch_for(codes.len())?;
    // The last norm runs together with the activation after it: apart it is a stage of its own.
    let c = model.config();
    let settings = NormSettings {
        groups: c.norm_groups,
        eps: c.norm_eps,
    };
    let channels = c.base_channels * c.decoder_ch_mult[0];
    let norm = Norm::load(loader, "decoder.norm_out", channels, settings)?;
    let last = format!("out.dec.conv_blocks.{}", c.decoder_ch_mult.len() - 1);
    model.trace_decode(&mut scratch, grid, &codes, &mut |stage, x, s| {
        let name = format!("out.{stage}");
        case.compare(&name, &channels_first(s, &read(device, x, s)?));
        if name == last {
            let mut normed = device.zeros(s.elements()?)?;
            norm.apply(device, &s, false, x, &mut normed)?;
            case.compare(
                "out.dec.norm_out",
                &channels_first(s, &read(device, &normed, s)?),
            );
        }
        Ok(())
    })?;
    let (s, stored) = channels_last(case.input("out.decoded"));
    let mut bytes = vec![0; stored.len()];
    for (name, rounding) in BYTES {
        to_bytes(rounding, stored.len(), &stored, &mut bytes)?;
        case.exact(name, &bytes);
        let count = (s.images, grid);
        model.decode(
            &mut scratch,
            count,
            &codes,
            Blank::Zeros,
            rounding,
            &mut bytes,
        )?;
        case.within_one(name, &bytes);
    }
    Ok(())
}
