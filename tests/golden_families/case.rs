//! A case's files: what to feed, and what its outputs are compared with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::weights::{Tensor, WeightSource};
use maquette::quant::Format;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// What one pass over a case has found.
#[derive(Debug, Default)]
pub struct Report {
    pub compared: BTreeSet<String>,
    /// Largest deviation in units of its tolerance, and the tensor it is in; from runs in BF16 last.
    pub largest: [(f64, String); 2],
    pub problems: Vec<String>,
    /// What was compared, in order: floats by their bits.
    pub given: Vec<(String, Vec<i64>)>,
}

/// From the name a tensor has in the model file to the names it is known by in a pass: of equal parts along its first
/// axis where there are several; of none where it is dropped.
type Names = BTreeMap<String, Vec<String>>;

/// One pass over a case: under the original names, or under those of another library.
#[derive(Debug)]
pub struct Case {
    /// Name of the folder.
    pub name: String,
    /// `config.json`.
    pub config: JsonConfig,
    /// `config.json` as it stands, for settings of the fixture itself.
    pub json: Value,
    /// Whether names are those of the transformers library.
    pub transformers: bool,
    /// What the pass keeps large matrices in.
    pub format: Format,
    model: Vec<u8>,
    names: Names,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
    pub report: RefCell<Report>,
}

impl Case {
    pub fn open(folder: &Path, transformers: bool) -> Option<Self> {
        let text = String::from_utf8(std::fs::read(folder.join("config.json")).ok()?).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        // Weights of its own, or those of the case beside it that it names.
        let shared = json["fixture"]["model"].as_str();
        let shared = shared.map(|name| folder.with_file_name(name));
        let read = |name: &str| {
            let folder = match &shared {
                Some(shared) if name == "model.safetensors" || name == "key_map.json" => shared,
                _ => folder,
            };
            std::fs::read(folder.join(name)).ok()
        };
        let inputs = read("golden.safetensors")?;
        let (outputs, model, names) = if transformers {
            let outputs = read("golden.transformers.safetensors")?;
            match read("model.transformers.safetensors") {
                Some(model) => (outputs, model, BTreeMap::new()),
                None => (
                    outputs,
                    read("model.safetensors")?,
                    names(&read("key_map.json")?),
                ),
            }
        } else {
            (
                inputs.clone(),
                read("model.safetensors").unwrap_or_default(),
                BTreeMap::new(),
            )
        };
        Some(Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            config: JsonConfig::parse(&text).unwrap(),
            json,
            transformers,
            format: Format::F32,
            model,
            names,
            inputs,
            outputs,
            report: RefCell::default(),
        })
    }

    /// The checkpoint.
    pub fn source(&self) -> Source<'_> {
        Source {
            file: SafetensorsSource::new(&self.model).unwrap(),
            names: &self.names,
        }
    }

    /// What its weights may be kept in without a loss.
    pub fn formats(&self) -> Vec<Format> {
        let mut formats = vec![Format::F32];
        if let Ok(model) = SafeTensors::deserialize(&self.model)
            && model.iter().any(|(_, view)| view.dtype() == Dtype::BF16)
        {
            formats.push(Format::Bf16);
        }
        formats
    }

    /// Whether there is such an input.
    pub fn has_input(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.inputs)
            .unwrap()
            .tensor(name)
            .is_ok()
    }

    /// Shape and elements of a tensor of floats, an input or a stored output.
    pub fn input(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, numbers) = self.stored(&self.inputs, name);
        match numbers {
            Numbers::Floats(data) => (shape, data),
            Numbers::Whole(_) => panic!("{}: {name} holds whole numbers", self.name),
        }
    }

    /// Shape and elements of a tensor of whole numbers.
    pub fn whole(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let (shape, numbers) = self.stored(&self.inputs, name);
        match numbers {
            Numbers::Whole(data) => (shape, data),
            Numbers::Floats(_) => panic!("{}: {name} holds floats", self.name),
        }
    }

    /// Shape and elements of a tensor of bytes.
    pub fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let (shape, data) = self.whole(name);
        (
            shape,
            data.into_iter().map(|v| u8::try_from(v).unwrap()).collect(),
        )
    }

    /// Names of the outputs that this pass wants.
    pub fn outputs(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.outputs).unwrap();
        file.names()
            .into_iter()
            .filter(|n| n.starts_with("out."))
            .map(|n| (*n).to_owned())
            .collect()
    }

    /// Whether this pass wants an output.
    pub fn wants(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.outputs)
            .unwrap()
            .tensor(name)
            .is_ok()
    }

    /// Shape of an output that this pass wants.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.stored(&self.outputs, name).0
    }

    /// Compares floats with an output within its tolerance, and with that of the reference's run in BF16 where there
    /// is one. One that only the first pass has is passed over in the second.
    pub fn compare(&self, name: &str, got: &[f32]) {
        self.compare_like(name, name, got);
        let rounded = name.replacen("out.", "out.bf16.", 1);
        if self.wants(&rounded) {
            self.compare_like(&rounded, &rounded, got);
        }
    }

    /// As [`compare`](Self::compare), within the tolerance of another output of the same numbers.
    pub fn compare_like(&self, name: &str, like: &str, got: &[f32]) {
        let Some((shape, numbers)) = self.wanted(name, got.len()) else {
            return;
        };
        let Numbers::Floats(want) = numbers else {
            panic!("{}: {name} holds whole numbers", self.name)
        };
        let atol = &self.json["fixture"]["tolerance"][like]["atol"];
        let Some(atol) = atol.as_f64() else {
            return self.problem(format!("{name} has no tolerance"));
        };
        let mut report = self.report.borrow_mut();
        let bits = got.iter().map(|v| v.to_bits().into()).collect();
        report.given.push((name.to_owned(), bits));
        let mut worst = (0.0, 0);
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let off = if got.to_bits() == want.to_bits() || got == want {
                0.0
            } else {
                f64::from((got - want).abs())
            };
            let share = if off == 0.0 {
                0.0
            } else if off.is_nan() {
                f64::INFINITY
            } else {
                off / atol
            };
            if share > worst.0 {
                worst = (share, i);
            }
        }
        if worst.0 > 1.0 {
            let (i, share) = (worst.1, worst.0);
            report.problems.push(format!(
                "{name} {shape:?}: {} for {} at {i}, {share:.2} of its tolerance",
                got[i], want[i]
            ));
        }
        let largest = &mut report.largest[usize::from(name.starts_with("out.bf16."))];
        if worst.0 > largest.0 {
            *largest = (worst.0, name.to_owned());
        }
    }

    /// Compares whole numbers with an output; they must be equal.
    pub fn exact<T: Copy + Into<i64>>(&self, name: &str, got: &[T]) {
        self.near(name, got, 0);
    }

    /// Compares bytes that come from numbers of one's own: they may be off by one.
    pub fn within_one<T: Copy + Into<i64>>(&self, name: &str, got: &[T]) {
        self.near(name, got, 1);
    }

    fn near<T: Copy + Into<i64>>(&self, name: &str, got: &[T], most: i64) {
        let Some((shape, numbers)) = self.wanted(name, got.len()) else {
            return;
        };
        let Numbers::Whole(want) = numbers else {
            panic!("{}: {name} holds floats", self.name)
        };
        let got: Vec<i64> = got.iter().map(|&v| v.into()).collect();
        let wrong: Vec<_> = got
            .iter()
            .zip(want)
            .enumerate()
            .filter(|(_, (got, want))| got.abs_diff(*want) > most.unsigned_abs())
            .collect();
        if let Some((i, (got, want))) = wrong.first() {
            self.problem(format!(
                "{name} {shape:?}: {got} for {want} at {i}, {} wrong",
                wrong.len()
            ));
        }
        self.report.borrow_mut().given.push((name.to_owned(), got));
    }

    /// Says that something is wrong.
    pub fn problem(&self, text: String) {
        self.report.borrow_mut().problems.push(text);
    }

    fn wanted(&self, name: &str, len: usize) -> Option<(Vec<usize>, Numbers)> {
        if !self.wants(name) {
            if !self.transformers {
                self.problem(format!("{name} is not among the outputs"));
            }
            return None;
        }
        self.report.borrow_mut().compared.insert(name.to_owned());
        let (shape, numbers) = self.stored(&self.outputs, name);
        if shape.iter().product::<usize>() != len {
            self.problem(format!("{name} has shape {shape:?}, got {len} elements"));
            return None;
        }
        Some((shape, numbers))
    }

    fn stored(&self, file: &[u8], name: &str) -> (Vec<usize>, Numbers) {
        let file = SafeTensors::deserialize(file).unwrap();
        let view = file
            .tensor(name)
            .unwrap_or_else(|_| panic!("{}: no tensor {name}", self.name));
        let data = view.data();
        let numbers = match view.dtype() {
            Dtype::F32 => Numbers::Floats(
                data.chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
            ),
            Dtype::I64 => Numbers::Whole(
                data.chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
            ),
            Dtype::I32 => Numbers::Whole(
                data.chunks_exact(4)
                    .map(|b| i32::from_le_bytes(b.try_into().unwrap()).into())
                    .collect(),
            ),
            Dtype::U8 | Dtype::BOOL => Numbers::Whole(data.iter().map(|&b| b.into()).collect()),
            other => panic!("{}: {name} has type {other:?}", self.name),
        };
        (view.shape().to_vec(), numbers)
    }
}

