//! How many requests a backend counts as busy with, however they end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::sleep};
use tower_openai_proxy::{Config, OpenAiProxyLayer, proxy::Handle};

use crate::{
    support::{
        Backend, MANY_CONNECTIONS, Wire, config_of, entry,
        http2::{Http2, full},
        nobody, soon,
    },
    websocket::{SWITCH, handshake},
};

/// Serves a proxy with this configuration in this process.
pub(crate) async fn serve(config: &str) -> (SocketAddr, Handle) {
    let config: Config = config.parse().expect("a configuration");
    let layer = OpenAiProxyLayer::builder(config).all_paths().build();
    let handle = layer.handle();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let app = Router::new().layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, handle)
}

pub(crate) fn counts(handle: &Handle) -> Vec<usize> {
    let backends = handle.backends();
    backends.iter().map(|backend| backend.in_flight()).collect()
}

pub(crate) async fn until(handle: &Handle, expected: &[usize]) {
    let reached = async {
        while counts(handle) != expected {
            sleep(Duration::from_millis(2)).await;
        }
    };
    soon(&format!("counts of {expected:?}"), reached).await;
}

pub(crate) fn get(target: &str) -> String {
    format!("GET /v1{target} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk\r\n\r\n")
}

pub(crate) const STREAM: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";

