//! Block formats: bytes and values bit for bit, products on the device.

use std::sync::Arc;

use maquette::ops::Backend;
use maquette::ops::gemm::GemmShape;
use maquette::quant::{Block, Format, QuantMatrix};
use maquette::{Error, Result};

use crate::Case;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    for name in case.outputs() {
        match name.split('.').collect::<Vec<_>>()[1..] {
            ["matvec", format] => product(case, device, &name, format)?,
            [input, format, "bytes"] => {
                let (shape, x) = case.input(&format!("in.{input}.f32"));
                case.exact(&name, &quantised(format, shape[1], &x)?);
            }
            [input, format, "dequantised"] => {
                case.compare(&name, &dequantised(case, input, format)?);
            }
            _ => case.problem(format!("{name} has an unknown name")),
        }
    }
    Ok(())
}

fn block(name: &str) -> Result<Block> {
    let mut all = Block::ALL.iter().copied();
    all.find(|b| b.name() == name)
        .ok_or_else(|| Error::foreign("a block format that is not known"))
}

fn quantised(format: &str, width: usize, x: &[f32]) -> Result<Vec<u8>> {
    let rows = x.len() / width;
    if format == "BF16" {
        let mut out = vec![0; Format::Bf16.bytes(rows, width)?];
        Format::Bf16.quantise(x, &mut out);
        return Ok(out);
    }
    let block = block(format)?;
    let mut out = vec![0; x.len() / block.len() * block.bytes()];
    block.quantise(x, &mut out)?;
    Ok(out)
}

/// Stored bytes: those of a quantiser, or random blocks.
fn stored(case: &Case, input: &str, format: &str) -> Vec<u8> {
    let set = if input == "random" { "in" } else { "out" };
    case.bytes(&format!("{set}.{input}.{format}.bytes")).1
}

fn dequantised(case: &Case, input: &str, format: &str) -> Result<Vec<f32>> {
    let bytes = stored(case, input, format);
    if format == "BF16" {
        let mut out = vec![0.0; bytes.len() / 2];
        Format::Bf16.dequantise(&bytes, &mut out);
        return Ok(out);
    }
    let block = block(format)?;
    let mut out = vec![0.0; bytes.len() / block.bytes() * block.len()];
    block.dequantise(&bytes, &mut out);
    Ok(out)
}

fn product<B: Backend>(case: &Case, device: &Arc<B>, name: &str, format: &str) -> Result<()> {
    let x = case.input("in.x").1;
    let random = case.wants(&format!("out.random.{format}.dequantised"));
    let input = if random { "random" } else { "normal" };
    let values = dequantised(case, input, format)?;
    let bytes = stored(case, input, format);
    let s = GemmShape::new(1, values.len() / x.len(), x.len());
    let mut forms = vec![QuantMatrix::f32(s.n, s.k, &values)?];
    if let Some(kept) = Format::ALL.iter().copied().find(|f| f.name() == format) {
        forms.push(QuantMatrix::from_bytes(kept, s.n, s.k, &bytes)?);
    }
    let mut input = device.zeros(s.k)?;
    device.write(&mut input, 0, &x)?;
    for form in &forms {
        let (w, mut y) = (device.pack(form)?, device.zeros(s.n)?);
        device.gemm(s, &input, &w, None, &mut y)?;
        let mut got = vec![0.0; s.n];
        device.read(&y, 0, &mut got)?;
        case.compare(name, &got);
    }
    Ok(())
}
