//! The bundled detectors, run through the crate's own operations.

use std::error::Error;
use std::fs;
use std::path::Path;

use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::weights::Loader;
use maquette::ops::Backend;
use maquette::ops::conv::ConvShape;
use maquette::ops::norm::Activation;
use maquette::quant::Format;
use serde::Deserialize;

use crate::rules::Detection;
use crate::world::{COLOURS, KINDS, SIDE};

#[derive(Deserialize)]
struct LayerConfig {
    #[serde(rename = "in")]
    c_in: usize,
    out: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    relu: bool,
}

#[derive(Deserialize)]
struct Config {
    layers: Vec<LayerConfig>,
    grid: usize,
    stride: usize,
    channels: Channels,
}

#[derive(Deserialize)]
struct Channels {
    centre: [usize; 2],
    kind: [usize; 2],
    colour: [usize; 2],
    size: [usize; 2],
}

struct Layer<B: Backend> {
    shape: ConvShape,
    relu: bool,
    weight: B::Matrix,
    bias: B::Buffer<f32>,
}

/// A network that finds the world's objects.
pub struct Detector<B: Backend> {
    backend: B,
    config: Config,
    layers: Vec<Layer<B>>,
}

impl<B: Backend> Detector<B> {
    /// Reads `which` detector ("eval" or "label") of a folder.
    pub fn load(backend: B, folder: &Path, which: &str) -> Result<Self, Box<dyn Error>> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
        };
        let mut all: serde_json::Value = serde_json::from_slice(&read("config.json")?)?;
        let config: Config = serde_json::from_value(all[which].take())?;
        let bytes = read(&format!("{which}.safetensors"))?;
        let source = SafetensorsSource::new(&bytes)?;
        let loader = Loader::new(&backend, &source, Format::F32, &|name| name.into());
        let mut layers = Vec::new();
        let mut side = SIDE;
        for (i, c) in config.layers.iter().enumerate() {
            let shape = ConvShape {
                stride: c.stride,
                dilation: c.dilation,
                pad_before: c.padding,
                pad_after: c.padding,
                ..ConvShape::same(1, [side; 2], c.c_in, c.out, c.kernel)
            };
            let stored = loader.floats(
                &format!("layers.{i}.weight"),
                &[c.out, c.c_in, c.kernel, c.kernel],
            )?;
            // Stored as [out, in, row, column]; the operation reads [out, row, column, in].
            let taps = c.kernel * c.kernel;
            let mut weight = Vec::with_capacity(stored.len());
            for out in stored.chunks_exact(c.c_in * taps) {
                weight.extend((0..taps).flat_map(|t| out.iter().skip(t).step_by(taps)));
            }
            let bias = loader.floats(&format!("layers.{i}.bias"), &[c.out])?;
            layers.push(Layer {
                shape,
                relu: c.relu,
                weight: loader.pack_f32(c.out, shape.k(), &weight)?,
                bias: loader.upload(&bias)?,
            });
            side = shape.output()[0];
        }
        loader.finish(&|_| false)?;
        Ok(Self {
            backend,
            config,
            layers,
        })
    }

    /// Multiply-adds of a picture.
    pub fn multiply_adds(&self) -> u64 {
        let each = self.layers.iter().map(|layer| {
            let [rows, cols] = layer.shape.output();
            (rows * cols * layer.shape.c_out * layer.shape.k()) as u64
        });
        each.sum()
    }

    /// What is seen in a 64×64 RGB picture, best first.
    pub fn detect(&self, pixels: &[u8]) -> Result<Vec<Detection<'static>>, Box<dyn Error>> {
        if pixels.len() != SIDE * SIDE * 3 {
            return Err(format!("the detector reads {SIDE}×{SIDE} pictures").into());
        }
        let numbers: Vec<f32> = pixels.iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
        let mut x = self.backend.zeros(numbers.len())?;
        self.backend.write(&mut x, 0, &numbers)?;
        let mut len = numbers.len();
        for layer in &self.layers {
            let [rows, cols] = layer.shape.output();
            len = rows * cols * layer.shape.c_out;
            let mut y = self.backend.zeros(len)?;
            self.backend
                .conv2d(layer.shape, &x, &layer.weight, &layer.bias, &mut y)?;
            if layer.relu {
                self.backend.activate(Activation::Relu, len, &mut y)?;
            }
            x = y;
        }
        let mut out = vec![0.0; len];
        self.backend.read(&x, 0, &mut out)?;
        Ok(self.decode(&out))
    }

    /// Objects where the centre map peaks: `out` is `[grid, grid, channels]`.
    fn decode(&self, out: &[f32]) -> Vec<Detection<'static>> {
        let (grid, ch) = (self.config.grid, &self.config.channels);
        let cells: Vec<&[f32]> = out.chunks_exact(ch.size[1]).collect();
        let centre = |r: usize, c: usize| cells[r * grid + c][ch.centre[0]];
        let mut found = Vec::new();
        for r in 0..grid {
            for c in 0..grid {
                let here = centre(r, c);
                let around = |v: usize| v.saturating_sub(2)..(v + 3).min(grid);
                let peak = around(r).all(|y| around(c).all(|x| centre(y, x) <= here));
                let cell = cells[r * grid + c];
                let (kind, p) = likeliest(&cell[ch.kind[0]..ch.kind[1]]);
                let score = 1.0 / (1.0 + (-here).exp());
                if score > 0.5 && peak && p > 0.5 {
                    let (colour, _) = likeliest(&cell[ch.colour[0]..ch.colour[1]]);
                    let half = (10.0 * cell[ch.size[0]] + 22.0) / 2.0;
                    let at = |v: usize| (v * self.config.stride) as f32 + 2.0;
                    found.push(Detection {
                        class: KINDS[kind],
                        color: COLOURS[colour],
                        bbox: [at(c) - half, at(r) - half, at(c) + half, at(r) + half],
                        score,
                    });
                }
            }
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found
    }
}

/// The largest logit's index, the first of equals, and its softmax.
fn likeliest(logits: &[f32]) -> (usize, f32) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|v| (v - top).exp()).sum();
    (
        logits.iter().position(|v| *v >= top).unwrap_or_default(),
        1.0 / sum,
    )
}
