//! The settings of a run, kept beside it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::open::Res;
use crate::png_file::write_durably;

/// Fails for a run that was begun with other settings; the first time they are written down.
pub fn same(path: &Path, settings: &Value) -> Res<()> {
    let here = format!("{settings}\n");
    match fs::read_to_string(path) {
        Ok(there) if there == here => Ok(()),
        Ok(there) => Err(format!(
            "{}: this run was begun with other settings; take another folder\n  there {}\n  here  {}",
            path.display(),
            there.trim_end(),
            here.trim_end()
        )
        .into()),
        Err(e) if e.kind() == ErrorKind::NotFound => write_durably(path, here.as_bytes()),
        Err(e) => Err(format!("{}: {e}", path.display()).into()),
    }
}
