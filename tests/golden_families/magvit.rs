//! The MAGVIT-v2 tokenizer: every stage of encoder and decoder, codes, bytes, single blocks.

use std::sync::Arc;

use maquette::Result;
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::vqgan::blocks::{
    AttentionBlock, NormSettings, Planes, ResBlock, Resample, Work,
};
use maquette::model::weights::{Loader, WeightSource};
use maquette::ops::Backend;
use maquette::ops::conv::{Rounding, to_bytes};

use crate::Case;

/// Groups of the blocks that the fixture keeps apart because the model in it has fewer.
const BLOCK_GROUPS: usize = 32;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    let config = MagvitConfig::from_json(&case.config)?;
    let source = case.source();
    let model = Magvit::load_with(Arc::clone(device), config, &source, case.format, &|n| {
        n.starts_with("blocks32.")
    })?;
    if case.has_input("in.image") {
        encode(case, device, &model)?;
    }
    if case.has_input("in.codes") {
        let (shape, codes) = codes(case, "in.codes");
        let side = shape[1].isqrt();
        decode(case, device, &model, [side, side], &codes)?;
    }
    if case.has_input("in.codes_rect") {
        let (shape, codes) = codes(case, "in.codes_rect");
        let rect = case.config.sizes("rect_shape")?;
        let mut scratch = model.scratch_for(codes.len())?;
        let scale = model.config().scale();
        let size = [rect[0] * scale, rect[1] * scale];
        let mut out = vec![0.0; shape[0] * size[0] * size[1] * 3];
        model.decode_f32(&mut scratch, shape[0], [rect[0], rect[1]], &codes, &mut out)?;
        let s = Planes {
            images: shape[0],
            height: size[0],
            width: size[1],
            channels: 3,
        };
        case.compare("out.decoded_rect", &channels_first(s, &out));
    }
    if case.has_input("in.g32.x") {
        blocks(case, device, &source)?;
    }
    Ok(())
}

pub fn codes(case: &Case, name: &str) -> (Vec<usize>, Vec<u32>) {
    let (shape, codes) = case.whole(name);
    (
        shape,
        codes
            .into_iter()
            .map(|c| u32::try_from(c).unwrap())
            .collect(),
    )
}

fn encode<B: Backend>(case: &Case, device: &Arc<B>, model: &Magvit<B>) -> Result<()> {
    let (s, pixels) = channels_last(case.input("in.image"));
    let scale = model.config().scale();
    let places = s.images * s.pixels() / (scale * scale);
    let mut scratch = model.scratch_for(places)?;
    let size = [s.height, s.width];
    model.trace_encode(&mut scratch, size, &pixels, &mut |stage, x, s| {
        let name = format!("out.{stage}");
        if case.wants(&name) {
            case.compare(&name, &channels_first(s, &read(device, x, s)?));
        }
        Ok(())
    })?;
    let mut codes = vec![0; places];
    model.encode(&mut scratch, s.images, size, &pixels, &mut codes)?;
    case.exact("out.codes", &codes);
    Ok(())
}

fn decode<B: Backend>(
    case: &Case,
    device: &Arc<B>,
    model: &Magvit<B>,
    grid: [usize; 2],
    codes: &[u32],
) -> Result<()> {
    let mut scratch = model.scratch_for(codes.len())?;
    model.trace_decode(&mut scratch, grid, codes, &mut |stage, x, s| {
        let name = format!("out.{stage}");
        if case.wants(&name) {
            case.compare(&name, &channels_first(s, &read(device, x, s)?));
        }
        Ok(())
    })?;
    let (s, stored) = channels_last(case.input("out.decoded"));
    let mut bytes = vec![0; stored.len()];
    to_bytes(Rounding::Truncate, stored.len(), &stored, &mut bytes)?;
    case.exact("out.decoded_u8", &bytes);
    model.decode(&mut scratch, s.images, grid, codes, &mut bytes)?;
    case.within_one("out.decoded_u8", &bytes);
    Ok(())
}

pub fn blocks<B: Backend>(case: &Case, device: &Arc<B>, source: &dyn WeightSource) -> Result<()> {
    let (mut s, x) = channels_last(case.input("in.g32.x"));
    let same = |name: &str| String::from(name);
    let loader = Loader::new(&**device, source, case.format, &same);
    let norm = NormSettings {
        groups: BLOCK_GROUPS,
        eps: case.config.float_or("norm_eps", 1e-6)?,
    };
    let c = source
        .tensor("blocks32.res.conv1.bias")
        .map_or(0, |t| t.shape[0]);
    let res = ResBlock::load(&loader, "blocks32.res", [s.channels, c], norm)?;
    let attention = AttentionBlock::load(&loader, "blocks32.attn", c, norm)?;
    let down = Resample::load(&loader, "blocks32.down", c, false)?;
    let up = Resample::load(&loader, "blocks32.up", c, true)?;

    let mut work = Work::new(
        &**device,
        4 * x.len().max(s.images * s.pixels() * c),
        s.images,
    )?;
    device.write(&mut work.x, 0, &x)?;
    let show = |name: &str, s: Planes, work: &Work<B>| {
        case.compare(name, &channels_first(s, &read(device, &work.x, s)?));
        Ok::<_, maquette::Error>(())
    };
    res.apply(device, &mut s, &mut work)?;
    show("out.g32.res", s, &work)?;
    attention.apply(device, &s, &mut work)?;
    show("out.g32.attn", s, &work)?;
    down.apply(device, &mut s, &mut work)?;
    show("out.g32.down", s, &work)?;
    up.apply(device, &mut s, &mut work)?;
    show("out.g32.up", s, &work)
}

pub fn read<B: Backend>(device: &Arc<B>, x: &B::Buffer<f32>, s: Planes) -> Result<Vec<f32>> {
    let mut out = vec![0.0; s.elements()?];
    device.read(x, 0, &mut out)?;
    Ok(out)
}

pub fn channels_last((shape, data): (Vec<usize>, Vec<f32>)) -> (Planes, Vec<f32>) {
    let s = Planes {
        images: shape[0],
        height: shape[2],
        width: shape[3],
        channels: shape[1],
    };
    let (pixels, channels) = (s.pixels(), s.channels);
    let at = |i: usize| {
        let (image, pixel, channel) =
            (i / (pixels * channels), i / channels % pixels, i % channels);
        data[(image * channels + channel) * pixels + pixel]
    };
    (s, (0..data.len()).map(at).collect())
}

pub fn channels_first(s: Planes, data: &[f32]) -> Vec<f32> {
    let (pixels, channels) = (s.pixels(), s.channels);
    let at = |i: usize| {
        let (image, channel, pixel) = (i / (pixels * channels), i / pixels % channels, i % pixels);
        data[(image * pixels + pixel) * channels + channel]
    };
    (0..data.len()).map(at).collect()
}
