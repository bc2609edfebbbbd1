//! Tensors and metadata from the bytes of a GGUF file.
//!
//! Header, metadata, table of tensors, padding, elements. Counts and lengths are believed only as far as bytes follow.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::str;

use super::cursor::Cursor;
use super::table::{Table, overlap, push};
use crate::error::{Error, Name, Result};
use crate::model::weights::{DType, Tensor, WeightSource};
use crate::quant::Block;

const FORMAT: &str = "gguf";
const MAGIC: &[u8] = b"GGUF";
const MAX_TENSORS: usize = 1 << 17;
const MAX_ENTRIES: usize = 1 << 16;
/// Most sizes of a tensor.
const MAX_DIMS: u32 = 4;
/// Most arrays inside each other.
const MAX_DEPTH: u32 = 4;
/// Longest header, metadata and table of tensors together. Vocabularies are the largest part: some 16 MiB.
const MAX_TABLE: usize = 1 << 26;
/// What tensors are aligned to where the metadata does not say.
const ALIGNMENT: u32 = 32;

const fn malformed(problem: &'static str) -> Error {
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

const CUT: &str = "the file ends inside its table, or the table has more than 64 MiB";

/// A checkpoint in one GGUF file, borrowed. Sizes are outermost first, as everywhere in this crate; the file has them
/// the other way round.
///
/// ```
/// use maquette::model::files::gguf::{GgufSource, Metadata};
/// // Version 3, no tensor, one entry of metadata: a text.
/// let mut file = b"GGUF".to_vec();
/// file.extend(3_u32.to_le_bytes());
/// file.extend(0_u64.to_le_bytes());
/// file.extend(1_u64.to_le_bytes());
/// file.extend(4_u64.to_le_bytes());
/// file.extend(b"name");
/// file.extend(8_u32.to_le_bytes());
/// file.extend(5_u64.to_le_bytes());
/// file.extend(b"small");
/// let source = GgufSource::new(&file)?;
/// assert_eq!(source.metadata("name"), Some(Metadata::Text("small")));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufSource<'a> {
    metadata: Table<'a, Metadata<'a>>,
    tensors: Table<'a, Stored<'a>>,
}

/// A value of the metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Metadata<'a> {
    /// A number without a sign.
    Unsigned(u64),
    /// A number with a sign.
    Signed(i64),
    /// A number with a point.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// A list.
    List(List<'a>),
}

/// A list of the metadata, read as it is walked through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// Elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = Metadata<'a>> {
        let (kind, mut c) = (self.kind, Cursor::new(self.bytes));
        // Every element was read once, when the file was opened.
        (0..self.len).map_while(move |_| value(&mut c, kind, MAX_DEPTH).ok())
    }
}

#[derive(Debug)]
struct Stored<'a> {
    dtype: DType,
    shape: Vec<usize>,
    data: &'a [u8],
}

impl<'a> GgufSource<'a> {
    /// Reads the table of a file.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::FormatEntry`] for another format or version, a table that ends early, a value or
    /// name that is no UTF-8, a name or key twice, an alignment that is no power of two, and tensors that lie outside
    /// the file or over each other. [`Error::OutOfMemory`].
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let table = bytes.get(..MAX_TABLE).unwrap_or(bytes);
        let mut c = Cursor::new(table);
        if c.take(4) != Some(MAGIC) {
            return Err(malformed("is no GGUF file"));
        }
        match c.u32().ok_or(malformed(CUT))? {
            2 | 3 => {}
            version if (1..16).contains(&version.swap_bytes()) => {
                return Err(malformed("its numbers are big-endian"));
            }
            _ => return Err(malformed("is of a version other than 2 and 3")),
        }
        let n_tensors = count(&mut c, MAX_TENSORS, "has more than 131072 tensors")?;
        let n_entries = count(&mut c, MAX_ENTRIES, "has more than 65536 metadata entries")?;

