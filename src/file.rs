//! Files that the configuration names.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Reads a regular file of at most so many bytes: reading anything else, such as a FIFO, may block
/// for ever.
pub(crate) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?
        .take(max_bytes + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > max_bytes {
        return Err(io::Error::other("too large"));
    }
    Ok(content)
}
