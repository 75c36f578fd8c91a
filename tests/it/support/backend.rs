//! Scripted backends, and addresses at which connecting fails.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Message, Wire, soon};

/// A backend scripted by the test, byte by byte.
pub(crate) struct Backend {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Accepts the next connection.
    pub(crate) async fn accept(&self) -> Wire {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        Wire::new(stream)
    }

    /// Serves every connection with `serve` until the test ends.
    pub(crate) fn serve_all<F: Future<Output = ()> + Send + 'static>(
        self,
        serve: impl Fn(Wire) -> F + Send + 'static,
    ) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                tokio::spawn(serve(Wire::new(stream)));
            }
        });
    }

    /// Whether a connection arrives within 100 ms.
    pub(crate) async fn is_contacted(&self) -> bool {
        timeout(Duration::from_millis(100), self.listener.accept())
            .await
            .is_ok()
    }

    /// Answers every request with `response` until the test ends.
    pub(crate) fn answer_all(self, response: impl Into<Vec<u8>>) {
        let response: Arc<[u8]> = response.into().into();
        self.serve_all(move |mut wire| {
            let response = response.clone();
            async move {
                while wire.try_request().await.is_some() {
                    wire.send(&response).await;
                }
            }
        });
    }

    /// Like [`answer_all`](Self::answer_all), and records the requests.
    pub(crate) fn record_all(self, response: impl Into<Vec<u8>>) -> Record {
        let response: Arc<[u8]> = response.into().into();
        let record = Record {
            address: self.address,
            seen: Arc::default(),
        };
        let seen = record.seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                seen.lock().unwrap().connections += 1;
                let (response, seen) = (response.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut wire = Wire::new(stream);
                    while let Some(request) = wire.try_request().await {
                        seen.lock().unwrap().requests.push(request);
                        wire.send(&response).await;
                    }
                });
            }
        });
        record
    }
}

/// The requests that a backend has received so far.
pub(crate) struct Record {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: Vec<Message>,
}

impl Record {
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// Takes the requests received since the last call.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.seen.lock().unwrap().requests)
    }
}

/// An address at which nobody listens, reserved until the process exits.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = free_port();
    let address = socket.local_addr().expect("bound").as_socket();
    std::mem::forget(socket);
    address.expect("an IP address")
}

fn free_port() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    socket
}

/// A backend at which connecting hangs: its accept queue is full.
pub(crate) struct Unreachable {
    pub(crate) address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl Unreachable {
    pub(crate) async fn start() -> Self {
        let listener = free_port();
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("bound").as_socket();
        let address = address.expect("an IP address");
        let mut queued = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            queued.push(stream.expect("connected, or hanging"));
            assert!(queued.len() < 100, "connecting never hangs on this system");
        }
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}
