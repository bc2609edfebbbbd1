//! Tensors from the bytes of a safetensors file.
//!
//! A length, a header in JSON, the tensors one after the other.

mod write;

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::str;

pub use self::write::{Entry, header};
use super::json::Scanner;
use super::table::{Table, push};
use crate::error::{Error, Name, Result, product};
use crate::model::weights::{DType, Tensor, WeightSource};

pub(super) const FORMAT: &str = "safetensors";

/// Longest header.
const MAX_HEADER: usize = 1 << 24;
const MAX_TENSORS: usize = 1 << 17;
/// Most sizes of a tensor.
const MAX_DIMS: usize = 8;
/// Key of the metadata.
const METADATA: &str = "__metadata__";

const fn malformed(problem: &'static str) -> Error {
    Error::Format {
        format: FORMAT,
        problem,
        source: None,
    }
}

pub(super) fn entry(name: &str, problem: &'static str) -> Error {
    Error::FormatEntry {
        format: FORMAT,
        entry: Name::owned(name),
        problem,
    }
}

/// A checkpoint in one safetensors file, borrowed.
///
/// ```
/// use maquette::model::files::safetensors::SafetensorsSource;
/// use maquette::model::weights::WeightSource;
/// let mut file = 56_u64.to_le_bytes().to_vec();
/// file.extend(br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#);
/// file.extend(2.5_f32.to_le_bytes());
/// let source = SafetensorsSource::new(&file)?;
/// assert_eq!(source.tensor("w").unwrap().shape, [1]);
/// assert!(SafetensorsSource::new(&file[..60]).is_err());
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsSource<'a> {
    tensors: Table<'a, Stored<'a>>,
    metadata: Table<'a, Cow<'a, str>>,
}

#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) data: &'a [u8],
}

impl<'a> SafetensorsSource<'a> {
    /// Reads the table of a file.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::FormatEntry`] if the header is no valid table over exactly these bytes: a name
    /// twice, a tensor of another length than its shape has, bytes that belong to no tensor or to two.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let (len, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or(malformed("the file is shorter than eight bytes"))?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok();
        let (header, data) = len
            .and_then(|len| rest.split_at_checked(len))
            .ok_or(malformed("the header is longer than the file"))?;
        if header.len() > MAX_HEADER {
            return Err(malformed("the header has more than 16 MiB"));
        }
        let header =
            str::from_utf8(header).map_err(|_| malformed("the header is no valid UTF-8"))?;

        let (mut metadata, mut infos) = (Vec::new(), Vec::new());
        let mut scanner = Scanner::new(FORMAT, header);
        scanner.object(&mut |s, name| {
            if name == METADATA {
                return s.object(&mut |s, key| {
                    let value = s.string()?;
                    push(FORMAT, &mut metadata, (key.clone(), value))
                });
            }
            if infos.len() == MAX_TENSORS {
                return Err(malformed("the header has more than 131072 tensors"));
            }
            let info = Info::read(s, name)?;
            push(FORMAT, &mut infos, (name.clone(), info))
        })?;
        scanner.end()?;

        infos.sort_by_key(|(_, info)| (info.start, info.end));
        let mut tensors = Vec::new();
        let mut at = 0;
        for (name, info) in infos {
            let wrong = |problem| entry(&name, problem);
            if info.start != at {
                return Err(wrong("does not start where the tensor before it ends"));
            }
            let own = data.get(info.start..info.end);
            let own = own.ok_or(wrong("lies outside the file"))?;
            info.check(own.len()).map_err(wrong)?;
            at = info.end;
            let stored = Stored {
                dtype: info.dtype,
                shape: info.shape,
                data: own,
            };
            push(FORMAT, &mut tensors, (name, stored))?;
        }
        if at != data.len() {
            return Err(malformed("the file goes on after its last tensor"));
        }
        Ok(Self {
            tensors: Table::new(FORMAT, tensors)?,
            metadata: Table::new(FORMAT, metadata)?,
        })
    }

    /// A text of the metadata.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.find(key).map(|text| &**text)
    }

    pub(super) fn stored(&self, name: &str) -> Option<&Stored<'a>> {
        self.tensors.find(name)
    }
}

/// A line of the header.
struct Info {
    dtype: DType,
    /// Bytes of an element, where the type is known.
    size: Option<usize>,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Info {
    fn read(s: &mut Scanner<'_>, name: &str) -> Result<Self> {
        let (mut dtype, mut shape, mut ends) = (None, None, None);
        s.object(&mut |s, key| match &**key {
            "dtype" => {
                dtype = Some(element(&s.string()?));
                Ok(())
            }
            "shape" => sizes(s, MAX_DIMS).map(|sizes| shape = Some(sizes)),
            "data_offsets" => sizes(s, 2).map(|sizes| ends = Some(sizes)),
            _ => s.skip(),
        })?;
        match (dtype, shape, ends.as_deref()) {
            (Some((dtype, size)), Some(shape), Some(&[start, end])) if start <= end => Ok(Self {
                dtype,
                size,
                shape,
                start,
                end,
            }),
            _ => Err(entry(
                name,
                "lacks a dtype, a shape or two data_offsets in order",
            )),
        }
    }

    fn check(&self, bytes: usize) -> core::result::Result<(), &'static str> {
        let len = product(FORMAT, &self.shape).ok();
        let want = self
            .size
            .map(|size| len.and_then(|len| len.checked_mul(size)));
        match want {
            Some(None) => Err("has sizes whose product overflows"),
            Some(Some(want)) if want != bytes => Err("has another length than its shape"),
            _ => Ok(()),
        }
    }
}

fn sizes(s: &mut Scanner<'_>, most: usize) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    s.list(&mut |s| {
        if sizes.len() == most {
            return Err(malformed(
                "a tensor has more than 8 sizes, or not two data_offsets",
            ));
        }
        sizes.push(s.whole()?);
        Ok(())
    })?;
    Ok(sizes)
}

/// An element type and its bytes. Types of other sizes than whole bytes, and new ones, are not looked into.
fn element(name: &str) -> (DType, Option<usize>) {
    match name {
        "F32" => (DType::F32, Some(4)),
        "F16" => (DType::F16, Some(2)),
        "BF16" => (DType::BF16, Some(2)),
        "F64" => (DType::Other("F64"), Some(8)),
        "I64" => (DType::Other("I64"), Some(8)),
        "I32" => (DType::Other("I32"), Some(4)),
        "I16" => (DType::Other("I16"), Some(2)),
        "I8" => (DType::Other("I8"), Some(1)),
        "U64" => (DType::Other("U64"), Some(8)),
        "U32" => (DType::Other("U32"), Some(4)),
        "U16" => (DType::Other("U16"), Some(2)),
        "U8" => (DType::Other("U8"), Some(1)),
        "BOOL" => (DType::Other("BOOL"), Some(1)),
        _ => (DType::Other("another type"), None),
    }
}

impl WeightSource for SafetensorsSource<'_> {
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
