//! Reads files that an operator names, if reading them cannot block.

use std::{fs, io, path::Path};

/// Reads a file that [`check`] accepts.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    check(path)?;
    fs::read(path)
}

/// Accepts only what is there and, links followed, a regular file: reading anything else, such as
/// a FIFO, may block for ever.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::other("not a regular file"))
    }
}
