use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, join, repeat, sink},
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::advance,
};

use super::*;
use crate::socket::Stream;

async fn socket() -> Socket {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let stream = TcpStream::connect(address).await.expect("it listens");
    Socket::new(Stream::Tcp(stream)).expect("a socket")
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_stops_sending_is_read_for_2_s() {
    let socket = socket().await;
    let flood = join(repeat(b'x'), sink());
    let mut linger = Linger::new(socket, flood, Activity::new(Duration::ZERO), None);
    let closing = tokio::spawn(async move { linger.shutdown().await });

    yield_now().await;
    advance(CLOSE_TIMEOUT - Duration::from_millis(1)).await;
    yield_now().await;
    assert!(!closing.is_finished());
    advance(Duration::from_millis(1)).await;
    yield_now().await;
    assert!(closing.is_finished());
}

#[tokio::test]
async fn a_tunnel_shuts_down_this_side_alone() {
    let activity = Activity::new(Duration::ZERO);
    activity.switched();
    let client = join(&b"more"[..], sink());
    let mut linger = Linger::new(socket().await, client, activity, None);
    linger.shutdown().await.expect("shut down");
    // What the client sends is for the tunnel still.
    let mut rest = String::new();
    linger.read_to_string(&mut rest).await.expect("readable");
    assert_eq!(rest, "more");
}
