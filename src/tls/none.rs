//! A build without TLS: a connector can't be made.

use std::convert::Infallible;

use tokio::net::TcpStream;

use super::{Credentials, Unusable};

pub(crate) struct Library(Infallible);

#[derive(Clone)]
pub(crate) struct Connector(Infallible);

pub(crate) type TlsStream = TcpStream;

impl Library {
    pub(super) fn new(_: &Credentials) -> Result<Self, Unusable> {
        Err(Unusable::Library("built without TLS".into()))
    }

    pub(super) fn connector(&mut self, _: &[&str]) -> Result<Connector, Unusable> {
        match self.0 {}
    }
}

pub(super) async fn handshake(
    connector: Connector,
    _: &str,
    _: TcpStream,
) -> Result<TlsStream, Infallible> {
    match connector.0 {}
}

pub(super) fn is_certificate(error: &Infallible) -> bool {
    match *error {}
}

pub(crate) fn tcp(tls: &TlsStream) -> &TcpStream {
    tls
}

pub(crate) fn is_truncated(_: &TlsStream) -> bool {
    false
}

pub(crate) fn has_chosen_http2(_: &TlsStream) -> bool {
    false
}
