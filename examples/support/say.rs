//! What programs tell on their standard output, which may be a full disk, or a pipe that nobody reads any more.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process;

/// As `println!`, which panics where the line cannot be written: here the program ends, in a pipe without a word. What it
/// has written elsewhere stays, as if it had been interrupted.
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => {
        $crate::say::line(format_args!($($line)*))
    };
}

/// Writes a line to the standard output.
pub fn line(line: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: standard output: {error}");
        }
        process::exit(1);
    }
}
