//! The one error type of the crate.

use core::fmt;

/// What a fallible call of this crate returns.
pub type Result<T> = core::result::Result<T, Error>;

/// Everything that can go wrong, with the operation, the argument and the numbers that disagree.
///
/// ```
/// use maquette::{Error, ImageBatch, ImageSize};
/// let error = ImageBatch::new(2, ImageSize::new(1, 1), &[0; 3]).unwrap_err();
/// assert!(matches!(error, Error::Length { got: 3, want: 6, .. }));
/// assert_eq!(error.to_string(), "image batch: \"pixels\" holds 3 elements, its shape needs 6");
/// // What an implementation of one's own has to report.
/// assert_eq!(Error::foreign("the server is gone").to_string(), "the server is gone");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer has another length than its shape says: a shorter one, or one that is too long where both must agree.
    #[error("{op}: \"{arg}\" holds {got} elements, its shape needs {want}")]
    Length {
        /// Operation that was called.
        op: &'static str,
        /// Argument of the wrong length.
        arg: &'static str,
        /// Elements it holds.
        got: usize,
        /// Elements its shape needs.
        want: usize,
    },
    /// A product of sizes does not fit the machine's address space.
    #[error("{op}: the product of its sizes overflows")]
    Overflow {
        /// Operation that was called.
        op: &'static str,
    },
    /// A size, count or setting lies outside what the operation accepts.
    #[error("{op}: \"{arg}\" is {got}, allowed is {min} to {max}")]
    Range {
        /// Operation that was called.
        op: &'static str,
        /// Setting at fault.
        arg: &'static str,
        /// Its value.
        got: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// A number is NaN or infinite where a finite one is needed.
    #[error("{op}: \"{arg}\" has a NaN or an infinity in row {row}")]
    NotFinite {
        /// Operation that found it.
        op: &'static str,
        /// Argument that holds it.
        arg: &'static str,
        /// Row of the argument.
        row: usize,
    },
    /// A number that should be a probability lies outside [0, 1].
    #[error("{op}: \"{arg}\" is {got} in row {row}, a probability lies in 0 to 1")]
    Probability {
        /// Operation that found it.
        op: &'static str,
        /// Argument that holds it.
        arg: &'static str,
        /// Row of the argument.
        row: usize,
        /// The number.
        got: f32,
    },
    /// A candidate was never started here, or was pruned.
    #[error("{op}: candidate {id} is not alive in this generator")]
    UnknownCandidate {
        /// Operation that was called.
        op: &'static str,
        /// The candidate's number.
        id: u64,
    },
    /// The same candidate stands twice in one batch.
    #[error("{op}: candidate {id} stands twice in one batch")]
    RepeatedCandidate {
        /// Operation that was called.
        op: &'static str,
        /// The candidate's number.
        id: u64,
    },
    /// A finished candidate was stepped.
    #[error("step: candidate {id} has already taken all {steps} steps")]
    Finished {
        /// The candidate's number.
        id: u64,
        /// Steps from start to finished.
        steps: u32,
    },
    /// The call has no meaning for this implementation.
    #[error("{what} is not supported by this implementation")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A word of a prompt is not in the vocabulary.
    #[error("prompt: the word \"{word}\" at byte {at} is not in the vocabulary")]
    UnknownWord {
        /// The word.
        word: Name,
        /// Its first byte in the text.
        at: usize,
    },
    /// A prompt spells out a special token of the model.
    #[error("prompt: the text at byte {at} spells the special token \"{token}\"")]
    SpecialToken {
        /// The token.
        token: Name,
        /// Its first byte in the text.
        at: usize,
    },
    /// A prompt has more tokens than the model reads.
    #[error("prompt: {got} tokens, the model reads at most {max}")]
    PromptTooLong {
        /// Tokens of the prompt.
        got: usize,
        /// Tokens the model reads.
        max: usize,
    },
    /// A tensor that the model needs is not in the checkpoint.
    #[error("weights: tensor \"{name}\" is missing")]
    MissingTensor {
        /// Its name.
        name: Name,
    },
    /// A tensor in the checkpoint belongs to no part of the model.
    #[error("weights: tensor \"{name}\" is not part of this model")]
    UnknownTensor {
        /// Its name.
        name: Name,
    },
    /// A tensor's shape differs from what the config says.
    #[error("weights: tensor \"{name}\" has shape {got}, the config says {want}")]
    TensorShape {
        /// Its name.
        name: Name,
        /// Shape in the file.
        got: Name,
        /// Shape the config asks for.
        want: Name,
    },
    /// A tensor holds a number that is NaN or infinite, or too large for the format that it is kept in.
    #[error(
        "weights: tensor \"{name}\" has a number in element {element} that is not finite, or too large for the format"
    )]
    TensorNumber {
        /// Its name.
        name: Name,
        /// The element, or the first of its block.
        element: usize,
    },
    /// A tensor's element type cannot be read as weights.
    #[error("weights: tensor \"{name}\" has element type {dtype}, which is not read")]
    TensorType {
        /// Its name.
        name: Name,
        /// Element type in the file.
        dtype: &'static str,
    },
    /// A configuration is incomplete or contradicts itself.
    #[error("config: \"{key}\" {problem}")]
    Config {
        /// Key at fault.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An example of a training set is of no use.
    #[error("{op}: example {at} {problem}")]
    Example {
        /// What it was to be used for.
        op: &'static str,
        /// Its place in the set.
        at: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A number of a training step is NaN or infinite; the step changed nothing.
    #[error("training: {what} is NaN or infinite at step {step}")]
    Diverged {
        /// The number.
        what: &'static str,
        /// The step, from 0.
        step: u64,
    },
    /// Memory could not be reserved.
    #[error("{what}: {bytes} bytes could not be reserved")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Size of the request.
        bytes: usize,
    },
    /// A session has no free place for another candidate or view.
    #[error("{what}: all {limit} places are taken")]
    Full {
        /// What has run out.
        what: &'static str,
        /// Places there are.
        limit: usize,
    },
    /// A file's bytes are not what their format promises.
    #[error("{format}: {problem}")]
    Format {
        /// File format.
        format: &'static str,
        /// What is wrong.
        problem: &'static str,
        /// The reader's own account.
        #[source]
        source: Option<Foreign>,
    },
    /// An entry of a file is not what the file's format promises.
    #[error("{format}: \"{entry}\" {problem}")]
    FormatEntry {
        /// File format.
        format: &'static str,
        /// The entry: a tensor, a key, a file of an archive.
        entry: Name,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file cannot be read, or what stands in it is wrong.
    #[error("\"{file}\" cannot be read")]
    File {
        /// Its path.
        file: Name,
        /// Why.
        #[source]
        source: Foreign,
    },
    /// There is no such device, or it cannot be used.
    #[error("{device}: {problem}")]
    NoDevice {
        /// Kind of device.
        device: &'static str,
        /// What is missing.
        problem: &'static str,
        /// The driver's own account.
        #[source]
        source: Option<Foreign>,
    },
    /// A device's driver reports a failure. After a failed launch the device may be lost to the program.
    #[error("{op}: the device's driver failed")]
    Device {
        /// Operation or kernel that failed.
        op: &'static str,
        /// The driver's own account.
        #[source]
        source: Foreign,
    },
    /// An error of somebody else's generator, reward model or weight source, or of the system.
    #[error(transparent)]
    Foreign(Foreign),
}

/// A short text inside an error: borrowed from the program, or owned where memory can be had.
#[derive(Clone, PartialEq, Eq)]
pub struct Name {
    #[cfg(feature = "alloc")]
    text: alloc::boxed::Box<str>,
    #[cfg(not(feature = "alloc"))]
    text: &'static str,
}

impl Name {
    /// A name that stands in the program.
    #[must_use]
    pub fn fixed(text: &'static str) -> Self {
        Self { text: text.into() }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(feature = "alloc")]
impl Name {
    /// A copy of any text, cut after 200 bytes so that a hostile file cannot flood a log.
    #[must_use]
    pub fn owned(text: &str) -> Self {
        let mut end = text.len().min(200);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            text: text[..end].into(),
        }
    }

    /// A shape as text: `[2, 3]`.
    #[must_use]
    pub fn shape(dims: &[usize]) -> Self {
        Self::owned(&alloc::format!("{dims:?}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// An opaque cause from outside this crate. It exists in every build; with `alloc` it can carry any error, whose own causes
/// are its sources, and which can be had back by its type.
///
/// ```
/// use std::io;
///
/// use maquette::{Error, error::Foreign};
///
/// let error = Error::Foreign(Foreign::new(io::Error::from(io::ErrorKind::TimedOut)));
/// let Error::Foreign(cause) = &error else { unreachable!() };
/// let late = cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut);
/// assert!(late);
/// ```
#[derive(Debug)]
pub struct Foreign {
    #[cfg(feature = "alloc")]
    cause: alloc::boxed::Box<dyn core::error::Error + Send + Sync>,
    #[cfg(not(feature = "alloc"))]
    cause: &'static str,
}

impl Foreign {
    /// A cause that is one sentence.
    #[must_use]
    pub fn text(text: &'static str) -> Self {
        Self { cause: text.into() }
    }
}

#[cfg(feature = "alloc")]
impl Foreign {
    /// Wraps any error.
    #[must_use]
    pub fn new(cause: impl Into<alloc::boxed::Box<dyn core::error::Error + Send + Sync>>) -> Self {
        Self {
            cause: cause.into(),
        }
    }

    /// The error that was wrapped, if it is of this type.
    #[must_use]
    pub fn downcast_ref<E: core::error::Error + 'static>(&self) -> Option<&E> {
        self.cause.downcast_ref()
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl core::error::Error for Foreign {
    #[cfg(feature = "alloc")]
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.cause.source()
    }
}

impl Error {
    /// An error of a foreign implementation, from one sentence.
    #[must_use]
    pub fn foreign(text: &'static str) -> Self {
        Self::Foreign(Foreign::text(text))
    }
}

/// Fails unless `got` covers `want`.
pub(crate) fn covers(op: &'static str, arg: &'static str, got: usize, want: usize) -> Result<()> {
    if got < want {
        return Err(Error::Length { op, arg, got, want });
    }
    Ok(())
}

/// The product of sizes, or an error where it does not fit.
pub(crate) fn product(op: &'static str, sizes: &[usize]) -> Result<usize> {
    sizes
        .iter()
        .try_fold(1_usize, |all, &size| all.checked_mul(size))
        .filter(|&all| all <= isize::MAX as usize)
        .ok_or(Error::Overflow { op })
}

/// An empty list with room for `len` elements.
#[cfg(feature = "alloc")]
pub(crate) fn reserved<T>(what: &'static str, len: usize) -> Result<alloc::vec::Vec<T>> {
    let mut list = alloc::vec::Vec::new();
    list.try_reserve_exact(len)
        .map_err(|_| Error::OutOfMemory {
            what,
            bytes: len.saturating_mul(size_of::<T>()),
        })?;
    Ok(list)
}

/// Makes room for `more` elements behind those that a list has.
#[cfg(feature = "alloc")]
pub(crate) fn room<T>(
    what: &'static str,
    list: &mut alloc::vec::Vec<T>,
    more: usize,
) -> Result<()> {
    list.try_reserve(more).map_err(|_| Error::OutOfMemory {
        what,
        bytes: more.saturating_mul(size_of::<T>()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_error_names_operation_argument_and_both_numbers() {
        let text = covers("gemm", "w", 4096, 8192).unwrap_err().to_string();
        assert_eq!(
            text,
            "gemm: \"w\" holds 4096 elements, its shape needs 8192"
        );
    }

    #[test]
    fn a_foreign_error_passes_its_own_causes_on() {
        #[derive(Debug, thiserror::Error)]
        #[error("no answer")]
        struct Late(#[source] core::num::ParseIntError);
        let cause = "x".parse::<u8>().unwrap_err();
        let error = Error::Foreign(Foreign::new(Late(cause.clone())));
        assert_eq!(error.to_string(), "no answer");
        let source = core::error::Error::source(&error).unwrap();
        assert_eq!(source.downcast_ref(), Some(&cause));
        let Error::Foreign(foreign) = error else {
            panic!("{error}")
        };
        assert!(foreign.downcast_ref::<Late>().is_some());
        assert!(foreign.downcast_ref::<core::fmt::Error>().is_none());
        // A sentence is no error of anybody's, and has no cause.
        assert!(core::error::Error::source(&Error::foreign("the server is gone")).is_none());
    }

    #[test]
    fn a_product_that_overflows_is_an_error() {
        assert!(matches!(
            product("x", &[usize::MAX, 2]),
            Err(Error::Overflow { op: "x" })
        ));
        assert_eq!(product("x", &[3, 0, 5]).unwrap(), 0);
    }

    #[test]
    fn a_name_is_cut_at_a_character_boundary() {
        let long = "é".repeat(300);
        assert_eq!(Name::owned(&long).as_str().len(), 200);
    }
}
