//! The clock for a whole exchange, and how a body breaks off. On paused time.

use std::{
    convert::Infallible,
    future::{Future, Ready, pending, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Channel, Full, channel::Sender};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{OpenAiProxyLayer, ResponseBody};
use crate::{
    body::RequestBody,
    error::{Error, Kind},
};

type Pieces = Channel<Bytes, Error>;
type Answer = Result<Response<Pieces>, Error>;

const TOTAL: &str = r#""total_timeout":60,"timeout":1000,"connect_timeout":1000"#;

/// Sends a request with this body to two backends, with a service in place of the network.
async fn ask<S, P>(
    settings: &str,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
    network: S,
) -> Response<Pin<Box<ResponseBody<Full<Bytes>, P>>>>
where
    S: Service<Request<RequestBody>, Response = Response<P>, Error = Error>,
    S: Clone + Send + 'static,
    S::Future: Send,
    P: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    let text = format!(
        r#"{{"primary_backends":[
            {{"name":"a","url":"http://a.test"}},{{"name":"b","url":"http://b.test"}}],
            "settings":{{{settings}}}}}"#
    );
    let layer = OpenAiProxyLayer::builder(text.parse().unwrap())
        .forward(network)
        .build();
    let others = service_fn(|_| ready(Ok::<_, Infallible>(Response::new(Full::default()))));
    let request = Request::post("/v1/chat/completions")
        .header("authorization", "Bearer sk-test")
        .body(body)
        .unwrap();
    let Ok(response) = layer.layer(others).oneshot(request).await;
    response.map(Box::pin)
}

/// A network that answers once, with this body.
fn answering<P: Send + 'static>(
    body: P,
) -> impl Service<
    Request<RequestBody>,
    Response = Response<P>,
    Error = Error,
    Future = Ready<Result<Response<P>, Error>>,
> + Clone {
    let body = Arc::new(Mutex::new(Some(body)));
    service_fn(move |_| {
        let body = body.lock().unwrap().take().expect("asked once");
        ready(Ok(Response::new(body)))
    })
}

fn in_pieces() -> (Sender<Bytes, Error>, Pieces) {
    Channel::new(8)
}

/// Waits for what should happen.
async fn soon<F: Future>(future: F) -> F::Output {
    let waited = tokio::time::timeout(Duration::from_secs(100_000), future).await;
    waited.expect("something happens")
}

async fn is_too_late<P>(exchange: impl Future<Output = Response<P>>)
where
    P: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let start = Instant::now();
    let response = soon(exchange).await;
    assert_eq!(start.elapsed().as_secs(), 60);
    assert_eq!(response.status(), 504);
    let proxy_status = &response.headers()["proxy-status"];
    assert!(
        proxy_status
            .to_str()
            .unwrap()
            .ends_with("error=http_response_timeout")
    );
}

#[tokio::test(start_paused = true)]
async fn total_timeout_ends_an_exchange_without_a_head() {
    let silent = service_fn(|_| pending::<Answer>());
    is_too_late(ask(TOTAL, Full::from("{}"), silent)).await;
}

#[tokio::test(start_paused = true)]
async fn total_timeout_covers_all_attempts_together() {
    let refused = service_fn(|_| async {
        sleep(Duration::from_secs(40)).await;
        Answer::Err(Error::new(Kind::Refused))
    });
    is_too_late(ask(TOTAL, Full::from("{}"), refused)).await;
}

#[tokio::test(start_paused = true)]
async fn total_timeout_covers_the_requests_body() {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        while sender.send_data("piece".into()).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let unasked = service_fn(|_| -> Ready<Answer> { panic!("asked without a whole body") });
    is_too_late(ask(TOTAL, body, unasked)).await;
}

/// Reads a body to its failure. Gives how many pieces came, and the error.
async fn read<B>(mut body: B, pause: Duration) -> (usize, Error)
where
    B: Body<Data = Bytes, Error = crate::error::BoxError> + Unpin,
{
    let mut pieces = 0;
    loop {
        match soon(body.frame()).await.expect("no clean end") {
            Ok(_) => pieces += 1,
            Err(error) => return (pieces, *error.downcast::<Error>().unwrap()),
        }
        assert!(pieces < 1000, "no end");
        sleep(pause).await;
    }
}

#[tokio::test(start_paused = true)]
async fn total_timeout_cuts_a_stream() {
    let (mut sender, body) = in_pieces();
    tokio::spawn(async move {
        while sender.send_data("piece".into()).await.is_ok() {
            sleep(Duration::from_secs(7)).await;
        }
    });
    let start = Instant::now();
    let response = ask(TOTAL, Full::from("{}"), answering(body)).await;
    let (pieces, error) = read(response.into_body(), Duration::ZERO).await;
    assert!(error.is_timeout());
    assert_eq!((pieces, start.elapsed().as_secs()), (9, 60));
}

