//! Every kind of kernel alone: its shapes, and one call of each.

pub mod clock;
mod codes;
mod rows;

use std::rc::Rc;

use clap::ValueEnum;
use maquette::cpu::Roof;
use maquette::ops::attention::{AppendShape, AttentionShape, KvFormat};
use maquette::ops::conv::ConvShape;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::{GroupNormShape, NormShape};
use maquette::ops::{Backend, Element};
use maquette::quant::{Format, QuantMatrix};
use maquette::{Error, Result};

/// A shape, its operations, and one call of it.
pub type Case<'a> = (String, Roof, f64, Box<dyn FnMut(usize) -> Result<()> + 'a>);

/// A kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Op {
    Gemm,
    Conv2d,
    Attention,
    RmsNorm,
    LayerNorm,
    Gate,
    RotaryAppend,
    GroupNorm,
    Sample,
    MaskedStep,
    Nearest,
}

impl Op {
    /// Shapes of models that this crate runs.
    pub fn shapes(self) -> Vec<Vec<usize>> {
        let shapes: &[&[usize]] = match self {
            Self::Gemm => &[
                &[1, 2048, 2048],
                &[1, 4096, 4096],
                &[1, 8192, 8192],
                &[1, 11008, 4096],
                &[1, 22016, 4096],
                &[2, 4096, 4096],
                &[4, 4096, 4096],
                &[8, 4096, 4096],
                &[20, 4096, 4096],
                &[40, 4096, 4096],
                &[64, 4096, 4096],
                &[768, 4096, 4096],
                &[774, 2048, 2048],
                &[774, 8192, 2048],
                &[860, 3584, 18944],
            ],
            Self::Conv2d => &[
                &[32, 512, 512],
                &[64, 256, 256],
                &[128, 256, 128],
                &[256, 128, 128],
            ],
            Self::Attention => &[
                &[2, 1, 512, 32, 128, 64],
                &[40, 1, 256, 20, 64],
                &[40, 1, 32, 20, 64, 224],
                &[1, 729, 729, 16, 72],
                &[8, 729, 729, 16, 72],
                &[2, 385, 385, 32, 64],
                &[2, 387, 387, 32, 64],
                &[40, 387, 387, 32, 64],
                &[1, 860, 860, 28, 128, 0, 4],
                &[1, 576, 576, 1, 512],
            ],
            Self::RmsNorm | Self::LayerNorm => &[&[40, 2048], &[768, 3584]],
            Self::Gate => &[&[40, 11_008], &[768, 11_008]],
            Self::RotaryAppend => &[&[40, 32, 128], &[768, 32, 64]],
            Self::GroupNorm => &[&[65_536, 128], &[4096, 512]],
            Self::Sample => &[&[1, 16_384], &[20, 16_384]],
            Self::MaskedStep => &[&[5120, 8192]],
            Self::Nearest => &[&[576, 8, 16_384], &[11_520, 8, 16_384]],
        };
        shapes.iter().map(|shape| shape.to_vec()).collect()
    }

    /// Whether a shape has the sizes of this kind. Only a shared prefix may be empty.
    fn takes(self, shape: &[usize]) -> bool {
        let sizes = match self {
            Self::Gemm | Self::Conv2d | Self::RotaryAppend | Self::Nearest => 3..=3,
            Self::Attention => 5..=7,
            _ => 2..=2,
        };
        let mut each = shape.iter().enumerate();
        sizes.contains(&shape.len()) && each.all(|(at, &size)| size > 0 || at == 5)
    }