#[tokio::test]
async fn open_streams_are_counted_until_their_end() {
    let backend = Backend::start().await;
    let config = config_of(&[entry("a", backend.address, "")], "");
    let (proxy, handle) = serve(&config).await;
    let mut open = Vec::new();
    for number in 1..=3 {
        let mut client = Wire::connect(proxy).await;
        client.send(get("/stream")).await;
        let mut wire = backend.accept().await;
        wire.head().await;
        assert_eq!(counts(&handle), [number], "before the head");
        wire.send(STREAM).await;
        client.until("\r\na\r\n").await;
        assert_eq!(counts(&handle), [number], "within the body");
        open.push((client, wire));
    }

    // A reload keeps the count of a backend whose name and URL stay.
    let other = entry("b", backend.address, "");
    let config = config_of(&[entry("a", backend.address, r#""timeout":5"#), other], "");
    handle.reload(config.parse().unwrap());
    assert_eq!(counts(&handle), [3, 0]);

    let (mut client, mut wire) = open.pop().unwrap();
    wire.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    assert_eq!(counts(&handle), [2, 0], "its last byte was forwarded");
    let (client, wire) = open.pop().unwrap();
    drop(client);
    until(&handle, &[1, 0]).await;
    drop(wire);
    let (_client, wire) = open.pop().unwrap();
    drop(wire);
    until(&handle, &[0, 0]).await;
}

#[tokio::test]
async fn a_websocket_is_counted_until_it_is_closed() {
    let backend = Backend::start().await;
    let config = config_of(&[entry("a", backend.address, "")], "");
    let (proxy, handle) = serve(&config).await;
    let mut client = Wire::connect(proxy).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    assert_eq!(counts(&handle), [1]);
    wire.send(SWITCH).await;
    client.head().await;
    wire.send("to the client").await;
    client.until("client").await;
    assert_eq!(counts(&handle), [1]);
    drop(client);
    drop(wire);
    until(&handle, &[0]).await;
}

/// Does what the request's path says.
async fn act(mut wire: Wire) {
    while let Some(head) = wire.try_head().await {
        let path = head.split([' ', '?']).nth(1).unwrap_or_default();
        match path.strip_prefix("/v1/").unwrap_or_default() {
            "whole" => {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
            "empty" => wire.send("HTTP/1.1 204 No Content\r\n\r\n").await,
            "busy" => {
                wire.send("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
            "stream" => {
                wire.send(STREAM).await;
                wire.send("0\r\n\r\n").await;
            }
            "open" => {
                wire.send(STREAM).await;
                wire.rest().await;
                return;
            }
            "cut" => return wire.send(STREAM).await,
            "reset" => {
                wire.send(STREAM).await;
                return wire.reset();
            }
            "close" => return,
            "garbage" => return wire.send("no HTTP\r\n\r\n").await,
            "switch" => {
                wire.send(SWITCH).await;
                wire.rest().await;
                return;
            }
            "switch-and-close" => return wire.send(SWITCH).await,
            "switch-and-reset" => {
                wire.send(SWITCH).await;
                return wire.reset();
            }
            // Nothing more.
            _ => {
                wire.rest().await;
                return;
            }
        }
    }
}

/// How an exchange is begun, and how it ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// As the backend ends it.
    ByItself(&'static str),
    /// The client closes or resets its connection before a head, or behind the first byte.
    BeforeHead {
        with_reset: bool,
    },
    InBody {
        with_reset: bool,
    },
    /// The client stops within its own body.
    Upload,
    /// By the proxy, which waits no longer for a head.
    Timeout,
    /// The client resets its stream of HTTP/2.
    Http2,
    /// A WebSocket, behind its 101.
    WebSocket(&'static str),
    WebSocketByClient {
        with_reset: bool,
    },
    /// The client doesn't wait for the 101.
    BeforeSwitch,
}

const ENDS: [Ends; 22] = [
    Ends::ByItself("whole"),
    Ends::ByItself("empty"),
    Ends::ByItself("busy"),
    Ends::ByItself("stream"),
    Ends::ByItself("cut"),
    Ends::ByItself("reset"),
    Ends::ByItself("close"),
    Ends::ByItself("garbage"),
    Ends::ByItself("models"),
    Ends::BeforeHead { with_reset: false },
    Ends::BeforeHead { with_reset: true },
    Ends::InBody { with_reset: false },
    Ends::InBody { with_reset: true },
    Ends::Upload,
    Ends::Timeout,
    Ends::Http2,
    Ends::WebSocket("switch-and-close"),
    Ends::WebSocket("switch-and-reset"),
    Ends::WebSocket("whole"),
    Ends::WebSocketByClient { with_reset: false },
    Ends::WebSocketByClient { with_reset: true },
    Ends::BeforeSwitch,
];

async fn exchange(proxy: SocketAddr, ends: Ends) {
    if let Ends::Http2 = ends {
        let http2 = Http2::connect(proxy).await;
        let target = format!("http://{proxy}/v1/open");
        let request = http2.request("GET").uri(target).body(full("")).unwrap();
        let response = http2.send(request).await.expect("a head");
        drop(response);
        return;
    }
    let mut client = Wire::connect(proxy).await;
    let end = |client: Wire, with_reset: bool| {
        if with_reset {
            client.reset();
        }
    };
    match ends {
        Ends::ByItself(path) => {
            client.send(get(&format!("/{path}"))).await;
            client.try_head().await;
        }
        Ends::BeforeHead { with_reset } => {
            client.send(get("/silent")).await;
            end(client, with_reset);
        }
        Ends::InBody { with_reset } => {
            client.send(get("/open")).await;
            client.until("\r\na\r\n").await;
            end(client, with_reset);
        }
        Ends::Upload => {
            let head = "POST /v1/silent HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk\r\n\
                        Content-Type: text/plain\r\nContent-Length: 9\r\n\r\n";
            client.send(head).await;
            client.send("part").await;
        }
        Ends::Timeout => {
            client.send(get("/timeout")).await;
            client.head().await;
        }
        Ends::WebSocket(path) => {
            client.send(handshake(&format!("/v1/{path}"), "")).await;
            client.try_head().await;
        }
        Ends::WebSocketByClient { with_reset } => {
            client.send(handshake("/v1/switch", "")).await;
            client.head().await;
            client.send("data").await;
            end(client, with_reset);
        }
        Ends::BeforeSwitch => {
            client.send(handshake("/v1/silent", "")).await;
        }
        Ends::Http2 => unreachable!("above"),
    }
}

/// `IN_FLIGHT_EXCHANGES` sets how many there are.
#[tokio::test]
async fn however_exchanges_end_the_count_is_0_when_all_have() {
    let _many = MANY_CONNECTIONS.lock().await;
    let total = std::env::var("IN_FLIGHT_EXCHANGES").map_or(440, |text| text.parse().unwrap());
    let backends = [Backend::start().await, Backend::start().await];
    let [first, second] = backends.each_ref().map(|backend| backend.address);
    let config = config_of(
        &[
            entry("refused", nobody().await, ""),
            entry("first", first, r#""timeout":3"#),
            entry("second", second, r#""timeout":0.5"#),
        ],
        r#""failover_on":[503],"cooldown":0,"idle_timeout":5"#,
    );
    let (proxy, handle) = serve(&config).await;
    for backend in backends {
        backend.serve_all(act);
    }

    let places = Arc::new(Semaphore::new(64));
    let mut exchanges = JoinSet::new();
    for number in 0..total {
        let place = places.clone().acquire_owned().await.unwrap();
        exchanges.spawn(async move {
            exchange(proxy, ENDS[number % ENDS.len()]).await;
            drop(place);
        });
    }
    while let Some(ended) = exchanges.join_next().await {
        ended.unwrap();
    }

    until(&handle, &[0, 0, 0]).await;
}
