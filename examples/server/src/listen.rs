use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
};

use socket2::{Domain, Protocol, Socket, Type};

const BACKLOG: i32 = 4096;

/// One listener a worker, all on one address: the kernel spreads connections over them.
pub(crate) fn bind(address: SocketAddr, workers: NonZeroUsize) -> io::Result<Vec<TcpListener>> {
    // Alone first: a shared port could silently be another program's that shares it, too.
    let first = listen(address, false)?;
    if workers.get() == 1 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..workers.get()).map(|_| listen(address, true)).collect()
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
