//! Clients that misbehave: what they send reaches a backend as one proper request or not at all,
//! they hold nobody else up, and nothing of them is left when they are gone.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    task::JoinSet,
    time::{sleep, timeout},
};

#[cfg(target_os = "linux")]
use crate::support::usage::{Usage, until_descriptors, usage_at_rest};
use crate::support::{
    self, Backend, Message, Server, Wire, config_of, entry, find,
    frames::{self, Frames, block, frame},
    post, post_with, response, soon,
};

/// Requests to this path are never answered.
const HELD: &str = "/v1/chat/completions/held";

/// What must never be the head of a request at a backend.
const SMUGGLED: &str = "GET /v1/chat/completions/SMUGGLED HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer smuggled\r\n\r\n";

/// A backend that writes down all it gets, and answers each whole request with that one's body.
#[derive(Clone)]
struct Ledger {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    running: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Book {
    whole: Vec<Message>,
    /// The heads of requests whose body was truncated.
    broken_off: Vec<String>,
    /// Bytes that are no request.
    rest: Vec<u8>,
    connections: usize,
}

impl Book {
    fn heads(&self) -> impl Iterator<Item = &String> {
        let whole = self.whole.iter().map(|request| &request.head);
        whole.chain(&self.broken_off)
    }

    /// The heads with this number in `X-Case`.
    fn of_case(&self, case: usize) -> impl Iterator<Item = &String> {
        let field = format!("\r\nx-case: {case}\r\n");
        self.heads().filter(move |head| head.contains(&field))
    }
}

impl Ledger {
    async fn start() -> Self {
        let backend = Backend::start().await;
        let ledger = Self {
            address: backend.address,
            book: Arc::default(),
            running: Arc::default(),
        };
        let serving = ledger.clone();
        backend.serve_all(move |wire| serving.clone().serve(wire));
        ledger
    }

