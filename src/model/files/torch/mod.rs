//! Tensors from the bytes of a `torch.save` file (`.bin`, `.pt`, `.pth`).
//!
//! Such a file is a zip archive: a pickle that describes the tensors, and one entry of raw elements for each storage.
//! Here the pickle is data: a fixed list of instructions and names, and nothing that could be run.

mod pickle;
mod tree;
mod zip;

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::ops::Range;

use self::tree::{MAX_DIMS, Storage, Strided, Tree, Value};
use super::table::{Table, overlap, push};
use crate::error::{Error, Name, Result};
use crate::model::weights::{DType, Tensor, WeightSource};

const FORMAT: &str = "torch";

/// Keys under which training programs keep the weights, in the order in which they are tried.
const CONTAINERS: [&str; 3] = ["model", "module", "state_dict"];

/// Largest pickle. The tensors' elements do not lie in it.
const MAX_PICKLE: usize = 1 << 25;

pub(super) const fn malformed(problem: &'static str) -> Error {
    Error::Format {
        format: FORMAT,
        problem,
        source: None,
    }
}

fn entry(name: &str, problem: &'static str) -> Error {
    Error::FormatEntry {
        format: FORMAT,
        entry: Name::owned(name),
        problem,
    }
}

/// A checkpoint in one `torch.save` file, borrowed.
///
/// The weights are the dictionary under `model`, `module` or `state_dict`, or the file's own dictionary. Whatever in it
/// is no tensor is passed over. Tensors in another order than row-major are copied once; tensors may share a storage
/// only whole, as tied weights do.
///
/// ```
/// use maquette::model::files::torch::TorchSource;
/// use maquette::model::weights::WeightSource;
/// if let Ok(bytes) = std::fs::read("pytorch_model.bin") {
///     TorchSource::new(&bytes)?.names(&mut |name| println!("{name}"));
/// }
/// assert!(TorchSource::new(b"no archive").is_err());
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct TorchSource<'a> {
    tensors: Table<'a, Stored<'a>>,
}

#[derive(Debug)]
struct Stored<'a> {
    dtype: DType,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl<'a> TorchSource<'a> {
    /// Reads the table of a file. Nothing in the file is run, whatever it says.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::FormatEntry`] for bytes that `torch.save` does not write for a dictionary of
    /// tensors: another archive, compressed entries, a pickle that imports anything else, tensors outside their
    /// storage or over each other, a storage of two element types, a name twice. [`Error::OutOfMemory`].
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        if bytes.starts_with(&[0x80, 0x02, 0x8a, 0x0a]) {
            return Err(malformed(
                "was written before PyTorch 1.6; load and save it with a newer one",
            ));
        }
        let archive = zip::open(bytes)?;
        let mut pickles = archive.iter().filter_map(|(name, data)| {
            let (folder, file) = name.split_once('/')?;
            (file == "data.pkl").then_some((folder, *data))
        });
        let (Some((folder, pickle)), None) = (pickles.next(), pickles.next()) else {
            return Err(malformed("the archive has no data.pkl, or several"));
        };
        if pickle.len() > MAX_PICKLE {
            return Err(malformed("data.pkl has more than 32 MiB"));
        }
        let order = archive.find(&alloc::format!("{folder}/byteorder"));
        if order.is_some_and(|order| *order != b"little") {
            return Err(malformed("its numbers are not little-endian"));
        }
        let tree = pickle::read(pickle)?;
        let weights = weights(&tree)?;

        one_type_each(&weights)?;

        let mut budget = bytes.len();
        let (mut entries, mut ranges) = (Vec::new(), Vec::new());
        for &(name, tensor) in &weights {
            let wrong = |problem| entry(name, problem);
            let storage = tensor.storage;
            let key = alloc::format!("{folder}/data/{}", storage.key);
            let data: &'a [u8] = archive
                .find(&key)
                .ok_or_else(|| entry(&key, "is missing in the archive"))?;
            if storage.len.checked_mul(storage.size) != Some(data.len()) {
                return Err(entry(&key, "has another length than the pickle says"));
            }
            let extent = extent(tensor).map_err(wrong)?;
            let range = (extent.start * storage.size)..(extent.end * storage.size);
            let start = data.as_ptr().addr() - bytes.as_ptr().addr();
            let ends = (start + range.start, start + range.end);
            push(FORMAT, &mut ranges, (ends.0, ends.1, name))?;
            let view = data.get(range).ok_or(wrong(OUTSIDE))?;
            let data = if row_major(tensor) {
                Cow::Borrowed(view)
            } else {
                // Each element once: what is copied is never more than the storages hold.
                budget = budget
                    .checked_sub(view.len())
                    .ok_or(wrong("is stored column by column, like too many others"))?;
                Cow::Owned(gathered(tensor, view)?)
            };
            let stored = Stored {
                dtype: storage.dtype,
                shape: tensor.shape.clone(),
                data,
            };
            push(FORMAT, &mut entries, (Cow::Borrowed(name), stored))?;
        }
        let tensors = Table::new(FORMAT, entries)?;
        match overlap(&mut ranges, true) {
            Some(name) => Err(entry(
                name,
                "shares a part of its elements with another tensor",
            )),
            None => Ok(Self { tensors }),
        }
    }
}

