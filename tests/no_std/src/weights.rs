//! The shortest source of weights: tensors looked up in a safetensors header as text.

use maquette::model::weights::{DType, Tensor, WeightSource};

/// A safetensors file in memory. Only for files that this repository wrote.
pub struct Bytes {
    header: &'static str,
    data: &'static [u8],
}

impl Bytes {
    pub fn new(file: &'static [u8]) -> Option<Self> {
        let (len, rest) = file.split_first_chunk::<8>()?;
        let (header, data) = rest.split_at_checked(u64::from_le_bytes(*len) as usize)?;
        Some(Self {
            header: core::str::from_utf8(header).ok()?,
            data,
        })
    }
}

/// What stands between two marks.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|found| found.0)
}

fn numbers(list: &str) -> impl Iterator<Item = usize> {
    list.split(',').filter_map(|n| n.trim().parse().ok())
}

impl WeightSource for Bytes {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = between(self.header, &alloc::format!("\"{name}\":{{"), "}")?;
        let mut ends = numbers(between(entry, "\"data_offsets\":[", "]")?);
        Some(Tensor {
            dtype: match between(entry, "\"dtype\":\"", "\"")? {
                "F32" => DType::F32,
                "F16" => DType::F16,
                "BF16" => DType::BF16,
                _ => DType::Other("another type"),
            },
            shape: numbers(between(entry, "\"shape\":[", "]")?).collect(),
            bytes: self.data.get(ends.next()?..ends.next()?)?,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        for part in self.header.split("\":{\"dtype\"") {
            // The last piece ends in the file's closing braces, not in a name.
            if let Some(name) = part.rsplit('"').next().filter(|n| self.tensor(n).is_some()) {
                visit(name);
            }
        }
    }
}
