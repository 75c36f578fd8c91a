//! Backends that close idle connections when they like: a request that may have reached one is never
//! sent again, and a close that came before the next request is nobody's error. One that crosses a
//! request on its way is an error which no client of HTTP/1.1 can avoid (RFC 9112, section 9.3.1).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{self, Backend, Server, Wire, config_of, entry, post, response, soon};

const REQUESTS: usize = 10_000;

/// How many clients ask at a time, each on a separate connection.
const CLIENTS: usize = 32;

/// When a backend closes a connection.
#[derive(Clone, Copy, Debug)]
enum Churn {
    /// When it is told to, while no request is under way: some of them.
    Between,
    /// Some after an answer, at once or a moment later.
    Whenever,
}

/// A backend that counts what reaches it, and closes connections.
#[derive(Clone)]
struct Churning {
    address: SocketAddr,
    /// How often each request has come, answered or not.
    seen: Arc<Mutex<HashMap<String, usize>>>,
    connections: Arc<AtomicU64>,
    closed: Arc<AtomicUsize>,
    /// Connections that have still to hear that it is time to close some.
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    round: watch::Sender<usize>,
}

impl Churning {
    async fn start(churn: Churn) -> Self {
        let backend = Backend::start().await;
        let churning = Self {
            address: backend.address,
            seen: Arc::default(),
            connections: Arc::default(),
            closed: Arc::default(),
            waiting: Arc::default(),
            open: Arc::default(),
            round: watch::channel(0).0,
        };
        let serving = churning.clone();
        backend.serve_all(move |wire| {
            let serving = serving.clone();
            serving.open.fetch_add(1, Ordering::SeqCst);
            let round = serving.round.subscribe();
            async move {
                serving.serve(wire, round, churn).await;
                serving.open.fetch_sub(1, Ordering::SeqCst);
            }
        });
        churning
    }

