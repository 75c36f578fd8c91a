//! Which clock ends an exchange, and when none does.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::support::{
    self, Backend, Message, PATIENCE, Server, Unreachable, Wire, config_of, config_with, entry,
    find,
    http2::{self, Http2},
    post, response, soon,
};

const HEAD: &str =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n";

/// What the sockets between two programs can't hold.
const LARGE: usize = 24 << 20;

fn check(answer: &Message, status: u16, code: &str) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.error_code(), code);
}

/// The next request of a new connection.
async fn asked(backend: &Backend) -> Wire {
    let mut wire = backend.accept().await;
    wire.request().await;
    wire
}

/// Waits for so much of a time that a clock would have fired in it.
async fn outwait(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds)).await;
}

// `timeout`.

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_given_up() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.3"#));
    let mut client = Wire::connect(server.address).await;
    for half_a_head in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 102 Processing\r\n\r\n",
    ] {
        client.send(post("{}")).await;
        let mut wire = asked(&backend).await;
        wire.send(half_a_head).await;
        check(&client.response().await, 504, "http_response_timeout");
        wire.closed().await;
    }
    // And the server goes on.
    client.send(post("{}")).await;
    asked(&backend).await.send(response("200 OK", "1")).await;
    assert_eq!(client.response().await.body, b"1");
}

#[tokio::test]
async fn interim_responses_do_not_stop_the_clock() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.5"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    let processing = async {
        while wire
            .stream
            .write_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            .await
            .is_ok()
        {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let (answer, ()) = tokio::join!(client.response(), processing);
    check(&answer, 504, "http_response_timeout");
}

async fn upload_slowly(framing: &str, chunks: [&str; 5], end: &str) {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.8"#));
    let mut client = Wire::connect(server.address).await;
    client.send(format!("{HEAD}{framing}\r\n\r\n")).await;
    // A pause that is too long by itself, and some that are so together.
    for (pause, piece) in [1.0, 0.2, 0.2, 0.2, 0.2].into_iter().zip(chunks) {
        outwait(pause).await;
        client.send(piece).await;
    }
    client.send(end).await;
    let mut wire = backend.accept().await;
    assert_eq!(wire.request().await.content(), b"xxxxx");
    wire.send(response("200 OK", "fine")).await;
    assert_eq!(client.response().await.body, b"fine");

    // From here on it runs.
    client.send(post("{}")).await;
    wire.request().await;
    check(&client.response().await, 504, "http_response_timeout");
}