/// The tensors of the dictionary that holds the weights.
fn weights<'t, 'a>(tree: &'t Tree<'a>) -> Result<Vec<(&'a str, &'t Strided<'a>)>> {
    let root = tree
        .dict(tree.root())
        .ok_or(malformed("the pickle holds no dictionary"))?;
    let under = |key| {
        let mut found = root.iter().filter(|(k, _)| *k == Value::Text(key));
        found.find_map(|&(_, value)| tree.dict(value))
    };
    let weights = CONTAINERS
        .iter()
        .find_map(|&key| under(key))
        .unwrap_or(root);
    let mut tensors = Vec::new();
    for &(key, value) in weights {
        if let (Value::Text(name), Some(tensor)) = (key, tree.tensor(value)) {
            push(FORMAT, &mut tensors, (name, tensor))?;
        }
    }
    if tensors.is_empty() {
        return Err(malformed("the dictionary of weights holds no tensor"));
    }
    Ok(tensors)
}

/// Fails if two tensors take one storage for two element types.
fn one_type_each(weights: &[(&str, &Strided<'_>)]) -> Result<()> {
    let mut types = Vec::new();
    for (_, tensor) in weights {
        let Storage { key, dtype, .. } = tensor.storage;
        push(FORMAT, &mut types, (key, dtype.name()))?;
    }
    types.sort_unstable();
    types.dedup();
    match types.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(entry(pair[0].0, "is a storage of two element types")),
        None => Ok(()),
    }
}

const OUTSIDE: &str = "lies outside its storage";

/// The elements of the storage that a tensor spans.
fn extent(tensor: &Strided<'_>) -> core::result::Result<Range<usize>, &'static str> {
    let Strided {
        storage: Storage { len, .. },
        offset,
        shape,
        strides,
    } = tensor;
    if shape.len() != strides.len() {
        return Err("has another number of strides than of sizes");
    }
    if shape.contains(&0) {
        return Ok(0..0);
    }
    // From the densest size on, each stride must step over all that the denser ones span.
    let mut order = [(0, 0); MAX_DIMS];
    for (place, (&stride, &size)) in order.iter_mut().zip(strides.iter().zip(shape)) {
        *place = (stride, size);
    }
    order.sort_unstable();
    let mut span: usize = 1;
    for (stride, size) in order {
        // Unused places and sizes of one have no stride to speak of.
        if size > 1 {
            if stride < span {
                return Err("has strides that lay its own elements over each other");
            }
            span = stride
                .checked_mul(size - 1)
                .and_then(|last| span.checked_add(last))
                .ok_or(OUTSIDE)?;
        }
    }
    let end = offset.checked_add(span).filter(|end| end <= len);
    Ok(*offset..end.ok_or(OUTSIDE)?)
}

fn row_major(tensor: &Strided<'_>) -> bool {
    let mut want = 1_usize;
    let mut sizes = tensor.shape.iter().zip(&tensor.strides).rev();
    tensor.shape.contains(&0)
        || sizes.all(|(&size, &stride)| {
            let fits = size == 1 || stride == want;
            want = want.saturating_mul(size);
            fits
        })
}

/// The elements in row-major order, from the bytes that the tensor spans.
fn gathered(tensor: &Strided<'_>, view: &[u8]) -> Result<Vec<u8>> {
    let size = tensor.storage.size;
    let count: usize = tensor.shape.iter().product();
    let len = count * size;
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        what: FORMAT,
        bytes: len,
    })?;
    let mut index = [0_usize; MAX_DIMS];
    for _ in 0..count {
        let at: usize = index.iter().zip(&tensor.strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(view.get(at * size..(at + 1) * size).unwrap_or_default());
        for (i, &size) in index.iter_mut().zip(&tensor.shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    Ok(out)
}

impl WeightSource for TorchSource<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.find(name).map(|stored| Tensor {
            dtype: stored.dtype,
            shape: stored.shape.clone(),
            bytes: &stored.data,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.tensors.names(visit);
    }
}