    /// Fails where the machine certainly has no room for a shape: all numbers are made in its memory first.
    fn fits(self, shape: &[usize], only: Option<Format>) -> Result<()> {
        let of = |sizes: &[usize]| sizes.iter().map(|&size| size as f64).product::<f64>();
        let floats = match (self, shape) {
            (Self::Gemm, &[m, n, k]) => {
                let bits = only.map_or(32.0, |format| {
                    format.bytes(1, format.block()).map_or(0, |b| 8 * b) as f64
                        / format.block() as f64
                });
                of(&[m, k]) + of(&[m, n]) + of(&[n, k]) * bits / 32.0
            }
            (Self::Conv2d, &[size, c_in, c_out]) => {
                of(&[size, size, c_in]) + of(&[size, size, c_out]) + of(&[9, c_in, c_out])
            }
            (Self::Attention, &[sequences, queries, keys, heads, d, ref more @ ..]) => {
                let kv_heads = more.get(1).copied().unwrap_or(heads);
                let shared = more
                    .first()
                    .map_or(0.0, |&prefix| of(&[prefix, kv_heads, d]));
                let rows = of(&[sequences, keys, kv_heads, d]) + shared;
                2.0 * (of(&[sequences, queries, heads, d]) + rows)
            }
            (Self::Nearest, &[n, width, entries]) => of(&[n, width]) + of(&[entries, width]),
            (Self::RotaryAppend | Self::Sample | Self::MaskedStep, _) => 3.0 * of(shape),
            _ => 2.0 * of(shape),
        };
        // What is too large for an integer becomes its largest.
        let bytes = (4.0 * floats) as usize;
        let what = "numbers of this shape";
        let room = Vec::<u8>::new().try_reserve_exact(bytes);
        room.map_err(|_| Error::OutOfMemory { what, bytes })
    }

    /// The cases of a shape, in every format or (products) one; `cold` MiB of weights are rotated through. None of a shape of
    /// another kind.
    ///
    /// # Errors
    /// What the device says.
    pub fn cases<'a, B: Backend>(
        self,
        device: &'a B,
        cold: usize,
        shape: &[usize],
        only: Option<Format>,
    ) -> Result<Vec<Case<'a>>> {
        if !self.takes(shape) {
            return Ok(Vec::new());
        }
        self.fits(shape, only)?;
        match self {
            Self::Gemm => gemm(device, cold, shape, only),
            Self::Conv2d => conv2d(device, cold, shape),
            Self::Attention => attention(device, shape),
            Self::RmsNorm => rms_norm(device, shape),
            Self::LayerNorm => rows::layer_norm(device, shape),
            Self::Gate => rows::gate(device, shape),
            Self::RotaryAppend => rows::rotary_append(device, shape),
            Self::GroupNorm => group_norm(device, shape),
            Self::Sample => codes::sample(device, shape),
            Self::MaskedStep => codes::masked_step(device, shape),
            Self::Nearest => codes::nearest(device, shape),
        }
    }

    /// Its name on a command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7).sin()).collect()
}

fn buffer<B: Backend, T: Element>(device: &B, data: &[T]) -> Result<B::Buffer<T>> {
    let mut buffer = device.zeros(data.len())?;
    device.write(&mut buffer, 0, data)?;
    Ok(buffer)
}

/// Copies of one matrix that no cache holds together. Its rows are the first few again and again: rounding them is slow.
fn cold<B: Backend>(
    device: &B,
    cold: usize,
    format: Format,
    [n, k]: [usize; 2],
) -> Result<Rc<[B::Matrix]>> {
    const ROWS: usize = 32;
    let data = numbers(ROWS.min(n) * k);
    let mut some = vec![0; format.bytes(ROWS.min(n), k)?];
    format.quantise(&data, &mut some);
    let len = format.bytes(n, k)?;
    let bytes: Vec<u8> = some.iter().copied().cycle().take(len).collect();
    let copies = (cold << 20).div_ceil(len).clamp(1, 256);
    let floats: Vec<f32> = match format {
        Format::F32 => data.iter().copied().cycle().take(n * k).collect(),
        _ => Vec::new(),
    };
    (0..copies)
        .map(|_| match format {
            Format::F32 => device.pack(&QuantMatrix::f32(n, k, &floats)?),
            _ => device.pack(&QuantMatrix::from_bytes(format, n, k, &bytes)?),
        })
        .collect()
}