async fn upload_slowly_to_be_buffered() {
    let backend = Backend::start().await;
    let entries = [entry("LLM1", backend.address, r#""model":"m""#)];
    let server = Server::start(&config_of(&entries, r#""timeout":0.8"#));
    let mut client = Wire::connect(server.address).await;
    client
        .send(format!("{HEAD}Content-Length: 2\r\n\r\n{{"))
        .await;
    outwait(1.0).await;
    client.send("}").await;
    let mut wire = asked(&backend).await;
    wire.send(response("200 OK", "fine")).await;
    assert_eq!(client.response().await.body, b"fine");
}

#[tokio::test]
async fn a_slow_upload_does_not_start_the_clock() {
    tokio::join!(
        upload_slowly("Content-Length: 5", ["x"; 5], ""),
        upload_slowly("Transfer-Encoding: chunked", ["1\r\nx\r\n"; 5], "0\r\n\r\n"),
        upload_slowly_to_be_buffered(),
    );
}

#[tokio::test]
async fn a_backends_own_timeout_may_be_longer() {
    let (slow, other) = (Backend::start().await, Backend::start().await);
    let entries = [
        entry("slow", slow.address, r#""timeout":1000"#),
        entry("other", other.address, ""),
    ];
    let server = Server::start(&config_of(&entries, r#""timeout":0.3"#));
    let named = |name: &str| support::post_with(&format!("X-Proxy-Backend: {name}\r\n"), "{}");

    let mut patient = Wire::connect(server.address).await;
    patient.send(named("slow")).await;
    let mut slow_wire = asked(&slow).await;
    let mut hasty = Wire::connect(server.address).await;
    hasty.send(named("other")).await;
    let _other_wire = asked(&other).await;
    check(&hasty.response().await, 504, "http_response_timeout");
    slow_wire.send(response("200 OK", "fine")).await;
    assert_eq!(patient.response().await.body, b"fine");
}

#[tokio::test]
async fn a_stream_outlives_timeout() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.4"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.head().await;
    // Idle for longer than `timeout`, and then a stream that is so, too.
    for pause in [0.6, 0.1, 0.1, 0.1, 0.1, 0.1] {
        outwait(pause).await;
        wire.send("6\r\nhello.\r\n").await;
        client.until("hello.\r\n").await;
    }
    wire.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_backend_that_does_not_read_the_request_is_given_up() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.5"#));
    let mut client = Wire::connect(server.address).await;
    let request = post(&"x".repeat(LARGE));
    let (mut read, mut write) = client.stream.split();
    let mut answer = vec![0; 12];
    let uploading = async {
        let _ = write.write_all(request.as_bytes()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = uploading => {}
        read = soon("an answer", read.read_exact(&mut answer)) => assert_eq!(read.unwrap(), 12),
    }
    assert_eq!(answer, b"HTTP/1.1 504");
}

// `connect_timeout`.

async fn connect_to_nowhere(fields: &str, settings: &str) {
    let nowhere = Unreachable::start().await;
    let entry = entry("LLM1", nowhere.address, fields);
    let server = Server::start(&config_of(&[entry], settings));
    let mut client = Wire::connect(server.address).await;
    for _ in 0..2 {
        client.send(post("{}")).await;
        check(&client.response().await, 504, "connection_timeout");
    }
}

#[tokio::test]
async fn connecting_takes_no_longer_than_connect_timeout_and_timeout() {
    tokio::join!(
        connect_to_nowhere("", r#""connect_timeout":0.3"#),
        connect_to_nowhere("", r#""connect_timeout":1000,"timeout":0.3"#),
        connect_to_nowhere(r#""timeout":0.3"#, r#""connect_timeout":1000"#),
    );
}

#[cfg(feature = "native-tls")]
#[tokio::test]
async fn the_handshake_of_tls_is_part_of_connecting() {
    let backend = Backend::start().await;
    let entry = format!(
        r#"{{"name":"LLM1","url":"https://{}/v1"}}"#,
        backend.address
    );
    let server = Server::start(&config_of(&[entry], r#""connect_timeout":0.3"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.exactly(1).await;
    check(&client.response().await, 504, "connection_timeout");
    wire.rest().await;
}

// `idle_timeout` of a request's body.

#[tokio::test]
async fn a_client_that_is_idle_after_the_response_began_truncates_it() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":1"#));
    let mut client = Wire::connect(server.address).await;
    client
        .send(format!("{HEAD}Content-Length: 9\r\n\r\nabc"))
        .await;
    let mut wire = backend.accept().await;
    wire.until("abc").await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12")
        .await;
    client.head().await;
    // The backend isn't idle.
    let streaming = async {
        for byte in ["3", "4", "5", "6", "7", "8"] {
            outwait(0.4).await;
            if wire.stream.write_all(byte.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    let (rest, ()) = tokio::join!(client.rest(), streaming);
    assert!(rest.len() < 9 && rest.starts_with(b"12"), "{rest:?}");
    wire.rest().await;
}

// `idle_timeout` of a response's body.

/// A backend sends this much of a response and no more.
async fn go_idle(framing: &str, part: &str) {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":0.4"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    wire.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}"))
        .await;
    client.head().await;
    let rest = client.rest().await;
    if framing.contains("Length") {
        assert_eq!(rest, part.as_bytes());
    } else {
        assert!(find(&rest, b"0\r\n\r\n").is_none(), "a clean end");
    }
    wire.closed().await;
}

#[tokio::test]
async fn an_idle_backend_is_cut_off() {
    tokio::join!(
        go_idle("Content-Length: 9", ""),
        go_idle("Content-Length: 9", "12345678"),
        go_idle("Transfer-Encoding: chunked", "1\r\na\r\n"),
        go_idle("Connection: close", "to the"),
    );
}

#[tokio::test]
async fn over_http2_an_idle_backend_is_cut_off() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":0.4"#));
    let client = Http2::connect(server.address).await;
    let (response, mut wire) = tokio::join!(client.send(client.post("{}")), async {
        let mut wire = asked(&backend).await;
        wire.send("HTTP/1.1 200 OK\r\n\r\nto the").await;
        wire
    });
    let mut response = response.unwrap();
    let frame = http2::next_frame(&mut response).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "to the");
    assert!(http2::next_frame(&mut response).await.unwrap().is_err());
    wire.closed().await;
}

// `idle_timeout` of both.

async fn upload_in_chunks() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":0.8"#));
    let mut client = Wire::connect(server.address).await;
    client
        .send(format!("{HEAD}Content-Length: 5\r\n\r\n"))
        .await;
    for _ in 0..5 {
        outwait(0.2).await;
        client.send("x").await;
    }
    let mut wire = backend.accept().await;
    assert_eq!(wire.request().await.body, b"xxxxx");
    wire.send(response("200 OK", "fine")).await;
    assert_eq!(client.response().await.body, b"fine");
}

async fn stream_in_chunks() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":0.8"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        .await;
    client.head().await;
    for _ in 0..6 {
        outwait(0.2).await;
        wire.send("x").await;
        client.exactly(1).await;
    }
}

#[tokio::test]
async fn a_body_in_chunks_outlives_idle_timeout() {
    tokio::join!(upload_in_chunks(), stream_in_chunks());
}

#[tokio::test]
async fn a_backend_that_reads_slowly_does_not_make_the_client_idle() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":1"#));
    let client = TcpStream::connect(server.address).await.unwrap();
    let (read, mut write) = client.into_split();
    let uploading = tokio::spawn(async move {
        let request = post(&"x".repeat(LARGE));
        write.write_all(request.as_bytes()).await.unwrap();
        write
    });
    let mut wire = backend.accept().await;
    outwait(1.6).await;
    assert!(!uploading.is_finished(), "there was room for all of it");
    assert_eq!(wire.request().await.body.len(), LARGE);
    wire.send(response("200 OK", "fine")).await;
    let write = uploading.await.unwrap();
    let mut client = Wire::new(read.reunite(write).unwrap());
    assert_eq!(client.response().await.body, b"fine");
}

#[tokio::test]
async fn a_client_that_reads_slowly_does_not_make_the_backend_idle() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":1"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    let sending = tokio::spawn(async move {
        wire.send(response("200 OK", &"x".repeat(LARGE))).await;
    });
    client.head().await;
    outwait(1.6).await;
    assert!(!sending.is_finished(), "there was room for all of it");
    client.exactly(LARGE).await;
    sending.await.unwrap();
}

// `total_timeout`.

#[tokio::test]
async fn a_head_that_comes_after_total_timeout_is_too_late() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""total_timeout":0.4"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    check(&client.response().await, 504, "http_response_timeout");
    wire.closed().await;

    client.send(post("{}")).await;
    asked(&backend).await.send(response("200 OK", "fine")).await;
    assert_eq!(client.response().await.body, b"fine");
}

/// Uploads for ever, to a backend with these fields.
async fn upload_for_ever(fields: &str) {
    let backend = Backend::start().await;
    let entries = [entry("LLM1", backend.address, fields)];
    let server = Server::start(&config_of(&entries, r#""total_timeout":0.4"#));
    let mut client = Wire::connect(server.address).await;
    client
        .send(format!("{HEAD}Content-Length: 1000000\r\n\r\n"))
        .await;
    let (mut read, mut write) = client.stream.split();
    let uploading = async {
        while write.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = uploading => {}
        read = soon("an answer", read.read_exact(&mut answer)) => assert_eq!(read.unwrap(), 12),
    }
    assert_eq!(&answer, b"HTTP/1.1 504", "{fields}");
}

#[tokio::test]
async fn total_timeout_covers_the_upload() {
    tokio::join!(upload_for_ever(""), upload_for_ever(r#""model":"m""#));
}

#[tokio::test]
async fn total_timeout_covers_failover() {
    let (first, second) = (Unreachable::start().await, Backend::start().await);
    let entries = [
        entry("first", first.address, ""),
        entry("second", second.address, ""),
    ];
    let settings = r#""total_timeout":0.6,"connect_timeout":0.3"#;
    let server = Server::start(&config_of(&entries, settings));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&second).await;
    check(&client.response().await, 504, "http_response_timeout");
    wire.closed().await;

    let settings = r#""total_timeout":0.2,"connect_timeout":1000"#;
    let server = Server::start(&config_of(&entries, settings));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    check(&client.response().await, 504, "http_response_timeout");
    assert!(!second.is_contacted().await);
}

/// A client and its backend at the beginning of a stream, and the server between them.
async fn stream_with(settings: &str) -> (Server, Wire, Wire) {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, settings));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.head().await;
    (server, client, wire)
}

/// Streams chunks with these pauses, until the proxy has had enough.
async fn stream_for_ever(pause: Duration) {
    let (_server, mut client, mut wire) = stream_with(r#""total_timeout":0.4"#).await;
    let streaming = async {
        while wire.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            // It becomes readable when it is closed.
            tokio::select! {
                () = sleep(pause) => {}
                _ = wire.stream.readable() => break,
            }
        }
    };
    let end = async { tokio::join!(client.rest(), streaming) };
    let (rest, ()) = soon("the cut", end).await;
    assert!(find(&rest, b"0\r\n\r\n").is_none(), "a clean end");
}

#[tokio::test]
async fn a_stream_that_outlives_total_timeout_is_cut_off() {
    tokio::join!(
        stream_for_ever(Duration::from_millis(20)),
        stream_for_ever(2 * PATIENCE),
    );
}

#[tokio::test]
async fn a_stream_that_never_pauses_is_cut_off_as_well() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""total_timeout":0.5"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = asked(&backend).await;
    wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        .await;
    client.head().await;
    // The backend is always ahead of the client.
    let flood =
        tokio::spawn(
            async move { while wire.stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {} },
        );
    let reading = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match client.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => sleep(Duration::from_millis(3)).await,
            }
        }
    };
    soon("the cut", reading).await;
    soon("the backend notices", flood).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_outlive_total_timeout() {
    let (_server, mut client, mut wire) = stream_with(r#""total_timeout":0.5"#).await;
    // Until all buffers on the way are full.
    let flood = async {
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        while wire.stream.write_all(&chunk).await.is_ok() {}
    };
    soon("the backend is let go", flood).await;
    let rest = soon("the cut", client.rest()).await;
    assert!(find(&rest, b"\r\n0\r\n\r\n").is_none(), "a clean end");
}

#[tokio::test]
async fn an_exchange_within_total_timeout_is_left_alone() {
    let backend = Backend::start().await;
    let settings = format!(r#""total_timeout":{}"#, PATIENCE.as_secs());
    let server = Server::start(&config_with(&backend, &settings));
    let mut client = Wire::connect(server.address).await;
    for _ in 0..2 {
        client.send(post("{}")).await;
        let mut wire = asked(&backend).await;
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfi")
            .await;
        client.head().await;
        wire.send("ne").await;
        assert_eq!(client.exactly(4).await, b"fine");
    }
}

// All of them at once.

#[tokio::test]
async fn no_clock_runs_between_two_exchanges() {
    let backend = Backend::start().await;
    let settings = r#""timeout":0.4,"connect_timeout":0.4,"idle_timeout":0.4,"total_timeout":0.4"#;
    let server = Server::start(&config_with(&backend, settings));
    let mut client = Wire::connect(server.address).await;
    let mut wire = None;
    for pause in [0.6, 0.6, 0.0] {
        client.send(post("{}")).await;
        // The backend's connection outlives its exchange, too.
        let mut kept = match wire.take() {
            Some(wire) => wire,
            None => backend.accept().await,
        };
        kept.request().await;
        kept.send(response("200 OK", "fine")).await;
        assert_eq!(client.response().await.body, b"fine");
        wire = Some(kept);
        outwait(pause).await;
    }
    let still_open = client.stream.try_read(&mut [0]).unwrap_err();
    assert_eq!(still_open.kind(), io::ErrorKind::WouldBlock);
}
