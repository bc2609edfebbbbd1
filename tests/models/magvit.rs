//! The bundled tokenizer: batches, devices, threads, and what it refuses.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::weights::{Tensor, WeightSource};
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::{Error, Result};

fn bundled<T>(read: impl FnOnce(MagvitConfig, &SafetensorsSource<'_>) -> T) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/magvitv2");
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    let config = MagvitConfig::from_json(&JsonConfig::parse(&text).unwrap()).unwrap();
    let bytes = fs::read(folder.join("pytorch_model.safetensors")).unwrap();
    read(config, &SafetensorsSource::new(&bytes).unwrap())
}

fn load<B: Backend>(device: B, format: Format) -> Magvit<B> {
    bundled(|config, source| Magvit::load(Arc::new(device), config, source, format)).unwrap()
}

/// `n` pictures of a red disc on a bright page, as the tokenizer was trained on, in [-1, 1].
fn pictures(n: usize, [height, width]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::new();
    for image in 0..n {
        for (r, c) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
            let (dr, dc) = (r.abs_diff(20 + 5 * image), c.abs_diff(30));
            let inside = dr * dr + dc * dc < 200;
            out.extend(
                if inside {
                    [220_u8, 40, 40]
                } else {
                    [246, 246, 242]
                }
                .map(|b| f32::from(b) / 127.5 - 1.0),
            );
        }
    }
    out
}

fn codes<B: Backend>(model: &Magvit<B>, n: usize, turn: usize) -> Vec<u32> {
    let side = model.config().image_size;
    let grid = model.config().grid();
    let mut codes = vec![0; n * grid * grid];
    let mut scratch = model.scratch(turn).unwrap();
    model
        .encode(
            &mut scratch,
            n,
            [side, side],
            &pictures(n, [side, side]),
            &mut codes,
        )
        .unwrap();
    codes
}