    async fn serve(self, mut wire: Wire) {
        self.book().connections += 1;
        loop {
            // A connection may be idle for as long as it likes.
            let mut byte = [0];
            if !matches!(wire.stream.peek(&mut byte).await, Ok(1..)) {
                return;
            }
            let Some(head) = wire.try_head().await else {
                let rest = wire.rest().await;
                self.book().rest.extend(rest);
                return;
            };
            let running = Running::new(&self.running);
            let mut request = Message {
                head,
                body: Vec::new(),
            };
            let Ok(body) = wire.try_body(&request).await else {
                self.book().broken_off.push(request.head);
                return;
            };
            request.body = body;
            let answer = response("200 OK", &String::from_utf8_lossy(&request.content()));
            let is_held = request.start_line().contains(HELD);
            self.book().whole.push(request);
            if is_held {
                let mut wire = wire;
                wire.stream.readable().await.expect("a socket");
                wire.rest().await;
                return;
            }
            drop(running);
            if wire.stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// What has come since this was last asked for, once everything has been written down.
    async fn take(&self) -> Book {
        self.idle().await;
        std::mem::take(&mut self.book())
    }

    /// Waits until no request is under way.
    async fn idle(&self) {
        let idle = async {
            while self.running.load(Ordering::Relaxed) > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the backend's requests end", idle).await;
    }

    fn server(&self) -> Server {
        Server::start(&self.config())
    }

    fn config(&self) -> String {
        config_of(&[entry("LLM1", self.address, "")], "")
    }
}

/// A request that the backend has not answered yet.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks that a client that behaves is served.
async fn serves(server: SocketAddr, what: &str) {
    let mut client = Wire::connect(server).await;
    client.send(post(r#"{"well":"behaved"}"#)).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 200, "{what}");
    assert_eq!(answer.body, br#"{"well":"behaved"}"#, "{what}");
}

// ---- Many, slow, and disconnected ----

/// How many connections a test may hold: a system may allow few descriptors.
#[cfg(target_os = "linux")]
fn affordable(wanted: usize) -> usize {
    let limit = std::process::Command::new("sh")
        .args(["-c", "ulimit -n"])
        .output();
    let limit = String::from_utf8(limit.expect("a shell").stdout).expect("UTF-8");
    // The other tests need some, too.
    let affordable = limit
        .trim()
        .parse()
        .unwrap_or(usize::MAX)
        .saturating_sub(500);
    if affordable < wanted {
        println!("only {affordable} connections in place of {wanted}: see `ulimit -n`");
    }
    wanted.min(affordable)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_thousand_connections_that_say_nothing_hold_nobody_up_and_are_dropped_with_their_end() {
    let _crowd = support::MANY_CONNECTIONS.lock().await;
    let count = affordable(2000);
    let ledger = Ledger::start().await;
    let config = support::TempFile::new("config.json", &ledger.config());
    // With room for all of them.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -n 4096; exec "$0" "$@""#]);
    command.arg(support::example("server"));
    command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--config"]);
    command.arg(&config.path).env_remove("RUST_LOG");
    let server = Server::spawn(&mut command);
    serves(server.address, "before").await;
    let before = usage_at_rest(&server).await;

    let mut silent = Vec::new();
    for number in 0..count {
        let mut client = Wire::connect(server.address).await;
        match number % 4 {
            0 => client.send("POST /v1/chat/completions HT").await,
            1 => client.send(&post("{}")[..60]).await,
            _ => {}
        }
        silent.push(client);
    }
    let accepted = async {
        while Usage::of(&server).descriptors < before.descriptors + count {
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon("all are accepted", accepted).await;
    for _ in 0..50 {
        serves(server.address, "among them").await;
    }

    for (number, mut client) in silent.into_iter().enumerate() {
        match number % 3 {
            0 => client.reset(),
            _ => client.stream.shutdown().await.expect("a socket"),
        }
    }
    until_descriptors(&server, before.descriptors, "idle connections").await;
    serves(server.address, "after").await;
    assert!(ledger.take().await.whole.len() == 52, "nothing but ours");
}

#[tokio::test]
async fn clients_that_disconnect_at_any_point_in_any_way_leave_nothing_behind() {
    const CLIENTS: usize = 240;
    let ledger = Ledger::start().await;
    let server = ledger.server();
    serves(server.address, "before").await;
    #[cfg(target_os = "linux")]
    let before = usage_at_rest(&server).await;

    let held = post("{}").replace("/v1/chat/completions", HELD);
    let whole = held.len();
    let upload = post(&"x".repeat(300_000)).replace("/v1/chat/completions", HELD);
    let points = [
        held[..1].to_owned(),
        held[..whole / 2].to_owned(),
        held[..whole - 3].to_owned(), // the head without its end
        held[..whole - 1].to_owned(), // half a body
        held,
        upload[..200_000].to_owned(),
    ];
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let part = points[number % points.len()].clone();
        let (address, way) = (server.address, number / points.len() % 3);
        clients.spawn(async move {
            let mut client = Wire::connect(address).await;
            client.send(&part).await;
            // Some leave at once, some when the backend has it.
            sleep(Duration::from_millis(number as u64 % 50)).await;
            match way {
                0 => client.stream.shutdown().await.expect("a socket"),
                1 => {
                    // Half-closed: nothing is sent any more, but the answer would be read.
                    client.stream.shutdown().await.expect("a socket");
                    client.rest().await;
                }
                _ => client.reset(),
            }
        });
    }
    clients.join_all().await;
    ledger.idle().await;
    serves(server.address, "after").await;
    #[cfg(target_os = "linux")]
    // The proxy's connections to the backend were closed, as nobody waits for their answers.
    until_descriptors(&server, before.descriptors, "clients that disconnected").await;
}

#[tokio::test]
async fn requests_that_come_drop_by_drop_arrive_whole_and_hold_nobody_up() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let address = server.address;
    let mut clients = JoinSet::new();
    for number in 0..100 {
        clients.spawn(async move {
            let body = format!(r#"{{"from":{number},"padding":"{}"}}"#, "x".repeat(number));
            let request = post_with(&format!("X-Number: {number}\r\n"), &body);
            let mut client = Wire::connect(address).await;
            for drop in request.as_bytes().chunks(1 + number % 7) {
                client.send(drop).await;
                sleep(Duration::from_millis(2)).await;
            }
            let answer = client.response().await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.body, body.as_bytes());
        });
    }
    for _ in 0..20 {
        serves(address, "meanwhile").await;
    }
    clients.join_all().await;
    for request in ledger.take().await.whole {
        if let Some(number) = request.field("x-number") {
            assert!(
                request
                    .body
                    .starts_with(format!(r#"{{"from":{number},"#).as_bytes())
            );
        }
    }
}

#[tokio::test]
async fn hundreds_of_pipelined_requests_are_answered_in_order_whatever_the_answers() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let address = server.address;
    let mut clients = JoinSet::new();
    for client in 0..10 {
        clients.spawn(async move {
            // Some are the proxy's own to answer, and some are longer than one read.
            let requests = (0..300).map(|number| {
                let text = format!(r#"{{"client":{client},"number":{number}}}"#);
                match number % 10 {
                    3 => (post(&text).replace("Authorization", "X-Other"), 401, None),
                    6 => (
                        post(&text).replace("completions", "completions/.."),
                        400,
                        None,
                    ),
                    9 => (post(&text).replace("chat/completions", ""), 404, None),
                    8 => {
                        let text = text.repeat(4_000);
                        (post(&text), 200, Some(text))
                    }
                    _ => (post(&text), 200, Some(text)),
                }
            });
            let requests: Vec<_> = requests.collect();
            let all: String = requests
                .iter()
                .map(|(request, ..)| request.as_str())
                .collect();
            let mut wire = Wire::connect(address).await.send_aside(all.into());
            for (number, (_, status, body)) in requests.iter().enumerate() {
                let mut answer = Message {
                    head: wire.head().await,
                    body: Vec::new(),
                };
                answer.body = wire.try_body(&answer).await.expect("a whole body");
                assert_eq!(answer.status(), *status, "{number}");
                match body {
                    Some(body) => assert_eq!(answer.body, body.as_bytes(), "{number}"),
                    None => drop(answer.error_code()),
                }
            }
        });
    }
    clients.join_all().await;
    let book = ledger.take().await;
    assert_eq!(book.whole.len(), 10 * 300 / 10 * 7);
    assert!(book.rest.is_empty() && book.broken_off.is_empty());
}

// ---- Smuggling ----

#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrives {
    /// Refused by its head.
    Nothing,
    /// One whole request, or the beginning of one that is truncated.
    OneAtMost,
    /// One whole request, and what follows on the connection is another.
    One,
}

/// Fields of a head, and what follows it.
fn smuggling() -> Vec<(&'static str, String, Arrives)> {
    use Arrives::{Nothing, One, OneAtMost};
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

    let as_body = |fields: &str| (fields.replace('#', &SMUGGLED.len().to_string()), SMUGGLED);
    let mut cases = Vec::new();
    let mut add = |name, fields: &str, body: &str, arrives| {
        cases.push((name, format!("{fields}\r\n{body}"), arrives));
    };

    // A length and a coding: only the coding counts, and the connection ends.
    let hidden = format!("0\r\n\r\n{SMUGGLED}");
    let length = format!("Content-Length: {}\r\n", hidden.len());
    add("CL.TE", &format!("{length}{CHUNKED}"), &hidden, OneAtMost);
    add("TE.CL", &format!("{CHUNKED}{length}"), &hidden, OneAtMost);
    let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    add(
        "TE, short CL",
        &format!("Content-Length: 4\r\n{CHUNKED}"),
        &chunk,
        OneAtMost,
    );
    add(
        "CL 0, TE",
        &format!("Content-Length: 0\r\n{CHUNKED}"),
        &hidden,
        OneAtMost,
    );

    for (name, fields) in [
        ("two lengths", "Content-Length: 0\r\nContent-Length: #\r\n"),
        (
            "two lengths, turned",
            "Content-Length: #\r\nContent-Length: 0\r\n",
        ),
        ("a list of lengths", "Content-Length: 0, #\r\n"),
        ("a signed length", "Content-Length: +#\r\n"),
        ("a negative length", "Content-Length: -#\r\n"),
        ("a hexadecimal length", "Content-Length: 0x#\r\n"),
        ("a length with a space", "Content-Length: 0 #\r\n"),
        ("a length with a comment", "Content-Length: 0;#\r\n"),
        ("a length with decimals", "Content-Length: #.0\r\n"),
        ("no length's value", "Content-Length: \r\n"),
        (
            "a huge length",
            "Content-Length: 99999999999999999999999\r\n",
        ),
        ("a length behind a space", "Content-Length : #\r\n"),
        ("a folded length", "X: y\r\n Content-Length: #\r\n"),
        ("a folded value of a length", "Content-Length:\r\n #\r\n"),
        ("a length behind NUL", "X: y\0\r\nContent-Length: #\r\n"),
        ("NUL in a length", "Content-Length: 0\0#\r\n"),
        ("a length behind a bare CR", "X: y\rContent-Length: #\r\n"),
        ("a length's name in quotes", "\"Content-Length\": #\r\n"),
        ("a length's name with a tab", "Content-Length\t: #\r\n"),
        ("no name", ": #\r\n"),
        ("no colon", "Content-Length #\r\n"),
    ] {
        let (fields, body) = as_body(fields);
        add(name, &fields, body, Nothing);
    }
    for (name, coding) in [
        ("another coding", "Transfer-Encoding: xchunked\r\n"),
        (
            "chunked not last",
            "Transfer-Encoding: chunked, identity\r\n",
        ),
        ("identity", "Transfer-Encoding: identity\r\n"),
        (
            "chunked with a parameter",
            "Transfer-Encoding: chunked;q=1\r\n",
        ),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        (
            "chunked behind a vertical tab",
            "Transfer-Encoding: \x0bchunked\r\n",
        ),
        ("chunked and NUL", "Transfer-Encoding: chunked\0\r\n"),
        ("chunked behind a space", "Transfer-Encoding : chunked\r\n"),
        ("chunked, folded", "Transfer-Encoding:\r\n chunked\r\n"),
        (
            "a folded chunked",
            "X: y\r\n Transfer-Encoding: chunked\r\n",
        ),
        ("no coding", "Transfer-Encoding: \r\n"),
        (
            "chunked behind a bare CR",
            "X: y\rTransfer-Encoding: chunked\r\n",
        ),
    ] {
        add(name, coding, &hidden, Nothing);
        add(name, &format!("{length}{coding}"), &hidden, Nothing);
        add(name, &format!("{coding}{length}"), &hidden, Nothing);
    }

    for (name, chunks) in [
        ("chunk size: prefix", "0x5\r\nabcde\r\n0\r\n\r\n"),
        ("chunk size: sign", "+5\r\nabcde\r\n0\r\n\r\n"),
        ("chunk size: minus", "-5\r\nabcde\r\n0\r\n\r\n"),
        ("chunk size: space before", " 5\r\nabcde\r\n0\r\n\r\n"),
        ("chunk size: none", "\r\nabcde\r\n0\r\n\r\n"),
        ("chunk size: not hexadecimal", "5g\r\nabcde\r\n0\r\n\r\n"),
        (
            "chunk size: overflow",
            "10000000000000005\r\nabcde\r\n0\r\n\r\n",
        ),
        ("chunk size: bare LF", "5\nabcde\r\n0\r\n\r\n"),
        ("chunk size: bare CR", "5\rabcde\r\n0\r\n\r\n"),
        ("chunk extension: bare LF", "5;x\nabcde\r\n0\r\n\r\n"),
        (
            "chunk extension: hides a size",
            "5;\n5\r\nabcde\r\n0\r\n\r\n",
        ),
        ("chunk: longer than its size", "3\r\nabcde\r\n0\r\n\r\n"),
        ("chunk: bare LF after it", "5\r\nabcde\n0\r\n\r\n"),
        ("last chunk: no CRLF", "5\r\nabcde\r\n0\r\nX"),
        ("trailer: no colon", "0\r\nno colon\r\n\r\n"),
    ] {
        add(name, CHUNKED, &format!("{chunks}{SMUGGLED}"), OneAtMost);
    }
    for (name, chunks) in [
        ("chunk extension: quoted", "5;a=\"0\"\r\nabcde\r\n0\r\n\r\n"),
        (
            "chunk size: zeros before",
            "00000005\r\nabcde\r\n000\r\n\r\n",
        ),
        (
            "trailers that frame",
            "0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\n\r\n",
        ),
    ] {
        add(name, CHUNKED, chunks, One);
    }
    cases
}

#[tokio::test]
async fn nothing_is_smuggled_past_the_proxy() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let cases = smuggling();
    let mut followed = 0;
    for (case, (name, rest, arrives)) in cases.iter().enumerate() {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n\
             Authorization: Bearer sk-test\r\nX-Case: {case}\r\n{rest}"
        );
        let mut client = Wire::connect(server.address).await;
        client.send(&request).await;
        if *arrives == Arrives::One {
            assert_eq!(client.response().await.status(), 200, "{name}");
            client.send(post("{}")).await;
            assert_eq!(client.response().await.status(), 200, "{name}: the next");
            followed += 1;
        } else {
            // The connection ends with this.
            let Ok(all) = timeout(Duration::from_secs(10), client.rest()).await else {
                panic!("{name}: the connection stays open");
            };
            let all = String::from_utf8_lossy(&all);
            assert!(all.matches("HTTP/1.1 ").count() <= 1, "{name}: {all}");
            if *arrives == Arrives::Nothing {
                assert!(all.starts_with("HTTP/1.1 400 "), "{name}: {all}");
            }
        }
    }
    serves(server.address, "after all").await;

    // What a case sent may have been written down after its client had gone, so all are looked at
    // together.
    let book = ledger.take().await;
    assert!(book.rest.is_empty(), "{}", book.rest.escape_ascii());
    for (case, (name, _, arrives)) in cases.iter().enumerate() {
        let expected = match arrives {
            Arrives::Nothing => 0..=0,
            Arrives::OneAtMost => 0..=1,
            Arrives::One => 1..=1,
        };
        let count = book.of_case(case).count();
        assert!(expected.contains(&count), "{name}: {count} requests");
        for head in book.of_case(case) {
            let head = head.to_lowercase();
            let framings = ["\r\ncontent-length:", "\r\ntransfer-encoding:"];
            let framings: usize = framings
                .iter()
                .map(|field| head.matches(field).count())
                .sum();
            assert_eq!(framings, 1, "{name}: {head}");
        }
    }
    let others = book.heads().filter(|head| !head.contains("x-case: "));
    assert_eq!(others.count(), followed + 1);
    for head in book.heads() {
        assert!(
            head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
            "{head}"
        );
    }
    for request in &book.whole {
        let evil = find(&request.body, b"evil.test");
        assert!(evil.is_none(), "{}", request.body.escape_ascii());
    }
}

#[tokio::test]
async fn what_only_looks_like_a_request_reaches_nobody() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let rest = "Host: proxy.test\r\nAuthorization: Bearer sk-test\r\n\r\n";
    for start in [
        "GET /v1/chat/completions",
        "GET  /v1/chat/completions HTTP/1.1",
        "GET /v1/chat/completions  HTTP/1.1",
        "GET\t/v1/chat/completions\tHTTP/1.1",
        "GET /v1/chat/completions HTTP/1.1 HTTP/1.1",
        "GET /v1/chat/completions HTTP/0.9",
        "GET /v1/chat/completions HTTP/1.2",
        "GET /v1/chat/completions HTTP/2.0",
        "GET /v1/chat/completions http/1.1",
        "GET /v1/chat/completions HTTP/11",
        "GET /v1/chat/completions\0 HTTP/1.1",
        "GET /v1/chat/completions\x7f HTTP/1.1",
        "GET\0 /v1/chat/completions HTTP/1.1",
        "G@T /v1/chat/completions HTTP/1.1",
        "GET: /v1/chat/completions HTTP/1.1",
        " GET /v1/chat/completions HTTP/1.1",
        "/v1/chat/completions HTTP/1.1",
        "\x16\x03\x01\x02\0\x01",
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(format!("{start}\r\n{rest}{SMUGGLED}")).await;
        let all = client.rest().await;
        let all = String::from_utf8_lossy(&all);
        assert!(
            all.is_empty() || all.starts_with("HTTP/1.1 400 "),
            "{start:?}: {all}"
        );
        assert_eq!(ledger.take().await.connections, 0, "{start:?}");
    }
    serves(server.address, "after all").await;
}

/// Sends a request over HTTP/2, field by field as it is, and these frames; waits until all has been
/// dealt with.
async fn send_http2(server: SocketAddr, fields: &[(&str, &str)], flags: u8, more: &[u8]) {
    let mut client = Frames::connect(server).await;
    let head = frame(
        frames::HEADERS,
        flags | frames::END_HEADERS,
        1,
        &block(fields),
    );
    if client.send(&[&*head, more].concat()).await {
        client.is_served().await;
    }
    client.close().await;
}

#[tokio::test]
async fn nothing_is_smuggled_over_http2() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let split = format!("x\r\n\r\n{SMUGGLED}");
    let in_path = format!("/v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n{SMUGGLED}");
    let in_method = format!("GET /v1/chat/completions HTTP/1.1\r\n\r\n{SMUGGLED}POST");
    let length = SMUGGLED.len().to_string();
    let body = frame(frames::DATA, frames::END_STREAM, 1, SMUGGLED.as_bytes());

    let with = |more: &[(&'static str, &str)]| {
        let fields = frames::REQUEST.iter().chain(more);
        let fields = fields.map(|&(name, value)| (name.to_owned(), value.to_owned()));
        fields.collect::<Vec<_>>()
    };
    let instead = |pseudo: &str, value: &str| {
        let mut fields = with(&[]);
        let field = fields.iter_mut().find(|(name, _)| name == pseudo);
        field.expect("there").1 = value.to_owned();
        fields
    };
    let cases = [
        ("a line's end in a value", with(&[("x", &split)])),
        ("LF in a value", with(&[("x", "y\ncontent-length: 0")])),
        ("NUL in a value", with(&[("x", "y\0")])),
        ("a line's end in a name", with(&[("x: y\r\nz", "z")])),
        (
            "a colon in a name",
            with(&[("transfer-encoding: chunked", "x")]),
        ),
        ("a space in a name", with(&[("content-length ", "0")])),
        ("an upper-case name", with(&[("Content-Length", "0")])),
        ("a line's end in the path", instead(":path", &in_path)),
        (
            "a space in the path",
            instead(":path", "/v1/chat/completions HTTP/1.1"),
        ),
        ("no path", instead(":path", "")),
        ("a line's end in the method", instead(":method", &in_method)),
        (
            "a line's end in the authority",
            instead(":authority", "x\r\nx: y"),
        ),
        ("a coding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "authorization")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("no length", with(&[("content-length", "x")])),
        ("too short a length", with(&[("content-length", "0")])),
        ("too long a length", with(&[("content-length", "100000")])),
        (
            "two lengths",
            with(&[("content-length", "0"), ("content-length", &length)]),
        ),
        ("a list of lengths", with(&[("content-length", "0, 5")])),
        ("two paths", with(&[(":path", "/v1/chat/completions/x")])),
        ("a pseudo-field that isn't one", with(&[(":x", "y")])),
        ("a response's pseudo-field", with(&[(":status", "200")])),
    ];
    for (case, (_, fields)) in cases.iter().enumerate() {
        let case = case.to_string();
        let fields = fields.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let fields: Vec<_> = fields.chain([("x-case", &*case)]).collect();
        send_http2(server.address, &fields, 0, &body).await;
    }
    serves(server.address, "after all").await;
    let book = ledger.take().await;
    assert!(book.rest.is_empty(), "{}", book.rest.escape_ascii());
    assert_eq!(book.whole.len(), 1, "{:?}", book.whole);
    for (case, (name, _)) in cases.iter().enumerate() {
        // What is wrong with a length shows with the body.
        let most = usize::from(name.contains("length"));
        let heads: Vec<_> = book.of_case(case).collect();
        assert!(heads.len() <= most, "{name}: {heads:?}");
    }
    assert!(book.broken_off.iter().all(|head| head.contains("x-case: ")));

    // Nor in trailers; without any of this the request arrives.
    let data = frame(frames::DATA, 0, 1, b"{}");
    let trailers = [
        ("content-length", "5"),
        ("host", "evil.test"),
        ("x-sum", "1"),
    ];
    let flags = frames::END_HEADERS | frames::END_STREAM;
    let trailers = frame(frames::HEADERS, flags, 1, &block(&trailers));
    let mut client = Frames::connect(server.address).await;
    let head = frame(
        frames::HEADERS,
        frames::END_HEADERS,
        1,
        &block(&frames::REQUEST),
    );
    assert!(client.send(&[head, data, trailers].concat()).await);
    let arrived = async {
        while ledger.book().whole.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a request", arrived).await;
    client.close().await;
    let book = ledger.take().await;
    let body = String::from_utf8_lossy(&book.whole[0].body).to_lowercase();
    assert!(
        !body.contains("evil.test") && !body.contains("content-length"),
        "{body}"
    );
    serves(server.address, "after all").await;
}

// ---- Choosing the destination ----

#[tokio::test]
async fn no_request_chooses_its_destination() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let other = Backend::start().await;
    let evil = other.address;
    let mut arrived = 0;
    for target in [
        format!("http://{evil}/v1/chat/completions/../models"),
        format!("http://{evil}/v1/chat/completions/%2e%2e/models"),
        format!("http://{evil}/../v1/chat/completions"),
        format!("http://{evil}?/v1/chat/completions"),
        format!("http://{evil}/v1/chat/completions"),
        format!("https://{evil}/v1/chat/completions"),
        format!("ftp://{evil}/v1/chat/completions"),
        format!("http://user:secret@{evil}/v1/chat/completions"),
        format!("http://{}@{evil}/v1/chat/completions", ledger.address),
        format!("http://proxy.test#@{evil}/v1/chat/completions"),
        format!("//{evil}/v1/chat/completions"),
        format!("/\\{evil}/v1/chat/completions"),
        format!("{evil}/v1/chat/completions"),
        format!("/v1/chat/completions@{evil}"),
        format!("@{evil}/v1/chat/completions"),
        format!("/v1/chat/completions/http://{evil}/"),
        format!("/v1/chat/completions?url=http://{evil}/"),
        format!("/http://{evil}/v1/chat/completions"),
        "*".to_owned(),
        "proxy.test:80".to_owned(),
        "/v1/chat/completions/%2e%2e%2fmodels".to_owned(),
        "/v1/chat/completions/..%5cmodels".to_owned(),
        "/v1/chat/completions/.%2e;x/models".to_owned(),
        "/v1/chat/completions/../models".to_owned(),
        "/v1/chat/completions/..".to_owned(),
        "/v1/x/../chat/completions".to_owned(),
    ] {
        let fields = format!(
            "Host: {evil}\r\nX-Forwarded-Host: {evil}\r\nX-Original-URL: http://{evil}/\r\n\
             Forwarded: host={evil}\r\nAuthorization: Bearer sk-test\r\n\
             Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        for method in ["GET", "POST", "OPTIONS", "CONNECT"] {
            let mut client = Wire::connect(server.address).await;
            client
                .send(format!("{method} {target} HTTP/1.1\r\n{fields}"))
                .await;
            client.rest().await;
        }
        let authority = evil.to_string();
        for scheme in ["http", "https", "file"] {
            let fields = [
                (":method", "GET"),
                (":scheme", scheme),
                (":authority", &authority),
                (":path", &target),
                ("authorization", "Bearer sk-test"),
                ("x-forwarded-host", &authority),
            ];
            send_http2(server.address, &fields, frames::END_STREAM, &[]).await;
        }

        for request in ledger.take().await.whole {
            let start = request.start_line();
            let path = start.split(' ').nth(1).unwrap_or_default();
            assert!(path.starts_with("/v1/"), "{target}: {start}");
            let path = path.split('?').next().unwrap_or_default();
            assert!(!path.contains(".."), "{target}: {start}");
            let host = request.field("host");
            assert_eq!(host, Some(ledger.address.to_string()), "{target}");
            arrived += 1;
        }
    }
    assert!(arrived > 0, "some are fine");
    // A tunnel by the other door (RFC 8441).
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "proxy.test"),
        (":path", "/v1/chat/completions"),
        ("authorization", "Bearer sk-test"),
    ];
    send_http2(server.address, &fields, 0, &[]).await;
    assert!(ledger.take().await.whole.is_empty());
    assert!(!other.is_contacted().await);
    serves(server.address, "after all").await;
}

// ---- Floods ----

/// What a flood may add to the server's memory, in KiB.
#[cfg(target_os = "linux")]
const MEMORY_LEEWAY: usize = 16 * 1024;

#[tokio::test]
async fn rapid_resets_leave_nothing_running() {
    const STREAMS: u32 = 5000;
    let ledger = Ledger::start().await;
    let server = ledger.server();
    serves(server.address, "before").await;
    #[cfg(target_os = "linux")]
    let before = usage_at_rest(&server).await;

    let mut fields = frames::REQUEST;
    fields[3].1 = HELD;
    let block = block(&fields);
    // Both at once, and with the requests on their way.
    for pause in [false, true] {
        let mut client = Frames::connect(server.address).await;
        for stream in 0..STREAMS {
            let stream = 2 * stream + 1;
            let flags = frames::END_HEADERS | frames::END_STREAM;
            let request = frame(frames::HEADERS, flags, stream, &block);
            let cancel = frame(frames::RST_STREAM, 0, stream, &8u32.to_be_bytes());
            let is_open = match pause {
                false => client.send(&[request, cancel].concat()).await,
                true => {
                    client.send(&request).await
                        && client.is_served().await
                        && client.send(&cancel).await
                }
            };
            if !is_open {
                break;
            }
            if stream % 1000 == 1 {
                serves(server.address, "meanwhile").await;
            }
        }
        client.close().await;
    }
    ledger.idle().await;
    serves(server.address, "after").await;
    #[cfg(target_os = "linux")]
    {
        until_descriptors(&server, before.descriptors, "rapid resets").await;
        let after = Usage::of(&server);
        assert!(
            after.memory < before.memory + MEMORY_LEEWAY,
            "{before:?}, {after:?}"
        );
    }
}

#[tokio::test]
async fn floods_of_frames_hold_nobody_up_and_fill_no_memory() {
    const FRAMES: usize = 50_000;
    let ledger = Ledger::start().await;
    let server = ledger.server();
    serves(server.address, "before").await;
    #[cfg(target_os = "linux")]
    let before = usage_at_rest(&server).await;

    let mut held = frames::REQUEST;
    held[3].1 = HELD;
    let open = frame(frames::HEADERS, frames::END_HEADERS, 1, &block(&held));
    let half = frame(frames::HEADERS, 0, 1, &block(&held));
    let large = block(&[("x", &"x".repeat(10_000))]);
    let harmless = [
        ("settings", vec![], frame(frames::SETTINGS, 0, 0, &[])),
        ("pings", vec![], frame(frames::PING, 0, 0, &[7; 8])),
        (
            "priorities",
            vec![],
            frame(frames::PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
        ),
        (
            "windows",
            vec![],
            frame(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
        (
            "windows of a stream",
            open.clone(),
            frame(frames::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        ("unknown frames", vec![], frame(0xfa, 0, 0, &[1; 50])),
        (
            "heads of one stream",
            open.clone(),
            frame(frames::HEADERS, frames::END_HEADERS, 1, &block(&held)),
        ),
    ];
    // These end their connection.
    let harmful = [
        ("empty data", open.clone(), frame(frames::DATA, 0, 1, &[])),
        (
            "data of nothing but padding",
            open,
            frame(frames::DATA, 8, 1, &[3, 0, 0, 0]),
        ),
        (
            "empty continuations",
            half.clone(),
            frame(frames::CONTINUATION, 0, 1, &[]),
        ),
        (
            "continuations",
            half,
            frame(frames::CONTINUATION, 0, 1, &large),
        ),
        (
            "resets of nothing",
            vec![],
            frame(frames::RST_STREAM, 0, 1, &[0; 4]),
        ),
        (
            "data of nothing",
            vec![],
            frame(frames::DATA, 0, 1, &[1; 50]),
        ),
    ];
    let harmless = harmless.into_iter().map(|flood| (flood, true));
    let floods = harmless.chain(harmful.into_iter().map(|flood| (flood, false)));
    for ((name, begin, flood), is_harmless) in floods {
        let mut client = Frames::connect(server.address).await;
        let mut is_open = client.send(&begin).await;
        let some = flood.repeat(1000);
        for thousand in 0..FRAMES / 1000 {
            is_open = is_open && client.send(&some).await;
            if thousand % 10 == 0 {
                serves(server.address, name).await;
            }
        }
        let is_served = is_open && client.is_served().await;
        assert!(is_harmless || !is_served, "{name} are put up with");
        client.close().await;
    }

    // Answers are due to these, and nobody reads them.
    for frame in [
        frame(frames::PING, 0, 0, &[7; 8]),
        frame(frames::SETTINGS, 0, 0, &[]),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        support::write_until_stopped(&mut client.stream, &frame.repeat(20 * FRAMES)).await;
        serves(server.address, "among answers that nobody reads").await;
    }

    ledger.idle().await;
    #[cfg(target_os = "linux")]
    {
        until_descriptors(&server, before.descriptors, "floods").await;
        let after = Usage::of(&server);
        assert!(
            after.memory < before.memory + MEMORY_LEEWAY,
            "{before:?}, {after:?}"
        );
    }
}

#[tokio::test]
async fn huge_heads_are_refused_without_contacting_a_backend() {
    let ledger = Ledger::start().await;
    let server = ledger.server();
    let head = |target: &str, fields: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n{fields}\r\n"
        )
    };
    let path = "/v1/chat/completions";
    let long = "x".repeat(1 << 20);
    let many = |count| "x: y\r\n".repeat(count);
    for (name, request) in [
        ("a long field", head(path, &format!("x: {long}\r\n"))),
        ("a long name", head(path, &format!("{long}: x\r\n"))),
        ("many fields", head(path, &many(101))),
        ("very many fields", head(path, &many(200_000))),
        ("a long path", head(&format!("{path}/{long}"), "")),
        ("a long query", head(&format!("{path}?{long}"), "")),
        ("a long method", format!("{long} {path} HTTP/1.1\r\n\r\n")),
        ("lines' ends only", "\r\n".repeat(1 << 20)),
        ("one long line", long.repeat(4)),
    ] {
        let mut client = Wire::connect(server.address)
            .await
            .send_aside(request.into());
        let answer = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        let is_refused = ["400", "414", "431"]
            .iter()
            .any(|status| answer.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(is_refused || answer.is_empty(), "{name}: {answer:.100}");
    }
    assert_eq!(ledger.take().await.connections, 0);

    // Over HTTP/2 in one field, in many, and in one that is named again and again.
    let long = "x".repeat(100_000);
    let bomb = {
        let mut block = block(&frames::REQUEST);
        block.extend([
            0x40,
            1,
            b'x',
            127,
            0x80 + (3873 % 128) as u8,
            (3873 / 128) as u8,
        ]);
        block.extend([b'x'; 4000]);
        block.extend([0xbe; 10_000]);
        block
    };
    let mut many = frames::REQUEST.to_vec();
    many.extend([("x", "y"); 3000]);
    let mut one = frames::REQUEST.to_vec();
    one.push(("x", &long));
    for (name, block) in [
        ("one", block(&one)),
        ("many", block(&many)),
        ("a bomb", bomb),
    ] {
        let mut client = Frames::connect(server.address).await;
        let mut chunks = block.chunks(16_000).peekable();
        let mut kind = frames::HEADERS;
        while let Some(chunk) = chunks.next() {
            let mut flags = if kind == frames::HEADERS {
                frames::END_STREAM
            } else {
                0
            };
            flags |= if chunks.peek().is_none() {
                frames::END_HEADERS
            } else {
                0
            };
            if !client.send(&frame(kind, flags, 1, chunk)).await {
                break;
            }
            kind = frames::CONTINUATION;
        }
        client.is_served().await;
        client.close().await;
        assert_eq!(ledger.take().await.connections, 0, "{name}");
    }
    serves(server.address, "after all").await;
}
