//! Published models as lists of tensors. A further model is one function in a file of its family and one line in
//! [`models`].

pub mod janus;
pub mod llamagen;
pub mod llava;
pub mod show_o;

use serde_json::Value;

use self::janus::Janus;
use self::llamagen::{LlamaGen, T5, VqDims};
use self::llava::Llava;
use self::show_o::ShowO;

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Even around zero, so wide that a sum over so many inputs keeps its size.
    Weight(usize),
    /// Even around one.
    Gain,
    /// Even and near zero.
    Bias,
    /// Row `i` holds the bits of `i` as ±1, the most significant first.
    Signs,
    /// Powers of two, from the largest down to one, as whole numbers.
    Powers,
}

/// A tensor.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub shape: Vec<usize>,
    pub fill: Fill,
}

/// A model in its published layout.
#[derive(Debug)]
pub struct Layout {
    /// `config.json`.
    pub config: Value,
    /// Name of the file of weights; of several, the part before the number.
    pub file: &'static str,
    /// Element type.
    pub dtype: &'static str,
    /// Largest shard in bytes, if the model is published in several.
    pub shard: Option<usize>,
    pub tensors: Vec<Spec>,
}

/// A published model: its name on the command line, and its layout cut to at most so many layers.
pub type Model = (&'static str, fn(layers: usize) -> Layout);

/// The models that can be written.
pub fn models() -> Vec<Model> {
    vec![
        ("show-o-256", |n| show_o::show_o(&ShowO::published(256), n)),
        ("show-o-512", |n| show_o::show_o(&ShowO::published(1024), n)),
        ("magvit-v2", |_| show_o::magvit(128, 13)),
        ("llamagen-t2i-xl-256", |n| LlamaGen::text(16).layout(n)),
        ("llamagen-t2i-xl-512", |n| LlamaGen::text(32).layout(n)),
        ("llamagen-c2i-b-256", |n| LlamaGen::class("B", 16).layout(n)),
        ("llamagen-c2i-l-256", |n| LlamaGen::class("L", 16).layout(n)),
        ("llamagen-c2i-b-384", |n| LlamaGen::class("B", 24).layout(n)),
        ("llamagen-c2i-l-384", |n| LlamaGen::class("L", 24).layout(n)),
        ("llamagen-c2i-xl-384", |n| {
            LlamaGen::class("XL", 24).layout(n)
        }),
        ("llamagen-c2i-xxl-384", |n| {
            LlamaGen::class("XXL", 24).layout(n)
        }),
        ("llamagen-c2i-3b-384", |n| {
            LlamaGen::class("3B", 24).layout(n)
        }),
        ("llamagen-vq-16", |_| VqDims::vq_16().layout()),
        ("llamagen-vq-8", |_| VqDims::vq_8().layout()),
        ("flan-t5-xl", |n| T5::xl().layout(n)),
        ("janus-1.3b", |n| Janus::plain().original(n)),
        ("janus-pro-1b", |n| Janus::one().original(n)),
        ("janus-pro-7b", |n| Janus::seven().original(n)),
        ("janus-pro-1b-hf", |n| Janus::one().transformers(n)),
        ("janus-pro-7b-hf", |n| Janus::seven().transformers(n)),
        ("llava-onevision-0.5b", |n| Llava::half().original(n)),
        ("llava-onevision-7b", |n| Llava::seven().original(n)),
        ("llava-onevision-0.5b-hf", |n| Llava::half().transformers(n)),
        ("llava-onevision-7b-hf", |n| Llava::seven().transformers(n)),
    ]
}

/// Collects tensors.
#[derive(Default)]
struct List(Vec<Spec>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], fill: Fill) {
        let shape = shape.to_vec();
        self.0.push(Spec { name, shape, fill });
    }

    fn weight(&mut self, name: &str, shape: &[usize]) {
        let inputs = shape[1..].iter().product();
        self.add(format!("{name}.weight"), shape, Fill::Weight(inputs));
    }

    fn linear(&mut self, name: &str, shape: &[usize]) {
        self.weight(name, shape);
        self.add(format!("{name}.bias"), &shape[..1], Fill::Bias);
    }

    /// The weight of a norm without a bias.
    fn gain(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width], Fill::Gain);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width], Fill::Gain);
        self.add(format!("{name}.bias"), &[width], Fill::Bias);
    }

    /// A residual block of an image tokenizer.
    fn residual(&mut self, name: &str, from: usize, to: usize) {
        self.norm(&format!("{name}.norm1"), from);
        self.linear(&format!("{name}.conv1"), &[to, from, 3, 3]);
        self.norm(&format!("{name}.norm2"), to);
        self.linear(&format!("{name}.conv2"), &[to, to, 3, 3]);
        if from != to {
            self.linear(&format!("{name}.nin_shortcut"), &[to, from, 1, 1]);
        }
    }

    /// An attention block of an image tokenizer.
    fn attention(&mut self, name: &str, width: usize) {
        self.norm(&format!("{name}.norm"), width);
        for part in ["q", "k", "v", "proj_out"] {
            self.linear(&format!("{name}.{part}"), &[width, width, 1, 1]);
        }
    }

    /// What stands between the levels of an image tokenizer and its codes, or the other way round.
    fn middle(&mut self, half: &str, [first, attention, last]: [&str; 3], width: usize) {
        self.residual(&format!("{half}.{first}"), width, width);
        self.attention(&format!("{half}.{attention}"), width);
        self.residual(&format!("{half}.{last}"), width, width);
    }
}

/// Numbers in a configuration.
fn set<const N: usize>(config: &mut Value, numbers: [(&str, usize); N]) {
    for (key, n) in numbers {
        config[key] = n.into();
    }
}
