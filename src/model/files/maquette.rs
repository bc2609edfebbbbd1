//! This crate's own checkpoint: a safetensors file whose matrices are canonical blocks.
//!
//! The metadata holds `format` = `maquette`, `version` = `1` and the matrices' format under `weights`. Blocks stand as
//! bytes (`U8`, `[n, bytes of a row]`); everything else keeps the element type that it had. Packing for a device happens
//! when the file is loaded.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::safetensors::{Entry, SafetensorsSource, entry, header};
use super::table::push;
use crate::error::{Error, Result, product};
use crate::model::weights::{DType, Tensor, WeightSource, finite};
use crate::quant::Format;

const FORMAT: &str = "maquette";
const VERSION: &str = "1";
/// Elements that are converted together, at least a row.
const PORTION: usize = 1 << 20;

/// A checkpoint that [`write()`] has written.
///
/// ```
/// use maquette::model::files::maquette::{MaquetteSource, write};
/// use maquette::model::files::safetensors::{Entry, SafetensorsSource, header};
/// use maquette::quant::Format;
/// let entry = Entry { name: "w".into(), dtype: "F32", size: 4, shape: vec![1, 32] };
/// let mut floats = header(&[entry], &[])?;
/// floats.extend([0.5_f32.to_le_bytes(); 32].concat());
///
/// let mut blocks = Vec::new();
/// write(&SafetensorsSource::new(&floats)?, Format::Q8_0, &[("from", "hand")], &mut |bytes| {
///     blocks.extend_from_slice(bytes);
///     Ok(())
/// })?;
/// let source = MaquetteSource::new(SafetensorsSource::new(&blocks)?)?;
/// assert_eq!((source.format(), source.metadata("from")), (Format::Q8_0, Some("hand")));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct MaquetteSource<'a> {
    file: SafetensorsSource<'a>,
    format: Format,
}

impl<'a> MaquetteSource<'a> {
    /// Whether a file says that it is such a checkpoint.
    #[must_use]
    pub fn is(file: &SafetensorsSource<'_>) -> bool {
        file.metadata("format") == Some(FORMAT)
    }

    /// Takes a file as such a checkpoint.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::FormatEntry`] for another file, a newer version, or bytes that are no blocks of
    /// the format that the file states.
    pub fn new(file: SafetensorsSource<'a>) -> Result<Self> {
        let wrong = |problem| Error::Format {
            format: FORMAT,
            problem,
            source: None,
        };
        if !Self::is(&file) {
            return Err(wrong("the file is no checkpoint of this crate"));
        }
        if file.metadata("version") != Some(VERSION) {
            return Err(wrong("the file is of a version other than 1"));
        }
        let name = file.metadata("weights").unwrap_or_default();
        let mut formats = Format::ALL.iter().copied();
        let format = formats
            .find(|format| format.name() == name)
            .ok_or(wrong("the file states no format that is known"))?;
        let mut broken = None;
        file.names(&mut |name| {
            let whole = match file.stored(name) {
                Some(stored) if stored.dtype == BYTES => {
                    let row = stored.shape.get(1).copied().unwrap_or(0);
                    format
                        .as_block()
                        .is_some_and(|b| row > 0 && row.is_multiple_of(b.bytes()))
                        && stored.shape.len() == 2
                }
                _ => true,
            };
            if broken.is_none() && !whole {
                broken = Some(entry(name, "holds bytes that are no rows of blocks"));
            }
        });
        match broken {
            Some(error) => Err(error),
            None => Ok(Self { file, format }),
        }
    }

    /// The format of the matrices: what to load them as.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// A text of the metadata.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.file.metadata(key)
    }
}

/// The type that blocks have in the file.
const BYTES: DType = DType::Other("U8");

impl WeightSource for MaquetteSource<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let mut tensor = self.file.tensor(name)?;
        if let (BYTES, Some(block)) = (tensor.dtype, self.format.as_block()) {
            tensor.dtype = DType::Block(block);
            for row in tensor.shape.iter_mut().skip(1) {
                *row = *row / block.bytes() * block.len();
            }
        }
        Some(tensor)
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.file.names(visit);
    }
}

/// Whether a tensor is a matrix of a product, which is kept in blocks: two sizes, named `….weight`, and no table that
/// rows are picked from.
#[must_use]
pub fn is_matrix(name: &str, shape: &[usize]) -> bool {
    const TABLES: [&str; 4] = ["embed", "shared.", "codebook", "relative_attention_bias"];
    shape.len() == 2 && name.ends_with(".weight") && !TABLES.iter().any(|part| name.contains(part))
}

/// What becomes of a tensor.
struct Plan {
    entry: Entry,
    /// The format that its elements are converted to, if any.
    to: Option<Format>,
}

