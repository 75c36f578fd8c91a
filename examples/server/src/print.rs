//! Messages on standard output and standard error. A failed write, as on a full disk or a pipe
//! without a reader, is ignored: there is nowhere left to report it.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Prints a line on standard output.
pub(crate) fn output(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line on standard error. Once logging has started, [`log::message`](crate::log::message)
/// takes its place.
pub(crate) fn error(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
