use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroUsize,
    sync::Barrier,
    thread,
};

use super::tcp::bind;

fn workers(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not zero")
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

#[test]
fn of_servers_that_start_at_the_same_moment_one_at_most_listens() {
    const SERVERS: usize = 4;
    for _ in 0..200 {
        let address = free();
        let barrier = Barrier::new(SERVERS);
        let start = |_| {
            barrier.wait();
            bind(address, workers(2))
        };
        let results: Vec<_> = thread::scope(|scope| {
            let start = &start;
            let threads: Vec<_> = (0..SERVERS)
                .map(|number| scope.spawn(move || start(number)))
                .collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results.map(|result| result.expect("no panic")).collect()
        });
        let listening = results.iter().filter(|result| result.is_ok()).count();
        assert!(listening <= 1, "{listening} servers listen");
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
    }
}

#[test]
fn a_taken_address_stays_taken() {
    for (first, second) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let listeners = bind(free(), workers(first)).expect("a free port");
        let address = listeners[0].local_addr().expect("bound");
        let error = bind(address, workers(second)).expect_err("taken");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn each_listener_gets_its_share_of_connections() {
    let listeners = bind(free(), workers(3)).expect("a free port");
    let address = listeners[0].local_addr().expect("bound");
    let _clients: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(address).expect("someone listens"))
        .collect();
    for listener in &listeners {
        let share = std::iter::from_fn(|| listener.accept().ok()).count();
        assert!(share > 30, "{share} of 300");
    }
}

#[cfg(unix)]
#[test]
fn of_servers_that_start_at_the_same_moment_one_listens_at_a_path() {
    use super::unix::bind;
    const SERVERS: usize = 4;
    let name = format!("tower-openai-proxy-{}-race.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    for _ in 0..100 {
        // Left behind by a server that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let barrier = Barrier::new(SERVERS);
        let start = || {
            barrier.wait();
            bind(&path)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..SERVERS).map(|_| scope.spawn(start)).collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results.map(|result| result.expect("no panic")).collect()
        });
        let (listening, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(listening.len(), 1);
        for error in refused.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
        drop(listening);
        assert!(!path.exists());
    }
}
