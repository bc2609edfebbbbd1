//! Files mapped into memory, and model folders read through them.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;

use super::config::JsonConfig;
use super::folder::{Container, ModelType, WeightFiles, implied_config};
use super::shards::{ShardIndex, ShardedSource};
use crate::error::{Error, Foreign, Name, Result};
use crate::model::weights::{Tensor, WeightSource};

/// Longest text file that is read: a configuration or an index.
const MAX_TEXT: u64 = 1 << 24;

/// Bytes that the system may map before and after the ones that were read: Linux maps a whole folio of its page cache.
const AROUND: usize = 1 << 21;

fn failed(path: &Path, source: impl Into<Box<dyn core::error::Error + Send + Sync>>) -> Error {
    Error::File {
        file: Name::owned(&path.display().to_string()),
        source: Foreign::new(source),
    }
}

/// A file mapped into memory. It must not be changed or cut while it is mapped.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// [`Error::File`] for what is no regular file, or cannot be opened or mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        regular(path)?;
        let file = File::open(path).map_err(|e| failed(path, e))?;
        // SAFETY: the file is only read. That nobody cuts it meanwhile is the caller's part, as the documentation says.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| failed(path, e))?;
        Ok(Self { map })
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives the pages of a part of this file back; they are read again where they are needed again. Bytes that lie
    /// elsewhere are left alone.
    pub fn release(&self, bytes: &[u8]) {
        let start = self.map.as_ptr().addr();
        let Some(at) = bytes.as_ptr().addr().checked_sub(start) else {
            return;
        };
        if at
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.map.len())
        {
            // A read maps pages around it as well, on both sides: unless they go too, they stay for good.
            let from = at.saturating_sub(AROUND);
            let to = (at + bytes.len())
                .saturating_add(AROUND)
                .min(self.map.len());
            self.drop_pages(from, to - from);
        }
    }

    #[cfg(unix)]
    fn drop_pages(&self, at: usize, len: usize) {
        use memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: the mapping is of a file and only read, so a dropped page comes back with the same bytes.
        let advised = unsafe { self.map.unchecked_advise_range(DontNeed, at, len) };
        // Where advice is not taken, the pages stay a while longer.
        drop(advised);
    }

    #[cfg(not(unix))]
    fn drop_pages(&self, _: usize, _: usize) {}
}

/// A table over a mapped file that gives pages back as they are read.
struct Mapped<'a> {
    source: Box<dyn WeightSource + 'a>,
    file: &'a MappedFile,
}

impl WeightSource for Mapped<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.source.tensor(name)
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.source.names(visit);
    }

    fn release(&self, bytes: &[u8]) {
        self.file.release(bytes);
    }
}

/// A model's weights on disk: one file, or several with an index.
#[derive(Debug)]
pub struct MappedWeights {
    index: Option<String>,
    files: Vec<(String, MappedFile)>,
}

impl MappedWeights {
    /// Maps one file of weights, of the format that its name stands for.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be mapped.
    pub fn file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Ok(Self {
            index: None,
            files: Vec::from([(path.display().to_string(), MappedFile::open(path)?)]),
        })
    }

    /// Maps the weights of a folder. The names that an index gives stay in it; links in it are followed, since download
    /// caches are made of them.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing or cannot be mapped, and whatever is wrong with the folder or the
    /// index.
    pub fn folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(|e| failed(folder, e))? {
            let entry = entry.map_err(|e| failed(folder, e))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let index = match WeightFiles::among(&names).map_err(|e| failed(folder, e))? {
            WeightFiles::One(name) => return Self::file(folder.join(name)),
            WeightFiles::Sharded(index) => index,
        };
        let path = folder.join(index);
        let text = read_text(&path)?;
        let index = ShardIndex::parse(&text).map_err(|e| failed(&path, e))?;
        let mut files = Vec::new();
        for name in index.files() {
            files.push((name.clone(), MappedFile::open(folder.join(name))?));
        }
        Ok(Self {
            index: Some(text),
            files,
        })
    }

    /// The configuration that the name of the only file stands for.
    fn implied(&self) -> Option<String> {
        match (&self.index, &*self.files) {
            (None, [(name, _)]) => implied_config(Path::new(name).file_name()?.to_str()?),
            _ => None,
        }
    }

    /// Reads the tables and hands the weights over.
    ///
    /// # Errors
    /// [`Error::File`] around whatever is wrong with a file, and whatever `load` fails with.
    pub fn read<T>(&self, load: impl FnOnce(&dyn WeightSource) -> Result<T>) -> Result<T> {
        let mut sources: Vec<Box<dyn WeightSource + '_>> = Vec::new();
        for (name, file) in &self.files {
            let open = || {
                let container = Container::of(name).ok_or(Error::Unsupported {
                    what: "a file of weights of this name",
                })?;
                container.open(file.bytes())
            };
            let source = open().map_err(|e| failed(Path::new(name), e))?;
            sources.push(Box::new(Mapped { source, file }));
        }
        match (&self.index, sources.pop()) {
            (None, Some(source)) => load(&*source),
            (Some(text), last) => {
                sources.extend(last);
                let index = ShardIndex::parse(text)?;
                load(&ShardedSource::new(&index, sources)?)
            }
            (None, None) => Err(Error::Unsupported {
                what: "a model without weights",
            }),
        }
    }
}

