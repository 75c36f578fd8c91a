//! File descriptors: each connection takes one.

use std::io;

#[cfg(unix)]
use rustix::{
    io::Errno,
    process::{Resource, getrlimit, setrlimit},
};

/// Raises the soft limit to the hard one. Where that isn't allowed, the old one has to do.
pub(crate) fn raise_limit() {
    #[cfg(unix)]
    {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// The name of the error where no descriptor is left, to the process or the system.
#[cfg_attr(not(unix), expect(unused_variables))]
pub(crate) fn shortage(error: &io::Error) -> Option<&'static str> {
    #[cfg(unix)]
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => return Some("EMFILE"),
        Some(Errno::NFILE) => return Some("ENFILE"),
        _ => {}
    }
    None
}