/// Writes a checkpoint with its matrices (see [`is_matrix`]) in `format`, piece by piece into `out`.
///
/// Tensors that are no weights (whole numbers and the like) are left out. Matrices whose rows are no whole blocks keep
/// their type, as do all other tensors; blocks of a GGUF file that are no matrices become F32. `metadata` may add texts
/// under keys of its own.
///
/// # Errors
/// A tensor whose length is not that of its shape, a matrix with a number that is not finite or too large for the
/// format, no memory, and whatever `out` fails with.
pub fn write(
    source: &dyn WeightSource,
    format: Format,
    metadata: &[(&str, &str)],
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut names = Vec::new();
    source.names(&mut |name| names.push(String::from(name)));
    let (mut plans, mut entries) = (Vec::new(), Vec::new());
    for name in names {
        if let Some(plan) = source.tensor(&name).and_then(|t| plan(name, &t, format)) {
            push(FORMAT, &mut entries, plan.entry.clone())?;
            push(FORMAT, &mut plans, plan)?;
        }
    }
    let mut texts = Vec::from([
        ("format", FORMAT),
        ("version", VERSION),
        ("weights", format.name()),
    ]);
    texts.extend_from_slice(metadata);
    out(&header(&entries, &texts)?)?;
    for plan in plans {
        let tensor = source.tensor(&plan.entry.name);
        let tensor = tensor.ok_or_else(|| entry(&plan.entry.name, "has gone"))?;
        convert(source, &plan, &tensor, out)?;
    }
    Ok(())
}

fn plan(name: String, tensor: &Tensor<'_>, format: Format) -> Option<Plan> {
    let width = tensor.shape.last().copied().unwrap_or(1);
    let matrix = is_matrix(&name, &tensor.shape) && width.is_multiple_of(format.block());
    let (dtype, size, to) = match tensor.dtype {
        DType::Other(_) => return None,
        _ if matrix => match format {
            Format::F32 => ("F32", 4, Some(format)),
            Format::Bf16 => ("BF16", 2, Some(format)),
            _ => ("U8", 1, Some(format)),
        },
        DType::F32 => ("F32", 4, None),
        DType::F16 => ("F16", 2, None),
        DType::BF16 => ("BF16", 2, None),
        DType::Block(_) => ("F32", 4, Some(Format::F32)),
    };
    let mut shape = tensor.shape.clone();
    if let (Some(row), "U8") = (shape.last_mut(), dtype) {
        *row = *row / format.block() * format.block_bytes();
    }
    let entry = Entry {
        name,
        dtype,
        size,
        shape,
    };
    Some(Plan { entry, to })
}

fn convert(
    source: &dyn WeightSource,
    plan: &Plan,
    tensor: &Tensor<'_>,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let len = product(FORMAT, &tensor.shape)?;
    let (piece, size) = tensor.dtype.piece().unwrap_or((1, 1));
    if tensor.bytes.len() != product(FORMAT, &[len / piece, size])? {
        return Err(entry(&plan.entry.name, "has another length than its shape"));
    }
    let Some(format) = plan.to else {
        for bytes in tensor.bytes.chunks(PORTION) {
            out(bytes)?;
            source.release(bytes);
        }
        return Ok(());
    };
    if len == 0 {
        return Ok(());
    }
    // Whole rows, which are whole blocks of either kind.
    let width = tensor.shape.last().copied().unwrap_or(1).max(1);
    let portion = (PORTION / width).max(1) * width;
    let mut floats = filled(portion.min(len), 0.0_f32)?;
    let most = portion.min(len) / format.block() * format.block_bytes();
    let mut packed = filled(most, 0_u8)?;
    for bytes in tensor.bytes.chunks(portion / piece * size) {
        let n = bytes.len() / size * piece;
        let own = format.as_block().map(DType::Block);
        if own == Some(tensor.dtype) {
            out(bytes)?;
        } else {
            let (floats, packed) = (&mut floats[..n], &mut packed[..]);
            tensor.dtype.decode(bytes, floats);
            format.quantise(floats, packed);
            let packed = &packed[..n / format.block() * format.block_bytes()];
            let kept = format == Format::F32 || finite(format, packed).is_ok();
            if !kept || !floats.iter().all(|v| v.is_finite()) {
                let problem = "has a number that is not finite, or too large for the format";
                return Err(entry(&plan.entry.name, problem));
            }
            out(packed)?;
        }
        source.release(bytes);
    }
    Ok(())
}

fn filled<T: Clone>(len: usize, value: T) -> Result<Box<[T]>> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        what: FORMAT,
        bytes: len.saturating_mul(size_of::<T>()),
    })?;
    out.resize(len, value);
    Ok(out.into_boxed_slice())
}