/// A folder in the layout of a downloaded model: `config.json` and weights; or one file of weights that is published
/// without a configuration under a name that says as much (LlamaGen's `t2i_XL_stage1_256.pt`, `vq_ds16_t2i.pt` and so on).
///
/// ```
/// use maquette::model::files::{folder::ModelType, map::ModelFolder};
///
/// if let Ok(folder) = ModelFolder::open("Janus-Pro-1B") {
///     assert_eq!(folder.model, ModelType::Janus);
///     folder.weights.read(|weights| {
///         weights.names(&mut |name| println!("{name}"));
///         Ok(())
///     })?;
/// }
/// assert!(ModelFolder::open("no such folder").is_err());
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct ModelFolder {
    /// What the configuration says.
    pub config: JsonConfig,
    /// The model that it is of.
    pub model: ModelType,
    /// The weights.
    pub weights: MappedWeights,
}

impl ModelFolder {
    /// Reads the configuration of a folder and maps its weights. A folder without `config.json` may hold one file of
    /// weights with a name that stands for a configuration, and the path may lead to such a file.
    ///
    /// # Errors
    /// [`Error::File`] for what is missing or cannot be read, and around a configuration that is broken or of no known
    /// model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = path.join("config.json");
        let named = match (path.is_file(), file.exists()) {
            (true, _) => Some(MappedWeights::file(path)?),
            (false, false) => MappedWeights::folder(path).ok(),
            (false, true) => None,
        };
        if let Some((text, weights)) = named.and_then(|w| Some((w.implied()?, w))) {
            let (config, model) = parsed(path, &text)?;
            return Ok(Self {
                config,
                model,
                weights,
            });
        }
        if path.is_file() {
            return Err(failed(
                path,
                "this is no folder, and no published model has its name",
            ));
        }
        let (config, model) = parsed(&file, &read_text(&file)?)?;
        Ok(Self {
            config,
            model,
            weights: MappedWeights::folder(path)?,
        })
    }
}

/// A configuration and the model that it is of.
fn parsed(file: &Path, text: &str) -> Result<(JsonConfig, ModelType)> {
    let config = JsonConfig::parse(text).map_err(|e| failed(file, e))?;
    let model = ModelType::of(&config).map_err(|e| failed(file, e))?;
    Ok((config, model))
}

fn read_text(path: &Path) -> Result<String> {
    if regular(path)? > MAX_TEXT {
        return Err(failed(path, "the file has more than 16 MiB"));
    }
    fs::read_to_string(path).map_err(|e| failed(path, e))
}

/// Length of a regular file. A pipe or a device, which could be read without end, is none; a link to one neither.
fn regular(path: &Path) -> Result<u64> {
    let meta = fs::metadata(path).map_err(|e| failed(path, e))?;
    if !meta.is_file() {
        return Err(failed(path, "is no regular file"));
    }
    Ok(meta.len())
}
