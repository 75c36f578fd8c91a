use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;

use super::*;
use crate::{Backend, BackendConfig, Config};

/// A port at which connecting hangs: the queue of connections is full, and nobody accepts any.
async fn unreachable(address: SocketAddr) -> (Socket, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let mut queued = Vec::new();
    let period = Duration::from_millis(200);
    while let Ok(stream) = timeout(period, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (listener, queued)
}

/// Only Linux has more than one IPv4 address of its own.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_drops_packets_does_not_hide_the_next_one() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let second = listener.local_addr().unwrap();
    let first = SocketAddr::from(([127, 0, 0, 1], second.port()));
    let _unreachable = unreachable(first).await;
    let resolver = service_fn(move |_| async move { Ok(vec![first, second].into_iter()) });
    let connector = Connector::with_resolver(Resolver::new(resolver));

    let url = format!("http://backend.test:{}/v1", second.port());
    let config = Config::builder().backend(BackendConfig::new("a", url));
    let backend = Backend::all(&config.build().unwrap(), &[])[0].clone();
    let connecting = connector.connect(backend.origin(), Versions::Any, Duration::from_secs(2));

    assert!(connecting.unwrap().await.is_ok());
    assert_eq!(
        listener.accept().await.unwrap().0.local_addr().unwrap(),
        second
    );
}
