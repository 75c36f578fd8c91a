//! A build without TLS: a connector can't be made.

use std::{error::Error as StdError, future::Pending};

use http::Uri;
use tokio::net::TcpStream;

use crate::{
    error::{BoxError, Kind},
    forward::tcp::Tcp,
};

pub(crate) enum Connector {}

pub(crate) type TlsStream = TcpStream;

impl Connector {
    pub(crate) fn new(_: &[&str]) -> Result<Self, BoxError> {
        Err("built without TLS".into())
    }
}

pub(crate) fn connect(
    connector: &Connector,
    _: Tcp,
    _: Uri,
) -> Pending<Result<TlsStream, BoxError>> {
    match *connector {}
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

pub(crate) fn kind(_: &(dyn StdError + 'static)) -> Option<Kind> {
    None
}