/// Rows of a few activations are bound by reading weights, more of them by arithmetic.
fn gemm<'a, B: Backend>(
    device: &'a B,
    total: usize,
    shape: &[usize],
    only: Option<Format>,
) -> Result<Vec<Case<'a>>> {
    let &[m, n, k] = shape else {
        return Ok(Vec::new());
    };
    let mut cases: Vec<Case<'a>> = Vec::new();
    let formats = Format::ALL.iter().copied();
    for format in formats.filter(|f| f.fitting(k) == *f && only.is_none_or(|only| only == *f)) {
        let weights = cold(device, total, format, [n, k])?;
        for activations in [Activations::F32, Activations::A8, Activations::Bf16] {
            let fits = match activations {
                Activations::A8 => format.block() > 1,
                // For many rows, and no floats.
                Activations::Bf16 => m > 8 && format != Format::F32,
                _ => true,
            };
            if !fits {
                continue;
            }
            let weights = Rc::clone(&weights);
            let (x, mut y) = (buffer(device, &numbers(m * k))?, device.zeros(m * n)?);
            let s = GemmShape {
                activations,
                ..GemmShape::new(m, n, k)
            };
            let (roof, amount) = match (m, activations) {
                (..8, _) => (Roof::Read, format.bytes(n, k)? as f64),
                (_, Activations::A8) => (Roof::Integers, 2.0 * (m * n * k) as f64),
                _ => (Roof::Floats, 2.0 * (m * n * k) as f64),
            };
            let name = format!("{}/{}/m{m}_n{n}_k{k}", format.name(), activations.name());
            let call =
                move |i: usize| device.gemm(s, &x, &weights[i % weights.len()], None, &mut y);
            cases.push((name.to_lowercase(), roof, amount, Box::new(call)));
        }
    }
    Ok(cases)
}

fn conv2d<'a, B: Backend>(device: &'a B, total: usize, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[size, c_in, c_out] = shape else {
        return Ok(Vec::new());
    };
    let mut cases: Vec<Case<'a>> = Vec::new();
    for (format, activations) in [
        (Format::F32, Activations::F32),
        (Format::Q8_0, Activations::F32),
        (Format::Q8_0, Activations::A8),
    ] {
        let s = ConvShape {
            activations,
            ..ConvShape::same(1, [size; 2], c_in, c_out, 3)
        };
        let w = cold(device, total, format, [c_out, s.k()])?;
        let (x, bias) = (
            buffer(device, &numbers(size * size * c_in))?,
            device.zeros(c_out)?,
        );
        let mut y = device.zeros(size * size * c_out)?;
        let roof = match activations {
            Activations::A8 => Roof::Integers,
            _ => Roof::Floats,
        };
        let amount = 2.0 * (size * size * c_out * s.k()) as f64;
        let name = format!(
            "{}/{}/{size}x{size}_in{c_in}_out{c_out}",
            format.name(),
            activations.name()
        );
        let call = move |i: usize| device.conv2d(s, &x, &w[i % w.len()], &bias, &mut y);
        cases.push((name.to_lowercase(), roof, amount, Box::new(call)));
    }
    Ok(cases)
}

