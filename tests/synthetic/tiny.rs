//! Every layout with tiny dimensions.

use support::layouts::Layout;
use support::layouts::janus::Janus;
use support::layouts::llamagen::{Condition, LlamaGen, T5, VqDims};
use support::layouts::llava::{Llava, Tower};
use support::layouts::show_o::{ShowO, magvit, show_o};

fn vq() -> VqDims {
    VqDims {
        base: 8,
        groups: 4,
        codebook: 96,
        latent: 16,
        pixels: 64,
        ..VqDims::vq_16()
    }
}

fn llamagen(condition: Condition) -> LlamaGen {
    LlamaGen {
        layers: 2,
        heads: 2,
        width: 64,
        mlp: 96,
        codebook: 96,
        side: 4,
        condition,
        ..LlamaGen::text(16)
    }
}

/// Janus with a grid of 4 × 4 codes.
pub fn janus() -> Janus {
    Janus {
        width: 64,
        layers: 2,
        heads: 2,
        mlp: 96,
        vocab: 120,
        tower: Tower {
            width: 64,
            layers: 1,
            mlp: 256,
            patch: 4,
            patches: 16,
        },
        vq: vq(),
        side: 4,
        ..Janus::one()
    }
}

/// Show-o with a grid of 4 × 4 codes.
pub fn generator() -> Layout {
    let dims = ShowO {
        width: 64,
        layers: 2,
        heads: 2,
        mlp: 96,
        llm_vocab: 64,
        codebook: 16,
        codes: 16,
    };
    show_o(&dims, 2)
}

/// A judge whose tower is tiny, too: only the port's form of the configuration can tell its size.
pub fn judge() -> Layout {
    let dims = Llava {
        width: 64,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        mlp: 96,
        vocab: 9700,
        tied: true,
        tower: Tower {
            width: 72,
            layers: 1,
            mlp: 96,
            patch: 14,
            patches: 4,
        },
    };
    dims.transformers(2)
}

/// All families.
pub fn all() -> Vec<(&'static str, Layout)> {
    let full_tower = Llava {
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
    let text = llamagen(Condition::Text([6, 32]));
    let class = llamagen(Condition::Class(10));
    let encoder = T5 {
        width: 32,
        layers: 2,
        heads: 2,
        head: 16,
        mlp: 64,
        vocab: 50,
    };
    let vq_8 = VqDims {
        levels: &[1, 2, 2, 4],
        ..vq()
    };
    vec![
        ("show-o", generator()),
        ("magvit", magvit(8, 4)),
        ("judge", full_tower.original(2)),
        ("judge-hf", judge()),
        ("text", text.layout(2)),
        ("class", class.layout(1)),
        ("encoder", encoder.layout(2)),
        ("vq-16", vq().layout()),
        ("vq-8", vq_8.layout()),
        ("janus", janus().original(2)),
        ("janus-hf", janus().transformers(1)),
    ]
}
