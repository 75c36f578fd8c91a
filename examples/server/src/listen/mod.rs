//! Where the server listens: at addresses of its own, or on the sockets that it was given.

#[cfg(unix)]
mod given;
mod tcp;
#[cfg(test)]
mod tests;
#[cfg(unix)]
mod unix;

#[cfg(unix)]
use std::path::PathBuf;
use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    str::FromStr,
};

use crate::socket::Stream;

/// How many connections the system keeps that no worker has accepted yet.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    pub(crate) const ALLOWED: &str = if cfg!(unix) {
        "an IP address and a port, such as 127.0.0.1:8000, or `unix:` and a path"
    } else {
        "an IP address and a port, such as 127.0.0.1:8000"
    };
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Some(path).filter(|path| !path.is_empty());
            return path.map(|path| Self::Unix(path.into())).ok_or(());
        }
        text.parse().map(Self::Tcp).map_err(drop)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address at which the server listens. If it made a socket's file, that goes with this value.
pub(crate) struct Bound {
    pub(crate) address: Address,
    /// One for each worker that hasn't taken its own yet.
    pub(crate) listeners: Vec<Listener>,
    #[cfg(unix)]
    _file: Option<unix::SocketFile>,
}

/// Listens at all addresses, with one listener per worker at each, or on the sockets that the
/// service manager has passed in their place. The error is a message for the user.
pub(crate) fn bind(addresses: &[Address], workers: NonZeroUsize) -> Result<Vec<Bound>, String> {
    #[cfg(unix)]
    {
        let given = given::take(workers)?;
        if !given.is_empty() {
            return Ok(given);
        }
    }
    let bind = |address: &Address| {
        let bound = Bound::new(address, workers);
        bound.map_err(|error| format!("cannot listen on {address}: {error}"))
    };
    addresses.iter().map(bind).collect()
}

impl Bound {
    fn new(address: &Address, workers: NonZeroUsize) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listeners = tcp::bind(*address, workers)?;
                Ok(Self {
                    address: Address::Tcp(listeners[0].local_addr()?),
                    listeners: listeners.into_iter().map(Listener::Tcp).collect(),
                    #[cfg(unix)]
                    _file: None,
                })
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let (listener, file) = unix::bind(path)?;
                Ok(Self {
                    address: address.clone(),
                    listeners: Listener::Unix(listener).for_each(workers)?,
                    _file: Some(file),
                })
            }
        }
    }
}

/// A socket that takes connections, and doesn't block.
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// The same socket so many times: who is free first gets the next connection.
    #[cfg(unix)]
    fn for_each(self, workers: NonZeroUsize) -> io::Result<Vec<Self>> {
        let clone = |_| match &self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        };
        let mut listeners: Vec<_> = (1..workers.get()).map(clone).collect::<Result<_, _>>()?;
        listeners.push(self);
        Ok(listeners)
    }

    /// For the runtime that this is called in.
    pub(crate) fn register(self) -> io::Result<Acceptor> {
        Ok(match self {
            Self::Tcp(listener) => Acceptor::Tcp(tokio::net::TcpListener::from_std(listener)?),
            #[cfg(unix)]
            Self::Unix(listener) => Acceptor::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }
}

/// A [`Listener`] of a runtime.
pub(crate) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| Stream::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| Stream::Unix(stream))
            }
        }
    }
}
