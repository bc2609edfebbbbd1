//! Kinds of generators that can be aligned, behind one trait: their examples differ, the objectives do not.

mod janus;
mod show_o;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maquette::align::annotation::Trajectory;
use maquette::align::lora::Merged;
use maquette::align::masked::PairConfig;
use maquette::align::{Limits, LoraConfig, Parameter};
use maquette::codes::Code;
use maquette::model::files::map::ModelFolder;
use maquette::model::files::safetensors::{Entry, header};
use maquette::model::learner::{Example, Learner};
use maquette::model::weights::WeightSource;
use maquette::model::words::Words;
use maquette::ops::Backward;
use maquette::quant::Format;
use maquette::{Generator, Prompt, RewardModel};
use support::png_file::write_durably;

use crate::Res;

pub use janus::JanusFamily;
pub use show_o::ShowOFamily;

/// A picture of a prompt and a better one.
#[derive(Debug, Clone)]
pub struct Pair {
    pub prompt: String,
    /// The task, if it is known.
    pub tag: String,
    pub chosen: Vec<Code>,
    pub rejected: Vec<Code>,
}

/// A picture that its prompt should look like.
#[derive(Debug, Clone)]
pub struct Picture {
    pub prompt: String,
    pub codes: Vec<Code>,
}

/// Adapters and what they were made with.
pub type Adapters<'a> = (&'a [Parameter], &'a LoraConfig);

/// A generator to be aligned: how it draws, and what its pictures are as examples.
pub trait Family {
    type Device: Backward;
    type Learner: Learner<Self::Device>;

    /// The frozen model, to be trained beside.
    fn learner(&self) -> Res<Self::Learner>;

    /// What its examples need.
    fn limits(&self) -> Limits;

    /// Ends of the names of the layers that get adapters unless told otherwise.
    fn targets(&self) -> &'static str;

    /// The examples of pair `at`: the better picture, then the other one.
    fn pair(
        &mut self,
        draws: &PairConfig,
        at: usize,
        pair: &Pair,
    ) -> maquette::Result<[Example; 2]>;

    /// Picture `at` as an example by itself.
    fn picture(
        &mut self,
        draws: &PairConfig,
        at: usize,
        picture: &Picture,
    ) -> maquette::Result<Example>;

    /// The passes of a drawn picture, of which every label was a draw.
    fn passes(&mut self, prompt: &Prompt<'_>, drawn: &Trajectory)
    -> maquette::Result<Vec<Example>>;

    /// A written plan as an example.
    fn plan(&mut self, prompt: &str, plan: &str) -> maquette::Result<Example> {
        let _ = (prompt, plan);
        Err(maquette::Error::Unsupported {
            what: "plans of this generator",
        })
    }

    /// Codes of a picture after so many of all steps, the others open.
    fn begun(&self, codes: &[Code], steps: [u32; 2], of: u64) -> maquette::Result<Vec<Code>> {
        let _ = (codes, steps, of);
        Err(maquette::Error::Unsupported {
            what: "edits of a generator that draws in a fixed order",
        })
    }

    /// A session that draws with adapters, or without.
    fn session(&self, adapters: Option<Adapters<'_>>, candidates: usize)
    -> Res<Box<dyn Generator>>;

    /// A judge that knows the model without adapters.
    fn judge(&self, dir: Option<&Path>, views: usize) -> Res<Box<dyn RewardModel>>;

    /// The folder.
    fn home(&self) -> &Home<Self::Device>;
}

/// A model folder with its words, and where it runs.
#[derive(Debug)]
pub struct Home<B> {
    pub path: PathBuf,
    pub folder: ModelFolder,
    pub words: Arc<Words>,
    pub device: Arc<B>,
    pub format: Format,
    pub guidance: Option<f32>,
}

/// The words of a folder.
pub fn words(folder: &Path) -> Res<Arc<Words>> {
    let path = folder.join("vocab.txt");
    let lines = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Arc::new(Words::new(&lines)?))
}

impl<B> Home<B> {
    /// Hands over the weights, adapters merged into them.
    pub fn read<T>(
        &self,
        adapters: Option<Adapters<'_>>,
        load: impl FnOnce(&dyn WeightSource) -> maquette::Result<T>,
    ) -> maquette::Result<T> {
        self.folder.weights.read(|source| match adapters {
            Some((parameters, lora)) => load(&Merged::new(source, parameters, lora)?),
            None => load(source),
        })
    }

    /// Writes the folder again with adapters in its weights: the model that the next round begins with.
    pub fn write_merged(&self, adapters: Adapters<'_>, out: &Path) -> Res<()> {
        fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
        let bytes = self.read(Some(adapters), file)?;
        for name in ["config.json", "vocab.txt"] {
            let path = self.path.join(name);
            let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            write_durably(&out.join(name), &text)?;
        }
        let name = match self.folder.model {
            maquette::model::files::folder::ModelType::ShowO => "pytorch_model.safetensors",
            _ => "model.safetensors",
        };
        write_durably(&out.join(name), &bytes)
    }
}

/// The bytes of a safetensors file with all tensors of a source.
fn file(source: &dyn WeightSource) -> maquette::Result<Vec<u8>> {
    let mut names = Vec::new();
    source.names(&mut |name| names.push(name.to_owned()));
    names.sort_unstable();
    let tensors: Vec<_> = names.iter().filter_map(|n| source.tensor(n)).collect();
    let entries = names.iter().zip(&tensors).map(|(name, tensor)| {
        let elements = tensor.shape.iter().product::<usize>().max(1);
        Entry {
            name: name.clone(),
            dtype: tensor.dtype.name(),
            size: tensor.bytes.len() / elements,
            shape: tensor.shape.clone(),
        }
    });
    let mut out = header(&entries.collect::<Vec<_>>(), &[("format", "pt")])?;
    for tensor in &tensors {
        out.extend(tensor.bytes);
    }
    Ok(out)
}
