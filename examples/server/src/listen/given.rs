//! Socket activation: sockets that the service manager has bound (`sd_listen_fds(3)`).

use std::{env, io, num::NonZeroUsize};

use listenfd::ListenFd;
use socket2::SockRef;

use super::{Address, Bound, Listener};

/// The sockets that were passed to this process, with a listener for each worker. The error is a
/// message for the user.
pub(super) fn take(workers: NonZeroUsize) -> Result<Vec<Bound>, String> {
    // Without it, the crate would take descriptors that were meant for another process.
    if env::var_os("LISTEN_PID").is_none() {
        return Ok(Vec::new());
    }
    let mut given = ListenFd::from_env();
    let count = given.len();
    let take = |index| {
        let bound = socket(&mut given, index).and_then(|listener| bound(listener, workers));
        bound.map_err(|error| format!("cannot listen on socket {index} of LISTEN_FDS: {error}"))
    };
    (0..count).map(take).collect()
}

fn socket(given: &mut ListenFd, index: usize) -> io::Result<Listener> {
    let listener = match given.take_unix_listener(index) {
        Ok(listener) => listener.map(Listener::Unix),
        Err(_) => given.take_tcp_listener(index)?.map(Listener::Tcp),
    };
    let listener = listener.ok_or(io::ErrorKind::NotFound)?;
    let socket = match &listener {
        Listener::Tcp(listener) => SockRef::from(listener),
        Listener::Unix(listener) => SockRef::from(listener),
    };
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if !socket.is_listener()? {
        return Err(io::Error::other("it doesn't listen"));
    }
    socket.set_nonblocking(true)?;
    Ok(listener)
}

fn bound(listener: Listener, workers: NonZeroUsize) -> io::Result<Bound> {
    let address = match &listener {
        Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?),
        Listener::Unix(listener) => {
            let address = listener.local_addr()?;
            Address::Unix(address.as_pathname().unwrap_or("".as_ref()).to_owned())
        }
    };
    Ok(Bound {
        address,
        listeners: listener.for_each(workers)?,
        // The path stays with who made it.
        _file: None,
    })
}
