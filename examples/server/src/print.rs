//! Messages on standard output and standard error. A failed write, as on a full disk or a pipe
//! without a reader, is ignored: there is nowhere left to report it.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::log;

/// Prints a line on standard output.
pub(crate) fn output(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line on standard error, in the format of the log. Once logging has started, [`log::message`](crate::log::message)
/// takes its place.
pub(crate) fn error(line: impl Display) {
    let _ = io::stderr().write_all(log::line(line).as_bytes());
}