fn bits<B: Backend>(model: &Magvit<B>, codes: &[u32], turn: usize) -> Vec<u32> {
    let (side, grid) = (model.config().image_size, model.config().grid());
    let n = codes.len() / (grid * grid);
    let mut out = vec![0.0; n * side * side * 3];
    model
        .decode_f32(
            &mut model.scratch(turn).unwrap(),
            n,
            [grid, grid],
            codes,
            &mut out,
        )
        .unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_batch_gives_the_bits_of_one_at_a_time() {
    let model = load(Cpu::new(), Format::F32);
    let all = codes(&model, 3, 3);
    assert_eq!(all, codes(&model, 3, 1));
    assert_eq!(all, codes(&model, 3, 2));
    let together = bits(&model, &all, 3);
    let grid = model.config().grid();
    let alone: Vec<_> = all
        .chunks(grid * grid)
        .flat_map(|one| bits(&model, one, 1))
        .collect();
    assert_eq!(together, alone);
    assert_eq!(together, bits(&model, &all, 2));
}

#[test]
fn every_device_gives_the_same_bits() {
    for format in [Format::F32, Format::Q8_0] {
        let reference = load(Reference, format);
        let want = codes(&reference, 1, 1);
        let pixels = bits(&reference, &want, 1);
        for threads in [1, 2] {
            let cpu = load(Cpu::with_threads(threads).unwrap(), format);
            assert_eq!(codes(&cpu, 1, 1), want);
            assert_eq!(bits(&cpu, &want, 1), pixels);
        }
    }
}

#[test]
fn a_picture_survives_its_codes() {
    let model = load(Cpu::new(), Format::F32);
    let side = model.config().image_size;
    let got = bits(&model, &codes(&model, 1, 1), 1);
    let want = pictures(1, [side, side]);
    let off: f32 = got
        .iter()
        .zip(&want)
        .map(|(&g, w)| (f32::from_bits(g) - w).abs())
        .sum::<f32>()
        / want.len() as f32;
    assert!(off < 0.1, "mean deviation {off}");
}

#[test]
fn threads_share_one_model() {
    let model = load(Cpu::with_threads(1).unwrap(), Format::F32);
    let all = codes(&model, 2, 2);
    let grid = model.config().grid();
    let want = bits(&model, &all, 2);
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(grid * grid)
            .map(|one| scope.spawn(|| bits(&model, one, 1)))
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    assert_eq!(got, want);
}

#[test]
fn a_grid_need_not_be_square() {
    let model = load(Cpu::new(), Format::F32);
    let scale = model.config().scale();
    let size = [2 * scale, 5 * scale];
    let mut scratch = model.scratch_for(10).unwrap();
    let mut codes = vec![0; 20];
    model
        .encode(&mut scratch, 2, size, &pictures(2, size), &mut codes)
        .unwrap();
    let mut bytes = vec![0; 2 * size[0] * size[1] * 3];
    model
        .decode(&mut scratch, 2, [2, 5], &codes, &mut bytes)
        .unwrap();
    assert!(bytes.iter().any(|&b| b > 0));
    // Unknown codes are zeros in the latent: still a picture.
    codes.fill(maquette::codes::UNKNOWN);
    model
        .decode(&mut scratch, 2, [2, 5], &codes, &mut bytes)
        .unwrap();
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let model = load(Cpu::new(), Format::F32);
    let (side, grid) = (model.config().image_size, model.config().grid());
    assert!(model.scratch(0).is_err() && model.scratch(usize::MAX).is_err());
    let mut scratch = model.scratch(1).unwrap();
    let (mut bytes, codes) = (vec![0; side * side * 3], vec![0; grid * grid]);
    let mut decode =
        |n, grid, codes: &[u32]| model.decode(&mut scratch, n, grid, codes, &mut bytes);
    assert!(decode(1, [grid, grid], &codes).is_ok());
    assert!(decode(0, [grid, grid], &[]).is_ok());
    assert!(matches!(
        decode(1, [grid, grid], &codes[1..]),
        Err(Error::Length { arg: "codes", .. })
    ));
    assert!(matches!(
        decode(2, [grid, grid], &[0; 512]),
        Err(Error::Length { arg: "out", .. })
    ));
    assert!(matches!(
        decode(1, [grid, grid + 1], &codes),
        Err(Error::Range { arg: "grid", .. })
    ));
    assert!(decode(1, [0, grid], &codes).is_err());
    assert!(decode(usize::MAX, [grid, grid], &codes).is_err());
    assert!(decode(1, [usize::MAX, 2], &codes).is_err());
    let mut out = vec![0; grid * grid];
    assert!(
        model
            .encode(
                &mut scratch,
                1,
                [side, side + 1],
                &vec![0.0; side * (side + 1) * 3],
                &mut out
            )
            .is_err()
    );
    assert!(
        model
            .encode(&mut scratch, 1, [side, side], &[0.0], &mut out)
            .is_err()
    );
}

/// A checkpoint with one tensor more, or without some.
struct Changed<'a> {
    source: &'a SafetensorsSource<'a>,
    without: &'static str,
    extra: Option<&'static str>,
}

impl WeightSource for Changed<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        if name.starts_with(self.without) {
            None
        } else {
            self.source.tensor(name)
        }
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.source.names(&mut |name| {
            if !name.starts_with(self.without) {
                visit(name);
            }
        });
        if let Some(extra) = self.extra {
            visit(extra);
        }
    }
}

fn changed(without: &'static str, extra: Option<&'static str>) -> Result<Magvit<Cpu>> {
    bundled(|config, source| {
        Magvit::load(
            Arc::new(Cpu::new()),
            config,
            &Changed {
                source,
                without,
                extra,
            },
            Format::F32,
        )
    })
}

#[test]
fn a_checkpoint_is_read_to_the_last_tensor() {
    assert!(changed("none", Some("quantize.embedding")).is_ok());
    assert!(matches!(
        changed("none", Some("loss.weight")),
        Err(Error::UnknownTensor { .. })
    ));
    assert!(matches!(
        changed("decoder.mid.attn_1.q.bias", None),
        Err(Error::MissingTensor { .. })
    ));
    let decoder = changed("encoder.", None).unwrap();
    let side = decoder.config().image_size;
    let mut out = vec![0; decoder.config().grid().pow(2)];
    let result = decoder.encode(
        &mut decoder.scratch(1).unwrap(),
        1,
        [side, side],
        &pictures(1, [side, side]),
        &mut out,
    );
    assert!(matches!(result, Err(Error::Unsupported { .. })));
}
