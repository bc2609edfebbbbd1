//! Random checkpoints: published counts, the same bytes for a seed, and models that load them.

mod drift;
mod measured;
#[path = "../programs/mod.rs"]
mod programs;
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maquette::Result;
use maquette::cpu::Cpu;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::janus::{Janus as Drawer, JanusConfig};
use maquette::model::llamagen::{LlamaGen as Raster, LlamaGenConfig};
use maquette::model::llava::{Llava as Judge, LlavaConfig};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO as Generator, ShowOConfig};
use maquette::model::t5::{T5 as Encoder, T5Config};
use maquette::model::vq::{Vq, VqConfig};
use maquette::quant::Format;
use support::layouts::{self, Layout};
use support::random_file;

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
}

/// Elements of the tensors whose names begin so.
fn part(layout: &Layout, begin: &str) -> usize {
    let own = layout.tensors.iter().filter(|t| t.name.starts_with(begin));
    own.map(|t| t.shape.iter().product::<usize>()).sum()
}

#[test]
fn llamagen_has_the_published_counts() {
    for (name, count) in [
        ("llamagen-t2i-xl-256", 777_923_840),
        ("llamagen-t2i-xl-512", 777_923_840),
        ("llamagen-c2i-b-256", 110_888_448),
        ("llamagen-c2i-l-384", 342_910_976),
        ("llamagen-c2i-xl-384", 774_699_520),
        ("llamagen-c2i-xxl-384", 1_410_972_672),
        ("llamagen-c2i-3b-384", 3_096_659_200),
    ] {
        assert_eq!(elements(&published(name)), count, "{name}");
    }
    for (name, tensors, count) in [
        ("llamagen-vq-16", 344, 71_883_403),
        ("llamagen-vq-8", 300, 70_109_835),
    ] {
        let layout = published(name);
        assert_eq!(layout.tensors.len(), tensors, "{name}");
        // The count of training is no parameter.
        assert_eq!(elements(&layout) - 65_536, count, "{name}");
    }
    let decoder = part(&published("llamagen-vq-16"), "decoder.");
    assert_eq!(decoder, 42_449_795);
    // Blocks of 2048 · 2048 · 4 and 2048 · 5120 · 3 and two norms; embeddings, kinds of distance, the last norm.
    let block = 4 * 2048 * 2048 + 3 * 2048 * 5120 + 2 * 2048;
    assert_eq!(
        elements(&published("flan-t5-xl")),
        24 * block + 32_128 * 2048 + 32 * 32 + 2048
    );
}

#[test]
fn janus_has_the_published_counts() {
    for (name, all, language) in [
        ("janus-1.3b", 2_089_297_547, 1_652_656_128),
        ("janus-pro-1b", 2_089_297_547, 1_652_656_128),
        ("janus-pro-7b", 7_420_434_059, 6_910_365_696),
    ] {
        let layout = published(name);
        assert_eq!(elements(&layout), all, "{name}");
        assert_eq!(part(&layout, "language_model."), language, "{name}");
        assert_eq!(part(&layout, "vision_model."), 316_283_904, "{name}");
        let pool = part(&layout, "vision_model.vision_tower.attn_pool.");
        assert_eq!(pool, 12_595_200, "{name}");
        assert_eq!(part(&layout, "gen_vision_model."), 71_948_939, "{name}");
    }
    for (name, original) in [
        ("janus-pro-1b-hf", "janus-pro-1b"),
        ("janus-pro-7b-hf", "janus-pro-7b"),
    ] {
        // What nobody reads is dropped, and nothing else.
        let dropped = 12_595_200 + 65_536;
        assert_eq!(
            elements(&published(name)),
            elements(&published(original)) - dropped,
            "{name}"
        );
    }
}

#[test]
fn llava_has_the_published_counts() {
    let judge = published("llava-onevision-7b");
    let language = part(&judge, "model.layers.") + part(&judge, "model.norm");
    assert_eq!(language, 6_525_621_760);
    assert_eq!(
        part(&judge, "lm_head") + part(&judge, "model.embed_tokens"),
        2 * 152_064 * 3584
    );
    let projector = 3584 * (1152 + 1 + 3584 + 1);
    assert_eq!(part(&judge, "model.mm_projector"), projector);
    let port = published("llava-onevision-7b-hf");
    assert_eq!(
        elements(&port) - elements(&judge),
        2 * (152_128 - 152_064) * 3584
    );
    assert_eq!(part(&port, "language_model.model.layers."), {
        language - part(&judge, "model.norm")
    });
    // The port of the small one has a head of its own.
    let (small, port) = ("llava-onevision-0.5b", "llava-onevision-0.5b-hf");
    assert_eq!(part(&published(small), "lm_head"), 0);
    assert_eq!(
        part(&published(port), "language_model.lm_head"),
        152_000 * 896
    );
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
            // The original form says nothing of the tower.
            config.vision.layers = 1;
            weights.read(|source| Judge::load(cpu, config, source, format).map(drop))
        }
        ModelType::LlamaGen => {
            let config = LlamaGenConfig::from_json(config)?;
            weights.read(|source| Raster::load(cpu, config, source, format).map(drop))
        }
        ModelType::LlamaGenVq => {
            let config = VqConfig::from_json(config)?;
            weights.read(|source| Vq::load(cpu, config, source, format).map(drop))
        }
        ModelType::T5 => {
            let config = T5Config::from_json(config)?;
            weights.read(|source| Encoder::load(cpu, config, source, format).map(drop))
        }
        ModelType::Janus => {
            let config = JanusConfig::from_json(config)?;
            weights.read(|source| Drawer::load(cpu, config, source, format).map(drop))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_models_in_published_layouts_load() {
    for (name, layout) in tiny::all() {
        for format in [None]
            .into_iter()
            .chain([Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q4G128].map(Some))
        {
            let folder = fresh(&format!("synthetic-{name}-{format:?}"));
            random_file::write(&layout, format, 7, &folder).unwrap();
            load(&folder, format.unwrap_or_default())
                .unwrap_or_else(|e| panic!("{name} {format:?}: {e}"));
        }
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_shards_the_same_tensors() {
    let (_, mut layout) = tiny::all().into_iter().next().unwrap();
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
