//! Checkpoints as files.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::align::trainer::Trainer;
use crate::error::{Error, Foreign, Name, Result};
use crate::model::learner::Learner;
use crate::ops::Backward;

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::File {
        file: Name::owned(&path.to_string_lossy()),
        source: Foreign::new(error),
    }
}

impl<B: Backward, L: Learner<B>> Trainer<B, L> {
    /// Writes a checkpoint to a file beside `path`, then gives it that name: at every moment there is a whole one.
    ///
    /// # Errors
    /// A file that cannot be written, or no memory.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.checkpoint()?;
        let mut name = path.to_path_buf().into_os_string();
        name.push(".part");
        let part = Path::new(&name);
        let written = (|| {
            let mut file = File::create(part)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(part, path)
        })();
        written.map_err(|e| failed(path, e))
    }

    /// Goes on from a file, if there is one; whether there was.
    ///
    /// # Errors
    /// A file that cannot be read, and as [`resume`](Self::resume).
    pub fn resume_file(&mut self, path: impl AsRef<Path>) -> Result<bool> {
        let path = path.as_ref();
        match fs::read(path) {
            Ok(bytes) => self.resume(&bytes).map(|()| true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(path, e)),
        }
    }
}
