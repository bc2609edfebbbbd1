//! The head of a safetensors file.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use super::{METADATA, malformed};
use crate::error::{Result, product};

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type as the format spells it: `F32`, `BF16`, `U8`.
    pub dtype: &'static str,
    /// Bytes of an element.
    pub size: usize,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Bytes of the tensor.
    ///
    /// # Errors
    /// A product that overflows.
    pub fn bytes(&self) -> Result<usize> {
        product(
            "safetensors",
            &[product("safetensors", &self.shape)?, self.size],
        )
    }
}

/// Length and header of a file with these tensors, whose bytes follow in the same order and without gaps.
///
/// ```
/// use maquette::model::files::safetensors::{Entry, SafetensorsSource, header};
/// use maquette::model::weights::WeightSource;
/// let entry = Entry { name: "w".into(), dtype: "F32", size: 4, shape: vec![1] };
/// let mut file = header(&[entry], &[("made_by", "hand")])?;
/// file.extend(2.5_f32.to_le_bytes());
/// let source = SafetensorsSource::new(&file)?;
/// assert_eq!(source.metadata("made_by"), Some("hand"));
/// assert_eq!(source.tensor("w").unwrap().bytes, 2.5_f32.to_le_bytes());
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// Sizes that overflow.
pub fn header(tensors: &[Entry], metadata: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut text = String::from("{");
    let mut at = 0_usize;
    let written = (|| {
        if !metadata.is_empty() {
            write!(text, "\"{METADATA}\":{{")?;
            for (i, (key, value)) in metadata.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { "," });
                quote(&mut text, key)?;
                text.push(':');
                quote(&mut text, value)?;
            }
            text.push('}');
        }
        for tensor in tensors {
            let end = tensor.bytes().ok().and_then(|bytes| at.checked_add(bytes));
            let end = end.ok_or(core::fmt::Error)?;
            text.push_str(if text.len() == 1 { "" } else { "," });
            quote(&mut text, &tensor.name)?;
            let (dtype, shape) = (tensor.dtype, &tensor.shape);
            write!(
                text,
                ":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
            )?;
            at = end;
        }
        core::fmt::Result::Ok(())
    })();
    written.map_err(|_| malformed("the sizes of the tensors overflow"))?;
    text.push('}');
    // Tensors start at a multiple of eight.
    while text.len() % 8 != 0 {
        text.push(' ');
    }
    let mut out = Vec::from((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(out)
}

fn quote(out: &mut String, text: &str) -> core::fmt::Result {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\0'..'\u{20}' => write!(out, "\\u{:04x}", u32::from(c))?,
            _ => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}
