//! Random checkpoints, written a piece at a time.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use maquette::model::files::maquette::is_matrix;
use maquette::model::files::safetensors::{Entry, header};
use maquette::quant::Format;
use serde_json::json;

use crate::layouts::{Fill, Layout, Spec};

/// What can go wrong.
pub type Res<T> = Result<T, Box<dyn std::error::Error>>;

/// Elements that are made at a time: whole blocks of every kind.
const PORTION: usize = 1 << 16;

/// Numbers of a tensor: its own function of seed and name, so that neither order nor company matters.
struct Numbers {
    state: u64,
}

impl Numbers {
    fn new(seed: u64, name: &str) -> Self {
        let mut numbers = Self { state: seed };
        for byte in name.bytes() {
            numbers.state = numbers.word() ^ u64::from(byte);
        }
        numbers
    }

    /// Steele et al., "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Even in [middle − spread, middle + spread).
    fn even(&mut self, middle: f32, spread: f32, out: &mut [f32]) {
        for out in out.chunks_mut(4) {
            let word = self.word().to_le_bytes();
            for (v, bytes) in out.iter_mut().zip(word.as_chunks::<2>().0) {
                let n = f32::from(i16::from_le_bytes(*bytes)) / 32768.0;
                *v = middle + spread * n;
            }
        }
    }

    /// Blocks of even bytes or nibbles whose values have this spread.
    fn blocks(&mut self, format: Format, spread: f32, out: &mut [u8]) {
        let half = if format == Format::Q8_0 { 128.0 } else { 8.0 };
        let scale = spread / half;
        let mut head = Vec::from(half::f16::from_f32(scale).to_le_bytes());
        if format == Format::Q4K {
            // All scales and offsets are 63: what is taken off is eight levels, as in the other formats of 4 bits.
            let scale = half::f16::from_f32(scale / 63.0).to_f32();
            head = [scale, 8.0 * scale]
                .map(|v| half::f16::from_f32(v).to_le_bytes())
                .concat();
            head.resize(16, 0xff);
        }
        for block in out.chunks_exact_mut(format.block_bytes()) {
            let (start, rest) = block.split_at_mut(head.len());
            start.copy_from_slice(&head);
            for out in rest.chunks_mut(8) {
                out.copy_from_slice(&self.word().to_le_bytes()[..out.len()]);
            }
        }
    }
}

/// Half the width of an even spread that keeps the size of a sum over `inputs`, and a little less.
fn spread(inputs: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a rough number will do")]
    let inputs = inputs as f32;
    (1.5 / inputs).sqrt()
}

/// How a tensor stands in the file.
fn entry(spec: &Spec, layout: &Layout, kept: Option<Format>) -> (Entry, Option<Format>) {
    let width = spec.shape.last().copied().unwrap_or(1);
    let format = kept
        .filter(|f| is_matrix(&spec.name, &spec.shape) && width.is_multiple_of(f.block()))
        .filter(|_| matches!(spec.fill, Fill::Weight(_)));
    let mut shape = spec.shape.clone();
    let (dtype, size) = match (format, spec.fill) {
        (_, Fill::Powers) => ("I64", 8),
        (Some(f), _) if f.block() > 1 => {
            shape[1] = width / f.block() * f.block_bytes();
            ("U8", 1)
        }
        (Some(Format::Bf16), _) => ("BF16", 2),
        (Some(_), _) => ("F32", 4),
        (None, _) => (layout.dtype, if layout.dtype == "F32" { 4 } else { 2 }),
    };
    let entry = Entry {
        name: spec.name.clone(),
        dtype,
        size,
        shape,
    };
    (entry, format)
}

