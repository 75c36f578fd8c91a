//! TCP listeners that share a port.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::BACKLOG;

/// One listener per worker, all on one address: the kernel spreads connections over them.
pub(super) fn bind(address: SocketAddr, workers: NonZeroUsize) -> io::Result<Vec<TcpListener>> {
    // The first one listens before it shares its port, so that at no moment another program's
    // first one can listen there as well.
    let first = listen(address, false)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    if workers.get() > 1 {
        share_port(&SockRef::from(&listeners[0]))?;
    }
    for _ in 1..workers.get() {
        listeners.push(listen(address, true)?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(cfg!(unix))?;
    if shared {
        share_port(&socket)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(unix)]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "more than one worker needs a system with SO_REUSEPORT; use --workers 1",
    ))
}
