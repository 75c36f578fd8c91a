//! Asks a running server whether it is well: the health check of a container that has no shell.

use std::{
    error::Error,
    fmt,
    io::{self, BufRead, BufReader, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use http::Uri;

/// For connecting, and for each read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Requests this URL. The error says why the answer isn't a success.
pub(crate) fn ask(url: &Uri) -> Result<(), Unwell> {
    let line = status_line(url).map_err(|error| Unwell(error.to_string()))?;
    let status = line.split(' ').nth(1).unwrap_or_default();
    if status.len() == 3 && status.starts_with('2') {
        Ok(())
    } else {
        Err(Unwell(format!("the answer is `{}`", line.trim_end())))
    }
}

/// An `http` URL with a host.
pub(crate) fn parse(url: &str) -> Option<Uri> {
    let url: Uri = url.parse().ok()?;
    let is_usable = url.scheme_str() == Some("http") && url.host().is_some();
    is_usable.then_some(url)
}

fn status_line(url: &Uri) -> io::Result<String> {
    let host = url.host().unwrap_or_default();
    let name = host.trim_matches(['[', ']']);
    let mut last = io::ErrorKind::NotFound.into();
    for address in (name, url.port_u16().unwrap_or(80)).to_socket_addrs()? {
        let stream = match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_read_timeout(Some(TIMEOUT))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        (&stream).write_all(head.as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        return Ok(line);
    }
    Err(last)
}

/// Why a server isn't well.
#[derive(Debug)]
pub(crate) struct Unwell(String);

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server isn't well: {}", self.0)
    }
}

impl Error for Unwell {}