        let mut metadata = Vec::new();
        for _ in 0..n_entries {
            let key = text(&mut c)?;
            let kind = c.u32().ok_or(malformed(CUT))?;
            let value = value(&mut c, kind, MAX_DEPTH).map_err(|problem| entry(key, problem))?;
            push(FORMAT, &mut metadata, (Cow::Borrowed(key), value))?;
        }
        let metadata = Table::new(FORMAT, metadata)?;
        const KEY: &str = "general.alignment";
        let alignment = match metadata.find(KEY) {
            None => ALIGNMENT.into(),
            Some(Metadata::Unsigned(n)) => *n,
            Some(_) => return Err(entry(KEY, "is no number without a sign")),
        };
        if !alignment.is_power_of_two() {
            return Err(entry(KEY, "is no power of two"));
        }
        let alignment = usize::try_from(alignment).map_err(|_| entry(KEY, "is too large"))?;

        let mut infos = Vec::new();
        for _ in 0..n_tensors {
            let name = text(&mut c)?;
            let info = Info::read(&mut c).map_err(|problem| entry(name, problem))?;
            push(FORMAT, &mut infos, (name, info))?;
        }
        let start = c.position().checked_next_multiple_of(alignment);
        let data = match start.and_then(|start| bytes.get(start..)) {
            Some(data) => data,
            // A file of metadata alone need not be padded.
            None if infos.is_empty() => &[],
            None => return Err(malformed("ends before the first tensor")),
        };
        let (mut tensors, mut ranges) = (Vec::new(), Vec::new());
        for (name, info) in infos {
            let wrong = |problem| entry(name, problem);
            if info.at % alignment != 0 {
                return Err(wrong("does not start at a multiple of the alignment"));
            }
            let end = info.at.checked_add(info.bytes);
            let own = end.and_then(|end| data.get(info.at..end));
            let own = own.ok_or(wrong("lies outside the file"))?;
            push(FORMAT, &mut ranges, (info.at, info.at + info.bytes, name))?;
            let stored = Stored {
                dtype: info.dtype,
                shape: info.shape,
                data: own,
            };
            push(FORMAT, &mut tensors, (Cow::Borrowed(name), stored))?;
        }
        if let Some(name) = overlap(&mut ranges, false) {
            return Err(entry(name, "lies over another tensor"));
        }
        Ok(Self {
            metadata,
            tensors: Table::new(FORMAT, tensors)?,
        })
    }

    /// A value of the metadata.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<Metadata<'a>> {
        self.metadata.find(key).copied()
    }

    /// Shows the key of every value.
    pub fn keys(&self, visit: &mut dyn FnMut(&str)) {
        self.metadata.names(visit);
    }
}

fn count(c: &mut Cursor<'_>, most: usize, problem: &'static str) -> Result<usize> {
    let n = c.u64().ok_or(malformed(CUT))?;
    let n = usize::try_from(n).ok().filter(|n| *n <= most);
    n.ok_or(malformed(problem))
}

fn text<'a>(c: &mut Cursor<'a>) -> Result<&'a str> {
    match string(c) {
        Ok(text) => Ok(text),
        Err(problem) => Err(malformed(problem)),
    }
}

type Read<T> = core::result::Result<T, &'static str>;

fn string<'a>(c: &mut Cursor<'a>) -> Read<&'a str> {
    let len = c.size().ok_or(CUT)?;
    let bytes = c.take(len).ok_or(CUT)?;
    str::from_utf8(bytes).map_err(|_| "the file has a text that is no UTF-8")
}

/// A value of a kind, in arrays at most `depth` deep.
fn value<'a>(c: &mut Cursor<'a>, kind: u32, depth: u32) -> Read<Metadata<'a>> {
    let value = match kind {
        0 => c.u8().map(|n| Metadata::Unsigned(n.into())),
        1 => c
            .array()
            .map(|b| Metadata::Signed(i8::from_le_bytes(b).into())),
        2 => c.u16().map(|n| Metadata::Unsigned(n.into())),
        3 => c
            .array()
            .map(|b| Metadata::Signed(i16::from_le_bytes(b).into())),
        4 => c.u32().map(|n| Metadata::Unsigned(n.into())),
        5 => c
            .array()
            .map(|b| Metadata::Signed(i32::from_le_bytes(b).into())),
        6 => c
            .array()
            .map(|b| Metadata::Float(f32::from_le_bytes(b).into())),
        7 => match c.u8() {
            Some(n @ 0..=1) => Some(Metadata::Bool(n == 1)),
            Some(_) => return Err("is neither true nor false"),
            None => None,
        },
        8 => Some(Metadata::Text(string(c)?)),
        9 => Some(Metadata::List(list(c, depth)?)),
        10 => c.u64().map(Metadata::Unsigned),
        11 => c.array().map(|b| Metadata::Signed(i64::from_le_bytes(b))),
        12 => c.array().map(|b| Metadata::Float(f64::from_le_bytes(b))),
        _ => return Err("is of an unknown kind"),
    };
    value.ok_or(CUT)
}

