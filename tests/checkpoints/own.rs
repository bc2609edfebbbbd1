//! The crate's own checkpoint, and folders: the same model whichever way it comes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::{MappedFile, MappedWeights, ModelFolder};
use maquette::model::files::maquette::{MaquetteSource, is_matrix, write};
use maquette::model::files::safetensors::{Entry, SafetensorsSource, header};
use maquette::model::llava::{Llava, LlavaConfig};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig};
use maquette::model::weights::{DType, Loader, WeightSource};
use maquette::ops::{Backend, Reference, gemm::GemmShape};
use maquette::quant::Format;
use maquette::{Error, Result};

use crate::{names, refused};

fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/demo/weights")
        .join(name)
}

fn written(source: &dyn WeightSource, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    write(source, format, &[("model", "test")], &mut |bytes| {
        out.extend(bytes);
        Ok(())
    })
    .unwrap();
    out
}

fn opened(bytes: &[u8]) -> Result<MaquetteSource<'_>> {
    MaquetteSource::new(SafetensorsSource::new(bytes)?)
}

/// The product of a matrix with a vector, as bits: equal matrices give equal bits.
fn product(source: &dyn WeightSource, format: Format, name: &str, shape: &[usize]) -> Vec<u32> {
    let same = |name: &str| name.to_owned();
    let loader = Loader::new(&Reference, source, format, &same);
    let matrix = loader.matrix(&[(name, shape[0])], shape[1]).unwrap();
    let s = GemmShape::new(1, shape[0], shape[1]);
    let x: Vec<f32> = (0_u16..)
        .map(|i| f32::from(i % 31) - 15.0)
        .take(s.k)
        .collect();
    let (x, mut y) = (loader.upload(&x).unwrap(), Reference.zeros(s.n).unwrap());
    Reference.gemm(s, &x, &matrix, None, &mut y).unwrap();
    y.as_slice().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_written_checkpoint_holds_the_matrices_that_a_model_would_make() {
    let bytes = fs::read(bundled("judge/model.safetensors")).unwrap();
    let source = SafetensorsSource::new(&bytes).unwrap();
    for &format in Format::ALL {
        let file = written(&source, format);
        let back = opened(&file).unwrap();
        assert_eq!(
            (back.format(), back.metadata("model")),
            (format, Some("test"))
        );
        assert_eq!(names(&back), names(&source));
        let mut matrices = 0;
        for name in names(&source) {
            let (was, is) = (source.tensor(&name).unwrap(), back.tensor(&name).unwrap());
            assert_eq!(was.shape, is.shape, "{format:?} {name}");
            if is_matrix(&name, &was.shape) && was.shape[1] % format.block().max(32) == 0 {
                matrices += 1;
                assert_eq!(
                    product(&source, format, &name, &was.shape),
                    product(&back, format, &name, &was.shape),
                    "{format:?} {name}"
                );
                let size = format.bytes(was.shape[0], was.shape[1]).unwrap();
                assert_eq!(is.bytes.len(), size, "{format:?} {name}");
            } else if !is_matrix(&name, &was.shape) {
                assert_eq!(was, is, "{format:?} {name}");
            }
        }
        // Its widths are 96, 128, 336 and 384: none is whole blocks of 256.
        let some = if format == Format::Q4K { 0..1 } else { 21..99 };
        assert!(some.contains(&matrices), "{format:?}: {matrices}");
        // Blocks may be taken out again in another format.
        let floats = Loader::new(&Reference, &back, Format::F32, &|n: &str| n.to_owned())
            .floats("model.mm_projector.2.weight", &[128, 128]);
        assert_eq!(floats.unwrap().len(), 128 * 128);
    }
}

#[test]
fn every_bundled_model_loads_from_what_is_written() {
    let cpu = Arc::new(Cpu::with_threads(1).unwrap());
    let json = |name: &str| JsonConfig::parse(&fs::read_to_string(bundled(name)).unwrap()).unwrap();
    for &format in Format::ALL {
        for (name, config) in [
            (
                "show-o/pytorch_model.safetensors",
                json("show-o/config.json"),
            ),
            (
                "magvitv2/pytorch_model.safetensors",
                json("magvitv2/config.json"),
            ),
            ("judge/model.safetensors", json("judge/config.json")),
        ] {
            let bytes = fs::read(bundled(name)).unwrap();
            let file = written(&SafetensorsSource::new(&bytes).unwrap(), format);
            let (source, cpu) = (opened(&file).unwrap(), Arc::clone(&cpu));
            match ModelType::of(&config).unwrap() {
                ModelType::ShowO => {
                    let config = ShowOConfig::from_json(&config).unwrap();
                    drop(ShowO::load(cpu, config, &source, format).unwrap());
                }
                ModelType::Magvit => {
                    let config = MagvitConfig::from_json(&config).unwrap();
                    drop(Magvit::load(cpu, config, &source, format).unwrap());
                }
                ModelType::Llava => {
                    let config = LlavaConfig::from_json(&config).unwrap();
                    drop(Llava::load(cpu, config, &source, format).unwrap());
                }
                other => panic!("{name} is taken for {other:?}"),
            }
        }
    }
}

#[test]
fn a_checkpoint_that_lies_is_refused() {
    let entry = |dtype, size, shape: &[usize]| Entry {
        name: "w.weight".into(),
        dtype,
        size,
        shape: shape.into(),
    };
    let texts = |weights| {
        [
            ("format", "maquette"),
            ("version", "1"),
            ("weights", weights),
        ]
    };
    let file = |entry: Entry, texts: &[(&str, &str)]| {
        let mut out = header(std::slice::from_ref(&entry), texts).unwrap();
        out.resize(out.len() + entry.bytes().unwrap(), 0);
        out
    };
    let blocks = || entry("U8", 1, &[2, 36]);
    let good = file(blocks(), &texts("Q4_0"));
    let tensor = opened(&good).unwrap().tensor("w.weight").unwrap().shape;
    assert_eq!(tensor, [2, 64]);
    let mut newer = texts("Q4_0");
    newer[1].1 = "2";
    for (name, bytes, what) in [
        ("plain", file(blocks(), &[]), "no checkpoint of this crate"),
        ("newer", file(blocks(), &newer), "version other than 1"),
        (
            "format",
            file(blocks(), &texts("Q3_K")),
            "no format that is known",
        ),
        (
            "other blocks",
            file(blocks(), &texts("Q8_0")),
            "no rows of blocks",
        ),
        (
            "no blocks",
            file(blocks(), &texts("F32")),
            "no rows of blocks",
        ),
        (
            "one size",
            file(entry("U8", 1, &[36]), &texts("Q4_0")),
            "no rows of blocks",
        ),
        (
            "three sizes",
            file(entry("U8", 1, &[1, 36, 1]), &texts("Q4_0")),
            "no rows of blocks",
        ),
        (
            "no width",
            file(entry("U8", 1, &[2, 0]), &texts("Q4_0")),
            "no rows of blocks",
        ),
    ] {
        refused(name, what, || opened(&bytes).map(drop));
    }
    // A scale that is no number is found when the matrix is made.
    let mut infinite = good;
    let at = infinite.len() - 18;
    infinite[at..at + 2].copy_from_slice(&0x7c00_u16.to_le_bytes());
    let source = opened(&infinite).unwrap();
    for format in [Format::Q4_0, Format::Q8_0] {
        let same = |name: &str| name.to_owned();
        let loader = Loader::new(&Reference, &source, format, &same);
        let got = loader.matrix(&[("w.weight", 2)], 64);
        assert!(
            matches!(got, Err(Error::TensorNumber { element: 96.., .. })),
            "{got:?}"
        );
    }
}

/// A folder of one test.
fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The bundled generator in two shards.
fn sharded(folder: &Path) {
    let bytes = fs::read(bundled("show-o/pytorch_model.safetensors")).unwrap();
    let source = SafetensorsSource::new(&bytes).unwrap();
    let all = names(&source);
    let mut map = serde_json::Map::new();
    for (i, names) in all.chunks(all.len().div_ceil(2)).enumerate() {
        let file = format!("model-{i}.safetensors");
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for name in names {
            let tensor = source.tensor(name).unwrap();
            assert_eq!(tensor.dtype, DType::F16);
            entries.push(Entry {
                name: name.clone(),
                dtype: "F16",
                size: 2,
                shape: tensor.shape,
            });
            data.extend(tensor.bytes);
            map.insert(name.clone(), file.clone().into());
        }
        let head = header(&entries, &[]).unwrap();
        fs::write(folder.join(file), [head, data].concat()).unwrap();
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    fs::copy(bundled("show-o/config.json"), folder.join("config.json")).unwrap();
}

fn load(folder: &ModelFolder) -> Result<()> {
    let cpu = Arc::new(Cpu::with_threads(1)?);
    let config = ShowOConfig::from_json(&folder.config)?;
    folder
        .weights
        .read(|source| ShowO::load(cpu, config, source, Format::Q8_0).map(drop))
}

#[test]
fn a_sharded_folder_is_read_and_its_gaps_are_named() {
    let folder = fresh("sharded");
    sharded(&folder);
    let model = ModelFolder::open(&folder).unwrap();
    assert_eq!(model.model, ModelType::ShowO);
    load(&model).unwrap();
    drop(model);

    let chain = |error: Error| {
        let mut text = error.to_string();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    };
    let refuse = |what: &str| {
        let text = chain(
            ModelFolder::open(&folder)
                .and_then(|m| load(&m))
                .unwrap_err(),
        );
        assert!(text.contains(what), "{text}");
    };
    let shard = folder.join("model-1.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    refuse("model-1.safetensors\" cannot be read: safetensors: ");
    fs::write(&shard, b"").unwrap();
    refuse("model-1.safetensors\" cannot be read");
    fs::remove_file(&shard).unwrap();
    refuse("model-1.safetensors\" cannot be read");
    fs::write(folder.join("model.safetensors.index.json"), "{}").unwrap();
    refuse("index.json\" cannot be read: index: has no weight_map");
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    fs::remove_file(folder.join("model-0.safetensors")).unwrap();
    refuse("holds no weights");
    fs::write(folder.join("config.json"), "{}").unwrap();
    refuse("config: \"model_type\" is of no model that is known");
    fs::remove_file(folder.join("config.json")).unwrap();
    refuse("config.json\" cannot be read");
}

#[test]
fn a_file_of_any_format_is_mapped_by_its_name() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints/data");
    for (file, count) in [
        ("flat.bin", 4),
        ("model.pt", 2),
        ("views.pth", 7),
        ("blocks.gguf", 6),
    ] {
        let weights = MappedWeights::file(data.join(file)).unwrap();
        weights
            .read(|source| {
                assert_eq!(names(source).len(), count, "{file}");
                Ok(())
            })
            .unwrap();
    }
    assert!(MappedWeights::file(data.join("none.bin")).is_err());
    let readme = MappedWeights::file(data.join("README.md")).unwrap();
    assert!(readme.read(|_| Ok(())).is_err());
}

#[test]
fn released_pages_come_back_with_the_same_bytes() {
    let path = bundled("show-o/pytorch_model.safetensors");
    let (file, want) = (MappedFile::open(&path).unwrap(), fs::read(&path).unwrap());
    for (from, to) in [(0, want.len()), (5000, 5001), (1, 20_000), (70_000, 70_000)] {
        file.release(&file.bytes()[from..to]);
        assert!(file.bytes() == want);
    }
    file.release(&want);
    file.release(&[]);
    assert!(file.bytes() == want);
}