#[tokio::test(start_paused = true)]
async fn total_timeout_counts_from_the_requests_head_on() {
    let (_sender, body) = in_pieces();
    let body = Arc::new(Mutex::new(Some(body)));
    let late = service_fn(move |_| {
        let body = body.lock().unwrap().take().expect("asked once");
        async move {
            sleep(Duration::from_secs(50)).await;
            Answer::Ok(Response::new(body))
        }
    });
    let start = Instant::now();
    let response = ask(TOTAL, Full::from("{}"), late).await;
    let (pieces, error) = read(response.into_body(), Duration::ZERO).await;
    assert!(error.is_timeout());
    assert_eq!((pieces, start.elapsed().as_secs()), (0, 60));
}

/// A body that has a piece ready whenever it is asked.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(Some(Ok(Frame::data("piece".into()))))
    }
}

#[tokio::test(start_paused = true)]
async fn total_timeout_cuts_a_stream_that_is_always_ahead_of_its_reader() {
    let response = ask(TOTAL, Full::from("{}"), answering(Endless)).await;
    let (pieces, error) = read(response.into_body(), Duration::from_millis(2500)).await;
    assert!(error.is_timeout());
    assert_eq!(pieces, 24);
}

#[tokio::test(start_paused = true)]
async fn total_timeout_lets_the_backend_go_while_nobody_reads() {
    let (mut sender, body) = in_pieces();
    let start = Instant::now();
    let response = ask(TOTAL, Full::from("{}"), answering(body)).await;
    while sender.send_data("piece".into()).await.is_ok() {}
    assert_eq!(start.elapsed().as_secs(), 60);
    let (pieces, error) = read(response.into_body(), Duration::ZERO).await;
    assert!(error.is_timeout());
    assert_eq!(pieces, 0);
}

#[tokio::test(start_paused = true)]
async fn without_total_timeout_a_stream_lasts_for_ever() {
    let (mut sender, body) = in_pieces();
    let response = ask("", Full::from("{}"), answering(body)).await;
    let mut body = response.into_body();
    for _ in 0..1000 {
        let (sent, piece) = tokio::join!(sender.send_data("piece".into()), body.frame());
        assert!(sent.is_ok() && piece.unwrap().is_ok());
        sleep(Duration::from_secs(1000)).await;
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn what_came_before_a_break_can_be_sent_first() {
    let (mut sender, body) = in_pieces();
    sender.send_data("piece".into()).await.unwrap();
    sender.abort(Error::new(Kind::Truncated));
    let response = ask("", Full::from("{}"), answering(body)).await;
    let mut body = response.into_body();
    let mut poll = || {
        body.as_mut()
            .poll_frame(&mut Context::from_waker(Waker::noop()))
    };

    assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
    assert!(poll().is_pending(), "no time to send");
    assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
}

#[tokio::test]
async fn a_body_that_breaks_off_has_not_ended() {
    /// Fails at once, and is at its end then.
    struct Broken(bool);
    impl Body for Broken {
        type Data = Bytes;
        type Error = Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            self.0 = true;
            Poll::Ready(Some(Err(Error::new(Kind::Truncated))))
        }
        fn is_end_stream(&self) -> bool {
            self.0
        }
    }
    let response = ask("", Full::from("{}"), answering(Broken(false))).await;
    let mut body = response.into_body();
    let pending = body
        .as_mut()
        .poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(pending.is_pending() && !body.is_end_stream());
    // The task is woken by itself.
    assert!(body.frame().await.unwrap().is_err());
}

#[test]
fn a_reload_makes_the_client_ready_before_requests_see_it() {
    use std::sync::Arc;

    use crate::Config;

    let config = |name: &str| {
        let backend = crate::BackendConfig::new(name, "http://127.0.0.1:1");
        Config::builder().backend(backend).build().unwrap()
    };
    let prepared = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut builder = OpenAiProxyLayer::builder(config("old"));
    builder.prepare = Some(Arc::new({
        let prepared = prepared.clone();
        move |config: &Config| {
            prepared
                .lock()
                .unwrap()
                .push(config.backends[0].name.clone())
        }
    }));
    let handle = builder.build().handle();
    assert!(prepared.lock().unwrap().is_empty());
    handle.reload(config("new"));
    assert_eq!(*prepared.lock().unwrap(), ["new".into()]);
}