enum Numbers {
    Floats(Vec<f32>),
    Whole(Vec<i64>),
}

/// A case's checkpoint under the names of its pass.
#[derive(Debug)]
pub struct Source<'a> {
    file: SafetensorsSource<'a>,
    names: &'a Names,
}

impl WeightSource for Source<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let part = |known: &Vec<String>| known.iter().position(|known| known == name);
        let found = self
            .names
            .iter()
            .find_map(|(stored, known)| Some((stored, part(known)?, known.len())));
        match found {
            Some((stored, part, parts)) => {
                let mut tensor = self.file.tensor(stored)?;
                if parts > 1 {
                    tensor.shape[0] /= parts;
                    let len = tensor.bytes.len() / parts;
                    tensor.bytes = &tensor.bytes[part * len..][..len];
                }
                Some(tensor)
            }
            // Its name in the file is not known in this pass.
            None if self.names.contains_key(name) => None,
            None => self.file.tensor(name),
        }
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.file.names(&mut |stored| match self.names.get(stored) {
            Some(known) => known.iter().for_each(|name| visit(name)),
            None => visit(stored),
        });
    }
}

/// The names in a key map: one text, a list of them, or null.
fn names(map: &[u8]) -> Names {
    let map: BTreeMap<String, Value> = serde_json::from_slice(map).unwrap();
    let text = |name: &Value| name.as_str().unwrap().to_owned();
    map.into_iter()
        .map(|(stored, known)| match known {
            Value::Null => (stored, Vec::new()),
            Value::Array(parts) => (stored, parts.iter().map(text).collect()),
            one => (stored, vec![text(&one)]),
        })
        .collect()
}