/// Bytes of a value, where all of a kind have the same.
const fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn list<'a>(c: &mut Cursor<'a>, depth: u32) -> Read<List<'a>> {
    let depth = depth.checked_sub(1).ok_or("has arrays nested too deeply")?;
    let kind = c.u32().ok_or(CUT)?;
    let len = c.size().ok_or(CUT)?;
    let mut rest = c.clone();
    // Numbers are passed in one step; texts and lists take at least eight bytes each.
    match width(kind) {
        Some(width) if kind != 7 => {
            let bytes = len.checked_mul(width).ok_or(CUT)?;
            rest.take(bytes).ok_or(CUT)?;
        }
        _ => {
            for _ in 0..len {
                value(&mut rest, kind, depth)?;
            }
        }
    }
    let bytes = c.take(rest.position() - c.position()).ok_or(CUT)?;
    Ok(List { kind, len, bytes })
}

/// A line of the table of tensors.
struct Info {
    dtype: DType,
    shape: Vec<usize>,
    at: usize,
    bytes: usize,
}

impl Info {
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        let dims = c.u32().ok_or(CUT)?;
        if dims > MAX_DIMS {
            return Err("has more than 4 sizes");
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(
                c.size()
                    .ok_or("has a size that is too large, or the file ends")?,
            );
        }
        let (dtype, piece) = kind(c.u32().ok_or(CUT)?).ok_or("has an unknown element type")?;
        let at = c
            .size()
            .ok_or("has an offset that is too large, or the file ends")?;
        // The file has the innermost size first.
        let width = shape.first().copied().unwrap_or(1);
        if !width.is_multiple_of(piece.0) {
            return Err("has rows that are no whole blocks");
        }
        shape.reverse();
        let elements = shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n));
        let bytes = elements.and_then(|n| (n / piece.0).checked_mul(piece.1));
        Ok(Self {
            dtype,
            shape,
            at,
            bytes: bytes.ok_or("has sizes whose product overflows")?,
        })
    }
}

/// An element type, with the elements and bytes of its smallest piece.
fn kind(number: u32) -> Option<(DType, (usize, usize))> {
    let block = |block: Block| Some((DType::Block(block), (block.len(), block.bytes())));
    let other = |name, piece| Some((DType::Other(name), piece));
    match number {
        0 => Some((DType::F32, (1, 4))),
        1 => Some((DType::F16, (1, 2))),
        2 => block(Block::Q4_0),
        3 => block(Block::Q4_1),
        6 => block(Block::Q5_0),
        7 => block(Block::Q5_1),
        8 => block(Block::Q8_0),
        10 => block(Block::Q2K),
        11 => block(Block::Q3K),
        12 => block(Block::Q4K),
        13 => block(Block::Q5K),
        14 => block(Block::Q6K),
        16 => other("IQ2_XXS", (256, 66)),
        17 => other("IQ2_XS", (256, 74)),
        18 => other("IQ3_XXS", (256, 98)),
        19 => other("IQ1_S", (256, 50)),
        20 => block(Block::Iq4Nl),
        21 => other("IQ3_S", (256, 110)),
        22 => other("IQ2_S", (256, 82)),
        23 => other("IQ4_XS", (256, 136)),
        24 => other("I8", (1, 1)),
        25 => other("I16", (1, 2)),
        26 => other("I32", (1, 4)),
        27 => other("I64", (1, 8)),
        28 => other("F64", (1, 8)),
        29 => other("IQ1_M", (256, 56)),
        30 => Some((DType::BF16, (1, 2))),
        34 => other("TQ1_0", (256, 54)),
        35 => other("TQ2_0", (256, 66)),
        39 => other("MXFP4", (32, 17)),
        40 => other("NVFP4", (64, 36)),
        41 => other("Q1_0", (128, 18)),
        _ => None,
    }
}

impl WeightSource for GgufSource<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.find(name).map(|stored| Tensor {
            dtype: stored.dtype,
            shape: stored.shape.clone(),
            bytes: stored.data,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.tensors.names(visit);
    }
}
