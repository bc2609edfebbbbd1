//! What is done to rows between products.

use maquette::Result;
use maquette::cpu::Roof;
use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, KvFormat, RotaryShape, rotary_table};
use maquette::ops::norm::{Activation, GateShape, NormShape};

use super::{Case, buffer, numbers};

pub(super) fn layer_norm<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[rows, width] = shape else {
        return Ok(Vec::new());
    };
    let s = NormShape {
        rows,
        width,
        eps: 1e-6,
    };
    let x = buffer(device, &numbers(rows * width))?;
    let (w, b) = (
        buffer(device, &numbers(width))?,
        buffer(device, &numbers(width))?,
    );
    let mut y = device.zeros(rows * width)?;
    let amount = 8.0 * (rows * width) as f64;
    let call = move |_| device.layer_norm(s, &x, &w, &b, &mut y);
    Ok(vec![(
        format!("f32/r{rows}_w{width}"),
        Roof::Read,
        amount,
        Box::new(call),
    )])
}

pub(super) fn gate<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[rows, width] = shape else {
        return Ok(Vec::new());
    };
    let s = GateShape {
        rows,
        width,
        activation: Activation::Silu,
    };
    let x = buffer(device, &numbers(2 * rows * width))?;
    let mut y = device.zeros(rows * width)?;
    let amount = 12.0 * (rows * width) as f64;
    let call = move |_| device.gate(s, &x, &mut y);
    Ok(vec![(
        format!("f32/r{rows}_w{width}_silu"),
        Roof::Read,
        amount,
        Box::new(call),
    )])
}

/// Queries and keys turned, keys and values appended: what a layer does before it attends.
pub(super) fn rotary_append<'a, B: Backend>(
    device: &'a B,
    shape: &[usize],
) -> Result<Vec<Case<'a>>> {
    let &[rows, heads, d] = shape else {
        return Ok(Vec::new());
    };
    let (width, words) = (heads * d, KvFormat::Q8.words(d));
    let turned = RotaryShape {
        rows,
        heads: 2 * heads,
        head_dim: d,
        rotary_dim: d,
        stride: 3 * width,
        offset: 0,
        positions: rows,
    };
    let appended = move |offset| AppendShape {
        rows,
        heads,
        head_dim: d,
        stride: 3 * width,
        offset,
        cache_rows: rows,
    };
    let mut table = vec![0.0; rows * d];
    rotary_table(rows, d, 10_000.0, &mut table)?;
    let places: Vec<u32> = (0..rows as u32).collect();
    let mut cases: Vec<Case<'a>> = Vec::new();
    for format in [KvFormat::F32, KvFormat::Q8] {
        let (places, table) = (buffer(device, &places)?, buffer(device, &table)?);
        let mut x = buffer(device, &numbers(rows * 3 * width))?;
        let amount = 4.0 * (rows * heads * (5 * d + 2 * format.words(d))) as f64;
        let name = format!("{}/r{rows}_h{heads}x{d}", format.name()).to_lowercase();
        let call: Box<dyn FnMut(usize) -> Result<()> + 'a> = if format == KvFormat::Q8 {
            let (mut k, mut v) = (
                device.zeros(rows * heads * words)?,
                device.zeros(rows * heads * words)?,
            );
            Box::new(move |_| {
                device.rotary(turned, &mut x, &places, &table)?;
                device.append_q8(appended(width), &x, &places, &mut k)?;
                device.append_q8(appended(2 * width), &x, &places, &mut v)
            })
        } else {
            let (mut k, mut v) = (device.zeros(rows * width)?, device.zeros(rows * width)?);
            Box::new(move |_| {
                device.rotary(turned, &mut x, &places, &table)?;
                device.append(appended(width), &x, &places, &mut k)?;
                device.append(appended(2 * width), &x, &places, &mut v)
            })
        };
        cases.push((name, Roof::Read, amount, call));
    }
    Ok(cases)
}
