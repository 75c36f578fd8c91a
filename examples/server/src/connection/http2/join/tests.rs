use std::{convert::Infallible, task::Waker};

use http::HeaderMap;
use http_body_util::channel::{Channel, Sender};

use super::*;

struct Stream {
    backend: Option<Sender<Bytes>>,
    body: Pin<Box<Joined<Channel<Bytes, Infallible>>>>,
    client: Activity,
}

impl Stream {
    fn new() -> Self {
        let (backend, body) = Channel::new(100_000);
        let client = Activity::default();
        Self {
            backend: Some(backend),
            body: Box::pin(Joined::new(body, client.clone())),
            client,
        }
    }

    fn send(&mut self, frame: Frame<Bytes>) {
        let backend = self.backend.as_mut().expect("not at its end");
        assert!(backend.try_send(frame).is_ok(), "no room");
    }

    fn chunk(&mut self, chunk: &'static str) {
        self.send(Frame::data(chunk.into()));
    }

    fn poll(&mut self) -> Poll<Option<Frame<Bytes>>> {
        let mut cx = Context::from_waker(Waker::noop());
        let frame = self.body.as_mut().poll_frame(&mut cx);
        frame.map(|frame| frame.map(Result::unwrap))
    }

    /// The next chunk, where there is one.
    fn next(&mut self) -> Option<String> {
        let Poll::Ready(Some(frame)) = self.poll() else {
            return None;
        };
        let data = frame.into_data().expect("a chunk");
        Some(String::from_utf8(data.into()).expect("text"))
    }

    fn client_takes(&self) {
        self.client.write(&Poll::Ready(()));
    }

    fn client_blocks(&self) {
        self.client.write(&Poll::<()>::Pending);
    }
}

#[test]
fn a_client_that_keeps_up_gets_each_chunk_as_it_is() {
    let mut stream = Stream::new();
    for _ in 0..1000 {
        stream.chunk("a");
        stream.chunk("b");
        assert_eq!(stream.next().as_deref(), Some("a"));
        assert_eq!(stream.next().as_deref(), Some("b"));
        assert_eq!(stream.next(), None);
        stream.client_takes();
    }
}

#[test]
fn chunks_are_joined_while_the_client_blocks() {
    let mut stream = Stream::new();
    stream.client_blocks();
    for _ in 0..3 * JOINED_SIZE {
        stream.chunk("x");
    }
    for _ in 0..3 {
        assert_eq!(stream.next().map(|chunk| chunk.len()), Some(JOINED_SIZE));
    }
    assert_eq!(stream.next(), None);

    // What is less waits until the client goes on.
    stream.chunk("y");
    stream.chunk("z");
    assert_eq!(stream.next(), None);
    stream.client_takes();
    assert_eq!(stream.next().as_deref(), Some("yz"));
    stream.chunk("a");
    assert_eq!(stream.next().as_deref(), Some("a"));
}

#[test]
fn chunks_are_joined_where_many_come_between_two_writes() {
    let mut stream = Stream::new();
    for _ in 0..5 * JOINED_SIZE {
        stream.chunk("x");
    }
    let chunks: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
    let (alone, joined) = chunks.split_at(MAX_WAITING);
    assert!(alone.iter().all(|chunk| chunk == "x"));
    assert!(joined.len() <= 5, "{}", joined.len());
    stream.client_takes();
    let rest = stream.next().map_or(0, |chunk| chunk.len());
    let length: usize = chunks.iter().map(String::len).sum();
    assert_eq!(length + rest, 5 * JOINED_SIZE);
}

#[test]
fn what_ends_a_body_comes_behind_the_joined_chunks() {
    let mut stream = Stream::new();
    stream.client_blocks();
    stream.chunk("x");
    stream.chunk("y");
    let trailers = HeaderMap::from_iter([(http::header::ETAG, "e".parse().expect("a value"))]);
    stream.send(Frame::trailers(trailers.clone()));
    stream.backend = None;
    assert_eq!(stream.next().as_deref(), Some("xy"));
    let Poll::Ready(Some(frame)) = stream.poll() else {
        panic!("no trailers");
    };
    assert_eq!(frame.into_trailers().ok(), Some(trailers));
    assert!(matches!(stream.poll(), Poll::Ready(None)));
}

#[test]
fn large_chunks_are_not_copied() {
    let mut stream = Stream::new();
    stream.client_blocks();
    let large = Bytes::from(vec![b'x'; JOINED_SIZE]);
    stream.chunk("a");
    stream.send(Frame::data(large.clone()));
    assert_eq!(stream.next().as_deref(), Some("a"));
    let Poll::Ready(Some(frame)) = stream.poll() else {
        panic!("no chunk");
    };
    assert_eq!(frame.into_data().expect("a chunk").as_ptr(), large.as_ptr());
}
