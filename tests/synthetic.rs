//! Random checkpoints: published counts, the same bytes for a seed, and models that load them.

#[path = "../examples/support/layouts.rs"]
mod layouts;
#[path = "../examples/support/random_file.rs"]
mod random_file;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layouts::{Layout, Llava, ShowO, Tower};
use maquette::Result;
use maquette::cpu::Cpu;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::llava::{Llava as Judge, LlavaConfig};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO as Generator, ShowOConfig};
use maquette::quant::Format;

fn published(name: &str) -> Layout {
    let models = layouts::models();
    let (_, layout) = models.iter().find(|(n, _)| *n == name).unwrap();
    layout(usize::MAX)
}

fn elements(layout: &Layout) -> usize {
    let sizes = layout
        .tensors
        .iter()
        .map(|t| t.shape.iter().product::<usize>());
    sizes.sum()
}

#[test]
fn layouts_have_the_published_counts() {
    for name in ["show-o-256", "show-o-512"] {
        let layout = published(name);
        assert_eq!(
            (layout.tensors.len(), elements(&layout)),
            (437, 1_448_176_770)
        );
    }
    let layout = published("magvit-v2");
    // All but the thirteen whole numbers have four bytes an element.
    assert_eq!(
        (layout.tensors.len(), elements(&layout) * 4 + 13 * 4),
        (382, 381_974_104)
    );
    // Language model, embeddings and head, projector, tower, the row between image rows.
    let judge = published("llava-onevision-7b");
    let names = |part: &str| {
        let own = judge.tensors.iter().filter(|t| t.name.starts_with(part));
        own.map(|t| t.shape.iter().product::<usize>())
            .sum::<usize>()
    };
    let language = names("model.layers.") + names("model.norm");
    assert_eq!(language, 6_525_621_760);
    assert_eq!(
        names("lm_head") + names("model.embed_tokens"),
        2 * 152_064 * 3584
    );
    assert_eq!(names("model.mm_projector"), 3584 * (1152 + 1 + 3584 + 1));
}

fn small() -> [(&'static str, Layout); 3] {
    let show_o = ShowO {
        width: 64,
        layers: 2,
        heads: 2,
        mlp: 96,
        llm_vocab: 20,
        codebook: 16,
        codes: 16,
    };
    let judge = Llava {
        width: 64,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        mlp: 96,
        vocab: 9700,
        tied: true,
        tower: Tower {
            width: 1152,
            layers: 1,
            mlp: 4304,
            patch: 14,
            patches: 729,
        },
    };
    [
        ("show-o", layouts::show_o(&show_o, 2)),
        ("magvit", layouts::magvit(8, 4)),
        ("judge", layouts::llava(&judge, 2)),
    ]
}

fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

fn load(folder: &Path, format: Format) -> Result<()> {
    let (model, cpu) = (ModelFolder::open(folder)?, Arc::new(Cpu::with_threads(1)?));
    let (config, weights) = (&model.config, &model.weights);
    match model.model {
        ModelType::ShowO => {
            let config = ShowOConfig::from_json(config)?;
            weights.read(|source| Generator::load(cpu, config, source, format).map(drop))
        }
        ModelType::Magvit => {
            let config = MagvitConfig::from_json(config)?;
            weights.read(|source| Magvit::load(cpu, config, source, format).map(drop))
        }
        ModelType::Llava => {
            let mut config = LlavaConfig::from_json(config)?;
            config.vision.layers = 1;
            weights.read(|source| Judge::load(cpu, config, source, format).map(drop))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_models_in_published_layouts_load() {
    for (name, layout) in small() {
        for format in [None, Some(Format::Q8_0), Some(Format::Q4_0)] {
            let folder = fresh(&format!("synthetic-{name}-{format:?}"));
            random_file::write(&layout, format, 7, &folder).unwrap();
            load(&folder, format.unwrap_or_default())
                .unwrap_or_else(|e| panic!("{name} {format:?}: {e}"));
        }
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_shards_the_same_tensors() {
    let (_, mut layout) = small().into_iter().next().unwrap();
    let files = |layout: &Layout, name: &str, seed| {
        let folder = fresh(name);
        random_file::write(layout, None, seed, &folder).unwrap();
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        let model = ModelFolder::open(&folder).unwrap();
        let head = model.weights.read(|source| {
            Ok(source
                .tensor("showo.lm_head.weight")
                .unwrap()
                .bytes
                .to_vec())
        });
        (
            files.len(),
            files
                .iter()
                .map(|f| fs::read(f).unwrap())
                .collect::<Vec<_>>(),
            head.unwrap(),
        )
    };
    let one = files(&layout, "synthetic-seed-one", 1);
    assert_eq!(one, files(&layout, "synthetic-seed-again", 1));
    assert_ne!(one.2, files(&layout, "synthetic-seed-two", 2).2);
    layout.shard = Some(100_000);
    let shards = files(&layout, "synthetic-seed-shards", 1);
    assert!(shards.0 > 3, "{} files", shards.0);
    assert_eq!(shards.2, one.2);
}