/// Attention of sequences to a prefix that they share and to keys of their own. A seventh number of a shape is that of
/// the keys' heads, of queries that see no later keys.
fn attention<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[sequences, queries, keys, heads, d, ref more @ ..] = shape else {
        return Ok(Vec::new());
    };
    let (prefix, kv_heads, causal) = match *more {
        [] => (0, heads, false),
        [prefix] => (prefix, heads, false),
        [prefix, kv_heads] => (prefix, kv_heads, true),
        _ => return Ok(Vec::new()),
    };
    let (width, rows) = (heads * d, prefix + sequences * keys);
    let spans: Vec<u32> = (0..sequences)
        .flat_map(|i| [0, prefix, prefix + i * keys, keys])
        .map(|word| word as u32)
        .collect();
    let places: Vec<u32> = (0..rows as u32).collect();
    let fresh = numbers(rows * d);
    let mut cases: Vec<Case<'a>> = Vec::new();
    for format in [KvFormat::F32, KvFormat::Bf16, KvFormat::Q8] {
        let words = format.words(d);
        let s = AttentionShape {
            sequences,
            queries,
            n_heads: heads,
            n_kv_heads: kv_heads,
            head_dim: d,
            q_stride: width,
            q_offset: 0,
            kv_rows: rows,
            kv_stride: words,
            kv_head_stride: rows * words,
            k_offset: 0,
            v_offset: 0,
            causal,
            repeated_prefix: false,
            pages: 0,
        };
        let (roof, amount) = if queries == 1 {
            (Roof::Read, 8.0 * (rows * kv_heads * words) as f64)
        } else {
            (Roof::Floats, 2.0 * s.multiply_adds(&spans) as f64)
        };
        let mut name = format!(
            "{}/s{sequences}_q{queries}_k{keys}_h{heads}x{d}",
            format.name()
        );
        if prefix > 0 {
            name.push_str(&format!("_p{prefix}"));
        }
        if causal {
            name.push_str(&format!("_kv{kv_heads}_causal"));
        }
        let q = buffer(device, &numbers(sequences * queries * width))?;
        let spans = buffer(device, &spans)?;
        let mut out = device.zeros(sequences * queries * width)?;
        let append = AppendShape {
            rows,
            heads: 1,
            head_dim: d,
            stride: d,
            offset: 0,
            cache_rows: rows,
        };
        let call: Box<dyn FnMut(usize) -> Result<()> + 'a> = if format != KvFormat::F32 {
            let mut head = device.zeros(rows * words)?;
            let (fresh, places) = (buffer(device, &fresh)?, buffer(device, &places)?);
            match format {
                KvFormat::Bf16 => device.append_bf16(append, &fresh, &places, &mut head)?,
                _ => device.append_q8(append, &fresh, &places, &mut head)?,
            }
            let (mut k, mut v) = (
                device.zeros(rows * kv_heads * words)?,
                device.zeros(rows * kv_heads * words)?,
            );
            for h in 0..kv_heads {
                device.copy(&head, 0, &mut k, h * rows * words, rows * words)?;
                device.copy(&head, 0, &mut v, h * rows * words, rows * words)?;
            }
            Box::new(move |_| match format {
                KvFormat::Bf16 => device.attention_bf16(s, &q, &k, &v, &spans, &mut out),
                _ => device.attention_q8(s, &q, &k, &v, &spans, &mut out),
            })
        } else {
            let (k, v) = (
                buffer(device, &numbers(rows * kv_heads * d))?,
                buffer(device, &numbers(rows * kv_heads * d))?,
            );
            Box::new(move |_| device.attention(s, &q, &k, &v, &spans, &mut out))
        };
        cases.push((name.to_lowercase(), roof, amount, call));
    }
    Ok(cases)
}

fn rms_norm<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[rows, width] = shape else {
        return Ok(Vec::new());
    };
    let s = NormShape {
        rows,
        width,
        eps: 1e-6,
    };
    let (x, w) = (
        buffer(device, &numbers(rows * width))?,
        buffer(device, &numbers(width))?,
    );
    let mut y = device.zeros(rows * width)?;
    let amount = 8.0 * (rows * width) as f64;
    let call = move |_| device.rms_norm(s, &x, &w, &mut y);
    Ok(vec![(
        format!("f32/r{rows}_w{width}"),
        Roof::Read,
        amount,
        Box::new(call),
    )])
}

fn group_norm<'a, B: Backend>(device: &'a B, shape: &[usize]) -> Result<Vec<Case<'a>>> {
    let &[pixels, channels] = shape else {
        return Ok(Vec::new());
    };
    let s = GroupNormShape {
        images: 1,
        pixels,
        channels,
        groups: 32,
        eps: 1e-6,
        swish: true,
    };
    let x = buffer(device, &numbers(pixels * channels))?;
    let (w, b) = (
        buffer(device, &numbers(channels))?,
        buffer(device, &numbers(channels))?,
    );
    let mut y = device.zeros(pixels * channels)?;
    let amount = 8.0 * (pixels * channels) as f64;
    let call = move |_| device.group_norm(s, &x, &w, &b, &mut y);
    Ok(vec![(
        format!("f32/p{pixels}_c{channels}"),
        Roof::Read,
        amount,
        Box::new(call),
    )])
}