    async fn serve(&self, mut wire: Wire, mut round: watch::Receiver<usize>, churn: Churn) {
        let mut random = Random(self.connections.fetch_add(1, Ordering::Relaxed));
        let mut until_close = None;
        loop {
            let mut byte = [0];
            let idle = async {
                match until_close {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = round.changed() => {
                    if random.below(3) > 0 {
                        self.waiting.fetch_sub(1, Ordering::SeqCst);
                        continue;
                    }
                    self.close(wire, &mut random).await;
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
                length = wire.stream.peek(&mut byte) => if !matches!(length, Ok(1..)) {
                    return;
                },
                () = idle => return self.close(wire, &mut random).await,
            }
            let Some(request) = wire.try_request().await else {
                return;
            };
            let id = String::from_utf8(request.body).expect("UTF-8");
            let answer = response("200 OK", &id);
            *self.seen.lock().unwrap().entry(id).or_default() += 1;
            let at_once = matches!(churn, Churn::Whenever) && random.below(10) == 0;
            until_close = match churn {
                Churn::Whenever => Some(Duration::from_micros(random.below(20_000))),
                Churn::Between => None,
            };
            if wire.stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            if at_once {
                return self.close(wire, &mut random).await;
            }
        }
    }

    /// Closes properly or by a reset.
    async fn close(&self, mut wire: Wire, random: &mut Random) {
        self.closed.fetch_add(1, Ordering::Relaxed);
        if random.below(2) == 0 {
            return wire.reset();
        }
        let _ = wire.stream.shutdown().await;
        let seen = self.seen.clone();
        tokio::spawn(async move {
            // What has reached it all the same counts.
            let rest = timeout(support::PATIENCE, wire.rest()).await;
            let rest = String::from_utf8(rest.unwrap_or_default()).expect("UTF-8");
            if let Some((_, id)) = rest.split_once("\r\n\r\n") {
                *seen.lock().unwrap().entry(id.to_owned()).or_default() += 1;
            }
        });
    }

    /// Lets a third of the idle connections be closed, and waits until they are.
    async fn close_some(&self) {
        let open = self.open.load(Ordering::SeqCst);
        self.waiting.fetch_add(open, Ordering::SeqCst);
        self.round.send_modify(|round| *round += 1);
        let closed = async {
            while self.waiting.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        soon("some connections are closed", closed).await;
    }

    fn count(&self, id: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.get(id).copied().unwrap_or_default()
    }
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Sends a request and gives the status of its answer, which is checked.
async fn ask(client: &mut Wire, id: &str) -> u16 {
    client.send(post(id)).await;
    let answer = client.response().await;
    match answer.status() {
        200 => assert_eq!(answer.body, id.as_bytes()),
        502 => assert_eq!(answer.error_code(), "connection_terminated"),
        other => panic!("{id}: {other}"),
    }
    answer.status()
}

/// Sends requests, some at a time; gives the ids of those that were answered and that failed.
async fn ask_all(server: SocketAddr, requests: usize) -> (Vec<String>, Vec<String>) {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(async move {
            let mut client = Wire::connect(server).await;
            let (mut answered, mut failed) = (Vec::new(), Vec::new());
            for request in 0..requests / CLIENTS {
                let id = format!("request {number}/{request}.");
                match ask(&mut client, &id).await {
                    200 => answered.push(id),
                    _ => failed.push(id),
                }
            }
            (answered, failed)
        });
    }
    let (answered, failed): (Vec<_>, Vec<_>) = clients.join_all().await.into_iter().unzip();
    (answered.concat(), failed.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_before_the_next_request_is_nobodys_error_in_10_000_requests() {
    let backend = Churning::start(Churn::Between).await;
    let config = config_of(&[entry("LLM1", backend.address, "")], r#""cooldown":0"#);
    let server = Server::start(&config);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Wire::connect(server.address).await);
    }
    for round in 0..REQUESTS / CLIENTS {
        let mut asking = JoinSet::new();
        for (number, mut client) in clients.drain(..).enumerate() {
            asking.spawn(async move {
                let id = format!("request {round}/{number}.");
                assert_eq!(ask(&mut client, &id).await, 200, "{id}");
                client
            });
        }
        clients = asking.join_all().await;
        backend.close_some().await;
    }
    let seen = backend.seen.lock().unwrap();
    assert_eq!(seen.len(), REQUESTS / CLIENTS * CLIENTS);
    assert!(seen.values().all(|&times| times == 1));
    let closed = backend.closed.load(Ordering::Relaxed);
    assert!(closed > REQUESTS / 10, "only {closed} were closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_sent_twice_whenever_connections_are_closed() {
    let backend = Churning::start(Churn::Whenever).await;
    let config = config_of(&[entry("LLM1", backend.address, "")], r#""cooldown":0"#);
    let server = Server::start(&config);
    let (answered, failed) = ask_all(server.address, REQUESTS).await;
    for id in &answered {
        assert_eq!(backend.count(id), 1, "{id}");
    }
    for id in &failed {
        assert!(backend.count(id) <= 1, "{id}");
    }
    let closed = backend.closed.load(Ordering::Relaxed);
    println!(
        "{} answered, {} failed, {closed} closed",
        answered.len(),
        failed.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_that_may_have_reached_one_backend_reaches_another() {
    let first = Churning::start(Churn::Whenever).await;
    let second = Churning::start(Churn::Between).await;
    let backends = [
        entry("first", first.address, ""),
        entry("second", second.address, ""),
    ];
    let server = Server::start(&config_of(&backends, r#""cooldown":0.01"#));
    let (answered, failed) = ask_all(server.address, REQUESTS / 4).await;
    for id in &answered {
        assert_eq!(first.count(id) + second.count(id), 1, "{id}");
    }
    for id in &failed {
        assert!(first.count(id) <= 1 && second.count(id) == 0, "{id}");
    }
    let [one, other] = [&first, &second].map(|backend| backend.seen.lock().unwrap().len());
    assert!(one > 0 && other > 0, "both were asked");
    println!(
        "{} answered, {} failed; {one} at the first, {other} at the second",
        answered.len(),
        failed.len()
    );
}
