//! Pictures as PNG bytes, and files that are written whole or not at all.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// RGB pixels of one picture, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    pub width: usize,
    pub height: usize,
    pub pixels: &'a [u8],
}

impl Picture<'_> {
    /// The bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(
            &mut out,
            u32::try_from(self.width)?,
            u32::try_from(self.height)?,
        );
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels)?;
        writer.finish()?;
        Ok(out)
    }
}

/// Writes a file so that nobody ever sees half of it: beside its place first, then renamed. Several threads may write the
/// same file.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    write(path, bytes, |_| Ok(()))
}

/// The same, for what must be whole even after a loss of power. Waits for the disk: not for thousands of pictures.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    write(path, bytes, File::sync_all)
}

fn write(
    path: &Path,
    bytes: &[u8],
    settle: fn(&File) -> std::io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    let count = WRITTEN.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{count}.part", std::process::id()));
    let beside = Path::new(&name);
    let written = (|| {
        let mut file = File::create(beside)?;
        file.write_all(bytes)?;
        settle(&file)?;
        fs::rename(beside, path)
    })();
    written.map_err(|e| {
        // The first error is the one to tell; a leftover does no harm.
        let _ = fs::remove_file(beside);
        format!("cannot write {}: {e}", path.display()).into()
    })
}

/// Makes a folder and proves that files can be written there, before any work is done for it.
pub fn writable_folder(folder: &Path) -> Result<(), Box<dyn Error>> {
    let told = |e: &dyn core::fmt::Display| {
        format!("output folder {} is not writable: {e}", folder.display())
    };
    fs::create_dir_all(folder).map_err(|e| told(&e))?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, b"")
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|e| told(&e))?;
    Ok(())
}
