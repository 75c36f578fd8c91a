//! One client of the proxy: it sends its requests one after the other, on one connection or on a
//! stream of HTTP/2 at a time.

use std::{fs, net::SocketAddr, path::Path, rc::Rc, sync::Arc};

use compare_load::monotonic_ns;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, HandshakeKind, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{
    Shared, http2,
    response::{Buffered, Events, read_response},
    workload::{Clients, Request},
};

pub trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Where clients connect to, and how.
pub struct Target {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    stats: Shared,
}

impl Target {
    /// With TLS that trusts an authority. Sessions are resumed only where that is what is measured.
    pub fn new(
        address: SocketAddr,
        clients: Clients,
        authority: Option<&Path>,
        resumes: bool,
        stats: Shared,
    ) -> Self {
        let tls = (clients != Clients::Plain).then(|| {
            let authority = fs::read(authority.expect("--authority")).expect("an authority");
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_slice(&authority).expect("a certificate");
            roots.add(certificate).expect("a certificate");
            let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("TLS");
            let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
            if !resumes {
                tls.resumption = Resumption::disabled();
            }
            let protocol = if clients == Clients::H2 {
                "h2"
            } else {
                "http/1.1"
            };
            tls.alpn_protocols = vec![protocol.into()];
            TlsConnector::from(Arc::new(tls))
        });
        Self {
            address,
            tls,
            stats,
        }
    }

    pub async fn connect(&self) -> Result<Box<dyn Io>, String> {
        let explain = |error| format!("connect: {error}");
        let socket = TcpStream::connect(self.address).await.map_err(explain)?;
        socket.set_nodelay(true).map_err(explain)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(socket));
        };
        let name = ServerName::from(self.address.ip());
        let stream = tls.connect(name, socket).await.map_err(explain)?;
        let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        self.stats.borrow_mut().handshake(is_resumed);
        Ok(Box::new(stream))
    }
}

pub struct Client {
    target: Rc<Target>,
    request: Rc<Request>,
    link: Link,
}

enum Link {
    Http1(Option<Buffered>),
    Http2(Rc<http2::Connection>),
}

impl Client {
    pub fn http1(target: Rc<Target>, request: Rc<Request>) -> Self {
        Self {
            target,
            request,
            link: Link::Http1(None),
        }
    }

    pub fn http2(
        connection: Rc<http2::Connection>,
        target: Rc<Target>,
        request: Rc<Request>,
    ) -> Self {
        Self {
            target,
            request,
            link: Link::Http2(connection),
        }
    }

    /// Sends a request that is due now, or was at `due`, and reads the answer. `opening` is given
    /// back when the first event has come.
    pub async fn exchange(
        &mut self,
        due: Option<u64>,
        opening: Option<OwnedSemaphorePermit>,
    ) -> Result<(), String> {
        let request = &*self.request;
        let stats = &self.target.stats;
        let due = due.unwrap_or_else(monotonic_ns);
        match &mut self.link {
            Link::Http1(kept) => {
                let mut connection = match kept.take() {
                    Some(connection) => connection,
                    None => Buffered::new(self.target.connect().await?),
                };
                let sent = if request.keeps { due } else { monotonic_ns() };
                let written = connection.io.write_all(&request.http1).await;
                written.map_err(|error| format!("send: {error}"))?;
                let events = Events::new(sent, stats, opening);
                let is_reusable = read_response(&mut connection, events, request.leaves).await?;
                if is_reusable && request.keeps {
                    *kept = Some(connection);
                }
            }
            Link::Http2(connection) => {
                let events = Events::new(due, stats, opening);
                connection.exchange(request, events).await?;
            }
        }
        stats.borrow_mut().request_done(monotonic_ns() - due);
        Ok(())
    }
}