fn fill(
    spec: &Spec,
    entry: &Entry,
    format: Option<Format>,
    seed: u64,
    out: &mut impl Write,
) -> Res<()> {
    let mut numbers = Numbers::new(seed, &spec.name);
    let len: usize = spec.shape.iter().product();
    let width = spec.shape.last().copied().unwrap_or(1);
    let mut floats = vec![0.0; PORTION.min(len)];
    let mut bytes = vec![0; PORTION * 8];
    for at in (0..len).step_by(PORTION) {
        let floats = &mut floats[..PORTION.min(len - at)];
        let (n, stored) = (
            floats.len(),
            if entry.dtype == "F32" {
                Format::F32
            } else {
                Format::Bf16
            },
        );
        match (spec.fill, format) {
            (Fill::Weight(inputs), Some(f)) if f.block() > 1 => {
                let bytes = &mut bytes[..n / f.block() * f.block_bytes()];
                numbers.blocks(f, spread(inputs), bytes);
                out.write_all(bytes)?;
                continue;
            }
            (Fill::Powers, _) => {
                for i in 0..n {
                    out.write_all(&(1_i64 << (len - 1 - i)).to_le_bytes())?;
                }
                continue;
            }
            (Fill::Weight(inputs), _) => numbers.even(0.0, spread(inputs), floats),
            (Fill::Gain, _) => numbers.even(1.0, 0.1, floats),
            (Fill::Bias, _) => numbers.even(0.0, 0.02, floats),
            (Fill::Signs, _) => {
                for (i, v) in floats.iter_mut().enumerate() {
                    let (row, bit) = ((at + i) / width, width - 1 - (at + i) % width);
                    *v = if row >> bit & 1 == 1 { 1.0 } else { -1.0 };
                }
            }
        }
        let bytes = &mut bytes[..n * entry.size];
        stored.quantise(floats, bytes);
        out.write_all(bytes)?;
    }
    Ok(())
}

/// Writes a model's folder: as published, or with its matrices in a format of this crate.
pub fn write(layout: &Layout, format: Option<Format>, seed: u64, folder: &Path) -> Res<u64> {
    fs::create_dir_all(folder)?;
    fs::write(
        folder.join("config.json"),
        serde_json::to_string_pretty(&layout.config)?,
    )?;
    let lines: Vec<_> = layout
        .tensors
        .iter()
        .map(|spec| (spec, entry(spec, layout, format)))
        .collect();
    // Whole numbers are no weights: only the published layout has them.
    let lines: Vec<_> = lines
        .into_iter()
        .filter(|(spec, _)| format.is_none() || spec.fill != Fill::Powers)
        .collect();
    let limit = layout
        .shard
        .filter(|_| format.is_none())
        .unwrap_or(usize::MAX);
    let mut shards = vec![Vec::new()];
    let mut room = limit;
    for line in &lines {
        let bytes = line.1.0.bytes()?;
        if bytes > room && room < limit {
            shards.push(Vec::new());
            room = limit;
        }
        room = room.saturating_sub(bytes);
        shards.last_mut().ok_or("no shard")?.push(line);
    }
    let texts: Vec<_> = match format {
        None => vec![("format", "pt")],
        Some(f) => vec![
            ("format", "maquette"),
            ("version", "1"),
            ("weights", f.name()),
        ],
    };
    let (mut total, mut map) = (0, serde_json::Map::new());
    for (i, shard) in shards.iter().enumerate() {
        let name = match (format, shards.len()) {
            (Some(_), _) => "maquette.safetensors".to_owned(),
            (None, 1) => format!("{}.safetensors", layout.file),
            (None, n) => format!("{}-{:05}-of-{n:05}.safetensors", layout.file, i + 1),
        };
        let entries: Vec<_> = shard.iter().map(|(_, (entry, _))| entry.clone()).collect();
        let mut out = BufWriter::with_capacity(1 << 20, File::create(folder.join(&name))?);
        let head = header(&entries, &texts)?;
        total += head.len() as u64;
        out.write_all(&head)?;
        for (spec, (entry, format)) in shard {
            fill(spec, entry, *format, seed, &mut out)?;
            total += entry.bytes()? as u64;
            map.insert(spec.name.clone(), name.clone().into());
        }
        out.flush()?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        let path = folder.join(format!("{}.safetensors.index.json", layout.file));
        fs::write(path, serde_json::to_string_pretty(&index)?)?;
    }
    Ok(total)
}
