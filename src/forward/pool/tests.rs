//! On paused time, with real connections.

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::*;
use crate::{Backend, BackendConfig, Config};

struct Fixture {
    pool: Arc<Pool>,
    origin: Origin,
    listener: TcpListener,
    accepted: Vec<TcpStream>,
}

impl Fixture {
    async fn new(limits: Limits) -> Self {
        let config = Config::builder().backend(BackendConfig::new("a", "http://a.test"));
        let backend = &Backend::all(&config.build().unwrap(), &[])[0];
        Self {
            pool: Arc::new(Pool::new(Arc::new(Connector::new()), limits)),
            origin: backend.origin().clone(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            accepted: Vec::new(),
        }
    }

    /// Puts a new connection into the pool.
    async fn put_new(&mut self) {
        let address = self.listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), self.listener.accept());
        self.accepted.push(accepted.unwrap().0);
        self.pool.put(&self.origin, Stream::tcp(stream.unwrap()));
    }

    fn take(&self) -> Option<Stream> {
        match self.pool.take(&self.origin, Versions::Any)? {
            Open::Http1(stream) => Some(stream),
            Open::Http2(_) => panic!("HTTP/2"),
        }
    }

    fn idle(&self) -> usize {
        let mut state = self.pool.lock();
        state.origin(&self.origin).map_or(0, |pool| pool.idle.len())
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_is_replaced_after_ten_minutes() {
    let mut fixture = Fixture::new(Limits::default()).await;
    fixture.put_new().await;
    for _ in 0..10 {
        let stream = fixture.take().expect("not too old");
        sleep(Duration::from_millis(59_900)).await;
        fixture.pool.put(&fixture.origin, stream);
    }
    assert_eq!(fixture.idle(), 1);
    sleep(Duration::from_secs(1)).await;
    assert!(fixture.take().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_dropped_after_the_idle_timeout() {
    for (seconds, kept) in [(89, 1), (120, 0)] {
        let mut fixture = Fixture::new(Limits::default()).await;
        fixture.put_new().await;
        sleep(Duration::from_secs(seconds)).await;
        assert_eq!(fixture.idle(), kept, "after {seconds} s");
    }
    let limits = Limits {
        idle_timeout: Duration::MAX,
        ..Limits::default()
    };
    let mut fixture = Fixture::new(limits).await;
    fixture.put_new().await;
    sleep(Duration::from_secs(500)).await;
    assert!(fixture.take().is_some());
}

#[tokio::test(start_paused = true)]
async fn no_more_idle_connections_are_kept_than_allowed() {
    for max_idle_per_origin in [0, 2] {
        let limits = Limits {
            max_idle_per_origin,
            ..Limits::default()
        };
        let mut fixture = Fixture::new(limits).await;
        for _ in 0..3 {
            fixture.put_new().await;
        }
        assert_eq!(fixture.idle(), max_idle_per_origin);
    }
}
