//! One checkpoint in several files, with an index that says which tensor lies in which.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::json::Scanner;
use super::table::{Table, push};
use crate::error::{Error, Name, Result};
use crate::model::weights::{Tensor, WeightSource};

const FORMAT: &str = "index";
/// Longest index.
const MAX_INDEX: usize = 1 << 22;
const MAP: &str = "weight_map";

fn entry(name: &str, problem: &'static str) -> Error {
    Error::FormatEntry {
        format: FORMAT,
        entry: Name::owned(name),
        problem,
    }
}

/// The index of a checkpoint: `model.safetensors.index.json`, `pytorch_model.bin.index.json`.
///
/// ```
/// use maquette::model::files::shards::ShardIndex;
/// let index = ShardIndex::parse(r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#)?;
/// assert_eq!(index.files(), ["1.safetensors", "2.safetensors"]);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct ShardIndex<'a> {
    /// Tensor to position in `files`.
    tensors: Table<'a, usize>,
    files: Vec<String>,
}

impl<'a> ShardIndex<'a> {
    /// Reads the text of an index.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::FormatEntry`] for text that is no such index, a tensor that stands twice, or a
    /// file name that leads out of the folder.
    pub fn parse(text: &'a str) -> Result<Self> {
        let mut map = Vec::new();
        let mut scanner = Scanner::new(FORMAT, text);
        if text.len() > MAX_INDEX {
            return Err(scanner.wrong("has more than 4 MiB"));
        }
        scanner.object(&mut |s, key| {
            if key != MAP {
                return s.skip();
            }
            s.object(&mut |s, tensor| {
                let file = s.string()?;
                push(FORMAT, &mut map, (tensor.clone(), file))
            })
        })?;
        scanner.end()?;
        let mut files: Vec<_> = map.iter().map(|(_, file)| file.clone()).collect();
        files.sort_unstable();
        files.dedup();
        if files.is_empty() {
            return Err(scanner.wrong("has no weight_map, or an empty one"));
        }
        if let Some(file) = files.iter().find(|file| !is_plain(file)) {
            return Err(entry(file, "is no plain file name"));
        }
        let place = |file: &Cow<'_, str>| files.partition_point(|other| other < file);
        let tensors: Vec<_> = map
            .iter()
            .map(|(t, file)| (t.clone(), place(file)))
            .collect();
        Ok(Self {
            tensors: Table::new(FORMAT, tensors)?,
            files: files.into_iter().map(Cow::into_owned).collect(),
        })
    }

    /// Names of the files, each once, sorted.
    #[must_use]
    pub fn files(&self) -> &[String] {
        &self.files
    }
}

/// Whether a name stays in its folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// A checkpoint in several files.
///
/// ```
/// use maquette::model::files::safetensors::{Entry, SafetensorsSource, header};
/// use maquette::model::files::shards::{ShardIndex, ShardedSource};
/// use maquette::model::weights::WeightSource;
///
/// let file = |name: &str| {
///     let mut file = header(&[Entry { name: name.into(), dtype: "F32", size: 4, shape: vec![1] }], &[])?;
///     file.extend(2.5_f32.to_le_bytes());
///     Ok::<_, maquette::Error>(file)
/// };
/// let (a, b) = (file("a")?, file("b")?);
/// let index = ShardIndex::parse(r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#)?;
/// let shards = vec![
///     Box::new(SafetensorsSource::new(&a)?) as Box<dyn WeightSource>,
///     Box::new(SafetensorsSource::new(&b)?),
/// ];
/// let whole = ShardedSource::new(&index, shards)?;
/// assert_eq!(whole.tensor("b").unwrap().bytes, 2.5_f32.to_le_bytes());
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct ShardedSource<'a> {
    index: &'a ShardIndex<'a>,
    shards: Vec<Box<dyn WeightSource + 'a>>,
}

impl core::fmt::Debug for ShardedSource<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ShardedSource")
            .field("files", &self.index.files)
            .finish_non_exhaustive()
    }
}

impl<'a> ShardedSource<'a> {
    /// The files of an index, in the order of [`ShardIndex::files`].
    ///
    /// # Errors
    /// [`Error::FormatEntry`] for a file that was not given, a tensor that is not in its file, and a tensor that lies
    /// in a file in which the index does not list it.
    pub fn new(index: &'a ShardIndex<'a>, shards: Vec<Box<dyn WeightSource + 'a>>) -> Result<Self> {
        if let Some(file) = index.files.get(shards.len()) {
            return Err(entry(file, "is named by the index, but was not given"));
        }
        if shards.len() > index.files.len() {
            return Err(Error::Format {
                format: FORMAT,
                problem: "names fewer files than were given",
                source: None,
            });
        }
        for (name, &shard) in index.tensors.iter() {
            let found = shards.get(shard).is_some_and(|s| s.tensor(name).is_some());
            if !found {
                return Err(entry(name, "is not in the file that the index names"));
            }
        }
        for (at, shard) in shards.iter().enumerate() {
            let mut extra = None;
            shard.names(&mut |name| {
                if extra.is_none() && index.tensors.find(name) != Some(&at) {
                    extra = Some(entry(
                        name,
                        "lies in a file in which the index does not list it",
                    ));
                }
            });
            if let Some(error) = extra {
                return Err(error);
            }
        }
        Ok(Self { index, shards })
    }
}

impl WeightSource for ShardedSource<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let shard = self.index.tensors.find(name)?;
        self.shards.get(*shard)?.tensor(name)
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.index.tensors.names(visit);
    }

    fn release(&self, bytes: &[u8]) {
        for shard in &self.shards {
            shard.release(bytes);
        }
    }
}
