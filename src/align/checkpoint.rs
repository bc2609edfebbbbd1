//! A run on disk: everything that a step changes, so that what follows has the same bits.
//!
//! A file is a mark, the number of steps, then for each parameter its name, its values and the optimiser's two means,
//! and last a checksum of all before it; numbers are little-endian.

#[cfg(feature = "std")]
mod file;

use alloc::vec::Vec;

use super::adamw::AdamW;
use super::parameters::Parameter;
use super::trainer::Trainer;
use crate::error::{Error, Name, Result};
use crate::model::learner::Learner;
use crate::ops::Backward;

const FORMAT: &str = "training checkpoint";
const MARK: [u8; 16] = *b"maquette train 1";

const fn malformed(problem: &'static str) -> Error {
    Error::Format {
        format: FORMAT,
        problem,
        source: None,
    }
}

/// FNV-1a of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Reads from the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(malformed("ends before its last parameter"))?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64> {
        let bytes = self.take(8)?;
        bytes
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| malformed("ends inside a number"))
    }

    fn floats(&mut self, len: usize) -> Result<Vec<f32>> {
        let bytes = self.take(len.checked_mul(4).ok_or(malformed("has absurd sizes"))?)?;
        let mut out = super::parameters::zeros(len)?;
        for (v, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *v = f32::from_le_bytes(*b);
        }
        Ok(out)
    }
}

/// The bytes of a checkpoint.
pub(super) fn write(step: u64, optimiser: &AdamW, all: &[Parameter]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let bytes = all
        .iter()
        .map(|p| 16 + p.name.len() + 12 * p.values.len())
        .sum::<usize>()
        .saturating_add(64);
    out.try_reserve_exact(bytes)
        .map_err(|_| Error::OutOfMemory {
            what: FORMAT,
            bytes,
        })?;
    out.extend(MARK);
    for number in [step, optimiser.steps, all.len() as u64] {
        out.extend(number.to_le_bytes());
    }
    for (parameter, [mean, square]) in all.iter().zip(&optimiser.moments) {
        out.extend((parameter.name.len() as u64).to_le_bytes());
        out.extend(parameter.name.as_bytes());
        out.extend((parameter.values.len() as u64).to_le_bytes());
        for v in parameter.values.iter().chain(mean).chain(square) {
            out.extend(v.to_le_bytes());
        }
    }
    out.extend(checksum(&out).to_le_bytes());
    Ok(out)
}

/// What a checkpoint holds: steps taken, the values of the parameters, the optimiser.
pub(super) struct Read {
    pub(super) step: u64,
    pub(super) values: Vec<Vec<f32>>,
    pub(super) optimiser: AdamW,
}

/// Reads a checkpoint of these parameters.
pub(super) fn read(bytes: &[u8], all: &[Parameter]) -> Result<Read> {
    let (body, sum) = bytes
        .split_last_chunk::<8>()
        .ok_or(malformed("is shorter than its checksum"))?;
    let mut reader = Reader(body);
    if reader.take(MARK.len())? != MARK {
        return Err(malformed("does not begin as one"));
    }
    if checksum(body) != u64::from_le_bytes(*sum) {
        return Err(malformed("has another checksum than it states"));
    }
    let (step, steps, count) = (reader.number()?, reader.number()?, reader.number()?);
    if count != all.len() as u64 {
        return Err(malformed("has another number of parameters"));
    }
    let (mut values, mut moments) = (Vec::new(), Vec::new());
    for parameter in all {
        let foreign = || Error::FormatEntry {
            format: FORMAT,
            entry: Name::owned(&parameter.name),
            problem: "is not where the model has it, or has another size",
        };
        let len = usize::try_from(reader.number()?).map_err(|_| foreign())?;
        if reader.take(len)? != parameter.name.as_bytes()
            || reader.number()? != parameter.values.len() as u64
        {
            return Err(foreign());
        }
        let len = parameter.values.len();
        values.push(reader.floats(len)?);
        moments.push([reader.floats(len)?, reader.floats(len)?]);
    }
    if !reader.0.is_empty() {
        return Err(malformed("goes on after its last parameter"));
    }
    Ok(Read {
        step,
        values,
        optimiser: AdamW { steps, moments },
    })
}

impl<B: Backward, L: Learner<B>> Trainer<B, L> {
    /// The bytes of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Config`] for whole weights that were not read, or no memory.
    pub fn checkpoint(&self) -> Result<Vec<u8>> {
        self.engine.filled()?;
        write(self.step, &self.optimiser, self.engine.parameters())
    }

    /// Goes on where a checkpoint of the same parameters was written.
    ///
    /// # Errors
    /// Bytes that are no whole checkpoint, or one of other parameters; then nothing has changed.
    pub fn resume(&mut self, bytes: &[u8]) -> Result<()> {
        let read = read(bytes, self.engine.parameters())?;
        self.engine.change(|parameters| {
            for (parameter, values) in parameters.all.iter_mut().zip(read.values) {
                parameter.values = values;
            }
            Ok(())
        })?;
        (self.optimiser, self.step) = (read.optimiser, read.step);
        Ok(())
    }
}
