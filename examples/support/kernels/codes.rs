//! Codes: drawn from rows of logits, and looked for in a codebook.

use maquette::Result;
use maquette::cpu::Roof;
use maquette::ops::Backend;
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape, GuideShape};
use maquette::ops::vq::NearestShape;

use super::{Case, buffer, numbers};

/// Guidance, top-k and top-p, softmax and draw of each row.
pub(super) fn sample<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[rows, width] = shape else {
        return Ok(Vec::new());
    };
    let mut cases: Vec<Case<'a>> = Vec::new();
    for (name, guided, top_k, top_p) in [
        ("top1000", false, 1000, 1.0),
        ("guided_top1000_p0.95", true, 1000, 0.95),
        ("guided_all", true, 0, 1.0),
    ] {
        let s = FilterShape {
            rows,
            width,
            filter: Filter::default().with_top_k(top_k).with_top_p(top_p),
        };
        let guide = GuideShape {
            rows,
            width,
            scale: 5.0,
        };
        // Of conditional and unconditional rows that are alike the guided ones are the same.
        let fresh = buffer(device, &numbers(rows * width).repeat(2))?;
        let (mut logits, mut order) =
            (device.zeros(2 * rows * width)?, device.zeros(rows * width)?);
        let keys = buffer(device, &vec![7_u32; 4 * rows])?;
        let (mut codes, mut p) = (device.zeros(rows)?, device.zeros(rows)?);
        let call = move |_| {
            let halves = if guided { 2 } else { 1 };
            device.copy(&fresh, 0, &mut logits, 0, halves * rows * width)?;
            if guided {
                device.guide(guide, &mut logits)?;
            }
            device.filter(s, &mut logits, &mut order)?;
            let shape = DrawShape { rows, width };
            device.draw(shape, &mut logits, &Draw::Keyed(&keys), &mut codes, &mut p)
        };
        let amount = 4.0 * (rows * width) as f64;
        let name = format!("f32/r{rows}_w{width}_{name}");
        cases.push((name, Roof::Read, amount, Box::new(call)));
    }
    Ok(cases)
}

/// Guidance and draw of each place of a masked model.
pub(super) fn masked_step<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[rows, width] = shape else {
        return Ok(Vec::new());
    };
    let guide = GuideShape {
        rows,
        width,
        scale: 2.75,
    };
    // What a call leaves behind is what the next one begins with.
    let mut logits = buffer(device, &numbers(rows * width).repeat(2))?;
    let keys = buffer(device, &vec![7_u32; 4 * rows])?;
    let (mut codes, mut p) = (device.zeros(rows)?, device.zeros(rows)?);
    let call = move |_| {
        device.guide(guide, &mut logits)?;
        let shape = DrawShape { rows, width };
        device.draw(shape, &mut logits, &Draw::Keyed(&keys), &mut codes, &mut p)
    };
    let amount = 20.0 * (rows * width) as f64;
    Ok(vec![(
        format!("f32/r{rows}_w{width}"),
        Roof::Read,
        amount,
        Box::new(call),
    )])
}

pub(super) fn nearest<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[n, width, entries] = shape else {
        return Ok(Vec::new());
    };
    let s = NearestShape {
        n,
        width,
        entries,
        normalise: true,
    };
    // Entries of length 1, as codebooks of normalised latents have them, all over the sphere.
    let scattered = |from: usize, len: usize| -> Vec<f32> {
        let number = |i: usize| {
            let mixed = (i as u32).wrapping_mul(0x9e37_79b9);
            let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b);
            (mixed ^ mixed >> 13) as i32 as f32 / 2_147_483_648.0
        };
        (from..from + len).map(number).collect()
    };
    let mut book = scattered(0, entries * width);
    for entry in book.chunks_exact_mut(width) {
        let length = entry.iter().map(|v| v * v).sum::<f32>().sqrt();
        entry.iter_mut().for_each(|v| *v /= length);
    }
    let latents: Vec<f32> = numbers(2 * n * width).into_iter().skip(n * width).collect();
    let (latents, book) = (buffer(device, &latents)?, buffer(device, &book)?);
    let mut codes = device.zeros(n)?;
    let amount = 3.0 * (n * width * entries) as f64;
    let call = move |_| device.nearest(s, &latents, &book, &mut codes);
    Ok(vec![(
        format!("f32/n{n}_w{width}_e{entries}"),
        Roof::Floats,
        amount,
        Box::new(call),
    )])
}
